//! What a read of the store finds: a key with its value, or why a revision cannot be read.

use crate::vocabulary::LeaseId;

/// The bytes that a superseded version adds to the `retention_bytes` limit in addition to its key and its value:
/// about its size in memory. Part of the state machine's definition: members with different values would compact
/// differently.
pub const VERSION_OVERHEAD_BYTES: u64 = 64;

/// A key with its value at some revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The revision at which the key was created.
    pub create_revision: u64,
    /// The revision at which it got this value.
    pub mod_revision: u64,
    /// How many times it was put since it was created.
    pub version: u64,
    /// The lease that it is attached to.
    pub lease: Option<LeaseId>,
}

impl Record<'_> {
    /// The bytes that it adds to the `retention_bytes` limit once it is superseded.
    pub(super) fn retained_bytes(&self) -> u64 {
        (self.key.len() + self.value.len()) as u64 + VERSION_OVERHEAD_BYTES
    }
}

/// Why a read at a revision has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The revision lies below the compaction floor.
    #[error("revision {wanted} is compacted: the oldest one still readable is {floor}")]
    Compacted {
        /// The revision asked for.
        wanted: u64,
        /// The smallest revision that can be read.
        floor: u64,
    },
    /// The revision does not exist yet.
    #[error("revision {wanted} lies in the future: this member has applied up to revision {revision}")]
    Future {
        /// The revision asked for.
        wanted: u64,
        /// The store's revision.
        revision: u64,
    },
}

impl ReadError {
    /// Whether a store whose revisions can be read from `floor` to `revision` has the wanted one.
    pub(super) fn check(wanted: u64, floor: u64, revision: u64) -> Result<(), ReadError> {
        match wanted {
            _ if wanted > revision => Err(ReadError::Future { wanted, revision }),
            _ if wanted < floor => Err(ReadError::Compacted { wanted, floor }),
            _ => Ok(()),
        }
    }
}
