//! Segment files: finding them, reading them, making new ones.

use std::sync::Arc;

use crate::raft::Index;
use crate::store::disk::{Disk, DiskFile};

use super::WalError;
use super::format::{BLOCK_BYTES, SegmentName};

/// Beginning of the name of a spare segment. Such a file belongs to the housekeeper until the log writer takes it.
const SPARE_PREFIX: &str = "spare";

/// Name of a segment that the log writer makes itself. It differs from a spare's name because both may be in progress
/// at the same time.
pub(super) const MADE_NAME: &str = "segment.tmp";

/// Maximum size of a segment: checked before memory is allocated for one.
pub(super) const MAX_SEGMENT_BYTES: u64 = 1 << 30;

const READ_BYTES: usize = 256 << 10;

/// The segment that is being filled.
pub(super) struct Current {
    pub name: SegmentName,
    /// `name` as text.
    pub shown: String,
    pub file: Box<dyn DiskFile>,
    /// Its length in blocks.
    pub blocks: u64,
    /// Index of the log's last entry when the segment was begun. Known once it has a batch.
    pub base_index: Index,
    /// Where the next batch goes.
    pub next_block: u64,
    /// Blocks that are synced: at most `next_block`.
    pub synced_blocks: u64,
    /// Whether bytes of an earlier life of the file may be after `next_block`. Every batch says so.
    pub is_reused: bool,
}

impl Current {
    pub(super) fn new(name: SegmentName, file: Box<dyn DiskFile>, blocks: u64, is_reused: bool) -> Current {
        let shown = name.to_string();
        Current { name, shown, file, blocks, base_index: 0, next_block: 0, synced_blocks: 0, is_reused }
    }
}

/// A segment before the current one.
pub(super) struct Older {
    pub name: SegmentName,
    /// Its length.
    pub blocks: u64,
    /// Index of the log's last entry when it was begun.
    pub base_index: Index,
}

/// The name of the nth spare of this process.
pub(super) fn spare_name(n: u64) -> String {
    format!("{SPARE_PREFIX}-{n}.tmp")
}

/// The segments in order. Their numbers have no gap; the first one is not 1 when the log was cut.
pub(super) fn list_segments(disk: &Arc<dyn Disk>) -> Result<Vec<SegmentName>, WalError> {
    let names = disk.list().map_err(WalError::io(disk, "", "list"))?;
    let mut segments = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(".wal")) {
        let what = "its name is not that of a segment; a log file was renamed, or this one is not dkv's";
        segments.push(SegmentName::parse(name).ok_or_else(|| WalError::corrupt(disk, name, 0, what))?);
    }
    segments.sort();
    let first = segments.first().map_or(1, |first| first.sequence);
    for (segment, expected) in segments.iter().zip(first..) {
        if segment.sequence != expected {
            let what = if segment.sequence < expected {
                format!("there are two segments with sequence number {}", segment.sequence)
            } else {
                missing(expected)
            };
            return Err(WalError::corrupt(disk, &segment.to_string(), 0, what));
        }
    }
    Ok(segments)
}

/// The text for a missing segment.
pub(super) fn missing(sequence: u64) -> String {
    format!("segment {sequence}, which must come before it, is missing")
}

/// Opens a segment and reads the whole file. Its length is a whole number of blocks.
pub(super) fn read_segment(
    disk: &Arc<dyn Disk>,
    name: SegmentName,
) -> Result<(Box<dyn DiskFile>, Vec<u8>), WalError> {
    let (shown, file) = open_segment(disk, name)?;
    let bytes = read_file(disk, &shown, file.as_ref())?;
    Ok((file, bytes))
}

/// The same for the last segment, from the disk itself and not from the page cache: a process that ended because a sync
/// had failed leaves in the cache what the disk never got, and no later sync would write it.
pub(super) fn read_last_segment(
    disk: &Arc<dyn Disk>,
    name: SegmentName,
) -> Result<(Box<dyn DiskFile>, Vec<u8>), WalError> {
    let (shown, file) = open_segment(disk, name)?;
    // The unsynced data of a killed process is not lost by this, because it is synced first.
    file.sync().map_err(WalError::io(disk, &shown, "sync"))?;
    file.forget_cache().map_err(WalError::io(disk, &shown, "drop the cache of"))?;
    let bytes = read_file(disk, &shown, file.as_ref())?;
    Ok((file, bytes))
}

fn open_segment(disk: &Arc<dyn Disk>, name: SegmentName) -> Result<(String, Box<dyn DiskFile>), WalError> {
    let shown = name.to_string();
    let file = disk.open(&shown).map_err(WalError::io(disk, &shown, "open"))?;
    Ok((shown, file))
}

fn read_file(disk: &Arc<dyn Disk>, shown: &str, file: &dyn DiskFile) -> Result<Vec<u8>, WalError> {
    let size = file.size().map_err(WalError::io(disk, shown, "measure"))?;
    if size == 0 || size % BLOCK_BYTES as u64 != 0 || size > MAX_SEGMENT_BYTES {
        let what = format!("its length of {size} bytes is not one a segment can have");
        return Err(WalError::corrupt(disk, shown, size, what));
    }
    let mut bytes = vec![0; size as usize];
    let mut at = 0;
    for piece in bytes.chunks_mut(READ_BYTES) {
        file.read_at(at, piece).map_err(|e| WalError::io_at(disk, shown, "read", at, e))?;
        at += piece.len() as u64;
    }
    Ok(bytes)
}

/// Makes a segment file of `blocks` blocks under [`MADE_NAME`], its length durable.
pub(super) fn make_segment(disk: &Arc<dyn Disk>, blocks: u64) -> Result<Box<dyn DiskFile>, WalError> {
    let bytes = blocks * BLOCK_BYTES as u64;
    assert!(bytes <= MAX_SEGMENT_BYTES, "one write of {bytes} bytes exceeds every limit");
    let file = disk.create(MADE_NAME).map_err(WalError::io(disk, MADE_NAME, "create"))?;
    file.allocate(bytes).map_err(WalError::io(disk, MADE_NAME, "allocate"))?;
    file.sync().map_err(WalError::io(disk, MADE_NAME, "sync"))?;
    Ok(file)
}

/// Gives a file its name as a segment, durably. The caller must have synced everything in the previous segment.
pub(super) fn name_segment(disk: &Arc<dyn Disk>, from: &str, sequence: u64) -> Result<SegmentName, WalError> {
    let nonce = disk.nonce().map_err(WalError::io(disk, from, "draw a nonce for"))?;
    let name = SegmentName { sequence, nonce };
    let shown = name.to_string();
    disk.rename(from, &shown).map_err(WalError::io(disk, &shown, "rename a new segment to"))?;
    disk.sync_dir().map_err(WalError::io(disk, "", "sync"))?;
    Ok(name)
}

/// Removes the segments that were never given a number.
pub(super) fn remove_leftovers(disk: &Arc<dyn Disk>) -> Result<(), WalError> {
    for name in disk.list().map_err(WalError::io(disk, "", "list"))? {
        if (name.starts_with(SPARE_PREFIX) && name.ends_with(".tmp")) || name == MADE_NAME {
            disk.remove(&name).map_err(WalError::io(disk, &name, "remove"))?;
        }
    }
    Ok(())
}
