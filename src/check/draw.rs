//! Random operations: what the clients of a history ask.
//!
//! `dkv-cli verify`, the simulator, the torture rig and the tests of codec, map and snapshots all draw from here which
//! kind of write comes next. No match has a catch-all: a new operation does not build before it has a weight.

use fastrand::Rng;

use super::{Condition, Op};
use crate::vocabulary::{
    Compare, KeyRange, Keys, LeaseId, Op as Write, OpKind, Operator, PutLease, Target, Txn, TxnOp,
};

/// How often a kind of write is drawn, compared with the other kinds. Removals are few: they tie keys together, or say
/// little about the order of what was removed, and so make the search for an order long.
fn weight(kind: OpKind) -> u32 {
    match kind {
        OpKind::Put => 15,
        OpKind::Delete => 2,
        OpKind::DeleteRange => 1,
        // To the checker a touch writes a value of its own, which says nothing of a number in it.
        OpKind::Add if cfg!(feature = "next-protocol") => 0,
        OpKind::Add => 3,
        OpKind::Txn => 4,
        // A history has no keys that go by themselves.
        OpKind::LeaseGrant | OpKind::LeaseRenew | OpKind::LeaseRevoke | OpKind::LeaseExpire => 0,
        // Nor revisions that are gone.
        OpKind::Compact => 0,
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
        // Clients know versions as little as they need to: few writes of a key are enough to meet one of these.
        6 => Some(Condition::Version(rng.u64(1..5))),
        _ => None,
    }
}

/// An amount for a counter that no other drawing gives, as far as chance allows, nor a sum of others: so every value
/// of a counter tells which additions are in it. Now and then one that takes most counters out of their range.
pub fn draw_amount(rng: &mut Rng) -> i64 {
    let size = match rng.u8(0..16) {
        0 => i64::MAX - rng.i64(0..1 << 40),
        _ => rng.i64(1..1 << 48),
    };
    if rng.u8(0..3) == 0 { -size } else { size }
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
    /// What is added to a counter.
    pub amount: i64,
    /// Another key, for a transaction on both.
    pub other: Vec<u8>,
    /// Decides how a transaction looks.
    pub shape: u64,
}

/// The write of this kind.
pub fn write_of(kind: OpKind, parts: Parts) -> Write {
    let Parts { key, value, range, amount, other, shape } = parts;
    match kind {
        OpKind::Put => Write::put(key, value),
        OpKind::Delete => Write::Delete { key },
        OpKind::DeleteRange => Write::DeleteRange { range },
        OpKind::Add => Write::Add { key, amount },
        OpKind::LeaseGrant => {
            Write::LeaseGrant { lease: lease_of(shape), ttl_s: 1 + shape % 20, is_chosen: shape % 3 > 0 }
        }
        OpKind::LeaseRenew => Write::LeaseRenew { leases: leases_of(shape) },
        OpKind::LeaseRevoke => Write::LeaseRevoke { lease: lease_of(shape) },
        OpKind::LeaseExpire => Write::LeaseExpire { leases: leases_of(shape) },
        OpKind::Compact => Write::Compact { revision: shape % 50 },
        OpKind::Txn => {
            let mut count = 0u8;
            let values = || {
                count += 1;
                [&value[..], b"/", count.to_string().as_bytes()].concat()
            };
            Write::Txn { txn: draw_txn(&mut Rng::with_seed(shape), [&key, &other], values, None) }
        }
        #[cfg(feature = "next-protocol")]
        OpKind::Touch => Write::Touch { key },
    }
}

/// One of few leases.
fn lease_of(shape: u64) -> LeaseId {
    LeaseId::new(1 + shape % 5).unwrap_or(LeaseId::MIN)
}

/// Some of few leases.
fn leases_of(shape: u64) -> Vec<LeaseId> {
    (0..shape % 4).map(|n| lease_of(shape / 7 + 2 * n)).collect()
}

/// A read of one of `keys`, or a write; `value` is the value of a put. `seen` tells the last revision of a key that the
/// client knows.
pub fn draw_operation(
    rng: &mut Rng,
    keys: &[String],
    mut value: impl FnMut() -> String,
    seen: impl Fn(&str) -> Option<u64>,
) -> Op {
    let at = rng.usize(0..keys.len());
    let key = keys[at].clone();
    if rng.u8(0..5) < 2 {
        return Op::Get { key };
    }
    let kind = draw_kind(rng);
    let condition = draw_condition(rng, seen(&key)).filter(|_| kind.takes_condition());
    let (range, other) = pair(keys, at);
    if kind == OpKind::Txn {
        let seen = seen(&key);
        let txn = draw_txn(rng, [key.as_bytes(), other.as_bytes()], || value().into_bytes(), seen);
        return Op::of_write(&Write::Txn { txn }, None);
    }
    let (value, other, amount) = (value().into_bytes(), other.into_bytes(), draw_amount(rng));
    let parts = Parts { key: key.into_bytes(), value, range, amount, other, shape: 0 };
    Op::of_write(&write_of(kind, parts), condition)
}

/// A transaction on two keys, which may be one: tests of either, and in each branch reads and at most one write of each
/// key, so that the reads see what is before the write and after it. `seen` is a revision that the first key may have.
pub fn draw_txn(
    rng: &mut Rng,
    keys: [&[u8]; 2],
    mut value: impl FnMut() -> Vec<u8>,
    seen: Option<u64>,
) -> Txn {
    let compare = |key: &[u8], operator, target| Compare { keys: Keys::One(key.to_vec()), operator, target };
    let compares = (0..rng.usize(0..3)).map(|at| {
        let key = keys[at];
        match rng.u8(0..5) {
            0 => compare(key, Operator::Greater, Target::Version(0)),
            1 => compare(key, Operator::Equal, Target::Version(0)),
            2 if at == 0 && seen.is_some() => {
                compare(key, Operator::Equal, Target::ModRevision(seen.unwrap_or_default()))
            }
            3 => compare(key, Operator::Equal, Target::ModRevision(rng.u64(0..40))),
            _ => compare(key, Operator::Greater, Target::Version(0)),
        }
    });
    let compares: Vec<Compare> = compares.collect();
    let mut branch = |most: usize| {
        let (mut ops, mut written) = (Vec::new(), [false; 2]);
        for _ in 0..rng.usize(0..=most) {
            let at = rng.usize(0..2);
            let key = keys[at].to_vec();
            let is_written = written[at] || keys[0] == keys[1] && written.contains(&true);
            ops.push(match rng.u8(0..6) {
                0..3 if !is_written => {
                    written[at] = true;
                    TxnOp::Put { key, value: Some(value()), lease: PutLease::None, prev: false }
                }
                3 if !is_written => {
                    written[at] = true;
                    TxnOp::Delete { keys: Keys::One(key), prev: false }
                }
                _ => TxnOp::Get { key, revision: None },
            });
        }
        ops
    };
    Txn { compares, then: branch(4), otherwise: branch(3) }
}

/// A key and its neighbour, as a range, and the neighbour. Not more keys: the search takes keys that a write ties together as one.
fn pair(keys: &[String], at: usize) -> (KeyRange, String) {
    let mut sorted: Vec<&String> = keys.iter().collect();
    sorted.sort_unstable();
    let mine = sorted.iter().position(|key| **key == keys[at]).unwrap_or(at);
    let first = mine / 2 * 2;
    let last = sorted.get(first + 1).unwrap_or(&sorted[first]);
    let other = if mine == first { (*last).clone() } else { sorted[first].clone() };
    // `!` is less than every character of a key: no other key lies between.
    let end = format!("{last}!").into_bytes();
    (KeyRange::between(sorted[first].clone().into_bytes(), Some(end)), other)
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
            assert!(count.abs_diff(wanted) <= wanted / 5, "{kind:?}: {count} times, about {wanted} wanted");
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
                Op::Add { .. } => ("add", 1),
                Op::Txn(_) => ("txn", 2),
                Op::List { .. } => ("list", 0),
            };
            let least = usize::from(name != "txn");
            assert!((least..=most).contains(&concerned.len()), "{op:?} concerns {concerned:?}");
            if name == "delete_range" || name == "txn" && concerned.len() == 2 {
                removed.insert(concerned.into_iter().cloned().collect::<Vec<_>>());
            }
            kinds.insert(name);
        }
        let add = OpKind::ALL.iter().filter(|kind| **kind == OpKind::Add && weight(**kind) > 0);
        let others = ["get", "put", "delete", "delete_range", "txn"];
        let wanted: BTreeSet<_> = add.map(|kind| kind.name()).chain(others).collect();
        assert_eq!(kinds, wanted);
        let tied: Vec<&String> = removed.iter().flatten().collect();
        assert_eq!((removed.len(), tied.len()), (6, 11), "each key belongs to one pair: {removed:?}");
    }
}
