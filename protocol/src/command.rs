//! What is ordered.

use std::time::Duration;

use crate::audience::{Audience, AudienceProof};
use crate::id::{CommandId, Digest, FleetId};
use crate::limits::MAX_NAME_BYTES;
use crate::rollout::Seed;
use crate::time::Timestamp;

/// The payload of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Its id.
    pub id: CommandId,
    /// The fleet it is for.
    pub fleet: FleetId,
    /// The agents it is for.
    pub audience: Audience,
    /// When.
    pub window: Window,
    /// The operator, for the record.
    pub requested_by: String,
    /// The seed of its rollout: agents obey it only under a [`Release`](crate::rollout::Release).
    pub rollout: Option<Seed>,
    /// What to do.
    pub action: Action,
}

/// When a command may be started. A `Window` is never empty nor longer than 30 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// When it was made.
    pub issued_at: Timestamp,
    /// The first moment.
    pub not_before: Timestamp,
    /// The first moment it may not be started any more.
    pub expires_at: Timestamp,
}

/// What to do. Unknown actions of a newer server are kept apart so that they are refused by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Answer.
    Ping,
    /// Run an entry of the agent's own allow-list.
    Run(NamedAction),
    /// Say what the host is made of.
    Inventory,
    /// Keep these settings, if they work.
    ApplySettings(Settings),
    /// Fetch this version of a component, and use it from now on.
    UpdateComponent(ComponentUpdate),
    /// Replace the agent's program.
    Upgrade(Upgrade),
    /// Look for listed files.
    Scan(Scan),
    /// End scans whose commands were issued before this one.
    StopScan,
    /// End this command, whether it runs or waits.
    StopCommand(CommandId),
    /// Put all files of this SHA-256 back from quarantine.
    RestoreQuarantined(Digest),
    /// Remove all files of this SHA-256 from quarantine.
    DeleteQuarantined(Digest),
    /// An action of the protocol that this build does not carry out.
    Unsupported(Unsupported),
}

/// An entry of the allow-list and its parameters, names strictly ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedAction {
    /// The entry.
    pub name: String,
    /// Name and value of each.
    pub parameters: Vec<(String, String)>,
}

/// What an agent is told to change about itself. A revision is the whole of it: what it leaves out is as
/// installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Greater than the one before; an agent never goes back.
    pub revision: u64,
    /// How often it says something; `None`: as the server says when a session begins.
    pub heartbeat: Option<Duration>,
    /// Tried before the trust bundle's, never instead of them.
    pub endpoints: Vec<String>,
    /// What is logged; `None`: as configured.
    pub log_filter: Option<String>,
}

/// A version of a component, as an agent is told to hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentUpdate {
    /// Which component; see [`crate::component`].
    pub component: String,
    /// Which version, for people.
    pub version: String,
    /// SHA-256 of all its bytes: what they are believed for.
    pub sha256: Digest,
    /// How many there are.
    pub bytes: u64,
}

/// A version of the agent's program, as its hosts are told to install it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// Packages of one version and of different kinds, strictly ascending by component; never empty.
    pub packages: Vec<ComponentUpdate>,
    /// Within which time the new program must have greeted its server; else the host takes it back.
    pub greet_within: Duration,
    /// Whether it may take the place of a later version.
    pub allows_older: bool,
}

impl Upgrade {
    /// Which version.
    #[must_use]
    pub fn version(&self) -> &str {
        self.packages.first().map_or("", |package| package.version.as_str())
    }

    /// The package for hosts of a kind: the component is [`crate::component::package_of`] it.
    #[must_use]
    pub fn package(&self, component: &str) -> Option<&ComponentUpdate> {
        self.packages.iter().find(|package| package.component == component)
    }
}

/// What to look for, where, and what to do with what is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Absolute paths: files, or folders with all that is below.
    pub roots: Vec<String>,
    /// Absolute paths that are not looked at, nor what is below them.
    pub exclude: Vec<String>,
    /// What is done with a listed file, at most.
    pub remedy: Remedy,
    /// Whether a file that may be listed, and of which the server does not say, is blocked as if it were.
    pub is_strict: bool,
    /// Whether that is done also to files that the host's package manager vouches for.
    pub takes_packaged: bool,
    /// After so many blocked and quarantined files the rest is only reported.
    pub max_remedied: u32,
    /// Longer files are not read.
    pub max_file_bytes: u64,
    /// It ends after so long, whatever is left.
    pub max_time: Duration,
    /// How much is read in a second; `None`: as fast as it goes.
    pub bytes_per_second: Option<u64>,
    /// Whether name servers are asked for the domains that are suspicious objects.
    pub resolves_names: bool,
}

/// What is done with a listed file, mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remedy {
    /// It is reported.
    Log,
    /// And cannot be executed, and where the file system can, not changed.
    Block,
    /// And is moved away, sealed.
    Quarantine,
}

impl Remedy {
    /// By its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Log, Self::Block, Self::Quarantine].into_iter().find(|remedy| remedy.as_str() == name)
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Block => "block",
            Self::Quarantine => "quarantine",
        }
    }
}

/// Actions that are part of the schema but not of this build.
#[derive(Debug, Clone, PartialEq)]
pub struct Unsupported {
    /// Its name.
    pub name: &'static str,
    /// As decoded, so that it is encoded again unchanged.
    pub(crate) wire: writ_proto::v1::command::Action,
}

impl Eq for Unsupported {}

impl Action {
    /// Name and parameters on one line, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let parameters = match self {
            Self::Run(action) => action.parameters.clone(),
            Self::ApplySettings(settings) => settings.describe(),
            Self::UpdateComponent(update) => {
                let ComponentUpdate { component, version, .. } = update;
                vec![("component".to_owned(), component.clone()), ("version".to_owned(), version.clone())]
            }
            Self::Upgrade(upgrade) => {
                let older = upgrade.allows_older.then(|| ("allow_older".to_owned(), "yes".to_owned()));
                let version = ("version".to_owned(), upgrade.version().to_owned());
                [version].into_iter().chain(older).collect()
            }
            Self::Scan(scan) => scan.describe(),
            Self::RestoreQuarantined(sha256) | Self::DeleteQuarantined(sha256) => {
                vec![("sha256".to_owned(), sha256.to_string())]
            }
            Self::StopCommand(command) => vec![("command".to_owned(), command.to_string())],
            Self::Ping | Self::Inventory | Self::StopScan | Self::Unsupported(_) => Vec::new(),
        };
        let mut text = self.name().to_owned();
        for (name, value) in &parameters {
            let shown: String =
                value.chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect();
            let more = if value.chars().count() > 100 { "…" } else { "" };
            text.push_str(&format!(" {name}={shown}{more}"));
        }
        text
    }

    /// The name shown to people and looked up in tables.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Ping => "ping",
            Self::Inventory => "inventory",
            Self::ApplySettings(_) => "settings",
            Self::UpdateComponent(_) => "update-component",
            Self::Upgrade(_) => "upgrade",
            Self::Scan(_) => "scan",
            Self::StopScan => "stop-scan",
            Self::StopCommand(_) => "stop-command",
            Self::RestoreQuarantined(_) => "restore-quarantined",
            Self::DeleteQuarantined(_) => "delete-quarantined",
            Self::Run(action) => &action.name,
            Self::Unsupported(action) => action.name,
        }
    }

    /// The class of an action every agent has; `None` for those its own list decides about.
    #[must_use]
    pub const fn own_class(&self) -> Option<ActionClass> {
        match self {
            Self::Ping | Self::Inventory => Some(ActionClass::Read),
            Self::Scan(scan) if matches!(scan.remedy, Remedy::Log) => Some(ActionClass::Read),
            Self::Upgrade(_) | Self::DeleteQuarantined(_) => Some(ActionClass::Destructive),
            // Where the agent looks for its server is whom it can hear.
            Self::ApplySettings(settings) if !settings.endpoints.is_empty() => Some(ActionClass::Trust),
            Self::ApplySettings(_)
            | Self::UpdateComponent(_)
            | Self::Scan(_)
            | Self::StopScan
            | Self::StopCommand(_)
            | Self::RestoreQuarantined(_) => Some(ActionClass::Change),
            Self::Run(_) | Self::Unsupported(_) => None,
        }
    }
}

impl Settings {
    fn describe(&self) -> Vec<(String, String)> {
        let heartbeat = self.heartbeat.map(|every| ("heartbeat".to_owned(), format!("{every:?}")));
        let filter = self.log_filter.as_ref().map(|filter| ("log_filter".to_owned(), filter.clone()));
        let endpoints = self.endpoints.iter().map(|endpoint| ("endpoint".to_owned(), endpoint.clone()));
        heartbeat.into_iter().chain(endpoints).chain(filter).collect()
    }
}

impl Scan {
    fn describe(&self) -> Vec<(String, String)> {
        let roots = self.roots.iter().map(|root| ("in".to_owned(), root.clone()));
        let excluded = self.exclude.iter().map(|path| ("without".to_owned(), path.clone()));
        let remedy = ("remedy".to_owned(), self.remedy.as_str().to_owned());
        let flags = [("strict", self.is_strict), ("packaged", self.takes_packaged)];
        let flags = flags.into_iter().filter(|(_, is_set)| *is_set);
        let flags = flags.map(|(name, _)| (name.to_owned(), "yes".to_owned()));
        roots.chain(excluded).chain([remedy]).chain(flags).collect()
    }
}

/// What every agent does without being allowed to by a file, and at least how harmful it is: settings with
/// endpoints are of class trust, a scan that may block or quarantine of class change.
pub const OWN_ACTIONS: [(&str, ActionClass); 10] = [
    ("ping", ActionClass::Read),
    ("inventory", ActionClass::Read),
    ("settings", ActionClass::Change),
    ("update-component", ActionClass::Change),
    ("upgrade", ActionClass::Destructive),
    ("scan", ActionClass::Read),
    ("stop-scan", ActionClass::Change),
    ("stop-command", ActionClass::Change),
    ("restore-quarantined", ActionClass::Change),
    ("delete-quarantined", ActionClass::Destructive),
];

/// Whether a text names an action that every agent has.
#[must_use]
pub fn is_own_action(text: &str) -> bool {
    OWN_ACTIONS.iter().any(|(name, _)| *name == text)
}

/// Whether a host's owner may deny an action that every agent has. Nobody denies a ping: it changes nothing,
/// and tells whether the agent obeys.
#[must_use]
pub fn is_deniable(text: &str) -> bool {
    text != "ping" && is_own_action(text)
}

/// Whether a text may name an action of a host's own.
#[must_use]
pub fn is_action_name(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.chars().all(is_allowed) && !is_own_action(text)
}

/// How much harm an action can do, mildest first; unlabelled ones are destructive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActionClass {
    /// Looks.
    Read,
    /// Changes something that can be changed back.
    Change,
    /// Everything else.
    Destructive,
    /// Changes whom the agent obeys.
    Trust,
}

impl ActionClass {
    /// By its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Read, Self::Change, Self::Destructive, Self::Trust]
            .into_iter()
            .find(|class| class.as_str() == name)
    }

    /// Its name in configuration files and outputs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Change => "change",
            Self::Destructive => "destructive",
            Self::Trust => "trust",
        }
    }
}

/// What reaches an agent: the envelope as signed, its own proof, and approvals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Envelope of purpose `command`.
    pub envelope: bytes::Bytes,
    /// This agent's proof.
    pub proof: AudienceProof,
    /// Envelopes of purpose `approval`.
    pub approvals: Vec<bytes::Bytes>,
    /// Envelope of purpose `release`; empty: none.
    pub release: bytes::Bytes,
}

/// An operator's consent to one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// The fleet.
    pub fleet: FleetId,
    /// The command.
    pub command_digest: Digest,
    /// The operator, for the record; the key decides.
    pub approved_by: String,
    /// When.
    pub approved_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_agent_does_is_in_the_table_and_nothing_else() {
        let run = NamedAction { name: "note".to_owned(), parameters: Vec::new() };
        let wire = writ_proto::v1::command::Action::Ping(writ_proto::v1::Ping {});
        let settings = Settings { revision: 1, heartbeat: None, endpoints: Vec::new(), log_filter: None };
        for action in [
            Action::Ping,
            Action::Inventory,
            Action::ApplySettings(settings),
            Action::UpdateComponent(ComponentUpdate {
                component: "file-reputation-filter".to_owned(),
                version: "1".to_owned(),
                sha256: Digest::of(b""),
                bytes: 1,
            }),
            Action::Upgrade(Upgrade {
                packages: Vec::new(),
                greet_within: Duration::from_secs(10),
                allows_older: false,
            }),
            Action::Scan(Scan {
                roots: vec!["/srv".to_owned()],
                exclude: Vec::new(),
                remedy: Remedy::Log,
                is_strict: false,
                takes_packaged: false,
                max_remedied: 0,
                max_file_bytes: 1,
                max_time: Duration::from_secs(1),
                bytes_per_second: None,
                resolves_names: false,
            }),
            Action::StopScan,
            Action::StopCommand(CommandId::from_bytes([1; 16])),
            Action::RestoreQuarantined(Digest::of(b"")),
            Action::DeleteQuarantined(Digest::of(b"")),
            Action::Run(run),
            Action::Unsupported(Unsupported { name: "move_realm", wire }),
        ] {
            // Another action does not compile until it has an arm here; add it to the list above, too.
            match &action {
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
                | Action::Run(_)
                | Action::Unsupported(_) => {}
            }
            let in_table =
                OWN_ACTIONS.iter().find(|(name, _)| *name == action.name()).map(|(_, class)| *class);
            assert_eq!(action.own_class(), in_table, "{}", action.name());
        }
    }
}
