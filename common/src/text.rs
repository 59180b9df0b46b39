//! Text from elsewhere: before it reaches a terminal, so that its author cannot steer that; and
//! secrets, as files have them.

use zeroize::Zeroizing;

/// With its lines, but no other control characters.
#[must_use]
pub fn plain_lines(text: &str) -> String {
    let keep = |c: char| if (c.is_control() && c != '\n' && c != '\t') || turns_text(c) { ' ' } else { c };
    text.trim_end().chars().map(keep).collect()
}

/// On one line.
#[must_use]
pub fn plain(text: &str) -> String {
    text.trim_end().chars().map(|c| if c.is_control() || turns_text(c) { ' ' } else { c }).collect()
}

/// Characters of a peer's words that are shown.
const MAX_QUOTED: usize = 200;

/// A peer's words, for a log or a message: on one line, and no more of them than helps.
#[must_use]
pub fn quoted(text: &str) -> String {
    plain(&text.chars().take(MAX_QUOTED).collect::<String>())
}

/// What is wrong with a file, or with standard input, that is to hold one secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOneLine {
    /// As some editors write it.
    #[error("it is UTF-16 text; save it as UTF-8")]
    Utf16,
    /// Something else.
    #[error("it is not UTF-8 text")]
    NotText,
    /// Nothing.
    #[error("it is empty")]
    Empty,
    /// Nobody can say which of them is meant.
    #[error("it has {0} lines; leave the one that is the secret")]
    Lines(usize),
    /// A byte no keyboard types.
    #[error("it has a character in it that cannot be typed")]
    Control,
}

/// The one line of a secret: a passphrase, a token, a password. A byte order mark before it and a line break
/// after it are no part of it.
///
/// # Errors
/// When it is not one line of text.
pub fn secret_line(bytes: &[u8]) -> Result<Zeroizing<String>, NotOneLine> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(NotOneLine::Utf16);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| NotOneLine::NotText)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(NotOneLine::Empty);
    }
    let lines = text.split(['\r', '\n']).filter(|line| !line.is_empty()).count();
    if lines > 1 {
        return Err(NotOneLine::Lines(lines));
    }
    match text.chars().any(|c| c.is_control() && c != '\t') {
        true => Err(NotOneLine::Control),
        false => Ok(Zeroizing::new(text.to_owned())),
    }
}

/// Invisible characters that make a line read otherwise than it is (Unicode TR 36, bidirectional spoofing).
const fn turns_text(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_line_whatever_wrote_the_file() {
        for file in ["s3cret", "s3cret\n", "s3cret\r\n", "\u{feff}s3cret\r\n", "s3cret\n\n"] {
            assert_eq!(secret_line(file.as_bytes()).unwrap().as_str(), "s3cret", "{file:?}");
        }
        assert_eq!(secret_line(" two words ".as_bytes()).unwrap().as_str(), " two words ");
        assert_eq!(secret_line("one\ntwo\n".as_bytes()), Err(NotOneLine::Lines(2)));
        assert_eq!(secret_line("\none\ntwo".as_bytes()), Err(NotOneLine::Lines(2)));
        assert_eq!(secret_line(b"\xff\xfes\0"), Err(NotOneLine::Utf16));
        assert_eq!(secret_line(b"\xe9t\xe9"), Err(NotOneLine::NotText));
        assert_eq!(secret_line("\u{feff}\r\n".as_bytes()), Err(NotOneLine::Empty));
        assert_eq!(secret_line(b"a\0b"), Err(NotOneLine::Control));
        assert_eq!(secret_line("\nsecret".as_bytes()), Err(NotOneLine::Control));
    }

    #[test]
    fn nothing_but_text_is_left() {
        assert_eq!(plain("a\u{1b}[31mb\u{202e}c\nd\r\n"), "a [31mb c d");
        assert_eq!(plain_lines("a\u{1b}b\u{202e}\n\tc\n"), "a b \n\tc");
    }
}
