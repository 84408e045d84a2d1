//! The map: puts to new keys and to old ones, gets and lists, among 100,000 keys.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use dkv::raft::{Entry, Payload, Position, Settings};
use dkv::store::Kv;
use dkv_microbench::put;

const KEYS: u64 = 100_000;

fn entry(index: u64, number: u64) -> Entry {
    Entry::new(Position::new(index, 1), index, &Payload::Command(put(number).encode()))
}

fn filled() -> Kv {
    let mut kv = Kv::new(Settings::default());
    for index in 1..=KEYS {
        kv.apply(&entry(index, index * 7_919 % KEYS));
    }
    kv
}

fn map(c: &mut Criterion) {
    let mut kv = filled();
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

criterion_group!(benches, map);
criterion_main!(benches);
