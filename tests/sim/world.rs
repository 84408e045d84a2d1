//! The world of one run: virtual time, the heap of things to come, and everything that lives in it. One thread, one
//! seed, no clock of the machine.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use crate::client::{Clients, ToClient};
use crate::leases::{Holders, ToHolder};
use crate::members::Operator;
use crate::nemesis::{Act, Nemesis};
use crate::net::{Net, NetEvent};
use crate::node::{Machine, NodeEvent};
use crate::oracle::Oracle;
use crate::report::{Mark, Report};
use crate::swarm::{Stream, Swarm};
use crate::watchers::Watchers;

/// Index of a member in the world; its identity is one more.
pub type NodeIndex = usize;

/// Something to come.
pub enum Event {
    /// A thread of one process has something to do. Lost when that process is gone.
    Node { node: NodeIndex, life: u64, what: NodeEvent },
    /// A message arrives, or an RPC ends.
    Net(NetEvent),
    /// A client goes on.
    Client { client: usize, what: ToClient },
    /// A holder of a lease goes on.
    Holder { holder: usize, what: ToHolder },
    /// A watcher is told, or looks for another member.
    Watcher { watcher: usize },
    /// The nemesis acts.
    Nemesis(Act),
}

/// When an event happens, in which order among those of one time, and in which slot it waits. Events are large, and a
/// heap moves what it holds about.
type Due = Reverse<(u64, u64, usize)>;

/// Events to come, in the order of their times and then of their planning.
#[derive(Default)]
struct Agenda {
    heap: BinaryHeap<Due>,
    slots: Vec<Option<Event>>,
    free: Vec<usize>,
    last_seq: u64,
}

impl Agenda {
    fn push(&mut self, at: u64, event: Event) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(event);
        self.last_seq += 1;
        self.heap.push(Reverse((at, self.last_seq, slot)));
    }

    fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    fn pop(&mut self) -> Option<(u64, Event)> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        Some((at, self.slots[slot].take().expect("a planned event has its slot")))
    }
}

/// One cluster with its clients and its fate.
pub struct World {
    /// Microseconds since the run began.
    pub now: u64,
    pub swarm: Swarm,
    pub net: Net,
    pub nodes: Vec<Machine>,
    pub clients: Clients,
    pub holders: Holders,
    pub watchers: Watchers,
    pub nemesis: Nemesis,
    pub oracle: Oracle,
    pub operator: Operator,
    pub report: Rc<RefCell<Report>>,
    /// How late threads wake, how long they take.
    pub schedule_rng: fastrand::Rng,
    agenda: Agenda,
}

impl World {
    /// A bootstrapped cluster at rest: every member has entry `1@1` on its disk.
    pub fn new(swarm: Swarm, report: Rc<RefCell<Report>>) -> World {
        let seed = swarm.seed;
        let mut world = World {
            now: 0,
            net: Net::new(&swarm),
            nodes: Vec::new(),
            clients: Clients::new(&swarm),
            holders: Holders::new(&swarm),
            watchers: Watchers::new(&swarm),
            nemesis: Nemesis::new(&swarm),
            oracle: Oracle::new(swarm.machines()),
            operator: Operator::new(seed),
            report,
            schedule_rng: Stream::Schedule.rng(seed),
            agenda: Agenda::default(),
            swarm,
        };
        world.line(|| format!("seed {seed}"));
        world.bootstrap();
        for machine in &mut world.nodes {
            machine.disk.is_watched = world.swarm.disks_are_watched;
            if world.swarm.disks_lie {
                machine.disk.lie();
            }
        }
        world
    }

    /// Plans an event `after_us` from now.
    pub fn plan(&mut self, after_us: u64, event: Event) {
        self.plan_at(self.now + after_us, event);
    }

    /// Plans an event.
    pub fn plan_at(&mut self, at: u64, event: Event) {
        self.agenda.push(at, event);
    }

    /// Lets everything happen until `until`; stops early when `done` says so.
    pub fn run_until(&mut self, until: u64, mut done: impl FnMut(&World) -> bool) {
        while self.agenda.next_at().is_some_and(|at| at <= until) && !done(self) {
            let (at, event) = self.agenda.pop().expect("just seen");
            self.now = at;
            self.happen(event);
        }
        if !done(self) {
            self.now = until;
        }
    }

    fn happen(&mut self, event: Event) {
        {
            let mut report = self.report.borrow_mut();
            report.counters.events += 1;
            report.feed(self.now);
        }
        match event {
            Event::Node { node, life, what } => self.handle_node_event(node, life, what),
            Event::Net(event) => self.handle_net_event(event),
            Event::Client { client, what } => self.handle_client_event(client, what),
            Event::Holder { holder, what } => self.handle_holder_event(holder, what),
            Event::Watcher { watcher } => self.handle_watcher_event(watcher),
            Event::Nemesis(act) => self.handle_act(act),
        }
    }

    /// Counts a rare situation.
    pub fn mark(&self, mark: Mark) {
        self.report.borrow_mut().mark(mark);
    }

    /// A line of the trace.
    pub fn line(&self, line: impl FnOnce() -> String) {
        self.report.borrow_mut().line(self.now, line);
    }
}
