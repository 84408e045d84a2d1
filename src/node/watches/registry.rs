//! Who watches which keys, and what they were told.
//!
//! A watcher has a [`Bell`]. When a key that it watches changes, its bell notes the first revision that it has not seen.
//! It reads the changes from the store itself. So a watcher costs no queue, and a slow one holds nobody up.
//!
//! Invariants:
//! 1. Every change up to [`Watches::told`] has touched the bells of its watchers before that number said so. So a watcher
//!    that reads the number first and then finds its bell untouched has missed nothing up to there.
//! 2. A watcher enters between two rounds of telling: what came before, up to the number that it is given, it reads for
//!    itself, and what comes after touches it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::ranges::Ranges;
use super::watch::Watch;
use crate::node::lock;
use crate::store::{FIRST_REVISION, Kv};
use crate::vocabulary::Keys;

/// Rows of the index of changes that one round goes through: the store is held no longer than for a page.
const TOLD_ROWS: usize = 2_000;

/// Nothing has touched the bell.
const UNTOUCHED: u64 = u64::MAX;

/// Wakes one watcher.
#[derive(Debug)]
pub(super) struct Bell {
    /// The first revision that touched it since its watcher looked.
    first: AtomicU64,
    is_rung: Mutex<bool>,
    rung: Condvar,
}

impl Bell {
    fn new() -> Bell {
        Bell { first: AtomicU64::new(UNTOUCHED), is_rung: Mutex::new(false), rung: Condvar::new() }
    }

    /// A change at this revision is to be seen. Whether it must be rung: one that was touched already has been.
    fn touch(&self, revision: u64) -> bool {
        self.first.fetch_min(revision, Ordering::AcqRel) == UNTOUCHED
    }

    fn ring(&self) {
        *lock(&self.is_rung) = true;
        self.rung.notify_one();
    }

    /// The first revision that touched it, which is forgotten with this.
    pub(super) fn take(&self) -> Option<u64> {
        Some(self.first.swap(UNTOUCHED, Ordering::AcqRel)).filter(|&first| first != UNTOUCHED)
    }

    /// Waits until it is rung, or was, or the time is over. It may end early.
    pub(super) fn wait(&self, until: Instant) {
        let mut is_rung = lock(&self.is_rung);
        if !*is_rung {
            let left = until.saturating_duration_since(Instant::now());
            is_rung =
                self.rung.wait_timeout(is_rung, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        *is_rung = false;
    }
}

#[derive(Debug)]
struct Registry {
    keys: HashMap<Vec<u8>, Vec<(u64, Arc<Bell>)>>,
    ranges: Ranges<Arc<Bell>>,
    next_id: u64,
}

/// The watches of one node.
#[derive(Debug)]
pub struct Watches {
    registry: Mutex<Registry>,
    /// How many there are; changed under the registry's lock.
    count: AtomicUsize,
    /// Every change up to this revision was told.
    told: AtomicU64,
    /// Whether there may be something to tell.
    news: Mutex<bool>,
    has_news: Condvar,
    is_stopping: AtomicBool,
}

impl Watches {
    /// Nobody watches yet.
    pub fn new() -> Watches {
        let registry = Registry { keys: HashMap::new(), ranges: Ranges::new(), next_id: 0 };
        Watches {
            registry: Mutex::new(registry),
            count: AtomicUsize::new(0),
            told: AtomicU64::new(FIRST_REVISION),
            news: Mutex::new(false),
            has_news: Condvar::new(),
            is_stopping: AtomicBool::new(false),
        }
    }

    /// How many watches there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// A watcher begins: its number and its bell. `revision` says the store's revision whenever it is called. None when
    /// there would be more than `most` watches.
    pub(super) fn enter(
        &self,
        watches: &[Watch],
        most: usize,
        revision: impl FnOnce() -> u64,
    ) -> Option<(u64, Arc<Bell>)> {
        let mut registry = lock(&self.registry);
        let before = self.count.load(Ordering::SeqCst);
        if before + watches.len() > most {
            return None;
        }
        self.count.store(before + watches.len(), Ordering::SeqCst);
        if before == 0 {
            // Nobody was told anything lately. Whoever applies sees the new count from now on; everything before is in
            // this revision.
            self.told.store(revision(), Ordering::SeqCst);
        }
        let (bell, id) = (Arc::new(Bell::new()), registry.next_id);
        registry.next_id += 1;
        for watch in watches {
            match &watch.keys {
                Keys::One(key) => registry.keys.entry(key.clone()).or_default().push((id, bell.clone())),
                Keys::Range(range) => registry.ranges.insert(range.clone(), id, bell.clone()),
            }
        }
        let from = watches.iter().map(|watch| watch.from).min().unwrap_or(UNTOUCHED);
        if from <= self.told.load(Ordering::SeqCst) {
            // Nobody waits for it yet.
            bell.touch(from);
        }
        Some((id, bell))
    }

    /// A cursor is gone.
    pub(super) fn forget(&self, id: u64, watches: &[Watch]) {
        let mut registry = lock(&self.registry);
        for watch in watches {
            match &watch.keys {
                Keys::One(key) => {
                    if let Some(bells) = registry.keys.get_mut(key) {
                        bells.retain(|(other, _)| *other != id);
                        if bells.is_empty() {
                            registry.keys.remove(key);
                        }
                    }
                }
                Keys::Range(range) => registry.ranges.remove(range, id),
            }
        }
        self.count.fetch_sub(watches.len(), Ordering::SeqCst);
    }

    /// Every change up to this revision has touched its watchers.
    pub(super) fn told(&self) -> u64 {
        self.told.load(Ordering::Acquire)
    }

    /// Tells the watchers what changed since the last round, or a part of it. `with_kv` reads the store. Whether there may
    /// be more.
    pub fn tell(&self, with_kv: impl FnOnce(&mut dyn FnMut(&Kv))) -> bool {
        let mut registry = lock(&self.registry);
        let told = self.told.load(Ordering::Acquire);
        let (mut through, mut touched) = (told, Vec::new());
        with_kv(&mut |kv| through = registry.touch(kv, told + 1, &mut touched));
        self.told.store(through.max(told), Ordering::Release);
        // Without the store's lock: to wake a thousand threads takes a while.
        touched.iter().for_each(|bell| bell.ring());
        through > told
    }

    /// Entries were applied: if anybody watches, the notifier looks. Called without the store's lock, after it was
    /// given back.
    pub(in crate::node) fn note_applied(&self) {
        if self.count() > 0 {
            *lock(&self.news) = true;
            self.has_news.notify_one();
        }
    }

    /// Waits for news. False: the node stops.
    pub(super) fn wait_for_news(&self) -> bool {
        let mut news = lock(&self.news);
        while !*news && !self.is_stopping() {
            news = self.has_news.wait(news).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        *news = false;
        !self.is_stopping()
    }

    /// Ends all watches, each with a last word.
    pub(in crate::node) fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        *lock(&self.news) = true;
        self.has_news.notify_one();
        let registry = lock(&self.registry);
        registry.bells().for_each(|bell| bell.ring());
    }

    /// Whether the node stops.
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }
}

impl Default for Watches {
    fn default() -> Watches {
        Watches::new()
    }
}

impl Registry {
    /// Touches the watchers of what changed from `from` on, for at most [`TOLD_ROWS`] rows and to the end of a revision.
    /// Those that must be rung are added to `touched`. Returns the last revision that was told.
    fn touch(&mut self, kv: &Kv, from: u64, touched: &mut Vec<Arc<Bell>>) -> u64 {
        let Ok(changed) = kv.changed(from) else {
            // The floor has passed what was to be told: all watchers look for themselves, and say what they miss.
            touched.extend(self.bells().filter(|bell| bell.touch(from)).cloned());
            return kv.revision();
        };
        let mut touch = |bell: &Arc<Bell>, revision| {
            if bell.touch(revision) {
                touched.push(bell.clone());
            }
        };
        let mut last = from - 1;
        for (seen, (revision, key)) in changed.enumerate() {
            if seen >= TOLD_ROWS && revision > last {
                return last;
            }
            last = revision;
            if let Some(bells) = self.keys.get(key) {
                bells.iter().for_each(|(_, bell)| touch(bell, revision));
            }
            self.ranges.holding(key, &mut |bell| touch(bell, revision));
        }
        kv.revision()
    }

    fn bells(&self) -> impl Iterator<Item = &Arc<Bell>> {
        self.keys.values().flatten().map(|(_, bell)| bell).chain(self.ranges.iter())
    }
}
