//! What a `doctor` command says: every thing it looked at, in the order of causes. The first bad one is the
//! one to mend; the others may follow from it.

pub mod host;

use std::borrow::Cow;

use serde::Serialize;

use crate::text::plain_lines;

/// Characters of the one line that comes first.
const LONGEST_VERDICT: usize = 72;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Good,
    /// Somebody should look soon.
    Notice,
    /// It keeps the fleet or this host from being commanded, or keys from being safe.
    Bad,
}

impl Level {
    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Notice => "notice",
            Self::Bad => "bad",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// How it stands.
    pub level: Level,
    /// What.
    pub check: Cow<'static, str>,
    /// In words.
    pub detail: String,
    /// What to do; empty when nothing.
    pub next: String,
}

impl Finding {
    /// As it should be.
    #[must_use]
    pub fn good(check: &'static str, detail: impl Into<String>) -> Self {
        Self { level: Level::Good, check: Cow::Borrowed(check), detail: detail.into(), next: String::new() }
    }

    /// Somebody should look soon, and do this.
    #[must_use]
    pub fn notice(check: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { level: Level::Notice, check: Cow::Borrowed(check), detail: detail.into(), next: next.into() }
    }

    /// It is wrong, and this mends it.
    #[must_use]
    pub fn bad(check: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { level: Level::Bad, check: Cow::Borrowed(check), detail: detail.into(), next: next.into() }
    }
}

/// Everything that was looked at, and the one cause.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The first bad finding in one line, or that nothing is wrong.
    pub verdict: String,
    /// All of them, in the order of causes.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Finds the cause. Details may quote others' words, which steer no terminal.
    #[must_use]
    pub fn of(mut findings: Vec<Finding>) -> Self {
        for finding in &mut findings {
            finding.detail = plain_lines(&finding.detail);
        }
        let worst = findings.iter().find(|finding| finding.level == Level::Bad);
        let verdict = worst.map_or_else(
            || "nothing is wrong".to_owned(),
            |bad| format!("{}: {}", bad.check, one_line(&bad.detail)),
        );
        Self { verdict, findings }
    }

    /// Whether something must be mended.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Bad)
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let below = |text: &str| text.replace('\n', "\n                  ");
        // In full below.
        let mut text = match self.verdict.char_indices().nth(LONGEST_VERDICT) {
            Some((end, _)) => format!("{} …", self.verdict[..end].trim_end()),
            None => self.verdict.clone(),
        };
        for Finding { level, check, detail, next } in &self.findings {
            text.push_str(&format!("\n  {:6} {check:8} {}", level.as_str(), below(detail)));
            if !next.is_empty() {
                text.push_str(&format!("\n                  Next: {}", below(next)));
            }
        }
        text
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bad_finding_is_the_cause() {
        let findings = vec![
            Finding::good("clock", "now"),
            Finding::notice("backup", "never proven", "prove it"),
            Finding::bad("keys", "gone", "restore them"),
            Finding::bad("signing", "nothing signs", "mend the keys"),
        ];
        let report = Report::of(findings);
        assert!(report.is_bad());
        assert_eq!(report.verdict, "keys: gone");
        assert!(report.text().contains("bad    keys     gone\n                  Next: restore them"));
        let quoted = Report::of(vec![Finding::bad("files", "one\u{1b}[2J\ntwo", "")]);
        assert_eq!(
            (quoted.verdict.as_str(), quoted.findings[0].detail.as_str()),
            ("files: one [2J; two", "one [2J\ntwo")
        );
        assert_eq!(Report::of(Vec::new()).verdict, "nothing is wrong");
    }
}
