//! What only a view over all members can check, after every step.

use super::*;

impl Cluster {
    pub(super) fn check(&mut self, me: u64, before: &Watermarks, after: &Watermarks) {
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
                is_compacted || log.holds(entry),
                "I10: leader {me} of term {term} lacks {}, committed in term {seen_in}",
                entry.position()
            );
        }
    }

    /// The entries of a log: what has left memory from the disk.
    fn entries(&self, me: u64) -> impl Iterator<Item = &Entry> {
        let node = &self.nodes[&me];
        let log = node.raft.log();
        let released = log.first_index()..=log.released();
        released.map(|index| node.durable.get(index).expect("it left memory")).chain(log.iter())
    }

    /// I9: two logs that hold the same index and term agree in that entry and in everything before it.
    pub(super) fn check_logs(&self, me: u64) {
        let mine = self.nodes[&me].raft.log();
        for (other, node) in self.nodes.iter().filter(|(o, n)| **o != me && n.is_up) {
            let theirs = node.raft.log();
            let first = mine.first_index().max(theirs.first_index());
            let from = |of| -> Vec<&Entry> { self.entries(of).filter(|e| e.index() >= first).collect() };
            let (mine, theirs) = (from(me), from(*other));
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
            let Some(entry) = self.entries(me).find(|e| e.index() == index).cloned() else {
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
    pub(super) fn check_request(&self, from: u64, request: &RpcRequest) {
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

    pub(super) fn check_vote_reply(&self, from: u64, asked: &RequestVoteRequest, reply: RequestVoteReply) {
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

    pub(super) fn check_append_reply(&self, from: u64, reply: AppendEntriesReply) {
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
