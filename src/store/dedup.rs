//! The idempotency table: the outcome of every keyed write, kept for the idempotency window of cluster time, so that
//! a repetition is answered and not executed (thesis §6.3, with the client's key in the place of a session).
//!
//! Rows are removed only by age. A full table refuses new keys and does not forget an old key: forgetting would turn
//! a retry into a second execution. Outcomes may be as long as what a transaction read. So their bytes have a limit too:
//! what exceeds it is remembered without what was read.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::command::{Domain, Fingerprint, Idempotency};
use crate::raft::{ClusterTime, Settings};
use crate::vocabulary::{Outcome, OutcomeError};

/// Longest outcome that is remembered whole. Part of the state machine's definition: it must be the same on all members.
const MAX_OUTCOME_BYTES: usize = 16 << 10;

/// What the table knows about a keyed command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// The key is not in the table.
    New,
    /// The same request was decided before.
    Decided(Outcome),
    /// The key belongs to another request.
    Mismatch,
}

/// The outcome of one keyed write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub cluster_time: ClusterTime,
    pub key: Arc<str>,
    pub request_hash: u128,
    /// [`Outcome::encode`]: it may have any length, and the table need not know what outcomes there are.
    outcome: Box<[u8]>,
}

impl Row {
    /// A row whose outcome is given as bytes.
    ///
    /// # Errors
    /// The bytes are not an outcome.
    pub(super) fn from_bytes(
        cluster_time: ClusterTime,
        key: Arc<str>,
        request_hash: u128,
        outcome: &[u8],
    ) -> Result<Row, OutcomeError> {
        Outcome::decode(outcome)?;
        Ok(Row { cluster_time, key, request_hash, outcome: outcome.into() })
    }

    /// The outcome as bytes.
    pub(super) fn outcome_bytes(&self) -> &[u8] {
        &self.outcome
    }

    /// The outcome.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome::decode(&self.outcome).expect("a row is made of an outcome")
    }

    fn fingerprint(&self) -> u128 {
        let mut hash = Fingerprint::new(Domain::IdempotencyRow);
        hash.number(self.cluster_time).bytes(&self.request_hash.to_le_bytes());
        hash.sized(&self.outcome).sized(self.key.as_bytes()).finish()
    }
}

/// The rows by key and by age. Cluster times given to it never decrease.
///
/// The place of a row never changes: it is the number of rows before it since the table was made. So a pinned view
/// can page through the rows by place while the oldest rows leave.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    /// The place of each key's row.
    places: BTreeMap<Arc<str>, u64>,
    /// The rows, oldest first.
    by_age: VecDeque<Row>,
    /// The place of the oldest row: how many have left.
    gone: u64,
    /// Sum of the rows' fingerprints.
    hash: u128,
    /// Length of all outcomes together.
    outcome_bytes: u64,
}

/// The rows that have left since a view was pinned, and belong to it.
#[derive(Debug)]
pub(super) struct KeptRows {
    /// The place of the first row of the view.
    first: u64,
    /// The place after its last row.
    end: u64,
    /// The rows that left one by one, from `first` on.
    single: Vec<Row>,
    /// The table that left as a whole after them.
    whole: Option<Dedup>,
}

impl KeptRows {
    /// The places of the view's rows.
    pub(super) fn places(&self) -> Range<u64> {
        self.first..self.end
    }
}

impl Dedup {
    /// Begins to keep the rows that leave from now on.
    pub(super) fn pin(&self) -> KeptRows {
        let end = self.gone + self.by_age.len() as u64;
        KeptRows { first: self.gone, end, single: Vec::new(), whole: None }
    }

    /// The row at a place of a pinned view.
    pub(super) fn row<'a>(&'a self, place: u64, kept: &'a KeptRows) -> &'a Row {
        let at = |from: u64| usize::try_from(place - from).expect("a place within a table");
        if place >= self.gone {
            return &self.by_age[at(self.gone)];
        }
        kept.single.get(at(kept.first)).unwrap_or_else(|| {
            let whole = kept.whole.as_ref().expect("a row of the view is in the table or was kept");
            &whole.by_age[at(whole.gone)]
        })
    }

    /// Drops the rows older than the window at `now`; moves them into `kept`, if they belong to a pinned view.
    pub(super) fn expire(&mut self, now: ClusterTime, settings: &Settings, mut kept: Option<&mut KeptRows>) {
        let oldest = oldest_kept(now, settings);
        if self.by_age.back().is_some_and(|newest| newest.cluster_time < oldest) {
            // After a quiet time all rows are removed together: a million single removals would delay the applier.
            let gone = self.gone + self.by_age.len() as u64;
            let whole = std::mem::replace(self, Dedup { gone, ..Dedup::default() });
            if let Some(kept) = kept
                && whole.gone < kept.end
            {
                kept.whole = Some(whole);
            }
            return;
        }
        while self.by_age.front().is_some_and(|row| row.cluster_time < oldest) {
            let row = self.by_age.pop_front().expect("looked at just now");
            let place = self.places.remove(&row.key);
            assert_eq!(place, Some(self.gone), "both sides hold the same rows");
            self.hash = self.hash.wrapping_sub(row.fingerprint());
            self.outcome_bytes -= row.outcome.len() as u64;
            if let Some(kept) = kept.as_deref_mut()
                && self.gone < kept.end
            {
                kept.single.push(row);
            }
            self.gone += 1;
        }
    }

    /// What is known about `wanted`. Call [`Dedup::expire`] first.
    pub(super) fn lookup(&self, wanted: &Idempotency) -> Lookup {
        let place = self.places.get(wanted.key.as_str());
        match place.map(|place| &self.by_age[(place - self.gone) as usize]) {
            None => Lookup::New,
            Some(row) if row.request_hash == wanted.request_hash => Lookup::Decided(row.outcome()),
            Some(_) => Lookup::Mismatch,
        }
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Whether a new key finds the table full. Call [`Dedup::expire`] first.
    pub(super) fn is_full(&self, settings: &Settings) -> bool {
        self.by_age.len() as u64 >= settings.idempotency_rows
    }

    /// Whether `key` would be a new key in a full table, as [`Dedup::is_full`] says, after expiry at `now`.
    pub(super) fn would_refuse(&self, key: &str, now: ClusterTime, settings: &Settings) -> bool {
        // A key that would have expired by then frees its own place.
        if self.places.contains_key(key) {
            return false;
        }
        let oldest = oldest_kept(now, settings);
        let expired = self.by_age.partition_point(|row| row.cluster_time < oldest);
        (self.by_age.len() - expired) as u64 >= settings.idempotency_rows
    }

    /// Remembers the outcome of a key that [`Dedup::lookup`] called new; in its short form when it is long, or when the
    /// outcomes would have more bytes together than `settings` allow. The short form has a few dozen bytes and always
    /// finds its place, as the rows are limited in number.
    pub(super) fn store(
        &mut self,
        wanted: Idempotency,
        outcome: &Outcome,
        now: ClusterTime,
        settings: &Settings,
    ) {
        let Idempotency { key, request_hash } = wanted;
        let mut bytes = outcome.encode();
        let room = settings.idempotency_bytes.saturating_sub(self.outcome_bytes);
        if bytes.len() > MAX_OUTCOME_BYTES || bytes.len() as u64 > room {
            bytes = outcome.shortened().encode();
        }
        let row = Row { cluster_time: now, key: key.into(), request_hash, outcome: bytes.into() };
        self.outcome_bytes += row.outcome.len() as u64;
        let place = self.gone + self.by_age.len() as u64;
        let previous = self.places.insert(Arc::clone(&row.key), place);
        assert!(previous.is_none(), "an idempotency row is written once");
        self.hash = self.hash.wrapping_add(row.fingerprint());
        self.by_age.push_back(row);
    }

    /// The table that has these rows, given oldest first. `None` when cluster times decrease or a key is there twice.
    pub(super) fn from_rows(rows: Vec<Row>) -> Option<Dedup> {
        let is_ordered = rows.is_sorted_by_key(|row| row.cluster_time);
        let hash = rows.iter().fold(0u128, |sum, row| sum.wrapping_add(row.fingerprint()));
        let places: BTreeMap<_, _> = rows.iter().map(|row| Arc::clone(&row.key)).zip(0..).collect();
        let is_unique = places.len() == rows.len();
        let outcome_bytes = rows.iter().map(|row| row.outcome.len() as u64).sum();
        (is_ordered && is_unique).then(|| Dedup { places, by_age: rows.into(), gone: 0, hash, outcome_bytes })
    }

    /// Sum of the rows' fingerprints: equal tables have equal sums, independently of their history.
    pub(super) fn hash(&self) -> u128 {
        self.hash
    }
}

/// Rows with a smaller cluster time are older than the window at `now`.
fn oldest_kept(now: ClusterTime, settings: &Settings) -> ClusterTime {
    now.saturating_sub(settings.idempotency_window_s.saturating_mul(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::{TxnAnswer, TxnResult};

    const SECOND: ClusterTime = 1_000_000;

    fn settings(window_s: u64, rows: u64) -> Settings {
        Settings { idempotency_window_s: window_s, idempotency_rows: rows, ..Settings::default() }
    }

    fn named(key: &str, request_hash: u128) -> Idempotency {
        Idempotency { key: key.into(), request_hash }
    }

    fn outcome(revision: u64) -> Outcome {
        Outcome::Deleted { revision, deleted: 1 }
    }

    /// Puts `rows` of (key, cluster time) into a table.
    fn table(rows: &[(&str, ClusterTime)]) -> Dedup {
        let mut dedup = Dedup::default();
        for (key, cluster_time) in rows {
            dedup.store(named(key, 1), &outcome(*cluster_time), *cluster_time, &Settings::default());
        }
        dedup
    }

    #[test]
    fn expire_keeps_a_row_for_the_whole_window_and_no_longer() {
        let settings = settings(10, 9);
        let mut dedup = table(&[("a", 5), ("b", SECOND)]);
        dedup.expire(10 * SECOND + 5, &settings, None);
        assert_eq!(dedup.lookup(&named("a", 1)), Lookup::Decided(outcome(5)));
        dedup.expire(10 * SECOND + 6, &settings, None);
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
            dedup.expire(now, &settings, None);
            let late = dedup.lookup(&named(key, 1)) == Lookup::New && dedup.is_full(&settings);
            assert_eq!(early, late, "{key} at {now}");
        }
        assert!(table(&[("a", 5), ("b", 7)]).would_refuse("c", 7, &settings));
        assert!(!table(&[("a", 5), ("b", 7)]).would_refuse("a", 7, &settings));
    }

    /// What a snapshot brings must leave as much room as what was applied, or members remember different outcomes.
    #[test]
    fn a_table_from_rows_has_the_same_room_for_outcomes() {
        let short = Outcome::TxnShort { revision: 1, succeeded: true, puts: 0, deleted: 0 };
        let answer = TxnAnswer { revision: 1, succeeded: true, results: Vec::new() };
        let whole = Outcome::Txn(Box::new(TxnAnswer {
            results: vec![TxnResult::Delete { deleted: 0, prev: None }; 20],
            ..answer
        }));
        let room = 2 * whole.encoded_len() as u64;
        let settings = Settings { idempotency_bytes: room, ..settings(10, 9) };
        let mut dedup = Dedup::default();
        dedup.store(named("a", 1), &whole, 1, &settings);
        let rows: Vec<Row> = dedup.by_age.iter().cloned().collect();
        let mut other = Dedup::from_rows(rows).expect("they are in order");
        for table in [&mut dedup, &mut other] {
            table.store(named("b", 1), &whole, 2, &settings);
            table.store(named("c", 1), &whole, 3, &settings);
            assert_eq!(table.lookup(&named("b", 1)), Lookup::Decided(whole.clone()), "exactly as much");
            assert_eq!(table.lookup(&named("c", 1)), Lookup::Decided(short.clone()));
        }
        assert_eq!(dedup.hash(), other.hash());
        dedup.expire(u64::MAX, &settings, None);
        assert_eq!(dedup.outcome_bytes, 0);
    }

    #[test]
    fn hash_depends_on_the_rows_alone() {
        let settings = settings(10, 9);
        let mut longer = table(&[("x", 1), ("a", SECOND), ("b", 2 * SECOND)]);
        longer.expire(10 * SECOND + 2, &settings, None);
        assert_eq!(longer.hash(), table(&[("a", SECOND), ("b", 2 * SECOND)]).hash());
        assert_ne!(longer.hash(), table(&[("a", SECOND), ("c", 2 * SECOND)]).hash());
        longer.expire(u64::MAX, &settings, None);
        assert_eq!(longer.hash(), 0);
        assert!(longer.places.is_empty() && longer.by_age.is_empty());
    }
}
