//! What both ends of Writ must agree on.
//!
//! Read in the order of a command's journey: a [`command`] is addressed to an [`audience`], sealed in an
//! [`envelope`] by one of the [`keys`] a [`trust`] bundle lists, judged by [`verify`] and [`admission`], and
//! answered by a [`receipt`] or counted as a [`refusal`]. Everything below `wire` is plumbing of the daemons.
//!
//! Words: a *fleet* is all agents under one chain of bundles; a *realm* is the part of a fleet a signing
//! certificate may command; a *digest* is SHA-256 over a DSSE pre-authentication encoding; *session time* is
//! the server's signed time carried on by the monotonic clock; the *floor* is the time below which session
//! time never falls.

pub mod admission;
pub mod audience;
pub mod command;
pub mod envelope;
pub mod health;
pub mod hello;
pub mod id;
pub mod identity;
pub mod keys;
pub mod limits;
pub mod manager;
pub mod receipt;
pub mod refusal;
pub mod report;
pub mod say;
pub mod time;
pub mod trust;
pub mod users;
pub mod verify;
pub mod wire;

pub mod admin;
pub mod backoff;
pub mod config;
pub mod csv;
pub mod daemon;
pub mod doctor;
pub mod evidence;
pub mod facts;
pub mod files;
pub mod hush;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod net;
pub mod port;
pub mod service;
pub mod shutdown;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod text;
pub mod tls;

/// Marks a state in which a story may kill this process. Expands to nothing in shipped binaries.
#[macro_export]
macro_rules! checkpoint {
    ($name:literal) => {
        #[cfg(feature = "testing")]
        $crate::testing::checkpoint($name);
    };
}
