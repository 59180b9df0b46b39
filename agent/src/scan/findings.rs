//! What a scan says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use writ_protocol::receipt::Ending;

use super::remedy::Remedied;
use super::walk::Skip;
use super::{LIST, Seen};
use crate::connections::Looked;
use crate::execute::Ended;

/// Files that are told one by one; more are counted.
const MAX_TOLD: usize = 1000;

/// What is known of a file.
#[derive(Debug)]
pub(super) enum Judged {
    /// It is listed, in this version of the list; empty: that was said before a restart.
    Listed(String),
    /// It is a suspicious object.
    Object,
    /// It may be listed, and the server does not say.
    Suspected,
}

/// A file that a scan found.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) path: String,
    pub(super) digest: String,
    pub(super) verdict: Judged,
    /// `None`: nothing was asked for.
    pub(super) remedied: Option<Remedied>,
}

/// What a scan came to.
#[derive(Debug, Default)]
pub(super) struct Findings {
    told: Vec<Finding>,
    /// Files that are not told one by one.
    untold: usize,
    listed: u64,
    blocked: usize,
    quarantined: usize,
    /// Files that may be listed, and of which the server did not say whether they are.
    pub(super) unanswered: u64,
    pub(super) unanswered_examples: Vec<String>,
    pub(super) files: u64,
    bytes: u64,
    skipped: BTreeMap<Skip, (u64, Vec<String>)>,
    /// Why suspicious objects were not looked for, if they were not.
    pub(super) without: Option<String>,
    /// There was nothing to compare files with.
    pub(super) reads_no_file: bool,
    /// Who talks to suspicious addresses, and what was not looked at.
    pub(super) looked: Looked,
    pub(super) cut_short: Option<&'static str>,
    pub(super) took: Duration,
}

impl Findings {
    pub(super) fn add(&mut self, finding: Finding) {
        self.listed += u64::from(matches!(finding.verdict, Judged::Listed(_) | Judged::Object));
        match finding.remedied {
            Some(Remedied::Blocked(_)) => self.blocked += 1,
            Some(Remedied::Quarantined(..)) => self.quarantined += 1,
            Some(Remedied::Left(_) | Remedied::Already) | None => {}
        }
        if self.told.len() < MAX_TOLD {
            self.told.push(finding);
        } else {
            self.untold += 1;
        }
    }

    pub(super) fn seen(&mut self, seen: Seen) {
        let Seen { files, bytes, skipped, cut_short } = seen;
        (self.files, self.bytes, self.skipped) = (files, bytes, skipped);
        self.cut_short = self.cut_short.or(cut_short);
    }

    pub(super) const fn listed(&self) -> u64 {
        self.listed
    }

    /// As the agent answers. What was not looked at and what is not decided comes first: of a long answer the
    /// end may be cut.
    pub(super) fn ended(&self) -> Ended {
        let mut text = String::new();
        if let Some(why) = &self.without {
            let _ = writeln!(text, "suspicious objects were not looked for: {why}");
        }
        if self.reads_no_file {
            let text_of = "no file was looked at: this agent holds neither a filter of a list of files nor suspicious files";
            let _ = writeln!(text, "{text_of}");
        }
        self.looked.tell(&mut text);
        if self.unanswered > 0 {
            let _ = writeln!(
                text,
                "{} files may be listed, and the server did not say; they are left alone. Scan again: {}",
                self.unanswered,
                self.unanswered_examples.join(", ")
            );
        }
        for (why, (count, examples)) in &self.skipped {
            let _ = writeln!(text, "not looked at, {}: {count}: {}", why.says(), examples.join(", "));
        }
        for Finding { path, digest, verdict, remedied } in &self.told {
            let verdict = match verdict {
                Judged::Listed(version) if version.is_empty() => "listed".to_owned(),
                Judged::Listed(version) => format!("listed in {LIST} {version}"),
                Judged::Object => "a suspicious object".to_owned(),
                Judged::Suspected => "may be listed, and the server does not say".to_owned(),
            };
            let _ = writeln!(text, "{path}\n  {digest} {verdict}");
            let _ = match remedied {
                None => writeln!(text, "  only reported"),
                Some(Remedied::Left(why)) => writeln!(text, "  left alone: {why}"),
                Some(Remedied::Already) => writeln!(text, "  blocked already"),
                Some(Remedied::Blocked(said)) => writeln!(text, "  blocked: {said}"),
                Some(Remedied::Quarantined(sha256, more)) if more.is_empty() => {
                    writeln!(text, "  quarantined: {sha256}")
                }
                Some(Remedied::Quarantined(sha256, more)) => {
                    writeln!(text, "  quarantined: {sha256}; {more}")
                }
            };
        }
        if self.untold > 0 {
            let _ = writeln!(text, "and {} more; the agent's log has them", self.untold);
        }
        let is_whole = self.cut_short.is_none() && self.without.is_none() && self.looked.without.is_none();
        let ending = if !is_whole { Ending::Failed } else { Ending::Done };
        let met = u64::try_from(self.looked.count).unwrap_or(u64::MAX);
        let (detail, listed) = (self.summary() + &self.looked.summary(), self.listed + met);
        Ended { ending, detail, listed, ..Ended::with_output(text.into_bytes()) }
    }

    fn summary(&self) -> String {
        let skipped: u64 = self.skipped.values().map(|(count, _)| count).sum();
        let cut = self.cut_short.map_or_else(String::new, |why| format!("not to the end: {why}; "));
        format!(
            "{cut}{} files, {} bytes in {:.2} s: {} listed, {} blocked, {} quarantined, {} undecided, {skipped} not looked at",
            self.files,
            self.bytes,
            self.took.as_secs_f64(),
            self.listed,
            self.blocked,
            self.quarantined,
            self.unanswered,
        )
    }
}
