//! Recovery of a cluster that has lost its majority for good, from one remaining data directory: it makes a new
//! cluster of one member, with everything that this directory holds.
//!
//! Nothing is deleted. After a crash at any point, run the same command again to finish. The new directory is built
//! next to the old files, then swapped in by renames, one [`Recovery::step`] at a time:
//!
//! | in the data directory | means |
//! |---|---|
//! | `recovery.tmp` | being built; ignored |
//! | `recovery-N` | built and durable; the old files are being moved into `before-recovery-N` |
//! | `recovered-N` | the old files are moved; the new files are being moved up |
//! | none of these | finished, or never begun |
//!
//! `N` is the index of the last entry of the old log. No node starts in between: [`check_finished`].

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bootstrap_rpc::Peer;
use super::data_dir::DataDir;
use super::error::DataDirError;
use super::restore::Backup;
use crate::node::Stored;
use crate::raft::{
    ClusterId, Entry, Genesis, Index, Member, MemberId, Membership, PROTOCOL, Payload, Position, Settings,
};
use crate::store::Kv;
use crate::store::disk::RealDisk;
use crate::store::identity::{DataDirLock, IDENTITY_FILE, Identity, IdentityError};
use crate::store::wal::{LogReader, Wal, WalError, WalIds, WalOptions};

const BUILDING: &str = "recovery.tmp";
const BUILT: &str = "recovery-";
const MOVED: &str = "recovered-";
const OLD: &str = "before-recovery-";

/// Why a data directory cannot be made a new cluster.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Its data cannot be read, or the new files cannot be written.
    #[error(transparent)]
    Initialization(#[from] DataDirError),
    /// There is nothing to recover.
    #[error("{0} holds no member of a cluster: there is nothing to recover")]
    Nothing(String),
    /// It already is a cluster of one member.
    #[error("{0} is the only member of its cluster already: just start it")]
    Alone(String),
    /// The log holds entries that only a later program can read.
    #[error("the log in {dir} cannot be recovered: {what}")]
    OtherProgram {
        /// The data directory.
        dir: String,
        /// What they are, and which program can read them.
        what: String,
    },
    /// The file system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// A verb.
        action: &'static str,
        /// A file or directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl RecoverError {
    /// Exit code of a program that ends with this error: 1 run-time failure, 2 refused, 3 data corrupt, 4 identity
    /// refused, 5 another program is needed.
    pub fn exit_code(&self) -> u8 {
        match self {
            RecoverError::Initialization(error) => error.exit_code(),
            RecoverError::Nothing(_) | RecoverError::Alone(_) => 2,
            RecoverError::OtherProgram { .. } => 5,
            RecoverError::Io { .. } => 1,
        }
    }
}

impl From<IdentityError> for RecoverError {
    fn from(error: IdentityError) -> RecoverError {
        RecoverError::Initialization(error.into())
    }
}

impl From<WalError> for RecoverError {
    fn from(error: WalError) -> RecoverError {
        RecoverError::Initialization(error.into())
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecoverError {
    let path = path.display().to_string();
    move |source| RecoverError::Io { action, path, source }
}

/// How far a recovery has come.
#[derive(Debug)]
enum Stage {
    None,
    Built(String),
    Moved(String),
}

/// What a data directory holds that is to be recovered.
#[derive(Debug)]
pub struct Survivor {
    /// The cluster and the member that it belongs to.
    pub ids: WalIds,
    /// The members as it knows them.
    pub membership: Arc<Membership>,
    /// Where the snapshot it starts from ends.
    pub snapshot: Option<Position>,
    /// The last entry of the log.
    pub last: Position,
    /// For the operator.
    pub warnings: Vec<String>,
    kv: Kv,
}

impl Survivor {
    /// The state at the end of the log.
    pub fn kv(&self) -> &Kv {
        &self.kv
    }
}

/// A data directory that is being made a new cluster. Locked while this lives.
pub struct Recovery {
    dir: PathBuf,
    options: WalOptions,
    lock: DataDirLock,
}

impl Recovery {
    /// Locks the directory, which must exist.
    ///
    /// # Errors
    /// There is none, or a node runs in it.
    pub fn open(dir: &Path, options: WalOptions) -> Result<Recovery, RecoverError> {
        if !dir.is_dir() {
            return Err(RecoverError::Nothing(dir.display().to_string()));
        }
        let lock = DataDirLock::take(dir)?;
        Ok(Recovery { dir: dir.to_owned(), options, lock })
    }

    /// Whether an earlier run has done everything except the swap.
    ///
    /// # Errors
    /// A file operation fails.
    pub fn is_under_way(&self) -> Result<bool, RecoverError> {
        Ok(!matches!(stage(&self.dir)?, Stage::None))
    }

    /// Reads the data directory as a start of the node `node_id` would, and applies every entry of its log, committed
    /// or not: without the other members it is not known which entries were committed.
    ///
    /// # Errors
    /// The directory is damaged, belongs to another node or to no member, or its member is the only one of its
    /// cluster.
    pub fn survivor(&self, node_id: &str) -> Result<Survivor, RecoverError> {
        let shown = || self.dir.display().to_string();
        let disk = Arc::new(RealDisk::open(&self.dir).map_err(failed("open", &self.dir))?);
        let Some(identity) = Identity::load(&*disk)? else { return Err(RecoverError::Nothing(shown())) };
        identity.check_name(node_id)?;
        let log = Wal::identify(&(disk.clone() as _)).map_err(DataDirError::from)?;
        let Some(cluster_id) = identity.cluster_id.or(log.map(|ids| ids.cluster_id)) else {
            return Err(RecoverError::Nothing(shown()));
        };
        let ids = WalIds { cluster_id, member_id: identity.member_id };
        if log.is_none() {
            let WalIds { cluster_id, member_id } = ids;
            let node_id = identity.node_id;
            return Err(DataDirError::LogGone { dir: shown(), node_id, member_id, cluster_id }.into());
        }
        let (stored, warnings) = Stored::load(disk.clone(), ids, self.options)?;
        stored.check_program(PROTOCOL)?;
        let Stored { recovered, snapshot, .. } = stored;
        let last = recovered.last();
        let (snapshot, mut kv) = match snapshot {
            Some((meta, kv)) => (Some(meta.last), kv),
            None => (None, Kv::new(Settings::default())),
        };
        let mut apply = |entry: Entry| match kv.try_apply(&entry) {
            Ok(_) => Ok(()),
            Err(e) => Err(RecoverError::OtherProgram { dir: shown(), what: e.to_string() }),
        };
        LogReader::new(disk).each(&recovered.left, &mut apply)?;
        recovered.entries.into_iter().try_for_each(apply)?;
        let membership = kv.membership().clone();
        if membership.members.iter().all(|member| member.member_id == ids.member_id) {
            return Err(RecoverError::Alone(format!("{} ({})", identity.node_id, shown())));
        }
        Ok(Survivor { ids, membership, snapshot, last, warnings, kv })
    }

    /// Builds the directory of the new cluster, whose only member is `me`, next to the old files. It is durable when
    /// this returns; the old files are unchanged. Returns the id of the new cluster.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn build(&self, survivor: Survivor, me: &Peer) -> Result<ClusterId, RecoverError> {
        // Not earlier: without --force-new-cluster nothing is changed, not even a file mode.
        if let Some(line) = self.lock.make_private() {
            log::warn!("{line}");
        }
        let building = self.dir.join(BUILDING);
        match fs::remove_dir_all(&building) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &building)(e)),
            _ => {}
        }
        let disk = Arc::new(RealDisk::open(&building).map_err(failed("create", &building))?);
        let id = || getrandom::u64().map_err(|e| IdentityError::Random(e.into()));
        let (cluster_id, member_id) = (ClusterId(id()?), MemberId(id()?));
        let Peer { node_id, raft_addr, http_addr } = me.clone();
        let identity = Identity::new(&node_id, member_id);
        let member = Member { node_id, member_id, raft_addr, http_addr, voter: true, promote: false };
        let last = survivor.last.index;
        let backup = Backup::of(survivor.kv);
        let genesis = Genesis {
            cluster_id,
            settings: backup.settings().clone(),
            protocol: backup.version(),
            members: Membership { members: vec![member] },
            restored: Some(backup.restored()),
        };
        let entry = Entry::new(Position::new(1, 1), 0, &Payload::Genesis(genesis));
        let mut initialized = DataDir::new(disk, self.options, identity).initialize(entry, Some(backup))?;
        initialized.stored.wal.seal().map_err(DataDirError::from)?;
        drop(initialized);
        sync(&building)?;
        self.rename(BUILDING, &format!("{BUILT}{}", self.free_suffix(last)))?;
        sync(&self.dir)?;
        Ok(cluster_id)
    }

    /// One step of the swap; `false` when there is nothing left to do.
    ///
    /// # Errors
    /// A file operation fails; the next call tries the same step again.
    pub fn step(&self) -> Result<bool, RecoverError> {
        match stage(&self.dir)? {
            Stage::None => return Ok(false),
            Stage::Built(suffix) => {
                let old = format!("{OLD}{suffix}");
                let path = self.dir.join(&old);
                match files(&self.dir)?.into_iter().find(|name| name != LOCK) {
                    _ if !path.is_dir() => {
                        let mut private = DirBuilder::new();
                        private.mode(0o700).create(&path).map_err(failed("create", &path))?;
                    }
                    Some(name) => self.rename(&name, &format!("{old}/{name}"))?,
                    None => {
                        sync(&path)?;
                        sync(&self.dir)?;
                        self.rename(&format!("{BUILT}{suffix}"), &format!("{MOVED}{suffix}"))?;
                    }
                }
            }
            Stage::Moved(suffix) => {
                let new = format!("{MOVED}{suffix}");
                let path = self.dir.join(&new);
                match files(&path)?.into_iter().next() {
                    Some(name) => self.rename(&format!("{new}/{name}"), &name)?,
                    None => {
                        sync(&self.dir)?;
                        fs::remove_dir(&path).map_err(failed("remove", &path))?;
                    }
                }
            }
        }
        sync(&self.dir)?;
        Ok(true)
    }

    /// The directories with the old files; the directory of the latest recovery is the last one.
    ///
    /// # Errors
    /// A file operation fails.
    pub fn old_files(&self) -> Result<Vec<PathBuf>, RecoverError> {
        let names = directories(&self.dir)?.into_iter().filter(|name| name.starts_with(OLD));
        Ok(names.map(|name| self.dir.join(name)).collect())
    }

    fn free_suffix(&self, last: Index) -> String {
        let plain = last.to_string();
        let numbered = (2..).map(|n| format!("{plain}-{n}"));
        let is_free = |suffix: &String| !self.dir.join(format!("{OLD}{suffix}")).exists();
        std::iter::once(plain.clone()).chain(numbered).find(is_free).expect("numbers do not end")
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), RecoverError> {
        let from = self.dir.join(from);
        fs::rename(&from, self.dir.join(to)).map_err(failed("move", &from))
    }
}

/// The lock stays where it is.
const LOCK: &str = "LOCK";

/// Refuses a directory whose files belong partly to the old and partly to the new cluster.
///
/// # Errors
/// The text says what to run.
pub fn check_finished(dir: &Path) -> Result<(), String> {
    match stage(dir) {
        Ok(Stage::None) => Ok(()),
        Ok(_) => Err(format!(
            "data_dir {}: a recovery was cut short: finish it with dkv-server recover --force-new-cluster",
            dir.display()
        )),
        Err(e) => Err(e.to_string()),
    }
}

fn stage(dir: &Path) -> Result<Stage, RecoverError> {
    let names = directories(dir)?;
    let suffix_of = |prefix: &str| {
        let with_number = |rest: &&str| rest.starts_with(|c: char| c.is_ascii_digit());
        names.iter().find_map(|name| name.strip_prefix(prefix).filter(with_number).map(str::to_owned))
    };
    Ok(match (suffix_of(MOVED), suffix_of(BUILT)) {
        (Some(suffix), _) => Stage::Moved(suffix),
        (None, Some(suffix)) => Stage::Built(suffix),
        (None, None) => Stage::None,
    })
}

fn directories(dir: &Path) -> Result<Vec<String>, RecoverError> {
    names(dir, fs::FileType::is_dir)
}

/// The files of a directory, the identity first: a directory without an identity belongs to no node.
fn files(dir: &Path) -> Result<Vec<String>, RecoverError> {
    let mut names = names(dir, fs::FileType::is_file)?;
    names.sort_by_key(|name| name != IDENTITY_FILE);
    Ok(names)
}

fn names(dir: &Path, wanted: fn(&fs::FileType) -> bool) -> Result<Vec<String>, RecoverError> {
    let read = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if wanted(&entry.file_type()?) {
                // dkv never creates a name that is not UTF-8.
                names.extend(entry.file_name().into_string().ok());
            }
        }
        names.sort();
        Ok(names)
    };
    read().map_err(failed("list", dir))
}

fn sync(dir: &Path) -> Result<(), RecoverError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}
