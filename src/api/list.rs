//! Lists of keys, page by page.

use std::borrow::Cow;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ListedRecord;
use super::cluster::is_false;
use super::record::{bytes_of, text_or_base64};

/// Most rows of one page of `GET /v1/kv`.
pub const MAX_LIST_LIMIT: u32 = 10_000;
/// Rows of one page of `GET /v1/kv` when the request does not say.
pub const DEFAULT_LIST_LIMIT: u32 = 1_000;
/// Most bytes of one page of `GET /v1/kv`, as JSON; a single larger row is a page of its own.
pub const MAX_LIST_BYTES: usize = 4 << 20;

/// By what the rows of a list are sorted. Every order but that of the keys has one page: see [`ListReply::more`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// The keys' bytes.
    #[default]
    Key,
    /// The revision that created the key.
    CreateRevision,
    /// The revision of the last write.
    ModRevision,
    /// How often the key was written.
    Version,
    /// The values' bytes.
    Value,
}

impl Sort {
    /// All of them.
    pub const ALL: [Sort; 5] =
        [Sort::Key, Sort::CreateRevision, Sort::ModRevision, Sort::Version, Sort::Value];

    /// Its name in a request.
    pub fn name(self) -> &'static str {
        match self {
            Sort::Key => "key",
            Sort::CreateRevision => "create_revision",
            Sort::ModRevision => "mod_revision",
            Sort::Version => "version",
            Sort::Value => "value",
        }
    }
}

/// Answer of `GET /v1/kv`: one page of the keys in a range, all at one revision, in byte order of the keys unless another
/// order was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListReply {
    /// The revision that the answer shows; every page of a listing has the same.
    pub revision: u64,
    /// With `count_only` how many keys the whole range has at that revision; otherwise how many rows and folders this page
    /// has.
    pub count: u64,
    /// The rows; none with `count_only`.
    pub kvs: Vec<ListedRecord>,
    /// With `separator` the folders of this page, in their order; each stands for all keys that begin so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<Folder>,
    /// With `sort` whether the limit has left rows out: those that would come last.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
    /// Present when there is more: the same request with `cursor=` this brings the next page, from any node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Keys that share a beginning, as one entry of a list. In JSON `folder`, or `folder_base64` where it is not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder(
    /// What its keys begin with: up to the first separator after the prefix, that included.
    pub Vec<u8>,
);

#[derive(Serialize, Deserialize)]
struct FolderJson<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    folder: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    folder_base64: Option<Cow<'a, str>>,
}

impl Serialize for Folder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (folder, folder_base64) = text_or_base64(&self.0);
        FolderJson { folder, folder_base64 }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Folder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Folder, D::Error> {
        let json = FolderJson::deserialize(deserializer)?;
        bytes_of("folder", json.folder, json.folder_base64).map(Folder).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_reply_omits_what_was_not_asked_for() {
        let row = |value: Option<&[u8]>| ListedRecord {
            key: vec![0xff],
            value: value.map(<[u8]>::to_vec),
            create_revision: 1,
            mod_revision: 2,
            version: 2,
            lease: None,
        };
        let mut reply = ListReply {
            revision: 3,
            count: 1,
            kvs: vec![row(None)],
            folders: Vec::new(),
            more: false,
            cursor: None,
        };
        let text = r#"{"revision":3,"count":1,"kvs":[{"key_base64":"/w==","create_revision":1,"mod_revision":2,"version":2}]}"#;
        assert_eq!(serde_json::to_string(&reply).unwrap(), text);
        assert_eq!(serde_json::from_str::<ListReply>(text).unwrap(), reply);
        reply.kvs = vec![row(Some(b"")), row(Some(b"v")), row(Some(&[0xfe]))];
        reply.cursor = Some("AQ".to_owned());
        reply.folders = vec![Folder(b"a/".to_vec()), Folder(vec![0xff, b'/'])];
        let folders = r#""folders":[{"folder":"a/"},{"folder_base64":"/y8="}]"#;
        assert!(serde_json::to_string(&reply).unwrap().contains(folders));
        let text = serde_json::to_string(&reply).unwrap();
        assert_eq!(serde_json::from_str::<ListReply>(&text).unwrap(), reply);
        let both = text.replace(r#""value":"v""#, r#""value":"v","value_base64":"dg==""#);
        assert!(serde_json::from_str::<ListReply>(&both).is_err(), "{both}");
    }
}
