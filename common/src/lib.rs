//! What our daemons share, beside the protocol itself, which is the crate `writ_protocol`: how they are
//! configured, started and stopped, how they listen and connect, how operators come in, how a host is
//! examined.

pub mod backoff;
pub mod hush;
pub mod shutdown;
pub mod time;

pub mod files;
pub mod keys;
pub mod text;
pub mod users;

pub mod listener;
pub mod net;
#[cfg(feature = "passphrase")]
pub mod passphrase;
pub mod status;
pub mod tls;
#[cfg(feature = "web")]
pub mod web;

pub mod admin;
pub mod health;
#[cfg(feature = "metrics")]
pub mod metrics;

pub mod config;
pub mod csv;
pub mod daemon;
pub mod doctor;
pub mod say;
pub mod systemd;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

/// Marks a state in which a story may kill this process. Expands to nothing in shipped binaries.
#[macro_export]
macro_rules! checkpoint {
    ($name:literal) => {
        #[cfg(feature = "testing")]
        $crate::testing::checkpoint($name);
    };
}
