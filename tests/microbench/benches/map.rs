//! The map: puts to new keys and to old ones and gets among 100,000 keys, the deletion of a range, and a transaction.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use dkv::raft::{Entry, Payload, Position, Settings};
use dkv::store::{Command, KeyRange, Kv, Op};
use dkv::vocabulary::{Txn, TxnOp};
use dkv_microbench::put;

const KEYS: u64 = 100_000;

fn entry(index: u64, number: u64) -> Entry {
    Entry::new(Position::new(index, 1), index, &Payload::Command(put(number).encode()))
}

fn filled(keys: u64) -> Kv {
    let mut kv = Kv::new(Settings::default());
    for index in 1..=keys {
        kv.apply(&entry(index, index * 7_919 % keys));
    }
    kv
}

fn map(c: &mut Criterion) {
    let mut kv = filled(KEYS);
    let mut index = KEYS;
    c.bench_function("map/put/old-key", |b| {
        let next = || {
            index += 1;
            entry(index, index * 104_729 % KEYS)
        };
        b.iter_batched(next, |entry| kv.apply(&entry), BatchSize::PerIteration);
    });
    let mut index = kv.applied().index;
    c.bench_function("map/put/new-key", |b| {
        let next = || {
            index += 1;
            entry(index, index)
        };
        b.iter_batched(next, |entry| kv.apply(&entry), BatchSize::PerIteration);
    });
    let keys: Vec<Vec<u8>> = (0..KEYS).map(|n| format!("{n:016}").into_bytes()).collect();
    let mut at = 0;
    c.bench_function("map/get", |b| {
        b.iter(|| {
            at = (at + 7_919) % keys.len();
            black_box(kv.get(&keys[at], None).is_ok())
        });
    });
}

/// The most keys that one entry may delete, and the refusal of more: every read waits meanwhile.
fn delete_range(c: &mut Criterion) {
    let mut group = c.benchmark_group("map/delete-range");
    group.sample_size(10);
    for (name, keys) in [("10000", 10_000), ("refused", KEYS)] {
        let op = Op::DeleteRange { range: KeyRange::new(b"", b"", b"") };
        let payload = Payload::Command(Command { op, ..put(1) }.encode());
        let entry = Entry::new(Position::new(keys + 1, 1), keys + 1, &payload);
        let delete = |mut kv: Kv| {
            kv.apply(&entry);
            kv
        };
        group.bench_function(name, |b| {
            b.iter_batched(|| filled(keys), delete, BatchSize::PerIteration);
        });
    }
}

/// A transaction of as many puts as one list has by default, to old keys.
fn txn(c: &mut Criterion) {
    const PUTS: u64 = 128;
    let mut kv = filled(KEYS);
    let mut index = KEYS;
    c.bench_function("map/txn/128-puts", |b| {
        let next = || {
            index += 1;
            let first = index * 104_729 % (KEYS - PUTS);
            let puts = (first..first + PUTS).map(|number| match put(number).op {
                Op::Put { key, value, lease } => TxnOp::Put { key, value: Some(value), lease, prev: false },
                other => unreachable!("a put is a put: {other:?}"),
            });
            let txn = Txn { then: puts.collect(), ..Txn::default() };
            let payload = Payload::Command(Command { op: Op::Txn { txn }, ..put(1) }.encode());
            Entry::new(Position::new(index, 1), index, &payload)
        };
        b.iter_batched(next, |entry| kv.apply(&entry), BatchSize::PerIteration);
    });
}

criterion_group!(benches, map, delete_range, txn);
criterion_main!(benches);
