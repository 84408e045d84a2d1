//! A read-consistent view: one state of the map that stays unchanged for a snapshot while the applier goes on.
//!
//! [`Kv::pin`] notes the position of the state and copies the leases; the number of keys costs it nothing. From then on
//! everything that leaves the map (versions that the floor passes, idempotency rows that expire) goes to a side table
//! if it belongs to the pinned state. The map itself answers, counts and hashes as if nothing were pinned.
//! [`View::next_page`] walks both in key order and skips what was added later, so that all pages together are exactly
//! the pinned state.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::leases::LeaseRow;
use super::versions::{Version, Versions};
use super::{Kv, Size};
use crate::raft::SnapshotMeta;
use crate::store::dedup::KeptRows;
use crate::store::snapshot::SnapshotHeader;
use crate::store::snapshot::rows;

/// A page ends with the row that makes it this long.
pub const PAGE_BYTES: usize = 256 << 10;

/// What the map keeps for the pinned view.
#[derive(Debug)]
pub(super) struct Pin {
    revision: u64,
    /// Versions that have left the map, by key and oldest first: each is older than all versions of that key in the
    /// map.
    versions: BTreeMap<Box<[u8]>, Vec<Version>>,
    /// The leases of the view: few, compared with keys, and they change all the time.
    leases: Vec<LeaseRow>,
    pub rows: KeptRows,
}

impl Pin {
    /// Takes a version that leaves the map, if it belongs to the view.
    pub(super) fn keep(&mut self, version: Version) {
        if version.mod_revision() <= self.revision {
            self.versions.entry(version.key().into()).or_default().push(version);
        }
    }
}

/// What was kept for a view. Dropping it can take a while, so it must not be dropped under the store's lock.
#[must_use = "to be dropped outside of the lock"]
pub struct Kept {
    _pin: Option<Pin>,
}

/// One state of the map, to be read in pages. It stays whole until [`Kv::unpin`].
#[derive(Debug)]
pub struct View {
    header: SnapshotHeader,
    next: Next,
    rows: u64,
}

#[derive(Debug)]
enum Next {
    /// Leases from this place on.
    Leases(usize),
    /// Versions of this key after this revision, then the keys after it.
    Versions(Option<(Box<[u8]>, u64)>),
    /// The idempotency row at this place.
    Rows(u64),
    End,
}

impl Kv {
    /// Pins the state as it is now. Panics when a view is pinned already: there is one at a time.
    pub fn pin(&mut self) -> View {
        assert!(self.pin.is_none(), "one view at a time");
        let header = self.header();
        let (leases, rows) = (self.leases.rows(), self.dedup.pin());
        self.pin = Some(Pin { revision: self.revision, versions: BTreeMap::new(), leases, rows });
        View { header, next: Next::Leases(0), rows: 0 }
    }

    /// Ends the pinned view, if there is one. Returns what was kept for it, to be dropped outside of the lock.
    pub fn unpin(&mut self) -> Kept {
        Kept { _pin: self.pin.take() }
    }

    /// Whether a view is pinned.
    pub fn is_pinned(&self) -> bool {
        self.pin.is_some()
    }

    /// Everything of the state except its rows.
    pub(super) fn header(&self) -> SnapshotHeader {
        let Size { keys, bytes, idempotency_rows, .. } = self.size();
        SnapshotHeader {
            cluster_id: self.cluster_id,
            meta: SnapshotMeta {
                last: self.applied,
                cluster_time: self.cluster_time,
                membership: Arc::clone(self.membership()),
                membership_index: self.membership_index(),
                version: self.version,
            },
            genesis: self.genesis().cloned(),
            settings: self.settings.clone(),
            revision: self.revision,
            floor: self.floor,
            state_hash: self.state_hash(),
            removed: self.members.removed().collect(),
            keys,
            bytes,
            key_rows: self.keys.len() as u64,
            versions: self.version_count,
            leases: self.leases.rows_len(),
            idempotency_rows,
            #[cfg(feature = "next-protocol")]
            touches: (self.version >= 2).then_some(self.touches),
        }
    }
}

impl View {
    /// Everything of the pinned state except its rows.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// How many rows the pages so far have.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Appends the next rows to `buf`, in the form of a snapshot file: until `max_keys` keys were looked at (or as many
    /// idempotency rows) or the page has [`PAGE_BYTES`]. `false` = there is nothing more.
    ///
    /// Leases come in order; then keys in order, each followed by its versions, oldest first; then idempotency rows, oldest
    /// first. Panics when
    /// `kv` has no view pinned.
    pub fn next_page(&mut self, kv: &Kv, buf: &mut Vec<u8>, max_keys: usize) -> bool {
        let pin = kv.pin.as_ref().expect("the view is pinned until it was read");
        assert!(max_keys > 0, "a page looks at one key at least");
        let end = buf.len() + PAGE_BYTES;
        self.next = match std::mem::replace(&mut self.next, Next::End) {
            Next::Leases(from) => self.page_of_leases(pin, from, buf, end, max_keys),
            Next::Versions(from) => self.page_of_versions(kv, pin, from, buf, end, max_keys),
            Next::Rows(place) => self.page_of_rows(kv, pin, place, buf, end, max_keys),
            Next::End => Next::End,
        };
        !matches!(self.next, Next::End)
    }

    fn page_of_leases(&mut self, pin: &Pin, from: usize, buf: &mut Vec<u8>, end: usize, max: usize) -> Next {
        for (at, lease) in pin.leases.iter().enumerate().skip(from) {
            if buf.len() >= end || at == from + max {
                return Next::Leases(at);
            }
            rows::put_lease(buf, lease);
            self.rows += 1;
        }
        Next::Versions(None)
    }

    fn page_of_versions(
        &mut self,
        kv: &Kv,
        pin: &Pin,
        from: Option<(Box<[u8]>, u64)>,
        buf: &mut Vec<u8>,
        end: usize,
        max_keys: usize,
    ) -> Next {
        let start = from.as_ref().map_or(Bound::Unbounded, |(key, _)| Bound::Included(&key[..]));
        let mut live = kv.keys.range(start, Bound::Unbounded).peekable();
        let mut kept = pin.versions.range::<[u8], _>((start, Bound::Unbounded)).peekable();
        // One key more, because a page that continues within a key visits that key again.
        for looked_at in 0..=max_keys {
            let side = match (live.peek(), kept.peek()) {
                (None, None) => return Next::Rows(pin.rows.places().start),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(live), Some((kept, _))) => live.key().cmp(kept),
            };
            let old = if side.is_ge() { kept.next() } else { None };
            let new = if side.is_le() { live.next() } else { None };
            let key =
                new.map(Versions::key).or(old.map(|(key, _)| &key[..])).expect("one of the two is there");
            let through = from.as_ref().filter(|(from, _)| from[..] == *key).map(|(_, revision)| *revision);
            let versions = Both { old: old.map_or(&[][..], |(_, old)| old), new };
            if let Some(last) = self.put_versions(key, versions, through, pin.revision, buf, end) {
                return Next::Versions(Some((key.into(), last)));
            }
            if looked_at == max_keys {
                return Next::Versions(Some((key.into(), pin.revision)));
            }
        }
        unreachable!("the last round returns")
    }

    /// Appends the versions of a key that belong to the view and lie after `through`. `Some` = the page is full after
    /// the version of that revision.
    fn put_versions(
        &mut self,
        key: &[u8],
        versions: Both<'_>,
        through: Option<u64>,
        revision: u64,
        buf: &mut Vec<u8>,
        end: usize,
    ) -> Option<u64> {
        let mut is_first = through.is_none();
        for version in versions.after(through.unwrap_or(0)).take_while(|v| v.mod_revision() <= revision) {
            if std::mem::take(&mut is_first) {
                rows::put_key(buf, key);
                self.rows += 1;
            }
            let numbers = version.numbers();
            rows::put_version(buf, numbers, version.value());
            self.rows += 1;
            if buf.len() >= end {
                return Some(numbers.mod_revision);
            }
        }
        None
    }

    fn page_of_rows(
        &mut self,
        kv: &Kv,
        pin: &Pin,
        from: u64,
        buf: &mut Vec<u8>,
        end: usize,
        max_rows: usize,
    ) -> Next {
        let places = from..pin.rows.places().end;
        for place in places.clone().take(max_rows) {
            rows::put_idempotency(buf, kv.dedup.row(place, &pin.rows));
            self.rows += 1;
            if buf.len() >= end {
                return Next::Rows(place + 1);
            }
        }
        let next = from.saturating_add(max_rows as u64);
        if next < places.end { Next::Rows(next) } else { Next::End }
    }
}

/// The versions of one key in the side table and in the map; those in the side table are older.
#[derive(Clone, Copy)]
struct Both<'a> {
    old: &'a [Version],
    new: Option<&'a Versions>,
}

impl<'a> Both<'a> {
    /// The versions after a revision, oldest first.
    fn after(self, revision: u64) -> impl Iterator<Item = &'a Version> {
        let old = &self.old[self.old.partition_point(|v| v.mod_revision() <= revision)..];
        old.iter().chain(self.new.into_iter().flat_map(move |versions| versions.after(revision)))
    }
}
