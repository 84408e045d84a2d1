//! The log, cut everywhere: a trace of 200 operations is stopped at every byte of every batch and at every I/O
//! operation, with everything a power loss can do to what was not synced, then recovered, recovered again, and
//! stopped during recovery too. The answer must be the exact prefix of what was handed over, at least through the
//! last write that returned. Afterwards single bytes rot: the answer must be a refusal that names the file, or a
//! warning when the damage is where nothing proves that it was ever synced. Never silence, never a panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dkv::raft::{ClusterId, Entry, HardState, Index, LogRead, MemberId, Payload, Position, Term, WriteOp};
use dkv::store::disk::Disk;
use dkv::store::simdisk::{Fault, Io, Loss, Moment, SimDisk};
use dkv::store::wal::{LogReader, Recovered, SparePreparer, Wal, WalError, WalIds, WalOptions};

mod support {
    pub mod parallel;
    pub mod whole_log;
}

use support::parallel::in_parallel;
use support::whole_log::entries_of;

const IDS: WalIds = WalIds { cluster_id: ClusterId(0xc1), member_id: MemberId(0xa1) };
/// Of what is recovered, most stays on the disk.
const OPTIONS: WalOptions = WalOptions { segment_bytes: 64 << 10, max_memory_bytes: 1_000 };

/// What the log must hold after an op.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    hard_state: HardState,
    base: Position,
    entries: Vec<Entry>,
}

impl State {
    fn of(recovered: &Recovered, sim: &SimDisk) -> State {
        let Recovered { hard_state, base, .. } = *recovered;
        State { hard_state, base, entries: entries_of(recovered, &dynamic(sim)) }
    }

    fn last(&self) -> Position {
        self.entries.last().map_or(self.base, Entry::position)
    }

    fn apply(&mut self, op: &WriteOp) {
        match op {
            WriteOp::HardState(hard_state) => self.hard_state = *hard_state,
            WriteOp::Entries(entries) => {
                let keep = entries[0].index() - self.base.index - 1;
                self.entries.truncate(keep as usize);
                self.entries.extend(entries.iter().cloned());
            }
            WriteOp::Reset(position) => {
                self.entries.clear();
                self.base = *position;
            }
        }
    }

    fn brief(&self) -> String {
        format!("{:?}, {} entries from {} to {}", self.hard_state, self.entries.len(), self.base, self.last())
    }
}

enum Step {
    Write(Vec<WriteOp>),
    Seal,
    /// So many steps of the housekeeper.
    Prepare(usize),
}

/// What is done, and the state after each op; `states[0]` is before the first.
struct Trace {
    steps: Vec<Step>,
    states: Vec<State>,
}

struct Maker {
    rng: fastrand::Rng,
    trace: Trace,
    state: State,
}

impl Maker {
    fn entries(&mut self, from: Index, count: u64, bytes: usize) -> WriteOp {
        let term = self.state.hard_state.term;
        let entry = |i| {
            // Great payloads are mostly zero: a cut within zeroes leaves the same disk as the cut before it.
            let byte = |n: usize| if bytes < 1000 || n.is_multiple_of(37) { self.rng.u8(1..) } else { 0 };
            let payload = Payload::Command((0..bytes).map(byte).collect());
            (Position::new(i, term), payload)
        };
        let made: Vec<_> = (from..from + count).map(entry).collect();
        WriteOp::Entries(made.iter().map(|(at, payload)| Entry::new(*at, at.index * 7, payload)).collect())
    }

    fn hard_state(&mut self, term: Term) -> WriteOp {
        // Never the one that is in force: each op must leave a state of its own.
        let voted_for = Some(MemberId(self.rng.u64(1..)));
        WriteOp::HardState(HardState { term, voted_for })
    }

    fn append(&mut self, count: u64, bytes: usize) -> WriteOp {
        let from = self.state.last().index + 1;
        let op = self.entries(from, count, bytes);
        self.keep(&op);
        op
    }

    fn keep(&mut self, op: &WriteOp) {
        self.state.apply(op);
        self.trace.states.push(self.state.clone());
    }

    fn write(&mut self, ops: Vec<WriteOp>) {
        self.trace.steps.push(Step::Write(ops));
    }

    /// A leader change: a new term, and entries that replace some of the last ones.
    fn overwrite(&mut self) -> Vec<WriteOp> {
        let term = self.state.hard_state.term + 1;
        let hard_state = self.hard_state(term);
        self.keep(&hard_state);
        let floor = self.state.base.index + 1;
        let next = self.state.last().index + 1;
        let from = next - self.rng.u64(0..=4).min(next - floor);
        let count = self.rng.u64(1..=3);
        let entries = self.entries(from, count, 60);
        self.keep(&entries);
        vec![hard_state, entries]
    }

    fn reset(&mut self) -> Vec<WriteOp> {
        let last = self.state.last();
        let reset = WriteOp::Reset(Position::new(last.index + 50, last.term));
        self.keep(&reset);
        vec![reset, self.append(2, 40)]
    }

    fn step(&mut self, n: usize) {
        let bytes = self.rng.usize(0..250);
        let ops = match n {
            0 => {
                let hard_state = WriteOp::HardState(HardState { term: 1, voted_for: None });
                self.keep(&hard_state);
                vec![hard_state, self.append(1, 300)]
            }
            // Greater than a segment; then a queue that takes several batches and segments.
            60 => vec![self.append(1, 70_000)],
            61 => vec![self.append(1, 20_000), self.append(1, 30_000), self.append(2, 25_000)],
            90 => vec![self.append(1, 9_000), self.append(3, 10_000)],
            150 => self.reset(),
            _ => match self.rng.u8(0..20) {
                0..10 => {
                    let count = self.rng.u64(1..=3);
                    vec![self.append(count, bytes)]
                }
                10..13 => self.overwrite(),
                13..15 => {
                    let term = self.state.hard_state.term + self.rng.u64(0..=1);
                    let op = self.hard_state(term);
                    self.keep(&op);
                    vec![op]
                }
                15..17 => (0..self.rng.usize(4..12)).map(|_| self.append(1, 30)).collect(),
                _ => return self.trace.steps.push(Step::Seal),
            },
        };
        self.write(ops);
        // Sometimes the housekeeper does not get round to it.
        if n % 50 < 40 {
            self.trace.steps.push(Step::Prepare(1));
        }
    }
}

impl Maker {
    fn new(seed: u64) -> Maker {
        let trace = Trace { steps: Vec::new(), states: vec![State::default()] };
        Maker { rng: fastrand::Rng::with_seed(seed), trace, state: State::default() }
    }

    /// Several ops in each write, as a log under load has them: the same things on fewer blocks.
    fn dense_step(&mut self, n: usize) {
        let mut ops = match n {
            0 => {
                let hard_state = self.hard_state(1);
                self.keep(&hard_state);
                vec![hard_state, self.append(1, 300)]
            }
            // Greater than a segment.
            12 => vec![self.append(1, 20_000)],
            24 => self.reset(),
            _ => Vec::new(),
        };
        for _ in 0..self.rng.usize(1..9) {
            let bytes = self.rng.usize(0..150);
            match self.rng.u8(0..10) {
                0 => ops.append(&mut self.overwrite()),
                1 => {
                    let op = self.hard_state(self.state.hard_state.term);
                    self.keep(&op);
                    ops.push(op);
                }
                _ => {
                    let count = self.rng.u64(1..=2);
                    ops.push(self.append(count, bytes));
                }
            }
        }
        self.write(ops);
        match n % 5 {
            0 => self.trace.steps.push(Step::Seal),
            1 | 2 => self.trace.steps.push(Step::Prepare(1)),
            _ => {}
        }
    }
}

/// 200 steps, most of them a write with few ops.
fn trace() -> Trace {
    let mut maker = Maker::new(11);
    (0..200).for_each(|n| maker.step(n));
    maker.trace
}

/// 200 ops on few blocks.
fn dense_trace() -> Trace {
    let mut maker = Maker::new(3);
    let mut n = 0;
    while maker.trace.states.len() <= 200 {
        maker.dense_step(n);
        n += 1;
    }
    maker.trace
}

/// How far a run had come when an operation was done: ops that are surely durable, and ops handed over.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Operations of the disk before the call.
    ops: u64,
    acked: usize,
    issued: usize,
}

struct Run {
    marks: Vec<Mark>,
    acked: usize,
    error: Option<WalError>,
}

impl Run {
    /// What held when the operation with this number was done.
    fn mark(&self, op: u64) -> Mark {
        self.marks[self.marks.partition_point(|mark| mark.ops < op) - 1]
    }
}

fn dynamic(sim: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(sim.clone())
}

/// Does the whole trace, or as much as the disk allows.
fn run(sim: &SimDisk, trace: &Trace, options: WalOptions) -> Run {
    let mut run = Run { marks: vec![Mark { ops: 0, acked: 0, issued: 0 }], acked: 0, error: None };
    if let Err(error) = steps(sim, trace, options, &mut run) {
        run.error = Some(error);
    }
    run
}

fn steps(sim: &SimDisk, trace: &Trace, options: WalOptions, run: &mut Run) -> Result<(), WalError> {
    let mut wal = Wal::create(dynamic(sim), IDS, options)?;
    let mut preparer = wal.take_preparer().expect("the first time");
    for step in &trace.steps {
        let issued = run.acked + if let Step::Write(ops) = step { ops.len() } else { 0 };
        run.marks.push(Mark { ops: sim.ops(), acked: run.acked, issued });
        match step {
            Step::Write(ops) => {
                let result = wal.write(ops);
                if result.is_err() {
                    assert!(matches!(wal.write(ops), Err(WalError::Unusable)), "a failed log took a write");
                }
                result?;
                run.acked = issued;
            }
            Step::Seal => wal.seal()?,
            Step::Prepare(count) => prepare(&mut preparer, *count)?,
        }
    }
    Ok(())
}

fn prepare(preparer: &mut SparePreparer, count: usize) -> Result<(), WalError> {
    (0..count).try_for_each(|_| preparer.step().map(|_| ()))
}

fn open(sim: &SimDisk) -> Result<(Wal, Recovered), WalError> {
    Wal::open(dynamic(sim), IDS, OPTIONS)
}

/// Recovers after a crash; the answer must be one of the states between what was acknowledged and what was handed
/// over. Returns which.
fn recover(sim: &SimDisk, trace: &Trace, mark: Mark, context: &dyn Fn() -> String) -> usize {
    match open(sim) {
        Ok((_, recovered)) => {
            let found = State::of(&recovered, sim);
            let legal = mark.acked..=mark.issued;
            legal.clone().find(|&n| trace.states[n] == found).unwrap_or_else(|| {
                let wanted = trace.states[mark.acked].brief();
                panic!("{}: found {}, wanted at least {wanted}", context(), found.brief())
            })
        }
        Err(WalError::Missing(_)) if mark.acked == 0 => {
            // As if nothing had been: a log can be begun.
            let created = Wal::create(dynamic(sim), IDS, OPTIONS);
            assert!(created.is_ok(), "{}: {:?}", context(), created.err());
            0
        }
        Err(error) => panic!("{}: refused: {error}", context()),
    }
}

/// Recovers, then once more after a power loss that takes everything unsynced: the same state.
fn recover_twice(sim: &SimDisk, trace: &Trace, mark: Mark, context: &dyn Fn() -> String) {
    let state = recover(sim, trace, mark, context);
    read_back(sim, &trace.states[state].entries, context);
    if mark.acked == 0 {
        return;
    }
    let again = Mark { acked: state, issued: state, ..mark };
    recover(&sim.restart(Loss::Everything), trace, again, &|| format!("{}, recovered again", context()));
}

/// A reader of the recovered log finds every entry, as the senders look for entries that have left memory.
fn read_back(sim: &SimDisk, entries: &[Entry], context: &dyn Fn() -> String) {
    let mut reader = LogReader::new(dynamic(sim));
    for run in entries.chunk_by(|a, b| a.term() == b.term()) {
        let (mut rest, through) = (run, run[run.len() - 1].index());
        while let Some(first) = rest.first() {
            let wanted = LogRead { from: first.position(), through, max_bytes: 2_000 };
            let read = reader.read(&wanted).unwrap_or_else(|e| panic!("{}: {wanted:?}: {e}", context()));
            let is_right = !read.is_empty() && rest.starts_with(&read);
            assert!(is_right, "{}: {wanted:?} brings {read:?}, not {rest:?}", context());
            rest = &rest[read.len()..];
        }
    }
}

struct Recorded {
    trace: Trace,
    run: Run,
    moments: Vec<Moment>,
    end: SimDisk,
}

fn record() -> Recorded {
    let trace = trace();
    let sim = SimDisk::new(5);
    let mut done = None;
    let moments = sim.moments(|sim| done = Some(run(&sim, &trace, OPTIONS)));
    let run = done.expect("it ran");
    assert!(run.error.is_none(), "{:?}", run.error);
    assert_eq!(run.acked + 1, trace.states.len());
    let segments = sim.names().iter().filter(|name| name.ends_with(".wal")).count();
    let (_, recovered) = open(&sim.fork()).expect("a whole log");
    assert_eq!(State::of(&recovered, &sim), *trace.states.last().unwrap());
    assert!(segments >= 5, "{segments} segments");
    Recorded { trace, run, moments, end: sim }
}

#[test]
fn every_byte_of_every_write_can_be_the_last() {
    let Recorded { trace, run, moments, .. } = record();
    let (cuts, same) = (AtomicUsize::new(0), AtomicUsize::new(0));
    in_parallel(&moments, |n, moment| {
        let Io::Write { data, .. } = &moment.io else { return };
        let op = n as u64 + 1;
        let mark = run.mark(op);
        let used = data.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
        let cut = |bytes: usize| {
            let context = || format!("operation {op} cut at byte {bytes} of {}", data.len());
            let sim = moment.cut(bytes).restart(Loss::KeepsEverything);
            let state = recover(&sim, &trace, mark, &context);
            if mark.acked > 0 {
                let again = Mark { acked: state, issued: state, ..mark };
                recover(&sim.restart(Loss::Everything), &trace, again, &context);
            }
            cuts.fetch_add(1, Ordering::Relaxed);
            state
        };
        let before = cut(0);
        for bytes in 1..=data.len() {
            // Into zeroed space a zero changes nothing: the disk is the one of the cut before.
            if data[bytes - 1] == 0 && bytes < data.len() {
                same.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let state = cut(bytes);
            let torn = bytes < used;
            assert!(!torn || state == before, "operation {op}: {bytes} of {used} bytes count as whole");
            assert!(torn || state > before || used == 0 || mark.acked == mark.issued, "operation {op}: lost");
        }
    });
    let (cuts, same) = (cuts.into_inner(), same.into_inner());
    println!("cut at {} bytes: {cuts} recoveries, {same} more leave an equal disk", cuts + same);
    assert!(cuts > 40_000 && cuts + same > 800_000, "{cuts} cuts, {same} equal ones");
}

const LOSSES: usize = 9;

fn loss(n: usize, salt: u64) -> Loss {
    match n {
        0 => Loss::Nothing,
        1 => Loss::Everything,
        2 => Loss::KeepsEverything,
        3 => Loss::KeepsLast,
        _ => Loss::Random { seed: salt * 31 + n as u64 },
    }
}

#[test]
fn every_operation_can_be_the_last() {
    let Recorded { trace, run, moments, .. } = record();
    let (crashes, nested) = (AtomicUsize::new(0), AtomicUsize::new(0));
    in_parallel(&moments, |n, moment| {
        let op = n as u64 + 1;
        let mark = run.mark(op);
        let written = if let Io::Write { data, .. } = &moment.io { data.len() } else { 0 };
        for l in 0..LOSSES {
            let bytes = [0, written, written / 2][l % 3];
            let crashed = || moment.cut(bytes).restart(loss(l, op));
            let context = || format!("operation {op} {:?}, {:?}", brief(&moment.io), loss(l, op));
            recover_twice(&crashed(), &trace, mark, &context);
            crashes.fetch_add(1, Ordering::Relaxed);
            if l == n % (2 * LOSSES) && mark.acked > 0 {
                nested.fetch_add(stop_recovery(crashed, &trace, mark, &context), Ordering::Relaxed);
            }
        }
    });
    let (crashes, nested) = (crashes.into_inner(), nested.into_inner());
    println!("{} operations, {crashes} crashes, {nested} crashes during recovery", moments.len());
    assert!(moments.len() > 400 && crashes > 2_500 && nested > 5_000, "{crashes} {nested}");
}

/// Stops the recovery at each of its last operations (those before only read), in every way, and recovers.
fn stop_recovery(
    crashed: impl Fn() -> SimDisk,
    trace: &Trace,
    mark: Mark,
    context: &dyn Fn() -> String,
) -> usize {
    let sim = crashed();
    let before = sim.ops();
    open(&sim).expect("it was recovered already");
    let after = sim.ops();
    let mut count = 0;
    for op in after.saturating_sub(7).max(before + 1)..=after {
        for l in [0, 1, 2, 3, 4] {
            let sim = crashed();
            sim.plan(op, Fault::Die { bytes: [0, 700, 4096][l % 3] });
            assert!(open(&sim).is_err());
            let sim = sim.restart(loss(l, op));
            recover_twice(&sim, trace, mark, &|| format!("{}, again at recovery's {op}", context()));
            count += 1;
        }
    }
    count
}

fn brief(io: &Io) -> String {
    match io {
        Io::Write { offset, data } => format!("write of {} bytes at {offset}", data.len()),
        other => format!("{other:?}"),
    }
}

#[test]
fn every_operation_can_fail() {
    let Recorded { trace, moments, .. } = record();
    let failures = AtomicUsize::new(0);
    in_parallel(&moments, |n, moment| {
        let op = n as u64 + 1;
        for fault in [Fault::Eio, Fault::NoSpace] {
            let failed = || {
                let sim = SimDisk::new(5);
                sim.plan(op, fault);
                let run = run(&sim, &trace, OPTIONS);
                assert!(run.error.is_some(), "{fault:?} at {op} {} was not noticed", brief(&moment.io));
                (sim, run.mark(op))
            };
            for l in 0..4 {
                let (sim, mark) = failed();
                let context = || format!("{fault:?} at {op} {}", brief(&moment.io));
                let sim = sim.restart(loss(l, op));
                // After a failed sync the page cache may show what the disk will never have; recovery must not vouch for
                // that, or the second look finds less.
                recover_twice(&sim, &trace, mark, &context);
                failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    println!("{} failures", failures.get());
    assert!(failures.get() > 3_000);
}

trait Get {
    fn get(&self) -> usize;
}

impl Get for AtomicUsize {
    fn get(&self) -> usize {
        self.load(Ordering::Relaxed)
    }
}

/// The last segment, and where its used blocks end.
fn used(sim: &SimDisk) -> (String, u64) {
    let name = sim.names().into_iter().rfind(|name| name.ends_with(".wal")).expect("a segment");
    let last = sim.contents(&name).unwrap().iter().rposition(|&b| b != 0).expect("something in it");
    (name, (last as u64 / 4096 + 1) * 4096)
}

/// Flips one bit at every `stride`th byte of the segments from number `first` on. Every flip must be refused in the file
/// it is in, or be warned of when it lies after `unproven` in the last segment.
fn flip_all(
    end: &SimDisk,
    last_states: &[&State],
    unproven: u64,
    (first, stride): (usize, usize),
) -> (usize, usize) {
    let (refused, torn) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let names: Vec<String> = end.names().into_iter().filter(|name| name.ends_with(".wal")).collect();
    let last = names.last().unwrap();
    let mut places = Vec::new();
    for name in &names[first..] {
        let size = end.contents(name).unwrap().len();
        places.extend((0..size).step_by(stride).map(|at| (name, at as u64)));
    }
    in_parallel(&places, |n, &(name, at)| {
        let sim = end.fork().restart(Loss::KeepsEverything);
        sim.flip(name, at, 1 << (n % 8));
        match open(&sim) {
            Err(WalError::Corrupt { file, offset, .. }) => {
                assert!(file == *name && offset <= at, "flip at {name} {at} found in {file} {offset}");
                refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => panic!("flip at {name} {at}: {error}"),
            Ok((_, recovered)) => {
                assert!(name == last && at >= unproven, "flip at {name} {at} was not refused");
                assert_eq!(recovered.warnings.len(), 1, "flip at {name} {at} was passed over in silence");
                let found = State::of(&recovered, &sim);
                assert!(last_states.contains(&&found), "flip at {name} {at}: {}", found.brief());
                torn.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    (refused.get(), torn.get())
}

/// All files that 200 ops leave, every byte of them.
#[test]
fn every_flipped_byte_is_refused_or_warned_of() {
    let options = WalOptions::new(16 << 10);
    let trace = dense_trace();
    let sim = SimDisk::new(9);
    assert!(run(&sim, &trace, options).error.is_none());
    // A write that nothing seals.
    let (mut wal, recovered) = Wal::open(dynamic(&sim), IDS, options).unwrap();
    let before = State::of(&recovered, &sim);
    assert_eq!(before, *trace.states.last().unwrap());
    let mut after = before.clone();
    let index = before.last().index + 1;
    let position = Position::new(index, before.last().term);
    let op = WriteOp::Entries(vec![Entry::new(position, 0, &Payload::Command(vec![7; 3000]))]);
    after.apply(&op);
    let end_before = used(&sim);
    wal.write([&op]).unwrap();
    let name = used(&sim).0;
    let begin = if name == end_before.0 { end_before.1 } else { 0 };
    let (refused, torn) = flip_all(&sim, &[&before, &after], begin, (0, 1));
    let (ops, segments) =
        (trace.states.len() - 1, sim.names().iter().filter(|n| n.ends_with(".wal")).count());
    println!("{ops} ops, {segments} segments, unsealed: {refused} flips refused, {torn} warned of");
    assert!(ops >= 200 && segments >= 5 && refused > 150_000 && torn > 4_000, "{refused} {torn}");
    // The same with a seal after it: only the seal itself and the unused rest are left unproven.
    wal.seal().unwrap();
    let (refused, torn) = flip_all(&sim, &[&after], used(&sim).1 - 4096, (segments - 2, 1));
    println!("sealed: {refused} flips refused, {torn} warned of");
    assert!(refused > 15_000 && torn > 3_000, "{refused} {torn}");
}

#[test]
fn flipped_bytes_of_the_long_log_are_refused_or_warned_of() {
    let Recorded { trace, end, .. } = record();
    open(&end).unwrap();
    let seal = used(&end).1 - 4096;
    let (refused, torn) = flip_all(&end, &[trace.states.last().unwrap()], seal, (0, 101));
    println!("long log: {refused} flips refused, {torn} warned of");
    assert!(refused > 5_000, "{refused}");
}
