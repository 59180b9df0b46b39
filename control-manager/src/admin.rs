//! The operators' door of the manager.

mod entities;
mod instructions;
mod policy;

pub use policy::POLICY;

use std::sync::Arc;

use tonic::service::Routes;
use writ_common::admin::MAX_REQUEST_BYTES;
use writ_common::admin::audit::AuditPages;
use writ_common::admin::operators::OperatorPages;
use writ_common::health::{self, Health};
use writ_common::listener::MAX_QUESTION_BYTES;
use writ_objects::service::ObjectPages;
use writ_proto::admin::v1::audit_service_server::AuditServiceServer;
use writ_proto::admin::v1::object_service_server::ObjectServiceServer;
use writ_proto::admin::v1::operator_service_server::OperatorServiceServer;
use writ_proto::manager::v1::entity_service_server::EntityServiceServer;
use writ_proto::manager::v1::instruction_service_server::InstructionServiceServer;
use writ_proto::manager::v1::manager_service_server::ManagerServiceServer;

use crate::context::Manager;

/// All services of the admin port.
///
/// # Errors
/// When the embedded descriptors are damaged, which a test would have found.
pub(crate) fn routes(manager: &Arc<Manager>) -> Result<Routes, tonic_reflection::server::Error> {
    let share = || Arc::clone(manager);
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let asked = Arc::clone(manager);
    manager.shutdown.spawn(health::run(reporter, manager.shutdown.clone(), move || {
        let manager = Arc::clone(&asked);
        async move {
            let works = manager.store.manager().await.is_ok();
            Health { works, is_ready: works }
        }
    }));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(writ_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let entities =
        EntityServiceServer::new(entities::Entities(share())).max_decoding_message_size(MAX_REQUEST_BYTES);
    let mut routes = Routes::builder();
    routes
        .add_service(entities)
        .add_service(InstructionServiceServer::new(instructions::Instructions(share())))
        .add_service(ManagerServiceServer::new(entities::ManagerInfo(share())))
        .add_service(AuditServiceServer::new(AuditPages(share())))
        .add_service(
            ObjectServiceServer::new(ObjectPages(share())).max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(OperatorServiceServer::new(OperatorPages(share())))
        .add_service(health_service.max_decoding_message_size(MAX_QUESTION_BYTES))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.routes())
}
