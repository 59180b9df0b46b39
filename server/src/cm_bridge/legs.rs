//! A connection to the manager in legs: each is told apart, so that the reader of a failure knows what to do.

use std::fmt;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

/// A part of the way to the manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leg {
    /// The settings are complete and can be used on this host.
    Input,
    /// The name has an address.
    Dns,
    /// The proxy takes connections.
    ProxyConnect,
    /// The proxy lets this server in.
    ProxyAuthentication,
    /// The manager's host takes a connection.
    Tcp,
    /// TLS 1.3 is agreed on.
    Tls,
    /// The certificate leads to the authority that was uploaded.
    CertificateTrust,
    /// The certificate carries the name that was dialled.
    HostName,
    /// A web server in front of the manager lets this server in.
    WebAuthentication,
    /// What answers speaks the same protocol.
    ProtocolVersion,
    /// Both clocks agree.
    Clock,
    /// The manager's key is vouched for, and it takes this server.
    Authorization,
    /// The manager reaches this server.
    Callback,
}

/// What became of a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LegOutcome {
    /// It was gone.
    Passed,
    /// It is not on this way, or another one failed before it.
    Skipped,
    /// It ends here.
    Failed,
}

/// What a test of the way says of one leg.
#[derive(Debug, Clone)]
pub(crate) struct TestedLeg {
    /// Which.
    pub leg: Leg,
    /// What became of it.
    pub outcome: LegOutcome,
    /// How long it took.
    pub elapsed: Duration,
    /// What happened.
    pub detail: String,
    /// What to do; empty unless it failed.
    pub advice: String,
}

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
pub(crate) struct Fault {
    /// Which.
    pub leg: Leg,
    /// What happened.
    pub detail: String,
    /// What to do.
    pub advice: String,
}

impl Fault {
    /// A leg that failed.
    pub(crate) fn new(leg: Leg, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { leg, detail: detail.into(), advice: advice.into() }
    }

    /// The leg's stable name.
    #[must_use]
    pub(crate) fn code(&self) -> &'static str {
        self.leg.as_str()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leg, detail, advice } = self;
        write!(f, "{}: {detail}; {advice}", leg.as_str())
    }
}

impl Leg {
    /// Its stable name.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Dns => "dns",
            Self::ProxyConnect => "proxy_connect",
            Self::ProxyAuthentication => "proxy_authentication",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::CertificateTrust => "certificate_trust",
            Self::HostName => "host_name",
            Self::WebAuthentication => "web_authentication",
            Self::ProtocolVersion => "protocol_version",
            Self::Clock => "clock",
            Self::Authorization => "authorization",
            Self::Callback => "callback",
        }
    }
}

/// Reports legs as they are gone; the everyday way has nobody who listens.
#[derive(Debug)]
pub(crate) struct Legs {
    listener: Option<mpsc::Sender<TestedLeg>>,
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
    pub(crate) fn to(listener: mpsc::Sender<TestedLeg>) -> Self {
        Self { listener: Some(listener), ..Self::silent() }
    }

    /// A leg was gone since the last one was reported.
    pub(crate) async fn passed(&mut self, leg: Leg, detail: impl Into<String>) {
        self.say(leg, LegOutcome::Passed, (detail.into(), String::new())).await;
    }

    /// A leg is not on this way, or another one failed before it.
    pub(crate) async fn skipped(&mut self, leg: Leg, why: impl Into<String>) {
        self.since = Instant::now();
        self.say(leg, LegOutcome::Skipped, (why.into(), String::new())).await;
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
                self.tell(leg, LegOutcome::Failed, elapsed, words).await;
            } else {
                self.skipped(leg, format!("{} failed", fault.leg.as_str())).await;
            }
        }
    }

    async fn say(&mut self, leg: Leg, outcome: LegOutcome, words: (String, String)) {
        let elapsed = self.since.elapsed();
        self.tell(leg, outcome, elapsed, words).await;
    }

    async fn tell(
        &mut self,
        leg: Leg,
        outcome: LegOutcome,
        elapsed: Duration,
        (detail, advice): (String, String),
    ) {
        if let Some(listener) = &self.listener {
            let told = TestedLeg { leg, outcome, elapsed, detail, advice };
            // The caller may have hung up.
            let _ = listener.send(told).await;
        }
        self.reported.push(leg);
        self.since = Instant::now();
    }
}
