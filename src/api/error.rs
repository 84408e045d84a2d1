//! Errors: each code exists once, with its statuses and with what it says about the request.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::cluster::is_false;

/// What an error says about the write it answers. There is no third kind: a write that is done is not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorOutcome {
    /// It did not happen and never will.
    NotDone,
    /// It may have happened, or may still happen: only a retry with the same idempotency key can tell.
    Unknown,
}

/// Why a request was not served. In JSON the name in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is malformed: 400; 408 when its body stalled, 411 without a length, 505 for another HTTP version.
    InvalidRequest,
    /// The revision asked for has not been reached.
    FutureRevision,
    /// This client may not do that.
    Forbidden,
    /// No such route.
    UnknownRoute,
    /// No such key, or no such member.
    NotFound,
    /// The route exists, but not with this method.
    MethodNotAllowed,
    /// The cluster is in no state to do it, or it contradicts what is so, as a counter that is none: the message says what. `temporary` says whether
    /// the same request may succeed later.
    Conflict,
    /// The revision asked for is below the compaction floor.
    Compacted,
    /// The condition does not hold; the body says the current `mod_revision`.
    PreconditionFailed,
    /// A transaction was to keep the value of a key that does not exist.
    KeyNotFound,
    /// A write names a lease that does not exist, or not any more.
    LeaseNotFound,
    /// The client takes none of the forms in which the answer can be given.
    NotAcceptable,
    /// Key, value or body above its limit: 413; 431 for the head.
    TooLarge,
    /// The idempotency key was used before for another request.
    IdempotencyMismatch,
    /// Too much is waiting: come back after `Retry-After` seconds.
    Overloaded,
    /// No leader or no quorum.
    Unavailable,
    /// A read met its deadline.
    Timeout,
    /// The version that the members share does not have it yet; the message says who keeps it down.
    Unsupported,
    /// A write met its deadline, or its leader stepped down, after it was proposed.
    OutcomeUnknown,
    /// A fault of the server.
    Internal,
}

impl ErrorCode {
    /// Every code, in the order of the table in the API's documentation.
    pub const ALL: [ErrorCode; 20] = [
        ErrorCode::InvalidRequest,
        ErrorCode::FutureRevision,
        ErrorCode::Forbidden,
        ErrorCode::UnknownRoute,
        ErrorCode::NotFound,
        ErrorCode::MethodNotAllowed,
        ErrorCode::Conflict,
        ErrorCode::Compacted,
        ErrorCode::PreconditionFailed,
        ErrorCode::KeyNotFound,
        ErrorCode::LeaseNotFound,
        ErrorCode::NotAcceptable,
        ErrorCode::TooLarge,
        ErrorCode::IdempotencyMismatch,
        ErrorCode::Unsupported,
        ErrorCode::Overloaded,
        ErrorCode::Unavailable,
        ErrorCode::Timeout,
        ErrorCode::OutcomeUnknown,
        ErrorCode::Internal,
    ];

    /// The HTTP statuses it is sent with; the first is the usual one.
    pub const fn statuses(self) -> &'static [u16] {
        match self {
            ErrorCode::InvalidRequest => &[400, 408, 411, 505],
            ErrorCode::FutureRevision => &[400],
            ErrorCode::Forbidden => &[403],
            ErrorCode::UnknownRoute | ErrorCode::NotFound | ErrorCode::LeaseNotFound => &[404],
            ErrorCode::MethodNotAllowed => &[405],
            ErrorCode::NotAcceptable => &[406],
            ErrorCode::Conflict => &[409],
            ErrorCode::Compacted => &[410],
            ErrorCode::PreconditionFailed | ErrorCode::KeyNotFound => &[412],
            ErrorCode::TooLarge => &[413, 431],
            ErrorCode::IdempotencyMismatch => &[422],
            ErrorCode::Unsupported => &[501],
            ErrorCode::Overloaded | ErrorCode::Unavailable => &[503],
            ErrorCode::Timeout | ErrorCode::OutcomeUnknown => &[504],
            ErrorCode::Internal => &[500],
        }
    }

    /// The usual HTTP status.
    pub const fn status(self) -> u16 {
        self.statuses()[0]
    }

    /// What it says about a write unless the server knows better. 503 means not done; 504 on a write means unknown.
    pub const fn outcome(self) -> ErrorOutcome {
        match self {
            ErrorCode::OutcomeUnknown | ErrorCode::Internal => ErrorOutcome::Unknown,
            _ => ErrorOutcome::NotDone,
        }
    }

    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCode::InvalidRequest => "invalid_request",
            ErrorCode::FutureRevision => "future_revision",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::UnknownRoute => "unknown_route",
            ErrorCode::NotFound => "not_found",
            ErrorCode::MethodNotAllowed => "method_not_allowed",
            ErrorCode::Conflict => "conflict",
            ErrorCode::Compacted => "compacted",
            ErrorCode::PreconditionFailed => "precondition_failed",
            ErrorCode::KeyNotFound => "key_not_found",
            ErrorCode::LeaseNotFound => "lease_not_found",
            ErrorCode::NotAcceptable => "not_acceptable",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::IdempotencyMismatch => "idempotency_mismatch",
            ErrorCode::Overloaded => "overloaded",
            ErrorCode::Unsupported => "unsupported",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::Timeout => "timeout",
            ErrorCode::OutcomeUnknown => "outcome_unknown",
            ErrorCode::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body of every error answer: `{"error":{"code","message","outcome"}}`, with a few more fields where they help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What went wrong, for programs (`code`, `outcome`) and for people (`message`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// Why the request was not served.
    pub code: ErrorCode,
    /// One sentence for people, saying what to do where that is possible.
    pub message: String,
    /// Whether the write is surely not done.
    pub outcome: ErrorOutcome,
    /// `precondition_failed`, and `conflict` at a counter: the key's current modification revision, 0 when the key is
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mod_revision: Option<u64>,
    /// `precondition_failed`, and `conflict` at a counter: the key's current version, 0 when the key is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// `future_revision`, `precondition_failed`, and `conflict` at a counter: the store's revision; `compacted`: the oldest one still readable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// `conflict`: it passes by itself, or by what the message says, and then the same request may succeed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub temporary: bool,
}

impl ErrorBody {
    /// An error with its code's usual outcome.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ErrorBody {
        let message = message.into();
        let error = ErrorDetail {
            code,
            message,
            outcome: code.outcome(),
            mod_revision: None,
            version: None,
            revision: None,
            temporary: false,
        };
        ErrorBody { error }
    }

    /// The same error with another outcome: a read that met an internal fault, for instance, is `not_done`.
    pub fn with_outcome(mut self, outcome: ErrorOutcome) -> ErrorBody {
        self.error.outcome = outcome;
        self
    }

    /// The same error with the key's current modification revision and version, both 0 when the key is absent.
    pub fn with_key(mut self, mod_revision: u64, version: u64) -> ErrorBody {
        self.error.mod_revision = Some(mod_revision);
        self.error.version = Some(version);
        self
    }

    /// The same error with the revision that explains it.
    pub fn with_revision(mut self, revision: u64) -> ErrorBody {
        self.error.revision = Some(revision);
        self
    }

    /// The same error, which passes.
    pub fn as_temporary(mut self) -> ErrorBody {
        self.error.temporary = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_names_agree_with_their_json() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<ErrorCode>(&format!("\"{code}\"")).unwrap(), code);
        }
    }

    #[test]
    fn code_outcome_of_503_is_not_done_and_of_a_writes_504_unknown() {
        for code in ErrorCode::ALL {
            if code.status() == 503 {
                assert_eq!(code.outcome(), ErrorOutcome::NotDone, "{code}");
            }
            if code.status() < 500 {
                assert_eq!(code.outcome(), ErrorOutcome::NotDone, "{code}");
            }
        }
        assert_eq!(ErrorCode::OutcomeUnknown.status(), 504);
        assert_eq!(ErrorCode::OutcomeUnknown.outcome(), ErrorOutcome::Unknown);
        assert_eq!(ErrorCode::Timeout.status(), 504);
    }

    #[test]
    fn error_body_is_as_short_as_it_can_be() {
        let body = ErrorBody::new(ErrorCode::NotFound, "no such key");
        let text = r#"{"error":{"code":"not_found","message":"no such key","outcome":"not_done"}}"#;
        assert_eq!(serde_json::to_string(&body).unwrap(), text);
        assert_eq!(serde_json::from_str::<ErrorBody>(text).unwrap(), body);
        let body = ErrorBody::new(ErrorCode::PreconditionFailed, "x").with_key(7, 2);
        assert!(
            serde_json::to_string(&body).unwrap().ends_with(r#""not_done","mod_revision":7,"version":2}}"#)
        );
    }
}
