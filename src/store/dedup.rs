//! The idempotency table: the outcome of every keyed write, kept for the idempotency window of cluster time, so that
//! a repetition is answered and not executed (thesis §6.3, with the client's key in the place of a session).
//!
//! Rows leave by age alone. A full table refuses new keys rather than forget an old one: forgetting would turn a
//! retry into a second execution.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::command::{Domain, Fingerprint, Idempotency, Outcome};
use crate::raft::{Settings, Stamp};

/// What the table knows of a keyed command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// The key is not in the table.
    New,
    /// The same request was decided before.
    Decided(Outcome),
    /// The key belongs to another request.
    Mismatch,
}

#[derive(Clone, Debug)]
struct Row {
    stamp: Stamp,
    request_hash: u128,
    outcome: Outcome,
}

impl Row {
    fn fingerprint(&self, key: &str) -> u128 {
        let numbers: [u64; 4] = match self.outcome {
            Outcome::Put { revision, create_revision, version } => [1, revision, create_revision, version],
            Outcome::Deleted { revision, deleted } => [2, revision, deleted, 0],
            Outcome::PreconditionFailed { revision, mod_revision } => [3, revision, mod_revision, 0],
            Outcome::IdempotencyMismatch => [4, 0, 0, 0],
            Outcome::Overloaded => [5, 0, 0, 0],
        };
        let mut hash = Fingerprint::new(Domain::IdempotencyRow);
        hash.number(self.stamp).bytes(&self.request_hash.to_le_bytes());
        for number in numbers {
            hash.number(number);
        }
        hash.sized(key.as_bytes()).finish()
    }
}

/// The rows by key and by age. Stamps given to it never decrease.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    rows: BTreeMap<Arc<str>, Row>,
    /// The same rows, oldest first.
    by_age: VecDeque<(Stamp, Arc<str>)>,
    /// Sum of the rows' fingerprints.
    hash: u128,
}

impl Dedup {
    /// Drops the rows older than the window at `now`.
    pub(super) fn expire(&mut self, now: Stamp, settings: &Settings) {
        let oldest = oldest_kept(now, settings);
        if self.by_age.back().is_some_and(|(newest, _)| *newest < oldest) {
            // After a quiet time everything goes at once: a million single removals would hold up the applier.
            *self = Dedup::default();
            return;
        }
        while let Some((stamp, _)) = self.by_age.front()
            && *stamp < oldest
        {
            let (_, key) = self.by_age.pop_front().expect("looked at just now");
            let row = self.rows.remove(&key).expect("both sides hold the same rows");
            self.hash = self.hash.wrapping_sub(row.fingerprint(&key));
        }
    }

    /// What is known of `wanted`. Call [`Dedup::expire`] first.
    pub(super) fn lookup(&self, wanted: &Idempotency) -> Lookup {
        match self.rows.get(wanted.key.as_str()) {
            None => Lookup::New,
            Some(row) if row.request_hash == wanted.request_hash => Lookup::Decided(row.outcome.clone()),
            Some(_) => Lookup::Mismatch,
        }
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether a new key finds the table full. Call [`Dedup::expire`] first.
    pub(super) fn is_full(&self, settings: &Settings) -> bool {
        self.rows.len() as u64 >= settings.idempotency_rows
    }

    /// Whether [`Dedup::is_full`] would say so for `key`, were it new, after expiry at `now`.
    pub(super) fn would_refuse(&self, key: &str, now: Stamp, settings: &Settings) -> bool {
        // A key that would have expired by then has made room for itself.
        if self.rows.contains_key(key) {
            return false;
        }
        let oldest = oldest_kept(now, settings);
        let expired = self.by_age.partition_point(|(stamp, _)| *stamp < oldest);
        (self.by_age.len() - expired) as u64 >= settings.idempotency_rows
    }

    /// Remembers the outcome of a key that [`Dedup::lookup`] called new.
    pub(super) fn store(&mut self, wanted: Idempotency, outcome: Outcome, now: Stamp) {
        let key: Arc<str> = wanted.key.into();
        let row = Row { stamp: now, request_hash: wanted.request_hash, outcome };
        self.hash = self.hash.wrapping_add(row.fingerprint(&key));
        self.by_age.push_back((now, Arc::clone(&key)));
        let previous = self.rows.insert(key, row);
        assert!(previous.is_none(), "an idempotency row is written once");
    }

    /// Sum of the rows' fingerprints: equal tables have equal sums, however they came about.
    pub(super) fn hash(&self) -> u128 {
        self.hash
    }
}

/// Rows with a smaller stamp are older than the window at `now`.
fn oldest_kept(now: Stamp, settings: &Settings) -> Stamp {
    now.saturating_sub(settings.idempotency_window_s.saturating_mul(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Stamp = 1_000_000;

    fn settings(window_s: u64, rows: u64) -> Settings {
        Settings { idempotency_window_s: window_s, idempotency_rows: rows, ..Settings::default() }
    }

    fn named(key: &str, request_hash: u128) -> Idempotency {
        Idempotency { key: key.into(), request_hash }
    }

    fn outcome(revision: u64) -> Outcome {
        Outcome::Deleted { revision, deleted: 1 }
    }

    /// Puts `rows` of (key, stamp) into a table.
    fn table(rows: &[(&str, Stamp)]) -> Dedup {
        let mut dedup = Dedup::default();
        for (key, stamp) in rows {
            dedup.store(named(key, 1), outcome(*stamp), *stamp);
        }
        dedup
    }

    #[test]
    fn expire_keeps_a_row_for_the_whole_window_and_no_longer() {
        let settings = settings(10, 9);
        let mut dedup = table(&[("a", 5), ("b", SECOND)]);
        dedup.expire(10 * SECOND + 5, &settings);
        assert_eq!(dedup.lookup(&named("a", 1)), Lookup::Decided(outcome(5)));
        dedup.expire(10 * SECOND + 6, &settings);
        assert_eq!(dedup.lookup(&named("a", 1)), Lookup::New);
        assert_eq!(dedup.lookup(&named("b", 1)), Lookup::Decided(outcome(SECOND)));
    }

    #[test]
    fn lookup_with_another_request_is_a_mismatch_and_keeps_the_row() {
        let dedup = table(&[("a", 5)]);
        assert_eq!(dedup.lookup(&named("a", 2)), Lookup::Mismatch);
        assert_eq!(dedup.lookup(&named("a", 1)), Lookup::Decided(outcome(5)));
    }

    #[test]
    fn would_refuse_agrees_with_expiry_and_room() {
        let settings = settings(10, 2);
        for (now, key) in
            [(7, "a"), (7, "c"), (10 * SECOND + 6, "a"), (10 * SECOND + 6, "c"), (u64::MAX, "c")]
        {
            let mut dedup = table(&[("a", 5), ("b", 7)]);
            let early = dedup.would_refuse(key, now, &settings);
            dedup.expire(now, &settings);
            let late = dedup.lookup(&named(key, 1)) == Lookup::New && dedup.is_full(&settings);
            assert_eq!(early, late, "{key} at {now}");
        }
        assert!(table(&[("a", 5), ("b", 7)]).would_refuse("c", 7, &settings));
        assert!(!table(&[("a", 5), ("b", 7)]).would_refuse("a", 7, &settings));
    }

    #[test]
    fn hash_depends_on_the_rows_alone() {
        let settings = settings(10, 9);
        let mut longer = table(&[("x", 1), ("a", SECOND), ("b", 2 * SECOND)]);
        longer.expire(10 * SECOND + 2, &settings);
        assert_eq!(longer.hash(), table(&[("a", SECOND), ("b", 2 * SECOND)]).hash());
        assert_ne!(longer.hash(), table(&[("a", SECOND), ("c", 2 * SECOND)]).hash());
        longer.expire(u64::MAX, &settings);
        assert_eq!(longer.hash(), 0);
        assert!(longer.rows.is_empty() && longer.by_age.is_empty());
    }
}
