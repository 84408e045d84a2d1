//! The snapshotter: writes the state into a file when the log has grown, while writes go on (thesis §5.1).

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::node::{Next, Node, lock};
use crate::raft::{Awaits, Position, Time};
use crate::store::View;
use crate::store::snapshot::{self, KEPT_SNAPSHOTS, SnapshotError, SnapshotFile, SnapshotWriter};

/// How long to wait for the next attempt after a snapshot that could not be written.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// While writes are applied, the snapshotter rests this many times as long as it has worked. So it takes at most a
/// quarter of a processor from the writes, for each node on a machine.
const REST_PER_WORK: u32 = 3;

/// Maximum length of a rest, even if a slow disk made a page take very long.
const LONGEST_REST: Duration = Duration::from_millis(50);

/// For this long after a write was applied, another write is expected: several pages fit between two batches.
const BUSY_FOR: Duration = Duration::from_millis(100);

/// The thread.
pub(in crate::node) fn run(node: &Arc<Node>) {
    let mut not_before = Time(0);
    loop {
        let is_stopping = node.wait(&node.wakeups.snapshotter, |state, now| {
            if state.is_stopping {
                return Next::Do(true);
            }
            if !state.poll_snapshotter() {
                return Next::sleep_until(Time::NEVER);
            }
            // Until then the applied entries do not matter, nor does a request for a backup.
            if now < not_before { Next::SleepUntil(not_before, Awaits::Nothing) } else { Next::Do(false) }
        });
        if is_stopping {
            return;
        }
        let began = Instant::now();
        match take(node) {
            Ok(Some(file)) => {
                node.counters.snapshot.observe_duration(began.elapsed());
                log::info!(
                    "saved the state through {} as {} ({} bytes, {} rows, {} ms)",
                    file.meta.last,
                    file.name,
                    file.bytes,
                    file.rows,
                    began.elapsed().as_millis()
                );
            }
            // A leader's snapshot was newer, or the node stops.
            Ok(None) => {}
            Err(e) => {
                not_before = node.clock.now() + RETRY_AFTER;
                log::warn!(
                    "the state could not be saved: {e}; the log grows until it can, next attempt in {} s",
                    RETRY_AFTER.as_secs()
                );
            }
        }
    }
}

/// Writes one snapshot; `None` when it was given up.
fn take(node: &Arc<Node>) -> Result<Option<SnapshotFile>, SnapshotError> {
    let view = node.with_kv_mut(|kv| kv.pin());
    let written = write(node, view);
    drop(node.with_kv_mut(|kv| kv.unpin()));
    let Some(writer) = written? else { return Ok(None) };
    // A snapshot never covers more than this node's log holds.
    let index = writer.header().meta.last.index;
    node.step(|state, _| state.set_snapshot_waits_for(Some(index)));
    let is_stopping = node.wait(&node.wakeups.snapshotter, |state, _| {
        if state.is_stopping || state.may_name_snapshot(index) {
            return Next::Do(state.is_stopping);
        }
        Next::sleep_until(Time::NEVER)
    });
    node.step(|state, _| state.set_snapshot_waits_for(None));
    if is_stopping {
        return Ok(None);
    }
    let file = writer.finish()?;
    node.step(|state, _| state.handle_snapshot_saved(file.meta.clone(), file.bytes));
    prune(node)?;
    Ok(Some(file))
}

fn write(node: &Arc<Node>, view: View) -> Result<Option<SnapshotWriter>, SnapshotError> {
    let mut pace = Pace { applied: view.header().meta.last, busy_until: Instant::now() + BUSY_FOR };
    let mut writer = SnapshotWriter::create(node.disk.clone(), view)?;
    loop {
        let began = Instant::now();
        // A leader's snapshot that is installed meanwhile replaces the pinned state, and is newer.
        let filled = node.with_kv(|kv| kv.is_pinned().then(|| (writer.fill(kv), kv.applied())));
        let Some((has_more, applied)) = filled else { return Ok(None) };
        if node.look(|state, _| state.is_stopping) {
            return Ok(None);
        }
        writer.flush()?;
        if !has_more {
            return Ok(Some(writer));
        }
        // The store's lock is not held here: no other thread waits while this thread rests.
        thread::sleep(pace.rest(applied, began.elapsed(), Instant::now()));
    }
}

/// How fast a snapshot is written: without rests while nothing is applied, otherwise with rests.
struct Pace {
    /// What was applied when the last page was taken.
    applied: Position,
    /// Until this time another write is expected.
    busy_until: Instant,
}

impl Pace {
    /// How long to rest after a page that took `worked`.
    fn rest(&mut self, applied: Position, worked: Duration, now: Instant) -> Duration {
        if std::mem::replace(&mut self.applied, applied) != applied {
            self.busy_until = now + BUSY_FOR;
        }
        if now < self.busy_until { LONGEST_REST.min(worked * REST_PER_WORK) } else { Duration::ZERO }
    }
}

/// Removes the snapshots that newer ones have replaced.
pub(in crate::node) fn prune(node: &Node) -> Result<(), SnapshotError> {
    // The snapshotter and the receiver both prune: only one of them at a time.
    let _one_at_a_time = lock(&node.pruning);
    snapshot::prune(&node.disk, KEPT_SNAPSHOTS).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_rests_while_writes_go_on_and_not_for_long() {
        let at = |index| Position::new(index, 1);
        let (ms, began) = (Duration::from_millis, Instant::now());
        let mut pace = Pace { applied: at(7), busy_until: began };
        assert_eq!(pace.rest(at(7), ms(4), began), Duration::ZERO, "nothing was applied");
        assert_eq!(pace.rest(at(8), ms(4), began), ms(12));
        assert_eq!(pace.rest(at(8), ms(4), began + ms(99)), ms(12), "between two batches");
        assert_eq!(pace.rest(at(8), ms(4), began + BUSY_FOR), Duration::ZERO, "nothing more");
        assert_eq!(pace.rest(at(90), ms(4_000), began), LONGEST_REST, "the disk stalled");
    }
}
