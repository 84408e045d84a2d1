//! The linearizability checker of the other suites, tested itself: histories judged by hand, and thousands of small
//! random ones judged by trying every order.

#[path = "checker/txn.rs"]
mod txn;

use std::collections::BTreeMap;
use std::sync::Arc;

use dkv::check::{
    Answer, Committed, Condition, Event, Fault, Limits, Op, Parts, Row, check_linearizable, check_order,
    check_revisions, read_history, resolve_unknown, write_history, write_of,
};
use dkv::vocabulary::{KeyRange, OpKind};
use fastrand::Rng;
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

fn check(history: &[Event]) -> Result<(), Fault> {
    dkv::check::check(history, &Limits::default())
}

fn event(times: (u64, u64), op: Op, answer: Answer) -> Event {
    Event { process: 1, call_ns: times.0, return_ns: times.1, op, answer, index: None, version: None }
}

fn put_op(value: u64, condition: Option<Condition>) -> Op {
    Op::Put { key: "k".into(), value: text(value), condition }
}

/// From here on the numbers of these tests stand for values that are no integers.
const TEXT: u64 = 1 << 62;

fn text(value: u64) -> String {
    value.checked_sub(TEXT).map_or_else(|| value.to_string(), |number| format!("x{number}"))
}

fn add_op(amount: i64, condition: Option<Condition>) -> Op {
    Op::Add { key: "k".into(), amount, condition }
}

fn add(times: (u64, u64), amount: i64, value: i64, revision: u64) -> Event {
    event(times, add_op(amount, None), Answer::Added { revision, value })
}

fn unknown_add(call_ns: u64, amount: i64) -> Event {
    event((call_ns, 0), add_op(amount, None), Answer::Unknown)
}

fn delete_op(condition: Option<Condition>) -> Op {
    Op::Delete { key: "k".into(), condition }
}

fn get_op() -> Op {
    Op::Get { key: "k".into() }
}

fn value_of(value: u64, mod_revision: u64) -> Answer {
    Answer::Value { value: text(value), mod_revision }
}

fn put(times: (u64, u64), value: u64, revision: u64) -> Event {
    event(times, put_op(value, None), Answer::Written { revision })
}

fn cas(times: (u64, u64), value: u64, condition: Condition, answer: Answer) -> Event {
    event(times, put_op(value, Some(condition)), answer)
}

fn unknown_put(call_ns: u64, value: u64) -> Event {
    event((call_ns, 0), put_op(value, None), Answer::Unknown)
}

fn delete(times: (u64, u64), revision: u64, deleted: bool) -> Event {
    event(times, delete_op(None), Answer::Deleted { revision, deleted })
}

fn get(times: (u64, u64), value: u64, mod_revision: u64) -> Event {
    event(times, get_op(), value_of(value, mod_revision))
}

fn absent(times: (u64, u64)) -> Event {
    event(times, get_op(), Answer::Absent)
}

/// The same on another key.
fn elsewhere(mut event: Event) -> Event {
    match &mut event.op {
        Op::Get { key } | Op::Put { key, .. } | Op::Delete { key, .. } | Op::Add { key, .. } => {
            *key = "other".into();
        }
        Op::List { .. } | Op::DeleteRange { .. } | Op::Txn(_) => {}
    }
    event
}

fn at(index: u64, event: Event) -> Event {
    Event { index: Some(index), ..event }
}

#[track_caller]
fn assert_good(history: &[Event]) {
    if let Err(fault) = check(history) {
        panic!("{fault}");
    }
}

#[track_caller]
fn assert_not_linearizable(history: &[Event]) {
    let verdict = check_linearizable(history, &Limits::default());
    assert!(matches!(verdict, Err(Fault::NotLinearizable { .. })), "{verdict:?}");
    assert!(check(history).is_err());
}

#[track_caller]
fn assert_bad_revisions(history: &[Event]) {
    let verdict = check_revisions(history);
    assert!(matches!(verdict, Err(Fault::Revisions(_))), "{verdict:?}");
    assert_eq!(check(history), verdict);
}

#[track_caller]
fn assert_bad_order(history: &[Event]) {
    let verdict = check_order(history);
    assert!(matches!(verdict, Err(Fault::Order(_))), "{verdict:?}");
}

#[test]
fn check_accepts_what_one_map_would_do() {
    assert_good(&[]);
    assert_good(&[
        absent((1, 2)),
        put((3, 4), 10, 1),
        get((5, 6), 10, 1),
        delete((7, 8), 2, true),
        absent((9, 10)),
    ]);
    // Two puts at once, seen in the order that their calls do not have.
    assert_good(&[put((1, 9), 10, 2), put((2, 8), 20, 1), get((3, 4), 20, 1), get((10, 11), 10, 2)]);
    // A read at the same time as a put may see it or not, but not see it and then not.
    assert_good(&[put((5, 20), 10, 1), absent((6, 8)), get((9, 10), 10, 1)]);
    // Equal times are concurrent.
    assert_good(&[put((1, 5), 10, 1), absent((5, 6))]);
}

#[test]
fn check_finds_a_stale_read() {
    assert_not_linearizable(&[put((1, 2), 10, 1), absent((3, 4))]);
    assert_not_linearizable(&[put((1, 2), 10, 1), put((3, 4), 20, 2), get((5, 6), 10, 1)]);
    assert_not_linearizable(&[put((5, 20), 10, 1), get((6, 8), 10, 1), absent((9, 10))]);
    assert_not_linearizable(&[put((1, 2), 10, 1), delete((3, 4), 2, true), get((5, 6), 10, 1)]);
}

#[test]
fn check_finds_a_value_nobody_wrote_or_that_was_not_done() {
    assert_not_linearizable(&[get((1, 2), 10, 1)]);
    let refused = event((1, 2), put_op(10, None), Answer::NotDone);
    assert_good(&[refused.clone(), absent((3, 4))]);
    assert_not_linearizable(&[refused, get((3, 4), 10, 1)]);
    let early = check_linearizable(&[get((1, 2), 10, 1), put((3, 4), 10, 1)], &Limits::default());
    assert!(matches!(early, Err(Fault::NotLinearizable { .. })), "{early:?}");
}

#[test]
fn check_lets_an_unknown_write_happen_late_or_never_but_once() {
    assert_good(&[unknown_put(1, 10), absent((2, 3)), absent((50, 51))]);
    assert_good(&[unknown_put(1, 10), absent((2, 3)), get((50, 51), 10, 1)]);
    assert_good(&[unknown_put(1, 10), put((2, 3), 20, 1), get((4, 5), 20, 1), get((50, 51), 10, 2)]);
    assert_not_linearizable(&[unknown_put(5, 10), get((1, 2), 10, 1)]);
    let twice = [unknown_put(1, 10), get((2, 3), 10, 1), put((4, 5), 20, 2), get((6, 7), 10, 1)];
    assert_not_linearizable(&twice);

    let unknown_delete = event((3, 0), delete_op(None), Answer::Unknown);
    let read = get((4, 5), 10, 1);
    assert_good(&[put((1, 2), 10, 1), unknown_delete.clone(), read.clone(), absent((6, 7))]);
    assert_not_linearizable(&[put((1, 2), 10, 1), unknown_delete, absent((4, 5)), get((6, 7), 10, 1)]);
    assert_good(&[event((1, 0), get_op(), Answer::Unknown)]);
}

#[test]
fn check_follows_conditions() {
    let holds_at = Condition::ModRevision;
    let written = |revision| Answer::Written { revision };
    let failed = |mod_revision| Answer::PreconditionFailed { mod_revision };
    assert_good(&[
        cas((1, 2), 10, Condition::Absent, written(1)),
        cas((3, 4), 20, Condition::Absent, failed(1)),
        cas((5, 6), 30, holds_at(1), written(2)),
        cas((7, 8), 40, holds_at(1), failed(2)),
        cas((9, 10), 50, Condition::Exists, written(3)),
        event((11, 12), delete_op(Some(holds_at(3))), Answer::Deleted { revision: 4, deleted: true }),
        cas((13, 14), 60, Condition::Exists, failed(0)),
    ]);
    let first = put((1, 2), 10, 1);
    // The lost update: both saw revision 1, both were told that it still held.
    assert_not_linearizable(&[
        first.clone(),
        cas((3, 9), 20, holds_at(1), written(2)),
        cas((4, 8), 30, holds_at(1), written(3)),
    ]);
    assert_not_linearizable(&[first.clone(), cas((3, 4), 20, Condition::Absent, written(2))]);
    assert_not_linearizable(&[first.clone(), cas((3, 4), 20, holds_at(1), failed(1))]);
    assert_not_linearizable(&[first.clone(), cas((3, 4), 20, Condition::Exists, failed(0))]);
    assert_not_linearizable(&[first.clone(), event((3, 4), put_op(20, None), failed(1))]);
    assert_not_linearizable(&[first, delete((3, 4), 1, false)]);
    // Refused because of a write whose own answer was lost.
    assert_good(&[
        put((1, 2), 10, 1),
        unknown_put(3, 20),
        cas((4, 5), 30, holds_at(1), failed(2)),
        get((6, 7), 20, 2),
    ]);
    assert_not_linearizable(&[
        put((1, 2), 10, 1),
        cas((4, 5), 30, holds_at(1), failed(2)),
        get((6, 7), 10, 1),
    ]);
}

#[test]
fn check_follows_versions() {
    let version = |version, event| Event { version: Some(version), ..event };
    let written = |revision| Answer::Written { revision };
    let failed = |mod_revision| Answer::PreconditionFailed { mod_revision };
    let is = Condition::Version;
    let first = version(1, put((1, 2), 10, 2));
    assert_good(&[
        cas((1, 2), 10, is(0), written(2)),
        version(1, get((3, 4), 10, 2)),
        version(1, cas((5, 6), 20, is(0), failed(2))),
        version(2, cas((7, 8), 30, is(1), written(3))),
        version(2, cas((9, 10), 40, is(1), failed(3))),
        delete((11, 12), 4, true),
        version(0, cas((13, 14), 50, is(2), failed(0))),
        version(1, put((15, 16), 60, 5)),
    ]);
    assert_not_linearizable(&[first.clone(), cas((3, 4), 20, is(2), written(3))]);
    assert_not_linearizable(&[first.clone(), cas((3, 4), 20, is(0), written(3))]);
    assert_not_linearizable(&[first.clone(), cas((3, 4), 20, is(1), failed(2))]);
    // What no answer tells may be any version, only not that of an absent key.
    assert_good(&[put((1, 2), 10, 2), cas((3, 4), 20, is(7), written(3))]);
    assert_not_linearizable(&[cas((3, 4), 20, is(7), written(3))]);
    // Two versions at one revision, one that falls, and one that rises too fast.
    assert_bad_revisions(&[first.clone(), version(2, get((3, 4), 10, 2))]);
    assert_bad_revisions(&[first.clone(), version(0, get((3, 4), 10, 2))]);
    assert_bad_revisions(&[first.clone(), version(1, cas((3, 4), 20, is(1), failed(0)))]);
    assert_bad_revisions(&[first.clone(), version(1, put((3, 4), 20, 3))]);
    assert_bad_revisions(&[first.clone(), version(3, put((3, 4), 20, 3))]);
    assert_bad_revisions(&[first.clone(), delete((3, 4), 3, true), version(9, put((5, 6), 20, 4))]);
    // In the order of the log they are counted.
    let counted = |n| {
        let put = |at_ns, revision| at(revision, put((at_ns, at_ns + 1), revision, revision));
        [put(1, 2), put(3, 3), at(4, delete((5, 6), 4, true)), put(7, 5), version(n, put(9, 6))]
    };
    assert_good(&counted(2));
    assert_bad_order(&counted(3));
}

#[test]
fn check_follows_counters() {
    let conflict = |mod_revision| Answer::Conflict { mod_revision };
    assert_good(&[
        add((1, 2), 5, 5, 2),
        add((3, 4), -7, -2, 3),
        event((5, 6), get_op(), Answer::Value { value: "-2".into(), mod_revision: 3 }),
        put((7, 8), TEXT + 1, 4),
        event((9, 10), add_op(1, None), conflict(4)),
        delete((11, 12), 5, true),
        add((13, 14), 11, 11, 6),
        event((15, 16), add_op(1, Some(Condition::Absent)), Answer::PreconditionFailed { mod_revision: 6 }),
        put((17, 18), i64::MAX as u64, 7),
        event((19, 20), add_op(1, None), conflict(7)),
    ]);
    // Lost: acknowledged, and not in the next sum; or not in a read.
    assert_not_linearizable(&[add((1, 2), 5, 5, 2), add((3, 4), 7, 7, 3)]);
    assert_not_linearizable(&[add((1, 2), 5, 5, 2), add((3, 4), 7, 12, 3), get((5, 6), 5, 2)]);
    // Twice: in the next sum, or in a read.
    assert_not_linearizable(&[add((1, 2), 5, 5, 2), add((3, 4), 7, 17, 3)]);
    assert_not_linearizable(&[put((1, 2), 10, 2), add((3, 4), 5, 15, 3), get((5, 6), 20, 4)]);
    // Both saw the same value.
    assert_not_linearizable(&[add((1, 9), 5, 5, 2), add((2, 8), 7, 7, 3)]);
    assert_good(&[add((1, 9), 5, 12, 3), add((2, 8), 7, 7, 2)]);
    // What is no counter, and what is.
    assert_not_linearizable(&[put((1, 2), 10, 2), event((3, 4), add_op(5, None), conflict(2))]);
    assert_not_linearizable(&[put((1, 2), TEXT, 2), add((3, 4), 5, 5, 3)]);
    assert_not_linearizable(&[event((3, 4), add_op(5, None), conflict(0))]);
    // What is unknown may be in a sum once, and not in part.
    let unknown = [put((1, 2), 10, 2), unknown_add(3, 5), unknown_add(3, 7)];
    let with = |rest: &[Event]| [&unknown[..], rest].concat();
    for (sum, last) in [(10, 2), (15, 3), (17, 3), (22, 4)] {
        assert_good(&with(&[get((5, 6), sum, last)]));
        assert_good(&with(&[add((5, 6), 100, sum as i64 + 100, last + 1)]));
    }
    assert_good(&with(&[get((5, 6), 15, 3), get((7, 8), 22, 4)]));
    assert_not_linearizable(&with(&[get((5, 6), 15, 3), get((7, 8), 17, 4)]));
    assert_not_linearizable(&with(&[get((5, 6), 20, 4)]));
    assert_not_linearizable(&with(&[get((5, 6), 22, 4), get((7, 8), 27, 5)]));
    // A value that nobody saw matters all the same when it is in a sum.
    let unseen = [unknown_put(1, 10), unknown_put(1, 20), add((3, 4), 5, 25, 3)];
    assert_good(&unseen);
    assert_good(&[unknown_put(1, 20), unknown_put(1, 10), add((3, 4), 5, 25, 3)]);
    assert_not_linearizable(&[unknown_put(1, 10), unknown_put(1, 20), add((3, 4), 5, 35, 3)]);
    // The order of the log finds it as well.
    assert_bad_order(&[at(1, add((1, 2), 5, 5, 2)), at(2, add((3, 4), 7, 7, 3))]);
    let by_order =
        [at(1, put((1, 2), 10, 2)), unknown_add(3, 5), unknown_add(3, 7), at(9, get((5, 6), 22, 4))];
    assert_good(&by_order);
    let wrong = [at(1, put((1, 2), 10, 2)), unknown_add(3, 5), unknown_add(3, 7), at(9, get((5, 6), 20, 4))];
    assert_bad_order(&wrong);
}

/// A removal of a range was a fault when the replay of one of its keys had been given up: it counted that key as absent.
#[test]
fn a_key_that_was_given_up_is_not_counted_as_absent() {
    let amounts: Vec<i64> = (0..30).map(|n| (1 << n) + 1_000_003 * n).collect();
    let mut history = vec![at(1, elsewhere(put((1, 2), 10, 1)))];
    history.extend(amounts.iter().map(|amount| unknown_add(3, *amount)));
    let sum = amounts.iter().step_by(2).sum::<i64>() as u64;
    history.push(at(30, get((5, 6), sum, 20)));
    history.push(at(31, delete_range((7, 8), 30, 2)));
    let verdict = check_order(&history);
    assert!(verdict.as_ref().is_err_and(Fault::is_undecided), "{verdict:?}");
    // Where every key was replayed, the count is looked at.
    let known = [
        at(1, elsewhere(put((1, 2), 10, 1))),
        at(2, add((3, 4), 5, 5, 2)),
        at(3, delete_range((7, 8), 3, 1)),
    ];
    assert_bad_order(&known);
}

#[test]
fn check_looks_at_each_key_alone() {
    let other = elsewhere(put((1, 2), 10, 1));
    assert_good(&[other.clone(), absent((3, 4))]);
    assert_good(&[other, absent((3, 4)), elsewhere(get((5, 6), 10, 1))]);
}

#[test]
fn check_revisions_follow_real_time_over_all_keys() {
    let other = elsewhere(put((3, 4), 20, 1));
    assert_bad_revisions(&[put((1, 2), 10, 2), other.clone()]);
    assert_bad_revisions(&[put((1, 2), 10, 1), get((3, 4), 10, 1), delete((5, 6), 0, false)]);
    assert_bad_revisions(&[get((1, 2), 10, 5), other]);
}

#[test]
fn check_revisions_name_one_change_each() {
    assert_bad_revisions(&[put((1, 9), 10, 1), put((1, 9), 20, 1)]);
    assert_bad_revisions(&[put((1, 9), 10, 1), delete((1, 9), 1, true)]);
    assert_bad_revisions(&[put((1, 2), 10, 1), get((3, 4), 10, 2)]);
    assert_bad_revisions(&[get((1, 2), 10, 2), get((3, 4), 10, 3)]);
    assert_bad_revisions(&[put((1, 2), 10, 1), get((3, 4), 20, 1)]);
    assert_bad_revisions(&[put((1, 2), 10, 0)]);
}

fn list(times: (u64, u64), revision: u64, rows: &[(&str, u64, u64)]) -> Event {
    let rows = rows.iter().map(|&(key, value, mod_revision)| Row {
        key: key.into(),
        value: value.to_string(),
        mod_revision,
    });
    event(times, Op::List { prefix: "".into() }, Answer::Listed { revision, rows: rows.collect() })
}

#[test]
fn check_order_replays_the_log() {
    let good = [
        at(4, absent((1, 2))),
        at(5, put((1, 9), 10, 1)),
        at(6, elsewhere(put((3, 8), 20, 2))),
        at(6, list((5, 10), 2, &[("k", 10, 1), ("other", 20, 2)])),
        at(7, delete((11, 12), 3, true)),
        at(9, list((13, 14), 3, &[("other", 20, 2)])),
    ];
    assert_good(&good);
    // A list that shows the second write and not the first: no key alone has a fault.
    let mut torn = good.to_vec();
    torn[3] = at(6, list((5, 10), 2, &[("other", 20, 2)]));
    assert_eq!(check_linearizable(&torn, &Limits::default()), Ok(()));
    assert_bad_order(&torn);
    // A state that never was.
    torn[3] = at(4, list((5, 10), 2, &[("k", 10, 1), ("other", 20, 2)]));
    assert_bad_order(&torn);
    torn[3] = at(6, list((5, 10), 2, &[("other", 20, 2), ("k", 10, 1)]));
    assert_bad_order(&torn);
    torn[3] = at(6, list((5, 10), 2, &[("k", 10, 1), ("nobody's", 1, 7), ("other", 20, 2)]));
    assert_bad_order(&torn);
}

#[test]
fn check_order_follows_real_time_over_all_keys() {
    assert_bad_order(&[at(5, put((3, 4), 10, 1)), at(6, elsewhere(put((1, 2), 20, 2)))]);
    assert_bad_order(&[at(5, put((1, 2), 10, 1)), at(4, elsewhere(absent((3, 4))))]);
    // Reads of one index have no order among themselves.
    assert_good(&[at(5, absent((3, 4))), at(5, absent((1, 2)))]);
    assert_bad_order(&[at(5, put((1, 9), 10, 1)), at(5, elsewhere(put((1, 9), 20, 2)))]);
    assert_bad_order(&[at(5, put((1, 9), 10, 2)), at(6, elsewhere(put((1, 9), 20, 1)))]);
}

#[test]
fn check_order_places_what_has_no_index() {
    let deleted = event((5, 0), delete_op(None), Answer::Unknown);
    let first = at(1, put((1, 2), 10, 1));
    assert_good(&[first.clone(), deleted.clone(), at(1, get((6, 7), 10, 1)), at(2, absent((8, 9)))]);
    assert_bad_order(&[first.clone(), at(2, absent((3, 4))), deleted.clone()]);
    let unknown = unknown_put(5, 20);
    assert_good(&[first.clone(), unknown.clone(), at(2, get((6, 7), 20, 2))]);
    assert_bad_order(&[first.clone(), unknown.clone(), at(2, get((6, 7), 20, 2)), at(3, get((8, 9), 10, 1))]);
    // A change whose answer was a replayed one: its revision says where it stands, before its call it cannot be.
    let replayed = put((5, 9), 20, 2);
    assert_good(&[first.clone(), replayed.clone(), at(4, elsewhere(put((5, 6), 1, 3)))]);
    assert_bad_order(&[first.clone(), replayed, at(4, elsewhere(put((3, 4), 1, 3)))]);
}

/// A repeated answer has no place of its own: the write may stand earlier than it is put first, and then an unknown write
/// that was called after it ended may stand after it.
#[test]
fn check_order_lets_an_unknown_write_stand_after_one_that_moves() {
    let unknown_delete =
        |revision| event((20, 0), delete_op(Some(Condition::ModRevision(revision))), Answer::Unknown);
    let history = |read_returns| {
        [at(1, put((1, 2), 10, 1)), put((3, 10), 11, 2), unknown_delete(2), at(5, absent((5, read_returns)))]
    };
    assert_good(&history(30));
    // Here the read had ended when the delete was called.
    assert_bad_order(&history(15));
}

fn range_op(start: &str, end: &str) -> Op {
    Op::DeleteRange { start: start.into(), end: Some(end).filter(|end| !end.is_empty()).map(str::to_owned) }
}

fn delete_range(times: (u64, u64), revision: u64, deleted: u64) -> Event {
    event(times, range_op("k", ""), Answer::DeletedRange { revision, deleted })
}

#[test]
fn check_follows_a_removed_range() {
    let (here, other) = (at(1, put((1, 2), 10, 1)), at(2, elsewhere(put((1, 2), 20, 2))));
    let with = |rest: &[Event]| [&[here.clone(), other.clone()], rest].concat();
    let gone = [at(3, absent((7, 8))), at(3, elsewhere(absent((7, 8))))];
    let both = at(3, delete_range((5, 6), 3, 2));
    assert_good(&with(&[std::slice::from_ref(&both), &gone[..]].concat()));
    // It says how many there were.
    for (revision, deleted) in [(3, 1), (3, 3), (2, 0)] {
        let wrong = with(&[&[at(3, delete_range((5, 6), revision, deleted))], &gone[..]].concat());
        assert_bad_order(&wrong);
        assert_not_linearizable(&wrong);
    }
    // Two writes of unknown outcome come before it: it found both of their keys.
    let unknown = [unknown_put(1, 10), elsewhere(unknown_put(1, 20)), delete_range((5, 6), 3, 2)];
    assert_good(&unknown);
    // A key outside of it stays.
    let outside = at(3, event((5, 6), range_op("l", "p"), Answer::DeletedRange { revision: 3, deleted: 1 }));
    assert_good(&with(&[outside.clone(), at(3, get((7, 8), 10, 1)), gone[1].clone()]));
    assert_not_linearizable(&with(&[outside, at(3, absent((7, 8)))]));
    // It makes one revision, and no other write makes that one.
    assert_bad_revisions(&with(&[both.clone(), put((9, 10), 30, 3)]));
    assert_bad_revisions(&with(&[both.clone(), delete_range((9, 10), 3, 1)]));
    assert_bad_revisions(&with(&[both, get((9, 10), 10, 3)]));
    // Nothing to remove: no revision.
    assert_good(&[delete_range((1, 2), 0, 0), put((3, 4), 10, 1), get((5, 6), 10, 1)]);
    assert!(check(&[delete_range((1, 2), 1, 1)]).is_err(), "nobody wrote a key");
}

/// Seen key by key nothing is wrong: only together the answers show that the range went in pieces.
#[test]
fn check_finds_a_range_that_was_removed_in_pieces() {
    let wrote = [put((1, 2), 10, 1), elsewhere(put((1, 2), 20, 2))];
    let with = |rest: &[Event]| [&wrote[..], rest].concat();
    let still = elsewhere(get((10, 11), 20, 2));
    for torn in [delete_range((5, 20), 3, 2), event((5, 0), range_op("k", ""), Answer::Unknown)] {
        assert_good(&with(&[torn.clone(), get((6, 7), 10, 1), elsewhere(absent((10, 11)))]));
        assert_not_linearizable(&with(&[torn, absent((6, 7)), still.clone()]));
    }
    // It may come before a write of one of its keys that would fit without it: the other key needs it.
    let (later, unseen) = (put((10, 11), 11, 4), elsewhere(absent((14, 15))));
    let before = event((5, 0), range_op("k", ""), Answer::Unknown);
    assert_good(&with(&[before, later, unseen, get((16, 17), 11, 4)]));
    // Unknown, it may never happen, and it happens once.
    let unknown = event((5, 0), range_op("k", ""), Answer::Unknown);
    assert_good(&with(&[unknown.clone(), get((30, 31), 10, 1), elsewhere(get((32, 33), 20, 2))]));
    let again = put((12, 13), 11, 4);
    let twice = with(&[unknown, absent((6, 7)), elsewhere(absent((8, 9))), again, absent((14, 15))]);
    assert_not_linearizable(&twice);
}

/// The names of operations in histories are those of all of dkv; only what they mean the checker says itself.
#[test]
fn histories_name_operations_as_all_of_dkv_does() {
    // The operation of the next protocol, which the checker takes for a put, has no name in histories; nor have leases, which
    // are watched beside them, and compactions, of which no client of a history sees anything.
    let has_name =
        |kind: &&OpKind| !["touch", "compact"].contains(&kind.name()) && !kind.name().starts_with("lease_");
    for kind in OpKind::ALL.iter().filter(has_name) {
        let parts = Parts {
            key: b"k".into(),
            value: b"v".into(),
            range: KeyRange::between(b"a".into(), None),
            amount: 1,
            other: b"o".into(),
            shape: 1,
        };
        let op = Op::of_write(&write_of(*kind, parts), None);
        let json = serde_json::to_value(&op).unwrap();
        assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), [kind.name()]);
    }
}

#[test]
fn check_gives_up_loudly() {
    let history: Vec<Event> = (0..20).map(|i| put((2 * i + 1, 2 * i + 2), i, i + 1)).collect();
    let undecided = |limits| check_linearizable(&history, &limits).is_err_and(|fault| fault.is_undecided());
    let limits = Limits::default();
    assert!(undecided(Limits { max_steps: 10, ..limits }));
    assert!(undecided(Limits { max_bytes: 100, ..limits }));
    assert_eq!(check_linearizable(&history, &Limits { max_steps: 20, ..limits }), Ok(()));
}

/// What happens in a random history.
struct Shape {
    events: usize,
    /// How long an operation takes at most; one is called every 100 ns on average.
    duration_ns: u64,
    unknown_percent: u64,
    /// Answers that do not name their log index.
    no_index_percent: u64,
}

/// Runs random operations against one map, each at one moment between call and return.
fn random_history(rng: &mut Rng, shape: &Shape) -> Vec<Event> {
    let mut moments: Vec<u64> =
        (0..shape.events).map(|_| 10_000 + rng.u64(0..100 * shape.events as u64)).collect();
    moments.sort_unstable();
    let (mut index, mut revision, mut version) = (0, 0, 0);
    let mut current = None::<(u64, u64)>;
    let mut history = Vec::new();
    for (i, moment) in moments.into_iter().enumerate() {
        let condition = match rng.u8(0..7) {
            // Of unknown writes it would have to be tried which of many met a version that nobody knows: as for additions.
            6 if shape.events <= 100 => {
                Some(Condition::Version((version + 1_u64).saturating_sub(rng.u64(0..3))))
            }
            0 => Some(Condition::Exists),
            1 => Some(Condition::Absent),
            2 | 3 => {
                Some(Condition::ModRevision(current.map_or(0, |(_, at)| at).saturating_sub(rng.u64(0..2))))
            }
            _ => None,
        };
        let op = match rng.u8(0..10) {
            0..5 => get_op(),
            // Which of many unknown additions are in a sum would have to be tried: in a long history there are none.
            7..9 if shape.events <= 100 => add_op(rng.i64(1 << 20..1 << 40), condition),
            5..9 => put_op(100 + i as u64 + if rng.bool() { 0 } else { TEXT }, condition),
            _ => delete_op(condition),
        };
        let (call_ns, return_ns) =
            (moment - rng.u64(0..shape.duration_ns), moment + rng.u64(0..shape.duration_ns));
        let mut event = Event { process: i as u64, ..event((call_ns, return_ns), op, Answer::NotDone) };
        let luck = rng.u64(0..100);
        // A third of the unknown ones never happens; the others may happen long after their call.
        if luck >= shape.unknown_percent / 3 {
            event.answer = execute(&event.op, &mut revision, &mut current, &mut version);
            let tells = matches!(
                event.answer,
                Answer::Written { .. }
                    | Answer::Added { .. }
                    | Answer::Value { .. }
                    | Answer::PreconditionFailed { .. }
                    | Answer::Conflict { .. }
            );
            event.version = Some(version).filter(|_| tells && rng.u8(0..4) > 0);
            index += u64::from(event.op.is_write());
            event.index = Some(index);
        }
        if luck < shape.unknown_percent {
            event.answer = Answer::Unknown;
            event.call_ns -= rng.u64(0..3 * shape.duration_ns);
        } else if luck >= 98 && matches!(event.answer, Answer::PreconditionFailed { .. }) {
            event.answer = Answer::NotDone;
        }
        if matches!(event.answer, Answer::Unknown | Answer::NotDone) {
            event.version = None;
        }
        if matches!(event.answer, Answer::Unknown | Answer::NotDone)
            || rng.u64(0..100) < shape.no_index_percent
        {
            event.index = None;
        }
        history.push(event);
    }
    rng.shuffle(&mut history);
    history
}

fn execute(op: &Op, revision: &mut u64, current: &mut Option<(u64, u64)>, version: &mut u64) -> Answer {
    let mod_revision = current.map_or(0, |(_, at)| at);
    let condition = match op {
        Op::Get { .. } | Op::List { .. } | Op::DeleteRange { .. } | Op::Txn(_) => None,
        Op::Put { condition, .. } | Op::Delete { condition, .. } | Op::Add { condition, .. } => *condition,
    };
    let holds = match condition {
        None => true,
        Some(Condition::Exists) => current.is_some(),
        Some(Condition::Absent) => current.is_none(),
        Some(Condition::ModRevision(wanted)) => current.is_some() && wanted == mod_revision,
        Some(Condition::Version(wanted)) => wanted == *version,
    };
    match (op, *current) {
        _ if !holds => Answer::PreconditionFailed { mod_revision },
        (Op::List { .. } | Op::DeleteRange { .. } | Op::Txn(_), _) => {
            unreachable!("nothing on several keys")
        }
        (Op::Get { .. }, None) => Answer::Absent,
        (Op::Get { .. }, Some((value, mod_revision))) => value_of(value, mod_revision),
        (Op::Put { value, .. }, _) => {
            *revision += 1;
            *version += 1;
            *current = Some((number(value), *revision));
            Answer::Written { revision: *revision }
        }
        (Op::Add { .. }, Some((TEXT.., _))) => Answer::Conflict { mod_revision },
        (Op::Add { amount, .. }, now) => {
            *revision += 1;
            *version += 1;
            let sum = now.map_or(0, |(value, _)| value).checked_add_signed(*amount).expect("a sum fits");
            *current = Some((sum, *revision));
            Answer::Added { revision: *revision, value: sum.cast_signed() }
        }
        (Op::Delete { .. }, None) => Answer::Deleted { revision: *revision, deleted: false },
        (Op::Delete { .. }, Some(_)) => {
            *revision += 1;
            *version = 0;
            *current = None;
            Answer::Deleted { revision: *revision, deleted: true }
        }
    }
}

/// Changes one answer or one pair of times.
fn damage(rng: &mut Rng, history: &mut [Event]) {
    let known: Vec<(u64, u64)> = known_revisions(history).into_iter().collect();
    let at = rng.usize(0..history.len());
    let other = rng.usize(0..history.len());
    let (call_ns, return_ns) = (history[other].call_ns, history[other].return_ns);
    let event = &mut history[at];
    let unused = 1_000 + at as u64;
    if rng.u8(0..3) == 0 {
        (event.call_ns, event.return_ns) = (call_ns, return_ns);
        return;
    }
    // That of another answer would contradict it at once.
    event.version = None;
    event.answer = match event.answer {
        Answer::Value { .. } | Answer::Absent => match rng.choice(&known) {
            Some(&(value, mod_revision)) if rng.u8(0..4) > 0 => value_of(value, mod_revision),
            _ => Answer::Absent,
        },
        Answer::Deleted { deleted, .. } => Answer::Deleted { revision: unused, deleted: !deleted },
        Answer::PreconditionFailed { .. } => {
            let mod_revision = rng.choice(&known).map_or(0, |(_, revision)| *revision);
            Answer::PreconditionFailed { mod_revision }
        }
        Answer::Conflict { .. } => {
            let mod_revision = rng.choice(&known).map_or(1, |(_, revision)| *revision);
            Answer::Conflict { mod_revision }
        }
        Answer::Added { value, .. } if rng.bool() => Answer::Added { revision: unused, value: value + 1 },
        Answer::Written { .. } | Answer::Added { .. } => Answer::NotDone,
        _ => return,
    };
}

fn number(value: &str) -> u64 {
    let (digits, offset) = value.strip_prefix('x').map_or((value, 0), |digits| (digits, TEXT));
    digits.parse::<u64>().expect("values are numbers here") + offset
}

/// What the answers tell.
#[derive(Debug)]
struct Known {
    /// The revision of a value.
    revisions: BTreeMap<u64, u64>,
    /// The version that the key got at a revision.
    versions: BTreeMap<u64, u64>,
}

fn known(history: &[Event]) -> Known {
    let versions = history.iter().filter_map(|event| {
        let revision = match event.answer {
            Answer::Written { revision } | Answer::Added { revision, .. } => revision,
            Answer::Value { mod_revision, .. }
            | Answer::PreconditionFailed { mod_revision }
            | Answer::Conflict { mod_revision } => mod_revision,
            _ => return None,
        };
        Some((revision, event.version?))
    });
    Known { revisions: known_revisions(history), versions: versions.collect() }
}

/// The revision of every value that some answer tells.
fn known_revisions(history: &[Event]) -> BTreeMap<u64, u64> {
    let told = history.iter().filter_map(|event| match (&event.op, &event.answer) {
        (Op::Put { value, .. }, Answer::Written { revision }) => Some((number(value), *revision)),
        (_, Answer::Added { revision, value }) => Some((value.cast_unsigned(), *revision)),
        (_, Answer::Value { value, mod_revision }) => Some((number(value), *mod_revision)),
        _ => None,
    });
    told.collect()
}

/// Tries every order of every choice of the unknown operations. `leaves` gives the state after an event, if its answer
/// can be given in the state before.
fn has_an_order<S>(
    history: &[Event],
    placed: u32,
    now: &S,
    leaves: &dyn Fn(&Event, &S) -> Option<S>,
) -> bool {
    let is_open = |i: usize| placed & 1 << i == 0;
    let must_be_placed = |event: &Event| !matches!(event.answer, Answer::Unknown | Answer::NotDone);
    if !history.iter().enumerate().any(|(i, e)| is_open(i) && must_be_placed(e)) {
        return true;
    }
    history.iter().enumerate().any(|(i, event)| {
        let is_too_early = history
            .iter()
            .enumerate()
            .any(|(j, e)| is_open(j) && must_be_placed(e) && e.return_ns < event.call_ns);
        is_open(i)
            && !is_too_early
            && event.answer != Answer::NotDone
            && leaves(event, now).is_some_and(|next| has_an_order(history, placed | 1 << i, &next, leaves))
    })
}

/// The value that `event` leaves, if its answer can be given at the value `now`.
fn explain(event: &Event, now: Option<u64>, known: &Known) -> Option<Option<u64>> {
    let Known { revisions: known, versions } = known;
    let version_of = |value| known.get(&value).and_then(|revision| versions.get(revision));
    // The revisions that the value now may have.
    let may_be_at = |revision: u64| match now.map(|value| known.get(&value)) {
        None => revision == 0,
        Some(Some(at)) => *at == revision,
        Some(None) => revision != 0 && known.values().all(|at| *at != revision),
    };
    let may_hold = |condition| match condition {
        None => true,
        Some(Condition::Exists) => !may_be_at(0),
        Some(Condition::Absent) => may_be_at(0),
        Some(Condition::ModRevision(0)) => false,
        Some(Condition::ModRevision(wanted)) => may_be_at(wanted),
        Some(Condition::Version(wanted)) => match now.map(version_of) {
            None => wanted == 0,
            Some(Some(version)) => *version == wanted,
            Some(None) => wanted != 0,
        },
    };
    let may_fail_at = |condition, revision| match condition {
        None => false,
        Some(Condition::Exists) => revision == 0,
        Some(Condition::Absent) => revision != 0,
        Some(Condition::ModRevision(wanted)) => revision == 0 || wanted != revision,
        Some(Condition::Version(wanted)) if revision == 0 => wanted != 0,
        Some(Condition::Version(wanted)) => versions.get(&revision) != Some(&wanted),
    };
    match (&event.op, &event.answer) {
        (_, Answer::NotDone) | (Op::Get { .. }, Answer::Unknown) => None,
        (Op::Get { .. }, Answer::Value { value, .. }) => (now == Some(number(value))).then_some(now),
        (Op::Get { .. }, _) => now.is_none().then_some(now),
        (
            Op::Put { condition, .. } | Op::Delete { condition, .. } | Op::Add { condition, .. },
            Answer::PreconditionFailed { mod_revision },
        ) => (may_be_at(*mod_revision) && may_fail_at(*condition, *mod_revision)).then_some(now),
        (Op::Put { value, condition, .. }, _) => may_hold(*condition).then_some(Some(number(value))),
        (Op::Add { condition, .. }, Answer::Conflict { mod_revision }) => {
            let fits = now >= Some(TEXT) && may_be_at(*mod_revision) && may_hold(*condition);
            fits.then_some(now)
        }
        (Op::Add { amount, condition, .. }, answer) => {
            let sum = now
                .filter(|now| *now < TEXT)
                .or(now.is_none().then_some(0))?
                .checked_add_signed(*amount)
                .expect("a sum fits");
            let fits = match answer {
                Answer::Added { value, .. } => sum == value.cast_unsigned(),
                _ => true,
            };
            (fits && may_hold(*condition)).then_some(Some(sum))
        }
        (Op::Delete { condition, .. }, Answer::Deleted { deleted, .. }) => {
            (may_hold(*condition) && *deleted == now.is_some()).then_some(None)
        }
        (Op::Delete { condition, .. }, _) => may_hold(*condition).then_some(None),
        (Op::List { .. } | Op::DeleteRange { .. } | Op::Txn(_), _) => {
            unreachable!("nothing on several keys")
        }
    }
}

#[test]
fn check_agrees_with_trying_every_order() {
    let (mut good, mut bad, mut ordered) = (0, 0, 0);
    for seed in 0..40_000 {
        let mut rng = Rng::with_seed(seed);
        let unknown_percent = *rng.choice(&[0, 20, 50]).unwrap();
        let no_index_percent = *rng.choice(&[0, 0, 20]).unwrap();
        let (events, duration_ns) = (rng.usize(3..=7), rng.u64(1..200));
        let shape = Shape { events, duration_ns, unknown_percent, no_index_percent };
        let mut history = random_history(&mut rng, &shape);
        let is_damaged = rng.u8(0..4) > 0;
        if is_damaged {
            (0..rng.u8(1..4)).for_each(|_| damage(&mut rng, &mut history));
        }
        let verdict = check_linearizable(&history, &Limits::default());
        if let Err(Fault::Revisions(_)) = verdict {
            assert!(is_damaged, "seed {seed}: {verdict:?}");
            continue;
        }
        let known = known(&history);
        let has_order = has_an_order(&history, 0, &None, &|event, now| explain(event, *now, &known));
        assert_eq!(verdict.is_ok(), has_order, "seed {seed}: {verdict:?}\n{history:#?}");
        assert!(has_order || is_damaged, "seed {seed}: what one map did was refused");
        *(if has_order { &mut good } else { &mut bad }) += 1;
        // The order of the indexes is one order: where it explains everything, there is one.
        match check_order(&history) {
            Ok(()) if no_index_percent == 0 => {
                assert!(has_order, "seed {seed}: there is no order, so not this one:\n{history:#?}");
                ordered += 1;
            }
            Ok(()) => {}
            Err(fault) => assert!(is_damaged, "seed {seed}: {fault}\n{history:#?}"),
        }
    }
    assert!(good > 5_000 && bad > 5_000, "both kinds must occur: {good} good, {bad} bad");
    assert!(ordered > 4_000, "only {ordered} were good by the order of their indexes");
}

/// The same rules in the form that another implementation takes: `todc-utils`.
struct OneKey;

#[derive(Clone, Debug)]
struct Operation {
    event: Event,
    known: Arc<Known>,
}

impl Specification for OneKey {
    type State = Option<u64>;
    type Operation = Operation;

    fn init() -> Option<u64> {
        None
    }

    /// What is unknown, or was not done, may always be placed: at the very end it does no harm.
    fn apply(operation: &Operation, now: &Option<u64>) -> (bool, Option<u64>) {
        match explain(&operation.event, *now, &operation.known) {
            Some(next) => (true, next),
            None => (matches!(operation.event.answer, Answer::Unknown | Answer::NotDone), *now),
        }
    }
}

fn is_linearizable_by_todc(history: &[Event]) -> bool {
    let known = Arc::new(known(history));
    // Calls before returns of the same time: equal times are concurrent.
    let mut actions: Vec<(u64, bool, usize, Action<Operation>)> = Vec::new();
    for (process, event) in history.iter().enumerate() {
        let end = if event.answer == Answer::Unknown { u64::MAX } else { event.return_ns };
        let operation = Operation { event: event.clone(), known: Arc::clone(&known) };
        actions.push((event.call_ns, false, process, Action::Call(operation.clone())));
        actions.push((end, true, process, Action::Response(operation)));
    }
    actions.sort_by_key(|(time, is_return, process, _)| (*time, *is_return, *process));
    let actions = actions.into_iter().map(|(.., process, action)| (process, action)).collect();
    WGLChecker::<OneKey>::is_linearizable(History::from_actions(actions))
}

#[test]
fn check_agrees_with_another_implementation() {
    let (mut compared, mut good) = (0, 0);
    for seed in 1_000_000.. {
        let mut rng = Rng::with_seed(seed);
        let (events, duration_ns) = (rng.usize(5..=24), rng.u64(1..300));
        let unknown_percent = *rng.choice(&[0, 10, 30]).unwrap();
        let shape = Shape { events, duration_ns, unknown_percent, no_index_percent: 0 };
        let mut history = random_history(&mut rng, &shape);
        (0..rng.u8(0..3)).for_each(|_| damage(&mut rng, &mut history));
        let verdict = check_linearizable(&history, &Limits::default());
        if let Err(Fault::Revisions(_)) = verdict {
            continue;
        }
        let other = is_linearizable_by_todc(&history);
        assert_eq!(verdict.is_ok(), other, "seed {seed}: {verdict:?}\n{history:#?}");
        compared += 1;
        good += u32::from(other);
        if compared == 10_000 {
            break;
        }
    }
    assert!((2_000..8_000).contains(&good), "both kinds must occur: {good} of {compared} are good");
}

#[test]
fn check_decides_long_histories_and_finds_one_flipped_read() {
    for seed in 0..20 {
        let mut rng = Rng::with_seed(seed);
        let (duration_ns, unknown_percent) = (rng.u64(100..2_500), rng.u64(0..15));
        let shape = Shape { events: 2_000, duration_ns, unknown_percent, no_index_percent: seed % 3 };
        let mut history = random_history(&mut rng, &shape);
        assert_good(&history);
        history.sort_by_key(|event| event.call_ns);
        // A value that was overwritten, and the overwriting answered, long before the read.
        let old = history[..500].iter().find_map(|event| match (&event.op, &event.answer) {
            (Op::Put { value, .. }, Answer::Written { revision }) => Some((number(value), *revision)),
            _ => None,
        });
        let (value, mod_revision) = old.expect("most puts are answered");
        let mut reads: Vec<&mut Event> = history[1_000..].iter_mut().filter(|e| !e.op.is_write()).collect();
        let at = rng.usize(0..reads.len());
        (reads[at].answer, reads[at].version) = (value_of(value, mod_revision), None);
        assert!(reads[at].index.is_none() || check_order(&history).is_err(), "seed {seed}");
        assert_not_linearizable(&history);
    }
}

type Cells = BTreeMap<String, (u64, u64)>;

/// Random operations on a few keys and lists of them, each at one moment between call and return, with its index.
fn random_store_history(rng: &mut Rng, events: usize, duration_ns: u64) -> Vec<Event> {
    let mut moments: Vec<u64> = (0..events).map(|_| 10_000 + rng.u64(0..100 * events as u64)).collect();
    moments.sort_unstable();
    let (mut index, mut revision, mut cells) = (0, 0, Cells::new());
    let mut history = Vec::new();
    for (i, moment) in moments.into_iter().enumerate() {
        let key = format!("{}/{}", rng.u8(0..2), rng.u8(0..2));
        let now = cells.get(&key).copied();
        let value = 100 + i as u64;
        let (op, answer) = match rng.u8(0..10) {
            0..3 => {
                let listed = list_of(&cells, "0/", revision);
                (Op::List { prefix: "0/".into() }, listed)
            }
            3 => (Op::List { prefix: String::new() }, list_of(&cells, "", revision)),
            4 => (Op::Get { key }, now.map_or(Answer::Absent, |(value, at)| value_of(value, at))),
            5 if now.is_some() => {
                revision += 1;
                cells.remove(&key);
                (Op::Delete { key, condition: None }, Answer::Deleted { revision, deleted: true })
            }
            5 => {
                let op = if rng.bool() { range_op("0/", "1") } else { range_op("", "") };
                let before = cells.len();
                cells.retain(|key, _| !is_inside(&op, key));
                let deleted = (before - cells.len()) as u64;
                revision += u64::from(deleted > 0);
                (op, Answer::DeletedRange { revision, deleted })
            }
            6 | 7 => {
                revision += 1;
                let amount = rng.i64(1 << 20..1 << 40);
                let sum = now.map_or(0, |(value, _)| value).checked_add_signed(amount).expect("a sum fits");
                cells.insert(key.clone(), (sum, revision));
                let answer = Answer::Added { revision, value: sum.cast_signed() };
                (Op::Add { key, amount, condition: None }, answer)
            }
            _ => {
                revision += 1;
                cells.insert(key.clone(), (value, revision));
                (Op::Put { key, value: value.to_string(), condition: None }, Answer::Written { revision })
            }
        };
        index += u64::from(op.is_write());
        let mut event = Event {
            process: i as u64,
            call_ns: moment - rng.u64(0..duration_ns),
            return_ns: moment + rng.u64(0..duration_ns),
            op,
            answer,
            index: Some(index),
            version: None,
        };
        if event.op.is_write() && rng.u8(0..10) == 0 {
            (event.answer, event.index) = (Answer::Unknown, None);
        }
        history.push(event);
    }
    history
}

fn is_inside(op: &Op, key: &str) -> bool {
    matches!(op, Op::DeleteRange { start, end }
        if key >= start.as_str() && end.as_deref().is_none_or(|end| key < end))
}

fn list_of(cells: &Cells, prefix: &str, revision: u64) -> Answer {
    let below = cells.iter().filter(|(key, _)| key.starts_with(prefix));
    let rows = below.map(|(key, &(value, mod_revision))| Row {
        key: key.clone(),
        value: value.to_string(),
        mod_revision,
    });
    Answer::Listed { revision, rows: rows.collect() }
}

/// Some list shows a row that another list showed, leaves one out, or comes from another index.
fn damage_a_list(rng: &mut Rng, history: &mut [Event]) {
    let listed = |event: &Event| match &event.answer {
        Answer::Listed { rows, .. } => rows.clone(),
        _ => Vec::new(),
    };
    let all_rows: Vec<Row> = history.iter().flat_map(listed).collect();
    let mut lists: Vec<&mut Event> = history.iter_mut().filter(|e| matches!(e.op, Op::List { .. })).collect();
    let Some(event) = rng.choice(lists.iter_mut()) else { return };
    let Answer::Listed { rows, .. } = &mut event.answer else { return };
    match (rng.u8(0..3), rng.choice(&all_rows)) {
        (0, _) if !rows.is_empty() => drop(rows.remove(rng.usize(0..rows.len()))),
        (1, Some(other)) => {
            if let Some(row) = rows.iter_mut().find(|row| row.key == other.key) {
                *row = other.clone();
            }
        }
        _ => event.index = event.index.map(|index| (index + rng.u64(0..3)).saturating_sub(1)),
    }
}

/// The whole store as one object: lists too, so nothing is partitioned.
struct WholeStore;

impl Specification for WholeStore {
    type State = Cells;
    type Operation = Event;

    fn init() -> Cells {
        Cells::new()
    }

    fn apply(event: &Event, cells: &Cells) -> (bool, Cells) {
        let mut after = cells.clone();
        // Revisions are compared where they are known; an unknown write has none.
        let fits = match (&event.op, &event.answer) {
            (Op::List { prefix }, Answer::Listed { rows, .. }) => {
                let below = cells.iter().filter(|(key, _)| key.starts_with(prefix));
                below.map(|(key, (value, _))| (key.clone(), value.to_string())).collect::<Vec<_>>()
                    == rows.iter().map(|row| (row.key.clone(), row.value.clone())).collect::<Vec<_>>()
            }
            (Op::Get { key }, Answer::Absent) => !cells.contains_key(key),
            (Op::Get { key }, Answer::Value { value, .. }) => {
                cells.get(key).is_some_and(|(now, _)| *now == number(value))
            }
            (Op::Put { key, value, .. }, _) => {
                after.insert(key.clone(), (number(value), 0));
                true
            }
            (Op::Add { key, amount, .. }, answer) => {
                let sum = cells
                    .get(key)
                    .map_or(0, |(value, _)| *value)
                    .checked_add_signed(*amount)
                    .expect("a sum fits");
                after.insert(key.clone(), (sum, 0));
                match answer {
                    Answer::Added { value, .. } => sum == value.cast_unsigned(),
                    _ => true,
                }
            }
            (Op::Delete { key, .. }, answer) => after.remove(key).is_some() || *answer == Answer::Unknown,
            (op @ Op::DeleteRange { .. }, answer) => {
                after.retain(|key, _| !is_inside(op, key));
                let removed = (cells.len() - after.len()) as u64;
                match answer {
                    Answer::DeletedRange { deleted, .. } => *deleted == removed,
                    _ => true,
                }
            }
            _ => unreachable!("not drawn: {event}"),
        };
        if fits { (true, after) } else { (false, cells.clone()) }
    }
}

fn is_linearizable_as_a_whole(history: &[Event]) -> bool {
    let mut actions: Vec<(u64, bool, usize, Action<Event>)> = Vec::new();
    for (process, event) in history.iter().enumerate() {
        let end = if event.answer == Answer::Unknown { u64::MAX } else { event.return_ns };
        actions.push((event.call_ns, false, process, Action::Call(event.clone())));
        actions.push((end, true, process, Action::Response(event.clone())));
    }
    actions.sort_by_key(|(time, is_return, process, _)| (*time, *is_return, *process));
    let actions = actions.into_iter().map(|(.., process, action)| (process, action)).collect();
    WGLChecker::<WholeStore>::is_linearizable(History::from_actions(actions))
}

/// Random operations on a few keys, ranges of them among these, some of unknown outcome. A few answers are wrong.
fn random_range_history(rng: &mut Rng, is_damaged: bool) -> Vec<Event> {
    let (events, duration_ns) = (rng.usize(8..=20), rng.u64(1..300));
    let mut history = random_store_history(rng, events, duration_ns);
    history.retain(|event| !matches!(event.op, Op::List { .. }));
    for event in &mut history {
        if event.op.is_write() && rng.u8(0..6) == 0 {
            (event.answer, event.index) = (Answer::Unknown, None);
        }
    }
    if !is_damaged || history.is_empty() {
        return history;
    }
    let values: Vec<(String, Answer)> = history
        .iter()
        .filter_map(|event| match (&event.op, &event.answer) {
            (Op::Put { key, value, .. }, Answer::Written { revision }) => {
                Some((key.clone(), value_of(number(value), *revision)))
            }
            (Op::Add { key, .. }, Answer::Added { revision, value }) => {
                Some((key.clone(), value_of(value.cast_unsigned(), *revision)))
            }
            _ => None,
        })
        .collect();
    for _ in 0..rng.u8(1..6) {
        let (at, other) = (rng.usize(0..history.len()), rng.usize(0..history.len()));
        let times = (history[other].call_ns, history[other].return_ns);
        let event = &mut history[at];
        if rng.u8(0..3) == 0 {
            (event.call_ns, event.return_ns) = times;
            continue;
        }
        event.answer = match (&event.op, &event.answer) {
            (Op::Get { key }, _) => {
                let of_key: Vec<_> = values.iter().filter(|(other, _)| other == key).collect();
                rng.choice(&of_key)
                    .filter(|_| rng.u8(0..3) > 0)
                    .map_or(Answer::Absent, |(_, value)| value.clone())
            }
            (Op::DeleteRange { .. }, Answer::DeletedRange { revision, deleted }) if *deleted > 0 => {
                Answer::DeletedRange { revision: *revision, deleted: rng.u64(1..=4) }
            }
            (_, answer) => answer.clone(),
        };
    }
    history
}

#[test]
fn check_of_ranges_agrees_with_another_implementation() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..12_000 {
        let mut rng = Rng::with_seed(seed);
        let is_damaged = rng.u8(0..6) > 0;
        let history = random_range_history(&mut rng, is_damaged);
        if history.is_empty() {
            continue;
        }
        let verdict = check_linearizable(&history, &Limits::default());
        // What contradicts itself is no history, and the other knows no revisions.
        if matches!(verdict, Err(Fault::Revisions(_) | Fault::Order(_) | Fault::Malformed(_))) {
            assert!(is_damaged, "seed {seed}: {verdict:?}\n{history:#?}");
            continue;
        }
        let is_good = is_linearizable_as_a_whole(&history);
        assert_eq!(verdict.is_ok(), is_good, "seed {seed}: {verdict:?}\n{history:#?}");
        *(if is_good { &mut good } else { &mut bad }) += 1;
        if !is_damaged {
            assert_eq!(check_order(&history), Ok(()), "seed {seed}\n{history:#?}");
        }
    }
    assert!(good > 2_000 && bad > 1_500, "both kinds must occur: {good} good, {bad} bad");
}

#[test]
fn check_order_of_lists_agrees_with_another_implementation() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..4_000 {
        let mut rng = Rng::with_seed(seed);
        let (events, duration_ns) = (rng.usize(4..=14), rng.u64(1..300));
        let mut history = random_store_history(&mut rng, events, duration_ns);
        let is_damaged = rng.bool();
        if is_damaged {
            damage_a_list(&mut rng, &mut history);
        }
        let verdict = dkv::check::check(&history, &Limits::default());
        assert!(is_damaged || verdict == Ok(()), "seed {seed}: {verdict:?}\n{history:#?}");
        if verdict.is_err() {
            bad += 1;
            continue;
        }
        good += 1;
        let is_good = is_linearizable_as_a_whole(&history);
        assert!(is_good, "seed {seed}: accepted, but there is no order:\n{history:#?}");
    }
    assert!(good > 1_000 && bad > 500, "both kinds must occur: {good} good, {bad} bad");
}

#[test]
fn resolve_unknown_changes_no_verdict() {
    let (mut good, mut bad, mut settled) = (0, 0, 0);
    for seed in 0..7_000 {
        let mut rng = Rng::with_seed(seed);
        let (events, duration_ns) = (rng.usize(5..=20), rng.u64(1..300));
        let shape = Shape { events, duration_ns, unknown_percent: 40, no_index_percent: 20 };
        let mut history = random_history(&mut rng, &shape);
        (0..rng.u8(0..3)).for_each(|_| damage(&mut rng, &mut history));
        let resolved = resolve_unknown(&history, None);
        settled += history.iter().zip(&resolved).filter(|(before, after)| before != after).count();
        let (before, after) = (
            check_linearizable(&history, &Limits::default()).is_ok(),
            check_linearizable(&resolved, &Limits::default()).is_ok(),
        );
        assert_eq!(before, after, "seed {seed}\n{history:#?}\n{resolved:#?}");
        *(if before { &mut good } else { &mut bad }) += 1;
    }
    assert!(good > 1_000 && bad > 1_000 && settled > 1_000, "{good} good, {bad} bad, {settled} settled");
}

#[test]
fn resolve_unknown_takes_the_log_at_its_word() {
    let mut log = Committed::default();
    log.put("k", "10", 7);
    let history = [unknown_put(1, 10), unknown_put(2, 20), get((3, 4), 30, 3), unknown_put(1, 30)];
    let resolved = resolve_unknown(&history, Some(&log));
    assert_eq!((&resolved[0].answer, resolved[0].index), (&Answer::Unknown, Some(7)));
    assert_eq!(resolved[1].answer, Answer::NotDone);
    // Read, and not in the log: that is for the checks to say.
    assert_eq!(resolved[3].answer, Answer::NotDone);
    assert_not_linearizable(&resolved);
    let seen = resolve_unknown(&history[2..], None);
    assert_eq!((&seen[1].answer, seen[1].return_ns), (&Answer::Written { revision: 3 }, 4));
}

#[test]
fn histories_are_json_lines() {
    let mut history = random_history(
        &mut Rng::with_seed(5),
        &Shape { events: 60, duration_ns: 100, unknown_percent: 20, no_index_percent: 20 },
    );
    history.extend(random_store_history(&mut Rng::with_seed(5), 60, 100));
    let mut bytes = Vec::new();
    write_history(&mut bytes, &history).unwrap();
    assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), history.len());
    assert_eq!(read_history(&bytes[..]).unwrap(), history);
    let one = br#"{"process":3,"call_ns":5,"return_ns":9,"op":{"put":{"key":"k","value":"v"}},"answer":{"written":{"revision":2}},"index":17}"#;
    let event = read_history(&one[..]).unwrap().remove(0);
    assert_eq!((event.process, event.index, event.op.key()), (3, Some(17), Some("k")));
    let error = read_history(&b"{}\n"[..]).unwrap_err();
    assert!(error.to_string().starts_with("line 1: "), "{error}");
}
