//! What an operator is told by a leader that has not heard yet from the members that the change needs.

use super::*;
use crate::node::request::{AdminResult, Administered, Administration};
use crate::raft::{
    AppendEntriesReply, AppendOutcome, MembershipChange, PollRpc, RequestVoteReply, RpcFailed, RpcReply,
    RpcRequest, TimeoutNowReply,
};

const T: Duration = Duration::from_millis(300);
const ME: MemberId = MemberId(2);
const DEAD: MemberId = OTHER;

/// The disk of the member is done with everything, and its state machine as well.
fn settle(state: &mut State, now: Time) {
    while let Some(seq) = state.raft.poll_write().last_seq() {
        finish(state.step(now, |state| state.raft.handle_persisted(seq, now)).1);
    }
    while let Some(raft::Apply::Entries(entries)) = state.raft.poll_apply() {
        let applied = entries.iter().map(|e| (e.index(), e.term(), None)).collect();
        finish(state.step(now, |state| state.handle_applied(applied)).1);
    }
}

/// The peer agrees to whatever is sent to it, as long as something is.
fn exchange(state: &mut State, peer: MemberId, now: Time) {
    settle(state, now);
    while let PollRpc::Send(request, ticket) = state.raft.poll_rpc(peer, now) {
        let reply = match request {
            RpcRequest::RequestVote(vote) => {
                let term = if vote.pre_vote { state.raft.term() } else { vote.term };
                RpcReply::RequestVote(RequestVoteReply { term, granted: true, protocol: 1 })
            }
            RpcRequest::AppendEntries(append) => {
                let last = append.last_index();
                let outcome = AppendOutcome::Accepted { received: last, match_index: last };
                RpcReply::AppendEntries(AppendEntriesReply { term: append.term, outcome, protocol: 1 })
            }
            RpcRequest::TimeoutNow(word) => {
                RpcReply::TimeoutNow(TimeoutNowReply { term: word.term, campaigns: true })
            }
        };
        finish(state.step(now, |state| state.raft.handle_rpc_result(ticket, Ok(reply), now)).1);
        settle(state, now);
    }
}

/// Member 2 of 3, elected just now by member 1, which has its no-op as well. Nothing is known of member 3.
fn fresh_leader() -> (State, Time) {
    let mut state = follower();
    let now = at_ms(1_000);
    finish(state.step(now, |state| state.handle_time(now)).1);
    exchange(&mut state, LEADER, now);
    assert!(state.raft.is_leader());
    assert_eq!(state.raft.commit_index(), state.raft.last().index);
    (state, now)
}

type Answer = Arc<Mutex<Option<AdminResult>>>;

fn ask(state: &mut State, what: Administration, deadline: Time, now: Time) -> Answer {
    let cell: Answer = Arc::default();
    let filled = cell.clone();
    let done = Box::new(move |result| *filled.lock().unwrap() = Some(result));
    let work = Work::Administer { what, done };
    finish(state.step(now, |state| state.submit(work, Origin::Client, deadline, now)).1);
    cell
}

fn remove(id: MemberId) -> Administration {
    Administration::Change(MembershipChange::Remove(id))
}

fn told(answer: &Answer) -> Option<AdminResult> {
    answer.lock().unwrap().clone()
}

/// Time passes until `until`, and member 1 goes on answering; the dead one does not.
fn live(state: &mut State, mut now: Time, until: Time) {
    while now < until {
        now = (now + HEARTBEAT).min(until);
        exchange(state, LEADER, now);
        if let PollRpc::Send(_, ticket) = state.raft.poll_rpc(DEAD, now) {
            finish(state.step(now, |state| state.raft.handle_rpc_result(ticket, Err(RpcFailed), now)).1);
        }
        finish(state.step(now, |state| state.handle_time(now)).1);
    }
}

/// It was decided at once, with everybody counted as alive.
#[test]
fn a_change_is_not_decided_before_there_is_news_of_the_members_that_it_needs() {
    let far = at_ms(60_000);
    for what in [remove(LEADER), Administration::Transfer(Some(DEAD)), Administration::Remove(LEADER)] {
        let (mut state, now) = fresh_leader();
        let answer = ask(&mut state, what.clone(), far, now);
        assert_eq!(told(&answer), None, "{what:?} waits");
        let until = now + T;
        live(&mut state, now, now + (T - Duration::from_millis(1)));
        assert_eq!(told(&answer), None, "{what:?} waits for a whole election timeout");
        live(&mut state, now + (T - Duration::from_millis(1)), until);
        let failure = told(&answer).expect("decided").expect_err("nobody answers");
        assert_eq!(failure.kind, AdminFailureKind::Conflict, "{what:?}: {failure}");
        assert!(state.raft.is_leader() && !state.raft.is_transferring());
        assert_eq!(state.raft.membership().voters().count(), 3);
    }
}

#[test]
fn a_change_that_waits_is_done_as_soon_as_the_members_that_it_needs_answer() {
    let (mut state, now) = fresh_leader();
    let answer = ask(&mut state, remove(LEADER), at_ms(60_000), now);
    exchange(&mut state, DEAD, now + HEARTBEAT);
    let later = now + 2 * HEARTBEAT;
    finish(state.step(later, |state| state.handle_time(later)).1);
    exchange(&mut state, DEAD, later);
    let done = told(&answer).expect("decided").expect("done");
    assert_eq!(done, Administered::Changed(state.raft.commit_index()));
    assert_eq!(state.raft.committed_membership().voters().collect::<Vec<_>>(), [ME, DEAD]);
}

/// The last word once was that no other member took the leadership over, whatever was asked.
#[test]
fn a_change_that_waits_until_its_deadline_is_told_what_it_waited_for() {
    let (mut state, now) = fresh_leader();
    let deadline = now + 2 * HEARTBEAT;
    let answer = ask(&mut state, remove(LEADER), deadline, now);
    live(&mut state, now, deadline);
    let failure = told(&answer).expect("decided").expect_err("too late");
    assert_eq!(failure.kind, AdminFailureKind::Conflict);
    assert!(failure.message.contains("have not answered the new leader"), "{failure}");
}

#[test]
fn a_change_that_waits_goes_to_the_next_leader() {
    let (mut state, now) = fresh_leader();
    let answer = ask(&mut state, remove(LEADER), at_ms(60_000), now);
    finish(hear(&mut state, 9, LEADER, now + HEARTBEAT));
    let failure = told(&answer).expect("decided").expect_err("another one leads");
    assert_eq!(failure.kind, AdminFailureKind::NotLeader);
}

/// A leader that was to go handed over, and only its successor found out that it cannot be spared.
#[test]
fn a_leader_that_cannot_go_does_not_transfer() {
    let (mut state, now) = fresh_leader();
    let later = now + 2 * T;
    live(&mut state, now, later);
    let answer = ask(&mut state, Administration::Remove(ME), at_ms(60_000), later);
    let failure = told(&answer).expect("decided at once").expect_err("it cannot be spared");
    assert_eq!(failure.kind, AdminFailureKind::Conflict);
    assert!(state.raft.is_leader() && !state.raft.is_transferring());

    // Once the third one answers, it can: it hands over, and the caller goes on to its successor.
    exchange(&mut state, DEAD, later + HEARTBEAT);
    let now = later + HEARTBEAT;
    let answer = ask(&mut state, Administration::Remove(ME), at_ms(60_000), now);
    assert!(state.raft.is_transferring());
    assert_eq!(told(&answer), None);
    finish(hear(&mut state, 9, LEADER, now));
    assert_eq!(told(&answer).expect("decided").expect_err("go on").kind, AdminFailureKind::NotLeader);
}

/// Thesis §4.2.2: a leader whose successor does not take over manages its own removal.
#[test]
fn a_leader_that_is_to_go_and_that_nobody_succeeds_removes_itself() {
    let (mut state, now) = fresh_leader();
    exchange(&mut state, DEAD, now + HEARTBEAT);
    let now = now + HEARTBEAT;
    let answer = ask(&mut state, Administration::Remove(ME), at_ms(60_000), now);
    let PollRpc::Send(RpcRequest::TimeoutNow(_), ticket) = state.raft.poll_rpc(DEAD, now) else {
        panic!("the last of those who have everything is told to take over")
    };
    let reply = RpcReply::TimeoutNow(TimeoutNowReply { term: state.raft.term(), campaigns: false });
    finish(state.step(now, |state| state.raft.handle_rpc_result(ticket, Ok(reply), now)).1);
    assert!(state.raft.is_leader(), "until its removal is committed");
    assert_eq!(state.raft.membership().voters().collect::<Vec<_>>(), [LEADER, DEAD], "in force");
    let later = now + HEARTBEAT;
    exchange(&mut state, LEADER, later);
    exchange(&mut state, DEAD, later);
    let done = told(&answer).expect("decided").expect("done");
    assert_eq!(done, Administered::Changed(state.raft.commit_index()));
}

#[test]
fn a_write_during_a_transfer_goes_to_the_successor_with_its_command() {
    let (mut state, now) = fresh_leader();
    exchange(&mut state, DEAD, now + HEARTBEAT);
    let now = now + HEARTBEAT;
    ask(&mut state, Administration::Transfer(Some(LEADER)), at_ms(60_000), now);
    assert!(state.raft.is_transferring());
    let answer = submit(&mut state, at_ms(60_000), now);
    finish(hear(&mut state, 9, LEADER, now));
    assert_eq!(*answer.lock().unwrap(), None);
    let call = forward(&mut state, now);
    let PeerRequest::Forward(writes) = call.request else { panic!("writes are forwarded") };
    assert_eq!(writes.iter().map(|w| w.command.payload()).collect::<Vec<_>>(), [b"command"]);
}

/// A leader knows what is committed only when an entry of its own term is. Before that it once refused a write as
/// `unsupported`, although the version that the write needs was in force before the election.
#[cfg(feature = "next-protocol")]
#[test]
fn a_leader_that_was_elected_just_now_does_not_deny_the_version_of_its_log() {
    let touch = [0, crate::vocabulary::OpKind::Touch.tag()];
    let version = Entry::new(Position::new(2, 1), 0, &Payload::Version(2));
    let elect = |more: Option<Entry>| {
        let mut state = follower_with(2, more);
        let now = at_ms(1_000);
        finish(state.step(now, |state| state.handle_time(now)).1);
        settle(&mut state, now);
        while !state.raft.is_leader() {
            let PollRpc::Send(RpcRequest::RequestVote(vote), ticket) = state.raft.poll_rpc(LEADER, now)
            else {
                panic!("it asks for votes");
            };
            let term = if vote.pre_vote { state.raft.term() } else { vote.term };
            let reply = RpcReply::RequestVote(RequestVoteReply { term, granted: true, protocol: 2 });
            finish(state.step(now, |state| state.raft.handle_rpc_result(ticket, Ok(reply), now)).1);
            settle(&mut state, now);
        }
        let answer = submit_command(&mut state, &touch, now + 10 * T, now);
        (state, answer, now)
    };

    let (_, answer, _) = elect(None);
    let result = answer.lock().unwrap().take().expect("an answer at once");
    assert_eq!(result.unwrap_err().kind, FailureKind::Unsupported, "no entry raises the version");

    let (mut state, answer, now) = elect(Some(version));
    assert_eq!((state.raft.version(), state.raft.version_of_log()), (1, 2));
    assert!(answer.lock().unwrap().is_none(), "it waits");
    exchange(&mut state, LEADER, now);
    assert_eq!(state.raft.version(), 2);
    let later = now + 2 * HEARTBEAT;
    finish(state.step(later, |state| state.handle_time(later)).1);
    let last = state.raft.log().iter().last().expect("a log");
    assert_eq!(last.payload(), touch, "proposed when the version is known to be in force");
    assert!(answer.lock().unwrap().is_none());
}
