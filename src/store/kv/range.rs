//! Walks over a part of the keys at one revision.
//!
//! Whoever walks holds the store's lock, so a walk is cut into pieces: [`Kv::scan`] looks at no more than
//! [`SCAN_KEYS`] keys and says where to go on. As every piece names the same revision, what happens between two pieces
//! cannot be seen in the result; only compaction can end such a walk.

use std::ops::{Bound, ControlFlow};

use super::{Kv, ReadError, Record};

/// Most keys that one call of [`Kv::scan`] looks at, visible or not: keys that were deleted lately, or did not exist yet
/// at an old revision, cost time without making a row.
pub const SCAN_KEYS: usize = 10_000;

/// What a map takes as a range.
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Some keys that lie side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first one; empty: from the very first.
    start: Vec<u8>,
    /// Before this one; None: to the very last.
    end: Option<Vec<u8>>,
}

impl KeyRange {
    /// The keys that begin with `prefix`, are not less than `start`, and are less than `end`. Empty = no limit.
    pub fn new(prefix: &[u8], start: &[u8], end: &[u8]) -> KeyRange {
        let end = Some(end).filter(|end| !end.is_empty()).map(<[u8]>::to_vec);
        let ends = [end, behind_prefix(prefix)];
        KeyRange { start: prefix.max(start).to_vec(), end: ends.into_iter().flatten().min() }
    }

    /// Whether `key` belongs to it.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_deref().is_none_or(|end| key < end)
    }

    /// What is left of it from `from` on, itself included; as bounds that a map takes, or None when that is nothing.
    fn rest<'a>(&'a self, order: Order, from: Option<&'a [u8]>) -> Option<Bounds<'a>> {
        let (mut start, mut end) =
            (&self.start[..], self.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded));
        match (order, from) {
            (Order::Ascending, Some(from)) => start = start.max(from),
            (Order::Descending, Some(from)) if self.contains(from) => end = Bound::Included(from),
            // Every key of the range lies before it, or behind it.
            (Order::Descending, Some(from)) if from < start => return None,
            _ => {}
        }
        match end {
            Bound::Excluded(end) if start >= end => None,
            _ => Some((Bound::Included(start), end)),
        }
    }
}

/// The least byte string that is greater than everything with this prefix.
fn behind_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut behind = prefix[..=last].to_vec();
    behind[last] += 1;
    Some(behind)
}

/// In which direction a range is walked: by the bytes of the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Smallest key first.
    #[default]
    Ascending,
    /// Greatest key first.
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
        let Some(bounds) = range.rest(order, from) else { return Ok(None) };
        let keys = self.keys.range::<[u8], _>(bounds);
        let rows = keys.map(|(key, versions)| {
            let key = &key[..];
            (key, versions.at(revision).and_then(|version| version.record(key)))
        });
        Ok(match order {
            Order::Ascending => walk(rows, take),
            Order::Descending => walk(rows.rev(), take),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn range(prefix: &str, start: &str, end: &str) -> KeyRange {
        KeyRange::new(prefix.as_bytes(), start.as_bytes(), end.as_bytes())
    }

    #[test]
    fn new_intersects_prefix_start_and_end() {
        let all = ["", "a", "a/", "a/1", "a/2", "a0", "b"];
        let of =
            |range: KeyRange| all.into_iter().filter(|k| range.contains(k.as_bytes())).collect::<Vec<_>>();
        assert_eq!(of(range("", "", "")), all);
        assert_eq!(of(range("a/", "", "")), ["a/", "a/1", "a/2"]);
        assert_eq!(of(range("a/", "a/1", "")), ["a/1", "a/2"]);
        assert_eq!(of(range("a/", "a", "a/2")), ["a/", "a/1"]);
        assert_eq!(of(range("a/", "b", "")), [""; 0]);
        assert_eq!(of(range("", "a", "b")), ["a", "a/", "a/1", "a/2", "a0"]);
        assert_eq!(of(range("", "a0", "a")), [""; 0]);
    }

    #[test]
    fn behind_prefix_carries_over_the_greatest_byte() {
        assert_eq!(behind_prefix(b"a"), Some(b"b".to_vec()));
        assert_eq!(behind_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(behind_prefix(b"\xfe\xff"), Some(b"\xff".to_vec()));
        assert_eq!((behind_prefix(b"\xff\xff"), behind_prefix(b"")), (None, None));
    }
}
