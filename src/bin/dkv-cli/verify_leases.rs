//! What `dkv-cli verify` watches beside its clients: that leases live as long as they were promised to, and that their
//! keys go with them.

use std::thread;
use std::time::{Duration, Instant};

use dkv::api::ErrorCode;
use dkv::client::{Client, ClientError, KeyLease, ReadOptions, WriteOptions};

/// Time to live of the leases.
const TTL_S: u64 = 2;

/// Renewals of each.
const RENEWALS: u32 = 3;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(150);

/// Holds one lease after the other until `until`, each request through another one of `nodes`; its keys lie below
/// `prefix`. What was promised and not kept.
pub fn watch(nodes: &[Client], prefix: &str, until: Instant) -> Vec<String> {
    let mut watcher = Watcher { nodes, asked: 0, faults: Vec::new() };
    let mut number = 0;
    while Instant::now() < until && watcher.faults.is_empty() {
        number += 1;
        // A cluster that cannot be reached breaks no promise.
        if watcher.hold(format!("{prefix}lease/{number}").as_bytes(), until).is_err() {
            thread::sleep(PAUSE);
        }
    }
    watcher.faults
}

struct Watcher<'a> {
    nodes: &'a [Client],
    asked: usize,
    faults: Vec<String>,
}

impl Watcher<'_> {
    /// The next node.
    fn node(&mut self) -> &Client {
        self.asked += 1;
        &self.nodes[self.asked % self.nodes.len()]
    }

    /// Begins a lease with a key, renews it, looks at the key, and revokes it.
    fn hold(&mut self, key: &[u8], until: Instant) -> Result<(), ClientError> {
        // By clocks that run at most a tenth too fast.
        let promised = Duration::from_secs(TTL_S) * 10 / 11;
        let options = WriteOptions::default();
        let mut sent = Instant::now();
        let lease = self.node().grant_lease(TTL_S, None, &options)?.reply.lease;
        self.node().put_leased(key, b"held", KeyLease::Attach(lease), &options)?;
        for _ in 0..RENEWALS {
            if Instant::now() >= until {
                break;
            }
            thread::sleep(PAUSE);
            let is_there = self.node().get(key, &ReadOptions::default())?.is_some();
            let after = sent.elapsed();
            if !is_there && after < promised {
                let text =
                    format!("the key of the lease {lease} of {TTL_S} s was gone {} ms", after.as_millis());
                self.faults.push(format!("{text} after the last renewal that was answered was sent"));
                return Ok(());
            }
            let began = Instant::now();
            match self.node().renew_lease(lease) {
                Ok(_) => sent = began,
                Err(ClientError::Refused(detail)) if detail.code == ErrorCode::LeaseNotFound => {
                    let after = sent.elapsed();
                    if after < promised {
                        let text =
                            format!("the lease {lease} of {TTL_S} s was over {} ms", after.as_millis());
                        self.faults.push(format!("{text} after the last renewal that was answered was sent"));
                    }
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.node().revoke_lease(lease, &options)?;
        if self.node().get(key, &ReadOptions::default())?.is_some() {
            self.faults.push(format!("the lease {lease} was revoked, and its key is still there"));
        }
        Ok(())
    }
}
