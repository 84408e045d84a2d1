//! Writing: batches into the current segment, one sync at the end, the next segment when this one is full.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::raft::{HardState, Index, Position, WriteOp};
use crate::store::disk::Disk;

use super::format::{self, BLOCK_BYTES, BatchHeader, SegmentHeader};
use super::recovery::{self, Scan};
use super::segment::{self, Current, Older};
use super::spare::{Retired, Slot};
use super::{Recovered, SparePreparer, WalError, WalIds, WalOptions, WalStats};

/// Ops are gathered into one batch up to this size; a single larger op becomes a separate batch.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// An open log. Belongs to one thread, the log writer; the housekeeper holds its [`SparePreparer`].
pub struct Wal {
    disk: Arc<dyn Disk>,
    ids: WalIds,
    options: WalOptions,
    /// The segments before the current one that were not yet given to the housekeeper.
    older: VecDeque<Older>,
    current: Current,
    /// The value for the next batch's `prev_crc`.
    chain: u32,
    hard_state: HardState,
    /// The position before the first entry: nothing at or before it may be written again.
    base_index: Index,
    last: Position,
    /// The batch under construction; kept for its capacity.
    buf: Vec<u8>,
    /// Whether something was written that no later batch proves to be synced.
    unsealed: bool,
    /// Whether a write or sync failed.
    failed: bool,
    slot: Arc<Slot>,
    preparer: Option<SparePreparer>,
    stats: WalStats,
}

impl Wal {
    /// Begins a log: an empty first segment, its name durable. [`WalError::Exists`] when there is a log already.
    ///
    /// Until the first [`Wal::write`] has returned, a crash leaves no log: [`Wal::exists`] says so, and `create` works
    /// again.
    pub fn create(disk: Arc<dyn Disk>, ids: WalIds, options: WalOptions) -> Result<Wal, WalError> {
        let segment_blocks = segment_blocks(&options);
        if Wal::exists(&disk)? {
            return Err(WalError::Exists(disk.display("")));
        }
        segment::remove_leftovers(&disk)?;
        for name in segment::list_segments(&disk)? {
            let name = name.to_string();
            disk.remove(&name).map_err(WalError::io(&disk, &name, "remove"))?;
        }
        // Otherwise a power loss could bring the removed segment back next to the new one with the same number.
        disk.sync_dir().map_err(WalError::io(&disk, "", "sync"))?;
        let file = segment::make_segment(&disk, segment_blocks)?;
        let name = segment::name_segment(&disk, segment::MADE_NAME, 1)?;
        Ok(Wal::assemble(disk, ids, options, Current::new(name, file, segment_blocks, false)))
    }

    /// Opens a log that was never cut and recovers what it holds: reads everything, cuts off a torn end, makes what is
    /// left durable and seals it. Errors: [`WalError::Missing`] when [`Wal::exists`] says no; [`WalError::Corrupt`] when
    /// something that was synced is damaged, and nothing is changed then.
    pub fn open(disk: Arc<dyn Disk>, ids: WalIds, options: WalOptions) -> Result<(Wal, Recovered), WalError> {
        let scan = recovery::scan(&disk, Some(ids), false, options.max_memory_bytes)?;
        Wal::recover(disk, ids, options, scan, None)
    }

    /// Opens the log of a state that ends at `snapshot` (`0@0`: there is none) and makes the two fit:
    ///
    /// - The log holds the entry at `snapshot`, or begins after it: what lies after is returned.
    /// - It ends before `snapshot`, or has another term there: the snapshot was installed over it, and the crash came
    ///   before the log could be reset. All of its entries are dropped (raft-rules 20), and a reset to `snapshot` is
    ///   durable before this returns.
    /// - It begins after `snapshot`: [`WalError::Gap`], entries are missing. Nothing is changed.
    ///
    /// `reach` is the index of the newest existing snapshot, damaged or not; this member has acknowledged everything
    /// before it. When `snapshot` is an older snapshot that is used instead, the log must get as far as `reach`,
    /// otherwise this is a gap too.
    pub fn open_after(
        disk: Arc<dyn Disk>,
        ids: WalIds,
        options: WalOptions,
        snapshot: Position,
        reach: Index,
    ) -> Result<(Wal, Recovered), WalError> {
        let mut scan = recovery::scan(&disk, Some(ids), true, options.max_memory_bytes)?;
        if recovery::leads_to(&scan.replay, &disk, snapshot, reach)? {
            scan.replay.log.compact(snapshot.index);
            return Wal::recover(disk, ids, options, scan, None);
        }
        Wal::recover(disk, ids, options, scan, Some(snapshot))
    }

    /// Makes the log from what was read; with `reset`, an empty log after that position.
    fn recover(
        disk: Arc<dyn Disk>,
        ids: WalIds,
        options: WalOptions,
        scan: Scan,
        reset: Option<Position>,
    ) -> Result<(Wal, Recovered), WalError> {
        segment_blocks(&options);
        let Scan { mut replay, older, last, torn } = scan;
        let mut warnings = Vec::new();
        if let Some(torn) = torn {
            warnings.push(recovery::cut_off(&disk, &last, &torn, &replay)?);
        }
        segment::remove_leftovers(&disk)?;
        // From here on the node relies on what was read: the scan has synced the last segment, and this syncs its
        // name.
        disk.sync_dir().map_err(WalError::io(&disk, "", "sync"))?;
        let mut wal = Wal::assemble(disk, ids, options, last);
        wal.older = older;
        wal.current.synced_blocks = wal.current.next_block;
        wal.chain = replay.chain;
        wal.hard_state = replay.hard_state;
        wal.base_index = replay.log.base().index;
        wal.last = replay.last();
        wal.unsealed = true;
        if let Some(snapshot) = reset {
            warnings.push(format!(
                "the log ended with entry {} and does not lead to the snapshot at {snapshot}: it begins anew after that",
                replay.last()
            ));
            // The snapshot may be from a leader whose term was not yet stored here.
            if wal.hard_state.term < snapshot.term {
                replay.hard_state = HardState { term: snapshot.term, voted_for: None };
            }
            wal.write(&[WriteOp::HardState(replay.hard_state), WriteOp::Reset(snapshot)])?;
            replay.reset(snapshot);
        }
        wal.seal()?;
        let recovery::Replay { hard_state, log, changes, synced_mark, .. } = replay;
        let base = log.base();
        let bytes_after = wal.bytes_after(base.index);
        let (left, entries) = log.into_parts(changes);
        Ok((wal, Recovered { hard_state, base, left, entries, bytes_after, synced_mark, warnings }))
    }

    /// Whether there is a log: a segment that holds at least one complete batch, or several segments. A first segment
    /// whose first write was never completed does not count as a log.
    pub fn exists(disk: &Arc<dyn Disk>) -> Result<bool, WalError> {
        Ok(Wal::identify(disk)?.is_some())
    }

    /// The cluster and the member that this log belongs to; `None` when there is no log. Reads only the first
    /// segment.
    pub fn identify(disk: &Arc<dyn Disk>) -> Result<Option<WalIds>, WalError> {
        recovery::identify(disk)
    }

    fn assemble(disk: Arc<dyn Disk>, ids: WalIds, options: WalOptions, current: Current) -> Wal {
        let slot = Slot::new(options.segment_bytes);
        slot.set_filled(current.next_block * BLOCK_BYTES as u64);
        Wal {
            preparer: Some(SparePreparer::new(Arc::clone(&disk), Arc::clone(&slot))),
            disk,
            ids,
            options,
            older: VecDeque::new(),
            current,
            chain: 0,
            hard_state: HardState::default(),
            base_index: 0,
            last: Position::ZERO,
            buf: Vec::new(),
            unsealed: false,
            failed: false,
            slot,
            stats: WalStats::default(),
        }
    }

    /// The housekeeper's part of this log. `Some` at the first call, `None` afterwards: there is only one.
    pub fn take_preparer(&mut self) -> Option<SparePreparer> {
        self.preparer.take()
    }

    /// Whether the housekeeper should be woken for a [`SparePreparer::step`]. Cheap.
    pub fn spare_is_due(&self) -> bool {
        self.slot.is_due()
    }

    /// Counters since the log was opened.
    pub fn stats(&self) -> WalStats {
        self.stats
    }

    /// Makes the ops durable, in order: when this returns `Ok`, all of them are durable. Needs one batch and one sync
    /// if the ops have at most 1 MiB and fit into the segment. Without ops it does nothing.
    ///
    /// After an error any prefix of the ops may be on the disk, and the log takes no more writes: the caller ends the
    /// process, and recovery finds out what was written. Panics when the ops contradict the log, such as an entry
    /// that leaves a gap: writing it would make the log unreadable.
    pub fn write<'a>(&mut self, ops: impl IntoIterator<Item = &'a WriteOp>) -> Result<(), WalError> {
        let ops: Vec<&WriteOp> = ops.into_iter().collect();
        self.guard(|wal| {
            let mut rest = &ops[..];
            while !rest.is_empty() {
                let count = wal.batch_of(rest);
                wal.write_batch(&rest[..count])?;
                wal.unsealed = true;
                rest = &rest[count..];
            }
            wal.sync_current()
        })
    }

    /// Whether the last batches have no proof after them yet: then [`Wal::seal`] writes one.
    pub fn needs_seal(&self) -> bool {
        self.unsealed && !self.failed
    }

    /// Writes and syncs an empty batch that proves that everything before it is synced: from then on damage to
    /// earlier batches is recognised. Does nothing when everything is already proven.
    pub fn seal(&mut self) -> Result<(), WalError> {
        if !self.unsealed {
            return Ok(());
        }
        self.guard(|wal| {
            wal.write_batch(&[])?;
            wal.sync_current()?;
            wal.unsealed = false;
            wal.stats.seals += 1;
            Ok(())
        })
    }

    /// Gives up the segments that hold nothing after `index`: a durable snapshot has their content. The housekeeper
    /// reuses or removes them, see [`Wal::spare_is_due`]; after a restart they may still be there, so cut again then.
    /// Returns how many they are.
    ///
    /// With the `index` of the older of the two kept snapshots, a damaged newer snapshot is not needed.
    ///
    /// The log is sealed first: without the segments before it, damage to the first that is left must be told from a torn
    /// write.
    pub fn cut(&mut self, index: Index) -> Result<usize, WalError> {
        let is_whole = self.current.synced_blocks > 0;
        let bases = self.older.iter().map(|older| older.base_index);
        let bases: Vec<Index> = bases.chain(is_whole.then_some(self.current.base_index)).collect();
        let first = bases.iter().rposition(|&base| base <= index).unwrap_or(0);
        if first > 0 {
            self.seal()?;
            let retired = self.older.drain(..first);
            self.slot.retire(retired.map(|Older { name, blocks, .. }| Retired { name, blocks }));
        }
        Ok(first)
    }

    /// Used bytes of the segments that were begun at `index` or later.
    fn bytes_after(&self, index: Index) -> u64 {
        let older = self.older.iter().map(|older| (older.base_index, older.blocks));
        let all = older.chain([(self.current.base_index, self.current.next_block)]);
        all.filter(|&(base_index, _)| base_index >= index)
            .map(|(_, blocks)| blocks * BLOCK_BYTES as u64)
            .sum()
    }

    /// Runs a step. If it fails, the log does nothing more.
    fn guard(&mut self, step: impl FnOnce(&mut Wal) -> Result<(), WalError>) -> Result<(), WalError> {
        if self.failed {
            return Err(WalError::Unusable);
        }
        // Set before the step, so that a panic in the step counts as a failure too.
        self.failed = true;
        step(self)?;
        self.failed = false;
        Ok(())
    }

    /// How many of the ops go into the next batch: as many as fit, at least one.
    fn batch_of(&self, ops: &[&WriteOp]) -> usize {
        let room = self.options.segment_bytes as usize - BLOCK_BYTES;
        let limit = MAX_BATCH_BYTES.min(room);
        let mut bytes = 0;
        let fits = ops.iter().take_while(|op| {
            bytes += format::record_bytes(op);
            bytes <= limit
        });
        fits.count().max(1)
    }

    fn write_batch(&mut self, ops: &[&WriteOp]) -> Result<(), WalError> {
        let record_bytes = ops.iter().map(|op| format::record_bytes(op)).sum();
        let left = (self.current.blocks - self.current.next_block) * BLOCK_BYTES as u64;
        if format::batch_bytes(self.current.next_block == 0, record_bytes) > left {
            self.next_segment(format::batch_bytes(true, record_bytes))?;
        }
        if self.current.next_block == 0 {
            self.current.base_index = self.last.index;
        }
        let current = &self.current;
        let blocks = format::batch_bytes(current.next_block == 0, record_bytes) / BLOCK_BYTES as u64;
        let segment = (current.next_block == 0).then(|| SegmentHeader {
            ids: self.ids,
            sequence: current.name.sequence,
            blocks: current.blocks,
            first_index: self.last.index + 1,
            prev_term: self.last.term,
        });
        ops.iter().for_each(|op| self.advance(op));
        let current = &self.current;
        let header = BatchHeader {
            nonce: current.name.nonce,
            block: current.next_block,
            synced_through: current.synced_blocks,
            hard_state: self.hard_state,
            records: 0,
            length: 0,
            prev_crc: self.chain,
            body_crc: 0,
            reused: current.is_reused,
        };
        self.chain = format::encode_batch(&mut self.buf, &header, segment.as_ref(), ops);
        let at = current.next_block * BLOCK_BYTES as u64;
        current
            .file
            .write_at(at, &self.buf)
            .map_err(|e| WalError::io_at(&self.disk, &current.shown, "write", at, e))?;
        self.current.next_block += blocks;
        self.stats.used += blocks * BLOCK_BYTES as u64;
        self.slot.set_filled(self.current.next_block * BLOCK_BYTES as u64);
        self.stats.batches += 1;
        // The memory of one large batch must not be kept permanently.
        if self.buf.capacity() > 4 * MAX_BATCH_BYTES {
            self.buf = Vec::new();
        }
        Ok(())
    }

    /// Updates the state with what the op does to the log.
    fn advance(&mut self, op: &WriteOp) {
        match op {
            WriteOp::HardState(hard_state) => {
                let (old, new) = (self.hard_state.term, hard_state.term);
                assert!(new >= old, "the log cannot go back from term {old} to {new}");
                self.hard_state = *hard_state;
            }
            WriteOp::Entries(entries) => {
                for entry in entries {
                    let index = entry.index();
                    let (base, last) = (self.base_index, self.last);
                    assert!(
                        base < index && index <= last.index + 1,
                        "entry {} does not continue a log from {base} to {last}",
                        entry.position()
                    );
                    self.last = entry.position();
                }
            }
            WriteOp::Reset(position) => {
                self.base_index = position.index;
                self.last = *position;
            }
        }
    }

    fn sync_current(&mut self) -> Result<(), WalError> {
        let current = &mut self.current;
        if current.synced_blocks < current.next_block {
            current.file.sync().map_err(WalError::io(&self.disk, &current.shown, "sync"))?;
            current.synced_blocks = current.next_block;
            self.stats.syncs += 1;
        }
        Ok(())
    }

    /// Opens the next segment, one that holds a first batch of `batch_bytes`.
    fn next_segment(&mut self, batch_bytes: u64) -> Result<(), WalError> {
        // The name of a segment promises that the previous segment is synced.
        self.sync_current()?;
        let sequence = self.current.name.sequence + 1;
        let spare = if batch_bytes <= self.options.segment_bytes {
            let spare = self.slot.take();
            self.stats.spare_not_ready += u64::from(spare.is_none());
            spare
        } else {
            None
        };
        let next = match spare {
            Some(spare) => {
                let name = segment::name_segment(&self.disk, &spare.name, sequence)?;
                self.stats.segments_reused += u64::from(spare.is_reused);
                Current::new(name, spare.file, segment_blocks(&self.options), spare.is_reused)
            }
            None => {
                let blocks = segment_blocks(&self.options).max(batch_bytes / BLOCK_BYTES as u64);
                let file = segment::make_segment(&self.disk, blocks)?;
                let name = segment::name_segment(&self.disk, segment::MADE_NAME, sequence)?;
                Current::new(name, file, blocks, false)
            }
        };
        let Current { name, blocks, base_index, next_block, .. } = std::mem::replace(&mut self.current, next);
        self.stats.used += (blocks - next_block) * BLOCK_BYTES as u64;
        self.older.push_back(Older { name, blocks, base_index });
        self.stats.segments += 1;
        Ok(())
    }
}

fn segment_blocks(options: &WalOptions) -> u64 {
    let bytes = options.segment_bytes;
    let blocks = bytes / BLOCK_BYTES as u64;
    assert!(
        bytes.is_multiple_of(BLOCK_BYTES as u64) && blocks >= 2 && bytes <= segment::MAX_SEGMENT_BYTES,
        "a segment of {bytes} bytes: must be a multiple of 4096 from 8192 on"
    );
    blocks
}
