//! The plain map of all tests after the wire: its writes as requests, its outcomes as answers, and every answer by its
//! idempotency key. How a condition becomes a header is said here once more, so that the server is held to it.

use std::collections::HashMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use dkv::store::{Condition, Op, Outcome};
use serde_json::{Value, json};

use super::plain_map::Row;

/// What a removal of a range says: prefix, start, end; empty = not said.
pub type Bounds = [Vec<u8>; 3];

/// A write as it can be repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub what: What,
    pub condition: Option<Condition>,
}

/// What a write asks for, as its request says it.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Op(Op),
    /// The server makes a range of the bounds; here they are taken as they stand.
    DeleteRange(Bounds),
}

/// Whether a key meets all bounds.
fn meets(key: &[u8], [prefix, start, end]: &Bounds) -> bool {
    key.starts_with(prefix) && key >= &start[..] && (end.is_empty() || key < &end[..])
}

/// `DELETE /v1/kv` with these bounds.
fn range_target(bounds: &Bounds) -> String {
    let names = ["prefix", "start", "end"].into_iter().zip(bounds).filter(|(_, bound)| !bound.is_empty());
    let mut query: Vec<String> = names.map(|(name, bound)| format!("{name}={}", escape(bound))).collect();
    if query.is_empty() {
        query.push("all=true".to_owned());
    }
    format!("/v1/kv?{}", query.join("&"))
}

impl Write {
    /// Method, target, the header of the condition, and the body.
    pub fn request(&self) -> (&'static str, String, Vec<(&'static str, String)>, &[u8]) {
        let headers = self.condition.map(|condition| match condition {
            Condition::ModRevision(revision) => ("If-Match", format!("\"{revision}\"")),
            Condition::Exists => ("If-Match", "*".to_owned()),
            Condition::Absent => ("If-None-Match", "*".to_owned()),
        });
        let (method, target, body): (_, _, &[u8]) = match &self.what {
            What::Op(Op::Put { key, value }) => ("PUT", format!("/v1/kv/{}", escape(key)), value),
            What::Op(Op::Delete { key }) => ("DELETE", format!("/v1/kv/{}", escape(key)), b""),
            What::Op(Op::DeleteRange { .. }) => unreachable!("a range is asked for by its bounds"),
            #[cfg(feature = "next-protocol")]
            What::Op(Op::Touch { key }) => ("POST", format!("/v1/kv/{}", escape(key)), b""),
            What::DeleteRange(bounds) => ("DELETE", range_target(bounds), b""),
        };
        (method, target, headers.into_iter().collect(), body)
    }
}

/// The map, and what was answered.
pub struct Model {
    pub map: super::plain_map::Model,
    /// By idempotency key: the write, its status and its answer.
    pub outcomes: HashMap<String, (Write, u16, Value)>,
}

impl Model {
    /// Executes `write`; the status, and the fields its answer must have.
    pub fn write(&mut self, write: &Write) -> (u16, Value) {
        let outcome = match &write.what {
            What::Op(op) => self.map.execute(op, write.condition),
            What::DeleteRange(bounds) => self.map.delete_range(|key| meets(key, bounds)),
        };
        match outcome {
            Outcome::Put { revision, create_revision, version } => {
                let reply =
                    json!({"revision": revision, "create_revision": create_revision, "version": version});
                (200, reply)
            }
            Outcome::Deleted { revision, deleted } => {
                (200, json!({"revision": revision, "deleted": deleted}))
            }
            Outcome::PreconditionFailed { revision, mod_revision } => {
                let code = "precondition_failed";
                (412, json!({"code": code, "mod_revision": mod_revision, "revision": revision}))
            }
            Outcome::RangeTooLarge { .. } => (413, json!({"code": "too_large"})),
            Outcome::IdempotencyMismatch | Outcome::Overloaded => {
                unreachable!("the map itself keeps no idempotency keys here")
            }
        }
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
