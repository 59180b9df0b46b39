//! The only place a `tonic::Status` is made: what a caller hears is decided here, once.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The domain of our `google.rpc.ErrorInfo` reasons.
pub const ERROR_DOMAIN: &str = "writ";

/// A failure as a caller sees it. `reason` is stable; `next` says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: Code,
    reason: &'static str,
    message: String,
    field: Option<&'static str>,
}

impl Failure {
    /// A field of the request breaks a rule.
    pub fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self {
            code: Code::InvalidArgument,
            reason: "invalid_argument",
            message: message.into(),
            field: Some(field),
        }
    }

    /// What was named does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { code: Code::NotFound, reason: "not_found", message: message.into(), field: None }
    }

    /// It exists already, differently.
    pub fn exists(message: impl Into<String>) -> Self {
        Self { code: Code::AlreadyExists, reason: "already_exists", message: message.into(), field: None }
    }

    /// An operator's name is given a second time.
    #[must_use]
    pub fn name_given(name: &str) -> Self {
        Self::exists(format!("`{name}` exists or existed; names are never given twice, choose another"))
    }

    /// No operator is called so.
    #[must_use]
    pub fn no_operator(name: &str) -> Self {
        Self::not_found(format!("there is no operator `{name}`; see: writ operator list"))
    }

    /// Nobody could let anybody in any more.
    #[must_use]
    pub fn last_admin(name: &str) -> Self {
        let text = format!(
            "`{name}` is the last admin; nobody could let anybody in any more. Create another one first"
        );
        Self::precondition("last_admin", text)
    }

    /// The caller is nobody we know.
    #[must_use]
    pub fn unauthenticated() -> Self {
        let message = "a valid bearer token is needed: send `authorization: Bearer TOKEN`".to_owned();
        Self { code: Code::Unauthenticated, reason: "unauthenticated", message, field: None }
    }

    /// The caller's token has ended.
    #[must_use]
    pub fn token_expired(at: impl std::fmt::Display) -> Self {
        let message = format!("this token ended at {at}; an admin gives another: writ operator create");
        Self { code: Code::Unauthenticated, reason: "token_expired", message, field: None }
    }

    /// The same, said of one of many things.
    #[must_use]
    pub fn about(self, what: &str) -> Self {
        Self { message: format!("`{what}`: {}", self.message), ..self }
    }

    /// The caller may not do this.
    pub fn denied(reason: &'static str, message: impl Into<String>) -> Self {
        Self { code: Code::PermissionDenied, reason, message: message.into(), field: None }
    }

    /// Not now; the state must change first.
    pub fn precondition(reason: &'static str, message: impl Into<String>) -> Self {
        Self { code: Code::FailedPrecondition, reason, message: message.into(), field: None }
    }

    /// A bound was reached.
    pub fn exhausted(message: impl Into<String>) -> Self {
        Self { code: Code::ResourceExhausted, reason: "exhausted", message: message.into(), field: None }
    }

    /// The server cannot do its work at the moment.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { code: Code::Unavailable, reason: "unavailable", message: message.into(), field: None }
    }

    /// What it says to people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the caller can only blame itself: it said something wrong, or is nobody it may be.
    #[must_use]
    pub fn is_the_callers(&self) -> bool {
        matches!(self.code, Code::InvalidArgument) || self.reason == "token_refused"
    }

    /// The other side broke the protocol.
    pub fn protocol(message: impl Into<String>) -> Self {
        Self { code: Code::InvalidArgument, reason: "protocol", message: message.into(), field: None }
    }

    /// The other side said nothing for too long.
    pub fn silent(message: impl Into<String>) -> Self {
        Self { code: Code::DeadlineExceeded, reason: "silent", message: message.into(), field: None }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let Failure { code, reason, message, field } = failure;
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, ERROR_DOMAIN, std::collections::HashMap::new());
        if let Some(field) = field {
            details.add_bad_request_violation(field, message.clone());
        }
        Self::with_error_details(code, message, details)
    }
}
