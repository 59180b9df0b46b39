//! The kit for implementations of others (docs/conformance.md): it stands between a server of ours and an
//! agent of somebody, or plays the agent's part against a server of somebody, and says clause by clause of
//! docs/protocol.md what holds.

pub mod of_agent;
pub mod of_server;

use serde::Serialize;

/// One thing that was tried.
#[derive(Debug, Serialize)]
pub struct Case {
    /// Of docs/protocol.md.
    pub clause: &'static str,
    /// What must be so.
    pub says: String,
    /// Whether it is.
    pub holds: bool,
    /// What was seen instead.
    pub seen: String,
}

/// All that was tried, in its order.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    cases: Vec<Case>,
    #[serde(skip)]
    is_loud: bool,
}

impl Report {
    /// A report that says each case on standard error as soon as it is known.
    #[must_use]
    pub fn loud() -> Self {
        Self { cases: Vec::new(), is_loud: true }
    }

    /// Notes what came of a case; whether it holds.
    pub fn case(&mut self, clause: &'static str, says: impl Into<String>, seen: Result<(), String>) -> bool {
        let (holds, says) = (seen.is_ok(), says.into());
        let seen = seen.err().unwrap_or_default();
        if self.is_loud {
            let word = if holds { "ok  " } else { "FAIL" };
            let gap = if seen.is_empty() { "" } else { ": " };
            eprintln!("{word} {clause:<5} {says}{gap}{seen}");
        }
        self.cases.push(Case { clause, says, holds, seen });
        holds
    }

    /// Whether everything holds that was tried, and something was.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.cases.is_empty() && self.cases.iter().all(|case| case.holds)
    }

    /// What was tried.
    #[must_use]
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }
}
