//! Bit rot: one bit of what a member left on its disk is another one when it starts again.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fastrand::Rng;

/// Bytes of a block, to which the batches of the log are aligned.
const BLOCK_BYTES: u64 = 4_096;

/// Begins every batch, the nonce of its segment after it.
const MAGIC: &[u8; 8] = b"dkvbatch";

/// Of the fields of a batch's header: its bytes without the padding.
const LENGTH_OFFSET: usize = 56;

/// A bit that was turned over, and what may come of it.
pub struct Flip {
    /// The file.
    pub file: PathBuf,
    /// The byte in it.
    pub byte: u64,
    /// What the next start may do.
    pub allows: Allows,
}

impl fmt::Display for Flip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a flip in byte {} of {}, which allows {:?}", self.byte, self.file.display(), self.allows)
    }
}

/// What may come of a flipped bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allows {
    /// Nothing but a refusal: it is proven to have been synced.
    Refusal,
    /// A refusal, or a start that warns of it: there may be an older snapshot.
    RefusalOrWarning,
    /// Both a refusal and a start: nothing was ever written there, or nothing that anybody needs.
    Anything,
}

/// Up to where the log is proven to have been synced: what `dkv-server fsck` calls the synced mark.
#[derive(Clone, Copy, Debug)]
pub struct SyncedMark {
    sequence: u64,
    byte: u64,
}

impl SyncedMark {
    /// From the report of `dkv-server fsck`.
    pub fn parse(report: &str) -> Option<SyncedMark> {
        let line = report.lines().find_map(|line| line.strip_prefix("synced mark: byte "))?;
        let (byte, sequence) = line.split_once(" of segment ")?;
        Some(SyncedMark { sequence: sequence.parse().ok()?, byte: byte.parse().ok()? })
    }
}

/// Turns one bit over in the data directory of a member that does not run. Never one that was written and is not proven
/// to have been synced: nothing tells that from a write that was torn, and forgetting it is right then, though others
/// may have counted on it.
pub fn flip(dir: &Path, mark: SyncedMark, must_be_refused: bool, rng: &mut Rng) -> io::Result<Flip> {
    let mut choices: Vec<(PathBuf, u64, Allows)> = vec![in_file(dir.join("identity"), Allows::Refusal, rng)?];
    let (segments, snapshots) = (files(dir, ".wal")?, files(dir, ".snapshot")?);
    let mut regions = Vec::new();
    for file in &segments {
        let segment = Segment::read(file)?;
        segment.check(mark)?;
        regions.extend(segment.regions(mark));
    }
    for allows in [Allows::Refusal, Allows::Anything] {
        let of_kind: Vec<_> = regions.iter().filter(|region| region.3 == allows).collect();
        if let Some(&&(file, from, to, allows)) = rng.choice(&of_kind) {
            let choice = (file.to_owned(), rng.u64(from..to), allows);
            // The log is most of what there is.
            choices.extend(std::iter::repeat_n(choice, if allows == Allows::Refusal { 3 } else { 1 }));
        }
    }
    if let Some(newest) = snapshots.last() {
        let choice = in_file(newest.clone(), Allows::RefusalOrWarning, rng)?;
        choices.extend([choice.clone(), choice]);
    }
    choices.retain(|(.., allows)| !must_be_refused || *allows == Allows::Refusal);
    let (file, byte, allows) = choices.swap_remove(rng.usize(0..choices.len()));
    turn_over(&file, byte, rng.u8(0..8))?;
    Ok(Flip { file, byte, allows })
}

fn in_file(file: PathBuf, allows: Allows, rng: &mut Rng) -> io::Result<(PathBuf, u64, Allows)> {
    let length = fs::metadata(&file)?.len();
    Ok((file, rng.u64(0..length), allows))
}

/// By name, which is by age.
fn files(dir: &Path, suffix: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(suffix) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn turn_over(path: &Path, byte: u64, bit: u8) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let mut value = [0];
    file.seek(SeekFrom::Start(byte))?;
    file.read_exact(&mut value)?;
    value[0] ^= 1 << bit;
    file.seek(SeekFrom::Start(byte))?;
    file.write_all(&value)?;
    file.sync_all()
}

/// A segment of the log.
struct Segment<'a> {
    file: &'a Path,
    sequence: u64,
    length: u64,
    /// End of its last batch.
    used: u64,
}

/// A part of a file, and what comes of a flip in it.
type Region<'a> = (&'a Path, u64, u64, Allows);

impl<'a> Segment<'a> {
    /// Its batches follow each other from the first byte on. It is read here by the page that says how it is laid out,
    /// not by the code that writes it.
    fn read(file: &'a Path) -> io::Result<Segment<'a>> {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let number = |text: &str| u64::from_str_radix(text, 16).map_err(|_| io::ErrorKind::InvalidData);
        let (sequence, nonce) = stem.split_once('-').ok_or(io::ErrorKind::InvalidData)?;
        let (sequence, nonce) = (number(sequence)?, number(nonce)?);
        let bytes = fs::read(file)?;
        let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let mut used = 0;
        while used + LENGTH_OFFSET + 8 <= bytes.len()
            && bytes[used..].starts_with(MAGIC)
            && field(used + 8) == nonce
        {
            let length = field(used + LENGTH_OFFSET).max(1).next_multiple_of(BLOCK_BYTES);
            used += usize::try_from(length).expect("a length that a member wrote");
        }
        Ok(Segment { file, sequence, length: bytes.len() as u64, used: used as u64 })
    }

    /// What is proven to have been synced was written: else this is not how a segment is laid out.
    fn check(&self, mark: SyncedMark) -> io::Result<()> {
        let least = match self.sequence.cmp(&mark.sequence) {
            std::cmp::Ordering::Less => BLOCK_BYTES,
            std::cmp::Ordering::Equal => mark.byte,
            std::cmp::Ordering::Greater => 0,
        };
        if self.used >= least {
            return Ok(());
        }
        let (file, used) = (self.file.display(), self.used);
        Err(io::Error::other(format!("{file}: batches up to byte {used}, but {least} bytes are synced")))
    }

    fn regions(&self, mark: SyncedMark) -> Vec<Region<'a>> {
        let proven = match self.sequence.cmp(&mark.sequence) {
            std::cmp::Ordering::Less => self.used,
            std::cmp::Ordering::Equal => mark.byte.min(self.used),
            std::cmp::Ordering::Greater => 0,
        };
        let all = [(0, proven, Allows::Refusal), (self.used, self.length, Allows::Anything)];
        let some = all.into_iter().filter(|(from, to, _)| from < to);
        some.map(|(from, to, allows)| (self.file, from, to, allows)).collect()
    }
}
