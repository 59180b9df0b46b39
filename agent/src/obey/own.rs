//! What the agent does itself, with what it keeps: settings, components, scans, quarantine.

use std::pin::Pin;

use tracing::{info, warn};
use writ_protocol::command::{ComponentUpdate, Settings, Upgrade};
use writ_protocol::id::CommandId;
use writ_protocol::receipt::Ending;
use writ_protocol::time::Timestamp;

use super::AgentCore;
use crate::connections::Search;
use crate::execute::{Ended, OwnWork};
use crate::reputation::Known;
use crate::{host, scan};

/// Bytes of an inventory that say who talks to suspicious addresses: half of what an answer may have.
const MAX_MET_BYTES: usize = 128 << 10;

impl AgentCore {
    /// What the agent does itself, and whether it may be broken off when the agent ends.
    pub(super) fn do_own<'a>(
        &'a self,
        work: OwnWork<'a>,
        command: CommandId,
        (issued_at, expires_at): (Timestamp, Timestamp),
    ) -> (bool, Pin<Box<dyn Future<Output = Ended> + Send + 'a>>) {
        match work {
            OwnWork::Settings(wanted) => (false, Box::pin(self.apply(wanted))),
            OwnWork::Component(update) => (true, Box::pin(self.hold(update, issued_at, expires_at))),
            OwnWork::Upgrade(upgrade, package) => {
                (true, Box::pin(self.upgrade(upgrade, package, command, expires_at)))
            }
            OwnWork::Inventory => (true, Box::pin(self.take_inventory())),
            OwnWork::Scan(scan) => {
                let known = self.known();
                let about = scan::About { command, issued_at };
                (true, Box::pin(self.scans.run(scan, known, about, || self.now())))
            }
            OwnWork::StopCommand(other) => (false, Box::pin(std::future::ready(self.stop(other)))),
            OwnWork::StopScan => (false, Box::pin(std::future::ready(self.scans.stop(issued_at)))),
            OwnWork::Restore(sha256) => (false, Box::pin(self.scans.dispose("restored", sha256))),
            OwnWork::Delete(sha256) => (false, Box::pin(self.scans.dispose("deleted", sha256))),
        }
    }

    /// What this agent compares with.
    fn known(&self) -> Known<'_> {
        let (components, reputations) = (&self.components, &self.reputations);
        Known { components, reputations, bundle: self.trust.chain().head().bundle.version }
    }

    /// What the host is, and who on it talks to suspicious addresses.
    async fn take_inventory(&self) -> Ended {
        let search = Search::of(&self.components, self.now()).await;
        let mut looked = search.look(self.known(), false).await;
        looked.fit(MAX_MET_BYTES);
        let (detail, listed) = (looked.summary(), u64::try_from(looked.count).unwrap_or(u64::MAX));
        let detail = detail.trim_start_matches("; ").to_owned();
        let taken = tokio::task::spawn_blocking(|| serde_json::to_vec(&host::inventory(looked))).await;
        match taken
            .map_err(|error| error.to_string())
            .and_then(|taken| taken.map_err(|error| error.to_string()))
        {
            Ok(text) => Ended { detail, listed, ..Ended::with_output(text) },
            Err(error) => Ended::quiet(Ending::Failed, error),
        }
    }

    /// Tries settings and keeps them; whatever fails, those of before are in force.
    async fn apply(&self, settings: &Settings) -> Ended {
        let tried = async {
            let trial = self.settings.begin(settings).await?;
            for endpoint in &settings.endpoints {
                (self.probe)(self, endpoint).await.map_err(|why| format!("{endpoint}: {why}"))?;
            }
            trial.keep()
        };
        match tried.await {
            Ok(()) => {
                info!(revision = settings.revision, "settings kept");
                Ended::quiet(Ending::Done, format!("settings revision {} is in force", settings.revision))
            }
            Err(why) => {
                warn!(revision = settings.revision, why, "settings rolled back");
                Ended::quiet(Ending::Failed, format!("{why}; the settings of before are in force"))
            }
        }
    }

    /// Has this program replaced.
    async fn upgrade(
        &self,
        upgrade: &Upgrade,
        package: &ComponentUpdate,
        command: CommandId,
        expires_at: Timestamp,
    ) -> Ended {
        let delivery = match self.journal.entry(command) {
            Ok(Some(entry)) => entry.delivery,
            Ok(None) => return Ended::quiet(Ending::Failed, "the journal does not know the command"),
            Err(error) => return Ended::quiet(Ending::Failed, error.to_string()),
        };
        let is_over = || self.now() >= expires_at;
        self.upgrades.run(&self.components, (upgrade, package), command, &delivery, is_over).await
    }

    /// Fetches a component; whatever fails, the version of before is in force.
    async fn hold(&self, update: &ComponentUpdate, issued_at: Timestamp, expires_at: Timestamp) -> Ended {
        match self.components.update(update, issued_at, || self.now() >= expires_at).await {
            Ok(text) => {
                info!(component = update.component, version = update.version, "component in force");
                Ended::quiet(Ending::Done, text)
            }
            Err(why) => {
                warn!(component = update.component, version = update.version, why, "component not updated");
                Ended::quiet(Ending::Failed, format!("{why}; what was in force before still is"))
            }
        }
    }
}
