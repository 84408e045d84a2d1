//! Where the members stand: a cluster has some more seats than it began with members, and who sits on one comes and goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What the rig knows of one seat. The cluster may be a step further, or not as far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// Nobody sits there: no process, an empty directory.
    Absent,
    /// Started with `--join`; no voter yet, as far as anybody has seen.
    Joining,
    /// A voter.
    Member,
    /// Its removal was asked for. The process runs until it is told.
    Leaving,
    /// Its data is gone. It starts again as a new identity under an existing name, until it has been replaced by
    /// itself.
    Lost,
}

/// Every seat of a cluster, and whether somebody sits there, for threads that only want to know that.
#[derive(Clone)]
pub struct Seats {
    stands: Vec<Stand>,
    taken: Arc<[AtomicBool]>,
}

impl Seats {
    /// So many seats, the first of them taken by members.
    pub fn new(count: usize, members: usize) -> Seats {
        let stand = |n| if n < members { Stand::Member } else { Stand::Absent };
        let stands: Vec<Stand> = (0..count).map(stand).collect();
        let taken = stands.iter().map(|&stand| AtomicBool::new(stand != Stand::Absent)).collect();
        Seats { stands, taken }
    }

    /// Where it stands.
    pub fn stand(&self, n: usize) -> Stand {
        self.stands[n]
    }

    /// Lets it stand there.
    pub fn set(&mut self, n: usize, stand: Stand) {
        self.stands[n] = stand;
        self.taken[n].store(stand != Stand::Absent, Relaxed);
    }

    /// Which are taken, now and later.
    pub fn taken(&self) -> Arc<[AtomicBool]> {
        self.taken.clone()
    }

    /// Those that stand there.
    pub fn that(&self, stand: Stand) -> Vec<usize> {
        (0..self.stands.len()).filter(|&n| self.stands[n] == stand).collect()
    }

    /// Whether nobody comes or goes.
    pub fn are_quiet(&self) -> bool {
        self.stands.iter().all(|stand| matches!(stand, Stand::Absent | Stand::Member))
    }
}
