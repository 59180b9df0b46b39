//! `SubscriptionService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use writ_common::status::Failure;
use writ_proto::admin::v1 as proto;
use writ_proto::admin::v1::subscription_service_server::SubscriptionService;

use crate::cm_bridge::Uplink;
use crate::cm_bridge::subscription::{INTERVALS, SubscriptionStatus};

#[derive(Debug)]
pub(super) struct SubscriptionPages(pub(super) Arc<Uplink>);

type RpcResult = Result<Response<proto::ObjectSubscription>, Status>;

#[tonic::async_trait]
impl SubscriptionService for SubscriptionPages {
    async fn get(&self, _: Request<proto::GetSubscriptionRequest>) -> RpcResult {
        self.show().await
    }

    async fn start(&self, _: Request<proto::StartSubscriptionRequest>) -> RpcResult {
        let uplink = Arc::clone(&self.0);
        // To its end although the caller hangs up; so the others.
        self.0.server.to_the_end(async move { uplink.start_subscription().await }).await??;
        self.show().await
    }

    async fn stop(&self, request: Request<proto::StopSubscriptionRequest>) -> RpcResult {
        let (uplink, is_deleted) = (Arc::clone(&self.0), request.into_inner().delete_objects);
        self.0.server.to_the_end(async move { uplink.stop_subscription(is_deleted).await }).await??;
        self.show().await
    }

    async fn sync(&self, _: Request<proto::SyncSubscriptionRequest>) -> RpcResult {
        let uplink = Arc::clone(&self.0);
        self.0.server.to_the_end(async move { uplink.sync_subscription().await }).await??;
        self.show().await
    }

    async fn set_interval(&self, request: Request<proto::SetSubscriptionIntervalRequest>) -> RpcResult {
        let minutes = request.into_inner().minutes;
        if !INTERVALS.contains(&minutes) {
            let text = format!("is {minutes}; it must be 1 to 60");
            return Err(Failure::invalid("minutes", text).into());
        }
        let uplink = Arc::clone(&self.0);
        self.0.server.to_the_end(async move { uplink.set_subscription_interval(minutes).await }).await??;
        self.show().await
    }

    async fn rotate(&self, _: Request<proto::RotateSubscriptionRequest>) -> RpcResult {
        let uplink = Arc::clone(&self.0);
        self.0.server.to_the_end(async move { uplink.rotate_subscription().await }).await??;
        self.show().await
    }
}

impl SubscriptionPages {
    async fn show(&self) -> RpcResult {
        let SubscriptionStatus {
            state,
            next,
            manager,
            key_id,
            since,
            version,
            objects,
            synced_at,
            error,
            interval,
            changed,
        } = self.0.subscription().await?;
        Ok(Response::new(proto::ObjectSubscription {
            state: state.to_owned(),
            next,
            manager_id: manager.map(|manager| manager.to_string()).unwrap_or_default(),
            subscribed_at_ms: if key_id.is_empty() { 0 } else { since.as_millis() },
            key_id,
            version,
            objects,
            synced_at_ms: synced_at.as_millis(),
            last_error: error,
            interval_minutes: interval,
            changed,
        }))
    }
}
