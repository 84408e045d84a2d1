//! The keys in order, with their versions.
//!
//! The keys lie in leaves of at most [`LEAF_KEYS`], ordered lists of 24 bytes a key; a map finds the leaf of a key by a key
//! that all of its keys reach and all keys of the leaf before lie below. So a key takes little more than its versions:
//! a map with a node for eight keys, which is what a tree of the standard library comes to, takes as much again.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::versions::{Version, Versions};

/// Most keys in a leaf. A key that is inserted moves half of them, and finding it looks at six.
const LEAF_KEYS: usize = 64;

/// A leaf with fewer keys is joined with the next one if both fit well into one.
const FEW_KEYS: usize = LEAF_KEYS / 4;

/// A leaf grows by this many keys: doubling would leave a third of all leaves empty.
const GROWTH_KEYS: usize = 8;

/// Never empty.
type Leaf = Vec<Versions>;

/// Keys in order.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The leaves by a bound of their keys: at most the first key, and above all keys of the leaf before. The first
    /// leaf's is empty.
    leaves: BTreeMap<Box<[u8]>, Leaf>,
    len: usize,
}

impl Tree {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The leaf that has the key if it exists.
    fn leaf(&self, key: &[u8]) -> Option<&Leaf> {
        self.leaves
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
            .map(|(_, leaf)| leaf)
    }

    fn leaf_mut(&mut self, key: &[u8]) -> Option<(&[u8], &mut Leaf)> {
        let upto = (Bound::Unbounded, Bound::Included(key));
        self.leaves.range_mut::<[u8], _>(upto).next_back().map(|(bound, leaf)| (&bound[..], leaf))
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Versions> {
        let leaf = self.leaf(key)?;
        leaf.get(find(leaf, key).ok()?)
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Versions> {
        let (_, leaf) = self.leaf_mut(key)?;
        let at = find(leaf, key).ok()?;
        leaf.get_mut(at)
    }

    /// The versions of the largest key.
    pub(super) fn last(&self) -> Option<&Versions> {
        self.leaves.last_key_value()?.1.last()
    }

    /// Makes `new` the latest version of its key. Returns the version that it supersedes.
    pub(super) fn supersede(&mut self, new: Version) -> Option<&Version> {
        if self.leaves.is_empty() {
            self.leaves.insert(Box::default(), Vec::new());
        }
        let (_, leaf) = self.leaf_mut(new.key()).expect("the first leaf begins before every key");
        let at = match find(leaf, new.key()) {
            // Looked up again, because the borrow checker takes a borrow that is returned for one that lasts.
            Ok(at) => return self.leaf_mut(new.key()).map(|(_, leaf)| leaf[at].supersede(new)),
            Err(at) => at,
        };
        let right = insert(leaf, at, Versions::new(new));
        if let Some((bound, right)) = right {
            self.leaves.insert(bound, right);
        }
        self.len += 1;
        None
    }

    /// Removes a key.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Versions> {
        let (bound, leaf) = self.leaf_mut(key)?;
        let at = find(leaf, key).ok()?;
        let versions = leaf.remove(at);
        if leaf.capacity() > leaf.len() + 2 * GROWTH_KEYS {
            leaf.shrink_to(leaf.len() + GROWTH_KEYS);
        }
        if leaf.len() < FEW_KEYS {
            let bound = Box::from(bound);
            self.join(bound);
        }
        self.len -= 1;
        Some(versions)
    }

    /// Joins the leaf of this bound, which has few keys, with the leaf after it or before it, if they fit. An empty leaf
    /// goes.
    fn join(&mut self, bound: Box<[u8]>) {
        let few = self.leaves.get(&bound).map_or(0, Vec::len);
        if few == 0 {
            // Where its keys were, keys are now found by the bound of the leaf before, or by the first of all.
            self.leaves.remove(&bound);
            self.move_first_bound();
            return;
        }
        // Not filled to the last place: the next key would divide it again.
        let fits = |leaf: &Leaf| few + leaf.len() <= LEAF_KEYS - FEW_KEYS;
        let after = (Bound::Excluded(&bound[..]), Bound::Unbounded);
        let before = (Bound::Unbounded, Bound::Excluded(&bound[..]));
        let next = self
            .leaves
            .range::<[u8], _>(after)
            .next()
            .filter(|(_, leaf)| fits(leaf))
            .map(|(next, _)| next.clone());
        let previous = self
            .leaves
            .range::<[u8], _>(before)
            .next_back()
            .filter(|(_, leaf)| fits(leaf))
            .map(|(at, _)| at.clone());
        let (left, right) = match (next, previous) {
            (Some(next), _) => (bound, next),
            (None, Some(previous)) => (previous, bound),
            (None, None) => return,
        };
        let joined = self.leaves.remove(&right).unwrap_or_default();
        if let Some(leaf) = self.leaves.get_mut(&left) {
            leaf.reserve_exact(joined.len());
            leaf.extend(joined);
            leaf.shrink_to(leaf.len() + GROWTH_KEYS);
        }
    }

    /// The bound of the first leaf is empty, also when the first leaf went.
    fn move_first_bound(&mut self) {
        if let Some((bound, first)) = self.leaves.pop_first() {
            debug_assert!(!first.is_empty(), "no leaf is empty: {bound:?}");
            self.leaves.insert(Box::default(), first);
        }
    }

    /// The keys within bounds, in order. The bounds are in order and do not exclude each other.
    pub(super) fn range<'a, 'b>(
        &'a self,
        start: Bound<&'b [u8]>,
        end: Bound<&'b [u8]>,
    ) -> impl DoubleEndedIterator<Item = &'a Versions> + use<'a, 'b> {
        let first = match start {
            Bound::Unbounded => Bound::Unbounded,
            Bound::Included(key) | Bound::Excluded(key) => {
                let upto = (Bound::Unbounded, Bound::Included(key));
                let leaf = self.leaves.range::<[u8], _>(upto).next_back();
                leaf.map_or(Bound::Unbounded, |(bound, _)| Bound::Included(&bound[..]))
            }
        };
        let last = match end {
            Bound::Unbounded => Bound::Unbounded,
            Bound::Included(key) | Bound::Excluded(key) => Bound::Included(key),
        };
        self.leaves.range::<[u8], _>((first, last)).flat_map(move |(_, leaf)| {
            let from = leaf.partition_point(|versions| match start {
                Bound::Unbounded => false,
                Bound::Included(start) => versions.key() < start,
                Bound::Excluded(start) => versions.key() <= start,
            });
            let to = leaf.partition_point(|versions| match end {
                Bound::Unbounded => true,
                Bound::Included(end) => versions.key() <= end,
                Bound::Excluded(end) => versions.key() < end,
            });
            &leaf[from..to]
        })
    }

    /// All keys, in order.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Versions> {
        self.range(Bound::Unbounded, Bound::Unbounded)
    }
}

/// Where the key is, or where it belongs.
fn find(leaf: &Leaf, key: &[u8]) -> Result<usize, usize> {
    leaf.binary_search_by(|versions| versions.key().cmp(key))
}

/// Inserts into a leaf. Returns the second leaf with its bound when it was full and had to be divided: in the middle, or
/// at the end when keys come in order, because then the first leaf gets no more keys.
fn insert(leaf: &mut Leaf, at: usize, new: Versions) -> Option<(Box<[u8]>, Leaf)> {
    if leaf.len() < LEAF_KEYS {
        if leaf.len() == leaf.capacity() {
            leaf.reserve_exact(GROWTH_KEYS);
        }
        leaf.insert(at, new);
        return None;
    }
    let mut right = if at == LEAF_KEYS { Vec::new() } else { leaf.split_off(LEAF_KEYS / 2) };
    match at.checked_sub(leaf.len()) {
        Some(at) => {
            right.reserve_exact(GROWTH_KEYS);
            right.insert(at, new);
        }
        None => leaf.insert(at, new),
    }
    leaf.shrink_to(if leaf.len() == LEAF_KEYS { LEAF_KEYS } else { leaf.len() + GROWTH_KEYS });
    Some((right[0].key().into(), right))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::store::kv::versions::Numbers;

    const NUMBERS: Numbers = Numbers { mod_revision: 2, create_revision: 2, version: 1 };

    fn add(tree: &mut Tree, key: &[u8]) -> bool {
        tree.supersede(Version::new(key, NUMBERS, Some(b""))).is_none()
    }

    fn key(n: u16) -> Vec<u8> {
        // Some keys are the beginning of others.
        let digits = format!("{n:05}");
        digits.trim_end_matches('0').as_bytes().to_vec()
    }

    /// What a tree must be at any time.
    fn check(tree: &Tree) {
        let mut before: Option<&[u8]> = None;
        for (n, (bound, leaf)) in tree.leaves.iter().enumerate() {
            assert!(!leaf.is_empty() && leaf.len() <= LEAF_KEYS, "a leaf of {}", leaf.len());
            assert!(leaf.capacity() <= leaf.len() + 2 * GROWTH_KEYS, "{} of {}", leaf.len(), leaf.capacity());
            assert_eq!(bound.is_empty(), n == 0, "the first bound is empty, and no other one");
            assert!(before.is_none_or(|before| before < &bound[..]) && &bound[..] <= leaf[0].key());
            assert!(leaf.is_sorted_by(|a, b| a.key() < b.key()));
            before = leaf.last().map(Versions::key);
        }
        assert_eq!(tree.len(), tree.leaves.values().map(Vec::len).sum::<usize>());
    }

    #[test]
    fn keys_that_come_in_order_fill_their_leaves() {
        let mut tree = Tree::default();
        assert!(tree.last().is_none() && tree.remove(b"").is_none());
        for n in 0..10 * LEAF_KEYS {
            assert!(add(&mut tree, format!("{n:09}").as_bytes()));
            check(&tree);
        }
        assert_eq!(tree.leaves.len(), 10);
        assert_eq!(
            tree.last().map(Versions::key),
            Some(&format!("{:09}", 10 * LEAF_KEYS - 1).into_bytes()[..])
        );
    }

    #[test]
    fn leaves_with_few_keys_are_joined() {
        let mut tree = Tree::default();
        let keys: Vec<_> = (0..10 * LEAF_KEYS).map(|n| format!("{n:09}").into_bytes()).collect();
        keys.iter().for_each(|key| assert!(add(&mut tree, key)));
        for (n, key) in keys.iter().enumerate().filter(|(n, _)| n % 10 != 0) {
            assert_eq!(tree.remove(key).as_ref().map(Versions::key), Some(&key[..]), "{n}");
            check(&tree);
        }
        assert_eq!(tree.len(), LEAF_KEYS);
        assert!(tree.leaves.len() <= 4, "{} leaves", tree.leaves.len());
    }

    proptest! {
        /// The tree against the standard library's.
        #[test]
        fn a_tree_is_an_ordered_set_of_keys(
            steps in prop::collection::vec((prop_oneof![3 => Just(true), 2 => Just(false)], 0..600u16), 0..1_500),
            ranges in prop::collection::vec((0..600u16, 0..600u16), 20),
        ) {
            let (mut tree, mut model) = (Tree::default(), BTreeSet::new());
            for (is_put, n) in steps {
                let key = key(n);
                if is_put {
                    prop_assert_eq!(add(&mut tree, &key), model.insert(key));
                } else {
                    prop_assert_eq!(tree.remove(&key).is_some(), model.remove(&key));
                }
                check(&tree);
            }
            prop_assert!(tree.iter().map(Versions::key).eq(model.iter().map(|key| &key[..])));
            prop_assert_eq!(tree.last().map(Versions::key), model.last().map(|key| &key[..]));
            for (a, b) in ranges {
                let (a, b) = (key(a.min(b)), key(a.max(b)));
                prop_assert_eq!(tree.get(&a).map(Versions::key), model.get(&a).map(|key| &key[..]));
                prop_assert_eq!(tree.get_mut(&a).is_some(), model.contains(&a));
                for start in [Bound::Unbounded, Bound::Included(&a[..]), Bound::Excluded(&a[..])] {
                    for end in [Bound::Unbounded, Bound::Included(&b[..]), Bound::Excluded(&b[..])] {
                        if a >= b && start != Bound::Unbounded && end != Bound::Unbounded {
                            continue;
                        }
                        let want: Vec<&[u8]> = model.range::<[u8], _>((start, end)).map(|key| &key[..]).collect();
                        let got: Vec<&[u8]> = tree.range(start, end).map(Versions::key).collect();
                        prop_assert_eq!(&got, &want);
                        let mut back: Vec<&[u8]> = tree.range(start, end).rev().map(Versions::key).collect();
                        back.reverse();
                        prop_assert_eq!(&back, &want);
                    }
                }
            }
        }
    }
}
