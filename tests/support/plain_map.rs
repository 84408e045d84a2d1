//! The store as plainly as it can be said, for every test that compares with a model: one whole map per revision, one
//! list of outcomes, everything counted again each time.
//!
//! Of the product it takes names only (what the including module calls `Condition`, `Op` and `Outcome`). What they mean
//! is said here a second time, and a third time by the checker (`src/check`), which takes no part of this file: three
//! opinions, so that a mistake in one of them is seen.

#[path = "plain_lease.rs"]
mod plain_lease;
#[path = "plain_txn.rs"]
mod plain_txn;

use std::collections::BTreeMap;

use dkv::vocabulary::{LeaseId, PutLease};

use super::{Condition, Op, Outcome};
use plain_lease::Leases;

/// What a superseded version counts for beside its key and its value.
const OVERHEAD_BYTES: u64 = 64;

/// Most keys that one removal of a range takes.
const MAX_RANGE_KEYS: usize = 100_000;

/// Longest outcome that is remembered whole.
const MAX_OUTCOME_BYTES: u64 = 16 << 10;

/// A key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub value: Vec<u8>,
    pub create_revision: u64,
    pub mod_revision: u64,
    pub version: u64,
    pub lease: Option<LeaseId>,
}

/// All keys that exist at one revision.
pub type State = BTreeMap<Vec<u8>, Row>;

/// What a store is set to.
#[derive(Clone, Debug)]
pub struct Rules {
    pub retention_revisions: u64,
    pub retention_bytes: u64,
    pub idempotency_window_us: u64,
    pub idempotency_rows: u64,
    pub idempotency_bytes: u64,
}

/// An outcome that is remembered.
struct Decided {
    at: u64,
    key: String,
    request_hash: u128,
    outcome: Outcome,
}

/// A store.
pub struct Model {
    rules: Rules,
    now: u64,
    /// Index = revision; there is no revision 0, and revision 1 is the empty store.
    states: Vec<State>,
    /// The highest revision below which history was to be forgotten.
    compacted: u64,
    /// (superseded at, bytes), all that ever were.
    superseded: Vec<(u64, u64)>,
    decided: Vec<Decided>,
    leases: Leases,
}

#[allow(dead_code)] // Each test uses its part.
impl Model {
    pub fn new(rules: Rules) -> Model {
        let (superseded, decided, leases) = (Vec::new(), Vec::new(), Leases::new());
        Model { rules, now: 0, states: vec![State::new(); 2], compacted: 1, superseded, decided, leases }
    }

    pub fn revision(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    /// The oldest revision that can be read.
    pub fn floor(&self) -> u64 {
        let by_revisions = self.revision().saturating_sub(self.rules.retention_revisions);
        let mut kept: u64 = self.superseded.iter().map(|(_, bytes)| bytes).sum();
        let mut by_bytes = 0;
        for (at, bytes) in &self.superseded {
            if kept <= self.rules.retention_bytes {
                break;
            }
            (kept, by_bytes) = (kept - bytes, *at);
        }
        by_revisions.max(by_bytes).max(self.compacted)
    }

    /// The latest state.
    pub fn now(&self) -> &State {
        self.states.last().expect("there is a first state")
    }

    /// The state at a revision that there is.
    pub fn at(&self, revision: u64) -> &State {
        &self.states[usize::try_from(revision).expect("a revision that there is")]
    }

    /// Executes a write that comes at `now_us` of cluster time under an idempotency key with its request's hash. The
    /// outcome, and whether it is a remembered one.
    pub fn write(
        &mut self,
        now_us: u64,
        idempotency: Option<(&str, u128)>,
        op: &Op,
        condition: Option<Condition>,
    ) -> (Outcome, bool) {
        self.be_at(now_us);
        let Some((key, request_hash)) = idempotency else { return (self.execute(op, condition), false) };
        let (now, window) = (self.now, self.rules.idempotency_window_us);
        self.decided.retain(|decided| now - decided.at <= window);
        if let Some(decided) = self.decided.iter().find(|decided| decided.key == key) {
            let is_same = decided.request_hash == request_hash;
            return if is_same {
                (decided.outcome.clone(), true)
            } else {
                (Outcome::IdempotencyMismatch, false)
            };
        }
        if self.decided.len() as u64 >= self.rules.idempotency_rows {
            return (Outcome::Overloaded, false);
        }
        let outcome = self.execute(op, condition);
        let (kept, bytes) = (self.decided.iter().map(bytes_of).sum::<u64>(), outcome.encode().len() as u64);
        let is_whole = bytes <= MAX_OUTCOME_BYTES && kept + bytes <= self.rules.idempotency_bytes;
        let remembered = if is_whole { outcome.clone() } else { plain_txn::in_short(&outcome) };
        self.decided.push(Decided { at: now, key: key.to_owned(), request_hash, outcome: remembered });
        (outcome, false)
    }

    /// The cluster time is this, or later.
    pub fn be_at(&mut self, now_us: u64) {
        self.now = self.now.max(now_us);
    }

    /// Executes a write that has no idempotency key.
    pub fn execute(&mut self, op: &Op, condition: Option<Condition>) -> Outcome {
        match op {
            Op::Put { key, value, lease } => self.put(key, value, *lease, condition),
            Op::Delete { key } => self.delete(key, condition),
            Op::DeleteRange { range } => {
                self.delete_range(|key| range.start() <= key && range.end().is_none_or(|end| key < end))
            }
            Op::Add { key, amount } => self.add(key, *amount, condition),
            Op::Txn { txn } => self.txn(txn),
            Op::LeaseGrant { lease, ttl_s, .. } => self.grant(*lease, *ttl_s),
            Op::LeaseRenew { leases } => self.renew(leases),
            Op::LeaseRevoke { lease } => self.revoke(*lease),
            Op::LeaseExpire { leases } => self.expire(leases),
            Op::Compact { revision } => self.compact(*revision),
            #[cfg(feature = "next-protocol")]
            Op::Touch { key } => match self.now().get(key).map(|row| row.value.clone()) {
                Some(value) => self.put(key, &value, PutLease::Keep, condition),
                None => {
                    Outcome::PreconditionFailed { revision: self.revision(), mod_revision: 0, version: 0 }
                }
            },
        }
    }

    fn compact(&mut self, revision: u64) -> Outcome {
        let newest = self.revision();
        if revision > newest {
            return Outcome::FutureRevision { wanted: revision, revision: newest };
        }
        // Versions that are gone count no more, however the floor came to pass them.
        let below = revision.min(newest - 1);
        self.compacted = self.compacted.max(below).max(self.floor());
        Outcome::FloorRaised { floor: self.floor() }
    }

    fn put(&mut self, key: &[u8], value: &[u8], lease: PutLease, condition: Option<Condition>) -> Outcome {
        if let Some(failed) = self.failed(key, condition) {
            return failed;
        }
        let revision = self.revision() + 1;
        let old = self.now().get(key);
        let create_revision = old.map_or(revision, |row| row.create_revision);
        let version = old.map_or(1, |row| row.version + 1);
        let (before, now) = (old.map(|row| row.lease), self.now);
        let lease = match plain_lease::of_put(&mut self.leases, lease, before, revision - 1, now) {
            Ok(lease) => lease,
            Err(refused) => return refused,
        };
        let row = Row { value: value.to_vec(), create_revision, mod_revision: revision, version, lease };
        let mut state = self.now().clone();
        state.insert(key.to_vec(), row);
        self.become_state(state);
        Outcome::Put { revision, create_revision, version }
    }

    fn add(&mut self, key: &[u8], amount: i64, condition: Option<Condition>) -> Outcome {
        if let Some(failed) = self.failed(key, condition) {
            return failed;
        }
        let revision = self.revision();
        let (number, mod_revision, version) = match self.now().get(key) {
            None => (Some(0), 0, 0),
            Some(row) => (counted(&row.value), row.mod_revision, row.version),
        };
        let Some(number) = number else {
            return Outcome::NotAnInteger { revision, mod_revision, version };
        };
        let Ok(value) = i64::try_from(number + i128::from(amount)) else {
            let value = i64::try_from(number).expect("a counter has 64 bits");
            return Outcome::OutOfRange { revision, mod_revision, version, value };
        };
        let lease = if mod_revision == 0 { PutLease::None } else { PutLease::Keep };
        match self.put(key, format!("{value}").as_bytes(), lease, None) {
            Outcome::Put { revision, version, .. } => Outcome::Added { revision, version, value },
            other => unreachable!("a put without a condition: {other:?}"),
        }
    }

    fn delete(&mut self, key: &[u8], condition: Option<Condition>) -> Outcome {
        if let Some(failed) = self.failed(key, condition) {
            return failed;
        }
        let mut state = self.now().clone();
        let deleted = u64::from(state.remove(key).is_some());
        if deleted > 0 {
            self.become_state(state);
        }
        Outcome::Deleted { revision: self.revision(), deleted }
    }

    /// Removes every key that `belongs`, at once or not at all.
    pub fn delete_range(&mut self, belongs: impl Fn(&[u8]) -> bool) -> Outcome {
        let (gone, state): (State, State) = self.now().clone().into_iter().partition(|(key, _)| belongs(key));
        let bytes: u64 = gone.iter().map(|(key, row)| size(key, row)).sum();
        let max_bytes = self.rules.retention_bytes / 2;
        if gone.len() > MAX_RANGE_KEYS || (gone.len() > 1 && bytes > max_bytes) {
            return Outcome::RangeTooLarge { max_keys: MAX_RANGE_KEYS as u64, max_bytes };
        }
        if !gone.is_empty() {
            self.become_state(state);
        }
        Outcome::Deleted { revision: self.revision(), deleted: gone.len() as u64 }
    }

    fn failed(&self, key: &[u8], condition: Option<Condition>) -> Option<Outcome> {
        let (mod_revision, version) =
            self.now().get(key).map_or((0, 0), |row| (row.mod_revision, row.version));
        let holds = match condition {
            None => true,
            Some(Condition::ModRevision(wanted)) => mod_revision == wanted && wanted != 0,
            Some(Condition::Exists) => mod_revision != 0,
            Some(Condition::Absent) => mod_revision == 0,
            Some(Condition::Version(wanted)) => version == wanted,
        };
        let revision = self.revision();
        (!holds).then_some(Outcome::PreconditionFailed { revision, mod_revision, version })
    }

    /// Adds a revision: what is not there any more as it was is superseded by it.
    fn become_state(&mut self, state: State) {
        let revision = self.revision() + 1;
        for (key, row) in self.now().clone() {
            if state.get(&key) != Some(&row) {
                self.superseded.push((revision, size(&key, &row)));
            }
        }
        plain_lease::sweep(&mut self.leases, &state);
        self.states.push(state);
    }

    /// The keys that a revision changed, in their order.
    pub fn changed_by(&self, revision: u64) -> Vec<Vec<u8>> {
        let (before, after) = (self.at(revision - 1), self.at(revision));
        let mut keys: Vec<&Vec<u8>> = before.keys().chain(after.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter().filter(|key| before.get(*key) != after.get(*key)).cloned().collect()
    }
}

/// The number that a counter's text stands for, digit by digit.
fn counted(text: &[u8]) -> Option<i128> {
    let (digits, sign) = match text.strip_prefix(b"-") {
        Some(digits) => (digits, -1),
        None => (text, 1),
    };
    let is_canonical = match digits {
        [b'0'] => sign == 1,
        [first, ..] => *first != b'0' && digits.len() < 20,
        [] => false,
    };
    if !is_canonical || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |sum, digit| sum * 10 + i128::from(digit - b'0')) * sign;
    (-(1 << 63)..1 << 63).contains(&number).then_some(number)
}

fn bytes_of(decided: &Decided) -> u64 {
    decided.outcome.encode().len() as u64
}

fn size(key: &[u8], row: &Row) -> u64 {
    (key.len() + row.value.len()) as u64 + OVERHEAD_BYTES
}
