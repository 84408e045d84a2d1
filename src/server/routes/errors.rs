//! What a client is told when the node says no: the API's words for what the node knows.

use crate::api::{ErrorBody, ErrorCode};
use crate::node::{Failure, FailureKind};

pub(super) fn failed(failure: &Failure) -> ErrorBody {
    let code = match failure.kind {
        FailureKind::Unavailable => ErrorCode::Unavailable,
        FailureKind::Overloaded => ErrorCode::Overloaded,
        FailureKind::TooLarge => ErrorCode::TooLarge,
        FailureKind::Unsupported => ErrorCode::Unsupported,
        FailureKind::Timeout => ErrorCode::Timeout,
        FailureKind::OutcomeUnknown => ErrorCode::OutcomeUnknown,
    };
    ErrorBody::new(code, failure.message.clone())
}
