//! A key with its value as JSON, in which any bytes are safe: text where they are UTF-8, else base64.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::strict::Strict;
use crate::vocabulary::LeaseId;

/// One key with its value. In JSON key and value are text where they are UTF-8, else `key_base64` / `value_base64`;
/// exactly one of each pair is present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision of the last write to it.
    pub mod_revision: u64,
    /// 1 for the write that created the key, then one more for each.
    pub version: u64,
    /// The lease that it is attached to. Without one the JSON has no such field.
    pub lease: Option<LeaseId>,
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (key, key_base64) = text_or_base64(&self.key);
        let (value, value_base64) = text_or_base64(&self.value);
        let Record { create_revision, mod_revision, version, lease, .. } = *self;
        RecordJson { key, key_base64, value, value_base64, create_revision, mod_revision, version, lease }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Record, D::Error> {
        let json = RecordJson::deserialize(deserializer)?;
        Ok(Record {
            key: bytes_of("key", json.key, json.key_base64).map_err(D::Error::custom)?,
            value: bytes_of("value", json.value, json.value_base64).map_err(D::Error::custom)?,
            create_revision: json.create_revision,
            mod_revision: json.mod_revision,
            version: json.version,
            lease: json.lease,
        })
    }
}

/// A row of a list: a [`Record`] that has no value when only keys were asked for. The same JSON, without `value` and
/// `value_base64` then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRecord {
    /// The key.
    pub key: Vec<u8>,
    /// The value; None with `keys_only`.
    pub value: Option<Vec<u8>>,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision of the last write to it.
    pub mod_revision: u64,
    /// 1 for the write that created the key, then one more for each.
    pub version: u64,
    /// The lease that it is attached to. Without one the JSON has no such field.
    pub lease: Option<LeaseId>,
}

impl Serialize for ListedRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (key, key_base64) = text_or_base64(&self.key);
        let (value, value_base64) = self.value.as_deref().map_or((None, None), text_or_base64);
        let ListedRecord { create_revision, mod_revision, version, lease, .. } = *self;
        RecordJson { key, key_base64, value, value_base64, create_revision, mod_revision, version, lease }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ListedRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ListedRecord, D::Error> {
        let json = RecordJson::deserialize(deserializer)?;
        let value = match (json.value, json.value_base64) {
            (None, None) => None,
            (text, base64) => Some(bytes_of("value", text, base64).map_err(D::Error::custom)?),
        };
        Ok(ListedRecord {
            key: bytes_of("key", json.key, json.key_base64).map_err(D::Error::custom)?,
            value,
            create_revision: json.create_revision,
            mod_revision: json.mod_revision,
            version: json.version,
            lease: json.lease,
        })
    }
}

/// A key with its value as a line of an export: the JSON of a [`Record`], whose revisions may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

impl<'de> Deserialize<'de> for KeyValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeyValue, D::Error> {
        let Strict(json) = Strict::<KeyValueJson<'_>>::deserialize(deserializer)?;
        Ok(KeyValue {
            key: bytes_of("key", json.key, json.key_base64).map_err(D::Error::custom)?,
            value: bytes_of("value", json.value, json.value_base64).map_err(D::Error::custom)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct RecordJson<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<Cow<'a, str>>,
    create_revision: u64,
    mod_revision: u64,
    version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseId>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyValueJson<'a> {
    key: Option<Cow<'a, str>>,
    key_base64: Option<Cow<'a, str>>,
    value: Option<Cow<'a, str>>,
    value_base64: Option<Cow<'a, str>>,
    #[serde(default, rename = "create_revision")]
    _create_revision: u64,
    #[serde(default, rename = "mod_revision")]
    _mod_revision: u64,
    #[serde(default, rename = "version")]
    _version: u64,
    #[serde(default, rename = "lease")]
    _lease: Option<LeaseId>,
}

/// The text form of `bytes`: plain when they are UTF-8, else base64.
pub(super) fn text_or_base64(bytes: &[u8]) -> (Option<Cow<'_, str>>, Option<Cow<'_, str>>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(Cow::Borrowed(text)), None),
        Err(_) => (None, Some(Cow::Owned(BASE64.encode(bytes)))),
    }
}

pub(super) fn bytes_of(
    name: &str,
    text: Option<Cow<'_, str>>,
    base64: Option<Cow<'_, str>>,
) -> Result<Vec<u8>, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_owned().into_bytes()),
        (None, Some(base64)) => {
            BASE64.decode(base64.as_bytes()).map_err(|e| format!("{name}_base64 is not base64: {e}"))
        }
        _ => Err(format!("exactly one of {name} and {name}_base64 is needed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_uses_base64_only_where_it_must() {
        let record = Record {
            key: b"k/1".to_vec(),
            value: vec![0xff, 0],
            create_revision: 1,
            mod_revision: 2,
            version: 2,
            lease: None,
        };
        let text = r#"{"key":"k/1","value_base64":"/wA=","create_revision":1,"mod_revision":2,"version":2}"#;
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
        assert_eq!(serde_json::from_str::<Record>(text).unwrap(), record);
    }

    /// A line of an import that is a list was taken for the fields in their order.
    #[test]
    fn a_list_is_not_taken_for_a_key_with_its_value() {
        let line = r#"{"key":"k","value":"v"}"#;
        let wanted = KeyValue { key: b"k".to_vec(), value: b"v".to_vec() };
        assert_eq!(serde_json::from_str::<KeyValue>(line).unwrap(), wanted);
        assert!(serde_json::from_str::<KeyValue>(r#"["k",null,"v",null,1,1,1]"#).is_err());
    }

    #[test]
    fn record_refuses_both_forms_and_neither() {
        for fields in
            [r#""key":"a","key_base64":"YQ==","value":"#, r#""value":"#, r#""key_base64":"!","value":"#]
        {
            let text = format!(r#"{{{fields}"v","create_revision":1,"mod_revision":1,"version":1}}"#);
            assert!(serde_json::from_str::<Record>(&text).is_err(), "{text}");
        }
    }
}
