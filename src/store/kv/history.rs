//! The kept versions of one key.

use super::Kv;
use super::versions::{Numbers, Version};
use crate::vocabulary::LeaseId;

/// One version of a key: a value, or a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastVersion<'a> {
    /// The revision that made it.
    pub mod_revision: u64,
    /// The revision at which the key was created; 0 for a deletion.
    pub create_revision: u64,
    /// How many times the key was put since it was created; 0 for a deletion.
    pub version: u64,
    /// The lease that it was attached to.
    pub lease: Option<LeaseId>,
    /// The value; None = the key was deleted.
    pub value: Option<&'a [u8]>,
}

impl Kv {
    /// The versions of `key` that were made before the revision `before` and are kept, newest first. A version is kept
    /// while some revision from [`Kv::floor`] on shows it: so every change after the floor is there, and what the key
    /// was at the floor. A deletion is kept like a value.
    pub fn history(&self, key: &[u8], before: u64) -> impl Iterator<Item = PastVersion<'_>> {
        self.keys.get(key).into_iter().flat_map(move |versions| versions.before(before)).map(past)
    }
}

pub(super) fn past(version: &Version) -> PastVersion<'_> {
    let Numbers { mod_revision, create_revision, version: number, lease } = version.numbers();
    PastVersion { mod_revision, create_revision, version: number, lease, value: version.value() }
}
