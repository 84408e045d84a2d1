//! Files that are written.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{FileError, Kind, PRIVATE_FILE, check_name, is_stream};

/// So much of a file's name is in its temporary name, in bytes: what is added must still fit.
const NAME_IN_PART: usize = 150;

/// Files that have not their names yet. A lock is held while one is made, named or removed, so that a signal between the
/// steps finds the list right.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the files that have not their names yet. For a signal that ends the process: no file is made or named after
/// this, so what was never reported is never there.
pub fn remove_unfinished() {
    let unfinished = unfinished();
    for part in unfinished.iter() {
        // The process ends in any case; a rest that cannot be removed has a name that says what it is.
        let _ = fs::remove_file(part);
    }
    std::mem::forget(unfinished);
}

/// What a name that is written leads to.
#[derive(Debug)]
pub enum Output {
    /// Standard output: `-`.
    Stdout,
    /// A pipe: what was written is gone.
    Pipe(File),
    /// A file that gets its name once it is whole.
    New(NewFile),
}

impl Output {
    /// Begins to write `path`. A file that is there is replaced only with `force`, and only once the new one is whole.
    ///
    /// # Errors
    /// It is neither a regular file, nor a pipe, nor free; or its directory is missing.
    pub fn open(path: &Path, force: bool) -> Result<Output, FileError> {
        if is_stream(path) {
            return Ok(Output::Stdout);
        }
        check_name(path)?;
        let unwritable = |error: io::Error| FileError::new(path, format!("cannot be written: {error}"));
        match fs::metadata(path) {
            Ok(metadata) => match Kind::of(&metadata) {
                Kind::File if force => {
                    let target = fs::canonicalize(path).map_err(unwritable)?;
                    NewFile::begin(path, target, Some(metadata.mode())).map(Output::New)
                }
                Kind::File => Err(FileError::new(path, "exists already; --force replaces it")),
                Kind::Pipe => {
                    let file = OpenOptions::new().write(true).open(path).map_err(unwritable)?;
                    Ok(Output::Pipe(file))
                }
                Kind::Directory => Err(FileError::new(path, "is a directory; name a file in it")),
                other @ (Kind::Device | Kind::Socket) => {
                    let what = format!("is {other}; name a file, or - for standard output");
                    Err(FileError::new(path, what))
                }
            },
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                NewFile::begin(path, free_place(path)?, None).map(Output::New)
            }
            Err(error) => Err(unwritable(error)),
        }
    }
}

/// The place of a file that is not there, in a directory that is.
pub(super) fn free_place(path: &Path) -> Result<PathBuf, FileError> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
        let to = fs::read_link(path).unwrap_or_default();
        let what =
            format!("is a symbolic link to {}, which is not there; name that file itself", to.display());
        return Err(FileError::new(path, what));
    }
    let name = path.file_name().filter(|_| !path.as_os_str().as_bytes().ends_with(b"/"));
    let Some(name) = name else {
        return Err(FileError::new(path, "is the name of a directory; name a file"));
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match fs::metadata(parent) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            let what = format!("cannot be written: {} is no directory", parent.display());
            return Err(FileError::new(path, what));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let what =
                format!("cannot be written: there is no directory {}; make it first", parent.display());
            return Err(FileError::new(path, what));
        }
        Err(error) => return Err(FileError::new(path, format!("cannot be written: {error}"))),
    }
    let parent =
        fs::canonicalize(parent).map_err(|e| FileError::new(path, format!("cannot be written: {e}")))?;
    Ok(parent.join(name))
}

/// A file that is written under a temporary name and gets its own once it is whole. The temporary name is nobody else's,
/// and so is the file: what another process writes, and what was placed before, is never touched. Removed when it does not
/// come so far.
#[derive(Debug)]
pub struct NewFile {
    /// As it was given.
    shown: PathBuf,
    /// Where it will be, with no symbolic link left to follow.
    target: PathBuf,
    /// Where it is until then, in the same directory.
    part: PathBuf,
    file: File,
    /// Mode of the file that is replaced.
    replaced_mode: Option<u32>,
    is_placed: bool,
}

impl NewFile {
    fn begin(shown: &Path, target: PathBuf, replaced_mode: Option<u32>) -> Result<NewFile, FileError> {
        let unwritable = |error: io::Error| FileError::new(shown, format!("cannot be written: {error}"));
        let mut unfinished = unfinished();
        loop {
            let part = part_of(&target, getrandom::u64().map_err(|e| unwritable(e.into()))?);
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(PRIVATE_FILE);
            match options.open(&part) {
                Ok(file) => {
                    unfinished.push(part.clone());
                    let shown = shown.to_owned();
                    return Ok(NewFile { shown, target, part, file, replaced_mode, is_placed: false });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(unwritable(error)),
            }
        }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is until it has its name.
    pub fn part(&self) -> &Path {
        &self.part
    }

    /// Gives it its name, durably. Returns a text for standard error when the file that it replaces was open to others:
    /// the new one is not.
    ///
    /// # Errors
    /// It cannot be synced or named, or what is there has changed meanwhile so that it must not be replaced. It is
    /// removed then.
    pub fn place(mut self) -> Result<Option<String>, FileError> {
        let failed = |what: String| FileError::new(&self.shown, what);
        self.file.sync_all().map_err(|e| failed(format!("cannot be written: {e}")))?;
        {
            let mut unfinished = unfinished();
            match self.replaced_mode {
                Some(_) => self.rename_over()?,
                None => self.rename_new()?,
            }
            unfinished.retain(|part| *part != self.part);
            self.is_placed = true;
        }
        let parent = self.target.parent().unwrap_or(Path::new("/"));
        File::open(parent)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| failed(format!("has its name, but the directory cannot be synced: {e}")))?;
        let wider = self.replaced_mode.map(|mode| mode & 0o777).filter(|mode| mode & 0o077 != 0);
        Ok(wider.map(|mode| {
            format!(
                "{}: others had rights to it (mode {mode:04o}); the new file is its owner's alone",
                self.shown.display()
            )
        }))
    }

    /// Only over a regular file, or what was one when this began and is gone.
    fn rename_over(&self) -> Result<(), FileError> {
        let failed = |what: String| FileError::new(&self.shown, what);
        match fs::symlink_metadata(&self.target) {
            Ok(metadata) if !metadata.is_file() => {
                return Err(failed("is no regular file any more and is not replaced".to_owned()));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(format!("cannot be replaced: {error}")));
            }
            _ => {}
        }
        fs::rename(&self.part, &self.target).map_err(|e| failed(format!("cannot be replaced: {e}")))
    }

    /// Only where nothing is.
    fn rename_new(&self) -> Result<(), FileError> {
        let renamed = match renameat_with(CWD, &self.part, CWD, &self.target, RenameFlags::NOREPLACE) {
            // Not every file system can; a second name is as exclusive.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                fs::hard_link(&self.part, &self.target).and_then(|()| fs::remove_file(&self.part))
            }
            renamed => renamed.map_err(io::Error::from),
        };
        renamed.map_err(|error| {
            let what = match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    "was made by another process meanwhile and is not replaced; --force would".to_owned()
                }
                _ => format!("cannot get its name: {error}"),
            };
            FileError::new(&self.shown, what)
        })
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_placed {
            let mut unfinished = unfinished();
            // A rest that cannot be removed does no harm: no other file ever gets its name.
            let _ = fs::remove_file(&self.part);
            unfinished.retain(|part| *part != self.part);
        }
    }
}

/// `.NAME.0123456789abcdef.part` in the same directory.
fn part_of(target: &Path, random: u64) -> PathBuf {
    let name = target.file_name().unwrap_or(OsStr::new("file")).as_bytes();
    let mut part = b".".to_vec();
    part.extend_from_slice(&name[..name.len().min(NAME_IN_PART)]);
    part.extend_from_slice(format!(".{random:016x}.part").as_bytes());
    target.with_file_name(OsString::from_vec(part))
}
