//! All entries of a recovered log: those that came into memory, and those that stayed on the disk.

use std::sync::Arc;

use dkv::raft::Entry;
use dkv::store::disk::Disk;
use dkv::store::wal::{LogReader, Recovered, WalError};

pub fn entries_of(recovered: &Recovered, disk: &Arc<dyn Disk>) -> Vec<Entry> {
    let mut entries = Vec::new();
    let read = LogReader::new(disk.clone()).each(&recovered.left, |entry| {
        entries.push(entry);
        Ok::<_, WalError>(())
    });
    read.unwrap_or_else(|e| panic!("what recovery left on the disk cannot be read: {e}"));
    entries.extend_from_slice(&recovered.entries);
    assert_eq!(entries.last().map_or(recovered.base, Entry::position), recovered.last());
    let changes: Vec<_> =
        entries.iter().filter(|e| e.membership().is_some() || e.version().is_some()).collect();
    let known: Vec<_> =
        recovered.changes().filter(|e| e.membership().is_some() || e.version().is_some()).collect();
    assert_eq!(changes, known);
    entries
}
