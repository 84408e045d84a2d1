use super::*;
use crate::raft::{FRAME_HEADER_BYTES, Payload, WriteOp};
use crate::store::simdisk::{Fault, Loss, SimDisk};

const IDS: WalIds = WalIds { cluster_id: ClusterId(0xc), member_id: MemberId(0xa) };
const SMALL: WalOptions = WalOptions::new(64 << 10);

fn disk(sim: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(sim.clone())
}

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    Entry::new(Position::new(index, term), index * 10, &Payload::Command(vec![index as u8; bytes]))
}

fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> WriteOp {
    WriteOp::Entries(range.map(|i| entry(i, term, 100)).collect())
}

fn vote(term: u64, voted_for: u64) -> WriteOp {
    WriteOp::HardState(HardState { term, voted_for: (voted_for > 0).then_some(MemberId(voted_for)) })
}

fn positions(recovered: &Recovered) -> Vec<String> {
    recovered.entries.iter().map(|e| e.position().to_string()).collect()
}

fn open(sim: &SimDisk) -> Result<(Wal, Recovered), WalError> {
    Wal::open(disk(sim), IDS, SMALL)
}

/// A log of one segment: block 0 segment header, 1 records of the vote and entries 1..=3; 2 entry 4; no seal.
fn sample() -> (SimDisk, Wal) {
    let sim = SimDisk::new(7);
    let mut wal = Wal::create(disk(&sim), IDS, SMALL).unwrap();
    wal.write(&[vote(1, 0xa), entries(1..=3, 1)]).unwrap();
    wal.write(&[entries(4..=4, 1)]).unwrap();
    (sim, wal)
}

fn only_segment(sim: &SimDisk) -> String {
    let names: Vec<String> = sim.names().into_iter().filter(|n| n.ends_with(".wal")).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].clone()
}

#[test]
fn open_gives_back_what_was_written() {
    let (sim, _) = sample();
    let (_, recovered) = open(&sim.restart(Loss::Everything)).unwrap();
    assert_eq!(recovered.hard_state, HardState { term: 1, voted_for: Some(MemberId(0xa)) });
    assert_eq!(recovered.base, Position::ZERO);
    assert_eq!(positions(&recovered), ["1@1", "2@1", "3@1", "4@1"]);
    assert_eq!(recovered.entries[1], entry(2, 1, 100));
    assert_eq!(recovered.warnings, [""; 0]);
    assert_eq!(recovered.synced_mark, LogPlace { sequence: 1, block: 2 });
}

#[test]
fn write_costs_one_write_and_one_sync() {
    let (sim, mut wal) = sample();
    let before = sim.ops();
    wal.write(&[entries(5..=6, 1), vote(2, 0), entries(7..=7, 2)]).unwrap();
    assert_eq!(sim.ops() - before, 2);
    wal.write(&[]).unwrap();
    assert_eq!(sim.ops() - before, 2, "nothing to write costs nothing");
}

#[test]
fn write_cuts_the_entries_it_replaces() {
    let (sim, mut wal) = sample();
    wal.write(&[vote(2, 0), entries(3..=3, 2)]).unwrap();
    let (mut wal, recovered) = open(&sim.restart(Loss::Everything)).unwrap();
    assert_eq!(positions(&recovered), ["1@1", "2@1", "3@2"]);
    wal.write(&[entries(4..=4, 2)]).unwrap();
}

#[test]
fn write_of_a_reset_begins_the_log_anew() {
    let (sim, mut wal) = sample();
    wal.write(&[vote(5, 0), WriteOp::Reset(Position::new(90, 4)), entries(91..=92, 5)]).unwrap();
    let (_, recovered) = open(&sim.restart(Loss::Everything)).unwrap();
    assert_eq!(recovered.base, Position::new(90, 4));
    assert_eq!(positions(&recovered), ["91@5", "92@5"]);
}

#[test]
#[should_panic(expected = "entry 6@1 does not continue a log from 0 to 4@1")]
fn write_refuses_a_gap() {
    let _ = sample().1.write(&[entries(6..=6, 1)]);
}

#[test]
#[should_panic(expected = "cannot go back from term 1 to 0")]
fn write_refuses_an_older_term() {
    let _ = sample().1.write(&[vote(0, 0)]);
}

#[test]
fn write_opens_the_next_segment_when_this_one_is_full() {
    let (sim, mut wal) = sample();
    let mut preparer = wal.take_preparer().unwrap();
    assert!(wal.take_preparer().is_none());
    for index in 5..=60 {
        wal.write(&[entries(index..=index, 1)]).unwrap();
        if wal.spare_is_due() {
            while preparer.step().unwrap() {}
        }
    }
    let stats = wal.stats();
    assert_eq!((stats.segments, stats.spare_not_ready), (3, 0), "{stats:?}");
    assert_eq!(stats.syncs, stats.batches);
    let (_, recovered) = open(&sim.restart(Loss::Everything)).unwrap();
    assert_eq!(recovered.entries.len(), 60);
    assert_eq!(recovered.synced_mark.sequence, 4);
}

#[test]
fn write_counts_a_spare_that_is_not_ready_and_goes_on() {
    let (sim, mut wal) = sample();
    for index in 5..=60 {
        wal.write(&[entries(index..=index, 1)]).unwrap();
    }
    assert_eq!(wal.stats().spare_not_ready, 3);
    assert_eq!(open(&sim.restart(Loss::Everything)).unwrap().1.entries.len(), 60);
}

#[test]
fn write_makes_a_segment_to_measure_for_a_great_batch() {
    let (sim, mut wal) = sample();
    wal.write(&[WriteOp::Entries(vec![entry(5, 1, 300_000)]), entries(6..=6, 1)]).unwrap();
    assert_eq!(wal.stats().spare_not_ready, 1, "for entry 6, not for the great one");
    wal.write(&[entries(7..=7, 1)]).unwrap();
    let (_, recovered) = open(&sim.restart(Loss::Everything)).unwrap();
    assert_eq!(recovered.entries.len(), 7);
    assert_eq!(recovered.entries[4], entry(5, 1, 300_000));
}

#[test]
fn write_that_is_first_and_great_leaves_an_empty_first_segment() {
    let sim = SimDisk::new(7);
    let mut wal = Wal::create(disk(&sim), IDS, SMALL).unwrap();
    wal.write(&[vote(1, 0), WriteOp::Entries(vec![entry(1, 1, 300_000)])]).unwrap();
    assert_eq!(Wal::identify(&disk(&sim)).unwrap(), Some(IDS));
    assert_eq!(open(&sim.restart(Loss::Everything)).unwrap().1.entries.len(), 1);
}

#[test]
fn write_splits_a_long_queue_into_batches_and_syncs_once() {
    let sim = SimDisk::new(7);
    let options = WalOptions::new(4 << 20);
    let mut wal = Wal::create(disk(&sim), IDS, options).unwrap();
    let ops: Vec<WriteOp> = (1..=30).map(|i| WriteOp::Entries(vec![entry(i, 0, 100_000)])).collect();
    wal.write(&ops).unwrap();
    assert_eq!((wal.stats().batches, wal.stats().syncs), (3, 1));
    assert_eq!(Wal::open(disk(&sim), IDS, options).unwrap().1.entries.len(), 30);
}

#[test]
fn write_after_a_failure_is_refused_and_nothing_is_tried() {
    let (sim, mut wal) = sample();
    sim.plan(sim.ops() + 2, Fault::Eio);
    let error = wal.write(&[entries(5..=5, 1)]).unwrap_err();
    assert!(matches!(error, WalError::Io { action: "sync", .. }), "{error}");
    let ops = sim.ops();
    assert!(matches!(wal.write(&[entries(5..=5, 1)]), Err(WalError::Unusable)));
    assert!(matches!(wal.seal(), Err(WalError::Unusable)));
    assert!(!wal.needs_seal());
    assert_eq!(sim.ops(), ops);
    assert_eq!(open(&sim.restart(Loss::Everything)).unwrap().1.entries.len(), 4);
}

#[test]
fn write_on_a_full_disk_fails_and_recovery_finds_what_was_acknowledged() {
    let (sim, mut wal) = sample();
    sim.set_capacity(Some(64 << 10));
    let mut acknowledged = 4;
    while wal.write(&[entries(acknowledged + 1..=acknowledged + 1, 1)]).is_ok() {
        acknowledged += 1;
    }
    assert_eq!(acknowledged, 17);
    let sim = sim.restart(Loss::Nothing);
    sim.set_capacity(None);
    assert_eq!(open(&sim).unwrap().1.entries.len(), 17);
}

#[test]
fn seal_writes_once_and_vouches_for_all_before_it() {
    let (sim, mut wal) = sample();
    assert!(wal.needs_seal());
    wal.seal().unwrap();
    assert!(!wal.needs_seal());
    let ops = sim.ops();
    wal.seal().unwrap();
    assert_eq!(sim.ops(), ops);
    let (wal, recovered) = open(&sim.restart(Loss::Everything)).unwrap();
    assert_eq!(recovered.synced_mark, LogPlace { sequence: 1, block: 3 });
    assert!(!wal.needs_seal(), "recovery seals");
}

#[test]
fn open_cuts_a_damaged_last_batch_off_with_a_warning() {
    let (sim, _) = sample();
    sim.flip(&only_segment(&sim), 2 * 4096 + 300, 1);
    let sim = sim.restart(Loss::Everything);
    let (mut wal, recovered) = open(&sim).unwrap();
    assert_eq!(positions(&recovered), ["1@1", "2@1", "3@1"]);
    assert_eq!(recovered.warnings.len(), 1);
    assert!(recovered.warnings[0].contains("at byte 8192"), "{}", recovered.warnings[0]);
    wal.write(&[entries(4..=5, 1)]).unwrap();
    let (_, recovered) = open(&sim.restart(Loss::Everything)).unwrap();
    assert_eq!((recovered.entries.len(), recovered.warnings.len()), (5, 0));
}

#[test]
fn open_refuses_the_same_damage_with_a_seal_after_it() {
    let (sim, mut wal) = sample();
    wal.seal().unwrap();
    let name = only_segment(&sim);
    sim.flip(&name, 2 * 4096 + 300, 1);
    let before = sim.contents(&name).unwrap();
    let error = open(&sim.restart(Loss::Nothing)).err().unwrap();
    let text = error.to_string();
    assert!(matches!(error, WalError::Corrupt { offset: 8192, .. }), "{text}");
    assert!(text.starts_with(&name) && text.contains("To repair"), "{text}");
    assert_eq!(sim.contents(&name).unwrap(), before, "a refusal changes nothing");
}

#[test]
fn open_drops_a_whole_batch_after_a_torn_one_of_the_same_write() {
    let options = WalOptions::new(4 << 20);
    let op = |i| WriteOp::Entries(vec![entry(i, 1, 700_000)]);
    let build = || {
        let sim = SimDisk::new(7);
        let mut wal = Wal::create(disk(&sim), IDS, options).unwrap();
        wal.write(&[vote(1, 0), entries(1..=1, 1)]).unwrap();
        wal.write(&[op(2), op(3)]).unwrap();
        assert_eq!((wal.stats().batches, wal.stats().syncs), (3, 2));
        (sim, wal)
    };
    // The disk wrote the second batch before the first and then lost power: nothing proves that either was synced.
    let (sim, _) = build();
    sim.flip(&only_segment(&sim), 3 * 4096, 1);
    let (_, recovered) = Wal::open(disk(&sim), IDS, options).unwrap();
    assert_eq!((recovered.entries.len(), recovered.warnings.len()), (1, 1));
    let (_, recovered) = Wal::open(disk(&sim.restart(Loss::Everything)), IDS, options).unwrap();
    assert_eq!((recovered.entries.len(), recovered.warnings.len()), (1, 0));
    // With any later write the same damage is rot.
    let (sim, mut wal) = build();
    wal.write(&[entries(4..=4, 1)]).unwrap();
    sim.flip(&only_segment(&sim), 3 * 4096, 1);
    assert!(matches!(Wal::open(disk(&sim), IDS, options), Err(WalError::Corrupt { offset: 8192, .. })));
}

#[test]
fn open_refuses_damage_in_a_segment_with_a_successor() {
    let (sim, mut wal) = sample();
    for index in 5..=20 {
        wal.write(&[entries(index..=index, 1)]).unwrap();
    }
    let first = sim.names().into_iter().find(|n| n.starts_with("0000000000000001-")).unwrap();
    let sim = sim.restart(Loss::Nothing);
    let damaged = sim.fork();
    damaged.flip(&first, 15 * 4096 + 90, 0x80);
    let error = open(&damaged).err().unwrap();
    assert!(matches!(error, WalError::Corrupt { offset: 61_440, .. }), "{error}");
    // The segment's last batch gone without a trace: the chain of the next segment shows it.
    Disk::open(&sim, &first).unwrap().write_at(15 * 4096, &[0; 4096]).unwrap();
    let text = open(&sim).err().unwrap().to_string();
    assert!(text.contains("0000000000000002-") && text.contains("batches are missing there"), "{text}");
}

#[test]
fn open_refuses_a_missing_or_doubled_or_misnamed_or_short_segment() {
    let build = || {
        let (sim, mut wal) = sample();
        for index in 5..=40 {
            wal.write(&[entries(index..=index, 1)]).unwrap();
        }
        sim
    };
    let names: Vec<String> = build().names();
    assert_eq!(names.len(), 3, "{names:?}");
    let refused = |sim: &SimDisk| match open(sim) {
        Err(WalError::Corrupt { what, .. }) => what,
        other => panic!("{:?}", other.map(|(_, recovered)| recovered)),
    };
    for (n, what) in [(0, "segment 1, which"), (1, "segment 2, which")] {
        let sim = build();
        sim.remove(&names[n]).unwrap();
        assert!(refused(&sim).contains(what));
    }
    let sim = build();
    sim.create("0000000000000002-00000000000000ff.wal").unwrap();
    assert!(refused(&sim).contains("two segments"));
    let sim = build();
    sim.rename(&names[2], "0003.wal").unwrap();
    assert!(refused(&sim).contains("name"));
    let sim = build();
    let bytes = sim.contents(&names[2]).unwrap();
    sim.create(&names[2]).unwrap().write_at(0, &bytes[..4096]).unwrap();
    assert!(refused(&sim).contains("segment header"));
    sim.create(&names[2]).unwrap().write_at(0, &bytes[..4095]).unwrap();
    assert!(refused(&sim).contains("length"));
}

#[test]
fn open_refuses_a_batch_from_elsewhere() {
    // The same file under another nonce: nothing in it is valid, and it is not the last.
    let (sim, mut wal) = sample();
    for index in 5..=20 {
        wal.write(&[entries(index..=index, 1)]).unwrap();
    }
    let names = sim.names();
    sim.rename(&names[0], "0000000000000001-0000000000000001.wal").unwrap();
    assert!(matches!(open(&sim), Err(WalError::Corrupt { offset: 0, .. })));
}

#[test]
fn open_names_file_and_offset_of_a_read_error() {
    let (sim, _) = sample();
    let sim = sim.restart(Loss::Nothing);
    // list, open, sync, forget_cache, size, read
    sim.plan(sim.ops() + 6, Fault::Eio);
    let error = open(&sim).err().unwrap();
    assert!(matches!(error, WalError::Io { action: "read", offset: Some(0), .. }), "{error}");
    assert!(error.to_string().contains(".wal at byte 0"), "{error}");
}

#[test]
fn open_refuses_a_foreign_log() {
    let (sim, _) = sample();
    for ids in [WalIds { member_id: MemberId(1), ..IDS }, WalIds { cluster_id: ClusterId(1), ..IDS }] {
        assert!(matches!(Wal::open(disk(&sim), ids, SMALL), Err(WalError::Foreign { found: IDS, .. })));
    }
    assert_eq!(Wal::identify(&disk(&sim)).unwrap(), Some(IDS));
}

#[test]
fn open_refuses_a_newer_format() {
    let (sim, _) = sample();
    let name = only_segment(&sim);
    let mut bytes = sim.contents(&name).unwrap().to_vec();
    bytes[136] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[128..140]), &bytes[144..192]);
    bytes[140..144].copy_from_slice(&crc.to_le_bytes());
    Disk::open(&sim, &name).unwrap().write_at(0, &bytes).unwrap();
    assert!(matches!(open(&sim), Err(WalError::NewerFormat { version: 2, .. })));
}

#[test]
fn open_tells_an_entry_of_a_later_program_from_rot() {
    let sim = SimDisk::new(7);
    let mut wal = Wal::create(disk(&sim), IDS, SMALL).unwrap();
    wal.write(&[vote(1, 0xa), entries(1..=1, 1)]).unwrap();
    wal.write(&[WriteOp::Entries(vec![Entry::new(Position::new(2, 1), 0, &Payload::Version(9))])]).unwrap();
    drop(wal);
    // An entry is sound by itself: whether its version is read is asked of the whole, see `Stored::check_program`.
    assert_eq!(open(&sim).unwrap().1.entries.last().unwrap().version(), Some(9));
    let record = format::decode_record(&[9, 0, 0]).unwrap_err();
    assert!(matches!(record, format::RecordError::Newer(_)), "{record:?}");
    let mut frame = Entry::new(Position::new(3, 1), 0, &Payload::Noop).frame().to_vec();
    frame[8] = 77;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    let record = [&[1], &frame[..]].concat();
    assert!(matches!(format::decode_record(&record).unwrap_err(), format::RecordError::Newer(_)));
    frame[9] ^= 1;
    let record = [&[1], &frame[..]].concat();
    assert!(matches!(format::decode_record(&record).unwrap_err(), format::RecordError::Broken(_)));
}

#[test]
fn exists_only_once_a_batch_is_whole() {
    let sim = SimDisk::new(7);
    assert!(!Wal::exists(&disk(&sim)).unwrap());
    assert!(matches!(open(&sim), Err(WalError::Missing(_))));
    let mut wal = Wal::create(disk(&sim), IDS, SMALL).unwrap();
    assert!(!Wal::exists(&disk(&sim)).unwrap());
    sim.plan(sim.ops() + 1, Fault::Die { bytes: 4300 });
    assert!(wal.write(&[vote(1, 0), entries(1..=3, 1)]).is_err());
    let sim = sim.restart(Loss::Nothing);
    assert!(!Wal::exists(&disk(&sim)).unwrap());
    let mut wal = Wal::create(disk(&sim), IDS, SMALL).unwrap();
    wal.write(&[vote(1, 0), entries(1..=3, 1)]).unwrap();
    assert!(Wal::exists(&disk(&sim)).unwrap());
    assert!(matches!(Wal::create(disk(&sim), IDS, SMALL), Err(WalError::Exists(_))));
    assert_eq!(open(&sim.restart(Loss::Everything)).unwrap().1.entries.len(), 3);
}

#[test]
fn open_syncs_what_a_killed_process_left_in_the_page_cache() {
    let (sim, mut wal) = sample();
    sim.plan(sim.ops() + 2, Fault::Die { bytes: 0 });
    assert!(wal.write(&[entries(5..=5, 1)]).is_err());
    let sim = sim.restart(Loss::Nothing);
    assert_eq!(open(&sim).unwrap().1.entries.len(), 5, "still in the page cache");
    assert_eq!(open(&sim.restart(Loss::Everything)).unwrap().1.entries.len(), 5, "and vouched for");
}

/// Seed 7 of the simulator: a sync failed and the process ended, as it must. The next one read from the page cache what the
/// disk had never got, vouched for it, and lost it when the power failed.
#[test]
fn open_does_not_vouch_for_what_a_failed_sync_left_in_the_page_cache() {
    let (sim, mut wal) = sample();
    sim.plan(sim.ops() + 2, Fault::Eio);
    assert!(wal.write(&[entries(5..=5, 1)]).is_err());
    let sim = sim.restart(Loss::Nothing);
    let (mut wal, recovered) = open(&sim).unwrap();
    assert_eq!(positions(&recovered), ["1@1", "2@1", "3@1", "4@1"]);
    wal.write(&[entries(5..=6, 2)]).unwrap();
    let (_, recovered) = open(&sim.restart(Loss::Everything)).unwrap();
    assert_eq!(positions(&recovered), ["1@1", "2@1", "3@1", "4@1", "5@2", "6@2"]);
}

/// Of a write of two batches the first was torn and the second came through whole. The zeroes over both were synced together
/// with the seal that recovery writes in their place, so that a power loss could keep the seal and the second batch, which
/// does not continue it.
#[test]
fn a_batch_after_a_torn_one_does_not_come_back_when_recovery_is_cut_short() {
    let options = WalOptions::new(4 << 20);
    let open = |sim: &SimDisk| Wal::open(disk(sim), IDS, options);
    let torn = || {
        let sim = SimDisk::new(7);
        let mut wal = Wal::create(disk(&sim), IDS, options).unwrap();
        wal.write(&[vote(1, 0xa), entries(1..=4, 1)]).unwrap();
        let before = sim.ops();
        wal.write(&[entries(5..=5, 1), WriteOp::Entries(vec![entry(6, 1, 1 << 20)])]).unwrap();
        assert_eq!(sim.ops() - before, 3, "two batches, one sync");
        sim.flip(&only_segment(&sim), 2 * 4096 + 100, 1);
        sim.restart(Loss::KeepsEverything)
    };
    let recovery = {
        let sim = torn();
        let before = sim.ops();
        assert_eq!(open(&sim).unwrap().1.entries.len(), 4);
        sim.ops() - before
    };
    for op in 1..=recovery {
        for loss in [Loss::Everything, Loss::KeepsLast, Loss::Random { seed: op }] {
            let sim = torn();
            sim.plan(sim.ops() + op, Fault::Die { bytes: 0 });
            assert!(open(&sim).is_err(), "operation {op} of {recovery}");
            let recovered = open(&sim.restart(loss)).map(|(_, recovered)| positions(&recovered));
            let recovered = recovered.unwrap_or_else(|e| panic!("operation {op}, {loss:?}: {e}"));
            assert_eq!(recovered, ["1@1", "2@1", "3@1", "4@1"], "operation {op}, {loss:?}");
        }
    }
}

#[test]
fn a_client_that_stores_a_header_does_not_make_one() {
    // The bytes of a batch, stored as a value at a block boundary of a later torn batch, lack its place and nonce.
    let (sim, mut wal) = sample();
    wal.seal().unwrap();
    let forged = sim.contents(&only_segment(&sim)).unwrap()[3 * 4096..4 * 4096].to_vec();
    let fill = 4096 - 80 - 1 - FRAME_HEADER_BYTES;
    let value = [vec![1; fill], forged.clone(), forged].concat();
    let last = Entry::new(Position::new(5, 1), 0, &Payload::Command(value));
    wal.write(&[WriteOp::Entries(vec![last])]).unwrap();
    sim.flip(&only_segment(&sim), 4 * 4096, 1);
    assert_eq!(open(&sim).unwrap().1.entries.len(), 4);
}

#[test]
fn real_files_hold_a_log() {
    let tmp = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(crate::store::disk::RealDisk::open(tmp.path()).unwrap());
    let mut wal = Wal::create(Arc::clone(&disk), IDS, SMALL).unwrap();
    let mut preparer = wal.take_preparer().unwrap();
    for index in 1..=50 {
        wal.write(&[entries(index..=index, 0)]).unwrap();
        while preparer.step().unwrap() {}
    }
    assert_eq!(wal.stats().spare_not_ready, 0);
    drop(wal);
    let spares = || disk.list().unwrap().iter().filter(|name| name.starts_with("spare")).count();
    assert_eq!(spares(), 1);
    let (_, recovered) = Wal::open(Arc::clone(&disk), IDS, SMALL).unwrap();
    assert_eq!(recovered.entries.len(), 50);
    assert_eq!(spares(), 0, "a new one is begun");
}

/// A log through entry 60 in four segments, and the housekeeper's end of it.
fn long() -> (SimDisk, Wal, SparePreparer) {
    let (sim, mut wal) = sample();
    let preparer = wal.take_preparer().unwrap();
    for index in 5..=60 {
        wal.write(&[entries(index..=index, 1)]).unwrap();
    }
    (sim, wal, preparer)
}

/// Bytes of the last segment that are not zero, in blocks.
fn filled(sim: &SimDisk) -> u64 {
    let name = sim.names().into_iter().filter(|name| name.ends_with(".wal")).max().unwrap();
    let bytes = sim.contents(&name).unwrap();
    bytes.chunks(4096).filter(|block| block.iter().any(|&b| b != 0)).count() as u64 * 4096
}

fn sequences(sim: &SimDisk) -> Vec<u64> {
    let names = sim.names();
    names.iter().filter_map(|name| format::SegmentName::parse(name)).map(|name| name.sequence).collect()
}

fn open_after(sim: &SimDisk, index: u64, term: u64) -> Result<(Wal, Recovered), WalError> {
    Wal::open_after(disk(sim), IDS, SMALL, Position::new(index, term), index)
}

fn prepare(preparer: &mut SparePreparer) {
    while preparer.step().unwrap() {}
}

#[test]
fn cut_gives_up_whole_segments_after_the_index_and_never_the_current_one() {
    let (sim, mut wal, mut preparer) = long();
    assert_eq!(sequences(&sim), [1, 2, 3, 4]);
    assert_eq!(wal.cut(0).unwrap(), 0);
    assert_eq!(wal.cut(30).unwrap(), 1);
    assert!(wal.spare_is_due() && !wal.needs_seal(), "the log is sealed before it is cut");
    prepare(&mut preparer);
    assert_eq!(sequences(&sim), [2, 3, 4]);
    let (_, recovered) = open_after(&sim.fork(), 30, 1).unwrap();
    assert_eq!(recovered.base, Position::new(30, 1));
    assert_eq!((positions(&recovered)[0].as_str(), recovered.entries.len()), ("31@1", 30));
    assert_eq!(wal.cut(60).unwrap(), 2);
    prepare(&mut preparer);
    assert_eq!(sequences(&sim), [4]);
    wal.write(&[entries(61..=61, 1)]).unwrap();
    let sim = sim.restart(Loss::Everything);
    let (mut wal, recovered) = open_after(&sim, 60, 1).unwrap();
    assert_eq!((positions(&recovered), wal.cut(60).unwrap()), (vec!["61@1".to_owned()], 0));
    assert_eq!(Wal::identify(&disk(&sim)).unwrap(), Some(IDS));
}

#[test]
fn cut_at_any_index_leaves_a_log_that_goes_on_after_it() {
    let mut left = Vec::new();
    for index in 1..=60 {
        let (sim, mut wal, mut preparer) = long();
        wal.cut(index).unwrap();
        prepare(&mut preparer);
        let recovered = open_after(&sim.restart(Loss::Everything), index, 1).unwrap().1;
        assert_eq!(recovered.entries.len() as u64, 60 - index, "cut at {index}");
        left.push(sequences(&sim).len());
    }
    left.dedup();
    assert_eq!(left, [4, 3, 2, 1]);
}

/// What a snapshot is due by: every block that is used up counts, seals and the end of a full segment too, and a restart
/// counts the segments after the snapshot.
#[test]
fn used_counts_the_blocks_of_the_disk() {
    let (sim, mut wal, _) = long();
    let segments = sequences(&sim).len() as u64;
    assert_eq!(wal.stats().used, (segments - 1) * SMALL.segment_bytes + filled(&sim));
    let before = wal.stats().used;
    wal.write(&[entries(61..=61, 1)]).unwrap();
    wal.seal().unwrap();
    assert_eq!(wal.stats().used - before, 2 * 4096);
    let after = |index| open_after(&sim.restart(Loss::Nothing), index, 1).unwrap().1.bytes_after;
    let (all, half, none) = (after(1), after(30), after(61));
    assert!(all > half && half > none, "{all} {half} {none}");
    assert!(all <= before + 8 * 4096 && all + SMALL.segment_bytes >= before, "{all} of {before}");
}

#[test]
fn open_after_refuses_a_gap_and_changes_nothing() {
    let (sim, mut wal, mut preparer) = long();
    wal.cut(30).unwrap();
    prepare(&mut preparer);
    let sim = sim.restart(Loss::Nothing);
    let before = sim.names();
    for (index, reach) in [(0, 0), (5, 5), (40, 61)] {
        let snapshot = Position::new(index, u64::from(index > 0));
        let error = Wal::open_after(disk(&sim), IDS, SMALL, snapshot, reach).err().unwrap();
        assert!(matches!(error, WalError::Gap { .. }), "{error}");
        let named = if index == 0 { "no whole snapshot".to_owned() } else { snapshot.to_string() };
        assert!(error.to_string().contains(&named), "{error}");
    }
    let text = open(&sim).err().unwrap().to_string();
    assert!(text.contains("segment 1, which must come before it, is missing"), "{text}");
    assert_eq!(sim.names(), before);
    assert_eq!(
        Wal::open_after(disk(&sim), IDS, SMALL, Position::new(40, 1), 60).unwrap().1.entries.len(),
        20
    );
}

#[test]
fn open_after_resets_a_log_that_does_not_lead_to_the_snapshot() {
    // The log ends before it; it has another term there; it ends before it and has not heard of its term.
    for (index, term) in [(90, 1), (40, 2), (90, 9)] {
        let (sim, mut wal, _) = long();
        wal.write(&[vote(3, 0xb)]).unwrap();
        let snapshot = Position::new(index, term);
        let (mut wal, recovered) = open_after(&sim.restart(Loss::Everything), index, term).unwrap();
        assert_eq!((recovered.base, recovered.entries.len()), (snapshot, 0));
        assert_eq!(recovered.hard_state.term, term.max(3), "no term of the log exceeds the current one");
        assert_eq!(recovered.hard_state.voted_for, (term < 3).then_some(MemberId(0xb)));
        assert!(recovered.warnings[0].contains("begins anew"), "{:?}", recovered.warnings);
        wal.write(&[entries(index + 1..=index + 2, 9)]).unwrap_or_else(|e| panic!("{e}"));
        let (_, again) = open_after(&sim.restart(Loss::Everything), index, term).unwrap();
        assert_eq!((again.base, again.entries.len(), again.warnings.len()), (snapshot, 2, 0));
    }
}

#[test]
fn open_after_takes_a_cut_log_whose_first_segment_replaces_entries_before_it() {
    // Segment 2 is begun after entry 21; then a new leader replaces from 18 on.
    let (sim, mut wal) = sample();
    let mut preparer = wal.take_preparer().unwrap();
    for index in 5..=21 {
        wal.write(&[entries(index..=index, 1)]).unwrap();
    }
    assert_eq!(sequences(&sim), [1, 2]);
    wal.write(&[vote(2, 0), entries(14..=40, 2)]).unwrap();
    assert_eq!(wal.cut(30).unwrap(), 1);
    prepare(&mut preparer);
    let (_, recovered) = open_after(&sim.restart(Loss::Everything), 30, 2).unwrap();
    assert_eq!((positions(&recovered)[0].as_str(), recovered.entries.len()), ("31@2", 10));
}

#[test]
fn segments_are_reused_and_read_back_over_what_they_held() {
    let (sim, mut wal, mut preparer) = long();
    let mut next = 61;
    for _ in 0..6 {
        wal.cut(next - 1).unwrap();
        prepare(&mut preparer);
        for index in next..next + 40 {
            wal.write(&[entries(index..=index, 1)]).unwrap();
            prepare(&mut preparer);
        }
        next += 40;
        let snapshot = Position::new(next - 20, 1);
        let (_, recovered) =
            Wal::open_after(disk(&sim.fork()), IDS, SMALL, snapshot, snapshot.index).unwrap();
        assert_eq!((recovered.entries.len(), recovered.warnings.len()), (19, 0), "{:?}", recovered.warnings);
    }
    assert!(wal.stats().segments_reused >= 8, "{:?}", wal.stats());
    let files = sim.names().len();
    assert!(files <= 6, "{:?}", sim.names());
    // Reopened in the middle of a reused one, it goes on in the same way.
    let (mut wal, _) = open_after(&sim.restart(Loss::Everything), next - 1, 1).unwrap();
    for index in next..next + 3 {
        wal.write(&[entries(index..=index, 1)]).unwrap();
    }
    let (_, recovered) = open_after(&sim.restart(Loss::Everything), next - 1, 1).unwrap();
    assert_eq!((recovered.entries.len(), recovered.warnings.len()), (3, 0));
}

/// A current segment that is a reused one, with 3 batches of one entry each after the snapshot at the returned index.
fn reused() -> (SimDisk, Wal, u64, String) {
    let (sim, mut wal, mut preparer) = long();
    wal.cut(60).unwrap();
    prepare(&mut preparer);
    let mut last = 60;
    while wal.stats().segments_reused == 0 {
        last += 1;
        wal.write(&[entries(last..=last, 1)]).unwrap();
    }
    wal.write(&[entries(last + 1..=last + 1, 1)]).unwrap();
    wal.write(&[entries(last + 2..=last + 2, 1)]).unwrap();
    let name = sim.names().into_iter().rfind(|name| name.ends_with(".wal")).unwrap();
    (sim, wal, last - 1, name)
}

#[test]
fn a_torn_end_in_a_reused_segment_is_cut_off_and_rot_is_refused() {
    let (sim, mut wal, snapshot, name) = reused();
    let open = |sim: &SimDisk| open_after(&sim.restart(Loss::Nothing), snapshot, 1);
    let whole = open(&sim.fork()).unwrap().1;
    assert_eq!((whole.entries.len(), whole.warnings.len()), (3, 0));
    // Block 0 and 1 hold the first batch, 2 and 3 the others, the rest is of the file's earlier life.
    let bytes = sim.contents(&name).unwrap();
    assert!(bytes[4 * 4096..5 * 4096].iter().any(|&b| b != 0), "there is an earlier life");
    let torn = sim.fork();
    torn.flip(&name, 3 * 4096 + 300, 1);
    let (mut after, recovered) = open(&torn).unwrap();
    assert_eq!((recovered.entries.len(), recovered.warnings.len()), (2, 1));
    after.write(&[entries(snapshot + 3..=snapshot + 3, 1)]).unwrap();
    let bytes = torn.contents(&name).unwrap();
    assert!(bytes[7 * 4096..].iter().all(|&b| b == 0), "nothing of it is ever read again");
    assert_eq!(open(&torn).unwrap().1.entries.len(), 3);
    // A write without its header, and any other bytes, are no more than an earlier life.
    for at in [3 * 4096 + 9, 4 * 4096 + 9] {
        let lost = sim.fork();
        lost.flip(&name, at, 1);
        let (mut after, recovered) = open(&lost).unwrap();
        let kept = if at < 4 * 4096 { 2 } else { 3 };
        assert_eq!((recovered.entries.len(), recovered.warnings.len()), (kept, 0));
        let next = snapshot + kept as u64 + 1;
        after.write(&[entries(next..=next, 1)]).unwrap();
        assert_eq!(open(&lost).unwrap().1.entries.len(), kept + 1);
    }
    wal.seal().unwrap();
    let rotten = sim.fork();
    rotten.flip(&name, 3 * 4096 + 300, 1);
    assert!(matches!(open(&rotten), Err(WalError::Corrupt { offset: 12_288, .. })));
    // Even when all of the first block reads as zero.
    Disk::open(&sim, &name).unwrap().write_at(3 * 4096, &[0; 4096]).unwrap();
    assert!(matches!(open(&sim), Err(WalError::Corrupt { offset: 12_288, .. })));
}

#[test]
fn a_great_batch_without_its_first_block_is_no_more_than_stale_bytes() {
    let (sim, mut wal, snapshot, name) = reused();
    let last = snapshot + 3;
    wal.write(&[WriteOp::Entries(vec![entry(last + 1, 1, 20_000)])]).unwrap();
    let whole = open_after(&sim.fork().restart(Loss::Nothing), snapshot, 1).unwrap().1;
    assert_eq!(whole.entries.len(), 4);
    // Its first block is lost, the other four are there: no header says that there was anything.
    Disk::open(&sim, &name).unwrap().write_at(4 * 4096, &[0; 4096]).unwrap();
    let (mut wal, recovered) = open_after(&sim.restart(Loss::Nothing), snapshot, 1).unwrap();
    assert_eq!((recovered.entries.len(), recovered.warnings.len()), (3, 0));
    wal.write(&[entries(last + 1..=last + 2, 1)]).unwrap();
    assert_eq!(open_after(&sim.restart(Loss::Nothing), snapshot, 1).unwrap().1.entries.len(), 5);
}

/// Most of a long log stays on the disk: of that, recovery knows the terms, and the entries that put something in force.
#[test]
fn recovery_keeps_the_end_of_the_log_and_the_changes_of_what_stays_on_the_disk() {
    let change = |index, term, payload| Entry::new(Position::new(index, term), 0, &payload);
    let membership = |index, term| change(index, term, Payload::Membership(Default::default()));
    let version = |index, term| change(index, term, Payload::Version(1));
    let options = WalOptions { max_memory_bytes: 1_000, ..SMALL };
    let sim = SimDisk::new(7);
    let mut wal = Wal::create(disk(&sim), IDS, options).unwrap();
    wal.write(&[entries(1..=9, 1), WriteOp::Entries(vec![membership(10, 1), version(11, 1)])]).unwrap();
    wal.write(&[entries(12..=40, 1), WriteOp::Entries(vec![membership(41, 1)])]).unwrap();
    // What replaces these begins before what is in memory by then.
    wal.write(&[entries(42..=90, 1), WriteOp::Entries(vec![version(30, 2)]), entries(31..=99, 3)]).unwrap();
    wal.seal().unwrap();
    let (_, recovered) = Wal::open(disk(&sim), IDS, options).unwrap();
    let LeftOnDisk { through, runs, changes } = &recovered.left;
    assert_eq!(recovered.last(), Position::new(99, 3));
    assert_eq!(recovered.entries.first().map(Entry::index), Some(through + 1));
    assert!(*through > 90, "the entries in memory begin after {through}");
    assert_eq!(runs[..], [Position::new(1, 1), Position::new(30, 2), Position::new(31, 3)]);
    assert_eq!(changes[..], [membership(10, 1), version(11, 1), version(30, 2)]);
    let mut read = Vec::new();
    let each = LogReader::new(disk(&sim)).each(&recovered.left, |entry| {
        read.push(entry.position().index);
        Ok::<_, WalError>(())
    });
    each.unwrap();
    assert!(read.iter().copied().eq(1..=*through), "{read:?}");

    let (_, after) = Wal::open_after(disk(&sim), IDS, options, Position::new(30, 2), 0).unwrap();
    assert_eq!((after.base, after.last()), (Position::new(30, 2), Position::new(99, 3)));
    assert_eq!((&after.left.runs[..], &after.left.changes[..]), (&[Position::new(31, 3)][..], &[][..]));
    let (_, after) = Wal::open_after(disk(&sim), IDS, options, Position::new(through + 1, 3), 0).unwrap();
    assert_eq!((after.left, after.entries.len()), (LeftOnDisk::default(), recovered.entries.len() - 1));
}
