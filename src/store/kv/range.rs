//! Walks over a part of the keys at one revision.
//!
//! A walk holds the store's lock, so it is cut into pieces: [`Kv::scan`] visits at most [`SCAN_KEYS`] keys and says
//! where to continue. Every piece uses the same revision, so changes between two pieces are not visible in the
//! result; only compaction can end such a walk.

use std::ops::{Bound, ControlFlow};

use super::Kv;
use super::versions::{Version, Versions};
use crate::store::record::{ReadError, Record};
use crate::vocabulary::KeyRange;

/// Most keys that one call of [`Kv::scan`] looks at, visible or not: keys that were deleted lately, or did not exist yet
/// at an old revision, cost time without making a row.
pub const SCAN_KEYS: usize = 10_000;

/// What a map takes as a range.
pub(super) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The rest of `range` from `from` on, `from` included, as bounds of a map; `None` when nothing is left.
pub(super) fn rest<'a>(range: &'a KeyRange, order: Order, from: Option<&'a [u8]>) -> Option<Bounds<'a>> {
    let (mut start, mut end) = (range.start(), range.end().map_or(Bound::Unbounded, Bound::Excluded));
    match (order, from) {
        (Order::Ascending, Some(from)) => start = start.max(from),
        (Order::Descending, Some(from)) if range.contains(from) => end = Bound::Included(from),
        // Every key of the range lies before it, or after it.
        (Order::Descending, Some(from)) if from < start => return None,
        _ => {}
    }
    match end {
        Bound::Excluded(end) if start >= end => None,
        _ => Some((Bound::Included(start), end)),
    }
}

/// In which direction a range is walked: by the bytes of the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Smallest key first.
    #[default]
    Ascending,
    /// Largest key first.
    Descending,
}

impl Kv {
    /// Shows the records of `range` at `revision` to `take`, beginning with the key `from` (by default with the first of
    /// the order), until it breaks off, [`SCAN_KEYS`] keys were looked at or the range ends. The key to go on from: the
    /// one at which `take` broke off, or the first not looked at; None at the end of the range.
    ///
    /// # Errors
    /// `revision` is compacted or in the future.
    pub fn scan<'a>(
        &'a self,
        revision: u64,
        range: &KeyRange,
        order: Order,
        from: Option<&[u8]>,
        take: impl FnMut(Record<'a>) -> ControlFlow<()>,
    ) -> Result<Option<&'a [u8]>, ReadError> {
        self.check_readable(revision)?;
        let Some((start, end)) = rest(range, order, from) else { return Ok(None) };
        let keys = self.keys.range(start, end);
        let rows = |versions: &'a Versions| (versions.key(), versions.at(revision).and_then(Version::record));
        Ok(match order {
            Order::Ascending => walk(keys.map(rows), take),
            Order::Descending => walk(keys.rev().map(rows), take),
        })
    }
}

fn walk<'a>(
    rows: impl Iterator<Item = (&'a [u8], Option<Record<'a>>)>,
    mut take: impl FnMut(Record<'a>) -> ControlFlow<()>,
) -> Option<&'a [u8]> {
    for (looked_at, (key, record)) in rows.enumerate() {
        if looked_at == SCAN_KEYS || record.is_some_and(|record| take(record).is_break()) {
            return Some(key);
        }
    }
    None
}
