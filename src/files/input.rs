//! Files that are read.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::{FileError, Kind, check_name, is_stream};

/// What a name that is read leads to.
#[derive(Debug)]
pub enum Input {
    /// Standard input: `-`.
    Stdin,
    /// A pipe: it is read once.
    Pipe(File),
    /// A regular file: it can be read again.
    File(File),
}

impl Input {
    /// Opens `path` for reading. A pipe that nobody writes to is waited for.
    ///
    /// # Errors
    /// There is nothing, or neither a file nor a pipe.
    pub fn open(path: &Path) -> Result<Input, FileError> {
        if is_stream(path) {
            return Ok(Input::Stdin);
        }
        check_name(path)?;
        // Asked before it is opened: the opening alone can wait, or make a device do something.
        let kind = match fs::metadata(path) {
            Ok(metadata) => Kind::of(&metadata),
            Err(error) => return Err(unreadable(path, &error)),
        };
        let file = match kind {
            Kind::File | Kind::Pipe => File::open(path).map_err(|e| unreadable(path, &e))?,
            other => {
                return Err(FileError::new(
                    path,
                    format!("is {other}; name a file, or - for standard input"),
                ));
            }
        };
        match Kind::of(&file.metadata().map_err(|e| unreadable(path, &e))?) {
            Kind::File => Ok(Input::File(file)),
            Kind::Pipe => Ok(Input::Pipe(file)),
            other => Err(FileError::new(path, format!("has become {other} meanwhile"))),
        }
    }

    /// All that comes, once.
    pub fn into_reader(self) -> Box<dyn Read> {
        match self {
            Input::Stdin => Box::new(io::stdin().lock()),
            Input::Pipe(file) | Input::File(file) => Box::new(file),
        }
    }
}

/// Opens a regular file. `reason` says why nothing else will do: the rest of a sentence that begins with "because".
///
/// # Errors
/// There is nothing, or no regular file.
pub fn open_file(path: &Path, reason: &str) -> Result<File, FileError> {
    let advice = format!("because {reason}; save it in a file and name that");
    if is_stream(path) {
        return Err(FileError::new(path, format!("(standard input) is not taken here, {advice}")));
    }
    // A pipe must not be opened: that alone could wait without end.
    if fs::metadata(path).is_ok_and(|metadata| Kind::of(&metadata) == Kind::Pipe) {
        check_name(path)?;
        return Err(FileError::new(path, format!("is a pipe, which is not taken here, {advice}")));
    }
    match Input::open(path)? {
        Input::File(file) => Ok(file),
        Input::Stdin | Input::Pipe(_) => {
            Err(FileError::new(path, format!("is a pipe, which is not taken here, {advice}")))
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> FileError {
    FileError::new(path, format!("cannot be read: {error}"))
}
