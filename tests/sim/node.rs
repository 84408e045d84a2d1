//! One simulated member: the real core, log writer, applier and state machine, driven as the threads of a node drive
//! them. A "thread" here is an event that wakes late, works for a while, and goes on as its loop would; it is rung by the
//! same comparison of watermarks as in production, so a bell that is not rung is found here.

use std::collections::BTreeMap;
use std::time::Duration;

use dkv::node::Applier;
use dkv::raft::{
    self, AfterSync, AppendEntriesReply, AppendEntriesRequest, AppendOutcome, Apply, Decision, Entry,
    MemberId, PollRpc, Raft, RaftConfig, RequestVoteReply, RequestVoteRequest, Restored, RpcFailed, RpcReply,
    RpcRequest, Settled, StepDownReason, Ticket, Time, VoteRefusal, Watermarks, WriteBatch,
};
use dkv::store::Kv;

use crate::client::Requests;
use crate::disk::MachineDisk;
use crate::nemesis::Act;
use crate::net::CallId;
use crate::report::Mark;
use crate::swarm::{Stream, Swarm, exponential, mix};
use crate::world::{Event, NodeIndex, World};

/// As in production.
const SEAL_AFTER_US: u64 = 100_000;

/// What a thread of a process does next.
pub enum NodeEvent {
    /// The timer looks at its deadline.
    Timer { at: u64 },
    /// A held reply may be due.
    Hold,
    /// The log writer looks for work.
    LogWriter,
    /// The batch in its hands is synced.
    Synced,
    /// The log writer seals the log unless there is work.
    Seal { at: u64 },
    /// The housekeeper prepares a piece of the next segment.
    Housekeeper,
    /// The applier looks for work.
    Applier,
    /// The entries in its hands are applied.
    Applied,
    /// The replicator for `peer` looks for work.
    Replicator { peer: NodeIndex, at: u64 },
    /// The replicator's call is over.
    RpcResult { ticket: Ticket, result: Result<RpcReply, RpcFailed> },
}

/// The monotonic clock of a machine: starts anywhere, runs fast or slow.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset: u64,
    rate_ppm: u64,
}

impl Clock {
    /// What it shows at this time of the world.
    pub fn show(&self, world: u64) -> Time {
        Time(self.offset + (u128::from(world) * u128::from(self.rate_ppm) / 1_000_000) as u64)
    }

    /// When it shows `time` or more.
    pub fn to_world(self, time: Time) -> u64 {
        if time == Time::NEVER {
            return u64::MAX;
        }
        self.duration_to_world(time.0.saturating_sub(self.offset))
    }

    /// How long the world takes until this clock has run for so long.
    pub fn duration_to_world(self, us: u64) -> u64 {
        (u128::from(us) * 1_000_000).div_ceil(u128::from(self.rate_ppm)) as u64
    }
}

/// A machine: its disk and clock stay when its process dies.
pub struct Machine {
    pub id: MemberId,
    pub clock: Clock,
    pub disk: MachineDisk,
    /// Counts processes.
    pub life: u64,
    pub process: Option<Process>,
    /// While stopped, as by SIGSTOP: what has waited since.
    stopped: Option<Vec<Event>>,
    disk_rng: fastrand::Rng,
    /// Syncs take this long on average instead of the ordinary time.
    slow_sync_us: Option<u64>,
    sync_mean_us: u64,
    /// Its process dies, or the machine loses power, in the middle of its next write.
    pub doom: Option<Act>,
    /// The term of the vote that recovery found: for a coverage mark.
    voted_before_crash_in: u64,
}

impl Machine {
    /// Where it stands, for people.
    pub fn describe(&self) -> String {
        let Some(process) = &self.process else { return format!("{} is down", self.id) };
        let raft = &process.raft;
        format!(
            "{} is a {} of term {} with a log to {}, durable {}, committed {}, applied {}",
            self.id,
            raft.role_kind().as_str(),
            raft.term(),
            raft.last(),
            raft.persisted_index(),
            raft.commit_index(),
            raft.last_applied()
        )
    }

    /// Whether the process is stopped.
    pub fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Keeps an event for the time when the stopped process goes on.
    pub fn backlog(&mut self, event: Event) {
        self.stopped.as_mut().expect("the process is stopped").push(event);
    }

    fn sync_latency(&mut self) -> u64 {
        exponential(&mut self.disk_rng, self.slow_sync_us.unwrap_or(self.sync_mean_us))
    }
}

/// What dies in a crash.
pub struct Process {
    pub raft: Raft,
    pub kv: Kv,
    pub requests: Requests,
    parked: Vec<Parked>,
    timer_at: u64,
    log_writer: Thread<WriteBatch>,
    applier: Thread<Vec<Entry>>,
    /// When the log writer seals the log if nothing is written before.
    seal_at: u64,
    replicators: BTreeMap<NodeIndex, Replicator>,
}

/// A thread that loops: wait for the bell, take work, do it.
enum Thread<T> {
    Asleep,
    Rung,
    Busy(T),
}

enum Replicator {
    /// Wakes at this time of the world, or when rung.
    Asleep { until: u64 },
    /// Waits for the result of its call.
    Calling,
}

/// A reply that waits for the disk.
struct Parked {
    to: NodeIndex,
    call: Option<CallId>,
    /// The term in which it was made.
    term: u64,
    reply: ParkedReply,
}

enum ParkedReply {
    Vote(RequestVoteRequest, AfterSync<RequestVoteReply>),
    Append(AppendEntriesRequest, AfterSync<AppendEntriesReply>),
}

/// What a finished step leaves to be sent.
struct Outgoing {
    to: NodeIndex,
    call: Option<CallId>,
    /// The term in which it was made.
    term: u64,
    reply: OutgoingReply,
}

enum OutgoingReply {
    Vote(RequestVoteRequest, RequestVoteReply),
    Append(AppendEntriesRequest, AppendEntriesReply),
}

fn config(swarm: &Swarm, me: MemberId, life: u64) -> RaftConfig {
    RaftConfig {
        me,
        election_timeout: Duration::from_micros(swarm.election_timeout_us),
        heartbeat: Duration::from_micros(swarm.heartbeat_us),
        append_hold: Duration::from_micros(swarm.heartbeat_us),
        disk_stall: Duration::from_micros(swarm.disk_stall_us),
        seed: mix(swarm.seed ^ mix(Stream::Elections as u64) ^ me.0 ^ (life << 8)),
        max_append_bytes: swarm.max_append_bytes,
        max_unpersisted_bytes: swarm.max_unpersisted_bytes,
    }
}

impl World {
    /// Puts a founded, stopped cluster into the world and starts every member.
    pub fn found(&mut self) {
        let found = self.oracle.founding_entry(&self.swarm);
        let mut clocks = Stream::Clock.rng(self.swarm.seed);
        for node in 0..self.swarm.voters {
            let rate_ppm = if self.swarm.clocks_drift { clocks.u64(900_000..=1_100_000) } else { 1_000_000 };
            let id = MemberId(node as u64 + 1);
            self.nodes.push(Machine {
                id,
                clock: Clock { offset: clocks.u64(0..1_000_000_000), rate_ppm },
                disk: MachineDisk::found(self.swarm.seed, id, self.swarm.segment_bytes, &found),
                life: 0,
                process: None,
                stopped: None,
                disk_rng: fastrand::Rng::with_seed(mix(self.swarm.seed ^ (Stream::Disk as u64) << 32 ^ id.0)),
                slow_sync_us: None,
                doom: None,
                sync_mean_us: self.swarm.sync_mean_us,
                voted_before_crash_in: 0,
            });
        }
        for node in 0..self.swarm.voters {
            self.start(node);
        }
    }

    /// Starts the process of a machine on what recovery finds.
    pub fn start(&mut self, node: NodeIndex) {
        let voters = self.swarm.voters;
        let machine = &mut self.nodes[node];
        let mut marks = Vec::new();
        let recovered = machine.disk.recover(&mut marks);
        let hard_state = recovered.hard_state;
        let (entries, last) = (recovered.entries.clone(), recovered.last());
        machine.voted_before_crash_in = if hard_state.voted_for.is_some() { hard_state.term } else { 0 };
        let now = machine.clock.show(self.now);
        let restored = Restored { hard_state, entries, ..Restored::default() };
        let raft = Raft::new(config(&self.swarm, machine.id, machine.life), restored, now);
        self.oracle.check_durable(node, &machine.disk);
        let timer_at = machine.clock.to_world(raft.poll_timeout());
        let peers = (0..voters).filter(|&peer| peer != node);
        self.oracle.started(node, &raft);
        machine.process = Some(Process {
            raft,
            kv: Kv::new(self.swarm.settings.clone()),
            requests: Requests::default(),
            parked: Vec::new(),
            timer_at,
            log_writer: Thread::Asleep,
            applier: Thread::Asleep,
            seal_at: u64::MAX,
            replicators: peers.map(|peer| (peer, Replicator::Asleep { until: u64::MAX })).collect(),
        });
        marks.into_iter().for_each(|mark| self.mark(mark));
        self.line(|| {
            format!(
                "n{} starts: term {} voted {:?} log {last}",
                node + 1,
                hard_state.term,
                hard_state.voted_for
            )
        });
        self.plan_node_at(node, timer_at, NodeEvent::Timer { at: timer_at });
    }

    /// Ends the process of a machine. What it was writing is partly done; `power` says whether the machine goes too.
    pub fn crash(&mut self, node: NodeIndex, power: bool) {
        let machine = &mut self.nodes[node];
        let Some(process) = machine.process.take() else { return };
        machine.life += 1;
        machine.stopped = None;
        let hard_state = machine.disk.durable().hard_state;
        if hard_state.voted_for.is_some_and(|v| v != machine.id) && hard_state.term == process.raft.term() {
            self.mark(Mark::VotePersistedThenCrash);
        }
        let machine = &mut self.nodes[node];
        let in_flight = match process.log_writer {
            Thread::Busy(batch) => batch,
            Thread::Asleep | Thread::Rung => WriteBatch::default(),
        };
        let what = machine.disk.crash(in_flight, power);
        self.line(|| format!("n{} {}: {what:?}", node + 1, if power { "loses power" } else { "dies" }));
        self.mark(if power { Mark::PowerLoss } else { Mark::ProcessDeath });
        what.marks().into_iter().for_each(|mark| self.mark(mark));
        self.report.borrow_mut().counters.crashes += 1;
        self.break_connections(process.requests);
    }

    /// Stops a process.
    pub fn pause(&mut self, node: NodeIndex) {
        if self.nodes[node].process.is_some() {
            self.nodes[node].stopped.get_or_insert_default();
            self.mark(Mark::Paused);
            self.line(|| format!("n{} is stopped", node + 1));
        }
    }

    /// Lets a stopped process go on: all that has waited happens now, in any order, as its threads race.
    pub fn resume(&mut self, node: NodeIndex) {
        let Some(mut backlog) = self.nodes[node].stopped.take() else { return };
        self.line(|| format!("n{} goes on", node + 1));
        self.schedule_rng.shuffle(&mut backlog);
        for event in backlog {
            self.plan(0, event);
        }
    }

    /// Makes a disk slow, or quick again. A sync under way goes on as slowly as it began.
    pub fn set_sync_mean(&mut self, node: NodeIndex, mean_us: Option<u64>) {
        self.nodes[node].slow_sync_us = mean_us;
        self.line(|| format!("n{} disk: mean sync {mean_us:?}", node + 1));
    }

    /// Ends every disturbance of the machines, and lets syncs under way return at once.
    pub fn calm_machines(&mut self, sync_mean_us: u64) {
        for node in 0..self.nodes.len() {
            self.resume(node);
            let machine = &mut self.nodes[node];
            machine.slow_sync_us = None;
            machine.sync_mean_us = sync_mean_us;
            if self.nodes[node].process.is_none() {
                self.start(node);
            }
            let is_busy = |p: &Process| matches!(p.log_writer, Thread::Busy(_));
            if self.nodes[node].process.as_ref().is_some_and(is_busy) {
                self.plan_node_at(node, self.now + 1, NodeEvent::Synced);
            }
        }
    }

    fn plan_node_at(&mut self, node: NodeIndex, at: u64, what: NodeEvent) {
        if at == u64::MAX {
            return;
        }
        let life = self.nodes[node].life;
        self.plan_at(at, Event::Node { node, life, what });
    }

    /// How long a thread takes to wake.
    fn wake_latency(&mut self) -> u64 {
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
            NodeEvent::Hold => self.step(node, |_, _| ()),
            NodeEvent::LogWriter => self.run_log_writer(node),
            NodeEvent::Synced => self.end_sync(node),
            NodeEvent::Seal { at } => self.seal(node, at),
            NodeEvent::Housekeeper => {
                self.nodes[node].disk.prepare_spare();
                self.ring_housekeeper(node);
            }
            NodeEvent::Applier => self.run_applier(node),
            NodeEvent::Applied => self.end_apply(node),
            NodeEvent::Replicator { peer, at } => self.run_replicator(node, peer, at),
            NodeEvent::RpcResult { ticket, result } => {
                let peer = ticket.peer().0 as usize - 1;
                self.line(|| format!("n{} <- n{}: {result:?}", node + 1, peer + 1));
                self.step(node, |process, now| process.raft.handle_rpc_result(ticket, result, now));
                let until = self.now;
                self.process(node).replicators.insert(peer, Replicator::Asleep { until });
                self.run_replicator(node, peer, until);
            }
        }
    }

    fn process(&mut self, node: NodeIndex) -> &mut Process {
        self.nodes[node].process.as_mut().expect("only running processes act")
    }

    // ---- the threads -------------------------------------------------------------------------------------------------

    fn run_timer(&mut self, node: NodeIndex, at: u64) {
        if self.process(node).timer_at != at {
            return;
        }
        let now = self.nodes[node].clock.show(self.now);
        if now >= self.process(node).raft.poll_timeout() {
            self.step(node, |process, now| process.raft.handle_timeout(now));
        }
        let clock = self.nodes[node].clock;
        let process = self.process(node);
        // Never at once again: a deadline that has passed and stays is a bug that should show as one.
        let at = clock.to_world(process.raft.poll_timeout()).max(self.now + 1);
        self.process(node).timer_at = at;
        self.plan_node_at(node, at, NodeEvent::Timer { at });
    }

    fn run_log_writer(&mut self, node: NodeIndex) {
        let batch = self.process(node).raft.poll_write();
        if batch.is_empty() {
            self.process(node).log_writer = Thread::Asleep;
            return;
        }
        self.process(node).log_writer = Thread::Busy(batch);
        let latency = self.nodes[node].sync_latency();
        if let Some(act) = self.nodes[node].doom.take() {
            self.plan(latency / 2, Event::Nemesis(act));
        }
        self.plan_node_at(node, self.now + latency, NodeEvent::Synced);
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
        let seq = machine.disk.write(batch);
        self.oracle.check_durable(node, &machine.disk);
        self.line(|| format!("n{} synced write {seq}", node + 1));
        self.step(node, |process, now| process.raft.handle_persisted(seq, now));
        let at = self.now + self.nodes[node].clock.duration_to_world(SEAL_AFTER_US);
        self.process(node).seal_at = at;
        self.plan_node_at(node, at, NodeEvent::Seal { at });
        self.ring_housekeeper(node);
        self.run_log_writer(node);
    }

    fn seal(&mut self, node: NodeIndex, at: u64) {
        let process = self.process(node);
        if process.seal_at == at
            && matches!(process.log_writer, Thread::Asleep)
            && self.nodes[node].disk.needs_seal()
        {
            self.nodes[node].disk.seal();
            self.mark(Mark::Sealed);
        }
    }

    fn ring_housekeeper(&mut self, node: NodeIndex) {
        if self.nodes[node].disk.spare_is_due() {
            let at = self.now + self.wake_latency();
            self.plan_node_at(node, at, NodeEvent::Housekeeper);
        }
    }

    fn run_applier(&mut self, node: NodeIndex) {
        let Some(Apply::Entries(entries)) = self.process(node).raft.poll_apply() else {
            self.process(node).applier = Thread::Asleep;
            return;
        };
        self.process(node).applier = Thread::Busy(entries);
        let latency = self.wake_latency();
        self.plan_node_at(node, self.now + latency, NodeEvent::Applied);
    }

    fn end_apply(&mut self, node: NodeIndex) {
        let process = self.process(node);
        let Thread::Busy(entries) = std::mem::replace(&mut process.applier, Thread::Rung) else {
            unreachable!("the applier has entries in its hands");
        };
        let process = self.nodes[node].process.as_mut().expect("it runs");
        let mut applied = Vec::new();
        for entry in entries.chunks(1) {
            applied.extend(Applier::step(entry, &mut process.kv));
            self.oracle.check_applied(node, &process.kv);
        }
        let last = entries.last().expect("never empty").index();
        self.step(node, |process, _| {
            process.requests.handle_applied(applied);
            process.raft.handle_applied(last);
        });
        self.run_applier(node);
    }

    fn run_replicator(&mut self, node: NodeIndex, peer: NodeIndex, at: u64) {
        if !matches!(self.process(node).replicators[&peer], Replicator::Asleep { until } if until == at) {
            return;
        }
        let to = self.nodes[peer].id;
        match self.step(node, |process, now| process.raft.poll_rpc(to, now)) {
            PollRpc::Send(request, ticket) => {
                self.line(|| format!("n{} -> n{}: {}", node + 1, peer + 1, describe(&request)));
                self.oracle.check_request(&request, &self.nodes[node].disk);
                self.process(node).replicators.insert(peer, Replicator::Calling);
                self.send_rpc(node, peer, request, ticket);
            }
            PollRpc::WaitUntil(time) => {
                let until = self.nodes[node].clock.to_world(time).max(self.now + 1);
                self.process(node).replicators.insert(peer, Replicator::Asleep { until });
                self.plan_node_at(node, until, NodeEvent::Replicator { peer, at: until });
            }
            PollRpc::Stop => panic!("n{} has no peer n{} any more", node + 1, peer + 1),
        }
    }

    // ---- requests of peers ---------------------------------------------------------------------------------------------

    /// A request arrives at a running process.
    pub fn handle_request(
        &mut self,
        node: NodeIndex,
        from: NodeIndex,
        call: Option<CallId>,
        request: RpcRequest,
    ) {
        let (RpcRequest::RequestVote(RequestVoteRequest { term, .. })
        | RpcRequest::AppendEntries(AppendEntriesRequest { term, .. })) = &request;
        if *term < self.process(node).raft.term() {
            self.mark(Mark::OldTermRequest);
        }
        self.line(|| format!("n{} takes from n{}: {}", node + 1, from + 1, describe(&request)));
        self.step(node, |process, now| {
            let reply = match request {
                RpcRequest::RequestVote(request) => {
                    let waiting = process.raft.handle_request_vote(request.clone(), now);
                    ParkedReply::Vote(request, waiting)
                }
                RpcRequest::AppendEntries(request) => {
                    request.validate().expect("a leader's request is well formed");
                    let waiting = process.raft.handle_append_entries(request.clone(), now);
                    ParkedReply::Append(request, waiting)
                }
            };
            process.parked.push(Parked { to: from, call, term: process.raft.term(), reply });
        });
        let hold = self.process(node).parked.last().and_then(|parked| match &parked.reply {
            ParkedReply::Append(_, waiting) => waiting.hold_until(),
            ParkedReply::Vote(..) => None,
        });
        if let Some(until) = hold {
            let at = self.nodes[node].clock.to_world(until);
            self.plan_node_at(node, at, NodeEvent::Hold);
        }
    }

    // ---- the one place that changes a core -------------------------------------------------------------------------------

    /// Changes the state of a process, checks everything, and rings who has something to do.
    pub fn step<T>(&mut self, node: NodeIndex, change: impl FnOnce(&mut Process, Time) -> T) -> T {
        let now = self.nodes[node].clock.show(self.now);
        let process = self.process(node);
        let before = process.raft.watermarks();
        let value = change(process, now);
        raft::check_step(&before, &process.raft);
        raft::check(&process.raft);
        self.finish_step(node, &before, now);
        value
    }

    fn finish_step(&mut self, node: NodeIndex, before: &Watermarks, now: Time) {
        let process = self.process(node);
        let after = process.raft.watermarks();
        let notes = process.raft.poll_notes();
        let outbox = process.settle(now);
        let reads = process.raft.poll_reads();
        let answers = process.requests.finish_step(before, &after, reads, &process.kv);
        for note in notes {
            self.line(|| note.to_string());
            self.mark_decision(node, &note.what);
        }
        {
            let mut report = self.report.borrow_mut();
            for number in
                [node as u64, after.term, after.committed.index, after.last.index, after.last_applied]
            {
                report.feed(number);
            }
        }
        self.observe(node, before, &after);
        for reply in outbox {
            self.send(node, reply);
        }
        for answer in answers {
            self.answer_client(node, answer);
        }
        self.ring(node, before, &after);
    }

    fn observe(&mut self, node: NodeIndex, before: &Watermarks, after: &Watermarks) {
        let disks: Vec<&MachineDisk> = self.nodes.iter().map(|machine| &machine.disk).collect();
        let raft = &self.nodes[node].process.as_ref().expect("it runs").raft;
        let marks = self.oracle.observe(node, raft, before, after, &disks);
        marks.into_iter().for_each(|mark| self.mark(mark));
    }

    fn send(&mut self, node: NodeIndex, outgoing: Outgoing) {
        let Outgoing { to, call, term, reply } = outgoing;
        let disk = &self.nodes[node].disk;
        let reply = match reply {
            OutgoingReply::Vote(request, reply) => {
                self.oracle.check_vote_reply(&request, &reply, disk);
                RpcReply::RequestVote(reply)
            }
            OutgoingReply::Append(request, reply) => {
                self.oracle.check_append_reply(&request, &reply, disk);
                if reply.term != term {
                    self.mark(Mark::ReplyOvertakenByTerm);
                }
                if let AppendOutcome::Accepted { received, match_index } = reply.outcome
                    && match_index < received
                {
                    self.mark(Mark::HeldAppendAnsweredEarly);
                }
                RpcReply::AppendEntries(reply)
            }
        };
        if let Some(call) = call {
            self.line(|| format!("n{} answers n{}: {reply:?}", node + 1, to + 1));
            self.send_reply(node, to, call, reply);
        }
    }

    fn ring(&mut self, node: NodeIndex, before: &Watermarks, after: &Watermarks) {
        let latency = self.wake_latency();
        let at = self.now + latency;
        let process = self.process(node);
        if before.wakes_log_writer(after) && matches!(process.log_writer, Thread::Asleep) {
            process.log_writer = Thread::Rung;
            self.plan_node_at(node, at, NodeEvent::LogWriter);
        }
        let process = self.process(node);
        if before.wakes_applier(after) && matches!(process.applier, Thread::Asleep) {
            process.applier = Thread::Rung;
            self.plan_node_at(node, at, NodeEvent::Applier);
        }
        if before.wakes_replicators(after) {
            for peer in (0..self.nodes.len()).filter(|&peer| peer != node) {
                let at = self.now + self.wake_latency();
                if let Some(Replicator::Asleep { until }) = self.process(node).replicators.get_mut(&peer)
                    && *until > at
                {
                    *until = at;
                    self.plan_node_at(node, at, NodeEvent::Replicator { peer, at });
                }
            }
        }
        if before.wakes_timer(after) {
            let at = self.nodes[node].clock.to_world(after.timeout).max(at);
            if at < self.process(node).timer_at {
                self.process(node).timer_at = at;
                self.plan_node_at(node, at, NodeEvent::Timer { at });
            }
        }
    }

    fn mark_decision(&mut self, node: NodeIndex, what: &Decision) {
        let mark = match what {
            Decision::Elected(..) => Mark::Elected,
            Decision::Truncated(..) => Mark::ConflictTruncation,
            Decision::Backtracked(..) => Mark::Backtracked,
            Decision::RefusedVote(_, VoteRefusal::LeaderIsAlive) => Mark::RefusedByStickiness,
            Decision::RefusedVote(_, VoteRefusal::LogBehind(_)) => Mark::RefusedLogBehind,
            Decision::RefusedVote(_, VoteRefusal::VotedFor(_)) => {
                let machine = &self.nodes[node];
                let term = machine.process.as_ref().map_or(0, |p| p.raft.term());
                if machine.voted_before_crash_in == term {
                    self.mark(Mark::RefusedVotedBeforeCrash);
                }
                Mark::RefusedAlreadyVoted
            }
            Decision::SteppedDown(StepDownReason::NoQuorum) => Mark::CheckQuorumStepDown,
            Decision::SteppedDown(StepDownReason::HigherTerm(_)) => Mark::HigherTermStepDown,
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

impl Process {
    /// Opens the replies that the disk allows now.
    fn settle(&mut self, now: Time) -> Vec<Outgoing> {
        let mut outgoing = Vec::new();
        for Parked { to, call, term, reply } in std::mem::take(&mut self.parked) {
            let reply = match reply {
                ParkedReply::Vote(request, waiting) => match self.raft.settle(waiting, now) {
                    Settled::Ready(reply) => Ok(OutgoingReply::Vote(request, reply)),
                    Settled::NotYet(waiting) => Err(ParkedReply::Vote(request, waiting)),
                },
                ParkedReply::Append(request, waiting) => match self.raft.settle(waiting, now) {
                    Settled::Ready(reply) => Ok(OutgoingReply::Append(request, reply)),
                    Settled::NotYet(waiting) => Err(ParkedReply::Append(request, waiting)),
                },
            };
            match reply {
                Ok(reply) => outgoing.push(Outgoing { to, call, term, reply }),
                Err(reply) => self.parked.push(Parked { to, call, term, reply }),
            }
        }
        outgoing
    }
}

fn describe(request: &RpcRequest) -> String {
    match request {
        RpcRequest::RequestVote(r) => {
            format!("{} term {} log {}", if r.pre_vote { "pre-vote" } else { "vote" }, r.term, r.last)
        }
        RpcRequest::AppendEntries(r) => {
            format!("append term {} prev {} +{} commit {}", r.term, r.prev, r.entries.len(), r.commit)
        }
    }
}
