//! Stories over real processes, and vectors any language can run. One binary: it links once.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod parsers;
mod pinned;
mod policy;
mod snapshots;
mod vectors;

mod first_command;
mod grpcurl;

mod channel;
mod enrolment;

mod doctors;
mod keys;
mod keys_gone;
mod keys_killed;
mod keys_lost;
mod keys_moved;
mod keys_two_servers;

mod mail;
mod manager;
mod manager_calls;
mod manager_custom;
mod manager_legs;
mod manager_life;
mod manager_network;
mod manager_orders;
mod manager_upkeep;

mod lists;
mod lists_deltas;
mod objects;
mod objects_from_manager;
mod objects_met;
mod repositories;
mod scans;
mod updates;
mod updates_attacked;
mod updates_by_manager;
mod updates_killed;
mod updates_on_agents;

mod governor;
mod rollouts;
mod scopes;
mod stops;

mod refused;
mod refused_sessions;
mod strangers;

mod actions;
mod completion;
mod operations;
mod own_actions;
mod pages;
mod targets;
mod telemetry;
mod traces;
mod webhook;

mod away;
mod clocks_and_disks;
mod crash;
mod elsewhere;
mod lost;

mod evidence;

mod bad_input;
mod conformance;
mod documents;
mod first_hour;
mod flushes;
mod shipped;
