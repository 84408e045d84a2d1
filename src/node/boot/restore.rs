//! A new cluster that begins with the state of another cluster: with a backup, or with the data of a lost cluster on
//! one disk.
//!
//! Its log begins after `2@1`, where a snapshot of that state ends. So a member that joins later and knows only entry
//! `1@1` always gets the state, and never a log without it. The initialization first makes the snapshot durable,
//! then the log that begins after it, then the identity file that names the cluster. A crash before there is a log
//! results in an uninitialized node and a snapshot that the next start removes.

use std::path::Path;
use std::sync::Arc;

use super::error::DataDirError;
use crate::raft::{Entry, Position, Protocol, RestoredState, Settings, SnapshotMeta};
use crate::store::disk::Disk;
use crate::store::snapshot::{self, SnapshotError, SnapshotName};
use crate::store::{Kv, Rebase};

/// Index of the genesis entry, the first of every log: it puts the first membership in force.
const GENESIS_INDEX: u64 = 1;

/// The position after which the log begins when the cluster did not begin empty.
pub fn beginning() -> Position {
    Position::new(GENESIS_INDEX + 1, 1)
}

/// A state for a new cluster, loaded and verified.
#[derive(Debug)]
pub struct Backup {
    restored: RestoredState,
    kv: Kv,
}

impl Backup {
    /// Reads a whole backup: a file that is truncated or altered is refused.
    ///
    /// # Errors
    /// The file is not a complete snapshot, is from a newer version, or cannot be read.
    pub fn load(path: &Path) -> Result<Backup, SnapshotError> {
        snapshot::load_file(path).map(|(_, kv)| Backup::of(kv))
    }

    /// A backup of a state in memory.
    pub fn of(kv: Kv) -> Backup {
        Backup { restored: RestoredState { revision: kv.revision(), state_hash: kv.state_hash() }, kv }
    }

    /// The revision and the hash that identify it.
    pub fn restored(&self) -> RestoredState {
        self.restored
    }

    /// The version of the state.
    pub fn version(&self) -> Protocol {
        self.kv.version()
    }

    /// The settings of the state. They override the settings of the configuration, because they decided which
    /// revisions can still be read and which requests are still recognised.
    pub fn settings(&self) -> &Settings {
        self.kv.settings()
    }

    /// Makes it the beginning of the cluster that `genesis` bootstraps: a durable snapshot, and the state itself. The
    /// members of the old cluster become removed members of the new one. Outcomes of keyed writes are still
    /// remembered, and their age continues from the cluster time of the state.
    pub(super) fn begin(
        mut self,
        disk: &Arc<dyn Disk>,
        genesis: &Entry,
    ) -> Result<(SnapshotMeta, Kv), SnapshotError> {
        self.kv.rebase(Rebase {
            last: beginning(),
            genesis: genesis.clone(),
            membership: genesis.membership().expect("a genesis entry has a membership").clone(),
            membership_index: GENESIS_INDEX,
            keeps_idempotency: true,
            keeps_removed: true,
        });
        let file = snapshot::write(disk.clone(), &mut self.kv)?;
        Ok((file.meta, self.kv))
    }
}

/// In a directory without a log: removes the snapshot of an interrupted initialization. Any other snapshot is
/// refused: it is data of another node, and a node that is initialized in the same directory would use it.
pub(super) fn remove_uninitialized(disk: &Arc<dyn Disk>, is_known: bool) -> Result<(), DataDirError> {
    snapshot::remove_leftovers(disk)?;
    let ours = SnapshotName::new(beginning());
    for name in snapshot::list(disk)? {
        if !is_known || name != ours {
            return Err(DataDirError::StraySnapshot { file: disk.display(&name.to_string()) });
        }
        snapshot::prune(disk, 0)?;
    }
    Ok(())
}
