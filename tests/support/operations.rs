//! Random writes for the tests of the state machine: of the codec, the map, snapshots, and the simulator. The test says
//! which keys, values and ranges; `dkv::check` makes the operation.
//!
//! This file belongs to the tests and not to the library, because the library has no use for it. The tests of the library
//! (through `src/store/mod.rs`) and the tests beside it both include it. `dkv` names the library in both.

use dkv::check::{Parts, draw_kind, write_of};
use dkv::vocabulary::{KeyRange, Op, OpKind};
use proptest::prelude::*;

/// An operation of any kind.
#[allow(dead_code)] // Each test uses its part.
pub fn draw_op(rng: &mut fastrand::Rng, parts: Parts) -> Op {
    write_of(draw_kind(rng), parts)
}

/// An operation of any kind, for a property. Nobody searches an order here: what is not a put may come more often.
#[allow(dead_code)]
pub fn any_op(
    keys: impl Strategy<Value = Vec<u8>>,
    values: impl Strategy<Value = Vec<u8>>,
    ranges: impl Strategy<Value = KeyRange>,
) -> impl Strategy<Value = Op> {
    let kinds = OpKind::ALL.iter().map(|kind| (if *kind == OpKind::Put { 3 } else { 1 }, Just(*kind)));
    let kinds = proptest::strategy::Union::new_weighted(kinds.collect());
    (kinds, keys, values, ranges)
        .prop_map(|(kind, key, value, range)| write_of(kind, Parts { key, value, range }))
}
