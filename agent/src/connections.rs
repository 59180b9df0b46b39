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
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;
use writ_common::net::{self, NameError};
use writ_common::text::plain;
use writ_lists::{Filter, Key, Kind};
use writ_protocol::place::Place;
use writ_protocol::time::Timestamp;

use crate::components::ComponentStore;
use crate::reputation::{Known, Verdict};
use sought::Sought;
use table::{Process, Table};

/// The list that addresses, and names in command lines, are compared with.
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
/// What is met of one object, objects that are met, and what is told one by one; more is counted.
const MAX_OF_ONE: usize = 20;
const MAX_MET: usize = 5000;
const MAX_TOLD: usize = 200;
/// How long the kernel may take to tell what it knows.
const READ_FOR: Duration = Duration::from_secs(20);
/// What is met and told in the line that sums an answer up.
const MAX_SUMMED: usize = 2;
/// Characters of a program's name and of a value, in a line for people.
const MAX_SHOWN: usize = 120;

/// What is met: its type, and its value.
type About = (String, String);

/// Somebody on this host and what is suspicious about what they talk to. In the order in which they are told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Met {
    /// How the object was met.
    pub how: How,
    /// What the object is, such as `ip`; of a list its name and version.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its value.
    pub value: String,
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
        let Self { how, kind, value, protocol, local, peer, process, is_over } = self;
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

impl Met {
    /// A name in a command line.
    fn in_command_line((kind, value): About, process: &Process) -> Self {
        let (how, protocol, is_over) = (How::CommandLine, "", false);
        let (local, peer, process) = (String::new(), String::new(), Some(process.clone()));
        Self { how, kind, value, protocol, local, peer, process, is_over }
    }
}

/// What was met so far. Of one object no more is kept than tells what it is about: who opens a thousand
/// connections to one must not hide another.
#[derive(Debug, Default)]
struct Meetings {
    count: usize,
    of_each: BTreeMap<About, BTreeSet<Met>>,
}

impl Meetings {
    fn add(&mut self, about: About, met: impl FnOnce(About) -> Met) {
        self.count += 1;
        if self.of_each.len() >= MAX_MET && !self.of_each.contains_key(&about) {
            return;
        }
        let of_one = self.of_each.entry(about.clone()).or_default();
        of_one.insert(met(about));
        // The surest stay.
        if of_one.len() > MAX_OF_ONE {
            of_one.pop_last();
        }
    }

    /// What is told: of each object the surest, then of each the next.
    fn told(self) -> (Vec<Met>, usize) {
        let mut told: Vec<(usize, Met)> = Vec::new();
        for met in self.of_each.into_values() {
            told.extend(met.into_iter().enumerate());
        }
        told.sort();
        (told.into_iter().take(MAX_TOLD).map(|(_, met)| met).collect(), self.count)
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
    /// Addresses and names that may be on a list, and of which the server did not say whether they are.
    pub undecided: usize,
    /// Processes that this agent may not look into.
    pub unseen: usize,
    /// The kernel shows this agent no processes of others.
    pub hides_others: bool,
    /// Command lines and tables of which not all was looked at.
    pub cut: usize,
    /// Why suspicious objects or the list were not looked for, if they were not.
    pub without: Option<String>,
}

impl Looked {
    /// No more than has room in so many bytes of JSON.
    pub(crate) fn fit(&mut self, bytes: usize) {
        let length = |met: &[Met]| serde_json::to_vec(met).map_or(usize::MAX, |text| text.len());
        while !self.met.is_empty() && length(&self.met) > bytes {
            self.met.truncate(self.met.len() / 2);
        }
    }

    /// In an answer, line by line.
    pub(crate) fn tell(&self, text: &mut String) {
        let Self { met, count, unresolved, undecided, unseen, hides_others, cut, without } = self;
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
            let _ =
                writeln!(text, "{undecided} addresses or names may be listed, and the server did not say");
        }
        if *unresolved > 0 {
            let _ = writeln!(
                text,
                "of {unresolved} suspicious names only command lines were asked: --resolve asks name servers"
            );
        }
        if *hides_others {
            let _ = writeln!(
                text,
                "processes of other users are hidden from this agent: their command lines and networks of their own were not looked at (connections.conf)"
            );
        }
        if *cut > 0 {
            let _ = writeln!(text, "of {cut} command lines or tables of sockets not all was looked at");
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
        let table = match read().await {
            Ok(table) => Arc::new(table),
            Err(why) => return Looked { without: Some(why), ..Looked::default() },
        };
        let Table { unseen, hides_others, cut, .. } = *table;
        let (addresses, unresolved) =
            if resolves { resolve(&sought, &table).await } else { (HashMap::new(), sought.names().len()) };
        let mut looked = Looked { unresolved, unseen, hides_others, cut, without, ..Looked::default() };
        // It is work for as long as there are sockets, and this agent has one thread.
        let of = Arc::clone(&table);
        let met = tokio::task::spawn_blocking(move || {
            let mut met = Meetings::default();
            sought.meet(&of, &addresses, &mut met);
            met
        });
        let mut met = met.await.unwrap_or_default();
        if let Some(filter) = filter {
            looked.undecided = ask(known, filter, table, &mut met).await;
        }
        (looked.met, looked.count) = met.told();
        for one in &looked.met {
            warn!(object = one.value, met = %one, "a suspicious object is met");
        }
        looked
    }
}

async fn read() -> Result<Table, String> {
    let read = tokio::time::timeout(READ_FOR, tokio::task::spawn_blocking(Table::read)).await;
    match read {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the kernel did not tell within {READ_FOR:?} who talks to whom")),
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

/// Adds what of the names in command lines, or of the addresses at either end of a socket, is on the list;
/// how many values are not decided.
async fn ask(known: Known<'_>, filter: Filter, table: Arc<Table>, met: &mut Meetings) -> usize {
    let of = Arc::clone(&table);
    let maybe = tokio::task::spawn_blocking(move || {
        let mut maybe: BTreeMap<Key, Vec<String>> = BTreeMap::new();
        for value in candidates(filter.kind(), &of) {
            // A name that is none of this kind is on no such list.
            for key in filter.kind().keys(&value).unwrap_or_default() {
                if filter.may_contain(&key) {
                    maybe.entry(key).or_default().push(value.clone());
                }
            }
        }
        (maybe, filter)
    });
    let Ok((maybe, filter)) = maybe.await else { return 0 };
    if maybe.is_empty() {
        return 0;
    }
    let keys: BTreeSet<Key> = maybe.keys().copied().collect();
    let verdicts = known.reputations.judge((LIST, &filter, known.bundle), &keys, PATIENCE).await;
    let (mut listed, mut undecided) = (HashMap::new(), 0);
    for (key, values) in maybe {
        match verdicts.get(&key) {
            Some(Verdict::Listed(version)) => {
                listed.extend(values.into_iter().map(|value| (value, format!("{LIST} {version}"))));
            }
            Some(Verdict::Unlisted) => {}
            Some(Verdict::Unanswered) | None => undecided += 1,
        }
    }
    if filter.kind() == Kind::Ip {
        for link in &table.links {
            let value = link.end().to_string();
            if let Some(kind) = listed.get(&value) {
                met.add((kind.clone(), value), |about| sought::of_link(about, link, &table));
            }
        }
        return undecided;
    }
    for (url, pids) in &table.urls {
        for (value, kind) in names_of(url).filter_map(|name| Some((name.clone(), listed.get(&name)?))) {
            for process in pids.iter().filter_map(|pid| table.processes.get(pid)) {
                met.add((kind.clone(), value.clone()), |about| Met::in_command_line(about, process));
            }
        }
    }
    undecided
}

/// Values that may be on a list of a kind.
fn candidates(kind: Kind, table: &Table) -> BTreeSet<String> {
    match kind {
        Kind::Ip => {
            let ends: BTreeSet<IpAddr> = table.links.iter().map(table::Link::end).collect();
            ends.iter().map(ToString::to_string).collect()
        }
        _ => table.urls.keys().flat_map(|url| names_of(url)).collect(),
    }
}

/// A URL, and its host.
fn names_of(url: &str) -> impl Iterator<Item = String> {
    [Some(url.to_owned()), table::host_of(url)].into_iter().flatten()
}
