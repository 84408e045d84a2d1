//! The write-ahead log: term, vote and entries, durable before anything that vouches for them is answered.
//!
//! A log is a row of segment files, a segment is a row of *batches* at 4 KiB boundaries, and a batch is what one write
//! hands over: a header with term and vote, then entry frames. One write costs one `pwrite` and one `fdatasync`, into
//! space that was zeroed beforehand. `docs/storage-format.md` draws the bytes; `format.rs` holds them.
//!
//! Two rules tell a torn write from corruption. A batch header says how many blocks of its segment
//! were synced when it was written, and a segment has its name only after everything in the one before was synced.
//! So a damaged batch with a proof after it was acknowledged and is now broken: recovery refuses. One without a
//! proof was never acknowledged, or cannot be proven to have been: recovery cuts it off with a warning. To keep the
//! time without a proof short, an empty *sealing* batch follows 100 ms after the last write ([`Wal::seal`]).
//!
//! Who does what, on which thread:
//!
//! | thread | calls | touches |
//! |---|---|---|
//! | log writer | [`Wal::write`], [`Wal::seal`], [`Wal::cut`], [`Wal::spare_is_due`] | the current segment; a name when it opens the next |
//! | housekeeper | [`SparePreparer::step`] | the files `spare-<n>.tmp`, until it hands them over; segments that the log writer has given up |
//!
//! The two share one small slot behind a mutex that is held to move a file handle and never during I/O; see
//! [`SparePreparer`] for the exchange.

mod format;
mod inspect;
mod recovery;
mod segment;
mod spare;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::sync::Arc;

use crate::raft::{ClusterId, Entry, HardState, MemberId, Position};

use super::disk::Disk;
pub use inspect::{Inspection, TornEnd, inspect};
pub use spare::SparePreparer;
pub use writer::Wal;

/// Whose log it is: written into every segment, checked when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalIds {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The member.
    pub member_id: MemberId,
}

/// How a log is written. What is there already is read whatever it was written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalOptions {
    /// Size of a segment file in bytes: a multiple of 4096, at least 8192. A single greater write gets a segment made
    /// to measure.
    pub segment_bytes: u64,
}

impl Default for WalOptions {
    fn default() -> WalOptions {
        WalOptions { segment_bytes: 16 << 20 }
    }
}

/// What recovery found. All of it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// The position before the first of `entries`: `0@0`, where the last reset put it, or the snapshot's when the log was
    /// opened after one.
    pub base: Position,
    /// Consecutive entries from `base.index + 1`.
    pub entries: Vec<Entry>,
    /// Bytes of the segments that hold nothing at or before `base`, as far as they are filled.
    pub bytes_after: u64,
    /// How much of the log was known to be synced from its own marks alone, before recovery synced the rest.
    pub synced_mark: LogPlace,
    /// For the operator: what was cut off.
    pub warnings: Vec<String>,
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
    /// Bytes of segments that were used up: the batches' blocks, and what the last batch of a segment left free.
    pub used: u64,
    /// fdatasyncs of segments.
    pub syncs: u64,
    /// Segments begun.
    pub segments: u64,
    /// Segments that had to be made on the spot because no zeroed spare was ready. Those made to measure for a
    /// single great write do not count.
    pub spare_not_ready: u64,
    /// Segments begun in a file that had been one before.
    pub segments_reused: u64,
}

/// What an operator can do about a log that cannot be trusted.
const REPAIR: &str = "stop this node, set its data directory aside, and replace the member by one with an empty \
                      data directory and a new identity; the other members hold every acknowledged write. A \
                      one-node store is restored from its backup";

/// Why the log cannot be opened, or can no longer be written.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The file system refused. After a failed write or sync nothing is tried again: which of the unsynced bytes are
    /// on the disk is unknown.
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
    /// The log holds, or lacks, something that proves damage to what was synced.
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
    /// Log and snapshot do not reach each other.
    #[error("entries are missing in {dir}: {what}. To repair: {repair}")]
    Gap {
        /// The directory.
        dir: String,
        /// Where each begins and ends.
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
        /// Whose it is.
        found: WalIds,
        /// Whose it should be.
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
    /// The log holds what only a later program reads.
    #[error("{file} at byte {offset}: {what}")]
    Newer {
        /// The segment file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What it is, and which program reads it.
        what: String,
    },
    /// [`Wal::open`] where there is no log.
    #[error("there is no log in {0}")]
    Missing(String),
    /// [`Wal::create`] where there is a log.
    #[error("there is a log in {0} already")]
    Exists(String),
    /// An earlier write or sync failed; the log takes no more.
    #[error("the log takes no more writes after the failure of an earlier one")]
    Unusable,
}

fn at_byte(offset: &Option<u64>) -> String {
    offset.map_or(String::new(), |offset| format!(" at byte {offset}"))
}

impl WalError {
    /// Turns the file system's error into one that names the file.
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
