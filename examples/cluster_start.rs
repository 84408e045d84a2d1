//! How long five nodes take from their start to the first accepted write: from empty directories, and with their data.
//!
//! `cargo build --release && cargo run --release --example cluster_start -- [ROUNDS [KEYS]]`
//!
//! All five run on this machine with the default configuration, below `target/`. The time is from the start of the first
//! process to the first write that any of them accepts. First `ROUNDS` new clusters, each from empty directories; then
//! one cluster gets `KEYS` keys with 100-byte values (none when `KEYS` is 0), and all of its nodes are stopped and
//! started again, in order in the first half of `ROUNDS` and killed in the second half.

mod support;

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use support::{Addresses, Busy, Connection, Process, directory, median, server, wait_for};

const CLUSTER: Addresses = Addresses { ip: "127.94.0.1", nodes: 5 };

const VALUE: [u8; 100] = [b'x'; 100];

/// Connections that fill it.
const WRITERS: usize = 64;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |a| a.parse().map_err(io::Error::other));
    let (rounds, keys) = (number(5)?, number(1_000_000)?);
    let mut took = Vec::new();
    for _ in 0..rounds {
        let dir = directory()?;
        took.push(start(dir.path())?.1);
    }
    report("empty directories", &took);
    if keys == 0 {
        return Ok(());
    }
    let dir = directory()?;
    let (mut nodes, _) = start(dir.path())?;
    let began = Instant::now();
    fill(keys)?;
    println!("{keys} keys are stored after {:.0} s", began.elapsed().as_secs_f64());
    for is_killed in [false, true] {
        let mut took = Vec::new();
        for _ in 0..rounds {
            for node in &mut nodes {
                if is_killed { node.kill()? } else { node.stop()? }
            }
            let (again, seconds) = start(dir.path())?;
            nodes = again;
            took.push(seconds);
        }
        report(if is_killed { "all killed before" } else { "all stopped in order before" }, &took);
    }
    Ok(())
}

fn report(what: &str, took: &[f64]) {
    let shown: Vec<String> = took.iter().map(|seconds| format!("{seconds:.2}")).collect();
    let middle = median(took.to_vec());
    println!("{what}: start to first accepted write {middle:.2} s ({})", shown.join(" "));
}

/// Starts all nodes, and returns how many seconds passed until one of them accepted a write.
fn start(dir: &Path) -> io::Result<(Vec<Process>, f64)> {
    let program = server()?;
    let configs =
        (0..CLUSTER.nodes).map(|n| CLUSTER.write_config(dir, n, "")).collect::<io::Result<Vec<_>>>()?;
    let (busy, began) = (Busy::look(&[]), Instant::now());
    let mut nodes = Vec::new();
    for config in &configs {
        let mut command = Command::new(&program);
        command.arg("--config").arg(config);
        nodes.push(Process::start(&mut command, &config.with_extension("log"))?);
    }
    let mut asked = 0;
    wait_for("the first accepted write", || {
        asked += 1;
        let mut connection = Connection::open(&CLUSTER.http(asked % CLUSTER.nodes)).ok()?;
        connection.demand("PUT", "/v1/kv/first", b"1").ok()
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let others = busy.until(&Busy::look(&nodes.iter().collect::<Vec<_>>())).1;
    if others > 0.5 {
        println!("another program used {others:.1} processors meanwhile");
    }
    Ok((nodes, seconds))
}

/// Stores all keys through all nodes.
fn fill(keys: u64) -> io::Result<()> {
    let next = AtomicU64::new(0);
    let work = &|writer: usize| -> io::Result<()> {
        let mut connection = Connection::open(&CLUSTER.http(writer % CLUSTER.nodes))?;
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= keys {
                return Ok(());
            }
            connection.demand("PUT", &format!("/v1/kv/user-{n:012}"), &VALUE)?;
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || work(writer))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })
}
