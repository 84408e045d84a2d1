//! Snapshot and log together, stopped everywhere: a trace of writes, snapshots, cuts, recycled segments and installed
//! snapshots is stopped at every I/O operation, with everything a power loss can do to what was not synced. Whatever
//! is left must be a snapshot and a log that fit, and hold the exact state after some prefix of what was handed over, at
//! least through the last write that returned.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dkv::check::Parts;
use dkv::raft::{
    ClusterId, Entry, Genesis, HardState, Index, Member, MemberId, Membership, Payload, Position, Settings,
    Term, WriteOp,
};
use dkv::store::disk::Disk;
use dkv::store::simdisk::{Fault, Io, Loss, Moment, SimDisk};
use dkv::store::snapshot::{self, KEPT_SNAPSHOTS, Receiver, SnapshotError, SnapshotReader, SnapshotWriter};
use dkv::store::wal::{SparePreparer, Wal, WalError, WalIds, WalOptions};
use dkv::store::{Command, Idempotency, KeyRange, Kv, request_hash};

mod support {
    pub mod operations;
    pub mod parallel;
    pub mod whole_log;
}

use support::operations::draw_op;
use support::parallel::in_parallel;
use support::whole_log::entries_of;

const IDS: WalIds = WalIds { cluster_id: ClusterId(0xc1), member_id: MemberId(0xa1) };
/// Of what is recovered, most stays on the disk.
const OPTIONS: WalOptions = WalOptions { segment_bytes: 32 << 10, max_memory_bytes: 1_000 };

/// The whole log as the rules have it, from entry 1 on, however much of it is in a snapshot.
#[derive(Clone, Default)]
struct State {
    hard_state: HardState,
    log: Vec<Entry>,
}

/// What a recovered member is compared by: term and vote, the last entry, and the hash of the state in which all
/// entries are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digest {
    hard_state: HardState,
    last: Position,
    state_hash: u128,
}

impl State {
    fn last(&self) -> Position {
        self.log.last().map_or(Position::ZERO, Entry::position)
    }

    fn apply(&mut self, op: &WriteOp) {
        match op {
            WriteOp::HardState(hard_state) => self.hard_state = *hard_state,
            WriteOp::Entries(entries) => {
                self.log.truncate(entries[0].index() as usize - 1);
                self.log.extend(entries.iter().cloned());
            }
            WriteOp::Reset(_) => unreachable!("an installed snapshot is a state of its own"),
        }
    }

    fn kv(&self, through: Index) -> Kv {
        let mut kv = Kv::new(Settings::default());
        for entry in &self.log[..through as usize] {
            kv.apply(entry);
        }
        kv
    }

    fn digest(&self) -> Digest {
        let last = self.last();
        Digest { hard_state: self.hard_state, last, state_hash: self.kv(last.index).state_hash() }
    }
}

enum Step {
    Write(Vec<WriteOp>),
    Seal,
    Prepare(usize),
    /// The state through this index becomes a snapshot, while the ops are written.
    Snapshot(Index, Vec<WriteOp>),
    /// The leader's state, and the hard state in which it is installed.
    Install(State),
}

struct Trace {
    steps: Vec<Step>,
    /// After each op; `states[0]` is before the first.
    states: Vec<State>,
    digests: Vec<Digest>,
}

struct Maker {
    rng: fastrand::Rng,
    state: State,
    steps: Vec<Step>,
    states: Vec<State>,
    /// Nothing up to here is replaced any more.
    commit: Index,
    cluster_time: u64,
}

impl Maker {
    fn payload(&mut self) -> Payload {
        if self.rng.u8(0..20) == 0 {
            let ids: Vec<u64> = (1..6).filter(|_| self.rng.bool()).collect();
            return Payload::Membership(membership(&ids));
        }
        let mut key = || format!("key {}", self.rng.u8(0..9)).into_bytes();
        let (key, range, other) = (key(), KeyRange::between(key(), Some(key())), key());
        let value = match self.rng.bool() {
            true => self.rng.i64(..).to_string().into_bytes(),
            false => vec![self.rng.u8(..); self.rng.usize(0..400)],
        };
        let (amount, shape) = (self.rng.i64(..), self.rng.u64(..));
        let op = draw_op(&mut self.rng, Parts { key, value, range, amount, other, shape });
        let id = self.rng.u16(..);
        let idempotency = self
            .rng
            .bool()
            .then(|| Idempotency { key: format!("request-{id}"), request_hash: request_hash(&op, None) });
        let command = Command { op, condition: None, idempotency, wall_ms: 0, actor: String::new() };
        Payload::Command(command.encode())
    }

    fn entries(&mut self, from: Index, count: u64, term: Term) -> Vec<Entry> {
        (from..from + count)
            .map(|index| {
                self.cluster_time += self.rng.u64(0..2_000_000);
                Entry::new(Position::new(index, term), self.cluster_time, &self.payload())
            })
            .collect()
    }

    fn keep(&mut self, op: WriteOp) -> WriteOp {
        self.state.apply(&op);
        self.states.push(self.state.clone());
        op
    }

    fn append(&mut self, count: u64) -> WriteOp {
        let from = self.state.last().index + 1;
        let entries = self.entries(from, count, self.state.hard_state.term);
        self.keep(WriteOp::Entries(entries))
    }

    fn hard_state(&mut self, term: Term) -> WriteOp {
        let voted_for = Some(MemberId(self.rng.u64(1..)));
        self.keep(WriteOp::HardState(HardState { term, voted_for }))
    }

    /// A new leader replaces what is not committed.
    fn overwrite(&mut self) -> Vec<WriteOp> {
        let term = self.state.hard_state.term + 1;
        let hard_state = self.hard_state(term);
        let last = self.state.last().index;
        let from = last + 1 - self.rng.u64(0..=(last - self.commit).min(6));
        let count = self.rng.u64(1..=3);
        let entries = self.entries(from, count, term);
        vec![hard_state, self.keep(WriteOp::Entries(entries))]
    }

    /// A leader's log parts from this one after the commit index, and this member gets its snapshot.
    fn install(&mut self) {
        let term = self.state.hard_state.term + self.rng.u64(1..3);
        let mut leader = self.state.clone();
        leader.log.truncate(self.commit as usize);
        // Sometimes it ends within this member's log, with other entries there.
        let count = self.rng.u64(1..30);
        leader.log.extend(self.entries(self.commit + 1, count, term));
        leader.hard_state = HardState { term, voted_for: None };
        self.commit = leader.last().index;
        self.state = leader.clone();
        self.states.push(leader.clone());
        self.steps.push(Step::Install(leader));
    }

    fn step(&mut self, n: usize) {
        if n == 0 {
            let hard_state = HardState { term: 1, voted_for: None };
            let first = self.keep(WriteOp::HardState(hard_state));
            let genesis = Genesis {
                protocol: 1,
                cluster_id: IDS.cluster_id,
                settings: settings(),
                members: membership(&[1, 2, 3]),
                restored: None,
            };
            let entry = Entry::new(Position::new(1, 1), 0, &Payload::Genesis(genesis));
            let second = self.keep(WriteOp::Entries(vec![entry]));
            self.commit = 1;
            return self.steps.push(Step::Write(vec![first, second]));
        }
        let step = match self.rng.u8(0..20) {
            0..10 => {
                let count = self.rng.u64(1..=6);
                Step::Write(vec![self.append(count)])
            }
            10..13 => Step::Write(self.overwrite()),
            13 => {
                let term = self.state.hard_state.term + self.rng.u64(0..=1);
                Step::Write(vec![self.hard_state(term)])
            }
            14..18 => {
                self.commit = self.rng.u64(self.commit..=self.state.last().index);
                let count = self.rng.u64(1..=4);
                Step::Snapshot(self.commit, vec![self.append(count)])
            }
            18 => Step::Seal,
            _ => return self.install(),
        };
        self.steps.push(step);
        if n % 40 < 30 {
            self.steps.push(Step::Prepare(self.rng.usize(1..4)));
        }
    }
}

fn settings() -> Settings {
    Settings { retention_revisions: 12, idempotency_window_s: 20, ..Settings::default() }
}

fn membership(ids: &[u64]) -> Membership {
    let member = |&id: &u64| Member {
        node_id: format!("n{id}"),
        member_id: MemberId(id),
        raft_addr: String::new(),
        http_addr: String::new(),
        voter: true,
        promote: false,
    };
    Membership { members: ids.iter().map(member).collect() }
}

fn trace(steps: usize, seed: u64) -> Trace {
    let mut maker = Maker {
        rng: fastrand::Rng::with_seed(seed),
        state: State::default(),
        steps: Vec::new(),
        states: vec![State::default()],
        commit: 0,
        cluster_time: 0,
    };
    (0..steps).for_each(|n| maker.step(n));
    let digests = maker.states.iter().map(State::digest).collect();
    Trace { steps: maker.steps, states: maker.states, digests }
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// How far a run had come when an operation was done: ops that are surely durable, and ops handed over.
#[derive(Clone, Copy, Debug)]
struct Mark {
    ops: u64,
    acked: usize,
    issued: usize,
}

#[derive(Default)]
struct Run {
    marks: Vec<Mark>,
    acked: usize,
    cut_segments: usize,
    reused_segments: u64,
}

impl Run {
    fn mark(&self, op: u64) -> Mark {
        self.marks[self.marks.partition_point(|mark| mark.ops < op) - 1]
    }

    fn issue(&mut self, sim: &SimDisk, count: usize) {
        self.marks.push(Mark { ops: sim.ops(), acked: self.acked, issued: self.acked + count });
    }
}

fn dynamic(sim: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(sim.clone())
}

fn prepare(preparer: &mut SparePreparer, count: usize) -> Result<(), WalError> {
    (0..count).try_for_each(|_| preparer.step().map(|_| ()))
}

/// Does the whole trace.
fn run(sim: &SimDisk, trace: &Trace) -> Result<Run, Failed> {
    let mut run = Run { marks: vec![Mark { ops: 0, acked: 0, issued: 0 }], ..Run::default() };
    let mut wal = Wal::create(dynamic(sim), IDS, OPTIONS)?;
    let mut preparer = wal.take_preparer().expect("the first time");
    let mut receiver = Receiver::new(dynamic(sim));
    let write = |run: &mut Run, wal: &mut Wal, ops: &[WriteOp]| {
        run.issue(sim, ops.len());
        wal.write(ops)?;
        run.acked += ops.len();
        run.issue(sim, 0);
        Ok::<(), Failed>(())
    };
    for step in &trace.steps {
        match step {
            Step::Write(ops) => write(&mut run, &mut wal, ops)?,
            Step::Seal => wal.seal()?,
            Step::Prepare(count) => prepare(&mut preparer, *count)?,
            Step::Snapshot(index, ops) => {
                let mut kv = trace.states[run.acked].kv(*index);
                let mut writer = SnapshotWriter::create(dynamic(sim), kv.pin())?;
                while writer.fill(&kv) {
                    writer.flush()?;
                }
                write(&mut run, &mut wal, ops)?;
                writer.finish()?;
                snapshot::prune(&dynamic(sim), KEPT_SNAPSHOTS)?;
                run.cut_segments += cut(sim, &mut wal)?;
            }
            Step::Install(leader) => {
                let last = leader.last();
                let other = SimDisk::new(1);
                let file = snapshot::write(dynamic(&other), &mut leader.kv(last.index))?;
                let reader = SnapshotReader::open(&dynamic(&other), file.name)?;
                let key = reader.key();
                while !receiver.is_complete(&key) {
                    let at = receiver.expected_offset(&key);
                    receiver.take(&key, at, &reader.read_at(at, 3_000)?)?;
                }
                run.issue(sim, 1);
                let (_, kv) = receiver.finish()?;
                assert_eq!(kv.applied(), last);
                wal.write(&[WriteOp::HardState(leader.hard_state), WriteOp::Reset(last)])?;
                run.acked += 1;
                run.issue(sim, 0);
                snapshot::prune(&dynamic(sim), KEPT_SNAPSHOTS)?;
                run.cut_segments += cut(sim, &mut wal)?;
            }
        }
    }
    run.reused_segments = wal.stats().segments_reused;
    Ok(run)
}

/// Cuts the log after the older of the snapshots that are kept.
fn cut(sim: &SimDisk, wal: &mut Wal) -> Result<usize, Failed> {
    let snapshots = snapshot::list(&dynamic(sim))?;
    Ok(snapshots.get(1).map_or(Ok(0), |older| wal.cut(older.position().index))?)
}

/// Starts from what the disk holds.
fn start(sim: &SimDisk) -> Result<(Wal, Kv, Digest), Failed> {
    let disk = dynamic(sim);
    snapshot::remove_leftovers(&disk)?;
    let chosen = snapshot::choose(&disk)?;
    let (snapshot, reach) = (chosen.last(), chosen.reach);
    let mut kv = chosen.state.map_or_else(|| Kv::new(Settings::default()), |(_, kv)| kv);
    let (wal, recovered) = Wal::open_after(disk.clone(), IDS, OPTIONS, snapshot, reach)?;
    assert_eq!((recovered.base, kv.applied()), (snapshot, snapshot));
    for entry in &entries_of(&recovered, &disk) {
        kv.apply(entry);
    }
    let digest = Digest { hard_state: recovered.hard_state, last: kv.applied(), state_hash: kv.state_hash() };
    Ok((wal, kv, digest))
}

/// Starts after a crash; the answer must be one of the states between what was acknowledged and what was handed over.
/// Returns which.
fn recover(sim: &SimDisk, trace: &Trace, mark: Mark, context: &dyn Fn() -> String) -> Option<usize> {
    match start(sim) {
        Ok((_, _, found)) => {
            let snapshots = snapshot::list(&dynamic(sim)).expect("it just listed them");
            for name in &snapshots {
                snapshot::verify(&dynamic(sim), *name)
                    .unwrap_or_else(|e| panic!("{}: a crash never leaves a damaged one: {e}", context()));
            }
            let found_at = (mark.acked..=mark.issued).find(|&n| trace.digests[n] == found);
            let wanted = trace.digests[mark.acked];
            Some(
                found_at
                    .unwrap_or_else(|| panic!("{}: found {found:?}, wanted at least {wanted:?}", context())),
            )
        }
        Err(Failed::Wal(WalError::Missing(_))) if mark.acked == 0 => None,
        Err(error) => panic!("{}: refused: {error}", context()),
    }
}

/// Starts, again after a power loss that takes everything unsynced, and again after a cut, a clean-up and one more
/// write: never another state.
fn recover_and_go_on(sim: &SimDisk, trace: &Trace, mark: Mark, context: &dyn Fn() -> String) {
    let Some(state) = recover(sim, trace, mark, context) else { return };
    let again = Mark { acked: state, issued: state, ..mark };
    let sim = sim.restart(Loss::Everything);
    recover(&sim, trace, again, &|| format!("{}, recovered again", context()));
    let (mut wal, ..) = start(&sim).expect("it was recovered just now");
    let mut preparer = wal.take_preparer().expect("the first time");
    cut(&sim, &mut wal).expect("no faults");
    while preparer.step().expect("no faults") {}
    let hard_state = HardState { term: trace.states[state].hard_state.term + 1, voted_for: None };
    let at = Position::new(trace.states[state].last().index + 1, hard_state.term);
    let ops = [
        WriteOp::HardState(hard_state),
        WriteOp::Entries(vec![Entry::new(at, u64::MAX / 2, &Payload::Noop)]),
    ];
    wal.write(&ops).expect("no faults");
    drop(wal);
    let (_, _, found) = start(&sim.restart(Loss::Everything)).expect("no faults");
    let mut wanted = trace.states[state].clone();
    ops.iter().for_each(|op| wanted.apply(op));
    assert_eq!(found, wanted.digest(), "{}, went on", context());
}

struct Recorded {
    trace: Trace,
    run: Run,
    moments: Vec<Moment>,
    end: SimDisk,
}

fn record(steps: usize, seed: u64) -> Recorded {
    let trace = trace(steps, seed);
    let sim = SimDisk::new(5);
    let mut done = None;
    let moments = sim.moments(|sim| done = Some(run(&sim, &trace)));
    let run = done.expect("it ran").expect("a disk without faults");
    assert_eq!(run.acked + 1, trace.states.len());
    assert_eq!(start(&sim.fork()).expect("whole").2, *trace.digests.last().unwrap());
    Recorded { trace, run, moments, end: sim }
}

const LOSSES: usize = 7;

fn loss(n: usize, salt: u64) -> Loss {
    match n {
        0 => Loss::Nothing,
        1 => Loss::Everything,
        2 => Loss::KeepsEverything,
        3 => Loss::KeepsLast,
        _ => Loss::Random { seed: salt * 31 + n as u64 },
    }
}

fn brief(io: &Io) -> String {
    match io {
        Io::Write { offset, data } => format!("write of {} bytes at {offset}", data.len()),
        other => format!("{other:?}"),
    }
}

#[test]
fn every_operation_can_be_the_last_and_leaves_a_snapshot_and_a_log_that_fit() {
    let Recorded { trace, run, moments, .. } = record(110, 3);
    let installs = trace.steps.iter().filter(|step| matches!(step, Step::Install(_))).count();
    println!(
        "{} operations, {installs} installs, {} segments cut, {} reused",
        moments.len(),
        run.cut_segments,
        run.reused_segments
    );
    assert!(installs >= 3 && run.cut_segments >= 10 && run.reused_segments >= 4);
    let (crashes, nested) = (AtomicUsize::new(0), AtomicUsize::new(0));
    in_parallel(&moments, |n, moment| {
        let op = n as u64 + 1;
        let mark = run.mark(op);
        // A crash between two reads is the crash before the first.
        if matches!(moment.io, Io::Read | Io::Size | Io::List | Io::Open(_)) {
            return;
        }
        let written = if let Io::Write { data, .. } = &moment.io { data.len() } else { 0 };
        for l in 0..LOSSES {
            let bytes = [0, written, written / 2][l % 3];
            let crashed = || moment.cut(bytes).restart(loss(l, op));
            let context = || format!("operation {op} {}, {:?}", brief(&moment.io), loss(l, op));
            recover_and_go_on(&crashed(), &trace, mark, &context);
            crashes.fetch_add(1, Ordering::Relaxed);
            if l == n % (2 * LOSSES) && mark.acked > 0 {
                nested.fetch_add(stop_recovery(crashed, &trace, mark, &context), Ordering::Relaxed);
            }
        }
    });
    let (crashes, nested) = (crashes.into_inner(), nested.into_inner());
    println!("{crashes} crashes, {nested} crashes during recovery");
    assert!(crashes > 2_000 && nested > 500, "{crashes} {nested}");
}

/// Stops the recovery at each operation that changes the disk, and recovers.
fn stop_recovery(
    crashed: impl Fn() -> SimDisk,
    trace: &Trace,
    mark: Mark,
    context: &dyn Fn() -> String,
) -> usize {
    let sim = crashed();
    let before = sim.ops();
    let moments = sim.moments(|sim| drop(start(&sim).expect("it was recovered already")));
    let mut count = 0;
    for (op, moment) in (before + 1..).zip(&moments) {
        if matches!(moment.io, Io::Read | Io::Size | Io::List | Io::Open(_)) {
            continue;
        }
        for l in [0, 1, 3] {
            let sim = crashed();
            sim.plan(op, Fault::Die { bytes: [0, 700, 4096][l % 3] });
            assert!(start(&sim).is_err());
            let sim = sim.restart(loss(l, op));
            recover_and_go_on(&sim, trace, mark, &|| format!("{}, again at recovery's {op}", context()));
            count += 1;
        }
    }
    count
}

#[test]
fn a_damaged_newest_snapshot_costs_nothing_while_the_log_covers_it() {
    let (mut fell_back, mut refused) = (0, 0);
    for seed in 0..12 {
        let Recorded { trace, end, .. } = record(40, 100 + seed);
        let snapshots = snapshot::list(&dynamic(&end)).unwrap();
        let [newest, older, ..] = snapshots[..] else { continue };
        let end = end.restart(Loss::KeepsEverything);
        end.flip(&newest.to_string(), 40 + seed, 4);
        let chosen = snapshot::choose(&dynamic(&end)).unwrap();
        assert_eq!((chosen.last(), chosen.reach), (older.position(), newest.position().index));
        match start(&end) {
            Ok((_, _, found)) => {
                assert_eq!(found, *trace.digests.last().unwrap(), "seed {seed}");
                fell_back += 1;
            }
            // An installed snapshot has no log before it.
            Err(Failed::Wal(WalError::Gap { .. })) => refused += 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(fell_back >= 3 && refused >= 1, "{fell_back} {refused}");
}
