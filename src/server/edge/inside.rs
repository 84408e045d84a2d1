//! How many requests are inside a lane: from their submission until their handler has answered, also when their client was
//! told before that the outcome is unknown. So this number bounds what handlers hold, whatever clients do.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// The places of one lane.
#[derive(Debug)]
pub(super) struct Inside {
    limit: usize,
    taken: AtomicUsize,
    /// Threads that wait for a place. While there are any, a newcomer waits as well.
    waiting: AtomicUsize,
    /// Whether the port has stopped: no place is given any more.
    stopped: Mutex<bool>,
    changed: Condvar,
}

/// One place, given back on drop.
#[derive(Debug)]
pub(super) struct Permit(Arc<Inside>);

impl Inside {
    /// `limit` places.
    pub(super) fn new(limit: usize) -> Inside {
        Inside {
            limit,
            taken: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            stopped: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    /// How many requests are inside.
    pub(super) fn count(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn try_enter(self: &Arc<Self>) -> Option<Permit> {
        let below = |taken| (taken < self.limit).then_some(taken + 1);
        // Sequentially consistent with `waiting`: either a leaver sees the one who waits, or that one sees the place.
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, below).ok()?;
        Some(Permit(Arc::clone(self)))
    }

    /// Takes a place; waits up to `patience` for one. `None`: there was none, or the port stops.
    pub(super) fn enter(self: &Arc<Self>, patience: Duration) -> Option<Permit> {
        if self.waiting.load(Ordering::SeqCst) == 0
            && let Some(permit) = self.try_enter()
        {
            return Some(permit);
        }
        let deadline = Instant::now() + patience;
        let mut stopped = self.stopped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let permit = loop {
            if *stopped {
                break None;
            }
            if let Some(permit) = self.try_enter() {
                break Some(permit);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break None;
            }
            let waited = self.changed.wait_timeout(stopped, left);
            stopped = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        permit
    }

    /// Sends those away that wait for a place.
    pub(super) fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
        self.changed.notify_all();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let inside = &self.0;
        inside.taken.fetch_sub(1, Ordering::SeqCst);
        if inside.waiting.load(Ordering::SeqCst) > 0 {
            // Under the lock: one who has just found no place is in its wait by then.
            drop(inside.stopped.lock());
            inside.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enter_keeps_to_the_limit_and_a_place_that_comes_back_wakes_one() {
        let inside = Arc::new(Inside::new(2));
        let held = [inside.enter(Duration::ZERO), inside.enter(Duration::ZERO)];
        assert!(held.iter().all(Option::is_some) && inside.count() == 2);
        assert!(inside.enter(Duration::from_millis(1)).is_none());
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let wait = || inside.enter(Duration::from_secs(60)).is_some();
            let waiting = [scope.spawn(wait), scope.spawn(wait)];
            while inside.waiting.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
            drop(held);
            assert!(waiting.map(|thread| thread.join().expect("no panic")) == [true, true]);
        });
        assert!(begun.elapsed() < Duration::from_secs(30), "they were not woken");
        assert_eq!((inside.count(), inside.waiting.load(Ordering::SeqCst)), (0, 0));
    }

    #[test]
    fn stop_sends_those_away_who_wait() {
        let inside = Arc::new(Inside::new(1));
        let held = inside.enter(Duration::ZERO);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| inside.enter(Duration::from_secs(60)).is_none());
            while inside.waiting.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            inside.stop();
            assert!(waiting.join().expect("no panic"));
        });
        drop(held);
    }
}
