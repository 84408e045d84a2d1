//! What watches cost, for dkv and for the JSON gateway of etcd 3.4.
//!
//! `cargo run --release --example watch_load -- dkv|etcd WHAT NODE...`, with a cluster that runs. The watches are at the
//! first node, and the puts are made through the others. WHAT is one of
//!
//! - `own WATCHERS`: the puts of other keys, 2,000 each second, without watchers and with so many of them, each on a key of
//!   its own: how long a put takes, and how much processor time all nodes use;
//! - `delay`: how long after a put is sent its change arrives, 20 each second;
//! - `hot STREAMS`: one key that so many streams watch, put as fast as one client can: changes told each second;
//! - `idle STREAMS WATCHES`: the memory of the first node before and after so many streams with so many watches each (dkv).

use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

#[path = "support/stores.rs"]
#[allow(dead_code)]
mod stores;

use stores::{Http, Store, processor_s};

/// Connections that put.
const WRITERS: u64 = 16;

/// Puts of other keys each second.
const RATE: u64 = 2_000;

/// How long each part is measured.
const TIME: Duration = Duration::from_secs(8);

fn put(store: Store, http: &mut Http, key: &str, value: &str) {
    let answer = match store {
        Store::Dkv => http.ask("PUT", &format!("/v1/kv/{key}"), value),
        Store::Etcd => {
            let body = json!({"key": BASE64.encode(key), "value": BASE64.encode(value)});
            http.ask("POST", "/v3/kv/put", &body.to_string())
        }
    };
    assert!(answer.get("error").is_none(), "{answer}");
}

/// Begins to watch a key, and calls `told` at each event until it says to end.
fn watch(store: Store, addr: &str, key: &str, begun: &AtomicU64, mut told: impl FnMut() -> bool) {
    let mut http = Http::open(addr);
    let request = match store {
        Store::Dkv => {
            format!("GET /v1/watch?key={key} HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
        }
        Store::Etcd => {
            let body = json!({"create_request": {"key": BASE64.encode(key)}}).to_string();
            format!("POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
    };
    http.0.get_mut().write_all(request.as_bytes()).expect("a node reads");
    http.0.get_mut().set_read_timeout(Some(Duration::from_secs(30))).expect("a socket takes it");
    let (first, event) = match store {
        Store::Dkv => ("\"changes\":[]", "\"changes\":[{"),
        Store::Etcd => ("\"created\":true", "\"events\":["),
    };
    let mut line = String::new();
    loop {
        line.clear();
        if http.0.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if line.contains(event) {
            // One event may hold several changes.
            for _ in 0..line.matches("\"type\":\"put\"").count().max(1) {
                if !told() {
                    return;
                }
            }
        } else if line.contains(first) {
            begun.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn at(sorted: &[Duration], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3
}

/// Puts other keys at an even rate: the sorted times of the puts.
fn put_evenly(store: Store, nodes: &[String]) -> Vec<Duration> {
    let times = Mutex::new(Vec::new());
    let (began, gap) = (Instant::now(), Duration::from_secs_f64(WRITERS as f64 / RATE as f64));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let times = &times;
            scope.spawn(move || {
                let mut http = Http::open(&nodes[writer as usize % nodes.len()]);
                let mut own = Vec::new();
                let mut due = began + gap.mul_f64(writer as f64 / WRITERS as f64);
                while due < began + TIME {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let sent = Instant::now();
                    put(store, &mut http, &format!("other{writer}"), "0123456789abcdef0123456789abcdef");
                    own.push(sent.elapsed());
                    due += gap;
                }
                times.lock().expect("nobody panics").extend(own);
            });
        }
    });
    let mut times = times.into_inner().expect("nobody panics");
    times.sort_unstable();
    times
}

fn own(store: Store, watchers: u64, nodes: &[String]) {
    put_evenly(store, &nodes[1..]);
    let measure = |what: &str| {
        let before = processor_s(store.process());
        let times = put_evenly(store, &nodes[1..]);
        let used = (processor_s(store.process()) - before) / TIME.as_secs_f64();
        println!(
            "{}: {what}: {} puts/s, p50 {:.2} ms, p99 {:.2} ms, {used:.3} processors",
            store.process(),
            times.len() as u64 / TIME.as_secs(),
            at(&times, 0.5),
            at(&times, 0.99)
        );
    };
    measure("no watchers");
    let begun = Arc::new(AtomicU64::new(0));
    for n in 0..watchers {
        let (addr, begun) = (nodes[0].clone(), begun.clone());
        std::thread::spawn(move || watch(store, &addr, &format!("own{n}"), &begun, || true));
    }
    wait_until("all watch", || begun.load(Ordering::SeqCst) >= watchers);
    measure(&format!("{watchers} watchers"));
}

fn delay(store: Store, nodes: &[String]) {
    let (begun, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::<Instant>::new())));
    let (addr, starts, sends) = (nodes[0].clone(), begun.clone(), sent.clone());
    let reader = std::thread::spawn(move || {
        let mut delays = Vec::new();
        watch(store, &addr, "delay", &starts, || {
            delays.push(sends.lock().expect("nobody panics")[delays.len()].elapsed());
            delays.len() < 200
        });
        delays
    });
    wait_until("it watches", || begun.load(Ordering::SeqCst) > 0);
    let mut http = Http::open(&nodes[1]);
    for n in 0..200 {
        sent.lock().expect("nobody panics").push(Instant::now());
        put(store, &mut http, "delay", &n.to_string());
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut delays = reader.join().expect("it reads");
    delays.sort_unstable();
    let (p50, p99) = (at(&delays, 0.5), at(&delays, 0.99));
    println!("{}: a change arrives after {p50:.2} ms, p99 {p99:.2} ms", store.process());
}

fn hot(store: Store, streams: u64, nodes: &[String]) {
    let (begun, told, over) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    for _ in 0..streams {
        let (addr, begun, told, over) = (nodes[0].clone(), begun.clone(), told.clone(), over.clone());
        std::thread::spawn(move || {
            watch(store, &addr, "hot", &begun, || {
                told.fetch_add(1, Ordering::Relaxed);
                !over.load(Ordering::Relaxed)
            });
        });
    }
    wait_until("all watch", || begun.load(Ordering::SeqCst) >= streams);
    let (began, before) = (Instant::now(), processor_s(store.process()));
    let mut http = Http::open(&nodes[1]);
    let mut puts = 0;
    while began.elapsed() < TIME {
        put(store, &mut http, "hot", "0123456789abcdef");
        puts += 1;
    }
    let told = told.load(Ordering::Relaxed);
    over.store(true, Ordering::Relaxed);
    println!(
        "{}: {streams} streams on one key: {} puts/s, {} changes told/s, {:.3} processors",
        store.process(),
        puts / TIME.as_secs(),
        told / TIME.as_secs(),
        (processor_s(store.process()) - before) / TIME.as_secs_f64()
    );
}

/// Memory of the largest process of that name, in MB.
fn memory_mb(name: &str, addr: &str) -> f64 {
    let text = Http::open(addr).text("/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    line.and_then(|bytes| bytes.trim().parse::<f64>().ok()).unwrap_or_else(|| panic!("{name} says it")) / 1e6
}

fn idle(streams: u64, watches: u64, nodes: &[String]) {
    let before = memory_mb("dkv-server", &nodes[0]);
    let mut open = Vec::new();
    for stream in 0..streams {
        let list: Vec<_> =
            (0..watches).map(|n| json!({"id": n.to_string(), "key": format!("{stream}/{n}")})).collect();
        let body = json!({ "watches": list }).to_string();
        let mut http = Http::open(&nodes[0]);
        let head = format!(
            "POST /v1/watch HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        http.0.get_mut().write_all(head.as_bytes()).expect("a node reads");
        while !http.line().contains("\"changes\":[]") {}
        open.push(http);
    }
    std::thread::sleep(Duration::from_secs(3));
    let after = memory_mb("dkv-server", &nodes[0]);
    println!(
        "dkv-server: {} watches on {streams} streams: {before:.1} MB, then {after:.1} MB",
        streams * watches
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text} is no number"));
    let store = match words.first() {
        Some(&"dkv") => Store::Dkv,
        Some(&"etcd") => Store::Etcd,
        _ => {
            eprintln!("usage: watch_load dkv|etcd own N|delay|hot N|idle N N NODE NODE...");
            std::process::exit(2);
        }
    };
    match &words[1..] {
        ["own", watchers, ..] => own(store, number(watchers), &arguments[3..]),
        ["delay", ..] => delay(store, &arguments[2..]),
        ["hot", streams, ..] => hot(store, number(streams), &arguments[3..]),
        ["idle", streams, watches, ..] => idle(number(streams), number(watches), &arguments[4..]),
        _ => eprintln!("own, delay, hot or idle"),
    }
}
