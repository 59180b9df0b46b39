//! One entry of `actions.d`: an absolute program, a fixed argument template, typed parameters, limits.
//!
//! ```toml
//! program = "/usr/bin/systemctl"
//! arguments = ["restart", "--", "{unit}"]
//! class = "change"
//! timeout = "30s"
//!
//! [parameters.unit]
//! type = "choice"
//! choices = ["nginx.service", "squid.service"]
//! ```

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::whose::others_may_change;
use writ_common::config::{Problems, Reader};
use writ_common::users::{self, User};
use writ_protocol::command::{ActionClass, OWN_ACTIONS, is_action_name};
use writ_protocol::id::Digest;
use writ_protocol::limits::{MAX_OUTPUT_BYTES, MAX_PARAMETER_BYTES};
use writ_protocol::refusal::Refusal;
use writ_protocol::schema::{ActionSchema, Parameter, ParameterRule, Parameters, Pattern};

/// Programs that would run whatever a parameter says.
const SHELLS: &[&str] =
    &["ash", "bash", "busybox", "csh", "dash", "env", "fish", "ksh", "rbash", "sh", "tcsh", "zsh"];

/// An action this host's owner allows.
#[derive(Debug)]
pub(crate) struct Definition {
    /// What commands call it.
    pub name: String,
    /// How harmful it is; unlabelled is destructive.
    pub class: ActionClass,
    /// Its time-out, its parameters, and whether it may be started again after a crash.
    pub schema: ActionSchema,
    pub program: PathBuf,
    arguments: Vec<Vec<Part>>,
    working_directory: PathBuf,
    max_output: usize,
    user: Option<User>,
    /// Whose agent this is: what only root and this user may change is trusted.
    uid: u32,
}

/// A definition with values in place: what is spawned, exactly.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// Absolute.
    pub program: PathBuf,
    /// As they will be in argv.
    pub arguments: Vec<String>,
    /// Absolute.
    pub working_directory: PathBuf,
    /// Then it is killed.
    pub timeout: Duration,
    /// Bytes of output kept.
    pub max_output: usize,
    /// Who it runs as; the agent's own user unless given.
    pub user: Option<User>,
    /// Whose agent looked at it.
    pub uid: u32,
    /// What it finds in its environment.
    pub secrets: Secrets,
}

/// Values of secret parameters by the names of their variables.
#[derive(Default)]
pub(crate) struct Secrets(pub Vec<(String, String)>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// The variable in which a program finds a secret parameter.
fn variable_of(parameter: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("WRIT_PARAMETER_{}", parameter.chars().map(letter).collect::<String>())
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(String),
}

impl Definition {
    /// Reads one file, whose content has this digest.
    ///
    /// # Errors
    /// All its mistakes.
    pub(crate) fn load(path: &Path, content: Digest, uid: u32) -> Result<Self, Problems> {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(fault) = others_may_change(path, uid) {
            return Err(Problems::one(path, "", fault));
        }
        let mut reader = Reader::file_only(path)?;
        let second = Duration::from_secs(1);
        let own = OWN_ACTIONS.map(|(name, _)| format!("`{name}`")).join(", ");
        let rule = &format!("1 to 128 of a-z, 0-9, `-`, `_` and `.`, and none of {own}");
        let name = reader.string("name", "", rule, is_action_name);
        // A file's name is held to the rule of names, too.
        let name = match name.as_str() {
            "" if is_action_name(&stem) => stem,
            "" => {
                let text = format!(
                    "is not set, and the file's name `{stem}` cannot be one: it must be {rule}. Rename the file, or set it"
                );
                reader.problem("name", text);
                stem
            }
            _ => name,
        };
        let program =
            PathBuf::from(reader.required("program", "an absolute path", |text| text.starts_with('/')));
        check_program(&mut reader, &program, uid);
        let templates = reader.strings("arguments", "text", |_| true);
        let parameters = read_parameters(&mut reader);
        let mut arguments = Vec::with_capacity(templates.len());
        for template in &templates {
            match parse_template(template) {
                Ok(parts) => arguments.push(parts),
                Err(why) => reader.problem("arguments", format!("holds `{template}`: {why}")),
            }
        }
        let used: Vec<_> = arguments.iter().flatten().filter_map(Part::value).collect();
        for unknown in used.iter().filter(|name| !parameters.has(name)) {
            reader.problem("arguments", format!("uses {{{unknown}}}, which is not under [parameters]"));
        }
        for (shown, _) in parameters.iter().filter(|(name, one)| one.is_secret && used.contains(name)) {
            let text = format!(
                "uses {{{shown}}}, which is secret: all processes of a host see arguments. The program finds it in the variable {}",
                variable_of(shown)
            );
            reader.problem("arguments", text);
        }
        let is_unused = |name: &str, one: &Parameter| !one.is_secret && !used.contains(&name);
        for (unused, _) in parameters.iter().filter(|(name, one)| is_unused(name, one)) {
            reader.problem(&format!("parameters.{unused}"), "is not used in `arguments`".to_owned());
        }
        let working_directory =
            reader.string("working_directory", "/", "an absolute path", |text| text.starts_with('/'));
        let user = reader.string("user", "", "the name of a user", |_| true);
        let user = check_user(&mut reader, &user, uid);
        let definition = Self {
            name,
            user,
            uid,
            program,
            arguments,
            working_directory: working_directory.into(),
            class: reader.choice(
                "class",
                ActionClass::Destructive,
                &[
                    ("read", ActionClass::Read),
                    ("change", ActionClass::Change),
                    ("destructive", ActionClass::Destructive),
                ],
            ),
            max_output: usize::try_from(reader.number("max_output", 65_536, 0..=262_144))
                .unwrap_or(MAX_OUTPUT_BYTES),
            schema: ActionSchema {
                timeout: reader.duration("timeout", second * 60, second..=second * 86_400),
                is_idempotent: reader.choice("idempotent", false, &[("true", true), ("false", false)]),
                parameters,
                definition: content,
            },
        };
        reader.finish(definition)
    }

    /// Puts values in place, each checked against its type; every parameter must be declared.
    ///
    /// # Errors
    /// `invalid_parameters`, naming the first that is wrong.
    pub(crate) fn invoke(&self, given: &[(String, String)]) -> Result<Invocation, Refusal> {
        let values = self.schema.parameters.fill(&self.name, given)?;
        let fill = |parts: &Vec<Part>| {
            parts
                .iter()
                .map(|part| match part {
                    Part::Text(text) => text.as_str(),
                    Part::Value(name) => values.get(name.as_str()).copied().unwrap_or_default(),
                })
                .collect()
        };
        let is_secret = |(_, parameter): &(&str, &Parameter)| parameter.is_secret;
        let secrets = self
            .schema
            .parameters
            .iter()
            .filter(is_secret)
            .filter_map(|(name, _)| Some((variable_of(name), (*values.get(name)?).to_owned())));
        Ok(Invocation {
            program: self.program.clone(),
            arguments: self.arguments.iter().map(fill).collect(),
            working_directory: self.working_directory.clone(),
            timeout: self.schema.timeout,
            max_output: self.max_output,
            user: self.user.clone(),
            uid: self.uid,
            secrets: Secrets(secrets.collect()),
        })
    }
}

impl Part {
    fn value(&self) -> Option<&str> {
        match self {
            Self::Value(name) => Some(name),
            Self::Text(_) => None,
        }
    }
}

/// The program that the kernel starts for a script: the one its first line names.
pub(crate) fn interpreter(program: &Path) -> Option<PathBuf> {
    let mut first = [0; 256];
    let read = std::fs::File::open(program).and_then(|mut file| file.read(&mut first)).ok()?;
    let line = first.get(..read)?.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line).into_owned();
    line.trim().split([' ', '\t']).next().filter(|name| name.starts_with('/')).map(PathBuf::from)
}

/// Who but root and this user could change what runs when this program is started, and what mends that.
pub(crate) fn others_may_change_what_runs(program: &Path, uid: u32) -> Option<String> {
    others_may_change(program, uid).or_else(|| {
        let fault = others_may_change(&interpreter(program)?, uid)?;
        Some(format!("its first line names a program, and {fault}"))
    })
}

fn check_program(reader: &mut Reader, program: &Path, uid: u32) {
    if !program.is_absolute() {
        return;
    }
    // A link is judged by what it leads to: /bin/sh is a link on most systems.
    let real = program.canonicalize().unwrap_or_else(|_| program.to_owned());
    let is_shell = [program, real.as_path()]
        .iter()
        .filter_map(|path| path.file_name())
        .any(|name| SHELLS.iter().any(|shell| name == *shell));
    if is_shell {
        let text = format!("is `{}`, a shell; name a script with a #! line instead", program.display());
        reader.problem("program", text);
        return;
    }
    match std::fs::metadata(program) {
        Err(error) => reader.problem("program", format!("is `{}`: {error}", program.display())),
        Ok(file) if !file.is_file() || file.permissions().mode() & 0o111 == 0 => {
            reader.problem("program", format!("is `{}`, which is not an executable file", program.display()));
        }
        Ok(_) => {
            if let Some(fault) = others_may_change_what_runs(program, uid) {
                reader.problem("program", format!("is `{}`: {fault}", program.display()));
            }
        }
    }
}

/// What keeps the kernel from starting a program although the file is there: how it begins (execve(2)). The C
/// library would hand a file that the kernel does not know to a shell, so this is asked before each start.
pub(crate) fn script_fault(program: &Path) -> Option<String> {
    let mut first = [0; 256];
    let read = std::fs::File::open(program).and_then(|mut file| file.read(&mut first)).ok()?;
    let (first, shown) = (first.get(..read)?, program.display());
    if first.starts_with(b"\x7fELF") {
        return None;
    }
    if first.starts_with("\u{feff}#!".as_bytes()) {
        return Some(format!(
            "{shown}: a byte order mark stands before its first line, so the kernel does not start it; take it away: sed -i '1s/^\\xEF\\xBB\\xBF//' {shown}"
        ));
    }
    let Some(line) = first.strip_prefix(b"#!") else {
        return Some(format!(
            "{shown}: it is neither an ELF program nor a script whose first line names its interpreter, so the kernel does not start it; if it is a script: sed -i '1i #!/bin/sh' {shown}"
        ));
    };
    let line = line.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line).into_owned();
    if line.ends_with('\r') {
        return Some(format!(
            "{shown}: its lines end with CR and LF, so the kernel looks for an interpreter whose name ends with CR; write it with LF alone: sed -i 's/\\r$//' {shown}"
        ));
    }
    let interpreter = line.trim().split([' ', '\t']).next().filter(|name| !name.is_empty())?.to_owned();
    (interpreter.starts_with('/') && !Path::new(&interpreter).exists())
        .then(|| format!("{shown}: its first line names {interpreter}, which is not there"))
}

/// Only root may start a program as somebody else; an agent that could not is told when it starts, not when
/// it is commanded.
fn check_user(reader: &mut Reader, name: &str, own: u32) -> Option<User> {
    if name.is_empty() {
        return None;
    }
    let Some(user) = users::by_name(name) else {
        reader.problem("user", format!("is `{name}`, whom /etc/passwd does not list"));
        return None;
    };
    if user.uid == own {
        return None;
    }
    if own != 0 {
        let text = format!(
            "is `{name}`, but this agent runs as {} and cannot start programs as others; leave it out, or let the agent run privileged (docs/operations.md)",
            users::name_of(own)
        );
        reader.problem("user", text);
    }
    Some(user)
}

fn read_parameters(reader: &mut Reader) -> Parameters {
    for leaf in ["type", "pattern", "least", "most", "choices", "default", "secret"] {
        reader.also_known(format!("parameters.NAME.{leaf}"));
    }
    let mut parameters = Vec::new();
    for name in reader.names_below("parameters") {
        let key = |leaf: &str| format!("parameters.{name}.{leaf}");
        let declared = reader.required(&key("type"), "`text`, `integer` or `choice`", |text| {
            matches!(text, "text" | "integer" | "choice")
        });
        let rule = match declared.as_str() {
            "text" => {
                let pattern =
                    reader.required(&key("pattern"), "a regular expression for the whole value", |_| true);
                match Pattern::new(&pattern) {
                    Ok(pattern) => ParameterRule::Text(pattern),
                    Err(error) => {
                        reader.problem(&key("pattern"), format!("is no regular expression: {error}"));
                        continue;
                    }
                }
            }
            "integer" => {
                let least = reader.integer(&key("least"), 0, i64::MIN..=i64::MAX);
                ParameterRule::Integer(least, reader.integer(&key("most"), i64::MAX, least..=i64::MAX))
            }
            "choice" => {
                let choices =
                    reader.strings(&key("choices"), "a text", |text| text.len() <= MAX_PARAMETER_BYTES);
                if choices.is_empty() {
                    reader.problem(&key("choices"), "is missing; list what may be chosen".to_owned());
                }
                ParameterRule::Choice(choices)
            }
            _ => continue,
        };
        let default = reader
            .string(&key("default"), "", "a value of the declared type", |text| rule.check(text).is_ok());
        let default = (!default.is_empty()).then_some(default);
        let is_secret = reader.choice(&key("secret"), false, &[("true", true), ("false", false)]);
        if is_secret && default.is_some() {
            reader.problem(
                &key("default"),
                "stands beside `secret`: what stands in a file is no secret".to_owned(),
            );
        }
        let is_taken =
            |(other, one): &(String, Parameter)| one.is_secret && variable_of(other) == variable_of(&name);
        if is_secret && parameters.iter().any(is_taken) {
            let text = format!("has the variable {}, as another secret parameter has", variable_of(&name));
            reader.problem(&key("secret"), text);
        }
        parameters.push((name, Parameter { rule, default, is_secret }));
    }
    parameters.into_iter().collect()
}

/// Text with `{name}` in it; `{{` and `}}` stand for braces.
fn parse_template(template: &str) -> Result<Vec<Part>, &'static str> {
    let mut parts = vec![];
    let mut text = String::new();
    let mut rest = template.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '{' | '}' if rest.peek() == Some(&c) => {
                rest.next();
                text.push(c);
            }
            '{' => {
                let mut name = String::new();
                loop {
                    match rest.next() {
                        Some('}') => break,
                        Some(c) => name.push(c),
                        None => return Err("`{` is not closed; write `{{` for a brace"),
                    }
                }
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(Part::Value(name));
            }
            '}' => return Err("`}` was not opened; write `}}` for a brace"),
            c => text.push(c),
        }
    }
    if !text.is_empty() || parts.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests;
