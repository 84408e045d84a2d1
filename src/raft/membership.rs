//! Which membership is in force (thesis §4.1): the latest one in the log, as soon as it is appended. When it is cut
//! off, the one before it is in force again.

use std::sync::Arc;

use super::entry::Entry;
use super::types::{Index, Member, MemberId, Membership, SnapshotMeta};

/// The memberships that the log still holds. The first is committed; those after it may be cut off again. A follower
/// that lags in its commit index can hold more than one after the first, although a leader has at most one uncommitted.
#[derive(Clone, Debug)]
pub struct Memberships {
    history: Vec<(Index, Arc<Membership>)>,
}

impl Memberships {
    /// The memberships of the snapshot and of the entries after it. The initial membership counts as committed: it is
    /// the same entry in every log.
    pub fn new<'a>(snapshot: &SnapshotMeta, entries: impl Iterator<Item = &'a Entry>) -> Memberships {
        let mut memberships =
            Memberships { history: vec![(snapshot.membership_index, snapshot.membership.clone())] };
        for entry in entries {
            memberships.append(entry);
        }
        if snapshot.last.index == 0 && memberships.history.len() > 1 {
            memberships.history.remove(0);
        }
        memberships
    }

    /// A snapshot is installed: its membership counts as committed, and those after it in the log stay.
    pub fn install(&mut self, snapshot: &SnapshotMeta) {
        self.history.retain(|(index, _)| *index > snapshot.last.index);
        self.history.insert(0, (snapshot.membership_index, snapshot.membership.clone()));
    }

    /// Puts the membership of a genesis or membership entry in force.
    pub fn append(&mut self, entry: &Entry) {
        if let Some(membership) = entry.membership() {
            self.history.push((entry.index(), membership.clone()));
        }
    }

    /// Drops the memberships of entries from `from` on.
    pub fn truncate_suffix(&mut self, from: Index) {
        while self.history.len() > 1 && self.latest_index() >= from {
            self.history.pop();
        }
    }

    /// Drops the memberships that a later committed membership has replaced.
    pub fn commit(&mut self, commit_index: Index) {
        let superseded = self.history.iter().skip(1).take_while(|(index, _)| *index <= commit_index).count();
        self.history.drain(..superseded);
    }

    /// The membership in force.
    pub fn latest(&self) -> &Arc<Membership> {
        &self.history.last().expect("there is always a first membership").1
    }

    /// Index of the entry that put the latest one in force.
    pub fn latest_index(&self) -> Index {
        self.history.last().expect("there is always a first membership").0
    }

    /// The last membership known to be committed.
    pub fn committed(&self) -> &Arc<Membership> {
        &self.history[0].1
    }

    /// Index of the entry that put it in force.
    pub fn committed_index(&self) -> Index {
        self.history[0].0
    }

    /// The member with this identity, from the latest membership that contains it.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.history.iter().rev().find_map(|(_, membership)| membership.get(id))
    }

    /// Whether the member is a voter of a membership that may be the committed one: the last one known to be committed,
    /// or any after it.
    pub fn may_be_voter(&self, id: MemberId) -> bool {
        self.history.iter().any(|(_, membership)| membership.is_voter(id))
    }

    /// How many memberships at `index` or later are not known to be committed.
    pub fn uncommitted_since(&self, index: Index) -> usize {
        self.history[1..].iter().filter(|(at, _)| *at >= index).count()
    }

    /// How many memberships after the committed one the log holds.
    pub fn uncommitted(&self) -> usize {
        self.history.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::entry::Payload;
    use crate::raft::types::Position;

    fn entry(index: Index, ids: &[u64]) -> Entry {
        let members = ids
            .iter()
            .map(|&id| Member {
                node_id: format!("n{id}"),
                member_id: MemberId(id),
                raft_addr: String::new(),
                http_addr: String::new(),
                voter: true,
                promote: false,
            })
            .collect();
        Entry::new(Position::new(index, 1), 0, &Payload::Membership(Membership { members }))
    }

    #[test]
    fn a_membership_is_in_force_when_appended_and_gone_when_cut() {
        let log = [entry(1, &[1]), entry(4, &[1, 2]), entry(6, &[1, 2, 3])];
        let mut memberships = Memberships::new(&SnapshotMeta::default(), log.iter());
        assert_eq!(
            (memberships.latest().members.len(), memberships.latest_index(), memberships.uncommitted()),
            (3, 6, 2)
        );
        assert_eq!(memberships.committed().members.len(), 1);
        memberships.truncate_suffix(5);
        assert_eq!((memberships.latest().members.len(), memberships.latest_index()), (2, 4));
        memberships.commit(3);
        assert_eq!(memberships.uncommitted(), 1);
        memberships.commit(4);
        assert_eq!((memberships.committed().members.len(), memberships.uncommitted()), (2, 0));
        memberships.truncate_suffix(2);
        assert_eq!(memberships.latest_index(), 4, "a committed membership is never taken back");
    }
}
