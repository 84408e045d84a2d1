//! The bytes of the log: batch headers, segment headers, records. `docs/storage-format.md` describes them.
//!
//! Everything here is a pure function of bytes; integers are little-endian.

use std::fmt;

use crate::bytes::{u32_at, u64_at};
use crate::raft::{ClusterId, Entry, FrameError, HardState, Index, MemberId, Position, Term, WriteOp};

use super::WalIds;

/// Batches begin at multiples of this; a synced block is never written again.
pub(super) const BLOCK_BYTES: usize = 4096;

/// Bytes of a batch header.
pub(super) const BATCH_HEADER_BYTES: usize = 80;

/// The version of everything in a segment. A higher version is refused.
pub(super) const VERSION: u32 = 1;

/// Where the segment header lies in the first block of a segment's first batch.
const SEGMENT_HEADER_AT: usize = 128;
const SEGMENT_HEADER_BYTES: usize = 64;

const BATCH_MAGIC: [u8; 8] = *b"dkvbatch";
const SEGMENT_MAGIC: [u8; 8] = *b"dkvsegmt";

const RECORD_ENTRY: u8 = 1;
const RECORD_RESET: u8 = 2;
const RESET_RECORD_BYTES: usize = 17;

/// The name of a segment file: `<sequence>-<nonce>.wal`, both 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentName {
    /// 1, 2, 3 ... without a gap.
    pub sequence: u64,
    /// Random; every batch header of the segment repeats it.
    pub nonce: u64,
}

impl SegmentName {
    /// Reads a file name; `None` when it is not exactly of this form.
    pub(super) fn parse(name: &str) -> Option<SegmentName> {
        let (sequence, nonce) = name.strip_suffix(".wal")?.split_once('-')?;
        let hex = |digits: &str| {
            let plain = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        Some(SegmentName { sequence: hex(sequence)?, nonce: hex(nonce)? })
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}.wal", self.sequence, self.nonce)
    }
}

/// The header at the beginning of each batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    /// The segment's nonce.
    pub nonce: u64,
    /// The block of the segment in which the batch begins.
    pub block: u64,
    /// Blocks of this segment that were synced when the batch was written: at most `block`.
    pub synced_through: u64,
    /// Term and vote after the batch.
    pub hard_state: HardState,
    /// Number of records.
    pub records: u32,
    /// Bytes from the batch's beginning to the end of its last record.
    pub length: u64,
    /// The header CRC of the previous batch, across segments; 0 in the first batch of the log.
    pub prev_crc: u32,
    /// CRC of everything after the header, the padding up to the block boundary included.
    pub body_crc: u32,
    /// Whether bytes of an earlier life of a reused file may follow the batch.
    pub reused: bool,
}

impl BatchHeader {
    /// Blocks that the batch occupies.
    pub(super) fn blocks(&self) -> u64 {
        self.length.div_ceil(BLOCK_BYTES as u64)
    }

    fn encode(&self, into: &mut [u8]) -> u32 {
        into[..8].copy_from_slice(&BATCH_MAGIC);
        put_u64(into, 8, self.nonce);
        put_u64(into, 16, self.block);
        put_u64(into, 24, self.synced_through);
        put_u64(into, 32, self.hard_state.term);
        put_u64(into, 40, self.hard_state.voted_for.map_or(0, |id| id.0));
        put_u32(into, 48, u32::from(self.hard_state.voted_for.is_some()));
        put_u32(into, 52, self.records);
        put_u64(into, 56, self.length);
        put_u32(into, 64, self.prev_crc);
        put_u32(into, 68, self.body_crc);
        put_u32(into, 72, u32::from(self.reused));
        let crc = crc32c::crc32c(&into[..76]);
        put_u32(into, 76, crc);
        crc
    }

    /// Reads the header at the beginning of `block_bytes`, and its CRC. `None` unless every byte of it is right and
    /// it belongs to this segment and block.
    pub(super) fn decode(bytes: &[u8], nonce: u64, block: u64) -> Option<(BatchHeader, u32)> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES)?;
        let crc = u32_at(bytes, 76);
        if bytes[..8] != BATCH_MAGIC || u64_at(bytes, 8) != nonce || u64_at(bytes, 16) != block {
            return None;
        }
        if crc != crc32c::crc32c(&bytes[..76]) {
            return None;
        }
        let voted_for = match u32_at(bytes, 48) {
            0 => None,
            1 => Some(MemberId(u64_at(bytes, 40))),
            _ => return None,
        };
        let reused = match u32_at(bytes, 72) {
            0 => false,
            1 => true,
            _ => return None,
        };
        let header = BatchHeader {
            nonce,
            block,
            synced_through: u64_at(bytes, 24),
            hard_state: HardState { term: u64_at(bytes, 32), voted_for },
            records: u32_at(bytes, 52),
            length: u64_at(bytes, 56),
            prev_crc: u32_at(bytes, 64),
            body_crc: u32_at(bytes, 68),
            reused,
        };
        let first_record = records_at(block == 0) as u64;
        (header.length >= first_record && header.synced_through <= block).then_some((header, crc))
    }
}

/// The header of a segment, in the first block of its first batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The cluster and the member that the log belongs to.
    pub ids: WalIds,
    /// The sequence number of the file name.
    pub sequence: u64,
    /// The file's length in blocks: it never changes, so a file of another length was cut.
    pub blocks: u64,
    /// Index of the next entry of the log at the time when the segment was begun.
    pub first_index: Index,
    /// Term of the entry before that one; 0 when there is none.
    pub prev_term: Term,
}

/// What a first block says about its segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SegmentHeaderFound {
    /// A segment header in a known format.
    Known(SegmentHeader),
    /// A later version wrote it.
    Newer(u32),
    /// There is no complete segment header.
    Nothing,
}

impl SegmentHeader {
    fn encode(&self, block: &mut [u8]) {
        let into = &mut block[SEGMENT_HEADER_AT..SEGMENT_HEADER_AT + SEGMENT_HEADER_BYTES];
        into[..8].copy_from_slice(&SEGMENT_MAGIC);
        put_u32(into, 8, VERSION);
        put_u64(into, 16, self.ids.cluster_id.0);
        put_u64(into, 24, self.ids.member_id.0);
        put_u64(into, 32, self.sequence);
        put_u64(into, 40, self.blocks);
        put_u64(into, 48, self.first_index);
        put_u64(into, 56, self.prev_term);
        let crc = segment_crc(into);
        put_u32(into, 12, crc);
    }

    /// Reads the segment header of a segment's first block. It has its own CRC, so that a log of a newer version can
    /// be distinguished from a damaged log, independently of what else that version changes.
    pub(super) fn decode(block: &[u8]) -> SegmentHeaderFound {
        let bytes = &block[SEGMENT_HEADER_AT..SEGMENT_HEADER_AT + SEGMENT_HEADER_BYTES];
        if bytes[..8] != SEGMENT_MAGIC || u32_at(bytes, 12) != segment_crc(bytes) {
            return SegmentHeaderFound::Nothing;
        }
        match u32_at(bytes, 8) {
            VERSION => SegmentHeaderFound::Known(SegmentHeader {
                ids: WalIds {
                    cluster_id: ClusterId(u64_at(bytes, 16)),
                    member_id: MemberId(u64_at(bytes, 24)),
                },
                sequence: u64_at(bytes, 32),
                blocks: u64_at(bytes, 40),
                first_index: u64_at(bytes, 48),
                prev_term: u64_at(bytes, 56),
            }),
            version if version > VERSION => SegmentHeaderFound::Newer(version),
            _ => SegmentHeaderFound::Nothing,
        }
    }
}

fn segment_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..SEGMENT_HEADER_BYTES])
}

/// Where the records of a batch begin, counted from its first byte.
pub(super) fn records_at(first_of_segment: bool) -> usize {
    if first_of_segment { BLOCK_BYTES } else { BATCH_HEADER_BYTES }
}

/// Bytes that the records of an op take.
pub(super) fn record_bytes(op: &WriteOp) -> usize {
    match op {
        WriteOp::HardState(_) => 0,
        WriteOp::Entries(entries) => entries.iter().map(|e| 1 + e.frame().len()).sum(),
        WriteOp::Reset(_) => RESET_RECORD_BYTES,
    }
}

/// Bytes of the blocks that a batch with this many bytes of records occupies.
pub(super) fn batch_bytes(first_of_segment: bool, record_bytes: usize) -> u64 {
    (records_at(first_of_segment) + record_bytes).next_multiple_of(BLOCK_BYTES) as u64
}

/// Writes a whole batch into `buf`, blocks and padding. All fields of `header` except `records`, `length` and
/// `body_crc` must be set. `segment` is given exactly when the batch is the first of its segment. Returns the CRC
/// that must be the next batch's `prev_crc`.
pub(super) fn encode_batch(
    buf: &mut Vec<u8>,
    header: &BatchHeader,
    segment: Option<&SegmentHeader>,
    ops: &[&WriteOp],
) -> u32 {
    let start = records_at(segment.is_some());
    buf.clear();
    buf.resize(start, 0);
    let mut header = *header;
    header.records = 0;
    for op in ops {
        header.records += encode_records(buf, op);
    }
    header.length = buf.len() as u64;
    buf.resize(buf.len().next_multiple_of(BLOCK_BYTES), 0);
    if let Some(segment) = segment {
        segment.encode(buf);
    }
    header.body_crc = crc32c::crc32c(&buf[BATCH_HEADER_BYTES..]);
    header.encode(&mut buf[..BATCH_HEADER_BYTES])
}

fn encode_records(buf: &mut Vec<u8>, op: &WriteOp) -> u32 {
    match op {
        WriteOp::HardState(_) => 0,
        WriteOp::Entries(entries) => {
            for entry in entries {
                buf.push(RECORD_ENTRY);
                buf.extend_from_slice(entry.frame());
            }
            entries.len() as u32
        }
        WriteOp::Reset(position) => {
            buf.push(RECORD_RESET);
            buf.extend_from_slice(&position.index.to_le_bytes());
            buf.extend_from_slice(&position.term.to_le_bytes());
            1
        }
    }
}

/// One record of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// An entry; cuts everything that the log holds from its index on.
    Entry(Entry),
    /// The log restarts empty after this position.
    Reset(Position),
}

/// Why bytes with a correct checksum are not a valid record.
#[derive(Debug)]
pub(super) enum RecordError {
    /// A later program wrote it.
    Newer(String),
    /// It is damaged; the text says what is wrong.
    Broken(String),
}

/// Reads the record at the beginning of `bytes`; returns it and its length.
pub(super) fn decode_record(bytes: &[u8]) -> Result<(Record, usize), RecordError> {
    match bytes.first() {
        Some(&RECORD_ENTRY) => {
            let (entry, length) = Entry::decode(&bytes[1..]).map_err(|e: FrameError| match e {
                FrameError::Kind(_) => RecordError::Newer(e.to_string()),
                e => RecordError::Broken(e.to_string()),
            })?;
            Ok((Record::Entry(entry), 1 + length))
        }
        Some(&RECORD_RESET) if bytes.len() >= RESET_RECORD_BYTES => {
            Ok((Record::Reset(Position::new(u64_at(bytes, 1), u64_at(bytes, 9))), RESET_RECORD_BYTES))
        }
        Some(&RECORD_RESET) | None => Err(RecordError::Broken("a record is cut short".to_owned())),
        Some(kind) => Err(RecordError::Newer(format!(
            "there is a record of kind {kind}, which this program does not know: run the dkv-server that wrote it"
        ))),
    }
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Payload;
    use proptest::prelude::*;

    fn op() -> impl Strategy<Value = WriteOp> {
        let payload = prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), Just(vec![9; 5000])];
        let entry = (any::<u64>(), any::<u64>(), payload).prop_map(|(index, term, bytes)| {
            Entry::new(Position::new(index, term), 3, &Payload::Command(bytes))
        });
        prop_oneof![
            (any::<u64>(), proptest::option::of(any::<u64>())).prop_map(|(term, vote)| {
                WriteOp::HardState(HardState { term, voted_for: vote.map(MemberId) })
            }),
            proptest::collection::vec(entry, 1..4).prop_map(WriteOp::Entries),
            (any::<u64>(), any::<u64>()).prop_map(|(i, t)| WriteOp::Reset(Position::new(i, t))),
        ]
    }

    fn header(first: bool, hard_state: HardState) -> BatchHeader {
        let block = if first { 0 } else { 9 };
        let (synced_through, prev_crc) = (block, 0x1234);
        let (records, length, body_crc) = (0, 0, 0);
        BatchHeader {
            nonce: 77,
            block,
            synced_through,
            hard_state,
            records,
            length,
            prev_crc,
            body_crc,
            reused: !first,
        }
    }

    const SEGMENT: SegmentHeader = SegmentHeader {
        ids: WalIds { cluster_id: ClusterId(3), member_id: MemberId(4) },
        sequence: 5,
        blocks: 16,
        first_index: 6,
        prev_term: 7,
    };

    fn encode(first: bool, hard_state: HardState, ops: &[WriteOp]) -> (Vec<u8>, u32) {
        let mut buf = Vec::new();
        let segment = first.then_some(&SEGMENT);
        let ops: Vec<&WriteOp> = ops.iter().collect();
        let crc = encode_batch(&mut buf, &header(first, hard_state), segment, &ops);
        (buf, crc)
    }

    /// The records of a batch if its header and body are undamaged, otherwise `None`.
    fn decode(bytes: &[u8], first: bool) -> Option<(BatchHeader, Vec<Record>)> {
        let (header, _) = BatchHeader::decode(bytes, 77, if first { 0 } else { 9 })?;
        let body = bytes.get(BATCH_HEADER_BYTES..header.blocks() as usize * BLOCK_BYTES)?;
        if crc32c::crc32c(body) != header.body_crc {
            return None;
        }
        let mut at = records_at(first);
        let mut records = Vec::new();
        for _ in 0..header.records {
            let (record, length) = decode_record(&bytes[at..header.length as usize]).unwrap();
            records.push(record);
            at += length;
        }
        assert_eq!(at as u64, header.length);
        Some((header, records))
    }

    proptest! {
        #[test]
        fn decode_is_the_inverse_of_encode(
            ops in proptest::collection::vec(op(), 0..6),
            first: bool,
            term: u64,
            vote in proptest::option::of(any::<u64>()),
        ) {
            let hard_state = HardState { term, voted_for: vote.map(MemberId) };
            let (bytes, crc) = encode(first, hard_state, &ops);
            let sizes = ops.iter().map(record_bytes).sum();
            prop_assert_eq!(bytes.len() as u64, batch_bytes(first, sizes));
            prop_assert_eq!(BatchHeader::decode(&bytes, 77, if first { 0 } else { 9 }).unwrap().1, crc);
            let (header, records) = decode(&bytes, first).unwrap();
            prop_assert_eq!(header.hard_state, hard_state);
            prop_assert_eq!((header.synced_through, header.prev_crc), (header.block, 0x1234));
            let mut expected = Vec::new();
            for op in ops {
                match op {
                    WriteOp::HardState(_) => {}
                    WriteOp::Entries(entries) => expected.extend(entries.into_iter().map(Record::Entry)),
                    WriteOp::Reset(position) => expected.push(Record::Reset(position)),
                }
            }
            prop_assert_eq!(records, expected);
            let segment = SegmentHeader::decode(&bytes[..BLOCK_BYTES]);
            let expected = if first { SegmentHeaderFound::Known(SEGMENT) } else { SegmentHeaderFound::Nothing };
            prop_assert_eq!(segment, expected);
        }

        #[test]
        fn decode_refuses_every_flipped_bit(
            ops in proptest::collection::vec(op(), 0..3), first: bool, at: usize, bit in 0u8..8,
        ) {
            let (mut bytes, _) = encode(first, HardState::default(), &ops);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&bytes, first).is_none(), "the padding is covered too");
        }

        #[test]
        fn decode_record_takes_any_bytes(bytes: Vec<u8>, kind in 0u8..4) {
            let _ = decode_record(&bytes);
            let _ = decode_record(&[&[kind], &bytes[..]].concat());
        }

        #[test]
        fn segment_name_parses_only_what_it_prints(sequence: u64, nonce: u64, text in "[0-9a-fA-F+]{15,17}-[0-9a-f]{16}\\.wal") {
            let name = SegmentName { sequence, nonce };
            prop_assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
            if let Some(name) = SegmentName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }

    #[test]
    fn batch_header_decode_refuses_another_place_and_another_segment() {
        let (bytes, _) = encode(false, HardState::default(), &[]);
        assert!(BatchHeader::decode(&bytes, 77, 9).is_some());
        assert!(BatchHeader::decode(&bytes, 77, 10).is_none());
        assert!(BatchHeader::decode(&bytes, 78, 9).is_none());
        assert!(BatchHeader::decode(&bytes[..79], 77, 9).is_none());
    }
}
