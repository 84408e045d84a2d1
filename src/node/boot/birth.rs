//! The disk's side of a node's identity: what a start finds in the data directory, and how a birth gets there.
//!
//! The order of a birth decides what a crash leaves behind: first the found entry is synced in the log, then the
//! identity file names the cluster, and only then is anything answered or handed over. So a log without a cluster id in
//! the identity file is a birth that was cut short, and the file is completed; a cluster id without a log means that
//! the log is gone, and this identity never acts again: it may have voted and acknowledged.

use std::sync::Arc;

use super::birth_record::{BirthRecord, PeerList, check_found};
use super::error::{BirthError, damaged_or};
use super::restore::Backup;
use crate::node::Stored;
use crate::raft::{
    Entry, FIRST_PROTOCOL, HardState, Membership, Position, Protocol, Settings, WriteOp, check_version,
};
use crate::store::disk::Disk;
use crate::store::identity::{Identity, IdentityError};
use crate::store::snapshot;
use crate::store::wal::{LogPlace, Recovered, Wal, WalIds, WalOptions};

/// What the configuration says about who this node is.
#[derive(Clone, Debug)]
pub struct IdentityConfig {
    /// Its name.
    pub node_id: String,
    /// The founding members, this one included. Once born, the stored membership wins.
    pub peers: PeerList,
    /// Settings of the cluster; they count only if this node founds it.
    pub settings: Settings,
    /// Whether `listen_raft` is set: then the own `raft_addr` may differ from the stored one.
    pub listen_raft: bool,
    /// It joins a cluster, or has joined it: it never founds one, and `peers` lists nobody but itself.
    pub joins: bool,
}

/// Everything a node starts with.
pub struct Born {
    /// Log and snapshot.
    pub stored: Stored,
    /// Whose it is.
    pub ids: WalIds,
    /// Entry `1@1`.
    pub found: Entry,
    /// For the operator.
    pub warnings: Vec<String>,
}

impl Stored {
    /// Reads a member's data directory: the newest whole snapshot, and the log behind it. Warnings for the operator come
    /// with it; a damaged snapshot that is not needed is set aside.
    ///
    /// # Errors
    /// What was synced is damaged or missing, or the file system refuses.
    pub fn load(
        disk: Arc<dyn Disk>,
        ids: WalIds,
        options: WalOptions,
    ) -> Result<(Stored, Vec<String>), BirthError> {
        snapshot::remove_leftovers(&disk)?;
        let chosen = snapshot::choose(&disk)?;
        let (last, reach) = (chosen.last(), chosen.reach);
        let (wal, mut recovered) = match Wal::open_behind(disk.clone(), ids, options, last, reach) {
            Err(error) => return Err(damaged_or(error, chosen.damaged)),
            Ok(opened) => opened,
        };
        let mut warnings = std::mem::take(&mut recovered.warnings);
        // The log covers what they held: nothing is lost with them.
        for (name, error) in chosen.damaged {
            snapshot::set_aside(&disk, name)?;
            let instead = match last {
                Position::ZERO => "the whole log stands in".to_owned(),
                last => format!("the snapshot through {last} stands in, with the log behind it"),
            };
            warnings.push(format!("{error}; {instead}; it is set aside as {name}.damaged: look at the disk"));
        }
        let snapshot = chosen.state.map(|(header, kv)| (header.meta, kv));
        Ok((Stored { disk, wal, recovered, snapshot }, warnings))
    }

    /// Whether a program that speaks `speaks` reads all of it: the state, and the versions that the log holds after it,
    /// committed or not.
    ///
    /// # Errors
    /// The text says which program does.
    pub fn check_program(&self, speaks: Protocol) -> Result<(), BirthError> {
        let in_snapshot = self.snapshot.as_ref().map(|(meta, _)| meta.version);
        let version = self.recovered.entries.iter().filter_map(Entry::version).chain(in_snapshot).max();
        check_version(version.unwrap_or(FIRST_PROTOCOL), speaks)
            .map_err(|mismatch| BirthError::OtherProgram { dir: self.disk.display(""), mismatch })
    }

    /// Entry `1@1`: of the log, or as the snapshot remembers it.
    pub(super) fn first_entry(&self) -> Option<Entry> {
        match &self.snapshot {
            Some((_, kv)) => kv.found().cloned(),
            None => self.recovered.entries.first().cloned(),
        }
    }
}

impl Born {
    /// The settings every member of the cluster shares.
    pub fn settings(&self) -> Settings {
        self.found.found().expect("checked at the birth").settings
    }

    /// For the peer port and the peer client.
    pub fn birth_record(&self) -> BirthRecord {
        BirthRecord::new(self.ids.member_id, self.found.clone())
    }

    /// The latest membership in the log.
    pub fn membership(&self) -> &Arc<Membership> {
        let in_log = self.stored.recovered.entries.iter().rev().find_map(Entry::membership);
        let in_snapshot = self.stored.snapshot.as_ref().map(|(meta, _)| &meta.membership);
        in_log.or(in_snapshot).or(self.found.membership()).expect("a found entry has a membership")
    }
}

/// The data directory of an unborn node, with its identity.
pub struct Birthplace {
    disk: Arc<dyn Disk>,
    options: WalOptions,
    identity: Identity,
}

impl Birthplace {
    /// An empty directory, for a node of this name and identity.
    pub(super) fn new(disk: Arc<dyn Disk>, options: WalOptions, identity: Identity) -> Birthplace {
        Birthplace { disk, options, identity }
    }

    /// Who is to be born here.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A number nobody can guess.
    pub fn random_id(&self) -> Result<u64, BirthError> {
        Ok(self.disk.nonce().map_err(IdentityError::Random)?)
    }

    /// Stores the found entry with term 1 and no vote, then the cluster id. When this returns both are durable; after
    /// an error the process ends, and the next start finds out how far it came. A cluster that begins with a backup has a
    /// snapshot of that in the place of its first entries.
    pub fn birth(&mut self, entry: Entry, backup: Option<Backup>) -> Result<Born, BirthError> {
        let found = check_found(&entry).expect("founding hands over found entries only");
        let ids = WalIds { cluster_id: found.cluster_id, member_id: self.identity.member_id };
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
            bytes_behind: 0,
            hard_state,
            base,
            entries,
            synced_mark: LogPlace { sequence: 1, block: 0 },
            warnings: Vec::new(),
        };
        let stored = Stored { disk: self.disk.clone(), wal, recovered, snapshot };
        Ok(Born { stored, ids, found: entry, warnings: Vec::new() })
    }
}

/// Whose the log must be; `None` for a node that is not born yet.
pub(super) fn whose_log(
    disk: &Arc<dyn Disk>,
    identity: &Identity,
    log: Option<WalIds>,
) -> Result<Option<WalIds>, BirthError> {
    let member_id = identity.member_id;
    match (identity.cluster_id, log) {
        (None, None) => Ok(None),
        (Some(cluster_id), None) => {
            let (dir, node_id) = (disk.display(""), identity.node_id.clone());
            Err(BirthError::LogGone { dir, node_id, member_id, cluster_id })
        }
        (stored, Some(log)) => Ok(Some(WalIds { cluster_id: stored.unwrap_or(log.cluster_id), member_id })),
    }
}
