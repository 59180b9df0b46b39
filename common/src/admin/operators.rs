//! `OperatorService`: who may call the admin port. The same for every program that has one.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};
use tracing::info;
use writ_proto::admin::v1::operator_service_server::OperatorService;
use writ_proto::admin::v1::{
    CreateOperatorRequest, CreateOperatorResponse, ListOperatorsRequest, ListOperatorsResponse, Operator,
    RevokeOperatorRequest,
};

use super::audit::AuditStore;
use super::{AdminBackend, Effect, Role, actor, check_operator_name, new_token, page, unavailable};
use crate::status::Failure;
use writ_protocol::id::Digest;
use writ_protocol::time::Timestamp;

/// A token lives so long at most, if it ends at all.
const LONGEST_TOKEN: Duration = Duration::from_secs(3660 * 24 * 3600);

/// Somebody who may call the admin port, or might once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorRow {
    /// Their name.
    pub name: String,
    /// Their role, as stored.
    pub role: u8,
    /// Since when.
    pub created_at: Timestamp,
    /// When they were revoked; zero: they were not.
    pub revoked_at: Timestamp,
    /// When their token ends; zero: never.
    pub expires_at: Timestamp,
    /// What they may command.
    pub scope: Scope,
}

/// Which commands somebody may send; empty: any that their role allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// To agents of which this holds.
    pub selector: String,
    /// With one of these actions, joined by commas.
    pub actions: String,
}

impl Scope {
    /// Whether there is none.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.selector.is_empty() && self.actions.is_empty()
    }

    /// Whether it has an action.
    #[must_use]
    pub fn allows(&self, action: &str) -> bool {
        self.actions.is_empty() || self.actions.split(',').any(|allowed| allowed == action)
    }
}

/// Whom a token is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Their name.
    pub name: String,
    /// Their role, as stored.
    pub role: u8,
    /// When their token ends; zero: never.
    pub expires_at: Timestamp,
    /// What they may command.
    pub scope: Scope,
}

impl Caller {
    /// Whether their token has ended.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires_at != Timestamp::ZERO && now >= self.expires_at
    }
}

/// Somebody to be recorded.
#[derive(Debug, Clone)]
pub struct NewOperator {
    /// SHA-256 of their token.
    pub token: Digest,
    /// Who.
    pub caller: Caller,
    /// Since when.
    pub now: Timestamp,
}

/// What became of a revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// Nobody has that name.
    Unknown,
    /// Nobody of the greatest role would be left.
    IsLast,
    /// Their token counts no more.
    Done {
        /// As they are now.
        row: OperatorRow,
        /// Whether this revoked them, or an earlier call.
        is_new: bool,
    },
}

impl Revocation {
    /// Decides about somebody, where `others` of the greatest role are left besides them.
    #[must_use]
    pub fn decide(row: OperatorRow, greatest: u8, others: u64, now: Timestamp) -> Self {
        if row.revoked_at != Timestamp::ZERO {
            return Self::Done { row, is_new: false };
        }
        if row.role == greatest && others == 0 {
            return Self::IsLast;
        }
        Self::Done { row: OperatorRow { revoked_at: now, ..row }, is_new: true }
    }
}

/// Where operators are kept, beside the audit logs.
pub trait OperatorStore: AuditStore {
    /// Whose a token is that was not revoked; it may have ended.
    fn operator(&self, token: Digest) -> impl Future<Output = Result<Option<Caller>, Self::Error>> + Send;

    /// Everybody who may or might call, by name, after one of them.
    fn operators(
        &self,
        after: String,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<OperatorRow>, Self::Error>> + Send;

    /// Records somebody; `false` when the name was given before.
    fn create_operator(&self, new: NewOperator) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Revokes somebody, as [`Revocation::decide`] decides. Their token counts no more when this returns.
    fn revoke_operator(
        &self,
        name: String,
        greatest: u8,
        now: Timestamp,
    ) -> impl Future<Output = Result<Revocation, Self::Error>> + Send;
}

/// `OperatorService`.
#[derive(Debug)]
pub struct OperatorPages<H>(pub Arc<H>);

#[tonic::async_trait]
impl<H: AdminBackend> OperatorService for OperatorPages<H> {
    async fn create(
        &self,
        request: Request<CreateOperatorRequest>,
    ) -> Result<Response<CreateOperatorResponse>, Status> {
        let actor = actor(&request)?;
        let CreateOperatorRequest { name, role, expires_in_seconds, selector, actions } =
            request.into_inner();
        check_operator_name(&name)?;
        let role = Role::from_wire(role)?;
        if actions.iter().any(|action| action.is_empty() || action.contains(',')) {
            return Err(Failure::invalid("actions", "each is one action's name, and none is empty").into());
        }
        let scope = Scope { selector, actions: actions.join(",") };
        if !scope.is_everything() {
            if role != Role::Operator {
                let text = "only an operator's token has a scope: viewers command nobody, and others change more than a scope could limit";
                return Err(Failure::invalid("role", text).into());
            }
            self.0.check_scope(&scope)?;
        }
        let lifetime = Duration::from_secs(expires_in_seconds);
        if lifetime > LONGEST_TOKEN {
            return Err(Failure::invalid("expires_in_seconds", "must be at most 3660 days").into());
        }
        let (token, now) = (new_token(), self.0.now());
        let expires_at = if lifetime.is_zero() { Timestamp::ZERO } else { now + lifetime };
        let caller = Caller { name: name.clone(), role: role.stored(), expires_at, scope: scope.clone() };
        let new = NewOperator { token: Digest::of(token.as_bytes()), caller, now };
        let created = self.0.store().create_operator(new).await;
        if !created.map_err(unavailable)? {
            return Err(Failure::name_given(&name).into());
        }
        info!(target: "audit", actor = actor.name, operator = name, role = role.as_str(), "operator created");
        let (role, revoked_at) = (role.stored(), Timestamp::ZERO);
        let row = OperatorRow { name, role, created_at: now, revoked_at, expires_at, scope };
        let operator = Some(show(row));
        Ok(Response::new(CreateOperatorResponse { operator, token: token.to_string() }))
    }

    async fn list(
        &self,
        request: Request<ListOperatorsRequest>,
    ) -> Result<Response<ListOperatorsResponse>, Status> {
        let ListOperatorsRequest { page_size, page_token } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let rows = self.0.store().operators(page_token, size).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| row.name.clone());
        let operators = rows.into_iter().map(show).collect();
        Ok(Response::new(ListOperatorsResponse { operators, next_page_token }))
    }

    async fn revoke(&self, request: Request<RevokeOperatorRequest>) -> Result<Response<Operator>, Status> {
        let actor = actor(&request)?;
        let RevokeOperatorRequest { name } = request.into_inner();
        let revoked = self.0.store().revoke_operator(name.clone(), Role::Admin.stored(), self.0.now()).await;
        match revoked.map_err(unavailable)? {
            Revocation::Unknown => Err(Failure::no_operator(&name).into()),
            Revocation::IsLast => Err(Failure::last_admin(&name).into()),
            Revocation::Done { row, is_new } => {
                info!(target: "audit", actor = actor.name, operator = name, "operator revoked");
                Ok(Effect::unless(is_new, show(row)))
            }
        }
    }
}

fn show(row: OperatorRow) -> Operator {
    let Scope { selector, actions } = row.scope;
    Operator {
        name: row.name,
        role: Role::wire(row.role),
        created_at_ms: row.created_at.as_millis(),
        revoked_at_ms: row.revoked_at.as_millis(),
        expires_at_ms: row.expires_at.as_millis(),
        selector,
        actions: actions.split(',').filter(|action| !action.is_empty()).map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_the_greatest_role_stays_and_revoking_twice_is_revoking_once() {
        let at = Timestamp::from_millis;
        let row = |role, revoked_at| OperatorRow {
            expires_at: Timestamp::ZERO,
            scope: Scope::default(),
            name: "anna".to_owned(),
            role,
            created_at: at(1),
            revoked_at: at(revoked_at),
        };
        let done = |role, revoked_at, is_new| Revocation::Done { row: row(role, revoked_at), is_new };
        for (role, revoked_at, others, decision) in [
            (4, 0, 0, Revocation::IsLast),
            (4, 0, 1, done(4, 9, true)),
            (3, 0, 0, done(3, 9, true)),
            (4, 5, 0, done(4, 5, false)),
            (1, 5, 2, done(1, 5, false)),
        ] {
            assert_eq!(Revocation::decide(row(role, revoked_at), 4, others, at(9)), decision);
        }
    }
}
