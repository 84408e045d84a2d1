//! Counters that threads wait on. Comparing them before and after an update shows which threads to wake.

use super::role::RoleKind;
use super::types::{Index, MemberId, Position, Term};
use super::write::WriteSeq;

/// The observable state that threads wait on. Comparing it before and after an update shows which threads to wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Current term.
    pub term: Term,
    /// Vote of the term.
    pub voted_for: Option<MemberId>,
    /// Current role.
    pub role: RoleKind,
    /// Known leader of the term.
    pub leader: Option<MemberId>,
    /// Number of the last campaign.
    pub ballot: u64,
    /// Last entry of the log.
    pub last: Position,
    /// Committed through.
    pub committed: Position,
    /// Applied through.
    pub last_applied: Index,
    /// Last write queued.
    pub queued_seq: WriteSeq,
    /// Last write durable.
    pub persisted_seq: WriteSeq,
    /// Last index durable here.
    pub persisted_index: Index,
    /// Newest read round.
    pub read_round: u64,
    /// Reads that were decided since the start of the process.
    pub reads_done: u64,
    /// Index of the membership in force.
    pub membership_index: Index,
    /// Last index of the newest snapshot.
    pub snapshot_index: Index,
    /// Peers of a leader that need a snapshot, or entries that have left memory.
    pub peers_behind: usize,
    /// How many times entries were read for a peer.
    pub log_reads: u64,
    /// Whether the successor of a leadership transfer must be told now.
    pub transfer_is_due: bool,
}

impl Watermarks {
    /// Whether there is something new to write, or the log on disk can be cut.
    pub fn wakes_log_writer(&self, after: &Watermarks) -> bool {
        self.queued_seq != after.queued_seq || self.snapshot_index != after.snapshot_index
    }

    /// Whether committed entries wait to be applied.
    pub fn wakes_applier(&self, after: &Watermarks) -> bool {
        self.committed != after.committed
    }

    /// Whether something may have to be sent to a peer now.
    pub fn wakes_replicators(&self, after: &Watermarks) -> bool {
        (self.term, self.role, self.ballot, self.last, self.read_round, self.membership_index)
            != (after.term, after.role, after.ballot, after.last, after.read_round, after.membership_index)
            || self.peers_behind < after.peers_behind
            || self.log_reads != after.log_reads
            || (after.transfer_is_due && !self.transfer_is_due)
            || (after.role == RoleKind::Candidate && self.persisted_seq != after.persisted_seq)
    }

    /// Whether a leadership ended: its uncommitted proposals have an unknown outcome.
    pub fn ends_leadership(&self, after: &Watermarks) -> bool {
        self.role == RoleKind::Leader && (after.role != RoleKind::Leader || after.term != self.term)
    }
}
