//! Membership changes: thesis §4.

use dkv::raft::*;

use crate::harness::*;

fn add(id: u64) -> MembershipChange {
    MembershipChange::Add(learner(id), Some(1))
}

fn add_replica(id: u64) -> MembershipChange {
    MembershipChange::Add(Member { promote: false, ..learner(id) }, Some(1))
}

fn promote(id: u64) -> MembershipChange {
    MembershipChange::Promote(MemberId(id))
}

fn remove(id: u64) -> MembershipChange {
    MembershipChange::Remove(MemberId(id))
}

fn voters(raft: &Raft) -> Vec<u64> {
    raft.membership().voters().map(|id| id.0).collect()
}

/// `n` members, member 1 leads and has committed its no-op everywhere.
fn led(n: u64) -> Cluster {
    let mut cluster = Cluster::new(n);
    cluster.elect(1);
    cluster.run_for(100);
    cluster
}

/// §4.2.1: a new server is brought up as a learner and becomes a voter by itself.
#[test]
fn a_learner_is_brought_up_and_promoted_by_itself() {
    let mut cluster = led(3);
    for i in 0..5 {
        cluster.propose(1, &i.to_string());
    }
    cluster.join(4, 3);
    assert!(matches!(cluster.change(1, &add(4)), Ok(Changed::Appended(_))));
    assert_eq!(voters(cluster.raft(1)), [1, 2, 3], "not a voter yet");
    cluster.run_for(500);
    for me in 1..=4 {
        assert_eq!(voters(cluster.raft(me)), [1, 2, 3, 4], "at member {me}");
    }
    assert_eq!(cluster.applied(4), cluster.applied(1));
}

/// §4.2.1: one that is to stay a learner does.
#[test]
fn rule_42_a_read_replica_stays_a_learner() {
    let mut cluster = led(3);
    cluster.join(4, 3);
    cluster.change(1, &add_replica(4)).unwrap();
    cluster.run_for(1_000);
    assert_eq!(voters(cluster.raft(4)), [1, 2, 3]);
    assert_eq!(cluster.applied(4), cluster.applied(1));
}

/// §4.2.1: a learner counts for no quorum: neither commits, nor elections, nor read rounds, nor check-quorum.
#[test]
fn rule_42_a_learner_counts_for_no_quorum() {
    let mut cluster = led(3);
    for me in [4, 5] {
        cluster.join(me, 3);
        cluster.change(1, &add_replica(me)).unwrap();
        cluster.run_for(200);
    }
    let commit = cluster.raft(1).commit_index();
    cluster.cut(1, 2);
    cluster.cut(1, 3);
    cluster.propose(1, "with the learners only");
    cluster.read(1);
    cluster.take_reads(1);
    cluster.run_until_quiet();
    for learner in [4, 5] {
        assert_eq!(cluster.progress(1, learner).match_index, commit + 1, "the learner has it");
    }
    assert_eq!(cluster.raft(1).commit_index(), commit, "two of three voters do not");
    assert!(cluster.take_reads(1).is_empty());
    cluster.run_for(2 * T_MS);
    assert!(!cluster.raft(1).is_leader(), "no quorum of voters answers");
}

/// §4.2.1: a learner never stands for election.
#[test]
fn rule_42_a_learner_never_campaigns() {
    let mut cluster = led(3);
    cluster.join(4, 3);
    cluster.change(1, &add_replica(4)).unwrap();
    cluster.run_for(200);
    cluster.isolate(4);
    cluster.run_for(3_000);
    assert_eq!(cluster.raft(4).role_kind(), RoleKind::Follower);
    assert_eq!(cluster.raft(4).term(), cluster.raft(1).term());
}

/// §4.1: a membership is in force when it is appended, not when it is committed.
#[test]
fn rule_37_a_membership_is_in_force_when_appended() {
    let mut cluster = led(3);
    cluster.isolate(1);
    cluster.change(1, &remove(3)).unwrap();
    assert_eq!(voters(cluster.raft(1)), [1, 2]);
    assert_eq!(cluster.raft(1).committed_membership().voters().count(), 3);
    cluster.crash(1);
    cluster.restart(1);
    assert_eq!(voters(cluster.raft(1)), [1, 2], "also after a restart, uncommitted as it is");
}

/// §4.1: and it is rolled back with its entry.
#[test]
fn rule_37_a_membership_is_rolled_back_when_its_entry_is_cut_off() {
    let mut cluster = led(3);
    cluster.isolate(1);
    cluster.change(1, &remove(3)).unwrap();
    cluster.elect_in_turn(2);
    cluster.heal();
    cluster.run_for(1_000);
    assert_eq!(voters(cluster.raft(1)), [1, 2, 3]);
    assert!(cluster.has_traced(&["0001@", "cut its log"]));
}

/// §4.1: one uncommitted change at a time.
#[test]
fn rule_38_a_second_change_waits_for_the_first() {
    let mut cluster = led(5);
    cluster.cut(1, 2);
    cluster.cut(1, 3);
    cluster.cut(1, 4);
    cluster.cut(1, 5);
    cluster.change(1, &remove(5)).unwrap();
    assert!(matches!(cluster.change(1, &remove(4)), Err(ChangeError::UnderWay(_))));
    cluster.heal();
    cluster.run_for(200);
    assert!(matches!(cluster.change(1, &remove(4)), Ok(Changed::Appended(_))));
}

/// raft-dev 2015: no change before the leader has committed an entry of its own term.
#[test]
fn rule_38_no_change_before_an_entry_of_the_own_term_is_committed() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(1);
    cluster.isolate(2);
    cluster.isolate(3);
    cluster.crash(1);
    cluster.restart(1);
    cluster.heal();
    cluster.elect_with(1, &[2], &[]);
    assert_eq!(cluster.change(1, &add(4)), Err(ChangeError::TooEarly));
    cluster.run_until_quiet();
    assert!(matches!(cluster.change(1, &add(4)), Ok(Changed::Appended(_))));
}

/// After a restart of everybody nobody knows what is committed: the leader's log may hold several changes.
#[test]
fn a_leader_may_bring_several_changes_into_office_after_a_restart() {
    let mut cluster = led(5);
    for gone in [5, 4] {
        assert!(matches!(cluster.change(1, &remove(gone)), Ok(Changed::Appended(_))));
        cluster.run_for(200);
    }
    for me in 1..=5 {
        cluster.crash(me);
    }
    for me in 1..=3 {
        cluster.restart(me);
        assert_eq!((voters(cluster.raft(me)), cluster.raft(me).commit_index()), (vec![1, 2, 3], 0));
    }
    cluster.run_until("somebody leads and knows the changes to be committed", |c| {
        c.leader().is_some_and(|l| c.raft(l).committed_membership().voters().count() == 3)
    });
    let leader = cluster.leader().expect("somebody leads");
    assert!(matches!(cluster.change(leader, &add(6)), Ok(Changed::Appended(_))));
}

/// The bug of 2015 in its three shapes: members 1 and 2 of 4 each append one change, in different terms, and the majorities of
/// the two new memberships do not overlap.
struct BugOf2015 {
    /// Learners that have caught up.
    learners: &'static [u64],
    /// What leader 1 appends, and who but itself gets it.
    first: (MembershipChange, &'static [u64]),
    /// What leader 2 appends, and who but itself gets it: with it a majority of the second membership, not of the old one.
    second: (MembershipChange, &'static [u64]),
    /// With member 1 a majority of the first membership. None of them has heard of the second one.
    third: &'static [u64],
}

impl BugOf2015 {
    /// With the rule the second change cannot come before a no-op is committed under the old membership, and whoever has
    /// that lets member 1 not win. Without it the third leader cuts off what the second one has committed, which the cluster's
    /// checks notice.
    fn play(self) {
        let mut cluster = led(4);
        for &me in self.learners {
            cluster.join(me, 4);
            cluster.change(1, &add_replica(me)).unwrap();
            cluster.run_for(200);
        }
        let all = cluster.raft(1).membership().members.len() as u64;
        (1..=all).for_each(|me| cluster.isolate(me));
        assert!(matches!(cluster.change(1, &self.first.0), Ok(Changed::Appended(_))));
        for &to in self.first.1 {
            cluster.call(1, to);
        }
        cluster.elect_with(2, &[3, 4], &[]);
        // Refused as too early, or else it would be committed by and by.
        let early = cluster.change(2, &self.second.0);
        for _ in 0..4 {
            for &to in self.second.1 {
                let Some(flight) = cluster.try_send(2, to) else { continue };
                let held = cluster.arrive(flight);
                let answer = cluster.answer(held);
                cluster.deliver(answer);
            }
        }
        cluster.timeout(1);
        assert!(!cluster.raft(1).is_leader(), "nobody answers the first leader");
        cluster.elect_with(1, self.third, self.third);
        cluster.heal();
        cluster.run_for(3_000);
        // Every check of the cluster ran after every step: one leader per term, nothing committed is lost.
        let leader = cluster.leader().expect("somebody leads");
        let commits: Vec<Index> =
            voters(cluster.raft(leader)).into_iter().map(|me| cluster.raft(me).commit_index()).collect();
        assert!(commits.iter().all(|&c| c == commits[0]), "{commits:?}");
        assert_eq!(early, Err(ChangeError::TooEarly));
    }
}

#[test]
fn rule_38_the_bug_of_2015_with_one_added_and_one_removed() {
    BugOf2015 { learners: &[5], first: (promote(5), &[5]), second: (remove(1), &[3]), third: &[4, 5] }.play();
}

#[test]
fn rule_38_the_bug_of_2015_with_two_added() {
    BugOf2015 { learners: &[5, 6], first: (promote(5), &[5]), second: (promote(6), &[3, 6]), third: &[4, 5] }
        .play();
}

#[test]
fn rule_38_the_bug_of_2015_with_two_removed() {
    BugOf2015 { learners: &[], first: (remove(4), &[]), second: (remove(3), &[4]), third: &[3] }.play();
}

/// §4.1: a change is one server.
#[test]
fn rule_39_each_change_moves_one_voter_at_most() {
    let cluster = led(3);
    let membership = cluster.raft(1).membership().clone();
    let count = |m: &Membership| m.voters().count() as i64;
    let with_four = membership.with(&add(4)).unwrap().unwrap();
    assert_eq!(count(&with_four), 3, "added as a learner");
    for (from, change) in [(&with_four, promote(4)), (&*membership, remove(3))] {
        let after = from.with(&change).unwrap().unwrap();
        assert_eq!((count(&after) - count(from)).abs(), 1);
    }
    assert_eq!(with_four.with(&add(4)), Ok(None), "the same again changes nothing");
    assert_eq!(membership.with(&remove(9)), Err(ChangeError::Unknown));
    let twin = Member { member_id: MemberId(9), ..learner(3) };
    assert!(matches!(membership.with(&MembershipChange::Add(twin, Some(1))), Err(ChangeError::Taken { .. })));
}

#[test]
fn a_new_member_at_the_other_port_of_another_one_is_refused() {
    let cluster = led(3);
    let membership = cluster.raft(1).membership().clone();
    let known = membership.members[0].clone();
    for new in [
        Member { raft_addr: known.http_addr.clone(), ..learner(9) },
        Member { http_addr: known.raft_addr.clone(), ..learner(9) },
    ] {
        let refused = membership.with(&MembershipChange::Add(new, None)).unwrap_err();
        assert!(
            matches!(&refused, ChangeError::Taken { holder, .. } if *holder == known.node_id),
            "{refused}"
        );
    }
}

/// §4.2.2: a leader that removes itself does not count itself, and leaves office when the change is committed.
#[test]
fn rule_40_a_removed_leader_does_not_count_itself_and_steps_down() {
    let mut cluster = led(3);
    cluster.isolate(1);
    let Ok(Changed::Appended(at)) = cluster.change(1, &remove(1)) else { panic!("refused") };
    cluster.heal();
    cluster.cut(1, 3);
    cluster.run_until_quiet();
    assert_eq!(cluster.progress(1, 2).match_index, at.index, "one of two voters has it");
    assert!(cluster.raft(1).commit_index() < at.index, "the leader does not count itself");
    cluster.heal();
    cluster.run_for(100);
    assert!(cluster.raft(1).commit_index() >= at.index);
    assert!(!cluster.raft(1).is_leader());
    assert!(cluster.has_traced(&["steps down: it is no voter any more"]));
    cluster.run_for(2_000);
    assert!(matches!(cluster.leader(), Some(2 | 3)));
    assert_eq!(cluster.raft(1).role_kind(), RoleKind::Follower, "a committed removal silences it");
}

/// §4.2.2; camunda#57386: {S1,S2}, S1 appends C_new={S2} and crashes before S2 hears of it. Only S1 can win the next
/// election, although its own latest membership does not have it.
#[test]
fn rule_43_a_member_absent_from_its_own_uncommitted_membership_still_campaigns() {
    let mut cluster = led(2);
    cluster.cut(1, 2);
    cluster.change(1, &remove(1)).unwrap();
    cluster.crash(1);
    cluster.restart(1);
    assert_eq!(voters(cluster.raft(1)), [2]);
    cluster.heal();
    cluster.run_until("somebody leads and the change is committed", |c| {
        c.leader().is_some_and(|l| c.raft(l).committed_membership().voters().count() == 1)
    });
    assert!(cluster.has_traced(&["0001@", "elected"]), "member 1 won on the way");
}

/// §4.2.2: member 2 joined after its snapshot, led, appended its own removal and was started again. It no longer knows
/// that the membership with itself is committed, and once nobody campaigned: the other member lacked the removal.
#[test]
fn rule_43_a_member_that_only_a_membership_in_the_middle_of_its_log_has_campaigns() {
    let entry =
        |index, ids: &[u64]| Entry::new(Position::new(index, 2), 0, &Payload::Membership(membership(ids)));
    let snapshot = SnapshotMeta {
        last: Position::new(5, 2),
        cluster_time: 0,
        membership: membership(&[1]).into(),
        membership_index: 1,
        version: 1,
    };
    let restored = Restored {
        hard_state: HardState { term: 2, voted_for: Some(id(2)) },
        snapshot,
        entries: vec![entry(6, &[1, 2]), entry(7, &[1])],
        ..Restored::default()
    };
    let mut raft = Raft::new(config(2), restored, Time(0));
    let due = raft.poll_timeout();
    raft.handle_timeout(due);
    assert_eq!(raft.role_kind(), RoleKind::PreCandidate);
}

/// §4.1: a vote is given to whom the voter does not know: its log may lag behind the candidate's membership.
#[test]
fn rule_41_a_candidate_that_is_unknown_here_gets_its_vote() {
    let mut raft = member(2, 3, 4, None, &[1, 2]);
    let waiting = raft.handle_request_vote(vote_request(5, 9, Position::new(3, 4)), Time(1));
    sync(&mut raft, Time(1));
    assert!(ready(&raft, waiting, Time(1)).granted);
}

/// §4.2.3: a removed member that missed its removal disturbs nobody.
#[test]
fn rule_34_a_removed_member_does_not_disturb_the_others() {
    let mut cluster = led(4);
    cluster.isolate(4);
    cluster.change(1, &remove(4)).unwrap();
    cluster.run_for(200);
    let term = cluster.raft(1).term();
    cluster.heal();
    cluster.run_for(5_000);
    assert!(cluster.raft(1).is_leader());
    assert_eq!(cluster.raft(1).term(), term);
}

/// Nothing could be committed any more after a change whose voters do not answer: it is refused.
#[test]
fn a_change_that_leaves_no_live_majority_is_refused() {
    let mut cluster = led(3);
    cluster.isolate(3);
    cluster.run_for(2 * T_MS);
    assert_eq!(
        cluster.change(1, &remove(2)),
        Err(ChangeError::NoLiveMajority { voters: 2, alive: 1, needed: 2 })
    );
    assert!(matches!(cluster.change(1, &remove(3)), Ok(Changed::Appended(_))), "the dead one can go");
    cluster.run_for(100);
    assert_eq!(cluster.raft(1).committed_membership().voters().count(), 2);
    assert!(matches!(cluster.change(1, &remove(2)), Ok(Changed::Appended(_))));
    cluster.run_for(100);
    assert!(matches!(cluster.change(1, &remove(1)), Err(ChangeError::NoLiveMajority { voters: 0, .. })));
}

/// 3 members, the third silent for so long that everybody knows it, and member 2 led in office by a leadership
/// transfer.
fn transferred_beside_a_dead_one() -> Cluster {
    let mut cluster = led(3);
    cluster.isolate(3);
    cluster.run_for(2 * T_MS);
    cluster.step(1, |raft, now| raft.transfer_leadership(Some(id(2)), now)).unwrap();
    cluster.run_until_quiet();
    assert!(cluster.raft(2).is_leader());
    assert!(
        cluster.raft(2).commit_index() == cluster.raft(2).last().index,
        "with the vote and the disk of 1"
    );
    cluster
}

/// A new leader counted everybody as alive from its election on: it took a removal after which nobody who was left could
/// commit it, and the cluster had no leader any more.
#[test]
fn no_news_is_not_good_news_after_an_election() {
    let mut cluster = transferred_beside_a_dead_one();
    let until = cluster.now + ms(T_MS);
    assert_eq!(cluster.change(2, &remove(1)), Err(ChangeError::NotHeardYet { until }));
    cluster.run_for(T_MS - 1);
    assert_eq!(cluster.change(2, &remove(1)), Err(ChangeError::NotHeardYet { until }), "until it is over");
    cluster.run_for(1);
    let refused = Err(ChangeError::NoLiveMajority { voters: 2, alive: 1, needed: 2 });
    assert_eq!(cluster.change(2, &remove(1)), refused, "3 has not answered this leader");
    cluster.propose(2, "served on");
    cluster.run_until_quiet();
    assert_eq!(cluster.raft(2).commit_index(), cluster.raft(2).last().index);
    // As soon as the third one answers, the same change is good.
    cluster.heal();
    cluster.run_for(2 * HEARTBEAT_MS);
    assert!(matches!(cluster.change(2, &remove(1)), Ok(Changed::Appended(_))));
    cluster.run_for(100);
    assert_eq!(cluster.raft(2).committed_membership().voters().count(), 2);
}

/// Whom a change does not need, nobody waits for.
#[test]
fn a_change_does_not_wait_for_members_that_it_does_not_need() {
    let mut cluster = transferred_beside_a_dead_one();
    assert!(matches!(cluster.change(2, &remove(3)), Ok(Changed::Appended(_))), "the dead one goes at once");
    cluster.run_until_quiet();
    assert_eq!(cluster.raft(2).committed_membership().voters().count(), 2);
}

/// A member that was just added counted as alive, although nobody was there.
#[test]
fn no_news_is_not_good_news_after_an_addition() {
    // With a dead one beside it, the vote of nobody would stop the cluster; without, it would only weaken it.
    for beside_a_dead_one in [true, false] {
        let mut cluster = led(3);
        if beside_a_dead_one {
            cluster.isolate(3);
            cluster.run_for(2 * T_MS);
        }
        let until = cluster.now + ms(T_MS);
        cluster.change(1, &add_replica(4)).unwrap();
        cluster.run_until_quiet();
        assert_eq!(cluster.change(1, &promote(4)), Err(ChangeError::NotHeardYet { until }));
        cluster.run_for(T_MS);
        assert_eq!(
            cluster.change(1, &promote(4)),
            Err(match beside_a_dead_one {
                true => ChangeError::NoLiveMajority { voters: 4, alive: 2, needed: 3 },
                false => ChangeError::NoAnswer("n4".to_owned()),
            })
        );
        assert_eq!(voters(cluster.raft(1)), [1, 2, 3]);
        // Whoever begins to live there is promoted as before.
        cluster.join(4, 3);
        cluster.run_for(3 * HEARTBEAT_MS);
        assert!(matches!(cluster.change(1, &promote(4)), Ok(Changed::Appended(_))), "it answers");
        cluster.run_until_quiet();
        assert_eq!(cluster.raft(1).committed_membership().voters().count(), 4);
    }
}

/// A member that answered once and then fell silent is as silent as one that never did.
#[test]
fn a_learner_that_fell_silent_is_not_promoted() {
    let mut cluster = led(3);
    cluster.join(4, 3);
    cluster.change(1, &add_replica(4)).unwrap();
    cluster.run_for(200);
    cluster.isolate(4);
    cluster.run_for(2 * T_MS);
    assert_eq!(cluster.change(1, &promote(4)), Err(ChangeError::NoAnswer("n4".to_owned())));
}

/// A leader that was to be removed handed over first, and its successor found out that nobody could do without it.
#[test]
fn a_leader_that_cannot_go_does_not_transfer() {
    let mut cluster = led(3);
    cluster.isolate(3);
    cluster.run_for(2 * T_MS);
    let refused = Err(ChangeError::NoLiveMajority { voters: 2, alive: 1, needed: 2 });
    assert_eq!(cluster.step(1, |raft, now| raft.transfer_for_removal(now)), refused);
    assert!(!cluster.raft(1).is_transferring());
    cluster.heal();
    cluster.run_for(2 * HEARTBEAT_MS);
    assert!(matches!(cluster.step(1, |raft, now| raft.transfer_for_removal(now)), Ok(Some(_))));
    assert!(cluster.raft(1).is_transferring());
}

/// A new member far behind is brought up by the snapshot and promoted all the same.
#[test]
fn a_learner_is_brought_up_by_a_snapshot() {
    let mut cluster = led(3);
    for i in 0..10 {
        cluster.propose(1, &i.to_string());
    }
    cluster.run_for(100);
    cluster.save_snapshot(1);
    cluster.propose(1, "more");
    cluster.run_for(100);
    cluster.save_snapshot(1);
    cluster.join(4, 3);
    cluster.change(1, &add(4)).unwrap();
    cluster.run_for(1_000);
    assert!(cluster.has_traced(&["0004@", "installed the leader's snapshot"]));
    assert_eq!(voters(cluster.raft(4)), [1, 2, 3, 4]);
    assert_eq!(cluster.applied(4), cluster.applied(1));
}
