//! Stories of installation, as users do it: packages on machines with systemd as PID 1, images in containers.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod document;
mod images;
mod manifests;
mod package;
mod scans;
mod upgrade;
