//! What a machine keeps when its process dies: the real log on a simulated disk, and beside it the durable state as the
//! rules have it. After every crash the two must agree: what was synced is there, of what was not a prefix may be.
//! `decay.rs` has what goes wrong while nothing crashes.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;

use dkv::node::LogWriter;
use dkv::raft::{
    ClusterId, Entry, HardState, Index, MemberId, Position, Term, WriteBatch, WriteOp, WriteSeq,
};
use dkv::store::simdisk::{Fault, Loss, SimDisk};
use dkv::store::wal::{Recovered, SparePreparer, Wal, WalError, WalIds, WalOptions};

use crate::report::Mark;
use crate::swarm::mix;

/// Term, vote and entries that a crash may not take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
}

impl Image {
    /// The last entry.
    pub fn last(&self) -> Position {
        self.entries.last().map_or(Position::ZERO, Entry::position)
    }

    /// The entry at `index`.
    pub fn get(&self, index: Index) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.checked_sub(1)?).ok()?)
    }

    /// The term at `index`; 0 before the first.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == 0 { Some(0) } else { self.get(index).map(Entry::term) }
    }

    fn take(&mut self, op: &WriteOp) {
        match op {
            WriteOp::HardState(hard_state) => self.hard_state = *hard_state,
            WriteOp::Entries(entries) => {
                let from = entries.first().expect("never empty").index();
                self.entries.truncate(from as usize - 1);
                self.entries.extend(entries.iter().cloned());
            }
            WriteOp::Reset(position) => panic!("no snapshots yet, but a reset to {position}"),
        }
    }

    fn describe(&self) -> String {
        format!("{:?} and a log to {}", self.hard_state, self.last())
    }
}

impl From<Recovered> for Image {
    fn from(recovered: Recovered) -> Image {
        assert_eq!(recovered.base, Position::ZERO, "no snapshots yet");
        Image { hard_state: recovered.hard_state, entries: recovered.entries }
    }
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
    writes: u64,
    /// Reads and writes may fail while the log is recovered.
    pub may_fail: bool,
    /// Only the process died, so far: what it wrote last may be in the page cache alone.
    is_cached: bool,
    /// What it holds is compared with what was synced.
    pub is_watched: bool,
    /// Where a bit has flipped.
    pub(super) rot: Option<String>,
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
    /// A disk that founding has left behind.
    pub fn found(seed: u64, id: MemberId, segment_bytes: u64, found: &Entry) -> MachineDisk {
        let seed = mix(seed ^ mix(id.0));
        let disk = SimDisk::new(seed);
        let ids = WalIds { cluster_id: ClusterId(seed), member_id: id };
        let options = WalOptions { segment_bytes };
        let hard_state = HardState { term: 1, voted_for: None };
        let ops = [WriteOp::HardState(hard_state), WriteOp::Entries(vec![found.clone()])];
        let mut wal = Wal::create(Arc::new(disk.clone()), ids, options).expect("an empty disk takes a log");
        wal.write(&ops).expect("a disk without faults");
        let durable = Image { hard_state, entries: vec![found.clone()] };
        let rng = fastrand::Rng::with_seed(mix(seed));
        MachineDisk {
            disk,
            ids,
            options,
            log: None,
            durable,
            in_flight: Vec::new(),
            writes: 0,
            may_fail: false,
            is_cached: false,
            is_watched: true,
            rot: None,
            rng,
        }
    }

    /// What no crash may take.
    pub fn durable(&self) -> &Image {
        &self.durable
    }

    /// Recovers the log for a new process. Now and then the power fails before that, or the process dies while it
    /// recovers or right behind it, and the next one recovers again.
    pub fn recover(&mut self, marks: &mut Marks) -> Result<&Image, Refusal> {
        if self.is_cached && self.rng.u8(0..4) == 0 {
            self.lose_power();
            marks.push(Mark::PowerLossAfterDeath);
        }
        while self.rng.u8(0..6) == 0 {
            let dies_after = self.rng.u64(1..20);
            self.disk.plan(self.disk.ops() + dies_after, Fault::Die { bytes: self.rng.usize(0..4_096) });
            if let Ok((_, recovered)) = self.open() {
                // It was told what is durable, so from here on it has to be.
                self.accept(recovered.into());
            }
            let loss = self.any_loss();
            self.disk = self.disk.restart(loss);
            marks.push(Mark::CrashInRecovery);
        }
        if self.may_fail && self.rng.u8(0..4) == 0 {
            self.disk.plan(self.disk.ops() + self.rng.u64(1..25), Fault::Eio);
        }
        let (mut wal, recovered) = match self.open() {
            Ok(opened) => opened,
            Err(WalError::Io { source, .. }) if self.may_fail || source.kind() == ErrorKind::StorageFull => {
                self.stop();
                return Err(Refusal::Io);
            }
            Err(WalError::Corrupt { .. }) if self.rot.is_some() => return Err(Refusal::Rot),
            Err(e) => {
                panic!("P1: the log cannot be recovered, but must hold {}: {e}", self.durable.describe())
            }
        };
        self.disk.forget_plans();
        if let Some(rot) = &self.rot {
            panic!("P7: {rot}, and the log was opened all the same");
        }
        if !recovered.warnings.is_empty() {
            marks.push(Mark::TornTailCut);
        }
        self.accept(recovered.into());
        let preparer = wal.take_preparer().expect("it is taken once");
        self.log = Some((wal, preparer));
        self.is_cached = false;
        if self.rng.bool() {
            self.look();
        }
        Ok(&self.durable)
    }

    fn open(&self) -> Result<(Wal, Recovered), WalError> {
        Wal::open(Arc::new(self.disk.clone()), self.ids, self.options)
    }

    /// What recovery reports must be what was synced, and of what was under way a prefix.
    fn accept(&mut self, recovered: Image) {
        if !self.is_watched {
            self.in_flight.clear();
            self.durable = recovered;
            return;
        }
        let mut expected = self.durable.clone();
        let mut under_way = std::mem::take(&mut self.in_flight).into_iter();
        while expected != recovered {
            let Some(op) = under_way.next() else {
                panic!(
                    "P1: {} was durable, recovery found {}",
                    self.durable.describe(),
                    recovered.describe()
                );
            };
            expected.take(&op);
        }
        self.durable = recovered;
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
        let (_, recovered) = Wal::open(Arc::new(disk), self.ids, self.options)
            .unwrap_or_else(|e| panic!("P1: {} is not durable: {e}", self.durable.describe()));
        let recovered = Image::from(recovered);
        assert!(
            recovered == self.durable,
            "P1: {} was acknowledged, durable is {}",
            self.durable.describe(),
            recovered.describe()
        );
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

    /// Whether the last writes have no seal behind them.
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
