//! What a disk must hold after any crash: log, term and vote as the rules have them, and the newest snapshot.

use std::sync::Arc;

use dkv::node::Stored;
use dkv::raft::{Entry, HardState, Index, Position, Term, WriteOp};
use dkv::store::disk::Disk;

use crate::whole_log::entries_of;

/// Term, vote, log and newest snapshot that a crash may not take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub hard_state: HardState,
    /// The position before the first of the log's entries.
    pub base: Position,
    /// What the log holds. What was cut after snapshots stays in here: it is not missed.
    pub entries: Vec<Entry>,
    /// The newest snapshot.
    pub snapshot: Position,
}

impl Image {
    pub fn log_term_at(&self, index: Index) -> Option<Term> {
        match index.checked_sub(self.base.index)? {
            0 => Some(self.base.term),
            nth => self.entries.get(usize::try_from(nth).ok()? - 1).map(Entry::term),
        }
    }

    fn log_last(&self) -> Position {
        self.entries.last().map_or(self.base, Entry::position)
    }

    /// Whether the log leads to the snapshot. One that does not counts for nothing: recovery drops it.
    pub fn is_joined(&self) -> bool {
        self.log_term_at(self.snapshot.index) == Some(self.snapshot.term)
    }

    /// The last entry.
    pub fn last(&self) -> Position {
        if self.is_joined() { self.log_last() } else { self.snapshot }
    }

    /// The entry at `index`, if it is one of the log's.
    pub fn get(&self, index: Index) -> Option<&Entry> {
        let nth = usize::try_from(index.checked_sub(self.base.index + 1)?).ok()?;
        self.entries.get(nth).filter(|_| self.is_joined())
    }

    /// The term at `index`, as far as the log knows.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        match index {
            index if index == self.snapshot.index => Some(self.snapshot.term),
            index => self.log_term_at(index).filter(|_| self.is_joined()),
        }
    }

    /// Whether this committed entry is here, by itself or in the snapshot.
    pub fn holds(&self, entry: &Entry) -> bool {
        entry.index() <= self.snapshot.index || self.get(entry.index()) == Some(entry)
    }

    pub fn take(&mut self, op: &WriteOp) {
        match op {
            WriteOp::HardState(hard_state) => self.hard_state = *hard_state,
            WriteOp::Entries(entries) => {
                let from = entries.first().expect("never empty").index();
                self.entries.truncate((from - self.base.index) as usize - 1);
                self.entries.extend(entries.iter().cloned());
            }
            WriteOp::Reset(position) => {
                self.base = *position;
                self.entries.clear();
            }
        }
    }

    /// A process starts from this snapshot: a log that does not lead there begins anew.
    pub fn start_after(&mut self, snapshot: Position) {
        self.snapshot = snapshot;
        if !self.is_joined() {
            self.base = snapshot;
            self.entries.clear();
            if self.hard_state.term < snapshot.term {
                self.hard_state = HardState { term: snapshot.term, voted_for: None };
            }
        }
    }

    /// Whether recovery found this, after the same snapshot. `disk` is a copy without faults.
    pub fn is_found(&self, stored: &Stored, disk: &Arc<dyn Disk>) -> bool {
        let after = (self.snapshot.index - self.base.index) as usize;
        let recovered = &stored.recovered;
        (recovered.hard_state, recovered.base) == (self.hard_state, self.snapshot)
            && self.entries.get(after..) == Some(&entries_of(recovered, disk)[..])
    }

    pub fn describe(&self) -> String {
        format!(
            "{:?}, a snapshot through {} and a log from {} to {}",
            self.hard_state,
            self.snapshot,
            self.base,
            self.log_last()
        )
    }
}

/// Where the snapshot ends that a process starts from.
pub fn snapshot_of(stored: &Stored) -> Position {
    stored.snapshot.as_ref().map_or(Position::ZERO, |(meta, _)| meta.last)
}

/// What recovery found, for people.
pub fn describe(stored: &Stored) -> String {
    let recovered = &stored.recovered;
    let last = recovered.last();
    format!("{:?}, a snapshot through {} and a log to {last}", recovered.hard_state, snapshot_of(stored))
}
