//! The status that a node reports.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Node;
use crate::raft::{ClusterId, Index, Liveness, Member, MemberId, Mode, Protocol, RoleKind, Term};

/// The state of a node, for `/v1/status`, `/metrics` and operators. The core's values are from one moment, the
/// store's values from one slightly earlier moment.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// This member's name.
    pub node_id: String,
    /// This member.
    pub member_id: MemberId,
    /// Its role.
    pub role: RoleKind,
    /// Its term.
    pub term: Term,
    /// The leader, as far as this node knows.
    pub leader: Option<Member>,
    /// Last index known to be committed.
    pub commit_index: Index,
    /// Last index applied.
    pub applied_index: Index,
    /// Last index durable here.
    pub persisted_index: Index,
    /// Last index of the log.
    pub last_index: Index,
    /// Bytes of entries that wait for the disk.
    pub unpersisted_bytes: usize,
    /// Whether the disk has not answered for longer than it may.
    pub is_disk_stalled: bool,
    /// Requests that wait at this node.
    pub waiting_requests: usize,
    /// Batches made durable since the start of the process.
    pub syncs: u64,
    /// Commands this node appended as leader since the start of the process.
    pub proposals: u64,
    /// The protocol version of this node's program.
    pub protocol: Protocol,
    /// The version in force.
    pub version: Protocol,
    /// The store's revision.
    pub revision: u64,
    /// Oldest revision that can still be read.
    pub floor: u64,
    /// Applied index at the moment of the store's values.
    pub store_index: Index,
    /// Fingerprint of the state at `store_index`: equal on all members that applied the same entries.
    pub state_hash: u128,
    /// The other members as a leader sees them; empty on every other role.
    pub peers: Vec<PeerStatus>,
}

/// A peer as its leader sees it.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Its name.
    pub node_id: String,
    /// Its identity.
    pub member_id: MemberId,
    /// Whether it votes.
    pub voter: bool,
    /// How it is brought up to date; `Lost` when it rejected an entry that it had acknowledged: it gets nothing more.
    /// Replace that member.
    pub mode: Mode,
    /// Last index known to be on its disk; `None` when it has not answered in this term.
    pub match_index: Option<Index>,
    /// Entries of the leader's log that are not known to be on its disk.
    pub lag: u64,
    /// Whether it answered within the last election timeout; `None` while it has had no time to answer.
    pub is_reachable: Option<bool>,
    /// Its protocol version, according to its last answer in this term.
    pub protocol: Option<Protocol>,
    /// How long ago the last RPC that it answered in this term was sent; `None` when it has not answered any.
    pub last_contact: Option<Duration>,
}

impl Node {
    /// The whole status, for operators.
    pub fn status(&self) -> NodeStatus {
        let (version, revision, floor, store_index, state_hash) =
            self.with_kv(|kv| (kv.version(), kv.revision(), kv.floor(), kv.applied().index, kv.state_hash()));
        self.look(|state, now| {
            let raft = &state.raft;
            let membership = raft.membership();
            let last_index = raft.last().index;
            let peer = |(id, progress): (MemberId, &crate::raft::Progress)| PeerStatus {
                node_id: membership.get(id).map(|m| m.node_id.clone()).unwrap_or_default(),
                member_id: id,
                voter: membership.is_voter(id),
                mode: progress.mode,
                match_index: progress.heard_at.map(|_| progress.match_index),
                lag: last_index - progress.match_index,
                is_reachable: match progress.liveness(now, self.options.election_timeout) {
                    Liveness::Alive => Some(true),
                    Liveness::NotHeardYet(_) => None,
                    Liveness::Silent => Some(false),
                },
                protocol: progress.spoken,
                last_contact: progress.heard_at.map(|at| now.since(at)),
            };
            NodeStatus {
                cluster_id: self.options.cluster_id,
                node_id: self.options.node_id.clone(),
                member_id: raft.me(),
                role: raft.role_kind(),
                term: raft.term(),
                leader: raft.leader().and_then(|id| membership.get(id).cloned()),
                commit_index: raft.commit_index(),
                applied_index: raft.last_applied(),
                persisted_index: raft.persisted_index(),
                last_index,
                unpersisted_bytes: raft.unpersisted_bytes(),
                is_disk_stalled: raft.is_disk_stalled(),
                waiting_requests: state.waiters.len(),
                syncs: self.syncs.load(Ordering::Relaxed),
                proposals: state.proposals,
                protocol: self.options.protocol,
                version,
                revision,
                floor,
                store_index,
                state_hash,
                peers: raft.peers_progress().map(peer).collect(),
            }
        })
    }

    /// Whether this node can serve: a leader was heard within two election timeouts, everything that was committed when a
    /// leader was first heard is applied, and the disk answers. Otherwise why not.
    pub fn ready(&self) -> Result<(), String> {
        let patience = 2 * self.options.election_timeout;
        self.look(|state, now| {
            let raft = &state.raft;
            if state.is_stopping {
                return Err("the node is stopping".to_owned());
            }
            if raft.is_disk_stalled() {
                return Err("the disk under the log does not answer".to_owned());
            }
            match raft.leader_heard_at(now) {
                Some(at) if now.since(at) <= patience => {}
                _ => return Err(format!("no leader was heard within {} ms", patience.as_millis())),
            }
            match state.ready_index {
                Some(index) if raft.last_applied() >= index => Ok(()),
                Some(index) => Err(format!("applied {} of {index} entries", raft.last_applied())),
                None => Err("not yet told what is committed".to_owned()),
            }
        })
    }

    /// The cluster it belongs to.
    pub fn cluster_id(&self) -> ClusterId {
        self.options.cluster_id
    }

    /// Its identity.
    pub fn member_id(&self) -> MemberId {
        self.options.member_id
    }

    /// Its current term.
    pub fn term(&self) -> Term {
        self.look(|state, _| state.raft.term())
    }

    /// The leader, as far as this node knows. Does not wait for the state's lock: every answer asks for it.
    pub fn leader(&self) -> Option<Arc<Member>> {
        self.published_leader.get()
    }
}
