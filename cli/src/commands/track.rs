//! `writ commands`, and how a command is shown.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use writ_common::say;
use writ_common::time::Clock as _;
use writ_proto::admin::v1::{
    Command, CommandState, GetCommandRequest, ListCommandsRequest, ListTargetsRequest, Progress,
    StopCommandResponse, Target, TargetState,
};

use writ_protocol::id::CommandId;

use super::{PAGE, send};
use crate::args::{self, Commands, Format, View};
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
    waiting: u64,
    delivered: u64,
    running: u64,
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) refused: u64,
    pub(super) expired: u64,
    cancelled: u64,
}

impl Counts {
    pub(super) fn new(progress: Option<Progress>) -> Self {
        let Progress { targets, waiting, delivered, running, done, failed, refused, expired, cancelled } =
            progress.unwrap_or_default();
        Self { targets, waiting, delivered, running, done, failed, refused, expired, cancelled }
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
            (self.running, "running"),
            (self.delivered, "delivered"),
            (self.waiting, "waiting"),
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
    const WIDE: &'static [&'static str] =
        &["COMMAND", "ACTION", "BY", "ISSUED", "TARGETS", "STATE", "EXPIRES", "DIGEST"];

    fn cells(&self) -> Vec<String> {
        vec![
            output::short(&self.command_id),
            self.action.clone(),
            self.requested_by.clone(),
            self.issued_at.clone(),
            self.counts.targets.to_string(),
            self.counts.describe(),
        ]
    }

    fn wide(&self) -> Vec<String> {
        let mut cells = self.cells();
        if let Some(id) = cells.first_mut() {
            id.clone_from(&self.command_id);
        }
        cells.extend([self.expires_at.clone(), self.digest.clone()]);
        cells
    }
}

impl Rows for TargetRow {
    const HEAD: &'static [&'static str] = &["AGENT", "STATE", "ANSWERED", "WHAT"];
    const WIDE: &'static [&'static str] = &["AGENT", "STATE", "ANSWERED", "WHAT", "BYTES", "ID"];

    fn cells(&self) -> Vec<String> {
        vec![self.agent_name.clone(), self.state.to_owned(), self.answered_at.clone(), self.what()]
    }

    fn wide(&self) -> Vec<String> {
        let more = [self.output_bytes.to_string(), self.agent_id.clone()];
        self.cells().into_iter().chain(more).collect()
    }
}

impl TargetRow {
    /// How it ended and what it said, on one line.
    fn what(&self) -> String {
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
        what.join(": ")
    }

    /// What somebody looks for comes first.
    fn rank(&self) -> usize {
        let order = ["failed", "refused", "expired", "cancelled", "running", "delivered", "waiting", "done"];
        order.iter().position(|state| *state == self.state).unwrap_or(0)
    }
}

/// Agents that answered the same.
#[derive(Serialize)]
struct Group {
    agents: usize,
    state: &'static str,
    what: String,
    names: String,
}

impl Rows for Group {
    const HEAD: &'static [&'static str] = &["AGENTS", "STATE", "WHAT", "NAMES"];

    fn cells(&self) -> Vec<String> {
        vec![self.agents.to_string(), self.state.to_owned(), self.what.clone(), self.names.clone()]
    }
}

/// Names of a group that are shown unless all are asked for.
const FEW_NAMES: usize = 3;

/// The same answers together, failures first, then those of most agents.
fn group(targets: &[TargetRow], all_names: bool) -> Vec<Group> {
    let mut groups = BTreeMap::<(usize, &str, String), Vec<&str>>::new();
    for target in targets {
        groups.entry((target.rank(), target.state, target.what())).or_default().push(&target.agent_name);
    }
    let mut rows: Vec<_> = groups
        .into_iter()
        .map(|((rank, state, what), names)| {
            let shown = if all_names { names.len() } else { FEW_NAMES };
            let mut text = names.iter().take(shown).copied().collect::<Vec<_>>().join(", ");
            if let Some(more @ 1..) = names.len().checked_sub(shown) {
                text.push_str(&format!(" and {more} more"));
            }
            (rank, Group { agents: names.len(), state, what, names: text })
        })
        .collect();
    rows.sort_by_key(|(rank, group)| (*rank, std::cmp::Reverse(group.agents)));
    rows.into_iter().map(|(_, group)| group).collect()
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

pub(super) async fn run(format: Format, client: &Client, verb: Commands) -> Result<ExitCode, Failure> {
    let request = |command_id: String| GetCommandRequest { command_id };
    match verb {
        Commands::List { limit, by, action, state, since, agent } => {
            let now = writ_common::time::SystemClock::new().wall();
            let since_ms = since.map_or(0, |since| (now - since).as_millis());
            let state = match state {
                None => CommandState::Unspecified,
                Some(args::CommandState::Open) => CommandState::Open,
                Some(args::CommandState::Done) => CommandState::Done,
                Some(args::CommandState::Failed) => CommandState::Failed,
                Some(args::CommandState::Expired) => CommandState::Expired,
                Some(args::CommandState::Cancelled) => CommandState::Cancelled,
            };
            let mut asked = ListCommandsRequest {
                page_size: limit,
                page_token: String::new(),
                requested_by: by,
                action,
                state: state.into(),
                since_ms,
                agent,
            };
            let is_all = asked == ListCommandsRequest { page_size: limit, ..ListCommandsRequest::default() };
            let mut rows = Vec::new();
            // A page may hold fewer than were asked for, and be followed by others.
            while u32::try_from(rows.len()).is_ok_and(|rows| rows < limit) {
                let page = client.commands().list(asked.clone()).await?.into_inner();
                rows.extend(page.commands.into_iter().map(show));
                asked.page_token = page.next_page_token;
                if asked.page_token.is_empty() {
                    break;
                }
            }
            rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            let next = client.typed("writ send ping --all --wait");
            let empty = match is_all {
                true => format!("No command was sent yet. Next: {next}"),
                false => "No such command.".to_owned(),
            };
            output::list(format, &rows, &empty)?;
        }
        Commands::Cancel { id } => {
            let id = whole_id(client, id).await?;
            let command = client.commands().cancel(request(id)).await?.into_inner();
            let command_id = command.command_id.clone();
            let counts = print(format, client, command).await?;
            if format.is_for_people() {
                let too_late = counts.targets - counts.cancelled;
                let (cancelled, sent) = (counts.cancelled, counts.delivered + counts.running);
                output::text(&format!(
                    "\nCancelled for {cancelled}, too late for {too_late}, of which {sent} did not answer yet. To end it there: {}",
                    client.typed(&format!("writ commands stop {}", output::short(&command_id)))
                ))?;
            }
        }
        Commands::Stop { id } => stop(format, client, id).await?,
        Commands::Watch { id } => {
            let command = client.commands().get(request(id)).await?.into_inner();
            let latest = send::follow(client, command, None).await?;
            return print(format, client, latest).await.map(send::exit_code);
        }
        Commands::Show { id, view } => {
            let command = client.commands().get(request(id)).await?.into_inner();
            let _counts = print_view(format, client, command, view).await?;
        }
        Commands::Output { id, agent } => print_output(format, client, id, &agent).await?,
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Stopped {
    #[serde(flatten)]
    command: Shown,
    /// The command that stops it, on those that were sent it and have not answered.
    stop: Option<Shown>,
}

/// The whole of an id that may be the end of one, so that the audit log names the command.
pub(super) async fn whole_id(client: &Client, id: String) -> Result<String, Failure> {
    if id.parse::<CommandId>().is_ok() {
        return Ok(id);
    }
    Ok(client.commands().get(GetCommandRequest { command_id: id }).await?.into_inner().command_id)
}

async fn stop(format: Format, client: &Client, id: String) -> Result<(), Failure> {
    let id = whole_id(client, id).await?;
    let StopCommandResponse { command, stop } =
        client.commands().stop(GetCommandRequest { command_id: id }).await?.into_inner();
    let stopped = Stopped { command: show(command.unwrap_or_default()), stop: stop.map(show) };
    let (id, counts) = (&stopped.command.command_id, stopped.command.counts);
    let told = match &stopped.stop {
        None => "nobody, for no agent has it and has not answered".to_owned(),
        Some(stop) => format!("{} agents, by command {}", stop.counts.targets, stop.command_id),
    };
    let fields = [
        ("command", id.clone()),
        ("state", counts.describe()),
        ("told to end", told),
        ("next", client.typed(&format!("writ commands watch {}", output::short(id)))),
    ];
    output::one(format, &stopped, &fields)
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

/// Prints a command with what agents answered.
pub(super) async fn print(format: Format, client: &Client, command: Command) -> Result<Counts, Failure> {
    print_view(format, client, command, View::default()).await
}

async fn print_view(
    format: Format,
    client: &Client,
    command: Command,
    view: View,
) -> Result<Counts, Failure> {
    let mut shown = show(command);
    // A caller that waited so long for agents does not wait for ever for a server.
    let targets = tokio::time::timeout(ANSWER_TIME, targets(client, &shown.command_id)).await;
    let targets = targets.map_err(|_| {
        let later = client.typed(&format!("writ commands show {}", shown.command_id));
        Failure::unreachable(format!("the server does not answer; the command goes on: {later}"))
    })??;
    let counts = shown.counts;
    let is_wanted =
        |target: &TargetRow| !view.failed || ["failed", "refused", "expired"].contains(&target.state);
    let mut targets: Vec<_> = targets.into_iter().filter(is_wanted).collect();
    if format.is_rows() {
        output::list(format, &targets, "")?;
        return Ok(counts);
    }
    if !format.is_for_people() {
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
    let empty = if view.failed { "No agent failed." } else { "No targets." };
    let groups = group(&targets, view.names);
    if view.each || groups.len() == targets.len() {
        targets.sort_by_key(TargetRow::rank);
        output::list(format, &targets, empty)?;
    } else {
        output::list(format, &groups, empty)?;
        let id = output::short(&shown.command_id);
        output::text(&format!(
            "\n{}; each agent: {}",
            counts.describe(),
            client.typed(&format!("writ commands show {id} --each"))
        ))?;
    }
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

/// Prints what one agent's action printed.
async fn print_output(format: Format, client: &Client, id: String, agent: &str) -> Result<(), Failure> {
    let command = client.commands().get(GetCommandRequest { command_id: id }).await?.into_inner();
    let rows = targets(client, &command.command_id).await?;
    let place = rows.iter().position(|row| row.agent_id == agent || row.agent_name == agent);
    let place = place.ok_or_else(|| {
        let next = client.typed(&format!("writ commands show {} --each", output::short(&command.command_id)));
        Failure::missing(format!("the command was not for an agent `{agent}`; see: {next}"))
    })?;
    // Alone on its page, a target brings all that its receipt has.
    let request =
        ListTargetsRequest { command_id: command.command_id, page_size: 1, page_token: place.to_string() };
    let page = client.commands().list_targets(request).await?.into_inner();
    let target = page.targets.into_iter().next().map(target);
    let target =
        target.ok_or_else(|| Failure::unreachable("the server does not know this target any more"))?;
    if !format.is_for_people() {
        return output::one(format, &target, &[]);
    }
    if target.answered_at == "never" {
        return Err(Failure::missing(format!("{} has not answered", target.agent_name)));
    }
    output::text(output::plain_lines(&target.output).trim_end_matches('\n'))?;
    if target.is_cut() {
        let (kept, bytes) = (target.output.len(), target.output_bytes);
        say::aside(format_args!(
            "writ: the agent kept {kept} of {bytes} bytes; max_output of the action decides"
        ));
    }
    Ok(())
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
        TargetState::Waiting => "waiting",
        TargetState::Delivered => "delivered",
        TargetState::Running => "running",
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
