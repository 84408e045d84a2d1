//! Decides whether what clients saw of a store could have come from one map that does one thing at a time. Pure: events
//! in, a verdict out.
//!
//! [`check`] looks three times.
//!
//! 1. [`check_revisions`] uses that the store numbers its changes: each revision belongs to one write, which may change
//!    several keys, and a write called after another one returned has the higher revision, whatever their keys.
//! 2. [`check_order`] uses that every answer names the log index at which it took effect. So the order is given: a plain
//!    map replays it, every answer must be what that map says, and no operation may be ordered before one that returned
//!    before it was called. Takes lists, and millions of events.
//! 3. [`check_linearizable`] trusts no index. For each group of keys that writes tie together, mostly one key on its own
//!    (linearizability is local: Herlihy and Wing, §3.2), it searches an order of the operations that explains every
//!    answer: the search of Wing and Gong, with Lowe's memory of what was already tried. To it a list is a read of each
//!    group; a removal of a range, and a transaction, is one operation on all of its keys.
//!
//! The checker shares the names of things with the rest of dkv, and their JSON; what they mean it says itself, so that it
//! is a second opinion.
//!
//! What a history must be: no key exists before it begins; no two puts of one key have the same value, and no sum of a
//! counter comes twice ([`draw_amount`] sees to that); a write repeated
//! under one idempotency key is one event; stale reads and reads of old revisions are left out; times come from one
//! clock. Times that are equal count as concurrent.
//!
//! [`draw_operation`] draws what the random clients of a history ask.
//!
//! What is unknown stays unknown: a read without answer says nothing and is dropped, a write without answer may take
//! effect at any time after its call, or never. [`resolve_unknown`] resolves what the answers of others, or the log,
//! prove.

mod draw;
mod history;
mod names;
mod order;
mod resolve;
mod search;
mod txn;
mod txn_leaves;
mod txn_steps;
mod value;

use std::fmt;

pub use draw::{Parts, draw_amount, draw_condition, draw_kind, draw_operation, draw_txn, write_of};
pub use history::{Answer, Condition, Event, Op, Row, read_history, write_history};
pub use order::check_order;
pub use resolve::{Committed, resolve_unknown};
pub use search::check_linearizable;
pub use txn::{Holds, Test, Txn, TxnOp, TxnResult};

use names::Names;

/// When a search is given up as undecided.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Steps per group of keys. A history without fault takes about one step per event.
    pub max_steps: usize,
    /// Bytes per group of keys that the memory of what was tried may take.
    pub max_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_steps: 1_000_000, max_bytes: 1 << 30 }
    }
}

/// Why a history is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is no history: the harness recorded what cannot have been.
    Malformed(String),
    /// The revisions in the answers contradict each other or real time.
    Revisions(String),
    /// The answers do not fit the order of their log indexes, or that order contradicts real time.
    Order(String),
    /// No order explains the answers about this key, or these keys together.
    NotLinearizable {
        /// The key; several with commas.
        key: String,
        /// How far the search got, and what it could not place.
        report: String,
    },
    /// It could not be found out within the limits: neither good nor bad, and so a failure of the test.
    Undecided {
        /// The key; several with commas.
        key: String,
        /// Why it was given up.
        why: String,
    },
}

impl Fault {
    /// Whether the history may be good all the same.
    pub fn is_undecided(&self) -> bool {
        matches!(self, Fault::Undecided { .. })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Malformed(text) => write!(f, "this is no history: {text}"),
            Fault::Revisions(text) => write!(f, "the revisions contradict each other: {text}"),
            Fault::Order(text) => write!(f, "the order of the log does not explain the answers: {text}"),
            Fault::NotLinearizable { key, report } => write!(f, "key {key:?} is not linearizable: {report}"),
            Fault::Undecided { key, why } => write!(f, "key {key:?} is undecided: {why}"),
        }
    }
}

impl std::error::Error for Fault {}

/// Checks a history in every way. What is surely wrong is said before what is undecided.
///
/// # Errors
/// The first fault found.
pub fn check(history: &[Event], limits: &Limits) -> Result<(), Fault> {
    check_revisions(history)?;
    let order = check_order(history);
    match order {
        Err(fault) if !fault.is_undecided() => Err(fault),
        _ => check_linearizable(history, limits).and(order),
    }
}

/// Checks that revisions agree with each other and with real time, over all keys.
///
/// # Errors
/// [`Fault::Revisions`] or [`Fault::Malformed`].
pub fn check_revisions(history: &[Event]) -> Result<(), Fault> {
    Names::new(history)?;
    let mut returned: Vec<(u64, u64, &Event)> =
        history.iter().filter_map(|e| Some((e.return_ns, seen_revision(&e.answer)?, e))).collect();
    returned.sort_unstable_by_key(|(return_ns, ..)| *return_ns);
    let mut called: Vec<&Event> = history.iter().collect();
    called.sort_unstable_by_key(|event| event.call_ns);
    let mut returned = returned.into_iter().peekable();
    let mut greatest: Option<(u64, &Event)> = None;
    for event in called {
        while let Some((_, revision, earlier)) =
            returned.next_if(|(return_ns, ..)| *return_ns < event.call_ns)
        {
            if greatest.is_none_or(|(greatest, _)| revision > greatest) {
                greatest = Some((revision, earlier));
            }
        }
        let Some(newest) = newest_before(&event.answer) else { continue };
        if let Some((greatest, earlier)) = greatest
            && greatest > newest
        {
            return Err(Fault::Revisions(format!("{event} was called after the return of {earlier}")));
        }
    }
    Ok(())
}

/// A revision that surely existed when the answer was given.
fn seen_revision(answer: &Answer) -> Option<u64> {
    match *answer {
        Answer::Value { mod_revision, .. }
        | Answer::PreconditionFailed { mod_revision }
        | Answer::Conflict { mod_revision } => Some(mod_revision),
        Answer::Written { revision }
        | Answer::Added { revision, .. }
        | Answer::Deleted { revision, .. }
        | Answer::DeletedRange { revision, .. }
        | Answer::Txn { revision, .. }
        | Answer::Listed { revision, .. } => Some(revision),
        Answer::Absent | Answer::NotDone | Answer::Unknown => None,
    }
}

/// The revision of the store just before, where the answer tells it.
fn newest_before(answer: &Answer) -> Option<u64> {
    match *answer {
        Answer::Deleted { revision, deleted: false }
        | Answer::DeletedRange { revision, deleted: 0 }
        | Answer::Listed { revision, .. } => Some(revision),
        Answer::Txn { revision, .. } if change(answer).is_none() => Some(revision),
        _ => change(answer).map(|revision| revision - 1),
    }
}

/// The revision of the change that was answered.
fn change(answer: &Answer) -> Option<u64> {
    match *answer {
        Answer::Written { revision }
        | Answer::Added { revision, .. }
        | Answer::Deleted { revision, deleted: true } => Some(revision),
        Answer::DeletedRange { revision, deleted } if deleted > 0 => Some(revision),
        Answer::Txn { revision, ref results, .. } if results.iter().any(TxnResult::is_change) => {
            Some(revision)
        }
        _ => None,
    }
}
