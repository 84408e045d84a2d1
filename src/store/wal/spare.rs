//! The next segment, zeroed beforehand by the housekeeper: an fdatasync into space that was written once costs half
//! of one into space that was only reserved.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::store::disk::{Disk, DiskFile};

use super::WalError;
use super::segment::SPARE_NAME;

/// Bytes zeroed and synced in one step: little enough that a write of the log is never long behind it.
const PIECE_BYTES: u64 = 256 << 10;

/// What the log writer and the housekeeper share.
pub(super) struct Slot {
    state: Mutex<SlotState>,
    /// Bytes of the current segment in use. Written by the log writer.
    filled: AtomicU64,
    /// Bytes of the next spare that are zeroed. Written by the housekeeper while the slot is wanted.
    zeroed: AtomicU64,
    segment_bytes: u64,
}

enum SlotState {
    /// The housekeeper may make a spare; the name `spare.tmp` is its own.
    Wanted,
    /// It is made; the log writer may take it.
    Ready(Box<dyn DiskFile>),
    /// The log writer has it and is about to give it another name; `spare.tmp` must not be touched.
    Taken,
}

impl Slot {
    pub fn new(segment_bytes: u64) -> Arc<Slot> {
        Arc::new(Slot {
            state: Mutex::new(SlotState::Wanted),
            filled: AtomicU64::new(0),
            zeroed: AtomicU64::new(0),
            segment_bytes,
        })
    }

    /// Log writer: the spare, if it is ready. To be renamed, then [`Slot::give_back_name`].
    pub fn take(&self) -> Option<Box<dyn DiskFile>> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, SlotState::Taken) {
            SlotState::Ready(file) => Some(file),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Log writer: `spare.tmp` has another name now, the next one may be made.
    pub fn give_back_name(&self) {
        self.zeroed.store(0, Ordering::Release);
        *self.lock() = SlotState::Wanted;
    }

    /// Log writer: how much of the current segment is in use.
    pub fn set_filled(&self, bytes: u64) {
        self.filled.store(bytes, Ordering::Release);
    }

    /// Whether a step of the housekeeper has work now: the spare grows twice as fast as the current segment fills, so
    /// it is ready when that is half full, and the zeroing never comes in one burst.
    pub fn is_due(&self) -> bool {
        let target = (2 * self.filled.load(Ordering::Acquire)).clamp(1, self.segment_bytes);
        matches!(*self.lock(), SlotState::Wanted) && self.zeroed.load(Ordering::Acquire) < target
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().expect("nothing panics while it holds the slot of the spare segment")
    }
}

/// The housekeeper's end: makes spare segments, piece by piece, and hands them to the log writer.
///
/// The hand-over: while the slot says *wanted*, the file `spare.tmp` is the preparer's alone. When all of it is zeroed
/// and synced the preparer puts the open file into the slot (*ready*) and forgets it. The log writer takes the file
/// out when it opens the next segment (*taken*), renames it, syncs the directory, and then says *wanted* again. The
/// mutex around the slot is held for the move only, never during I/O, so neither thread ever waits for the other's
/// disk operation. When the log writer finds nothing ready it makes a segment of its own under another name and
/// counts that; the spare under way is then used for the one after.
///
/// To be woken: after a write the log writer asks [`Wal::spare_is_due`](super::Wal::spare_is_due) and rings the
/// housekeeper when it says so; the housekeeper then calls [`SparePreparer::step`] until there is nothing more to do.
pub struct SparePreparer {
    disk: Arc<dyn Disk>,
    slot: Arc<Slot>,
    /// The file under way.
    making: Option<Box<dyn DiskFile>>,
    zeroes: Vec<u8>,
}

impl SparePreparer {
    pub(super) fn new(disk: Arc<dyn Disk>, slot: Arc<Slot>) -> SparePreparer {
        let zeroes = vec![0; PIECE_BYTES.min(slot.segment_bytes) as usize];
        SparePreparer { disk, slot, making: None, zeroes }
    }

    /// Zeroes and syncs at most one piece of 256 KiB, if one is due. `true` = call again, there is more to do now.
    /// After an error the node should stop: the space that is missing here is missing for the log next.
    pub fn step(&mut self) -> Result<bool, WalError> {
        if !self.slot.is_due() {
            return Ok(false);
        }
        let file = match self.making.take() {
            Some(file) => file,
            None => self.disk.create(SPARE_NAME).map_err(WalError::io(&self.disk, SPARE_NAME, "create"))?,
        };
        let at = self.slot.zeroed.load(Ordering::Acquire);
        let piece = self.zeroes.len().min((self.slot.segment_bytes - at) as usize);
        file.write_at(at, &self.zeroes[..piece])
            .map_err(|e| WalError::io_at(&self.disk, SPARE_NAME, "zero", at, e))?;
        file.sync().map_err(WalError::io(&self.disk, SPARE_NAME, "sync"))?;
        let zeroed = at + piece as u64;
        self.slot.zeroed.store(zeroed, Ordering::Release);
        if zeroed == self.slot.segment_bytes {
            *self.slot.lock() = SlotState::Ready(file);
        } else {
            self.making = Some(file);
        }
        Ok(self.slot.is_due())
    }
}
