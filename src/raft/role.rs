//! The roles of a member, with what only that role knows (paper §5.1, Figure 2).

use std::collections::{BTreeMap, BTreeSet};

use super::progress::Progress;
use super::read::Reads;
use super::types::{ClusterTime, Index, MemberId, Time};
use super::version::Protocol;

/// The role of a member (paper §5.1), with what only that role knows.
#[derive(Clone, Debug)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower {
        /// Who leads this term, once heard.
        leader: Option<MemberId>,
    },
    /// Asks whether it could win an election (thesis §9.6).
    PreCandidate(Ballot),
    /// Asks for votes.
    Candidate(Ballot),
    /// Leads.
    Leader(Box<Leader>),
}

/// The names of the roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleKind {
    /// [`Role::Follower`].
    Follower,
    /// [`Role::PreCandidate`].
    PreCandidate,
    /// [`Role::Candidate`].
    Candidate,
    /// [`Role::Leader`].
    Leader,
}

impl RoleKind {
    /// In lower case, as logs and the status show it.
    pub fn as_str(self) -> &'static str {
        match self {
            RoleKind::Follower => "follower",
            RoleKind::PreCandidate => "pre-candidate",
            RoleKind::Candidate => "candidate",
            RoleKind::Leader => "leader",
        }
    }
}

/// The votes, or pre-votes, of one campaign.
#[derive(Clone, Debug)]
pub struct Ballot {
    /// Number of the campaign since the start of the process: tells its answers from an earlier one's in the same term.
    pub(super) number: u64,
    /// Who agreed. The own vote is in it only once it is durable.
    pub(super) granted: BTreeSet<MemberId>,
    /// Who answered at all.
    pub(super) answered: BTreeSet<MemberId>,
    /// What those who answered in the ballot's own term speak.
    pub(super) spoken: BTreeMap<MemberId, Protocol>,
    /// The former leader asked for this campaign (thesis §3.10): votes are given although it was heard just now.
    pub(super) transfer: bool,
}

/// What only a leader knows (paper Figure 2, volatile state on leaders).
#[derive(Clone, Debug)]
pub struct Leader {
    /// Every other member, learners included.
    pub(super) peers: BTreeMap<MemberId, Progress>,
    /// Bytes of entries after the commit index: bounded, however long the followers' disks take.
    pub(super) uncommitted_bytes: usize,
    /// Index of the no-op that opened the term: until it is committed nothing is known of what is (thesis §6.4).
    pub(super) term_start: Index,
    /// Cluster time at the election, and when that was here.
    pub(super) cluster_time_base: ClusterTime,
    pub(super) elected_at: Time,
    pub(super) reads: Reads,
    /// The leadership transfer under way.
    pub(super) transfer: Option<Transfer>,
}

/// A leadership being transferred (thesis §3.10).
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    /// To whom.
    pub to: MemberId,
    /// Given up at this time: the leader takes proposals again.
    pub deadline: Time,
    /// Whether the target was told.
    pub is_sent: bool,
}
