//! What counts over a large store cost the writes beside them.
//!
//! `cargo build --release && cargo run --release --example scan_price -- [KEYS [SECONDS [COUNTERS]]]`
//!
//! One node, default configuration, in a directory below `target/`, gets a million keys. Then writers, each on a connection
//! of its own with one write outstanding, write for some seconds without and with clients that count all keys, one count
//! after the other. The answers of the writes are what is looked at: with as many counts at a time as threads write answers
//! (the default, 2) they must go on.

mod support;

use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{Addresses, Busy, Connection, Process, directory, server, wait_for};

const NODE: Addresses = Addresses { ip: "127.94.0.1", nodes: 1 };
const VALUE: [u8; 100] = [b'v'; 100];
const FILLERS: usize = 128;
const WRITERS: usize = 8;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|arg| arg.parse::<u64>().map_err(io::Error::other));
    let mut argument = |default| arguments.next().unwrap_or(Ok(default));
    let (keys, seconds, counters) = (argument(1_000_000)?, argument(10)?, argument(2)?);
    let dir = directory()?;
    let config = NODE.write_config(dir.path(), 0, "request_timeout_ms: 30000\n")?;
    let mut command = Command::new(server()?);
    let process = Process::start(command.arg("--config").arg(config), &dir.path().join("log"))?;
    wait_for("a leader", || put(&mut Connection::open(&NODE.http(0)).ok()?, 0).ok())?;
    fill(keys)?;
    println!("one node with {keys} keys");
    for counters in [0, counters, 0, counters] {
        let (busy, counts) = (Busy::look(&[&process]), AtomicU64::new(0));
        let answered = measure(keys, Duration::from_secs(seconds), counters, &counts)?;
        let others = busy.until(&Busy::look(&[&process])).1;
        let at = |share: f64| answered[((answered.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "{counters} clients count: {:.0} writes/s, median {:.2} ms, 99% {:.2} ms, worst {:.1} ms; {} counts; {others:.2} \
             processors in use by others",
            answered.len() as f64 / seconds as f64,
            at(0.5),
            at(0.99),
            at(1.0),
            counts.into_inner()
        );
    }
    Ok(())
}

fn put(connection: &mut Connection, n: u64) -> io::Result<()> {
    connection.demand("PUT", &format!("/v1/kv/user/{n:012}"), &VALUE).map(drop)
}

fn fill(keys: u64) -> io::Result<()> {
    let next = AtomicU64::new(0);
    let work = || -> io::Result<()> {
        let mut connection = Connection::open(&NODE.http(0))?;
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                n if n < keys => put(&mut connection, n)?,
                _ => return Ok(()),
            }
        }
    };
    thread::scope(|scope| {
        let fillers: Vec<_> = (0..FILLERS).map(|_| scope.spawn(work)).collect();
        fillers.into_iter().try_for_each(|filler| filler.join().expect("no panic"))
    })
}

/// How long each write took, sorted.
fn measure(keys: u64, during: Duration, counters: u64, counts: &AtomicU64) -> io::Result<Vec<Duration>> {
    let is_over = AtomicBool::new(false);
    let write = |writer: usize| -> io::Result<Vec<Duration>> {
        let mut connection = Connection::open(&NODE.http(0))?;
        let (mut rng, mut taken) = (fastrand::Rng::with_seed(writer as u64), Vec::new());
        while !is_over.load(Ordering::Relaxed) {
            let sent = Instant::now();
            put(&mut connection, rng.u64(0..keys))?;
            taken.push(sent.elapsed());
        }
        Ok(taken)
    };
    let count = || -> io::Result<()> {
        let mut connection = Connection::open(&NODE.http(0))?;
        while !is_over.load(Ordering::Relaxed) {
            let body = connection.demand("GET", "/v1/kv?count_only=true", b"")?;
            let expected = format!("\"count\":{keys},");
            if !String::from_utf8_lossy(&body).contains(&expected) {
                return Err(io::Error::other(format!("not {expected}: {}", String::from_utf8_lossy(&body))));
            }
            counts.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let counters: Vec<_> = (0..counters).map(|_| scope.spawn(count)).collect();
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
        thread::sleep(during);
        is_over.store(true, Ordering::Relaxed);
        let mut taken = Vec::new();
        for writer in writers {
            taken.extend(writer.join().expect("no panic")?);
        }
        counters.into_iter().try_for_each(|counter| counter.join().expect("no panic"))?;
        taken.sort_unstable();
        Ok(taken)
    })
}
