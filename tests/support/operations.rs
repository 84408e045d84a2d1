//! Random writes for the tests of the state machine: of the codec, the map, snapshots, and the simulator. The test says
//! which keys, values and ranges; `dkv::check` makes the operation.
//!
//! This file belongs to the tests and not to the library, because the library has no use for it. The tests of the library
//! (through `src/store/mod.rs`) and the tests beside it both include it. `dkv` names the library in both.

use dkv::check::{Parts, draw_kind, write_of};
use dkv::vocabulary::{
    Compare, KeyRange, Keys, LeaseId, Op, OpKind, Operator, PutLease, Target, Txn, TxnList, TxnOp,
};
use proptest::prelude::*;

/// An operation of any kind.
#[allow(dead_code)] // Each test uses its part.
pub fn draw_op(rng: &mut fastrand::Rng, parts: Parts) -> Op {
    write_of(draw_kind(rng), parts)
}

/// What a put says of its key's lease: one of few, often none.
pub fn draw_lease(rng: &mut fastrand::Rng) -> PutLease {
    let lease = LeaseId::new(rng.u64(1..6)).unwrap_or(LeaseId::MIN);
    match rng.u8(0..8) {
        0..4 => PutLease::None,
        4 | 5 => PutLease::Attach(lease),
        6 => PutLease::Own { lease: LeaseId::new(rng.u64(4..9)).unwrap_or(lease), ttl_s: rng.u64(1..20) },
        _ => PutLease::Keep,
    }
}

/// An operation of any kind, for a property. Nobody searches an order here: what is not a put may come more often.
#[allow(dead_code)]
pub fn any_op(
    keys: impl Strategy<Value = Vec<u8>>,
    values: impl Strategy<Value = Vec<u8>>,
    ranges: impl Strategy<Value = KeyRange>,
    amounts: impl Strategy<Value = i64>,
) -> impl Strategy<Value = Op> {
    let kinds = OpKind::ALL.iter().map(|kind| (if *kind == OpKind::Put { 3 } else { 1 }, Just(*kind)));
    let kinds = proptest::strategy::Union::new_weighted(kinds.collect());
    (kinds, keys, values, ranges, amounts, any::<u64>()).prop_map(
        |(kind, key, value, range, amount, shape)| match kind {
            OpKind::Txn => {
                let mut rng = fastrand::Rng::with_seed(shape);
                let keys = [key, range.start().to_vec(), b"a".to_vec(), b"b".to_vec()];
                let keys: Vec<Vec<u8>> = keys.into_iter().filter(|key| !key.is_empty()).collect();
                Op::Txn { txn: draw_any_txn(&mut rng, &keys, &value, &range, 40) }
            }
            OpKind::Put => Op::Put { key, value, lease: draw_lease(&mut fastrand::Rng::with_seed(shape)) },
            kind => write_of(kind, Parts { other: key.clone(), key, value, range, amount, shape }),
        },
    )
}

/// A transaction with everything that there is: nested, with ranges, at old revisions and at some that do not exist. The
/// values have `value` in them; `revisions` is about as many as there are.
#[allow(dead_code)]
pub fn draw_any_txn(
    rng: &mut fastrand::Rng,
    keys: &[Vec<u8>],
    value: &[u8],
    range: &KeyRange,
    revisions: u64,
) -> Txn {
    let draw = Draw { keys, value, range, revisions };
    // Most of them write no key twice.
    let allowed = (0..50).map(|_| draw.txn(rng, 3)).find(|txn| txn.check().is_ok());
    allowed.unwrap_or_default()
}

struct Draw<'a> {
    keys: &'a [Vec<u8>],
    value: &'a [u8],
    range: &'a KeyRange,
    revisions: u64,
}

impl Draw<'_> {
    fn txn(&self, rng: &mut fastrand::Rng, depth: usize) -> Txn {
        let mut many = |most: usize| rng.usize(0..=most);
        let counts = [many(2), many(4), many(3)];
        Txn {
            compares: (0..counts[0]).map(|_| self.compare(rng)).collect(),
            then: (0..counts[1]).map(|_| self.op(rng, depth)).collect(),
            otherwise: (0..counts[2]).map(|_| self.op(rng, depth)).collect(),
        }
    }

    fn key(&self, rng: &mut fastrand::Rng) -> Vec<u8> {
        self.keys[rng.usize(0..self.keys.len())].clone()
    }

    fn range(&self, rng: &mut fastrand::Rng) -> KeyRange {
        match rng.u8(0..4) {
            0 => KeyRange::new(&self.key(rng), b"", b""),
            1 => KeyRange::new(b"", &self.key(rng), b""),
            _ => self.range.clone(),
        }
    }

    fn keys(&self, rng: &mut fastrand::Rng) -> Keys {
        match rng.u8(0..3) {
            0 => Keys::Range(self.range(rng)),
            _ => Keys::One(self.key(rng)),
        }
    }

    fn value(&self, rng: &mut fastrand::Rng) -> Vec<u8> {
        match rng.u8(0..5) {
            0 => Vec::new(),
            1 => vec![0xff, rng.u8(..)],
            _ => [self.value, &[rng.u8(b'0'..=b'9')]].concat(),
        }
    }

    fn compare(&self, rng: &mut fastrand::Rng) -> Compare {
        let operators = [Operator::Equal, Operator::NotEqual, Operator::Less, Operator::Greater];
        let number = rng.u64(0..=self.revisions);
        let target = match rng.u8(0..5) {
            4 => Target::Lease(LeaseId::new(number % 4)),
            0 => Target::Version(number % 3),
            1 => Target::CreateRevision(number),
            2 => Target::ModRevision(number),
            _ => Target::Value(self.value(rng)),
        };
        Compare { keys: self.keys(rng), operator: operators[rng.usize(0..4)], target }
    }

    fn op(&self, rng: &mut fastrand::Rng, depth: usize) -> TxnOp {
        let revision = (rng.u8(0..4) == 0).then(|| rng.u64(1..=self.revisions + 1));
        match rng.u8(0..12) {
            0..4 => {
                let value = (rng.u8(0..8) > 0).then(|| self.value(rng));
                TxnOp::Put { key: self.key(rng), value, lease: draw_lease(rng), prev: rng.bool() }
            }
            4 | 5 => TxnOp::Delete { keys: self.keys(rng), prev: rng.bool() },
            6 | 7 => TxnOp::Get { key: self.key(rng), revision },
            8 if depth > 1 => TxnOp::Txn(self.txn(rng, depth - 1)),
            _ => {
                let (count_only, is_descending, keys_only) = (rng.u8(0..4) == 0, rng.bool(), rng.bool());
                TxnOp::List(TxnList {
                    range: self.range(rng),
                    revision,
                    limit: if count_only { 0 } else { rng.u64(1..4) },
                    is_descending: is_descending && !count_only,
                    keys_only: keys_only && !count_only,
                    count_only,
                })
            }
        }
    }
}
