//! From a write's request to its command, and from what the state machine decided to the words of the API.

use std::time::{SystemTime, UNIX_EPOCH};

use super::lists;
use super::params::{self, Query, invalid};
use crate::api::{DeleteReply, ErrorBody, ErrorCode, PutReply};
use crate::server::edge::Request;
use crate::store::{Command, Idempotency, request_hash};
use crate::vocabulary::{Condition, KeyRange, Op, Outcome};

/// The command of a write.
pub(super) fn command(op: Op, condition: Option<Condition>, idempotency_key: Option<&str>) -> Command {
    let idempotency = idempotency_key
        .map(|key| Idempotency { key: key.to_owned(), request_hash: request_hash(&op, condition) });
    Command { op, condition, idempotency, wall_ms: wall_ms(), actor: String::new() }
}

/// For display beside the write; the state machine never reads it.
fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `DELETE /v1/kv`: which keys go. Nothing said does not mean everything.
///
/// # Errors
/// `invalid_request`: no range, two of them, a condition, a body.
pub(super) fn parse_delete_range(request: &Request) -> Result<Command, ErrorBody> {
    let query = Query::parse_with_bytes(request.query.as_deref(), &["all"], &lists::BYTE_PARAMETERS)?;
    let bounds @ [prefix, start, end] = lists::bounds(&query)?;
    let is_bounded = bounds.iter().any(|bound| !bound.is_empty());
    match (is_bounded, query.flag("all")?) {
        (false, false) => {
            let text = "the range is every key there is: name a prefix, a start or an end, or say all=true (dkv-cli: --all)";
            return Err(invalid(text));
        }
        (true, true) => {
            return Err(invalid("all=true removes every key: it goes with no prefix, start or end"));
        }
        (true, false) | (false, true) => {}
    }
    if params::condition(request)?.is_some() {
        let text = "a range takes neither If-Match nor If-None-Match: it has no single revision to compare";
        return Err(invalid(text));
    }
    if !request.body.is_empty() {
        return Err(invalid("a DELETE has no body"));
    }
    let op = Op::DeleteRange { range: KeyRange::new(prefix, start, end) };
    Ok(command(op, None, params::idempotency_key(request)?))
}

/// A write that the state machine did.
pub(super) enum Done {
    /// The key has the value.
    Put(PutReply),
    /// What was to be removed is absent.
    Deleted(DeleteReply),
}

/// What a write is told: what is done, or why the state machine refused it.
pub(super) fn decided(outcome: &Outcome) -> Result<Done, ErrorBody> {
    match *outcome {
        Outcome::Put { revision, create_revision, version } => {
            Ok(Done::Put(PutReply { revision, create_revision, version }))
        }
        Outcome::Deleted { revision, deleted } => Ok(Done::Deleted(DeleteReply { revision, deleted })),
        Outcome::PreconditionFailed { revision, mod_revision } => {
            let text = match mod_revision {
                0 => "the condition does not hold: the key is absent".to_owned(),
                at => format!("the condition does not hold: the key was last written at revision {at}"),
            };
            let body = ErrorBody::new(ErrorCode::PreconditionFailed, text);
            Err(body.with_mod_revision(mod_revision).with_revision(revision))
        }
        Outcome::IdempotencyMismatch => Err(ErrorBody::new(
            ErrorCode::IdempotencyMismatch,
            "this idempotency key was used for another request: use a new one for each write",
        )),
        Outcome::Overloaded => Err(ErrorBody::new(
            ErrorCode::Overloaded,
            "the table of idempotency keys is full: rows leave it with age, or write without a key",
        )),
        Outcome::RangeTooLarge { max_keys, max_bytes } => {
            let text = format!(
                "the range has more than {max_keys} keys, or they take more than {max_bytes} bytes of history, half of \
                 retention_bytes: delete it in parts, with start and end"
            );
            Err(ErrorBody::new(ErrorCode::TooLarge, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::edge::Method;

    fn range(query: &str) -> Option<KeyRange> {
        let (path, query) = ("/v1/kv".to_owned(), Some(query.to_owned()));
        let (headers, body) = (Vec::new(), Vec::new());
        let request = Request { method: Method::Delete, path, query, headers, body, from_loopback: true };
        match parse_delete_range(&request).ok()?.op {
            Op::DeleteRange { range } => Some(range),
            other => panic!("a range was asked for: {other:?}"),
        }
    }

    #[test]
    fn delete_range_needs_a_bound_or_all_and_takes_not_both() {
        assert_eq!(range("prefix=a"), Some(KeyRange::new(b"a", b"", b"")));
        assert_eq!(range("start=%ff&end="), Some(KeyRange::new(b"", b"\xff", b"")));
        assert_eq!(range("prefix=a&end=b&all=false"), Some(KeyRange::new(b"a", b"", b"b")));
        assert_eq!(range("all=true&prefix="), Some(KeyRange::new(b"", b"", b"")));
        for bad in ["", "prefix=", "start=&end=", "all=false", "all=true&prefix=a", "all=true&end=b", "all"] {
            assert_eq!(range(bad), None, "{bad:?}");
        }
    }
}
