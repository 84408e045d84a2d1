//! AppendEntries on both sides, commit, apply, the disk.

use dkv::raft::*;

use super::harness::*;

fn accepted(received: Index, match_index: Index) -> AppendOutcome {
    AppendOutcome::Accepted { received, match_index }
}

fn conflict(conflict_index: Index, conflict_term: Option<Term>) -> AppendOutcome {
    AppendOutcome::Conflict { conflict_index, conflict_term }
}

/// A follower of this log in term 4 whose disk keeps up, and what it answers to an append of leader 2.
fn append(
    terms: &[Term],
    prev: (Index, Term),
    new: &[(Index, Term)],
    commit: Index,
) -> (Raft, AppendOutcome) {
    let mut raft = member(1, 3, 4, None, terms);
    let outcome = append_to(&mut raft, prev, new, commit);
    (raft, outcome)
}

fn append_to(raft: &mut Raft, prev: (Index, Term), new: &[(Index, Term)], commit: Index) -> AppendOutcome {
    let entries = new.iter().map(|&(index, term)| entry(index, term, 3)).collect();
    let request = append_request(raft.term().max(4), 2, Position::new(prev.0, prev.1), entries, commit);
    let before = raft.watermarks();
    let waiting = raft.handle_append_entries(request, Time(1));
    check(raft);
    check_step(&before, raft);
    sync(raft, Time(1));
    ready(raft, waiting, Time(1)).outcome
}

/// P§ Figure 2, §3.8: a follower vouches only for what its disk holds; after the hold it says how far its memory is.
#[test]
fn rule_02_a_follower_answers_success_only_for_what_its_disk_holds() {
    let mut raft = member(1, 3, 4, None, &[1]);
    let request = append_request(4, 2, Position::new(1, 1), vec![entry(2, 4, 3), entry(3, 4, 3)], 0);
    let now = Time::from_millis(10);
    let waiting = raft.handle_append_entries(request, now);
    let until = now + ms(HOLD_MS);
    assert_eq!(waiting.hold_until(), Some(until));
    let Settled::NotYet(waiting) = raft.settle(waiting, until - ms(1)) else {
        panic!("left before the sync")
    };
    let early = waiting.clone();
    assert_eq!(ready(&raft, early, until).outcome, accepted(3, 1), "memory holds 3, the disk 1");
    sync(&mut raft, now);
    assert_eq!(ready(&raft, waiting, now).outcome, accepted(3, 3));
}

/// §10.2.1: a leader sends before its own sync, and counts itself only after it.
#[test]
fn rule_02_a_leader_counts_itself_only_after_its_own_sync() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.crash(3);
    cluster.hold_disk(1);
    cluster.propose(1, "x");
    assert_eq!(
        cluster.call(1, 2),
        RpcReply::AppendEntries(AppendEntriesReply { term: 2, outcome: accepted(3, 3), protocol: 1 }),
        "sent although the own disk does not have it"
    );
    assert_eq!(cluster.state(1), "leader@2 log 1 2 2 commit 2", "one disk of three");
    cluster.sync(1);
    assert_eq!(cluster.state(1), "leader@2 log 1 2 2 commit 3");
}

/// P§5.3: two followers' disks are a majority without the leader's.
#[test]
fn rule_02_two_followers_commit_without_the_leaders_disk() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.hold_disk(1);
    cluster.propose(1, "x");
    cluster.run_until_quiet();
    assert_eq!(cluster.state(1), "leader@2 log 1 2 2 commit 3");
    assert_eq!((cluster.raft(1).persisted_index(), cluster.applied(1).len()), (2, 3));
    cluster.crash(1);
    cluster.restart(1);
    cluster.release_disk(1);
    cluster.elect(2);
    cluster.run_for(HEARTBEAT_MS);
    assert_eq!(cluster.state(1), "follower@3 log 1 2 2 3 commit 4");
}

/// A slow disk behind: memory and disk travel apart, the leader sends on and commits only what the disks hold.
#[test]
fn rule_02_received_is_not_match() {
    let mut cluster = Cluster::new(2);
    cluster.elect(1);
    cluster.hold_disk(2);
    cluster.propose(1, "x");
    let flight = cluster.send(1, 2);
    let held = cluster.arrive(flight);
    let held = cluster.still_held(held);
    cluster.wait(HOLD_MS);
    let answer = cluster.answer(held);
    cluster.deliver(answer);
    let progress = cluster.progress(1, 2);
    assert_eq!((progress.match_index, progress.next_index), (2, 4), "sent through 3, durable through 2");
    assert_eq!(cluster.raft(1).commit_index(), 2);
    let RpcRequest::AppendEntries(request) = &cluster.send(1, 2).request else { panic!("not an append") };
    assert_eq!(
        (request.prev, request.entries.len()),
        (Position::new(3, 2), 0),
        "asks at once how far the disk is"
    );
}

/// etcd#14370: a cluster of one waits for its disk like any other.
#[test]
fn rule_03_a_single_member_commits_only_what_its_disk_holds() {
    let mut cluster = Cluster::new(1);
    cluster.hold_disk(1);
    cluster.campaign(1);
    cluster.expect(&["candidate@2 log 1 commit 0"]);
    cluster.sync(1);
    cluster.expect(&["leader@2 log 1 2 commit 0"]);
    let token = cluster.read(1);
    assert!(cluster.take_reads(1).is_empty(), "nothing of the own term is committed");
    cluster.sync(1);
    cluster.expect(&["leader@2 log 1 2 commit 2"]);
    assert_eq!(cluster.take_reads(1), [ReadDone { token, result: Ok(2) }]);
    cluster.propose(1, "x");
    cluster.expect(&["leader@2 log 1 2 2 commit 2"]);
    cluster.crash(1);
    cluster.restart(1);
    cluster.expect(&["follower@2 log 1 2 commit 0"]);
}

/// Students' guide: a heartbeat runs the whole check; an empty append after a foreign entry is refused.
#[test]
fn rule_10_heartbeats_run_the_whole_consistency_check() {
    let (raft, outcome) = append(&[1, 1, 2], (3, 3), &[], 3);
    assert_eq!((outcome, raft.commit_index()), (conflict(3, Some(2)), 0));
    let (raft, outcome) = append(&[1, 1, 2], (5, 4), &[], 5);
    assert_eq!((outcome, raft.commit_index()), (conflict(4, None), 0));
    let (raft, outcome) = append(&[1, 1, 2], (2, 1), &[], 9);
    assert_eq!((outcome, raft.commit_index()), (accepted(2, 2), 2), "nothing after what was compared");
}

/// P§ Figure 2, AppendEntries 3-4: only an entry of another term at the same index cuts the log.
#[test]
fn rule_11_only_a_real_conflict_truncates() {
    let (raft, outcome) = append(&[1, 2, 2, 2], (1, 1), &[(2, 2)], 0);
    assert_eq!((outcome, terms(&raft)), (accepted(2, 2), vec![1, 2, 2, 2]), "a shorter RPC");
    let (raft, outcome) = append(&[1, 2, 2, 2], (0, 0), &[(1, 1), (2, 2), (3, 2)], 0);
    assert_eq!((outcome, terms(&raft)), (accepted(3, 3), vec![1, 2, 2, 2]), "an older RPC");
    let (raft, outcome) = append(&[1, 2, 2, 2], (1, 1), &[], 0);
    assert_eq!((outcome, terms(&raft)), (accepted(1, 1), vec![1, 2, 2, 2]), "a heartbeat");
    let (raft, outcome) = append(&[1, 2, 2, 2], (2, 2), &[(3, 2), (4, 3), (5, 4)], 0);
    assert_eq!((outcome, terms(&raft)), (accepted(5, 5), vec![1, 2, 2, 3, 4]), "cut at 4, not before");
}

/// P§5.4.3, leader completeness: a leader that replaces a committed entry lacks acknowledged data; the process stops.
#[test]
#[should_panic(expected = "replaces entry 3, but 3 is committed")]
fn rule_12_truncating_a_committed_entry_aborts() {
    let (mut raft, _) = append(&[1, 2, 2, 2], (3, 2), &[], 3);
    assert_eq!(raft.commit_index(), 3);
    append_to(&mut raft, (2, 2), &[(3, 4)], 3);
}

/// P§ Figure 2, AppendEntries 5; scylla#9965: what stands after this RPC's last entry may be another leader's.
#[test]
fn rule_13_a_follower_commits_at_most_through_this_rpcs_last_entry() {
    let (raft, _) = append(&[1, 2, 2, 2], (1, 1), &[(2, 2)], 4);
    assert_eq!(raft.commit_index(), 2, "3 and 4 were not compared");
    let (raft, _) = append(&[1, 2, 2, 2], (2, 2), &[], 4);
    assert_eq!(raft.commit_index(), 2);
    let (raft, _) = append(&[1, 2, 2, 2], (2, 2), &[(3, 2), (4, 2)], 3);
    assert_eq!(raft.commit_index(), 3, "the leader's commit index is the other bound");
    let (mut raft, _) = append(&[1, 2, 2, 2], (4, 2), &[], 4);
    append_to(&mut raft, (2, 2), &[], 2);
    assert_eq!(raft.commit_index(), 4, "never back");
}

/// P§5.4.2, Figure 8: (a)-(d). Entry 2@2 stands on a majority, but is not committed until an entry of the own term is.
#[test]
fn rule_14_figure_8_old_terms_are_not_committed_by_counting() {
    let mut cluster = Cluster::new(5);
    // (a) 1 leads term 2 and gets its entry to 2 only.
    cluster.cut(1, 3);
    cluster.elect_with(1, &[2, 3, 4], &[2]);
    cluster.expect_logs(&["1 2", "1 2", "1", "1", "1"]);
    // (b) 1 crashes; 5 leads term 3 with the votes of 3 and 4 and keeps its entry to itself.
    cluster.crash(1);
    cluster.elect_with(5, &[3, 4], &[]);
    cluster.expect_logs(&["down", "1 2", "1", "1", "1 3"]);
    // (c) 5 crashes; 1 leads term 4 and gets 2@2 onto a majority, but not its own 3@4.
    cluster.crash(5);
    cluster.restart(1);
    cluster.elect_with(1, &[2, 3, 4], &[]);
    assert_eq!(cluster.raft(1).term(), 4);
    cluster.heal();
    cluster.call(1, 3);
    let mut flight = cluster.send(1, 3);
    let RpcRequest::AppendEntries(request) = &mut flight.request else { panic!("not an append") };
    request.entries.truncate(1);
    assert_eq!(request.entries[0].position(), Position::new(2, 2));
    let held = cluster.arrive(flight);
    let answer = cluster.answer(held);
    cluster.deliver(answer);
    cluster.call(1, 2);
    assert_eq!(cluster.progress(1, 3).match_index, 2);
    assert_eq!(cluster.raft(1).commit_index(), 0, "2@2 stands on 1, 2 and 3, and is not committed");
    // (d) 1 crashes; 5 wins with the votes of 3 and 4 and replaces 2@2 everywhere, as it may.
    cluster.crash(1);
    cluster.restart(5);
    cluster.elect_in_turn(5);
    cluster.run_for(T_MS);
    assert_eq!(cluster.state(2), "follower@5 log 1 3 5 commit 3");
    assert_eq!(cluster.state(3), "follower@5 log 1 3 5 commit 3");
}

/// P§5.4.2, Figure 8 (e): once an entry of the own term stands on a majority, everything before it is committed with it,
/// and 5 cannot win any more.
#[test]
fn rule_14_figure_8_an_entry_of_the_own_term_commits_all_before_it() {
    let mut cluster = Cluster::with_logs(&[(3, &[1, 2]), (3, &[1, 2]), (3, &[1]), (3, &[1]), (3, &[1, 3])]);
    cluster.crash(5);
    cluster.crash(4);
    // 5's log is the most up to date; without it 1 wins.
    cluster.elect(1);
    cluster.expect(&[
        "leader@4 log 1 2 4 commit 3",
        "follower@4 log 1 2 4 commit 0",
        "follower@4 log 1 2 4 commit 0",
        "down",
        "down",
    ]);
    cluster.crash(1);
    cluster.restart(4);
    cluster.restart(5);
    cluster.campaign(5);
    assert!(!cluster.raft(5).is_leader(), "2 and 3 end with term 4");
    cluster.run_until("somebody who holds 3@4 leads", |c| c.leader().is_some());
}

/// §6.4, P§8: the first thing a leader appends is a no-op of its term, and it is sent to everybody at once.
#[test]
fn rule_15_a_new_leader_opens_its_term_with_a_noop() {
    let mut cluster = Cluster::with_logs(&[(1, &[1, 1]), (1, &[1, 1]), (1, &[1, 1])]);
    cluster.elect(1);
    let first = cluster.raft(1).log().get(3).unwrap();
    assert_eq!((first.kind(), first.position()), (EntryKind::Noop, Position::new(3, 2)));
    assert_eq!(cluster.raft(1).commit_index(), 3, "what was left over is committed with it");
}

/// etcd Progress: the leader takes no more from a reply than its RPC carried, whatever the reply says.
#[test]
fn rule_16_a_reply_cannot_vouch_for_more_than_its_rpc_carried() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.crash(3);
    cluster.propose(1, "3");
    let flight = cluster.send(1, 2);
    cluster.propose(1, "4");
    let held = cluster.arrive(flight);
    let mut answer = cluster.answer(held);
    let lie = AppendEntriesReply { term: 2, outcome: accepted(u64::MAX, u64::MAX), protocol: 1 };
    answer.reply = RpcReply::AppendEntries(lie);
    cluster.deliver(answer);
    let progress = cluster.progress(1, 2);
    assert_eq!((progress.match_index, progress.next_index), (3, 4));
    assert_eq!(cluster.raft(1).commit_index(), 3);
}

/// etcd Progress: match never falls, next stays above it, and a reply of an earlier leadership says nothing.
#[test]
fn rule_16_match_never_falls_and_replies_of_another_term_are_dropped() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "3");
    cluster.run_until_quiet();
    cluster.propose(1, "4");
    let flight = cluster.send(1, 2);
    let held = cluster.arrive(flight);
    let mut answer = cluster.answer(held);
    answer.reply =
        RpcReply::AppendEntries(AppendEntriesReply { term: 2, outcome: accepted(3, 0), protocol: 1 });
    cluster.deliver(answer);
    let progress = cluster.progress(1, 2);
    assert_eq!((progress.match_index, progress.next_index), (3, 4), "an old number changes nothing");

    // 1 sends in term 2, loses its leadership, and leads again in term 3 before the reply comes.
    let old = cluster.send(1, 2);
    let held = cluster.arrive(old);
    let old = cluster.answer(held);
    cluster.isolate(1);
    cluster.wait(T_MS);
    cluster.timeout(1);
    assert_eq!(cluster.raft(1).role_kind(), RoleKind::Follower);
    cluster.heal();
    cluster.cut(1, 2);
    cluster.elect(1);
    assert_eq!(cluster.progress(1, 2).match_index, 0);
    cluster.wait(10);
    cluster.deliver(old);
    let progress = cluster.progress(1, 2);
    assert_eq!(
        (progress.match_index, progress.mode),
        (0, Mode::Probe),
        "accepted in term 2 says nothing in term 3"
    );
    assert_eq!(progress.heard_at, None, "nor is it news");
}

/// P§5.3: one round trip per conflicting term, not per entry; to the end of that term here, or to its beginning there.
#[test]
fn rule_17_backtracking_skips_whole_terms() {
    // 2 has five entries of term 3 that 1 never saw: to where that term begins there.
    let mut cluster = Cluster::with_logs(&[(4, &[1, 2, 2, 4, 4, 4, 4, 4]), (4, &[1, 2, 2, 3, 3, 3, 3, 3])]);
    cluster.wait(2 * T_MS + 1);
    cluster.elect_with(1, &[2], &[]);
    let reply = cluster.call(1, 2);
    let refused = |outcome| RpcReply::AppendEntries(AppendEntriesReply { term: 5, outcome, protocol: 1 });
    assert_eq!(reply, refused(conflict(4, Some(3))));
    assert_eq!(cluster.progress(1, 2).next_index, 4);
    cluster.run_until_quiet();
    cluster.run_for(HEARTBEAT_MS);
    assert_eq!(cluster.state(2), "follower@5 log 1 2 2 4 4 4 4 4 5 commit 9");

    // 2 has term 2 longer than 1: to the end of that term here.
    let mut cluster = Cluster::with_logs(&[(4, &[1, 2, 2, 4, 4, 4]), (4, &[1, 2, 2, 2, 2, 2])]);
    cluster.elect_with(1, &[2], &[]);
    assert_eq!(cluster.call(1, 2), refused(conflict(2, Some(2))));
    assert_eq!(cluster.progress(1, 2).next_index, 4, "2@2 and 3@2 stand in both");

    // A log that is too short: to its end.
    let mut cluster = Cluster::with_logs(&[(4, &[1, 2, 2, 4, 4, 4]), (4, &[1, 2])]);
    cluster.elect_with(1, &[2], &[]);
    assert_eq!(cluster.call(1, 2), refused(conflict(3, None)));
    assert_eq!(cluster.progress(1, 2).next_index, 3);
}

/// P§5.3: a refusal never takes the leader below what the peer's disk is known to hold, nor above what was asked.
#[test]
fn rule_17_backtracking_is_clamped_between_match_and_what_was_asked() {
    for (lie, expected) in [(0, 4), (2, 4), (u64::MAX, 4)] {
        let mut cluster = Cluster::new(2);
        cluster.elect(1);
        cluster.propose(1, "3");
        cluster.run_until_quiet();
        cluster.hold_disk(2);
        cluster.propose(1, "4");
        let flight = cluster.send(1, 2);
        let held = cluster.arrive(flight);
        cluster.wait(HOLD_MS);
        let answer = cluster.answer(held);
        cluster.deliver(answer);
        assert_eq!((cluster.progress(1, 2).match_index, cluster.progress(1, 2).next_index), (3, 5));
        let flight = cluster.send(1, 2);
        let held = cluster.arrive(flight);
        let mut answer = cluster.answer_after(held, HOLD_MS);
        let outcome = conflict(lie, None);
        answer.reply = RpcReply::AppendEntries(AppendEntriesReply { term: 2, outcome, protocol: 1 });
        cluster.deliver(answer);
        let progress = cluster.progress(1, 2);
        assert_eq!((progress.match_index, progress.next_index), (3, expected), "conflict at {lie}");
        assert_eq!(progress.mode, Mode::Probe);
    }
}

/// P§7: the entry before the first is checked against the snapshot's term; what the snapshot covers is known to match.
#[test]
fn rule_18_the_end_of_the_snapshot_is_checked_and_what_it_covers_is_skipped() {
    let behind_snapshot = || {
        let snapshot = SnapshotMeta { last: Position::new(5, 2), ..SnapshotMeta::default() };
        let hard_state = HardState { term: 4, voted_for: None };
        let entries = vec![entry(6, 3, 3)];
        Raft::new(config(1), Restored { hard_state, snapshot, entries, ..Restored::default() }, Time(0))
    };
    let mut raft = behind_snapshot();
    assert_eq!(raft.commit_index(), 5);
    assert_eq!(append_to(&mut raft, (5, 3), &[(6, 4)], 5), conflict(5, Some(2)), "5@3 is not 5@2");
    assert_eq!(append_to(&mut raft, (5, 2), &[(6, 3)], 6), accepted(6, 6));
    assert_eq!(raft.commit_index(), 6);
    let mut raft = behind_snapshot();
    let old = [(4, 2), (5, 2), (6, 4), (7, 4)];
    assert_eq!(append_to(&mut raft, (3, 1), &old, 5), accepted(7, 7));
    assert_eq!(terms(&raft), [4, 4], "6@3 was a real conflict, 4 and 5 are covered");
}

/// P§5.3, state machine safety: every committed entry is handed out once, in order, never one that is not committed, also
/// when the applier is slow and batches are small.
#[test]
fn rule_24_apply_is_exactly_once_in_order_and_never_beyond_commit() {
    let restored = Restored { entries: log(&[1, 1, 1, 1, 1, 1], 3), ..Restored::default() };
    let config = RaftConfig { max_append_bytes: 80, ..config(1) };
    let mut raft = Raft::new(
        config,
        Restored { hard_state: HardState { term: 4, voted_for: None }, ..restored },
        Time(0),
    );
    assert_eq!(raft.poll_apply(), None, "nothing is committed after a start");
    let mut seen = Vec::new();
    // Batches of one or two entries: 2 is committed when 3 would still fit.
    for commit in [0, 2, 2, 5] {
        append_to(&mut raft, (6, 1), &[], commit);
        while let Some(Apply::Entries(entries)) = raft.poll_apply() {
            assert_eq!(raft.poll_apply(), None, "one batch at a time");
            assert!(raft.last_applied() < entries[0].index());
            seen.extend(entries.iter().map(Entry::index));
            raft.handle_applied(*seen.last().unwrap());
            check(&raft);
        }
        assert_eq!(raft.last_applied(), commit);
    }
    assert_eq!(seen, [1, 2, 3, 4, 5]);
}

/// P§5.3: an applier that claims more than it was given has lost its place.
#[test]
#[should_panic(expected = "applied 5, but only")]
fn rule_24_an_applier_cannot_claim_what_it_was_not_given() {
    let (mut raft, _) = append(&[1, 1, 1, 1], (4, 1), &[], 4);
    assert!(raft.poll_apply().is_some());
    raft.handle_applied(5);
}

/// §4.1: a membership is in force when appended, also after a restart and uncommitted; cut off, the former one is again.
#[test]
fn rule_37_a_membership_is_in_force_when_appended_and_rolled_back_when_cut() {
    let grown = Entry::new(Position::new(2, 3), 0, &Payload::Membership(membership(&[1, 2, 3, 4, 5])));
    let mut raft = member(1, 3, 3, None, &[1]);
    let request = append_request(3, 2, Position::new(1, 1), vec![grown.clone()], 0);
    let _ = raft.handle_append_entries(request, Time(0));
    assert_eq!((raft.membership().members.len(), raft.commit_index()), (5, 0));

    let hard_state = HardState { term: 3, voted_for: None };
    let entries = vec![entry(1, 1, 3), grown];
    let mut restarted =
        Raft::new(config(1), Restored { hard_state, entries, ..Restored::default() }, Time(0));
    assert_eq!(restarted.membership().members.len(), 5);
    let now = restarted.poll_timeout();
    restarted.handle_timeout(now);
    let asked = (2..=5).filter(|&p| matches!(restarted.poll_rpc(id(p), now), PollRpc::Send(..))).count();
    assert_eq!(asked, 4, "campaigns among five");

    append_to(&mut raft, (1, 1), &[(2, 4)], 0);
    assert_eq!((raft.membership().members.len(), raft.membership().is_voter(id(4))), (3, false));
    assert_eq!(raft.poll_rpc(id(4), Time(1)), PollRpc::Stop);
}

/// §10, P§ flow control: at most one RPC under way to a peer, of bounded size, and one entry at a time until the peer's
/// log is known.
#[test]
fn rule_50_what_is_under_way_to_a_peer_is_bounded() {
    let restored = Restored { entries: log(&[1; 40], 1), ..Restored::default() };
    let config = RaftConfig { max_append_bytes: 200, ..config(1) };
    let mut raft = Raft::new(config, restored, Time(0));
    let grown = Payload::Membership(membership(&[1]));
    let now = raft.poll_timeout();
    raft.handle_timeout(now);
    sync(&mut raft, now);
    assert!(raft.is_leader() && raft.propose(&grown, now).is_ok());

    let mut cluster = Cluster::with_logs(&[(2, &[1, 2, 2, 2, 2]), (1, &[1]), (1, &[1])]);
    cluster.elect_with(1, &[2, 3], &[]);
    cluster.call(1, 2);
    let flight = cluster.send(1, 2);
    let RpcRequest::AppendEntries(request) = &flight.request else { panic!("not an append") };
    assert_eq!(request.entries.len(), 1, "one entry while probing");
    assert!(cluster.try_send(1, 2).is_none(), "one RPC at a time");
    let held = cluster.arrive(flight);
    let answer = cluster.answer(held);
    cluster.deliver(answer);
    let RpcRequest::AppendEntries(request) = &cluster.send(1, 2).request else { panic!("not an append") };
    assert_eq!(request.entries.len(), 4, "all the rest once it is known");
}

/// §10: entries that a follower's full queue did not take are not sent again before its disk has caught up; heartbeats,
/// and with them contact and reads, go on.
#[test]
fn rule_50_a_full_follower_gets_heartbeats_but_no_entries() {
    let payload = Payload::Command(vec![7; 100]);
    let new = |index| Entry::new(Position::new(index, 4), 0, &payload);
    let restored = Restored {
        hard_state: HardState { term: 4, voted_for: None },
        entries: log(&[1], 3),
        ..Restored::default()
    };
    let mut raft = Raft::new(RaftConfig { max_unpersisted_bytes: 150, ..config(1) }, restored, Time(0));
    let now = Time::from_millis(1);
    let first = append_request(4, 2, Position::new(1, 1), vec![new(2), new(3)], 0);
    let _ = raft.handle_append_entries(first, now);
    assert!(raft.unpersisted_bytes() >= 150);
    let waiting = raft.handle_append_entries(append_request(4, 2, Position::new(3, 4), vec![new(4)], 4), now);
    assert_eq!((raft.last(), raft.commit_index()), (Position::new(3, 4), 3));
    sync(&mut raft, now);
    let Settled::NotYet(waiting) = raft.settle(waiting, now + ms(HOLD_MS - 1)) else {
        panic!("answered at once")
    };
    assert_eq!(ready(&raft, waiting, now + ms(HOLD_MS)).outcome, accepted(3, 3));

    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "3");
    let flight = cluster.send(1, 2);
    let held = cluster.arrive(flight);
    let mut answer = cluster.answer(held);
    answer.reply =
        RpcReply::AppendEntries(AppendEntriesReply { term: 2, outcome: accepted(2, 1), protocol: 1 });
    cluster.deliver(answer);
    assert!(!cluster.progress(1, 2).is_full, "its disk has all it has received: try again at once");

    cluster.run_until_quiet();
    cluster.hold_disk(2);
    cluster.propose(1, "4");
    let flight = cluster.send(1, 2);
    let held = cluster.arrive(flight);
    let answer = cluster.answer_after(held, HOLD_MS);
    cluster.deliver(answer);
    cluster.propose(1, "5");
    let flight = cluster.send(1, 2);
    let held = cluster.arrive(flight);
    let mut answer = cluster.answer_after(held, HOLD_MS);
    answer.reply =
        RpcReply::AppendEntries(AppendEntriesReply { term: 2, outcome: accepted(4, 3), protocol: 1 });
    cluster.deliver(answer);
    assert!(cluster.progress(1, 2).is_full);
    let flight = cluster.send(1, 2);
    let RpcRequest::AppendEntries(request) = &flight.request else { panic!("not an append") };
    assert_eq!((request.prev.index, request.entries.len()), (4, 0));
    cluster.release_disk(2);
    let held = cluster.arrive(flight);
    let answer = cluster.answer(held);
    cluster.deliver(answer);
    assert!(!cluster.progress(1, 2).is_full);
    let RpcRequest::AppendEntries(request) = &cluster.send(1, 2).request else { panic!("not an append") };
    assert_eq!(request.entries.len(), 1, "the disk has caught up");
}

/// §10: more bytes than the queue for the disk may hold are refused before they are in the log.
#[test]
fn rule_50_proposals_are_refused_while_too_many_bytes_wait_for_the_disk() {
    let restored = Restored { entries: log(&[1], 1), ..Restored::default() };
    let mut raft = Raft::new(RaftConfig { max_unpersisted_bytes: 300, ..config(1) }, restored, Time(0));
    let now = raft.poll_timeout();
    raft.handle_timeout(now);
    sync(&mut raft, now);
    let command = Payload::Command(vec![1; 200]);
    assert!(raft.propose(&command, now).is_ok() && raft.propose(&command, now).is_ok());
    let waiting_bytes = raft.unpersisted_bytes();
    let last = raft.last();
    assert_eq!(raft.propose(&command, now), Err(ProposeError::Overloaded { waiting_bytes }));
    assert_eq!(raft.last(), last);
    sync(&mut raft, now);
    assert!(raft.propose(&command, now).is_ok());
}

/// etcd#14098: no term or index of a message can exhaust a counter; absurd terms are refused and change nothing.
#[test]
fn rule_51_absurd_terms_and_indexes_change_nothing() {
    let mut raft = member(1, 3, 4, None, &[1, 4]);
    let last = Position::new(2, 4);
    for term in [Term::MAX, 4 + MAX_TERM_JUMP + 1] {
        for pre_vote in [false, true] {
            let request = RequestVoteRequest { pre_vote, transfer: true, ..vote_request(term, 2, last) };
            let waiting = raft.handle_request_vote(request, Time(1));
            assert_eq!(
                ready(&raft, waiting, Time(1)),
                RequestVoteReply { term: 4, granted: false, protocol: 1 }
            );
        }
        let waiting = raft.handle_append_entries(append_request(term, 2, last, vec![], u64::MAX), Time(1));
        let term_only = AppendEntriesReply { term: 4, outcome: AppendOutcome::TermOnly, protocol: 1 };
        assert_eq!(ready(&raft, waiting, Time(1)), term_only);
    }
    assert_eq!((raft.term(), raft.leader()), (4, None));
    let outcome = append_to(&mut raft, (u64::MAX, 4), &[], u64::MAX);
    assert_eq!((outcome, raft.commit_index()), (conflict(3, None), 0));
    let waiting =
        raft.handle_request_vote(vote_request(4 + MAX_TERM_JUMP, 2, last), Time::from_millis(T_MS + 1));
    sync(&mut raft, Time(1));
    assert!(ready(&raft, waiting, Time(1)).granted, "the farthest honest term");

    // The same in replies.
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.wait(HEARTBEAT_MS);
    let flight = cluster.send(1, 2);
    let held = cluster.arrive(flight);
    let mut answer = cluster.answer(held);
    let reply = AppendEntriesReply { term: Term::MAX, outcome: AppendOutcome::TermOnly, protocol: 1 };
    answer.reply = RpcReply::AppendEntries(reply);
    cluster.deliver(answer);
    assert_eq!(cluster.state(1), "leader@2 log 1 2 commit 2");
    assert!(cluster.has_traced(&["refuses term 18446744073709551615"]));
}

/// etcd#10166, etcd#16220: a peer that refuses what it had acknowledged has lost data. Its match does not fall, it gets
/// nothing more, and the operator is told.
#[test]
fn rule_52_a_peer_that_lost_acknowledged_entries_is_not_counted_on_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "3");
    cluster.propose(1, "4");
    cluster.run_for(HEARTBEAT_MS);
    assert_eq!(cluster.progress(1, 2).match_index, 4);
    cluster.crash(2);
    cluster.restart_with_log_cut_to(2, 2);
    cluster.run_for(T_MS);
    let progress = cluster.progress(1, 2);
    assert_eq!((progress.mode, progress.match_index), (Mode::Lost, 4));
    assert!(cluster.has_traced(&["lost data", "replace that member"]));
    assert_eq!(cluster.raft(2).last(), Position::new(2, 2), "nothing more is sent to it");
    cluster.crash(3);
    cluster.propose(1, "5");
    cluster.run_for(T_MS - 1);
    assert_eq!(cluster.raft(1).commit_index(), 4, "one disk of three: the lost one does not count");
    cluster.run_for(1);
    assert!(cluster.has_traced(&["steps down", "no majority"]), "nor is it contact");
}

/// P§5.3, Figure 7: whatever a crash left in the followers' logs (a-f), the leader of term 8 makes them equal to its own.
#[test]
fn rule_17_figure_7_every_follower_ends_with_the_leaders_log() {
    let leader: &[Term] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [(&str, &[Term]); 6] = [
        ("a", &[1, 1, 1, 4, 4, 5, 5, 6, 6]),
        ("b", &[1, 1, 1, 4]),
        ("c", &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6]),
        ("d", &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7]),
        ("e", &[1, 1, 1, 4, 4, 4, 4]),
        ("f", &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]),
    ];
    // All seven at once, as in the figure: the leader needs four votes and gets those of a, b, e and f.
    let mut members = vec![(7, leader)];
    members.extend(followers.iter().map(|&(_, log)| (7, log)));
    let mut cluster = Cluster::with_logs(&members);
    cluster.elect(1);
    cluster.run_for(HEARTBEAT_MS);
    let log = "log 1 1 1 4 4 5 5 6 6 6 8 commit 11";
    assert_eq!(cluster.state(1), format!("leader@8 {log}"));
    for (member, (name, _)) in (2..).zip(followers) {
        assert_eq!(cluster.state(member), format!("follower@8 {log}"), "follower ({name})");
    }
}
