//! Watches: what a client asks for with `POST /v1/watch`, and the JSON in which changes are told.

use std::borrow::Cow;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Record;
use super::record::{bytes_of, text_or_base64};
use super::strict::{objects, said};
use super::txn::{byte_object, either};
use crate::vocabulary::LeaseId;

/// How long a long poll waits when the request does not say, in seconds.
pub const DEFAULT_WATCH_WAIT_S: u64 = 30;

/// Longest wait of a long poll, in seconds.
pub const MAX_WATCH_WAIT_S: u64 = 600;

/// Most changes of the answer to a long poll when the request does not say. The changes of one revision stay together, so
/// there may be more.
pub const DEFAULT_WATCH_LIMIT: u64 = 1_000;

/// The highest such limit.
pub const MAX_WATCH_LIMIT: u64 = 10_000;

/// Longest name of one of many watches, in bytes.
pub const MAX_WATCH_ID_BYTES: usize = 64;

/// Body of `POST /v1/watch`: many watches in one answer, or on one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchRequest {
    /// At least one.
    #[serde(deserialize_with = "objects")]
    pub watches: Vec<WatchSpec>,
    /// Of a long poll: how long it waits for a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_s: Option<u64>,
    /// Of a long poll: most changes of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The cluster that is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

byte_object! {
    /// One of many watches: a key, a prefix, or the keys between two bounds.
    WatchSpec {
        key_bytes, set_key: key or key_base64 "The key.",
        prefix_bytes, set_prefix: prefix or prefix_base64 "Every key that begins so; an empty one is every key.",
        start_bytes, set_start: start or start_base64 "Every key from this one on.",
        end_bytes, set_end: end or end_base64 "Every key before this one.",
    } and {
        /// Its changes have this name; of one request no two have the same.
        id: String,
        /// The first revision whose changes are shown; by default the one after the present one.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<u64>,
        /// Whether a change shows the record before.
        #[serde(skip_serializing_if = "Option::is_none")]
        prev: Option<bool>,
        /// Only changes of this type.
        #[serde(skip_serializing_if = "Option::is_none")]
        filter: Option<ChangeKind>,
    }
}

/// What happens to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It gets a value.
    Put,
    /// It is deleted.
    Delete,
}

/// Answer of a long poll, and each event of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchReply {
    /// The revision of the store that was looked at.
    pub revision: u64,
    /// Every change before this revision was told: the same request with `from=` this goes on, at any node. Missing in an
    /// event that is a part of a revision and not its last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// The changes, oldest first; those of one revision in the order of their keys.
    pub changes: Vec<WatchChange>,
}

/// One change of one key. In JSON it has a `type`, `put` or `delete`; key and value are text where they are UTF-8, else
/// `key_base64` and `value_base64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchChange {
    /// Which of many watches it is for.
    pub id: Option<String>,
    /// The revision that made it.
    pub revision: u64,
    /// The key.
    pub key: Vec<u8>,
    /// What it was put with; None: it was deleted.
    pub put: Option<PutChange>,
    /// The record before, if it was asked for; `Some(None)`: there was none.
    pub prev: Option<Option<Record>>,
}

/// What a key was put with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutChange {
    /// The value.
    pub value: Vec<u8>,
    /// The revision that created the key.
    pub create_revision: u64,
    /// 1 for the write that created the key, then one more for each.
    pub version: u64,
    /// The lease that it is attached to.
    pub lease: Option<LeaseId>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeJson<'a> {
    #[serde(rename = "type")]
    kind: ChangeKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<Cow<'a, str>>,
    revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    create_revision: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseId>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "said")]
    prev: Option<Option<Record>>,
}

impl Serialize for WatchChange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (key, key_base64) = text_or_base64(&self.key);
        let put = self.put.as_ref();
        let (value, value_base64) = put.map_or((None, None), |put| text_or_base64(&put.value));
        ChangeJson {
            kind: if put.is_some() { ChangeKind::Put } else { ChangeKind::Delete },
            id: self.id.as_deref().map(Cow::Borrowed),
            revision: self.revision,
            key,
            key_base64,
            value,
            value_base64,
            create_revision: put.map(|put| put.create_revision),
            version: put.map(|put| put.version),
            lease: put.and_then(|put| put.lease),
            prev: self.prev.clone(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for WatchChange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WatchChange, D::Error> {
        let json = ChangeJson::deserialize(deserializer)?;
        let put = match json.kind {
            ChangeKind::Delete => None,
            ChangeKind::Put => Some(PutChange {
                value: bytes_of("value", json.value, json.value_base64).map_err(D::Error::custom)?,
                create_revision: json
                    .create_revision
                    .ok_or_else(|| D::Error::missing_field("create_revision"))?,
                version: json.version.ok_or_else(|| D::Error::missing_field("version"))?,
                lease: json.lease,
            }),
        };
        Ok(WatchChange {
            id: json.id.map(Cow::into_owned),
            revision: json.revision,
            key: bytes_of("key", json.key, json.key_base64).map_err(D::Error::custom)?,
            put,
            prev: json.prev,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_tell_values_from_deletions_and_an_absent_record_from_none_asked_for() {
        let put = PutChange { value: b"v".to_vec(), create_revision: 3, version: 2, lease: None };
        let change =
            WatchChange { id: None, revision: 4, key: b"k".to_vec(), put: Some(put), prev: Some(None) };
        let gone =
            WatchChange { id: Some("a".to_owned()), revision: 5, key: vec![0xff], put: None, prev: None };
        let reply = WatchReply { revision: 7, next: Some(6), changes: vec![change, gone] };
        let text = r#"{"revision":7,"next":6,"changes":[{"type":"put","revision":4,"key":"k","value":"v","create_revision":3,"version":2,"prev":null},{"type":"delete","id":"a","revision":5,"key_base64":"/w=="}]}"#;
        assert_eq!(serde_json::to_string(&reply).unwrap(), text);
        assert_eq!(serde_json::from_str::<WatchReply>(text).unwrap(), reply);
        for bad in [
            r#"{"type":"put","revision":4,"key":"k","value":"v","version":2}"#,
            r#"{"type":"put","revision":4,"key":"k","create_revision":3,"version":2}"#,
            r#"{"type":"expire","revision":4,"key":"k"}"#,
        ] {
            assert!(serde_json::from_str::<WatchChange>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_takes_no_unknown_fields_and_no_lists_for_objects() {
        let text = r#"{"watches":[{"prefix":"a","id":"x","from":3,"prev":true,"filter":"put"}],"wait_s":5}"#;
        let request: WatchRequest = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        for bad in [
            r#"{}"#,
            r#"{"watches":[[]]}"#,
            r#"{"watches":[{"id":"x","keys":"a"}]}"#,
            r#"{"watches":[],"form":1}"#,
            r#"{"watches":[{"id":"x","key":"a","filter":"all"}]}"#,
        ] {
            assert!(serde_json::from_str::<WatchRequest>(bad).is_err(), "{bad}");
        }
    }
}
