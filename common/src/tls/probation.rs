//! Connections on which nobody has proven anything yet: what they may cost, and which go when it is too much.
//!
//! One measure for all of it: bytes. A connection costs some before it says a word, what it sends counts, and
//! so does an answer that waits for it to read. Past a bound the oldest connection of the largest source
//! goes. An honest peer has proven itself long before; one that keeps silent to keep others out loses its
//! own places.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::hush::Hush;
use crate::net::source;
use crate::shutdown::Shutdown;
use writ_protocol::id::Digest;

/// What the connections of one port may cost that have proven nothing.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes of one [`source`]. Enough for a site behind one address that comes back whole.
    of_a_source: u64,
    /// Bytes in all.
    in_all: u64,
}

/// What one costs before it says a word: its socket, and the state of TLS and HTTP/2.
const BYTES_OF_A_CONNECTION: u64 = 32 << 10;

impl Room {
    /// Where agents come in: 2,048 silent connections of a source, 6,144 in all.
    pub const AGENTS: Self = Self { of_a_source: 64 << 20, in_all: 192 << 20 };
    /// Where operators, entities and managers come in: 512 of a source, 1,536 in all.
    pub const OTHERS: Self = Self { of_a_source: 16 << 20, in_all: 48 << 20 };

    /// For so many connections of a source, and so many in all, that say next to nothing.
    #[must_use]
    pub const fn of_connections(of_a_source: u64, in_all: u64) -> Self {
        Self { of_a_source: of_a_source * BYTES_OF_A_CONNECTION, in_all: in_all * BYTES_OF_A_CONNECTION }
    }
}

/// Who is at the other end; in the extensions of every request. Clones share it.
#[derive(Debug, Clone)]
pub struct Peer {
    pub(super) address: SocketAddr,
    pub(super) probation: Arc<Probation>,
}

impl Peer {
    /// The host at the other end, perhaps a proxy; nobody's address where no connection of ours carries the
    /// call.
    #[must_use]
    pub fn host(peer: Option<&Self>) -> IpAddr {
        peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address.ip().to_canonical())
    }

    /// Somebody proved who they are on this connection, by this key: it may stay, and costs what it costs,
    /// until they have too many.
    pub fn proven(&self, by: Digest) {
        self.probation.is_over.store(true, Ordering::Release);
        self.probation.leave();
        self.probation.count_for(by);
    }

    /// Somebody proved who they are for one session: the connection may stay as long as this is held, and
    /// until its last words are said. An identity whose sessions replace each other cannot hold
    /// connections that way.
    #[must_use]
    pub fn in_session(&self) -> InSession {
        self.probation.hold();
        InSession { probation: Arc::clone(&self.probation), is_last: true }
    }

    /// Somebody proved who they are for one call, by this token: the connection may stay as long as this is
    /// held, and a probation's time longer, until they have too many.
    #[must_use]
    pub fn in_call(&self, by: Digest) -> InSession {
        self.probation.hold();
        self.probation.count_for(by);
        InSession { probation: Arc::clone(&self.probation), is_last: false }
    }

    /// An answer of so many bytes waits until this connection reads it. Small ones need not be told: a
    /// request as large went before each.
    pub fn owes(&self, bytes: usize) {
        self.probation.owes(bytes);
    }
}

/// That a proven session or call is held on a connection.
#[derive(Debug)]
pub struct InSession {
    probation: Arc<Probation>,
    /// Whether nothing is to come on the connection after it.
    is_last: bool,
}

/// Connections on which one key or token proved itself; past it the oldest goes. Each command that waits for
/// its answers is one.
const MAX_OF_ONE: usize = 256;
/// How long a connection may prove nothing.
pub(super) const PROBATION: Duration = Duration::from_secs(60);
/// How long a connection stays on which nothing is to come: what an agent made the server keep goes with it.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Drop for InSession {
    fn drop(&mut self) {
        let is_free = self.probation.let_go();
        if is_free
            && self.is_last
            && let Some(tasks) = &self.probation.unproven.0.tasks
        {
            let probation = Arc::clone(&self.probation);
            tasks.spawn(async move {
                tokio::time::sleep(LAST_WORDS).await;
                if probation.is_unproven() {
                    probation.hang_up.cancel();
                }
            });
        }
    }
}

/// The connections of one port that have proven nothing. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Unproven(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    room: Room,
    /// Where the end of a connection is waited for.
    tasks: Option<Shutdown>,
    held: Mutex<HeldRoom>,
    /// How many came.
    connections: AtomicU64,
    hush: Hush,
}

#[derive(Debug, Default)]
struct HeldRoom {
    /// Whose connections were proven, by key or token; the oldest first.
    proven: HashMap<Digest, BTreeMap<u64, CancellationToken>>,
    sources: HashMap<IpAddr, SourceRoom>,
    bytes: u64,
    arrivals: u64,
}

#[derive(Debug, Default)]
struct SourceRoom {
    bytes: u64,
    /// By the number of their arrival.
    oldest_first: BTreeMap<u64, ProvenConnection>,
}

#[derive(Debug)]
struct ProvenConnection {
    bytes: u64,
    hang_up: CancellationToken,
}

impl Unproven {
    pub(super) fn new(room: Room, tasks: Option<Shutdown>) -> Self {
        let (held, connections, hush) = (Mutex::default(), AtomicU64::new(0), Hush::default());
        Self(Arc::new(Shared { room, tasks, held, connections, hush }))
    }

    /// A connection came.
    pub(super) fn begin(&self, address: SocketAddr) -> Peer {
        let probation = Probation {
            number: self.0.connections.fetch_add(1, Ordering::Relaxed),
            identities: Mutex::default(),
            unproven: self.clone(),
            source: source(address.ip()),
            hang_up: CancellationToken::new(),
            arrival: AtomicU64::new(0),
            since: Mutex::new(Instant::now()),
            is_over: AtomicBool::new(false),
            sessions: AtomicU32::new(0),
            owed: AtomicU64::new(0),
        };
        probation.enter();
        Peer { address, probation: Arc::new(probation) }
    }

    /// Every place is taken: one of an unproven connection becomes free. Nothing happens where all have
    /// proven themselves.
    pub(super) fn make_place(&self) {
        self.change(|held| held.largest().and_then(|source| held.hang_up_oldest(source)));
    }

    fn add(&self, source: IpAddr, arrival: u64, bytes: u64) {
        let room = self.0.room;
        self.change(|held| {
            held.add(source, arrival, bytes);
            held.make_room(source, arrival, room)
        });
    }

    /// `change` says whose connections had to go.
    fn change(&self, change: impl FnOnce(&mut HeldRoom) -> Option<IpAddr>) {
        let gone = change(&mut self.0.held.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(source) = gone
            && let Some(unsaid) = self.0.hush.may_say("room", source)
        {
            warn!(%source, unsaid, "connections that prove nothing take too much room: the oldest of this address go");
        }
    }
}

impl HeldRoom {
    fn add(&mut self, source: IpAddr, arrival: u64, bytes: u64) {
        let Some(source) = self.sources.get_mut(&source) else { return };
        let Some(connection) = source.oldest_first.get_mut(&arrival) else { return };
        connection.bytes += bytes;
        source.bytes += bytes;
        self.bytes += bytes;
    }

    fn subtract(&mut self, source: IpAddr, arrival: u64, bytes: u64) {
        let Some(source) = self.sources.get_mut(&source) else { return };
        let Some(connection) = source.oldest_first.get_mut(&arrival) else { return };
        let bytes = bytes.min(connection.bytes);
        connection.bytes -= bytes;
        source.bytes -= bytes;
        self.bytes -= bytes;
    }

    fn remove(&mut self, address: IpAddr, arrival: u64) -> Option<ProvenConnection> {
        let source = self.sources.get_mut(&address)?;
        let connection = source.oldest_first.remove(&arrival)?;
        source.bytes -= connection.bytes;
        self.bytes -= connection.bytes;
        if source.oldest_first.is_empty() {
            self.sources.remove(&address);
        }
        Some(connection)
    }

    fn make_room(&mut self, address: IpAddr, arrival: u64, room: Room) -> Option<IpAddr> {
        let mut gone = None;
        // Before others of its source, one that takes a part of the room by itself.
        let source = self.sources.get(&address);
        let own = source.and_then(|source| source.oldest_first.get(&arrival)).map_or(0, |own| own.bytes);
        if own > room.of_a_source / 4 && room.of_a_source > 8 * BYTES_OF_A_CONNECTION {
            self.hang_up(address, arrival);
            gone = Some(address);
        }
        while self.sources.get(&address).is_some_and(|source| source.bytes > room.of_a_source) {
            gone = self.hang_up_oldest(address);
        }
        while self.bytes > room.in_all
            && let Some(largest) = self.largest()
        {
            gone = self.hang_up_oldest(largest);
        }
        gone
    }

    /// Of several about as large, the one that came first: who has begun to speak must not count as larger
    /// than who is silent.
    fn largest(&self) -> Option<IpAddr> {
        let size = |(_, source): &(&IpAddr, &SourceRoom)| {
            let about = source.bytes / (2 * BYTES_OF_A_CONNECTION);
            (about, Reverse(source.oldest_first.keys().next().copied()))
        };
        self.sources.iter().max_by_key(size).map(|(address, _)| *address)
    }

    fn hang_up_oldest(&mut self, source: IpAddr) -> Option<IpAddr> {
        let oldest = *self.sources.get(&source)?.oldest_first.keys().next()?;
        self.hang_up(source, oldest);
        Some(source)
    }

    fn hang_up(&mut self, source: IpAddr, arrival: u64) {
        if let Some(connection) = self.remove(source, arrival) {
            connection.hang_up.cancel();
        }
    }
}

/// One connection among the unproven, or not any more.
#[derive(Debug)]
pub(super) struct Probation {
    /// How many came before it.
    number: u64,
    /// Who proved themselves on it.
    identities: Mutex<BTreeSet<Digest>>,
    unproven: Unproven,
    source: IpAddr,
    /// Cancelled when it has to go.
    pub(super) hang_up: CancellationToken,
    arrival: AtomicU64,
    /// When it came, or when what was last held on it ended.
    since: Mutex<Instant>,
    is_over: AtomicBool,
    sessions: AtomicU32,
    owed: AtomicU64,
}

impl Probation {
    /// Until when it may prove nothing.
    pub(super) fn ends(&self) -> Instant {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) + PROBATION
    }

    /// Whether nothing is proven on it for good.
    pub(super) fn is_open(&self) -> bool {
        !self.is_over.load(Ordering::Acquire)
    }

    /// Whether nothing is proven on it now.
    pub(super) fn is_unproven(&self) -> bool {
        self.is_open() && self.sessions.load(Ordering::Acquire) == 0
    }

    /// It counts, as one that has just come.
    fn enter(&self) {
        self.unproven.change(|held| self.enter_among(held));
    }

    fn enter_among(&self, held: &mut HeldRoom) -> Option<IpAddr> {
        held.remove(self.source, self.arrival.load(Ordering::Acquire));
        held.arrivals += 1;
        let arrival = held.arrivals;
        self.arrival.store(arrival, Ordering::Release);
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.owed.store(0, Ordering::Release);
        let connection = ProvenConnection { bytes: 0, hang_up: self.hang_up.clone() };
        held.sources.entry(self.source).or_default().oldest_first.insert(arrival, connection);
        held.add(self.source, arrival, BYTES_OF_A_CONNECTION);
        held.make_room(self.source, arrival, self.unproven.0.room)
    }

    /// A session or a call more is held on it. Under the lock, as its end is: else one that ends would count
    /// one that begins.
    fn hold(&self) {
        self.unproven.change(|held| {
            self.sessions.fetch_add(1, Ordering::AcqRel);
            held.remove(self.source, self.arrival.load(Ordering::Acquire));
            None
        });
    }

    /// One less; whether nothing holds it any more.
    fn let_go(&self) -> bool {
        let mut is_free = false;
        self.unproven.change(|held| {
            is_free = self.sessions.fetch_sub(1, Ordering::AcqRel) == 1 && self.is_open();
            if is_free { self.enter_among(held) } else { None }
        });
        is_free
    }

    fn leave(&self) {
        self.unproven.change(|held| {
            held.remove(self.source, self.arrival.load(Ordering::Acquire));
            None
        });
    }

    /// It is one more of this key or token, and their oldest goes where there are too many.
    fn count_for(&self, identity: Digest) {
        if !self.identities.lock().unwrap_or_else(PoisonError::into_inner).insert(identity) {
            return;
        }
        let mut held = self.unproven.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = held.proven.entry(identity).or_default();
        theirs.insert(self.number, self.hang_up.clone());
        if theirs.len() > MAX_OF_ONE
            && let Some((_, oldest)) = theirs.pop_first()
        {
            oldest.cancel();
            drop(held);
            if let Some(unsaid) = self.unproven.0.hush.may_say("connections", self.source) {
                let source = self.source;
                warn!(%source, unsaid, most = MAX_OF_ONE, "one key or token has too many connections: its oldest go");
            }
        }
    }

    fn forget(&self) {
        let identities = std::mem::take(&mut *self.identities.lock().unwrap_or_else(PoisonError::into_inner));
        let mut held = self.unproven.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        for identity in identities {
            if let Some(theirs) = held.proven.get_mut(&identity) {
                theirs.remove(&self.number);
                if theirs.is_empty() {
                    held.proven.remove(&identity);
                }
            }
        }
    }

    /// So much came.
    pub(super) fn read(&self, bytes: usize) {
        if bytes > 0 && self.is_unproven() {
            let arrival = self.arrival.load(Ordering::Acquire);
            self.unproven.add(self.source, arrival, u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }

    fn owes(&self, bytes: usize) {
        if self.is_unproven() {
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            self.owed.fetch_add(bytes, Ordering::AcqRel);
            self.unproven.add(self.source, self.arrival.load(Ordering::Acquire), bytes);
        }
    }

    /// So much of what waited is on its way.
    pub(super) fn wrote(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let take = |owed: u64| (owed > 0).then(|| owed.saturating_sub(bytes));
        let Ok(owed) = self.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) else { return };
        let arrival = self.arrival.load(Ordering::Acquire);
        self.unproven.change(|held| {
            held.subtract(self.source, arrival, bytes.min(owed));
            None
        });
    }
}

impl Drop for Probation {
    fn drop(&mut self) {
        self.leave();
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room::of_connections(4, 6);

    fn at(address: [u8; 4]) -> SocketAddr {
        SocketAddr::from((address, 1))
    }

    fn is_gone(peer: &Peer) -> bool {
        peer.probation.hang_up.is_cancelled()
    }

    #[test]
    fn a_host_cannot_change_its_ipv6_address_to_count_as_another() {
        let (one, two) = ("2001:db8::1".parse().unwrap(), "2001:db8::ffff:2".parse().unwrap());
        assert_eq!(source(one), source(two));
        assert_eq!(source("::ffff:10.0.0.1".parse().unwrap()), source("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn past_a_sources_room_its_own_oldest_go() {
        let unproven = Unproven::new(ROOM, None);
        let other = unproven.begin(at([10, 0, 0, 2]));
        let mut held: Vec<_> = (0..5).map(|_| unproven.begin(at([10, 0, 0, 1]))).collect();
        let gone: Vec<_> = held.iter().map(is_gone).collect();
        assert_eq!(gone, [true, false, false, false, false]);
        assert!(!is_gone(&other), "it came earlier, but it is of another source");
        // A place that came back, by a proof and by an end.
        held[1].proven(Digest::of(b"anna"));
        drop(held.pop());
        held.extend((0..2).map(|_| unproven.begin(at([10, 0, 0, 1]))));
        assert_eq!(held.iter().filter(|peer| is_gone(peer)).count(), 1, "the one of before");
        drop((held, other));
        let left = unproven.0.held.lock().unwrap();
        assert!(left.sources.is_empty() && left.bytes == 0, "{left:?}");
    }

    #[test]
    fn past_the_room_in_all_the_oldest_of_the_largest_source_goes() {
        let unproven = Unproven::new(ROOM, None);
        let honest = unproven.begin(at([10, 0, 0, 2]));
        let large: Vec<_> = (0..4).map(|_| unproven.begin(at([10, 0, 0, 1]))).collect();
        let late: Vec<_> = (3..5).map(|n| unproven.begin(at([10, 0, 0, n]))).collect();
        assert_eq!(large.iter().map(is_gone).collect::<Vec<_>>(), [true, false, false, false]);
        assert!(!is_gone(&honest) && !late.iter().any(is_gone));
        unproven.make_place();
        assert_eq!(large.iter().filter(|peer| is_gone(peer)).count(), 2);
    }

    #[test]
    fn who_speaks_is_not_larger_than_many_who_are_silent() {
        let unproven = Unproven::new(ROOM, None);
        let silent: Vec<_> = (0..6).map(|n| unproven.begin(at([10, 0, 1, n]))).collect();
        let honest = unproven.begin(at([10, 0, 0, 2]));
        honest.probation.read(600);
        assert!(!is_gone(&honest), "it said hello");
        assert_eq!(silent.iter().map(is_gone).collect::<Vec<_>>(), [true, true, false, false, false, false]);
    }

    #[test]
    fn what_is_sent_and_what_is_owed_takes_room_until_it_is_proven_or_read() {
        let unproven = Unproven::new(ROOM, None);
        let one = usize::try_from(BYTES_OF_A_CONNECTION).unwrap();
        let (first, second) = (unproven.begin(at([10, 0, 0, 1])), unproven.begin(at([10, 0, 0, 1])));
        // Two connections, and an answer of the size of one that is read.
        first.owes(one);
        first.probation.wrote(one + 1);
        first.owes(one);
        second.probation.read(one);
        assert!(!is_gone(&first) && !is_gone(&second));
        let bytes = || unproven.0.held.lock().unwrap().bytes;
        assert_eq!(bytes(), ROOM.of_a_source);
        second.probation.read(1);
        assert!(is_gone(&first) && !is_gone(&second), "the oldest goes, whichever went too far");
        let session = second.in_session();
        second.probation.read(one * 9);
        assert_eq!(bytes(), 0, "who has proven itself may send");
        drop(session);
        assert_eq!(bytes(), BYTES_OF_A_CONNECTION, "and begins anew");
        drop(second.in_session());
        second.proven(Digest::of(b"anna"));
        assert_eq!(bytes(), 0);
    }

    #[test]
    fn one_key_or_token_holds_so_many_connections_and_its_oldest_go() {
        let unproven = Unproven::new(Room::of_connections(9, 9), None);
        let (anna, vera) = (Digest::of(b"anna"), Digest::of(b"vera"));
        let other = unproven.begin(at([10, 0, 0, 1]));
        let _call = other.in_call(vera);
        let mut held = Vec::new();
        for number in 0..MAX_OF_ONE {
            let peer = unproven.begin(at([10, 0, 0, 1]));
            // Whatever it proves itself for, and however often.
            let call = peer.in_call(anna);
            if number % 2 == 0 {
                peer.proven(anna);
            }
            held.push((peer, call));
        }
        assert!(!held.iter().any(|(peer, _)| is_gone(peer)));
        let last = unproven.begin(at([10, 0, 0, 1]));
        last.proven(anna);
        assert!(is_gone(&held[0].0) && !is_gone(&held[1].0) && !is_gone(&last) && !is_gone(&other));
        drop(held);
        assert_eq!(unproven.0.held.lock().unwrap().proven[&anna].len(), 1);
    }
}
