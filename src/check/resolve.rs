//! Resolves unknown writes by proof. A write of unknown outcome may take effect at any time after its call or never,
//! and each one multiplies the orders that a search has to try. Two things prove more:
//!
//! - somebody read the value: values are unique, so the write was done before that read returned;
//! - the committed log, whole: a put that is not in it never was and, when the log is closed, never will be; one that is
//!   in it exactly once took effect at that index.
//!
//! Nothing else is used; above all no time at which something was only heard of.

use std::collections::{BTreeMap, HashMap};

use super::history::{Answer, Event, Op};
use super::txn::{TxnOp, TxnResult};

/// The puts in a committed log that is known from its first entry to its last, and that no further entry of the history
/// can be added to.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    puts: BTreeMap<(String, String), Vec<u64>>,
}

impl Committed {
    /// A put of `value` to `key` stands at `index`, and was executed there: its condition held and it was no repetition.
    pub fn put(&mut self, key: &str, value: &str, index: u64) {
        self.puts.entry((key.to_owned(), value.to_owned())).or_default().push(index);
    }
}

/// The history with every put resolved that a read, or the committed log, proves. Reads and answered writes stay as
/// they are.
pub fn resolve_unknown(history: &[Event], committed: Option<&Committed>) -> Vec<Event> {
    let seen = first_seen(history);
    let mut resolved = history.to_vec();
    for event in &mut resolved {
        let (Op::Put { key, value, .. }, Answer::Unknown) = (&event.op, &event.answer) else { continue };
        if let Some(committed) = committed {
            match committed.puts.get(&(key.clone(), value.clone())).map(Vec::as_slice) {
                None | Some([]) => {
                    event.answer = Answer::NotDone;
                    event.return_ns = event.return_ns.max(event.call_ns);
                }
                Some([index]) => event.index = Some(*index),
                // Twice is a fault of the store, for the other checks to find.
                Some(_) => continue,
            }
        }
        if let Some(&(return_ns, revision)) = seen.get(&(key.as_str(), value.as_str()))
            && event.call_ns <= return_ns
            && event.answer == Answer::Unknown
        {
            event.answer = Answer::Written { revision };
            event.return_ns = return_ns;
        }
    }
    resolved
}

/// For each value that a read showed: when the first of these reads returned, and the revision it named.
fn first_seen(history: &[Event]) -> HashMap<(&str, &str), (u64, u64)> {
    let mut seen: HashMap<(&str, &str), (u64, u64)> = HashMap::new();
    let mut see = |key, value, return_ns, revision| {
        let first = seen.entry((key, value)).or_insert((return_ns, revision));
        *first = (*first).min((return_ns, revision));
    };
    for event in history {
        match (&event.op, &event.answer) {
            (Op::Get { key }, Answer::Value { value, mod_revision }) => {
                see(key.as_str(), value.as_str(), event.return_ns, *mod_revision);
            }
            (Op::List { .. }, Answer::Listed { rows, .. }) => {
                for row in rows {
                    see(row.key.as_str(), row.value.as_str(), event.return_ns, row.mod_revision);
                }
            }
            (Op::Txn(txn), Answer::Txn { succeeded, results, .. }) => {
                for (op, result) in txn.branch(*succeeded).iter().zip(results) {
                    if let (TxnOp::Get { key }, TxnResult::Value { value, mod_revision }) = (op, result) {
                        see(key.as_str(), value.as_str(), event.return_ns, *mod_revision);
                    }
                }
            }
            _ => {}
        }
    }
    seen
}
