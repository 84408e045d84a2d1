//! Who this node is: the data directory's lock and its `identity` file.
//!
//! The Raft identity of a member is random and born with its data directory (thesis §3.8: a server that lost its disk is
//! another server). The file is two lines, the second guards the first:
//!
//! ```text
//! {"format":1,"node_id":"node1","member_id":"6c8e...","cluster_id":null}
//! crc32c 1f2e3d4c
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::raft::{ClusterId, MemberId};

/// Name of the identity file in the data directory.
pub const IDENTITY_FILE: &str = "identity";

/// Name of the lock file in the data directory.
const LOCK_FILE: &str = "LOCK";

/// The only format of the identity file this version writes and reads.
const FORMAT: u32 = 1;

/// A well-formed identity file is far smaller: more is not read as one.
const MAX_IDENTITY_BYTES: usize = 4096;

/// Why a data directory cannot be used, or an identity not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The directory cannot be made, or its lock file not be opened for writing.
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
    /// The identity file is there and is not one.
    #[error(
        "file {IDENTITY_FILE}: {what}; this node cannot prove who it is: restore the file from a copy of this very \
         data directory, or replace the member (empty data_dir, new node)"
    )]
    Corrupt {
        /// What is wrong with it.
        what: String,
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
    /// The system has no randomness to draw an identity from.
    #[error("cannot draw a random identity: {0}")]
    Random(getrandom::Error),
}

impl IdentityError {
    /// Exit code of a server that ends with this error: 1 run-time failure, 2 configuration, 3 data corrupt,
    /// 4 identity refused.
    pub fn exit_code(&self) -> u8 {
        match self {
            IdentityError::Unwritable { .. } | IdentityError::Locked { .. } => 2,
            IdentityError::Corrupt { .. } => 3,
            IdentityError::OtherName { .. } => 4,
            IdentityError::Random(_) => 1,
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
    /// The cluster it belongs to; none until the found entry is synced here.
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

    /// Reads the bytes of the file. Anything but what [`Identity::encode`] makes is corruption.
    pub fn decode(bytes: &[u8]) -> Result<Identity, IdentityError> {
        let corrupt = |what: String| IdentityError::Corrupt { what };
        if bytes.len() > MAX_IDENTITY_BYTES {
            return Err(corrupt(format!("{} bytes are more than an identity has", bytes.len())));
        }
        let end = bytes.iter().position(|&b| b == b'\n').ok_or_else(|| corrupt("it is cut short".into()))?;
        let (line, guard) = bytes.split_at(end);
        if guard != format!("\ncrc32c {:08x}\n", crc32c::crc32c(line)).as_bytes() {
            return Err(corrupt("its checksum does not match".into()));
        }
        let format =
            serde_json::from_slice::<serde_json::Value>(line).ok().and_then(|v| v["format"].as_u64());
        if format != Some(u64::from(FORMAT)) {
            let found = format.map_or("none".to_owned(), |f| f.to_string());
            return Err(corrupt(format!("its format is {found}, this version reads format {FORMAT} only")));
        }
        serde_json::from_slice(line).map_err(|e| corrupt(e.to_string()))
    }

    /// Refuses another node's name: two nodes must never share an identity.
    pub fn check_name(&self, configured: &str) -> Result<(), IdentityError> {
        if self.node_id == configured {
            return Ok(());
        }
        Err(IdentityError::OtherName { configured: configured.to_owned(), stored: self.node_id.clone() })
    }
}

/// A random id for a new member or cluster.
pub fn random_id() -> Result<u64, IdentityError> {
    getrandom::u64().map_err(IdentityError::Random)
}

/// The exclusive hold on a data directory. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct DataDirLock {
    dir: PathBuf,
    _file: File,
}

impl DataDirLock {
    /// Makes the directory if it is missing (durably: a directory that a power loss takes away takes the log with it)
    /// and locks it for the life of this value.
    pub fn take(dir: &Path) -> Result<DataDirLock, IdentityError> {
        let unwritable = |action: &'static str| {
            move |source: io::Error| IdentityError::Unwritable {
                dir: dir.display().to_string(),
                action,
                source,
            }
        };
        create_durably(dir).map_err(unwritable("create it"))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
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

/// `create_dir_all` that syncs the parent of every directory it makes.
fn create_durably(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_durably(parent)?;
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        other => other?,
    }
    File::open(parent)?.sync_all()
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
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("its format is 2"), "{error}");
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
    fn take_refuses_a_path_that_is_a_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(&path, b"").unwrap();
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
