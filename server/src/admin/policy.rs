//! Who may call what here, and where calls are recorded. The door itself: [`writ_common::admin`].

use tracing::error;
use writ_common::admin::{About, Entry, House, Role, Rule};
use writ_common::id::Digest;
use writ_common::wire::status::Failure;

use crate::context::Server;
use crate::store::{NewAudit, unavailable};

/// Every method of the admin port. A test compares it with the descriptors.
const POLICY: &[(&str, Rule)] = &[
    ("/grpc.health.v1.Health/Check", Rule::Open),
    ("/grpc.health.v1.Health/List", Rule::Open),
    ("/grpc.health.v1.Health/Watch", Rule::Open),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rule::Look(Role::Viewer)),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.AgentService/Approve", Rule::Change(Role::Operator, About::First)),
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

    async fn known(&self, token: Digest) -> Result<Option<(String, u8)>, Failure> {
        self.store.admin(token).await.map_err(unavailable)
    }

    async fn write(&self, entry: Entry) -> Result<(), Failure> {
        let queued = self.store.audit(self.audit_entry(entry)).await.map_err(unavailable)?;
        queued.committed().await.map_err(unavailable)
    }

    async fn note(&self, entry: Entry) {
        let method = entry.method;
        if let Err(error) = self.store.audit(self.audit_entry(entry)).await {
            error!(target: "audit", %error, method, "the call could not be audited");
        }
    }
}

impl Server {
    fn audit_entry(&self, entry: Entry) -> NewAudit {
        let Entry { log, actor, method, request, subject, outcome } = entry;
        NewAudit {
            log,
            at: self.clock.wall(),
            actor: actor.name,
            role: actor.role.as_str(),
            method,
            request,
            subject,
            outcome,
            max_entries: self.audit_max_entries,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;

    /// The name of a message's field that holds one text.
    fn text_field<'a>(files: &'a prost_types::FileDescriptorSet, message: &str, number: i32) -> &'a str {
        let (package, name) = message.trim_start_matches('.').rsplit_once('.').unwrap();
        let files = files.file.iter().filter(|file| file.package() == package);
        let message = files.flat_map(|file| &file.message_type).find(|known| known.name() == name).unwrap();
        let field = message.field.iter().find(|field| field.number() == number).unwrap();
        use prost_types::field_descriptor_proto::{Label, Type};
        assert_eq!((field.r#type(), field.label()), (Type::String, Label::Optional), "{}", field.name());
        field.name()
    }

    #[test]
    fn every_admin_method_has_a_row_and_every_row_a_method() {
        let descriptors = prost_types::FileDescriptorSet::decode(writ_proto::DESCRIPTORS).unwrap();
        let mut methods = BTreeSet::new();
        let mut named = BTreeSet::new();
        for file in descriptors.file.iter().filter(|file| file.package() == "writ.admin.v1") {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/writ.admin.v1.{}/{}", service.name(), method.name());
                    let rule = POLICY.iter().find(|(listed, _)| *listed == path).map(|(_, rule)| *rule);
                    if let Some(Rule::Change(_, about)) = rule
                        && let Some(number) = about.field()
                    {
                        named.insert(text_field(&descriptors, method.input_type(), number).to_owned());
                    }
                    methods.insert(path);
                }
            }
        }
        assert_eq!(named, BTreeSet::from(["agent", "command_id", "name", "token_id"].map(ToOwned::to_owned)));
        let ours = |listed: &&(&str, Rule)| listed.0.starts_with("/writ.");
        let rows: BTreeSet<_> = POLICY.iter().filter(ours).map(|(method, _)| (*method).to_owned()).collect();
        assert_eq!(rows, methods);
        let is_any_open = POLICY.iter().filter(ours).any(|(_, rule)| *rule == Rule::Open);
        assert!(!is_any_open, "no method of ours is open to everybody");
    }
}
