//! One run from its seed to its verdict: chaos, sometimes a long time in one shape of the network, then peace, in which
//! the cluster has to come back, agree, and account for everything its clients were told.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use dkv::raft::{EntryKind, majority};

use crate::control;
use crate::history::{self, Replay};
use crate::report::{Counters, Mark, Report, TraceMode};
use crate::swarm::{Sabotage, Swarm};
use crate::world::World;

/// What a run without fault leaves.
pub struct Passed {
    pub hash: u64,
    pub counters: Counters,
}

/// Runs a seed whose draw is changed: what was wrong, if anything.
pub fn verdict(seed: u64, change: fn(&mut Swarm)) -> Result<(), String> {
    attempt(seed, change, TraceMode::Hash).0
}

/// Runs a seed. A failure is run again with its trace and comes back as text.
pub fn run(seed: u64) -> Result<Passed, String> {
    match attempt(seed, |_| (), TraceMode::Hash) {
        (Ok(()), report) => {
            let report = report.borrow();
            Ok(Passed { hash: report.hash(), counters: report.counters.clone() })
        }
        (Err(what), _) => {
            let (again, report) = attempt(seed, |_| (), TraceMode::Last);
            let report = report.borrow();
            let lines: Vec<&str> = report.last_lines().collect();
            let note = match again {
                Err(again) if again == what => "",
                _ => "\nNOT DETERMINISTIC: the replay ended otherwise",
            };
            Err(format!(
                "{}\n\nseed {seed} failed: {what}{note}\nreplay it with its whole trace:\n    make sim SEED={seed}\n",
                lines.join("\n")
            ))
        }
    }
}

/// Runs a seed and prints everything.
pub fn replay(seed: u64) {
    eprintln!("{:#?}", Swarm::draw(seed));
    let (result, report) = attempt(seed, |_| (), TraceMode::Print);
    let report = report.borrow();
    eprintln!("{}trace hash {:016x}", report.counters.summary(), report.hash());
    if let Err(what) = result {
        panic!("seed {seed} failed: {what}");
    }
}

fn attempt(seed: u64, change: fn(&mut Swarm), mode: TraceMode) -> (Result<(), String>, Rc<RefCell<Report>>) {
    let mut swarm = Swarm::draw(seed);
    change(&mut swarm);
    let report = Rc::new(RefCell::new(Report::new(mode)));
    let shared = report.clone();
    let result = catch_unwind(AssertUnwindSafe(move || live(swarm, shared)));
    let result = result.map_err(|panic| match panic.downcast_ref::<String>() {
        Some(text) => text.clone(),
        None => panic.downcast_ref::<&str>().map_or("a panic without text", |text| text).to_owned(),
    });
    (result, report)
}

fn live(swarm: Swarm, report: Rc<RefCell<Report>>) {
    let mut world = World::new(swarm, report);
    world.start_clients();
    world.start_holders();
    world.start_watchers();
    world.start_nemesis(true);
    world.run_until(world.swarm.chaos_us, |_| false);
    world.end_nemesis();
    world.line(|| "the chaos is over".to_owned());
    if let Some(standing) = world.swarm.standing {
        world.stand(standing);
    }
    world.recover();
    world.end_leases();
    world.converge();
    world.judge();
    world.dissect();
    world.stay_calm();
    world.fail_over();
}

impl World {
    /// An election timeout at its longest, by the slowest clock.
    pub fn longest_timeout(&self) -> u64 {
        self.swarm.max_election_timeout_us() * 10 / 9 + 1
    }

    /// Whatever was disturbed is not any more; links stay as they are.
    pub fn calm(&mut self) {
        let t = self.swarm.election_timeout_us;
        self.net.calm(t / 1_000);
        self.calm_machines(t / 1_000);
    }

    /// After the last fault there is a leader within three election timeouts and a write within five, and the time it
    /// takes to notice that a call went to the dead.
    fn recover(&mut self) {
        self.line(|| "everything is whole".to_owned());
        self.net.heal();
        self.calm();
        self.start_probe();
        let (start, timeout) = (self.now, self.longest_timeout());
        let notice = timeout / 2;
        self.run_until(start + notice + 3 * timeout, |world| world.has_leader());
        assert!(self.has_leader(), "no leader {} us after the last fault", self.now - start);
        let committed = self.oracle.commit_index();
        self.run_until(start + notice + 5 * timeout, |world| world.has_committed_a_write_since(committed));
        assert!(
            self.has_committed_a_write_since(committed),
            "no write {} us after the last fault",
            self.now - start
        );
    }

    fn has_leader(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let raft = |node: usize| {
            self.nodes[node].process.as_ref().map(|p| (p.state.raft.term(), p.state.raft.leader()))
        };
        let agreed = raft(leader);
        let voters = self.voters();
        voters.iter().filter(|&&node| raft(node) == agreed).count() >= majority(voters.len())
    }

    pub fn has_committed_a_write_since(&self, committed: u64) -> bool {
        self.oracle.committed[committed as usize..].iter().any(|entry| entry.kind() == EntryKind::Command)
    }

    /// The clients finish, and every member ends with the same state.
    fn converge(&mut self) {
        self.clients.stop();
        let timeout = self.longest_timeout();
        self.run_until(self.now + 200 * timeout, |world| world.clients.are_idle());
        self.close_history();
        self.run_until(self.now + 50 * timeout, |world| world.has_converged());
        self.mark_upgrade();
        if !self.has_converged() {
            let states: Vec<String> = self.nodes.iter().map(|m| m.describe()).collect();
            panic!("the members do not agree: {}", states.join("; "));
        }
    }

    /// Nobody disturbs a leader in peace, those that were removed and have not heard of it included: terms stay as they are.
    /// After everything was judged, for a write that was given up may still arrive.
    fn stay_calm(&mut self) {
        let term = self.highest_term();
        let mut is_beside_removed = false;
        let end = self.now + 4 * self.longest_timeout();
        // A member that was told falsely hears a heartbeat before others are told.
        let (alarms, pause) = (self.has_false_alarms(), 3 * self.swarm.heartbeat_us + 20_000);
        while self.now < end {
            if alarms {
                self.alarm_a_minority();
            }
            let until = if alarms { end.min(self.now + pause) } else { end };
            self.run_until(until, |world| {
                is_beside_removed |= world.nodes.iter().any(|machine| {
                    machine.process.is_some() && world.oracle.membership().get(machine.id).is_none()
                });
                false
            });
        }
        let after = self.highest_term();
        assert!(after == term, "from term {term} to {after} in peace; the leader is {:?}", self.leader());
        if alarms {
            self.mark(Mark::CalmUnderFalseAlarms);
        }
        if is_beside_removed {
            self.mark(Mark::CalmBesideRemoved);
        }
    }

    /// Of the members; who was removed may count on for itself.
    fn highest_term(&self) -> u64 {
        let running = self.members().into_iter().filter_map(|node| self.nodes[node].process.as_ref());
        running.map(|process| process.state.raft.term()).max().expect("members run")
    }

    fn has_converged(&self) -> bool {
        let target = self.oracle.commit_index();
        self.is_membership_stable()
            && self.is_version_settled()
            && self.members().into_iter().map(|node| &self.nodes[node]).all(|machine| {
                machine.process.as_ref().is_some_and(|p| {
                    p.state.raft.last_applied() == target
                        && p.state.raft.last().index == target
                        && p.state.raft.persisted_index() == target
                })
            })
    }

    /// P1 to P5 on what the clients were told.
    fn judge(&mut self) {
        let replay = Replay::new(&self.oracle.committed, &self.swarm.settings);
        for node in self.members() {
            let machine = &self.nodes[node];
            let kv = &machine.process.as_ref().expect("everybody is up").kv;
            let revision = replay.model.revision();
            assert!(kv.revision() == revision, "revision {} of {revision}", kv.revision());
            for (key, cell) in replay.model.now() {
                let record =
                    kv.get(key, None).expect("the latest revision can be read").expect("the map has it");
                assert!(
                    (record.value, record.create_revision, record.mod_revision, record.version, record.lease)
                        == (
                            &cell.value[..],
                            cell.create_revision,
                            cell.mod_revision,
                            cell.version,
                            cell.lease
                        ),
                    "the plain map has {cell:?}, a member {record:?}"
                );
            }
        }
        self.check_watchers(&replay.model);
        history::check(&replay, &self.clients.history, &self.clients.attempts, &mut self.report.borrow_mut());
        if self.swarm.sabotage == Some(Sabotage::StaleRead) && control::forge(&mut self.clients.history) {
            let is_decided = history::check_linearizable(&replay, &self.clients.history, self.swarm.keys);
            panic!("a forged answer passed{}", if is_decided { "" } else { ": the search did not end" });
        }
        if !history::check_linearizable(&replay, &self.clients.history, self.swarm.keys) {
            self.line(|| "the search for an order did not end".to_owned());
            self.report.borrow_mut().counters.undecided += 1;
        }
    }

    /// P7: whatever bit flips in what was synced, the log is refused.
    fn dissect(&mut self) {
        for node in 0..self.nodes.len() {
            let machine = &mut self.nodes[node];
            if !machine.is_ruined && machine.is_initialized && machine.disk.autopsy() {
                self.mark(Mark::FlipRefused);
            }
        }
    }
}
