//! Lists as the world publishes them: one value a line, or a column of CSV (RFC 4180).
//!
//! What publishers do in fact is read: a byte order mark, CRLF, blank lines, comments, capitals, spaces
//! around values, quotes. A line that is no value is left out, counted, and told with its number.

use std::io::{self, BufRead, Read as _};

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use crate::kind::{Key, Kind, shown};

/// Bytes of one line or record. Longer than any URL a browser takes; a longer line is a bad line.
pub const MAX_LINE: usize = 64 << 10;
/// Columns of one record.
const MAX_COLUMNS: usize = 256;
/// Bad lines told one by one; all are counted.
pub const MAX_TOLD: usize = 20;

/// How a list is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One value a line. What follows `#` or `;`, at the start of a line or after a space, is a comment.
    /// After a hash a file's name may stand, as `sha256sum` prints it, or a comma and more, as in the
    /// `hashes.csv` of MISP; before a domain the address that a hosts file sends it to, and after it more domains.
    Lines,
    /// CSV whose first record names the columns, or a comment before it; the values are in the column of this
    /// name.
    Column(String),
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Read {
    /// Values. A line of a hosts file may have several.
    pub values: u64,
    /// Lines or records that are no value, by [`Self::bad_lines`] and [`MAX_TOLD`].
    pub bad: u64,
    /// The first bad ones.
    pub bad_lines: Vec<BadLine>,
}

/// A line that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Its number in the file, from 1. A record of several lines has the number of its last.
    pub number: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Why nothing of a file is read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The disk's.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is of another encoding.
    #[error("is UTF-16 text; save it as UTF-8")]
    Utf16,
    /// It has no such column.
    #[error("has no column `{wanted}`; its columns are {there}")]
    NoColumn {
        /// The column that was asked for.
        wanted: String,
        /// Those that are there.
        there: String,
    },
    /// A quote is open at the end of the file, so nobody knows how many lines it swallowed.
    #[error("has a quote that is never closed; the last record that could be read ends in line {0}")]
    OpenQuote(u64),
    /// The one who takes the values takes no more.
    #[error("{0}")]
    Refused(String),
}

/// Reads a list and hands over the key of each value, in the order of the file.
///
/// # Errors
/// When the file cannot be read, is of another encoding or has no such column; or what `take` returns. A line
/// that is no value is no error.
pub fn read(
    mut from: impl BufRead,
    layout: &Layout,
    kind: Kind,
    mut take: impl FnMut(Key) -> Result<(), SourceError>,
) -> Result<Read, SourceError> {
    let from = without_mark(&mut from)?;
    let mut read = Read::default();
    let mut note = |number, text: Result<&str, String>| -> Result<(), SourceError> {
        match text.and_then(|text| kind.key(text).map_err(|error| error.to_string())) {
            Ok(key) => {
                read.values += 1;
                take(key)
            }
            Err(reason) => {
                read.bad += 1;
                if read.bad_lines.len() < MAX_TOLD {
                    read.bad_lines.push(BadLine { number, reason });
                }
                Ok(())
            }
        }
    };
    match layout {
        Layout::Lines => lines(from, kind, &mut note)?,
        Layout::Column(name) => column(from, name, &mut note)?,
    }
    Ok(read)
}

/// A byte order mark is no part of the first value. A pipe may hand it over in pieces.
fn without_mark<R: BufRead>(mut from: R) -> Result<impl BufRead, SourceError> {
    let mut start = Vec::with_capacity(3);
    let _ = from.by_ref().take(3).read_to_end(&mut start)?;
    if start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]) {
        return Err(SourceError::Utf16);
    }
    if start == [0xef, 0xbb, 0xbf] {
        start.clear();
    }
    Ok(io::Cursor::new(start).chain(from))
}

type Note<'a> = &'a mut dyn FnMut(u64, Result<&str, String>) -> Result<(), SourceError>;

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map(str::trim).map_err(|_| "is not UTF-8 text".to_owned())
}

fn too_long() -> String {
    format!("is longer than {MAX_LINE} bytes")
}

fn lines(mut from: impl BufRead, kind: Kind, note: Note<'_>) -> Result<(), SourceError> {
    let (mut line, mut number, mut is_too_long) = (Vec::new(), 0, false);
    loop {
        let part = from.fill_buf()?;
        let is_last = part.is_empty();
        let end = part.iter().position(|byte| *byte == b'\n');
        let length = end.unwrap_or(part.len());
        // What is too long is passed over, not kept.
        is_too_long |= line.len() + length > MAX_LINE;
        if !is_too_long {
            line.extend_from_slice(&part[..length]);
        }
        from.consume(end.map_or(length, |end| end + 1));
        if end.is_none() && !is_last {
            continue;
        }
        number += 1;
        if is_too_long {
            note(number, Err(too_long()))?;
        } else {
            match text(&line).map(without_comment) {
                Ok("") => {}
                Ok(line) => values(kind, line).try_for_each(|value| note(number, Ok(value)))?,
                Err(why) => note(number, Err(why))?,
            }
        }
        if is_last {
            return Ok(());
        }
        line.clear();
        is_too_long = false;
    }
}

/// A URL may hold `#` and `;`, so a comment needs a space before it, or the start of the line.
fn without_comment(line: &str) -> &str {
    if line.starts_with(['#', ';']) || line.starts_with("//") {
        return "";
    }
    let comment = [" #", "\t#", " ;", "\t;"].into_iter().filter_map(|mark| line.find(mark)).min();
    comment.map_or(line, |start| line[..start].trim_end())
}

/// Where hosts files send names that nobody shall reach.
const NOWHERE: [&str; 4] = ["0.0.0.0", "127.0.0.1", "::", "::1"];

/// The values of a line: one, but for a hosts file, which may name several.
fn values(kind: Kind, line: &str) -> Box<dyn Iterator<Item = &str> + '_> {
    let mut words = line.split_whitespace();
    match (kind, words.next()) {
        (Kind::Domain, Some(first)) if NOWHERE.contains(&first) && words.clone().next().is_some() => {
            Box::new(words)
        }
        _ => Box::new(std::iter::once(value(kind, line))),
    }
}

fn value(kind: Kind, line: &str) -> &str {
    let unquoted = line.strip_prefix('"').and_then(|line| line.strip_suffix('"'));
    let line = unquoted.unwrap_or(line);
    match kind {
        Kind::Sha256 | Kind::Sha1 | Kind::Md5 => {
            let first = line.split([' ', '\t', ',']).next().unwrap_or(line);
            // Before a name that is escaped, `sha256sum` writes a backslash.
            first.strip_prefix('\\').unwrap_or(first)
        }
        Kind::Domain | Kind::Url | Kind::Ip => line,
    }
}

/// One record of CSV, in memory of a fixed size.
struct Records<R> {
    from: R,
    reader: Reader,
    text: Vec<u8>,
    ends: [usize; MAX_COLUMNS],
    /// The file is at its end, and its last line was ended.
    is_ended: bool,
}

/// What comes next in a file of CSV.
enum Record<'a> {
    Columns {
        number: u64,
        fields: Vec<&'a [u8]>,
    },
    /// Longer than [`MAX_LINE`], or of more than one line: a quote may be missing, and what follows it
    /// swallowed.
    Doubtful {
        number: u64,
        reason: String,
    },
    End,
}

impl<R: BufRead> Records<R> {
    /// After so many lines of the file.
    fn new(from: R, lines: u64) -> Self {
        // Comments are not of RFC 4180, but publishers begin with them.
        let mut reader = ReaderBuilder::new().comment(Some(b'#')).build();
        // The reader takes a byte order mark from its first bytes, if they come together; `without_mark` has done so
        // wherever they are cut. It looks no more once it has read a blank line.
        let _ = reader.read_record(b"\n", &mut [], &mut []);
        reader.set_line(lines + 1);
        Self { from, reader, text: vec![0; MAX_LINE], ends: [0; MAX_COLUMNS], is_ended: false }
    }

    fn next(&mut self) -> Result<Record<'_>, SourceError> {
        let (mut length, mut count, mut is_too_long) = (0, 0, false);
        loop {
            let part = self.from.fill_buf()?;
            // A last line that is not ended is ended here: then only an open quote goes on.
            let ends_now = part.is_empty() && !self.is_ended;
            let input = if ends_now { b"\n" } else { part };
            let (result, taken, written, ended) =
                self.reader.read_record(input, &mut self.text[length..], &mut self.ends[count..]);
            let is_line_over = input[..taken].ends_with(b"\n");
            self.is_ended |= ends_now;
            if !ends_now {
                self.from.consume(taken);
            }
            length += written;
            count += ended;
            // The reader counts the line that a record ends when it has read its end.
            let number = self.reader.line() - u64::from(is_line_over);
            match result {
                ReadRecordResult::InputEmpty if ends_now && written > 0 => {
                    return Err(SourceError::OpenQuote(number));
                }
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    if ends_now {
                        return Err(SourceError::OpenQuote(number));
                    }
                    (length, count, is_too_long) = (0, 0, true);
                }
                ReadRecordResult::Record if is_too_long => {
                    let reason = format!("{}, or a quote is missing before it", too_long());
                    return Ok(Record::Doubtful { number, reason });
                }
                ReadRecordResult::Record if self.text[..length].contains(&b'\n') => {
                    let reason =
                        "ends a record of several lines; a quote may be missing before it".to_owned();
                    return Ok(Record::Doubtful { number, reason });
                }
                ReadRecordResult::Record => {
                    let starts = std::iter::once(0).chain(self.ends[..count].iter().copied());
                    let ends = self.ends[..count].iter().copied();
                    let fields = starts.zip(ends).map(|(start, end)| &self.text[start..end]).collect();
                    return Ok(Record::Columns { number, fields });
                }
                ReadRecordResult::End => return Ok(Record::End),
            }
        }
    }
}

fn column(mut from: impl BufRead, wanted: &str, note: Note<'_>) -> Result<(), SourceError> {
    let (named, lines) = named_by_comment(&mut from, wanted)?;
    let mut records = Records::new(from, lines);
    let no_column = |there: String| SourceError::NoColumn { wanted: wanted.to_owned(), there };
    let mut place = None;
    loop {
        match (records.next()?, place) {
            (Record::Columns { number, fields }, Some(place)) => note(number, field(&fields, place))?,
            (Record::Columns { number, fields }, None) => {
                let found = place_of(&fields, wanted);
                let names = || fields.iter().map(|name| shown(&String::from_utf8_lossy(name)));
                let there = || names().take(MAX_TOLD).collect::<Vec<_>>().join(", ");
                let known = named.or(found).ok_or_else(|| no_column(there()))?;
                // After a comment that named them it has values, which may be anybody's: a column is not
                // looked for among them.
                if found != Some(known) {
                    note(number, field(&fields, known))?;
                }
                place = Some(known);
            }
            (Record::Doubtful { reason, .. }, None) if named.is_none() => {
                return Err(no_column(format!("not known: the first record {reason}")));
            }
            (Record::Doubtful { number, reason }, _) => note(number, Err(reason))?,
            (Record::End, None) if named.is_none() => {
                return Err(no_column("none: it is empty".to_owned()));
            }
            (Record::End, _) => return Ok(()),
        }
    }
}

fn place_of(names: &[&[u8]], wanted: &str) -> Option<usize> {
    names.iter().position(|name| text(name).is_ok_and(|name| name.eq_ignore_ascii_case(wanted)))
}

/// Where a comment at the start says that the wanted column is, and how many lines are at the start: some
/// publishers name their columns there alone.
fn named_by_comment(from: &mut impl BufRead, wanted: &str) -> Result<(Option<usize>, u64), SourceError> {
    let (mut place, mut lines, mut line) = (None, 0, Vec::new());
    let most = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    while from.fill_buf()?.first().is_some_and(|first| b"#\r\n".contains(first)) {
        line.clear();
        // What is too long names no column; it is passed over, not kept.
        let mut is_too_long = false;
        while from.by_ref().take(most).read_until(b'\n', &mut line)? == MAX_LINE && !line.ends_with(b"\n") {
            is_too_long = true;
            line.clear();
        }
        lines += 1;
        let Ok(names) = text(&line).map(|line| line.trim_start_matches('#').trim_start()) else { continue };
        if is_too_long {
            continue;
        }
        // A comment need not be CSV, and a single word is rather prose.
        if let Ok(Record::Columns { fields, .. }) = Records::new(names.as_bytes(), 0).next()
            && fields.len() > 1
        {
            place = place_of(&fields, wanted).or(place);
        }
    }
    Ok((place, lines))
}

/// A field of a record. Some publishers put a space before the quote of a field: then it is no quote for RFC
/// 4180, and a comma in such a field ends it.
fn field<'a>(fields: &[&'a [u8]], place: usize) -> Result<&'a str, String> {
    let found = fields.get(place).ok_or_else(|| format!("has only {} columns", fields.len()))?;
    let is_open = |field: &&[u8]| {
        let quoted = field.trim_ascii();
        field.starts_with(b" ") && quoted.starts_with(b"\"") && (quoted.len() < 2 || !quoted.ends_with(b"\""))
    };
    if fields[..=place].iter().any(is_open) {
        return Err("has a comma in a field whose quote stands after a space".to_owned());
    }
    let text = text(found)?;
    let unquoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    Ok(unquoted.filter(|_| found.starts_with(b" ")).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn read_all(bytes: &[u8], layout: &Layout, kind: Kind) -> (Read, Vec<Key>) {
        let mut keys = Vec::new();
        let take = |key| {
            keys.push(key);
            Ok(())
        };
        // A byte at a time: nothing may depend on where a part ends.
        let from = io::BufReader::with_capacity(1, bytes);
        let read = read(from, layout, kind, take).unwrap();
        (read, keys)
    }

    fn told(read: &Read) -> Vec<(u64, &str)> {
        read.bad_lines.iter().map(|line| (line.number, line.reason.as_str())).collect()
    }

    #[test]
    fn lines_are_read_as_publishers_write_them() {
        let text = format!(
            "\u{feff}# a list\r\n{MIXED}\r\n\r\n  {}  # seen\n; old\n// older\n{MIXED}\t; twice\nnone\n{}",
            MIXED.to_lowercase(),
            "b".repeat(32),
        );
        let (read, keys) = read_all(text.as_bytes(), &Layout::Lines, Kind::Md5);
        assert_eq!((read.values, read.bad), (4, 1));
        assert_eq!(told(&read), [(8, "must be 32 hex digits, is `none`")]);
        let expected = [MIXED, MIXED, MIXED, &"b".repeat(32)].map(|text| Kind::Md5.key(text).unwrap());
        assert_eq!(keys, expected);
    }

    #[test]
    fn columns_that_a_comment_names_are_found_and_spaces_before_quotes_mislead_nobody() {
        let layout = Layout::Column("md5_hash".to_owned());
        let text = format!(
            "# malware (CSV)   #\r\n\r\n# \"seen\n# \"seen\",\"md5_hash\",\"name\"\n\"2026\", \"{MIXED}\", \"n/a\"\n# end\n2026,{MIXED},x\n\"2026\", \"one, {MIXED}\", \"x\"\n2026\n"
        );
        let (read, keys) = read_all(text.as_bytes(), &layout, Kind::Md5);
        assert_eq!(keys.len(), 2);
        let comma = "has a comma in a field whose quote stands after a space";
        assert_eq!(told(&read), [(8, comma), (9, "has only 1 columns")]);
        // What reporters write into a record moves no column.
        let text = format!("# id,md5_hash,tags\n1,{MIXED},md5_hash\n2,{MIXED},x\n");
        assert_eq!(read_all(text.as_bytes(), &layout, Kind::Md5).1.len(), 2);
        // The comment may be repeated as the first record, and a word is no heading.
        let text = format!("# seen,md5_hash\nseen,md5_hash\n2026,{MIXED}\n");
        assert_eq!(read_all(text.as_bytes(), &layout, Kind::Md5).0.bad, 0);
        let text = format!("# md5_hash\nseen,md5_hash\n2026,{MIXED}\n");
        let (read, keys) = read_all(text.as_bytes(), &layout, Kind::Md5);
        assert_eq!((read.bad, keys.len()), (0, 1));
        // A second mark is no mark, wherever the file is cut.
        let twice = format!("\u{feff}\u{feff}md5_hash\n{MIXED}\n");
        let whole = super::read(twice.as_bytes(), &layout, Kind::Md5, |_| Ok(())).unwrap_err().to_string();
        let cut = io::BufReader::with_capacity(1, twice.as_bytes());
        assert_eq!(super::read(cut, &layout, Kind::Md5, |_| Ok(())).unwrap_err().to_string(), whole);
        let long = format!("#{}\n# a,md5_hash\n1,{MIXED}\n", "x".repeat(3 * MAX_LINE));
        assert_eq!(read_all(long.as_bytes(), &layout, Kind::Md5).1.len(), 1);
    }

    #[test]
    fn the_hashes_of_misp_are_read() {
        let event = "5a1e2f6c-1111-4222-8333-444455556666";
        let text = format!("{MIXED},{event}\n,{event}\n");
        let (read, _) = read_all(text.as_bytes(), &Layout::Lines, Kind::Md5);
        assert_eq!((read.values, read.bad), (1, 1));
    }

    #[test]
    fn a_url_keeps_what_looks_like_a_comment() {
        let text = "http://evil.example/a;b#c # note\nhttp://evil.example/a;b\n";
        let (read, keys) = read_all(text.as_bytes(), &Layout::Lines, Kind::Url);
        assert_eq!((read.values, read.bad), (2, 0));
        assert_eq!(keys[0], keys[1]);
    }

    #[test]
    fn sums_with_names_and_hosts_files_are_read() {
        let text = format!("{MIXED}  /usr/bin/a file\n\\{MIXED} *other\n\"{MIXED}\"\n");
        let (read, keys) = read_all(text.as_bytes(), &Layout::Lines, Kind::Md5);
        assert_eq!((read.bad, keys.len()), (0, 3));
        let text =
            "127.0.0.1 localhost\n0.0.0.0\tevil.example # seen\n::1   worse.example\nbad.example more\n";
        let (read, keys) = read_all(text.as_bytes(), &Layout::Lines, Kind::Domain);
        assert_eq!(keys, ["evil.example", "worse.example"].map(|text| Kind::Domain.key(text).unwrap()));
        assert_eq!(told(&read).iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 4]);
    }

    #[test]
    fn a_column_is_found_by_its_name_in_any_place_and_case() {
        for end in ["\n", "\r\n"] {
            let lines = [
                "# made today",
                "first_seen,\"SHA-256, hex\",Md5 ,note",
                &format!("2026,x,{MIXED},\"one, \"\"quoted\"\"\""),
                "2026,x",
                &format!("2026,x,\"{MIXED}\","),
                "2026,x,none,",
            ];
            // With the end of the last line and without.
            for last in [end, ""] {
                let text = format!("{}{last}", lines.join(end));
                let (read, keys) = read_all(text.as_bytes(), &Layout::Column("md5".to_owned()), Kind::Md5);
                assert_eq!(keys.len(), 2, "{text:?}");
                let expected = [(4, "has only 2 columns"), (6, "must be 32 hex digits, is `none`")];
                assert_eq!(told(&read), expected, "{text:?}");
            }
        }
    }

    #[test]
    fn a_quote_that_swallows_lines_is_told() {
        let layout = Layout::Column("md5".to_owned());
        let swallowed = format!("md5,name\n{MIXED},\"evil\n{MIXED},x\n{MIXED},x\"y\n{MIXED},z\n");
        let (read, keys) = read_all(swallowed.as_bytes(), &layout, Kind::Md5);
        assert_eq!((keys.len(), read.bad), (1, 1));
        assert!(told(&read)[0].1.contains("a quote may be missing"), "{read:?}");
        for end in ["\n", ""] {
            let open = format!("md5,name\n{MIXED},x\n{MIXED},\"evil\n{MIXED},x{end}");
            let error = super::read(open.as_bytes(), &layout, Kind::Md5, |_| Ok(())).unwrap_err();
            assert!(matches!(error, SourceError::OpenQuote(_)), "{error}");
            let long = format!("{open}{}", format!("{MIXED},x\n").repeat(3000));
            let error = super::read(long.as_bytes(), &layout, Kind::Md5, |_| Ok(())).unwrap_err();
            assert!(matches!(error, SourceError::OpenQuote(_)), "{error}");
        }
    }

    #[test]
    fn a_column_that_is_not_there_is_told_with_those_that_are() {
        let layout = Layout::Column("sha256".to_owned());
        let error = |bytes: &[u8]| read(bytes, &layout, Kind::Sha256, |_| Ok(())).unwrap_err().to_string();
        assert_eq!(error(b"md5,note\n"), "has no column `sha256`; its columns are `md5`, `note`");
        assert_eq!(error(b""), "has no column `sha256`; its columns are none: it is empty");
        assert_eq!(error(b"\xff\xfea\0"), "is UTF-16 text; save it as UTF-8");
    }

    #[test]
    fn what_is_too_long_or_no_text_is_a_bad_line_and_the_next_is_read() {
        let long = "a".repeat(MAX_LINE + 1);
        for (layout, start) in [(Layout::Lines, ""), (Layout::Column("md5".to_owned()), "md5\n")] {
            let mut bytes = format!("{start}{long}\n").into_bytes();
            bytes.extend(b"\xff\xfe\n");
            bytes.extend(format!("{MIXED}\n").bytes());
            let (read, keys) = read_all(&bytes, &layout, Kind::Md5);
            assert_eq!((read.values, read.bad, keys.len()), (1, 2, 1), "{layout:?}");
            let told = told(&read);
            assert!(told[0].1.contains("longer than 65536"), "{told:?}");
            assert_eq!(told[1].1, "is not UTF-8 text");
        }
    }

    #[test]
    fn many_bad_lines_are_counted_and_the_first_are_told() {
        let (read, _) = read_all("x\n".repeat(1000).as_bytes(), &Layout::Lines, Kind::Md5);
        assert_eq!((read.bad, read.bad_lines.len()), (1000, MAX_TOLD));
    }
}
