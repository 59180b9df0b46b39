//! What operators of keys do on the server's host, and what happens to that host.

use std::fs;
use std::path::PathBuf;

use super::{Fleet, Said, binary, command, said};

impl Fleet {
    /// Runs `writ-server cert …`, `authority …` or `updates …` on the server's folder, with the fleet's
    /// passphrase where it takes one.
    #[must_use]
    pub fn keys(&self, arguments: &[&str]) -> Said {
        let (folder, passphrase) = (self.path("server"), self.path("passphrase"));
        let places = ["--data-dir", folder.to_str().unwrap(), "--output", "json"];
        let takes_passphrase = !matches!(
            arguments,
            ["doctor"]
                | ["cert", "list" | "show" | "export", ..]
                | ["authority", "confirm" | "rebuild", ..]
                | ["updates", ..]
        );
        let secret = ["--passphrase-file", passphrase.to_str().unwrap()];
        let secret = if takes_passphrase { secret.as_slice() } else { &[] };
        let program = binary(&format!("writ-server{}", self.build.suffix()));
        let mut command = command(&program);
        command.args([arguments, &places, secret].concat()).env("WRITTEST_CLOCK", self.path("server-clock"));
        said(&mut command)
    }

    /// A further server of the same fleet, made from a sealed file; its own road, its own folder, its own
    /// operator.
    #[must_use]
    pub fn further_server(&self, sealed: &str) -> Self {
        let mut further = Self::unmade(self.build);
        let _made = further.keys(&["cert", "restore", sealed]).ok();
        further.start_server(None);
        further.add_context();
        further
    }

    /// A sealed backup, as an operator makes one.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn backup(&self) -> String {
        let file = self.path("backup.age").to_str().unwrap().to_owned();
        let _made = self.keys(&["cert", "backup", &file]).ok();
        file
    }

    /// The server's folder is gone, as after a fire.
    ///
    /// # Panics
    /// When there is none.
    pub fn lose_the_server(&mut self) {
        self.kill_server();
        fs::rename(self.path("server"), self.path("lost")).unwrap();
    }

    /// Starts the server, and lets the operator know it.
    pub fn start_again(&mut self) {
        self.start_server(None);
        self.add_context();
    }

    /// Runs a change of keys until it stands at a checkpoint, and kills it there.
    pub fn keys_killed_at(&self, step: &str, arguments: &[&str]) {
        let (folder, secret) = (self.path("server"), self.path("passphrase"));
        let places = ["--data-dir", folder.to_str().unwrap(), "--passphrase-file", secret.to_str().unwrap()];
        self.kill_at(step, "writ-server-testing", &[arguments, &places].concat());
    }

    /// Runs a program until it stands at a checkpoint, and kills it there.
    pub fn kill_at(&self, step: &str, program: &str, arguments: &[&str]) {
        let stop = self.checkpoint(step);
        let command = self.spawn(program, arguments, &stop);
        let held = stop.reached();
        command.kill();
        drop(held);
    }

    /// How agents that leave the road of this fleet find this server.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("localhost:{}", self.road.port())
    }

    /// The file of the only signing key.
    ///
    /// # Panics
    /// When there is none, or more than one.
    #[must_use]
    pub fn signing_key(&self) -> PathBuf {
        let mut keys: Vec<_> =
            fs::read_dir(self.path("server/signing")).unwrap().map(|file| file.unwrap().path()).collect();
        keys.retain(|path| path.extension().is_some_and(|extension| extension == "key"));
        assert_eq!(keys.len(), 1, "{keys:?}");
        keys.remove(0)
    }
}
