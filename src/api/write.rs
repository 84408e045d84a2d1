//! The answers of writes.

use serde::{Deserialize, Serialize};

/// Answer of `PUT /v1/kv/{key}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutReply {
    /// The store's revision after this write; also the key's modification revision.
    pub revision: u64,
    /// The revision that created the key.
    pub create_revision: u64,
    /// 1 for the write that created the key, then one more for each.
    pub version: u64,
}

/// Answer of `DELETE /v1/kv/{key}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteReply {
    /// The store's revision after the request.
    pub revision: u64,
    /// How many keys it removed: 0 when the key was absent, which changes nothing.
    pub deleted: u64,
}
