//! What must reach the disk, and what waits for it.

use super::entry::Entry;
use super::types::{HardState, Position, Term, Time};

/// Number of a queued write: 1, 2, 3 ... in memory order since the process started. File order equals memory order, so
/// "synced through n" says everything.
pub type WriteSeq = u64;

/// One change of the durable state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOp {
    /// Term and vote.
    HardState(HardState),
    /// Consecutive entries. The first one cuts whatever the log holds from its index on.
    Entries(Vec<Entry>),
    /// The log starts anew behind this position (after a snapshot install).
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

/// All writes that were queued when the log writer came for them: one sync makes them durable together.
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

/// A reply that must not leave before the disk holds what it vouches for. There is no way to the reply but
/// `Raft::settle`, which checks the log writer's watermark.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a reply that is never settled is never sent"]
pub struct AfterSync<T> {
    /// Opened only when every write up to this one is synced.
    pub(super) after: WriteSeq,
    /// The term in which the reply was made.
    pub(super) term: Term,
    /// For an append: answered at this time at the latest, with whatever the disk has by then.
    pub(super) hold_until: Option<Time>,
    pub(super) reply: T,
}

impl<T> AfterSync<T> {
    /// When the reply can be opened although the disk does not hold all of its entries: the end of the append hold.
    /// Whoever waits for the watermark must also wake at this time.
    pub fn hold_until(&self) -> Option<Time> {
        self.hold_until
    }
}
