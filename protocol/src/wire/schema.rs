//! What an entry of an allow-list takes.

use std::time::Duration;

use writ_proto::v1 as proto;

use super::field;
use crate::envelope::InvalidDocument;
use crate::limits::{MAX_CHOICES, MAX_NAME_BYTES, MAX_PARAMETER_BYTES, MAX_PARAMETERS};
use crate::schema::{ActionSchema, Parameter, ParameterRule, Pattern};

impl TryFrom<proto::ActionSchema> for ActionSchema {
    type Error = InvalidDocument;

    fn try_from(message: proto::ActionSchema) -> Result<Self, InvalidDocument> {
        let proto::ActionSchema { timeout_ms, idempotent, parameters, definition_digest } = message;
        if parameters.len() > MAX_PARAMETERS {
            return Err(field::invalid("parameters", "must be at most 64"));
        }
        if !parameters.is_sorted_by(|a, b| a.name < b.name) {
            return Err(field::invalid("parameters", "must have names that strictly ascend"));
        }
        Ok(Self {
            timeout: Duration::from_millis(timeout_ms),
            is_idempotent: idempotent,
            parameters: parameters.into_iter().map(parameter_of).collect::<Result<_, _>>()?,
            definition: field::digest("definition_digest", &definition_digest)?,
        })
    }
}

fn parameter_of(message: proto::ActionParameter) -> Result<(String, Parameter), InvalidDocument> {
    let proto::ActionParameter { name, rule, default_value, secret: is_secret } = message;
    let is_short = |text: &String| text.len() <= MAX_PARAMETER_BYTES;
    if name.len() > MAX_NAME_BYTES || !is_short(&default_value) {
        return Err(field::invalid("parameters", "has a name or a default that is too long"));
    }
    let rule = match rule.ok_or_else(|| field::invalid("rule", "is missing, or one of a newer protocol"))? {
        proto::action_parameter::Rule::Pattern(text) => {
            let pattern = Some(text).filter(is_short).and_then(|text| Pattern::of_stranger(&text).ok());
            ParameterRule::Text(pattern.ok_or_else(|| field::invalid("pattern", "is none"))?)
        }
        proto::action_parameter::Rule::Integer(proto::IntegerRange { least, most }) => {
            ParameterRule::Integer(least, most)
        }
        proto::action_parameter::Rule::Choice(proto::ChoiceList { choices }) => {
            if choices.len() > MAX_CHOICES || !choices.iter().all(is_short) {
                return Err(field::invalid("choices", "are too many, or one is too long"));
            }
            ParameterRule::Choice(choices)
        }
    };
    let default = Some(default_value).filter(|default| !default.is_empty());
    Ok((name, Parameter { rule, default, is_secret }))
}

impl From<&ActionSchema> for proto::ActionSchema {
    fn from(schema: &ActionSchema) -> Self {
        let ActionSchema { timeout, is_idempotent, parameters, definition } = schema;
        let parameter =
            |(name, Parameter { rule, default, is_secret }): (&str, &Parameter)| proto::ActionParameter {
                name: name.to_owned(),
                rule: Some(match rule {
                    ParameterRule::Text(pattern) => {
                        proto::action_parameter::Rule::Pattern(pattern.as_str().to_owned())
                    }
                    ParameterRule::Integer(least, most) => {
                        let range = proto::IntegerRange { least: *least, most: *most };
                        proto::action_parameter::Rule::Integer(range)
                    }
                    ParameterRule::Choice(choices) => {
                        let choices = choices.clone();
                        proto::action_parameter::Rule::Choice(proto::ChoiceList { choices })
                    }
                }),
                default_value: default.clone().unwrap_or_default(),
                secret: *is_secret,
            };
        Self {
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            idempotent: *is_idempotent,
            parameters: parameters.iter().map(parameter).collect(),
            definition_digest: definition.as_bytes().to_vec().into(),
        }
    }
}
