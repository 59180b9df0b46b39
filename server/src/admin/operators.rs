//! `OperatorService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::info;
use writ_common::id::Digest;
use writ_common::wire::status::Failure;
use writ_proto::admin::v1::operator_service_server::OperatorService;
use writ_proto::admin::v1::{
    CreateOperatorRequest, CreateOperatorResponse, ListOperatorsRequest, ListOperatorsResponse, Operator,
    RevokeOperatorRequest,
};

use crate::context::Server;
use crate::store::{AdminRow, Revoked, unavailable};
use writ_common::admin::page;
use writ_common::admin::{self, Effect, Role, check_operator_name, new_token};

#[derive(Debug)]
pub(super) struct Operators(pub(super) Arc<Server>);

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
        let token = new_token();
        let now = self.0.clock.wall();
        let created =
            self.0.store.create_admin(Digest::of(token.as_bytes()), name.clone(), role.stored(), now);
        if !created.await.map_err(unavailable)? {
            return Err(Failure::name_given(&name).into());
        }
        info!(target: "audit", actor = actor.name, operator = name, role = role.as_str(), "operator created");
        let operator = Operator {
            name,
            role: Role::wire(role.stored()),
            created_at_ms: now.as_millis(),
            revoked_at_ms: 0,
        };
        Ok(Response::new(CreateOperatorResponse { operator: Some(operator), token: token.to_string() }))
    }

    async fn list(
        &self,
        request: Request<ListOperatorsRequest>,
    ) -> Result<Response<ListOperatorsResponse>, Status> {
        let ListOperatorsRequest { page_size, page_token } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let rows = self.0.store.admins(&page_token, size).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| row.name.clone());
        let operators = rows.into_iter().map(show).collect();
        Ok(Response::new(ListOperatorsResponse { operators, next_page_token }))
    }

    async fn revoke(&self, request: Request<RevokeOperatorRequest>) -> Result<Response<Operator>, Status> {
        let actor = admin::actor(&request)?;
        let RevokeOperatorRequest { name } = request.into_inner();
        let (server, revoking, now) = (Arc::clone(&self.0), name.clone(), self.0.clock.wall());
        let change = async move { server.store.revoke_admin(revoking, Role::Admin.stored(), now).await };
        match self.0.to_the_end(change).await?.map_err(unavailable)? {
            Revoked::Unknown => return Err(Failure::no_operator(&name).into()),
            Revoked::IsLast => return Err(Failure::last_admin(&name).into()),
            Revoked::Done => {}
        }
        info!(target: "audit", actor = actor.name, operator = name, "operator revoked");
        let row = self.0.store.admin_named(&name).await.map_err(unavailable)?;
        let is_new = row.as_ref().is_none_or(|row| row.revoked_at == now);
        Ok(Effect::unless(is_new, row.map(show).unwrap_or_default()))
    }
}

fn show(row: AdminRow) -> Operator {
    Operator {
        name: row.name,
        role: Role::wire(row.role),
        created_at_ms: row.created_at.as_millis(),
        revoked_at_ms: row.revoked_at.as_millis(),
    }
}
