//! What a snapshot costs: `cargo run --release --example snapshot_speed [-- KEYS [VALUE_BYTES]]` writes and loads one of
//! a million keys with 100-byte values, in a directory below the current one, and says how long each page holds the
//! store's lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dkv::raft::{Entry, Payload, Position, Settings};
use dkv::store::disk::{Disk, RealDisk};
use dkv::store::snapshot::{self, SnapshotWriter};
use dkv::store::{Command, Kv, Op};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>());
    let keys = args.next().transpose()?.unwrap_or(1_000_000);
    let value_bytes = args.next().transpose()?.unwrap_or(100) as usize;
    let mut kv = Kv::new(Settings::default());
    let mut rng = fastrand::Rng::with_seed(1);
    let mut order: Vec<u64> = (0..keys).collect();
    rng.shuffle(&mut order);
    let began = Instant::now();
    for (n, index) in order.iter().zip(1..) {
        let op = Op::put(format!("user/{n:012}").into_bytes(), vec![rng.u8(..); value_bytes]);
        let command = Command { op, condition: None, idempotency: None, wall_ms: 0, actor: String::new() };
        kv.apply(&Entry::new(Position::new(index, 1), 0, &Payload::Command(command.encode())));
    }
    println!("{keys} keys of {value_bytes} bytes applied in {:.2?}", began.elapsed());

    let path = std::path::Path::new("target/snapshot-speed");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(path)?);
    let mut pages: Vec<Duration> = Vec::new();
    let (began, cpu) = (Instant::now(), cpu_time());
    let view = kv.pin();
    let pinned = began.elapsed();
    let mut writer = SnapshotWriter::create(Arc::clone(&disk), view)?;
    loop {
        let page = cpu_time();
        let more = writer.fill(&kv);
        pages.push(cpu_time() - page);
        writer.flush()?;
        if !more {
            break;
        }
    }
    drop(kv.unpin());
    let file = writer.finish()?;
    let cpu = cpu_time() - cpu;
    println!(
        "written in {:.2?}, {cpu:.2?} of it on a CPU: {} bytes, {} rows",
        began.elapsed(),
        file.bytes,
        file.rows
    );
    pages.sort();
    let at = |percent: usize| pages[(pages.len() - 1) * percent / 100];
    println!(
        "the lock, in CPU time: {} pages, p50 {:.0?}, p99 {:.0?}, longest {:.0?}; to pin {pinned:.0?}",
        pages.len(),
        at(50),
        at(99),
        at(100)
    );
    let began = Instant::now();
    snapshot::verify(&disk, file.name)?;
    println!("verified in {:.2?}", began.elapsed());
    for _ in 0..3 {
        let (began, cpu) = (Instant::now(), cpu_time());
        let (_, loaded) = snapshot::load(&disk, file.name)?;
        println!("loaded in {:.2?}, {:.2?} of it on a CPU", began.elapsed(), cpu_time() - cpu);
        assert_eq!(loaded.state_hash(), kv.state_hash());
    }
    disk.remove(&file.name.to_string())?;
    Ok(())
}

/// What this thread has used: other work on the machine does not count.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
