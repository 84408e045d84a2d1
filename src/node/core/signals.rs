//! How a step wakes exactly the threads that have something to do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::raft::MemberId;

/// One thread's own condition variable, on the core's mutex. Ringing it costs a system call only when its thread
/// sleeps.
#[derive(Default)]
pub(in crate::node) struct Bell {
    condvar: Condvar,
    /// Set under the core's lock before sleeping. A ringer changed the state under the same lock, so either it sees
    /// this flag or the sleeper sees the change.
    is_asleep: AtomicBool,
}

impl Bell {
    /// Wakes the thread that sleeps on it. Called without the lock.
    pub(in crate::node) fn ring(&self) {
        if self.is_asleep.swap(false, Ordering::AcqRel) {
            self.condvar.notify_all();
        }
    }

    /// Sleeps until it rings or `timeout` is over; may also return for no reason.
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

/// The bells of a node's threads.
#[derive(Default)]
pub(in crate::node) struct Bells {
    pub timer: Bell,
    pub log_writer: Bell,
    pub applier: Bell,
    pub forwarder: Bell,
    pub read_asker: Bell,
    pub snapshotter: Bell,
    /// Members come and go.
    peers: RwLock<BTreeMap<MemberId, Arc<PeerBells>>>,
}

/// The bells of the two threads that serve one peer.
#[derive(Default)]
pub(in crate::node) struct PeerBells {
    pub replicator: Bell,
    pub sender: Bell,
}

/// Which bells one step has to ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rings {
    /// A deadline has come nearer than the timer sleeps.
    pub timer: bool,
    /// Writes are queued.
    pub log_writer: bool,
    /// Committed entries wait.
    pub applier: bool,
    /// Writes wait for the leader.
    pub forwarder: bool,
    /// Reads wait for the leader's word.
    pub read_asker: bool,
    /// Peers may have to be sent something.
    pub replicators: bool,
    /// A snapshot of the own state is due.
    pub snapshotter: bool,
}

impl Rings {
    /// All of them: the node stops.
    pub(in crate::node) const ALL: Rings = Rings {
        timer: true,
        log_writer: true,
        applier: true,
        forwarder: true,
        read_asker: true,
        replicators: true,
        snapshotter: true,
    };
}

impl Bells {
    pub(in crate::node) fn ring(&self, rings: Rings) {
        let one = [
            (rings.log_writer, &self.log_writer),
            (rings.applier, &self.applier),
            (rings.timer, &self.timer),
            (rings.forwarder, &self.forwarder),
            (rings.read_asker, &self.read_asker),
            (rings.snapshotter, &self.snapshotter),
        ];
        for (_, bell) in one.into_iter().filter(|(due, _)| *due) {
            bell.ring();
        }
        if rings.replicators {
            let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
            for bells in peers.values() {
                bells.replicator.ring();
                bells.sender.ring();
            }
        }
    }

    /// The bells of a peer that has no threads yet; `None` when it has.
    pub(in crate::node) fn add_peer(&self, peer: MemberId) -> Option<Arc<PeerBells>> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if peers.contains_key(&peer) {
            return None;
        }
        let bells = Arc::<PeerBells>::default();
        peers.insert(peer, bells.clone());
        Some(bells)
    }

    /// The replicator of this peer has ended. The sender has the same reason to end, and must not sleep on a bell that
    /// nobody can find any more. The peer's identity never comes back.
    pub(in crate::node) fn remove_peer(&self, peer: MemberId) {
        let bells = self.peers.write().unwrap_or_else(PoisonError::into_inner).remove(&peer);
        if let Some(bells) = bells {
            bells.sender.ring();
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

    /// A replicator ended before its sender and took the bells along: the sender slept on, and the node did not stop.
    #[test]
    fn remove_peer_wakes_the_sender_that_sleeps_on_its_bell() {
        let (lock, node_bells) = (Arc::new(Mutex::new(())), Bells::default());
        let bells = node_bells.add_peer(MemberId(1)).expect("a new peer");
        let (told, tell) = crossbeam_channel::bounded(1);
        let (sleeper_lock, sleeper_bells) = (lock.clone(), bells.clone());
        let sleeper = std::thread::spawn(move || {
            let guard = sleeper_lock.lock().expect("not poisoned");
            drop(sleeper_bells.sender.sleep(guard, Duration::from_secs(120)));
            told.send(()).expect("the test waits");
        });
        while !bells.sender.is_asleep.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        // Whoever rings has held the lock, and the sleeper has let go of it.
        drop(lock.lock().expect("not poisoned"));
        node_bells.remove_peer(MemberId(1));
        tell.recv_timeout(Duration::from_secs(30)).expect("it is woken");
        sleeper.join().expect("no panic");
    }
}
