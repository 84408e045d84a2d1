//! How a step wakes exactly the threads that have something to do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::node::counters::ThreadKind;
use crate::raft::{Awaits, MemberId};

/// One thread's own condition variable, on the state's mutex. Waking it costs a system call only when its thread
/// sleeps and awaits the event.
pub(in crate::node) struct Wakeup {
    condvar: Condvar,
    /// `AWAKE`, or what the sleeping thread awaits. Set under the state's lock before sleeping. The thread that wakes
    /// it changed the state under the same lock, so either it sees this value or the sleeper sees the change.
    asleep: AtomicU8,
    /// Whose it is, to be counted.
    pub thread: ThreadKind,
}

const AWAKE: u8 = 0;

fn asleep(awaits: Awaits) -> u8 {
    awaits as u8 + 1
}

impl Wakeup {
    pub(in crate::node) fn of(thread: ThreadKind) -> Wakeup {
        Wakeup { condvar: Condvar::new(), asleep: AtomicU8::new(AWAKE), thread }
    }

    /// Wakes the thread that sleeps on it, whatever the thread awaits. Called without the lock.
    pub(in crate::node) fn wake(&self) {
        self.wake_for(Awaits::Nothing);
    }

    /// Wakes the thread that sleeps on it, if the thread awaits this or more. Called without the lock.
    pub(in crate::node) fn wake_for(&self, event: Awaits) {
        let seen = self.asleep.load(Ordering::Acquire);
        // When another thread was faster, the sleeper wakes, or it has looked at the state since the event.
        if seen >= asleep(event)
            && self.asleep.compare_exchange(seen, AWAKE, Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            self.condvar.notify_all();
        }
    }

    /// Sleeps until it is woken for something that it awaits, or `timeout` is over. Spurious returns are possible.
    pub(in crate::node) fn sleep<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
        awaits: Awaits,
    ) -> MutexGuard<'a, T> {
        self.asleep.store(asleep(awaits), Ordering::Release);
        let (guard, _) = self.condvar.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner);
        self.asleep.store(AWAKE, Ordering::Release);
        guard
    }
}

/// The wakeups of a node's threads.
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

impl Default for ThreadWakeups {
    fn default() -> ThreadWakeups {
        ThreadWakeups {
            timer: Wakeup::of(ThreadKind::Timer),
            log_writer: Wakeup::of(ThreadKind::LogWriter),
            applier: Wakeup::of(ThreadKind::Applier),
            forwarder: Wakeup::of(ThreadKind::Forwarder),
            read_asker: Wakeup::of(ThreadKind::ReadAsker),
            snapshotter: Wakeup::of(ThreadKind::Snapshotter),
            peers: RwLock::default(),
        }
    }
}

/// The wakeups of the two threads that serve one peer. Each thread has its own: a new entry concerns the replicator
/// alone, and the sender needs a snapshot to send.
pub(in crate::node) struct PeerWakeups {
    pub replicator: Wakeup,
    pub sender: Wakeup,
}

impl Default for PeerWakeups {
    fn default() -> PeerWakeups {
        PeerWakeups { replicator: Wakeup::of(ThreadKind::Replicator), sender: Wakeup::of(ThreadKind::Sender) }
    }
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
    /// Peers may have to be sent something: wakes the replicators that await this or more.
    pub replicators: Option<Awaits>,
    /// A peer began to need a snapshot.
    pub senders: bool,
    /// A snapshot of the own state is due.
    pub snapshotter: bool,
}

impl ThreadWakeups {
    /// Wakes the threads that a step has found work for.
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
            wakeup.wake_for(Awaits::Everything);
        }
        if wakeups.replicators.is_none() && !wakeups.senders {
            return;
        }
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        for peer in peers.values() {
            if let Some(event) = wakeups.replicators {
                peer.replicator.wake_for(event);
            }
            if wakeups.senders {
                peer.sender.wake_for(Awaits::Everything);
            }
        }
    }

    /// The node stops: wakes every thread, whatever it awaits.
    pub(in crate::node) fn wake_all(&self) {
        let one = [
            &self.log_writer,
            &self.applier,
            &self.timer,
            &self.forwarder,
            &self.read_asker,
            &self.snapshotter,
        ];
        one.into_iter().for_each(Wakeup::wake);
        for peer in self.peers.read().unwrap_or_else(PoisonError::into_inner).values() {
            peer.replicator.wake();
            peer.sender.wake();
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

    /// Lets a thread sleep on `wakeup` and reports through the channel that it was woken.
    fn sleeper(
        lock: &Arc<Mutex<()>>,
        wakeup: &Arc<Wakeup>,
        awaits: Awaits,
    ) -> crossbeam_channel::Receiver<()> {
        let (told, tell) = crossbeam_channel::bounded(1);
        let (sleeper_lock, sleeper_wakeup) = (lock.clone(), wakeup.clone());
        std::thread::spawn(move || {
            let guard = sleeper_lock.lock().expect("not poisoned");
            drop(sleeper_wakeup.sleep(guard, Duration::from_secs(120), awaits));
            told.send(()).expect("the test waits");
        });
        while wakeup.asleep.load(Ordering::Acquire) == AWAKE {
            std::thread::yield_now();
        }
        // The thread that wakes has held the lock, and the sleeping thread has released it.
        drop(lock.lock().expect("not poisoned"));
        tell
    }

    /// A peer that did not answer was paused for a heartbeat, and meanwhile every new entry woke its replicator.
    #[test]
    fn an_event_wakes_only_a_thread_that_awaits_it() {
        use Awaits::{AllButEntries, Everything, Nothing};
        for (awaits, passed, woken_by) in [
            (Nothing, vec![Everything, AllButEntries], Nothing),
            (AllButEntries, vec![Everything], AllButEntries),
            (Everything, vec![], Everything),
        ] {
            let (lock, wakeup) = (Arc::new(Mutex::new(())), Arc::new(Wakeup::of(ThreadKind::Replicator)));
            let woken = sleeper(&lock, &wakeup, awaits);
            for event in passed {
                wakeup.wake_for(event);
                assert_ne!(wakeup.asleep.load(Ordering::Acquire), AWAKE, "{awaits:?}: {event:?}");
            }
            assert!(woken.try_recv().is_err(), "{awaits:?}");
            wakeup.wake_for(woken_by);
            woken.recv_timeout(Duration::from_secs(30)).expect("it is woken");
        }
    }

    /// A replicator ended before its sender and removed the wakeups: the sender slept on, and the node did not stop.
    #[test]
    fn remove_peer_wakes_the_sender_that_sleeps_on_its_wakeup() {
        let (lock, node_wakeups) = (Arc::new(Mutex::new(())), ThreadWakeups::default());
        let wakeups = node_wakeups.add_peer(MemberId(1)).expect("a new peer");
        let (told, tell) = crossbeam_channel::bounded(1);
        let (sleeper_lock, sleeper_wakeups) = (lock.clone(), wakeups.clone());
        let sleeper = std::thread::spawn(move || {
            let guard = sleeper_lock.lock().expect("not poisoned");
            drop(sleeper_wakeups.sender.sleep(guard, Duration::from_secs(120), Awaits::Everything));
            told.send(()).expect("the test waits");
        });
        while wakeups.sender.asleep.load(Ordering::Acquire) == AWAKE {
            std::thread::yield_now();
        }
        // The thread that wakes has held the lock, and the sleeping thread has released it.
        drop(lock.lock().expect("not poisoned"));
        node_wakeups.remove_peer(MemberId(1));
        tell.recv_timeout(Duration::from_secs(30)).expect("it is woken");
        sleeper.join().expect("no panic");
    }
}
