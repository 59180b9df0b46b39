//! Who may call what here, and where calls are recorded. The door itself: [`writ_common::admin`].

use std::convert::Infallible;

use writ_common::admin::audit::AuditSettings;
use writ_common::admin::{AdminBackend, AuditSubject, Role, Rule};
use writ_common::shutdown::Shutdown;
use writ_database::Database;
use writ_protocol::time::Timestamp;

use crate::context::Manager;

/// Every method of the admin port. A story compares it with the descriptors.
pub const POLICY: &[(&str, Rule)] = &[
    ("/grpc.health.v1.Health/Check", Rule::Open),
    ("/grpc.health.v1.Health/List", Rule::Open),
    ("/grpc.health.v1.Health/Watch", Rule::Open),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rule::Read(Role::Viewer)),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.AuditService/List", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.ObjectService/Add", Rule::Change(Role::Operator, AuditSubject::Nothing)),
    ("/writ.admin.v1.ObjectService/Except", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.ObjectService/Expire", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.ObjectService/List", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.ObjectService/ListExceptions", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.ObjectService/Remove", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.ObjectService/RemoveException", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.OperatorService/Create", Rule::Change(Role::Admin, AuditSubject::Operator)),
    ("/writ.admin.v1.OperatorService/List", Rule::Read(Role::Admin)),
    ("/writ.admin.v1.OperatorService/Revoke", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.manager.v1.EntityService/AllowSubscription", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.manager.v1.EntityService/Approve", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.manager.v1.EntityService/CreateToken", Rule::Change(Role::Admin, AuditSubject::Nothing)),
    ("/writ.manager.v1.EntityService/Get", Rule::Read(Role::Viewer)),
    ("/writ.manager.v1.EntityService/List", Rule::Read(Role::Viewer)),
    ("/writ.manager.v1.EntityService/ListTokens", Rule::Read(Role::Viewer)),
    ("/writ.manager.v1.EntityService/Reject", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.manager.v1.EntityService/Remove", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.manager.v1.EntityService/RevokeSubscription", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.manager.v1.EntityService/RevokeToken", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.manager.v1.InstructionService/Get", Rule::Read(Role::Viewer)),
    ("/writ.manager.v1.InstructionService/Issue", Rule::Change(Role::Operator, AuditSubject::Nothing)),
    ("/writ.manager.v1.InstructionService/List", Rule::Read(Role::Viewer)),
    ("/writ.manager.v1.InstructionService/ListDeliveries", Rule::Read(Role::Viewer)),
    ("/writ.manager.v1.ManagerService/Get", Rule::Read(Role::Viewer)),
    ("/writ.manager.v1.ManagerService/GetSandbox", Rule::Read(Role::Viewer)),
    ("/writ.manager.v1.ManagerService/SyncSandbox", Rule::Change(Role::Operator, AuditSubject::Nothing)),
];

impl AdminBackend for Manager {
    const POLICY: &'static [(&'static str, Rule)] = POLICY;

    type Store = Database<Infallible>;

    fn store(&self) -> &Database<Infallible> {
        self.store.database()
    }

    fn tasks(&self) -> &Shutdown {
        &self.shutdown
    }

    fn now(&self) -> Timestamp {
        self.clock.wall()
    }

    fn audit_settings(&self) -> AuditSettings {
        self.audit
    }
}
