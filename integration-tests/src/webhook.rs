//! A web server of the organisation's that is told of alerts.

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::daemon::until;
use crate::fleet::{Fleet, lines};
use crate::ports::free_port;
use crate::proxies::Proxy;
use crate::{python, sandbox};

/// The token it asks for.
pub const TOKEN: &str = "t0ken-of-the-page";

/// It runs until it is dropped.
#[derive(Debug)]
pub struct Receiver {
    folder: PathBuf,
    port: u16,
    _server: Proxy,
}

impl Receiver {
    /// Starts one, in a folder of the fleet's.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(fleet: &Fleet) -> Self {
        let (folder, port) = (fleet.path("web"), free_port());
        fs::create_dir(&folder).unwrap();
        let [certificate, key] = sandbox::leaf(&folder).map(|path| path.display().to_string());
        let script = python::root().join("integration-tests/webhook.py").display().to_string();
        let place = folder.display().to_string();
        let serve = [script, "serve".to_owned(), port.to_string(), certificate, key, TOKEN.to_owned(), place];
        Self { _server: Proxy::of_python(port, &serve), folder, port }
    }

    /// What a server's configuration says so that it is told.
    #[must_use]
    pub fn config(&self, fleet: &Fleet) -> String {
        let token = fleet.write_secret("hook-token", &format!("{TOKEN}\n"));
        format!(
            "[alerts.webhook]\nurl = \"https://localhost:{}/hook?team=a\"\nca = \"{}\"\ntoken_file = \"{}\"\n",
            self.port,
            self.folder.join("ca.pem").display(),
            token.display()
        )
    }

    /// From now on it answers so; `None`: it takes what it is told.
    ///
    /// # Panics
    /// When its folder cannot be written.
    pub fn answer(&self, status: Option<u16>) {
        let path = self.folder.join("status");
        match status {
            Some(status) => fs::write(path, status.to_string()).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    }

    /// The file with the words it took, each a line.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.join("told")
    }

    /// What it was told, in order.
    ///
    /// # Panics
    /// When a word is no envelope.
    #[must_use]
    pub fn told(&self) -> Vec<Value> {
        let payload = |line: &String| {
            let envelope: Value = serde_json::from_str(line).unwrap();
            let payload = STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
            serde_json::from_slice(&payload).unwrap()
        };
        lines(&self.file()).iter().map(payload).collect()
    }

    /// Waits for a word; all words until then.
    pub fn wait_for(&self, kind: &str, state: &str) -> Vec<Value> {
        let is_it = |told: &Value| told["kind"] == kind && told["state"] == state;
        until(&format!("{kind} {state} is told"), || self.told().iter().any(is_it));
        self.told()
    }
}
