//! The search of Wing and Gong for an order of one key's operations, with Lowe's memory of the configurations already
//! seen; a configuration is the set of operations placed and the value they leave.
//!
//! Four observations keep the search short; each leaves at least one explaining order, if there is any:
//! - an operation that changes nothing and fits the value now can be placed now;
//! - a value is written once, so it must not be left while an answer that shows it is still to be placed;
//! - a write of unknown outcome is placed only directly before an operation that needs it: in front of one that would
//!   fit without it and leave the same value, it can as well be left out;
//! - unknown deletes with the same condition are interchangeable, and so are unknown puts with the same condition of
//!   values that nobody saw: the one called first is used first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::history::{Condition, Event, holds};
use super::names::{KeyEvent, KeyNames, Known, Names, Step, Value};
use super::{Fault, Limits};

/// Checks each key for linearizability.
///
/// # Errors
/// The first key that is not, before one that is undecided; and what cannot be a history at all.
pub fn check_linearizable(history: &[Event], limits: &Limits) -> Result<(), Fault> {
    let names = Names::new(history)?;
    let mut undecided = Ok(());
    for (key, names) in &names.keys {
        match Search::new(key, names, history).run(limits) {
            Err(fault) if fault.is_undecided() => undecided = undecided.and(Err(fault)),
            verdict => verdict?,
        }
    }
    undecided
}

/// The value of the key.
pub(super) type State = Option<Value>;

/// An operation that may have to be placed.
struct Operation {
    event: KeyEvent,
    /// Interchangeable with this one, which is used first.
    after: Option<usize>,
    /// The one value that its answer allows before it.
    shows: Option<Value>,
}

/// The search on one key. `certain` operations must all be placed; `possible` ones, the writes of unknown outcome,
/// may be. Both in the order of their calls.
struct Search<'a> {
    key: &'a str,
    names: &'a KeyNames,
    history: &'a [Event],
    certain: Vec<Operation>,
    possible: Vec<Operation>,
    placed: Placed,
    state: State,
    /// How many certain operations not placed show a value.
    to_show: BTreeMap<Value, usize>,
}

/// Which operations are placed.
struct Placed {
    /// The first certain operation that is not.
    first: usize,
    certain: Vec<bool>,
    certain_count: usize,
    possible: Vec<bool>,
    /// The values before each of the unknown ones placed last, with nothing certain behind them.
    before_unknown: Vec<State>,
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    Certain(usize),
    Possible(usize),
}

/// One level of the search: what was tried from here, and how to come back.
struct Level {
    choices: Vec<(Choice, State)>,
    state: State,
    first: usize,
    before_unknown: Vec<State>,
    /// What led here; `None` at the start.
    undo: Option<Choice>,
}

/// The one value that the answer allows before it.
fn shown_by(names: &KeyNames, step: Step) -> Option<Value> {
    match step {
        Step::Read(value, _) => Some(value),
        Step::Refused(_, mod_revision) => names.value_at(mod_revision),
        Step::Put(_, Some(Condition::ModRevision(revision)), _)
        | Step::Delete(Some(Condition::ModRevision(revision)), _)
        | Step::DeleteNothing(Some(Condition::ModRevision(revision))) => names.value_at(revision),
        _ => None,
    }
}

impl<'a> Search<'a> {
    fn new(key: &'a str, names: &'a KeyNames, history: &'a [Event]) -> Search<'a> {
        let mut events = names.events.clone();
        events.sort_by_key(|event| event.call_ns);
        let (mut certain, mut possible) = (Vec::new(), Vec::new());
        let mut last_alike: HashMap<(bool, Option<Condition>), usize> = HashMap::new();
        let mut to_show: BTreeMap<Value, usize> = BTreeMap::new();
        for event in events {
            let here = possible.len();
            let after = match event.step {
                Step::Delete(condition, Known::Unknown) => last_alike.insert((false, condition), here),
                Step::Put(value, _, Known::Unknown) if names.revision_of(value).is_some() => None,
                Step::Put(_, condition, Known::Unknown) => last_alike.insert((true, condition), here),
                step => {
                    let shows = shown_by(names, step);
                    if let Some(value) = shows {
                        *to_show.entry(value).or_default() += 1;
                    }
                    certain.push(Operation { event, after: None, shows });
                    continue;
                }
            };
            possible.push(Operation { event, after, shows: None });
        }
        let placed = Placed {
            first: 0,
            certain: vec![false; certain.len()],
            certain_count: 0,
            possible: vec![false; possible.len()],
            before_unknown: Vec::new(),
        };
        Search { key, names, history, certain, possible, placed, state: None, to_show }
    }

    fn run(mut self, limits: &Limits) -> Result<(), Fault> {
        let mut seen: HashSet<Vec<u64>> = HashSet::new();
        let mut furthest = (0, self.report());
        let mut levels = vec![self.level(None)];
        let (mut steps, mut bytes) = (0, 0);
        while let Some(level) = levels.last_mut() {
            if self.placed.certain_count == self.certain.len() {
                return Ok(());
            }
            let Some((choice, state)) = level.choices.pop() else {
                let level = levels.pop().expect("looked at just now");
                self.go_back(level.undo, levels.last());
                continue;
            };
            steps += 1;
            if steps > limits.max_steps || bytes > limits.max_bytes {
                let why = format!("given up after {} steps and {bytes} bytes", steps - 1);
                return Err(Fault::Undecided { key: self.key.to_owned(), why });
            }
            self.place(choice, state);
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
        Err(Fault::NotLinearizable { key: self.key.to_owned(), report: furthest.1 })
    }

    fn place(&mut self, choice: Choice, state: State) {
        match choice {
            Choice::Possible(i) => {
                self.placed.possible[i] = true;
                self.placed.before_unknown.push(self.state);
            }
            Choice::Certain(i) => {
                self.placed.certain[i] = true;
                self.placed.certain_count += 1;
                self.placed.before_unknown.clear();
                if let Some(value) = self.certain[i].shows {
                    *self.to_show.get_mut(&value).expect("counted at the start") -= 1;
                }
                while self.placed.certain.get(self.placed.first) == Some(&true) {
                    self.placed.first += 1;
                }
            }
        }
        self.state = state;
    }

    fn go_back(&mut self, undo: Option<Choice>, to: Option<&Level>) {
        match undo {
            Some(Choice::Possible(i)) => self.placed.possible[i] = false,
            Some(Choice::Certain(i)) => {
                self.placed.certain[i] = false;
                self.placed.certain_count -= 1;
                if let Some(value) = self.certain[i].shows {
                    *self.to_show.get_mut(&value).expect("counted at the start") += 1;
                }
            }
            None => {}
        }
        if let Some(level) = to {
            self.state = level.state;
            self.placed.first = level.first;
            self.placed.before_unknown.clone_from(&level.before_unknown);
        }
    }

    fn level(&self, undo: Option<Choice>) -> Level {
        let before_unknown = self.placed.before_unknown.clone();
        Level { choices: self.choices(), state: self.state, first: self.placed.first, before_unknown, undo }
    }

    /// What can be placed next, the most promising last, each with the value it leaves.
    fn choices(&self) -> Vec<(Choice, State)> {
        let mut fitting = Vec::new();
        let frontier = self.frontier();
        for &i in &frontier.certain {
            let operation = &self.certain[i];
            let Some(state) = leaves(self.names, operation.event.step, self.state) else { continue };
            if state == self.state {
                return vec![(Choice::Certain(i), state)];
            }
            if self.may_leave(operation) {
                fitting.push((operation.event.end_ns, Choice::Certain(i), state));
            }
        }
        let possible = self.possible.iter().enumerate();
        let possible = possible.take_while(|(_, operation)| operation.event.call_ns <= frontier.until_ns);
        let mut choices: Vec<(Choice, State)> = possible
            .filter(|(i, operation)| {
                let is_next_alike = operation.after.is_none_or(|after| self.placed.possible[after]);
                !self.placed.possible[*i] && is_next_alike && self.may_leave(operation)
            })
            .filter_map(|(i, operation)| {
                Some((Choice::Possible(i), leaves(self.names, operation.event.step, self.state)?))
            })
            .collect();
        fitting.sort_by_key(|(end_ns, ..)| Reverse(*end_ns));
        choices.extend(fitting.into_iter().map(|(_, choice, state)| (choice, state)));
        choices
    }

    /// Whether a write can follow, as far as the value it replaces and the unknown writes before it are concerned.
    fn may_leave(&self, write: &Operation) -> bool {
        let to_show = self.state.and_then(|value| self.to_show.get(&value)).copied().unwrap_or(0);
        let shown_by_itself = usize::from(write.shows.is_some() && write.shows == self.state);
        let step = write.event.step;
        let needs_them_all =
            || self.placed.before_unknown.iter().all(|before| leaves(self.names, step, *before).is_none());
        to_show == shown_by_itself && needs_them_all()
    }

    /// The certain operations not placed that were called before any of them returned.
    fn frontier(&self) -> Frontier {
        let mut frontier = Frontier { certain: Vec::new(), until_ns: u64::MAX };
        for (i, operation) in self.certain.iter().enumerate().skip(self.placed.first) {
            if operation.event.call_ns > frontier.until_ns {
                break;
            }
            if !self.placed.certain[i] {
                frontier.until_ns = frontier.until_ns.min(operation.event.end_ns);
                frontier.certain.push(i);
            }
        }
        frontier
    }

    /// All that the rest of the search depends on, without the long run of placed operations at the start.
    fn configuration(&self) -> Vec<u64> {
        let Placed { first, certain, possible, before_unknown, .. } = &self.placed;
        let mut words = vec![*first as u64, before_unknown.len() as u64];
        for state in before_unknown.iter().chain([&self.state]) {
            words.extend([u64::from(state.is_some()), state.unwrap_or(0)]);
        }
        words.extend((0..possible.len()).filter(|i| possible[*i]).map(|i| i as u64));
        words.push(u64::MAX);
        let until_ns = self.frontier().until_ns;
        let window =
            self.certain[*first..].iter().take_while(|operation| operation.event.call_ns <= until_ns);
        words.extend((0..window.count()).filter(|i| certain[first + i]).map(|i| i as u64));
        words
    }

    fn report(&self) -> String {
        let (placed, all) = (self.placed.certain_count, self.certain.len());
        let state = self.state.map_or("absent".to_owned(), |value| format!("{:?}", self.names.text(value)));
        let mut text = format!("with {placed} of {all} operations placed it is {state}; next:");
        for i in self.frontier().certain {
            text.push_str(&format!("\n  {}", self.history[self.certain[i].event.source]));
        }
        let later = (self.placed.first..all).filter(|i| !self.placed.certain[*i]).map(|i| &self.certain[i]);
        for operation in later.filter(|o| o.shows.is_some() && o.shows == self.state).take(3) {
            let event = &self.history[operation.event.source];
            text.push_str(&format!("\n  this value is still to be shown by {event}"));
        }
        text
    }
}

/// The value after `step`, or `None` when its answer does not fit the value `now`.
pub(super) fn leaves(names: &KeyNames, step: Step, now: State) -> Option<State> {
    let may_hold = |condition: Option<Condition>| match condition {
        None => true,
        Some(Condition::Exists) => now.is_some(),
        Some(Condition::Absent) => now.is_none(),
        Some(Condition::ModRevision(revision)) => revision != 0 && names.may_be_at(now, revision),
    };
    match step {
        Step::Read(value, _) => (now == Some(value)).then_some(now),
        Step::ReadAbsent => now.is_none().then_some(now),
        Step::Put(value, condition, _) => may_hold(condition).then_some(Some(value)),
        // An unknown one that finds nothing to delete need not be placed.
        Step::Delete(condition, _) => (now.is_some() && may_hold(condition)).then_some(None),
        Step::DeleteNothing(condition) => (now.is_none() && may_hold(condition)).then_some(None),
        Step::Refused(condition, mod_revision) => {
            let is_true = condition.is_some_and(|condition| !holds(condition, mod_revision));
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
