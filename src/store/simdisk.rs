//! The test disk: a [`Disk`] in memory that simulates crashes, lost writes and false syncs, reproducibly.
//!
//! Every file has two images. The *live* image is what a read sees: it takes a write immediately and survives the end
//! of the process (it is the page cache). The *durable* image is what remains after a power loss: it has the writes
//! that were synced. For every other write a seeded generator decides: it is lost, kept, torn at any byte, kept in
//! some of its 512-byte sectors or with one sector zeroed, in any order. The directory has two images as well; only
//! [`Disk::sync_dir`] makes names durable, and syncing a file does not make its name durable.
//!
//! It is part of the crate, not of its tests, because the simulator of whole clusters also uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile};

const SECTOR_BYTES: usize = 512;

type Inode = u64;

/// What a planned operation does instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with EIO. After a failed sync, the data counts as clean and will never become durable, although reads
    /// still see it: Linux does the same.
    Eio,
    /// It fails with ENOSPC and does nothing.
    NoSpace,
    /// The process ends in it. A write has reached the page cache with its first `bytes` bytes, any other operation
    /// not at all. This and every later operation of this life fails.
    Die {
        /// Bytes of the write that are done.
        bytes: usize,
    },
}

/// What happens to unsynced data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The process died, the machine did not: everything written is still visible, and still not durable.
    Nothing,
    /// Power loss that loses everything unsynced.
    Everything,
    /// Power loss just after the kernel wrote everything back.
    KeepsEverything,
    /// Power loss that keeps, in each file and in the directory, only what was done last.
    KeepsLast,
    /// Power loss in which each unsynced operation is lost, kept, torn or has a sector zeroed, in any order.
    Random {
        /// The seed of these decisions.
        seed: u64,
    },
}

/// One operation, as [`SimDisk::moments`] reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Io {
    /// [`Disk::list`].
    List,
    /// [`Disk::create`] of this name.
    Create(String),
    /// [`Disk::open`] of this name.
    Open(String),
    /// [`Disk::rename`], from and to.
    Rename(String, String),
    /// [`Disk::remove`] of this name.
    Remove(String),
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`DiskFile::size`].
    Size,
    /// [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::write_at`].
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: Arc<[u8]>,
    },
    /// [`DiskFile::allocate`] to this size.
    Allocate(u64),
    /// [`DiskFile::sync`].
    Sync,
    /// [`DiskFile::forget_cache`].
    ForgetCache,
}

/// The whole disk just before one operation.
pub struct Moment {
    /// The operation that follows.
    pub io: Io,
    inode: Inode,
    before: State,
}

impl Moment {
    /// The disk as it is when the process dies in this operation: a write with its first `bytes` bytes done, any
    /// other operation not at all. To be [restarted](SimDisk::restart).
    pub fn cut(&self, bytes: usize) -> SimDisk {
        let mut state = self.before.clone();
        if let Io::Write { offset, data } = &self.io {
            let data = data[..bytes.min(data.len())].into();
            state.write(self.inode, Change::Write { offset: *offset, data });
        }
        SimDisk::of(state.life, state)
    }
}

#[derive(Clone)]
enum Change {
    Write { offset: u64, data: Arc<[u8]> },
    Grow(u64),
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Change::Write { offset, data } => put(image, *offset as usize, data),
            Change::Grow(size) => image.resize(image.len().max(*size as usize), 0),
        }
    }

    fn end(&self) -> u64 {
        match self {
            Change::Write { offset, data } => offset + data.len() as u64,
            Change::Grow(size) => *size,
        }
    }
}

fn put(image: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if !data.is_empty() {
        image.resize(image.len().max(offset + data.len()), 0);
        image[offset..offset + data.len()].copy_from_slice(data);
    }
}

#[derive(Clone, Default)]
struct Node {
    live: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    pending: Vec<Change>,
}

/// An atomic change of the directory: what each name stands for afterwards.
type Names = Vec<(String, Option<Inode>)>;

#[derive(Clone)]
struct State {
    /// Counts processes; handles of an earlier one are dead.
    life: u64,
    dead: bool,
    nodes: BTreeMap<Inode, Node>,
    next_inode: Inode,
    live_names: BTreeMap<String, Inode>,
    durable_names: BTreeMap<String, Inode>,
    pending_names: Vec<Names>,
    ops: u64,
    faults: BTreeMap<u64, Fault>,
    capacity: Option<u64>,
    /// Syncs report success and do nothing.
    lies: bool,
    nonces: fastrand::Rng,
}

/// A simulated disk. Clones are handles of the same disk and the same process. Thread-safe; deterministic as long as
/// one thread uses it at a time.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    life: u64,
    /// Set in the handles that [`SimDisk::moments`] hands out.
    recorder: Option<Arc<Mutex<Vec<Moment>>>>,
}

impl SimDisk {
    /// An empty disk. `seed` decides the nonces.
    pub fn new(seed: u64) -> SimDisk {
        let state = State {
            life: 0,
            dead: false,
            nodes: BTreeMap::new(),
            next_inode: 1,
            live_names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            ops: 0,
            faults: BTreeMap::new(),
            capacity: None,
            lies: false,
            nonces: fastrand::Rng::with_seed(seed),
        };
        SimDisk::of(0, state)
    }

    /// An independent copy of the disk as it is now, with its plans.
    pub fn fork(&self) -> SimDisk {
        SimDisk::of(self.life, self.lock().clone())
    }

    /// Ends the process, if it still lives, and begins the next one: `loss` says what the disk forgets in between.
    /// Every handle but the returned one is dead from then on; planned faults are dropped.
    pub fn restart(&self, loss: Loss) -> SimDisk {
        let mut state = self.lock();
        state.life += 1;
        state.dead = false;
        state.faults.clear();
        state.lose(loss);
        SimDisk { state: Arc::clone(&self.state), life: state.life, recorder: None }
    }

    /// Operations since the disk was made, failed ones included. The next one has this number plus one.
    pub fn ops(&self) -> u64 {
        self.lock().ops
    }

    /// Plans a fault for the operation with this number (see [`SimDisk::ops`]).
    pub fn plan(&self, op: u64, fault: Fault) {
        self.lock().faults.insert(op, fault);
    }

    /// Lets writes that would take the files beyond `bytes` in total fail with ENOSPC; `None` = no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Drops the planned faults that have not happened yet.
    pub fn forget_plans(&self) {
        self.lock().faults.clear();
    }

    /// Bytes of all files together: what [`SimDisk::set_capacity`] is compared with.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// From now on every sync of a file or of the directory says that it is done and does nothing: a disk, or a program,
    /// that must not be trusted. For control runs, which have to notice.
    pub fn lie_about_syncs(&self) {
        self.lock().lies = true;
    }

    /// Flips the bits of `mask` in one byte of a file, in both images: bit rot. Panics when there is no such byte.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) {
        let mut state = self.lock();
        let inode = state.live_names[name];
        let node = state.nodes.get_mut(&inode).expect("a named file");
        Arc::make_mut(&mut node.live)[offset as usize] ^= mask;
        if let Some(byte) = Arc::make_mut(&mut node.durable).get_mut(offset as usize) {
            *byte ^= mask;
        }
    }

    /// What a read of the whole file sees; `None` when there is no such file. Not an operation: it is not counted.
    pub fn contents(&self, name: &str) -> Option<Arc<Vec<u8>>> {
        let state = self.lock();
        state.live_names.get(name).map(|inode| Arc::clone(&state.nodes[inode].live))
    }

    /// The names a listing sees. Not an operation: it is not counted.
    pub fn names(&self) -> Vec<String> {
        self.lock().live_names.keys().cloned().collect()
    }

    /// Runs `work` on this disk and returns the state of the disk before each of its operations.
    pub fn moments(&self, work: impl FnOnce(SimDisk)) -> Vec<Moment> {
        let recorder = Arc::new(Mutex::new(Vec::new()));
        work(SimDisk { recorder: Some(Arc::clone(&recorder)), ..self.clone() });
        std::mem::take(&mut *recorder.lock().expect("pushing does not panic"))
    }

    fn of(life: u64, state: State) -> SimDisk {
        SimDisk { state: Arc::new(Mutex::new(state)), life, recorder: None }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the simulated disk's lock is poisoned: an earlier panic")
    }

    /// Counts the operation and lets it fail if that was planned; otherwise hands the state over for the work.
    fn begin(&self, io: impl FnOnce() -> Io, inode: Inode) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if state.life != self.life || state.dead {
            return Err(io::Error::other("the process is dead"));
        }
        state.ops += 1;
        let op = state.ops;
        let fault = state.faults.remove(&op);
        if fault.is_none() && self.recorder.is_none() {
            return Ok(state);
        }
        let io = io();
        match fault {
            Some(Fault::Eio) => {
                if io == Io::Sync {
                    state.node(inode).pending.clear();
                }
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
            }
            Some(Fault::NoSpace) => return Err(no_space()),
            Some(Fault::Die { bytes }) => {
                if let Io::Write { offset, data } = &io {
                    let data = data[..bytes.min(data.len())].into();
                    state.write(inode, Change::Write { offset: *offset, data });
                }
                state.dead = true;
                return Err(io::Error::other("the process died in this operation"));
            }
            None => {}
        }
        if let Some(recorder) = &self.recorder {
            recorder.lock().expect("pushing does not panic").push(Moment {
                io,
                inode,
                before: state.clone(),
            });
        }
        Ok(state)
    }
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())
}

impl State {
    fn node(&mut self, inode: Inode) -> &mut Node {
        self.nodes.get_mut(&inode).expect("an open file has a node")
    }

    fn write(&mut self, inode: Inode, change: Change) {
        let node = self.node(inode);
        change.apply(Arc::make_mut(&mut node.live));
        node.pending.push(change);
    }

    fn used(&self) -> u64 {
        self.live_names.values().map(|inode| self.nodes[inode].live.len() as u64).sum()
    }

    fn check_capacity(&mut self, inode: Inode, change: &Change) -> io::Result<()> {
        let Some(capacity) = self.capacity else { return Ok(()) };
        let used = self.used();
        let grows = change.end().saturating_sub(self.node(inode).live.len() as u64);
        if grows > 0 && used + grows > capacity { Err(no_space()) } else { Ok(()) }
    }

    fn set_names(&mut self, names: Names) {
        apply_names(&mut self.live_names, &names);
        self.pending_names.push(names);
    }

    fn lose(&mut self, loss: Loss) {
        if loss == Loss::Nothing {
            return;
        }
        let mut rng = match loss {
            Loss::Random { seed } => Some(fastrand::Rng::with_seed(seed)),
            _ => None,
        };
        let mut names = std::mem::take(&mut self.pending_names);
        choose(&mut names, loss, rng.as_mut());
        names.iter().for_each(|change| apply_names(&mut self.durable_names, change));
        self.live_names = self.durable_names.clone();
        let named: BTreeSet<Inode> = self.live_names.values().copied().collect();
        self.nodes.retain(|inode, _| named.contains(inode));
        for node in self.nodes.values_mut() {
            let mut changes = std::mem::take(&mut node.pending);
            choose(&mut changes, loss, rng.as_mut());
            for change in &changes {
                let image = Arc::make_mut(&mut node.durable);
                match rng.as_mut() {
                    Some(rng) => apply_damaged(change, image, rng),
                    None => change.apply(image),
                }
            }
            node.live = Arc::clone(&node.durable);
        }
    }
}

fn apply_names(directory: &mut BTreeMap<String, Inode>, names: &Names) {
    for (name, inode) in names {
        match inode {
            Some(inode) => directory.insert(name.clone(), *inode),
            None => directory.remove(name),
        };
    }
}

/// Keeps the changes that survive, in the order in which they reached the disk.
fn choose<T>(changes: &mut Vec<T>, loss: Loss, rng: Option<&mut fastrand::Rng>) {
    match (loss, rng) {
        (Loss::Everything, _) => changes.clear(),
        (Loss::KeepsLast, _) => drop(changes.drain(..changes.len().saturating_sub(1))),
        (_, Some(rng)) => {
            rng.shuffle(changes);
            changes.retain(|_| rng.u8(0..3) > 0);
        }
        _ => {}
    }
}

/// A change that survives, whole or not.
fn apply_damaged(change: &Change, image: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    let Change::Write { offset, data } = change else { return change.apply(image) };
    let offset = *offset as usize;
    match rng.u8(0..5) {
        0 | 1 => put(image, offset, data),
        2 => put(image, offset, &data[..rng.usize(0..=data.len())]),
        3 => {
            for (n, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                if rng.bool() {
                    put(image, offset + n * SECTOR_BYTES, sector);
                }
            }
        }
        _ => {
            put(image, offset, data);
            let sector = rng.usize(0..=data.len() / SECTOR_BYTES) * SECTOR_BYTES;
            let end = data.len().min(sector + SECTOR_BYTES);
            // A write that was stopped before its first byte has not grown the file.
            if sector < end {
                image[offset + sector..offset + end].fill(0);
            }
        }
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.begin(|| Io::List, 0)?.live_names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.begin(|| Io::Create(name.to_owned()), 0)?;
        let inode = state.next_inode;
        state.next_inode += 1;
        state.nodes.insert(inode, Node::default());
        state.set_names(vec![(name.to_owned(), Some(inode))]);
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let state = self.begin(|| Io::Open(name.to_owned()), 0)?;
        let inode = *state.live_names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.begin(|| Io::Rename(from.to_owned(), to.to_owned()), 0)?;
        let inode = *state.live_names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.set_names(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.begin(|| Io::Remove(name.to_owned()), 0)?;
        if !state.live_names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.set_names(vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.begin(|| Io::SyncDir, 0)?;
        if state.lies {
            return Ok(());
        }
        let pending = std::mem::take(&mut state.pending_names);
        pending.iter().for_each(|names| apply_names(&mut state.durable_names, names));
        Ok(())
    }

    fn nonce(&self) -> io::Result<u64> {
        Ok(self.lock().nonces.u64(..))
    }

    fn display(&self, name: &str) -> String {
        name.to_owned()
    }
}

struct SimFile {
    disk: SimDisk,
    inode: Inode,
}

impl SimFile {
    fn change(&self, io: impl FnOnce() -> Io, change: impl FnOnce() -> Change) -> io::Result<()> {
        let mut state = self.disk.begin(io, self.inode)?;
        let change = change();
        state.check_capacity(self.inode, &change)?;
        state.write(self.inode, change);
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.begin(|| Io::Size, self.inode)?.node(self.inode).live.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.begin(|| Io::Read, self.inode)?;
        let live = &state.node(self.inode).live;
        let start = offset as usize;
        let source = live.get(start..start + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(source);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(
            || Io::Write { offset, data: data.into() },
            || Change::Write { offset, data: data.into() },
        )
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        self.change(|| Io::Allocate(size), || Change::Grow(size))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.begin(|| Io::Sync, self.inode)?;
        if state.lies {
            return Ok(());
        }
        let node = state.node(self.inode);
        let pending = std::mem::take(&mut node.pending);
        if !pending.is_empty() {
            let image = Arc::make_mut(&mut node.durable);
            pending.iter().for_each(|change| change.apply(image));
        }
        Ok(())
    }

    fn forget_cache(&self) -> io::Result<()> {
        let mut state = self.disk.begin(|| Io::ForgetCache, self.inode)?;
        let node = state.node(self.inode);
        let mut image = node.durable.to_vec();
        node.pending.iter().for_each(|change| change.apply(&mut image));
        // A sync that failed may have lost the length as well; the log's files have theirs before they have a name.
        image.resize(image.len().max(node.live.len()), 0);
        node.live = Arc::new(image);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
