//! One move at a time: each RPC leaves, arrives, is answered and comes back when the script says so.

use super::*;

impl Cluster {
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
                Apply::Read(wanted) => {
                    // As few as there can be in one batch of the log.
                    let entry = node.durable.get(wanted.from.index).expect("the start left it on the disk");
                    assert_eq!(entry.position(), wanted.from);
                    node.applied.push(entry.clone());
                    node.raft.handle_applied(wanted.from.index);
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
        let member = applied.iter().rev().find(|e| e.membership().is_some()).expect("a genesis entry");
        SnapshotMeta {
            last: last.position(),
            cluster_time: last.cluster_time(),
            membership: member.membership().expect("just seen").clone(),
            membership_index: member.index(),
            version: applied.iter().filter_map(Entry::version).max().unwrap_or(0),
        }
    }

    #[track_caller]
    pub fn change(&mut self, me: u64, change: &MembershipChange) -> Result<Changed, ChangeError> {
        self.step(me, |raft, now| raft.change_membership(change, now))
    }

    /// A transfer of a snapshot begins, if one is due.
    pub fn try_offer(&mut self, from: u64, to: u64) -> Option<(Position, Ticket)> {
        match self.poll_bulk(from, to) {
            PollBulk::Transfer(last, ticket) => Some((last, ticket)),
            _ => None,
        }
    }

    pub fn poll_bulk(&mut self, from: u64, to: u64) -> PollBulk {
        self.step(from, |raft, now| raft.poll_bulk(id(to), now))
    }

    /// What must be read for `to`.
    #[track_caller]
    pub fn wanted_read(&mut self, from: u64, to: u64) -> (LogRead, Ticket) {
        match self.poll_bulk(from, to) {
            PollBulk::Read(wanted, ticket) => (wanted, ticket),
            other => panic!("{from} wants nothing read for {to}: {other:?}"),
        }
    }

    /// What the disk of `me` has of what is wanted.
    pub fn read_log(&self, me: u64, wanted: &LogRead) -> Result<Vec<Entry>, ReadFailed> {
        if self.unreadable.contains(&me) {
            return Err(ReadFailed);
        }
        let durable = &self.nodes[&me].durable;
        let mut bytes = 0;
        let entries = (wanted.from.index..=wanted.through).map_while(|index| {
            let is_full = bytes >= wanted.max_bytes.max(1);
            let entry = durable.get(index).filter(|entry| !is_full && entry.term() == wanted.from.term)?;
            bytes += entry.frame().len();
            Some(entry.clone())
        });
        Ok(entries.collect())
    }

    /// What was read comes back, or that nothing could be read. Returns whether a newer snapshot is needed.
    pub fn end_read(&mut self, me: u64, ticket: Ticket, read: Result<Vec<Entry>, ReadFailed>) -> bool {
        self.note(format!("{me} reads its log: {read:?}"));
        self.step(me, |raft, now| raft.handle_log_read(ticket, read, now))
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

    pub(super) fn fail(&mut self, from: u64, life: u64, ticket: Ticket) {
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
}
