//! The rows of a snapshot: `docs/storage-format.md` describes them. Integers are little-endian.

use std::sync::Arc;

use crate::store::dedup::Row;
use crate::store::kv::{LeaseRow, Numbers};
use crate::vocabulary::LeaseId;

const KEY: u8 = 1;
const VALUE: u8 = 2;
const DELETION: u8 = 3;
const IDEMPOTENCY: u8 = 4;
const LEASE: u8 = 5;
const LEASED_VALUE: u8 = 6;

/// Maximum length of a key or a value: no command that fits into a frame has a longer one. A length is checked
/// against this before its bytes are read.
const MAX_FIELD_BYTES: usize = crate::raft::MAX_PAYLOAD_BYTES;

/// One row.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) enum AnyRow<'a> {
    /// The key of the versions after it.
    Key(&'a [u8]),
    /// A lease.
    Lease(LeaseRow),
    /// A version; without a value it is a deletion.
    Version(Numbers, Option<&'a [u8]>),
    /// An outcome.
    Idempotency(Row),
}

pub(in crate::store) fn put_key(buf: &mut Vec<u8>, key: &[u8]) {
    buf.push(KEY);
    put_sized(buf, key);
}

pub(in crate::store) fn put_version(buf: &mut Vec<u8>, numbers: Numbers, value: Option<&[u8]>) {
    let Numbers { mod_revision, create_revision, version, lease } = numbers;
    match (value, lease) {
        (Some(value), None) => {
            buf.push(VALUE);
            put_numbers(buf, &[mod_revision, create_revision, version]);
            put_sized(buf, value);
        }
        (Some(value), Some(lease)) => {
            buf.push(LEASED_VALUE);
            put_numbers(buf, &[mod_revision, create_revision, version, lease.get()]);
            put_sized(buf, value);
        }
        (None, _) => {
            buf.push(DELETION);
            put_numbers(buf, &[mod_revision]);
        }
    }
}

pub(in crate::store) fn put_lease(buf: &mut Vec<u8>, row: &LeaseRow) {
    let LeaseRow { lease, ttl_s, deadline, is_own } = *row;
    buf.push(LEASE);
    put_numbers(buf, &[lease.get(), ttl_s, deadline]);
    buf.push(u8::from(is_own));
}

pub(in crate::store) fn put_idempotency(buf: &mut Vec<u8>, row: &Row) {
    buf.push(IDEMPOTENCY);
    buf.extend_from_slice(&row.cluster_time.to_le_bytes());
    buf.extend_from_slice(&row.request_hash.to_le_bytes());
    put_sized(buf, row.outcome_bytes());
    put_sized(buf, row.key.as_bytes());
}

fn put_numbers(buf: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| buf.extend_from_slice(&number.to_le_bytes()));
}

fn put_sized(buf: &mut Vec<u8>, bytes: &[u8]) {
    buf.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    buf.extend_from_slice(bytes);
}

/// Reads the row at the beginning of `bytes` and its length; `None` when the row continues after the end of `bytes`.
/// The error text says what is wrong.
pub(in crate::store) fn decode(bytes: &[u8]) -> Result<Option<(AnyRow<'_>, usize)>, String> {
    let mut reader = Reader { bytes, at: 0 };
    Ok(reader.row()?.map(|row| (row, reader.at)))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn row(&mut self) -> Result<Option<AnyRow<'a>>, String> {
        let Some([kind]) = self.array() else { return Ok(None) };
        match kind {
            KEY => Ok(self.sized()?.map(AnyRow::Key)),
            VALUE => {
                let Some([mod_revision, create_revision, version]) = self.numbers() else { return Ok(None) };
                let Some(value) = self.sized()? else { return Ok(None) };
                let numbers = Numbers { mod_revision, create_revision, version, lease: None };
                Ok(Some(AnyRow::Version(numbers, Some(value))))
            }
            LEASED_VALUE => {
                let Some([mod_revision, create_revision, version, lease]) = self.numbers() else {
                    return Ok(None);
                };
                let lease = Some(LeaseId::new(lease).ok_or("a version has a lease that no lease is called")?);
                let Some(value) = self.sized()? else { return Ok(None) };
                let numbers = Numbers { mod_revision, create_revision, version, lease };
                Ok(Some(AnyRow::Version(numbers, Some(value))))
            }
            LEASE => self.lease(),
            DELETION => {
                let Some([mod_revision]) = self.numbers() else { return Ok(None) };
                let numbers = Numbers { mod_revision, create_revision: 0, version: 0, lease: None };
                Ok(Some(AnyRow::Version(numbers, None)))
            }
            IDEMPOTENCY => self.idempotency(),
            kind => Err(format!("unknown row kind {kind}")),
        }
    }

    fn lease(&mut self) -> Result<Option<AnyRow<'a>>, String> {
        let Some([lease, ttl_s, deadline]) = self.numbers() else { return Ok(None) };
        let Some([own]) = self.array() else { return Ok(None) };
        let lease = LeaseId::new(lease).ok_or("a lease is called 0, or too great a number")?;
        let is_own = match own {
            0 | 1 => own == 1,
            other => return Err(format!("a lease has {other} where 0 or 1 says whether it is a key's own")),
        };
        Ok(Some(AnyRow::Lease(LeaseRow { lease, ttl_s, deadline, is_own })))
    }

    fn idempotency(&mut self) -> Result<Option<AnyRow<'a>>, String> {
        let Some([cluster_time]) = self.numbers() else { return Ok(None) };
        let Some(request_hash) = self.array().map(u128::from_le_bytes) else { return Ok(None) };
        let Some(outcome) = self.sized()? else { return Ok(None) };
        let Some(key) = self.sized()? else { return Ok(None) };
        let key: Arc<str> = str::from_utf8(key).map_err(|_| "an idempotency key is not UTF-8")?.into();
        let row = Row::from_bytes(cluster_time, key, request_hash, outcome).map_err(|e| e.to_string())?;
        Ok(Some(AnyRow::Idempotency(row)))
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.bytes.get(self.at..)?.first_chunk()?;
        self.at += N;
        Some(array)
    }

    fn numbers<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = u64::from_le_bytes(self.array()?);
        }
        Some(numbers)
    }

    fn sized(&mut self) -> Result<Option<&'a [u8]>, String> {
        let Some(len) = self.array().map(u32::from_le_bytes) else { return Ok(None) };
        let len = len as usize;
        if len > MAX_FIELD_BYTES {
            return Err(format!("a field claims {len} bytes, more than any has"));
        }
        let Some(field) = self.bytes.get(self.at..self.at + len) else { return Ok(None) };
        self.at += len;
        Ok(Some(field))
    }
}
