//! A mini-cluster under full control: explicit time, explicit cuts, explicit disks. Scripts move single RPCs
//! (`send`, `arrive`, `answer`, `deliver`) or let everything flow (`settle`, `run_for`).
//!
//! After every step the members' own invariants are checked, and with a view over all members those that no member can
//! see alone: one leader per term (I8), log matching (I9), leader completeness (I10), nothing committed that a majority
//! of disks does not hold, and no message that says more than its sender's disk (I12). When a script fails, its whole
//! trace is printed.

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
        me: id(me),
        election_timeout: ms(T_MS),
        heartbeat: ms(HEARTBEAT_MS),
        append_hold: ms(HOLD_MS),
        disk_stall: ms(STALL_MS),
        seed: me,
        max_append_bytes: 1 << 20,
        max_unpersisted_bytes: 16 << 20,
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

/// The entry `index@term`; entry 1 founds a cluster of the members 1 to `n`.
pub fn entry(index: Index, term: Term, n: u64) -> Entry {
    let payload = if index == 1 {
        let members = membership(&(1..=n).collect::<Vec<_>>());
        Payload::Found(Found {
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

    /// What recovery makes of it: the snapshot, and what the log has behind it if it has its last entry.
    fn restored(&self) -> Restored {
        let last = self.snapshot.last;
        let reaches = last == Position::ZERO
            || last == self.base
            || self.get(last.index).is_some_and(|e| e.position() == last);
        let behind = self.entries.iter().filter(|e| reaches && e.index() > last.index);
        Restored {
            hard_state: self.hard_state,
            snapshot: self.snapshot.clone(),
            snapshot_bytes: 0,
            entries: behind.cloned().collect(),
            log_bytes: 0,
        }
    }
}

struct Node {
    raft: Raft,
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
    /// Snapshots are sent only when the script says so.
    pub are_transfers_held: bool,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- trace ----\n{}", self.trace.join("\n"));
        }
    }
}

impl Cluster {
    /// `n` members just founded: term 1, no vote, entry `1@1`.
    pub fn new(n: u64) -> Cluster {
        Cluster::with_logs(&vec![(1, &[1][..]); n as usize])
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
        };
        (1..=n).for_each(|me| cluster.check_logs(me));
        cluster
    }

    fn node(me: u64, durable: Durable, life: u64, now: Time) -> Node {
        let raft = Raft::new(config(me), durable.restored(), now);
        let checked = durable.snapshot.last.index;
        Node {
            raft,
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

    /// A new node of the cluster that `n` members founded: entry `1@1`, as the hand-over stores it.
    pub fn join(&mut self, me: u64, n: u64) {
        self.note(format!("{me} is born"));
        let hard_state = HardState { term: 1, voted_for: None };
        let durable = Durable { hard_state, entries: log(&[1], n), ..Durable::default() };
        self.nodes.insert(me, Cluster::node(me, durable, 0, self.now));
    }

    // ---- looking -----------------------------------------------------------------------------------------------------

    pub fn raft(&self, me: u64) -> &Raft {
        &self.nodes[&me].raft
    }

    /// `leader@2 log 1 1 2 commit 3`: role, term, the terms of the log, the commit index.
    pub fn state(&self, me: u64) -> String {
        let node = &self.nodes[&me];
        if !node.is_up {
            return "down".to_string();
        }
        let raft = &node.raft;
        let terms: Vec<String> = terms(raft).iter().map(Term::to_string).collect();
        let role = raft.role_kind().as_str();
        format!("{role}@{} log {} commit {}", raft.term(), terms.join(" "), raft.commit_index())
    }

    /// Compares one line per member, from member 1 on.
    #[track_caller]
    pub fn expect(&self, lines: &[&str]) {
        let states: Vec<String> = self.nodes.keys().map(|&me| self.state(me)).collect();
        assert_eq!(states, lines, "at {}", self.now);
    }

    /// Whether a line of the trace so far contains all of these words.
    pub fn has_traced(&self, words: &[&str]) -> bool {
        self.trace.iter().any(|line| words.iter().all(|word| line.contains(word)))
    }

    /// Everything that happened, line by line.
    pub fn trace(&self) -> String {
        self.trace.join("\n")
    }

    pub fn leader(&self) -> Option<u64> {
        let leads = |node: &Node| node.is_up && node.raft.is_leader();
        let newest = self.nodes.iter().filter(|(_, node)| leads(node)).max_by_key(|(_, n)| n.raft.term());
        newest.map(|(&me, _)| me)
    }

    pub fn progress(&self, leader: u64, peer: u64) -> &Progress {
        let mut peers = self.raft(leader).peers_progress();
        peers.find(|(p, _)| *p == id(peer)).map(|(_, progress)| progress).expect("the leader knows its peers")
    }

    /// What was applied, as positions.
    pub fn applied(&self, me: u64) -> Vec<Position> {
        self.nodes[&me].applied.iter().map(Entry::position).collect()
    }

    /// The reads decided since the last call.
    pub fn take_reads(&mut self, me: u64) -> Vec<ReadDone> {
        std::mem::take(&mut self.nodes.get_mut(&me).unwrap().reads)
    }

    // ---- the world ---------------------------------------------------------------------------------------------------

    pub fn cut_one_way(&mut self, from: u64, to: u64) {
        self.note(format!("cut {from} -> {to}"));
        self.cuts.insert((from, to));
    }

    pub fn cut(&mut self, a: u64, b: u64) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Cuts `me` from everybody.
    pub fn isolate(&mut self, me: u64) {
        let others: Vec<u64> = self.nodes.keys().copied().filter(|&other| other != me).collect();
        others.into_iter().for_each(|other| self.cut(me, other));
    }

    pub fn heal(&mut self) {
        self.note("heal".to_string());
        self.cuts.clear();
    }

    /// From now on the disk of `me` writes only when told to.
    pub fn hold_disk(&mut self, me: u64) {
        self.nodes.get_mut(&me).unwrap().is_disk_held = true;
    }

    /// The held disk writes and syncs what is queued.
    pub fn sync(&mut self, me: u64) {
        let node = self.nodes.get_mut(&me).unwrap();
        let writes = std::mem::take(&mut node.unsynced);
        let Some(last) = writes.last().map(|w| w.seq) else { return };
        writes.iter().for_each(|w| node.durable.write(&w.op));
        self.note(format!("{me} synced through write {last}"));
        self.step(me, |raft, now| raft.handle_persisted(last, now));
    }

    /// The disk of `me` syncs by itself again.
    pub fn release_disk(&mut self, me: u64) {
        self.nodes.get_mut(&me).unwrap().is_disk_held = false;
        self.sync(me);
    }

    /// Power is lost: what was not synced is gone, and so is every reply that waited for it.
    pub fn crash(&mut self, me: u64) {
        self.note(format!("{me} crashes"));
        let node = self.nodes.get_mut(&me).unwrap();
        node.is_up = false;
        node.unsynced.clear();
        node.life += 1;
        for held in std::mem::take(&mut node.held) {
            self.fail(held.from, held.life, held.ticket);
        }
    }

    pub fn restart(&mut self, me: u64) {
        self.note(format!("{me} restarts"));
        let node = self.nodes.get_mut(&me).unwrap();
        let is_disk_held = node.is_disk_held;
        *node = Cluster::node(me, node.durable.clone(), node.life, self.now);
        node.is_disk_held = is_disk_held;
        node.applied = self.snapshots.get(&node.checked).cloned().unwrap_or_default();
        self.check_logs(me);
    }

    /// The disk comes back without its last entries: a member restored from an old copy.
    pub fn restart_with_log_cut_to(&mut self, me: u64, len: usize) {
        self.nodes.get_mut(&me).unwrap().durable.entries.truncate(len);
        self.restart(me);
    }

    // ---- single steps --------------------------------------------------------------------------------------------------

    /// The only way into a member: one call, then its writes, notes, reads and applies, then every check.
    pub fn step<R>(&mut self, me: u64, call: impl FnOnce(&mut Raft, Time) -> R) -> R {
        let now = self.now;
        let node = self.nodes.get_mut(&me).unwrap();
        assert!(node.is_up, "member {me} is down");
        let before = node.raft.watermarks();
        let result = call(&mut node.raft, now);
        let notes = node.raft.poll_notes();
        check(&node.raft);
        check_step(&before, &node.raft);
        node.unsynced.extend(node.raft.poll_write().writes);
        node.reads.extend(node.raft.poll_reads());
        while let Some(apply) = node.raft.poll_apply() {
            match apply {
                Apply::Entries(entries) => {
                    let last = entries.last().expect("never empty").index();
                    node.applied.extend(entries);
                    node.raft.handle_applied(last);
                }
                Apply::Restore(last) => {
                    node.applied = self.snapshots[&last.index].clone();
                    node.raft.handle_applied(last.index);
                }
            }
            // Paper §5.3: exactly once, in order, from the first entry on.
            assert!(
                node.applied.iter().zip(1..).all(|(e, index)| e.index() == index),
                "{me} skipped an entry"
            );
        }
        let after = node.raft.watermarks();
        notes.into_iter().for_each(|n| self.note(n.to_string()));
        self.check(me, &before, &after);
        if !self.nodes[&me].is_disk_held {
            self.sync(me);
        }
        result
    }

    pub fn timeout(&mut self, me: u64) {
        self.step(me, |raft, now| raft.handle_timeout(now));
    }

    #[track_caller]
    pub fn propose(&mut self, me: u64, text: &str) -> Position {
        let payload = Payload::Command(text.as_bytes().to_vec());
        self.step(me, |raft, now| raft.propose(&payload, now)).expect("a leader takes it")
    }

    /// The state of `me` as a snapshot, durable.
    pub fn save_snapshot(&mut self, me: u64) -> Position {
        let meta = self.state_of(me);
        let last = meta.last;
        let node = self.nodes.get_mut(&me).unwrap();
        self.snapshots.insert(last.index, node.applied.clone());
        node.durable.snapshot = meta.clone();
        self.step(me, |raft, _| raft.handle_snapshot_saved(meta, 0));
        last
    }

    /// What a snapshot of `me` says of itself.
    pub fn state_of(&self, me: u64) -> SnapshotMeta {
        let applied = &self.nodes[&me].applied;
        let last = applied.last().expect("something is applied");
        let member = applied.iter().rev().find(|e| e.membership().is_some()).expect("a found entry");
        SnapshotMeta {
            last: last.position(),
            stamp: last.stamp(),
            membership: member.membership().expect("just seen").clone(),
            membership_index: member.index(),
        }
    }

    #[track_caller]
    pub fn change(&mut self, me: u64, change: &MembershipChange) -> Result<Changed, ChangeError> {
        self.step(me, |raft, now| raft.change_membership(change, now))
    }

    /// A transfer of a snapshot begins, if one is due.
    pub fn try_offer(&mut self, from: u64, to: u64) -> Option<(Position, Ticket)> {
        let poll = self.step(from, |raft, now| raft.poll_snapshot(id(to), now));
        match poll {
            PollSnapshot::Transfer(last, ticket) => Some((last, ticket)),
            _ => None,
        }
    }

    #[track_caller]
    pub fn offer(&mut self, from: u64, to: u64) -> (Position, Ticket) {
        self.try_offer(from, to).unwrap_or_else(|| panic!("{from} has no snapshot for {to}"))
    }

    /// The whole snapshot arrives in one piece, is durable at once, and answered.
    pub fn install(&mut self, from: u64, to: u64, last: Position, term: Term) -> InstallSnapshotReply {
        self.note(format!("{from} -> {to}: snapshot through {last}"));
        let piece = InstallSnapshotRequest {
            term,
            leader: id(from),
            last,
            size: 1,
            crc: 0,
            offset: 0,
            data: vec![0],
        };
        let meta = self.meta_of(last);
        let waiting = match self.step(to, |raft, now| raft.handle_install_snapshot(&piece, now)) {
            InstallVerdict::Answer(waiting) => waiting,
            InstallVerdict::Take => {
                self.nodes.get_mut(&to).unwrap().durable.snapshot = meta.clone();
                self.step(to, |raft, now| raft.handle_snapshot_received(meta, 1, now)).1
            }
        };
        let reply = ready(&self.nodes[&to].raft, waiting, self.now);
        self.note(format!("{to} -> {from}: {reply:?}"));
        if let InstallOutcome::Holds(index) = reply.outcome {
            let node = &self.nodes[&to];
            let known = self.committed.get(&index).expect("committed").0.position();
            assert!(node.durable.holds(known), "I12: {to} vouches for {known}, which its disk does not hold");
        }
        reply
    }

    fn meta_of(&self, last: Position) -> SnapshotMeta {
        let held = |node: &&Node| node.durable.snapshot.last == last;
        self.nodes.values().find(held).expect("somebody has that snapshot").durable.snapshot.clone()
    }

    /// The ticket of a transfer comes back.
    pub fn end_transfer(
        &mut self,
        from: u64,
        ticket: Ticket,
        result: Result<InstallSnapshotReply, RpcFailed>,
    ) {
        self.step(from, |raft, now| raft.handle_snapshot_result(ticket, result, now));
    }

    #[track_caller]
    pub fn read(&mut self, me: u64) -> ReadToken {
        self.step(me, |raft, now| raft.read_index(now)).expect("a leader takes it")
    }

    /// What `from` wants to send to `to` now.
    pub fn try_send(&mut self, from: u64, to: u64) -> Option<Flight> {
        let PollRpc::Send(request, ticket) = self.step(from, |raft, now| raft.poll_rpc(id(to), now)) else {
            return None;
        };
        self.check_request(from, &request);
        self.note(format!("{from} -> {to}: {request:?}"));
        Some(Flight { from, to, request, life: self.nodes[&from].life, ticket })
    }

    #[track_caller]
    pub fn send(&mut self, from: u64, to: u64) -> Flight {
        self.try_send(from, to).unwrap_or_else(|| panic!("{from} has nothing to send to {to}"))
    }

    /// The request arrives; its receiver makes up its reply.
    pub fn arrive(&mut self, flight: Flight) -> Held {
        let Flight { from, to, request, life, ticket } = flight;
        let reply = match request {
            RpcRequest::RequestVote(request) => {
                let asked = request.clone();
                HeldReply::Vote(asked, self.step(to, |raft, now| raft.handle_request_vote(request, now)))
            }
            RpcRequest::AppendEntries(request) => {
                assert_eq!(request.validate(), Ok(()));
                HeldReply::Append(self.step(to, |raft, now| raft.handle_append_entries(request, now)))
            }
            RpcRequest::TimeoutNow(request) => {
                HeldReply::TimeoutNow(self.step(to, |raft, now| raft.handle_timeout_now(request, now)))
            }
        };
        Held { from, to, life, ticket, reply }
    }

    /// The reply, if it may leave.
    pub fn open(&mut self, held: Held) -> Result<Answer, Box<Held>> {
        let Held { from, to, life, ticket, reply } = held;
        let raft = &self.nodes[&to].raft;
        let reply = match reply {
            HeldReply::Vote(asked, waiting) => match raft.settle(waiting, self.now) {
                Settled::Ready(reply) => {
                    self.check_vote_reply(to, &asked, reply);
                    RpcReply::RequestVote(reply)
                }
                Settled::NotYet(waiting) => {
                    return Err(Box::new(Held {
                        from,
                        to,
                        life,
                        ticket,
                        reply: HeldReply::Vote(asked, waiting),
                    }));
                }
            },
            HeldReply::Append(waiting) => match raft.settle(waiting, self.now) {
                Settled::Ready(reply) => {
                    self.check_append_reply(to, reply);
                    RpcReply::AppendEntries(reply)
                }
                Settled::NotYet(waiting) => {
                    return Err(Box::new(Held { from, to, life, ticket, reply: HeldReply::Append(waiting) }));
                }
            },
            HeldReply::TimeoutNow(waiting) => match raft.settle(waiting, self.now) {
                Settled::Ready(reply) => RpcReply::TimeoutNow(reply),
                Settled::NotYet(waiting) => {
                    let reply = HeldReply::TimeoutNow(waiting);
                    return Err(Box::new(Held { from, to, life, ticket, reply }));
                }
            },
        };
        self.note(format!("{to} -> {from}: {reply:?}"));
        Ok(Answer { from, life, ticket, reply })
    }

    /// The reply, which must be ready.
    #[track_caller]
    pub fn answer(&mut self, held: Held) -> Answer {
        self.open(held).unwrap_or_else(|held| panic!("the reply still waits: {held:?}"))
    }

    /// The reply, which must not be ready.
    #[track_caller]
    pub fn still_held(&mut self, held: Held) -> Held {
        match self.open(held) {
            Ok(answer) => panic!("the reply left before the disk had what it says: {:?}", answer.reply),
            Err(held) => *held,
        }
    }

    /// The reply arrives.
    pub fn deliver(&mut self, answer: Answer) {
        let Answer { from, life, ticket, reply } = answer;
        if self.nodes[&from].is_up && self.nodes[&from].life == life {
            self.step(from, |raft, now| raft.handle_rpc_result(ticket, Ok(reply), now));
        }
    }

    /// The reply never leaves, and the sender gives up.
    pub fn lose_held(&mut self, held: Held) {
        self.fail(held.from, held.life, held.ticket);
    }

    /// The reply gets lost, and the sender gives up.
    pub fn lose_answer(&mut self, answer: Answer) {
        self.fail(answer.from, answer.life, answer.ticket);
    }

    /// The request or its reply is lost: the sender hears nothing until it gives up, now.
    pub fn lose(&mut self, flight: Flight) {
        self.fail(flight.from, flight.life, flight.ticket);
    }

    fn fail(&mut self, from: u64, life: u64, ticket: Ticket) {
        if self.nodes[&from].is_up && self.nodes[&from].life == life {
            self.step(from, |raft, now| raft.handle_rpc_result(ticket, Err(RpcFailed), now));
        }
    }

    /// One whole RPC.
    #[track_caller]
    pub fn call(&mut self, from: u64, to: u64) -> RpcReply {
        let flight = self.send(from, to);
        let held = self.arrive(flight);
        let answer = self.answer(held);
        let reply = answer.reply;
        self.deliver(answer);
        reply
    }

    // ---- letting it flow -------------------------------------------------------------------------------------------------

    /// Delivers everything that can be delivered at this moment, and fails what is cut.
    pub fn settle(&mut self) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for _ in 0..10_000 {
            let mut is_quiet = true;
            for &from in &ids {
                for &to in &ids {
                    if from == to || !self.nodes[&from].is_up {
                        continue;
                    }
                    is_quiet &= !self.try_transfer(from, to);
                    let Some(flight) = self.try_send(from, to) else { continue };
                    is_quiet = false;
                    if self.cuts.contains(&(from, to)) || !self.nodes[&to].is_up {
                        self.lose(flight);
                        continue;
                    }
                    let held = self.arrive(flight);
                    self.nodes.get_mut(&to).unwrap().held.push(held);
                }
                is_quiet &= !self.open_held(from);
            }
            if is_quiet {
                return;
            }
        }
        panic!("the members never fall silent at {}", self.now);
    }

    fn try_transfer(&mut self, from: u64, to: u64) -> bool {
        if self.are_transfers_held {
            return false;
        }
        let Some((last, ticket)) = self.try_offer(from, to) else { return false };
        let is_lost =
            !self.nodes[&to].is_up || self.cuts.contains(&(from, to)) || self.cuts.contains(&(to, from));
        let result = if is_lost { Err(RpcFailed) } else { Ok(self.install(from, to, last, ticket.term())) };
        self.end_transfer(from, ticket, result);
        true
    }

    fn open_held(&mut self, me: u64) -> bool {
        let mut has_opened = false;
        for held in std::mem::take(&mut self.nodes.get_mut(&me).unwrap().held) {
            match self.open(held) {
                Ok(answer) => {
                    has_opened = true;
                    if self.cuts.contains(&(me, answer.from)) {
                        self.fail(answer.from, answer.life, answer.ticket);
                    } else {
                        self.deliver(answer);
                    }
                }
                Err(held) => self.nodes.get_mut(&me).unwrap().held.push(*held),
            }
        }
        has_opened
    }

    /// Everything that is due at this moment.
    fn run_due(&mut self) {
        let due = |node: &Node, now| node.is_up && node.raft.poll_timeout() <= now;
        let ids: Vec<u64> = self.nodes.iter().filter(|(_, n)| due(n, self.now)).map(|(&me, _)| me).collect();
        ids.into_iter().for_each(|me| self.timeout(me));
        self.settle();
    }

    fn next_event(&mut self) -> Time {
        let ids: Vec<u64> = self.nodes.keys().copied().filter(|me| self.nodes[me].is_up).collect();
        let mut next = Time::NEVER;
        for &me in &ids {
            let node = &self.nodes[&me];
            next = next.min(node.raft.poll_timeout());
            for held in &node.held {
                if let HeldReply::Append(waiting) = &held.reply
                    && let Some(until) = waiting.hold_until().filter(|&until| until > self.now)
                {
                    next = next.min(until);
                }
            }
            for peer in self.nodes.keys().copied().filter(|&p| p != me).collect::<Vec<_>>() {
                let now = self.now;
                if let PollRpc::WaitUntil(at) = self.step(me, |raft, _| raft.poll_rpc(id(peer), now)) {
                    next = next.min(at);
                }
                if self.are_transfers_held {
                    continue;
                }
                match self.step(me, |raft, _| raft.poll_snapshot(id(peer), now)) {
                    PollSnapshot::WaitUntil(at) => next = next.min(at),
                    PollSnapshot::Transfer(..) => panic!("a transfer became due while nothing happened"),
                    PollSnapshot::Stop => {}
                }
            }
        }
        next
    }

    pub fn run_for(&mut self, ms: u64) {
        let end = self.now + self::ms(ms);
        self.run_due();
        loop {
            let next = self.next_event();
            if next > end {
                break;
            }
            assert!(next > self.now, "an event at {next} is due again and again");
            self.now = next;
            self.run_due();
        }
        self.now = end;
    }

    /// Runs until the condition holds, at most 20 s of virtual time.
    #[track_caller]
    pub fn run_until(&mut self, what: &str, condition: impl Fn(&Cluster) -> bool) {
        for _ in 0..4_000 {
            if condition(self) {
                return;
            }
            self.run_for(5);
        }
        panic!("never happened within 20 s: {what}");
    }

    /// Long enough passes that nobody remembers a leader; then the timer of `me`, and of nobody else, fires.
    pub fn campaign(&mut self, me: u64) {
        self.now = self.now + ms(2 * T_MS + 1);
        self.timeout(me);
        self.settle();
    }

    /// `me` campaigns and must win.
    #[track_caller]
    pub fn elect(&mut self, me: u64) {
        self.campaign(me);
        assert!(self.raft(me).is_leader(), "member {me} did not win: {}", self.state(me));
    }

    /// `me` campaigns and wins with exactly the votes of `voters`; then its first append reaches exactly `receivers`,
    /// and nothing else is delivered. Cuts do not matter.
    #[track_caller]
    pub fn elect_with(&mut self, me: u64, voters: &[u64], receivers: &[u64]) {
        // A first campaign may do no more than learn the voters' term.
        for _ in 0..3 {
            if self.raft(me).is_leader() {
                break;
            }
            self.now = self.now + ms(2 * T_MS + 1);
            self.timeout(me);
            for _ in ["pre-votes", "votes"] {
                for &voter in voters {
                    if self.raft(me).is_leader() {
                        break;
                    }
                    if let Some(flight) = self.try_send(me, voter) {
                        let held = self.arrive(flight);
                        let answer = self.answer(held);
                        self.deliver(answer);
                    }
                }
            }
        }
        assert!(self.raft(me).is_leader(), "member {me} did not win: {}", self.state(me));
        for &to in receivers {
            self.call(me, to);
        }
    }

    /// Elects `me`, if need be in a second campaign: the first may do no more than learn the others' term.
    #[track_caller]
    pub fn elect_in_turn(&mut self, me: u64) {
        self.campaign(me);
        if !self.raft(me).is_leader() {
            self.campaign(me);
        }
        assert!(self.raft(me).is_leader(), "member {me} did not win: {}", self.state(me));
    }

    /// Compares the terms of the logs, one line per member, from member 1 on.
    #[track_caller]
    pub fn expect_logs(&self, lines: &[&str]) {
        let logs: Vec<String> = self
            .nodes
            .values()
            .map(|node| {
                let terms: Vec<String> = terms(&node.raft).iter().map(Term::to_string).collect();
                if node.is_up { terms.join(" ") } else { "down".to_string() }
            })
            .collect();
        assert_eq!(logs, lines, "at {}", self.now);
    }

    /// The reply after `ms` more of waiting, when it must be ready.
    #[track_caller]
    pub fn answer_after(&mut self, held: Held, ms: u64) -> Answer {
        self.wait(ms);
        self.answer(held)
    }

    /// Time passes, nothing else happens.
    pub fn wait(&mut self, ms: u64) {
        self.now = self.now + self::ms(ms);
    }

    pub fn note(&mut self, line: String) {
        self.trace.push(format!("{} {line}", self.now));
    }

    // ---- what only a view over all members can check -----------------------------------------------------------------------

    fn check(&mut self, me: u64, before: &Watermarks, after: &Watermarks) {
        if (before.role, before.term) != (after.role, after.term) && after.role == RoleKind::Leader {
            self.check_leader(me);
        }
        if before.last != after.last {
            self.check_logs(me);
        }
        if before.committed != after.committed {
            self.check_commits(me);
        }
    }

    /// I8: one leader per term. I10: it holds everything that was committed in earlier terms.
    fn check_leader(&mut self, me: u64) {
        let log = self.nodes[&me].raft.log();
        let term = self.nodes[&me].raft.term();
        let first = *self.leaders.entry(term).or_insert(me);
        assert_eq!(first, me, "I8: {first} and {me} both led term {term}");
        for (entry, seen_in) in self.committed.values().filter(|(_, seen_in)| *seen_in < term) {
            let is_compacted = entry.index() <= log.base().index;
            assert!(
                is_compacted || log.get(entry.index()) == Some(entry),
                "I10: leader {me} of term {term} lacks {}, committed in term {seen_in}",
                entry.position()
            );
        }
    }

    /// I9: two logs that hold the same index and term agree in that entry and in everything before it.
    fn check_logs(&self, me: u64) {
        let mine = self.nodes[&me].raft.log();
        for (other, node) in self.nodes.iter().filter(|(o, n)| **o != me && n.is_up) {
            let theirs = node.raft.log();
            let first = mine.first_index().max(theirs.first_index());
            let from =
                |log: &'_ Log| -> Vec<Entry> { log.iter().filter(|e| e.index() >= first).cloned().collect() };
            let (mine, theirs) = (from(mine), from(theirs));
            let agreed = mine.iter().zip(&theirs).rposition(|(x, y)| x.position() == y.position());
            let through = agreed.map_or(0, |at| at + 1);
            assert_eq!(mine[..through], theirs[..through], "I9: the logs of {me} and {other} do not match");
        }
    }

    /// State machine safety (paper §5.4.3): one entry per committed index; and it is committed only once a majority of
    /// disks holds it.
    fn check_commits(&mut self, me: u64) {
        let node = &self.nodes[&me];
        let (from, to) = (node.checked + 1, node.raft.commit_index());
        let voters: Vec<MemberId> = node.raft.membership().voters().collect();
        for index in from..=to {
            let Some(entry) = self.nodes[&me].raft.log().get(index).cloned() else {
                assert!(
                    self.committed.contains_key(&index),
                    "{me} has a snapshot through {index}, never committed"
                );
                continue;
            };
            if let Some((known, _)) = self.committed.get(&index) {
                assert_eq!(known, &entry, "{me} and an earlier member committed different entries");
                continue;
            }
            let position = entry.position();
            let disks = voters.iter().filter(|v| self.nodes[&v.0].durable.holds(position)).count();
            assert!(
                disks >= majority(voters.len()),
                "{me} committed {position} although only {disks} of {} disks hold it",
                voters.len()
            );
            self.committed.insert(index, (entry, self.nodes[&me].raft.term()));
        }
        self.nodes.get_mut(&me).unwrap().checked = to;
    }

    /// I12 for requests: nobody asks for votes in a term, or leads one, that its own disk does not know.
    fn check_request(&self, from: u64, request: &RpcRequest) {
        let durable = self.nodes[&from].durable.hard_state;
        match request {
            RpcRequest::RequestVote(r) if !r.pre_vote => assert_eq!(
                durable,
                HardState { term: r.term, voted_for: Some(id(from)) },
                "I12: {from} asks for votes before its own is durable"
            ),
            RpcRequest::RequestVote(_) => {}
            RpcRequest::AppendEntries(r) => {
                assert_eq!(durable.term, r.term, "I12: {from} leads a term not durable")
            }
            RpcRequest::TimeoutNow(r) => {
                assert_eq!(durable.term, r.term, "I12: {from} hands a term over not durable")
            }
        }
    }

    fn check_vote_reply(&self, from: u64, asked: &RequestVoteRequest, reply: RequestVoteReply) {
        let durable = self.nodes[&from].durable.hard_state;
        if asked.pre_vote && reply.granted {
            return;
        }
        assert!(
            durable.term >= reply.term,
            "I12: {from} answers term {}, durable is {durable:?}",
            reply.term
        );
        if reply.granted && durable.term == reply.term {
            assert_eq!(
                durable.voted_for,
                Some(asked.candidate),
                "I12: {from} granted a vote that is not durable"
            );
        }
    }

    fn check_append_reply(&self, from: u64, reply: AppendEntriesReply) {
        let node = &self.nodes[&from];
        assert!(node.durable.hard_state.term >= reply.term, "I12: {from} answers term {}", reply.term);
        if let AppendOutcome::Accepted { match_index, .. } = reply.outcome {
            let term = node.raft.log().term_at(match_index).expect("vouched for");
            assert!(
                node.durable.holds(Position::new(match_index, term)),
                "I12: {from} vouches for {match_index}, which its disk does not hold"
            );
        }
    }
}
