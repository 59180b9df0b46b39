//! Who may call what here, and where calls are recorded. The door itself: [`writ_common::admin`].

use tracing::error;
use writ_common::admin::audit::{Audited, NewAudit};
use writ_common::admin::{AdminBackend, AuditSubject, Entry, Role, Rule};
use writ_common::id::Digest;
use writ_common::shutdown::Shutdown;
use writ_common::wire::status::Failure;

use crate::context::Server;
use crate::store::{Store, StoreError, unavailable};

/// Every method of the admin port. A story compares it with the descriptors.
const POLICY: &[(&str, Rule)] = &[
    ("/grpc.health.v1.Health/Check", Rule::Open),
    ("/grpc.health.v1.Health/List", Rule::Open),
    ("/grpc.health.v1.Health/Watch", Rule::Open),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rule::Read(Role::Viewer)),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.AgentService/Approve", Rule::Change(Role::Operator, AuditSubject::Replacement)),
    ("/writ.admin.v1.AgentService/Get", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.AgentService/Label", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.AgentService/List", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.AgentService/Remove", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.AgentService/Why", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.AlertService/List", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.AuditService/List", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Cancel", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.CommandService/Evidence", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Get", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.CommandService/List", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.CommandService/ListTargets", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Preview", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Submit", Rule::Change(Role::Operator, AuditSubject::CommandId)),
    ("/writ.admin.v1.CommandService/Watch", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.ControlManagerService/GetSettings", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.ControlManagerService/GetStatus", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.ControlManagerService/Register", Rule::Change(Role::Admin, AuditSubject::Nothing)),
    ("/writ.admin.v1.ControlManagerService/Reregister", Rule::Change(Role::Admin, AuditSubject::Nothing)),
    ("/writ.admin.v1.ControlManagerService/SetSettings", Rule::ChangeSecrets(Role::Admin)),
    (
        "/writ.admin.v1.ControlManagerService/SetUpdateSource",
        Rule::Change(Role::Admin, AuditSubject::Nothing),
    ),
    ("/writ.admin.v1.ControlManagerService/TestConnection", Rule::ChangeSecrets(Role::Admin)),
    ("/writ.admin.v1.ControlManagerService/Unregister", Rule::Change(Role::Admin, AuditSubject::Nothing)),
    ("/writ.admin.v1.ControlManagerService/Update", Rule::Change(Role::Admin, AuditSubject::Nothing)),
    ("/writ.admin.v1.EnrollmentService/CreateToken", Rule::Change(Role::Operator, AuditSubject::Nothing)),
    ("/writ.admin.v1.EnrollmentService/ListTokens", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.EnrollmentService/RevokeToken", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.OperatorService/Create", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.admin.v1.OperatorService/List", Rule::Read(Role::Admin)),
    ("/writ.admin.v1.OperatorService/Revoke", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.admin.v1.SystemService/Get", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.TrustService/GetConvergence", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.TrustService/ListBehind", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.TrustService/ListBundles", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.TrustService/ListCertificates", Rule::Read(Role::Viewer)),
];

impl AdminBackend for Server {
    const POLICY: &'static [(&'static str, Rule)] = POLICY;

    fn tasks(&self) -> &Shutdown {
        &self.shutdown
    }

    async fn known(&self, token: Digest) -> Result<Option<(String, u8)>, Failure> {
        self.store.admin(token).await.map_err(unavailable)
    }

    async fn write(&self, entry: Entry) -> Result<(), Failure> {
        let queued = self.store.audit(self.audit_entry(entry)).await.map_err(unavailable)?;
        queued.committed().await.map_err(unavailable)
    }

    async fn record(&self, entry: Entry) {
        let method = entry.actor.method;
        if let Err(error) = self.store.audit(self.audit_entry(entry)).await {
            error!(target: "audit", %error, method, "the call could not be audited");
        }
    }
}

impl Server {
    /// A call as it is recorded.
    pub(crate) fn audit_entry(&self, entry: Entry) -> NewAudit {
        NewAudit::of(entry, self.clock.wall(), self.audit)
    }
}

impl Audited for Server {
    type Audit = Store;

    fn audit(&self) -> &Store {
        &self.store
    }

    fn unavailable(error: StoreError) -> Failure {
        unavailable(error)
    }
}
