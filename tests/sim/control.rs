//! Proof that the detectors work: runs in which something is wrong on purpose must be flagged, and for the right reason.

use dkv::store::{Applied, Op, Outcome};

use crate::history::{Record, Seen, Told};
use crate::run::verdict;
use crate::swarm::{Kind, Sabotage, Standing, Swarm};

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

fn cut_apart(swarm: &mut Swarm) {
    swarm.standing = Some(Standing::Majority);
    swarm.sabotage = Some(Sabotage::CutAll);
    swarm.voters = swarm.voters.max(2);
    swarm.joiners = 0;
    swarm.kinds.retain(|kind| !matches!(kind, Kind::Change | Kind::Wipe));
}

fn stale(swarm: &mut Swarm) {
    swarm.sabotage = Some(Sabotage::StaleRead);
}

/// Lets one read show a value that another acknowledged write had replaced before the read began. Whether there was one.
pub fn forge(history: &mut [Record]) -> bool {
    let put = |record: &Record| match (&record.write, &record.told) {
        (
            Some(Op::Put { value, .. }),
            Told::Write(Applied { outcome: Outcome::Put { revision, .. }, replayed: false, .. }),
        ) => Some((value.clone(), *revision)),
        _ => None,
    };
    let stale = |read: &Record| {
        let puts = || history.iter().filter(|r| r.key == read.key).filter_map(|r| Some((r, put(r)?)));
        let newer = puts().filter(|(r, _)| r.ret < read.call).max_by_key(|(_, (_, revision))| *revision)?.0;
        // Surely older: two puts that overlap may stand in either order, for all that their clients know.
        let older = puts().filter(|(r, _)| r.ret < newer.call);
        older.map(|(_, put)| put).max_by_key(|(_, revision)| *revision)
    };
    let reads = history.iter().enumerate().filter(|(_, record)| matches!(record.told, Told::Read(_)));
    let Some((at, old)) = reads.rev().find_map(|(at, read)| Some((at, stale(read)?))) else {
        return false;
    };
    let Told::Read(Seen { value, .. }) = &mut history[at].told else { unreachable!("a read") };
    *value = Some(old);
    true
}

/// What each run of these seeds was flagged with.
fn flagged(seeds: std::ops::Range<u64>, change: fn(&mut Swarm)) -> Vec<String> {
    seeds.filter_map(|seed| verdict(seed, change).err()).collect()
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

#[test]
fn a_cluster_that_is_stuck_is_flagged() {
    let flagged = flagged(0..20, cut_apart);
    let stuck = flagged.iter().filter(|text| text.starts_with("P6:")).count();
    assert_eq!(stuck, 20, "{flagged:#?}");
}

#[test]
fn a_stale_read_is_flagged_without_a_look_at_the_log() {
    let flagged = flagged(0..40, stale);
    let stale = flagged.iter().filter(|text| text.starts_with("P2:")).count();
    assert!(stale == flagged.len() && stale >= 30, "{stale} of 40: {flagged:#?}");
}
