//! Which ranges hold a key: an interval tree that lies in a sorted vector.
//!
//! The entries are sorted by where their ranges begin. The middle entry of a part of the vector is the root of that part,
//! and knows the entry whose range ends last in it. So a search leaves out every part that ends before the key. Ranges come
//! and go less often than keys change: what each root knows is computed again at the first search after a change.

use crate::vocabulary::KeyRange;

/// The ranges, each with what belongs to it.
#[derive(Debug)]
pub(super) struct Ranges<T> {
    entries: Vec<Entry<T>>,
    /// Whether `last` of each root is right.
    is_ready: bool,
}

#[derive(Debug)]
struct Entry<T> {
    range: KeyRange,
    id: u64,
    value: T,
    /// The entry whose range ends last, in the part of which this entry is the root.
    last: usize,
}

impl<T> Ranges<T> {
    pub(super) fn new() -> Ranges<T> {
        Ranges { entries: Vec::new(), is_ready: true }
    }

    /// Adds a range; `id` tells it from others that begin at the same key.
    pub(super) fn insert(&mut self, range: KeyRange, id: u64, value: T) {
        let at = self.place(&range, id);
        self.entries.insert(at, Entry { range, id, value, last: 0 });
        self.is_ready = false;
    }

    /// Takes a range away.
    pub(super) fn remove(&mut self, range: &KeyRange, id: u64) {
        let at = self.place(range, id);
        if self.entries.get(at).is_some_and(|entry| entry.id == id) {
            self.entries.remove(at);
            self.is_ready = false;
        }
    }

    /// Calls `found` for each range that holds the key.
    pub(super) fn holding(&mut self, key: &[u8], found: &mut impl FnMut(&T)) {
        if !self.is_ready {
            prepare(&mut self.entries, 0);
            self.is_ready = true;
        }
        search(&self.entries, 0, self.entries.len(), key, found);
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.value)
    }

    fn place(&self, range: &KeyRange, id: u64) -> usize {
        self.entries.partition_point(|entry| (entry.range.start(), entry.id) < (range.start(), id))
    }
}

/// Whether the range ends at or before `key`.
fn ends_before(range: &KeyRange, key: &[u8]) -> bool {
    range.end().is_some_and(|end| end <= key)
}

/// Whether the first range ends after the second.
fn ends_later(range: &KeyRange, other: &KeyRange) -> bool {
    match (range.end(), other.end()) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(end), Some(other)) => end > other,
    }
}

/// Computes what each root knows; `offset` is where the part begins. Returns the entry that ends last.
fn prepare<T>(entries: &mut [Entry<T>], offset: usize) -> Option<usize> {
    if entries.is_empty() {
        return None;
    }
    let root = entries.len() / 2;
    let left = prepare(&mut entries[..root], offset);
    let right = prepare(&mut entries[root + 1..], offset + root + 1);
    let mut last = offset + root;
    for at in left.into_iter().chain(right) {
        if ends_later(&entries[at - offset].range, &entries[last - offset].range) {
            last = at;
        }
    }
    entries[root].last = last;
    Some(last)
}

fn search<T>(entries: &[Entry<T>], from: usize, to: usize, key: &[u8], found: &mut impl FnMut(&T)) {
    if from == to {
        return;
    }
    let root = from + (to - from) / 2;
    if ends_before(&entries[entries[root].last].range, key) {
        return;
    }
    search(entries, from, root, key, found);
    // What begins after the key does not hold it, nor does what follows.
    if entries[root].range.start() <= key {
        if !ends_before(&entries[root].range, key) {
            found(&entries[root].value);
        }
        search(entries, root + 1, to, key, found);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0..3u8, 0..4)
    }

    proptest! {
        #[test]
        fn every_range_that_holds_a_key_is_found_and_no_other(
            ranges in prop::collection::vec((bytes(), prop::option::of(bytes()), any::<bool>()), 0..40),
            keys in prop::collection::vec(bytes(), 1..10),
        ) {
            let mut tree = Ranges::new();
            let mut kept = Vec::new();
            for (id, (start, end, stays)) in (0u64..).zip(ranges) {
                let range = KeyRange::between(start, end);
                tree.insert(range.clone(), id, id);
                // Some searches come between the changes.
                tree.holding(b"", &mut |_| ());
                kept.push((range, id, stays));
            }
            for (range, id, stays) in &kept {
                if !stays {
                    tree.remove(range, *id);
                }
            }
            for key in keys {
                let mut found = Vec::new();
                tree.holding(&key, &mut |&id| found.push(id));
                found.sort_unstable();
                let holds = kept.iter().filter(|(range, _, stays)| *stays && range.contains(&key));
                let expected: Vec<u64> = holds.map(|(_, id, _)| *id).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
