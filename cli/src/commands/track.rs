//! `writ commands`, and how a command is shown.

use std::time::Duration;

use serde::Serialize;
use writ_proto::admin::v1::{
    Command, GetCommandRequest, ListCommandsRequest, ListTargetsRequest, Progress, Target, TargetState,
};

use super::PAGE;
use crate::args::{Commands, Format};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows};

#[derive(Serialize)]
pub(super) struct Shown {
    pub(super) command_id: String,
    digest: String,
    action: String,
    requested_by: String,
    issued_at: String,
    expires_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled_at: Option<String>,
    #[serde(flatten)]
    pub(super) counts: Counts,
    #[serde(skip_serializing_if = "Option::is_none")]
    targets: Option<Vec<TargetRow>>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Counts {
    #[serde(rename = "target_count")]
    pub(super) targets: u64,
    queued: u64,
    sent: u64,
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) refused: u64,
    pub(super) expired: u64,
    cancelled: u64,
}

impl Counts {
    pub(super) fn new(progress: Option<Progress>) -> Self {
        let Progress { targets, queued, sent, done, failed, refused, expired, cancelled } =
            progress.unwrap_or_default();
        Self { targets, queued, sent, done, failed, refused, expired, cancelled }
    }

    pub(super) fn answered(&self) -> u64 {
        self.done + self.failed + self.refused
    }

    /// Targets of which nothing more is awaited.
    pub(super) fn settled(&self) -> u64 {
        self.answered() + self.expired + self.cancelled
    }

    pub(super) fn describe(&self) -> String {
        let parts = [
            (self.done, "done"),
            (self.failed, "failed"),
            (self.refused, "refused"),
            (self.sent, "sent"),
            (self.queued, "queued"),
            (self.expired, "expired"),
            (self.cancelled, "cancelled"),
        ];
        let said: Vec<_> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        said.join(", ")
    }
}

#[derive(Serialize)]
pub(super) struct TargetRow {
    agent_id: String,
    agent_name: String,
    state: &'static str,
    refusal_code: String,
    ending: String,
    exit_status: i32,
    detail: String,
    output: String,
    output_bytes: u64,
    answered_at: String,
}

impl TargetRow {
    fn is_cut(&self) -> bool {
        u64::try_from(self.output.len()).is_ok_and(|shown| shown < self.output_bytes)
    }
}

impl Rows for Shown {
    const HEAD: &'static [&'static str] = &["COMMAND", "ACTION", "BY", "ISSUED", "TARGETS", "STATE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.command_id.clone(),
            self.action.clone(),
            self.requested_by.clone(),
            self.issued_at.clone(),
            self.counts.targets.to_string(),
            self.counts.describe(),
        ]
    }
}

impl Rows for TargetRow {
    const HEAD: &'static [&'static str] = &["AGENT", "STATE", "ANSWERED", "WHAT"];

    fn cells(&self) -> Vec<String> {
        let said = match (self.refusal_code.as_str(), self.ending.as_str()) {
            ("", "exited") => format!("exit {}", self.exit_status),
            ("", "done") => String::new(),
            ("", ending) => ending.to_owned(),
            (code, _) => code.to_owned(),
        };
        let first = self.output.trim_end().lines().next().unwrap_or_default();
        let more = if first.len() < self.output.trim_end().len() || self.is_cut() { " …" } else { "" };
        let parts = [said, output::plain(&self.detail), format!("{}{more}", output::plain(first))];
        let what: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        vec![self.agent_name.clone(), self.state.to_owned(), self.answered_at.clone(), what.join(": ")]
    }
}

pub(super) fn show(command: Command) -> Shown {
    let Command {
        command_id,
        digest,
        action,
        requested_by,
        issued_at_ms,
        expires_at_ms,
        progress,
        cancelled_at_ms,
    } = command;
    Shown {
        command_id,
        digest,
        action,
        requested_by,
        issued_at: output::time(issued_at_ms),
        expires_at: output::time(expires_at_ms),
        cancelled_at: Some(output::time(cancelled_at_ms)).filter(|_| cancelled_at_ms > 0),
        counts: Counts::new(progress),
        targets: None,
    }
}

pub(super) async fn run(format: Format, client: &Client, verb: Commands) -> Result<(), Failure> {
    match verb {
        Commands::List { limit } => {
            let request = ListCommandsRequest { page_size: limit, page_token: String::new() };
            let rows: Vec<_> =
                client.commands().list(request).await?.into_inner().commands.into_iter().map(show).collect();
            let next = client.typed("writ send ping --all --wait");
            output::list(format, &rows, &format!("No command was sent yet. Next: {next}"))
        }
        Commands::Cancel { id } => {
            let request = GetCommandRequest { command_id: id.to_string() };
            let command = client.commands().cancel(request).await?.into_inner();
            let counts = print(format, client, command).await?;
            if format == Format::Table {
                let too_late = counts.targets - counts.cancelled;
                let (cancelled, sent) = (counts.cancelled, counts.sent);
                output::text(&format!(
                    "\nCancelled for {cancelled}, too late for {too_late}: {sent} of them have it and have not answered."
                ))?;
            }
            Ok(())
        }
        Commands::Show { id } => {
            let command =
                client.commands().get(GetCommandRequest { command_id: id.to_string() }).await?.into_inner();
            print(format, client, command).await.map(|_| ())
        }
    }
}

/// Output that does not fit a line of a table: several lines, or a document, which is laid out for reading.
fn whole(output: &str) -> Option<String> {
    let document =
        serde_json::from_str::<serde_json::Value>(output).ok().filter(serde_json::Value::is_object);
    match document.map(|document| serde_json::to_string_pretty(&document)) {
        Some(Ok(laid_out)) => Some(laid_out),
        _ => output.trim_end().contains('\n').then(|| output.to_owned()),
    }
}

/// How long the server may take to say what became of each target.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Prints a command with each agent's answer.
pub(super) async fn print(format: Format, client: &Client, command: Command) -> Result<Counts, Failure> {
    let mut shown = show(command);
    // A caller that waited so long for agents does not wait for ever for a server.
    let targets = tokio::time::timeout(ANSWER_TIME, targets(client, &shown.command_id)).await;
    let targets = targets.map_err(|_| {
        let later = client.typed(&format!("writ commands show {}", shown.command_id));
        Failure::unreachable(format!("the server does not answer; the command goes on: {later}"))
    })??;
    let counts = shown.counts;
    if format == Format::Json {
        shown.targets = Some(targets);
        output::one(format, &shown, &[])?;
        return Ok(counts);
    }
    let fields = [
        ("command", shown.command_id.clone()),
        ("action", shown.action.clone()),
        ("by", shown.requested_by.clone()),
        ("issued", shown.issued_at.clone()),
        ("expires", shown.expires_at.clone()),
        ("digest", shown.digest.clone()),
        ("state", shown.counts.describe()),
    ];
    output::one(format, &shown, &fields)?;
    output::text("")?;
    output::list(format, &targets, "No targets.")?;
    // One agent's output is shown whole.
    if let [only] = targets.as_slice()
        && let Some(whole) = whole(&only.output)
    {
        output::text(&format!("\n{}", output::plain_lines(&whole)))?;
        if only.is_cut() {
            let shown = only.output.len();
            output::text(&format!("… the first {shown} of {} bytes", only.output_bytes))?;
        }
    }
    Ok(counts)
}

async fn targets(client: &Client, command_id: &str) -> Result<Vec<TargetRow>, Failure> {
    let (mut rows, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListTargetsRequest { command_id: command_id.to_owned(), page_size: PAGE, page_token };
        let page = client.commands().list_targets(request).await?.into_inner();
        rows.extend(page.targets.into_iter().map(target));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(rows);
        }
    }
}

fn target(target: Target) -> TargetRow {
    let state = match target.state() {
        TargetState::Unspecified => "unknown",
        TargetState::Queued => "queued",
        TargetState::Sent => "sent",
        TargetState::Done => "done",
        TargetState::Failed => "failed",
        TargetState::Refused => "refused",
        TargetState::Expired => "expired",
        TargetState::Cancelled => "cancelled",
    };
    TargetRow {
        agent_id: target.agent_id,
        agent_name: output::plain(&target.agent_name),
        state,
        refusal_code: target.refusal_code,
        ending: target.ending,
        exit_status: target.exit_status,
        detail: target.detail,
        output: target.output,
        output_bytes: target.output_bytes,
        answered_at: output::time(target.answered_at_ms),
    }
}
