//! `InstructionService`.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};
use writ_common::admin::{self, page};
use writ_common::status::Failure;
use writ_proto::manager::v1 as proto;
use writ_proto::manager::v1::instruction_service_server::InstructionService;
use writ_proto::manager::v1::issue_instruction_request::Task as Asked;
use writ_protocol::id::{EntityId, InstructionId};
use writ_protocol::limits::MAX_COMMAND_LIFETIME;
use writ_protocol::manager::{Task, TaskState};

use crate::context::Manager;
use crate::instructions::{Issuance, Request as Wish, issue, time_out};
use crate::store::{DeliveryRow, InstructionRow, unavailable};

const HOUR: u64 = 3600;
const MAX_WAIT: u64 = 7 * 24 * HOUR;

#[derive(Debug)]
pub(super) struct Instructions(pub(super) Arc<Manager>);

#[tonic::async_trait]
impl InstructionService for Instructions {
    async fn issue(
        &self,
        request: Request<proto::IssueInstructionRequest>,
    ) -> Result<Response<proto::TrackedInstruction>, Status> {
        let actor = admin::actor(&request)?;
        let proto::IssueInstructionRequest { entities, all, expires_in_seconds, task, instruction_id } =
            request.into_inner();
        let id = if instruction_id.is_empty() { None } else { Some(parse_id(&instruction_id)?) };
        let seconds = if expires_in_seconds == 0 { HOUR } else { expires_in_seconds };
        if seconds > MAX_WAIT {
            let text = format!("is {seconds}; it must be at most {MAX_WAIT} (7 days)");
            return Err(Failure::invalid("expires_in_seconds", text).into());
        }
        let task = match task {
            Some(Asked::Dispatch(dispatch)) => to_dispatch(dispatch)?,
            Some(Asked::AskStatus(proto::AskStatus {})) => Task::AskStatus,
            Some(Asked::ChangeCommunication(change)) => communication(&change)?,
            None => {
                let text = "must be one of dispatch, ask_status and change_communication";
                return Err(Failure::invalid("task", text).into());
            }
        };
        if all != entities.is_empty() {
            return Err(Failure::invalid("entities", "name entities, or set all; not both").into());
        }
        let lifetime = Duration::from_secs(seconds);
        let Issuance { id, left_out } = issue(&self.0, &actor, Wish { id, entities, task, lifetime }).await?;
        let shown = self.show_one(id).await?;
        Ok(Response::new(proto::TrackedInstruction { left_out, ..shown }))
    }

    async fn list(
        &self,
        request: Request<proto::ListInstructionsRequest>,
    ) -> Result<Response<proto::ListInstructionsResponse>, Status> {
        let proto::ListInstructionsRequest { page_size, page_token } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let before = page::token::<u64>(&page_token)?.unwrap_or(u64::MAX);
        time_out(&self.0).await?;
        let rows = self.0.store.instructions(before, size).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| row.sequence.to_string());
        let instructions = rows.into_iter().map(show).collect();
        Ok(Response::new(proto::ListInstructionsResponse { instructions, next_page_token }))
    }

    async fn get(
        &self,
        request: Request<proto::GetInstructionRequest>,
    ) -> Result<Response<proto::TrackedInstruction>, Status> {
        let id = parse_id(&request.into_inner().instruction_id)?;
        Ok(Response::new(self.show_one(id).await?))
    }

    async fn list_deliveries(
        &self,
        request: Request<proto::ListDeliveriesRequest>,
    ) -> Result<Response<proto::ListDeliveriesResponse>, Status> {
        let proto::ListDeliveriesRequest { instruction_id, page_size, page_token } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let after = page::token::<EntityId>(&page_token)?;
        let instruction = self.find(parse_id(&instruction_id)?).await?;
        let rows = self.0.store.deliveries(instruction.sequence, after, size).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| row.entity.to_string());
        let deliveries = rows.into_iter().map(show_delivery).collect();
        Ok(Response::new(proto::ListDeliveriesResponse { deliveries, next_page_token }))
    }
}

impl Instructions {
    async fn find(&self, id: InstructionId) -> Result<InstructionRow, Failure> {
        time_out(&self.0).await?;
        let found = self.0.store.instruction(id).await.map_err(unavailable)?;
        found.ok_or_else(|| Failure::not_found(format!("there is no instruction {id}")))
    }

    async fn show_one(&self, id: InstructionId) -> Result<proto::TrackedInstruction, Failure> {
        Ok(show(self.find(id).await?))
    }
}

fn parse_id(text: &str) -> Result<InstructionId, Failure> {
    text.parse().map_err(|_| Failure::invalid("instruction_id", "must be a UUID"))
}

fn to_dispatch(mut dispatch: proto::Dispatch) -> Result<Task, Failure> {
    if dispatch.lifetime_ms == 0 {
        dispatch.lifetime_ms = HOUR * 1000;
    }
    if Duration::from_millis(dispatch.lifetime_ms) > MAX_COMMAND_LIFETIME {
        return Err(Failure::invalid("dispatch.lifetime_ms", "must be at most 30 days"));
    }
    if let Some(proto::dispatch::Action::Run(run)) = &mut dispatch.action {
        run.arguments.sort_by(|one, other| one.name.cmp(&other.name));
        if let Some(pair) = run.arguments.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(Failure::invalid("run.parameters", format!("`{}` is given twice", pair[0].name)));
        }
    }
    Task::try_from(dispatch).map_err(|error| Failure::invalid("dispatch", error.to_string()))
}

fn communication(change: &proto::ChangeCommunication) -> Result<Task, Failure> {
    let (heartbeat, abnormal_after) =
        (Duration::from_millis(change.heartbeat_ms), Duration::from_millis(change.abnormal_after_ms));
    writ_protocol::manager::check_communication(heartbeat, abnormal_after)
        .map_err(|why| Failure::invalid("change_communication", why))?;
    Ok(Task::ChangeCommunication { heartbeat, abnormal_after })
}

fn show(row: InstructionRow) -> proto::TrackedInstruction {
    let open = row.total.saturating_sub(row.successful + row.unsuccessful);
    proto::TrackedInstruction {
        instruction_id: row.id.to_string(),
        kind: row.kind,
        issued_by: row.issued_by,
        issued_at_ms: row.issued_at.as_millis(),
        expires_at_ms: row.expires_at.as_millis(),
        ends_at_ms: row.ends_at.as_millis(),
        total: row.total,
        successful: row.successful,
        unsuccessful: row.unsuccessful,
        in_progress: open,
        left_out: Vec::new(),
    }
}

fn show_delivery(row: DeliveryRow) -> proto::Delivery {
    let state = match row.state {
        Some(TaskState::Successful) => proto::DeliveryState::Successful,
        Some(TaskState::Unsuccessful) => proto::DeliveryState::Unsuccessful,
        None if row.is_timed_out => proto::DeliveryState::TimedOut,
        None => proto::DeliveryState::Waiting,
        Some(TaskState::InProgress) => proto::DeliveryState::InProgress,
    };
    proto::Delivery {
        entity_id: row.entity.to_string(),
        display_name: row.display_name,
        state: state.into(),
        detail: row.detail,
        command_id: row.command.map_or_else(String::new, |command| command.to_string()),
        agents: row.agents,
        agents_done: row.agents_done,
        agents_failed: row.agents_failed,
        updated_at_ms: row.updated_at.as_millis(),
    }
}
