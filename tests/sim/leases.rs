//! Holders of leases: each begins a lease, attaches a key to it, renews it for a while through any member, and stops.
//! The world knows when each renewal was sent, and sees the first member whose state has lost a lease: so both sides of
//! P10 are checked in true time, whatever the clocks of the members do.

use std::collections::BTreeMap;
use std::time::Duration;

use dkv::node::{Completion, Lead, Origin, Work, WriteResult};
use dkv::raft::Draft;
use dkv::store::{Applied, Command, Op, Outcome};
use dkv::vocabulary::{LeaseId, PutLease};

use crate::node::NodeEvent;
use crate::process::{Done, WriteFor};
use crate::report::Mark;
use crate::swarm::{Stream, Swarm};
use crate::world::{Event, NodeIndex, World};

/// As in production.
const TICK_US: u64 = 100_000;

const SECOND_US: u64 = 1_000_000;

/// The time to live of the lease that ends in peace: several leaders may die meanwhile.
const LAST_TTL_S: u64 = 6;

/// What happens to a holder, or on its way to a member.
pub enum ToHolder {
    /// It does what is next.
    Act,
    /// Its request reaches a member.
    Arrive { node: NodeIndex, sent: Sent },
    /// An answer reaches it.
    Answer { sent: Sent, result: WriteResult },
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub holder: usize,
    pub lease: LeaseId,
    what: What,
    /// When it was sent, in the time of the world.
    at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Grant,
    Put,
    Renew,
    Revoke,
}

/// What is known of one lease.
#[derive(Clone, Copy, Debug)]
struct Life {
    ttl_us: u64,
    /// The last grant or renewal that was acknowledged was sent at this time.
    sent: Option<u64>,
    /// It was to be revoked: it may end at any time.
    is_revoked: bool,
    /// The first member has lost it at this time.
    ended: Option<u64>,
}

struct Holder {
    lease: Option<LeaseId>,
    /// Renewals until it stops.
    renewals: u32,
}

/// All holders, and every lease that ever was.
pub struct Holders {
    holders: Vec<Holder>,
    lives: BTreeMap<LeaseId, Life>,
    last: u64,
    is_stopping: bool,
    rng: fastrand::Rng,
}

impl Holders {
    /// None in most runs.
    pub fn new(swarm: &Swarm) -> Holders {
        let mut rng = Stream::Leases.rng(swarm.seed);
        let count = if swarm.operations.leases { rng.usize(1..=3) } else { 0 };
        let holder = || Holder { lease: None, renewals: 0 };
        let holders = (0..count).map(|_| holder()).collect();
        Holders { holders, lives: BTreeMap::new(), last: 0, is_stopping: false, rng }
    }
}

impl World {
    /// Lets the holders begin.
    pub fn start_holders(&mut self) {
        for holder in 0..self.holders.holders.len() {
            let after = self.holders.rng.u64(0..SECOND_US);
            self.plan(after, Event::Holder { holder, what: ToHolder::Act });
        }
    }

    pub fn handle_holder_event(&mut self, holder: usize, what: ToHolder) {
        match what {
            ToHolder::Act => self.act(holder),
            ToHolder::Arrive { node, sent } => {
                let machine = &mut self.nodes[node];
                if machine.is_stopped() {
                    machine.backlog(Event::Holder { holder, what: ToHolder::Arrive { node, sent } });
                } else if machine.process.is_some() {
                    self.submit_lease(node, sent);
                }
            }
            ToHolder::Answer { sent, result } => self.learn(sent, result),
        }
    }

    fn act(&mut self, holder: usize) {
        if self.holders.is_stopping {
            return;
        }
        let holders = &mut self.holders;
        let me = &mut holders.holders[holder];
        let again = match me.lease {
            None => {
                holders.last += 1;
                let lease = LeaseId::new(holders.last).expect("a name");
                let ttl_us = holders.rng.u64(1..=3) * SECOND_US;
                let life = Life { ttl_us, sent: None, is_revoked: false, ended: None };
                holders.lives.insert(lease, life);
                (me.lease, me.renewals) = (Some(lease), holders.rng.u32(0..12));
                self.send(holder, lease, What::Grant);
                self.send(holder, lease, What::Put);
                ttl_us / 4
            }
            Some(lease) if me.renewals > 0 => {
                me.renewals -= 1;
                let ttl_us = holders.lives[&lease].ttl_us;
                // Often in time, sometimes at the last moment or too late.
                let again = holders.rng.u64(ttl_us / 8..=ttl_us * 9 / 8);
                let what = if holders.rng.bool() { What::Put } else { What::Renew };
                self.send(holder, lease, What::Renew);
                self.send(holder, lease, what);
                again
            }
            Some(lease) => {
                me.lease = None;
                if holders.rng.u8(0..3) == 0 {
                    if let Some(life) = holders.lives.get_mut(&lease) {
                        life.is_revoked = true;
                    }
                    self.send(holder, lease, What::Revoke);
                }
                SECOND_US / 2
            }
        };
        self.plan(again, Event::Holder { holder, what: ToHolder::Act });
    }

    fn send(&mut self, holder: usize, lease: LeaseId, what: What) {
        let node = self.holders.rng.usize(0..self.nodes.len());
        let delay = self.holders.rng.u64(1..=self.swarm.election_timeout_us / 50);
        let sent = Sent { holder, lease, what, at: self.now };
        self.plan(delay, Event::Holder { holder, what: ToHolder::Arrive { node, sent } });
    }

    fn submit_lease(&mut self, node: NodeIndex, sent: Sent) {
        let Sent { lease, what, .. } = sent;
        let ttl_s = self.holders.lives[&lease].ttl_us / SECOND_US;
        let op = match what {
            What::Grant => Op::LeaseGrant { lease, ttl_s, is_chosen: true },
            What::Renew => Op::LeaseRenew { leases: vec![lease] },
            What::Revoke => Op::LeaseRevoke { lease },
            What::Put => {
                let key = format!("held/{lease}").into_bytes();
                Op::Put { key, value: b"held".to_vec(), lease: PutLease::Attach(lease) }
            }
        };
        let mailbox = self.nodes[node].process.as_ref().expect("it runs").mailbox.clone();
        let done: Completion<WriteResult> = Box::new(move |result| {
            mailbox.lock().expect("one thread").push(Done::Write(WriteFor::Holder(sent), result));
        });
        self.propose_unheard(node, op, Origin::Client, done);
    }

    /// Proposes what nobody remembers the answer to.
    pub fn propose_unheard(
        &mut self,
        node: NodeIndex,
        op: Op,
        origin: Origin,
        done: Completion<WriteResult>,
    ) {
        let command = Command { op, condition: None, idempotency: None, wall_ms: 0, actor: String::new() };
        let work = Work::Write { command: Some(Draft::command(&command.encode())), done };
        let patience = Duration::from_micros(20 * self.swarm.election_timeout_us);
        self.submit_write(node, &command, work, origin, patience);
    }

    /// A member answers a holder.
    pub fn answer_holder(&mut self, sent: Sent, result: WriteResult) {
        let delay = self.holders.rng.u64(1..=self.swarm.election_timeout_us / 50);
        self.plan(delay, Event::Holder { holder: sent.holder, what: ToHolder::Answer { sent, result } });
    }

    fn learn(&mut self, sent: Sent, result: WriteResult) {
        let Ok(Applied { outcome, .. }) = result else { return };
        let lives = match (&outcome, sent.what) {
            (Outcome::LeaseGranted { .. }, What::Grant) => true,
            (Outcome::LeasesRenewed { ttls_s }, What::Renew) => ttls_s[0] > 0,
            _ => false,
        };
        if sent.what == What::Renew {
            self.mark(if lives { Mark::LeaseRenewed } else { Mark::LeaseLost });
        }
        let Some(life) = self.holders.lives.get_mut(&sent.lease).filter(|_| lives) else { return };
        life.sent = life.sent.max(Some(sent.at));
        let life = *life;
        self.check_lived(sent.lease, life);
    }

    /// P10, the one side: a lease lives at least its time to live from the sending of its last renewal that was
    /// acknowledged, by clocks that run at most a tenth too fast.
    fn check_lived(&self, lease: LeaseId, life: Life) {
        let Life { ttl_us, sent: Some(sent), is_revoked: false, ended: Some(ended) } = life else { return };
        assert!(
            ended >= sent + ttl_us * 10 / 11,
            "P10: the lease {lease} of {ttl_us} us was renewed by a request of {sent} and ended at {ended}"
        );
    }

    /// A member has applied entries: which leases have ended?
    pub fn see_leases(&mut self, node: NodeIndex) {
        let process = self.nodes[node].process.as_ref().expect("it runs");
        if process.kv.has_leases() && !process.keeper.is_awake {
            let at = self.now + self.nodes[node].clock.duration_to_world(TICK_US);
            self.process(node).keeper.is_awake = true;
            self.plan_node_at(node, at, NodeEvent::LeaseKeeper);
        }
        if self.holders.holders.is_empty() {
            return;
        }
        let process = self.nodes[node].process.as_ref().expect("it runs");
        let kv = &process.kv;
        let known = &process.keeper.seen;
        let gone: Vec<LeaseId> = known.iter().filter(|lease| kv.lease(**lease).is_none()).copied().collect();
        let seen = kv.leases_after(None).map(|lease| lease.lease).collect();
        self.process(node).keeper.seen = seen;
        for lease in gone {
            let Some(life) = self.holders.lives.get_mut(&lease).filter(|life| life.ended.is_none()) else {
                continue;
            };
            life.ended = Some(self.now);
            let life = *life;
            self.line(|| format!("the lease {lease} has ended at n{}", node + 1));
            self.check_lived(lease, life);
            if !life.is_revoked {
                self.mark(Mark::LeaseExpired);
            }
        }
    }

    /// The keeper looks, as its thread does.
    pub fn run_lease_keeper(&mut self, node: NodeIndex) {
        let clock = self.nodes[node].clock;
        let now = clock.show(self.now);
        let process = self.process(node);
        let lead = Lead::of(&process.state.raft, now);
        let op = process.keeper.keeper.look(lead, &process.kv, now);
        process.keeper.is_awake = process.kv.has_leases();
        if process.keeper.is_awake {
            let at = self.now + clock.duration_to_world(TICK_US);
            self.plan_node_at(node, at, NodeEvent::LeaseKeeper);
        }
        if let Some(op) = op {
            if matches!(&op, Op::LeaseExpire { leases } if leases.is_empty()) {
                self.mark(Mark::TimeKept);
            }
            self.propose_unheard(node, op, Origin::Forwarded, Box::new(|_| ()));
        }
    }

    /// P10, the other side: in a quiet store whose leaders die one after the other every lease ends in time.
    pub fn end_leases(&mut self) {
        if self.holders.holders.is_empty() {
            return;
        }
        self.clients.stop();
        self.holders.is_stopping = true;
        let timeout = self.longest_timeout();
        self.run_until(self.now + 200 * timeout, |world| world.clients.are_idle());
        // What is still under way arrives.
        self.run_until(self.now + 25 * timeout, |_| false);
        self.grant_in_peace();
        let (start, mut bound) = (self.now, 0);
        let members = self.members();
        if members.len() >= 3 {
            let deaths = self.holders.rng.u64(0..=4);
            for _ in 0..deaths {
                let until = self.now + self.holders.rng.u64(SECOND_US..4 * SECOND_US);
                self.run_until(until, |_| false);
                let Some(leader) = self.leader() else { continue };
                self.crash(leader, false);
                let died = self.now;
                self.run_until(self.now + 50 * timeout, |world| world.leader().is_some());
                self.start(leader);
                // The time without a leader, and two seconds by the slowest clock.
                bound += self.now - died + 2 * SECOND_US * 10 / 9;
                self.mark(Mark::LeaderDiedQuiet);
            }
        }
        // The longest time to live, and the grace of the leader of now: its clock may be the slowest.
        bound += (LAST_TTL_S + 2) * SECOND_US * 10 / 9 + timeout;
        self.run_until((start + bound).max(self.now), |world| world.has_no_leases());
        assert!(self.has_no_leases(), "P10: leases live {} us after the last renewal", self.now - start);
    }

    /// A lease that outlives some leaders if nobody keeps the time.
    fn grant_in_peace(&mut self) {
        let lease = LeaseId::new(1 << 40).expect("a name");
        let leader = self.leader().expect("somebody leads in peace");
        let op = Op::LeaseGrant { lease, ttl_s: LAST_TTL_S, is_chosen: true };
        self.propose_unheard(leader, op, Origin::Forwarded, Box::new(|_| ()));
        let has_it = |world: &World| {
            let process = |node: NodeIndex| world.nodes[node].process.as_ref();
            world.members().into_iter().all(|node| process(node).is_some_and(|p| p.kv.lease(lease).is_some()))
        };
        self.run_until(self.now + 10 * self.longest_timeout(), has_it);
        assert!(has_it(self), "no lease is granted in peace");
    }

    fn has_no_leases(&self) -> bool {
        self.members()
            .into_iter()
            .all(|node| self.nodes[node].process.as_ref().is_some_and(|process| !process.kv.has_leases()))
    }
}
