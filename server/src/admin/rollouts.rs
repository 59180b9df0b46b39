//! `RolloutService`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::info;
use writ_common::admin::{Actor, Effect, page};
use writ_common::status::Failure;
use writ_proto::admin::v1::rollout_service_server::RolloutService;
use writ_proto::admin::v1::{
    GetRolloutRequest, ListRolloutsRequest, ListRolloutsResponse, ResumeRolloutRequest, Rollout,
};
use writ_protocol::id::CommandId;

use super::commands::command_id;
use crate::context::Server;
use crate::rollouts::{self, Change, Stands, agents, words};
use crate::store::rules::rollout::{Counted, Plan, Standing, Wait};
use crate::store::{RolloutRow, unavailable};
use crate::submit;

/// Whoever watches sees a pause pass.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// And is told of changes this much apart at least.
const GATHER: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Rollouts(pub(super) Arc<Server>);

impl Rollouts {
    async fn change(&self, actor: Actor, command: &str, what: Change) -> Result<Response<Rollout>, Status> {
        let id = command_id(&self.0, command).await?;
        submit::check_scope_of(&self.0, &actor, id, what.is_ending()).await?;
        let server = Arc::clone(&self.0);
        let change = async move { rollouts::change(&server, id, what).await };
        let is_changed = self.0.to_the_end(change).await??;
        info!(target: "audit", actor = actor.name, command.id = %id, change = ?what, "rollout changed");
        Ok(Effect::unless(is_changed, find(&self.0, id).await?))
    }
}

#[tonic::async_trait]
impl RolloutService for Rollouts {
    async fn list(
        &self,
        request: Request<ListRolloutsRequest>,
    ) -> Result<Response<ListRolloutsResponse>, Status> {
        let ListRolloutsRequest { page_size, page_token } = request.into_inner();
        let size = page::size(page_size, 50, page::MAX_PAGE)?;
        let before = page::token::<u64>(&page_token)?.unwrap_or(u64::MAX);
        let rows = self.0.store.rollouts(before, size).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| row.sequence.to_string());
        let mut rollouts = Vec::with_capacity(rows.len());
        for row in rows {
            rollouts.push(find(&self.0, row.command).await?);
        }
        Ok(Response::new(ListRolloutsResponse { rollouts, next_page_token }))
    }

    async fn get(&self, request: Request<GetRolloutRequest>) -> Result<Response<Rollout>, Status> {
        let id = command_id(&self.0, &request.into_inner().command_id).await?;
        Ok(Response::new(find(&self.0, id).await?))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<Rollout, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<GetRolloutRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let id = command_id(&self.0, &request.into_inner().command_id).await?;
        // Listening begins before the first look, so that nothing falls between.
        let changes = self.0.store.watch();
        let first = find(&self.0, id).await?;
        let (sender, receiver) = mpsc::channel(4);
        let server = Arc::clone(&self.0);
        self.0.shutdown.spawn(follow(server, id, first, changes, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn pause(&self, request: Request<GetRolloutRequest>) -> Result<Response<Rollout>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        self.change(actor, &request.into_inner().command_id, Change::Pause).await
    }

    async fn resume(&self, request: Request<ResumeRolloutRequest>) -> Result<Response<Rollout>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        let ResumeRolloutRequest { command_id, without_away } = request.into_inner();
        let what = if without_away { Change::ResumeWithoutAway } else { Change::Resume };
        self.change(actor, &command_id, what).await
    }

    async fn abort(&self, request: Request<GetRolloutRequest>) -> Result<Response<Rollout>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        self.change(actor, &request.into_inner().command_id, Change::Abort).await
    }
}

async fn follow(
    server: Arc<Server>,
    id: CommandId,
    mut shown: Rollout,
    mut changes: broadcast::Receiver<CommandId>,
    sender: mpsc::Sender<Result<Rollout, Status>>,
) {
    let mut said = None;
    loop {
        if said.as_ref() != Some(&shown) {
            said = Some(shown.clone());
            if sender.send(Ok(shown.clone())).await.is_err() {
                return;
            }
        }
        if !matches!(shown.state.as_str(), "running" | "paused") {
            return;
        }
        tokio::select! {
            () = rollouts::changed(std::slice::from_ref(&id), &mut changes) => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = sender.closed() => return,
            () = server.shutdown.requested() => {
                let _ = sender.send(Err(Failure::unavailable("the server is shutting down").into())).await;
                return;
            }
        }
        match find(&server, id).await {
            Ok(next) => shown = next,
            Err(failure) => {
                let _ = sender.send(Err(failure.into())).await;
                return;
            }
        }
    }
}

async fn find(server: &Server, id: CommandId) -> Result<Rollout, Failure> {
    let command = server.store.command(id).await.map_err(unavailable)?;
    let command = command.ok_or_else(|| super::commands::unknown(id))?;
    let Stands { row, counted, wait } = rollouts::stands(server, id).await?;
    let RolloutRow { plan, standing, targets, seed, reason, .. } = row;
    let waits_for = wait.map(|wait| describe(wait, &plan, id)).unwrap_or_default();
    let Standing { state, wave, released, forgiven } = standing;
    let Counted { done, failed, silent, unanswered, awaited, away, tried: _ } = counted;
    let waves = plan.waves(targets);
    let Plan { canary, batch, pause, max_failures, rate, window, start_at, patience } = plan;
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    Ok(Rollout {
        command_id: id.to_string(),
        action: command.action,
        requested_by: command.requested_by,
        state: state.as_str().to_owned(),
        reason,
        waits_for,
        seed: seed.get(),
        targets,
        waves,
        wave: wave.saturating_add(1).min(waves),
        released,
        done,
        failed,
        silent,
        unanswered,
        awaited,
        away,
        forgiven,
        canary,
        batch,
        pause_seconds: seconds(pause),
        max_failures,
        rate_per_second: rate,
        window: window.map(|window| window.to_string()).unwrap_or_default(),
        start_at_ms: start_at.as_millis(),
        patience_seconds: seconds(patience),
        issued_at_ms: command.issued_at.as_millis(),
        expires_at_ms: command.expires_at.as_millis(),
    })
}

fn describe(wait: Wait, plan: &Plan, id: CommandId) -> String {
    match wait {
        Wait::Operator => format!("an operator: writ rollouts resume {id}"),
        Wait::Start => format!("its start at {}", plan.start_at),
        Wait::Pause(left) => {
            format!("the end of the pause, {} more", words(left + Duration::from_millis(999)))
        }
        Wait::Window(left) => {
            let window = plan.window.map(|window| window.to_string()).unwrap_or_default();
            format!("{window} UTC, which begins in {}", words(left))
        }
        Wait::Rate => "the next second".to_owned(),
        Wait::Answers(number) => format!("{} to answer, or to come back", agents(number)),
        Wait::Away(number) => {
            let number = agents(number);
            format!(
                "{number} to come back, of a wave that has shown too little; without: writ rollouts resume {id} --without-away"
            )
        }
    }
}
