//! Words of lost links. When the process of a leader dies, its system closes its links: the members at their other ends
//! look whether anybody still listens there, and tell their cores. Some are told late, some not at all. False words say
//! that of leaders that live. A process that stands still is told of to nobody, because its system keeps its sockets.

use dkv::raft::{Decision, MemberId, Term, VoteRefusal, majority};

use crate::members::machine_of;
use crate::node::NodeEvent;
use crate::report::Mark;
use crate::swarm::{Kind, Told, Words, exponential};
use crate::world::{NodeIndex, World};

/// Shorter than any election timeout.
const FAST_US: u64 = 70_000;

/// What a member is told: that the process that led this term has ended.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    pub leader: MemberId,
    pub term: Term,
    /// It had ended when somebody looked.
    pub is_true: bool,
}

/// A word that a core has taken.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    pub word: Word,
    /// When, by the time of the world.
    pub at: u64,
}

impl World {
    /// The members to which the process of this machine has links.
    pub fn linked(&self, node: NodeIndex) -> Vec<NodeIndex> {
        let process = self.nodes[node].process.as_ref();
        process.map_or(Vec::new(), |process| process.replicators.keys().copied().collect())
    }

    /// The process died, and the machine goes on: its links end.
    pub fn end_links(&mut self, node: NodeIndex, mut peers: Vec<NodeIndex>) {
        let words = self.swarm.words;
        peers.retain(|&peer| !self.net.cut[node][peer]);
        let rng = &mut self.nemesis.words;
        match words.told {
            Told::Nobody => peers.clear(),
            Told::One => {
                rng.shuffle(&mut peers);
                peers.truncate(1);
            }
            Told::Some => peers.retain(|_| rng.bool()),
            Told::Everybody => {}
        }
        for peer in peers {
            let after = exponential(&mut self.nemesis.words, words.delay_mean_us);
            self.plan_node_at(peer, self.now + after, NodeEvent::LinkEnded { caller: node });
        }
    }

    /// The other end of a link is gone: a member that follows its caller looks whether anybody listens there.
    pub fn look_for_the_caller(&mut self, node: NodeIndex, caller: NodeIndex) {
        let leader = self.nodes[caller].id;
        let raft = &self.process(node).state.raft;
        if raft.is_leader() || raft.leader() != Some(leader) {
            return;
        }
        let term = raft.term();
        let is_refused = self.nodes[caller].process.is_none()
            && !self.net.cut[node][caller]
            && !self.net.cut[caller][node];
        if is_refused {
            // The thread with the answer may get no time.
            let late = self.nemesis.words.f64() < self.swarm.words.late;
            let most = match late {
                true => self.swarm.election_timeout_us * [1, 12][self.nemesis.words.usize(0..2)],
                false => self.swarm.wake_max_us,
            };
            let after = self.nemesis.words.u64(0..=most);
            let word = Word { leader, term, is_true: true };
            self.plan_node_at(node, self.now + after, NodeEvent::LeaderLost(word));
        }
    }

    /// The core is told.
    pub fn tell(&mut self, node: NodeIndex, word: Word) {
        self.line(|| format!("n{} is told: {word:?}", node + 1));
        self.process(node).hearing = Some(word);
        self.step(node, |state, now| state.raft.handle_leader_lost(word.leader, word.term, now));
        let is_untaken = self.process(node).hearing.take().is_some();
        if is_untaken && word.is_true {
            self.mark(Mark::LateWordRefused);
            let raft = &self.process(node).state.raft;
            if raft.leader() == Some(word.leader) && raft.term() > word.term {
                self.mark(Mark::LateWordOfTheSameLeader);
            }
        }
    }

    /// The core has taken the word that it was told.
    pub fn take_word(&mut self, node: NodeIndex, leader: MemberId) {
        let word = self.process(node).hearing.take().expect("nobody else says so");
        let term = self.process(node).state.raft.term();
        assert!(
            (word.leader, word.term) == (leader, term),
            "n{} was told of {} in term {}, and gives up {leader} of term {term}",
            node + 1,
            word.leader,
            word.term
        );
        let lives = self.nodes[machine_of(leader)].process.is_some();
        match (word.is_true, lives) {
            (false, _) if self.leads(leader, term) => self.mark(Mark::FalseAlarm),
            (true, true) => self.mark(Mark::WordAfterRestart),
            (true, false) => self.mark(Mark::LostLeader),
            _ => {}
        }
        let at = self.now;
        self.process(node).taken = Some(Taken { word, at });
    }

    /// What a member decided soon after it had taken a word.
    pub fn mark_failover(&self, node: NodeIndex, what: &Decision) {
        let t = self.swarm.election_timeout_us;
        let taken = |node: NodeIndex| {
            let process = self.nodes[node].process.as_ref()?;
            process.taken.filter(|taken| self.now - taken.at < t).map(|taken| taken.word)
        };
        match what {
            Decision::Elected(..) => match taken(node) {
                Some(Word { is_true: true, .. }) => self.mark(Mark::LostLeaderElectedFast),
                Some(word) if self.leads(word.leader, word.term) => self.mark(Mark::DeposedByFalseAlarms),
                _ => {}
            },
            Decision::RefusedVote(candidate, VoteRefusal::LeaderIsAlive) => {
                if let Some(word) = taken(machine_of(*candidate))
                    && !word.is_true
                {
                    self.mark(Mark::FalseAlarmRefused);
                }
            }
            _ => {}
        }
    }

    fn leads(&self, leader: MemberId, term: Term) -> bool {
        let process = self.nodes[machine_of(leader)].process.as_ref();
        process.is_some_and(|p| p.state.raft.is_leader() && p.state.raft.term() == term)
    }

    /// A member is told of the leader that it follows, which may be one of an older term. Some words are of the term before.
    pub fn raise_false_alarm(&mut self, node: NodeIndex) {
        let Some(process) = &self.nodes[node].process else { return };
        let (raft, me) = (&process.state.raft, self.nodes[node].id);
        let Some(leader) = raft.leader().filter(|&leader| leader != me) else { return };
        let term = raft.term() - u64::from(self.nemesis.words.u8(0..8) == 0);
        let at = self.now + self.nemesis.words.u64(0..=self.swarm.wake_max_us);
        self.plan_node_at(node, at, NodeEvent::LeaderLost(Word { leader, term, is_true: false }));
    }

    /// One member is told falsely, or some, or all.
    pub fn raise_false_alarms(&mut self, node: NodeIndex) {
        let how = self.nemesis.words.u8(0..4);
        for other in 0..self.nodes.len() {
            let is_told = match how {
                0 | 1 => other == node,
                2 => self.nemesis.words.bool(),
                _ => true,
            };
            if is_told && !self.nemesis.spared[other] {
                self.raise_false_alarm(other);
            }
        }
    }

    /// Whether false alarms occur in this run.
    pub fn has_false_alarms(&self) -> bool {
        self.swarm.kinds.contains(&Kind::FalseAlarm)
    }

    /// In peace the process of the leader dies, and everybody is told. Another leader is elected, and mostly long before an
    /// election timeout: the seeds together say how often.
    pub fn fail_over(&mut self) {
        let voters = self.voters();
        let running = voters.iter().filter(|&&node| self.nodes[node].process.is_some()).count();
        let can_go_on = majority(voters.len()) < running;
        let Some(leader) = self.leader().filter(|_| can_go_on) else { return };
        self.swarm.words = Words { told: Told::Everybody, delay_mean_us: 500, late: 0.0 };
        self.line(|| "the leader dies in peace".to_owned());
        self.crash(leader, false);
        self.mark(Mark::FailedOver);
        let died_at = self.now;
        self.run_until(died_at + 2 * self.longest_timeout(), |world| world.leader().is_some());
        assert!(
            self.leader().is_some(),
            "no leader {} us after everybody was told of its death",
            self.now - died_at
        );
        if self.now - died_at <= FAST_US {
            self.mark(Mark::FailedOverFast);
        }
    }

    /// As many voters as make no majority are told falsely at one time. The next heartbeat proves them wrong.
    pub fn alarm_a_minority(&mut self) {
        let mut voters = self.voters();
        self.nemesis.words.shuffle(&mut voters);
        voters.truncate(majority(voters.len()) - 1);
        voters.into_iter().for_each(|node| self.raise_false_alarm(node));
    }
}
