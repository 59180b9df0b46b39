//! `trust.proto`: bundles.

use std::collections::BTreeSet;

use writ_proto::v1 as proto;

use super::field::{self, invalid, missing};
use crate::command::ActionClass;
use crate::envelope::InvalidDocument;
use crate::keys::SigningCertificate;
use crate::limits::MAX_KEYS;
use crate::time::Timestamp;
use crate::trust::{ClassRule, Role, SigningEntry, TrustBundle};

impl TryFrom<proto::TrustBundle> for TrustBundle {
    type Error = InvalidDocument;

    fn try_from(message: proto::TrustBundle) -> Result<Self, InvalidDocument> {
        let proto::TrustBundle {
            fleet_id,
            version,
            prev,
            authority,
            signing,
            class_rules,
            tls_cas,
            endpoints,
            floor_reset_ms,
            issued_at_ms,
            fleet_name,
        } = message;
        let distinct: BTreeSet<_> = endpoints.iter().collect();
        if distinct.len() != endpoints.len() {
            return Err(invalid("endpoints", "must not name an endpoint twice"));
        }
        Ok(Self {
            fleet: field::fleet("fleet_id", &fleet_id)?,
            fleet_name: field::name("fleet_name", fleet_name)?,
            version,
            prev: prev.iter().map(|digest| field::digest("prev", digest)).collect::<Result<_, _>>()?,
            authority: authority.ok_or_else(|| missing("authority"))?.try_into()?,
            signing: signing.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            class_rules: class_rules.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            tls_cas: tls_cas.into_iter().map(|der| der.to_vec()).collect(),
            endpoints: endpoints
                .into_iter()
                .map(|e| field::endpoint("endpoints", e))
                .collect::<Result<_, _>>()?,
            floor_reset: (floor_reset_ms != 0).then_some(Timestamp::from_millis(floor_reset_ms)),
            issued_at: field::time("issued_at_ms", issued_at_ms)?,
        })
    }
}

impl From<&TrustBundle> for proto::TrustBundle {
    fn from(bundle: &TrustBundle) -> Self {
        let TrustBundle {
            fleet,
            fleet_name,
            version,
            prev,
            authority,
            signing,
            class_rules,
            tls_cas,
            endpoints,
            floor_reset,
            issued_at,
        } = bundle;
        Self {
            fleet_id: fleet.as_bytes().to_vec().into(),
            version: *version,
            prev: prev.iter().map(|digest| digest.as_bytes().to_vec().into()).collect(),
            authority: Some(authority.into()),
            signing: signing.iter().map(Into::into).collect(),
            class_rules: class_rules.iter().map(Into::into).collect(),
            tls_cas: tls_cas.iter().map(|der| der.clone().into()).collect(),
            endpoints: endpoints.clone(),
            floor_reset_ms: floor_reset.map_or(0, Timestamp::as_millis),
            issued_at_ms: issued_at.as_millis(),
            fleet_name: fleet_name.clone(),
        }
    }
}

impl TryFrom<proto::Role> for Role {
    type Error = InvalidDocument;

    fn try_from(message: proto::Role) -> Result<Self, InvalidDocument> {
        let proto::Role { keys, threshold } = message;
        if keys.len() > MAX_KEYS {
            return Err(invalid("keys", "must be at most 16"));
        }
        Ok(Self {
            keys: keys.iter().map(|der| field::public_key("keys", der)).collect::<Result<_, _>>()?,
            threshold: usize::try_from(threshold).map_err(|_| invalid("threshold", "is too large"))?,
        })
    }
}

impl From<&Role> for proto::Role {
    fn from(role: &Role) -> Self {
        let Role { keys, threshold } = role;
        Self {
            keys: keys.iter().map(|key| key.spki().into()).collect(),
            threshold: field::length(*threshold),
        }
    }
}

impl TryFrom<proto::SigningEntry> for SigningEntry {
    type Error = InvalidDocument;

    fn try_from(message: proto::SigningEntry) -> Result<Self, InvalidDocument> {
        let proto::SigningEntry { certificate, sign_from_ms, accept_until_ms, revoked, realms } = message;
        Ok(Self {
            certificate: SigningCertificate::from_der(&certificate)
                .map_err(|error| invalid("signing.certificate", error.to_string()))?,
            sign_from: field::time("signing.sign_from_ms", sign_from_ms)?,
            accept_until: field::time("signing.accept_until_ms", accept_until_ms)?,
            revoked,
            realms: realms.into_iter().map(|r| field::name("signing.realms", r)).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&SigningEntry> for proto::SigningEntry {
    fn from(entry: &SigningEntry) -> Self {
        let SigningEntry { certificate, sign_from, accept_until, revoked, realms } = entry;
        Self {
            certificate: certificate.der().to_vec().into(),
            sign_from_ms: sign_from.as_millis(),
            accept_until_ms: accept_until.as_millis(),
            revoked: *revoked,
            realms: realms.clone(),
        }
    }
}

impl TryFrom<proto::ClassRule> for ClassRule {
    type Error = InvalidDocument;

    fn try_from(message: proto::ClassRule) -> Result<Self, InvalidDocument> {
        let proto::ClassRule { class, operators } = message;
        Ok(Self {
            class: ActionClass::from_proto(class).ok_or_else(|| missing("class_rules.class"))?,
            operators: operators.ok_or_else(|| missing("class_rules.operators"))?.try_into()?,
        })
    }
}

impl From<&ClassRule> for proto::ClassRule {
    fn from(rule: &ClassRule) -> Self {
        let ClassRule { class, operators } = rule;
        Self { class: class.to_proto().into(), operators: Some(operators.into()) }
    }
}
