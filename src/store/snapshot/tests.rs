use crate::store::snapshot::rows::{self, AnyRow};
use crate::vocabulary::{LeaseId, PutLease};
use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::sample::Index as AnyIndex;

use super::*;
use crate::raft::{ClusterId, Entry, Genesis, Member, MemberId, Membership, PROTOCOL, Payload, Settings};
use crate::store::operations::any_op;
use crate::store::simdisk::{Fault, Loss, SimDisk};
use crate::store::{Command, Idempotency, KeyRange, Op, Outcome, PAGE_BYTES, Rebase, request_hash};

fn disk(sim: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(sim.clone())
}

fn membership(ids: impl IntoIterator<Item = u64>) -> Membership {
    let member = |id| Member {
        node_id: format!("n{id}"),
        member_id: MemberId(id),
        raft_addr: format!("127.0.0.1:{id}"),
        http_addr: String::new(),
        voter: id % 2 == 0,
        promote: id % 3 == 0,
    };
    Membership { members: ids.into_iter().map(member).collect() }
}

fn genesis(settings: Settings) -> Payload {
    Payload::Genesis(Genesis {
        protocol: 1,
        cluster_id: ClusterId(7),
        settings,
        members: membership(1..4),
        restored: None,
    })
}

fn command(op: Op, idempotency: Option<&str>) -> Payload {
    let idempotency =
        idempotency.map(|key| Idempotency { key: key.into(), request_hash: request_hash(&op, None) });
    Payload::Command(Command { op, condition: None, idempotency, wall_ms: 0, actor: String::new() }.encode())
}

fn put(key: &str, value: &[u8]) -> Payload {
    command(Op::put(key.into(), value.into()), None)
}

/// Applies `payload` as the next entry, a second after the last.
fn next(kv: &mut Kv, payload: &Payload) {
    let position = Position::new(kv.applied().index + 1, 1);
    kv.apply(&Entry::new(position, kv.cluster_time() + 1_000_000, payload));
}

/// A state with three keys, history, deletions, idempotency rows, and a removed member.
fn sample() -> Kv {
    let mut kv = Kv::new(Settings::default());
    next(&mut kv, &genesis(Settings { retention_revisions: 4, ..Settings::default() }));
    for (key, value) in [("a", "1"), ("b", "1"), ("c", "1"), ("a", "2"), ("b", "2"), ("a", "")] {
        next(&mut kv, &put(key, value.as_bytes()));
    }
    next(&mut kv, &command(Op::Delete { key: b"b".into() }, Some("retry-1")));
    next(&mut kv, &command(Op::put(vec![0, 255], vec![7; 40]), Some("retry-2")));
    next(&mut kv, &Payload::Membership(membership(2..5)));
    kv
}

fn stored(sim: &SimDisk, kv: &mut Kv) -> (SnapshotName, Vec<u8>) {
    let file = write(disk(sim), kv).unwrap();
    let bytes = sim.contents(&file.name.to_string()).unwrap().to_vec();
    assert_eq!(bytes.len() as u64, file.bytes);
    (file.name, bytes)
}

/// Replaces a file.
fn put_file(sim: &SimDisk, name: &str, bytes: &[u8]) {
    sim.create(name).unwrap().write_at(0, bytes).unwrap();
}

const KEYS: [&str; 4] = ["a", "b", "bb", "long key"];

/// Every read there is.
fn reads(kv: &Kv) -> Vec<String> {
    let revisions = 0..=kv.revision() + 1;
    let all = revisions
        .flat_map(|revision| KEYS.map(|key| format!("{:?}", kv.get(key.as_bytes(), Some(revision)))));
    all.collect()
}

fn same(a: &Kv, b: &Kv) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.state_hash(), b.state_hash());
    prop_assert_eq!(a.size(), b.size());
    prop_assert_eq!(
        (a.applied(), a.cluster_time(), a.revision(), a.floor()),
        (b.applied(), b.cluster_time(), b.revision(), b.floor())
    );
    prop_assert_eq!((a.membership(), a.membership_index()), (b.membership(), b.membership_index()));
    prop_assert_eq!((a.genesis(), a.settings()), (b.genesis(), b.settings()));
    prop_assert!((0..20).all(|id| a.is_removed(MemberId(id)) == b.is_removed(MemberId(id))));
    prop_assert_eq!(reads(a), reads(b));
    Ok(())
}

fn any_payload() -> impl Strategy<Value = Payload> {
    let keys = (0..KEYS.len()).prop_map(|key| KEYS[key].into());
    let values = "[a-c]{0,30}|-?[0-9]{1,19}".prop_map(String::into_bytes);
    let ranges = "[ab]{0,2}".prop_map(|prefix| KeyRange::new(prefix.as_bytes(), b"", b""));
    let id = proptest::option::of("[p-t]");
    prop_oneof![
        19 => (any_op(keys, values, ranges, any::<i64>()), id).prop_map(|(op, id)| command(op, id.as_deref())),
        1 => Just(Payload::Noop),
        1 => proptest::collection::btree_set(0u64..9, 0..4)
            .prop_map(|ids| Payload::Membership(membership(ids))),
    ]
}

fn any_settings() -> impl Strategy<Value = Settings> {
    (0..12u64, 0..900u64, 0..20u64, 0..6u64).prop_map(|(revisions, bytes, window, rows)| Settings {
        retention_revisions: revisions,
        retention_bytes: bytes,
        idempotency_window_s: window,
        idempotency_rows: rows,
        idempotency_bytes: 10 * bytes,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Pinned anywhere, read in any pages while the applier goes on: the file is the pinned state, and the map never
    /// notices that it was pinned.
    #[test]
    fn a_snapshot_written_while_the_applier_goes_on_is_the_pinned_state(
        settings in any_settings(),
        payloads in proptest::collection::vec((any_payload(), prop_oneof![4 => 0..2u64, 1 => 0..25u64]), 1..90),
        pinned_at in any::<AnyIndex>(),
        pages in proptest::collection::vec((1..4usize, 0..6usize), 1..20),
    ) {
        let mut cluster_time = 0;
        let mut entries: VecDeque<Entry> = VecDeque::new();
        let all = [(genesis(settings), 0)].into_iter().chain(payloads);
        for ((payload, seconds), index) in all.zip(1..) {
            cluster_time += seconds * 1_000_000;
            entries.push_back(Entry::new(Position::new(index, 1), cluster_time, &payload));
        }
        let (mut kv, mut plain, mut twin) =
            (Kv::new(Settings::default()), Kv::new(Settings::default()), Kv::new(Settings::default()));
        for entry in entries.drain(..=pinned_at.index(entries.len())) {
            kv.apply(&entry);
            plain.apply(&entry);
            twin.apply(&entry);
        }
        let sim = SimDisk::new(1);
        let mut writer = SnapshotWriter::create(disk(&sim), kv.pin()).unwrap();
        let mut pages = pages.into_iter().cycle();
        let mut rest = entries.iter();
        loop {
            let (max_keys, applies) = pages.next().unwrap();
            for entry in rest.by_ref().take(applies) {
                prop_assert_eq!(kv.apply(entry), plain.apply(entry));
                prop_assert_eq!((kv.state_hash(), kv.size()), (plain.state_hash(), plain.size()));
            }
            let more = writer.fill_at_most(&kv, max_keys);
            writer.flush().unwrap();
            if !more { break }
        }
        drop(kv.unpin());
        let file = writer.finish().unwrap();
        for entry in rest {
            kv.apply(entry);
            plain.apply(entry);
        }
        same(&kv, &plain)?;
        prop_assert_eq!(file.meta.last, twin.applied());
        let (header, mut loaded) = load(&disk(&sim), file.name).unwrap();
        prop_assert_eq!(&header.meta, &file.meta);
        same(&loaded, &twin)?;
        for entry in &entries {
            prop_assert_eq!(loaded.apply(entry), twin.apply(entry));
            prop_assert_eq!((loaded.state_hash(), loaded.floor()), (twin.state_hash(), twin.floor()));
        }
        same(&loaded, &kv)?;
        // And once more, from the state that was loaded.
        let again = write(disk(&sim), &mut loaded).unwrap();
        same(&load(&disk(&sim), again.name).unwrap().1, &kv)?;
    }
}

#[test]
fn a_page_ends_within_a_key_whose_versions_are_long() {
    let mut kv = Kv::new(Settings::default());
    next(&mut kv, &genesis(Settings::default()));
    for n in 0..9u8 {
        next(&mut kv, &put("b", &[n; 100_000]));
        next(&mut kv, &put("a", &[n]));
    }
    let mut view = kv.pin();
    let mut longest = 0;
    let mut rows = Vec::new();
    loop {
        let mut page = Vec::new();
        let more = view.next_page(&kv, &mut page, 1000);
        longest = longest.max(page.len());
        rows.extend(page);
        if !more {
            break;
        }
    }
    let pinned_hash = view.header().state_hash;
    assert!(longest < PAGE_BYTES + 101_000 && rows.len() > 900_000, "{longest} {}", rows.len());
    drop(kv.unpin());
    let sim = SimDisk::new(1);
    let (name, bytes) = stored(&sim, &mut kv);
    assert!(bytes.windows(20_000).any(|part| rows.starts_with(part)));
    assert_eq!(load(&disk(&sim), name).unwrap().1.state_hash(), pinned_hash);
}

#[test]
#[should_panic(expected = "one view at a time")]
fn pin_refuses_a_second_view() {
    let mut kv = sample();
    let _view = kv.pin();
    kv.pin();
}

#[test]
fn unpin_gives_back_what_was_kept_and_the_map_keeps_nothing_more() {
    let mut kv = sample();
    let view = kv.pin();
    assert!(kv.is_pinned());
    (0..20).for_each(|_| next(&mut kv, &put("a", b"x")));
    drop((kv.unpin(), view));
    assert!(!kv.is_pinned());
    // A view that was given up does not stand in the way of the next.
    let sim = SimDisk::new(1);
    assert_eq!(load(&disk(&sim), stored(&sim, &mut kv).0).unwrap().1.state_hash(), kv.state_hash());
}

#[test]
fn a_written_snapshot_survives_a_power_loss() {
    let (sim, mut kv) = (SimDisk::new(1), sample());
    let (name, _) = stored(&sim, &mut kv);
    let sim = sim.restart(Loss::Everything);
    assert_eq!(load(&disk(&sim), name).unwrap().1.state_hash(), kv.state_hash());
}

#[test]
fn the_file_has_the_documented_bytes() {
    let sim = SimDisk::new(1);
    let (name, bytes) = stored(&sim, &mut sample());
    assert_eq!(name.to_string(), "000000000000000a-0000000000000001.snapshot");
    assert_eq!(bytes[..12], *b"dkvsnaps\x01\0\0\0");
    let json_len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[20..20 + json_len]).unwrap();
    assert_eq!(header["meta"]["last"], serde_json::json!({"index": 10, "term": 1}));
    assert_eq!(header["removed"], serde_json::json!(["0000000000000001"]));
    let mut rows: Vec<u8> = Vec::new();
    let numbers =
        |rows: &mut Vec<u8>, numbers: &[u64]| numbers.iter().for_each(|n| rows.extend(n.to_le_bytes()));
    rows.extend([1, 2, 0, 0, 0, 0, 255, 2]);
    numbers(&mut rows, &[9, 9, 1]);
    rows.extend([40, 0, 0, 0]);
    rows.extend([7; 40]);
    rows.extend([1, 1, 0, 0, 0, b'a', 2]);
    numbers(&mut rows, &[5, 2, 2]);
    rows.extend([1, 0, 0, 0, b'2', 2]);
    numbers(&mut rows, &[7, 2, 3]);
    rows.extend([0, 0, 0, 0]);
    rows.extend([1, 1, 0, 0, 0, b'b', 2]);
    numbers(&mut rows, &[3, 3, 1]);
    rows.extend([1, 0, 0, 0, b'1', 2]);
    numbers(&mut rows, &[6, 3, 2]);
    rows.extend([1, 0, 0, 0, b'2', 3]);
    numbers(&mut rows, &[8]);
    let chunk = 20 + json_len;
    assert_eq!(bytes[chunk + 8..chunk + 8 + rows.len()], rows);
    let end = &bytes[bytes.len() - 20..];
    assert_eq!((&end[..4], u64::from_le_bytes(end[8..16].try_into().unwrap())), (&[0; 4][..], 13));
    assert_eq!(end[16..], crc32c::crc32c(&bytes[..bytes.len() - 4]).to_le_bytes());
}

#[test]
fn load_and_verify_refuse_every_flipped_byte_and_every_cut() {
    let sim = SimDisk::new(1);
    let (name, bytes) = stored(&sim, &mut sample());
    let shown = name.to_string();
    let refused = |bytes: &[u8], what: &str| {
        put_file(&sim, &shown, bytes);
        for error in [load(&disk(&sim), name).err(), verify(&disk(&sim), name).err()] {
            let error = error.unwrap_or_else(|| panic!("{what} was not noticed"));
            assert!(matches!(error, SnapshotError::Corrupt { .. }), "{what}: {error}");
            assert!(error.to_string().starts_with(&shown), "{what}: {error}");
        }
    };
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        refused(&flipped, &format!("a flip at {at}"));
        refused(&bytes[..at], &format!("a cut at {at}"));
    }
    refused(&[&bytes[..], &[0]].concat(), "a byte after the end");
    put_file(&sim, &shown, &bytes);
    assert_eq!(verify(&disk(&sim), name).unwrap().rows, 13);
    let other = SnapshotName::new(Position::new(9, 1));
    put_file(&sim, &other.to_string(), &bytes);
    assert!(load(&disk(&sim), other).unwrap_err().to_string().contains("10@1"), "another one's name");
}

/// The bytes of a snapshot with another header, checksums right.
fn with_header(bytes: &[u8], change: impl FnOnce(&mut SnapshotHeader)) -> Vec<u8> {
    let json_len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&bytes[20..20 + json_len]).unwrap();
    change(&mut header);
    let mut changed = format::encode_header(&header);
    changed.extend_from_slice(&bytes[20 + json_len..bytes.len() - 4]);
    let crc = crc32c::crc32c(&changed);
    changed.extend_from_slice(&crc.to_le_bytes());
    changed
}

#[test]
fn load_refuses_a_header_that_does_not_describe_the_rows() {
    let sim = SimDisk::new(1);
    let (name, bytes) = stored(&sim, &mut sample());
    let shown = name.to_string();
    type Change = fn(&mut SnapshotHeader);
    let changes: [(&str, Change); 11] = [
        ("state hash", |header| header.state_hash ^= 1),
        ("state hash", |header| header.revision += 1),
        ("state hash", |header| header.floor -= 1),
        ("which no state has", |header| header.floor = 0),
        ("is out of order", |header| header.floor = header.revision + 1),
        ("state hash", |header| header.removed.clear()),
        ("state hash", |header| header.genesis = None),
        ("state hash", |header| header.settings.retention_bytes += 1),
        ("state hash", |header| header.meta.membership_index -= 1),
        ("does not describe", |header| header.keys += 1),
        ("does not describe", |header| header.versions = u64::MAX),
    ];
    for (what, change) in changes {
        put_file(&sim, &shown, &with_header(&bytes, change));
        let error = load(&disk(&sim), name).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    put_file(&sim, &shown, &with_header(&bytes, |_| ()));
    assert!(load(&disk(&sim), name).is_ok());
}

#[test]
fn load_of_a_later_version_names_the_program_and_is_not_passed_over() {
    let sim = SimDisk::new(1);
    let (name, bytes) = stored(&sim, &mut sample());
    let shown = name.to_string();
    let json_len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    // Another hash rule of a later version: the rows are sound.
    let later = with_header(&bytes, |header| {
        header.meta.version = PROTOCOL + 1;
        header.state_hash ^= 1;
    });
    // A field that only a later program knows.
    let mut json: serde_json::Value = serde_json::from_slice(&bytes[20..20 + json_len]).unwrap();
    json["meta"]["version"] = (PROTOCOL + 1).into();
    json["unheard_of"] = 1.into();
    let json = json.to_string();
    let mut unknown = bytes[..12].to_vec();
    unknown.extend_from_slice(&(json.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&unknown), json.as_bytes());
    unknown.extend_from_slice(&crc.to_le_bytes());
    unknown.extend_from_slice(json.as_bytes());
    unknown.extend_from_slice(&bytes[20 + json_len..]);
    for changed in [later, unknown] {
        put_file(&sim, &shown, &changed);
        let error = load(&disk(&sim), name).unwrap_err();
        assert!(matches!(error, SnapshotError::Version { .. }), "{error}");
        assert!(error.to_string().contains("run a dkv-server that speaks protocol"), "{error}");
        assert!(matches!(choose(&disk(&sim)), Err(SnapshotError::Version { .. })), "not passed over");
    }
    let same = with_header(&bytes, |header| header.state_hash ^= 1);
    put_file(&sim, &shown, &same);
    assert!(matches!(load(&disk(&sim), name), Err(SnapshotError::Corrupt { .. })));
}

#[test]
fn load_refuses_a_newer_format_and_huge_lengths() {
    let sim = SimDisk::new(1);
    let (name, bytes) = stored(&sim, &mut sample());
    let shown = name.to_string();
    let json_len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let mut newer = bytes.clone();
    newer[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&newer[..16]), &newer[20..20 + json_len]);
    newer[16..20].copy_from_slice(&crc.to_le_bytes());
    put_file(&sim, &shown, &newer);
    assert!(matches!(load(&disk(&sim), name), Err(SnapshotError::NewerFormat { version: 2, .. })));
    assert!(matches!(choose(&disk(&sim)), Err(SnapshotError::NewerFormat { .. })), "not passed over");
    for at in [12, 20 + json_len] {
        let mut huge = bytes.clone();
        huge[at..at + 4].fill(0xff);
        put_file(&sim, &shown, &huge);
        assert!(load(&disk(&sim), name).unwrap_err().to_string().contains("claims to be longer"));
    }
}

#[test]
fn choose_falls_back_to_the_snapshot_before_a_damaged_one() {
    let sim = SimDisk::new(1);
    let disk = disk(&sim);
    let none = choose(&disk).unwrap();
    assert!(none.state.is_none() && none.damaged.is_empty());
    assert_eq!((none.last(), none.reach), (Position::ZERO, 0));
    let mut kv = sample();
    let first = write(disk.clone(), &mut kv).unwrap().name;
    next(&mut kv, &put("a", b"new"));
    let second = write(disk.clone(), &mut kv).unwrap().name;
    assert_eq!(list(&disk).unwrap(), [second, first]);
    let chosen = choose(&disk).unwrap();
    assert_eq!((chosen.last(), chosen.reach, chosen.damaged.len()), (second.position(), 11, 0));
    sim.flip(&second.to_string(), 100, 1);
    let chosen = choose(&disk).unwrap();
    assert_eq!((chosen.last(), chosen.reach, chosen.damaged.len()), (first.position(), 11, 1));
    let (name, error) = &chosen.damaged[0];
    assert!(*name == second && error.to_string().contains(&second.to_string()), "{error}");
    set_aside(&disk, second).unwrap();
    assert_eq!((list(&disk).unwrap(), sim.names().len()), (vec![first], 2));
    sim.flip(&first.to_string(), 100, 1);
    let chosen = choose(&disk).unwrap();
    assert!(chosen.state.is_none(), "the log may do without");
    assert_eq!((chosen.last(), chosen.reach, chosen.damaged[0].0), (Position::ZERO, 10, first));
}

#[test]
fn prune_keeps_the_newest_and_leftovers_go_at_start_only() {
    let sim = SimDisk::new(1);
    let disk = disk(&sim);
    let mut kv = sample();
    let mut names = Vec::new();
    for _ in 0..4 {
        names.push(write(disk.clone(), &mut kv).unwrap().name);
        next(&mut kv, &Payload::Noop);
    }
    put_file(&sim, RECEIVE_NAME, b"x");
    put_file(&sim, WRITE_NAME, b"x");
    let reader = SnapshotReader::open(&disk, names[0]).unwrap();
    assert_eq!(prune(&disk, KEPT_SNAPSHOTS).unwrap(), 2);
    assert_eq!(list(&disk).unwrap(), [names[3], names[2]]);
    assert_eq!(reader.read_at(0, 8).unwrap(), b"dkvsnaps", "one that is being sent stays readable");
    assert!(sim.contents(RECEIVE_NAME).is_some(), "it may be under way");
    remove_leftovers(&disk).unwrap();
    assert_eq!(sim.restart(Loss::Everything).names().len(), 2);
}

/// Sends the snapshot in pieces of `len` bytes from where the receiver wants it on, `count` of them at most.
fn send(receiver: &mut Receiver, reader: &SnapshotReader, len: usize, count: usize) {
    let key = reader.key();
    for _ in 0..count {
        let at = receiver.expected_offset(&key);
        let piece = reader.read_at(at, len).unwrap();
        if piece.is_empty() {
            return;
        }
        assert_eq!(receiver.take(&key, at, &piece).unwrap(), at + piece.len() as u64);
    }
}

#[test]
fn receiver_takes_pieces_in_order_and_begins_anew_for_another_snapshot() {
    let (from, to) = (SimDisk::new(1), SimDisk::new(2));
    let mut kv = sample();
    let old = SnapshotReader::open(&disk(&from), write(disk(&from), &mut kv).unwrap().name).unwrap();
    next(&mut kv, &put("a", b"new"));
    let new = SnapshotReader::open(&disk(&from), write(disk(&from), &mut kv).unwrap().name).unwrap();
    let mut receiver = Receiver::new(disk(&to));
    send(&mut receiver, &old, 100, 3);
    assert_eq!(receiver.expected_offset(&old.key()), 300);
    // A repetition, a gap, and one that goes on after the end change nothing.
    for (at, len) in [(0, 100), (200, 100), (400, 100), (300, 1 << 20)] {
        assert_eq!(receiver.take(&old.key(), at, &vec![9; len]).unwrap(), 300);
    }
    // A newer one meanwhile, in pieces that end within the last four bytes as well.
    assert_eq!(receiver.expected_offset(&new.key()), 0);
    let short = usize::try_from(new.key().bytes - 2).unwrap();
    send(&mut receiver, &new, short, 1);
    assert!(!receiver.is_complete(&new.key()) && receiver.expected_offset(&old.key()) == 0);
    send(&mut receiver, &new, 1, 2);
    assert!(receiver.is_complete(&new.key()));
    let (header, loaded) = receiver.finish().unwrap();
    assert_eq!((header.meta.last, loaded.state_hash()), (kv.applied(), kv.state_hash()));
    let to = to.restart(Loss::Everything);
    assert_eq!(load(&disk(&to), SnapshotName::new(kv.applied())).unwrap().1.state_hash(), kv.state_hash());
    assert!(to.contents(RECEIVE_NAME).is_none());
}

#[test]
fn receiver_installs_nothing_that_is_not_whole() {
    let (from, to) = (SimDisk::new(1), SimDisk::new(2));
    let mut kv = sample();
    let reader = SnapshotReader::open(&disk(&from), write(disk(&from), &mut kv).unwrap().name).unwrap();
    let key = reader.key();
    for at in [30, 700, key.bytes - 2] {
        let mut receiver = Receiver::new(disk(&to));
        let mut bytes = reader.read_at(0, usize::MAX).unwrap();
        bytes[at as usize] ^= 4;
        receiver.take(&key, 0, &bytes).unwrap();
        assert!(matches!(receiver.finish(), Err(SnapshotError::Corrupt { .. })), "{at}");
        assert_eq!(receiver.expected_offset(&key), 0, "it begins anew");
        assert_eq!(list(&disk(&to)).unwrap(), []);
        send(&mut receiver, &reader, 500, usize::MAX);
        receiver.finish().unwrap();
        remove(&disk(&to), &SnapshotName::new(key.last).to_string()).unwrap();
    }
    // All bytes are right, but of another position than it was announced for.
    let key = TransferKey { last: Position::new(9, 1), ..key };
    let mut receiver = Receiver::new(disk(&to));
    receiver.take(&key, 0, &reader.read_at(0, usize::MAX).unwrap()).unwrap();
    assert!(matches!(receiver.finish(), Err(SnapshotError::Corrupt { .. })));
}

#[test]
fn every_failed_operation_of_a_writer_names_file_and_action_and_leaves_no_snapshot() {
    let mut kv = sample();
    let sim = SimDisk::new(1);
    write(disk(&sim), &mut kv).unwrap();
    let operations = sim.ops();
    for op in 1..=operations {
        let sim = SimDisk::new(1);
        sim.plan(op, Fault::NoSpace);
        let error = write(disk(&sim), &mut kv).unwrap_err();
        assert!(matches!(error, SnapshotError::Io { .. }), "{error}");
        assert!(error.to_string().starts_with("cannot "), "{error}");
        assert!(!kv.is_pinned());
        let sim = sim.restart(Loss::KeepsEverything);
        // The rename may be done and only its sync have failed.
        assert_eq!(list(&disk(&sim)).unwrap().len(), usize::from(op == operations), "{error}");
        remove_leftovers(&disk(&sim)).unwrap();
        assert_eq!(sim.names().len(), usize::from(op == operations));
    }
}

#[test]
fn rebase_moves_a_state_to_the_beginning_of_another_log() {
    let mut kv = sample();
    let (revision, floor, cluster_time) = (kv.revision(), kv.floor(), kv.cluster_time());
    let Payload::Genesis(mut new) = genesis(kv.settings().clone()) else { unreachable!() };
    (new.cluster_id, new.members) = (ClusterId(8), membership([11]));
    let entry = Entry::new(Position::new(1, 1), 0, &Payload::Genesis(new.clone()));
    let to = |keeps| Rebase {
        last: Position::new(1, 1),
        genesis: entry.clone(),
        membership: Arc::new(new.members.clone()),
        membership_index: 1,
        keeps_idempotency: keeps,
        keeps_removed: keeps,
    };
    kv.rebase(to(true));
    let removed = |kv: &Kv| (0..20).filter(|id| kv.is_removed(MemberId(*id))).collect::<Vec<_>>();
    assert_eq!((removed(&kv), kv.size().idempotency_rows), (vec![1, 2, 3, 4], 2));
    let sim = SimDisk::new(1);
    assert_eq!(load(&disk(&sim), stored(&sim, &mut kv).0).unwrap().1.state_hash(), kv.state_hash());
    kv.rebase(to(false));
    assert_eq!((removed(&kv), kv.size().idempotency_rows), (vec![], 0));
    assert_eq!((kv.cluster_id(), kv.genesis(), kv.membership_index()), (Some(ClusterId(8)), Some(&entry), 1));
    assert_eq!((kv.revision(), kv.floor(), kv.cluster_time()), (revision, floor, cluster_time));
    assert_eq!(kv.get(b"c", None).unwrap().unwrap().value, b"1");
    let (name, _) = stored(&sim, &mut kv);
    assert_eq!(name.position(), Position::new(1, 1));
    let mut loaded = load(&disk(&sim), name).unwrap().1;
    next(&mut loaded, &put("c", b"2"));
    assert_eq!(loaded.applied(), Position::new(2, 1));
}

/// One write of several keys once made every snapshot that still had the versions before it count as damaged.
#[test]
fn a_snapshot_with_several_keys_of_one_revision_is_loaded() {
    let mut kv = sample();
    let removed = |kv: &mut Kv| {
        let op = Op::DeleteRange { range: KeyRange::new(b"", b"", b"") };
        let Payload::Command(bytes) = command(op, Some("all")) else { unreachable!("a command") };
        let position = Position::new(kv.applied().index + 1, 1);
        kv.apply(&Entry::new(position, kv.cluster_time(), &Payload::Command(bytes)))
            .map(|applied| applied.outcome)
    };
    let outcome = removed(&mut kv);
    assert!(matches!(outcome, Some(Outcome::Deleted { deleted: 3, .. })), "{outcome:?}");
    let sim = SimDisk::new(1);
    let (name, _) = stored(&sim, &mut kv);
    let (_, mut loaded) = load(&disk(&sim), name).unwrap();
    same(&loaded, &kv).unwrap();
    for key in ["x", "y", "z", "x", "y", "z"] {
        next(&mut kv, &put(key, b"later"));
        next(&mut loaded, &put(key, b"later"));
        assert_eq!((loaded.state_hash(), loaded.floor()), (kv.state_hash(), kv.floor()));
    }
    assert!(kv.floor() > kv.revision() - 5, "the floor has passed them");
}

#[test]
fn a_backup_is_read_from_anywhere() {
    let tmp = tempfile::tempdir().unwrap();
    let mut kv = sample();
    let (_, bytes) = stored(&SimDisk::new(1), &mut kv);
    let path = tmp.path().join("backup");
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(load_file(&path).unwrap().1.state_hash(), kv.state_hash());
    assert_eq!(verify_file(&path).unwrap().bytes, bytes.len() as u64);
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(verify_file(&path).unwrap_err().to_string().starts_with(path.to_str().unwrap()));
    std::fs::write(&path, "dkv").unwrap();
    assert!(load_file(&path).unwrap_err().to_string().contains("no whole snapshot"));
}

fn grant(kv: &mut Kv, number: u64) -> LeaseId {
    let lease = LeaseId::new(number).unwrap();
    next(kv, &command(Op::LeaseGrant { lease, ttl_s: 60, is_chosen: true }, None));
    lease
}

#[test]
fn load_refuses_a_state_whose_leases_are_others() {
    let mut kv = sample();
    let lease = grant(&mut kv, 0x0102_0304_0506_0708);
    let key = b"leased".to_vec();
    next(&mut kv, &command(Op::Put { key, value: b"v".to_vec(), lease: PutLease::Attach(lease) }, None));
    let (mut view, mut bytes) = (kv.pin(), Vec::new());
    while view.next_page(&kv, &mut bytes, 1_000) {}
    let header = view.header().clone();
    let build = |mut bytes: &[u8]| {
        let mut builder = Kv::from_snapshot(header.clone());
        while let Some((row, len)) = rows::decode(bytes)? {
            match row {
                AnyRow::Lease(row) => builder.push_lease(row)?,
                AnyRow::Key(key) => builder.push_key(key)?,
                AnyRow::Version(numbers, value) => builder.push_version(numbers, value)?,
                AnyRow::Idempotency(row) => builder.push_idempotency(row)?,
            }
            bytes = &bytes[len..];
        }
        builder.finish()
    };
    // The first row: its kind, the lease, its time to live, its deadline, whether it is a key's own.
    for (at, new, what) in [
        (17, &[9][..], "state hash"),
        (25, &[2], "where 0 or 1 says"),
        (9, &[0; 8], "time to live of 0 s"),
        (1, &[0; 8], "a lease is called 0"),
        (1, &[7, 0, 0, 0, 0, 0, 0, 0], "which is not there"),
    ] {
        let mut changed = bytes.clone();
        changed[at..at + new.len()].copy_from_slice(new);
        let error = build(&changed).unwrap_err();
        assert!(error.contains(what), "{what}: {error}");
    }
    let loaded = build(&bytes).unwrap();
    assert_eq!(loaded.lease(lease), kv.lease(lease));
    assert_eq!(loaded.lease_keys(lease, None).collect::<Vec<_>>(), [b"leased"]);
}

/// Nobody could renew while there was no cluster.
#[test]
fn rebase_gives_every_lease_its_whole_time_again() {
    let mut kv = sample();
    let lease = grant(&mut kv, 7);
    (0..30).for_each(|_| next(&mut kv, &put("k", b"v")));
    let before = kv.lease(lease).unwrap();
    let Payload::Genesis(new) = genesis(kv.settings().clone()) else { unreachable!() };
    kv.rebase(Rebase {
        last: Position::new(1, 1),
        genesis: Entry::new(Position::new(1, 1), 0, &Payload::Genesis(new.clone())),
        membership: Arc::new(new.members),
        membership_index: 1,
        keeps_idempotency: false,
        keeps_removed: false,
    });
    let after = kv.lease(lease).unwrap();
    assert_eq!((after.deadline, after.ttl_s), (kv.cluster_time() + 60_000_000, 60));
    assert_eq!(after.deadline, before.deadline + 30_000_000);
}
