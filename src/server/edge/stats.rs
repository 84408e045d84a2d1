//! What a port counts, for `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::inside::Inside;

/// What an edge has let in and what not, since its start. Changed without a lock.
#[derive(Debug, Default)]
pub(super) struct EdgeCounters {
    /// Connections being served.
    pub open: AtomicU64,
    /// Connections accepted, those turned away included.
    pub accepted: AtomicU64,
    /// Connections above the cap.
    pub turned_away: AtomicU64,
    /// Requests refused before anybody else saw them: malformed, too large or too slow.
    pub refused: AtomicU64,
    /// Answers dropped with their connections: their clients took them too slowly, or too many did.
    pub answers_dropped: Arc<AtomicU64>,
    /// Connections to tiny_http that broke and were replaced.
    pub upstreams_broken: Arc<AtomicU64>,
}

/// A port as a scrape sees it. Holds nothing of the server but its counters.
pub struct PortCounters {
    name: &'static str,
    edge: Arc<EdgeCounters>,
    /// Of each lane, how many of its requests are waiting.
    waiting: Vec<Arc<AtomicUsize>>,
    /// Of each lane, its requests.
    inside: Vec<Arc<Inside>>,
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
    /// Requests that the edge refused.
    pub refused: u64,
    /// Requests inside at the moment.
    pub inside: u64,
    /// Requests waiting at the moment.
    pub waiting: u64,
    /// Answers dropped with their connections.
    pub answers_dropped: u64,
    /// Connections to tiny_http that broke.
    pub upstreams_broken: u64,
    /// Panics survived.
    pub panics: u64,
}

impl PortCounters {
    pub(super) fn new(
        name: &'static str,
        edge: Arc<EdgeCounters>,
        waiting: Vec<Arc<AtomicUsize>>,
        inside: Vec<Arc<Inside>>,
        panics: Arc<AtomicU64>,
    ) -> PortCounters {
        PortCounters { name, edge, waiting, inside, panics }
    }

    /// The port's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The counts so far.
    pub fn stats(&self) -> PortStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PortStats {
            connections: get(&self.edge.open),
            accepted: get(&self.edge.accepted),
            turned_away: get(&self.edge.turned_away),
            refused: get(&self.edge.refused),
            inside: inside(&self.inside) as u64,
            waiting: waiting(&self.waiting) as u64,
            answers_dropped: get(&self.edge.answers_dropped),
            upstreams_broken: get(&self.edge.upstreams_broken),
            panics: get(&self.panics),
        }
    }
}

/// How many requests are waiting, over all lanes.
pub(super) fn waiting(lanes: &[Arc<AtomicUsize>]) -> usize {
    lanes.iter().map(|waiting| waiting.load(Ordering::Relaxed)).sum()
}

/// How many requests are inside, over all lanes.
pub(super) fn inside(lanes: &[Arc<Inside>]) -> usize {
    lanes.iter().map(|inside| inside.count()).sum()
}
