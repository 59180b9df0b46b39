//! Hosts that ask for the successors of a bundle this server's chain does not have: agents of a fleet whose
//! server was made anew without its keys. They say nothing of who they are (protocol.md §6.11), so what is
//! known of them is where they call from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tracing::warn;
use writ_common::net::source;
use writ_protocol::id::Digest;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::Chain;

/// Addresses remembered; past it the one that was silent for longest goes.
const MAX_STRANGERS: usize = 1024;
/// Addresses remembered of one source: the holder of a whole network must not push all others out.
const MAX_OF_A_SOURCE: usize = 16;

/// A host that obeys another chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stranger {
    /// Where it calls from; several hosts may share it.
    pub address: IpAddr,
    /// The bundle it holds.
    pub version: u64,
    /// That bundle's digest.
    pub digest: Digest,
    /// How often it asked.
    pub asked: u64,
    /// When it did last.
    pub last_at: Timestamp,
}

/// Those that called since this server started.
#[derive(Debug, Default)]
pub(crate) struct UnknownFleetPeers(Mutex<HashMap<IpAddr, Stranger>>);

impl UnknownFleetPeers {
    /// One asked.
    pub(crate) fn record(&self, address: IpAddr, version: u64, digest: Digest, now: Timestamp) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(&address) {
            let from = source(address);
            let of_it = known.keys().filter(|other| source(**other) == from).count();
            if of_it >= MAX_OF_A_SOURCE {
                return;
            }
            warn!(%address, bundle.version = version, bundle.digest = %digest, "an agent of another chain asks here; it obeys nobody on this server");
            if known.len() >= MAX_STRANGERS {
                let silent =
                    known.values().min_by_key(|stranger| stranger.last_at).map(|stranger| stranger.address);
                silent.map(|silent| known.remove(&silent));
            }
        }
        let stranger =
            known.entry(address).or_insert(Stranger { address, version, digest, asked: 0, last_at: now });
        *stranger = Stranger { version, digest, asked: stranger.asked + 1, last_at: now, address };
    }

    /// Those whose bundle this chain still does not have, the latest first: an agent that handed its bundles
    /// back is no stranger any more.
    #[must_use]
    pub(crate) fn list(&self, chain: &Chain) -> Vec<Stranger> {
        self.list_if(|stranger| !chain.contains(stranger.digest))
    }

    fn list_if(&self, is_strange: impl Fn(&Stranger) -> bool) -> Vec<Stranger> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, stranger| is_strange(stranger));
        let mut all: Vec<_> = known.values().cloned().collect();
        all.sort_by_key(|stranger| std::cmp::Reverse(stranger.last_at));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_counted_by_address_and_the_longest_silent_goes_first() {
        let strangers = UnknownFleetPeers::default();
        let address = |number: usize| IpAddr::from((u128::try_from(number).unwrap() << 64).to_be_bytes());
        let at = |number: usize| Timestamp::from_millis(u64::try_from(number).unwrap());
        for number in 0..=MAX_STRANGERS {
            strangers.record(address(number), 1, Digest::of(b"one"), at(number));
        }
        strangers.record(address(MAX_STRANGERS), 2, Digest::of(b"two"), at(MAX_STRANGERS + 1));
        let all = strangers.list_if(|_| true);
        assert_eq!(all.len(), MAX_STRANGERS);
        assert_eq!((all[0].asked, all[0].version, all[0].digest), (2, 2, Digest::of(b"two")));
        assert!(all.iter().all(|stranger| stranger.address != address(0)));
    }

    #[test]
    fn one_network_does_not_push_the_others_out() {
        let strangers = UnknownFleetPeers::default();
        for number in 0..10_000_u128 {
            let address = IpAddr::from(number.to_be_bytes());
            strangers.record(address, 1, Digest::of(b"one"), Timestamp::from_millis(1));
        }
        assert_eq!(strangers.list_if(|_| true).len(), MAX_OF_A_SOURCE);
    }
}
