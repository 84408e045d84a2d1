//! Terms, votes, pre-votes, stickiness, the election timer.

use dkv::raft::*;

use super::harness::*;

fn pre_vote(term: Term, candidate: u64, last: Position) -> RequestVoteRequest {
    RequestVoteRequest { pre_vote: true, ..vote_request(term, candidate, last) }
}

/// P§ Figure 2, §3.8: a granted vote leaves only when it is durable.
#[test]
fn rule_01_a_vote_is_durable_before_the_grant_leaves() {
    let mut voter = member(1, 3, 1, None, &[1]);
    let waiting = voter.handle_request_vote(vote_request(2, 2, Position::new(1, 1)), Time(0));
    let Settled::NotYet(waiting) = voter.settle(waiting, Time::from_millis(10_000)) else {
        panic!("the grant left before the vote was durable");
    };
    let batch = voter.poll_write();
    let ops: Vec<&WriteOp> = batch.writes.iter().map(|w| &w.op).collect();
    let hard_state = |voted_for| WriteOp::HardState(HardState { term: 2, voted_for });
    assert_eq!(ops, [&hard_state(None), &hard_state(Some(id(2)))]);
    voter.handle_persisted(batch.writes[0].seq, Time(0));
    let Settled::NotYet(waiting) = voter.settle(waiting, Time(0)) else {
        panic!("the grant left when only the term was durable");
    };
    voter.handle_persisted(batch.writes[1].seq, Time(0));
    assert_eq!(ready(&voter, waiting, Time(0)), RequestVoteReply { term: 2, granted: true, protocol: 1 });
}

/// P§ Figure 2: a candidate asks for votes, and counts its own, only when its own is durable; a vote that is lost in a
/// crash may be given again, to anybody.
#[test]
fn rule_01_a_candidates_own_vote_is_durable_before_it_asks() {
    let mut cluster = Cluster::new(3);
    cluster.hold_disk(1);
    cluster.campaign(1);
    cluster.expect(&["candidate@2 log 1 commit 0", "follower@1 log 1 commit 0", "follower@1 log 1 commit 0"]);
    assert!(cluster.try_send(1, 2).is_none() && cluster.try_send(1, 3).is_none());
    assert_eq!(cluster.raft(1).poll_timeout(), cluster.now + ms(STALL_MS), "no timer but the disk's");
    cluster.sync(1);
    let RpcRequest::RequestVote(request) = cluster.send(1, 2).request else { panic!("not a vote") };
    assert_eq!(request, vote_request(2, 1, Position::new(1, 1)));
}

/// §3.8: a voter that crashes after its vote was durable does not vote again; before, it may.
#[test]
fn rule_01_a_durable_vote_survives_a_crash() {
    let mut cluster = Cluster::new(3);
    cluster.cut(1, 3);
    cluster.cut(2, 3);
    cluster.campaign(1);
    assert!(cluster.raft(1).is_leader());
    cluster.crash(2);
    cluster.restart(2);
    assert_eq!(cluster.raft(2).hard_state(), HardState { term: 2, voted_for: Some(id(1)) });
    let reply = cluster.step(2, |raft, now| {
        let waiting = raft.handle_request_vote(vote_request(2, 3, Position::new(9, 1)), now);
        ready(raft, waiting, now)
    });
    assert!(!reply.granted);
}

/// P§ Figure 2, all servers: every request and every reply of a higher term makes a follower without a vote, durably.
#[test]
fn rule_04_a_higher_term_in_any_request_makes_a_follower() {
    let last = Position::new(1, 1);
    let vote = |raft: &mut Raft, now| {
        let waiting = raft.handle_request_vote(vote_request(5, 2, Position::ZERO), now);
        sync(raft, now);
        assert_eq!(ready(raft, waiting, now), RequestVoteReply { term: 5, granted: false, protocol: 1 });
    };
    let append = |raft: &mut Raft, now| {
        let waiting = raft.handle_append_entries(append_request(5, 2, Position::new(7, 5), vec![], 0), now);
        let Settled::NotYet(waiting) = raft.settle(waiting, now) else { panic!("term 5 is not durable yet") };
        sync(raft, now);
        assert_eq!(ready(raft, waiting, now).term, 5);
    };
    for call in [&vote as &dyn Fn(&mut Raft, Time), &append] {
        let mut raft = member(1, 3, 4, Some(3), &[1]);
        assert_eq!(raft.last(), last);
        call(&mut raft, Time(1));
        assert_eq!(raft.hard_state(), HardState { term: 5, voted_for: None });
        assert_eq!(raft.role_kind(), RoleKind::Follower);
    }
}

/// P§ Figure 2: the same for replies, to votes and to appends, in every role.
#[test]
fn rule_04_a_higher_term_in_any_reply_makes_a_follower() {
    // A candidate learns it from a refused vote.
    let mut cluster = Cluster::with_logs(&[(1, &[1]), (1, &[1]), (1, &[1])]);
    cluster.isolate(3);
    cluster.hold_disk(1);
    cluster.campaign(1);
    cluster.release_disk(1);
    let flight = cluster.send(1, 2);
    cluster.step(2, |raft, now| drop(raft.handle_request_vote(vote_request(9, 3, Position::ZERO), now)));
    let held = cluster.arrive(flight);
    let answer = cluster.answer(held);
    cluster.deliver(answer);
    cluster.expect(&["follower@9 log 1 commit 0", "follower@9 log 1 commit 0", "follower@1 log 1 commit 0"]);
    assert_eq!(cluster.raft(1).hard_state().voted_for, None);

    // A leader learns it from a refused append, and its reads fail at once.
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.wait(HEARTBEAT_MS);
    let token = cluster.read(1);
    let flight = cluster.send(1, 2);
    let request = RequestVoteRequest { transfer: true, ..vote_request(9, 3, Position::new(9, 9)) };
    cluster.step(2, |raft, now| drop(raft.handle_request_vote(request, now)));
    let held = cluster.arrive(flight);
    let answer = cluster.answer(held);
    let term_only = AppendEntriesReply { term: 9, outcome: AppendOutcome::TermOnly, protocol: 1 };
    assert_eq!(answer.reply, RpcReply::AppendEntries(term_only));
    cluster.deliver(answer);
    assert_eq!(cluster.state(1), "follower@9 log 1 2 commit 2");
    assert_eq!(cluster.take_reads(1), [ReadDone { token, result: Err(NotLeader { leader: None }) }]);
}

/// §9.6: a pre-vote request and its grant change no term, whatever term they name.
#[test]
fn rule_04_pre_votes_and_their_grants_change_no_term() {
    let mut raft = member(1, 3, 4, Some(3), &[1]);
    let before = raft.watermarks();
    for last in [Position::ZERO, Position::new(9, 4)] {
        let waiting = raft.handle_request_vote(pre_vote(8, 2, last), Time(1));
        let expected = if last.term == 0 { (4, false) } else { (8, true) };
        let reply = ready(&raft, waiting, Time(1));
        assert_eq!((reply.term, reply.granted), expected);
    }
    assert_eq!(raft.watermarks(), before);
    assert!(raft.poll_write().is_empty());

    let mut cluster = Cluster::new(3);
    cluster.wait(2 * T_MS + 1);
    cluster.timeout(1);
    assert_eq!(cluster.state(1), "pre-candidate@1 log 1 commit 0");
    let granted = RpcReply::RequestVote(RequestVoteReply { term: 2, granted: true, protocol: 1 });
    cluster.hold_disk(1);
    assert_eq!(cluster.call(1, 2), granted);
    assert_eq!(cluster.state(1), "candidate@2 log 1 commit 0", "its own campaign, in term 2");
    assert_eq!(cluster.raft(2).term(), 1);
}

/// P§ Figure 2: stepping down without a new term keeps the vote of the term.
#[test]
fn rule_05_the_vote_stays_on_a_step_down_in_the_same_term() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(1);
    cluster.wait(T_MS);
    cluster.timeout(1);
    assert_eq!(cluster.state(1), "follower@2 log 1 2 commit 2");
    assert!(cluster.has_traced(&["steps down", "no majority"]));
    assert_eq!(cluster.raft(1).hard_state(), HardState { term: 2, voted_for: Some(id(1)) });
    let reply = cluster.step(1, |raft, now| {
        let waiting = raft.handle_request_vote(vote_request(2, 3, Position::new(9, 2)), now);
        ready(raft, waiting, now)
    });
    assert!(!reply.granted, "a second vote in term 2");

    // The same for a candidate that meets the leader of its term.
    let mut candidate = member(1, 3, 1, None, &[1]);
    let now = candidate.poll_timeout();
    candidate.handle_timeout(now);
    let PollRpc::Send(_, ticket) = candidate.poll_rpc(id(2), now) else { panic!("no pre-vote") };
    let granted = RequestVoteReply { term: 2, granted: true, protocol: 1 };
    candidate.handle_rpc_result(ticket, Ok(RpcReply::RequestVote(granted)), now);
    assert_eq!(candidate.role_kind(), RoleKind::Candidate);
    let _ = candidate.handle_append_entries(append_request(2, 3, Position::new(1, 1), vec![], 0), now);
    assert_eq!(candidate.leader(), Some(id(3)));
    assert_eq!(candidate.hard_state().voted_for, Some(id(1)));
}

/// P§5.4.1: the last term decides first, the last index only between equal terms; for votes and pre-votes alike.
#[test]
fn rule_06_up_to_date_compares_the_last_term_first() {
    let cases = [
        (Position::new(3, 2), true),
        (Position::new(4, 2), true),
        (Position::new(1, 3), true),
        (Position::new(2, 2), false),
        (Position::new(99, 1), false),
    ];
    for (last, expected) in cases {
        for pre_vote in [false, true] {
            let mut voter = member(1, 3, 3, None, &[1, 1, 2]);
            let request = RequestVoteRequest { pre_vote, ..vote_request(4, 2, last) };
            let waiting = voter.handle_request_vote(request, Time(0));
            sync(&mut voter, Time(0));
            assert_eq!(ready(&voter, waiting, Time(0)).granted, expected, "{last} pre_vote={pre_vote}");
        }
    }
}

/// P§ Figure 2, followers; Students' guide: the timer starts anew on a granted vote, a valid append and an own campaign,
/// and on nothing else.
#[test]
fn rule_07_election_timer_resets_only_on_granted_vote_valid_append_own_campaign() {
    let fresh = || member(1, 3, 4, None, &[1, 4]);
    let now = Time::from_millis(100);
    let last = Position::new(2, 4);
    let after = |call: &dyn Fn(&mut Raft)| {
        let mut raft = fresh();
        call(&mut raft);
        raft.poll_timeout()
    };
    let armed = fresh().poll_timeout();
    let votes = [
        ("refused: old log", vote_request(5, 2, Position::new(1, 1)), false),
        ("refused: old term", vote_request(3, 2, last), false),
        ("refused: absurd term", vote_request(Term::MAX, 2, last), false),
        ("granted pre-vote", pre_vote(5, 2, last), false),
        ("refused pre-vote", pre_vote(4, 2, last), false),
        ("granted", vote_request(5, 2, last), true),
    ];
    for (what, request, resets) in votes {
        let timeout = after(&|raft| drop(raft.handle_request_vote(request.clone(), now)));
        let stalls = now + ms(STALL_MS);
        assert!(timeout < stalls);
        assert_eq!(timeout != armed, resets, "{what}");
        assert!(!resets || (timeout > now + ms(T_MS) && timeout <= now + ms(2 * T_MS)), "{what}");
    }
    let appends = [
        ("of an old term", append_request(3, 2, last, vec![], 0), false),
        ("of an absurd term", append_request(Term::MAX, 2, last, vec![], 0), false),
        ("valid", append_request(4, 2, last, vec![], 0), true),
        ("valid, but conflicting", append_request(4, 2, Position::new(9, 4), vec![], 0), true),
    ];
    for (what, request, resets) in appends {
        let timeout = after(&|raft| drop(raft.handle_append_entries(request.clone(), now)));
        assert_eq!(timeout != armed, resets, "append {what}");
    }
    let timeout = after(&|raft| raft.handle_timeout(armed));
    assert!(timeout > armed + ms(T_MS), "an own campaign");
    let mut raft = fresh();
    assert!(raft.read_index(now).is_err());
    raft.handle_timeout(now);
    assert_eq!(
        (raft.poll_timeout(), raft.role_kind()),
        (armed, RoleKind::Follower),
        "an early call does nothing"
    );
}

/// P§5.2: who granted a vote leaves that candidate its time; pre-votes that still come in do not make it a rival.
#[test]
fn rule_07_a_granted_vote_ends_an_own_pre_campaign() {
    let mut raft = member(1, 3, 4, None, &[1]);
    let now = raft.poll_timeout();
    raft.handle_timeout(now);
    let PollRpc::Send(_, ticket) = raft.poll_rpc(id(2), now) else { panic!("no pre-vote") };
    let waiting = raft.handle_request_vote(vote_request(4, 3, Position::new(1, 1)), now);
    sync(&mut raft, now);
    assert!(ready(&raft, waiting, now).granted);
    let granted = RequestVoteReply { term: 5, granted: true, protocol: 1 };
    raft.handle_rpc_result(ticket, Ok(RpcReply::RequestVote(granted)), now);
    assert_eq!((raft.role_kind(), raft.term()), (RoleKind::Follower, 4));
}

/// P§5.2: an append of the own term turns a candidate, and a pre-candidate, into that leader's follower.
#[test]
fn rule_08_an_append_of_the_same_term_turns_a_candidate_into_a_follower() {
    let mut cluster = Cluster::new(3);
    cluster.hold_disk(1);
    cluster.campaign(1);
    assert_eq!(cluster.state(1), "candidate@2 log 1 commit 0");
    cluster.wait(2 * T_MS + 1);
    cluster.timeout(3);
    cluster.cut(1, 3);
    cluster.run_until_quiet();
    assert_eq!(cluster.leader(), Some(3));
    cluster.heal();
    cluster.release_disk(1);
    cluster.run_for(HEARTBEAT_MS);
    let follower = "follower@2 log 1 2 commit 2";
    cluster.expect(&[follower, follower, "leader@2 log 1 2 commit 2"]);
    assert_eq!(cluster.raft(1).leader(), Some(id(3)));
}

/// P§5.2: two leaders of one term are impossible; a member that meets them stops the process.
#[test]
#[should_panic(expected = "two leaders in term 4")]
fn rule_08_two_leaders_in_one_term_abort_a_follower() {
    let mut raft = member(1, 3, 4, None, &[1, 4]);
    let _ = raft.handle_append_entries(append_request(4, 2, Position::new(2, 4), vec![], 0), Time(0));
    let _ = raft.handle_append_entries(append_request(4, 3, Position::new(2, 4), vec![], 0), Time(1));
}

/// P§5.2: the same for the leader itself.
#[test]
#[should_panic(expected = "two leaders in term 2")]
fn rule_08_two_leaders_in_one_term_abort_the_leader() {
    let mut cluster = Cluster::new(1);
    cluster.elect(1);
    let request = append_request(2, 3, Position::new(1, 1), vec![], 0);
    cluster.step(1, |raft, now| drop(raft.handle_append_entries(request, now)));
}

/// P§5.2: a copied data directory makes two leaders with the same identity, too.
#[test]
#[should_panic(expected = "two leaders in term 2")]
fn rule_08_a_leaders_own_twin_aborts_it() {
    let mut cluster = Cluster::new(1);
    cluster.elect(1);
    let request = append_request(2, 1, Position::new(1, 1), vec![entry(2, 2, 1)], 0);
    cluster.step(1, |raft, now| drop(raft.handle_append_entries(request, now)));
}

/// etcd#5468, etcd#8501: whoever sends in an old term is told the new one, or it never gets back into the cluster.
#[test]
fn rule_09_lower_terms_are_answered_with_the_own_term() {
    let mut raft = member(1, 3, 6, None, &[1, 5]);
    let now = Time(1);
    let waiting = raft.handle_append_entries(append_request(5, 2, Position::new(2, 5), vec![], 0), now);
    let reply = ready(&raft, waiting, now);
    assert_eq!(reply, AppendEntriesReply { term: 6, outcome: AppendOutcome::TermOnly, protocol: 1 });
    for request in [vote_request(5, 2, Position::new(2, 5)), pre_vote(6, 2, Position::new(2, 5))] {
        let waiting = raft.handle_request_vote(request, now);
        assert_eq!(ready(&raft, waiting, now), RequestVoteReply { term: 6, granted: false, protocol: 1 });
    }
    assert_eq!(raft.leader(), None);
}

/// etcd#8501: a leader whose follower has a higher term, which no vote request brings back because the others hear the
/// leader, learns it from the answer to its append and makes room for an election.
#[test]
fn rule_09_a_member_with_a_higher_term_is_not_shut_out() {
    let mut cluster = Cluster::with_logs(&[(1, &[1]), (1, &[1]), (7, &[1])]);
    cluster.cut(1, 3);
    cluster.cut(2, 3);
    cluster.elect(1);
    cluster.heal();
    cluster.run_until("everybody follows in a term above 7", |c| {
        c.leader().is_some() && (1..=3).all(|me| c.raft(me).term() > 7 && c.raft(me).commit_index() >= 3)
    });
}

/// §4.2.3, §9.6: who lost contact campaigns in vain while the others hear the leader, and raises no term.
#[test]
fn rule_33_a_pre_vote_is_granted_only_without_a_leader_for_the_minimum_timeout() {
    let mut raft = member(1, 3, 4, None, &[1, 4]);
    let heard = Time::from_millis(50);
    let last = Position::new(2, 4);
    let _ = raft.handle_append_entries(append_request(4, 2, last, vec![], 0), heard);
    let before = raft.watermarks();
    for (at, expected) in [(heard, false), (heard + ms(T_MS - 1), false), (heard + ms(T_MS), true)] {
        let waiting = raft.handle_request_vote(pre_vote(5, 3, last), at);
        assert_eq!(ready(&raft, waiting, at).granted, expected, "at {at}");
    }
    let waiting = raft.handle_request_vote(pre_vote(5, 3, Position::new(2, 3)), heard + ms(T_MS));
    assert!(!ready(&raft, waiting, heard + ms(T_MS)).granted, "the log is behind");
    assert_eq!(raft.watermarks(), before, "no state, no timer");
    assert!(raft.poll_write().is_empty());
}

/// §4.2.3: a vote request does not depose a leader that is heard, unless the leader itself transferred its leadership
/// (§3.10).
#[test]
fn rule_34_a_vote_is_refused_while_the_leader_is_heard_unless_flagged_as_transfer() {
    let last = Position::new(2, 4);
    let heard = Time::from_millis(50);
    let follower = || {
        let mut raft = member(1, 3, 4, None, &[1, 4]);
        let _ = raft.handle_append_entries(append_request(4, 2, last, vec![], 0), heard);
        raft
    };
    let ask = |raft: &mut Raft, transfer, at| {
        let waiting =
            raft.handle_request_vote(RequestVoteRequest { transfer, ..vote_request(9, 3, last) }, at);
        sync(raft, at);
        ready(raft, waiting, at)
    };
    let sticky = heard + ms(T_MS - 1);
    let mut raft = follower();
    assert_eq!(ask(&mut raft, false, sticky), RequestVoteReply { term: 4, granted: false, protocol: 1 });
    assert_eq!((raft.term(), raft.leader()), (4, Some(id(2))), "as if it had never arrived");
    assert!(ask(&mut raft, false, heard + ms(T_MS)).granted);
    assert!(ask(&mut follower(), true, sticky).granted);

    // A leader hears itself as long as a quorum answers.
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let reply = cluster.step(1, |raft, now| ask(raft, false, now));
    assert_eq!(reply, RequestVoteReply { term: 2, granted: false, protocol: 1 });
    assert!(cluster.raft(1).is_leader());
    let reply = cluster.step(1, |raft, now| ask(raft, false, now + ms(T_MS)));
    assert_eq!((reply.term, cluster.raft(1).term()), (9, 9));
}

/// etcd#10483: every election timeout lies in (T, 2T], so it never fires while the leader's protection holds.
#[test]
fn rule_35_election_timeouts_are_random_strictly_above_the_stickiness_window() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let config = RaftConfig { seed, ..config(1) };
        let restored = Restored { entries: log(&[1], 3), ..Restored::default() };
        let mut raft = Raft::new(config, restored, Time(0));
        let first = raft.poll_timeout();
        raft.handle_timeout(first);
        for timeout in [first.since(Time(0)), raft.poll_timeout().since(first)] {
            assert!(timeout > ms(T_MS) && timeout <= ms(2 * T_MS), "{timeout:?}");
            seen.insert(timeout);
        }
    }
    assert!(seen.len() > 500, "{} different timeouts of 600", seen.len());
    assert!(*seen.first().unwrap() < ms(T_MS + 5) && *seen.last().unwrap() > ms(2 * T_MS - 5));
}

/// etcd#8243, openraft#1796: the one with the longer log is behind in terms, the one with the higher term has the shorter
/// log. The refusal carries the term, the lagging one adopts it, and wins with the next campaign.
#[test]
fn rule_36_lower_term_with_longer_log_against_higher_term_with_shorter_log() {
    let mut cluster = Cluster::with_logs(&[(2, &[1, 2, 2]), (5, &[1]), (1, &[1])]);
    cluster.crash(3);
    cluster.wait(2 * T_MS + 1);
    cluster.timeout(1);
    let refused = RpcReply::RequestVote(RequestVoteReply { term: 5, granted: false, protocol: 1 });
    assert_eq!(cluster.call(1, 2), refused);
    assert_eq!(cluster.state(1), "follower@5 log 1 2 2 commit 0", "adopts the term of the refusal");
    cluster.wait(2 * T_MS + 1);
    cluster.timeout(2);
    let refused = RpcReply::RequestVote(RequestVoteReply { term: 5, granted: false, protocol: 1 });
    assert_eq!(cluster.call(2, 1), refused, "the shorter log");
    cluster.elect(1);
    let log = "log 1 2 2 6 commit 4";
    cluster.run_for(HEARTBEAT_MS);
    cluster.expect(&[&format!("leader@6 {log}"), &format!("follower@6 {log}"), "down"]);
}

/// The same, and nobody steers: it must end with a leader by the timers alone.
#[test]
fn rule_36_no_pair_of_terms_and_logs_is_stuck() {
    let logs: [&[Term]; 4] = [&[1], &[1, 1, 1], &[1, 2], &[1, 2, 2, 2]];
    for log_1 in logs {
        for log_2 in logs {
            for (term_1, term_2) in [(2, 2), (2, 9), (9, 2)] {
                let mut cluster = Cluster::with_logs(&[(term_1, log_1), (term_2, log_2), (1, &[1])]);
                cluster.crash(3);
                cluster.run_until("a leader commits", |c| {
                    c.leader().is_some_and(|l| c.raft(l).commit_index() > 1)
                });
            }
        }
    }
}

/// §4.1: whoever asks is answered, member or not; what a stranger sends is processed.
#[test]
fn rule_41_votes_and_appends_of_unknown_senders_are_processed() {
    let mut raft = member(1, 3, 1, None, &[1]);
    let waiting = raft.handle_request_vote(vote_request(2, 77, Position::new(1, 1)), Time(0));
    sync(&mut raft, Time(0));
    assert_eq!(ready(&raft, waiting, Time(0)), RequestVoteReply { term: 2, granted: true, protocol: 1 });
    let request = append_request(3, 88, Position::new(1, 1), vec![entry(2, 3, 3)], 2);
    let waiting = raft.handle_append_entries(request, Time(1));
    sync(&mut raft, Time(1));
    let outcome = AppendOutcome::Accepted { received: 2, match_index: 2 };
    assert_eq!(ready(&raft, waiting, Time(1)), AppendEntriesReply { term: 3, outcome, protocol: 1 });
    assert_eq!((raft.leader(), raft.commit_index()), (Some(id(88)), 2));
}

/// §4.2.2, camunda#57386: {1, 2}; 1 appends the membership {2} and crashes before 2 has it. Only 1 can win: it must
/// campaign although its own latest membership leaves it out, and it must not count itself.
#[test]
fn rule_43_a_member_left_out_by_an_uncommitted_membership_campaigns_without_counting_itself() {
    let leave = Entry::new(Position::new(2, 1), 0, &Payload::Membership(membership(&[2])));
    let entries = vec![entry(1, 1, 2), leave];
    let hard_state = HardState { term: 1, voted_for: None };
    let restored = Restored { hard_state, entries, ..Restored::default() };
    let mut one = Raft::new(config(1), restored, Time(0));
    let mut two = member(2, 2, 1, None, &[1]);
    let now = Time::from_millis(1_000);
    two.handle_timeout(now);
    let PollRpc::Send(RpcRequest::RequestVote(request), _ticket) = two.poll_rpc(id(1), now) else {
        panic!("no vote")
    };
    let waiting = one.handle_request_vote(request, now);
    assert!(!ready(&one, waiting, now).granted, "2 lacks the entry and cannot win");

    one.handle_timeout(now);
    assert_eq!(one.role_kind(), RoleKind::PreCandidate);
    for expected in [RoleKind::Candidate, RoleKind::Leader] {
        let PollRpc::Send(RpcRequest::RequestVote(request), ticket) = one.poll_rpc(id(2), now) else {
            panic!("no vote")
        };
        let waiting = two.handle_request_vote(request, now);
        sync(&mut two, now);
        let reply = ready(&two, waiting, now);
        assert!(reply.granted);
        assert_ne!(one.role_kind(), expected, "its own vote alone is no majority of {{2}}");
        one.handle_rpc_result(ticket, Ok(RpcReply::RequestVote(reply)), now);
        sync(&mut one, now);
        assert_eq!(one.role_kind(), expected);
    }
    assert_eq!((one.persisted_index(), one.commit_index()), (3, 0), "its own disk does not count");
    // The first append carries only the no-op, after what 2 lacks; then both entries.
    for _ in 0..3 {
        let PollRpc::Send(RpcRequest::AppendEntries(request), ticket) = one.poll_rpc(id(2), now) else {
            break;
        };
        let waiting = two.handle_append_entries(request, now);
        sync(&mut two, now);
        let reply = ready(&two, waiting, now);
        one.handle_rpc_result(ticket, Ok(RpcReply::AppendEntries(reply)), now);
        check(&one);
    }
    assert_eq!(one.commit_index(), 3, "committed by {{2}} alone");

    // Once that is committed the member is silent.
    let _ = one.handle_request_vote(vote_request(9, 2, Position::new(9, 9)), now + ms(T_MS));
    sync(&mut one, now);
    one.handle_timeout(now + ms(9 * T_MS));
    assert_eq!(one.role_kind(), RoleKind::Follower, "a committed removal silences");
}
