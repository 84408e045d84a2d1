//! One request that waits: what is asked, what it waits for, and what it is told when its time is over.

use crate::node::request::{
    AdminFailure, AdminFailureKind, AdminResult, Administration, BackupResult, Completion, Failure,
    FailureKind, Origin, ReadIndexResult, WriteResult,
};
use crate::raft::{Draft, Index, Position, ReadToken, Time};

/// Maximum number of requests that wait at one node; more are refused as overloaded. The ports admit far fewer.
pub(in crate::node) const MAX_REQUESTS: usize = 4_096;

/// Number of a request, in the order of arrival.
pub(crate) type RequestId = u64;

/// What is asked.
pub enum Work {
    /// To put an encoded command into the log.
    Write {
        /// The command in the frame of its entry; gone once it is proposed.
        command: Option<Draft>,
        /// Told what became of it.
        done: Completion<WriteResult>,
    },
    /// To get an index from which a linearizable read can be served.
    Read {
        /// Told the index.
        done: Completion<ReadIndexResult>,
    },
    /// To get a snapshot of the state that holds a certain index.
    Backup {
        /// Told which snapshot.
        done: Completion<BackupResult>,
    },
    /// To change the cluster itself.
    Administer {
        /// The change.
        what: Administration,
        /// Told what became of it.
        done: Completion<AdminResult>,
    },
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Stage {
    /// For nothing yet: the step that added it moves it on.
    Arrived,
    /// For a leader to be known, or to be asked again at `retry_at`.
    AwaitLeader { retry_at: Time },
    /// For the forwarder or the read-asker to take it.
    Queued,
    /// For the leader's answer to an RPC: this node cannot know whether the request was executed.
    Sent,
    /// For its entry to be committed and applied.
    Proposed(Position),
    /// For the core to confirm its read index.
    Confirming(ReadToken),
    /// For the state machine to have applied this index.
    AwaitApplied(Index),
    /// For members that have not answered this leader yet: checked again at `retry_at`.
    AwaitNews { retry_at: Time },
    /// For another member to lead.
    Transferring,
    /// For a durable snapshot that holds this index.
    AwaitSnapshot(Index),
}

pub(in crate::node) struct Request {
    pub work: Work,
    pub origin: Origin,
    pub deadline: Time,
    /// When it stops waiting for a leader: set when it first has to.
    pub(super) leader_by: Option<Time>,
    /// Why the last attempt at the leader failed.
    pub(super) trouble: Option<String>,
    pub(super) stage: Stage,
}

impl Request {
    pub(super) fn wake_at(&self) -> Time {
        match self.stage {
            Stage::AwaitLeader { retry_at } => {
                self.deadline.min(retry_at).min(self.leader_by.unwrap_or(Time::NEVER))
            }
            Stage::AwaitNews { retry_at } => self.deadline.min(retry_at),
            _ => self.deadline,
        }
    }
}

/// The answer to a request whose deadline has passed: a write that was proposed or sent is unknown, everything else
/// is surely not done.
pub(super) fn overdue(request: &Request) -> Failure {
    match (&request.work, request.stage) {
        (Work::Write { .. }, Stage::Proposed(at)) => Failure::unknown(format!(
            "the write was not committed in time; as entry {at} it may still take effect"
        )),
        (Work::Write { .. }, Stage::Sent) => {
            Failure::unknown("the leader did not answer in time: the write may or may not take effect")
        }
        (_, Stage::AwaitLeader { .. }) => Failure::unavailable(match &request.trouble {
            Some(trouble) => format!("the leader could not be reached in time: {trouble}"),
            None => "no leader is known yet: `dkv-cli status` shows what answers".to_owned(),
        }),
        (Work::Write { .. }, _) => {
            Failure::unavailable("the write could not be sent to the leader in time: it was not made")
        }
        (Work::Administer { .. }, Stage::Proposed(at)) => Failure::unknown(format!(
            "the change was not committed in time; as entry {at} it may still take effect"
        )),
        (Work::Administer { .. }, _) => {
            Failure::unavailable("no other member took the leadership over in time")
        }
        (Work::Backup { .. }, _) => Failure::new(
            FailureKind::Timeout,
            "the state could not be saved in time: it is being written; ask again",
        ),
        (Work::Read { .. }, Stage::AwaitApplied(index)) => Failure::new(
            FailureKind::Timeout,
            format!("this node has not applied entry {index} in time: it lags behind the leader"),
        ),
        (Work::Read { .. }, _) => {
            Failure::new(FailureKind::Timeout, "the leader was not confirmed in time for this read")
        }
    }
}

/// The answer to an operator whose deadline passed before the needed members answered: nothing was done, and the
/// request may succeed later.
pub(super) fn no_news() -> AdminFailure {
    let text = "the members that it needs have not answered the new leader in time: try again";
    AdminFailure::new(AdminFailureKind::Conflict, text)
}
