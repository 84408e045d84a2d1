//! `--restore`: a backup for a node that is not initialized yet. Errors in the backup are reported before anything is
//! written.

use std::fs;
use std::path::{Path, PathBuf};

use super::ServerError;
use crate::node::restore::Backup;
use crate::raft::RestoredState;
use crate::store::identity::{IDENTITY_FILE, Identity};
use crate::store::snapshot::{SnapshotError, verify_file};

/// What a directory may hold in which no node was initialized.
const HARMLESS: [&str; 2] = ["LOCK", "run"];

/// A backup, named on the command line.
pub(super) struct Restore {
    path: PathBuf,
    /// `None` when it is not needed because the directory belongs to a cluster.
    backup: Option<Backup>,
}

impl Restore {
    /// Reads and verifies the backup, unless a node was initialized in `data_dir` already.
    pub(super) fn prepare(path: &Path, data_dir: &Path) -> Result<Restore, ServerError> {
        let identity =
            fs::read(data_dir.join(IDENTITY_FILE)).ok().and_then(|bytes| Identity::decode(&bytes).ok());
        let backup = match identity {
            Some(identity) if identity.cluster_id.is_some() => None,
            Some(_) => Some(load(path)?),
            None => {
                check_empty(data_dir)?;
                Some(load(path)?)
            }
        };
        Ok(Restore { path: path.to_owned(), backup })
    }

    /// For the node that is to be initialized. `None` when the directory lost its cluster between the two checks of
    /// it.
    pub(super) fn into_backup(self) -> Option<Backup> {
        self.backup
    }

    /// The directory holds a member of a cluster that began with `restored`: fine when that was this backup.
    pub(super) fn check_initialized(
        &self,
        data_dir: &Path,
        restored: Option<RestoredState>,
    ) -> Result<(), ServerError> {
        let (dir, path) = (data_dir.display(), self.path.display());
        let refuse = |what: String| {
            Err(ServerError::new(
                2,
                format!(
                    "data_dir {dir} is not empty: {what}; restore into empty directories only, of every initial member, or \
                     leave --restore away"
                ),
            ))
        };
        let Some(restored) = restored else {
            return refuse("it holds a member of a cluster that no backup went into".to_owned());
        };
        match verify_file(&self.path) {
            Ok(status) if status.header.state_hash != restored.state_hash => refuse(format!(
                "its cluster began with another backup ({restored}) than {path} (revision {})",
                status.header.revision
            )),
            Ok(_) => {
                log::info!("--restore {path}: done already, the cluster began with it; it can be left away");
                Ok(())
            }
            Err(e) => {
                log::warn!(
                    "--restore is left aside, the cluster began with a backup ({restored}) already: {e}"
                );
                Ok(())
            }
        }
    }
}

fn load(path: &Path) -> Result<Backup, ServerError> {
    Backup::load(path).map_err(|e| {
        let exit_code = match e {
            SnapshotError::Io { .. } => 2,
            SnapshotError::Corrupt { .. } => 3,
            SnapshotError::NewerFormat { .. } | SnapshotError::Version { .. } => 5,
        };
        ServerError::new(exit_code, format!("--restore: {e}; nothing was written"))
    })
}

fn check_empty(dir: &Path) -> Result<(), ServerError> {
    // A missing directory counts as empty; an unreadable directory is noticed when it is locked.
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut others: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|n| !HARMLESS.contains(&n.as_str()))
        .collect();
    others.sort();
    match others.first() {
        None => Ok(()),
        Some(first) => Err(ServerError::new(
            2,
            format!(
                "data_dir {} is not empty, it holds {first}; restore into an empty directory, and keep backups elsewhere",
                dir.display()
            ),
        )),
    }
}
