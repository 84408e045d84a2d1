//! Receiving a snapshot in pieces, in the order of their offsets. The receiver decides at which offset the sender
//! continues.

use std::sync::Arc;

use super::format::TRAILER_BYTES;
use super::reader::{SnapshotReader, load_named};
use super::{RECEIVE_NAME, SnapshotError, SnapshotHeader, SnapshotName};
use crate::raft::Position;
use crate::store::disk::{Disk, DiskFile};
use crate::store::kv::Kv;

/// The snapshot that a piece belongs to. Two files with equal keys count as the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferKey {
    /// The last entry it covers.
    pub last: Position,
    /// Length of the file.
    pub bytes: u64,
    /// The CRC at its end, of everything before.
    pub crc: u32,
}

impl SnapshotReader {
    /// The key by which a receiver recognises this file.
    pub fn key(&self) -> TransferKey {
        let status = self.status();
        TransferKey { last: status.header.meta.last, bytes: status.bytes, crc: status.crc }
    }
}

/// Receives one snapshot at a time into `receive.tmp`. The file is not used before [`Receiver::finish`].
pub struct Receiver {
    disk: Arc<dyn Disk>,
    transfer: Option<Transfer>,
}

struct Transfer {
    key: TransferKey,
    file: Box<dyn DiskFile>,
    /// Bytes written.
    received: u64,
    /// CRC of these bytes, without the four bytes at the end of the file.
    crc: u32,
    /// The four bytes at the end of the file, as far as they were received.
    end: Vec<u8>,
}

impl Transfer {
    /// Updates the counters with the bytes after `received`.
    fn advance(&mut self, bytes: &[u8]) {
        let covered = (self.key.bytes - 4).saturating_sub(self.received);
        let (body, end) = bytes.split_at(usize::try_from(covered).unwrap_or(usize::MAX).min(bytes.len()));
        self.crc = crc32c::crc32c_append(self.crc, body);
        self.end.extend_from_slice(end);
        self.received += bytes.len() as u64;
    }

    fn is_right(&self) -> bool {
        self.crc == self.key.crc && self.end == self.key.crc.to_le_bytes()
    }
}

impl Receiver {
    /// A receiver that has received nothing.
    pub fn new(disk: Arc<dyn Disk>) -> Receiver {
        Receiver { disk, transfer: None }
    }

    /// The offset of the next byte wanted of this snapshot: 0 for every snapshot except the one that is being
    /// received.
    pub fn expected_offset(&self, key: &TransferKey) -> u64 {
        self.transfer.as_ref().filter(|transfer| transfer.key == *key).map_or(0, |transfer| transfer.received)
    }

    /// Whether all bytes of this snapshot were received.
    pub fn is_complete(&self, key: &TransferKey) -> bool {
        self.expected_offset(key) == key.bytes && key.bytes > 0
    }

    /// Takes a piece; returns the offset of the next byte wanted. A piece that begins at another offset, or continues
    /// after the end, changes nothing. The first piece of another snapshot ends the running transfer.
    ///
    /// # Errors
    /// A file operation fails. The transfer then begins again.
    pub fn take(&mut self, key: &TransferKey, offset: u64, bytes: &[u8]) -> Result<u64, SnapshotError> {
        let expected = self.expected_offset(key);
        let end = offset.checked_add(bytes.len() as u64);
        let is_sane = key.bytes > TRAILER_BYTES as u64 && end.is_some_and(|end| end <= key.bytes);
        if offset != expected || bytes.is_empty() || !is_sane {
            return Ok(expected);
        }
        let mut transfer = match self.transfer.take() {
            Some(transfer) if transfer.key == *key => transfer,
            _ => {
                let create = self.disk.create(RECEIVE_NAME);
                let file = create.map_err(SnapshotError::io(&self.disk, RECEIVE_NAME, "create"))?;
                Transfer { key: *key, file, received: 0, crc: 0, end: Vec::new() }
            }
        };
        transfer.file.write_at(offset, bytes).map_err(|source| SnapshotError::Io {
            file: self.disk.display(RECEIVE_NAME),
            action: "write",
            offset: Some(offset),
            source,
        })?;
        transfer.advance(bytes);
        Ok(self.transfer.insert(transfer).received)
    }

    /// Verifies the received file, makes it a snapshot of this directory, durably, and returns its state. Panics
    /// unless [`Receiver::is_complete`] is true.
    ///
    /// # Errors
    /// The received file is damaged, or a file operation fails. The transfer then begins again.
    pub fn finish(&mut self) -> Result<(SnapshotHeader, Kv), SnapshotError> {
        let transfer = self.transfer.take().filter(|transfer| transfer.received == transfer.key.bytes);
        let transfer = transfer.expect("finished when complete");
        let (disk, shown) = (&self.disk, self.disk.display(RECEIVE_NAME));
        if !transfer.is_right() {
            let what = "the checksum of what was received does not match".to_owned();
            return Err(SnapshotError::Corrupt { file: shown, offset: transfer.received, what });
        }
        let loaded = load_named(&*transfer.file, shown, Some(transfer.key.last))?;
        transfer.file.sync().map_err(SnapshotError::io(disk, RECEIVE_NAME, "sync"))?;
        super::name_snapshot(disk, RECEIVE_NAME, SnapshotName::new(transfer.key.last))?;
        Ok(loaded)
    }
}
