//! Entries that are on the disk and not in memory, for a peer that needs them and for the applier after a start. The core
//! decides which entries may leave memory, and asks for the next ones that a peer needs; a thread reads them from the log
//! on the disk and hands them in. Heartbeats go on meanwhile. What cannot be read is replaced by a snapshot. The applier
//! reads for itself.

use super::entry::Entry;
use super::log::fitting;
use super::message::{Asked, LogRead, PollBulk, ReadFailed, Ticket};
use super::note::Decision;
use super::progress::{Mode, Progress};
use super::raft::Raft;
use super::role::Role;
use super::types::{Index, MemberId, Position, Time};

impl Raft {
    /// Lets entries leave memory that are applied and on the own disk, once all take more than they may.
    pub(super) fn release_entries(&mut self) {
        let through = self.last_applied.min(self.persisted_index());
        self.log.release(through, self.config.max_log_memory_bytes);
    }

    /// Whether the next entry that this peer needs has left memory and was not read for it.
    pub(super) fn is_missing_for(&self, progress: &Progress) -> bool {
        let next = progress.next_index;
        (self.log.first_index()..=self.log.released()).contains(&next) && !progress.has_read(next)
    }

    /// Whether the sender has something to do for this peer: it needs a snapshot, or entries that have left memory.
    pub(super) fn is_behind_memory(&self, progress: &Progress) -> bool {
        match progress.mode {
            Mode::Snapshot => true,
            Mode::Replicate => !progress.is_full && self.is_missing_for(progress),
            Mode::Probe | Mode::Lost => false,
        }
    }

    /// Which peers need entries that have left memory: bit N for the Nth peer.
    pub(super) fn peers_missing_entries(&self) -> u64 {
        let is_missing = |p: &Progress| p.mode != Mode::Snapshot && self.is_behind_memory(p);
        let bits = self.peers_progress().zip(0_u32..u64::BITS);
        bits.filter(|((_, p), _)| is_missing(p)).fold(0, |mask, (_, bit)| mask | 1 << bit)
    }

    /// The entries from the next one of this peer on, in memory or read for it: as many as fit.
    pub(super) fn entries_for(&self, peer: MemberId, to: Index, max_bytes: usize) -> Vec<Entry> {
        let Role::Leader(leader) = &self.role else { return Vec::new() };
        let Some(progress) = leader.peers.get(&peer) else { return Vec::new() };
        let next = progress.next_index;
        if next > self.log.released() {
            return self.log.slice(next, to, max_bytes);
        }
        let read = progress.read.iter().filter(|entry| (next..=to).contains(&entry.index()));
        fitting(read, max_bytes)
    }

    /// What to read from the disk to get the entries from `next` on through `to` that are not in memory: those of one term.
    pub(super) fn log_read(&self, next: Index, to: Index, max_bytes: usize) -> LogRead {
        let term = self.log.term_at(next).expect("only what the log holds is read");
        let through = self.log.last_index_of_term_at(next).min(self.log.released()).min(to);
        LogRead { from: Position::new(next, term), through, max_bytes }
    }

    /// The entries that the applier was to read could not be read. Returns whether the applier can go on: an installed
    /// snapshot has taken their place. Otherwise the disk has lost what this member holds as durable.
    pub fn handle_apply_read_failed(&mut self) -> bool {
        self.steps += 1;
        self.applying = self.last_applied;
        self.last_applied < self.snapshot.last.index
    }

    /// What to read for this peer now: not before it has accepted an append at that place, because until then the place
    /// is a guess.
    pub(super) fn poll_read(&mut self, peer: MemberId, now: Time) -> Option<PollBulk> {
        let Role::Leader(leader) = &self.role else { return None };
        let progress = leader.peers.get(&peer)?;
        if progress.mode == Mode::Snapshot || !self.is_behind_memory(progress) {
            return None;
        }
        let read = self.log_read(progress.next_index, Index::MAX, self.config.max_append_bytes);
        let from = read.from;
        Some(PollBulk::Read(read, self.bulk_ticket(peer, Asked::Read { from }, now)))
    }

    /// The entries that were asked for, from the first one on, or that they cannot be read. Every ticket must come back,
    /// once. Returns whether the peer needs a newer snapshot than there is, because nothing else leads it on.
    pub fn handle_log_read(
        &mut self,
        ticket: Ticket,
        result: Result<Vec<Entry>, ReadFailed>,
        now: Time,
    ) -> bool {
        self.steps += 1;
        self.end_bulk(&ticket);
        let Asked::Read { from } = ticket.asked else { panic!("ticket {} asked for no entries", ticket.id) };
        let term = self.term();
        let is_asked_for = |entries: &Vec<Entry>| {
            let mut positions = (from.index..).map(|index| (index, self.log.term_at(index)));
            let is_here = |entry: &Entry| positions.next() == Some((entry.index(), Some(entry.term())));
            !entries.is_empty() && entries.iter().all(is_here)
        };
        // Entries that the log has given up meanwhile are of no use any more.
        let is_in_log = from.index >= self.log.first_index();
        let read = result.ok().filter(is_asked_for);
        let Role::Leader(leader) = &mut self.role else { return false };
        let Some(progress) = leader.peers.get_mut(&ticket.peer) else { return false };
        if ticket.term != term || !is_in_log {
            return false;
        }
        if let Some(entries) = read {
            progress.read = entries;
            self.log_reads += 1;
            return false;
        }
        self.slots.entry(ticket.peer).or_default().bulk_not_before = now + self.config.heartbeat;
        let needs_snapshot = progress.mode == Mode::Replicate && progress.next_index == from.index;
        let is_covered = from.index <= self.snapshot.last.index;
        if needs_snapshot && is_covered {
            progress.mode = Mode::Snapshot;
            self.snapshot_wishes += 1;
        }
        self.note(Decision::EntriesNotRead(ticket.peer, from.index));
        needs_snapshot && !is_covered
    }
}
