//! `writ-agent status`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use writ_common::daemon::Fatal;
use writ_common::say;
use writ_common::time::{Clock as _, SystemClock};
use writ_common::users;
use writ_protocol::component::OF_AGENTS;

use super::{Output, StatusOptions};
use crate::VERSION;
use crate::components::{self, HeldComponent};
use crate::config::Config;
use crate::execute::ActionTable;
use crate::identity::{Files, Identity};
use crate::link_state::{LinkState, action_rows};
use crate::replay::look::{self, Question};
use crate::scan;
use crate::trust::Trust;
use crate::upgrade::asked::Upgrades;
use crate::upgrade::{self, Place, Standing};

#[derive(Serialize)]
struct Shown {
    version: &'static str,
    agent_id: String,
    name: String,
    realm: String,
    fleet_id: String,
    fleet_name: String,
    key_id: String,
    bundle_version: u64,
    bundle_digest: String,
    signing: Vec<Signing>,
    running: bool,
    connected: bool,
    endpoint: String,
    reason: String,
    /// Why the next three are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<String>,
    journal_counter: Option<u64>,
    remembered_commands: Option<u64>,
    time_floor: Option<String>,
    actions: Vec<String>,
    /// What it was told to hold, by name; what is wrong with it, instead of a version.
    components: BTreeMap<&'static str, ComponentShown>,
    /// How it is upgraded by commands, if root of this host lets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    upgrade: Option<UpgradeShown>,
    /// The scan that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    scan: Option<scan::Progress>,
    /// Files that scans moved away.
    quarantine: Vec<scan::Kept>,
    /// What is wrong with files of the quarantine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    quarantine_damaged: Vec<String>,
}

#[derive(Serialize)]
struct UpgradeShown {
    /// The component that brings its packages.
    component: String,
    /// The last one, as root's side noted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Standing>,
}

impl UpgradeShown {
    fn of(files: &Files) -> Option<Self> {
        let place = Place::new(Path::new(upgrade::FOLDER));
        let component = Upgrades::load(place.clone(), files).component()?.to_owned();
        Some(Self { component, last: place.standing().ok().flatten() })
    }

    fn describe(&self) -> String {
        let last = self.last.as_ref().map(|last| {
            let why = if last.why.is_empty() { String::new() } else { format!(": {}", last.why) };
            format!("; the last, to {}: {}{why}", last.to, last.phase.as_str())
        });
        format!("by {}{}", self.component, last.unwrap_or_default())
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum ComponentShown {
    Held(HeldComponent),
    Damaged { error: String },
}

fn components(files: &Files) -> BTreeMap<&'static str, ComponentShown> {
    let shown = |(name, _): (&'static str, _)| match components::read(&files.components(), name) {
        Ok(held) => held.map(|held| (name, ComponentShown::Held(held))),
        Err(error) => Some((name, ComponentShown::Damaged { error })),
    };
    OF_AGENTS.into_iter().filter_map(shown).collect()
}

#[derive(Serialize)]
struct Signing {
    key_id: String,
    sign_from: String,
    accept_until: String,
    revoked: bool,
    realms: Vec<String>,
}

pub(super) fn status(options: StatusOptions) -> Result<(), Fatal> {
    let StatusOptions { place, output } = options;
    let config = Config::load(place.config.as_deref(), place.data_dir.as_deref()).map_err(Fatal::usage)?;
    let files = Files::new(&config.data_dir);
    let identity = Identity::load(&files).map_err(Fatal::failure)?;
    let chain = Trust::load(&files).map_err(Fatal::failure)?.chain();
    let head = chain.head();
    let link = LinkState::read(&files);
    let now = SystemClock::new().wall();
    let asked = look::ask(&files, Question { command: None, now, max_entries: config.max_entries });
    let journal = asked.as_ref().err().map(ToString::to_string);
    let facts = asked.ok().map(|answer| answer.facts);
    let running = link.is_running();
    let reason = match (running, link.connected) {
        (false, _) => {
            format!("the agent is not running; start it: {}", place.start().how())
        }
        (true, false) => link.told(now),
        (true, true) => String::new(),
    };
    // What the running agent has loaded, not what somebody has written since.
    let actions = if running {
        link.actions
    } else {
        ActionTable::load(
            &config.actions_dir,
            &config.denied_actions,
            users::owner_of(files.folder()).unwrap_or_else(users::own_uid),
        )
        .map_or_else(
            |problems| problems.iter().map(|problem| format!("cannot be loaded: {problem}")).collect(),
            |table| action_rows(&table),
        )
    };
    let (quarantine, quarantine_damaged) = scan::quarantined(&config.data_dir);
    let shown = Shown {
        version: VERSION,
        agent_id: identity.record.agent.to_string(),
        name: identity.record.name,
        realm: identity.record.realm,
        fleet_id: identity.record.fleet.to_string(),
        fleet_name: head.bundle.fleet_name.clone(),
        key_id: identity.record.public_key.id().to_string(),
        bundle_version: head.bundle.version,
        bundle_digest: head.digest.to_string(),
        signing: head
            .bundle
            .signing
            .iter()
            .map(|entry| Signing {
                key_id: entry.certificate.key().id().to_string(),
                sign_from: entry.sign_from.to_string(),
                accept_until: entry.accept_until.to_string(),
                revoked: entry.revoked,
                realms: entry.realms.clone(),
            })
            .collect(),
        running,
        connected: running && link.connected,
        endpoint: link.endpoint,
        reason,
        journal,
        journal_counter: facts.map(|facts| facts.counter),
        remembered_commands: facts.map(|facts| facts.entries),
        time_floor: facts.map(|facts| facts.floor.to_string()),
        actions,
        components: components(&files),
        upgrade: UpgradeShown::of(&files),
        scan: scan::progress(&config.data_dir).filter(|_| running),
        quarantine,
        quarantine_damaged,
    };
    let text = match output {
        Output::Json => serde_json::to_string_pretty(&shown).map_err(Fatal::failure)?,
        Output::Text => describe(&shown),
    };
    say::result(text.trim_end()).map_err(Fatal::failure)
}

fn describe(shown: &Shown) -> String {
    let link = match (shown.connected, shown.reason.as_str()) {
        (true, _) => format!("connected to {}", shown.endpoint),
        (false, "") => "not connected".to_owned(),
        (false, reason) => format!("not connected: {reason}"),
    };
    let mut text = format!(
        "{} ({})\n  fleet      {} ({})\n  realm      {}\n  key        {}\n  link       {link}\n  bundle     {} ({})\n",
        shown.name,
        shown.agent_id,
        shown.fleet_name,
        shown.fleet_id,
        shown.realm,
        shown.key_id,
        shown.bundle_version,
        shown.bundle_digest
    );
    for signing in &shown.signing {
        let state = if signing.revoked { "revoked" } else { "until" };
        let realms = signing.realms.join(", ");
        let _ =
            writeln!(text, "  obeys      {} {state} {} for {realms}", signing.key_id, signing.accept_until);
    }
    let journal = shown.journal.clone().unwrap_or_else(|| {
        format!(
            "counter {}, {} commands remembered, time floor {}",
            shown.journal_counter.unwrap_or_default(),
            shown.remembered_commands.unwrap_or_default(),
            shown.time_floor.as_deref().unwrap_or("none")
        )
    });
    let _ = writeln!(text, "  journal    {journal}\n  actions    {}", shown.actions.join(", "));
    for (name, component) in &shown.components {
        let what = match component {
            ComponentShown::Held(held) => format!("{}, {} bytes", held.version, held.bytes),
            ComponentShown::Damaged { error } => format!("damaged, it will be sent again: {error}"),
        };
        let _ = writeln!(text, "  holds      {name} {what}");
    }
    if let Some(upgrade) = &shown.upgrade {
        let _ = writeln!(text, "  upgraded   {}", upgrade.describe());
    }
    if let Some(scan::Progress { files, bytes, at }) = &shown.scan {
        let _ = writeln!(text, "  scan       {files} files, {bytes} bytes; in {at}");
    }
    for scan::Kept { path, sha256, bytes, .. } in &shown.quarantine {
        let _ = writeln!(text, "  quarantine {path}, {bytes} bytes, {sha256}");
    }
    for why in &shown.quarantine_damaged {
        let _ = writeln!(text, "  quarantine damaged: {why}");
    }
    text
}
