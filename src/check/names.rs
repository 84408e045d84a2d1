//! Which revision stands for which value of a key, as far as the answers tell, and each key's part of the history with
//! numbers in the place of values.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::history::{Answer, Condition, Event, Op};
use super::{Fault, change};

/// A value of a key by its number.
pub(super) type Value = u64;

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
    /// Removed with its neighbours by the change of this revision, if it was there.
    Clear(u64),
    /// Refused, as the key was last changed at this revision.
    Refused(Option<Condition>, u64),
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
    numbers: HashMap<String, Value>,
    value_of: BTreeMap<u64, Value>,
    revision_of: BTreeMap<Value, u64>,
}

impl KeyNames {
    fn number(&mut self, value: &str) -> Value {
        let next = self.numbers.len() as Value;
        match self.numbers.get(value) {
            Some(&number) => number,
            None => *self.numbers.entry(value.to_owned()).or_insert(next),
        }
    }

    /// The value that this revision wrote.
    pub(super) fn value_at(&self, revision: u64) -> Option<Value> {
        self.value_of.get(&revision).copied()
    }

    /// The revision that wrote the value.
    pub(super) fn revision_of(&self, value: Value) -> Option<u64> {
        self.revision_of.get(&value).copied()
    }

    /// What stands in the place of the number.
    pub(super) fn text(&self, value: Value) -> &str {
        self.numbers.iter().find(|(_, number)| **number == value).map_or("", |(text, _)| text)
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
        }
        let mut revisions = Revisions::default();
        for (source, event) in history.iter().enumerate() {
            names.take(source, event, &mut revisions)?;
        }
        Ok(names)
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
                Op::Put { condition, .. } | Op::Delete { condition, .. },
                Answer::PreconditionFailed { mod_revision },
            ) => Step::Refused(*condition, *mod_revision),
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
            (Op::List { .. } | Op::DeleteRange { .. }, _) => unreachable!("it has no single key"),
        };
        put(names, step);
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
        self.claim(event, revision, Change::Key(key, value))?;
        let Some(value) = value else { return Ok(()) };
        let other = *self.said_by.entry((key, value)).or_insert(event);
        if *names.revision_of.entry(value).or_insert(revision) != revision {
            return contradiction(other, event);
        }
        names.value_of.insert(revision, value);
        Ok(())
    }
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
            | (Op::List { .. }, Answer::Listed { .. })
    );
    if !belongs {
        return Err(Fault::Malformed(format!("the answer does not belong to its operation: {event}")));
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
