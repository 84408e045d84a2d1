//! Snapshots of running nodes: taken, loaded, sent.

use std::time::Duration;

use dkv::raft::{MemberId, Settings};
use dkv::store::snapshot;

use crate::cluster::*;

/// Three nodes that save their state every 50 entries.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new(3, Settings::default(), Duration::from_millis(700));
    cluster.snapshot_log_entries = 50;
    cluster.started().with_leader()
}

fn fill(cluster: &Cluster, from: u64, to: u64) {
    let node = cluster.node(cluster.leader());
    for i in from..to {
        write(&node, put(&format!("k{}", i % 20), &format!("v{i}"))).unwrap();
    }
}

fn saved(cluster: &Cluster, id: MemberId) -> u64 {
    let snapshots = snapshot::list(&cluster.disk(id)).unwrap();
    snapshots.first().map_or(0, |name| name.position().index)
}

#[test]
fn the_state_is_saved_when_the_log_has_grown_and_two_snapshots_are_kept() {
    let cluster = cluster();
    fill(&cluster, 0, 400);
    for id in ids(3) {
        wait_for("a snapshot of each node", || (saved(&cluster, id) > 250).then_some(()));
        wait_for("two are kept", || (snapshot::list(&cluster.disk(id)).unwrap().len() == 2).then_some(()));
    }
    cluster.wait_until_equal();
}

#[test]
fn a_restart_loads_the_snapshot_and_the_log_after_it() {
    let cluster = cluster();
    fill(&cluster, 0, 333);
    ids(3).for_each(|id| wait_for("a snapshot", || (saved(&cluster, id) > 200).then_some(())));
    cluster.wait_until_equal();
    let before = cluster.nodes()[0].status();
    ids(3).for_each(|id| cluster.stop_node(id));
    ids(3).for_each(|id| cluster.start_node(id));
    cluster.leader();
    for i in 313..333 {
        assert_eq!(read(&cluster.node(MemberId(2)), &format!("k{}", i % 20)), Some(format!("v{i}")));
    }
    cluster.wait_until_equal();
    assert_eq!(cluster.nodes()[0].status().revision, before.revision);
}

#[test]
fn a_follower_that_is_far_behind_is_brought_up_by_a_snapshot_while_writes_go_on() {
    let cluster = cluster();
    let behind = cluster.follower();
    fill(&cluster, 0, 10);
    cluster.isolate(behind, Fault::Refused);
    fill(&cluster, 10, 400);
    let leader = cluster.leader_among(&cluster.all_ids().into_iter().filter(|&id| id != behind).collect());
    wait_for("the log is cut", || (saved(&cluster, leader) > 250).then_some(()));
    cluster.heal();
    fill(&cluster, 400, 500);
    cluster.wait_until_equal();
    assert!(saved(&cluster, behind) > 100, "the received snapshot is kept like one of its own");
    // It is a member like any other again.
    cluster.stop_node(behind);
    cluster.start_node(behind);
    cluster.leader();
    cluster.wait_until_equal();
}

/// Nothing but the need itself wakes the thread that sends: no entry is appended, and no other peer has a need.
#[test]
fn a_peer_that_falls_behind_gets_its_snapshot_on_an_otherwise_idle_leader() {
    let cluster = cluster();
    let behind = cluster.follower();
    fill(&cluster, 0, 10);
    cluster.isolate(behind, Fault::Refused);
    fill(&cluster, 10, 400);
    let rest = cluster.all_ids().into_iter().filter(|&id| id != behind).collect();
    let leader = cluster.leader_among(&rest);
    wait_for("the log is cut", || (saved(&cluster, leader) > 250).then_some(()));
    let last = cluster.node(leader).status().last_index;
    cluster.heal();
    cluster.wait_until_equal();
    assert!(saved(&cluster, behind) > 100, "it got a snapshot, not entries");
    assert_eq!(cluster.node(leader).status().last_index, last, "the leader was idle");
}

#[test]
fn a_node_that_loses_its_newest_snapshot_starts_from_the_one_before() {
    let cluster = cluster();
    fill(&cluster, 0, 300);
    let victim = cluster.follower();
    wait_for("two snapshots", || (snapshot::list(&cluster.disk(victim)).unwrap().len() == 2).then_some(()));
    cluster.stop_node(victim);
    let newest = snapshot::list(&cluster.disk(victim)).unwrap()[0];
    let path = cluster.log_dir(victim).join(newest.to_string());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let warnings = cluster.start_node_with_warnings(victim);
    assert!(warnings.iter().any(|w| w.contains(&newest.to_string())), "{warnings:?}");
    cluster.wait_until_equal();
}

/// It was looked at again and again, and the peer waited until the next snapshot was due.
#[test]
fn a_snapshot_that_is_damaged_on_the_leader_is_written_again_for_the_peer_that_needs_it() {
    let cluster = cluster();
    let behind = cluster.follower();
    fill(&cluster, 0, 10);
    cluster.isolate(behind, Fault::Refused);
    fill(&cluster, 10, 400);
    let leader = cluster.leader_among(&cluster.all_ids().into_iter().filter(|&id| id != behind).collect());
    wait_for("the log is cut", || (saved(&cluster, leader) > 350).then_some(()));
    let newest = snapshot::list(&cluster.disk(leader)).unwrap()[0];
    let path = cluster.log_dir(leader).join(newest.to_string());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    cluster.heal();
    cluster.wait_until_equal();
    let newest = snapshot::list(&cluster.disk(leader)).unwrap()[0];
    snapshot::verify(&cluster.disk(leader), newest).unwrap();
}

#[test]
fn a_backup_holds_everything_acknowledged_before_it_was_asked_for() {
    let cluster = cluster();
    for id in ids(3) {
        fill(&cluster, 0, 7);
        let revision = cluster.node(cluster.leader()).status().revision;
        let last = backup(&cluster.node(id)).unwrap();
        let (header, kv) = snapshot::load(&cluster.disk(id), snapshot::SnapshotName::new(last)).unwrap();
        assert!(header.revision >= revision, "{} of {revision}", header.revision);
        assert_eq!(kv.get(b"k6", None).unwrap().unwrap().value, b"v6");
        assert_eq!(backup(&cluster.node(id)).unwrap(), last, "nothing has changed: the same will do");
    }
}
