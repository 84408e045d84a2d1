//! `dkv-server fsck`: what a start would find in a data directory, without starting and without changing anything. It
//! reads with the code of recovery ([`inspect`]), so both always agree.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::data_dir::whose_log;
use super::error::{DataDirError, damaged_or};
use crate::raft::{PROTOCOL, check_version};
use crate::store::disk::{Disk, RealDisk};
use crate::store::identity::{DataDirLock, Identity};
use crate::store::snapshot::{self, SnapshotName};
use crate::store::wal::{Inspection, LogPlace, TornEnd, Wal, WalError, inspect};

/// Bytes of a block of the log.
const BLOCK_BYTES: u64 = 4096;

/// What was found.
#[derive(Debug)]
pub struct Report {
    dir: String,
    identity: Option<Identity>,
    /// The snapshot a start would take, and its keys.
    snapshot: Option<(SnapshotName, u64)>,
    /// What is wrong with newer snapshots, and with older ones, which a start does not read.
    damaged: Vec<String>,
    damaged_older: Vec<String>,
    torn: Option<TornEnd>,
    log: Option<Inspection>,
    verdict: Verdict,
}

/// The verdict on a data directory.
#[derive(Debug)]
pub enum Verdict {
    /// A start finds no damage.
    Clean,
    /// The last write was not finished; a start cuts it off and loses nothing that was acknowledged.
    TornTail,
    /// A snapshot is damaged; a start does not need it and loses nothing.
    DamagedSnapshot,
    /// A start refuses: synced data is damaged or missing.
    Rot(DataDirError),
    /// A start refuses or fails for another reason.
    Refused(DataDirError),
}

/// Why the directory could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// The directory has no dkv data.
    #[error("{dir}: {what}; name the data_dir of a node")]
    NoDataDir {
        /// The argument.
        dir: String,
        /// What is wrong with it.
        what: String,
    },
    /// A process uses the directory, or its lock file cannot be read.
    #[error("{0}")]
    Lock(#[from] crate::store::identity::IdentityError),
}

/// Checks the data directory at `dir`. Changes nothing. During the check no server can start there.
///
/// # Errors
/// `dir` is not a data directory, or it is in use: a bad argument.
pub fn fsck(dir: &Path) -> Result<Report, FsckError> {
    let no_data_dir = |what: String| FsckError::NoDataDir { dir: dir.display().to_string(), what };
    let disk = RealDisk::open_read_only(dir).map_err(|e| no_data_dir(format!("cannot open it: {e}")))?;
    let _lock = DataDirLock::take_to_look(dir)?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let mut report = Report {
        dir: dir.display().to_string(),
        identity: None,
        snapshot: None,
        damaged: Vec::new(),
        damaged_older: Vec::new(),
        torn: None,
        log: None,
        verdict: Verdict::Clean,
    };
    match look(&disk, &mut report) {
        Ok(()) if report.identity.is_none() => {
            Err(no_data_dir("there is neither an identity nor a log of dkv in it".into()))
        }
        Ok(()) => Ok(report),
        Err(error) => {
            report.verdict = match error.exit_code() {
                3 => Verdict::Rot(error),
                _ => Verdict::Refused(error),
            };
            Ok(report)
        }
    }
}

/// Does the checks of a start, in the same order.
fn look(disk: &Arc<dyn Disk>, report: &mut Report) -> Result<(), DataDirError> {
    let identity = Identity::read(&**disk)?;
    report.identity.clone_from(&identity);
    let chosen = snapshot::choose(disk)?;
    let after = (chosen.last(), chosen.reach);
    let in_snapshot = chosen.state.as_ref().map_or(0, |(header, _)| header.meta.version);
    report.snapshot = chosen.state.map(|(header, _)| (SnapshotName::new(header.meta.last), header.keys));
    report.damaged = chosen.damaged.iter().map(|(_, error)| error.to_string()).collect();
    if let Some((taken, _)) = report.snapshot {
        let older = snapshot::list(disk)?.into_iter().filter(|name| *name < taken);
        let errors = older.filter_map(|name| snapshot::verify(disk, name).err());
        report.damaged_older = errors.map(|error| error.to_string()).collect();
    }
    let mut inspection = inspect(disk, None, after);
    let ids = match inspection.end {
        // The first segment may be whole although a later one is not.
        Err(WalError::Missing(_)) => None,
        _ => inspection.ids.map_or_else(|| Wal::identify(disk), |ids| Ok(Some(ids)))?,
    };
    let Some(identity) = identity else {
        return match ids {
            Some(ids) => Err(DataDirError::NoIdentity { dir: disk.display(""), ids }),
            None => Ok(()),
        };
    };
    let Some(expected) = whose_log(disk, &identity, ids)? else { return Ok(()) };
    if inspection.ids != Some(expected) {
        inspection = inspect(disk, Some(expected), after);
    }
    let end = std::mem::replace(&mut inspection.end, Ok(None));
    let version = inspection.version.max(in_snapshot);
    report.log = Some(inspection);
    report.torn = end.map_err(|error| damaged_or(error, chosen.damaged))?;
    check_version(version, PROTOCOL)
        .map_err(|mismatch| DataDirError::OtherProgram { dir: disk.display(""), mismatch })?;
    if !report.damaged.is_empty() || !report.damaged_older.is_empty() {
        report.verdict = Verdict::DamagedSnapshot;
    } else if report.torn.is_some() {
        report.verdict = Verdict::TornTail;
    }
    Ok(())
}

impl Report {
    /// The verdict.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// As a start would end: 0 clean, torn tail or a damaged snapshot that is not needed, 3 rot, 4 another member's data, 5 data of a later program, 1 what
    /// cannot be read.
    pub fn exit_code(&self) -> u8 {
        match &self.verdict {
            Verdict::Clean | Verdict::TornTail | Verdict::DamagedSnapshot => 0,
            Verdict::Rot(error) | Verdict::Refused(error) => error.exit_code(),
        }
    }
}

impl Report {
    /// Writes what happens to a snapshot that is damaged and not needed.
    fn write_what_stands_in(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.damaged.is_empty() {
            let instead = match &self.snapshot {
                Some((name, _)) => format!("takes {name} and the log after it"),
                None => "takes the whole log".to_owned(),
            };
            writeln!(
                f,
                "the log holds what is damaged: the next start {instead}, sets aside what is damaged as \
                 *.snapshot.damaged, and loses nothing; look at the disk"
            )?;
        }
        if !self.damaged_older.is_empty() {
            writeln!(
                f,
                "an older snapshot is only for when the newest is damaged: the next start does not read it, the next \
                 snapshot removes it; look at the disk"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match &self.verdict {
            Verdict::Clean => "clean",
            Verdict::TornTail => "torn tail",
            Verdict::DamagedSnapshot => "damaged snapshot",
            Verdict::Rot(_) => "rot",
            Verdict::Refused(_) => "refused",
        };
        writeln!(f, "{}: {word}", self.dir)?;
        for error in self.damaged.iter().chain(&self.damaged_older) {
            writeln!(f, "damaged: {error}")?;
        }
        match &self.verdict {
            Verdict::Clean | Verdict::TornTail => {}
            Verdict::DamagedSnapshot => self.write_what_stands_in(f)?,
            Verdict::Rot(DataDirError::Wal(WalError::Corrupt { file, offset, what, repair })) => {
                writeln!(f, "first bad byte: {offset} of {file}: {what}")?;
                writeln!(f, "repair: {repair}")?;
            }
            Verdict::Rot(DataDirError::Wal(gap) | DataDirError::DamagedSnapshot { gap, .. }) => match gap {
                WalError::Gap { what, repair, .. } => {
                    writeln!(f, "entries are missing: {what}")?;
                    writeln!(f, "repair: {repair}")?;
                }
                error => writeln!(f, "{error}")?,
            },
            Verdict::Rot(error) | Verdict::Refused(error) => writeln!(f, "{error}")?,
        }
        if let Some(TornEnd { file, offset, bytes }) = &self.torn {
            writeln!(
                f,
                "first bad byte: {offset} of {file}: the last write was not finished before a crash and nothing \
                 depends on it; the next start cuts off {bytes} bytes"
            )?;
        }
        if let Some(identity) = &self.identity {
            let cluster = identity.cluster_id.map_or("none yet".to_owned(), |id| id.to_string());
            let (name, member) = (&identity.node_id, identity.member_id);
            writeln!(f, "node: {name}, member {member}, cluster {cluster}")?;
        }
        if let Some((name, keys)) = &self.snapshot {
            writeln!(f, "snapshot: {name}, through {}, {keys} keys", name.position())?;
        }
        let Some(log) = &self.log else { return Ok(()) };
        let before = if self.exit_code() == 0 { "" } else { ", before the damage" };
        let vote = log.hard_state.voted_for.map_or("none".to_owned(), |id| format!("for {id}"));
        let LogPlace { sequence, block } = log.synced_mark;
        writeln!(f, "last index: {}{before}", log.last)?;
        writeln!(f, "term: {}, vote {vote}", log.hard_state.term)?;
        writeln!(f, "synced mark: byte {} of segment {sequence}", block * BLOCK_BYTES)
    }
}
