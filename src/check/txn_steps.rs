//! What an answered transaction means for each of its keys.

use super::Fault;
use super::history::{Answer, Event};
use super::txn::{Txn, TxnOp, TxnResult};
use super::value::Value;

/// What an answered transaction says of a key before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing.
    #[default]
    Any,
    /// It had this value, written at this revision.
    Value(Value),
    /// It did not exist.
    Absent,
    /// It existed.
    Exists,
}

/// What an answered transaction left of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum After {
    /// What it was.
    #[default]
    Same,
    /// This value.
    Value(Value),
    /// Nothing.
    Absent,
}

/// A test of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyTest {
    Exists,
    Absent,
    ModRevision(u64),
    /// None: a value that nobody wrote.
    Value(Option<Value>),
}

/// An answered transaction as one of its keys sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct TxnStep {
    /// Whether all tests of the transaction held.
    pub succeeded: bool,
    /// The tests of this key.
    pub tests: Vec<KeyTest>,
    /// Whether the transaction tests no other key: then one of these decided it.
    pub decides: bool,
    pub before: Before,
    pub after: After,
}

/// What is known of one key within a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Local<'a> {
    Unread,
    Found(&'a str, u64),
    Gone,
}

/// What an answered transaction says of one of its keys, in values as text: before it, and after.
pub(super) struct KeyPart<'a> {
    /// None: nothing is said.
    pub before: Option<Seen<'a>>,
    /// None: as before.
    pub after: Option<Option<&'a str>>,
}

/// What a key was before a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen<'a> {
    Value(&'a str, u64),
    Absent,
    Exists,
}

/// Follows the executed operations on one key.
///
/// # Errors
/// [`Fault::Order`] when a result contradicts what the transaction itself did or read before.
pub(super) fn follow<'a>(event: &'a Event, txn: &'a Txn, key: &str) -> Result<KeyPart<'a>, Fault> {
    let Answer::Txn { revision, succeeded, results } = &event.answer else {
        unreachable!("only an answered transaction is followed")
    };
    let (mut local, mut part) = (Local::Unread, KeyPart { before: None, after: None });
    for (op, result) in txn.branch(*succeeded).iter().zip(results).filter(|(op, _)| op.key() == key) {
        let fits = match (op, result, local) {
            (TxnOp::Get { .. }, TxnResult::Value { value, mod_revision }, Local::Unread) => {
                part.before = Some(Seen::Value(value, *mod_revision));
                local = Local::Found(value, *mod_revision);
                true
            }
            (TxnOp::Get { .. }, TxnResult::Absent, Local::Unread) => {
                part.before = Some(Seen::Absent);
                local = Local::Gone;
                true
            }
            (TxnOp::Get { .. }, TxnResult::Value { value, mod_revision }, Local::Found(known, at)) => {
                value == known && *mod_revision == at
            }
            (TxnOp::Get { .. }, TxnResult::Absent, local) => local == Local::Gone,
            (TxnOp::Get { .. }, ..) => false,
            (TxnOp::Put { value, .. }, ..) => {
                part.after = Some(Some(value));
                local = Local::Found(value, *revision);
                true
            }
            (TxnOp::Delete { .. }, TxnResult::Deleted { deleted }, known) => {
                if known == Local::Unread {
                    part.before = Some(if *deleted { Seen::Exists } else { Seen::Absent });
                }
                let was_there = match known {
                    Local::Unread => *deleted,
                    Local::Found(..) => true,
                    Local::Gone => false,
                };
                if *deleted {
                    part.after = Some(None);
                }
                local = Local::Gone;
                was_there == *deleted
            }
            (TxnOp::Delete { .. }, ..) => false,
        };
        if !fits {
            return Err(Fault::Order(format!("the results about {key:?} contradict each other: {event}")));
        }
    }
    Ok(part)
}
