//! `dkv-server verify`: what a start would find in a data directory, without starting and without a change. It reads
//! with recovery's own code ([`inspect`]), so the two cannot disagree.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::birth::{BirthError, whose_log};
use crate::raft::Position;
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
    /// The snapshot a start would take, its keys, and what is wrong with newer ones.
    snapshot: Option<(SnapshotName, u64, Vec<String>)>,
    log: Option<Inspection>,
    verdict: Verdict,
}

/// The verdict on a data directory.
#[derive(Debug)]
pub enum Verdict {
    /// A start finds everything whole.
    Clean,
    /// The last write was not finished; a start cuts it off and loses nothing that was acknowledged.
    TornTail(TornEnd),
    /// A start refuses: what was synced is damaged or gone.
    Rot(BirthError),
    /// A start refuses or fails for another reason.
    Refused(BirthError),
}

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is nothing of dkv there.
    #[error("{dir}: {what}; name the data_dir of a node")]
    NoDataDir {
        /// The argument.
        dir: String,
        /// What is wrong with it.
        what: String,
    },
    /// A process uses the directory, or its lock file cannot be looked at.
    #[error("{0}")]
    Lock(#[from] crate::store::identity::IdentityError),
}

/// Looks at the data directory at `dir`. Changes nothing; while it looks no server can start there.
///
/// # Errors
/// When `dir` is no data directory or is in use: a bad argument.
pub fn verify(dir: &Path) -> Result<Report, VerifyError> {
    let no_data_dir = |what: String| VerifyError::NoDataDir { dir: dir.display().to_string(), what };
    let disk = RealDisk::open_read_only(dir).map_err(|e| no_data_dir(format!("cannot open it: {e}")))?;
    let _lock = DataDirLock::take_to_look(dir)?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let mut report = Report {
        dir: dir.display().to_string(),
        identity: None,
        snapshot: None,
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

/// Goes through what a start goes through, in the same order.
fn look(disk: &Arc<dyn Disk>, report: &mut Report) -> Result<(), BirthError> {
    let identity = Identity::read(&**disk)?;
    report.identity.clone_from(&identity);
    let chosen = snapshot::choose(disk)?;
    let behind = chosen.as_ref().map_or((Position::ZERO, 0), |c| (c.header.meta.last, c.reach));
    report.snapshot = chosen.map(|chosen| (chosen.name, chosen.header.keys, chosen.warnings));
    let mut inspection = inspect(disk, None, behind);
    let ids = match inspection.end {
        // The first segment may be whole although a later one is not.
        Err(WalError::Missing(_)) => None,
        _ => inspection.ids.map_or_else(|| Wal::identify(disk), |ids| Ok(Some(ids)))?,
    };
    let Some(identity) = identity else {
        return match ids {
            Some(ids) => Err(BirthError::NoIdentity { dir: disk.display(""), ids }),
            None => Ok(()),
        };
    };
    let Some(expected) = whose_log(disk, &identity, ids)? else { return Ok(()) };
    if inspection.ids != Some(expected) {
        inspection = inspect(disk, Some(expected), behind);
    }
    let end = std::mem::replace(&mut inspection.end, Ok(None));
    report.log = Some(inspection);
    if let Some(torn) = end? {
        report.verdict = Verdict::TornTail(torn);
    }
    Ok(())
}

impl Report {
    /// The verdict.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// As a start would end: 0 clean or torn tail, 3 rot, 4 another member's data, 1 what cannot be read.
    pub fn exit_code(&self) -> u8 {
        match &self.verdict {
            Verdict::Clean | Verdict::TornTail(_) => 0,
            Verdict::Rot(error) | Verdict::Refused(error) => error.exit_code(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match &self.verdict {
            Verdict::Clean => "clean",
            Verdict::TornTail(_) => "torn tail",
            Verdict::Rot(_) => "rot",
            Verdict::Refused(_) => "refused",
        };
        writeln!(f, "{}: {word}", self.dir)?;
        match &self.verdict {
            Verdict::Clean => {}
            Verdict::TornTail(TornEnd { file, offset, bytes }) => writeln!(
                f,
                "first bad byte: {offset} of {file}: the last write was not finished before a crash and nothing \
                 depends on it; the next start cuts off {bytes} bytes"
            )?,
            Verdict::Rot(BirthError::Wal(WalError::Corrupt { file, offset, what, repair })) => {
                writeln!(f, "first bad byte: {offset} of {file}: {what}")?;
                writeln!(f, "repair: {repair}")?;
            }
            Verdict::Rot(error) | Verdict::Refused(error) => writeln!(f, "{error}")?,
        }
        if let Some(identity) = &self.identity {
            let cluster = identity.cluster_id.map_or("none yet".to_owned(), |id| id.to_string());
            let (name, member) = (&identity.node_id, identity.member_id);
            writeln!(f, "node: {name}, member {member}, cluster {cluster}")?;
        }
        if let Some((name, keys, warnings)) = &self.snapshot {
            warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))?;
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
