//! What a port counts, for `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::LaneShared;
use crate::server::gate::GateCounters;

/// A port as a scrape sees it. Holds nothing of the server but its counters.
pub struct PortCounters {
    name: &'static str,
    gate: Arc<GateCounters>,
    lanes: Vec<Arc<LaneShared>>,
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
        lanes: Vec<Arc<LaneShared>>,
        panics: Arc<AtomicU64>,
    ) -> PortCounters {
        PortCounters { name, gate, lanes, panics }
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
            parked: parked(&self.lanes) as u64,
            panics: get(&self.panics),
        }
    }
}

/// How many requests of these lanes are parked.
pub(super) fn parked(lanes: &[Arc<LaneShared>]) -> usize {
    lanes.iter().map(|lane| lane.parked.load(Ordering::Relaxed)).sum()
}
