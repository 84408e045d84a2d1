//! The bytes of a snapshot file except its rows. `docs/storage-format.md` describes them.

use serde::Deserialize;

use super::SnapshotHeader;
use crate::bytes::u32_at;
use crate::raft::{PROTOCOL, Protocol, VersionMismatch, check_version};

/// The version of the whole file. A higher version is refused.
pub(super) const VERSION: u32 = 1;

/// Rows are cut into chunks of at most this size.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// Bytes before a header's JSON.
pub(super) const HEAD_BYTES: usize = 20;

/// Bytes before a chunk.
pub(super) const CHUNK_HEAD_BYTES: usize = 8;

/// Bytes after the end chunk: the number of rows, then the CRC of everything before it.
pub(super) const TRAILER_BYTES: usize = 12;

/// Maximum length of a header: checked before memory is allocated for one.
pub(super) const MAX_HEADER_BYTES: usize = 8 << 20;

const MAGIC: [u8; 8] = *b"dkvsnaps";

/// Magic, version, length of the JSON, CRC of these and of the JSON; then the JSON.
pub(super) fn encode_header(header: &SnapshotHeader) -> Vec<u8> {
    let json = serde_json::to_vec(header).expect("plain data serialises");
    assert!(json.len() <= MAX_HEADER_BYTES, "a header of {} bytes exceeds every limit", json.len());
    let mut bytes = Vec::with_capacity(HEAD_BYTES + json.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), &json);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&json);
    bytes
}

/// Length of the JSON after a head. The error text says what is wrong.
pub(super) fn header_len(head: &[u8]) -> Result<usize, &'static str> {
    if head[..8] != MAGIC {
        return Err("it does not begin like a snapshot");
    }
    let len = u32_at(head, 12) as usize;
    if len > MAX_HEADER_BYTES { Err("its header claims to be longer than any is") } else { Ok(len) }
}

/// Why this program cannot read a header.
pub(super) enum HeaderError {
    /// The file is of a later format.
    NewerFormat(u32),
    /// The state in it is at a version that this program does not read.
    Version(VersionMismatch),
    Broken(String),
}

/// Only the version of the state; other fields of the header are ignored.
#[derive(Deserialize)]
struct Peek {
    meta: PeekMeta,
}

#[derive(Deserialize)]
struct PeekMeta {
    version: Protocol,
}

pub(super) fn decode_header(head: &[u8], json: &[u8]) -> Result<SnapshotHeader, HeaderError> {
    if u32_at(head, 16) != crc32c::crc32c_append(crc32c::crc32c(&head[..16]), json) {
        return Err(HeaderError::Broken("the checksum of its header does not match".to_owned()));
    }
    match u32_at(head, 8) {
        VERSION => serde_json::from_slice(json).map_err(|e| {
            let broken = HeaderError::Broken(format!("its header does not parse: {e}"));
            let peek = serde_json::from_slice::<Peek>(json);
            let mismatch = peek.ok().and_then(|peek| check_version(peek.meta.version, PROTOCOL).err());
            mismatch.map_or(broken, HeaderError::Version)
        }),
        version if version > VERSION => Err(HeaderError::NewerFormat(version)),
        version => Err(HeaderError::Broken(format!("there is no format version {version}"))),
    }
}

/// Appends a chunk to `out`; an empty one ends the rows.
pub(super) fn put_chunk(out: &mut Vec<u8>, rows: &[u8]) {
    let len = (rows.len() as u32).to_le_bytes();
    out.extend_from_slice(&len);
    out.extend_from_slice(&chunk_crc(&len, rows).to_le_bytes());
    out.extend_from_slice(rows);
}

/// Length and CRC of the chunk after its head. `None` when the length is above the maximum.
pub(super) fn chunk_len(head: &[u8]) -> Option<(usize, u32)> {
    let len = u32_at(head, 0) as usize;
    (len <= CHUNK_BYTES).then(|| (len, u32_at(head, 4)))
}

pub(super) fn chunk_crc(len: &[u8], rows: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(len), rows)
}
