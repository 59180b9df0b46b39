//! Carrying out: only what is on the agent's own list, with limits, and never a shell.

pub(crate) mod action;
mod cgroup;
mod process;
mod whose;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;
use writ_common::config::Problems;
use writ_common::text::plain;
use writ_protocol::command::{Action, ActionClass, ComponentUpdate, OWN_ACTIONS, Scan, Settings, Upgrade};
use writ_protocol::component::fact_of;
use writ_protocol::id::{CommandId, Digest};
use writ_protocol::limits::{MAX_GREETING_TIME, MAX_OUTPUT_BYTES, MAX_REPORT_ROWS, MAX_SCHEMA_BYTES};
use writ_protocol::receipt::{Ending, Outcome};
use writ_protocol::refusal::{Refusal, RefusalCode};
use writ_protocol::report::{ReportedAction, ReportedSchema};
use writ_protocol::schema::{ActionSchema, Parameter, ParameterRule};
use writ_protocol::time::Timestamp;

use crate::replay::Durable;
use action::{Definition, Invocation};

pub(crate) use process::is_group_gone;

/// What this agent can do, and how harmful it thinks each thing is.
#[derive(Debug, Clone, Default)]
pub struct ActionTable {
    definitions: BTreeMap<String, Arc<Definition>>,
    /// The agent's own actions that this host's owner denies.
    denied: Vec<String>,
    /// The component by which root lets this agent be upgraded, and what is reported of that.
    upgrade: Option<(String, ActionSchema)>,
    /// What the files held, and what is denied.
    digest: Option<Digest>,
    /// Files whose names do not end as those that are read.
    ignored: Vec<String>,
}

/// Before anything is started: each action gets a control group, if there are any, and none of the rights
/// that the agent has for its own work. They would pass to every program otherwise (capabilities(7),
/// "ambient").
pub(crate) fn prepare() {
    cgroup::prepare();
    if let Err(error) = rustix::thread::clear_ambient_capability_set() {
        warn!(%error, "actions have the capabilities of the agent");
    }
}

/// The agent's own action that replaces it, and what its packages are reported as.
const UPGRADE: &str = "upgrade";
const PACKAGE: &str = "package";

/// A command that passed check 11: the exact thing that will be done.
#[derive(Debug)]
#[must_use]
pub struct Plan {
    kind: PlannedWork,
    is_idempotent: bool,
}

/// A kind of place in which so many are carried out at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    /// Of what takes the host's attention.
    Actions,
    /// Of what waits for the server most of its time: it must keep no action waiting.
    Components,
    /// Of what replaces the agent.
    Upgrades,
    /// Of what takes hours.
    Scans,
    /// Of what ends others: it must not wait for them.
    Stops,
}

#[derive(Debug)]
enum PlannedWork {
    Ping,
    Inventory,
    Settings(Settings),
    Component(ComponentUpdate),
    Upgrade(Upgrade, ComponentUpdate),
    Scan(Scan),
    StopScan,
    StopCommand(CommandId),
    Restore(Digest),
    Delete(Digest),
    Process(Invocation),
}

/// What the agent itself does, with what it keeps.
#[derive(Debug)]
pub enum OwnWork<'p> {
    /// Looks at the host.
    Inventory,
    /// Applies settings.
    Settings(&'p Settings),
    /// Fetches a component.
    Component(&'p ComponentUpdate),
    /// Has the agent replaced, by the package for this host.
    Upgrade(&'p Upgrade, &'p ComponentUpdate),
    /// Looks for listed files.
    Scan(&'p Scan),
    /// Ends scans that were sent before.
    StopScan,
    /// Ends another command.
    StopCommand(CommandId),
    /// Puts files back from quarantine.
    Restore(Digest),
    /// Removes files from quarantine.
    Delete(Digest),
}

impl Plan {
    /// Whether it may be started again after a crash.
    #[must_use]
    pub const fn is_idempotent(&self) -> bool {
        self.is_idempotent
    }

    /// Where it waits for its turn.
    #[must_use]
    pub(crate) const fn queue(&self) -> Queue {
        match self.kind {
            PlannedWork::Component(_) => Queue::Components,
            PlannedWork::Upgrade(..) => Queue::Upgrades,
            PlannedWork::Scan(_) => Queue::Scans,
            PlannedWork::StopCommand(_) | PlannedWork::StopScan => Queue::Stops,
            PlannedWork::Ping
            | PlannedWork::Inventory
            | PlannedWork::Settings(_)
            | PlannedWork::Restore(_)
            | PlannedWork::Delete(_)
            | PlannedWork::Process(_) => Queue::Actions,
        }
    }

    /// Whether a process of its own carries it out.
    #[must_use]
    pub const fn has_process(&self) -> bool {
        matches!(self.kind, PlannedWork::Process(_))
    }

    /// What the agent does with what it keeps, if that is the plan.
    #[must_use]
    pub const fn own_work(&self) -> Option<OwnWork<'_>> {
        match &self.kind {
            PlannedWork::Settings(settings) => Some(OwnWork::Settings(settings)),
            PlannedWork::Component(update) => Some(OwnWork::Component(update)),
            PlannedWork::Upgrade(upgrade, package) => Some(OwnWork::Upgrade(upgrade, package)),
            PlannedWork::Scan(scan) => Some(OwnWork::Scan(scan)),
            PlannedWork::StopScan => Some(OwnWork::StopScan),
            PlannedWork::StopCommand(command) => Some(OwnWork::StopCommand(*command)),
            PlannedWork::Restore(sha256) => Some(OwnWork::Restore(*sha256)),
            PlannedWork::Delete(sha256) => Some(OwnWork::Delete(*sha256)),
            PlannedWork::Inventory => Some(OwnWork::Inventory),
            PlannedWork::Ping | PlannedWork::Process(_) => None,
        }
    }
}

impl ActionTable {
    /// Reads every `*.toml` of a folder, as an agent of this user does; a missing folder is an empty list. Of
    /// the agent's own actions those are left out that are `denied`.
    ///
    /// # Errors
    /// All mistakes of all files.
    pub fn load(folder: &Path, denied: &[String], uid: u32) -> Result<Self, Vec<Problems>> {
        let denied = denied.to_vec();
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => Some(entries),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(vec![Problems::one(folder, "", format!("cannot be read: {error}"))]),
        };
        if entries.is_some()
            && let Some(fault) = whose::others_may_change(folder, uid)
        {
            return Err(vec![Problems::one(folder, "", fault)]);
        }
        let mut paths: Vec<_> =
            entries.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        let (mut definitions, mut problems) = (BTreeMap::new(), Vec::new());
        let (mut contents, mut ignored) = (Vec::new(), Vec::new());
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.extension().is_none_or(|extension| extension != "toml") {
                // Editors and package managers leave hidden ones.
                ignored.extend((!name.starts_with('.')).then(|| plain(&name)));
                continue;
            }
            let content = Digest::of(&std::fs::read(&path).unwrap_or_default());
            contents.push((name.into_owned(), content));
            match Definition::load(&path, content, uid) {
                Ok(definition) if definitions.contains_key(&definition.name) => {
                    let text = format!("is `{}`, which another file defines too", definition.name);
                    problems.push(Problems::one(&path, "name", text));
                }
                Ok(definition) => {
                    definitions.insert(definition.name.clone(), Arc::new(definition));
                }
                Err(found) => problems.push(found),
            }
        }
        if definitions.len() + OWN_ACTIONS.len() > MAX_REPORT_ROWS {
            let most = MAX_REPORT_ROWS - OWN_ACTIONS.len();
            let text = format!("holds {} actions; at most {most} can be reported", definitions.len());
            problems.push(Problems::one(folder, "", text));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let is_usual = contents.is_empty() && denied.is_empty();
        let digest = (!is_usual).then(|| Digest::of(format!("{contents:?}{denied:?}").as_bytes()));
        Ok(Self { definitions, denied, upgrade: None, digest, ignored })
    }

    /// The same with upgrades by a component, if root lets this agent be upgraded.
    #[must_use]
    pub(crate) fn with_upgrades(self, component: Option<&str>) -> Self {
        let upgrade = component.map(|component| {
            let rule = ParameterRule::Choice(vec![component.to_owned()]);
            let parameter = Parameter { rule, default: None, is_secret: false };
            let schema = ActionSchema {
                timeout: MAX_GREETING_TIME,
                is_idempotent: true,
                parameters: [(PACKAGE.to_owned(), parameter)].into_iter().collect(),
                definition: Digest::of(component.as_bytes()),
            };
            (component.to_owned(), schema)
        });
        Self { upgrade, ..self }
    }

    /// What the files held: another when one of them is another.
    #[must_use]
    pub fn digest(&self) -> String {
        self.digest.map_or_else(String::new, |digest| digest.to_string())
    }

    /// Files in the folder that are not read, because their names do not end in `.toml`.
    #[must_use]
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Programs that the kernel will not start as they are, and why.
    #[must_use]
    pub fn script_faults(&self) -> Vec<String> {
        self.definitions.values().filter_map(|definition| action::script_fault(&definition.program)).collect()
    }

    /// Everything on the list, for the server: name, class and, of what a file defines, what it takes.
    pub fn rows(&self) -> impl Iterator<Item = (&str, ActionClass, Option<&ActionSchema>)> {
        let is_listed = |own: &str| {
            let is_denied = self.denied.iter().any(|denied| denied == own);
            !is_denied && (own != UPGRADE || self.upgrade.is_some())
        };
        let own = OWN_ACTIONS.into_iter().filter(move |(own, _)| is_listed(own));
        let schema = |own: &str| self.upgrade.as_ref().filter(|_| own == UPGRADE).map(|(_, schema)| schema);
        let listed = self.definitions.values();
        own.map(move |(name, class)| (name, class, schema(name)))
            .chain(listed.map(|listed| (listed.name.as_str(), listed.class, Some(&listed.schema))))
    }

    /// The rows as they are reported. What actions take is left out where it would not fit.
    #[must_use]
    pub fn report(&self) -> Vec<ReportedAction> {
        let mut room = MAX_SCHEMA_BYTES;
        let report = |(name, class, schema): (&str, ActionClass, Option<&ActionSchema>)| {
            let schema = schema.map(ReportedSchema::from).unwrap_or_default();
            let left = room.checked_sub(schema.to_wire().len());
            room = left.unwrap_or(room);
            let schema = left.map_or_else(ReportedSchema::default, |_| schema);
            ReportedAction { name: name.to_owned(), class: class.into(), schema }
        };
        self.rows().map(report).collect()
    }

    /// How harmful an action is, by this table; what is not on it is destructive.
    #[must_use]
    pub fn class_of(&self, action: &Action) -> ActionClass {
        let listed =
            || self.definitions.get(action.name()).map_or(ActionClass::Destructive, |found| found.class);
        match action {
            Action::Unsupported(_) => ActionClass::Destructive,
            Action::Ping
            | Action::Inventory
            | Action::ApplySettings(_)
            | Action::UpdateComponent(_)
            | Action::Upgrade(_)
            | Action::Scan(_)
            | Action::StopScan
            | Action::StopCommand(_)
            | Action::RestoreQuarantined(_)
            | Action::DeleteQuarantined(_)
            | Action::Run(_) => action.own_class().unwrap_or_else(listed),
        }
    }

    /// Check 11 (protocol.md §4): is it on the list, and are its parameters what the list says?
    ///
    /// # Errors
    /// `action_not_allowed` or `invalid_parameters`.
    pub fn plan(&self, action: &Action) -> Result<Plan, Refusal> {
        if action.own_class().is_some() && self.denied.iter().any(|denied| denied == action.name()) {
            let detail = format!("`actions.deny` of this host's agent.toml lists `{}`", action.name());
            return Err(Refusal::new(RefusalCode::ActionNotAllowed, detail));
        }
        match action {
            Action::Ping => Ok(Plan { kind: PlannedWork::Ping, is_idempotent: true }),
            Action::Inventory => Ok(Plan { kind: PlannedWork::Inventory, is_idempotent: true }),
            Action::ApplySettings(settings) => {
                Ok(Plan { kind: PlannedWork::Settings(settings.clone()), is_idempotent: true })
            }
            Action::UpdateComponent(update) if fact_of(&update.component).is_none() => {
                let detail =
                    format!("this agent's version has no use for a component `{}`", update.component);
                Err(Refusal::new(RefusalCode::ActionNotAllowed, detail))
            }
            Action::UpdateComponent(update) => {
                Ok(Plan { kind: PlannedWork::Component(update.clone()), is_idempotent: true })
            }
            Action::Upgrade(upgrade) => {
                let Some((component, _)) = &self.upgrade else {
                    let detail = "root of this host does not let its agent be upgraded; as root: writ-agent upgrade allow";
                    return Err(Refusal::new(RefusalCode::ActionNotAllowed, detail));
                };
                let package = upgrade.package(component).ok_or_else(|| {
                    let detail = format!("there is no package `{component}` among those of the command");
                    Refusal::new(RefusalCode::InvalidParameters, detail)
                })?;
                let kind = PlannedWork::Upgrade(upgrade.clone(), package.clone());
                Ok(Plan { kind, is_idempotent: true })
            }
            Action::Scan(scan) => Ok(Plan { kind: PlannedWork::Scan(scan.clone()), is_idempotent: true }),
            Action::StopScan => Ok(Plan { kind: PlannedWork::StopScan, is_idempotent: true }),
            Action::StopCommand(command) => {
                Ok(Plan { kind: PlannedWork::StopCommand(*command), is_idempotent: true })
            }
            Action::RestoreQuarantined(sha256) => {
                Ok(Plan { kind: PlannedWork::Restore(*sha256), is_idempotent: true })
            }
            Action::DeleteQuarantined(sha256) => {
                Ok(Plan { kind: PlannedWork::Delete(*sha256), is_idempotent: true })
            }
            Action::Run(named) => {
                let definition = self.definitions.get(&named.name).ok_or_else(|| {
                    Refusal::new(
                        RefusalCode::ActionNotAllowed,
                        format!("`{}` is not in this agent's actions.d", named.name),
                    )
                })?;
                let invocation = definition.invoke(&named.parameters)?;
                Ok(Plan {
                    kind: PlannedWork::Process(invocation),
                    is_idempotent: definition.schema.is_idempotent,
                })
            }
            Action::Unsupported(action) => {
                let detail = format!("this agent's version does not know `{}`", action.name);
                Err(Refusal::new(RefusalCode::ActionNotAllowed, detail))
            }
        }
    }
}

/// A command on disk with the plan to carry it out: nothing else is ever executed.
#[derive(Debug)]
#[must_use]
pub struct AdmittedCommand {
    /// The evidence that it is journalled and synced.
    pub durable: Durable,
    /// Its digest.
    pub digest: Digest,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it may not be started any more.
    pub expires_at: Timestamp,
    /// What to do.
    pub plan: Plan,
    /// Set when its start was journalled with its admission.
    pub started: Option<Started>,
}

impl AdmittedCommand {
    /// Which.
    #[must_use]
    pub const fn id(&self) -> CommandId {
        self.durable.command()
    }
}

/// That a start is journalled, and the place it runs in.
#[derive(Debug)]
pub struct Started {
    /// One of so many that run at the same time.
    pub place: OwnedSemaphorePermit,
}

/// How a plan came out, before anybody signs it.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub ending: Ending,
    /// The bytes kept.
    pub output: Bytes,
    /// How many there were.
    pub output_bytes: u64,
    /// SHA-256 of all of them.
    pub output_digest: Digest,
    /// For people.
    pub detail: String,
    /// Listed files and suspicious objects that a scan or an inventory met.
    pub listed: u64,
}

impl Ended {
    /// An ending without output.
    #[must_use]
    pub fn quiet(ending: Ending, detail: impl Into<String>) -> Self {
        let output_digest = Digest::of(b"");
        Self {
            ending,
            output: Bytes::new(),
            output_bytes: 0,
            output_digest,
            detail: detail.into(),
            listed: 0,
        }
    }

    /// An action of the agent itself that was done and says this.
    #[must_use]
    pub fn with_output(mut text: Vec<u8>) -> Self {
        let output_bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let output_digest = Digest::of(&text);
        text.truncate(MAX_OUTPUT_BYTES);
        let (output, detail) = (text.into(), String::new());
        Self { ending: Ending::Done, output, output_bytes, output_digest, detail, listed: 0 }
    }

    /// With its times.
    #[must_use]
    pub fn outcome(&self, started_at: Timestamp, finished_at: Timestamp) -> Outcome {
        Outcome {
            ending: self.ending,
            started_at,
            // The session that said the start's time may have been ahead of the one that says the end's.
            finished_at: finished_at.max(started_at),
            output: self.output.clone(),
            output_bytes: self.output_bytes,
            output_digest: self.output_digest,
            listed: self.listed,
        }
    }
}

/// Carries out what needs nothing that the agent keeps. `on_group` hears the process group as soon as there
/// is one.
pub(crate) async fn run(
    plan: Plan,
    on_group: impl FnOnce(u32) + Send,
    stopped: impl Future<Output = ()> + Send,
) -> Ended {
    match plan.kind {
        PlannedWork::Process(invocation) => process::run(invocation, on_group, stopped).await,
        _ => run_own(&plan)
            .unwrap_or_else(|| Ended::quiet(Ending::NotStarted, "it is not this function's to do")),
    }
}

/// Carries out what needs neither a process nor anything that the agent keeps; `None` for all else.
#[must_use]
pub fn run_own(plan: &Plan) -> Option<Ended> {
    match plan.kind {
        PlannedWork::Ping => Some(Ended::quiet(Ending::Done, "")),
        PlannedWork::Inventory
        | PlannedWork::Settings(_)
        | PlannedWork::Component(_)
        | PlannedWork::Upgrade(..)
        | PlannedWork::Scan(_)
        | PlannedWork::StopScan
        | PlannedWork::StopCommand(_)
        | PlannedWork::Restore(_)
        | PlannedWork::Delete(_)
        | PlannedWork::Process(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use writ_common::users;
    use writ_protocol::command::NamedAction;

    use super::*;

    #[test]
    fn a_host_may_deny_what_agents_can_do_of_themselves() {
        let nowhere = Path::new("/nowhere/at/all");
        let denied: Vec<_> = OWN_ACTIONS
            .iter()
            .filter(|(name, _)| *name != "ping")
            .map(|(name, _)| (*name).to_owned())
            .collect();
        let table = ActionTable::load(nowhere, &denied, users::own_uid()).unwrap();
        assert_eq!(table.rows().map(|(name, ..)| name).collect::<Vec<_>>(), ["ping"]);
        let settings = Settings { revision: 1, heartbeat: None, endpoints: Vec::new(), log_filter: None };
        for action in [Action::Inventory, Action::ApplySettings(settings)] {
            let refusal = table.plan(&action).unwrap_err();
            assert_eq!(refusal.code, RefusalCode::ActionNotAllowed);
            assert!(refusal.to_string().contains("actions.deny"), "{refusal}");
        }
        let _ping = table.plan(&Action::Ping).unwrap();
        // Another table than the one without a list of what is denied, also where there is no folder.
        let free = ActionTable::load(nowhere, &[], users::own_uid()).unwrap();
        assert_ne!(free.digest(), table.digest());
        // A host's own action cannot have that name, so the list of what is denied is not the reason.
        let named = NamedAction { name: "settings".to_owned(), parameters: Vec::new() };
        let refusal = table.plan(&Action::Run(named)).unwrap_err();
        assert!(refusal.to_string().contains("not in this agent's actions.d"), "{refusal}");
    }

    #[test]
    fn more_actions_than_a_report_holds_are_a_mistake_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..=MAX_REPORT_ROWS - OWN_ACTIONS.len() {
            std::fs::write(folder.path().join(format!("a{number}.toml")), "program = '/bin/true'").unwrap();
        }
        let problems = ActionTable::load(folder.path(), &[], users::own_uid()).unwrap_err();
        assert!(problems[0].to_string().contains("holds 1015 actions; at most 1014"), "{problems:?}");
        std::fs::remove_file(folder.path().join("a0.toml")).unwrap();
        let table = ActionTable::load(folder.path(), &[], users::own_uid()).unwrap();
        assert_eq!(table.rows().count(), MAX_REPORT_ROWS - 1);
        assert_eq!(table.with_upgrades(Some("agent-deb-amd64")).rows().count(), MAX_REPORT_ROWS);
    }
}
