//! The threads of the peers: members come and go while the node runs.

use std::io;
use std::sync::Arc;

use super::{Node, replicator, sender};
use crate::raft::Membership;

impl Node {
    /// Gives every other member its replicator and its sender, unless it has them. They end by themselves once the member
    /// is gone for good.
    pub(super) fn staff(self: &Arc<Node>, membership: &Membership) -> io::Result<()> {
        for member in membership.members.iter().filter(|m| m.member_id != self.options.member_id) {
            let Some(bells) = self.bells.add_peer(member.member_id) else { continue };
            let (peer, for_sender) = (member.member_id, bells.clone());
            self.spawn(&format!("replicator-{}", member.node_id), move |node| {
                replicator::run(node, peer, &bells);
                node.bells.remove_peer(peer);
            })?;
            self.spawn(&format!("sender-{}", member.node_id), move |node| {
                sender::run(node, peer, &for_sender);
            })?;
        }
        Ok(())
    }

    /// Tells whoever runs this node when the state machine says that this member was removed.
    pub(super) fn look_for_removal(&self) {
        if self.with_kv(|kv| kv.is_removed(self.options.member_id)) {
            (self.listeners.on_removed)();
        }
    }
}
