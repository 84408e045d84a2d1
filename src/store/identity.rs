//! The identity of this node: the data directory's lock and its `identity` file.
//!
//! The Raft identity of a member is random and created with its data directory (thesis §3.8: a server that lost its
//! disk is another server). The file is two lines, the second guards the first:
//!
//! ```text
//! {"format":1,"node_id":"node1","member_id":"6c8e...","cluster_id":null}
//! crc32c 1f2e3d4c
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::disk::{Disk, RealDisk};
pub use super::private::IDENTITY_FILE;
use super::private::{LOCK_FILE, restrict_data_dir};
use crate::files::PRIVATE_FILE;
use crate::raft::{ClusterId, MemberId};

/// The file that is renamed to the identity file.
const TEMPORARY_FILE: &str = "identity.tmp";

/// The only format of the identity file this version writes and reads.
const FORMAT: u32 = 1;

/// A valid identity file is far smaller; a larger file is refused.
const MAX_IDENTITY_BYTES: usize = 4096;

/// Why a data directory cannot be used, or an identity cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The directory cannot be made, or its lock file cannot be opened for writing.
    #[error("data_dir {dir}: cannot {action}: {source}; give this user a directory it may write to")]
    Unwritable {
        /// The data directory.
        dir: String,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error(
        "data_dir {dir}: already in use by {}; stop that process or set another data_dir",
        .pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The data directory.
        dir: String,
        /// The holder, when its lock file says so.
        pid: Option<u32>,
    },
    /// The identity file exists, but its content is not valid.
    #[error(
        "{file} is corrupt: {what}; this node cannot prove who it is: bring the file back, or replace the member \
         (empty data_dir, new node)"
    )]
    Corrupt {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// Written by a later version of dkv.
    #[error("{file} has format {format}, and this program knows {FORMAT}: run the dkv-server that wrote it")]
    NewerFormat {
        /// The file.
        file: String,
        /// Its format.
        format: u64,
    },
    /// The configuration names another node than the file.
    #[error(
        "node_id {configured:?} is configured, but this data_dir belongs to node {stored:?}; set node_id back to \
         {stored:?} or point data_dir at the directory of {configured:?}"
    )]
    OtherName {
        /// Name in the configuration.
        configured: String,
        /// Name in the identity file.
        stored: String,
    },
    /// The identity file cannot be read or written.
    #[error("cannot {action} {file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// A verb.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The system has no randomness to draw an identity from.
    #[error("cannot draw a random identity: {0}")]
    Random(io::Error),
}

impl IdentityError {
    /// Exit code of a server that ends with this error: 1 run-time failure, 2 configuration, 3 data corrupt,
    /// 4 identity refused, 5 another program is needed.
    pub fn exit_code(&self) -> u8 {
        match self {
            IdentityError::Unwritable { .. } | IdentityError::Locked { .. } => 2,
            IdentityError::Corrupt { .. } => 3,
            IdentityError::NewerFormat { .. } => 5,
            IdentityError::OtherName { .. } => 4,
            IdentityError::Io { .. } | IdentityError::Random(_) => 1,
        }
    }
}

/// The content of the identity file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    format: u32,
    /// The node's name.
    pub node_id: String,
    /// Its Raft identity: random, never reused.
    pub member_id: MemberId,
    /// The cluster it belongs to; none until the genesis entry is synced here.
    pub cluster_id: Option<ClusterId>,
}

impl Identity {
    /// The identity of a new data directory that belongs to no cluster yet.
    pub fn new(node_id: &str, member_id: MemberId) -> Identity {
        Identity { format: FORMAT, node_id: node_id.to_owned(), member_id, cluster_id: None }
    }

    /// The same identity as a member of `cluster_id`.
    pub fn with_cluster(&self, cluster_id: ClusterId) -> Identity {
        Identity { cluster_id: Some(cluster_id), ..self.clone() }
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("plain data serialises");
        let guard = format!("\ncrc32c {:08x}\n", crc32c::crc32c(&bytes));
        bytes.extend_from_slice(guard.as_bytes());
        bytes
    }

    /// Reads the bytes of the file. Bytes that [`Identity::encode`] would not make are corruption; the error says
    /// what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Identity, String> {
        if bytes.len() > MAX_IDENTITY_BYTES {
            return Err(format!("{} bytes are more than an identity has", bytes.len()));
        }
        let end = bytes.iter().position(|&b| b == b'\n').ok_or("it is cut short")?;
        let (line, guard) = bytes.split_at(end);
        if guard != format!("\ncrc32c {:08x}\n", crc32c::crc32c(line)).as_bytes() {
            return Err("its checksum does not match".into());
        }
        let format =
            serde_json::from_slice::<serde_json::Value>(line).ok().and_then(|v| v["format"].as_u64());
        if format != Some(u64::from(FORMAT)) {
            let found = format.map_or("none".to_owned(), |f| f.to_string());
            return Err(format!("its format is {found}, this version reads format {FORMAT} only"));
        }
        serde_json::from_slice(line).map_err(|e| e.to_string())
    }

    /// The format of an undamaged identity file, if this program does not know that format.
    fn newer_format(bytes: &[u8]) -> Option<u64> {
        let end = bytes.iter().position(|&b| b == b'\n')?;
        let (line, guard) = bytes.split_at(end);
        let is_whole = guard == format!("\ncrc32c {:08x}\n", crc32c::crc32c(line)).as_bytes();
        let json: serde_json::Value = serde_json::from_slice(line).ok().filter(|_| is_whole)?;
        json["format"].as_u64().filter(|&format| format > u64::from(FORMAT))
    }

    /// Reads the identity file; `None` when there is none. The returned identity is durable: a file that a killed
    /// process wrote only to the page cache is synced first, because other nodes will be told this identity.
    pub fn load(disk: &dyn Disk) -> Result<Option<Identity>, IdentityError> {
        let failed =
            |action| move |source| IdentityError::Io { file: disk.display(IDENTITY_FILE), action, source };
        let Some(identity) = Identity::read(disk)? else { return Ok(None) };
        disk.open(IDENTITY_FILE).and_then(|file| file.sync()).map_err(failed("sync"))?;
        disk.sync_dir().map_err(failed("sync the directory of"))?;
        Ok(Some(identity))
    }

    /// The same without the sync: for read-only use.
    pub fn read(disk: &dyn Disk) -> Result<Option<Identity>, IdentityError> {
        let failed =
            |action| move |source| IdentityError::Io { file: disk.display(IDENTITY_FILE), action, source };
        let file = match disk.open(IDENTITY_FILE) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed("open"))?,
        };
        let size = file.size().map_err(failed("read"))?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(MAX_IDENTITY_BYTES + 1)];
        file.read_at(0, &mut bytes).map_err(failed("read"))?;
        if let Some(format) = Identity::newer_format(&bytes) {
            return Err(IdentityError::NewerFormat { file: disk.display(IDENTITY_FILE), format });
        }
        let identity = Identity::decode(&bytes)
            .map_err(|what| IdentityError::Corrupt { file: disk.display(IDENTITY_FILE), what })?;
        Ok(Some(identity))
    }

    /// Writes the identity file: writes and syncs a temporary file, renames it over the old file, and syncs the
    /// directory. Durable when this returns. After an earlier crash there is either the complete old or the complete
    /// new file.
    pub fn store(&self, disk: &dyn Disk) -> Result<(), IdentityError> {
        let failed =
            |action| move |source| IdentityError::Io { file: disk.display(IDENTITY_FILE), action, source };
        let file = disk.create(TEMPORARY_FILE).map_err(failed("create the successor of"))?;
        file.write_at(0, &self.encode()).map_err(failed("write the successor of"))?;
        file.sync().map_err(failed("sync the successor of"))?;
        disk.rename(TEMPORARY_FILE, IDENTITY_FILE).map_err(failed("replace"))?;
        disk.sync_dir().map_err(failed("sync the directory of"))
    }

    /// Refuses another node's name: two nodes must never share an identity.
    pub fn check_name(&self, configured: &str) -> Result<(), IdentityError> {
        if self.node_id == configured {
            return Ok(());
        }
        Err(IdentityError::OtherName { configured: configured.to_owned(), stored: self.node_id.clone() })
    }
}

/// The exclusive lock on a data directory. The kernel releases it when the process ends for any reason.
#[derive(Debug)]
pub struct DataDirLock {
    dir: PathBuf,
    _file: File,
}

impl DataDirLock {
    /// Creates the directory if it is missing and locks it for the life of this value. The creation is durable,
    /// because the log would be lost together with its directory in a power loss.
    pub fn take(dir: &Path) -> Result<DataDirLock, IdentityError> {
        let unwritable = |action: &'static str| {
            move |source: io::Error| IdentityError::Unwritable {
                dir: dir.display().to_string(),
                action,
                source,
            }
        };
        RealDisk::open(dir).map_err(unwritable("create it"))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_FILE)
            // The pid overwrites the content of the file; it must never overwrite the target of a link.
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(dir.join(LOCK_FILE))
            .map_err(unwritable("open its LOCK file for writing"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let dir = dir.display().to_string();
                return Err(IdentityError::Locked { dir, pid: holder(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(unwritable("lock its LOCK file")(source)),
        }
        write_pid(&mut file).map_err(unwritable("write its LOCK file"))?;
        Ok(DataDirLock { dir: dir.to_owned(), _file: file })
    }

    /// Prevents every server from starting for the life of this value, without changing anything: for read-only use.
    /// If the directory has no lock file, none is created and nothing is locked.
    pub fn take_to_look(dir: &Path) -> Result<Option<DataDirLock>, IdentityError> {
        let unwritable = |source| IdentityError::Unwritable {
            dir: dir.display().to_string(),
            action: "look at its LOCK file",
            source,
        };
        let mut file = match File::open(dir.join(LOCK_FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(unwritable)?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(DataDirLock { dir: dir.to_owned(), _file: file })),
            Err(TryLockError::WouldBlock) => {
                let dir = dir.display().to_string();
                Err(IdentityError::Locked { dir, pid: holder(&mut file) })
            }
            Err(TryLockError::Error(source)) => Err(unwritable(source)),
        }
    }

    /// Restricts the directory and dkv's files in it to their owner. Returns a line for the operator when something
    /// was changed, or when something could not be changed.
    pub fn make_private(&self) -> Option<String> {
        restrict_data_dir(&self.dir).line(&self.dir)
    }

    /// The locked directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

/// The pid in the lock file; none while its holder is just about to write it.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity::new("node1", MemberId(0xabc))
    }

    #[test]
    fn decode_gives_back_what_encode_made() {
        for identity in [identity(), identity().with_cluster(ClusterId(7))] {
            assert_eq!(Identity::decode(&identity.encode()).unwrap(), identity);
        }
    }

    #[test]
    fn decode_refuses_a_newer_format_and_says_so() {
        let newer = Identity { format: 2, ..identity() };
        let error = Identity::decode(&newer.encode()).unwrap_err();
        assert!(error.contains("its format is 2"), "{error}");
    }

    #[test]
    fn check_name_refuses_another_node_and_names_both() {
        identity().check_name("node1").unwrap();
        let error = identity().check_name("node2").unwrap_err();
        assert_eq!(error.exit_code(), 4);
        let text = error.to_string();
        assert!(text.contains("\"node1\"") && text.contains("\"node2\""), "{text}");
    }

    #[test]
    fn take_makes_missing_directories_and_refuses_a_second_holder_by_pid() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b/c");
        let lock = DataDirLock::take(&dir).unwrap();
        let error = DataDirLock::take(&dir).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let pid = format!("process {}", std::process::id());
        assert!(error.to_string().contains(&pid), "{error}");
        drop(lock);
        DataDirLock::take(&dir).unwrap();
    }

    #[test]
    fn take_writes_its_pid_over_nothing_that_a_link_leads_to() {
        let root = tempfile::tempdir().unwrap();
        let (dir, other) = (root.path().join("data"), root.path().join("other"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(&other, b"mine").unwrap();
        std::os::unix::fs::symlink(&other, dir.join(LOCK_FILE)).unwrap();
        assert_eq!(DataDirLock::take(&dir).unwrap_err().exit_code(), 2);
        assert_eq!(std::fs::read(&other).unwrap(), b"mine");
    }

    #[test]
    fn take_refuses_a_path_that_is_a_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(DataDirLock::take(&path).unwrap_err().exit_code(), 2);
    }

    proptest! {
        #[test]
        fn decode_refuses_every_flipped_bit_and_every_cut(at: usize, bit in 0u8..8) {
            let bytes = identity().with_cluster(ClusterId(9)).encode();
            let at = at % bytes.len();
            prop_assert!(Identity::decode(&bytes[..at]).is_err());
            let mut flipped = bytes;
            flipped[at] ^= 1 << bit;
            prop_assert!(Identity::decode(&flipped).is_err());
        }
    }
}
