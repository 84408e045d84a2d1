//! A leaf of the [`tree`](super::tree): some keys in order, each with a mark.

use super::versions::Versions;

/// Most keys in a leaf. A key that is inserted moves half of them, and finding its place looks at six.
pub(super) const LEAF_KEYS: usize = 64;

/// A leaf grows by this many keys: doubling would leave a third of all leaves empty.
const GROWTH_KEYS: usize = 8;

/// Keys in order.
#[derive(Debug)]
pub(super) struct Leaf {
    /// The mark of each key, in the order of the keys; what stands after the last key means nothing.
    marks: [u8; LEAF_KEYS],
    keys: Vec<Versions>,
}

impl Default for Leaf {
    fn default() -> Leaf {
        Leaf { marks: [0; LEAF_KEYS], keys: Vec::new() }
    }
}

impl Leaf {
    /// The keys, with their versions.
    pub(super) fn keys(&self) -> &[Versions] {
        &self.keys
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Versions> {
        self.keys.get_mut(at)
    }

    /// Where the key is.
    pub(super) fn find(&self, key: &[u8]) -> Option<usize> {
        let mark = mark(key);
        let mut hits = 0;
        for (at, found) in self.marks.iter().enumerate() {
            hits |= u64::from(*found == mark) << at;
        }
        while hits != 0 {
            let at = hits.trailing_zeros() as usize;
            if self.keys.get(at)?.key() == key {
                return Some(at);
            }
            hits &= hits - 1;
        }
        None
    }

    pub(super) fn remove(&mut self, at: usize) -> Versions {
        self.marks.copy_within(at + 1.., at);
        let versions = self.keys.remove(at);
        if self.keys.capacity() > self.keys.len() + 2 * GROWTH_KEYS {
            self.keys.shrink_to(self.keys.len() + GROWTH_KEYS);
        }
        versions
    }

    /// Takes the keys of the next leaf; both fit into one.
    pub(super) fn join(&mut self, next: Leaf) {
        let (len, count) = (self.keys.len(), next.keys.len());
        self.marks[len..len + count].copy_from_slice(&next.marks[..count]);
        self.keys.reserve_exact(count);
        self.keys.extend(next.keys);
        self.keys.shrink_to(len + count + GROWTH_KEYS);
    }

    fn insert(&mut self, at: usize, new: Versions) {
        if self.keys.len() == self.keys.capacity() {
            self.keys.reserve_exact(GROWTH_KEYS);
        }
        self.marks.copy_within(at..LEAF_KEYS - 1, at + 1);
        self.marks[at] = mark(new.key());
        self.keys.insert(at, new);
    }

    /// The keys from `at` on.
    fn split_off(&mut self, at: usize) -> Leaf {
        let mut right = Leaf::default();
        right.marks[..LEAF_KEYS - at].copy_from_slice(&self.marks[at..]);
        right.keys = self.keys.split_off(at);
        right
    }

    /// What a leaf must be at any time.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let (len, room) = (self.keys.len(), self.keys.capacity());
        assert!(len <= LEAF_KEYS && room <= len + 2 * GROWTH_KEYS, "{len} keys, room for {room}");
        assert!(self.keys.iter().map(|versions| mark(versions.key())).eq(self.marks[..len].iter().copied()));
    }
}

/// Inserts a key that the leaf does not have. Returns the second leaf with its bound when it was full and had to be
/// divided: in the middle, or at the end when keys come in order, because then the first leaf gets no more keys.
pub(super) fn insert(leaf: &mut Leaf, new: Versions) -> Option<(Box<[u8]>, Leaf)> {
    let at = leaf.keys.partition_point(|versions| versions.key() < new.key());
    if leaf.keys.len() < LEAF_KEYS {
        leaf.insert(at, new);
        return None;
    }
    let mut right = leaf.split_off(if at == LEAF_KEYS { at } else { LEAF_KEYS / 2 });
    match at.checked_sub(leaf.keys.len()) {
        Some(at) => right.insert(at, new),
        None => leaf.insert(at, new),
    }
    let len = leaf.keys.len();
    leaf.keys.shrink_to(if len == LEAF_KEYS { len } else { len + GROWTH_KEYS });
    Some((right.keys[0].key().into(), right))
}

/// Tells most keys of a leaf apart.
fn mark(key: &[u8]) -> u8 {
    crc32c::crc32c(key) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::kv::versions::{Numbers, Version};

    const NUMBERS: Numbers = Numbers { mod_revision: 2, create_revision: 2, version: 1, lease: None };

    fn versions(key: &[u8]) -> Versions {
        Versions::new(Version::new(key, NUMBERS, Some(b"")))
    }

    /// Keys of one mark are told apart, and what stands after the last key finds nothing.
    #[test]
    fn find_looks_at_the_key_of_every_mark_that_fits() {
        let same: Vec<Vec<u8>> = (0..u32::MAX)
            .map(|n| n.to_string().into_bytes())
            .filter(|key| mark(key) == 7)
            .take(LEAF_KEYS)
            .collect();
        let mut leaf = Leaf::default();
        let (there, not) = same.split_at(LEAF_KEYS - 1);
        for key in there {
            assert_eq!(leaf.find(key), None);
            assert!(insert(&mut leaf, versions(key)).is_none());
            leaf.check();
        }
        assert!(there.iter().all(|key| leaf.find(key).is_some_and(|at| leaf.keys()[at].key() == key)));
        assert_eq!(leaf.find(&not[0]), None);
        for key in there {
            let at = leaf.find(key).expect("it is there");
            assert_eq!(leaf.remove(at).key(), key);
            leaf.check();
            assert_eq!(leaf.find(key), None);
        }
    }
}
