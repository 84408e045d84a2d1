//! The leader for the headers of answers: published when it changes, so that an answer does not wait for the state's
//! lock only to name it.

use std::sync::{Arc, PoisonError, RwLock};

use crate::raft::Member;

/// A change of the leader, as a step saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderChange {
    /// Number of the change, in the order of the steps.
    pub number: u64,
    /// The leader from this change on, with its addresses; `None` while none is known.
    pub leader: Option<Arc<Member>>,
}

/// The newest change. Steps publish after they have unlocked, so a change may come after a later one.
#[derive(Debug)]
pub(super) struct PublishedLeader(RwLock<LeaderChange>);

impl PublishedLeader {
    pub(super) fn new() -> PublishedLeader {
        PublishedLeader(RwLock::new(LeaderChange { number: 0, leader: None }))
    }

    pub(super) fn publish(&self, change: LeaderChange) {
        let mut newest = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if change.number > newest.number {
            *newest = change;
        }
    }

    pub(super) fn get(&self) -> Option<Arc<Member>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).leader.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::MemberId;

    #[test]
    fn publish_keeps_the_newest_change_in_whatever_order_the_changes_come() {
        let change = |number, id: u64| LeaderChange {
            number,
            leader: Some(Arc::new(Member {
                node_id: format!("n{id}"),
                member_id: MemberId(id),
                raft_addr: String::new(),
                http_addr: String::new(),
                voter: true,
                promote: false,
            })),
        };
        let published = PublishedLeader::new();
        assert_eq!(published.get(), None);
        published.publish(change(2, 7));
        published.publish(change(1, 5));
        assert_eq!(published.get().map(|leader| leader.member_id), Some(MemberId(7)));
        published.publish(LeaderChange { number: 3, leader: None });
        assert_eq!(published.get(), None);
    }
}
