//! The interface between the log and the file system: one flat directory of files. [`RealDisk`] uses the real file
//! system; [`SimDisk`](super::simdisk::SimDisk) simulates crashes for tests.
//!
//! The contract is the one of Linux. A write is visible immediately and durable only after [`DiskFile::sync`].
//! Creating, renaming and removing are visible immediately and durable only after [`Disk::sync_dir`]. Syncing a file
//! does not make its name durable.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::files::{self, PRIVATE_DIR, PRIVATE_FILE};

/// One flat directory. Shared by threads: the log writer and the housekeeper work in it at the same time, on
/// different names.
pub trait Disk: Send + Sync {
    /// The names of all files, sorted. Subdirectories are not listed.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A new empty file, open for reading and writing. An existing file of this name loses only the name: its open
    /// handles and its other names see no change.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading and writing. `NotFound` when there is none.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Renames atomically, replacing a file of the new name. Open handles stay valid.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. `NotFound` when there is none.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes every create, rename and remove so far durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// A number that cannot be guessed, for the nonce of a segment: so data of a client is never mistaken for a
    /// header.
    fn nonce(&self) -> io::Result<u64>;

    /// How an error message names this file.
    fn display(&self, name: &str) -> String;
}

/// An open file. Reads and writes are positional: a handle has no state of its own.
pub trait DiskFile: Send + Sync {
    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buf` from `offset`. `UnexpectedEof` when the file is too short.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at `offset`, growing the file as needed.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Grows the file to `size` bytes, reserved where the file system can; the new bytes read as zero.
    fn allocate(&self, size: u64) -> io::Result<()>;

    /// Makes data and length durable (fdatasync).
    fn sync(&self) -> io::Result<()>;

    /// Forgets what the page cache holds of the file and counts as clean, so that reads see the disk. After a failed sync
    /// the cache shows what the disk never got, and no later sync writes it.
    fn forget_cache(&self) -> io::Result<()>;
}

/// A directory of the real file system.
pub struct RealDisk {
    path: PathBuf,
    /// Kept open: a sync of the directory then needs no descriptor at the time when there may be none.
    dir: File,
    is_read_only: bool,
}

impl RealDisk {
    /// Opens the directory at `path`. Creates it, and its missing parents, durably; only its owner has access.
    pub fn open(path: &Path) -> io::Result<RealDisk> {
        create_dir_durably(path, PRIVATE_DIR)?;
        Ok(RealDisk { path: path.to_owned(), dir: File::open(path)?, is_read_only: false })
    }

    /// Opens the directory at `path`, which must be there, to look at its files: they are opened for reading only, and
    /// whatever would change the directory is refused.
    pub fn open_read_only(path: &Path) -> io::Result<RealDisk> {
        // The path may be a pipe, for example; opening a pipe could wait forever.
        let flags = OFlags::DIRECTORY.bits().cast_signed();
        let dir = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        Ok(RealDisk { path: path.to_owned(), dir, is_read_only: true })
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.is_read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn at(&self, name: &str) -> PathBuf {
        assert!(!name.is_empty() && !name.contains('/'), "{name:?} is not the name of a file");
        self.path.join(name)
    }
}

/// Missing parents get the default mode of directories: they hold only names.
fn create_dir_durably(path: &Path, mode: u32) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    create_dir_durably(parent, 0o777)?;
    match DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        result => result?,
    }
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    File::open(parent)?.sync_all()
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                // dkv never creates a name that is not UTF-8.
                names.extend(entry.file_name().into_string().ok());
            }
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.check_writable()?;
        match fs::remove_file(self.at(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(PRIVATE_FILE);
        Ok(Box::new(RealFile(options.open(self.at(name))?)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(OpenOptions::new().read(true).write(!self.is_read_only).open(self.at(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::remove_file(self.at(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn nonce(&self) -> io::Result<u64> {
        getrandom::u64().map_err(io::Error::from)
    }

    fn display(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

/// Opens any regular file of the file system for reading only: a backup. `write_at` on it fails.
pub fn open_to_read(path: &Path) -> io::Result<Box<dyn DiskFile>> {
    Ok(Box::new(RealFile(files::open_file(path, "a backup is read more than once")?)))
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        match rustix::io::retry_on_intr(|| fallocate(&self.0, FallocateFlags::empty(), 0, size)) {
            // Not every file system can reserve space. A sparse file also reads as zero and is only slower to fill.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.0.set_len(size),
            result => Ok(result?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn forget_cache(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_disk_does_what_the_trait_says() {
        let tmp = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(&tmp.path().join("a/b")).unwrap();
        let file = disk.create("x").unwrap();
        file.allocate(8192).unwrap();
        file.write_at(4096, b"hello").unwrap();
        file.sync().unwrap();
        file.forget_cache().unwrap();
        fs::create_dir(disk.path().join("run")).unwrap();
        disk.rename("x", "y").unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(disk.list().unwrap(), ["y"]);
        let mut buf = [1; 6];
        disk.open("y").unwrap().read_at(4096, &mut buf).unwrap();
        assert_eq!(&buf, b"hello\0");
        assert_eq!(file.size().unwrap(), 8192);
        assert_eq!(file.read_at(8190, &mut buf).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(disk.create("y").unwrap().size().unwrap(), 0, "create replaces");
        disk.remove("y").unwrap();
        assert_eq!(disk.open("y").err().unwrap().kind(), io::ErrorKind::NotFound);
        assert_eq!(disk.remove("y").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// `create` once wrote over the old file of the name: into whatever else that file was, such as a copy of the directory
    /// made of hard links.
    #[test]
    fn create_never_writes_into_a_file_that_is_known_elsewhere() {
        let tmp = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(&tmp.path().join("data")).unwrap();
        let old = disk.create("x.tmp").unwrap();
        old.write_at(0, b"old").unwrap();
        let copy = tmp.path().join("copy");
        fs::hard_link(disk.path().join("x.tmp"), &copy).unwrap();
        disk.create("x.tmp").unwrap().write_at(0, b"newer").unwrap();
        assert_eq!(fs::read(&copy).unwrap(), b"old");
        assert_eq!(old.size().unwrap(), 3);
        // It must not write into the target of a link either.
        std::os::unix::fs::symlink(&copy, disk.path().join("y.tmp")).unwrap();
        disk.create("y.tmp").unwrap().write_at(0, b"newer").unwrap();
        assert_eq!(fs::read(&copy).unwrap(), b"old");
    }

    #[test]
    fn directory_and_files_are_their_owners_alone() {
        use std::os::unix::fs::MetadataExt;
        let tmp = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(&tmp.path().join("a/b")).unwrap();
        disk.create("x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(disk.path()), mode(&disk.path().join("x"))), (0o700, 0o600));
    }

    #[test]
    fn a_read_only_disk_changes_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("x"), b"hello").unwrap();
        let disk = RealDisk::open_read_only(tmp.path()).unwrap();
        let file = disk.open("x").unwrap();
        let mut buf = [0; 5];
        file.read_at(0, &mut buf).unwrap();
        assert_eq!(&buf, b"hello");
        assert!(file.write_at(0, b"j").is_err() && file.allocate(9).is_err());
        assert!(disk.create("y").is_err() && disk.rename("x", "y").is_err() && disk.remove("x").is_err());
        assert_eq!((disk.list().unwrap(), file.size().unwrap()), (vec!["x".to_owned()], 5));
        let missing = tmp.path().join("missing");
        assert!(RealDisk::open_read_only(&missing).is_err() && !missing.exists());
    }

    #[test]
    #[should_panic(expected = "is not the name of a file")]
    fn real_disk_never_leaves_its_directory() {
        let tmp = tempfile::tempdir().unwrap();
        let _ = RealDisk::open(tmp.path()).unwrap().open("../x");
    }
}
