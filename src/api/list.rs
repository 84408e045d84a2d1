//! Lists of keys, page by page.

use serde::{Deserialize, Serialize};

use super::ListedRecord;

/// Most rows of one page of `GET /v1/kv`.
pub const MAX_LIST_LIMIT: u32 = 10_000;
/// Rows of one page of `GET /v1/kv` when the request does not say.
pub const DEFAULT_LIST_LIMIT: u32 = 1_000;
/// Most bytes of one page of `GET /v1/kv`, as JSON; a single larger row is a page of its own.
pub const MAX_LIST_BYTES: usize = 4 << 20;

/// Answer of `GET /v1/kv`: one page of the keys in a range, in byte order of the keys, all at one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListReply {
    /// The revision that the answer shows; every page of a listing has the same.
    pub revision: u64,
    /// With `count_only` how many keys the whole range has at that revision; otherwise how many rows this page has.
    pub count: u64,
    /// The rows; none with `count_only`.
    pub kvs: Vec<ListedRecord>,
    /// Present when there is more: the same request with `cursor=` this brings the next page, from any node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
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
        };
        let mut reply = ListReply { revision: 3, count: 1, kvs: vec![row(None)], cursor: None };
        let text = r#"{"revision":3,"count":1,"kvs":[{"key_base64":"/w==","create_revision":1,"mod_revision":2,"version":2}]}"#;
        assert_eq!(serde_json::to_string(&reply).unwrap(), text);
        assert_eq!(serde_json::from_str::<ListReply>(text).unwrap(), reply);
        reply.kvs = vec![row(Some(b"")), row(Some(b"v")), row(Some(&[0xfe]))];
        reply.cursor = Some("AQ".to_owned());
        let text = serde_json::to_string(&reply).unwrap();
        assert_eq!(serde_json::from_str::<ListReply>(&text).unwrap(), reply);
        let both = text.replace(r#""value":"v""#, r#""value":"v","value_base64":"dg==""#);
        assert!(serde_json::from_str::<ListReply>(&both).is_err(), "{both}");
    }
}
