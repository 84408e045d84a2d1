//! Watchers of a store that changes: what they read is what was changed, each revision whole and once.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::raft::{Entry, Payload, Position, Settings};
use crate::store::{Command, ReadError};
use crate::vocabulary::{KeyRange, Keys, Op};

const ALL: Most = Most { changes: usize::MAX, bytes: usize::MAX, rows: usize::MAX };

fn apply(kv: &mut Kv, op: Op) {
    let command = Command { op, condition: None, idempotency: None, wall_ms: 0, actor: String::new() };
    let position = Position::new(kv.applied().index + 1, 1);
    kv.apply(&Entry::new(position, 0, &Payload::Command(command.encode())));
}

fn put(kv: &mut Kv, key: &str, value: &str) {
    apply(kv, Op::put(key.as_bytes().to_vec(), value.as_bytes().to_vec()));
}

fn watch(keys: Keys, from: u64) -> Watch {
    Watch { keys, from, puts: true, deletes: true, prev: false }
}

fn one(key: &str) -> Keys {
    Keys::One(key.as_bytes().to_vec())
}

fn prefix(prefix: &str) -> Keys {
    Keys::Range(KeyRange::new(prefix.as_bytes(), b"", b""))
}

fn open(watches: &Arc<Watches>, kv: &Kv, keys: Keys, from: u64) -> Cursor {
    Cursor::open(watches, vec![watch(keys, from)], 100, || kv.revision()).expect("there is room")
}

fn tell(watches: &Watches, kv: &Kv) {
    while watches.tell(|look| look(kv)) {}
}

/// Revision, key and value of everything that it reads now.
fn read(cursor: &mut Cursor, kv: &Kv) -> Vec<(u64, String, Option<String>)> {
    let mut all = Vec::new();
    while cursor.is_behind() {
        for seen in cursor.read(kv, ALL).expect("nothing is compacted") {
            all.extend(seen.changes.into_iter().map(|change| {
                let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
                (seen.revision, text(change.row.key), change.row.value.map(text))
            }));
        }
    }
    all
}

fn shown(revision: u64, key: &str, value: Option<&str>) -> (u64, String, Option<String>) {
    (revision, key.to_owned(), value.map(str::to_owned))
}

#[test]
fn a_watcher_reads_what_was_and_then_what_comes() {
    let (watches, mut kv) = (Arc::new(Watches::new()), Kv::new(Settings::default()));
    put(&mut kv, "a/1", "x");
    put(&mut kv, "b", "x");
    let mut cursor = open(&watches, &kv, prefix("a/"), 1);
    assert_eq!(read(&mut cursor, &kv), [shown(2, "a/1", Some("x"))]);
    assert_eq!(cursor.next(), 4);
    put(&mut kv, "a/2", "y");
    assert_eq!(read(&mut cursor, &kv), [], "it was not told yet");
    assert_eq!(cursor.next(), 4, "so it does not pass what it does not know");
    tell(&watches, &kv);
    assert_eq!(read(&mut cursor, &kv), [shown(4, "a/2", Some("y"))]);
    apply(&mut kv, Op::DeleteRange { range: KeyRange::new(b"a/", b"", b"") });
    put(&mut kv, "b", "y");
    tell(&watches, &kv);
    assert_eq!(read(&mut cursor, &kv), [shown(5, "a/1", None), shown(5, "a/2", None)]);
    assert_eq!(cursor.next(), 7);
    drop(cursor);
    assert_eq!(watches.count(), 0);
}

/// Its position goes on although nothing was to be seen, so that the floor does not pass it.
#[test]
fn a_watcher_that_nothing_has_touched_has_caught_up() {
    let settings = Settings { retention_revisions: 3, ..Settings::default() };
    let (watches, mut kv) = (Arc::new(Watches::new()), Kv::new(settings));
    let (mut quiet, mut touched) = (open(&watches, &kv, one("q"), 2), open(&watches, &kv, one("t"), 2));
    put(&mut kv, "t", "1");
    tell(&watches, &kv);
    for n in 0..10 {
        put(&mut kv, "other", &n.to_string());
        tell(&watches, &kv);
    }
    assert!(!quiet.is_behind());
    assert_eq!(quiet.next(), kv.revision() + 1);
    assert!(touched.is_behind());
    assert_eq!(touched.read(&kv, ALL), Err(ReadError::Compacted { wanted: 2, floor: kv.floor() }));
    put(&mut kv, "q", "1");
    tell(&watches, &kv);
    assert_eq!(read(&mut quiet, &kv), [shown(kv.revision(), "q", Some("1"))]);
}

#[test]
fn a_watcher_from_a_compacted_revision_is_told_so_and_one_from_the_future_waits() {
    let settings = Settings { retention_revisions: 2, ..Settings::default() };
    let (watches, mut kv) = (Arc::new(Watches::new()), Kv::new(settings));
    (0..5).for_each(|n| put(&mut kv, "a", &n.to_string()));
    let floor = kv.floor();
    for from in [1, floor] {
        let mut late = open(&watches, &kv, one("a"), from);
        assert!(late.is_behind());
        assert_eq!(late.read(&kv, ALL), Err(ReadError::Compacted { wanted: from, floor }));
    }
    let mut first = open(&watches, &kv, one("a"), floor + 1);
    assert_eq!(read(&mut first, &kv).len() as u64, kv.revision() - floor);
    let mut early = open(&watches, &kv, one("a"), kv.revision() + 2);
    put(&mut kv, "a", "not yet");
    put(&mut kv, "a", "now");
    tell(&watches, &kv);
    assert_eq!(read(&mut early, &kv), [shown(kv.revision(), "a", Some("now"))]);
}

/// The floor has passed what was told last, and nobody has missed anything.
#[test]
fn the_first_watcher_is_not_told_what_nobody_watched() {
    let settings = Settings { retention_revisions: 2, ..Settings::default() };
    let (watches, mut kv) = (Arc::new(Watches::new()), Kv::new(settings));
    (0..9).for_each(|n| put(&mut kv, "a", &n.to_string()));
    let mut cursor = open(&watches, &kv, one("b"), kv.revision() + 1);
    put(&mut kv, "a", "last");
    tell(&watches, &kv);
    assert_eq!((cursor.is_behind(), cursor.next()), (false, kv.revision() + 1));
}

/// A snapshot took the place of the state: some changes are in its index, and earlier ones are not known here.
#[test]
fn an_installed_snapshot_is_told_and_a_watcher_behind_its_floor_says_so() {
    let settings = Settings { retention_revisions: 4, ..Settings::default() };
    let (watches, mut kv) = (Arc::new(Watches::new()), Kv::new(settings.clone()));
    put(&mut kv, "a", "1");
    let (mut near, mut far) = (open(&watches, &kv, one("a"), 3), open(&watches, &kv, one("b"), 3));
    let mut leader = Kv::new(settings);
    put(&mut leader, "a", "1");
    (0..3).for_each(|n| put(&mut leader, "a", &n.to_string()));
    tell(&watches, &leader);
    assert_eq!(read(&mut near, &leader).len(), 3);
    assert_eq!((far.is_behind(), far.next()), (false, leader.revision() + 1));
    (0..9).for_each(|n| put(&mut leader, "a", &n.to_string()));
    tell(&watches, &leader);
    for cursor in [&mut near, &mut far] {
        assert!(cursor.is_behind(), "nobody knows what it has missed");
        assert!(matches!(cursor.read(&leader, ALL), Err(ReadError::Compacted { .. })));
    }
}

#[test]
fn each_watch_of_a_cursor_has_its_own_keys_kinds_and_start() {
    let (watches, mut kv) = (Arc::new(Watches::new()), Kv::new(Settings::default()));
    put(&mut kv, "a", "1");
    put(&mut kv, "a", "2");
    let list = vec![
        Watch { deletes: false, prev: true, ..watch(one("a"), 1) },
        Watch { puts: false, ..watch(prefix(""), 1) },
        watch(one("a"), 3),
    ];
    let mut cursor = Cursor::open(&watches, list, 3, || kv.revision()).expect("there is room for three");
    assert!(
        Cursor::open(&watches, vec![watch(one("a"), 1)], 3, || kv.revision()).is_none(),
        "and not for four"
    );
    apply(&mut kv, Op::Delete { key: b"a".to_vec() });
    tell(&watches, &kv);
    let mut all = Vec::new();
    while cursor.is_behind() {
        all.extend(cursor.read(&kv, ALL).expect("nothing is compacted"));
    }
    let seen: Vec<_> = all
        .iter()
        .flat_map(|seen| &seen.changes)
        .map(|change| {
            (change.row.mod_revision, change.watch, change.prev.as_ref().map(|prev| prev.is_some()))
        })
        .collect();
    let expected = [(2, 0, Some(false)), (3, 0, Some(true)), (3, 2, None), (4, 1, None), (4, 2, None)];
    assert_eq!(seen, expected);
}

#[test]
fn a_look_ends_with_a_revision_and_the_next_one_goes_on() {
    let (watches, mut kv) = (Arc::new(Watches::new()), Kv::new(Settings::default()));
    (0..6).for_each(|n| put(&mut kv, &format!("k{n}"), "12345678"));
    apply(&mut kv, Op::DeleteRange { range: KeyRange::new(b"k", b"", b"") });
    put(&mut kv, "k", "last");
    for most in [Most { changes: 2, ..ALL }, Most { bytes: 12, ..ALL }, Most { rows: 2, ..ALL }] {
        let mut cursor = open(&watches, &kv, prefix("k"), 1);
        let mut looks = Vec::new();
        while cursor.is_behind() {
            let seen = cursor.read(&kv, most).expect("nothing is compacted");
            looks.push(seen.iter().map(|seen| (seen.revision, seen.changes.len())).collect::<Vec<_>>());
        }
        let expected =
            [vec![(2, 1), (3, 1)], vec![(4, 1), (5, 1)], vec![(6, 1), (7, 1)], vec![(8, 6)], vec![(9, 1)]];
        assert_eq!(looks, expected, "{most:?}");
    }
}

#[test]
fn a_bell_that_was_rung_before_the_wait_ends_it() {
    let (watches, mut kv) = (Arc::new(Watches::new()), Kv::new(Settings::default()));
    let mut cursor = open(&watches, &kv, one("a"), 2);
    let began = Instant::now();
    let far = began + Duration::from_secs(60);
    put(&mut kv, "a", "1");
    tell(&watches, &kv);
    cursor.wait(far);
    assert_eq!(read(&mut cursor, &kv).len(), 1);
    let teller = watches.clone();
    let waker = std::thread::spawn(move || {
        put(&mut kv, "a", "2");
        tell(&teller, &kv);
        kv
    });
    while !cursor.is_behind() {
        cursor.wait(far);
    }
    assert_eq!(read(&mut cursor, &waker.join().expect("it tells")).len(), 1);
    watches.stop();
    cursor.wait(far);
    assert!(cursor.is_stopping() && began.elapsed() < Duration::from_secs(30));
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Delete(u8),
    DeleteRange(u8, u8),
    Tell,
    /// Of this watcher: so many changes at most.
    Read(usize, usize),
    /// This watcher comes back from where it was.
    Reopen(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6u8).prop_map(Step::Put),
        (0..6u8).prop_map(Step::Delete),
        (0..6u8, 0..6u8).prop_map(|(a, b)| Step::DeleteRange(a.min(b), a.max(b))),
        Just(Step::Tell),
        (0..4usize, 1..4usize).prop_map(|(at, most)| Step::Read(at, most)),
        (0..4usize).prop_map(Step::Reopen),
    ]
}

proptest! {
    /// Promise P9, on one node: each watcher reads every change of its keys once, in order, and nothing else.
    #[test]
    fn every_watcher_reads_every_change_of_its_keys_once(steps in prop::collection::vec(step(), 1..120)) {
        let (watches, mut kv) = (Arc::new(Watches::new()), Kv::new(Settings::default()));
        let range = |from: u8, to: u8| Keys::Range(KeyRange::between(vec![from], Some(vec![to])));
        let keys = [Keys::One(vec![2]), range(1, 4), range(0, 255), range(5, 5)];
        let mut cursors: Vec<Cursor> = keys.iter().map(|keys| open(&watches, &kv, keys.clone(), 1)).collect();
        let mut read: Vec<Vec<(u64, Vec<u8>, bool)>> = vec![Vec::new(); keys.len()];
        let mut log: Vec<(u64, Vec<u8>, bool)> = Vec::new();
        let look = |cursor: &mut Cursor, read: &mut Vec<(u64, Vec<u8>, bool)>, kv: &Kv, changes| {
            if cursor.is_behind() {
                let seen = cursor.read(kv, Most { changes, ..ALL }).expect("nothing is compacted");
                for seen in seen {
                    let of = |change: Seen| (seen.revision, change.row.key, change.row.value.is_some());
                    read.extend(seen.changes.into_iter().map(of));
                }
            }
        };
        for step in steps {
            let next = kv.revision() + 1;
            match step {
                Step::Put(key) => {
                    apply(&mut kv, Op::put(vec![key], vec![]));
                    log.push((next, vec![key], true));
                }
                Step::Delete(key) => {
                    let was = kv.get(&[key], None).unwrap().is_some();
                    apply(&mut kv, Op::Delete { key: vec![key] });
                    log.extend(was.then(|| (next, vec![key], false)));
                }
                Step::DeleteRange(from, to) => {
                    let was: Vec<u8> = (from..to).filter(|key| kv.get(&[*key], None).unwrap().is_some()).collect();
                    apply(&mut kv, Op::DeleteRange { range: KeyRange::between(vec![from], Some(vec![to])) });
                    log.extend(was.into_iter().map(|key| (next, vec![key], false)));
                }
                Step::Tell => drop(watches.tell(|look| look(&kv))),
                Step::Read(at, most) => look(&mut cursors[at], &mut read[at], &kv, most),
                Step::Reopen(at) => {
                    let from = cursors[at].next();
                    prop_assert!(read[at].iter().all(|(revision, ..)| *revision < from));
                    cursors[at] = open(&watches, &kv, keys[at].clone(), from);
                }
            }
        }
        tell(&watches, &kv);
        for (at, keys) in keys.iter().enumerate() {
            while cursors[at].is_behind() {
                look(&mut cursors[at], &mut read[at], &kv, usize::MAX);
            }
            let holds = |key: &[u8]| match keys {
                Keys::One(one) => one == key,
                Keys::Range(range) => range.contains(key),
            };
            let expected: Vec<_> = log.iter().filter(|(_, key, _)| holds(key)).cloned().collect();
            prop_assert_eq!(&read[at], &expected);
            prop_assert_eq!(cursors[at].next(), kv.revision() + 1);
        }
    }
}
