//! Whether a transaction fits what a key is before it, and what it leaves.

use super::names::{KeyNames, Value};
use super::txn_steps::{After, Before, KeyTest, TxnStep};

impl KeyTest {
    /// Whether it may hold of a key that has the value `now`.
    pub(super) fn may_hold(self, names: &KeyNames, now: Option<Value>) -> bool {
        match self {
            KeyTest::Exists => now.is_some(),
            KeyTest::Absent => now.is_none(),
            KeyTest::ModRevision(revision) => names.may_be_at(now, revision),
            KeyTest::Value(wanted) => wanted.is_some() && now == wanted,
        }
    }

    /// Whether it may not hold.
    pub(super) fn may_fail(self, names: &KeyNames, now: Option<Value>) -> bool {
        match (self, now) {
            // Which revision wrote a value is not always known.
            (KeyTest::ModRevision(revision), Some(value)) => names.revision_of(value) != Some(revision),
            _ => !self.may_hold(names, now),
        }
    }
}

impl TxnStep {
    /// The value after it; None when the answer does not fit the value `now`.
    pub(super) fn leaves(&self, names: &KeyNames, now: Option<Value>) -> Option<Option<Value>> {
        let tests_fit = match self.succeeded {
            true => self.tests.iter().all(|test| test.may_hold(names, now)),
            false => !self.decides || self.may_fail(names, now),
        };
        let before_fits = match self.before {
            Before::Any => true,
            Before::Value(value) => now == Some(value),
            Before::Absent => now.is_none(),
            Before::Exists => now.is_some(),
        };
        let after = match self.after {
            After::Same => now,
            After::Value(value) => Some(value),
            After::Absent => None,
        };
        (tests_fit && before_fits).then_some(after)
    }

    /// Whether a test of this key may be why the transaction did not succeed.
    pub(super) fn may_fail(&self, names: &KeyNames, now: Option<Value>) -> bool {
        self.tests.iter().any(|test| test.may_fail(names, now))
    }
}
