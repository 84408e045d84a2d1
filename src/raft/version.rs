//! The version that the cluster agrees on: it decides which formats and operations are in use, even if some programs
//! could do more (the scheme of LogCabin's state machine versions).
//!
//! Every program *speaks* one protocol version and also reads and writes the previous version. The version *in force*
//! is a number in the log: the genesis entry sets the version that all initial members speak, and a `version` entry
//! raises it. What a member writes (entries, snapshots, answers, the parts of the state hash) follows the version in
//! force, not the member's program. So members with both programs can read each other's data until the version is
//! raised.
//!
//! The leader raises the version when all members, learners included, speak a higher one. The leader learns a
//! member's version only from an answer in this term that is no older than an election timeout: a member that is not
//! heard prevents the raise. From the `version` entry on, a program that speaks less can no longer take part.

use super::draft::Draft;
use super::entry::{Entry, Payload};
use super::note::Decision;
use super::protocol::{FIRST_PROTOCOL, Protocol};
use super::raft::Raft;
use super::role::Role;
use super::types::{Index, MemberId, SnapshotMeta, Time};

/// The reason why an operation that needs a higher version cannot be used yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldBackBy {
    /// This member has not answered in this term within the last election timeout.
    NotHeard(String),
    /// This member's program speaks a lower version.
    Speaks(String, Protocol),
    /// The leader's configuration holds the version.
    Setting(String),
    /// Nothing prevents it: the version is being raised.
    Nobody,
}

impl std::fmt::Display for HeldBackBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HeldBackBy::NotHeard(name) => write!(f, "{name} has not said which version it speaks"),
            HeldBackBy::Speaks(name, protocol) => write!(f, "{name} speaks protocol {protocol}"),
            HeldBackBy::Setting(name) => write!(f, "hold_version is set at {name}, which leads"),
            HeldBackBy::Nobody => f.write_str("it is being raised: try again"),
        }
    }
}

/// The versions that the log still holds. As with memberships, uncommitted versions may be cut off again.
#[derive(Clone, Debug)]
pub(super) struct Versions {
    /// The version in force at the commit index.
    committed: Protocol,
    /// The versions after the commit index.
    uncommitted: Vec<(Index, Protocol)>,
}

impl Versions {
    /// The versions of the snapshot and of the entries after it. The genesis entry counts as committed: it is the
    /// same in every log.
    pub(super) fn new<'a>(snapshot: &SnapshotMeta, entries: impl Iterator<Item = &'a Entry>) -> Versions {
        let mut versions =
            Versions { committed: snapshot.version.max(FIRST_PROTOCOL), uncommitted: Vec::new() };
        for entry in entries {
            versions.append(entry);
        }
        versions.commit(snapshot.last.index.max(1));
        versions
    }

    /// A snapshot is installed: its version is in force, and those after it in the log stay uncommitted.
    pub(super) fn install(&mut self, snapshot: &SnapshotMeta) {
        self.committed = snapshot.version.max(FIRST_PROTOCOL);
        self.uncommitted.retain(|(index, _)| *index > snapshot.last.index);
    }

    /// Takes the version of a genesis or version entry.
    pub(super) fn append(&mut self, entry: &Entry) {
        if let Some(version) = entry.version() {
            self.uncommitted.push((entry.index(), version));
        }
    }

    /// Drops the versions of entries from `from` on.
    pub(super) fn truncate_suffix(&mut self, from: Index) {
        self.uncommitted.retain(|(index, _)| *index < from);
    }

    /// Returns whether the version in force changed.
    pub(super) fn commit(&mut self, commit_index: Index) -> bool {
        let before = self.committed;
        let count = self.uncommitted.iter().take_while(|(index, _)| *index <= commit_index).count();
        for (_, version) in self.uncommitted.drain(..count) {
            self.committed = self.committed.max(version);
        }
        self.committed != before
    }

    pub(super) fn committed(&self) -> Protocol {
        self.committed
    }

    /// The version that will be in force when the whole log is committed.
    pub(super) fn latest(&self) -> Protocol {
        self.uncommitted.last().map_or(self.committed, |(_, version)| self.committed.max(*version))
    }
}

impl Raft {
    /// The version in force: new proposals may use it.
    pub fn version(&self) -> Protocol {
        self.versions.committed()
    }

    /// The version that will be in force when the whole log is committed. A leader that was elected just now, and a member
    /// that was started just now, do not know yet what is committed: this version may have been in force for long.
    pub fn version_of_log(&self) -> Protocol {
        self.versions.latest()
    }

    /// The version that this member speaks.
    pub fn protocol(&self) -> Protocol {
        self.config.protocol
    }

    /// The version that a member speaks, if this leader knows it from an answer in this term within the last election
    /// timeout.
    pub fn protocol_of(&self, id: MemberId, now: Time) -> Option<Protocol> {
        if id == self.me() {
            return Some(self.config.protocol);
        }
        let Role::Leader(leader) = &self.role else { return None };
        leader.peers.get(&id)?.protocol(now, self.config.election_timeout)
    }

    /// The reasons why the version is below `wanted`, as this leader sees them.
    pub fn held_back_by(&self, wanted: Protocol, now: Time) -> Vec<HeldBackBy> {
        let holder = |member: &super::types::Member| match self.protocol_of(member.member_id, now) {
            None => Some(HeldBackBy::NotHeard(member.node_id.clone())),
            Some(speaks) if speaks < wanted => Some(HeldBackBy::Speaks(member.node_id.clone(), speaks)),
            Some(_) => None,
        };
        let mut holders: Vec<_> = self.membership().members.iter().filter_map(holder).collect();
        if self.config.hold_version {
            let me = self.member(self.me()).map_or_else(|| self.me().to_string(), |m| m.node_id.clone());
            holders.push(HeldBackBy::Setting(me));
        }
        if holders.is_empty() {
            holders.push(HeldBackBy::Nobody);
        }
        holders
    }

    /// A leader raises the version once every member of the membership in force is known to speak a higher version.
    pub(super) fn raise_version(&mut self, now: Time) {
        let Role::Leader(leader) = &self.role else { return };
        if self.config.hold_version
            || self.config.protocol <= self.versions.latest()
            || self.commit_index < leader.term_start
            || leader.transfer.is_some()
        {
            return;
        }
        let spoken = self.memberships.latest().members.iter().map(|m| self.protocol_of(m.member_id, now));
        // A leader that is no longer a member must also be able to read what it writes.
        let Some(common) = spoken.chain([Some(self.config.protocol)]).min().flatten() else { return };
        if common <= self.versions.latest() {
            return;
        }
        let cluster_time = self.next_cluster_time(now).expect("a leader has the time");
        self.append_own(cluster_time, Draft::from(&Payload::Version(common)), now);
        self.note(Decision::ProposedVersion(common));
        // A single voter commits alone everything that its disk holds.
        self.advance_leader_commit(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Position;

    fn entry(index: Index, version: Protocol) -> Entry {
        Entry::new(Position::new(index, 1), 0, &Payload::Version(version))
    }

    #[test]
    fn versions_follow_the_log_and_are_in_force_when_committed() {
        let mut versions = Versions::new(&SnapshotMeta::default(), [entry(3, 2)].iter());
        assert_eq!((versions.committed(), versions.latest()), (1, 2));
        versions.truncate_suffix(3);
        assert_eq!((versions.committed(), versions.latest()), (1, 1));
        versions.append(&entry(3, 2));
        assert!(!versions.commit(2) && versions.commit(3));
        assert_eq!((versions.committed(), versions.latest()), (2, 2));
        versions.truncate_suffix(4);
        assert_eq!(versions.committed(), 2);
        let snapshot = SnapshotMeta { last: Position::new(5, 1), version: 3, ..SnapshotMeta::default() };
        let versions = Versions::new(&snapshot, [entry(5, 2)].iter());
        assert_eq!((versions.committed(), versions.latest()), (3, 3), "it never falls");
    }
}
