//! The plain map of all tests after the wire: its writes as requests, its outcomes as answers, and every answer by its
//! idempotency key. How a condition becomes a header is said here once more, so that the server is held to it.

use std::collections::HashMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use dkv::store::{Condition, Op, Outcome};
use dkv::vocabulary::{
    Compare, KeyRange, Keys, Operator, PutLease, Row as Shown, Target, Txn, TxnAnswer, TxnList, TxnOp,
    TxnResult,
};
use serde_json::{Value, json};

use super::plain_map::Row;

/// What a removal of a range says: prefix, start, end; empty = not said.
pub type Bounds = [Vec<u8>; 3];

/// A write as it can be repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub what: What,
    pub condition: Option<Condition>,
    /// Whether the answer shows what was there before.
    pub prev: bool,
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
    pub fn request(&self) -> (&'static str, String, Vec<(&'static str, String)>, Vec<u8>) {
        let headers = self.condition.map(|condition| match condition {
            Condition::ModRevision(revision) => ("If-Match", format!("\"{revision}\"")),
            Condition::Exists => ("If-Match", "*".to_owned()),
            Condition::Absent => ("If-None-Match", "*".to_owned()),
            Condition::Version(version) => ("If-Version", version.to_string()),
        });
        let (method, target, body) = match &self.what {
            What::Op(Op::Put { key, value, lease }) => {
                let query = match lease {
                    PutLease::None => String::new(),
                    PutLease::Attach(lease) => format!("?lease={lease}"),
                    PutLease::Own { .. } | PutLease::Keep => unreachable!("not drawn: {lease:?}"),
                };
                ("PUT", format!("/v1/kv/{}{query}", escape(key)), value.clone())
            }
            What::Op(Op::LeaseGrant { lease, ttl_s, .. }) => {
                let body = json!({"ttl_s": ttl_s, "id": lease.to_string()});
                ("POST", "/v1/leases".to_owned(), body.to_string().into_bytes())
            }
            What::Op(Op::LeaseRevoke { lease }) => ("DELETE", format!("/v1/leases/{lease}"), Vec::new()),
            What::Op(Op::LeaseRenew { leases }) => {
                ("POST", format!("/v1/leases/{}/renew", leases[0]), Vec::new())
            }
            What::Op(Op::LeaseExpire { .. }) => unreachable!("no client asks for it"),
            What::Op(Op::Compact { revision }) => {
                ("POST", "/v1/compact".to_owned(), json!({"revision": revision}).to_string().into_bytes())
            }
            What::Op(Op::Delete { key }) => ("DELETE", format!("/v1/kv/{}", escape(key)), Vec::new()),
            What::Op(Op::Txn { txn }) => {
                ("POST", "/v1/txn".to_owned(), txn_body(txn).to_string().into_bytes())
            }
            What::Op(Op::Add { key, amount }) => {
                ("POST", format!("/v1/kv/{}?add={amount}", escape(key)), Vec::new())
            }
            What::Op(Op::DeleteRange { .. }) => unreachable!("a range is asked for by its bounds"),
            #[cfg(feature = "next-protocol")]
            What::Op(Op::Touch { key }) => ("POST", format!("/v1/kv/{}", escape(key)), Vec::new()),
            What::DeleteRange(bounds) => ("DELETE", range_target(bounds), Vec::new()),
        };
        let target = match self.prev {
            true => format!("{target}{}prev=true", if target.contains('?') { "&" } else { "?" }),
            false => target,
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
        let before = |belongs: &dyn Fn(&[u8]) -> bool| -> Vec<Value> {
            let rows = self.map.now().iter().filter(|(key, _)| belongs(key));
            rows.map(|(key, row)| record(key, row, false)).collect()
        };
        let prev = match &write.what {
            What::Op(Op::Put { key, .. } | Op::Delete { key }) if write.prev => {
                json!({"prev": before(&|other| other == key).pop()})
            }
            What::DeleteRange(bounds) if write.prev => json!({"prev": before(&|key| meets(key, bounds))}),
            _ => json!({}),
        };
        let outcome = match &write.what {
            What::Op(op) => self.map.execute(op, write.condition),
            What::DeleteRange(bounds) => self.map.delete_range(|key| meets(key, bounds)),
        };
        match outcome {
            Outcome::Put { revision, create_revision, version } => {
                let reply =
                    json!({"revision": revision, "create_revision": create_revision, "version": version});
                (200, joined([reply, prev]))
            }
            Outcome::Deleted { revision, deleted } => {
                (200, joined([json!({"revision": revision, "deleted": deleted}), prev]))
            }
            Outcome::PreconditionFailed { revision, mod_revision, version } => {
                let code = "precondition_failed";
                let key = json!({"code": code, "mod_revision": mod_revision, "version": version, "revision": revision});
                (412, key)
            }
            Outcome::Added { revision, version, value } => {
                (200, json!({"revision": revision, "version": version, "value": value}))
            }
            Outcome::NotAnInteger { revision, mod_revision, version }
            | Outcome::OutOfRange { revision, mod_revision, version, .. } => {
                let code = "conflict";
                let key = json!({"code": code, "mod_revision": mod_revision, "version": version, "revision": revision});
                (409, key)
            }
            Outcome::RangeTooLarge { .. } | Outcome::TxnTooLarge { .. } => {
                (413, json!({"code": "too_large"}))
            }
            Outcome::Txn(answer) => (200, txn_reply(&answer)),
            Outcome::KeyNotFound { revision } => {
                (412, json!({"code": "key_not_found", "revision": revision}))
            }
            Outcome::Compacted { floor, .. } => (410, json!({"code": "compacted", "revision": floor})),
            Outcome::FutureRevision { revision, .. } => {
                (400, json!({"code": "future_revision", "revision": revision}))
            }
            Outcome::LeaseGranted { lease, ttl_s } => (200, json!({"lease": lease, "ttl_s": ttl_s})),
            Outcome::LeasesEnded { revision, deleted, .. } => {
                (200, json!({"revision": revision, "deleted": deleted}))
            }
            Outcome::FloorRaised { floor } => (200, json!({"floor": floor})),
            Outcome::LeasesRenewed { ttls_s } if ttls_s[0] > 0 => (200, json!({"ttl_s": ttls_s[0]})),
            Outcome::LeaseNotFound { .. } | Outcome::LeasesRenewed { .. } => {
                (404, json!({"code": "lease_not_found"}))
            }
            Outcome::LeaseExists { .. } => (409, json!({"code": "conflict"})),
            Outcome::TooManyLeases { .. } => unreachable!("the clients know five"),
            Outcome::IdempotencyMismatch | Outcome::Overloaded | Outcome::TxnShort { .. } => {
                unreachable!("the map itself keeps no idempotency keys here")
            }
        }
    }
}

/// The fields of all these objects, together.
fn joined(objects: impl IntoIterator<Item = Value>) -> Value {
    let maps = objects.into_iter().map(|object| object.as_object().expect("an object").clone());
    Value::Object(maps.flatten().collect())
}

fn range_fields(range: &KeyRange) -> Value {
    let start = Some(range.start()).filter(|start| !start.is_empty());
    let bounds = [("start", start), ("end", range.end())];
    // Said or not, an empty start means the same: one of them must be there.
    let fields = bounds.into_iter().filter_map(|(name, bound)| Some(pair(name, bound?)));
    joined(fields.chain(range.end().is_none().then(|| pair("start", range.start()))))
}

fn keys_fields(keys: &Keys) -> Value {
    match keys {
        Keys::One(key) => pair("key", key),
        Keys::Range(range) => range_fields(range),
    }
}

/// The body of a transaction.
pub fn txn_body(txn: &Txn) -> Value {
    let operator = |operator: Operator| match operator {
        Operator::Equal => "eq",
        Operator::NotEqual => "ne",
        Operator::Less => "lt",
        Operator::Greater => "gt",
    };
    let condition = |compare: &Compare| {
        let how = operator(compare.operator);
        let target = match &compare.target {
            Target::Version(0) if how == "gt" => json!({"exists": true}),
            Target::Version(0) if how == "eq" => json!({"exists": false}),
            Target::Version(number) => json!({"version": {how: number}}),
            Target::CreateRevision(number) if how == "eq" => json!({"create_revision": number}),
            Target::CreateRevision(number) => json!({"create_revision": {how: number}}),
            Target::ModRevision(number) => json!({"mod_revision": {how: number}}),
            Target::Lease(lease) => {
                let text = lease.map_or("0".to_owned(), |lease| lease.to_string());
                json!({"lease": {how: text}})
            }
            Target::Value(value) => {
                let text = pair("value", value);
                let (name, value) = text.as_object().unwrap().iter().next().unwrap();
                json!({name: {how: value}})
            }
        };
        joined([keys_fields(&compare.keys), target])
    };
    let op = |op: &TxnOp| match op {
        TxnOp::Put { key, value, lease, prev } => {
            let value = value.as_ref().map_or(json!({"keep_value": true}), |value| pair("value", value));
            let lease = match lease {
                PutLease::None => json!({}),
                PutLease::Attach(lease) => json!({"lease": lease}),
                PutLease::Keep => json!({"keep_lease": true}),
                PutLease::Own { .. } => unreachable!("not drawn: {lease:?}"),
            };
            json!({"put": joined([pair("key", key), value, lease, json!({"prev": prev})])})
        }
        TxnOp::Delete { keys, prev } => json!({"delete": joined([keys_fields(keys), json!({"prev": prev})])}),
        TxnOp::Get { key, revision } => {
            let at = revision.map_or(json!({}), |revision| json!({"revision": revision}));
            json!({"get": joined([pair("key", key), at])})
        }
        TxnOp::List(TxnList { range, revision, limit, is_descending, keys_only, count_only }) => {
            let at = revision.map_or(json!({}), |revision| json!({"revision": revision}));
            let rows = match count_only {
                true => json!({"count_only": true}),
                false => {
                    let order = if *is_descending { "desc" } else { "asc" };
                    json!({"limit": limit, "order": order, "keys_only": keys_only})
                }
            };
            json!({"list": joined([range_fields(range), at, rows])})
        }
        TxnOp::Txn(txn) => json!({"txn": txn_body(txn)}),
    };
    json!({
        "if": txn.compares.iter().map(condition).collect::<Vec<_>>(),
        "then": txn.then.iter().map(op).collect::<Vec<_>>(),
        "else": txn.otherwise.iter().map(op).collect::<Vec<_>>(),
    })
}

/// The answer to a transaction.
pub fn txn_reply(answer: &TxnAnswer) -> Value {
    let TxnAnswer { revision, succeeded, results } = answer;
    json!({"revision": revision, "succeeded": succeeded, "results": txn_results(results, *revision)})
}

fn txn_results(results: &[TxnResult], revision: u64) -> Vec<Value> {
    let show = |row: &Shown| {
        let value = row.value.clone().unwrap_or_default();
        let Shown { create_revision, mod_revision, version, lease, .. } = *row;
        record(&row.key, &Row { value, create_revision, mod_revision, version, lease }, row.value.is_none())
    };
    let shown = |rows: &[Shown]| rows.iter().map(show).collect::<Vec<_>>();
    let result = |result: &TxnResult| match result {
        TxnResult::Put { create_revision, version, prev } => {
            let numbers =
                json!({"revision": revision, "create_revision": create_revision, "version": version});
            let prev = prev.as_ref().map(|prev| json!({"prev": prev.as_ref().map(show)}));
            json!({"put": joined([numbers].into_iter().chain(prev))})
        }
        TxnResult::Delete { deleted, prev } => {
            let prev = prev.as_ref().map(|prev| json!({"prev": shown(prev)}));
            json!({"delete": joined([json!({"deleted": deleted})].into_iter().chain(prev))})
        }
        TxnResult::Get(row) => json!({"get": row.as_ref().map(show)}),
        TxnResult::List { count, more, rows } => {
            let more = if *more { json!({"more": true}) } else { json!({}) };
            json!({"list": joined([json!({"count": count, "kvs": shown(rows)}), more])})
        }
        TxnResult::Txn { succeeded, results } => {
            json!({"txn": {"succeeded": succeeded, "results": txn_results(results, revision)}})
        }
    };
    results.iter().map(result).collect()
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
    fields.extend(row.lease.map(|lease| ("lease".to_owned(), json!(lease))));
    record
}
