//! The network: RPCs as HTTP behaves. A request may be lost, or executed with its reply lost; it may be delivered twice,
//! or once more much later; every message takes its own time, so different calls overtake each other; and links may be
//! cut in each direction on its own.

use std::collections::BTreeMap;

use dkv::raft::{RpcFailed, RpcReply, RpcRequest, Ticket};

use crate::node::NodeEvent;
use crate::report::Mark;
use crate::swarm::{NetFaults, Stream, Swarm, exponential};
use crate::world::{Event, NodeIndex, World};

/// Numbers the RPCs of a run.
pub type CallId = u64;

/// What the network has in store.
pub enum NetEvent {
    /// A request reaches a member. Without a call it is a second delivery: executed, and its reply dropped.
    Arrive { epoch: u64, from: NodeIndex, to: NodeIndex, call: Option<CallId>, request: RpcRequest },
    /// A reply reaches its caller.
    Return { call: CallId, reply: RpcReply },
    /// The caller has waited long enough.
    GiveUp { call: CallId },
}

/// An RPC whose caller still waits.
struct Call {
    from: NodeIndex,
    life: u64,
    ticket: Ticket,
}

/// The links and what is under way.
pub struct Net {
    pub faults: NetFaults,
    /// `cut[from][to]`: nothing gets through.
    pub cut: Vec<Vec<bool>>,
    /// What was sent in an earlier epoch is lost: the network was calmed in between.
    epoch: u64,
    calls: BTreeMap<CallId, Call>,
    last_call: CallId,
    rng: fastrand::Rng,
}

impl Net {
    /// Whole links with the seed's faults.
    pub fn new(swarm: &Swarm) -> Net {
        Net {
            faults: swarm.net.clone(),
            cut: vec![vec![false; swarm.voters]; swarm.voters],
            epoch: 0,
            calls: BTreeMap::new(),
            last_call: 0,
            rng: Stream::Net.rng(swarm.seed),
        }
    }

    /// Quick and faithful from now on; what is still under way is lost. Cut links stay cut.
    pub fn calm(&mut self, delay_mean_us: u64) {
        self.epoch += 1;
        self.faults = NetFaults {
            delay_mean_us,
            tail: 0.0,
            tail_mean_us: 1,
            lose_request: 0.0,
            lose_reply: 0.0,
            duplicate: 0.0,
            replay: 0.0,
        };
    }

    /// Repairs every link.
    pub fn heal(&mut self) {
        self.cut.iter_mut().flatten().for_each(|cut| *cut = false);
    }

    /// How long a message takes.
    pub fn delay(&mut self) -> u64 {
        let base = exponential(&mut self.rng, self.faults.delay_mean_us);
        let tail = self.chance(self.faults.tail);
        base + if tail { exponential(&mut self.rng, self.faults.tail_mean_us) } else { 0 }
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.f64() < probability
    }
}

impl World {
    /// Sends a request on behalf of the process `from`, whose replicator waits for the result.
    pub fn send_rpc(&mut self, from: NodeIndex, to: NodeIndex, request: RpcRequest, ticket: Ticket) {
        self.net.last_call += 1;
        let call = self.net.last_call;
        let life = self.nodes[from].life;
        let epoch = self.net.epoch;
        self.net.calls.insert(call, Call { from, life, ticket });
        // Bounded in total by the minimum election timeout, on the caller's clock.
        let timeout = self.nodes[from].clock.duration_to_world(self.swarm.election_timeout_us);
        self.plan(timeout, Event::Net(NetEvent::GiveUp { call }));
        if self.net.cut[from][to] {
            return;
        }
        let is_lost = self.net.chance(self.net.faults.lose_request);
        if !is_lost {
            let delay = self.net.delay();
            let request = request.clone();
            self.plan(delay, Event::Net(NetEvent::Arrive { epoch, from, to, call: Some(call), request }));
        }
        if self.net.chance(self.net.faults.duplicate) {
            self.mark(Mark::Duplicated);
            let delay = self.net.delay();
            let request = request.clone();
            self.plan(delay, Event::Net(NetEvent::Arrive { epoch, from, to, call: None, request }));
        }
        if self.net.chance(self.net.faults.replay) {
            self.mark(Mark::Replayed);
            let delay = self.net.rng.u64(1..=40 * self.swarm.election_timeout_us);
            self.plan(delay, Event::Net(NetEvent::Arrive { epoch, from, to, call: None, request }));
        }
    }

    /// Sends a reply that may leave.
    pub fn send_reply(&mut self, from: NodeIndex, to: NodeIndex, call: CallId, reply: RpcReply) {
        if self.net.cut[from][to] || self.net.chance(self.net.faults.lose_reply) {
            return;
        }
        let delay = self.net.delay();
        self.plan(delay, Event::Net(NetEvent::Return { call, reply }));
    }

    pub fn handle_net_event(&mut self, event: NetEvent) {
        match event {
            NetEvent::Arrive { epoch, from, to, call, request } => {
                if epoch != self.net.epoch {
                    return;
                }
                if self.nodes[to].is_stopped() {
                    // The kernel keeps what arrives for a stopped process.
                    let event = Event::Net(NetEvent::Arrive { epoch, from, to, call, request });
                    return self.nodes[to].backlog(event);
                }
                if self.nodes[to].process.is_some() {
                    self.handle_request(to, from, call, request);
                } else if let Some(call) = call {
                    // Refused at once: nobody listens.
                    self.end_call(call, Err(RpcFailed));
                }
            }
            NetEvent::Return { call, reply } => self.end_call(call, Ok(reply)),
            NetEvent::GiveUp { call } => self.end_call(call, Err(RpcFailed)),
        }
    }

    /// Hands the result to the replicator that waits for it, if it still does.
    fn end_call(&mut self, call: CallId, result: Result<RpcReply, RpcFailed>) {
        match self.net.calls.remove(&call) {
            Some(Call { from, life, ticket }) => {
                self.handle_node_event(from, life, NodeEvent::RpcResult { ticket, result });
            }
            None if result.is_ok() => self.mark(Mark::ReplyTooLate),
            None => {}
        }
    }
}
