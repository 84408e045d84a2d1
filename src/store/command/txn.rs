//! A transaction: comparisons, and the operations of the branch that they choose, as one step at one revision.
//!
//! ```text
//! 2, n  comparisons  how many, then each:
//!   1     target     1 version, 2 create revision, 3 mod revision, 4 value, 5 lease
//!   1     operator   1 equal, 2 not equal, 3 less, 4 greater
//!   n     keys
//!   8     number     with the targets 1 to 3 and 5 (0: no lease); with 4: 4, n value
//! 2, n  then         how many operations, then each; 2, n otherwise: the same
//!   1     operation  1 put, 2 delete, 3 get, 4 list, 5 transaction
//!   put:    4, n key   1 value: 0 kept, 1 then 4, n   n lease, as `lease.rs` says   1 prev: 0 no, 1 yes
//!   delete: n keys     1 prev: 0 no, 1 yes
//!   get:    4, n key   1 at a revision: 0 no, 1 then 8
//!   list:   n keys     1 at a revision: 0 no, 1 then 8   8 limit: 0 none   1 flags: 1 descending, 2 keys only,
//!           4 count only   1 sort: 0 by key   1 filters: 0
//!   transaction: as this whole
//! keys  1 form: 1 one key, then 4, n; 2 a range, then start, ends and end as in a delete of a range
//! ```
//!
//! All comparisons, those of nested transactions too, look at the state before the outermost transaction, as etcd's do.
//! Reads see what the operations before them have written. One operation that fails undoes all.
//!
//! What a transaction may read and look at is limited: every member executes it, and nothing else is applied meanwhile.
//! The limits are decided by the log alone, so every member decides the same.

use std::ops::ControlFlow;

use super::delete_range;
use super::lease;
use super::{Change, CommandError, Fingerprint, Op, Outcome, Reader, put_sized};
use crate::store::record::{ReadError, Record};
use crate::vocabulary::{
    Compare, Keys, LeaseId, MAX_TXN_DEPTH, Operator, PutLease, Row, Target, Txn, TxnAnswer, TxnError,
    TxnList, TxnOp, TxnResult,
};

/// Maximum length of an answer, in bytes of its byte form. Part of the state machine's definition: it must be the same
/// on all members.
const MAX_ANSWER_BYTES: usize = 3 << 19;

/// Maximum number of keys that the ranges of one transaction look at, keys that exist and keys of which the history has
/// a trace, each time that they are looked at. Part of the state machine's definition.
const MAX_LOOKED_AT: u64 = 100_000;

// ---- the byte form -------------------------------------------------------------------------------------------------------

const VERSION: u8 = 1;
const CREATE_REVISION: u8 = 2;
const MOD_REVISION: u8 = 3;
const VALUE: u8 = 4;
const LEASE: u8 = 5;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const GET: u8 = 3;
const LIST: u8 = 4;
const TXN: u8 = 5;

const ONE_KEY: u8 = 1;
const RANGE: u8 = 2;

const DESCENDING: u8 = 1;
const KEYS_ONLY: u8 = 2;
const COUNT_ONLY: u8 = 4;

/// Rows in the order of their keys.
const BY_KEY: u8 = 0;
/// All rows.
const NO_FILTERS: u8 = 0;

/// The fields whose unknown values a newer program may have written: they are reserved for it.
pub(super) const NEWER_FIELDS: [&str; 6] =
    ["target", "keys", "transaction's operation", "flags", "sort", "filters"];

pub(super) fn encoded_len(txn: &Txn) -> usize {
    let compare = |compare: &Compare| {
        2 + keys_len(&compare.keys)
            + match &compare.target {
                Target::Version(_)
                | Target::CreateRevision(_)
                | Target::ModRevision(_)
                | Target::Lease(_) => 8,
                Target::Value(value) => 4 + value.len(),
            }
    };
    let revision = |revision: Option<u64>| 1 + revision.map_or(0, |_| 8);
    let op = |op: &TxnOp| {
        1 + match op {
            TxnOp::Put { key, value, lease, .. } => {
                let value_len = value.as_ref().map_or(0, |value| 4 + value.len());
                6 + key.len() + value_len + lease::put_len(*lease)
            }
            TxnOp::Delete { keys, .. } => 1 + keys_len(keys),
            TxnOp::Get { key, revision: at } => 4 + key.len() + revision(*at),
            TxnOp::List(list) => 1 + delete_range::encoded_len(&list.range) + revision(list.revision) + 11,
            TxnOp::Txn(txn) => encoded_len(txn),
        }
    };
    6 + txn.compares.iter().map(compare).sum::<usize>()
        + txn.then.iter().chain(&txn.otherwise).map(op).sum::<usize>()
}

fn keys_len(keys: &Keys) -> usize {
    1 + match keys {
        Keys::One(key) => 4 + key.len(),
        Keys::Range(range) => delete_range::encoded_len(range),
    }
}

/// Panics when the transaction is none that [`Txn::check`] allows.
pub(super) fn encode(txn: &Txn, out: &mut Vec<u8>) {
    if let Err(e) = txn.check() {
        panic!("{e}");
    }
    encode_checked(txn, out);
}

fn encode_checked(txn: &Txn, out: &mut Vec<u8>) {
    put_count(txn.compares.len(), out);
    for Compare { keys, operator, target } in &txn.compares {
        let tag = match target {
            Target::Version(_) => VERSION,
            Target::CreateRevision(_) => CREATE_REVISION,
            Target::ModRevision(_) => MOD_REVISION,
            Target::Value(_) => VALUE,
            Target::Lease(_) => LEASE,
        };
        out.extend_from_slice(&[tag, operator_tag(*operator)]);
        encode_keys(keys, out);
        match target {
            Target::Version(number) | Target::CreateRevision(number) | Target::ModRevision(number) => {
                out.extend_from_slice(&number.to_le_bytes());
            }
            Target::Lease(lease) => {
                out.extend_from_slice(&lease.map_or(0, LeaseId::get).to_le_bytes());
            }
            Target::Value(value) => put_sized(value, out),
        }
    }
    for ops in [&txn.then, &txn.otherwise] {
        put_count(ops.len(), out);
        ops.iter().for_each(|op| encode_op(op, out));
    }
}

fn encode_op(op: &TxnOp, out: &mut Vec<u8>) {
    let put_revision = |revision: Option<u64>, out: &mut Vec<u8>| {
        out.push(u8::from(revision.is_some()));
        revision.iter().for_each(|revision| out.extend_from_slice(&revision.to_le_bytes()));
    };
    match op {
        TxnOp::Put { key, value, lease, prev } => {
            out.push(PUT);
            put_sized(key, out);
            out.push(u8::from(value.is_some()));
            value.iter().for_each(|value| put_sized(value, out));
            lease::encode_put(*lease, out);
            out.push(u8::from(*prev));
        }
        TxnOp::Delete { keys, prev } => {
            out.push(DELETE);
            encode_keys(keys, out);
            out.push(u8::from(*prev));
        }
        TxnOp::Get { key, revision } => {
            out.push(GET);
            put_sized(key, out);
            put_revision(*revision, out);
        }
        TxnOp::List(TxnList { range, revision, limit, is_descending, keys_only, count_only }) => {
            out.extend_from_slice(&[LIST, RANGE]);
            delete_range::encode(range, out);
            put_revision(*revision, out);
            out.extend_from_slice(&limit.to_le_bytes());
            let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
            let flags = flag(*is_descending, DESCENDING)
                | flag(*keys_only, KEYS_ONLY)
                | flag(*count_only, COUNT_ONLY);
            out.extend_from_slice(&[flags, BY_KEY, NO_FILTERS]);
        }
        TxnOp::Txn(txn) => {
            out.push(TXN);
            encode_checked(txn, out);
        }
    }
}

fn encode_keys(keys: &Keys, out: &mut Vec<u8>) {
    match keys {
        Keys::One(key) => {
            out.push(ONE_KEY);
            put_sized(key, out);
        }
        Keys::Range(range) => {
            out.push(RANGE);
            delete_range::encode(range, out);
        }
    }
}

fn operator_tag(operator: Operator) -> u8 {
    match operator {
        Operator::Equal => 1,
        Operator::NotEqual => 2,
        Operator::Less => 3,
        Operator::Greater => 4,
    }
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    let count = u16::try_from(count).expect("a transaction was checked");
    out.extend_from_slice(&count.to_le_bytes());
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Op, CommandError> {
    let txn = decode_txn(reader, MAX_TXN_DEPTH)?;
    // What is executed is checked by every member, wherever the bytes come from.
    txn.check().map_err(CommandError::Txn)?;
    Ok(Op::Txn { txn })
}

fn decode_txn(reader: &mut Reader<'_>, depth: usize) -> Result<Txn, CommandError> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(CommandError::Txn(TxnError::TooDeep));
    };
    let compares = many(reader, "comparisons", decode_compare)?;
    let then = many(reader, "then", |reader| decode_op(reader, depth))?;
    let otherwise = many(reader, "otherwise", |reader| decode_op(reader, depth))?;
    Ok(Txn { compares, then, otherwise })
}

/// Takes no memory for more than there is.
fn many<T>(
    reader: &mut Reader<'_>,
    field: &'static str,
    mut decode: impl FnMut(&mut Reader<'_>) -> Result<T, CommandError>,
) -> Result<Vec<T>, CommandError> {
    let count = u16::from_le_bytes(reader.array(field)?);
    (0..count).map(|_| decode(reader)).collect::<Result<_, _>>()
}

fn decode_compare(reader: &mut Reader<'_>) -> Result<Compare, CommandError> {
    let tag = reader.byte("target")?;
    let operator = match reader.byte("operator")? {
        1 => Operator::Equal,
        2 => Operator::NotEqual,
        3 => Operator::Less,
        4 => Operator::Greater,
        value => return Err(CommandError::Unknown { field: "operator", value }),
    };
    let keys = decode_keys(reader)?;
    let target = match tag {
        VERSION => Target::Version(reader.u64("number")?),
        CREATE_REVISION => Target::CreateRevision(reader.u64("number")?),
        MOD_REVISION => Target::ModRevision(reader.u64("number")?),
        VALUE => Target::Value(reader.sized("value")?),
        LEASE => Target::Lease(match reader.u64("number")? {
            0 => None,
            number => Some(LeaseId::new(number).ok_or(CommandError::Lease(number))?),
        }),
        value => return Err(CommandError::Unknown { field: "target", value }),
    };
    Ok(Compare { keys, operator, target })
}

fn decode_op(reader: &mut Reader<'_>, depth: usize) -> Result<TxnOp, CommandError> {
    Ok(match reader.byte("transaction's operation")? {
        PUT => {
            let key = reader.sized("key")?;
            let value = if flag(reader, "value")? { Some(reader.sized("value")?) } else { None };
            let lease = lease::decode_put(reader)?;
            TxnOp::Put { key, value, lease, prev: flag(reader, "prev")? }
        }
        DELETE => TxnOp::Delete { keys: decode_keys(reader)?, prev: flag(reader, "prev")? },
        GET => TxnOp::Get { key: reader.sized("key")?, revision: decode_revision(reader)? },
        LIST => {
            only(reader, "keys of a list", RANGE)?;
            let range = delete_range::decode_range(reader)?;
            let (revision, limit) = (decode_revision(reader)?, reader.u64("limit")?);
            let flags = reader.byte("flags")?;
            if flags > DESCENDING | KEYS_ONLY | COUNT_ONLY {
                return Err(CommandError::Unknown { field: "flags", value: flags });
            }
            only(reader, "sort", BY_KEY)?;
            only(reader, "filters", NO_FILTERS)?;
            let is_set = |flag: u8| flags & flag != 0;
            let (is_descending, keys_only) = (is_set(DESCENDING), is_set(KEYS_ONLY));
            let count_only = is_set(COUNT_ONLY);
            TxnOp::List(TxnList { range, revision, limit, is_descending, keys_only, count_only })
        }
        TXN => TxnOp::Txn(decode_txn(reader, depth)?),
        value => return Err(CommandError::Unknown { field: "transaction's operation", value }),
    })
}

fn decode_keys(reader: &mut Reader<'_>) -> Result<Keys, CommandError> {
    match reader.byte("keys")? {
        ONE_KEY => Ok(Keys::One(reader.sized("key")?)),
        RANGE => Ok(Keys::Range(delete_range::decode_range(reader)?)),
        value => Err(CommandError::Unknown { field: "keys", value }),
    }
}

fn decode_revision(reader: &mut Reader<'_>) -> Result<Option<u64>, CommandError> {
    if flag(reader, "at a revision")? { Ok(Some(reader.u64("revision")?)) } else { Ok(None) }
}

fn flag(reader: &mut Reader<'_>, field: &'static str) -> Result<bool, CommandError> {
    match reader.byte(field)? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(CommandError::Unknown { field, value }),
    }
}

/// A byte that has one value so far.
fn only(reader: &mut Reader<'_>, field: &'static str, wanted: u8) -> Result<(), CommandError> {
    match reader.byte(field)? {
        value if value == wanted => Ok(()),
        value => Err(CommandError::Unknown { field, value }),
    }
}

/// Two requests with one byte form are one request, whatever the proposer has called the leases that begin.
pub(super) fn hash(txn: &Txn, hash: &mut Fingerprint) {
    let mut bytes = Vec::with_capacity(encoded_len(txn));
    let mut asked_for = txn.clone();
    asked_for.for_each_put(&mut |lease| *lease = lease::asked_for(*lease));
    encode(&asked_for, &mut bytes);
    hash.sized(&bytes);
}

// ---- its meaning ---------------------------------------------------------------------------------------------------------

pub(super) fn execute(txn: Txn, change: &mut Change<'_>) -> Outcome {
    let mut run = Run { change, answer_bytes: 0, looked_at: 0, removed: 0, removed_bytes: 0 };
    // What every answer has.
    let empty = TxnAnswer { revision: 0, succeeded: true, results: Vec::new() }.encoded_len();
    let executed = run.spend(empty).and_then(|()| run.branch(txn));
    match executed {
        Ok((succeeded, results)) => {
            let revision = if change.has_writes() { change.revision() } else { change.base_revision() };
            Outcome::Txn(Box::new(TxnAnswer { revision, succeeded, results }))
        }
        Err(failed) => {
            change.abandon();
            failed
        }
    }
}

/// A transaction that is executed.
struct Run<'a, 'b> {
    change: &'a mut Change<'b>,
    /// What the answer has so far, in bytes.
    answer_bytes: usize,
    /// Keys that ranges looked at.
    looked_at: u64,
    /// Keys that were removed, and the bytes of history that they take.
    removed: u64,
    removed_bytes: u64,
}

type Failed = Outcome;

impl Run<'_, '_> {
    /// Executes the branch that the comparisons choose.
    fn branch(&mut self, txn: Txn) -> Result<(bool, Vec<TxnResult>), Failed> {
        let Txn { compares, then, otherwise } = txn;
        let mut succeeded = true;
        for compare in &compares {
            succeeded = succeeded && self.holds(compare)?;
        }
        let ops = if succeeded { then } else { otherwise };
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            results.push(self.op(op)?);
        }
        Ok((succeeded, results))
    }

    fn op(&mut self, op: TxnOp) -> Result<TxnResult, Failed> {
        match op {
            TxnOp::Put { key, value, lease, prev } => self.put(key, value, lease, prev),
            TxnOp::Delete { keys, prev } => self.delete(keys, prev),
            TxnOp::Get { key, revision } => self.get(&key, revision),
            TxnOp::List(list) => self.list(&list),
            TxnOp::Txn(txn) => {
                self.spend(TxnResult::Txn { succeeded: true, results: Vec::new() }.encoded_len())?;
                let (succeeded, results) = self.branch(txn)?;
                Ok(TxnResult::Txn { succeeded, results })
            }
        }
    }

    /// The comparison looks at the state before the transaction, whatever was written so far.
    fn holds(&mut self, compare: &Compare) -> Result<bool, Failed> {
        let Compare { keys, operator, target } = compare;
        let holds = |found: Option<&Record<'_>>| {
            let number = |found: u64, wanted: u64| operator.holds(&found, &wanted);
            match target {
                Target::Version(wanted) => number(found.map_or(0, |found| found.version), *wanted),
                Target::CreateRevision(wanted) => {
                    number(found.map_or(0, |found| found.create_revision), *wanted)
                }
                Target::ModRevision(wanted) => number(found.map_or(0, |found| found.mod_revision), *wanted),
                // What does not exist has no value, not an empty one.
                Target::Lease(wanted) => {
                    let numbers = [found.and_then(|found| found.lease), *wanted];
                    let [found, wanted] = numbers.map(|lease| lease.map_or(0, LeaseId::get));
                    number(found, wanted)
                }
                Target::Value(wanted) => found.is_some_and(|found| operator.holds(found.value, &wanted[..])),
            }
        };
        let base = self.change.base_revision();
        let range = match keys {
            Keys::One(key) => return Ok(holds(self.change.read_at(key, base).as_ref())),
            Keys::Range(range) => range,
        };
        let (mut is_empty, mut all_hold, mut looked_at) = (true, true, self.looked_at);
        self.change.walk_at(range, false, base, &mut |_, found| {
            looked_at += 1;
            if let Some(found) = found {
                is_empty = false;
                all_hold = all_hold && holds(Some(&found));
            }
            go_on(all_hold && looked_at <= MAX_LOOKED_AT)
        });
        self.look(looked_at)?;
        Ok(if is_empty { holds(None) } else { all_hold })
    }

    fn put(
        &mut self,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
        lease: PutLease,
        prev: bool,
    ) -> Result<TxnResult, Failed> {
        let before = if prev || value.is_none() { self.change.read(&key) } else { None };
        let value = match (value, &before) {
            (Some(value), _) => value,
            (None, Some(before)) => before.value.to_vec(),
            (None, None) => return Err(Outcome::KeyNotFound { revision: self.change.base_revision() }),
        };
        let prev = prev.then(|| before.as_ref().map(|before| row(before, false)));
        let lease = lease::lease_of_put(lease, &key, self.change)?;
        let (create_revision, version) = self.change.put(key, value, lease);
        self.keep(TxnResult::Put { create_revision, version, prev })
    }

    fn delete(&mut self, keys: Keys, prev: bool) -> Result<TxnResult, Failed> {
        let max_bytes = self.change.settings().retention_bytes / 2;
        let (mut gone, mut rows, mut looked_at) = (Vec::new(), Vec::new(), self.looked_at);
        let (mut removed, mut removed_bytes) = (self.removed, self.removed_bytes);
        // Rows are not copied any more once they are too many.
        let mut bytes = self.answer_bytes;
        let mut take = |found: &Record<'_>| {
            gone.push(found.key.to_vec());
            removed += 1;
            removed_bytes += found.retained_bytes();
            if prev {
                let row = row(found, false);
                bytes += row.encoded_len();
                rows.push(row);
            }
            // One key alone always fits, as it does in a delete of a range.
            bytes <= MAX_ANSWER_BYTES && (removed == 1 || removed_bytes <= max_bytes)
        };
        match &keys {
            Keys::One(key) => {
                if let Some(found) = self.change.read(key) {
                    take(&found);
                }
            }
            Keys::Range(range) => self.change.walk_now(range, false, &mut |_, found| {
                looked_at += 1;
                go_on(found.is_none_or(|found| take(&found)) && looked_at <= MAX_LOOKED_AT)
            }),
        }
        (self.removed, self.removed_bytes) = (removed, removed_bytes);
        if removed > 1 && removed_bytes > max_bytes {
            return Err(Outcome::RangeTooLarge { max_keys: MAX_LOOKED_AT, max_bytes });
        }
        self.look(looked_at)?;
        let deleted = gone.len() as u64;
        gone.into_iter().for_each(|key| self.change.delete(key));
        self.keep(TxnResult::Delete { deleted, prev: prev.then_some(rows) })
    }

    fn get(&mut self, key: &[u8], revision: Option<u64>) -> Result<TxnResult, Failed> {
        let found = match revision {
            Some(revision) => {
                self.check_readable(revision)?;
                self.change.read_at(key, revision)
            }
            None => self.change.read(key),
        };
        let row = found.map(|found| row(&found, false));
        self.keep(TxnResult::Get(row))
    }

    fn list(&mut self, list: &TxnList) -> Result<TxnResult, Failed> {
        let TxnList { range, revision, limit, is_descending, keys_only, count_only } = list;
        let (mut count, mut more, mut rows) = (0, false, Vec::<Row>::new());
        let (mut looked_at, mut bytes) = (self.looked_at, self.answer_bytes);
        let mut take = |_: &[u8], found: Option<Record<'_>>| {
            looked_at += 1;
            if let Some(found) = found {
                more = !count_only && *limit > 0 && count == *limit;
                if more {
                    return ControlFlow::Break(());
                }
                count += 1;
                if !count_only {
                    let row = row(&found, *keys_only);
                    bytes += row.encoded_len();
                    rows.push(row);
                }
            }
            go_on(bytes <= MAX_ANSWER_BYTES && looked_at <= MAX_LOOKED_AT)
        };
        match revision {
            Some(revision) => {
                self.check_readable(*revision)?;
                self.change.walk_at(range, *is_descending, *revision, &mut take);
            }
            None => self.change.walk_now(range, *is_descending, &mut take),
        }
        self.look(looked_at)?;
        self.keep(TxnResult::List { count, more, rows })
    }

    fn check_readable(&self, wanted: u64) -> Result<(), Failed> {
        self.change.check_readable(wanted).map_err(|error| match error {
            ReadError::Compacted { wanted, floor } => Outcome::Compacted { wanted, floor },
            ReadError::Future { wanted, revision } => Outcome::FutureRevision { wanted, revision },
        })
    }

    /// Ranges have looked at so many keys now.
    fn look(&mut self, looked_at: u64) -> Result<(), Failed> {
        self.looked_at = looked_at;
        if looked_at > MAX_LOOKED_AT { Err(too_large()) } else { Ok(()) }
    }

    /// The answer gets a result.
    fn keep(&mut self, result: TxnResult) -> Result<TxnResult, Failed> {
        self.spend(result.encoded_len()).map(|()| result)
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Failed> {
        self.answer_bytes += bytes;
        if self.answer_bytes > MAX_ANSWER_BYTES { Err(too_large()) } else { Ok(()) }
    }
}

/// A copy.
fn row(record: &Record<'_>, keys_only: bool) -> Row {
    let Record { key, value, create_revision, mod_revision, version, lease } = *record;
    let value = (!keys_only).then(|| value.to_vec());
    Row { key: key.to_vec(), value, create_revision, mod_revision, version, lease }
}

fn too_large() -> Outcome {
    Outcome::TxnTooLarge { max_bytes: MAX_ANSWER_BYTES as u64, max_keys: MAX_LOOKED_AT }
}

fn go_on(is_wanted: bool) -> ControlFlow<()> {
    if is_wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}
