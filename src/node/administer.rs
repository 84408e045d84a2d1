//! What an operator asks of the cluster itself: to change its membership, to hand the leadership over. Only a leader can
//! do either; a caller elsewhere is told who leads and asks there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Node;
use super::request::{Completion, FailureKind, Origin};
use super::step::Core;
use super::waiters::{RequestId, Stage, Work};
use crate::raft::{ChangeError, Changed, HandOverError, Index, MemberId, MembershipChange, Time};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Administration {
    /// To add, promote or remove one member.
    Change(MembershipChange),
    /// To hand the leadership over, to this member or to the most advanced voter.
    HandOver(Option<MemberId>),
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Administered {
    /// The membership is so, committed; by the entry at this index.
    Changed(Index),
    /// This member leads now.
    LedBy(MemberId),
}

/// Why it was not done, or nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminFailureKind {
    /// This node does not lead: ask the leader.
    NotLeader,
    /// There is no such member.
    NotFound,
    /// The cluster is in no state to do it. Not done.
    Conflict,
    /// As for writes.
    Failed(FailureKind),
}

/// Why it was not done, or nobody knows, for an operator to read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
#[serde(deny_unknown_fields)]
pub struct AdminFailure {
    /// Decides the error code.
    pub kind: AdminFailureKind,
    /// What happened and what to do.
    pub message: String,
}

impl AdminFailure {
    /// A failure with its text.
    pub fn new(kind: AdminFailureKind, message: impl Into<String>) -> AdminFailure {
        AdminFailure { kind, message: message.into() }
    }
}

/// What became of it.
pub type AdminResult = Result<Administered, AdminFailure>;

impl From<ChangeError> for AdminFailure {
    fn from(e: ChangeError) -> AdminFailure {
        let kind = match e {
            ChangeError::NotLeader { .. } => AdminFailureKind::NotLeader,
            ChangeError::Unknown => AdminFailureKind::NotFound,
            ChangeError::TooEarly | ChangeError::HandingOver => {
                AdminFailureKind::Failed(FailureKind::Unavailable)
            }
            ChangeError::UnderWay(_) | ChangeError::NoLiveMajority { .. } | ChangeError::Taken { .. } => {
                AdminFailureKind::Conflict
            }
        };
        AdminFailure::new(kind, e.to_string())
    }
}

impl From<HandOverError> for AdminFailure {
    fn from(e: HandOverError) -> AdminFailure {
        let kind = match e {
            HandOverError::NotLeader { .. } => AdminFailureKind::NotLeader,
            HandOverError::NotVoter | HandOverError::UnderWay | HandOverError::NobodyAnswers => {
                AdminFailureKind::Conflict
            }
        };
        AdminFailure::new(kind, e.to_string())
    }
}

impl Node {
    /// Does what an operator asks, if this node leads. `done` is told when a change is committed, or when another member
    /// is known to lead; no later than at `deadline`.
    pub fn administer(
        self: &Arc<Self>,
        what: Administration,
        deadline: Instant,
        done: Completion<AdminResult>,
    ) {
        let deadline = self.clock.at(deadline);
        self.step(|core, now| core.submit(Work::Administer { what, done }, Origin::Client, deadline, now));
    }

    /// Hands the leadership over before this node stops. Returns once another member leads, at once when this one does
    /// not lead, and after `patience` at the latest. `false` when this node still leads.
    pub fn hand_over(self: &Arc<Self>, patience: Duration) -> bool {
        if !self.look(|core, _| core.raft.is_leader()) {
            return true;
        }
        let (told, tell) = crossbeam_channel::bounded(1);
        // The other end may have given up.
        let done = Box::new(move |result: AdminResult| drop(told.try_send(result)));
        self.administer(Administration::HandOver(None), Instant::now() + patience, done);
        matches!(tell.recv_timeout(patience), Ok(Ok(_)))
    }
}

impl Core {
    /// A leader's side; any other member sends the caller to the leader.
    pub(super) fn dispatch_administration(&mut self, id: RequestId, what: &Administration, now: Time) {
        match what {
            Administration::Change(change) => match self.raft.change_membership(change, now) {
                Ok(Changed::Appended(at)) => self.waiters.set_stage(id, Stage::Proposed(at)),
                Ok(Changed::Already(index)) => {
                    self.waiters.finish_administration(id, Ok(Administered::Changed(index)));
                }
                Err(e) => self.waiters.finish_administration(id, Err(e.into())),
            },
            Administration::HandOver(to) => match self.raft.transfer_leadership(*to, now) {
                Ok(to) if to == self.raft.me() => {
                    self.waiters.finish_administration(id, Ok(Administered::LedBy(to)));
                }
                Ok(_) => self.waiters.set_stage(id, Stage::HandingOver),
                Err(e) => self.waiters.finish_administration(id, Err(e.into())),
            },
        }
    }

    /// Answers those who asked for a hand-over, once it is decided.
    pub(super) fn finish_hand_over(&mut self) {
        if !self.waiters.has_handing_over() || self.raft.is_handing_over() {
            return;
        }
        let result = match self.raft.leader() {
            Some(leader) if leader == self.raft.me() => Err(AdminFailure::new(
                AdminFailureKind::Conflict,
                "the member did not take the leadership over within an election timeout: this node leads on",
            )),
            Some(leader) => Ok(Administered::LedBy(leader)),
            // Left office, and nobody is known to lead yet.
            None => return,
        };
        self.waiters.finish_handing_over(&result);
    }
}
