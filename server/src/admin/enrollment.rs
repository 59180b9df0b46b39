//! `EnrollmentService`.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};
use tracing::info;
use writ_common::status::Failure;
use writ_common::tls::spki_digest;
use writ_proto::admin::v1::enrollment_service_server::EnrollmentService;
use writ_proto::admin::v1::{
    CreateTokenRequest, CreateTokenResponse, EnrollmentToken, ListTokensRequest, ListTokensResponse,
    RevokeTokenRequest,
};
use writ_protocol::id::random_bytes;
use writ_protocol::identity::EnrolmentToken;
use writ_protocol::limits::MAX_NAME_BYTES;
use writ_protocol::time::Timestamp;

use crate::authority::create::DEFAULT_REALM;
use crate::context::Server;
use crate::store::{EnrolmentTokenRow, NewToken, unavailable};
use writ_common::admin::{Effect, page};

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
        let actor = writ_common::admin::actor(&request)?;
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
        let chain = self.0.chain();
        let head = chain.head();
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
        let created_by = actor.name.clone();
        let new = NewToken { token: token.digest(), realm, uses, expires_at, created_by };
        store.create_enrolment_token(new).await.map_err(unavailable)?;
        let token_id = token.digest().to_string();
        info!(target: "audit", actor = actor.name, token.id = token_id, uses, "enrolment token created");
        Ok(Response::new(CreateTokenResponse {
            token: token.to_text(),
            token_id,
            expires_at_ms: expires_at.as_millis(),
            uses,
        }))
    }

    async fn list_tokens(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        let ListTokensRequest { page_size, page_token } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let before = page::token::<u64>(&page_token)?.unwrap_or(u64::MAX);
        let rows = self.0.store.enrolment_tokens(before, size).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| row.sequence.to_string());
        let tokens = rows.into_iter().map(show).collect();
        Ok(Response::new(ListTokensResponse { tokens, next_page_token }))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<EnrollmentToken>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        let RevokeTokenRequest { token_id } = request.into_inner();
        let is_prefix = (8..=64).contains(&token_id.len()) && token_id.chars().all(|c| c.is_ascii_hexdigit());
        if !is_prefix {
            let text = "must be a token id of 64 hex digits, or at least the first 8 of them; see: writ enroll token list";
            return Err(Failure::invalid("token_id", text).into());
        }
        let mut found = self.0.store.enrolment_tokens_like(&token_id).await.map_err(unavailable)?;
        let row = match (found.pop(), found.is_empty()) {
            (None, _) => {
                let text = format!("no token's id begins with {token_id}; see: writ enroll token list");
                return Err(Failure::not_found(text).into());
            }
            (Some(_), false) => {
                let text = format!("the ids of several tokens begin with {token_id}; write more of it");
                return Err(Failure::invalid("token_id", text).into());
            }
            (Some(only), true) => only,
        };
        let now = self.0.clock.wall();
        self.0.store.revoke_enrolment_token(row.token, now).await.map_err(unavailable)?;
        info!(target: "audit", actor = actor.name, token.id = %row.token, "enrolment token revoked");
        let is_new = row.revoked_at == Timestamp::ZERO;
        let revoked_at = if is_new { now } else { row.revoked_at };
        Ok(Effect::unless(is_new, show(EnrolmentTokenRow { revoked_at, ..row })))
    }
}

fn show(row: EnrolmentTokenRow) -> EnrollmentToken {
    EnrollmentToken {
        token_id: row.token.to_string(),
        realm: row.realm,
        uses: row.max_uses,
        used: row.uses,
        expires_at_ms: row.expires_at.as_millis(),
        created_by: row.created_by,
        revoked_at_ms: row.revoked_at.as_millis(),
    }
}
