//! The members of the cluster, as far as the state machine has applied: the genesis entry, the membership in force
//! with the index of its entry, and the removed members. Snapshots include this, because they replace the log with
//! these entries.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::raft::{Entry, EntryKind, Index, MemberId, Membership};
use crate::store::command::{Domain, Fingerprint};

/// At most this many removed members are remembered, the latest ones.
pub const MAX_REMOVED: usize = 1_024;

/// Genesis entry, membership and removed members.
#[derive(Debug)]
pub(super) struct Members {
    genesis: Option<Entry>,
    membership: Arc<Membership>,
    index: Index,
    /// The latest last. Identities are never reused, so no removed member returns.
    removed: VecDeque<MemberId>,
    /// Stored, because it changes rarely and is used after every apply.
    hash: u128,
}

impl Default for Members {
    fn default() -> Members {
        Members::new(None, Arc::default(), 0, [])
    }
}

impl Members {
    /// The members of a stored state.
    pub(super) fn new(
        genesis: Option<Entry>,
        membership: Arc<Membership>,
        index: Index,
        removed: impl IntoIterator<Item = MemberId>,
    ) -> Members {
        let removed = removed.into_iter().collect();
        let mut members = Members { genesis, membership, index, removed, hash: 0 };
        members.hash = members.fingerprint();
        members
    }

    pub(super) fn genesis(&self) -> Option<&Entry> {
        self.genesis.as_ref()
    }

    pub(super) fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    pub(super) fn index(&self) -> Index {
        self.index
    }

    pub(super) fn removed(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.removed.iter().copied()
    }

    pub(super) fn is_removed(&self, member: MemberId) -> bool {
        self.removed.contains(&member)
    }

    /// A hash over everything here.
    pub(super) fn hash(&self) -> u128 {
        self.hash
    }

    /// Takes a genesis or membership entry.
    pub(super) fn apply(&mut self, entry: &Entry) {
        let new = entry.membership().expect("a genesis or membership entry has a membership");
        if entry.kind() == EntryKind::Genesis {
            self.genesis = Some(entry.clone());
        }
        self.replace(Arc::clone(new), entry.index());
    }

    /// Puts `new` in force.
    pub(super) fn replace(&mut self, new: Arc<Membership>, index: Index) {
        let left = self.membership.members.iter().map(|m| m.member_id).filter(|id| new.get(*id).is_none());
        self.removed.extend(left);
        self.removed.retain(|id| new.get(*id).is_none());
        let surplus = self.removed.len().saturating_sub(MAX_REMOVED);
        self.removed.drain(..surplus);
        (self.membership, self.index) = (new, index);
        self.hash = self.fingerprint();
    }

    fn fingerprint(&self) -> u128 {
        let mut hash = Fingerprint::new(Domain::Members);
        hash.sized(self.genesis.as_ref().map_or(&[], |genesis| genesis.frame()));
        hash.number(self.index).number(self.membership.members.len() as u64);
        for member in &self.membership.members {
            hash.sized(member.node_id.as_bytes()).number(member.member_id.0);
            hash.sized(member.raft_addr.as_bytes()).sized(member.http_addr.as_bytes());
            hash.bytes(&[u8::from(member.voter), u8::from(member.promote)]);
        }
        hash.number(self.removed.len() as u64);
        self.removed.iter().for_each(|id| {
            hash.number(id.0);
        });
        hash.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Member, Payload, Position};

    fn membership(ids: std::ops::Range<u64>) -> Membership {
        let member = |id| Member {
            node_id: format!("n{id}"),
            member_id: MemberId(id),
            raft_addr: String::new(),
            http_addr: String::new(),
            voter: true,
            promote: false,
        };
        Membership { members: ids.map(member).collect() }
    }

    fn apply(members: &mut Members, index: Index, ids: std::ops::Range<u64>) {
        members.apply(&Entry::new(Position::new(index, 1), 0, &Payload::Membership(membership(ids))));
    }

    #[test]
    fn apply_remembers_who_left_and_forgets_the_oldest_beyond_the_bound() {
        let mut members = Members::default();
        apply(&mut members, 2, 1..4);
        assert!(!members.is_removed(MemberId(1)));
        apply(&mut members, 5, 2..4);
        assert!(members.is_removed(MemberId(1)) && !members.is_removed(MemberId(2)));
        assert_eq!((members.index(), members.membership().members.len()), (5, 2));
        apply(&mut members, 6, 10..10 + MAX_REMOVED as u64);
        apply(&mut members, 7, 5000..5001);
        assert_eq!(members.removed().count(), MAX_REMOVED);
        assert!(!members.is_removed(MemberId(1)) && members.is_removed(MemberId(10)));
    }

    #[test]
    fn hash_covers_membership_index_and_who_left() {
        let hash = |steps: &[(Index, std::ops::Range<u64>)]| {
            let mut members = Members::default();
            steps.iter().for_each(|(index, ids)| apply(&mut members, *index, ids.clone()));
            members.hash()
        };
        let base = hash(&[(2, 1..4)]);
        assert_ne!(base, hash(&[(3, 1..4)]));
        assert_ne!(base, hash(&[(2, 1..5)]));
        assert_ne!(base, hash(&[(1, 0..4), (2, 1..4)]));
        assert_eq!(base, hash(&[(1, 1..4), (2, 1..4)].map(|step| step)[1..]));
    }
}
