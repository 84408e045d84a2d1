//! The index of changes: which keys each revision changed, from the floor on, oldest first.
//!
//! It has one row for each changed key. Retention takes the rows from its front, and watches look a revision up. Both
//! need the rows in order only, so they lie one after another in blocks of memory. A row is
//!
//! ```text
//! revision  what it is above the revision of the row before it in the block
//! bytes     what the version that it superseded takes, as retention counts; 0 without one
//! length    of the key
//! key
//! ```
//!
//! with the numbers of [`super::versions`]. A key of 16 bytes takes about 20.

use std::collections::VecDeque;

use super::history::{PastVersion, past};
use super::versions::{put_number, take_number};
use super::{FIRST_REVISION, Kv};
use crate::store::record::{ReadError, Record};

/// A block takes rows until it has so many bytes. A longer row has a block of its own.
const BLOCK_BYTES: usize = 4 * 1024;

/// One row: a key that a revision changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row<'a> {
    /// The revision.
    pub at: u64,
    /// What the version that it superseded takes; 0 without one.
    pub bytes: u64,
    pub key: &'a [u8],
}

/// The rows, in the order of their revisions.
#[derive(Debug, Default)]
pub(super) struct Changes {
    blocks: VecDeque<Block>,
}

#[derive(Debug)]
struct Block {
    rows: Vec<u8>,
    /// Where the first row that was not taken away begins.
    start: usize,
    /// The revision of the row before it, or that of the first row of all.
    base: u64,
    /// The revision of the last row.
    last: u64,
}

impl Changes {
    /// Adds a row; revisions never fall.
    pub(super) fn push(&mut self, row: Row<'_>) {
        let Row { at, bytes, key } = row;
        let most = key.len() + 30;
        let block = match self.blocks.back_mut() {
            Some(block) if block.rows.len() + most <= BLOCK_BYTES => block,
            _ => {
                let rows = Vec::with_capacity(most.max(BLOCK_BYTES));
                self.blocks.push_back(Block { rows, start: 0, base: at, last: at });
                self.blocks.back_mut().expect("pushed just now")
            }
        };
        debug_assert!(at >= block.last, "revisions never fall");
        put_number(&mut block.rows, at - block.last);
        put_number(&mut block.rows, bytes);
        put_number(&mut block.rows, key.len() as u64);
        block.rows.extend_from_slice(key);
        block.last = at;
    }

    /// The oldest row.
    pub(super) fn front(&self) -> Option<Row<'_>> {
        self.blocks.front()?.rows().next()
    }

    /// Takes the oldest row away.
    pub(super) fn pop_front(&mut self) {
        let Some(block) = self.blocks.front_mut() else { return };
        let mut rows = block.rows();
        if let Some(row) = rows.next() {
            let (start, base) = (block.rows.len() - rows.rest.len(), row.at);
            (block.start, block.base) = (start, base);
        }
        if block.start == block.rows.len() {
            self.blocks.pop_front();
        }
    }

    /// The rows of this revision and all later ones.
    pub(super) fn from(&self, revision: u64) -> impl Iterator<Item = Row<'_>> {
        let first = self.blocks.partition_point(|block| block.last < revision);
        let rows = self.blocks.range(first..).flat_map(Block::rows);
        rows.skip_while(move |row| row.at < revision)
    }
}

impl Block {
    fn rows(&self) -> Rows<'_> {
        Rows { rest: &self.rows[self.start..], at: self.base }
    }
}

struct Rows<'a> {
    rest: &'a [u8],
    /// The revision of the row before.
    at: u64,
}

impl<'a> Iterator for Rows<'a> {
    type Item = Row<'a>;

    fn next(&mut self) -> Option<Row<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (above, rest) = take_number(self.rest);
        let (bytes, rest) = take_number(rest);
        let (len, rest) = take_number(rest);
        let (key, rest) = rest.split_at(len as usize);
        self.at += above;
        self.rest = rest;
        Some(Row { at: self.at, bytes, key })
    }
}

/// One change of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What it is from this revision on.
    pub now: PastVersion<'a>,
    /// What it was before.
    pub before: Option<Record<'a>>,
}

impl Kv {
    /// The keys that changed at `from` or later, each with its revision, oldest first; those of one revision in their
    /// order.
    ///
    /// # Errors
    /// [`ReadError::Compacted`]: changes of `from` are not known any more.
    pub fn changed(&self, from: u64) -> Result<impl Iterator<Item = (u64, &[u8])>, ReadError> {
        // Nothing was before the first revision, so nothing before it is missing.
        if from <= self.floor && self.floor > FIRST_REVISION {
            return Err(ReadError::Compacted { wanted: from, floor: self.floor });
        }
        Ok(self.changes.from(from).map(|row| (row.at, row.key)))
    }

    /// The change of `key` at `revision`, if [`Kv::changed`] says that there is one.
    pub fn change<'a>(&'a self, key: &[u8], revision: u64) -> Option<Change<'a>> {
        let versions = self.keys.get(key)?;
        let now = versions.at(revision).filter(|version| version.mod_revision() == revision)?;
        let before = versions.at(revision - 1).and_then(super::Version::record);
        Some(Change { key: versions.key(), now: past(now), before })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_row_of_a_short_key_adds_four_bytes_to_it() {
        let mut changes = Changes::default();
        for at in 1_000_000..1_001_000 {
            changes.push(Row { at, bytes: 100, key: &[b'k'; 16] });
        }
        let bytes: usize = changes.blocks.iter().map(|block| block.rows.capacity()).sum();
        assert!(bytes < 21_000, "{bytes}");
    }

    proptest! {
        #[test]
        fn rows_come_back_in_their_order_from_any_revision(
            rows in prop::collection::vec((0..3u64, 0..300u64, prop_oneof![0..40usize, 3_900..5_000usize]), 0..200),
            taken in 0..200usize,
            from in 0..300u64,
        ) {
            let mut at = 0;
            let rows: Vec<(u64, u64, Vec<u8>)> = rows
                .into_iter()
                .map(|(above, bytes, len)| {
                    at += above;
                    (at, bytes, vec![b'k'; len])
                })
                .collect();
            let mut changes = Changes::default();
            let (first, second) = rows.split_at(rows.len() / 2);
            let push = |changes: &mut Changes, rows: &[(u64, u64, Vec<u8>)]| {
                rows.iter().for_each(|(at, bytes, key)| changes.push(Row { at: *at, bytes: *bytes, key }));
            };
            push(&mut changes, first);
            let taken = taken.min(first.len());
            for (at, bytes, key) in &first[..taken] {
                prop_assert_eq!(changes.front(), Some(Row { at: *at, bytes: *bytes, key }));
                changes.pop_front();
            }
            push(&mut changes, second);
            let left: Vec<_> = rows[taken..].iter().filter(|row| row.0 >= from).cloned().collect();
            let seen: Vec<_> = changes.from(from).map(|row| (row.at, row.bytes, row.key.to_vec())).collect();
            prop_assert_eq!(seen, left);
        }
    }
}
