//! Histories with transactions on two keys.

use std::collections::BTreeMap;

use dkv::check::{
    Answer, Event, Fault, Holds, Limits, Op, Test, Txn, TxnOp, TxnResult, check_linearizable, check_order,
    read_history, write_history,
};
use fastrand::Rng;

use super::{
    absent, assert_bad_order, assert_bad_revisions, assert_good, assert_not_linearizable, at, check, delete,
    elsewhere, event, get, has_an_order, put, unknown_put,
};

const OTHER: &str = "other";

fn test(key: &str, holds: Holds) -> Test {
    Test { key: key.into(), holds }
}

fn tput(key: &str, value: u64) -> TxnOp {
    TxnOp::Put { key: key.into(), value: value.to_string() }
}

fn tget(key: &str) -> TxnOp {
    TxnOp::Get { key: key.into() }
}

fn tdelete(key: &str) -> TxnOp {
    TxnOp::Delete { key: key.into() }
}

fn saw(value: u64, mod_revision: u64) -> TxnResult {
    TxnResult::Value { value: value.to_string(), mod_revision }
}

fn txn(tests: Vec<Test>, then: Vec<TxnOp>, otherwise: Vec<TxnOp>) -> Op {
    Op::Txn(Txn { tests, then, otherwise })
}

fn done(times: (u64, u64), op: Op, revision: u64, succeeded: bool, results: Vec<TxnResult>) -> Event {
    event(times, op, Answer::Txn { revision, succeeded, results })
}

fn unknown(call_ns: u64, op: Op) -> Event {
    event((call_ns, 0), op, Answer::Unknown)
}

fn both(first: u64) -> Op {
    txn(vec![], vec![tput("k", first), tput(OTHER, first + 1)], vec![])
}

fn written(count: usize) -> Vec<TxnResult> {
    vec![TxnResult::Written; count]
}

#[test]
fn check_accepts_what_transactions_do_on_one_map() {
    let move_it = txn(
        vec![test("k", Holds::Value("10".into())), test(OTHER, Holds::Absent)],
        vec![tget("k"), tdelete("k"), tget("k"), tput(OTHER, 20), tget(OTHER)],
        vec![tget(OTHER)],
    );
    let not_again = txn(vec![test("k", Holds::Exists)], vec![tput("k", 50)], vec![tget(OTHER)]);
    let moved = vec![
        saw(10, 2),
        TxnResult::Deleted { deleted: true },
        TxnResult::Absent,
        TxnResult::Written,
        saw(20, 3),
    ];
    let history = [
        at(1, put((1, 2), 10, 2)),
        at(2, done((3, 4), move_it.clone(), 3, true, moved)),
        at(2, absent((5, 6))),
        at(2, elsewhere(get((5, 6), 20, 3))),
        at(3, done((7, 8), not_again, 3, false, vec![saw(20, 3)])),
        at(4, done((9, 10), both(30), 4, true, written(2))),
        at(4, get((11, 12), 30, 4)),
        at(4, elsewhere(get((11, 12), 31, 4))),
        at(5, delete((13, 14), 5, true)),
    ];
    assert_good(&history);
    let without: Vec<Event> = history.iter().map(|event| Event { index: None, ..event.clone() }).collect();
    assert_good(&without);
    let mut bytes = Vec::new();
    write_history(&mut bytes, &history).unwrap();
    assert_eq!(read_history(&bytes[..]).unwrap(), history);
}

#[test]
fn check_finds_half_a_transaction() {
    let whole = || at(2, done((3, 4), both(30), 3, true, written(2)));
    let before = || at(1, elsewhere(put((1, 2), 20, 2)));
    // One key shows it, the other does not.
    let half = [before(), whole(), at(2, get((5, 6), 30, 3)), at(2, elsewhere(get((5, 6), 20, 2)))];
    assert_bad_order(&half);
    assert_not_linearizable(&half.map(|event| Event { index: None, ..event }));
    // Neither does, although it was done.
    let none = [before(), whole(), at(2, absent((5, 6)))];
    assert_bad_order(&none);
    assert_not_linearizable(&none.map(|event| Event { index: None, ..event }));
    // A transaction sees one half of another.
    let look = |first, second| {
        done((5, 6), txn(vec![], vec![tget("k"), tget(OTHER)], vec![]), 3, true, vec![first, second])
    };
    let seen = |first, second| [before(), whole(), at(2, look(first, second))];
    assert_good(&seen(saw(30, 3), saw(31, 3)));
    assert_bad_order(&seen(saw(30, 3), saw(20, 2)));
    assert_not_linearizable(&seen(TxnResult::Absent, saw(31, 3)).map(|event| Event { index: None, ..event }));
}

#[test]
fn check_finds_half_of_a_transaction_that_nobody_answered() {
    let start = |event: Event| vec![elsewhere(put((1, 2), 20, 2)), event];
    let with = |rest: &[Event]| [&start(unknown(3, both(30))), rest].concat();
    assert_good(&with(&[]));
    assert_good(&with(&[get((5, 6), 30, 3), elsewhere(get((7, 8), 31, 3))]));
    assert_good(&with(&[absent((5, 6)), elsewhere(get((7, 8), 31, 3)), get((9, 10), 30, 3)]));
    assert_not_linearizable(&with(&[get((5, 6), 30, 3), elsewhere(get((7, 8), 20, 2))]));
    assert_bad_order(&with(&[at(3, get((5, 6), 30, 3)), at(3, elsewhere(get((7, 8), 20, 2)))]));
    // Both halves, at two revisions.
    assert_bad_revisions(&with(&[get((5, 6), 30, 3), elsewhere(get((7, 8), 31, 4))]));
    // The half that is removed.
    let remove = txn(vec![], vec![tput("k", 30), tdelete(OTHER)], vec![]);
    let with = |rest: &[Event]| [&start(unknown(3, remove.clone())), rest].concat();
    assert_good(&with(&[get((5, 6), 30, 3), elsewhere(absent((7, 8)))]));
    assert_not_linearizable(&with(&[get((5, 6), 30, 3), elsewhere(get((7, 8), 20, 2))]));
    assert_bad_order(&with(&[at(3, get((5, 6), 30, 3)), at(3, elsewhere(get((7, 8), 20, 2)))]));
    // Of two branches one.
    let one_of = txn(vec![test(OTHER, Holds::Exists)], vec![tput("k", 30)], vec![tput(OTHER, 31)]);
    let with = |rest: &[Event]| [&start(unknown(3, one_of.clone())), rest].concat();
    assert_good(&with(&[get((5, 6), 30, 3)]));
    assert_not_linearizable(&with(&[elsewhere(get((5, 6), 31, 3))]));
    let fault = check(&with(&[get((5, 6), 30, 3), elsewhere(get((7, 8), 31, 4))]));
    assert!(matches!(fault, Err(Fault::Order(_))), "{fault:?}");
}

#[test]
fn check_finds_the_wrong_branch() {
    let exists = |key: &str| test(key, Holds::Exists);
    let tested = |tests: Vec<Test>, succeeded: bool| {
        let op = txn(tests, vec![tget("k")], vec![tget("k")]);
        [at(1, put((1, 2), 10, 2)), at(2, done((3, 4), op, 2, succeeded, vec![saw(10, 2)]))]
    };
    type Row = (Vec<Test>, bool);
    let table: Vec<Row> = vec![
        (vec![], true),
        (vec![exists("k")], true),
        (vec![exists(OTHER)], false),
        (vec![exists("k"), exists(OTHER)], false),
        (vec![test("k", Holds::ModRevision(2)), test(OTHER, Holds::ModRevision(0))], true),
        (vec![test("k", Holds::ModRevision(1))], false),
        (vec![test("k", Holds::Value("10".into())), test(OTHER, Holds::Absent)], true),
        (vec![test("k", Holds::Value("11".into()))], false),
        (vec![test(OTHER, Holds::Value(String::new()))], false),
        (vec![test("k", Holds::Absent), test(OTHER, Holds::Exists)], false),
    ];
    let nothing = done((3, 4), txn(vec![], vec![], vec![]), 1, false, vec![]);
    assert_bad_order(&[nothing]);
    for (tests, succeeded) in table {
        assert_good(&tested(tests.clone(), succeeded));
        let wrong = tested(tests, !succeeded);
        assert_bad_order(&wrong);
        assert_not_linearizable(&wrong.map(|event| Event { index: None, ..event }));
    }
}

#[test]
fn check_finds_results_that_contradict_each_other() {
    let with = |ops: Vec<TxnOp>, results: Vec<TxnResult>| {
        let history = [put((1, 2), 10, 2), done((3, 4), txn(vec![], ops, vec![]), 3, true, results)];
        check(&history)
    };
    let gone = |deleted| TxnResult::Deleted { deleted };
    let is_found = |verdict: Result<(), Fault>| {
        assert!(matches!(verdict, Err(Fault::Order(_))), "{verdict:?}");
    };
    assert_eq!(with(vec![tput("k", 30), tget("k")], vec![TxnResult::Written, saw(30, 3)]), Ok(()));
    is_found(with(vec![tput("k", 30), tget("k")], vec![TxnResult::Written, saw(10, 2)]));
    is_found(with(vec![tput("k", 30), tget("k")], vec![TxnResult::Written, TxnResult::Absent]));
    is_found(with(vec![tdelete("k"), tget("k")], vec![gone(true), saw(10, 2)]));
    is_found(with(vec![tdelete("k"), tdelete("k")], vec![gone(true), gone(true)]));
    is_found(with(
        vec![tget("k"), tget("k"), tput(OTHER, 1)],
        vec![saw(10, 2), TxnResult::Absent, TxnResult::Written],
    ));
    let malformed = |verdict: Result<(), Fault>| {
        assert!(matches!(verdict, Err(Fault::Malformed(_))), "{verdict:?}");
    };
    malformed(with(vec![tget("k")], vec![]));
    malformed(with(vec![tget("k")], vec![TxnResult::Written]));
    malformed(with(vec![tput("k", 10)], vec![TxnResult::Written]));
}

#[test]
fn check_holds_a_transaction_to_one_revision() {
    let whole = || done((3, 4), both(30), 3, true, written(2));
    let with = |rest: &[Event]| [&[put((1, 2), 10, 2), whole()], rest].concat();
    assert_good(&with(&[get((5, 6), 30, 3), elsewhere(get((5, 6), 31, 3))]));
    assert_bad_revisions(&with(&[get((5, 6), 30, 4)]));
    assert_bad_revisions(&with(&[put((5, 6), 11, 3)]));
    assert_bad_revisions(&with(&[done((5, 6), both(40), 3, true, written(2))]));
    assert_bad_revisions(&with(&[delete((5, 6), 3, true)]));
    // A transaction that was refused is not seen.
    let refused = event((3, 4), both(30), Answer::NotDone);
    assert_not_linearizable(&[refused, get((5, 6), 30, 3)]);
}

/// The search took unknown puts of values that nobody had read for the same; and a transaction that stood before the put in
/// the history compared with a value that had no number yet.
#[test]
fn a_value_that_only_a_transaction_compares_is_a_value() {
    let compared = |value: u64| {
        let holds = Holds::Value(value.to_string());
        let op = txn(vec![test("k", holds)], vec![tput(OTHER, 20)], vec![]);
        at(3, done((5, 6), op, 3, true, written(1)))
    };
    for value in [10, 11] {
        let history = [compared(value), unknown_put(1, 10), unknown_put(2, 11)];
        assert_good(&history);
        let mut turned = history.clone();
        turned.reverse();
        assert_good(&turned);
        assert_good(&history.map(|event| Event { index: None, ..event }));
    }
    assert_not_linearizable(&[compared(11), unknown_put(1, 10)]);
}

/// The state of two keys: each with value and revision.
type State = BTreeMap<String, (u64, u64)>;

fn holds(state: &State, test: &Test) -> bool {
    let now = state.get(&test.key);
    match &test.holds {
        Holds::Exists => now.is_some(),
        Holds::Absent => now.is_none(),
        Holds::ModRevision(revision) => now.map_or(0, |(_, at)| *at) == *revision,
        Holds::Value(value) => now.is_some_and(|(have, _)| have.to_string() == *value),
    }
}

/// What one map does.
fn execute(op: &Op, state: &mut State, revision: &mut u64) -> Answer {
    let read = |state: &State, key: &str| state.get(key).copied();
    match op {
        Op::Get { key } => read(state, key).map_or(Answer::Absent, |(value, mod_revision)| Answer::Value {
            value: value.to_string(),
            mod_revision,
        }),
        Op::Put { key, value, .. } => {
            *revision += 1;
            state.insert(key.clone(), (value.parse().unwrap(), *revision));
            Answer::Written { revision: *revision }
        }
        Op::Txn(txn) => {
            let succeeded = txn.tests.iter().all(|test| holds(state, test));
            let ops = if succeeded { &txn.then } else { &txn.otherwise };
            let next = *revision + 1;
            let results: Vec<TxnResult> = ops
                .iter()
                .map(|op| match op {
                    TxnOp::Get { key } => {
                        read(state, key).map_or(TxnResult::Absent, |(value, at)| saw(value, at))
                    }
                    TxnOp::Put { key, value } => {
                        state.insert(key.clone(), (value.parse().unwrap(), next));
                        *revision = next;
                        TxnResult::Written
                    }
                    TxnOp::Delete { key } => {
                        let deleted = state.remove(key).is_some();
                        if deleted {
                            *revision = next;
                        }
                        TxnResult::Deleted { deleted }
                    }
                })
                .collect();
            Answer::Txn { revision: *revision, succeeded, results }
        }
        other => unreachable!("{other:?} is not drawn"),
    }
}

fn draw(rng: &mut Rng, n: u64, names_revisions: bool) -> Op {
    let keys = ["k", OTHER];
    let key = |rng: &mut Rng| keys[rng.usize(0..2)].to_owned();
    let mut value = 10 * n;
    let mut branch = |rng: &mut Rng| {
        let mut written = Vec::new();
        let mut ops = Vec::new();
        for _ in 0..rng.usize(0..4) {
            let key = key(rng);
            value += 1;
            ops.push(match rng.u8(0..5) {
                0..2 if !written.contains(&key) => {
                    written.push(key.clone());
                    TxnOp::Put { key, value: value.to_string() }
                }
                2 if !written.contains(&key) => {
                    written.push(key.clone());
                    TxnOp::Delete { key }
                }
                _ => TxnOp::Get { key },
            });
        }
        ops
    };
    match rng.u8(0..6) {
        0 | 1 => Op::Get { key: key(rng) },
        2 => Op::Put { key: key(rng), value: (10 * n).to_string(), condition: None },
        _ => {
            let (then, otherwise) = (branch(rng), branch(rng));
            let tests = (0..rng.usize(0..3)).map(|_| {
                let holds = match rng.u8(0..4) {
                    0 | 1 => Holds::Exists,
                    2 if names_revisions => Holds::ModRevision(rng.u64(0..n + 2)),
                    2 => Holds::Value((10 * rng.u64(0..n + 1)).to_string()),
                    _ => Holds::Absent,
                };
                Test { key: key(rng), holds }
            });
            Op::Txn(Txn { tests: tests.collect(), then, otherwise })
        }
    }
}

/// Runs random operations against one map, each at one moment between call and return.
fn random_history(rng: &mut Rng, events: u64, unknown_percent: u64, names_revisions: bool) -> Vec<Event> {
    let (mut state, mut revision, mut index) = (State::new(), 1, 0);
    let mut history = Vec::new();
    for n in 0..events {
        let op = draw(rng, n, names_revisions);
        let moment = 10_000 + 100 * n;
        let mut event = event((moment - rng.u64(1..150), moment + rng.u64(1..150)), op, Answer::NotDone);
        let luck = rng.u64(0..100);
        if luck >= unknown_percent / 3 {
            event.answer = execute(&event.op, &mut state, &mut revision);
            index += u64::from(event.op.is_write());
            event.index = Some(index);
        }
        if luck < unknown_percent {
            event.answer = Answer::Unknown;
            event.index = None;
        }
        history.push(event);
    }
    rng.shuffle(&mut history);
    history
}

fn damage(rng: &mut Rng, history: &mut [Event]) {
    let values: Vec<TxnResult> = history
        .iter()
        .flat_map(|event| match &event.answer {
            Answer::Txn { results, .. } => results.clone(),
            Answer::Value { value, mod_revision } => {
                vec![TxnResult::Value { value: value.clone(), mod_revision: *mod_revision }]
            }
            _ => Vec::new(),
        })
        .filter(|result| matches!(result, TxnResult::Value { .. }))
        .collect();
    let at = rng.usize(0..history.len());
    let other = history[rng.usize(0..history.len())].clone();
    let event = &mut history[at];
    if rng.u8(0..4) == 0 {
        (event.call_ns, event.return_ns) = (other.call_ns, other.return_ns);
        return;
    }
    match &mut event.answer {
        Answer::Txn { succeeded, results, .. } => {
            let Op::Txn(txn) = &event.op else { return };
            if rng.u8(0..3) == 0 && txn.then.is_empty() && txn.otherwise.is_empty() {
                *succeeded = !*succeeded;
            } else if let Some(result) = results.iter_mut().find(|r| !matches!(r, TxnResult::Written)) {
                *result = match result {
                    TxnResult::Deleted { deleted } => TxnResult::Deleted { deleted: !*deleted },
                    _ => rng.choice(&values).cloned().filter(|_| rng.bool()).unwrap_or(TxnResult::Absent),
                };
            }
        }
        answer @ (Answer::Value { .. } | Answer::Absent) => {
            *answer = match rng.choice(&values) {
                Some(TxnResult::Value { value, mod_revision }) if rng.bool() => {
                    Answer::Value { value: value.clone(), mod_revision: *mod_revision }
                }
                _ => Answer::Absent,
            };
        }
        _ => {}
    }
}

/// The state that an event leaves, if its answer can be given in the state before. Revisions are not looked at: each value
/// is written once.
fn leaves(event: &Event, now: &State) -> Option<State> {
    let mut next = now.clone();
    let would_be = execute(&event.op, &mut next, &mut 0);
    let fits = event.answer == Answer::Unknown || values_of(&would_be) == values_of(&event.answer);
    fits.then_some(next)
}

/// An answer without its revisions.
fn values_of(answer: &Answer) -> String {
    let value = |result: &TxnResult| match result {
        TxnResult::Value { value, .. } => format!("value {value}"),
        other => format!("{other:?}"),
    };
    match answer {
        Answer::Txn { succeeded, results, .. } => {
            format!("{succeeded} {:?}", results.iter().map(value).collect::<Vec<_>>())
        }
        Answer::Value { value, .. } => format!("value {value}"),
        Answer::Written { .. } => "written".to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn check_agrees_with_trying_every_order_of_transactions() {
    let (mut good, mut bad, mut ordered) = (0, 0, 0);
    for seed in 0..20_000 {
        let mut rng = Rng::with_seed(seed);
        let unknown_percent = *rng.choice(&[0, 20, 50]).unwrap();
        let is_damaged = rng.u8(0..4) > 0;
        let (events, names_revisions) = (rng.u64(3..=7), !is_damaged && rng.bool());
        let mut history = random_history(&mut rng, events, unknown_percent, names_revisions);
        if is_damaged {
            (0..rng.u8(1..4)).for_each(|_| damage(&mut rng, &mut history));
        }
        let verdict = check_linearizable(&history, &Limits::default());
        if let Err(fault @ (Fault::Revisions(_) | Fault::Order(_) | Fault::Malformed(_))) = &verdict {
            assert!(is_damaged, "seed {seed}: {fault}\n{history:#?}");
            continue;
        }
        if names_revisions {
            assert!(verdict.is_ok(), "seed {seed}: what one map did was refused: {verdict:?}\n{history:#?}");
        } else {
            let has_order = has_an_order(&history, 0, &State::new(), &leaves);
            assert_eq!(verdict.is_ok(), has_order, "seed {seed}: {verdict:?}\n{history:#?}");
            *(if has_order { &mut good } else { &mut bad }) += 1;
        }
        match check_order(&history) {
            Ok(()) if unknown_percent == 0 => {
                assert!(verdict.is_ok(), "seed {seed}: there is no order, so not this one:\n{history:#?}");
                ordered += 1;
            }
            Ok(()) => {}
            Err(fault) => assert!(is_damaged, "seed {seed}: {fault}\n{history:#?}"),
        }
    }
    assert!(good > 5_000 && bad > 1_000, "both kinds must occur: {good} good, {bad} bad");
    assert!(ordered > 2_000, "only {ordered} were good by the order of their indexes");
}
