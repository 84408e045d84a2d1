//! A mini-cluster under full control: explicit time, explicit cuts, explicit disks. Scripts move single RPCs
//! (`send`, `arrive`, `answer`, `deliver`) or let everything flow (`run_until_quiet`, `run_for`).
//!
//! After every step the members' own invariants are checked, and with a view over all members those that no member can
//! see alone: one leader per term (I8), log matching (I9), leader completeness (I10), nothing committed that a majority
//! of disks does not hold, and no message that says more than its sender's disk (I12). When a script fails, its whole
//! trace is printed.

#[path = "harness/checks.rs"]
mod checks;
#[path = "harness/flow.rs"]
mod flow;
#[path = "harness/looking.rs"]
mod looking;
#[path = "harness/steps.rs"]
mod steps;
#[path = "harness/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dkv::raft::*;

/// The minimum election timeout, in milliseconds of virtual time.
pub const T_MS: u64 = 300;
/// The heartbeat interval.
pub const HEARTBEAT_MS: u64 = 50;
/// How long a follower holds an append for its disk.
pub const HOLD_MS: u64 = 50;
/// After this time a disk counts as stalled.
pub const STALL_MS: u64 = 2_000;

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub fn id(member: u64) -> MemberId {
    MemberId(member)
}

pub fn config(me: u64) -> RaftConfig {
    RaftConfig {
        protocol: 1,
        hold_version: false,
        me: id(me),
        election_timeout: ms(T_MS),
        heartbeat: ms(HEARTBEAT_MS),
        append_hold: ms(HOLD_MS),
        disk_stall: ms(STALL_MS),
        seed: me,
        max_append_bytes: 1 << 20,
        max_unpersisted_bytes: 16 << 20,
        max_log_memory_bytes: usize::MAX,
        snapshot_log_bytes: u64::MAX,
        snapshot_log_entries: u64::MAX,
    }
}

/// Member `id`, a learner that becomes a voter by itself.
pub fn learner(id: u64) -> Member {
    Member {
        node_id: format!("n{id}"),
        member_id: MemberId(id),
        raft_addr: format!("127.0.0.1:{}", 18_080 + id),
        http_addr: format!("127.0.0.1:{}", 8_080 + id),
        voter: false,
        promote: true,
    }
}

/// Voters.
pub fn membership(ids: &[u64]) -> Membership {
    let voter = |&id: &u64| Member { voter: true, promote: false, ..learner(id) };
    Membership { members: ids.iter().map(voter).collect() }
}

/// The entry `index@term`; entry 1 bootstraps a cluster of the members 1 to `n`.
pub fn entry(index: Index, term: Term, n: u64) -> Entry {
    let payload = if index == 1 {
        let members = membership(&(1..=n).collect::<Vec<_>>());
        Payload::Genesis(Genesis {
            protocol: 1,
            cluster_id: ClusterId(7),
            settings: Settings::default(),
            members,
            restored: None,
        })
    } else {
        Payload::Command(format!("{index}@{term}").into_bytes())
    };
    Entry::new(Position::new(index, term), 0, &payload)
}

/// The entries whose terms are listed: index 1 has the first one.
pub fn log(terms: &[Term], n: u64) -> Vec<Entry> {
    terms.iter().zip(1..).map(|(&term, index)| entry(index, term, n)).collect()
}

/// A member of `n` with this hard state and a log of these terms, all of it durable.
pub fn member(me: u64, n: u64, term: Term, voted_for: Option<u64>, terms: &[Term]) -> Raft {
    let hard_state = HardState { term, voted_for: voted_for.map(MemberId) };
    let restored = Restored { hard_state, entries: log(terms, n), ..Restored::default() };
    Raft::new(config(me), restored, Time(0))
}

/// The disk catches up with all that is queued.
pub fn sync(raft: &mut Raft, now: Time) {
    while let Some(seq) = raft.poll_write().last_seq() {
        raft.handle_persisted(seq, now);
    }
}

/// The reply, which must be ready to leave.
pub fn ready<R: Reply>(raft: &Raft, waiting: AfterSync<R>, now: Time) -> R {
    match raft.settle(waiting, now) {
        Settled::Ready(reply) => reply,
        Settled::NotYet(_) => panic!("the reply still waits for the disk"),
    }
}

/// The terms of a log, from index 1 on.
pub fn terms(raft: &Raft) -> Vec<Term> {
    raft.log().iter().map(Entry::term).collect()
}

pub fn vote_request(term: Term, candidate: u64, last: Position) -> RequestVoteRequest {
    RequestVoteRequest { term, candidate: id(candidate), last, pre_vote: false, transfer: false }
}

pub fn append_request(
    term: Term,
    leader: u64,
    prev: Position,
    entries: Vec<Entry>,
    commit: Index,
) -> AppendEntriesRequest {
    AppendEntriesRequest { term, leader: id(leader), prev, commit, entries }
}

/// What a disk holds for sure. The log on it is never cut at its front.
#[derive(Clone, Default)]
struct Durable {
    hard_state: HardState,
    snapshot: SnapshotMeta,
    /// The position before the first entry.
    base: Position,
    entries: Vec<Entry>,
}

impl Durable {
    fn write(&mut self, op: &WriteOp) {
        match op {
            WriteOp::HardState(hard_state) => self.hard_state = *hard_state,
            WriteOp::Entries(entries) => {
                self.entries.truncate((entries[0].index() - self.base.index) as usize - 1);
                self.entries.extend_from_slice(entries);
            }
            WriteOp::Reset(position) => {
                self.entries.clear();
                self.base = *position;
            }
        }
    }

    fn get(&self, index: Index) -> Option<&Entry> {
        self.entries.get(index.checked_sub(self.base.index + 1)? as usize)
    }

    /// What the snapshot covers is committed, and so the same everywhere.
    fn holds(&self, position: Position) -> bool {
        position.index <= self.snapshot.last.index
            || self.get(position.index).is_some_and(|e| e.position() == position)
    }

    /// What recovery makes of it: the snapshot, and what the log has after it if it has its last entry.
    fn restored(&self, max_memory_bytes: usize) -> Restored {
        let last = self.snapshot.last;
        let reaches = last == Position::ZERO
            || last == self.base
            || self.get(last.index).is_some_and(|e| e.position() == last);
        let after = self.entries.iter().filter(|e| reaches && e.index() > last.index);
        let after: Vec<Entry> = after.cloned().collect();
        let mut log = Log::new(last, after.clone());
        log.release(Index::MAX, max_memory_bytes);
        let (left, entries) = log.into_parts(after);
        Restored {
            hard_state: self.hard_state,
            snapshot: self.snapshot.clone(),
            snapshot_bytes: 0,
            left,
            entries,
            log_bytes: 0,
        }
    }
}

/// The program that a member runs: what it speaks, and whether it is told to hold the version.
#[derive(Clone, Copy)]
struct Program {
    protocol: Protocol,
    hold_version: bool,
    /// Memory that the entries may take.
    max_log_memory_bytes: usize,
}

struct Node {
    raft: Raft,
    program: Program,
    is_up: bool,
    /// How often it was restarted: a ticket of an earlier life comes back to nobody.
    life: u64,
    durable: Durable,
    unsynced: Vec<QueuedWrite>,
    /// Writes only when the script says so.
    is_disk_held: bool,
    held: Vec<Held>,
    applied: Vec<Entry>,
    reads: Vec<ReadDone>,
    /// Its commits were compared with everybody's through this index.
    checked: Index,
}

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Flight {
    pub from: u64,
    pub to: u64,
    pub request: RpcRequest,
    life: u64,
    ticket: Ticket,
}

/// A reply that waits for its sender's disk.
#[derive(Debug)]
pub struct Held {
    from: u64,
    to: u64,
    life: u64,
    ticket: Ticket,
    reply: HeldReply,
}

#[derive(Debug)]
enum HeldReply {
    Vote(RequestVoteRequest, AfterSync<RequestVoteReply>),
    Append(AfterSync<AppendEntriesReply>),
    TimeoutNow(AfterSync<TimeoutNowReply>),
}

/// A reply on its way back.
#[derive(Debug)]
pub struct Answer {
    from: u64,
    life: u64,
    ticket: Ticket,
    pub reply: RpcReply,
}

pub struct Cluster {
    pub now: Time,
    nodes: BTreeMap<u64, Node>,
    /// Messages from the first to the second are lost.
    cuts: BTreeSet<(u64, u64)>,
    trace: Vec<String>,
    leaders: BTreeMap<Term, u64>,
    /// What was ever committed, and the term of the member that said so first.
    committed: BTreeMap<Index, (Entry, Term)>,
    /// What the snapshot that ends there holds: every entry through it.
    snapshots: BTreeMap<Index, Vec<Entry>>,
    /// Snapshots are sent, and logs read, only when the script says so.
    pub are_transfers_held: bool,
    /// Members whose logs cannot be read.
    pub unreadable: BTreeSet<u64>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- trace ----\n{}", self.trace.join("\n"));
        }
    }
}

impl Cluster {
    /// `n` members just initialized: term 1, no vote, entry `1@1`.
    pub fn new(n: u64) -> Cluster {
        Cluster::with_logs(&vec![(1, &[1][..]); n as usize])
    }

    /// The same, of members that keep no entry in memory that is applied and on the disk, except the last one.
    pub fn that_forgets(n: u64) -> Cluster {
        let mut cluster = Cluster::new(n);
        for (&me, node) in &mut cluster.nodes {
            let program = Program { max_log_memory_bytes: 0, ..node.program };
            *node = Cluster::node_with(me, program, node.durable.clone(), 0, Time(0));
        }
        cluster
    }

    /// One member per pair of current term and terms of its log, all durable.
    pub fn with_logs(members: &[(Term, &[Term])]) -> Cluster {
        let n = members.len() as u64;
        let nodes = members.iter().zip(1..).map(|(&(term, terms), me)| {
            let hard_state = HardState { term, voted_for: None };
            let durable = Durable { hard_state, entries: log(terms, n), ..Durable::default() };
            (me, Cluster::node(me, durable, 0, Time(0)))
        });
        let cluster = Cluster {
            now: Time(0),
            nodes: nodes.collect(),
            cuts: BTreeSet::new(),
            trace: Vec::new(),
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            are_transfers_held: false,
            unreadable: BTreeSet::new(),
        };
        (1..=n).for_each(|me| cluster.check_logs(me));
        cluster
    }

    fn node(me: u64, durable: Durable, life: u64, now: Time) -> Node {
        let program = Program { protocol: 1, hold_version: false, max_log_memory_bytes: usize::MAX };
        Cluster::node_with(me, program, durable, life, now)
    }

    fn node_with(me: u64, program: Program, durable: Durable, life: u64, now: Time) -> Node {
        let Program { protocol, hold_version, max_log_memory_bytes } = program;
        let config = RaftConfig { protocol, hold_version, max_log_memory_bytes, ..config(me) };
        let raft = Raft::new(config, durable.restored(max_log_memory_bytes), now);
        let checked = durable.snapshot.last.index;
        Node {
            raft,
            program,
            is_up: true,
            life,
            durable,
            unsynced: Vec::new(),
            is_disk_held: false,
            held: Vec::new(),
            applied: Vec::new(),
            reads: Vec::new(),
            checked,
        }
    }

    /// A new node of the cluster that `n` members bootstrapped: entry `1@1`, as the bootstrap stores it.
    pub fn join(&mut self, me: u64, n: u64) {
        self.note(format!("{me} is initialized"));
        let hard_state = HardState { term: 1, voted_for: None };
        let durable = Durable { hard_state, entries: log(&[1], n), ..Durable::default() };
        self.nodes.insert(me, Cluster::node(me, durable, 0, self.now));
    }
}
