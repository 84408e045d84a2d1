//! Regressions of the core's step: what it once decided wrongly, set up by hand.

mod news;

use std::sync::{Arc, Mutex};

use super::*;
use crate::node::request::WriteResult;
use crate::node::transport::PeerError;
use crate::raft::{
    AppendEntriesRequest, ClusterId, Draft, Entry, Genesis, HardState, Member, Payload, RaftConfig, Restored,
    Settings,
};

const HEARTBEAT: Duration = Duration::from_millis(50);
const LEADER: MemberId = MemberId(1);
const OTHER: MemberId = MemberId(3);

/// Member 2 of 3, just initialized, that has heard from nobody.
fn follower() -> State {
    follower_with(1, None)
}

/// The same with a program that speaks `protocol`, and one entry more.
fn follower_with(protocol: Protocol, more: Option<Entry>) -> State {
    let member = |id| Member {
        node_id: format!("n{id}"),
        member_id: MemberId(id),
        raft_addr: format!("127.0.0.1:{}", 18_080 + id),
        http_addr: format!("127.0.0.1:{}", 8_080 + id),
        voter: true,
        promote: false,
    };
    let members = Membership { members: (1..=3).map(member).collect() };
    let genesis = Genesis {
        protocol: 1,
        cluster_id: ClusterId(1),
        settings: Settings::default(),
        members,
        restored: None,
    };
    let genesis = Entry::new(Position::new(1, 1), 0, &Payload::Genesis(genesis));
    let entries = [genesis].into_iter().chain(more).collect();
    let restored =
        Restored { hard_state: HardState { term: 1, voted_for: None }, entries, ..Restored::default() };
    let config = RaftConfig {
        protocol,
        hold_version: false,
        me: MemberId(2),
        election_timeout: Duration::from_millis(300),
        heartbeat: HEARTBEAT,
        append_hold: HEARTBEAT,
        disk_stall: Duration::from_millis(2_000),
        seed: 2,
        max_append_bytes: 1 << 20,
        max_unpersisted_bytes: 16 << 20,
        snapshot_log_bytes: u64::MAX,
        snapshot_log_entries: u64::MAX,
    };
    let options = StateOptions {
        heartbeat: HEARTBEAT,
        election_timeout: Duration::from_millis(300),
        check_invariants: true,
    };
    State::new(Raft::new(config, restored, Time(0)), options)
}

/// The follower hears that `leader` leads `term`, which it has to write down.
fn hear(state: &mut State, term: Term, leader: MemberId, now: Time) -> Effects {
    let prev = Position::new(1, 1);
    let request = AppendEntriesRequest { term, leader, prev, commit: 1, entries: Vec::new() };
    state.step(now, |state| drop(state.raft.handle_append_entries(request, now))).1
}

fn at_ms(ms: u64) -> Time {
    Time::from_millis(ms)
}

/// One look of the timer, as its thread takes it; whether it would end the process for the disk's sake.
fn timer_looks(state: &mut State, now: Time) -> bool {
    state.notice_process_pause(now);
    let is_dead = state.is_disk_dead(now);
    let next = state.next_time();
    state.timer_sleeps_until(next.max(now));
    is_dead
}

/// Every answer names the leader. It is told when it changes, not asked for under the state's lock.
#[test]
fn a_step_that_changes_the_known_leader_or_the_membership_says_so() {
    let mut state = follower();
    let told = |effects: &Effects| {
        let change = effects.leader_change.as_ref()?;
        Some((change.number, change.leader.as_ref().map(|leader| leader.http_addr.clone())))
    };
    let effects = hear(&mut state, 2, LEADER, at_ms(10));
    assert_eq!(told(&effects), Some((1, Some("127.0.0.1:8081".to_owned()))));
    assert_eq!(told(&hear(&mut state, 2, LEADER, at_ms(20))), None, "the same leader");
    assert_eq!(told(&hear(&mut state, 3, OTHER, at_ms(30))), Some((2, Some("127.0.0.1:8083".to_owned()))));
    let seq = state.raft.poll_write().last_seq().expect("two terms");
    let _ = state.step(at_ms(30), |state| state.raft.handle_persisted(seq, at_ms(30)));
    let late = state.raft.poll_timeout();
    let effects = state.step(late, |state| state.handle_time(late)).1;
    assert_eq!(told(&effects), Some((3, None)), "it is silent: none is known");
    let _ = hear(&mut state, 3, OTHER, late);
    let mut members = Membership::clone(state.raft.membership());
    members.members.iter_mut().for_each(|member| member.http_addr.push('0'));
    let entries = vec![Entry::new(Position::new(2, 3), 0, &Payload::Membership(members))];
    let request =
        AppendEntriesRequest { term: 3, leader: OTHER, prev: Position::new(1, 1), commit: 1, entries };
    let effects = state.step(late, |state| drop(state.raft.handle_append_entries(request, late))).1;
    assert_eq!(told(&effects), Some((5, Some("127.0.0.1:80830".to_owned()))), "it has another address");
}

/// Half a minute of SIGSTOP once ended the process: the disk seemed to be silent all that time.
#[test]
fn a_process_pause_is_no_dead_disk() {
    let mut state = follower();
    let _ = hear(&mut state, 2, LEADER, at_ms(10));
    assert!(!state.raft.poll_write().is_empty(), "the term is on its way to the disk, and stays there");
    assert!(!timer_looks(&mut state, at_ms(10)));

    let resumed = at_ms(10) + DISK_DEAD_AFTER + Duration::from_secs(10);
    assert!(!timer_looks(&mut state, resumed), "nothing ran, the disk's thread neither");
    // From here on it runs, and the disk is silent still.
    let mut now = resumed;
    while now + PROCESS_PAUSE < resumed + DISK_DEAD_AFTER {
        now = now + PROCESS_PAUSE;
        assert!(!timer_looks(&mut state, now), "{now}");
    }
    assert!(timer_looks(&mut state, resumed + DISK_DEAD_AFTER), "a disk that is dead is still found out");
}

#[test]
fn a_disk_that_is_silent_while_the_process_runs_is_dead_in_time() {
    let mut state = follower();
    let _ = hear(&mut state, 2, LEADER, at_ms(10));
    let _ = state.raft.poll_write();
    let mut now = at_ms(10);
    while now + HEARTBEAT < at_ms(10) + DISK_DEAD_AFTER {
        assert!(!timer_looks(&mut state, now), "{now}");
        now = now + HEARTBEAT;
    }
    assert!(timer_looks(&mut state, at_ms(10) + DISK_DEAD_AFTER));
}

/// Asks for a write; its result comes to be in the returned cell.
fn submit(state: &mut State, deadline: Time, now: Time) -> Arc<Mutex<Option<WriteResult>>> {
    submit_command(state, b"command", deadline, now)
}

fn submit_command(
    state: &mut State,
    command: &[u8],
    deadline: Time,
    now: Time,
) -> Arc<Mutex<Option<WriteResult>>> {
    let cell: Arc<Mutex<Option<WriteResult>>> = Arc::default();
    let filled = cell.clone();
    let done = Box::new(move |result| *filled.lock().unwrap() = Some(result));
    let work = Work::Write { command: Some(Draft::command(command)), done };
    finish(state.step(now, |state| state.submit(work, Origin::Client, deadline, now)).1);
    cell
}

fn finish(effects: Effects) {
    effects.finished.into_iter().for_each(Finished::answer);
}

fn forward(state: &mut State, now: Time) -> Outgoing {
    state.step(now, |state| state.poll_forward(now)).0.expect("writes are queued")
}

/// The whole batch is decided at its earliest deadline, so one write that had waited long made its fresh neighbours
/// unknown.
#[test]
fn a_nearly_expired_write_does_not_decide_the_batch_of_fresh_ones() {
    let mut state = follower();
    finish(hear(&mut state, 2, LEADER, at_ms(10)));
    let now = at_ms(20);
    let old = submit(&mut state, now + Duration::from_millis(40), now);
    let fresh: Vec<_> = (0..3).map(|_| submit(&mut state, now + Duration::from_secs(5), now)).collect();

    let first = forward(&mut state, now);
    assert_eq!(first.ids.len(), 1, "the write that is nearly over goes alone");
    assert!(first.timeout <= Duration::from_millis(40) + HEARTBEAT, "{:?}", first.timeout);
    // The leader is silent, and the call fails at its timeout.
    let late = now + first.timeout;
    let lost = Err(PeerError::Unknown("timed out".to_owned()));
    finish(state.step(late, |state| state.handle_time(late)).1);
    finish(state.step(late, |state| state.handle_forwarded(&first.ids, lost, late)).1);
    let result = old.lock().unwrap().take().expect("an answer at its deadline");
    assert_eq!(result.unwrap_err().kind, FailureKind::OutcomeUnknown);
    assert!(fresh.iter().all(|cell| cell.lock().unwrap().is_none()), "nothing was said about the fresh ones");

    let second = forward(&mut state, late);
    assert_eq!(second.ids.len(), 3, "writes of like patience share a batch");
    assert!(second.timeout > Duration::from_secs(4), "{:?}", second.timeout);
}

/// A cancelled question once took along the forward to the same member, led by it again meanwhile.
#[test]
fn a_stale_question_is_cancelled_without_the_fresh_forward_to_the_same_member() {
    let mut state = follower();
    finish(hear(&mut state, 2, LEADER, at_ms(10)));
    let now = at_ms(20);
    let read = Work::Read { done: Box::new(|_| ()) };
    let deadline = now + Duration::from_secs(5);
    finish(state.step(now, |state| state.submit(read, Origin::Client, deadline, now)).1);
    assert!(state.step(now, |state| state.poll_ask(now)).0.is_some());

    let effects = hear(&mut state, 3, OTHER, at_ms(30));
    assert_eq!(effects.cancels, [(LEADER, LeaderCall::ReadIndex)]);
    finish(effects);
    finish(hear(&mut state, 4, LEADER, at_ms(40)));
    // The question has not come back yet when a write goes to the member that leads again.
    submit(&mut state, at_ms(40) + Duration::from_secs(5), at_ms(40));
    assert_eq!(forward(&mut state, at_ms(40)).to.member_id, LEADER);
    let late = at_ms(40) + 2 * HEARTBEAT;
    let effects = state.step(late, |state| state.handle_time(late)).1;
    assert_eq!(effects.cancels, [(LEADER, LeaderCall::ReadIndex)], "again, in case that it had not begun");
}
