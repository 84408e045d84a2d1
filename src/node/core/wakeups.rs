//! How a step wakes exactly the threads that have something to do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::raft::MemberId;

/// One thread's own condition variable, on the state's mutex. Waking it costs a system call only when its thread
/// sleeps.
#[derive(Default)]
pub(in crate::node) struct Wakeup {
    condvar: Condvar,
    /// Set under the state's lock before sleeping. The thread that wakes it changed the state under the same lock, so
    /// either it sees this flag or the sleeper sees the change.
    is_asleep: AtomicBool,
}

impl Wakeup {
    /// Wakes the thread that sleeps on it. Called without the lock.
    pub(in crate::node) fn wake(&self) {
        if self.is_asleep.swap(false, Ordering::AcqRel) {
            self.condvar.notify_all();
        }
    }

    /// Sleeps until it is woken or `timeout` is over. Spurious returns are possible.
    pub(in crate::node) fn sleep<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        self.is_asleep.store(true, Ordering::Release);
        let (guard, _) = self.condvar.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner);
        self.is_asleep.store(false, Ordering::Release);
        guard
    }
}

/// The wakeups of a node's threads.
#[derive(Default)]
pub(in crate::node) struct ThreadWakeups {
    pub timer: Wakeup,
    pub log_writer: Wakeup,
    pub applier: Wakeup,
    pub forwarder: Wakeup,
    pub read_asker: Wakeup,
    pub snapshotter: Wakeup,
    /// Members come and go.
    peers: RwLock<BTreeMap<MemberId, Arc<PeerWakeups>>>,
}

/// The wakeups of the two threads that serve one peer.
#[derive(Default)]
pub(in crate::node) struct PeerWakeups {
    pub replicator: Wakeup,
    pub sender: Wakeup,
}

/// Which threads one step has to wake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wakeups {
    /// A new deadline is earlier than the time until which the timer sleeps.
    pub timer: bool,
    /// Writes are queued.
    pub log_writer: bool,
    /// Committed entries wait to be applied.
    pub applier: bool,
    /// Writes wait for the leader.
    pub forwarder: bool,
    /// Reads wait for a read index from the leader.
    pub read_asker: bool,
    /// Peers may have to be sent something.
    pub replicators: bool,
    /// A snapshot of the own state is due.
    pub snapshotter: bool,
}

impl Wakeups {
    /// All threads: the node stops.
    pub(in crate::node) const ALL: Wakeups = Wakeups {
        timer: true,
        log_writer: true,
        applier: true,
        forwarder: true,
        read_asker: true,
        replicators: true,
        snapshotter: true,
    };
}

impl ThreadWakeups {
    pub(in crate::node) fn wake(&self, wakeups: Wakeups) {
        let one = [
            (wakeups.log_writer, &self.log_writer),
            (wakeups.applier, &self.applier),
            (wakeups.timer, &self.timer),
            (wakeups.forwarder, &self.forwarder),
            (wakeups.read_asker, &self.read_asker),
            (wakeups.snapshotter, &self.snapshotter),
        ];
        for (_, wakeup) in one.into_iter().filter(|(due, _)| *due) {
            wakeup.wake();
        }
        if wakeups.replicators {
            let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
            for wakeups in peers.values() {
                wakeups.replicator.wake();
                wakeups.sender.wake();
            }
        }
    }

    /// Adds the wakeups of a peer that has no threads yet; `None` when it already has threads.
    pub(in crate::node) fn add_peer(&self, peer: MemberId) -> Option<Arc<PeerWakeups>> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if peers.contains_key(&peer) {
            return None;
        }
        let wakeups = Arc::<PeerWakeups>::default();
        peers.insert(peer, wakeups.clone());
        Some(wakeups)
    }

    /// The replicator of this peer has ended. The sender has the same reason to end, and must not sleep on a wakeup
    /// that nobody can find any more. The peer's identity never comes back.
    pub(in crate::node) fn remove_peer(&self, peer: MemberId) {
        let wakeups = self.peers.write().unwrap_or_else(PoisonError::into_inner).remove(&peer);
        if let Some(wakeups) = wakeups {
            wakeups.sender.wake();
        }
    }

    /// Every peer that has threads.
    pub(in crate::node) fn peers(&self) -> Vec<MemberId> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A replicator ended before its sender and removed the wakeups: the sender slept on, and the node did not stop.
    #[test]
    fn remove_peer_wakes_the_sender_that_sleeps_on_its_wakeup() {
        let (lock, node_wakeups) = (Arc::new(Mutex::new(())), ThreadWakeups::default());
        let wakeups = node_wakeups.add_peer(MemberId(1)).expect("a new peer");
        let (told, tell) = crossbeam_channel::bounded(1);
        let (sleeper_lock, sleeper_wakeups) = (lock.clone(), wakeups.clone());
        let sleeper = std::thread::spawn(move || {
            let guard = sleeper_lock.lock().expect("not poisoned");
            drop(sleeper_wakeups.sender.sleep(guard, Duration::from_secs(120)));
            told.send(()).expect("the test waits");
        });
        while !wakeups.sender.is_asleep.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        // The thread that wakes has held the lock, and the sleeping thread has released it.
        drop(lock.lock().expect("not poisoned"));
        node_wakeups.remove_peer(MemberId(1));
        tell.recv_timeout(Duration::from_secs(30)).expect("it is woken");
        sleeper.join().expect("no panic");
    }
}
