//! What a snapshot says about its state: everything except the rows.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::raft::{ClusterId, Entry, MemberId, Settings, SnapshotMeta};

/// Everything of a state except its rows. In a snapshot file it is JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotHeader {
    /// The cluster; None before a genesis entry was applied.
    pub cluster_id: Option<ClusterId>,
    /// Last entry, cluster time, membership.
    pub meta: SnapshotMeta,
    /// The genesis entry: a joining member gets it with the snapshot. Its frame in base64.
    #[serde(with = "frame")]
    pub genesis: Option<Entry>,
    /// The settings in force.
    pub settings: Settings,
    /// The store's revision.
    pub revision: u64,
    /// The smallest readable revision.
    pub floor: u64,
    /// [`Kv::state_hash`](crate::store::Kv::state_hash); 32 hexadecimal digits.
    #[serde(with = "crate::bytes::state_hash")]
    pub state_hash: u128,
    /// Members that left, the latest last.
    pub removed: Vec<MemberId>,
    /// Keys that exist.
    pub keys: u64,
    /// These keys and their values, in bytes.
    pub bytes: u64,
    /// Keys with versions, including keys that were deleted recently.
    pub key_rows: u64,
    /// Versions of all keys.
    pub versions: u64,
    /// Leases.
    pub leases: u64,
    /// Outcomes in the idempotency table.
    pub idempotency_rows: u64,
    /// How often a key was touched; from version 2 on.
    #[cfg(feature = "next-protocol")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub touches: Option<u64>,
}

impl SnapshotHeader {
    /// How many rows the file has.
    pub fn rows(&self) -> u64 {
        [self.key_rows, self.versions, self.leases, self.idempotency_rows]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

mod frame {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        genesis: &Option<Entry>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        genesis.as_ref().map(|genesis| STANDARD.encode(genesis.frame())).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Entry>, D::Error> {
        let Some(text) = <Option<String>>::deserialize(deserializer)? else { return Ok(None) };
        let frame = STANDARD.decode(text).map_err(de::Error::custom)?;
        let (entry, len) = Entry::decode(&frame).map_err(de::Error::custom)?;
        if len != frame.len() || entry.genesis().is_none() {
            return Err(de::Error::custom("not the frame of a genesis entry"));
        }
        Ok(Some(entry))
    }
}
