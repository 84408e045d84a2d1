//! The answers of writes.

use serde::{Deserialize, Serialize};

use super::Record;
use super::cluster::is_false;
use super::strict::said;

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

/// Answer of `POST /v1/kv/{key}?add=N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddReply {
    /// The store's revision after this write; also the key's modification revision.
    pub revision: u64,
    /// 1 for the write that created the key, then one more for each.
    pub version: u64,
    /// The counter's value after this write.
    pub value: i64,
}

/// Answer of `DELETE /v1/kv/{key}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteReply {
    /// The store's revision after the request.
    pub revision: u64,
    /// How many keys it removed: 0 when the key was absent, which changes nothing.
    pub deleted: u64,
}

/// Answer of a write with `prev=true`: that of the write without it, and what was there before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrevReply {
    /// The store's revision after the request.
    pub revision: u64,
    /// Of a put: the revision that created the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_revision: Option<u64>,
    /// Of a put: 1 for the write that created the key, then one more for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Of a delete: how many keys it removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<u64>,
    /// What was there before; missing when the answer is truncated.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "said")]
    pub prev: Option<Prev>,
    /// The answer was too long to be remembered whole: a repetition is told that the write is done, and no more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
}

/// What was there before a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prev {
    /// The records that a range had.
    Many(Vec<Record>),
    /// The record of the key; None: there was none.
    One(Option<Record>),
}
