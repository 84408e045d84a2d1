//! Random writes for the tests of the state machine: of the codec, the map, snapshots, and the simulator. The test says
//! which keys, values and ranges; which kinds of operations there are, and how often each one comes, `dkv::check` says.
//!
//! This file belongs to the tests and not to the library, because the library has no use for it. The tests of the library
//! (through `src/store/mod.rs`) and the tests beside it both include it. `dkv` names the library in both.

use dkv::check::{draw_kind, weight};
use dkv::vocabulary::{KeyRange, Op, OpKind};
use proptest::prelude::*;

/// What operations are made of: each kind takes what it needs.
#[derive(Clone, Debug)]
pub struct Parts {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub range: KeyRange,
}

/// The operation of this kind. No catch-all: a new kind is made here, for every test.
pub fn operation(kind: OpKind, parts: Parts) -> Op {
    let Parts { key, value, range } = parts;
    match kind {
        OpKind::Put => Op::Put { key, value },
        OpKind::Delete => Op::Delete { key },
        OpKind::DeleteRange => Op::DeleteRange { range },
        #[cfg(feature = "next-protocol")]
        OpKind::Touch => Op::Touch { key },
    }
}

/// An operation of any kind.
#[allow(dead_code)] // Each test uses its part.
pub fn draw_op(rng: &mut fastrand::Rng, parts: Parts) -> Op {
    operation(draw_kind(rng), parts)
}

/// An operation of any kind, for a property.
#[allow(dead_code)]
pub fn any_op(
    keys: impl Strategy<Value = Vec<u8>>,
    values: impl Strategy<Value = Vec<u8>>,
    ranges: impl Strategy<Value = KeyRange>,
) -> impl Strategy<Value = Op> {
    let kinds = OpKind::ALL.iter().map(|kind| (weight(*kind), Just(*kind))).collect::<Vec<_>>();
    let kinds = proptest::strategy::Union::new_weighted(kinds);
    (kinds, keys, values, ranges)
        .prop_map(|(kind, key, value, range)| operation(kind, Parts { key, value, range }))
}
