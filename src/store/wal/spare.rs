//! Spare segments: new files that the housekeeper has zeroed, or old segments that the log no longer needs. An
//! fdatasync into space that was written before costs half as much as one into space that was only reserved.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::store::disk::{Disk, DiskFile};

use super::WalError;
use super::format::{BLOCK_BYTES, SegmentName};
use super::segment;

/// Bytes zeroed and synced in one step: few enough that a write of the log never waits long for it.
const PIECE_BYTES: u64 = 256 << 10;

/// Maximum number of files that wait to become segments, not counting the spare that is being made; other files that
/// a cut frees are removed.
const MAX_SPARES: usize = 4;

/// What the log writer and the housekeeper share.
pub(super) struct Slot {
    state: Mutex<SlotState>,
    /// Bytes of the current segment in use. Written by the log writer.
    filled: AtomicU64,
    /// Zeroed bytes of the spare that is being made. Written by the housekeeper.
    zeroed: AtomicU64,
    segment_bytes: u64,
}

#[derive(Default)]
struct SlotState {
    /// Spares that the log writer may take.
    ready: VecDeque<Spare>,
    /// Segments that were cut off, the oldest first: for the housekeeper.
    retired: VecDeque<Retired>,
}

/// A file that may become a segment.
pub(super) struct Spare {
    /// Its name until it becomes a segment.
    pub name: String,
    pub file: Box<dyn DiskFile>,
    /// Whether only its first block is zero, and the rest is old content.
    pub is_reused: bool,
}

/// A segment that the log no longer needs.
pub(super) struct Retired {
    pub name: SegmentName,
    /// Its length.
    pub blocks: u64,
}

impl Slot {
    pub(super) fn new(segment_bytes: u64) -> Arc<Slot> {
        Arc::new(Slot {
            state: Mutex::default(),
            filled: AtomicU64::new(0),
            zeroed: AtomicU64::new(0),
            segment_bytes,
        })
    }

    /// Log writer: a spare, if one is ready. To be renamed.
    pub(super) fn take(&self) -> Option<Spare> {
        self.lock().ready.pop_front()
    }

    /// Log writer: segments to reuse or remove, the oldest first.
    pub(super) fn retire(&self, segments: impl Iterator<Item = Retired>) {
        self.lock().retired.extend(segments);
    }

    /// Log writer: how much of the current segment is in use.
    pub(super) fn set_filled(&self, bytes: u64) {
        self.filled.store(bytes, Ordering::Release);
    }

    /// Whether a step of the housekeeper has work now: a segment was retired, or no spare is ready and the spare that
    /// is being made lags. The spare grows twice as fast as the current segment fills. So it is ready when the
    /// current segment is half full, and the zeroing never comes in one burst.
    pub(super) fn is_due(&self) -> bool {
        let target = (2 * self.filled.load(Ordering::Acquire)).clamp(1, self.segment_bytes);
        let state = self.lock();
        let is_behind = self.zeroed.load(Ordering::Acquire) < target;
        !state.retired.is_empty() || (state.ready.is_empty() && is_behind)
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().expect("nothing panics while it holds the slot of the spare segment")
    }
}

/// The housekeeper's part: makes spare segments, piece by piece, takes segments that the log no longer needs, and
/// passes them to the log writer.
///
/// The exchange: each spare has its own name, `spare-<n>.tmp`, that only the preparer uses. When the whole file is
/// zeroed and synced, the preparer puts the open file and its name into the slot and forgets them. The log writer
/// takes them out when it opens the next segment, renames the file and syncs the directory. The mutex around the slot
/// is held only for the move, never during I/O, so neither thread ever waits for the other's disk operation. When the
/// log writer finds no spare it makes a segment itself under another name and counts that; the unfinished spare is
/// then used for the segment after that.
///
/// A retired segment leaves the log by a rename to a spare's name or by its removal. This happens one segment at a
/// time, the oldest first, with a sync of the directory before the next one: after any crash the log has no gap. In a
/// reused file only the first block is zeroed; `reused` in a batch header shows that old content may follow.
///
/// Waking: after a write or a cut the log writer asks [`Wal::spare_is_due`](super::Wal::spare_is_due) and wakes the
/// housekeeper when it returns `true`; the housekeeper then calls [`SparePreparer::step`] until there is nothing more
/// to do.
pub struct SparePreparer {
    disk: Arc<dyn Disk>,
    slot: Arc<Slot>,
    /// The spare that is being made.
    making: Option<(String, Box<dyn DiskFile>)>,
    /// Number of the last spare.
    last_spare: u64,
    zeroes: Vec<u8>,
}

impl SparePreparer {
    pub(super) fn new(disk: Arc<dyn Disk>, slot: Arc<Slot>) -> SparePreparer {
        let zeroes = vec![0; PIECE_BYTES.min(slot.segment_bytes) as usize];
        SparePreparer { disk, slot, making: None, last_spare: 0, zeroes }
    }

    /// Reuses or removes one retired segment, or zeroes and syncs at most one piece of 256 KiB, if that is due.
    /// `true` = call again, there is more to do now. After an error the node should stop: if space is missing here,
    /// the log will soon lack space too.
    pub fn step(&mut self) -> Result<bool, WalError> {
        if !self.slot.is_due() {
            return Ok(false);
        }
        let retired = self.slot.lock().retired.pop_front();
        match retired {
            Some(retired) => self.do_away_with(&retired)?,
            None => self.zero_piece()?,
        }
        Ok(self.slot.is_due())
    }

    fn do_away_with(&mut self, retired: &Retired) -> Result<(), WalError> {
        let shown = retired.name.to_string();
        let spares = self.slot.lock().ready.len();
        if retired.blocks * BLOCK_BYTES as u64 != self.slot.segment_bytes || spares >= MAX_SPARES {
            self.disk.remove(&shown).map_err(WalError::io(&self.disk, &shown, "remove"))?;
            return self.sync_dir();
        }
        let file = self.disk.open(&shown).map_err(WalError::io(&self.disk, &shown, "open"))?;
        let name = self.new_name();
        self.disk.rename(&shown, &name).map_err(WalError::io(&self.disk, &shown, "rename"))?;
        // The file first leaves the log, and is changed after that: otherwise a crash could leave a segment without
        // its beginning.
        self.sync_dir()?;
        self.zero(&name, &*file, 0, BLOCK_BYTES)?;
        self.slot.lock().ready.push_back(Spare { name, file, is_reused: true });
        Ok(())
    }

    fn zero_piece(&mut self) -> Result<(), WalError> {
        let (name, file) = match self.making.take() {
            Some(making) => making,
            None => {
                let name = self.new_name();
                let file = self.disk.create(&name).map_err(WalError::io(&self.disk, &name, "create"))?;
                (name, file)
            }
        };
        let at = self.slot.zeroed.load(Ordering::Acquire);
        let piece = self.zeroes.len().min((self.slot.segment_bytes - at) as usize);
        self.zero(&name, &*file, at, piece)?;
        let zeroed = at + piece as u64;
        if zeroed < self.slot.segment_bytes {
            self.slot.zeroed.store(zeroed, Ordering::Release);
            self.making = Some((name, file));
        } else {
            let mut state = self.slot.lock();
            self.slot.zeroed.store(0, Ordering::Release);
            state.ready.push_back(Spare { name, file, is_reused: false });
        }
        Ok(())
    }

    fn zero(&self, name: &str, file: &dyn DiskFile, at: u64, bytes: usize) -> Result<(), WalError> {
        let zeroes = &self.zeroes[..bytes];
        file.write_at(at, zeroes).map_err(|e| WalError::io_at(&self.disk, name, "zero", at, e))?;
        file.sync().map_err(WalError::io(&self.disk, name, "sync"))
    }

    fn new_name(&mut self) -> String {
        self.last_spare += 1;
        segment::spare_name(self.last_spare)
    }

    fn sync_dir(&self) -> Result<(), WalError> {
        self.disk.sync_dir().map_err(WalError::io(&self.disk, "", "sync"))
    }
}
