//! A leader's side of AppendEntries: what it sends, and what it makes of the results.

use super::*;

fn reply(term: Term, outcome: AppendOutcome) -> Result<RpcReply, RpcFailed> {
    Ok(RpcReply::AppendEntries(AppendEntriesReply { term, outcome, protocol: 1 }))
}

fn accepted(received: Index, match_index: Index) -> Result<RpcReply, RpcFailed> {
    reply(5, AppendOutcome::Accepted { received, match_index })
}

/// `match next mode` of member 2, and whether it is full.
fn progress(raft: &Raft) -> String {
    let (_, p) = raft.peers_progress().find(|(peer, _)| *peer == MemberId(2)).expect("a peer");
    format!("{} {} {:?}{}", p.match_index, p.next_index, p.mode, if p.is_full { " full" } else { "" })
}

/// A leader with `commands` commands after its no-op, all durable here, and the RPC that goes to member 2 first.
fn sending(commands: usize) -> (Raft, Time, Ticket) {
    let (mut raft, now) = leader();
    for _ in 0..commands {
        raft.propose(&Payload::Command(vec![1]), now).unwrap();
    }
    sync(&mut raft, now);
    let (_, ticket) = asked(&mut raft, 2, now);
    (raft, now, ticket)
}

#[test]
fn poll_rpc_leader_sends_its_noop_and_then_heartbeats() {
    let (mut raft, now) = leader();
    let (request, ticket) = asked(&mut raft, 2, now);
    let RpcRequest::AppendEntries(request) = request else { panic!("not an append") };
    assert_eq!((request.term, request.leader, request.prev), (5, MemberId(1), Position::new(2, 4)));
    assert_eq!((request.last_index(), request.commit), (3, 0));
    assert_eq!(
        raft.poll_rpc(MemberId(2), now),
        PollRpc::WaitUntil(Time::NEVER, Awaits::Everything),
        "one at a time"
    );
    raft.handle_rpc_result(ticket, accepted(3, 3), now);
    let due = now + Duration::from_millis(50);
    assert_eq!(raft.poll_rpc(MemberId(2), now), PollRpc::WaitUntil(due, Awaits::Everything));
    let (request, _ticket) = asked(&mut raft, 2, due);
    let RpcRequest::AppendEntries(request) = request else { panic!("not an append") };
    assert_eq!((request.prev, request.entries.len()), (Position::new(3, 5), 0));
    assert_eq!(raft.poll_rpc(MemberId(9), due), PollRpc::Stop, "no member");
    assert_eq!(raft.poll_rpc(MemberId(1), due), PollRpc::Stop, "itself");
}

#[test]
fn poll_rpc_follower_sends_nothing() {
    assert_eq!(
        follower().poll_rpc(MemberId(2), Time(0)),
        PollRpc::WaitUntil(Time::NEVER, Awaits::AllButEntries)
    );
}

#[test]
fn handle_rpc_result_accepted_commits_with_the_own_disk() {
    let (mut raft, now, ticket) = sending(0);
    let ((), lines) = effects(&mut raft, |raft| raft.handle_rpc_result(ticket, accepted(3, 3), now));
    let expected = [
        "leader@5 vote 1 leader 1 log 1 4 5 commit 3 durable 3",
        "Committed(Position { index: 3, term: 5 })",
    ];
    assert_eq!((lines, progress(&raft)), (expected.map(String::from).to_vec(), "3 4 Replicate".to_string()));
}

#[test]
fn handle_rpc_result_received_moves_next_and_not_match() {
    let (mut raft, now, ticket) = sending(0);
    let ((), lines) = effects(&mut raft, |raft| raft.handle_rpc_result(ticket, accepted(3, 2), now));
    assert_eq!((lines, progress(&raft)), (vec![], "2 4 Replicate".to_string()));
    assert!(matches!(raft.poll_rpc(MemberId(2), now), PollRpc::Send(..)), "asks for the disk at once");
}

#[test]
fn handle_rpc_result_not_taken_makes_the_peer_full_until_its_disk_caught_up() {
    let (mut raft, now, ticket) = sending(1);
    raft.handle_rpc_result(ticket, accepted(3, 2), now);
    assert_eq!(progress(&raft), "2 4 Replicate");
    let (_, ticket) = asked(&mut raft, 2, now);
    raft.handle_rpc_result(ticket, accepted(3, 2), now);
    assert_eq!(progress(&raft), "2 4 Replicate full");
    let (request, ticket) = asked(&mut raft, 2, now);
    let RpcRequest::AppendEntries(request) = request else { panic!("not an append") };
    assert_eq!((request.prev.index, request.entries.len()), (3, 0));
    raft.handle_rpc_result(ticket, accepted(3, 2), now);
    assert_eq!(progress(&raft), "2 4 Replicate full");
    let (_, ticket) = asked(&mut raft, 2, now);
    raft.handle_rpc_result(ticket, accepted(3, 3), now);
    assert_eq!(progress(&raft), "3 4 Replicate");
}

#[test]
fn handle_rpc_result_conflict_backtracks() {
    let (mut raft, now, ticket) = sending(0);
    let outcome = AppendOutcome::Conflict { conflict_index: 2, conflict_term: Some(3) };
    let ((), lines) = effects(&mut raft, |raft| raft.handle_rpc_result(ticket, reply(5, outcome), now));
    assert_eq!(lines, ["Backtracked(2, 2)"]);
    assert_eq!(progress(&raft), "0 2 Probe");
}

#[test]
fn handle_rpc_result_conflict_at_match_means_lost() {
    let (mut raft, now, ticket) = sending(0);
    raft.handle_rpc_result(ticket, accepted(3, 3), now);
    let later = now + Duration::from_millis(50);
    let (_, ticket) = asked(&mut raft, 2, later);
    let outcome = AppendOutcome::Conflict { conflict_index: 2, conflict_term: None };
    let ((), lines) = effects(&mut raft, |raft| raft.handle_rpc_result(ticket, reply(5, outcome), later));
    assert_eq!(lines[lines.len() - 1], "PeerLostEntries(2, 3, 3)");
    assert_eq!(progress(&raft), "3 4 Lost");
    let much_later = later + Duration::from_millis(1_000);
    assert_eq!(
        raft.poll_rpc(MemberId(2), much_later),
        PollRpc::WaitUntil(Time::NEVER, Awaits::AllButEntries)
    );
}

#[test]
fn handle_rpc_result_higher_term_ends_the_leadership() {
    let (mut raft, now, ticket) = sending(0);
    raft.read_index(now).unwrap();
    let result = reply(8, AppendOutcome::TermOnly);
    let ((), lines) = effects(&mut raft, |raft| raft.handle_rpc_result(ticket, result, now));
    let expected = [
        "follower@8 vote - leader - log 1 4 5 commit 0 durable 3",
        "timer moved",
        "writes term 8 vote None",
        "SteppedDown(HigherTerm(8))",
        "AdoptedTerm(2, 8)",
        "read Err(NotLeader { leader: None })",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn handle_rpc_result_failed_probes_from_match() {
    let (mut raft, now, ticket) = sending(1);
    raft.handle_rpc_result(ticket, accepted(3, 2), now);
    let (_, ticket) = asked(&mut raft, 2, now);
    let ((), lines) = effects(&mut raft, |raft| raft.handle_rpc_result(ticket, Err(RpcFailed), now));
    assert_eq!((lines, progress(&raft)), (vec![], "2 3 Probe".to_string()));
    let pause = now + Duration::from_millis(50);
    assert_eq!(raft.poll_rpc(MemberId(2), now), PollRpc::WaitUntil(pause, Awaits::Nothing));
}

#[test]
fn handle_rpc_result_of_the_other_kind_says_nothing() {
    let (mut raft, now, ticket) = sending(0);
    let vote = Ok(RpcReply::RequestVote(RequestVoteReply { term: 9, granted: true, protocol: 1 }));
    let ((), lines) = effects(&mut raft, |raft| raft.handle_rpc_result(ticket, vote, now));
    assert_eq!((lines, progress(&raft)), (vec![], "0 3 Probe".to_string()));
}

#[test]
fn handle_persisted_leader_commits_what_its_disk_completes() {
    let (mut raft, now) = leader();
    let (_, ticket) = asked(&mut raft, 2, now);
    raft.handle_rpc_result(ticket, accepted(3, 3), now);
    assert_eq!(raft.commit_index(), 0, "one disk of three");
    let token = raft.read_index(now).unwrap();
    let seq = raft.watermarks().queued_seq;
    let ((), lines) = effects(&mut raft, |raft| raft.handle_persisted(seq, now));
    let committed = "Committed(Position { index: 3, term: 5 })";
    assert_eq!(lines, ["leader@5 vote 1 leader 1 log 1 4 5 commit 3 durable 3", committed]);
    let (_, ticket) = asked(&mut raft, 2, now);
    raft.handle_rpc_result(ticket, accepted(3, 3), now);
    assert_eq!(raft.poll_reads(), [ReadDone { token, result: Ok(3) }]);
}

#[test]
fn handle_applied_moves_last_applied_only() {
    let (mut raft, now, ticket) = sending(0);
    raft.handle_rpc_result(ticket, accepted(3, 3), now);
    let Some(Apply::Entries(entries)) = raft.poll_apply() else { panic!("nothing to apply") };
    assert_eq!(entries.iter().map(Entry::index).collect::<Vec<_>>(), [1, 2, 3]);
    let ((), lines) = effects(&mut raft, |raft| raft.handle_applied(3));
    assert_eq!((lines, raft.last_applied(), raft.poll_apply()), (vec![], 3, None));
}

#[test]
fn propose_cluster_times_rise_with_the_leaders_clock() {
    let (mut raft, now) = leader();
    let later = now + Duration::from_millis(7);
    let position = raft.propose(&Payload::Command(vec![]), later).unwrap();
    assert_eq!(position, Position::new(4, 5));
    let cluster_times: Vec<ClusterTime> = raft.log().iter().map(Entry::cluster_time).collect();
    assert_eq!(cluster_times, [0, 0, 0, 7_000]);
    assert_eq!(follower().propose(&Payload::Noop, now), Err(ProposeError::NotLeader { leader: None }));
}
