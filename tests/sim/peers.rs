//! What a member does with the requests of its peers, as `src/node/requests.rs` does: each one is handed to the core, and its
//! answer leaves when a completion brings it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dkv::node::{
    Completion, Failure, FailureKind, ForwardedWrite, Held as HeldReply, Origin, PeerError, PeerReply,
    PeerRequest, Work, WriteResult,
};
use dkv::raft::AppendOutcome;
use dkv::store::Command;

use crate::net::CallId;
use crate::process::{AdminFor, Batch, Done, Held, ReadFor, WriteFor};
use crate::report::Mark;
use crate::world::{NodeIndex, World};

pub type Mailbox = Arc<Mutex<Vec<Done>>>;

/// A completion that leaves its result in the mailbox.
pub fn leave<T: 'static>(mailbox: &Mailbox, make: impl FnOnce(T) -> Done + Send + 'static) -> Completion<T> {
    let mailbox = mailbox.clone();
    Box::new(move |value| mailbox.lock().expect("one thread").push(make(value)))
}

impl World {
    /// A request arrives at a running process.
    pub fn handle_request(
        &mut self,
        node: NodeIndex,
        from: NodeIndex,
        call: Option<CallId>,
        request: PeerRequest,
    ) {
        self.line(|| format!("n{} takes from n{}: {}", node + 1, from + 1, describe(&request)));
        let term = self.process(node).state.raft.term();
        let sender = self.nodes[from].id;
        match request {
            // A member that missed its own removal campaigns: it is told, so that it ends.
            PeerRequest::RequestVote(_) if self.process(node).kv.is_removed(sender) => {
                self.mark(Mark::RemovedRefused);
                if let Some(call) = call {
                    self.send_refusal(node, from, call, PeerError::Removed);
                }
            }
            PeerRequest::RequestVote(ref vote) => {
                if vote.term < term {
                    self.mark(Mark::OldTermRequest);
                }
                let (vote, tag) = (vote.clone(), self.hold(node, from, call, request));
                let done = leave(&self.process(node).mailbox, move |reply| Done::Vote(tag, reply));
                self.step(node, |state, now| {
                    let waiting = state.raft.handle_request_vote(vote, now);
                    state.hold(HeldReply::Vote(waiting, done));
                });
            }
            PeerRequest::AppendEntries(ref append) => {
                if append.term < term {
                    self.mark(Mark::OldTermRequest);
                }
                append.validate().expect("a leader's request is well formed");
                let (append, tag) = (append.clone(), self.hold(node, from, call, request));
                let done = leave(&self.process(node).mailbox, move |reply| Done::Append(tag, reply));
                self.step(node, |state, now| {
                    let waiting = state.raft.handle_append_entries(append, now);
                    state.hold(HeldReply::Append(waiting, done));
                });
            }
            PeerRequest::ReadIndex { remaining_ms } => {
                let reader = ReadFor::Peer(from, call);
                let done = leave(&self.process(node).mailbox, move |result| Done::Read(reader, result));
                self.step(node, |state, now| {
                    let deadline = now + Duration::from_millis(remaining_ms);
                    state.submit(Work::Read { done }, Origin::Forwarded, deadline, now);
                });
            }
            PeerRequest::Forward(writes) => self.handle_forward(node, from, call, writes),
            PeerRequest::InstallSnapshot(piece) => self.handle_piece(node, from, call, piece),
            PeerRequest::TimeoutNow(request) => {
                let done =
                    leave(&self.process(node).mailbox, move |reply| Done::TimeoutNow(from, call, reply));
                self.step(node, |state, now| {
                    let waiting = state.raft.handle_timeout_now(request, now);
                    state.hold(HeldReply::TimeoutNow(waiting, done));
                });
            }
            PeerRequest::Administer { what, remaining_ms } => {
                self.handle_administer(node, from, call, what, remaining_ms);
            }
        }
    }

    /// Keeps what a reply will be checked against.
    fn hold(&mut self, node: NodeIndex, to: NodeIndex, call: Option<CallId>, request: PeerRequest) -> u64 {
        let term = match &request {
            PeerRequest::RequestVote(vote) => vote.term,
            PeerRequest::AppendEntries(append) => append.term,
            _ => unreachable!("these are not held"),
        };
        let process = self.process(node);
        process.last_tag += 1;
        let term = term.max(process.state.raft.term());
        process.held.insert(process.last_tag, Held { to, call, term, request });
        process.last_tag
    }

    fn handle_forward(
        &mut self,
        node: NodeIndex,
        from: NodeIndex,
        call: Option<CallId>,
        writes: Vec<ForwardedWrite>,
    ) {
        let shortest = writes.iter().map(|write| write.remaining_ms).min().unwrap_or(0);
        let process = self.process(node);
        process.last_tag += 1;
        let tag = process.last_tag;
        process.batches.insert(tag, Batch { to: from, call, results: vec![None; writes.len()] });
        let works: Vec<(Command, Work)> = writes
            .into_iter()
            .enumerate()
            .map(|(at, write)| {
                let parsed =
                    Command::decode(write.command.payload()).expect("a peer forwards what it encoded");
                let done =
                    leave(&process.mailbox, move |result| Done::Write(WriteFor::Batch(tag, at), result));
                (parsed, Work::Write { command: Some(write.command), done })
            })
            .collect();
        for (command, work) in works {
            self.submit_write(node, &command, work, Origin::Forwarded, Duration::from_millis(shortest));
        }
    }

    /// Refuses early what the idempotency table has no room for, as the leader does; else submits.
    pub fn submit_write(
        &mut self,
        node: NodeIndex,
        command: &Command,
        work: Work,
        origin: Origin,
        patience: Duration,
    ) {
        let now = self.nodes[node].clock.show(self.now);
        let speaks = self.nodes[node].protocol;
        let needs = crate::client::needs(command.op.kind());
        if needs > speaks {
            // The program cannot read what a peer forwarded, and says so as production does.
            let Work::Write { done, .. } = work else { unreachable!("a write") };
            let why = format!("the write needs version {needs}, n{} speaks protocol {speaks}", node + 1);
            done(Err(Failure::new(FailureKind::Unsupported, why)));
            return self.empty_mailbox(node);
        }
        let process = self.process(node);
        let is_full = command.idempotency.as_ref().is_some_and(|idempotency| {
            let cluster_time = process.state.raft.next_cluster_time(now);
            cluster_time
                .is_some_and(|cluster_time| process.kv.would_refuse_keyed(&idempotency.key, cluster_time))
        });
        if is_full {
            let Work::Write { done, .. } = work else { unreachable!("a write") };
            done(Err(Failure::new(FailureKind::Overloaded, "the idempotency table is full")));
            return self.empty_mailbox(node);
        }
        if self.process(node).state.raft.is_transferring() {
            self.mark(Mark::WriteDuringTransfer);
        }
        self.step(node, |state, now| state.submit(work, origin, now + patience, now));
    }

    /// Notes one result of a forwarded batch; the last one sends the answer.
    pub fn put_in_batch(&mut self, node: NodeIndex, tag: u64, at: usize, result: WriteResult) {
        let process = self.process(node);
        let batch = process.batches.get_mut(&tag).expect("a batch is there until its last answer");
        batch.results[at] = Some(result);
        if batch.results.iter().all(Option::is_some) {
            let Batch { to, call, results } = process.batches.remove(&tag).expect("just seen");
            self.mark(Mark::Forwarded);
            self.reply(node, to, call, PeerReply::Forward(results.into_iter().flatten().collect()));
        }
    }

    /// Sends out what completions have left.
    pub fn empty_mailbox(&mut self, node: NodeIndex) {
        let mailbox = self.process(node).mailbox.clone();
        let done = std::mem::take(&mut *mailbox.lock().expect("one thread"));
        for done in done {
            match done {
                Done::Vote(tag, reply) => {
                    let held = self.process(node).held.remove(&tag).expect("answered once");
                    let PeerRequest::RequestVote(request) = &held.request else { unreachable!("a vote") };
                    self.oracle.check_vote_reply(request, &reply, &self.nodes[node].disk);
                    self.reply(node, held.to, held.call, PeerReply::RequestVote(reply));
                }
                Done::Append(tag, reply) => {
                    let held = self.process(node).held.remove(&tag).expect("answered once");
                    let PeerRequest::AppendEntries(request) = &held.request else {
                        unreachable!("an append")
                    };
                    self.oracle.check_append_reply(request, &reply, &self.nodes[node].disk);
                    if reply.term > held.term {
                        self.mark(Mark::ReplyOvertakenByTerm);
                    }
                    if let AppendOutcome::Accepted { received, match_index } = reply.outcome
                        && match_index < received
                    {
                        self.mark(Mark::HeldAppendAnsweredEarly);
                    }
                    self.reply(node, held.to, held.call, PeerReply::AppendEntries(reply));
                }
                Done::TimeoutNow(to, call, reply) => {
                    self.oracle.check_timeout_now_reply(&reply, &self.nodes[node].disk);
                    self.reply(node, to, call, PeerReply::TimeoutNow(reply));
                }
                Done::Administer(AdminFor::Operator(what), result) => {
                    self.judge_administration(&what, &result);
                }
                Done::Administer(AdminFor::Peer(to, call), result) => {
                    self.reply(node, to, call, PeerReply::Administer(result));
                }
                Done::Install(to, call, reply) => {
                    self.oracle.check_install_reply(&reply, &self.nodes[node].disk);
                    self.reply(node, to, call, PeerReply::InstallSnapshot(reply));
                }
                Done::Read(ReadFor::Peer(to, call), result) => {
                    self.mark(Mark::ReadIndexAsked);
                    self.reply(node, to, call, PeerReply::ReadIndex(result));
                }
                Done::Read(ReadFor::Client(asker, query), result) => {
                    self.answer_read(node, asker, &query, result)
                }
                Done::Write(WriteFor::Client(asker), result) => self.answer_write(node, asker, result),
                Done::Write(WriteFor::Holder(sent), result) => self.answer_holder(sent, result),
                Done::Write(WriteFor::Batch(tag, at), result) => self.put_in_batch(node, tag, at, result),
            }
        }
    }

    /// Answers a peer, unless nobody waits for the answer.
    pub fn reply(&mut self, node: NodeIndex, to: NodeIndex, call: Option<CallId>, reply: PeerReply) {
        if let Some(call) = call {
            self.send_reply(node, to, call, reply);
        }
    }
}

/// A request, for the trace.
pub fn describe(request: &PeerRequest) -> String {
    match request {
        PeerRequest::RequestVote(r) => {
            format!("{} term {} log {}", if r.pre_vote { "pre-vote" } else { "vote" }, r.term, r.last)
        }
        PeerRequest::AppendEntries(r) => {
            format!("append term {} prev {} +{} commit {}", r.term, r.prev, r.entries.len(), r.commit)
        }
        PeerRequest::ReadIndex { remaining_ms } => format!("read index within {remaining_ms} ms"),
        PeerRequest::Forward(writes) => format!("{} writes", writes.len()),
        PeerRequest::InstallSnapshot(r) => {
            let end = r.offset + r.data.len() as u64;
            format!("snapshot term {} through {} bytes {}..{end} of {}", r.term, r.last, r.offset, r.size)
        }
        other => format!("{other:?}"),
    }
}
