//! How a change reads the keys before it.

use super::Versions;
use super::range::{Order, rest};
use super::tree::Tree;
use crate::store::change::{Keys, Look};
use crate::store::record::Record;
use crate::vocabulary::KeyRange;

impl Keys for Tree {
    fn at(&self, key: &[u8], revision: u64) -> Option<Record<'_>> {
        record_at(self.get(key)?, revision)
    }

    fn walk(&self, range: &KeyRange, is_descending: bool, revision: u64, look: &mut Look<'_>) {
        let order = if is_descending { Order::Descending } else { Order::Ascending };
        let Some((start, end)) = rest(range, order, None) else { return };
        let mut look = |versions: &Versions| look(versions.key(), record_at(versions, revision));
        let mut inside = self.range(start, end);
        // Where it broke off is known to the one that did.
        let _ =
            if is_descending { inside.rev().try_for_each(&mut look) } else { inside.try_for_each(&mut look) };
    }
}

fn record_at(versions: &Versions, revision: u64) -> Option<Record<'_>> {
    versions.at(revision)?.record()
}
