//! What a machine keeps when its process dies: the real log and snapshots on a simulated disk, and beside them the durable
//! state as the rules have it. After every crash the two must agree: what was synced is there, of what was not a prefix may
//! be. `decay.rs` has what goes wrong while nothing crashes.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;

use dkv::node::data_dir::DataDirError;
use dkv::node::{LogWriter, Stored, Taken};
use dkv::raft::{
    ClusterId, Entry, HardState, Index, InstallSnapshotRequest, MemberId, Position, SnapshotMeta, WriteBatch,
    WriteOp, WriteSeq,
};
use dkv::store::Kv;
use dkv::store::disk::Disk;
use dkv::store::simdisk::{Fault, Loss, SimDisk};
use dkv::store::snapshot::{self, KEPT_SNAPSHOTS, SnapshotError, SnapshotFile, SnapshotName, SnapshotWriter};
use dkv::store::wal::{Recovered, SparePreparer, Wal, WalError, WalIds, WalOptions, WalStats};

use crate::image::{Image, describe, snapshot_of};
use crate::report::Mark;
use crate::swarm::mix;
use crate::whole_log::entries_of;

/// What a process starts with.
pub struct Loaded {
    pub recovered: Recovered,
    /// The snapshot, loaded.
    pub snapshot: Option<(SnapshotMeta, Kv)>,
}

/// What has rotted.
pub struct Rot {
    pub file: String,
    pub what: String,
}

/// The disk of one machine.
pub struct MachineDisk {
    pub(super) disk: SimDisk,
    pub(super) ids: WalIds,
    pub(super) options: WalOptions,
    /// While a process runs.
    log: Option<(Wal, SparePreparer)>,
    durable: Image,
    /// What the last crash found under way: a prefix of it may have survived.
    in_flight: Vec<WriteOp>,
    /// Snapshots that may have their names: whoever gave them was stopped in the middle.
    half_named: Vec<Position>,
    writes: u64,
    /// Reads and writes may fail while the log is recovered.
    pub may_fail: bool,
    /// Only the process died, so far: what it wrote last may be in the page cache alone.
    is_cached: bool,
    /// What it holds is compared with what was synced.
    pub is_watched: bool,
    /// Where a bit has flipped.
    pub(super) rot: Option<Rot>,
    /// A damaged snapshot was set aside just now.
    lost_snapshot: Option<String>,
    pub(super) rng: fastrand::Rng,
}

/// What a crash or a recovery came upon.
pub type Marks = Vec<Mark>;

/// Why a process does not start.
#[derive(Debug)]
pub enum Refusal {
    /// What was synced is damaged: it never will.
    Rot,
    /// The disk failed, or is full.
    Io,
}

impl MachineDisk {
    /// An empty disk.
    pub fn new(seed: u64, id: MemberId, options: WalOptions) -> MachineDisk {
        let seed = mix(seed ^ mix(id.0));
        let disk = SimDisk::new(seed);
        let ids = WalIds { cluster_id: ClusterId(seed), member_id: id };
        let rng = fastrand::Rng::with_seed(mix(seed));
        MachineDisk {
            disk,
            ids,
            options,
            log: None,
            durable: Image::default(),
            in_flight: Vec::new(),
            half_named: Vec::new(),
            lost_snapshot: None,
            writes: 0,
            may_fail: false,
            is_cached: false,
            is_watched: true,
            rot: None,
            rng,
        }
    }

    /// What an initialization leaves behind: the genesis entry.
    pub fn initialize(&mut self, genesis: &Entry) {
        let hard_state = HardState { term: 1, voted_for: None };
        let ops = [WriteOp::HardState(hard_state), WriteOp::Entries(vec![genesis.clone()])];
        self.disk.forget_plans();
        self.free_space();
        let mut wal = Wal::create(self.shared(), self.ids, self.options).expect("an empty disk takes a log");
        wal.write(&ops).expect("a disk without faults");
        self.durable = Image { hard_state, entries: vec![genesis.clone()], ..Image::default() };
    }

    /// What no crash may take.
    pub fn durable(&self) -> &Image {
        &self.durable
    }

    /// Whether something on it has rotted.
    pub fn has_rot(&self) -> bool {
        self.rot.is_some()
    }

    /// The disk, for whoever reads the log, and writes and reads snapshots.
    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.clone())
    }

    /// Recovers log and snapshot for a new process. Now and then the power fails before that, or the process dies while
    /// it recovers or right after it, and the next one recovers again.
    pub fn recover(&mut self, marks: &mut Marks) -> Result<Loaded, Refusal> {
        if self.is_cached && self.rng.u8(0..4) == 0 {
            self.lose_power();
            marks.push(Mark::PowerLossAfterDeath);
        }
        while self.rng.u8(0..6) == 0 {
            let dies_after = self.rng.u64(1..20);
            self.disk.plan(self.disk.ops() + dies_after, Fault::Die { bytes: self.rng.usize(0..4_096) });
            if let Ok((stored, _)) = self.open() {
                // It was told what is durable, so from here on it has to be.
                self.find(&stored, marks);
            }
            let loss = self.any_loss();
            self.disk = self.disk.restart(loss);
            marks.push(Mark::CrashInRecovery);
        }
        if self.may_fail && self.rng.u8(0..4) == 0 {
            self.disk.plan(self.disk.ops() + self.rng.u64(1..25), Fault::Eio);
        }
        let (stored, warnings) = match self.open() {
            Ok(opened) => opened,
            Err(e) if io_error(&e).is_some_and(|kind| self.may_fail || kind == ErrorKind::StorageFull) => {
                self.stop();
                return Err(Refusal::Io);
            }
            Err(e) if is_corrupt(&e) && self.rot.is_some() => {
                self.check_refusal(&e);
                return Err(Refusal::Rot);
            }
            Err(e) => {
                panic!("P1: the log cannot be recovered, but must hold {}: {e}", self.durable.describe())
            }
        };
        self.disk.forget_plans();
        self.find(&stored, marks);
        if warnings.iter().any(|warning| warning.contains("was not finished before the crash")) {
            marks.push(Mark::TornTailCut);
        }
        if warnings.iter().any(|warning| warning.contains("does not lead to the snapshot")) {
            marks.push(Mark::LogBegunAnewAtStart);
        }
        if stored.snapshot.is_some() {
            marks.push(Mark::StartedFromSnapshot);
        }
        let Stored { mut wal, recovered, snapshot, .. } = stored;
        let preparer = wal.take_preparer().expect("it is taken once");
        self.log = Some((wal, preparer));
        self.is_cached = false;
        if self.rng.bool() {
            self.look();
        }
        Ok(Loaded { recovered, snapshot })
    }

    pub(super) fn open(&self) -> Result<(Stored, Vec<String>), DataDirError> {
        Stored::load(self.shared(), self.ids, self.options)
    }

    /// What recovery reports must be what was synced, and of what was under way a prefix.
    fn find(&mut self, stored: &Stored, marks: &mut Marks) {
        self.find_rot(marks);
        let chosen = snapshot_of(stored);
        let copy = self.disk.fork().restart(Loss::Nothing);
        copy.set_capacity(None);
        let copy: Arc<dyn Disk> = Arc::new(copy);
        if !self.is_watched {
            self.in_flight.clear();
            self.half_named.clear();
            let recovered = &stored.recovered;
            self.durable = Image {
                hard_state: recovered.hard_state,
                base: recovered.base,
                entries: entries_of(recovered, &copy),
                snapshot: chosen,
            };
            return;
        }
        let known = self.durable.snapshot;
        let is_newer = chosen.index > known.index && self.half_named.contains(&chosen);
        let is_older = chosen.index < known.index && self.lost_snapshot.take().is_some();
        assert!(
            chosen == known || is_newer || is_older,
            "P1: a snapshot through {known} was durable, recovery found one through {chosen}"
        );
        if is_older {
            marks.push(Mark::FellBackToOlderSnapshot);
        }
        let mut log = self.durable.clone();
        let mut under_way = std::mem::take(&mut self.in_flight).into_iter();
        loop {
            let mut expected = log.clone();
            expected.start_after(chosen);
            if expected.is_found(stored, &copy) {
                self.durable = expected;
                self.half_named.clear();
                return;
            }
            let Some(op) = under_way.next() else {
                panic!("P1: {} was durable, recovery found {}", self.durable.describe(), describe(stored));
            };
            log.take(&op);
        }
    }

    /// A refusal is not called for when only the newest snapshot has rotted, and the log covers what the one before it lacks.
    fn check_refusal(&self, e: &DataDirError) {
        let rot = self.rot.as_ref().expect("something has rotted");
        let Some(rotten) = SnapshotName::parse(&rot.file).filter(|_| self.is_watched) else { return };
        let names = self.disk.names();
        let snapshots = names.iter().filter_map(|name| SnapshotName::parse(name)).map(SnapshotName::position);
        // Until the log is cut it makes the whole state by itself.
        let is_uncut =
            names.iter().any(|name| name.starts_with("0000000000000001-") && name.ends_with(".wal"));
        let stand_ins = snapshots.chain(is_uncut.then_some(Position::ZERO));
        for older in stand_ins.filter(|p| p.index < rotten.position().index) {
            assert!(
                self.durable.log_term_at(older.index) != Some(older.term) || !self.durable.is_joined(),
                "P7: {}, and the snapshot through {older} does not stand in: {e}",
                rot.what
            );
        }
    }

    /// The process was started although something has rotted: only where a snapshot stands in, or what rotted is gone.
    fn find_rot(&mut self, marks: &mut Marks) {
        let Some(rot) = &self.rot else { return };
        let names = self.disk.names();
        if names.contains(&rot.file) {
            panic!("P7: {}, and the log was opened all the same", rot.what);
        }
        if names.contains(&format!("{}.damaged", rot.file)) {
            self.lost_snapshot = Some(rot.file.clone());
        } else {
            marks.push(Mark::RotOutlived);
        }
        self.rot = None;
    }

    /// Writes and syncs; the number of the last write. After an error the process must end.
    pub fn write(&mut self, batch: WriteBatch) -> Result<WriteSeq, WalError> {
        let (wal, _) = self.log.as_mut().expect("a process runs");
        let ops: Vec<WriteOp> = batch.writes.iter().map(|write| write.op.clone()).collect();
        let seq = match LogWriter::step(batch, wal) {
            Ok(seq) => seq,
            Err(e) => {
                self.in_flight = ops;
                return Err(e);
            }
        };
        ops.iter().for_each(|op| self.durable.take(op));
        self.writes += 1;
        // More often would cost more than all the rest: it reads the whole log.
        if self.writes.is_power_of_two() {
            self.look();
        }
        Ok(seq)
    }

    /// Looks at what would be left if the power failed now.
    fn look(&self) {
        if self.rot.is_some() || !self.is_watched {
            return;
        }
        let disk = self.disk.fork().restart(Loss::Everything);
        disk.set_capacity(None);
        let (stored, _) = Stored::load(Arc::new(disk), self.ids, self.options)
            .unwrap_or_else(|e| panic!("P1: {} is not durable: {e}", self.durable.describe()));
        let (chosen, known) = (snapshot_of(&stored), self.durable.snapshot);
        let is_newer = chosen.index > known.index && self.half_named.contains(&chosen);
        let mut expected = self.durable.clone();
        expected.start_after(if is_newer { chosen } else { known });
        assert!(
            expected.is_found(&stored, &stored.disk),
            "P1: {} was acknowledged, durable is {}",
            self.durable.describe(),
            describe(&stored)
        );
    }

    // ---- snapshots -------------------------------------------------------------------------------------------------------

    /// Gives a snapshot its name. After an error it may have it all the same.
    pub fn finish_snapshot(&mut self, writer: SnapshotWriter) -> Result<SnapshotFile, SnapshotError> {
        self.half_named.push(writer.header().meta.last);
        let file = writer.finish()?;
        self.name(file.meta.last);
        Ok(file)
    }

    /// Writes a piece of a leader's snapshot; the last one gives it its name.
    pub fn take_piece(
        &mut self,
        receiver: &mut snapshot::Receiver,
        piece: &InstallSnapshotRequest,
    ) -> Result<Taken, SnapshotError> {
        self.half_named.push(piece.last);
        let taken = Taken::step(receiver, piece)?;
        self.half_named.pop();
        if let Taken::Whole(header, _) = &taken {
            self.name(header.meta.last);
        }
        Ok(taken)
    }

    fn name(&mut self, last: Position) {
        self.half_named.retain(|&half| half != last);
        if last.index > self.durable.snapshot.index {
            self.durable.snapshot = last;
        }
        if self.rng.u8(0..4) == 0 {
            self.look();
        }
    }

    /// Length of the snapshot that ends there.
    pub fn snapshot_bytes(&self, last: Position) -> usize {
        self.disk.contents(&SnapshotName::new(last).to_string()).map_or(0, |bytes| bytes.len())
    }

    /// Removes old snapshots.
    pub fn prune(&self) -> Result<usize, SnapshotError> {
        snapshot::prune(&self.shared(), KEPT_SNAPSHOTS)
    }

    /// Gives up what snapshots hold of the log. Returns how many segments those are. After an error the process must end.
    pub fn cut(&mut self, index: Index) -> Result<usize, WalError> {
        let (wal, _) = self.log.as_mut().expect("a process runs");
        wal.cut(index)
    }

    /// What the log has done since the process was started.
    pub fn stats(&self) -> WalStats {
        self.log.as_ref().map(|(wal, _)| wal.stats()).unwrap_or_default()
    }

    /// The process dies in one of the next operations.
    pub fn die_soon(&mut self) {
        self.disk.plan(self.disk.ops() + self.rng.u64(1..=8), Fault::Die { bytes: self.rng.usize(0..3_000) });
    }

    /// Whether the housekeeper has something to do.
    pub fn spare_is_due(&self) -> bool {
        self.log.as_ref().is_some_and(|(wal, _)| wal.spare_is_due())
    }

    /// One step of the housekeeper. After an error the process must end.
    pub fn prepare_spare(&mut self) -> Result<(), WalError> {
        let (_, preparer) = self.log.as_mut().expect("a process runs");
        preparer.step().map(drop)
    }

    /// Whether the last writes have no seal after them.
    pub fn needs_seal(&self) -> bool {
        self.log.as_ref().is_some_and(|(wal, _)| wal.needs_seal())
    }

    /// Seals the log. After an error the process must end.
    pub fn seal(&mut self) -> Result<(), WalError> {
        let (wal, _) = self.log.as_mut().expect("a process runs");
        wal.seal()
    }

    /// The process ends itself, because the disk has failed it.
    pub fn stop(&mut self) {
        self.log = None;
        self.disk = self.disk.restart(Loss::Nothing);
        self.is_cached = true;
    }

    /// The process dies with `in_flight` in its hands: before it touched the disk, in the middle of it, or after the
    /// sync and before anybody knew. With `power` the machine goes too, and what was not synced is lost, kept or torn.
    pub fn crash(&mut self, in_flight: WriteBatch, power: bool) -> CrashEffect {
        let (mut wal, mut preparer) = self.log.take().expect("a process runs");
        let ops: Vec<WriteOp> = in_flight.writes.iter().map(|write| write.op.clone()).collect();
        let when = self.rng.u8(0..4);
        let mut effect = CrashEffect { writes: ops.len(), is_torn: false, is_synced: false };
        if when == 0 || (when == 1 && preparer.step().is_err()) {
            effect.writes = 0;
        } else {
            if when != 2 {
                let dies_in = self.disk.ops() + self.rng.u64(1..=3);
                self.disk.plan(dies_in, Fault::Die { bytes: self.rng.usize(0..5_000) });
            }
            if ops.is_empty() {
                // An error is the planned death.
                let _ = wal.seal();
            } else if LogWriter::step(in_flight, &mut wal).is_ok() {
                effect.is_synced = true;
                ops.iter().for_each(|op| self.durable.take(op));
            } else {
                effect.is_torn = true;
                self.in_flight = ops;
            }
        }
        self.disk = self.disk.restart(Loss::Nothing);
        self.is_cached = true;
        if power {
            self.lose_power();
        }
        effect
    }

    fn lose_power(&mut self) {
        let loss = self.any_loss();
        self.disk = self.disk.restart(loss);
        self.is_cached = false;
    }

    fn any_loss(&mut self) -> Loss {
        if !self.is_watched {
            // What is left is a good log, only an older one: nobody but the cluster can notice.
            return Loss::Everything;
        }
        match self.rng.u8(0..8) {
            0 => Loss::Nothing,
            1 | 2 => Loss::Everything,
            3 => Loss::KeepsEverything,
            _ => Loss::Random { seed: self.rng.u64(..) },
        }
    }
}

fn io_error(e: &DataDirError) -> Option<ErrorKind> {
    match e {
        DataDirError::Wal(WalError::Io { source, .. })
        | DataDirError::Snapshot(SnapshotError::Io { source, .. }) => Some(source.kind()),
        _ => None,
    }
}

/// What is there is damaged, or not all there.
pub(super) fn is_corrupt(e: &DataDirError) -> bool {
    matches!(
        e,
        DataDirError::Wal(WalError::Corrupt { .. } | WalError::Gap { .. })
            | DataDirError::DamagedSnapshot { .. }
    )
}

/// What a crash did to the writes under way.
pub struct CrashEffect {
    writes: usize,
    is_torn: bool,
    is_synced: bool,
}

impl CrashEffect {
    /// The rare situations it stands for.
    pub fn marks(&self) -> Marks {
        let torn = self.is_torn.then_some(Mark::CrashInWrite);
        torn.into_iter().chain(self.is_synced.then_some(Mark::CrashAfterSync)).collect()
    }
}

impl fmt::Debug for CrashEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_torn, self.is_synced) {
            (true, _) => write!(f, "in the middle of {} writes", self.writes),
            (_, true) => write!(f, "right after the sync of {} writes", self.writes),
            _ => f.write_str("between writes"),
        }
    }
}
