//! Choosing agents by what is known of them: `os=linux,site in (paris,rome),!legacy`.
//!
//! The grammar is that of Kubernetes' label selectors: requirements joined by commas, all of which must hold.
//! A requirement that excludes also holds for agents that do not have the attribute at all.

use std::fmt;
use std::str::FromStr;

use writ_protocol::limits::MAX_NAME_BYTES;

/// Requirements of one selector. Each is a look-up in an index.
const MAX_REQUIREMENTS: usize = 32;
/// Values of one requirement.
const MAX_VALUES: usize = 256;
/// Characters of a selector.
const MAX_CHARACTERS: usize = 8192;

/// A selector that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

/// One thing that must hold of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The attribute.
    pub name: String,
    /// The values of which it must have one; none: it must exist.
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
        &self.0
    }

    /// Hosts it asks for by name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let asked = self.0.iter().filter(|requirement| requirement.name == "name" && !requirement.is_negated);
        asked.flat_map(|requirement| &requirement.values).map(String::as_str)
    }
}

/// Whether a text can be an attribute's name: a letter or digit first, then also `-`, `_`, `.` and `/`.
#[must_use]
pub(crate) fn is_name(text: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphanumeric();
    let is_next = |c: char| is_first(c) || matches!(c, '-' | '_' | '.' | '/');
    text.len() <= MAX_NAME_BYTES && text.starts_with(is_first) && text.chars().all(is_next)
}

/// Whether a text can be an attribute's value: what can stand in a selector without quotes; empty is a value
/// too.
#[must_use]
pub(crate) fn is_value(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES && text.chars().all(is_value_character)
}

fn is_value_character(c: char) -> bool {
    !c.is_control() && !c.is_whitespace() && !matches!(c, ',' | '(' | ')' | '=' | '!' | '"' | '\'' | '\\')
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        let mut parser = Parser { characters: text.chars().collect(), at: 0 };
        if parser.characters.len() > MAX_CHARACTERS {
            return Err(parser.wrong(format!("a selector has at most {MAX_CHARACTERS} characters")));
        }
        let mut requirements = Vec::new();
        loop {
            if requirements.len() == MAX_REQUIREMENTS {
                return Err(parser.wrong(format!("a selector has at most {MAX_REQUIREMENTS} requirements")));
            }
            requirements.push(parser.requirement()?);
            parser.skip_space();
            match parser.next() {
                None => return Ok(Self(requirements)),
                Some(',') => {}
                Some(other) => {
                    parser.at -= 1;
                    return Err(parser.wrong(format!("expected `,` or the end, not `{other}`")));
                }
            }
        }
    }
}

struct Parser {
    characters: Vec<char>,
    at: usize,
}

impl Parser {
    fn requirement(&mut self) -> Result<Requirement, InvalidSelector> {
        self.skip_space();
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
        for (number, Requirement { name, values, is_negated }) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            match (values.as_slice(), is_negated) {
                ([], false) => write!(f, "{comma}{name}")?,
                ([], true) => write!(f, "{comma}!{name}")?,
                ([only], false) => write!(f, "{comma}{name}={only}")?,
                ([only], true) => write!(f, "{comma}{name}!={only}")?,
                (several, false) => write!(f, "{comma}{name} in ({})", several.join(","))?,
                (several, true) => write!(f, "{comma}{name} notin ({})", several.join(","))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
