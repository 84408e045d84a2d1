//! Builds a state machine from a snapshot's rows. Data that follows from the rows, such as the index of
//! changes, the sums and the hash, is computed again and compared with the header of the snapshot.

use std::sync::Arc;

use super::changes::{self, Changes};
use super::leases::{LeaseRow, Leases};
use super::members::Members;
use super::tree::Tree;
use super::versions::{Numbers, Version};
use super::{FIRST_REVISION, Kv};
use crate::raft::{Entry, Index, Membership, PROTOCOL, Position};
use crate::store::dedup::{Dedup, Row};
use crate::store::record::VERSION_OVERHEAD_BYTES;
use crate::store::snapshot::SnapshotHeader;
use crate::vocabulary::is_ttl;

/// How often a key can have been put, by far.
const MAX_VERSION: u64 = u64::MAX / 2;

/// Memory for more rows than this is allocated only as they arrive: larger counts in a header are not trusted.
const MAX_RESERVED: u64 = 1 << 21;

/// A state that is being built. Rows come in the order in which [`View::next_page`](super::View::next_page) gives
/// them.
#[derive(Debug)]
pub(in crate::store) struct KvBuilder {
    header: SnapshotHeader,
    keys: Tree,
    /// The key whose versions are coming, until the first of them is there.
    key: Option<Box<[u8]>>,
    superseded_bytes: u64,
    live_keys: u64,
    live_bytes: u64,
    versions_hash: u128,
    version_count: u64,
    leases: Leases,
    /// Whether a version names a lease.
    has_leased: bool,
    rows: Vec<Row>,
}

impl Kv {
    /// Begins a state that `header` describes. The rows are then given to the builder.
    pub(in crate::store) fn from_snapshot(header: SnapshotHeader) -> KvBuilder {
        KvBuilder {
            keys: Tree::default(),
            rows: Vec::with_capacity(header.idempotency_rows.min(MAX_RESERVED) as usize),
            header,
            key: None,
            superseded_bytes: 0,
            live_keys: 0,
            live_bytes: 0,
            versions_hash: 0,
            version_count: 0,
            leases: Leases::default(),
            has_leased: false,
        }
    }
}

impl KvBuilder {
    /// The next key; its versions follow. The error text says why the key is invalid here.
    pub(crate) fn push_key(&mut self, key: &[u8]) -> Result<(), String> {
        if !self.rows.is_empty() {
            return Err("a key follows the idempotency rows".to_owned());
        }
        if self.key.is_some() {
            return Err("a key has no versions".to_owned());
        }
        if self.keys.last().is_some_and(|last| key <= last.key()) {
            return Err("the keys are not in order".to_owned());
        }
        self.key = Some(key.into());
        Ok(())
    }

    /// The next lease.
    pub(crate) fn push_lease(&mut self, row: LeaseRow) -> Result<(), String> {
        if self.key.is_some() || self.keys.last().is_some() || !self.rows.is_empty() {
            return Err("a lease follows other rows".to_owned());
        }
        if self.leases.last().is_some_and(|last| last >= row.lease) {
            return Err("the leases are not in order".to_owned());
        }
        if !is_ttl(row.ttl_s) {
            return Err(format!("a lease has a time to live of {} s", row.ttl_s));
        }
        self.leases.push(row);
        Ok(())
    }

    /// The next version of the last key; without a value it is a deletion.
    pub(crate) fn push_version(&mut self, numbers: Numbers, value: Option<&[u8]>) -> Result<(), String> {
        let Numbers { mod_revision, version, lease, .. } = numbers;
        if mod_revision <= FIRST_REVISION {
            return Err(format!("a version has revision {mod_revision}, which no change has"));
        }
        if mod_revision > self.header.revision {
            return Err(format!(
                "a version has revision {mod_revision}, the snapshot {}",
                self.header.revision
            ));
        }
        if version > MAX_VERSION {
            return Err(format!("a version has the number {version}, which no key reaches"));
        }
        self.has_leased |= lease.is_some();
        let new = if let Some(key) = self.key.take() {
            Version::new(&key, numbers, value)
        } else {
            let Some(versions) = self.keys.last().filter(|_| self.rows.is_empty()) else {
                return Err("a version follows no key".to_owned());
            };
            if mod_revision <= versions.latest.mod_revision() || mod_revision <= self.header.floor {
                return Err(format!("the version of revision {mod_revision} is out of order"));
            }
            Version::new(versions.key(), numbers, value)
        };
        self.versions_hash = self.versions_hash.wrapping_add(new.fingerprint());
        self.version_count += 1;
        if let Some(payload) = new.payload_bytes() {
            self.live_keys += 1;
            self.live_bytes += payload;
        }
        let payload = self.keys.supersede(new, Version::payload_bytes).flatten();
        if let Some(payload) = payload {
            self.live_keys -= 1;
            self.live_bytes -= payload;
            self.superseded_bytes += payload + VERSION_OVERHEAD_BYTES;
        }
        Ok(())
    }

    /// The next idempotency row.
    pub(crate) fn push_idempotency(&mut self, row: Row) -> Result<(), String> {
        if self.key.is_some() {
            return Err("a key has no versions".to_owned());
        }
        if row.cluster_time > self.header.meta.cluster_time {
            return Err(format!("an idempotency row has cluster time {}", row.cluster_time));
        }
        self.rows.push(row);
        Ok(())
    }

    /// Attaches each key to the lease that its latest version names; earlier versions may name leases that are gone.
    fn attach(&mut self) -> Result<(), String> {
        if !self.has_leased {
            return Ok(());
        }
        for versions in self.keys.iter() {
            let lease = versions.latest.lease();
            if let Some(lease) = lease.filter(|lease| !self.leases.contains(*lease)) {
                return Err(format!("a key is attached to the lease {lease}, which is not there"));
            }
            self.leases.move_key(versions.key(), None, lease);
        }
        Ok(())
    }

    /// Returns the state. Refused when the counts or the hash of the rows differ from the header.
    pub(crate) fn finish(mut self) -> Result<Kv, String> {
        if self.key.is_some() {
            return Err("a key has no versions".to_owned());
        }
        self.attach()?;
        if self.leases.has_empty_own() {
            return Err("a lease that goes with its last key has none".to_owned());
        }
        let (revision, floor) = (self.header.revision, self.header.floor);
        if floor < FIRST_REVISION || floor > revision {
            return Err(format!("its revision is {revision} and its floor {floor}, which no state has"));
        }
        let changes = changes_of(&self.keys, floor);
        let dedup = Dedup::from_rows(self.rows).ok_or("the idempotency rows are not in order")?;
        let SnapshotHeader { meta, genesis, settings, removed, .. } = self.header.clone();
        let kv = Kv {
            settings,
            cluster_id: self.header.cluster_id,
            members: Members::new(genesis, meta.membership, meta.membership_index, removed),
            version: meta.version,
            speaks: PROTOCOL,
            applied: meta.last,
            cluster_time: meta.cluster_time,
            revision: self.header.revision,
            floor: self.header.floor,
            keys: self.keys,
            changes,
            superseded_bytes: self.superseded_bytes,
            live_keys: self.live_keys,
            live_bytes: self.live_bytes,
            versions_hash: self.versions_hash,
            version_count: self.version_count,
            leases: self.leases,
            dedup,
            #[cfg(feature = "next-protocol")]
            touches: self.header.touches.unwrap_or(0),
            pin: None,
        };
        if kv.state_hash() != self.header.state_hash {
            return Err(format!(
                "its state hash should be {:032x} and is {:032x}",
                self.header.state_hash,
                kv.state_hash()
            ));
        }
        if kv.header() != self.header {
            return Err("its header does not describe its rows".to_owned());
        }
        Ok(kv)
    }
}

/// How a state is changed to begin another log: the log of a new cluster from a backup, or of a recovered cluster
/// with fewer members.
#[derive(Clone, Debug)]
pub struct Rebase {
    /// Where the new log begins.
    pub last: Position,
    /// The genesis entry of the cluster it belongs to from now on.
    pub genesis: Entry,
    /// The membership in force.
    pub membership: Arc<Membership>,
    /// Index of the entry that is taken to have set it.
    pub membership_index: Index,
    /// Whether the idempotency rows are kept.
    pub keeps_idempotency: bool,
    /// Whether the removed members are still remembered; members that leave by this change are then added to them.
    pub keeps_removed: bool,
}

impl Kv {
    /// Moves the state to the beginning of another log. Keys, revisions, cluster time, settings and version stay. Panics when
    /// `genesis` is not a genesis entry, or a view is pinned.
    pub fn rebase(&mut self, to: Rebase) {
        assert!(self.pin.is_none(), "a pinned state stays where it is");
        let genesis = to.genesis.genesis().expect("a genesis entry");
        self.cluster_id = Some(genesis.cluster_id);
        self.version = self.version.max(genesis.protocol);
        self.applied = to.last;
        let (old, removed) = if to.keeps_removed {
            (Arc::clone(self.membership()), self.members.removed().collect())
        } else {
            (Arc::default(), Vec::new())
        };
        self.members = Members::new(Some(to.genesis), old, 0, removed);
        self.members.replace(to.membership, to.membership_index);
        // Nobody could renew while there was no cluster.
        self.leases.renew_all(self.cluster_time);
        if !to.keeps_idempotency {
            self.dedup = Dedup::default();
        }
    }
}

/// The index of the changes after the floor. One revision may have changed several keys, each of them once: the order is
/// the one in which that was done.
fn changes_of(keys: &Tree, floor: u64) -> Changes {
    let rows = keys.iter().flat_map(|versions| {
        versions.changes_after(floor).map(|(version, before)| {
            let payload = before.and_then(Version::payload_bytes);
            let bytes = payload.map_or(0, |payload| payload + VERSION_OVERHEAD_BYTES);
            changes::Row { at: version.mod_revision(), bytes, key: versions.key() }
        })
    });
    let mut rows: Vec<_> = rows.collect();
    // Stable: the keys are in their order already.
    rows.sort_by_key(|row| row.at);
    let mut changes = Changes::default();
    rows.into_iter().for_each(|row| changes.push(row));
    changes
}
