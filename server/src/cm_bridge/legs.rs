//! A connection to the manager in legs: each is told apart, so that whoever reads a failure knows what to do.

use std::fmt;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use writ_proto::admin::v1 as proto;
pub(crate) use writ_proto::admin::v1::ConnectionLeg as Leg;

/// In the order they are gone.
pub(crate) const ORDER: [Leg; 13] = [
    Leg::Input,
    Leg::Dns,
    Leg::ProxyConnect,
    Leg::ProxyAuthentication,
    Leg::Tcp,
    Leg::Tls,
    Leg::CertificateTrust,
    Leg::HostName,
    Leg::WebAuthentication,
    Leg::ProtocolVersion,
    Leg::Clock,
    Leg::Authorization,
    Leg::Callback,
];

/// A leg that failed.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Which.
    pub leg: Leg,
    /// What happened.
    pub detail: String,
    /// What to do.
    pub advice: String,
}

impl Fault {
    /// A leg that failed.
    pub fn new(leg: Leg, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { leg, detail: detail.into(), advice: advice.into() }
    }

    /// The leg's stable name.
    #[must_use]
    pub fn code(&self) -> String {
        name(self.leg)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leg, detail, advice } = self;
        write!(f, "{}: {detail}; {advice}", name(*leg))
    }
}

/// A leg's stable name, such as `host_name`.
#[must_use]
pub(crate) fn name(leg: Leg) -> String {
    leg.as_str_name().trim_start_matches("CONNECTION_LEG_").to_ascii_lowercase()
}

/// Reports legs as they are gone; the everyday way has nobody who listens.
#[derive(Debug)]
pub(crate) struct Legs {
    listener: Option<mpsc::Sender<proto::TestedLeg>>,
    reported: Vec<Leg>,
    since: Instant,
}

impl Legs {
    /// Nobody listens.
    #[must_use]
    pub(crate) fn silent() -> Self {
        Self { listener: None, reported: Vec::new(), since: Instant::now() }
    }

    /// Somebody does.
    #[must_use]
    pub(crate) fn to(listener: mpsc::Sender<proto::TestedLeg>) -> Self {
        Self { listener: Some(listener), ..Self::silent() }
    }

    /// A leg was gone since the last one was reported.
    pub(crate) async fn passed(&mut self, leg: Leg, detail: impl Into<String>) {
        self.say(leg, proto::LegOutcome::Passed, (detail.into(), String::new())).await;
    }

    /// A leg is not on this way, or another one failed before it.
    pub(crate) async fn skipped(&mut self, leg: Leg, why: impl Into<String>) {
        self.since = Instant::now();
        self.say(leg, proto::LegOutcome::Skipped, (why.into(), String::new())).await;
    }

    /// A leg failed: those before it that nobody spoke of were not on this way, those after it are not gone.
    pub(crate) async fn failed(&mut self, fault: &Fault) {
        let elapsed = self.since.elapsed();
        // A leg that was gone cannot fail any more: what failed then is the one that was under way.
        let is_open = |leg: &&Leg| !self.reported.contains(leg);
        let failed = if is_open(&&fault.leg) { Some(fault.leg) } else { ORDER.iter().find(is_open).copied() };
        for leg in ORDER {
            if self.reported.contains(&leg) {
                continue;
            }
            if Some(leg) == failed {
                let words = (fault.detail.clone(), fault.advice.clone());
                self.tell(leg, proto::LegOutcome::Failed, elapsed, words).await;
            } else {
                self.skipped(leg, format!("{} failed", name(fault.leg))).await;
            }
        }
    }

    async fn say(&mut self, leg: Leg, outcome: proto::LegOutcome, words: (String, String)) {
        let elapsed = self.since.elapsed();
        self.tell(leg, outcome, elapsed, words).await;
    }

    async fn tell(
        &mut self,
        leg: Leg,
        outcome: proto::LegOutcome,
        elapsed: Duration,
        (detail, advice): (String, String),
    ) {
        if let Some(listener) = &self.listener {
            let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
            let told =
                proto::TestedLeg { leg: leg.into(), outcome: outcome.into(), elapsed_us, detail, advice };
            // Whoever asked may have hung up.
            let _ = listener.send(told).await;
        }
        self.reported.push(leg);
        self.since = Instant::now();
    }
}
