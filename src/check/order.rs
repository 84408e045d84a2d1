//! The order that the log indexes give, checked against real time, the revisions, and a plain map that replays it.
//!
//! An entry holds one write, and a read stands after the last entry that it saw; reads of one index have no order
//! among themselves. That gives a line of *places*. A change without an index *floats*: if an answer names its revision
//! it stands somewhere between what was seen before and after that revision, and gets the last place that real time
//! allows, or an earlier one where its key needs it. Other writes of unknown outcome are put in where a key needs them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::history::{Answer, Condition, Event, Op};
use super::names::{KeyEvent, KeyNames, Known, Names, Step, Value};
use super::search::{State, leaves, shown_by};
use super::txn_steps::After;
use super::value::may_add_up;
use super::{Fault, change, newest_before, seen_revision};

/// Most states that the unknown writes of one key may be tried in. Each is compared with all those before it, so their
/// time grows with the square; what is given up here the search may still decide.
const MAX_TRIES: usize = 5_000;

/// Checks the answers against the order of their log indexes. What has no index, and no revision in its place, is left
/// to the search.
///
/// # Errors
/// [`Fault::Order`], and those of the revisions; [`Fault::Undecided`] when the unknown writes of a key leave a choice
/// that was not tried to the end.
pub fn check_order(history: &[Event]) -> Result<(), Fault> {
    let names = Names::new(history)?;
    let (places, floats) = line_up(history, &names)?;
    check_real_time(history, &places)?;
    check_store_revisions(history, &places)?;
    let line = Line::new(history, &places, &floats);
    let mut undecided = Ok(());
    let mut given_up: Vec<&str> = Vec::new();
    let mut cleared = Cleared::new();
    let mut held = Held::new();
    for (key, names) in &names.keys {
        match replay(key, names, history, &line, &floats, &mut cleared, &mut held) {
            Err(fault) if fault.is_undecided() => {
                undecided = undecided.and(Err(fault));
                given_up.push(key);
            }
            verdict => verdict?,
        }
    }
    check_counts(history, &cleared, &given_up)?;
    check_refused(history, &held)?;
    undecided
}

/// How many keys the removal of a range can have found, at least and at most, by event.
type Cleared = BTreeMap<usize, (u64, u64)>;

/// A removal of a range says how many keys it removed; each key was replayed on its own. Whether a key was there that was
/// given up nobody knows.
fn check_counts(history: &[Event], cleared: &Cleared, given_up: &[&str]) -> Result<(), Fault> {
    for (source, event) in history.iter().enumerate() {
        let Answer::DeletedRange { deleted, .. } = event.answer else { continue };
        if given_up.iter().any(|key| event.op.concerns(key)) {
            continue;
        }
        // One that removed nothing was replayed as a look at every key.
        let (least, most) = cleared.get(&source).copied().unwrap_or_default();
        if !(least..=most).contains(&deleted) {
            return Err(Fault::Order(format!("here the range has {least} to {most} keys: {event}")));
        }
    }
    Ok(())
}

/// Of how many keys all tests of a transaction surely held, by event.
type Held = BTreeMap<usize, usize>;

/// A transaction that did not succeed has a test that did not hold; each key was replayed on its own.
fn check_refused(history: &[Event], held: &Held) -> Result<(), Fault> {
    for (source, event) in history.iter().enumerate() {
        let (Op::Txn(txn), Answer::Txn { succeeded: false, .. }) = (&event.op, &event.answer) else {
            continue;
        };
        let mut tested: Vec<&str> = txn.tests.iter().map(|test| test.key.as_str()).collect();
        tested.sort_unstable();
        tested.dedup();
        if held.get(&source).copied().unwrap_or(0) == tested.len() {
            return Err(Fault::Order(format!("here all tests hold: {event}")));
        }
    }
    Ok(())
}

/// Events that stand at one place; more than one only when they are reads.
type Place = Vec<usize>;

/// The first place that a floating event could have, by event.
type Floats = HashMap<usize, usize>;

/// The places in their order, with the floating events each at its last one.
fn line_up(history: &[Event], names: &Names) -> Result<(Vec<Place>, Floats), Fault> {
    let mut placed: Vec<(u64, bool, usize)> = Vec::new();
    for (source, event) in history.iter().enumerate() {
        let took_place = match event.answer {
            Answer::NotDone => false,
            // Of a transaction it is not known what it did there.
            Answer::Unknown => event.op.is_write() && !matches!(event.op, Op::Txn(_)),
            _ => true,
        };
        if let (true, Some(index)) = (took_place, event.index) {
            placed.push((index, !event.op.is_write(), source));
        }
    }
    placed.sort_unstable();
    if let Some(pair) = placed.windows(2).find(|p| p[0].0 == p[1].0 && !p[0].1 && !p[1].1) {
        let (a, b) = (&history[pair[0].2], &history[pair[1].2]);
        return Err(Fault::Order(format!("an entry holds one write: {a}, but {b}")));
    }
    let places: Vec<Place> = placed
        .chunk_by(|a, b| a.1 && b.1 && a.0 == b.0)
        .map(|chunk| chunk.iter().map(|(_, _, source)| *source).collect())
        .collect();
    let floating = floating(history, names);
    if floating.is_empty() {
        return Ok((places, Floats::new()));
    }
    insert(history, places, floating)
}

/// Changes without an index whose revision is known, by their revision.
fn floating(history: &[Event], names: &Names) -> BTreeMap<u64, usize> {
    let mut floating = BTreeMap::new();
    for names in names.keys.values() {
        for event in names.events.iter().filter(|event| history[event.source].index.is_none()) {
            let revision = match event.step {
                Step::Put(_, _, Known::Done(revision))
                | Step::Delete(_, Known::Done(revision))
                | Step::Add(.., Known::Done(revision))
                | Step::Clear(revision) => revision,
                Step::Txn(_) => match change(&history[event.source].answer) {
                    Some(revision) => revision,
                    None => continue,
                },
                Step::Put(value, _, Known::Unknown) => match names.revision_of(value) {
                    Some(revision) => revision,
                    None => continue,
                },
                _ => continue,
            };
            floating.insert(revision, event.source);
        }
    }
    floating
}

/// Puts each change as late as the revisions seen after it and its own return allow.
fn insert(
    history: &[Event],
    places: Vec<Place>,
    floating: BTreeMap<u64, usize>,
) -> Result<(Vec<Place>, Floats), Fault> {
    let line = Line::new(history, &places, &Floats::new());
    // Up to each place: the greatest revision seen. And the places that tell the store's revision exactly.
    let mut greatest = 0;
    let mut seen = Vec::with_capacity(places.len());
    let mut exact: Vec<(u64, usize)> = Vec::new();
    for (at, place) in places.iter().enumerate() {
        for &source in place {
            let answer = &history[source].answer;
            greatest = greatest.max(seen_revision(answer).unwrap_or(0));
            if newest_before(answer).is_some() {
                exact.push((seen_revision(answer).unwrap_or(0), at));
            }
        }
        seen.push(greatest);
    }
    let mut chosen: Vec<(usize, u64, usize)> = Vec::new();
    let mut floats = Floats::new();
    let mut next_larger = places.len();
    for (&revision, &source) in floating.iter().rev() {
        let event = &history[source];
        let older = exact.partition_point(|(exact, _)| *exact < revision);
        let after_older = older.checked_sub(1).map_or(0, |i| exact[i].1 + 1);
        let after_ended = line.least_end.partition_point(|end_ns| *end_ns < event.call_ns);
        let first = after_older.max(after_ended);
        let last = (seen.partition_point(|seen| *seen < revision))
            .min(line.greatest_call.partition_point(|call_ns| *call_ns <= event.end_ns()))
            .min(next_larger);
        if first > last {
            return Err(Fault::Order(format!(
                "between what was seen before and after its revision, or its call and its return, there is no place \
                 for {event}"
            )));
        }
        floats.insert(source, first);
        next_larger = last;
        chosen.push((last, revision, source));
    }
    chosen.sort_unstable();
    let mut chosen = chosen.into_iter().peekable();
    let mut merged = Vec::with_capacity(places.len() + floating.len());
    // Where each of the given places is now.
    let mut now_at = Vec::with_capacity(places.len());
    for (at, place) in places.into_iter().enumerate() {
        while let Some((_, _, source)) = chosen.next_if(|(before, ..)| *before <= at) {
            merged.push(vec![source]);
        }
        now_at.push(merged.len());
        merged.push(place);
    }
    merged.extend(chosen.map(|(_, _, source)| vec![source]));
    for first in floats.values_mut() {
        *first = now_at.get(*first).copied().unwrap_or(merged.len());
    }
    Ok((merged, floats))
}

/// What real time says about the places.
struct Line {
    /// The place of each event that has one.
    place_of: Vec<Option<usize>>,
    /// The greatest call up to each place.
    greatest_call: Vec<u64>,
    /// The least end from each place on, of what cannot stand before it.
    least_end: Vec<u64>,
}

impl Line {
    fn new(history: &[Event], places: &[Place], floats: &Floats) -> Line {
        let mut place_of = vec![None; history.len()];
        let mut greatest_call = Vec::with_capacity(places.len());
        let mut so_far = 0;
        for (at, place) in places.iter().enumerate() {
            for &source in place {
                place_of[source] = Some(at);
                so_far = so_far.max(history[source].call_ns);
            }
            greatest_call.push(so_far);
        }
        let mut least_end = vec![u64::MAX; places.len()];
        let mut from_here = u64::MAX;
        for (at, place) in places.iter().enumerate().rev() {
            let may_be_earlier = |source| floats.get(source).is_some_and(|first| *first < at);
            let fixed = place.iter().filter(|source| !may_be_earlier(source));
            from_here = fixed.map(|&source| history[source].end_ns()).fold(from_here, u64::min);
            least_end[at] = from_here;
        }
        Line { place_of, greatest_call, least_end }
    }
}

/// Nothing stands before something that had ended when it was called.
fn check_real_time(history: &[Event], places: &[Place]) -> Result<(), Fault> {
    let mut latest: Option<&Event> = None;
    for place in places {
        for event in place.iter().map(|&source| &history[source]) {
            if let Some(latest) = latest
                && latest.call_ns > event.end_ns()
            {
                return Err(Fault::Order(format!("{latest} stands before {event}, but was called later")));
            }
        }
        let here = place.iter().map(|&source| &history[source]);
        latest = latest.into_iter().chain(here).max_by_key(|event| event.call_ns);
    }
    Ok(())
}

/// The store's revision never falls, and rises with each change.
fn check_store_revisions(history: &[Event], places: &[Place]) -> Result<(), Fault> {
    let mut newest: Option<(u64, &Event)> = None;
    let events = places.iter().flatten().map(|&source| &history[source]);
    for event in events {
        if let (Some(before), Some((greatest, earlier))) = (newest_before(&event.answer), newest)
            && before < greatest
        {
            return Err(Fault::Order(format!("{earlier} stands before {event}, but saw a later revision")));
        }
        if let Some(revision) = seen_revision(&event.answer).or_else(|| change(&event.answer))
            && newest.is_none_or(|(greatest, _)| greatest <= revision)
        {
            newest = Some((revision, event));
        }
    }
    Ok(())
}

/// What may have happened to a key so far: what it holds, and which writes without a place of their own that took.
#[derive(Clone, PartialEq, Eq)]
struct Way {
    state: State,
    /// Unknown writes, by their place in [`Loose::open`].
    used: Vec<bool>,
    /// Floating ones that stand before their last place, by their place in [`Loose::floating`].
    early: Vec<bool>,
}

impl Way {
    /// Whether whatever can follow the other can follow this one: it holds the same and used no more.
    fn is_at_least(&self, other: &Way) -> bool {
        let uses_no_more = self.used.iter().zip(&other.used).all(|(mine, theirs)| mine <= theirs);
        self.state == other.state && self.early == other.early && uses_no_more
    }
}

/// Replays one key. Writes that are loose are tried where the next answer cannot be explained without.
fn replay(
    key: &str,
    names: &KeyNames,
    history: &[Event],
    line: &Line,
    floats: &Floats,
    cleared: &mut Cleared,
    held: &mut Held,
) -> Result<(), Fault> {
    let place_of = |event: &KeyEvent| line.place_of[event.source];
    let mut placed: Vec<(usize, KeyEvent)> =
        names.events.iter().filter_map(|event| Some((place_of(event)?, *event))).collect();
    placed.sort_by_key(|(at, _)| *at);
    let loose = Loose::new(names, &placed, floats, |event| place_of(event).is_none());
    let (used, early) = (vec![false; loose.open.len()], vec![false; loose.floating.len()]);
    let mut ways = vec![Way { state: None, used, early }];
    let mut tries = 0;
    for here in placed.chunk_by(|a, b| a.0 == b.0) {
        let until_ns = line.least_end[here[0].0];
        for (_, event) in here.iter().filter(|(_, event)| matches!(event.step, Step::Clear(_))) {
            // A loose write may or may not have come before, whatever the ways so far say.
            let is_sure = loose.open.is_empty() && loose.floating.is_empty();
            let is_there = ways.iter().all(|way| way.state.is_some());
            let may_be_there = ways.iter().any(|way| way.state.is_some());
            let (least, most) = cleared.entry(event.source).or_default();
            *least += u64::from(is_sure && is_there);
            *most += u64::from(!is_sure || may_be_there);
        }
        for (at, event) in here.iter().filter_map(|(_, event)| match event.step {
            Step::Txn(at) => Some((at, event)),
            _ => None,
        }) {
            let txn = names.txn(at);
            let is_sure = loose.open.is_empty() && loose.floating.is_empty();
            if is_sure && !txn.tests.is_empty() && !ways.iter().any(|way| txn.may_fail(names, way.state)) {
                *held.entry(event.source).or_default() += 1;
            }
        }
        let is_early =
            |way: &Way, at| loose.floating.iter().position(|f| f.last == at).is_some_and(|f| way.early[f]);
        let fits = |way: &Way| {
            if is_early(way, here[0].0) {
                return Some(way.clone());
            }
            let state = here.iter().try_fold(way.state, |now, (_, event)| leaves(names, event.step, now))?;
            Some(Way { state, ..way.clone() })
        };
        let mut next: Vec<Way> = Vec::new();
        // Mostly it is plain what an answer needs. Where it is not, everything is tried.
        for is_strict in [true, false] {
            if is_strict && !names.has_additions() {
                continue;
            }
            let mut tried: Vec<Way> = Vec::new();
            let mut queue: VecDeque<Way> = ways.iter().cloned().collect();
            while let Some(way) = queue.pop_front() {
                if let Some(fitting) = fits(&way) {
                    if !next.iter().any(|other| other.is_at_least(&fitting)) {
                        next.push(fitting);
                    }
                    continue;
                }
                let steps = here.iter().map(|(_, event)| event.step);
                let shown = steps.filter_map(|step| shown_by(names, step)).next();
                let fits_at = |state| fits(&Way { state, ..way.clone() }).is_some();
                let goal = Goal { shown, fits_at: &fits_at, is_strict };
                for way in loose.choices(names, &way, here[0].0, until_ns, &goal) {
                    if !tried.iter().any(|other| other.is_at_least(&way)) {
                        tries += 1;
                        tried.push(way.clone());
                        queue.push_back(way);
                    }
                }
                if tries > MAX_TRIES || next.len() > MAX_TRIES {
                    let why = format!("given up after {tries} ways to place its unknown writes");
                    return Err(Fault::Undecided { key: key.to_owned(), why });
                }
            }
            if !next.is_empty() {
                break;
            }
        }
        if next.is_empty() {
            return Err(unexplained(key, names, history, here, &ways));
        }
        ways = next;
    }
    // What may or may not have happened changes how often the key was put.
    if loose.open.is_empty() && loose.floating.is_empty() {
        return count_versions(key, names, history, &placed);
    }
    Ok(())
}

/// Counts the versions of a key along its line, where nothing of it is loose.
fn count_versions(
    key: &str,
    names: &KeyNames,
    history: &[Event],
    placed: &[(usize, KeyEvent)],
) -> Result<(), Fault> {
    let mut version = 0;
    for (_, KeyEvent { step, source, .. }) in placed {
        match step {
            Step::Put(..) | Step::Add(..) => version += 1,
            Step::Delete(..) | Step::Clear(_) => version = 0,
            Step::Txn(at) => match names.txn(*at).after {
                After::Value(_) => version += 1,
                After::Absent => version = 0,
                After::Same => {}
            },
            Step::Read(..)
            | Step::ReadAbsent
            | Step::DeleteNothing(_)
            | Step::Refused(..)
            | Step::AddConflict(..) => {}
        }
        if let Some(told) = history[*source].version
            && told != version
        {
            let event = &history[*source];
            return Err(Fault::Order(format!("here the key {key:?} has version {version}: {event}")));
        }
    }
    Ok(())
}

fn unexplained(
    key: &str,
    names: &KeyNames,
    history: &[Event],
    here: &[(usize, KeyEvent)],
    ways: &[Way],
) -> Fault {
    let shown = |way: &Way| way.state.map_or_else(|| "absent".to_owned(), |value| names.text(value));
    let mut states: Vec<String> = ways.iter().map(shown).collect();
    states.dedup();
    let events: Vec<String> =
        here.iter().map(|(_, event)| format!("\n  {}", history[event.source])).collect();
    Fault::Order(format!("here the key {key:?} can only be {}:{}", states.join(" or "), events.concat()))
}

/// A change that may stand anywhere from `first` to `last`.
struct Floating {
    first: usize,
    last: usize,
    end_ns: u64,
    step: Step,
}

/// The writes of a key that are not bound to one place.
struct Loose {
    /// Those that may never have happened, in the order of their calls.
    open: Vec<KeyEvent>,
    /// Those that happened, in the order of their revisions.
    floating: Vec<Floating>,
}

impl Loose {
    fn new(
        names: &KeyNames,
        placed: &[(usize, KeyEvent)],
        floats: &Floats,
        has_no_place: impl Fn(&KeyEvent) -> bool,
    ) -> Loose {
        let is_unknown = |event: &&KeyEvent| {
            matches!(
                event.step,
                Step::Put(.., Known::Unknown)
                    | Step::Delete(_, Known::Unknown)
                    | Step::Add(.., Known::Unknown)
            )
        };
        let mut open: Vec<KeyEvent> =
            names.events.iter().filter(|event| has_no_place(event)).filter(is_unknown).copied().collect();
        open.sort_by_key(|event| event.call_ns);
        // Nobody saw the values of these puts, or they would have a place. What no transaction compares either needs no
        // telling apart.
        let mut any = None;
        for write in &mut open {
            if let Step::Put(value, ..) = &mut write.step
                && !names.is_own(*value)
                && !names.is_tested(*value)
            {
                *value = *any.get_or_insert(*value);
            }
        }
        let float = |(last, event): &(usize, KeyEvent)| {
            let first = *floats.get(&event.source).filter(|first| *first < last)?;
            Some(Floating { first, last: *last, end_ns: event.end_ns, step: event.step })
        };
        Loose { open, floating: placed.iter().filter_map(float).collect() }
    }

    /// What may have happened next, before the place `here`, where the answer shows a value.
    fn choices(&self, names: &KeyNames, way: &Way, here: usize, until_ns: u64, goal: &Goal<'_>) -> Vec<Way> {
        let mut choices = Vec::new();
        // In the order of their revisions: the first one that has not happened.
        let next = (0..self.floating.len()).find(|&f| !way.early[f] && self.floating[f].last >= here);
        if let Some(f) = next
            && self.floating[f].first <= here
            && let Some(state) = leaves(names, self.floating[f].step, way.state)
        {
            let mut way = Way { state, ..way.clone() };
            way.early[f] = true;
            choices.push(way);
        }
        let after = (0..self.floating.len()).filter(|&f| !way.early[f] && self.floating[f].last >= here);
        let until_ns = after.map(|f| self.floating[f].end_ns).fold(until_ns, u64::min);
        for i in self.candidates(names, way, until_ns) {
            let Some(state) = leaves(names, self.open[i].step, way.state) else { continue };
            let moved = next.map(|f| self.floating[f].step);
            if goal.is_strict && !self.may_lead_to(names, goal, moved, state, i, way) {
                continue;
            }
            let mut way = Way { state, ..way.clone() };
            way.used[i] = true;
            choices.push(way);
        }
        choices
    }

    /// Whether a write that leaves the number `state` can be a step to what the answer needs: alone, with additions, or as
    /// what a condition finds.
    fn may_lead_to(
        &self,
        names: &KeyNames,
        goal: &Goal<'_>,
        moved: Option<Step>,
        state: State,
        i: usize,
        way: &Way,
    ) -> bool {
        if !matches!(state, Some(Value::Number(_))) {
            return true;
        }
        let is_open = |other: &usize| *other != i && !way.used[*other];
        let others: Vec<Step> =
            (0..self.open.len()).filter(is_open).map(|other| self.open[other].step).collect();
        let amount = |step: &Step| match *step {
            Step::Add(amount, ..) => Some(amount),
            _ => None,
        };
        // The next one that has happened, and has not its place yet, may come first.
        let also_shown = moved.and_then(|step| shown_by(names, step));
        let fills_a_gap = |state: State| {
            let Some(Value::Number(now)) = state else { return false };
            goal.shown.into_iter().chain(also_shown).any(|shown| match shown {
                Value::Number(shown) => {
                    let amounts = others.iter().filter_map(amount).collect();
                    may_add_up(amounts, i128::from(shown) - i128::from(now))
                }
                Value::Text(_) => false,
            })
        };
        let lets_move = |state| {
            let fits = |state| moved.is_some_and(|step| leaves(names, step, state).is_some());
            fits(state) && !fits(way.state)
        };
        let reaches = |state| (goal.fits_at)(state) || fills_a_gap(state) || lets_move(state);
        let is_found = |step: &Step| {
            let is_addition = amount(step).is_some();
            !is_addition
                && leaves(names, *step, way.state).is_none()
                && leaves(names, *step, state).is_some_and(reaches)
        };
        reaches(state) || others.iter().any(is_found)
    }

    /// Which of the open ones to try next. Of those that do the same under one condition the one called first: the others
    /// can still be used later. For the same reason, of those that do the same, the ones with the narrowest condition.
    fn candidates(&self, names: &KeyNames, way: &Way, until_ns: u64) -> Vec<usize> {
        let mut found: Vec<(Effect, Option<Condition>, usize)> = Vec::new();
        for (i, event) in self.open.iter().enumerate() {
            let (effect, condition) = match event.step {
                Step::Put(value, condition, _) => (Effect::Put(value), condition),
                Step::Delete(condition, _) => (Effect::Delete, condition),
                Step::Add(amount, condition, ..) => (Effect::Add(amount), condition),
                _ => unreachable!("only unknown writes are open"),
            };
            if !way.used[i]
                && event.call_ns <= until_ns
                && leaves(names, event.step, way.state).is_some()
                && !found.iter().any(|(other, known, _)| (*other, *known) == (effect, condition))
            {
                found.push((effect, condition, i));
            }
        }
        let narrowest = |effect: Effect| {
            let alike = found.iter().filter(|(other, ..)| *other == effect);
            alike.map(|(_, condition, _)| breadth(*condition)).min()
        };
        let kept =
            found.iter().filter(|(effect, condition, _)| Some(breadth(*condition)) == narrowest(*effect));
        kept.map(|(.., i)| *i).collect()
    }
}

/// What the answers at a place need.
struct Goal<'a> {
    /// The value that they show, where they do.
    shown: Option<Value>,
    /// Whether they fit a state.
    fits_at: &'a dyn Fn(State) -> bool,
    /// Whether only writes are tried that can be seen to lead there.
    is_strict: bool,
}

/// What an open write does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Put(Value),
    Delete,
    Add(i64),
}

/// Where a condition holds, those of greater breadth that can hold there do, too.
fn breadth(condition: Option<Condition>) -> u8 {
    match condition {
        Some(Condition::ModRevision(_) | Condition::Version(1..)) => 0,
        Some(Condition::Exists | Condition::Absent | Condition::Version(0)) => 1,
        None => 2,
    }
}
