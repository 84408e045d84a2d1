//! Requests to a node: the client port asks to write and read, the peer port asks to vote, append, confirm and
//! propose. None of these functions waits: each one gives its answer to a completion, immediately or later.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::core::{Held, Work};
use super::request::{
    BackupResult, Completion, Consistency, Failure, FailureKind, Origin, ReadIndexResult, WriteResult,
};
use super::threads::guard;
use super::transport::{ForwardedResult, ForwardedWrite};
use super::{Node, lock};
use crate::raft::{
    AppendEntriesReply, AppendEntriesRequest, Draft, Index, InstallSnapshotReply, InstallSnapshotRequest,
    InstallVerdict, MAX_PAYLOAD_BYTES, MemberId, RequestVoteReply, RequestVoteRequest, Term, TimeoutNowReply,
    TimeoutNowRequest,
};
use crate::store::disk::Disk;
use crate::store::{Command, CommandError, kind_of};
use crate::vocabulary::{LeaseId, Op, OpKind};

impl Node {
    // ---- for clients ---------------------------------------------------------------------------------------------------

    /// Makes a write: proposes it here, or forwards it to the leader. `done` gets what the state machine decided, or
    /// why no decision is known; at `deadline` at the latest, when an unfinished write is unknown.
    pub fn write(
        self: &Arc<Self>,
        command: Command,
        deadline: Instant,
        origin: Origin,
        done: Completion<WriteResult>,
    ) {
        let key = command.idempotency.as_ref().map(|i| i.key.as_str());
        if key.is_some_and(|key| self.refuses_keyed(&[key])[0]) {
            return self.refuse(done, table_full());
        }
        let command = command.encode();
        if command.len() > MAX_PAYLOAD_BYTES {
            let why = format!("the write has {} bytes, at most {MAX_PAYLOAD_BYTES} fit", command.len());
            return self.refuse(done, Failure::new(FailureKind::TooLarge, why));
        }
        let deadline = self.clock.at(deadline);
        let command = Some(Draft::command(&command));
        self.step(|state, now| state.submit(Work::Write { command, done }, origin, deadline, now));
    }

    /// Asks from which applied index a read may be served. The state machine has applied that index when `done` is
    /// called, so the caller can read immediately. A failure is definite.
    pub fn read(
        self: &Arc<Self>,
        consistency: Consistency,
        deadline: Instant,
        done: Completion<Result<Index, Failure>>,
    ) {
        if consistency == Consistency::Stale {
            self.counters.count_stale_read();
            // After a restart nothing is applied until a leader says what is committed (thesis §3.8): an empty map is
            // not an old state, and "not found" would be a lie.
            return done(match self.with_kv(|kv| kv.applied().index) {
                0 => Err(Failure::unavailable(
                    "this node has just started and was not yet told what is committed",
                )),
                applied => Ok(applied),
            });
        }
        self.counters.count_linearizable_read();
        let deadline = self.clock.at(deadline);
        self.step(|state, now| state.submit(Work::Read { done }, Origin::Client, deadline, now));
    }

    /// Asks for a snapshot that holds everything acknowledged before. The state is saved, unless nothing has changed
    /// since it was last saved. `done` gets the end of the snapshot; the snapshot file is then in the data directory.
    pub fn backup(self: &Arc<Self>, deadline: Instant, done: Completion<BackupResult>) {
        let node = self.clone();
        let then = move |index: Result<Index, Failure>| match index {
            Ok(index) => node.backup_through(index, deadline, done),
            Err(failure) => done(Err(failure)),
        };
        self.read(Consistency::Linearizable, deadline, Box::new(then));
    }

    /// Asks for a snapshot through at least `index`. A caller that asks again after a deadline uses this function: a
    /// snapshot that was begun for the first request serves the second request.
    pub fn backup_through(self: &Arc<Self>, index: Index, deadline: Instant, done: Completion<BackupResult>) {
        let deadline = self.clock.at(deadline);
        self.step(|state, _| state.await_snapshot(index, deadline, done));
    }

    /// The disk with the snapshots of this node.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// For each idempotency key, whether the table has no room for it at the cluster time that its command would get.
    /// Only a leader refuses early; this saves a log entry that would decide nothing.
    fn refuses_keyed(&self, keys: &[&str]) -> Vec<bool> {
        match self.look(|state, now| state.raft.next_cluster_time(now)) {
            Some(cluster_time) => {
                self.with_kv(|kv| keys.iter().map(|key| kv.would_refuse_keyed(key, cluster_time)).collect())
            }
            None => vec![false; keys.len()],
        }
    }

    /// Ends the process with exit code 5: the leader sends data that this program cannot read.
    pub fn end_for_another_program(&self, why: &str) -> ! {
        guard::end_for_another_program(&format!("the leader's entries cannot be taken: {why}"))
    }

    /// The term that `member` leads and where it listens for peers, when this node follows it as the leader.
    pub fn followed_leader(&self, member: MemberId) -> Option<(Term, String)> {
        self.look(|state, _| {
            let follows = !state.raft.is_leader() && state.raft.leader() == Some(member);
            let raft_addr = || state.raft.membership().get(member).map(|m| m.raft_addr.clone());
            follows.then(raft_addr)?.map(|raft_addr| (state.raft.term(), raft_addr))
        })
    }

    /// The process that led `term` has ended: another leader is elected without waiting for the election timeout.
    pub fn leader_lost(self: &Arc<Self>, leader: MemberId, term: Term) {
        self.step(|state, now| state.raft.handle_leader_lost(leader, term, now));
    }

    // ---- for peers -----------------------------------------------------------------------------------------------------

    /// Answers a vote or pre-vote, once the disk holds what the answer promises. `done` is dropped without an answer
    /// when the node stops.
    pub fn answer_vote(self: &Arc<Self>, request: RequestVoteRequest, done: Completion<RequestVoteReply>) {
        self.step(|state, now| {
            if !state.is_stopping {
                let waiting = state.raft.handle_request_vote(request, now);
                state.waiters.hold(Held::Vote(waiting, done));
            }
        });
    }

    /// Answers an append that has passed `AppendEntriesRequest::validate`, once the disk holds what the answer
    /// promises, or after the append hold with what the disk holds then. `done` is dropped without an answer when the
    /// node stops.
    pub fn answer_append(
        self: &Arc<Self>,
        request: AppendEntriesRequest,
        done: Completion<AppendEntriesReply>,
    ) {
        self.step(|state, now| {
            if !state.is_stopping {
                let (term, leader, committed) = (request.term, request.leader, request.commit);
                let waiting = state.raft.handle_append_entries(request, now);
                if (state.raft.term(), state.raft.leader()) == (term, Some(leader)) {
                    state.ready_index.get_or_insert(committed);
                }
                state.waiters.hold(Held::Append(waiting, done));
            }
        });
    }

    /// Answers a piece of a leader's snapshot. The receiver thread writes it. When that thread has too much to do,
    /// `done` is dropped without an answer, and the leader sends the piece again.
    pub fn answer_install_snapshot(
        self: &Arc<Self>,
        request: InstallSnapshotRequest,
        done: Completion<InstallSnapshotReply>,
    ) {
        let to_write = self.step(|state, now| {
            if state.is_stopping {
                return None;
            }
            match state.raft.handle_install_snapshot(&request, now) {
                InstallVerdict::Take => Some((request, done)),
                InstallVerdict::Answer(waiting) => {
                    state.waiters.hold(Held::Install(waiting, done));
                    None
                }
            }
        });
        if let Some((request, done)) = to_write {
            self.pieces.send(request, done);
        }
    }

    /// Answers a leader that transfers its leadership to this member.
    pub fn answer_timeout_now(
        self: &Arc<Self>,
        request: TimeoutNowRequest,
        done: Completion<TimeoutNowReply>,
    ) {
        self.step(|state, now| {
            if !state.is_stopping {
                let waiting = state.raft.handle_timeout_now(request, now);
                state.waiters.hold(Held::TimeoutNow(waiting, done));
            }
        });
    }

    /// Answers a peer's call for a read index, as the leader. One answer serves every read that waited at the peer
    /// when it asked.
    pub fn answer_read_index(self: &Arc<Self>, deadline: Instant, done: Completion<ReadIndexResult>) {
        self.counters.count_peer_read();
        let deadline = self.clock.at(deadline);
        self.step(|state, now| state.submit(Work::Read { done }, Origin::Forwarded, deadline, now));
    }

    /// Makes the writes that a peer forwarded, as the leader; never forwards them again. The whole batch is answered
    /// when its last write is decided, or when the earliest deadline passes: then the undecided writes are unknown.
    pub fn answer_forward(
        self: &Arc<Self>,
        writes: Vec<ForwardedWrite>,
        done: Completion<Vec<ForwardedResult>>,
    ) {
        if writes.is_empty() {
            return done(Vec::new());
        }
        let shortest = writes.iter().map(|write| write.remaining_ms).min().unwrap_or(0);
        let refusals = self.refusals(&writes);
        let batch = Arc::new(Mutex::new(Batch {
            results: writes.iter().map(|_| None).collect(),
            missing: writes.len(),
            done: Some(done),
        }));
        let (mut refused, mut accepted, mut renewals) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (write, refusal)) in writes.into_iter().zip(refusals).enumerate() {
            let done = Batch::completion(&batch, at);
            match refusal {
                Some(failure) => refused.push((done, failure)),
                None => match renewal(&write.command) {
                    Some(leases) => renewals.push((leases, done)),
                    None => accepted.push(Work::Write { command: Some(write.command), done }),
                },
            }
        }
        let deadline = Instant::now() + Duration::from_millis(shortest);
        for (leases, done) in renewals {
            self.renewals.add(leases, Origin::Forwarded, deadline, done);
        }
        if !accepted.is_empty() {
            self.step(|state, now| {
                let deadline = now + Duration::from_millis(shortest);
                accepted.into_iter().for_each(|work| state.submit(work, Origin::Forwarded, deadline, now));
            });
        }
        refused.into_iter().for_each(|(done, failure)| self.refuse(done, failure));
    }

    /// Why this leader does not propose a command that a newer member forwarded.
    fn unsupported_here(&self, error: &CommandError) -> String {
        let (name, speaks) = (&self.options.node_id, self.options.protocol);
        format!("the write needs a later version: {name} speaks protocol {speaks} and leads ({error})")
    }

    /// Answers a write that is not proposed.
    fn refuse(&self, done: Completion<WriteResult>, failure: Failure) {
        let result = Err(failure);
        self.counters.count_write(&result);
        done(result);
    }

    /// Why forwarded writes are not proposed. Bytes that no state machine can read must not enter the log: every
    /// member would stop at them.
    fn refusals(&self, writes: &[ForwardedWrite]) -> Vec<Option<Failure>> {
        let commands: Vec<Result<Command, CommandError>> =
            writes.iter().map(|write| Command::decode(write.command.payload())).collect();
        let key = |command: &Result<Command, CommandError>| -> Option<String> {
            command.as_ref().ok()?.idempotency.as_ref().map(|i| i.key.clone())
        };
        let keys: Vec<Option<String>> = commands.iter().map(key).collect();
        let asked: Vec<&str> = keys.iter().flatten().map(String::as_str).collect();
        let mut refused = if asked.is_empty() { Vec::new() } else { self.refuses_keyed(&asked) }.into_iter();
        let too_large = |why: String| Failure::new(FailureKind::TooLarge, why);
        let judge =
            |((command, key), bytes): ((Result<Command, CommandError>, Option<String>), usize)| match command
            {
                Err(e) if e.is_newer() => {
                    Some(Failure::new(FailureKind::Unsupported, self.unsupported_here(&e)))
                }
                Err(e) => Some(too_large(format!("the forwarded write is refused: {e}"))),
                Ok(_) if bytes > MAX_PAYLOAD_BYTES => {
                    Some(too_large(format!("the write has {bytes} bytes, at most {MAX_PAYLOAD_BYTES} fit")))
                }
                Ok(_) => {
                    key.and_then(|_| refused.next()).filter(|&is_refused| is_refused).map(|_| table_full())
                }
            };
        let bytes = writes.iter().map(|write| write.command.payload().len());
        commands.into_iter().zip(keys).zip(bytes).map(judge).collect()
    }
}

/// The leases of a renewal: it shares an entry with the renewals of other members.
fn renewal(command: &Draft) -> Option<Vec<LeaseId>> {
    if kind_of(command.payload()) != Some(OpKind::LeaseRenew) {
        return None;
    }
    match Command::decode(command.payload()).ok()?.op {
        Op::LeaseRenew { leases } => Some(leases),
        _ => None,
    }
}

fn table_full() -> Failure {
    let why = "the table of idempotency keys is full: try again later, or without a key";
    Failure::new(FailureKind::Overloaded, why)
}

/// Bytes of the outcomes that one answer to forwarded writes carries. In JSON they take a third more, and what carries
/// them is limited.
const MAX_OUTCOMES_BYTES: usize = 4 << 20;

/// Shortens the outcomes that do not fit beside those before them: a client is then told that its transaction is done,
/// and not what it read, which is more than an answer that is lost.
fn shorten(results: &mut [ForwardedResult]) {
    let mut left = MAX_OUTCOMES_BYTES;
    for applied in results.iter_mut().filter_map(|result| result.as_mut().ok()) {
        let bytes = applied.outcome.encoded_len();
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => applied.outcome = applied.outcome.shortened(),
        }
    }
}

/// Forwarded writes that are answered together.
struct Batch {
    results: Vec<Option<ForwardedResult>>,
    missing: usize,
    done: Option<Completion<Vec<ForwardedResult>>>,
}

impl Batch {
    fn completion(batch: &Arc<Mutex<Batch>>, at: usize) -> Completion<WriteResult> {
        let batch = batch.clone();
        Box::new(move |result| {
            let complete = lock(&batch).put(at, result);
            if let Some((done, results)) = complete {
                done(results);
            }
        })
    }

    /// Stores one result; gives the whole answer with the last result.
    fn put(
        &mut self,
        at: usize,
        result: ForwardedResult,
    ) -> Option<(Completion<Vec<ForwardedResult>>, Vec<ForwardedResult>)> {
        self.results[at] = Some(result);
        self.missing -= 1;
        if self.missing > 0 {
            return None;
        }
        let mut results: Vec<ForwardedResult> =
            self.results.drain(..).map(|result| result.expect("none is missing")).collect();
        shorten(&mut results);
        self.done.take().map(|done| (done, results))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Applied;
    use crate::vocabulary::{Outcome, Row, TxnAnswer, TxnResult};

    fn applied(value_bytes: usize) -> ForwardedResult {
        let value = Some(vec![0; value_bytes]);
        let row =
            Row { key: b"k".to_vec(), value, create_revision: 2, mod_revision: 2, version: 1, lease: None };
        let answer = TxnAnswer { revision: 2, succeeded: true, results: vec![TxnResult::Get(Some(row))] };
        Ok(Applied { index: 1, outcome: Outcome::Txn(Box::new(answer)), replayed: false })
    }

    /// An answer larger than what carries it would end the link, and leave every write of the batch unknown.
    #[test]
    fn outcomes_that_do_not_fit_beside_others_are_shortened_and_the_small_ones_stay() {
        let mut results: Vec<ForwardedResult> = [1 << 20; 5].map(applied).into();
        results.insert(4, Err(table_full()));
        results.push(applied(10));
        shorten(&mut results);
        let is_whole = |result: &ForwardedResult| match result {
            Ok(applied) => Some(matches!(applied.outcome, Outcome::Txn(_))),
            Err(_) => None,
        };
        let whole: Vec<Option<bool>> = results.iter().map(is_whole).collect();
        let wanted = [true, true, true, false].map(Some);
        assert_eq!(whole, [&wanted[..], &[None, Some(false), Some(true)]].concat());
        let bytes = serde_json::to_vec(&results).unwrap().len();
        assert!(bytes < 2 * MAX_PAYLOAD_BYTES, "{bytes} bytes fit into an answer of the peer port");
    }
}
