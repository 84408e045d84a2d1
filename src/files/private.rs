//! Who may read what dkv writes: its owner alone.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::output::free_place;
use super::{FileError, Kind, PRIVATE_FILE, check_name, is_stream};

/// The bits of a mode by which others than the owner may do something.
const OTHERS: u32 = 0o077;

/// The bits of a mode that `chmod` sets.
const ALL: u32 = 0o7777;

/// Takes the rights of everybody but the owner away. Returns the mode that it had, `None` when nobody else had a right.
/// Only called on a regular file or a directory of dkv.
///
/// # Errors
/// It is somebody else's, or the file system has no modes.
pub fn restrict(file: &File) -> io::Result<Option<u32>> {
    let metadata = file.metadata()?;
    let mode = metadata.mode() & ALL;
    // Whatever the caller believes: a device is everybody's.
    if mode & OTHERS == 0 || !(metadata.is_file() || metadata.is_dir()) {
        return Ok(None);
    }
    file.set_permissions(Permissions::from_mode(mode & !OTHERS))?;
    Ok(Some(mode))
}

/// Opens the file that the process logs to, at its end. An existing file that others may read is restricted; the text says
/// so, and is for the log itself.
///
/// # Errors
/// It is neither a file nor a pipe that somebody reads, or cannot be opened.
pub fn open_log(path: &Path) -> Result<(File, Option<String>), FileError> {
    let unusable = |error: io::Error| {
        let what = format!("cannot be opened: {error}; name a file in a directory this user may write to");
        FileError::new(path, what)
    };
    if is_stream(path) {
        let what = "is no file; leave log.file away to log to standard error";
        return Err(FileError::new(path, what));
    }
    check_name(path)?;
    let kind = match fs::metadata(path) {
        Ok(metadata) => Kind::of(&metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => free_place(path).map(|_| Kind::File)?,
        Err(error) => return Err(unusable(error)),
    };
    if !matches!(kind, Kind::File | Kind::Pipe) {
        let what = format!("is {kind}; name a file, or leave log.file away to log to standard error");
        return Err(FileError::new(path, what));
    }
    let mut options = OpenOptions::new();
    options.append(true).create(kind == Kind::File).mode(PRIVATE_FILE);
    // A pipe that nobody reads would stop the start without a word.
    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path).map_err(|error| match kind {
        Kind::Pipe => FileError::new(path, format!("is a pipe, and nobody reads it: {error}")),
        _ => unusable(error),
    })?;
    let opened = Kind::of(&file.metadata().map_err(unusable)?);
    if opened != kind {
        return Err(FileError::new(path, format!("has become {opened} meanwhile")));
    }
    let flags = rustix::fs::fcntl_getfl(&file).map_err(|e| unusable(e.into()))?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(|e| unusable(e.into()))?;
    if kind == Kind::Pipe {
        return Ok((file, None));
    }
    let line = match restrict(&file) {
        Ok(None) => None,
        Ok(Some(mode)) => {
            let shown = path.display();
            Some(format!(
                "log.file {shown}: others had rights to it (mode {mode:04o}); it is restricted to its owner"
            ))
        }
        Err(error) => Some(format!("log.file {}: others have rights to it: {error}", path.display())),
    };
    Ok((file, line))
}
