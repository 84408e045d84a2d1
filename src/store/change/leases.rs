//! What a change reads of leases, and does to them.

use super::Change;
use crate::raft::ClusterTime;
use crate::vocabulary::LeaseId;

/// Most leases that there may be. Part of the state machine's definition: it must be the same on all members.
const MAX_LEASES: u64 = 100_000;

/// The leases before a change.
pub(in crate::store) trait Leased {
    /// How many there are.
    fn count(&self) -> u64;

    /// The time to live of a lease, in seconds, and when it is over.
    fn lease(&self, lease: LeaseId) -> Option<(u64, ClusterTime)>;

    /// Calls `look` with every key of a lease.
    fn keys_of(&self, lease: LeaseId, look: &mut dyn FnMut(&[u8]));
}

/// What a change does to one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum LeaseWrite {
    /// It begins.
    Begin {
        /// Which one.
        lease: LeaseId,
        /// Its time to live, in seconds.
        ttl_s: u64,
        /// Whether it ends with the last key that leaves it.
        is_own: bool,
    },
    /// It lives for its whole time to live again.
    Renew(LeaseId),
    /// It ends. Its keys are removed by the same change.
    End(LeaseId),
}

impl Change<'_> {
    /// How many leases there may be.
    pub(in crate::store) fn max_leases(&self) -> u64 {
        MAX_LEASES
    }

    /// How many there are, with those that the change has begun.
    pub(in crate::store) fn lease_count(&self) -> u64 {
        self.leases.count() + self.begun().count() as u64
    }

    /// Whether there is such a lease, or the change has begun it.
    pub(in crate::store) fn has_lease(&self, lease: LeaseId) -> bool {
        self.leases.lease(lease).is_some() || self.begun().any(|begun| begun == lease)
    }

    /// Whether there is such a lease and its time is over: at its deadline it still lives.
    pub(in crate::store) fn is_lease_over(&self, lease: LeaseId) -> bool {
        self.leases.lease(lease).is_some_and(|(_, deadline)| deadline < self.now)
    }

    /// Begins a lease whose name is free.
    pub(in crate::store) fn begin_lease(&mut self, lease: LeaseId, ttl_s: u64, is_own: bool) {
        self.lease_writes.push(LeaseWrite::Begin { lease, ttl_s, is_own });
    }

    /// Renews a lease, if there is one. Returns its time to live, in seconds.
    pub(in crate::store) fn renew_lease(&mut self, lease: LeaseId) -> Option<u64> {
        let (ttl_s, _) = self.leases.lease(lease)?;
        self.lease_writes.push(LeaseWrite::Renew(lease));
        Some(ttl_s)
    }

    /// Ends a lease that exists, and removes its keys. Returns how many these are.
    pub(in crate::store) fn end_lease(&mut self, lease: LeaseId) -> u64 {
        let mut keys = Vec::new();
        self.leases.keys_of(lease, &mut |key| keys.push(key.to_vec()));
        let deleted = keys.len() as u64;
        keys.into_iter().for_each(|key| self.delete(key));
        self.lease_writes.push(LeaseWrite::End(lease));
        deleted
    }

    fn begun(&self) -> impl Iterator<Item = LeaseId> {
        self.lease_writes.iter().filter_map(|write| match write {
            LeaseWrite::Begin { lease, .. } => Some(*lease),
            LeaseWrite::Renew(_) | LeaseWrite::End(_) => None,
        })
    }
}
