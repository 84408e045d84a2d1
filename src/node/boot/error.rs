//! Why a data directory cannot be used by a node, as texts for an operator.

use crate::raft::{ClusterId, MemberId, VersionMismatch};
use crate::store::identity::IdentityError;
use crate::store::snapshot::{SnapshotError, SnapshotName};
use crate::store::wal::{WalError, WalIds};

/// Why the data directory cannot be opened for this node, or an initialization cannot be finished.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The identity file.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The snapshots.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A snapshot is damaged, and the log does not begin early enough to continue the snapshot before it.
    #[error("{}; {gap}", texts(.damaged))]
    DamagedSnapshot {
        /// What is wrong with it, and with the earlier snapshots that are also damaged.
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
        /// The cluster and the member that the log belongs to.
        ids: WalIds,
    },
    /// The log does not begin with the genesis entry of its cluster.
    #[error(
        "the log in {dir} does not begin with the genesis entry of cluster {cluster_id}: {what}; replace the member \
         (empty data_dir, then dkv-cli member replace)"
    )]
    NoGenesis {
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
    /// The other members would look for this node at another address.
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

impl DataDirError {
    /// Exit code of a server that ends with this error: 1 run-time failure, 2 configuration, 3 data corrupt,
    /// 4 identity refused, 5 another program is needed.
    pub fn exit_code(&self) -> u8 {
        match self {
            DataDirError::Identity(error) => error.exit_code(),
            DataDirError::Wal(WalError::Foreign { .. }) | DataDirError::OtherAddress { .. } => 4,
            DataDirError::Wal(WalError::NewerFormat { .. } | WalError::Newer { .. })
            | DataDirError::Snapshot(SnapshotError::NewerFormat { .. } | SnapshotError::Version { .. })
            | DataDirError::OtherProgram { .. } => 5,
            DataDirError::Wal(WalError::Corrupt { .. } | WalError::Gap { .. })
            | DataDirError::DamagedSnapshot { .. }
            | DataDirError::Snapshot(SnapshotError::Corrupt { .. })
            | DataDirError::LogGone { .. }
            | DataDirError::NoIdentity { .. }
            | DataDirError::StraySnapshot { .. }
            | DataDirError::NoGenesis { .. } => 3,
            DataDirError::Wal(_) | DataDirError::Snapshot(_) => 1,
        }
    }
}

/// If there are damaged snapshots, they are the cause of a gap.
pub(super) fn damaged_or(error: WalError, damaged: Vec<(SnapshotName, SnapshotError)>) -> DataDirError {
    match error {
        gap @ WalError::Gap { .. } if !damaged.is_empty() => DataDirError::DamagedSnapshot {
            damaged: damaged.into_iter().map(|(_, error)| error).collect(),
            gap,
        },
        error => error.into(),
    }
}
