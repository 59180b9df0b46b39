//! `command.proto`.

use std::time::Duration;

use writ_proto::v1 as proto;

use super::field::{self, invalid, missing};
use crate::audience::{Audience, AudienceProof};
use crate::command::{
    Action, ActionClass, Approval, Command, ComponentUpdate, Delivery, NamedAction, Remedy, Scan, Settings,
    Unsupported, Upgrade, Window,
};
use crate::component::{is_component_name, is_component_version, is_package};
use crate::envelope::InvalidDocument;
use crate::limits::{
    MAX_AGENT_COMPONENT_BYTES, MAX_APPROVALS, MAX_AUDIENCE, MAX_COMMAND_LIFETIME, MAX_ENDPOINTS,
    MAX_GREETING_TIME, MAX_LOG_FILTER_BYTES, MAX_PARAMETER_BYTES, MAX_PARAMETERS, MAX_PROOF_PATH,
    MAX_REMEDIED, MAX_SCAN_PATHS, MIN_GREETING_TIME,
};
use crate::place::server_name;
use crate::rollout::{Release, Seed};
use crate::time::Timestamp;

impl TryFrom<proto::Command> for Command {
    type Error = InvalidDocument;

    fn try_from(message: proto::Command) -> Result<Self, InvalidDocument> {
        let proto::Command {
            command_id,
            fleet_id,
            audience,
            issued_at_ms,
            not_before_ms,
            expires_at_ms,
            requested_by,
            rollout,
            action,
        } = message;
        let proto::Audience { root, count } = audience.ok_or_else(|| missing("audience"))?;
        Ok(Self {
            id: field::command("command_id", &command_id)?,
            fleet: field::fleet("fleet_id", &fleet_id)?,
            audience: Audience { root: field::digest("audience.root", &root)?, count },
            window: Window::new(
                field::time("issued_at_ms", issued_at_ms)?,
                field::time("not_before_ms", not_before_ms)?,
                field::time("expires_at_ms", expires_at_ms)?,
            )?,
            requested_by: field::name("requested_by", requested_by)?,
            rollout: rollout.map(Seed::try_from).transpose()?,
            action: action.ok_or_else(|| missing("action"))?.try_into()?,
        })
    }
}

impl From<&Command> for proto::Command {
    fn from(command: &Command) -> Self {
        let Command { id, fleet, audience, window, requested_by, rollout, action } = command;
        Self {
            command_id: id.as_bytes().to_vec().into(),
            fleet_id: fleet.as_bytes().to_vec().into(),
            audience: Some(proto::Audience {
                root: audience.root.as_bytes().to_vec().into(),
                count: audience.count,
            }),
            issued_at_ms: window.issued_at.as_millis(),
            not_before_ms: window.not_before.as_millis(),
            expires_at_ms: window.expires_at.as_millis(),
            requested_by: requested_by.clone(),
            rollout: rollout.map(|seed| proto::Rollout { seed: seed.get() }),
            action: Some(action.into()),
        }
    }
}

impl Window {
    /// A window that is neither empty nor longer than 30 days.
    ///
    /// # Errors
    /// When it is.
    pub fn new(
        issued_at: Timestamp,
        not_before: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Self, InvalidDocument> {
        // An issue date in the future would let a command outlive the 30 days.
        if not_before < issued_at {
            return Err(invalid("not_before_ms", "must not be before issued_at_ms"));
        }
        if expires_at <= not_before {
            return Err(invalid("expires_at_ms", "must be later than not_before_ms"));
        }
        if expires_at.since(issued_at) > MAX_COMMAND_LIFETIME {
            return Err(invalid("expires_at_ms", "must be at most 30 days after issued_at_ms"));
        }
        Ok(Self { issued_at, not_before, expires_at })
    }
}

impl TryFrom<proto::command::Action> for Action {
    type Error = InvalidDocument;

    fn try_from(action: proto::command::Action) -> Result<Self, InvalidDocument> {
        use proto::command::Action as Wire;
        let unsupported = |name, wire| Ok(Self::Unsupported(Unsupported { name, wire }));
        match action {
            Wire::Ping(proto::Ping {}) => Ok(Self::Ping),
            Wire::Run(run) => run.try_into().map(Self::Run),
            Wire::Inventory(proto::Inventory {}) => Ok(Self::Inventory),
            Wire::ApplySettings(settings) => settings.try_into().map(Self::ApplySettings),
            Wire::UpdateComponent(update) => update.try_into().map(Self::UpdateComponent),
            Wire::Upgrade(upgrade) => upgrade.try_into().map(Self::Upgrade),
            Wire::Scan(scan) => scan.try_into().map(Self::Scan),
            Wire::StopScan(proto::StopScan {}) => Ok(Self::StopScan),
            Wire::StopCommand(proto::StopCommand { command_id }) => {
                Ok(Self::StopCommand(field::command("stop_command.command_id", &command_id)?))
            }
            Wire::RestoreQuarantined(proto::RestoreQuarantined { sha256 }) => {
                Ok(Self::RestoreQuarantined(field::digest("restore_quarantined.sha256", &sha256)?))
            }
            Wire::DeleteQuarantined(proto::DeleteQuarantined { sha256 }) => {
                Ok(Self::DeleteQuarantined(field::digest("delete_quarantined.sha256", &sha256)?))
            }
            wire @ Wire::MoveRealm(_) => unsupported("move_realm", wire),
            wire @ Wire::RotateIdentity(_) => unsupported("rotate_identity", wire),
        }
    }
}

impl From<&Action> for proto::command::Action {
    fn from(action: &Action) -> Self {
        match action {
            Action::Ping => Self::Ping(proto::Ping {}),
            Action::Run(NamedAction { name, parameters }) => Self::Run(proto::RunAction {
                name: name.clone(),
                parameters: parameters
                    .iter()
                    .map(|(name, value)| proto::Parameter { name: name.clone(), value: value.clone() })
                    .collect(),
            }),
            Action::Inventory => Self::Inventory(proto::Inventory {}),
            Action::ApplySettings(settings) => Self::ApplySettings(settings.into()),
            Action::UpdateComponent(update) => Self::UpdateComponent(update.into()),
            Action::Upgrade(upgrade) => Self::Upgrade(upgrade.into()),
            Action::Scan(scan) => Self::Scan(scan.into()),
            Action::StopScan => Self::StopScan(proto::StopScan {}),
            Action::StopCommand(command) => {
                Self::StopCommand(proto::StopCommand { command_id: command.as_bytes().to_vec().into() })
            }
            Action::RestoreQuarantined(sha256) => Self::RestoreQuarantined(proto::RestoreQuarantined {
                sha256: sha256.as_bytes().to_vec().into(),
            }),
            Action::DeleteQuarantined(sha256) => Self::DeleteQuarantined(proto::DeleteQuarantined {
                sha256: sha256.as_bytes().to_vec().into(),
            }),
            Action::Unsupported(action) => action.wire.clone(),
        }
    }
}

impl TryFrom<proto::ApplySettings> for Settings {
    type Error = InvalidDocument;

    fn try_from(message: proto::ApplySettings) -> Result<Self, InvalidDocument> {
        let proto::ApplySettings { revision, heartbeat_ms, endpoints, log_filter } = message;
        if revision == 0 {
            return Err(missing("settings.revision"));
        }
        let heartbeat = match heartbeat_ms {
            0 => None,
            1_000..=3_600_000 => Some(Duration::from_millis(heartbeat_ms.into())),
            _ => return Err(invalid("settings.heartbeat_ms", "must be 1 s to 1 h, or 0 for the server's")),
        };
        if endpoints.len() > MAX_ENDPOINTS {
            return Err(invalid("settings.endpoints", "must be at most 8"));
        }
        for endpoint in &endpoints {
            server_name(endpoint).map_err(|error| invalid("settings.endpoints", error.to_string()))?;
        }
        if log_filter.len() > MAX_LOG_FILTER_BYTES || log_filter.contains(char::is_control) {
            return Err(invalid(
                "settings.log_filter",
                "must have at most 1024 bytes and no control characters",
            ));
        }
        let log_filter = Some(log_filter).filter(|filter| !filter.is_empty());
        Ok(Self { revision, heartbeat, endpoints, log_filter })
    }
}

impl From<&Settings> for proto::ApplySettings {
    fn from(settings: &Settings) -> Self {
        let Settings { revision, heartbeat, endpoints, log_filter } = settings;
        let millis = heartbeat.map_or(0, |every| u32::try_from(every.as_millis()).unwrap_or(u32::MAX));
        Self {
            revision: *revision,
            heartbeat_ms: millis,
            endpoints: endpoints.clone(),
            log_filter: log_filter.clone().unwrap_or_default(),
        }
    }
}

impl TryFrom<proto::UpdateComponent> for ComponentUpdate {
    type Error = InvalidDocument;

    fn try_from(message: proto::UpdateComponent) -> Result<Self, InvalidDocument> {
        let proto::UpdateComponent { component, version, sha256, size_bytes } = message;
        if !is_component_name(&component) {
            return Err(invalid("update_component.component", "must be 1 to 64 of a-z, 0-9 and hyphens"));
        }
        if !is_component_version(&version) {
            let rule = "must be 1 to 64 of letters, digits, `.`, `-`, `_` and `+`";
            return Err(invalid("update_component.version", rule));
        }
        if !(1..=MAX_AGENT_COMPONENT_BYTES).contains(&size_bytes) {
            return Err(invalid("update_component.size_bytes", "must be 1 to 268435456"));
        }
        let sha256 = field::digest("update_component.sha256", &sha256)?;
        Ok(Self { component, version, sha256, bytes: size_bytes })
    }
}

impl From<&ComponentUpdate> for proto::UpdateComponent {
    fn from(update: &ComponentUpdate) -> Self {
        let ComponentUpdate { component, version, sha256, bytes } = update;
        Self {
            component: component.clone(),
            version: version.clone(),
            sha256: sha256.as_bytes().to_vec().into(),
            size_bytes: *bytes,
        }
    }
}

impl TryFrom<proto::Upgrade> for Upgrade {
    type Error = InvalidDocument;

    fn try_from(message: proto::Upgrade) -> Result<Self, InvalidDocument> {
        let proto::Upgrade { packages, greet_within_seconds, allow_older } = message;
        if !(1..=MAX_PACKAGES).contains(&packages.len()) {
            return Err(invalid("upgrade.packages", "must be 1 to 16"));
        }
        let packages: Vec<_> =
            packages.into_iter().map(ComponentUpdate::try_from).collect::<Result<_, _>>()?;
        if !packages.iter().all(|package| is_package(&package.component)) {
            return Err(invalid("upgrade.packages", "must each be a component `agent-` and a kind"));
        }
        if !packages.is_sorted_by(|one, next| one.component < next.component) {
            return Err(invalid("upgrade.packages", "must be strictly ascending by component"));
        }
        if packages.iter().any(|package| package.version != packages[0].version) {
            return Err(invalid("upgrade.packages", "must all be of one version"));
        }
        let greet_within = Duration::from_secs(greet_within_seconds.into());
        if !(MIN_GREETING_TIME..=MAX_GREETING_TIME).contains(&greet_within) {
            return Err(invalid("upgrade.greet_within_seconds", "must be 10 to 1800"));
        }
        Ok(Self { packages, greet_within, allows_older: allow_older })
    }
}

impl From<&Upgrade> for proto::Upgrade {
    fn from(upgrade: &Upgrade) -> Self {
        let Upgrade { packages, greet_within, allows_older } = upgrade;
        Self {
            packages: packages.iter().map(Into::into).collect(),
            greet_within_seconds: u32::try_from(greet_within.as_secs()).unwrap_or(u32::MAX),
            allow_older: *allows_older,
        }
    }
}

/// Packages of one upgrade.
const MAX_PACKAGES: usize = 16;

/// Bytes of a path: PATH_MAX of Linux.
const MAX_PATH_BYTES: usize = 4096;

/// Whether a text is the path of one place only, whoever reads it.
fn is_plain_path(text: &str) -> bool {
    let is_plain = |part: &str| !matches!(part, "" | "." | "..");
    let below = text.strip_prefix('/');
    text.len() <= MAX_PATH_BYTES
        && !text.contains(char::is_control)
        && below.is_some_and(|below| below.is_empty() || below.split('/').all(is_plain))
}

impl TryFrom<proto::Scan> for Scan {
    type Error = InvalidDocument;

    fn try_from(message: proto::Scan) -> Result<Self, InvalidDocument> {
        let proto::Scan {
            roots,
            exclude,
            remedy,
            strict,
            packaged,
            max_remedied,
            max_file_bytes,
            max_seconds,
            bytes_per_second,
            resolve,
        } = message;
        if !(1..=MAX_SCAN_PATHS).contains(&roots.len()) {
            return Err(invalid("scan.roots", "must be 1 to 64 paths"));
        }
        if exclude.len() > MAX_SCAN_PATHS {
            return Err(invalid("scan.exclude", "must be at most 64 paths"));
        }
        if let Some(bad) = roots.iter().chain(&exclude).find(|path| !is_plain_path(path)) {
            let rule = "must be absolute paths of at most 4096 bytes, without `.`, `..`, an empty part and control characters";
            let shown: String = bad.escape_debug().take(100).collect();
            return Err(invalid("scan.roots and scan.exclude", format!("{rule}; one is `{shown}`")));
        }
        let remedy = Remedy::from_proto(remedy)
            .ok_or_else(|| invalid("scan.remedy", "must be log, block or quarantine"))?;
        let changes = strict || packaged || max_remedied > 0;
        match remedy {
            Remedy::Log if changes => {
                let rule = "must be block or quarantine with strict, packaged or max_remedied";
                return Err(invalid("scan.remedy", rule));
            }
            Remedy::Block | Remedy::Quarantine if !(1..=MAX_REMEDIED).contains(&max_remedied) => {
                return Err(invalid("scan.max_remedied", "must be 1 to 10000"));
            }
            Remedy::Log | Remedy::Block | Remedy::Quarantine => {}
        }
        if max_file_bytes == 0 {
            return Err(missing("scan.max_file_bytes"));
        }
        if !(1..=86_400).contains(&max_seconds) {
            return Err(invalid("scan.max_seconds", "must be 1 to 86400"));
        }
        Ok(Self {
            roots,
            exclude,
            remedy,
            is_strict: strict,
            takes_packaged: packaged,
            max_remedied,
            max_file_bytes,
            max_time: Duration::from_secs(max_seconds.into()),
            bytes_per_second: Some(bytes_per_second).filter(|pace| *pace > 0),
            resolves_names: resolve,
        })
    }
}

impl From<&Scan> for proto::Scan {
    fn from(scan: &Scan) -> Self {
        let Scan {
            roots,
            exclude,
            remedy,
            is_strict,
            takes_packaged,
            max_remedied,
            max_file_bytes,
            max_time,
            bytes_per_second,
            resolves_names,
        } = scan;
        Self {
            roots: roots.clone(),
            exclude: exclude.clone(),
            remedy: remedy.to_proto().into(),
            strict: *is_strict,
            packaged: *takes_packaged,
            max_remedied: *max_remedied,
            max_file_bytes: *max_file_bytes,
            max_seconds: u32::try_from(max_time.as_secs()).unwrap_or(u32::MAX),
            bytes_per_second: bytes_per_second.unwrap_or(0),
            resolve: *resolves_names,
        }
    }
}

impl Remedy {
    /// From a document; `None` for "unspecified" and for remedies of a newer protocol.
    #[must_use]
    pub fn from_proto(remedy: i32) -> Option<Self> {
        match proto::Remedy::try_from(remedy).ok()? {
            proto::Remedy::Unspecified => None,
            proto::Remedy::Log => Some(Self::Log),
            proto::Remedy::Block => Some(Self::Block),
            proto::Remedy::Quarantine => Some(Self::Quarantine),
        }
    }

    /// As in signed documents.
    #[must_use]
    pub const fn to_proto(self) -> proto::Remedy {
        match self {
            Self::Log => proto::Remedy::Log,
            Self::Block => proto::Remedy::Block,
            Self::Quarantine => proto::Remedy::Quarantine,
        }
    }
}

impl TryFrom<proto::RunAction> for NamedAction {
    type Error = InvalidDocument;

    fn try_from(message: proto::RunAction) -> Result<Self, InvalidDocument> {
        let proto::RunAction { name, parameters } = message;
        Self::new(
            name,
            parameters.into_iter().map(|proto::Parameter { name, value }| (name, value)).collect(),
        )
    }
}

impl NamedAction {
    /// An action with its parameters, which must be strictly ascending by name.
    ///
    /// # Errors
    /// When a name or value is outside its bounds, or the order is wrong.
    pub fn new(name: String, parameters: Vec<(String, String)>) -> Result<Self, InvalidDocument> {
        let name = field::name("run.name", name)?;
        if parameters.len() > MAX_PARAMETERS {
            return Err(invalid("run.parameters", "must be at most 64"));
        }
        if !parameters.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(invalid("run.parameters", "must be strictly ascending by name"));
        }
        for (name, value) in &parameters {
            field::name("run.parameters.name", name.clone())?;
            if value.len() > MAX_PARAMETER_BYTES {
                return Err(invalid("run.parameters.value", "must have at most 4096 bytes"));
            }
        }
        Ok(Self { name, parameters })
    }
}

impl TryFrom<proto::AudienceProof> for AudienceProof {
    type Error = InvalidDocument;

    fn try_from(message: proto::AudienceProof) -> Result<Self, InvalidDocument> {
        let proto::AudienceProof { index, path } = message;
        // One more than any audience needs may pass, so that the audience itself can name the fault.
        if path.len() > MAX_PROOF_PATH + 1 {
            return Err(invalid("proof.path", "must have at most 20 hashes"));
        }
        let path = path.iter().map(|hash| field::digest("proof.path", hash)).collect::<Result<_, _>>()?;
        Ok(Self { index, path })
    }
}

impl From<&AudienceProof> for proto::AudienceProof {
    fn from(proof: &AudienceProof) -> Self {
        let AudienceProof { index, path } = proof;
        Self { index: *index, path: path.iter().map(|hash| hash.as_bytes().to_vec().into()).collect() }
    }
}

impl TryFrom<proto::Delivery> for Delivery {
    type Error = InvalidDocument;

    fn try_from(message: proto::Delivery) -> Result<Self, InvalidDocument> {
        let proto::Delivery { envelope, proof, approvals, release } = message;
        if approvals.len() > MAX_APPROVALS {
            return Err(invalid("approvals", "must be at most 16"));
        }
        Ok(Self { envelope, proof: proof.ok_or_else(|| missing("proof"))?.try_into()?, approvals, release })
    }
}

impl From<&Delivery> for proto::Delivery {
    fn from(delivery: &Delivery) -> Self {
        let Delivery { envelope, proof, approvals, release } = delivery;
        let (envelope, release) = (envelope.clone(), release.clone());
        Self { envelope, proof: Some(proof.into()), approvals: approvals.clone(), release }
    }
}

impl TryFrom<proto::Rollout> for Seed {
    type Error = InvalidDocument;

    fn try_from(message: proto::Rollout) -> Result<Self, InvalidDocument> {
        let proto::Rollout { seed } = message;
        Self::new(seed).ok_or_else(|| invalid("rollout.seed", "must be at least 1"))
    }
}

impl TryFrom<proto::Release> for Release {
    type Error = InvalidDocument;

    fn try_from(message: proto::Release) -> Result<Self, InvalidDocument> {
        let proto::Release { fleet_id, command_digest, released, released_at_ms } = message;
        if released == 0 || released > MAX_AUDIENCE {
            return Err(invalid("released", "must be 1 to 2^20"));
        }
        Ok(Self {
            fleet: field::fleet("fleet_id", &fleet_id)?,
            command_digest: field::digest("command_digest", &command_digest)?,
            released,
            released_at: field::time("released_at_ms", released_at_ms)?,
        })
    }
}

impl From<&Release> for proto::Release {
    fn from(release: &Release) -> Self {
        let Release { fleet, command_digest, released, released_at } = release;
        Self {
            fleet_id: fleet.as_bytes().to_vec().into(),
            command_digest: command_digest.as_bytes().to_vec().into(),
            released: *released,
            released_at_ms: released_at.as_millis(),
        }
    }
}

impl TryFrom<proto::Approval> for Approval {
    type Error = InvalidDocument;

    fn try_from(message: proto::Approval) -> Result<Self, InvalidDocument> {
        let proto::Approval { fleet_id, command_digest, approved_by, approved_at_ms } = message;
        Ok(Self {
            fleet: field::fleet("fleet_id", &fleet_id)?,
            command_digest: field::digest("command_digest", &command_digest)?,
            approved_by: field::name("approved_by", approved_by)?,
            approved_at: field::time("approved_at_ms", approved_at_ms)?,
        })
    }
}

impl From<&Approval> for proto::Approval {
    fn from(approval: &Approval) -> Self {
        let Approval { fleet, command_digest, approved_by, approved_at } = approval;
        Self {
            fleet_id: fleet.as_bytes().to_vec().into(),
            command_digest: command_digest.as_bytes().to_vec().into(),
            approved_by: approved_by.clone(),
            approved_at_ms: approved_at.as_millis(),
        }
    }
}

impl ActionClass {
    /// As in signed documents.
    #[must_use]
    pub const fn to_proto(self) -> proto::ActionClass {
        match self {
            Self::Read => proto::ActionClass::Read,
            Self::Change => proto::ActionClass::Change,
            Self::Destructive => proto::ActionClass::Destructive,
            Self::Trust => proto::ActionClass::Trust,
        }
    }

    /// From a signed document; `None` for "unspecified" and for classes of a newer protocol.
    #[must_use]
    pub fn from_proto(class: i32) -> Option<Self> {
        match proto::ActionClass::try_from(class).ok()? {
            proto::ActionClass::Unspecified => None,
            proto::ActionClass::Read => Some(Self::Read),
            proto::ActionClass::Change => Some(Self::Change),
            proto::ActionClass::Destructive => Some(Self::Destructive),
            proto::ActionClass::Trust => Some(Self::Trust),
        }
    }
}
