//! Tables for spreadsheets (RFC 4180).

/// What is listed of an agent whose trust is another one.
pub const MISMATCHED: [&str; 9] = [
    "agent_id",
    "agent_name",
    "host_name",
    "address",
    "bundle_version",
    "key_id",
    "expected_key_id",
    "reason",
    "last_contact",
];

/// A table as text. Every cell is quoted, and one that a spreadsheet would take for a formula begins with an
/// apostrophe.
#[must_use]
pub fn table<'a>(head: &[&str], rows: impl IntoIterator<Item = Vec<&'a str>>) -> String {
    let mut text = line(head.iter().copied());
    for row in rows {
        text.push_str(&line(row.into_iter()));
    }
    text
}

fn line<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    let cell = |text: &str| {
        let guard = if text.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
        format!("\"{guard}{}\"", text.replace('"', "\"\""))
    };
    let cells: Vec<_> = cells.map(cell).collect();
    cells.join(",") + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled_and_formulas_are_text() {
        let text = table(&["a", "b"], [vec!["say \"hi\", twice", "=1+1"]]);
        assert_eq!(text, "\"a\",\"b\"\r\n\"say \"\"hi\"\", twice\",\"'=1+1\"\r\n");
    }
}
