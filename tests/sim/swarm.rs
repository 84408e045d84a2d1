//! What one seed draws before its run begins: the size of the cluster, its timings, and which kinds of faults exist in
//! it with which rates. Runs that lack some kinds of faults reach states that runs with all of them never do.

use dkv::raft::Settings;
use dkv::store::wal::WalOptions;

/// Independent streams of one seed, so that taking one more number from one does not move the others.
#[derive(Clone, Copy, Debug)]
pub enum Stream {
    Swarm = 1,
    Net,
    Disk,
    Clock,
    Schedule,
    Load,
    Nemesis,
    Elections,
    Operator,
    Programs,
    Memory,
    Words,
    Operations,
    Leases,
    Watches,
}

impl Stream {
    /// The generator of this stream (splitmix64 of seed and stream as its seed).
    pub fn rng(self, seed: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(mix(mix(seed) ^ self as u64))
    }
}

/// The finaliser of splitmix64: neighbouring seeds become unrelated ones.
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a control run does to itself, so that its detectors have something to detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Every link is cut while a situation stands in which writes must go on.
    CutAll,
    /// One read of the history shows a value that had been replaced before the read began.
    StaleRead,
}

/// No message is under way for longer.
pub const LONGEST_DELAY_US: u64 = 60_000_000;

/// Rates of the network's misbehaviour, each a probability per RPC. Times in microseconds.
#[derive(Clone, Debug)]
pub struct NetFaults {
    pub delay_mean_us: u64,
    /// How often a message takes the long way, and how long that is on average.
    pub tail: f64,
    pub tail_mean_us: u64,
    pub lose_request: f64,
    pub lose_reply: f64,
    pub duplicate: f64,
    /// How often a request is kept and delivered once more much later.
    pub replay: f64,
}

/// Which kinds of faults the nemesis may choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    CrashOne,
    CrashMany,
    CrashAll,
    Cut,
    /// The leader is cut off; soon after the next one is elected everybody dies, and all meet again.
    Depose,
    /// A member's links, or one link, come and go.
    Flap,
    /// A member that is slow to apply, and perhaps to write, is left alone until the others are far ahead.
    Strand,
    /// Everything that takes one link takes long.
    Clog,
    /// A process stands still, as by SIGSTOP.
    Pause,
    /// A whole machine stands still, its monotonic clock included.
    Suspend,
    /// The timer of a process gets no time, its other threads do.
    Starve,
    SlowDisk,
    StallDisk,
    /// A disk operation never ends: the process gives itself up after 30 s.
    HangDisk,
    /// A write or a sync fails.
    FailDisk,
    /// There is no room for the next segment.
    FillDisk,
    /// A bit flips in what was synced and sealed.
    Rot,
    /// The operator changes the membership.
    Change,
    /// The operator asks for a leadership transfer.
    Transfer,
    /// A machine loses its disk.
    Wipe,
    /// Members are told that their leader's process has ended, and it lives.
    FalseAlarm,
}

const KINDS: [Kind; 20] = [
    Kind::CrashOne,
    Kind::CrashMany,
    Kind::CrashAll,
    Kind::Cut,
    Kind::Depose,
    Kind::Flap,
    Kind::Strand,
    Kind::Clog,
    Kind::Pause,
    Kind::Suspend,
    Kind::Starve,
    Kind::SlowDisk,
    Kind::StallDisk,
    Kind::HangDisk,
    Kind::FailDisk,
    Kind::FillDisk,
    Kind::Rot,
    Kind::Change,
    Kind::Transfer,
    Kind::Wipe,
];

/// How many of the members that a dead process had links to learn of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Nobody,
    One,
    Some,
    Everybody,
}

/// How words of lost links travel.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    pub told: Told,
    /// From the death to the look at who listens.
    pub delay_mean_us: u64,
    /// How often the core is told much later than that.
    pub late: f64,
}

/// What stands for a long time after the chaos, while writes must go on (promise P6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A shape of the network in which a majority is connected pairwise.
    Majority,
    /// A shape in which only one member, whose log is up to date, reaches a majority.
    Hub,
    /// A majority is left in peace; everybody else, and every link to them, is not.
    Hostile,
}

/// Everything that is decided before a run. Times in microseconds.
#[derive(Clone, Debug)]
pub struct Swarm {
    pub seed: u64,
    /// Members run this program or the next one, and change in the middle.
    pub mixes_programs: bool,
    /// ... and are told to hold the version until half of the chaos is over; so long a member may go back.
    pub hold_version: bool,
    /// Initial members.
    pub voters: usize,
    /// Machines that may join later.
    pub joiners: usize,
    pub election_timeout_us: u64,
    pub heartbeat_us: u64,
    pub disk_stall_us: u64,
    pub max_append_bytes: usize,
    pub max_unpersisted_bytes: usize,
    /// Memory that the entries of a log may take before those leave it that are on the disk.
    pub max_log_memory_bytes: usize,
    /// Size of a segment of the log.
    pub segment_bytes: u64,
    /// Entries between two snapshots.
    pub snapshot_entries: u64,
    /// Bytes of a piece of a snapshot on its way.
    pub piece_bytes: usize,
    pub settings: Settings,
    pub net: NetFaults,
    /// Mean of an ordinary sync.
    pub sync_mean_us: u64,
    /// How late a thread may wake.
    pub wake_max_us: u64,
    /// How long the applier may take.
    pub apply_max_us: u64,
    /// Whether the members' clocks run at different rates, 0.9 to 1.1.
    pub clocks_drift: bool,
    pub kinds: Vec<Kind>,
    /// Mean time between two acts of the nemesis.
    pub nemesis_mean_us: u64,
    /// How likely a crash is a power loss rather than the death of a process.
    pub power_loss: f64,
    pub chaos_us: u64,
    /// What follows the chaos, and for how long.
    pub standing: Option<Standing>,
    pub standing_us: u64,
    /// Syncs say done and do nothing. Never drawn: for control runs.
    pub disks_lie: bool,
    /// Never drawn: for control runs.
    pub sabotage: Option<Sabotage>,
    /// What the disks hold is compared with what was synced. Always drawn true.
    pub disks_are_watched: bool,
    pub words: Words,
    pub clients: usize,
    pub keys: u64,
    pub think_mean_us: u64,
    /// How likely a write carries an idempotency key.
    pub keyed: f64,
    pub operations: Operations,
}

/// What its clients ask for besides the rest. Each makes the search for a linearization long, and all of them together
/// more than the sum: so a run has some of them.
#[derive(Clone, Copy, Debug)]
pub struct Operations {
    pub transactions: bool,
    pub additions: bool,
    pub version_conditions: bool,
    /// Holders of leases.
    pub leases: bool,
    /// Watchers.
    pub watches: bool,
}

impl Swarm {
    /// How the members' logs are written, and how much of them comes into memory at a start.
    pub fn wal_options(&self) -> WalOptions {
        WalOptions { segment_bytes: self.segment_bytes, max_memory_bytes: self.max_log_memory_bytes }
    }

    /// The draw of this seed.
    pub fn draw(seed: u64) -> Swarm {
        let mut rng = Stream::Swarm.rng(seed);
        let t = rng.u64(100..=400) * 1_000;
        let joiners = if rng.bool() { rng.usize(1..=3) } else { 0 };
        let voters = match joiners {
            0 => [1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7][rng.usize(0..12)],
            _ => [1, 2, 3, 3, 3, 4, 5, 5][rng.usize(0..8)],
        };
        let mut rate = |max: f64| if rng.bool() { rng.f64() * max } else { 0.0 };
        let (tail, lose_request, lose_reply) = (rate(0.1), rate(0.15), rate(0.15));
        let (duplicate, replay) = (rate(0.2), rate(0.05));
        let net = NetFaults {
            delay_mean_us: t / [4_000, 400, 60, 12][rng.usize(0..4)] + 20,
            tail,
            tail_mean_us: [t * rng.u64(1..=8), t * rng.u64(1..=8), LONGEST_DELAY_US / 4][rng.usize(0..3)],
            lose_request,
            lose_reply,
            duplicate,
            replay,
        };
        let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| rng.u8(0..3) > 0).collect();
        // Changes are often refused and mostly slow: more of them.
        let changes = kinds.contains(&Kind::Change) && joiners > 0;
        kinds.retain(|kind| joiners > 0 || !matches!(kind, Kind::Change | Kind::Wipe));
        kinds.extend(std::iter::repeat_n(Kind::Change, if changes { 6 } else { 0 }));
        let strands = kinds.contains(&Kind::Strand);
        kinds.extend(std::iter::repeat_n(Kind::Strand, if strands { 2 } else { 0 }));
        // After everything else, with a stream of its own.
        let mut links = Stream::Words.rng(seed);
        let words = Words {
            told: [Told::Nobody, Told::One, Told::Some, Told::Everybody, Told::Everybody][links.usize(0..5)],
            delay_mean_us: [20, 500, t / 20][links.usize(0..3)],
            late: [0.0, 0.0, 0.5][links.usize(0..3)],
        };
        if links.bool() {
            kinds.extend([Kind::FalseAlarm; 2]);
        }
        let settings = Settings {
            retention_revisions: [3, 50, 100_000][rng.usize(0..3)],
            // Two keys are more than half of the least one: their range is too large to be removed at once.
            retention_bytes: [250, 32 << 20][rng.usize(0..2)],
            idempotency_rows: [4, 200, 1_000_000][rng.usize(0..3)],
            idempotency_bytes: [0, 300, 64 << 20][rng.usize(0..3)],
            // Longer than any run: that a retry is never executed twice can be asserted.
            idempotency_window_s: 100_000,
        };
        let keys = rng.u64(1..=4);
        let mut asked = Stream::Operations.rng(seed);
        let mut programs = Stream::Programs.rng(seed);
        let mixes_programs = programs.bool();
        let hold_version = mixes_programs && programs.bool();
        Swarm {
            seed,
            mixes_programs,
            hold_version,
            voters,
            joiners,
            election_timeout_us: t,
            heartbeat_us: t / rng.u64(3..=12),
            disk_stall_us: t * rng.u64(3..=8),
            max_append_bytes: [1, 300, 4_000, 1 << 20][rng.usize(0..4)],
            max_unpersisted_bytes: [16 << 20, 16 << 20, 150, 600][rng.usize(0..4)],
            max_log_memory_bytes: [0, 0, 1_000, usize::MAX][Stream::Memory.rng(seed).usize(0..4)],
            segment_bytes: [8 << 10, 16 << 10, 64 << 10][rng.usize(0..3)],
            snapshot_entries: [rng.u64(5..=20), rng.u64(5..=20), rng.u64(20..=200), u64::MAX]
                [rng.usize(0..4)],
            piece_bytes: [100, 700, 256 << 10][rng.usize(0..3)],
            settings,
            net,
            sync_mean_us: t / [1_000, 200, 50, 10][rng.usize(0..4)] + 20,
            wake_max_us: [1, 50, 2_000][rng.usize(0..3)],
            apply_max_us: [1, t / 50, t][rng.usize(0..3)],
            clocks_drift: rng.bool(),
            kinds,
            nemesis_mean_us: t * rng.u64(2..=10),
            power_loss: [0.0, 0.5, 1.0][rng.usize(0..3)],
            chaos_us: 2 * t * [rng.u64(8..=30), rng.u64(8..=30), rng.u64(60..=90)][rng.usize(0..3)],
            standing: match rng.u8(0..12) {
                0 => Some(Standing::Majority),
                1 => Some(Standing::Hub),
                2 => Some(Standing::Hostile),
                _ => None,
            },
            standing_us: 2 * t * 60,
            disks_lie: false,
            sabotage: None,
            disks_are_watched: true,
            words,
            // More writers at once of keys that are searched together than that, and the linearizability checker, which
            // believes no revision, has too many orders to try. Removals of ranges and transactions tie pairs of keys
            // together.
            clients: [rng.usize(1..=6), rng.usize(1..=6), 20][rng.usize(0..3)]
                .min(4 * keys.div_ceil(2) as usize),
            keys,
            think_mean_us: t / [100, 10, 2][rng.usize(0..3)],
            keyed: [0.0, 0.5, 1.0][rng.usize(0..3)],
            operations: Operations {
                transactions: asked.u8(0..3) == 0,
                additions: asked.u8(0..3) == 0,
                version_conditions: asked.u8(0..3) == 0,
                leases: asked.u8(0..3) == 0,
                watches: asked.u8(0..3) == 0,
            },
        }
    }

    /// All machines.
    pub fn machines(&self) -> usize {
        self.voters + self.joiners
    }

    /// The longest election timeout of a member whose clock is right.
    pub fn max_election_timeout_us(&self) -> u64 {
        2 * self.election_timeout_us
    }
}

/// A time drawn from an exponential distribution, at least one microsecond.
pub fn exponential(rng: &mut fastrand::Rng, mean_us: u64) -> u64 {
    let draw = -(1.0 - rng.f64()).ln() * mean_us as f64;
    (draw as u64).max(1)
}
