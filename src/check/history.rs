//! What clients did and what they were told: the events of a history, and their form on disk, one JSON object a line.

use std::fmt;
use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};

use super::txn::{Txn, TxnResult};
pub use crate::vocabulary::Condition;
use crate::vocabulary::Op as Write;

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Who; for the report only.
    pub process: u64,
    /// When it was called, in nanoseconds of one monotonic clock that all events share.
    pub call_ns: u64,
    /// When its answer was there; for [`Answer::Unknown`] when its client gave up, which nothing depends on.
    pub return_ns: u64,
    /// What was asked.
    pub op: Op,
    /// What was answered.
    pub answer: Answer,
    /// The log index (`Dkv-Index`) of a write, or of the last entry applied to the state that a read saw. `None` when it
    /// is not known, and for a replayed answer, whose index is that of the repetition. An unknown write with an index
    /// is known, from the log itself, to have taken effect there; that of a transaction says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// The version that the answer names: that of the value read or written, or of the key that a condition found; 0 =
    /// absent. `None` when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// What a client asks. A write that is repeated under one idempotency key is one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// A linearizable read of one key.
    Get {
        /// The key.
        key: String,
    },
    /// A write.
    Put {
        /// The key.
        key: String,
        /// The value; no other put of the key has it.
        value: String,
        /// What must hold for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        condition: Option<Condition>,
    },
    /// A removal.
    Delete {
        /// The key.
        key: String,
        /// What must hold for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        condition: Option<Condition>,
    },
    /// A removal of every key of a range at once: all of it at one moment, or nothing.
    DeleteRange {
        /// The first key that belongs to it. Only the history's own clients write between the two.
        start: String,
        /// The first key after it; None: to the very last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<String>,
    },
    /// An addition to the integer that a key holds; an absent key holds 0.
    Add {
        /// The key.
        key: String,
        /// What is added. No sum of a counter comes twice in a history.
        amount: i64,
        /// What must hold for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        condition: Option<Condition>,
    },
    /// Tests, reads and writes of several keys at one moment.
    Txn(Txn),
    /// A linearizable read of every key with a prefix, in the order of the keys.
    List {
        /// The prefix. Only the history's own clients write below it.
        prefix: String,
    },
}

impl Op {
    /// A write in the words of a history, where keys and values are text.
    pub fn of_write(write: &Write, condition: Option<Condition>) -> Op {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match write {
            Write::Put { key, value, .. } => Op::Put { key: text(key), value: text(value), condition },
            Write::Delete { key } => Op::Delete { key: text(key), condition },
            Write::DeleteRange { range } => {
                Op::DeleteRange { start: text(range.start()), end: range.end().map(text) }
            }
            Write::Add { key, amount } => Op::Add { key: text(key), amount: *amount, condition },
            Write::Txn { txn } => Op::Txn(Txn::of(txn)),
            Write::LeaseGrant { .. }
            | Write::LeaseRenew { .. }
            | Write::LeaseRevoke { .. }
            | Write::LeaseExpire { .. } => unreachable!("no client of a history asks for leases"),
            Write::Compact { .. } => unreachable!("no client of a history forgets it"),
            // The checker has no such operation. To it this is a put of a value that no other put of the key has, under
            // the condition that the key is there. The history gives it such a value.
            #[cfg(feature = "next-protocol")]
            Write::Touch { key } => Op::Put {
                key: text(key),
                value: String::new(),
                condition: condition.or(Some(Condition::Exists)),
            },
        }
    }

    /// The key; `None` for what concerns several.
    pub fn key(&self) -> Option<&str> {
        match self {
            Op::Get { key } | Op::Put { key, .. } | Op::Delete { key, .. } | Op::Add { key, .. } => Some(key),
            Op::DeleteRange { .. } | Op::Txn(_) | Op::List { .. } => None,
        }
    }

    /// The keys that it names one by one.
    pub fn keys(&self) -> Vec<&str> {
        match self {
            Op::Txn(txn) => txn.keys(),
            other => other.key().into_iter().collect(),
        }
    }

    /// Whether it concerns the key.
    pub fn concerns(&self, other: &str) -> bool {
        match self {
            Op::Get { key } | Op::Put { key, .. } | Op::Delete { key, .. } | Op::Add { key, .. } => {
                key == other
            }
            Op::DeleteRange { start, end } => {
                start.as_str() <= other && end.as_deref().is_none_or(|end| other < end)
            }
            Op::Txn(txn) => txn.keys().contains(&other),
            Op::List { prefix } => other.starts_with(prefix.as_str()),
        }
    }

    /// Whether it may change something.
    pub fn is_write(&self) -> bool {
        match self {
            Op::Put { .. } | Op::Delete { .. } | Op::DeleteRange { .. } | Op::Add { .. } => true,
            Op::Txn(txn) => txn.is_write(),
            Op::Get { .. } | Op::List { .. } => false,
        }
    }
}

/// Whether `condition` holds for a key last changed at `mod_revision` (0 = absent), with this version if it is known. What
/// is not known may hold and may not: then the answer is None. The names of conditions are those of
/// all of dkv; what they mean the checker says itself, and so finds a store that means something else.
pub(super) fn holds(condition: Condition, mod_revision: u64, version: Option<u64>) -> Option<bool> {
    Some(match condition {
        Condition::ModRevision(wanted) => mod_revision != 0 && mod_revision == wanted,
        Condition::Exists => mod_revision != 0,
        Condition::Absent => mod_revision == 0,
        Condition::Version(0) => mod_revision == 0,
        Condition::Version(_) if mod_revision == 0 => false,
        Condition::Version(wanted) => version? == wanted,
    })
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// To a get: the value, and the revision that wrote it.
    Value {
        /// The value read. One that no put wrote is a fault of the store.
        value: String,
        /// Its revision.
        mod_revision: u64,
    },
    /// To a get: there is no such key.
    Absent,
    /// To a put: done.
    Written {
        /// The revision it made.
        revision: u64,
    },
    /// To a delete: done.
    Deleted {
        /// The revision it made or, when there was nothing to delete, found.
        revision: u64,
        /// Whether there was something to delete.
        deleted: bool,
    },
    /// To the removal of a range: done.
    DeletedRange {
        /// The revision it made or, when there was nothing to delete, found.
        revision: u64,
        /// How many keys it removed.
        deleted: u64,
    },
    /// To an addition: done.
    Added {
        /// The revision it made.
        revision: u64,
        /// The sum.
        value: i64,
    },
    /// To an addition: the key holds no integer, or the sum does not fit into 64 bits.
    Conflict {
        /// The revision that last changed the key.
        mod_revision: u64,
    },
    /// To a transaction: done.
    Txn {
        /// The revision that it made or, when it changed nothing, found.
        revision: u64,
        /// Whether all tests held.
        succeeded: bool,
        /// One for each operation of the branch that was executed.
        results: Vec<TxnResult>,
    },
    /// To a conditional write: the condition did not hold.
    PreconditionFailed {
        /// The revision that last changed the key; 0 = absent.
        mod_revision: u64,
    },
    /// To a list: every key with the prefix.
    Listed {
        /// The revision of the store that it shows.
        revision: u64,
        /// The keys in their order.
        rows: Vec<Row>,
    },
    /// Surely not done, now or later.
    NotDone,
    /// Nobody knows: it may take effect at any time after its call, or never.
    Unknown,
}

/// A key in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The revision that wrote it.
    pub mod_revision: u64,
}

impl Event {
    /// When it is over: never for a write of unknown outcome.
    pub(super) fn end_ns(&self) -> u64 {
        if self.answer == Answer::Unknown { u64::MAX } else { self.return_ns }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event { process, call_ns, return_ns, op, answer, index, version } = self;
        write!(f, "process {process} [{call_ns}..{return_ns}] {op:?} -> {answer:?}")?;
        version.map_or(Ok(()), |version| write!(f, " as version {version}"))?;
        index.map_or(Ok(()), |index| write!(f, " at index {index}"))
    }
}

/// Writes a history as JSON, one event a line.
///
/// # Errors
/// What `out` says.
pub fn write_history(mut out: impl io::Write, history: &[Event]) -> io::Result<()> {
    for event in history {
        serde_json::to_writer(&mut out, event)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Reads what [`write_history`] wrote.
///
/// # Errors
/// What `input` says, and `InvalidData` with the number of the line that is no event.
pub fn read_history(input: impl BufRead) -> io::Result<Vec<Event>> {
    let mut history = Vec::new();
    for (n, line) in input.lines().enumerate() {
        let event = serde_json::from_str(&line?)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("line {}: {e}", n + 1)))?;
        history.push(event);
    }
    Ok(history)
}
