//! Registers a service for as long as this program lives: a key with a lease that renews itself.
//!
//! `cargo run --example lease -- NODE KEY VALUE`, with a cluster that runs, as `127.0.0.1:8081 service/a 10.0.0.7:80`.
//! Kill it, and the key goes after [`TTL_S`] seconds.

use std::sync::Arc;
use std::time::Duration;

use dkv::client::{Client, ClientError, KeyLease, Lease, WriteOptions};

/// For so long others may believe in a service that is gone.
pub const TTL_S: u64 = 5;

/// Registers the service. It stays registered until the lease is dropped or lost.
pub fn register(node: &str, key: &str, value: &str) -> Result<Lease, ClientError> {
    let client = Arc::new(Client::new(&[node], Duration::from_secs(10))?);
    let lease = Lease::begin(client.clone(), TTL_S)?;
    let attach = KeyLease::Attach(lease.id());
    client.put_leased(key.as_bytes(), value.as_bytes(), attach, &WriteOptions::default())?;
    Ok(lease)
}

fn main() -> Result<(), ClientError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [node, key, value] = &arguments[..] else {
        eprintln!("usage: lease NODE KEY VALUE");
        std::process::exit(2);
    };
    let lease = register(node, key, value)?;
    println!("{key} is registered under the lease {}", lease.id());
    while !lease.wait_lost(Duration::from_secs(3_600)) {}
    println!("the lease is lost: others may see {key} gone");
    Ok(())
}
