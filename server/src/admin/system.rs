//! `SystemService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use writ_proto::admin::v1::system_service_server::SystemService;
use writ_proto::admin::v1::{GetSystemRequest, System};

use crate::VERSION;
use crate::context::Server;
use crate::store::unavailable;

#[derive(Debug)]
pub(super) struct SystemInfo(pub(super) Arc<Server>);

#[tonic::async_trait]
impl SystemService for SystemInfo {
    async fn get(&self, _: Request<GetSystemRequest>) -> Result<Response<System>, Status> {
        let server = &self.0;
        let chain = server.chain();
        let head = chain.head();
        let entry = server.signer.entry();
        let governor = server.dispatcher.governor();
        let (running, waiting) = governor.standing();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Response::new(System {
            version: VERSION.to_owned(),
            fleet_id: server.fleet.to_string(),
            fleet_name: head.bundle.fleet_name.clone(),
            chain_version: head.bundle.version,
            chain_digest: head.digest.to_string(),
            signing_key_id: entry
                .as_ref()
                .map_or_else(String::new, |entry| entry.certificate.key().id().to_string()),
            signing_accept_until_ms: entry.map_or(0, |entry| entry.accept_until.as_millis()),
            agents_enrolled: server.store.count_agents().await.map_err(unavailable)?,
            agents_connected: server.dispatcher.registry().connected(),
            time_ms: server.clock.wall().as_millis(),
            running_limit: governor.most().map_or(0, count),
            running: count(running),
            waiting_for_turn: count(waiting),
        }))
    }
}
