//! How an entity stands between its calls.

use writ_protocol::manager::Registration;
use writ_protocol::time::Timestamp;

use crate::store::EntityAdmission;

/// How an entity stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// An operator has to let it in.
    Waiting,
    /// Heard of within two heartbeats.
    Active,
    /// Silent for more than two heartbeats.
    Inactive,
    /// Silent for longer than it said it would ever be.
    Abnormal,
    /// An operator rejected it.
    Rejected,
}

impl Presence {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Waiting, Self::Active, Self::Inactive, Self::Abnormal, Self::Rejected];

    /// Its name.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Abnormal => "abnormal",
            Self::Rejected => "rejected",
        }
    }

    /// Any authenticated contact counts as life. A clock that went back makes nobody silent.
    #[must_use]
    pub(crate) fn of(
        admission: EntityAdmission,
        registration: &Registration,
        last_contact: Timestamp,
        now: Timestamp,
    ) -> Self {
        let silent = now.since(last_contact);
        match admission {
            EntityAdmission::Waiting => Self::Waiting,
            EntityAdmission::Rejected | EntityAdmission::Left => Self::Rejected,
            EntityAdmission::Approved if silent > registration.abnormal_after => Self::Abnormal,
            EntityAdmission::Approved if silent > registration.heartbeat * 2 => Self::Inactive,
            EntityAdmission::Approved => Self::Active,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use writ_protocol::manager::Mode;

    use super::*;

    #[test]
    fn silence_turns_active_into_inactive_into_abnormal_and_any_contact_turns_it_back() {
        let second = Duration::from_secs(1);
        let registration = Registration {
            display_name: "e".to_owned(),
            host_name: "h".to_owned(),
            product: "writ".to_owned(),
            version: "1".to_owned(),
            addresses: Vec::new(),
            mode: Mode::OneWay,
            entity: None,
            token: None,
            heartbeat: second * 10,
            abnormal_after: second * 30,
        };
        let now = Timestamp::from_millis(1_790_000_000_000);
        let table = [
            (EntityAdmission::Approved, now, Presence::Active),
            (EntityAdmission::Approved, now - second * 20, Presence::Active),
            (EntityAdmission::Approved, now - second * 21, Presence::Inactive),
            (EntityAdmission::Approved, now - second * 30, Presence::Inactive),
            (EntityAdmission::Approved, now - second * 31, Presence::Abnormal),
            (EntityAdmission::Approved, now + second * 60, Presence::Active),
            (EntityAdmission::Waiting, now - second * 60, Presence::Waiting),
            (EntityAdmission::Rejected, now, Presence::Rejected),
        ];
        for (admission, last_contact, presence) in table {
            assert_eq!(Presence::of(admission, &registration, last_contact, now), presence, "{last_contact}");
        }
    }
}
