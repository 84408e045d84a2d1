//! The plain map that a store is held to: all its states, one for each revision, and the outcome of every write by its
//! idempotency key.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub value: Vec<u8>,
    pub create_revision: u64,
    pub mod_revision: u64,
    pub version: u64,
}

pub type State = BTreeMap<Vec<u8>, Row>;

/// A write as it can be repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub key: Vec<u8>,
    /// None = delete.
    pub value: Option<Vec<u8>>,
    pub condition: Option<(&'static str, String)>,
}

impl Write {
    /// Method, target, and the header of the condition.
    pub fn request(&self) -> (&'static str, String, Vec<(&str, &str)>) {
        let method = if self.value.is_some() { "PUT" } else { "DELETE" };
        let condition = self.condition.iter().map(|(name, tag)| (*name, &tag[..])).collect();
        (method, format!("/v1/kv/{}", escape(&self.key)), condition)
    }
}

pub struct Model {
    /// By revision; nothing has revision 0.
    pub states: Vec<State>,
    /// By idempotency key: the write, its status and its answer.
    pub outcomes: HashMap<String, (Write, u16, Value)>,
    pub retention: u64,
}

impl Model {
    pub fn revision(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    pub fn floor(&self) -> u64 {
        self.revision().saturating_sub(self.retention).max(1)
    }

    pub fn now(&self) -> &State {
        self.states.last().expect("there is a first state")
    }

    pub fn at(&self, revision: u64) -> &State {
        &self.states[usize::try_from(revision).unwrap()]
    }

    /// Executes `write`; the status, and the fields its answer must have.
    pub fn write(&mut self, write: &Write) -> (u16, Value) {
        let current = self.now().get(&write.key).cloned();
        let mod_revision = current.as_ref().map_or(0, |row| row.mod_revision);
        let holds = match &write.condition {
            None => true,
            Some(("If-None-Match", _)) => mod_revision == 0,
            Some((_, tag)) if tag == "*" => mod_revision > 0,
            Some((_, tag)) => *tag == format!("\"{mod_revision}\""),
        };
        let revision = self.revision() + 1;
        if !holds {
            let error = json!({"code": "precondition_failed", "mod_revision": mod_revision, "revision": revision - 1});
            return (412, error);
        }
        let mut state = self.now().clone();
        let reply = match (&write.value, current) {
            (Some(value), current) => {
                let (create_revision, version) =
                    current.map_or((revision, 1), |r| (r.create_revision, r.version + 1));
                let row = Row { value: value.clone(), create_revision, mod_revision: revision, version };
                state.insert(write.key.clone(), row);
                json!({"revision": revision, "create_revision": create_revision, "version": version})
            }
            (None, Some(_)) => {
                state.remove(&write.key);
                json!({"revision": revision, "deleted": 1})
            }
            (None, None) => return (200, json!({"revision": revision - 1, "deleted": 0})),
        };
        self.states.push(state);
        (200, reply)
    }
}

pub fn escape(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "%{byte:02x}").unwrap();
        text
    })
}

pub fn pair(name: &str, bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ name: text }),
        Err(_) => json!({ format!("{name}_base64"): BASE64.encode(bytes) }),
    }
}

/// A record as JSON; `keys_only` leaves out the value.
pub fn record(key: &[u8], row: &Row, keys_only: bool) -> Value {
    let mut record = pair("key", key);
    let fields = record.as_object_mut().unwrap();
    if !keys_only {
        fields.extend(pair("value", &row.value).as_object().unwrap().clone());
    }
    for (name, number) in [
        ("create_revision", row.create_revision),
        ("mod_revision", row.mod_revision),
        ("version", row.version),
    ] {
        fields.insert(name.to_owned(), number.into());
    }
    record
}
