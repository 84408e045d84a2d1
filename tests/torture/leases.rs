//! A holder of leases, beside the clients of a round: whatever happens to the cluster, a lease lives as long as its last
//! renewal that was answered promises (P10). It watches as `dkv-cli verify` does.

#[path = "../../src/bin/dkv-cli/verify_leases.rs"]
mod verify_leases;

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use dkv::client::Client;

use super::clients::Crowd;

/// Members come and go: after so long the holder looks who serves.
const TURN: Duration = Duration::from_secs(4);

/// Longest patience with one request.
const TIMEOUT: Duration = Duration::from_millis(1_500);

/// Holds leases until the round is over.
pub fn hold(crowd: &Crowd<'_>) {
    let mut turn = 0;
    while !crowd.over.load(Relaxed) {
        turn += 1;
        let addresses = crowd.addresses.taken().into_iter().map(|n| crowd.addresses.http(n));
        let nodes: Vec<Client> = addresses.filter_map(|addr| Client::at_node(&addr, TIMEOUT).ok()).collect();
        if nodes.is_empty() {
            std::thread::sleep(TURN / 10);
            continue;
        }
        let prefix = format!("{}turn{turn}/", crowd.prefix);
        for fault in verify_leases::watch(&nodes, &prefix, Instant::now() + TURN) {
            crowd.complain(format!("P10: {fault}"));
        }
    }
}
