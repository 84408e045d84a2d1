//! The nemesis: crashes, cuts, pauses and bad disks, as far as the seed has them, at times the seed decides.

use dkv::node::Administration;

use crate::node::Machine;
use crate::report::Mark;
use crate::shape::Shape;
use crate::swarm::{Kind, Stream, Swarm, exponential};
use crate::world::{Event, NodeIndex, World};

/// What it does.
pub enum Act {
    /// Something of the kinds that exist in this run, and plans the next.
    Strike,
    /// A process dies, or the machine loses power.
    Crash { node: NodeIndex, for_us: u64 },
    /// Everybody dies, and the links are whole.
    Meet,
    /// Starts a process that died. `life` is the one to be started.
    Restart { node: NodeIndex, life: u64 },
    /// Lets a stopped process go on.
    Resume { node: NodeIndex },
    /// Repairs every link.
    Heal,
    /// Cuts and repairs some links, so many times more.
    Flap { links: Vec<(NodeIndex, NodeIndex)>, times: u32 },
    /// A link is as quick as others again.
    Unclog { from: NodeIndex, to: NodeIndex },
    /// A timer gets its time again.
    Feed { node: NodeIndex },
    /// A stranded member's links are whole again; a while later it is as quick as before.
    Rescue { node: NodeIndex },
    /// An applier is as quick as others again.
    QuickenApply { node: NodeIndex },
    /// Gives a disk its ordinary speed again.
    QuickenDisk { node: NodeIndex },
    /// Makes room on a disk.
    FreeSpace { node: NodeIndex },
    /// Members are told that their leader has ended, while it lives.
    Alarm { node: NodeIndex },
    /// The operator asks the new leader for something, or once more.
    Ask(Option<Administration>),
}

/// Decides what goes wrong.
pub struct Nemesis {
    pub rng: fastrand::Rng,
    /// Decides which programs run.
    pub programs: fastrand::Rng,
    /// Draws which members are told of a lost leader, and when.
    pub words: fastrand::Rng,
    /// Members that it leaves in peace, with the links between them.
    pub spared: Vec<bool>,
    /// Nobody changes the membership.
    pub is_restrained: bool,
    /// The leader is cut off, and the next one is awaited.
    deposes: bool,
    /// The moment of Figure 8 is awaited.
    tempts: bool,
    is_over: bool,
}

impl Nemesis {
    /// At rest.
    pub fn new(swarm: &Swarm) -> Nemesis {
        Nemesis {
            rng: Stream::Nemesis.rng(swarm.seed),
            programs: Stream::Programs.rng(!swarm.seed),
            words: Stream::Words.rng(!swarm.seed),
            spared: vec![false; swarm.machines()],
            is_restrained: false,
            deposes: false,
            tempts: false,
            is_over: false,
        }
    }

    fn spares_link(&self, from: NodeIndex, to: NodeIndex) -> bool {
        self.spared[from] && self.spared[to]
    }

    /// Whether it is at work.
    pub fn is_active(&self) -> bool {
        !self.is_over
    }
}

impl World {
    /// Lets the nemesis begin, or begin again; with `strikes` it does something new from time to time.
    pub fn start_nemesis(&mut self, strikes: bool) {
        self.nemesis.is_over = false;
        let may_fail = self.swarm.kinds.contains(&Kind::FailDisk);
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.may_fail = may_fail && !self.nemesis.spared[node];
        }
        if strikes && !self.swarm.kinds.is_empty() {
            self.plan_strike(0);
        }
    }

    /// Nothing goes wrong any more, and everything that did is repaired.
    pub fn end_nemesis(&mut self) {
        self.nemesis.is_over = true;
        self.nemesis.deposes = false;
        self.nemesis.tempts = false;
        self.net.heal();
    }

    fn plan_strike(&mut self, pause: u64) {
        let after = pause + exponential(&mut self.nemesis.rng, self.swarm.nemesis_mean_us);
        self.plan(after, Event::Nemesis(Act::Strike));
    }

    /// The running member that leads the highest term.
    pub fn leader(&self) -> Option<NodeIndex> {
        let leads = |machine: &Machine| {
            machine.process.as_ref().filter(|p| p.state.raft.is_leader()).map(|p| p.state.raft.term())
        };
        (0..self.nodes.len())
            .filter(|&n| leads(&self.nodes[n]).is_some())
            .max_by_key(|&n| leads(&self.nodes[n]))
    }

    /// A member that is not spared; the leader more often than others.
    fn victim(&mut self) -> Option<NodeIndex> {
        if let Some(leader) = self.leader()
            && self.nemesis.rng.u8(0..3) == 0
            && !self.nemesis.spared[leader]
        {
            return Some(leader);
        }
        let node = self.nemesis.rng.usize(0..self.nodes.len());
        (!self.nemesis.spared[node]).then_some(node)
    }

    /// How long something lasts.
    pub fn disturbance(&mut self) -> u64 {
        let t = self.swarm.election_timeout_us;
        exponential(&mut self.nemesis.rng, 4 * t)
    }

    pub fn handle_act(&mut self, act: Act) {
        if self.nemesis.is_over {
            return;
        }
        match act {
            Act::Strike => {
                let pause = self.victim().map_or(0, |node| self.strike(node));
                self.plan_strike(pause);
            }
            Act::Crash { node, for_us } => self.crash_for(node, for_us),
            Act::Meet => {
                self.net.heal();
                let (newest, t) = (self.leader(), self.swarm.election_timeout_us);
                for node in 0..self.nodes.len() {
                    let after = if newest == Some(node) { 3 * t } else { 0 };
                    let for_us = after + self.nemesis.rng.u64(1..=t);
                    self.crash_for(node, for_us);
                }
                self.nemesis.tempts = true;
            }
            Act::Restart { node, life } => {
                if self.nodes[node].life == life && self.nodes[node].process.is_none() {
                    self.start(node);
                }
            }
            Act::Resume { node } => self.resume(node),
            Act::Heal => {
                self.line(|| "links are whole".to_owned());
                self.net.heal();
            }
            Act::Flap { links, times } => self.flap(links, times),
            Act::Unclog { from, to } => self.net.lag_us[from][to] = 0,
            Act::Alarm { node } => self.raise_false_alarms(node),
            Act::Ask(what) => self.ask_after_election(what),
            Act::Feed { node } => self.nodes[node].timer_late_us = 0,
            Act::Rescue { node } => {
                let links = self.links_of(node);
                self.set_links(&links, false);
            }
            Act::QuickenApply { node } => self.nodes[node].slow_apply_us = None,
            Act::QuickenDisk { node } => self.set_sync_mean(node, None),
            Act::FreeSpace { node } => {
                self.line(|| format!("n{} has room on its disk", node + 1));
                self.nodes[node].disk.free_space();
            }
        }
    }

    /// Something goes wrong. Returns how long it is to be left alone.
    fn strike(&mut self, node: NodeIndex) -> u64 {
        let kind = self.swarm.kinds[self.nemesis.rng.usize(0..self.swarm.kinds.len())];
        let for_us = self.disturbance();
        let t = self.swarm.election_timeout_us;
        match kind {
            Kind::CrashOne if self.nemesis.rng.u8(0..4) == 0 => self.crash_for(node, for_us),
            Kind::CrashOne => self.nodes[node].doom = Some(Act::Crash { node, for_us }),
            Kind::CrashMany => {
                for node in 0..self.nodes.len() {
                    if self.nemesis.rng.bool() {
                        let for_us = self.disturbance();
                        self.nodes[node].doom = Some(Act::Crash { node, for_us });
                    }
                }
            }
            Kind::CrashAll => {
                self.mark(Mark::AllCrashed);
                (0..self.nodes.len()).for_each(|node| self.crash_for(node, for_us));
            }
            Kind::Cut => self.cut(2 * for_us),
            Kind::Depose => {
                if let Some(leader) = self.leader().filter(|_| !self.nemesis.spared.contains(&true)) {
                    let links = self.links_of(leader);
                    self.set_links(&links, true);
                    self.nemesis.deposes = true;
                }
            }
            Kind::Flap => {
                let other = self.nemesis.rng.usize(0..self.nodes.len());
                let links = match self.nemesis.rng.u8(0..3) {
                    0 => self.links_of(node),
                    1 => vec![(node, other), (other, node)],
                    _ => vec![(node, other)],
                };
                let times = self.nemesis.rng.u32(2..20);
                self.mark(Mark::Flapped);
                self.flap(links, times);
            }
            Kind::Strand => {
                let leader = self.leader().filter(|&leader| !self.nemesis.spared[leader]);
                let node = leader.filter(|_| self.nemesis.rng.bool()).unwrap_or(node);
                let for_us = t * self.nemesis.rng.u64(6..=24);
                self.nodes[node].slow_apply_us = Some(t * self.nemesis.rng.u64(8..=80));
                self.plan(for_us + 8 * t, Event::Nemesis(Act::QuickenApply { node }));
                if self.nemesis.rng.bool() {
                    let mean_us = t / self.nemesis.rng.u64(1..=20);
                    self.set_sync_mean(node, Some(mean_us));
                    self.plan(for_us + 8 * t, Event::Nemesis(Act::QuickenDisk { node }));
                }
                self.line(|| format!("n{} is stranded for {for_us} us", node + 1));
                let links = self.links_of(node);
                // Time for some more that it does not get round to applying.
                let after = self.nemesis.rng.u64(1..=t / 2);
                self.plan(after, Event::Nemesis(Act::Flap { links, times: 0 }));
                self.plan(after + for_us, Event::Nemesis(Act::Rescue { node }));
                self.mark(Mark::Stranded);
                return for_us + t;
            }
            Kind::Clog => {
                let to = self.nemesis.rng.usize(0..self.nodes.len());
                if !self.nemesis.spares_link(node, to) {
                    self.net.lag_us[node][to] = self.nemesis.rng.u64(1..=20) * t / 4;
                    self.mark(Mark::Clogged);
                    self.plan(2 * for_us, Event::Nemesis(Act::Unclog { from: node, to }));
                }
            }
            Kind::Pause | Kind::Suspend => {
                self.pause(node, kind == Kind::Suspend);
                self.plan(for_us, Event::Nemesis(Act::Resume { node }));
            }
            Kind::Starve => {
                self.nodes[node].timer_late_us = self.nemesis.rng.u64(1..=3) * t;
                self.mark(Mark::TimerStarved);
                self.plan(2 * for_us, Event::Nemesis(Act::Feed { node }));
            }
            Kind::SlowDisk => {
                let factor = self.nemesis.rng.u64(1..=4);
                self.set_sync_mean(node, Some(self.swarm.heartbeat_us * factor));
                self.plan(2 * for_us, Event::Nemesis(Act::QuickenDisk { node }));
            }
            Kind::StallDisk => {
                self.set_sync_mean(node, Some(2 * self.swarm.disk_stall_us));
                self.plan(for_us, Event::Nemesis(Act::QuickenDisk { node }));
            }
            Kind::HangDisk => self.nodes[node].is_disk_hung = true,
            Kind::FailDisk => self.nodes[node].disk.fail_soon(),
            Kind::FillDisk => {
                let room = self.nemesis.rng.u64(0..=self.swarm.segment_bytes);
                self.nodes[node].disk.fill_up(room);
                self.line(|| format!("n{} has {room} bytes left on its disk", node + 1));
                self.plan(4 * for_us, Event::Nemesis(Act::FreeSpace { node }));
            }
            Kind::Rot => self.rot(node, for_us),
            Kind::Change | Kind::Transfer | Kind::Wipe if self.nemesis.is_restrained => {}
            Kind::Change => self.ask_for_change(),
            Kind::Transfer => self.ask_for_transfer(),
            Kind::Wipe => self.wipe(node),
            Kind::FalseAlarm => self.raise_false_alarms(node),
        }
        0
    }

    /// A disk rots, if the fault atlas admits it; mostly it shows at once.
    fn rot(&mut self, node: NodeIndex, for_us: u64) {
        if self.nodes[node].is_initialized
            && self.may_ruin(node)
            && let Some(is_snapshot) = self.nodes[node].disk.decay()
        {
            self.line(|| format!("the disk of n{} rots", node + 1));
            // Nobody looks at a snapshot before a start, and by then another may be the newest.
            if is_snapshot || self.nemesis.rng.u8(0..4) > 0 {
                self.crash_for(node, for_us);
            }
        }
    }

    /// Ends a process and starts it again after a while.
    pub fn crash_for(&mut self, node: NodeIndex, for_us: u64) {
        if self.nemesis.spared[node] {
            return;
        }
        let power = self.nemesis.rng.f64() < self.swarm.power_loss;
        self.crash(node, power);
        self.restart_after(node, for_us);
    }

    /// Starts the process that died last after a while.
    pub fn restart_after(&mut self, node: NodeIndex, for_us: u64) {
        let life = self.nodes[node].life;
        self.plan(for_us, Event::Nemesis(Act::Restart { node, life }));
    }

    /// A leader was elected.
    pub fn hear_of_election(&mut self) {
        self.operator.elected_at = self.now;
        self.plan_to_ask(None);
        if self.has_false_alarms() && self.nemesis.words.u8(0..4) == 0 {
            let node = self.nemesis.words.usize(0..self.nodes.len());
            let after = self.nemesis.words.u64(0..=self.swarm.election_timeout_us / 4);
            self.plan(after, Event::Nemesis(Act::Alarm { node }));
        }
        if std::mem::take(&mut self.nemesis.deposes) {
            self.mark(Mark::Deposed);
            let after = self.nemesis.rng.u64(0..=self.swarm.election_timeout_us / 4);
            self.plan(after, Event::Nemesis(Act::Meet));
        }
    }

    /// A disk has synced: is this the moment of Figure 8 (c), in which an entry of an old term stands on a majority of disks
    /// and only the leader has one of its own term? Then it dies, and whoever has a later term's entry may win.
    pub fn tempt_figure_8(&mut self) {
        if !self.nemesis.tempts {
            return;
        }
        let Some(leader) = self.leader() else { return };
        let raft = &self.nodes[leader].process.as_ref().expect("it leads").state.raft;
        let (term, index) = (raft.term(), self.oracle.commit_index() + 1);
        let Some(old) = raft.log().term_at(index).filter(|old| *old < term) else { return };
        let voters = self.voters();
        let disks = || voters.iter().map(|&node| self.nodes[node].disk.durable());
        let holders = disks().filter(|disk| disk.term_at(index) == Some(old)).count();
        let has_rival = disks().any(|disk| old < disk.last().term && disk.last().term < term);
        let own = disks().filter(|disk| disk.last().term == term).count();
        if holders >= dkv::raft::majority(voters.len()) && has_rival && own <= 1 {
            self.nemesis.tempts = false;
            self.line(|| format!("Figure 8: n{} dies", leader + 1));
            self.crash_for(leader, 8 * self.swarm.election_timeout_us);
        }
    }

    // ---- links -----------------------------------------------------------------------------------------------------------

    fn cut(&mut self, for_us: u64) {
        let shape = Shape::draw(&mut self.nemesis.rng);
        let leader = self.leader();
        let mut cut = shape.cut(&mut self.nemesis.rng, self.nodes.len(), leader);
        for (from, row) in cut.iter_mut().enumerate() {
            for (to, link) in row.iter_mut().enumerate() {
                *link &= !self.nemesis.spares_link(from, to);
            }
        }
        self.net.cut = cut;
        self.line(|| format!("cut: {shape:?} {:?}", self.net.cut));
        self.plan(for_us, Event::Nemesis(Act::Heal));
    }

    fn links_of(&self, node: NodeIndex) -> Vec<(NodeIndex, NodeIndex)> {
        let others = (0..self.nodes.len()).filter(|&other| other != node);
        others.flat_map(|other| [(node, other), (other, node)]).collect()
    }

    fn set_links(&mut self, links: &[(NodeIndex, NodeIndex)], is_cut: bool) {
        for &(from, to) in links.iter().filter(|(from, to)| !self.nemesis.spares_link(*from, *to)) {
            self.net.cut[from][to] = is_cut;
        }
    }

    fn flap(&mut self, links: Vec<(NodeIndex, NodeIndex)>, times: u32) {
        self.set_links(&links, times.is_multiple_of(2));
        if times > 0 {
            let after = self.nemesis.rng.u64(1..=self.swarm.election_timeout_us);
            self.plan(after, Event::Nemesis(Act::Flap { links, times: times - 1 }));
        }
    }
}
