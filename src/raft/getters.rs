//! Read access to the state of the core; nothing here changes it.

use std::sync::Arc;

use super::log::Log;
use super::progress::Progress;
use super::raft::Raft;
use super::role::{Role, RoleKind};
use super::types::{
    ClusterTime, HardState, Index, Member, MemberId, Membership, Position, SnapshotMeta, Term, Time,
};
use super::watermarks::Watermarks;
use super::write::WriteSeq;

impl Raft {
    /// The identity of this member.
    pub fn me(&self) -> MemberId {
        self.config.me
    }

    /// The current role.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// The current role's name.
    pub fn role_kind(&self) -> RoleKind {
        match self.role {
            Role::Follower { .. } => RoleKind::Follower,
            Role::PreCandidate(_) => RoleKind::PreCandidate,
            Role::Candidate(_) => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
        }
    }

    /// Whether this member leads its term.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// The leader of this term, as far as this member knows.
    pub fn leader(&self) -> Option<MemberId> {
        match self.role {
            Role::Follower { leader } => leader,
            Role::Leader(_) => Some(self.me()),
            Role::PreCandidate(_) | Role::Candidate(_) => None,
        }
    }

    /// Current term.
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// Term and vote in memory; the disk may not have them yet.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Highest index known to be committed.
    pub fn commit_index(&self) -> Index {
        self.commit_index
    }

    /// Highest index the state machine holds.
    pub fn last_applied(&self) -> Index {
        self.last_applied
    }

    /// The last entry of the log.
    pub fn last(&self) -> Position {
        self.log.last()
    }

    /// Highest index that is durable here.
    pub fn persisted_index(&self) -> Index {
        self.writes.persisted_index()
    }

    /// Highest write that is durable here.
    pub fn persisted_seq(&self) -> WriteSeq {
        self.writes.persisted_seq()
    }

    /// Bytes of entries that are not yet on the disk.
    pub fn unpersisted_bytes(&self) -> usize {
        self.writes.unpersisted_bytes()
    }

    /// Bytes of entries that a leader has not yet committed; 0 for every other role.
    pub fn uncommitted_bytes(&self) -> usize {
        match &self.role {
            Role::Leader(leader) => leader.uncommitted_bytes,
            _ => 0,
        }
    }

    /// The membership in force.
    pub fn membership(&self) -> &Arc<Membership> {
        self.memberships.latest()
    }

    /// A member of the membership in force, or of a membership that may come back.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.memberships.member(id)
    }

    /// The last membership known to be committed.
    pub fn committed_membership(&self) -> &Arc<Membership> {
        self.memberships.committed()
    }

    /// The newest durable snapshot; if it ends at `0@0`, there is no snapshot.
    pub fn snapshot(&self) -> &SnapshotMeta {
        &self.snapshot
    }

    /// The log in memory.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// A leader's view of its peers; empty for every other role.
    pub fn peers_progress(&self) -> impl Iterator<Item = (MemberId, &Progress)> {
        let peers = match &self.role {
            Role::Leader(leader) => Some(&leader.peers),
            _ => None,
        };
        peers.into_iter().flatten().map(|(&id, progress)| (id, progress))
    }

    /// When this member last heard the leader of its term; a leader hears itself.
    pub fn leader_heard_at(&self, now: Time) -> Option<Time> {
        match self.role {
            Role::Leader(_) => Some(now),
            Role::Follower { leader: Some(_) } => Some(self.leader_heard_at),
            _ => None,
        }
    }

    /// Whether the disk has not answered for longer than it may.
    pub fn is_disk_stalled(&self) -> bool {
        self.disk_stalled
    }

    /// The time at which the oldest write that is not yet durable was queued.
    pub fn oldest_write_queued_at(&self) -> Option<Time> {
        self.writes.oldest_queued_at()
    }

    /// The counters that threads wait on.
    pub fn watermarks(&self) -> Watermarks {
        Watermarks {
            term: self.term(),
            voted_for: self.hard_state.voted_for,
            role: self.role_kind(),
            leader: self.leader(),
            ballot: self.last_ballot,
            last: self.last(),
            committed: Position::new(self.commit_index, self.log.term_at(self.commit_index).unwrap_or(0)),
            last_applied: self.last_applied,
            queued_seq: self.writes.last_seq(),
            persisted_seq: self.writes.persisted_seq(),
            persisted_index: self.persisted_index(),
            read_round: match &self.role {
                Role::Leader(leader) => leader.reads.wanted_round(),
                _ => 0,
            },
            reads_done: self.reads_done_count,
            membership_index: self.memberships.latest_index(),
            committed_membership_index: self.memberships.committed_index(),
            snapshot_index: self.snapshot.last.index,
            snapshot_wishes: self.snapshot_wishes,
            snapshots_delivered: self.snapshots_delivered,
            missing_entries: self.peers_missing_entries(),
            log_reads: self.log_reads,
            transfer_is_due: self.transfer_is_due(),
        }
    }

    /// Cluster time that an entry proposed now would carry; `None` when this member does not lead.
    pub fn next_cluster_time(&self, now: Time) -> Option<ClusterTime> {
        let Role::Leader(leader) = &self.role else { return None };
        let since = u64::try_from(now.since(leader.elected_at).as_micros()).unwrap_or(u64::MAX);
        Some(leader.cluster_time_base.saturating_add(since))
    }
}
