//! Verifying: a component that is signed may still be of no use.

use super::Report;
use super::fetch::{Arrival, Fetched};
use crate::reason::{Reason, UpdateError};

/// What came, and can be used as what it says it is.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) arrivals: Vec<Arrival>,
    pub(super) report: Report,
}

pub(super) fn verify(fetched: Fetched) -> Result<Verified, UpdateError> {
    let Fetched { arrivals, report } = fetched;
    for Arrival { name, release, file } in &arrivals {
        name.check(file).map_err(|why| {
            UpdateError::new(Reason::Unusable, format!("{name} {} cannot be used: {why}", release.version))
        })?;
    }
    Ok(Verified { arrivals, report })
}
