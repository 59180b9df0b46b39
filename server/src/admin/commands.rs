//! `CommandService`.

mod asked;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::info;
use writ_common::status::Failure;
use writ_proto::admin::v1::command_service_server::CommandService;
use writ_proto::admin::v1::{
    Command, EvidencePart, GetCommandRequest, ListCommandsRequest, ListCommandsResponse, ListTargetsRequest,
    ListTargetsResponse, PreviewRequest, PreviewResponse, Progress, StopCommandResponse, SubmitRequest,
    Target, TargetState as Shown,
};
use writ_protocol::command::Action;
use writ_protocol::envelope::{Candidate, ReceiptPurpose, verify};
use writ_protocol::id::CommandId;
use writ_protocol::keys::PublicKey;
use writ_protocol::receipt::{Decision, Ending};
use writ_protocol::time::Timestamp;

use super::{evidence, preview};
use crate::actions::SECRET;
use crate::choose::{self, Selection};
use crate::context::Server;
use crate::rollouts::end_with_command;
use crate::store::unavailable;
use crate::store::{CommandRow, Progress as Counted, TargetRow, TargetState, Wanted, WantedState};
use crate::submit::{self, Expectations, Submitted};
use crate::traces::TraceParent;
use writ_common::admin::operators::Scope;
use writ_common::admin::{Actor, Effect, Role, page};

pub(super) use asked::{action_name, has_secrets};
use asked::{fill, parse};

/// Bytes of an id's end that commands are looked up by.
const TAIL_BYTES: usize = 4;
/// A command to stop another one lives so long at least: an agent that is away may come back with it running.
const SHORTEST_STOP: Duration = Duration::from_secs(3600);
/// Agents named one by one in one request; larger sets are selected.
const MAX_NAMED: usize = 1000;
/// Targets of a page at most: each may bring a receipt of 320 KiB that is verified before it is shown.
const MAX_TARGETS_PAGE: u32 = 200;
/// Bytes of output that the targets of a page share: the whole output of a few, 16 KiB each of a full page.
/// The receipt holds all.
const MAX_SHOWN_OUTPUT: usize = 3200 << 10;
/// Watching looks at most this often: a bar on a screen needs no more.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// And this much less often for each target, for a look costs that much more.
const PAUSE_PER_TARGET: Duration = Duration::from_micros(50);

#[derive(Debug)]
pub(super) struct Commands(pub(super) Arc<Server>);

#[tonic::async_trait]
impl CommandService for Commands {
    async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<Command>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        let parent = TraceParent::read(request.metadata());
        let mut asked = request.into_inner();
        fill(&self.0, &mut asked)?;
        let request = submit::Request { parent, ..parse(asked)? };
        let done = submit::submit(&self.0, &actor, request).await?;
        let effect = match &done {
            Submitted::Known(_) => Effect::Nothing,
            Submitted::New(..) => Effect::Recorded,
        };
        Ok(effect.of(submitted(&self.0, done).await?))
    }

    async fn preview(&self, request: Request<PreviewRequest>) -> Result<Response<PreviewResponse>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        let PreviewRequest { request, page_size, page_token } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let after = page::token(&page_token)?;
        let mut asked = request.ok_or_else(|| Failure::invalid("request", "say what would be submitted"))?;
        fill(&self.0, &mut asked)?;
        let request = parse(asked)?;
        Ok(Response::new(preview::preview(&self.0, &actor, request, after, size).await?))
    }

    async fn cancel(&self, request: Request<GetCommandRequest>) -> Result<Response<Command>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        let id = command_id(&self.0, &request.into_inner().command_id).await?;
        submit::check_scope_of(&self.0, &actor, id, true).await?;
        let before = find(&self.0, id).await?;
        let expires_at = Timestamp::from_millis(before.expires_at_ms);
        let (server, now) = (Arc::clone(&self.0), self.0.clock.wall());
        let change = async move { server.dispatcher.cancel(&server.store, id, expires_at, now).await };
        self.0.to_the_end(change).await?.map_err(unavailable)?;
        end_with_command(&self.0, id).await;
        info!(target: "audit", actor = actor.name, command.id = %id, "command cancelled");
        let after = find(&self.0, id).await?;
        Ok(Effect::unless(before.cancelled_at_ms != after.cancelled_at_ms, after))
    }

    async fn stop(
        &self,
        request: Request<GetCommandRequest>,
    ) -> Result<Response<StopCommandResponse>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        let id = command_id(&self.0, &request.into_inner().command_id).await?;
        submit::check_scope_of(&self.0, &actor, id, true).await?;
        let before = find(&self.0, id).await?;
        let (expires_at, now) = (Timestamp::from_millis(before.expires_at_ms), self.0.clock.wall());
        let server = Arc::clone(&self.0);
        // First that nothing more is sent, which also notes whom it was sent to.
        let change = async move {
            server.dispatcher.cancel(&server.store, id, expires_at, now).await?;
            server.store.sent(id).await
        };
        let open = self.0.to_the_end(change).await?.map_err(unavailable)?;
        end_with_command(&self.0, id).await;
        let is_stopped = !open.is_empty();
        let stop = match is_stopped {
            false => None,
            true => {
                let request = submit::Request {
                    id: None,
                    selection: Selection::Ids(open),
                    lifetime: expires_at.since(now).max(SHORTEST_STOP),
                    action: Action::StopCommand(id),
                    rollout: None,
                    parent: None,
                    expects: Expectations::default(),
                    secrets: BTreeSet::new(),
                };
                // Whoever may end the command may tell agents so, whatever actions the scope names.
                let actor = Actor { scope: Scope::default(), ..actor.clone() };
                Some(submitted(&self.0, submit::submit(&self.0, &actor, request).await?).await?)
            }
        };
        info!(target: "audit", actor = actor.name, command.id = %id, "command stopped");
        let after = find(&self.0, id).await?;
        let is_changed = is_stopped || before.cancelled_at_ms != after.cancelled_at_ms;
        Ok(Effect::unless(is_changed, StopCommandResponse { command: Some(after), stop }))
    }

    type EvidenceStream = Pin<Box<dyn Stream<Item = Result<EvidencePart, Status>> + Send>>;

    async fn evidence(
        &self,
        request: Request<GetCommandRequest>,
    ) -> Result<Response<Self::EvidenceStream>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        let id = command_id(&self.0, &request.into_inner().command_id).await?;
        let stored = self.0.store.envelope(id).await.map_err(unavailable)?.ok_or_else(|| unknown(id))?;
        // They are in the command, which is signed and not encrypted.
        if stored.action.contains(&format!("={SECRET}")) && actor.role < Role::Operator {
            let text = format!("command {id} has secret parameters; its evidence needs the role operator");
            return Err(Failure::denied("role", text).into());
        }
        let (sender, receiver) = mpsc::channel(4);
        self.0.shutdown.spawn(evidence::send(Arc::clone(&self.0), id, stored, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get(&self, request: Request<GetCommandRequest>) -> Result<Response<Command>, Status> {
        let id = command_id(&self.0, &request.into_inner().command_id).await?;
        Ok(Response::new(find(&self.0, id).await?))
    }

    async fn list(
        &self,
        request: Request<ListCommandsRequest>,
    ) -> Result<Response<ListCommandsResponse>, Status> {
        let request = request.into_inner();
        let state = WantedState::read(request.state());
        let ListCommandsRequest { page_size, page_token, requested_by, action, since_ms, agent, .. } =
            request;
        let size = page::size(page_size, 50, page::MAX_PAGE)?;
        let before = page::token::<u64>(&page_token)?.unwrap_or(u64::MAX);
        let agent = match agent.as_str() {
            "" => None,
            agent => Some(choose::find_agent(&self.0, agent).await?.id),
        };
        let (since, now) = (Timestamp::from_millis(since_ms), self.0.clock.wall());
        let wanted = Wanted { requested_by, action, state, since, agent, now };
        let (rows, next) = self.0.store.commands(before, size, wanted).await.map_err(unavailable)?;
        let next_page_token = next.map(|next| next.to_string()).unwrap_or_default();
        let mut commands = Vec::with_capacity(rows.len());
        for row in rows {
            let counted = self.0.store.progress(row.id).await.map_err(unavailable)?;
            commands.push(show(&self.0, row, counted));
        }
        Ok(Response::new(ListCommandsResponse { commands, next_page_token }))
    }

    async fn list_targets(
        &self,
        request: Request<ListTargetsRequest>,
    ) -> Result<Response<ListTargetsResponse>, Status> {
        let ListTargetsRequest { command_id: id, page_size, page_token } = request.into_inner();
        let id = command_id(&self.0, &id).await?;
        let size = page::size(page_size, 100, MAX_TARGETS_PAGE)?;
        let from = page::token::<u32>(&page_token)?.unwrap_or(0);
        let command = self.0.store.command(id).await.map_err(unavailable)?.ok_or_else(|| unknown(id))?;
        let rows = self.0.store.targets(id, from, size).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| (row.place + 1).to_string());
        let is_over = command.expires_at <= self.0.clock.wall();
        let share = MAX_SHOWN_OUTPUT / rows.len().max(1);
        let running = self.0.dispatcher.running();
        let shown = |row: TargetRow| {
            let is_running = running.has(id, row.place);
            show_target(row, is_running, is_over, share)
        };
        let targets = rows.into_iter().map(shown).collect();
        Ok(Response::new(ListTargetsResponse { targets, next_page_token }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<Command, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<GetCommandRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let id = command_id(&self.0, &request.into_inner().command_id).await?;
        // Listening begins before the first look, so that nothing falls between.
        let changes = self.0.store.watch();
        let first = find(&self.0, id).await?;
        let (sender, receiver) = mpsc::channel(4);
        let server = Arc::clone(&self.0);
        self.0.shutdown.spawn(async move { follow(server, id, first, changes, sender).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// What was submitted. What has become of a new one meanwhile is for `Get` and `Watch`.
async fn submitted(server: &Arc<Server>, done: Submitted) -> Result<Command, Failure> {
    match done {
        Submitted::Known(id) => find(server, id).await,
        Submitted::New(row, targets) => {
            let targets = u64::try_from(targets).unwrap_or(u64::MAX);
            let counted = Counted { targets, waiting: targets, ..Counted::default() };
            Ok(show(server, row, counted))
        }
    }
}

async fn follow(
    server: Arc<Server>,
    id: CommandId,
    first: Command,
    mut changes: broadcast::Receiver<CommandId>,
    sender: mpsc::Sender<Result<Command, Status>>,
) {
    let mut shown = first;
    loop {
        if sender.send(Ok(shown.clone())).await.is_err() || is_final(&shown) {
            return;
        }
        let next = tokio::select! {
            next = changed(&server, id, &shown, &mut changes) => next,
            () = sender.closed() => return,
            () = server.shutdown.requested() => Err(Failure::unavailable("the server is shutting down")),
        };
        match next {
            Ok(next) => shown = next,
            Err(failure) => {
                let _ = sender.send(Err(failure.into())).await;
                return;
            }
        }
    }
}

/// Waits until a command reads differently.
async fn changed(
    server: &Arc<Server>,
    id: CommandId,
    shown: &Command,
    changes: &mut broadcast::Receiver<CommandId>,
) -> Result<Command, Failure> {
    let targets = shown.progress.map_or(1, |progress| progress.targets);
    let targets = u32::try_from(targets).unwrap_or(u32::MAX);
    let pause = PAUSE_PER_TARGET.saturating_mul(targets).min(LONGEST_PAUSE);
    // Timers are no finer than a millisecond.
    if pause >= Duration::from_millis(1) {
        tokio::time::sleep(pause).await;
    }
    loop {
        // Look at a change, and at the latest when the command expires.
        let remaining =
            Duration::from_millis(shown.expires_at_ms.saturating_sub(server.clock.wall().as_millis()));
        let expiry = tokio::time::sleep(remaining);
        tokio::pin!(expiry);
        loop {
            tokio::select! {
                change = changes.recv() => match change {
                    Ok(other) if other != id => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => {
                        return Err(Failure::unavailable("the server is shutting down"));
                    }
                },
                () = &mut expiry => break,
            }
        }
        let next = find(server, id).await?;
        if next != *shown {
            return Ok(next);
        }
    }
}

fn is_final(command: &Command) -> bool {
    command.progress.is_some_and(|progress| progress.waiting + progress.delivered + progress.running == 0)
}

/// A command's id, or the end of one.
///
/// # Errors
/// When it is neither, or several commands end so.
pub(super) async fn command_id(server: &Server, text: &str) -> Result<CommandId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let tail =
        digits.len().checked_sub(2 * TAIL_BYTES).and_then(|start| hex::decode(digits.get(start..)?).ok());
    let Some(tail) = tail.filter(|_| digits.len() <= 32 && digits.bytes().all(|c| c.is_ascii_hexdigit()))
    else {
        let text = format!("`{text}` is neither a command's id nor its last 8 or more digits");
        return Err(Failure::invalid("command_id", text));
    };
    let mut found = server.store.commands_ending(tail).await.map_err(unavailable)?;
    found.retain(|id| hex::encode(id.as_bytes()).ends_with(&digits.to_ascii_lowercase()));
    match found.as_slice() {
        [only] => Ok(*only),
        [] => Err(Failure::not_found(format!("no command's id ends in `{text}`; see: writ commands list"))),
        several => {
            let ids: Vec<_> = several.iter().map(CommandId::to_string).collect();
            let text = format!("several commands end in `{text}`: {}; type more digits", ids.join(" "));
            Err(Failure::invalid("command_id", text))
        }
    }
}

pub(super) fn unknown(id: CommandId) -> Failure {
    Failure::not_found(format!("there is no command {id}; see: writ commands list"))
}

async fn find(server: &Arc<Server>, id: CommandId) -> Result<Command, Failure> {
    let row = server.store.command(id).await.map_err(unavailable)?.ok_or_else(|| unknown(id))?;
    let counted = server.store.progress(id).await.map_err(unavailable)?;
    Ok(show(server, row, counted))
}

fn show(server: &Server, row: CommandRow, counted: Counted) -> Command {
    let is_over = row.expires_at <= server.clock.wall();
    let open = |count| if is_over { 0 } else { count };
    let running = server.dispatcher.running().count(row.id);
    // What was announced may not be noted as sent yet.
    let delivered = counted.delivered.saturating_sub(running);
    let waiting = (counted.waiting + counted.delivered).saturating_sub(running + delivered);
    let progress = Progress {
        targets: counted.targets,
        waiting: open(waiting),
        delivered: open(delivered),
        running: open(running),
        done: counted.done,
        failed: counted.failed,
        refused: counted.refused,
        cancelled: counted.cancelled,
        expired: if is_over { counted.waiting + counted.delivered } else { 0 },
    };
    Command {
        command_id: row.id.to_string(),
        digest: row.digest.to_string(),
        action: row.action,
        requested_by: row.requested_by,
        issued_at_ms: row.issued_at.as_millis(),
        expires_at_ms: row.expires_at.as_millis(),
        progress: Some(progress),
        cancelled_at_ms: row.cancelled_at.as_millis(),
    }
}

fn show_target(row: TargetRow, is_running: bool, is_over: bool, most: usize) -> Target {
    let state = match row.state {
        TargetState::Waiting | TargetState::Delivered if is_over => Shown::Expired,
        TargetState::Waiting | TargetState::Delivered if is_running => Shown::Running,
        TargetState::Waiting => Shown::Waiting,
        TargetState::Delivered => Shown::Delivered,
        TargetState::Done => Shown::Done,
        TargetState::Failed => Shown::Failed,
        TargetState::Refused => Shown::Refused,
        TargetState::Cancelled => Shown::Cancelled,
    };
    let mut target = Target {
        agent_id: row.agent.to_string(),
        agent_name: row.agent_name,
        state: state.into(),
        answered_at_ms: row.received_at.as_millis(),
        ..Target::default()
    };
    // What is shown is read from the signed receipt itself, not from a copy beside it.
    let receipt = row.receipt.and_then(|envelope| {
        let key = PublicKey::from_spki(&row.public_key).ok()?;
        verify::<ReceiptPurpose>(&envelope, &[Candidate::accepted(&key)], 1).ok()
    });
    if let Some(receipt) = receipt.as_ref().map(|verified| verified.document()) {
        target.detail.clone_from(&receipt.detail);
        match &receipt.decision {
            Decision::Refused(code) => target.refusal_code = code.to_string(),
            Decision::Obeyed(outcome) => {
                target.ending = outcome.ending.as_str().to_owned();
                if let Ending::Exited(status) = outcome.ending {
                    target.exit_status = status;
                }
                let shown = outcome.output.get(..most).unwrap_or(&outcome.output);
                target.output = String::from_utf8_lossy(shown).into_owned();
                target.output_bytes = outcome.output_bytes;
            }
        }
    }
    target
}
