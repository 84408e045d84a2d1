//! Which revision stands for which value of a key, as far as the answers tell, and each key's part of the history with
//! numbers in the place of values.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::history::{Answer, Condition, Event, Op};
use super::txn::{Holds, Txn, TxnOp};
use super::txn_steps::{After, Before, KeyTest, Seen, TxnStep, follow};
use super::{Fault, change};

pub(super) use super::value::Value;
use super::value::canonical;

/// What an event means for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The value and its revision were read.
    Read(Value, u64),
    /// It was read that the key is absent.
    ReadAbsent,
    /// Written.
    Put(Value, Option<Condition>, Known),
    /// Removed.
    Delete(Option<Condition>, Known),
    /// There was nothing to remove.
    DeleteNothing(Option<Condition>),
    /// Added to; with the sum, where the answer tells it.
    Add(i64, Option<Condition>, Option<i64>, Known),
    /// Not added to, as the key, last changed at this revision, holds no integer or one that is too large.
    AddConflict(i64, Option<Condition>, u64),
    /// Removed with its neighbours by the change of this revision, if it was there.
    Clear(u64),
    /// Refused, as the key was last changed at this revision.
    Refused(Option<Condition>, u64),
    /// Part of an answered transaction: the one at this place of the key's.
    Txn(usize),
}

/// What is known of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Done; it made this revision.
    Done(u64),
    /// Nothing.
    Unknown,
}

/// One event as a key sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyEvent {
    pub call_ns: u64,
    /// `u64::MAX` when it never ended.
    pub end_ns: u64,
    pub step: Step,
    /// Its place in the history.
    pub source: usize,
}

/// One key's part of the history.
#[derive(Default)]
pub(super) struct KeyNames {
    pub events: Vec<KeyEvent>,
    /// The number of each text.
    numbers: HashMap<String, u64>,
    /// Whether something was or may have been added to it: then it matters which of two integers it holds.
    has_additions: bool,
    value_of: BTreeMap<u64, Value>,
    revision_of: BTreeMap<Value, u64>,
    txns: Vec<TxnStep>,
    /// Which transaction puts the value.
    txn_of: BTreeMap<Value, usize>,
    /// Values that a transaction compares: nobody may have read them, and they differ all the same.
    tested: BTreeSet<Value>,
    /// The version that the key got at this revision.
    version_at: BTreeMap<u64, u64>,
}

impl KeyNames {
    fn number(&mut self, value: &str) -> Value {
        if let Some(number) = canonical(value) {
            return number;
        }
        let next = self.numbers.len() as u64;
        Value::Text(match self.numbers.get(value) {
            Some(&number) => number,
            None => *self.numbers.entry(value.to_owned()).or_insert(next),
        })
    }

    /// Whether something was or may have been added to it.
    pub(super) fn has_additions(&self) -> bool {
        self.has_additions
    }

    /// Whether a value that nobody saw must be told from other such values: something may have been added to it that
    /// somebody saw.
    pub(super) fn is_own(&self, value: Value) -> bool {
        self.has_additions && matches!(value, Value::Number(_))
    }

    /// The number of a value that somebody wrote or read.
    pub(super) fn find(&self, value: &str) -> Option<Value> {
        canonical(value).or_else(|| self.numbers.get(value).copied().map(Value::Text))
    }

    /// A test of the key, with numbers in the place of values.
    pub(super) fn test(&self, holds: &Holds) -> KeyTest {
        match holds {
            Holds::Exists => KeyTest::Exists,
            Holds::Absent => KeyTest::Absent,
            Holds::ModRevision(revision) => KeyTest::ModRevision(*revision),
            Holds::Value(value) => KeyTest::Value(self.find(value)),
        }
    }

    /// Whether some transaction compares the key with this value.
    pub(super) fn is_tested(&self, value: Value) -> bool {
        self.tested.contains(&value)
    }

    /// The transaction of a step.
    pub(super) fn txn(&self, at: usize) -> &TxnStep {
        &self.txns[at]
    }

    /// The value that this revision wrote.
    pub(super) fn value_at(&self, revision: u64) -> Option<Value> {
        self.value_of.get(&revision).copied()
    }

    /// The revision that wrote the value.
    pub(super) fn revision_of(&self, value: Value) -> Option<u64> {
        self.revision_of.get(&value).copied()
    }

    /// The version that the key got at this revision, where an answer tells it.
    pub(super) fn version_at(&self, revision: u64) -> Option<u64> {
        self.version_at.get(&revision).copied()
    }

    /// Whether a key with the value `now` may have this version (0 = absent). One that no answer tells may be any.
    pub(super) fn may_have_version(&self, now: Option<Value>, version: u64) -> bool {
        let Some(value) = now else { return version == 0 };
        let known = self.revision_of(value).and_then(|revision| self.version_at(revision));
        known.map_or(version != 0, |known| known == version)
    }

    /// What stands in the place of the number.
    pub(super) fn text(&self, value: Value) -> String {
        match value {
            Value::Number(number) => number.to_string(),
            Value::Text(number) => {
                let text = self.numbers.iter().find(|(_, other)| **other == number);
                text.map_or_else(String::new, |(text, _)| text.clone())
            }
        }
    }

    /// The value that an addition leaves, when its answer fits the value `now`.
    pub(super) fn sum(now: Option<Value>, amount: i64, told: Option<i64>) -> Option<Value> {
        let sum = Value::plus(now, amount)?;
        told.is_none_or(|told| sum == Value::Number(told)).then_some(sum)
    }

    /// The value before an addition whose sum is told; None when it may have been absent.
    pub(super) fn before_sum(amount: i64, told: Option<i64>) -> Option<Value> {
        told?.checked_sub(amount).filter(|before| *before != 0).map(Value::Number)
    }

    /// Whether a key with the value `now` may have been last changed at `revision` (0 = absent). A value of unknown
    /// revision may have any that is not known to be another value's.
    pub(super) fn may_be_at(&self, now: Option<Value>, revision: u64) -> bool {
        let Some(value) = now else { return revision == 0 };
        match self.revision_of(value) {
            Some(known) => known == revision,
            None => revision != 0 && self.value_at(revision).is_none(),
        }
    }
}

/// Every key of a history.
pub(super) struct Names<'a> {
    pub keys: BTreeMap<&'a str, KeyNames>,
}

impl<'a> Names<'a> {
    /// Takes a history apart.
    ///
    /// # Errors
    /// [`Fault::Malformed`], and [`Fault::Revisions`] when a revision stands for two things.
    pub(super) fn new(history: &'a [Event]) -> Result<Names<'a>, Fault> {
        let mut names = Names { keys: BTreeMap::new() };
        for event in history {
            check_form(event)?;
            if let Some(key) = event.op.key() {
                names.keys.entry(key).or_default();
            }
            if let Op::Txn(txn) = &event.op {
                for key in txn.keys() {
                    names.keys.entry(key).or_default();
                }
            }
        }
        let mut revisions = Revisions::default();
        for (source, event) in history.iter().enumerate() {
            let Op::Txn(txn) = &event.op else { continue };
            for (key, value) in txn.values_tested() {
                let names = names.keys.get_mut(key).expect("every key was entered");
                let value = names.number(value);
                names.tested.insert(value);
            }
            for (key, value) in txn.puts() {
                if !revisions.values.insert((key, value)) {
                    return Err(Fault::Malformed(format!("a value is written twice: {event}")));
                }
                let names = names.keys.get_mut(key).expect("every key was entered");
                let value = names.number(value);
                names.txn_of.insert(value, source);
            }
        }
        let is_unknown_txn =
            |event: &Event| matches!((&event.op, &event.answer), (Op::Txn(_), Answer::Unknown));
        for (source, event) in history.iter().enumerate().filter(|(_, event)| !is_unknown_txn(event)) {
            names.take(source, event, &mut revisions)?;
            names.take_version(event)?;
        }
        // What the others have seen tells which branch of these was executed.
        for (source, event) in history.iter().enumerate().filter(|(_, event)| is_unknown_txn(event)) {
            names.take_unknown_txn(source, event, &mut revisions)?;
        }
        names.keys.iter().try_for_each(|(key, names)| check_versions(key, names, history))?;
        Ok(names)
    }

    /// Notes the version that an answer names.
    fn take_version(&mut self, event: &'a Event) -> Result<(), Fault> {
        let (Some(version), Some(key)) = (event.version, event.op.key()) else { return Ok(()) };
        let revision = match event.answer {
            Answer::Value { mod_revision, .. }
            | Answer::PreconditionFailed { mod_revision }
            | Answer::Conflict { mod_revision } => mod_revision,
            Answer::Written { revision } | Answer::Added { revision, .. } => revision,
            _ => return Err(Fault::Malformed(format!("the answer has no version: {event}"))),
        };
        let names = self.keys.get_mut(key).expect("every key was entered");
        let known = if revision == 0 { 0 } else { *names.version_at.entry(revision).or_insert(version) };
        if known != version || (version == 0) != (revision == 0) {
            let text = format!("at revision {revision} the key has version {known}: {event}");
            return Err(Fault::Revisions(text));
        }
        Ok(())
    }

    fn take(&mut self, source: usize, event: &'a Event, revisions: &mut Revisions<'a>) -> Result<(), Fault> {
        let times =
            KeyEvent { call_ns: event.call_ns, end_ns: event.end_ns(), step: Step::ReadAbsent, source };
        let put = |names: &mut KeyNames, step| names.events.push(KeyEvent { step, ..times });
        if let (Op::List { prefix }, Answer::Listed { rows, .. }) = (&event.op, &event.answer) {
            check_rows(event, prefix)?;
            let by_key: BTreeMap<&str, _> = rows.iter().map(|row| (row.key.as_str(), row)).collect();
            if let Some(key) = by_key.keys().find(|key| !self.keys.contains_key(*key)) {
                return Err(Fault::Order(format!("nobody wrote the key {key:?}: {event}")));
            }
            let below = self.keys.range_mut(prefix.as_str()..);
            for (key, names) in below.take_while(|(key, _)| key.starts_with(prefix.as_str())) {
                let Some(row) = by_key.get(key) else {
                    put(names, Step::ReadAbsent);
                    continue;
                };
                let value = names.number(&row.value);
                revisions.name(event, key, names, row.mod_revision, Some(value))?;
                put(names, Step::Read(value, row.mod_revision));
            }
            return Ok(());
        }
        if let Op::DeleteRange { .. } = event.op {
            let step = match event.answer {
                Answer::NotDone => return Ok(()),
                // None of them was there.
                Answer::DeletedRange { deleted: 0, .. } => Step::ReadAbsent,
                Answer::DeletedRange { revision, .. } => {
                    revisions.write(event, revision)?;
                    revisions.claim(event, revision, Change::Range)?;
                    Step::Clear(revision)
                }
                _ => Step::Delete(None, Known::Unknown),
            };
            let inside = self.keys.iter_mut().filter(|(key, _)| event.op.concerns(key));
            let found = inside.map(|(_, names)| put(names, step)).count();
            if matches!(step, Step::Clear(_)) && found == 0 {
                return Err(Fault::Order(format!("nobody wrote a key of the range: {event}")));
            }
            return Ok(());
        }
        if let (Op::Txn(txn), Answer::Txn { .. }) = (&event.op, &event.answer) {
            return self.take_txn(times, event, txn, revisions);
        }
        let Some(key) = event.op.key() else { return Ok(()) };
        let names = self.keys.get_mut(key).expect("every key was entered");
        let step = match (&event.op, &event.answer) {
            (Op::Put { value, .. }, _) if !revisions.values.insert((key, value)) => {
                return Err(Fault::Malformed(format!("a value is written twice: {event}")));
            }
            (_, Answer::NotDone) | (Op::Get { .. }, Answer::Unknown) => return Ok(()),
            (Op::Get { .. }, Answer::Value { value, mod_revision }) => {
                let value = names.number(value);
                revisions.name(event, key, names, *mod_revision, Some(value))?;
                Step::Read(value, *mod_revision)
            }
            (Op::Get { .. }, _) => Step::ReadAbsent,
            (
                Op::Put { condition, .. } | Op::Delete { condition, .. } | Op::Add { condition, .. },
                Answer::PreconditionFailed { mod_revision },
            ) => Step::Refused(*condition, *mod_revision),
            (Op::Add { amount, condition, .. }, Answer::Conflict { mod_revision }) => {
                names.has_additions = true;
                Step::AddConflict(*amount, *condition, *mod_revision)
            }
            (Op::Add { amount, condition, .. }, answer) => {
                names.has_additions = true;
                let (mut known, mut sum) = (Known::Unknown, None);
                if let Answer::Added { revision, value } = *answer {
                    (known, sum) = (Known::Done(revision), Some(value));
                    revisions.write(event, revision)?;
                    revisions.name(event, key, names, revision, Some(Value::Number(value)))?;
                }
                Step::Add(*amount, *condition, sum, known)
            }
            (Op::Put { value, condition, .. }, answer) => {
                let value = names.number(value);
                let known = change(answer).map_or(Known::Unknown, Known::Done);
                if let Known::Done(revision) = known {
                    revisions.write(event, revision)?;
                    revisions.name(event, key, names, revision, Some(value))?;
                }
                Step::Put(value, *condition, known)
            }
            (Op::Delete { condition, .. }, Answer::Deleted { deleted: false, .. }) => {
                Step::DeleteNothing(*condition)
            }
            (Op::Delete { condition, .. }, answer) => {
                let known = change(answer).map_or(Known::Unknown, Known::Done);
                if let Known::Done(revision) = known {
                    revisions.write(event, revision)?;
                    revisions.name(event, key, names, revision, None)?;
                }
                Step::Delete(*condition, known)
            }
            (Op::List { .. } | Op::DeleteRange { .. } | Op::Txn(_), _) => {
                unreachable!("it has no single key")
            }
        };
        put(names, step);
        Ok(())
    }

    /// A transaction that was answered: a step for each of its keys.
    fn take_txn(
        &mut self,
        times: KeyEvent,
        event: &'a Event,
        txn: &'a Txn,
        revisions: &mut Revisions<'a>,
    ) -> Result<(), Fault> {
        let Answer::Txn { succeeded, .. } = event.answer else { return Ok(()) };
        let made = change(&event.answer);
        if let Some(revision) = made {
            revisions.write(event, revision)?;
            revisions.claim(event, revision, Change::Txn(times.source))?;
        }
        for key in txn.keys() {
            let part = follow(event, txn, key)?;
            let names = self.keys.get_mut(key).expect("every key was entered");
            let before = match part.before {
                None => Before::Any,
                Some(Seen::Absent) => Before::Absent,
                Some(Seen::Exists) => Before::Exists,
                Some(Seen::Value(value, mod_revision)) => {
                    let value = names.number(value);
                    revisions.name(event, key, names, mod_revision, Some(value))?;
                    Before::Value(value)
                }
            };
            let after = match (part.after, made) {
                (Some(Some(value)), Some(revision)) => {
                    let value = names.number(value);
                    revisions.name(event, key, names, revision, Some(value))?;
                    After::Value(value)
                }
                (Some(_), _) => After::Absent,
                (None, _) => After::Same,
            };
            let tests = txn.tests.iter().filter(|test| test.key == key);
            let tests = tests.map(|test| names.test(&test.holds)).collect();
            let decides = txn.tests.iter().all(|test| test.key == key);
            let step = Step::Txn(names.txns.len());
            names.txns.push(TxnStep { succeeded, tests, decides, before, after });
            names.events.push(KeyEvent { step, ..times });
        }
        Ok(())
    }

    /// A transaction whose outcome is unknown: writes that may have happened, each on its own; or, when somebody saw a
    /// value of it, everything that its branch writes.
    fn take_unknown_txn(
        &mut self,
        source: usize,
        event: &'a Event,
        revisions: &mut Revisions<'a>,
    ) -> Result<(), Fault> {
        let Op::Txn(txn) = &event.op else { return Ok(()) };
        let times =
            KeyEvent { call_ns: event.call_ns, end_ns: event.end_ns(), step: Step::ReadAbsent, source };
        let revision_seen = |branch: bool| {
            txn.branch(branch).iter().find_map(|op| match op {
                TxnOp::Put { key, value } => {
                    let names = self.keys.get(key.as_str())?;
                    names.revision_of(names.find(value)?)
                }
                _ => None,
            })
        };
        let seen = [true, false].map(|branch| revision_seen(branch).map(|revision| (branch, revision)));
        if let [Some(_), Some(_)] = seen {
            return Err(Fault::Order(format!("values of both branches were seen: {event}")));
        }
        let seen = seen.into_iter().flatten().next();
        if let Some((_, revision)) = seen {
            revisions.write(event, revision)?;
        }
        for op in [true, false]
            .into_iter()
            .filter(|branch| seen.is_none_or(|(taken, _)| taken == *branch))
            .flat_map(|branch| txn.branch(branch))
        {
            let (key, step) = match op {
                TxnOp::Get { .. } => continue,
                TxnOp::Put { key, value } => {
                    let names = self.keys.get_mut(key.as_str()).expect("every key was entered");
                    let value = names.number(value);
                    if let Some((_, revision)) = seen {
                        revisions.name(event, key, names, revision, Some(value))?;
                    }
                    (key, Step::Put(value, None, Known::Unknown))
                }
                TxnOp::Delete { key } => match seen {
                    Some((_, revision)) => (key, Step::Clear(revision)),
                    None => (key, Step::Delete(None, Known::Unknown)),
                },
            };
            let names = self.keys.get_mut(key.as_str()).expect("every key was entered");
            names.events.push(KeyEvent { step, ..times });
        }
        Ok(())
    }
}

/// What a revision did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change<'a> {
    /// It gave the key this value, or removed it.
    Key(&'a str, Option<Value>),
    /// It removed a range.
    Range,
    /// It is the change of the transaction at this place of the history.
    Txn(usize),
}

/// What each revision did, and who said so.
#[derive(Default)]
struct Revisions<'a> {
    values: BTreeSet<(&'a str, &'a str)>,
    changes: BTreeMap<u64, (Change<'a>, &'a Event)>,
    writers: BTreeMap<u64, &'a Event>,
    said_by: BTreeMap<(&'a str, Value), &'a Event>,
}

impl<'a> Revisions<'a> {
    /// `event` says that it made `revision`.
    fn write(&mut self, event: &'a Event, revision: u64) -> Result<(), Fault> {
        self.writers.insert(revision, event).map_or(Ok(()), |other| contradiction(other, event))
    }

    /// `event` says that `revision` did this.
    fn claim(&mut self, event: &'a Event, revision: u64, change: Change<'a>) -> Result<(), Fault> {
        let &mut (known, other) = self.changes.entry(revision).or_insert((change, event));
        if known == change { Ok(()) } else { contradiction(other, event) }
    }

    /// `event` says that `revision` wrote `value` to `key`, or removed it.
    fn name(
        &mut self,
        event: &'a Event,
        key: &'a str,
        names: &mut KeyNames,
        revision: u64,
        value: Option<Value>,
    ) -> Result<(), Fault> {
        if revision == 0 {
            return Err(Fault::Revisions(format!("no change has revision 0: {event}")));
        }
        let by_txn = value.and_then(|value| names.txn_of.get(&value));
        let change = by_txn.map_or(Change::Key(key, value), |source| Change::Txn(*source));
        self.claim(event, revision, change)?;
        let Some(value) = value else { return Ok(()) };
        let other = *self.said_by.entry((key, value)).or_insert(event);
        if *names.revision_of.entry(value).or_insert(revision) != revision {
            return contradiction(other, event);
        }
        names.value_of.insert(revision, value);
        Ok(())
    }
}

/// Versions rise with every change of the key by one, and fall only when the key was removed.
fn check_versions(key: &str, names: &KeyNames, history: &[Event]) -> Result<(), Fault> {
    let may_remove = |event: &Event| {
        let is_removal = match &event.op {
            Op::Delete { .. } | Op::DeleteRange { .. } => true,
            Op::Txn(txn) => txn.may_delete(key),
            Op::Put { .. } | Op::Add { .. } | Op::Get { .. } | Op::List { .. } => false,
        };
        is_removal
            && event.op.concerns(key)
            && (change(&event.answer).is_some() || event.answer == Answer::Unknown)
    };
    let told: Vec<(u64, u64)> =
        names.version_at.iter().map(|(revision, version)| (*revision, *version)).collect();
    for pair in told.windows(2) {
        let ((earlier, before), (later, after)) = (pair[0], pair[1]);
        let rises = after > before && after - before <= later - earlier;
        let is_anew = after < later - earlier && history.iter().any(may_remove);
        if !(rises || is_anew) {
            let text = format!("version {before} of {key:?} at revision {earlier}, and {after} at {later}");
            return Err(Fault::Revisions(text));
        }
    }
    Ok(())
}

fn contradiction(a: &Event, b: &Event) -> Result<(), Fault> {
    Err(Fault::Revisions(format!("{a}, but {b}")))
}

fn check_form(event: &Event) -> Result<(), Fault> {
    let belongs = matches!(
        (&event.op, &event.answer),
        (_, Answer::NotDone | Answer::Unknown)
            | (Op::Get { .. }, Answer::Value { .. } | Answer::Absent)
            | (Op::Put { .. }, Answer::Written { .. } | Answer::PreconditionFailed { .. })
            | (Op::Delete { .. }, Answer::Deleted { .. } | Answer::PreconditionFailed { .. })
            | (Op::DeleteRange { .. }, Answer::DeletedRange { .. })
            | (
                Op::Add { .. },
                Answer::Added { .. } | Answer::Conflict { .. } | Answer::PreconditionFailed { .. }
            )
            | (Op::Txn(_), Answer::Txn { .. })
            | (Op::List { .. }, Answer::Listed { .. })
    );
    if !belongs {
        return Err(Fault::Malformed(format!("the answer does not belong to its operation: {event}")));
    }
    if let (Op::Txn(txn), Answer::Txn { succeeded, results, .. }) = (&event.op, &event.answer)
        && !txn.fits(*succeeded, results)
    {
        return Err(Fault::Malformed(format!("the results are not those of the branch: {event}")));
    }
    if let (Op::Txn(txn), Answer::Txn { succeeded: false, .. }) = (&event.op, &event.answer)
        && txn.keys().is_empty()
    {
        // No key's part of the history has it.
        return Err(Fault::Order(format!("without a test all of them hold: {event}")));
    }
    if event.end_ns() < event.call_ns {
        return Err(Fault::Malformed(format!("returned before it was called: {event}")));
    }
    if change(&event.answer) == Some(0) {
        return Err(Fault::Revisions(format!("no change has revision 0: {event}")));
    }
    Ok(())
}

/// A list has each key once, in order, and only keys with the prefix.
fn check_rows(event: &Event, prefix: &str) -> Result<(), Fault> {
    let Answer::Listed { rows, .. } = &event.answer else { return Ok(()) };
    let is_sorted = rows.windows(2).all(|pair| pair[0].key < pair[1].key);
    if !is_sorted || rows.iter().any(|row| !row.key.starts_with(prefix)) {
        return Err(Fault::Order(format!("the rows are not those of the prefix in their order: {event}")));
    }
    Ok(())
}
