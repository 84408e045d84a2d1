//! Which threads a step wakes: exactly those that have something to do.

use super::*;

/// What the step wakes among the replicators, and whether it wakes the senders.
fn woken(raft: &mut Raft, step: impl FnOnce(&mut Raft)) -> (Option<Awaits>, bool) {
    let before = raft.watermarks();
    step(raft);
    let after = raft.watermarks();
    (before.wakes_replicators(&after), before.wakes_senders(&after))
}

/// Each append at a follower once woke all of its replicators, although only a leader sends entries.
#[test]
fn a_followers_append_wakes_no_replicator() {
    let mut raft = follower();
    let entries = vec![Entry::new(Position::new(3, 5), 0, &Payload::Noop)];
    let append = |entries, commit| AppendEntriesRequest {
        term: 5,
        leader: MemberId(2),
        prev: Position::new(2, 4),
        commit,
        entries,
    };
    let (request, heartbeat) = (append(entries, 0), append(Vec::new(), 2));
    let now = Time::from_millis(1);
    // The term rises, a leader is found, the log grows, entries are committed: nothing of it is sent to anybody.
    assert_eq!(woken(&mut raft, |raft| drop(raft.handle_append_entries(request, now))), (None, false));
    assert_eq!(woken(&mut raft, |raft| drop(raft.handle_append_entries(heartbeat, now))), (None, false));
    assert_eq!(woken(&mut raft, |raft| sync(raft, now)), (None, false));
}

#[test]
fn a_campaign_wakes_the_replicators_and_a_leaders_entries_wake_those_that_send_them() {
    let mut raft = follower();
    let now = raft.poll_timeout();
    let all = (Some(Awaits::AllButEntries), false);
    assert_eq!(woken(&mut raft, |raft| raft.handle_timeout(now)), all);
    let (_, ticket) = asked(&mut raft, 2, now);
    let granted = |term| Ok(RpcReply::RequestVote(RequestVoteReply { term, granted: true, protocol: 1 }));
    assert_eq!(woken(&mut raft, |raft| raft.handle_rpc_result(ticket, granted(5), now)), all);
    assert_eq!(woken(&mut raft, |raft| sync(raft, now)), all, "its own vote is durable");
    let (_, ticket) = asked(&mut raft, 2, now);
    assert_eq!(woken(&mut raft, |raft| raft.handle_rpc_result(ticket, granted(5), now)), all);
    let propose = |raft: &mut Raft| assert!(raft.propose(&Payload::Command(vec![1]), now).is_ok());
    assert_eq!(woken(&mut raft, propose), (Some(Awaits::Everything), false));
    assert_eq!(woken(&mut raft, |raft| sync(raft, now)), (None, false), "what is durable here is not sent");
    assert_eq!(woken(&mut raft, |raft| assert!(raft.read_index(now).is_ok())), all, "a read needs a round");
}

/// A leader of three, elected, whose log begins after a snapshot through `4@4`.
fn leader_after_snapshot() -> (Raft, Time) {
    let last = Position::new(4, 4);
    let membership = genesis(3).membership().expect("it has one").clone();
    let snapshot = SnapshotMeta { last, membership, membership_index: 1, ..SnapshotMeta::default() };
    let hard_state = HardState { term: 4, voted_for: None };
    let restored = Restored { hard_state, snapshot, ..Restored::default() };
    let mut raft = Raft::new(config(1), restored, Time(0));
    let now = raft.poll_timeout();
    raft.handle_timeout(now);
    for _ in ["pre-vote", "vote"] {
        sync(&mut raft, now);
        let (_, ticket) = asked(&mut raft, 2, now);
        let granted = RequestVoteReply { term: 5, granted: true, protocol: 1 };
        raft.handle_rpc_result(ticket, Ok(RpcReply::RequestVote(granted)), now);
    }
    assert!(raft.is_leader());
    (raft, now)
}

fn lacks_everything() -> Result<RpcReply, RpcFailed> {
    let outcome = AppendOutcome::Conflict { conflict_index: 2, conflict_term: None };
    Ok(RpcReply::AppendEntries(AppendEntriesReply { term: 5, outcome, protocol: 1 }))
}

/// The count of the peers that need a snapshot did not change when one got its snapshot in the step in which another
/// began to need one: the sender of the other slept on.
#[test]
fn a_peer_that_needs_a_snapshot_in_the_step_in_which_another_got_it_wakes_its_sender() {
    let (mut raft, now) = leader_after_snapshot();
    let (_, first) = asked(&mut raft, 2, now);
    let (_, second) = asked(&mut raft, 3, now);
    let all = Some(Awaits::AllButEntries);
    assert_eq!(woken(&mut raft, |raft| raft.handle_rpc_result(first, lacks_everything(), now)), (None, true));
    let PollBulk::Transfer(_, ticket) = raft.poll_bulk(MemberId(2), now) else { panic!("not wanted") };
    let holds = InstallSnapshotReply { term: 5, outcome: InstallOutcome::Holds(4), protocol: 1 };
    let both = |raft: &mut Raft| {
        raft.handle_snapshot_result(ticket, Ok(holds), now);
        raft.handle_rpc_result(second, lacks_everything(), now);
    };
    assert_eq!(woken(&mut raft, both), (all, true), "the first goes on with appends");
    assert!(matches!(raft.poll_bulk(MemberId(3), now), PollBulk::Transfer(..)));
    // A peer that still needs its snapshot is no new wish.
    let later = now + Duration::from_millis(50);
    let (_, heartbeat) = asked(&mut raft, 3, later);
    assert_eq!(
        woken(&mut raft, |raft| raft.handle_rpc_result(heartbeat, lacks_everything(), later)),
        (None, false)
    );
    let awaited = raft.poll_rpc(MemberId(3), later);
    assert_eq!(awaited, PollRpc::WaitUntil(later + Duration::from_millis(50), Awaits::AllButEntries));
}

/// The replicators of a removed member slept on at every member that took no further entry.
#[test]
fn the_commit_of_a_removal_wakes_the_replicators() {
    let mut raft = follower();
    let members = genesis(2).membership().expect("it has one").clone();
    let removal = Entry::new(Position::new(3, 5), 0, &Payload::Membership(Membership::clone(&members)));
    let append =
        |prev, entries, commit| AppendEntriesRequest { term: 5, leader: MemberId(2), prev, commit, entries };
    let now = Time::from_millis(1);
    let (first, then) =
        (append(Position::new(2, 4), vec![removal], 0), append(Position::new(3, 5), Vec::new(), 3));
    let all = (Some(Awaits::AllButEntries), false);
    assert_eq!(woken(&mut raft, |raft| drop(raft.handle_append_entries(first, now))), all);
    assert!(raft.poll_rpc(MemberId(3), now) != PollRpc::Stop, "the removal may be taken back");
    assert_eq!(woken(&mut raft, |raft| drop(raft.handle_append_entries(then, now))), all);
    assert_eq!(raft.poll_rpc(MemberId(3), now), PollRpc::Stop);
}
