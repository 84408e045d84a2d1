//! What a client is told when the node or the state machine says no, and the reverse: the API's words for what the node
//! knows.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::api::{ErrorBody, ErrorCode};
use crate::node::{Failure, FailureKind};
use crate::store::Outcome;

/// For display beside the write; the state machine never reads it.
pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What a write is told that the state machine refused.
pub(super) fn refused(outcome: &Outcome) -> Option<ErrorBody> {
    match *outcome {
        Outcome::Put { .. } | Outcome::Deleted { .. } => None,
        Outcome::PreconditionFailed { revision, mod_revision } => {
            let text = match mod_revision {
                0 => "the condition does not hold: the key is absent".to_owned(),
                at => format!("the condition does not hold: the key was last written at revision {at}"),
            };
            let body = ErrorBody::new(ErrorCode::PreconditionFailed, text);
            Some(body.with_mod_revision(mod_revision).with_revision(revision))
        }
        Outcome::IdempotencyMismatch => Some(ErrorBody::new(
            ErrorCode::IdempotencyMismatch,
            "this idempotency key was used for another request: use a new one for each write",
        )),
        Outcome::Overloaded => Some(ErrorBody::new(
            ErrorCode::Overloaded,
            "the table of idempotency keys is full: rows leave it with age, or write without a key",
        )),
    }
}

pub(super) fn failed(failure: &Failure) -> ErrorBody {
    let code = match failure.kind {
        FailureKind::Unavailable => ErrorCode::Unavailable,
        FailureKind::Overloaded => ErrorCode::Overloaded,
        FailureKind::TooLarge => ErrorCode::TooLarge,
        FailureKind::Timeout => ErrorCode::Timeout,
        FailureKind::OutcomeUnknown => ErrorCode::OutcomeUnknown,
    };
    ErrorBody::new(code, failure.message.clone())
}
