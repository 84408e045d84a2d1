//! The nemesis: crashes, cuts, pauses and slow disks, as far as the seed has them, at times the seed decides.

use crate::node::Machine;
use crate::report::Mark;
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
    /// Cuts and repairs the links of one member, so many times more.
    Flap { node: NodeIndex, times: u32 },
    /// Gives a disk its ordinary speed again.
    QuickenDisk { node: NodeIndex },
}

/// Ways to cut a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Two groups that do not hear each other.
    Split,
    /// One member alone.
    IsolateOne,
    /// One group hears another, which does not hear it.
    OneWay,
    /// One member hears everybody and is heard by nobody, or the reverse.
    Deaf,
    /// Each directed link on its own.
    Random,
    /// Everybody has two neighbours.
    Ring,
    /// Two groups that only one member connects.
    Bridge,
    /// One member in the middle of all others.
    Star,
    /// Two members do not hear each other; everybody else hears both.
    Cloudflare,
}

const SHAPES: [Shape; 9] = [
    Shape::Split,
    Shape::IsolateOne,
    Shape::OneWay,
    Shape::Deaf,
    Shape::Random,
    Shape::Ring,
    Shape::Bridge,
    Shape::Star,
    Shape::Cloudflare,
];

/// Decides what goes wrong.
pub struct Nemesis {
    rng: fastrand::Rng,
    /// The leader is cut off, and the next one is awaited.
    deposes: bool,
    is_over: bool,
}

impl Nemesis {
    /// At rest.
    pub fn new(swarm: &Swarm) -> Nemesis {
        Nemesis { rng: Stream::Nemesis.rng(swarm.seed), deposes: false, is_over: false }
    }

    /// The links that `shape` cuts, the members in random order.
    fn cut(&mut self, shape: Shape, voters: usize, leader: Option<NodeIndex>) -> Vec<Vec<bool>> {
        let mut order: Vec<NodeIndex> = (0..voters).collect();
        self.rng.shuffle(&mut order);
        // What happens to the leader matters most.
        if let Some(leader) = leader
            && self.rng.bool()
        {
            let at = order.iter().position(|&node| node == leader).expect("a member");
            order.swap(0, at);
        }
        let rank = |node: NodeIndex| order.iter().position(|&n| n == node).expect("a member");
        let size = if voters > 1 { self.rng.usize(1..voters) } else { 1 };
        let is_first = self.rng.bool();
        let probability = self.rng.f64();
        let mut cut = vec![vec![false; voters]; voters];
        for (from, row) in cut.iter_mut().enumerate() {
            for (to, link) in row.iter_mut().enumerate().filter(|(to, _)| *to != from) {
                let (a, b) = (rank(from), rank(to));
                *link = match shape {
                    Shape::Split => (a < size) != (b < size),
                    Shape::IsolateOne => a == 0 || b == 0,
                    Shape::OneWay => a < size && b >= size,
                    Shape::Deaf => {
                        if is_first {
                            a == 0
                        } else {
                            b == 0
                        }
                    }
                    Shape::Random => self.rng.f64() < probability,
                    Shape::Ring => a.abs_diff(b) != 1 && a.abs_diff(b) != voters - 1,
                    Shape::Bridge => a != 0 && b != 0 && (a % 2) != (b % 2),
                    Shape::Star => a != 0 && b != 0,
                    Shape::Cloudflare => a.min(b) == 0 && a.max(b) == 1,
                };
            }
        }
        cut
    }
}

/// Whether some majority can exchange messages pairwise (the condition of P6).
fn has_connected_majority(cut: &[Vec<bool>]) -> bool {
    let voters = cut.len();
    (0u32..1 << voters).any(|group| {
        let members: Vec<NodeIndex> = (0..voters).filter(|node| group & (1 << node) != 0).collect();
        members.len() > voters / 2
            && members.iter().all(|&a| members.iter().all(|&b| a == b || (!cut[a][b] && !cut[b][a])))
    })
}

impl World {
    /// Lets the nemesis begin.
    pub fn start_nemesis(&mut self) {
        if !self.swarm.kinds.is_empty() {
            self.plan_strike();
        }
    }

    /// Nothing goes wrong any more, and everything that did is repaired.
    pub fn end_nemesis(&mut self) {
        self.nemesis.is_over = true;
        self.net.heal();
    }

    /// Cuts the network in a random shape that leaves a majority connected pairwise.
    pub fn cut_with_connected_majority(&mut self) {
        loop {
            let shape = SHAPES[self.nemesis.rng.usize(0..SHAPES.len())];
            let cut = self.nemesis.cut(shape, self.swarm.voters, self.leader());
            if has_connected_majority(&cut) {
                self.line(|| format!("{shape:?} stands: {cut:?}"));
                self.net.cut = cut;
                return;
            }
        }
    }

    fn plan_strike(&mut self) {
        let after = exponential(&mut self.nemesis.rng, self.swarm.nemesis_mean_us);
        self.plan(after, Event::Nemesis(Act::Strike));
    }

    /// The running member that leads the highest term.
    pub fn leader(&self) -> Option<NodeIndex> {
        let leads = |machine: &Machine| {
            machine.process.as_ref().filter(|p| p.core.raft.is_leader()).map(|p| p.core.raft.term())
        };
        (0..self.nodes.len())
            .filter(|&n| leads(&self.nodes[n]).is_some())
            .max_by_key(|&n| leads(&self.nodes[n]))
    }

    /// A member; the leader more often than others.
    fn victim(&mut self) -> NodeIndex {
        let leader = self.leader();
        match leader {
            Some(leader) if self.nemesis.rng.u8(0..3) == 0 => leader,
            _ => self.nemesis.rng.usize(0..self.swarm.voters),
        }
    }

    fn disturbance(&mut self) -> u64 {
        let t = self.swarm.election_timeout_us;
        exponential(&mut self.nemesis.rng, 4 * t)
    }

    pub fn handle_act(&mut self, act: Act) {
        if self.nemesis.is_over {
            return;
        }
        match act {
            Act::Strike => {
                self.strike();
                self.plan_strike();
            }
            Act::Crash { node, for_us } => self.crash_for(node, for_us),
            Act::Meet => {
                self.net.heal();
                for node in 0..self.swarm.voters {
                    let for_us = self.nemesis.rng.u64(1..=self.swarm.election_timeout_us);
                    self.crash_for(node, for_us);
                }
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
            Act::Flap { node, times } => self.flap(node, times),
            Act::QuickenDisk { node } => self.set_sync_mean(node, None),
        }
    }

    fn strike(&mut self) {
        let kind = self.swarm.kinds[self.nemesis.rng.usize(0..self.swarm.kinds.len())];
        let node = self.victim();
        let for_us = self.disturbance();
        match kind {
            Kind::CrashOne if self.nemesis.rng.u8(0..4) == 0 => self.crash_for(node, for_us),
            Kind::CrashOne => self.nodes[node].doom = Some(Act::Crash { node, for_us }),
            Kind::CrashMany => {
                for node in 0..self.swarm.voters {
                    if self.nemesis.rng.bool() {
                        let for_us = self.disturbance();
                        self.nodes[node].doom = Some(Act::Crash { node, for_us });
                    }
                }
            }
            Kind::CrashAll => {
                self.mark(Mark::AllCrashed);
                (0..self.swarm.voters).for_each(|node| self.crash_for(node, for_us));
            }
            Kind::Cut => {
                let shape = SHAPES[self.nemesis.rng.usize(0..SHAPES.len())];
                let leader = self.leader();
                self.net.cut = self.nemesis.cut(shape, self.swarm.voters, leader);
                self.line(|| format!("cut: {shape:?} {:?}", self.net.cut));
                self.plan(2 * for_us, Event::Nemesis(Act::Heal));
            }
            Kind::Depose => {
                if let Some(leader) = self.leader() {
                    self.cut_off(leader, true);
                    self.nemesis.deposes = true;
                }
            }
            Kind::Flap => {
                let times = self.nemesis.rng.u32(2..20);
                self.flap(node, times);
            }
            Kind::Pause => {
                self.pause(node);
                self.plan(for_us, Event::Nemesis(Act::Resume { node }));
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
        }
    }

    /// Ends a process and starts it again after a while.
    fn crash_for(&mut self, node: NodeIndex, for_us: u64) {
        let power = self.nemesis.rng.f64() < self.swarm.power_loss;
        self.crash(node, power);
        let life = self.nodes[node].life;
        self.plan(for_us, Event::Nemesis(Act::Restart { node, life }));
    }

    /// A leader was elected.
    pub fn hear_of_election(&mut self) {
        if std::mem::take(&mut self.nemesis.deposes) {
            self.mark(Mark::Deposed);
            let after = self.nemesis.rng.u64(0..=self.swarm.election_timeout_us / 4);
            self.plan(after, Event::Nemesis(Act::Meet));
        }
    }

    fn cut_off(&mut self, node: NodeIndex, is_cut: bool) {
        for other in (0..self.swarm.voters).filter(|&other| other != node) {
            self.net.cut[node][other] = is_cut;
            self.net.cut[other][node] = is_cut;
        }
    }

    fn flap(&mut self, node: NodeIndex, times: u32) {
        self.cut_off(node, times.is_multiple_of(2));
        if times > 0 {
            let after = self.nemesis.rng.u64(1..=self.swarm.election_timeout_us);
            self.plan(after, Event::Nemesis(Act::Flap { node, times: times - 1 }));
        }
    }
}
