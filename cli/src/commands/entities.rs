//! `writ entities` and `writ instruct`: what operators of a Control Manager do, in the context of one.

use std::time::Duration;

use serde::Serialize;
use writ_proto::manager::v1 as proto;

use super::PAGE;
use crate::args::Format;
use crate::args::manager::{Entities, Instruct, To};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows};
use crate::secret::NewSecretFile;

#[derive(Serialize)]
struct Row {
    entity_id: String,
    display_name: String,
    host_name: String,
    product: String,
    version: String,
    addresses: Vec<String>,
    mode: &'static str,
    forwarding_address: String,
    state: &'static str,
    registered_at: String,
    last_contact: String,
    heartbeat_ms: u64,
    abnormal_after_ms: u64,
    key_id: String,
    instructions_open: u64,
    subscription: String,
    subscription_key_id: String,
    subscribed_at: String,
    objects_version: u64,
    objects_fetched_at: String,
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &["NAME", "STATE", "LAST CONTACT", "OPEN", "PRODUCT", "ADDRESS"];
    const WIDE: &'static [&'static str] =
        &["NAME", "STATE", "LAST CONTACT", "OPEN", "PRODUCT", "ADDRESS", "HOST", "MODE", "ID"];

    fn cells(&self) -> Vec<String> {
        vec![
            output::plain(&self.display_name),
            self.state.to_owned(),
            self.last_contact.clone(),
            self.instructions_open.to_string(),
            output::plain(&format!("{} {}", self.product, self.version)),
            output::plain(self.addresses.first().map_or("", String::as_str)),
        ]
    }

    fn wide(&self) -> Vec<String> {
        let more = [output::plain(&self.host_name), self.mode.to_owned(), self.entity_id.clone()];
        self.cells().into_iter().chain(more).collect()
    }
}

fn row(entity: proto::Entity) -> Row {
    let state = match entity.state() {
        proto::EntityState::Unspecified => "unknown",
        proto::EntityState::Waiting => "waiting",
        proto::EntityState::Active => "active",
        proto::EntityState::Inactive => "inactive",
        proto::EntityState::Abnormal => "abnormal",
        proto::EntityState::Rejected => "rejected",
    };
    let mode = if entity.mode() == proto::Mode::TwoWay { "two-way" } else { "one-way" };
    Row {
        entity_id: entity.entity_id,
        display_name: entity.display_name,
        host_name: entity.host_name,
        product: entity.product,
        version: entity.version,
        addresses: entity.addresses,
        mode,
        forwarding_address: entity.forwarding_address,
        state,
        registered_at: output::time(entity.registered_at_ms),
        last_contact: output::time(entity.last_contact_ms),
        heartbeat_ms: entity.heartbeat_ms,
        abnormal_after_ms: entity.abnormal_after_ms,
        key_id: entity.key_id,
        instructions_open: entity.instructions_open,
        subscription: entity.subscription,
        subscription_key_id: entity.subscription_key_id,
        subscribed_at: output::time(entity.subscribed_at_ms),
        objects_version: entity.objects_version,
        objects_fetched_at: output::time(entity.objects_fetched_at_ms),
    }
}

fn show(format: Format, row: &Row) -> Result<(), Failure> {
    let objects = match row.subscription.as_str() {
        "active" => format!(
            "version {}, asked {}, key {}",
            row.objects_version, row.objects_fetched_at, row.subscription_key_id
        ),
        other => output::plain(other),
    };
    let addresses: Vec<_> = row.addresses.iter().map(|address| output::plain(address)).collect();
    let fields = [
        ("entity", output::plain(&row.display_name)),
        ("id", row.entity_id.clone()),
        ("state", row.state.to_owned()),
        ("host", output::plain(&row.host_name)),
        ("product", output::plain(&format!("{} {}", row.product, row.version))),
        ("addresses", addresses.join(", ")),
        ("mode", output::plain(&format!("{} {}", row.mode, row.forwarding_address))),
        ("registered", row.registered_at.clone()),
        ("last contact", row.last_contact.clone()),
        ("key", row.key_id.clone()),
        ("instructions", format!("{} open", row.instructions_open)),
        ("objects", objects),
    ];
    output::one(format, row, &fields)
}

#[derive(Serialize)]
struct About {
    manager_id: String,
    name: String,
    version: String,
    program_version: String,
    sandbox_connected: bool,
    ca_subject: String,
    ca_sha256: String,
    ca_not_after: String,
    signing_not_after: String,
    entities: u64,
    entities_active: u64,
    entities_waiting: u64,
}

#[derive(Serialize)]
struct Made {
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    token_id: String,
    uses: u32,
    expires_at: String,
}

pub(super) async fn run(format: Format, client: &Client, verb: Entities) -> Result<(), Failure> {
    let mut entities = client.entities();
    let changed = match verb {
        Entities::List => {
            let (mut rows, mut page_token) = (Vec::new(), String::new());
            loop {
                let request = proto::ListEntitiesRequest { page_size: PAGE, page_token };
                let page = entities.list(request).await?.into_inner();
                rows.extend(page.entities.into_iter().map(row));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    let empty = "No server has registered yet. On one of them: writ manager register";
                    return output::list(format, &rows, empty);
                }
            }
        }
        Entities::Show { entity } => entities.get(proto::GetEntityRequest { entity }).await?,
        Entities::Approve { entity } => entities.approve(proto::ApproveEntityRequest { entity }).await?,
        Entities::Reject { entity } => entities.reject(proto::RejectEntityRequest { entity }).await?,
        Entities::Remove { entity } => entities.remove(proto::RemoveEntityRequest { entity }).await?,
        Entities::Token { uses, expires, token_file } => {
            let file = token_file.map(NewSecretFile::check).transpose()?;
            let request =
                proto::CreateRegistrationTokenRequest { uses, expires_in_seconds: expires.as_secs() };
            let made = entities.create_token(request).await?.into_inner();
            let mut shown = Made {
                token: None,
                token_id: made.token_id,
                uses: made.uses,
                expires_at: output::time(made.expires_at_ms),
            };
            let Some(file) = file else {
                return match format {
                    Format::Table | Format::Wide => output::text(&made.token),
                    Format::Json | Format::Jsonl | Format::Csv => {
                        shown.token = Some(made.token);
                        output::one(format, &shown, &[])
                    }
                };
            };
            let path = file.write(&made.token)?;
            let fields = [
                ("token", shown.token_id.clone()),
                ("expires", shown.expires_at.clone()),
                ("token file", path.display().to_string()),
                (
                    "next",
                    "on the server: writ manager settings set --registration-token-file FILE".to_owned(),
                ),
            ];
            return output::one(format, &shown, &fields);
        }
        Entities::RevokeSubscription { entity } => {
            entities.revoke_subscription(proto::RevokeSubscriptionRequest { entity }).await?
        }
        Entities::AllowSubscription { entity } => {
            entities.allow_subscription(proto::AllowSubscriptionRequest { entity }).await?
        }
        Entities::Sandbox { sync } => return sandbox(format, client, sync).await,
        Entities::Manager => return about(format, client).await,
    };
    show(format, &row(changed.into_inner()))
}

async fn about(format: Format, client: &Client) -> Result<(), Failure> {
    let manager = client.manager().get(proto::GetManagerRequest {}).await?.into_inner();
    let shown = About {
        manager_id: manager.manager_id,
        name: manager.name,
        version: manager.version,
        program_version: manager.program_version,
        sandbox_connected: manager.sandbox_connected,
        ca_subject: manager.ca_subject,
        ca_sha256: manager.ca_sha256,
        ca_not_after: output::time(manager.ca_not_after_ms),
        signing_not_after: output::time(manager.signing_not_after_ms),
        entities: manager.entities,
        entities_active: manager.entities_active,
        entities_waiting: manager.entities_waiting,
    };
    let counted = format!(
        "{} ({} active, {} waiting to be let in)",
        shown.entities, shown.entities_active, shown.entities_waiting
    );
    let fields = [
        ("manager", shown.name.clone()),
        ("id", shown.manager_id.clone()),
        ("announces", format!("version {}", shown.version)),
        ("sandbox", if shown.sandbox_connected { "connected" } else { "not connected" }.to_owned()),
        ("CA", shown.ca_subject.clone()),
        ("its SHA-256", shown.ca_sha256.clone()),
        ("valid until", shown.ca_not_after.clone()),
        ("key until", shown.signing_not_after.clone()),
        ("entities", counted),
    ];
    output::one(format, &shown, &fields)
}

#[derive(Serialize)]
struct Sandbox {
    collection: String,
    asked_at: String,
    read_at: String,
    added_after: String,
    error: String,
    indicators: u64,
    notes: Vec<Note>,
}

#[derive(Serialize)]
struct Note {
    id: String,
    name: String,
    why: String,
    at: String,
}

impl Rows for Note {
    const HEAD: &'static [&'static str] = &["NOT TAKEN OF", "NAME", "WHY", "AT"];

    fn cells(&self) -> Vec<String> {
        let Self { id, name, why, at } = self;
        [id, name, why, at].map(|text| output::plain(text)).to_vec()
    }
}

/// It was asked, and did not answer.
fn unread(sandbox: &Sandbox) -> Failure {
    let text = format!("the sandbox cannot be read: {}", output::plain(&sandbox.error));
    Failure::unreachable(text)
}

async fn sandbox(format: Format, client: &Client, is_asked: bool) -> Result<(), Failure> {
    let shown = match is_asked {
        true => client.manager().sync_sandbox(proto::SyncSandboxRequest {}).await?,
        false => client.manager().get_sandbox(proto::GetSandboxRequest {}).await?,
    };
    let proto::Sandbox { collection, asked_at_ms, read_at_ms, added_after, error, indicators, notes } =
        shown.into_inner();
    let note = |note: proto::SandboxNote| Note {
        id: note.id,
        name: note.name,
        why: note.why,
        at: output::time(note.at_ms),
    };
    let sandbox = Sandbox {
        collection,
        asked_at: output::time(asked_at_ms),
        read_at: output::time(read_at_ms),
        added_after,
        error,
        indicators,
        notes: notes.into_iter().map(note).collect(),
    };
    if !format.is_for_people() {
        output::one(format, &sandbox, &[])?;
        return if is_asked && !sandbox.error.is_empty() { Err(unread(&sandbox)) } else { Ok(()) };
    }
    if sandbox.collection.is_empty() {
        return output::text(
            "No sandbox is configured: set sandbox.collection in the manager's configuration.",
        );
    }
    let mut fields = vec![
        ("sandbox", output::plain(&sandbox.collection)),
        ("asked", sandbox.asked_at.clone()),
        ("read", sandbox.read_at.clone()),
        ("added until", output::plain(&sandbox.added_after)),
        ("indicators", format!("{} that name objects", sandbox.indicators)),
    ];
    if !sandbox.error.is_empty() {
        fields.push(("error", output::plain(&sandbox.error)));
    }
    output::one(format, &sandbox, &fields)?;
    if is_asked && !sandbox.error.is_empty() {
        return Err(unread(&sandbox));
    }
    if sandbox.notes.is_empty() {
        return Ok(());
    }
    output::text("")?;
    output::list(format, &sandbox.notes, "")
}

#[derive(Serialize)]
struct Tracked {
    instruction_id: String,
    kind: String,
    issued_by: String,
    issued_at: String,
    expires_at: String,
    ends_at: String,
    total: u64,
    successful: u64,
    unsuccessful: u64,
    in_progress: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliveries: Option<Vec<Delivery>>,
}

impl Rows for Tracked {
    const HEAD: &'static [&'static str] =
        &["ISSUED", "KIND", "BY", "SUCCESSFUL", "UNSUCCESSFUL", "IN PROGRESS", "TOTAL", "ID"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.issued_at.clone(),
            self.kind.clone(),
            self.issued_by.clone(),
            self.successful.to_string(),
            self.unsuccessful.to_string(),
            self.in_progress.to_string(),
            self.total.to_string(),
            self.instruction_id.clone(),
        ]
    }
}

#[derive(Serialize)]
struct Delivery {
    entity_id: String,
    display_name: String,
    state: &'static str,
    detail: String,
    command_id: String,
    agents: u64,
    agents_done: u64,
    agents_failed: u64,
    updated_at: String,
}

impl Rows for Delivery {
    const HEAD: &'static [&'static str] =
        &["ENTITY", "STATE", "AGENTS", "DONE", "FAILED", "UPDATED", "DETAIL"];

    fn cells(&self) -> Vec<String> {
        vec![
            output::plain(&self.display_name),
            self.state.to_owned(),
            self.agents.to_string(),
            self.agents_done.to_string(),
            self.agents_failed.to_string(),
            self.updated_at.clone(),
            output::plain(&self.detail),
        ]
    }
}

fn tracked(one: proto::TrackedInstruction) -> Tracked {
    Tracked {
        instruction_id: one.instruction_id,
        kind: one.kind,
        issued_by: one.issued_by,
        issued_at: output::time(one.issued_at_ms),
        expires_at: output::time(one.expires_at_ms),
        ends_at: output::time(one.ends_at_ms),
        total: one.total,
        successful: one.successful,
        unsuccessful: one.unsuccessful,
        in_progress: one.in_progress,
        left_out: one.left_out.iter().map(|name| output::plain(name)).collect(),
        deliveries: None,
    }
}

pub(super) async fn instruct(format: Format, client: &Client, verb: Instruct) -> Result<(), Failure> {
    use proto::issue_instruction_request::Task;
    let dispatch =
        |selector, action| Task::Dispatch(proto::Dispatch { selector, action: Some(action), lifetime_ms: 0 });
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (to, task) = match verb {
        Instruct::Ping { selector, to } => {
            (to, dispatch(selector, proto::dispatch::Action::Ping(proto::PingTask {})))
        }
        Instruct::Run { action, parameters, selector, to } => {
            let arguments =
                parameters.into_iter().map(|(name, value)| proto::Argument { name, value }).collect();
            let run = proto::ActionTask { name: action, arguments };
            (to, dispatch(selector, proto::dispatch::Action::Run(run)))
        }
        Instruct::Status { to } => (to, Task::AskStatus(proto::AskStatus {})),
        Instruct::Communication { heartbeat, abnormal_after, to } => {
            let (heartbeat_ms, abnormal_after_ms) = (millis(heartbeat), millis(abnormal_after));
            (to, Task::ChangeCommunication(proto::ChangeCommunication { heartbeat_ms, abnormal_after_ms }))
        }
        Instruct::List => {
            let request = proto::ListInstructionsRequest { page_size: PAGE, page_token: String::new() };
            let page = client.instructions().list(request).await?.into_inner();
            let rows: Vec<_> = page.instructions.into_iter().map(tracked).collect();
            let next = client.typed("writ instruct status --all");
            return output::list(format, &rows, &format!("Nothing was issued yet. Next: {next}"));
        }
        Instruct::Show { id } => return drill_down(format, client, id).await,
    };
    let To { entities, all, expires, id } = to;
    let request = proto::IssueInstructionRequest {
        entities,
        all,
        expires_in_seconds: expires.as_secs(),
        task: Some(task),
        instruction_id: id.unwrap_or_default(),
    };
    let issued = tracked(client.instructions().issue(request).await?.into_inner());
    let left_out = if issued.left_out.is_empty() {
        String::new()
    } else {
        format!("; left out, too much of theirs has not ended: {}", issued.left_out.join(", "))
    };
    let fields = [
        ("instruction", issued.instruction_id.clone()),
        ("kind", issued.kind.clone()),
        ("entities", format!("{}{left_out}", issued.total)),
        ("next", client.typed(&format!("writ instruct show {}", issued.instruction_id))),
    ];
    output::one(format, &issued, &fields)
}

async fn drill_down(format: Format, client: &Client, id: String) -> Result<(), Failure> {
    let request = proto::GetInstructionRequest { instruction_id: id.clone() };
    let mut one = tracked(client.instructions().get(request).await?.into_inner());
    let (mut rows, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            proto::ListDeliveriesRequest { instruction_id: id.clone(), page_size: PAGE, page_token };
        let page = client.instructions().list_deliveries(request).await?.into_inner();
        rows.extend(page.deliveries.into_iter().map(delivery));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if !format.is_for_people() {
        one.deliveries = Some(rows);
        return output::one(format, &one, &[]);
    }
    let counted = format!(
        "{} successful, {} unsuccessful, {} in progress of {}",
        one.successful, one.unsuccessful, one.in_progress, one.total
    );
    let fields = [
        ("instruction", one.instruction_id.clone()),
        ("kind", one.kind.clone()),
        ("by", one.issued_by.clone()),
        ("issued", one.issued_at.clone()),
        ("taken by", one.expires_at.clone()),
        ("times out", one.ends_at.clone()),
        ("state", counted),
    ];
    output::one(format, &one, &fields)?;
    output::text("")?;
    output::list(format, &rows, "No entities.")
}

fn delivery(row: proto::Delivery) -> Delivery {
    let state = match row.state() {
        proto::DeliveryState::Unspecified => "unknown",
        proto::DeliveryState::Waiting => "waiting",
        proto::DeliveryState::InProgress => "in progress",
        proto::DeliveryState::Successful => "successful",
        proto::DeliveryState::Unsuccessful => "unsuccessful",
        proto::DeliveryState::TimedOut => "timed out",
    };
    Delivery {
        entity_id: row.entity_id,
        display_name: row.display_name,
        state,
        detail: row.detail,
        command_id: row.command_id,
        agents: row.agents,
        agents_done: row.agents_done,
        agents_failed: row.agents_failed,
        updated_at: output::time(row.updated_at_ms),
    }
}
