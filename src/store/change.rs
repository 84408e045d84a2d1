//! One revision in the making.
//!
//! The state machine opens a change, an operation says what happens to keys, and the state machine closes it: the
//! revision rises by one, once for all keys, and not at all when nothing was collected. What an operation reads is the
//! state before the change; nothing is visible before it is closed, so an operation that gives up leaves no trace.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A key that exists, as a change finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The revision at which it came to exist.
    pub create_revision: u64,
    /// The revision at which it got its value.
    pub mod_revision: u64,
    /// How many times it was put since it came to exist.
    pub version: u64,
}

/// The keys that a change finds.
pub(super) trait Keys {
    /// The key, if it exists.
    fn current(&self, key: &[u8]) -> Option<Found>;
}

/// What a change does to one key.
#[derive(Debug)]
pub(super) struct Write {
    /// The revision at which the key came to exist; 0 for a deletion.
    pub create_revision: u64,
    /// How many times it was put since; 0 for a deletion.
    pub version: u64,
    /// Its value; None = deleted.
    pub value: Option<Box<[u8]>>,
}

/// What a change does, by key.
pub(super) type Writes = BTreeMap<Arc<[u8]>, Write>;

/// A change that is open.
pub(super) struct Change<'a> {
    keys: &'a dyn Keys,
    found: u64,
    writes: Writes,
}

impl<'a> Change<'a> {
    /// Opens a change of `keys`, which are those of the revision `found`.
    pub fn open(keys: &'a dyn Keys, found: u64) -> Change<'a> {
        Change { keys, found, writes: Writes::new() }
    }

    /// The revision of the store before it.
    pub fn found(&self) -> u64 {
        self.found
    }

    /// The revision that it makes if it does something.
    pub fn revision(&self) -> u64 {
        self.found + 1
    }

    /// The key before the change, if it exists.
    pub fn current(&self, key: &[u8]) -> Option<Found> {
        self.keys.current(key)
    }

    /// Gives a key a value. When it came to exist, and how many times it was put since.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> (u64, u64) {
        let new = (self.revision(), 1);
        let (create_revision, version) =
            self.current(&key).map_or(new, |found| (found.create_revision, found.version + 1));
        self.write(key.into(), Write { create_revision, version, value: Some(value.into()) });
        (create_revision, version)
    }

    /// Removes a key that exists.
    pub fn delete(&mut self, key: Arc<[u8]>) {
        self.write(key, Write { create_revision: 0, version: 0, value: None });
    }

    fn write(&mut self, key: Arc<[u8]>, write: Write) {
        // A key has one version per revision.
        let previous = self.writes.insert(key, write);
        assert!(previous.is_none(), "a change writes a key once");
    }

    /// What it does to which keys.
    pub fn close(self) -> Writes {
        self.writes
    }
}
