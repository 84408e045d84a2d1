//! Commands and entry frames, to bytes and back.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use dkv::raft::{Draft, Entry, Payload, Position};
use dkv::store::Command;
use dkv_microbench::put;

fn commands(c: &mut Criterion) {
    let command = put(1);
    let bytes = command.encode();
    c.bench_function("command/encode/256", |b| b.iter(|| black_box(&command).encode()));
    c.bench_function("command/decode/256", |b| b.iter(|| Command::decode(black_box(&bytes))));
}

fn frames(c: &mut Criterion) {
    for bytes in [256, 16 << 10, 1 << 20] {
        let payload = Payload::Command(vec![7; bytes]);
        let draft = || Draft::from(&payload);
        c.bench_function(&format!("frame/draft/{bytes}"), |b| b.iter(draft));
        // What is left to be done under the state lock.
        let place = |draft: Draft| draft.place(Position::new(7, 3), 99);
        c.bench_function(&format!("frame/place/{bytes}"), |b| {
            b.iter_batched(draft, place, BatchSize::LargeInput);
        });
        let entry = Entry::new(Position::new(7, 3), 99, &payload);
        c.bench_function(&format!("frame/decode/{bytes}"), |b| {
            b.iter(|| Entry::decode(black_box(entry.frame())));
        });
    }
}

criterion_group!(benches, commands, frames);
criterion_main!(benches);
