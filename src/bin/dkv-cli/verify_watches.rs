//! What `dkv-cli verify` watches beside its clients: that a watch which goes on at one node after the other tells every
//! change once, in order and as it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dkv::api::ErrorCode;
use dkv::client::{Client, ClientError, Watch, WatchKeys, WatchOptions, WriteOptions};

/// Keys that are written.
const KEYS: u64 = 3;

/// Writes between two looks, at most.
const WRITES: u64 = 5;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// A key, and what it was put with; None: it was deleted.
type Made = (Vec<u8>, Option<Vec<u8>>);

/// Writes keys below `prefix` and watches them until `until`, each through another one of `nodes`. What was told and is not
/// so, or was not told.
pub fn watch(nodes: &[Arc<Client>], prefix: &str, until: Instant) -> Vec<String> {
    let mut watcher = Watcher {
        nodes,
        prefix: format!("{prefix}watch/"),
        asked: 0,
        written: 0,
        made: BTreeMap::new(),
        doubts: BTreeSet::new(),
        position: None,
        last: 0,
        faults: Vec::new(),
        rng: fastrand::Rng::new(),
    };
    while Instant::now() < until && watcher.faults.is_empty() {
        watcher.write();
        // A cluster that cannot be reached breaks no promise.
        let _ = watcher.look();
        thread::sleep(PAUSE);
    }
    watcher.faults
}

struct Watcher<'a> {
    nodes: &'a [Arc<Client>],
    prefix: String,
    asked: usize,
    written: u64,
    /// What was acknowledged and not told yet, by its revision.
    made: BTreeMap<u64, Made>,
    /// What may have been done.
    doubts: BTreeSet<Made>,
    /// Where the watch goes on.
    position: Option<u64>,
    /// The revision that was told last.
    last: u64,
    faults: Vec<String>,
    rng: fastrand::Rng,
}

impl Watcher<'_> {
    /// The next node.
    fn node(&mut self) -> Arc<Client> {
        self.asked += 1;
        self.nodes[self.asked % self.nodes.len()].clone()
    }

    fn write(&mut self) {
        if self.position.is_none() {
            return;
        }
        for _ in 0..self.rng.u64(1..=WRITES) {
            let node = self.node();
            let key = format!("{}{}", self.prefix, self.rng.u64(0..KEYS)).into_bytes();
            self.written += 1;
            let value = (self.rng.u8(0..4) > 0).then(|| self.written.to_string().into_bytes());
            let options = WriteOptions::default();
            let done = match &value {
                Some(value) => node.put(&key, value, &options).map(|written| Some(written.reply.revision)),
                None => node.delete(&key, &options).map(|written| {
                    // A key that was not there was not changed.
                    (written.reply.deleted > 0).then_some(written.reply.revision)
                }),
            };
            match done {
                Ok(Some(revision)) => drop(self.made.insert(revision, (key, value))),
                Ok(None) => {}
                Err(ClientError::Unknown { .. }) => drop(self.doubts.insert((key, value))),
                Err(_) => return,
            }
        }
    }

    /// Reads what one node tells, from where the last one ended.
    fn look(&mut self) -> Result<(), ClientError> {
        let options = WatchOptions { from: self.position, ..WatchOptions::default() };
        let keys = WatchKeys::Prefix(self.prefix.clone().into_bytes());
        let mut watch = Watch::open(self.node(), keys, options)?;
        loop {
            match watch.next_within(Duration::ZERO) {
                Ok(Some(event)) => {
                    let revision = event.revision;
                    for change in event.changes {
                        self.told(revision, (change.key, change.put.map(|put| put.value)));
                    }
                    self.last = revision;
                }
                Ok(None) => break,
                Err(ClientError::Refused(detail)) if detail.code == ErrorCode::Compacted => {
                    // What was missed was said to be.
                    (self.position, self.last) = (None, 0);
                    self.made.clear();
                    return Ok(());
                }
                Err(error) => {
                    self.position = Some(watch.position());
                    return Err(error);
                }
            }
        }
        let position = watch.position();
        if self.position.is_some_and(|before| position < before) {
            self.faults.push(format!("a watch from {:?} says that it is at {position}", self.position));
        }
        if let Some((revision, made)) = self.made.iter().find(|(revision, _)| **revision < position) {
            self.faults.push(format!(
                "{} of revision {revision} was not told by a watch at {position}",
                shown(made)
            ));
        }
        self.position = Some(position);
        Ok(())
    }

    fn told(&mut self, revision: u64, change: Made) {
        if revision <= self.last {
            let text =
                format!("{} of revision {revision} was told after revision {}", shown(&change), self.last);
            self.faults.push(text);
            return;
        }
        match self.made.remove(&revision) {
            Some(made) if made == change => {}
            Some(made) => {
                let text = format!("{} of revision {revision} was told as {}", shown(&made), shown(&change));
                self.faults.push(text);
            }
            None if self.doubts.remove(&change) => {}
            None => {
                self.faults
                    .push(format!("{} of revision {revision} was told, and nobody did that", shown(&change)));
            }
        }
    }
}

fn shown((key, value): &Made) -> String {
    let key = String::from_utf8_lossy(key);
    match value {
        Some(value) => format!("{key} = {}", String::from_utf8_lossy(value)),
        None => format!("the deletion of {key}"),
    }
}
