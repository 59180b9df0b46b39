//! What keeps this agent from obeying, by cause. Looks at its files and asks the servers it knows; changes
//! nothing, and may run beside the agent.

use std::fmt::Write as _;
use std::time::Duration;

use writ_common::doctor::{Finding, Level, host};
use writ_common::net::Proxy;
use writ_common::systemd::Start;
use writ_common::users;
use writ_protocol::identity::IdentityRecord;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::Chain;

use crate::config::Config;
use crate::execute::ActionTable;
use crate::identity::{Files, Identity};
use crate::link::{LinkError, try_out};
use crate::link_state::LinkState;
use crate::replay::look::{self, Answer, Question};
use crate::replay::{Journal, JournalError};
use crate::settings::{self, endpoints};
use crate::trust::{self, Trust};

/// Files an agent has open at the most: its own few, and three for each of 256 actions.
const FILES: u64 = 1024;
/// How long the next attempt of an agent without a session is waited for.
const NEXT_ATTEMPT: Duration = Duration::from_secs(5);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A clock that is off by more is worth a word, although nothing depends on it.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// Looks at everything, in the order of causes.
pub(crate) async fn examine(config: &Config, start: Start<'_>, now: Timestamp) -> Vec<Finding> {
    let files = Files::new(&config.data_dir);
    let mut findings = Vec::new();
    let identity = match Identity::load(&files) {
        Ok(identity) => {
            findings.push(Finding::good("identity", format!("agent {}", identity.record.agent)));
            Some(identity.record)
        }
        // Each of these errors names its cure.
        Err(error) => {
            findings.push(Finding::bad("identity", error.to_string(), ""));
            None
        }
    };
    // Nobody is enrolled: what else is not there follows from it.
    let Some(record) = identity else { return findings };
    let chain = trust(&files, &mut findings);
    let floor = journal(&files, config.max_entries, now, &mut findings);
    let held = match settings::read(&files.settings()) {
        Ok(held) => held,
        Err(error) => {
            findings.push(Finding::bad("settings", error.to_string(), ""));
            None
        }
    };
    // Whose they may be is judged as the agent will, not as root.
    let uid = users::owner_of(files.folder()).unwrap_or_else(users::own_uid);
    actions(config, uid, &LinkState::read(&files), &mut findings);
    findings.push(host::folder(files.folder()));
    findings.push(host::disk(files.folder()));
    findings.push(host::open_files(FILES));
    findings.extend(host::another_user(files.folder(), &start.command("doctor")));
    let mut is_obeyed = false;
    if let Some(chain) = chain {
        let asked = endpoints(held.as_ref(), &chain.head().bundle.endpoints);
        is_obeyed =
            servers(&record, &chain, floor, (config.proxy.as_ref(), &asked), now, &mut findings).await;
    }
    findings.push(link(&settled(&files, is_obeyed).await, start, is_obeyed, now));
    findings
}

/// What the running agent says of its line. One whose session has just ended has not tried again yet, and the
/// server may have a reason to turn it away: its next attempt is waited for.
async fn settled(files: &Files, is_obeyed: bool) -> LinkState {
    let looking = async {
        loop {
            let state = LinkState::read(files);
            let is_between = is_obeyed && state.is_running() && !state.connected && state.refused.is_empty();
            if !is_between {
                return state;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let looked = tokio::time::timeout(NEXT_ATTEMPT, looking).await;
    looked.unwrap_or_else(|_| LinkState::read(files))
}

fn trust(files: &Files, findings: &mut Vec<Finding>) -> Option<Chain> {
    match (trust::read(&files.trust()), trust::read(&files.trust_copy())) {
        (Ok(chain), Err(error)) => {
            let detail = format!("trust bundle {}, but its copy: {error}", chain.head().bundle.version);
            findings.push(Finding::notice(
                "trust",
                detail,
                "look at the disk; the agent writes the copy anew when it starts",
            ));
            Some(chain)
        }
        (Ok(chain), Ok(_)) => {
            let version = chain.head().bundle.version;
            findings.push(Finding::good("trust", format!("trust bundle {version}")));
            Some(chain)
        }
        (Err(error), Ok(chain)) => {
            let detail = format!("{error}; the last good copy counts");
            let next = "look at the disk; the file is written anew with the next trust bundle";
            findings.push(Finding::notice("trust", detail, next));
            Some(chain)
        }
        (Err(_), Err(_)) => {
            let error = Trust::load(files).err().map_or_else(String::new, |error| error.to_string());
            findings.push(Finding::bad("trust", error, ""));
            None
        }
    }
}

/// The time floor it holds.
fn journal(files: &Files, most: u64, now: Timestamp, findings: &mut Vec<Finding>) -> Timestamp {
    let path = files.journal();
    let is_running = LinkState::read(files).is_running();
    if !is_running && Journal::is_to_be_made(&path) {
        let detail = format!("{} is empty or not there", path.display());
        let next = "look at the disk, if the agent ever ran; it begins a new journal when it starts, and refuses what was issued before";
        findings.push(Finding::bad("journal", detail, next));
        return Timestamp::ZERO;
    }
    match look::ask(files, Question { command: None, now, max_entries: most }) {
        Ok(Answer { facts, is_full, .. }) => {
            let detail = format!("{} commands remembered", facts.entries);
            findings.push(if is_full {
                let next = "wait until some expire, or raise journal.max_entries";
                Finding::bad(
                    "journal",
                    format!("{detail}, as many as it may: commands are refused as `journal_full`"),
                    next,
                )
            } else {
                Finding::good("journal", detail)
            });
            facts.floor
        }
        Err(JournalError::DamagedFile { why, .. }) => {
            let next = format!(
                "look at the disk, then: mv {0} {0}.damaged; the agent begins a new journal, and refuses what was issued before",
                path.display()
            );
            findings.push(Finding::bad("journal", format!("{} is damaged: {why}", path.display()), next));
            Timestamp::ZERO
        }
        Err(error @ JournalError::NotAnswered(_)) => {
            let next =
                "read its log: journalctl -u writ-agent; then start it again: systemctl restart writ-agent";
            findings.push(Finding::bad("journal", error.to_string(), next));
            Timestamp::ZERO
        }
        Err(error @ JournalError::Told(_)) => {
            let next = "do what it says, and do not start it again before: actions that run would be cut off";
            findings.push(Finding::bad("journal", error.to_string(), next));
            Timestamp::ZERO
        }
        Err(error @ JournalError::Between) => {
            findings.push(Finding::bad("journal", error.to_string(), "run this again"));
            Timestamp::ZERO
        }
        Err(error) => {
            let next = match &error {
                JournalError::File(_) => "see that the file is there and belongs to the agent's user",
                _ => {
                    "look at the disk; if the file is damaged, move it away: the agent begins a new journal, and refuses what was issued before"
                }
            };
            findings.push(Finding::bad("journal", format!("{}: {error}", path.display()), next));
            Timestamp::ZERO
        }
    }
}

fn actions(config: &Config, uid: u32, state: &LinkState, findings: &mut Vec<Finding>) {
    let table = match ActionTable::load(&config.actions_dir, &config.denied_actions, uid) {
        Ok(table) => table,
        Err(problems) => {
            let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
            let next = "mend these files; the agent does not start with them";
            findings.push(Finding::bad("actions", all.join("\n"), next));
            return;
        }
    };
    let faults = table.script_faults();
    let mut detail = format!("{} allowed", table.rows().count());
    if !table.ignored().is_empty() {
        let _ = write!(
            detail,
            "; not read, because the name does not end in .toml: {}",
            table.ignored().join(", ")
        );
    }
    if state.is_running() && !state.has_read(&table) {
        let detail = "the files are not those the running agent has read: it read them when it started";
        findings.push(Finding::notice("actions", detail, "start it again: systemctl restart writ-agent"));
    } else if faults.is_empty() {
        findings.push(Finding::good("actions", detail));
    }
    if !faults.is_empty() {
        let next = "mend these programs; their actions do not start";
        findings.push(Finding::notice("actions", faults.join("\n"), next));
    }
}

/// Each endpoint, as the agent would meet it, and whether one of them is obeyed: then the others only deserve
/// a look. What the server thinks of the agent is not tried: its session would end that of the agent that
/// runs.
async fn servers(
    record: &IdentityRecord,
    chain: &Chain,
    floor: Timestamp,
    (proxy, asked): (Option<&Proxy>, &[String]),
    now: Timestamp,
    findings: &mut Vec<Finding>,
) -> bool {
    let (first, mut is_obeyed) = (findings.len(), false);
    for endpoint in asked {
        findings.push(match try_out(record, chain, floor, (proxy, endpoint)).await {
            Ok(heard) => {
                is_obeyed = true;
                let drift = heard.time.since(now).max(now.since(heard.time));
                let newest = chain.head().bundle.version;
                if heard.chain_version < newest {
                    let detail =
                        format!("{endpoint} is obeyed, but has bundle {} of {newest}", heard.chain_version);
                    Finding::notice("server", detail, "the agent hands back what it lacks when it connects")
                } else if drift > CLOCK_TOLERANCE {
                    let detail = format!("{endpoint} is obeyed; this host's clock is {drift:.0?} off");
                    Finding::notice(
                        "server",
                        detail,
                        "set it right; the agent goes by the server's time, its log does not",
                    )
                } else {
                    Finding::good("server", format!("{endpoint} is obeyed"))
                }
            }
            Err(error) => server(endpoint, &error),
        });
    }
    if is_obeyed {
        for finding in findings.iter_mut().skip(first).filter(|finding| finding.level == Level::Bad) {
            finding.level = Level::Notice;
        }
    }
    is_obeyed
}

fn server(endpoint: &str, error: &LinkError) -> Finding {
    match error {
        LinkError::Connect(error) => Finding::bad("server", error.to_string(), error.advice()),
        LinkError::NotObeyed { refusal, .. } => {
            let detail = format!("{endpoint} is not obeyed, `{}`: {}", refusal.code, refusal.detail);
            Finding::bad("server", detail, refusal.code.cure())
        }
        error => Finding::bad("server", format!("{endpoint}: {error}"), "on the server: writ-server doctor"),
    }
}

fn link(state: &LinkState, start: Start<'_>, is_obeyed: bool, now: Timestamp) -> Finding {
    match (state.is_running(), state.connected) {
        (false, _) => Finding::bad("agent", "it is not running", start.again()),
        (true, true) => Finding::good("agent", format!("connected to {}", state.endpoint)),
        // The agent was turned away with a reason, which waiting does not change.
        (true, false) if !state.refused.is_empty() => {
            Finding::bad("agent", format!("turned away: {}", state.refused), "on the server: writ why AGENT")
        }
        (true, false) if is_obeyed => Finding::notice(
            "agent",
            format!("not connected: {}", state.told(now)),
            "wait: the server is there now; at once: systemctl restart writ-agent",
        ),
        (true, false) => Finding::bad(
            "agent",
            format!("not connected: {}", state.told(now)),
            "mend what is said above; on the server: writ why AGENT",
        ),
    }
}
