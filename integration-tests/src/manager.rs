//! A Control Manager beside a fleet's server, and what operators do with both.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use writ_common::keys::pem;
use writ_common::time::{Clock as _, SystemClock};
use writ_common::tls::TlsAuthority;
use writ_protocol::keys::{Algorithm, Manager as Holder, PrivateKey};

use crate::daemon::{Checkpoint, Daemon, Said, binary, command};
use crate::fleet::Fleet;
use crate::ports::free_port;

/// A manager in the fleet's folder.
#[derive(Debug)]
pub struct Manager {
    folder: PathBuf,
    suffix: &'static str,
    /// The manager, while it runs.
    pub daemon: Option<Daemon>,
    /// Where entities come in.
    pub link_port: u16,
    /// Where they come in without TLS.
    pub clear_port: u16,
    /// Where operators come in.
    pub admin_port: u16,
    /// Lines added to its configuration.
    pub config: String,
}

impl Manager {
    /// A new manager, and the operator's context `cm` for it; the current context stays the fleet's.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(fleet: &Fleet) -> Self {
        Self::with(fleet, "manager", "")
    }

    /// The same with a folder of its own and lines added to its configuration.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn with(fleet: &Fleet, name: &str, config: &str) -> Self {
        let mut manager = Self::unmade(fleet, name, config);
        let _made = manager.init(fleet, &[]).ok();
        manager.start(None);
        manager.add_context(fleet);
        manager
    }

    /// A folder, and nothing in it yet.
    #[must_use]
    pub fn unmade(fleet: &Fleet, name: &str, config: &str) -> Self {
        Self {
            folder: fleet.path(name),
            suffix: fleet.suffix(),
            daemon: None,
            link_port: free_port(),
            clear_port: free_port(),
            admin_port: free_port(),
            config: config.to_owned(),
        }
    }

    /// Runs `writ-control-manager init`.
    #[must_use]
    pub fn init(&self, fleet: &Fleet, more: &[&str]) -> Said {
        let places = ["init", "--output", "json", "--name", "head-office", "--data-dir"];
        fleet.run(
            &format!("writ-control-manager{}", self.suffix),
            &[places.as_slice(), &[self.folder.to_str().unwrap()], more].concat(),
        )
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&mut self, checkpoint: Option<&Checkpoint>) {
        let path = self.write_config();
        let mut command = command(&binary(&format!("writ-control-manager{}", self.suffix)));
        command
            .arg("run")
            .arg("--config")
            .arg(path)
            .env("WRITTEST_CLOCK", self.folder.with_extension("clock"));
        if let Some(checkpoint) = checkpoint {
            command.env("WRITTEST_CHECKPOINT", &checkpoint.variable);
        }
        let daemon = Daemon::spawn("manager", command);
        daemon.wait_for("serving", |_| true);
        self.daemon = Some(daemon);
    }

    /// Writes its configuration.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_config(&self) -> PathBuf {
        let listen = |port| format!("\"0.0.0.0:{port}\"");
        let config = format!(
            "data_dir = \"{}\"\n[listen]\nlink = {}\nlink_in_clear = {}\nadmin = {}\nmetrics = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\nfilter = \"info\"\n{}",
            self.folder.display(),
            listen(self.link_port),
            listen(self.clear_port),
            listen(self.admin_port),
            self.config
        );
        let path = self.folder.with_extension("toml");
        fs::write(&path, config).unwrap();
        path
    }

    /// kill -9.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.daemon.take().unwrap().kill();
    }

    /// SIGTERM.
    ///
    /// # Panics
    /// When it does not run, or ends badly.
    pub fn stop(&mut self) {
        assert!(self.daemon.take().unwrap().stop().success());
    }

    /// What it says when it is started and cannot serve.
    #[must_use]
    pub fn try_run(&self, fleet: &Fleet) -> Said {
        fleet.run(
            &format!("writ-control-manager{}", self.suffix),
            &["run", "--config", self.folder.with_extension("toml").to_str().unwrap()],
        )
    }

    /// kill -9, and a new one whose wall clock is so many seconds off.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart_at(&mut self, seconds_off: i64) {
        self.kill();
        fs::write(self.folder.with_extension("clock"), seconds_off.to_string()).unwrap();
        self.start(None);
    }

    /// The running manager.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    /// A path in its folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What is copied to servers.
    #[must_use]
    pub fn ca(&self) -> String {
        self.path("control-manager-ca.pem").to_str().unwrap().to_owned()
    }

    /// Gives it keys of another authority; the ones of before are kept beside.
    ///
    /// # Panics
    /// When they cannot be made.
    pub fn take_authority(&self, authority: &TlsAuthority) {
        let now = SystemClock::new().wall();
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let leaf = authority.issue(&names, now).unwrap();
        let key = PrivateKey::<Holder>::generate(Algorithm::Ed25519);
        let certificate = authority.certify(&key, "instructions", now).unwrap();
        let text = |label: &str, der: &[u8]| pem::encode(label, der).to_string();
        let chain: String = leaf.chain.iter().map(|der| text("CERTIFICATE", der)).collect();
        for (name, content) in [
            ("control-manager-ca.pem", text("CERTIFICATE", &authority.certificate)),
            ("control-manager-ca.key", text("PRIVATE KEY", &authority.key)),
            ("tls.pem", chain),
            ("tls.key", text("PRIVATE KEY", &leaf.key)),
            ("signing.pem", text("CERTIFICATE", &certificate)),
            ("signing.key", text("PRIVATE KEY", &key.to_pkcs8())),
        ] {
            let (path, kept) = (self.path(name), self.path(&format!("{name}.before")));
            fs::copy(&path, kept).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    /// Undoes that.
    ///
    /// # Panics
    /// When it was not done.
    pub fn give_back_authority(&self) {
        for entry in fs::read_dir(&self.folder).unwrap().map_while(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(name) = name.strip_suffix(".before") {
                fs::rename(entry.path(), self.path(name)).unwrap();
            }
        }
    }

    /// Makes the operator know it as `cm`.
    pub fn add_context(&self, fleet: &Fleet) {
        let (server, ca) = (format!("localhost:{}", self.admin_port), self.ca());
        let token = self.path("admin-token");
        let places = ["--server", &server, "--ca", &ca, "--token-file", token.to_str().unwrap()];
        let _added = fleet.writ(&[["context", "add", "cm"].as_slice(), &places].concat()).ok();
        let _back = fleet.writ(&["context", "use", "acme"]).ok();
    }

    /// The settings of a server that meets this manager without anything in between.
    ///
    /// # Panics
    /// When they are not taken.
    pub fn introduce(&self, fleet: &Fleet) {
        let port = self.link_port.to_string();
        let _set = fleet.settings(&["--address", "localhost", "--port", &port, "--ca", &self.ca()]).ok();
    }

    /// A registration token in a file.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn token(&self, fleet: &Fleet) -> String {
        let path = fleet.path("registration-token");
        let _ = fs::remove_file(&path);
        let _made = fleet.cm(&["entities", "token", "--token-file", path.to_str().unwrap()]);
        path.to_str().unwrap().to_owned()
    }
}

impl Fleet {
    /// What an operator of the manager sees.
    #[must_use]
    pub fn cm(&self, arguments: &[&str]) -> Value {
        self.json(&[["--context", "cm"].as_slice(), arguments].concat())
    }

    /// Changes the server's settings of its line to the manager.
    #[must_use]
    pub fn settings(&self, changes: &[&str]) -> Said {
        // A program says that the authority was compared.
        let yes: &[&str] = if changes.contains(&"--ca") { &["--yes"] } else { &[] };
        self.writ(&[["--output", "json", "manager", "settings", "set"].as_slice(), changes, yes].concat())
    }

    /// How the server stands with its manager.
    #[must_use]
    pub fn line(&self) -> Value {
        self.json(&["manager", "status"])
    }

    /// The legs of a test, and whether it went well.
    ///
    /// # Panics
    /// When there was no test.
    #[must_use]
    pub fn legs(&self, changes: &[&str]) -> (Vec<Value>, bool) {
        let said = self.writ(&[["--output", "json", "manager", "test"].as_slice(), changes].concat());
        (said.json().as_array().unwrap().clone(), said.code == 0)
    }

    /// Registers with a token, without an update source of the manager.
    ///
    /// # Panics
    /// When it is not let in.
    #[must_use]
    pub fn registered(&self, manager: &Manager) -> Value {
        manager.introduce(self);
        let token = manager.token(self);
        let _set = self.settings(&["--registration-token-file", &token]).ok();
        let status = self.json(&["manager", "register", "--update-source", "default"]);
        assert_eq!(status["state"], "registered", "{status}");
        status
    }
}

/// The leg that failed, and its row.
///
/// # Panics
/// When none did, or one after it was gone.
#[must_use]
pub fn failed(legs: &[Value]) -> &Value {
    let place = legs.iter().position(|leg| leg["outcome"] == "failed");
    let place = place.unwrap_or_else(|| panic!("no leg failed: {legs:#?}"));
    let later = &legs[place + 1..];
    assert!(later.iter().all(|leg| leg["outcome"] == "skipped"), "{legs:#?}");
    assert_eq!(legs.len(), 13, "{legs:#?}");
    assert!(legs[place]["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{legs:#?}");
    &legs[place]
}
