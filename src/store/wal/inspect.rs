//! Read-only inspection of a log: it reads and judges with the code of recovery, but repairs nothing.

use std::sync::Arc;

use crate::raft::{Entry, HardState, Index, Position, Protocol};
use crate::store::disk::Disk;

use super::format::BLOCK_BYTES;
use super::recovery::{self, Replay, Walked};
use super::{LogPlace, WalError, WalIds};

/// What a log holds, as far as it can be read, and how it ends.
#[derive(Debug)]
pub struct Inspection {
    /// The cluster and the member that the log belongs to, if at least one batch was undamaged.
    pub ids: Option<WalIds>,
    /// Term and vote.
    pub hard_state: HardState,
    /// The last entry, or the position after which the log begins when it has no entries.
    pub last: Position,
    /// The highest version that an entry of the log puts in force; 0 when there is no such entry.
    pub version: Protocol,
    /// The part of the log that its own marks prove to be synced.
    pub synced_mark: LogPlace,
    /// The verdict: `None` when the log ends cleanly, the torn end that the next start cuts off, or why the log is
    /// refused. In the last case all fields above describe the part before the damage.
    pub end: Result<Option<TornEnd>, WalError>,
}

/// The unfinished last write of a log. No answer depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornEnd {
    /// The segment file.
    pub file: String,
    /// The first byte in it that does not belong to an undamaged batch.
    pub offset: u64,
    /// Number of bytes from `offset` through the last block that is not zero.
    pub bytes: u64,
}

/// Reads the whole log as [`Wal::open_after`](super::Wal::open_after) does for a snapshot that ends at `snapshot` with
/// this `reach` (`0@0` and 0: there is none), and changes nothing. With `expected`, another member's log is refused.
pub fn inspect(
    disk: &Arc<dyn Disk>,
    expected: Option<WalIds>,
    (snapshot, reach): (Position, Index),
) -> Inspection {
    let mut replay = Replay::new(0);
    let walked = recovery::scan_into(&mut replay, disk, expected, true);
    let fitting = walked.and_then(|walked| {
        recovery::leads_to(&replay, disk, snapshot, reach)?;
        Ok(walked)
    });
    let end = fitting.map(|Walked { last, torn, .. }| {
        torn.map(|torn| TornEnd {
            file: disk.display(&last.shown),
            offset: last.next_block * BLOCK_BYTES as u64,
            bytes: (torn.end_block - last.next_block) * BLOCK_BYTES as u64,
        })
    });
    let last = replay.last();
    let version = replay.changes.iter().filter_map(Entry::version).max().unwrap_or(0);
    let Replay { ids, hard_state, synced_mark, .. } = replay;
    Inspection { ids, hard_state, last, version, synced_mark, end }
}
