//! Random sequences of every operation, through HTTP and any node, against a plain model of the map: all its states,
//! one for each revision, and the outcome of every write by its idempotency key.
//!
//! One client works alone, so every answer is known in advance to the last field; only a stale read may show an earlier
//! state, and says which one. Now and then the leader is killed while a request is under way. A keyed write is repeated
//! then; what became of a plain one shows in the revision of the next write.

#[path = "support/cluster.rs"]
#[allow(dead_code)]
mod cluster;
#[path = "support/operations.rs"]
mod operations;
#[path = "support/plain_map.rs"]
mod plain_map;
#[path = "model/wire.rs"]
mod wire;
#[path = "model/writes.rs"]
mod writes;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value, json};

use cluster::{Answer, Cluster, Connection, Setup, wait_for};
use dkv::store::{Condition, Op, Outcome};
use plain_map::{Row, Rules};
use wire::{Model, escape, record};

const KEYS: [&[u8]; 12] = [
    b"a",
    b"a/",
    b"a/1",
    b"a/2",
    b"a0",
    b"b",
    b"b%41 +",
    "b/\u{e4}".as_bytes(),
    b"c?&=#",
    b"\x00",
    b"\xff",
    b"\xff\xfe",
];
/// Between the death of a leader and its return, and from there to the next one's death.
const CALM: Duration = Duration::from_millis(700);

const BOUNDS: [&[u8]; 8] = [b"", b"a", b"a/", b"a/1\x00", b"b", b"b/\xc3", b"\x01", b"\xff"];

/// The revision an answer must show (None: whichever it says), or its status and fields of its error.
type Wanted = Result<Option<u64>, (u16, Value)>;

/// The cluster, the model, and what happened so far.
struct Run {
    cluster: Cluster,
    connections: Vec<Option<Connection>>,
    model: Model,
    rng: Rng,
    keys_used: Vec<String>,
    /// Kill the leader as soon as the next request is on its way.
    is_kill_due: bool,
    /// The node that was killed last and does not run.
    killed: Option<usize>,
    /// The last requests and answers, for a failure's text.
    trace: Vec<String>,
    /// How often each kind of thing was seen.
    seen: BTreeMap<&'static str, u64>,
}

impl Run {
    fn start(size: usize, retention: u64, seed: u64) -> Run {
        let extra = format!("retention_revisions: {retention}\n");
        let cluster = Cluster::start_with(size, &Setup { extra, ..Setup::default() });
        let map = plain_map::Model::new(Rules {
            retention_revisions: retention,
            retention_bytes: 32 << 20,
            // Which keys are remembered `wire::Model` notes.
            idempotency_window_us: u64::MAX,
            idempotency_rows: u64::MAX,
            idempotency_bytes: u64::MAX,
        });
        Run {
            connections: (0..size).map(|_| None).collect(),
            cluster,
            model: Model { map, outcomes: HashMap::new() },
            rng: Rng::with_seed(seed),
            keys_used: Vec::new(),
            is_kill_due: false,
            killed: None,
            trace: vec![format!("seed {seed}")],
            seen: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn key(&mut self) -> Vec<u8> {
        KEYS[self.rng.usize(..KEYS.len())].to_vec()
    }

    /// A request to a random node, repeated while nobody can serve it: what is sent can be repeated. The answer, and
    /// whether it took more than one attempt.
    fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (Answer, bool) {
        let mut attempts = 0;
        let answer = wait_for(path, || {
            attempts += 1;
            self.attempt(method, path, headers, body)?.ok().filter(|a| !matches!(a.status, 503 | 504))
        });
        (answer, attempts > 1)
    }

    /// One request to a random node. None: there was no connection, so nothing was sent.
    fn attempt(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<io::Result<Answer>> {
        let n = self.rng.usize(..self.connections.len());
        let mut connection = match self.connections[n].take() {
            Some(connection) => connection,
            None => Connection::open(&self.cluster.http_addr(n)).ok()?,
        };
        let sent = connection.send(&bytes_of(method, path, headers, body));
        if std::mem::take(&mut self.is_kill_due) {
            self.kill_leader();
        }
        let answer = sent.and_then(|()| connection.read_answer());
        let said = match &answer {
            Ok(answer) => format!("{} {}", answer.status, answer.text()),
            Err(e) => e.to_string(),
        };
        self.note(format!("{method} {path} {headers:?} through {n} -> {said}"));
        if answer.is_ok() && self.cluster.running().contains(&n) {
            self.connections[n] = Some(connection);
        }
        Some(answer)
    }

    fn note(&mut self, line: String) {
        self.trace.push(line);
        if self.trace.len() > 12 {
            self.trace.remove(1);
        }
    }

    /// Whoever leads, if anybody does. The only node starts again at once, one of several after a while.
    fn kill_leader(&mut self) {
        let leads = |n: &usize| self.cluster.status(*n).is_some_and(|status| status["role"] == "leader");
        let Some(leader) = self.cluster.running().into_iter().find(leads) else { return };
        self.note(format!("node {leader} is killed"));
        self.cluster.kill(leader);
        self.connections[leader] = None;
        self.count("killed");
        self.killed = Some(leader);
        if self.cluster.size() == 1 {
            self.restart();
        }
    }

    fn restart(&mut self) {
        let Some(n) = self.killed.take() else { return };
        self.cluster.spawn(n);
        if self.cluster.size() == 1 {
            // From then on it knows everything, and answers are exact again.
            self.cluster.wait_for_ready();
        }
    }

    fn fail(&self, what: &str) -> ! {
        panic!("{what}; revision {}\n{}", self.model.map.revision(), self.trace.join("\n"))
    }

    fn check(&self, what: &str, holds: bool) {
        if !holds {
            self.fail(what);
        }
    }

    // ---- reads -----------------------------------------------------------------------------------------------------

    /// Random parameters about the state to read; what the answer must be: the revision shown (None: the answer of a
    /// stale read says it), or the error.
    fn random_states(&mut self) -> (Vec<String>, Wanted) {
        let now = self.model.map.revision();
        let mut query = Vec::new();
        let consistency = self.rng.u8(..4);
        if consistency < 2 {
            query.push(format!("consistency={}", ["stale", "linearizable"][usize::from(consistency)]));
        }
        let some = self.rng.u64(0..=now + 2);
        let near = self.rng.u64(self.model.map.floor().saturating_sub(3)..=now + 2);
        let future = json!({"code": "future_revision", "revision": now});
        match self.rng.u8(..4) {
            0 => {
                let wanted = if self.rng.bool() { some } else { near };
                query.push(format!("revision={wanted}"));
                let want = match wanted {
                    0 => Err((400, json!({"code": "invalid_request"}))),
                    _ if wanted > now => Err((400, future)),
                    _ if wanted < self.model.map.floor() => Err((410, Value::Null)),
                    _ => Ok(Some(wanted)),
                };
                (query, want)
            }
            1 => {
                query.push(format!("min_revision={some}"));
                let is_linearizable = consistency == 1;
                (query, if some > now { Err((400, future)) } else { Ok(is_linearizable.then_some(now)) })
            }
            _ => (query, Ok((consistency != 0).then_some(now))),
        }
    }

    /// The revision that `answer` shows, checked; None for an error, checked too.
    fn shown(&mut self, answer: &Answer, query: &[String], want: Wanted) -> Option<u64> {
        self.check("every read says its index", answer.status == 400 || answer.header("Dkv-Index").is_some());
        match want {
            Ok(revision) => {
                let said = answer.header("Dkv-Revision").and_then(|text| text.parse().ok());
                let Some(said) = said else { self.fail("no revision") };
                self.check(
                    &format!("want revision {revision:?}"),
                    revision.is_none_or(|revision| revision == said),
                );
                let least =
                    query.iter().find_map(|q| q.strip_prefix("min_revision=")?.parse().ok()).unwrap_or(0);
                self.check("no older than asked for", (least..=self.model.map.revision()).contains(&said));
                self.count(if said == self.model.map.revision() {
                    "present read"
                } else {
                    "earlier state read"
                });
                Some(said)
            }
            // A node that lags has not compacted as much yet.
            Err((410, _)) if answer.status != 410 => {
                let wanted = query.iter().find_map(|q| q.strip_prefix("revision=")?.parse().ok());
                let said = answer.header("Dkv-Revision").and_then(|text| text.parse().ok());
                self.check("compacted", self.cluster.size() > 1 && said.is_some() && said == wanted);
                said
            }
            Err((410, _)) => {
                self.check_compacted(answer);
                None
            }
            Err((status, want)) => {
                self.check(&format!("want {status} {want}"), answer.status == status);
                let error = &answer.json()["error"];
                for (name, value) in want.as_object().unwrap() {
                    self.check(&format!("want {want}"), &error[name] == value);
                }
                self.check("a read is never unknown", error["outcome"] == "not_done");
                self.count("future");
                None
            }
        }
    }

    fn check_compacted(&mut self, answer: &Answer) {
        let error = &answer.json()["error"];
        let (said, floor) = (error["revision"].as_u64().unwrap_or(u64::MAX), self.model.map.floor());
        let is_floor = if self.cluster.size() == 1 { said == floor } else { said <= floor };
        self.check(
            "compacted, with the floor",
            answer.status == 410 && error["code"] == "compacted" && is_floor,
        );
        self.count("compacted");
    }

    fn get(&mut self) {
        let key = self.key();
        let (query, want) = self.random_states();
        let path = format!("/v1/kv/{}?{}", escape(&key), query.join("&"));
        let wants_json = self.rng.bool();
        let headers: &[(&str, &str)] = if wants_json { &[("Accept", "application/json")] } else { &[] };
        let (answer, _) = self.ask("GET", &path, headers, b"");
        let Some(revision) = self.shown(&answer, &query, want) else { return };
        let Some(row) = self.model.map.at(revision).get(&key).cloned() else {
            return self
                .check("absent", answer.status == 404 && answer.json()["error"]["code"] == "not_found");
        };
        self.check("present", answer.status == 200);
        if wants_json {
            self.check(&format!("want {row:?}"), answer.json() == record(&key, &row, false));
        } else {
            self.check(&format!("want {row:?}"), answer.body == row.value);
        }
        let want = [
            ("ETag", format!("\"{}\"", row.mod_revision)),
            ("Dkv-Create-Revision", row.create_revision.to_string()),
            ("Dkv-Version", row.version.to_string()),
        ];
        for (name, value) in want {
            self.check(&format!("want {name}: {value}"), answer.header(name) == Some(&value));
        }
    }

    /// A whole listing, page by page, each from some node and with a write in between.
    fn list(&mut self) {
        let (states, want) = self.random_states();
        let mut bounds = [0; 3].map(|_| BOUNDS[self.rng.usize(..BOUNDS.len())]);
        for bound in &mut bounds {
            if self.rng.bool() {
                *bound = b"";
            }
        }
        let [prefix, start, end] = bounds;
        let mut base = states.clone();
        for (name, bound) in [("prefix", prefix), ("start", start), ("end", end)] {
            if !bound.is_empty() || self.rng.u8(..4) == 0 {
                base.push(format!("{name}={}", escape(bound)));
            }
        }
        if self.rng.u8(..4) == 0 {
            return self.count_only(&base, bounds, want);
        }
        let (limit, is_descending, keys_only) = (self.rng.usize(1..6), self.rng.bool(), self.rng.bool());
        base.push(format!(
            "limit={limit}&order={}&keys_only={keys_only}",
            if is_descending { "desc" } else { "asc" }
        ));
        let path = format!("/v1/kv?{}", base.join("&"));
        let (mut answer, _) = self.ask("GET", &path, &[], b"");
        if Run::is_backwards(start, end) {
            return self.check("start after end", answer.status == 400);
        }
        let Some(revision) = self.shown(&answer, &states, want) else { return };
        let mut rows = self.matching(revision, bounds);
        if is_descending {
            rows.reverse();
        }
        let rows: Vec<Value> = rows.iter().map(|(key, row)| record(key, row, keys_only)).collect();
        let mut shown = 0;
        loop {
            self.check("a page", answer.status == 200);
            let page = answer.json();
            let want = &rows[shown..rows.len().min(shown + limit)];
            shown += want.len();
            self.check(&format!("want {want:?} at {revision}"), page["kvs"] == json!(want));
            self.check("revision", page["revision"] == revision);
            self.check("count", page["count"] == want.len());
            let Some(cursor) = page.get("cursor") else { break };
            self.check("no cursor after the last row", shown < rows.len());
            if self.rng.bool() {
                self.write();
            }
            self.count("next page");
            let path = format!("{path}&cursor={}", cursor.as_str().unwrap());
            answer = self.ask("GET", &path, &[], b"").0;
            if answer.status == 410 || (self.cluster.size() == 1 && revision < self.model.map.floor()) {
                self.check("compacted between two pages", revision < self.model.map.floor());
                return self.check_compacted(&answer);
            }
        }
        self.check("every row was shown", shown == rows.len());
    }

    fn count_only(&mut self, query: &[String], bounds: [&[u8]; 3], want: Wanted) {
        let path = format!("/v1/kv?count_only=true&{}", query.join("&"));
        let (answer, _) = self.ask("GET", &path, &[], b"");
        if Run::is_backwards(bounds[1], bounds[2]) {
            return self.check("start after end", answer.status == 400);
        }
        let Some(revision) = self.shown(&answer, query, want) else { return };
        let count = self.matching(revision, bounds).len();
        self.check(
            &format!("{count} keys"),
            answer.json() == json!({"revision": revision, "count": count, "kvs": []}),
        );
        self.count("counted");
    }

    fn is_backwards(start: &[u8], end: &[u8]) -> bool {
        !end.is_empty() && start > end
    }

    fn matching(&self, revision: u64, [prefix, start, end]: [&[u8]; 3]) -> Vec<(Vec<u8>, Row)> {
        let rows = self.model.map.at(revision).iter();
        rows.filter(|(key, _)| {
            key.starts_with(prefix) && &key[..] >= start && (end.is_empty() || &key[..] < end)
        })
        .map(|(key, row)| (key.clone(), row.clone()))
        .collect()
    }

    /// Goes on for `time`; every kind of answer must have been seen.
    fn go(mut self, time: Duration) {
        let until = Instant::now() + time;
        let mut next = Instant::now();
        while Instant::now() < until {
            if Instant::now() >= next {
                next = Instant::now() + CALM;
                if self.killed.is_some() {
                    self.restart();
                } else {
                    self.is_kill_due = true;
                }
            }
            match self.rng.u8(..10) {
                0..4 => self.write(),
                4..6 => self.get(),
                6 => self.read_txn(),
                _ => self.list(),
            }
        }
        self.restart();
        self.cluster.wait_for_leader();
        self.cluster.wait_for_equal_state();
        let kinds = [
            "killed",
            "plain write",
            "written",
            "condition failed",
            "replayed",
            "another request under a known key",
            "present read",
            "earlier state read",
            "future",
            "compacted",
            "next page",
            "counted",
            "range deleted",
            "shown what was there before",
            "nothing was there before",
            "transaction then",
            "transaction else",
            "transaction undone",
            "transaction read",
            "lease renewed",
            "no lease to renew",
        ];
        for kind in kinds {
            assert!(self.seen.contains_key(kind), "never seen: {kind}; seen {:?}", self.seen);
        }
    }
}

/// A request as it goes over the wire.
fn bytes_of(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: dkv\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| write!(head, "{name}: {value}\r\n").unwrap());
    [head.as_bytes(), b"\r\n", body].concat()
}

#[test]
fn one_node_agrees_with_a_plain_map() {
    Run::start(1, 20, fastrand::u64(..)).go(Duration::from_secs(8));
}

#[test]
fn five_nodes_agree_with_a_plain_map_whichever_is_asked() {
    Run::start(5, 20, fastrand::u64(..)).go(Duration::from_secs(12));
}
