//! The disk's side of a node's identity: what a start finds in the data directory, and how a birth gets there.
//!
//! The order of a birth decides what a crash leaves behind: first the found entry is synced in the log, then the
//! identity file names the cluster, and only then is anything answered or handed over. So a log without a cluster id in
//! the identity file is a birth that was cut short, and the file is completed; a cluster id without a log means that
//! the log is gone, and this identity never acts again: it may have voted and acknowledged.

use std::sync::Arc;

use super::Stored;
use super::birth_record::{BirthRecord, PeerList, check_found};
use super::founding::Founding;
use super::restore::{self, Backup};
use crate::raft::{
    ClusterId, Entry, FIRST_PROTOCOL, HardState, MemberId, Membership, PROTOCOL, Position, Protocol,
    Settings, VersionMismatch, WriteOp, check_version,
};
use crate::store::disk::Disk;
use crate::store::identity::{Identity, IdentityError};
use crate::store::snapshot::{self, SnapshotError, SnapshotName};
use crate::store::wal::{LogPlace, Recovered, Wal, WalError, WalIds, WalOptions};

/// Why the data directory cannot be opened as this node's, or a birth not be finished.
#[derive(Debug, thiserror::Error)]
pub enum BirthError {
    /// The identity file.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The snapshots.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A snapshot is damaged, and the log does not reach from what stands before it.
    #[error("{}; {gap}", texts(.damaged))]
    DamagedSnapshot {
        /// What is wrong with it, and with those before it that are damaged as well.
        damaged: Vec<SnapshotError>,
        /// Which entries are missing, a [`WalError::Gap`], with the repair.
        gap: WalError,
    },
    /// The identity file names a cluster and there is no log.
    #[error(
        "this node's log is gone: {dir} belongs to member {member_id} of cluster {cluster_id} and holds no log; a \
         member that forgot what it acknowledged must never take part again: bring the log back, or replace the \
         member (empty data_dir, then dkv-cli member replace {node_id} {node_id})"
    )]
    LogGone {
        /// The data directory.
        dir: String,
        /// Its name.
        node_id: String,
        /// The member.
        member_id: MemberId,
        /// Its cluster.
        cluster_id: ClusterId,
    },
    /// There is a log and no identity file.
    #[error(
        "{dir} holds the log of member {} of cluster {} but no identity file: bring the file back, or replace the \
         member (empty data_dir, then dkv-cli member replace)", .ids.member_id, .ids.cluster_id
    )]
    NoIdentity {
        /// The data directory.
        dir: String,
        /// Whose log it is.
        ids: WalIds,
    },
    /// The log does not begin with the found entry of its cluster.
    #[error(
        "the log in {dir} does not begin with the found entry of cluster {cluster_id}: {what}; replace the member \
         (empty data_dir, then dkv-cli member replace)"
    )]
    NoFound {
        /// The data directory.
        dir: String,
        /// The cluster.
        cluster_id: ClusterId,
        /// What is there instead.
        what: String,
    },
    /// A snapshot lies in a directory without a log.
    #[error(
        "{file} lies in a data_dir that holds no log: if it is a backup, move it elsewhere and start with --restore; if \
         the log is gone, bring it back, or replace the member"
    )]
    StraySnapshot {
        /// The snapshot.
        file: String,
    },
    /// The state, or the log after it, is at a version that this program does not read.
    #[error("the state in {dir} cannot be used: {mismatch}")]
    OtherProgram {
        /// The data directory.
        dir: String,
        /// Which versions.
        mismatch: VersionMismatch,
    },
    /// The other members would look for this node elsewhere.
    #[error(
        "raft_addr of {node_id} is {configured} in the configuration, but the other members reach it at {stored}, as \
         the stored membership says; set it back to {stored}, or set listen_raft if {stored} is forwarded here"
    )]
    OtherAddress {
        /// This node.
        node_id: String,
        /// In the configuration.
        configured: String,
        /// In the membership.
        stored: String,
    },
}

fn texts(errors: &[SnapshotError]) -> String {
    errors.iter().map(SnapshotError::to_string).collect::<Vec<_>>().join("; ")
}

impl BirthError {
    /// Exit code of a server that ends with this error: 1 run-time failure, 2 configuration, 3 data corrupt,
    /// 4 identity refused, 5 another program is needed.
    pub fn exit_code(&self) -> u8 {
        match self {
            BirthError::Identity(error) => error.exit_code(),
            BirthError::Wal(WalError::Foreign { .. }) | BirthError::OtherAddress { .. } => 4,
            BirthError::Wal(WalError::NewerFormat { .. } | WalError::Newer { .. })
            | BirthError::Snapshot(SnapshotError::NewerFormat { .. } | SnapshotError::Version { .. })
            | BirthError::OtherProgram { .. } => 5,
            BirthError::Wal(WalError::Corrupt { .. } | WalError::Gap { .. })
            | BirthError::DamagedSnapshot { .. }
            | BirthError::Snapshot(SnapshotError::Corrupt { .. })
            | BirthError::LogGone { .. }
            | BirthError::NoIdentity { .. }
            | BirthError::StraySnapshot { .. }
            | BirthError::NoFound { .. } => 3,
            BirthError::Wal(_) | BirthError::Snapshot(_) => 1,
        }
    }
}

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

/// What a start finds.
pub enum Opened {
    /// A member of a cluster, its log recovered.
    Born(Box<Born>),
    /// No log yet: [`Founding::run`] brings the birth.
    Unborn(Box<Founding>),
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
    fn first_entry(&self) -> Option<Entry> {
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

/// Opens the data directory: draws an identity for an empty one, recovers the log of a member, completes a birth that
/// was cut short, and refuses what is not this node's.
pub fn open(disk: Arc<dyn Disk>, options: WalOptions, config: &IdentityConfig) -> Result<Opened, BirthError> {
    let log = Wal::identify(&disk);
    let Some(identity) = Identity::load(&*disk)? else {
        if let Some(ids) = log? {
            return Err(BirthError::NoIdentity { dir: disk.display(""), ids });
        }
        restore::remove_unborn(&disk, false)?;
        let member_id = MemberId(disk.nonce().map_err(IdentityError::Random)?);
        let identity = Identity::new(&config.node_id, member_id);
        identity.store(&*disk)?;
        return Ok(unborn(disk, options, identity, config));
    };
    identity.check_name(&config.node_id)?;
    let Some(ids) = whose_log(&disk, &identity, log?)? else {
        restore::remove_unborn(&disk, true)?;
        return Ok(unborn(disk, options, identity, config));
    };
    let cluster_id = ids.cluster_id;
    let (stored, warnings) = Stored::load(disk.clone(), ids, options)?;
    stored.check_program(PROTOCOL)?;
    let no_found = |what| BirthError::NoFound { dir: disk.display(""), cluster_id, what };
    let first = stored.first_entry().ok_or_else(|| no_found("it has no first entry".to_owned()))?;
    let found = check_first(first, cluster_id).map_err(no_found)?;
    let mut born = Born { stored, ids, found, warnings };
    check_configuration(&mut born, config)?;
    if identity.cluster_id.is_none() {
        identity.with_cluster(cluster_id).store(&*disk)?;
    }
    Ok(Opened::Born(Box::new(born)))
}

/// A gap has its cause in the damaged snapshots, if there are any.
pub(super) fn damaged_or(error: WalError, damaged: Vec<(SnapshotName, SnapshotError)>) -> BirthError {
    match error {
        gap @ WalError::Gap { .. } if !damaged.is_empty() => BirthError::DamagedSnapshot {
            damaged: damaged.into_iter().map(|(_, error)| error).collect(),
            gap,
        },
        error => error.into(),
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

fn unborn(disk: Arc<dyn Disk>, options: WalOptions, identity: Identity, config: &IdentityConfig) -> Opened {
    let place = Birthplace::new(disk, options, identity);
    Opened::Unborn(Box::new(Founding::new(place, config)))
}

/// The found entry of `cluster_id`, which every history begins with.
fn check_first(first: Entry, cluster_id: ClusterId) -> Result<Entry, String> {
    let found = check_found(&first)?;
    if found.cluster_id != cluster_id {
        return Err(format!("entry 1@1 founded cluster {}", found.cluster_id));
    }
    Ok(first)
}

/// Compares the configuration with the stored membership, which wins.
fn check_configuration(born: &mut Born, config: &IdentityConfig) -> Result<(), BirthError> {
    let membership = born.membership().clone();
    let own = (membership.get(born.ids.member_id), config.peers.by_name(&config.node_id));
    if let (Some(stored), Some(configured)) = own
        && stored.raft_addr != configured.raft_addr
        && !config.listen_raft
    {
        return Err(BirthError::OtherAddress {
            node_id: config.node_id.clone(),
            configured: configured.raft_addr.clone(),
            stored: stored.raft_addr.clone(),
        });
    }
    let stored = PeerList::from(&*membership);
    if !config.joins && stored != config.peers {
        born.warnings.push(format!(
            "`peers` in the configuration differ from the stored membership, which wins: configured {}, stored {stored}",
            config.peers
        ));
    }
    Ok(())
}
