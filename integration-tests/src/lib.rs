//! What stories, vectors and the demo share: a fleet of real processes, and the villain between them.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "in a test a panic is the report")]

pub mod collector;
pub mod conformance;
pub mod containers;
pub mod daemon;
pub mod fleet;
pub mod forge;
pub mod forged_manager;
pub mod hostile_agent;
pub mod intruder;
pub mod listed;
pub mod machine;
pub mod mailbox;
pub mod manager;
pub mod manual;
pub mod network;
pub mod old_tls;
pub mod parsers;
pub mod ports;
pub mod proxies;
pub mod python;
pub mod repository;
pub mod road;
pub mod sandbox;
pub mod stolen;
pub mod webhook;
