//! One running member: the mutex around the core, the named threads that drive it, the requests that wait.
//!
//! [`Raft`] and the requests that wait for it sit behind one mutex, and [`Node::step`](Node) is the only place that
//! changes them: it compares the watermarks before and after, and when it has unlocked again it rings the threads that
//! have something to do, logs what was decided, and gives the answers that are due. Under the lock there is no I/O, no
//! waiting, no logging. No thread ever holds two locks.
//!
//! | thread | waits for | does |
//! |---|---|---|
//! | `timer` | the next deadline | elections, check-quorum, held replies, overdue requests |
//! | `log-writer` | queued writes | all of them as one batch, one sync |
//! | `replicator-NAME` | something to send | one RPC at a time to that peer |
//! | `applier` | committed entries | state machine, then the writes that waited |
//! | `housekeeper` | a used-up spare segment | zeroes the next one |
//! | `forwarder`, `read-asker` | requests for the leader | one batched RPC each |
//!
//! A panic in any of them, or in any thread that holds the core's or the store's lock, ends the process.

mod answers;
mod applier;
pub mod birth;
pub mod counters;
mod forwarder;
pub mod founding;
mod hand_over;
mod housekeeper;
mod log_writer;
mod replicator;
mod request;
mod signals;
mod status;
mod step;
mod threads;
mod timer;
mod transport;
pub mod verify;
mod waiters;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

pub use applier::Applier;
pub use hand_over::{
    FoundReply, FoundRequest, FoundTransport, HandOver, HandOvers, Peer, PeerList, StoreFound, Unborn,
    UnbornStep,
};
pub use log_writer::LogWriter;
pub use request::{Completion, Consistency, Failure, FailureKind, Origin, WriteResult};
pub use signals::Rings;
pub use status::{NodeStatus, PeerStatus};
pub use step::{Core, CoreOptions, Effects, Outgoing};
pub use transport::{
    ForwardedResult, ForwardedWrite, Lane, PeerError, PeerReply, PeerRequest, PeerTransport, ReadIndexResult,
    Target,
};
pub use waiters::{Finished, Parked, Work};

use crate::raft::{
    ClusterId, MemberId, Membership, Note, NoteLevel, Raft, RaftConfig, Restored, Settings, SnapshotMeta,
    Time,
};
use crate::store::Kv;
use crate::store::wal::{Recovered, Wal};
use counters::Counters;
use signals::{Bell, Bells};
use threads::AbortOnPanic;

/// Frames in one append, in bytes.
const MAX_APPEND_BYTES: usize = 1 << 20;

/// Entries on their way to the disk, in bytes: beyond, proposals are refused.
const MAX_UNPERSISTED_BYTES: usize = 16 << 20;

/// A thread with nothing to wait for looks again after so long.
const LONGEST_SLEEP: Duration = Duration::from_secs(3_600);

/// What a node needs to know besides what its disk holds.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The cluster it belongs to.
    pub cluster_id: ClusterId,
    /// Its name.
    pub node_id: String,
    /// Its identity.
    pub member_id: MemberId,
    /// How often a leader is heard.
    pub heartbeat: Duration,
    /// The minimum election timeout; also bounds every vote and append RPC as a whole.
    pub election_timeout: Duration,
    /// How long the answer to an append is held for the own disk.
    pub append_hold: Duration,
    /// A disk silent for so long neither leads nor campaigns.
    pub disk_stall: Duration,
    /// Seeds the jitter of election timeouts: different on every node.
    pub seed: u64,
    /// Checks the core's invariants after every step. Debug builds always do.
    pub check_invariants: bool,
}

/// A peer that says it is not born yet, although the membership has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnbornPeer {
    /// Where it is, and its identity as the membership has it.
    pub to: Target,
    /// The name it answered with.
    pub node_id: String,
    /// The identity it answered with. Another one than the membership's means that its data is gone: the member has to
    /// be replaced.
    pub member_id: MemberId,
}

/// Told of every RPC that was answered `unborn`, by the thread that sent it and before its next one: may make a call of
/// its own to that peer.
pub type OnUnborn = Box<dyn Fn(UnbornPeer) + Send + Sync>;

type ThreadBody = Box<dyn FnOnce(&Arc<Node>) + Send>;

/// One running member.
pub struct Node {
    options: NodeOptions,
    clock: Clock,
    core: Mutex<Core>,
    bells: Bells,
    /// Written by the applier only; readers hold it for at most one page.
    kv: RwLock<Kv>,
    transport: Arc<dyn PeerTransport>,
    on_unborn: OnUnborn,
    syncs: AtomicU64,
    counters: Counters,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Disconnected once every thread has ended.
    ended: Receiver<()>,
}

/// This process's monotonic clock.
struct Clock {
    start: Instant,
}

impl Clock {
    fn now(&self) -> Time {
        self.at(Instant::now())
    }

    fn at(&self, instant: Instant) -> Time {
        Time(0) + instant.saturating_duration_since(self.start)
    }
}

/// What a thread does next.
enum Next<T> {
    /// This.
    Do(T),
    /// Nothing before this time, unless its bell rings.
    SleepUntil(Time),
}

impl Node {
    /// Starts a member with what recovery found, all of it synced. The log begins with the found entry, or where a
    /// snapshot ends.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(
        options: NodeOptions,
        wal: Wal,
        recovered: Recovered,
        transport: Arc<dyn PeerTransport>,
        on_unborn: OnUnborn,
    ) -> io::Result<Arc<Node>> {
        let clock = Clock { start: Instant::now() };
        let config = RaftConfig {
            me: options.member_id,
            election_timeout: options.election_timeout,
            heartbeat: options.heartbeat,
            append_hold: options.append_hold,
            disk_stall: options.disk_stall,
            seed: options.seed,
            max_append_bytes: MAX_APPEND_BYTES,
            max_unpersisted_bytes: MAX_UNPERSISTED_BYTES,
        };
        let restored = Restored {
            hard_state: recovered.hard_state,
            snapshot: SnapshotMeta { last: recovered.base, ..SnapshotMeta::default() },
            entries: recovered.entries,
        };
        let raft = Raft::new(config, restored, clock.now());
        let peers: Vec<(MemberId, String)> = raft
            .membership()
            .members
            .iter()
            .filter(|m| m.member_id != options.member_id)
            .map(|m| (m.member_id, m.node_id.clone()))
            .collect();
        let core = Core::new(
            raft,
            CoreOptions {
                heartbeat: options.heartbeat,
                election_timeout: options.election_timeout,
                check_invariants: options.check_invariants || cfg!(debug_assertions),
            },
        );
        let (alive, ended) = bounded(0);
        let node = Arc::new(Node {
            options,
            clock,
            core: Mutex::new(core),
            bells: Bells {
                replicators: peers.iter().map(|&(id, _)| (id, Bell::default())).collect(),
                ..Bells::default()
            },
            kv: RwLock::new(Kv::new(Settings::default())),
            transport,
            on_unborn,
            syncs: AtomicU64::new(0),
            counters: Counters::new(peers.iter().map(|&(id, _)| id)),
            threads: Mutex::new(Vec::new()),
            ended,
        });
        match node.spawn_threads(wal, peers, &alive) {
            Ok(()) => Ok(node),
            Err(e) => {
                node.stop(Duration::ZERO);
                Err(e)
            }
        }
    }

    fn spawn_threads(
        self: &Arc<Node>,
        mut wal: Wal,
        peers: Vec<(MemberId, String)>,
        alive: &Sender<()>,
    ) -> io::Result<()> {
        let spawn = |name: &str, body: ThreadBody| {
            let node = self.clone();
            let thread = threads::spawn(name.to_owned(), alive.clone(), move || body(&node))?;
            lock(&self.threads).push(thread);
            Ok::<(), io::Error>(())
        };
        // A channel of one, whose end is the log writer's.
        let (ring, rings) = bounded(1);
        if let Some(preparer) = wal.take_preparer() {
            spawn("housekeeper", Box::new(move |_| housekeeper::run(&rings, preparer)))?;
        }
        spawn("log-writer", Box::new(move |node| log_writer::run(node, wal, &ring)))?;
        spawn("applier", Box::new(applier::run))?;
        spawn("timer", Box::new(timer::run))?;
        spawn("forwarder", Box::new(forwarder::run_forwarder))?;
        spawn("read-asker", Box::new(forwarder::run_read_asker))?;
        for (peer, node_id) in peers {
            spawn(&format!("replicator-{node_id}"), Box::new(move |node| replicator::run(node, peer)))?;
        }
        Ok(())
    }

    /// Stops: requests that wait are answered (writes under way: unknown), queued writes reach the disk, the log is
    /// sealed, the threads end. Returns whether all of them had ended within `grace`; one that is still inside an RPC
    /// ends with it.
    pub fn stop(&self, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        self.step(|core, _| {
            core.is_stopping = true;
            core.waiters.fail_all();
        });
        self.bells.ring(Rings::ALL);
        self.bells.replicators.keys().for_each(|&peer| self.transport.cancel(peer));
        // Nothing is ever sent: the channel ends with the last thread.
        let has_ended =
            self.ended.recv_deadline(deadline) == Err(crossbeam_channel::RecvTimeoutError::Disconnected);
        if has_ended {
            for thread in std::mem::take(&mut *lock(&self.threads)) {
                // A panic in a thread has ended the process already.
                let _ = thread.join();
            }
        }
        has_ended
    }

    // ---- the store -------------------------------------------------------------------------------------------------

    /// Looks at the state machine, for at most a page.
    pub fn with_kv<R>(&self, look: impl FnOnce(&Kv) -> R) -> R {
        let kv = self.kv.read().unwrap_or_else(PoisonError::into_inner);
        let _abort = AbortOnPanic::holding("store's lock");
        look(&kv)
    }

    fn with_kv_mut<R>(&self, change: impl FnOnce(&mut Kv) -> R) -> R {
        let mut kv = self.kv.write().unwrap_or_else(PoisonError::into_inner);
        let _abort = AbortOnPanic::holding("store's lock");
        change(&mut kv)
    }

    // ---- the core --------------------------------------------------------------------------------------------------

    /// Changes the state: the only place that does, together with [`Node::wait`]. Locks, changes, draws the
    /// consequences, unlocks, then wakes threads, logs and answers.
    fn step<T>(&self, change: impl FnOnce(&mut Core, Time) -> T) -> T {
        let (value, effects) = {
            let mut core = lock(&self.core);
            let _abort = AbortOnPanic::holding("core's lock");
            let now = self.clock.now();
            core.step(now, |core| change(core, now))
        };
        self.carry_out(effects);
        value
    }

    /// Waits on `bell` until `poll` has something to do; taking it is a step like any other.
    fn wait<T>(&self, bell: &Bell, mut poll: impl FnMut(&mut Core, Time) -> Next<T>) -> T {
        let (value, effects) = {
            let mut core = lock(&self.core);
            loop {
                let next = {
                    let _abort = AbortOnPanic::holding("core's lock");
                    let now = self.clock.now();
                    let before = core.raft.watermarks();
                    match poll(&mut core, now) {
                        Next::Do(value) => Ok((value, core.finish_step(&before, now))),
                        Next::SleepUntil(at) => Err(at.since(now)),
                    }
                };
                match next {
                    Ok(done) => break done,
                    Err(sleep) => core = bell.sleep(core, sleep.min(LONGEST_SLEEP)),
                }
            }
        };
        self.carry_out(effects);
        value
    }

    /// Looks at the state without changing it.
    fn look<T>(&self, look: impl FnOnce(&Core, Time) -> T) -> T {
        let core = lock(&self.core);
        let _abort = AbortOnPanic::holding("core's lock");
        look(&core, self.clock.now())
    }

    fn carry_out(&self, effects: Effects) {
        // Before anybody is woken: a call that begins now must not be cancelled with the old ones.
        effects.cancels.into_iter().for_each(|peer| self.transport.cancel(peer));
        self.bells.ring(effects.rings);
        for note in &effects.notes {
            self.counters.count_note(note);
            log_note(note, &effects.membership);
        }
        for finished in effects.finished {
            finished.count(&self.counters);
            finished.answer();
        }
    }

    /// The membership in force.
    pub fn membership(&self) -> Arc<Membership> {
        self.look(|core, _| core.raft.membership().clone())
    }

    /// What it has counted and measured since the start of the process.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn count_sync(&self) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }
}

fn log_note(note: &Note, membership: &Membership) {
    let level = match note.level() {
        NoteLevel::Debug => log::Level::Debug,
        NoteLevel::Info => log::Level::Info,
        NoteLevel::Warn => log::Level::Warn,
    };
    log::log!(level, "{}", note.with_names(membership));
}

/// A poisoned lock is taken as it is: whoever panicked inside has ended the process.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
