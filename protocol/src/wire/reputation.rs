//! Questions about lists, and what answers them: `gateway.proto`.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use writ_proto::v1 as proto;

use super::field::{self, invalid};
use crate::component::{is_component_name, is_component_version};
use crate::envelope::InvalidDocument;
use crate::limits::{MAX_QUESTION_VALUES, MAX_REPUTATION_LIFETIME};
use crate::reputation::{Question, Reputation};

impl Question {
    /// As it is sent, and as its digest is taken.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let Self { nonce, component, values } = self.clone();
        proto::ReputationQuestion { nonce: nonce.to_vec().into(), component, values }.encode_to_vec().into()
    }

    /// As it came.
    ///
    /// # Errors
    /// When it is none, or outside its bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidDocument> {
        let message = proto::ReputationQuestion::decode(bytes);
        let message = message.map_err(|error| invalid("question", error.to_string()))?;
        let proto::ReputationQuestion { nonce, component, values } = message;
        if !is_component_name(&component) {
            return Err(invalid("question.component", "must be 1 to 64 of a-z, 0-9 and hyphens"));
        }
        if values.is_empty() {
            return Err(invalid("question.values", "must be at least one"));
        }
        check("question.values", &values)?;
        Ok(Self { nonce: field::nonce("question.nonce", &nonce)?, component, values })
    }
}

/// Values as a list holds them.
fn check(field: &'static str, values: &[Bytes]) -> Result<(), InvalidDocument> {
    let width = values.first().map_or(32, Bytes::len);
    let is_fine = values.len() <= MAX_QUESTION_VALUES
        && matches!(width, 16 | 20 | 32)
        && values.iter().all(|value| value.len() == width)
        && values.is_sorted_by(|one, next| one < next);
    if is_fine {
        return Ok(());
    }
    Err(invalid(field, "must be at most 512, strictly ascending, all of 32, of 20 or of 16 bytes"))
}

impl TryFrom<proto::Reputation> for Reputation {
    type Error = InvalidDocument;

    fn try_from(message: proto::Reputation) -> Result<Self, InvalidDocument> {
        let proto::Reputation {
            fleet_id,
            agent_id,
            question,
            version,
            list,
            listed,
            counts_for_s,
            answered_at_ms,
        } = message;
        if !is_component_version(&version) {
            let rule = "must be 1 to 64 of letters, digits, `.`, `-`, `_` and `+`";
            return Err(invalid("version", rule));
        }
        check("listed", &listed)?;
        let counts_for = Duration::from_secs(counts_for_s.into());
        if counts_for.is_zero() || counts_for > MAX_REPUTATION_LIFETIME {
            return Err(invalid("counts_for_s", "must be 1 to 86400"));
        }
        Ok(Self {
            fleet: field::fleet("fleet_id", &fleet_id)?,
            agent: field::agent("agent_id", &agent_id)?,
            question: field::digest("question", &question)?,
            version,
            list: field::digest("list", &list)?,
            listed,
            counts_for,
            answered_at: field::time("answered_at_ms", answered_at_ms)?,
        })
    }
}

impl From<&Reputation> for proto::Reputation {
    fn from(said: &Reputation) -> Self {
        let Reputation { fleet, agent, question, version, list, listed, counts_for, answered_at } = said;
        Self {
            fleet_id: fleet.as_bytes().to_vec().into(),
            agent_id: agent.as_bytes().to_vec().into(),
            question: question.as_bytes().to_vec().into(),
            version: version.clone(),
            list: list.as_bytes().to_vec().into(),
            listed: listed.clone(),
            counts_for_s: u32::try_from(counts_for.as_secs()).unwrap_or(u32::MAX),
            answered_at_ms: answered_at.as_millis(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_outside_its_bounds_is_none() {
        let question = |values: &[&[u8]]| Question {
            nonce: [1; 32],
            component: "file-reputation".to_owned(),
            values: values.iter().map(|value| Bytes::copy_from_slice(value)).collect(),
        };
        let good = question(&[&[1; 20], &[2; 20]]);
        assert_eq!(Question::decode(&good.encode()).unwrap(), good);
        let many: Vec<_> = (0..=u16::try_from(MAX_QUESTION_VALUES).unwrap())
            .map(|number| [number.to_be_bytes().as_slice(), &[0; 30]].concat())
            .collect();
        let many: Vec<_> = many.iter().map(Vec::as_slice).collect();
        Question::decode(&question(&many[1..]).encode()).unwrap();
        for bad in [
            question(&[]),
            question(&many),
            question(&[&[1; 21]]),
            question(&[&[1; 20], &[1; 20]]),
            question(&[&[2; 20], &[1; 20]]),
            question(&[&[1; 20], &[2; 32]]),
            Question { component: "../lists".to_owned(), ..good },
        ] {
            let said = Question::decode(&bad.encode()).unwrap_err().to_string();
            assert!(said.contains("question."), "{said}");
        }
        Question::decode(&[0xff; 9]).unwrap_err();
    }
}
