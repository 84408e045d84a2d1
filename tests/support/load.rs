//! Writers that count on what they are told: each owns a key, writes 1, 2, 3 ... to it, retries a write whose outcome it
//! does not know under the same idempotency key, and goes on only when it is done.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cluster::{Answer, Cluster, Connection};

/// Writers under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    unknown: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<BTreeMap<String, u64>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `writers` threads that roam over all nodes.
    pub fn start(cluster: &Cluster, writers: usize) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            done: Arc::default(),
            refused: Arc::default(),
            unknown: Arc::default(),
            acknowledged: Arc::default(),
            threads: Vec::new(),
        };
        let addresses: Vec<String> = (0..cluster.size()).map(|n| cluster.http_addr(n)).collect();
        for writer in 0..writers {
            let worker = Worker {
                key: format!("load/{writer}"),
                addresses: addresses.clone(),
                at: writer,
                stop: load.stop.clone(),
                done: load.done.clone(),
                refused: load.refused.clone(),
                unknown: load.unknown.clone(),
                acknowledged: load.acknowledged.clone(),
            };
            load.threads.push(std::thread::spawn(move || worker.run()));
        }
        load
    }

    /// Writes done so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until `more` further writes are done.
    pub fn wait_for(&self, more: u64) {
        let goal = self.done() + more;
        super::cluster::wait_for(&format!("{more} more writes"), || (self.done() >= goal).then_some(()));
    }

    /// Stops the writers and returns how often each key was written, by what they were told. Every write is decided.
    pub fn finish(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no writer fails");
        }
        let (refused, unknown) = (self.refused.load(Ordering::Relaxed), self.unknown.load(Ordering::Relaxed));
        println!(
            "{} writes done, {refused} refused and {unknown} unknown on the way",
            self.done.load(Ordering::Relaxed)
        );
        Arc::try_unwrap(self.acknowledged).expect("the writers are gone").into_inner().expect("not poisoned")
    }
}

struct Worker {
    key: String,
    addresses: Vec<String>,
    at: usize,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    unknown: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Worker {
    fn run(mut self) {
        let mut connection = None;
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            number += 1;
            self.write(&mut connection, number);
            self.acknowledged.lock().expect("not poisoned").insert(self.key.clone(), number);
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes `number` and returns when it is done. After a while without an answer the test has failed elsewhere.
    fn write(&mut self, connection: &mut Option<Connection>, number: u64) {
        let path = format!("/v1/kv/{}", self.key);
        let idempotency_key = format!("{}-{number}", self.key.replace('/', "."));
        for _attempt in 0..3_000 {
            let answer = self.attempt(connection, &path, &idempotency_key, number);
            match answer {
                Some(answer) if answer.status == 200 => {
                    assert_eq!(
                        answer.json()["version"],
                        number,
                        "{}: write {number} was doubled or lost",
                        self.key
                    );
                    return;
                }
                Some(answer) => {
                    assert!(matches!(answer.status, 503 | 504 | 500), "{}: {}", answer.status, answer.text());
                    let counter = if answer.outcome() == "not_done" { &self.refused } else { &self.unknown };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                None => *connection = None,
            }
            // The next node, after a moment: a refused connection answers at once.
            self.at += 1;
            *connection = None;
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{}: write {number} was never decided", self.key);
    }

    fn attempt(
        &self,
        connection: &mut Option<Connection>,
        path: &str,
        idempotency_key: &str,
        number: u64,
    ) -> Option<Answer> {
        let address = &self.addresses[self.at % self.addresses.len()];
        if connection.is_none() {
            *connection = Connection::open(address).ok();
        }
        let headers = [("Idempotency-Key", idempotency_key)];
        connection.as_mut()?.request("PUT", path, &headers, number.to_string().as_bytes()).ok()
    }
}

/// Reads every key through every running node: nothing acknowledged is lost, nothing was done twice.
pub fn check(cluster: &Cluster, acknowledged: &BTreeMap<String, u64>) {
    for n in cluster.running() {
        for (key, number) in acknowledged {
            let answer = super::cluster::wait_for(&format!("{key} through {}", cluster.name(n)), || {
                cluster.get(n, key).ok().filter(|a| a.status == 200)
            });
            assert_eq!(answer.text(), number.to_string(), "{key} through {}", cluster.name(n));
            assert_eq!(answer.header("Dkv-Version"), Some(number.to_string().as_str()), "{key}");
        }
    }
}
