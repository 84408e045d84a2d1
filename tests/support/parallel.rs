//! A long list of cases, shared by the processors.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Two threads share the items.
pub fn in_parallel<T: Sync>(items: &[T], work: impl Fn(usize, &T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(n) else { return };
                    work(n, item);
                }
            });
        }
    });
}
