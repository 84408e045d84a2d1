//! The one rule for every file that a command line or a configuration names. Both programs, and every command of them,
//! open such a file here and nowhere else.
//!
//! | what the name leads to | read | written |
//! |---|---|---|
//! | `-` | standard input | standard output; messages go to standard error |
//! | nothing | refused | made, with mode 0600, once it is whole |
//! | nothing, and no parent directory | refused | refused, with the name of the directory that is missing |
//! | a regular file | read | replaced with `--force`, else refused |
//! | a symbolic link | what it leads to | what it leads to; a link to nothing is refused |
//! | a pipe | read once, as it comes | written as it comes |
//! | a directory, a device, a socket | refused | refused |
//! | `~` or `~name` in front | refused: no shell has expanded it | refused |
//!
//! A use that needs a file it can read more than once says so and takes regular files only ([`open_file`]). A new file is
//! written under a temporary name that nobody else has, and gets its own name by a rename ([`NewFile`]).

mod encoding;
mod input;
mod output;
mod private;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{FileType, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

pub use encoding::foreign_encoding;
pub use input::{Input, open_file};
pub use output::{NewFile, Output, remove_unfinished};
pub use private::{open_log, restrict};

/// Mode of a directory that holds data.
pub const PRIVATE_DIR: u32 = 0o700;

/// Mode of a file that holds data: logs, snapshots, backups, exports, the lines of the process.
pub const PRIVATE_FILE: u32 = 0o600;

/// A file that cannot be used as the command line or the configuration says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {what}", .path.display())]
pub struct FileError {
    /// Its name as it was given.
    pub path: PathBuf,
    /// What is wrong and what to do: the rest of a sentence whose subject is the file.
    pub what: String,
}

impl FileError {
    fn new(path: &Path, what: impl Into<String>) -> FileError {
        FileError { path: path.to_owned(), what: what.into() }
    }
}

impl From<FileError> for io::Error {
    /// The sentence without the name: who gets an `io::Error` knows the file.
    fn from(error: FileError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, format!("it {}", error.what))
    }
}

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Pipe,
    Directory,
    Device,
    Socket,
}

impl Kind {
    fn of(metadata: &Metadata) -> Kind {
        Kind::of_type(metadata.file_type())
    }

    fn of_type(is: FileType) -> Kind {
        match is {
            is if is.is_file() => Kind::File,
            is if is.is_fifo() => Kind::Pipe,
            is if is.is_dir() => Kind::Directory,
            is if is.is_socket() => Kind::Socket,
            // Characters or blocks; a kind that a later system adds is treated with the same care.
            _ => Kind::Device,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::File => "a file",
            Kind::Pipe => "a pipe",
            Kind::Directory => "a directory",
            Kind::Device => "a device",
            Kind::Socket => "a socket",
        })
    }
}

/// Whether the name means standard input or standard output.
pub fn is_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Refuses a name that nobody can have meant.
///
/// # Errors
/// It is empty, or begins with a `~` that no shell has expanded.
pub fn check_name(path: &Path) -> Result<(), FileError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err(FileError {
            path: PathBuf::from("''"),
            what: "is an empty name; name a file".to_owned(),
        });
    }
    if bytes.starts_with(b"~") {
        let what = format!(
            "begins with a ~ that the shell has not expanded; write the whole path, or ./{} if that is its name",
            path.display()
        );
        return Err(FileError::new(path, what));
    }
    Ok(())
}
