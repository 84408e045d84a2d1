//! Leases as JSON. Their names are 16 hexadecimal digits.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::record::{bytes_of, text_or_base64};
use crate::vocabulary::LeaseId;

/// Rows of a page of leases, or of the keys of a lease, when the request does not say.
pub const DEFAULT_LEASES_LIMIT: u32 = 100;

/// Most rows of such a page.
pub const MAX_LEASES_LIMIT: u32 = 1_000;

/// Body of `POST /v1/leases`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// Its time to live, in seconds.
    pub ttl_s: u64,
    /// How it is to be called; otherwise the node chooses a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<LeaseId>,
}

/// Answer of `POST /v1/leases` and `POST /v1/leases/{id}/renew`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReply {
    /// How it is called.
    pub lease: LeaseId,
    /// It lives for so many seconds after the request was sent.
    pub ttl_s: u64,
}

/// Answer of `DELETE /v1/leases/{id}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeReply {
    /// The store's revision: made by the request, or the one it found when the lease had no keys.
    pub revision: u64,
    /// How many keys went with the lease.
    pub deleted: u64,
}

/// A lease, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseInfo {
    /// How it is called.
    pub lease: LeaseId,
    /// Its time to live, in seconds, from its last renewal on.
    pub ttl_s: u64,
    /// How long it still lives without a renewal, in milliseconds; 0 when its time is over.
    pub remaining_ms: u64,
    /// Whether it belongs to the keys that it was made for, and goes with the last of them.
    pub own: bool,
    /// How many keys are attached to it.
    pub key_count: u64,
}

/// Answer of `GET /v1/leases`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasesReply {
    /// The revision of the store that was looked at.
    pub revision: u64,
    /// The leases, in order of their names.
    pub leases: Vec<LeaseInfo>,
    /// With `consistency=stale`: the cluster time, in milliseconds, that `remaining_ms` is counted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of_ms: Option<u64>,
    /// Present when there are more: the same request with `cursor=` this brings them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Answer of `GET /v1/leases/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseShown {
    /// The revision of the store that was looked at.
    pub revision: u64,
    /// The lease.
    #[serde(flatten)]
    pub lease: LeaseInfo,
    /// Its keys in order, when they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<KeyName>>,
    /// As in [`LeasesReply`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of_ms: Option<u64>,
    /// Present when it has more keys: the same request with `cursor=` this brings them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// The name of a key: `{"key":"text"}`, or `{"key_base64":"..."}` where it is not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyName(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
struct KeyNameJson<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<Cow<'a, str>>,
}

impl Serialize for KeyName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (key, key_base64) = text_or_base64(&self.0);
        KeyNameJson { key, key_base64 }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for KeyName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeyName, D::Error> {
        let json = KeyNameJson::deserialize(deserializer)?;
        bytes_of("key", json.key, json.key_base64).map(KeyName).map_err(de::Error::custom)
    }
}
