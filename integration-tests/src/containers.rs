//! Containers of our images, run by podman as `deploy/README.md` says; all of them are gone with the story.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::daemon::{Said, said, tool};
use crate::machine::repository;
use crate::python;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// What every container of ours can do without.
pub const HARDENED: [&str; 4] =
    ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--pull=never"];

/// The release the images are tagged with.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Podman, in one network namespace of the story's own.
#[derive(Debug)]
pub struct Podman {
    host: String,
    /// Begins the name of everything this story makes.
    pub name: String,
}

impl Podman {
    /// For a network namespace.
    #[must_use]
    pub fn new(host: &str) -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self { host: host.to_owned(), name: format!("writtest{}x{count}", std::process::id()) }
    }

    #[expect(clippy::disallowed_methods, reason = "tests start the containers they need")]
    fn command(&self, program: &str) -> Command {
        // Not `ip netns exec`: that would hide the control groups from podman.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.host)).arg(tool(program));
        command.env("CONTAINERS_CONF", repository().join("target/install/containers.conf"));
        command.env("COMPOSE_PROJECT_NAME", &self.name).env("WRIT_VERSION", VERSION);
        python::with_packages(&mut command);
        command
    }

    /// Runs podman to its end.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Said {
        said(self.command("podman").args(arguments))
    }

    /// Runs podman-compose on `deploy/compose.yaml`.
    #[must_use]
    pub fn compose(&self, arguments: &[&str]) -> Said {
        let file = repository().join("deploy/compose.yaml");
        let mut command = self.command("python3");
        let hosts = repository().join("integration-tests/tests/install/compose.hosts.yaml");
        command.args(["-m", "podman_compose", "--podman-path"]).arg(tool("podman"));
        said(command.arg("-f").arg(file).arg("-f").arg(hosts).args(arguments))
    }

    /// An image of ours.
    #[must_use]
    pub fn image(&self, name: &str) -> String {
        format!("localhost/writ-{name}:{VERSION}")
    }

    /// Where a volume lies on this host.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    pub fn volume(&self, name: &str) -> PathBuf {
        let shown = self.run(&["volume", "inspect", "--format", "{{.Mountpoint}}", name]).ok();
        PathBuf::from(shown.stdout.trim())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let ours = |list: &[&str]| {
            let said = self.run(list).stdout;
            said.lines().filter(|line| line.starts_with(&self.name)).map(str::to_owned).collect::<Vec<_>>()
        };
        for container in ours(&["ps", "--all", "--format", "{{.Names}}"]) {
            if std::thread::panicking() {
                let said = self.run(&["logs", &container]);
                eprintln!("--- container {container}:\n{}{}", said.stdout, said.stderr);
            }
            let _removed = self.run(&["rm", "--force", "--time", "0", "--depend", &container]);
        }
        for volume in ours(&["volume", "ls", "--format", "{{.Name}}"]) {
            let _removed = self.run(&["volume", "rm", "--force", &volume]);
        }
        for network in ours(&["network", "ls", "--format", "{{.Name}}"]) {
            let _removed = self.run(&["network", "rm", "--force", &network]);
        }
    }
}
