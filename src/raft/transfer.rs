//! Leadership transfer (thesis §3.10): a leader takes no more proposals, brings its successor up to date, and tells
//! it to campaign immediately.

use super::change::{ChangeError, MembershipChange};
use super::message::{Asked, Ticket, TimeoutNowReply, TimeoutNowRequest};
use super::note::Decision;
use super::progress::Liveness;
use super::raft::Raft;
use super::role::{Role, Transfer};
use super::types::{Index, MemberId, Time};
use super::write::AfterSync;

/// Why the leadership is not transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This member does not lead.
    #[error("this member does not lead")]
    NotLeader {
        /// The leader, as far as this member knows.
        leader: Option<MemberId>,
    },
    /// The named member is not a voter.
    #[error("only a voter can lead")]
    NotVoter,
    /// Another leadership transfer is running.
    #[error("the leadership is being transferred already")]
    UnderWay,
    /// The possible successors have not answered this leader yet; they can still do so until `until`.
    #[error("the leader is new, or a member is: nobody who could take over has answered it yet: try again")]
    NotHeardYet {
        /// From this time on the request is accepted or refused, if no other leader is elected.
        until: Time,
    },
    /// No other voter, or not the named voter, was heard within an election timeout.
    #[error("no other voter answers")]
    NobodyAnswers,
}

impl Raft {
    /// Begins to transfer the leadership: to `to`, or to the voter with the most advanced log. From now on nothing is
    /// proposed. The transfer is given up after an election timeout. Returns the successor; a transfer to the leader
    /// itself changes nothing.
    ///
    /// # Errors
    /// This member does not lead, or there is no member to transfer the leadership to.
    pub fn transfer_leadership(
        &mut self,
        to: Option<MemberId>,
        now: Time,
    ) -> Result<MemberId, TransferError> {
        self.steps += 1;
        let me = self.me();
        let hint = self.leader();
        let membership = self.memberships.latest().clone();
        let Role::Leader(leader) = &self.role else {
            return Err(TransferError::NotLeader { leader: hint });
        };
        if to == Some(me) {
            return Ok(me);
        }
        if to.is_some_and(|id| !membership.is_voter(id)) {
            return Err(TransferError::NotVoter);
        }
        match &leader.transfer {
            Some(under_way) if to.is_none_or(|id| id == under_way.to) => return Ok(under_way.to),
            Some(_) => return Err(TransferError::UnderWay),
            None => {}
        }
        let candidates = membership.voters().filter(|&id| id != me && to.is_none_or(|to| to == id));
        let candidates: Vec<_> = candidates.map(|id| (id, self.liveness(id, now))).collect();
        let alive = candidates.iter().filter(|(_, l)| *l == Liveness::Alive).map(|&(id, _)| id);
        let Some(to) = alive.max_by_key(|id| leader.peers.get(id).map_or(0, |p| p.match_index)) else {
            let not_heard_yet = candidates.iter().filter_map(|(_, liveness)| match liveness {
                Liveness::NotHeardYet(until) => Some(*until),
                _ => None,
            });
            return Err(match not_heard_yet.max() {
                Some(until) => TransferError::NotHeardYet { until },
                None => TransferError::NobodyAnswers,
            });
        };
        let deadline = now + self.config.election_timeout;
        if let Role::Leader(leader) = &mut self.role {
            leader.transfer = Some(Transfer { to, deadline, is_sent: false });
        }
        self.note(Decision::TransferStarted(to));
        Ok(to)
    }

    /// Begins to transfer the leadership for the leader's own removal, if the removal could be done now: otherwise
    /// the transfer would only cost an election. `None` when no member can take over: then the leader manages its
    /// removal itself (thesis §4.2.2).
    ///
    /// # Errors
    /// `change_membership` would refuse the removal. Nothing was changed.
    pub fn transfer_for_removal(&mut self, now: Time) -> Result<Option<MemberId>, ChangeError> {
        self.check_change(&MembershipChange::Remove(self.me()), now)?;
        Ok(self.transfer_leadership(None, now).ok())
    }

    /// Whether a leadership transfer is running.
    pub fn is_transferring(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.transfer.is_some())
    }

    /// Whether to send TimeoutNow to the successor now: its disk holds the whole log, and the whole log is committed
    /// and applied here, so that every proposal of this leadership gets its answer.
    pub(super) fn transfer_is_due(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let Some(transfer) = leader.transfer.as_ref().filter(|h| !h.is_sent) else { return false };
        let last_index: Index = self.log.last_index();
        let matches = leader.peers.get(&transfer.to).is_some_and(|p| p.match_index == last_index);
        matches && self.commit_index == last_index && self.last_applied == last_index
    }

    /// The TimeoutNow request, when it is due and `peer` is the successor.
    pub(super) fn poll_transfer(&mut self, peer: MemberId, now: Time) -> Option<(TimeoutNowRequest, Ticket)> {
        if !self.transfer_is_due() {
            return None;
        }
        let request = TimeoutNowRequest { term: self.term(), leader: self.me() };
        let Role::Leader(leader) = &mut self.role else { return None };
        let transfer = leader.transfer.as_mut().filter(|h| h.to == peer)?;
        transfer.is_sent = true;
        Some((request, self.ticket(peer, Asked::TimeoutNow, now)))
    }

    /// Handles the successor's answer. A refusal or a missing answer ends the leadership transfer immediately. The
    /// campaign itself is noticed by its higher term.
    pub(super) fn handle_transfer_reply(
        &mut self,
        ticket: &Ticket,
        reply: Option<TimeoutNowReply>,
        now: Time,
    ) {
        if let Some(reply) = reply {
            if self.is_absurd(reply.term) {
                return self.note(Decision::RefusedTerm(ticket.peer, reply.term));
            }
            self.observe_term(ticket.peer, reply.term, now);
        }
        if ticket.term == self.term() && !reply.is_some_and(|r| r.campaigns) {
            self.end_transfer();
        }
    }

    /// The successor did not take over in time.
    pub(super) fn end_overdue_transfer(&mut self, now: Time) {
        if let Role::Leader(leader) = &self.role
            && leader.transfer.as_ref().is_some_and(|h| now >= h.deadline)
        {
            self.end_transfer();
        }
    }

    fn end_transfer(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(Transfer { to, .. }) = leader.transfer.take() {
            self.note(Decision::TransferFailed(to));
        }
    }

    /// The leader of this term transfers its leadership: campaign immediately, without a pre-vote.
    pub fn handle_timeout_now(
        &mut self,
        request: TimeoutNowRequest,
        now: Time,
    ) -> AfterSync<TimeoutNowReply> {
        self.steps += 1;
        if self.is_absurd(request.term) {
            self.note(Decision::RefusedTerm(request.leader, request.term));
        } else {
            self.observe_term(request.leader, request.term, now);
        }
        let term = self.term();
        let is_able = !self.disk_stalled && !self.writes.is_hard_state_pending() && self.may_campaign();
        // Only a request of this term counts, and only once: a late request must not depose the current leader.
        let campaigns =
            request.term == term && self.leader() == Some(request.leader) && !self.is_leader() && is_able;
        let reply = self.after_hard_state(TimeoutNowReply { term, campaigns }, None);
        if campaigns {
            self.note(Decision::TransferReceived(request.leader));
            self.become_candidate(true, now);
        }
        reply
    }
}
