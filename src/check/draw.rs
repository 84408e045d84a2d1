//! Random operations: what the clients of a history ask.
//!
//! `dkv-cli verify`, the simulator, the torture rig and the tests of codec, map and snapshots all draw from here which
//! kind of write comes next. No match has a catch-all: a new operation does not build before it has a weight.

use fastrand::Rng;

use super::{Condition, Op};
use crate::vocabulary::{KeyRange, Op as Write, OpKind};

/// How often a kind of write is drawn, compared with the other kinds. Removals are few: they tie keys together, or say
/// little about the order of what was removed, and so make the search for an order long.
fn weight(kind: OpKind) -> u32 {
    match kind {
        OpKind::Put => 15,
        OpKind::Delete => 2,
        OpKind::DeleteRange => 1,
        #[cfg(feature = "next-protocol")]
        OpKind::Touch => 1,
    }
}

/// A kind of write.
pub fn draw_kind(rng: &mut Rng) -> OpKind {
    let all: u32 = OpKind::ALL.iter().map(|kind| weight(*kind)).sum();
    let (at, mut end) = (rng.u32(0..all), 0);
    let found = OpKind::ALL.iter().copied().find(|kind| {
        end += weight(*kind);
        at < end
    });
    found.unwrap_or(OpKind::Put)
}

/// A condition for a write of a key whose last revision, as far as its client knows, is `seen`; often none.
pub fn draw_condition(rng: &mut Rng, seen: Option<u64>) -> Option<Condition> {
    match rng.u8(0..12) {
        0 => Some(Condition::Exists),
        1 => Some(Condition::Absent),
        2..=5 => seen.map(Condition::ModRevision),
        _ => None,
    }
}

/// What a write is made of: each kind takes what it needs.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The key of a write of one key.
    pub key: Vec<u8>,
    /// A value.
    pub value: Vec<u8>,
    /// The keys of a write of several keys.
    pub range: KeyRange,
}

/// The write of this kind.
pub fn write_of(kind: OpKind, parts: Parts) -> Write {
    let Parts { key, value, range } = parts;
    match kind {
        OpKind::Put => Write::Put { key, value },
        OpKind::Delete => Write::Delete { key },
        OpKind::DeleteRange => Write::DeleteRange { range },
        #[cfg(feature = "next-protocol")]
        OpKind::Touch => Write::Touch { key },
    }
}

/// A read of one of `keys`, or a write; `value` is the value of a put. `seen` tells the last revision of a key that the
/// client knows.
pub fn draw_operation(
    rng: &mut Rng,
    keys: &[String],
    value: impl FnOnce() -> String,
    seen: impl FnOnce(&str) -> Option<u64>,
) -> Op {
    let at = rng.usize(0..keys.len());
    let key = keys[at].clone();
    if rng.u8(0..5) < 2 {
        return Op::Get { key };
    }
    let kind = draw_kind(rng);
    let condition = draw_condition(rng, seen(&key)).filter(|_| kind.takes_condition());
    let parts = Parts { key: key.into_bytes(), value: value().into_bytes(), range: pair(keys, at) };
    Op::of_write(&write_of(kind, parts), condition)
}

/// A key and its neighbour. Not more keys: the search takes keys that a write ties together as one.
fn pair(keys: &[String], at: usize) -> KeyRange {
    let mut sorted: Vec<&String> = keys.iter().collect();
    sorted.sort_unstable();
    let at = sorted.iter().position(|key| **key == keys[at]).unwrap_or(at) / 2 * 2;
    let last = sorted.get(at + 1).unwrap_or(&sorted[at]);
    // `!` is less than every character of a key: no other key lies between.
    KeyRange::between(sorted[at].clone().into_bytes(), Some(format!("{last}!").into_bytes()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn draw_kind_draws_every_kind_by_its_weight() {
        let mut rng = Rng::with_seed(1);
        let drawn: Vec<OpKind> = (0..10_000).map(|_| draw_kind(&mut rng)).collect();
        let all: u32 = OpKind::ALL.iter().map(|kind| weight(*kind)).sum();
        for kind in OpKind::ALL {
            let (count, wanted) =
                (drawn.iter().filter(|drawn| *drawn == kind).count() as u32, 10_000 * weight(*kind) / all);
            assert!(count.abs_diff(wanted) < wanted / 5, "{kind:?}: {count} times, about {wanted} wanted");
        }
    }

    #[test]
    fn draw_operation_draws_every_kind_and_ties_no_more_than_two_keys() {
        let keys: Vec<String> = (0..11).map(|n| format!("p/{n}")).collect();
        let mut rng = Rng::with_seed(2);
        let mut kinds = BTreeSet::new();
        let mut removed = BTreeSet::new();
        for n in 0..2_000 {
            let op = draw_operation(&mut rng, &keys, || n.to_string(), |_| Some(7));
            let concerned: Vec<&String> = keys.iter().filter(|key| op.concerns(key)).collect();
            let (name, most) = match op {
                Op::Get { .. } => ("get", 1),
                Op::Put { .. } => ("put", 1),
                Op::Delete { .. } => ("delete", 1),
                Op::DeleteRange { .. } => ("delete_range", 2),
                Op::List { .. } => ("list", 0),
            };
            assert!((1..=most).contains(&concerned.len()), "{op:?} concerns {concerned:?}");
            if name == "delete_range" {
                removed.insert(concerned.into_iter().cloned().collect::<Vec<_>>());
            }
            kinds.insert(name);
        }
        assert_eq!(kinds, BTreeSet::from(["get", "put", "delete", "delete_range"]));
        let tied: Vec<&String> = removed.iter().flatten().collect();
        assert_eq!((removed.len(), tied.len()), (6, 11), "each key belongs to one pair: {removed:?}");
    }
}
