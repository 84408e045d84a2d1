//! The network: RPCs as HTTP behaves. A request may be lost, or executed with its reply lost; it may be delivered twice,
//! or once more much later; every message takes its own time, so different calls overtake each other; and links may be
//! cut in each direction on its own.

use std::collections::BTreeMap;
use std::time::Duration;

use dkv::node::{Administration, LeaderCall, PeerError, PeerReply, PeerRequest};
use dkv::raft::Ticket;

use crate::node::NodeEvent;
use crate::report::Mark;
use crate::shape::{Cut, whole};
use crate::swarm::{LONGEST_DELAY_US, NetFaults, Stream, Swarm, exponential};
use crate::world::{Event, NodeIndex, World};

/// Numbers the RPCs of a run.
pub type CallId = u64;

/// The thread that waits for the result of an RPC, and what it has to bring back with it.
#[derive(Debug)]
pub enum Caller {
    Replicator(Ticket),
    Sender(Ticket),
    /// Nobody's thread: the operator waits.
    Operator(Administration),
    Forwarder(Vec<u64>),
    ReadAsker(Vec<u64>),
}

/// What the network has in store.
pub enum NetEvent {
    /// A request reaches a member. Without a call it is a second delivery: executed, and its reply dropped.
    Arrive { from: NodeIndex, to: NodeIndex, call: Option<CallId>, request: PeerRequest },
    /// A call ends for its caller.
    End { call: CallId, result: Result<PeerReply, PeerError> },
    /// The genesis entry reaches a machine.
    Initialization { to: NodeIndex },
}

/// An RPC whose caller still waits.
struct Call {
    from: NodeIndex,
    to: NodeIndex,
    life: u64,
    caller: Caller,
}

/// The links and what is under way.
pub struct Net {
    pub faults: NetFaults,
    pub cut: Cut,
    /// How much longer than others each link takes.
    pub lag_us: Vec<Vec<u64>>,
    calls: BTreeMap<CallId, Call>,
    last_call: CallId,
    rng: fastrand::Rng,
}

impl Net {
    /// Whole links with the seed's faults.
    pub fn new(swarm: &Swarm) -> Net {
        Net {
            faults: swarm.net.clone(),
            cut: whole(swarm.machines()),
            lag_us: vec![vec![0; swarm.machines()]; swarm.machines()],
            calls: BTreeMap::new(),
            last_call: 0,
            rng: Stream::Net.rng(swarm.seed),
        }
    }

    /// Quick and faithful from now on; what is still under way arrives, however late. Cut links stay cut.
    pub fn calm(&mut self, delay_mean_us: u64) {
        self.lag_us.iter_mut().flatten().for_each(|lag| *lag = 0);
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

    /// The seed's faults again, as far as a majority can work with them.
    pub fn be_unkind(&mut self, swarm: &Swarm) {
        let most = &swarm.net;
        // One lost append ends a leadership that needs every answer, so many small ones must not be lost often.
        let most_lost = if swarm.max_append_bytes < 1_000 { 0.01 } else { 0.05 };
        self.faults = NetFaults {
            delay_mean_us: most.delay_mean_us.min(swarm.election_timeout_us / 60),
            tail: most.tail.min(most_lost / 2.0),
            lose_request: most.lose_request.min(most_lost),
            lose_reply: most.lose_reply.min(most_lost),
            ..most.clone()
        };
    }

    /// Repairs every link.
    pub fn heal(&mut self) {
        self.cut.iter_mut().flatten().for_each(|cut| *cut = false);
    }

    /// How long a message takes.
    fn delay(&mut self, from: NodeIndex, to: NodeIndex) -> u64 {
        let base = exponential(&mut self.rng, self.faults.delay_mean_us);
        let tail = self.chance(self.faults.tail);
        let tail = if tail { exponential(&mut self.rng, self.faults.tail_mean_us) } else { 0 };
        (base + tail + self.lag_us[from][to]).min(LONGEST_DELAY_US)
    }

    /// How long the genesis entry takes; `None` when it is lost.
    pub fn bootstrap_delay(&mut self, from: NodeIndex, to: NodeIndex) -> Option<u64> {
        let is_lost = self.cut[from][to] || self.chance(self.faults.lose_request);
        (!is_lost).then(|| self.delay(from, to))
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.f64() < probability
    }
}

impl World {
    /// Sends a request on behalf of a thread of the process `from`.
    pub fn send_rpc(
        &mut self,
        from: NodeIndex,
        to: NodeIndex,
        request: PeerRequest,
        caller: Caller,
        timeout: Duration,
    ) {
        self.net.last_call += 1;
        let call = self.net.last_call;
        let life = self.nodes[from].life;
        // HTTP does not double what people wrote; votes and appends must bear it.
        let may_double = matches!(caller, Caller::Replicator(_) | Caller::Sender(_));
        self.net.calls.insert(call, Call { from, to, life, caller });
        let is_cut = self.net.cut[from][to];
        let is_lost = is_cut || self.net.chance(self.net.faults.lose_request);
        let error = match is_lost && self.net.rng.bool() {
            true => PeerError::NotSent("no connection".to_owned()),
            false => PeerError::Unknown("timeout".to_owned()),
        };
        let patience = self.nodes[from].clock.duration_to_world(timeout.as_micros() as u64);
        self.plan(patience, Event::Net(NetEvent::End { call, result: Err(error) }));
        if !is_lost {
            let delay = self.net.delay(from, to);
            let request = request.clone();
            self.plan(delay, Event::Net(NetEvent::Arrive { from, to, call: Some(call), request }));
        }
        if is_cut || !may_double {
            return;
        }
        if self.net.chance(self.net.faults.duplicate) {
            self.mark(Mark::Duplicated);
            let delay = self.net.delay(from, to);
            let request = request.clone();
            self.plan(delay, Event::Net(NetEvent::Arrive { from, to, call: None, request }));
        }
        if self.net.chance(self.net.faults.replay) {
            self.mark(Mark::Replayed);
            let delay = self.net.rng.u64(1..=LONGEST_DELAY_US);
            self.plan(delay, Event::Net(NetEvent::Arrive { from, to, call: None, request }));
        }
    }

    /// Sends a reply that may leave.
    pub fn send_reply(&mut self, from: NodeIndex, to: NodeIndex, call: CallId, reply: PeerReply) {
        self.line(|| format!("n{} answers n{}: {reply:?}", from + 1, to + 1));
        if self.net.cut[from][to] || self.net.chance(self.net.faults.lose_reply) {
            return;
        }
        let delay = self.net.delay(from, to);
        self.plan(delay, Event::Net(NetEvent::End { call, result: Ok(reply) }));
    }

    /// Sends word that a request was refused before it reached the core.
    pub fn send_refusal(&mut self, from: NodeIndex, to: NodeIndex, call: CallId, error: PeerError) {
        if !self.net.cut[from][to] {
            let delay = self.net.delay(from, to);
            self.plan(delay, Event::Net(NetEvent::End { call, result: Err(error) }));
        }
    }

    /// Interrupts the call of the forwarder, or of the read-asker, to a former leader.
    pub fn cancel_calls(&mut self, from: NodeIndex, to: NodeIndex, kind: LeaderCall) {
        let life = self.nodes[from].life;
        let is_meant = |call: &Call| {
            let is_kind = match call.caller {
                Caller::Replicator(_) | Caller::Sender(_) | Caller::Operator(_) => false,
                Caller::Forwarder(_) => kind == LeaderCall::Forward,
                Caller::ReadAsker(_) => kind == LeaderCall::ReadIndex,
            };
            is_kind && (call.from, call.to, call.life) == (from, to, life)
        };
        let calls: Vec<CallId> =
            self.net.calls.iter().filter(|(_, c)| is_meant(c)).map(|(&id, _)| id).collect();
        for call in calls {
            self.mark(Mark::CallCancelled);
            let result = Err(PeerError::Unknown("cancelled".to_owned()));
            self.plan(0, Event::Net(NetEvent::End { call, result }));
        }
    }

    pub fn handle_net_event(&mut self, event: NetEvent) {
        match event {
            NetEvent::Arrive { from, to, call, request } => {
                if self.nodes[to].is_stopped() {
                    // The kernel keeps what arrives for a stopped process.
                    let event = Event::Net(NetEvent::Arrive { from, to, call, request });
                    return self.nodes[to].backlog(event);
                }
                if self.nodes[to].process.is_some() {
                    self.handle_request(to, from, call, request);
                } else if let Some(call) = call {
                    self.end_call(call, Err(self.nodes[to].nobody()));
                }
            }
            NetEvent::End { call, result } => self.end_call(call, result),
            NetEvent::Initialization { to } => self.be_initialized(to),
        }
    }

    /// Hands the result to the thread that waits for it, if it still does.
    fn end_call(&mut self, call: CallId, result: Result<PeerReply, PeerError>) {
        match self.net.calls.remove(&call) {
            Some(Call { from, to, life, caller }) => {
                self.handle_node_event(from, life, NodeEvent::CallEnded { peer: to, caller, result });
            }
            None if result.is_ok() => self.mark(Mark::ReplyTooLate),
            None => {}
        }
    }
}
