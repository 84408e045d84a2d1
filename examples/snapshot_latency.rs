//! What clients notice of a snapshot: the latency of writes while one is written, next to that without.
//!
//! `cargo build --release && cargo run --release --example snapshot_latency -- [NODES [ROUNDS [WRITERS [KEYS]]]]`
//!
//! A cluster of three nodes with a million keys of 100-byte values, in a directory below `target/`; it begins with a
//! backup that holds them. Sixteen writers overwrite random keys through the leader, each with one request outstanding.
//! Each round measures four windows one after the other: no snapshot; one that the leader writes; no snapshot; one that
//! all nodes write at once. `POST /v1/snapshots` makes a node write one, and its metrics say how long it took.
//! The last column is the mean time of a sync of the leader's log.

mod support;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dkv::raft::{ClusterId, Entry, Genesis, Member, MemberId, Membership, Payload, Position, Settings};
use dkv::store::disk::RealDisk;
use dkv::store::{Command, Kv, Op, snapshot};

use support::{Addresses, Busy, Connection, Process, directory, median, server, wait_for};

const VALUE_BYTES: usize = 100;

/// How long a window without a snapshot is.
const QUIET: Duration = Duration::from_secs(2);

/// What is left out after each snapshot: it is verified for the client that asked, and the one before it removed.
const CALM: Duration = Duration::from_secs(1);

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|arg| arg.parse::<usize>().map_err(io::Error::other));
    let mut argument = |default| arguments.next().unwrap_or(Ok(default));
    let (nodes, rounds) = (argument(3)?, argument(7)?);
    let (writers, keys) = (argument(16)?, argument(1_000_000)?);
    let addresses = Arc::new(Addresses { ip: "127.92.0.1", nodes });
    let (dir, program) = (directory()?, server()?);

    let began = Instant::now();
    let backup = write_backup(dir.path(), keys as u64)?;
    let start = |n| {
        // No snapshots but those that are asked for, and no election because the machine is busy.
        let extra = "election_timeout_ms: 2000\nsnapshot_log_entries: 100000000\nsnapshot_log_bytes: 1000000000000\n\
                     request_timeout_ms: 60000\n";
        let config = addresses.write_config(dir.path(), n, extra)?;
        let mut command = Program::new(&program);
        command.arg("--config").arg(config).arg("--restore").arg(&backup);
        Process::start(&mut command, &dir.path().join(Addresses::name(n)).with_extension("log"))
    };
    let processes = (0..nodes).map(start).collect::<io::Result<Vec<_>>>()?;
    let leader = wait_for("a leader", || (0..nodes).find(|&n| is_leader(&addresses.http(n))))?;
    println!(
        "{nodes} nodes with {keys} keys of {VALUE_BYTES} bytes in {:.1} s",
        began.elapsed().as_secs_f64()
    );

    let load = Load::start(&addresses.http(leader), writers, keys as u64);
    thread::sleep(QUIET);
    let mut windows = Vec::new();
    let mut metrics = Connection::open(&addresses.http(leader))?;
    let all: Vec<usize> = (0..nodes).collect();
    let processes: Vec<&Process> = processes.iter().collect();
    let busy = Busy::look(&processes);
    for _ in 0..rounds {
        for who in [&[leader][..], &all] {
            let (before, began) = (log_syncs(&mut metrics)?, Instant::now());
            thread::sleep(QUIET);
            let (between, ended) = (log_syncs(&mut metrics)?, Instant::now());
            windows.push(Window {
                kind: Kind::Quiet(who.len() > 1),
                began,
                ended,
                syncs: between.since(before),
            });
            let (began, ended) = take_snapshots(&addresses, who)?;
            let syncs = log_syncs(&mut metrics)?.since(between);
            windows.push(Window { kind: Kind::Snapshot(who.len() > 1), began, ended, syncs });
            thread::sleep(CALM);
        }
    }
    let (own, others) = busy.until(&Busy::look(&processes));
    let answered = load.finish()?;
    if !is_leader(&addresses.http(leader)) {
        return Err(io::Error::other("another node leads by now: the figures say nothing"));
    }
    report(&answered, &windows);
    println!("processors in use meanwhile: {own:.2} by this, {others:.2} by others");
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// The window before a snapshot of the leader, or of all nodes.
    Quiet(bool),
    Snapshot(bool),
}

struct Window {
    kind: Kind,
    began: Instant,
    ended: Instant,
    /// Those of the leader, about meanwhile.
    syncs: LogSyncs,
}

/// How often a node has synced its log, and for how long all together.
#[derive(Clone, Copy)]
struct LogSyncs {
    count: f64,
    seconds: f64,
}

impl LogSyncs {
    fn since(self, before: LogSyncs) -> LogSyncs {
        LogSyncs { count: self.count - before.count, seconds: self.seconds - before.seconds }
    }

    fn mean_ms(self) -> f64 {
        self.seconds * 1e3 / self.count
    }
}

/// A backup of a store with so many keys, written in random order.
fn write_backup(dir: &Path, keys: u64) -> io::Result<PathBuf> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut order: Vec<u64> = (0..keys).collect();
    rng.shuffle(&mut order);
    let member = Member {
        node_id: "first".to_owned(),
        member_id: MemberId(1),
        raft_addr: "127.0.0.1:1".to_owned(),
        http_addr: "127.0.0.1:2".to_owned(),
        voter: true,
        promote: false,
    };
    let members = Membership { members: vec![member] };
    let settings = Settings::default();
    let genesis = Genesis {
        protocol: 1,
        cluster_id: ClusterId(1),
        settings: settings.clone(),
        members,
        restored: None,
    };
    let mut kv = Kv::new(settings);
    kv.apply(&Entry::new(Position::new(1, 1), 0, &Payload::Genesis(genesis)));
    for (n, index) in order.iter().zip(2..) {
        let op = Op::put(key(*n).into_bytes(), value(&mut rng));
        let command = Command { op, condition: None, idempotency: None, wall_ms: 0, actor: String::new() };
        kv.apply(&Entry::new(Position::new(index, 1), 0, &Payload::Command(command.encode())));
    }
    let dir = dir.join("backup");
    let file = snapshot::write(Arc::new(RealDisk::open(&dir)?), &mut kv).map_err(io::Error::other)?;
    Ok(dir.join(file.name.to_string()))
}

fn key(n: u64) -> String {
    format!("user/{n:012}")
}

fn value(rng: &mut fastrand::Rng) -> Vec<u8> {
    (0..VALUE_BYTES).map(|_| rng.alphanumeric() as u8).collect()
}

fn is_leader(addr: &str) -> bool {
    let status = Connection::open(addr).and_then(|mut c| c.demand("GET", "/v1/status", b""));
    status.is_ok_and(|body| String::from_utf8_lossy(&body).contains("\"role\":\"leader\""))
}

/// Makes nodes write a snapshot, all at once: from when to when they did.
fn take_snapshots(addresses: &Arc<Addresses>, nodes: &[usize]) -> io::Result<(Instant, Instant)> {
    let take = |&n: &usize| {
        let addr = addresses.http(n);
        thread::spawn(move || {
            let mut connection = Connection::open(&addr)?;
            let (before, began) = (seconds_of_snapshots(&mut connection)?, Instant::now());
            connection.demand("POST", "/v1/snapshots", b"")?;
            let took = seconds_of_snapshots(&mut connection)? - before;
            Ok((began, began + Duration::from_secs_f64(took)))
        })
    };
    let threads: Vec<JoinHandle<io::Result<_>>> = nodes.iter().map(take).collect();
    let mut took = Vec::new();
    for thread in threads {
        took.push(thread.join().expect("it does not panic")?);
    }
    let began = took.iter().map(|(began, _)| *began).min().expect("one node at least");
    let ended = took.iter().map(|(_, ended)| *ended).max().expect("one node at least");
    Ok((began, ended))
}

/// How long a node has written snapshots, all together.
fn seconds_of_snapshots(connection: &mut Connection) -> io::Result<f64> {
    metrics(connection, ["dkv_snapshot_seconds_sum"]).map(|[seconds]| seconds)
}

fn log_syncs(connection: &mut Connection) -> io::Result<LogSyncs> {
    let [count, seconds] = metrics(connection, ["dkv_log_sync_seconds_count", "dkv_log_sync_seconds_sum"])?;
    Ok(LogSyncs { count, seconds })
}

fn metrics<const N: usize>(connection: &mut Connection, names: [&str; N]) -> io::Result<[f64; N]> {
    let body = connection.demand("GET", "/metrics", b"")?;
    let text = String::from_utf8_lossy(&body);
    let mut values = [0.0; N];
    for (name, value) in names.iter().zip(&mut values) {
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        *value = found.ok_or_else(|| io::Error::other(format!("the metrics have no {name}")))?;
    }
    Ok(values)
}

/// One answered write: when it was sent, and when it was answered.
type Answered = (Instant, Instant);

struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<Vec<Answered>>>>,
}

impl Load {
    fn start(addr: &str, writers: usize, keys: u64) -> Load {
        let stop: Arc<AtomicBool> = Arc::default();
        let writer = |n| {
            let (stop, addr) = (stop.clone(), addr.to_owned());
            thread::spawn(move || {
                let mut rng = fastrand::Rng::with_seed(n);
                let (mut connection, mut answered) = (Connection::open(&addr)?, Vec::new());
                let value = value(&mut rng);
                while !stop.load(Ordering::Relaxed) {
                    let path = format!("/v1/kv/{}", key(rng.u64(0..keys)));
                    let sent = Instant::now();
                    connection.demand("PUT", &path, &value)?;
                    answered.push((sent, Instant::now()));
                }
                Ok(answered)
            })
        };
        let threads = (0..writers as u64).map(writer).collect();
        Load { stop, threads }
    }

    fn finish(self) -> io::Result<Vec<Answered>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answered = Vec::new();
        for thread in self.threads {
            answered.extend(thread.join().expect("it does not panic")?);
        }
        Ok(answered)
    }
}

/// What a window looked like.
#[derive(Clone, Copy)]
struct Seen {
    seconds: f64,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    longest_ms: f64,
    sync_ms: f64,
}

/// Of the writes that were under way at any time in the window.
fn see(answered: &[Answered], window: &Window) -> Seen {
    let Window { began, ended, .. } = window;
    let during = answered.iter().filter(|(sent, answered)| sent < ended && answered > began);
    let mut took: Vec<f64> = during.map(|(sent, answered)| (*answered - *sent).as_secs_f64() * 1e3).collect();
    took.sort_by(f64::total_cmp);
    let at =
        |percent: usize| took.get(took.len().saturating_sub(1) * percent / 100).copied().unwrap_or(f64::NAN);
    let seconds = (*ended - *began).as_secs_f64();
    Seen {
        seconds,
        per_second: took.len() as f64 / seconds,
        p50_ms: at(50),
        p99_ms: at(99),
        longest_ms: at(100),
        sync_ms: window.syncs.mean_ms(),
    }
}

fn report(answered: &[Answered], windows: &[Window]) {
    let mut by_kind: BTreeMap<Kind, Vec<Seen>> = BTreeMap::new();
    for window in windows {
        by_kind.entry(window.kind).or_default().push(see(answered, window));
    }
    println!("medians over the rounds:");
    println!(
        "{:<34} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "window", "lasts", "writes/s", "p50", "p99", "longest", "log sync"
    );
    for all in [false, true] {
        let who = if all { "all nodes" } else { "the leader" };
        let of = |kind, what: fn(&Seen) -> f64| median(by_kind[&kind].iter().map(what).collect());
        for (kind, text) in
            [(Kind::Quiet(all), "no snapshot"), (Kind::Snapshot(all), "a snapshot written by")]
        {
            let text = if kind == Kind::Quiet(all) { text.to_owned() } else { format!("{text} {who}") };
            println!(
                "{text:<34} {:>7.2} s {:>9.0} {:>6.2} ms {:>6.2} ms {:>6.1} ms {:>6.2} ms",
                of(kind, |s| s.seconds),
                of(kind, |s| s.per_second),
                of(kind, |s| s.p50_ms),
                of(kind, |s| s.p99_ms),
                of(kind, |s| s.longest_ms),
                of(kind, |s| s.sync_ms),
            );
        }
        // Each snapshot next to the window before it: what slows the whole machine slows both.
        let pairs = by_kind[&Kind::Quiet(all)].iter().zip(&by_kind[&Kind::Snapshot(all)]);
        let ratios: Vec<f64> = pairs.map(|(quiet, snapshot)| snapshot.p99_ms / quiet.p99_ms).collect();
        let shown: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
        println!("  p99 with / p99 without: {:.2} ({})", median(ratios), shown.join(" "));
    }
}
