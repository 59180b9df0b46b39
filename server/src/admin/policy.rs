//! Who may call what here, and where calls are recorded. The door itself: [`writ_common::admin`].

use prost::Message as _;
use writ_common::admin::audit::{AuditSettings, SentCommand};
use writ_common::admin::operators::Scope;
use writ_common::admin::{AdminBackend, AuditSubject, Role, Rule, chosen_by};
use writ_common::shutdown::Shutdown;
use writ_common::status::Failure;
use writ_common::text::plain;
use writ_database::Database;
use writ_proto::admin::v1::{Attribute, LabelAgentRequest, LabelManyRequest, PreviewRequest, SubmitRequest};
use writ_protocol::command::{is_action_name, is_own_action};
use writ_protocol::time::Timestamp;

use super::commands::{action_name, has_secrets};
use crate::choose;
use crate::context::Server;
use crate::store::Job;

/// Actions that a scope names at most.
const MAX_SCOPE_ACTIONS: usize = 64;

/// Every method of the admin port. A story compares it with the descriptors.
pub const POLICY: &[(&str, Rule)] = &[
    ("/grpc.health.v1.Health/Check", Rule::Open),
    ("/grpc.health.v1.Health/List", Rule::Open),
    ("/grpc.health.v1.Health/Watch", Rule::Open),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rule::Read(Role::Viewer)),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.ActionService/Get", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.ActionService/List", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.AgentService/Approve", Rule::Change(Role::Operator, AuditSubject::Replacement)),
    ("/writ.admin.v1.AgentService/Get", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.AgentService/Label", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.AgentService/LabelMany", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.AgentService/List", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.AgentService/Remove", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.AgentService/Why", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.AlertService/Acknowledge", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.AlertService/List", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.AuditService/List", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Cancel", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.CommandService/Evidence", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Get", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.CommandService/List", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.CommandService/ListTargets", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Preview", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Stop", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.CommandService/Submit", Rule::ChangeWithLine(Role::Operator, AuditSubject::CommandId)),
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
    ("/writ.admin.v1.RolloutService/Abort", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.RolloutService/Get", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.RolloutService/List", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.RolloutService/Pause", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.RolloutService/Resume", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.RolloutService/Watch", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.SelectorService/Delete", Rule::Change(Role::Operator, AuditSubject::First)),
    ("/writ.admin.v1.SelectorService/List", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.SelectorService/Save", Rule::Change(Role::Operator, AuditSubject::Replacement)),
    ("/writ.admin.v1.SubscriptionService/Get", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.SubscriptionService/Rotate", Rule::Change(Role::Admin, AuditSubject::Nothing)),
    ("/writ.admin.v1.SubscriptionService/SetInterval", Rule::Change(Role::Admin, AuditSubject::Nothing)),
    ("/writ.admin.v1.SubscriptionService/Start", Rule::Change(Role::Admin, AuditSubject::Nothing)),
    ("/writ.admin.v1.SubscriptionService/Stop", Rule::Change(Role::Admin, AuditSubject::Nothing)),
    ("/writ.admin.v1.SubscriptionService/Sync", Rule::Change(Role::Operator, AuditSubject::Nothing)),
    ("/writ.admin.v1.SystemService/Get", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.TrustService/GetConvergence", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.TrustService/ListBehind", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.TrustService/ListBundles", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.TrustService/ListCertificates", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.UpdateService/GetCoverage", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.UpdateService/GetSource", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.UpdateService/GetStatus", Rule::Read(Role::Viewer)),
    ("/writ.admin.v1.UpdateService/Release", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.admin.v1.UpdateService/RollBack", Rule::Change(Role::Admin, AuditSubject::First)),
    ("/writ.admin.v1.UpdateService/SetSchedule", Rule::Change(Role::Admin, AuditSubject::Nothing)),
    ("/writ.admin.v1.UpdateService/SetSource", Rule::Change(Role::Admin, AuditSubject::Nothing)),
    ("/writ.admin.v1.UpdateService/Sync", Rule::Change(Role::Operator, AuditSubject::Nothing)),
];

/// Without parameters, of which some may be secret: nobody has looked yet.
fn submitted(asked: &SubmitRequest) -> SentCommand {
    let by = match (asked.all, asked.selector.as_str()) {
        (true, _) => "all".to_owned(),
        (false, "") => asked.agents.join(", "),
        (false, selector) => selector.to_owned(),
    };
    SentCommand {
        action: cut(asked.action.as_ref().map_or("", action_name)),
        agents: 0,
        chosen_by: chosen_by(&by),
    }
}

fn labelled((set, remove): (&[Attribute], &[String]), agents: u32, by: &str) -> SentCommand {
    let set = set.iter().map(|Attribute { name, value }| format!(" {name}={value}"));
    let changes: String = set.chain(remove.iter().map(|name| format!(" {name}-"))).collect();
    SentCommand { action: cut(&format!("label{changes}")), agents, chosen_by: chosen_by(by) }
}

/// Of what somebody typed so much stands in the log.
fn cut(text: &str) -> String {
    plain(&text.chars().take(MAX_ASKED_CHARS).collect::<String>())
}

/// As of a subject, and room for several labels.
const MAX_ASKED_CHARS: usize = 512;

impl AdminBackend for Server {
    const POLICY: &'static [(&'static str, Rule)] = POLICY;
    const SCOPED: &'static [&'static str] = &[
        "/writ.admin.v1.CommandService/Cancel",
        "/writ.admin.v1.CommandService/Stop",
        "/writ.admin.v1.CommandService/Submit",
        "/writ.admin.v1.RolloutService/Abort",
        "/writ.admin.v1.RolloutService/Pause",
        "/writ.admin.v1.RolloutService/Resume",
    ];

    type Store = Database<Job>;

    fn store(&self) -> &Database<Job> {
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

    fn asked_for(method: &str, request: &[u8]) -> Option<SentCommand> {
        match method {
            "/writ.admin.v1.CommandService/Submit" => Some(submitted(&SubmitRequest::decode(request).ok()?)),
            "/writ.admin.v1.AgentService/Label" => {
                let LabelAgentRequest { agent, set, remove } = LabelAgentRequest::decode(request).ok()?;
                Some(labelled((&set, &remove), 0, &agent))
            }
            "/writ.admin.v1.AgentService/LabelMany" => {
                let asked = LabelManyRequest::decode(request).ok()?;
                let each = asked.each.first().map(|first| (&first.set, &first.remove));
                let (set, remove) = each.unwrap_or((&asked.set, &asked.remove));
                let agents = u32::try_from(asked.each.len()).unwrap_or(u32::MAX);
                let by =
                    if asked.each.is_empty() { asked.selector.as_str() } else { "by name, the first so" };
                Some(labelled((set, remove), agents, by))
            }
            _ => None,
        }
    }

    fn has_secrets(method: &str, request: &[u8]) -> bool {
        match method {
            "/writ.admin.v1.CommandService/Submit" => {
                SubmitRequest::decode(request).is_ok_and(|asked| has_secrets(&asked))
            }
            "/writ.admin.v1.CommandService/Preview" => {
                let asked = PreviewRequest::decode(request).ok().and_then(|preview| preview.request);
                asked.is_some_and(|asked| has_secrets(&asked))
            }
            _ => false,
        }
    }

    fn check_scope(&self, scope: &Scope) -> Result<(), Failure> {
        if !scope.selector.is_empty() {
            let limit = choose::parse(&scope.selector)?;
            // Others may change what was saved, and nobody's rights should come and go with a connection.
            if !limit.is_about_attributes() {
                let text = "a scope is about labels and facts: it cannot ask how agents stand, nor name a saved selector";
                return Err(Failure::invalid("selector", text));
            }
        }
        let actions: Vec<_> = scope.actions.split(',').filter(|action| !action.is_empty()).collect();
        if actions.len() > MAX_SCOPE_ACTIONS {
            return Err(Failure::invalid("actions", format!("must be at most {MAX_SCOPE_ACTIONS}")));
        }
        match actions.iter().find(|action| !is_own_action(action) && !is_action_name(action)) {
            Some(action) => Err(Failure::invalid("actions", format!("`{action}` is no action's name"))),
            None => Ok(()),
        }
    }
}
