//! What callers ask of a node, and what they are told.

use serde::{Deserialize, Serialize};

use crate::raft::{Index, MemberId, MembershipChange, Position};
use crate::store::Applied;

/// Receives a result: called exactly once, with no lock held. Must not block: it pushes into a channel or a queue.
pub type Completion<T> = Box<dyn FnOnce(T) + Send>;

/// The result of a write: what the state machine decided, or why no decision is known.
pub type WriteResult = Result<Applied, Failure>;

/// A confirmed read index, or why there is none: then the reads are surely not served and may ask another node.
pub type ReadIndexResult = Result<Index, Failure>;

/// The end of a snapshot that holds what was asked for.
pub type BackupResult = Result<Position, Failure>;

/// Where a write comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client of this node: a follower forwards it to the leader.
    Client,
    /// A peer forwarded it: it is never forwarded again (one hop at most).
    Forwarded,
}

/// What a read may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Everything acknowledged before the read began (thesis §6.4).
    Linearizable,
    /// Whatever this node has applied.
    Stale,
}

/// Why no decision can be given. Each kind is one error code of the client API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No leader or no quorum. Not done.
    Unavailable,
    /// Too many requests are waiting. Not done; worth a retry.
    Overloaded,
    /// The request can never fit. Not done.
    TooLarge,
    /// A read's deadline passed. Nothing to undo.
    Timeout,
    /// The version in force does not have this operation yet. Not done.
    Unsupported,
    /// A write that may or may not take effect.
    OutcomeUnknown,
}

impl FailureKind {
    /// Whether the request surely has and will have no effect.
    pub fn is_not_done(self) -> bool {
        self != FailureKind::OutcomeUnknown
    }
}

/// Why no decision can be given, for an operator to read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// The error code.
    pub kind: FailureKind,
    /// What happened and what to do.
    pub message: String,
}

impl Failure {
    /// A failure with its text.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into() }
    }

    /// No leader or no quorum.
    pub fn unavailable(message: impl Into<String>) -> Failure {
        Failure::new(FailureKind::Unavailable, message)
    }

    /// It is unknown whether the write takes effect.
    pub fn unknown(message: impl Into<String>) -> Failure {
        Failure::new(FailureKind::OutcomeUnknown, message)
    }
}

/// A request of an operator about the cluster itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Administration {
    /// To add, promote or remove one member.
    Change(MembershipChange),
    /// To remove this member. A leader that is to be removed checks that its removal can be done, transfers the
    /// leadership, and sends the caller to its successor: a leader that leaves without a successor costs an election.
    Remove(MemberId),
    /// To transfer the leadership, to this member or to the most advanced voter.
    Transfer(Option<MemberId>),
}

/// What was done for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Administered {
    /// The membership is as requested; the entry at this index is committed.
    Changed(Index),
    /// This member leads now.
    TransferredTo(MemberId),
}

/// Why an operator's request was not done, or that its outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminFailureKind {
    /// This node does not lead: ask the leader.
    NotLeader,
    /// There is no such member.
    NotFound,
    /// The request is impossible, now and later. Not done.
    Refused,
    /// Another change is not yet committed: try again in a moment. Not done.
    UnderWay,
    /// The current state of the cluster does not allow it; this may change. Not done.
    Conflict,
    /// A failure as for writes.
    Failed(FailureKind),
}

/// Why an operator's request was not done, or that its outcome is unknown, as a text for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
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

/// The result of an operator's request.
pub type AdminResult = Result<Administered, AdminFailure>;
