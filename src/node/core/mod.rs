//! What happens under the lock: the core and the requests that wait for it are one state, changed in one step.
//! Nothing here touches a file, a socket, the log or a clock; work for the outside is returned as [`Effects`].

mod finished;
mod leader_calls;
mod snapshots;
#[cfg(test)]
mod tests;
pub(super) mod waiters;
pub(super) mod wakeups;

use std::mem;
use std::sync::Arc;
use std::time::Duration;

pub use self::finished::{Finished, Held};
pub use self::waiters::Work;
use self::waiters::{MAX_REQUESTS, Request, RequestId, Stage, Waiters};
pub use self::wakeups::Wakeups;
use crate::node::LeaderChange;
use crate::node::request::{AdminFailure, AdminFailureKind, Failure, FailureKind, Origin};
use crate::node::transport::{LeaderCall, PeerRequest, Priority, Target};
use crate::raft::{
    self, Draft, Index, MemberId, Membership, Note, Position, ProposeError, Protocol, Raft, ReadDone,
    RoleKind, Term, Time, Watermarks,
};
use crate::store::{Applied, needed_protocol};

/// How long a request waits for a leader to be known: about one election, so that a patient client sees no failover.
const LEADER_WAIT: Duration = Duration::from_secs(1);

/// When the disk has not finished a write for this long, it never will: the process ends.
pub(super) const DISK_DEAD_AFTER: Duration = Duration::from_secs(30);

/// A timer that is this late did not run, so the whole process did not run.
const PROCESS_PAUSE: Duration = Duration::from_secs(1);

/// A term and its leader.
type Leadership = (Term, MemberId);

/// The state that the one mutex protects, changed by [`State::step`] only. A [`Node`](super::Node) drives it with
/// threads; the simulator of whole clusters drives it without threads.
pub struct State {
    /// The rules of consensus.
    pub raft: Raft,
    pub(super) waiters: Waiters,
    pub(super) is_stopping: bool,
    /// The commit index when a leader was first heard: the node is ready when it has applied this index.
    pub(super) ready_index: Option<Index>,
    /// Commands appended as leader.
    pub(super) proposals: u64,
    /// The snapshot that is being written gets its final name once the log is durable through this index.
    snapshot_waits_for: Option<Index>,
    /// A backup was asked for in this step.
    is_snapshot_asked_for: bool,
    /// The newest snapshot, which ends here, cannot be read: another one must be written.
    unreadable_snapshot: Option<Position>,
    /// Until when the timer sleeps: a step that needs it earlier wakes it.
    timer_sleeps_until: Time,
    /// When this process last noticed that it had been paused: before that time the disk could not finish anything.
    resumed_at: Time,
    /// The forwarder's running call.
    forward_call: Option<Leadership>,
    /// The read-asker's running call.
    ask_call: Option<Leadership>,
    /// A call to a former leader is cancelled again at this time, in case it had not begun at the first cancel.
    cancel_at: Time,
    cancels: Vec<(MemberId, LeaderCall)>,
    /// How often the known leader, or the membership with its addresses, changed.
    leader_changes: u64,
    pub(super) heartbeat: Duration,
    election_timeout: Duration,
    check_invariants: bool,
}

/// What a step leaves to be done after unlocking.
#[must_use = "effects are carried out after unlocking"]
pub struct Effects {
    /// Threads that have something to do.
    pub wakeups: Wakeups,
    /// What was decided, to be logged.
    pub notes: Vec<Note>,
    /// Gives the names for the notes.
    pub membership: Arc<Membership>,
    /// Whether the step changed the membership in force: then every member must have its threads.
    pub membership_changed: bool,
    /// The known leader, when it or the membership changed.
    pub leader_change: Option<LeaderChange>,
    /// Answers to be given.
    pub finished: Vec<Finished>,
    /// Calls to former leaders that are to be cancelled.
    pub cancels: Vec<(MemberId, LeaderCall)>,
}

/// A batch for the leader, taken by the forwarder or the read-asker.
pub struct Outgoing {
    /// The requests in it: to be handed back with the result.
    pub ids: Vec<RequestId>,
    /// The leader.
    pub to: Target,
    /// Which connections it uses.
    pub priority: Priority,
    /// The batch.
    pub request: PeerRequest,
    /// Bounds the call as a whole.
    pub timeout: Duration,
}

/// Timings and switches of the core.
pub struct StateOptions {
    /// Interval of a leader's heartbeats.
    pub heartbeat: Duration,
    /// The minimum election timeout.
    pub election_timeout: Duration,
    /// Checks the core's invariants after every step.
    pub check_invariants: bool,
}

impl State {
    /// A member without any requests yet.
    pub fn new(raft: Raft, options: StateOptions) -> State {
        State {
            raft,
            waiters: Waiters::new(),
            is_stopping: false,
            ready_index: None,
            proposals: 0,
            snapshot_waits_for: None,
            is_snapshot_asked_for: false,
            unreadable_snapshot: None,
            timer_sleeps_until: Time::NEVER,
            resumed_at: Time(0),
            forward_call: None,
            ask_call: None,
            cancel_at: Time::NEVER,
            cancels: Vec::new(),
            leader_changes: 0,
            heartbeat: options.heartbeat,
            election_timeout: options.election_timeout,
            check_invariants: options.check_invariants,
        }
    }

    /// Accepts a request and dispatches it.
    pub fn submit(&mut self, work: Work, origin: Origin, deadline: Time, now: Time) {
        let is_full = self.waiters.len() >= MAX_REQUESTS;
        let id = self.waiters.add(work, origin, deadline);
        if is_full {
            let why = format!("{MAX_REQUESTS} requests already wait at this node: try again later");
            self.waiters.fail(id, Failure::new(FailureKind::Overloaded, why));
        } else if deadline <= now {
            self.waiters.fail(id, Failure::unavailable("the deadline had passed before anything was done"));
        } else {
            self.dispatch(id, now);
        }
    }

    /// Keeps a reply to a peer until the disk holds what the reply promises.
    pub fn hold(&mut self, reply: Held) {
        self.waiters.hold(reply);
    }

    /// Sends a request to the right place: into the core when this node leads, to the leader when it knows a leader.
    fn dispatch(&mut self, id: RequestId, now: Time) {
        let Some(request) = self.waiters.get_mut(id) else { return };
        if self.is_stopping {
            return self.waiters.fail(id, Failure::unavailable("the node is stopping: ask another one"));
        }
        if self.raft.is_leader() {
            return match &mut request.work {
                Work::Write { command, .. } => {
                    if let Some(command) = command.take() {
                        self.propose(id, command, now);
                    }
                }
                Work::Administer { what, .. } => {
                    let what = what.clone();
                    self.dispatch_administration(id, &what, now);
                }
                Work::Backup { .. } => {}
                Work::Read { .. } => match self.raft.read_index(now) {
                    Ok(token) => self.waiters.set_stage(id, Stage::Confirming(token)),
                    Err(e) => self.waiters.fail(id, Failure::unavailable(e.to_string())),
                },
            };
        }
        if matches!(request.work, Work::Administer { .. }) {
            let text = "this node does not lead";
            return self
                .waiters
                .finish_administration(id, Err(AdminFailure::new(AdminFailureKind::NotLeader, text)));
        }
        if request.origin == Origin::Forwarded {
            return self.waiters.fail(id, Failure::unavailable("this node does not lead: ask again"));
        }
        match self.raft.leader() {
            Some(_) => self.waiters.set_stage(id, Stage::Queued),
            None => self.waiters.await_leader(id, now + LEADER_WAIT),
        }
    }

    fn propose(&mut self, id: RequestId, command: Draft, now: Time) {
        let needed = needed_protocol(command.payload());
        if needed > self.raft.version() && needed <= self.raft.version_of_log() {
            let why = "the version that this needs is not committed yet, as far as the leader knows";
            return self.await_retry(id, command, why, now);
        }
        if needed > self.raft.version() {
            let why = self.unsupported(needed, now);
            return self.waiters.fail(id, Failure::new(FailureKind::Unsupported, why));
        }
        if self.raft.is_transferring() {
            let why = "the leader transfers its leadership to another member";
            return self.await_retry(id, command, why, now);
        }
        match self.raft.propose(command, now) {
            Ok(at) => {
                self.proposals += 1;
                self.waiters.set_stage(id, Stage::Proposed(at));
            }
            Err(e @ ProposeError::Overloaded { .. }) => {
                let why = format!("{e}: try again later");
                self.waiters.fail(id, Failure::new(FailureKind::Overloaded, why));
            }
            Err(e @ (ProposeError::NotLeader { .. } | ProposeError::Transferring)) => {
                self.waiters.fail(id, Failure::unavailable(e.to_string()));
            }
        }
    }

    /// Why a command that needs a higher version than the version in force is not proposed: names the members that
    /// keep the version down.
    fn unsupported(&self, needed: Protocol, now: Time) -> String {
        let holders: Vec<_> = self.raft.held_back_by(needed, now).iter().map(ToString::to_string).collect();
        let version = self.raft.version();
        format!("this needs version {needed}, and version {version} is in force: {}", holders.join("; "))
    }

    /// The command stays with its request. A little later the request goes to the next leader, or continues here.
    fn await_retry(&mut self, id: RequestId, draft: Draft, why: &str, now: Time) {
        if let Some(Request { work: Work::Write { command, .. }, .. }) = self.waiters.get_mut(id) {
            *command = Some(draft);
        }
        self.waiters.await_retry(id, now + LEADER_WAIT, now + self.heartbeat, why.to_owned());
    }

    // ---- the timer -------------------------------------------------------------------------------------------------

    /// Does what is due at `now`.
    pub fn handle_time(&mut self, now: Time) {
        if now >= self.raft.poll_timeout() {
            self.raft.handle_timeout(now);
        }
        for id in self.waiters.expire(now) {
            self.dispatch(id, now);
        }
        if now >= self.cancel_at {
            self.cancel_stale_calls(now);
        }
    }

    /// When `handle_time` has something to do next.
    pub fn next_time(&self) -> Time {
        let state = self.raft.poll_timeout().min(self.waiters.next_wake()).min(self.cancel_at);
        state.min(self.disk_dead_at())
    }

    /// The timer sleeps until this time.
    pub fn timer_sleeps_until(&mut self, until: Time) {
        self.timer_sleeps_until = until;
    }

    /// Called by the timer. If it is much too late, the whole process was paused (SIGSTOP, a paused machine).
    pub fn notice_process_pause(&mut self, now: Time) {
        if now > self.timer_sleeps_until + PROCESS_PAUSE {
            self.resumed_at = now;
        }
    }

    /// When the disk has been silent for so long that the process must end. A pause of the process does not count.
    fn disk_dead_at(&self) -> Time {
        let oldest = self.raft.oldest_write_queued_at();
        oldest.map_or(Time::NEVER, |at| at.max(self.resumed_at) + DISK_DEAD_AFTER)
    }

    /// Whether the disk has been silent for that long.
    pub fn is_disk_dead(&self, now: Time) -> bool {
        now >= self.disk_dead_at()
    }

    // ---- the applier -----------------------------------------------------------------------------------------------

    /// The state machine has applied these entries, in order.
    pub fn handle_applied(&mut self, applied: Vec<(Index, Term, Option<Applied>)>) {
        let Some(&(last, _, _)) = applied.last() else { return };
        for (index, term, outcome) in applied {
            self.waiters.handle_applied_entry(Position::new(index, term), outcome);
        }
        self.raft.handle_applied(last);
    }

    /// A leader's snapshot has replaced the state: it holds everything through `last`.
    pub fn handle_restored(&mut self, last: Position) {
        self.raft.handle_applied(last.index);
    }

    // ---- the end of every step ---------------------------------------------------------------------------------------

    /// Changes the state and computes the effects.
    pub fn step<T>(&mut self, now: Time, change: impl FnOnce(&mut State) -> T) -> (T, Effects) {
        let before = self.raft.watermarks();
        let value = change(self);
        (value, self.finish_step(&before, now))
    }

    /// Compares with the state before the step and computes the effects.
    pub(super) fn finish_step(&mut self, before: &Watermarks, now: Time) -> Effects {
        let marks = self.raft.watermarks();
        if before.ends_leadership(&marks) {
            self.waiters.fail_proposed(
                self.raft.commit_index(),
                "this node stopped leading before the write was committed: it may or may not take effect",
            );
        }
        if (before.term, before.leader) != (marks.term, marks.leader) {
            self.cancel_stale_calls(now);
            for id in self.waiters.take_for_redispatch() {
                self.dispatch(id, now);
            }
        }
        self.handle_reads_done(now);
        self.finish_transfer(now);
        if before.snapshot_index != marks.snapshot_index {
            self.waiters.handle_snapshot(self.raft.snapshot().last);
        }
        if before.last_applied != marks.last_applied {
            self.waiters.handle_applied_index(marks.last_applied);
        }
        self.waiters.settle(&self.raft, now);
        let after = self.raft.watermarks();
        if after.role == RoleKind::Leader && self.ready_index.is_none() {
            self.ready_index = Some(after.last.index);
        }
        if self.check_invariants {
            raft::check_step(before, &self.raft);
            raft::check(&self.raft);
            self.waiters.check();
        }
        Effects {
            wakeups: self.wakeups(before, &after, now),
            notes: self.raft.poll_notes(),
            membership: self.raft.membership().clone(),
            membership_changed: before.membership_index != after.membership_index,
            leader_change: self.leader_change(before, &after),
            finished: self.waiters.take_finished(),
            cancels: mem::take(&mut self.cancels),
        }
    }

    fn leader_change(&mut self, before: &Watermarks, after: &Watermarks) -> Option<LeaderChange> {
        if (before.leader, before.membership_index) == (after.leader, after.membership_index) {
            return None;
        }
        self.leader_changes += 1;
        let leader = after.leader.and_then(|id| self.raft.membership().get(id).cloned()).map(Arc::new);
        Some(LeaderChange { number: self.leader_changes, leader })
    }

    fn handle_reads_done(&mut self, now: Time) {
        loop {
            let done = self.raft.poll_reads();
            if done.is_empty() {
                return;
            }
            let last_applied = self.raft.last_applied();
            for ReadDone { token, result } in done {
                let Some(id) = self.waiters.confirming(token) else { continue };
                match result {
                    Ok(index) => self.waiters.confirm_read(id, index, last_applied),
                    Err(_) => self.dispatch(id, now),
                }
            }
        }
    }

    fn wakeups(&mut self, before: &Watermarks, after: &Watermarks, now: Time) -> Wakeups {
        let next_time = self.next_time();
        let timer = next_time < self.timer_sleeps_until;
        if timer {
            // What was due before is due now: the timer is not late for it.
            self.timer_sleeps_until = self.timer_sleeps_until.min(next_time.max(now));
        }
        Wakeups {
            timer,
            log_writer: before.wakes_log_writer(after),
            applier: before.wakes_applier(after),
            replicators: before.wakes_replicators(after),
            senders: before.wakes_senders(after),
            snapshotter: self.snapshotter_has_work()
                && (mem::take(&mut self.is_snapshot_asked_for)
                    || (before.last_applied, before.persisted_index)
                        != (after.last_applied, after.persisted_index)),
            forwarder: self.forward_call.is_none() && self.waiters.has_queued_writes(),
            read_asker: self.ask_call.is_none() && self.waiters.has_queued_reads(),
        }
    }
}
