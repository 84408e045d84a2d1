//! Reading a log back, and distinguishing a write that a crash tore from later corruption.
//!
//! The verdict at the first place without an undamaged batch, block `b` of segment `s`:
//!
//! - `s` ends there if the rest is zero. In a reused file it also ends there if neither `b` nor a block after it has a
//!   header of `s`: then the rest is content of an earlier life of the file, and every header in it has another nonce.
//!   (The first block of such a file is zeroed before it becomes a segment, so there `b` must be zero.)
//! - `s` has a successor: everything in it was synced before the successor got its name. If `s` ends at `b`, the
//!   successor's chain confirms it; anything else is corruption.
//! - a header after `b` says that more than `b` blocks were synced when it was written: corruption.
//! - otherwise nothing proves that `b` was ever synced, so no answer depends on it: it is torn and is cut off.
//!   Undamaged batches after it belong to the same write and are cut off too: they were not synced either.
//!
//! When a log was cut after a snapshot, its first segments are gone. The first remaining segment says at which
//! position the log continues; the batch before it cannot be checked.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::raft::{Entry, HardState, Index, Log, PROTOCOL, Position, check_version};
use crate::store::disk::Disk;

use super::format::{
    self, BLOCK_BYTES, BatchHeader, Record, RecordError, SegmentHeader, SegmentHeaderFound, SegmentName,
};
use super::segment::{self, Current, Older};
use super::{LogPlace, WalError, WalIds};

const ZERO_BYTES: usize = 256 << 10;

/// The state of the log after the batches read so far.
pub(super) struct Replay {
    pub hard_state: HardState,
    /// The last entries are in memory.
    pub log: Log,
    /// The entries of the log that put a membership or a version in force.
    pub changes: Vec<Entry>,
    max_memory_bytes: usize,
    /// Whether `base` is the position of a cut, and not 0 or the position of a reset: entries up to it may have been
    /// replaced later.
    is_cut: bool,
    /// Header CRC of the last batch.
    pub chain: u32,
    batches: u64,
    /// The cluster and the member that the first segment belongs to.
    pub ids: Option<WalIds>,
    /// The place through which everything was synced, according to the segment's name and its last batch.
    pub synced_mark: LogPlace,
}

impl Replay {
    /// Before the first batch. At most this many bytes of entries are to be in memory.
    pub(super) fn new(max_memory_bytes: usize) -> Replay {
        Replay {
            hard_state: HardState::default(),
            log: Log::new(Position::ZERO, Vec::new()),
            changes: Vec::new(),
            max_memory_bytes,
            is_cut: false,
            chain: 0,
            batches: 0,
            ids: None,
            synced_mark: LogPlace::default(),
        }
    }

    /// Position of the last entry, or the position after which the log begins.
    pub(super) fn last(&self) -> Position {
        self.log.last()
    }

    /// The log begins empty after this position.
    pub(super) fn reset(&mut self, base: Position) {
        self.log.reset(base);
        self.changes.clear();
    }

    fn take(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Reset(position) => {
                self.reset(position);
                self.is_cut = false;
            }
            Record::Entry(entry) if self.is_cut && (1..=self.log.base().index).contains(&entry.index()) => {
                // It replaced entries of segments that were removed, and was committed before they were removed.
                self.reset(entry.position());
            }
            Record::Entry(entry) => {
                let (base, last) = (self.log.base(), self.last());
                if entry.index() <= base.index || entry.index() > last.index + 1 {
                    return Err(format!(
                        "entry {} does not continue a log from {base} to {last}",
                        entry.position()
                    ));
                }
                if entry.index() <= last.index {
                    self.log.truncate_suffix(entry.index());
                    self.changes.retain(|change| change.index() < entry.index());
                }
                let before = self.last();
                if entry.term() < before.term {
                    return Err(format!("entry {} follows {before}", entry.position()));
                }
                if entry.membership().is_some() || entry.version().is_some() {
                    self.changes.push(entry.clone());
                }
                self.log.push(entry);
                // Everything that is read here is on the disk, or becomes durable before the log is used.
                self.log.release(Index::MAX, self.max_memory_bytes);
            }
        }
        Ok(())
    }
}

/// Everything that was read, before anything is changed.
pub(super) struct Scan {
    pub replay: Replay,
    /// The segments before the last one.
    pub older: VecDeque<Older>,
    /// The last segment, where writing continues.
    pub last: Current,
    pub torn: Option<Torn>,
}

/// The part of the last segment that must be zeroed: it begins at `next_block`.
pub(super) struct Torn {
    /// The block after the last one that is not zero.
    pub end_block: u64,
}

/// The content after the batches of a segment.
enum Rest {
    Zero,
    /// Content of an earlier life of a reused file.
    Stale,
    Torn(Torn),
}

/// Where the batches of a segment end.
struct SegmentEnd {
    next_block: u64,
    synced_through: u64,
    rest: Rest,
}

/// Reads the whole log. Changes nothing; what the last segment has in the page cache reaches the disk first. Only one that
/// `may_be_cut` may begin with another segment than the first.
pub(super) fn scan(
    disk: &Arc<dyn Disk>,
    expected: Option<WalIds>,
    may_be_cut: bool,
    max_memory_bytes: usize,
) -> Result<Scan, WalError> {
    let mut replay = Replay::new(max_memory_bytes);
    let Walked { older, last, torn } = scan_into(&mut replay, disk, expected, may_be_cut)?;
    Ok(Scan { replay, older, last, torn })
}

/// Whether the log in `replay` leads to the snapshot that ends at `snapshot`; see
/// [`Wal::open_after`](super::Wal::open_after).
///
/// # Errors
/// [`WalError::Gap`]: entries are missing between the two, or of what a damaged snapshot through `reach` held.
pub(super) fn leads_to(
    replay: &Replay,
    disk: &Arc<dyn Disk>,
    snapshot: Position,
    reach: Index,
) -> Result<bool, WalError> {
    let (base, last) = (replay.log.base(), replay.last());
    if base.index > snapshot.index {
        let what = match snapshot {
            Position::ZERO => format!(
                "the log begins after entry {base}, and no whole snapshot holds what was before; if *.snapshot files \
                 were moved away, bring them back"
            ),
            _ => format!("the log begins after entry {base}, the snapshot ends with {snapshot}"),
        };
        return Err(WalError::gap(disk, what));
    }
    let fits = replay.log.term_at(snapshot.index) == Some(snapshot.term);
    let end = if fits { last.index } else { snapshot.index };
    if end < reach {
        let what = format!(
            "the log ends with entry {last}, the newest whole snapshot with {snapshot}, and a damaged one went through \
             index {reach}"
        );
        return Err(WalError::gap(disk, what));
    }
    Ok(fits)
}

/// All segments of a log.
pub(super) struct Walked {
    /// The segments before the last one.
    pub older: VecDeque<Older>,
    /// The last one.
    pub last: Current,
    pub torn: Option<Torn>,
}

/// The same; after an error `replay` holds the part of the log before the damage.
pub(super) fn scan_into(
    replay: &mut Replay,
    disk: &Arc<dyn Disk>,
    expected: Option<WalIds>,
    may_be_cut: bool,
) -> Result<Walked, WalError> {
    let names = segment::list_segments(disk)?;
    let missing = || WalError::Missing(disk.display(""));
    if let Some(first) = names.first().filter(|first| first.sequence > 1 && !may_be_cut) {
        let what = segment::missing(first.sequence - 1);
        return Err(WalError::corrupt(disk, &first.to_string(), 0, what));
    }
    let mut older = VecDeque::new();
    for (n, &name) in names.iter().enumerate() {
        let is_last = n + 1 == names.len();
        let read = if is_last { segment::read_last_segment } else { segment::read_segment };
        let (file, bytes) = read(disk, name)?;
        let segment = SegmentBytes { disk, name, shown: name.to_string(), bytes: &bytes, expected };
        let mut base_index = replay.last().index;
        let end = segment.walk(replay, is_last, &mut base_index)?;
        let blocks = (bytes.len() / BLOCK_BYTES) as u64;
        if is_last {
            if replay.batches == 0 {
                return Err(missing());
            }
            let synced_blocks = end.synced_through;
            let next_block = end.next_block;
            let shown = segment.shown;
            let (is_reused, torn) = match end.rest {
                Rest::Zero => (false, None),
                Rest::Stale => (true, None),
                // Recovery zeroes everything from here on.
                Rest::Torn(torn) => (false, Some(torn)),
            };
            let last =
                Current { name, shown, file, blocks, base_index, next_block, synced_blocks, is_reused };
            return Ok(Walked { older, last, torn });
        }
        older.push_back(Older { name, blocks, base_index });
    }
    Err(missing())
}

/// The cluster and the member that this log belongs to; `None` when no batch was ever completed.
pub(super) fn identify(disk: &Arc<dyn Disk>) -> Result<Option<WalIds>, WalError> {
    let names = segment::list_segments(disk)?;
    let mut replay = Replay::new(0);
    // More than one segment is read only when the first write of the log was too large for the first segment.
    for (n, &name) in names.iter().enumerate() {
        let (_, bytes) = segment::read_segment(disk, name)?;
        let segment = SegmentBytes { disk, name, shown: name.to_string(), bytes: &bytes, expected: None };
        segment.walk(&mut replay, n + 1 == names.len(), &mut 0)?;
        if replay.ids.is_some() {
            break;
        }
    }
    Ok(replay.ids)
}

/// Zeroes the torn part durably, so that it is never read again. Returns the warning.
pub(super) fn cut_off(
    disk: &Arc<dyn Disk>,
    last: &Current,
    torn: &Torn,
    replay: &Replay,
) -> Result<String, WalError> {
    let from = last.next_block * BLOCK_BYTES as u64;
    let end = torn.end_block * BLOCK_BYTES as u64;
    let zeroes = vec![0; ZERO_BYTES.min((end - from) as usize)];
    let mut at = from;
    while at < end {
        let piece = zeroes.len().min((end - at) as usize);
        last.file
            .write_at(at, &zeroes[..piece])
            .map_err(|e| WalError::io_at(disk, &last.shown, "zero the torn end of", at, e))?;
        at += piece as u64;
    }
    // This comes before anything is written at this place: no complete batch of the torn part may reappear after
    // that.
    last.file.sync().map_err(WalError::io(disk, &last.shown, "sync"))?;
    Ok(format!(
        "{}: the last write, at byte {from}, was not finished before the crash and nothing depends on it: \
         cut off {} bytes; the log ends with entry {}",
        disk.display(&last.shown),
        end - from,
        replay.last()
    ))
}

/// A segment in memory.
struct SegmentBytes<'a> {
    disk: &'a Arc<dyn Disk>,
    name: SegmentName,
    /// `name` as text.
    shown: String,
    bytes: &'a [u8],
    expected: Option<WalIds>,
}

impl SegmentBytes<'_> {
    /// Reads batch after batch up to the end, and judges what is there. Sets `base_index` to the index of the log's
    /// last entry when the segment was begun, if the segment has a batch.
    fn walk(
        &self,
        replay: &mut Replay,
        is_last: bool,
        base_index: &mut Index,
    ) -> Result<SegmentEnd, WalError> {
        let segment_header = self.segment_header()?;
        replay.synced_mark = LogPlace { sequence: self.name.sequence, block: 0 };
        let mut block = 0;
        let mut synced_through = 0;
        // It is unknown whether a segment without a batch is a reused file.
        let mut may_be_stale = true;
        while let Some((header, crc)) = self.whole_batch(block) {
            let is_cut_here = replay.batches == 0 && self.name.sequence > 1;
            if header.prev_crc != replay.chain && !is_cut_here {
                return Err(self.corrupt(self.offset(block), self.broken_chain(block)));
            }
            if block == 0 {
                self.check_segment_header(replay, segment_header, is_cut_here)?;
                *base_index = replay.last().index;
            }
            self.take_batch(replay, &header)?;
            replay.chain = crc;
            replay.batches += 1;
            synced_through = header.synced_through;
            may_be_stale = header.reused;
            replay.synced_mark.block = synced_through;
            block += header.blocks();
        }
        let rest = self.judge_end(block, is_last, may_be_stale)?;
        Ok(SegmentEnd { next_block: block, synced_through, rest })
    }

    /// The segment header, if there is one. A header of another log or of a newer version is refused before anything
    /// else is judged. A file that has become shorter is refused as well: synced batches may be lost without any
    /// other sign.
    fn segment_header(&self) -> Result<Option<SegmentHeader>, WalError> {
        let file = || self.disk.display(&self.shown);
        let blocks = (self.bytes.len() / BLOCK_BYTES) as u64;
        match SegmentHeader::decode(&self.bytes[..BLOCK_BYTES]) {
            SegmentHeaderFound::Nothing => Ok(None),
            SegmentHeaderFound::Newer(version) => Err(WalError::NewerFormat { file: file(), version }),
            SegmentHeaderFound::Known(found) => match self.expected {
                Some(expected) if expected != found.ids => {
                    Err(WalError::Foreign { file: file(), found: found.ids, expected })
                }
                _ if blocks != found.blocks => {
                    let what =
                        format!("the file has {blocks} blocks, its segment header says {}", found.blocks);
                    Err(self.corrupt(self.bytes.len() as u64, what))
                }
                _ => Ok(Some(found)),
            },
        }
    }

    fn check_segment_header(
        &self,
        replay: &mut Replay,
        found: Option<SegmentHeader>,
        is_cut_here: bool,
    ) -> Result<(), WalError> {
        let Some(found) = found.filter(|found| found.first_index > 0) else {
            return Err(self.corrupt(0, "its first batch has no segment header"));
        };
        if is_cut_here {
            replay.reset(Position::new(found.first_index - 1, found.prev_term));
            replay.is_cut = true;
        }
        let last = replay.last();
        let expected = SegmentHeader {
            ids: *replay.ids.get_or_insert(found.ids),
            sequence: self.name.sequence,
            blocks: found.blocks,
            first_index: last.index + 1,
            prev_term: last.term,
        };
        if found != expected {
            let what = format!("its segment header should be {expected:?} and is {found:?}");
            return Err(self.corrupt(0, what));
        }
        Ok(())
    }

    /// The batch at `block`, if header and body are undamaged.
    fn whole_batch(&self, block: u64) -> Option<(BatchHeader, u32)> {
        let (header, crc) = self.header_at(block)?;
        let start = self.offset(block) as usize;
        // The length is checked against the file before it is used.
        let bytes = header.blocks().checked_mul(BLOCK_BYTES as u64)?;
        let end = start.checked_add(usize::try_from(bytes).ok()?)?;
        let body = self.bytes.get(start + format::BATCH_HEADER_BYTES..end)?;
        (crc32c::crc32c(body) == header.body_crc).then_some((header, crc))
    }

    fn header_at(&self, block: u64) -> Option<(BatchHeader, u32)> {
        let bytes = self.bytes.get(self.offset(block) as usize..)?;
        BatchHeader::decode(bytes, self.name.nonce, block)
    }

    fn take_batch(&self, replay: &mut Replay, header: &BatchHeader) -> Result<(), WalError> {
        let start = self.offset(header.block);
        let (old, new) = (replay.hard_state.term, header.hard_state.term);
        if new < old {
            return Err(self.corrupt(start, format!("its batch goes back from term {old} to {new}")));
        }
        replay.hard_state = header.hard_state;
        let mut at = start as usize + format::records_at(header.block == 0);
        let end = start as usize + header.length as usize;
        for _ in 0..header.records {
            let bytes = &self.bytes[at..end];
            let taken = format::decode_record(bytes).and_then(|(record, length)| {
                replay.take(record).map_err(RecordError::Broken)?;
                Ok(length)
            });
            at += taken.map_err(|error| self.unreadable(replay, at as u64, error))?;
        }
        if at != end {
            return Err(self.corrupt(at as u64, "there is more in the batch than its header says"));
        }
        Ok(())
    }

    /// After an entry that puts a later version in force, data that looks damaged here may be valid for the program
    /// that wrote it.
    fn unreadable(&self, replay: &Replay, offset: u64, error: RecordError) -> WalError {
        let newest = replay.changes.iter().filter_map(Entry::version).max();
        let newer = |what| WalError::Newer { file: self.disk.display(&self.shown), offset, what };
        match (error, newest.and_then(|version| check_version(version, PROTOCOL).err())) {
            (_, Some(mismatch)) => newer(mismatch.to_string()),
            (RecordError::Newer(what), None) => newer(what),
            (RecordError::Broken(what), None) => self.corrupt(offset, what),
        }
    }

    /// There is no undamaged batch at `block`: decides between the end of the log, a torn write and corruption.
    fn judge_end(&self, block: u64, is_last: bool, may_be_stale: bool) -> Result<Rest, WalError> {
        let from = self.offset(block) as usize;
        let rest = &self.bytes[from..];
        let Some(last_byte) = rest.iter().rposition(|&b| b != 0) else { return Ok(Rest::Zero) };
        let end_block = ((from + last_byte) / BLOCK_BYTES + 1) as u64;
        let headers = || (block..end_block).filter_map(|at| self.header_at(at));
        // The first block of a reused file was zeroed.
        let may_be_stale = may_be_stale && (block > 0 || self.bytes[..BLOCK_BYTES].iter().all(|&b| b == 0));
        if may_be_stale && headers().next().is_none() {
            return Ok(Rest::Stale);
        }
        if !is_last {
            let what = "a batch is damaged that was synced before the next segment was begun";
            return Err(self.corrupt(from as u64, what));
        }
        if let Some((proof, _)) = headers().find(|(header, _)| header.synced_through > block) {
            let what = format!(
                "a batch is damaged that was synced, as the batch at byte {} proves",
                self.offset(proof.block)
            );
            return Err(self.corrupt(from as u64, what));
        }
        Ok(Rest::Torn(Torn { end_block }))
    }

    fn broken_chain(&self, block: u64) -> &'static str {
        if block > 0 {
            "the batch does not continue the one before it"
        } else if self.name.sequence > 1 {
            "its first batch does not continue the segment before it: batches are missing there"
        } else {
            "the log's first batch continues another one: batches are missing before it"
        }
    }

    fn offset(&self, block: u64) -> u64 {
        block * BLOCK_BYTES as u64
    }

    fn corrupt(&self, offset: u64, what: impl Into<String>) -> WalError {
        WalError::corrupt(self.disk, &self.shown, offset, what)
    }
}
