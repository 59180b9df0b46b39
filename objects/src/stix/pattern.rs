//! Patterns of STIX 2.1, section 9.
//!
//! ```text
//! observations = observation { ("AND" | "OR" | "FOLLOWEDBY") observation }
//! observation  = ("[" comparisons "]" | "(" observations ")") { qualifier }
//! comparisons  = comparison { ("AND" | "OR") comparison }
//! comparison   = path ["NOT"] operator constant | "(" comparisons ")" | "EXISTS" path
//! ```
//!
//! AND binds closer than OR, and OR closer than FOLLOWEDBY.

use std::fmt;

use crate::ObjectType;

/// Bytes of a pattern.
const MAX_BYTES: usize = 256 << 10;
/// Brackets within brackets.
const MAX_DEPTH: u32 = 32;
/// Values of one pattern.
const MAX_VALUES: usize = 10_000;

/// A pattern, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Expression);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    /// A value that is seen.
    Value(ObjectType, String),
    /// Something that is no value of an object; what.
    Other(String),
    /// Such a thing that is about the content of a file.
    Content(String),
    /// All of them, of one observation.
    All(Vec<Expression>),
    /// One of them.
    Any(Vec<Expression>),
}

/// What of a pattern is bad by itself, and what is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Alone {
    pub(super) values: Vec<(ObjectType, String)>,
    pub(super) left: Vec<String>,
    more: usize,
}

impl Pattern {
    /// Takes a pattern apart.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("it has {} bytes, and {MAX_BYTES} are read", text.len()));
        }
        let tokens = tokens(text)?;
        let mut parser = Parser { tokens: &tokens, at: 0, depth: 0 };
        let expression = parser.observations()?;
        if let Some(token) = parser.peek() {
            return Err(format!("{token} stands where it should end"));
        }
        Ok(Self(expression))
    }

    /// What of it is bad by itself.
    pub(super) fn alone(self) -> Alone {
        let mut alone = Alone::default();
        collect(self.0, &mut alone);
        if alone.more > 0 {
            alone.left.push(format!("and {} more", alone.more));
        }
        if alone.values.len() > MAX_VALUES {
            let text = format!("it names {} values, and {MAX_VALUES} are taken", alone.values.len());
            return Alone { left: vec![text], ..Alone::default() };
        }
        alone
    }
}

/// Reasons that are told of one pattern; more are only counted.
const MAX_TOLD: usize = 10;

fn collect(expression: Expression, alone: &mut Alone) {
    match expression {
        Expression::Value(kind, value) => alone.values.push((kind, value)),
        Expression::Other(what) | Expression::Content(what) => {
            if alone.left.len() < MAX_TOLD {
                alone.left.push(what);
            } else {
                alone.more += 1;
            }
        }
        Expression::Any(all) => all.into_iter().for_each(|one| collect(one, alone)),
        Expression::All(all) => {
            // A SHA-256 says all of a file's content: what else is said of the content changes nothing.
            // What is said of its name or place does: a good program may be bad there.
            let is_content = |one: &Expression| {
                matches!(
                    one,
                    Expression::Value(ObjectType::Sha256 | ObjectType::Sha1, _) | Expression::Content(_)
                )
            };
            let is_about_content = all.iter().all(is_content);
            let is_whole = |one: &Expression| matches!(one, Expression::Value(ObjectType::Sha256, _));
            match all.into_iter().find(is_whole).filter(|_| is_about_content) {
                Some(content) => collect(content, alone),
                None => {
                    collect(Expression::Other("its values are bad only together (AND)".to_owned()), alone)
                }
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, quote) = match self {
            Self::Word(text) => (text.clone(), ""),
            Self::Text(text) => (text.clone(), "'"),
            Self::Sign(sign) => (sign.to_string(), ""),
        };
        let short: String = text.chars().filter(|c| !c.is_control()).take(40).collect();
        write!(f, "`{quote}{short}{quote}`")
    }
}

/// Words, texts in quotes, and signs.
fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(&first) = rest.peek() {
        if first.is_whitespace() {
            let _ = rest.next();
        } else if first == '\'' || first == '"' {
            let _ = rest.next();
            let mut value = String::new();
            loop {
                match rest.next() {
                    Some('\\') => value.push(rest.next().ok_or("a text is not closed")?),
                    Some(end) if end == first => break,
                    Some(other) => value.push(other),
                    None => return Err("a text is not closed".to_owned()),
                }
            }
            tokens.push(Token::Text(value));
        } else if is_of_word(first) {
            let mut word = String::new();
            while let Some(next) = rest.next_if(|next| is_of_word(*next)) {
                word.push(next);
            }
            tokens.push(Token::Word(word));
        } else {
            let _ = rest.next();
            tokens.push(Token::Sign(first));
        }
    }
    Ok(tokens)
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | ':' | '.' | '*' | '+')
}

struct Parser<'t> {
    tokens: &'t [Token],
    at: usize,
    depth: u32,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Result<Token, String> {
        let token = self.peek().cloned().ok_or("it ends in the middle")?;
        self.at += 1;
        Ok(token)
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let is_it = matches!(self.peek(), Some(Token::Word(found)) if found.eq_ignore_ascii_case(word));
        self.at += usize::from(is_it);
        is_it
    }

    fn takes_sign(&mut self, sign: char) -> bool {
        let is_it = self.peek() == Some(&Token::Sign(sign));
        self.at += usize::from(is_it);
        is_it
    }

    fn needs_sign(&mut self, sign: char) -> Result<(), String> {
        if self.takes_sign(sign) {
            return Ok(());
        }
        let found = self.peek().map_or_else(|| "nothing".to_owned(), ToString::to_string);
        Err(format!("{found} stands where `{sign}` should"))
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("it has more than {MAX_DEPTH} brackets within brackets"));
        }
        let found = read(self);
        self.depth -= 1;
        found
    }

    fn observations(&mut self) -> Result<Expression, String> {
        let mut followed = vec![self.any_observation()?];
        while self.takes_word("FOLLOWEDBY") {
            followed.push(self.any_observation()?);
        }
        Ok(match followed.len() {
            1 => followed.remove(0),
            _ => Expression::Other("its values are bad only one after the other (FOLLOWEDBY)".to_owned()),
        })
    }

    fn any_observation(&mut self) -> Result<Expression, String> {
        let mut any = vec![self.all_observations()?];
        while self.takes_word("OR") {
            any.push(self.all_observations()?);
        }
        Ok(one_or(any, Expression::Any))
    }

    fn all_observations(&mut self) -> Result<Expression, String> {
        let mut all = vec![self.observation()?];
        while self.takes_word("AND") {
            all.push(self.observation()?);
        }
        Ok(match all.len() {
            1 => all.remove(0),
            // Of several observations, which are of several things: not even a SHA-256 says it all.
            _ => Expression::Other("its values are bad only together (AND of observations)".to_owned()),
        })
    }

    fn observation(&mut self) -> Result<Expression, String> {
        let mut found = if self.takes_sign('(') {
            let found = self.deeper(Self::observations)?;
            self.needs_sign(')')?;
            found
        } else {
            self.needs_sign('[')?;
            let found = self.deeper(Self::comparisons)?;
            self.needs_sign(']')?;
            found
        };
        // Whatever they say: something has to be seen within, or more than once.
        while let Some(Token::Word(word)) = self.peek().cloned() {
            let names = ["WITHIN", "REPEATS", "START", "STOP", "SECONDS", "TIMES"];
            if !names.iter().any(|name| word.eq_ignore_ascii_case(name)) {
                break;
            }
            self.at += 1;
            while matches!(self.peek(), Some(Token::Text(_)))
                || matches!(self.peek(), Some(Token::Word(word)) if word.starts_with(|c: char| c.is_ascii_digit()) || word == "t")
            {
                self.at += 1;
            }
            found =
                Expression::Other("its values are bad only in some time, or seen several times".to_owned());
        }
        Ok(found)
    }

    fn comparisons(&mut self) -> Result<Expression, String> {
        let mut any = vec![self.all_comparisons()?];
        while self.takes_word("OR") {
            any.push(self.all_comparisons()?);
        }
        Ok(one_or(any, Expression::Any))
    }

    fn all_comparisons(&mut self) -> Result<Expression, String> {
        let mut all = vec![self.comparison()?];
        while self.takes_word("AND") {
            all.push(self.comparison()?);
        }
        Ok(one_or(all, Expression::All))
    }

    fn comparison(&mut self) -> Result<Expression, String> {
        if self.takes_sign('(') {
            let found = self.deeper(Self::comparisons)?;
            self.needs_sign(')')?;
            return Ok(found);
        }
        if self.takes_word("EXISTS") {
            let path = self.path()?;
            let path = short(&path);
            return Ok(Expression::Other(format!("that `{path}` is there says nothing about its value")));
        }
        let path = self.path()?;
        let is_not = self.takes_word("NOT");
        let operator = self.operator()?;
        let constants = self.constants()?;
        if is_not || !matches!(operator.as_str(), "=" | "IN" | "ISSUBSET") {
            let not = if is_not { "NOT " } else { "" };
            return Ok(Expression::Other(format!(
                "`{} {not}{}` names no value",
                short(&path),
                short(&operator)
            )));
        }
        let read = |value: String| value_of(&path, &operator, value);
        Ok(one_or(constants.into_iter().map(read).collect(), Expression::Any))
    }

    /// A property: words, texts and indexes, such as `file:hashes.'SHA-256'`.
    fn path(&mut self) -> Result<String, String> {
        let Token::Word(mut path) = self.next()? else {
            return Err("a property should stand where something else does".to_owned());
        };
        loop {
            match self.peek() {
                Some(Token::Text(part)) if path.ends_with('.') => path.push_str(&part.clone()),
                Some(Token::Word(part)) if part.starts_with('.') => path.push_str(&part.clone()),
                Some(Token::Sign('[')) => {
                    self.at += 1;
                    let Token::Word(index) = self.next()? else {
                        return Err("an index should stand in brackets".to_owned());
                    };
                    self.needs_sign(']')?;
                    path.push_str(&format!("[{index}]"));
                    continue;
                }
                _ => return Ok(path),
            }
            self.at += 1;
        }
    }

    fn operator(&mut self) -> Result<String, String> {
        match self.next()? {
            Token::Word(word) => Ok(word.to_ascii_uppercase()),
            Token::Sign(sign @ ('=' | '!' | '<' | '>')) => {
                let more = self.takes_sign('=') || (sign == '<' && self.takes_sign('>'));
                Ok(if sign == '=' {
                    "=".to_owned()
                } else {
                    format!("{sign}{}", if more { "=" } else { "" })
                })
            }
            other => Err(format!("{other} is no operator")),
        }
    }

    fn constants(&mut self) -> Result<Vec<String>, String> {
        if !self.takes_sign('(') {
            return Ok(vec![self.constant()?]);
        }
        let mut all = vec![self.constant()?];
        while self.takes_sign(',') {
            all.push(self.constant()?);
        }
        self.needs_sign(')')?;
        Ok(all)
    }

    /// A text, a number, or a text of a kind such as `h'00ff'` and `t'2026-…'`.
    fn constant(&mut self) -> Result<String, String> {
        match self.next()? {
            Token::Text(text) => Ok(text),
            Token::Word(word) => match self.peek() {
                Some(Token::Text(text)) if word.len() == 1 => {
                    let text = text.clone();
                    self.at += 1;
                    Ok(text)
                }
                _ => Ok(word),
            },
            Token::Sign(sign) => Err(format!("`{sign}` is no value")),
        }
    }
}

/// What somebody else wrote, no more of it than helps.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn one_or(mut all: Vec<Expression>, of: impl FnOnce(Vec<Expression>) -> Expression) -> Expression {
    if all.len() == 1 { all.remove(0) } else { of(all) }
}

/// What a comparison of a property with a value says.
fn value_of(path: &str, operator: &str, value: String) -> Expression {
    let hash = |name: &str| name.to_ascii_uppercase().replace('-', "");
    let kind = match path.split_once(':') {
        Some(("file", property)) => match property.strip_prefix("hashes.").map(hash).as_deref() {
            Some("SHA256") => Some(ObjectType::Sha256),
            Some("SHA1") => Some(ObjectType::Sha1),
            _ => None,
        },
        Some(("domain-name", "value")) => Some(ObjectType::Domain),
        Some(("url", "value")) => Some(ObjectType::Url),
        Some(("ipv4-addr" | "ipv6-addr", "value")) if value.contains('/') => Some(ObjectType::Cidr),
        Some(("ipv4-addr" | "ipv6-addr", "value")) => Some(ObjectType::Ip),
        _ => None,
    };
    match kind {
        Some(ObjectType::Cidr | ObjectType::Ip) => {
            // A network of one address is that address.
            let whole = [("/32", '.'), ("/128", ':')];
            let one = whole
                .iter()
                .find_map(|(end, sign)| value.strip_suffix(end).filter(|base| base.contains(*sign)));
            match one {
                Some(base) => Expression::Value(ObjectType::Ip, base.to_owned()),
                None => Expression::Value(kind.unwrap_or(ObjectType::Ip), value),
            }
        }
        Some(kind) if operator != "ISSUBSET" => Expression::Value(kind, value),
        Some(_) | None => {
            let text = format!("`{}` is of no type that is looked for", short(path));
            let is_content = path == "file:size" || path.starts_with("file:hashes.");
            match is_content && operator == "=" {
                true => Expression::Content(text),
                false => Expression::Other(text),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(text: &str) -> Alone {
        Pattern::parse(text).unwrap_or_else(|why| panic!("{text}: {why}")).alone()
    }

    #[test]
    fn what_is_bad_by_itself_is_taken() {
        use ObjectType::{Cidr, Domain, Ip, Sha1, Sha256, Url};
        for (text, values) in [
            ("[file:hashes.'SHA-256' = 'aa']", vec![(Sha256, "aa")]),
            ("[file:hashes.\"SHA-256\"='aa' OR file:hashes.SHA1 = 'bb']", vec![(Sha256, "aa"), (Sha1, "bb")]),
            ("[file:hashes.SHA256 IN ('aa','bb')]", vec![(Sha256, "aa"), (Sha256, "bb")]),
            (
                "[file:hashes.MD5 = 'cc' AND file:hashes.'SHA-256' = 'aa' AND file:size = 7]",
                vec![(Sha256, "aa")],
            ),
            (
                "[ipv4-addr:value = '198.51.100.1/32' OR ipv4-addr:value = '203.0.113.33'] OR [ipv6-addr:value ISSUBSET '2001:db8::/32']",
                vec![(Ip, "198.51.100.1"), (Ip, "203.0.113.33"), (Cidr, "2001:db8::/32")],
            ),
            (
                "([domain-name:value = 'a.example'] OR [url:value = 'http://a/it\\'s'])",
                vec![(Domain, "a.example"), (Url, "http://a/it's")],
            ),
            ("[ (domain-name:value = 'a.example') ]", vec![(Domain, "a.example")]),
        ] {
            let found = alone(text);
            let expected: Vec<_> = values.into_iter().map(|(kind, value)| (kind, value.to_owned())).collect();
            assert_eq!((found.values, found.left), (expected, Vec::new()), "{text}");
        }
    }

    #[test]
    fn what_is_not_is_told() {
        for (text, why) in [
            ("[domain-name:value = 'a.example' AND ipv4-addr:value = '192.0.2.1']", "only together (AND)"),
            ("[file:hashes.'SHA-256' = 'aa' AND file:name = 'a.exe']", "only together (AND)"),
            ("[file:hashes.'SHA-256' = 'aa' AND file:name != 'good.exe']", "only together (AND)"),
            ("[file:hashes.'SHA-256' = 'aa' AND file:size > 7]", "only together (AND)"),
            ("[file:hashes.'SHA-256' = 'aa'] AND [url:value = 'http://a/']", "AND of observations"),
            ("[file:hashes.'SHA-256' = 'aa'] FOLLOWEDBY [url:value = 'http://a/']", "FOLLOWEDBY"),
            ("[url:value = 'http://a/'] REPEATS 5 TIMES WITHIN 1800 SECONDS", "seen several times"),
            (
                "[url:value = 'http://a/'] START t'2026-01-01T00:00:00Z' STOP t'2026-02-01T00:00:00Z'",
                "some time",
            ),
            ("[file:hashes.MD5 = 'cc']", "`file:hashes.MD5` is of no type"),
            ("[file:name = 'a.exe']", "`file:name` is of no type"),
            ("[url:value LIKE 'http://%']", "`url:value LIKE` names no value"),
            ("[domain-name:value != 'a.example']", "`domain-name:value !=` names no value"),
            ("[domain-name:value NOT = 'a.example']", "NOT =` names no value"),
            ("[EXISTS windows-registry-key:values]", "says nothing about its value"),
            ("[process:arguments[0] = 'x']", "`process:arguments[0]` is of no type"),
            ("[network-traffic:dst_ref.value = '192.0.2.1']", "is of no type"),
        ] {
            let found = alone(text);
            assert!(found.values.is_empty(), "{text}: {found:?}");
            assert!(found.left.iter().any(|left| left.contains(why)), "{text}: {found:?}");
        }
        let many = format!("[{} IN ({})]", "p".repeat(4000), vec!["1"; 2000].join(","));
        let found = alone(&many);
        assert_eq!((found.left.len(), found.left[10].as_str()), (11, "and 1990 more"));
        assert!(found.left.iter().all(|left| left.len() < 200));
        // What stands beside it is taken all the same.
        let found = alone("[file:hashes.MD5 = 'cc' OR file:hashes.SHA1 = 'bb']");
        assert_eq!((found.values.len(), found.left.len()), (1, 1));
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "nothing stands where `[` should"),
            ("[", "it ends in the middle"),
            ("[url:value = 'a'", "nothing stands where `]` should"),
            ("[url:value = 'a", "a text is not closed"),
            ("[url:value = 'a'] x", "stands where it should end"),
            ("url:value = 'a'", "stands where `[` should"),
            ("[url:value ~ 'a']", "is no operator"),
            ("[url:value = ]", "`]` is no value"),
        ] {
            let said = Pattern::parse(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
        let deep = format!("{}[url:value = 'a']{}", "(".repeat(40), ")".repeat(40));
        assert!(Pattern::parse(&deep).unwrap_err().contains("brackets within brackets"));
        assert!(Pattern::parse(&"a".repeat(MAX_BYTES + 1)).unwrap_err().contains("bytes"));
    }
}
