//! Clients that write and read a few keys together and note what they were told, until they are stopped. The test fails when
//! an operation fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dkv::check::{Answer, Event, Op};
use dkv::client::{Client, ReadOptions, WriteOptions};

use super::cluster::{Cluster, wait_for};

/// Clients under way.
pub struct Clients {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<Event>>>,
}

impl Clients {
    /// Starts `count` threads, each with a client of its own that knows every node.
    pub fn start(cluster: &Cluster, count: u64) -> Clients {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let endpoints: Vec<String> = (0..cluster.size()).map(|n| cluster.http_addr(n)).collect();
        let start = Instant::now();
        let run = |client: u64| {
            let (stop, done, endpoints) = (stop.clone(), done.clone(), endpoints.clone());
            std::thread::spawn(move || {
                // More patient than any failover: that an operation fails is the failure of the test.
                let library = Client::new(&endpoints, Duration::from_secs(30)).expect("addresses");
                let mut history = Vec::new();
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    history.push(operate(&library, client, number, start));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                history
            })
        };
        let threads = (0..count).map(run).collect();
        Clients { stop, done, threads }
    }

    /// Waits until they have done so many operations more.
    pub fn wait_for(&self, more: u64) {
        let goal = self.done.load(Ordering::Relaxed) + more;
        wait_for("more operations", || (self.done.load(Ordering::Relaxed) >= goal).then_some(()));
    }

    /// Ends them; what all of them were told.
    pub fn finish(self) -> Vec<Event> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|t| t.join().expect("no operation fails")).collect()
    }
}

/// One operation through the client library. It may retry.
fn operate(library: &Client, client: u64, number: u64, start: Instant) -> Event {
    let nanos = || u64::try_from(start.elapsed().as_nanos()).expect("not that long");
    // Every key is used for a while, then the next ones: so the check stays short.
    let key = format!("h/{}/{}", number / 50, (client + number) % 2);
    let call_ns = nanos();
    let (op, answer) = if (client + number / 2).is_multiple_of(2) {
        let value = (client * 1_000_000 + number).to_string();
        let written = library.put(key.as_bytes(), value.as_bytes(), &WriteOptions::default());
        let revision = written.unwrap_or_else(|e| panic!("a write failed: {e}")).reply.revision;
        (Op::Put { key, value, condition: None }, Answer::Written { revision })
    } else {
        let read = library.get(key.as_bytes(), &ReadOptions::default());
        let answer = match read.unwrap_or_else(|e| panic!("a read failed: {e}")) {
            Some(record) => Answer::Value {
                value: String::from_utf8(record.value).expect("digits"),
                mod_revision: record.mod_revision,
            },
            None => Answer::Absent,
        };
        (Op::Get { key }, answer)
    };
    Event { process: client, call_ns, return_ns: nanos(), op, answer, index: None, version: None }
}
