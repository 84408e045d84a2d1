//! Whole nodes in one process: real threads, real logs on disk, a network of direct calls that can be cut.

#[path = "node/cluster.rs"]
mod cluster;
#[path = "node/members.rs"]
mod members;
#[path = "node/snapshots.rs"]
mod snapshots;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cluster::*;
use crossbeam_channel::{bounded, unbounded};
use dkv::node::{Consistency, FailureKind, Origin, WriteResult};
use dkv::raft::{MemberId, Settings};
use dkv::store::Outcome;

// ---- tests -----------------------------------------------------------------------------------------------------------

#[test]
fn a_single_node_serves() {
    let cluster = Cluster::start(1);
    let node = cluster.node(MemberId(1));
    let applied = write(&node, put("a", "1")).unwrap();
    assert_eq!(applied.outcome, Outcome::Put { revision: 2, create_revision: 2, version: 1 });
    assert_eq!(read(&node, "a").as_deref(), Some("1"));
    assert_eq!(node.ready(), Ok(()));
}

#[test]
fn writes_through_every_node_are_read_through_every_node() {
    for size in [3, 5] {
        let cluster = Cluster::start(size);
        for writer in ids(size) {
            let value = writer.to_string();
            assert!(!write(&cluster.node(writer), put("k", &value)).unwrap().replayed);
            for reader in ids(size) {
                assert_eq!(read(&cluster.node(reader), "k"), Some(value.clone()), "{writer} to {reader}");
            }
        }
        cluster.wait_until_equal();
        assert_eq!(cluster.nodes()[0].status().revision, 1 + size);
    }
}

#[test]
fn a_request_before_the_first_election_waits_for_its_leader() {
    let cluster = Cluster::start_with(3, Settings::default(), Duration::from_millis(200));
    let answers: Vec<_> = cluster.nodes().iter().map(|n| start_write(n, put("k", "v"), PATIENCE)).collect();
    let done = answers.iter().map(answer).filter(Result::is_ok).count();
    assert!(done > 0, "an election takes less than the time a request waits for a leader");
}

#[test]
fn a_restarted_cluster_has_every_acknowledged_write() {
    let cluster = Cluster::start(3);
    for i in 0..50 {
        write(&cluster.node(MemberId(i % 3 + 1)), put(&format!("k{i}"), "v")).unwrap();
    }
    let term = cluster.node(MemberId(1)).status().term;
    ids(3).for_each(|id| cluster.stop_node(id));
    ids(3).for_each(|id| cluster.start_node(id));
    cluster.leader();
    for i in 0..50 {
        assert_eq!(read(&cluster.node(MemberId(2)), &format!("k{i}")).as_deref(), Some("v"));
    }
    assert!(cluster.node(cluster.leader()).status().term > term, "a restart never reuses a term");
    cluster.wait_until_equal();
}

#[test]
fn a_cut_off_leader_answers_unknown_and_the_majority_goes_on() {
    let cluster = Cluster::start(5);
    let old = cluster.leader();
    write(&cluster.node(old), put("k", "before")).unwrap();
    cluster.isolate(old, Fault::Lost);
    // The step-down answers: by the deadline the test would have failed.
    let lost_write = start_write(&cluster.node(old), put("k", "lost"), 10 * PATIENCE);
    let lost_read = start_read(&cluster.node(old), Consistency::Linearizable, 10 * PATIENCE);
    assert_eq!(kind(answer(&lost_write)), FailureKind::OutcomeUnknown);
    assert_eq!(kind(answer(&lost_read)), FailureKind::Unavailable);
    assert!(cluster.node(old).ready().is_err());
    assert_eq!(value_at(&cluster.node(old), "k").as_deref(), Some("before"), "a stale read still answers");

    let rest: BTreeSet<MemberId> = cluster.all_ids().into_iter().filter(|&id| id != old).collect();
    let new = cluster.leader_among(&rest);
    write(&cluster.node(new), put("k", "after")).unwrap();
    assert_eq!(read(&cluster.node(new), "k").as_deref(), Some("after"));
    assert_eq!(kind(write(&cluster.node(old), put("k", "alone"))), FailureKind::Unavailable);

    cluster.heal();
    assert_eq!(read(&cluster.node(old), "k").as_deref(), Some("after"));
    cluster.wait_until_equal();
}

#[test]
fn a_write_without_a_majority_is_unknown_at_its_deadline() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    cluster.isolate(leader, Fault::Lost);
    // Shorter than check-quorum takes to end the leadership.
    let answers: Vec<_> = (0..3)
        .map(|_| start_write(&cluster.node(leader), put("k", "v"), Duration::from_millis(20)))
        .collect();
    for result in answers.iter().map(answer) {
        assert_eq!(kind(result), FailureKind::OutcomeUnknown);
    }
    let read = start_read(&cluster.node(leader), Consistency::Linearizable, Duration::from_millis(20));
    assert!(matches!(kind(answer(&read)), FailureKind::Timeout | FailureKind::Unavailable));
}

#[test]
fn a_request_whose_deadline_has_passed_is_surely_not_done() {
    let cluster = Cluster::start(1);
    let node = cluster.node(cluster.leader());
    let last = node.status().last_index;
    let (sender, late) = bounded(1);
    node.write(put("k", "v"), Instant::now(), Origin::Client, Box::new(move |r| sender.send(r).unwrap()));
    assert_eq!(kind(answer(&late)), FailureKind::Unavailable);
    assert_eq!(node.status().last_index, last);
}

#[test]
fn a_forward_that_is_refused_is_surely_not_done() {
    let cluster = Cluster::start(3);
    let follower = cluster.follower();
    cluster.network.lock().unwrap().bulk_fault = Some(Fault::Refused);
    let failure = write(&cluster.node(follower), put("k", "v")).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert!(failure.message.contains("connection refused"), "{failure}");
    assert!(cluster.network.lock().unwrap().forwards > 1, "it is tried again before it fails");
    assert_eq!(
        kind(answer(&start_read(&cluster.node(follower), Consistency::Linearizable, PATIENCE))),
        FailureKind::Unavailable
    );
    cluster.heal();
    assert_eq!(read(&cluster.node(follower), "k"), None);
}

#[test]
fn a_forward_without_an_answer_is_unknown() {
    let cluster = Cluster::start(3);
    let follower = cluster.follower();
    cluster.network.lock().unwrap().bulk_fault = Some(Fault::Mute);
    let silent = start_write(&cluster.node(follower), put("k", "v"), Duration::from_millis(200));
    assert_eq!(kind(answer(&silent)), FailureKind::OutcomeUnknown);
    cluster.heal();
    wait_for("the write that was said to be unknown", || read(&cluster.node(follower), "k"));
}

#[test]
fn a_forward_under_way_is_unknown_when_the_leader_changes() {
    let cluster = Cluster::start(3);
    let old = cluster.leader();
    let follower = cluster.follower();
    cluster.isolate(old, Fault::Lost);
    let sent = start_write(&cluster.node(follower), put("k", "sent"), PATIENCE);
    let read_sent = start_read(&cluster.node(follower), Consistency::Linearizable, PATIENCE);
    wait_for("the forward on its way", || (cluster.network.lock().unwrap().forwards > 0).then_some(()));
    // Queued after the batch under way: not sent, so it goes to the new leader.
    let queued = start_write(&cluster.node(follower), put("k", "queued"), PATIENCE);
    let started = Instant::now();
    assert_eq!(kind(answer(&sent)), FailureKind::OutcomeUnknown);
    assert!(answer(&queued).is_ok());
    assert!(answer(&read_sent).is_ok());
    assert!(started.elapsed() < PATIENCE / 2, "the change of leader answers, not the deadline");
    assert!(cluster.network.lock().unwrap().cancelled > 0);
    assert_eq!(read(&cluster.node(follower), "k").as_deref(), Some("queued"));
}

#[test]
fn a_forwarded_write_is_never_forwarded_again() {
    let cluster = Cluster::start(3);
    let follower = cluster.follower();
    let (sender, refused) = bounded(1);
    let write = dkv::node::ForwardedWrite {
        command: dkv::raft::Draft::command(&put("k", "v").encode()),
        remaining_ms: 5_000,
    };
    cluster.node(follower).answer_forward(vec![write], Box::new(move |r| sender.send(r).unwrap()));
    let results = answer(&refused);
    assert_eq!(results.len(), 1);
    assert_eq!(kind(results[0].clone()), FailureKind::Unavailable);
    let (sender, refused) = bounded(1);
    let deadline = Instant::now() + PATIENCE;
    cluster.node(follower).answer_read_index(deadline, Box::new(move |r| sender.send(r).unwrap()));
    assert_eq!(kind(answer(&refused)), FailureKind::Unavailable);
}

#[test]
fn a_forwarded_batch_is_answered_item_by_item() {
    let cluster = Cluster::start(1);
    let node = cluster.node(cluster.leader());
    let batch = [put("a", "1").encode(), b"not a command".to_vec(), keyed(put("b", "2"), "key").encode()];
    let batch = batch.map(|command| {
        let command = dkv::raft::Draft::command(&command);
        dkv::node::ForwardedWrite { command, remaining_ms: 30_000 }
    });
    let (sender, answered) = bounded(1);
    node.answer_forward(batch.to_vec(), Box::new(move |r| sender.send(r).unwrap()));
    let results = answer(&answered);
    assert!(results[0].is_ok() && results[1].is_err() && results[2].is_ok(), "{results:?}");
    assert_eq!((value_at(&node, "a").as_deref(), value_at(&node, "b").as_deref()), (Some("1"), Some("2")));
    let (sender, answered) = bounded(1);
    node.answer_forward(Vec::new(), Box::new(move |r| sender.send(r).unwrap()));
    assert_eq!(answer(&answered), Vec::new());
}

#[test]
fn a_repeated_key_through_another_node_takes_effect_once() {
    let cluster = Cluster::start(3);
    cluster.leader();
    let first = write(&cluster.node(MemberId(1)), keyed(put("k", "v"), "once")).unwrap();
    for id in ids(3) {
        let again = write(&cluster.node(id), keyed(put("k", "v"), "once")).unwrap();
        assert!(again.replayed);
        assert_eq!(again.outcome, first.outcome);
    }
    assert_eq!(cluster.node(cluster.leader()).status().revision, 2);
}

#[test]
fn a_full_table_of_keys_refuses_before_the_log_grows() {
    let settings = Settings { idempotency_rows: 2, ..Settings::default() };
    let cluster = Cluster::start_with(3, settings, Duration::from_millis(700)).with_leader();
    let (leader, follower) = (cluster.leader(), cluster.follower());
    for key in ["one", "two"] {
        write(&cluster.node(leader), keyed(put("k", "v"), key)).unwrap();
    }
    let last = cluster.node(leader).status().last_index;
    for id in [leader, follower] {
        assert_eq!(kind(write(&cluster.node(id), keyed(put("k", "v"), "three"))), FailureKind::Overloaded);
    }
    assert_eq!(cluster.node(leader).status().last_index, last);
    assert!(write(&cluster.node(follower), put("k", "v")).is_ok(), "writes without a key still pass");
}

#[test]
fn many_writers_share_syncs() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let before = cluster.node(leader).status().syncs;
    let (sender, answers) = unbounded();
    let count = 3_000;
    // Through all nodes at once; a bounded number under way, as the ports have it.
    let mut under_way = 0;
    for i in 0..count {
        let sender = sender.clone();
        let node = cluster.node(MemberId(i % 3 + 1));
        let done = Box::new(move |result: WriteResult| sender.send(result).unwrap());
        node.write(put(&format!("k{i}"), "v"), Instant::now() + PATIENCE, Origin::Client, done);
        under_way += 1;
        if under_way == 200 {
            answer(&answers).unwrap();
            under_way -= 1;
        }
    }
    for _ in 0..under_way {
        answer(&answers).unwrap();
    }
    let status = cluster.node(leader).status();
    let syncs = status.syncs - before;
    assert!(syncs < count / 4, "{syncs} syncs for {count} writes");
    assert_eq!(status.revision, 1 + count);
    cluster.wait_until_equal();
}

#[test]
fn stop_answers_what_waits() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    cluster.isolate(leader, Fault::Lost);
    let node = cluster.node(leader);
    let proposed = start_write(&node, put("k", "v"), PATIENCE);
    let waiting_read = start_read(&node, Consistency::Linearizable, PATIENCE);
    cluster.stop_node(leader);
    assert_eq!(kind(answer(&proposed)), FailureKind::OutcomeUnknown);
    assert_eq!(kind(answer(&waiting_read)), FailureKind::Unavailable);
    assert_eq!(kind(write(&node, put("k", "late"))), FailureKind::Unavailable);
    assert!(node.ready().is_err());
}

#[test]
fn a_lagging_follower_catches_up_and_is_ready_then() {
    let cluster = Cluster::start(3);
    let follower = cluster.follower();
    cluster.stop_node(follower);
    let leader = cluster.leader();
    for i in 0..200 {
        write(&cluster.node(leader), put(&format!("k{i}"), &"v".repeat(1_000))).unwrap();
    }
    cluster.start_node(follower);
    wait_for("readiness", || cluster.node(follower).ready().ok());
    assert!(cluster.node(follower).status().applied_index >= 200);
    cluster.wait_until_equal();
    let status = cluster.node(leader).status();
    wait_for("no lag", || cluster.node(leader).status().peers.iter().all(|p| p.lag == 0).then_some(()));
    assert_eq!(status.peers.len(), 2);
}
