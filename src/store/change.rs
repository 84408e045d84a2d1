//! The construction of one revision.
//!
//! The state machine opens a change, an operation says what happens to keys, and the state machine closes the change.
//! Then the revision rises by one, once for all keys; it does not rise when nothing was collected. An operation reads
//! the state before the change, and a transaction also what it has written so far ([`reads`]). Nothing is visible to
//! others before the change is closed, so an operation that gives up has no effect: it has written nothing, or
//! abandons what it wrote.

mod leases;
mod reads;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::record::Record;
use crate::raft::{ClusterTime, Settings};
use crate::vocabulary::{KeyRange, LeaseId};
pub(super) use leases::{LeaseWrite, Leased};

/// Called with the keys of a range one after the other, until it breaks off. The record is `None` for a key that does
/// not exist in the state that is read, and of which the store keeps a trace.
pub(super) type Look<'a> = dyn FnMut(&[u8], Option<Record<'_>>) -> ControlFlow<()> + 'a;

/// The keys before a change, at every revision that can be read.
pub(super) trait Keys {
    /// The key at a revision, if it exists there.
    fn at(&self, key: &[u8], revision: u64) -> Option<Record<'_>>;

    /// Calls `look` for the keys of a range at a revision, in order, until `look` breaks off. It is called for a trace
    /// of a key, too: that costs the same time.
    fn walk(&self, range: &KeyRange, is_descending: bool, revision: u64, look: &mut Look<'_>);
}

/// What a change does to one key.
#[derive(Debug)]
pub(super) struct Write {
    /// The revision at which the key was created; 0 for a deletion.
    pub create_revision: u64,
    /// How many times it was put since; 0 for a deletion.
    pub version: u64,
    /// Its value; None = deleted.
    pub value: Option<Vec<u8>>,
    /// The lease that it is attached to.
    pub lease: Option<LeaseId>,
}

/// What a change does, by key.
pub(super) type Writes = BTreeMap<Vec<u8>, Write>;

/// A change that is open.
pub(super) struct Change<'a> {
    keys: &'a dyn Keys,
    base: u64,
    /// The oldest revision that can be read.
    floor: u64,
    settings: &'a Settings,
    leases: &'a dyn Leased,
    /// The cluster time of the entry that asks for the change.
    now: ClusterTime,
    writes: Writes,
    /// What happens to leases, in order.
    lease_writes: Vec<LeaseWrite>,
    /// Revisions before this one are forgotten.
    new_floor: u64,
}

/// What a change reads, apart from keys.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// The oldest revision that can be read, and the newest.
    pub revisions: (u64, u64),
    /// The settings in force.
    pub settings: &'a Settings,
    /// The leases that there are.
    pub leases: &'a dyn Leased,
    /// The cluster time of the entry that asks for the change.
    pub now: ClusterTime,
}

impl<'a> Change<'a> {
    /// Opens a change of `keys`. It reads all revisions that the surroundings name.
    pub(super) fn open(keys: &'a dyn Keys, around: Surroundings<'a>) -> Change<'a> {
        let Surroundings { revisions: (floor, base), settings, leases, now } = around;
        let (writes, lease_writes) = (Writes::new(), Vec::new());
        Change { keys, base, floor, settings, leases, now, writes, lease_writes, new_floor: floor }
    }

    /// The settings in force.
    pub(super) fn settings(&self) -> &Settings {
        self.settings
    }

    /// The revision of the store before it.
    pub(super) fn base_revision(&self) -> u64 {
        self.base
    }

    /// The revision that the change makes if it does something.
    pub(super) fn revision(&self) -> u64 {
        self.base + 1
    }

    /// The key before the change, if it exists.
    pub(super) fn before(&self, key: &[u8]) -> Option<Record<'a>> {
        self.keys.at(key, self.base)
    }

    /// Gives a key a value and a lease, which exists. Returns the revision at which it was created, and how many times it
    /// was put since.
    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>, lease: Option<LeaseId>) -> (u64, u64) {
        let new = (self.revision(), 1);
        let (create_revision, version) =
            self.before(&key).map_or(new, |found| (found.create_revision, found.version + 1));
        self.write(key, Write { create_revision, version, value: Some(value), lease });
        (create_revision, version)
    }

    /// Removes a key that exists.
    pub(super) fn delete(&mut self, key: Vec<u8>) {
        self.write(key, Write { create_revision: 0, version: 0, value: None, lease: None });
    }

    fn write(&mut self, key: Vec<u8>, write: Write) {
        // A key has one version per revision.
        let previous = self.writes.insert(key, write);
        assert!(previous.is_none(), "a change writes a key once");
    }

    /// Forgets the revisions before this one, if they are not forgotten yet. Returns the oldest that can be read then.
    pub(super) fn raise_floor(&mut self, floor: u64) -> u64 {
        self.new_floor = self.new_floor.max(floor);
        self.new_floor
    }

    /// The oldest revision that can be read after it, as far as it says.
    pub(super) fn new_floor(&self) -> u64 {
        self.new_floor
    }

    /// Closes the change; returns what happens to keys and to leases.
    pub(super) fn close(self) -> (Writes, Vec<LeaseWrite>) {
        (self.writes, self.lease_writes)
    }
}
