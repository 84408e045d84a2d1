//! Snapshots, as a backup of a cluster fetches them.

use serde::{Deserialize, Serialize};

/// Most bytes of one piece of a snapshot.
pub const MAX_SNAPSHOT_PIECE: usize = 1 << 20;

/// Answer of `POST /v1/snapshots`: a snapshot that holds everything that was acknowledged before the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReply {
    /// Its name: `GET /v1/snapshots/{name}` brings its bytes.
    pub name: String,
    /// Log index of the last entry in it.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// 16 hexadecimal digits.
    pub cluster_id: String,
    /// The store's revision in it.
    pub revision: u64,
    /// Keys that exist in it.
    pub keys: u64,
    /// Length of the file.
    pub bytes: u64,
    /// The checksum at the end of the file, of everything before: 8 hexadecimal digits.
    pub crc32c: String,
    /// The hash of the state in it, 32 hexadecimal digits.
    pub state_hash: String,
}

/// A snapshot that a node has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its name.
    pub name: String,
    /// Log index of the last entry in it.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Length of the file.
    pub bytes: u64,
}

/// Answer of `GET /v1/snapshots`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotsReply {
    /// Those that the answering node has, the newest first.
    pub snapshots: Vec<SnapshotInfo>,
}
