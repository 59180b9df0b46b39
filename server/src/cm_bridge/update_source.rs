//! The choice a manager offers: to be where updates come from.

use writ_common::status::Failure;
use writ_protocol::manager::ManagerVersion;

use super::{Registration, State, UpdateSource};

/// Whether the manager can be chosen; what keeps it from it otherwise.
///
/// # Errors
/// Why not, with a stable reason.
pub(crate) fn is_offered(registration: &Registration) -> Result<(), Failure> {
    if !matches!(registration.state, State::Registered | State::Waiting) {
        let text = "this server is not registered with a manager: writ manager register";
        return Err(Failure::precondition("manager_not_registered", text));
    }
    check(&registration.version, registration.is_authorized)
}

/// The same before there is a registration.
///
/// # Errors
/// Why not, with a stable reason.
pub(crate) fn check(version: &str, is_authorized: bool) -> Result<(), Failure> {
    let parsed = version.parse::<ManagerVersion>();
    if !parsed.is_ok_and(ManagerVersion::offers_updates) {
        let text = format!("the manager is version {version}; from 6.0 SP1 on it can be an update source");
        return Err(Failure::precondition("manager_too_old", text));
    }
    if !is_authorized {
        let text = "the registration has no certificate authorization, so nobody can say who would send the updates: upload the manager's CA, then writ manager re-register";
        return Err(Failure::precondition("no_certificate_authorization", text));
    }
    Ok(())
}

/// What was chosen, for a manager that may or may not offer itself.
///
/// # Errors
/// When it was offered and nobody said yes or no, or it was chosen and cannot be.
pub(crate) fn choose(
    chosen: Option<UpdateSource>,
    version: &str,
    is_authorized: bool,
) -> Result<UpdateSource, Failure> {
    match (check(version, is_authorized), chosen) {
        (Err(why), Some(UpdateSource::Manager)) => Err(why),
        // What is not offered needs no answer.
        (Err(_), None) | (_, Some(UpdateSource::Default)) => Ok(UpdateSource::Default),
        (Ok(()), Some(UpdateSource::Manager)) => Ok(UpdateSource::Manager),
        (Ok(()), None) => Err(Failure::precondition(
            "update_source_unanswered",
            format!(
                "the manager (version {version}) offers itself as the update source of the integrated reputation server: say update_source MANAGER, or DEFAULT to stay with the current one; nothing was registered"
            ),
        )),
    }
}
