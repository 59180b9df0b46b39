//! Who may call what here, and where calls are recorded. The door itself: [`writ_common::admin`].

use tracing::error;
use writ_common::admin::audit::{Audited, NewAudit};
use writ_common::admin::{AdminBackend, AuditSubject, Entry, Role, Rule};
use writ_common::id::Digest;
use writ_common::shutdown::Shutdown;
use writ_common::wire::status::Failure;

use crate::context::Manager;
use crate::store::{Store, StoreError, unavailable};

/// Every method of the admin port. A story compares it with the descriptors.
const POLICY: &[(&str, Rule)] = &[
    ("/grpc.health.v1.Health/Check", Rule::Open),
    ("/grpc.health.v1.Health/List", Rule::Open),
    ("/grpc.health.v1.Health/Watch", Rule::Open),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rule::Read(Role::Viewer)),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.AuditService/List", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.OperatorService/Create", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.admin.v1.OperatorService/List", Rule::Read(Role::Admin)),
    ("/writ.admin.v1.OperatorService/Revoke", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.manager.v1.EntityService/Approve", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.manager.v1.EntityService/CreateToken", Rule::Change(Role::Admin, AuditSubject::Nothing)),
    ("/writ.manager.v1.EntityService/Get", Rule::Read(Role::Viewer)),
    ("/writ.manager.v1.EntityService/List", Rule::Read(Role::Viewer)),
    ("/writ.manager.v1.EntityService/ListTokens", Rule::Read(Role::Viewer)),
    ("/writ.manager.v1.EntityService/Reject", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.manager.v1.EntityService/Remove", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.manager.v1.EntityService/RevokeToken", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.manager.v1.InstructionService/Get", Rule::Read(Role::Viewer)),
    ("/writ.manager.v1.InstructionService/Issue", Rule::Change(Role::Operator, AuditSubject::Nothing)),
    ("/writ.manager.v1.InstructionService/List", Rule::Read(Role::Viewer)),
    ("/writ.manager.v1.InstructionService/ListDeliveries", Rule::Read(Role::Viewer)),
    ("/writ.manager.v1.ManagerService/Get", Rule::Read(Role::Viewer)),
];

impl AdminBackend for Manager {
    const POLICY: &'static [(&'static str, Rule)] = POLICY;

    fn tasks(&self) -> &Shutdown {
        &self.shutdown
    }

    async fn known(&self, token: Digest) -> Result<Option<(String, u8)>, Failure> {
        self.store.operator(token).await.map_err(unavailable)
    }

    async fn write(&self, entry: Entry) -> Result<(), Failure> {
        self.store.record(NewAudit::of(entry, self.now(), self.audit)).await.map_err(unavailable)
    }

    async fn record(&self, entry: Entry) {
        let method = entry.actor.method;
        if let Err(error) = self.store.record(NewAudit::of(entry, self.now(), self.audit)).await {
            error!(target: "audit", %error, method, "the call could not be audited");
        }
    }
}

impl Audited for Manager {
    type Audit = Store;

    fn audit(&self) -> &Store {
        &self.store
    }

    fn unavailable(error: StoreError) -> Failure {
        unavailable(error)
    }
}
