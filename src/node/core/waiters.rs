//! Requests that wait: each request from its arrival to its one answer, with what it waits for and until when. This
//! is plain data under the state's mutex, so that proposing and waiting are one step. Answers are collected and given
//! after unlocking.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::finished::{Finished, Held};
use crate::node::request::{
    AdminFailure, AdminFailureKind, AdminResult, Administered, Administration, BackupResult, Completion,
    Failure, FailureKind, Origin, ReadIndexResult, WriteResult,
};
use crate::raft::{Draft, Index, MemberId, Position, Raft, ReadToken, Settled, Term, Time};
use crate::store::Applied;

/// Maximum number of requests that wait at one node; more are refused as overloaded. The ports admit far fewer.
pub(in crate::node) const MAX_REQUESTS: usize = 4_096;

/// Number of a request, in the order of arrival.
pub(crate) type RequestId = u64;

/// What is asked.
pub enum Work {
    /// To put an encoded command into the log.
    Write {
        /// The command in the frame of its entry; gone once it is proposed.
        command: Option<Draft>,
        /// Told what became of it.
        done: Completion<WriteResult>,
    },
    /// To get an index from which a linearizable read can be served.
    Read {
        /// Told the index.
        done: Completion<ReadIndexResult>,
    },
    /// To get a snapshot of the state that holds a certain index.
    Backup {
        /// Told which snapshot.
        done: Completion<BackupResult>,
    },
    /// To change the cluster itself.
    Administer {
        /// The change.
        what: Administration,
        /// Told what became of it.
        done: Completion<AdminResult>,
    },
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Stage {
    /// For a leader to be known, or to be asked again at `retry_at`.
    AwaitLeader { retry_at: Time },
    /// For the forwarder or the read-asker to take it.
    Queued,
    /// For the leader's answer to an RPC: this node cannot know whether the request was executed.
    Sent,
    /// For its entry to be committed and applied.
    Proposed(Position),
    /// For the core to confirm its read index.
    Confirming(ReadToken),
    /// For the state machine to have applied this index.
    AwaitApplied(Index),
    /// For members that have not answered this leader yet: checked again at `retry_at`.
    AwaitNews { retry_at: Time },
    /// For another member to lead.
    Transferring,
    /// For a durable snapshot that holds this index.
    AwaitSnapshot(Index),
}

pub(in crate::node) struct Request {
    pub work: Work,
    pub origin: Origin,
    pub deadline: Time,
    /// When it stops waiting for a leader: set when it first has to.
    leader_by: Option<Time>,
    /// Why the last attempt at the leader failed.
    trouble: Option<String>,
    stage: Stage,
}

impl Request {
    fn wake_at(&self) -> Time {
        match self.stage {
            Stage::AwaitLeader { retry_at } => {
                self.deadline.min(retry_at).min(self.leader_by.unwrap_or(Time::NEVER))
            }
            Stage::AwaitNews { retry_at } => self.deadline.min(retry_at),
            _ => self.deadline,
        }
    }
}

/// Every request that waits, with one lookup table for each kind of thing that requests wait for.
pub(in crate::node) struct Waiters {
    requests: BTreeMap<RequestId, Request>,
    last_id: RequestId,
    wakes: BTreeSet<(Time, RequestId)>,
    leaderless: BTreeSet<RequestId>,
    queued_writes: BTreeSet<RequestId>,
    queued_reads: BTreeSet<RequestId>,
    sent: BTreeSet<RequestId>,
    proposed: BTreeMap<Index, (Term, RequestId)>,
    confirming: BTreeMap<ReadToken, RequestId>,
    applying: BTreeSet<(Index, RequestId)>,
    awaiting_news: BTreeSet<RequestId>,
    transferring: BTreeSet<RequestId>,
    saving: BTreeSet<(Index, RequestId)>,
    held: Vec<Held>,
    /// When the next hold of a held reply ends. A reply that still waits after its hold needs the disk, not time.
    settle_at: Time,
    finished: Vec<Finished>,
}

impl Waiters {
    pub(in crate::node) fn new() -> Waiters {
        Waiters {
            requests: BTreeMap::new(),
            last_id: 0,
            wakes: BTreeSet::new(),
            leaderless: BTreeSet::new(),
            queued_writes: BTreeSet::new(),
            queued_reads: BTreeSet::new(),
            sent: BTreeSet::new(),
            proposed: BTreeMap::new(),
            confirming: BTreeMap::new(),
            applying: BTreeSet::new(),
            awaiting_news: BTreeSet::new(),
            transferring: BTreeSet::new(),
            saving: BTreeSet::new(),
            held: Vec::new(),
            settle_at: Time::NEVER,
            finished: Vec::new(),
        }
    }

    /// Adds a request. It waits for nothing yet: the caller sets its stage in the same step.
    pub(in crate::node) fn add(&mut self, work: Work, origin: Origin, deadline: Time) -> RequestId {
        self.last_id += 1;
        let stage = Stage::AwaitLeader { retry_at: Time::NEVER };
        let request = Request { work, origin, deadline, leader_by: None, trouble: None, stage };
        self.wakes.insert((request.wake_at(), self.last_id));
        self.leaderless.insert(self.last_id);
        self.requests.insert(self.last_id, request);
        self.last_id
    }

    pub(in crate::node) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(in crate::node) fn get_mut(&mut self, id: RequestId) -> Option<&mut Request> {
        self.requests.get_mut(&id)
    }

    /// Moves a request to another stage.
    pub(in crate::node) fn set_stage(&mut self, id: RequestId, stage: Stage) {
        self.unlink(id);
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.stage = stage;
        self.wakes.insert((request.wake_at(), id));
        match (stage, &request.work) {
            (Stage::AwaitLeader { .. }, _) => {
                self.leaderless.insert(id);
            }
            (Stage::Queued, Work::Write { .. }) => {
                self.queued_writes.insert(id);
            }
            (Stage::Queued, Work::Read { .. }) => {
                self.queued_reads.insert(id);
            }
            (Stage::Queued, Work::Administer { .. } | Work::Backup { .. }) => {
                unreachable!("only reads and writes are forwarded here")
            }
            (Stage::AwaitSnapshot(index), _) => {
                self.saving.insert((index, id));
            }
            (Stage::AwaitNews { .. }, _) => {
                self.awaiting_news.insert(id);
            }
            (Stage::Transferring, _) => {
                self.transferring.insert(id);
            }
            (Stage::Sent, _) => {
                self.sent.insert(id);
            }
            (Stage::Proposed(at), _) => {
                self.proposed.insert(at.index, (at.term, id));
            }
            (Stage::Confirming(token), _) => {
                self.confirming.insert(token, id);
            }
            (Stage::AwaitApplied(index), _) => {
                self.applying.insert((index, id));
            }
        }
    }

    /// Makes a request wait for a leader until `leader_by`, counted from the first time it had to.
    pub(in crate::node) fn await_leader(&mut self, id: RequestId, leader_by: Time) {
        self.unlink(id);
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.leader_by.get_or_insert(leader_by);
        self.set_stage(id, Stage::AwaitLeader { retry_at: Time::NEVER });
    }

    /// Makes a request whose sending failed wait until `retry_at`, or for another leader, but not after `leader_by`,
    /// counted from the first time it had to wait.
    pub(in crate::node) fn await_retry(
        &mut self,
        id: RequestId,
        leader_by: Time,
        retry_at: Time,
        trouble: String,
    ) {
        self.unlink(id);
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.leader_by.get_or_insert(leader_by);
        request.trouble = Some(trouble);
        self.set_stage(id, Stage::AwaitLeader { retry_at });
    }

    fn unlink(&mut self, id: RequestId) {
        let Some(request) = self.requests.get(&id) else { return };
        self.wakes.remove(&(request.wake_at(), id));
        match request.stage {
            Stage::AwaitLeader { .. } => {
                self.leaderless.remove(&id);
            }
            Stage::Queued => {
                self.queued_writes.remove(&id);
                self.queued_reads.remove(&id);
            }
            Stage::Sent => {
                self.sent.remove(&id);
            }
            Stage::Proposed(at) => {
                self.proposed.remove(&at.index);
            }
            Stage::Confirming(token) => {
                self.confirming.remove(&token);
            }
            Stage::AwaitApplied(index) => {
                self.applying.remove(&(index, id));
            }
            Stage::AwaitNews { .. } => {
                self.awaiting_news.remove(&id);
            }
            Stage::Transferring => {
                self.transferring.remove(&id);
            }
            Stage::AwaitSnapshot(index) => {
                self.saving.remove(&(index, id));
            }
        }
    }

    fn take(&mut self, id: RequestId) -> Option<Request> {
        self.unlink(id);
        self.requests.remove(&id)
    }

    /// Answers a request with a failure. Does nothing when the request was answered before.
    pub(in crate::node) fn fail(&mut self, id: RequestId, failure: Failure) {
        let Some(request) = self.take(id) else { return };
        self.finished.push(match request.work {
            Work::Write { done, .. } => Finished::Write(done, Err(failure)),
            Work::Read { done } => Finished::Read(done, Err(failure)),
            Work::Backup { done } => Finished::Backup(done, Err(failure)),
            Work::Administer { done, .. } => {
                let Failure { kind, message } = failure;
                Finished::Administered(done, Err(AdminFailure::new(AdminFailureKind::Failed(kind), message)))
            }
        });
    }

    /// Answers an operator.
    pub(in crate::node) fn finish_administration(&mut self, id: RequestId, result: AdminResult) {
        if let Some(Request { work: Work::Administer { done, .. }, .. }) = self.take(id) {
            self.finished.push(Finished::Administered(done, result));
        }
    }

    /// A snapshot through `last` is durable: answers the requests that waited for it.
    pub(in crate::node) fn handle_snapshot(&mut self, last: Position) {
        while let Some(&(index, id)) = self.saving.first() {
            if index > last.index {
                break;
            }
            if let Some(Request { work: Work::Backup { done }, .. }) = self.take(id) {
                self.finished.push(Finished::Backup(done, Ok(last)));
            }
        }
    }

    /// The index that a snapshot must hold to serve all requests that wait for a snapshot.
    pub(in crate::node) fn snapshot_wanted(&self) -> Option<Index> {
        self.saving.last().map(|&(index, _)| index)
    }

    pub(in crate::node) fn has_transferring(&self) -> bool {
        !self.transferring.is_empty()
    }

    /// The requests that wait for the transfer and ask for the leader's removal, with the member to remove.
    pub(in crate::node) fn transferring_to_leave(&self) -> Vec<(RequestId, MemberId)> {
        let leaves = |&id: &RequestId| match &self.requests[&id].work {
            Work::Administer { what: Administration::Remove(gone), .. } => Some((id, *gone)),
            _ => None,
        };
        self.transferring.iter().filter_map(leaves).collect()
    }

    /// Answers every request that waits for the leadership transfer.
    pub(in crate::node) fn finish_transferring(&mut self, result: &AdminResult) {
        while let Some(&id) = self.transferring.first() {
            self.finish_administration(id, result.clone());
        }
    }

    /// Answers a write with the result of the leader or of the state machine.
    pub(in crate::node) fn finish_write(&mut self, id: RequestId, result: WriteResult) {
        if let Some(Request { work: Work::Write { done, .. }, .. }) = self.take(id) {
            self.finished.push(Finished::Write(done, result));
        }
    }

    /// A read may be served from `index` on: immediately when `index` is applied, or when a peer asked; the peer
    /// waits for its own state machine.
    pub(in crate::node) fn confirm_read(&mut self, id: RequestId, index: Index, last_applied: Index) {
        let Some(request) = self.requests.get(&id) else { return };
        if request.origin == Origin::Client && last_applied < index {
            return self.set_stage(id, Stage::AwaitApplied(index));
        }
        if let Some(Request { work: Work::Read { done }, .. }) = self.take(id) {
            self.finished.push(Finished::Read(done, Ok(index)));
        }
    }

    /// The read that waits for this token.
    pub(in crate::node) fn confirming(&self, token: ReadToken) -> Option<RequestId> {
        self.confirming.get(&token).copied()
    }

    /// The state machine has applied everything through `last_applied`: serves the reads that waited for it.
    pub(in crate::node) fn handle_applied_index(&mut self, last_applied: Index) {
        while let Some(&(index, id)) = self.applying.first() {
            if index > last_applied {
                break;
            }
            self.confirm_read(id, index, last_applied);
        }
    }

    /// An entry was applied. The request that was proposed at its index is done, unless the entry is another
    /// leader's: then the request is surely not done. Entries that are only appended never decide an outcome.
    pub(in crate::node) fn handle_applied_entry(&mut self, at: Position, applied: Option<Applied>) {
        let Some(&(term, id)) = self.proposed.get(&at.index) else { return };
        if matches!(self.requests[&id].work, Work::Administer { .. }) && term == at.term {
            return self.finish_administration(id, Ok(Administered::Changed(at.index)));
        }
        let result = match applied {
            Some(applied) if term == at.term => Ok(applied),
            _ => Err(Failure::unavailable(format!(
                "another leader's entry took the place of this write, {}@{term}: send it again",
                at.index
            ))),
        };
        match result {
            Err(failure) => self.fail(id, failure),
            result => self.finish_write(id, result),
        }
    }

    /// The leadership ended: uncommitted proposals may or may not take effect. Committed ones do, and are answered
    /// when they are applied.
    pub(in crate::node) fn fail_proposed(&mut self, commit_index: Index, why: &str) {
        let undecided: Vec<RequestId> =
            self.proposed.range(commit_index + 1..).map(|(_, &(_, id))| id).collect();
        undecided.into_iter().for_each(|id| self.fail(id, Failure::unknown(why)));
    }

    /// A snapshot replaced every entry through `index`: the outcome of the writes at these entries can no longer be
    /// known.
    pub(in crate::node) fn fail_covered(&mut self, index: Index, why: &str) {
        let covered: Vec<RequestId> = self.proposed.range(..=index).map(|(_, &(_, id))| id).collect();
        covered.into_iter().for_each(|id| self.fail(id, Failure::unknown(why)));
    }

    /// The leader changed: writes that were sent to the old leader have an unknown outcome. All other requests are
    /// returned, to be retried with the new leader.
    pub(in crate::node) fn take_for_redispatch(&mut self) -> Vec<RequestId> {
        let mut again: Vec<RequestId> = Vec::new();
        for id in self.sent.clone() {
            match self.requests[&id].work {
                Work::Write { .. } => self.fail(
                    id,
                    Failure::unknown(
                        "the leader changed after the write was sent to it: it may or may not take effect",
                    ),
                ),
                _ => again.push(id),
            }
        }
        let waiting = self.leaderless.iter().chain(&self.queued_writes).chain(&self.queued_reads);
        again.extend(waiting.chain(&self.awaiting_news));
        again.sort_unstable();
        again
    }

    /// The writes for the leader, oldest first.
    pub(in crate::node) fn queued_writes(&self) -> impl Iterator<Item = (RequestId, &Request)> {
        self.queued_writes.iter().map(|&id| (id, &self.requests[&id]))
    }

    /// The reads that need a read index from the leader.
    pub(in crate::node) fn queued_reads(&self) -> impl Iterator<Item = (RequestId, &Request)> {
        self.queued_reads.iter().map(|&id| (id, &self.requests[&id]))
    }

    pub(in crate::node) fn has_queued_writes(&self) -> bool {
        !self.queued_writes.is_empty()
    }

    pub(in crate::node) fn has_queued_reads(&self) -> bool {
        !self.queued_reads.is_empty()
    }

    pub(in crate::node) fn is_sent(&self, id: RequestId) -> bool {
        self.sent.contains(&id)
    }

    /// Answers the overdue requests; returns the requests to retry.
    pub(in crate::node) fn expire(&mut self, now: Time) -> Vec<RequestId> {
        let mut again = Vec::new();
        while let Some(&(at, id)) = self.wakes.first() {
            if at > now {
                break;
            }
            let request = &self.requests[&id];
            let is_over = now >= request.deadline || request.leader_by.is_some_and(|by| now >= by);
            if is_over {
                match request.stage {
                    Stage::AwaitNews { .. } => self.finish_administration(id, Err(no_news())),
                    _ => {
                        let failure = overdue(request);
                        self.fail(id, failure);
                    }
                }
            } else {
                self.set_stage(id, Stage::AwaitLeader { retry_at: Time::NEVER });
                again.push(id);
            }
        }
        again
    }

    /// When `expire` or `settle` has something to do.
    pub(in crate::node) fn next_wake(&self) -> Time {
        self.wakes.first().map_or(Time::NEVER, |&(at, _)| at).min(self.settle_at)
    }

    /// Keeps a reply to a peer until the disk holds what the reply promises.
    pub(in crate::node) fn hold(&mut self, held: Held) {
        self.held.push(held);
    }

    /// Releases the replies whose writes are on the disk, and the replies to appends whose hold is over.
    pub(in crate::node) fn settle(&mut self, raft: &Raft, now: Time) {
        for held in std::mem::take(&mut self.held) {
            match held {
                Held::Vote(waiting, done) => match raft.settle(waiting, now) {
                    Settled::Ready(reply) => self.finished.push(Finished::Vote(done, reply)),
                    Settled::NotYet(waiting) => self.held.push(Held::Vote(waiting, done)),
                },
                Held::Append(waiting, done) => match raft.settle(waiting, now) {
                    Settled::Ready(reply) => self.finished.push(Finished::Append(done, reply)),
                    Settled::NotYet(waiting) => self.held.push(Held::Append(waiting, done)),
                },
                Held::Install(waiting, done) => match raft.settle(waiting, now) {
                    Settled::Ready(reply) => self.finished.push(Finished::Install(done, reply)),
                    Settled::NotYet(waiting) => self.held.push(Held::Install(waiting, done)),
                },
                Held::TimeoutNow(waiting, done) => match raft.settle(waiting, now) {
                    Settled::Ready(reply) => self.finished.push(Finished::TimeoutNow(done, reply)),
                    Settled::NotYet(waiting) => self.held.push(Held::TimeoutNow(waiting, done)),
                },
            }
        }
        let holds = self.held.iter().filter_map(Held::hold_until).filter(|&until| until > now);
        self.settle_at = holds.min().unwrap_or(Time::NEVER);
    }

    /// The node stops: every request is answered, replies to peers are dropped without being sent.
    pub(in crate::node) fn fail_all(&mut self) {
        self.held.clear();
        for id in self.requests.keys().copied().collect::<Vec<_>>() {
            let request = &self.requests[&id];
            let is_unknown = matches!(request.work, Work::Write { .. } | Work::Administer { .. })
                && matches!(request.stage, Stage::Proposed(_) | Stage::Sent);
            let failure = match is_unknown {
                true => Failure::unknown(
                    "the node stopped before the write was decided: it may or may not take effect",
                ),
                false => Failure::unavailable("the node is stopping: ask another one"),
            };
            self.fail(id, failure);
        }
    }

    /// The answers that are due.
    pub(in crate::node) fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }
}

/// The answer to a request whose deadline has passed: a write that was proposed or sent is unknown, everything else
/// is surely not done.
fn overdue(request: &Request) -> Failure {
    match (&request.work, request.stage) {
        (Work::Write { .. }, Stage::Proposed(at)) => Failure::unknown(format!(
            "the write was not committed in time; as entry {at} it may still take effect"
        )),
        (Work::Write { .. }, Stage::Sent) => {
            Failure::unknown("the leader did not answer in time: the write may or may not take effect")
        }
        (_, Stage::AwaitLeader { .. }) => Failure::unavailable(match &request.trouble {
            Some(trouble) => format!("the leader could not be reached in time: {trouble}"),
            None => "no leader is known yet: `dkv-cli status` shows what answers".to_owned(),
        }),
        (Work::Write { .. }, _) => {
            Failure::unavailable("the write could not be sent to the leader in time: it was not made")
        }
        (Work::Administer { .. }, Stage::Proposed(at)) => Failure::unknown(format!(
            "the change was not committed in time; as entry {at} it may still take effect"
        )),
        (Work::Administer { .. }, _) => {
            Failure::unavailable("no other member took the leadership over in time")
        }
        (Work::Backup { .. }, _) => Failure::new(
            FailureKind::Timeout,
            "the state could not be saved in time: it is being written; ask again",
        ),
        (Work::Read { .. }, Stage::AwaitApplied(index)) => Failure::new(
            FailureKind::Timeout,
            format!("this node has not applied entry {index} in time: it lags behind the leader"),
        ),
        (Work::Read { .. }, _) => {
            Failure::new(FailureKind::Timeout, "the leader was not confirmed in time for this read")
        }
    }
}

/// The answer to an operator whose deadline passed before the needed members answered: nothing was done, and the
/// request may succeed later.
fn no_news() -> AdminFailure {
    let text = "the members that it needs have not answered the new leader in time: try again";
    AdminFailure::new(AdminFailureKind::Conflict, text)
}
