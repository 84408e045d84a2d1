//! A new cluster that begins with the state of another one: with a backup, or with what a lost cluster has left on one
//! disk.
//!
//! Its log begins after `2@1`, where a snapshot of that state ends, so that a member that joins later and knows entry
//! `1@1` alone is always sent the state and never a log without it. At the initialization the snapshot is durable
//! first, then the log that begins after it, then the identity file names the cluster: until there is a log, a crash
//! leaves an uninitialized node and a snapshot that its next start removes.

use std::path::Path;
use std::sync::Arc;

use super::error::DataDirError;
use crate::raft::{Entry, Position, Protocol, RestoredState, Settings, SnapshotMeta};
use crate::store::disk::Disk;
use crate::store::snapshot::{self, SnapshotError, SnapshotName};
use crate::store::{Kv, Rebase};

/// Index of the genesis entry, the first of every log: it puts the first membership in force.
const GENESIS_INDEX: u64 = 1;

/// Where the log of a cluster begins that did not begin empty.
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
    /// Reads a backup, all of it: a file that is cut short or altered is refused.
    ///
    /// # Errors
    /// It is no whole snapshot, comes from a newer version, or cannot be read.
    pub fn load(path: &Path) -> Result<Backup, SnapshotError> {
        snapshot::load_file(path).map(|(_, kv)| Backup::of(kv))
    }

    /// Of a state at hand.
    pub fn of(kv: Kv) -> Backup {
        Backup { restored: RestoredState { revision: kv.revision(), state_hash: kv.state_hash() }, kv }
    }

    /// What it is known by.
    pub fn restored(&self) -> RestoredState {
        self.restored
    }

    /// The version that the state is at.
    pub fn version(&self) -> Protocol {
        self.kv.version()
    }

    /// The settings that came with it. They win over those of the configuration: what may still be read, and which
    /// requests are still recognised, was decided by them.
    pub fn settings(&self) -> &Settings {
        self.kv.settings()
    }

    /// Makes it the beginning of the cluster that `genesis` bootstraps: a durable snapshot, and the state itself. Who
    /// belonged to the old cluster is a removed member of the new one; outcomes of keyed writes are still remembered,
    /// and their age goes on from the cluster time of the state.
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

/// In a directory without a log: removes the snapshot of an initialization that was cut short. Any other snapshot is
/// somebody's data, and a node that was initialized beside it would take it for its own.
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
