//! `ControlManagerService`.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};
use tracing::{info, warn};
use writ_common::admin::{self, Effect};
use writ_common::status::Failure;
use writ_proto::admin::v1 as proto;
use writ_proto::admin::v1::control_manager_service_server::ControlManagerService;

use crate::cm_bridge::{Held, Source, probe, register, update_source};
use crate::context::Server;
use crate::store::unavailable;

#[derive(Debug)]
pub(super) struct ControlManager(pub(super) Arc<Server>);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ControlManagerService for ControlManager {
    async fn get_settings(
        &self,
        _: Request<proto::GetManagerSettingsRequest>,
    ) -> Answer<proto::ManagerSettings> {
        let held = self.0.bridge.held();
        Ok(Response::new(held.saved.show(held.is_not_sent())))
    }

    async fn set_settings(
        &self,
        request: Request<proto::SetManagerSettingsRequest>,
    ) -> Answer<proto::ManagerSettings> {
        let actor = admin::actor(&request)?;
        let server = Arc::clone(&self.0);
        let changes = request.into_inner();
        let saved = self.0.to_the_end(async move {
            let mut turn = server.bridge.turn().await;
            let saved = turn.saved.changed(changes, server.bridge.vault(), server.clock.wall())?;
            if saved.clear_text && !turn.saved.clear_text {
                warn!(target: "audit", actor = actor.name, "the line to the Control Manager is set to clear text");
            }
            if saved.without_authorization && !turn.saved.without_authorization {
                warn!(target: "audit", actor = actor.name, "the Control Manager is set to be met without its authority");
            }
            let next = Held { saved, ..Held::clone(&turn) };
            server.keep_line(&mut turn, next).await.map_err(unavailable)?;
            Ok::<_, Failure>(turn.saved.show(turn.is_not_sent()))
        });
        Ok(Response::new(saved.await??))
    }

    type TestConnectionStream = Pin<Box<dyn Stream<Item = Result<proto::TestedLeg, Status>> + Send>>;

    async fn test_connection(
        &self,
        request: Request<proto::TestManagerConnectionRequest>,
    ) -> Answer<Self::TestConnectionStream> {
        let changes = request.into_inner().changes.unwrap_or_default();
        let saved = self.0.bridge.held().saved;
        let (sender, receiver) = mpsc::channel(16);
        match saved.changed(changes, self.0.bridge.vault(), self.0.clock.wall()) {
            Ok(settings) => {
                // Ends with whoever listens: nothing of a test is to be finished.
                let (server, hung_up) = (Arc::clone(&self.0), sender.clone());
                self.0.shutdown.spawn(async move {
                    tokio::select! {
                        () = probe::test(server, settings, sender) => {}
                        () = hung_up.closed() => {}
                    }
                });
            }
            Err(failure) => {
                self.0.shutdown.spawn(probe::input_failed(failure.message().to_owned(), sender));
            }
        }
        let tested: Self::TestConnectionStream = Box::pin(ReceiverStream::new(receiver).map(Ok));
        Ok(Effect::Nothing.of(tested))
    }

    async fn register(
        &self,
        request: Request<proto::RegisterWithManagerRequest>,
    ) -> Answer<proto::ManagerStatus> {
        let chosen = chosen(request.into_inner().update_source)?;
        let held = Box::pin(register::register(&self.0, chosen)).await?;
        self.status(&held).await
    }

    async fn update(&self, _: Request<proto::UpdateManagerRequest>) -> Answer<proto::ManagerStatus> {
        let held = Box::pin(register::update(&self.0)).await?;
        self.status(&held).await
    }

    async fn reregister(
        &self,
        request: Request<proto::ReregisterWithManagerRequest>,
    ) -> Answer<proto::ManagerStatus> {
        let chosen = chosen(request.into_inner().update_source)?;
        let held = Box::pin(register::reregister(&self.0, chosen)).await?;
        self.status(&held).await
    }

    async fn unregister(
        &self,
        _: Request<proto::UnregisterFromManagerRequest>,
    ) -> Answer<proto::ManagerStatus> {
        let held = Box::pin(register::unregister(&self.0)).await?;
        self.status(&held).await
    }

    async fn get_status(&self, _: Request<proto::GetManagerStatusRequest>) -> Answer<proto::ManagerStatus> {
        self.status(&self.0.bridge.held()).await
    }

    async fn set_update_source(
        &self,
        request: Request<proto::SetUpdateSourceRequest>,
    ) -> Answer<proto::ManagerStatus> {
        let actor = admin::actor(&request)?;
        let source = match chosen(request.into_inner().update_source)? {
            proto::UpdateSource::Default => Source::Default,
            proto::UpdateSource::Manager => Source::Manager,
            proto::UpdateSource::Unspecified => {
                return Err(Failure::invalid("update_source", "must be DEFAULT or MANAGER").into());
            }
        };
        let server = Arc::clone(&self.0);
        let held = self.0.to_the_end(async move {
            let mut turn = server.bridge.turn().await;
            if source == Source::Manager {
                update_source::is_offered(&turn.registration)?;
            }
            let mut next = Held::clone(&turn);
            next.registration.source = source;
            server.keep_line(&mut turn, next).await.map_err(unavailable)?;
            info!(target: "audit", { actor = actor.name, ?source }, "update source chosen");
            Ok::<_, Failure>(Held::clone(&turn))
        });
        self.status(&held.await??).await
    }
}

impl ControlManager {
    async fn status(&self, held: &Held) -> Answer<proto::ManagerStatus> {
        Ok(Response::new(self.0.line_status(held).await.map_err(unavailable)?))
    }
}

fn chosen(source: i32) -> Result<proto::UpdateSource, Failure> {
    proto::UpdateSource::try_from(source)
        .map_err(|_| Failure::invalid("update_source", "must be DEFAULT or MANAGER"))
}
