//! RequestVote and pre-votes, received and answered, in every role; the timers.

use super::*;

fn request(term: Term, candidate: u64, pre_vote: bool) -> RequestVoteRequest {
    let last = Position::new(2, 4);
    RequestVoteRequest { term, candidate: MemberId(candidate), last, pre_vote, transfer: false }
}

/// Asks at `at`; returns the reply (once the disk has caught up) and the effects.
fn vote(raft: &mut Raft, request: RequestVoteRequest, at: Time) -> (RequestVoteReply, Vec<String>) {
    let (waiting, mut lines) = effects(raft, |raft| raft.handle_request_vote(request, at));
    if waiting.after > raft.persisted_seq() {
        lines.push("reply waits for the disk".to_string());
    }
    raft.handle_persisted(raft.watermarks().queued_seq, at);
    (ready(raft, waiting, at), lines)
}

fn granted(term: Term) -> RequestVoteReply {
    RequestVoteReply { term, granted: true, protocol: 1 }
}

fn refused(term: Term) -> RequestVoteReply {
    RequestVoteReply { term, granted: false, protocol: 1 }
}

#[test]
fn handle_request_vote_follower_grants_in_a_higher_term() {
    let (reply, lines) = vote(&mut follower(), request(5, 2, false), Time(7));
    assert_eq!(reply, granted(5));
    let expected = [
        "follower@5 vote 2 leader - log 1 4 commit 0 durable 2",
        "timer moved",
        "writes term 5 vote None",
        "writes term 5 vote Some(2)",
        "AdoptedTerm(2, 5)",
        "Voted(2, Position { index: 2, term: 4 })",
        "reply waits for the disk",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn handle_request_vote_follower_grants_twice_without_a_second_write() {
    let mut raft = follower();
    vote(&mut raft, request(4, 2, false), Time(7));
    let (reply, lines) = vote(&mut raft, request(4, 2, false), Time(8));
    assert_eq!((reply, lines), (granted(4), vec!["timer moved".to_string()]));
    let (reply, lines) = vote(&mut raft, request(4, 3, false), Time(9));
    assert_eq!((reply, lines), (refused(4), vec!["RefusedVote(3, VotedFor(2))".to_string()]));
}

#[test]
fn handle_request_vote_pre_candidate_grants_and_gives_up() {
    let (mut raft, now) = pre_candidate();
    let (reply, lines) = vote(&mut raft, request(4, 2, false), now);
    assert_eq!(reply, granted(4));
    let expected = [
        "follower@4 vote 2 leader - log 1 4 commit 0 durable 2",
        "timer moved",
        "writes term 4 vote Some(2)",
        "Voted(2, Position { index: 2, term: 4 })",
        "reply waits for the disk",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn handle_request_vote_candidate_refuses_a_rival_and_yields_to_a_higher_term() {
    let (mut raft, now) = candidate();
    sync(&mut raft, now);
    let (reply, lines) = vote(&mut raft, request(5, 2, false), now);
    assert_eq!((reply, lines), (refused(5), vec!["RefusedVote(2, VotedFor(1))".to_string()]));
    let (reply, lines) = vote(&mut raft, request(6, 2, false), now);
    assert_eq!(reply, granted(6));
    assert_eq!(lines[0], "follower@6 vote 2 leader - log 1 4 commit 0 durable 2");
}

#[test]
fn handle_request_vote_candidate_whose_vote_is_pending_answers_after_it() {
    let (mut raft, now) = candidate();
    let (waiting, lines) = effects(&mut raft, |raft| raft.handle_request_vote(request(5, 2, true), now));
    assert_eq!(lines, ["RefusedVote(2, OldTerm)"]);
    let Settled::NotYet(waiting) = raft.settle(waiting, now) else { panic!("term 5 is not durable") };
    raft.handle_persisted(raft.watermarks().queued_seq, now);
    assert_eq!(ready(&raft, waiting, now), refused(5));
}

#[test]
fn handle_request_vote_leader_refuses_while_a_quorum_answers() {
    let (mut raft, now) = leader();
    for pre_vote in [false, true] {
        let (reply, lines) = vote(&mut raft, request(9, 2, pre_vote), now);
        assert_eq!(reply, refused(5));
        assert_eq!(lines, ["RefusedVote(2, LeaderIsAlive)"]);
    }
    let (reply, lines) = vote(&mut raft, request(9, 2, true), now + Duration::from_millis(300));
    assert_eq!(
        (reply.granted, lines),
        (false, vec!["RefusedVote(2, LogBehind(Position { index: 3, term: 5 }))".to_string()])
    );
}

#[test]
fn handle_request_vote_pre_vote_changes_nothing_in_any_role() {
    let (pre_candidate, now) = pre_candidate();
    for mut raft in [follower(), pre_candidate, candidate().0] {
        raft.handle_persisted(raft.watermarks().queued_seq, now);
        let (reply, lines) = vote(&mut raft, request(9, 2, true), now);
        assert_eq!((reply, lines), (granted(9), vec![]));
    }
}

#[test]
fn handle_rpc_result_pre_candidate_with_a_majority_campaigns() {
    let (mut raft, now) = pre_candidate();
    let (_, ticket) = asked(&mut raft, 2, now);
    let reply = Ok(RpcReply::RequestVote(granted(5)));
    let ((), lines) = effects(&mut raft, |raft| raft.handle_rpc_result(ticket, reply, now));
    let expected = [
        "candidate@5 vote 1 leader - log 1 4 commit 0 durable 2",
        "timer moved",
        "writes term 5 vote Some(1)",
        "Campaign",
    ];
    assert_eq!(lines, expected);
    assert_eq!(
        raft.poll_rpc(MemberId(3), now),
        PollRpc::WaitUntil(Time::NEVER, Awaits::AllButEntries),
        "not before its vote is durable"
    );
}

#[test]
fn handle_rpc_result_candidate_with_a_majority_leads() {
    let (mut raft, now) = candidate();
    sync(&mut raft, now);
    let (_, ticket) = asked(&mut raft, 3, now);
    let reply = Ok(RpcReply::RequestVote(granted(5)));
    let ((), lines) = effects(&mut raft, |raft| raft.handle_rpc_result(ticket, reply, now));
    let expected = [
        "leader@5 vote 1 leader 1 log 1 4 5 commit 0 durable 2",
        "timer moved",
        "writes 3@5",
        "Elected(2, 3)",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn handle_rpc_result_of_an_earlier_ballot_counts_for_nothing() {
    let (mut raft, now) = pre_candidate();
    let (_, ticket) = asked(&mut raft, 2, now);
    let later = raft.poll_timeout();
    raft.handle_timeout(later);
    let reply = Ok(RpcReply::RequestVote(granted(5)));
    let ((), lines) = effects(&mut raft, |raft| raft.handle_rpc_result(ticket, reply, later));
    assert_eq!((lines, raft.role_kind()), (vec![], RoleKind::PreCandidate));
    assert!(matches!(raft.poll_rpc(MemberId(2), later), PollRpc::Send(..)), "asked again");
}

#[test]
fn handle_rpc_result_refusal_is_not_asked_again_and_a_failure_is() {
    let (mut raft, now) = pre_candidate();
    let (_, ticket) = asked(&mut raft, 2, now);
    let reply = Ok(RpcReply::RequestVote(refused(4)));
    let ((), lines) = effects(&mut raft, |raft| raft.handle_rpc_result(ticket, reply, now));
    assert_eq!(lines, Vec::<String>::new());
    assert_eq!(raft.poll_rpc(MemberId(2), now), PollRpc::WaitUntil(Time::NEVER, Awaits::AllButEntries));

    let (_, ticket) = asked(&mut raft, 3, now);
    let ((), lines) = effects(&mut raft, |raft| raft.handle_rpc_result(ticket, Err(RpcFailed), now));
    assert_eq!(lines, Vec::<String>::new());
    let pause = now + Duration::from_millis(50);
    assert_eq!(raft.poll_rpc(MemberId(3), now), PollRpc::WaitUntil(pause, Awaits::Nothing));
    assert!(matches!(raft.poll_rpc(MemberId(3), pause), PollRpc::Send(..)));
}

#[test]
#[should_panic(expected = "came back twice")]
fn handle_rpc_result_refuses_a_ticket_that_came_back() {
    let (mut raft, now) = pre_candidate();
    let (_, ticket) = asked(&mut raft, 2, now);
    raft.handle_rpc_result(ticket.clone(), Err(RpcFailed), now);
    raft.handle_rpc_result(ticket, Err(RpcFailed), now);
}

#[test]
fn handle_timeout_in_every_role() {
    let mut raft = follower();
    let now = raft.poll_timeout();
    let ((), lines) = effects(&mut raft, |raft| raft.handle_timeout(now));
    let expected =
        ["pre-candidate@4 vote - leader - log 1 4 commit 0 durable 2", "timer moved", "PreCampaign"];
    assert_eq!(lines, expected);

    let (mut raft, now) = candidate();
    let ((), lines) = effects(&mut raft, |raft| raft.handle_timeout(now + Duration::from_millis(700)));
    assert_eq!(lines, Vec::<String>::new(), "no timer before its vote is durable");
    sync(&mut raft, now);
    raft.handle_persisted(raft.watermarks().queued_seq, now);
    let later = raft.poll_timeout();
    assert!(later > now + Duration::from_millis(300) && later <= now + Duration::from_millis(600));
    let ((), lines) = effects(&mut raft, |raft| raft.handle_timeout(later));
    assert_eq!(lines[0], "pre-candidate@5 vote 1 leader - log 1 4 commit 0 durable 2");

    let (mut raft, now) = leader();
    raft.read_index(now).unwrap();
    let later = now + Duration::from_millis(300);
    let ((), lines) = effects(&mut raft, |raft| raft.handle_timeout(later));
    let expected = [
        "follower@5 vote 1 leader - log 1 4 5 commit 0 durable 2",
        "timer moved",
        "SteppedDown(NoQuorum)",
        "read Err(NotLeader { leader: None })",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn handle_timeout_disk_stalled_ends_every_campaign_and_leadership() {
    let stall = Duration::from_millis(2_000);
    let (mut raft, now) = candidate();
    let ((), lines) = effects(&mut raft, |raft| raft.handle_timeout(now + stall));
    let expected = ["follower@5 vote 1 leader - log 1 4 commit 0 durable 2", "timer moved", "DiskStalled"];
    assert_eq!(lines, expected);
    let seq = raft.watermarks().queued_seq;
    let ((), lines) = effects(&mut raft, |raft| raft.handle_persisted(seq, now + stall));
    assert_eq!(lines, ["DiskRecovered"]);

    let (mut raft, now) = leader();
    let ((), lines) = effects(&mut raft, |raft| raft.handle_timeout(now + stall));
    assert_eq!(lines[2..], ["DiskStalled", "SteppedDown(DiskStalled)"]);
}

#[test]
fn handle_persisted_candidate_counts_its_vote_and_starts_its_timer() {
    let (mut raft, now) = candidate();
    let seq = raft.poll_write().last_seq().unwrap();
    let ((), lines) = effects(&mut raft, |raft| raft.handle_persisted(seq, now));
    assert_eq!(lines, ["timer moved"]);
    let (request, _ticket) = asked(&mut raft, 3, now);
    let last = Position::new(2, 4);
    let expected =
        RequestVoteRequest { term: 5, candidate: MemberId(1), last, pre_vote: false, transfer: false };
    assert_eq!(request, RpcRequest::RequestVote(expected));
}

#[test]
fn new_sole_voter_waits_for_no_other_leader() {
    let mut raft = member(1, 1);
    assert_eq!(raft.poll_timeout(), Time(0));
    raft.handle_timeout(Time(0));
    sync(&mut raft, Time(0));
    assert!(raft.is_leader());
    assert!(member(1, 2).poll_timeout() > Time::from_millis(300), "another one may lead");
}

/// A new cluster waited for an election timeout, although nobody could lead it yet.
#[test]
fn begin_first_term_campaigns_at_once_and_still_asks_for_pre_votes() {
    let (mut raft, now) = (member(1, 3), Time::from_millis(1));
    assert!(raft.poll_timeout() > Time::from_millis(300));
    raft.begin_first_term(now);
    assert_eq!(raft.poll_timeout(), now);
    raft.handle_timeout(now);
    assert_eq!((raft.role_kind(), raft.term()), (RoleKind::PreCandidate, 1));
    assert!(raft.poll_timeout() > now + Duration::from_millis(300), "the next campaign takes its time");
    // With a leader there is nothing to begin.
    let request = AppendEntriesRequest {
        term: 2,
        leader: MemberId(2),
        prev: Position::new(1, 1),
        commit: 1,
        entries: Vec::new(),
    };
    drop(raft.handle_append_entries(request, now));
    let timeout = raft.poll_timeout();
    raft.begin_first_term(now);
    assert_eq!(raft.poll_timeout(), timeout);
}
