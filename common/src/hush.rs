//! One line of a kind a source and minute: strangers must not fill the log.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::net::source;

/// Warns of a stranger, once a source and minute; the message is the kind.
#[macro_export]
macro_rules! warn_of_stranger {
    ($hush:expr, $address:expr, { $($field:tt)* }, $message:literal) => {
        if let Some(unsaid) = $hush.may_say($message, $address) {
            tracing::warn!(address = %$address, unsaid, $($field)* $message);
        }
    };
}

/// How often a source is spoken of.
const EVERY: Duration = Duration::from_secs(60);
/// Lines remembered; past it all further sources share one of each kind.
const MAX_LINES: usize = 1024;
/// Whom strangers beyond the bound share.
const SHARED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What was said of whom in the last minute.
#[derive(Debug, Default)]
pub struct Hush(Mutex<HashMap<LogLine, Said>>);

/// What is said, and of whom.
type LogLine = (&'static str, IpAddr);

#[derive(Debug)]
struct Said {
    at: Instant,
    /// Lines kept back since.
    unsaid: u64,
}

impl Hush {
    /// Whether a line of this kind about this address is due: then how many like it were kept back since the
    /// last.
    pub fn may_say(&self, kind: &'static str, address: IpAddr) -> Option<u64> {
        let now = Instant::now();
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |said: &Said| now.duration_since(said.at) >= EVERY;
        if lines.len() >= MAX_LINES {
            lines.retain(|_, said| !is_old(said));
        }
        let about = (kind, source(address));
        let key = if lines.contains_key(&about) || lines.len() < MAX_LINES { about } else { (kind, SHARED) };
        match lines.get_mut(&key) {
            Some(said) if !is_old(said) => {
                said.unsaid += 1;
                None
            }
            known => {
                let unsaid = known.map_or(0, |said| said.unsaid);
                lines.insert(key, Said { at: now, unsaid: 0 });
                Some(unsaid)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_source_is_spoken_of_once_a_minute_and_the_rest_is_counted() {
        let (hush, loud, other) = (Hush::default(), IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let said = |kind, address| hush.may_say(kind, address);
        assert_eq!(said("one", loud), Some(0));
        assert_eq!((said("one", loud), said("one", loud)), (None, None));
        assert_eq!((said("one", other), said("two", loud)), (Some(0), Some(0)), "others are heard");
        tokio::time::advance(EVERY).await;
        assert_eq!((said("one", loud), said("one", loud)), (Some(2), None));
    }

    #[tokio::test(start_paused = true)]
    async fn sources_are_bounded_and_those_beyond_share_one_line() {
        let hush = Hush::default();
        let said = |n: u32| hush.may_say("one", IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)));
        let most = u32::try_from(MAX_LINES).unwrap();
        assert!((0..most).all(|n| said(n) == Some(0)));
        assert_eq!((said(most), said(most + 1), said(0)), (Some(0), None, None));
        tokio::time::advance(EVERY).await;
        assert_eq!(said(most + 2), Some(0), "what is old is forgotten");
    }
}
