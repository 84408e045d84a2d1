//! The clients: each has one call under way at a time, to the node it is pinned to or to any.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use dkv::check::{Answer, Condition, Event, Holds, Op, Row, Test, Txn, TxnOp, TxnResult, draw_operation};
use fastrand::Rng;
use serde_json::{Value, json};

use super::cluster::Addresses;
use super::plan::RoundPlan;
use super::report::Report;
use super::support::cluster::{self as http, Connection};
use super::value;

/// Times a write with an idempotency key is tried at most.
const ATTEMPTS: usize = 6;

/// What the clients of a round share.
pub struct Crowd<'a> {
    /// Who serves.
    pub addresses: Addresses,
    /// First part of every key.
    pub prefix: String,
    /// The clock of all records.
    pub epoch: Instant,
    /// The round.
    pub plan: &'a RoundPlan,
    /// What is counted.
    pub report: &'a Report,
    /// When it is set, nobody calls any more.
    pub over: &'a AtomicBool,
    /// What they were told.
    pub history: Mutex<Vec<Event>>,
    /// Answers that nobody can have meant.
    pub nonsense: Mutex<Vec<String>>,
    /// Numbers that were never used.
    pub values: &'a AtomicU64,
    /// Lives of clients.
    pub lives: &'a AtomicU64,
    /// Calls so far.
    pub calls: AtomicU64,
}

impl Crowd<'_> {
    /// Nanoseconds since the start of the rig.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).expect("five hundred years")
    }

    /// Says what an answer was that makes no sense.
    pub fn complain(&self, text: String) {
        self.nonsense.lock().expect("nothing panics under the lock").push(text);
    }

    /// The keys of a generation.
    fn keys(&self, generation: u64) -> Vec<String> {
        (0..self.plan.keys).map(|k| format!("{}g{generation}/k{k}", self.prefix)).collect()
    }

    /// Calls until the round is over. The clients must not be many at once on a machine that others use too.
    pub fn run(&self, thread: usize) {
        let mut rng = Rng::with_seed(self.plan.seed.wrapping_add(thread as u64 + 1));
        let size = self.addresses.size();
        let taken = self.addresses.taken();
        let is_pinned = thread.is_multiple_of(2);
        let mut client = Client {
            crowd: self,
            id: self.lives.fetch_add(1, Relaxed),
            node: taken[thread / 2 % taken.len()],
            is_pinned,
            rng: rng.fork(),
            connections: (0..size).map(|_| None).collect(),
            seen: BTreeMap::new(),
            records: Vec::new(),
        };
        while !self.over.load(Relaxed) {
            client.call();
        }
        self.history.lock().expect("nothing panics under the lock").append(&mut client.records);
    }
}

struct Client<'a> {
    crowd: &'a Crowd<'a>,
    id: u64,
    node: usize,
    is_pinned: bool,
    rng: Rng,
    connections: Vec<Option<Connection>>,
    /// The revision each key was last seen at.
    seen: BTreeMap<String, u64>,
    records: Vec<Event>,
}

/// How an attempt ended.
enum Attempt {
    /// With this answer.
    Answered(http::Answer),
    /// Surely before the request left.
    NotSent,
    /// Without an answer.
    Unanswered,
}

impl Client<'_> {
    fn call(&mut self) {
        let crowd = self.crowd;
        let generation = crowd.calls.fetch_add(1, Relaxed) / crowd.plan.generation;
        // Nobody stays with a node that is no more.
        let is_restless = !self.is_pinned && self.rng.u8(0..4) == 0;
        if is_restless || !crowd.addresses.is_taken(self.node) {
            self.roam();
        }
        let keys = crowd.keys(generation);
        if self.rng.u8(0..100) < 6 {
            self.list(&format!("{}g{generation}/", crowd.prefix));
        } else {
            let value = || value::of_number(crowd.values.fetch_add(1, Relaxed));
            let op = draw_operation(&mut self.rng, &keys, value, |key| self.seen.get(key).copied());
            self.single(op);
        }
        std::thread::sleep(Duration::from_micros(self.rng.u64(0..12_000)));
    }

    /// Turns to any node.
    fn roam(&mut self) {
        let taken = self.crowd.addresses.taken();
        self.node = taken[self.rng.usize(0..taken.len())];
    }

    /// One operation on one key, a transaction on a pair or the removal of one, with its retries under one idempotency key
    /// if it has one.
    fn single(&mut self, op: Op) {
        let crowd = self.crowd;
        let idempotency = (op.is_write() && self.rng.u8(0..4) == 0 || matches!(op, Op::Add { .. }))
            .then(|| format!("c{}-{}", self.id, self.rng.u64(..)));
        let (method, condition, body) = match &op {
            Op::Put { value, condition, .. } => ("PUT", *condition, value::body(value, self.filler_bytes())),
            Op::Delete { condition, .. } => ("DELETE", *condition, Vec::new()),
            Op::Add { condition, .. } => ("POST", *condition, Vec::new()),
            Op::Get { .. } | Op::List { .. } => ("GET", None, Vec::new()),
            Op::DeleteRange { .. } => ("DELETE", None, Vec::new()),
            Op::Txn(txn) => ("POST", None, body_of(txn, || self.filler_bytes())),
        };
        let mut headers: Vec<(&str, String)> = condition.map(Condition::to_header).into_iter().collect();
        headers.extend(idempotency.iter().map(|key| ("Idempotency-Key", key.clone())));
        let path = match &op {
            Op::Get { key } | Op::Put { key, .. } | Op::Delete { key, .. } => format!("/v1/kv/{key}"),
            Op::Add { key, amount, .. } => format!("/v1/kv/{key}?add={amount}"),
            Op::DeleteRange { start, end } => {
                format!("/v1/kv?start={start}&end={}", end.as_deref().unwrap_or_default())
            }
            Op::Txn(_) => "/v1/txn".to_owned(),
            Op::List { .. } => unreachable!("lists are asked for elsewhere"),
        };
        let call_ns = crowd.now_ns();
        let mut was_unknown = false;
        let (mut index, mut version) = (None, None);
        let mut result = Answer::Unknown;
        for attempt in 0..if idempotency.is_some() { ATTEMPTS } else { 1 } {
            if attempt > 0 {
                crowd.report.retries.fetch_add(1, Relaxed);
                self.roam();
            }
            result = match self.attempt(method, &path, &headers, &body) {
                Attempt::NotSent => Answer::NotDone,
                Attempt::Unanswered => Answer::Unknown,
                Attempt::Answered(answer) => {
                    (index, version) = (place(&answer), version_in(&answer));
                    self.understand(&op, &answer)
                }
            };
            // An attempt that is not done says nothing of those before it.
            let is_decided = !matches!(result, Answer::NotDone | Answer::Unknown);
            was_unknown |= result == Answer::Unknown;
            if is_decided || !was_unknown || crowd.over.load(Relaxed) {
                break;
            }
            std::thread::sleep(Duration::from_millis(self.rng.u64(5..80)));
        }
        if result == Answer::NotDone && was_unknown {
            result = Answer::Unknown;
        }
        let return_ns = crowd.now_ns();
        self.learn(&op, &result);
        let index = index.filter(|_| !matches!(result, Answer::NotDone | Answer::Unknown));
        let version = version.filter(|_| !matches!(result, Answer::NotDone | Answer::Unknown));
        let answer = result.clone();
        self.records.push(Event { process: self.id, call_ns, return_ns, op, answer, index, version });
        self.count(&result);
    }

    /// Notes the revision at which a key was last seen.
    fn learn(&mut self, op: &Op, result: &Answer) {
        if let (Op::DeleteRange { .. }, Answer::DeletedRange { .. }) = (op, result) {
            self.seen.retain(|key, _| !op.concerns(key));
        }
        if let (Op::Txn(txn), Answer::Txn { succeeded, results, .. }) = (op, result) {
            let ops = if *succeeded { &txn.then } else { &txn.otherwise };
            for (op, result) in ops.iter().zip(results) {
                if let (TxnOp::Get { key }, TxnResult::Value { mod_revision, .. }) = (op, result) {
                    self.seen.insert(key.clone(), *mod_revision);
                }
            }
        }
        let Some(key) = op.key() else { return };
        match *result {
            Answer::Value { mod_revision, .. } => drop(self.seen.insert(key.to_owned(), mod_revision)),
            Answer::Written { revision } | Answer::Added { revision, .. } => {
                self.seen.insert(key.to_owned(), revision);
            }
            Answer::PreconditionFailed { mod_revision } | Answer::Conflict { mod_revision }
                if mod_revision > 0 =>
            {
                self.seen.insert(key.to_owned(), mod_revision);
            }
            Answer::Absent
            | Answer::Deleted { .. }
            | Answer::PreconditionFailed { .. }
            | Answer::Conflict { .. } => {
                self.seen.remove(key);
            }
            Answer::NotDone
            | Answer::Unknown
            | Answer::Listed { .. }
            | Answer::Txn { .. }
            | Answer::DeletedRange { .. } => {}
        }
    }

    fn count(&mut self, result: &Answer) {
        let report = self.crowd.report;
        match result {
            Answer::NotDone => {
                report.not_done.fetch_add(1, Relaxed);
                self.after_failure();
            }
            Answer::Unknown => {
                report.unknown.fetch_add(1, Relaxed);
                // Whoever does not know what became of its call is not the same afterwards.
                self.id = self.crowd.lives.fetch_add(1, Relaxed);
                self.after_failure();
            }
            _ => drop(report.done.fetch_add(1, Relaxed)),
        }
    }

    fn after_failure(&mut self) {
        if !self.is_pinned {
            self.roam();
        }
        std::thread::sleep(Duration::from_millis(self.rng.u64(5..60)));
    }

    fn filler_bytes(&mut self) -> usize {
        match self.rng.u8(0..200) {
            0 => self.rng.usize(0..80_000),
            1..6 => self.rng.usize(0..8_000),
            _ => self.rng.usize(0..100),
        }
    }

    fn list(&mut self, prefix: &str) {
        let crowd = self.crowd;
        let call_ns = crowd.now_ns();
        let attempt = self.attempt("GET", &format!("/v1/kv?prefix={prefix}"), &[], b"");
        let return_ns = crowd.now_ns();
        crowd.report.lists.fetch_add(1, Relaxed);
        let op = Op::List { prefix: prefix.to_owned() };
        let answer = match attempt {
            Attempt::Answered(answer) if answer.status == 200 => answer,
            Attempt::Answered(answer) => {
                let result = self.understand(&op, &answer);
                return self.count(&result);
            }
            Attempt::NotSent | Attempt::Unanswered => return self.count(&Answer::NotDone),
        };
        let page = answer.json();
        let Some((revision, rows)) = page_of(&page) else {
            return crowd
                .complain(format!("a list that no client wrote, from node{}: {page}", self.node + 1));
        };
        let listed = Answer::Listed { revision, rows };
        self.count(&listed);
        // What did not fit onto the page is not known to be absent.
        if page["cursor"].is_null() {
            let index = place(&answer);
            let (process, version) = (self.id, None);
            self.records.push(Event { process, call_ns, return_ns, op, answer: listed, index, version });
        }
    }

    fn attempt(&mut self, method: &str, path: &str, headers: &[(&str, String)], body: &[u8]) -> Attempt {
        let timeout = Duration::from_millis(self.rng.u64(200..2_000));
        let place = &mut self.connections[self.node];
        let mut connection = match place.take() {
            Some(connection) => connection,
            None => match Connection::open_within(&self.crowd.addresses.http(self.node), timeout) {
                Ok(connection) => connection,
                Err(_) => return Attempt::NotSent,
            },
        };
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        match connection.set_timeout(timeout).and_then(|()| connection.request(method, path, &headers, body))
        {
            Ok(answer) => {
                *place = (answer.header("Connection") != Some("close")).then_some(connection);
                Attempt::Answered(answer)
            }
            Err(_) => Attempt::Unanswered,
        }
    }

    /// What an answer means for the operation.
    fn understand(&self, op: &Op, answer: &http::Answer) -> Answer {
        let number = |name: &str| answer.json()[name].as_u64();
        let refused = || {
            let mod_revision = answer.json()["error"]["mod_revision"].as_u64();
            mod_revision.map(|mod_revision| Answer::PreconditionFailed { mod_revision })
        };
        // What each operation can be told; what has no arm here is nonsense for it.
        let understood = match (op, answer.status) {
            (_, 500 | 503 | 504) => match answer.outcome().as_str() {
                "unknown" if op.is_write() => Some(Answer::Unknown),
                "not_done" | "unknown" => Some(Answer::NotDone),
                _ => None,
            },
            (Op::Get { .. }, 200) => match (value::value_of(&answer.body), tag(answer)) {
                (Some(value), Some(mod_revision)) => Some(Answer::Value { value, mod_revision }),
                _ => None,
            },
            (Op::Get { .. }, 404) => Some(Answer::Absent),
            (Op::Get { .. }, _) => None,
            (Op::Put { .. }, 200) => number("revision").map(|revision| Answer::Written { revision }),
            (Op::Put { .. }, 412) => refused(),
            (Op::Put { .. }, _) => None,
            (Op::Add { .. }, 200) => match (number("revision"), answer.json()["value"].as_i64()) {
                (Some(revision), Some(value)) => Some(Answer::Added { revision, value }),
                _ => None,
            },
            (Op::Add { .. }, 409) => {
                let mod_revision = answer.json()["error"]["mod_revision"].as_u64();
                mod_revision.map(|mod_revision| Answer::Conflict { mod_revision })
            }
            (Op::Add { .. }, 412) => refused(),
            (Op::Add { .. }, _) => None,
            (Op::Delete { .. }, 200) => match (number("revision"), number("deleted")) {
                (Some(revision), Some(deleted @ 0..=1)) => {
                    Some(Answer::Deleted { revision, deleted: deleted == 1 })
                }
                _ => None,
            },
            (Op::Delete { .. }, 412) => refused(),
            (Op::Delete { .. }, _) => None,
            (Op::DeleteRange { .. }, 200) => match (number("revision"), number("deleted")) {
                (Some(revision), Some(deleted)) => Some(Answer::DeletedRange { revision, deleted }),
                _ => None,
            },
            (Op::DeleteRange { .. }, _) => None,
            // A repetition that says no more than that it is done: what it read is not known.
            (Op::Txn(_), 200) if answer.json()["truncated"] == true => Some(Answer::Unknown),
            (Op::Txn(txn), 200) => txn_answer(txn, &answer.json()),
            (Op::Txn(_), _) => None,
            // Its rows are taken apart where it is asked.
            (Op::List { .. }, _) => None,
        };
        understood.unwrap_or_else(|| {
            let (status, node) = (answer.status, self.node + 1);
            self.crowd.complain(format!("{op:?} was answered {status} by node{node}: {}", answer.text()));
            Answer::Unknown
        })
    }
}

/// A transaction as JSON. Values get their filler here.
fn body_of(txn: &Txn, mut filler_bytes: impl FnMut() -> usize) -> Vec<u8> {
    let test = |test: &Test| match &test.holds {
        Holds::Exists => json!({"key": test.key, "exists": true}),
        Holds::Absent => json!({"key": test.key, "exists": false}),
        Holds::ModRevision(revision) => json!({"key": test.key, "mod_revision": revision}),
        Holds::Value(value) => json!({"key": test.key, "value": value}),
    };
    let mut op = |op: &TxnOp| match op {
        TxnOp::Get { key } => json!({"get": {"key": key}}),
        TxnOp::Put { key, value } => {
            let value = value::body(value, filler_bytes());
            json!({"put": {"key": key, "value": String::from_utf8_lossy(&value)}})
        }
        TxnOp::Delete { key } => json!({"delete": {"key": key}}),
    };
    let (tests, then): (Vec<Value>, Vec<Value>) =
        (txn.tests.iter().map(test).collect(), txn.then.iter().map(&mut op).collect());
    let otherwise: Vec<Value> = txn.otherwise.iter().map(&mut op).collect();
    json!({"if": tests, "then": then, "else": otherwise}).to_string().into_bytes()
}

/// What a transaction was told; None when it makes no sense.
fn txn_answer(txn: &Txn, reply: &Value) -> Option<Answer> {
    let (revision, succeeded) = (reply["revision"].as_u64()?, reply["succeeded"].as_bool()?);
    let ops = if succeeded { &txn.then } else { &txn.otherwise };
    let result = |(op, result): (&TxnOp, &Value)| match op {
        TxnOp::Put { .. } => (result["put"]["revision"].as_u64()? == revision).then_some(TxnResult::Written),
        TxnOp::Delete { .. } => match result["delete"]["deleted"].as_u64()? {
            deleted @ 0..=1 => Some(TxnResult::Deleted { deleted: deleted == 1 }),
            _ => None,
        },
        TxnOp::Get { .. } => match result.get("get")? {
            Value::Null => Some(TxnResult::Absent),
            row => {
                let value = value::value_of(row["value"].as_str()?.as_bytes())?;
                Some(TxnResult::Value { value, mod_revision: row["mod_revision"].as_u64()? })
            }
        },
    };
    let results = reply["results"].as_array()?;
    let results = (results.len() == ops.len()).then(|| ops.iter().zip(results).map(result))?;
    Some(Answer::Txn { revision, succeeded, results: results.collect::<Option<_>>()? })
}

/// The index at which the outcome was decided. That of a repeated answer is the repetition's.
fn place(answer: &http::Answer) -> Option<u64> {
    if answer.header("Dkv-Replayed").is_some() {
        return None;
    }
    answer.header("Dkv-Index")?.parse().ok()
}

/// The version of the key that an answer names.
fn version_in(answer: &http::Answer) -> Option<u64> {
    match answer.header("Dkv-Version") {
        Some(version) => version.parse().ok(),
        None => {
            let body: Value = serde_json::from_slice(&answer.body).ok()?;
            body["version"].as_u64().or_else(|| body["error"]["version"].as_u64())
        }
    }
}

fn tag(answer: &http::Answer) -> Option<u64> {
    answer.header("ETag")?.trim_matches('"').parse().ok()
}

/// A page of a list: its revision and its rows.
pub fn page_of(page: &Value) -> Option<(u64, Vec<Row>)> {
    let row = |row: &Value| {
        let value = value::value_of(row["value"].as_str()?.as_bytes())?;
        Some(Row { key: row["key"].as_str()?.to_owned(), value, mod_revision: row["mod_revision"].as_u64()? })
    };
    let rows = page["kvs"].as_array()?.iter().map(row).collect::<Option<Vec<Row>>>()?;
    Some((page["revision"].as_u64()?, rows))
}
