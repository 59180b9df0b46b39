//! Logs. Fixed lower-case messages with data in fields; never a payload, never a key.

use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt, reload};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people and journald.
    Text,
    /// One JSON object a line.
    Json,
}

/// What [`set_filter`] changes.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Whether what is written to standard error goes to journald: it says which file that is (systemd.exec(5),
/// `JOURNAL_STREAM`).
fn journal_reads() -> bool {
    let told = std::env::var("JOURNAL_STREAM").ok();
    let own = std::fs::metadata("/proc/self/fd/2").ok();
    own.is_some_and(|own| told == Some(format!("{}:{}", own.dev(), own.ino())))
}

/// A line as journald wants it: its priority in front (sd-daemon(3)), and no time, which journald notes
/// itself.
struct ForJournal;

impl<S, N> FormatEvent<S, N> for ForJournal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        fmt::format().without_time().with_level(false).with_ansi(false).format_event(context, writer, event)
    }
}

/// Levels by target, such as `info,writ_server=debug`. Filters by the fields of spans would bring an engine
/// for regular expressions along, which is 0.3 MB of the agent's program. A word that is no level would name
/// a target, and all others would be silent: more likely it is a slip.
fn read(filter: &str) -> Result<Targets, String> {
    let is_known = |part: &str| match part.split_once('=') {
        Some((target, level)) => !target.trim().is_empty() && is_level(level.trim()),
        None => is_level(part),
    };
    let mut parts = Vec::new();
    for part in filter.split(',').map(str::trim) {
        if !is_known(part) {
            return Err(format!(
                "`{part}` is neither a level, as `info`, nor a target with one, as `writ_server=debug`"
            ));
        }
        parts.push(part);
    }
    parts.join(",").parse().map_err(|error| format!("{error}"))
}

/// The crate takes an empty text for `error`.
fn is_level(text: &str) -> bool {
    !text.is_empty() && text.parse::<LevelFilter>().is_ok()
}

/// Whether [`init`] and [`set_filter`] take a text.
#[must_use]
pub fn is_filter(text: &str) -> bool {
    read(text).is_ok()
}

/// Starts logging to standard error. A second call changes nothing.
///
/// # Errors
/// When the filter is not a list of levels by target.
pub fn init(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = read(filter)?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false).log_internal_errors(false);
    let lines = match format {
        LogFormat::Text if journal_reads() => lines.event_format(ForJournal).boxed(),
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
    Ok(())
}

/// Logs by another filter from now on.
///
/// # Errors
/// When it is not a list of levels by target; then the one of before stays.
pub fn set_filter(filter: &str) -> Result<(), String> {
    let filter = read(filter)?;
    match FILTER.get() {
        Some(handle) => handle.reload(filter).map_err(|error| error.to_string()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_by_target_and_nothing_else() {
        for good in ["info", "WARN", "off", "info, writ_server=debug", "writ_agent::link=trace,error"] {
            assert!(is_filter(good), "{good}");
        }
        for bad in
            ["inof", "writ_server", "info;debug", "writ_server=loud", "a=b=c", "", "info,", "a=", "=info"]
        {
            assert!(!is_filter(bad), "{bad}");
        }
    }
}
