//! Backups: saved, and looked at.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use dkv::client::{Client, ClientError, SnapshotSaveError};
use dkv::store::snapshot::{SnapshotError, SnapshotStatus, load_file, verify_file};
use serde_json::json;

use crate::failure::Failure;
use crate::output::Printer;
use crate::progress::Progress;

/// A file that is written beside its place and gets its name once it is whole. Removed when it does not come so far.
pub struct NewFile {
    path: PathBuf,
    part: PathBuf,
    is_placed: bool,
}

impl NewFile {
    /// Begins `path`; what is there is replaced only by `force`.
    pub fn create(path: &Path, force: bool) -> Result<(NewFile, File), Failure> {
        if path.is_dir() {
            return Err(invalid(format!("{} is a directory; name a file", path.display())));
        }
        if path.exists() && !force {
            let text = format!("{} exists already; --force replaces it", path.display());
            return Err(invalid(text));
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&part);
        let file = file.map_err(|e| unwritable(&part, &e))?;
        Ok((NewFile { path: path.to_owned(), part, is_placed: false }, file))
    }

    /// Where it is until it has its name.
    pub fn part(&self) -> &Path {
        &self.part
    }

    /// Gives it its name, durably.
    pub fn place(mut self, file: &File) -> Result<(), Failure> {
        file.sync_all().map_err(|e| unwritable(&self.part, &e))?;
        fs::rename(&self.part, &self.path).map_err(|e| unwritable(&self.path, &e))?;
        self.is_placed = true;
        let parent =
            self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| unwritable(parent, &e))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_placed {
            // A rest does no harm: the next attempt writes over it.
            let _ = fs::remove_file(&self.part);
        }
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
    let (new, file) = NewFile::create(path, force)?;
    let mut progress = Progress::new();
    let made = client.save_snapshot(&file, |done, total| progress.bytes(done, total));
    drop(progress);
    let made = made.map_err(|e| match e {
        SnapshotSaveError::Client(error) => Failure::Client(error),
        SnapshotSaveError::File(error) => unwritable(new.part(), &error),
    })?;
    let status = verified(new.part())?;
    if (status.bytes, format!("{:08x}", status.crc)) != (made.bytes, made.crc32c.clone()) {
        let text =
            format!("{} is whole, but not the snapshot {} that was asked for", path.display(), made.name);
        return Err(Failure::Damaged(text));
    }
    new.place(&file)?;
    if printer.is_json() {
        return printer.json(&made);
    }
    let text = format!(
        "saved revision {} with {} keys as {} ({} bytes, verified)\n",
        made.revision,
        made.keys,
        path.display(),
        made.bytes
    );
    printer.bytes(text.as_bytes())
}

/// Checksums and rows first, in little memory; then the state itself, whose hash only the whole of it gives.
fn verified(path: &Path) -> Result<SnapshotStatus, Failure> {
    let status = verify_file(path).map_err(unreadable)?;
    load_file(path).map_err(unreadable)?;
    Ok(status)
}

/// Says what is in a backup.
pub fn status(path: &Path, printer: &Printer) -> Result<(), Failure> {
    if path.is_dir() {
        return Err(invalid(format!("{} is a directory; name a file", path.display())));
    }
    let SnapshotStatus { header, bytes, crc, .. } = verified(path)?;
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
