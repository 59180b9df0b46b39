//! What an operator asks agents to do, as the protocol has it.

use std::collections::BTreeSet;
use std::time::Duration;

use writ_common::status::Failure;
use writ_proto::admin::v1::{
    NamedValue, QuarantinedAction, ScanAction, SettingsAction, StopScanAction, SubmitRequest,
    UpdateComponentAction, UpgradeAction, submit_request,
};
use writ_proto::v1::{self as proto, ApplySettings, UpdateComponent};
use writ_protocol::command::{
    Action, ComponentUpdate, NamedAction, Remedy, Scan, Settings, Upgrade, is_own_action,
};
use writ_protocol::id::{Digest, InvalidId};
use writ_protocol::limits::{MAX_COMMAND_LIFETIME, MAX_GREETING_TIME, MIN_GREETING_TIME};
use writ_protocol::place::Place;
use writ_protocol::rollout::Seed;

use super::MAX_NAMED;
use crate::choose::{self, Selection};
use crate::context::Server;
use crate::rollouts::Staging;
use crate::submit::{self, Expectations};
use crate::updates::distribute::{in_force, packages};

const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);

pub(super) fn parse(request: SubmitRequest) -> Result<submit::Request, Failure> {
    let SubmitRequest {
        agents,
        all,
        expires_in_seconds,
        action,
        command_id: id,
        selector,
        rollout,
        unchecked,
        audience_root,
        limit,
        limit_seed,
    } = request;
    let selection = match (all, agents.len(), selector.as_str()) {
        (true, 0, "") => Selection::All,
        (false, 1..=MAX_NAMED, "") => Selection::Named(agents),
        (false, 0, "") => {
            return Err(Failure::invalid("agents", "name agents, give a selector, or set all"));
        }
        (false, 0, selector) => Selection::Matching(choose::parse(selector)?),
        (false, count, "") => {
            return Err(Failure::invalid(
                "agents",
                format!("names {count} agents; name at most {MAX_NAMED}, give a selector, or set all"),
            ));
        }
        _ => return Err(Failure::invalid("all", "choose one: agents, selector or all")),
    };
    let selection = match (limit, Seed::new(limit_seed)) {
        (0, None) => selection,
        (0, Some(_)) => return Err(Failure::invalid("limit_seed", "is given without a limit")),
        (limit, Some(seed)) if limit_seed < 1 << 53 => Selection::Some(Box::new(selection), limit, seed),
        (_, _) => {
            let text = "must be 1 to 2^53 - 1: by it the same agents are picked another time";
            return Err(Failure::invalid("limit_seed", text));
        }
    };
    let lifetime =
        if expires_in_seconds == 0 { DEFAULT_LIFETIME } else { Duration::from_secs(expires_in_seconds) };
    if lifetime > MAX_COMMAND_LIFETIME {
        let text = format!("is {expires_in_seconds}; it must be at most 2592000 (30 days)");
        return Err(Failure::invalid("expires_in_seconds", text));
    }
    let secrets = secrets(action.as_ref());
    let action = parse_action(action)?;
    let id = (!id.is_empty()).then(|| id.parse()).transpose();
    let id =
        id.map_err(|error: InvalidId| Failure::invalid("command_id", format!("{error}; it is a UUID")))?;
    let rollout = rollout.map(Staging::read).transpose()?;
    let audience = (!audience_root.is_empty()).then(|| audience_root.parse::<Digest>()).transpose();
    let audience = audience.map_err(|error| Failure::invalid("audience_root", error.to_string()))?;
    let expects = Expectations { obedience: !unchecked, audience };
    Ok(submit::Request { id, selection, lifetime, action, rollout, parent: None, expects, secrets })
}

/// What it is called in lists.
pub(in crate::admin) fn action_name(action: &submit_request::Action) -> &str {
    match action {
        submit_request::Action::Ping(_) => "ping",
        submit_request::Action::Run(run) => &run.name,
        submit_request::Action::Inventory(_) => "inventory",
        submit_request::Action::Settings(_) => "settings",
        submit_request::Action::UpdateComponent(_) => "update-component",
        submit_request::Action::Upgrade(_) => "upgrade",
        submit_request::Action::Scan(_) => "scan",
        submit_request::Action::StopScan(_) => "stop-scan",
        submit_request::Action::RestoreQuarantined(_) => "restore-quarantined",
        submit_request::Action::DeleteQuarantined(_) => "delete-quarantined",
    }
}

/// Whether a request has parameters that are shown to nobody.
pub(in crate::admin) fn has_secrets(request: &SubmitRequest) -> bool {
    !secrets(request.action.as_ref()).is_empty()
}

fn secrets(action: Option<&submit_request::Action>) -> BTreeSet<String> {
    match action {
        Some(submit_request::Action::Run(run)) => {
            let secret = run.parameters.iter().filter(|given| given.secret);
            secret.map(|given| given.name.clone()).collect()
        }
        _ => BTreeSet::new(),
    }
}

fn parse_action(action: Option<submit_request::Action>) -> Result<Action, Failure> {
    Ok(match action {
        Some(submit_request::Action::Ping(_)) => Action::Ping,
        Some(submit_request::Action::Run(run)) => {
            let mut parameters: Vec<_> = run
                .parameters
                .into_iter()
                .map(|NamedValue { name, value, secret: _ }| (name, value))
                .collect();
            parameters.sort();
            if let Some(pair) = parameters.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return Err(Failure::invalid("run.parameters", format!("`{}` is given twice", pair[0].0)));
            }
            let is_possible =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
            if !run.name.chars().all(is_possible) {
                let text =
                    format!("no action can be called `{}`; names have a-z, 0-9, `-`, `_` and `.`", run.name);
                return Err(Failure::invalid("run.name", text));
            }
            if is_own_action(&run.name) {
                let text = format!("`{0}` is an action that every agent has: writ send {0}", run.name);
                return Err(Failure::invalid("run.name", text));
            }
            let action = NamedAction::new(run.name, parameters);
            Action::Run(action.map_err(|error| Failure::invalid("run", error.to_string()))?)
        }
        Some(submit_request::Action::Inventory(_)) => Action::Inventory,
        Some(submit_request::Action::Settings(settings)) => Action::ApplySettings(parse_settings(settings)?),
        Some(submit_request::Action::UpdateComponent(update)) => {
            let UpdateComponentAction { component, version, sha256, size_bytes } = update;
            let wire = UpdateComponent { component, version, sha256: sha256.into(), size_bytes };
            let update = ComponentUpdate::try_from(wire);
            Action::UpdateComponent(
                update.map_err(|error| Failure::invalid("update_component", error.to_string()))?,
            )
        }
        Some(submit_request::Action::Upgrade(upgrade)) => Action::Upgrade(parse_upgrade(upgrade)?),
        Some(submit_request::Action::Scan(scan)) => Action::Scan(parse_scan(scan)?),
        Some(submit_request::Action::StopScan(StopScanAction {})) => Action::StopScan,
        Some(submit_request::Action::RestoreQuarantined(which)) => {
            Action::RestoreQuarantined(content("restore_quarantined", &which)?)
        }
        Some(submit_request::Action::DeleteQuarantined(which)) => {
            Action::DeleteQuarantined(content("delete_quarantined", &which)?)
        }
        None => {
            let text = "say what to do: ping, run, inventory, settings, update_component, upgrade, scan, stop_scan, restore_quarantined or delete_quarantined";
            return Err(Failure::invalid("action", text));
        }
    })
}

/// A component that is only named is the version that is in force here.
pub(super) fn fill(server: &Server, request: &mut SubmitRequest) -> Result<(), Failure> {
    if let Some(submit_request::Action::UpdateComponent(asked)) = &mut request.action
        && asked.version.is_empty()
        && asked.sha256.is_empty()
        && asked.size_bytes == 0
    {
        *asked = as_asked(in_force(server, &asked.component)?);
    }
    if let Some(submit_request::Action::Upgrade(asked)) = &mut request.action {
        // Whatever else somebody names, hosts would run as root.
        if !asked.packages.is_empty() {
            let text = "must be left out: they are those of the version that are in force here";
            return Err(Failure::invalid("upgrade.packages", text));
        }
        check_upgrade(asked)?;
        asked.packages = packages(server, &asked.version)?.into_iter().map(as_asked).collect();
    }
    Ok(())
}

/// What can be wrong whatever is published.
fn check_upgrade(asked: &UpgradeAction) -> Result<(), Failure> {
    let UpgradeAction { version, greet_within_seconds, .. } = asked;
    if let Err(error) = semver::Version::parse(version) {
        let text = format!("is `{}`, which is no version such as 0.2.0: {error}", version.escape_debug());
        return Err(Failure::invalid("upgrade.version", text));
    }
    let greet_within = Duration::from_secs((*greet_within_seconds).into());
    if *greet_within_seconds != 0 && !(MIN_GREETING_TIME..=MAX_GREETING_TIME).contains(&greet_within) {
        let text = format!("is {greet_within_seconds}; it must be 10 to 1800");
        return Err(Failure::invalid("upgrade.greet_within_seconds", text));
    }
    Ok(())
}

fn as_asked(update: ComponentUpdate) -> UpdateComponentAction {
    let ComponentUpdate { component, version, sha256, bytes } = update;
    UpdateComponentAction { component, version, sha256: sha256.as_bytes().to_vec(), size_bytes: bytes }
}

/// What an operator leaves out is five minutes to greet.
fn parse_upgrade(upgrade: UpgradeAction) -> Result<Upgrade, Failure> {
    let UpgradeAction { version, greet_within_seconds, allow_older, packages } = upgrade;
    let package = |package: UpdateComponentAction| {
        let UpdateComponentAction { component, version, sha256, size_bytes } = package;
        UpdateComponent { component, version, sha256: sha256.into(), size_bytes }
    };
    let greet_within_seconds = if greet_within_seconds == 0 { 300 } else { greet_within_seconds };
    let packages = packages.into_iter().map(package).collect();
    let wire = proto::Upgrade { packages, greet_within_seconds, allow_older };
    let upgrade = Upgrade::try_from(wire).map_err(|error| Failure::invalid("upgrade", error.to_string()))?;
    if upgrade.version() != version {
        let text = format!("is `{}`, and the packages are of {}", version.escape_debug(), upgrade.version());
        return Err(Failure::invalid("upgrade.version", text));
    }
    Ok(upgrade)
}

fn parse_settings(settings: SettingsAction) -> Result<Settings, Failure> {
    let SettingsAction { heartbeat_ms, endpoints, log_filter } = settings;
    let read = endpoints.iter().map(|endpoint| Place::for_others(endpoint).map(|place| place.to_string()));
    let endpoints = read.collect::<Result<Vec<_>, _>>();
    let endpoints = endpoints.map_err(|error| Failure::invalid("settings.endpoints", error.to_string()))?;
    // The revision is given when the command is signed.
    let wire = ApplySettings { revision: 1, heartbeat_ms, endpoints, log_filter };
    Settings::try_from(wire).map_err(|error| Failure::invalid("settings", error.to_string()))
}

/// What an operator leaves out is a scan that a host bears: of an hour, of files up to 1 GiB.
fn parse_scan(scan: ScanAction) -> Result<Scan, Failure> {
    let ScanAction {
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
    } = scan;
    let remedy = match remedy.as_str() {
        "" => Remedy::Log,
        word => Remedy::from_name(word).ok_or_else(|| {
            let text = format!("is `{}`; it must be log, block or quarantine", word.escape_debug());
            Failure::invalid("scan.remedy", text)
        })?,
    };
    let usual = |given: u64, usual: u64| if given == 0 { usual } else { given };
    let usually_remedied = if remedy == Remedy::Log { 0 } else { 16 };
    let wire = proto::Scan {
        roots,
        exclude,
        remedy: remedy.to_proto().into(),
        strict,
        packaged,
        max_remedied: if max_remedied == 0 { usually_remedied } else { max_remedied },
        max_file_bytes: usual(max_file_bytes, 1 << 30),
        max_seconds: if max_seconds == 0 { 3600 } else { max_seconds },
        bytes_per_second,
        resolve,
    };
    Scan::try_from(wire).map_err(|error| Failure::invalid("scan", error.to_string()))
}

/// Of which content files are.
fn content(field: &'static str, which: &QuarantinedAction) -> Result<Digest, Failure> {
    let text = "must be the SHA-256 of the files' content, 64 hex digits in lower case";
    which.sha256.parse().map_err(|_| Failure::invalid(field, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use writ_proto::admin::v1::{InventoryAction, NamedAction as Named, PingAction};

    /// As an operator asks for it. An action of the protocol without an arm here does not compile; add it to
    /// the list of the test, too.
    fn asked(action: &Action) -> Option<submit_request::Action> {
        match action {
            Action::Ping => Some(submit_request::Action::Ping(PingAction {})),
            Action::Run(NamedAction { name, parameters }) => {
                let value = |(name, value): &(String, String)| NamedValue {
                    name: name.clone(),
                    value: value.clone(),
                    secret: false,
                };
                let parameters = parameters.iter().map(value).collect();
                Some(submit_request::Action::Run(Named { name: name.clone(), parameters }))
            }
            Action::Inventory => Some(submit_request::Action::Inventory(InventoryAction {})),
            Action::ApplySettings(settings) => {
                let ApplySettings { revision: _, heartbeat_ms, endpoints, log_filter } = settings.into();
                let asked = SettingsAction { heartbeat_ms, endpoints, log_filter };
                Some(submit_request::Action::Settings(asked))
            }
            Action::UpdateComponent(update) => {
                let UpdateComponent { component, version, sha256, size_bytes } = update.into();
                let sha256 = sha256.to_vec();
                let asked = UpdateComponentAction { component, version, sha256, size_bytes };
                Some(submit_request::Action::UpdateComponent(asked))
            }
            Action::Upgrade(upgrade) => {
                let Upgrade { packages, greet_within, allows_older } = upgrade.clone();
                Some(submit_request::Action::Upgrade(UpgradeAction {
                    version: upgrade.version().to_owned(),
                    greet_within_seconds: u32::try_from(greet_within.as_secs()).unwrap(),
                    allow_older: allows_older,
                    packages: packages.into_iter().map(as_asked).collect(),
                }))
            }
            Action::Scan(scan) => {
                let proto::Scan {
                    roots,
                    exclude,
                    remedy: _,
                    strict,
                    packaged,
                    max_remedied,
                    max_file_bytes,
                    max_seconds,
                    bytes_per_second,
                    resolve,
                } = scan.into();
                let remedy = scan.remedy.as_str().to_owned();
                let asked = ScanAction {
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
                };
                Some(submit_request::Action::Scan(asked))
            }
            Action::StopScan => Some(submit_request::Action::StopScan(StopScanAction {})),
            Action::RestoreQuarantined(sha256) => {
                let which = QuarantinedAction { sha256: sha256.to_string() };
                Some(submit_request::Action::RestoreQuarantined(which))
            }
            Action::DeleteQuarantined(sha256) => {
                let which = QuarantinedAction { sha256: sha256.to_string() };
                Some(submit_request::Action::DeleteQuarantined(which))
            }
            // Asked for by a call of its own: who is told to end it, the server knows.
            Action::StopCommand(_) | Action::Unsupported(_) => None,
        }
    }

    #[test]
    fn every_action_can_be_submitted() {
        let parameters = vec![("unit".to_owned(), "nginx.service".to_owned())];
        let settings = Settings {
            revision: 1,
            heartbeat: Some(Duration::from_secs(30)),
            endpoints: vec!["server.example:7443".to_owned()],
            log_filter: Some("info".to_owned()),
        };
        for action in [
            Action::Ping,
            Action::Run(NamedAction::new("restart".to_owned(), parameters).unwrap()),
            Action::Inventory,
            Action::ApplySettings(settings),
            Action::UpdateComponent(ComponentUpdate {
                component: "file-reputation-filter".to_owned(),
                version: "2026-11-29".to_owned(),
                sha256: Digest::of(b"a filter"),
                bytes: 8,
            }),
            Action::Upgrade(Upgrade {
                packages: vec![ComponentUpdate {
                    component: "agent-deb-amd64".to_owned(),
                    version: "0.2.0".to_owned(),
                    sha256: Digest::of(b"a package"),
                    bytes: 9,
                }],
                greet_within: Duration::from_secs(60),
                allows_older: true,
            }),
            Action::Scan(Scan {
                roots: vec!["/srv".to_owned()],
                exclude: vec!["/srv/cache".to_owned()],
                remedy: Remedy::Quarantine,
                is_strict: true,
                takes_packaged: true,
                max_remedied: 3,
                max_file_bytes: 4,
                max_time: Duration::from_secs(5),
                bytes_per_second: Some(6),
                resolves_names: true,
            }),
            Action::StopScan,
            Action::RestoreQuarantined(Digest::of(b"a file")),
            Action::DeleteQuarantined(Digest::of(b"a file")),
        ] {
            let request = SubmitRequest { all: true, action: asked(&action), ..SubmitRequest::default() };
            assert_eq!(parse(request).unwrap().action, action);
        }
    }
}
