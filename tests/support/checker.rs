//! Decides whether what clients saw of the store could have come from one map that does one thing at a time.
//!
//! [`check`] looks twice. [`check_revisions`] uses that the store numbers its changes: each revision belongs to one
//! write, and a write called after another one returned has the greater revision, whatever their keys.
//! [`check_linearizable`] does not trust the numbers: for each key on its own (linearizability is local: Herlihy and
//! Wing, §3.2) it searches an order of the operations that explains every answer and never puts an operation before
//! one that returned earlier than it was called. The search is that of Wing and Gong with Lowe's memory of the
//! configurations already seen; a configuration is the set of operations placed and the value they leave.
//!
//! Four observations keep the search short; each leaves at least one explaining order, if there is any:
//! - an operation that changes nothing and fits the value now can be placed now;
//! - a value is written once, so it must not be left while an answer that shows it is still to be placed;
//! - a write of unknown outcome is placed only directly before an operation that needs it: in front of one that would
//!   fit without it and leave the same value, it can as well be left out;
//! - unknown deletes with the same condition are interchangeable, and so are unknown puts with the same condition of
//!   values that nobody saw: the one called first is used first.
//!
//! The harness promises: values are unique per key; an operation retried under one idempotency key is one event;
//! stale reads and reads of old revisions are left out; times come from one clock. Times that are equal count as
//! concurrent, so a simulator should count steps rather than ticks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// More steps than this say that the search will not end. A history without fault takes about one step per event.
pub const MAX_STEPS: usize = 1_000_000;

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Who; for the report only.
    pub client: u64,
    /// On which key.
    pub key: String,
    /// When it was called, in microseconds of the clock that all events share.
    pub call_us: u64,
    /// When its answer was there. Without meaning when the answer is [`Answer::Unknown`].
    pub return_us: u64,
    /// What was asked.
    pub op: Op,
    /// What was answered.
    pub result: Answer,
}

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A linearizable read.
    Get,
    /// A write.
    Put {
        /// Stands for the value written; no other put of the key has it.
        value: u64,
        /// What must hold for it.
        condition: Option<Condition>,
    },
    /// A removal.
    Delete {
        /// What must hold for it.
        condition: Option<Condition>,
    },
}

/// What must hold of the key for a write to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// It was last changed at this revision; 0 never holds.
    ModRevision(u64),
    /// It exists.
    Exists,
    /// It does not exist.
    Absent,
}

impl Condition {
    fn holds(self, mod_revision: u64) -> bool {
        match self {
            Condition::ModRevision(wanted) => mod_revision != 0 && mod_revision == wanted,
            Condition::Exists => mod_revision != 0,
            Condition::Absent => mod_revision == 0,
        }
    }
}

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a get: the value, and the revision that wrote it.
    Value {
        /// The value read. One that no put wrote is a fault of the store.
        value: u64,
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
    /// To a conditional write: the condition did not hold.
    PreconditionFailed {
        /// The revision that last changed the key; 0 = absent.
        mod_revision: u64,
    },
    /// Surely not done, now or later.
    NotDone,
    /// Nobody knows: it may take effect at any time after its call, or never.
    Unknown,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event { client, key, call_us, return_us, op, result } = self;
        write!(f, "client {client} {key:?} [{call_us}..{return_us}] {op:?} -> {result:?}")
    }
}

/// Why a history is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The revisions in the answers contradict each other or real time.
    Revisions(String),
    /// No order explains the answers about this key.
    NotLinearizable {
        /// The key.
        key: String,
        /// How far the search got, and what it could not place.
        report: String,
    },
    /// The search took too long: neither good nor bad, and so a failure of the test.
    Undecided {
        /// The key.
        key: String,
        /// Steps after which it was given up.
        steps: usize,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Revisions(text) => write!(f, "the revisions contradict each other: {text}"),
            Fault::NotLinearizable { key, report } => write!(f, "key {key:?} is not linearizable: {report}"),
            Fault::Undecided { key, steps } => write!(f, "key {key:?} is undecided after {steps} steps"),
        }
    }
}

impl std::error::Error for Fault {}

/// Checks a history both ways.
pub fn check(history: &[Event]) -> Result<(), Fault> {
    check_revisions(history)?;
    check_linearizable(history, MAX_STEPS)
}

/// Checks that revisions agree with each other and with real time, over all keys.
pub fn check_revisions(history: &[Event]) -> Result<(), Fault> {
    names_of_revisions(history)?;
    let mut returned: Vec<(u64, u64, &Event)> =
        history.iter().filter_map(|e| Some((e.return_us, seen_revision(e.result)?, e))).collect();
    returned.sort_unstable_by_key(|(return_us, ..)| *return_us);
    let mut called: Vec<&Event> = history.iter().collect();
    called.sort_unstable_by_key(|event| event.call_us);
    let mut returned = returned.into_iter().peekable();
    let mut greatest: Option<(u64, &Event)> = None;
    for event in called {
        while let Some((_, revision, earlier)) =
            returned.next_if(|(return_us, ..)| *return_us < event.call_us)
        {
            if greatest.is_none_or(|(greatest, _)| revision > greatest) {
                greatest = Some((revision, earlier));
            }
        }
        let least = match event.result {
            Answer::Written { revision } | Answer::Deleted { revision, deleted: true } => revision - 1,
            Answer::Deleted { revision, deleted: false } => revision,
            _ => continue,
        };
        if let Some((greatest, earlier)) = greatest
            && greatest > least
        {
            return Err(Fault::Revisions(format!("{event} was called after the return of {earlier}")));
        }
    }
    Ok(())
}

/// A revision that surely existed when the answer was given.
fn seen_revision(answer: Answer) -> Option<u64> {
    match answer {
        Answer::Value { mod_revision, .. } | Answer::PreconditionFailed { mod_revision } => {
            Some(mod_revision)
        }
        Answer::Written { revision } | Answer::Deleted { revision, .. } => Some(revision),
        Answer::Absent | Answer::NotDone | Answer::Unknown => None,
    }
}

/// Which revision stands for which value of a key, as far as the answers tell.
#[derive(Default)]
struct Names<'a> {
    value_of: BTreeMap<(&'a str, u64), u64>,
    revision_of: BTreeMap<(&'a str, u64), u64>,
}

impl Names<'_> {
    /// The one value that the answer of `event` allows before it.
    fn shown_by(&self, event: &Event) -> Option<u64> {
        let named = |revision| self.value_of.get(&(event.key.as_str(), revision)).copied();
        match (event.op, event.result) {
            (_, Answer::Value { value, .. }) => Some(value),
            (_, Answer::PreconditionFailed { mod_revision }) => named(mod_revision),
            (Op::Put { condition, .. } | Op::Delete { condition }, _) => match condition {
                Some(Condition::ModRevision(revision)) => named(revision),
                _ => None,
            },
            _ => None,
        }
    }
}

fn names_of_revisions(history: &[Event]) -> Result<Names<'_>, Fault> {
    let contradiction = |a: &Event, b: &Event| Err(Fault::Revisions(format!("{a}, but {b}")));
    let mut names = Names::default();
    // What each revision did (a value, or none for a delete), and where each value came from.
    let mut changes: BTreeMap<u64, (&str, Option<u64>, &Event)> = BTreeMap::new();
    let mut values: BTreeMap<(&str, u64), (u64, &Event)> = BTreeMap::new();
    let mut writers: BTreeMap<u64, &Event> = BTreeMap::new();
    for event in history {
        let (revision, value, is_writer) = match (event.op, event.result) {
            (Op::Put { value, .. }, Answer::Written { revision }) => (revision, Some(value), true),
            (Op::Get, Answer::Value { value, mod_revision }) => (mod_revision, Some(value), false),
            (Op::Delete { .. }, Answer::Deleted { revision, deleted: true }) => (revision, None, true),
            (Op::Delete { .. }, Answer::Deleted { .. }) | (Op::Get, Answer::Absent) => continue,
            (Op::Put { .. } | Op::Delete { .. }, Answer::PreconditionFailed { .. }) => continue,
            (_, Answer::NotDone | Answer::Unknown) => continue,
            _ => panic!("the harness recorded an answer that does not belong to its operation: {event}"),
        };
        let key = event.key.as_str();
        if revision == 0 {
            return Err(Fault::Revisions(format!("no change has revision 0: {event}")));
        }
        if is_writer && let Some(other) = writers.insert(revision, event) {
            return contradiction(other, event);
        }
        let &mut (change_key, change_value, other) = changes.entry(revision).or_insert((key, value, event));
        if (change_key, change_value) != (key, value) {
            return contradiction(other, event);
        }
        let Some(value) = value else { continue };
        let &mut (known, other) = values.entry((key, value)).or_insert((revision, event));
        if known != revision {
            return contradiction(other, event);
        }
        names.value_of.insert((key, revision), value);
        names.revision_of.insert((key, value), revision);
    }
    Ok(names)
}

/// Checks each key for linearizability, with at most `max_steps` steps per key.
pub fn check_linearizable(history: &[Event], max_steps: usize) -> Result<(), Fault> {
    let names = names_of_revisions(history)?;
    let mut by_key: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in history {
        by_key.entry(&event.key).or_default().push(event);
    }
    by_key.into_iter().try_for_each(|(key, events)| Search::new(key, events, &names).run(max_steps))
}

/// The value of the key, by its name.
type State = Option<u64>;

/// An operation that may have to be placed.
struct Operation<'a> {
    event: &'a Event,
    /// Interchangeable with this one, which is used first.
    after: Option<usize>,
    /// The one value that its answer allows before it.
    shows: Option<u64>,
}

/// The search on one key. `certain` operations must all be placed; `possible` ones, the writes of unknown outcome,
/// may be. Both in the order of their calls.
struct Search<'a> {
    key: &'a str,
    names: &'a Names<'a>,
    certain: Vec<Operation<'a>>,
    possible: Vec<Operation<'a>>,
    placed: Placed,
    state: State,
    /// How many certain operations not placed show a value.
    to_show: BTreeMap<u64, usize>,
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

impl<'a> Search<'a> {
    fn new(key: &'a str, mut events: Vec<&'a Event>, names: &'a Names<'a>) -> Search<'a> {
        events.sort_by_key(|event| event.call_us);
        let mut written = HashSet::new();
        for event in &events {
            if let Op::Put { value, .. } = event.op {
                assert!(written.insert(value), "the harness wrote a value twice: {event}");
            }
            let is_known = event.result != Answer::Unknown;
            assert!(!is_known || event.call_us <= event.return_us, "returned before it was called: {event}");
        }
        let (mut certain, mut possible) = (Vec::new(), Vec::new());
        let mut last_alike: HashMap<(bool, Option<Condition>), usize> = HashMap::new();
        let mut to_show: BTreeMap<u64, usize> = BTreeMap::new();
        for event in events {
            match (event.op, event.result) {
                (_, Answer::NotDone) | (Op::Get, Answer::Unknown) => {}
                (op, Answer::Unknown) => {
                    let here = possible.len();
                    let after = match op {
                        Op::Delete { condition } => last_alike.insert((false, condition), here),
                        Op::Put { value, .. } if names.revision_of.contains_key(&(key, value)) => None,
                        Op::Put { condition, .. } => last_alike.insert((true, condition), here),
                        Op::Get => None,
                    };
                    possible.push(Operation { event, after, shows: None });
                }
                _ => {
                    let shows = names.shown_by(event);
                    if let Some(value) = shows {
                        *to_show.entry(value).or_default() += 1;
                    }
                    certain.push(Operation { event, after: None, shows });
                }
            }
        }
        let placed = Placed {
            first: 0,
            certain: vec![false; certain.len()],
            certain_count: 0,
            possible: vec![false; possible.len()],
            before_unknown: Vec::new(),
        };
        Search { key, names, certain, possible, placed, state: None, to_show }
    }

    fn run(mut self, max_steps: usize) -> Result<(), Fault> {
        let mut seen: HashSet<Vec<u64>> = HashSet::new();
        let mut furthest = (0, self.report());
        let mut levels = vec![self.level(None)];
        let mut steps = 0;
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
            if steps > max_steps {
                return Err(Fault::Undecided { key: self.key.to_owned(), steps: max_steps });
            }
            self.place(choice, state);
            if !seen.insert(self.configuration()) {
                self.go_back(Some(choice), levels.last());
                continue;
            }
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
            let Some(state) = self.step(operation.event, self.state) else { continue };
            if state == self.state {
                return vec![(Choice::Certain(i), state)];
            }
            if self.may_leave(operation) {
                fitting.push((operation.event.return_us, Choice::Certain(i), state));
            }
        }
        let possible = self.possible.iter().enumerate();
        let possible = possible.take_while(|(_, operation)| operation.event.call_us <= frontier.until_us);
        let mut choices: Vec<(Choice, State)> = possible
            .filter(|(i, operation)| {
                let is_next_alike = operation.after.is_none_or(|after| self.placed.possible[after]);
                !self.placed.possible[*i] && is_next_alike && self.may_leave(operation)
            })
            .filter_map(|(i, operation)| Some((Choice::Possible(i), self.step(operation.event, self.state)?)))
            .collect();
        fitting.sort_by_key(|(return_us, ..)| Reverse(*return_us));
        choices.extend(fitting.into_iter().map(|(_, choice, state)| (choice, state)));
        choices
    }

    /// Whether a write can follow, as far as the value it replaces and the unknown writes before it are concerned.
    fn may_leave(&self, write: &Operation) -> bool {
        let to_show = self.state.and_then(|value| self.to_show.get(&value)).copied().unwrap_or(0);
        let shown_by_itself = usize::from(write.shows.is_some() && write.shows == self.state);
        let needs_them_all =
            || self.placed.before_unknown.iter().all(|before| self.step(write.event, *before).is_none());
        to_show == shown_by_itself && needs_them_all()
    }

    /// The certain operations not placed that were called before any of them returned.
    fn frontier(&self) -> Frontier {
        let mut frontier = Frontier { certain: Vec::new(), until_us: u64::MAX };
        for (i, operation) in self.certain.iter().enumerate().skip(self.placed.first) {
            if operation.event.call_us > frontier.until_us {
                break;
            }
            if !self.placed.certain[i] {
                frontier.until_us = frontier.until_us.min(operation.event.return_us);
                frontier.certain.push(i);
            }
        }
        frontier
    }

    /// The value after `event`, or `None` when its answer does not fit the value `now`.
    fn step(&self, event: &Event, now: State) -> Option<State> {
        let may_hold = |condition: Option<Condition>| match condition {
            None => true,
            Some(Condition::Exists) => now.is_some(),
            Some(Condition::Absent) => now.is_none(),
            Some(Condition::ModRevision(revision)) => revision != 0 && self.may_be_at(now, revision),
        };
        match (event.op, event.result) {
            (Op::Get, Answer::Value { value, .. }) => (now == Some(value)).then_some(now),
            (Op::Get, Answer::Absent) => now.is_none().then_some(now),
            (Op::Put { value, condition }, Answer::Written { .. } | Answer::Unknown) => {
                may_hold(condition).then_some(Some(value))
            }
            (Op::Delete { condition }, Answer::Deleted { deleted, .. }) => {
                (now.is_some() == deleted && may_hold(condition)).then_some(None)
            }
            // One that finds nothing to delete need not be placed.
            (Op::Delete { condition }, Answer::Unknown) => {
                (now.is_some() && may_hold(condition)).then_some(None)
            }
            (
                Op::Put { condition, .. } | Op::Delete { condition },
                Answer::PreconditionFailed { mod_revision },
            ) => {
                let is_true = condition.is_some_and(|condition| !condition.holds(mod_revision));
                (is_true && self.may_be_at(now, mod_revision)).then_some(now)
            }
            _ => unreachable!("recorded answers were checked: {event}"),
        }
    }

    /// Whether a key with the value `now` may have been last changed at `revision` (0 = absent). A value of unknown
    /// revision may have any that is not known to be another value's.
    fn may_be_at(&self, now: State, revision: u64) -> bool {
        let Some(value) = now else { return revision == 0 };
        match self.names.revision_of.get(&(self.key, value)) {
            Some(known) => *known == revision,
            None => revision != 0 && !self.names.value_of.contains_key(&(self.key, revision)),
        }
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
        let until_us = self.frontier().until_us;
        let window =
            self.certain[*first..].iter().take_while(|operation| operation.event.call_us <= until_us);
        words.extend((0..window.count()).filter(|i| certain[first + i]).map(|i| i as u64));
        words
    }

    fn report(&self) -> String {
        let (placed, all) = (self.placed.certain_count, self.certain.len());
        let mut text =
            format!("with {placed} of {all} operations placed the value is {:?}; next:", self.state);
        for i in self.frontier().certain {
            text.push_str(&format!("\n  {}", self.certain[i].event));
        }
        let later = (self.placed.first..all).filter(|i| !self.placed.certain[*i]).map(|i| &self.certain[i]);
        for operation in later.filter(|o| o.shows.is_some() && o.shows == self.state).take(3) {
            text.push_str(&format!("\n  this value is still to be shown by {}", operation.event));
        }
        text
    }
}

/// What real time allows next.
struct Frontier {
    certain: Vec<usize>,
    /// The first return among them: nothing called later comes before it.
    until_us: u64,
}
