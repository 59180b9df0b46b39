//! Moments, as documents have them.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::{Duration, SystemTime};

/// Unix time in milliseconds, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The beginning of 1970; in documents "not set".
    pub const ZERO: Self = Self(0);

    /// The last second of the year 9999, the latest that RFC 3339 can write; later times are shown as it.
    pub const LATEST: Self = Self(253_402_300_799_000);

    /// From Unix milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Unix milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// How much later this is than `other`; zero if it is not.
    #[must_use]
    pub const fn since(self, other: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(other.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = Duration::from_millis(self.0.min(Self::LATEST.0));
        write!(f, "{}", humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + shown))
    }
}

impl std::str::FromStr for Timestamp {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let at = humantime::parse_rfc3339_weak(text)
            .map_err(|error| format!("{error}; write it as 2026-11-22T03:00:00Z"))?;
        Ok(Self::ZERO + at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
