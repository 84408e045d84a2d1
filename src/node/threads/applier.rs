//! The applier: feeds committed entries to the state machine, in order, and completes the writes that waited for them.

use std::sync::Arc;
use std::time::Instant;

use super::guard;
use crate::node::{Next, Node, lock};
use crate::raft::{Apply, Entry, EntryKind, Index, Position, Term, Time};
use crate::store::wal::LogReader;
use crate::store::{Applied, Kv, Unreadable};

/// Applies committed entries.
pub struct Applier;

impl Applier {
    /// Applies entries in order. Returns for each entry its position and, when it is a command, its outcome.
    ///
    /// # Errors
    /// An entry was written by a newer program. The entries before it are applied.
    pub fn step(entries: &[Entry], kv: &mut Kv) -> Result<Vec<(Index, Term, Option<Applied>)>, Unreadable> {
        entries.iter().map(|entry| Ok((entry.index(), entry.term(), kv.try_apply(entry)?))).collect()
    }
}

/// The thread. One batch per lock of the store; the answers leave when the batch is applied.
pub(in crate::node) fn run(node: &Arc<Node>) {
    let mut log = LogReader::new(node.disk.clone());
    loop {
        let task = node.wait(&node.wakeups.applier, |state, _| match state.raft.poll_apply() {
            _ if state.is_stopping => Next::Do(None),
            Some(apply) => Next::Do(Some(apply)),
            None => Next::sleep_until(Time::NEVER),
        });
        let entries = match task {
            Some(Apply::Entries(entries)) => entries,
            Some(Apply::Read(wanted)) => match log.read(&wanted) {
                Ok(entries) => entries,
                Err(_) if node.step(|state, _| state.raft.handle_apply_read_failed()) => continue,
                Err(e) => guard::fail(&format!("entry {} cannot be read back and applied: {e}", wanted.from)),
            },
            Some(Apply::Restore(last)) => {
                restore(node, last);
                continue;
            }
            None => return,
        };
        let began = Instant::now();
        let (applied, has_leases) = node
            .with_kv_mut(|kv| Applier::step(&entries, kv).map(|applied| (applied, kv.has_leases())))
            .unwrap_or_else(|e| guard::end_for_another_program(&e.to_string()));
        node.counters.apply.observe_duration(began.elapsed());
        node.counters.apply_batch.observe_size(entries.len());
        if has_leases {
            node.note_leases();
        }
        node.watches.note_applied();
        node.step(|state, _| state.handle_applied(applied));
        if entries.iter().any(|entry| entry.kind() == EntryKind::Membership) {
            node.look_for_removal();
        }
    }
}

/// Replaces the whole state by the state of the received snapshot.
fn restore(node: &Arc<Node>, last: Position) {
    let mut kv =
        lock(&node.received).remove(&last.index).expect("a snapshot is loaded before it is installed");
    kv.set_program(node.options.protocol);
    // The old state is dropped outside of the lock, because dropping it takes a while.
    let has_leases = kv.has_leases();
    drop(node.with_kv_mut(|old| std::mem::replace(old, kv)));
    if has_leases {
        node.note_leases();
    }
    node.watches.note_applied();
    node.step(|state, _| state.handle_restored(last));
    node.look_for_removal();
}
