//! Ports of this host that a story may keep.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports no outgoing connection takes: they lie below the kernel's own choice (`ip_local_port_range`, ip(7)),
/// so that one stays free between two starts of a program.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;

/// A port nobody listens on now.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Stories that run beside this one in another process begin elsewhere.
    let begin = std::process::id().wrapping_mul(97);
    let next = || {
        let place = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % u32::from(PORTS);
        FIRST_PORT + u16::try_from(place).unwrap()
    };
    let is_free = |port: &u16| TcpListener::bind(("0.0.0.0", *port)).is_ok();
    (0..PORTS).map(|_| next()).find(is_free).unwrap()
}
