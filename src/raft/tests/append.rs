//! AppendEntries received, in every role.

use super::*;

fn entry(index: Index, term: Term) -> Entry {
    Entry::new(Position::new(index, term), 0, &Payload::Noop)
}

fn request(term: Term, prev: (Index, Term), entries: Vec<Entry>, commit: Index) -> AppendEntriesRequest {
    AppendEntriesRequest { term, leader: MemberId(2), prev: Position::new(prev.0, prev.1), commit, entries }
}

/// Returns the reply, once the disk has caught up, and the effects.
fn append(raft: &mut Raft, request: AppendEntriesRequest, at: Time) -> (AppendEntriesReply, Vec<String>) {
    let (waiting, lines) = effects(raft, |raft| raft.handle_append_entries(request, at));
    raft.handle_persisted(raft.watermarks().queued_seq, at);
    (ready(raft, waiting, at), lines)
}

fn accepted(term: Term, received: Index, match_index: Index) -> AppendEntriesReply {
    AppendEntriesReply { term, outcome: AppendOutcome::Accepted { received, match_index }, protocol: 1 }
}

#[test]
fn handle_append_entries_follower_appends_after_a_match() {
    let (reply, lines) = append(&mut follower(), request(4, (2, 4), vec![entry(3, 4)], 2), Time(7));
    assert_eq!(reply, accepted(4, 3, 3));
    let expected = [
        "follower@4 vote - leader 2 log 1 4 4 commit 2 durable 2",
        "timer moved",
        "writes 3@4",
        "Follows(2)",
        "Committed(Position { index: 2, term: 4 })",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn handle_append_entries_follower_cuts_at_a_conflict() {
    let mut raft = follower();
    let new = vec![entry(2, 5), entry(3, 5)];
    let (reply, lines) = append(&mut raft, request(5, (1, 1), new, 1), Time(7));
    assert_eq!(reply, accepted(5, 3, 3));
    let expected = [
        "follower@5 vote - leader 2 log 1 5 5 commit 1 durable 1",
        "timer moved",
        "writes term 5 vote None",
        "writes 2@5 3@5",
        "AdoptedTerm(2, 5)",
        "Follows(2)",
        "Truncated(2, 2)",
        "Committed(Position { index: 1, term: 1 })",
    ];
    assert_eq!(lines, expected);
    assert_eq!(raft.persisted_index(), 3);
}

#[test]
fn handle_append_entries_follower_refuses_what_does_not_fit() {
    let refused = |conflict_index, conflict_term| AppendEntriesReply {
        protocol: 1,
        term: 4,
        outcome: AppendOutcome::Conflict { conflict_index, conflict_term },
    };
    for (prev, reply) in
        [((5, 4), refused(3, None)), ((2, 3), refused(2, Some(4))), ((1, 3), refused(1, Some(1)))]
    {
        let (got, lines) = append(&mut follower(), request(4, prev, vec![], 9), Time(7));
        assert_eq!(got, reply);
        let refusal = format!("RefusedAppend(2, Position {{ index: {}, term: {} }})", prev.0, prev.1);
        let expected =
            ["follower@4 vote - leader 2 log 1 4 commit 0 durable 2", "timer moved", "Follows(2)", &refusal];
        assert_eq!(lines, expected);
    }
}

#[test]
fn handle_append_entries_heartbeat_only_moves_the_timer_and_the_commit() {
    let mut raft = follower();
    append(&mut raft, request(4, (2, 4), vec![], 0), Time(7));
    let (reply, lines) = append(&mut raft, request(4, (2, 4), vec![], 0), Time(8));
    assert_eq!((reply, lines), (accepted(4, 2, 2), vec!["timer moved".to_string()]));
}

#[test]
fn handle_append_entries_of_an_old_term_changes_nothing_in_any_role() {
    for (mut raft, now) in [(follower(), Time(7)), pre_candidate(), candidate(), leader()] {
        let term = raft.term();
        let (reply, lines) = append(&mut raft, request(3, (2, 4), vec![entry(3, 4)], 9), now);
        assert_eq!(reply, AppendEntriesReply { term, outcome: AppendOutcome::TermOnly, protocol: 1 });
        assert_eq!(lines, Vec::<String>::new());
    }
}

#[test]
fn handle_append_entries_pre_candidate_and_candidate_follow() {
    let (mut raft, now) = pre_candidate();
    let (reply, lines) = append(&mut raft, request(4, (2, 4), vec![], 0), now);
    assert_eq!(reply, accepted(4, 2, 2));
    let followed = ["follower@4 vote - leader 2 log 1 4 commit 0 durable 2", "timer moved", "Follows(2)"];
    assert_eq!(lines, followed);

    let (mut raft, now) = candidate();
    let (reply, lines) = append(&mut raft, request(5, (2, 4), vec![], 0), now);
    assert_eq!(reply, accepted(5, 2, 2));
    let followed = ["follower@5 vote 1 leader 2 log 1 4 commit 0 durable 2", "timer moved", "Follows(2)"];
    assert_eq!(lines, followed);
}

#[test]
fn handle_append_entries_candidate_whose_vote_is_pending_answers_after_it() {
    let (mut raft, now) = candidate();
    let waiting = raft.handle_append_entries(request(5, (2, 4), vec![], 0), now);
    let later = now + Duration::from_millis(500);
    let Settled::NotYet(waiting) = raft.settle(waiting, later) else { panic!("term 5 is not durable") };
    sync(&mut raft, later);
    assert_eq!(ready(&raft, waiting, later), accepted(5, 2, 2));
    assert_eq!(raft.role_kind(), RoleKind::Follower, "its vote is durable, and nobody counts it");
}

#[test]
fn handle_append_entries_leader_of_a_higher_term_ends_a_leadership() {
    let (mut raft, now) = leader();
    let (reply, lines) = append(&mut raft, request(6, (2, 4), vec![entry(3, 6)], 2), now);
    assert_eq!(reply, accepted(6, 3, 3));
    let expected = [
        "follower@6 vote - leader 2 log 1 4 6 commit 2 durable 2",
        "timer moved",
        "writes term 6 vote None",
        "writes 3@6",
        "SteppedDown(HigherTerm(6))",
        "AdoptedTerm(2, 6)",
        "Follows(2)",
        "Truncated(3, 2)",
        "Committed(Position { index: 2, term: 4 })",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn handle_append_entries_membership_is_in_force_and_cut_again() {
    let mut raft = follower();
    let mut smaller = Membership::clone(raft.membership());
    smaller.members.pop();
    let change = Entry::new(Position::new(3, 4), 0, &Payload::Membership(smaller));
    append(&mut raft, request(4, (2, 4), vec![change], 0), Time(7));
    assert_eq!((raft.membership().members.len(), raft.watermarks().membership_index), (2, 3));
    append(&mut raft, request(5, (2, 4), vec![entry(3, 5)], 0), Time(8));
    assert_eq!((raft.membership().members.len(), raft.watermarks().membership_index), (3, 1));
}
