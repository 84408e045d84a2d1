//! The construction of one revision.
//!
//! The state machine opens a change, an operation says what happens to keys, and the state machine closes the change.
//! Then the revision rises by one, once for all keys; it does not rise when nothing was collected. An operation reads
//! the state before the change. Nothing is visible before the change is closed, so an operation that gives up has no
//! effect.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::raft::Settings;
use crate::vocabulary::KeyRange;

/// A key that exists before a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Current {
    /// The revision at which it was created.
    pub create_revision: u64,
    /// The revision at which it got its value.
    pub mod_revision: u64,
    /// How many times it was put since it was created.
    pub version: u64,
    /// The bytes that this version adds to the `retention_bytes` limit once it is superseded.
    pub retained_bytes: u64,
}

/// Called with the keys of a range one after the other, until it breaks off.
pub(super) type Visit<'a> = dyn FnMut(&[u8], Current) -> ControlFlow<()> + 'a;

/// The keys before a change.
pub(super) trait Keys {
    /// The key, if it exists.
    fn current(&self, key: &[u8]) -> Option<Current>;

    /// The value of the key, if it exists.
    #[cfg(feature = "next-protocol")]
    fn value(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// Calls `visit` for the existing keys of a range, in order, until `visit` breaks off.
    fn walk(&self, range: &KeyRange, visit: &mut Visit<'_>);
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
}

/// What a change does, by key.
pub(super) type Writes = BTreeMap<Vec<u8>, Write>;

/// A change that is open.
pub(super) struct Change<'a> {
    keys: &'a dyn Keys,
    base: u64,
    settings: &'a Settings,
    writes: Writes,
}

impl<'a> Change<'a> {
    /// Opens a change of `keys`, which are the keys at revision `base`, under the settings in force.
    pub(super) fn open(keys: &'a dyn Keys, base: u64, settings: &'a Settings) -> Change<'a> {
        Change { keys, base, settings, writes: Writes::new() }
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
    pub(super) fn current(&self, key: &[u8]) -> Option<Current> {
        self.keys.current(key)
    }

    /// The value of the key before the change, if it exists.
    #[cfg(feature = "next-protocol")]
    pub(super) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.keys.value(key)
    }

    /// Calls `visit` for the keys of a range that exist before the change, in order, until `visit` breaks off.
    pub(super) fn walk(&self, range: &KeyRange, mut visit: impl FnMut(&[u8], Current) -> ControlFlow<()>) {
        self.keys.walk(range, &mut visit);
    }

    /// Gives a key a value. Returns the revision at which it was created, and how many times it was put since.
    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> (u64, u64) {
        let new = (self.revision(), 1);
        let (create_revision, version) =
            self.current(&key).map_or(new, |found| (found.create_revision, found.version + 1));
        self.write(key, Write { create_revision, version, value: Some(value) });
        (create_revision, version)
    }

    /// Removes a key that exists.
    pub(super) fn delete(&mut self, key: Vec<u8>) {
        self.write(key, Write { create_revision: 0, version: 0, value: None });
    }

    fn write(&mut self, key: Vec<u8>, write: Write) {
        // A key has one version per revision.
        let previous = self.writes.insert(key, write);
        assert!(previous.is_none(), "a change writes a key once");
    }

    /// Closes the change; returns its writes.
    pub(super) fn close(self) -> Writes {
        self.writes
    }
}
