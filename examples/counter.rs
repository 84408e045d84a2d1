//! Counts with several threads at once: no addition is lost, and none counts twice.
//!
//! `cargo run --example counter -- NODE KEY`, with a cluster that runs, as `127.0.0.1:8081 visits`.

use std::time::Duration;

use dkv::client::{Client, ClientError, WriteOptions};

/// Threads that count at once.
const THREADS: i64 = 4;

/// Additions of each.
const ADDITIONS: i64 = 25;

/// Counts, and says what came out.
pub fn count(node: &str, key: &str) -> Result<String, ClientError> {
    let client = Client::new(&[node], Duration::from_secs(10))?;
    let add = |amount| client.add(key.as_bytes(), amount, &WriteOptions::default());
    let before = add(0)?.reply.value;
    // Each call has an idempotency key of its own, so the client may repeat it when an answer is lost.
    let count = || (0..ADDITIONS).try_for_each(|_| add(1).map(|_| ()));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(count)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread that counts does not panic"))
    })?;
    let after = add(0)?.reply.value;
    Ok(format!("{key}: {before} + {} = {after}", THREADS * ADDITIONS))
}

fn main() -> Result<(), ClientError> {
    let mut arguments = std::env::args().skip(1);
    let (Some(node), Some(key)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: counter NODE KEY");
        std::process::exit(2);
    };
    println!("{}", count(&node, &key)?);
    Ok(())
}
