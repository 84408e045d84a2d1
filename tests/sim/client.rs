//! Clients: each does one operation after the other on a few shared keys, with unique values, retries where a retry is
//! safe, and remembers what it was told.

use std::collections::BTreeMap;
use std::time::Duration;

use dkv::check::{Parts, draw_amount, draw_condition, draw_txn, write_of};
use dkv::node::{Completion, Failure, FailureKind, Origin, ReadIndexResult, Work, WriteResult};
use dkv::raft::{FIRST_PROTOCOL, Protocol};
use dkv::store::{
    Applied, Command, Condition, Idempotency, KeyRange, Op, Outcome, needed_protocol, request_hash,
};
use dkv::vocabulary::{OpKind, Txn, TxnOp};

use crate::history::{Attempt, Fate, Listed, Record, Seen, Told};
use crate::operations::draw_op;
use crate::process::{Done, ReadFor, WriteFor};
use crate::report::Mark;
use crate::swarm::{Stream, Swarm, exponential};
use crate::world::{Event, NodeIndex, World};

/// Attempts of one operation before its client gives up.
const MAX_ATTEMPTS: u32 = 24;

/// What happens to a client, or on its way to a member.
pub enum ToClient {
    /// It thinks of its next operation.
    Next,
    /// It tries its operation again.
    Retry { op: u32 },
    /// Its request reaches a member.
    Arrive { node: NodeIndex, asker: Asker, question: Question },
    /// An answer reaches it.
    Answer { asker: Asker, answer: Answer },
    /// It has waited long enough for this attempt.
    GiveUp { asker: Asker },
}

/// Who asked: one attempt of one operation of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asker {
    pub client: usize,
    pub op: u32,
    pub attempt: u32,
}

/// What is asked of a member.
pub enum Question {
    Write(Command),
    Read(Query),
}

/// What is to be read.
pub enum Query {
    /// One key.
    Get(Vec<u8>),
    /// Every key from this one on.
    List(Vec<u8>),
}

/// What a member answers.
pub enum Answer {
    Write(WriteResult),
    Read(Result<Seen, Failure>),
    List(Result<Listed, Failure>),
    /// The connection was refused.
    Refused,
    /// The connection broke after the request was sent.
    Broken,
    /// The member's program does not know the operation.
    NoSuchOperation,
}

// ---- at a member ---------------------------------------------------------------------------------------------------------

impl World {
    /// A request reaches a process.
    fn submit(&mut self, node: NodeIndex, asker: Asker, question: Question) {
        self.line(|| format!("n{} is asked by {asker}", node + 1));
        // The member's own deadline; the client's may be earlier or later.
        let mut patience = self.clients.rng.u64(2..=20) * self.swarm.election_timeout_us;
        if self.nodes[node].slow_apply_us.is_some() {
            // So that somebody still waits when it comes back.
            patience *= 8;
        }
        let patience = Duration::from_micros(patience);
        if let Question::Write(command) = &question
            && needs(command.op.kind()) > self.nodes[node].protocol
        {
            self.mark(Mark::OperationNotKnown);
            return self.answer_client(node, asker, Answer::NoSuchOperation);
        }
        let mailbox = self.nodes[node].process.as_ref().expect("it runs").mailbox.clone();
        match question {
            Question::Write(command) => {
                let done: Completion<WriteResult> = Box::new(move |result| {
                    mailbox.lock().expect("one thread").push(Done::Write(WriteFor::Client(asker), result));
                });
                let work = Work::Write { command: Some(dkv::raft::Draft::command(&command.encode())), done };
                self.submit_write(node, &command, work, Origin::Client, patience);
            }
            Question::Read(query) => {
                let done: Completion<ReadIndexResult> = Box::new(move |result| {
                    mailbox
                        .lock()
                        .expect("one thread")
                        .push(Done::Read(ReadFor::Client(asker, query), result));
                });
                self.step(node, |state, now| {
                    state.submit(Work::Read { done }, Origin::Client, now + patience, now)
                });
            }
        }
    }

    /// A write is decided, or nothing can be said.
    pub fn answer_write(&mut self, node: NodeIndex, asker: Asker, result: WriteResult) {
        if result.as_ref().is_err_and(|failure| failure.kind == FailureKind::Overloaded) {
            self.mark(Mark::Overloaded);
        }
        if result.as_ref().is_err_and(|failure| failure.message.starts_with("a snapshot of the leader")) {
            self.mark(Mark::WriteUnknownBySnapshot);
        }
        self.answer_client(node, asker, Answer::Write(result));
    }

    /// A read may be served: the member looks its state machine up.
    pub fn answer_read(&mut self, node: NodeIndex, asker: Asker, query: &Query, result: ReadIndexResult) {
        let kv = &self.nodes[node].process.as_ref().expect("it runs").kv;
        if let Ok(index) = result {
            assert!(kv.applied().index >= index, "a read at {index} was served before that was applied");
        } else {
            self.mark(Mark::ReadFailed);
        }
        let answer = match query {
            Query::Get(key) => Answer::Read(result.map(|_| Seen::look(kv, key))),
            Query::List(start) => Answer::List(result.map(|_| Listed::look(kv, start))),
        };
        self.answer_client(node, asker, answer);
    }

    fn answer_client(&mut self, node: NodeIndex, asker: Asker, answer: Answer) {
        self.line(|| format!("n{} answers {asker}: {}", node + 1, answer.describe()));
        if self.clients.rng.f64() < self.net.faults.lose_reply / 4.0 {
            return self.mark(Mark::AnswerLost);
        }
        let delay = self.clients.delay();
        self.plan(delay, Event::Client { client: asker.client, what: ToClient::Answer { asker, answer } });
    }

    /// The process of a member died: the connections to it break.
    pub fn break_connections(&mut self, node: NodeIndex) {
        for client in 0..self.clients.clients.len() {
            let me = &self.clients.clients[client];
            let Some(running) = me.running.as_ref().filter(|_| me.asked == node) else { continue };
            let asker = Asker { client, op: running.op, attempt: running.attempt };
            let delay = self.clients.delay();
            let what = ToClient::Answer { asker, answer: Answer::Broken };
            self.plan(delay, Event::Client { client, what });
        }
    }
}

impl Answer {
    fn describe(&self) -> String {
        match self {
            Answer::Write(Ok(applied)) => format!("{applied:?}"),
            Answer::Read(Ok(seen)) => format!("{seen:?}"),
            Answer::List(Ok(listed)) => format!("{listed:?}"),
            Answer::Write(Err(failure)) | Answer::Read(Err(failure)) | Answer::List(Err(failure)) => {
                format!("{:?}: {failure}", failure.kind)
            }
            Answer::Refused => "refused".to_owned(),
            Answer::Broken => "broken".to_owned(),
            Answer::NoSuchOperation => "no such operation".to_owned(),
        }
    }
}

// ---- the clients ---------------------------------------------------------------------------------------------------------

/// One operation under way.
struct Running {
    op: u32,
    attempt: u32,
    record: Record,
    saw_unknown: bool,
}

struct Client {
    running: Option<Running>,
    /// The member asked last.
    asked: NodeIndex,
    /// Its last attempt failed.
    is_let_down: bool,
    last_op: u32,
    /// Revisions seen, for conditions that may hold.
    last_revision: BTreeMap<Vec<u8>, u64>,
}

/// All clients and what they remember.
pub struct Clients {
    clients: Vec<Client>,
    /// Finished operations, and at the end the ones that never finished.
    pub history: Vec<Record>,
    /// What became of every attempt to write.
    pub attempts: BTreeMap<Asker, Attempt>,
    is_stopping: bool,
    is_resting: bool,
    has_probe: bool,
    rng: fastrand::Rng,
    delay_mean_us: u64,
}

impl Clients {
    /// Clients at rest.
    pub fn new(swarm: &Swarm) -> Clients {
        let client = || Client {
            running: None,
            asked: 0,
            is_let_down: false,
            last_op: 0,
            last_revision: BTreeMap::new(),
        };
        Clients {
            // The last one is the probe.
            clients: (0..=swarm.clients).map(|_| client()).collect(),
            history: Vec::new(),
            attempts: BTreeMap::new(),
            is_stopping: false,
            is_resting: false,
            has_probe: false,
            rng: Stream::Load.rng(swarm.seed),
            delay_mean_us: swarm.election_timeout_us / 500,
        }
    }

    /// How long a message between a client and a member takes.
    fn delay(&mut self) -> u64 {
        exponential(&mut self.rng, self.delay_mean_us)
    }

    /// No more operations begin.
    pub fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// All but the probe take their time from now on.
    pub fn rest(&mut self) {
        self.is_resting = true;
    }

    /// Whether every operation has ended.
    pub fn are_idle(&self) -> bool {
        self.clients.iter().all(|client| client.running.is_none())
    }

    fn draw(&mut self, client: usize, swarm: &Swarm, now: u64) -> Record {
        let key = format!("k{}", self.rng.u64(0..swarm.keys)).into_bytes();
        let me = &mut self.clients[client];
        me.last_op += 1;
        // A quarter of the values are integers, so that counters are met with values and without.
        let value = match self.rng.u8(0..4) == 0 {
            true => format!("{}", (client as u64 + 1) * 1_000_000 + u64::from(me.last_op)),
            false => format!("{client}.{}", me.last_op),
        };
        let value = value.into_bytes();
        let (other, seen) = (neighbour(&key, swarm.keys), me.last_revision.get(&key).copied());
        let (shape, amount, range) = (self.rng.u64(..), draw_amount(&mut self.rng), pair(&key));
        let parts =
            Parts { key: key.clone(), value: value.clone(), range, amount, other: other.clone(), shape };
        // The probe writes, whatever the idempotency table says and whatever version is in force.
        let is_probe = client == swarm.clients;
        let write = match self.rng.u8(0..5) {
            _ if is_probe => Some(write_of(OpKind::Put, parts)),
            0 | 1 => None,
            _ => Some(match draw_op(&mut self.rng, parts.clone()) {
                Op::Txn { .. } if !swarm.operations.transactions => write_of(OpKind::Put, parts),
                Op::Add { .. } if !swarm.operations.additions => write_of(OpKind::Put, parts),
                op => op,
            }),
        };
        let write = write.map(|op| match op {
            Op::Txn { .. } => Op::Txn { txn: self.draw_txn([&key, &other], &value, seen) },
            op => op,
        });
        let me = &self.clients[client];
        let condition = draw_condition(&mut self.rng, me.last_revision.get(&key).copied());
        let may_name_versions = swarm.operations.version_conditions;
        let condition =
            condition.filter(|condition| may_name_versions || !matches!(condition, Condition::Version(_)));
        // Repeated until it is known: which of many unknown additions are in a sum would have to be tried.
        let is_addition = matches!(write, Some(Op::Add { .. }));
        let takes_condition = !is_probe && write.as_ref().is_some_and(|op| op.kind().takes_condition());
        Record {
            client,
            op: me.last_op,
            call: now,
            ret: u64::MAX,
            key,
            is_list: write.is_none() && self.rng.u8(0..4) == 0,
            write,
            condition: condition.filter(|_| takes_condition),
            is_keyed: (self.rng.f64() < swarm.keyed || is_addition) && !is_probe,
            told: Told::Unknown,
        }
    }
}

impl Clients {
    /// A transaction on two keys. Some of them fail, most of these after they have written something.
    fn draw_txn(&mut self, keys: [&[u8]; 2], value: &[u8], seen: Option<u64>) -> Txn {
        let mut part = 0u8;
        let values = || {
            part += 1;
            format!("{}/{part}", String::from_utf8_lossy(value)).into_bytes()
        };
        let mut txn = draw_txn(&mut self.rng, keys, values, seen);
        if self.rng.u8(0..5) == 0 {
            // Compacted, in the future, or neither.
            let revision = Some(self.rng.u64(0..60));
            txn.then.push(TxnOp::Get { key: keys[0].to_vec(), revision });
        }
        txn
    }
}

/// The version that must be in force for a kind of write.
pub fn needs(kind: OpKind) -> Protocol {
    needed_protocol(&[0, kind.tag()])
}

/// The range of two neighbours, `k0` and `k1` or `k2` and `k3`, that a key belongs to. The search for a linearization
/// takes keys that a write ties together as one: more than two would make it long.
fn pair(key: &[u8]) -> KeyRange {
    let number = key.last().expect("a name") - b'0';
    let bound = |n: u8| format!("k{n}").into_bytes();
    KeyRange::new(b"", &bound(number / 2 * 2), &bound(number / 2 * 2 + 2))
}

/// The other key of the pair; the key itself where there is none.
fn neighbour(key: &[u8], keys: u64) -> Vec<u8> {
    let number = u64::from(key.last().expect("a name") - b'0') ^ 1;
    if number < keys { format!("k{number}").into_bytes() } else { key.to_vec() }
}

impl Record {
    fn command(&self, asker: Asker) -> Command {
        let op = self.write.clone().expect("a write");
        let idempotency = self.is_keyed.then(|| Idempotency {
            key: format!("c{}.{}", self.client, self.op),
            request_hash: request_hash(&op, self.condition),
        });
        Command { op, condition: self.condition, idempotency, wall_ms: 0, actor: asker.to_string() }
    }
}

impl std::fmt::Display for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.client, self.op, self.attempt)
    }
}

impl World {
    /// Lets the clients begin.
    pub fn start_clients(&mut self) {
        for client in 0..self.swarm.clients {
            self.plan_next(client);
        }
    }

    /// Starts the client that does nothing but write, so that progress shows whatever the others are up to.
    pub fn start_probe(&mut self) {
        let client = self.swarm.clients;
        if !std::mem::replace(&mut self.clients.has_probe, true) {
            self.plan(0, Event::Client { client, what: ToClient::Next });
        }
    }

    fn plan_next(&mut self, client: usize) {
        let is_probe = client == self.swarm.clients;
        let mean = match (is_probe, self.clients.is_resting) {
            (true, _) => self.swarm.election_timeout_us / 4,
            (false, true) => 4 * self.swarm.election_timeout_us,
            (false, false) => self.swarm.think_mean_us,
        };
        let think = exponential(&mut self.clients.rng, mean);
        self.plan(think, Event::Client { client, what: ToClient::Next });
    }

    pub fn handle_client_event(&mut self, client: usize, what: ToClient) {
        match what {
            ToClient::Next if self.clients.is_stopping => {}
            ToClient::Next => {
                let record = self.clients.draw(client, &self.swarm, self.now);
                let op = record.op;
                self.clients.clients[client].running =
                    Some(Running { op, attempt: 0, record, saw_unknown: false });
                self.attempt(client);
            }
            ToClient::Retry { op } => {
                if self.clients.clients[client].running.as_ref().is_some_and(|running| running.op == op) {
                    self.attempt(client);
                }
            }
            ToClient::Arrive { node, asker, question } => {
                let machine = &mut self.nodes[node];
                if machine.is_stopped() {
                    machine
                        .backlog(Event::Client { client, what: ToClient::Arrive { node, asker, question } });
                } else if machine.process.is_some() {
                    self.submit(node, asker, question);
                } else {
                    let answer = Answer::Refused;
                    self.plan(1, Event::Client { client, what: ToClient::Answer { asker, answer } });
                }
            }
            ToClient::Answer { asker, answer } => self.handle_answer(asker, answer),
            ToClient::GiveUp { asker } => {
                if self.is_current(asker) {
                    self.attempt_failed(asker, Fate::Unknown);
                }
            }
        }
    }

    fn is_current(&self, asker: Asker) -> bool {
        let running = self.clients.clients[asker.client].running.as_ref();
        running.is_some_and(|running| (running.op, running.attempt) == (asker.op, asker.attempt))
    }

    /// Sends the request once more, to the member asked last or to any.
    fn attempt(&mut self, client: usize) {
        let machines = self.nodes.len();
        let clients = &mut self.clients;
        let me = &mut clients.clients[client];
        let running = me.running.as_mut().expect("an operation is under way");
        running.attempt += 1;
        // Stays with a member that answers, but looks around now and then.
        if me.is_let_down || clients.rng.u8(0..8) == 0 {
            me.asked = clients.rng.usize(0..machines);
            me.is_let_down = false;
        }
        let node = me.asked;
        let asker = Asker { client, op: running.op, attempt: running.attempt };
        let question = match running.record.write {
            Some(_) => Question::Write(running.record.command(asker)),
            None if running.record.is_list => Question::Read(Query::List(running.record.key.clone())),
            None => Question::Read(Query::Get(running.record.key.clone())),
        };
        if running.record.write.is_some() {
            clients.attempts.insert(asker, Attempt { fate: Fate::Unknown });
        }
        let longest = if client == self.swarm.clients { 1 } else { 10 };
        let patience = clients.rng.u64(1..=longest) * self.swarm.election_timeout_us;
        let is_lost = clients.rng.f64() < self.net.faults.lose_request / 4.0;
        if !is_lost {
            let delay = clients.delay();
            self.plan(delay, Event::Client { client, what: ToClient::Arrive { node, asker, question } });
        }
        self.plan(patience, Event::Client { client, what: ToClient::GiveUp { asker } });
    }

    fn handle_answer(&mut self, asker: Asker, answer: Answer) {
        if !self.is_current(asker) {
            return;
        }
        match answer {
            Answer::Write(Ok(Applied { outcome: Outcome::Overloaded, .. })) => {
                self.mark(Mark::DedupFull);
                self.attempt_failed(asker, Fate::Refused);
            }
            Answer::Write(Ok(applied)) => {
                self.check_version_of_answer(asker, &applied);
                self.clients.attempts.insert(asker, Attempt { fate: Fate::Done });
                self.mark(Mark::WriteDone);
                if applied.replayed {
                    self.mark(Mark::DedupHit);
                }
                match applied.outcome {
                    Outcome::Txn(ref answer) => {
                        self.mark(if answer.succeeded { Mark::TxnThen } else { Mark::TxnElse });
                    }
                    Outcome::TxnShort { .. } => self.mark(Mark::TxnShort),
                    Outcome::Compacted { .. } => self.mark(Mark::TxnUndoneCompacted),
                    Outcome::FutureRevision { .. } => self.mark(Mark::TxnUndoneFuture),
                    Outcome::PreconditionFailed { .. } => self.mark(Mark::PreconditionFailed),
                    Outcome::Deleted { deleted: 2.., .. } => self.mark(Mark::RangeDeleted),
                    Outcome::RangeTooLarge { .. } => self.mark(Mark::RangeTooLarge),
                    Outcome::Added { version: 1, .. } => self.mark(Mark::CounterBegun),
                    Outcome::Added { .. } => self.mark(Mark::CounterAddedTo),
                    Outcome::NotAnInteger { .. } => self.mark(Mark::NoCounter),
                    Outcome::OutOfRange { .. } => self.mark(Mark::CounterOutOfRange),
                    _ => {}
                }
                self.finish(asker.client, Told::Write(applied));
            }
            Answer::Read(Ok(seen)) => {
                self.mark(Mark::ReadDone);
                self.finish(asker.client, Told::Read(seen));
            }
            Answer::List(Ok(listed)) => {
                self.mark(Mark::ListDone);
                self.finish(asker.client, Told::List(listed));
            }
            Answer::Broken => self.attempt_failed(asker, Fate::Unknown),
            Answer::Write(Err(failure)) if failure.kind == FailureKind::Unsupported => {
                self.refused_as_unsupported(asker, &failure);
            }
            Answer::Write(Err(failure)) if !failure.kind.is_not_done() => {
                self.attempt_failed(asker, Fate::Unknown)
            }
            Answer::Write(Err(_))
            | Answer::Read(Err(_))
            | Answer::List(Err(_))
            | Answer::Refused
            | Answer::NoSuchOperation => {
                self.attempt_failed(asker, Fate::NotDone);
            }
        }
    }

    /// The version that the operation under way needs, and when its client began it.
    fn needs_of(&self, asker: Asker) -> (Protocol, u64) {
        let running = self.clients.clients[asker.client].running.as_ref().expect("an operation is under way");
        let kind = running.record.write.as_ref().expect("a write").kind();
        (needs(kind), running.record.call)
    }

    /// P13: what was done was in force where it was done.
    fn check_version_of_answer(&mut self, asker: Asker, applied: &Applied) {
        let (needs, _) = self.needs_of(asker);
        let version = self.oracle.version_at(applied.index);
        assert!(
            needs <= version,
            "P13: {asker} needs version {needs} and was done at version {version}: {applied:?}"
        );
        if needs > FIRST_PROTOCOL {
            self.mark(Mark::NextOperationDone);
        }
    }

    /// P13: a write is refused with `unsupported` only when the version that it needs was not in force. No attempt more:
    /// to try again would not help.
    fn refused_as_unsupported(&mut self, asker: Asker, failure: &Failure) {
        let (needs, call) = self.needs_of(asker);
        let since = self.oracle.in_force_since(needs);
        assert!(
            since.is_none_or(|since| since >= call),
            "P13: {asker} needs version {needs}, in force since {since:?}, before {call}, and is refused: {failure}"
        );
        self.mark(Mark::Unsupported);
        self.clients.attempts.insert(asker, Attempt { fate: Fate::NotDone });
        let running = self.clients.clients[asker.client].running.as_ref().expect("an operation is under way");
        let told = if running.saw_unknown { Told::Unknown } else { Told::NotDone };
        self.finish(asker.client, told);
    }

    /// Retries when that is safe: after "not done", for reads, and for writes with a key. The operation is unknown when
    /// any of its attempts was.
    fn attempt_failed(&mut self, asker: Asker, fate: Fate) {
        let me = &mut self.clients.clients[asker.client];
        me.is_let_down = true;
        let running = me.running.as_mut().expect("an operation is under way");
        let is_write = running.record.write.is_some();
        if is_write {
            running.saw_unknown |= fate == Fate::Unknown;
            self.clients.attempts.insert(asker, Attempt { fate });
        }
        let is_safe = fate != Fate::Unknown || !is_write || running.record.is_keyed;
        if is_safe && running.attempt < MAX_ATTEMPTS {
            // The attempt is over: a late answer is not heard any more.
            running.attempt += 1;
            let pause = exponential(&mut self.clients.rng, self.swarm.election_timeout_us / 4);
            let op = asker.op;
            return self.plan(pause, Event::Client { client: asker.client, what: ToClient::Retry { op } });
        }
        let told = if running.saw_unknown { Told::Unknown } else { Told::NotDone };
        if is_write && told == Told::NotDone {
            self.mark(Mark::WriteNotDone);
        }
        self.finish(asker.client, told);
    }

    fn finish(&mut self, client: usize, told: Told) {
        let me = &mut self.clients.clients[client];
        let running = me.running.take().expect("an operation is under way");
        let mut record = running.record;
        let revision = match &told {
            Told::Write(Applied { outcome, .. }) => match outcome {
                Outcome::Put { revision, .. } | Outcome::Added { revision, .. } => Some(*revision),
                Outcome::PreconditionFailed { mod_revision, .. }
                | Outcome::NotAnInteger { mod_revision, .. }
                | Outcome::OutOfRange { mod_revision, .. } => Some(*mod_revision),
                _ => None,
            },
            Told::Read(seen) => seen.value.as_ref().map(|(_, mod_revision)| *mod_revision),
            _ => None,
        };
        if let Some(revision) = revision {
            me.last_revision.insert(record.key.clone(), revision);
        }
        record.ret = self.now;
        record.told = told;
        self.line(|| format!("client {client} {record:?}"));
        self.clients.history.push(record);
        self.plan_next(client);
    }

    /// Operations that never ended are unknown.
    pub fn close_history(&mut self) {
        for client in &mut self.clients.clients {
            if let Some(running) = client.running.take() {
                self.clients.history.push(running.record);
            }
        }
    }
}
