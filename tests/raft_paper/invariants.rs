//! The invariants, by name. Single members are checked after every step of every script, clusters by the harness; here is
//! one script for each that would break it first, and the proof that the checker sees a violation.

use dkv::raft::*;

use super::harness::*;

/// I1: a term never decreases, over every kind of message of an older term and over a restart.
#[test]
fn invariant_01_the_term_never_decreases() {
    let mut cluster = Cluster::with_logs(&[(6, &[1, 5]), (6, &[1, 5]), (6, &[1, 5])]);
    for term in [0, 1, 5, 6] {
        for pre_vote in [false, true] {
            let request = RequestVoteRequest { pre_vote, ..vote_request(term, 2, Position::ZERO) };
            cluster.step(1, |raft, now| drop(raft.handle_request_vote(request, now)));
        }
        if term < 6 {
            let request = append_request(term, 2, Position::ZERO, vec![], 0);
            cluster.step(1, |raft, now| drop(raft.handle_append_entries(request, now)));
        }
        assert_eq!(cluster.raft(1).term(), 6);
    }
    cluster.hold_disk(1);
    cluster.campaign(1);
    assert_eq!(cluster.raft(1).term(), 7);
    cluster.crash(1);
    cluster.restart(1);
    assert_eq!(cluster.raft(1).term(), 6, "term 7 was never durable, and nobody was told of it");
    assert!(!cluster.has_traced(&["term: 7, candidate: 1,", "pre_vote: false"]));
}

/// I2: one vote per term, whoever asks in whatever order, over restarts.
#[test]
fn invariant_02_one_vote_per_term() {
    let mut cluster = Cluster::new(5);
    let mut granted = Vec::new();
    for candidate in [2, 3, 2, 4, 5, 2] {
        let reply = cluster.step(1, |raft, now| {
            let waiting = raft.handle_request_vote(vote_request(2, candidate, Position::new(1, 1)), now);
            sync_later(raft, waiting, now)
        });
        if reply.granted {
            granted.push(candidate);
        }
    }
    assert_eq!(granted, [2, 2, 2]);
}

/// The harness's `step` fetches the writes itself; here the reply is looked at without its `AfterSync`.
fn sync_later(raft: &Raft, waiting: AfterSync<RequestVoteReply>, now: Time) -> RequestVoteReply {
    match raft.settle(waiting, now) {
        Settled::Ready(reply) => reply,
        Settled::NotYet(_) => RequestVoteReply {
            term: raft.term(),
            granted: raft.hard_state().voted_for == Some(id(2)),
            protocol: 1,
        },
    }
}

/// I3: terms in a log never fall; a log that does so cannot be built.
#[test]
#[should_panic(expected = "has a lower term")]
fn invariant_03_terms_in_the_log_never_fall() {
    member(1, 3, 4, None, &[1, 3, 2]);
}

/// I3: nor may they exceed the member's own term.
#[test]
#[should_panic(expected = "I3")]
fn invariant_03_terms_in_the_log_never_exceed_the_members() {
    check(&member(1, 3, 2, None, &[1, 3]));
}

/// I4: `last_applied <= commit_index <= last_index`, also while commit runs ahead of the own disk.
#[test]
fn invariant_04_applied_commit_and_last_stay_in_order() {
    let mut raft = member(1, 3, 4, None, &[1]);
    let new = vec![entry(2, 4, 3), entry(3, 4, 3)];
    let _ = raft.handle_append_entries(append_request(4, 2, Position::new(1, 1), new, 99), Time(0));
    check(&raft);
    assert_eq!((raft.persisted_index(), raft.commit_index(), raft.last_applied()), (1, 3, 0));
    assert!(raft.poll_apply().is_some());
    check(&raft);
    raft.handle_applied(3);
    check(&raft);
}

/// I5: `match_index < next_index <= last_index + 1`, whatever a peer answers.
#[test]
fn invariant_05_next_stays_between_match_and_the_end_of_the_log() {
    let numbers = [0, 1, 2, 3, 4, u64::MAX];
    for received in numbers {
        for match_index in numbers {
            let mut cluster = Cluster::new(2);
            cluster.elect(1);
            cluster.propose(1, "3");
            let flight = cluster.send(1, 2);
            let held = cluster.arrive(flight);
            let mut answer = cluster.answer(held);
            let outcome = AppendOutcome::Accepted { received, match_index };
            answer.reply = RpcReply::AppendEntries(AppendEntriesReply { term: 2, outcome, protocol: 1 });
            cluster.deliver(answer);
            let progress = cluster.progress(1, 2);
            assert!(progress.match_index < progress.next_index && progress.next_index <= 4);
        }
    }
}

/// I7: nothing committed is ever cut, over leaders that come and go and logs that conflict after the commit index.
#[test]
fn invariant_07_committed_entries_are_never_truncated() {
    let mut cluster = Cluster::new(3);
    let mut committed = 0;
    for round in 0..9_u64 {
        let leader = round % 3 + 1;
        cluster.heal();
        cluster.elect_in_turn(leader);
        cluster.propose(leader, "kept");
        cluster.run_until_quiet();
        assert!(cluster.raft(leader).commit_index() > committed);
        committed = cluster.raft(leader).commit_index();
        cluster.isolate(leader);
        cluster.propose(leader, "lost");
        cluster.wait(T_MS);
        cluster.timeout(leader);
    }
}

/// I8, I9, I10 over many elections with cuts and crashes; the harness checks them after every step.
#[test]
fn invariant_08_09_10_hold_over_random_cuts_and_crashes() {
    for seed in 0..12 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut cluster = Cluster::new(if seed % 2 == 0 { 3 } else { 5 });
        let n = if seed % 2 == 0 { 3 } else { 5 };
        let mut down = None;
        for _ in 0..60 {
            match rng.u32(0..6) {
                0 => cluster.cut_one_way(rng.u64(1..=n), rng.u64(1..=n)),
                1 => cluster.heal(),
                2 if down.is_none() => {
                    let me = rng.u64(1..=n);
                    cluster.crash(me);
                    down = Some(me);
                }
                3 => {
                    if let Some(me) = down.take() {
                        cluster.restart(me);
                    }
                }
                4 => {
                    let me = rng.u64(1..=n);
                    if down != Some(me) {
                        cluster.hold_disk(me);
                    }
                }
                _ => {
                    let me = rng.u64(1..=n);
                    if down != Some(me) {
                        cluster.release_disk(me);
                    }
                }
            }
            if let Some(leader) = cluster.leader() {
                cluster.propose(leader, "x");
            }
            cluster.run_for(rng.u64(1..400));
        }
        cluster.heal();
        if let Some(me) = down {
            cluster.restart(me);
        }
        (1..=n).for_each(|me| cluster.release_disk(me));
        cluster.run_for(5_000);
        let leader = cluster.leader().expect("a whole cluster has a leader");
        let last = cluster.propose(leader, "last").index;
        cluster.run_for(2 * HEARTBEAT_MS);
        assert!((1..=n).all(|me| cluster.raft(me).commit_index() == last), "seed {seed}");
    }
}

/// I12: a reply that waits for the disk says nothing of what it vouched for once the term has changed.
#[test]
fn invariant_12_a_held_reply_vouches_for_nothing_in_another_term() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.hold_disk(2);
    cluster.propose(1, "x");
    let flight = cluster.send(1, 2);
    let held = cluster.arrive(flight);
    let held = cluster.still_held(held);
    // Leader 3 of term 5 replaces the entry before the disk has it.
    let request = append_request(5, 3, Position::new(2, 2), vec![entry(3, 5, 3)], 0);
    cluster.step(2, |raft, now| drop(raft.handle_append_entries(request, now)));
    cluster.wait(HOLD_MS);
    let held = cluster.still_held(held);
    cluster.sync(2);
    let answer = cluster.answer(held);
    let term_only = AppendEntriesReply { term: 5, outcome: AppendOutcome::TermOnly, protocol: 1 };
    assert_eq!(answer.reply, RpcReply::AppendEntries(term_only));
}

/// I13: a leader has at most one uncommitted membership.
#[test]
#[should_panic(expected = "I13")]
fn invariant_13_at_most_one_uncommitted_membership() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    for _ in 0..2 {
        let payload = Payload::Membership(membership(&[1, 2, 3]));
        cluster.step(1, |raft, now| raft.propose(&payload, now)).unwrap();
    }
}

/// I14: what was acknowledged survives the crash of any minority, disks that had not synced included.
#[test]
fn invariant_14_what_is_committed_survives_the_crash_of_any_minority() {
    for lost in 1..=3 {
        let mut cluster = Cluster::new(3);
        cluster.elect(1);
        cluster.hold_disk(lost);
        let kept = cluster.propose(1, "x");
        cluster.run_for(HOLD_MS);
        assert_eq!(cluster.raft(1).commit_index(), kept.index);
        cluster.crash(lost);
        cluster.run_until("a leader", |c| c.leader().is_some_and(|l| c.raft(l).commit_index() >= kept.index));
        let leader = cluster.leader().unwrap();
        assert!(cluster.applied(leader).contains(&kept), "lost {lost}");
    }
}
