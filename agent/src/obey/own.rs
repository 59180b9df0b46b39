//! What the agent does itself, with what it keeps: settings, components, scans, quarantine.

use std::pin::Pin;

use tracing::{info, warn};
use writ_protocol::command::{ComponentUpdate, Settings};
use writ_protocol::id::CommandId;
use writ_protocol::receipt::Ending;
use writ_protocol::time::Timestamp;

use super::AgentCore;
use crate::execute::{Ended, OwnWork};
use crate::scan;

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
            OwnWork::Scan(scan) => {
                let (components, reputations) = (&self.components, &self.reputations);
                let bundle = self.trust.chain().head().bundle.version;
                let known = scan::Known { components, reputations, bundle };
                let about = scan::About { command, issued_at };
                (true, Box::pin(self.scans.run(scan, known, about, || self.now())))
            }
            OwnWork::StopScan => (false, Box::pin(std::future::ready(self.scans.stop(issued_at)))),
            OwnWork::Restore(sha256) => (false, Box::pin(self.scans.dispose("restored", sha256))),
            OwnWork::Delete(sha256) => (false, Box::pin(self.scans.dispose("deleted", sha256))),
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
