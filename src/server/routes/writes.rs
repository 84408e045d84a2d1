//! From a write's request to its command, and from what the state machine decided to the words of the API.

use std::time::{SystemTime, UNIX_EPOCH};

use super::lists;
use super::params::{self, Query, invalid};
use super::{lease_names, states, txn_answer};
use crate::api::{
    AddReply, CompactReply, DeleteReply, ErrorBody, ErrorCode, LeaseReply, PrevReply, PutReply, RevokeReply,
    TxnReply,
};
use crate::server::edge::Request;
use crate::store::{Command, Idempotency, ReadError, request_hash};
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

/// `DELETE /v1/kv`: which keys go, and whether they are to be shown. Nothing said does not mean everything.
///
/// # Errors
/// `invalid_request`: no range, two of them, a condition, a body.
pub(super) fn parse_delete_range(request: &Request) -> Result<(KeyRange, bool), ErrorBody> {
    let query = Query::parse_with_bytes(request.query.as_deref(), &["all", "prev"], &lists::BYTE_PARAMETERS)?;
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
        let text = "a range takes no If-Match, If-None-Match or If-Version: it has no single key to compare";
        return Err(invalid(text));
    }
    if !request.body.is_empty() {
        return Err(invalid("a DELETE has no body"));
    }
    Ok((KeyRange::new(prefix, start, end), query.flag("prev")?))
}

/// `POST /v1/kv/{key}`: what is added to the counter.
///
/// # Errors
/// `invalid_request`: no amount, or a body.
pub(super) fn parse_add(key: Vec<u8>, request: &Request) -> Result<Op, ErrorBody> {
    let query = Query::parse(request.query.as_deref(), &["add"])?;
    let Some(amount) = query.signed("add")? else {
        return Err(invalid("a POST adds to a counter: say add=N. To write a value, use PUT"));
    };
    if !request.body.is_empty() {
        return Err(invalid("a POST that adds to a counter has no body: the amount is add=N"));
    }
    Ok(Op::Add { key, amount })
}

/// A write that the state machine did.
pub(super) enum Done {
    /// The key has the value.
    Put(PutReply),
    /// What was to be removed is absent.
    Deleted(DeleteReply),
    /// The counter has the value.
    Added(AddReply),
    /// The transaction is done.
    Txn(TxnReply),
    /// The lease lives.
    Lease(LeaseReply),
    /// The lease and its keys are gone.
    Revoked(RevokeReply),
    /// The write is done, with what was there before.
    Prev(Box<PrevReply>),
    /// History is forgotten.
    Compacted(CompactReply),
}

/// What a write is told: what is done, or why the state machine refused it.
pub(super) fn decided(outcome: &Outcome) -> Result<Done, ErrorBody> {
    match *outcome {
        Outcome::Txn(ref answer) => Ok(Done::Txn(txn_answer::answered(answer))),
        Outcome::TxnShort { revision, succeeded, puts, deleted } => Ok(Done::Txn(TxnReply {
            revision,
            succeeded,
            results: Vec::new(),
            truncated: true,
            puts: Some(puts),
            deleted: Some(deleted),
        })),
        Outcome::LeaseGranted { lease, ttl_s } => Ok(Done::Lease(LeaseReply { lease, ttl_s })),
        // One request renews one lease; which one, its caller knows.
        Outcome::LeasesRenewed { .. } => {
            unreachable!("renewals are taken apart before they are answered")
        }
        Outcome::LeasesEnded { revision, deleted, .. } => {
            Ok(Done::Revoked(RevokeReply { revision, deleted }))
        }
        Outcome::FloorRaised { floor } => Ok(Done::Compacted(CompactReply { floor })),
        Outcome::LeaseNotFound { lease } => Err(lease_names::not_found(lease)),
        Outcome::LeaseExists { lease } => {
            let text = format!("there is a lease {lease} already: take another id, or none");
            Err(ErrorBody::new(ErrorCode::Conflict, text))
        }
        Outcome::TooManyLeases { max_leases } => {
            let text =
                format!("there are {max_leases} leases, and no more are allowed: revoke some, or wait");
            Err(ErrorBody::new(ErrorCode::Overloaded, text))
        }
        Outcome::KeyNotFound { revision } => {
            let text = "a key was to keep its value or its lease, and does not exist: nothing was done";
            Err(ErrorBody::new(ErrorCode::KeyNotFound, text).with_revision(revision))
        }
        Outcome::Compacted { wanted, floor } => {
            Err(states::unreadable(ReadError::Compacted { wanted, floor }))
        }
        Outcome::FutureRevision { wanted, revision } => {
            Err(states::unreadable(ReadError::Future { wanted, revision }))
        }
        Outcome::TxnTooLarge { max_bytes, max_keys } => {
            let text = format!(
                "the results of the transaction have more than {max_bytes} bytes, or its ranges look at more than \
                 {max_keys} keys: nothing was done; ask for less, or by parts"
            );
            Err(ErrorBody::new(ErrorCode::TooLarge, text))
        }
        Outcome::Put { revision, create_revision, version } => {
            Ok(Done::Put(PutReply { revision, create_revision, version }))
        }
        Outcome::Deleted { revision, deleted } => Ok(Done::Deleted(DeleteReply { revision, deleted })),
        Outcome::PreconditionFailed { revision, mod_revision, version } => {
            Err(precondition_failed(revision, mod_revision, version))
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
        Outcome::Added { revision, version, value } => Ok(Done::Added(AddReply { revision, version, value })),
        Outcome::NotAnInteger { revision, mod_revision, version } => {
            let text = "the value of the key is no counter: that is a decimal integer of 64 bits and nothing else, as 0, 17 or \
                        -3";
            let body = ErrorBody::new(ErrorCode::Conflict, text);
            Err(body.with_key(mod_revision, version).with_revision(revision))
        }
        Outcome::OutOfRange { revision, mod_revision, version, value } => {
            let text = format!(
                "the counter would overflow: it is {value}, and a counter goes from {} to {}",
                i64::MIN,
                i64::MAX
            );
            let body = ErrorBody::new(ErrorCode::Conflict, text);
            Err(body.with_key(mod_revision, version).with_revision(revision))
        }
    }
}

/// The condition of a write does not hold of the key as it is; both numbers are 0 when it is absent.
pub(super) fn precondition_failed(revision: u64, mod_revision: u64, version: u64) -> ErrorBody {
    let text = match mod_revision {
        0 => "the condition does not hold: the key is absent".to_owned(),
        at => {
            format!(
                "the condition does not hold: the key was last written at revision {at} (version {version})"
            )
        }
    };
    let body = ErrorBody::new(ErrorCode::PreconditionFailed, text);
    body.with_key(mod_revision, version).with_revision(revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::edge::Method;

    fn range(query: &str) -> Option<KeyRange> {
        let (path, query) = ("/v1/kv".to_owned(), Some(query.to_owned()));
        let (headers, body) = (Vec::new(), Vec::new());
        let request = Request { method: Method::Delete, path, query, headers, body, from_loopback: true };
        parse_delete_range(&request).ok().map(|(range, _)| range)
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
