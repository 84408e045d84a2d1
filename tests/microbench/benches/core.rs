//! The core's loop of append, commit and apply, of a cluster of one member.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dkv::raft::Draft;
use dkv_microbench::{Single, put};

fn append_commit_apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("core/append-commit-apply");
    for batch in [1_u64, 64] {
        group.throughput(Throughput::Elements(batch));
        group.bench_with_input(BenchmarkId::from_parameter(batch), &batch, |b, &batch| {
            let mut single = Single::new();
            let drafts = || (0..batch).map(|n| Draft::command(&put(n).encode())).collect::<Vec<_>>();
            b.iter_batched(
                drafts,
                |drafts| {
                    drafts.into_iter().for_each(|draft| single.propose(draft));
                    assert_eq!(single.finish(), batch as usize);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, append_commit_apply);
criterion_main!(benches);
