//! The leases, and which keys are attached to them.
//!
//! A lease is over when the cluster time has passed its deadline. It ends when the leader says so by an entry: until
//! then it can still be renewed. Which keys a lease has follows from the latest versions of the keys.

use std::collections::{BTreeMap, BTreeSet};

use super::Kv;
use crate::raft::ClusterTime;
use crate::store::change::{LeaseWrite, Leased};
use crate::store::command::{Domain, Fingerprint};
use crate::vocabulary::LeaseId;

/// A lease as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseState {
    /// How it is called.
    pub lease: LeaseId,
    /// Its time to live, in seconds.
    pub ttl_s: u64,
    /// When its time is over.
    pub deadline: ClusterTime,
    /// Whether it ends with the last key that leaves it.
    pub is_own: bool,
    /// How many keys are attached to it.
    pub keys: u64,
}

/// What a snapshot says of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct LeaseRow {
    pub lease: LeaseId,
    pub ttl_s: u64,
    pub deadline: ClusterTime,
    pub is_own: bool,
}

#[derive(Debug)]
struct Lease {
    ttl_s: u64,
    deadline: ClusterTime,
    is_own: bool,
    keys: BTreeSet<Box<[u8]>>,
}

/// All leases.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_id: BTreeMap<LeaseId, Lease>,
    by_deadline: BTreeSet<(ClusterTime, LeaseId)>,
    /// Sum of the fingerprints of all leases. Their keys are in the fingerprints of the versions.
    hash: u128,
    /// Leases of their own that the change under way has left without keys; empty between changes.
    left: Vec<LeaseId>,
}

impl Leased for Leases {
    fn count(&self) -> u64 {
        self.rows_len()
    }

    fn lease(&self, lease: LeaseId) -> Option<(u64, ClusterTime)> {
        self.by_id.get(&lease).map(|lease| (lease.ttl_s, lease.deadline))
    }

    fn keys_of(&self, lease: LeaseId, look: &mut dyn FnMut(&[u8])) {
        self.by_id.get(&lease).into_iter().flat_map(|lease| &lease.keys).for_each(|key| look(key));
    }
}

impl Leases {
    pub(super) fn hash(&self) -> u128 {
        self.hash
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// How many leases there are.
    pub(super) fn rows_len(&self) -> u64 {
        self.by_id.len() as u64
    }

    /// Every lease, in order.
    pub(super) fn rows(&self) -> Vec<LeaseRow> {
        let row = |(lease, state): (&LeaseId, &Lease)| LeaseRow {
            lease: *lease,
            ttl_s: state.ttl_s,
            deadline: state.deadline,
            is_own: state.is_own,
        };
        self.by_id.iter().map(row).collect()
    }

    /// A lease that a snapshot has, still without its keys. `false` = it is there already.
    pub(super) fn push(&mut self, row: LeaseRow) -> bool {
        let LeaseRow { lease, ttl_s, deadline, is_own } = row;
        if self.by_id.contains_key(&lease) {
            return false;
        }
        self.begin(lease, Lease { ttl_s, deadline, is_own, keys: BTreeSet::new() });
        true
    }

    /// The name that is greatest.
    pub(super) fn last(&self) -> Option<LeaseId> {
        self.by_id.last_key_value().map(|(lease, _)| *lease)
    }

    pub(super) fn contains(&self, lease: LeaseId) -> bool {
        self.by_id.contains_key(&lease)
    }

    /// Whether a lease that goes with its last key has none.
    pub(super) fn has_empty_own(&self) -> bool {
        self.by_id.values().any(|lease| lease.is_own && lease.keys.is_empty())
    }

    fn begin(&mut self, lease: LeaseId, state: Lease) {
        self.hash = self.hash.wrapping_add(fingerprint(lease, &state));
        self.by_deadline.insert((state.deadline, lease));
        let old = self.by_id.insert(lease, state);
        assert!(old.is_none(), "the lease {lease} begins twice");
    }

    fn end(&mut self, lease: LeaseId) {
        let state = self.by_id.remove(&lease).expect("a lease that ends has begun");
        assert!(state.keys.is_empty(), "the lease {lease} ends and has keys");
        self.by_deadline.remove(&(state.deadline, lease));
        self.hash = self.hash.wrapping_sub(fingerprint(lease, &state));
    }

    /// Moves a deadline.
    fn set_deadline(&mut self, lease: LeaseId, deadline: ClusterTime) {
        let state = self.by_id.get_mut(&lease).expect("a lease that is renewed has begun");
        self.hash = self.hash.wrapping_sub(fingerprint(lease, state));
        self.by_deadline.remove(&(state.deadline, lease));
        state.deadline = deadline;
        self.hash = self.hash.wrapping_add(fingerprint(lease, state));
        self.by_deadline.insert((deadline, lease));
    }

    /// What a change did to leases at `now`, before its keys have changed: begins and renews.
    pub(super) fn begin_and_renew(&mut self, writes: &[LeaseWrite], now: ClusterTime) {
        for write in writes {
            match *write {
                LeaseWrite::Begin { lease, ttl_s, is_own } => {
                    let deadline = deadline(now, ttl_s);
                    self.begin(lease, Lease { ttl_s, deadline, is_own, keys: BTreeSet::new() });
                }
                LeaseWrite::Renew(lease) => {
                    let (ttl_s, _) = self.lease(lease).expect("a lease that is renewed has begun");
                    self.set_deadline(lease, deadline(now, ttl_s));
                }
                LeaseWrite::End(_) => {}
            }
        }
    }

    /// A key had one lease before a write and has another one since. Other keys of the change may still join what is left
    /// without keys: that ends in [`Leases::end_all`].
    pub(super) fn move_key(&mut self, key: &[u8], before: Option<LeaseId>, since: Option<LeaseId>) {
        if before == since {
            return;
        }
        if let Some(lease) = before {
            let state = self.by_id.get_mut(&lease).expect("a key is attached to a lease that exists");
            assert!(state.keys.remove(key), "a lease knows its keys");
            if state.is_own && state.keys.is_empty() {
                self.left.push(lease);
            }
        }
        if let Some(lease) = since {
            let state = self.by_id.get_mut(&lease).expect("a key is attached to a lease that exists");
            state.keys.insert(key.into());
        }
    }

    /// The end of leases whose keys are gone: of those that the change ends, and of those that go with their last key.
    pub(super) fn end_all(&mut self, writes: &[LeaseWrite]) {
        for lease in std::mem::take(&mut self.left) {
            if self.by_id.get(&lease).is_some_and(|state| state.keys.is_empty()) {
                self.end(lease);
            }
        }
        for write in writes {
            if let LeaseWrite::End(lease) = *write
                && self.contains(lease)
            {
                self.end(lease);
            }
        }
    }

    /// Lets every lease live for its whole time to live again.
    pub(super) fn renew_all(&mut self, now: ClusterTime) {
        for LeaseRow { lease, ttl_s, .. } in self.rows() {
            self.set_deadline(lease, deadline(now, ttl_s));
        }
    }

    fn state(&self, lease: LeaseId) -> Option<LeaseState> {
        let Lease { ttl_s, deadline, is_own, keys } = self.by_id.get(&lease)?;
        let keys = keys.len() as u64;
        Some(LeaseState { lease, ttl_s: *ttl_s, deadline: *deadline, is_own: *is_own, keys })
    }
}

/// When a lease is over that was granted or renewed at `now`.
fn deadline(now: ClusterTime, ttl_s: u64) -> ClusterTime {
    now.saturating_add(ttl_s.saturating_mul(1_000_000))
}

fn fingerprint(lease: LeaseId, state: &Lease) -> u128 {
    let Lease { ttl_s, deadline, is_own, keys: _ } = state;
    let mut hash = Fingerprint::new(Domain::Lease);
    hash.number(lease.get()).number(*ttl_s).number(*deadline).number(u64::from(*is_own)).finish()
}

impl Kv {
    /// The lease, if there is one.
    pub fn lease(&self, lease: LeaseId) -> Option<LeaseState> {
        self.leases.state(lease)
    }

    /// The leases after a name, in order of their names.
    pub fn leases_after(&self, after: Option<LeaseId>) -> impl Iterator<Item = LeaseState> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        let leases = self.leases.by_id.range((start, Unbounded));
        leases.filter_map(|(lease, _)| self.leases.state(*lease))
    }

    /// The keys of a lease after a key, in order.
    pub fn lease_keys(&self, lease: LeaseId, after: Option<&[u8]>) -> impl Iterator<Item = &[u8]> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        let keys = self.leases.by_id.get(&lease).map(|state| state.keys.range::<[u8], _>((start, Unbounded)));
        keys.into_iter().flatten().map(|key| &key[..])
    }

    /// Whether there is a lease.
    pub fn has_leases(&self) -> bool {
        !self.leases.is_empty()
    }

    /// When the next lease is over.
    pub fn next_lease_deadline(&self) -> Option<ClusterTime> {
        self.leases.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// The leases that are over at `now`, those that are over longest first: at most `max_leases`, and no more when
    /// they have `max_keys` keys together.
    pub fn leases_over(&self, now: ClusterTime, max_leases: usize, max_keys: usize) -> Vec<LeaseId> {
        let (mut over, mut keys) = (Vec::new(), 0);
        for &(deadline, lease) in &self.leases.by_deadline {
            if deadline >= now || over.len() == max_leases || keys >= max_keys {
                break;
            }
            keys += self.leases.by_id.get(&lease).map_or(0, |state| state.keys.len());
            over.push(lease);
        }
        over
    }
}
