//! Backups: saved, and looked at.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use dkv::api::SnapshotReply;
use dkv::client::{BackupTarget, Client, ClientError, SnapshotSaveError};
use dkv::files::{FileError, Input, NewFile, Output};
use dkv::store::snapshot::{SnapshotError, SnapshotStatus, load_file, verify_file, verify_stream};
use serde_json::json;

use crate::failure::Failure;
use crate::interrupt;
use crate::output::Printer;
use crate::progress::Progress;

/// Pieces of a backup on a pipe that may wait to be verified.
const UNVERIFIED_PIECES: usize = 2;

impl From<FileError> for Failure {
    fn from(error: FileError) -> Failure {
        invalid(error.to_string())
    }
}

fn invalid(text: String) -> Failure {
    Failure::Client(ClientError::Invalid(text))
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    invalid(format!("cannot write {}: {error}", path.display()))
}

fn unreadable(error: SnapshotError) -> Failure {
    match error {
        SnapshotError::Io { .. } => invalid(error.to_string()),
        SnapshotError::Corrupt { .. } | SnapshotError::NewerFormat { .. } | SnapshotError::Version { .. } => {
            Failure::Damaged(error.to_string())
        }
    }
}

/// Saves a backup.
pub fn save(client: &Client, path: &Path, force: bool, printer: &Printer) -> Result<(), Failure> {
    interrupt::watch()?;
    match Output::open(path, force)? {
        Output::New(new) => save_file(client, new, path, printer),
        Output::Pipe(file) => save_stream(client, file, &path.display().to_string(), printer),
        Output::Stdout if io::stdout().is_terminal() => {
            Err(invalid("standard output is a terminal, and a backup is no text; name a file".to_owned()))
        }
        Output::Stdout => {
            let out = io::stdout().as_fd().try_clone_to_owned().map_err(Failure::Output)?;
            save_stream(client, out.into(), "standard output", &printer.on_standard_error())
        }
    }
}

fn save_file(client: &Client, new: NewFile, path: &Path, printer: &Printer) -> Result<(), Failure> {
    let mut progress = Progress::new();
    let made = client.save_snapshot(&mut new.file(), |done, total| progress.bytes(done, total));
    drop(progress);
    let made = made.map_err(|e| match e {
        SnapshotSaveError::Client(error) => Failure::Client(error),
        SnapshotSaveError::File(error) => unwritable(new.part(), &error),
    })?;
    let status = verified(new.part())?;
    check_same(&status, &made, &path.display().to_string())?;
    if let Some(text) = new.place()? {
        eprintln!("dkv-cli: {text}");
    }
    say_saved(&made, &path.display().to_string(), printer)
}

fn check_same(status: &SnapshotStatus, made: &SnapshotReply, shown: &str) -> Result<(), Failure> {
    if (status.bytes, format!("{:08x}", status.crc)) == (made.bytes, made.crc32c.clone()) {
        return Ok(());
    }
    let text = format!("{shown} is whole, but not the snapshot {} that was asked for", made.name);
    Err(Failure::Damaged(text))
}

fn say_saved(made: &SnapshotReply, shown: &str, printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() {
        return printer.json(made);
    }
    let text = format!(
        "saved revision {} with {} keys as {shown} ({} bytes, verified)\n",
        made.revision, made.keys, made.bytes
    );
    printer.bytes(text.as_bytes())
}

/// A backup that goes where nothing can be taken back. A thread verifies every piece after it was written.
struct Stream {
    out: File,
    written: u64,
    to_verify: Sender<Vec<u8>>,
    /// The verifying thread has seen enough: what it says is why.
    is_refused: bool,
}

impl BackupTarget for Stream {
    fn write_at(&mut self, _offset: u64, piece: &[u8]) -> io::Result<()> {
        let mut rest = piece;
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.written += written as u64;
                    rest = &rest[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.is_refused = self.to_verify.send(piece.to_vec()).is_err();
        if self.is_refused { Err(io::Error::other("it is damaged")) } else { Ok(()) }
    }

    fn restart(&mut self) -> io::Result<()> {
        if self.written == 0 {
            return Ok(());
        }
        Err(io::Error::other(
            "no node has the rest of the snapshot that was begun, and a stream cannot begin again",
        ))
    }
}

/// The pieces, one after the other, for the thread that verifies them.
struct Pieces {
    incoming: Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.piece.position() == self.piece.get_ref().len() as u64 {
            match self.incoming.recv() {
                Ok(piece) => self.piece = io::Cursor::new(piece),
                // The last one was sent.
                Err(_) => return Ok(0),
            }
        }
        self.piece.read(buf)
    }
}

fn save_stream(client: &Client, out: File, shown: &str, printer: &Printer) -> Result<(), Failure> {
    let (to_verify, incoming) = bounded(UNVERIFIED_PIECES);
    let (saved, written, is_refused, verdict) = thread::scope(|scope| {
        let mut pieces = Pieces { incoming, piece: io::Cursor::default() };
        let verifying = scope.spawn(move || verify_stream(&mut pieces, shown));
        let mut stream = Stream { out, written: 0, to_verify, is_refused: false };
        let mut progress = Progress::new();
        let saved = client.save_snapshot(&mut stream, |done, total| progress.bytes(done, total));
        let (written, is_refused) = (stream.written, stream.is_refused);
        // The thread learns that the last piece was sent.
        drop(stream);
        (saved, written, is_refused, verifying.join())
    });
    let broken = |text: String| match written {
        0 => invalid(format!("cannot write {shown}: {text}")),
        _ => Failure::Damaged(format!("{text}; {written} bytes were written to {shown} before")),
    };
    let verdict = verdict.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let made = match saved {
        Ok(made) => made,
        // The thread's verdict says more than that it gave one.
        Err(_) if is_refused => match verdict {
            Err(error) => return Err(broken(error.to_string())),
            Ok(_) => return Err(broken("the backup goes on where it should end".to_owned())),
        },
        Err(SnapshotSaveError::Client(error)) if written == 0 => return Err(Failure::Client(error)),
        Err(SnapshotSaveError::Client(error)) => return Err(broken(error.to_string())),
        Err(SnapshotSaveError::File(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return Err(broken("nobody reads the backup any more".to_owned()));
        }
        Err(SnapshotSaveError::File(error)) => return Err(broken(error.to_string())),
    };
    let status = verdict.map_err(|error| broken(error.to_string()))?;
    check_same(&status, &made, shown)?;
    say_saved(&made, shown, printer)
}

/// Checksums and rows first, in little memory; then the state itself, whose hash only the whole of it gives.
fn verified(path: &Path) -> Result<SnapshotStatus, Failure> {
    let status = verify_file(path).map_err(unreadable)?;
    load_file(path).map_err(unreadable)?;
    Ok(status)
}

/// Says what is in a backup.
pub fn status(path: &Path, printer: &Printer) -> Result<(), Failure> {
    let status = match Input::open(path)? {
        Input::File(_) => verified(path)?,
        Input::Stdin => verify_stream(&mut io::stdin().lock(), "standard input").map_err(unreadable)?,
        Input::Pipe(mut pipe) => verify_stream(&mut pipe, &path.display().to_string()).map_err(unreadable)?,
    };
    let SnapshotStatus { header, bytes, crc, .. } = status;
    let members: Vec<&str> = header.meta.membership.members.iter().map(|m| m.node_id.as_str()).collect();
    let cluster_id = header.cluster_id.map(|id| id.to_string());
    let (hash, crc) = (format!("{:032x}", header.state_hash), format!("{crc:08x}"));
    if printer.is_json() {
        return printer.json(&json!({
            "cluster_id": cluster_id,
            "index": header.meta.last.index,
            "term": header.meta.last.term,
            "revision": header.revision,
            "floor": header.floor,
            "keys": header.keys,
            "versions": header.versions,
            "idempotency_keys": header.idempotency_rows,
            "bytes": bytes,
            "crc32c": crc,
            "state_hash": hash,
            "members": members,
        }));
    }
    let rows = [
        ("cluster", cluster_id.unwrap_or_else(|| "none".to_owned())),
        ("members", members.join(", ")),
        ("index", header.meta.last.to_string()),
        ("revision", format!("{}, readable from {} on", header.revision, header.floor)),
        ("keys", format!("{} in {} versions", header.keys, header.versions)),
        ("idempotency", format!("{} keys remembered", header.idempotency_rows)),
        ("size", format!("{bytes} bytes")),
        ("hash", hash),
        ("verified", "every checksum, every row, the hash of the state".to_owned()),
    ];
    let text: String = rows.iter().map(|(name, value)| format!("{name:<12}{value}\n")).collect();
    printer.bytes(text.as_bytes())
}
