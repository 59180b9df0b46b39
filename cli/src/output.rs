//! Tables and JSON from the same value. The only place that prints to standard output.

use comfy_table::{Table, presets};
use serde::Serialize;
use writ_common::say;
pub(crate) use writ_common::text::{plain, plain_lines};

use crate::args::Format;
use crate::failure::Failure;

/// Something that can be shown as rows.
pub(crate) trait Rows: Serialize {
    /// Column heads.
    const HEAD: &'static [&'static str];
    /// The cells of one row.
    fn cells(&self) -> Vec<String>;
}

/// Shows many things.
pub(crate) fn list<T: Rows>(format: Format, rows: &[T], empty: &str) -> Result<(), Failure> {
    match format {
        Format::Json => json(&rows),
        Format::Table if rows.is_empty() => text(empty),
        Format::Table => {
            let mut table = Table::new();
            table.load_preset(presets::NOTHING).set_header(T::HEAD);
            table.add_rows(rows.iter().map(Rows::cells));
            let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
            text(&lines.join("\n"))
        }
    }
}

/// Shows one thing, field by field.
pub(crate) fn one<T: Serialize>(format: Format, value: &T, fields: &[(&str, String)]) -> Result<(), Failure> {
    match format {
        Format::Json => json(value),
        Format::Table => {
            let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            let lines: Vec<_> =
                fields.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
            text(&lines.join("\n"))
        }
    }
}

/// Prints a line of text.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    say::result(text).map_err(|error| Failure::local(error.to_string()))
}

fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let shown = serde_json::to_string_pretty(value).map_err(|error| Failure::local(error.to_string()))?;
    text(&shown)
}

/// The end of a command's id, by which it is found where no other command has it. Its begin is the time, and
/// many have the same.
pub(crate) fn short(id: &str) -> String {
    id.get(id.len().saturating_sub(8)..).unwrap_or(id).to_owned()
}

/// A time for people; "never" for none.
pub(crate) fn time(millis: u64) -> String {
    if millis == 0 {
        "never".to_owned()
    } else {
        writ_protocol::time::Timestamp::from_millis(millis).to_string()
    }
}
