//! `EntityService` and `ManagerService`.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};
use tracing::info;
use writ_common::admin::{self, page};
use writ_common::status::Failure;
use writ_proto::manager::v1 as proto;
use writ_proto::manager::v1::entity_service_server::EntityService;
use writ_proto::manager::v1::manager_service_server::ManagerService;
use writ_protocol::id::{Digest, EntityId, random_bytes};
use writ_protocol::keys::SigningCertificate;
use writ_protocol::manager::{Mode, RegistrationToken};
use writ_protocol::time::Timestamp;

use crate::VERSION;
use crate::context::Manager;
use crate::presence::Presence;
use crate::sandbox::{self, Sandbox};
use crate::store::{
    EntityAdmission, EntityRow, KeepOrUndo, SandboxNoteRow, SandboxState, TokenRow, unavailable,
};

/// How long who asks the sandbox waits: less than a call may take.
const SYNC_FOR: Duration = Duration::from_secs(16);
const MAX_USES: u32 = 1000;
const DAY: u64 = 86_400;
const MIN_DIGITS: usize = 8;

#[derive(Debug)]
pub(super) struct Entities(pub(super) Arc<Manager>);

#[tonic::async_trait]
impl EntityService for Entities {
    async fn list(
        &self,
        request: Request<proto::ListEntitiesRequest>,
    ) -> Result<Response<proto::ListEntitiesResponse>, Status> {
        let proto::ListEntitiesRequest { page_size, page_token } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let after = page::token::<EntityId>(&page_token)?;
        // A name may change between two pages: the place is that of the entity's name now.
        let after = match after {
            None => None,
            Some(id) => {
                let row = self.0.store.entity(id).await.map_err(unavailable)?;
                let row = row.ok_or_else(|| {
                    Failure::invalid("page_token", "names an entity that is gone; begin again")
                })?;
                Some((row.registration.display_name, id))
            }
        };
        let rows = self.0.store.entities(after, size).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| row.id.to_string());
        let now = self.0.now();
        let entities = rows.into_iter().map(|row| show(row, now)).collect();
        Ok(Response::new(proto::ListEntitiesResponse { entities, next_page_token }))
    }

    async fn get(
        &self,
        request: Request<proto::GetEntityRequest>,
    ) -> Result<Response<proto::Entity>, Status> {
        let row = self.0.find_entity(&request.into_inner().entity).await?;
        Ok(Response::new(show(row, self.0.now())))
    }

    async fn approve(
        &self,
        request: Request<proto::ApproveEntityRequest>,
    ) -> Result<Response<proto::Entity>, Status> {
        let actor = admin::actor(&request)?;
        let entity = self.0.find_entity(&request.get_ref().entity).await?;
        Ok(Response::new(self.stand(&entity, EntityAdmission::Approved, &actor.name).await?))
    }

    async fn reject(
        &self,
        request: Request<proto::RejectEntityRequest>,
    ) -> Result<Response<proto::Entity>, Status> {
        let actor = admin::actor(&request)?;
        let entity = self.0.find_entity(&request.get_ref().entity).await?;
        Ok(Response::new(self.stand(&entity, EntityAdmission::Rejected, &actor.name).await?))
    }

    async fn remove(
        &self,
        request: Request<proto::RemoveEntityRequest>,
    ) -> Result<Response<proto::Entity>, Status> {
        let actor = admin::actor(&request)?;
        let entity = self.0.find_entity(&request.get_ref().entity).await?;
        let (now, id) = (self.0.now(), entity.id);
        let removed = self.0.store.change(move |change| {
            change.give_up(id, "the entity was removed", now)?;
            change.forget(id).map(KeepOrUndo::Keep)
        });
        removed.await.map_err(unavailable)?;
        info!(target: "audit", { actor = actor.name, entity.id = %entity.id }, "entity removed");
        Ok(Response::new(show(entity, now)))
    }

    async fn revoke_subscription(
        &self,
        request: Request<proto::RevokeSubscriptionRequest>,
    ) -> Result<Response<proto::Entity>, Status> {
        let actor = admin::actor(&request)?;
        let entity = self.0.find_entity(&request.get_ref().entity).await?;
        let (now, id) = (self.0.now(), entity.id);
        let revoked =
            self.0.store.change(move |change| change.revoke_subscription(&entity, now).map(KeepOrUndo::Keep));
        revoked.await.map_err(unavailable)?;
        info!(target: "audit", { actor = actor.name, entity.id = %id }, "subscription revoked");
        Ok(Response::new(show(self.0.find_entity(&id.to_string()).await?, now)))
    }

    async fn allow_subscription(
        &self,
        request: Request<proto::AllowSubscriptionRequest>,
    ) -> Result<Response<proto::Entity>, Status> {
        let actor = admin::actor(&request)?;
        let entity = self.0.find_entity(&request.get_ref().entity).await?;
        let id = entity.id;
        let allowed =
            self.0.store.change(move |change| change.allow_subscription(&entity).map(KeepOrUndo::Keep));
        allowed.await.map_err(unavailable)?;
        info!(target: "audit", { actor = actor.name, entity.id = %id }, "subscription allowed again");
        Ok(Response::new(show(self.0.find_entity(&id.to_string()).await?, self.0.now())))
    }

    async fn create_token(
        &self,
        request: Request<proto::CreateRegistrationTokenRequest>,
    ) -> Result<Response<proto::CreateRegistrationTokenResponse>, Status> {
        let actor = admin::actor(&request)?;
        let proto::CreateRegistrationTokenRequest { uses, expires_in_seconds } = request.into_inner();
        let uses = if uses == 0 { 1 } else { uses };
        if uses > MAX_USES {
            return Err(Failure::invalid("uses", format!("is {uses}; it must be 1 to {MAX_USES}")).into());
        }
        let seconds = if expires_in_seconds == 0 { DAY } else { expires_in_seconds };
        if seconds > 30 * DAY {
            let text = format!("is {seconds}; it must be at most 2592000 (30 days)");
            return Err(Failure::invalid("expires_in_seconds", text).into());
        }
        let token = RegistrationToken::from_secret(random_bytes());
        let (digest, expires_at) = (token.id(), self.0.now() + Duration::from_secs(seconds));
        let by = actor.name.clone();
        let stored = self.0.store.create_token(digest, &token.verifier(), uses, expires_at, by).await;
        stored.map_err(unavailable)?;
        info!(target: "audit", { actor = actor.name, token.id = %digest, uses }, "registration token created");
        Ok(Response::new(proto::CreateRegistrationTokenResponse {
            token: token.to_text().to_string(),
            token_id: digest.to_string(),
            expires_at_ms: expires_at.as_millis(),
            uses,
        }))
    }

    async fn list_tokens(
        &self,
        request: Request<proto::ListRegistrationTokensRequest>,
    ) -> Result<Response<proto::ListRegistrationTokensResponse>, Status> {
        let proto::ListRegistrationTokensRequest { page_size, page_token } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let before = page::token::<u64>(&page_token)?.unwrap_or(u64::MAX);
        let rows = self.0.store.tokens(before, size).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| row.sequence.to_string());
        let tokens = rows.into_iter().map(show_token).collect();
        Ok(Response::new(proto::ListRegistrationTokensResponse { tokens, next_page_token }))
    }

    async fn revoke_token(
        &self,
        request: Request<proto::RevokeRegistrationTokenRequest>,
    ) -> Result<Response<proto::RegistrationToken>, Status> {
        let actor = admin::actor(&request)?;
        let prefix = request.into_inner().token_id;
        if prefix.len() < MIN_DIGITS {
            let text = format!("must be a token's id, or at least {MIN_DIGITS} of its first digits");
            return Err(Failure::invalid("token_id", text).into());
        }
        let mut found = self.0.store.tokens_like(&prefix).await.map_err(unavailable)?;
        let Some(row) = found.pop() else {
            return Err(Failure::not_found(format!("no token begins with `{prefix}`")).into());
        };
        if !found.is_empty() {
            return Err(Failure::invalid("token_id", format!("several tokens begin with `{prefix}`")).into());
        }
        let now = self.0.now();
        self.0.store.revoke_token(row.digest, now).await.map_err(unavailable)?;
        info!(target: "audit", { actor = actor.name, token.id = %row.digest }, "registration token revoked");
        let revoked_at = if row.revoked_at == Timestamp::ZERO { now } else { row.revoked_at };
        Ok(Response::new(show_token(TokenRow { revoked_at, ..row })))
    }
}

impl Entities {
    /// Lets one in, or shows it the door. Saying it twice is saying it once.
    async fn stand(
        &self,
        found: &EntityRow,
        admission: EntityAdmission,
        actor: &str,
    ) -> Result<proto::Entity, Failure> {
        let (now, key) = (self.0.now(), found.key.clone());
        let decided = self.0.store.change(move |change| {
            // What was found may have changed meanwhile.
            let entity = change.entity_of(&key)?;
            let Some(mut entity) = entity.filter(|entity| entity.admission != EntityAdmission::Left) else {
                return Ok(KeepOrUndo::Undo(None));
            };
            entity.admission = admission;
            change.put(&entity)?;
            if admission == EntityAdmission::Rejected {
                change.give_up(entity.id, "the entity was rejected", now)?;
            }
            Ok(KeepOrUndo::Keep(Some(entity)))
        });
        let gone = || Failure::not_found(format!("entity {} has just left", found.id));
        let entity = decided.await.map_err(unavailable)?.ok_or_else(gone)?;
        info!(target: "audit", { actor, entity.id = %entity.id, standing = ?admission }, "entity decided");
        Ok(show(entity, now))
    }
}

#[derive(Debug)]
pub(super) struct ManagerInfo(pub(super) Arc<Manager>);

#[tonic::async_trait]
impl ManagerService for ManagerInfo {
    async fn get(&self, _: Request<proto::GetManagerRequest>) -> Result<Response<proto::Manager>, Status> {
        let (manager, now) = (&self.0, self.0.now());
        let counts = manager.store.counts().await.map_err(unavailable)?;
        let rows = manager.store.all_entities().await.map_err(unavailable)?;
        let active = rows.iter().filter(|row| presence(row, now) == Presence::Active).count();
        let ca = &manager.authority.ca;
        let signing = manager.authority.chain.first().and_then(|der| SigningCertificate::from_der(der).ok());
        Ok(Response::new(proto::Manager {
            manager_id: manager.id.to_string(),
            name: manager.name.clone(),
            version: manager.version.to_string(),
            program_version: VERSION.to_owned(),
            sandbox_connected: manager.is_sandbox_connected,
            ca_subject: ca.subject.clone(),
            ca_sha256: Digest::of(ca.der()).to_string(),
            ca_not_after_ms: ca.not_after.as_millis(),
            signing_not_after_ms: signing.map_or(0, |signing| signing.not_after().as_millis()),
            entities: counts.all,
            entities_active: u64::try_from(active).unwrap_or(u64::MAX),
            entities_waiting: counts.waiting,
            time_ms: now.as_millis(),
            objects_version: manager
                .store
                .feed_state()
                .await
                .map_err(unavailable)?
                .map_or(0, |it| it.version),
        }))
    }

    async fn get_sandbox(
        &self,
        _: Request<proto::GetSandboxRequest>,
    ) -> Result<Response<proto::Sandbox>, Status> {
        let state = self.0.store.sandbox().await.map_err(unavailable)?;
        Ok(Response::new(show_sandbox(&self.0, state).await?))
    }

    async fn sync_sandbox(
        &self,
        request: Request<proto::SyncSandboxRequest>,
    ) -> Result<Response<proto::Sandbox>, Status> {
        let actor = admin::actor(&request)?;
        if self.0.sandbox.is_none() {
            let text = "no sandbox is configured: set sandbox.collection in the manager's configuration";
            return Err(Failure::precondition("no_sandbox", text).into());
        }
        info!(target: "audit", { actor = actor.name }, "the sandbox is asked");
        let manager = Arc::clone(&self.0);
        // One that is under way is waited for.
        let _ended = tokio::time::timeout(SYNC_FOR / 2, sandbox::idle(&manager)).await;
        // To its end although the caller hangs up, or must be told before.
        let synced = self.0.shutdown.spawn(async move { sandbox::sync(&manager).await });
        let state = match tokio::time::timeout(SYNC_FOR, synced).await {
            Ok(synced) => {
                synced.map_err(|error| Failure::unavailable(error.to_string()))?.map_err(unavailable)?
            }
            Err(_) => self.0.store.sandbox().await.map_err(unavailable)?,
        };
        Ok(Response::new(show_sandbox(&self.0, state).await?))
    }
}

async fn show_sandbox(manager: &Manager, state: SandboxState) -> Result<proto::Sandbox, Failure> {
    let notes = manager.store.sandbox_notes().await.map_err(unavailable)?;
    let note = |row: SandboxNoteRow| proto::SandboxNote {
        id: row.id,
        name: row.name,
        why: row.why,
        at_ms: row.at.as_millis(),
    };
    let error = match manager.sandbox.as_ref().is_some_and(Sandbox::is_being_read) {
        true => "it is being read".to_owned(),
        false => state.error,
    };
    Ok(proto::Sandbox {
        collection: manager.sandbox.as_ref().map(|it| it.settings.collection.clone()).unwrap_or_default(),
        asked_at_ms: state.asked_at.as_millis(),
        read_at_ms: state.read_at.as_millis(),
        added_after: state.added_after,
        error,
        indicators: manager.store.count_indicators().await.map_err(unavailable)?,
        notes: notes.into_iter().map(note).collect(),
    })
}

fn presence(row: &EntityRow, now: Timestamp) -> Presence {
    Presence::of(row.admission, &row.registration, row.last_contact, now)
}

fn show(row: EntityRow, now: Timestamp) -> proto::Entity {
    let state = match presence(&row, now) {
        Presence::Waiting => proto::EntityState::Waiting,
        Presence::Active => proto::EntityState::Active,
        Presence::Inactive => proto::EntityState::Inactive,
        Presence::Abnormal => proto::EntityState::Abnormal,
        Presence::Rejected => proto::EntityState::Rejected,
    };
    let fetches = row.subscription.as_ref();
    let subscription = match fetches {
        _ if row.is_subscription_revoked => "revoked",
        None => "none",
        Some(_) => "active",
    };
    let registration = row.registration;
    let (mode, forwarding_address) = match registration.mode {
        Mode::OneWay => (proto::Mode::OneWay, String::new()),
        Mode::TwoWay { forwarding, .. } => (proto::Mode::TwoWay, forwarding),
    };
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    proto::Entity {
        entity_id: row.id.to_string(),
        display_name: registration.display_name,
        host_name: registration.host_name,
        product: registration.product,
        version: registration.version,
        addresses: registration.addresses,
        mode: mode.into(),
        forwarding_address,
        state: state.into(),
        registered_at_ms: row.registered_at.as_millis(),
        last_contact_ms: row.last_contact.as_millis(),
        heartbeat_ms: millis(registration.heartbeat),
        abnormal_after_ms: millis(registration.abnormal_after),
        key_id: row.key.id().to_string(),
        epoch: row.epoch,
        instructions_open: row.open,
        subscription: subscription.to_owned(),
        subscription_key_id: fetches.map_or_else(String::new, |it| it.key.id().to_string()),
        subscribed_at_ms: fetches.map_or(0, |it| it.issued_at.as_millis()),
        objects_version: fetches.map_or(0, |it| it.held),
        objects_fetched_at_ms: fetches.map_or(0, |it| it.fetched_at.as_millis()),
    }
}

fn show_token(row: TokenRow) -> proto::RegistrationToken {
    proto::RegistrationToken {
        token_id: row.digest.to_string(),
        uses: row.max_uses,
        used: row.uses,
        expires_at_ms: row.expires_at.as_millis(),
        created_by: row.created_by,
        revoked_at_ms: row.revoked_at.as_millis(),
    }
}
