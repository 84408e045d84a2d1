//! What a node counts and measures of itself, for `/metrics`. Plain atomics, changed without any lock held: reading them
//! costs the node nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::request::{FailureKind, WriteResult};
use crate::raft::{Decision, MemberId, Note};
use crate::store::Outcome;

/// Upper bounds of the buckets for durations, in nanoseconds: 50 µs to 10 s.
const DURATION_BOUNDS: [u64; 16] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// Upper bounds of the buckets for sizes of batches.
const SIZE_BOUNDS: [u64; 12] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096];

/// How many observations fell into each bucket, and their sum.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One count for each bound, and a last one for values above all bounds.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// A histogram as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramView {
    /// Each upper bound, inclusive, with the number of observations above the previous bound and up to this one. The
    /// last bound is `u64::MAX`.
    pub buckets: Vec<(u64, u64)>,
    /// Sum of all observations.
    pub sum: u64,
}

impl HistogramView {
    /// How many observations there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

impl Histogram {
    fn new(bounds: &'static [u64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum: AtomicU64::new(0) }
    }

    fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        add(&self.counts[bucket], 1);
        add(&self.sum, value);
    }

    pub(super) fn observe_size(&self, size: usize) {
        self.observe(size as u64);
    }

    pub(super) fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The counts so far.
    pub fn view(&self) -> HistogramView {
        let bounds = self.bounds.iter().copied().chain([u64::MAX]);
        HistogramView { buckets: bounds.zip(self.counts.iter().map(get)).collect(), sum: get(&self.sum) }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Counts of write outcomes, in the order of [`WriteOutcomes::NAMES`].
#[derive(Debug, Default)]
pub struct WriteOutcomes([AtomicU64; WriteOutcomes::NAMES.len()]);

impl WriteOutcomes {
    /// The names of the outcomes.
    pub const NAMES: [&'static str; 12] = [
        "done",
        "precondition_failed",
        "idempotency_mismatch",
        "overloaded",
        "unavailable",
        "too_large",
        "timeout",
        "unknown",
        "unsupported",
        "conflict",
        "unreadable_revision",
        "lease_not_found",
    ];

    fn count(&self, result: &WriteResult) {
        let at = match result {
            Ok(applied) => match &applied.outcome {
                // A comparison that did not hold, and nothing was written for it.
                Outcome::Txn(answer) if !answer.succeeded && answer.written() == (0, 0) => 1,
                Outcome::TxnShort { succeeded: false, puts: 0, deleted: 0, .. } => 1,
                Outcome::Put { .. }
                | Outcome::Deleted { .. }
                | Outcome::Added { .. }
                | Outcome::Txn(_)
                | Outcome::LeaseGranted { .. }
                | Outcome::LeasesRenewed { .. }
                | Outcome::LeasesEnded { .. }
                | Outcome::FloorRaised { .. }
                | Outcome::TxnShort { .. } => 0,
                Outcome::PreconditionFailed { .. } | Outcome::KeyNotFound { .. } => 1,
                Outcome::IdempotencyMismatch => 2,
                Outcome::Overloaded | Outcome::TooManyLeases { .. } => 3,
                Outcome::RangeTooLarge { .. } | Outcome::TxnTooLarge { .. } => 5,
                Outcome::NotAnInteger { .. } | Outcome::OutOfRange { .. } | Outcome::LeaseExists { .. } => 9,
                Outcome::LeaseNotFound { .. } => 11,
                Outcome::Compacted { .. } | Outcome::FutureRevision { .. } => 10,
            },
            Err(failure) => match failure.kind {
                FailureKind::Overloaded => 3,
                FailureKind::Unavailable => 4,
                FailureKind::TooLarge => 5,
                FailureKind::Timeout => 6,
                FailureKind::OutcomeUnknown => 7,
                FailureKind::Unsupported => 8,
            },
        };
        add(&self.0[at], 1);
    }

    /// Each name with its count.
    pub fn view(&self) -> Vec<(&'static str, u64)> {
        WriteOutcomes::NAMES.into_iter().zip(self.0.iter().map(get)).collect()
    }
}

/// The kinds of threads that wait for the core. The replicators and the senders of all peers count as one each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadKind {
    /// Deadlines.
    Timer,
    /// Writes and syncs the log.
    LogWriter,
    /// Sends votes and appends to a peer.
    Replicator,
    /// Sends snapshots to a peer.
    Sender,
    /// Applies committed entries.
    Applier,
    /// Writes snapshots.
    Snapshotter,
    /// Forwards writes to the leader.
    Forwarder,
    /// Asks the leader for read indexes.
    ReadAsker,
}

/// How often the threads of each kind were woken, by an event or by their clock, and how often one of them then found
/// nothing to do: that has cost two context switches for nothing.
#[derive(Debug, Default)]
pub struct WakeupCounts {
    all: [AtomicU64; ThreadKind::NAMES.len()],
    useless: [AtomicU64; ThreadKind::NAMES.len()],
}

impl ThreadKind {
    /// The names of the kinds, in their order.
    pub(crate) const NAMES: [&'static str; 8] =
        ["timer", "log_writer", "replicator", "sender", "applier", "snapshotter", "forwarder", "read_asker"];
}

impl WakeupCounts {
    pub(super) fn count(&self, thread: ThreadKind, found_work: bool) {
        add(&self.all[thread as usize], 1);
        add(&self.useless[thread as usize], u64::from(!found_work));
    }

    /// Each kind of thread with how often it was woken.
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        ThreadKind::NAMES.into_iter().zip(self.all.iter().map(get)).collect()
    }

    /// Each kind of thread with how often it was woken and found nothing to do.
    pub fn useless(&self) -> Vec<(&'static str, u64)> {
        ThreadKind::NAMES.into_iter().zip(self.useless.iter().map(get)).collect()
    }
}

/// What is measured of the RPCs to one peer: votes and appends.
#[derive(Debug)]
pub struct PeerCounters {
    /// Nanoseconds of every RPC that was answered.
    pub rpc: Histogram,
    failures: AtomicU64,
}

impl PeerCounters {
    fn new() -> PeerCounters {
        PeerCounters { rpc: Histogram::new(&DURATION_BOUNDS), failures: AtomicU64::new(0) }
    }

    pub(super) fn count_rpc(&self, took: Duration, is_answered: bool) {
        if is_answered { self.rpc.observe_duration(took) } else { add(&self.failures, 1) }
    }

    /// RPCs that were not answered in time, or whose reply was not a valid answer.
    pub fn failures(&self) -> u64 {
        get(&self.failures)
    }
}

/// Everything a node counts, since the start of the process.
#[derive(Debug)]
pub struct Counters {
    /// Writes answered by this node: writes of its clients and writes forwarded to it.
    pub writes: WriteOutcomes,
    /// Nanoseconds of writing and syncing one batch of the log.
    pub log_sync: Histogram,
    /// Records in one batch of the log.
    pub log_batch: Histogram,
    /// Nanoseconds of applying one batch of entries.
    pub apply: Histogram,
    /// Entries in one applied batch.
    pub apply_batch: Histogram,
    /// Entries in one append that is not empty.
    pub append_batch: Histogram,
    /// Nanoseconds of writing one snapshot.
    pub snapshot: Histogram,
    /// How often the threads that wait for the core were woken.
    pub wakeups: WakeupCounts,
    /// Members come and go.
    peers: RwLock<BTreeMap<MemberId, Arc<PeerCounters>>>,
    pre_elections: AtomicU64,
    elections: AtomicU64,
    elections_won: AtomicU64,
    step_downs: AtomicU64,
    linearizable_reads: AtomicU64,
    stale_reads: AtomicU64,
    peer_reads: AtomicU64,
    failed_reads: AtomicU64,
}

impl Counters {
    pub(super) fn new() -> Counters {
        Counters {
            writes: WriteOutcomes::default(),
            log_sync: Histogram::new(&DURATION_BOUNDS),
            log_batch: Histogram::new(&SIZE_BOUNDS),
            apply: Histogram::new(&DURATION_BOUNDS),
            apply_batch: Histogram::new(&SIZE_BOUNDS),
            append_batch: Histogram::new(&SIZE_BOUNDS),
            snapshot: Histogram::new(&DURATION_BOUNDS),
            wakeups: WakeupCounts::default(),
            peers: RwLock::default(),
            pre_elections: AtomicU64::new(0),
            elections: AtomicU64::new(0),
            elections_won: AtomicU64::new(0),
            step_downs: AtomicU64::new(0),
            linearizable_reads: AtomicU64::new(0),
            stale_reads: AtomicU64::new(0),
            peer_reads: AtomicU64::new(0),
            failed_reads: AtomicU64::new(0),
        }
    }

    // ---- counting --------------------------------------------------------------------------------------------------

    pub(super) fn count_note(&self, note: &Note) {
        match note.what {
            Decision::PreCampaign => add(&self.pre_elections, 1),
            Decision::Campaign => add(&self.elections, 1),
            Decision::Elected(..) => add(&self.elections_won, 1),
            Decision::SteppedDown(_) => add(&self.step_downs, 1),
            _ => {}
        }
    }

    pub(super) fn count_write(&self, result: &WriteResult) {
        self.writes.count(result);
    }

    pub(super) fn count_linearizable_read(&self) {
        add(&self.linearizable_reads, 1);
    }

    pub(super) fn count_stale_read(&self) {
        add(&self.stale_reads, 1);
    }

    pub(super) fn count_peer_read(&self) {
        add(&self.peer_reads, 1);
    }

    pub(super) fn count_failed_read(&self) {
        add(&self.failed_reads, 1);
    }

    /// The counters of one peer. From now on they are shown.
    pub(super) fn add_peer(&self, peer: MemberId) -> Arc<PeerCounters> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.entry(peer).or_insert_with(|| Arc::new(PeerCounters::new())).clone()
    }

    /// The peer is gone for good.
    pub(super) fn remove_peer(&self, peer: MemberId) {
        self.peers.write().unwrap_or_else(PoisonError::into_inner).remove(&peer);
    }

    // ---- reading ---------------------------------------------------------------------------------------------------

    /// How often this node started a pre-vote.
    pub fn pre_elections(&self) -> u64 {
        get(&self.pre_elections)
    }

    /// How often it started an election.
    pub fn elections(&self) -> u64 {
        get(&self.elections)
    }

    /// How often it won an election.
    pub fn elections_won(&self) -> u64 {
        get(&self.elections_won)
    }

    /// How often it stopped leading.
    pub fn step_downs(&self) -> u64 {
        get(&self.step_downs)
    }

    /// Reads by kind: linearizable and stale reads of its clients, and read-index calls of peers.
    pub fn reads(&self) -> [(&'static str, u64); 3] {
        [
            ("linearizable", get(&self.linearizable_reads)),
            ("stale", get(&self.stale_reads)),
            ("for_peer", get(&self.peer_reads)),
        ]
    }

    /// Linearizable reads and read-index calls of peers that got no read index.
    pub fn failed_reads(&self) -> u64 {
        get(&self.failed_reads)
    }

    /// Each peer with its measurements.
    pub fn peers(&self) -> Vec<(MemberId, Arc<PeerCounters>)> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.iter().map(|(&peer, counters)| (peer, counters.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_puts_a_bound_into_its_own_bucket() {
        let sizes = Histogram::new(&SIZE_BOUNDS);
        [0, 1, 2, 3, 4, 4_096, 4_097].into_iter().for_each(|size| sizes.observe_size(size));
        let view = sizes.view();
        assert_eq!(view.buckets[..3], [(1, 2), (2, 1), (4, 2)]);
        assert_eq!(view.buckets[11..], [(4_096, 1), (u64::MAX, 1)]);
        assert_eq!((view.count(), view.sum), (7, 8_203));
    }

    #[test]
    fn histogram_of_durations_counts_nanoseconds() {
        let durations = Histogram::new(&DURATION_BOUNDS);
        durations.observe_duration(Duration::from_micros(50));
        durations.observe_duration(Duration::from_secs(11));
        let view = durations.view();
        assert_eq!((view.buckets[0].1, view.buckets[16].1), (1, 1));
        assert_eq!(view.sum, 11_000_050_000);
    }

    #[test]
    fn bounds_rise() {
        assert!(DURATION_BOUNDS.is_sorted_by(|a, b| a < b) && SIZE_BOUNDS.is_sorted_by(|a, b| a < b));
    }
}
