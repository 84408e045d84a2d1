//! Writing a snapshot from a pinned view, page by page.

use std::sync::Arc;

use super::format::{self, CHUNK_BYTES};
use super::{SnapshotError, SnapshotHeader, SnapshotName, WRITE_NAME};
use crate::raft::SnapshotMeta;
use crate::store::disk::{Disk, DiskFile};
use crate::store::kv::{Kv, View};

/// Maximum number of keys in one page: this limits how long a page holds the store's read lock.
const PAGE_KEYS: usize = 500;

/// Synced after this many bytes: few enough that a write of the log never waits long for it.
const SYNC_BYTES: u64 = 1 << 20;

/// A snapshot that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Its file.
    pub name: SnapshotName,
    /// The position of its end, and the membership there.
    pub meta: SnapshotMeta,
    /// Length of the file.
    pub bytes: u64,
    /// Rows in it.
    pub rows: u64,
    /// The CRC at its end, of everything before.
    pub crc: u32,
}

/// Writes a snapshot: [`fill`](SnapshotWriter::fill) under the store's read lock and [`flush`](SnapshotWriter::flush)
/// without it, in turn, until there is nothing more, then [`finish`](SnapshotWriter::finish). The caller unpins the view
/// when `fill` has returned `false`, or when it gives up. A writer that is dropped leaves a file that the next writer
/// replaces and a restart removes.
pub struct SnapshotWriter {
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    view: View,
    /// Rows not yet written.
    pending: Vec<u8>,
    /// Chunks about to be written; kept for its capacity.
    out: Vec<u8>,
    /// Bytes written.
    written: u64,
    /// Bytes synced.
    synced: u64,
    /// CRC of what was written.
    crc: u32,
}

impl SnapshotWriter {
    /// Begins the file with the header of the view.
    pub fn create(disk: Arc<dyn Disk>, view: View) -> Result<SnapshotWriter, SnapshotError> {
        let file = disk.create(WRITE_NAME).map_err(SnapshotError::io(&disk, WRITE_NAME, "create"))?;
        let out = format::encode_header(view.header());
        let pending = Vec::new();
        let mut writer = SnapshotWriter { disk, file, view, pending, out, written: 0, synced: 0, crc: 0 };
        writer.write_out()?;
        Ok(writer)
    }

    /// The header of the snapshot.
    pub fn header(&self) -> &SnapshotHeader {
        self.view.header()
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.written
    }

    /// Takes one page of rows; no I/O. `false` = there is nothing more.
    pub fn fill(&mut self, kv: &Kv) -> bool {
        self.fill_at_most(kv, PAGE_KEYS)
    }

    /// The same with a page of at most `max_keys` keys.
    pub fn fill_at_most(&mut self, kv: &Kv, max_keys: usize) -> bool {
        self.view.next_page(kv, &mut self.pending, max_keys)
    }

    /// Writes the complete chunks.
    pub fn flush(&mut self) -> Result<(), SnapshotError> {
        let whole = self.pending.len() - self.pending.len() % CHUNK_BYTES;
        for rows in self.pending[..whole].chunks(CHUNK_BYTES) {
            format::put_chunk(&mut self.out, rows);
        }
        self.pending.drain(..whole);
        self.write_out()?;
        if self.written - self.synced >= SYNC_BYTES { self.sync() } else { Ok(()) }
    }

    /// Writes the rest, syncs the file and gives it its name, durably. Panics when the view has more rows.
    pub fn finish(mut self) -> Result<SnapshotFile, SnapshotError> {
        let rows = self.view.rows();
        assert_eq!(rows, self.header().rows(), "a snapshot is finished when it has all rows");
        self.flush()?;
        if !self.pending.is_empty() {
            format::put_chunk(&mut self.out, &self.pending);
        }
        format::put_chunk(&mut self.out, &[]);
        self.out.extend_from_slice(&rows.to_le_bytes());
        let crc = crc32c::crc32c_append(self.crc, &self.out);
        self.out.extend_from_slice(&crc.to_le_bytes());
        self.write_out()?;
        self.sync()?;
        let meta = self.header().meta.clone();
        let name = SnapshotName::new(meta.last);
        super::name_snapshot(&self.disk, WRITE_NAME, name)?;
        Ok(SnapshotFile { name, meta, bytes: self.written, rows, crc })
    }

    fn write_out(&mut self) -> Result<(), SnapshotError> {
        if self.out.is_empty() {
            return Ok(());
        }
        let at = self.written;
        self.file.write_at(at, &self.out).map_err(|source| SnapshotError::Io {
            file: self.disk.display(WRITE_NAME),
            action: "write",
            offset: Some(at),
            source,
        })?;
        self.crc = crc32c::crc32c_append(self.crc, &self.out);
        self.written += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), SnapshotError> {
        self.file.sync().map_err(SnapshotError::io(&self.disk, WRITE_NAME, "sync"))?;
        self.synced = self.written;
        Ok(())
    }
}

/// Writes a snapshot of a state that is not used by other code meanwhile, such as a
/// [rebased](crate::store::Kv::rebase) state.
pub fn write(disk: Arc<dyn Disk>, kv: &mut Kv) -> Result<SnapshotFile, SnapshotError> {
    let view = kv.pin();
    let written = SnapshotWriter::create(disk, view).and_then(|mut writer| {
        while writer.fill(kv) {
            writer.flush()?;
        }
        writer.finish()
    });
    drop(kv.unpin());
    written
}
