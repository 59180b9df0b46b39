//! Why something was refused: a closed list with stable codes.

use std::borrow::Cow;
use std::fmt;

use writ_proto::v1 as proto;

/// Who hears of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audible {
    /// Nobody on the wire: no action, no answer, a refusal record that is reported later.
    Silent,
    /// The server, at once, by a signed receipt.
    Answered,
    /// A trust bundle or a session was refused; the agent stays with what it has.
    Session,
}

macro_rules! refusal_codes {
    ($(#[doc = $meaning:literal] $name:ident = $code:literal, $audible:ident, $cure:literal;)*) => {
        /// A stable code; `docs/refusals.md` is generated from this list.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum RefusalCode {
            $(#[doc = $meaning] $name,)*
        }

        impl RefusalCode {
            /// Every code, in the order of the checks.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as it stands in logs, receipts shown to people, alerts and documents.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// Who hears of it.
            #[must_use]
            pub const fn audible(self) -> Audible {
                match self { $(Self::$name => Audible::$audible,)* }
            }

            /// What an operator does about it.
            #[must_use]
            pub const fn cure(self) -> &'static str {
                match self { $(Self::$name => $cure,)* }
            }

            /// What it means, in one sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// As in signed documents.
            #[must_use]
            pub const fn to_proto(self) -> proto::RefusalCode {
                match self { $(Self::$name => proto::RefusalCode::$name,)* }
            }

            /// From a signed document; `None` for codes of a newer protocol and for "unspecified".
            #[must_use]
            pub fn from_proto(code: i32) -> Option<Self> {
                match proto::RefusalCode::try_from(code).ok()? {
                    proto::RefusalCode::Unspecified => None,
                    $(proto::RefusalCode::$name => Some(Self::$name),)*
                }
            }
        }
    };
}

refusal_codes! {
    #[doc = "The frame or envelope is larger than the protocol allows."]
    Oversized = "oversized", Silent, "An honest server never sends this. Find out who is between the server and the agent.";
    #[doc = "The bytes are not a DSSE envelope, or something follows it."]
    MalformedEnvelope = "malformed_envelope", Silent, "An honest server never sends this. Find out who is between the server and the agent.";
    #[doc = "The agent holds no trust bundle, so it obeys nobody."]
    NoTrust = "no_trust", Silent, "Enrol the agent with a new token.";
    #[doc = "No signature is by a key the agent's trust bundle lists."]
    UnknownKey = "unknown_key", Silent, "If you replaced the signing certificate, publish a trust bundle that lists it; else somebody sends forged commands.";
    #[doc = "A listed key is named, but the signature does not verify: the payload was altered or the signature forged."]
    BadSignature = "bad_signature", Silent, "Somebody alters or forges commands. Find out who is between the server and the agent.";
    #[doc = "The signing certificate may not sign yet."]
    CertificateNotYetValid = "certificate_not_yet_valid", Silent, "Wait for the entry's sign_from, or publish a bundle that moves it; check the server's clock.";
    #[doc = "The signing certificate is no longer accepted."]
    CertificateExpired = "certificate_expired", Silent, "Rotate the signing certificate by a new trust bundle.";
    #[doc = "The signing certificate was revoked."]
    CertificateRevoked = "certificate_revoked", Silent, "A revoked key is in use: find the holder. Submit honest commands again under the present certificate.";
    #[doc = "The signing certificate may not command agents of this agent's realm."]
    WrongRealm = "wrong_realm", Silent, "Send the command through a server of the agent's realm, or publish a bundle that adds the realm.";
    #[doc = "The signature is good but made for another purpose."]
    WrongPurpose = "wrong_purpose", Silent, "Somebody passes one signed document off as another. Find out who is between the server and the agent.";
    #[doc = "The payload is signed, but decoding and encoding it again gives other bytes: unknown, repeated or reordered fields."]
    NonCanonical = "non_canonical", Silent, "The server is newer than the agent: upgrade the agent, or do not use the newer field.";
    #[doc = "The payload is signed, but a field is missing or outside its bounds."]
    MalformedPayload = "malformed_payload", Silent, "The server has a fault: report it with the command.";
    #[doc = "The document is for another fleet."]
    WrongFleet = "wrong_fleet", Silent, "Somebody carries commands from one fleet to another, or two fleets share a signing key.";
    #[doc = "The proof leads to another agent's place in the audience: the command was not meant for this agent."]
    WrongAgent = "wrong_agent", Silent, "Somebody passes commands on to agents that were not chosen. Find out who is between the server and the agent.";
    #[doc = "The audience proof does not have the shape RFC 9162 requires."]
    BrokenProof = "broken_proof", Silent, "An honest server never sends this. Find out who is between the server and the agent.";
    #[doc = "The signed answer about values of a list is to another question than the agent asked."]
    WrongQuestion = "wrong_question", Silent, "Somebody answers with what the server said before. Find out who is between the server and the agent.";

    #[doc = "The command reaches its agents in waves, and this agent's wave was not released by the server's seal."]
    NotReleased = "not_released", Silent, "An honest server does not send it before. Somebody passes a command on to agents whose wave has not come: find out who is between the server and the agent.";

    #[doc = "The command's id is known with another digest."]
    IdReused = "id_reused", Answered, "Submit the command again; the server gives it a new id.";
    #[doc = "The command's not_before lies ahead."]
    NotYetValid = "not_yet_valid", Answered, "Wait, or check the server's clock.";
    #[doc = "The command expired before it could be started."]
    Expired = "expired", Answered, "Submit it again, with a longer --expires if agents are often away.";
    #[doc = "The command is older than what the agent's journal can still tell apart from a replay."]
    TooOld = "too_old", Answered, "Submit it again.";
    #[doc = "Too few operators approved an action of this class."]
    ThresholdNotMet = "threshold_not_met", Answered, "Gather the approvals the trust bundle asks for, then submit again.";
    #[doc = "The action is not on the agent's allow-list, or this agent does not know it."]
    ActionNotAllowed = "action_not_allowed", Answered, "Add the action to the agent's actions.d, or take it off `actions.deny` in its agent.toml, and restart the agent; or upgrade it.";
    #[doc = "A parameter is missing, unknown or outside its declared type."]
    InvalidParameters = "invalid_parameters", Answered, "Compare the parameters with the action's file in actions.d.";
    #[doc = "The agent's journal holds as many unexpired commands as it may."]
    JournalFull = "journal_full", Answered, "Wait until commands expire, use shorter --expires, or raise journal.max_entries.";
    #[doc = "The agent could not write its journal, so it started nothing."]
    JournalFailed = "journal_failed", Answered, "Look at the agent's disk: full, read-only or failing.";

    #[doc = "The trust bundle does not follow the one the agent holds."]
    BundleWrongPrev = "bundle_wrong_prev", Session, "Hand the agent the bundles in between, or publish a repair bundle that names every head.";
    #[doc = "The trust bundle is not newer than the one the agent holds."]
    BundleNotNewer = "bundle_not_newer", Session, "Somebody offers an old bundle, or two servers minted the same version.";
    #[doc = "The trust bundle contradicts itself: duplicate keys, no threshold, an entry outside its certificate."]
    BundleInvalid = "bundle_invalid", Session, "The trust bundle was made wrongly: sign another one.";
    #[doc = "The server's hello answers another nonce, or names other TLS leaves than the one on the wire."]
    HelloMismatch = "hello_mismatch", Session, "Somebody relays the session, or a TLS-terminating proxy is missing in the server's tls.proxy_leaves.";
    #[doc = "The signed time of the server lies before a time the agent has already seen."]
    TimeWentBack = "time_went_back", Session, "Check the server's clock. If it was ahead before, publish a bundle that resets the floor.";
    #[doc = "The server's hello took longer than the skew to arrive, so its time cannot be used."]
    RoundTripTooLong = "round_trip_too_long", Session, "Check the network between agent and server; the agent tries again.";
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for RefusalCode {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text).ok_or(())
    }
}

/// A refusal with what a log needs to explain it. The peer hears the code at most.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// The stable code.
    pub code: RefusalCode,
    /// For logs and people.
    pub detail: Cow<'static, str>,
}

impl Refusal {
    /// A refusal and its explanation.
    pub fn new(code: RefusalCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into() }
    }
}
