//! How far something is, on standard error: a bar on a terminal, now and then a line in a log.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use writ_common::say;

/// How often the clock moves while nothing else does.
const TICK: Duration = Duration::from_millis(250);

/// What is awaited, and how much of it came.
pub(crate) struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    what: &'static str,
    said: Option<(u64, String)>,
}

impl Progress {
    /// Of so many; `what` says what each of them did that came.
    pub(crate) fn of(total: u64, what: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template(&format!("{{bar:16}} {{pos}}/{{len}} {what}  {{msg}}  {{elapsed}}"));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let is_terminal = std::io::stderr().is_terminal();
        if is_terminal {
            bar.enable_steady_tick(TICK);
        }
        Self { bar, is_terminal, what, said: None }
    }

    /// This is so now. A log has no bar; it gets a line for every tenth, and when something else is being
    /// done.
    pub(crate) fn show(&mut self, done: u64, total: u64, words: String) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        let kinds = words.chars().filter(|c| !c.is_ascii_digit()).collect();
        let now = Some((done * 10 / total.max(1), kinds));
        if !self.is_terminal && self.said != now {
            say::aside(format_args!("{done}/{total} {}: {words}", self.what));
            self.said = now;
        }
        self.bar.set_message(words);
    }

    /// Something to know meanwhile, above the bar.
    pub(crate) fn note(&self, text: &str) {
        self.bar.suspend(|| say::aside(text));
    }

    /// The end, however far it came: what stays on the screen is what was so.
    pub(crate) fn end(self) {
        self.bar.abandon();
    }
}
