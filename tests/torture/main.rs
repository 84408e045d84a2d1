//! The torture rig: real `dkv-server` processes under concurrent clients, while they are killed, stopped, cut off from
//! each other, slowed down and refused by their disks. `make test` runs two rounds, `make torture MINUTES=60` many.
//!
//! | module | holds |
//! |---|---|
//! | `plan` | what a seed draws for a cluster: its size, its settings, its clients, the faults of its rounds |
//! | `kind` | every kind of fault, what it needs, whether a run must have had it |
//! | `cluster` | the processes, their files, their signals |
//! | `seats` | where each of them stands between joining and being gone |
//! | `operator` | the changes of the membership, and who may end by itself |
//! | `rot` | bits that turn over on a disk |
//! | `proxy` | what stands between each two members: cuts, delays, lost and doubled messages |
//! | `link` | peer links through the proxies, frame by frame: half-open ones, ends that do not come through |
//! | `namespaces` | members in network namespaces: cuts that the kernel makes |
//! | `inject` | system calls that fail, kill or take long, by strace |
//! | `small_disk` | a data directory that can be full, by tmpfs |
//! | `clients` | the clients |
//! | `value` | the bytes they write |
//! | `nemesis` | what is done to processes and disks |
//! | `membership` | what is done to the membership, and to disks that only it can repair |
//! | `network` | what is done between them |
//! | `checks` | what must be true after a round |
//! | `promises` | acknowledged writes that are gone, reads that are stale |
//! | `report` | the counters, and what the run says of itself |
//!
//! Correctness never depends on how fast the machine is: whatever is waited for has a generous deadline, and every
//! answer that did not come counts as unknown.

mod checks;
mod clients;
mod cluster;
mod inject;
mod kind;
mod leases;
mod link;
mod membership;
mod namespaces;
mod nemesis;
mod network;
mod operator;
mod plan;
mod promises;
mod proxy;
mod report;
mod rot;
mod rounds;
mod seats;
mod small_disk;
mod watches;
/// What several suites share; each uses its own part of it.
#[allow(dead_code)]
#[path = "../support"]
mod support {
    pub mod cluster;
    pub mod message;
}
mod value;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rounds::Dose;

/// What `make test` runs.
const STANDARD_DOSE: Dose =
    Dose { rounds: Some(2), round: Duration::from_secs(30), total: None, least_kills: 10, is_long: false };

const USAGE: &str = "torture: [--minutes N] [--seconds-per-round N] [--seed N] [--server PROGRAM]
without --minutes the dose of make test; PROGRAM is another dkv-server than the one just built";

fn main() -> ExitCode {
    let mut dose = STANDARD_DOSE;
    let mut seed = None;
    let mut program = PathBuf::from(env!("CARGO_BIN_EXE_dkv-server"));
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let number =
            |args: &mut std::iter::Skip<std::env::Args>| args.next().and_then(|a| a.parse::<u64>().ok());
        let known = match arg.as_str() {
            "--server" => args.next().map(|path| program = PathBuf::from(path)),
            "--minutes" => number(&mut args).map(|minutes| {
                dose = Dose::of_minutes(minutes);
            }),
            "--seconds-per-round" => {
                number(&mut args).map(|seconds| dose.round = Duration::from_secs(seconds))
            }
            "--seed" => number(&mut args).map(|n| seed = Some(n)),
            // What the test harness of cargo takes is not for this program.
            _ if arg.starts_with('-') => Some(()),
            // A filter: other tests are wanted.
            _ if "torture".contains(arg.as_str()) => Some(()),
            _ => return ExitCode::SUCCESS,
        };
        if known.is_none() {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    let seed = seed.unwrap_or_else(fresh_seed);
    let passed = rounds::run(seed, &dose, &program);
    let (word, passed, failed) = if passed { ("ok", 1, 0) } else { ("FAILED", 0, 1) };
    println!("test result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Small enough to type.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    (now.as_millis() % 1_000_000_000) as u64
}
