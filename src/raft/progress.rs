//! What a leader knows about each peer (paper Figure 2, volatile state on leaders), and what every role knows about
//! the current RPC to it.

use std::time::Duration;

use super::entry::Entry;
use super::protocol::Protocol;
use super::types::{Index, Time};

/// How well the leader knows the position of a peer's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `next_index` is a guess: appends carry one entry until one is accepted.
    Probe,
    /// The last append was accepted: appends carry as much as fits.
    Replicate,
    /// The peer needs entries that are compacted: it gets the snapshot, and meanwhile heartbeats only (paper §7).
    Snapshot,
    /// The peer rejected an entry that it had acknowledged before: it lost data and must not be counted any more. It
    /// gets nothing more from this leader, and the status shows this mode to the operator.
    Lost,
}

/// A peer's log as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Highest index known to be on the peer's disk. Never decreases within a term.
    pub match_index: Index,
    /// The next entry to send; always above `match_index`.
    pub next_index: Index,
    /// How sure the leader is of `next_index`.
    pub mode: Mode,
    /// The peer's queue for its disk is full: appends stay empty until its disk has caught up with `next_index - 1`.
    pub is_full: bool,
    /// Since when this leader counts on the peer: since its election, or since it added the peer.
    pub known_since: Time,
    /// When the last RPC was sent that the peer answered in this term; `None` until it has answered one.
    pub heard_at: Option<Time>,
    /// The protocol version of the peer, according to its newest answer of this term.
    pub spoken: Option<Protocol>,
    /// When the next heartbeat is due: one interval after the last RPC was sent, immediately in a new term.
    pub heartbeat_at: Time,
    /// The read round of the last RPC sent.
    pub sent_round: u64,
    /// The highest read round whose RPC was answered in this term.
    pub acked_round: u64,
    /// The round of catching up that a learner is in.
    pub catch_up: Option<CatchUp>,
    /// Consecutive entries that have left memory and were read for this peer.
    pub read: Vec<Entry>,
}

/// Whether a peer is alive, as far as its leader knows. Only an answer in this term counts: a peer without an answer
/// yet does not count as alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It answered in this term an RPC that was sent within the last election timeout.
    Alive,
    /// It has not answered in this term, and has time until this moment: one election timeout from `known_since`.
    NotHeardYet(Time),
    /// It has not answered for an election timeout, or it lost data and gets nothing more.
    Silent,
}

/// A round of catching up (thesis §4.2.1): it covers the entries that existed when it began. A learner that finishes
/// a round within an election timeout will not delay commits as a voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// The round is over when the peer's disk holds this index.
    pub target: Index,
    /// When it began.
    pub began: Time,
}

impl Progress {
    /// The progress at the start of a term: `next_index` is a guess (paper §5.3: one past the leader's last entry).
    pub fn new(next_index: Index, now: Time) -> Progress {
        Progress {
            match_index: 0,
            next_index,
            mode: Mode::Probe,
            is_full: false,
            known_since: now,
            heard_at: None,
            spoken: None,
            heartbeat_at: now,
            sent_round: 0,
            acked_round: 0,
            catch_up: None,
            read: Vec::new(),
        }
    }

    /// The peer answered in this term an RPC that was sent at `sent_at`.
    pub fn hear(&mut self, sent_at: Time, protocol: Protocol) {
        if self.heard_at.is_none_or(|before| sent_at >= before) {
            self.heard_at = Some(sent_at);
            self.spoken = Some(protocol);
        }
    }

    /// The contact time that check-quorum uses (thesis §6.2). A peer that has not answered yet gets a whole election
    /// timeout, because otherwise every new leader would step down immediately. It does not show that the peer is
    /// alive.
    pub fn quorum_contact(&self) -> Time {
        self.heard_at.unwrap_or(self.known_since)
    }

    /// The protocol version of the peer, for a decision that needs the current one: a silent peer may be restarting
    /// with another program.
    pub fn protocol(&self, now: Time, election_timeout: Duration) -> Option<Protocol> {
        self.spoken.filter(|_| self.liveness(now, election_timeout) == Liveness::Alive)
    }

    /// Whether the peer is alive, for a decision that needs it alive.
    pub fn liveness(&self, now: Time, election_timeout: Duration) -> Liveness {
        let patience_ends = self.known_since + election_timeout;
        match self.heard_at {
            _ if self.mode == Mode::Lost => Liveness::Silent,
            Some(heard_at) if now <= heard_at + election_timeout => Liveness::Alive,
            None if now < patience_ends => Liveness::NotHeardYet(patience_ends),
            _ => Liveness::Silent,
        }
    }

    /// Whether the entry at this index was read for the peer.
    pub fn has_read(&self, index: Index) -> bool {
        match (self.read.first(), self.read.last()) {
            (Some(first), Some(last)) => (first.index()..=last.index()).contains(&index),
            _ => false,
        }
    }

    /// Lets go of the entries that were read for the peer once it has taken them.
    pub fn drop_read(&mut self) {
        if self.read.last().is_some_and(|last| last.index() < self.next_index) {
            self.read = Vec::new();
        }
    }

    /// Whether an append should be sent immediately although no heartbeat is due: there are entries to send, or sent
    /// entries that are not yet known to be on the peer's disk. When the next entry `is_missing` in memory, an append can
    /// still find out whether the place is right, without entries.
    pub fn wants_append(&self, last_index: Index, is_missing: bool) -> bool {
        let can_send = !is_missing || self.mode == Mode::Probe;
        let has_entries = self.next_index <= last_index && !self.is_full && can_send;
        let awaits_disk = self.mode == Mode::Replicate && self.match_index + 1 < self.next_index;
        !matches!(self.mode, Mode::Lost | Mode::Snapshot) && (has_entries || awaits_disk)
    }
}

/// The RPC slot to a peer, in every role: one RPC at a time, and a pause after a failed RPC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSlot {
    /// Number of the current ticket.
    pub in_flight: Option<u64>,
    /// After a failure nothing is sent before this time, so that refused connections do not cause a busy loop.
    pub not_before: Time,
    /// The same two fields for snapshots, and for reading entries that left memory. Both run in parallel to the RPCs: they
    /// must not delay a heartbeat.
    pub bulk_in_flight: Option<u64>,
    /// No snapshot is sent, and nothing is read, before this time.
    pub bulk_not_before: Time,
}
