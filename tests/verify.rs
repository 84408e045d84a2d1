//! `dkv-cli verify` against a real cluster, which must pass, and against a fake one that lies, which must be found out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

#[path = "support/cluster.rs"]
#[allow(dead_code)]
mod cluster;

use cluster::{Cluster, wait_for};
use dkv::check::{self, Event};
use percent_encoding::percent_decode_str;
use serde_json::Value;

fn verify(endpoints: &str, dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dkv-cli"));
    command.env("DKV_ENDPOINTS", endpoints).current_dir(dir).arg("verify").args(args);
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The only history in the directory.
fn history(dir: &Path) -> Vec<Event> {
    let files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    let file = files.iter().find(|file| file.extension().is_some_and(|e| e == "jsonl")).expect("a history");
    check::read_history(BufReader::new(File::open(file).unwrap())).unwrap()
}

#[test]
fn a_real_cluster_is_linearizable_and_keeps_no_key_of_it() {
    let cluster = Cluster::start(3);
    let temp = tempfile::tempdir().unwrap();
    // One node is named; the others are found. Nobody is at the other address, as after the removal of a member, which
    // was once counted as a node.
    let gone = format!("{}:1", cluster.ip);
    let endpoints = format!("{},{gone}", cluster.http_addr(0));
    let output = verify(&endpoints, temp.path(), &["--seconds", "2", "--clients", "6"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("\nlinearizable: "), "{said}");
    assert!(said.starts_with("6 clients on 8 keys at a time below ") && !said.contains(&gone), "{said}");
    assert!(said.contains("through 3 nodes") && said.contains("\nhistory: dkv-history-"), "{said}");
    let history = history(temp.path());
    assert!(said.contains(&format!("{} operations", history.len())), "{said}");
    assert!(history.len() > 100, "{said}");
    let is_list = |event: &&Event| matches!(event.answer, check::Answer::Listed { .. });
    assert!(history.iter().filter(is_list).count() > 0, "{said}");
    assert!(history.iter().filter(is_list).all(|event| event.index.is_some()));
    let left = cluster.request(0, "GET", "/v1/kv?prefix=dkv-verify&count_only=true", &[], b"").unwrap();
    assert_eq!(left.json()["count"], 0);
}

#[test]
fn a_cluster_whose_leader_is_killed_meanwhile_stays_linearizable() {
    let mut cluster = Cluster::start(3);
    let temp = tempfile::tempdir().unwrap();
    let args = ["--seconds", "6", "--clients", "6", "-o", "json", "--timeout", "3"];
    let run = verify(&cluster.http_addr(1), temp.path(), &args).stdout(std::process::Stdio::piped()).spawn();
    let leader = cluster.leader().unwrap_or_else(|| cluster.wait_for_leader());
    wait_for("a key of the run", || {
        let count =
            cluster.request(leader, "GET", "/v1/kv?prefix=dkv-verify&count_only=true", &[], b"").ok()?;
        (count.json()["count"].as_u64()? > 0).then_some(())
    });
    cluster.kill(leader);
    let output = run.unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["verdict"], "linearizable");
    assert!(report["done"].as_u64().unwrap() > 50, "{report}");
    assert!(report["unknown"].as_u64().unwrap() + report["not_done"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn nothing_done_is_no_success() {
    let temp = tempfile::tempdir().unwrap();
    let args = ["--seconds", "1", "--timeout", "0.5"];
    let output = verify("127.0.73.1:1", temp.path(), &args).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
}

#[test]
fn a_history_that_cannot_be_written_is_refused_first() {
    let fake = Fake::start(Lie::None);
    let temp = tempfile::tempdir().unwrap();
    let output = verify(&fake.addr, temp.path(), &["--history", "no/such/file"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("no/such/file"), "{}", text(&output));
    assert_eq!(fake.store.lock().unwrap().revision, 0, "nothing was written");
}

/// How the fake lies, now and then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lie {
    None,
    /// A read shows the value before the newest one.
    StaleRead,
    /// The same, and the read says that it was served at an older index: a lagging follower.
    StaleReadAtItsIndex,
    /// A write is acknowledged and forgotten.
    LostWrite,
    /// A condition that does not hold lets a write through.
    BlindCondition,
    /// A list leaves out the key that was written last.
    TornList,
    /// A write that is refused happens all the same.
    NotDoneIsDone,
    /// The removal of a range leaves its second key, and counts it.
    TornRange,
    /// An addition is acknowledged with its sum and forgotten.
    LostAddition,
    /// An addition happens twice, and its answer shows the sum of one.
    DoubleAddition,
    /// Something is added to a value that is no integer, as if that were 0.
    AdditionToText,
    /// Of the writes of a transaction the last one is acknowledged and forgotten.
    HalfTransaction,
    /// A transaction takes the other branch and says that it did as it should.
    WrongBranch,
    /// A transaction reads what was there before its own writes.
    TransactionReadsTheOld,
    /// A lease is over long before its time, with its keys.
    EarlyEnd,
    /// A watch leaves a change out.
    DroppedChange,
    /// A watch tells a change twice.
    RepeatedChange,
    /// A watch tells two changes in the wrong order.
    SwappedChanges,
    /// A watch tells a deletion as a value.
    OtherChange,
    /// A lease loses its keys, and is renewed all the same.
    LostKey,
    /// A lease is revoked, and its keys stay.
    OutlivedLease,
}

#[derive(Default)]
struct Store {
    revision: u64,
    index: u64,
    cells: BTreeMap<String, Cell>,
    newest: String,
    requests: u64,
    /// Every change: revision, key, and the value; empty: it was deleted.
    changes: Vec<(u64, String, String)>,
    /// The keys of each lease.
    leases: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Default)]
struct Cell {
    value: String,
    mod_revision: u64,
    version: u64,
    index: u64,
    before: Option<Box<Cell>>,
}

/// The condition of a request, header by header.
struct Asked {
    tag: Option<String>,
    is_new: bool,
    version: Option<u64>,
}

/// One node of its own cluster.
struct Fake {
    addr: String,
    store: Arc<Mutex<Store>>,
}

impl Fake {
    fn start(lie: Lie) -> Fake {
        let listener = TcpListener::bind("127.0.73.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let store = Arc::new(Mutex::new(Store::default()));
        let shared = Arc::clone(&store);
        // Lives until the test's process ends: it has nothing to stop.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(stream.unwrap(), &shared, lie));
            }
        });
        Fake { addr, store }
    }
}

/// Answers what comes on one connection until it is closed.
fn serve(stream: TcpStream, store: &Mutex<Store>, lie: Lie) {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut reader = BufReader::new(stream);
    while let Ok(Some((head, body))) = read_request(&mut reader) {
        let answer = store.lock().unwrap().answer(&head, &body, lie);
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<(Vec<String>, String)>> {
    let (mut head, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
        head.push(line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((head, String::from_utf8(body).unwrap())))
}

fn answer(status: u16, headers: &str, body: &str) -> String {
    let named = "Dkv-Cluster: 00000000000000cc";
    format!("HTTP/1.1 {status} X\r\n{named}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn error(status: u16, headers: &str, code: &str, mod_revision: u64) -> String {
    let json = format!(
        r#"{{"error":{{"code":"{code}","message":"m","outcome":"not_done","mod_revision":{mod_revision}}}}}"#
    );
    answer(status, headers, &json)
}

impl Store {
    fn answer(&mut self, head: &[String], body: &str, lie: Lie) -> String {
        let words: Vec<&str> = head[0].split(' ').collect();
        let (method, target) = (words[0], words[1]);
        let header = |name: &str| {
            head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(str::to_owned))
        };
        let condition = Asked {
            tag: header("if-match: "),
            is_new: header("if-none-match: ").is_some(),
            version: header("if-version: ").map(|version| version.parse().unwrap()),
        };
        self.requests += 1;
        if target == "/v1/cluster" {
            return answer(200, "", r#"{"cluster_id":null,"term":1,"leader":null,"members":[]}"#);
        }
        if let Some(rest) = target.strip_prefix("/v1/leases") {
            return self.lease(method, rest, lie);
        }
        if let Some(query) = target.strip_prefix("/v1/watch?") {
            return self.watch(query, lie);
        }
        if target == "/v1/txn" {
            return self.txn(&serde_json::from_str(body).unwrap(), lie);
        }
        if let Some(query) = target.strip_prefix("/v1/kv?") {
            if method == "DELETE" {
                return self.delete_range(query, lie);
            }
            let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or_default();
            return self.list(&percent_decode_str(prefix).decode_utf8_lossy(), lie);
        }
        let key = target.strip_prefix("/v1/kv/").unwrap_or_default().to_owned();
        match method {
            "GET" => self.get(&key, lie),
            "POST" => {
                let (key, amount) = key.split_once("?add=").expect("an amount");
                self.add(key, amount.parse().unwrap(), &condition, lie)
            }
            _ => {
                let (key, lease) = key.split_once("?lease=").unwrap_or((&key, ""));
                if let Some(keys) = self.leases.get_mut(lease) {
                    keys.push(key.to_owned());
                }
                self.write(key, (method == "PUT").then_some(body), &condition, lie)
            }
        }
    }

    /// A request about leases: what follows after the route.
    fn lease(&mut self, method: &str, rest: &str, lie: Lie) -> String {
        let lives = |lease: &str| answer(200, "", &format!(r#"{{"lease":"{lease}","ttl_s":2}}"#));
        let name = rest.trim_start_matches('/').trim_end_matches("/renew").to_owned();
        match (method, self.leases.get(&name).cloned()) {
            ("POST", None) if name.is_empty() => {
                let lease = format!("{:016x}", self.leases.len() + 1);
                self.leases.insert(lease.clone(), Vec::new());
                lives(&lease)
            }
            (_, None) => error(404, "", "lease_not_found", 0),
            ("POST", Some(keys)) => {
                if matches!(lie, Lie::EarlyEnd | Lie::LostKey) {
                    self.remove(&keys);
                }
                if lie == Lie::EarlyEnd {
                    return error(404, "", "lease_not_found", 0);
                }
                lives(&name)
            }
            (_, Some(keys)) => {
                if lie != Lie::OutlivedLease {
                    self.remove(&keys);
                }
                answer(200, "", &format!(r#"{{"revision":{},"deleted":{}}}"#, self.revision, keys.len()))
            }
        }
    }

    /// A long poll that never waits.
    fn watch(&self, query: &str, lie: Lie) -> String {
        let parameter = |name: &str| {
            let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            value.map(|value| percent_decode_str(value).decode_utf8_lossy().into_owned())
        };
        let prefix = parameter("prefix").expect("a prefix");
        let next = self.revision + 1;
        let from = parameter("from").map_or(next, |from| from.parse().unwrap());
        let mut changes: Vec<_> = self
            .changes
            .iter()
            .filter(|(at, key, _)| *at >= from && key.starts_with(&prefix))
            .cloned()
            .collect();
        match lie {
            Lie::DroppedChange if changes.len() > 1 => drop(changes.remove(0)),
            Lie::RepeatedChange if changes.len() > 1 => changes.push(changes[0].clone()),
            Lie::SwappedChanges if changes.len() > 1 => changes.swap(0, 1),
            Lie::OtherChange => {
                changes
                    .iter_mut()
                    .filter(|change| change.2.is_empty())
                    .for_each(|change| change.2 = "x".to_owned());
            }
            _ => {}
        }
        let told: Vec<String> = changes
            .iter()
            .map(|(at, key, value)| match &value[..] {
                "" => format!(r#"{{"type":"delete","revision":{at},"key":"{key}"}}"#),
                value => format!(
                    r#"{{"type":"put","revision":{at},"key":"{key}","value":"{value}","create_revision":1,"version":1}}"#
                ),
            })
            .collect();
        answer(
            200,
            "",
            &format!(r#"{{"revision":{},"next":{next},"changes":[{}]}}"#, self.revision, told.join(",")),
        )
    }

    fn remove(&mut self, keys: &[String]) {
        self.index += 1;
        self.revision += 1;
        let (revision, index) = (self.revision, self.index);
        keys.iter().for_each(|key| self.store(key, None, revision, index));
    }

    /// Lies in one of so many requests.
    fn lies(&self, one_of: u64) -> bool {
        self.requests.is_multiple_of(one_of)
    }

    fn get(&self, key: &str, lie: Lie) -> String {
        let mut index = self.index;
        let mut cell = self.cells.get(key);
        let is_stale = matches!(lie, Lie::StaleRead | Lie::StaleReadAtItsIndex) && self.lies(25);
        if is_stale && let Some(before) = cell.and_then(|cell| cell.before.as_deref()) {
            if lie == Lie::StaleReadAtItsIndex {
                index = cell.map_or(0, |cell| cell.index - 1);
            }
            cell = Some(before);
        }
        let headers = format!("Dkv-Index: {index}\r\n");
        match cell.filter(|cell| !cell.value.is_empty()) {
            None => error(404, &headers, "not_found", 0),
            Some(Cell { value, mod_revision, version, .. }) => answer(
                200,
                &format!(
                    "{headers}ETag: \"{mod_revision}\"\r\nDkv-Create-Revision: 1\r\nDkv-Version: {version}\r\n"
                ),
                value,
            ),
        }
    }

    /// A value, or none to delete; a deleted key is an empty value here.
    fn write(&mut self, key: &str, value: Option<&str>, condition: &Asked, lie: Lie) -> String {
        self.index += 1;
        let headers = format!("Dkv-Index: {}\r\n", self.index);
        let (now, version) = self.now(key);
        if let Some(refused) = self.refused(key, condition, lie) {
            return refused;
        }
        if value.is_none() && now == 0 {
            return answer(200, &headers, &format!(r#"{{"revision":{},"deleted":0}}"#, self.revision));
        }
        self.revision += 1;
        let (revision, index) = (self.revision, self.index);
        if !(lie == Lie::LostWrite && self.lies(25)) {
            self.store(key, value, revision, index);
        }
        if lie == Lie::NotDoneIsDone && self.lies(25) {
            return error(400, &headers, "invalid_request", 0);
        }
        match value {
            Some(_) => {
                let version = version + 1;
                let body = format!(r#"{{"revision":{revision},"create_revision":1,"version":{version}}}"#);
                answer(200, &headers, &body)
            }
            None => answer(200, &headers, &format!(r#"{{"revision":{revision},"deleted":1}}"#)),
        }
    }

    /// The revision and the version of a key.
    fn now(&self, key: &str) -> (u64, u64) {
        let cell = self.cells.get(key).filter(|cell| !cell.value.is_empty());
        cell.map_or((0, 0), |cell| (cell.mod_revision, cell.version))
    }

    /// The answer to a write whose condition does not hold.
    fn refused(&self, key: &str, condition: &Asked, lie: Lie) -> Option<String> {
        let (now, version) = self.now(key);
        let holds = match &condition.tag {
            Some(tag) if tag == "*" => now != 0,
            Some(tag) => now != 0 && *tag == format!("\"{now}\""),
            None => {
                !(condition.is_new && now != 0) && condition.version.is_none_or(|wanted| wanted == version)
            }
        };
        let is_blind = lie == Lie::BlindCondition && self.lies(5);
        let headers = format!("Dkv-Index: {}\r\n", self.index);
        (!holds && !is_blind).then(|| error(412, &headers, "precondition_failed", now))
    }

    fn store(&mut self, key: &str, value: Option<&str>, revision: u64, index: u64) {
        let (_, version) = self.now(key);
        let before = self.cells.get(key).cloned().map(|before| Box::new(Cell { before: None, ..before }));
        let value = value.unwrap_or_default().to_owned();
        let cell = Cell { value, mod_revision: revision, version: version + 1, index, before };
        self.changes.push((revision, key.to_owned(), cell.value.clone()));
        self.cells.insert(key.to_owned(), cell);
        self.newest = key.to_owned();
    }

    fn add(&mut self, key: &str, amount: i64, condition: &Asked, lie: Lie) -> String {
        self.index += 1;
        let headers = format!("Dkv-Index: {}\r\n", self.index);
        if let Some(refused) = self.refused(key, condition, lie) {
            return refused;
        }
        let cell = self.cells.get(key).filter(|cell| !cell.value.is_empty());
        let now = cell.map_or(Some(0), |cell| cell.value.parse::<i64>().ok());
        let now = now.or((lie == Lie::AdditionToText && self.lies(2)).then_some(0));
        let Some(value) = now.and_then(|now| now.checked_add(amount)) else {
            return error(409, &headers, "conflict", self.now(key).0);
        };
        self.revision += 1;
        let (revision, index, (_, version)) = (self.revision, self.index, self.now(key));
        let times = match lie {
            Lie::LostAddition if self.lies(5) => 0,
            Lie::DoubleAddition if self.lies(5) => 2,
            _ => 1,
        };
        if times > 0 {
            let stored = if times == 2 { value.wrapping_add(amount) } else { value };
            self.store(key, Some(&stored.to_string()), revision, index);
        }
        let version = version + 1;
        answer(200, &headers, &format!(r#"{{"revision":{revision},"version":{version},"value":{value}}}"#))
    }

    fn holds(&self, condition: &Value) -> bool {
        let key = condition["key"].as_str().unwrap();
        let now = self.cells.get(key).filter(|cell| !cell.value.is_empty());
        match condition {
            _ if condition["exists"] == true => now.is_some(),
            _ if condition["exists"] == false => now.is_none(),
            _ if condition["mod_revision"].is_object() => {
                condition["mod_revision"]["eq"] == now.map_or(0, |cell| cell.mod_revision)
            }
            other => panic!("no client asks for {other}"),
        }
    }

    fn txn(&mut self, txn: &Value, lie: Lie) -> String {
        let none = Vec::new();
        let list = |name: &str| txn[name].as_array().unwrap_or(&none).clone();
        let is_write = |op: &Value| op.get("get").is_none();
        let can_write = list("then").iter().chain(&list("else")).any(is_write);
        self.index += u64::from(can_write);
        let (revision, index) = (self.revision + 1, self.index);
        let holds = list("if").iter().all(|condition| self.holds(condition));
        let succeeded = holds != (lie == Lie::WrongBranch && self.lies(7));
        let ops = list(if succeeded { "then" } else { "else" });
        let last_write = ops.iter().rposition(is_write);
        let before = self.cells.clone();
        let (mut results, mut changed) = (Vec::new(), false);
        for (at, op) in ops.iter().enumerate() {
            let (kind, fields) = op.as_object().unwrap().iter().next().unwrap();
            let key = fields["key"].as_str().unwrap().to_owned();
            let now = self.cells.get(&key).filter(|cell| !cell.value.is_empty()).cloned();
            if kind == "get" {
                let cells = if lie == Lie::TransactionReadsTheOld { &before } else { &self.cells };
                results.push(match cells.get(&key).filter(|cell| !cell.value.is_empty()) {
                    None => serde_json::json!({"get": null}),
                    Some(Cell { value, mod_revision, version, .. }) => serde_json::json!({"get": {
                        "key": key, "value": value, "create_revision": 1, "mod_revision": mod_revision, "version": version
                    }}),
                });
                continue;
            }
            results.push(match kind.as_str() {
                "put" => {
                    serde_json::json!({"put": {"revision": revision, "create_revision": 1, "version": 1}})
                }
                _ => serde_json::json!({"delete": {"deleted": u64::from(now.is_some())}}),
            });
            if kind == "delete" && now.is_none() {
                continue;
            }
            changed = true;
            if lie == Lie::HalfTransaction && Some(at) == last_write && self.lies(3) {
                continue;
            }
            let before = self.cells.get(&key).cloned().map(|cell| Box::new(Cell { before: None, ..cell }));
            let value = fields["value"].as_str().unwrap_or_default().to_owned();
            let version = now.map_or(0, |cell| cell.version) + 1;
            self.cells.insert(key.clone(), Cell { value, mod_revision: revision, version, index, before });
            self.newest = key;
        }
        self.revision += u64::from(changed);
        let body = serde_json::json!({"revision": self.revision, "succeeded": succeeded, "results": results});
        answer(200, &format!("Dkv-Index: {index}\r\n"), &body.to_string())
    }

    fn delete_range(&mut self, query: &str, lie: Lie) -> String {
        let bound = |name: &str| {
            let raw = query.split('&').find_map(|pair| pair.strip_prefix(name)).unwrap_or_default();
            percent_decode_str(raw).decode_utf8_lossy().into_owned()
        };
        let (start, end) = (bound("start="), bound("end="));
        self.index += 1;
        let (revision, index) = (self.revision + 1, self.index);
        let inside = self.cells.range_mut(start..end).filter(|(_, cell)| !cell.value.is_empty());
        let mut deleted = 0;
        for (_, cell) in inside {
            deleted += 1;
            if lie == Lie::TornRange && deleted == 2 {
                continue;
            }
            let before = Some(Box::new(Cell { before: None, ..cell.clone() }));
            *cell = Cell { value: String::new(), mod_revision: revision, version: 0, index, before };
        }
        self.revision += u64::from(deleted > 0);
        let body = format!(r#"{{"revision":{},"deleted":{deleted}}}"#, self.revision);
        answer(200, &format!("Dkv-Index: {index}\r\n"), &body)
    }

    fn list(&self, prefix: &str, lie: Lie) -> String {
        let is_torn = lie == Lie::TornList && self.lies(2);
        let rows: Vec<Value> = self
            .cells
            .iter()
            .filter(|(key, cell)| key.starts_with(prefix) && !cell.value.is_empty())
            .filter(|(key, _)| !is_torn || **key != self.newest)
            .map(|(key, cell)| {
                serde_json::json!({
                    "key": key, "value": cell.value, "create_revision": 1, "mod_revision": cell.mod_revision,
                    "version": 1
                })
            })
            .collect();
        let body = serde_json::json!({ "revision": self.revision, "count": rows.len(), "kvs": rows });
        answer(200, &format!("Dkv-Index: {}\r\n", self.index), &body.to_string())
    }
}

fn verify_fake(lie: Lie) -> Output {
    let fake = Fake::start(lie);
    let temp = tempfile::tempdir().unwrap();
    verify(&fake.addr, temp.path(), &["--seconds", "1", "--clients", "4", "--keys", "3"]).output().unwrap()
}

#[test]
fn a_fake_that_tells_the_truth_is_linearizable() {
    let output = verify_fake(Lie::None);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn every_lie_is_found_out() {
    let lies = [
        Lie::StaleRead,
        Lie::StaleReadAtItsIndex,
        Lie::LostWrite,
        Lie::BlindCondition,
        Lie::TornList,
        Lie::NotDoneIsDone,
        Lie::TornRange,
        Lie::LostAddition,
        Lie::DoubleAddition,
        Lie::AdditionToText,
        Lie::HalfTransaction,
        Lie::WrongBranch,
        Lie::TransactionReadsTheOld,
    ];
    for lie in lies {
        let output = verify_fake(lie);
        assert_eq!(output.status.code(), Some(5), "{lie:?}: {}", text(&output));
        assert!(text(&output).contains("\nNOT linearizable: "), "{lie:?}: {}", text(&output));
    }
}

#[test]
fn every_broken_promise_about_leases_is_found_out() {
    for (lie, what) in [
        (Lie::EarlyEnd, "was over"),
        (Lie::LostKey, "was gone"),
        (Lie::OutlivedLease, "was revoked, and its key is still there"),
    ] {
        let output = verify_fake(lie);
        assert_eq!(output.status.code(), Some(5), "{lie:?}: {}", text(&output));
        assert!(text(&output).contains("\nBROKEN: "), "{lie:?}: {}", text(&output));
        assert!(text(&output).contains(what), "{lie:?}: {}", text(&output));
    }
}

#[test]
fn every_broken_promise_about_watches_is_found_out() {
    for (lie, what) in [
        (Lie::DroppedChange, "was not told by a watch at"),
        (Lie::RepeatedChange, "was told after revision"),
        (Lie::SwappedChanges, "was told after revision"),
        (Lie::OtherChange, "was told as"),
    ] {
        let output = verify_fake(lie);
        assert_eq!(output.status.code(), Some(5), "{lie:?}: {}", text(&output));
        assert!(text(&output).contains("\nBROKEN: a watch"), "{lie:?}: {}", text(&output));
        assert!(text(&output).contains(what), "{lie:?}: {}", text(&output));
    }
}
