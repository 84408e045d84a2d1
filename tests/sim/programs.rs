//! Clusters in which some members run the program of the next protocol: upgrades in the middle, ways back while the
//! version is held, and promise P13: no member meets an entry, a snapshot or a state that its program cannot read.

use dkv::raft::{Protocol, check_version};
use dkv::store::snapshot::SnapshotHeader;

use crate::members::machine_of;
use crate::report::Mark;
use crate::world::{NodeIndex, World};

/// The program that most members run, and the one that comes after it.
const OLD: Protocol = 1;
const NEXT: Protocol = 2;

impl World {
    /// Before anything runs: who begins with which program.
    pub fn draw_programs(&mut self) {
        for node in 0..self.swarm.machines() {
            let is_next = self.swarm.mixes_programs && self.nemesis.programs.u8(0..3) == 0;
            self.oracle.protocols[node] = if is_next { NEXT } else { OLD };
        }
    }

    /// A process is about to start: with which program, and is it told to hold the version?
    pub fn choose_program(&mut self, node: NodeIndex) {
        if !self.swarm.mixes_programs {
            return;
        }
        let is_held = self.swarm.hold_version && self.now < self.swarm.chaos_us / 2;
        self.nodes[node].holds_version = is_held;
        // Everybody who runs was started while it was held, so nobody raises it behind the back of one that goes back.
        let may_go_back = is_held && !self.oracle.was_raised();
        let is_first = self.nodes[node].life == 0;
        match (self.nodes[node].protocol, self.nemesis.programs.u8(0..4)) {
            (OLD, 0 | 1) if !is_first => self.set_program(node, NEXT, Mark::ProgramUpgraded),
            (NEXT, 0) if may_go_back && !is_first && self.founded_at() == OLD => {
                self.set_program(node, OLD, Mark::ProgramRolledBack);
            }
            _ => {}
        }
    }

    /// A machine is to join: what it speaks then. It is told to the leader, so it does not change until it is
    /// initialized, unless to the better.
    pub fn prepare_newcomer(&mut self, node: NodeIndex) -> Protocol {
        if self.swarm.mixes_programs && self.nodes[node].protocol == OLD && self.nemesis.programs.bool() {
            self.set_program(node, NEXT, Mark::ProgramUpgraded);
        }
        self.nodes[node].protocol
    }

    fn set_program(&mut self, node: NodeIndex, protocol: Protocol, mark: Mark) {
        self.line(|| format!("n{} runs the program of protocol {protocol} from now on", node + 1));
        self.nodes[node].protocol = protocol;
        self.oracle.protocols[node] = protocol;
        self.mark(mark);
    }

    fn founded_at(&self) -> Protocol {
        self.oracle.committed[0].version().expect("a genesis entry has one")
    }

    /// P13: a snapshot of a leader is about to be installed. It has what its version has, whatever program wrote it.
    pub fn check_readable(&mut self, node: NodeIndex, header: &SnapshotHeader) {
        let (version, speaks) = (header.meta.version, self.nodes[node].protocol);
        #[cfg(feature = "next-protocol")]
        assert_eq!(
            header.touches.is_some(),
            version >= NEXT,
            "P13: a snapshot of version {version} has {:?} touches",
            header.touches
        );
        check_version(version, speaks)
            .unwrap_or_else(|e| panic!("P13: n{} was sent a snapshot that it cannot read: {e}", node + 1));
        if self.leader().is_some_and(|leader| self.nodes[leader].protocol != speaks) {
            self.mark(Mark::InstalledAcrossPrograms);
        }
    }

    /// In peace a leader that is not told to hold the version has raised it as far as all members speak. A member whose disk
    /// is ruined is not heard, and holds it back.
    pub fn is_version_settled(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let least = self.members().into_iter().map(|node| self.nodes[node].protocol).min().unwrap_or(OLD);
        let raft = &self.nodes[leader].process.as_ref().expect("it leads").state.raft;
        let is_heard = |id| self.nodes[machine_of(id)].process.is_some();
        let all_are_heard = self.oracle.membership().members.iter().all(|m| is_heard(m.member_id));
        let may_raise = all_are_heard && !self.nodes[leader].holds_version && raft.protocol() >= least;
        !may_raise || raft.version() >= least
    }

    /// For the coverage of the situation.
    pub fn mark_upgrade(&mut self) {
        if self.oracle.was_raised() {
            self.mark(Mark::UpgradedInTheEnd);
        }
    }
}
