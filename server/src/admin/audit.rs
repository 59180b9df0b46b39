//! `AuditService`.

use std::sync::Arc;

use prost::Message as _;
use tonic::{Request, Response, Status};
use writ_common::admin::AuditLog;
use writ_common::wire::status::Failure;
use writ_proto::admin::v1::audit_service_server::AuditService;
use writ_proto::admin::v1::{AuditEntry, AuditLink as Shown, ListAuditRequest, ListAuditResponse};

use crate::context::Server;
use crate::store::{AuditLink, StoreError, unavailable};
use writ_common::admin::page;

#[derive(Debug)]
pub(super) struct Audit(pub(super) Arc<Server>);

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list(&self, request: Request<ListAuditRequest>) -> Result<Response<ListAuditResponse>, Status> {
        let ListAuditRequest { page_size, page_token, newest_first, looks } = request.into_inner();
        let log = if looks { AuditLog::Looks } else { AuditLog::Changes };
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let first = if newest_first { u64::MAX } else { 0 };
        let place = page::token::<u64>(&page_token)?.unwrap_or(first);
        // Whatever was noted before this call is listed by it.
        self.0.store.settle().await.map_err(unavailable)?;
        let rows = self.0.store.audit_links(log, place, newest_first, size).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| row.sequence.to_string());
        let before = match rows.first().filter(|_| !newest_first) {
            Some(first) => self.hash_before(log, first.sequence).await.map_err(unavailable)?,
            None => Vec::new(),
        };
        let links = rows.into_iter().map(show).collect::<Result<_, _>>()?;
        Ok(Response::new(ListAuditResponse { links, next_page_token, previous_hash: before }))
    }
}

impl Audit {
    /// The hash a link hangs on; empty when what came before it was dropped.
    async fn hash_before(&self, log: AuditLog, sequence: u64) -> Result<Vec<u8>, StoreError> {
        if sequence == 1 {
            return Ok(vec![0; 32]);
        }
        let before = self.0.store.audit_links(log, sequence, true, 1).await?;
        Ok(before.first().map_or_else(Vec::new, |link| link.hash.as_bytes().to_vec()))
    }
}

fn show(link: AuditLink) -> Result<Shown, Failure> {
    let entry = AuditEntry::decode(link.entry.clone())
        .map_err(|_| unavailable(StoreError::Damaged("audit entry")))?;
    Ok(Shown { entry: Some(entry), hash: link.hash.as_bytes().to_vec(), encoded: link.entry.to_vec() })
}
