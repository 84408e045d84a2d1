//! Elections (paper §5.2, §5.4.1) with pre-vote, leader stickiness and check-quorum as one package (thesis §9.6,
//! §4.2.3, §6.2).

use std::collections::{BTreeMap, BTreeSet};

use super::entry::{Entry, Payload};
use super::message::{Asked, Awaits, PollRpc, RequestVoteReply, RequestVoteRequest, RpcRequest, Ticket};
use super::note::{Decision, VoteRefusal};
use super::progress::Progress;
use super::quorum::{majority, majority_value};
use super::raft::Raft;
use super::read::Reads;
use super::role::{Ballot, Leader, Role};
use super::types::{HardState, MemberId, Position, Time};
use super::write::AfterSync;

impl Raft {
    /// Answers a RequestVote (Figure 2) or a pre-vote. The answer leaves when term and vote are durable.
    pub fn handle_request_vote(
        &mut self,
        request: RequestVoteRequest,
        now: Time,
    ) -> AfterSync<RequestVoteReply> {
        self.steps += 1;
        if self.is_absurd(request.term) {
            self.note(Decision::RefusedTerm(request.candidate, request.term));
            return self.vote_reply(false);
        }
        if request.pre_vote {
            return self.handle_pre_vote(&request, now);
        }
        // This comes before the term rule: a candidate that cannot hear the leader must not depose it (thesis
        // §4.2.3).
        if !request.transfer && self.hears_leader(now) {
            return self.refuse_vote(request.candidate, VoteRefusal::LeaderIsAlive);
        }
        self.observe_term(request.candidate, request.term, now);
        if request.term < self.term() {
            return self.refuse_vote(request.candidate, VoteRefusal::OldTerm);
        }
        if let Some(other) = self.hard_state.voted_for.filter(|&v| v != request.candidate) {
            return self.refuse_vote(request.candidate, VoteRefusal::VotedFor(other));
        }
        if !request.last.is_up_to_date_with(self.last()) {
            return self.refuse_vote(request.candidate, VoteRefusal::LogBehind(self.last()));
        }
        if self.hard_state.voted_for.is_none() {
            self.set_hard_state(HardState { voted_for: Some(request.candidate), ..self.hard_state }, now);
            self.note(Decision::Voted(request.candidate, request.last));
        }
        // The candidate gets time to win: a pre-campaign of this member would compete with it.
        if matches!(self.role, Role::PreCandidate(_)) {
            self.become_follower(None, now);
        }
        self.forget_lost_leader();
        self.arm_election_timer(now);
        self.vote_reply(true)
    }

    /// Answers whether this member would give the vote (thesis §9.6). Changes neither term nor vote nor timer here.
    fn handle_pre_vote(&mut self, request: &RequestVoteRequest, now: Time) -> AfterSync<RequestVoteReply> {
        if self.hears_leader(now) {
            return self.refuse_vote(request.candidate, VoteRefusal::LeaderIsAlive);
        }
        if request.term <= self.term() {
            return self.refuse_vote(request.candidate, VoteRefusal::OldTerm);
        }
        if !request.last.is_up_to_date_with(self.last()) {
            return self.refuse_vote(request.candidate, VoteRefusal::LogBehind(self.last()));
        }
        self.after_hard_state(
            RequestVoteReply { term: request.term, granted: true, protocol: self.protocol() },
            None,
        )
    }

    fn refuse_vote(&mut self, candidate: MemberId, why: VoteRefusal) -> AfterSync<RequestVoteReply> {
        self.note(Decision::RefusedVote(candidate, why));
        self.vote_reply(false)
    }

    fn vote_reply(&self, granted: bool) -> AfterSync<RequestVoteReply> {
        self.after_hard_state(
            RequestVoteReply { term: self.term(), granted, protocol: self.protocol() },
            None,
        )
    }

    /// Whether a leader was heard within the minimum election timeout, and its process is not known to have ended; a
    /// leader hears itself while a quorum answers.
    fn hears_leader(&self, now: Time) -> bool {
        match self.role {
            Role::Follower { leader: Some(_) } => {
                self.lost_leader.is_none() && now < self.leader_heard_at + self.config.election_timeout
            }
            Role::Leader(_) => now < self.quorum_deadline(),
            _ => false,
        }
    }

    /// A whole election timeout has passed without a leader, or the leader's process has ended.
    pub(super) fn handle_election_timeout(&mut self, now: Time) {
        self.arm_campaign_timer(now);
        // A disk that does not answer could not store a vote, and raising the term again before the last one is
        // stored is useless.
        if self.disk_stalled || self.writes.is_hard_state_pending() || !self.may_campaign() {
            return;
        }
        self.become_pre_candidate(now);
    }

    /// Voters may campaign. A member that only an uncommitted membership has removed may campaign too (thesis
    /// §4.2.2): perhaps no other member holds the entries that are needed to commit that membership. After a restart a
    /// member does not know which memberships after its snapshot are committed, so each of them counts.
    pub(super) fn may_campaign(&self) -> bool {
        self.memberships.may_be_voter(self.me())
    }

    fn become_pre_candidate(&mut self, now: Time) {
        self.note(Decision::PreCampaign);
        // The campaigns of a lost leader follow each other so quickly that an answer may need longer. It still counts,
        // and only those that refused are asked again.
        if let (Some(_), Role::PreCandidate(ballot)) = (self.lost_leader, &mut self.role) {
            let granted = &ballot.granted;
            return ballot.answered.retain(|peer| granted.contains(peer));
        }
        let ballot = self.open_ballot(true, false, now);
        self.role = Role::PreCandidate(ballot);
        self.try_win(now);
    }

    /// Starts an election (Figure 2, candidates). `transfer` means that the leader asked for it.
    pub(super) fn become_candidate(&mut self, transfer: bool, now: Time) {
        let ballot = self.open_ballot(false, transfer, now);
        self.role = Role::Candidate(ballot);
        let vote = HardState { term: self.term() + 1, voted_for: Some(self.me()) };
        self.set_hard_state(vote, now);
        // The timer is set again when the vote is durable: a slow disk must not use up terms.
        self.election_deadline = Time::NEVER;
        self.note(Decision::Campaign);
    }

    /// The member's own pre-vote counts immediately; its own vote counts only when it is durable.
    fn open_ballot(&mut self, own_vote: bool, transfer: bool, now: Time) -> Ballot {
        self.last_ballot += 1;
        let granted = if own_vote { BTreeSet::from([self.me()]) } else { BTreeSet::new() };
        Ballot {
            number: self.last_ballot,
            began: now,
            granted,
            answered: BTreeSet::new(),
            spoken: BTreeMap::new(),
            transfer,
        }
    }

    /// Counts the candidate's vote for itself once it is durable, and starts its timer.
    pub(super) fn count_own_vote(&mut self, now: Time) {
        let me = self.me();
        let is_durable = !self.writes.is_hard_state_pending();
        if let Role::Candidate(ballot) = &mut self.role
            && is_durable
            && ballot.granted.insert(me)
        {
            let took = now.since(ballot.began);
            self.arm_candidate_timer(took, now);
            self.try_win(now);
        }
    }

    /// What a campaign sends to this peer: one request per peer, sent again only when it failed.
    pub(super) fn poll_vote(&mut self, peer: MemberId, now: Time) -> PollRpc {
        let nothing = PollRpc::WaitUntil(Time::NEVER, Awaits::AllButEntries);
        let (ballot, pre_vote) = match &self.role {
            Role::PreCandidate(ballot) => (ballot, true),
            // The own vote must be durable before other members are asked for their votes.
            Role::Candidate(ballot) if ballot.granted.contains(&self.config.me) => (ballot, false),
            _ => return nothing,
        };
        if ballot.answered.contains(&peer) || !self.memberships.latest().is_voter(peer) {
            return nothing;
        }
        let asked = Asked::Vote { ballot: ballot.number, pre_vote };
        let request = RequestVoteRequest {
            term: self.term() + u64::from(pre_vote),
            candidate: self.me(),
            last: self.last(),
            pre_vote,
            transfer: ballot.transfer,
        };
        PollRpc::Send(RpcRequest::RequestVote(request), self.ticket(peer, asked, now))
    }

    /// Handles an answer to this member's vote request. Answers of an earlier campaign or term are dropped.
    pub(super) fn handle_vote_reply(&mut self, ticket: &Ticket, reply: RequestVoteReply, now: Time) {
        let Asked::Vote { ballot: number, pre_vote } = ticket.asked else { return };
        // A granted pre-vote repeats the term of the request; every other answer carries the peer's own term.
        if !(pre_vote && reply.granted) {
            if self.is_absurd(reply.term) {
                return self.note(Decision::RefusedTerm(ticket.peer, reply.term));
            }
            self.observe_term(ticket.peer, reply.term, now);
        }
        let ballot = match &mut self.role {
            Role::PreCandidate(ballot) if pre_vote => ballot,
            Role::Candidate(ballot) if !pre_vote => ballot,
            _ => return,
        };
        if ballot.number != number {
            return;
        }
        ballot.answered.insert(ticket.peer);
        ballot.spoken.insert(ticket.peer, reply.protocol);
        if reply.granted {
            ballot.granted.insert(ticket.peer);
            self.try_win(now);
        }
    }

    /// A majority of the voters decides; a member that is not a voter does not count itself.
    fn try_win(&mut self, now: Time) {
        let voters: Vec<MemberId> = self.memberships.latest().voters().collect();
        let needed = majority(voters.len());
        let votes = |ballot: &Ballot| voters.iter().filter(|v| ballot.granted.contains(v)).count();
        match &self.role {
            Role::PreCandidate(ballot) if votes(ballot) >= needed && !self.writes.is_hard_state_pending() => {
                self.become_candidate(false, now);
            }
            Role::Candidate(ballot) if votes(ballot) >= needed => {
                let votes = votes(ballot);
                self.become_leader(votes, voters.len(), now);
            }
            _ => {}
        }
    }

    /// Becomes the leader and begins the term with a no-op: until an entry of its own term is committed, a leader
    /// does not know which entries are committed (paper §8, thesis §6.4).
    fn become_leader(&mut self, votes: usize, voters: usize, now: Time) {
        let last = self.last();
        let peers = self.membership().members.iter().map(|m| m.member_id).filter(|&id| id != self.me());
        // A vote is an answer of this term, but it does not count as a sign of life: only answers to appends do.
        let spoken = match &self.role {
            Role::Candidate(ballot) => ballot.spoken.clone(),
            _ => BTreeMap::new(),
        };
        let progress =
            |id| Progress { spoken: spoken.get(&id).copied(), ..Progress::new(last.index + 1, now) };
        let peers: BTreeMap<_, _> = peers.map(|id| (id, progress(id))).collect();
        let cluster_time_base =
            self.log.iter().next_back().map_or(self.snapshot.cluster_time, Entry::cluster_time);
        let reads = Reads::default();
        let tail = self.log.iter().rev().take_while(|e| e.index() > self.commit_index);
        let noop = Entry::new(Position::new(last.index + 1, self.term()), cluster_time_base, &Payload::Noop);
        let uncommitted_bytes = tail.chain([&noop]).map(|e| e.frame().len()).sum();
        let leader = Leader {
            peers,
            uncommitted_bytes,
            term_start: last.index + 1,
            cluster_time_base,
            elected_at: now,
            reads,
            transfer: None,
        };
        self.role = Role::Leader(Box::new(leader));
        self.election_deadline = Time::NEVER;
        self.forget_lost_leader();
        self.note(Decision::Elected(votes, voters));
        self.append(vec![noop], now);
        self.advance_leader_commit(now);
    }

    /// Check-quorum (thesis §6.2): when the leader must step down unless more answers arrive. The answer to an RPC counts
    /// from when the RPC was sent.
    pub(super) fn quorum_deadline(&self) -> Time {
        let Role::Leader(leader) = &self.role else { return Time::NEVER };
        let contact = |id| {
            if id == self.me() {
                Time::NEVER
            } else {
                leader.peers.get(&id).map_or(Time(0), Progress::quorum_contact)
            }
        };
        let contacts: Vec<Time> = self.memberships.latest().voters().map(contact).collect();
        majority_value(contacts).map_or(Time::NEVER, |heard| heard + self.config.election_timeout)
    }
}
