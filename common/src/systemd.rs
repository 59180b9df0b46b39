//! What the service manager is told, if one started this program (sd_notify(3)); nothing otherwise.

use std::future::Future;
use std::path::Path;

use sd_notify::NotifyState;
use tracing::warn;

use crate::shutdown::Shutdown;

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager could not be told");
    }
}

/// A program as somebody called it, so that what they are told to type next means the same state.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// The program, which is the unit's name too.
    pub program: &'a str,
    /// `--config`.
    pub config: Option<&'a Path>,
    /// `--data-dir`.
    pub data_dir: Option<&'a Path>,
}

impl Start<'_> {
    /// Another of its commands.
    #[must_use]
    pub fn command(&self, command: &str) -> String {
        let Self { program, config, data_dir } = self;
        let flag = |name: &str, path: &Option<&Path>| {
            path.map_or_else(String::new, |path| format!(" {name} {}", path.display()))
        };
        format!("{program} {command}{}{}", flag("--config", config), flag("--data-dir", data_dir))
    }

    /// How it is started: by its unit, if that starts it so, or by hand.
    #[must_use]
    pub fn how(&self) -> String {
        if self.is_service() { format!("systemctl start {}", self.program) } else { self.command("run") }
    }

    /// The same for who finds it stopped: the service manager may have given it up.
    #[must_use]
    pub fn again(&self) -> String {
        let (how, unit) = (self.how(), self.program);
        if self.is_service() {
            format!(
                "{how}; if that fails: journalctl -u {unit} -n 20, mend it, then systemctl reset-failed {unit}"
            )
        } else {
            how
        }
    }

    /// Whether a service manager is here, and the unit starts this program on the same state.
    fn is_service(&self) -> bool {
        let Self { program, config, data_dir } = *self;
        let name = program.strip_prefix("writ-").unwrap_or(program);
        let is_there = |folder: &str| Path::new(folder).join(program).with_extension("service").exists();
        data_dir.is_none_or(|folder| folder == Path::new("/var/lib/writ").join(name))
            && config.is_none_or(|file| file == Path::new("/etc/writ").join(name).with_extension("toml"))
            && Path::new("/run/systemd/system").exists()
            && ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"]
                .into_iter()
                .any(is_there)
    }
}

/// Everything is loaded and bound; units that wait for this service may go on.
pub fn ready() {
    say(&[NotifyState::Ready]);
}

/// It was asked to end, and drains.
pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// How it stands, in one line, for `systemctl status`.
pub fn status(line: &str) {
    say(&[NotifyState::Status(line)]);
}

/// Tells the service manager that this program works for as long as `works` says so, at half of the time it
/// was given (`WATCHDOG_USEC`). A program that says nothing any more is killed and started again.
pub async fn keep_alive<F: Future<Output = bool> + Send>(
    shutdown: Shutdown,
    works: impl Fn() -> F + Send + Sync,
) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    loop {
        if works().await {
            say(&[NotifyState::Watchdog]);
        } else {
            warn!("this program does not work as it should; the service manager will start it again");
        }
        if shutdown.unless_requested(tokio::time::sleep(period / 2)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_elsewhere_is_started_by_hand_where_it_lies() {
        let (data_dir, config) = (Some(Path::new("/srv/writ")), Some(Path::new("/srv/server.toml")));
        let start = Start { program: "writ-server", config, data_dir };
        assert_eq!(start.how(), "writ-server run --config /srv/server.toml --data-dir /srv/writ");
        assert_eq!(start.again(), start.how());
    }
}
