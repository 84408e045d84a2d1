//! One simulated member: a machine with its clock and disk, and the process on it, which is a real [`State`] (the
//! consensus core with the requests that wait for it), a real log and a real state machine. `threads.rs` drives it.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use dkv::node::{PeerError, PeerReply, State, StateOptions};
use dkv::raft::{
    MemberId, Protocol, Raft, RaftConfig, Restored, Settings, SnapshotMeta, Time, WriteBatch, check_version,
};
use dkv::store::Kv;
use dkv::store::snapshot::Receiver;
use dkv::store::wal::LogReader;
use dkv::store::wal::WalError;

use crate::disk::{Loaded, MachineDisk, Refusal};
use crate::failover::Word;
use crate::nemesis::Act;
use crate::net::Caller;
use crate::process::{Keeper, Process, Snapshotter, Thread};
use crate::report::Mark;
use crate::swarm::{Stream, Swarm, exponential, mix};
use crate::world::{Event, NodeIndex, World};

/// Every clock shows at least this when the world begins: more than all suspensions of a run take away.
const EARLIEST_CLOCK_US: u64 = 1 << 40;

/// What a thread of a process does next.
pub enum NodeEvent {
    /// The timer looks at its deadline.
    Timer { at: u64 },
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
    /// The keeper of leases looks.
    LeaseKeeper,
    /// The notifier tells watchers what was applied.
    Notifier,
    /// The entries in its hands are applied.
    Applied,
    /// The replicator for `peer` looks for work.
    Replicator { peer: NodeIndex, at: u64 },
    /// The sender of snapshots to `peer` looks for work.
    Sender { peer: NodeIndex, at: u64 },
    /// The entries for `peer` are read.
    LogRead { peer: NodeIndex },
    /// The snapshotter goes on.
    Snapshotter,
    /// The receiver of snapshots looks for work.
    Receiver,
    /// The forwarder looks for work.
    Forwarder,
    /// The read-asker looks for work.
    ReadAsker,
    /// A link to this member has ended.
    LinkEnded { caller: NodeIndex },
    /// Somebody has looked: the core is told.
    LeaderLost(Word),
    /// A call is over.
    CallEnded { peer: NodeIndex, caller: Caller, result: Result<PeerReply, PeerError> },
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

    /// It stood still for so long.
    fn lose(&mut self, world_us: u64) {
        self.offset -= (u128::from(world_us) * u128::from(self.rate_ppm) / 1_000_000) as u64;
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
    /// Syncs do not end.
    pub is_disk_hung: bool,
    /// How long its applier may take.
    pub slow_apply_us: Option<u64>,
    /// How much later than planned its timer may wake.
    pub timer_late_us: u64,
    /// What was synced is damaged: no process starts here any more.
    pub is_ruined: bool,
    /// It has a log: it was a bootstrap node, or was sent the genesis entry.
    pub is_initialized: bool,
    /// ... and lost it: whoever lives there now is somebody else.
    pub is_wiped: bool,
    /// What its program speaks.
    pub protocol: Protocol,
    /// Whether its process is told to hold the version.
    pub holds_version: bool,
    /// Its member was removed and is not started any more.
    pub is_retired: bool,
    /// Since when the machine, not only the process, stands still.
    suspended_at: Option<u64>,
    /// Its process dies, or the machine loses power, in the middle of its next write.
    pub doom: Option<Act>,
    /// The term of the vote that recovery found: for a coverage mark.
    pub voted_before_crash_in: u64,
}

impl Machine {
    /// Where it stands, for people.
    pub fn describe(&self) -> String {
        let Some(process) = &self.process else { return format!("{} is down", self.id) };
        let raft = &process.state.raft;
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

    /// What a caller hears when no process of this member is there.
    pub fn nobody(&self) -> PeerError {
        match (self.is_wiped, self.is_initialized) {
            // The new identity that an empty disk has drawn.
            (true, _) => {
                PeerError::Uninitialized { node_id: self.id.to_string(), member_id: MemberId(!self.id.0) }
            }
            (_, false) => PeerError::Uninitialized { node_id: self.id.to_string(), member_id: self.id },
            _ => PeerError::NotSent("nobody listens".to_owned()),
        }
    }

    /// Whether the process is stopped.
    pub fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Keeps an event for the time when the stopped process goes on.
    pub fn backlog(&mut self, event: Event) {
        self.stopped.as_mut().expect("the process is stopped").push(event);
    }

    /// How long the next sync takes.
    pub fn sync_latency(&mut self) -> u64 {
        if self.is_disk_hung {
            return u64::MAX;
        }
        exponential(&mut self.disk_rng, self.slow_sync_us.unwrap_or(self.sync_mean_us))
    }
}

fn config(swarm: &Swarm, machine: &Machine) -> RaftConfig {
    let (me, life) = (machine.id, machine.life);
    RaftConfig {
        protocol: machine.protocol,
        hold_version: machine.holds_version,
        me,
        election_timeout: Duration::from_micros(swarm.election_timeout_us),
        heartbeat: Duration::from_micros(swarm.heartbeat_us),
        append_hold: Duration::from_micros(swarm.heartbeat_us),
        disk_stall: Duration::from_micros(swarm.disk_stall_us),
        seed: mix(swarm.seed ^ mix(Stream::Elections as u64) ^ me.0 ^ (life << 8)),
        max_append_bytes: swarm.max_append_bytes,
        max_unpersisted_bytes: swarm.max_unpersisted_bytes,
        max_log_memory_bytes: swarm.max_log_memory_bytes,
        snapshot_log_bytes: u64::MAX,
        snapshot_log_entries: swarm.snapshot_entries,
    }
}

impl World {
    /// Puts an initialized, stopped cluster into the world and starts every member.
    pub fn bootstrap(&mut self) {
        self.draw_programs();
        let genesis = self.oracle.genesis_entry(&self.swarm);
        let mut clocks = Stream::Clock.rng(self.swarm.seed);
        for node in 0..self.swarm.machines() {
            let rate_ppm = if self.swarm.clocks_drift { clocks.u64(900_000..=1_100_000) } else { 1_000_000 };
            let id = MemberId(node as u64 + 1);
            let mut disk = MachineDisk::new(self.swarm.seed, id, self.swarm.wal_options());
            if node < self.swarm.voters {
                disk.initialize(&genesis);
            }
            self.nodes.push(Machine {
                id,
                clock: Clock { offset: EARLIEST_CLOCK_US + clocks.u64(0..1_000_000_000), rate_ppm },
                disk,
                life: 0,
                process: None,
                stopped: None,
                disk_rng: fastrand::Rng::with_seed(mix(self.swarm.seed ^ (Stream::Disk as u64) << 32 ^ id.0)),
                slow_sync_us: None,
                is_disk_hung: false,
                slow_apply_us: None,
                timer_late_us: 0,
                is_ruined: false,
                is_initialized: node < self.swarm.voters,
                is_wiped: false,
                protocol: self.oracle.protocols[node],
                holds_version: false,
                is_retired: false,
                suspended_at: None,
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
        let machine = &mut self.nodes[node];
        if machine.is_ruined || machine.is_retired || !machine.is_initialized {
            return;
        }
        self.choose_program(node);
        let machine = &mut self.nodes[node];
        let mut marks = Vec::new();
        let loaded = machine.disk.recover(&mut marks);
        marks.into_iter().for_each(|mark| self.mark(mark));
        let Loaded { recovered, snapshot } = match loaded {
            Ok(loaded) => loaded,
            Err(refusal) => return self.refuse_to_start(node, &refusal),
        };
        let machine = &mut self.nodes[node];
        let hard_state = recovered.hard_state;
        let (left, entries) = (recovered.left, recovered.entries);
        let (snapshot, mut kv) = snapshot.unwrap_or_else(|| {
            (SnapshotMeta { last: recovered.base, ..SnapshotMeta::default() }, Kv::new(Settings::default()))
        });
        kv.set_program(machine.protocol);
        check_version(snapshot.version, machine.protocol)
            .unwrap_or_else(|e| panic!("P13: n{} cannot start from its snapshot: {e}", node + 1));
        machine.voted_before_crash_in = if hard_state.voted_for.is_some() { hard_state.term } else { 0 };
        let now = machine.clock.show(self.now);
        let snapshot_bytes = kv.size().bytes + kv.size().superseded_bytes;
        let log_bytes = recovered.bytes_after;
        let restored = Restored { hard_state, snapshot, snapshot_bytes, left, entries, log_bytes };
        let raft = Raft::new(config(&self.swarm, machine), restored, now);
        self.oracle.check_durable(node, &machine.disk);
        let timer_at = self.now;
        let options = StateOptions {
            heartbeat: Duration::from_micros(self.swarm.heartbeat_us),
            election_timeout: Duration::from_micros(self.swarm.election_timeout_us),
            check_invariants: true,
        };
        let (base, last) = (raft.log().base(), raft.last());
        self.oracle.started(node, &raft);
        if base.index > 0 {
            self.oracle.check_applied(node, &kv);
        }
        let receiver = Receiver::new(machine.disk.shared());
        let (me, membership) = (machine.id, raft.membership().clone());
        let in_force = raft.watermarks().membership_index;
        machine.process = Some(Process {
            state: State::new(raft, options),
            kv,
            mailbox: Arc::default(),
            held: BTreeMap::new(),
            batches: BTreeMap::new(),
            last_tag: 0,
            timer_at,
            log_writer: Thread::Asleep,
            seal_at: u64::MAX,
            applier: Thread::Asleep,
            keeper: Keeper::default(),
            watches: Arc::default(),
            is_notifier_awake: false,
            snapshotter: Snapshotter::Rung,
            no_snapshot_before: 0,
            receiver,
            receiving: None,
            pieces: VecDeque::new(),
            is_receiver_awake: false,
            loading: None,
            received: BTreeMap::new(),
            senders: BTreeMap::new(),
            applied_log: LogReader::new(machine.disk.shared()),
            log_readers: BTreeMap::new(),
            forwarder: Thread::Asleep,
            read_asker: Thread::Asleep,
            replicators: BTreeMap::new(),
            answered: BTreeMap::new(),
            hearing: None,
            taken: None,
        });
        self.line(|| {
            format!(
                "n{} starts: term {} voted {:?} log {base} to {last}",
                node + 1,
                hard_state.term,
                hard_state.voted_for
            )
        });
        self.plan_node_at(node, timer_at, NodeEvent::Timer { at: timer_at });
        self.plan_node_at(node, timer_at, NodeEvent::Snapshotter);
        self.ensure_peer_threads(node, &membership);
        if in_force > self.oracle.commit_index() {
            self.mark(Mark::StartedWithUncommittedMembership);
            if membership.get(me).is_none() {
                self.mark(Mark::StartedAbsentFromOwnMembership);
            }
        }
    }

    /// The process ended before it began.
    fn refuse_to_start(&mut self, node: NodeIndex, refusal: &Refusal) {
        self.line(|| format!("n{} does not start: {refusal:?}", node + 1));
        match refusal {
            Refusal::Rot => {
                self.nodes[node].is_ruined = true;
                self.mark(Mark::RotRefused);
            }
            Refusal::Io => {
                assert!(self.nemesis.is_active(), "a disk fails in peace");
                self.mark(Mark::StartFailed);
                let for_us = self.disturbance();
                self.restart_after(node, for_us);
            }
        }
    }

    /// The process ends itself, as it must when its log cannot be written.
    pub fn fail_stop(&mut self, node: NodeIndex, why: &WalError) {
        // What rotted before may be read only in peace.
        let is_expected = self.nemesis.is_active() || self.nodes[node].disk.has_rot();
        assert!(is_expected, "a disk fails in peace: {why}");
        let is_full = matches!(why, WalError::Io { source, .. } if source.kind() == ErrorKind::StorageFull);
        self.mark(if is_full { Mark::DiskFullStop } else { Mark::DiskFailedStop });
        self.line(|| format!("n{} ends: {why}", node + 1));
        self.nodes[node].disk.stop();
        let linked = self.linked(node);
        self.bury(node);
        self.end_links(node, linked);
        if !self.nemesis.is_active() {
            // It has rotted, and what looks after it starts it at once: it is refused.
            return self.start(node);
        }
        let for_us = self.disturbance();
        self.restart_after(node, for_us);
    }

    /// The process is gone. The answers that waited go with it; whoever asked waits in vain or sees the connection break.
    pub fn bury(&mut self, node: NodeIndex) {
        let machine = &mut self.nodes[node];
        machine.process = None;
        machine.life += 1;
        self.wake_machine(node);
        self.nodes[node].stopped = None;
        self.report.borrow_mut().counters.crashes += 1;
        self.break_connections(node);
    }

    fn wake_machine(&mut self, node: NodeIndex) {
        let machine = &mut self.nodes[node];
        if let Some(since) = machine.suspended_at.take() {
            machine.clock.lose(self.now - since);
        }
    }

    /// Ends the process of a machine. What it was writing is partly done; `power` says whether the machine goes too.
    pub fn crash(&mut self, node: NodeIndex, power: bool) {
        let linked = self.linked(node);
        let machine = &mut self.nodes[node];
        let Some(process) = machine.process.take() else { return };
        let hard_state = machine.disk.durable().hard_state;
        if hard_state.voted_for.is_some_and(|v| v != machine.id)
            && hard_state.term == process.state.raft.term()
        {
            self.mark(Mark::VotePersistedThenCrash);
        }
        let in_flight = match process.log_writer {
            Thread::Busy(batch) => batch,
            Thread::Asleep | Thread::Rung => WriteBatch::default(),
        };
        let what = self.nodes[node].disk.crash(in_flight, power);
        self.line(|| format!("n{} {}: {what:?}", node + 1, if power { "loses power" } else { "dies" }));
        self.mark(if power { Mark::PowerLoss } else { Mark::ProcessDeath });
        what.marks().into_iter().for_each(|mark| self.mark(mark));
        self.bury(node);
        // A machine that vanishes closes nothing.
        if !power {
            self.end_links(node, linked);
        }
    }

    /// Stops a process, or with `machine` its clock as well.
    pub fn pause(&mut self, node: NodeIndex, machine: bool) {
        if self.nodes[node].process.is_some() && !self.nodes[node].is_stopped() {
            self.nodes[node].stopped = Some(Vec::new());
            self.nodes[node].suspended_at = machine.then_some(self.now);
            self.mark(if machine { Mark::Suspended } else { Mark::Paused });
            self.line(|| format!("n{} is stopped, its clock too: {machine}", node + 1));
        }
    }

    /// Lets a stopped process go on: all that has waited happens now, in any order, as its threads race.
    pub fn resume(&mut self, node: NodeIndex) {
        let Some(mut backlog) = self.nodes[node].stopped.take() else { return };
        self.wake_machine(node);
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
            machine.slow_apply_us = None;
            machine.is_disk_hung = false;
            machine.timer_late_us = 0;
            machine.doom = None;
            machine.sync_mean_us = sync_mean_us;
            machine.disk.mend();
            match &machine.process {
                None => self.start(node),
                Some(Process { log_writer: Thread::Busy(_), .. }) => {
                    self.plan_node_at(node, self.now + 1, NodeEvent::Synced);
                }
                Some(_) => {}
            }
        }
    }
}
