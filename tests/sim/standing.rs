//! Promise P6, with a stuck detector: while some majority can exchange messages pairwise and its disks work, writes go on,
//! whatever the others do. Where nobody but one member in the middle reaches a majority, writes must go on as long as that
//! member's log is up to date: only then can it be elected.

use crate::report::Mark;
use crate::shape::{Shape, has_connected_majority, reaches_majority};
use crate::swarm::{Kind, Sabotage, Standing};
use crate::world::{NodeIndex, World};

/// Draws of a shape before a run goes without.
const MAX_DRAWS: usize = 50;

/// By then a disk that hung when the situation began is given up, by the slowest clock too.
const DISK_DEAD_US: u64 = 40_000_000;

/// Longest election timeouts without a write that count as stuck. Where every member of a majority is needed and messages
/// are lost, each term may end before a follower that lacks entries has them: it takes a probe, a read from the disk and
/// an append in a row.
const PATIENCE: u64 = 30;

/// How often the stuck detector looks in that time.
const LOOKS: u64 = 6;

impl World {
    /// Lets the situation that the seed has drawn stand for its time, while writes go on.
    pub fn stand(&mut self, standing: Standing) {
        self.calm();
        // What P6 says of a majority it says of one membership: nobody changes it any more.
        self.nemesis.is_restrained = true;
        if self.swarm.joiners > 0 {
            let settled = |world: &World| world.is_membership_stable() && world.leader().is_some();
            self.run_until(self.now + PATIENCE * self.longest_timeout(), settled);
            if !settled(self) {
                return;
            }
        }
        let hub = match standing {
            Standing::Majority => self.cut_with_connected_majority().then_some(None),
            Standing::Hub => self.cut_with_hub().map(Some),
            Standing::Hostile => {
                self.spare_a_majority();
                self.net.be_unkind(&self.swarm);
                let only_hangs = self.waits_for_dead_disks() && self.hang_others();
                self.start_nemesis(!only_hangs);
                Some(None)
            }
        };
        let Some(hub) = hub else { return };
        if self.swarm.sabotage == Some(Sabotage::CutAll) {
            self.net.cut.iter_mut().flatten().for_each(|cut| *cut = true);
        }
        self.clients.rest();
        self.start_probe();
        // Long enough for a process whose disk hangs to give itself up.
        let waits = standing == Standing::Hostile && self.waits_for_dead_disks();
        let least = if waits { DISK_DEAD_US } else { 0 };
        let end = self.now + self.swarm.standing_us.max(least);
        let patience = PATIENCE * self.longest_timeout();
        // Looked at several times in that time: a write that was on its way when the situation began is no excuse for all
        // of it.
        let (mut before, mut since) = (self.oracle.commit_index(), self.now);
        while self.now < end {
            self.run_until((self.now + patience / LOOKS).min(end), |_| false);
            if self.has_committed_a_write_since(before) {
                (before, since) = (self.oracle.commit_index(), self.now);
            }
            if self.now - since < patience / LOOKS * LOOKS {
                continue;
            }
            if hub.is_some_and(|hub| !self.is_up_to_date(hub)) {
                self.line(|| "the member in the middle fell behind".to_owned());
                self.end_nemesis();
                return;
            }
            panic!("P6: a majority is connected, and nothing was written for {patience} us");
        }
        self.mark(match standing {
            Standing::Majority => Mark::StoodWithMajority,
            Standing::Hub => Mark::StoodWithHub,
            Standing::Hostile => Mark::StoodHostile,
        });
        self.end_nemesis();
    }

    fn waits_for_dead_disks(&self) -> bool {
        self.swarm.kinds.contains(&Kind::HangDisk)
    }

    /// Now and then the disks of all who are not spared hang, and nothing else happens. Whether it is so.
    fn hang_others(&mut self) -> bool {
        let hangs = self.nemesis.rng.bool();
        for (machine, _) in self.nodes.iter_mut().zip(&self.nemesis.spared).filter(|(_, spared)| !**spared) {
            machine.is_disk_hung |= hangs;
        }
        hangs
    }

    fn are_able(&self) -> Vec<bool> {
        self.nodes.iter().map(|machine| machine.process.is_some()).collect()
    }

    /// Cuts the network in a random shape that leaves a majority connected pairwise.
    fn cut_with_connected_majority(&mut self) -> bool {
        let (able, voters) = (self.are_able(), self.voters());
        for _ in 0..MAX_DRAWS {
            let shape = Shape::draw(&mut self.nemesis.rng);
            let leader = self.leader();
            let cut = shape.cut(&mut self.nemesis.rng, self.nodes.len(), leader);
            if has_connected_majority(&cut, &able, &voters) {
                self.line(|| format!("{shape:?} stands: {cut:?}"));
                self.net.cut = cut;
                return true;
            }
        }
        false
    }

    /// Cuts the network so that no majority is connected pairwise, but one member, whose log is up to date, reaches one.
    fn cut_with_hub(&mut self) -> Option<NodeIndex> {
        let (able, voters) = (self.are_able(), self.voters());
        for _ in 0..MAX_DRAWS {
            let shape = Shape::draw_with_hub(&mut self.nemesis.rng);
            let leader = self.leader();
            let cut = shape.cut(&mut self.nemesis.rng, self.nodes.len(), leader);
            if has_connected_majority(&cut, &able, &voters) {
                continue;
            }
            let is_hub =
                |&hub: &NodeIndex| reaches_majority(&cut, &able, &voters, hub) && self.is_up_to_date(hub);
            if let Some(hub) = voters.iter().copied().find(is_hub) {
                self.line(|| format!("{shape:?} stands with n{} in the middle: {cut:?}", hub + 1));
                self.net.cut = cut;
                return Some(hub);
            }
        }
        None
    }

    /// Whether nobody who runs has a longer or newer log.
    fn is_up_to_date(&self, hub: NodeIndex) -> bool {
        let last = |node: NodeIndex| {
            let raft = self.nodes[node].process.as_ref().map(|p| p.state.raft.last());
            raft.map(|last| (last.term, last.index))
        };
        self.voters().into_iter().all(|other| last(other) <= last(hub))
    }

    /// A random majority of those who run is left in peace from now on.
    fn spare_a_majority(&mut self) {
        let voters = self.voters();
        let mut able: Vec<NodeIndex> =
            voters.iter().copied().filter(|&node| self.nodes[node].process.is_some()).collect();
        self.nemesis.rng.shuffle(&mut able);
        let size = dkv::raft::majority(voters.len());
        able[..size].iter().for_each(|&node| self.nemesis.spared[node] = true);
        self.line(|| format!("spared: {:?}", self.nemesis.spared));
    }
}
