//! A program that speaks no TLS later than 1.2: OpenSSL's own server.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use crate::daemon::command;

/// It runs until it is dropped.
#[derive(Debug)]
pub struct OldTls {
    child: Child,
    /// Where it listens, on the loopback.
    pub port: u16,
}

impl OldTls {
    /// Starts it with a certificate and its key.
    ///
    /// # Panics
    /// When OpenSSL does not start.
    #[must_use]
    pub fn serve(certificate: &Path, key: &Path) -> Self {
        let mut openssl = command(Path::new("openssl"));
        openssl.args(["s_server", "-tls1_2", "-accept", "127.0.0.1:0", "-cert"]).arg(certificate);
        openssl.arg("-key").arg(key);
        let spawned = openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = spawned.unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port =
            lines.find_map(|line| line.strip_prefix("ACCEPT 127.0.0.1:")?.trim().parse().ok()).unwrap();
        Self { child, port }
    }
}

impl Drop for OldTls {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
