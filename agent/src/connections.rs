//! Who on this host talks to whom, and which of them are suspicious objects or on a list.
//!
//! [`table`] reads what the kernel knows of sockets and processes. [`sought`] is what is looked for: addresses
//! are compared with the two ends of sockets; domains and URLs with what command lines name, and with the
//! addresses that name servers give for them, if they may be asked. Nothing is changed: what is met is told.

mod sought;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;
use writ_common::net::{self, NameError};
use writ_common::text::plain;
use writ_lists::{Filter, Key};
use writ_protocol::place::Place;
use writ_protocol::time::Timestamp;

use crate::components::ComponentStore;
use crate::reputation::{Known, Verdict};
use sought::Sought;
use table::{Process, Table};

/// The list that names in command lines are compared with.
const LIST: &str = "web-reputation";
/// What this agent holds of it.
const FILTER: &str = "web-reputation-filter";
/// Names that name servers are asked for, at most, and at a time.
const MAX_RESOLVED: usize = 1000;
const AT_A_TIME: usize = 16;
/// How long that may take.
const RESOLVE_FOR: Duration = Duration::from_secs(60);
/// How long the server may take to say what a list has.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is met and told one by one; more is counted.
const MAX_TOLD: usize = 500;
/// What is met and told in the line that sums an answer up.
const MAX_SUMMED: usize = 2;
/// Characters of a program's name and of a value, in a line for people.
const MAX_SHOWN: usize = 120;

/// Somebody on this host and what is suspicious about what they talk to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Met {
    /// What the object is, such as `ip`; of a list its name and version.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its value.
    pub value: String,
    /// How it was met.
    pub how: How,
    /// tcp or udp; empty for a name in a command line.
    pub protocol: &'static str,
    /// This end of the socket.
    pub local: String,
    /// The other end.
    pub peer: String,
    /// Who; `None`: this agent may not see it, or it has ended.
    pub process: Option<Process>,
    /// It ended, a minute ago at most.
    pub is_over: bool,
}

/// How somebody meets an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// The other end has the address.
    Peer,
    /// It takes connections at the address.
    Listening,
    /// The command line names it.
    CommandLine,
    /// The other end has an address that a name server gives for it now.
    Resolved,
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, value, how, protocol, local, peer, process, is_over } = self;
        write!(f, "{kind} {}: ", short(value))?;
        match process {
            Some(Process { pid, user, program, .. }) => {
                write!(f, "{} (process {pid}, user {user})", short(program))?;
            }
            None if *is_over => f.write_str("a process that has just ended")?,
            None => f.write_str("a process that this agent may not see")?,
        }
        match how {
            How::Peer => write!(f, " talks to {peer} ({protocol}, from {local})"),
            How::Listening => write!(f, " listens at {local} ({protocol})"),
            How::CommandLine => f.write_str(" names it in its command line"),
            How::Resolved => {
                write!(
                    f,
                    " talks to {peer} ({protocol}), an address of that name, which others may have, too"
                )
            }
        }
    }
}

fn short(text: &str) -> String {
    plain(text).chars().take(MAX_SHOWN).collect()
}

/// What came of looking.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Looked {
    /// What was met; of more than can be told the first.
    pub met: Vec<Met>,
    /// How much was met.
    pub count: usize,
    /// Names of which only command lines were asked.
    pub unresolved: usize,
    /// Names that may be on a list, and of which the server did not say whether they are.
    pub undecided: usize,
    /// Processes that this agent may not look into.
    pub unseen: usize,
    /// Why suspicious objects or the list were not looked for, if they were not.
    pub without: Option<String>,
}

impl Looked {
    /// In an answer, line by line.
    pub(crate) fn tell(&self, text: &mut String) {
        let Self { met, count, unresolved, undecided, unseen, without } = self;
        if let Some(why) = without {
            let _ = writeln!(text, "who talks to suspicious addresses was not looked at whole: {why}");
        }
        for one in met {
            let _ = writeln!(text, "{one}");
        }
        if met.len() < *count {
            let _ = writeln!(text, "and {} more suspicious objects are met", count - met.len());
        }
        if *undecided > 0 {
            let _ = writeln!(
                text,
                "{undecided} names of command lines may be listed, and the server did not say"
            );
        }
        if *unresolved > 0 {
            let _ = writeln!(
                text,
                "of {unresolved} suspicious names only command lines were asked: --resolve asks name servers"
            );
        }
        if *unseen > 0 {
            let _ = writeln!(text, "of {unseen} processes this agent may not see what they talk to");
        }
    }

    /// In the line that sums an answer up; empty if nothing was met.
    pub(crate) fn summary(&self) -> String {
        let first: Vec<_> = self.met.iter().take(MAX_SUMMED).map(ToString::to_string).collect();
        match self.count {
            0 => String::new(),
            count => format!("; suspicious objects met: {count}: {}", first.join("; ")),
        }
    }
}

/// What there is to look for.
#[derive(Debug)]
pub(crate) struct Search {
    sought: Sought,
    filter: Option<Filter>,
    without: Option<String>,
}

impl Search {
    /// What this agent holds.
    pub(crate) async fn of(components: &ComponentStore, now: Timestamp) -> Self {
        let mut without = Vec::new();
        let mut or_told = |error: String| without.push(error);
        let objects = components.objects().await.map_err(&mut or_told).ok().flatten();
        let filter = components.filter(FILTER).await.map_err(&mut or_told).ok().flatten();
        let sought = Sought::of(objects.as_ref(), now);
        Self { sought, filter, without: (!without.is_empty()).then(|| without.join("; ")) }
    }

    /// Whether there is anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.sought.is_empty() && self.filter.is_none()
    }

    /// Looks, and asks: name servers, if `resolves`, and the server about names that may be on the list.
    pub(crate) async fn look(self, known: Known<'_>, resolves: bool) -> Looked {
        let Self { sought, filter, without } = self;
        if sought.is_empty() && filter.is_none() {
            return Looked { without, ..Looked::default() };
        }
        let read = tokio::task::spawn_blocking(Table::read).await;
        let table = match read {
            Ok(table) => table,
            Err(error) => return Looked { without: Some(error.to_string()), ..Looked::default() },
        };
        let mut looked = Looked { unseen: table.unseen, without, ..Looked::default() };
        let (addresses, unresolved) =
            if resolves { resolve(&sought, &table).await } else { (HashMap::new(), sought.names().len()) };
        looked.unresolved = unresolved;
        let mut met = sought.meet(&table, &addresses);
        if let Some(filter) = &filter {
            let (more, undecided) = ask(known, filter, &table).await;
            met.extend(more);
            looked.undecided = undecided;
        }
        met.sort();
        met.dedup();
        looked.count = met.len();
        met.truncate(MAX_TOLD);
        for one in &met {
            warn!(object = one.value, met = %one, "a suspicious object is met");
        }
        Looked { met, ..looked }
    }
}

/// The addresses that name servers give for the names of objects, and how many names were not asked for or
/// not answered. Nobody is asked when nobody on this host talks to anybody.
async fn resolve(sought: &Sought, table: &Table) -> (HashMap<IpAddr, Vec<String>>, usize) {
    let names = sought.names();
    if table.links.iter().all(|link| link.peer.is_none()) {
        return (HashMap::new(), names.len());
    }
    let until = Instant::now() + RESOLVE_FOR;
    let (mut asked, mut waiting) = (JoinSet::new(), names.iter().take(MAX_RESOLVED));
    let (mut addresses, mut answered) = (HashMap::<IpAddr, Vec<String>>::new(), 0);
    loop {
        while asked.len() < AT_A_TIME
            && Instant::now() < until
            && let Some(name) = waiting.next().cloned()
        {
            asked.spawn(async move {
                let place = Place::of(&name, 1).ok()?;
                let found = net::resolve(&place).await;
                Some((name, found))
            });
        }
        let Ok(Some(done)) = tokio::time::timeout_at(until, asked.join_next()).await else {
            return (addresses, names.len() - answered);
        };
        match done {
            Ok(Some((name, Ok(found)))) => {
                answered += 1;
                for address in found {
                    addresses.entry(address.ip().to_canonical()).or_default().push(name.clone());
                }
            }
            // That there is none is an answer.
            Ok(Some((_, Err(NameError::Unknown(_) | NameError::NoAddress(_))))) => answered += 1,
            Ok(Some((_, Err(_))) | None) | Err(_) => {}
        }
    }
}

/// What of the names in command lines is on the list, and how many names are not decided.
async fn ask(known: Known<'_>, filter: &Filter, table: &Table) -> (Vec<Met>, usize) {
    let mut maybe: BTreeMap<Key, Vec<(String, &Process)>> = BTreeMap::new();
    for process in table.processes.values() {
        for name in process.names() {
            // A name that is none of this kind is on no such list.
            for key in filter.kind().keys(&name).unwrap_or_default() {
                if filter.may_contain(&key) {
                    maybe.entry(key).or_default().push((name.clone(), process));
                }
            }
        }
    }
    if maybe.is_empty() {
        return (Vec::new(), 0);
    }
    let keys: BTreeSet<Key> = maybe.keys().copied().collect();
    let verdicts = known.reputations.judge((LIST, filter, known.bundle), &keys, PATIENCE).await;
    let (mut met, mut undecided) = (Vec::new(), 0);
    for (key, who) in maybe {
        match verdicts.get(&key) {
            Some(Verdict::Listed(version)) => met.extend(who.into_iter().map(|(value, process)| Met {
                kind: format!("{LIST} {version}"),
                value,
                how: How::CommandLine,
                protocol: "",
                local: String::new(),
                peer: String::new(),
                process: Some(process.clone()),
                is_over: false,
            })),
            Some(Verdict::Unlisted) => {}
            Some(Verdict::Unanswered) | None => undecided += 1,
        }
    }
    (met, undecided)
}
