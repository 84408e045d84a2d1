//! Judges what clients were told, twice. First against the committed log: a plain sequential map replays it, every answer
//! must be what the map says at its index, and the order of the log must agree with real time. Then, without trusting any
//! index or revision, by the search for a linearization of each key.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use dkv::check;
use dkv::raft::{Entry, EntryKind, Index, Settings};
use dkv::store::{Applied, Command, Condition, KeyRange, Kv, Op, Order, Outcome};
use dkv::vocabulary::{OpKind, TxnAnswer, TxnOp, TxnResult};

use crate::client::Asker;
use crate::report::{Mark, Report};

#[path = "../support/plain_map.rs"]
pub mod plain_map;

use plain_map::{Model, Rules};

/// What a key shows: its value and the revision that wrote it, when it is there.
type Shown = Option<(Vec<u8>, u64)>;

/// What a read saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Through which entry the map it read was applied.
    pub applied: Index,
    pub value: Shown,
}

impl Seen {
    /// Looks a key up.
    pub fn look(kv: &Kv, key: &[u8]) -> Seen {
        let record = kv.get(key, None).expect("the latest revision can be read");
        Seen { applied: kv.applied().index, value: record.map(|r| (r.value.to_vec(), r.mod_revision)) }
    }
}

/// What a list saw: every key from its start on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Through which entry the map it read was applied.
    pub applied: Index,
    pub rows: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
}

impl Listed {
    /// Lists the keys from `start` on.
    pub fn look(kv: &Kv, start: &[u8]) -> Listed {
        let mut rows = BTreeMap::new();
        let range = KeyRange::new(b"", start, b"");
        let rest = kv.scan(kv.revision(), &range, Order::Ascending, None, |r| {
            rows.insert(r.key.to_vec(), (r.value.to_vec(), r.mod_revision));
            ControlFlow::Continue(())
        });
        assert_eq!(rest, Ok(None), "the latest revision can be listed in one go");
        Listed { applied: kv.applied().index, rows }
    }
}

/// What a client was told in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Write(Applied),
    Read(Seen),
    List(Listed),
    NotDone,
    Unknown,
}

/// What became of one attempt to write, as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Done,
    /// In the log, but refused there.
    Refused,
    NotDone,
    Unknown,
}

/// One attempt to write.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub fate: Fate,
}

/// One operation of one client. Times are of the world.
#[derive(Clone, Debug)]
pub struct Record {
    pub client: usize,
    pub op: u32,
    pub call: u64,
    pub ret: u64,
    /// The key; of a list the first one it asks for.
    pub key: Vec<u8>,
    pub is_list: bool,
    /// `None` for a read.
    pub write: Option<Op>,
    pub condition: Option<Condition>,
    pub is_keyed: bool,
    pub told: Told,
}

/// What the committed log did, in the eyes of the plain map.
pub struct Replay {
    pub model: Model,
    /// Which attempt stands at each index, and what came of it.
    outcomes: BTreeMap<Index, (Asker, Outcome, bool)>,
    /// Where each attempt stands.
    places: BTreeMap<Asker, Index>,
    /// Every change of each key, by index.
    cells: BTreeMap<Vec<u8>, Vec<(Index, Shown)>>,
    /// Which operation wrote an older value once more, by the revision that it made.
    rewrites: BTreeMap<u64, Asker>,
}

impl Replay {
    /// Replays the log. Panics when an attempt stands in it twice.
    pub fn new(committed: &[Entry], settings: &Settings) -> Replay {
        let model = Model::new(Rules {
            retention_revisions: settings.retention_revisions,
            retention_bytes: settings.retention_bytes,
            idempotency_window_us: settings.idempotency_window_s * 1_000_000,
            idempotency_rows: settings.idempotency_rows,
            idempotency_bytes: settings.idempotency_bytes,
        });
        let mut replay = Replay {
            model,
            outcomes: BTreeMap::new(),
            places: BTreeMap::new(),
            cells: BTreeMap::new(),
            rewrites: BTreeMap::new(),
        };
        for entry in committed.iter().filter(|entry| entry.kind() == EntryKind::Command) {
            let command = Command::decode(entry.payload()).expect("only commands are proposed");
            if command.actor.is_empty() {
                // A holder of a lease, or a leader: nobody remembers what they were told.
                replay.model.write(entry.cluster_time(), None, &command.op, command.condition);
                continue;
            }
            let asker = parse_asker(&command.actor);
            let earlier = replay.places.insert(asker, entry.index());
            assert!(earlier.is_none(), "attempt {asker} was committed at {earlier:?} and {}", entry.index());
            let before = replay.model.revision();
            let named = command.idempotency.as_ref().map(|i| (&i.key[..], i.request_hash));
            let (outcome, replayed) =
                replay.model.write(entry.cluster_time(), named, &command.op, command.condition);
            assert!(replay.model.revision() <= before + 1, "one command makes one revision at most");
            replay.outcomes.insert(entry.index(), (asker, outcome, replayed));
            if replay.model.revision() > before {
                if rewrites(&command.op) {
                    replay.rewrites.insert(before + 1, asker);
                }
                for key in replay.model.changed_by(before + 1) {
                    let now = replay.model.now().get(&key).map(|row| (row.value.clone(), row.mod_revision));
                    replay.cells.entry(key).or_default().push((entry.index(), now));
                }
            }
        }
        replay
    }

    fn value_at(&self, key: &[u8], index: Index) -> Shown {
        let changes = self.cells.get(key)?;
        let known = changes.partition_point(|(at, _)| *at <= index);
        changes.get(known.checked_sub(1)?)?.1.clone()
    }

    /// Where an operation took effect, or was first decided.
    fn decided_at(&self, record: &Record) -> Option<Index> {
        let from = Asker { client: record.client, op: record.op, attempt: 0 };
        let to = Asker { client: record.client, op: record.op, attempt: u32::MAX };
        let places = self.places.range(from..=to).map(|(_, &index)| index);
        places.filter(|index| self.outcomes[index].1 != Outcome::Overloaded).min()
    }
}

/// Whether an operation writes the value that a key has. The checker has no such operation: to it this is a put, of a
/// value of its own, under the condition that the key is there.
fn rewrites(op: &Op) -> bool {
    let is_put_to_checker = matches!(check::Op::of_write(op, None), check::Op::Put { .. });
    is_put_to_checker && op.kind() != OpKind::Put
}

/// The value that a rewrite writes in the eyes of the checker.
fn rewritten(client: usize, op: u32) -> String {
    format!("rewritten by {client}.{op}")
}

fn parse_asker(actor: &str) -> Asker {
    let mut numbers = actor.split('.').map(|n| n.parse::<u32>().expect("client.operation.attempt"));
    let mut next = || numbers.next().expect("client.operation.attempt");
    Asker { client: next() as usize, op: next(), attempt: next() }
}

/// Checks every answer, and every attempt, against the committed log. Counts what was checked.
pub fn check(replay: &Replay, history: &[Record], attempts: &BTreeMap<Asker, Attempt>, report: &mut Report) {
    check_attempts(replay, attempts, report);
    check_effects(replay, history);
    for record in history {
        check_answer(replay, record);
    }
    check_real_time(replay, history);
    report.counters.checked_operations += history.len() as u64;
}

/// P4: "not done" never takes effect later; "done" is in the log.
fn check_attempts(replay: &Replay, attempts: &BTreeMap<Asker, Attempt>, report: &mut Report) {
    for (asker, attempt) in attempts {
        let place = replay.places.get(asker);
        match (attempt.fate, place) {
            (Fate::NotDone, Some(index)) => {
                panic!("attempt {asker} was answered not done, and is committed at {index}")
            }
            (Fate::Done | Fate::Refused, None) => {
                panic!("P1: attempt {asker} was answered, and is not in the log")
            }
            (Fate::Unknown, Some(_)) => report.mark(Mark::UnknownTookEffect),
            (Fate::Unknown, None) => report.mark(Mark::UnknownNeverTookEffect),
            _ => {}
        }
    }
}

/// P5: a keyed write takes effect at most once, over all of its attempts.
fn check_effects(replay: &Replay, history: &[Record]) {
    let mut effects: BTreeMap<(usize, u32), u32> = BTreeMap::new();
    for (asker, outcome, replayed) in replay.outcomes.values() {
        let changes = match outcome {
            Outcome::Put { .. } | Outcome::Added { .. } | Outcome::Deleted { deleted: 1.., .. } => true,
            Outcome::Txn(answer) => answer.written() != (0, 0),
            _ => false,
        };
        if changes && !replayed {
            *effects.entry((asker.client, asker.op)).or_default() += 1;
        }
    }
    for record in history {
        let effects = effects.get(&(record.client, record.op)).copied().unwrap_or(0);
        assert!(effects <= 1, "P5: took effect {effects} times: {record:?}");
        if record.told == Told::NotDone {
            assert!(effects == 0, "P4: answered not done, and took effect: {record:?}");
        }
    }
}

fn check_answer(replay: &Replay, record: &Record) {
    match &record.told {
        Told::Write(Applied { index, outcome, replayed }) => {
            let Some((asker, expected, was_replayed)) = replay.outcomes.get(index) else {
                panic!("P1: acknowledged at {index}, where no write is committed: {record:?}");
            };
            assert!(
                (asker.client, asker.op) == (record.client, record.op),
                "the answer of {asker} went to another: {record:?}"
            );
            assert!(
                (outcome, replayed) == (expected, was_replayed),
                "the plain map says {expected:?}, replayed {was_replayed}: {record:?}"
            );
        }
        Told::Read(seen) => {
            let expected = replay.value_at(&record.key, seen.applied);
            assert!(seen.value == expected, "the plain map has {expected:?}: {record:?}");
        }
        Told::List(listed) => {
            let keys = replay.cells.range(record.key.clone()..);
            let expected: BTreeMap<_, _> = keys
                .filter_map(|(key, _)| Some((key.clone(), replay.value_at(key, listed.applied)?)))
                .collect();
            assert!(listed.rows == expected, "the plain map has {expected:?}: {record:?}");
        }
        Told::NotDone | Told::Unknown => {}
    }
}

/// P2: nothing stands in the log before something that had ended when it began. A read stands after the write it saw
/// last; reads of one place have no order among themselves.
fn check_real_time(replay: &Replay, history: &[Record]) {
    let mut places: Vec<(Index, bool, &Record)> = Vec::new();
    for record in history {
        match &record.told {
            Told::Read(Seen { applied, .. }) | Told::List(Listed { applied, .. }) => {
                places.push((*applied, true, record));
            }
            _ if record.write.is_some() => {
                places.extend(replay.decided_at(record).map(|index| (index, false, record)));
            }
            _ => {}
        }
    }
    places.sort_by_key(|(index, is_read, _)| (*index, *is_read));
    let mut latest: Option<&Record> = None;
    for group in places.chunk_by(|a, b| a.1 && b.1 && a.0 == b.0) {
        for (index, _, record) in group {
            let ret = if record.told == Told::Unknown { u64::MAX } else { record.ret };
            if let Some(latest) = latest {
                assert!(
                    latest.call <= ret,
                    "P2: stands at {index}, after something that began after it had ended:\n{record:?}\n{latest:?}"
                );
            }
        }
        let last = group.iter().map(|(_, _, record)| *record).max_by_key(|record| record.call);
        latest = latest.into_iter().chain(last).max_by_key(|record| record.call);
    }
}

/// P2 once more, by the checker that users have: it trusts neither the log nor the plain map here, only that the indexes
/// in the answers make sense together, and then not even that. What is unknown stays unknown. A list counts as a read of
/// each of the `keys` it covers.
///
/// Returns whether it was decided: in a few runs so much is unknown that the search does not end.
pub fn check_linearizable(replay: &Replay, history: &[Record], keys: u64) -> bool {
    let event = |record: &Record| event(replay, record);
    let mut events: Vec<check::Event> = Vec::new();
    for record in history {
        match &record.told {
            Told::List(listed) => events.extend(reads_of(record, listed, keys).map(|read| event(&read))),
            _ => events.push(event(record)),
        }
    }
    // Most searches take a few megabytes.
    match check::check(&events, &check::Limits { max_bytes: 256 << 20, ..check::Limits::default() }) {
        Ok(()) => true,
        Err(fault) if fault.is_undecided() => false,
        Err(fault) => panic!("P2: {fault}"),
    }
}

/// A list, key by key.
fn reads_of(record: &Record, listed: &Listed, keys: u64) -> impl Iterator<Item = Record> {
    let all = (0..keys).map(|n| format!("k{n}").into_bytes()).filter(|key| *key >= record.key);
    all.map(|key| {
        let seen = Seen { applied: listed.applied, value: listed.rows.get(&key).cloned() };
        Record { key, told: Told::Read(seen), ..record.clone() }
    })
}

/// What a transaction was told. A read at a revision is not in the history.
fn txn_answer(replay: &Replay, record: &Record, answer: &TxnAnswer) -> check::Answer {
    let Some(Op::Txn { txn }) = &record.write else { panic!("no transaction was asked for: {record:?}") };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the clients' values are text");
    let ops = if answer.succeeded { &txn.then } else { &txn.otherwise };
    let results = ops.iter().zip(&answer.results).filter_map(|(op, result)| {
        Some(match (op, result) {
            (TxnOp::Get { revision: Some(_), .. }, _) => return None,
            (_, TxnResult::Put { .. }) => check::TxnResult::Written,
            (_, TxnResult::Delete { deleted, .. }) => check::TxnResult::Deleted { deleted: *deleted > 0 },
            (_, TxnResult::Get(None)) => check::TxnResult::Absent,
            (_, TxnResult::Get(Some(row))) => {
                let mod_revision = row.mod_revision;
                let by = replay.rewrites.get(&mod_revision);
                let value = row.value.as_deref().expect("a get shows the value");
                let value = by.map_or_else(|| text(value), |by| rewritten(by.client, by.op));
                check::TxnResult::Value { value, mod_revision }
            }
            (_, TxnResult::List { .. } | TxnResult::Txn { .. }) => panic!("no client asks for that: {op:?}"),
        })
    });
    check::Answer::Txn { revision: answer.revision, succeeded: answer.succeeded, results: results.collect() }
}

fn event(replay: &Replay, record: &Record) -> check::Event {
    let text =
        |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the clients' keys and values are text");
    let condition = record.condition;
    let key = text(&record.key);
    let op = match record.write.as_ref().map(|op| check::Op::of_write(op, condition)) {
        None => check::Op::Get { key },
        Some(check::Op::Put { key, condition, .. }) if record.write.as_ref().is_some_and(rewrites) => {
            check::Op::Put { key, value: rewritten(record.client, record.op), condition }
        }
        Some(op) => op,
    };
    let answer = match &record.told {
        // A key cannot be absent and rewritten: nothing comes of it, as the plain map has said.
        _ if condition == Some(Condition::Absent) && record.write.as_ref().is_some_and(rewrites) => {
            check::Answer::NotDone
        }
        Told::Read(Seen { value: Some((value, mod_revision)), .. }) => {
            let by = replay.rewrites.get(mod_revision);
            let value = by.map_or_else(|| text(value), |by| rewritten(by.client, by.op));
            check::Answer::Value { value, mod_revision: *mod_revision }
        }
        Told::Read(Seen { value: None, .. }) => check::Answer::Absent,
        Told::Write(Applied { outcome, .. }) => match *outcome {
            Outcome::Txn(ref answer) => txn_answer(replay, record, answer),
            // What it read is not known any more.
            Outcome::TxnShort { .. } => check::Answer::Unknown,
            Outcome::Put { revision, .. } => check::Answer::Written { revision },
            Outcome::Deleted { revision, deleted } if op.key().is_none() => {
                check::Answer::DeletedRange { revision, deleted }
            }
            Outcome::Deleted { revision, deleted } => {
                check::Answer::Deleted { revision, deleted: deleted == 1 }
            }
            Outcome::Added { revision, value, .. } => check::Answer::Added { revision, value },
            Outcome::NotAnInteger { mod_revision, .. } | Outcome::OutOfRange { mod_revision, .. } => {
                check::Answer::Conflict { mod_revision }
            }
            // Whether it was, the plain map has said.
            Outcome::RangeTooLarge { .. }
            | Outcome::TxnTooLarge { .. }
            | Outcome::KeyNotFound { .. }
            | Outcome::Compacted { .. }
            | Outcome::FutureRevision { .. } => check::Answer::NotDone,
            Outcome::PreconditionFailed { mod_revision, .. } => {
                check::Answer::PreconditionFailed { mod_revision }
            }
            Outcome::LeaseGranted { .. }
            | Outcome::LeaseExists { .. }
            | Outcome::TooManyLeases { .. }
            | Outcome::LeaseNotFound { .. }
            | Outcome::LeasesRenewed { .. }
            | Outcome::LeasesEnded { .. }
            | Outcome::FloorRaised { .. } => {
                unreachable!("clients of a history ask for no leases, and forget nothing: {record:?}")
            }
            Outcome::IdempotencyMismatch | Outcome::Overloaded => {
                panic!("no client was to be told this: {record:?}")
            }
        },
        Told::List(_) => unreachable!("a list is split into reads"),
        Told::NotDone => check::Answer::NotDone,
        Told::Unknown => check::Answer::Unknown,
    };
    let index = match &record.told {
        _ if matches!(answer, check::Answer::NotDone | check::Answer::Unknown) => None,
        Told::Read(seen) => Some(seen.applied),
        // The index of a replayed answer is that of the repetition.
        Told::Write(applied) => (!applied.replayed).then_some(applied.index),
        Told::List(_) | Told::NotDone | Told::Unknown => None,
    };
    let (process, call_ns, return_ns) = (record.client as u64, record.call, record.ret);
    let version = match &record.told {
        _ if answer == check::Answer::NotDone => None,
        Told::Write(Applied {
            outcome:
                Outcome::Put { version, .. }
                | Outcome::Added { version, .. }
                | Outcome::PreconditionFailed { version, .. }
                | Outcome::NotAnInteger { version, .. }
                | Outcome::OutOfRange { version, .. },
            ..
        }) => Some(*version),
        _ => None,
    };
    check::Event { process, call_ns, return_ns, op, answer, index, version }
}
