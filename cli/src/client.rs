//! The line to a server's admin port: TLS against its own authority, a bearer token with every call.

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use writ_common::files;
use writ_common::keys::pem;
use writ_common::tls::{Anchors, TlsFault, connect};
use writ_proto::admin::v1::action_service_client::ActionServiceClient;
use writ_proto::admin::v1::agent_service_client::AgentServiceClient;
use writ_proto::admin::v1::alert_service_client::AlertServiceClient;
use writ_proto::admin::v1::audit_service_client::AuditServiceClient;
use writ_proto::admin::v1::command_service_client::CommandServiceClient;
use writ_proto::admin::v1::control_manager_service_client::ControlManagerServiceClient;
use writ_proto::admin::v1::enrollment_service_client::EnrollmentServiceClient;
use writ_proto::admin::v1::object_service_client::ObjectServiceClient;
use writ_proto::admin::v1::operator_service_client::OperatorServiceClient;
use writ_proto::admin::v1::rollout_service_client::RolloutServiceClient;
use writ_proto::admin::v1::selector_service_client::SelectorServiceClient;
use writ_proto::admin::v1::subscription_service_client::SubscriptionServiceClient;
use writ_proto::admin::v1::system_service_client::SystemServiceClient;
use writ_proto::admin::v1::trust_service_client::TrustServiceClient;
use writ_proto::admin::v1::update_service_client::UpdateServiceClient;
use writ_proto::manager::v1::entity_service_client::EntityServiceClient;
use writ_proto::manager::v1::instruction_service_client::InstructionServiceClient;
use writ_proto::manager::v1::manager_service_client::ManagerServiceClient;

use crate::context::Context;
use crate::failure::Failure;

/// A page of a thousand targets with 16 KiB of output each fits.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// Adds the token.
#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Line = InterceptedService<Channel, Bearer>;

/// A connected client.
#[derive(Clone)]
pub(crate) struct Client {
    line: Line,
    /// The flag's value, if it was given.
    context: Option<String>,
}

macro_rules! services {
    ($($name:ident -> $client:ident;)*) => {
        impl Client {
            $(pub(crate) fn $name(&self) -> $client<Line> {
                $client::new(self.line.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
            })*
        }
    };
}

services! {
    actions -> ActionServiceClient;
    agents -> AgentServiceClient;
    alerts -> AlertServiceClient;
    audit -> AuditServiceClient;
    objects -> ObjectServiceClient;
    selectors -> SelectorServiceClient;
    subscription -> SubscriptionServiceClient;
    operators -> OperatorServiceClient;
    commands -> CommandServiceClient;
    rollouts -> RolloutServiceClient;
    enrollment -> EnrollmentServiceClient;
    control_manager -> ControlManagerServiceClient;
    entities -> EntityServiceClient;
    instructions -> InstructionServiceClient;
    manager -> ManagerServiceClient;
    system -> SystemServiceClient;
    trust -> TrustServiceClient;
    updates -> UpdateServiceClient;
}

impl Client {
    /// Connects to the server of a context.
    pub(crate) async fn connect(context: &Context) -> Result<Self, Failure> {
        let local = |error: &dyn std::fmt::Display| Failure::local(error.to_string());
        let token = files::secret_line(&context.token_file).map_err(|error| local(&error))?;
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.trim())
            .parse()
            .map_err(|_| Failure::local(format!("{}: not a bearer token", context.token_file.display())))?;
        value.set_sensitive(true);
        let text = files::read(&context.ca).map_err(|error| local(&error))?;
        let authorities = pem::certificates(&text)
            .map_err(|error| Failure::local(format!("{}: {error}", context.ca.display())))?;
        let connection = Box::pin(connect(&context.server, &Anchors::Authorities(authorities)))
            .await
            .map_err(|error| {
                let is_about_trust = error.tls_fault() == Some(TlsFault::Trust) && !error.is_about_dates();
                let hint = if is_about_trust { "; is --ca the admin-ca.pem of that server?" } else { "" };
                Failure::unreachable(format!("{error}; {}{hint}", error.advice()))
            })?;
        let line = InterceptedService::new(connection.channel, Bearer(value));
        Ok(Self { line, context: None })
    }

    /// The same, by the name that was typed for it.
    pub(crate) fn named(self, context: Option<String>) -> Self {
        Self { context, ..self }
    }

    /// How a command of this program is typed so that it reaches the same server.
    pub(crate) fn typed(&self, command: &str) -> String {
        match &self.context {
            Some(name) => command.replacen("writ ", &format!("writ --context {name} "), 1),
            None => command.to_owned(),
        }
    }
}
