//! What a port counts, for `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a gate has let in and what not, since its start. Changed without a lock.
#[derive(Debug, Default)]
pub(super) struct GateCounters {
    /// Connections being served.
    pub open: AtomicU64,
    /// Connections accepted, those turned away included.
    pub accepted: AtomicU64,
    /// Connections above the cap.
    pub turned_away: AtomicU64,
    /// Requests refused before anybody else saw them: malformed, too large or too slow.
    pub refused: AtomicU64,
}

/// A port as a scrape sees it. Holds nothing of the server but its counters.
pub struct PortCounters {
    name: &'static str,
    gate: Arc<GateCounters>,
    /// Of each lane, how many of its requests are parked.
    parked: Vec<Arc<AtomicUsize>>,
    panics: Arc<AtomicU64>,
}

/// What a port has counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortStats {
    /// Open connections.
    pub connections: u64,
    /// Connections accepted, those turned away included.
    pub accepted: u64,
    /// Connections above the cap.
    pub turned_away: u64,
    /// Requests that the gate refused.
    pub refused: u64,
    /// Requests parked at the moment.
    pub parked: u64,
    /// Panics survived.
    pub panics: u64,
}

impl PortCounters {
    pub(super) fn new(
        name: &'static str,
        gate: Arc<GateCounters>,
        parked: Vec<Arc<AtomicUsize>>,
        panics: Arc<AtomicU64>,
    ) -> PortCounters {
        PortCounters { name, gate, parked, panics }
    }

    /// The port's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The counts so far.
    pub fn stats(&self) -> PortStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PortStats {
            connections: get(&self.gate.open),
            accepted: get(&self.gate.accepted),
            turned_away: get(&self.gate.turned_away),
            refused: get(&self.gate.refused),
            parked: parked(&self.parked) as u64,
            panics: get(&self.panics),
        }
    }
}

/// How many requests are parked, over all lanes.
pub(super) fn parked(lanes: &[Arc<AtomicUsize>]) -> usize {
    lanes.iter().map(|parked| parked.load(Ordering::Relaxed)).sum()
}
