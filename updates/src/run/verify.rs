//! Verifying: once more that the bytes are the signed ones, and that they are of use. A component that is
//! signed may still be none.

use super::Report;
use super::fetch::{Arrival, Fetched};
use crate::reason::{Reason, UpdateError};
use crate::{Name, Release};

/// What came, and can be used as what it says it is.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) arrivals: Vec<Arrival>,
    pub(super) relabelled: Vec<(Name, Release)>,
    pub(super) report: Report,
}

pub(super) fn verify(fetched: Fetched) -> Result<Verified, UpdateError> {
    let Fetched { arrivals, relabelled, report } = fetched;
    for Arrival { name, release, file, sha256 } in &arrivals {
        if *sha256 != release.sha256 {
            let text = format!("{name} {}: its SHA-256 is {sha256} and not the signed one", release.version);
            return Err(UpdateError::new(Reason::Mismatched, text));
        }
        name.check(file).map_err(|why| {
            UpdateError::new(Reason::Unusable, format!("{name} {} cannot be used: {why}", release.version))
        })?;
    }
    Ok(Verified { arrivals, relabelled, report })
}
