//! Snapshot files: the whole state at one log position, so that the log before it can be removed (paper §7).
//!
//! A snapshot is written from a pinned [`View`](super::View) while the applier goes on: [`SnapshotWriter::fill`] takes one
//! page of rows under the store's lock and touches no file, [`SnapshotWriter::flush`] writes without the lock. The file
//! gets its name by a rename only when the whole file is synced, so the name proves that the file is complete.
//! Checksums over every chunk and over the file find later corruption. `docs/storage-format.md` describes the bytes.
//!
//! | file | is |
//! |---|---|
//! | `<index>-<term>.snapshot` | a snapshot, 16 hexadecimal digits each: the last entry it covers |
//! | `snapshot.tmp` | a snapshot that is being written |
//! | `receive.tmp` | a snapshot that is being received from a leader ([`Receiver`]) |
//! | `<index>-<term>.snapshot.damaged` | a snapshot that was [set aside](set_aside) |
//!
//! At start: [`remove_leftovers`], then [`choose`], then [`Wal::open_after`](super::wal::Wal::open_after) with what was
//! chosen. After a new snapshot: [`prune`], then [`Wal::cut`](super::wal::Wal::cut).

mod format;
mod header;
mod reader;
mod receiver;
pub(in crate::store) mod rows;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::io;
use std::sync::Arc;

use super::Kv;
use super::disk::Disk;
use crate::raft::{Index, Position, VersionMismatch};

pub use header::SnapshotHeader;
pub use reader::{SnapshotReader, SnapshotStatus, load, load_file, verify, verify_file, verify_stream};
pub use receiver::{Receiver, TransferKey};
pub use writer::{SnapshotFile, SnapshotWriter, write};

/// A snapshot that is being written.
pub(super) const WRITE_NAME: &str = "snapshot.tmp";

/// A snapshot that is being received.
pub(super) const RECEIVE_NAME: &str = "receive.tmp";

/// How many snapshots are kept: the newest, and one to fall back to.
pub const KEPT_SNAPSHOTS: usize = 2;

/// The name of a snapshot file. Ordered by index, then by term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotName {
    index: Index,
    term: u64,
}

impl SnapshotName {
    /// The name of the snapshot that ends at `last`.
    pub fn new(last: Position) -> SnapshotName {
        SnapshotName { index: last.index, term: last.term }
    }

    /// The last entry it covers.
    pub fn position(self) -> Position {
        Position::new(self.index, self.term)
    }

    /// Reads a file name; `None` when it is not exactly of this form.
    pub fn parse(name: &str) -> Option<SnapshotName> {
        let (index, term) = name.strip_suffix(".snapshot")?.split_once('-')?;
        let hex = |digits: &str| {
            let plain = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        Some(SnapshotName { index: hex(index)?, term: hex(term)? })
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}.snapshot", self.index, self.term)
    }
}

/// Why a snapshot cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file operation failed.
    #[error("cannot {action} {file}{}: {source}", .offset.map_or(String::new(), |at| format!(" at byte {at}")))]
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
    /// The file is damaged, or it is not a snapshot.
    #[error("{file} is no whole snapshot, see byte {offset}: {what}")]
    Corrupt {
        /// The file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// Written by a later version of dkv.
    #[error("{file} has format version {version}, this program knows {known}: use the newer version",
        known = format::VERSION)]
    NewerFormat {
        /// The file.
        file: String,
        /// Its version.
        version: u32,
    },
    /// The state in it is at a version that this program does not read.
    #[error("{file}: {mismatch}")]
    Version {
        /// The file.
        file: String,
        /// Which versions.
        mismatch: VersionMismatch,
    },
}

impl SnapshotError {
    fn io(disk: &Arc<dyn Disk>, name: &str, action: &'static str) -> impl FnOnce(io::Error) -> SnapshotError {
        let file = disk.display(name);
        move |source| SnapshotError::Io { file, action, offset: None, source }
    }
}

/// The existing snapshots, newest first.
pub fn list(disk: &Arc<dyn Disk>) -> Result<Vec<SnapshotName>, SnapshotError> {
    let names = disk.list().map_err(SnapshotError::io(disk, "", "list"))?;
    let mut snapshots: Vec<_> = names.iter().filter_map(|name| SnapshotName::parse(name)).collect();
    snapshots.sort_by(|a, b| b.cmp(a));
    Ok(snapshots)
}

/// Removes the files of unfinished snapshots of an earlier process. For the start of a node, before anything is
/// written or received.
pub fn remove_leftovers(disk: &Arc<dyn Disk>) -> Result<(), SnapshotError> {
    let names = disk.list().map_err(SnapshotError::io(disk, "", "list"))?;
    for name in names.iter().filter(|name| [WRITE_NAME, RECEIVE_NAME].contains(&name.as_str())) {
        remove(disk, name)?;
    }
    Ok(())
}

/// Removes all but the newest `keep` snapshots, the oldest first. Returns how many were removed.
pub fn prune(disk: &Arc<dyn Disk>, keep: usize) -> Result<usize, SnapshotError> {
    let snapshots = list(disk)?;
    let old = snapshots.get(keep..).unwrap_or_default();
    old.iter().rev().try_for_each(|name| remove(disk, &name.to_string()))?;
    Ok(old.len())
}

/// Renames a damaged snapshot, so that it does not count as a kept snapshot. The file stays for inspection, with
/// `.damaged` added to its name.
pub fn set_aside(disk: &Arc<dyn Disk>, name: SnapshotName) -> Result<(), SnapshotError> {
    let from = name.to_string();
    disk.rename(&from, &format!("{from}.damaged")).map_err(SnapshotError::io(disk, &from, "set aside"))?;
    disk.sync_dir().map_err(SnapshotError::io(disk, "", "sync"))
}

fn remove(disk: &Arc<dyn Disk>, name: &str) -> Result<(), SnapshotError> {
    disk.remove(name).map_err(SnapshotError::io(disk, name, "remove"))?;
    disk.sync_dir().map_err(SnapshotError::io(disk, "", "sync"))
}

/// Gives a synced file its name as a snapshot, durably.
fn name_snapshot(disk: &Arc<dyn Disk>, from: &str, name: SnapshotName) -> Result<(), SnapshotError> {
    let shown = name.to_string();
    disk.rename(from, &shown).map_err(SnapshotError::io(disk, &shown, "rename a new snapshot to"))?;
    disk.sync_dir().map_err(SnapshotError::io(disk, "", "sync"))
}

/// The state to start from, according to the snapshots.
#[derive(Debug, Default)]
pub struct Chosen {
    /// The newest whole snapshot: what it says of itself, and the state in it. `None` when there is no whole one: then the
    /// log must begin with the first entry.
    pub state: Option<(SnapshotHeader, Kv)>,
    /// Index of the newest existing snapshot, damaged or not, 0 for none: this member has acknowledged everything
    /// through this index, so the log must reach it.
    pub reach: Index,
    /// Newer snapshots that are damaged, with what is wrong with each. To be [set aside](set_aside) once the log has been
    /// found to cover them.
    pub damaged: Vec<(SnapshotName, SnapshotError)>,
}

impl Chosen {
    /// The position of the state; `0@0` when there is no snapshot and the state comes only from the log.
    pub fn last(&self) -> Position {
        self.state.as_ref().map_or(Position::ZERO, |(header, _)| header.meta.last)
    }
}

/// The newest whole snapshot. A damaged one is passed over for the one before it, or for none at all; whether that will do
/// depends on the log, see [`Wal::open_after`](super::wal::Wal::open_after).
///
/// # Errors
/// A snapshot is from a newer version, or a file operation fails.
pub fn choose(disk: &Arc<dyn Disk>) -> Result<Chosen, SnapshotError> {
    let snapshots = list(disk)?;
    let reach = snapshots.first().map_or(0, |newest| newest.position().index);
    let mut chosen = Chosen { reach, ..Chosen::default() };
    for name in snapshots {
        match load(disk, name) {
            Ok(state) => {
                chosen.state = Some(state);
                break;
            }
            Err(error @ SnapshotError::Corrupt { .. }) => chosen.damaged.push((name, error)),
            Err(error) => return Err(error),
        }
    }
    Ok(chosen)
}
