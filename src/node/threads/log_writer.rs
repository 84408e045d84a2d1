//! The log writer: makes everything that was queued durable with one sync, then reports what the disk holds. Writes
//! that are queued meanwhile form the next batch, so batching needs no tuning (group commit).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::guard::fail;
use crate::node::{Next, Node};
use crate::raft::{Index, Time, WriteBatch, WriteSeq};
use crate::store::wal::{Wal, WalError};

/// The log is sealed when nothing was written for this long: recovery can then tell corruption from a torn last
/// batch.
const SEAL_AFTER: Duration = Duration::from_millis(100);

/// Makes batches durable.
pub struct LogWriter;

impl LogWriter {
    /// Writes and syncs one batch, which is not empty; returns the number of its last write. An error is final: a
    /// failed write or sync is never retried, because afterwards the contents of the disk are unknown.
    pub fn step(batch: WriteBatch, wal: &mut Wal) -> Result<WriteSeq, WalError> {
        let seq = batch.last_seq().expect("a batch to write is not empty");
        wal.write(batch.writes.iter().map(|write| &write.op))?;
        Ok(seq)
    }
}

enum Task {
    Write(WriteBatch),
    Seal,
    /// Two snapshots hold everything through this index: the log may be cut there.
    Cut(Index),
    /// The node stops, and everything that was queued is written.
    End,
}

/// The thread. Wakes the housekeeper when the spare segment needs work.
pub(in crate::node) fn run(node: &Arc<Node>, mut wal: Wal, housekeeper: &Sender<()>) {
    // Recovery ends with a seal.
    let mut seal_at = Time::NEVER;
    // Recovery has counted what it wrote; the bytes of a seal are counted with the next write.
    let mut counted = wal.stats().used;
    loop {
        let task = node.wait(&node.wakeups.log_writer, |state, now| {
            let batch = state.raft.poll_write();
            if !batch.is_empty() {
                return Next::Do(Task::Write(batch));
            }
            if state.is_stopping {
                return Next::Do(Task::End);
            }
            if let Some(index) = state.raft.poll_cut() {
                return Next::Do(Task::Cut(index));
            }
            if now >= seal_at { Next::Do(Task::Seal) } else { Next::sleep_until(seal_at) }
        });
        let result = match task {
            Task::Write(batch) => {
                let (records, began) = (batch.writes.len(), Instant::now());
                LogWriter::step(batch, &mut wal).map(|seq| {
                    node.count_sync();
                    node.counters.log_sync.observe_duration(began.elapsed());
                    node.counters.log_batch.observe_size(records);
                    let grown = wal.stats().used - counted;
                    counted += grown;
                    node.step(|state, now| {
                        state.raft.handle_log_grown(grown);
                        state.raft.handle_persisted(seq, now);
                    });
                    seal_at = node.clock.now() + SEAL_AFTER;
                    if wal.spare_is_due() {
                        // The channel is full: a wakeup is already waiting.
                        let _ = housekeeper.try_send(());
                    }
                })
            }
            Task::Seal => {
                seal_at = Time::NEVER;
                wal.seal()
            }
            Task::Cut(index) => {
                let cut = wal.cut(index).map(drop);
                if wal.spare_is_due() {
                    let _ = housekeeper.try_send(());
                }
                cut
            }
            Task::End => {
                if let Err(e) = wal.seal() {
                    fail(&format!("the log could not be sealed: {e}"));
                }
                return;
            }
        };
        if let Err(e) = result {
            fail(&format!(
                "the log could not be written: {e}. What the disk holds now is unknown, so nothing is retried: check the \
                 disk, then start the node again"
            ));
        }
    }
}
