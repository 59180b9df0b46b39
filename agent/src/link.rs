//! The line to a server: found, held, and found again.

mod enroll;
mod greeting;
mod rendezvous;
mod session;

pub(crate) use enroll::{Enrolled, NewAgent, enroll};

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tonic::Code;
use tonic::transport::Channel;
use tracing::{info, warn};
use writ_common::backoff::{Backoff, jitter};
use writ_common::net::Proxy;
use writ_common::text::quoted;
use writ_common::time::SystemClock;
use writ_common::tls::{Anchors, ConnectError, connect_by};
use writ_proto::v1::agent_gateway_client::AgentGatewayClient;
use writ_protocol::hello::Expected;
use writ_protocol::id::CommandId;
use writ_protocol::identity::IdentityRecord;
use writ_protocol::limits::MAX_FRAME_BYTES;
use writ_protocol::refusal::Refusal;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::{Chain, TrustBundle};

use crate::link_state::LinkStateFile;
use crate::obey::{AdoptError, AgentCore, Unsettled};
use crate::refusals::Refusals;
use crate::replay::JournalError;
use crate::session_time::SessionTime;

/// How long all first words together may take, whatever of them is missing.
const SESSION_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an endpoint that is tried may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long asking for bundles alone may take.
const RESCUE_TIMEOUT: Duration = Duration::from_secs(30);
/// The first bound of the wait after a failure.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// Why a session did not begin, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// No verified channel.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server said no.
    #[error("the server refused: {}", quoted(.0.message()))]
    Refused(tonic::Status),
    /// The server's hello, or a bundle, was refused.
    #[error("the server is not obeyed: {refusal}")]
    NotObeyed {
        /// Why.
        refusal: Refusal,
        /// What it sent.
        frame: Bytes,
    },
    /// Neither side says anything any more.
    #[error("the server said nothing for {0:?}")]
    Silent(Duration),
    /// It ended the stream.
    #[error("the server ended the session")]
    Ended,
    /// It broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A bundle could not be kept.
    #[error(transparent)]
    Follow(#[from] AdoptError),
    /// This program is not the one that is to run.
    #[error("no session while the agent is being upgraded: {0}")]
    Upgrading(String),
}

impl LinkError {
    /// Whether trying again changes nothing by itself: somebody decided.
    fn is_lasting(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::PermissionDenied)
    }
}

impl From<tonic::Status> for LinkError {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(status)
    }
}

/// The journal answers nothing more.
#[derive(Debug, thiserror::Error)]
#[error("the journal failed; look at the disk (full, read-only, failing), then start the agent again")]
pub(crate) struct BrokenJournal;

/// How a session ended in good order.
#[derive(Debug)]
enum Done {
    /// The agent is asked to end.
    ShuttingDown,
    /// The server asked to come back after so long.
    ComeBack(Duration),
}

/// What the link needs beside the core.
#[derive(Debug)]
pub(crate) struct Link {
    /// The rest of the agent.
    pub core: Arc<AgentCore>,
    /// Answers that are ready.
    pub answers: mpsc::Receiver<CommandId>,
    /// What was refused in silence.
    pub refusals: Refusals,
    /// For `status`.
    pub status: LinkStateFile,
    /// The longest wait between two attempts.
    pub max_backoff: Duration,
    /// How often the trust bundle's own endpoints are asked for a successor.
    pub rendezvous_every: Duration,
    /// One of them had one.
    pub learnt: Arc<Notify>,
    /// Commands of before the start that are not settled.
    pub left: Unsettled,
}

impl Link {
    /// Holds a session for as long as the agent runs.
    ///
    /// # Errors
    /// When the journal failed in a way only a restart can mend.
    pub(crate) async fn run(
        mut self,
        shutdown: writ_common::shutdown::Shutdown,
    ) -> Result<(), BrokenJournal> {
        let (core, learnt) = (Arc::clone(&self.core), Arc::clone(&self.learnt));
        let every = self.rendezvous_every;
        tokio::select! {
            () = rendezvous::run(&core, every, &learnt) => Ok(()),
            () = self.hold_sessions(&shutdown) => {
                self.status.disconnected("the agent is shutting down", false);
                Ok(())
            }
            () = core.broken() => {
                self.status.disconnected("the journal failed", false);
                Err(BrokenJournal)
            }
        }
    }

    async fn hold_sessions(&mut self, shutdown: &writ_common::shutdown::Shutdown) {
        let mut backoff = Backoff::new(FIRST_BACKOFF, self.max_backoff);
        while !shutdown.is_requested() {
            let wait = match self.try_endpoints(&mut backoff, shutdown).await {
                Some(Done::ShuttingDown) => return,
                Some(Done::ComeBack(after)) => after + jitter(FIRST_BACKOFF),
                None => backoff.after_failure(),
            };
            shutdown.unless_requested(tokio::time::sleep(wait)).await;
        }
    }

    async fn try_endpoints(
        &mut self,
        backoff: &mut Backoff,
        shutdown: &writ_common::shutdown::Shutdown,
    ) -> Option<Done> {
        let chain = self.core.trust.chain();
        let mut unverifiable = Vec::new();
        for endpoint in &self.core.settings.endpoints(&chain.head().bundle.endpoints) {
            if shutdown.is_requested() {
                return Some(Done::ShuttingDown);
            }
            match self.hold(endpoint, backoff, shutdown).await {
                Ok(done) => {
                    info!(endpoint, ?done, "session ended");
                    self.status.disconnected("the session ended in good order", false);
                    return Some(done);
                }
                Err(error) => {
                    self.note(&error);
                    // Before it is logged: a reader of the log finds it in the status, too.
                    self.status.disconnected(&format!("{endpoint}: {error}"), error.is_lasting());
                    warn!(endpoint, %error, "no session");
                    if matches!(&error, LinkError::Connect(error) if error.is_unverifiable()) {
                        unverifiable.push(endpoint.clone());
                    }
                }
            }
        }
        // Verified endpoints came first. A server that answers now proves nothing, and hears nothing but a
        // bundle's number.
        for endpoint in &unverifiable {
            info!(endpoint, "the channel cannot be verified: asking for trust bundles alone");
            let asked = Box::pin(ask_for_bundles(&self.core, endpoint));
            match shutdown.unless_requested(asked).await {
                None => return Some(Done::ShuttingDown),
                Some(Ok(true)) => return Some(Done::ComeBack(Duration::ZERO)),
                Some(Ok(false)) => {}
                Some(Err(error)) => {
                    info!(endpoint, %error, "no trust bundle from an unverified channel");
                    self.note(&error);
                }
            }
        }
        None
    }

    /// A server that is not obeyed is a refusal like any other: it is counted, and reported to one that is.
    fn note(&mut self, error: &LinkError) {
        if matches!(error, LinkError::Journal(error) if error.is_lasting()) {
            self.core.give_up();
        }
        if let LinkError::NotObeyed { refusal, frame } = error {
            let floor = self.core.journal.facts().map(|facts| facts.floor).unwrap_or_default();
            let now = self.core.time.now().unwrap_or(floor);
            self.refusals.count(refusal, frame, now);
        }
        if let Err(error) = self.refusals.keep(&self.core.journal) {
            warn!(%error, "refusal records could not be written");
        }
    }

    async fn hold(
        &mut self,
        endpoint: &str,
        backoff: &mut Backoff,
        shutdown: &writ_common::shutdown::Shutdown,
    ) -> Result<Done, LinkError> {
        let anchors = Anchors::AuthoritiesAtAnyDate(self.core.trust.chain().head().bundle.tls_cas.clone());
        let Some(connection) = shutdown
            .unless_requested(Box::pin(connect_by(self.core.proxy.as_ref(), endpoint, &anchors)))
            .await
        else {
            return Ok(Done::ShuttingDown);
        };
        let connection = connection?;
        let mut client = gateway(connection.channel);
        let leaf = connection.leaf_spki_digest;
        let greeting = tokio::time::timeout(SESSION_TIMEOUT, greeting::greet(&self.core, &mut client, leaf));
        let Some(greeted) = shutdown.unless_requested(greeting).await else { return Ok(Done::ShuttingDown) };
        let greeted = greeted.map_err(|_| LinkError::Silent(SESSION_TIMEOUT))??;
        session::hold(self, greeted, endpoint, backoff, shutdown).await
    }
}

/// Asks the server at an endpoint for successors of the bundle held, and hands bundles back to one that has
/// only earlier ones; says nothing else (protocol.md §6.11). What comes back is walked along as always, so
/// that a lost TLS key or authority strands nobody. Says whether there were any.
async fn ask_for_bundles(core: &AgentCore, endpoint: &str) -> Result<bool, LinkError> {
    let before = core.trust.chain().head().bundle.version;
    let work = async {
        let connection = Box::pin(connect_by(core.proxy.as_ref(), endpoint, &Anchors::Unverified)).await?;
        greeting::fetch_chain(core, &mut gateway(connection.channel)).await
    };
    let asked = tokio::time::timeout(RESCUE_TIMEOUT, work).await;
    asked.map_err(|_| LinkError::Silent(RESCUE_TIMEOUT))??;
    Ok(core.trust.chain().head().bundle.version > before)
}

/// Whether a server that is obeyed answers at an endpoint, and is not behind this agent. Nothing is said
/// about the agent but its id, and no session begins.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn probe<'a>(
    core: &'a AgentCore,
    endpoint: &'a str,
) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>> {
    Box::pin(async move { try_for_settings(core, endpoint).await.map_err(|error| error.to_string()) })
}

async fn try_for_settings(core: &AgentCore, endpoint: &str) -> Result<(), LinkError> {
    let anchors = Anchors::AuthoritiesAtAnyDate(core.trust.chain().head().bundle.tls_cas.clone());
    let work = async {
        let connection = Box::pin(connect_by(core.proxy.as_ref(), endpoint, &anchors)).await?;
        let mut client = gateway(connection.channel);
        greeting::hear(core, &mut client, connection.leaf_spki_digest).await
    };
    let heard = tokio::time::timeout(PROBE_TIMEOUT, work).await;
    let heard = heard.map_err(|_| LinkError::Silent(PROBE_TIMEOUT))??;
    let newest = core.trust.chain().head().bundle.version;
    if heard.verified.document().chain_version < newest {
        return Err(LinkError::Protocol("its trust chain is behind this agent's"));
    }
    Ok(())
}

/// What a server that is obeyed says of itself.
#[derive(Debug)]
pub(crate) struct ServerState {
    /// What time it is there.
    pub time: Timestamp,
    /// The newest bundle there.
    pub chain_version: u64,
}

/// Whether an agent with this identity and chain would obey who answers at an endpoint, with the bundles it
/// would learn of there. Nothing is kept, and no session begins.
///
/// # Errors
/// What is wrong.
pub(crate) async fn try_out(
    record: &IdentityRecord,
    chain: &Chain,
    floor: Timestamp,
    (proxy, endpoint): (Option<&Proxy>, &str),
) -> Result<ServerState, LinkError> {
    let way = (proxy, endpoint);
    let tried = try_once(record, &chain.head().bundle, floor, way).await;
    let may_learn = match &tried {
        Err(LinkError::NotObeyed { refusal, .. }) => greeting::may_be_mended_by_a_bundle(refusal.code),
        Err(LinkError::Connect(error)) => error.is_unverifiable(),
        _ => false,
    };
    if !may_learn {
        return tried;
    }
    let (mut chain, before) = (chain.clone(), chain.head().bundle.version);
    let work = async {
        let connection = Box::pin(connect_by(proxy, endpoint, &Anchors::Unverified)).await?;
        let mut client = gateway(connection.channel);
        greeting::learn(&mut chain, &mut client).await
    };
    let _learnt = tokio::time::timeout(PROBE_TIMEOUT, work).await;
    let head = &chain.head().bundle;
    if head.version == before {
        return tried;
    }
    // A bundle may say that an earlier time is right.
    let reset = chain.after(before).filter_map(|link| link.bundle.floor_reset).last();
    try_once(record, head, reset.unwrap_or(floor), way).await
}

async fn try_once(
    record: &IdentityRecord,
    bundle: &TrustBundle,
    floor: Timestamp,
    (proxy, endpoint): (Option<&Proxy>, &str),
) -> Result<ServerState, LinkError> {
    let anchors = Anchors::AuthoritiesAtAnyDate(bundle.tls_cas.clone());
    let time = SessionTime::new(Arc::new(SystemClock::new()));
    let work = async {
        let connection = Box::pin(connect_by(proxy, endpoint, &anchors)).await?;
        let mut client = gateway(connection.channel);
        let hailed = greeting::hail(record.agent, &time, &mut client).await?;
        let expected = Expected {
            bundle,
            realm: &record.realm,
            nonce: hailed.nonce,
            tls_leaf: connection.leaf_spki_digest,
            floor,
            round_trip: hailed.round_trip,
        };
        let frame = hailed.envelope.clone();
        let verified = expected.verify(&hailed.envelope);
        let hello = verified.map_err(|refusal| LinkError::NotObeyed { refusal, frame })?.into_document();
        Ok(ServerState { time: hello.time, chain_version: hello.chain_version })
    };
    tokio::time::timeout(PROBE_TIMEOUT, work).await.map_err(|_| LinkError::Silent(PROBE_TIMEOUT))?
}

fn gateway(channel: Channel) -> AgentGatewayClient<Channel> {
    AgentGatewayClient::new(channel)
        .max_decoding_message_size(MAX_FRAME_BYTES)
        .max_encoding_message_size(MAX_FRAME_BYTES)
}
