//! Whole clusters in one thread: the node's own state (core and waiting requests), log writer, log, applier and state
//! machine on a virtual clock, network and
//! disk, one seed per run.
//!
//! | module | holds |
//! |---|---|
//! | `swarm` | what a seed draws before its run: sizes, timings, kinds and rates of faults; its independent streams |
//! | `world` | virtual time, the heap of events |
//! | `net` | lost, doubled, late and replayed RPCs; links cut in each direction |
//! | `shape` | ways to cut a network, and who can still do what |
//! | `disk` | what a crash leaves |
//! | `image` | what it must hold after any crash |
//! | `decay` | disks that fail, fill up and rot; which ones may |
//! | `node` | one member: machine, clock, disk; how its process starts and ends |
//! | `process` | the node's own state, and what its threads have in their hands |
//! | `threads` | what drives it: timer, log writer, applier, replicators, forwarder, read-asker, rung as in production |
//! | `snapshots` | snapshotter, sender and receiver of snapshots, and the applier that replaces its state by one |
//! | `members` | the operator: changes of the membership, leadership transfers; initializations, wiped machines, removed members |
//! | `programs` | which program each member runs, upgrades and ways back; promise P13 |
//! | `peers` | requests of peers, answered when the disk or the log allows |
//! | `client` | clients with unique values and retries |
//! | `leases` | holders of leases, and the leader's part in their lives; promise P10 |
//! | `watchers` | watchers that go on at any member; promise P9 |
//! | `nemesis` | crashes, cuts, pauses, slow disks |
//! | `failover` | words of lost links, true and false |
//! | `oracle` | the invariants of the cluster, after every step |
//! | `history` | what clients were told, against the committed log |
//! | `standing` | promise P6: situations that stand for a long time, and the stuck detector |
//! | `run` | a run from seed to verdict; its bounds on time |
//! | `report` | trace, coverage marks, counters |
//! | `control` | disks that lie, which must be noticed |
//! | `corpus` | seeds that found something |
//!
//! `make sim SEEDS=n` runs many seeds, `make sim SEED=n` shows one run in full. `docs/testing.md` says what is injected and
//! what is checked.

mod client;
mod control;
mod corpus;
mod decay;
mod disk;
mod failover;
mod history;
mod image;
mod leases;
mod members;
mod nemesis;
mod net;
mod node;
#[path = "../support/operations.rs"]
mod operations;
mod oracle;
mod peers;
mod process;
mod programs;
mod report;
mod run;
mod shape;
mod snapshots;
mod standing;
mod swarm;
mod threads;
mod watchers;
#[path = "../support/whole_log.rs"]
mod whole_log;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dkv::raft::{FIRST_PROTOCOL, PROTOCOL};
use report::{Counters, Mark, NEXT_MARKS};

/// Seeds in the standard dose.
const DOSE: u64 = 2_500;

/// Marks that less than one seed in a thousand reaches, so that no dose can be asked for them; the test that makes the
/// situation by hand instead, and its file.
///
/// A follower keeps a suffix when its log goes on after the snapshot while it does not know that the snapshot's last entry
/// is committed. But appends carry the commit index together with the entries. So a leader whose snapshot is committed up
/// to there has mostly told the follower.
const TOO_RARE: [(Mark, &str, &str); 1] = [(
    Mark::SuffixKeptAtInstall,
    "rule_20_a_log_with_the_last_entry_of_the_snapshot_keeps_its_suffix",
    "tests/raft_paper/snapshot.rs",
)];

/// Every so many seeds one is run twice.
const TWICE_EVERY: u64 = 50;

/// Threads that share the seeds; each run has one.
const THREADS: usize = 2;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Runs the seeds; a failure ends it.
fn run_all(seeds: std::ops::Range<u64>) -> (Counters, Vec<String>) {
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new((Counters::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let result = run::run(seed);
                    let twice = seed.is_multiple_of(TWICE_EVERY).then(|| run::run(seed));
                    let mut total = total.lock().expect("nothing panics under the lock");
                    if !total.1.is_empty() {
                        return;
                    }
                    match (result, twice) {
                        (Ok(first), Some(Ok(second))) if first.hash != second.hash => {
                            total.1.push(format!("seed {seed} ran twice with different traces"));
                            return;
                        }
                        (Ok(_), Some(Err(failure))) => {
                            total.1.push(format!("seed {seed} failed only the second time: {failure}"));
                            return;
                        }
                        (Ok(passed), twice) => {
                            total.0.add(&passed.counters);
                            total.0.run_twice += u64::from(twice.is_some());
                        }
                        (Err(failure), _) => {
                            total.1.push(failure);
                            return;
                        }
                    }
                }
            });
        }
    });
    total.into_inner().expect("nothing panics under the lock")
}

#[test]
fn seeds_keep_every_promise() {
    let from = number("FROM").unwrap_or(0);
    let dose = number("SEEDS").unwrap_or(DOSE);
    let began = Instant::now();
    let (counters, failures) = run_all(from..from + dose);
    println!("{}{}", counters.summary(), counters.speed(began.elapsed()));
    assert!(failures.is_empty(), "{}", failures.join("\n----\n"));
    assert_eq!(counters.seeds, dose, "every seed was run");
    assert!(counters.undecided <= 2 + dose / 200, "{} searches are undecided", counters.undecided);
    let (all, fast) = (counters.count(Mark::FailedOver), counters.count(Mark::FailedOverFast));
    assert!(10 * fast >= 9 * all, "only {fast} of {all} failovers were fast");
    if PROTOCOL > FIRST_PROTOCOL && dose >= 100 {
        let missing = NEXT_MARKS.iter().filter(|mark| counters.count(**mark) == 0);
        assert_eq!(missing.collect::<Vec<_>>(), [&Mark::Elected; 0], "never reached");
    }
    if dose >= DOSE {
        let mut missing = counters.missing();
        missing.retain(|mark| TOO_RARE.iter().all(|(rare, ..)| rare != mark));
        assert!(missing.is_empty(), "never reached: {missing:?}");
        assert!(counters.run_twice >= dose / TWICE_EVERY, "only {} twice", counters.run_twice);
        assert!(counters.events >= dose * 8_000, "only {} events", counters.events);
        assert!(counters.crashes >= dose * 3, "only {} crashes", counters.crashes);
        assert!(counters.snapshots >= dose * 8, "only {} snapshots", counters.snapshots);
        assert!(counters.installs >= dose / 5, "only {} installs", counters.installs);
        let changes = counters.count(Mark::ChangeDone);
        assert!(changes >= dose / 8, "only {changes} changes of the membership");
        let transfers = counters.count(Mark::TransferDone);
        assert!(transfers >= dose / 10, "only {transfers} leadership transfers");
        let hopeless = counters.count(Mark::HopelessRefused);
        assert!(hopeless >= dose / 25, "only {hopeless} changes refused for want of members that answer");
        assert!(counters.checked_operations >= dose * 200, "only {} operations", counters.checked_operations);
    }
}

/// P10 in stores where nothing else happens: only time entries tell the next leader that time has passed.
#[test]
fn leases_end_in_time_under_leaders_that_die() {
    for seed in 0..40 {
        let quiet = |swarm: &mut swarm::Swarm| {
            swarm.operations.leases = true;
            (swarm.kinds, swarm.voters, swarm.clients) = (Vec::new(), 3, 1);
        };
        if let Err(failure) = run::verdict(seed, quiet) {
            panic!("seed {seed}: {failure}");
        }
    }
}

/// What is too rare for random runs has a test that makes it by hand.
#[test]
fn too_rare_marks_have_tests_of_their_own() {
    for (mark, test, file) in TOO_RARE {
        let source = std::fs::read_to_string(file).expect("the test's file");
        assert!(source.contains(&format!("fn {test}()")), "{mark:?} has no test {test}");
    }
}

/// Every seed that once found something, and the regression that it left.
#[test]
fn found_seeds_stay_green() {
    for found in corpus::FOUND {
        let source = std::fs::read_to_string(found.file).expect("the regression's file");
        assert!(source.contains(&format!("fn {}()", found.regression)), "no test {}", found.regression);
        if let Err(failure) = run::run(found.seed) {
            panic!("{failure}");
        }
    }
}

/// Shows the run of `SEED` in full; without it, nothing to show.
#[test]
fn replay() {
    if let Some(seed) = number("SEED") {
        run::replay(seed);
    }
}
