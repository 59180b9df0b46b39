//! Configuration: defaults < file < `WRIT_…` environment < flags, read into types that are only ever valid.
//!
//! A daemon reads its keys one by one through a [`Reader`]. Nothing stops at the first mistake: unknown keys,
//! wrong types and values outside their bounds are all reported together, each with what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Environment, File, FileFormat, Source as _, Value, ValueKind};

/// What `writ` reads from the environment, and what the page about grpcurl puts there, beside daemons that
/// are looked at from the same shell.
const OF_WRIT: [&str; 4] = ["server", "ca", "token_file", "token"];

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The dotted key; empty for the file as a whole.
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// All mistakes of one configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    file: PathBuf,
    problems: Vec<Problem>,
}

impl Problems {
    /// One problem, found after reading.
    #[must_use]
    pub fn one(file: &Path, key: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            problems: vec![Problem { key: key.to_owned(), message: message.into() }],
        }
    }
}

impl Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let noun = if count == 1 { "problem" } else { "problems" };
        write!(f, "{}: {count} {noun}", self.file.display())?;
        for Problem { key, message } in &self.problems {
            if key.is_empty() {
                write!(f, "\n  {message}")?;
            } else {
                write!(f, "\n  `{key}` {message}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Reads keys and remembers mistakes.
#[derive(Debug)]
pub struct Reader {
    file: PathBuf,
    values: BTreeMap<String, Value>,
    from_environment: BTreeSet<String>,
    asked: Vec<String>,
    problems: Vec<Problem>,
}

impl Reader {
    /// Loads a TOML file and the environment. Without a name the usual file is read if it is there.
    ///
    /// # Errors
    /// When the file is named but missing, or is not TOML.
    pub fn load(file: Option<&Path>, usual: &str) -> Result<Self, Problems> {
        let mut reader = match (file, Path::new(usual)) {
            (Some(file), _) => Self::file_only(file)?,
            // One that cannot be looked at is no reason to start with defaults.
            (None, usual) => match usual.try_exists() {
                Ok(true) => Self::file_only(usual)?,
                Ok(false) => Self::empty(Path::new("configuration")),
                Err(error) => return Err(Problems::one(usual, "", format!("cannot be read: {error}"))),
            },
        };
        let environment = Environment::with_prefix("WRIT").prefix_separator("_").separator("__");
        let table =
            environment.collect().map_err(|error| Problems::one(&reader.file, "", error.to_string()))?;
        let mut given = BTreeMap::new();
        flatten("", table, &mut given);
        given.retain(|key, _| !OF_WRIT.contains(&key.as_str()));
        reader.from_environment = given.keys().cloned().collect();
        reader.values.extend(given);
        Ok(reader)
    }

    /// Loads a TOML file and nothing else.
    ///
    /// # Errors
    /// When the file is missing or is not TOML.
    pub fn file_only(file: &Path) -> Result<Self, Problems> {
        let mut reader = Self::empty(file);
        let unreadable = |error: &dyn Display| Problems::one(file, "", format!("cannot be read: {error}"));
        let text = std::fs::read(file).map_err(|error| unreadable(&error))?;
        if text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]) {
            return Err(unreadable(&"it is UTF-16 text; save it as UTF-8"));
        }
        let text = String::from_utf8(text).map_err(|_| unreadable(&"it is not UTF-8 text"))?;
        // As some editors begin a file.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let table = File::from_str(text, FileFormat::Toml).collect().map_err(|error| unreadable(&error))?;
        flatten("", table, &mut reader.values);
        Ok(reader)
    }

    fn empty(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            values: BTreeMap::new(),
            from_environment: BTreeSet::new(),
            asked: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// The names of the tables directly below a table.
    #[must_use]
    pub fn names_below(&self, table: &str) -> BTreeSet<String> {
        let prefix = format!("{table}.");
        let below = self.values.keys().filter_map(|key| key.strip_prefix(&prefix)?.split_once('.'));
        below.map(|(name, _)| name.to_owned()).collect()
    }

    /// A flag's value, which beats file and environment.
    pub fn override_with(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.values.insert(key.to_owned(), Value::new(None, ValueKind::String(value.to_string())));
        }
    }

    /// A key there is, though this file gives no reason to ask for it.
    pub fn also_known(&mut self, key: String) {
        self.asked.push(key);
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.asked.push(key.to_owned());
        self.values.remove(key)
    }

    /// Notes a mistake found by the caller.
    pub fn problem(&mut self, key: &str, mut message: String) {
        if self.from_environment.contains(key) {
            let variable = key.replace('.', "__").to_uppercase();
            message = format!("{message} (from the environment: WRIT_{variable})");
        }
        self.problems.push(Problem { key: key.to_owned(), message });
    }

    fn text(&mut self, key: &str) -> Option<String> {
        let value = self.take(key)?;
        match value.kind {
            ValueKind::Table(_) | ValueKind::Array(_) => {
                self.problem(key, "must be a single value".to_owned());
                None
            }
            _ => value.into_string().ok(),
        }
    }

    fn parse<T>(&mut self, key: &str, default: T, rule: &str, parse: impl FnOnce(&str) -> Option<T>) -> T {
        let Some(text) = self.text(key) else {
            return default;
        };
        if let Some(value) = parse(text.trim()) {
            return value;
        }
        self.problem(
            key,
            format!("is `{text}`; it must be {rule}. Set it, or remove the line for the default"),
        );
        default
    }

    /// A duration with its unit, such as `"30s"`, within bounds.
    pub fn duration(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let shown = |duration: &Duration| humantime::format_duration(*duration).to_string();
        let rule = format!("a duration with a unit, {} to {}", shown(range.start()), shown(range.end()));
        self.parse(key, default, &rule, |text| {
            humantime::parse_duration(text).ok().filter(|duration| range.contains(duration))
        })
    }

    /// A whole number that may be negative, within bounds.
    pub fn integer(&mut self, key: &str, default: i64, range: RangeInclusive<i64>) -> i64 {
        let rule = format!("a whole number, {} to {}", range.start(), range.end());
        self.parse(key, default, &rule, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    /// A whole number within bounds.
    pub fn number(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let rule = format!("a whole number, {} to {}", range.start(), range.end());
        self.parse(key, default, &rule, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    /// `address:port`.
    pub fn socket(&mut self, key: &str, default: SocketAddr) -> SocketAddr {
        self.parse(key, default, "an address and a port, such as `0.0.0.0:7443` or `[::]:7443`", |text| {
            text.parse().ok()
        })
    }

    /// An absolute path: a daemon and who looks after it stand in different folders.
    pub fn path(&mut self, key: &str, default: &Path) -> PathBuf {
        self.parse(key, default.to_owned(), "an absolute path", |text| {
            Some(PathBuf::from(text)).filter(|path| path.is_absolute())
        })
    }

    /// A flag's path, which beats file and environment; a relative one is relative to where it was typed.
    pub fn override_path(&mut self, key: &str, path: Option<&Path>) {
        let path = path.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        if let Some(path) = path.as_deref().filter(|path| path.to_str().is_none()) {
            self.problem(key, not_text(path));
            return;
        }
        self.override_with(key, path.as_deref().map(Path::display));
    }

    /// One of a closed list of words.
    pub fn choice<T: Copy>(&mut self, key: &str, default: T, choices: &[(&str, T)]) -> T {
        let rule = format!(
            "one of {}",
            choices.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        );
        self.parse(key, default, &rule, |text| {
            choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
        })
    }

    /// A text that must be set.
    pub fn required(&mut self, key: &str, rule: &str, is_valid: impl FnOnce(&str) -> bool) -> String {
        let Some(text) = self.text(key) else {
            self.problem(key, format!("is missing; it must be {rule}"));
            return String::new();
        };
        if !is_valid(&text) {
            self.problem(key, format!("is `{text}`; it must be {rule}"));
        }
        text
    }

    /// Any text for which `is_valid` holds.
    pub fn string(
        &mut self,
        key: &str,
        default: &str,
        rule: &str,
        is_valid: impl FnOnce(&str) -> bool,
    ) -> String {
        self.parse(key, default.to_owned(), rule, |text| is_valid(text).then(|| text.to_owned()))
    }

    /// A list of texts; in the environment separated by commas.
    pub fn strings(&mut self, key: &str, rule: &str, is_valid: impl Fn(&str) -> bool) -> Vec<String> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let parts: Vec<String> = match value.kind {
            ValueKind::Array(values) => {
                let texts: Result<_, _> = values.into_iter().map(Value::into_string).collect();
                texts.unwrap_or_else(|_| {
                    self.problem(key, format!("holds a list or a table; each must be {rule}"));
                    Vec::new()
                })
            }
            ValueKind::String(text) => text.split(',').map(|part| part.trim().to_owned()).collect(),
            _ => vec![String::new()],
        };
        for part in parts.iter().filter(|part| !is_valid(part)) {
            self.problem(key, format!("holds `{part}`; each must be {rule}"));
        }
        parts
    }

    /// Ends reading: keys nobody asked for are mistakes too. One that resembles no key is told with all keys
    /// there are, once.
    ///
    /// # Errors
    /// All mistakes.
    pub fn finish<T>(mut self, config: T) -> Result<T, Problems> {
        let mut are_listed = false;
        for key in std::mem::take(&mut self.values).into_keys() {
            let nearest = self
                .asked
                .iter()
                .map(|known| (strsim::damerau_levenshtein(known, &key), known))
                .min()
                .filter(|(distance, known)| *distance <= known.len() / 2);
            let hint = match nearest {
                Some((_, known)) => format!("; did you mean `{known}`?"),
                None if std::mem::replace(&mut are_listed, true) => String::new(),
                None => {
                    let all: BTreeSet<_> = self.asked.iter().map(|key| format!("`{key}`")).collect();
                    format!("; the keys are {}", all.into_iter().collect::<Vec<_>>().join(", "))
                }
            };
            self.problem(&key, format!("is not a known key{hint}"));
        }
        if self.problems.is_empty() {
            Ok(config)
        } else {
            Err(Problems { file: self.file, problems: self.problems })
        }
    }
}

/// What to say of a path that is not UTF-8: databases and configuration files hold paths as text.
#[must_use]
pub fn not_text(path: &Path) -> String {
    format!("is `{}`, which is not UTF-8 text; name another folder", path.display())
}

fn flatten(prefix: &str, table: config::Map<String, Value>, into: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value.kind {
            ValueKind::Table(inner) => flatten(&key, inner, into),
            _ => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(text: &str) -> Reader {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.toml");
        std::fs::write(&path, text).unwrap();
        Reader::load(Some(&path), "").unwrap()
    }

    #[test]
    fn every_mistake_is_named_at_once_with_its_cure() {
        let mut reader = reader(
            "[session]\noutbox = 0\nheartbeet = \"5s\"\nheartbeat = \"5\"\n[listen]\nadmin = \"here\"\n",
        );
        let second = Duration::from_secs(1);
        let outbox = reader.number("session.outbox", 256, 1..=65_536);
        let heartbeat = reader.duration("session.heartbeat", second * 30, second..=second * 3600);
        let admin = reader.socket("listen.admin", "127.0.0.1:7444".parse().unwrap());
        let problems = reader.finish((outbox, heartbeat, admin)).unwrap_err().to_string();
        assert!(problems.contains("4 problems"), "{problems}");
        assert!(
            problems.contains("`session.outbox` is `0`; it must be a whole number, 1 to 65536"),
            "{problems}"
        );
        assert!(
            problems.contains("`session.heartbeet` is not a known key; did you mean `session.heartbeat`?"),
            "{problems}"
        );
        assert!(
            problems.contains("`session.heartbeat` is `5`; it must be a duration with a unit, 1s to 1h"),
            "{problems}"
        );
        assert!(problems.contains("`listen.admin` is `here`"), "{problems}");
    }

    #[test]
    fn a_list_that_holds_no_texts_is_a_mistake_and_not_an_empty_list() {
        for wrong in ["[[\"settings\"]]", "[{ name = \"settings\" }]"] {
            let mut reader = reader(&format!("deny = {wrong}\n"));
            assert!(reader.strings("deny", "a name", |_| true).is_empty());
            let problems = reader.finish(()).unwrap_err().to_string();
            assert!(problems.contains("`deny` holds a list or a table; each must be a name"), "{problems}");
        }
    }

    #[test]
    fn the_keys_are_listed_once_when_none_is_near() {
        let mut reader = reader("[session]\nheartbeat = \"5s\"\n[zzzzzzzz]\nzzzzzzz = 1\nyyyyyyy = 1\n");
        let second = Duration::from_secs(1);
        let _ = reader.duration("session.heartbeat", second, second..=second * 60);
        let _ = reader.string("log.filter", "info", "a filter", |_| true);
        let problems = reader.finish(()).unwrap_err().to_string();
        let told = "`zzzzzzzz.yyyyyyy` is not a known key; the keys are `log.filter`, `session.heartbeat`\n  \
                    `zzzzzzzz.zzzzzzz` is not a known key";
        assert!(problems.ends_with(told), "{problems}");
    }

    #[test]
    fn defaults_stand_where_nothing_is_said_and_flags_beat_files() {
        let mut reader = reader("outbox = 7\n");
        reader.override_with("outbox", Some(9));
        assert_eq!(reader.number("outbox", 256, 1..=65_536), 9);
        assert_eq!(reader.number("other", 256, 1..=65_536), 256);
        reader.finish(()).unwrap();
    }
}
