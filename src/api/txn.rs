//! Transactions: the body of `POST /v1/txn`, and its answer. Keys, bounds and values are text, or base64 in the field
//! with the same name and `_base64`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use super::cluster::is_false;
use super::record::{bytes_of, text_or_base64};
use super::strict::{Strict, object, objects, said};
use super::{ListedRecord, Record};
use crate::vocabulary::LeaseId;

/// Comparisons of a transaction, and operations of each of its lists, when the configuration does not say.
pub const DEFAULT_MAX_TXN_OPS: usize = 128;

/// Body of `POST /v1/txn`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TxnRequest {
    /// All must hold, for `then` to be done and not `else`; without any they do.
    #[serde(default, rename = "if", skip_serializing_if = "Vec::is_empty", deserialize_with = "objects")]
    pub conditions: Vec<TxnCondition>,
    /// What is done when all conditions hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "objects")]
    pub then: Vec<TxnOperation>,
    /// What is done otherwise.
    #[serde(default, rename = "else", skip_serializing_if = "Vec::is_empty", deserialize_with = "objects")]
    pub otherwise: Vec<TxnOperation>,
}

/// An object whose first fields are bytes: each is text, or base64 in the field with the same name and `_base64`. Every
/// field may be missing. (Serde's `flatten` would take unknown fields.)
macro_rules! byte_object {
    (
        $(#[$doc:meta])* $name:ident {
            $($get:ident, $set:ident: $text:ident or $base64:ident $what:literal,)*
        } and {
            $($(#[$attribute:meta])* $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $(
                #[doc = $what]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $text: Option<String>,
                #[doc = concat!($what, " In base64.")]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $base64: Option<String>,
            )*
            $($(#[$attribute])* pub $field: $type,)*
        }

        impl $name {
            $(
                /// The bytes of the field, if it is there.
                ///
                /// # Errors
                /// It is there in both forms, or not base64.
                pub fn $get(&self) -> Result<Option<Vec<u8>>, String> {
                    either(stringify!($text), self.$text.as_deref(), self.$base64.as_deref())
                }

                /// Sets the field: as text where it is UTF-8.
                pub fn $set(&mut self, bytes: &[u8]) {
                    let (text, base64) = text_or_base64(bytes);
                    (self.$text, self.$base64) = (text.map(Cow::into_owned), base64.map(Cow::into_owned));
                }
            )*
        }
    };
}

pub(super) use byte_object;

byte_object! {
    /// One condition: of a key, or of every key of a range, exactly one thing.
    TxnCondition {
        key_bytes, set_key: key or key_base64 "The key.",
        prefix_bytes, set_prefix: prefix or prefix_base64 "Every key that begins so.",
        start_bytes, set_start: start or start_base64 "Every key from this one on.",
        end_bytes, set_end: end or end_base64 "Every key before this one.",
    } and {
        /// Whether the key exists; of a range: every key does, and there is one, or there is none.
        #[serde(skip_serializing_if = "Option::is_none")]
        exists: Option<bool>,
        /// The revision at which the key was last changed; 0 when it does not exist.
        #[serde(skip_serializing_if = "Option::is_none")]
        mod_revision: Option<Wanted<u64>>,
        /// The revision at which it was created; 0 when it does not exist.
        #[serde(skip_serializing_if = "Option::is_none")]
        create_revision: Option<Wanted<u64>>,
        /// How many times it was put since it was created; 0 when it does not exist.
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<Wanted<u64>>,
        /// Its value, compared by bytes; no operator holds for a key that does not exist.
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<Wanted<String>>,
        /// The value in base64.
        #[serde(skip_serializing_if = "Option::is_none")]
        value_base64: Option<Wanted<String>>,
        /// The lease that it is attached to; `"0"` when it is attached to none, or does not exist.
        #[serde(skip_serializing_if = "Option::is_none")]
        lease: Option<Wanted<String>>,
    }
}

/// What is wanted: a bare value must be equal; `{"ne":1}`, `{"lt":1}`, `{"gt":1}` and `{"eq":1}` say how to compare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted<T> {
    /// Equal; also the bare value.
    Eq(T),
    /// Not equal.
    Ne(T),
    /// Less.
    Lt(T),
    /// Greater.
    Gt(T),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Operation<T> {
    Eq(T),
    Ne(T),
    Lt(T),
    Gt(T),
}

struct WantedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for WantedVisitor<T> {
    type Value = Wanted<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, or {\"eq\"|\"ne\"|\"lt\"|\"gt\": value}")
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Wanted<T>, E> {
        T::deserialize(serde::de::value::U64Deserializer::new(number)).map(Wanted::Eq)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Wanted<T>, E> {
        T::deserialize(serde::de::value::I64Deserializer::new(number)).map(Wanted::Eq)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Wanted<T>, E> {
        T::deserialize(serde::de::value::StrDeserializer::new(text)).map(Wanted::Eq)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Wanted<T>, A::Error> {
        Ok(match Operation::deserialize(MapAccessDeserializer::new(map))? {
            Operation::Eq(value) => Wanted::Eq(value),
            Operation::Ne(value) => Wanted::Ne(value),
            Operation::Lt(value) => Wanted::Lt(value),
            Operation::Gt(value) => Wanted::Gt(value),
        })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Wanted<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Wanted<T>, D::Error> {
        deserializer.deserialize_any(WantedVisitor(PhantomData))
    }
}

/// One operation of a transaction: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TxnOperation {
    /// Give a key a value.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "object")]
    pub put: Option<TxnPut>,
    /// Remove keys.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "object")]
    pub delete: Option<TxnDelete>,
    /// Read a key.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "object")]
    pub get: Option<TxnGet>,
    /// Read or count the keys of a range.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "object")]
    pub list: Option<TxnList>,
    /// A transaction within the transaction.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "object")]
    pub txn: Option<TxnRequest>,
}

byte_object! {
    /// A write of a transaction.
    TxnPut {
        key_bytes, set_key: key or key_base64 "The key.",
        value_bytes, set_value: value or value_base64 "The value.",
    } and {
        /// The key keeps its value: it gets a new revision and version. It must exist.
        #[serde(skip_serializing_if = "is_false")]
        keep_value: bool,
        /// Whether the answer shows the record before.
        #[serde(skip_serializing_if = "is_false")]
        prev: bool,
        /// The lease that the key is attached to from now on; without `lease`, `ttl_s` and `keep_lease` it has none.
        #[serde(skip_serializing_if = "Option::is_none")]
        lease: Option<LeaseId>,
        /// The key gets a lease of its own with this time to live, in seconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        ttl_s: Option<u64>,
        /// The key keeps the lease that it has. It must exist.
        #[serde(skip_serializing_if = "is_false")]
        keep_lease: bool,
    }
}

byte_object! {
    /// A removal of a transaction: of a key, or of a range. Keys that are not there do no harm.
    TxnDelete {
        key_bytes, set_key: key or key_base64 "The key.",
        prefix_bytes, set_prefix: prefix or prefix_base64 "Every key that begins so.",
        start_bytes, set_start: start or start_base64 "Every key from this one on.",
        end_bytes, set_end: end or end_base64 "Every key before this one.",
    } and {
        /// Whether the answer shows the records that went.
        #[serde(skip_serializing_if = "is_false")]
        prev: bool,
    }
}

byte_object! {
    /// A read of one key in a transaction.
    TxnGet {
        key_bytes, set_key: key or key_base64 "The key.",
    } and {
        /// At which revision; otherwise with the writes of the operations before it.
        #[serde(skip_serializing_if = "Option::is_none")]
        revision: Option<u64>,
    }
}

byte_object! {
    /// A read of a range in a transaction; without bounds of every key.
    TxnList {
        prefix_bytes, set_prefix: prefix or prefix_base64 "Every key that begins so.",
        start_bytes, set_start: start or start_base64 "Every key from this one on.",
        end_bytes, set_end: end or end_base64 "Every key before this one.",
    } and {
        /// Most rows; 1,000 when it is not said.
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<u64>,
        /// `asc`, the default, or `desc`.
        #[serde(skip_serializing_if = "Option::is_none")]
        order: Option<TxnOrder>,
        /// Rows without values.
        #[serde(skip_serializing_if = "is_false")]
        keys_only: bool,
        /// No rows, only their number.
        #[serde(skip_serializing_if = "is_false")]
        count_only: bool,
        /// At which revision; otherwise with the writes of the operations before it.
        #[serde(skip_serializing_if = "Option::is_none")]
        revision: Option<u64>,
    }
}

/// The order of rows: by the bytes of their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TxnOrder {
    /// The smallest key first.
    Asc,
    /// The greatest key first.
    Desc,
}

/// Answer of `POST /v1/txn`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnReply {
    /// The store's revision: made by the transaction, or the one it found when it changed nothing.
    pub revision: u64,
    /// Whether all conditions held, so that `then` was done.
    pub succeeded: bool,
    /// One for each operation of the list that was done; none when the answer is truncated.
    pub results: Vec<TxnResult>,
    /// The answer was too long to be remembered whole, or to be carried: it says how many keys were put and deleted, and
    /// no more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
    /// Keys put, when the answer is truncated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub puts: Option<u64>,
    /// Keys deleted, when the answer is truncated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<u64>,
}

/// What one operation of a transaction did or read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TxnResult {
    /// The key has the value.
    Put {
        /// The revision that the transaction made; also the key's modification revision.
        revision: u64,
        /// The revision that created the key.
        create_revision: u64,
        /// 1 for the write that created the key, then one more for each.
        version: u64,
        /// The record before, when it was asked for; inside, None: the key did not exist.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "said")]
        prev: Option<Option<Record>>,
    },
    /// The keys are absent.
    Delete {
        /// How many were removed.
        deleted: u64,
        /// Their records, when they were asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prev: Option<Vec<Record>>,
    },
    /// The key, if it exists.
    Get(Option<Record>),
    /// The keys of a range.
    List {
        /// How many rows there are; with `count_only` how many keys the range has.
        count: u64,
        /// The rows; none with `count_only`.
        kvs: Vec<ListedRecord>,
        /// The range has more keys than `limit`.
        #[serde(default, skip_serializing_if = "is_false")]
        more: bool,
    },
    /// What a nested transaction did.
    Txn {
        /// Whether all of its conditions held.
        succeeded: bool,
        /// One for each operation of the list that was done.
        results: Vec<TxnResult>,
    },
}

pub(super) fn either(
    name: &str,
    text: Option<&str>,
    base64: Option<&str>,
) -> Result<Option<Vec<u8>>, String> {
    if text.is_none() && base64.is_none() {
        return Ok(None);
    }
    bytes_of(name, text.map(Cow::Borrowed), base64.map(Cow::Borrowed)).map(Some)
}

impl TxnRequest {
    /// Reads a body as JSON.
    ///
    /// # Errors
    /// The text says where it is no transaction.
    pub fn from_json(body: &[u8]) -> Result<TxnRequest, String> {
        let Strict(request) = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        Ok(request)
    }

    /// Whether it can write: an operation in one of its lists is a write.
    pub fn can_write(&self) -> bool {
        self.then.iter().chain(&self.otherwise).any(|operation| {
            operation.put.is_some()
                || operation.delete.is_some()
                || operation.txn.as_ref().is_some_and(TxnRequest::can_write)
        })
    }
}

impl<T> Wanted<T> {
    /// What is compared with, in another form.
    ///
    /// # Errors
    /// What `change` says.
    pub fn try_map<U, E>(self, change: impl FnOnce(T) -> Result<U, E>) -> Result<Wanted<U>, E> {
        Ok(match self {
            Wanted::Eq(value) => Wanted::Eq(change(value)?),
            Wanted::Ne(value) => Wanted::Ne(change(value)?),
            Wanted::Lt(value) => Wanted::Lt(change(value)?),
            Wanted::Gt(value) => Wanted::Gt(change(value)?),
        })
    }
}

impl TxnCondition {
    /// The value that is compared with, if it is there.
    ///
    /// # Errors
    /// It is there in both forms, or not base64.
    pub fn value_wanted(&self) -> Result<Option<Wanted<Vec<u8>>>, String> {
        match (&self.value, &self.value_base64) {
            (None, None) => Ok(None),
            (Some(text), None) => text.clone().try_map(|text| Ok::<_, String>(text.into_bytes())).map(Some),
            (None, Some(base64)) => {
                let decoded = base64.clone().try_map(|base64| BASE64.decode(base64));
                decoded.map(Some).map_err(|e| format!("value_base64 is not base64: {e}"))
            }
            (Some(_), Some(_)) => Err("value and value_base64 exclude each other".to_owned()),
        }
    }

    /// Sets the value that is compared with: as text where it is UTF-8.
    pub fn set_value(&mut self, wanted: Wanted<Vec<u8>>) {
        match wanted.clone().try_map(String::from_utf8) {
            Ok(text) => (self.value, self.value_base64) = (Some(text), None),
            Err(_) => {
                let base64 = wanted.try_map(|value| Ok::<_, ()>(BASE64.encode(value))).ok();
                (self.value, self.value_base64) = (None, base64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_back_from_its_json() {
        let text = r#"{"if":[{"key":"a","version":{"lt":5}},{"key_base64":"/w==","exists":false},{"prefix":"p","value":{"ne":"v"}}],"then":[{"put":{"key":"a","value_base64":"/w==","prev":true}},{"delete":{"start":"b","end":"c"}},{"get":{"key":"a","revision":7}},{"list":{"prefix":"p","limit":3,"order":"desc","keys_only":true}}],"else":[{"txn":{"then":[{"put":{"key":"k","keep_value":true}}]}}]}"#;
        let request = TxnRequest::from_json(text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        assert_eq!(request.conditions[1].key_bytes(), Ok(Some(vec![0xff])));
        assert_eq!(request.then[0].put.as_ref().unwrap().value_bytes(), Ok(Some(vec![0xff])));
        assert!(request.can_write());
    }

    #[test]
    fn a_bare_value_is_compared_for_equality() {
        let of = |text: &str| serde_json::from_str::<TxnCondition>(text).map(|condition| condition.version);
        assert_eq!(of(r#"{"version":5}"#).unwrap(), Some(Wanted::Eq(5)));
        assert_eq!(of(r#"{"version":{"eq":5}}"#).unwrap(), Some(Wanted::Eq(5)));
        for (name, wanted) in [("ne", Wanted::Ne(5)), ("lt", Wanted::Lt(5)), ("gt", Wanted::Gt(5))] {
            assert_eq!(of(&format!(r#"{{"version":{{"{name}":5}}}}"#)).unwrap(), Some(wanted));
        }
        for bad in
            ["-1", "1.0", "\"5\"", "true", "[5]", "{}", r#"{"le":5}"#, r#"{"lt":5,"gt":3}"#, r#"{"lt":"5"}"#]
        {
            assert!(of(&format!(r#"{{"version":{bad}}}"#)).is_err(), "{bad}");
        }
    }

    /// `[]` was a transaction that does nothing, and `{"put":["a",null,"x"]}` a put.
    #[test]
    fn a_list_is_not_taken_for_an_object() {
        for bad in [
            "[]",
            r#"{"if":[["a"]]}"#,
            r#"{"then":[[]]}"#,
            r#"{"else":[{"put":["a",null,"x"]}]}"#,
            r#"{"then":[{"txn":[]}]}"#,
            r#"{"then":[{"get":[]}]}"#,
        ] {
            let error = TxnRequest::from_json(bad.as_bytes()).unwrap_err();
            assert!(error.contains("expected an object"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_reply_comes_back_from_its_json() {
        let row = r#"{"key":"k","value_base64":"/w==","create_revision":2,"mod_revision":3,"version":2}"#;
        let results = [
            r#"{"put":{"revision":7,"create_revision":2,"version":3}}"#.to_owned(),
            r#"{"put":{"revision":7,"create_revision":7,"version":1,"prev":null}}"#.to_owned(),
            format!(r#"{{"put":{{"revision":7,"create_revision":2,"version":3,"prev":{row}}}}}"#),
            r#"{"delete":{"deleted":0}}"#.to_owned(),
            format!(r#"{{"delete":{{"deleted":1,"prev":[{row}]}}}}"#),
            r#"{"get":null}"#.to_owned(),
            format!(r#"{{"get":{row}}}"#),
            format!(r#"{{"list":{{"count":1,"kvs":[{row}],"more":true}}}}"#),
            r#"{"txn":{"succeeded":false,"results":[]}}"#.to_owned(),
        ];
        let text = format!(r#"{{"revision":7,"succeeded":true,"results":[{}]}}"#, results.join(","));
        let reply: TxnReply = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&reply).unwrap(), text);
        let short = r#"{"revision":7,"succeeded":true,"results":[],"truncated":true,"puts":3,"deleted":1}"#;
        let reply: TxnReply = serde_json::from_str(short).unwrap();
        assert_eq!((serde_json::to_string(&reply).unwrap(), reply.truncated), (short.to_owned(), true));
    }

    #[test]
    fn any_bytes_are_set_as_text_or_base64() {
        let mut condition = TxnCondition::default();
        for (value, is_text) in [(&b"v"[..], true), (b"\xff", false)] {
            condition.set_key(value);
            condition.set_value(Wanted::Ne(value.to_vec()));
            assert_eq!((condition.key.is_some(), condition.value.is_some()), (is_text, is_text));
            assert_eq!(condition.key_bytes(), Ok(Some(value.to_vec())));
            assert_eq!(condition.value_wanted(), Ok(Some(Wanted::Ne(value.to_vec()))));
        }
    }
}
