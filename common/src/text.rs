//! Text from elsewhere, before it reaches a terminal: whoever wrote it cannot steer that.

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

/// Invisible characters that make a line read otherwise than it is (Unicode TR 36, bidirectional spoofing).
const fn turns_text(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_text_is_left() {
        assert_eq!(plain("a\u{1b}[31mb\u{202e}c\nd\r\n"), "a [31mb c d");
        assert_eq!(plain_lines("a\u{1b}b\u{202e}\n\tc\n"), "a b \n\tc");
    }
}
