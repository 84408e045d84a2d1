//! Reading entries back while the log is being written.
//!
//! A reader shares nothing with the two threads that write: it lists the segments and reads their batches. It may meet
//! segments that are being given up or reused; then it finds no batch where there was one, and fails. It never returns a
//! wrong entry: a batch names its segment by a random number and is checked by its CRC, and what is asked for is named by
//! index and term, which stand for one entry in every log ever.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::raft::{Entry, LeftOnDisk, LogRead, Position};
use crate::store::disk::{Disk, DiskFile};

use super::WalError;
use super::format::{
    self, BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, Record, RecordError, SegmentHeader,
    SegmentHeaderFound, SegmentName,
};
use super::segment;

/// Reads entries from a log that another thread writes. Remembers where it stopped, so that a peer that follows from far
/// back costs one look at each batch.
pub struct LogReader {
    disk: Arc<dyn Disk>,
    place: Option<Place>,
}

/// Bytes that are in memory at a time while all entries are read.
const EACH_READ_BYTES: usize = 1 << 20;

/// Where the next batch is.
struct Place {
    /// The entry that was read last stands right before it.
    after: Position,
    segment: Segment,
    block: u64,
    /// Segments after this one, as far as they were there.
    later: VecDeque<SegmentName>,
}

/// A segment that is being read.
struct Segment {
    name: SegmentName,
    shown: String,
    file: Box<dyn DiskFile>,
    blocks: u64,
}

impl LogReader {
    /// A reader of the log in this directory.
    pub fn new(disk: Arc<dyn Disk>) -> LogReader {
        LogReader { disk, place: None }
    }

    /// The entries that are asked for, from the first one on: at least one, at most through the end of the batch that
    /// reaches the limit.
    ///
    /// # Errors
    /// A file cannot be read or is damaged, or the first entry is not in the log.
    pub fn read(&mut self, wanted: &LogRead) -> Result<Vec<Entry>, WalError> {
        let follows = |place: &Place| {
            place.after.index + 1 == wanted.from.index && place.after.term <= wanted.from.term
        };
        if let Some(place) = self.place.take_if(|place| follows(place)) {
            // The place may be gone by now: then the log is searched.
            if let Ok(entries) = self.read_from(place, wanted) {
                return Ok(entries);
            }
        }
        let place = self.find(wanted.from)?;
        self.read_from(place, wanted)
    }

    /// Hands all entries that a start left on the disk to `take`, in order, until it fails.
    ///
    /// # Errors
    /// As for `read`, and what `take` says.
    pub fn each<E: From<WalError>>(
        &mut self,
        left: &LeftOnDisk,
        mut take: impl FnMut(Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        for mut wanted in left.reads(EACH_READ_BYTES) {
            while wanted.from.index <= wanted.through {
                for entry in self.read(&wanted)? {
                    wanted.from.index = entry.index() + 1;
                    take(entry)?;
                }
            }
        }
        Ok(())
    }

    /// The beginning of the last segment that was begun at or before the entry. The entry is in it or in a later one: its
    /// last copy was written when the log was at least as long as that, so no segment after it begins at or before it.
    fn find(&self, from: Position) -> Result<Place, WalError> {
        let mut later = VecDeque::new();
        for name in segment::list_segments(&self.disk)?.into_iter().rev() {
            let segment = self.open(name)?;
            match self.segment_header(&segment)? {
                Some(header) if header.first_index <= from.index => {
                    return Ok(Place { after: Position::ZERO, segment, block: 0, later });
                }
                _ => later.push_front(name),
            }
        }
        Err(self.not_found(from))
    }

    fn open(&self, name: SegmentName) -> Result<Segment, WalError> {
        let shown = name.to_string();
        let file = self.disk.open(&shown).map_err(WalError::io(&self.disk, &shown, "open"))?;
        let size = file.size().map_err(WalError::io(&self.disk, &shown, "measure"))?;
        Ok(Segment { name, shown, file, blocks: size / BLOCK_BYTES as u64 })
    }

    /// `None` when the segment has no batch yet.
    fn segment_header(&self, segment: &Segment) -> Result<Option<SegmentHeader>, WalError> {
        let block = self.bytes(segment, 0, BLOCK_BYTES)?;
        match SegmentHeader::decode(&block) {
            SegmentHeaderFound::Known(header) => Ok(Some(header)),
            SegmentHeaderFound::Newer(_) | SegmentHeaderFound::Nothing => Ok(None),
        }
    }

    fn read_from(&mut self, mut place: Place, wanted: &LogRead) -> Result<Vec<Entry>, WalError> {
        let LogRead { from, through, max_bytes } = *wanted;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut next = from;
        while bytes < max_bytes.max(1) && next.index <= through {
            let Some((header, records)) = self.batch(&place.segment, place.block)? else {
                let Some(name) = self.next_segment(&mut place)? else { break };
                (place.segment, place.block) = (self.open(name)?, 0);
                continue;
            };
            let mut records = &records[..];
            for _ in 0..header.records {
                let (record, length) = format::decode_record(records).map_err(|e| {
                    let (RecordError::Newer(what) | RecordError::Broken(what)) = e;
                    self.corrupt(&place.segment.shown, place.block, &what)
                })?;
                records = &records[length..];
                // Entries of other terms at these indexes were replaced, or replace what was not committed.
                if let Record::Entry(entry) = record
                    && entry.position() == next
                    && next.index <= through
                {
                    bytes += entry.frame().len();
                    next = Position::new(next.index + 1, next.term);
                    entries.push(entry);
                }
            }
            // The batch may have the entries after the last one that was asked for.
            if next.index <= through {
                place.block += header.blocks();
            }
        }
        let Some(last) = entries.last() else {
            return Err(self.not_found(from));
        };
        place.after = last.position();
        self.place = Some(place);
        Ok(entries)
    }

    /// The segment after this one.
    fn next_segment(&self, place: &mut Place) -> Result<Option<SegmentName>, WalError> {
        if place.later.is_empty() {
            let all = segment::list_segments(&self.disk)?;
            place.later =
                all.into_iter().filter(|name| name.sequence > place.segment.name.sequence).collect();
        }
        Ok(place.later.pop_front())
    }

    /// The batch at this block, and the bytes of its records; `None` when there is no undamaged one.
    fn batch(&self, segment: &Segment, block: u64) -> Result<Option<(BatchHeader, Vec<u8>)>, WalError> {
        if block >= segment.blocks {
            return Ok(None);
        }
        let first = self.bytes(segment, block, BLOCK_BYTES)?;
        let Some((header, _)) = BatchHeader::decode(&first, segment.name.nonce, block) else {
            return Ok(None);
        };
        if header.blocks() > segment.blocks - block {
            return Ok(None);
        }
        let mut bytes = first;
        let more = (header.blocks() - 1) as usize * BLOCK_BYTES;
        if more > 0 {
            bytes.extend(self.bytes(segment, block + 1, more)?);
        }
        if crc32c::crc32c(&bytes[BATCH_HEADER_BYTES..]) != header.body_crc {
            return Ok(None);
        }
        bytes.truncate(header.length as usize);
        bytes.drain(..format::records_at(block == 0));
        Ok(Some((header, bytes)))
    }

    fn bytes(&self, segment: &Segment, block: u64, length: usize) -> Result<Vec<u8>, WalError> {
        let at = block * BLOCK_BYTES as u64;
        let mut bytes = vec![0; length];
        segment
            .file
            .read_at(at, &mut bytes)
            .map_err(|e| WalError::io_at(&self.disk, &segment.shown, "read", at, e))?;
        Ok(bytes)
    }

    fn not_found(&self, entry: Position) -> WalError {
        WalError::NotFound { dir: self.disk.display(""), entry }
    }

    fn corrupt(&self, shown: &str, block: u64, what: &str) -> WalError {
        WalError::corrupt(&self.disk, shown, block * BLOCK_BYTES as u64, what)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::raft::{ClusterId, HardState, Index, MemberId, Payload, Term, WriteOp};
    use crate::store::simdisk::SimDisk;
    use crate::store::wal::{Wal, WalIds, WalOptions};

    const IDS: WalIds = WalIds { cluster_id: ClusterId(0xc), member_id: MemberId(0xa) };
    const SMALL: WalOptions = WalOptions::new(16 << 10);

    fn entry(index: Index, term: Term) -> Entry {
        let text = format!("{index}@{term}").repeat(30);
        Entry::new(Position::new(index, term), 0, &Payload::Command(text.into_bytes()))
    }

    fn append(wal: &mut Wal, range: std::ops::RangeInclusive<Index>, term: Term) {
        let entries = WriteOp::Entries(range.map(|index| entry(index, term)).collect());
        wal.write(&[WriteOp::HardState(HardState { term, voted_for: None }), entries]).unwrap();
    }

    fn log() -> (Arc<dyn Disk>, SimDisk, Wal) {
        let sim = SimDisk::new(7);
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        let wal = Wal::create(disk.clone(), IDS, SMALL).unwrap();
        (disk, sim, wal)
    }

    fn wanted(from: (Index, Term), through: Index, max_bytes: usize) -> LogRead {
        LogRead { from: Position::new(from.0, from.1), through, max_bytes }
    }

    /// Everything that is wanted, in as many calls as it takes.
    fn read_all(reader: &mut LogReader, wanted: &LogRead) -> Result<Vec<Entry>, WalError> {
        let (mut all, mut from) = (Vec::new(), wanted.from);
        while from.index <= wanted.through {
            let read = reader.read(&LogRead { from, ..*wanted })?;
            assert!(!read.is_empty(), "a read brings something or fails");
            from.index += read.len() as u64;
            all.extend(read);
        }
        Ok(all)
    }

    #[test]
    fn read_goes_on_through_all_segments() {
        let (disk, _, mut wal) = log();
        for n in 0..20 {
            append(&mut wal, 10 * n + 1..=10 * n + 10, 1);
        }
        assert!(wal.stats().segments > 3);
        let all: Vec<Entry> = (1..=200).map(|index| entry(index, 1)).collect();
        for max_bytes in [0, 1, 1_000, 5_000, usize::MAX] {
            let mut reader = LogReader::new(disk.clone());
            assert_eq!(read_all(&mut reader, &wanted((1, 1), 200, max_bytes)).unwrap(), all);
            assert_eq!(read_all(&mut reader, &wanted((95, 1), 103, max_bytes)).unwrap(), all[94..103]);
        }
        let mut reader = LogReader::new(disk);
        assert_eq!(reader.read(&wanted((1, 1), 200, 1)).unwrap().len(), 10, "a batch, and no more");
        append(&mut wal, 201..=210, 1);
        assert_eq!(reader.read(&wanted((205, 1), 209, 1)).unwrap().len(), 5);
        assert_eq!(
            reader.read(&wanted((210, 1), 210, 1)).unwrap().len(),
            1,
            "the rest of a batch that was read in part"
        );
    }

    /// A reader that follows looks at every batch once, not at the whole segment again.
    #[test]
    fn read_goes_on_where_it_stopped() {
        let (disk, sim, mut wal) = log();
        for n in 1..=30 {
            append(&mut wal, n..=n, 1);
        }
        let mut reader = LogReader::new(disk);
        reader.read(&wanted((1, 1), 30, 1)).unwrap();
        for n in 2..=30 {
            let before = sim.ops();
            reader.read(&wanted((n, 1), 30, 1)).unwrap();
            let reads = sim.ops() - before;
            assert!(reads <= 4, "{reads} reads for entry {n}");
        }
    }

    #[test]
    fn read_finds_what_replaced_other_entries_and_never_what_was_replaced() {
        let (disk, _, mut wal) = log();
        append(&mut wal, 1..=150, 1);
        append(&mut wal, 100..=180, 2);
        append(&mut wal, 60..=70, 4);
        append(&mut wal, 71..=200, 5);
        let mut reader = LogReader::new(disk);
        for (from, through, term) in [(1, 59, 1), (60, 70, 4), (71, 200, 5)] {
            for first in from..=through {
                let all: Vec<Entry> = (first..=through).map(|index| entry(index, term)).collect();
                assert_eq!(read_all(&mut reader, &wanted((first, term), through, 2_000)).unwrap(), all);
            }
        }
        assert!(matches!(reader.read(&wanted((180, 3), 180, 1)), Err(WalError::NotFound { .. })));
        assert!(matches!(reader.read(&wanted((201, 5), 201, 1)), Err(WalError::NotFound { .. })));
    }

    #[test]
    fn read_of_what_was_cut_and_reused_fails_and_the_rest_is_found() {
        let (disk, _, mut wal) = log();
        let mut preparer = wal.take_preparer().unwrap();
        append(&mut wal, 1..=40, 1);
        let mut reader = LogReader::new(disk.clone());
        reader.read(&wanted((1, 1), 200, 1)).unwrap();
        let mut next = 41;
        while wal.stats().segments_reused < 3 {
            append(&mut wal, next..=next + 9, 1);
            next += 10;
            wal.cut(next.saturating_sub(60)).unwrap();
            while wal.spare_is_due() && preparer.step().unwrap() {}
            assert!(next < 10_000, "segments are reused");
        }
        for mut reader in [reader, LogReader::new(disk)] {
            assert!(matches!(reader.read(&wanted((41, 1), 200, 1)), Err(WalError::NotFound { .. })));
            let rest: Vec<Entry> = (next - 30..next).map(|index| entry(index, 1)).collect();
            assert_eq!(read_all(&mut reader, &wanted((next - 30, 1), next - 1, 1)).unwrap(), rest);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        /// Whatever is appended, replaced and damaged: what is read is what was asked for, and without damage it is read.
        #[test]
        fn what_is_read_is_what_was_written(
            steps in prop::collection::vec((0..40u64, 1..60u64, 0..3u8), 1..25),
            asks in prop::collection::vec((any::<u16>(), 0..3_000usize), 20),
            flips in prop::collection::vec((any::<u16>(), any::<u32>()), 0..4),
        ) {
            let (disk, sim, mut wal) = log();
            let (mut terms, mut term): (Vec<Term>, Term) = (Vec::new(), 1);
            for (back, count, new_term) in steps {
                term += u64::from(new_term == 0);
                let from = if new_term == 0 { terms.len() as u64 + 1 - back.min(terms.len() as u64) } else { terms.len() as u64 + 1 };
                append(&mut wal, from..=from + count - 1, term);
                terms.truncate(from as usize - 1);
                terms.extend(std::iter::repeat_n(term, count as usize));
            }
            let is_damaged = !flips.is_empty();
            for (file, at) in flips {
                let names: Vec<String> = sim.names().into_iter().filter(|name| name.ends_with(".wal")).collect();
                let name = &names[file as usize % names.len()];
                let size = sim.contents(name).map_or(1, |bytes| bytes.len() as u64);
                sim.flip(name, u64::from(at) / 8 % size, 1 << (at % 8));
            }
            let mut reader = LogReader::new(disk);
            for (from, max_bytes) in asks {
                let from = from as usize % terms.len();
                let through = from + terms[from..].iter().take_while(|term| **term == terms[from]).count();
                let wanted = wanted((from as u64 + 1, terms[from]), through as u64, max_bytes);
                match reader.read(&wanted) {
                    Ok(read) => {
                        prop_assert!(!read.is_empty() && read.len() <= through - from);
                        for (read, index) in read.iter().zip(from as u64 + 1..) {
                            prop_assert_eq!(read, &entry(index, terms[from]));
                        }
                    }
                    Err(e) => prop_assert!(is_damaged, "{wanted:?}: {e}"),
                }
            }
        }
    }
}
