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

/// Where the units of this name keep their state: `StateDirectory` of each.
const STATE: &str = "/var/lib/writ";

/// Whether a service manager starts this program here, on this folder: then people start it by that, not by hand.
fn is_service(unit: &str, folder: &Path) -> bool {
    let name = unit.strip_prefix("writ-").unwrap_or(unit);
    if folder != Path::new(STATE).join(name) {
        return false;
    }
    let is_there = |folder: &str| Path::new(folder).join(unit).with_extension("service").exists();
    Path::new("/run/systemd/system").exists()
        && ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"].into_iter().any(is_there)
}

/// How a program is started on a folder: by its unit, or by hand with these flags.
#[must_use]
pub fn how_to_start(unit: &str, folder: &Path, by_hand: &str) -> String {
    if is_service(unit, folder) { format!("systemctl start {unit}") } else { by_hand.to_owned() }
}

/// The same for somebody who finds it stopped: the service manager may have given it up.
#[must_use]
pub fn how_to_start_again(unit: &str, folder: &Path, by_hand: &str) -> String {
    if !is_service(unit, folder) {
        return by_hand.to_owned();
    }
    format!(
        "systemctl start {unit}; if that fails: journalctl -u {unit} -n 20, mend it, then systemctl reset-failed {unit}"
    )
}

/// Everything is loaded and bound; whoever waits for this service may go on.
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

/// Tells the service manager that this program works for as long as `works` says so, at half of the time it was given
/// (`WATCHDOG_USEC`). A program that says nothing any more is killed and started again.
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
