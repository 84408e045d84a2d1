//! Only its owner has access to a data directory. If an older program or a person left it open to other users, it is
//! restricted at the start.
//!
//! Only what surely belongs to dkv is changed: files by their names, and the directory itself unless it contains
//! other directories, as `/tmp` or a home directory does, where restricting would lock out other users.

use std::fs::{self, DirEntry, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::snapshot::SnapshotName;
use crate::files::restrict;

/// Name of the identity file in the data directory.
pub const IDENTITY_FILE: &str = "identity";

/// Name of the lock file in the data directory.
pub(super) const LOCK_FILE: &str = "LOCK";

/// The sticky bit in the mode of a directory, as `/tmp` has it.
const STICKY: u32 = 0o1000;

/// Directories that dkv makes in a data directory: for sockets, and the new and old files of a recovery.
const OWN_DIRECTORIES: [&str; 5] = ["run", "before-recovery-", "recovery.tmp", "recovery-", "recovered-"];

/// Files with fixed names.
const OWN_FILES: [&str; 6] =
    [LOCK_FILE, IDENTITY_FILE, "identity.tmp", "segment.tmp", "snapshot.tmp", "receive.tmp"];

/// What was open to other users.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Restricted {
    /// The old mode of the directory, if it was changed.
    directory: Option<u32>,
    /// How many files, including files of earlier recoveries.
    files: usize,
    /// Why something stays open to other users.
    left: Option<String>,
}

impl Restricted {
    /// A line for the operator; `None` when there was nothing to do.
    pub(super) fn line(&self, dir: &Path) -> Option<String> {
        let mut parts = Vec::new();
        if let Some(mode) = self.directory {
            parts.push(format!("others had rights to it (mode {mode:04o}); it is restricted to its owner"));
        }
        if self.files > 0 {
            parts.push(format!(
                "{} files in it were open to others and are restricted to their owner",
                self.files
            ));
        }
        parts.extend(self.left.clone());
        (!parts.is_empty()).then(|| format!("data_dir {}: {}", dir.display(), parts.join("; ")))
    }

    fn failed(&mut self, path: &Path, error: &io::Error) {
        self.left.get_or_insert(format!("{} stays open to others: {error}", path.display()));
    }
}

/// Restricts the data directory and its files to their owner. Files that cannot be restricted are reported and do not
/// prevent the start.
pub(super) fn restrict_data_dir(dir: &Path) -> Restricted {
    let mut restricted = Restricted::default();
    match restrict_directory(dir, &mut restricted) {
        Ok(mode) => restricted.directory = mode,
        Err(error) => restricted.failed(dir, &error),
    }
    restricted
}

/// Of a directory and, one level deeper, of those that a recovery made. Returns its mode when it was restricted.
fn restrict_directory(dir: &Path, restricted: &mut Restricted) -> io::Result<Option<u32>> {
    let mut is_shared = fs::metadata(dir)?.mode() & STICKY != 0 || dir.parent().is_none();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if kind.is_dir() {
            match OWN_DIRECTORIES.iter().any(|own| name.starts_with(own)) {
                // The directory of the sockets is made private when the sockets are made.
                true if name == "run" => {}
                true => restrict_recovery(&entry, restricted),
                false => is_shared |= name != "lost+found",
            }
        } else if kind.is_file() && is_own_file(&name) {
            restrict_entry(&entry, restricted);
        }
    }
    let directory = File::open(dir)?;
    if !is_shared {
        return restrict(&directory);
    }
    if directory.metadata()?.mode() & 0o077 != 0 {
        restricted.left.get_or_insert(
            "it stays open to others, for it holds directories that are not dkv's; give the node one of its own"
                .to_owned(),
        );
    }
    Ok(None)
}

fn restrict_recovery(entry: &DirEntry, restricted: &mut Restricted) {
    let mut restrict_all = || -> io::Result<()> {
        for entry in fs::read_dir(entry.path())? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                restrict_entry(&entry, restricted);
            }
        }
        File::open(entry.path()).and_then(|dir| restrict(&dir)).map(drop)
    };
    if let Err(error) = restrict_all() {
        restricted.failed(&entry.path(), &error);
    }
}

fn restrict_entry(entry: &DirEntry, restricted: &mut Restricted) {
    match File::open(entry.path()).and_then(|file| restrict(&file)) {
        Ok(mode) => restricted.files += usize::from(mode.is_some()),
        Err(error) => restricted.failed(&entry.path(), &error),
    }
}

/// No other name that ends in `.wal` may be in a data directory.
fn is_own_file(name: &str) -> bool {
    let snapshot = name.strip_suffix(".damaged").unwrap_or(name);
    OWN_FILES.contains(&name)
        || SnapshotName::parse(snapshot).is_some()
        || name.ends_with(".wal")
        || (name.starts_with("spare-") && name.ends_with(".tmp"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn open_to_others(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    const SNAPSHOT: &str = "0000000000000001-0000000000000001.snapshot";

    /// A data directory as an older program made it.
    fn old(root: &Path) -> std::path::PathBuf {
        let dir = root.join("data");
        fs::create_dir_all(dir.join("before-recovery-7")).unwrap();
        let files = ["LOCK", "identity", "1-2.wal", SNAPSHOT, "spare-3.tmp", "before-recovery-7/identity"];
        for name in files {
            fs::write(dir.join(name), b"x").unwrap();
            open_to_others(&dir.join(name), 0o644);
        }
        open_to_others(&dir.join("before-recovery-7"), 0o755);
        open_to_others(&dir, 0o755);
        dir
    }

    #[test]
    fn restrict_data_dir_takes_the_rights_of_others_from_the_directory_and_every_file_of_ours() {
        let root = tempfile::tempdir().unwrap();
        let dir = old(root.path());
        fs::write(dir.join("notes"), b"x").unwrap();
        open_to_others(&dir.join("notes"), 0o644);
        let line = restrict_data_dir(&dir).line(&dir).unwrap();
        assert!(line.contains("mode 0755") && line.contains("6 files"), "{line}");
        for name in ["LOCK", "identity", "1-2.wal", SNAPSHOT, "spare-3.tmp", "before-recovery-7/identity"] {
            assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
        }
        assert_eq!((mode(&dir), mode(&dir.join("before-recovery-7"))), (0o700, 0o700));
        assert_eq!(mode(&dir.join("notes")), 0o644, "not ours, and out of reach now");
        assert_eq!(restrict_data_dir(&dir).line(&dir), None, "said once");
    }

    /// The directory that was named may be everybody's: `/tmp`, or the home of somebody.
    #[test]
    fn restrict_data_dir_locks_nobody_out_of_a_directory_that_others_use() {
        let root = tempfile::tempdir().unwrap();
        let dir = old(root.path());
        fs::create_dir(dir.join("pictures")).unwrap();
        let line = restrict_data_dir(&dir).line(&dir).unwrap();
        assert!(line.contains("6 files") && line.contains("stays open to others"), "{line}");
        assert_eq!((mode(&dir), mode(&dir.join("identity"))), (0o755, 0o600));

        fs::remove_dir(dir.join("pictures")).unwrap();
        open_to_others(&dir, 0o1777);
        assert!(restrict_data_dir(&dir).line(&dir).unwrap().contains("stays open to others"));
        assert_eq!(mode(&dir), 0o1777);
    }

    #[test]
    fn restrict_data_dir_follows_no_link() {
        let root = tempfile::tempdir().unwrap();
        let (dir, other) = (old(root.path()), root.path().join("other"));
        fs::write(&other, b"x").unwrap();
        open_to_others(&other, 0o644);
        symlink(&other, dir.join("snapshot.tmp")).unwrap();
        restrict_data_dir(&dir);
        assert_eq!(mode(&other), 0o644);
    }
}
