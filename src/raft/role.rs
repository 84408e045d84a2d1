//! The roles of a member, with the state of each role (paper §5.1, Figure 2).

use std::collections::{BTreeMap, BTreeSet};

use super::progress::Progress;
use super::protocol::Protocol;
use super::read::Reads;
use super::types::{ClusterTime, Index, MemberId, Time};

/// The role of a member (paper §5.1), with the state of that role.
#[derive(Clone, Debug)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower {
        /// The leader of this term, once it was heard.
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
    /// Number of the campaign since the start of the process: distinguishes its answers from answers to an earlier
    /// campaign in the same term.
    pub(super) number: u64,
    /// When the campaign began.
    pub(super) began: Time,
    /// The members that agreed. The own vote is added only when it is durable.
    pub(super) granted: BTreeSet<MemberId>,
    /// The members that answered, with yes or no.
    pub(super) answered: BTreeSet<MemberId>,
    /// The protocol versions of the members that answered in the ballot's own term.
    pub(super) spoken: BTreeMap<MemberId, Protocol>,
    /// The former leader asked for this campaign (thesis §3.10): votes are given although that leader was heard just
    /// now.
    pub(super) transfer: bool,
}

/// The state of a leader (paper Figure 2, volatile state on leaders).
#[derive(Clone, Debug)]
pub struct Leader {
    /// Every other member, learners included.
    pub(super) peers: BTreeMap<MemberId, Progress>,
    /// Bytes of entries after the commit index: bounded, even if the followers' disks are slow.
    pub(super) uncommitted_bytes: usize,
    /// Index of the no-op that began the term: until it is committed, the leader does not know which entries are
    /// committed (thesis §6.4).
    pub(super) term_start: Index,
    /// Cluster time at the election, and the local time of the election.
    pub(super) cluster_time_base: ClusterTime,
    pub(super) elected_at: Time,
    pub(super) reads: Reads,
    /// The running leadership transfer.
    pub(super) transfer: Option<Transfer>,
}

/// A running leadership transfer (thesis §3.10).
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    /// The member that is to lead.
    pub to: MemberId,
    /// The transfer is given up at this time: the leader then takes proposals again.
    pub deadline: Time,
    /// Whether the target was told.
    pub is_sent: bool,
}
