mod leases;
mod txn;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proptest::prelude::*;

use super::*;
use crate::raft::{Genesis, Membership, Payload};
use crate::store::operations::any_op;
use crate::store::{Idempotency, VERSION_OVERHEAD_BYTES, request_hash};
use crate::vocabulary::KeyRange;
#[path = "../../../tests/support/plain_map.rs"]
#[allow(unreachable_pub)] // It is a file of the integration tests as well.
mod plain_map;

use plain_map::{Model, Row, Rules};

const SECOND: ClusterTime = 1_000_000;

fn put(key: &str, value: &str) -> Op {
    Op::put(key.into(), value.into())
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.into() }
}

fn delete_range(prefix: &str, start: &str, end: &str) -> Op {
    Op::DeleteRange { range: KeyRange::new(prefix.as_bytes(), start.as_bytes(), end.as_bytes()) }
}

fn command(op: Op, condition: Option<Condition>, idempotency: Option<&str>) -> Command {
    let idempotency =
        idempotency.map(|key| Idempotency { key: key.into(), request_hash: request_hash(&op, condition) });
    Command { op, condition, idempotency, wall_ms: 0, actor: String::new() }
}

fn settings() -> Settings {
    Settings {
        retention_revisions: 100,
        retention_bytes: 1 << 20,
        idempotency_window_s: 10,
        idempotency_rows: 3,
        idempotency_bytes: 1 << 10,
    }
}

/// Applies `payload` as the next entry.
fn next(kv: &mut Kv, cluster_time: ClusterTime, payload: &Payload) -> Option<Applied> {
    let position = Position::new(kv.applied().index + 1, 1);
    let applied = kv.apply(&Entry::new(position, cluster_time, payload));
    check_sums(kv);
    applied
}

fn run(kv: &mut Kv, cluster_time: ClusterTime, command: &Command) -> (Outcome, bool) {
    let applied =
        next(kv, cluster_time, &Payload::Command(command.encode())).expect("a command has an outcome");
    assert_eq!(applied.index, kv.applied().index);
    (applied.outcome, applied.replayed)
}

/// Applies a plain write at cluster time 0.
fn write(kv: &mut Kv, op: Op) -> Outcome {
    run(kv, 0, &command(op, None, None)).0
}

/// The same without a check of the whole store after it, which would take hours for many writes.
fn apply(kv: &mut Kv, op: Op) -> Outcome {
    let position = Position::new(kv.applied().index + 1, 1);
    let entry = Entry::new(position, 0, &Payload::Command(command(op, None, None).encode()));
    kv.apply(&entry).expect("a command has an outcome").outcome
}

fn value(kv: &Kv, key: &str, revision: u64) -> Option<String> {
    let record = kv.get(key.as_bytes(), Some(revision)).expect("the revision is readable");
    record.map(|r| String::from_utf8(r.value.to_vec()).unwrap())
}

/// The index of changes.
fn changed(kv: &Kv) -> Vec<(u64, &str)> {
    kv.changes.from(0).map(|row| (row.at, std::str::from_utf8(row.key).unwrap())).collect()
}

/// What is kept in passing must equal what counting again gives.
fn check_sums(kv: &Kv) {
    let mut hash = 0u128;
    let mut rows = Vec::new();
    let mut bytes = 0;
    let mut count = 0;
    for versions in kv.keys.iter() {
        let all: Vec<&Version> = versions.older().chain([&versions.latest]).collect();
        count += all.len() as u64;
        for (i, version) in all.iter().enumerate() {
            assert_eq!(version.key(), versions.key(), "a version of another key");
            hash = hash.wrapping_add(versions::hash(version.key(), version.numbers(), version.value()));
            let superseded_at = all.get(i + 1).map(|next| next.mod_revision());
            assert!(superseded_at.is_none_or(|at| at > kv.floor), "a version below the floor was kept");
            if let (Some(payload), Some(_)) = (version.payload_bytes(), superseded_at) {
                bytes += payload + VERSION_OVERHEAD_BYTES;
            }
            if version.mod_revision() > kv.floor {
                let before = (i > 0).then(|| all[i - 1].payload_bytes()).flatten();
                let bytes = before.map_or(0, |payload| payload + VERSION_OVERHEAD_BYTES);
                rows.push((version.mod_revision(), version.key().to_vec(), bytes));
            }
        }
        assert!(
            all[0].has_value() || all[0].mod_revision() > kv.floor,
            "a deletion below the floor was kept"
        );
    }
    assert_eq!((hash, bytes), (kv.versions_hash, kv.superseded_bytes));
    rows.sort_unstable();
    let indexed: Vec<_> = kv.changes.from(0).map(|row| (row.at, row.key.to_vec(), row.bytes)).collect();
    assert_eq!(indexed, rows);
    assert_eq!(count, kv.version_count);
}

#[test]
fn apply_put_counts_revisions_and_versions() {
    let mut kv = Kv::new(settings());
    assert_eq!((kv.revision(), kv.floor(), kv.get(b"a", None)), (1, 1, Ok(None)));
    assert_eq!(write(&mut kv, put("a", "1")), Outcome::Put { revision: 2, create_revision: 2, version: 1 });
    assert_eq!(write(&mut kv, put("b", "")), Outcome::Put { revision: 3, create_revision: 3, version: 1 });
    assert_eq!(write(&mut kv, put("a", "1")), Outcome::Put { revision: 4, create_revision: 2, version: 2 });
    let record = kv.get(b"a", None).unwrap().unwrap();
    let want =
        Record { key: b"a", value: b"1", create_revision: 2, mod_revision: 4, version: 2, lease: None };
    assert_eq!(record, want);
    assert_eq!(value(&kv, "b", 4), Some(String::new()), "an empty value is a value");
}

#[test]
fn apply_delete_of_an_absent_key_changes_nothing() {
    let mut kv = Kv::new(settings());
    assert_eq!(write(&mut kv, delete("a")), Outcome::Deleted { revision: 1, deleted: 0 });
    write(&mut kv, put("a", "1"));
    assert_eq!(write(&mut kv, delete("a")), Outcome::Deleted { revision: 3, deleted: 1 });
    let before = kv.state_hash();
    assert_eq!(write(&mut kv, delete("a")), Outcome::Deleted { revision: 3, deleted: 0 });
    assert_eq!((kv.state_hash(), kv.revision()), (before, 3));
    assert_eq!(write(&mut kv, put("a", "2")), Outcome::Put { revision: 4, create_revision: 4, version: 1 });
}

/// What a change collected becomes visible at one revision, and is superseded, counted and forgotten by it.
#[test]
fn a_change_of_several_keys_makes_one_revision() {
    let mut kv = Kv::new(Settings { retention_revisions: 1, ..settings() });
    write(&mut kv, put("a", "1"));
    write(&mut kv, put("b", "2"));
    let mut change = kv.open();
    assert_eq!(
        (change.put(b"a".to_vec(), b"3".to_vec(), None), change.put(b"c".to_vec(), Vec::new(), None)),
        ((2, 2), (4, 1))
    );
    change.delete(b"b".to_vec());
    assert_eq!((change.base_revision(), change.revision()), (3, 4));
    assert_eq!(change.before(b"c"), None, "nothing is visible before the change is closed");
    let (writes, leases) = change.close();
    kv.make_revision(writes, &leases);
    check_sums(&kv);
    assert_eq!((kv.revision(), kv.floor()), (4, 3));
    let values = |revision| ["a", "b", "c"].map(|key| value(&kv, key, revision));
    assert_eq!(values(3), [Some("1".into()), Some("2".into()), None]);
    assert_eq!(values(4), [Some("3".into()), None, Some(String::new())]);
    assert_eq!(changed(&kv), [(4, "a"), (4, "b"), (4, "c")]);
    assert_eq!(kv.size().keys, 2);
    write(&mut kv, put("z", ""));
    assert_eq!((kv.floor(), changed(&kv)), (4, vec![(5, "z")]), "all went with the floor");
    assert!(kv.keys.get(b"b").is_none());
    let before = kv.state_hash();
    let (nothing, leases) = kv.open().close();
    kv.make_revision(nothing, &leases);
    assert_eq!((kv.revision(), kv.state_hash()), (5, before), "a change of nothing makes no revision");
}

#[test]
fn delete_range_removes_what_is_inside_at_one_revision() {
    let mut kv = Kv::new(settings());
    for key in ["a", "a/1", "a/2", "a/3", "b"] {
        write(&mut kv, put(key, key));
    }
    write(&mut kv, delete("a/2"));
    let gone = |revision, deleted| Outcome::Deleted { revision, deleted };
    assert_eq!(
        write(&mut kv, delete_range("a/", "", "")),
        gone(8, 2),
        "what is deleted already does not count"
    );
    let values = |kv: &Kv, revision| ["a", "a/1", "a/3", "b"].map(|key| value(kv, key, revision).is_some());
    assert_eq!((values(&kv, 7), values(&kv, 8)), ([true; 4], [true, false, false, true]));
    let before = kv.state_hash();
    assert_eq!(write(&mut kv, delete_range("a/", "", "")), gone(8, 0), "nothing there makes no revision");
    assert_eq!(write(&mut kv, delete_range("", "b", "b")), gone(8, 0), "an empty range");
    assert_eq!(kv.state_hash(), before);
    assert_eq!(write(&mut kv, put("a/1", "")), Outcome::Put { revision: 9, create_revision: 9, version: 1 });
    assert_eq!(write(&mut kv, delete_range("", "", "")), gone(10, 3));
    assert_eq!(kv.size().keys, 0);
    let keyed = command(delete_range("", "", ""), None, Some("id"));
    assert_eq!(run(&mut kv, 0, &keyed), (gone(10, 0), false));
    write(&mut kv, put("a", ""));
    assert_eq!(run(&mut kv, 0, &keyed), (gone(10, 0), true), "a repetition removes nothing more");
}

#[test]
fn delete_range_refuses_more_than_half_of_the_retained_bytes_and_changes_nothing() {
    let one = 1 + 9 + VERSION_OVERHEAD_BYTES;
    let mut kv = Kv::new(Settings { retention_bytes: 4 * one, ..settings() });
    for key in ["a", "b", "c"] {
        write(&mut kv, put(key, "012345678"));
    }
    let (before, too_large) =
        (kv.state_hash(), Outcome::RangeTooLarge { max_keys: 100_000, max_bytes: 2 * one });
    assert_eq!(write(&mut kv, delete_range("", "", "")), too_large);
    assert_eq!((kv.state_hash(), kv.revision(), kv.size().keys), (before, 4, 3));
    let exactly_half = write(&mut kv, delete_range("", "", "c"));
    assert_eq!(exactly_half, Outcome::Deleted { revision: 5, deleted: 2 });
    // A part of one key always goes, or some ranges would never.
    let mut kv = Kv::new(Settings { retention_bytes: 1, ..settings() });
    write(&mut kv, put("a", "0123"));
    assert_eq!(write(&mut kv, delete_range("", "", "")), Outcome::Deleted { revision: 3, deleted: 1 });
}

#[test]
fn delete_range_removes_a_hundred_thousand_keys_and_no_more() {
    let settings = Settings { retention_revisions: 1 << 20, retention_bytes: 1 << 30, ..settings() };
    let mut kv = Kv::new(settings);
    (0..=100_000).for_each(|n| drop(apply(&mut kv, put(&format!("{n:06}"), ""))));
    let max_bytes = 1 << 29;
    let too_large = Outcome::RangeTooLarge { max_keys: 100_000, max_bytes };
    assert_eq!(apply(&mut kv, delete_range("", "", "")), too_large);
    let most = Outcome::Deleted { revision: 100_003, deleted: 100_000 };
    assert_eq!(apply(&mut kv, delete_range("", "", "100000")), most);
    assert_eq!(kv.size().keys, 1);
}

#[test]
#[should_panic(expected = "a change writes a key once")]
fn a_change_does_not_write_a_key_twice() {
    let kv = Kv::new(settings());
    let mut change = kv.open();
    change.put(b"a".to_vec(), Vec::new(), None);
    change.delete(b"a".to_vec());
}

#[test]
fn get_at_a_revision_reads_history() {
    let mut kv = Kv::new(settings());
    write(&mut kv, put("a", "1"));
    write(&mut kv, put("b", "x"));
    write(&mut kv, put("a", "3"));
    write(&mut kv, delete("a"));
    write(&mut kv, put("a", "5"));
    let seen: Vec<_> = (1..=6).map(|revision| value(&kv, "a", revision)).collect();
    let want = [None, Some("1"), Some("1"), Some("3"), None, Some("5")].map(|v| v.map(str::to_owned));
    assert_eq!(seen, want);
    assert_eq!(kv.get(b"a", Some(7)), Err(ReadError::Future { wanted: 7, revision: 6 }));
}

#[test]
fn floor_trails_by_the_retained_revisions() {
    let mut kv = Kv::new(Settings { retention_revisions: 2, ..settings() });
    write(&mut kv, put("a", "1"));
    write(&mut kv, put("gone", "x"));
    write(&mut kv, delete("gone"));
    write(&mut kv, put("a", "4"));
    assert_eq!(kv.floor(), 3);
    assert_eq!(kv.get(b"a", Some(2)), Err(ReadError::Compacted { wanted: 2, floor: 3 }));
    assert_eq!((value(&kv, "a", 3), value(&kv, "a", 5)), (Some("1".into()), Some("4".into())));
    assert_eq!((value(&kv, "gone", 3), value(&kv, "gone", 4)), (Some("x".into()), None));
    write(&mut kv, put("b", "5"));
    assert!(kv.keys.get(b"gone").is_none(), "nothing readable is left of it");
    assert_eq!(value(&kv, "a", 4), Some("1".into()), "still the latest at the floor");
    write(&mut kv, put("b", "6"));
    assert!(kv.keys.get(b"a").is_some_and(|versions| versions.older().len() == 0));
}

#[test]
fn floor_trails_by_the_retained_bytes() {
    let one = 1 + 10 + VERSION_OVERHEAD_BYTES;
    let mut kv = Kv::new(Settings { retention_bytes: 2 * one, ..settings() });
    for _ in 0..3 {
        write(&mut kv, put("a", "0123456789"));
    }
    assert_eq!(kv.floor(), 1, "two superseded versions are exactly what may be kept");
    write(&mut kv, put("a", "0123456789"));
    assert_eq!(kv.floor(), 3, "the version superseded at revision 3 had to go");
    assert_eq!(
        write(&mut kv, put("b", "0123456789")),
        Outcome::Put { revision: 6, create_revision: 6, version: 1 }
    );
    assert_eq!(kv.floor(), 3, "nothing was superseded");
}

#[test]
fn a_compaction_forgets_what_is_asked_and_never_brings_it_back() {
    let mut kv = Kv::new(settings());
    let compact = |kv: &mut Kv, revision| write(kv, Op::Compact { revision });
    assert_eq!(compact(&mut kv, 1), Outcome::FloorRaised { floor: 1 });
    for value in ["1", "2", "3", "4"] {
        write(&mut kv, put("a", value));
    }
    write(&mut kv, delete("a"));
    assert_eq!(compact(&mut kv, 4), Outcome::FloorRaised { floor: 4 });
    assert_eq!((kv.floor(), kv.revision()), (4, 6), "it makes no revision");
    assert_eq!(value(&kv, "a", 4), Some("3".into()));
    assert!(kv.get(b"a", Some(3)).is_err());
    check_sums(&kv);
    assert_eq!(compact(&mut kv, 2), Outcome::FloorRaised { floor: 4 });
    assert_eq!(compact(&mut kv, 7), Outcome::FutureRevision { wanted: 7, revision: 6 });
    assert_eq!(compact(&mut kv, 6), Outcome::FloorRaised { floor: 5 }, "the newest but one always stays");
    assert_eq!(value(&kv, "a", 5), Some("4".into()));
    check_sums(&kv);
}

#[test]
fn floor_with_no_retention_is_the_revision() {
    let mut kv = Kv::new(Settings { retention_revisions: 0, ..settings() });
    write(&mut kv, put("a", "1"));
    write(&mut kv, put("a", "2"));
    assert_eq!((kv.floor(), value(&kv, "a", 3)), (3, Some("2".into())));
    write(&mut kv, delete("a"));
    assert!(kv.keys.len() == 0 && changed(&kv).is_empty());
}

#[test]
fn conditions_decide_and_report_what_the_key_is() {
    // The key has version 1 at revision 2, and one more with each later one.
    let failed = |revision, mod_revision: u64| Outcome::PreconditionFailed {
        revision,
        mod_revision,
        version: mod_revision.saturating_sub(1),
    };
    let mut kv = Kv::new(settings());
    let mut try_put = |condition| run(&mut kv, 0, &command(put("a", "v"), Some(condition), None)).0;
    assert_eq!(try_put(Condition::Exists), failed(1, 0));
    assert_eq!(try_put(Condition::ModRevision(0)), failed(1, 0), "no key has revision 0");
    assert_eq!(try_put(Condition::Absent), Outcome::Put { revision: 2, create_revision: 2, version: 1 });
    assert_eq!(try_put(Condition::Absent), failed(2, 2));
    assert_eq!(try_put(Condition::Version(0)), failed(2, 2));
    assert_eq!(try_put(Condition::Version(2)), failed(2, 2), "it is a version and no revision");
    assert_eq!(try_put(Condition::Exists), Outcome::Put { revision: 3, create_revision: 2, version: 2 });
    assert_eq!(try_put(Condition::ModRevision(2)), failed(3, 3));
    assert_eq!(
        try_put(Condition::ModRevision(3)),
        Outcome::Put { revision: 4, create_revision: 2, version: 3 }
    );

    assert_eq!(try_put(Condition::Version(2)), failed(4, 4));
    assert_eq!(try_put(Condition::Version(3)), Outcome::Put { revision: 5, create_revision: 2, version: 4 });

    let mut try_delete = |condition| run(&mut kv, 0, &command(delete("a"), Some(condition), None)).0;
    assert_eq!(try_delete(Condition::ModRevision(4)), failed(5, 5));
    assert_eq!(try_delete(Condition::Version(5)), failed(5, 5));
    assert_eq!(try_delete(Condition::Version(4)), Outcome::Deleted { revision: 6, deleted: 1 });
    assert_eq!(try_delete(Condition::Exists), failed(6, 0), "a deleted key is absent");
    assert_eq!(try_delete(Condition::Version(4)), failed(6, 0));
    assert_eq!(try_delete(Condition::Version(0)), Outcome::Deleted { revision: 6, deleted: 0 });
    assert_eq!(try_delete(Condition::Absent), Outcome::Deleted { revision: 6, deleted: 0 });
}

#[test]
fn counters_add_and_refuse_what_they_cannot() {
    let mut kv = Kv::new(settings());
    let mut try_add =
        |amount, condition| run(&mut kv, 0, &command(Op::Add { key: "a".into(), amount }, condition, None)).0;
    let added = |revision, version, value| Outcome::Added { revision, version, value };
    assert_eq!(try_add(5, Some(Condition::Absent)), added(2, 1, 5));
    assert_eq!(try_add(-7, None), added(3, 2, -2));
    assert_eq!(try_add(0, None), added(4, 3, -2), "nothing added is a write all the same");
    let refused = Outcome::PreconditionFailed { revision: 4, mod_revision: 4, version: 3 };
    assert_eq!(try_add(1, Some(Condition::Absent)), refused);
    assert_eq!(try_add(i64::MAX, Some(Condition::Version(3))), added(5, 4, i64::MAX - 2));
    let full = Outcome::OutOfRange { revision: 5, mod_revision: 5, version: 4, value: i64::MAX - 2 };
    assert_eq!(try_add(3, None), full);
    assert_eq!(try_add(2, None), added(6, 5, i64::MAX));
    assert_eq!(value(&kv, "a", 6), Some(i64::MAX.to_string()), "a counter is text");
    write(&mut kv, put("a", "07"));
    let hash = kv.state_hash();
    let none = Outcome::NotAnInteger { revision: 7, mod_revision: 7, version: 6 };
    assert_eq!(write(&mut kv, Op::Add { key: "a".into(), amount: 1 }), none);
    assert_eq!((kv.state_hash(), value(&kv, "a", 7)), (hash, Some("07".into())), "nothing changed");
    write(&mut kv, delete("a"));
    assert_eq!(write(&mut kv, Op::Add { key: "a".into(), amount: -3 }), added(9, 1, -3));
}

#[test]
fn keyed_write_takes_effect_once_within_the_window() {
    let mut kv = Kv::new(settings());
    let first = command(put("a", "1"), None, Some("id"));
    let done = Outcome::Put { revision: 2, create_revision: 2, version: 1 };
    assert_eq!(run(&mut kv, 5, &first), (done.clone(), false));
    write(&mut kv, put("a", "2"));
    assert_eq!(run(&mut kv, 10 * SECOND + 5, &first), (done, true));
    assert_eq!(value(&kv, "a", 3), Some("2".into()));
    let again = Outcome::Put { revision: 4, create_revision: 2, version: 3 };
    assert_eq!(run(&mut kv, 10 * SECOND + 6, &first), (again, false), "older than the window");
}

#[test]
fn keyed_failures_are_remembered_too() {
    let mut kv = Kv::new(settings());
    let guarded = command(put("a", "1"), Some(Condition::Exists), Some("id"));
    let failed = Outcome::PreconditionFailed { revision: 1, mod_revision: 0, version: 0 };
    assert_eq!(run(&mut kv, 0, &guarded), (failed.clone(), false));
    write(&mut kv, put("a", "2"));
    assert_eq!(run(&mut kv, 0, &guarded), (failed, true));
}

#[test]
fn the_same_key_with_another_request_is_refused_and_the_row_stays() {
    let mut kv = Kv::new(settings());
    let first = command(put("a", "1"), None, Some("id"));
    let (done, _) = run(&mut kv, 0, &first);
    let hash = kv.state_hash();
    for other in [
        command(put("a", "2"), None, Some("id")),
        command(delete("a"), None, Some("id")),
        command(put("a", "1"), Some(Condition::Exists), Some("id")),
    ] {
        assert_eq!(run(&mut kv, 0, &other), (Outcome::IdempotencyMismatch, false));
    }
    assert_eq!(kv.state_hash(), hash);
    assert_eq!(run(&mut kv, 0, &first), (done, true));
}

#[test]
fn a_full_table_refuses_new_keys_and_remembers_nothing_of_it() {
    let mut kv = Kv::new(settings());
    for id in ["1", "2", "3"] {
        assert!(!kv.would_refuse_keyed(id, 0));
        run(&mut kv, 0, &command(put("a", id), None, Some(id)));
    }
    let fourth = command(put("a", "4"), None, Some("4"));
    assert!(kv.would_refuse_keyed("4", 0) && !kv.would_refuse_keyed("3", 0));
    assert_eq!(run(&mut kv, 0, &fourth), (Outcome::Overloaded, false));
    assert_eq!(kv.revision(), 4);
    assert!(run(&mut kv, 0, &command(put("a", "1"), None, Some("1"))).1, "known keys are still answered");
    assert_eq!(write(&mut kv, put("b", "")), Outcome::Put { revision: 5, create_revision: 5, version: 1 });
    assert!(!kv.would_refuse_keyed("4", 10 * SECOND + 1));
    let done = Outcome::Put { revision: 6, create_revision: 2, version: 4 };
    assert_eq!(run(&mut kv, 10 * SECOND + 1, &fourth), (done, false));
}

#[test]
fn cluster_time_never_runs_backwards() {
    let mut kv = Kv::new(settings());
    let keyed = command(put("a", "1"), None, Some("id"));
    run(&mut kv, 5 * SECOND, &keyed);
    next(&mut kv, SECOND, &Payload::Noop);
    assert_eq!(kv.cluster_time(), 5 * SECOND);
    let other = command(put("a", "2"), None, Some("other"));
    run(&mut kv, 2 * SECOND, &other);
    assert!(
        run(&mut kv, 15 * SECOND, &other).1,
        "its row is as old as the state was, not as its cluster time"
    );
}

#[test]
fn apply_genesis_sets_cluster_and_settings() {
    let mut kv = Kv::new(Settings::default());
    let genesis = Genesis {
        protocol: 1,
        cluster_id: ClusterId(7),
        settings: settings(),
        members: Membership::default(),
        restored: None,
    };
    let empty = kv.state_hash();
    assert_eq!(next(&mut kv, 0, &Payload::Genesis(genesis)), None);
    assert_eq!((kv.cluster_id(), kv.settings()), (Some(ClusterId(7)), &settings()));
    assert_ne!(kv.state_hash(), empty);
    assert_eq!(next(&mut kv, 3, &Payload::Noop), None);
    assert_eq!(next(&mut kv, 4, &Payload::Membership(Membership::default())), None);
    assert_eq!((kv.applied(), kv.cluster_time(), kv.revision()), (Position::new(3, 1), 4, 1));
}

#[test]
#[should_panic(expected = "entry 3@1 does not follow 1@1")]
fn apply_refuses_a_gap() {
    let mut kv = Kv::new(settings());
    kv.apply(&Entry::new(Position::new(1, 1), 0, &Payload::Noop));
    kv.apply(&Entry::new(Position::new(3, 1), 0, &Payload::Noop));
}

#[test]
#[should_panic(expected = "entry 1@1 does not follow 1@1")]
fn apply_refuses_an_entry_twice() {
    let mut kv = Kv::new(settings());
    kv.apply(&Entry::new(Position::new(1, 1), 0, &Payload::Noop));
    kv.apply(&Entry::new(Position::new(1, 1), 0, &Payload::Noop));
}

#[test]
fn try_apply_of_what_a_newer_program_wrote_changes_nothing_and_says_which_program_is_needed() {
    let put = command(put("a", "1"), None, None).encode();
    let with = |at: usize, byte: u8| {
        let mut bytes = put.clone();
        bytes[at] = byte;
        Payload::Command(bytes)
    };
    let newer = [
        (with(0, 2), "the command has version 2"),
        (with(1, 9), "the command has operation 9"),
        (with(2, 9), "the command has 9 as its condition"),
        (Payload::Version(PROTOCOL + 1), "run a dkv-server that speaks protocol"),
    ];
    let mut kv = Kv::new(settings());
    write(&mut kv, Op::put(b"a".to_vec(), b"1".to_vec()));
    let before = (kv.state_hash(), kv.applied(), kv.cluster_time());
    for (payload, says) in newer {
        let error = kv.try_apply(&Entry::new(Position::new(2, 1), 9, &payload)).unwrap_err();
        assert!(error.to_string().contains(says) && error.position == Position::new(2, 1), "{error}");
        assert_eq!((kv.state_hash(), kv.applied(), kv.cluster_time()), before, "nothing changed");
    }
}

#[test]
#[should_panic(expected = "the committed entry 1@1 is no command")]
fn apply_stops_at_bytes_that_no_program_wrote() {
    let entry = Entry::new(Position::new(1, 1), 0, &Payload::Command(vec![1, 1]));
    Kv::new(settings()).apply(&entry);
}

#[test]
fn a_version_entry_raises_the_version_and_the_hash_says_so() {
    let mut kv = Kv::new(settings());
    kv.set_program(2);
    assert_eq!((kv.version(), kv.check_program()), (1, Ok(())));
    next(&mut kv, 0, &Payload::Noop);
    let mut twin = Kv::new(settings());
    twin.set_program(2);
    next(&mut twin, 0, &Payload::Version(2));
    assert_eq!(twin.version(), 2);
    assert_ne!(kv.state_hash(), twin.state_hash());
    next(&mut twin, 0, &Payload::Version(1));
    assert_eq!(twin.version(), 2, "it never falls");
    twin.set_program(4);
    assert!(twin.check_program().is_err(), "a program reads its own version and the one before");
}

#[test]
fn state_hash_ignores_what_left_and_how_it_got_there() {
    let build = |first: &[&str]| {
        let mut kv = Kv::new(Settings { retention_revisions: 3, ..settings() });
        for key in first {
            write(&mut kv, put(key, "old"));
        }
        for key in ["a", "b", "c", "a", "b", "c"] {
            write(&mut kv, put(key, "new"));
        }
        for key in first {
            write(&mut kv, delete(key));
        }
        write(&mut kv, put("z", ""));
        for _ in 0..3 {
            write(&mut kv, put("z", ""));
        }
        kv
    };
    let (left, right) = (build(&["x", "y"]), build(&["y", "x"]));
    assert_eq!(left.state_hash(), right.state_hash());
    assert_eq!(left.keys.len(), 4);
    let mut other = build(&["x", "y"]);
    write(&mut other, put("z", "1"));
    let mut another = build(&["x", "y"]);
    write(&mut another, put("z", "2"));
    assert_ne!(other.state_hash(), another.state_hash());
}

/// What a read at a revision says.
fn wanted(model: &Model, key: &[u8], wanted: u64) -> Result<Option<Row>, ReadError> {
    let (revision, floor) = (model.revision(), model.floor());
    match wanted {
        _ if wanted > revision => Err(ReadError::Future { wanted, revision }),
        _ if wanted < floor => Err(ReadError::Compacted { wanted, floor }),
        _ => Ok(model.at(wanted).get(key).cloned()),
    }
}

/// The kept versions of a key: every change after the floor, and what the key was there. Newest first; None = deleted.
fn kept_versions(model: &Model, key: &[u8]) -> Vec<(u64, Option<Row>)> {
    let at = |revision| model.at(revision).get(key).cloned();
    let floor = model.floor();
    let changes = (floor + 1..=model.revision()).rev().filter(|revision| at(*revision) != at(revision - 1));
    let changes = changes.map(|revision| (revision, at(revision)));
    changes.chain(at(floor).map(|row| (row.mod_revision, Some(row)))).collect()
}

const KEYS: [&str; 3] = ["a", "b", "long key"];

/// (cluster time step, command). Few keys, values and idempotency keys, so that everything collides.
fn any_step() -> impl Strategy<Value = (ClusterTime, Command)> {
    let ranges = ("[al]{0,1}", "[ab]{0,1}", "[abz]{0,1}")
        .prop_map(|(prefix, start, end)| KeyRange::new(prefix.as_bytes(), start.as_bytes(), end.as_bytes()));
    let keys = (0..KEYS.len()).prop_map(|key| KEYS[key].into());
    // So that a counter is often met, and sometimes at the ends of its range.
    let values = prop_oneof![
        3 => "[a-c]{0,30}".prop_map(String::into_bytes),
        1 => "-?[0-9]{1,2}".prop_map(String::into_bytes),
        1 => any::<i64>().prop_map(|number| number.to_string().into_bytes()),
    ];
    let amounts = prop_oneof![2 => -20..20i64, 1 => any::<i64>()];
    let op = any_op(keys, values, ranges, amounts);
    let condition = prop_oneof![
        6 => Just(None),
        1 => (0..40u64).prop_map(|n| Some(Condition::ModRevision(n))),
        1 => Just(Some(Condition::Exists)),
        1 => Just(Some(Condition::Absent)),
        1 => (0..5u64).prop_map(|n| Some(Condition::Version(n))),
    ];
    let id = proptest::option::of("[p-t]");
    let step = prop_oneof![3 => Just(0), 1 => 0..12 * SECOND];
    (step, op, condition, id).prop_map(|(step, op, condition, id)| {
        let condition = condition.filter(|_| op.kind().takes_condition());
        (step, command(op, condition, id.as_deref()))
    })
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let revisions = prop_oneof![0..20u64, Just(1000)];
    let bytes = prop_oneof![0..2000u64, Just(1 << 20)];
    (revisions, bytes.clone(), 0..20u64, 0..6u64, bytes).prop_map(
        |(retention_revisions, retention_bytes, window, rows, outcomes)| Settings {
            retention_revisions,
            retention_bytes,
            idempotency_window_s: window,
            idempotency_rows: rows,
            idempotency_bytes: outcomes,
        },
    )
}

proptest! {
    #[test]
    fn kv_agrees_with_the_model(
        settings in any_settings(),
        steps in proptest::collection::vec((any_step(), any::<proptest::sample::Index>(), any::<bool>()), 1..80),
    ) {
        let mut kv = Kv::new(settings.clone());
        let mut twin = Kv::new(settings.clone());
        let mut model = Model::new(Rules {
            retention_revisions: settings.retention_revisions,
            retention_bytes: settings.retention_bytes,
            idempotency_window_us: settings.idempotency_window_s * SECOND,
            idempotency_rows: settings.idempotency_rows,
            idempotency_bytes: settings.idempotency_bytes,
        });
        let mut sent: Vec<Command> = Vec::new();
        let mut now = 0;
        for ((step, fresh), earlier, is_retry) in steps {
            let command = if is_retry && !sent.is_empty() { earlier.get(&sent).clone() } else { fresh };
            now += step;
            let id = command.idempotency.as_ref();
            let is_refused_early = id.is_some_and(|id| kv.would_refuse_keyed(&id.key, now));
            let outcome = run(&mut kv, now, &command);
            prop_assert_eq!(is_refused_early, outcome.0 == Outcome::Overloaded);
            let named = id.map(|id| (&id.key[..], id.request_hash));
            prop_assert_eq!(&outcome, &model.write(now, named, &command.op, command.condition));
            prop_assert_eq!(&outcome, &run(&mut twin, now, &command));
            prop_assert_eq!(kv.state_hash(), twin.state_hash());
            prop_assert_eq!((kv.revision(), kv.floor()), (model.revision(), model.floor()));
            let leases: Vec<_> = model.leases().into_iter().map(|lease| LeaseState {
                lease: lease.id,
                ttl_s: lease.ttl_s,
                deadline: lease.deadline_us,
                is_own: lease.is_own,
                keys: model.keys_of(lease.id).len() as u64,
            }).collect();
            prop_assert_eq!(&kv.leases_after(None).collect::<Vec<_>>(), &leases);
            for lease in leases {
                let keys: Vec<Vec<u8>> = kv.lease_keys(lease.lease, None).map(<[u8]>::to_vec).collect();
                prop_assert_eq!(keys, model.keys_of(lease.lease));
            }
            sent.push(command);
            for key in KEYS {
                let whole = kept_versions(&model, key.as_bytes());
                for before in (1..=whole.len()).map(|n| whole[n - 1].0).chain([u64::MAX]) {
                    let got: Vec<(u64, Option<Row>)> = kv.history(key.as_bytes(), before).map(|past| {
                        let PastVersion { mod_revision, create_revision, version, lease, value } = past;
                        let row = |value: &[u8]| {
                            Row { value: value.to_vec(), create_revision, mod_revision, version, lease }
                        };
                        (mod_revision, value.map(row))
                    }).collect();
                    let expected: Vec<_> = whole.iter().filter(|(at, _)| *at < before).cloned().collect();
                    prop_assert_eq!(got, expected, "{} before {}", key, before);
                }
                for revision in 0..=model.revision() + 1 {
                    let got = kv.get(key.as_bytes(), Some(revision)).map(|record| {
                        record.map(|r| Row {
                            value: r.value.to_vec(),
                            create_revision: r.create_revision,
                            mod_revision: r.mod_revision,
                            version: r.version,
                            lease: r.lease,
                        })
                    });
                    prop_assert_eq!(got, wanted(&model, key.as_bytes(), revision));
                }
            }
        }
    }
}

/// Everything that a listing in pages of at most `limit` rows shows, and in how many pages.
fn listed(
    kv: &Kv,
    revision: u64,
    range: &KeyRange,
    order: Order,
    limit: usize,
) -> (Vec<(String, String)>, usize) {
    let (mut rows, mut pages) = (Vec::new(), 0);
    let mut from: Option<Vec<u8>> = None;
    loop {
        let before = rows.len();
        let next = kv.scan(revision, range, order, from.as_deref(), |record| {
            if rows.len() - before == limit {
                return ControlFlow::Break(());
            }
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            rows.push((text(record.key), text(record.value)));
            ControlFlow::Continue(())
        });
        pages += 1;
        match next.expect("the revision is readable") {
            Some(key) => from = Some(key.to_vec()),
            None => return (rows, pages),
        }
    }
}

#[test]
fn scan_shows_one_revision_in_either_order() {
    let mut kv = Kv::new(settings());
    for (key, value) in [("a/1", "x"), ("a/2", "x"), ("b", "x"), ("a/2", "y")] {
        write(&mut kv, put(key, value));
    }
    write(&mut kv, delete("a/1"));
    let range = KeyRange::new(b"a/", b"", b"");
    let rows = |revision, order| listed(&kv, revision, &range, order, 10).0;
    let row = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(rows(6, Order::Ascending), [row("a/2", "y")]);
    assert_eq!(rows(5, Order::Ascending), [row("a/1", "x"), row("a/2", "y")]);
    assert_eq!(rows(4, Order::Descending), [row("a/2", "x"), row("a/1", "x")]);
    assert_eq!(rows(1, Order::Ascending), []);
    let none = |_: Record<'_>| panic!("there is nothing to show");
    let future = ReadError::Future { wanted: 7, revision: 6 };
    assert_eq!(kv.scan(7, &range, Order::Ascending, None, none), Err(future));
    let after = KeyRange::new(b"a/", b"b", b"");
    assert_eq!(kv.scan(6, &after, Order::Descending, None, none), Ok(None));
}

#[test]
fn scan_looks_at_a_bounded_number_of_keys() {
    let mut kv = Kv::new(Settings { retention_revisions: 1 << 20, retention_bytes: 1 << 30, ..settings() });
    let count = SCAN_KEYS + 5;
    (0..count).for_each(|n| drop(apply(&mut kv, put(&format!("{n:05}"), ""))));
    (0..count).for_each(|n| drop(apply(&mut kv, delete(&format!("{n:05}")))));
    let all = KeyRange::new(b"", b"", b"");
    let mut seen = 0;
    let next = kv.scan(2 * count as u64 + 1, &all, Order::Ascending, None, |_| {
        seen += 1;
        ControlFlow::Continue(())
    });
    assert_eq!(
        (next, seen),
        (Ok(Some(format!("{SCAN_KEYS:05}").as_bytes())), 0),
        "deleted keys cost a look, too"
    );
    assert_eq!(listed(&kv, count as u64 + 1, &all, Order::Descending, count).0.len(), count);
    assert_eq!(listed(&kv, count as u64 + 1, &all, Order::Descending, count).1, 2);
}

proptest! {
    #[test]
    fn scan_agrees_with_a_plain_map(
        writes in proptest::collection::vec(("[ab]{1,3}", proptest::option::of("[xy]")), 1..60),
        (prefix, start, end) in ("[ab]{0,2}", "[ab]{0,3}", "[ab]{0,3}"),
        (back, limit, is_descending) in (0u64..60, 1usize..5, any::<bool>()),
    ) {
        let mut kv = Kv::new(Settings { retention_revisions: 30, ..settings() });
        let mut states: Vec<BTreeMap<String, String>> = vec![BTreeMap::new(); 2];
        for (key, value) in &writes {
            let mut state = states.last().unwrap().clone();
            let changes = match value {
                Some(value) => { write(&mut kv, put(key, value)); state.insert(key.clone(), value.clone()); true }
                None => { write(&mut kv, delete(key)); state.remove(key).is_some() }
            };
            if changes { states.push(state) }
        }
        let revision = kv.revision().saturating_sub(back);
        let range = KeyRange::new(prefix.as_bytes(), start.as_bytes(), end.as_bytes());
        let order = if is_descending { Order::Descending } else { Order::Ascending };
        if revision < kv.floor() {
            let wanted = Err(ReadError::Compacted { wanted: revision, floor: kv.floor() });
            prop_assert_eq!(kv.scan(revision, &range, order, None, |_| ControlFlow::Continue(())), wanted);
            return Ok(());
        }
        let mut want: Vec<(String, String)> = states[usize::try_from(revision).unwrap()]
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix) && **key >= start && (end.is_empty() || **key < end))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if is_descending { want.reverse() }
        prop_assert_eq!(listed(&kv, revision, &range, order, limit).0, want);
    }
}
