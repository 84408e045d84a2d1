//! What leases cost: thousands of them, each renewed every three seconds, by many connections spread over all nodes.
//!
//! `cargo run --release --example lease_load -- dkv|etcd LEASES SECONDS NODE...`, with a cluster that runs. It speaks
//! dkv's HTTP API, or the JSON gateway of etcd 3.4. It prints the renewals per second, how long they took, the entries
//! of the log per second (dkv: `applied` of the first node; etcd: its raft index), and how much processor time all
//! processes named `dkv-server` or `etcd` of this machine used.
//!
//! `cargo run --release --example lease_load -- keys` measures what the end of one lease holds up: the time in which one
//! entry removes the keys of a lease, for 1,000, 10,000 and 100,000 of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dkv::raft::{Entry, Payload, Position, Settings};
use dkv::store::{Command, Kv, Op};
use dkv::vocabulary::{LeaseId, PutLease};

#[path = "support/stores.rs"]
#[allow(dead_code)]
mod stores;

use stores::{Http, Store, processor_s};

/// Time to live of each lease, and how often it is renewed.
const TTL_S: u64 = 10;
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// Connections; a renewal of dkv waits a tenth of a second for others, so one connection makes at most ten each second.
const CONNECTIONS: usize = 500;

fn grant(store: Store, http: &mut Http, id: u64) {
    let answer = match store {
        Store::Dkv => http.ask("POST", "/v1/leases", &format!("{{\"ttl_s\":{TTL_S},\"id\":\"{id:x}\"}}")),
        Store::Etcd => http.ask("POST", "/v3/lease/grant", &format!("{{\"TTL\":{TTL_S},\"ID\":{id}}}")),
    };
    assert!(answer.get("error").is_none(), "{answer}");
}

fn renew(store: Store, http: &mut Http, id: u64) {
    let lives = match store {
        Store::Dkv => http.ask("POST", &format!("/v1/leases/{id:x}/renew"), "")["ttl_s"] == TTL_S,
        Store::Etcd => {
            let answer = http.ask("POST", "/v3/lease/keepalive", &format!("{{\"ID\":{id}}}"));
            answer["result"]["TTL"].as_str() == Some(&TTL_S.to_string())
        }
    };
    assert!(lives, "the lease {id:x} is lost");
}

/// The index of the last entry, as the first node knows it.
fn entries(store: Store, addr: &str) -> u64 {
    let mut http = Http::open(addr);
    match store {
        Store::Dkv => http.ask("GET", "/v1/status", "")["applied"].as_u64().expect("a number"),
        Store::Etcd => {
            let status = http.ask("POST", "/v3/maintenance/status", "{}");
            status["raftIndex"].as_str().and_then(|text| text.parse().ok()).expect("a number")
        }
    }
}

fn load(store: Store, leases: u64, seconds: u64, nodes: &[String]) {
    let ids: Vec<u64> = (1..=leases).collect();
    let chunks: Vec<&[u64]> = ids.chunks(ids.len().div_ceil(CONNECTIONS)).collect();
    let (done, times) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let (name, began) = (store.process(), Arc::new(Mutex::new(None)));
    let barrier = std::sync::Barrier::new(chunks.len() + 1);
    let connections = chunks.len() as u32;
    std::thread::scope(|scope| {
        for (n, chunk) in chunks.iter().enumerate() {
            let (done, times, barrier, began) = (&done, &times, &barrier, began.clone());
            scope.spawn(move || {
                let mut http = Http::open(&nodes[n % nodes.len()]);
                chunk.iter().for_each(|id| grant(store, &mut http, *id));
                barrier.wait();
                barrier.wait();
                let start: Instant = began.lock().unwrap().expect("it has begun");
                // Holders know nothing of each other: their renewals are spread evenly over the time.
                let step = RENEW_EVERY / chunk.len() as u32;
                let phase = step * n as u32 / connections;
                let mut mine = Vec::new();
                for round in 0.. {
                    for (at, id) in chunk.iter().enumerate() {
                        let due = start + RENEW_EVERY * round + step * at as u32 + phase;
                        if due >= start + Duration::from_secs(seconds) {
                            times.lock().unwrap().extend(mine);
                            return;
                        }
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        let sent = Instant::now();
                        renew(store, &mut http, *id);
                        mine.push(sent.elapsed());
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        barrier.wait();
        let (before, index) = (processor_s(name), entries(store, &nodes[0]));
        let start = Instant::now();
        *began.lock().unwrap() = Some(start);
        barrier.wait();
        std::thread::sleep(Duration::from_secs(seconds));
        let took = start.elapsed().as_secs_f64();
        let (processor, last) = (processor_s(name) - before, entries(store, &nodes[0]));
        println!(
            "{name}: {leases} leases, {:.0} renewals/s, {:.1} entries/s, {:.3} processors",
            done.load(Ordering::Relaxed) as f64 / took,
            (last - index) as f64 / took,
            processor / took
        );
    });
    let mut times = times.into_inner().unwrap();
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!("{name}: a renewal takes {:.1} ms, p99 {:.1} ms", at(0.5), at(0.99));
}

/// How long one entry takes that ends a lease with so many keys.
fn end_of(keys: u64) -> Duration {
    let mut kv = Kv::new(Settings::default());
    let mut index = 0;
    let mut apply = |kv: &mut Kv, op: Op| {
        index += 1;
        let command = Command { op, condition: None, idempotency: None, wall_ms: 0, actor: String::new() };
        let entry = Entry::new(Position::new(index, 1), 0, &Payload::Command(command.encode()));
        let began = Instant::now();
        kv.apply(&entry);
        began.elapsed()
    };
    let lease = LeaseId::MIN;
    apply(&mut kv, Op::LeaseGrant { lease, ttl_s: TTL_S, is_chosen: true });
    for n in 0..keys {
        let (key, value) = (format!("{n:016}").into_bytes(), vec![b'v'; 64]);
        apply(&mut kv, Op::Put { key, value, lease: PutLease::Attach(lease) });
    }
    apply(&mut kv, Op::LeaseRevoke { lease })
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["keys"] => {
            for keys in [1_000, 10_000, 100_000] {
                let mut rounds: Vec<Duration> = (0..5).map(|_| end_of(keys)).collect();
                rounds.sort_unstable();
                println!("the end of a lease with {keys} keys takes {:.1} ms", rounds[2].as_secs_f64() * 1e3);
            }
        }
        [store @ ("dkv" | "etcd"), leases, seconds, _, ..] => {
            let store = if *store == "dkv" { Store::Dkv } else { Store::Etcd };
            let numbers = (leases.parse().expect("a number"), seconds.parse().expect("a number"));
            load(store, numbers.0, numbers.1, &arguments[3..]);
        }
        _ => {
            eprintln!("usage: lease_load dkv|etcd LEASES SECONDS NODE...\n       lease_load keys");
            std::process::exit(2);
        }
    }
}
