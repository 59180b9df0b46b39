//! Tables, JSON and CSV from the same value. The only place that prints to standard output.

use std::io::IsTerminal as _;

use comfy_table::{Table, presets};
use serde::Serialize;
pub(crate) use writ_common::text::{plain, plain_lines};
use writ_common::time::{Clock as _, SystemClock};
use writ_common::{csv, say};
use writ_protocol::time::Timestamp;

use crate::args::Format;
use crate::failure::Failure;

/// Something that can be shown as rows.
pub(crate) trait Rows: Serialize {
    /// Column heads.
    const HEAD: &'static [&'static str];
    /// The same of the wide table.
    const WIDE: &'static [&'static str] = Self::HEAD;
    /// The cells of one row.
    fn cells(&self) -> Vec<String>;
    /// The same of the wide table.
    fn wide(&self) -> Vec<String> {
        self.cells()
    }
}

/// Shows many things.
pub(crate) fn list<T: Rows>(format: Format, rows: &[T], empty: &str) -> Result<(), Failure> {
    match format {
        Format::Json => json(&rows),
        Format::Jsonl => rows.iter().try_for_each(json_line),
        Format::Csv => {
            let rows: Vec<_> = rows.iter().map(Rows::wide).collect();
            table_of_values(T::WIDE, rows.iter().map(|row| row.iter().map(String::as_str).collect()))
        }
        Format::Table | Format::Wide if rows.is_empty() => text(empty),
        Format::Wide => draw(T::WIDE, rows.iter().map(Rows::wide)),
        Format::Table => {
            let now = SystemClock::new().wall();
            draw(T::HEAD, rows.iter().map(|row| row.cells().iter().map(|cell| age(cell, now)).collect()))
        }
    }
}

/// Shows one thing, field by field.
pub(crate) fn one<T: Serialize>(format: Format, value: &T, fields: &[(&str, String)]) -> Result<(), Failure> {
    match format {
        Format::Json => json(value),
        Format::Jsonl => json_line(value),
        Format::Csv if fields.is_empty() => members(value),
        Format::Csv => {
            let (head, row): (Vec<_>, Vec<_>) =
                fields.iter().map(|(name, value)| (*name, value.as_str())).unzip();
            table_of_values(&head, [row])
        }
        Format::Table | Format::Wide => {
            let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            let lines: Vec<_> =
                fields.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
            text(&lines.join("\n"))
        }
    }
}

fn draw(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Result<(), Failure> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head).add_rows(rows);
    let has_colour = has_colour();
    let paint = |line: String| {
        let line = line.trim_end();
        if has_colour { coloured(line) } else { line.to_owned() }
    };
    text(&table.lines().map(paint).collect::<Vec<_>>().join("\n"))
}

/// no-color.org, and terminals that have none.
fn has_colour() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    std::io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

/// Cells that say how something stands, with the colour of each: select graphic rendition of ECMA-48.
const COLOURS: [(&str, &str); 13] = [
    ("failed", "31"),
    ("refused", "31"),
    ("expired", "31"),
    ("would refuse", "31"),
    ("removed", "31"),
    ("stopped", "31"),
    ("open", "31"),
    ("held", "33"),
    ("away", "33"),
    ("paused", "33"),
    ("connected", "32"),
    ("done", "32"),
    ("would obey", "32"),
];

/// A line of a table in which such cells have their colour. Cells have two spaces between them.
fn coloured(line: &str) -> String {
    let mut painted = String::with_capacity(line.len());
    for (number, cell) in line.split("  ").enumerate() {
        painted.push_str(if number == 0 { "" } else { "  " });
        let word = cell.trim();
        let colour =
            COLOURS.iter().find(|(known, _)| word == *known || word.starts_with(&format!("{known}: ")));
        match colour {
            Some((_, colour)) => {
                let begin = cell.len() - cell.trim_start().len();
                painted.push_str(&format!("{}\u{1b}[{colour}m{word}\u{1b}[0m", &cell[..begin]));
                painted.push_str(&cell[begin + word.len()..]);
            }
            None => painted.push_str(cell),
        }
    }
    painted
}

/// How long ago a time is, or how long until it: what one looks for in a table. Other cells stay.
fn age(cell: &str, now: Timestamp) -> String {
    let is_time = cell.len() >= 20 && cell.ends_with('Z');
    let Some(at) = is_time.then(|| cell.parse::<Timestamp>().ok()).flatten() else { return cell.to_owned() };
    let (seconds, is_past) =
        if at <= now { (now.since(at).as_secs(), true) } else { (at.since(now).as_secs(), false) };
    let (number, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7200 => (seconds / 60, "m"),
        7200..172_800 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    if is_past { format!("{number}{unit} ago") } else { format!("in {number}{unit}") }
}

fn table_of_values<'v>(head: &[&str], rows: impl IntoIterator<Item = Vec<&'v str>>) -> Result<(), Failure> {
    text(csv::table(head, rows).trim_end())
}

/// Of what people are told in sentences: its members, each in a cell, those of more than one value as JSON.
fn members<T: Serialize>(value: &T) -> Result<(), Failure> {
    let value = serde_json::to_value(value).map_err(|error| Failure::local(error.to_string()))?;
    let members = value.as_object().into_iter().flatten().map(|(name, value)| {
        let cell = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (name.as_str(), cell)
    });
    let (head, row): (Vec<_>, Vec<_>) = members.unzip();
    table_of_values(&head, [row.iter().map(String::as_str).collect()])
}

fn json_line<T: Serialize>(value: &T) -> Result<(), Failure> {
    text(&serde_json::to_string(value).map_err(|error| Failure::local(error.to_string()))?)
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
    if millis == 0 { "never".to_owned() } else { Timestamp::from_millis(millis).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_table_are_ages_and_other_cells_stay() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        for (cell, shown) in [
            ("2026-11-30T11:59:59.500Z", "0s ago"),
            ("2026-11-30T11:58:01Z", "119s ago"),
            ("2026-11-30T11:00:00Z", "60m ago"),
            ("2026-11-28T12:00:01.000Z", "47h ago"),
            ("2026-11-01T12:00:00.000Z", "29d ago"),
            ("2026-12-10T12:00:00.000Z", "in 10d"),
            ("never", "never"),
            ("a-name-that-is-long-Z", "a-name-that-is-long-Z"),
        ] {
            assert_eq!(age(cell, now), shown);
        }
    }

    #[test]
    fn only_whole_cells_that_say_how_something_stands_are_coloured() {
        let line = " web1  away       failed once  refused: by its list";
        let painted = coloured(line);
        assert_eq!(
            painted,
            " web1  \u{1b}[33maway\u{1b}[0m       failed once  \u{1b}[31mrefused: by its list\u{1b}[0m"
        );
    }
}
