//! What leases mean, as plainly as it can be said: a list of them, and the keys of one are the rows that name it.

use dkv::vocabulary::{LeaseId, Outcome, PutLease};

use super::{Model, State};

/// Most leases that there may be.
const MAX_LEASES: usize = 100_000;

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    pub ttl_s: u64,
    /// When its time is over, in microseconds of cluster time.
    pub deadline_us: u64,
    /// Whether it goes with the last key that leaves it.
    pub is_own: bool,
}

/// All leases.
pub type Leases = Vec<Lease>;

/// Begins one at `now_us`.
pub fn begin(leases: &mut Leases, id: LeaseId, ttl_s: u64, is_own: bool, now_us: u64) -> Result<(), Outcome> {
    if leases.iter().any(|lease| lease.id == id) {
        return Err(Outcome::LeaseExists { lease: id });
    }
    if leases.len() >= MAX_LEASES {
        return Err(Outcome::TooManyLeases { max_leases: MAX_LEASES as u64 });
    }
    leases.push(Lease { id, ttl_s, deadline_us: now_us + ttl_s * 1_000_000, is_own });
    Ok(())
}

/// The lease that a key has after a put, and what becomes of the leases.
pub fn of_put(
    leases: &mut Leases,
    put: PutLease,
    row: Option<Option<LeaseId>>,
    revision: u64,
    now_us: u64,
) -> Result<Option<LeaseId>, Outcome> {
    match (put, row) {
        (PutLease::None, _) => Ok(None),
        (PutLease::Attach(id), _) if leases.iter().any(|lease| lease.id == id) => Ok(Some(id)),
        (PutLease::Attach(id), _) => Err(Outcome::LeaseNotFound { lease: id }),
        (PutLease::Own { lease, ttl_s }, _) => {
            begin(leases, lease, ttl_s, true, now_us).map(|()| Some(lease))
        }
        (PutLease::Keep, Some(now)) => Ok(now),
        (PutLease::Keep, None) => Err(Outcome::KeyNotFound { revision }),
    }
}

/// Drops those that go with their last key.
pub fn sweep(leases: &mut Leases, state: &State) {
    leases.retain(|lease| !lease.is_own || state.values().any(|row| row.lease == Some(lease.id)));
}

#[allow(dead_code)] // Each test uses its part.
impl Model {
    /// The leases that there are, by their names.
    pub fn leases(&self) -> Leases {
        let mut all = self.leases.clone();
        all.sort_by_key(|lease| lease.id);
        all
    }

    /// The keys of one.
    pub fn keys_of(&self, id: LeaseId) -> Vec<Vec<u8>> {
        let rows = self.now().iter().filter(|(_, row)| row.lease == Some(id));
        rows.map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn grant(&mut self, id: LeaseId, ttl_s: u64) -> Outcome {
        let now = self.now;
        match begin(&mut self.leases, id, ttl_s, false, now) {
            Ok(()) => Outcome::LeaseGranted { lease: id, ttl_s },
            Err(refused) => refused,
        }
    }

    pub(super) fn renew(&mut self, ids: &[LeaseId]) -> Outcome {
        let now = self.now;
        let renew = |id: &LeaseId| match self.leases.iter_mut().find(|lease| lease.id == *id) {
            None => 0,
            Some(lease) => {
                lease.deadline_us = now + lease.ttl_s * 1_000_000;
                lease.ttl_s
            }
        };
        Outcome::LeasesRenewed { ttls_s: ids.iter().map(renew).collect() }
    }

    pub(super) fn revoke(&mut self, id: LeaseId) -> Outcome {
        if self.leases.iter().any(|lease| lease.id == id) {
            self.end(&|lease| lease.id == id)
        } else {
            Outcome::LeaseNotFound { lease: id }
        }
    }

    /// Only those whose time is over: at its deadline a lease still lives.
    pub(super) fn expire(&mut self, ids: &[LeaseId]) -> Outcome {
        let now = self.now;
        self.end(&|lease| ids.contains(&lease.id) && lease.deadline_us < now)
    }

    fn end(&mut self, ends: &dyn Fn(&Lease) -> bool) -> Outcome {
        let (gone, rest): (Leases, Leases) = self.leases.drain(..).partition(|lease| ends(lease));
        self.leases = rest;
        let is_gone = |id: Option<LeaseId>| gone.iter().any(|lease| Some(lease.id) == id);
        let before = self.now().len();
        let state: State = self.now().clone().into_iter().filter(|(_, row)| !is_gone(row.lease)).collect();
        let deleted = (before - state.len()) as u64;
        if deleted > 0 {
            self.become_state(state);
        }
        Outcome::LeasesEnded { revision: self.revision(), leases: gone.len() as u64, deleted }
    }
}
