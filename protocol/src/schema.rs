//! What an entry of an allow-list takes, and the one check of what is given for it. Agents hold to it before
//! they start anything (protocol.md §4.11); servers ask it before they sign, so that a slip of the pen is
//! found at the keyboard and not on a hundred hosts.

use std::collections::BTreeMap;
use std::time::Duration;

use regex_lite::{Regex, RegexBuilder};

use crate::id::Digest;
use crate::refusal::{Refusal, RefusalCode};

/// Of a compiled pattern in a file of this host: what the library allows.
const MAX_OWN_PATTERN_BYTES: usize = 10 << 20;
/// Of one that an agent reports. A server that finds a larger one checks nothing by it; the agent does.
const MAX_STRANGERS_PATTERN_BYTES: usize = 32 << 10;

/// What an agent says of an entry of its allow-list.
#[derive(Debug, Clone)]
pub struct ActionSchema {
    /// A run that takes longer is killed.
    pub timeout: Duration,
    /// Whether it may be started again after a crash.
    pub is_idempotent: bool,
    /// What it takes.
    pub parameters: Parameters,
    /// SHA-256 of the file that defines it: two hosts with another one may do other things under the name.
    pub definition: Digest,
}

/// The parameters of an action by name.
#[derive(Debug, Clone, Default)]
pub struct Parameters(BTreeMap<String, Parameter>);

/// One parameter.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// What its value may be.
    pub rule: ParameterRule,
    /// Its value when none is given.
    pub default: Option<String>,
    /// Whether its value is shown nowhere and is no argument of the program.
    pub is_secret: bool,
}

/// What a value may be.
#[derive(Debug, Clone)]
pub enum ParameterRule {
    /// Text of which the whole matches, and that does not begin with a dash.
    Text(Pattern),
    /// A whole number in decimal, from the least to the most.
    Integer(i64, i64),
    /// One of these.
    Choice(Vec<String>),
}

/// A regular expression for a whole value.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    whole: Regex,
}

impl Pattern {
    /// Reads one. It is anchored at both ends, whatever it says.
    ///
    /// # Errors
    /// When it is no regular expression.
    pub fn new(text: &str) -> Result<Self, regex_lite::Error> {
        Self::within(text, MAX_OWN_PATTERN_BYTES)
    }

    /// Reads one that somebody else says, which must be small when it is compiled: a few letters can stand
    /// for megabytes, and each character of a value may cost a step for each part of it.
    ///
    /// # Errors
    /// When it is no regular expression, or too large.
    pub fn of_stranger(text: &str) -> Result<Self, regex_lite::Error> {
        Self::within(text, MAX_STRANGERS_PATTERN_BYTES)
    }

    fn within(text: &str, most: usize) -> Result<Self, regex_lite::Error> {
        let read = |text: &str| RegexBuilder::new(text).size_limit(most).build();
        // Alone first: `a)|(b` is no pattern, but would become one that is not anchored.
        read(text)?;
        Ok(Self { text: text.to_owned(), whole: read(&format!("^(?:{text})$"))? })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl ParameterRule {
    /// Checks a value.
    ///
    /// # Errors
    /// The rule in words, to go on after the parameter's name.
    pub fn check(&self, value: &str) -> Result<(), String> {
        let is_valid = match self {
            // A value that begins with a dash could pass for an option of the program.
            Self::Text(pattern) => {
                pattern.whole.is_match(value) && !value.starts_with('-') && !value.contains('\0')
            }
            Self::Integer(least, most) => value
                .parse::<i64>()
                .is_ok_and(|number| (*least..=*most).contains(&number) && number.to_string() == value),
            Self::Choice(choices) => choices.iter().any(|choice| choice == value),
        };
        if is_valid {
            return Ok(());
        }
        Err(match self {
            Self::Text(pattern) => format!("must match {} and not begin with a dash", pattern.text),
            Self::Integer(least, most) => format!("must be a whole number, {least} to {most}"),
            Self::Choice(choices) => format!("must be one of {}", choices.join(", ")),
        })
    }
}

impl Parameters {
    /// Puts what is given in place, each value checked against its rule; each must be declared, and each that
    /// is declared must have a value.
    ///
    /// # Errors
    /// `invalid_parameters`, naming the first that is wrong.
    pub fn fill<'v>(
        &'v self,
        action: &str,
        given: &'v [(String, String)],
    ) -> Result<BTreeMap<&'v str, &'v str>, Refusal> {
        let refused = |detail: String| Refusal::new(RefusalCode::InvalidParameters, detail);
        if let Some((unknown, _)) = given.iter().find(|(name, _)| !self.0.contains_key(name)) {
            return Err(refused(format!("`{action}` has no parameter `{unknown}`")));
        }
        let mut values = BTreeMap::new();
        for (name, Parameter { rule, default, is_secret: _ }) in &self.0 {
            let value = match (given.iter().find(|(given, _)| given == name), default) {
                (Some((_, value)), _) => {
                    rule.check(value).map_err(|rule| refused(format!("parameter `{name}` {rule}")))?;
                    value
                }
                // It was checked when its file was read.
                (None, Some(default)) => default,
                (None, None) => return Err(refused(format!("parameter `{name}` is missing"))),
            };
            values.insert(name.as_str(), value.as_str());
        }
        Ok(values)
    }

    /// Each by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Parameter)> {
        self.0.iter().map(|(name, parameter)| (name.as_str(), parameter))
    }

    /// Whether there is one of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

impl FromIterator<(String, Parameter)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (String, Parameter)>>(parameters: I) -> Self {
        Self(parameters.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_holds_for_the_whole_value_whatever_it_says() {
        let _not_one = Pattern::new("a)|(b").unwrap_err();
        // Three words that stand for three hundred thousand parts.
        let large = "(?:a{0,1000}){300}";
        let _too_large = Pattern::of_stranger(large).unwrap_err();
        let _usual = Pattern::of_stranger("[A-Za-z0-9/_.-]{1,64}").unwrap();
        let either = ParameterRule::Text(Pattern::new("a|b").unwrap());
        assert_eq!(either.check("a"), Ok(()));
        for wrong in ["ab", "xa", "b\n", "-a", ""] {
            assert!(either.check(wrong).unwrap_err().contains("a|b"), "{wrong}");
        }
    }
}
