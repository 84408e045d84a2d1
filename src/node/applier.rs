//! The applier: feeds committed entries to the state machine, in order, and completes the writes that waited for them.

use std::sync::Arc;
use std::time::Instant;

use super::{Next, Node};
use crate::raft::{Apply, Entry, Index, Term, Time};
use crate::store::{Applied, Kv};

/// Applies committed entries.
pub struct Applier;

impl Applier {
    /// Applies entries in order; for each one its place and, when it is a command, its outcome.
    pub fn step(entries: &[Entry], kv: &mut Kv) -> Vec<(Index, Term, Option<Applied>)> {
        entries.iter().map(|entry| (entry.index(), entry.term(), kv.apply(entry))).collect()
    }
}

/// The thread. One batch per lock of the store; the answers leave when the batch is applied.
pub(super) fn run(node: &Arc<Node>) {
    loop {
        let task = node.wait(&node.bells.applier, |core, _| match core.raft.poll_apply() {
            _ if core.is_stopping => Next::Do(None),
            Some(apply) => Next::Do(Some(apply)),
            None => Next::SleepUntil(Time::NEVER),
        });
        let Some(Apply::Entries(entries)) = task else { return };
        let began = Instant::now();
        let applied = node.with_kv_mut(|kv| Applier::step(&entries, kv));
        node.counters.apply.observe_duration(began.elapsed());
        node.counters.apply_batch.observe_size(entries.len());
        node.step(|core, _| core.handle_applied(applied));
    }
}
