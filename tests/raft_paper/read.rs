//! Linearizable reads, and what ends with a leadership.

use dkv::raft::*;

use super::harness::*;

/// etcd#3879: a restarted member knows of nothing that is committed until a leader says so, not even in a cluster of one,
/// and answers no read.
#[test]
fn rule_26_nothing_is_committed_after_a_restart_until_a_leader_says_so() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "x");
    cluster.run_for(HEARTBEAT_MS);
    for me in 1..=3 {
        assert_eq!(cluster.raft(me).commit_index(), 3);
        cluster.crash(me);
        cluster.restart(me);
        assert_eq!((cluster.raft(me).commit_index(), cluster.applied(me).len()), (0, 0));
        let answer = cluster.step(me, |raft, now| raft.read_index(now));
        assert_eq!(answer, Err(NotLeader { leader: None }));
    }
    cluster.elect(2);
    cluster.run_for(HEARTBEAT_MS);
    assert_eq!(cluster.applied(1), [(1, 1), (2, 2), (3, 2), (4, 3)].map(|(i, t)| Position::new(i, t)));
}

/// §6.4: a new leader's commit index may be older than what its predecessor acknowledged; its reads wait for its no-op.
#[test]
fn rule_27_reads_wait_for_a_commit_of_the_own_term() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "x");
    cluster.run_until_quiet();
    assert_eq!((cluster.raft(1).commit_index(), cluster.raft(2).commit_index()), (3, 2));
    cluster.crash(1);
    // 2 wins with 3's vote, and hears nothing more for the time being.
    cluster.elect_with(2, &[3], &[]);
    assert_eq!(cluster.raft(2).commit_index(), 2, "older than what 1 acknowledged");
    let token = cluster.read(2);
    let flight = cluster.send(2, 3);
    let held = cluster.arrive(flight);
    let mut answer = cluster.answer(held);
    // A quorum confirms the leadership, but the no-op is not on it yet.
    answer.reply = RpcReply::AppendEntries(AppendEntriesReply {
        protocol: 1,
        term: 3,
        outcome: AppendOutcome::Accepted { received: 4, match_index: 3 },
    });
    cluster.deliver(answer);
    assert!(cluster.take_reads(2).is_empty(), "nothing of the own term is committed");
    cluster.call(2, 3);
    assert_eq!(cluster.take_reads(2), [ReadDone { token, result: Ok(4) }]);
    assert!(cluster.applied(2).contains(&Position::new(3, 2)), "so it sees what 1 acknowledged");
}

/// §6.4: an answer to an append sent before the read arrived says nothing about whether this member still leads now.
#[test]
fn rule_27_an_ack_of_an_append_sent_before_the_read_does_not_confirm_it() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.crash(3);
    cluster.wait(HEARTBEAT_MS);
    let before = cluster.send(1, 2);
    let token = cluster.read(1);
    let held = cluster.arrive(before);
    let answer = cluster.answer(held);
    cluster.deliver(answer);
    assert!(cluster.take_reads(1).is_empty(), "the append left before the read arrived");
    cluster.call(1, 2);
    assert_eq!(cluster.take_reads(1), [ReadDone { token, result: Ok(2) }]);
}

/// §6.4: the whole story. 1 is cut off, 2 leads and commits a write; the answer that 1 still gets is from before.
#[test]
fn rule_27_a_deposed_leader_never_answers_a_read() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.wait(HEARTBEAT_MS);
    let before = cluster.send(1, 3);
    let held = cluster.arrive(before);
    let stale = cluster.answer(held);
    cluster.isolate(1);
    cluster.elect(2);
    cluster.propose(2, "new");
    cluster.run_until_quiet();
    assert_eq!(cluster.raft(2).commit_index(), 4);
    assert!(cluster.raft(1).is_leader(), "its timer did not fire yet: it believes that it leads");
    let token = cluster.read(1);
    cluster.deliver(stale);
    cluster.run_until_quiet();
    assert!(cluster.take_reads(1).is_empty(), "it would not see the write");
    cluster.timeout(1);
    assert_eq!(cluster.take_reads(1), [ReadDone { token, result: Err(NotLeader { leader: None }) }]);
}

/// §6.4: the read sees at least what was committed when it arrived; a commit that comes later does not move it.
#[test]
fn rule_27_the_read_index_is_the_commit_index_at_arrival() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "3");
    let token = cluster.read(1);
    cluster.run_until_quiet();
    assert_eq!(cluster.raft(1).commit_index(), 3);
    assert_eq!(cluster.take_reads(1), [ReadDone { token, result: Ok(2) }]);
}

/// §6.4: what counts is what is committed, also where the state machine is behind: its own state may lack writes that were
/// acknowledged by an earlier leader.
#[test]
fn rule_27_a_slow_applier_does_not_lower_the_read_index() {
    let mut raft = member(1, 1, 1, None, &[1]);
    let now = raft.poll_timeout();
    raft.handle_timeout(now);
    sync(&mut raft, now);
    raft.propose(&Payload::Command(b"x".to_vec()), now).unwrap();
    sync(&mut raft, now);
    assert_eq!((raft.commit_index(), raft.last_applied()), (3, 0));
    let token = raft.read_index(now).unwrap();
    assert_eq!(raft.poll_reads(), [ReadDone { token, result: Ok(3) }]);
}

/// §6.4: one peer of four is no quorum, and a refused append is as good a sign of life as an accepted one.
#[test]
fn rule_27_a_quorum_confirms_and_any_answer_of_the_term_counts() {
    let mut cluster = Cluster::new(5);
    cluster.elect(1);
    let token = cluster.read(1);
    cluster.call(1, 2);
    assert!(cluster.take_reads(1).is_empty(), "two of five");
    let flight = cluster.send(1, 3);
    let held = cluster.arrive(flight);
    let mut answer = cluster.answer(held);
    let outcome = AppendOutcome::Conflict { conflict_index: 1, conflict_term: None };
    answer.reply = RpcReply::AppendEntries(AppendEntriesReply { term: 2, outcome, protocol: 1 });
    cluster.deliver(answer);
    assert_eq!(cluster.take_reads(1), [ReadDone { token, result: Ok(2) }]);
}

/// §6.4: reads that arrive before the next append leaves share its round; the next one needs another.
#[test]
fn rule_27_reads_share_a_round_until_it_leaves() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.crash(3);
    let (first, second) = (cluster.read(1), cluster.read(1));
    let flight = cluster.send(1, 2);
    let third = cluster.read(1);
    let held = cluster.arrive(flight);
    let answer = cluster.answer(held);
    cluster.deliver(answer);
    let done: Vec<ReadToken> = cluster.take_reads(1).iter().map(|r| r.token).collect();
    assert_eq!(done, [first, second]);
    cluster.call(1, 2);
    assert_eq!(cluster.take_reads(1), [ReadDone { token: third, result: Ok(2) }]);
    assert!(cluster.try_send(1, 2).is_none(), "no read waits, no heartbeat is due");
}

/// etcd#20418, raft#397: tokens are the leader's own, of its term, and never the same twice.
#[test]
fn rule_28_read_tokens_are_never_reused() {
    let mut cluster = Cluster::new(1);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        cluster.elect(1);
        for _ in 0..3 {
            assert!(seen.insert(cluster.read(1)), "a token came twice");
        }
        assert_eq!(cluster.take_reads(1).len(), 3);
        cluster.crash(1);
        cluster.restart(1);
    }
}

/// §6.2: the end of a leadership fails its reads at once, for sure, and says so to whoever waits for a proposal.
#[test]
fn rule_29_a_step_down_fails_reads_at_once_and_ends_the_leadership() {
    type End = fn(&mut Cluster);
    let ends: [(&str, End); 3] = [
        ("no quorum", |c| {
            c.wait(T_MS);
            c.timeout(1);
        }),
        ("a higher term", |c| {
            c.step(1, |raft, now| {
                drop(raft.handle_append_entries(append_request(9, 2, Position::ZERO, vec![], 0), now))
            });
        }),
        ("a stalled disk", |c| {
            c.wait(STALL_MS);
            c.timeout(1);
        }),
    ];
    for (what, end) in ends {
        let mut cluster = Cluster::new(3);
        cluster.elect(1);
        cluster.isolate(1);
        cluster.hold_disk(1);
        cluster.propose(1, "x");
        let token = cluster.read(1);
        let before = cluster.raft(1).watermarks();
        end(&mut cluster);
        assert_eq!(
            cluster.take_reads(1),
            [ReadDone { token, result: Err(NotLeader { leader: None }) }],
            "{what}"
        );
        assert!(before.ends_leadership(&cluster.raft(1).watermarks()), "{what}");
        let refused = cluster.step(1, |raft, now| raft.propose(&Payload::Noop, now));
        assert!(matches!(refused, Err(ProposeError::NotLeader { .. })), "{what}");
        assert!(cluster.step(1, |raft, now| raft.read_index(now)).is_err(), "{what}");
    }
}

/// §6.3, redisraft#26: what is committed at a proposal's index may be another leader's entry; only the term tells. A
/// proposal is answered with index and term, and the entry that is applied carries both.
#[test]
fn rule_30_the_entry_at_a_proposals_index_may_have_another_term() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(1);
    let mine = cluster.propose(1, "mine");
    cluster.elect(2);
    cluster.heal();
    cluster.run_for(2 * HEARTBEAT_MS);
    assert_eq!(mine, Position::new(3, 2));
    let applied = cluster.applied(1);
    assert_eq!(applied.last(), Some(&Position::new(3, 3)), "the same index, another leader's entry");
}
