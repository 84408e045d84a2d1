//! Membership changes, one server at a time (thesis §4.1, §4.2): which changes a leader allows, and what happens when
//! a membership comes into force.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::draft::Draft;
use super::entry::Payload;
use super::note::{Decision, StepDownReason};
use super::progress::{CatchUp, Liveness, Mode, Progress};
use super::protocol::{FIRST_PROTOCOL, Protocol, check_version};
use super::quorum::majority;
use super::raft::Raft;
use super::role::Role;
use super::types::{Index, Member, MemberId, Membership, Position, Time};

/// A change of the membership. Each change adds or removes at most one voter, so that the majorities before and after
/// it overlap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MembershipChange {
    /// A new member, as a learner, with its protocol version if that is known.
    Add(#[serde(deserialize_with = "Member::from_wire")] Member, Option<Protocol>),
    /// A learner becomes a voter.
    Promote(MemberId),
    /// A member is removed.
    Remove(MemberId),
}

/// The result of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The change is in force from this entry on, and final once this entry is committed.
    Appended(Position),
    /// The membership in force already has this change; this is the index of the entry that put it in force.
    Already(Index),
}

/// Why a change is refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This member does not lead.
    #[error("this member does not lead")]
    NotLeader {
        /// The leader, as far as this member knows.
        leader: Option<MemberId>,
    },
    /// Nothing of this leader's term is committed yet: an older change might still come back (thesis §4.1, the bug of
    /// 2015).
    #[error("the leader was elected just now and has not committed anything yet: try again")]
    TooEarly,
    /// Another change is not yet committed.
    #[error("another change of the membership is under way (entry {0}): try again when it is committed")]
    UnderWay(Index),
    /// No majority of the new voters answers: nothing could be committed any more.
    #[error(
        "of the {voters} voters there would be, only {alive} answer, and {needed} are needed: nothing could be committed any more"
    )]
    NoLiveMajority {
        /// Voters of the new membership.
        voters: usize,
        /// Voters of the new membership that were heard within an election timeout.
        alive: usize,
        /// The size of a majority.
        needed: usize,
    },
    /// The change needs members that have not answered this leader yet; they can still do so until `until`.
    #[error("the leader is new, or a member is: not enough of the members have answered it yet: try again")]
    NotHeardYet {
        /// From this time on the same change is accepted or refused, if no other leader is elected.
        until: Time,
    },
    /// The learner that is to become a voter does not answer.
    #[error("{0} does not answer: only a member that answers can become a voter")]
    NoAnswer(String),
    /// There is no such member.
    #[error("there is no such member")]
    Unknown,
    /// The name or an address belongs to another member.
    #[error("{what} belongs to member {holder} already")]
    Taken {
        /// The field: name, raft_addr or http_addr.
        what: &'static str,
        /// The member that it belongs to.
        holder: String,
    },
    /// The new member's program does not read the version in force.
    #[error("{}", unsupported_text(.name, *.speaks, *.version))]
    Unsupported {
        /// Its name.
        name: String,
        /// Its protocol version, if it said so.
        speaks: Option<Protocol>,
        /// The version in force, or an appended version that will be in force.
        version: Protocol,
    },
    /// The leader transfers its leadership.
    #[error("this leader transfers its leadership to another member: try again")]
    Transferring,
}

fn unsupported_text(name: &str, speaks: Option<Protocol>, version: Protocol) -> String {
    match speaks {
        None => format!(
            "{name} has not said which version it speaks, and version {version} is in force: start it, and add it then"
        ),
        Some(speaks) => format!(
            "{name} speaks protocol {speaks}, and version {version} is in force: start it with a dkv-server that speaks \
             protocol {version}"
        ),
    }
}

impl Membership {
    /// The membership after the change; `None` when the membership already has the change.
    ///
    /// # Errors
    /// The member is unknown, or its name or an address belongs to another member.
    pub fn with(&self, change: &MembershipChange) -> Result<Option<Membership>, ChangeError> {
        let mut members = self.members.clone();
        match change {
            MembershipChange::Add(new, _) => {
                if let Some(known) = self.get(new.member_id)
                    && (&known.node_id, &known.raft_addr, &known.http_addr)
                        == (&new.node_id, &new.raft_addr, &new.http_addr)
                {
                    return Ok(None);
                }
                check_free(self, new)?;
                members.push(Member { voter: false, ..new.clone() });
                members.sort_by(|a, b| a.node_id.cmp(&b.node_id));
            }
            MembershipChange::Promote(id) => {
                let member = members.iter_mut().find(|m| m.member_id == *id).ok_or(ChangeError::Unknown)?;
                if member.voter {
                    return Ok(None);
                }
                (member.voter, member.promote) = (true, false);
            }
            MembershipChange::Remove(id) => {
                self.get(*id).ok_or(ChangeError::Unknown)?;
                members.retain(|m| m.member_id != *id);
            }
        }
        Ok(Some(Membership { members }))
    }
}

fn check_free(membership: &Membership, new: &Member) -> Result<(), ChangeError> {
    for member in &membership.members {
        let taken = [
            ("the name", member.node_id == new.node_id),
            ("the raft_addr", member.raft_addr == new.raft_addr),
            ("the http_addr", member.http_addr == new.http_addr),
            ("the raft_addr, as its http_addr,", member.http_addr == new.raft_addr),
            ("the http_addr, as its raft_addr,", member.raft_addr == new.http_addr),
            ("the member_id", member.member_id == new.member_id),
        ];
        if let Some((what, _)) = taken.into_iter().find(|(_, is_taken)| *is_taken) {
            return Err(ChangeError::Taken { what, holder: member.node_id.clone() });
        }
    }
    Ok(())
}

impl Raft {
    /// Changes the membership by one server. It is in force as soon as it is appended (thesis §4.1), and final once
    /// committed; the caller learns that from `poll_apply`.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn change_membership(
        &mut self,
        change: &MembershipChange,
        now: Time,
    ) -> Result<Changed, ChangeError> {
        self.steps += 1;
        let Some(new) = self.check_change(change, now)? else {
            return Ok(Changed::Already(self.memberships.latest_index()));
        };
        let cluster_time = self.next_cluster_time(now).expect("a leader has the time");
        let position = self.append_own(cluster_time, Draft::from(&Payload::Membership(new)), now);
        // A single voter commits alone everything that its disk holds.
        self.advance_leader_commit(now);
        Ok(Changed::Appended(position))
    }

    /// Checks whether `change_membership` would accept the change now. Returns the new membership, or `None` when the
    /// membership already has the change.
    pub(super) fn check_change(
        &self,
        change: &MembershipChange,
        now: Time,
    ) -> Result<Option<Membership>, ChangeError> {
        let hint = self.leader();
        let Role::Leader(leader) = &self.role else { return Err(ChangeError::NotLeader { leader: hint }) };
        if leader.transfer.is_some() {
            return Err(ChangeError::Transferring);
        }
        if self.commit_index < leader.term_start {
            return Err(ChangeError::TooEarly);
        }
        if self.memberships.uncommitted() > 0 {
            return Err(ChangeError::UnderWay(self.memberships.latest_index()));
        }
        let Some(new) = self.memberships.latest().with(change)? else { return Ok(None) };
        if let MembershipChange::Add(newcomer, speaks) = change {
            self.check_newcomer(&newcomer.node_id, *speaks)?;
        }
        self.check_live_majority(&new, now)?;
        if let MembershipChange::Promote(id) = change {
            self.check_answers(*id, now)?;
        }
        Ok(Some(new))
    }

    /// Whether a member is alive, as far as this leader knows; `Silent` for an unknown member.
    pub(super) fn liveness(&self, id: MemberId, now: Time) -> Liveness {
        let Role::Leader(leader) = &self.role else { return Liveness::Silent };
        match leader.peers.get(&id) {
            _ if id == self.me() => Liveness::Alive,
            Some(progress) => progress.liveness(now, self.config.election_timeout),
            None => Liveness::Silent,
        }
    }

    /// Nothing can be committed under the new membership unless a majority of its voters is alive.
    fn check_live_majority(&self, new: &Membership, now: Time) -> Result<(), ChangeError> {
        let all: Vec<Liveness> = new.voters().map(|id| self.liveness(id, now)).collect();
        let (voters, needed) = (all.len(), majority(all.len()));
        let alive = all.iter().filter(|&&l| l == Liveness::Alive).count();
        let not_heard_yet = all.iter().filter_map(|l| match l {
            Liveness::NotHeardYet(until) => Some(*until),
            _ => None,
        });
        if voters > 0 && alive >= needed {
            return Ok(());
        }
        match not_heard_yet.clone().max() {
            Some(until) if alive + not_heard_yet.count() >= needed => Err(ChangeError::NotHeardYet { until }),
            _ => Err(ChangeError::NoLiveMajority { voters, alive, needed }),
        }
    }

    /// A learner that does not answer would as a voter only enlarge the majority that is needed.
    fn check_answers(&self, id: MemberId, now: Time) -> Result<(), ChangeError> {
        match self.liveness(id, now) {
            Liveness::Alive => Ok(()),
            Liveness::NotHeardYet(until) => Err(ChangeError::NotHeardYet { until }),
            Liveness::Silent => {
                let name = self.member(id).map_or_else(|| id.to_string(), |m| m.node_id.clone());
                Err(ChangeError::NoAnswer(name))
            }
        }
    }

    /// Refuses a new member whose program does not read the version in force, or the version that will be in force
    /// soon.
    fn check_newcomer(&self, name: &str, speaks: Option<Protocol>) -> Result<(), ChangeError> {
        let (committed, latest) = (self.versions.committed(), self.versions.latest());
        let reads = |version| speaks.is_some_and(|speaks| check_version(version, speaks).is_ok());
        // Every program reads the first version, until there is a program that no longer supports it.
        let is_let_in = match speaks {
            Some(_) => reads(committed) && reads(latest),
            None => latest == FIRST_PROTOCOL,
        };
        match is_let_in {
            true => Ok(()),
            false => Err(ChangeError::Unsupported { name: name.to_owned(), speaks, version: latest }),
        }
    }

    /// A membership came into force: a leader keeps what it knows about the members that stay.
    pub(super) fn follow_membership(&mut self, now: Time) {
        let me = self.me();
        let members = self.memberships.latest().clone();
        let next_index = self.log.last_index() + 1;
        let Role::Leader(leader) = &mut self.role else { return };
        let mut known = std::mem::take(&mut leader.peers);
        let ids = members.members.iter().map(|m| m.member_id).filter(|&id| id != me);
        leader.peers = ids
            .map(|id| (id, known.remove(&id).unwrap_or_else(|| Progress::new(next_index, now))))
            .collect::<BTreeMap<_, _>>();
    }

    /// A learner that was added with `promote` becomes a voter automatically (thesis §4.2.1): as soon as it has
    /// finished a round of catching up within an election timeout.
    pub(super) fn promote_caught_up(&mut self, peer: MemberId, now: Time) {
        if !self.memberships.latest().get(peer).is_some_and(|m| m.promote && !m.voter) {
            return;
        }
        let last_index = self.log.last_index();
        let election_timeout = self.config.election_timeout;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.peers.get_mut(&peer).filter(|p| p.mode == Mode::Replicate) else {
            return;
        };
        let round = *progress.catch_up.get_or_insert(CatchUp { target: last_index, began: now });
        if progress.match_index < round.target {
            return;
        }
        progress.catch_up = Some(CatchUp { target: last_index, began: now });
        if now <= round.began + election_timeout
            && let Ok(Changed::Appended(_)) = self.change_membership(&MembershipChange::Promote(peer), now)
        {
            self.note(Decision::Promoted(peer));
        }
    }

    /// A leader steps down when it is no longer a voter of the committed membership (thesis §4.2.2). Until its
    /// removal is committed it manages the cluster without counting itself.
    pub(super) fn leave_office_when_removed(&mut self, now: Time) {
        if self.is_leader()
            && self.memberships.uncommitted() == 0
            && !self.memberships.committed().is_voter(self.me())
        {
            self.step_down(StepDownReason::Removed, now);
        }
    }

    /// Whether RPCs to `peer` may be needed, now or later: it is in the membership in force or in a membership that
    /// may come back. Identities are never reused.
    pub(super) fn may_have_peer(&self, peer: MemberId) -> bool {
        peer != self.me() && self.memberships.member(peer).is_some()
    }
}
