//! Two looks at a history that need no search: acknowledged writes that are gone, and reads that are stale. What they
//! find the checker finds too; they say it in fewer words, and count it.

use std::collections::BTreeMap;

use dkv::check::{Answer, Event, Op};

/// A write that was acknowledged.
pub struct Acknowledged<'a> {
    /// The write.
    pub event: &'a Event,
    /// Its key.
    pub key: &'a str,
    /// The revision it made.
    pub revision: u64,
    /// Its value; none for a delete.
    pub value: Option<&'a str>,
}

/// Every acknowledged write that changed something.
pub fn acknowledged(events: &[Event]) -> Vec<Acknowledged<'_>> {
    events.iter().filter_map(acknowledged_by).collect()
}

fn acknowledged_by(event: &Event) -> Option<Acknowledged<'_>> {
    // No catch-all for operations: a new one would be lost from the promise in silence.
    match (&event.op, &event.answer) {
        (Op::Put { key, value, .. }, &Answer::Written { revision }) => {
            Some(Acknowledged { event, key, revision, value: Some(value) })
        }
        (Op::Delete { key, .. }, &Answer::Deleted { revision, deleted: true }) => {
            Some(Acknowledged { event, key, revision, value: None })
        }
        // The keys that a removal of a range takes are judged one by one, in `by_key`.
        (
            Op::Put { .. } | Op::Delete { .. } | Op::DeleteRange { .. } | Op::Get { .. } | Op::List { .. },
            _,
        ) => None,
    }
}

/// The history of each key on its own, for [`stale_reads`]: a list is a read of every key that it could have shown, and a
/// removal of a range is a removal of each.
pub fn by_key(events: &[Event]) -> BTreeMap<String, Vec<Event>> {
    let mut keys: BTreeMap<String, Vec<Event>> = BTreeMap::new();
    for event in events {
        if let Some(key) = event.op.key() {
            keys.entry(key.to_owned()).or_default().push(event.clone());
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
        Answer::Written { revision } | Answer::Deleted { revision, deleted: true } => Some(revision),
        _ => None,
    }
}
