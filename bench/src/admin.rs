//! The operator of the measurements: one connection to the admin port.

use integration_tests::fleet::Fleet;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use writ_common::keys::pem;
use writ_common::tls::{Anchors, connect};
use writ_proto::admin::v1::command_service_client::CommandServiceClient;
use writ_proto::admin::v1::submit_request::Action;
use writ_proto::admin::v1::trust_service_client::TrustServiceClient;
use writ_proto::admin::v1::{
    Command, Convergence, GetCommandRequest, GetConvergenceRequest, PingAction, SubmitRequest,
    UpdateComponentAction,
};

#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Caller = InterceptedService<Channel, Bearer>;

#[derive(Clone)]
pub(crate) struct Admin {
    commands: CommandServiceClient<Caller>,
    trust: TrustServiceClient<Caller>,
}

impl Admin {
    pub(crate) async fn connect(fleet: &Fleet) -> Self {
        let token = std::fs::read_to_string(fleet.path("server/admin-token")).unwrap();
        let authorities =
            pem::certificates(&std::fs::read(fleet.path("server/admin-ca.pem")).unwrap()).unwrap();
        let endpoint = format!("localhost:{}", fleet.admin_port());
        let connection = connect(&endpoint, &Anchors::Authorities(authorities)).await.unwrap();
        let bearer = Bearer(format!("Bearer {}", token.trim()).parse().unwrap());
        let caller = InterceptedService::new(connection.channel, bearer);
        Self { commands: CommandServiceClient::new(caller.clone()), trust: TrustServiceClient::new(caller) }
    }

    /// Sends a ping to all agents, or to some.
    pub(crate) async fn ping(&self, agents: Vec<String>) -> Command {
        let request = SubmitRequest {
            all: agents.is_empty(),
            agents,
            action: Some(Action::Ping(PingAction {})),
            ..SubmitRequest::default()
        };
        self.commands.clone().submit(request).await.unwrap().into_inner()
    }

    /// Has all agents fetch a component.
    pub(crate) async fn component(&self, component: &str) -> Command {
        let component = component.to_owned();
        let action = UpdateComponentAction { component, ..UpdateComponentAction::default() };
        let request = SubmitRequest {
            all: true,
            action: Some(Action::UpdateComponent(action)),
            ..SubmitRequest::default()
        };
        self.commands.clone().submit(request).await.unwrap().into_inner()
    }

    /// Who holds which bundle.
    pub(crate) async fn convergence(&self) -> Convergence {
        self.trust.clone().get_convergence(GetConvergenceRequest {}).await.unwrap().into_inner()
    }

    /// Waits until every target has answered, durably; returns how many were done.
    pub(crate) async fn finish(&self, command: &Command) -> u64 {
        let request = GetCommandRequest { command_id: command.command_id.clone() };
        let mut changes = self.commands.clone().watch(request).await.unwrap().into_inner();
        let mut done = 0;
        while let Some(shown) = changes.message().await.unwrap() {
            done = shown.progress.unwrap().done;
        }
        done
    }
}
