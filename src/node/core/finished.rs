//! Results that are not sent yet: replies that wait for the disk, answers that are given after unlocking.

use crate::node::counters::Counters;
use crate::node::request::{AdminResult, BackupResult, Completion, ReadIndexResult, WriteResult};
use crate::raft::{
    AfterSync, AppendEntriesReply, InstallSnapshotReply, Raft, RequestVoteReply, Settled, Time,
    TimeoutNowReply,
};

/// A reply to a peer that waits for this member's disk.
pub enum Held {
    /// To a vote or a pre-vote.
    Vote(AfterSync<RequestVoteReply>, Completion<RequestVoteReply>),
    /// To entries or a heartbeat.
    Append(AfterSync<AppendEntriesReply>, Completion<AppendEntriesReply>),
    /// To a piece of a snapshot.
    Install(AfterSync<InstallSnapshotReply>, Completion<InstallSnapshotReply>),
    /// To a leadership transfer.
    TimeoutNow(AfterSync<TimeoutNowReply>, Completion<TimeoutNowReply>),
}

/// An answer that is given after unlocking.
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
    /// To a peer that transfers its leadership.
    TimeoutNow(Completion<TimeoutNowReply>, TimeoutNowReply),
    /// To a request for a backup.
    Backup(Completion<BackupResult>, BackupResult),
    /// To an operator.
    Administered(Completion<AdminResult>, AdminResult),
}

impl Held {
    fn hold_until(&self) -> Option<Time> {
        match self {
            Held::Vote(waiting, _) => waiting.hold_until(),
            Held::Append(waiting, _) => waiting.hold_until(),
            Held::Install(waiting, _) => waiting.hold_until(),
            Held::TimeoutNow(waiting, _) => waiting.hold_until(),
        }
    }
}

/// The replies to peers that wait for this member's disk.
pub(super) struct HeldReplies {
    replies: Vec<Held>,
    /// When the next hold ends. A reply that still waits after its hold needs the disk, not time.
    settle_at: Time,
}

impl HeldReplies {
    pub(super) fn new() -> HeldReplies {
        HeldReplies { replies: Vec::new(), settle_at: Time::NEVER }
    }

    pub(super) fn hold(&mut self, reply: Held) {
        self.replies.push(reply);
    }

    /// Drops every reply without an answer.
    pub(super) fn clear(&mut self) {
        self.replies.clear();
    }

    /// When `settle` has something to do although the disk holds nothing more.
    pub(super) fn settle_at(&self) -> Time {
        self.settle_at
    }

    /// Releases the replies whose writes are on the disk, and the replies to appends whose hold is over.
    pub(super) fn settle(&mut self, raft: &Raft, now: Time, finished: &mut Vec<Finished>) {
        for held in std::mem::take(&mut self.replies) {
            match held {
                Held::Vote(waiting, done) => match raft.settle(waiting, now) {
                    Settled::Ready(reply) => finished.push(Finished::Vote(done, reply)),
                    Settled::NotYet(waiting) => self.replies.push(Held::Vote(waiting, done)),
                },
                Held::Append(waiting, done) => match raft.settle(waiting, now) {
                    Settled::Ready(reply) => finished.push(Finished::Append(done, reply)),
                    Settled::NotYet(waiting) => self.replies.push(Held::Append(waiting, done)),
                },
                Held::Install(waiting, done) => match raft.settle(waiting, now) {
                    Settled::Ready(reply) => finished.push(Finished::Install(done, reply)),
                    Settled::NotYet(waiting) => self.replies.push(Held::Install(waiting, done)),
                },
                Held::TimeoutNow(waiting, done) => match raft.settle(waiting, now) {
                    Settled::Ready(reply) => finished.push(Finished::TimeoutNow(done, reply)),
                    Settled::NotYet(waiting) => self.replies.push(Held::TimeoutNow(waiting, done)),
                },
            }
        }
        let holds = self.replies.iter().filter_map(Held::hold_until).filter(|&until| until > now);
        self.settle_at = holds.min().unwrap_or(Time::NEVER);
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

    /// Gives the answer.
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
