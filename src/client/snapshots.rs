//! Fetching a backup: a snapshot that some node makes, in pieces that can be asked for again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use super::cluster::foreign;
use super::exchange::{Answer, Broken, Request};
use super::{Client, ClientError, Kind, Verdict, get, json, judge};
use crate::api::{ErrorCode, INDEX_HEADER, MAX_SNAPSHOT_PIECE, SNAPSHOT_CRC_HEADER, SnapshotReply};

/// A node has this long to make a snapshot, or to say that it is at it; above every server's usual request timeout.
const MAKE_TIMEOUT: Duration = Duration::from_secs(6);

/// A node that says that it is at it has this long, before another one is asked.
const MAKE_PATIENCE: Duration = Duration::from_secs(600);

/// A piece that does not come is asked for so many times before another node is.
const PIECE_ATTEMPTS: u32 = 3;

/// Pause before something is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// Why a backup was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotSaveError {
    /// No node could serve it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It could not be written down.
    #[error("cannot write the backup: {0}")]
    File(io::Error),
}

/// Where a backup goes.
pub trait BackupTarget {
    /// Takes the bytes at `offset`: where the last piece ended, 0 for the first.
    fn write_at(&mut self, offset: u64, piece: &[u8]) -> io::Result<()>;

    /// Forgets what came so far: another snapshot begins, with offset 0. Also called before the first piece.
    fn restart(&mut self) -> io::Result<()>;
}

impl BackupTarget for &File {
    fn write_at(&mut self, offset: u64, piece: &[u8]) -> io::Result<()> {
        self.write_all_at(piece, offset)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.set_len(0)
    }
}

/// What came of one node.
enum Trouble {
    /// Another node, or the same one later.
    Later(String),
    /// The same, and the node has said nothing.
    Silent(String),
    /// The node is at it, and was not ready in time.
    NotYet(String),
    Final(SnapshotSaveError),
}

impl Client {
    /// Writes into `target` a snapshot that holds everything that was acknowledged before this call. Any node will do; what
    /// breaks off goes on where it was, at another node as well when that has the same snapshot. `progress` is told how
    /// many bytes of how many are there. The timeout is for how long nothing comes.
    ///
    /// The caller verifies it: this compares lengths and checksums that nodes tell, not the content.
    ///
    /// # Errors
    /// No node could serve it, or the file could not be written.
    pub fn save_snapshot(
        &self,
        target: &mut dyn BackupTarget,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<SnapshotReply, SnapshotSaveError> {
        let mut deadline = Instant::now() + self.timeout;
        // Asked once: a snapshot that was begun for a request that broke off serves the next one.
        let index =
            self.call_until(deadline, &get("/v1/kv?limit=1&keys_only=true"), Kind::Read, |answer| {
                answer.number(INDEX_HEADER)
            })?;
        let mut have: Option<(SnapshotReply, u64)> = None;
        let mut reason: Option<String> = None;
        loop {
            let nodes = self.known().in_order();
            for addr in nodes {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    let reason = reason
                        .unwrap_or_else(|| "the time was over before a node was asked for it".to_owned());
                    return Err(ClientError::Unavailable(reason).into());
                }
                let made = match self.make_snapshot(&addr, index, left, &mut deadline) {
                    Ok(made) => match self.cluster_id().filter(|kept| *kept != made.cluster_id) {
                        None => made,
                        Some(kept) => {
                            reason = Some(foreign(&addr, &made.cluster_id, &kept));
                            continue;
                        }
                    },
                    // That a node did not answer in the little time that was left says less than what was said before.
                    Err(Trouble::Silent(_)) if left < MAKE_TIMEOUT && reason.is_some() => continue,
                    Err(Trouble::Later(text) | Trouble::Silent(text) | Trouble::NotYet(text)) => {
                        reason = Some(text);
                        continue;
                    }
                    Err(Trouble::Final(error)) => return Err(error),
                };
                let same = |old: &SnapshotReply| (&old.name, &old.crc32c) == (&made.name, &made.crc32c);
                let mut at = have.filter(|(old, _)| same(old)).map_or(0, |(_, at)| at);
                if at == 0 {
                    target.restart().map_err(SnapshotSaveError::File)?;
                }
                match self.fetch(&addr, &made, &mut at, target, &mut deadline, &mut progress) {
                    Ok(()) => return Ok(made),
                    Err(Trouble::Later(text) | Trouble::Silent(text) | Trouble::NotYet(text)) => {
                        reason = Some(text);
                    }
                    Err(Trouble::Final(error)) => return Err(error),
                }
                have = Some((made, at));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Has a node make a snapshot, or finds that it has one. As long as it says that it is at it, that counts as
    /// something that comes: a great state takes longer than a request may.
    fn make_snapshot(
        &self,
        addr: &str,
        index: u64,
        left: Duration,
        deadline: &mut Instant,
    ) -> Result<SnapshotReply, Trouble> {
        let target = format!("/v1/snapshots?min_index={index}");
        let request = Request { method: "POST", target, headers: Vec::new(), body: Some(b"") };
        let give_up_at = Instant::now() + MAKE_PATIENCE;
        loop {
            match self.ask_one(addr, &request, left.min(MAKE_TIMEOUT), json) {
                Err(Trouble::NotYet(_)) if Instant::now() < give_up_at => {
                    *deadline = Instant::now() + self.timeout;
                }
                other => return other,
            }
        }
    }

    fn fetch(
        &self,
        addr: &str,
        made: &SnapshotReply,
        at: &mut u64,
        into: &mut dyn BackupTarget,
        deadline: &mut Instant,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<(), Trouble> {
        let (mut attempts, mut trouble) = (0, None);
        progress(*at, made.bytes);
        while *at < made.bytes {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let text = trouble.unwrap_or_else(|| format!("{addr}: the time was over at byte {at}"));
                return Err(Trouble::Later(text));
            }
            let target = format!("/v1/snapshots/{}?offset={at}&limit={MAX_SNAPSHOT_PIECE}", made.name);
            let read = |answer: &Answer| {
                let is_it =
                    answer.header(SNAPSHOT_CRC_HEADER) == Some(&made.crc32c) && !answer.body.is_empty();
                is_it.then(|| answer.body.clone())
            };
            match self.ask_one(addr, &get(&target), left, read) {
                Ok(piece) => {
                    into.write_at(*at, &piece).map_err(|e| Trouble::Final(SnapshotSaveError::File(e)))?;
                    *at += piece.len() as u64;
                    *deadline = Instant::now() + self.timeout;
                    attempts = 0;
                    progress(*at, made.bytes);
                }
                Err(Trouble::Later(text) | Trouble::Silent(text) | Trouble::NotYet(text))
                    if attempts + 1 < PIECE_ATTEMPTS =>
                {
                    attempts += 1;
                    trouble = Some(text);
                    thread::sleep(PAUSE);
                }
                // Also after a final refusal: the snapshot may have been replaced by now, and is then made again.
                Err(Trouble::Later(text) | Trouble::Silent(text) | Trouble::NotYet(text)) => {
                    return Err(Trouble::Later(text));
                }
                Err(Trouble::Final(error)) => return Err(Trouble::Later(error.to_string())),
            }
        }
        Ok(())
    }

    /// One exchange with one node.
    fn ask_one<T>(
        &self,
        addr: &str,
        request: &Request<'_>,
        patience: Duration,
        read: impl Fn(&Answer) -> Option<T>,
    ) -> Result<T, Trouble> {
        let meant_for = self.cluster_id();
        let answer = match self.exchanger.exchange(addr, request, meant_for.as_deref(), patience) {
            Ok(answer) => answer,
            Err(Broken::Malformed(text)) => return Err(Trouble::Final(ClientError::Invalid(text).into())),
            Err(Broken::NotSent(text) | Broken::Unknown(text)) => {
                self.known().failed(addr);
                return Err(Trouble::Silent(text));
            }
        };
        if let Some(text) = self.pass_over(addr, &answer) {
            return Err(Trouble::Later(text));
        }
        match judge(&answer, Kind::Read, read) {
            Verdict::Done(done) => Ok(done),
            Verdict::Refused(detail) => Err(Trouble::Final(ClientError::Refused(detail).into())),
            Verdict::Later(text) if answer.status == ErrorCode::Timeout.status() => {
                Err(Trouble::NotYet(text))
            }
            Verdict::Later(text)
            | Verdict::Silent(text)
            | Verdict::Malformed(text)
            | Verdict::Unknown(text) => Err(Trouble::Later(text)),
        }
    }
}
