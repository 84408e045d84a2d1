//! How a node reaches its peers: the one trait between the node and the network. `server/peer/client.rs` implements
//! it over HTTP; tests implement it with direct calls.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::request::{AdminResult, Administration, ReadIndexResult, WriteResult};
use crate::raft::{
    AppendEntriesReply, AppendEntriesRequest, Draft, InstallSnapshotReply, InstallSnapshotRequest, MemberId,
    RequestVoteReply, RequestVoteRequest, TimeoutNowReply, TimeoutNowRequest,
};

/// The member that an RPC is meant for. The receiver refuses the RPC when `member_id` is not its own identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The member.
    pub member_id: MemberId,
    /// Where it listens for peers, `host:port`.
    pub raft_addr: String,
}

/// Which connections an RPC uses: votes and appends never wait for bulk transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Priority {
    /// Votes and appends.
    Core,
    /// All other RPCs.
    Bulk,
}

/// A call to a leader that is cancelled when the leader changes: a call of the forwarder or of the read-asker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaderCall {
    /// [`PeerRequest::Forward`].
    Forward,
    /// [`PeerRequest::ReadIndex`].
    ReadIndex,
}

/// A write that is forwarded to the leader: one hop at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedWrite {
    /// `Command::encode` of the write, with its idempotency key, in the frame of its entry.
    pub command: Draft,
    /// How long its client still waits, in milliseconds, counted from when the RPC was sent.
    pub remaining_ms: u64,
}

/// The leader's answer to one [`ForwardedWrite`], passed to the client unchanged.
pub type ForwardedResult = WriteResult;

/// What a node asks of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRequest {
    /// Paper §5.2.
    RequestVote(RequestVoteRequest),
    /// Paper §5.3.
    AppendEntries(AppendEntriesRequest),
    /// Thesis §6.4: an index that covers everything acknowledged before the request was sent. One answer serves all
    /// reads that wait at the asker.
    ReadIndex {
        /// How long the most patient of these reads still waits, in milliseconds.
        remaining_ms: u64,
    },
    /// Writes for the leader to propose. The answer has one result per write, in order.
    Forward(Vec<ForwardedWrite>),
    /// Paper §7, Figure 13.
    InstallSnapshot(InstallSnapshotRequest),
    /// Thesis §3.10.
    TimeoutNow(TimeoutNowRequest),
    /// An operator's request that another node received, for the leader to do.
    Administer {
        /// The request.
        what: Administration,
        /// How long the operator still waits, in milliseconds.
        remaining_ms: u64,
    },
}

/// The answer to a [`PeerRequest`], of the same variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerReply {
    /// To `RequestVote`.
    RequestVote(RequestVoteReply),
    /// To `AppendEntries`.
    AppendEntries(AppendEntriesReply),
    /// To `ReadIndex`.
    ReadIndex(ReadIndexResult),
    /// To `Forward`.
    Forward(Vec<ForwardedResult>),
    /// To `InstallSnapshot`.
    InstallSnapshot(InstallSnapshotReply),
    /// To `TimeoutNow`.
    TimeoutNow(TimeoutNowReply),
    /// To `Administer`.
    Administer(AdminResult),
}

/// Why there is no answer. Decides whether a forwarded write is surely not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum PeerError {
    /// The connection was refused or not made in time: surely not executed.
    #[error("not sent: {0}")]
    NotSent(String),
    /// Any later failure, also a cancelled call: it is unknown whether the request was executed.
    #[error("no answer: {0}")]
    Unknown(String),
    /// The receiver has no log yet and does not take part in Raft.
    #[error("{node_id} (member {member_id}) is not initialized yet")]
    Uninitialized {
        /// Its name.
        node_id: String,
        /// Its identity, created with its data directory.
        member_id: MemberId,
    },
    /// The receiver knows that a committed change has removed the sender from the cluster.
    #[error("this member was removed from the cluster")]
    Removed,
    /// The receiver is stopping and no longer takes part in Raft. A forwarded write, a read-index call and an
    /// operator's request were surely not executed. For a vote, an append or a piece of a snapshot it means the same
    /// as no answer.
    #[error("it is stopping")]
    Stopping,
    /// The receiver refused the request before it reached its core: wrong cluster, wrong target, bad form. Surely
    /// not executed.
    #[error("refused: {0}")]
    Refused(String),
}

impl PeerError {
    /// Whether the request surely had and will have no effect.
    pub fn is_surely_not_executed(&self) -> bool {
        !matches!(self, PeerError::Unknown(_))
    }
}

/// Calls peers. Blocking; every call is bounded by its timeout as a whole (resolve, connect, send, receive).
pub trait PeerTransport: Send + Sync + 'static {
    /// One RPC to one peer. `Ok` holds the variant that belongs to the request.
    fn call(
        &self,
        to: &Target,
        priority: Priority,
        request: PeerRequest,
        timeout: Duration,
    ) -> Result<PeerReply, PeerError>;

    /// Interrupts the running calls of one kind to `to`: they return [`PeerError::Unknown`] immediately. It does not
    /// affect later calls and calls of the other kind, and never votes and appends.
    fn cancel(&self, to: MemberId, call: LeaderCall);
}
