//! Why an agent obeys or does not: liveness, standing, trust, refusals, queue and settings, each judged by
//! itself.

use writ_proto::admin::v1::{Finding, FindingLevel, WhyResponse};
use writ_protocol::refusal::RefusalCode;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::Keyring;

use crate::context::Server;
use crate::store::{AgentRow, AlertKind, StoreError};

/// Alerts of one agent that are told of.
const MAX_ALERTS: u32 = 8;

pub(super) async fn why(server: &Server, agent: &AgentRow) -> Result<WhyResponse, StoreError> {
    let now = server.clock.wall();
    let mut findings = vec![
        standing(agent),
        liveness(server, agent, now),
        trust(server, agent, now),
        signing(server),
        settings(agent, now),
        queue(server, agent),
    ];
    let alerts = server.store.alerts_of(agent.id, MAX_ALERTS).await?;
    let is_doubted = alerts.iter().any(|alert| alert.kind == AlertKind::NotBelieved.as_str());
    for alert in alerts {
        let kind = AlertKind::ALL.iter().find(|kind| kind.as_str() == alert.kind);
        // What was refused has its own cure; anything else that of its kind.
        let next = match (kind, alert.code.parse::<RefusalCode>()) {
            (Some(AlertKind::Refused), Ok(code)) => code.cure(),
            (Some(kind), _) => kind.cure(),
            (None, _) => "writ alerts",
        };
        let code = if alert.code.is_empty() { String::new() } else { format!(" {}", alert.code) };
        findings.push(Finding {
            check: "alerts".to_owned(),
            level: FindingLevel::Notice.into(),
            detail: format!("{}{code}, {} times, last {}", alert.kind, alert.count, alert.last_at),
            next: next.to_owned(),
        });
    }
    let worst = findings.iter().find(|finding| finding.level() == FindingLevel::Bad);
    let verdict = match worst {
        Some(Finding { check, detail, .. }) => {
            format!("{} does not obey this server now. {check}: {detail}", agent.name)
        }
        // What it did is known by its answers alone.
        None if is_doubted => {
            format!(
                "{} would obey this server, but not all it answers is believed: see its alerts.",
                agent.name
            )
        }
        None => format!("{} obeys this server.", agent.name),
    };
    Ok(WhyResponse { verdict, findings })
}

fn finding(check: &str, level: FindingLevel, detail: impl Into<String>, next: &str) -> Finding {
    Finding { check: check.to_owned(), level: level.into(), detail: detail.into(), next: next.to_owned() }
}

fn ago(now: Timestamp, then: Timestamp) -> String {
    if then == Timestamp::ZERO {
        return "never".to_owned();
    }
    format!("{} s ago ({then})", now.since(then).as_secs())
}

fn standing(agent: &AgentRow) -> Finding {
    if agent.removed_at != Timestamp::ZERO {
        let detail = format!("it was removed at {}", agent.removed_at);
        return finding(
            "standing",
            FindingLevel::Bad,
            detail,
            "enrol the host anew: writ enroll token create",
        );
    }
    if agent.held.is_empty() {
        return finding("standing", FindingLevel::Good, "enrolled, nothing is held", "");
    }
    let next = "if the host was restored on purpose: writ agents approve AGENT; if it was copied, remove it and enrol both anew";
    finding("standing", FindingLevel::Bad, agent.held.clone(), next)
}

fn liveness(server: &Server, agent: &AgentRow, now: Timestamp) -> Finding {
    let heard = ago(now, server.last_contact(agent.id, agent.last_contact));
    if server.dispatcher.registry().is_connected(agent.id) {
        return finding("liveness", FindingLevel::Good, format!("connected, last heard {heard}"), "");
    }
    let next = "on the host: writ-agent status says which endpoint it tries and what fails";
    finding("liveness", FindingLevel::Bad, format!("not connected, last heard {heard}"), next)
}

fn trust(server: &Server, agent: &AgentRow, now: Timestamp) -> Finding {
    let chain = server.chain();
    let head = chain.head();
    let held = chain.links().iter().find(|link| link.bundle.version == agent.bundle_version);
    let said = ago(now, agent.reported_at);
    let Some(held) = held else {
        return match agent.bundle_version {
            0 => {
                finding("trust", FindingLevel::Notice, "it has not said yet which trust bundle it holds", "")
            }
            other => finding(
                "trust",
                FindingLevel::Bad,
                format!("it holds trust bundle {other}, which this server does not have"),
                "this server stands at an earlier state than the agent; restore a later backup",
            ),
        };
    };
    let Some(entry) = server.signer.entry() else {
        let detail = "this server holds no key it could obey".to_owned();
        return finding("trust", FindingLevel::Bad, detail, "writ server");
    };
    let signer = entry.certificate.key().id();
    let candidates = Keyring::new(&held.bundle, &agent.realm).candidates(now);
    let candidate = candidates.iter().find(|candidate| candidate.key.id() == signer);
    let obeys = candidate.map_or(Err(RefusalCode::UnknownKey), |candidate| candidate.standing);
    let version = agent.bundle_version;
    match obeys {
        Err(code) => finding(
            "trust",
            FindingLevel::Bad,
            format!("by its bundle {version} (said {said}) it refuses this server's key as {code}"),
            code.cure(),
        ),
        Ok(()) if version < head.bundle.version => finding(
            "trust",
            FindingLevel::Notice,
            format!("it obeys by bundle {version} of {} (said {said})", head.bundle.version),
            "it gets the newer bundles when it next connects",
        ),
        Ok(()) => finding(
            "trust",
            FindingLevel::Good,
            format!("it holds the newest bundle, {version} (said {said}), and obeys its key {signer}"),
            "",
        ),
    }
}

fn signing(server: &Server) -> Finding {
    match server.signer.check() {
        Ok(_) => finding("signing", FindingLevel::Good, "this server signs", ""),
        Err(error) => finding("signing", FindingLevel::Bad, error.to_string(), "writ server"),
    }
}

fn settings(agent: &AgentRow, now: Timestamp) -> Finding {
    let said = ago(now, agent.reported_at);
    let detail = match agent.settings_revision {
        0 => format!("as installed (said {said})"),
        revision => format!("revision {revision} (said {said})"),
    };
    finding("settings", FindingLevel::Good, detail, "")
}

fn queue(server: &Server, agent: &AgentRow) -> Finding {
    let see = format!("writ commands list --state open --agent {}", agent.id);
    let is_here = server.dispatcher.registry().is_connected(agent.id);
    let governor = server.dispatcher.governor();
    match (agent.waiting, agent.unanswered) {
        (0, 0) => finding("queue", FindingLevel::Good, "no command waits for it", ""),
        (0, sent) => {
            let detail =
                format!("it has {sent} commands and has not answered: they run there, or wait their turn");
            finding("queue", FindingLevel::Good, detail, &see)
        }
        (waiting, sent) => {
            let why = match (is_here, governor.most(), governor.share()) {
                (true, Some(most), Some(share)) if governor.standing().1 > 0 => {
                    format!(
                        "; in the whole fleet {most} commands run at a time, and {share} of one agent (limits.running)"
                    )
                }
                _ => String::new(),
            };
            let sent =
                if sent > 0 { format!("; it has {sent} more and has not answered") } else { String::new() };
            finding("queue", FindingLevel::Notice, format!("{waiting} commands wait for it{sent}{why}"), &see)
        }
    }
}
