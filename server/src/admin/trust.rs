//! `TrustService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use writ_common::keys::pem;
use writ_proto::admin::v1::trust_service_server::TrustService;
use writ_proto::admin::v1::{
    BehindRow, BundleHolders, BundleRow, CertificateRow, CertificateStanding, Convergence,
    GetConvergenceRequest, ListBehindRequest, ListBehindResponse, ListBundlesRequest, ListBundlesResponse,
    ListCertificatesRequest, ListCertificatesResponse, Stranger,
};
use writ_protocol::id::KeyId;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::{Chain, Link};

use crate::authority::certificates::CertificateState;
use crate::authority::follow::caught_up;
use crate::authority::mismatch::{Holding, Mismatch, holdings};
use crate::context::Server;
use crate::store::{Behind, unavailable};
use crate::unknown_fleet;
use writ_common::admin::page;

/// As `trust.proto` says.
const MAX_STRANGERS: usize = 100;

#[derive(Debug)]
pub(super) struct Trust(pub(super) Arc<Server>);

#[tonic::async_trait]
impl TrustService for Trust {
    async fn list_bundles(
        &self,
        request: Request<ListBundlesRequest>,
    ) -> Result<Response<ListBundlesResponse>, Status> {
        let ListBundlesRequest { page_size, page_token } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let before = page::token::<u64>(&page_token)?.unwrap_or(u64::MAX);
        let chain = self.0.chain();
        let links = chain.links().iter().rev().filter(|link| link.bundle.version < before);
        let rows: Vec<_> = links.take(usize::try_from(size).unwrap_or(usize::MAX)).map(bundle).collect();
        let next_page_token = page::next(&rows, size, |row| row.version.to_string());
        Ok(Response::new(ListBundlesResponse { bundles: rows, next_page_token }))
    }

    async fn list_certificates(
        &self,
        _: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        let (chain, now) = (self.0.chain(), self.0.clock.wall());
        let bundle = &chain.head().bundle;
        let row = |entry: &writ_protocol::trust::SigningEntry| CertificateRow {
            key_id: entry.certificate.key().id().to_string(),
            standing: match CertificateState::of(entry, bundle, now) {
                CertificateState::Standby => CertificateStanding::Standby,
                CertificateState::Active => CertificateStanding::Active,
                CertificateState::Draining => CertificateStanding::Draining,
                CertificateState::Retired => CertificateStanding::Retired,
                CertificateState::Revoked => CertificateStanding::Revoked,
            }
            .into(),
            algorithm: entry.certificate.key().algorithm().as_str().to_owned(),
            sign_from_ms: entry.sign_from.as_millis(),
            accept_until_ms: entry.accept_until.as_millis(),
            realms: entry.realms.clone(),
            public_key_pem: pem::encode("PUBLIC KEY", &entry.certificate.key().spki()).to_string(),
        };
        let certificates = bundle.signing.iter().map(row).collect();
        Ok(Response::new(ListCertificatesResponse { certificates }))
    }

    async fn get_convergence(
        &self,
        _: Request<GetConvergenceRequest>,
    ) -> Result<Response<Convergence>, Status> {
        caught_up(&self.0).await.map_err(unavailable)?;
        let chain = self.0.chain();
        let (head, signing) = (chain.head(), signing_key(&self.0));
        let holdings = holdings(&self.0).await.map_err(unavailable)?;
        let count = |counts: fn(&Holding) -> bool| {
            holdings.iter().filter(|holding| counts(holding)).map(|holding| holding.holders.agents).sum()
        };
        let (agents, newest) = (count(|_| true), count(|holding| holding.is_newest));
        let obeying = count(|holding| holding.refusal.is_none());
        let groups = holdings.into_iter().map(group).collect();
        let strangers = self.0.unknown_fleet.list(&chain);
        Ok(Response::new(Convergence {
            strangers_total: u64::try_from(strangers.len()).unwrap_or(u64::MAX),
            strangers: strangers.into_iter().take(MAX_STRANGERS).map(stranger).collect(),
            chain_version: head.bundle.version,
            chain_digest: head.digest.to_string(),
            signing_key_id: signing.map_or_else(String::new, |key| key.to_string()),
            agents,
            newest,
            obeying,
            groups,
        }))
    }

    async fn list_behind(
        &self,
        request: Request<ListBehindRequest>,
    ) -> Result<Response<ListBehindResponse>, Status> {
        let ListBehindRequest { page_size, page_token } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let after = page::token(&page_token)?;
        caught_up(&self.0).await.map_err(unavailable)?;
        let (chain, now) = (self.0.chain(), self.0.clock.wall());
        let rows = self.0.store.behind(chain.head().digest, after, size).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| row.id.to_string());
        let agents = rows.into_iter().map(|row| behind(&self.0, &chain, row, now)).collect();
        Ok(Response::new(ListBehindResponse { agents, next_page_token }))
    }
}

fn group(holding: Holding) -> BundleHolders {
    let Holding { holders, is_newest: _, is_known, refusal } = holding;
    BundleHolders {
        version: holders.version,
        digest: holders.digest.map_or_else(String::new, |digest| digest.to_string()),
        realm: holders.realm,
        agents: holders.agents,
        refusal_code: refusal.map_or_else(String::new, |code| code.to_string()),
        known: is_known,
    }
}

fn stranger(of: unknown_fleet::Stranger) -> Stranger {
    Stranger {
        address: of.address.to_string(),
        bundle_version: of.version,
        bundle_digest: of.digest.to_string(),
        asked: of.asked,
        last_at_ms: of.last_at.as_millis(),
    }
}

fn bundle(link: &Link) -> BundleRow {
    let authority = &link.bundle.authority;
    BundleRow {
        version: link.bundle.version,
        digest: link.digest.to_string(),
        issued_at_ms: link.bundle.issued_at.as_millis(),
        authority_threshold: u32::try_from(authority.threshold).unwrap_or(u32::MAX),
        authority_key_ids: authority.keys.iter().map(|key| key.id().to_string()).collect(),
        endpoints: link.bundle.endpoints.clone(),
    }
}

fn signing_key(server: &Server) -> Option<KeyId> {
    server.signer.entry().map(|entry| entry.certificate.key().id())
}

fn behind(server: &Server, chain: &Chain, row: Behind, now: Timestamp) -> BehindRow {
    let signing = signing_key(server);
    let judged = Mismatch::of(row, chain, signing, now);
    let refusal_code = judged.refusal.map_or_else(String::new, |code| code.to_string());
    let shown = |key: Option<KeyId>| key.map_or_else(String::new, |key| key.to_string());
    let Mismatch { agent, obeys, .. } = judged;
    BehindRow {
        agent_id: agent.id.to_string(),
        host_name: agent.host_name,
        address: agent.address,
        bundle_version: agent.version,
        bundle_digest: agent.digest.map_or_else(String::new, |digest| digest.to_string()),
        key_id: shown(obeys),
        expected_key_id: shown(signing),
        refusal_code,
        last_contact_ms: server.last_contact(agent.id, agent.last_contact).as_millis(),
        connected: server.dispatcher.registry().is_connected(agent.id),
        agent_name: agent.name,
    }
}
