//! Requests of an operator about the cluster itself: change the membership, transfer the leadership. Only a leader
//! can do these. A caller at another node is told which node leads and asks there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Node;
use super::core::State;
use super::core::waiters::{RequestId, Stage, Work};
use super::request::{
    AdminFailure, AdminFailureKind, AdminResult, Administered, Administration, Completion, FailureKind,
    Origin,
};
use super::transport::{PeerReply, PeerRequest, Priority, Target};
use crate::raft::{ChangeError, Changed, Member, MemberId, MembershipChange, Time, TransferError};

/// How long a change waits for an earlier change that is not yet committed: usually the earlier one commits very
/// soon.
const UNDER_WAY_PATIENCE: Duration = Duration::from_secs(1);

/// How long to wait before a leader is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// The leader answers by the deadline. The answer may still arrive this much later.
const ANSWER_MARGIN: Duration = Duration::from_millis(200);

impl From<ChangeError> for AdminFailure {
    fn from(e: ChangeError) -> AdminFailure {
        let kind = match e {
            ChangeError::NotLeader { .. } => AdminFailureKind::NotLeader,
            ChangeError::Unknown => AdminFailureKind::NotFound,
            ChangeError::TooEarly | ChangeError::Transferring => {
                AdminFailureKind::Failed(FailureKind::Unavailable)
            }
            ChangeError::UnderWay(_) => AdminFailureKind::UnderWay,
            ChangeError::NotHeardYet { .. }
            | ChangeError::NoLiveMajority { .. }
            | ChangeError::NoAnswer(_) => AdminFailureKind::Conflict,
            ChangeError::Taken { .. } => AdminFailureKind::Refused,
            ChangeError::Unsupported { .. } => AdminFailureKind::Failed(FailureKind::Unsupported),
        };
        AdminFailure::new(kind, e.to_string())
    }
}

impl From<TransferError> for AdminFailure {
    fn from(e: TransferError) -> AdminFailure {
        let kind = match e {
            TransferError::NotLeader { .. } => AdminFailureKind::NotLeader,
            TransferError::NotVoter => AdminFailureKind::Refused,
            TransferError::UnderWay => AdminFailureKind::UnderWay,
            TransferError::NotHeardYet { .. } | TransferError::NobodyAnswers => AdminFailureKind::Conflict,
        };
        AdminFailure::new(kind, e.to_string())
    }
}

impl Node {
    /// Does what an operator asks, if this node leads. `done` is called when the change is committed, or when another
    /// member is known to lead; at `deadline` at the latest.
    pub fn administer(
        self: &Arc<Self>,
        what: Administration,
        deadline: Instant,
        done: Completion<AdminResult>,
    ) {
        if let Administration::Change(MembershipChange::Add(new, _)) = &what
            && let Err(failure) = self.check_new(new)
        {
            return done(Err(failure));
        }
        let deadline = self.clock.at(deadline);
        self.step(|state, now| state.submit(Work::Administer { what, done }, Origin::Client, deadline, now));
    }

    /// Identities are never reused (thesis §3.8): a removed member stays out. Only the state machine remembers
    /// removed identities, so it must have applied the membership in force.
    fn check_new(&self, new: &Member) -> Result<(), AdminFailure> {
        let in_force_since = self.look(|state, _| state.raft.watermarks().membership_index);
        let (is_removed, applied) = self.with_kv(|kv| (kv.is_removed(new.member_id), kv.applied().index));
        if is_removed {
            let text = format!(
                "member {} was removed from this cluster and never returns: empty the data_dir of {}, start it again, and \
                 add it with the member_id it has then",
                new.member_id, new.node_id
            );
            return Err(AdminFailure::new(AdminFailureKind::Refused, text));
        }
        match applied < in_force_since {
            true => Err(ChangeError::UnderWay(in_force_since).into()),
            false => Ok(()),
        }
    }

    /// Does what an operator asks through the current leader, and waits for the result. Asks again as long as nothing
    /// was done yet. Returns by `deadline`.
    ///
    /// # Errors
    /// It was not done, or the outcome is unknown.
    pub fn administer_through_leader(
        self: &Arc<Self>,
        what: &Administration,
        deadline: Instant,
    ) -> AdminResult {
        let mut asking = Asking { node: self, what, deadline, in_doubt: None };
        let give_up_at = deadline.min(Instant::now() + UNDER_WAY_PATIENCE);
        let mut trouble =
            AdminFailure::new(AdminFailureKind::Failed(FailureKind::Unavailable), "no leader is known");
        while Instant::now() < deadline {
            match asking.ask() {
                None => {}
                Some(Err(failure))
                    if matches!(
                        failure.kind,
                        AdminFailureKind::NotLeader | AdminFailureKind::Failed(FailureKind::Unavailable)
                    ) =>
                {
                    trouble = failure;
                }
                Some(Err(failure))
                    if failure.kind == AdminFailureKind::UnderWay && Instant::now() < give_up_at =>
                {
                    trouble = failure;
                }
                Some(result) => return result,
            }
            std::thread::sleep(ASK_AGAIN.min(deadline.saturating_duration_since(Instant::now())));
        }
        match asking.in_doubt {
            None => Err(trouble),
            Some(doubt) => Err(AdminFailure::new(
                AdminFailureKind::Failed(FailureKind::OutcomeUnknown),
                format!("{}: it may or may not take effect", doubt.why),
            )),
        }
    }

    /// Transfers the leadership before this node stops. Returns when another member leads, immediately when this node
    /// does not lead, and after `patience` at the latest. `false` when this node still leads.
    pub fn transfer_leadership(self: &Arc<Self>, patience: Duration) -> bool {
        if !self.look(|state, _| state.raft.is_leader()) {
            return true;
        }
        let (told, tell) = crossbeam_channel::bounded(1);
        // The receiver may have stopped waiting.
        let done = Box::new(move |result: AdminResult| drop(told.try_send(result)));
        self.administer(Administration::Transfer(None), Instant::now() + patience, done);
        matches!(tell.recv_timeout(patience), Ok(Ok(_)))
    }
}

/// A request of an operator that is sent to the leader, repeatedly if needed.
struct Asking<'a> {
    node: &'a Arc<Node>,
    what: &'a Administration,
    deadline: Instant,
    in_doubt: Option<Doubt>,
}

/// An attempt whose outcome is unknown: the request may have been executed.
struct Doubt {
    asked: MemberId,
    why: String,
}

impl Asking<'_> {
    /// Makes one attempt. Returns nothing when no leader is known, or when the outcome of the attempt is unknown.
    fn ask(&mut self) -> Option<AdminResult> {
        let leader = self.node.leader()?;
        // A second transfer would undo the first one: the current leader is the successor.
        if let (Administration::Transfer(_), Some(doubt)) = (self.what, &self.in_doubt) {
            return (leader.member_id != doubt.asked)
                .then_some(Ok(Administered::TransferredTo(leader.member_id)));
        }
        let (me, left) =
            (self.node.options.member_id, self.deadline.saturating_duration_since(Instant::now()));
        let result = match leader.member_id == me {
            true => self.ask_here(),
            false => self.ask_there(&leader, left),
        };
        match result {
            Err(AdminFailure { kind: AdminFailureKind::Failed(FailureKind::OutcomeUnknown), message }) => {
                self.in_doubt = Some(Doubt { asked: leader.member_id, why: message });
                None
            }
            // The member was removed by the attempt in doubt or by another operator: in both cases it is removed.
            Err(AdminFailure { kind: AdminFailureKind::NotFound, .. })
                if self.in_doubt.is_some()
                    && matches!(
                        self.what,
                        Administration::Remove(_) | Administration::Change(MembershipChange::Remove(_))
                    ) =>
            {
                let index = self.node.look(|state, _| state.raft.watermarks().membership_index);
                Some(Ok(Administered::Changed(index)))
            }
            result => Some(result),
        }
    }

    fn ask_here(&self) -> AdminResult {
        let (told, tell) = crossbeam_channel::bounded(1);
        // The receiver may have stopped waiting.
        let done = Box::new(move |result: AdminResult| drop(told.try_send(result)));
        self.node.administer(self.what.clone(), self.deadline, done);
        tell.recv_deadline(self.deadline + ANSWER_MARGIN).unwrap_or_else(|_| Err(unknown("no answer")))
    }

    fn ask_there(&self, leader: &Member, left: Duration) -> AdminResult {
        let to = Target { member_id: leader.member_id, raft_addr: leader.raft_addr.clone() };
        let remaining_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let request = PeerRequest::Administer { what: self.what.clone(), remaining_ms };
        match self.node.transport.call(&to, Priority::Bulk, request, left + ANSWER_MARGIN) {
            Ok(PeerReply::Administer(result)) => result,
            Ok(_) => Err(unknown("the leader's answer belongs to another question")),
            Err(e) if e.is_surely_not_executed() => {
                Err(AdminFailure::new(AdminFailureKind::Failed(FailureKind::Unavailable), e.to_string()))
            }
            Err(e) => Err(unknown(&e.to_string())),
        }
    }
}

fn unknown(why: &str) -> AdminFailure {
    AdminFailure::new(AdminFailureKind::Failed(FailureKind::OutcomeUnknown), why)
}

impl State {
    /// The leader's part; any other member sends the caller to the leader.
    pub(super) fn dispatch_administration(&mut self, id: RequestId, what: &Administration, now: Time) {
        match what {
            Administration::Change(change) => self.dispatch_change(id, change, now),
            Administration::Remove(gone) if *gone == self.raft.me() => {
                match self.raft.transfer_for_removal(now) {
                    Ok(Some(_)) => self.waiters.set_stage(id, Stage::Transferring),
                    Ok(None) => self.dispatch_change(id, &MembershipChange::Remove(*gone), now),
                    Err(ChangeError::NotHeardYet { until }) => self.await_news(id, until, now),
                    Err(e) => self.waiters.finish_administration(id, Err(e.into())),
                }
            }
            Administration::Remove(gone) => {
                self.dispatch_change(id, &MembershipChange::Remove(*gone), now);
            }
            Administration::Transfer(to) => match self.raft.transfer_leadership(*to, now) {
                Ok(to) if to == self.raft.me() => {
                    self.waiters.finish_administration(id, Ok(Administered::TransferredTo(to)));
                }
                Ok(_) => self.waiters.set_stage(id, Stage::Transferring),
                Err(TransferError::NotHeardYet { until }) => self.await_news(id, until, now),
                Err(e) => self.waiters.finish_administration(id, Err(e.into())),
            },
        }
    }

    fn dispatch_change(&mut self, id: RequestId, change: &MembershipChange, now: Time) {
        match self.raft.change_membership(change, now) {
            Ok(Changed::Appended(at)) => self.waiters.set_stage(id, Stage::Proposed(at)),
            Ok(Changed::Already(index)) => {
                self.waiters.finish_administration(id, Ok(Administered::Changed(index)));
            }
            Err(ChangeError::NotHeardYet { until }) => self.await_news(id, until, now),
            Err(e) => self.waiters.finish_administration(id, Err(e.into())),
        }
    }

    /// The members that the request needs have not answered this leader yet. The request is checked again after each
    /// heartbeat, and decided at `until`.
    fn await_news(&mut self, id: RequestId, until: Time, now: Time) {
        self.waiters.set_stage(id, Stage::AwaitNews { retry_at: until.min(now + self.heartbeat) });
    }

    /// Answers the requests for a leadership transfer, once the transfer is decided.
    pub(super) fn finish_transfer(&mut self, now: Time) {
        if !self.waiters.has_transferring() || self.raft.is_transferring() {
            return;
        }
        let result = match self.raft.leader() {
            Some(leader) if leader == self.raft.me() => Err(AdminFailure::new(
                AdminFailureKind::Conflict,
                "the member did not take the leadership over within an election timeout: this node leads on",
            )),
            Some(leader) => Ok(Administered::TransferredTo(leader)),
            // This node stopped leading, and no other leader is known yet.
            None => return,
        };
        for (id, gone) in self.waiters.transferring_to_leave() {
            match &result {
                // No member took over: the leader manages its removal itself (thesis §4.2.2).
                Err(_) => self.dispatch_change(id, &MembershipChange::Remove(gone), now),
                Ok(_) => {
                    let text = "the leader that is to go has handed over: its successor removes it";
                    let failure = AdminFailure::new(AdminFailureKind::NotLeader, text);
                    self.waiters.finish_administration(id, Err(failure));
                }
            }
        }
        self.waiters.finish_transferring(&result);
    }
}
