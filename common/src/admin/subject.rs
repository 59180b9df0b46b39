//! What a change is about, for the record: read from the request itself, before its service sees it.

use prost::Message as _;

use super::OPERATOR_TOKEN;
use crate::text::plain;
use writ_protocol::manager;
use writ_protocol::wire::token;

/// Which field of a request says what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditSubject {
    /// None: what it makes has no name yet, or it changes this program itself.
    Nothing,
    /// Its first.
    First,
    /// Its first, and its second: whom that one replaces, or what it stands for.
    Replacement,
    /// Its sixth: the id a caller chose for a command.
    CommandId,
    /// Its first, and what limits the token: its fourth, a selector, and its fifth, actions.
    Operator,
}

impl AuditSubject {
    /// The numbers of its fields, each a text.
    #[must_use]
    pub const fn fields(self) -> &'static [i32] {
        match self {
            Self::Nothing => &[],
            Self::First => &[1],
            Self::Replacement => &[1, 2],
            Self::CommandId => &[6],
            Self::Operator => &[1, 4, 5],
        }
    }

    /// What the fields say, on one line, each cut to [`MAX_SUBJECT_CHARS`]; empty of a request that cannot be
    /// read, which no service takes either.
    pub(super) fn subject(self, request: &[u8]) -> String {
        let read = match self {
            Self::Nothing => return String::new(),
            Self::First => First::decode(request).map(|read| vec![read.text]),
            Self::Replacement => Both::decode(request).map(|read| vec![read.text, read.other]),
            Self::CommandId => Sixth::decode(request).map(|read| vec![read.text]),
            Self::Operator => {
                Limited::decode(request).map(|read| vec![read.name, read.selector, read.actions.join(",")])
            }
        };
        let named: Vec<_> =
            read.unwrap_or_default().iter().filter(|text| !text.is_empty()).map(|text| shown(text)).collect();
        named.join(" for ")
    }
}

/// How the agents of a command were chosen, for the record: cut, and without tokens, as a subject.
#[must_use]
pub fn chosen_by(text: &str) -> String {
    shown(text)
}

/// A name for all who read the log. Who pastes a token where its id belongs has not told it to them.
fn shown(text: &str) -> String {
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let holds = |prefix: &str| {
        text.split(prefix).skip(1).any(|rest| rest.chars().take_while(|c| is_of_token(*c)).count() >= 40)
    };
    if [OPERATOR_TOKEN, manager::TOKEN_PREFIX, token::PREFIX].into_iter().any(holds) {
        return "(a token)".to_owned();
    }
    plain(&text.chars().take(MAX_SUBJECT_CHARS).collect::<String>())
}

/// Of a subject so much is kept.
const MAX_SUBJECT_CHARS: usize = 128;

/// Any request whose first field is text; protobuf skips the fields it does not know.
#[derive(Clone, PartialEq, prost::Message)]
struct First {
    #[prost(string, tag = "1")]
    text: String,
}

/// Any request whose first and second fields are texts.
#[derive(Clone, PartialEq, prost::Message)]
struct Both {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(string, tag = "2")]
    other: String,
}

/// One that gives somebody a token.
#[derive(Clone, PartialEq, prost::Message)]
struct Limited {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "4")]
    selector: String,
    #[prost(string, repeated, tag = "5")]
    actions: Vec<String>,
}

/// Any request whose sixth field is text.
#[derive(Clone, PartialEq, prost::Message)]
struct Sixth {
    #[prost(string, tag = "6")]
    text: String,
}

#[cfg(test)]
mod tests {
    use super::super::new_token;
    use super::*;

    #[test]
    fn what_a_change_is_about_fits_on_a_line_and_tells_no_secret() {
        let first = |text: &str| First { text: text.to_owned() }.encode_to_vec();
        assert_eq!(AuditSubject::First.subject(&first("web-1")), "web-1");
        assert_eq!(AuditSubject::Nothing.subject(&first("web-1")), "");
        assert_eq!(AuditSubject::CommandId.subject(&first("web-1")), "");
        assert_eq!(AuditSubject::CommandId.subject(&Sixth { text: "id".to_owned() }.encode_to_vec()), "id");
        assert_eq!(AuditSubject::First.subject(&first("a\nb\u{1b}[2J")), "a b [2J");
        assert_eq!(AuditSubject::First.subject(&first(&"é".repeat(4096))), "é".repeat(MAX_SUBJECT_CHARS));
        assert_eq!(AuditSubject::First.subject(&first(&format!(" {}", new_token().as_str()))), "(a token)");
        assert_eq!(AuditSubject::First.subject(&first("writ1.example.com")), "writ1.example.com");
        assert_eq!(AuditSubject::First.subject(b"\xff\xff"), "");
        let both = |text: &str, other: &str| Both { text: text.to_owned(), other: other.to_owned() };
        assert_eq!(AuditSubject::Replacement.subject(&both("new", "old").encode_to_vec()), "new for old");
        assert_eq!(AuditSubject::Replacement.subject(&both("new", "").encode_to_vec()), "new");
    }
}
