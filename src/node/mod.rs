//! One running member: the mutex around the core, the named threads that drive it, the requests that wait.
//!
//! One mutex protects [`Raft`] and the requests that wait for it. [`Node::step`](Node) is the only place that changes
//! them: it compares the watermarks before and after, and after unlocking it wakes the threads that have something to
//! do, logs what was decided, and gives the answers that are due. Under the lock there is no I/O, no waiting, no
//! logging. No thread ever holds two locks.
//!
//! | thread | waits for | does |
//! |---|---|---|
//! | `timer` | the next deadline | elections, check-quorum, held replies, overdue requests |
//! | `log-writer` | queued writes | writes all queued writes as one batch, with one sync |
//! | `replicator-NAME` | something to send | one RPC at a time to that peer |
//! | `sender-NAME` | that peer needs a snapshot | sends it piece by piece, while the replicator sends heartbeats |
//! | `applier` | committed entries, an installed snapshot | state machine, then the writes that waited |
//! | `snapshotter` | the log has grown | writes the state into a file, truncates the start of the log |
//! | `receiver` | pieces of a leader's snapshot | writes and loads them |
//! | `housekeeper` | the spare segment was used, segments were cut off | zeroes a new spare, reuses or removes these |
//! | `forwarder`, `read-asker` | requests for the leader | one batched RPC each |
//!
//! A panic in one of these threads, or in any thread that holds the core's or the store's lock, ends the process.

mod administer;
mod boot;
mod core;
pub(crate) mod counters;
mod leases;
mod operator;
mod published_leader;
mod request;
mod requests;
mod status;
mod threads;
mod transport;
mod watches;

/// The data directory of a node: what a start finds in it, and why it cannot be used.
pub mod data_dir {
    pub use super::boot::data_dir::{DataDir, IdentityConfig, Initialized};
    pub use super::boot::error::DataDirError;
    pub use super::boot::open::{Opened, open};
}

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

pub use boot::bootstrap_rpc::{
    BootstrapRecord, BootstrapReply, BootstrapRequest, BootstrapSender, BootstrapTransport, Peer, PeerList,
    StoreGenesis, Uninitialized, UninitializedStep,
};
pub use boot::{bootstrap, fsck, recover, restore};
pub use core::{Effects, Finished, Held, Outgoing, State, StateOptions, Wakeups, Work};
pub use leases::{LEASE_TICK, Lead, LeaseKeeper};
pub use operator::{Newcomer, OperatorReply, OperatorRequest};
pub use published_leader::LeaderChange;
pub use request::{
    AdminFailure, AdminFailureKind, AdminResult, Administered, Administration, BackupResult, Completion,
    Consistency, Failure, FailureKind, Origin, ReadIndexResult, WriteResult,
};
pub use status::{NodeStatus, PeerStatus};
pub use threads::{Applier, LogWriter, Taken, Transfer};
pub use transport::{
    ForwardedResult, ForwardedWrite, LeaderCall, PeerError, PeerReply, PeerRequest, PeerTransport, Priority,
    Target,
};
pub use watches::{Cursor, Most, RevisionSeen, Seen, Watch, Watches};

use crate::raft::{
    Awaits, ClusterId, Decision, Index, MemberId, Membership, Note, NoteLevel, Protocol, Raft, RaftConfig,
    Restored, Settings, SnapshotMeta, Time,
};
use crate::store::Kv;
use crate::store::disk::Disk;
use crate::store::wal::{MAX_LOG_MEMORY_BYTES, Recovered, Wal};
use core::wakeups::{ThreadWakeups, Wakeup};
use counters::{Counters, ThreadKind};
use leases::Renewals;
use published_leader::PublishedLeader;
use threads::guard::{self, AbortOnPanic};
use threads::receiver::{self, Mailbox};
use threads::{applier, forwarder, housekeeper, log_writer, snapshotter, timer};

/// Frames in one append, in bytes.
const MAX_APPEND_BYTES: usize = 1 << 20;

/// Maximum bytes of entries that wait for the disk; above this, proposals are refused.
const MAX_UNPERSISTED_BYTES: usize = 16 << 20;

/// A thread with nothing to wait for checks again after this time.
const LONGEST_SLEEP: Duration = Duration::from_secs(3_600);

/// What a node needs to know in addition to what its disk holds.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The cluster it belongs to.
    pub cluster_id: ClusterId,
    /// Its name.
    pub node_id: String,
    /// Its identity.
    pub member_id: MemberId,
    /// Interval of a leader's heartbeats.
    pub heartbeat: Duration,
    /// The minimum election timeout; also bounds every vote and append RPC as a whole.
    pub election_timeout: Duration,
    /// How long the answer to an append is held to wait for this node's disk.
    pub append_hold: Duration,
    /// A member whose disk is silent for this long neither leads nor campaigns.
    pub disk_stall: Duration,
    /// Seeds the jitter of election timeouts: different on every node.
    pub seed: u64,
    /// A snapshot is due when the log has grown by this many bytes since the last one.
    pub snapshot_log_bytes: u64,
    /// A snapshot is due when this many entries were applied since the last one.
    pub snapshot_log_entries: u64,
    /// The protocol version of the program: [`PROTOCOL`](crate::raft::PROTOCOL), except in tests.
    pub protocol: Protocol,
    /// When set, this node as leader does not raise the version in force.
    pub hold_version: bool,
    /// Checks the core's invariants after every step. Debug builds always do.
    pub check_invariants: bool,
}

/// A peer that says it is not initialized yet, although the membership contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UninitializedPeer {
    /// Its address, and its identity according to the membership.
    pub to: Target,
    /// The name it answered with.
    pub node_id: String,
    /// The identity it answered with. If it differs from the identity in the membership, the peer's data is gone: the
    /// member has to be replaced.
    pub member_id: MemberId,
    /// The latest membership at this node.
    pub latest: Arc<Membership>,
}

/// Called for every RPC that was answered `uninitialized`, by the thread that sent the RPC and before that thread
/// sends its next RPC. It may itself make a call to that peer.
pub type OnUninitialized = Box<dyn Fn(UninitializedPeer) + Send + Sync>;

/// Called, perhaps more than once, when a committed change has removed this member: the process must end.
pub type OnRemoved = Box<dyn Fn() + Send + Sync>;

/// Called when a committed change of the membership was applied, with what says whether a member was removed.
pub type OnMembersChanged = Box<dyn Fn(&dyn Fn(MemberId) -> bool) + Send + Sync>;

/// Callbacks to the code that runs the node.
pub struct Listeners {
    /// A peer is not initialized yet.
    pub on_uninitialized: OnUninitialized,
    /// This member was removed.
    pub on_removed: OnRemoved,
    /// Other members may have been removed.
    pub on_members_changed: OnMembersChanged,
}

/// What a node starts with: everything its data directory holds.
pub struct Stored {
    /// The directory itself, for snapshots.
    pub disk: Arc<dyn Disk>,
    /// The open log.
    pub wal: Wal,
    /// What the log holds after the snapshot.
    pub recovered: Recovered,
    /// The newest snapshot, loaded.
    pub snapshot: Option<(SnapshotMeta, Kv)>,
}

/// One running member.
pub struct Node {
    options: NodeOptions,
    clock: Clock,
    state: Mutex<State>,
    wakeups: ThreadWakeups,
    published_leader: PublishedLeader,
    /// Written by the applier only; readers hold the lock for at most one page.
    kv: RwLock<Kv>,
    transport: Arc<dyn PeerTransport>,
    listeners: Listeners,
    disk: Arc<dyn Disk>,
    /// Pieces of snapshots that wait for the receiver.
    pieces: Mailbox,
    /// Renewals that wait for each other.
    renewals: Renewals,
    watches: Arc<Watches>,
    /// When the cluster time of the state was the time of now, as far as this node can tell. Kept while there are leases.
    stamped_at: Mutex<Instant>,
    /// Snapshots of a leader that were received and loaded, by their last index; the applier takes them.
    received: Mutex<BTreeMap<Index, Kv>>,
    /// Held while old snapshots are removed.
    pruning: Mutex<()>,
    syncs: AtomicU64,
    /// How often this node asked whether it was removed.
    removal_asks: AtomicU64,
    counters: Counters,
    /// Set before it transfers its leadership, long before its threads end.
    is_stopping: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Dropped when the node stops; every thread holds a clone.
    alive: Mutex<Option<Sender<()>>>,
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
    /// This work.
    Do(T),
    /// Nothing before this time, unless it is woken for something that it awaits.
    SleepUntil(Time, Awaits),
}

impl<T> Next<T> {
    /// Nothing before `at`, unless it is woken.
    fn sleep_until(at: Time) -> Next<T> {
        Next::SleepUntil(at, Awaits::Everything)
    }
}

impl Node {
    /// Starts a member with what its data directory holds, all of it synced. The log begins with the genesis entry, or
    /// where the snapshot ends.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(
        options: NodeOptions,
        stored: Stored,
        transport: Arc<dyn PeerTransport>,
        listeners: Listeners,
    ) -> io::Result<Arc<Node>> {
        let Stored { disk, wal, recovered, snapshot } = stored;
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
            max_log_memory_bytes: MAX_LOG_MEMORY_BYTES,
            snapshot_log_bytes: options.snapshot_log_bytes,
            snapshot_log_entries: options.snapshot_log_entries,
            protocol: options.protocol,
            hold_version: options.hold_version,
        };
        let (snapshot, mut kv) = snapshot.unwrap_or_else(|| {
            (SnapshotMeta { last: recovered.base, ..SnapshotMeta::default() }, Kv::new(Settings::default()))
        });
        kv.set_program(options.protocol);
        let restored = Restored {
            hard_state: recovered.hard_state,
            snapshot,
            snapshot_bytes: kv.size().bytes + kv.size().superseded_bytes,
            left: recovered.left,
            entries: recovered.entries,
            log_bytes: recovered.bytes_after,
        };
        let raft = Raft::new(config, restored, clock.now());
        let membership = raft.membership().clone();
        let state = State::new(
            raft,
            StateOptions {
                heartbeat: options.heartbeat,
                election_timeout: options.election_timeout,
                check_invariants: options.check_invariants || cfg!(debug_assertions),
            },
        );
        let (alive, ended) = bounded(0);
        let (pieces, inbox) = receiver::mailbox();
        let node = Arc::new(Node {
            options,
            clock,
            state: Mutex::new(state),
            wakeups: ThreadWakeups::default(),
            published_leader: PublishedLeader::new(),
            kv: RwLock::new(kv),
            transport,
            listeners,
            disk,
            pieces,
            renewals: Renewals::new(),
            watches: Arc::default(),
            stamped_at: Mutex::new(Instant::now()),
            received: Mutex::default(),
            pruning: Mutex::default(),
            syncs: AtomicU64::new(0),
            removal_asks: AtomicU64::new(0),
            counters: Counters::new(),
            is_stopping: AtomicBool::new(false),
            threads: Mutex::new(Vec::new()),
            alive: Mutex::new(Some(alive)),
            ended,
        });
        match node.spawn_threads(wal, inbox).and_then(|()| node.ensure_peer_threads(&membership)) {
            Ok(()) => {
                // The snapshot may already say that this member was removed: that entry is not applied again.
                node.look_for_removal();
                Ok(node)
            }
            Err(e) => {
                node.stop(Duration::ZERO);
                Err(e)
            }
        }
    }

    /// This node has bootstrapped its cluster just now, so there is no leader to wait for.
    pub fn begin_first_term(self: &Arc<Node>) {
        self.step(|state, now| state.raft.begin_first_term(now));
    }

    fn spawn_threads(self: &Arc<Node>, mut wal: Wal, inbox: receiver::Inbox) -> io::Result<()> {
        // A channel with room for one message; the log writer holds the sending end.
        let (wake, wakeups) = bounded(1);
        if let Some(preparer) = wal.take_preparer() {
            self.spawn("housekeeper", move |_| housekeeper::run(&wakeups, preparer))?;
        }
        self.spawn("log-writer", move |node| log_writer::run(node, wal, &wake))?;
        self.spawn("applier", applier::run)?;
        self.spawn("timer", timer::run)?;
        self.spawn("lease-keeper", leases::run)?;
        self.spawn("notifier", watches::run)?;
        self.spawn("forwarder", forwarder::run_forwarder)?;
        self.spawn("read-asker", forwarder::run_read_asker)?;
        self.spawn("snapshotter", snapshotter::run)?;
        self.spawn("receiver", move |node| receiver::run(node, inbox))
    }

    /// Starts one of the node's threads. Nothing happens when the node has stopped.
    fn spawn(self: &Arc<Node>, name: &str, body: impl FnOnce(&Arc<Node>) + Send + 'static) -> io::Result<()> {
        let Some(alive) = lock(&self.alive).clone() else { return Ok(()) };
        let node = self.clone();
        let thread = guard::spawn(name.to_owned(), alive, move || body(&node))?;
        let mut threads = lock(&self.threads);
        // Members come and go: threads that have ended are not kept.
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Says that the process is stopping: what its peers do from now on is nothing that its log warns of, and who watches
    /// goes on at another node.
    pub fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.watches.stop();
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Stops: waiting requests are answered (unfinished writes: unknown), queued writes reach the disk, the log is
    /// sealed, the threads end. Returns whether all threads had ended within `grace`; a thread that is still inside
    /// an RPC ends when the RPC does.
    pub fn stop(self: &Arc<Node>, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        self.begin_stop();
        self.step(|state, _| {
            state.is_stopping = true;
            state.waiters.fail_all();
        });
        lock(&self.alive).take();
        self.wakeups.wake_all();
        self.pieces.stop();
        self.renewals.stop();
        for peer in self.wakeups.peers() {
            self.transport.cancel(peer, LeaderCall::Forward);
            self.transport.cancel(peer, LeaderCall::ReadIndex);
        }
        // Nothing is ever sent: the channel ends with the last thread.
        let has_ended =
            self.ended.recv_deadline(deadline) == Err(crossbeam_channel::RecvTimeoutError::Disconnected);
        if has_ended {
            for thread in std::mem::take(&mut *lock(&self.threads)) {
                // A panic in a thread has ended the process already.
                let _ = thread.join();
            }
            self.transport.say_goodbye();
        }
        has_ended
    }

    // ---- the store -------------------------------------------------------------------------------------------------

    /// Reads the state machine, for at most one page.
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

    /// Changes the state; only this function and [`Node::wait`] do. Locks, changes, computes the effects, unlocks,
    /// then wakes threads, logs and answers.
    fn step<T>(self: &Arc<Node>, change: impl FnOnce(&mut State, Time) -> T) -> T {
        let (value, effects) = {
            let mut state = lock(&self.state);
            let _abort = AbortOnPanic::holding("state's lock");
            let now = self.clock.now();
            state.step(now, |state| change(state, now))
        };
        self.carry_out(effects);
        value
    }

    /// Waits on `wakeup` until `poll` returns something to do; taking that work is a step like any other.
    fn wait<T>(self: &Arc<Node>, wakeup: &Wakeup, mut poll: impl FnMut(&mut State, Time) -> Next<T>) -> T {
        let (value, effects) = {
            let mut state = self.let_others_add(lock(&self.state), wakeup.thread);
            let mut has_slept = false;
            loop {
                let next = {
                    let _abort = AbortOnPanic::holding("state's lock");
                    let now = self.clock.now();
                    let before = state.raft.watermarks();
                    match poll(&mut state, now) {
                        Next::Do(value) => Ok((value, state.finish_step(&before, now))),
                        Next::SleepUntil(at, awaits) => Err((at.since(now), awaits)),
                    }
                };
                if has_slept {
                    self.counters.wakeups.count(wakeup.thread, next.is_ok());
                }
                match next {
                    Ok(done) => break done,
                    Err((sleep, awaits)) => {
                        state = wakeup.sleep(state, sleep.min(LONGEST_SLEEP), awaits);
                        state = self.let_others_add(state, wakeup.thread);
                    }
                }
                has_slept = true;
            }
        };
        self.carry_out(effects);
        value
    }

    /// A thread that takes everything that has come together first lets the threads run that are about to add more:
    /// one sync, or one RPC, is then shared by more writes. With a single request nobody adds anything.
    fn let_others_add<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        thread: ThreadKind,
    ) -> MutexGuard<'a, State> {
        let gathers = matches!(thread, ThreadKind::LogWriter | ThreadKind::Replicator);
        if !gathers || state.waiters.len() < 2 {
            return state;
        }
        drop(state);
        std::thread::yield_now();
        lock(&self.state)
    }

    /// Reads the state without changing it.
    fn look<T>(&self, look: impl FnOnce(&State, Time) -> T) -> T {
        let state = lock(&self.state);
        let _abort = AbortOnPanic::holding("state's lock");
        look(&state, self.clock.now())
    }

    fn carry_out(self: &Arc<Node>, effects: Effects) {
        if let Some(change) = effects.leader_change {
            self.published_leader.publish(change);
        }
        // Before any thread is woken: a call that begins now must not be cancelled together with the old calls.
        effects.cancels.into_iter().for_each(|(peer, call)| self.transport.cancel(peer, call));
        if effects.membership_changed
            && let Err(e) = self.ensure_peer_threads(&effects.membership)
        {
            guard::die(&format!("cannot start a thread for a new member: {e}"));
        }
        self.wakeups.wake(effects.wakeups);
        for note in &effects.notes {
            self.counters.count_note(note);
            log_note(note, &effects.membership, self.is_stopping());
        }
        for finished in effects.finished {
            finished.count(&self.counters);
            finished.answer();
        }
    }

    /// The membership in force.
    pub fn membership(&self) -> Arc<Membership> {
        self.look(|state, _| state.raft.membership().clone())
    }

    /// What it has counted and measured since the start of the process.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn count_sync(&self) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }
}

fn log_note(note: &Note, membership: &Membership, is_stopping: bool) {
    let level = match note.level() {
        // It leads until its process ends, which costs the others an election; `Server::stop` says so.
        NoteLevel::Warn if is_stopping && matches!(note.what, Decision::TransferFailed(_)) => {
            log::Level::Info
        }
        NoteLevel::Debug => log::Level::Debug,
        NoteLevel::Info => log::Level::Info,
        NoteLevel::Warn => log::Level::Warn,
    };
    log::log!(level, "{}", note.with_names(membership));
}

/// Ignores poisoning: a panic under the lock has already ended the process.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
