//! Check-quorum, pre-vote and stickiness together, in the shapes of network that stopped clusters in the field.

use super::harness::*;

/// §6.2, openraft#2080: a leader that can send but not hear steps down and falls silent, so that the others can elect.
#[test]
fn rule_32_a_leader_that_hears_nobody_steps_down_and_stops_its_heartbeats() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.cut_one_way(2, 1);
    cluster.cut_one_way(3, 1);
    cluster.run_for(T_MS - 1);
    assert!(cluster.raft(1).is_leader(), "not before a whole election timeout");
    cluster.run_for(HEARTBEAT_MS);
    assert_eq!(cluster.state(1), "follower@2 log 1 2 commit 2");
    assert!(cluster.try_send(1, 2).is_none() && cluster.try_send(1, 3).is_none(), "no heartbeat any more");
    cluster.run_until("2 or 3 leads", |c| c.leader().is_some_and(|leader| leader != 1));
    let leader = cluster.leader().unwrap();
    cluster.run_for(5_000);
    assert_eq!(cluster.leader(), Some(leader), "1, deaf, does not disturb it");
}

/// §6.2: whoever has just been elected has a whole election timeout to be answered, although nobody has answered it yet.
#[test]
fn rule_32_a_fresh_leader_does_not_step_down_at_once() {
    let mut cluster = Cluster::new(3);
    cluster.wait(2 * T_MS + 1);
    cluster.elect_with(1, &[2], &[]);
    assert_eq!(cluster.progress(1, 2).heard_at, None, "no answer yet");
    assert_eq!(cluster.raft(1).poll_timeout(), cluster.now + ms(T_MS));
    cluster.isolate(1);
    cluster.timeout(1);
    assert!(cluster.raft(1).is_leader(), "it leads on");
    cluster.wait(T_MS - 1);
    cluster.timeout(1);
    assert!(cluster.raft(1).is_leader(), "it leads on");
    cluster.wait(1);
    cluster.timeout(1);
    assert!(!cluster.raft(1).is_leader());
}

/// §6.2: the answer to an RPC counts from when the RPC was sent: a late answer does not prove that the quorum is there now.
#[test]
fn rule_32_contact_counts_from_when_the_rpc_was_sent() {
    let mut cluster = Cluster::new(2);
    cluster.elect(1);
    cluster.wait(HEARTBEAT_MS);
    let sent_at = cluster.now;
    let flight = cluster.send(1, 2);
    let held = cluster.arrive(flight);
    cluster.wait(T_MS - HEARTBEAT_MS - 1);
    let answer = cluster.answer(held);
    cluster.deliver(answer);
    assert_eq!(cluster.raft(1).poll_timeout(), sent_at + ms(T_MS));
    cluster.now = sent_at + ms(T_MS);
    cluster.timeout(1);
    assert!(!cluster.raft(1).is_leader());
}

/// etcd#13527: the own disk does not answer, but the clock goes on: the leader makes room, does not campaign while its disk
/// stands still, and others lead meanwhile.
#[test]
fn rule_32_a_leader_whose_disk_stalls_steps_down_and_does_not_campaign() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.hold_disk(1);
    cluster.propose(1, "x");
    cluster.run_for(STALL_MS - 1);
    assert!(cluster.raft(1).is_leader(), "slow, not stalled: the others' disks commit");
    assert_eq!(cluster.raft(1).commit_index(), 3);
    cluster.run_for(1);
    assert!(!cluster.raft(1).is_leader() && cluster.raft(1).is_disk_stalled());
    cluster.run_until("another leads", |c| c.leader().is_some_and(|leader| leader != 1));
    let leader = cluster.leader().unwrap();
    cluster.isolate(1);
    let term = cluster.raft(1).term();
    cluster.run_for(5_000);
    assert_eq!((cluster.raft(1).term(), cluster.raft(1).role_kind().as_str()), (term, "follower"));
    cluster.release_disk(1);
    assert!(!cluster.raft(1).is_disk_stalled());
    cluster.heal();
    cluster.run_for(T_MS);
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.raft(1).last(), cluster.raft(leader).last());
}

/// A disk that stalls while pre-votes are asked for: the campaign ends there, and no term is burnt on it.
#[test]
fn rule_32_a_pre_candidate_whose_disk_stalls_does_not_campaign() {
    let mut cluster = Cluster::new(3);
    cluster.elect(2);
    cluster.run_for(HEARTBEAT_MS);
    cluster.hold_disk(1);
    cluster.propose(2, "x");
    cluster.run_until_quiet();
    cluster.isolate(1);
    cluster.run_for(STALL_MS - 1);
    assert_eq!(cluster.state(1), "pre-candidate@2 log 1 2 2 commit 2");
    cluster.run_for(1);
    assert!(cluster.raft(1).is_disk_stalled());
    cluster.crash(2);
    cluster.run_for(T_MS / 2);
    cluster.heal();
    cluster.run_until_quiet();
    assert_eq!(cluster.state(1), "follower@2 log 1 2 2 commit 2", "asks nobody for anything");
    cluster.release_disk(1);
    cluster.run_until("a leader", |c| c.leader().is_some());
}

/// §9.6: a member cut off from all comes back with the term it left with, and disturbs nobody.
#[test]
fn rule_33_an_isolated_member_raises_no_term_and_returns_in_peace() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.run_for(HEARTBEAT_MS);
    cluster.isolate(3);
    cluster.run_for(10_000);
    assert_eq!(cluster.state(3), "pre-candidate@2 log 1 2 commit 2");
    cluster.propose(1, "x");
    cluster.heal();
    cluster.run_for(1_000);
    let follower = "follower@2 log 1 2 2 commit 3";
    cluster.expect(&["leader@2 log 1 2 2 commit 3", follower, follower]);
}

/// Cloudflare's outage of November 2020: 1 and 3 cannot see each other, 2 sees both. With stickiness and pre-vote the
/// leader stays, and 3 neither wins nor raises the term.
#[test]
fn rule_34_a_bridging_partition_changes_no_leader_and_no_term() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.run_for(HEARTBEAT_MS);
    cluster.cut(1, 3);
    for round in 0..20 {
        cluster.propose(1, "x");
        cluster.run_for(T_MS);
        assert_eq!((cluster.leader(), cluster.raft(1).term()), (Some(1), 2), "round {round}");
    }
    assert_eq!(cluster.raft(1).commit_index(), 22);
    assert_eq!(cluster.raft(3).term(), 2);
    assert_eq!(cluster.raft(3).commit_index(), 2, "3 hears nothing, but harms nobody");
    cluster.heal();
    cluster.run_for(T_MS);
    assert_eq!((cluster.leader(), cluster.raft(3).commit_index()), (Some(1), 22));
}

/// The same with one-way links: 3 hears nobody, but everybody hears 3.
#[test]
fn rule_34_a_member_that_hears_nobody_cannot_depose_the_leader() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.cut_one_way(1, 3);
    cluster.cut_one_way(2, 3);
    cluster.run_for(10_000);
    assert_eq!((cluster.leader(), cluster.raft(1).term(), cluster.raft(3).term()), (Some(1), 2, 2));
}

/// Quorum loss: all links but those of member 3 are cut, and 3 does not lead. The leader loses its quorum and steps down;
/// only 3 can win, and does, although the others campaign without end.
#[test]
fn rule_32_only_the_hub_sees_a_quorum_and_is_elected() {
    let mut cluster = Cluster::new(5);
    cluster.elect(1);
    cluster.propose(1, "x");
    cluster.run_for(HEARTBEAT_MS);
    for a in [1, 2, 4, 5] {
        for b in [1, 2, 4, 5] {
            if a < b {
                cluster.cut(a, b);
            }
        }
    }
    cluster.run_until("the hub leads", |c| c.leader() == Some(3));
    cluster.propose(3, "y");
    cluster.run_for(5_000);
    assert_eq!(cluster.leader(), Some(3));
    assert_eq!(cluster.raft(3).commit_index(), 5);
}

/// A chain 1 - 2 - 3 with the leader at one end, then in the middle, then at the other: there is a leader within seconds
/// of each change, and it stays.
#[test]
fn rule_34_a_chain_has_one_stable_leader_wherever_it_begins() {
    for first in 1..=3 {
        let mut cluster = Cluster::new(3);
        cluster.elect(first);
        cluster.cut(1, 3);
        cluster.run_for(2_000);
        let (leader, term) = (cluster.leader(), cluster.raft(2).term());
        assert!(leader.is_some());
        cluster.run_for(10_000);
        assert_eq!((cluster.leader(), cluster.raft(2).term()), (leader, term), "first leader {first}");
    }
}

/// etcd#8243: with pre-vote and check-quorum, a member that returns with a higher term while the leader lives must not stay
/// outside for ever, whichever of the two has the longer log.
#[test]
fn rule_36_a_returning_member_with_a_higher_term_is_taken_in() {
    let logs: [&[u64]; 3] = [&[1], &[1, 1], &[1, 1, 1]];
    for log in logs {
        let mut cluster = Cluster::with_logs(&[(1, &[1, 1]), (1, &[1, 1]), (6, log)]);
        cluster.crash(3);
        cluster.elect(1);
        cluster.restart(3);
        cluster.run_until("all three agree", |c| {
            c.leader().is_some_and(|l| {
                (1..=3).all(|me| c.raft(me).last() == c.raft(l).last() && c.raft(me).term() >= 6)
            })
        });
    }
}

/// §4.2.3 and §9.6 together: whatever is cut, once the network is whole there is a leader soon, and it commits.
#[test]
fn rule_36_the_cluster_recovers_from_every_pattern_of_one_way_cuts() {
    let links = [(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)];
    for pattern in 0..64_u32 {
        let mut cluster = Cluster::new(3);
        cluster.elect(1);
        for (bit, (from, to)) in links.into_iter().enumerate() {
            if pattern & (1 << bit) != 0 {
                cluster.cut_one_way(from, to);
            }
        }
        cluster.run_for(1_500);
        cluster.heal();
        let before = (1..=3).map(|me| cluster.raft(me).last().index).max().unwrap();
        cluster.run_for(2_500);
        let leader = cluster.leader().unwrap_or_else(|| panic!("no leader after pattern {pattern:06b}"));
        let last = cluster.propose(leader, "x").index;
        cluster.run_for(2 * HEARTBEAT_MS);
        assert!(
            last > before && (1..=3).all(|me| cluster.raft(me).commit_index() == last),
            "pattern {pattern:06b}"
        );
    }
}
