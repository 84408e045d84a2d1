//! What a transaction answers, and its byte form.
//!
//! ```text
//! 8     revision
//! 1     succeeded   0 no, 1 yes
//! 4     results     how many, then each:
//!   1   tag
//!   put       1     8 create_revision, 8 version, 1 prev: 0 not asked for, 1 there was none, 2 then the row
//!   delete    2     8 deleted, 1 prev: 0 not asked for, 1 then 4 how many and the rows
//!   get       3     1: 0 no such key, 1 then the row
//!   list      4     8 count, 1 more: 0 no, 1 yes, 4 how many and the rows
//!   txn       5     1 succeeded, 4 how many and the results
//! row   8 create_revision, 8 mod_revision, 8 version, 8 lease: 0 none, 4 and the key, 1: 0 no value, 1 then 4 and the
//!       value
//! ```

use super::LeaseId;
use super::outcome_error::OutcomeError;

/// A key as a read shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub key: Vec<u8>,
    /// Its value; None: only keys were asked for.
    pub value: Option<Vec<u8>>,
    /// The revision at which it was created.
    pub create_revision: u64,
    /// The revision at which it got its value.
    pub mod_revision: u64,
    /// How many times it was put since it was created.
    pub version: u64,
    /// The lease that it is attached to.
    pub lease: Option<LeaseId>,
}

/// What a transaction did and read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnAnswer {
    /// The store's revision: made by the transaction, or the one it found when it wrote nothing.
    pub revision: u64,
    /// Whether all comparisons held.
    pub succeeded: bool,
    /// One for each operation of the branch that was executed.
    pub results: Vec<TxnResult>,
}

/// What one operation of a transaction did or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnResult {
    /// The key has the value.
    Put {
        /// The revision at which the key was created.
        create_revision: u64,
        /// How many times it was put since, this one included.
        version: u64,
        /// The record before, where it was asked for.
        prev: Option<Option<Row>>,
    },
    /// The keys are absent.
    Delete {
        /// How many were removed.
        deleted: u64,
        /// Those that were, where they were asked for.
        prev: Option<Vec<Row>>,
    },
    /// The key, if it exists.
    Get(Option<Row>),
    /// The keys of a range.
    List {
        /// How many rows there are; of a count, how many keys the range has.
        count: u64,
        /// Whether the range has more keys than the limit of rows.
        more: bool,
        /// The rows.
        rows: Vec<Row>,
    },
    /// What a nested transaction did.
    Txn {
        /// Whether all of its comparisons held.
        succeeded: bool,
        /// One for each operation of the branch that was executed.
        results: Vec<TxnResult>,
    },
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const GET: u8 = 3;
const LIST: u8 = 4;
const TXN: u8 = 5;

impl Row {
    /// How long its byte form is.
    pub fn encoded_len(&self) -> usize {
        37 + self.key.len() + self.value.as_ref().map_or(0, |value| 4 + value.len())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let Row { key, value, create_revision, mod_revision, version, lease } = self;
        let lease = lease.map_or(0, LeaseId::get);
        put_numbers(&[*create_revision, *mod_revision, *version, lease], out);
        put_sized(key, out);
        out.push(u8::from(value.is_some()));
        if let Some(value) = value {
            put_sized(value, out);
        }
    }
}

impl TxnResult {
    /// How long its byte form is.
    pub fn encoded_len(&self) -> usize {
        let rows = |rows: &[Row]| 4 + rows.iter().map(Row::encoded_len).sum::<usize>();
        1 + match self {
            TxnResult::Put { prev, .. } => 17 + prev.iter().flatten().map(Row::encoded_len).sum::<usize>(),
            TxnResult::Delete { prev, .. } => 9 + prev.as_deref().map_or(0, rows),
            TxnResult::Get(row) => 1 + row.as_ref().map_or(0, Row::encoded_len),
            TxnResult::List { rows: found, .. } => 9 + rows(found),
            TxnResult::Txn { results, .. } => 5 + results.iter().map(TxnResult::encoded_len).sum::<usize>(),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            TxnResult::Put { create_revision, version, prev } => {
                out.push(PUT);
                put_numbers(&[*create_revision, *version], out);
                match prev {
                    None => out.push(0),
                    Some(None) => out.push(1),
                    Some(Some(row)) => {
                        out.push(2);
                        row.encode(out);
                    }
                }
            }
            TxnResult::Delete { deleted, prev } => {
                out.push(DELETE);
                put_numbers(&[*deleted], out);
                out.push(u8::from(prev.is_some()));
                if let Some(rows) = prev {
                    encode_rows(rows, out);
                }
            }
            TxnResult::Get(row) => {
                out.extend_from_slice(&[GET, u8::from(row.is_some())]);
                if let Some(row) = row {
                    row.encode(out);
                }
            }
            TxnResult::List { count, more, rows } => {
                out.push(LIST);
                put_numbers(&[*count], out);
                out.push(u8::from(*more));
                encode_rows(rows, out);
            }
            TxnResult::Txn { succeeded, results } => {
                out.extend_from_slice(&[TXN, u8::from(*succeeded)]);
                encode_results(results, out);
            }
        }
    }
}

impl TxnAnswer {
    /// How long its byte form is.
    pub fn encoded_len(&self) -> usize {
        13 + self.results.iter().map(TxnResult::encoded_len).sum::<usize>()
    }

    /// Appends its byte form: each answer has exactly one.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_numbers(&[self.revision], out);
        out.push(u8::from(self.succeeded));
        encode_results(&self.results, out);
    }

    /// Reads a byte form, which is all of `bytes`.
    ///
    /// # Errors
    /// The bytes are no answer.
    pub(super) fn decode(tag: u8, bytes: &[u8]) -> Result<TxnAnswer, OutcomeError> {
        let mut reader = Reader { tag, all: bytes.len(), rest: bytes };
        let answer = TxnAnswer {
            revision: reader.number()?,
            succeeded: reader.flag()?,
            results: reader.results(super::MAX_TXN_DEPTH)?,
        };
        if reader.rest.is_empty() { Ok(answer) } else { Err(reader.wrong()) }
    }

    /// How many keys were put and how many removed, by nested transactions too.
    pub fn written(&self) -> (u64, u64) {
        fn written(results: &[TxnResult]) -> (u64, u64) {
            results.iter().fold((0, 0), |(puts, deleted), result| match result {
                TxnResult::Put { .. } => (puts + 1, deleted),
                TxnResult::Delete { deleted: more, .. } => (puts, deleted + more),
                TxnResult::Get(_) | TxnResult::List { .. } => (puts, deleted),
                TxnResult::Txn { results, .. } => {
                    let (more_puts, more_deleted) = written(results);
                    (puts + more_puts, deleted + more_deleted)
                }
            })
        }
        written(&self.results)
    }
}

fn encode_rows(rows: &[Row], out: &mut Vec<u8>) {
    put_count(rows.len(), out);
    rows.iter().for_each(|row| row.encode(out));
}

fn encode_results(results: &[TxnResult], out: &mut Vec<u8>) {
    put_count(results.len(), out);
    results.iter().for_each(|result| result.encode(out));
}

fn put_numbers(numbers: &[u64], out: &mut Vec<u8>) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    let count = u32::try_from(count).expect("an answer is far below 4 GiB");
    out.extend_from_slice(&count.to_le_bytes());
}

fn put_sized(bytes: &[u8], out: &mut Vec<u8>) {
    put_count(bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// What is left to decode.
struct Reader<'a> {
    tag: u8,
    all: usize,
    rest: &'a [u8],
}

impl Reader<'_> {
    fn wrong(&self) -> OutcomeError {
        OutcomeError::Length { tag: self.tag, bytes: 1 + self.all }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], OutcomeError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or_else(|| self.wrong())?;
        self.rest = rest;
        Ok(*head)
    }

    fn number(&mut self) -> Result<u64, OutcomeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A tag below `end`.
    fn tag(&mut self, end: u8) -> Result<u8, OutcomeError> {
        let [tag] = self.array()?;
        if tag < end { Ok(tag) } else { Err(OutcomeError::Unknown(tag)) }
    }

    fn flag(&mut self) -> Result<bool, OutcomeError> {
        self.tag(2).map(|flag| flag == 1)
    }

    fn sized(&mut self) -> Result<Vec<u8>, OutcomeError> {
        let len = u32::from_le_bytes(self.array()?) as usize;
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.wrong())?;
        self.rest = rest;
        Ok(head.to_vec())
    }

    fn row(&mut self) -> Result<Row, OutcomeError> {
        let (create_revision, mod_revision, version) = (self.number()?, self.number()?, self.number()?);
        let lease = match self.number()? {
            0 => None,
            number => Some(LeaseId::new(number).ok_or_else(|| self.wrong())?),
        };
        let key = self.sized()?;
        let value = if self.flag()? { Some(self.sized()?) } else { None };
        Ok(Row { key, value, create_revision, mod_revision, version, lease })
    }

    /// Takes no memory for more than there is.
    fn rows(&mut self) -> Result<Vec<Row>, OutcomeError> {
        let count = u32::from_le_bytes(self.array()?);
        (0..count).map(|_| self.row()).collect::<Result<_, _>>()
    }

    fn results(&mut self, depth: usize) -> Result<Vec<TxnResult>, OutcomeError> {
        let Some(depth) = depth.checked_sub(1) else { return Err(OutcomeError::Unknown(TXN)) };
        let count = u32::from_le_bytes(self.array()?);
        (0..count).map(|_| self.result(depth)).collect::<Result<_, _>>()
    }

    fn result(&mut self, depth: usize) -> Result<TxnResult, OutcomeError> {
        let [tag] = self.array()?;
        Ok(match tag {
            PUT => {
                let (create_revision, version) = (self.number()?, self.number()?);
                let prev = match self.tag(3)? {
                    0 => None,
                    1 => Some(None),
                    _ => Some(Some(self.row()?)),
                };
                TxnResult::Put { create_revision, version, prev }
            }
            DELETE => {
                let deleted = self.number()?;
                TxnResult::Delete { deleted, prev: if self.flag()? { Some(self.rows()?) } else { None } }
            }
            GET => TxnResult::Get(if self.flag()? { Some(self.row()?) } else { None }),
            LIST => TxnResult::List { count: self.number()?, more: self.flag()?, rows: self.rows()? },
            TXN => TxnResult::Txn { succeeded: self.flag()?, results: self.results(depth)? },
            unknown => return Err(OutcomeError::Unknown(unknown)),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An answer with every kind of result in every form.
    pub(in crate::vocabulary) fn full() -> TxnAnswer {
        let row = |value: Option<&[u8]>| Row {
            key: b"k".to_vec(),
            value: value.map(<[u8]>::to_vec),
            create_revision: 2,
            mod_revision: 3,
            version: 4,
            lease: value.and(LeaseId::new(8)),
        };
        let put = |prev| TxnResult::Put { create_revision: 5, version: 6, prev };
        let results = vec![
            put(None),
            put(Some(None)),
            put(Some(Some(row(Some(b"v"))))),
            TxnResult::Delete { deleted: 0, prev: None },
            TxnResult::Delete { deleted: 2, prev: Some(vec![row(Some(b"")), row(Some(b"w"))]) },
            TxnResult::Get(None),
            TxnResult::Get(Some(row(Some(b"v")))),
            TxnResult::List { count: 9, more: false, rows: Vec::new() },
            TxnResult::List { count: 1, more: true, rows: vec![row(None)] },
        ];
        let nested = TxnResult::Txn { succeeded: false, results: results.clone() };
        let results = results.into_iter().chain([nested]).collect();
        TxnAnswer { revision: 7, succeeded: true, results }
    }

    #[test]
    fn decode_is_the_inverse_of_encode_and_the_length_is_told_beforehand() {
        let answer = full();
        let mut bytes = Vec::new();
        answer.encode(&mut bytes);
        assert_eq!(bytes.len(), answer.encoded_len());
        assert_eq!(TxnAnswer::decode(9, &bytes), Ok(answer));
        for cut in 0..bytes.len() {
            assert!(TxnAnswer::decode(9, &bytes[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut other = bytes.clone();
                other[at] ^= 1 << bit;
                if let Ok(decoded) = TxnAnswer::decode(9, &other) {
                    let mut again = Vec::new();
                    decoded.encode(&mut again);
                    assert_eq!(again, other, "one byte form for each answer");
                }
            }
        }
        bytes.push(0);
        assert!(TxnAnswer::decode(9, &bytes).is_err(), "a byte more");
    }

    #[test]
    fn encode_writes_the_documented_bytes() {
        let row = Row {
            key: b"k".to_vec(),
            value: Some(b"vw".to_vec()),
            create_revision: 2,
            mod_revision: 3,
            version: 4,
            lease: LeaseId::new(6),
        };
        let answer = TxnAnswer { revision: 5, succeeded: true, results: vec![TxnResult::Get(Some(row))] };
        let mut bytes = Vec::new();
        answer.encode(&mut bytes);
        let n = |n: u8| [n, 0, 0, 0, 0, 0, 0, 0];
        let head = [&n(5)[..], &[1, 1, 0, 0, 0]].concat();
        let row = [&n(2)[..], &n(3), &n(4), &n(6), &[1, 0, 0, 0, b'k', 1, 2, 0, 0, 0, b'v', b'w']].concat();
        assert_eq!(bytes, [&head[..], &[3, 1], &row].concat());
    }

    #[test]
    fn written_counts_nested_writes_too() {
        assert_eq!(full().written(), (6, 4));
    }
}
