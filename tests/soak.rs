//! Disk and memory are bounded for ever: three real nodes with tiny limits have the same thousand keys overwritten again
//! and again, by default for 20 s, with `make soak` for ten minutes.

#[allow(dead_code)]
mod support {
    pub mod cluster;
}

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::cluster::{Cluster, Connection, Setup};

const KEYS: u64 = 1_000;
const VALUE_BYTES: usize = 512;
const WRITERS: u64 = 8;

/// State about 1.6 MB with its history; a snapshot each time the log has grown by half of that; two snapshots and the log
/// since the older one are kept, another snapshot is being written, and a few segments wait to be reused.
const LIMITS: &str = "segment_bytes: 65536\nsnapshot_log_bytes: 262144\nretention_revisions: 2000\n\
                      retention_bytes: 1048576\n";

/// No data directory is ever greater.
const MAX_DATA_BYTES: u64 = 16 << 20;

/// In the second half of the run no process has so much more memory than after the first quarter.
const MAX_GROWTH_BYTES: u64 = 24 << 20;

#[test]
fn disk_and_memory_stay_bounded_under_overwrites() {
    let seconds = std::env::var("DKV_SOAK_SECONDS").map_or(20, |s| s.parse().expect("DKV_SOAK_SECONDS"));
    let mut cluster = Cluster::prepare(3, &Setup { extra: LIMITS.to_owned(), ..Setup::default() });
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    cluster.wait_for_ready();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (addr, stop, done) = (cluster.http_addr(writer as usize % 3), stop.clone(), done.clone());
            std::thread::spawn(move || overwrite(&addr, writer, &stop, &done))
        })
        .collect();
    let began = Instant::now();
    let (mut early, mut late, mut greatest) = (0, 0, 0);
    while began.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(250));
        for n in 0..3 {
            let bytes = directory_bytes(&cluster.data_dir(n));
            assert!(bytes <= MAX_DATA_BYTES, "{} has {bytes} bytes of data", cluster.name(n));
            greatest = greatest.max(bytes);
        }
        let memory = (0..3).map(|n| resident_bytes(cluster.pid(n))).max().expect("three of them");
        let part = began.elapsed().as_secs_f64() / seconds as f64;
        if part <= 0.25 {
            early = memory.max(early);
        } else if part >= 0.5 {
            late = memory.max(late);
        }
    }
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().expect("no writer fails"));
    let done = done.load(Ordering::Relaxed);
    println!(
        "{done} writes in {seconds} s; greatest data directory {} KiB; memory {} KiB early, {} KiB late",
        greatest >> 10,
        early >> 10,
        late >> 10
    );
    let written = done * VALUE_BYTES as u64;
    assert!(written > 4 << 20, "only {written} bytes were written: that proves nothing");
    assert!(late <= early + MAX_GROWTH_BYTES, "memory grew from {early} to {late} bytes");
    cluster.wait_for_equal_state();
    for n in 0..3 {
        let snapshots = names(&cluster.data_dir(n), ".snapshot");
        assert_eq!(snapshots.len(), 2, "{}: {snapshots:?}", cluster.name(n));
        assert!(
            !names(&cluster.data_dir(n), ".wal").iter().any(|name| name.starts_with("0000000000000001-"))
        );
    }
    // And all of it can be read back.
    (0..3).for_each(|n| assert!(cluster.stop(n).success()));
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    cluster.wait_for_ready();
    for key in (0..KEYS).step_by(37) {
        assert_eq!(cluster.get(1, &format!("soak/{key}")).expect("an answer").status, 200);
    }
}

/// Overwrites the keys in turn until told to stop.
fn overwrite(addr: &str, writer: u64, stop: &AtomicBool, done: &AtomicU64) {
    let mut connection = Connection::open(addr).expect("the node serves");
    let mut round = writer;
    while !stop.load(Ordering::Relaxed) {
        let value = vec![b'a' + (round % 26) as u8; VALUE_BYTES];
        let path = format!("/v1/kv/soak/{}", round % KEYS);
        match connection.request("PUT", &path, &[], &value) {
            // A busy machine may see an election: what is not done is done the next time round.
            Ok(answer) => done.fetch_add(u64::from(answer.status == 200), Ordering::Relaxed),
            Err(_) => {
                connection = Connection::open(addr).expect("the node serves");
                0
            }
        };
        round += WRITERS;
    }
}

fn names(dir: &Path, end: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a data directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    names.filter(|name| name.ends_with(end)).collect()
}

fn directory_bytes(dir: &Path) -> u64 {
    // Files come and go while they are counted.
    let entries = fs::read_dir(dir).expect("a data directory").flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
}

fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("every process has it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}
