//! The log in memory: entries after a base. `write.rs` knows which part of it is on the disk.

use std::collections::VecDeque;

use super::entry::Entry;
use super::types::{Index, Position, Term};

/// Consecutive entries from `base.index + 1` on. Everything through the base is in a durable snapshot (paper §7). The
/// newest snapshot may end later, so that a peer that lags only a little needs entries and no snapshot.
#[derive(Clone, Debug)]
pub struct Log {
    base: Position,
    entries: VecDeque<Entry>,
}

impl Log {
    /// The log that recovery found. Panics unless the entries follow the base without a gap: recovery has checked
    /// that.
    pub fn new(base: Position, entries: Vec<Entry>) -> Log {
        let mut log = Log { base, entries: VecDeque::new() };
        for entry in entries {
            log.push(entry);
        }
        log
    }

    /// The position before the first entry; `0@0` if nothing was compacted.
    pub fn base(&self) -> Position {
        self.base
    }

    /// Index of the first entry, also when that entry does not exist yet.
    pub fn first_index(&self) -> Index {
        self.base.index + 1
    }

    /// Index and term of the last entry, or the base.
    pub fn last(&self) -> Position {
        self.entries.back().map_or(self.base, Entry::position)
    }

    /// Index of the last entry.
    pub fn last_index(&self) -> Index {
        self.last().index
    }

    /// The entry at `index`.
    pub fn get(&self, index: Index) -> Option<&Entry> {
        let at = index.checked_sub(self.first_index())?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// The term at `index`. Known for every entry and for the base (paper §7: the consistency check of the first entry
    /// after it needs that term); `Some(0)` at index 0 of an empty log.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.get(index).map(Entry::term)
    }

    /// Entries from `from` through `to`: at least one if there is any, then as many as fit into `max_bytes` of
    /// frames.
    pub fn slice(&self, from: Index, to: Index, max_bytes: usize) -> Vec<Entry> {
        let mut bytes = 0;
        let mut slice = Vec::new();
        let mut index = from;
        while index <= to {
            let Some(entry) = self.get(index) else { break };
            bytes += entry.frame().len();
            if bytes > max_bytes && !slice.is_empty() {
                break;
            }
            slice.push(entry.clone());
            index += 1;
        }
        slice
    }

    /// The first index of the run of entries that share the term at `index` (paper §5.3, back-tracking by terms).
    pub fn first_index_of_term_at(&self, index: Index) -> Index {
        let term = self.term_at(index).unwrap_or(0);
        let below = self.entries.partition_point(|e| e.term() < term) as u64;
        (self.first_index() + below).min(index)
    }

    /// The last index at or before `from` whose term is at most `term`; the base when there is none.
    pub fn last_index_with_term_at_most(&self, term: Term, from: Index) -> Index {
        let through = self.entries.partition_point(|e| e.term() <= term) as u64;
        (self.base.index + through).min(from)
    }

    /// Adds the entry right after the last one.
    pub fn push(&mut self, entry: Entry) {
        let last = self.last();
        assert_eq!(entry.index(), last.index + 1, "entry {} does not follow {last}", entry.position());
        assert!(
            entry.term() >= last.term,
            "entry {} has a lower term than {last} before it",
            entry.position()
        );
        self.entries.push_back(entry);
    }

    /// Drops every entry from `from` on (paper §5.3: conflicting entries only). The caller has checked that none of
    /// them is committed.
    pub fn truncate_suffix(&mut self, from: Index) {
        let keep = from.saturating_sub(self.first_index());
        self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    /// Drops every entry through `to`, which a durable snapshot covers (paper §7). Does nothing when these entries
    /// were already dropped.
    pub fn compact(&mut self, to: Index) {
        if to <= self.base.index {
            return;
        }
        let term = self.term_at(to).expect("only what the log holds is compacted");
        self.entries.drain(..(to - self.base.index) as usize);
        self.base = Position::new(to, term);
    }

    /// Empties the log after a snapshot was installed (paper Figure 13, 7).
    pub fn reset(&mut self, base: Position) {
        self.entries.clear();
        self.base = base;
    }

    /// The entries, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::entry::Payload;

    fn log(terms: &[Term]) -> Log {
        let entries = terms
            .iter()
            .enumerate()
            .map(|(i, &term)| Entry::new(Position::new(i as u64 + 1, term), 0, &Payload::Noop))
            .collect();
        Log::new(Position::ZERO, entries)
    }

    #[test]
    fn term_at_knows_the_base() {
        let entry = Entry::new(Position::new(11, 5), 0, &Payload::Noop);
        let log = Log::new(Position::new(10, 4), vec![entry]);
        assert_eq!(
            (log.term_at(9), log.term_at(10), log.term_at(11), log.term_at(12)),
            (None, Some(4), Some(5), None)
        );
        assert_eq!((log.first_index(), log.last()), (11, Position::new(11, 5)));
    }

    #[test]
    fn slice_returns_at_least_one_entry() {
        let log = log(&[1, 1, 1]);
        assert_eq!(log.slice(2, 3, 0).len(), 1);
        assert_eq!(log.slice(1, 3, usize::MAX).len(), 3);
        assert_eq!(log.slice(1, 2, usize::MAX).len(), 2);
        assert_eq!(log.slice(4, 3, usize::MAX).len(), 0);
    }

    #[test]
    fn truncate_suffix_drops_from_the_index_on() {
        let mut log = log(&[1, 1, 2, 2]);
        log.truncate_suffix(3);
        assert_eq!(log.last(), Position::new(2, 1));
        log.truncate_suffix(9);
        assert_eq!(log.last(), Position::new(2, 1));
    }

    #[test]
    fn first_index_of_term_at_walks_to_the_start_of_the_run() {
        let log = log(&[1, 1, 2, 2, 2, 4]);
        assert_eq!([2, 3, 5, 6].map(|i| log.first_index_of_term_at(i)), [1, 3, 3, 6]);
        assert_eq!(log.last_index_with_term_at_most(2, 6), 5);
        assert_eq!(log.last_index_with_term_at_most(3, 99), 5);
        assert_eq!(log.last_index_with_term_at_most(2, 4), 4);
        assert_eq!(log.last_index_with_term_at_most(0, 6), 0);
    }

    #[test]
    fn compact_keeps_the_term_of_the_base_and_reset_starts_after_it() {
        let mut log = log(&[1, 1, 2, 2, 3]);
        log.compact(3);
        assert_eq!(
            (log.base(), log.first_index(), log.last()),
            (Position::new(3, 2), 4, Position::new(5, 3))
        );
        assert_eq!((log.term_at(2), log.term_at(3), log.term_at(4)), (None, Some(2), Some(2)));
        log.compact(2);
        assert_eq!(log.base(), Position::new(3, 2), "nothing is forgotten twice");
        log.compact(5);
        assert_eq!((log.last(), log.iter().count()), (Position::new(5, 3), 0));
        log.reset(Position::new(9, 4));
        assert_eq!((log.base(), log.last(), log.get(9)), (Position::new(9, 4), Position::new(9, 4), None));
    }

    #[test]
    #[should_panic(expected = "does not follow")]
    fn push_refuses_a_gap() {
        log(&[1]).push(Entry::new(Position::new(3, 1), 0, &Payload::Noop));
    }
}
