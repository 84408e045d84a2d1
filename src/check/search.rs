//! The search of Wing and Gong for an order of the operations of a few keys, with Lowe's memory of the configurations
//! already seen; a configuration is the set of operations placed and the values they leave.
//!
//! Keys that one write touches together are searched together, as a group; most groups have one key. Six observations
//! keep the search short; each leaves at least one explaining order, if there is any:
//! - an operation that changes nothing and fits the values now can be placed now;
//! - a value is written once, so it must not be left while an answer that shows it is still to be placed;
//! - a write of unknown outcome is placed only directly before an operation that needs it: before one that would fit
//!   without it and leave the same values, it can as well be left out;
//! - and what is on none of its keys can as well come before it;
//! - unknown deletes of the same keys with the same condition are interchangeable, and so are unknown puts of one key
//!   with the same condition of values that nobody saw or tested: the one called first is used first;
//! - the indexes and revisions in the answers are hints of what to try first: the operation of the least index, or else an
//!   unknown one that lets it fit. A store whose answers lie there makes the search longer, and its verdict no other.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::history::{Answer, Condition, Event, Op, holds};
use super::names::{KeyEvent, KeyNames, Known, Names, Step, Value};
use super::txn::{Txn, TxnOp};
use super::txn_steps::Before;
use super::value::may_add_up;
use super::{Fault, Limits, change};

/// Checks each group of keys for linearizability.
///
/// # Errors
/// The first group that is not, before one that is undecided; and what cannot be a history at all.
pub fn check_linearizable(history: &[Event], limits: &Limits) -> Result<(), Fault> {
    let names = Names::new(history)?;
    let mut undecided = Ok(());
    let indexes = indexes(history);
    for group in groups(&names, history) {
        match Search::new(group, history, &indexes).run(limits) {
            Err(fault) if fault.is_undecided() => undecided = undecided.and(Err(fault)),
            verdict => verdict?,
        }
    }
    undecided
}

/// The index of each revision whose write named both.
fn indexes(history: &[Event]) -> BTreeMap<u64, u64> {
    history.iter().filter_map(|event| Some((change(&event.answer)?, event.index?))).collect()
}

/// A key with its part of the history.
type Key<'a> = (&'a str, &'a KeyNames);

/// The keys, those together that some write touches together.
fn groups<'a>(names: &'a Names<'_>, history: &[Event]) -> Vec<Vec<Key<'a>>> {
    let keys: Vec<Key<'a>> = names.keys.iter().map(|(key, names)| (*key, names)).collect();
    let mut group_of: Vec<usize> = (0..keys.len()).collect();
    for event in history {
        // One that is surely not done ties nothing.
        if !matches!(event.op, Op::DeleteRange { .. } | Op::Txn(_)) || event.answer == Answer::NotDone {
            continue;
        }
        let inside: Vec<usize> = (0..keys.len()).filter(|&k| event.op.concerns(keys[k].0)).collect();
        let Some(&first) = inside.first() else { continue };
        let joined: Vec<usize> = inside.iter().map(|&k| group_of[k]).collect();
        let into = group_of[first];
        group_of.iter_mut().filter(|group| joined.contains(group)).for_each(|group| *group = into);
    }
    let mut groups: BTreeMap<usize, Vec<Key<'a>>> = BTreeMap::new();
    for (key, group) in keys.into_iter().zip(group_of) {
        groups.entry(group).or_default().push(key);
    }
    groups.into_values().collect()
}

/// The value of a key.
pub(super) type State = Option<Value>;

/// The value of each key of the group.
type States = Vec<State>;

/// An operation that may have to be placed.
struct Operation {
    call_ns: u64,
    /// `u64::MAX` when it never ended.
    end_ns: u64,
    /// Its place in the history.
    source: usize,
    /// What it means for which keys of the group.
    steps: Vec<(usize, Step)>,
    /// Interchangeable with this one, which is used first.
    after: Option<usize>,
    /// The values of keys that its answer allows before it.
    shows: Vec<(usize, Value)>,
    /// Where the answers say that it stands: what is less is tried first.
    hint: Option<Hint>,
    /// Of a transaction of unknown outcome: the branch that it is taken to have executed.
    branch: Option<bool>,
    /// The same transaction with its other branch: one of the two is placed at most.
    excludes: Option<usize>,
}

/// Twice the index, and one more for what comes after the entry of that index; then the revision, if that is all there is.
type Hint = (u64, u64);

impl Operation {
    fn touches(&self, other: &Operation) -> bool {
        self.steps.iter().any(|(key, _)| other.steps.iter().any(|(same, _)| key == same))
    }
}

/// The search on one group. `certain` operations must all be placed; `possible` ones, the writes of unknown outcome,
/// may be. Both in the order of their calls.
struct Search<'a> {
    keys: Vec<Key<'a>>,
    history: &'a [Event],
    certain: Vec<Operation>,
    possible: Vec<Operation>,
    placed: Placed,
    states: States,
    /// How many certain operations not placed show a value of a key.
    to_show: BTreeMap<(usize, Value), usize>,
}

/// Which operations are placed.
struct Placed {
    /// The first certain operation that is not.
    first: usize,
    certain: Vec<bool>,
    certain_count: usize,
    possible: Vec<bool>,
    unknown: Unknown,
}

/// The unknown operations placed last, with nothing certain after them.
#[derive(Clone, Default)]
struct Unknown {
    /// The values before each of them.
    before: Vec<States>,
    /// Those that no later one of them is on a key of: what comes next must need them.
    pending: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    Certain(usize),
    Possible(usize),
}

/// One level of the search: what was tried from here, and how to come back.
struct Level {
    choices: Vec<(Choice, States)>,
    states: States,
    first: usize,
    unknown: Unknown,
    /// What led here; `None` at the start.
    undo: Option<Choice>,
}

/// The one value that the answer allows before it.
pub(super) fn shown_by(names: &KeyNames, step: Step) -> Option<Value> {
    match step {
        Step::Read(value, _) => Some(value),
        Step::Txn(at) => match names.txn(at).before {
            Before::Value(value) => Some(value),
            Before::Any | Before::Absent | Before::Exists => None,
        },
        Step::Refused(_, mod_revision) | Step::AddConflict(.., mod_revision) => names.value_at(mod_revision),
        Step::Add(amount, _, told @ Some(_), _) => KeyNames::before_sum(amount, told),
        Step::Put(_, Some(Condition::ModRevision(revision)), _)
        | Step::Delete(Some(Condition::ModRevision(revision)), _)
        | Step::DeleteNothing(Some(Condition::ModRevision(revision))) => names.value_at(revision),
        _ => None,
    }
}

/// The key and the amount of an addition of unknown outcome.
fn addition(operation: &Operation) -> Option<(usize, i64)> {
    match operation.steps[..] {
        [(key, Step::Add(amount, _, _, Known::Unknown))] => Some((key, amount)),
        _ => None,
    }
}

/// Which unknown operations are alike: those on the same keys that do the same under the same condition.
type Alike = (Vec<usize>, bool, Option<Condition>);

impl<'a> Search<'a> {
    fn new(keys: Vec<Key<'a>>, history: &'a [Event], indexes: &BTreeMap<u64, u64>) -> Search<'a> {
        let mut operations = operations(&keys, history, indexes);
        operations.sort_by_key(|operation| operation.call_ns);
        let (mut certain, mut possible) = (Vec::new(), Vec::<Operation>::new());
        let mut last_alike: HashMap<Alike, usize> = HashMap::new();
        let mut to_show: BTreeMap<(usize, Value), usize> = BTreeMap::new();
        for mut operation in operations {
            let here = possible.len();
            let (key, step) = operation.steps[0];
            let on: Vec<usize> = operation.steps.iter().map(|(key, _)| *key).collect();
            operation.after = match step {
                _ if operation.branch.is_some() => None,
                Step::Delete(condition, Known::Unknown) => last_alike.insert((on, false, condition), here),
                Step::Put(value, _, Known::Unknown)
                    if keys[key].1.revision_of(value).is_some()
                        || keys[key].1.is_own(value)
                        || keys[key].1.is_tested(value) =>
                {
                    None
                }
                Step::Add(.., Known::Unknown) => None,
                Step::Put(_, condition, Known::Unknown) => last_alike.insert((on, true, condition), here),
                _ => {
                    let shown = |(key, step): &(usize, Step)| Some((*key, shown_by(keys[*key].1, *step)?));
                    operation.shows = operation.steps.iter().filter_map(shown).collect();
                    operation.shows.iter().for_each(|shown| *to_show.entry(*shown).or_default() += 1);
                    certain.push(operation);
                    continue;
                }
            };
            let is_other = |other: &&Operation| other.source == operation.source;
            operation.excludes = possible.last().filter(is_other).map(|_| here - 1);
            possible.push(operation);
        }
        for here in 1..possible.len() {
            if possible[here].excludes == Some(here - 1) {
                possible[here - 1].excludes = Some(here);
            }
        }
        let placed = Placed {
            first: 0,
            certain: vec![false; certain.len()],
            certain_count: 0,
            possible: vec![false; possible.len()],
            unknown: Unknown::default(),
        };
        let states = vec![None; keys.len()];
        Search { keys, history, certain, possible, placed, states, to_show }
    }

    fn run(mut self, limits: &Limits) -> Result<(), Fault> {
        let mut seen: HashSet<Vec<u64>> = HashSet::new();
        let mut furthest = (0, self.report());
        let mut levels = vec![self.level(None)];
        let (mut steps, mut bytes) = (0, 0);
        let key = self.keys.iter().map(|(key, _)| *key).collect::<Vec<_>>().join(", ");
        while let Some(level) = levels.last_mut() {
            if self.placed.certain_count == self.certain.len() {
                return Ok(());
            }
            let Some((choice, states)) = level.choices.pop() else {
                let level = levels.pop().expect("looked at just now");
                self.go_back(level.undo, levels.last());
                continue;
            };
            steps += 1;
            if steps > limits.max_steps || bytes > limits.max_bytes {
                let why = format!("given up after {} steps and {bytes} bytes", steps - 1);
                return Err(Fault::Undecided { key, why });
            }
            self.place(choice, states);
            let configuration = self.configuration();
            let size = size_of::<Vec<u64>>() + size_of_val(configuration.as_slice());
            if !seen.insert(configuration) {
                self.go_back(Some(choice), levels.last());
                continue;
            }
            bytes += size;
            if self.placed.certain_count > furthest.0 {
                furthest = (self.placed.certain_count, self.report());
            }
            levels.push(self.level(Some(choice)));
        }
        Err(Fault::NotLinearizable { key, report: furthest.1 })
    }

    fn place(&mut self, choice: Choice, states: States) {
        let before = std::mem::replace(&mut self.states, states);
        match choice {
            Choice::Possible(i) => {
                self.placed.possible[i] = true;
                self.placed.unknown.before.push(before);
                self.placed.unknown.pending = self.pending_after(i);
            }
            Choice::Certain(i) => {
                self.placed.certain[i] = true;
                self.placed.certain_count += 1;
                self.placed.unknown = Unknown::default();
                for shown in &self.certain[i].shows {
                    *self.to_show.get_mut(shown).expect("counted at the start") -= 1;
                }
                while self.placed.certain.get(self.placed.first) == Some(&true) {
                    self.placed.first += 1;
                }
            }
        }
    }

    fn go_back(&mut self, undo: Option<Choice>, to: Option<&Level>) {
        match undo {
            Some(Choice::Possible(i)) => self.placed.possible[i] = false,
            Some(Choice::Certain(i)) => {
                self.placed.certain[i] = false;
                self.placed.certain_count -= 1;
                for shown in &self.certain[i].shows {
                    *self.to_show.get_mut(shown).expect("counted at the start") += 1;
                }
            }
            None => {}
        }
        if let Some(level) = to {
            self.states.clone_from(&level.states);
            self.placed.first = level.first;
            self.placed.unknown.clone_from(&level.unknown);
        }
    }

    fn level(&self, undo: Option<Choice>) -> Level {
        let (states, unknown) = (self.states.clone(), self.placed.unknown.clone());
        Level { choices: self.choices(), states, first: self.placed.first, unknown, undo }
    }

    /// What can be placed next, the most promising last, each with the values it leaves.
    fn choices(&self) -> Vec<(Choice, States)> {
        let mut fitting = Vec::new();
        let frontier = self.frontier();
        for &i in &frontier.certain {
            let operation = &self.certain[i];
            if !self.placed.unknown.pending.iter().all(|p| operation.touches(&self.possible[*p])) {
                continue;
            }
            let Some(states) = self.leaves(operation, &self.states) else { continue };
            if states == self.states {
                return vec![(Choice::Certain(i), states)];
            }
            if self.may_leave(operation, &states) {
                fitting.push((operation.hint, operation.end_ns, Choice::Certain(i), states));
            }
        }
        let possible = self.possible.iter().enumerate();
        let possible = possible.take_while(|(_, operation)| operation.call_ns <= frontier.until_ns);
        for (i, operation) in possible {
            let is_next_alike = operation.after.is_none_or(|after| self.placed.possible[after]);
            let is_excluded = operation.excludes.is_some_and(|other| self.placed.possible[other]);
            if self.placed.possible[i] || !is_next_alike || is_excluded {
                continue;
            }
            let Some(states) = self.leaves(operation, &self.states) else { continue };
            if self.may_leave(operation, &states) && self.is_of_use(i, &states, &frontier) {
                fitting.push((operation.hint, u64::MAX, Choice::Possible(i), states));
            }
        }
        // What stands before everything that is to come; then what nothing is known of, as it may let that fit; then the rest.
        let next = frontier.certain.iter().filter_map(|&i| self.certain[i].hint).min();
        let rank = |hint: Option<Hint>| match hint {
            Some(hint) if next.is_none_or(|next| hint <= next) => 0,
            None => 1,
            Some(_) => 2,
        };
        let keys = |choice: &Choice| match choice {
            Choice::Certain(_) => 0,
            Choice::Possible(i) => self.possible[*i].steps.len(),
        };
        fitting.sort_by_key(|(hint, end_ns, choice, _)| Reverse((rank(*hint), *hint, *end_ns, keys(choice))));
        fitting.into_iter().map(|(.., choice, states)| (choice, states)).collect()
    }

    /// The unknown operations that what follows must need, once this one is placed.
    fn pending_after(&self, i: usize) -> Vec<usize> {
        let operation = &self.possible[i];
        let pending = self.placed.unknown.pending.iter().copied();
        pending.filter(|p| !operation.touches(&self.possible[*p])).chain([i]).collect()
    }

    /// Whether something that is to come needs this unknown operation, which leaves `after`: it is on a key of all that are
    /// pending then, and its answer fits, or it does something else, only now; or it needs another unknown one too.
    fn is_of_use(&self, i: usize, after: &States, frontier: &Frontier) -> bool {
        let operation = &self.possible[i];
        let pending = self.pending_after(i);
        let is_on_all = |other: &Operation| pending.iter().all(|p| other.touches(&self.possible[*p]));
        let needs_it = |other: &Operation| {
            let with = self.leaves(other, after);
            with.is_some() && with != self.leaves(other, &self.states)
        };
        let next = || frontier.certain.iter().map(|&certain| &self.certain[certain]);
        let others = || {
            let open = (0..self.possible.len()).filter(|&other| other != i && !self.placed.possible[other]);
            open.map(|other| &self.possible[other])
        };
        // Of one key the last write alone counts. So two unknown ones on different keys are both of use only to what is
        // on both of these.
        let may_need_more = |other: &&Operation| {
            let is_joined = |next: &Operation| next.steps.len() > 1 && is_on_all(next) && next.touches(other);
            !other.touches(operation) && next().any(is_joined)
        };
        // Whatever leaves another value changes what an addition leaves. It is of use to it only when they fill a gap together,
        // or when something asks for a revision of which nobody knows the value.
        let is_vague = |other: &Operation| {
            let [(key, Step::Put(_, condition, _) | Step::Delete(condition, _))] = other.steps[..] else {
                return false;
            };
            let revision = condition.filter(|condition| matches!(condition, Condition::ModRevision(_)));
            let revision = revision.and_then(Condition::number);
            revision.is_some_and(|revision| self.keys[key].1.value_at(revision).is_none())
        };
        let is_any = others().any(|other| other.touches(operation) && is_vague(other));
        next().any(|next| is_on_all(next) && needs_it(next))
            || others().any(|other| {
                other.touches(operation) && (is_any || addition(other).is_none()) && needs_it(other)
            })
            || operation.steps.iter().any(|(key, _)| self.may_fill_a_gap(*key, after, frontier, others()))
            || others().any(|other| may_need_more(&other))
    }

    /// Whether the value of a key in `after` and additions of unknown outcome may add up to what something that is to come
    /// shows.
    fn may_fill_a_gap<'b>(
        &'b self,
        key: usize,
        after: &States,
        frontier: &Frontier,
        others: impl Iterator<Item = &'b Operation>,
    ) -> bool {
        let now = match after[key] {
            None => 0,
            Some(Value::Number(now)) => now,
            Some(Value::Text(_)) => return false,
        };
        let alike = others.filter_map(addition).filter(|(other, _)| *other == key);
        let amounts: Vec<i64> = alike.map(|(_, amount)| amount).collect();
        let may_show = |shown: i64| may_add_up(amounts.clone(), i128::from(shown) - i128::from(now));
        let names = self.keys[key].1;
        // Where nobody knows the revision or the version that an answer names, more than one value may have it.
        let is_vague = |step: Step| match step {
            Step::AddConflict(..) => true,
            Step::Refused(_, mod_revision) => mod_revision != 0,
            Step::Put(_, condition, _)
            | Step::Delete(condition, _)
            | Step::DeleteNothing(condition)
            | Step::Add(_, condition, ..) => {
                matches!(condition, Some(Condition::ModRevision(_) | Condition::Version(1..)))
            }
            Step::Read(..) | Step::ReadAbsent | Step::Clear(_) => false,
            // What it found it says; a test that did not hold says little.
            Step::Txn(_) => true,
        };
        let next = frontier.certain.iter().flat_map(|&certain| &self.certain[certain].steps);
        !amounts.is_empty()
            && next.filter(|(other, _)| *other == key).any(|(_, step)| {
                match (*step, shown_by(names, *step)) {
                    (Step::Add(amount, _, Some(told), _), _) => {
                        told.checked_sub(amount).is_some_and(may_show)
                    }
                    (_, Some(Value::Number(shown))) => may_show(shown),
                    (_, Some(Value::Text(_))) => false,
                    (step, None) => is_vague(step) && leaves(names, step, self.states[key]).is_none(),
                }
            })
    }

    /// Whether a write that leaves `after` can follow, as far as the values it replaces and the unknown writes before it
    /// are concerned.
    fn may_leave(&self, write: &Operation, after: &States) -> bool {
        let is_shown_enough = self.states.iter().zip(after).enumerate().all(|(key, (now, next))| {
            let Some(value) = now.filter(|_| now != next) else { return true };
            let to_show = self.to_show.get(&(key, value)).copied().unwrap_or(0);
            to_show == usize::from(write.shows.contains(&(key, value)))
        });
        let needs_them_all = || {
            self.placed.unknown.before.iter().all(|before| self.leaves(write, before).as_ref() != Some(after))
        };
        is_shown_enough && needs_them_all()
    }

    /// The values after an operation, or `None` when its answer does not fit the values before it.
    fn leaves(&self, operation: &Operation, before: &States) -> Option<States> {
        let event = &self.history[operation.source];
        if let Op::Txn(txn) = &event.op {
            return self.txn_leaves(operation, txn, &event.answer, before);
        }
        let mut after = before.clone();
        if let Op::DeleteRange { .. } = self.history[operation.source].op {
            let mut removed = 0;
            for (key, _) in &operation.steps {
                removed += u64::from(after[*key].take().is_some());
            }
            let fits = match self.history[operation.source].answer {
                Answer::DeletedRange { deleted, .. } => removed == deleted,
                // An unknown one that finds nothing to delete need not be placed.
                _ => removed > 0,
            };
            return fits.then_some(after);
        }
        for (key, step) in &operation.steps {
            after[*key] = leaves(self.keys[*key].1, *step, before[*key])?;
        }
        Some(after)
    }

    /// The values after a transaction: the steps of its keys, and tests that decide together.
    fn txn_leaves(
        &self,
        operation: &Operation,
        txn: &Txn,
        answer: &Answer,
        before: &States,
    ) -> Option<States> {
        let key_of = |name: &str| self.keys.iter().position(|(key, _)| *key == name);
        let decided = match answer {
            Answer::Txn { succeeded, .. } => Some(*succeeded),
            _ => None,
        };
        let succeeded = decided.or(operation.branch)?;
        let tests = || {
            txn.tests.iter().filter_map(|test| {
                let key = key_of(&test.key)?;
                let names = self.keys[key].1;
                Some((names.test(&test.holds), names, before[key]))
            })
        };
        let tests_fit = match succeeded {
            true => tests().all(|(test, names, now)| test.may_hold(names, now)),
            false => tests().any(|(test, names, now)| test.may_fail(names, now)),
        };
        if !tests_fit {
            return None;
        }
        let mut after = before.clone();
        if decided.is_some() {
            for (key, step) in &operation.steps {
                after[*key] = leaves(self.keys[*key].1, *step, before[*key])?;
            }
            return Some(after);
        }
        for op in txn.branch(succeeded) {
            match op {
                TxnOp::Get { .. } => {}
                TxnOp::Put { key, value } => {
                    let key = key_of(key)?;
                    after[key] = self.keys[key].1.find(value);
                }
                TxnOp::Delete { key } => after[key_of(key)?] = None,
            }
        }
        // One that changes nothing need not be placed.
        (after != *before).then_some(after)
    }

    /// The certain operations not placed that were called before any of them returned.
    fn frontier(&self) -> Frontier {
        let mut frontier = Frontier { certain: Vec::new(), until_ns: u64::MAX };
        for (i, operation) in self.certain.iter().enumerate().skip(self.placed.first) {
            if operation.call_ns > frontier.until_ns {
                break;
            }
            if !self.placed.certain[i] {
                frontier.until_ns = frontier.until_ns.min(operation.end_ns);
                frontier.certain.push(i);
            }
        }
        frontier
    }

    /// All that the rest of the search depends on, without the long run of placed operations at the start.
    fn configuration(&self) -> Vec<u64> {
        let Placed { first, certain, possible, unknown, .. } = &self.placed;
        let mut words = vec![*first as u64, unknown.before.len() as u64, unknown.pending.len() as u64];
        words.extend(unknown.pending.iter().map(|pending| *pending as u64));
        for state in unknown.before.iter().flatten().chain(&self.states) {
            words.extend(match *state {
                None => [0, 0],
                Some(Value::Text(number)) => [1, number],
                Some(Value::Number(number)) => [2, number.cast_unsigned()],
            });
        }
        words.extend((0..possible.len()).filter(|i| possible[*i]).map(|i| i as u64));
        words.push(u64::MAX);
        let until_ns = self.frontier().until_ns;
        let window = self.certain[*first..].iter().take_while(|operation| operation.call_ns <= until_ns);
        words.extend((0..window.count()).filter(|i| certain[first + i]).map(|i| i as u64));
        words
    }

    fn report(&self) -> String {
        let (placed, all) = (self.placed.certain_count, self.certain.len());
        let value = |(state, (key, names)): (&State, &Key<'_>)| {
            let value = state.map_or("absent".to_owned(), |value| format!("{:?}", names.text(value)));
            if self.keys.len() > 1 { format!("{key} {value}") } else { value }
        };
        let states = self.states.iter().zip(&self.keys).map(value).collect::<Vec<_>>().join(", ");
        let mut text = format!("with {placed} of {all} operations placed it is {states}; next:");
        for i in self.frontier().certain {
            text.push_str(&format!("\n  {}", self.history[self.certain[i].source]));
        }
        let later = (self.placed.first..all).filter(|i| !self.placed.certain[*i]).map(|i| &self.certain[i]);
        let is_shown_by =
            |o: &&Operation| o.shows.iter().any(|(key, value)| self.states[*key] == Some(*value));
        for operation in later.filter(is_shown_by).take(3) {
            let event = &self.history[operation.source];
            text.push_str(&format!("\n  this value is still to be shown by {event}"));
        }
        text
    }
}

/// The operations of a group: what one event does to several keys, or sees of them, is one.
fn operations(keys: &[Key<'_>], history: &[Event], indexes: &BTreeMap<u64, u64>) -> Vec<Operation> {
    let mut operations: Vec<Operation> = Vec::new();
    let mut known: HashMap<usize, usize> = HashMap::new();
    for (key, (_, names)) in keys.iter().enumerate() {
        for event in &names.events {
            if let (Op::Txn(txn), Answer::Unknown) =
                (&history[event.source].op, &history[event.source].answer)
            {
                if known.insert(event.source, operations.len()).is_none() {
                    operations.extend(branches(keys, event, txn));
                }
                continue;
            }
            if let Some(&at) = known.get(&event.source) {
                operations[at].steps.push((key, event.step));
                continue;
            }
            known.insert(event.source, operations.len());
            let revision = match event.step {
                Step::Put(_, _, Known::Done(revision))
                | Step::Delete(_, Known::Done(revision))
                | Step::Add(.., Known::Done(revision))
                | Step::Clear(revision) => Some(revision),
                Step::Put(value, ..) => names.revision_of(value),
                Step::Txn(_) => change(&history[event.source].answer),
                _ => None,
            };
            let after = |revision: u64| {
                let before = indexes.range(..revision).next_back().map_or(0, |(_, index)| *index);
                (2 * before + 1, revision)
            };
            let Event { index, ref op, .. } = history[event.source];
            let at = index.map(|index| (2 * index + u64::from(!op.is_write()), 0));
            operations.push(Operation {
                call_ns: event.call_ns,
                end_ns: event.end_ns,
                source: event.source,
                steps: vec![(key, event.step)],
                after: None,
                shows: Vec::new(),
                hint: at.or(revision.map(after)),
                branch: None,
                excludes: None,
            });
        }
    }
    operations
}

/// What a transaction of unknown outcome may be: for each branch that writes, an operation on all of its keys.
fn branches(keys: &[Key<'_>], event: &KeyEvent, txn: &Txn) -> Vec<Operation> {
    let writes = |branch: bool| txn.branch(branch).iter().any(|op| !matches!(op, TxnOp::Get { .. }));
    let names = txn.keys();
    let on = (0..keys.len()).filter(|key| names.contains(&keys[*key].0));
    let steps: Vec<(usize, Step)> = on.map(|key| (key, Step::Delete(None, Known::Unknown))).collect();
    let operation = |branch: bool| Operation {
        call_ns: event.call_ns,
        end_ns: event.end_ns,
        source: event.source,
        steps: steps.clone(),
        after: None,
        shows: Vec::new(),
        hint: None,
        branch: Some(branch),
        excludes: None,
    };
    [true, false].into_iter().filter(|branch| writes(*branch)).map(operation).collect()
}

/// The value after `step`, or `None` when its answer does not fit the value `now`.
pub(super) fn leaves(names: &KeyNames, step: Step, now: State) -> Option<State> {
    let may_hold = |condition: Option<Condition>| match condition {
        None => true,
        Some(Condition::Exists) => now.is_some(),
        Some(Condition::Absent) => now.is_none(),
        Some(Condition::ModRevision(revision)) => revision != 0 && names.may_be_at(now, revision),
        Some(Condition::Version(version)) => names.may_have_version(now, version),
    };
    match step {
        Step::Read(value, _) => (now == Some(value)).then_some(now),
        Step::ReadAbsent => now.is_none().then_some(now),
        Step::Put(value, condition, _) => may_hold(condition).then_some(Some(value)),
        // An unknown one that finds nothing to delete need not be placed.
        Step::Delete(condition, _) => (now.is_some() && may_hold(condition)).then_some(None),
        Step::Clear(_) => Some(None),
        Step::Add(amount, condition, told, _) => {
            KeyNames::sum(now, amount, told).filter(|_| may_hold(condition)).map(Some)
        }
        Step::AddConflict(amount, condition, mod_revision) => {
            let is_conflict = now.is_some() && KeyNames::sum(now, amount, None).is_none();
            (is_conflict && may_hold(condition) && names.may_be_at(now, mod_revision)).then_some(now)
        }
        Step::Txn(at) => names.txn(at).leaves(names, now),
        Step::DeleteNothing(condition) => (now.is_none() && may_hold(condition)).then_some(None),
        Step::Refused(condition, mod_revision) => {
            let version = names.version_at(mod_revision);
            let is_true =
                condition.is_some_and(|condition| holds(condition, mod_revision, version) != Some(true));
            (is_true && names.may_be_at(now, mod_revision)).then_some(now)
        }
    }
}

/// What real time allows next.
struct Frontier {
    certain: Vec<usize>,
    /// The first return among them: nothing called later comes before it.
    until_ns: u64,
}
