//! Who may call what here, and where calls are recorded. The door itself: [`writ_common::admin`].

use tracing::error;
use writ_common::admin::audit::{Audited, NewAudit};
use writ_common::admin::{About, Entry, House, Role, Rule};
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
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rule::Look(Role::Viewer)),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.AgentService/Approve", Rule::Change(Role::Operator, About::Replacement)),
    ("/writ.admin.v1.AgentService/Get", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.AgentService/Label", Rule::Change(Role::Operator, About::First)),
    ("/writ.admin.v1.AgentService/List", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.AgentService/Remove", Rule::Change(Role::Operator, About::First)),
    ("/writ.admin.v1.AgentService/Why", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.AlertService/List", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.AuditService/List", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Cancel", Rule::Change(Role::Operator, About::First)),
    ("/writ.admin.v1.CommandService/Evidence", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Get", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.CommandService/List", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.CommandService/ListTargets", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Preview", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Submit", Rule::Change(Role::Operator, About::CommandId)),
    ("/writ.admin.v1.CommandService/Watch", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.ControlManagerService/GetSettings", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.ControlManagerService/GetStatus", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.ControlManagerService/Register", Rule::Change(Role::Admin, About::Nothing)),
    ("/writ.admin.v1.ControlManagerService/Reregister", Rule::Change(Role::Admin, About::Nothing)),
    ("/writ.admin.v1.ControlManagerService/SetSettings", Rule::ChangeSecrets(Role::Admin)),
    ("/writ.admin.v1.ControlManagerService/SetUpdateSource", Rule::Change(Role::Admin, About::Nothing)),
    ("/writ.admin.v1.ControlManagerService/TestConnection", Rule::ChangeSecrets(Role::Admin)),
    ("/writ.admin.v1.ControlManagerService/Unregister", Rule::Change(Role::Admin, About::Nothing)),
    ("/writ.admin.v1.ControlManagerService/Update", Rule::Change(Role::Admin, About::Nothing)),
    ("/writ.admin.v1.EnrollmentService/CreateToken", Rule::Change(Role::Operator, About::Nothing)),
    ("/writ.admin.v1.EnrollmentService/ListTokens", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.EnrollmentService/RevokeToken", Rule::Change(Role::Operator, About::First)),
    ("/writ.admin.v1.OperatorService/Create", Rule::Change(Role::Admin, About::First)),
    ("/writ.admin.v1.OperatorService/List", Rule::Look(Role::Admin)),
    ("/writ.admin.v1.OperatorService/Revoke", Rule::Change(Role::Admin, About::First)),
    ("/writ.admin.v1.SystemService/Get", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.TrustService/GetConvergence", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.TrustService/ListBehind", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.TrustService/ListBundles", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.TrustService/ListCertificates", Rule::Look(Role::Viewer)),
];

impl House for Server {
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

    async fn note(&self, entry: Entry) {
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
