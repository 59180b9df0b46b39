//! The line between a server, the *entity*, and the Control Manager above it (docs/control-manager.md).
//!
//! Calls are signed by the entity's key and replies under the manager's CA, because web servers and proxies
//! between the two may end TLS; instructions are documents of their own, numbered within the registration
//! they are meant for, its *epoch*.

mod token;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;

pub use self::token::TOKEN_PREFIX;
pub use self::token::{RegistrationToken, TokenProof, TokenVerifier};
use crate::id::{CommandId, Digest, EntityId, ManagerId};
use crate::keys::PublicKey;
use crate::time::Timestamp;

/// The version of the protocol between the two.
pub const PROTOCOL: u32 = 1;
/// From here on a manager offers itself as the update source.
const OFFERS_UPDATES_FROM: ManagerVersion = ManagerVersion { major: 6, minor: 0, service_pack: 1 };

/// A manager's version, as it announces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManagerVersion {
    /// Before the dot.
    pub major: u32,
    /// After it.
    pub minor: u32,
    /// 0: none.
    pub service_pack: u32,
}

impl ManagerVersion {
    /// Whether it can be an update source of the integrated reputation server.
    #[must_use]
    pub fn offers_updates(self) -> bool {
        self >= OFFERS_UPDATES_FROM
    }
}

impl fmt::Display for ManagerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, service_pack } = self;
        match service_pack {
            0 => write!(f, "{major}.{minor}"),
            pack => write!(f, "{major}.{minor} SP{pack}"),
        }
    }
}

impl FromStr for ManagerVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no version such as 7.0 or 6.0 SP1");
        let number = |part: &str| part.parse().map_err(|_| wrong());
        let (version, pack) = text.split_once(' ').unwrap_or((text, "SP0"));
        let (major, minor) = version.split_once('.').ok_or_else(wrong)?;
        let service_pack = number(pack.strip_prefix("SP").ok_or_else(wrong)?)?;
        Ok(Self { major: number(major)?, minor: number(minor)?, service_pack })
    }
}

/// What an entity asks of its manager. Signed by the entity's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityCall {
    /// Who calls.
    pub key: PublicKey,
    /// The registration it is made under; 0 before there is one.
    pub epoch: u64,
    /// Rises with every call under an epoch.
    pub counter: u64,
    /// When.
    pub sent_at: Timestamp,
    /// Whom it is for.
    pub manager: ManagerId,
    /// What.
    pub body: CallBody,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallBody {
    /// To be listed.
    Register(Registration),
    /// To be listed otherwise.
    Update(Registration),
    /// To be listed no more.
    Unregister,
    /// What there is to do.
    Poll(Poll),
    /// Of suspicious objects.
    Objects(ObjectsCall),
}

/// What is asked of suspicious objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectsCall {
    /// That this key fetches them from now on, and none of before.
    Subscribe(PublicKey),
    /// That no key does.
    Unsubscribe,
    /// Those that act, later than this version; 0: all. Signed by the subscription's key.
    Fetch(u64),
}

/// How an entity wants to be listed and met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// What operators call it.
    pub display_name: String,
    /// Its host.
    pub host_name: String,
    /// What it is.
    pub product: String,
    /// Its version.
    pub version: String,
    /// Its own addresses, for people.
    pub addresses: Vec<String>,
    /// Who calls whom.
    pub mode: Mode,
    /// What it was called before, if it was.
    pub entity: Option<EntityId>,
    /// A registration token; `None`: an operator approves.
    pub token: Option<TokenProof>,
    /// It polls at least so often.
    pub heartbeat: Duration,
    /// Silence after which something is wrong with it; at least three heartbeats.
    pub abnormal_after: Duration,
}

/// Who calls whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// The entity polls; it opens no listener.
    OneWay,
    /// The manager also dials, without content, to have it poll at once.
    TwoWay {
        /// Where, "host:port".
        forwarding: String,
        /// SHA-256 of the SubjectPublicKeyInfo it shows there.
        leaf_spki_digest: Digest,
    },
}

/// A sign of life: outcomes up, what waits down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// The last instruction it holds.
    pub after: u64,
    /// What became of earlier ones.
    pub outcomes: Vec<Outcome>,
}

/// What became of an instruction, so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Which.
    pub sequence: u64,
    /// How it stands.
    pub state: TaskState,
    /// For people.
    pub detail: String,
    /// What was submitted to the fleet for it.
    pub command: Option<CommandId>,
    /// Agents it is for.
    pub total: u64,
    /// Of them, those that have done it.
    pub done: u64,
    /// Of them, those that failed or refused.
    pub failed: u64,
}

/// How an instruction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Taken, not ended.
    InProgress,
    /// Ended well.
    Successful,
    /// Ended badly.
    Unsuccessful,
}

/// A manager's answer. Signed under its CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The digest of the call, or the nonce of a probe.
    pub request: Digest,
    /// What time it is there.
    pub time: Timestamp,
    /// What it says.
    pub body: ReplyBody,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyBody {
    /// Who it is.
    Probe(ProbeAnswer),
    /// How the entity is listed.
    Registered(Listing),
    /// It is listed no more.
    Left,
    /// What there is to do.
    Work(Work),
    /// No.
    Rejected(Rejection),
    /// The key fetches objects from now on.
    Subscribed,
    /// None does.
    Unsubscribed,
    /// The change of objects that follows.
    Objects(ObjectsOffer),
}

/// A change of the objects that act at a manager, which follows the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectsOffer {
    /// The version that comes of it. A later one is greater.
    pub version: u64,
    /// The digest of the whole list then.
    pub list: Digest,
    /// What follows; `None`: the list that is held is this one.
    pub change: Option<OfferedChange>,
}

/// What follows an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfferedChange {
    /// The version that it is made to; 0: it is the whole list.
    pub base: u64,
    /// Its length.
    pub bytes: u64,
    /// Its digest.
    pub digest: Digest,
}

/// Who a manager is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// Its id.
    pub manager: ManagerId,
    /// Its version.
    pub version: ManagerVersion,
    /// What it speaks.
    pub protocol: u32,
    /// Whether a sandbox feeds it threats.
    pub sandbox_connected: bool,
    /// Whether the forwarding address could be dialled; `None`: nobody asked.
    pub callback: Option<Result<(), String>>,
}

/// How an entity is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Its id.
    pub entity: EntityId,
    /// The number of its registration.
    pub epoch: u64,
    /// Whether it was let in.
    pub is_approved: bool,
    /// The manager.
    pub manager: ManagerId,
    /// The manager's version.
    pub version: ManagerVersion,
    /// Whether a sandbox feeds it threats.
    pub sandbox_connected: bool,
}

/// What waits for an entity, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Envelopes of instructions.
    pub instructions: Vec<Bytes>,
    /// Whether there are more.
    pub has_more: bool,
    /// Whether a sandbox feeds the manager threats.
    pub sandbox_connected: bool,
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Stable.
    pub code: RejectionCode,
    /// For people.
    pub detail: String,
}

/// Why a manager says no. The names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectionCode {
    /// It does not know the key: never registered, unregistered, or its database is lost.
    UnknownEntity,
    /// An operator rejected or revoked the entity.
    RejectedEntity,
    /// An operator has not let it in yet.
    NotApproved,
    /// The call is not newer than the last one.
    Replayed,
    /// The clocks differ by too much.
    ClockSkew,
    /// The token is used up, expired or not one.
    TokenRefused,
    /// A field breaks a rule.
    InvalidRegistration,
    /// The manager lists as many as it takes.
    ManagerFull,
    /// The key that asks for objects is none of a subscription.
    NotSubscribed,
    /// An operator revoked the subscription.
    SubscriptionRevoked,
}

impl RejectionCode {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::UnknownEntity,
        Self::RejectedEntity,
        Self::NotApproved,
        Self::Replayed,
        Self::ClockSkew,
        Self::TokenRefused,
        Self::InvalidRegistration,
        Self::ManagerFull,
        Self::NotSubscribed,
        Self::SubscriptionRevoked,
    ];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownEntity => "unknown_entity",
            Self::RejectedEntity => "rejected_entity",
            Self::NotApproved => "not_approved",
            Self::Replayed => "replayed",
            Self::ClockSkew => "clock_skew",
            Self::TokenRefused => "token_refused",
            Self::InvalidRegistration => "invalid_registration",
            Self::ManagerFull => "manager_full",
            Self::NotSubscribed => "not_subscribed",
            Self::SubscriptionRevoked => "subscription_revoked",
        }
    }

    /// What to do.
    #[must_use]
    pub const fn cure(self) -> &'static str {
        match self {
            Self::UnknownEntity => "writ manager re-register",
            Self::RejectedEntity => {
                "have the manager's operator approve it again; here nothing needs to be done"
            }
            Self::NotApproved => "have the manager's operator approve it, or register with a token",
            Self::Replayed => {
                "two servers use one entity key (remove manager-entity.key on the second and register it), or this server was put back to an earlier state (writ manager re-register)"
            }
            Self::ClockSkew => "set the clocks of both hosts right",
            Self::TokenRefused => "have the manager's operator make a new registration token",
            Self::InvalidRegistration => "correct the settings: writ manager settings set",
            Self::ManagerFull => "have the manager's operator remove entities, or let those in that wait",
            Self::NotSubscribed => "nothing: this server subscribes again by itself",
            Self::SubscriptionRevoked => {
                "have the manager's operator allow it: writ entities allow-subscription; here nothing needs to be done"
            }
        }
    }
}

/// What a manager tells an entity to do. Signed under its CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Whose it is.
    pub manager: ManagerId,
    /// Whom it is for.
    pub entity: EntityId,
    /// The registration it is meant for.
    pub epoch: u64,
    /// From 1 within an epoch; obeyed once and in order.
    pub sequence: u64,
    /// When it was made.
    pub issued_at: Timestamp,
    /// The first moment it is not obeyed any more.
    pub expires_at: Timestamp,
    /// The manager's operator, for the record.
    pub requested_by: String,
    /// What to do.
    pub task: Task,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// A command for the fleet, through the same door as an operator's own.
    Dispatch {
        /// As `writ send --selector`; empty: all.
        selector: String,
        /// What.
        order: Order,
        /// How long it may wait.
        lifetime: Duration,
    },
    /// How the server and its fleet stand.
    AskStatus,
    /// How often to poll.
    ChangeCommunication {
        /// At least so often.
        heartbeat: Duration,
        /// Silence after which something is wrong.
        abnormal_after: Duration,
    },
}

/// What agents are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// To answer.
    Ping,
    /// To run an action of their own lists.
    Run {
        /// Its name.
        name: String,
        /// Its parameters, in the order given.
        parameters: Vec<(String, String)>,
    },
}

/// In the place of the last instruction held: none is wanted.
pub const NO_INSTRUCTIONS: u64 = u64::MAX;

/// How often an entity may poll.
pub const HEARTBEATS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// The longest silence it may announce.
const MAX_SILENCE: Duration = Duration::from_secs(24 * 3600);

/// Checks how an entity says it will be heard of.
///
/// # Errors
/// Which rule is broken.
pub fn check_communication(heartbeat: Duration, abnormal_after: Duration) -> Result<(), &'static str> {
    if !HEARTBEATS.contains(&heartbeat) {
        return Err("the heartbeat must be 1 s to 1 h");
    }
    if abnormal_after < heartbeat * 3 {
        return Err("abnormal_after must be at least three heartbeats");
    }
    if abnormal_after > MAX_SILENCE {
        return Err("abnormal_after must be at most a day");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_written_and_offer_updates_from_6_0_sp1_on() {
        let version = |text: &str| text.parse::<ManagerVersion>();
        for (text, offers) in [
            ("5.5", false),
            ("6.0", false),
            ("6.0 SP1", true),
            ("6.0 SP3", true),
            ("6.1", true),
            ("7.0", true),
        ] {
            assert_eq!(version(text).unwrap().offers_updates(), offers, "{text}");
            assert_eq!(version(text).unwrap().to_string(), text);
        }
        for text in ["", "6", "6.0SP1", "6.0 R1", "6.x", "6.0 SP"] {
            assert!(version(text).is_err(), "{text}");
        }
    }
}
