//! The revisioned map: a pure function of the entries applied to it.
//!
//! The store has one revision, [`FIRST_REVISION`] when it is empty, raised by one by every command that changes
//! something, however many keys it changes (`super::change`). No change has revision 0 or 1, so a `mod_revision` of 0
//! means that a key is absent. Each key has its versions: the latest, and the superseded ones until the compaction floor
//! passes them. So a read at any revision between the floor and now has an answer. The index of changes (`changes`)
//! says which keys each revision above the floor has changed.
//!
//! **The floor** depends only on the settings in the log and the applied commands: it is at most `retention_revisions`
//! below the revision, less when the superseded versions above it exceed `retention_bytes`, and no lower than a command
//! has set it. Nothing local (memory,
//! time, readers) moves it, because otherwise members would disagree about which revisions are readable.
//!
//! **The state hash** is a sum of one fingerprint per row, kept up to date by every apply, so that asking
//! for it costs nothing: members with the same applied index must have the same hash.
//!
//! **A view** ([`Kv::pin`]) keeps one state for a snapshot: while it is pinned, versions and rows that leave the map
//! go to a side table. So the map answers as if nothing were pinned, and the view still finds the whole pinned state.

mod changes;
mod history;
mod leaf;
mod leases;
mod members;
mod range;
mod reads;
mod restore;
mod tree;
mod version;
mod versions;
mod view;

use std::sync::Arc;

use super::change::{Change, LeaseWrite, Surroundings, Write, Writes};
use super::command::{self, Applied, Command, Domain, Fingerprint};
use super::dedup::{Dedup, Lookup};
use super::record::{ReadError, Record, VERSION_OVERHEAD_BYTES};
use crate::raft::{
    ClusterId, ClusterTime, Entry, EntryKind, FIRST_PROTOCOL, Index, MemberId, Membership, PROTOCOL,
    Position, Protocol, Settings,
};
use crate::vocabulary::{Condition, LeaseId, Op, Outcome, Txn};
use changes::{Changes, Row};
use members::Members;
use tree::Tree;
pub(in crate::store) use versions::Numbers;
use versions::{Version, Versions};
use view::Pin;

pub use changes::Change as KeyChange;
pub use history::PastVersion;
pub(in crate::store) use leases::LeaseRow;
pub use leases::LeaseState;
use leases::Leases;
pub use members::MAX_REMOVED;
pub use range::{Order, SCAN_KEYS};
pub use restore::Rebase;
pub use version::Unreadable;
pub use view::{Kept, PAGE_BYTES, View};

/// The revision and the floor of an empty store: the first change makes the next one. It can be read: as a store without keys.
pub const FIRST_REVISION: u64 = 1;

/// How much a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Keys that exist now.
    pub keys: u64,
    /// These keys and their values, in bytes.
    pub bytes: u64,
    /// Superseded versions that can still be read, in bytes: keys, values and
    /// [`VERSION_OVERHEAD_BYTES`](super::record::VERSION_OVERHEAD_BYTES) each.
    pub superseded_bytes: u64,
    /// Outcomes in the idempotency table.
    pub idempotency_rows: u64,
}

/// The state machine.
#[derive(Debug)]
pub struct Kv {
    settings: Settings,
    cluster_id: Option<ClusterId>,
    /// Genesis entry, membership, removed members.
    members: Members,
    /// The version in force.
    version: Protocol,
    /// The protocol version of the program. Not part of the state.
    speaks: Protocol,
    applied: Position,
    cluster_time: ClusterTime,
    revision: u64,
    floor: u64,
    /// Ordered by key, so that a range can be walked.
    keys: Tree,
    /// What each revision above the floor has changed.
    changes: Changes,
    superseded_bytes: u64,
    /// Keys that exist now.
    live_keys: u64,
    /// These keys and their values.
    live_bytes: u64,
    /// Sum of the fingerprints of all versions.
    versions_hash: u128,
    /// Number of versions.
    version_count: u64,
    leases: Leases,
    dedup: Dedup,
    /// How often a key was touched: from version 2 on a part of the state.
    #[cfg(feature = "next-protocol")]
    touches: u64,
    /// What the pinned view needs.
    pin: Option<Pin>,
}

impl Kv {
    /// An empty store at [`FIRST_REVISION`]. The genesis entry, the first of every log, replaces `settings`.
    pub fn new(settings: Settings) -> Kv {
        Kv {
            settings,
            cluster_id: None,
            members: Members::default(),
            version: FIRST_PROTOCOL,
            speaks: PROTOCOL,
            applied: Position::ZERO,
            cluster_time: 0,
            revision: FIRST_REVISION,
            floor: FIRST_REVISION,
            keys: Tree::default(),
            changes: Changes::default(),
            superseded_bytes: 0,
            live_keys: 0,
            live_bytes: 0,
            versions_hash: 0,
            version_count: 0,
            leases: Leases::default(),
            dedup: Dedup::default(),
            #[cfg(feature = "next-protocol")]
            touches: 0,
            pin: None,
        }
    }

    /// How much it holds.
    pub fn size(&self) -> Size {
        Size {
            keys: self.live_keys,
            bytes: self.live_bytes,
            superseded_bytes: self.superseded_bytes,
            idempotency_rows: self.dedup.len() as u64,
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The cluster, once its genesis entry is applied.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id
    }

    /// The membership in force at [`Kv::applied`]; without members before the genesis entry.
    pub fn membership(&self) -> &Arc<Membership> {
        self.members.membership()
    }

    /// Index of the entry that put it in force.
    pub fn membership_index(&self) -> Index {
        self.members.index()
    }

    /// The genesis entry, once it is applied.
    pub fn genesis(&self) -> Option<&Entry> {
        self.members.genesis()
    }

    /// Whether this member belonged to an earlier membership and not to the one in force. Known for the last
    /// [`MAX_REMOVED`] members that were removed.
    pub fn is_removed(&self, member: MemberId) -> bool {
        self.members.is_removed(member)
    }

    /// The last entry applied.
    pub fn applied(&self) -> Position {
        self.applied
    }

    /// The cluster time of the state: the highest cluster time of an applied entry.
    pub fn cluster_time(&self) -> ClusterTime {
        self.cluster_time
    }

    /// The revision of the latest change; [`FIRST_REVISION`] before the first one.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The smallest revision that can be read.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// A fingerprint of the logical state: every readable version, revision, floor, leases, idempotency rows, cluster time,
    /// cluster, settings, genesis entry, membership, removed members and the version in force. Equal on all members
    /// that applied the same entries. Costs the same at any size.
    pub fn state_hash(&self) -> u128 {
        let Settings {
            retention_revisions,
            retention_bytes,
            idempotency_window_s,
            idempotency_rows,
            idempotency_bytes,
        } = self.settings;
        let mut header = Fingerprint::new(Domain::Header);
        header.number(self.revision).number(self.floor).number(self.cluster_time);
        header.number(u64::from(self.cluster_id.is_some())).number(self.cluster_id.map_or(0, |id| id.0));
        header.number(retention_revisions).number(retention_bytes);
        header.number(idempotency_window_s).number(idempotency_rows).number(idempotency_bytes);
        header.number(u64::from(self.version));
        #[cfg(feature = "next-protocol")]
        if self.version >= 2 {
            header.number(self.touches);
        }
        let parts =
            [header.finish(), self.versions_hash, self.leases.hash(), self.dedup.hash(), self.members.hash()];
        parts.into_iter().fold(0, u128::wrapping_add)
    }

    /// The record of `key` at `revision`, by default the latest; `None` when the key is absent there.
    pub fn get(&self, key: &[u8], revision: Option<u64>) -> Result<Option<Record<'_>>, ReadError> {
        let revision = revision.unwrap_or(self.revision);
        self.check_readable(revision)?;
        Ok(self.keys.get(key).and_then(|versions| versions.at(revision)?.record()))
    }

    /// What a transaction that writes nothing answers now. Panics when it could write.
    pub fn read_txn(&self, txn: Txn) -> Outcome {
        assert!(!txn.can_write(), "a transaction that can write is applied");
        let mut change = self.open();
        command::execute(Op::Txn { txn }, None, &mut change)
    }

    /// Whether a write with this idempotency key would get [`Outcome::Overloaded`] if it were applied next at
    /// `cluster_time`. The leader uses this to refuse the write before it gets an entry in the log.
    pub fn would_refuse_keyed(&self, key: &str, cluster_time: ClusterTime) -> bool {
        self.dedup.would_refuse(key, self.cluster_time.max(cluster_time), &self.settings)
    }

    /// Applies an entry that this program can surely read, such as one that it has written; see [`Kv::try_apply`].
    ///
    /// Panics where that fails.
    pub fn apply(&mut self, entry: &Entry) -> Option<Applied> {
        self.try_apply(entry).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Applies the next entry of the log. Returns the outcome when the entry is a command. A pure function of the
    /// entries applied so far: no clock, no randomness, no configuration.
    ///
    /// Panics when `entry` is not the one after [`Kv::applied`].
    ///
    /// # Errors
    /// A newer program wrote the entry. Nothing was changed.
    pub fn try_apply(&mut self, entry: &Entry) -> Result<Option<Applied>, Unreadable> {
        let position = entry.position();
        assert!(
            position.index == self.applied.index + 1 && position.term >= self.applied.term,
            "entry {position} does not follow {}, the last one applied",
            self.applied
        );
        let command = self.readable(entry)?;
        self.applied = position;
        self.cluster_time = self.cluster_time.max(entry.cluster_time());
        self.version = self.version.max(entry.version().unwrap_or(FIRST_PROTOCOL));
        match entry.kind() {
            EntryKind::Noop | EntryKind::Version => {}
            EntryKind::Membership => self.members.apply(entry),
            EntryKind::Genesis => {
                assert_eq!(position.index, 1, "a genesis entry at {position}: a cluster is initialized once");
                let genesis = entry.genesis().expect("a genesis entry holds a genesis record");
                self.cluster_id = Some(genesis.cluster_id);
                self.settings = genesis.settings;
                self.members.apply(entry);
            }
            EntryKind::Command => {}
        }
        Ok(command.map(|command| {
            let (outcome, replayed) = self.decide(command);
            Applied { index: position.index, outcome, replayed }
        }))
    }

    /// Returns the outcome, and whether it was decided earlier.
    fn decide(&mut self, command: Command) -> (Outcome, bool) {
        let kept = self.pin.as_mut().map(|pin| &mut pin.rows);
        self.dedup.expire(self.cluster_time, &self.settings, kept);
        let Command { op, condition, idempotency, .. } = command;
        let Some(idempotency) = idempotency else {
            return (self.execute(op, condition), false);
        };
        match self.dedup.lookup(&idempotency) {
            Lookup::Decided(outcome) => (outcome, true),
            Lookup::Mismatch => (Outcome::IdempotencyMismatch, false),
            Lookup::New if self.dedup.is_full(&self.settings) => (Outcome::Overloaded, false),
            Lookup::New => {
                let outcome = self.execute(op, condition);
                self.dedup.store(idempotency, &outcome, self.cluster_time, &self.settings);
                (outcome, false)
            }
        }
    }

    /// Opens a change, lets the operation say what happens to keys, and closes the change.
    fn execute(&mut self, op: Op, condition: Option<Condition>) -> Outcome {
        #[cfg(feature = "next-protocol")]
        let is_touch = matches!(op, Op::Touch { .. });
        let mut change = self.open();
        let outcome = command::execute(op, condition, &mut change);
        let floor = change.new_floor();
        let (writes, lease_writes) = change.close();
        if floor > self.floor {
            self.floor = floor;
            self.advance_floor();
        }
        #[cfg(feature = "next-protocol")]
        if is_touch && !writes.is_empty() {
            self.touches += 1;
        }
        self.make_revision(writes, &lease_writes);
        outcome
    }

    /// Makes the store's next revision from the writes of a change, once for all keys, and raises the floor. A change
    /// without writes makes no revision. Leases begin before their keys are attached, and end when these are gone.
    fn make_revision(&mut self, writes: Writes, lease_writes: &[LeaseWrite]) {
        self.leases.begin_and_renew(lease_writes, self.cluster_time);
        if !writes.is_empty() {
            self.revision += 1;
            for (key, write) in writes {
                let Write { create_revision, version, value, lease } = write;
                let numbers = Numbers { mod_revision: self.revision, create_revision, version, lease };
                let (bytes, before) = self.supersede(Version::new(&key, numbers, value.as_deref()));
                self.changes.push(Row { at: self.revision, bytes, key: &key });
                self.leases.move_key(&key, before, lease);
            }
            self.advance_floor();
        }
        self.leases.end_all(lease_writes);
    }

    /// Makes `new` the latest version of its key. Returns what the version before takes from now on as a superseded one,
    /// and the lease that the key had.
    fn supersede(&mut self, new: Version) -> (u64, Option<LeaseId>) {
        self.versions_hash = self.versions_hash.wrapping_add(new.fingerprint());
        self.version_count += 1;
        if let Some(payload) = new.payload_bytes() {
            self.live_keys += 1;
            self.live_bytes += payload;
        }
        let (payload, lease) =
            self.keys.supersede(new, |old| (old.payload_bytes(), old.lease())).unwrap_or_default();
        let bytes = payload.map_or(0, |payload| payload + VERSION_OVERHEAD_BYTES);
        if let Some(payload) = payload {
            self.live_keys -= 1;
            self.live_bytes -= payload;
            self.superseded_bytes += bytes;
        }
        (bytes, lease)
    }

    /// Raises the floor as far as retention requires and drops the versions that it passes: every key with something
    /// to drop has a superseded version at or below the new floor.
    fn advance_floor(&mut self) {
        self.floor = self.floor.max(self.revision.saturating_sub(self.settings.retention_revisions));
        while let Some(oldest) = self.changes.front()
            && (oldest.at <= self.floor || self.superseded_bytes > self.settings.retention_bytes)
        {
            self.superseded_bytes -= oldest.bytes;
            self.floor = self.floor.max(oldest.at);
            let superseded = (oldest.bytes > 0).then(|| oldest.key.to_vec());
            self.changes.pop_front();
            if let Some(key) = superseded {
                self.trim(&key);
            }
        }
    }

    fn trim(&mut self, key: &[u8]) {
        // Several superseded versions of one key may be dropped together; the first of them may already remove the
        // key.
        let Some(versions) = self.keys.get_mut(key) else { return };
        let mut drop_version = |version: Version| {
            self.versions_hash = self.versions_hash.wrapping_sub(version.fingerprint());
            self.version_count -= 1;
            if let Some(pin) = &mut self.pin {
                pin.keep(version);
            }
        };
        versions.trim(self.floor, &mut drop_version);
        if versions.is_forgotten(self.floor) {
            let versions = self.keys.remove(key).expect("looked at just now");
            drop_version(versions.latest);
        }
    }

    fn check_readable(&self, revision: u64) -> Result<(), ReadError> {
        ReadError::check(revision, self.floor, self.revision)
    }

    /// Opens a change of the present state.
    fn open(&self) -> Change<'_> {
        let revisions = (self.floor, self.revision);
        let (settings, leases, now) = (&self.settings, &self.leases, self.cluster_time);
        Change::open(&self.keys, Surroundings { revisions, settings, leases, now })
    }
}

#[cfg(test)]
mod tests;
