//! `writ-agent explain`: what this agent would say to a command, check by check, without starting anything.

use prost::Message as _;
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use writ_common::daemon::Fatal;
use writ_common::files;
use writ_common::say;
use writ_common::time::{Clock as _, SystemClock};
use writ_common::users;
use writ_proto::v1 as proto;
use writ_protocol::admission::{JournalView, Novelty, check_approvals};
use writ_protocol::command::{Action, Command, Delivery};
use writ_protocol::evidence::Evidence;
use writ_protocol::refusal::{Refusal, RefusalCode};
use writ_protocol::time::Timestamp;
use writ_protocol::trust::{Chain, TrustBundle};
use writ_protocol::verify::{VerifiedCommand, Verifier};

use super::{Explain, Output};
use crate::config::Config;
use crate::execute::ActionTable;
use crate::identity::{Files, Identity};
use crate::replay::JournalError;
use crate::replay::look::{self, Answer, Question};
use crate::settings::{self, SettingsError};
use crate::trust::Trust;
use crate::upgrade::asked::Upgrades;
use crate::upgrade::{self, Place};

/// The checks of protocol.md §4, in their order.
const CHECKS: [&str; 12] = [
    "size: the envelope is not too large",
    "shape: it is one DSSE envelope",
    "signature: by a key this agent's trust bundle accepts now, for its realm",
    "purpose: it was signed as a command",
    "payload: canonical, every field within its bounds",
    "fleet: it is this agent's fleet",
    "audience: the proof leads from this agent's id to the signed audience",
    "journal: the id is not known with another digest",
    "time: within its window, and not older than the journal can tell apart",
    "approvals: as many as the trust bundle asks for this class",
    "allow-list: the action and its parameters are on this agent's own list",
    "room: the journal has place for one more command",
];

#[derive(Serialize)]
struct Shown {
    verdict: String,
    code: String,
    cure: String,
    judged_at: String,
    agent_id: String,
    bundle_version: u64,
    command_id: String,
    action: String,
    digest: String,
    checks: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    number: usize,
    check: &'static str,
    result: &'static str,
    detail: String,
}

/// What was found out on the way.
#[derive(Default)]
struct Found {
    command_id: String,
    action: String,
    digest: String,
    is_redelivery: bool,
}

pub(super) fn explain(options: Explain) -> Result<(), Fatal> {
    let Explain { place, file, at, output } = options;
    let config = Config::load(place.config.as_deref(), place.data_dir.as_deref()).map_err(Fatal::usage)?;
    let files = Files::new(&config.data_dir);
    let identity = Identity::load(&files).map_err(Fatal::failure)?;
    let chain = Trust::load(&files).map_err(Fatal::failure)?.chain();
    let text = files::read(&file).map_err(Fatal::usage)?;
    let delivery =
        delivery(&text, &identity).map_err(|why| Fatal::usage(format!("{}: {why}", file.display())))?;
    // The wall clock stands in for session time: nothing is decided here, and no session is held.
    let now = at.unwrap_or_else(|| SystemClock::new().wall());
    let (found, refused) = evaluate(&delivery, &identity, &chain, (&config, &files), now);
    let failed = refused.as_ref().map(|(number, _)| *number);
    let checks = (1..).zip(CHECKS).map(|(number, check)| {
        let mut row = row(number, check, failed, refused.as_ref());
        // A known command is answered after the eighth, whatever the others would say.
        if found.is_redelivery && number > 8 {
            row.result = "not reached";
        }
        row
    });
    let shown = Shown {
        verdict: match &refused {
            Some((number, refusal)) if *number <= 7 => {
                format!("refused in silence at check {number}: {}", refusal.code)
            }
            Some((number, refusal)) => {
                format!("refused with a signed receipt at check {number}: {}", refusal.code)
            }
            None if found.is_redelivery => "known: its answer is sent again, nothing is started".to_owned(),
            None => "obeyed: it would be journalled, then started".to_owned(),
        },
        code: refused.as_ref().map_or_else(String::new, |(_, refusal)| refusal.code.to_string()),
        cure: refused.as_ref().map_or("", |(_, refusal)| refusal.code.cure()).to_owned(),
        judged_at: now.to_string(),
        agent_id: identity.record.agent.to_string(),
        bundle_version: chain.head().bundle.version,
        command_id: found.command_id,
        action: found.action,
        digest: found.digest,
        checks: checks.collect(),
    };
    let text = match output {
        Output::Json => serde_json::to_string_pretty(&shown).map_err(Fatal::failure)?,
        Output::Text => describe(&shown),
    };
    say::result(text.trim_end()).map_err(Fatal::failure)?;
    // Scripts tell by the exit code; people have read why.
    if shown.code.is_empty() { Ok(()) } else { Err(Fatal::failure(shown.verdict)) }
}

/// From an evidence file, this agent's own part of it, or from the bytes of a `Delivery`.
fn delivery(text: &[u8], identity: &Identity) -> Result<Delivery, String> {
    let agent = identity.record.agent;
    if text.first() == Some(&b'{') {
        let evidence = Evidence::from_json(text).map_err(|error| error.to_string())?;
        let target = evidence.targets.into_iter().find(|target| target.agent == agent);
        let proof = target.ok_or_else(|| format!("the command was not for this agent ({agent})"))?.proof;
        let release = evidence.release.unwrap_or_default();
        return Ok(Delivery { envelope: evidence.command, proof, approvals: Vec::new(), release });
    }
    let neither =
        || "neither an evidence file (writ evidence export) nor an encoded writ.v1.Delivery".to_owned();
    let message = proto::Delivery::decode(text).map_err(|_| neither())?;
    Delivery::try_from(message).map_err(|error| format!("{}: {error}", neither()))
}

/// The agent's own functions, in the order it calls them; the number of the check that failed, and why.
fn evaluate(
    delivery: &Delivery,
    identity: &Identity,
    chain: &Chain,
    (config, files): (&Config, &Files),
    now: Timestamp,
) -> (Found, Option<(usize, Refusal)>) {
    let mut found = Found::default();
    let bundle = &chain.head().bundle;
    let (agent, realm) = (identity.record.agent, identity.record.realm.as_str());
    let verified = match (Verifier { bundle, agent, realm, now }).verify(delivery) {
        Ok(verified) => verified,
        Err(refusal) => return (found, Some((number_of(refusal.code), refusal))),
    };
    let command = verified.command();
    found.command_id = command.id.to_string();
    found.action = command.action.describe();
    found.digest = verified.digest().to_string();
    let question = Question { command: Some(command.id), now, max_entries: config.max_entries };
    let Answer { facts, known, is_full } = match look::ask(files, question) {
        Ok(answer) => answer,
        Err(error) => {
            return (found, Some((8, Refusal::new(RefusalCode::JournalFailed, error.to_string()))));
        }
    };
    let view = JournalView { known, birth: facts.birth, forgotten_until: facts.forgotten_until };
    match view.novelty(&verified) {
        Ok(Novelty::New) => {}
        Ok(Novelty::Redelivery) => {
            found.is_redelivery = true;
            return (found, None);
        }
        Err(refusal) => return (found, Some((8, refusal))),
    }
    if let Err(refusal) = view.check_window(&verified, now) {
        return (found, Some((9, refusal)));
    }
    if let Err(refused) = check_host(command, &verified, bundle, (config, files)) {
        return (found, Some(refused));
    }
    let full = || Refusal::new(RefusalCode::JournalFull, JournalError::Full(facts.entries).to_string());
    (found, is_full.then(|| (12, full())))
}

/// Checks 10 and 11: what this host approves of. The number of the check that fails, and why.
fn check_host(
    command: &Command,
    verified: &VerifiedCommand,
    bundle: &TrustBundle,
    (config, files): (&Config, &Files),
) -> Result<(), (usize, Refusal)> {
    let owner = users::owner_of(files.folder()).unwrap_or_else(users::own_uid);
    let upgrades = Upgrades::load(Place::new(Path::new(upgrade::FOLDER)), files);
    let table =
        ActionTable::load(&config.actions_dir, &config.denied_actions, owner).map_err(|problems| {
            let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
            (11, Refusal::new(RefusalCode::ActionNotAllowed, all.join("; ")))
        })?;
    let table = table.with_upgrades(upgrades.component());
    check_approvals(bundle, table.class_of(&command.action), verified).map_err(|refusal| (10, refusal))?;
    let _plan = table.plan(&command.action).map_err(|refusal| (11, refusal))?;
    let Action::ApplySettings(settings) = &command.action else { return Ok(()) };
    let unreadable = |error: SettingsError| Refusal::new(RefusalCode::InvalidParameters, error.to_string());
    let held = settings::read(&files.settings()).map_err(unreadable);
    let checked = held.and_then(|held| settings::check(held.as_ref(), settings, command.window.issued_at));
    checked.map_err(|refusal| (11, refusal))
}

/// Which of the first seven checks a silent code belongs to.
const fn number_of(code: RefusalCode) -> usize {
    match code {
        RefusalCode::Oversized => 1,
        RefusalCode::MalformedEnvelope => 2,
        RefusalCode::WrongPurpose => 4,
        RefusalCode::NonCanonical | RefusalCode::MalformedPayload => 5,
        RefusalCode::WrongFleet => 6,
        RefusalCode::WrongAgent | RefusalCode::BrokenProof | RefusalCode::NotReleased => 7,
        _ => 3,
    }
}

fn row(number: usize, check: &'static str, failed: Option<usize>, refused: Option<&(usize, Refusal)>) -> Row {
    let (result, detail) = match failed {
        Some(failed) if failed == number => {
            let detail = refused.map(|(_, refusal)| format!("{}: {}", refusal.code, refusal.detail));
            ("failed", detail.unwrap_or_default())
        }
        Some(failed) if failed < number => ("not reached", String::new()),
        _ => ("passed", String::new()),
    };
    Row { number, check, result, detail }
}

fn describe(shown: &Shown) -> String {
    let mut text = format!(
        "{}\n  agent    {} with trust bundle {}\n  judged   at {} by this host's clock; a running agent goes by its server's\n",
        shown.verdict, shown.agent_id, shown.bundle_version, shown.judged_at
    );
    if !shown.command_id.is_empty() {
        let _ =
            writeln!(text, "  command  {} {}\n  digest   {}", shown.command_id, shown.action, shown.digest);
    }
    for Row { number, check, result, detail } in &shown.checks {
        let _ = writeln!(text, "  {number:2} {result:12} {check}");
        if !detail.is_empty() {
            let _ = writeln!(text, "                  {detail}");
        }
    }
    if !shown.cure.is_empty() {
        let _ = writeln!(text, "Next: {}", shown.cure);
    }
    text
}
