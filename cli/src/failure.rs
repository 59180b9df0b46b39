//! What went wrong, and what to do: one sentence each, and an exit code that is documented.

use std::process::ExitCode;

use serde::Serialize;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::args::Format;

/// A failed call.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    error: String,
    reason: String,
    exit_code: u8,
}

impl Failure {
    /// Something on this machine: a file, the context, the terminal.
    pub(crate) fn local(error: impl Into<String>) -> Self {
        Self { error: error.into(), reason: "local".to_owned(), exit_code: 8 }
    }

    /// Wrong usage, as the command line's own parser says it.
    pub(crate) fn usage(error: impl Into<String>) -> Self {
        Self { error: error.into(), reason: "usage".to_owned(), exit_code: 2 }
    }

    /// The same, said of a place.
    pub(crate) fn about(self, place: &str) -> Self {
        Self { error: format!("{place}: {}", self.error), ..self }
    }

    /// Says by which flags to go on.
    pub(crate) fn with_next(self, is_known: bool, next: &str) -> Self {
        if is_known { Self { error: format!("{}: {next}", self.error), ..self } } else { self }
    }

    /// What was to be proven does not hold.
    pub(crate) fn disproven(error: impl Into<String>) -> Self {
        Self { error: error.into(), reason: "disproven".to_owned(), exit_code: 1 }
    }

    /// It is not there.
    pub(crate) fn missing(error: impl Into<String>) -> Self {
        Self { error: error.into(), reason: "not_found".to_owned(), exit_code: 5 }
    }

    /// The server cannot be reached.
    pub(crate) fn unreachable(error: impl Into<String>) -> Self {
        Self { error: error.into(), reason: "unreachable".to_owned(), exit_code: 3 }
    }

    /// In words.
    pub(crate) fn text(&self) -> &str {
        &self.error
    }

    /// Whether trying again may help: the server is not there yet, or a file is not.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self.exit_code, 3 | 8)
    }

    /// Prints it to standard error, as text or JSON.
    pub(crate) fn report(&self, format: Format) -> ExitCode {
        match format {
            Format::Table | Format::Wide | Format::Csv => {
                writ_common::say::aside(format_args!("writ: {}", self.error))
            }
            Format::Json | Format::Jsonl => writ_common::say::aside(format_args!(
                "{}",
                serde_json::to_string(self).unwrap_or_else(|_| self.error.clone())
            )),
        }
        ExitCode::from(self.exit_code)
    }
}

/// What an operator typed for a field of the API.
fn flag(field: &str) -> &str {
    match field {
        "agents" | "agent" => "AGENT",
        "abnormal_after_ms" => "--abnormal-after",
        "address" => "--address",
        "authority" => "--ca",
        "authority_overlap_seconds" => "--ca-overlap",
        "change_communication" => "--heartbeat, --abnormal-after",
        "display_name" => "--display-name",
        "entities" | "entity" => "ENTITY",
        "forwarding_address" => "--two-way",
        "instruction_id" => "the instruction's id",
        "name" => "NAME",
        "port" => "--port",
        "proxy_address" => "--proxy-address",
        "proxy_password" => "--proxy-password-file",
        "proxy_port" => "--proxy-port",
        "proxy_protocol" => "--proxy",
        "proxy_user" => "--proxy-user",
        "registration_token" => "--registration-token-file",
        "web_password" => "--web-password-file",
        "web_user" => "--web-user",
        "without_authorization_i_know_what_i_do" => "--without-authorization-i-know-what-i-am-doing",
        "remove" => "NAME-",
        "set" => "NAME=VALUE",
        "settings" => "a setting",
        "actions" => "--actions",
        "role" => "--role",
        "token_id" => "the token's id",
        "command_id" => "the command's id",
        "expires_in_seconds" => "--expires",
        "page_size" => "--limit",
        "realm" => "--realm",
        "replaces" => "--replaces",
        "rollout.batch" => "--batch",
        "rollout.canary" => "--canary",
        "rollout.max_failures" => "--max-failures",
        "rollout.patience_seconds" => "--answer-within",
        "rollout.pause_seconds" => "--pause",
        "rollout.seed" => "--seed",
        "rollout.window" => "--window",
        "run.name" => "NAME",
        "run.parameters" => "KEY=VALUE",
        "selector" => "--selector",
        "settings.endpoints" => "--endpoint",
        "settings.heartbeat_ms" => "--heartbeat",
        "settings.log_filter" => "--log-filter",
        "uses" => "--uses",
        other => other,
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let reason = status
            .get_details_error_info()
            .map_or_else(|| format!("{:?}", status.code()), |info| info.reason);
        let exit_code = match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => 3,
            Code::Unauthenticated | Code::PermissionDenied => 4,
            Code::NotFound => 5,
            Code::InvalidArgument
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::ResourceExhausted => 7,
            _ => 3,
        };
        let message = match status.code() {
            Code::Unauthenticated if reason == "token_expired" => status.message(),
            Code::Unauthenticated => {
                "the server does not know this token, or it was revoked; see which file it is read from: writ context list"
            }
            Code::Unimplemented => {
                "this port does not know the call; is it the server's admin port (7444 unless configured)?"
            }
            Code::PermissionDenied if reason == "no_policy" => {
                "this server has no such call; is the context one of a Control Manager, or the other way round? See: writ context list"
            }
            _ if status.message().is_empty() => "the server gave no reason; see its log",
            _ => status.message(),
        };
        let fields =
            status.get_details_bad_request().map(|request| request.field_violations).unwrap_or_default();
        let field =
            fields.first().map_or_else(String::new, |violation| format!("{}: ", flag(&violation.field)));
        // What was typed cannot be read, as the command line's own parser would say it.
        let is_usage = fields.first().is_some_and(|violation| {
            status.code() == Code::InvalidArgument
                && ["command_id", "selector", "set", "remove"].contains(&violation.field.as_str())
        });
        let exit_code = if is_usage { 2 } else { exit_code };
        Self { error: format!("{field}{message}"), reason, exit_code }
    }
}
