//! Where a server's CPU time goes: the time of each of its threads over some seconds, by name. Linux.
//!
//! `cargo run --release --example thread_cpu -- PID SECONDS`

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Clock ticks of a thread, user and system together, by the thread's name without its number.
fn sample(pid: &str) -> std::io::Result<BTreeMap<String, (usize, u64)>> {
    let mut by_name: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the look.
        let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.split_once('(').and_then(|(_, s)| s.rsplit_once(") ")) else {
            continue;
        };
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
        let entry = by_name.entry(name.to_owned()).or_default();
        *entry = (entry.0 + 1, entry.1 + ticks(11) + ticks(12));
    }
    Ok(by_name)
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(pid), Some(seconds)) = (arguments.next(), arguments.next().and_then(|s| s.parse().ok())) else {
        eprintln!("usage: thread_cpu PID SECONDS");
        std::process::exit(2);
    };
    let before = sample(&pid)?;
    std::thread::sleep(Duration::from_secs(seconds));
    let after = sample(&pid)?;
    let mut rows: Vec<_> = after
        .into_iter()
        .map(|(name, (threads, ticks))| {
            let spent = ticks.saturating_sub(before.get(&name).map_or(0, |b| b.1));
            (spent, name, threads)
        })
        .collect();
    rows.sort_by(|a, b| b.cmp(a));
    let total: u64 = rows.iter().map(|r| r.0).sum::<u64>().max(1);
    println!("{:<20} {:>7} {:>9} {:>6}", "threads", "number", "CPU s", "share");
    for (spent, name, threads) in rows.into_iter().filter(|r| r.0 > 0) {
        // 100 ticks a second on every Linux that matters here.
        println!(
            "{name:<20} {threads:>7} {:>9.2} {:>5.1}%",
            spent as f64 / 100.0,
            100.0 * spent as f64 / total as f64
        );
    }
    Ok(())
}
