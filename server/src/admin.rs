//! The operators' door. Every call passes `policy` first; the services only convert, call and convert.

mod policy;

mod actions;
mod agents;
mod alerts;
mod commands;
mod enrollment;
mod evidence;
mod manager;
mod preview;
mod rollouts;
mod selectors;
mod subscription;
mod system;
mod trust;
mod updates;
mod why;

pub use policy::POLICY;

use std::sync::Arc;

use tonic::service::Routes;
use writ_common::admin::MAX_REQUEST_BYTES;
use writ_common::admin::audit::AuditPages;
use writ_common::admin::operators::OperatorPages;
use writ_common::health::{self, Health};
use writ_common::listener::MAX_QUESTION_BYTES;
use writ_proto::admin::v1::{
    action_service_server::ActionServiceServer, agent_service_server::AgentServiceServer,
    alert_service_server::AlertServiceServer, audit_service_server::AuditServiceServer,
    command_service_server::CommandServiceServer,
    control_manager_service_server::ControlManagerServiceServer,
    enrollment_service_server::EnrollmentServiceServer, object_service_server::ObjectServiceServer,
    operator_service_server::OperatorServiceServer, rollout_service_server::RolloutServiceServer,
    selector_service_server::SelectorServiceServer, subscription_service_server::SubscriptionServiceServer,
    system_service_server::SystemServiceServer, trust_service_server::TrustServiceServer,
    update_service_server::UpdateServiceServer,
};

use writ_objects::service::ObjectPages;

use crate::cm_bridge::Uplink;

/// All services of the admin port.
///
/// # Errors
/// When the embedded descriptors are damaged, which a test would have found.
pub(crate) fn routes(uplink: &Arc<Uplink>) -> Result<Routes, tonic_reflection::server::Error> {
    let server = &uplink.server;
    let share = || Arc::clone(server);
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let asked = Arc::clone(server);
    server.shutdown.spawn(health::run(reporter, server.shutdown.clone(), move || {
        let server = Arc::clone(&asked);
        async move {
            Health {
                works: server.store.latest_time().await.is_ok(),
                is_ready: server.signer.check().is_ok() && server.store.is_writing(),
            }
        }
    }));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(writ_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let reflection_alpha = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(writ_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let mut routes = Routes::builder();
    routes
        .add_service(CommandServiceServer::new(commands::Commands(share())))
        .add_service(AgentServiceServer::new(agents::Agents(share())))
        .add_service(ActionServiceServer::new(actions::Actions(share())))
        .add_service(EnrollmentServiceServer::new(enrollment::Enrollment(share())))
        .add_service(AlertServiceServer::new(alerts::Alerts(share())))
        .add_service(AuditServiceServer::new(AuditPages(share())))
        .add_service(OperatorServiceServer::new(OperatorPages(share())))
        .add_service(ControlManagerServiceServer::new(manager::ControlManager(Arc::clone(uplink))))
        .add_service(
            ObjectServiceServer::new(ObjectPages(share())).max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(RolloutServiceServer::new(rollouts::Rollouts(share())))
        .add_service(SelectorServiceServer::new(selectors::Selectors(share())))
        .add_service(SubscriptionServiceServer::new(subscription::SubscriptionPages(Arc::clone(uplink))))
        .add_service(SystemServiceServer::new(system::SystemInfo(share())))
        .add_service(TrustServiceServer::new(trust::Trust(share())))
        .add_service(UpdateServiceServer::new(updates::Updates(Arc::clone(uplink))))
        .add_service(health_service.max_decoding_message_size(MAX_QUESTION_BYTES))
        .add_service(reflection.build_v1()?)
        .add_service(reflection_alpha.build_v1alpha()?);
    Ok(routes.routes())
}
