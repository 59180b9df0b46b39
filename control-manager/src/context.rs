//! What every call needs, in one place.

use bytes::Bytes;
use tokio::sync::Semaphore;
use writ_common::admin::audit::AuditSettings;
use writ_common::hush::Hush;
use writ_common::shutdown::Shutdown;
use writ_common::status::Failure;
use writ_common::time::SharedClock;
use writ_proto::manager::v1 as proto;
use writ_protocol::envelope::{InstructionPurpose, ManagerReplyPurpose, sign};
use writ_protocol::id::{Digest, EntityId, ManagerId};
use writ_protocol::manager::{Instruction, ManagerVersion, Reply, ReplyBody};
use writ_protocol::time::Timestamp;

use crate::authority::Authority;
use crate::feed::Feed;
use crate::mirror::Mirror;
use crate::sandbox::Sandbox;
use crate::store::{EntityRow, Store, unavailable};

/// A running manager.
#[derive(Debug)]
pub(crate) struct Manager {
    /// Its id.
    pub id: ManagerId,
    /// Its name.
    pub name: String,
    /// What it announces.
    pub version: ManagerVersion,
    /// What it announces.
    pub is_sandbox_connected: bool,
    /// Its keys.
    pub authority: Authority,
    /// What is durable.
    pub store: Store,
    /// The repository it mirrors.
    pub mirror: Mirror,
    /// What entities fetch of suspicious objects.
    pub feed: Feed,
    /// The sandbox that feeds it threats, if it asks one.
    pub sandbox: Option<Sandbox>,
    /// Entities dialled at a time.
    pub dials: Semaphore,
    /// Callbacks tried at a time, for any stranger: they keep no entity waiting.
    pub trials: Semaphore,
    /// How much the audit logs keep.
    pub audit: AuditSettings,
    /// Time.
    pub clock: SharedClock,
    /// What strangers do is logged once a source and minute.
    pub hush: Hush,
    /// The end.
    pub shutdown: Shutdown,
}

impl Manager {
    /// Time.
    #[must_use]
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.wall()
    }

    /// Signs an answer to a request.
    #[must_use]
    pub(crate) fn reply(&self, request: Digest, body: ReplyBody) -> proto::ManagerReply {
        let reply = Reply { request, time: self.now(), body };
        let envelope = sign::<ManagerReplyPurpose>(&[&self.authority.signing.for_purpose()], &reply);
        let mut chain = self.authority.chain.iter().map(|der| Bytes::from(der.clone()));
        proto::ManagerReply {
            envelope: envelope.bytes().clone(),
            certificate: chain.next().unwrap_or_default(),
            intermediates: chain.collect(),
        }
    }

    /// Signs an instruction.
    #[must_use]
    pub(crate) fn instruct(&self, instruction: &Instruction) -> Bytes {
        sign::<InstructionPurpose>(&[&self.authority.signing.for_purpose()], instruction).bytes().clone()
    }

    /// An entity by id or unique display name.
    pub(crate) async fn find_entity(&self, text: &str) -> Result<EntityRow, Failure> {
        let unknown =
            || Failure::not_found(format!("no entity has the id or name `{text}`; see: writ entities list"));
        if let Ok(id) = text.parse::<EntityId>() {
            return self.store.entity(id).await.map_err(unavailable)?.ok_or_else(unknown);
        }
        let mut named = self.store.entities_named(text).await.map_err(unavailable)?;
        match (named.pop(), named.pop()) {
            (None, _) => Err(unknown()),
            (Some(only), None) => Ok(only),
            (Some(one), Some(other)) => {
                let text = format!(
                    "several entities are called `{text}`, such as {} and {}; use an id",
                    one.id, other.id
                );
                Err(Failure::invalid("entity", text))
            }
        }
    }
}
