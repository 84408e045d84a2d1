//! Snapshots and compaction: paper §7, thesis §5.

use dkv::raft::*;

use crate::harness::*;

/// Three members, member 1 leads term 2 with the entries `1@1 2@2 .. 6@2` committed and applied everywhere; member 3 was
/// cut off after the second one.
fn one_behind() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(3);
    for i in 3..=6 {
        cluster.propose(1, &i.to_string());
    }
    cluster.run_until_quiet();
    assert_eq!(cluster.raft(1).commit_index(), 6);
    cluster
}

/// P§7: a follower that needs compacted entries gets the snapshot, replaces its state by it and goes on with the log
/// after it.
#[test]
fn rule_17_a_follower_below_the_first_index_gets_the_snapshot() {
    let mut cluster = one_behind();
    cluster.save_snapshot(1);
    cluster.propose(1, "7");
    cluster.run_until_quiet();
    // Twice: the log keeps what lies after the snapshot before the last.
    cluster.save_snapshot(1);
    assert_eq!(cluster.raft(1).log().first_index(), 7);
    cluster.heal();
    cluster.run_for(400);
    assert_eq!(cluster.applied(3).len(), 7);
    assert_eq!(cluster.progress(1, 3).match_index, 7);
    assert_eq!(cluster.progress(1, 3).mode, Mode::Replicate);
    assert!(cluster.has_traced(&["installed the leader's snapshot through 7@2"]));
}

/// P§7: the log keeps what the snapshot before the newest does not cover, so a follower a little behind needs entries only.
#[test]
fn rule_21_the_log_is_cut_after_the_snapshot_before_the_newest() {
    let mut cluster = one_behind();
    cluster.save_snapshot(1);
    assert_eq!(cluster.raft(1).log().first_index(), 1, "one snapshot alone cuts nothing");
    assert_eq!(cluster.step(1, |raft, _| raft.poll_cut()), None);
    cluster.propose(1, "7");
    cluster.run_until_quiet();
    cluster.save_snapshot(1);
    assert_eq!(cluster.raft(1).log().first_index(), 7);
    assert_eq!(cluster.step(1, |raft, _| raft.poll_cut()), Some(6));
    assert_eq!(cluster.step(1, |raft, _| raft.poll_cut()), None, "once for each snapshot");
}

/// P§7, raft-rules 21: a snapshot is due only when the own disk holds what it would cover.
#[test]
fn rule_21_no_snapshot_is_due_beyond_what_is_durable_here() {
    let config = RaftConfig { snapshot_log_entries: 1, ..config(2) };
    let hard_state = HardState { term: 2, voted_for: None };
    let restored = Restored { hard_state, entries: log(&[1], 3), ..Restored::default() };
    let mut raft = Raft::new(config, restored, Time(0));
    let request = append_request(2, 1, Position::new(1, 1), vec![entry(2, 2, 3)], 2);
    let _ = raft.handle_append_entries(request, Time(1));
    apply(&mut raft);
    assert_eq!((raft.last_applied(), raft.persisted_index()), (2, 1));
    assert!(!raft.is_snapshot_due());
    sync(&mut raft, Time(2));
    assert!(raft.is_snapshot_due());
}

/// A state that is great next to what has changed is not written again yet.
#[test]
fn no_snapshot_is_due_before_half_of_the_last_one_has_come_anew() {
    let due_with = |snapshot_bytes| {
        let config = RaftConfig { snapshot_log_entries: 1, ..config(1) };
        let hard_state = HardState { term: 2, voted_for: None };
        let restored =
            Restored { hard_state, entries: log(&[1, 1], 1), snapshot_bytes, ..Restored::default() };
        let mut raft = Raft::new(config, restored, Time(0));
        append_as_leader(&mut raft);
        raft.handle_log_grown(4096);
        raft.is_snapshot_due()
    };
    assert!(due_with(100));
    assert!(!due_with(1 << 20));
}

/// What fills a disk are the blocks of the log, not the entries in them; what came while a snapshot was written counts for
/// the next one.
#[test]
fn a_snapshot_is_due_by_what_the_log_takes_of_the_disk() {
    let config = RaftConfig { snapshot_log_bytes: 1 << 20, ..config(1) };
    let hard_state = HardState { term: 2, voted_for: None };
    let restored =
        Restored { hard_state, entries: log(&[1, 1], 1), log_bytes: 512 << 10, ..Restored::default() };
    let mut raft = Raft::new(config, restored, Time(0));
    append_as_leader(&mut raft);
    raft.handle_log_grown((512 << 10) - 1);
    assert!(!raft.is_snapshot_due());
    raft.handle_log_grown(1);
    assert!(raft.is_snapshot_due());
    raft.begin_snapshot();
    raft.handle_log_grown(1 << 20);
    let last = Position::new(raft.last_applied(), 3);
    raft.handle_snapshot_saved(SnapshotMeta { last, ..SnapshotMeta::default() }, 100);
    assert!(!raft.is_snapshot_due(), "nothing was applied since");
    raft.propose(&Payload::Command(vec![7; 10]), Time(1_000_000)).expect("it leads");
    sync(&mut raft, Time(1_000_000));
    apply(&mut raft);
    assert!(raft.is_snapshot_due(), "the log has grown while it was written");
}

/// The only member leads, commits and applies.
fn append_as_leader(raft: &mut Raft) {
    let now = raft.poll_timeout();
    raft.handle_timeout(now);
    sync(raft, now);
    sync(raft, now);
    apply(raft);
    assert_eq!(raft.last_applied(), 3);
}

fn apply(raft: &mut Raft) {
    while let Some(Apply::Entries(entries)) = raft.poll_apply() {
        raft.handle_applied(entries.last().unwrap().index());
    }
}

/// Figure 13; openraft#1930: a snapshot at or below the commit index changes nothing and is answered with what is held.
#[test]
fn rule_19_an_older_snapshot_than_what_is_committed_is_ignored() {
    let mut cluster = one_behind();
    let last = cluster.save_snapshot(1);
    cluster.propose(1, "7");
    cluster.run_until_quiet();
    cluster.run_for(100);
    let before = cluster.state(2);
    let reply = cluster.install(1, 2, last, 2);
    assert_eq!(reply.outcome, InstallOutcome::Holds(7));
    assert_eq!((cluster.state(2), cluster.applied(2).len()), (before, 7));
    let (term, leader, data) = (2, id(1), vec![0]);
    let piece = InstallSnapshotRequest { term, leader, last, size: 9, crc: 0, offset: 0, data };
    let verdict = cluster.step(2, |raft, now| raft.handle_install_snapshot(&piece, now));
    assert!(matches!(verdict, InstallVerdict::Answer(_)), "not one piece is written");
}

/// Figure 13, 6: a log that has the snapshot's last entry keeps what lies after it.
#[test]
fn rule_20_a_log_with_the_last_entry_of_the_snapshot_keeps_its_suffix() {
    let mut cluster = Cluster::with_logs(&[(2, &[1, 2, 2, 2]), (2, &[1, 2, 2, 2, 2]), (2, &[1, 2, 2, 2])]);
    cluster.elect(1);
    cluster.save_snapshot(1);
    let mut raft = member(2, 3, 3, None, &[1, 2, 2, 2, 2]);
    let meta = SnapshotMeta { last: Position::new(4, 2), ..cluster.state_of(1) };
    let (is_news, _) = raft.handle_snapshot_received(meta, 1, Time(5));
    assert!(is_news);
    assert_eq!((raft.last(), raft.commit_index(), terms(&raft)), (Position::new(5, 2), 4, vec![2]));
    assert!(raft.poll_write().is_empty(), "nothing is cut");
    assert_eq!(raft.poll_apply(), Some(Apply::Restore(Position::new(4, 2))));
}

/// Figure 13, 7; hashicorp/raft#704: a log with another entry there, or without one, goes as a whole.
#[test]
fn rule_20_a_log_that_conflicts_with_the_snapshot_is_dropped_whole() {
    let shorter: &[Term] = &[1, 2];
    let conflicting: &[Term] = &[1, 2, 2, 2, 2];
    for log in [shorter, conflicting] {
        let mut raft = member(2, 3, 5, None, log);
        let meta = SnapshotMeta {
            last: Position::new(4, 3),
            cluster_time: 9,
            membership: membership(&[1, 2, 3]).into(),
            membership_index: 1,
            version: 1,
        };
        let (is_news, reply) = raft.handle_snapshot_received(meta, 1, Time(5));
        assert!(is_news);
        assert_eq!((raft.last(), raft.commit_index(), terms(&raft)), (Position::new(4, 3), 4, vec![]));
        let ops: Vec<WriteOp> = raft.poll_write().writes.into_iter().map(|w| w.op).collect();
        assert_eq!(ops, [WriteOp::Reset(Position::new(4, 3))]);
        assert_eq!(raft.persisted_index(), 4, "the snapshot's file is durable");
        assert_eq!(ready(&raft, reply, Time(5)).outcome, InstallOutcome::Holds(4));
        check(&raft);
    }
}

/// P§7: the first append after a snapshot is checked against the snapshot's term.
#[test]
fn rule_18_the_first_append_after_an_installed_snapshot_matches_its_last_entry() {
    let mut cluster = one_behind();
    cluster.save_snapshot(1);
    cluster.propose(1, "7");
    cluster.run_until_quiet();
    cluster.save_snapshot(1);
    cluster.propose(1, "8");
    cluster.run_until_quiet();
    cluster.heal();
    cluster.run_for(400);
    cluster.isolate(1);
    cluster.elect_in_turn(3);
    cluster.run_for(100);
    assert!(cluster.raft(3).is_leader(), "its log is as long as the others'");
    assert_eq!(cluster.applied(3).len() as u64, cluster.raft(3).commit_index());
}

/// A heartbeat is never held up by a snapshot: while one is under way the peer is heard and the leader keeps its quorum.
#[test]
fn rule_50_heartbeats_go_on_while_a_snapshot_is_under_way() {
    let mut cluster = one_behind();
    cluster.save_snapshot(1);
    cluster.propose(1, "7");
    cluster.run_until_quiet();
    cluster.save_snapshot(1);
    cluster.are_transfers_held = true;
    cluster.heal();
    cluster.run_for(200);
    let (_, ticket) = cluster.offer(1, 3);
    // Only the member that needs the snapshot answers, and its transfer takes for ever.
    cluster.isolate(2);
    let token = cluster.read(1);
    cluster.run_for(5 * T_MS);
    assert!(cluster.raft(1).is_leader(), "its heartbeats are answered");
    assert!(cluster.take_reads(1).iter().any(|done| done.token == token && done.result.is_ok()));
    assert_eq!(cluster.raft(3).leader(), Some(MemberId(1)));
    assert!(cluster.step(1, |raft, _| raft.wants_transfer(&ticket)));
}

/// A transfer that brings nothing is tried again after a pause; a leader that lost its term does not count its result.
#[test]
fn rule_16_a_transfer_of_another_term_counts_for_nothing() {
    let mut cluster = one_behind();
    cluster.save_snapshot(1);
    cluster.propose(1, "7");
    cluster.run_until_quiet();
    cluster.save_snapshot(1);
    cluster.are_transfers_held = true;
    cluster.heal();
    cluster.run_for(200);
    let (last, ticket) = cluster.offer(1, 3);
    assert!(cluster.try_offer(1, 3).is_none(), "one at a time");
    cluster.isolate(1);
    cluster.elect_in_turn(2);
    cluster.heal();
    cluster.run_for(600);
    assert!(!cluster.raft(1).is_leader());
    let reply = InstallSnapshotReply { term: 2, outcome: InstallOutcome::Holds(last.index), protocol: 1 };
    cluster.end_transfer(1, ticket, Ok(reply));
    assert_eq!(cluster.raft(1).peers_progress().count(), 0);
}

/// Nor does it when the same member leads again by then, and the peer has heard of the new term.
#[test]
fn rule_16_a_transfer_of_an_earlier_leadership_counts_for_nothing() {
    let mut cluster = one_behind();
    cluster.save_snapshot(1);
    cluster.propose(1, "7");
    cluster.run_until_quiet();
    cluster.save_snapshot(1);
    cluster.are_transfers_held = true;
    cluster.heal();
    cluster.run_for(200);
    let (last, ticket) = cluster.offer(1, 3);
    cluster.isolate(3);
    cluster.wait(2 * T_MS + 1);
    cluster.timeout(1);
    cluster.elect_in_turn(2);
    cluster.wait(2 * T_MS + 1);
    cluster.timeout(2);
    cluster.elect_in_turn(1);
    cluster.heal();
    cluster.run_for(T_MS);
    assert_eq!((cluster.progress(1, 3).mode, cluster.progress(1, 3).match_index), (Mode::Snapshot, 0));
    let term = cluster.raft(1).term();
    let reply = InstallSnapshotReply { term, outcome: InstallOutcome::Holds(last.index), protocol: 1 };
    cluster.end_transfer(1, ticket, Ok(reply));
    assert_eq!(cluster.progress(1, 3).match_index, 0);
}

/// Figure 13: while a snapshot was loaded the log came to hold everything in it, and more. It changes nothing any more.
#[test]
fn rule_19_a_snapshot_overtaken_while_it_was_loaded_changes_nothing() {
    let mut cluster = one_behind();
    let last = cluster.save_snapshot(1);
    let meta = cluster.state_of(1);
    cluster.propose(1, "7");
    cluster.heal();
    cluster.run_for(200);
    let before = cluster.state(3);
    let (is_news, reply) = cluster.step(3, |raft, now| raft.handle_snapshot_received(meta, 1, now));
    assert!(!is_news);
    assert_eq!(ready(cluster.raft(3), reply, cluster.now).outcome, InstallOutcome::Holds(7));
    assert_eq!((cluster.state(3), cluster.raft(3).snapshot().last), (before, Position::ZERO));
    assert!(last.index < 7);
}

/// A snapshot goes beside the appends: one that was refused before the snapshot was there is no proof that the peer lost what
/// the snapshot brought.
#[test]
fn an_append_refused_while_a_snapshot_was_under_way_is_no_loss() {
    let mut cluster = one_behind();
    cluster.save_snapshot(1);
    cluster.propose(1, "7");
    cluster.run_until_quiet();
    cluster.save_snapshot(1);
    cluster.are_transfers_held = true;
    cluster.heal();
    cluster.run_for(200);
    let (last, ticket) = cluster.offer(1, 3);
    cluster.wait(HEARTBEAT_MS);
    let flight = cluster.send(1, 3);
    let held = cluster.arrive(flight);
    let refusal = cluster.answer(held);
    let reply = cluster.install(1, 3, last, 2);
    assert_eq!(reply.outcome, InstallOutcome::Holds(7));
    cluster.end_transfer(1, ticket, Ok(reply));
    cluster.deliver(refusal);
    let progress = cluster.progress(1, 3);
    assert_eq!((progress.mode, progress.match_index), (Mode::Probe, 7));
    cluster.run_for(200);
    assert_eq!(cluster.progress(1, 3).mode, Mode::Replicate);
}

/// Raft-rules 26: after a restart the snapshot is committed, and nothing after it.
#[test]
fn rule_26_a_restart_has_committed_and_applied_its_snapshot_and_no_more() {
    let mut cluster = one_behind();
    cluster.save_snapshot(1);
    cluster.propose(1, "7");
    cluster.run_until_quiet();
    cluster.crash(1);
    cluster.restart(1);
    let raft = cluster.raft(1);
    assert_eq!((raft.commit_index(), raft.last_applied(), raft.last().index), (6, 6, 7));
    cluster.heal();
    cluster.run_for(1_000);
    assert_eq!(cluster.applied(1).len() as u64, cluster.raft(1).commit_index());
}

/// Raft-rules 22: the membership and the cluster time of the snapshot count after the log that set them is gone.
#[test]
fn rule_22_membership_and_cluster_time_come_with_the_snapshot() {
    let mut cluster = Cluster::new(1);
    cluster.elect(1);
    cluster.wait(100);
    cluster.join(2, 1);
    assert!(matches!(
        cluster.change(1, &MembershipChange::Add(learner(2), Some(1))),
        Ok(Changed::Appended(_))
    ));
    cluster.run_for(1_000);
    assert!(cluster.raft(1).membership().is_voter(MemberId(2)), "promoted by itself");
    let cluster_time = cluster.state_of(1).cluster_time;
    assert!(cluster_time > 0);
    cluster.save_snapshot(1);
    cluster.save_snapshot(2);
    cluster.crash(1);
    cluster.restart(1);
    assert_eq!(cluster.raft(1).log().iter().count(), 0);
    assert_eq!(cluster.raft(1).membership().voters().count(), 2);
    cluster.elect_in_turn(1);
    let now = cluster.now;
    assert!(cluster.raft(1).next_cluster_time(now).unwrap() >= cluster_time, "cluster time never goes back");
}

/// Three members that forget; member 3 was cut off after entry 2, and entry 6 is the last one.
fn one_behind_memory() -> Cluster {
    let mut cluster = Cluster::that_forgets(3);
    cluster.elect(1);
    cluster.isolate(3);
    for i in 3..=6 {
        cluster.propose(1, &i.to_string());
    }
    cluster.run_until_quiet();
    assert_eq!(cluster.raft(1).commit_index(), 6);
    assert_eq!(cluster.raft(1).log().released(), 5, "only the last entry stays");
    cluster.heal();
    cluster
}

/// The first append to member 3 succeeds without entries: only then is its place in the log known.
fn probe(cluster: &mut Cluster) {
    cluster.wait(HEARTBEAT_MS);
    let before = cluster.raft(1).watermarks();
    cluster.call(1, 3);
    assert_eq!(cluster.progress(1, 3).mode, Mode::Replicate);
    assert!(before.wakes_senders(&cluster.raft(1).watermarks()), "its sender has something to read");
}

/// A follower that needs entries that the leader's memory no longer has gets them from the leader's disk, and no snapshot.
#[test]
fn rule_55_a_follower_behind_memory_gets_the_entries_from_the_disk() {
    let mut cluster = one_behind_memory();
    cluster.run_for(400);
    assert_eq!(cluster.applied(3).len(), 6);
    assert_eq!(cluster.progress(1, 3).match_index, 6);
    assert!(cluster.progress(1, 3).read.is_empty(), "what the peer has is not kept");
    assert!(cluster.has_traced(&["1 reads its log"]) && !cluster.has_traced(&["snapshot through"]));
}

/// Entries leave memory only when they are applied and on the own disk, whatever memory they take; the last one never does.
#[test]
fn rule_55_no_entry_leaves_memory_before_it_is_applied_and_durable() {
    let mut cluster = Cluster::that_forgets(3);
    cluster.elect(1);
    cluster.hold_disk(2);
    for i in 3..=5 {
        cluster.propose(1, &i.to_string());
    }
    cluster.run_for(2 * HEARTBEAT_MS);
    assert_eq!(cluster.raft(2).last_applied(), 5);
    assert_eq!(cluster.raft(2).log().released(), 2, "its own disk has no more");
    cluster.release_disk(2);
    cluster.run_for(2 * HEARTBEAT_MS);
    assert_eq!(cluster.raft(2).log().released(), 4);
    cluster.isolate(1);
    cluster.propose(1, "6");
    cluster.propose(1, "7");
    assert_eq!(cluster.raft(1).log().released(), 5, "nothing after entry 5 is committed");
}

/// Heartbeats go on while a leader reads, and say nothing about the entries that are being read.
#[test]
fn rule_55_reading_delays_no_heartbeat() {
    let mut cluster = one_behind_memory();
    cluster.are_transfers_held = true;
    probe(&mut cluster);
    let (wanted, ticket) = cluster.wanted_read(1, 3);
    assert_eq!((wanted.from, wanted.through), (Position::new(3, 2), 5));
    assert!(matches!(cluster.poll_bulk(1, 3), PollBulk::WaitUntil(_)), "one at a time");
    assert!(cluster.try_send(1, 3).is_none(), "no empty append before it is time");
    cluster.wait(HEARTBEAT_MS);
    let flight = cluster.send(1, 3);
    let RpcRequest::AppendEntries(heartbeat) = &flight.request else { panic!("{flight:?}") };
    assert_eq!((heartbeat.prev.index, heartbeat.entries.len()), (2, 0));
    let held = cluster.arrive(flight);
    let answer = cluster.answer(held);
    cluster.deliver(answer);
    let (read, before) = (cluster.read_log(1, &wanted), cluster.raft(1).watermarks());
    assert!(!cluster.end_read(1, ticket, read));
    assert_eq!(before.wakes_replicators(&cluster.raft(1).watermarks()), Some(Awaits::AllButEntries));
    let flight = cluster.send(1, 3);
    let RpcRequest::AppendEntries(append) = &flight.request else { panic!("{flight:?}") };
    assert_eq!((append.prev.index, append.entries.len()), (2, 3), "at once, without waiting for a heartbeat");
    cluster.lose(flight);
}

/// What was read is sent only if it is what was asked for, to a peer that still needs it, by the same leader.
#[test]
fn rule_55_only_what_was_asked_for_is_taken() {
    let mut cluster = one_behind_memory();
    cluster.are_transfers_held = true;
    probe(&mut cluster);
    let whole: Vec<Entry> = cluster.read_log(1, &cluster_wide()).expect("readable");
    for wrong in [
        vec![],
        vec![whole[1].clone()],
        vec![whole[0].clone(), whole[2].clone()],
        vec![Entry::new(Position::new(3, 1), 0, &Payload::Noop)],
    ] {
        let (_, ticket) = cluster.wanted_read(1, 3);
        cluster.end_read(1, ticket, Ok(wrong));
        assert!(cluster.progress(1, 3).read.is_empty());
        assert!(matches!(cluster.poll_bulk(1, 3), PollBulk::WaitUntil(_)), "tried again after a pause");
        cluster.wait(HEARTBEAT_MS);
    }
    // Another leader's entries of the same indexes are none of this leader's business.
    let (_, ticket) = cluster.wanted_read(1, 3);
    cluster.are_transfers_held = false;
    for (old, new) in [(1, 2), (2, 1)] {
        cluster.isolate(old);
        cluster.elect_in_turn(new);
        cluster.heal();
        cluster.run_for(2 * HEARTBEAT_MS);
    }
    assert!(!cluster.end_read(1, ticket, Ok(whole)));
    assert!(cluster.progress(1, 3).read.is_empty());
    cluster.run_for(400);
    assert_eq!(cluster.applied(3), cluster.applied(1));
}

fn cluster_wide() -> LogRead {
    LogRead { from: Position::new(3, 2), through: 5, max_bytes: usize::MAX }
}

/// Where the log cannot be read the peer gets a snapshot: the newest one if that leads it on, otherwise one of the state as
/// it is now.
#[test]
fn rule_55_a_follower_gets_a_snapshot_where_the_log_cannot_be_read() {
    for saves_first in [true, false] {
        let mut cluster = one_behind_memory();
        if saves_first {
            cluster.save_snapshot(1);
        }
        cluster.unreadable.insert(1);
        cluster.run_for(600);
        assert_eq!(cluster.raft(1).log().first_index(), 1, "the log is not cut");
        assert!(cluster.has_traced(&["cannot be read from the own log"]));
        assert!(cluster.has_traced(&["installed the leader's snapshot through 6@2"]));
        cluster.propose(1, "7");
        cluster.run_for(400);
        assert_eq!(cluster.applied(3).len(), 7);
        assert_eq!(cluster.progress(1, 3).mode, Mode::Replicate);
    }
}

/// Entries that were cut while they were read are no use, and a peer that needs them needs the snapshot.
#[test]
fn rule_55_what_was_cut_meanwhile_is_not_taken() {
    let mut cluster = one_behind_memory();
    cluster.are_transfers_held = true;
    probe(&mut cluster);
    let (wanted, ticket) = cluster.wanted_read(1, 3);
    let read = cluster.read_log(1, &wanted);
    cluster.save_snapshot(1);
    cluster.propose(1, "7");
    cluster.call(1, 2);
    cluster.save_snapshot(1);
    assert_eq!(cluster.raft(1).log().first_index(), 7);
    assert!(!cluster.end_read(1, ticket, read));
    assert!(cluster.progress(1, 3).read.is_empty());
    assert_eq!(cluster.progress(1, 3).mode, Mode::Snapshot);
    cluster.are_transfers_held = false;
    cluster.run_for(400);
    assert_eq!(cluster.applied(3).len(), 7);
}

/// The clock of the cluster goes on from the last entry: it stays in memory, also when everything is applied.
#[test]
fn rule_55_a_new_leader_knows_the_time_of_the_last_entry() {
    let mut cluster = Cluster::that_forgets(3);
    cluster.elect(1);
    cluster.wait(100);
    cluster.propose(1, "3");
    cluster.run_for(2 * HEARTBEAT_MS);
    let last = cluster.state_of(2).cluster_time;
    assert!(last > 0);
    cluster.isolate(1);
    cluster.elect_in_turn(2);
    let noop = cluster.state_of(2).cluster_time;
    assert!(noop >= last, "{noop} after {last}");
}

/// A peer that holds the log's base, and needs the snapshot because its next entries cannot be read, is not taken for one
/// that has the snapshot when it answers a heartbeat.
#[test]
fn rule_55_a_heartbeat_does_not_end_the_need_for_a_snapshot() {
    let mut cluster = one_behind_memory();
    cluster.save_snapshot(1);
    cluster.are_transfers_held = true;
    probe(&mut cluster);
    let (_, ticket) = cluster.wanted_read(1, 3);
    assert!(!cluster.end_read(1, ticket, Err(ReadFailed)), "the newest snapshot leads it on");
    assert_eq!(cluster.progress(1, 3).mode, Mode::Snapshot);
    for _ in 0..3 {
        cluster.wait(HEARTBEAT_MS);
        cluster.call(1, 3);
        assert_eq!(cluster.progress(1, 3).mode, Mode::Snapshot);
    }
    cluster.are_transfers_held = false;
    cluster.run_for(400);
    assert_eq!((cluster.applied(3).len(), cluster.progress(1, 3).mode), (6, Mode::Replicate));
}
