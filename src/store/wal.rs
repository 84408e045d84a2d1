//! The write-ahead log: term, vote and entries, durable before any answer that depends on them is sent.
//!
//! A log is a sequence of segment files. A segment is a sequence of *batches* at 4 KiB boundaries. A batch holds the
//! data of one write: a header with term and vote, then entry frames. One write costs one `pwrite` and one
//! `fdatasync`, into space that was zeroed before. `docs/storage-format.md` describes the bytes; `format.rs` has the
//! code.
//!
//! Two rules tell a torn write from corruption. A batch header says how many blocks of its segment were synced when
//! it was written, and a segment gets its name only after everything in the previous segment was synced. So if a
//! damaged batch has such a proof after it, the batch was acknowledged and is now corrupt: recovery refuses. A
//! damaged batch without a proof was not acknowledged, as far as can be proven: recovery cuts it off with a warning.
//! To keep the time without a proof short, an empty *sealing* batch follows 100 ms after the last write
//! ([`Wal::seal`]).
//!
//! The two threads and what they do:
//!
//! | thread | calls | touches |
//! |---|---|---|
//! | log writer | [`Wal::write`], [`Wal::seal`], [`Wal::cut`], [`Wal::spare_is_due`] | the current segment; a name when it opens the next |
//! | housekeeper | [`SparePreparer::step`] | the files `spare-<n>.tmp`, until it hands them over; segments that the log writer has given up |
//!
//! A sender that needs entries that have left memory reads them with a [`LogReader`], which shares nothing with the two.
//!
//! The two threads share one small slot with a mutex. The mutex is held only to move a file handle, never during I/O;
//! see [`SparePreparer`] for the exchange.

mod format;
mod inspect;
mod reader;
mod recovery;
mod segment;
mod spare;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::sync::Arc;

use crate::raft::{ClusterId, Entry, HardState, LeftOnDisk, MemberId, Position};

use super::disk::Disk;
pub use inspect::{Inspection, TornEnd, inspect};
pub use reader::LogReader;
pub use spare::SparePreparer;
pub use writer::Wal;

/// The cluster and the member that a log belongs to: written into every segment, checked when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalIds {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The member.
    pub member_id: MemberId,
}

/// How a log is written. An existing log can be read independently of the options it was written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalOptions {
    /// Size of a segment file in bytes: a multiple of 4096, at least 8192. A single write that is larger gets a
    /// larger segment.
    pub segment_bytes: u64,
    /// When a log is opened, this many bytes of entries at its end come into memory, and at least the last entry. The
    /// others stay on the disk.
    pub max_memory_bytes: usize,
}

impl WalOptions {
    /// A log with segments of this size.
    pub const fn new(segment_bytes: u64) -> WalOptions {
        WalOptions { segment_bytes, max_memory_bytes: MAX_LOG_MEMORY_BYTES }
    }
}

impl Default for WalOptions {
    fn default() -> WalOptions {
        WalOptions::new(16 << 20)
    }
}

/// Memory for the entries of a log: what is durable and applied leaves it while all entries take more. A peer that lags
/// less is sent entries without reading the disk.
pub const MAX_LOG_MEMORY_BYTES: usize = 8 << 20;

/// What recovery found. All of it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// The position before the first entry: `0@0`, where the last reset put it, or the snapshot's when the log was opened
    /// after one.
    pub base: Position,
    /// The first entries, which stay on the disk: [`LogReader::each`] reads them.
    pub left: LeftOnDisk,
    /// Consecutive entries after those.
    pub entries: Vec<Entry>,
    /// Used bytes of the segments that hold nothing at or before `base`.
    pub bytes_after: u64,
    /// The part of the log that its own marks proved to be synced, before recovery synced the rest.
    pub synced_mark: LogPlace,
    /// For the operator: what was cut off.
    pub warnings: Vec<String>,
}

impl Recovered {
    /// Position of the last entry, or the position after which the log begins.
    pub fn last(&self) -> Position {
        self.entries.last().map_or(self.base, Entry::position)
    }

    /// The entries that put a membership or a version in force, in order, and others.
    pub fn changes(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.left.changes.iter().chain(&self.entries)
    }
}

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPlace {
    /// The segment's sequence number.
    pub sequence: u64,
    /// The block within it.
    pub block: u64,
}

/// What a log has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Batches written, seals included.
    pub batches: u64,
    /// Sealing batches among them.
    pub seals: u64,
    /// Bytes of segments that were used up: the batches' blocks, and the unused end of each full segment.
    pub used: u64,
    /// fdatasyncs of segments.
    pub syncs: u64,
    /// Segments begun.
    pub segments: u64,
    /// Segments that the log writer had to make because no zeroed spare was ready. Segments that are made for a
    /// single large write do not count.
    pub spare_not_ready: u64,
    /// Segments begun in a file that was a segment before.
    pub segments_reused: u64,
}

/// What an operator can do about a log that cannot be trusted.
const REPAIR: &str = "stop this node, set its data directory aside, and replace the member by one with an empty \
                      data directory and a new identity; the other members hold every acknowledged write. A \
                      one-node store is restored from its backup";

/// Why the log cannot be opened, or can no longer be written.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// A file operation failed. After a failed write or sync nothing is retried, because it is unknown which of the
    /// unsynced bytes are on the disk.
    #[error("cannot {action} {file}{}: {source}", at_byte(.offset))]
    Io {
        /// The file, or the directory.
        file: String,
        /// A verb.
        action: &'static str,
        /// Where in the file, in bytes, if that is known.
        offset: Option<u64>,
        /// What the system said.
        source: io::Error,
    },
    /// Something in the log, or something missing from it, proves that synced data was damaged.
    #[error("{file} is corrupt at byte {offset}: {what}. To repair: {repair}")]
    Corrupt {
        /// The segment file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        what: String,
        /// What to do.
        repair: &'static str,
    },
    /// Entries are missing between the snapshot and the log.
    #[error("entries are missing in {dir}: {what}. To repair: {repair}")]
    Gap {
        /// The directory.
        dir: String,
        /// Where the log and the snapshot begin and end.
        what: String,
        /// What to do.
        repair: &'static str,
    },
    /// Another member's log.
    #[error(
        "{file} belongs to member {} of cluster {}, not to member {} of cluster {}: \
         is this the right data directory?", .found.member_id, .found.cluster_id, .expected.member_id, .expected.cluster_id
    )]
    Foreign {
        /// The segment file.
        file: String,
        /// The cluster and the member that it belongs to.
        found: WalIds,
        /// The cluster and the member that it should belong to.
        expected: WalIds,
    },
    /// Written by a later version of dkv.
    #[error("{file} has format version {version}, this program knows {known}: start the newer version again",
        known = format::VERSION)]
    NewerFormat {
        /// The segment file.
        file: String,
        /// Its version.
        version: u32,
    },
    /// The log holds entries that only a later program can read.
    #[error("{file} at byte {offset}: {what}")]
    Newer {
        /// The segment file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What they are, and which program can read them.
        what: String,
    },
    /// [`LogReader::read`] was asked for an entry that was cut, or stands after damage.
    #[error(
        "entry {entry} is not found in the log in {dir}: it was cut off after a snapshot, or the log is damaged"
    )]
    NotFound {
        /// The directory.
        dir: String,
        /// The first entry that was asked for.
        entry: Position,
    },
    /// [`Wal::open`] was called where there is no log.
    #[error("there is no log in {0}")]
    Missing(String),
    /// [`Wal::create`] was called where there is a log.
    #[error("there is a log in {0} already")]
    Exists(String),
    /// An earlier write or sync failed; the log takes no more writes.
    #[error("the log takes no more writes after the failure of an earlier one")]
    Unusable,
}

fn at_byte(offset: &Option<u64>) -> String {
    offset.map_or(String::new(), |offset| format!(" at byte {offset}"))
}

impl WalError {
    /// Converts an error of the file system into an error that names the file.
    fn io(disk: &Arc<dyn Disk>, name: &str, action: &'static str) -> impl FnOnce(io::Error) -> WalError {
        let file = disk.display(name);
        move |source| WalError::Io { file, action, offset: None, source }
    }

    /// The same with a place in the file.
    fn io_at(disk: &Arc<dyn Disk>, name: &str, action: &'static str, at: u64, source: io::Error) -> WalError {
        WalError::Io { file: disk.display(name), action, offset: Some(at), source }
    }

    fn gap(disk: &Arc<dyn Disk>, what: String) -> WalError {
        WalError::Gap { dir: disk.display(""), what, repair: REPAIR }
    }

    fn corrupt(disk: &Arc<dyn Disk>, name: &str, offset: u64, what: impl Into<String>) -> WalError {
        WalError::Corrupt { file: disk.display(name), offset, what: what.into(), repair: REPAIR }
    }
}
