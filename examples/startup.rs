//! How long a start takes with a million keys, next to etcd's with the same keys.
//!
//! `cargo build --release && cargo run --release --example startup -- [ROUNDS [KEYS [ETCD]]]`
//!
//! `ETCD` is the program, by default `etcd` from the path (Debian: `apt-get install etcd-server`); without it this says so
//! and ends. One node of each, default configuration, in a directory below `target/`, gets a million keys with 100-byte
//! values and is stopped. Then they are started in turn, each alone on the machine, and read one key with a linearizable
//! read over HTTP: the time is from the start of the process to the first right answer. They are stopped in order in the
//! first half of the rounds, and killed in the second, each after a thousand more writes.

mod support;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use support::{Addresses, Busy, Connection, Process, directory, median, server, wait_for};

const VALUE_BYTES: usize = 100;

/// Puts in one transaction of etcd: the most that its default configuration takes.
const TXN_PUTS: u64 = 128;

/// Writes before each end.
const MORE_WRITES: u64 = 1_000;

const DKV: Addresses = Addresses { ip: "127.93.0.1", nodes: 1 };
const ETCD: &str = "127.93.0.2";

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |a| a.parse().map_err(io::Error::other));
    let (rounds, keys) = (number(5)?, number(1_000_000)?);
    let etcd = arguments.next().unwrap_or_else(|| "etcd".to_owned());
    let Some(version) = version(&etcd) else {
        println!("{etcd} is not installed (Debian: apt-get install etcd-server): nothing is compared");
        return Ok(());
    };
    let dir = directory()?;
    let config = DKV.write_config(dir.path(), 0, "")?;
    let stores: [&dyn Store; 2] = [
        &Dkv { program: server()?, config, log: dir.path().join("dkv.log") },
        &Etcd { program: etcd, dir: dir.path().join("etcd"), log: dir.path().join("etcd.log") },
    ];
    println!("{version} and dkv {}: {keys} keys of {VALUE_BYTES} bytes", env!("CARGO_PKG_VERSION"));
    for store in stores {
        let began = Instant::now();
        let mut process = store.start()?;
        wait_for("its first answer", || store.open().and_then(|mut c| store.put(&mut c, 0)).ok())?;
        fill(store, keys)?;
        process.stop()?;
        println!("{} is filled and stopped after {:.0} s", store.name(), began.elapsed().as_secs_f64());
    }
    let mut others = Vec::new();
    for is_killed in [false, true] {
        let mut took = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for (store, took) in stores.iter().zip(&mut took) {
                let (busy, began) = (Busy::look(&[]), Instant::now());
                let mut process = store.start()?;
                let key = fastrand::u64(0..keys);
                wait_for("the first read", || {
                    store.open().and_then(|mut c| store.has(&mut c, key)).ok().filter(|has| *has)
                })?;
                took.push(began.elapsed().as_secs_f64());
                others.push(busy.until(&Busy::look(&[&process])).1);
                let mut connection = store.open()?;
                for n in 0..MORE_WRITES {
                    store.put(&mut connection, (round * MORE_WRITES + n) % keys)?;
                }
                if is_killed { process.kill()? } else { process.stop()? }
            }
        }
        let how = if is_killed { "killed" } else { "stopped in order" };
        for (store, took) in stores.iter().zip(&took) {
            let shown: Vec<String> = took.iter().map(|seconds| format!("{seconds:.2}")).collect();
            let middle = median(took.clone());
            println!("{how:<17} {:<5} start to first read {middle:.2} s ({})", store.name(), shown.join(" "));
        }
        let [dkv, etcd] = took.map(median);
        println!("{how:<17} etcd / dkv: {:.1}", etcd / dkv);
    }
    println!("processors in use by others during a start: {:.2}", median(others));
    Ok(())
}

fn version(etcd: &str) -> Option<String> {
    let output = Command::new(etcd).arg("--version").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(|line| line.replace("Version: ", "").trim().to_owned())
}

fn key(n: u64) -> String {
    format!("user/{n:012}")
}

/// Other bytes for each key.
fn value(n: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(n);
    (0..VALUE_BYTES).map(|_| rng.alphanumeric() as u8).collect()
}

/// Stores all keys, in no order, over several connections.
fn fill(store: &dyn Store, keys: u64) -> io::Result<()> {
    let mut order: Vec<u64> = (0..keys).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut order);
    let chunks: Vec<&[u64]> = order.chunks(store.keys_at_once()).collect();
    let next = AtomicU64::new(0);
    let work = || -> io::Result<()> {
        let mut connection = store.open()?;
        while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            store.put_all(&mut connection, chunk)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..store.connections()).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })
}

/// A store of one node.
trait Store: Sync {
    fn name(&self) -> &'static str;
    fn start(&self) -> io::Result<Process>;
    fn open(&self) -> io::Result<Connection>;
    /// Connections that fill it fast.
    fn connections(&self) -> usize;
    /// Keys of one request.
    fn keys_at_once(&self) -> usize;
    fn put_all(&self, connection: &mut Connection, keys: &[u64]) -> io::Result<()>;
    /// Whether a linearizable read brings the value.
    fn has(&self, connection: &mut Connection, key: u64) -> io::Result<bool>;

    fn put(&self, connection: &mut Connection, key: u64) -> io::Result<()> {
        self.put_all(connection, &[key])
    }
}

struct Dkv {
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

impl Store for Dkv {
    fn name(&self) -> &'static str {
        "dkv"
    }

    fn start(&self) -> io::Result<Process> {
        Process::start(Command::new(&self.program).arg("--config").arg(&self.config), &self.log)
    }

    fn open(&self) -> io::Result<Connection> {
        Connection::open(&DKV.http(0))
    }

    fn connections(&self) -> usize {
        128
    }

    fn keys_at_once(&self) -> usize {
        1
    }

    fn put_all(&self, connection: &mut Connection, keys: &[u64]) -> io::Result<()> {
        keys.iter()
            .try_for_each(|&n| connection.demand("PUT", &format!("/v1/kv/{}", key(n)), &value(n)).map(drop))
    }

    fn has(&self, connection: &mut Connection, n: u64) -> io::Result<bool> {
        let (status, body) = connection.request("GET", &format!("/v1/kv/{}", key(n)), b"")?;
        Ok(status == 200 && body == value(n))
    }
}

struct Etcd {
    program: String,
    dir: PathBuf,
    log: PathBuf,
}

impl Store for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn start(&self) -> io::Result<Process> {
        let (client, peer) = (format!("http://{ETCD}:2379"), format!("http://{ETCD}:2380"));
        let mut command = Command::new(&self.program);
        command.arg("--data-dir").arg(&self.dir).args(["--log-level", "error"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        Process::start(&mut command, Path::new(&self.log))
    }

    fn open(&self) -> io::Result<Connection> {
        Connection::open(&format!("{ETCD}:2379"))
    }

    fn connections(&self) -> usize {
        8
    }

    fn keys_at_once(&self) -> usize {
        TXN_PUTS as usize
    }

    fn put_all(&self, connection: &mut Connection, keys: &[u64]) -> io::Result<()> {
        let put = |n: &u64| {
            let (key, value) = (BASE64.encode(key(*n)), BASE64.encode(value(*n)));
            format!("{{\"requestPut\":{{\"key\":\"{key}\",\"value\":\"{value}\"}}}}")
        };
        let puts: Vec<String> = keys.iter().map(put).collect();
        let body = format!("{{\"success\":[{}]}}", puts.join(","));
        connection.demand("POST", "/v3/kv/txn", body.as_bytes()).map(drop)
    }

    fn has(&self, connection: &mut Connection, n: u64) -> io::Result<bool> {
        let body = format!("{{\"key\":\"{}\"}}", BASE64.encode(key(n)));
        let (status, body) = connection.request("POST", "/v3/kv/range", body.as_bytes())?;
        Ok(status == 200 && String::from_utf8_lossy(&body).contains(&BASE64.encode(value(n))))
    }
}
