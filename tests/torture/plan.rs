//! What a seed draws for a cluster.

use fastrand::Rng;

use super::kind::{ALWAYS, Kind, Machine, NETWORK_KINDS, PROCESS_KINDS, REAL_KINDS};

/// A cluster and its rounds.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Draws everything else.
    pub seed: u64,
    /// Members at first.
    pub size: usize,
    /// How many there may be at a time.
    pub seats: usize,
    /// Lines of each member's configuration.
    pub settings: String,
    /// What is between the members.
    pub wire: Wire,
    /// The member whose data directory can be full.
    pub small_disk: Option<usize>,
    /// Rounds before the cluster is replaced.
    pub rounds: usize,
}

/// What is between the members of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Nothing: a dead member refuses connections.
    Plain,
    /// A proxy for each.
    Proxies,
    /// A network of their own.
    Namespaces,
}

/// One round.
#[derive(Clone, Debug)]
pub struct RoundPlan {
    /// Draws what happens in it.
    pub seed: u64,
    /// Client threads.
    pub clients: usize,
    /// Keys in use at a time.
    pub keys: u64,
    /// Operations of a generation of keys: then others are taken, so that the search stays short.
    pub generation: u64,
    /// What is done to processes, over and over; the first `first` of them in any case.
    pub process: Vec<Kind>,
    /// How many must have been done before the round ends.
    pub first: usize,
    /// What is done to the network, over and over; may be empty.
    pub network: Vec<Kind>,
}

impl Plan {
    /// What `seed` says.
    pub fn draw(seed: u64, machine: &Machine, is_long: bool) -> Plan {
        let mut rng = Rng::with_seed(seed);
        let size = if rng.u8(0..3) < 2 || !is_long { [3, 5][rng.usize(0..2)] } else { 5 };
        let has_small_disk = rng.u8(0..3) == 0 && machine.lacks(Kind::FullDisk).is_none();
        let election = [300, 300, 500, 1_000][rng.usize(0..4)];
        let has_namespaces = machine.lacks(Kind::RealCut).is_none();
        let wire = match rng.u8(0..10) {
            0..2 if is_long && has_namespaces => Wire::Namespaces,
            2..4 if is_long => Wire::Plain,
            _ => Wire::Proxies,
        };
        let seats = (size + 1).max(if is_long { rng.usize(4..=6) } else { 0 });
        // Mostly so little log that it is cut all the time.
        let (entries, bytes) = match rng.u8(0..5) {
            0 if is_long => (1_000_000, 64 << 20),
            _ => ([60, 200, 600][rng.usize(0..3)], [32 << 10, 256 << 10, 64 << 20][rng.usize(0..3)]),
        };
        let settings = format!(
            "heartbeat_ms: {}\nelection_timeout_ms: {election}\nrequest_timeout_ms: {}\nsegment_bytes: {}\n\
             snapshot_log_entries: {entries}\nsnapshot_log_bytes: {bytes}\nretention_revisions: {}\n\
             idempotency_window_s: {}\n\
             debug: {{ check_invariants: {} }}\n\
             limits: {{ max_requests_inside: 64, max_parked: 48 }}\nlog: {{ level: {} }}\n",
            election / 6,
            [800, 2_000, 5_000][rng.usize(0..3)],
            [64 << 10, 256 << 10, 1 << 20][rng.usize(0..3)],
            // A snapshot is written when the log has half of what the one before it has: not too much history.
            [100_000, 6_000, 1_000, 1_000][rng.usize(0..4)],
            [600, 60, 60][rng.usize(0..3)],
            rng.bool(),
            ["info", "info", "debug"][rng.usize(0..3)],
        );
        Plan {
            seed,
            size,
            seats,
            settings,
            wire,
            small_disk: has_small_disk.then(|| rng.usize(0..size)),
            rounds: if has_small_disk || !is_long { 1 } else { rng.usize(2..=4) },
        }
    }

    /// What happens in its round number `n`.
    pub fn round(&self, n: usize, machine: &Machine, is_long: bool) -> RoundPlan {
        let mut rng = Rng::with_seed(self.seed.wrapping_mul(1_000).wrapping_add(n as u64 + 1));
        let possible = |kind: &Kind| {
            machine.lacks(*kind).is_none() && (*kind != Kind::FullDisk || self.small_disk.is_some())
        };
        // Not every round has everything: some faults hide others.
        let mut process: Vec<Kind> = PROCESS_KINDS.into_iter().filter(possible).collect();
        rng.shuffle(&mut process);
        process.truncate(rng.usize(6..=12));
        let mut first: Vec<Kind> = if is_long { Vec::new() } else { ALWAYS.to_vec() };
        if self.small_disk.is_some() {
            first.push(Kind::FullDisk);
        }
        rng.shuffle(&mut first);
        process.retain(|kind| !first.contains(kind));
        let count = first.len();
        first.append(&mut process);
        let mut network = match self.wire {
            Wire::Plain => Vec::new(),
            Wire::Proxies => NETWORK_KINDS.to_vec(),
            Wire::Namespaces => REAL_KINDS.to_vec(),
        };
        rng.shuffle(&mut network);
        network.truncate(rng.usize(2..=7));
        if is_long && rng.u8(0..6) == 0 {
            network.clear();
        }
        RoundPlan {
            seed: rng.u64(..),
            clients: [8, 12, 16, 24, 32][rng.usize(0..5)],
            keys: rng.u64(4..=12),
            generation: rng.u64(600..=1_500),
            process: first,
            first: count,
            network,
        }
    }
}
