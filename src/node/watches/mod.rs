//! Watches: a node tells those who wait for changes of keys, from its own state machine (`docs/api.md`, "Watch").
//!
//! The thread `notifier` goes through what was applied and rings for those whose keys changed ([`registry`], with the ranges
//! in [`ranges`]). A watcher is a [`Cursor`]: its own thread reads the changes from the store.

mod cursor;
mod ranges;
mod registry;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;

use super::Node;
use crate::store::Kv;
pub use cursor::{Cursor, Most, RevisionSeen, Seen};
pub use registry::Watches;
pub use watch::Watch;

impl Node {
    /// Begins to watch. None when there would be more than `most` watches on this node.
    pub fn watch(&self, watches: Vec<Watch>, most: usize) -> Option<Cursor> {
        Cursor::open(&self.watches, watches, most, || self.with_kv(Kv::revision))
    }

    /// How many watches there are on this node.
    pub fn watch_count(&self) -> usize {
        self.watches.count()
    }
}

/// The thread.
pub(super) fn run(node: &Arc<Node>) {
    while node.watches.wait_for_news() {
        while node.watches.tell(|look| node.with_kv(|kv| look(kv))) {}
    }
}
