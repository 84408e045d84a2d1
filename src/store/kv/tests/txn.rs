//! What transactions mean.

use super::*;
use crate::vocabulary::PutLease;
use crate::vocabulary::{
    Compare, Keys, Operator, Row as Shown, Target, TxnAnswer, TxnList, TxnOp, TxnResult,
};

fn txn(compares: Vec<Compare>, then: Vec<TxnOp>, otherwise: Vec<TxnOp>) -> Txn {
    Txn { compares, then, otherwise }
}

fn done(kv: &mut Kv, txn: Txn) -> TxnAnswer {
    match write(kv, Op::Txn { txn }) {
        Outcome::Txn(answer) => *answer,
        other => panic!("the transaction is done: {other:?}"),
    }
}

/// The outcome of a transaction that fails, which changes nothing.
fn failed(kv: &mut Kv, txn: Txn) -> Outcome {
    let before = (kv.state_hash(), kv.revision());
    let outcome = write(kv, Op::Txn { txn });
    assert_eq!((kv.state_hash(), kv.revision()), before, "{outcome:?}");
    outcome
}

fn one(key: &str) -> Keys {
    Keys::One(key.into())
}

fn prefix(prefix: &str) -> Keys {
    Keys::Range(KeyRange::new(prefix.as_bytes(), b"", b""))
}

fn compare(keys: Keys, operator: Operator, target: Target) -> Compare {
    Compare { keys, operator, target }
}

fn exists(key: &str) -> Compare {
    compare(one(key), Operator::Greater, Target::Version(0))
}

fn tput(key: &str, value: &str) -> TxnOp {
    TxnOp::Put { key: key.into(), value: Some(value.into()), lease: PutLease::None, prev: false }
}

fn tdelete(keys: Keys) -> TxnOp {
    TxnOp::Delete { keys, prev: false }
}

fn tget(key: &str) -> TxnOp {
    TxnOp::Get { key: key.into(), revision: None }
}

fn tget_at(key: &str, revision: u64) -> TxnOp {
    TxnOp::Get { key: key.into(), revision: Some(revision) }
}

fn list(prefix: &str) -> TxnList {
    let range = KeyRange::new(prefix.as_bytes(), b"", b"");
    TxnList { range, revision: None, limit: 0, is_descending: false, keys_only: false, count_only: false }
}

fn shown(key: &str, value: &str, create_revision: u64, mod_revision: u64, version: u64) -> Shown {
    Shown { key: key.into(), value: Some(value.into()), create_revision, mod_revision, version, lease: None }
}

fn was_put(create_revision: u64, version: u64) -> TxnResult {
    TxnResult::Put { create_revision, version, prev: None }
}

#[test]
fn txn_does_one_branch_at_one_revision() {
    let mut kv = Kv::new(settings());
    write(&mut kv, put("a", "1"));
    let both = || {
        txn(
            vec![exists("a"), exists("b")],
            vec![tput("a", "then"), tput("c", "then"), tdelete(one("b"))],
            vec![tput("b", "else")],
        )
    };
    let answer = done(&mut kv, both());
    let wanted = TxnAnswer { revision: 3, succeeded: false, results: vec![was_put(3, 1)] };
    assert_eq!((answer, kv.revision()), (wanted, 3));
    let answer = done(&mut kv, both());
    let results = vec![was_put(2, 2), was_put(4, 1), TxnResult::Delete { deleted: 1, prev: None }];
    assert_eq!(answer, TxnAnswer { revision: 4, succeeded: true, results });
    let values = |revision| ["a", "b", "c"].map(|key| value(&kv, key, revision));
    assert_eq!(values(3), [Some("1".into()), Some("else".into()), None]);
    assert_eq!(values(4), [Some("then".into()), None, Some("then".into())]);
}

#[test]
fn txn_that_changes_nothing_makes_no_revision() {
    let mut kv = Kv::new(settings());
    write(&mut kv, put("a", "1"));
    let before = kv.state_hash();
    let nothing = txn(vec![], vec![tdelete(one("x")), tdelete(prefix("y")), tget("a")], vec![tput("a", "2")]);
    let answer = done(&mut kv, nothing);
    assert_eq!((answer.revision, answer.succeeded, kv.revision(), kv.state_hash()), (2, true, 2, before));
    let empty = done(&mut kv, Txn::default());
    assert_eq!(empty, TxnAnswer { revision: 2, succeeded: true, results: vec![] });
}

/// Reads see what is written before them; comparisons, nested ones too, the state before the whole.
#[test]
fn txn_reads_its_own_writes_and_compares_the_state_before_it() {
    let mut kv = Kv::new(settings());
    write(&mut kv, put("a", "1"));
    write(&mut kv, put("b", "2"));
    let inner = |key: &str| TxnOp::Txn(txn(vec![exists(key)], vec![tget(key)], vec![tget("c"), tget("a")]));
    let ops = vec![
        tget("a"),
        tput("a", "3"),
        tget("a"),
        tdelete(prefix("b")),
        tget("b"),
        tdelete(one("b")),
        tput("c", "4"),
        inner("b"),
        inner("c"),
    ];
    let answer = done(&mut kv, txn(vec![], ops, vec![]));
    let own = shown("a", "3", 2, 4, 2);
    let wanted = vec![
        TxnResult::Get(Some(shown("a", "1", 2, 2, 1))),
        was_put(2, 2),
        TxnResult::Get(Some(own.clone())),
        TxnResult::Delete { deleted: 1, prev: None },
        TxnResult::Get(None),
        TxnResult::Delete { deleted: 0, prev: None },
        was_put(4, 1),
        TxnResult::Txn { succeeded: true, results: vec![TxnResult::Get(None)] },
        TxnResult::Txn {
            succeeded: false,
            results: vec![TxnResult::Get(Some(shown("c", "4", 4, 4, 1))), TxnResult::Get(Some(own))],
        },
    ];
    assert_eq!(answer.results, wanted);
}

#[test]
fn txn_compares_what_is_not_there_as_zero_and_its_value_never() {
    let mut kv = Kv::new(settings());
    write(&mut kv, put("a/1", "m"));
    write(&mut kv, put("a/2", "m"));
    write(&mut kv, put("a/2", "n"));
    let operators = [Operator::Equal, Operator::NotEqual, Operator::Less, Operator::Greater];
    let mut holds = |keys: &Keys, target: &Target| {
        operators.map(|operator| {
            done(&mut kv, txn(vec![compare(keys.clone(), operator, target.clone())], vec![], vec![]))
                .succeeded
        })
    };
    let value = |value: &str| Target::Value(value.into());
    // Equal, not equal, less, greater; what is found stands to the left.
    let table = [
        (one("x"), Target::Version(0), [true, false, false, false]),
        (one("x"), Target::ModRevision(1), [false, true, true, false]),
        (prefix("x"), Target::CreateRevision(0), [true, false, false, false]),
        (prefix("x"), value(""), [false; 4]),
        (one("x"), value(""), [false; 4]),
        (one("a/2"), Target::Version(2), [true, false, false, false]),
        (one("a/2"), Target::CreateRevision(4), [false, true, true, false]),
        (one("a/2"), Target::ModRevision(3), [false, true, false, true]),
        (one("a/1"), value("m"), [true, false, false, false]),
        (one("a/1"), value("ma"), [false, true, true, false]),
        (one("a/1"), value("lz"), [false, true, false, true]),
        // Every key of a range.
        (prefix("a/"), Target::Version(0), [false, true, false, true]),
        (prefix("a/"), Target::Version(1), [false; 4]),
        (prefix("a/"), Target::Version(3), [false, true, true, false]),
        (prefix("a/"), value("m"), [false; 4]),
        (prefix("a/1"), value("m"), [true, false, false, false]),
    ];
    for (keys, target, wanted) in table {
        assert_eq!(holds(&keys, &target), wanted, "{keys:?} {target:?}");
    }
}

#[test]
fn txn_undoes_everything_when_one_operation_fails() {
    let mut kv = Kv::new(Settings { retention_revisions: 2, ..settings() });
    for n in 0..4 {
        write(&mut kv, put("a", &n.to_string()));
    }
    assert_eq!((kv.revision(), kv.floor()), (5, 3));
    let last = |op: TxnOp| txn(vec![], vec![tput("b", "x"), tdelete(one("a")), op], vec![]);
    let future = |wanted| Outcome::FutureRevision { wanted, revision: 5 };
    let compacted = |wanted| Outcome::Compacted { wanted, floor: 3 };
    assert_eq!(failed(&mut kv, last(tget_at("a", 6))), future(6), "what it makes is no revision yet");
    assert_eq!(failed(&mut kv, last(tget_at("a", 2))), compacted(2));
    let at = |revision| TxnOp::List(TxnList { revision: Some(revision), ..list("") });
    assert_eq!(failed(&mut kv, last(at(7))), future(7));
    assert_eq!(failed(&mut kv, last(at(1))), compacted(1));
    let keep = |key: &str| TxnOp::Put { key: key.into(), value: None, lease: PutLease::None, prev: false };
    assert_eq!(failed(&mut kv, last(keep("c"))), Outcome::KeyNotFound { revision: 5 });
    let nested = TxnOp::Txn(txn(vec![], vec![tput("d", "x"), keep("c")], vec![]));
    assert_eq!(failed(&mut kv, last(nested)), Outcome::KeyNotFound { revision: 5 });
    // The same with what can be read.
    let answer = done(&mut kv, last(tget_at("a", 3)));
    assert_eq!(answer.results[2], TxnResult::Get(Some(shown("a", "1", 2, 3, 2))));
    assert_eq!((value(&kv, "a", 6), value(&kv, "b", 6)), (None, Some("x".into())));
}

#[test]
fn txn_keeps_a_value_and_shows_what_was_there_before() {
    let mut kv = Kv::new(settings());
    write(&mut kv, put("a/1", "1"));
    write(&mut kv, put("a/2", "2"));
    write(&mut kv, put("b", "3"));
    let put = |key: &str, value: Option<&str>| TxnOp::Put {
        key: key.into(),
        value: value.map(Into::into),
        lease: PutLease::None,
        prev: true,
    };
    let ops = vec![
        put("b", None),
        put("c", Some("x")),
        TxnOp::Delete { keys: prefix("a/"), prev: true },
        TxnOp::Delete { keys: one("a/1"), prev: true },
        tget("b"),
    ];
    let was = |prev, create_revision, version| TxnResult::Put { create_revision, version, prev: Some(prev) };
    let gone = vec![shown("a/1", "1", 2, 2, 1), shown("a/2", "2", 3, 3, 1)];
    let wanted = vec![
        was(Some(shown("b", "3", 4, 4, 1)), 4, 2),
        was(None, 5, 1),
        TxnResult::Delete { deleted: 2, prev: Some(gone) },
        TxnResult::Delete { deleted: 0, prev: Some(vec![]) },
        TxnResult::Get(Some(shown("b", "3", 4, 5, 2))),
    ];
    assert_eq!(done(&mut kv, txn(vec![], ops, vec![])).results, wanted);
}

/// Rows of the transaction's own writes stand among those of the store, in either order.
#[test]
fn txn_lists_its_own_writes_in_their_places() {
    let mut kv = Kv::new(settings());
    for key in ["k/2", "k/4", "k/6", "l"] {
        write(&mut kv, put(key, key));
    }
    write(&mut kv, put("k/5", "gone"));
    write(&mut kv, delete("k/5"));
    let writes =
        || vec![tput("k/1", "n"), tput("k/3", "n"), tput("k/4", "n"), tdelete(one("k/6")), tput("k/9", "n")];
    let keys = |kv: &mut Kv, list: TxnList| {
        let mut twin = Kv::new(settings());
        std::mem::swap(kv, &mut twin);
        let mut ops = writes();
        ops.push(TxnOp::List(list));
        // A read of a copy: the state stays as it is.
        let mut change = twin.open();
        let outcome = command::execute(Op::Txn { txn: txn(vec![], ops, vec![]) }, None, &mut change);
        drop(change);
        std::mem::swap(kv, &mut twin);
        let Outcome::Txn(answer) = outcome else { panic!("{outcome:?}") };
        let Some(TxnResult::List { count, more, rows }) = answer.results.last().cloned() else { panic!() };
        let keys: Vec<String> = rows.into_iter().map(|row| String::from_utf8(row.key).unwrap()).collect();
        (count, more, keys)
    };
    let all = ["k/1", "k/2", "k/3", "k/4", "k/9"];
    let of = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
    assert_eq!(keys(&mut kv, list("k/")), (5, false, of(&all)));
    let down = TxnList { is_descending: true, ..list("k/") };
    let reversed: Vec<&str> = all.into_iter().rev().collect();
    assert_eq!(keys(&mut kv, down.clone()), (5, false, of(&reversed)));
    assert_eq!(keys(&mut kv, TxnList { limit: 3, ..list("k/") }), (3, true, of(&all[..3])));
    assert_eq!(keys(&mut kv, TxnList { limit: 5, ..list("k/") }), (5, false, of(&all)));
    assert_eq!(keys(&mut kv, TxnList { limit: 1, ..down }), (1, true, of(&["k/9"])));
    assert_eq!(keys(&mut kv, TxnList { count_only: true, ..list("k/") }), (5, false, vec![]));
    let between = TxnList { range: KeyRange::new(b"", b"k/2", b"k/4"), ..list("") };
    assert_eq!(keys(&mut kv, between), (2, false, of(&["k/2", "k/3"])));
    let backwards = TxnList { range: KeyRange::new(b"", b"k/4", b"k/2"), ..list("") };
    assert_eq!(keys(&mut kv, backwards), (0, false, vec![]));
    let earlier = TxnList { revision: Some(4), ..list("k/") };
    assert_eq!(keys(&mut kv, earlier), (3, false, of(&["k/2", "k/4", "k/6"])));
}

#[test]
fn txn_whose_results_exceed_an_answer_does_nothing() {
    const MAX_BYTES: usize = 3 << 19;
    let too_large = Outcome::TxnTooLarge { max_bytes: MAX_BYTES as u64, max_keys: 100_000 };
    // An answer of one row has 13 bytes of its own, 2 of the result, and 42 of the row beside the value.
    let room = MAX_BYTES - 13 - 2 - 42;
    for (len, fits) in [(room, true), (room + 1, false)] {
        let mut kv = Kv::new(Settings { retention_bytes: 1 << 30, ..settings() });
        write(&mut kv, put("a", &"v".repeat(len)));
        let outcome = match fits {
            true => write(&mut kv, Op::Txn { txn: txn(vec![], vec![tget("a")], vec![]) }),
            false => failed(&mut kv, txn(vec![], vec![tget("a")], vec![])),
        };
        assert_eq!(outcome != too_large, fits, "{len}");
        if let Outcome::Txn(answer) = outcome {
            assert_eq!(answer.encoded_len(), MAX_BYTES);
        }
    }
    // All that can be long counts: rows of lists, what was there before.
    let mut kv = Kv::new(Settings { retention_bytes: 1 << 30, ..settings() });
    for key in ["a", "b"] {
        write(&mut kv, put(key, &"v".repeat(room / 2 + 1)));
    }
    let prev =
        |key: &str| TxnOp::Put { key: key.into(), value: Some(vec![]), lease: PutLease::None, prev: true };
    for ops in [
        vec![TxnOp::List(list(""))],
        vec![tput("c", ""), TxnOp::Delete { keys: Keys::Range(KeyRange::new(b"", b"", b"c")), prev: true }],
        vec![prev("a"), prev("b")],
        vec![prev("a"), TxnOp::Txn(txn(vec![], vec![tget("b")], vec![]))],
        vec![tget("a"), tget_at("b", 3)],
    ] {
        assert_eq!(failed(&mut kv, txn(vec![], ops.clone(), vec![])), too_large, "{ops:?}");
    }
    let keys_only = TxnOp::List(TxnList { keys_only: true, ..list("") });
    let count_only = TxnOp::List(TxnList { count_only: true, ..list("") });
    assert!(done(&mut kv, txn(vec![], vec![keys_only, count_only, tget("a")], vec![])).succeeded);
}

/// A key that was deleted lately costs the same time as one that exists.
#[test]
fn txn_looks_at_a_hundred_thousand_keys_and_no_more() {
    let settings = Settings { retention_revisions: 1 << 20, retention_bytes: 1 << 30, ..settings() };
    let mut kv = Kv::new(settings);
    (0..=100_000).for_each(|n| drop(apply(&mut kv, put(&format!("{n:06}"), ""))));
    apply(&mut kv, delete("000007"));
    let before = |end: &str| KeyRange::new(b"", b"", end.as_bytes());
    let count = |end: &str| TxnOp::List(TxnList { range: before(end), count_only: true, ..list("") });
    let too_large = Outcome::TxnTooLarge { max_bytes: 3 << 19, max_keys: 100_000 };
    let mut run = |compares: Vec<Compare>, then: Vec<TxnOp>| {
        apply(&mut kv, Op::Txn { txn: txn(compares, then, vec![]) })
    };
    let every = |end: &str| compare(Keys::Range(before(end)), Operator::Greater, Target::Version(0));
    let is_done = |outcome: Outcome| matches!(outcome, Outcome::Txn(_));
    assert!(is_done(run(vec![], vec![count("100000")])), "exactly as many");
    assert_eq!(run(vec![], vec![count("")]), too_large);
    assert_eq!(run(vec![], vec![count("100000"), count("000001")]), too_large, "all ranges together");
    assert_eq!(run(vec![every("")], vec![]), too_large);
    assert_eq!(run(vec![every("000001")], vec![count("100000")]), too_large);
    assert_eq!(run(vec![], vec![tdelete(one("000001")), tdelete(Keys::Range(before("")))]), too_large);
    assert!(is_done(run(vec![], vec![tdelete(Keys::Range(before("100000")))])));
    assert_eq!(kv.size().keys, 1);
    assert_eq!(kv.revision(), 100_004, "the others made no revision");
}

#[test]
fn txn_removes_no_more_than_half_of_the_retained_bytes() {
    let size = 1 + 9 + VERSION_OVERHEAD_BYTES;
    let mut kv = Kv::new(Settings { retention_bytes: 4 * size, ..settings() });
    for key in ["a", "b", "c"] {
        write(&mut kv, put(key, "012345678"));
    }
    let too_large = Outcome::RangeTooLarge { max_keys: 100_000, max_bytes: 2 * size };
    assert_eq!(failed(&mut kv, txn(vec![], vec![tdelete(prefix(""))], vec![])), too_large);
    let one_by_one = ["a", "b", "c"].map(|key| tdelete(one(key))).to_vec();
    assert_eq!(failed(&mut kv, txn(vec![], one_by_one, vec![])), too_large);
    let half = ["a", "b"].map(|key| tdelete(one(key))).to_vec();
    assert_eq!(done(&mut kv, txn(vec![], half, vec![])).results.len(), 2);
}

#[test]
fn a_long_answer_is_remembered_in_its_short_form() {
    let settings = Settings { idempotency_rows: 9, idempotency_bytes: 64 << 10, ..settings() };
    let mut kv = Kv::new(settings);
    // 13 and 1 bytes of the outcome, 18 of the put's result, 2 of the get's, 42 of the row beside the value.
    let room = (16 << 10) - 14 - 18 - 2 - 42;
    write(&mut kv, put("a", &"v".repeat(room)));
    write(&mut kv, put("b", &"v".repeat(room + 1)));
    let keyed = |key: &str, id: &str| {
        let op = Op::Txn { txn: txn(vec![], vec![tput("x", id), tget(key)], vec![]) };
        command(op, None, Some(id))
    };
    let (whole, replayed) = run(&mut kv, 0, &keyed("a", "1"));
    assert!(matches!(whole, Outcome::Txn(_)) && !replayed && whole.encoded_len() == 16 << 10);
    assert_eq!(run(&mut kv, 0, &keyed("a", "1")), (whole, true));
    let (first, replayed) = run(&mut kv, 0, &keyed("b", "2"));
    assert!(matches!(first, Outcome::Txn(_)) && !replayed, "the first answer is whole");
    let short = Outcome::TxnShort { revision: 5, succeeded: true, puts: 1, deleted: 0 };
    assert_eq!(run(&mut kv, 0, &keyed("b", "2")), (short, true));
    assert_eq!(kv.revision(), 5, "a repetition does nothing");
}

#[test]
fn answers_beyond_the_byte_budget_are_remembered_in_their_short_form_until_others_leave() {
    let settings = Settings { idempotency_rows: 99, idempotency_bytes: 1_000, ..settings() };
    let mut kv = Kv::new(settings);
    write(&mut kv, put("a", &"v".repeat(400)));
    let keyed = |id: &str| command(Op::Txn { txn: txn(vec![], vec![tget("a")], vec![]) }, None, Some(id));
    let mut is_whole_again = |id: &str, at: ClusterTime| {
        let (first, replayed) = run(&mut kv, at, &keyed(id));
        assert!(matches!(first, Outcome::Txn(_)) && !replayed);
        let (again, replayed) = run(&mut kv, at, &keyed(id));
        assert!(replayed);
        again == first
    };
    assert!(is_whole_again("1", 0) && is_whole_again("2", SECOND));
    assert!(!is_whole_again("3", SECOND), "the third one does not fit");
    assert!(is_whole_again("4", 10 * SECOND + 1), "the first one has left");
    assert!(!is_whole_again("5", 10 * SECOND + 1));
    assert!(is_whole_again("6", 30 * SECOND), "all have left at once");
}

#[test]
fn a_read_answers_as_the_write_would_and_changes_nothing() {
    let mut kv = Kv::new(settings());
    write(&mut kv, put("a", "1"));
    let read = txn(vec![exists("a")], vec![tget("a"), TxnOp::List(list(""))], vec![tget_at("a", 9)]);
    let before = (kv.state_hash(), kv.applied());
    let seen = kv.read_txn(read.clone());
    assert_eq!((kv.state_hash(), kv.applied()), before);
    assert_eq!(write(&mut kv, Op::Txn { txn: read }), seen);
    let fails = txn(vec![exists("x")], vec![], vec![tget_at("a", 9)]);
    assert_eq!(kv.read_txn(fails), Outcome::FutureRevision { wanted: 9, revision: 2 });
}

#[test]
#[should_panic(expected = "a transaction that can write is applied")]
fn a_transaction_that_can_write_is_no_read() {
    Kv::new(settings()).read_txn(txn(vec![exists("a")], vec![tput("a", "")], vec![]));
}
