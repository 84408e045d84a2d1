//! What is watched.

use crate::vocabulary::Keys;

/// Keys, and which of their changes are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Which keys.
    pub keys: Keys,
    /// The first revision whose changes are shown.
    pub from: u64,
    /// Whether values that are put are shown.
    pub puts: bool,
    /// Whether deletions are shown.
    pub deletes: bool,
    /// Whether a change shows the record before.
    pub prev: bool,
}

impl Watch {
    pub(super) fn holds(&self, key: &[u8]) -> bool {
        match &self.keys {
            Keys::One(one) => one == key,
            Keys::Range(range) => range.contains(key),
        }
    }
}
