//! The agent's side: fetch the package, hand it over, say what came of it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tracing::{info, warn};
use writ_protocol::command::{ComponentUpdate, Upgrade};
use writ_protocol::id::CommandId;
use writ_protocol::receipt::Ending;

use super::request::Request;
use super::{Greeting, HandOver, Phase, Place, Standing, write};
use crate::VERSION;
use crate::components::ComponentStore;
use crate::execute::Ended;
use crate::identity::Files;

/// How often it is looked how an upgrade stands.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Within which time root's side begins; it is started by the request's presence.
const BEGINS_WITHIN: Duration = Duration::from_secs(60);

/// Upgrades of this agent.
#[derive(Debug)]
pub(crate) struct Upgrades {
    place: Place,
    files: Files,
    /// The component by which this agent is upgraded; `None`: root does not allow it.
    component: Option<String>,
    /// The one that is out of the agent's hands.
    handed_over: Mutex<Option<CommandId>>,
}

impl Upgrades {
    /// As root of this host allows them.
    #[must_use]
    pub(crate) fn load(place: Place, files: &Files) -> Self {
        let allowed = place.allowed().unwrap_or_else(|error| {
            warn!(%error, "the agent cannot be upgraded by commands");
            None
        });
        // Another agent of this host may be the one that is meant.
        let allowed = allowed.filter(|allowed| allowed.data_dir == files.folder());
        let component = allowed.map(|allowed| allowed.component);
        Self { place, files: files.clone(), component, handed_over: Mutex::default() }
    }

    /// The component by which this agent is upgraded.
    pub(crate) fn component(&self) -> Option<&str> {
        self.component.as_deref()
    }

    fn standing(&self) -> Option<Standing> {
        self.component.as_ref()?;
        self.place.standing().unwrap_or_else(|error| {
            warn!(%error, "how the upgrade stands cannot be read");
            None
        })
    }

    /// Whether this program may begin a session. Asked before it proves itself: a server remembers the
    /// journal that it was shown.
    ///
    /// # Errors
    /// Why not: it is not the one that is to run now.
    pub(crate) fn may_greet(&self) -> Result<(), String> {
        let Some(standing) = self.standing() else { return Ok(()) };
        if standing.lets_run(VERSION) {
            return Ok(());
        }
        // A package may hold another program than it says; root's side takes that back when it hears of it.
        if standing.phase == Phase::Waiting {
            self.note(&standing)?;
        }
        let Standing { from, to, .. } = standing;
        Err(format!("an upgrade from {from} to {to} is under way, and this is version {VERSION}"))
    }

    /// Notes that this program has greeted its server, if an upgrade waits for it. Nothing else of the
    /// session may be taken before that is on the disk: until then the upgrade can be taken back, and what
    /// was obeyed forgotten.
    ///
    /// # Errors
    /// Why there must be no session: this is not the one that is to run now, or it cannot be noted.
    pub(crate) fn greeted(&self) -> Result<(), String> {
        self.may_greet()?;
        match self.standing() {
            Some(standing) if standing.phase == Phase::Waiting => self.note(&standing),
            Some(_) | None => Ok(()),
        }
    }

    fn note(&self, standing: &Standing) -> Result<(), String> {
        let greeting = Greeting { command_id: standing.command_id.clone(), version: VERSION.to_owned() };
        let path = HandOver::of(&self.files).greeting;
        if super::read::<Greeting>(&path).ok().flatten().as_ref() != Some(&greeting) {
            write(&path, &greeting).map_err(|error| error.to_string())?;
            info!(version = VERSION, "noted for the upgrade that is under way");
        }
        Ok(())
    }

    /// Whether root's side has taken up a command, so that only it knows how that ends.
    pub(crate) fn has_taken(&self, command: CommandId) -> bool {
        self.standing().is_some_and(|standing| standing.command_id == command.to_string())
    }

    /// Whether a command is out of the agent's hands, so that it cannot be stopped.
    pub(crate) fn has_handed_over(&self, command: CommandId) -> bool {
        *self.handed_over.lock().unwrap_or_else(PoisonError::into_inner) == Some(command)
    }

    fn hand_over(&self, command: Option<CommandId>) {
        *self.handed_over.lock().unwrap_or_else(PoisonError::into_inner) = command;
    }

    /// Fetches the package and has root's side install it; what came of it.
    pub(crate) async fn run(
        &self,
        components: &ComponentStore,
        (upgrade, package): (&Upgrade, &ComponentUpdate),
        command: CommandId,
        delivery: &Bytes,
        is_over: impl Fn() -> bool,
    ) -> Ended {
        if package.version == VERSION && !upgrade.allows_older {
            return Ended::quiet(Ending::Done, format!("{VERSION} is installed already"));
        }
        let handed = HandOver::of(&self.files);
        if let Err(why) = components.bring(package, &handed.package, is_over).await {
            return Ended::quiet(Ending::Failed, format!("{why}; {VERSION} stays installed"));
        }
        self.hand_over(Some(command));
        let asked = Request { command_id: command.to_string(), delivery: hex::encode(delivery) };
        let ended = match asked.write(&handed) {
            Ok(()) => {
                info!(command.id = %command, version = package.version, "an upgrade is handed over");
                self.outcome(command).await
            }
            Err(error) => Ended::quiet(Ending::Failed, format!("{error}; {VERSION} stays installed")),
        };
        self.hand_over(None);
        ended
    }

    /// Waits for the end of an upgrade that was handed over. The agent itself may be stopped and started by
    /// it meanwhile: then the next start waits here.
    pub(crate) async fn outcome(&self, command: CommandId) -> Ended {
        let mut began = tokio::time::Instant::now();
        let mut is_withdrawn = false;
        loop {
            match self.standing().filter(|standing| standing.command_id == command.to_string()) {
                Some(standing) if standing.phase.is_settled() => return self.end(&standing),
                Some(_) => {}
                None if began.elapsed() < BEGINS_WITHIN => {}
                None if is_withdrawn => {
                    let why = "root's side of this host did not begin; there: systemctl status writ-agent-upgrade.path writ-agent-upgrade";
                    return Ended::quiet(Ending::Failed, format!("{why}; {VERSION} stays installed"));
                }
                None => {
                    // So that it does not begin later, when nobody expects it any more. One that is not there
                    // has just been taken, and is noted soon, if ever.
                    let removed = std::fs::remove_file(HandOver::of(&self.files).request);
                    is_withdrawn = true;
                    if removed.is_err() {
                        began = tokio::time::Instant::now();
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn end(&self, standing: &Standing) -> Ended {
        let HandOver { request: _, package, greeting } = HandOver::of(&self.files);
        for file in [package, greeting] {
            let _ = std::fs::remove_file(file);
        }
        let Standing { from, to, why, .. } = standing;
        match standing.phase {
            Phase::Done => {
                Ended::quiet(Ending::Done, format!("{to} is installed and greets; before: {from}"))
            }
            Phase::TakenBack => Ended::quiet(Ending::Failed, format!("{why}; {from} is installed again")),
            _ => Ended::quiet(Ending::Failed, format!("{why}; nothing was changed")),
        }
    }
}
