//! What must reach the disk, and what waits for it.

use std::collections::VecDeque;

use super::entry::Entry;
use super::types::{HardState, Index, Position, Term, Time};

/// Number of a queued write: 1, 2, 3 ... in memory order since the process started. File order equals memory order,
/// so the one number in "synced through n" is enough.
pub type WriteSeq = u64;

/// One change of the durable state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOp {
    /// Term and vote.
    HardState(HardState),
    /// Consecutive entries. The first entry cuts everything that the log holds from its index on.
    Entries(Vec<Entry>),
    /// The log restarts empty after this position (after a snapshot install).
    Reset(Position),
}

/// A write with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedWrite {
    /// Its number.
    pub seq: WriteSeq,
    /// What to write.
    pub op: WriteOp,
}

/// All writes that were queued when the log writer took them: one sync makes them durable together.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct WriteBatch {
    /// In order, without gaps.
    pub writes: Vec<QueuedWrite>,
}

impl WriteBatch {
    /// Number of the last write; `None` for an empty batch.
    pub fn last_seq(&self) -> Option<WriteSeq> {
        self.writes.last().map(|w| w.seq)
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// A reply that must not be sent before the disk holds what the reply promises. Only `Raft::settle`, which checks the
/// log writer's watermark, gives access to the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a reply that is never settled is never sent"]
pub struct AfterSync<T> {
    /// Opened only when every write up to this one is synced.
    pub(super) after: WriteSeq,
    /// The term in which the reply was made.
    pub(super) term: Term,
    /// For an accepted append: how long it waits for the entries that it acknowledges.
    pub(super) hold: Option<Hold>,
    pub(super) reply: T,
}

/// How long an accepted append is held for this member's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// Answered at this time at the latest, with what the disk holds then.
    pub until: Time,
    /// Answered as soon as the disk holds this index. `None` waits the whole time: this slows down a leader whose
    /// entries could not be taken.
    pub or_persisted: Option<Index>,
}

impl<T> AfterSync<T> {
    /// When the reply can be opened although the disk does not hold all of its entries: the end of the append hold. A
    /// thread that waits for the watermark must also wake at this time.
    pub fn hold_until(&self) -> Option<Time> {
        self.hold.map(|h| h.until)
    }
}

/// The writes that are not yet known to be durable, and what the disk holds: the only record of what is synced here.
///
/// Index and term are never used to find out what is synced: the same entry can be cut and appended again while its
/// first write is still pending. Instead every append is remembered by its number, and truncating the log lowers the
/// index that each pending write can still make durable.
#[derive(Clone, Debug, Default)]
pub struct WriteQueue {
    queued: Vec<QueuedWrite>,
    pending: VecDeque<Pending>,
    last_seq: WriteSeq,
    last_hard_state_seq: WriteSeq,
    persisted_seq: WriteSeq,
    persisted_index: Index,
    persisted_hard_state: HardState,
    unpersisted_bytes: usize,
}

/// A pending write.
#[derive(Clone, Debug)]
struct Pending {
    seq: WriteSeq,
    queued_at: Time,
    bytes: usize,
    what: PendingWhat,
}

#[derive(Clone, Copy, Debug)]
enum PendingWhat {
    /// Entries through this index; lowered when the log was cut later.
    EntriesThrough(Index),
    HardState(HardState),
}

impl WriteQueue {
    /// The queue after recovery, which has synced everything that it returns.
    pub fn new(hard_state: HardState, last_index: Index) -> WriteQueue {
        WriteQueue { persisted_index: last_index, persisted_hard_state: hard_state, ..WriteQueue::default() }
    }

    /// Queues a new term or vote.
    pub fn push_hard_state(&mut self, hard_state: HardState, now: Time) {
        let seq = self.push(WriteOp::HardState(hard_state), 0, PendingWhat::HardState(hard_state), now);
        self.last_hard_state_seq = seq;
    }

    /// Queues entries that were just appended to the log.
    pub fn push_entries(&mut self, entries: Vec<Entry>, now: Time) {
        let Some(last) = entries.last() else { return };
        let through = PendingWhat::EntriesThrough(last.index());
        let bytes = entries.iter().map(|e| e.frame().len()).sum();
        self.push(WriteOp::Entries(entries), bytes, through, now);
    }

    /// Queues the reset of the log after an installed snapshot, which is already durable. Queued entries of the old
    /// log that come after the snapshot no longer count.
    pub fn push_reset(&mut self, base: Position, now: Time) {
        self.truncate_suffix(base.index + 1);
        self.push(WriteOp::Reset(base), 0, PendingWhat::EntriesThrough(base.index), now);
        self.cover(base.index);
    }

    /// A durable snapshot holds everything through `index`.
    pub fn cover(&mut self, index: Index) {
        self.persisted_index = self.persisted_index.max(index);
    }

    fn push(&mut self, op: WriteOp, bytes: usize, what: PendingWhat, now: Time) -> WriteSeq {
        self.last_seq += 1;
        self.queued.push(QueuedWrite { seq: self.last_seq, op });
        self.pending.push_back(Pending { seq: self.last_seq, queued_at: now, bytes, what });
        self.unpersisted_bytes += bytes;
        self.last_seq
    }

    /// The log was cut from `from` on: nothing at or after `from` counts as synced, even if writes of it are pending.
    pub fn truncate_suffix(&mut self, from: Index) {
        self.persisted_index = self.persisted_index.min(from - 1);
        for pending in &mut self.pending {
            if let PendingWhat::EntriesThrough(last) = &mut pending.what {
                *last = (*last).min(from - 1);
            }
        }
    }

    /// The disk holds every write through `seq`.
    pub fn handle_persisted(&mut self, seq: WriteSeq) {
        assert!(
            seq <= self.last_seq,
            "the log writer synced write {seq}, but only {} were queued",
            self.last_seq
        );
        while self.pending.front().is_some_and(|p| p.seq <= seq) {
            let pending = self.pending.pop_front().expect("just seen");
            self.unpersisted_bytes -= pending.bytes;
            match pending.what {
                PendingWhat::EntriesThrough(last) => self.persisted_index = self.persisted_index.max(last),
                PendingWhat::HardState(hard_state) => self.persisted_hard_state = hard_state,
            }
        }
        self.persisted_seq = self.persisted_seq.max(seq);
    }

    /// All writes that were queued since the last call.
    pub fn take(&mut self) -> WriteBatch {
        WriteBatch { writes: std::mem::take(&mut self.queued) }
    }

    /// Number of the last write queued.
    pub fn last_seq(&self) -> WriteSeq {
        self.last_seq
    }

    /// Number of the last write known to be durable.
    pub fn persisted_seq(&self) -> WriteSeq {
        self.persisted_seq
    }

    /// The write that holds the current term and vote; 0 when recovery found them.
    pub fn hard_state_seq(&self) -> WriteSeq {
        self.last_hard_state_seq
    }

    /// Whether a term or vote is not yet on the disk.
    pub fn is_hard_state_pending(&self) -> bool {
        self.last_hard_state_seq > self.persisted_seq
    }

    /// Term and vote as the disk holds them.
    pub fn persisted_hard_state(&self) -> HardState {
        self.persisted_hard_state
    }

    /// The last index that is durable here.
    pub fn persisted_index(&self) -> Index {
        self.persisted_index
    }

    /// Bytes of entries that are not yet on the disk.
    pub fn unpersisted_bytes(&self) -> usize {
        self.unpersisted_bytes
    }

    /// The time at which the oldest write that is not yet durable was queued.
    pub fn oldest_queued_at(&self) -> Option<Time> {
        self.pending.front().map(|p| p.queued_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::entry::Payload;

    fn entries(from: Index, to: Index, term: Term) -> Vec<Entry> {
        (from..=to).map(|i| Entry::new(Position::new(i, term), 0, &Payload::Noop)).collect()
    }

    #[test]
    fn handle_persisted_raises_the_index_to_what_the_writes_were_worth() {
        let mut queue = WriteQueue::new(HardState::default(), 0);
        queue.push_entries(entries(1, 3, 1), Time(0));
        queue.push_entries(entries(4, 5, 1), Time(1));
        assert_eq!((queue.persisted_index(), queue.take().last_seq()), (0, Some(2)));
        queue.handle_persisted(1);
        assert_eq!((queue.persisted_index(), queue.oldest_queued_at()), (3, Some(Time(1))));
        queue.handle_persisted(2);
        assert_eq!(
            (queue.persisted_index(), queue.unpersisted_bytes(), queue.oldest_queued_at()),
            (5, 0, None)
        );
    }

    #[test]
    fn truncate_suffix_clips_writes_under_way_even_when_the_same_entry_returns() {
        let mut queue = WriteQueue::new(HardState::default(), 0);
        queue.push_entries(entries(1, 5, 1), Time(0));
        queue.truncate_suffix(3);
        queue.push_entries(entries(3, 5, 1), Time(0));
        queue.handle_persisted(1);
        assert_eq!(queue.persisted_index(), 2, "the first write of 3..5 does not count for the second");
        queue.handle_persisted(2);
        assert_eq!(queue.persisted_index(), 5);
    }

    #[test]
    fn truncate_suffix_lowers_what_was_durable() {
        let mut queue = WriteQueue::new(HardState::default(), 9);
        queue.truncate_suffix(4);
        assert_eq!(queue.persisted_index(), 3);
    }

    #[test]
    fn hard_state_is_persisted_only_when_its_write_is() {
        let mut queue = WriteQueue::new(HardState::default(), 0);
        let vote = HardState { term: 4, voted_for: None };
        queue.push_hard_state(vote, Time(0));
        assert!(queue.is_hard_state_pending());
        queue.handle_persisted(1);
        assert!(!queue.is_hard_state_pending());
        assert_eq!(queue.persisted_hard_state(), vote);
    }

    #[test]
    fn push_reset_counts_through_the_snapshot_and_nothing_of_the_old_log() {
        let mut queue = WriteQueue::new(HardState::default(), 3);
        queue.push_entries(entries(4, 9, 1), Time(0));
        queue.push_reset(Position::new(6, 2), Time(0));
        assert_eq!(queue.persisted_index(), 6, "the snapshot's file is durable already");
        queue.handle_persisted(1);
        assert_eq!(queue.persisted_index(), 6, "entries 7 to 9 of the old log are gone");
        queue.push_entries(entries(7, 8, 2), Time(0));
        queue.handle_persisted(2);
        assert_eq!(queue.persisted_index(), 6);
        queue.handle_persisted(3);
        assert_eq!(queue.persisted_index(), 8);
    }

    #[test]
    #[should_panic(expected = "only 0 were queued")]
    fn handle_persisted_refuses_a_write_that_was_never_queued() {
        WriteQueue::new(HardState::default(), 0).handle_persisted(1);
    }
}
