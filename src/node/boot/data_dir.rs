//! The files of a node's identity: what a start finds in the data directory, and how an initialization is written
//! there.
//!
//! The order of an initialization decides what is on the disk after a crash: first the genesis entry is synced in the
//! log, then the identity file names the cluster, and only then the node answers or sends anything. So a log without
//! a cluster id in the identity file is an interrupted initialization, and the file is completed. A cluster id
//! without a log means that the log is lost; this identity must never be used again, because it may have voted and
//! acknowledged.

use std::sync::Arc;

use super::bootstrap_rpc::{BootstrapRecord, PeerList, check_genesis};
use super::error::{DataDirError, damaged_or};
use super::restore::Backup;
use crate::node::Stored;
use crate::raft::{
    Entry, FIRST_PROTOCOL, HardState, LeftOnDisk, Membership, Position, Protocol, Settings, WriteOp,
    check_version,
};
use crate::store::disk::Disk;
use crate::store::identity::{Identity, IdentityError};
use crate::store::snapshot;
use crate::store::wal::{LogPlace, Recovered, Wal, WalIds, WalOptions};

/// What the configuration says about the identity of this node.
#[derive(Clone, Debug)]
pub struct IdentityConfig {
    /// Its name.
    pub node_id: String,
    /// The initial members, this one included. Once initialized, the stored membership wins.
    pub peers: PeerList,
    /// Settings of the cluster; they count only if this node bootstraps it.
    pub settings: Settings,
    /// Whether `listen_raft` is set: then the own `raft_addr` may differ from the stored one.
    pub listen_raft: bool,
    /// It joins or has joined a cluster: it never bootstraps one, and `peers` lists only this node.
    pub joins: bool,
}

/// Everything a node starts with.
pub struct Initialized {
    /// Log and snapshot.
    pub stored: Stored,
    /// The cluster and the member that the data belongs to.
    pub ids: WalIds,
    /// Entry `1@1`.
    pub genesis: Entry,
    /// For the operator.
    pub warnings: Vec<String>,
    /// This node has bootstrapped the cluster just now: no other node can lead it yet.
    pub is_new_cluster: bool,
}

impl Stored {
    /// Reads a member's data directory: the newest undamaged snapshot, and the log after it. Also returns warnings
    /// for the operator. A damaged snapshot that is not needed is set aside.
    ///
    /// # Errors
    /// Synced data is damaged or missing, or a file operation fails.
    pub fn load(
        disk: Arc<dyn Disk>,
        ids: WalIds,
        options: WalOptions,
    ) -> Result<(Stored, Vec<String>), DataDirError> {
        snapshot::remove_leftovers(&disk)?;
        let chosen = snapshot::choose(&disk)?;
        let (last, reach) = (chosen.last(), chosen.reach);
        let (wal, mut recovered) = match Wal::open_after(disk.clone(), ids, options, last, reach) {
            Err(error) => return Err(damaged_or(error, chosen.damaged)),
            Ok(opened) => opened,
        };
        let mut warnings = std::mem::take(&mut recovered.warnings);
        // The log covers what these snapshots held: nothing is lost with them.
        for (name, error) in chosen.damaged {
            snapshot::set_aside(&disk, name)?;
            let instead = match last {
                Position::ZERO => "the whole log stands in".to_owned(),
                last => format!("the snapshot through {last} stands in, with the log after it"),
            };
            warnings.push(format!("{error}; {instead}; it is set aside as {name}.damaged: look at the disk"));
        }
        let snapshot = chosen.state.map(|(header, kv)| (header.meta, kv));
        Ok((Stored { disk, wal, recovered, snapshot }, warnings))
    }

    /// Checks that a program that speaks `speaks` can read everything: the state, and the versions that the log after
    /// it holds, committed or not.
    ///
    /// # Errors
    /// The text says which program can read it.
    pub fn check_program(&self, speaks: Protocol) -> Result<(), DataDirError> {
        let in_snapshot = self.snapshot.as_ref().map(|(meta, _)| meta.version);
        let version = self.recovered.changes().filter_map(Entry::version).chain(in_snapshot).max();
        check_version(version.unwrap_or(FIRST_PROTOCOL), speaks)
            .map_err(|mismatch| DataDirError::OtherProgram { dir: self.disk.display(""), mismatch })
    }

    /// Entry `1@1`: from the log, or as the snapshot remembers it.
    pub(super) fn first_entry(&self) -> Option<Entry> {
        match &self.snapshot {
            Some((_, kv)) => kv.genesis().cloned(),
            None => self.recovered.changes().next().cloned(),
        }
    }
}

impl Initialized {
    /// The settings every member of the cluster shares.
    pub fn settings(&self) -> Settings {
        self.genesis.genesis().expect("checked at the initialization").settings
    }

    /// For the peer port and the peer client.
    pub fn bootstrap_record(&self) -> BootstrapRecord {
        BootstrapRecord::new(self.ids.member_id, self.genesis.clone())
    }

    /// The latest membership in the log.
    pub fn membership(&self) -> &Arc<Membership> {
        let in_log = self.stored.recovered.changes().rev().find_map(Entry::membership);
        let in_snapshot = self.stored.snapshot.as_ref().map(|(meta, _)| &meta.membership);
        in_log.or(in_snapshot).or(self.genesis.membership()).expect("a genesis entry has a membership")
    }
}

/// The data directory of an uninitialized node, with its identity.
pub struct DataDir {
    disk: Arc<dyn Disk>,
    options: WalOptions,
    identity: Identity,
}

impl DataDir {
    /// An empty directory, for a node of this name and identity.
    pub(super) fn new(disk: Arc<dyn Disk>, options: WalOptions, identity: Identity) -> DataDir {
        DataDir { disk, options, identity }
    }

    /// The identity of the node that is initialized here.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A number that cannot be guessed.
    pub fn random_id(&self) -> Result<u64, DataDirError> {
        Ok(self.disk.nonce().map_err(IdentityError::Random)?)
    }

    /// Stores the genesis entry with term 1 and no vote, then the cluster id. When this returns both are durable.
    /// After an error the process ends, and the next start finds out which steps were completed. A cluster that
    /// begins with a backup has a snapshot of the backup instead of its first entries.
    pub fn initialize(&mut self, entry: Entry, backup: Option<Backup>) -> Result<Initialized, DataDirError> {
        let genesis = check_genesis(&entry).expect("bootstrap sends genesis entries only");
        let ids = WalIds { cluster_id: genesis.cluster_id, member_id: self.identity.member_id };
        let hard_state = HardState { term: 1, voted_for: None };
        let snapshot = backup.map(|backup| backup.begin(&self.disk, &entry)).transpose()?;
        let (base, entries, begin) = match &snapshot {
            None => (Position::ZERO, vec![entry.clone()], WriteOp::Entries(vec![entry.clone()])),
            Some((meta, _)) => (meta.last, Vec::new(), WriteOp::Reset(meta.last)),
        };
        let mut wal = Wal::create(self.disk.clone(), ids, self.options)?;
        wal.write(&[WriteOp::HardState(hard_state), begin])?;
        self.identity = self.identity.with_cluster(ids.cluster_id);
        self.identity.store(&*self.disk)?;
        let recovered = Recovered {
            bytes_after: 0,
            hard_state,
            base,
            left: LeftOnDisk::default(),
            entries,
            synced_mark: LogPlace { sequence: 1, block: 0 },
            warnings: Vec::new(),
        };
        let stored = Stored { disk: self.disk.clone(), wal, recovered, snapshot };
        Ok(Initialized { stored, ids, genesis: entry, warnings: Vec::new(), is_new_cluster: false })
    }
}

/// The cluster and the member that the log must belong to; `None` for a node that is not initialized yet.
pub(super) fn whose_log(
    disk: &Arc<dyn Disk>,
    identity: &Identity,
    log: Option<WalIds>,
) -> Result<Option<WalIds>, DataDirError> {
    let member_id = identity.member_id;
    match (identity.cluster_id, log) {
        (None, None) => Ok(None),
        (Some(cluster_id), None) => {
            let (dir, node_id) = (disk.display(""), identity.node_id.clone());
            Err(DataDirError::LogGone { dir, node_id, member_id, cluster_id })
        }
        (stored, Some(log)) => Ok(Some(WalIds { cluster_id: stored.unwrap_or(log.cluster_id), member_id })),
    }
}
