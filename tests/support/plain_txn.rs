//! What a transaction means, as plainly as it can be said: a copy of the state is changed step by step, and thrown away
//! when a step fails.
//!
//! The limits of what a transaction may read and look at are left out: no test with a plain map has so much.

use dkv::vocabulary::{
    Compare, KeyRange, Keys, LeaseId, Operator, Outcome, Row as Shown, Target, Txn, TxnAnswer, TxnList,
    TxnOp, TxnResult,
};

use super::plain_lease::{self, Leases};
use super::{MAX_RANGE_KEYS, Model, Row, State, size};

/// A transaction that is executed.
struct Run<'a> {
    model: &'a Model,
    state: State,
    leases: Leases,
    wrote: bool,
    removed: usize,
    removed_bytes: u64,
}

impl Model {
    /// Executes a transaction: all of it, or nothing.
    pub fn txn(&mut self, txn: &Txn) -> Outcome {
        let state = self.now().clone();
        let leases = self.leases.clone();
        let mut run = Run { model: self, state, leases, wrote: false, removed: 0, removed_bytes: 0 };
        let (succeeded, results) = match run.txn(txn) {
            Ok(done) => done,
            Err(failed) => return failed,
        };
        let Run { state, leases, wrote, .. } = run;
        if wrote {
            self.leases = leases;
            self.become_state(state);
        }
        Outcome::Txn(Box::new(TxnAnswer { revision: self.revision(), succeeded, results }))
    }
}

fn is_inside(keys: &Keys, key: &[u8]) -> bool {
    match keys {
        Keys::One(one) => one == key,
        Keys::Range(range) => is_in_range(range, key),
    }
}

fn is_in_range(range: &KeyRange, key: &[u8]) -> bool {
    range.start() <= key && range.end().is_none_or(|end| key < end)
}

fn show(key: &[u8], row: &Row, keys_only: bool) -> Shown {
    Shown {
        key: key.to_vec(),
        value: if keys_only { None } else { Some(row.value.clone()) },
        create_revision: row.create_revision,
        mod_revision: row.mod_revision,
        version: row.version,
        lease: row.lease,
    }
}

fn compares<T: PartialOrd>(operator: Operator, found: T, wanted: T) -> bool {
    match operator {
        Operator::Equal => found == wanted,
        Operator::NotEqual => !(found == wanted),
        Operator::Less => found < wanted,
        Operator::Greater => found > wanted,
    }
}

impl Run<'_> {
    fn txn(&mut self, txn: &Txn) -> Result<(bool, Vec<TxnResult>), Outcome> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        let mut results = Vec::new();
        for op in ops {
            results.push(self.op(op)?);
        }
        Ok((succeeded, results))
    }

    /// Of the state before the whole transaction.
    fn holds(&self, compare: &Compare) -> bool {
        let holds_of = |row: Option<&Row>| match &compare.target {
            Target::Version(wanted) => compares(compare.operator, row.map_or(0, |row| row.version), *wanted),
            Target::CreateRevision(wanted) => {
                compares(compare.operator, row.map_or(0, |row| row.create_revision), *wanted)
            }
            Target::ModRevision(wanted) => {
                compares(compare.operator, row.map_or(0, |row| row.mod_revision), *wanted)
            }
            Target::Lease(wanted) => {
                let number = |lease: Option<LeaseId>| lease.map_or(0, LeaseId::get);
                compares(compare.operator, number(row.and_then(|row| row.lease)), number(*wanted))
            }
            Target::Value(wanted) => match row {
                None => false,
                Some(row) => compares(compare.operator, &row.value, wanted),
            },
        };
        let before = self.model.now();
        let inside: Vec<&Row> =
            before.iter().filter(|(key, _)| is_inside(&compare.keys, key)).map(|(_, row)| row).collect();
        if inside.is_empty() { holds_of(None) } else { inside.into_iter().all(|row| holds_of(Some(row))) }
    }

    fn op(&mut self, op: &TxnOp) -> Result<TxnResult, Outcome> {
        Ok(match op {
            TxnOp::Put { key, value, lease, prev } => {
                let old = self.state.get(key).cloned();
                let value = match (value, &old) {
                    (Some(value), _) => value.clone(),
                    (None, Some(old)) => old.value.clone(),
                    (None, None) => {
                        return Err(Outcome::KeyNotFound { revision: self.model.revision() });
                    }
                };
                let before = old.as_ref().map(|old| old.lease);
                let (revision, now) = (self.model.revision(), self.model.now);
                let lease = plain_lease::of_put(&mut self.leases, *lease, before, revision, now)?;
                let revision = revision + 1;
                let create_revision = old.as_ref().map_or(revision, |old| old.create_revision);
                let version = old.as_ref().map_or(1, |old| old.version + 1);
                let prev = if *prev { Some(old.map(|old| show(key, &old, false))) } else { None };
                let row = Row { value, create_revision, mod_revision: revision, version, lease };
                self.state.insert(key.clone(), row);
                self.wrote = true;
                TxnResult::Put { create_revision, version, prev }
            }
            TxnOp::Delete { keys, prev } => {
                let gone: Vec<(Vec<u8>, Row)> = self
                    .state
                    .iter()
                    .filter(|(key, _)| is_inside(keys, key))
                    .map(|(key, row)| (key.clone(), row.clone()))
                    .collect();
                self.removed += gone.len();
                self.removed_bytes += gone.iter().map(|(key, row)| size(key, row)).sum::<u64>();
                let max_bytes = self.model.rules.retention_bytes / 2;
                if self.removed > 1 && self.removed_bytes > max_bytes {
                    return Err(Outcome::RangeTooLarge { max_keys: MAX_RANGE_KEYS as u64, max_bytes });
                }
                self.wrote |= !gone.is_empty();
                gone.iter().for_each(|(key, _)| drop(self.state.remove(key)));
                let rows: Vec<Shown> = gone.iter().map(|(key, row)| show(key, row, false)).collect();
                TxnResult::Delete { deleted: gone.len() as u64, prev: if *prev { Some(rows) } else { None } }
            }
            TxnOp::Get { key, revision } => {
                let state = self.state_at(*revision)?;
                TxnResult::Get(state.get(key).map(|row| show(key, row, false)))
            }
            TxnOp::List(list) => self.list(list)?,
            TxnOp::Txn(txn) => {
                let (succeeded, results) = self.txn(txn)?;
                TxnResult::Txn { succeeded, results }
            }
        })
    }

    fn list(&self, list: &TxnList) -> Result<TxnResult, Outcome> {
        let state = self.state_at(list.revision)?;
        let mut rows: Vec<Shown> = state
            .iter()
            .filter(|(key, _)| is_in_range(&list.range, key))
            .map(|(key, row)| show(key, row, list.keys_only))
            .collect();
        if list.count_only {
            return Ok(TxnResult::List { count: rows.len() as u64, more: false, rows: Vec::new() });
        }
        if list.is_descending {
            rows.reverse();
        }
        let all = rows.len() as u64;
        if list.limit > 0 {
            rows.truncate(list.limit as usize);
        }
        Ok(TxnResult::List { count: rows.len() as u64, more: (rows.len() as u64) < all, rows })
    }

    fn state_at(&self, revision: Option<u64>) -> Result<&State, Outcome> {
        let Some(wanted) = revision else { return Ok(&self.state) };
        let (revision, floor) = (self.model.revision(), self.model.floor());
        match wanted {
            _ if wanted > revision => Err(Outcome::FutureRevision { wanted, revision }),
            _ if wanted < floor => Err(Outcome::Compacted { wanted, floor }),
            _ => Ok(self.model.at(wanted)),
        }
    }
}

/// What is remembered of an outcome that is not remembered whole.
pub(super) fn in_short(outcome: &Outcome) -> Outcome {
    fn count(results: &[TxnResult], puts: &mut u64, deleted: &mut u64) {
        for result in results {
            match result {
                TxnResult::Put { .. } => *puts += 1,
                TxnResult::Delete { deleted: more, .. } => *deleted += more,
                TxnResult::Txn { results, .. } => count(results, puts, deleted),
                TxnResult::Get(_) | TxnResult::List { .. } => {}
            }
        }
    }
    let Outcome::Txn(answer) = outcome else { return outcome.clone() };
    let (mut puts, mut deleted) = (0, 0);
    count(&answer.results, &mut puts, &mut deleted);
    Outcome::TxnShort { revision: answer.revision, succeeded: answer.succeeded, puts, deleted }
}
