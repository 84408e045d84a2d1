//! The order that the log indexes give, checked against real time, the revisions, and a plain map that replays it.
//!
//! An entry holds one write, and a read stands after the last entry that it saw; reads of one index have no order
//! among themselves. That gives a line of *places*. A change without an index *floats*: if an answer names its revision
//! it stands somewhere between what was seen before and after that revision, and gets the last place that real time
//! allows, or an earlier one where its key needs it. Other writes of unknown outcome are put in where a key needs them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::history::{Answer, Condition, Event};
use super::names::{KeyEvent, KeyNames, Known, Names, Step};
use super::search::{State, leaves};
use super::{Fault, change, newest_before, seen_revision};

/// Most states that the unknown writes of one key may be tried in.
const MAX_TRIES: usize = 100_000;

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
    let mut cleared = Cleared::new();
    for (key, names) in &names.keys {
        match replay(key, names, history, &line, &floats, &mut cleared) {
            Err(fault) if fault.is_undecided() => undecided = undecided.and(Err(fault)),
            verdict => verdict?,
        }
    }
    check_counts(history, &cleared).and(undecided)
}

/// How many keys the removal of a range can have found, at least and at most, by event.
type Cleared = BTreeMap<usize, (u64, u64)>;

/// A removal of a range says how many keys it removed; each key was replayed on its own.
fn check_counts(history: &[Event], cleared: &Cleared) -> Result<(), Fault> {
    for (source, event) in history.iter().enumerate() {
        let Answer::DeletedRange { deleted, .. } = event.answer else { continue };
        // One that removed nothing was replayed as a look at every key.
        let (least, most) = cleared.get(&source).copied().unwrap_or_default();
        if !(least..=most).contains(&deleted) {
            return Err(Fault::Order(format!("here the range has {least} to {most} keys: {event}")));
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
            Answer::Unknown => event.op.is_write(),
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
                | Step::Clear(revision) => revision,
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
        let mut tried: Vec<Way> = Vec::new();
        let mut queue: VecDeque<Way> = ways.iter().cloned().collect();
        while let Some(way) = queue.pop_front() {
            if let Some(fitting) = fits(&way) {
                if !next.iter().any(|other| other.is_at_least(&fitting)) {
                    next.push(fitting);
                }
                continue;
            }
            for way in loose.choices(names, &way, here[0].0, until_ns) {
                if !tried.iter().any(|other| other.is_at_least(&way)) {
                    tried.push(way.clone());
                    queue.push_back(way);
                }
            }
            tries += 1;
            if tries > MAX_TRIES {
                let why = format!("given up after {tries} ways to place its unknown writes");
                return Err(Fault::Undecided { key: key.to_owned(), why });
            }
        }
        if next.is_empty() {
            return Err(unexplained(key, names, history, here, &ways));
        }
        ways = next;
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
    let mut states: Vec<&str> =
        ways.iter().map(|way| way.state.map_or("absent", |value| names.text(value))).collect();
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
            matches!(event.step, Step::Put(.., Known::Unknown) | Step::Delete(_, Known::Unknown))
        };
        let mut open: Vec<KeyEvent> =
            names.events.iter().filter(|event| has_no_place(event)).filter(is_unknown).copied().collect();
        open.sort_by_key(|event| event.call_ns);
        // Nobody saw the values of these puts, or they would have a place: they need no telling apart.
        let mut any = None;
        for write in &mut open {
            if let Step::Put(value, ..) = &mut write.step {
                *value = *any.get_or_insert(*value);
            }
        }
        let float = |(last, event): &(usize, KeyEvent)| {
            let first = *floats.get(&event.source).filter(|first| *first < last)?;
            Some(Floating { first, last: *last, end_ns: event.end_ns, step: event.step })
        };
        Loose { open, floating: placed.iter().filter_map(float).collect() }
    }

    /// What may have happened next, before the place `here`.
    fn choices(&self, names: &KeyNames, way: &Way, here: usize, until_ns: u64) -> Vec<Way> {
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
            let mut way = Way { state, ..way.clone() };
            way.used[i] = true;
            choices.push(way);
        }
        choices
    }

    /// Which of the open ones to try next. Of those with one condition the one called first: the others can still be used
    /// later. For the same reason, of those that do the same, the ones with the narrowest condition.
    fn candidates(&self, names: &KeyNames, way: &Way, until_ns: u64) -> Vec<usize> {
        let mut found: Vec<(bool, Option<Condition>, usize)> = Vec::new();
        for (i, event) in self.open.iter().enumerate() {
            let (is_put, condition) = match event.step {
                Step::Put(_, condition, _) => (true, condition),
                Step::Delete(condition, _) => (false, condition),
                _ => unreachable!("only unknown writes are open"),
            };
            if !way.used[i]
                && event.call_ns <= until_ns
                && leaves(names, event.step, way.state).is_some()
                && !found.iter().any(|(other, known, _)| (*other, *known) == (is_put, condition))
            {
                found.push((is_put, condition, i));
            }
        }
        let narrowest = |is_put| {
            found
                .iter()
                .filter(|(other, ..)| *other == is_put)
                .map(|(_, condition, _)| breadth(*condition))
                .min()
        };
        let narrowest = [narrowest(false), narrowest(true)];
        let kept = found
            .iter()
            .filter(|(is_put, condition, _)| Some(breadth(*condition)) == narrowest[usize::from(*is_put)]);
        kept.map(|(.., i)| *i).collect()
    }
}

/// Where a condition holds, those of greater breadth that can hold there do, too.
fn breadth(condition: Option<Condition>) -> u8 {
    match condition {
        Some(Condition::ModRevision(_)) => 0,
        Some(Condition::Exists | Condition::Absent) => 1,
        None => 2,
    }
}
