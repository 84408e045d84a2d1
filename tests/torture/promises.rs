//! Two looks at a history that need no search: acknowledged writes that are gone, and reads that are stale. What they
//! find the checker finds too; they say it in fewer words, and count it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use dkv::check::{Answer, Event, Op, Txn, TxnOp, TxnResult};

/// A write that was acknowledged.
pub struct Acknowledged<'a> {
    /// The write.
    pub event: &'a Event,
    /// Its key.
    pub key: &'a str,
    /// The revision it made.
    pub revision: u64,
    /// Its value; none for a delete.
    pub value: Option<Cow<'a, str>>,
}

/// Every acknowledged write that changed something.
pub fn acknowledged(events: &[Event]) -> Vec<Acknowledged<'_>> {
    events.iter().flat_map(acknowledged_by).collect()
}

fn acknowledged_by(event: &Event) -> Vec<Acknowledged<'_>> {
    // No catch-all for operations: a new one would be lost from the promise in silence.
    match (&event.op, &event.answer) {
        (Op::Put { key, value, .. }, &Answer::Written { revision }) => {
            vec![Acknowledged { event, key, revision, value: Some(value.into()) }]
        }
        (Op::Add { key, .. }, &Answer::Added { revision, value }) => {
            vec![Acknowledged { event, key, revision, value: Some(value.to_string().into()) }]
        }
        (Op::Delete { key, .. }, &Answer::Deleted { revision, deleted: true }) => {
            vec![Acknowledged { event, key, revision, value: None }]
        }
        (Op::Txn(txn), Answer::Txn { revision, succeeded, results }) => {
            // A transaction writes a key once.
            let written = executed(txn, *succeeded, results).filter_map(|(op, result)| match (op, result) {
                (TxnOp::Put { key, value }, TxnResult::Written) => Some((key, Some(value.as_str()))),
                (TxnOp::Delete { key }, TxnResult::Deleted { deleted: true }) => Some((key, None)),
                _ => None,
            });
            let written = written.map(|(key, value)| (key, value.map(Cow::Borrowed)));
            written.map(|(key, value)| Acknowledged { event, key, revision: *revision, value }).collect()
        }
        // The keys that a removal of a range takes are judged one by one, in `by_key`.
        (
            Op::Put { .. }
            | Op::Delete { .. }
            | Op::Add { .. }
            | Op::DeleteRange { .. }
            | Op::Txn(_)
            | Op::Get { .. }
            | Op::List { .. },
            _,
        ) => Vec::new(),
    }
}

/// The operations of a transaction that were executed, with their results.
fn executed<'a>(
    txn: &'a Txn,
    succeeded: bool,
    results: &'a [TxnResult],
) -> impl Iterator<Item = (&'a TxnOp, &'a TxnResult)> {
    if succeeded { &txn.then } else { &txn.otherwise }.iter().zip(results)
}

/// The parts of a transaction as operations of their own: what it wrote, what it read before it wrote; and what it may
/// have removed when nobody knows.
fn parts(event: &Event) -> Vec<Event> {
    let Op::Txn(txn) = &event.op else { return Vec::new() };
    let part = |op: Op, answer: Answer| Event { op, answer, ..event.clone() };
    let put =
        |key: &String, value: &String| Op::Put { key: key.clone(), value: value.clone(), condition: None };
    let delete = |key: &String| Op::Delete { key: key.clone(), condition: None };
    match &event.answer {
        Answer::Txn { revision, succeeded, results } => {
            let mut written: Vec<&str> = Vec::new();
            let parts = executed(txn, *succeeded, results).filter_map(|(op, result)| {
                let revision = *revision;
                match (op, result) {
                    (TxnOp::Put { key, value }, _) => {
                        written.push(key);
                        Some(part(put(key, value), Answer::Written { revision }))
                    }
                    (TxnOp::Delete { key }, TxnResult::Deleted { deleted }) => {
                        written.push(key);
                        Some(part(delete(key), Answer::Deleted { revision, deleted: *deleted }))
                    }
                    (TxnOp::Get { key }, _) if written.contains(&key.as_str()) => None,
                    (TxnOp::Get { key }, TxnResult::Value { value, mod_revision }) => {
                        let answer = Answer::Value { value: value.clone(), mod_revision: *mod_revision };
                        Some(part(Op::Get { key: key.clone() }, answer))
                    }
                    (TxnOp::Get { key }, _) => Some(part(Op::Get { key: key.clone() }, Answer::Absent)),
                    (TxnOp::Delete { .. }, _) => None,
                }
            });
            parts.collect()
        }
        Answer::Unknown => {
            let removed = txn.then.iter().chain(&txn.otherwise).filter_map(|op| match op {
                TxnOp::Delete { key } => Some(part(delete(key), Answer::Unknown)),
                TxnOp::Put { .. } | TxnOp::Get { .. } => None,
            });
            removed.collect()
        }
        _ => Vec::new(),
    }
}

/// The history of each key on its own, for [`stale_reads`]: a list is a read of every key that it could have shown, a
/// removal of a range is a removal of each, and a transaction is what it did to each.
pub fn by_key(events: &[Event]) -> BTreeMap<String, Vec<Event>> {
    let mut keys: BTreeMap<String, Vec<Event>> = BTreeMap::new();
    for event in events {
        if let Some(key) = event.op.key() {
            keys.entry(key.to_owned()).or_default().push(event.clone());
        }
        for part in parts(event) {
            let key = part.op.key().expect("a part has one key").to_owned();
            keys.entry(key).or_default().push(part);
        }
    }
    for event in events.iter().filter(|event| matches!(event.op, Op::DeleteRange { .. })) {
        for (key, events) in keys.iter_mut().filter(|(key, _)| event.op.concerns(key)) {
            // Whether the key was there does not matter here: from this revision on nothing older can be seen.
            let answer = match event.answer {
                Answer::DeletedRange { revision, deleted } => {
                    Answer::Deleted { revision, deleted: deleted > 0 }
                }
                ref other => other.clone(),
            };
            events.push(Event {
                op: Op::Delete { key: key.clone(), condition: None },
                answer,
                ..event.clone()
            });
        }
    }
    for event in events {
        let (Op::List { prefix }, Answer::Listed { rows, .. }) = (&event.op, &event.answer) else { continue };
        for (key, events) in keys.iter_mut().filter(|(key, _)| key.starts_with(prefix.as_str())) {
            let row = rows.iter().find(|row| row.key == *key);
            let answer = row.map_or(Answer::Absent, |row| Answer::Value {
                value: row.value.clone(),
                mod_revision: row.mod_revision,
            });
            events.push(Event { op: Op::Get { key: key.clone() }, answer, ..event.clone() });
        }
    }
    keys
}

/// Reads of one key that show less than what was acknowledged before they began: a smaller revision, or no key where
/// no delete can explain it.
pub fn stale_reads(events: &[Event]) -> Vec<String> {
    // By the time they returned: the greatest revision acknowledged so far.
    let made = events.iter().filter_map(|event| Some((event.return_ns, revision_made(event)?)));
    let mut writes: Vec<(u64, u64)> = made.collect();
    writes.sort_unstable();
    let mut greatest = 0;
    for (_, revision) in &mut writes {
        greatest = greatest.max(*revision);
        *revision = greatest;
    }
    let deletes: Vec<&Event> = events.iter().filter(|e| matches!(e.op, Op::Delete { .. })).collect();
    let mut found = Vec::new();
    for read in events {
        let before = writes.partition_point(|(return_ns, _)| *return_ns < read.call_ns);
        let Some((_, revision)) = before.checked_sub(1).map(|last| writes[last]) else { continue };
        let is_stale = match read.answer {
            Answer::Value { mod_revision, .. } => mod_revision < revision,
            // A delete explains it if it may have come after the greatest write.
            Answer::Absent => !deletes.iter().any(|delete| match delete.answer {
                Answer::Deleted { revision: made, deleted: true } => made >= revision,
                Answer::Unknown => delete.call_ns < read.return_ns,
                _ => false,
            }),
            _ => false,
        };
        if is_stale {
            found
                .push(format!("stale: {read}, called after revision {revision} of the key was acknowledged"));
        }
    }
    found
}

/// The revision that a write made.
fn revision_made(event: &Event) -> Option<u64> {
    match event.answer {
        Answer::Written { revision }
        | Answer::Added { revision, .. }
        | Answer::Deleted { revision, deleted: true } => Some(revision),
        _ => None,
    }
}
