//! What is counted of the requests, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often each operation was asked for.
pub(super) struct CallCounters(Vec<(&'static str, AtomicU64)>);

impl CallCounters {
    /// For these operations.
    pub(super) fn new(ids: impl Iterator<Item = &'static str>) -> CallCounters {
        CallCounters(ids.map(|id| (id, AtomicU64::new(0))).collect())
    }

    /// One more of the operation at this place.
    pub(super) fn count(&self, at: usize) {
        self.0[at].1.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts so far.
    pub(super) fn view(&self) -> Vec<(&'static str, u64)> {
        self.0.iter().map(|(id, count)| (*id, count.load(Ordering::Relaxed))).collect()
    }
}
