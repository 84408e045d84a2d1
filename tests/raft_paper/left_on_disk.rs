//! What a start leaves on the disk (`raft/left_on_disk.rs`): a long log does not come into memory again.

use dkv::raft::{
    AppendOutcome, Apply, Entry, HardState, Index, LeftOnDisk, Log, LogRead, Membership, Payload, Position,
    Raft, RaftConfig, Restored, SnapshotMeta, Term, Time, check,
};

use crate::harness::{Cluster, HEARTBEAT_MS, append_request, config, entry, log, membership, ready, sync};

fn changing(index: Index, term: Term, membership: Membership) -> Entry {
    Entry::new(Position::new(index, term), 0, &Payload::Membership(membership))
}

/// A member of three whose start left all entries but the last one on the disk.
fn started(hard_state: HardState, entries: Vec<Entry>) -> Raft {
    let mut whole = Log::new(Position::ZERO, entries.clone());
    whole.release(Index::MAX, 0);
    let (left, entries) = whole.into_parts(entries);
    let config = RaftConfig { max_log_memory_bytes: 0, ..config(2) };
    Raft::new(config, Restored { hard_state, left, entries, ..Restored::default() }, Time(0))
}

fn in_term(term: Term) -> HardState {
    HardState { term, voted_for: None }
}

/// Committed entries that did not come into memory are read from the disk, each run of a term for itself, and applied in
/// order.
#[test]
fn rule_55_a_member_that_starts_applies_what_stayed_on_the_disk() {
    let mut raft = started(in_term(4), log(&[1, 2, 2, 2, 2, 4], 3));
    assert_eq!((raft.log().released(), raft.last()), (5, Position::new(6, 4)));
    assert_eq!(raft.poll_apply(), None, "nothing is known to be committed");
    let heartbeat = |commit| append_request(4, 1, Position::new(6, 4), vec![], commit);
    let _ = raft.handle_append_entries(heartbeat(4), Time(1));
    let read = |from: Position, through| {
        Apply::Read(LogRead { from, through, max_bytes: config(2).max_append_bytes })
    };
    assert_eq!(raft.poll_apply(), Some(read(Position::new(1, 1), 1)));
    assert_eq!(raft.poll_apply(), None, "one at a time");
    raft.handle_applied(1);
    assert_eq!(raft.poll_apply(), Some(read(Position::new(2, 2), 4)));
    raft.handle_applied(2);
    assert_eq!(raft.poll_apply(), Some(read(Position::new(3, 2), 4)), "fewer were read");
    raft.handle_applied(4);
    assert_eq!(raft.poll_apply(), None, "entry 5 is not committed");
    let _ = raft.handle_append_entries(heartbeat(6), Time(2));
    assert_eq!(raft.poll_apply(), Some(read(Position::new(5, 2), 5)));
    raft.handle_applied(5);
    let Some(Apply::Entries(entries)) = raft.poll_apply() else { panic!("the last entry is in memory") };
    assert_eq!(entries.len(), 1);
    check(&raft);
}

/// All members start with their entries on the disk, and lead, replicate and apply as ever.
#[test]
fn rule_55_a_cluster_whose_entries_stayed_on_the_disk_goes_on() {
    let mut cluster = Cluster::that_forgets(3);
    cluster.elect(1);
    cluster.crash(3);
    for i in 3..=9 {
        cluster.propose(1, &i.to_string());
    }
    cluster.run_for(2 * HEARTBEAT_MS);
    for me in [1, 2] {
        cluster.crash(me);
    }
    (1..=3).for_each(|me| cluster.restart(me));
    assert_eq!((cluster.raft(2).log().released(), cluster.raft(2).last_applied()), (8, 0));
    cluster.elect(2);
    cluster.propose(2, "last");
    cluster.run_until("all have everything", |c| (1..=3).all(|me| c.applied(me).len() == 11));
    assert_eq!(cluster.applied(1), cluster.applied(3));
}

/// §5.3: entries that were never committed are replaced also when they are not in memory, and the membership and the
/// version that they put in force are gone with them.
#[test]
fn rule_55_a_leader_replaces_what_stayed_on_the_disk() {
    let mut entries = log(&[1, 2], 3);
    entries.push(changing(3, 2, membership(&[1, 2, 3, 4])));
    entries.push(Entry::new(Position::new(4, 2), 0, &Payload::Version(2)));
    entries.push(entry(5, 2, 3));
    let mut raft = started(in_term(2), entries);
    assert_eq!(raft.log().released(), 4);
    assert_eq!((raft.membership().members.len(), raft.version_of_log()), (4, 2));
    let new = vec![entry(3, 3, 3)];
    let waiting = raft.handle_append_entries(append_request(3, 1, Position::new(2, 2), new, 1), Time(1));
    check(&raft);
    assert_eq!((raft.last(), raft.log().released()), (Position::new(3, 3), 2));
    assert_eq!((raft.membership().members.len(), raft.version_of_log()), (3, 1));
    assert_eq!(raft.persisted_index(), 2, "the entry that replaces them is not on the disk");
    sync(&mut raft, Time(2));
    let reply = ready(&raft, waiting, Time(2));
    assert!(matches!(reply.outcome, AppendOutcome::Accepted { .. }), "{reply:?}");
}

/// A snapshot that is installed while the applier reads takes the place of what can then not be read. Without one the
/// disk has lost what this member holds as durable.
#[test]
fn rule_55_an_installed_snapshot_overtakes_the_applier() {
    let heartbeat = append_request(2, 1, Position::new(4, 2), vec![], 3);
    for is_installed in [true, false] {
        let mut raft = started(in_term(2), log(&[1, 2, 2, 2], 3));
        let _ = raft.handle_append_entries(heartbeat.clone(), Time(1));
        assert!(matches!(raft.poll_apply(), Some(Apply::Read(_))));
        if is_installed {
            let last = Position::new(9, 2);
            let meta = SnapshotMeta {
                last,
                cluster_time: 9,
                membership: membership(&[1, 2, 3]).into(),
                membership_index: 1,
                version: 1,
            };
            let _ = raft.handle_snapshot_received(meta, 1, Time(2));
            assert_eq!(raft.poll_apply(), None, "the applier is busy");
            assert!(raft.handle_apply_read_failed());
            assert_eq!(raft.poll_apply(), Some(Apply::Restore(last)));
        } else {
            assert!(!raft.handle_apply_read_failed());
        }
        check(&raft);
    }
}

/// Figure 13, 6: the suffix that an installed snapshot keeps puts its memberships and versions in force, also from the
/// disk.
#[test]
fn rule_20_an_installed_snapshot_keeps_the_memberships_that_stayed_on_the_disk() {
    let mut entries = log(&[1, 2, 2], 3);
    entries.push(changing(4, 2, membership(&[1, 2, 3, 4])));
    entries.push(Entry::new(Position::new(5, 2), 0, &Payload::Version(2)));
    entries.push(entry(6, 2, 3));
    let mut raft = started(in_term(2), entries);
    let meta = SnapshotMeta {
        last: Position::new(3, 2),
        cluster_time: 9,
        membership: membership(&[1, 2, 3]).into(),
        membership_index: 1,
        version: 1,
    };
    let (is_news, _) = raft.handle_snapshot_received(meta, 1, Time(2));
    assert!(is_news);
    assert_eq!((raft.membership().members.len(), raft.version_of_log()), (4, 2));
    assert_eq!((raft.log().released(), raft.last()), (5, Position::new(6, 2)));
    check(&raft);
}

/// What a leader needs of its own disk for a peer right after its start.
#[test]
fn rule_55_a_new_leader_sends_what_stayed_on_its_disk_before_it_is_applied() {
    let mut cluster = Cluster::that_forgets(3);
    cluster.elect(1);
    cluster.crash(3);
    cluster.hold_disk(2);
    for i in 3..=6 {
        cluster.propose(1, &i.to_string());
    }
    cluster.crash(2);
    cluster.crash(1);
    cluster.restart(1);
    cluster.restart(3);
    let (applied, released) = (cluster.raft(1).last_applied(), cluster.raft(1).log().released());
    assert!(applied == 0 && released == 5, "applied {applied}, on the disk through {released}");
    cluster.elect(1);
    cluster.run_until("both have everything", |c| [1, 3].iter().all(|&me| c.applied(me).len() == 7));
}

#[test]
fn left_on_disk_reads_run_after_run() {
    let runs = vec![Position::new(4, 1), Position::new(6, 3), Position::new(7, 4)];
    let left = LeftOnDisk { through: 9, runs, changes: Vec::new() };
    let reads: Vec<_> = left.reads(7).map(|read| (read.from.index, read.from.term, read.through)).collect();
    assert_eq!(reads, [(4, 1, 5), (6, 3, 6), (7, 4, 9)]);
    assert_eq!(LeftOnDisk::default().reads(7).count(), 0);
}
