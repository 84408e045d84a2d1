//! Log replication and commit (paper §5.3, §5.4.2).

use super::message::{
    AppendEntriesReply, AppendEntriesRequest, AppendOutcome, Asked, Awaits, PollRpc, RpcFailed, RpcReply,
    RpcRequest, Ticket,
};
use super::note::Decision;
use super::progress::Mode;
use super::quorum::majority_value;
use super::raft::Raft;
use super::role::Role;
use super::types::{Index, MemberId, Position, Term, Time};
use super::write::{AfterSync, Hold};

impl Raft {
    // ---- a follower's side -------------------------------------------------------------------------------------------

    /// Answers an AppendEntries (Figure 2), heartbeats included: they run the same check.
    ///
    /// The answer is held until the disk has the entries, but no longer than the append hold. It then reports
    /// separately what memory holds and what the disk holds.
    pub fn handle_append_entries(
        &mut self,
        request: AppendEntriesRequest,
        now: Time,
    ) -> AfterSync<AppendEntriesReply> {
        self.steps += 1;
        if self.is_absurd(request.term) {
            self.note(Decision::RefusedTerm(request.leader, request.term));
            return self.append_reply(AppendOutcome::TermOnly, None);
        }
        self.observe_term(request.leader, request.term, now);
        if request.term < self.term() {
            return self.append_reply(AppendOutcome::TermOnly, None);
        }
        self.follow(request.leader, now);
        if let Some(conflict) = self.conflict_at(request.prev) {
            self.note(Decision::RefusedAppend(request.leader, request.prev));
            return self.append_reply(conflict, None);
        }
        let mut hold =
            Hold { until: now + self.config.append_hold, or_persisted: Some(request.last_index()) };
        let mut received = request.last_index();
        let waiting_bytes = self.unpersisted_bytes();
        if !request.entries.is_empty() && waiting_bytes >= self.config.max_unpersisted_bytes {
            self.note(Decision::AppendNotTaken(waiting_bytes));
            received = request.prev.index;
            hold.or_persisted = None;
        } else {
            self.take_entries(&request, now);
        }
        // Not beyond the entries that this RPC has compared: later entries may still be from another leader.
        self.advance_commit(request.commit.min(received));
        self.append_reply(AppendOutcome::Accepted { received, match_index: received }, Some(hold))
    }

    /// The sender leads this term. Two leaders of one term are impossible unless a disk or a program is faulty.
    pub(super) fn follow(&mut self, leader: MemberId, now: Time) {
        let known = self.leader();
        // A leader never receives an append of its own term. One that carries its own id means a copied data directory.
        assert!(
            known.is_none() || (known == Some(leader) && !self.is_leader()),
            "two leaders in term {}: {:?} and {leader}. A vote was given twice; stop the cluster and check which member \
             was restored from an old copy of its data directory",
            self.term(),
            known
        );
        if known.is_none() {
            self.become_follower(Some(leader), now);
            self.note(Decision::Follows(leader));
        }
        self.leader_heard_at = now;
        self.forget_lost_leader();
        self.arm_election_timer(now);
    }

    /// The consistency check on the entry before the first (Figure 2, AppendEntries 2). What is compacted was committed, so it matches.
    fn conflict_at(&self, prev: Position) -> Option<AppendOutcome> {
        if prev.index < self.log.base().index {
            return None;
        }
        match self.log.term_at(prev.index) {
            Some(term) if term == prev.term => None,
            Some(term) => Some(AppendOutcome::Conflict {
                conflict_index: self.log.first_index_of_term_at(prev.index),
                conflict_term: Some(term),
            }),
            None => Some(AppendOutcome::Conflict {
                conflict_index: self.log.last_index() + 1,
                conflict_term: None,
            }),
        }
    }

    /// Skips the entries that the log already has, cuts the log at the first real conflict, appends the rest
    /// (Figure 2, AppendEntries 3-4). An RPC that is shorter or older than the log cuts nothing.
    fn take_entries(&mut self, request: &AppendEntriesRequest, now: Time) {
        let base_index = self.log.base().index;
        let is_known =
            |index: Index, term: Term| index <= base_index || self.log.term_at(index) == Some(term);
        let Some(first_new) = request.entries.iter().position(|e| !is_known(e.index(), e.term())) else {
            return;
        };
        let new = &request.entries[first_new..];
        let from = new[0].index();
        if from <= self.log.last_index() {
            self.truncate_suffix(from, request.leader);
        }
        self.append(new.to_vec(), now);
    }

    fn truncate_suffix(&mut self, from: Index, leader: MemberId) {
        assert!(
            from > self.commit_index,
            "leader {leader} of term {} replaces entry {from}, but {} is committed: a member lost acknowledged data",
            self.term(),
            self.commit_index
        );
        self.note(Decision::Truncated(from, leader));
        self.log.truncate_suffix(from);
        self.left_through = self.left_through.min(from - 1);
        self.writes.truncate_suffix(from);
        self.memberships.truncate_suffix(from);
        self.versions.truncate_suffix(from);
    }

    fn append_reply(&self, outcome: AppendOutcome, hold: Option<Hold>) -> AfterSync<AppendEntriesReply> {
        self.after_hard_state(
            AppendEntriesReply { term: self.term(), outcome, protocol: self.protocol() },
            hold,
        )
    }

    // ---- a leader's side ---------------------------------------------------------------------------------------------

    /// What to send to this peer now. One RPC at a time: entries that are appended meanwhile go into the next RPC.
    pub fn poll_rpc(&mut self, peer: MemberId, now: Time) -> PollRpc {
        if !self.may_have_peer(peer) {
            return PollRpc::Stop;
        }
        let slot = self.slots.entry(peer).or_default();
        if slot.in_flight.is_some() {
            return PollRpc::WaitUntil(Time::NEVER, Awaits::Everything);
        }
        if now < slot.not_before {
            return PollRpc::WaitUntil(slot.not_before, Awaits::Nothing);
        }
        if !self.is_leader() {
            return self.poll_vote(peer, now);
        }
        match self.poll_transfer(peer, now) {
            Some((request, ticket)) => PollRpc::Send(RpcRequest::TimeoutNow(request), ticket),
            None => self.poll_append(peer, now),
        }
    }

    fn poll_append(&mut self, peer: MemberId, now: Time) -> PollRpc {
        let last_index = self.log.last_index();
        let nothing = PollRpc::WaitUntil(Time::NEVER, Awaits::AllButEntries);
        let is_missing = match &self.role {
            Role::Leader(leader) => leader.peers.get(&peer).is_some_and(|p| self.is_missing_for(p)),
            _ => false,
        };
        let Role::Leader(leader) = &mut self.role else { return nothing };
        let Some(progress) = leader.peers.get_mut(&peer).filter(|p| p.mode != Mode::Lost) else {
            return nothing;
        };
        let wants_round = progress.sent_round < leader.reads.wanted_round();
        if !progress.wants_append(last_index, is_missing) && !wants_round && now < progress.heartbeat_at {
            let awaits = match progress.mode {
                Mode::Snapshot => Awaits::AllButEntries,
                _ if is_missing => Awaits::AllButEntries,
                _ => Awaits::Everything,
            };
            return PollRpc::WaitUntil(progress.heartbeat_at, awaits);
        }
        progress.heartbeat_at = now + self.config.heartbeat;
        progress.sent_round = leader.reads.open_round();
        let round = progress.sent_round;
        // A heartbeat to a peer that needs the snapshot asks whether the peer has the snapshot by now. One that has the
        // log's base may need it all the same: its next entries cannot be read.
        let prev = if progress.mode == Mode::Snapshot && progress.next_index <= self.log.base().index {
            self.log.base()
        } else if progress.mode == Mode::Snapshot {
            self.snapshot.last
        } else {
            let index = progress.next_index - 1;
            Position::new(index, self.log.term_at(index).expect("the log holds every entry since its base"))
        };
        let is_empty = progress.is_full || is_missing || progress.mode == Mode::Snapshot;
        let (matched, is_probe) = (progress.match_index, progress.mode == Mode::Probe);
        let max_bytes = if is_probe { 0 } else { self.config.max_append_bytes };
        let entries = if is_empty { Vec::new() } else { self.entries_for(peer, last_index, max_bytes) };
        let request = AppendEntriesRequest {
            term: self.term(),
            leader: self.me(),
            prev,
            commit: self.commit_index,
            entries,
        };
        let asked = Asked::Append { prev: prev.index, last: request.last_index(), round, matched };
        PollRpc::Send(RpcRequest::AppendEntries(request), self.ticket(peer, asked, now))
    }

    /// The result of an RPC, with the ticket it was sent under. Every ticket must come back, once.
    pub fn handle_rpc_result(&mut self, ticket: Ticket, result: Result<RpcReply, RpcFailed>, now: Time) {
        self.steps += 1;
        let pause_until = ticket.sent_at + self.config.heartbeat;
        let slot = self.slots.entry(ticket.peer).or_default();
        assert_eq!(
            slot.in_flight,
            Some(ticket.id),
            "ticket {} of {} came back twice",
            ticket.id,
            ticket.peer
        );
        slot.in_flight = None;
        slot.not_before = if result.is_err() { pause_until } else { Time(0) };
        match (result, &ticket.asked) {
            (Ok(RpcReply::RequestVote(reply)), Asked::Vote { .. }) => {
                self.handle_vote_reply(&ticket, reply, now)
            }
            (Ok(RpcReply::AppendEntries(reply)), &Asked::Append { prev, last, round, matched }) => {
                self.handle_append_reply(&ticket, (prev, last, round, matched), reply, now);
            }
            (Ok(RpcReply::TimeoutNow(reply)), Asked::TimeoutNow) => {
                self.handle_transfer_reply(&ticket, Some(reply), now)
            }
            (_, Asked::TimeoutNow) => self.handle_transfer_reply(&ticket, None, now),
            _ => self.handle_rpc_failed(&ticket),
        }
        self.find_peers_behind();
    }

    /// It is unknown what the peer took: the next append probes with one entry.
    fn handle_rpc_failed(&mut self, ticket: &Ticket) {
        let (term, last_index) = (self.term(), self.log.last_index());
        if let Role::Leader(leader) = &mut self.role
            && ticket.term == term
            && let Some(progress) = leader.peers.get_mut(&ticket.peer)
            && progress.mode == Mode::Replicate
        {
            progress.mode = Mode::Probe;
            progress.next_index = (progress.match_index + 1).min(last_index + 1);
            progress.is_full = false;
        }
    }

    fn handle_append_reply(
        &mut self,
        ticket: &Ticket,
        (prev, last, round, matched): (Index, Index, u64, Index),
        reply: AppendEntriesReply,
        now: Time,
    ) {
        if self.is_absurd(reply.term) {
            return self.note(Decision::RefusedTerm(ticket.peer, reply.term));
        }
        self.observe_term(ticket.peer, reply.term, now);
        if ticket.term != self.term() || reply.term != self.term() {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.peers.get_mut(&ticket.peer) else { return };
        progress.hear(ticket.sent_at, reply.protocol);
        progress.acked_round = progress.acked_round.max(round);
        match reply.outcome {
            AppendOutcome::Accepted { received, match_index } => {
                // A reply can confirm no more than its RPC carried.
                let received = received.clamp(prev, last);
                progress.match_index = progress.match_index.max(match_index.min(last));
                progress.next_index = progress.match_index.max(received) + 1;
                progress.drop_read();
                progress.mode = Mode::Replicate;
                progress.is_full =
                    (progress.is_full || received < last) && progress.match_index + 1 < progress.next_index;
            }
            AppendOutcome::Conflict { conflict_index, conflict_term }
                if !matches!(progress.mode, Mode::Lost | Mode::Snapshot) =>
            {
                // When this append was sent, the peer did not have the entries that a snapshot has brought since.
                if prev <= matched {
                    progress.mode = Mode::Lost;
                    let acknowledged = progress.match_index;
                    self.note(Decision::PeerLostEntries(ticket.peer, prev, acknowledged));
                } else if prev > progress.match_index {
                    self.backtrack(ticket.peer, prev, conflict_index, conflict_term);
                }
            }
            AppendOutcome::Conflict { .. } | AppendOutcome::TermOnly => {}
        }
        self.advance_leader_commit(now);
        self.confirm_reads();
        self.promote_caught_up(ticket.peer, now);
        self.raise_version(now);
    }

    /// Skips a whole conflicting term in one step (paper §5.3): to the end of that term in this log or, when this log
    /// does not have the term, to its beginning in the peer's log. Never to or below what the peer's disk is known to
    /// hold.
    fn backtrack(&mut self, peer: MemberId, prev: Index, conflict_index: Index, conflict_term: Option<Term>) {
        let here = conflict_term.and_then(|term| {
            let index = self.log.last_index_with_term_at_most(term, prev - 1);
            (self.log.term_at(index) == Some(term)).then_some(index + 1)
        });
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.peers.get_mut(&peer) else { return };
        let next = here.unwrap_or(conflict_index).clamp(progress.match_index + 1, prev);
        progress.next_index = next;
        progress.mode = Mode::Probe;
        progress.is_full = false;
        self.note(Decision::Backtracked(peer, next));
    }

    // ---- commit --------------------------------------------------------------------------------------------------------

    /// Commits what a majority of the voters holds on disk, by counting entries of the current term only (paper
    /// §5.4.2: earlier entries are committed with them). The leader's disk counts like any other: by what it holds,
    /// not by what was sent.
    pub(super) fn advance_leader_commit(&mut self, now: Time) {
        let Role::Leader(leader) = &self.role else { return };
        let me = self.config.me;
        let matched = |id| {
            if id == me { self.persisted_index() } else { leader.peers.get(&id).map_or(0, |p| p.match_index) }
        };
        let on_quorum =
            majority_value(self.memberships.latest().voters().map(matched).collect()).unwrap_or(0);
        if on_quorum > self.commit_index && self.log.term_at(on_quorum) == Some(self.term()) {
            self.advance_commit(on_quorum);
            self.confirm_reads();
            self.leave_office_when_removed(now);
        }
    }

    pub(super) fn advance_commit(&mut self, to: Index) {
        if to <= self.commit_index {
            return;
        }
        let term = self.log.term_at(to).expect("only what the log holds is committed");
        if let Role::Leader(leader) = &mut self.role {
            let committed = (self.commit_index + 1..=to).filter_map(|index| self.log.get(index));
            let bytes: usize = committed.map(|e| e.frame().len()).sum();
            leader.uncommitted_bytes = leader.uncommitted_bytes.saturating_sub(bytes);
        }
        self.commit_index = to;
        self.memberships.commit(to);
        if self.versions.commit(to) {
            self.note(Decision::VersionInForce(self.version()));
        }
        self.note(Decision::Committed(Position::new(to, term)));
    }
}
