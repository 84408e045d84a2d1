//! One watcher: which revisions it has seen, and the changes that it is to see next.

use std::sync::Arc;
use std::time::Instant;

use super::registry::{Bell, Watches};
use super::watch::Watch;
use crate::store::{Kv, PastVersion, ReadError, Record};
use crate::vocabulary::Row;

/// One change, as one watch sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which of the cursor's watches it is for, counted from 0.
    pub watch: usize,
    /// The key from now on; without a value it was deleted.
    pub row: Row,
    /// The record before, if the watch shows it.
    pub prev: Option<Option<Row>>,
}

/// The changes of one revision: all those that the cursor's watches see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionSeen {
    /// The revision.
    pub revision: u64,
    /// In the order of the keys; never empty.
    pub changes: Vec<Seen>,
}

/// How much one look takes. A revision is never divided, so the last one may pass all of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Changes.
    pub changes: usize,
    /// Bytes of keys and values.
    pub bytes: usize,
    /// Rows of the index that are looked at.
    pub rows: usize,
}

/// Reads what some watches see, in order and without a gap.
#[derive(Debug)]
pub struct Cursor {
    registry: Arc<Watches>,
    id: u64,
    bell: Arc<Bell>,
    watches: Vec<Watch>,
    /// Every change before this revision was returned.
    next: u64,
    /// The first revision that may hold something to see; None: it has caught up.
    first: Option<u64>,
}

impl Cursor {
    /// Begins to watch, each watch from its revision on. `revision` says the store's revision whenever it is called. None
    /// when there would be more than `most` watches.
    pub fn open(
        registry: &Arc<Watches>,
        watches: Vec<Watch>,
        most: usize,
        revision: impl FnOnce() -> u64,
    ) -> Option<Cursor> {
        let (id, bell) = registry.enter(&watches, most, revision)?;
        let next = watches.iter().map(|watch| watch.from).min().unwrap_or(u64::MAX);
        Some(Cursor { registry: registry.clone(), id, bell, watches, next, first: None })
    }

    /// Where it goes on: every change of its keys before this revision was returned. It never falls.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether there may be something to read. Otherwise [`Cursor::next`] has gone on to what this node has applied.
    pub fn is_behind(&mut self) -> bool {
        // The number first: then a bell that is untouched has missed nothing up to there.
        let told = self.registry.told();
        if let Some(touched) = self.bell.take() {
            self.first = Some(self.first.map_or(touched, |first| first.min(touched)));
        }
        if self.first.is_none() {
            self.next = self.next.max(told + 1);
        }
        self.first.is_some()
    }

    /// Reads on: the revisions that have something to see, oldest first.
    ///
    /// # Errors
    /// [`ReadError::Compacted`]: changes that it has not returned are not known any more.
    pub fn read(&mut self, kv: &Kv, most: Most) -> Result<Vec<RevisionSeen>, ReadError> {
        let Some(first) = self.first else { return Ok(Vec::new()) };
        let from = self.next.max(first);
        let mut seen: Vec<RevisionSeen> = Vec::new();
        let (mut changes, mut bytes, mut last) = (0, 0, from);
        for (rows, (revision, key)) in kv.changed(from)?.enumerate() {
            let is_full = changes >= most.changes || bytes >= most.bytes || rows >= most.rows;
            if is_full && revision > last {
                self.next = self.next.max(revision);
                self.first = Some(revision);
                return Ok(seen);
            }
            last = revision;
            for (at, watch) in self.watches.iter().enumerate() {
                let Some(change) = look(kv, watch, key, revision) else { continue };
                changes += 1;
                bytes += change.size();
                match seen.last_mut().filter(|seen| seen.revision == revision) {
                    Some(seen) => seen.changes.push(Seen { watch: at, ..change }),
                    None => seen.push(RevisionSeen { revision, changes: vec![Seen { watch: at, ..change }] }),
                }
            }
        }
        self.next = self.next.max(kv.revision() + 1);
        self.first = None;
        Ok(seen)
    }

    /// Waits until something may be to be seen, the node stops, or the time is over. It may end early.
    pub fn wait(&self, until: Instant) {
        if !self.registry.is_stopping() {
            self.bell.wait(until);
        }
    }

    /// Whether the node stops.
    pub fn is_stopping(&self) -> bool {
        self.registry.is_stopping()
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.registry.forget(self.id, &self.watches);
    }
}

impl Seen {
    /// Bytes of its keys and values.
    pub fn size(&self) -> usize {
        let size = |row: &Row| row.key.len() + row.value.as_ref().map_or(0, Vec::len);
        size(&self.row) + self.prev.iter().flatten().map(size).sum::<usize>()
    }
}

fn look(kv: &Kv, watch: &Watch, key: &[u8], revision: u64) -> Option<Seen> {
    if revision < watch.from || !watch.holds(key) {
        return None;
    }
    let change = kv.change(key, revision).expect("the index names a version that is kept");
    let wanted = if change.now.value.is_some() { watch.puts } else { watch.deletes };
    let PastVersion { mod_revision, create_revision, version, lease, value } = change.now;
    wanted.then(|| Seen {
        watch: 0,
        row: Row {
            key: key.to_vec(),
            value: value.map(<[u8]>::to_vec),
            create_revision,
            mod_revision,
            version,
            lease,
        },
        prev: watch.prev.then(|| change.before.map(row_of)),
    })
}

fn row_of(record: Record<'_>) -> Row {
    let Record { key, value, create_revision, mod_revision, version, lease } = record;
    Row { key: key.to_vec(), value: Some(value.to_vec()), create_revision, mod_revision, version, lease }
}
