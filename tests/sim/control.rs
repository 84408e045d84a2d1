//! Proof that the detectors work: the same runs on disks that say "synced" and do nothing, where power fails, must be
//! flagged. Everything else is as it was.

use crate::run::run_with;
use crate::swarm::{Kind, Swarm};

/// Disks that lie, and power that fails often.
fn untrustworthy(swarm: &mut Swarm) {
    swarm.disks_lie = true;
    swarm.power_loss = 1.0;
    swarm.kinds = vec![Kind::CrashOne, Kind::CrashMany, Kind::CrashAll, Kind::Cut];
    swarm.nemesis_mean_us = 2 * swarm.election_timeout_us;
    swarm.standing = None;
}

/// The same, judged without a look at the disks: by the cluster and its clients alone.
fn untrustworthy_and_unwatched(swarm: &mut Swarm) {
    untrustworthy(swarm);
    swarm.disks_are_watched = false;
    swarm.kinds = vec![Kind::CrashAll];
}

/// The first lines of what each run of these seeds was flagged with.
fn flagged(seeds: std::ops::Range<u64>, change: fn(&mut Swarm)) -> Vec<String> {
    let failures = seeds.filter_map(|seed| run_with(seed, change).err());
    failures.map(|text| text.split("failed: ").nth(1).unwrap_or(&text).to_owned()).collect()
}

#[test]
fn a_disk_that_lies_about_syncs_is_flagged() {
    let flagged = flagged(0..40, untrustworthy);
    assert_eq!(flagged.len(), 40, "every run loses power many times");
    let names_the_promise = |text: &&String| text.starts_with("P1:");
    assert!(flagged.iter().filter(names_the_promise).count() >= 30, "{flagged:#?}");
}

#[test]
fn a_disk_that_lies_about_syncs_is_flagged_by_the_cluster_alone() {
    let flagged = flagged(0..40, untrustworthy_and_unwatched);
    assert!(flagged.len() >= 20, "only {} of 40 runs were flagged: {flagged:#?}", flagged.len());
}
