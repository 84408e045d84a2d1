//! Somebody who watches, beside the clients of a round: whatever happens to the cluster, a watch that goes on at one node
//! after the other tells every change once (P9). It watches as `dkv-cli verify` does.

#[path = "../../src/bin/dkv-cli/verify_watches.rs"]
mod verify_watches;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use dkv::client::Client;

use super::clients::Crowd;

/// Members come and go: after so long the watcher looks who serves.
const TURN: Duration = Duration::from_secs(6);

/// Longest patience with one request.
const TIMEOUT: Duration = Duration::from_millis(1_500);

/// Watches until the round is over.
pub fn watch(crowd: &Crowd<'_>) {
    let mut turn = 0;
    while !crowd.over.load(Relaxed) {
        turn += 1;
        let addresses = crowd.addresses.taken().into_iter().map(|n| crowd.addresses.http(n));
        let nodes: Vec<Arc<Client>> =
            addresses.filter_map(|addr| Client::at_node(&addr, TIMEOUT).ok()).map(Arc::new).collect();
        if nodes.is_empty() {
            std::thread::sleep(TURN / 10);
            continue;
        }
        let prefix = format!("{}turn{turn}/", crowd.prefix);
        for fault in verify_watches::watch(&nodes, &prefix, Instant::now() + TURN) {
            crowd.complain(format!("P9: {fault}"));
        }
    }
}
