//! What a start leaves on the disk: of a long log only its end comes into memory.

use super::entry::Entry;
use super::message::LogRead;
use super::types::{Index, Position};

/// What recovery keeps of the entries that it leaves on the disk. They are the first ones of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOnDisk {
    /// Index of the last of them; 0 when there are none.
    pub through: Index,
    /// The first entry of each run of entries of one term.
    pub runs: Vec<Position>,
    /// Those that put a membership or a version in force, whole.
    pub changes: Vec<Entry>,
}

impl LeftOnDisk {
    /// What to read so that all of them are read, in order. Each may take several calls.
    pub fn reads(&self, max_bytes: usize) -> impl Iterator<Item = LogRead> {
        self.runs.iter().enumerate().map(move |(n, &from)| {
            let through = self.runs.get(n + 1).map_or(self.through, |next| next.index - 1);
            LogRead { from, through, max_bytes }
        })
    }
}
