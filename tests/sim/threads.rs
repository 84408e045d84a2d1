//! The threads of a member without threads: each is an event that wakes late, works for a while, and goes on as its loop
//! in `src/node` would. They are woken by what the core's steps say, as in production, so a wakeup that is missing is
//! found here. [`World::step`] is the only place that changes a core.

use std::time::Duration;

use dkv::node::{Applier, Effects, Outgoing, PeerError, PeerReply, PeerRequest, State, Wakeups};
use dkv::raft::{
    Apply, Awaits, Decision, EntryKind, Index, PollRpc, RoleKind, RpcFailed, RpcReply, RpcRequest,
    StepDownReason, Time, VoteRefusal,
};

use crate::members::machine_of;
use crate::net::Caller;
use crate::node::NodeEvent;
use crate::peers::describe;
use crate::process::{Answered, Process, Replicator, Sender, Snapshotter, Thread};
use crate::report::Mark;
use crate::world::{Event, NodeIndex, World};

/// As in production.
const SEAL_AFTER_US: u64 = 100_000;

impl World {
    pub fn plan_node_at(&mut self, node: NodeIndex, at: u64, what: NodeEvent) {
        if at == u64::MAX {
            return;
        }
        let life = self.nodes[node].life;
        self.plan_at(at, Event::Node { node, life, what });
    }

    /// How long a thread takes to wake.
    pub fn wake_latency(&mut self) -> u64 {
        self.schedule_rng.u64(0..=self.swarm.wake_max_us)
    }

    pub fn handle_node_event(&mut self, node: NodeIndex, life: u64, what: NodeEvent) {
        let machine = &mut self.nodes[node];
        if machine.life != life || machine.process.is_none() {
            return;
        }
        if machine.is_stopped() {
            return machine.backlog(Event::Node { node, life, what });
        }
        match what {
            NodeEvent::Timer { at } => self.run_timer(node, at),
            NodeEvent::LogWriter => self.run_log_writer(node),
            NodeEvent::Synced => self.end_sync(node),
            NodeEvent::Seal { at } => self.seal(node, at),
            NodeEvent::Housekeeper => match self.nodes[node].disk.prepare_spare() {
                Ok(()) => self.wake_housekeeper(node),
                Err(e) => self.fail_stop(node, &e),
            },
            NodeEvent::Applier => self.run_applier(node),
            NodeEvent::Applied => self.end_apply(node),
            NodeEvent::LeaseKeeper => self.run_lease_keeper(node),
            NodeEvent::Notifier => self.run_notifier(node),
            NodeEvent::Replicator { peer, at } => self.run_replicator(node, peer, at),
            NodeEvent::Sender { peer, at } => self.run_sender(node, peer, at),
            NodeEvent::LogRead { peer } => self.end_log_read(node, peer),
            NodeEvent::Snapshotter => self.run_snapshotter(node),
            NodeEvent::Receiver => self.run_receiver(node),
            NodeEvent::Forwarder => self.run_forwarder(node),
            NodeEvent::ReadAsker => self.run_read_asker(node),
            NodeEvent::LinkEnded { caller } => self.look_for_the_caller(node, caller),
            NodeEvent::LeaderLost(word) => self.tell(node, word),
            NodeEvent::CallEnded { peer, caller, result } => self.end_call_of(node, peer, caller, result),
        }
    }

    pub fn process(&mut self, node: NodeIndex) -> &mut Process {
        self.nodes[node].process.as_mut().expect("only running processes act")
    }

    // ---- timer, log writer, housekeeper, applier -------------------------------------------------------------------------

    fn run_timer(&mut self, node: NodeIndex, at: u64) {
        if self.process(node).timer_at != at {
            return;
        }
        let clock = self.nodes[node].clock;
        let now = clock.show(self.now);
        let state = &mut self.process(node).state;
        state.notice_process_pause(now);
        if state.is_disk_dead(now) {
            self.mark(Mark::DiskDead);
            self.nodes[node].is_disk_hung = false;
            self.crash(node, false);
            return self.restart_after(node, self.swarm.election_timeout_us);
        }
        let next = state.next_time();
        state.timer_sleeps_until(next.max(now));
        if next > now {
            let at = clock.to_world(next).saturating_add(self.timer_lateness(node));
            self.process(node).timer_at = at;
            return self.plan_node_at(node, at, NodeEvent::Timer { at });
        }
        self.step(node, |state, now| state.handle_time(now));
        // Looks again a moment later, as a thread does: a deadline that stays due would show as a run without end.
        let at = self.now + 1;
        self.process(node).timer_at = at;
        self.plan_node_at(node, at, NodeEvent::Timer { at });
    }

    /// How much later than it should the timer of a starved process wakes.
    fn timer_lateness(&mut self, node: NodeIndex) -> u64 {
        match self.nodes[node].timer_late_us {
            0 => 0,
            most => self.schedule_rng.u64(0..=most),
        }
    }

    fn run_log_writer(&mut self, node: NodeIndex) {
        let batch = self.step(node, |state, _| state.raft.poll_write());
        if batch.is_empty() {
            match self.step(node, |state, _| state.raft.poll_cut()) {
                Some(index) => self.cut_log(node, index),
                None => self.process(node).log_writer = Thread::Asleep,
            }
            return;
        }
        self.process(node).log_writer = Thread::Busy(batch);
        let latency = self.nodes[node].sync_latency();
        if let Some(act) = self.nodes[node].doom.take() {
            self.plan((latency / 2).min(self.swarm.election_timeout_us), Event::Nemesis(act));
        }
        self.plan_node_at(node, self.now.saturating_add(latency), NodeEvent::Synced);
    }

    fn end_sync(&mut self, node: NodeIndex) {
        let process = self.process(node);
        let batch = match std::mem::replace(&mut process.log_writer, Thread::Rung) {
            Thread::Busy(batch) => batch,
            // The sync returned earlier, when the disks were calmed.
            other => {
                process.log_writer = other;
                return;
            }
        };
        let machine = &mut self.nodes[node];
        let before = machine.disk.stats();
        let seq = match machine.disk.write(batch) {
            Ok(seq) => seq,
            Err(e) => return self.fail_stop(node, &e),
        };
        let after = machine.disk.stats();
        if after.segments_reused > before.segments_reused {
            self.report.borrow_mut().mark(Mark::SegmentReused);
        }
        self.oracle.check_durable(node, &machine.disk);
        self.line(|| format!("n{} synced write {seq}", node + 1));
        self.tempt_figure_8();
        if self.nodes[node].process.is_none() {
            return;
        }
        self.step(node, |state, now| {
            state.raft.handle_log_grown(after.used - before.used);
            state.raft.handle_persisted(seq, now);
        });
        let at = self.now + self.nodes[node].clock.duration_to_world(SEAL_AFTER_US);
        self.process(node).seal_at = at;
        self.plan_node_at(node, at, NodeEvent::Seal { at });
        self.wake_housekeeper(node);
        self.run_log_writer(node);
    }

    /// Two snapshots hold what the log has through this index.
    fn cut_log(&mut self, node: NodeIndex, index: Index) {
        match self.nodes[node].disk.cut(index) {
            Ok(0) => {}
            Ok(segments) => {
                self.line(|| format!("n{} gives {segments} segments up, through {index}", node + 1));
                self.mark(Mark::LogCut);
            }
            Err(e) => return self.fail_stop(node, &e),
        }
        self.wake_housekeeper(node);
        let at = self.now + self.wake_latency();
        self.process(node).log_writer = Thread::Rung;
        self.plan_node_at(node, at, NodeEvent::LogWriter);
    }

    fn seal(&mut self, node: NodeIndex, at: u64) {
        let process = self.process(node);
        if process.seal_at == at && process.log_writer == Thread::Asleep && self.nodes[node].disk.needs_seal()
        {
            let before = self.nodes[node].disk.stats();
            match self.nodes[node].disk.seal() {
                Ok(()) => {
                    let grown = self.nodes[node].disk.stats().used - before.used;
                    self.step(node, |state, _| state.raft.handle_log_grown(grown));
                    self.mark(Mark::Sealed);
                }
                Err(e) => self.fail_stop(node, &e),
            }
        }
    }

    fn wake_housekeeper(&mut self, node: NodeIndex) {
        if self.nodes[node].disk.spare_is_due() {
            let at = self.now + self.wake_latency();
            self.plan_node_at(node, at, NodeEvent::Housekeeper);
        }
    }

    fn run_applier(&mut self, node: NodeIndex) {
        let Some(apply) = self.step(node, |state, _| state.raft.poll_apply()) else {
            self.process(node).applier = Thread::Asleep;
            return;
        };
        self.process(node).applier = Thread::Busy(apply);
        let usual = if self.nemesis.is_active() { self.swarm.apply_max_us } else { 1 };
        let (least, most) = self.nodes[node].slow_apply_us.map_or((0, usual), |slow| (slow / 2, slow));
        let latency = self.wake_latency() + self.schedule_rng.u64(least..=most);
        self.plan_node_at(node, self.now + latency, NodeEvent::Applied);
    }

    fn end_apply(&mut self, node: NodeIndex) {
        let process = self.nodes[node].process.as_mut().expect("it runs");
        let Thread::Busy(apply) = std::mem::replace(&mut process.applier, Thread::Rung) else {
            unreachable!("the applier has work in its hands");
        };
        let entries = match apply {
            Apply::Entries(entries) => entries,
            Apply::Read(wanted) => match process.applied_log.read(&wanted) {
                Ok(entries) => {
                    self.oracle.check_log_read(node, &wanted, &entries);
                    self.mark(Mark::AppliedFromDisk);
                    entries
                }
                Err(_) if self.step(node, |state, _| state.raft.handle_apply_read_failed()) => {
                    return self.run_applier(node);
                }
                Err(e) => {
                    let is_excused = self.nemesis.is_active() || self.nodes[node].disk.has_rot();
                    assert!(is_excused, "n{} cannot read {wanted:?} back in peace: {e}", node + 1);
                    return self.fail_stop(node, &e);
                }
            },
            Apply::Restore(last) => {
                self.restore(node, last);
                if !self.look_for_removal(node) {
                    self.run_applier(node);
                }
                return;
            }
        };
        let changes = entries.iter().any(|entry| entry.kind() == EntryKind::Membership);
        let mut applied = Vec::new();
        for entry in entries.chunks(1) {
            let process = self.nodes[node].process.as_mut().expect("it runs");
            let outcomes = Applier::step(entry, &mut process.kv);
            applied.extend(outcomes.unwrap_or_else(|e| panic!("P13: n{} cannot follow: {e}", node + 1)));
            self.oracle.check_applied(node, &process.kv);
        }
        self.see_leases(node);
        self.note_watchers(node);
        self.step(node, |state, _| state.handle_applied(applied));
        if changes && self.look_for_removal(node) {
            return;
        }
        self.run_applier(node);
    }

    // ---- replicators, forwarder, read-asker ------------------------------------------------------------------------------

    fn run_replicator(&mut self, node: NodeIndex, peer: NodeIndex, at: u64) {
        let replicator = self.process(node).replicators.get(&peer);
        if !matches!(replicator, Some(Replicator::Asleep { until, .. }) if *until == at) {
            return;
        }
        let to = self.nodes[peer].id;
        match self.step(node, |state, now| state.raft.poll_rpc(to, now)) {
            PollRpc::Send(request, ticket) => {
                self.oracle.check_request(&request, &self.nodes[node].disk);
                self.process(node).replicators.insert(peer, Replicator::Calling);
                let request = match request {
                    RpcRequest::RequestVote(request) => PeerRequest::RequestVote(request),
                    RpcRequest::AppendEntries(request) => PeerRequest::AppendEntries(request),
                    RpcRequest::TimeoutNow(request) => PeerRequest::TimeoutNow(request),
                };
                let timeout = Duration::from_micros(self.swarm.election_timeout_us);
                self.call(node, peer, request, Caller::Replicator(ticket), timeout);
            }
            PollRpc::WaitUntil(time, awaits) => {
                let until = self.nodes[node].clock.to_world(time).max(self.now + 1);
                self.process(node).replicators.insert(peer, Replicator::Asleep { until, awaits });
                self.plan_node_at(node, until, NodeEvent::Replicator { peer, at: until });
            }
            PollRpc::Stop => {
                let process = self.process(node);
                process.replicators.remove(&peer);
                // The end of the replicator wakes the sender, which has the same reason to end.
                if let Some(Sender::Asleep { until }) = process.senders.get_mut(&peer) {
                    *until = at;
                    self.run_sender(node, peer, at);
                }
            }
        }
    }

    fn run_forwarder(&mut self, node: NodeIndex) {
        let outgoing = self.step(node, |state, now| state.poll_forward(now));
        self.process(node).forwarder = self.send_batch(node, outgoing, Caller::Forwarder);
    }

    fn run_read_asker(&mut self, node: NodeIndex) {
        let outgoing = self.step(node, |state, now| state.poll_ask(now));
        self.process(node).read_asker = self.send_batch(node, outgoing, Caller::ReadAsker);
    }

    fn send_batch(
        &mut self,
        node: NodeIndex,
        outgoing: Option<Outgoing>,
        caller: fn(Vec<u64>) -> Caller,
    ) -> Thread<()> {
        let Some(Outgoing { ids, to, request, timeout, .. }) = outgoing else { return Thread::Asleep };
        let peer = machine_of(to.member_id);
        self.call(node, peer, request, caller(ids), timeout);
        Thread::Busy(())
    }

    pub fn call(
        &mut self,
        node: NodeIndex,
        peer: NodeIndex,
        request: PeerRequest,
        caller: Caller,
        timeout: Duration,
    ) {
        self.line(|| format!("n{} -> n{}: {}", node + 1, peer + 1, describe(&request)));
        self.send_rpc(node, peer, request, caller, timeout);
    }

    fn end_call_of(
        &mut self,
        node: NodeIndex,
        peer: NodeIndex,
        caller: Caller,
        result: Result<PeerReply, PeerError>,
    ) {
        self.line(|| format!("n{} <- n{}: {result:?}", node + 1, peer + 1));
        match caller {
            Caller::Replicator(ticket) => {
                let id = self.nodes[peer].id;
                match &result {
                    Err(PeerError::Uninitialized { member_id, .. }) if *member_id == id => {
                        self.send_genesis(node, peer);
                    }
                    Err(PeerError::Removed) => return self.end_removed(node),
                    _ => {}
                }
                if let Ok(PeerReply::AppendEntries(reply)) = &result
                    && reply.term == ticket.term()
                {
                    let answered = Answered { term: reply.term, sent_at: ticket.sent_at() };
                    self.process(node).answered.insert(id, answered);
                }
                let result = match result {
                    Ok(PeerReply::RequestVote(reply)) => Ok(RpcReply::RequestVote(reply)),
                    Ok(PeerReply::AppendEntries(reply)) => Ok(RpcReply::AppendEntries(reply)),
                    Ok(PeerReply::TimeoutNow(reply)) => Ok(RpcReply::TimeoutNow(reply)),
                    _ => Err(RpcFailed),
                };
                self.step(node, |state, now| state.raft.handle_rpc_result(ticket, result, now));
                let until = self.now;
                let awaits = Awaits::Everything;
                self.process(node).replicators.insert(peer, Replicator::Asleep { until, awaits });
                self.run_replicator(node, peer, until);
            }
            Caller::Operator(what) => {
                if let Ok(PeerReply::Administer(result)) = result {
                    self.judge_administration(&what, &result);
                }
            }
            Caller::Sender(ticket) => self.end_piece(node, peer, ticket, result),
            Caller::Forwarder(ids) => {
                self.step(node, |state, now| state.handle_forwarded(&ids, result, now));
                self.run_forwarder(node);
            }
            Caller::ReadAsker(ids) => {
                self.step(node, |state, now| state.handle_asked(&ids, result, now));
                self.run_read_asker(node);
            }
        }
    }

    // ---- the one place that changes a core -------------------------------------------------------------------------------

    /// Changes the state of a process, checks everything, answers, and wakes the threads that have something to do.
    pub fn step<T>(&mut self, node: NodeIndex, change: impl FnOnce(&mut State, Time) -> T) -> T {
        let now = self.nodes[node].clock.show(self.now);
        let process = self.process(node);
        let before = process.state.raft.watermarks();
        let (value, effects) = process.state.step(now, |state| change(state, now));
        let after = process.state.raft.watermarks();
        {
            let mut report = self.report.borrow_mut();
            for number in
                [node as u64, after.term, after.committed.index, after.last.index, after.last_applied]
            {
                report.feed(number);
            }
        }
        let disks: Vec<_> = self.nodes.iter().map(|machine| &machine.disk).collect();
        if after.membership_index < before.membership_index {
            self.mark(Mark::MembershipRolledBack);
        }
        let raft = &self.nodes[node].process.as_ref().expect("it runs").state.raft;
        let marks = self.oracle.observe(node, raft, &before, &after, &disks, self.now);
        marks.into_iter().for_each(|mark| self.mark(mark));
        if (before.role, before.term) == (RoleKind::Leader, after.term)
            && before.membership_index < after.membership_index
        {
            self.check_needed_are_alive(node, now);
        }
        self.carry_out(node, effects);
        value
    }

    fn carry_out(&mut self, node: NodeIndex, effects: Effects) {
        for note in effects.notes {
            self.line(|| note.to_string());
            self.mark_decision(node, &note.what);
        }
        for (leader, call) in effects.cancels {
            self.cancel_calls(node, machine_of(leader), call);
        }
        if effects.membership_changed {
            self.ensure_peer_threads(node, &effects.membership);
        }
        effects.finished.into_iter().for_each(|finished| finished.answer());
        self.empty_mailbox(node);
        self.wake(node, effects.wakeups);
    }

    fn wake(&mut self, node: NodeIndex, wakeups: Wakeups) {
        let at = self.now + self.wake_latency();
        let late = self.timer_lateness(node);
        let process = self.process(node);
        let mut due = Vec::new();
        if wakeups.log_writer && process.log_writer == Thread::Asleep {
            process.log_writer = Thread::Rung;
            due.push(NodeEvent::LogWriter);
        }
        if wakeups.applier && process.applier == Thread::Asleep {
            process.applier = Thread::Rung;
            due.push(NodeEvent::Applier);
        }
        if wakeups.forwarder && process.forwarder == Thread::Asleep {
            process.forwarder = Thread::Rung;
            due.push(NodeEvent::Forwarder);
        }
        if wakeups.read_asker && process.read_asker == Thread::Asleep {
            process.read_asker = Thread::Rung;
            due.push(NodeEvent::ReadAsker);
        }
        if wakeups.timer && at + late < process.timer_at {
            let at = at + late;
            process.timer_at = at;
            due.push(NodeEvent::Timer { at });
        }
        if wakeups.snapshotter
            && let Snapshotter::Asleep | Snapshotter::Naming(..) = process.snapshotter
        {
            due.push(NodeEvent::Snapshotter);
        }
        due.into_iter().for_each(|what| self.plan_node_at(node, at, what));
        for peer in (0..self.nodes.len()).filter(|&peer| peer != node) {
            if wakeups.replicators.is_none() && !wakeups.senders {
                break;
            }
            let at = self.now + self.wake_latency();
            if let Some(event) = wakeups.replicators
                && let Some(Replicator::Asleep { until, awaits }) =
                    self.process(node).replicators.get_mut(&peer)
                && *awaits >= event
                && *until > at
            {
                *until = at;
                self.plan_node_at(node, at, NodeEvent::Replicator { peer, at });
            }
            if wakeups.senders
                && let Some(Sender::Asleep { until }) = self.process(node).senders.get_mut(&peer)
                && *until > at
            {
                *until = at;
                self.plan_node_at(node, at, NodeEvent::Sender { peer, at });
            }
        }
    }

    fn is_absent_from_own(&self, node: NodeIndex) -> bool {
        let (id, process) = (self.nodes[node].id, &self.nodes[node].process);
        process.as_ref().is_some_and(|process| process.state.raft.membership().get(id).is_none())
    }

    fn mark_decision(&mut self, node: NodeIndex, what: &Decision) {
        self.mark_failover(node, what);
        let mark = match what {
            Decision::LostLeader(leader) => return self.take_word(node, *leader),
            Decision::Elected(..) => {
                self.hear_of_election();
                if self.nodes[node].protocol == 1 && self.nodes.iter().any(|m| m.protocol == 2) {
                    self.mark(Mark::OldProgramLed);
                }
                Mark::Elected
            }
            Decision::Truncated(..) => Mark::ConflictTruncation,
            Decision::Backtracked(..) => Mark::Backtracked,
            Decision::RefusedVote(_, VoteRefusal::LeaderIsAlive) => Mark::RefusedByStickiness,
            Decision::RefusedVote(_, VoteRefusal::LogBehind(_)) => Mark::RefusedLogBehind,
            Decision::RefusedVote(_, VoteRefusal::VotedFor(_)) => {
                let machine = &self.nodes[node];
                let term = machine.process.as_ref().map_or(0, |p| p.state.raft.term());
                if machine.voted_before_crash_in == term {
                    self.mark(Mark::RefusedVotedBeforeCrash);
                }
                Mark::RefusedAlreadyVoted
            }
            Decision::SteppedDown(StepDownReason::NoQuorum) => Mark::CheckQuorumStepDown,
            Decision::SteppedDown(StepDownReason::HigherTerm(_)) => Mark::HigherTermStepDown,
            Decision::SteppedDown(StepDownReason::Removed) => Mark::RemovedLeaderStepDown,
            Decision::Promoted(_) => Mark::PromotedByItself,
            Decision::TransferStarted(to) => {
                let now = self.nodes[node].clock.show(self.now);
                let (successor, known) = (*to, self.is_known_to_be_alive(node, *to, now));
                assert!(known, "n{} hands over to {successor}, which has not answered it", node + 1);
                return;
            }
            Decision::ProposedVersion(_) => Mark::VersionRaised,
            Decision::TransferReceived(_) => Mark::TransferCampaign,
            Decision::TransferFailed(_) => Mark::TransferInVain,
            Decision::PreCampaign if self.is_absent_from_own(node) => Mark::AbsentMemberCampaigned,
            Decision::SteppedDown(StepDownReason::DiskStalled) => Mark::DiskStallStepDown,
            Decision::DiskRecovered => Mark::DiskRecovered,
            Decision::AppendNotTaken(_) => Mark::AppendNotTaken,
            Decision::PeerLostEntries(peer, ..) => panic!("{peer} lost entries it had acknowledged"),
            Decision::RefusedTerm(from, term) => panic!("term {term} of {from} was refused as absurd"),
            _ => return,
        };
        self.mark(mark);
    }
}
