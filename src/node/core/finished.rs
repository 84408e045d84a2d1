//! What waits on its way out: replies that the disk holds back, answers that are given after unlocking, and what a request is
//! told whose time is up.

use super::{BackupResult, Request, Stage, Work};
use crate::node::administer::AdminResult;
use crate::node::counters::Counters;
use crate::node::request::{Completion, Failure, FailureKind, WriteResult};
use crate::node::transport::ReadIndexResult;
use crate::raft::{
    AfterSync, AppendEntriesReply, InstallSnapshotReply, RequestVoteReply, Time, TimeoutNowReply,
};

/// A reply to a peer that waits for this member's disk.
pub enum Parked {
    /// To a vote or a pre-vote.
    Vote(AfterSync<RequestVoteReply>, Completion<RequestVoteReply>),
    /// To entries or a heartbeat.
    Append(AfterSync<AppendEntriesReply>, Completion<AppendEntriesReply>),
    /// To a piece of a snapshot.
    Install(AfterSync<InstallSnapshotReply>, Completion<InstallSnapshotReply>),
    /// To a hand-over.
    TimeoutNow(AfterSync<TimeoutNowReply>, Completion<TimeoutNowReply>),
}

/// An answer on its way out: given after unlocking.
pub enum Finished {
    /// To a write.
    Write(Completion<WriteResult>, WriteResult),
    /// To a read.
    Read(Completion<ReadIndexResult>, ReadIndexResult),
    /// To a peer's vote or pre-vote.
    Vote(Completion<RequestVoteReply>, RequestVoteReply),
    /// To a peer's append.
    Append(Completion<AppendEntriesReply>, AppendEntriesReply),
    /// To a peer's piece of a snapshot.
    Install(Completion<InstallSnapshotReply>, InstallSnapshotReply),
    /// To a peer that hands over.
    TimeoutNow(Completion<TimeoutNowReply>, TimeoutNowReply),
    /// To who wants a backup.
    Backup(Completion<BackupResult>, BackupResult),
    /// To an operator.
    Administered(Completion<AdminResult>, AdminResult),
}

impl Parked {
    pub(super) fn hold_until(&self) -> Option<Time> {
        match self {
            Parked::Vote(waiting, _) => waiting.hold_until(),
            Parked::Append(waiting, _) => waiting.hold_until(),
            Parked::Install(waiting, _) => waiting.hold_until(),
            Parked::TimeoutNow(waiting, _) => waiting.hold_until(),
        }
    }
}

impl Finished {
    pub(in crate::node) fn count(&self, counters: &Counters) {
        match self {
            Finished::Write(_, result) => counters.count_write(result),
            Finished::Read(_, Err(_)) => counters.count_failed_read(),
            _ => {}
        }
    }

    /// Gives it.
    pub fn answer(self) {
        match self {
            Finished::Write(done, result) => done(result),
            Finished::Read(done, result) => done(result),
            Finished::Vote(done, reply) => done(reply),
            Finished::Append(done, reply) => done(reply),
            Finished::Install(done, reply) => done(reply),
            Finished::TimeoutNow(done, reply) => done(reply),
            Finished::Backup(done, result) => done(result),
            Finished::Administered(done, result) => done(result),
        }
    }
}

/// What a request is told whose time is up: a write that was proposed or sent is unknown, everything else surely not
/// done.
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
            None => "no leader is known: is a majority of the nodes up?".to_owned(),
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
            Failure::new(FailureKind::Timeout, "no majority confirmed the leader in time for this read")
        }
    }
}
