//! Replies that promise something: how each kind is opened once the disk holds enough.

use super::message::{
    AppendEntriesReply, AppendOutcome, InstallOutcome, InstallSnapshotReply, RequestVoteReply,
    TimeoutNowReply,
};
use super::raft::Raft;
use super::types::Time;
use super::write::AfterSync;

/// Replies that wait for the disk.
pub trait Reply: Copy {
    /// The reply as it may be sent now; `None` when it must still wait.
    fn open(&self, raft: &Raft, waiting: &AfterSync<Self>, now: Time) -> Option<Self>
    where
        Self: Sized;
}

impl Reply for RequestVoteReply {
    fn open(&self, _raft: &Raft, _waiting: &AfterSync<Self>, _now: Time) -> Option<RequestVoteReply> {
        Some(*self)
    }
}

impl Reply for InstallSnapshotReply {
    /// When the term has changed, the answer contains only the new term.
    fn open(&self, raft: &Raft, waiting: &AfterSync<Self>, _now: Time) -> Option<InstallSnapshotReply> {
        if raft.term() == waiting.term {
            return Some(*self);
        }
        let is_durable = raft.writes.persisted_hard_state().term == raft.term();
        is_durable.then_some(InstallSnapshotReply {
            term: raft.term(),
            outcome: InstallOutcome::TermOnly,
            ..*self
        })
    }
}

impl Reply for TimeoutNowReply {
    fn open(&self, _raft: &Raft, _waiting: &AfterSync<Self>, _now: Time) -> Option<TimeoutNowReply> {
        Some(*self)
    }
}

impl Reply for AppendEntriesReply {
    /// When the term has changed, the answer contains only the new term, and only when that term is durable: the
    /// entries in the log may now be from another leader.
    fn open(&self, raft: &Raft, waiting: &AfterSync<Self>, now: Time) -> Option<AppendEntriesReply> {
        if raft.term() != waiting.term {
            let is_durable = raft.writes.persisted_hard_state().term == raft.term();
            return is_durable.then_some(AppendEntriesReply {
                term: raft.term(),
                outcome: AppendOutcome::TermOnly,
                ..*self
            });
        }
        let (AppendOutcome::Accepted { received, match_index }, Some(hold)) = (self.outcome, waiting.hold)
        else {
            return Some(*self);
        };
        let is_on_disk = hold.or_persisted.is_some_and(|index| raft.persisted_index() >= index);
        if !is_on_disk && now < hold.until {
            return None;
        }
        let match_index = match_index.min(raft.persisted_index());
        Some(AppendEntriesReply { outcome: AppendOutcome::Accepted { received, match_index }, ..*self })
    }
}
