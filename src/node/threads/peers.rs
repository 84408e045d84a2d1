//! The threads of the peers: members come and go while the node runs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{replicator, sender};
use crate::node::{Node, PeerError, PeerRequest, Priority, Target};
use crate::raft::Membership;

impl Node {
    /// Starts the replicator and the sender of every other member that does not have them yet. These threads end by
    /// themselves when the member is removed for good.
    pub(in crate::node) fn ensure_peer_threads(self: &Arc<Node>, membership: &Membership) -> io::Result<()> {
        for member in membership.members.iter().filter(|m| m.member_id != self.options.member_id) {
            let Some(wakeups) = self.wakeups.add_peer(member.member_id) else { continue };
            let (peer, for_sender) = (member.member_id, wakeups.clone());
            self.spawn(&format!("replicator-{}", member.node_id), move |node| {
                replicator::run(node, peer, &wakeups);
                node.wakeups.remove_peer(peer);
            })?;
            self.spawn(&format!("sender-{}", member.node_id), move |node| {
                sender::run(node, peer, &for_sender);
            })?;
        }
        Ok(())
    }

    /// A voter that missed its own removal learns of it when it campaigns. A member without a vote never campaigns:
    /// while it hears no leader it has to ask. Each call asks one other member. Blocks for the time of one RPC.
    pub fn ask_whether_removed(&self) {
        let patience = 2 * self.options.election_timeout;
        let targets: Vec<Target> = self.look(|state, now| {
            let raft = &state.raft;
            let membership = raft.membership();
            let is_heard = raft.leader_heard_at(now).is_some_and(|at| now.since(at) <= patience);
            if is_heard || membership.is_voter(raft.me()) || state.is_stopping {
                return Vec::new();
            }
            let voters = membership.voters().filter(|&id| id != raft.me());
            voters.map(|id| state.target(id).0).collect()
        });
        if targets.is_empty() {
            return;
        }
        let turn = self.removal_asks.fetch_add(1, Ordering::Relaxed);
        let to = &targets[usize::try_from(turn).unwrap_or(0) % targets.len()];
        let request = PeerRequest::ReadIndex { remaining_ms: 1 };
        if self.transport.call(to, Priority::Bulk, request, patience) == Err(PeerError::Removed) {
            (self.listeners.on_removed)();
        }
    }

    /// Tells the listeners whom the state machine says to be removed.
    pub(in crate::node) fn look_for_removal(&self) {
        (self.listeners.on_members_changed)(&|member| self.with_kv(|kv| kv.is_removed(member)));
        if self.with_kv(|kv| kv.is_removed(self.options.member_id)) {
            (self.listeners.on_removed)();
        }
    }
}
