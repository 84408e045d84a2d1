//! The threads around snapshots, step by step as in `src/node`: the snapshotter writes one page between other events while
//! the applier goes on, the sender moves one piece at a time, the receiver writes it, and the applier replaces its state.

use std::time::Duration;

use dkv::node::{Held, PeerError, PeerReply, PeerRequest, State, Taken, Transfer};
use dkv::raft::{
    InstallSnapshotReply, InstallSnapshotRequest, InstallVerdict, Mode, PollBulk, Position, ReadFailed,
    RpcFailed, Ticket,
};
use dkv::store::snapshot::{SnapshotError, SnapshotWriter};
use dkv::store::wal::LogReader;

use crate::net::{CallId, Caller};
use crate::node::NodeEvent;
use crate::peers::leave;
use crate::process::{Done, Loading, Piece, Sender, Snapshotter, Thread};
use crate::report::Mark;
use crate::world::{NodeIndex, World};

/// Pieces that wait, as in production.
const MAILBOX: usize = 4;

/// As in production.
const RETRY_AFTER_US: u64 = 10_000_000;

/// Pieces of one transfer.
const MAX_PIECES: usize = 24;

/// One page at a time, so that as much as possible happens in between.
const PAGE_KEYS: usize = 1;

impl World {
    // ---- the snapshotter -------------------------------------------------------------------------------------------------

    pub fn run_snapshotter(&mut self, node: NodeIndex) {
        let at = self.now + 1 + self.writing_latency(node);
        match std::mem::replace(&mut self.process(node).snapshotter, Snapshotter::Rung) {
            Snapshotter::Asleep | Snapshotter::Rung => self.begin_snapshot(node),
            Snapshotter::Writing(writer) => self.write_page(node, writer, at),
            Snapshotter::Naming(writer, index) => {
                if self.process(node).state.may_name_snapshot(index) {
                    self.step(node, |state, _| state.set_snapshot_waits_for(None));
                    self.name_snapshot(node, writer);
                } else {
                    self.process(node).snapshotter = Snapshotter::Naming(writer, index);
                }
            }
        }
    }

    fn begin_snapshot(&mut self, node: NodeIndex) {
        if !self.step(node, |state, _| state.poll_snapshotter()) {
            self.process(node).snapshotter = Snapshotter::Asleep;
            return;
        }
        let not_before = self.process(node).no_snapshot_before;
        if self.now < not_before {
            return self.plan_node_at(node, not_before, NodeEvent::Snapshotter);
        }
        let disk = self.nodes[node].disk.shared();
        let view = self.process(node).kv.pin();
        self.line(|| format!("n{} begins a snapshot through {}", node + 1, view.header().meta.last));
        match SnapshotWriter::create(disk, view) {
            Ok(writer) => {
                self.process(node).snapshotter = Snapshotter::Writing(writer);
                let at = self.now + 1 + self.wake_latency();
                self.plan_node_at(node, at, NodeEvent::Snapshotter);
            }
            Err(e) => {
                drop(self.process(node).kv.unpin());
                self.snapshot_failed(node, &e);
            }
        }
    }

    fn write_page(&mut self, node: NodeIndex, mut writer: SnapshotWriter, at: u64) {
        let process = self.process(node);
        if !process.kv.is_pinned() {
            self.mark(Mark::SnapshotOvertaken);
            return self.begin_snapshot(node);
        }
        let has_more = writer.fill_at_most(&process.kv, PAGE_KEYS);
        if let Err(e) = writer.flush() {
            drop(self.process(node).kv.unpin());
            return self.snapshot_failed(node, &e);
        }
        if has_more {
            self.process(node).snapshotter = Snapshotter::Writing(writer);
        } else {
            drop(self.process(node).kv.unpin());
            let index = writer.header().meta.last.index;
            self.step(node, |state, _| state.set_snapshot_waits_for(Some(index)));
            self.process(node).snapshotter = Snapshotter::Naming(writer, index);
        }
        self.plan_node_at(node, at, NodeEvent::Snapshotter);
    }

    fn name_snapshot(&mut self, node: NodeIndex, writer: SnapshotWriter) {
        let dies = self.dies_now(node);
        if dies {
            self.nodes[node].disk.die_soon();
        }
        let result = self.nodes[node].disk.finish_snapshot(writer);
        if dies {
            self.mark(Mark::CrashInSnapshot);
            return self.crash_and_restart(node);
        }
        let file = match result {
            Ok(file) => file,
            Err(e) => return self.snapshot_failed(node, &e),
        };
        self.line(|| format!("n{} has saved a snapshot through {}", node + 1, file.meta.last));
        self.mark(Mark::SnapshotSaved);
        self.report.borrow_mut().counters.snapshots += 1;
        self.step(node, |state, _| state.handle_snapshot_saved(file.meta, file.bytes));
        match self.nodes[node].disk.prune() {
            Ok(_) => self.begin_snapshot(node),
            Err(e) => self.snapshot_failed(node, &e),
        }
    }

    fn snapshot_failed(&mut self, node: NodeIndex, e: &SnapshotError) {
        assert!(self.nemesis.is_active(), "a snapshot fails in peace: {e}");
        self.line(|| format!("n{} has no snapshot: {e}", node + 1));
        self.mark(Mark::SnapshotFailed);
        let after = self.nodes[node].clock.duration_to_world(RETRY_AFTER_US);
        self.process(node).no_snapshot_before = self.now + after;
        self.begin_snapshot(node);
    }

    /// How long it takes to write a piece, or a page.
    fn writing_latency(&mut self, node: NodeIndex) -> u64 {
        let longest = 4 * self.swarm.election_timeout_us;
        self.wake_latency() + self.nodes[node].sync_latency().min(longest)
    }

    /// Now and then a process dies in the middle of the next operation of its disk.
    fn dies_now(&mut self, node: NodeIndex) -> bool {
        self.nemesis.is_active()
            && !self.nemesis.spared[node]
            && self.swarm.kinds.contains(&crate::swarm::Kind::CrashOne)
            && self.nemesis.rng.u8(0..6) == 0
    }

    fn crash_and_restart(&mut self, node: NodeIndex) {
        let power = self.nemesis.rng.f64() < self.swarm.power_loss;
        self.crash(node, power);
        let for_us = self.disturbance();
        self.restart_after(node, for_us);
    }

    // ---- the senders -----------------------------------------------------------------------------------------------------

    pub fn run_sender(&mut self, node: NodeIndex, peer: NodeIndex, at: u64) {
        let sender = self.process(node).senders.get(&peer);
        if !matches!(sender, Some(Sender::Asleep { until }) if *until == at) {
            return;
        }
        let (me, to) = (self.nodes[node].id, self.nodes[peer].id);
        match self.step(node, |state, now| state.raft.poll_bulk(to, now)) {
            PollBulk::Transfer(last, ticket) => {
                let disk = self.nodes[node].disk.shared();
                // A transfer in a thousand pieces would need a leader for longer than a bad network leaves one in office.
                let piece_bytes = self.nodes[node].disk.snapshot_bytes(last) / MAX_PIECES;
                let piece_bytes = piece_bytes.max(self.swarm.piece_bytes);
                match Transfer::open(&disk, me, last, &ticket, piece_bytes) {
                    Ok(transfer) => self.send_piece(node, peer, transfer, ticket),
                    Err(e) => {
                        self.step(node, |state, _| state.replace_snapshot(last));
                        self.end_transfer(node, peer, ticket, Err(e));
                    }
                }
            }
            PollBulk::Read(wanted, ticket) => {
                self.process(node).senders.insert(peer, Sender::Reading(wanted, ticket));
                let at = self.now + 1 + self.writing_latency(node);
                self.plan_node_at(node, at, NodeEvent::LogRead { peer });
            }
            PollBulk::WaitUntil(time) => {
                let until = self.nodes[node].clock.to_world(time).max(self.now + 1);
                self.process(node).senders.insert(peer, Sender::Asleep { until });
                self.plan_node_at(node, until, NodeEvent::Sender { peer, at: until });
            }
            PollBulk::Stop => {
                self.process(node).senders.remove(&peer);
            }
        }
    }

    /// The thread has read, while the log writer went on; now and then the disk fails.
    pub fn end_log_read(&mut self, node: NodeIndex, peer: NodeIndex) {
        let disk = self.nodes[node].disk.shared();
        let until = self.now;
        let process = self.process(node);
        let Some(Sender::Reading(wanted, ticket)) = process.senders.insert(peer, Sender::Asleep { until })
        else {
            unreachable!("a sender reads");
        };
        let reader = process.log_readers.entry(peer).or_insert_with(|| LogReader::new(disk));
        let read = reader.read(&wanted).map_err(|e| e.to_string());
        let fails = self.nemesis.is_active() && self.nemesis.rng.u8(0..8) == 0;
        let read = if fails { Err("the disk fails".to_owned()) } else { read };
        self.line(|| format!("n{} reads {wanted:?} for n{}: {read:?}", node + 1, peer + 1));
        match &read {
            Ok(entries) => {
                self.oracle.check_log_read(node, &wanted, entries);
                self.mark(Mark::LogRead);
            }
            Err(e) => {
                let is_cut = wanted.from.index <= self.process(node).state.raft.log().base().index;
                let is_excused = is_cut || self.nemesis.is_active() || self.nodes[node].disk.has_rot();
                assert!(is_excused, "n{} cannot read {wanted:?} in peace: {e}", node + 1);
                self.mark(Mark::LogReadFailed);
            }
        }
        let to = self.nodes[peer].id;
        let needs_snapshot = |state: &State| {
            state.raft.peers_progress().any(|(id, progress)| id == to && progress.mode == Mode::Snapshot)
        };
        let is_sent_instead = self.step(node, |state, now| {
            let before = needs_snapshot(state);
            state.handle_log_read(ticket, read.map_err(|_| ReadFailed), now);
            !before && needs_snapshot(state)
        });
        if is_sent_instead {
            self.mark(Mark::SnapshotForUnreadable);
        }
        self.run_sender(node, peer, until);
    }

    fn send_piece(&mut self, node: NodeIndex, peer: NodeIndex, transfer: Transfer, ticket: Ticket) {
        if !self.process(node).state.raft.wants_transfer(&ticket) {
            return self.end_transfer(node, peer, ticket, Err("it is not needed any more".to_owned()));
        }
        match transfer.next_piece() {
            Ok((piece, timeout)) => {
                self.oracle.check_piece(&piece, &self.nodes[node].disk);
                self.process(node).senders.insert(peer, Sender::Sending(Box::new(transfer)));
                // The times of a run are shorter than those of production.
                let timeout = timeout.min(Duration::from_micros(8 * self.swarm.election_timeout_us));
                self.call(node, peer, PeerRequest::InstallSnapshot(piece), Caller::Sender(ticket), timeout);
            }
            Err(e) => self.end_transfer(node, peer, ticket, Err(e)),
        }
    }

    /// The answer to a piece, or none.
    pub fn end_piece(
        &mut self,
        node: NodeIndex,
        peer: NodeIndex,
        ticket: Ticket,
        answer: Result<PeerReply, PeerError>,
    ) {
        let sleeps = Sender::Asleep { until: u64::MAX };
        let Some(Sender::Sending(mut transfer)) = self.process(node).senders.insert(peer, sleeps) else {
            unreachable!("a sender waits for its answer");
        };
        let (before, sent) = (transfer.offset(), transfer.piece_bytes() as u64);
        match transfer.handle_answer(answer) {
            Some(end) => self.end_transfer(node, peer, ticket, end),
            None => {
                if transfer.offset() > before + sent {
                    self.mark(Mark::TransferResumed);
                }
                self.send_piece(node, peer, *transfer, ticket);
            }
        }
    }

    fn end_transfer(
        &mut self,
        node: NodeIndex,
        peer: NodeIndex,
        ticket: Ticket,
        end: Result<InstallSnapshotReply, String>,
    ) {
        self.line(|| format!("n{} ends its transfer to n{}: {end:?}", node + 1, peer + 1));
        if end.is_err() {
            self.mark(Mark::TransferFailed);
        }
        let end = end.map_err(|_| RpcFailed);
        self.step(node, |state, now| state.raft.handle_snapshot_result(ticket, end, now));
        let until = self.now;
        self.process(node).senders.insert(peer, Sender::Asleep { until });
        self.run_sender(node, peer, until);
    }

    // ---- the receiver ----------------------------------------------------------------------------------------------------

    /// A piece arrives at the peer port.
    pub fn handle_piece(
        &mut self,
        node: NodeIndex,
        from: NodeIndex,
        call: Option<CallId>,
        request: InstallSnapshotRequest,
    ) {
        let done = leave(&self.process(node).mailbox, move |reply| Done::Install(from, call, reply));
        self.answer_piece(node, Piece { request, done }, true);
    }

    fn answer_piece(&mut self, node: NodeIndex, Piece { request, done }: Piece, is_new: bool) {
        let to_write =
            self.step(node, |state, now| match state.raft.handle_install_snapshot(&request, now) {
                InstallVerdict::Take => Some((request, done)),
                InstallVerdict::Answer(waiting) => {
                    state.hold(Held::Install(waiting, done));
                    None
                }
            });
        let Some((request, done)) = to_write else {
            self.mark(Mark::SnapshotNotNeeded);
            return;
        };
        if self.process(node).pieces.len() >= MAILBOX {
            return;
        }
        let at = self.now + self.writing_latency(node);
        let process = self.process(node);
        process.pieces.push_back(Piece { request, done });
        if is_new && !std::mem::replace(&mut process.is_receiver_awake, true) {
            self.plan_node_at(node, at, NodeEvent::Receiver);
        }
    }

    pub fn run_receiver(&mut self, node: NodeIndex) {
        if let Some(loading) = self.process(node).loading.take() {
            self.end_loading(node, loading);
        }
        let Some(piece) = self.process(node).pieces.pop_front() else {
            self.process(node).is_receiver_awake = false;
            return;
        };
        if self.process(node).state.holds_snapshot(piece.request.last) {
            self.answer_piece(node, piece, false);
        } else {
            self.take_piece(node, piece);
        }
        if let Some(process) = &self.nodes[node].process {
            let longest = self.swarm.election_timeout_us * if self.nemesis.is_active() { 8 } else { 0 };
            let is_loading = process.loading.is_some() && self.schedule_rng.bool();
            let load = if is_loading { self.schedule_rng.u64(0..=longest) } else { 0 };
            let at = self.now + 1 + load + self.writing_latency(node);
            self.plan_node_at(node, at, NodeEvent::Receiver);
        }
    }

    fn take_piece(&mut self, node: NodeIndex, Piece { request, done }: Piece) {
        let is_last = request.offset + request.data.len() as u64 == request.size;
        let dies = is_last && self.dies_now(node);
        if dies {
            self.nodes[node].disk.die_soon();
        }
        let machine = &mut self.nodes[node];
        let process = machine.process.as_mut().expect("it runs");
        let earlier = process.receiving;
        let taken = machine.disk.take_piece(&mut process.receiver, &request);
        if dies {
            self.mark(Mark::CrashInReceive);
            return self.crash_and_restart(node);
        }
        match taken {
            Ok(Taken::Wants(offset)) => {
                if offset > 0 {
                    self.process(node).receiving = Some(request.last.index);
                    if earlier.is_some_and(|earlier| earlier < request.last.index) {
                        self.mark(Mark::TransferSuperseded);
                    }
                }
                self.step(node, |state, _| {
                    let waiting = state.raft.handle_piece_written(offset);
                    state.hold(Held::Install(waiting, done));
                });
            }
            Ok(Taken::Whole(header, kv)) => {
                let process = self.process(node);
                process.receiving = None;
                process.loading = Some(Loading { header, kv, bytes: request.size, done });
                self.tempt_successor(node);
            }
            Err(e) => self.line(|| format!("n{} cannot take a piece: {e}", node + 1)),
        }
    }

    /// Now and then the leader dies while its snapshot is being loaded: the next one may have a longer log, and bring the
    /// member up without it.
    fn tempt_successor(&mut self, node: NodeIndex) {
        if let Some(leader) = self.leader().filter(|&leader| leader != node && self.dies_now(leader)) {
            let for_us = self.disturbance();
            self.crash_for(leader, for_us);
        }
    }

    /// The snapshot is loaded: the core is told.
    fn end_loading(&mut self, node: NodeIndex, loading: Loading) {
        let Loading { header, kv, bytes, done } = loading;
        let last = header.meta.last;
        self.check_readable(node, &header);
        let marks = self.kinds_of_install(node, last);
        // Before the core asks the applier for it.
        self.process(node).received.insert(last.index, *kv);
        let is_news = self.step(node, |state, now| {
            let (is_news, waiting) = state.handle_snapshot_received(header.meta, bytes, now);
            state.hold(Held::Install(waiting, done));
            is_news
        });
        if is_news {
            marks.into_iter().for_each(|mark| self.mark(mark));
        } else {
            self.process(node).received.remove(&last.index);
            self.mark(Mark::InstallCameTooLate);
        }
        // One that stays does no harm, as in production.
        let _ = self.nodes[node].disk.prune();
    }

    fn kinds_of_install(&mut self, node: NodeIndex, last: Position) -> Vec<Mark> {
        let process = self.process(node);
        let log = process.state.raft.log();
        let at = log.term_at(last.index);
        let is_applying = matches!(process.applier, Thread::Busy(_));
        let what = match at {
            None => Mark::ShortLogDroppedAtInstall,
            Some(term) if term != last.term => Mark::ConflictingLogDroppedAtInstall,
            Some(_) => Mark::SuffixKeptAtInstall,
        };
        is_applying.then_some(Mark::InstalledDuringApply).into_iter().chain([what]).collect()
    }

    // ---- the applier -----------------------------------------------------------------------------------------------------

    /// The received snapshot replaces the state.
    pub fn restore(&mut self, node: NodeIndex, last: Position) {
        self.line(|| format!("n{} has the state through {last}", node + 1));
        let protocol = self.nodes[node].protocol;
        let process = self.nodes[node].process.as_mut().expect("it runs");
        process.kv = process.received.remove(&last.index).expect("loaded before it is installed");
        process.kv.set_program(protocol);
        assert_eq!(process.kv.applied(), last, "the snapshot ends where its name says");
        self.oracle.check_applied(node, &process.kv);
        self.mark(Mark::SnapshotInstalled);
        self.report.borrow_mut().counters.installs += 1;
        self.see_leases(node);
        self.note_watchers(node);
        self.step(node, |state, _| state.handle_restored(last));
    }
}
