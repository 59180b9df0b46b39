//! `writ evidence`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use writ_common::files;
use writ_proto::admin::v1::{EvidenceTarget, GetCommandRequest, evidence_part::Part};
use writ_protocol::audience::AudienceProof;
use writ_protocol::evidence::{Answered, Evidence, EvidenceError, Judged, Target};
use writ_protocol::id::Digest;
use writ_protocol::receipt::Decision;

use crate::args::Format;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows};

#[derive(Serialize)]
struct Exported {
    file: String,
    command_id: String,
    targets: usize,
    receipts: usize,
}

pub(super) async fn export(
    format: Format,
    client: &Client,
    command: String,
    file: &Path,
) -> Result<(), Failure> {
    let damaged =
        || Failure::unreachable("the server sent evidence that cannot be read; is it newer than this writ?");
    let request = GetCommandRequest { command_id: command.clone() };
    let mut parts = client.commands().evidence(request).await?.into_inner();
    let mut evidence = None;
    while let Some(part) = parts.message().await? {
        match (part.part, evidence.as_mut()) {
            (Some(Part::Command(command)), None) => {
                evidence = Some(Evidence {
                    command: command.envelope.into(),
                    bundles: command.bundles.into_iter().map(Into::into).collect(),
                    release: (!command.release.is_empty()).then(|| command.release.into()),
                    targets: Vec::new(),
                });
            }
            (Some(Part::Target(target)), Some(evidence)) => {
                evidence.targets.push(read(target).ok_or_else(damaged)?);
            }
            _ => return Err(damaged()),
        }
    }
    let evidence = evidence.ok_or_else(damaged)?;
    let receipts = evidence.targets.iter().filter(|target| target.receipt.is_some()).count();
    let local = |error: std::io::Error| {
        let why = match error.kind() {
            std::io::ErrorKind::AlreadyExists => "exists already; name another file".to_owned(),
            _ => error.to_string(),
        };
        Failure::local(format!("{}: {why}", file.display()))
    };
    // It may hold what is secret: the command is in it as it was signed.
    let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut out = out.map_err(local)?;
    out.write_all(evidence.to_json().as_bytes()).and_then(|()| out.sync_all()).map_err(local)?;
    let (name, targets) = (file.display().to_string(), evidence.targets.len());
    let shown = Exported { file: name.clone(), command_id: command, targets, receipts };
    let fields = [
        ("file", name.clone()),
        ("targets", targets.to_string()),
        ("receipts", receipts.to_string()),
        ("next", format!("writ evidence verify {name} --pin DIGEST")),
    ];
    output::one(format, &shown, &fields)
}

fn read(target: EvidenceTarget) -> Option<Target> {
    let EvidenceTarget { agent_id, proof_index, proof_path, identity_record, receipt } = target;
    let path = proof_path.iter().map(|hash| Digest::try_from(hash.as_slice()).ok()).collect::<Option<_>>()?;
    Some(Target {
        agent: agent_id.parse().ok()?,
        proof: AudienceProof { index: proof_index, path },
        identity_record: identity_record.into(),
        receipt: Some(receipt).filter(|receipt| !receipt.is_empty()).map(Into::into),
    })
}

#[derive(Serialize)]
struct Verdict {
    holds: bool,
    command_id: String,
    digest: String,
    action: String,
    requested_by: String,
    issued_at: String,
    signer: String,
    signer_revoked_later: bool,
    chain_from: u64,
    chain_to: u64,
    targets: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    agent_id: String,
    agent_name: String,
    holds: bool,
    answer: String,
    key_id: String,
    at: String,
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &["AGENT", "HOLDS", "ANSWER", "AT", "KEY"];

    fn cells(&self) -> Vec<String> {
        let holds = if self.holds { "yes" } else { "NO" };
        let key = self.key_id.get(..16).unwrap_or(&self.key_id);
        vec![self.agent_name.clone(), holds.to_owned(), self.answer.clone(), self.at.clone(), key.to_owned()]
    }
}

/// Exit code 1 when anything does not hold.
pub(super) fn verify(format: Format, file: &Path, pin: Digest) -> Result<ExitCode, Failure> {
    let text = files::read(file).map_err(|error| Failure::local(error.to_string()))?;
    let explain = |error: EvidenceError| Failure::disproven(format!("{}: {error}", file.display()));
    let judged = Evidence::from_json(&text).and_then(|evidence| evidence.verify(pin)).map_err(explain)?;
    let Judged { chain, command, digest, signer, is_signer_revoked, targets } = judged;
    let has_revoked_record = targets
        .iter()
        .any(|(_, judged)| judged.as_ref().is_ok_and(|answered| answered.is_record_signer_revoked));
    let is_signer_revoked = is_signer_revoked || has_revoked_record;
    let rows: Vec<_> = targets
        .into_iter()
        .map(|(agent, judged)| match judged {
            Ok(answered) => row(agent.to_string(), answered),
            Err(refusal) => Row {
                agent_name: agent.to_string(),
                agent_id: agent.to_string(),
                holds: false,
                answer: refusal.to_string(),
                key_id: String::new(),
                at: String::new(),
            },
        })
        .collect();
    let verdict = Verdict {
        holds: rows.iter().all(|row| row.holds),
        command_id: command.id.to_string(),
        digest: digest.to_string(),
        action: command.action.describe(),
        requested_by: command.requested_by,
        issued_at: command.window.issued_at.to_string(),
        signer: signer.to_string(),
        signer_revoked_later: is_signer_revoked,
        chain_from: chain.links().first().map_or(0, |link| link.bundle.version),
        chain_to: chain.head().bundle.version,
        targets: rows,
    };
    let state = match (verdict.holds, is_signer_revoked) {
        (false, _) => "does not hold",
        (true, true) => "holds, but a key under it was revoked later: not time-proven",
        (true, false) => "holds",
    };
    let fields = [
        ("evidence", state.to_owned()),
        ("command", verdict.command_id.clone()),
        ("action", output::plain(&verdict.action)),
        ("by", verdict.requested_by.clone()),
        ("issued", verdict.issued_at.clone()),
        ("signed by", verdict.signer.clone()),
        ("chain", format!("trust bundles {} to {}", verdict.chain_from, verdict.chain_to)),
        ("vouched", "signatures: checked here; which key is whose, and when: the server's word".to_owned()),
    ];
    output::one(format, &verdict, &fields)?;
    if format.is_for_people() {
        output::text("")?;
        output::list(format, &verdict.targets, "No targets.")?;
    }
    Ok(if verdict.holds { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn row(agent_id: String, answered: Answered) -> Row {
    let Answered { record, receipt, is_record_signer_revoked: _ } = answered;
    let (answer, at) = match &receipt {
        None => ("no answer in this file".to_owned(), String::new()),
        Some(receipt) => {
            let answer = match &receipt.decision {
                Decision::Refused(code) => format!("refused: {code}"),
                Decision::Obeyed(outcome) => outcome.ending.describe(),
            };
            (answer, receipt.decided_at.to_string())
        }
    };
    let (agent_name, key_id) = (output::plain(&record.name), record.public_key.id().to_string());
    Row { agent_id, agent_name, holds: true, answer, key_id, at }
}
