//! The versions of one key.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Record;
use crate::store::command::{Domain, Fingerprint};

/// One version of a key. Deleting makes a version without a value.
#[derive(Debug)]
pub(super) struct Version {
    pub mod_revision: u64,
    pub create_revision: u64,
    pub version: u64,
    pub value: Option<Box<[u8]>>,
    /// Stored, because hashing a large value again when the version is dropped costs more than sixteen bytes of
    /// memory.
    pub fingerprint: u128,
}

impl Version {
    pub(super) fn new(
        key: &[u8],
        mod_revision: u64,
        create_revision: u64,
        version: u64,
        value: Option<Box<[u8]>>,
    ) -> Version {
        let mut hash = Fingerprint::new(Domain::Version);
        // The numbers are hashed as one block: hashing them one by one costs as much as all the rest.
        let mut numbers = [0; 32];
        for (number, into) in
            [mod_revision, create_revision, version, key.len() as u64].iter().zip(numbers.chunks_mut(8))
        {
            into.copy_from_slice(&number.to_le_bytes());
        }
        hash.bytes(&numbers).bytes(key);
        match &value {
            Some(value) => hash.bytes(&[1]).sized(value),
            None => hash.bytes(&[0]),
        };
        let fingerprint = hash.finish();
        Version { mod_revision, create_revision, version, value, fingerprint }
    }

    pub(super) fn record<'a>(&'a self, key: &'a [u8]) -> Option<Record<'a>> {
        let value = self.value.as_deref()?;
        let Version { create_revision, mod_revision, version, .. } = *self;
        Some(Record { key, value, create_revision, mod_revision, version })
    }
}

/// The versions of one key.
#[derive(Debug)]
pub(super) struct Versions {
    pub latest: Version,
    /// Superseded versions that the floor has not passed, oldest first. Empty, and without memory, for most keys.
    pub older: VecDeque<Version>,
}

impl Versions {
    /// The version that was the latest at `revision`.
    pub(super) fn at(&self, revision: u64) -> Option<&Version> {
        if self.latest.mod_revision <= revision {
            return Some(&self.latest);
        }
        let newer = self.older.partition_point(|v| v.mod_revision <= revision);
        self.older.get(newer.checked_sub(1)?)
    }

    /// Removes the versions that no read at `floor` or above can see, oldest first, and passes them to `dropped`. A
    /// deletion without an earlier version is not needed.
    pub(super) fn trim(&mut self, floor: u64, mut dropped: impl FnMut(Version)) {
        while let Some(oldest) = self.older.front() {
            let next = self.older.get(1).unwrap_or(&self.latest);
            if next.mod_revision > floor && (oldest.value.is_some() || oldest.mod_revision > floor) {
                break;
            }
            dropped(self.older.pop_front().expect("looked at just now"));
        }
        if self.older.is_empty() {
            self.older = VecDeque::new();
        }
    }

    /// Whether the key is deleted and no read at `floor` or above can see that it existed.
    pub(super) fn is_forgotten(&self, floor: u64) -> bool {
        self.older.is_empty() && self.latest.value.is_none() && self.latest.mod_revision <= floor
    }
}

/// A version that was replaced or deleted.
#[derive(Debug)]
pub(super) struct Superseded {
    /// The revision that superseded the version: when the floor reaches it, the version is dropped.
    pub at: u64,
    pub key: Arc<[u8]>,
    pub bytes: u64,
}
