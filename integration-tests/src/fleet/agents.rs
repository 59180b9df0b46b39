//! Agents of the fleet: enrolled, started, asked about.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Checkpoint, Daemon, Fleet, Said, binary, command, cramp};

impl Fleet {
    /// A token for so many agents, in a file.
    #[must_use]
    pub fn token(&self, uses: u32) -> PathBuf {
        let path = self.path("token");
        let _ = fs::remove_file(&path);
        let said = self.writ(&[
            "enroll",
            "token",
            "create",
            "--uses",
            &uses.to_string(),
            "--token-file",
            path.to_str().unwrap(),
        ]);
        let _created = said.ok();
        path
    }

    /// Writes an agent's configuration.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn agent_config(&self, name: &str) -> PathBuf {
        let path = self.path(&format!("{name}.toml"));
        let config = format!(
            "data_dir = \"{}\"\n[actions]\ndir = \"{}\"\n{}[link]\nmax_backoff = \"200ms\"\n{}[log]\nformat = \"json\"\n{}",
            self.path(name).display(),
            self.path("actions.d").display(),
            self.actions_config,
            self.link_config,
            self.agent_config
        );
        fs::write(&path, config).unwrap();
        path
    }

    /// Enrols an agent.
    #[must_use]
    pub fn enroll(&self, name: &str, token: &Path) -> Said {
        self.enroll_with(name, token, &[])
    }

    /// The same with more flags.
    #[must_use]
    pub fn enroll_with(&self, name: &str, token: &Path, more: &[&str]) -> Said {
        let config = self.agent_config(name);
        let places = ["--config", config.to_str().unwrap(), "--token-file", token.to_str().unwrap()];
        self.run(
            &format!("writ-agent{}", self.build.suffix()),
            &[["enroll", "--output", "json", "--name", name].as_slice(), &places, more].concat(),
        )
    }

    fn agent_command(&self, name: &str, checkpoint: Option<&Checkpoint>) -> Command {
        let mut command = command(&binary(&format!("writ-agent{}", self.build.suffix())));
        command.arg("run").arg("--config").arg(self.agent_config(name));
        command.env("WRITTEST_MONOTONIC", self.path(&format!("{name}-monotonic")));
        command.env("WRITTEST_CLOCK", self.path(&format!("{name}-clock")));
        // A story that kills the agent must not have its own group killed with it.
        command.process_group(0);
        if let Some(checkpoint) = checkpoint {
            command.env("WRITTEST_CHECKPOINT", &checkpoint.variable);
        }
        command
    }

    /// Starts an enrolled agent without waiting for its session.
    #[must_use]
    pub fn try_agent(&self, name: &str, checkpoint: Option<&Checkpoint>) -> Daemon {
        Daemon::spawn(name, self.agent_command(name, checkpoint))
    }

    /// Starts an enrolled agent whose files cannot grow past a size, as on a disk that is nearly full.
    #[must_use]
    pub fn cramped_agent(&self, name: &str, blocks_of_512: u32) -> Daemon {
        Daemon::spawn(name, cramp(&self.agent_command(name, None), blocks_of_512))
    }

    /// Starts an enrolled agent and waits for its session.
    #[must_use]
    pub fn start_agent(&self, name: &str, checkpoint: Option<&Checkpoint>) -> Daemon {
        let agent = self.try_agent(name, checkpoint);
        agent.wait_for("session began", |_| true);
        agent
    }

    /// Enrols and starts an agent.
    #[must_use]
    pub fn agent(&self, name: &str) -> Daemon {
        let _enrolled = self.enroll(name, &self.token(1)).ok();
        self.start_agent(name, None)
    }

    /// The id of an enrolled agent.
    ///
    /// # Panics
    /// When it is not enrolled.
    #[must_use]
    pub fn agent_id(&self, name: &str) -> String {
        self.json(&["agents", "show", name])["agent_id"].as_str().unwrap().to_owned()
    }
}
