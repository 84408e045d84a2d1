//! Snapshots and log compaction (paper §7, Figure 13; thesis §5). The core decides when a snapshot is due, which peer
//! needs a snapshot, and whether a received piece is taken. The bytes are made, sent, received and loaded outside of
//! the core.

use super::message::{
    Asked, InstallOutcome, InstallSnapshotReply, InstallSnapshotRequest, PollBulk, RpcFailed, Ticket,
};
use super::note::Decision;
use super::progress::Mode;
use super::raft::Raft;
use super::role::Role;
use super::types::{Index, MemberId, SnapshotMeta, Time};
use super::write::AfterSync;

/// What to do with a piece of a snapshot.
#[derive(Debug)]
pub enum InstallVerdict {
    /// It is not needed, or its sender is not the current leader: this is the answer.
    Answer(AfterSync<InstallSnapshotReply>),
    /// Write it; `handle_piece_written` makes the answer.
    Take,
}

impl Raft {
    // ---- every member's own ------------------------------------------------------------------------------------------

    /// Whether the log has grown enough since the newest snapshot: by the configured bytes or entries, and also by
    /// half the size of that snapshot, because otherwise a large state would be written often for few changes. Not
    /// before the own disk holds what is applied: a snapshot never passes `persisted_index`.
    pub fn is_snapshot_due(&self) -> bool {
        let entries = self.last_applied - self.snapshot.last.index.min(self.last_applied);
        let is_worth_it = self.log_bytes >= self.snapshot_bytes / 2;
        let is_much =
            entries >= self.config.snapshot_log_entries || self.log_bytes >= self.config.snapshot_log_bytes;
        entries > 0 && is_much && is_worth_it && self.persisted_index() >= self.last_applied
    }

    /// The log on disk has grown by this many bytes. Blocks of segments are counted, not entries, because blocks fill
    /// the disk.
    pub fn handle_log_grown(&mut self, bytes: u64) {
        self.steps += 1;
        self.log_bytes += bytes;
    }

    /// A snapshot of the own state is begun: the growth of the log so far counts for this snapshot, later growth
    /// counts for the next one.
    pub fn begin_snapshot(&mut self) {
        self.steps += 1;
        self.counted_bytes = self.log_bytes;
    }

    /// A snapshot of the own state is durable: file, name and directory (raft-rules 21). The log keeps the entries
    /// after the previous snapshot, for peers that lag a little and for a restart that finds the newest snapshot
    /// damaged.
    pub fn handle_snapshot_saved(&mut self, meta: SnapshotMeta, bytes: u64) {
        self.steps += 1;
        assert!(
            meta.last.index <= self.last_applied,
            "a snapshot through {}, but only {} is applied",
            meta.last,
            self.last_applied
        );
        if meta.last.index <= self.snapshot.last.index {
            return;
        }
        self.note(Decision::SnapshotSaved(meta.last));
        self.writes.cover(meta.last.index);
        self.replace_snapshot(meta, bytes);
        self.log_bytes -= std::mem::take(&mut self.counted_bytes);
    }

    fn replace_snapshot(&mut self, meta: SnapshotMeta, bytes: u64) {
        self.snapshot_bytes = bytes;
        let previous = std::mem::replace(&mut self.snapshot, meta).last.index;
        self.log.compact(previous);
        self.cut = Some(previous);
        self.find_peers_behind();
    }

    /// A peer whose next entry is compacted needs the snapshot (paper §7).
    pub(super) fn find_peers_behind(&mut self) {
        let base_index = self.log.base().index;
        let Role::Leader(leader) = &mut self.role else { return };
        for progress in leader.peers.values_mut() {
            if progress.next_index <= base_index && !matches!(progress.mode, Mode::Lost | Mode::Snapshot) {
                progress.mode = Mode::Snapshot;
                self.snapshot_wishes += 1;
            }
        }
    }

    /// The index through which the log on disk can be cut, because two durable snapshots cover it. Returned once for
    /// each snapshot.
    pub fn poll_cut(&mut self) -> Option<Index> {
        self.cut.take().filter(|&index| index > 0)
    }

    // ---- a follower's side -------------------------------------------------------------------------------------------

    /// A piece of a leader's snapshot arrived (Figure 13, 1 and 5). The leader was heard, like with an append.
    pub fn handle_install_snapshot(&mut self, request: &InstallSnapshotRequest, now: Time) -> InstallVerdict {
        self.steps += 1;
        if self.is_absurd(request.term) {
            self.note(Decision::RefusedTerm(request.leader, request.term));
            return InstallVerdict::Answer(self.install_reply(InstallOutcome::TermOnly));
        }
        self.observe_term(request.leader, request.term, now);
        if request.term < self.term() {
            return InstallVerdict::Answer(self.install_reply(InstallOutcome::TermOnly));
        }
        self.follow(request.leader, now);
        // This member has already committed everything that the snapshot holds (raft-rules 19).
        if request.last.index <= self.commit_index {
            return InstallVerdict::Answer(
                self.install_reply(InstallOutcome::Holds(self.durably_committed())),
            );
        }
        InstallVerdict::Take
    }

    /// The answer to a piece that was taken: the offset of the next piece.
    pub fn handle_piece_written(&mut self, next_offset: u64) -> AfterSync<InstallSnapshotReply> {
        self.steps += 1;
        self.install_reply(InstallOutcome::Wants(next_offset))
    }

    /// A complete snapshot of a leader is durable here under its final name, and loaded: `poll_apply` asks for it
    /// next. Its state was committed, even if another member leads by now. If the log has the snapshot's last entry,
    /// the entries after it are kept, otherwise the whole log is dropped (Figure 13, 6-7; raft-rules 20). A snapshot
    /// that ends before the commit index changes nothing: `false`.
    pub fn handle_snapshot_received(
        &mut self,
        meta: SnapshotMeta,
        bytes: u64,
        now: Time,
    ) -> (bool, AfterSync<InstallSnapshotReply>) {
        self.steps += 1;
        let is_news = meta.last.index > self.commit_index;
        if is_news {
            self.install(meta, bytes, now);
        }
        (is_news, self.install_reply(InstallOutcome::Holds(self.durably_committed())))
    }

    fn install(&mut self, meta: SnapshotMeta, bytes: u64, now: Time) {
        let last = meta.last;
        self.note(Decision::SnapshotInstalled(last));
        if self.log.term_at(last.index) == Some(last.term) {
            self.writes.cover(last.index);
        } else {
            self.log.reset(last);
            self.left_through = 0;
            self.memberships.truncate_suffix(last.index + 1);
            self.versions.truncate_suffix(last.index + 1);
            self.writes.push_reset(last, now);
        }
        self.memberships.install(&meta);
        let before = self.versions.committed();
        self.versions.install(&meta);
        if self.version() != before {
            self.note(Decision::VersionInForce(self.version()));
        }
        self.commit_index = last.index;
        self.memberships.commit(last.index);
        self.replace_snapshot(meta, bytes);
        self.log.compact(last.index);
        (self.log_bytes, self.counted_bytes) = (0, 0);
    }

    /// The index through which this member's disk holds committed entries.
    fn durably_committed(&self) -> Index {
        self.commit_index.min(self.persisted_index())
    }

    fn install_reply(&self, outcome: InstallOutcome) -> AfterSync<InstallSnapshotReply> {
        self.after_hard_state(
            InstallSnapshotReply { term: self.term(), outcome, protocol: self.protocol() },
            None,
        )
    }

    // ---- a leader's side ---------------------------------------------------------------------------------------------

    /// Whether to send a snapshot to this peer now, or to read entries for it that left memory. One of the two at a time, in
    /// parallel to the heartbeats.
    pub fn poll_bulk(&mut self, peer: MemberId, now: Time) -> PollBulk {
        if !self.may_have_peer(peer) {
            return PollBulk::Stop;
        }
        let last = self.snapshot.last;
        let slot = self.slots.entry(peer).or_default();
        let is_wanted = match &self.role {
            Role::Leader(leader) => leader.peers.get(&peer).is_some_and(|p| p.mode == Mode::Snapshot),
            _ => false,
        };
        if slot.bulk_in_flight.is_some() {
            return PollBulk::WaitUntil(Time::NEVER);
        }
        if now < slot.bulk_not_before {
            return PollBulk::WaitUntil(slot.bulk_not_before);
        }
        if !is_wanted {
            return self.poll_read(peer, now).unwrap_or(PollBulk::WaitUntil(Time::NEVER));
        }
        self.note(Decision::SnapshotOffered(peer, last));
        PollBulk::Transfer(last, self.bulk_ticket(peer, Asked::Snapshot { last }, now))
    }

    pub(super) fn bulk_ticket(&mut self, peer: MemberId, asked: Asked, now: Time) -> Ticket {
        self.last_ticket += 1;
        let id = self.last_ticket;
        self.slots.entry(peer).or_default().bulk_in_flight = Some(id);
        Ticket { id, peer, term: self.term(), sent_at: now, asked }
    }

    /// The ticket of a transfer, or of reading, came back.
    pub(super) fn end_bulk(&mut self, ticket: &Ticket) {
        let slot = self.slots.entry(ticket.peer).or_default();
        assert_eq!(slot.bulk_in_flight, Some(ticket.id), "ticket {} came back twice", ticket.id);
        slot.bulk_in_flight = None;
    }

    /// Whether a transfer is still useful: this member leads the ticket's term and the peer still needs the snapshot.
    pub fn wants_transfer(&self, ticket: &Ticket) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        ticket.term == self.term() && leader.peers.get(&ticket.peer).is_some_and(|p| p.mode == Mode::Snapshot)
    }

    /// The end of a transfer: the peer's last answer, or that there was no answer. Every ticket must come back, once.
    pub fn handle_snapshot_result(
        &mut self,
        ticket: Ticket,
        result: Result<InstallSnapshotReply, RpcFailed>,
        now: Time,
    ) {
        self.steps += 1;
        self.end_bulk(&ticket);
        // A failed transfer is retried after a pause.
        self.slots.entry(ticket.peer).or_default().bulk_not_before = now + self.config.heartbeat;
        let Ok(reply) = result else { return };
        if self.is_absurd(reply.term) {
            return self.note(Decision::RefusedTerm(ticket.peer, reply.term));
        }
        self.observe_term(ticket.peer, reply.term, now);
        if ticket.term != self.term() || reply.term != self.term() {
            return;
        }
        let commit_index = self.commit_index;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.peers.get_mut(&ticket.peer) else { return };
        let (InstallOutcome::Holds(index), Mode::Snapshot) = (reply.outcome, progress.mode) else { return };
        // Entries that are committed at the peer are committed here too, but this leader may not know it yet.
        progress.match_index = progress.match_index.max(index.min(commit_index));
        progress.next_index = progress.match_index + 1;
        progress.mode = Mode::Probe;
        self.snapshots_delivered += 1;
        self.find_peers_behind();
        self.advance_leader_commit(now);
    }
}
