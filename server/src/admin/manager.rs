//! `ControlManagerService`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};
use tracing::{info, warn};
use writ_common::admin::{self, Effect};
use writ_common::net::Protocol;
use writ_common::status::Failure;
use writ_proto::admin::v1 as proto;
use writ_proto::admin::v1::control_manager_service_server::ControlManagerService;
use writ_protocol::time::Timestamp;

use crate::cm_bridge::legs::{Leg, LegOutcome, TestedLeg};
use crate::cm_bridge::settings::{Changes, ProxyChange, Settings, UploadedAuthority};
use crate::cm_bridge::{
    LineStatus, ManagerRecord, State, UpdateSource, Uplink, probe, register, update_source,
};
use crate::store::unavailable;

#[derive(Debug)]
pub(super) struct ControlManager(pub(super) Arc<Uplink>);

type RpcResult<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ControlManagerService for ControlManager {
    async fn get_settings(
        &self,
        _: Request<proto::GetManagerSettingsRequest>,
    ) -> RpcResult<proto::ManagerSettings> {
        let held = self.0.bridge.held();
        Ok(Response::new(show_settings(&held.saved, held.is_not_sent())))
    }

    async fn set_settings(
        &self,
        request: Request<proto::SetManagerSettingsRequest>,
    ) -> RpcResult<proto::ManagerSettings> {
        let actor = admin::actor(&request)?;
        let uplink = Arc::clone(&self.0);
        let changes = changes(request.into_inner());
        let saved = self.0.server.to_the_end(async move {
            let mut turn = uplink.bridge.turn().await;
            let now = uplink.server.clock.wall();
            let saved = turn.saved.changed(changes, uplink.bridge.vault(), now)?;
            if saved.clear_text && !turn.saved.clear_text {
                warn!(target: "audit", actor = actor.name, "the line to the Control Manager is set to clear text");
            }
            if saved.without_authorization && !turn.saved.without_authorization {
                warn!(target: "audit", actor = actor.name, "the Control Manager is set to be met without its authority");
            }
            let next = ManagerRecord { saved, ..ManagerRecord::clone(&turn) };
            uplink.keep_line(&mut turn, next).await.map_err(unavailable)?;
            Ok::<_, Failure>(show_settings(&turn.saved, turn.is_not_sent()))
        });
        Ok(Response::new(saved.await??))
    }

    type TestConnectionStream = Pin<Box<dyn Stream<Item = Result<proto::TestedLeg, Status>> + Send>>;

    async fn test_connection(
        &self,
        request: Request<proto::TestManagerConnectionRequest>,
    ) -> RpcResult<Self::TestConnectionStream> {
        let changes = changes(request.into_inner().changes.unwrap_or_default());
        let saved = self.0.bridge.held().saved;
        let (sender, receiver) = mpsc::channel(16);
        match saved.changed(changes, self.0.bridge.vault(), self.0.server.clock.wall()) {
            Ok(settings) => {
                // Ends with its listener: nothing of a test is to be finished.
                let (uplink, hung_up) = (Arc::clone(&self.0), sender.clone());
                self.0.server.shutdown.spawn(async move {
                    tokio::select! {
                        () = probe::test(uplink, settings, sender) => {}
                        () = hung_up.closed() => {}
                    }
                });
            }
            Err(failure) => {
                self.0.server.shutdown.spawn(probe::input_failed(failure.message().to_owned(), sender));
            }
        }
        let tested: Self::TestConnectionStream =
            Box::pin(ReceiverStream::new(receiver).map(|leg| Ok(show_leg(leg))));
        Ok(Effect::Nothing.of(tested))
    }

    async fn register(
        &self,
        request: Request<proto::RegisterWithManagerRequest>,
    ) -> RpcResult<proto::ManagerStatus> {
        let chosen = chosen(request.into_inner().update_source)?;
        let held = Box::pin(register::register(&self.0, chosen)).await?;
        self.status(&held).await
    }

    async fn update(&self, _: Request<proto::UpdateManagerRequest>) -> RpcResult<proto::ManagerStatus> {
        let held = Box::pin(register::update(&self.0)).await?;
        self.status(&held).await
    }

    async fn reregister(
        &self,
        request: Request<proto::ReregisterWithManagerRequest>,
    ) -> RpcResult<proto::ManagerStatus> {
        let chosen = chosen(request.into_inner().update_source)?;
        let held = Box::pin(register::reregister(&self.0, chosen)).await?;
        self.status(&held).await
    }

    async fn unregister(
        &self,
        _: Request<proto::UnregisterFromManagerRequest>,
    ) -> RpcResult<proto::ManagerStatus> {
        let held = Box::pin(register::unregister(&self.0)).await?;
        self.status(&held).await
    }

    async fn get_status(
        &self,
        _: Request<proto::GetManagerStatusRequest>,
    ) -> RpcResult<proto::ManagerStatus> {
        self.status(&self.0.bridge.held()).await
    }

    async fn set_update_source(
        &self,
        request: Request<proto::SetUpdateSourceRequest>,
    ) -> RpcResult<proto::ManagerStatus> {
        let actor = admin::actor(&request)?;
        let unanswered = || Failure::invalid("update_source", "must be DEFAULT or MANAGER");
        let source = chosen(request.into_inner().update_source)?.ok_or_else(unanswered)?;
        let uplink = Arc::clone(&self.0);
        let held = self.0.server.to_the_end(async move {
            let mut turn = uplink.bridge.turn().await;
            match source {
                UpdateSource::Manager => update_source::is_offered(&turn.registration)?,
                UpdateSource::Default => {}
            }
            let mut next = ManagerRecord::clone(&turn);
            next.registration.source = source;
            uplink.keep_line(&mut turn, next).await.map_err(unavailable)?;
            info!(target: "audit", { actor = actor.name, ?source }, "update source chosen");
            Ok::<_, Failure>(ManagerRecord::clone(&turn))
        });
        self.status(&held.await??).await
    }
}

impl ControlManager {
    async fn status(&self, held: &ManagerRecord) -> RpcResult<proto::ManagerStatus> {
        Ok(Response::new(show_status(self.0.status(held).await.map_err(unavailable)?)))
    }
}

/// The choice of a caller; `None`: there was none.
fn chosen(source: i32) -> Result<Option<UpdateSource>, Failure> {
    match proto::UpdateSource::try_from(source) {
        Ok(proto::UpdateSource::Unspecified) => Ok(None),
        Ok(proto::UpdateSource::Default) => Ok(Some(UpdateSource::Default)),
        Ok(proto::UpdateSource::Manager) => Ok(Some(UpdateSource::Manager)),
        Ok(proto::UpdateSource::Custom) => {
            let text = "must be DEFAULT or MANAGER; an address is set by UpdateService.SetSource";
            Err(Failure::invalid("update_source", text))
        }
        Err(_) => Err(Failure::invalid("update_source", "must be DEFAULT or MANAGER")),
    }
}

fn changes(message: proto::SetManagerSettingsRequest) -> Changes {
    let proto::SetManagerSettingsRequest {
        display_name,
        address,
        port,
        clear_text_i_know_what_i_do,
        authority,
        authority_overlap_seconds,
        without_authorization_i_know_what_i_do,
        web_user,
        web_password,
        proxy_protocol,
        proxy_address,
        proxy_port,
        proxy_user,
        proxy_password,
        forwarding_address,
        registration_token,
        heartbeat_ms,
        abnormal_after_ms,
    } = message;
    let proxy = |protocol| match proto::ProxyProtocol::try_from(protocol) {
        Ok(proto::ProxyProtocol::Unspecified) => ProxyChange::Off,
        Ok(proto::ProxyProtocol::HttpConnect) => ProxyChange::Speaks(Protocol::HttpConnect),
        Ok(proto::ProxyProtocol::Socks4) => ProxyChange::Speaks(Protocol::Socks4),
        Ok(proto::ProxyProtocol::Socks5) => ProxyChange::Speaks(Protocol::Socks5),
        Err(_) => ProxyChange::Unknown,
    };
    Changes {
        display_name,
        address,
        port,
        clear_text: clear_text_i_know_what_i_do,
        authority,
        authority_overlap: Duration::from_secs(authority_overlap_seconds),
        without_authorization: without_authorization_i_know_what_i_do,
        web_user,
        web_password,
        proxy: proxy_protocol.map(proxy),
        proxy_address,
        proxy_port,
        proxy_user,
        proxy_password,
        forwarding_address,
        registration_token,
        heartbeat: heartbeat_ms.map(Duration::from_millis),
        abnormal_after: abnormal_after_ms.map(Duration::from_millis),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Settings as shown; never a secret.
fn show_settings(settings: &Settings, not_sent: bool) -> proto::ManagerSettings {
    let proxy = settings.proxy.as_ref();
    let protocol = proxy.map_or(proto::ProxyProtocol::Unspecified, |proxy| match proxy.protocol {
        Protocol::HttpConnect => proto::ProxyProtocol::HttpConnect,
        Protocol::Socks4 => proto::ProxyProtocol::Socks4,
        Protocol::Socks5 => proto::ProxyProtocol::Socks5,
    });
    let login = proxy.and_then(|proxy| proxy.login.as_ref());
    proto::ManagerSettings {
        display_name: settings.display_name.clone(),
        address: settings.address.clone(),
        port: settings.port.into(),
        clear_text: settings.clear_text,
        authorities: settings.uploaded().iter().map(show_authority).collect(),
        without_authorization: settings.without_authorization,
        web_user: settings.web.as_ref().map_or_else(String::new, |web| web.user.clone()),
        web_password_set: settings.web.is_some(),
        proxy_protocol: protocol.into(),
        proxy_address: proxy.map_or_else(String::new, |proxy| proxy.address.clone()),
        proxy_port: proxy.map_or(0, |proxy| proxy.port.into()),
        proxy_user: login.map_or_else(String::new, |login| login.user.clone()),
        proxy_password_set: login.is_some(),
        forwarding_address: settings.forwarding.clone().unwrap_or_default(),
        registration_token_set: settings.token.is_some(),
        heartbeat_ms: millis(settings.heartbeat),
        abnormal_after_ms: millis(settings.abnormal_after),
        not_sent,
    }
}

fn show_authority(authority: &UploadedAuthority) -> proto::PinnedAuthorityRow {
    let UploadedAuthority { certificate, sha256, accepted_until } = authority;
    proto::PinnedAuthorityRow {
        subject: certificate.subject.clone(),
        issuer: certificate.issuer.clone(),
        not_before_ms: certificate.not_before.as_millis(),
        not_after_ms: certificate.not_after.as_millis(),
        sha256: sha256.to_string(),
        accepted_until_ms: accepted_until.map_or(0, Timestamp::as_millis),
    }
}

fn show_leg(tested: TestedLeg) -> proto::TestedLeg {
    let TestedLeg { leg, outcome, elapsed, detail, advice } = tested;
    let leg = match leg {
        Leg::Input => proto::ConnectionLeg::Input,
        Leg::Dns => proto::ConnectionLeg::Dns,
        Leg::ProxyConnect => proto::ConnectionLeg::ProxyConnect,
        Leg::ProxyAuthentication => proto::ConnectionLeg::ProxyAuthentication,
        Leg::Tcp => proto::ConnectionLeg::Tcp,
        Leg::Tls => proto::ConnectionLeg::Tls,
        Leg::CertificateTrust => proto::ConnectionLeg::CertificateTrust,
        Leg::HostName => proto::ConnectionLeg::HostName,
        Leg::WebAuthentication => proto::ConnectionLeg::WebAuthentication,
        Leg::ProtocolVersion => proto::ConnectionLeg::ProtocolVersion,
        Leg::Clock => proto::ConnectionLeg::Clock,
        Leg::Authorization => proto::ConnectionLeg::Authorization,
        Leg::Callback => proto::ConnectionLeg::Callback,
    };
    let outcome = match outcome {
        LegOutcome::Passed => proto::LegOutcome::Passed,
        LegOutcome::Skipped => proto::LegOutcome::Skipped,
        LegOutcome::Failed => proto::LegOutcome::Failed,
    };
    let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    proto::TestedLeg { leg: leg.into(), outcome: outcome.into(), elapsed_us, detail, advice }
}

fn show_status(status: LineStatus) -> proto::ManagerStatus {
    let state = match status.state {
        State::Unregistered => proto::ManagerLinkState::Unregistered,
        State::Registering => proto::ManagerLinkState::Registering,
        State::Waiting => proto::ManagerLinkState::Waiting,
        State::Registered => proto::ManagerLinkState::Registered,
        State::Rejected => proto::ManagerLinkState::Rejected,
        State::Unknown => proto::ManagerLinkState::Unknown,
    };
    let source = match status.source {
        UpdateSource::Default => proto::UpdateSource::Default,
        UpdateSource::Manager => proto::UpdateSource::Manager,
    };
    proto::ManagerStatus {
        state: state.into(),
        next: status.next,
        entity_id: status.entity.map_or_else(String::new, |id| id.to_string()),
        entity_key_id: status.entity_key.to_string(),
        manager_id: status.manager.map_or_else(String::new, |id| id.to_string()),
        manager_version: status.version,
        epoch: status.epoch,
        certificate_authorization: status.is_authorized,
        sandbox_connected: status.is_sandbox_connected,
        two_way: status.is_two_way,
        last_contact_ms: status.last_contact.as_millis(),
        last_error: status.last_error,
        update_source: source.into(),
        update_source_offered: status.is_source_offered,
        settings_not_sent: status.is_not_sent,
        departure_pending: status.has_departures,
        instructions_open: status.instructions_open,
        instructions_refused: status.instructions_refused,
    }
}
