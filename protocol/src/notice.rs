//! Word of what happened, for programs that are none of ours (protocol.md §2.8).

use serde::Serialize;

/// That an alert is open, has ended, or was seen to. Times are RFC 3339.
#[derive(Debug, Clone, Serialize)]
pub struct AlertNotice {
    /// The fleet's id.
    pub fleet_id: String,
    /// Its name.
    pub fleet: String,
    /// The alert's number at its server: with `state` and `last_at` it says which word this is.
    pub alert_id: u64,
    /// `open`, `ended` or `acknowledged`.
    pub state: &'static str,
    /// What happened; see alerts.md.
    pub kind: String,
    /// The refusal's code; empty otherwise.
    pub code: String,
    /// About which agent; empty: about the server itself.
    pub agent_id: String,
    /// Its name.
    pub agent_name: String,
    /// How often until now.
    pub count: u64,
    /// The first time.
    pub first_at: String,
    /// The latest.
    pub last_at: String,
    /// What is known, for people.
    pub detail: String,
    /// What to do.
    pub next: &'static str,
    /// When this was signed.
    pub signed_at: String,
}
