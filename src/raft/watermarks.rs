//! Counters that threads wait on. Comparing them before and after an update shows which threads to wake.

use super::message::Awaits;
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
    /// Index of the last membership known to be committed: only then are the peers that it lacks gone for good.
    pub committed_membership_index: Index,
    /// Last index of the newest snapshot.
    pub snapshot_index: Index,
    /// How often a peer of this member as leader began to need a snapshot. A count of the peers that need one would
    /// not do: one peer may have got its snapshot in the step in which another peer begins to need it.
    pub snapshot_wishes: u64,
    /// How often a peer of this member as leader got the snapshot that it needed.
    pub snapshots_delivered: u64,
    /// Which peers of this member as leader need entries that have left memory: bit N for the Nth peer of its progress.
    pub missing_entries: u64,
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

    /// Which replicators may have something to do now: those that await this or more. `None` when no replicator has. A
    /// follower sends nothing, so its own log and its own term are no events for its replicators.
    pub fn wakes_replicators(&self, after: &Watermarks) -> Option<Awaits> {
        let members = |marks: &Watermarks| (marks.membership_index, marks.committed_membership_index);
        let office = |marks: &Watermarks| (marks.term, marks.role, marks.ballot, marks.read_round);
        let has_changed = match after.role {
            RoleKind::Follower => false,
            RoleKind::PreCandidate => office(self) != office(after),
            RoleKind::Candidate => office(self) != office(after) || self.persisted_seq != after.persisted_seq,
            RoleKind::Leader => {
                office(self) != office(after)
                    || self.snapshots_delivered != after.snapshots_delivered
                    || self.log_reads != after.log_reads
                    || (after.transfer_is_due && !self.transfer_is_due)
            }
        };
        if has_changed || members(self) != members(after) {
            return Some(Awaits::AllButEntries);
        }
        (after.role == RoleKind::Leader && self.last != after.last).then_some(Awaits::Everything)
    }

    /// Whether a peer began to need a snapshot, or entries that have left memory.
    pub fn wakes_senders(&self, after: &Watermarks) -> bool {
        self.snapshot_wishes != after.snapshot_wishes || after.missing_entries & !self.missing_entries != 0
    }

    /// Whether a leadership ended: its uncommitted proposals have an unknown outcome.
    pub fn ends_leadership(&self, after: &Watermarks) -> bool {
        self.role == RoleKind::Leader && (after.role != RoleKind::Leader || after.term != self.term)
    }
}
