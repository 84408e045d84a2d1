//! Reading snapshots: completely, to load the state or to verify, and in pieces, to send them.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::format::{self, CHUNK_HEAD_BYTES, HEAD_BYTES, HeaderError, TRAILER_BYTES};
use super::rows::{self, AnyRow};
use super::{SnapshotError, SnapshotHeader, SnapshotName};
use crate::bytes::{u32_at, u64_at};
use crate::files::foreign_encoding;
use crate::raft::{PROTOCOL, Position, VersionMismatch, check_version};
use crate::store::disk::{self, Disk, DiskFile};
use crate::store::kv::Kv;

/// A snapshot that was read to its end and is undamaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// Its header.
    pub header: SnapshotHeader,
    /// Length of the file.
    pub bytes: u64,
    /// Rows in it.
    pub rows: u64,
    /// The CRC at its end, over everything before it.
    pub crc: u32,
}

/// Loads the state in a snapshot of this directory. Everything is verified: header, chunks, the whole file, the order
/// of the rows, their counts, the state hash.
pub fn load(disk: &Arc<dyn Disk>, name: SnapshotName) -> Result<(SnapshotHeader, Kv), SnapshotError> {
    let shown = name.to_string();
    let file = disk.open(&shown).map_err(SnapshotError::io(disk, &shown, "open"))?;
    load_named(&*file, disk.display(&shown), Some(name.position()))
}

/// Loads the state in a snapshot file anywhere, such as a backup, with the same checks.
pub fn load_file(path: &Path) -> Result<(SnapshotHeader, Kv), SnapshotError> {
    let (file, shown) = open_file(path)?;
    load_named(&*file, shown, None)
}

/// Reads a whole snapshot of this directory and all its checksums, without building the state.
pub fn verify(disk: &Arc<dyn Disk>, name: SnapshotName) -> Result<SnapshotStatus, SnapshotError> {
    let shown = name.to_string();
    let file = disk.open(&shown).map_err(SnapshotError::io(disk, &shown, "open"))?;
    verify_named(&*file, disk.display(&shown), Some(name.position()))
}

/// The same for a snapshot file anywhere.
pub fn verify_file(path: &Path) -> Result<SnapshotStatus, SnapshotError> {
    let (file, shown) = open_file(path)?;
    verify_named(&*file, shown, None)
}

/// Verifies a snapshot while it passes, as far as a file of it would be: header, chunks, the whole of it, the order of the
/// rows, their counts, the state hash. It takes the memory of the state. `shown` is how an error names it.
pub fn verify_stream(input: &mut dyn Read, shown: &str) -> Result<SnapshotStatus, SnapshotError> {
    let mut scan = Scan::new(Source::Stream(input), shown.to_owned());
    let (header, _) = scan.state(None)?;
    Ok(SnapshotStatus { bytes: scan.at, rows: header.rows(), crc: scan.crc, header })
}

fn open_file(path: &Path) -> Result<(Box<dyn DiskFile>, String), SnapshotError> {
    let shown = path.display().to_string();
    match disk::open_to_read(path) {
        Ok(file) => Ok((file, shown)),
        Err(source) => Err(SnapshotError::Io { file: shown, action: "open", offset: None, source }),
    }
}

/// Also for a file that does not have its final name yet: `shown` is its name in errors.
pub(super) fn load_named(
    file: &dyn DiskFile,
    shown: String,
    last: Option<Position>,
) -> Result<(SnapshotHeader, Kv), SnapshotError> {
    Scan::open(file, shown)?.state(last)
}

fn verify_named(
    file: &dyn DiskFile,
    shown: String,
    last: Option<Position>,
) -> Result<SnapshotStatus, SnapshotError> {
    let mut scan = Scan::open(file, shown)?;
    let header = scan.header(last)?;
    let mut counts = [0; 4];
    scan.rows(|row| {
        let kind = match row {
            AnyRow::Key(_) => 0,
            AnyRow::Version(..) => 1,
            AnyRow::Idempotency(_) => 2,
            AnyRow::Lease(_) => 3,
        };
        counts[kind] += 1;
        Ok(())
    })?;
    if counts != [header.key_rows, header.versions, header.idempotency_rows, header.leases] {
        return Err(scan.corrupt(0, "its header does not describe its rows"));
    }
    Ok(SnapshotStatus { bytes: scan.at, rows: header.rows(), crc: scan.crc, header })
}

/// The source of the bytes.
enum Source<'a> {
    /// A file, and its length: every length in the file is compared with this before memory is allocated for it.
    File(&'a dyn DiskFile, u64),
    /// A stream that can be read once and whose length is unknown. No length in a snapshot is above a few megabytes;
    /// a larger one is refused before memory is allocated for it.
    Stream(&'a mut dyn Read),
}

/// One pass over a snapshot.
struct Scan<'a> {
    source: Source<'a>,
    shown: String,
    at: u64,
    /// CRC of everything before `at`; at the end, the CRC at the end of the file.
    crc: u32,
    /// The state in it is at a version that this program does not read.
    mismatch: Option<VersionMismatch>,
}

impl<'a> Scan<'a> {
    fn new(source: Source<'a>, shown: String) -> Scan<'a> {
        Scan { source, shown, at: 0, crc: 0, mismatch: None }
    }

    fn open(file: &'a dyn DiskFile, shown: String) -> Result<Scan<'a>, SnapshotError> {
        match file.size() {
            Ok(size) => Ok(Scan::new(Source::File(file, size), shown)),
            Err(source) => Err(SnapshotError::Io { file: shown, action: "measure", offset: None, source }),
        }
    }

    /// Header and state, completely verified.
    fn state(&mut self, last: Option<Position>) -> Result<(SnapshotHeader, Kv), SnapshotError> {
        let header = self.header(last)?;
        let mut builder = Kv::from_snapshot(header.clone());
        self.rows(|row| match row {
            AnyRow::Key(key) => builder.push_key(key),
            AnyRow::Lease(row) => builder.push_lease(row),
            AnyRow::Version(numbers, value) => builder.push_version(numbers, value),
            AnyRow::Idempotency(row) => builder.push_idempotency(row),
        })?;
        let kv = builder.finish().map_err(|what| self.unsound(0, what))?;
        Ok((header, kv))
    }

    /// Checksums are right, but what they guard makes no sense. In a file of a later version it may be sound to the program
    /// that wrote it.
    fn unsound(&self, at: u64, what: String) -> SnapshotError {
        match self.mismatch {
            Some(mismatch) => SnapshotError::Version { file: self.shown.clone(), mismatch },
            None => self.corrupt(at, what),
        }
    }

    /// Appends the next `len` bytes to `buf`.
    fn read(&mut self, len: usize, buf: &mut Vec<u8>) -> Result<(), SnapshotError> {
        let start = buf.len();
        let read = match &mut self.source {
            Source::File(_, size) if len as u64 > *size - self.at => Err(io::ErrorKind::UnexpectedEof.into()),
            Source::File(file, _) => {
                buf.resize(start + len, 0);
                file.read_at(self.at, &mut buf[start..])
            }
            Source::Stream(input) => {
                buf.resize(start + len, 0);
                input.read_exact(&mut buf[start..])
            }
        };
        match read {
            Ok(()) => {
                self.at += len as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.corrupt(self.end(), "it ends in the middle"))
            }
            Err(source) => Err(self.io(source)),
        }
    }

    /// The end of the source, as far as it is known.
    fn end(&self) -> u64 {
        match self.source {
            Source::File(_, size) => size,
            Source::Stream(_) => self.at,
        }
    }

    /// Whether more bytes follow.
    fn goes_on(&mut self) -> Result<bool, SnapshotError> {
        let Source::Stream(input) = &mut self.source else { return Ok(self.at != self.end()) };
        match input.read_exact(&mut [0]) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(source) => Err(self.io(source)),
        }
    }

    /// The same, and adds the bytes to the file's CRC.
    fn take(&mut self, len: usize, buf: &mut Vec<u8>) -> Result<(), SnapshotError> {
        let start = buf.len();
        self.read(len, buf)?;
        self.crc = crc32c::crc32c_append(self.crc, &buf[start..]);
        Ok(())
    }

    fn header(&mut self, last: Option<Position>) -> Result<SnapshotHeader, SnapshotError> {
        let (mut head, mut json) = (Vec::new(), Vec::new());
        let begun = self.take(HEAD_BYTES, &mut head);
        if let Some(what) = foreign_encoding(&head) {
            let text =
                format!("it {what}: a program on its way took bytes for text; have it copy them as they are");
            return Err(self.corrupt(0, text));
        }
        begun?;
        let len = format::header_len(&head).map_err(|what| self.corrupt(0, what))?;
        self.take(len, &mut json)?;
        let header = format::decode_header(&head, &json).map_err(|error| match error {
            HeaderError::NewerFormat(version) => {
                SnapshotError::NewerFormat { file: self.shown.clone(), version }
            }
            HeaderError::Version(mismatch) => SnapshotError::Version { file: self.shown.clone(), mismatch },
            HeaderError::Broken(what) => self.corrupt(0, what),
        })?;
        if last.is_some_and(|last| last != header.meta.last) {
            return Err(self.corrupt(0, format!("it ends with entry {}, another one", header.meta.last)));
        }
        self.mismatch = check_version(header.meta.version, PROTOCOL).err();
        Ok(header)
    }

    /// Calls `take` for all rows, then checks the end of the file.
    fn rows(&mut self, mut take: impl FnMut(AnyRow<'_>) -> Result<(), String>) -> Result<(), SnapshotError> {
        let (mut count, mut buf, mut head) = (0u64, Vec::new(), Vec::new());
        loop {
            let at = self.at;
            head.clear();
            self.take(CHUNK_HEAD_BYTES, &mut head)?;
            let Some((len, crc)) = format::chunk_len(&head) else {
                return Err(self.corrupt(at, "a chunk claims to be longer than any is"));
            };
            let start = buf.len();
            self.take(len, &mut buf)?;
            if format::chunk_crc(&head[..4], &buf[start..]) != crc {
                return Err(self.corrupt(at, "the checksum of a chunk does not match"));
            }
            if len == 0 {
                break;
            }
            let mut used = 0;
            while let Some((row, bytes)) =
                rows::decode(&buf[used..]).map_err(|what| self.unsound(at, what))?
            {
                take(row).map_err(|what| self.unsound(at, what))?;
                used += bytes;
                count += 1;
            }
            buf.drain(..used);
        }
        if !buf.is_empty() {
            return Err(self.corrupt(self.at, "its last row is cut short"));
        }
        let mut trailer = Vec::new();
        self.take(TRAILER_BYTES - 4, &mut trailer)?;
        self.read(4, &mut trailer)?;
        if u32_at(&trailer, 8) != self.crc {
            return Err(self.corrupt(self.at, "the checksum of the file does not match"));
        }
        if u64_at(&trailer, 0) != count {
            return Err(self.corrupt(self.at, format!("it has {count} rows and should have another number")));
        }
        if self.goes_on()? {
            return Err(self.corrupt(self.at, "it goes on after its end"));
        }
        Ok(())
    }

    fn corrupt(&self, offset: u64, what: impl Into<String>) -> SnapshotError {
        SnapshotError::Corrupt { file: self.shown.clone(), offset, what: what.into() }
    }

    fn io(&self, source: io::Error) -> SnapshotError {
        SnapshotError::Io { file: self.shown.clone(), action: "read", offset: Some(self.at), source }
    }
}

/// A snapshot that is being sent. It stays readable here even if the file is pruned meanwhile.
pub struct SnapshotReader {
    file: Box<dyn DiskFile>,
    shown: String,
    status: SnapshotStatus,
}

impl SnapshotReader {
    /// Opens a snapshot and verifies the whole file: a damaged snapshot is never sent.
    pub fn open(disk: &Arc<dyn Disk>, name: SnapshotName) -> Result<SnapshotReader, SnapshotError> {
        let shown = name.to_string();
        let file = disk.open(&shown).map_err(SnapshotError::io(disk, &shown, "open"))?;
        let shown = disk.display(&shown);
        let status = verify_named(&*file, shown.clone(), Some(name.position()))?;
        Ok(SnapshotReader { file, shown, status })
    }

    /// Header, length and CRC.
    pub fn status(&self) -> &SnapshotStatus {
        &self.status
    }

    /// The bytes from `offset` on, at most `len`; fewer at the end.
    pub fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, SnapshotError> {
        let left = self.status.bytes.saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(len)];
        match self.file.read_at(offset, &mut bytes) {
            Ok(()) => Ok(bytes),
            Err(source) => {
                let file = self.shown.clone();
                Err(SnapshotError::Io { file, action: "read", offset: Some(offset), source })
            }
        }
    }
}
