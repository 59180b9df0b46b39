//! `EnrollmentService`.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};
use tracing::info;
use writ_common::id::random_bytes;
use writ_common::identity::EnrolmentToken;
use writ_common::limits::MAX_NAME_BYTES;
use writ_common::tls::spki_digest;
use writ_common::wire::status::Failure;
use writ_proto::admin::v1::enrollment_service_server::EnrollmentService;
use writ_proto::admin::v1::{CreateTokenRequest, CreateTokenResponse};

use super::policy;
use crate::authority::create::DEFAULT_REALM;
use crate::context::Server;
use crate::store::unavailable;

const MAX_USES: u32 = 100_000;
const DAY: u64 = 86_400;

#[derive(Debug)]
pub(super) struct Enrollment(pub(super) Arc<Server>);

#[tonic::async_trait]
impl EnrollmentService for Enrollment {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let actor = policy::actor(&request)?;
        let CreateTokenRequest { uses, expires_in_seconds, realm } = request.into_inner();
        let uses = if uses == 0 { 1 } else { uses };
        if uses > MAX_USES {
            return Err(Failure::invalid("uses", format!("is {uses}; it must be 1 to {MAX_USES}")).into());
        }
        let seconds = if expires_in_seconds == 0 { DAY } else { expires_in_seconds };
        if seconds > 30 * DAY {
            return Err(Failure::invalid(
                "expires_in_seconds",
                format!("is {seconds}; it must be at most 2592000 (30 days)"),
            )
            .into());
        }
        let realm = if realm.is_empty() { DEFAULT_REALM.to_owned() } else { realm };
        let head = self.0.chain.head();
        let is_known =
            head.bundle.signing.iter().any(|entry| !entry.revoked && entry.realms.contains(&realm));
        if !is_known || realm.len() > MAX_NAME_BYTES {
            let text = format!(
                "no signing certificate may command the realm `{realm}`, so its agents would obey nobody"
            );
            return Err(Failure::invalid("realm", text).into());
        }
        let expires_at = self.0.clock.wall() + Duration::from_secs(seconds);
        let token = EnrolmentToken {
            secret: random_bytes(),
            fleet: self.0.fleet,
            bundle_version: head.bundle.version,
            bundle_digest: head.digest,
            tls_ca_spki_digests: head.bundle.tls_cas.iter().filter_map(|der| spki_digest(der)).collect(),
            endpoints: head.bundle.endpoints.clone(),
            realm: realm.clone(),
            expires_at,
        };
        let store = &self.0.store;
        let created =
            store.create_enrolment_token(token.digest(), realm, uses, expires_at, actor.name.clone());
        created.await.map_err(unavailable)?;
        let token_id = token.digest().to_string();
        info!(target: "audit", actor = actor.name, token.id = token_id, uses, "enrolment token created");
        Ok(Response::new(CreateTokenResponse {
            token: token.to_text(),
            token_id,
            expires_at_ms: expires_at.as_millis(),
            uses,
        }))
    }
}
