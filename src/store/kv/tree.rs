//! The keys in order, with their versions.
//!
//! The keys lie in leaves of at most [`LEAF_KEYS`], ordered lists of 24 bytes a key; a map finds the leaf of a key by a key
//! that all of its keys reach and all keys of the leaf before lie below. So a key takes little more than its versions:
//! a map with a node for eight keys, which is what a tree of the standard library comes to, takes as much again.
//!
//! A key is found in its leaf by a mark of one byte. A binary search looks at six keys, each in a piece of memory of its
//! own that is mostly in no cache; with marks it looks at one.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::leaf::{LEAF_KEYS, Leaf, insert};
use super::versions::{Version, Versions};

/// A leaf with fewer keys is joined with the next one if both fit well into one.
const FEW_KEYS: usize = LEAF_KEYS / 4;

/// Keys in order.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The leaves by a bound of their keys, none empty: at most the first key, and above all keys of the leaf before. The first
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
        leaf.keys().get(leaf.find(key)?)
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Versions> {
        let (_, leaf) = self.leaf_mut(key)?;
        let at = leaf.find(key)?;
        leaf.get_mut(at)
    }

    /// The versions of the largest key.
    pub(super) fn last(&self) -> Option<&Versions> {
        self.leaves.last_key_value()?.1.keys().last()
    }

    /// Makes `new` the latest version of its key. Shows the version that it supersedes to `see`.
    pub(super) fn supersede<R>(&mut self, new: Version, see: impl FnOnce(&Version) -> R) -> Option<R> {
        if self.leaves.is_empty() {
            self.leaves.insert(Box::default(), Leaf::default());
        }
        let (_, leaf) = self.leaf_mut(new.key()).expect("the first leaf begins before every key");
        if let Some(versions) = leaf.find(new.key()).and_then(|at| leaf.get_mut(at)) {
            return Some(see(versions.supersede(new)));
        }
        let right = insert(leaf, Versions::new(new));
        if let Some((bound, right)) = right {
            self.leaves.insert(bound, right);
        }
        self.len += 1;
        None
    }

    /// Removes a key.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Versions> {
        let (bound, leaf) = self.leaf_mut(key)?;
        let at = leaf.find(key)?;
        let versions = leaf.remove(at);
        if leaf.keys().len() < FEW_KEYS {
            let bound = Box::from(bound);
            self.join(bound);
        }
        self.len -= 1;
        Some(versions)
    }

    /// Joins the leaf of this bound, which has few keys, with the leaf after it or before it, if they fit. An empty leaf
    /// goes.
    fn join(&mut self, bound: Box<[u8]>) {
        let few = self.leaves.get(&bound).map_or(0, |leaf| leaf.keys().len());
        if few == 0 {
            // Where its keys were, keys are now found by the bound of the leaf before, or by the first of all.
            self.leaves.remove(&bound);
            self.move_first_bound();
            return;
        }
        // Not filled to the last place: the next key would divide it again.
        let fits = |leaf: &Leaf| few + leaf.keys().len() <= LEAF_KEYS - FEW_KEYS;
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
            leaf.join(joined);
        }
    }

    /// The bound of the first leaf is empty, also when the first leaf went.
    fn move_first_bound(&mut self) {
        if let Some((bound, first)) = self.leaves.pop_first() {
            debug_assert!(!first.keys().is_empty(), "no leaf is empty: {bound:?}");
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
            let leaf = leaf.keys();
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
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Versions> {
        self.range(Bound::Unbounded, Bound::Unbounded)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::store::kv::versions::Numbers;

    const NUMBERS: Numbers = Numbers { mod_revision: 2, create_revision: 2, version: 1, lease: None };

    fn add(tree: &mut Tree, key: &[u8]) -> bool {
        tree.supersede(Version::new(key, NUMBERS, Some(b"")), |_| ()).is_none()
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
            leaf.check();
            let leaf = leaf.keys();
            assert!(!leaf.is_empty());
            assert_eq!(bound.is_empty(), n == 0, "the first bound is empty, and no other one");
            assert!(before.is_none_or(|before| before < &bound[..]) && &bound[..] <= leaf[0].key());
            assert!(leaf.is_sorted_by(|a, b| a.key() < b.key()));
            before = leaf.last().map(Versions::key);
        }
        assert_eq!(tree.len(), tree.leaves.values().map(|leaf| leaf.keys().len()).sum::<usize>());
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
