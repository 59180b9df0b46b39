//! What operators ask of the subscription, and how it stands.

use std::time::Duration;

use tracing::info;
use writ_common::admin::{AdminBackend as _, unavailable};
use writ_common::status::Failure;
use writ_objects::Source;
use writ_protocol::id::ManagerId;
use writ_protocol::manager::RejectionCode;
use writ_protocol::time::Timestamp;

use super::super::{Registration, State, Uplink};
use super::{Live, Subscribing, Wish, change, delete, open, subscribe, sync, unless_stopped};

/// How long an operator waits for somebody else's turn: less than a call may take.
const TURN_WITHIN: Duration = Duration::from_secs(8);

/// How it stands, for operators.
#[derive(Debug)]
pub(crate) struct SubscriptionStatus {
    /// Its stable name.
    pub state: &'static str,
    /// What an operator does next; empty: nothing.
    pub next: String,
    /// Whose objects are held.
    pub manager: Option<ManagerId>,
    /// Of the key that fetches; empty: there is none.
    pub key_id: String,
    /// Since when it does.
    pub since: Timestamp,
    /// The version that is held.
    pub version: u64,
    /// Objects that came from the manager.
    pub objects: u64,
    /// The last time the manager answered.
    pub synced_at: Timestamp,
    /// Of the last try, if it failed.
    pub error: String,
    /// In minutes.
    pub interval: u32,
    /// What the last answer changed.
    pub changed: u64,
}

/// Has another look taken when a call has ended, however it ends.
struct LooksLater<'a>(&'a Subscribing);

impl Drop for LooksLater<'_> {
    fn drop(&mut self) {
        self.0.look();
    }
}

impl Uplink {
    /// How the subscription stands.
    pub(crate) async fn subscription(&self) -> Result<SubscriptionStatus, Failure> {
        let (registration, held) = (self.bridge.held().registration, self.bridge.subscribing.held());
        let Live { error, changed } = self.bridge.subscribing.live().clone();
        let (state, next) = match () {
            () if held.wish == Wish::Stopped && registration.state == State::Unregistered => {
                ("stopped", "writ manager register; then writ objects subscription start")
            }
            () if held.wish == Wish::Stopped => ("stopped", "writ objects subscription start"),
            () if registration.state == State::Unregistered => ("none", "writ manager register"),
            () if !registration.is_authorized => ("none", "writ manager status"),
            () if held.is_revoked => ("revoked", RejectionCode::SubscriptionRevoked.cure()),
            () if held.is_of(&registration) => ("active", ""),
            () if held.is_wanted(&registration) => ("starting", ""),
            () if registration.state != State::Registered => ("none", "writ manager status"),
            () => (
                "none",
                "no sandbox is connected to the manager; all the same: writ objects subscription start",
            ),
        };
        let next = if error.is_empty() || !next.is_empty() { next } else { "writ manager test" };
        let objects = self.server.store().count_objects_of(Source::Manager).await.map_err(unavailable)?;
        Ok(SubscriptionStatus {
            state,
            next: next.to_owned(),
            manager: held.manager.map(ManagerId::from_bytes),
            key_id: held.key_id,
            since: Timestamp::from_millis(held.since),
            version: held.version,
            objects,
            synced_at: Timestamp::from_millis(held.synced_at),
            error,
            interval: held.interval,
            changed,
        })
    }

    /// Subscribes, and asks for the objects at once.
    ///
    /// # Errors
    /// When there is no registration that could bear it, or the manager was not reached or said no. It goes on
    /// by itself then.
    pub(crate) async fn start_subscription(&self) -> Result<(), Failure> {
        self.check_registered()?;
        // It goes on by itself if this does not come to its end.
        let _later = LooksLater(&self.bridge.subscribing);
        // Before it is wanted: else whoever has a turn in between fetches what this fetches again.
        let turn = self.turn().await;
        change(self, |next| next.wish = Wish::Started).await?;
        let _turn = turn?;
        self.sync_in_turn().await
    }

    /// Asks for the objects now.
    ///
    /// # Errors
    /// When there is no subscription, or the manager was not reached or said no.
    pub(crate) async fn sync_subscription(&self) -> Result<(), Failure> {
        let _turn = self.turn().await?;
        self.check_wanted()?;
        self.sync_in_turn().await
    }

    /// Has another key fetch. The one of before counts no more.
    ///
    /// # Errors
    /// When there is no subscription, or the manager was not reached or said no; then the key of before stays.
    pub(crate) async fn rotate_subscription(&self) -> Result<(), Failure> {
        let _turn = self.turn().await?;
        let registration = self.check_wanted()?;
        let renewed = async {
            let line = open(self).await?;
            subscribe(self, &line, &registration).await
        };
        unless_stopped(self, Box::pin(renewed)).await?;
        self.sync_in_turn().await
    }

    /// Ends it; what came stays, or is deleted. Twice is once.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn stop_subscription(&self, is_deleted: bool) -> Result<(), Failure> {
        change(self, |next| {
            next.is_leaving |= !next.key.is_empty();
            next.wish = Wish::Stopped;
            next.forget_key();
            next.is_deleting |= is_deleted;
        })
        .await?;
        // What is being fetched ends here, so that the turn comes soon.
        self.bridge.subscribing.cancelled.notify_waiters();
        // What this does not do, the next look does.
        self.bridge.subscribing.look();
        let _turn = self.turn().await?;
        if self.bridge.subscribing.held().is_deleting {
            delete(self).await?;
        }
        *self.bridge.subscribing.live() = Live::default();
        info!(target: "audit", is_deleted, "the subscription to suspicious objects was stopped");
        self.bridge.subscribing.look();
        Ok(())
    }

    /// Asks so often.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn set_subscription_interval(&self, minutes: u32) -> Result<(), Failure> {
        change(self, |next| next.interval = minutes).await?;
        self.bridge.subscribing.look();
        Ok(())
    }

    async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Failure> {
        let turn = tokio::time::timeout(TURN_WITHIN, self.bridge.subscribing.turns.lock()).await;
        turn.map_err(|_| {
            let text = "objects are coming at this moment: writ objects subscription show";
            Failure::precondition("subscription_busy", text)
        })
    }

    async fn sync_in_turn(&self) -> Result<(), Failure> {
        let registration = self.bridge.held().registration;
        if let Err(fault) = sync(self, &registration).await {
            self.bridge.subscribing.live().error = fault.to_string();
            return Err(fault.into());
        }
        Ok(())
    }

    fn check_registered(&self) -> Result<Registration, Failure> {
        let registration = self.bridge.held().registration;
        if registration.state != State::Registered {
            let text = "this server is no entity of a manager: writ manager status";
            return Err(Failure::precondition("manager_not_registered", text));
        }
        if !registration.is_authorized {
            let text = "the registration has no certificate authorization, so nobody can say whose objects come: upload the manager's CA, then writ manager re-register";
            return Err(Failure::precondition("no_certificate_authorization", text));
        }
        Ok(registration)
    }

    fn check_wanted(&self) -> Result<Registration, Failure> {
        let registration = self.check_registered()?;
        if !self.bridge.subscribing.held().is_wanted(&registration) {
            let text = "there is no subscription: writ objects subscription start";
            return Err(Failure::precondition("not_subscribed", text));
        }
        Ok(registration)
    }
}
