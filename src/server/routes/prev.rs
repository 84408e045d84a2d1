//! `prev=true` of a put, a delete and the delete of a range: the answer shows what was there before. Such a write is a
//! transaction of one step: it compares, reads and writes at once, and has its limits and its short form.

use super::txn_answer;
use super::writes::{self, Done};
use crate::api::{ErrorBody, ErrorCode, Prev, PrevReply};
use crate::vocabulary::{
    Compare, Condition, KeyRange, Keys, Operator, Outcome, PutLease, Target, Txn, TxnAnswer, TxnList, TxnOp,
    TxnResult,
};

/// A put that shows the record before.
pub(super) fn put(key: Vec<u8>, value: Vec<u8>, lease: PutLease, condition: Option<Condition>) -> Txn {
    let step = TxnOp::Put { key: key.clone(), value: Some(value), lease, prev: true };
    under(key, condition, step)
}

/// A delete that shows the record before.
pub(super) fn delete(key: Vec<u8>, condition: Option<Condition>) -> Txn {
    let step = TxnOp::Delete { keys: Keys::One(key.clone()), prev: true };
    under(key, condition, step)
}

/// A delete of a range that shows what went.
pub(super) fn delete_range(range: KeyRange) -> Txn {
    Txn { then: vec![TxnOp::Delete { keys: Keys::Range(range), prev: true }], ..Txn::default() }
}

/// If the condition does not hold, the key says why.
fn under(key: Vec<u8>, condition: Option<Condition>, step: TxnOp) -> Txn {
    let compare = condition.map(|condition| {
        let (operator, target) = match condition {
            // No key has revision 0, and an absent one is compared as 0.
            Condition::ModRevision(0) => (Operator::Less, Target::ModRevision(0)),
            Condition::ModRevision(revision) => (Operator::Equal, Target::ModRevision(revision)),
            Condition::Exists => (Operator::Greater, Target::Version(0)),
            Condition::Absent => (Operator::Equal, Target::Version(0)),
            Condition::Version(version) => (Operator::Equal, Target::Version(version)),
        };
        Compare { keys: Keys::One(key.clone()), operator, target }
    });
    // Its value is not asked for: the answer is not too large, however large the value is.
    let why = compare.is_some().then(|| {
        let end = [&key[..], &[0]].concat();
        let range = KeyRange::between(key, Some(end));
        let (limit, is_descending) = (1, false);
        TxnOp::List(TxnList {
            range,
            revision: None,
            limit,
            is_descending,
            keys_only: true,
            count_only: false,
        })
    });
    Txn { compares: compare.into_iter().collect(), then: vec![step], otherwise: why.into_iter().collect() }
}

/// What such a write is told. The removal of a range shows many records, a write of a key one or none.
pub(super) fn decided(outcome: &Outcome, is_range: bool) -> Result<Done, ErrorBody> {
    let reply = match outcome {
        Outcome::Txn(answer) => answered(answer, is_range)?,
        Outcome::TxnShort { revision, succeeded: true, deleted, puts } => {
            let deleted = (*puts == 0).then_some(*deleted);
            PrevReply { revision: *revision, deleted, truncated: true, ..PrevReply::default() }
        }
        // Only a key that is long is not remembered whole.
        Outcome::TxnShort { revision, .. } => {
            let text = "the condition did not hold; what was there then is not remembered: read the key";
            return Err(ErrorBody::new(ErrorCode::PreconditionFailed, text).with_revision(*revision));
        }
        Outcome::TxnTooLarge { max_bytes, .. } => {
            let text = format!(
                "what was there before has more than {max_bytes} bytes: nothing was done; leave out prev=true, or go by parts"
            );
            return Err(ErrorBody::new(ErrorCode::TooLarge, text));
        }
        other => return writes::decided(other),
    };
    Ok(Done::Prev(Box::new(reply)))
}

fn answered(answer: &TxnAnswer, is_range: bool) -> Result<PrevReply, ErrorBody> {
    let TxnAnswer { revision, succeeded, results } = answer;
    let base = PrevReply { revision: *revision, ..PrevReply::default() };
    match &results[..] {
        [TxnResult::Put { create_revision, version, prev }] => Ok(PrevReply {
            create_revision: Some(*create_revision),
            version: Some(*version),
            prev: Some(Prev::One(prev.iter().flatten().map(txn_answer::record).next())),
            ..base
        }),
        [TxnResult::Delete { deleted, prev }] => {
            let mut records = prev.iter().flatten().map(txn_answer::record);
            let prev = if is_range { Prev::Many(records.collect()) } else { Prev::One(records.next()) };
            Ok(PrevReply { deleted: Some(*deleted), prev: Some(prev), ..base })
        }
        results => {
            assert!(!succeeded, "a write of one step has one result: {results:?}");
            let (mod_revision, version) = match results {
                [TxnResult::List { rows, .. }] => {
                    rows.first().map_or((0, 0), |row| (row.mod_revision, row.version))
                }
                _ => (0, 0),
            };
            Err(writes::precondition_failed(*revision, mod_revision, version))
        }
    }
}
