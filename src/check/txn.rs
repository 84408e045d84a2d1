//! Transactions in a history: what they ask and what they are told.
//!
//! A history has transactions of single keys, without nesting, and without reads of old revisions.

use serde::{Deserialize, Serialize};

use crate::vocabulary::{self, Keys, Operator, Target};

/// Tests, and the operations of two branches, one of which is executed as one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Txn {
    /// All must hold of the state before, for `then` to be executed and not `otherwise`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<Test>,
    /// What is done when all tests hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub then: Vec<TxnOp>,
    /// What is done otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub otherwise: Vec<TxnOp>,
}

/// What must hold of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Test {
    /// The key.
    pub key: String,
    /// What.
    pub holds: Holds,
}

/// What may hold of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Holds {
    /// It exists.
    Exists,
    /// It does not.
    Absent,
    /// It was last changed at this revision; 0: it does not exist.
    ModRevision(u64),
    /// It exists and has this value.
    Value(String),
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TxnOp {
    /// A read.
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
    },
    /// A removal.
    Delete {
        /// The key.
        key: String,
    },
}

/// What one operation of a transaction is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TxnResult {
    /// To a get: the value, and the revision that wrote it.
    Value {
        /// The value.
        value: String,
        /// Its revision.
        mod_revision: u64,
    },
    /// To a get: there is no such key.
    Absent,
    /// To a put: done.
    Written,
    /// To a delete: done.
    Deleted {
        /// Whether there was something to delete.
        deleted: bool,
    },
}

impl TxnResult {
    /// Whether something was changed.
    pub(super) fn is_change(&self) -> bool {
        matches!(self, TxnResult::Written | TxnResult::Deleted { deleted: true })
    }
}

impl TxnOp {
    pub(super) fn key(&self) -> &str {
        match self {
            TxnOp::Get { key } | TxnOp::Put { key, .. } | TxnOp::Delete { key } => key,
        }
    }

    fn is_write(&self) -> bool {
        !matches!(self, TxnOp::Get { .. })
    }
}

impl Txn {
    /// A transaction in the words of a history. Reads at a revision are left out: they say nothing of the present state.
    ///
    /// Panics at what a history does not have.
    pub(super) fn of(txn: &vocabulary::Txn) -> Txn {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let test = |compare: &vocabulary::Compare| {
            let Keys::One(key) = &compare.keys else { unreachable!("no history compares a range") };
            let holds = match (&compare.target, compare.operator) {
                (Target::Version(0), Operator::Greater) => Holds::Exists,
                (Target::Version(0), Operator::Equal) => Holds::Absent,
                (Target::ModRevision(revision), Operator::Equal) => Holds::ModRevision(*revision),
                (Target::Value(value), Operator::Equal) => Holds::Value(text(value)),
                other => unreachable!("no history compares {other:?}"),
            };
            Test { key: text(key), holds }
        };
        let op = |op: &vocabulary::TxnOp| match op {
            vocabulary::TxnOp::Put { key, value: Some(value), .. } => {
                Some(TxnOp::Put { key: text(key), value: text(value) })
            }
            vocabulary::TxnOp::Delete { keys: Keys::One(key), .. } => Some(TxnOp::Delete { key: text(key) }),
            vocabulary::TxnOp::Get { key, revision: None } => Some(TxnOp::Get { key: text(key) }),
            vocabulary::TxnOp::Get { .. } => None,
            other => unreachable!("no history has {other:?}"),
        };
        Txn {
            tests: txn.compares.iter().map(test).collect(),
            then: txn.then.iter().filter_map(op).collect(),
            otherwise: txn.otherwise.iter().filter_map(op).collect(),
        }
    }

    /// Its keys, each once, in order.
    pub fn keys(&self) -> Vec<&str> {
        let ops = self.then.iter().chain(&self.otherwise).map(TxnOp::key);
        let mut keys: Vec<&str> = self.tests.iter().map(|test| test.key.as_str()).chain(ops).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Whether a branch of it writes.
    pub fn is_write(&self) -> bool {
        self.then.iter().chain(&self.otherwise).any(TxnOp::is_write)
    }

    /// Every put of either branch: the key and the value.
    pub(super) fn puts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.then.iter().chain(&self.otherwise).filter_map(|op| match op {
            TxnOp::Put { key, value } => Some((key.as_str(), value.as_str())),
            _ => None,
        })
    }

    /// Every value that a key is compared with.
    pub(super) fn values_tested(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tests.iter().filter_map(|test| match &test.holds {
            Holds::Value(value) => Some((test.key.as_str(), value.as_str())),
            Holds::Exists | Holds::Absent | Holds::ModRevision(_) => None,
        })
    }

    /// Whether a branch of it deletes the key.
    pub(super) fn may_delete(&self, key: &str) -> bool {
        let mut ops = self.then.iter().chain(&self.otherwise);
        ops.any(|op| matches!(op, TxnOp::Delete { key: deleted } if deleted == key))
    }

    /// The operations that are executed when the tests hold, or when they do not.
    pub(super) fn branch(&self, succeeded: bool) -> &[TxnOp] {
        if succeeded { &self.then } else { &self.otherwise }
    }

    /// Whether the results are those of the branch, one for each operation.
    pub(super) fn fits(&self, succeeded: bool, results: &[TxnResult]) -> bool {
        let ops = self.branch(succeeded);
        let is_for = |(op, result): (&TxnOp, &TxnResult)| match op {
            TxnOp::Get { .. } => matches!(result, TxnResult::Value { .. } | TxnResult::Absent),
            TxnOp::Put { .. } => *result == TxnResult::Written,
            TxnOp::Delete { .. } => matches!(result, TxnResult::Deleted { .. }),
        };
        ops.len() == results.len() && ops.iter().zip(results).all(is_for)
    }
}
