//! The versions of a key as JSON.

use std::borrow::Cow;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::record::{bytes_of, text_or_base64};
use crate::vocabulary::LeaseId;

/// Rows of a page of `GET /v1/history/{key}` when the request does not say.
pub const DEFAULT_HISTORY_LIMIT: u32 = 100;

/// Most rows of such a page.
pub const MAX_HISTORY_LIMIT: u32 = 1_000;

/// Answer of `GET /v1/history/{key}`: a page of the key's versions that are kept, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryReply {
    /// The revision of the store that was looked at.
    pub revision: u64,
    /// Every change of the key after this revision is kept. Of those before it, only what the key was at this revision.
    pub floor: u64,
    /// The versions; none for a key of which there is no trace.
    pub versions: Vec<HistoryItem>,
    /// Present when there are older ones: the same request with `cursor=` this brings them, from any node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Body of `POST /v1/compact`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompactRequest {
    /// The oldest revision that is to be readable.
    pub revision: u64,
}

/// Answer of `POST /v1/compact`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactReply {
    /// The oldest revision that can be read.
    pub floor: u64,
}

/// One version of a key. In JSON it has a `type`, `put` or `delete`; a put has its value as text where that is UTF-8,
/// else as `value_base64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryItem {
    /// The key got a value.
    Put {
        /// The revision that did it.
        revision: u64,
        /// The revision that created the key.
        create_revision: u64,
        /// 1 for the write that created the key, then one more for each.
        version: u64,
        /// The lease that it was attached to.
        lease: Option<LeaseId>,
        /// The value.
        value: Vec<u8>,
    },
    /// The key was deleted.
    Delete {
        /// The revision that did it.
        revision: u64,
    },
}

impl HistoryItem {
    /// The revision that made the version.
    pub fn revision(&self) -> u64 {
        match self {
            HistoryItem::Put { revision, .. } | HistoryItem::Delete { revision } => *revision,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum ItemJson<'a> {
    Put {
        revision: u64,
        create_revision: u64,
        version: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease: Option<LeaseId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<Cow<'a, str>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value_base64: Option<Cow<'a, str>>,
    },
    Delete {
        revision: u64,
    },
}

impl Serialize for HistoryItem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            HistoryItem::Put { revision, create_revision, version, lease, value } => {
                let (revision, create_revision, version, lease) =
                    (*revision, *create_revision, *version, *lease);
                let (value, value_base64) = text_or_base64(value);
                ItemJson::Put { revision, create_revision, version, lease, value, value_base64 }
            }
            HistoryItem::Delete { revision } => ItemJson::Delete { revision: *revision },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for HistoryItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HistoryItem, D::Error> {
        Ok(match ItemJson::deserialize(deserializer)? {
            ItemJson::Put { revision, create_revision, version, lease, value, value_base64 } => {
                let value = bytes_of("value", value, value_base64).map_err(D::Error::custom)?;
                HistoryItem::Put { revision, create_revision, version, lease, value }
            }
            ItemJson::Delete { revision } => HistoryItem::Delete { revision },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_reply_tells_values_from_deletions() {
        let put = |value: &[u8]| HistoryItem::Put {
            revision: 4,
            create_revision: 3,
            version: 2,
            lease: None,
            value: value.to_vec(),
        };
        let versions = vec![HistoryItem::Delete { revision: 5 }, put(b"v"), put(&[0xff]), put(b"")];
        let reply = HistoryReply { revision: 7, floor: 1, versions, cursor: None };
        let text = r#"{"revision":7,"floor":1,"versions":[{"type":"delete","revision":5},{"type":"put","revision":4,"create_revision":3,"version":2,"value":"v"},{"type":"put","revision":4,"create_revision":3,"version":2,"value_base64":"/w=="},{"type":"put","revision":4,"create_revision":3,"version":2,"value":""}]}"#;
        assert_eq!(serde_json::to_string(&reply).unwrap(), text);
        assert_eq!(serde_json::from_str::<HistoryReply>(text).unwrap(), reply);
        let revisions: Vec<u64> = reply.versions.iter().map(HistoryItem::revision).collect();
        assert_eq!(revisions, [5, 4, 4, 4]);
        for bad in [
            r#"{"type":"put","revision":4,"create_revision":3,"version":2}"#,
            r#"{"type":"put","revision":4,"create_revision":3,"version":2,"value":"a","value_base64":"YQ=="}"#,
            r#"{"type":"expire","revision":4}"#,
        ] {
            assert!(serde_json::from_str::<HistoryItem>(bad).is_err(), "{bad}");
        }
    }
}
