//! How much memory a one-node store takes for a million keys: after they were put, and after a restart.
//!
//! `cargo build --release && cargo run --release --example memory -- [KEYS [SERVER]]`
//!
//! Keys of 16 bytes in no order with values of 64 bytes are put over 64 connections, without idempotency keys. The figures
//! are the resident memory of the process 10 seconds after the last answer: of the empty node, of the node that took the
//! puts, and of the node that was stopped in order and started again. `SERVER` is another build of the program to
//! compare with. Linux.

mod support;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{Addresses, Connection, Process, directory, server, wait_for};

const CONNECTIONS: usize = 64;
const KEY_BYTES: usize = 16;
const VALUE_BYTES: usize = 64;

/// How long the node is left alone before its memory is read: timers, the housekeeper and a snapshot have their time.
const REST: Duration = Duration::from_secs(10);

const DKV: Addresses = Addresses { ip: "127.93.0.3", nodes: 1 };

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let keys: u64 = arguments.next().map_or(Ok(1_000_000), |a| a.parse().map_err(io::Error::other))?;
    let program = arguments.next().map_or_else(server, |path| Ok(PathBuf::from(path)))?;
    let dir = directory()?;
    let config = DKV.write_config(dir.path(), 0, "")?;
    let start = || -> io::Result<Process> {
        let mut command = Command::new(&program);
        let process = Process::start(command.arg("--config").arg(&config), &dir.path().join("dkv.log"))?;
        wait_for("a linearizable read", || {
            let (status, _) = Connection::open(&DKV.http(0)).ok()?.request("GET", "/v1/kv/none", b"").ok()?;
            (status == 404).then_some(())
        })?;
        Ok(process)
    };

    let mut process = start()?;
    let empty = resident_after_rest(&process)?;
    show("an empty node", empty, empty, keys);
    let began = Instant::now();
    fill(keys)?;
    let seconds = began.elapsed().as_secs_f64();
    show("after the puts", resident_after_rest(&process)?, empty, keys);
    println!("{keys} keys of {KEY_BYTES} bytes with {VALUE_BYTES} bytes were put in {seconds:.0} s");
    process.stop()?;
    let began = Instant::now();
    let process = start()?;
    let seconds = began.elapsed().as_secs_f64();
    show("after a restart", resident_after_rest(&process)?, empty, keys);
    println!("start to first read: {seconds:.2} s");
    Ok(())
}

/// Puts all keys, in no order.
fn fill(keys: u64) -> io::Result<()> {
    let mut order: Vec<u64> = (0..keys).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut order);
    let next = AtomicU64::new(0);
    let work = || -> io::Result<()> {
        let mut connection = Connection::open(&DKV.http(0))?;
        while let Some(n) = order.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let key = format!("k{n:0width$}", width = KEY_BYTES - 1);
            connection.demand("PUT", &format!("/v1/kv/{key}"), &value(*n))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })
}

/// Other bytes for each key.
fn value(n: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(n);
    (0..VALUE_BYTES).map(|_| rng.alphanumeric() as u8).collect()
}

/// The resident memory in bytes, after a rest.
fn resident_after_rest(process: &Process) -> io::Result<u64> {
    thread::sleep(REST);
    let status = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("/proc does not say VmRSS"))
}

fn show(what: &str, resident: u64, empty: u64, keys: u64) {
    let per_key = resident.saturating_sub(empty) as f64 / keys.max(1) as f64;
    println!("{what:<16} {:>6.1} MB, {per_key:.0} bytes for each key", resident as f64 / 1e6);
}
