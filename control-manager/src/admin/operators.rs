//! `OperatorService`, as on the server.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::info;
use writ_common::admin::{self, Role, check_operator_name, new_token, page};
use writ_common::id::Digest;
use writ_common::wire::status::Failure;
use writ_proto::admin::v1::operator_service_server::OperatorService;
use writ_proto::admin::v1::{
    CreateOperatorRequest, CreateOperatorResponse, ListOperatorsRequest, ListOperatorsResponse, Operator,
    RevokeOperatorRequest,
};

use crate::context::Manager;
use crate::store::{OperatorRow, Revoked, unavailable};

#[derive(Debug)]
pub(super) struct Operators(pub(super) Arc<Manager>);

#[tonic::async_trait]
impl OperatorService for Operators {
    async fn create(
        &self,
        request: Request<CreateOperatorRequest>,
    ) -> Result<Response<CreateOperatorResponse>, Status> {
        let actor = admin::actor(&request)?;
        let CreateOperatorRequest { name, role } = request.into_inner();
        check_operator_name(&name)?;
        let role = Role::from_wire(role)?;
        let (token, now) = (new_token(), self.0.now());
        let digest = Digest::of(token.as_bytes());
        let created = self.0.store.create_operator(digest, &name, role.stored(), now).await;
        if !created.map_err(unavailable)? {
            return Err(Failure::name_given(&name).into());
        }
        info!(target: "audit", actor = actor.name, operator = name, role = role.as_str(), "operator created");
        let row = OperatorRow {
            name,
            role: role.stored(),
            created_at: now,
            revoked_at: writ_common::time::Timestamp::ZERO,
        };
        let operator = Some(show(row));
        Ok(Response::new(CreateOperatorResponse { operator, token: token.to_string() }))
    }

    async fn list(
        &self,
        request: Request<ListOperatorsRequest>,
    ) -> Result<Response<ListOperatorsResponse>, Status> {
        let ListOperatorsRequest { page_size, page_token } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let rows = self.0.store.operators(&page_token, size).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| row.name.clone());
        let operators = rows.into_iter().map(show).collect();
        Ok(Response::new(ListOperatorsResponse { operators, next_page_token }))
    }

    async fn revoke(&self, request: Request<RevokeOperatorRequest>) -> Result<Response<Operator>, Status> {
        let actor = admin::actor(&request)?;
        let RevokeOperatorRequest { name } = request.into_inner();
        let revoked = self.0.store.revoke_operator(&name, Role::Admin.stored(), self.0.now()).await;
        match revoked.map_err(unavailable)? {
            (Revoked::Unknown, _) => Err(Failure::no_operator(&name).into()),
            (Revoked::IsLast, _) => Err(Failure::last_admin(&name).into()),
            (Revoked::Done, row) => {
                info!(target: "audit", actor = actor.name, operator = name, "operator revoked");
                Ok(Response::new(row.map(show).unwrap_or_default()))
            }
        }
    }
}

fn show(row: OperatorRow) -> Operator {
    Operator {
        name: row.name,
        role: Role::wire(row.role),
        created_at_ms: row.created_at.as_millis(),
        revoked_at_ms: row.revoked_at.as_millis(),
    }
}
