//! The log in memory: entries after a base. `write.rs` knows which part of it is on the disk.
//!
//! Entries that are applied and on the own disk leave memory when they take more of it than they may, and a start leaves
//! on the disk what would take more: the log is then in three parts. Of the entries through `released` only the terms are
//! known here, and a thread that needs more reads the disk (`read_log.rs`); the entries after it are here.

use std::collections::VecDeque;

use super::entry::Entry;
use super::left_on_disk::LeftOnDisk;
use super::types::{Index, Position, Term};

/// About what an entry takes in memory beyond its frame: itself, and the two counters and the allocation of the frame.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// Room for this many entries is kept when the log shrinks.
const SPARE_ENTRIES: usize = 1 << 10;

/// Consecutive entries from `base.index + 1` on. Everything through the base is in a durable snapshot (paper §7). The
/// newest snapshot may end later, so that a peer that lags only a little needs entries and no snapshot.
#[derive(Clone, Debug)]
pub struct Log {
    base: Position,
    /// The first entry of each run of entries of one term.
    runs: VecDeque<Position>,
    /// The entries through this index have left memory; the base's index when none has.
    released: Index,
    /// The entries after it.
    entries: VecDeque<Entry>,
    /// About what these take.
    bytes: usize,
}

impl Log {
    /// The log with these entries. Panics unless they follow the base without a gap.
    pub fn new(base: Position, entries: Vec<Entry>) -> Log {
        Log::restored(base, &LeftOnDisk::default(), entries)
    }

    /// The log that recovery found: what it left on the disk, and the entries after that. Panics unless they follow each
    /// other without a gap: recovery has checked that.
    pub fn restored(base: Position, left: &LeftOnDisk, entries: Vec<Entry>) -> Log {
        let mut log = Log {
            base,
            runs: left.runs.iter().copied().collect(),
            released: left.through.max(base.index),
            entries: VecDeque::new(),
            bytes: 0,
        };
        for entry in entries {
            log.push(entry);
        }
        log
    }

    /// The entries in memory, and what is known of those that have left it. `changes` are those of the log that put a
    /// membership or a version in force.
    pub fn into_parts(self, mut changes: Vec<Entry>) -> (LeftOnDisk, Vec<Entry>) {
        let through = self.released;
        let entries = Vec::from(self.entries);
        if through == self.base.index {
            return (LeftOnDisk::default(), entries);
        }
        changes.retain(|entry| self.base.index < entry.index() && entry.index() <= through);
        let runs = self.runs.into_iter().filter(|run| run.index <= through).collect();
        (LeftOnDisk { through, runs, changes }, entries)
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
        match self.runs.back() {
            Some(run) => Position::new(self.released + self.entries.len() as u64, run.term),
            None => self.base,
        }
    }

    /// Index of the last entry.
    pub fn last_index(&self) -> Index {
        self.last().index
    }

    /// The last index whose entry has left memory; the base's when none has. The last entry never leaves.
    pub fn released(&self) -> Index {
        self.released
    }

    /// About how much memory the entries take.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// The entry at `index`, if it is in memory.
    pub fn get(&self, index: Index) -> Option<&Entry> {
        let at = index.checked_sub(self.released + 1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// The term at `index`. Known for every entry and for the base (paper §7: the consistency check of the first entry
    /// after it needs that term); `Some(0)` at index 0 of an empty log.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last_index() {
            return None;
        }
        let run = self.runs.partition_point(|run| run.index <= index).checked_sub(1)?;
        Some(self.runs[run].term)
    }

    /// The last index of the entries from `from` on that have its term.
    pub fn last_index_of_term_at(&self, from: Index) -> Index {
        let next = self.runs.partition_point(|run| run.index <= from);
        self.runs.get(next).map_or(self.last_index(), |run| run.index - 1)
    }

    /// Entries from `from` through `to`: at least one if there is any, then as many as fit into `max_bytes` of
    /// frames. None when the first of them has left memory.
    pub fn slice(&self, from: Index, to: Index, max_bytes: usize) -> Vec<Entry> {
        let entries = (from..=to).map_while(|index| self.get(index));
        fitting(entries, max_bytes)
    }

    /// The first index of the run of entries that share the term at `index` (paper §5.3, back-tracking by terms).
    pub fn first_index_of_term_at(&self, index: Index) -> Index {
        let term = self.term_at(index).unwrap_or(0);
        let at = self.runs.partition_point(|run| run.term < term);
        self.runs.get(at).map_or(self.last_index() + 1, |run| run.index).min(index)
    }

    /// The last index at or before `from` whose term is at most `term`; the base when there is none.
    pub fn last_index_with_term_at_most(&self, term: Term, from: Index) -> Index {
        let at = self.runs.partition_point(|run| run.term <= term);
        self.runs.get(at).map_or(self.last_index(), |run| run.index - 1).min(from)
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
        if self.runs.back().is_none_or(|run| run.term < entry.term()) {
            self.runs.push_back(entry.position());
        }
        self.bytes += memory_bytes(&entry);
        self.entries.push_back(entry);
    }

    /// Drops every entry from `from` on (paper §5.3: conflicting entries only). The caller has checked that none of
    /// them is committed.
    pub fn truncate_suffix(&mut self, from: Index) {
        let from = from.max(self.base.index + 1);
        let keep = from.saturating_sub(self.released + 1);
        let keep = usize::try_from(keep).unwrap_or(usize::MAX).min(self.entries.len());
        self.bytes -= self.entries.drain(keep..).map(|entry| memory_bytes(&entry)).sum::<usize>();
        self.released = self.released.min(from - 1);
        while self.runs.back().is_some_and(|run| run.index >= from) {
            self.runs.pop_back();
        }
    }

    /// Drops every entry through `to`, which a durable snapshot covers (paper §7). Does nothing when these entries
    /// were already dropped.
    pub fn compact(&mut self, to: Index) {
        if to <= self.base.index {
            return;
        }
        let term = self.term_at(to).expect("only what the log holds is compacted");
        while self.released < to {
            self.release_first();
        }
        self.base = Position::new(to, term);
        // The first run left is the one of the next entry, if there is one.
        let gone = self.runs.partition_point(|run| run.index <= to + 1).saturating_sub(1);
        self.runs.drain(..gone);
        match self.runs.front_mut() {
            Some(_) if self.released == to && self.entries.is_empty() => self.runs.clear(),
            Some(first) => first.index = first.index.max(to + 1),
            None => {}
        }
        self.shrink();
    }

    /// Lets the first entries leave memory while all take more than `max_bytes`: entries through `through`, which are
    /// applied and on the disk. The last entry stays: the next leader's clock goes on from it.
    pub fn release(&mut self, through: Index, max_bytes: usize) {
        while self.bytes > max_bytes && self.entries.len() > 1 && self.released < through {
            self.release_first();
        }
        self.shrink();
    }

    fn release_first(&mut self) {
        let entry = self.entries.pop_front().expect("only an entry in memory leaves it");
        self.bytes -= memory_bytes(&entry);
        self.released += 1;
    }

    fn shrink(&mut self) {
        if self.entries.capacity() > 4 * self.entries.len() + SPARE_ENTRIES {
            self.entries.shrink_to(2 * self.entries.len());
        }
    }

    /// Empties the log after a snapshot was installed (paper Figure 13, 7).
    pub fn reset(&mut self, base: Position) {
        *self = Log::new(base, Vec::new());
    }

    /// The entries in memory, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Whether the log has this very entry; of one that has left memory, whether it has its position: that is the same
    /// (log matching).
    pub fn holds(&self, entry: &Entry) -> bool {
        match self.get(entry.index()) {
            Some(mine) => mine == entry,
            None => {
                let is_released = (self.first_index()..=self.released).contains(&entry.index());
                is_released && self.term_at(entry.index()) == Some(entry.term())
            }
        }
    }
}

/// The first entries: at least one if there is any, then as many as fit into `max_bytes` of frames.
pub(super) fn fitting<'a>(entries: impl Iterator<Item = &'a Entry>, max_bytes: usize) -> Vec<Entry> {
    let mut bytes = 0;
    let fits = |(n, entry): &(usize, &Entry)| {
        bytes += entry.frame().len();
        bytes <= max_bytes || *n == 0
    };
    entries.enumerate().take_while(fits).map(|(_, entry)| entry.clone()).collect()
}

fn memory_bytes(entry: &Entry) -> usize {
    ENTRY_OVERHEAD_BYTES + entry.frame().len()
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
    fn release_keeps_the_terms_and_the_last_entry() {
        let one = memory_bytes(&log(&[1]).entries[0]);
        let mut log = log(&[1, 1, 2, 2, 3, 3]);
        assert_eq!(log.memory_bytes(), 6 * one);
        log.release(9, 6 * one);
        assert_eq!(log.released(), 0, "they take what they may");
        log.release(2, 0);
        assert_eq!((log.released(), log.memory_bytes()), (2, 4 * one), "the third may not leave");
        let entry = |index, term| Entry::new(Position::new(index, term), 0, &Payload::Noop);
        assert!(log.holds(&entry(2, 1)) && !log.holds(&entry(2, 2)) && !log.holds(&entry(7, 3)));
        log.release(9, 3 * one);
        assert_eq!(log.released(), 3);
        log.release(9, 0);
        assert_eq!((log.released(), log.iter().count(), log.last()), (5, 1, Position::new(6, 3)));
        let terms: Vec<_> = (0..8).map(|index| log.term_at(index)).collect();
        assert_eq!(terms, [Some(0), Some(1), Some(1), Some(2), Some(2), Some(3), Some(3), None]);
        assert_eq!([1, 3, 5].map(|index| log.last_index_of_term_at(index)), [2, 4, 6]);
        assert!(log.slice(5, 6, 1_000).is_empty() && log.slice(6, 6, 0).len() == 1);
        log.truncate_suffix(6);
        assert_eq!((log.last(), log.memory_bytes()), (Position::new(5, 3), 0));
        log.push(entry(6, 4));
        log.compact(3);
        assert_eq!((log.base(), log.released(), log.term_at(4)), (Position::new(3, 2), 5, Some(2)));
        log.compact(6);
        assert_eq!((log.last(), log.released(), log.memory_bytes()), (Position::new(6, 4), 6, 0));
        log.push(entry(7, 4));
        assert_eq!((log.last(), log.term_at(6), log.term_at(7)), (Position::new(7, 4), Some(4), Some(4)));
    }

    proptest::proptest! {
        /// What is released is invisible to every question about terms.
        #[test]
        fn a_log_that_released_entries_answers_like_one_that_did_not(
            steps in proptest::collection::vec((0..6u8, 1..12u64), 1..60),
        ) {
            let (mut log, mut whole) = (log(&[]), log(&[]));
            for (step, n) in steps {
                let last = whole.last();
                match step {
                    0 | 1 => for i in 1..=n {
                        let term = last.term + u64::from(step == 1 || last.term == 0);
                        let entry = Entry::new(Position::new(last.index + i, term), 0, &Payload::Noop);
                        log.push(entry.clone());
                        whole.push(entry);
                    },
                    2 => {
                        let from = (last.index + 1).saturating_sub(n).max(log.base().index + 1);
                        log.truncate_suffix(from);
                        whole.truncate_suffix(from);
                    }
                    3 => {
                        let to = (whole.base().index + n).min(last.index);
                        log.compact(to);
                        whole.compact(to);
                    }
                    4 => log.release(last.index.saturating_sub(n), 0),
                    _ => {
                        let (base, entries) = (log.base(), whole.iter().cloned().collect());
                        let (left, entries) = log.into_parts(entries);
                        log = Log::restored(base, &left, entries);
                    }
                }
                proptest::prop_assert_eq!((log.base(), log.last()), (whole.base(), whole.last()));
                for index in 0..=whole.last_index() + 2 {
                    proptest::prop_assert_eq!(log.term_at(index), whole.term_at(index), "at {}", index);
                    let naive = whole.get(index).map(Entry::term).or((index == whole.base().index).then_some(whole.base().term));
                    proptest::prop_assert_eq!(whole.term_at(index), naive);
                    proptest::prop_assert_eq!(log.first_index_of_term_at(index), whole.first_index_of_term_at(index));
                    for term in 0..=whole.last().term + 1 {
                        proptest::prop_assert_eq!(
                            log.last_index_with_term_at_most(term, index), whole.last_index_with_term_at_most(term, index));
                    }
                    proptest::prop_assert_eq!(log.get(index), whole.get(index).filter(|_| index > log.released()));
                }
                let bytes: usize = log.iter().map(memory_bytes).sum();
                proptest::prop_assert_eq!(log.memory_bytes(), bytes);
            }
        }
    }

    #[test]
    #[should_panic(expected = "does not follow")]
    fn push_refuses_a_gap() {
        log(&[1]).push(Entry::new(Position::new(3, 1), 0, &Payload::Noop));
    }
}
