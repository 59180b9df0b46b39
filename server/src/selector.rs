//! Choosing agents by what is known of them: `os=linux,site in (paris,rome),!legacy`.
//!
//! The grammar is that of Kubernetes' label selectors: requirements joined by commas, all of which must hold.
//! A requirement that excludes also holds for agents that do not have the attribute at all. Beyond it, `*` in
//! a value stands for any characters; `connected`, `held` and `away > 1d` ask how an agent stands now; and
//! `@web` stands for the selector that was saved under that name.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use writ_protocol::limits::MAX_NAME_BYTES;

/// Requirements of one selector. Each is a look-up in an index.
const MAX_REQUIREMENTS: usize = 32;
/// Values of one requirement.
const MAX_VALUES: usize = 256;
/// Patterns of one selector. Each is held against every value of its attribute: no index helps.
const MAX_PATTERNS: usize = 64;
/// Characters of a selector.
const MAX_CHARACTERS: usize = 8192;

/// Words that ask how an agent stands; no label has one of them as its name.
pub(crate) const STANDING_WORDS: [&str; 3] = ["away", "connected", "held"];

/// A selector that can be answered.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    standings: Vec<Standing>,
    saved: Vec<String>,
}

/// How an agent must stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has a session, or has none.
    Connected(bool),
    /// Nothing is sent to it until an operator decides, or that is not so.
    Held(bool),
    /// It has no session, and was not heard for longer than this.
    AwayFor(Duration),
}

/// What is built when there is neither a standing nor a saved selector in it is stored as part of requests.
impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requirements, standings, saved } = self;
        let mut shown = f.debug_tuple("Selector");
        shown.field(requirements);
        if !standings.is_empty() || !saved.is_empty() {
            shown.field(standings).field(saved);
        }
        shown.finish()
    }
}

/// One thing that must hold of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The attribute.
    pub name: String,
    /// The values of which it must have one, where `*` stands for any characters; none: it must exist.
    pub values: Vec<String>,
    /// Turns it around.
    pub is_negated: bool,
}

/// A text that is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {place}: {what}; write it like os=linux,site in (paris,rome),!legacy")]
pub struct InvalidSelector {
    /// Where, from 1.
    pub place: usize,
    /// What is wrong there.
    pub what: String,
}

impl Selector {
    /// What must hold, all of it.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// How agents must stand, all of it.
    #[must_use]
    pub fn standings(&self) -> &[Standing] {
        &self.standings
    }

    /// Names of saved selectors that must hold too.
    #[must_use]
    pub fn saved(&self) -> &[String] {
        &self.saved
    }

    /// Whether it always chooses the same of agents with the same labels and facts.
    #[must_use]
    pub fn is_about_attributes(&self) -> bool {
        self.standings.is_empty() && self.saved.is_empty()
    }

    /// The same with what was saved in the place of a saved selector's name.
    ///
    /// # Errors
    /// When what was saved names a saved selector again, or all of it is too much.
    pub(crate) fn with_saved(mut self, other: Self) -> Result<Self, String> {
        if !other.saved.is_empty() {
            return Err("a saved selector cannot name another one".to_owned());
        }
        self.requirements.extend(other.requirements);
        self.standings.extend(other.standings);
        if self.requirements.len() + self.standings.len() > MAX_REQUIREMENTS {
            return Err(format!("with what was saved it has more than {MAX_REQUIREMENTS} requirements"));
        }
        Ok(self)
    }

    /// Takes the names of saved selectors out.
    pub(crate) fn take_saved(&mut self) -> Vec<String> {
        std::mem::take(&mut self.saved)
    }

    /// Whether it asks for hosts by name, or by a pattern of names.
    #[must_use]
    pub fn asks_for_names(&self) -> bool {
        self.requirements.iter().any(|asked| asked.name == "name" && !asked.is_negated)
    }
}

/// Whether a text can be an attribute's name: a letter or digit first, then also `-`, `_`, `.` and `/`.
#[must_use]
pub(crate) fn is_name(text: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphanumeric();
    let is_next = |c: char| is_first(c) || matches!(c, '-' | '_' | '.' | '/');
    text.len() <= MAX_NAME_BYTES && text.starts_with(is_first) && text.chars().all(is_next)
}

/// Whether a text can be an attribute's value: what can stand in a selector without quotes and stands for
/// itself; empty is a value too.
#[must_use]
pub(crate) fn is_value(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES && text.chars().all(|c| is_value_character(c) && c != '*')
}

fn is_value_character(c: char) -> bool {
    !c.is_control() && !c.is_whitespace() && !matches!(c, ',' | '(' | ')' | '=' | '!' | '"' | '\'' | '\\')
}

/// One thing between commas.
enum Part {
    Attribute(Requirement),
    Standing(Standing),
    Saved(String),
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        let mut parser = Parser { characters: text.chars().collect(), at: 0 };
        if parser.characters.len() > MAX_CHARACTERS {
            return Err(parser.wrong(format!("a selector has at most {MAX_CHARACTERS} characters")));
        }
        let (mut selector, mut patterns) = (Self::default(), 0);
        for number in 1.. {
            if number > MAX_REQUIREMENTS {
                return Err(parser.wrong(format!("a selector has at most {MAX_REQUIREMENTS} requirements")));
            }
            match parser.part()? {
                Part::Attribute(requirement) => {
                    patterns += requirement.values.iter().filter(|value| value.contains('*')).count();
                    if patterns > MAX_PATTERNS {
                        return Err(parser.wrong(format!("a selector has at most {MAX_PATTERNS} patterns")));
                    }
                    selector.requirements.push(requirement);
                }
                Part::Standing(standing) => selector.standings.push(standing),
                Part::Saved(name) => selector.saved.push(name),
            }
            parser.skip_space();
            match parser.next() {
                None => break,
                Some(',') => {}
                Some(other) => {
                    parser.at -= 1;
                    return Err(parser.wrong(format!("expected `,` or the end, not `{other}`")));
                }
            }
        }
        Ok(selector)
    }
}

struct Parser {
    characters: Vec<char>,
    at: usize,
}

impl Parser {
    fn part(&mut self) -> Result<Part, InvalidSelector> {
        self.skip_space();
        if self.take('@') {
            return Ok(Part::Saved(self.name()?));
        }
        let place = self.at;
        let is_so = !self.take('!');
        self.skip_space();
        let word = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
        let standing = match (word.as_str(), is_so) {
            ("connected", is_so) => Standing::Connected(is_so),
            ("held", is_so) => Standing::Held(is_so),
            ("away", false) => Standing::Connected(true),
            ("away", true) => {
                self.skip_space();
                if self.take('>') { Standing::AwayFor(self.time()?) } else { Standing::Connected(false) }
            }
            _ => {
                self.at = place;
                return self.requirement().map(Part::Attribute);
            }
        };
        Ok(Part::Standing(standing))
    }

    fn time(&mut self) -> Result<Duration, InvalidSelector> {
        self.skip_space();
        let place = self.at;
        let text = self.take_while(|c| c.is_ascii_alphanumeric());
        humantime::parse_duration(&text).map_err(|_| {
            self.at = place;
            self.wrong("expected a time such as 90s, 15m, 2h or 1d".to_owned())
        })
    }

    fn requirement(&mut self) -> Result<Requirement, InvalidSelector> {
        if self.take('!') {
            self.skip_space();
            return Ok(Requirement { name: self.name()?, values: Vec::new(), is_negated: true });
        }
        let name = self.name()?;
        let has_space = self.skip_space();
        let is_negated = match self.peek() {
            Some('=') => {
                self.at += 1;
                self.take('=');
                false
            }
            Some('!') => {
                self.at += 1;
                if !self.take('=') {
                    return Err(self.wrong("expected `=` after `!`".to_owned()));
                }
                true
            }
            Some(_) if has_space && self.take_word("in") => {
                return Ok(Requirement { name, values: self.values()?, is_negated: false });
            }
            Some(_) if has_space && self.take_word("notin") => {
                return Ok(Requirement { name, values: self.values()?, is_negated: true });
            }
            None | Some(',') => return Ok(Requirement { name, values: Vec::new(), is_negated: false }),
            Some(other) => {
                return Err(self.wrong(format!("expected `=`, `!=`, `in`, `notin` or `,`, not `{other}`")));
            }
        };
        self.skip_space();
        Ok(Requirement { name, values: vec![self.value()?], is_negated })
    }

    fn values(&mut self) -> Result<Vec<String>, InvalidSelector> {
        self.skip_space();
        if !self.take('(') {
            return Err(self.wrong("expected `(`".to_owned()));
        }
        let mut values = Vec::new();
        loop {
            if values.len() == MAX_VALUES {
                return Err(self.wrong(format!("a requirement has at most {MAX_VALUES} values")));
            }
            self.skip_space();
            values.push(self.value()?);
            self.skip_space();
            match self.next() {
                Some(',') => {}
                Some(')') => return Ok(values),
                Some(_) | None => {
                    self.at = self.at.saturating_sub(1);
                    return Err(self.wrong("expected `,` or `)`".to_owned()));
                }
            }
        }
    }

    fn name(&mut self) -> Result<String, InvalidSelector> {
        let place = self.at;
        let text = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
        if is_name(&text) {
            return Ok(text);
        }
        self.at = place;
        Err(self.wrong("expected the name of a label or fact".to_owned()))
    }

    fn value(&mut self) -> Result<String, InvalidSelector> {
        let place = self.at;
        let text = self.take_while(is_value_character);
        if text.len() <= MAX_NAME_BYTES {
            return Ok(text);
        }
        self.at = place;
        Err(self.wrong(format!("a value has at most {MAX_NAME_BYTES} bytes")))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let end = self.at + word.len();
        let is_here =
            self.characters.get(self.at..end).is_some_and(|here| here.iter().copied().eq(word.chars()));
        let ends = self.characters.get(end).is_none_or(|next| next.is_whitespace() || *next == '(');
        if is_here && ends {
            self.at = end;
        }
        is_here && ends
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> String {
        let taken: String = self
            .characters
            .get(self.at..)
            .unwrap_or_default()
            .iter()
            .copied()
            .take_while(|c| keep(*c))
            .collect();
        self.at += taken.chars().count();
        taken
    }

    fn skip_space(&mut self) -> bool {
        !self.take_while(char::is_whitespace).is_empty()
    }

    fn take(&mut self, wanted: char) -> bool {
        let is_here = self.peek() == Some(wanted);
        self.at += usize::from(is_here);
        is_here
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += 1;
        next
    }

    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    fn wrong(&self, what: String) -> InvalidSelector {
        InvalidSelector { place: self.at + 1, what }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requirements = self.requirements.iter().map(Requirement::to_string);
        let standings = self.standings.iter().map(Standing::to_string);
        let saved = self.saved.iter().map(|name| format!("@{name}"));
        f.write_str(&requirements.chain(standings).chain(saved).collect::<Vec<_>>().join(","))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, values, is_negated } = self;
        match (values.as_slice(), is_negated) {
            ([], false) => write!(f, "{name}"),
            ([], true) => write!(f, "!{name}"),
            ([only], false) => write!(f, "{name}={only}"),
            ([only], true) => write!(f, "{name}!={only}"),
            (several, false) => write!(f, "{name} in ({})", several.join(",")),
            (several, true) => write!(f, "{name} notin ({})", several.join(",")),
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected(true) => write!(f, "connected"),
            Self::Connected(false) => write!(f, "away"),
            Self::Held(true) => write!(f, "held"),
            Self::Held(false) => write!(f, "!held"),
            // Without the spaces that would end it when it is read.
            Self::AwayFor(time) => {
                write!(f, "away>{}", humantime::format_duration(*time).to_string().replace(' ', ""))
            }
        }
    }
}

#[cfg(test)]
mod tests;
