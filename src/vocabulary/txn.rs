//! Transactions: what a client asks to be compared, and what is then done as one step.
//!
//! This is the superset of what the HTTP API and the etcd API can ask; `docs/storage-format.md` says which parts of
//! its byte form are reserved.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{KeyRange, LeaseId, PutLease};

/// How deep transactions may be nested, the outermost one included.
pub const MAX_TXN_DEPTH: usize = 4;

/// Comparisons and operations of a transaction in all, those of nested transactions and of both branches included.
pub const MAX_TXN_ITEMS: usize = 1_024;

/// Comparisons of the state, and the operations of two branches, one of which is executed as one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// What is compared. All of them must hold; none holds too.
    pub compares: Vec<Compare>,
    /// What is done when all comparisons hold.
    pub then: Vec<TxnOp>,
    /// What is done otherwise.
    pub otherwise: Vec<TxnOp>,
}

/// One comparison. It holds if every key that it names compares as wanted, in the state before the outermost
/// transaction. A key that does not exist has 0 as each of its numbers, and so has a range without keys. It has no
/// value, so no comparison of values holds for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Of which keys.
    pub keys: Keys,
    /// How.
    pub operator: Operator,
    /// With what.
    pub target: Target,
}

/// Which keys a part of a transaction is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// This key.
    One(Vec<u8>),
    /// Every key of a range.
    Range(KeyRange),
}

/// How two things are compared. What is found stands to the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// They are equal.
    Equal,
    /// They are not.
    NotEqual,
    /// What is found is less.
    Less,
    /// What is found is greater.
    Greater,
}

/// What is compared, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// How many times the key was put since it was created.
    Version(u64),
    /// The revision at which it was created.
    CreateRevision(u64),
    /// The revision at which it was last changed.
    ModRevision(u64),
    /// Its value, by its bytes.
    Value(Vec<u8>),
    /// The lease that it is attached to, by its number; None counts as 0.
    Lease(Option<LeaseId>),
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOp {
    /// Give a key a value.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its new value; None: it keeps the one that it has, and must exist.
        value: Option<Vec<u8>>,
        /// The lease that it is attached to from now on.
        lease: PutLease,
        /// Whether the result shows the record before.
        prev: bool,
    },
    /// Remove keys. Keys that are not there do no harm.
    Delete {
        /// Which ones.
        keys: Keys,
        /// Whether the result shows the records that went.
        prev: bool,
    },
    /// Read one key.
    Get {
        /// The key.
        key: Vec<u8>,
        /// At which revision; None: with the writes before it in this transaction.
        revision: Option<u64>,
    },
    /// Read or count the keys of a range.
    List(TxnList),
    /// A transaction within the transaction.
    Txn(Txn),
}

/// A read of a range in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnList {
    /// Which keys.
    pub range: KeyRange,
    /// At which revision; None: with the writes before it in this transaction.
    pub revision: Option<u64>,
    /// Most rows; 0: all.
    pub limit: u64,
    /// Whether the greatest key comes first.
    pub is_descending: bool,
    /// Whether the rows have no values.
    pub keys_only: bool,
    /// Whether there are no rows, only their number.
    pub count_only: bool,
}

/// Why a transaction cannot be executed, whatever the state is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxnError {
    /// It is nested too deep.
    #[error("transactions are nested more than {MAX_TXN_DEPTH} deep, the outermost one included")]
    TooDeep,
    /// It is too large.
    #[error(
        "the transaction has {0} comparisons and operations in all, nested ones included, at most {MAX_TXN_ITEMS} fit"
    )]
    TooMany(usize),
    /// A key is written twice, or put and removed, in one branch: a key has one version at one revision.
    #[error(
        "the key {:?} is written twice, or put and deleted: a transaction makes one revision, in which a key changes once",
        String::from_utf8_lossy(.0)
    )]
    WrittenTwice(Vec<u8>),
}

impl Operator {
    /// Whether what was found compares with what is wanted.
    pub fn holds<T: Ord + ?Sized>(self, found: &T, wanted: &T) -> bool {
        match self {
            Operator::Equal => found == wanted,
            Operator::NotEqual => found != wanted,
            Operator::Less => found < wanted,
            Operator::Greater => found > wanted,
        }
    }
}

impl Txn {
    /// Whether it can write: an operation in one of its branches is a write.
    pub fn can_write(&self) -> bool {
        self.then.iter().chain(&self.otherwise).any(|op| match op {
            TxnOp::Put { .. } | TxnOp::Delete { .. } => true,
            TxnOp::Get { .. } | TxnOp::List(_) => false,
            TxnOp::Txn(txn) => txn.can_write(),
        })
    }

    /// Looks for what no transaction may be.
    ///
    /// # Errors
    /// It is nested too deep, has too many parts, or writes a key twice in one branch. Removing a key twice is no
    /// error, nor is writing it in `then` and in `otherwise`: only one of these is executed.
    pub fn check(&self) -> Result<(), TxnError> {
        if !self.is_nested_at_most(MAX_TXN_DEPTH) {
            return Err(TxnError::TooDeep);
        }
        match self.items() {
            items if items > MAX_TXN_ITEMS => Err(TxnError::TooMany(items)),
            _ => self.writes().map(|_| ()),
        }
    }

    /// Shows the lease of every put to `change`, of both branches and of nested transactions too.
    pub fn for_each_put(&mut self, change: &mut impl FnMut(&mut PutLease)) {
        for op in self.then.iter_mut().chain(&mut self.otherwise) {
            match op {
                TxnOp::Put { lease, .. } => change(lease),
                TxnOp::Txn(txn) => txn.for_each_put(change),
                TxnOp::Delete { .. } | TxnOp::Get { .. } | TxnOp::List(_) => {}
            }
        }
    }

    fn nested(&self) -> impl Iterator<Item = &Txn> {
        self.then.iter().chain(&self.otherwise).filter_map(|op| match op {
            TxnOp::Txn(txn) => Some(txn),
            _ => None,
        })
    }

    fn is_nested_at_most(&self, depth: usize) -> bool {
        depth > 0 && self.nested().all(|txn| txn.is_nested_at_most(depth - 1))
    }

    fn items(&self) -> usize {
        let here = self.compares.len() + self.then.len() + self.otherwise.len();
        here + self.nested().map(Txn::items).sum::<usize>()
    }

    /// What either branch writes.
    fn writes(&self) -> Result<Writes<'_>, TxnError> {
        let (mut then, otherwise) = (branch_writes(&self.then)?, branch_writes(&self.otherwise)?);
        then.puts.extend(otherwise.puts);
        then.deletes.extend(otherwise.deletes);
        Ok(then)
    }
}

/// What is written, at most.
#[derive(Default)]
struct Writes<'a> {
    puts: Vec<&'a [u8]>,
    deletes: Vec<&'a Keys>,
}

/// What the operations of a branch write. No two of them may put one key, and none may remove what another puts.
fn branch_writes(ops: &[TxnOp]) -> Result<Writes<'_>, TxnError> {
    let mut all = Writes::default();
    // Which operation puts each key. A nested transaction counts as one: its own branches are looked at already.
    let mut putters: BTreeMap<&[u8], usize> = BTreeMap::new();
    let mut deletes: Vec<(&Keys, usize)> = Vec::new();
    for (at, op) in ops.iter().enumerate() {
        let writes = match op {
            TxnOp::Put { key, .. } => Writes { puts: vec![key], deletes: Vec::new() },
            TxnOp::Delete { keys, .. } => Writes { puts: Vec::new(), deletes: vec![keys] },
            TxnOp::Get { .. } | TxnOp::List(_) => continue,
            TxnOp::Txn(txn) => txn.writes()?,
        };
        for key in &writes.puts {
            if putters.insert(key, at).is_some_and(|other| other != at) {
                return Err(TxnError::WrittenTwice(key.to_vec()));
            }
        }
        deletes.extend(writes.deletes.iter().map(|keys| (*keys, at)));
        all.puts.extend(writes.puts);
        all.deletes.extend(writes.deletes);
    }
    for (keys, at) in deletes {
        let is_other = |putter: &usize| *putter != at;
        let twice = match keys {
            Keys::One(key) => putters.get(&key[..]).filter(|p| is_other(p)).map(|_| &key[..]),
            Keys::Range(range) => {
                let from = putters.range::<[u8], _>((Bound::Included(range.start()), Bound::Unbounded));
                let mut inside = from.take_while(|(key, _)| range.contains(key));
                inside.find(|(_, putter)| is_other(putter)).map(|(key, _)| *key)
            }
        };
        if let Some(key) = twice {
            return Err(TxnError::WrittenTwice(key.to_vec()));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str) -> TxnOp {
        TxnOp::Put { key: key.into(), value: Some(Vec::new()), lease: PutLease::None, prev: false }
    }

    fn delete(key: &str) -> TxnOp {
        TxnOp::Delete { keys: Keys::One(key.into()), prev: false }
    }

    fn delete_prefix(prefix: &str) -> TxnOp {
        TxnOp::Delete { keys: Keys::Range(KeyRange::new(prefix.as_bytes(), b"", b"")), prev: false }
    }

    fn get(key: &str) -> TxnOp {
        TxnOp::Get { key: key.into(), revision: None }
    }

    fn nested(then: Vec<TxnOp>, otherwise: Vec<TxnOp>) -> TxnOp {
        TxnOp::Txn(Txn { compares: Vec::new(), then, otherwise })
    }

    fn check(then: Vec<TxnOp>, otherwise: Vec<TxnOp>) -> Result<(), TxnError> {
        Txn { compares: Vec::new(), then, otherwise }.check()
    }

    #[test]
    fn check_refuses_a_key_that_one_branch_writes_twice_in_either_order() {
        let twice = Err(TxnError::WrittenTwice(b"a/1".to_vec()));
        type Pair = (fn() -> TxnOp, fn() -> TxnOp);
        let bad: [Pair; 8] = [
            (|| put("a/1"), || put("a/1")),
            (|| put("a/1"), || delete("a/1")),
            (|| put("a/1"), || delete_prefix("a/")),
            (|| put("a/1"), || delete_prefix("")),
            (|| put("a/1"), || nested(vec![put("a/1")], vec![])),
            (|| put("a/1"), || nested(vec![], vec![delete_prefix("a")])),
            (|| nested(vec![put("a/1")], vec![]), || nested(vec![], vec![put("a/1")])),
            (|| nested(vec![put("a/1")], vec![]), || nested(vec![delete("a/1")], vec![])),
        ];
        for (n, (one, other)) in bad.into_iter().enumerate() {
            for ops in [[one(), other()], [other(), one()]] {
                let ops = ops.to_vec();
                assert_eq!(check(ops.clone(), vec![]), twice, "pair {n}");
                assert_eq!(check(vec![], ops.clone()), twice, "pair {n}");
                assert_eq!(check(vec![nested(vec![get("z")], ops)], vec![]), twice, "pair {n}");
            }
        }
    }

    #[test]
    fn check_allows_what_changes_a_key_once() {
        let good: Vec<(Vec<TxnOp>, Vec<TxnOp>)> = vec![
            (vec![], vec![]),
            (vec![put("a")], vec![put("a"), delete("b")]),
            (vec![put("a"), put("b"), get("a"), get("a")], vec![]),
            (vec![delete("a"), delete("a"), delete_prefix("a"), delete_prefix("")], vec![]),
            (vec![nested(vec![put("a")], vec![put("a")]), put("b")], vec![]),
            (vec![nested(vec![put("a")], vec![delete_prefix("")])], vec![]),
            (vec![put("a0"), delete_prefix("a/")], vec![]),
        ];
        for (then, otherwise) in good {
            assert_eq!(check(then.clone(), otherwise), Ok(()), "{then:?}");
        }
    }

    #[test]
    fn check_counts_depth_and_parts_in_all() {
        let deep = |depth: usize| {
            (1..depth).fold(Txn::default(), |txn, _| Txn { then: vec![TxnOp::Txn(txn)], ..Txn::default() })
        };
        assert_eq!(deep(MAX_TXN_DEPTH).check(), Ok(()));
        assert_eq!(deep(MAX_TXN_DEPTH + 1).check(), Err(TxnError::TooDeep));
        let compare = || Compare {
            keys: Keys::One(b"a".to_vec()),
            operator: Operator::Equal,
            target: Target::Version(0),
        };
        let parts = |compares: usize, then: usize, inside: usize| {
            let inside = nested((0..inside).map(|_| get("a")).collect(), vec![]);
            Txn {
                compares: (0..compares).map(|_| compare()).collect(),
                then: (0..then).map(|_| get("a")).collect(),
                otherwise: vec![inside],
            }
        };
        assert_eq!(parts(500, 500, 23).check(), Ok(()));
        assert_eq!(parts(501, 500, 23).check(), Err(TxnError::TooMany(1_025)));
        assert_eq!(parts(500, 501, 23).check(), Err(TxnError::TooMany(1_025)));
        assert_eq!(parts(500, 500, 24).check(), Err(TxnError::TooMany(1_025)));
    }

    #[test]
    fn can_write_looks_into_both_branches_and_into_nested_transactions() {
        let can = |then, otherwise| Txn { compares: Vec::new(), then, otherwise }.can_write();
        assert!(!can(vec![get("a")], vec![nested(vec![get("a")], vec![])]));
        assert!(can(vec![get("a")], vec![put("a")]) && can(vec![delete("a")], vec![]));
        assert!(can(vec![], vec![nested(vec![], vec![delete_prefix("a")])]));
    }
}
