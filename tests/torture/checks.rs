//! What must be true after a round, when every link is whole and every member runs.

use std::fs;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use dkv::check::{self, Event, Limits, Op, Row};
use serde_json::Value;

use super::clients::{Crowd, page_of};
use super::cluster::{Cluster, wait_for};
use super::promises::{self, Acknowledged};
use super::report::Report;
use super::support::cluster::{Answer, Connection};
use super::value;

/// Requests of these checks are patient: nothing hinders them any more.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds on a process that served a round: memory, descriptors, threads.
const MAX_RSS_MIB: u64 = 1_024;
const MAX_DESCRIPTORS: usize = 900;
const MAX_THREADS: usize = 600;

/// Acknowledged writes read back per round at most, the last ones.
const MAX_READ_BACK: usize = 4_000;

/// Lines that no log may have.
const ALARMS: [&str; 3] = ["panicked at", "invariant", "stack overflow"];

/// Waits until every member serves reads and writes.
pub fn all_serve(cluster: &Cluster, crowd: &Crowd) -> Result<(), String> {
    for n in cluster.members() {
        let name = cluster.name(n);
        let path = format!("/v1/kv/{}tombstone/{name}", crowd.prefix);
        let mut last = String::new();
        let served = wait_for(&format!("{name} to serve writes"), || {
            match request(cluster, n, "PUT", &path, &[], b"x") {
                Ok(answer) if answer.status == 200 => return Some(()),
                Ok(answer) => last = answer.text(),
                Err(error) => last = error.to_string(),
            }
            None
        });
        served.map_err(|why| format!("{why}: {last}\n{}", cluster.log_tail(n)))?;
    }
    Ok(())
}

fn request(
    cluster: &Cluster,
    n: usize,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    Connection::open_within(&cluster.addresses.http(n), TIMEOUT)?.request(method, path, headers, body)
}

/// Waits until every member has applied the same index and compares their hashes.
pub fn hashes_are_equal(cluster: &Cluster, report: &Report) -> Result<(), String> {
    let members = cluster.members();
    let mut last = Vec::new();
    let statuses = wait_for("all members to have applied the same", || {
        let all: Option<Vec<Value>> = members.iter().map(|&n| cluster.addresses.status(n, TIMEOUT)).collect();
        last = all?;
        last.iter().all(|s| s["applied"] == last[0]["applied"]).then(|| last.clone())
    });
    let statuses = statuses.map_err(|why| format!("{why}: {last:?}"))?;
    if let Some(other) = statuses.iter().find(|s| s["state_hash"] != statuses[0]["state_hash"]) {
        return Err(format!("two members applied the same and differ: {} and {other}", statuses[0]));
    }
    if let Some(lost) = statuses.iter().find(|s| s.to_string().contains("\"has_lost_entries\":true")) {
        return Err(format!("a leader says that a member lost what it acknowledged: {lost}"));
    }
    report.hashes_compared.fetch_add(1, Relaxed);
    Ok(())
}

/// Reads every key of the round through every member. The answers join the history.
pub fn read_everything(cluster: &Cluster, crowd: &Crowd) -> Result<(), String> {
    let prefix = format!("{}g", crowd.prefix);
    let mut first: Option<Vec<Row>> = None;
    for n in cluster.members() {
        let call_ns = crowd.now_ns();
        let mut found: Vec<Row> = Vec::new();
        // All pages are of the first one's revision, so the whole was read when that was.
        let mut whole = None;
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/kv?prefix={prefix}&limit=37{cursor}");
            let answer = wait_for("a list", || {
                request(cluster, n, "GET", &path, &[], b"").ok().filter(|answer| answer.status == 200)
            })?;
            let page = answer.json();
            let (revision, mut rows) =
                page_of(&page).ok_or_else(|| format!("{}: {page}", cluster.name(n)))?;
            let index = answer.header("Dkv-Index").and_then(|index| index.parse().ok());
            whole.get_or_insert_with(|| (crowd.now_ns(), revision, index));
            found.append(&mut rows);
            let Some(next) = page["cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        if first.as_ref().is_some_and(|first| *first != found) {
            return Err(format!("{} shows other values than those before it", cluster.name(n)));
        }
        first.get_or_insert_with(|| found.clone());
        let (return_ns, revision, index) = whole.expect("one page at least");
        let process = crowd.lives.fetch_add(1, Relaxed);
        let (op, answer) =
            (Op::List { prefix: prefix.clone() }, check::Answer::Listed { revision, rows: found });
        let event = Event { process, call_ns, return_ns, op, answer, index, version: None };
        crowd.history.lock().expect("nothing panics under the lock").push(event);
    }
    Ok(())
}

/// Reads each acknowledged write at the revision it made. Returns those that are gone.
pub fn lost_writes(cluster: &Cluster, report: &Report, events: &[Event]) -> Result<Vec<String>, String> {
    let mut writes = promises::acknowledged(events);
    writes.sort_unstable_by_key(|write| write.revision);
    let writes = &writes[writes.len().saturating_sub(MAX_READ_BACK)..];
    let members = cluster.members();
    let (next, lost, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(None));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (next, lost, failed, members) = (&next, &lost, &failed, &members);
            scope.spawn(move || {
                let mut connection = None;
                while let Some(write) = writes.get(next.fetch_add(1, Relaxed)) {
                    let node = members[(thread + write.revision as usize) % members.len()];
                    match read_back(cluster, node, &mut connection, write) {
                        Ok(Genesis::There) => drop(report.writes_read_back.fetch_add(1, Relaxed)),
                        Ok(Genesis::Compacted) => drop(report.writes_compacted.fetch_add(1, Relaxed)),
                        Ok(Genesis::Gone(text)) => {
                            lost.lock().expect("nothing panics under the lock").push(text)
                        }
                        Err(why) => *failed.lock().expect("nothing panics under the lock") = Some(why),
                    }
                }
            });
        }
    });
    match failed.into_inner().expect("nothing panics under the lock") {
        Some(why) => Err(why),
        None => Ok(lost.into_inner().expect("nothing panics under the lock")),
    }
}

/// What became of an acknowledged write.
enum Genesis {
    /// It is where it should be.
    There,
    /// It is beyond the history that is kept: nothing can be said of it alone.
    Compacted,
    /// It is gone, as the text says.
    Gone(String),
}

fn read_back(
    cluster: &Cluster,
    node: usize,
    connection: &mut Option<(usize, Connection)>,
    write: &Acknowledged,
) -> Result<Genesis, String> {
    let path = format!("/v1/kv/{}?revision={}", write.key, write.revision);
    let answer = wait_for("a read at a revision", || {
        if connection.as_ref().is_none_or(|(to, _)| *to != node) {
            *connection = Some((node, Connection::open_within(&cluster.addresses.http(node), TIMEOUT).ok()?));
        }
        let (_, open) = connection.as_mut()?;
        let answer = open.request("GET", &path, &[], b"").ok();
        if answer.is_none() {
            *connection = None;
        }
        answer.filter(|answer| !matches!(answer.status, 503 | 504))
    })?;
    let is_there = match &write.value {
        Some(value) => answer.status == 200 && value::value_of(&answer.body).as_deref() == Some(&**value),
        None => answer.status == 404 && answer.text().contains("not_found"),
    };
    if is_there {
        return Ok(Genesis::There);
    }
    if answer.status == 410 {
        return Ok(Genesis::Compacted);
    }
    let text = answer.text();
    let shown: String = text.chars().take(80).collect();
    Ok(Genesis::Gone(format!(
        "{} is gone: at its revision {} says {} {shown}",
        write.event,
        cluster.name(node),
        answer.status
    )))
}

/// Looks for alarms in what the members said since `from`, their offsets in the logs, which are moved on, and counts the
/// snapshots that were written, received and passed over.
pub fn scan_logs(cluster: &Cluster, from: &mut [usize], report: &Report) -> Vec<String> {
    let mut found = Vec::new();
    for (n, from) in from.iter_mut().enumerate() {
        let log = cluster.log(n);
        let new = log.get(*from..).unwrap_or_default();
        *from = log.len();
        for (words, counter) in [
            ("saved the state through", &report.snapshots),
            ("received the leader's snapshot through", &report.installs),
            ("has ended: campaigns soon", &report.told),
        ] {
            counter.fetch_add(new.matches(words).count() as u64, Relaxed);
        }
        let is_alarm = |line: &&str| ALARMS.iter().any(|alarm| line.contains(alarm));
        found.extend(new.lines().filter(is_alarm).map(|line| format!("{} says: {line}", cluster.name(n))));
    }
    found
}

/// Memory, descriptors and threads of each process against their bounds, and panics that were survived.
pub fn processes_are_sound(cluster: &Cluster) -> Result<(), String> {
    for n in cluster.running() {
        let (name, pid) = (cluster.name(n), cluster.pid(n));
        let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| format!("{name}: {e}"))?;
        let rss_kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).and_then(first_number);
        let rss_mib = rss_kib.ok_or_else(|| format!("{name} has no memory"))? / 1_024;
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
        // Connections of the round that was end a moment later.
        let (mut descriptors, mut threads) = (0, 0);
        let settled = wait_for("descriptors and threads within their bounds", || {
            (descriptors, threads) = (count("fd"), count("task"));
            (descriptors <= MAX_DESCRIPTORS && threads <= MAX_THREADS).then_some(())
        });
        if settled.is_err() || rss_mib > MAX_RSS_MIB {
            return Err(format!("{name}: {rss_mib} MiB, {descriptors} descriptors, {threads} threads"));
        }
        let metrics =
            wait_for("the metrics", || request(cluster, n, "GET", "/metrics", &[], b"").ok())?.text();
        let panics = metrics
            .lines()
            .find(|line| line.contains("panic") && !line.starts_with('#') && !line.ends_with(" 0"));
        if let Some(line) = panics {
            return Err(format!("{name} survived a panic: {line}"));
        }
    }
    Ok(())
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Stops a member, verifies its data and starts it again.
pub fn verify_one(cluster: &mut Cluster, n: usize, graceful: bool, report: &Report) -> Result<(), String> {
    let applied = cluster.addresses.status(n, TIMEOUT).and_then(|s| s["applied"].as_u64()).unwrap_or(0);
    if graceful {
        let status = cluster.term(n)?;
        if status.code() != Some(0) {
            return Err(format!(
                "{} ended with {status} after SIGTERM\n{}",
                cluster.name(n),
                cluster.log_tail(n)
            ));
        }
    } else {
        cluster.kill(n);
    }
    verify(cluster, n, applied, graceful, report)?;
    cluster.spawn(n);
    Ok(())
}

/// Verifies the data of a member that is not running: it is whole up to `applied` at least.
pub fn verify(
    cluster: &Cluster,
    n: usize,
    applied: u64,
    graceful: bool,
    report: &Report,
) -> Result<(), String> {
    let output = cluster.fsck(n);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = || format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    report.verified.fetch_add(1, Relaxed);
    let verdict = text.lines().next().and_then(|line| line.rsplit(": ").next()).unwrap_or_default();
    if verdict == "torn tail" {
        report.torn_tails.fetch_add(1, Relaxed);
    }
    let is_good =
        output.status.code() == Some(0) && (verdict == "clean" || (verdict == "torn tail" && !graceful));
    if !is_good {
        return Err(format!("{}: the data is not good: {}: {}", cluster.name(n), output.status, said()));
    }
    let last =
        text.lines().find_map(|line| line.strip_prefix("last index: ")?.split('@').next()?.parse().ok());
    if last.is_none_or(|last: u64| last < applied) {
        return Err(format!("{} had applied {applied}: {}", cluster.name(n), said()));
    }
    Ok(())
}

/// Checks the history of a round: revisions, the order of the log, and each group of keys by itself.
pub fn history_is_linearizable(events: &[Event], report: &Report) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(check::check_revisions(events).err().map(|fault| fault.to_string()));
    if let Err(fault) = check::check_order(events) {
        report.undecided_keys.fetch_add(u64::from(fault.is_undecided()), Relaxed);
        found.push(fault.to_string());
    }
    report.operations_checked.fetch_add(events.len() as u64, Relaxed);
    for events in promises::by_key(events).into_values() {
        report.keys_checked.fetch_add(1, Relaxed);
        let stale = promises::stale_reads(&events);
        report.stale_reads.fetch_add(stale.len() as u64, Relaxed);
        found.extend(stale);
    }
    if let Err(fault) = check::check_linearizable(events, &Limits::default()) {
        report.undecided_keys.fetch_add(u64::from(fault.is_undecided()), Relaxed);
        found.push(fault.to_string());
    }
    found
}
