//! Linearizable reads without a log entry: ReadIndex (thesis §6.4).

use std::collections::VecDeque;

use super::quorum::majority_value;
use super::raft::Raft;
use super::role::Role;
use super::types::{Index, MemberId, Term, Time};

/// Identifies one read of one leadership. Made here, never by a caller, and never reused: an answer can only confirm
/// the reads that it was requested for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadToken {
    term: Term,
    seq: u64,
}

/// A read that is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadDone {
    /// The read.
    pub token: ReadToken,
    /// Serve the read once the state machine has applied this index. An error means that the read surely failed,
    /// because the leadership ended.
    pub result: Result<Index, NotLeader>,
}

/// This member does not lead, or no longer leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this member does not lead")]
pub struct NotLeader {
    /// The leader, as far as this member knows.
    pub leader: Option<MemberId>,
}

/// A leader's reads that wait for their round.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    /// The newest round an RPC was sent in.
    opened: u64,
    /// The round that the newest waiting read needs: only RPCs sent after it arrived confirm it.
    wanted: u64,
    waiting: VecDeque<WaitingRead>,
    last_seq: u64,
}

#[derive(Clone, Copy, Debug)]
struct WaitingRead {
    token: ReadToken,
    index: Index,
    round: u64,
}

impl Reads {
    /// The round that RPCs must be sent in so that every waiting read can be confirmed.
    pub(super) fn wanted_round(&self) -> u64 {
        self.wanted
    }

    /// An RPC is sent now: it belongs to the newest wanted round, and a later read needs another round.
    pub(super) fn open_round(&mut self) -> u64 {
        self.opened = self.opened.max(self.wanted);
        self.opened
    }

    /// All reads that arrive before the next RPC is sent share its round.
    fn register(&mut self, term: Term, index: Index) -> ReadToken {
        self.wanted = self.opened + 1;
        self.last_seq += 1;
        let token = ReadToken { term, seq: self.last_seq };
        self.waiting.push_back(WaitingRead { token, index, round: self.wanted });
        token
    }
}

impl Raft {
    /// Asks for an index from which a read can be served: the commit index now, once a quorum has confirmed that this
    /// member still leads. The answer comes from `poll_reads`.
    ///
    /// # Errors
    /// This member does not lead.
    pub fn read_index(&mut self, _now: Time) -> Result<ReadToken, NotLeader> {
        self.steps += 1;
        let (term, commit_index) = (self.term(), self.commit_index);
        let leader_hint = self.leader();
        let Role::Leader(leader) = &mut self.role else { return Err(NotLeader { leader: leader_hint }) };
        // Before the own no-op is committed the commit index may lag behind what earlier leaders acknowledged; the
        // no-op's own index does not.
        let index = commit_index.max(leader.term_start);
        let token = leader.reads.register(term, index);
        self.confirm_reads();
        Ok(token)
    }

    /// Releases the reads whose round a quorum has answered, once an entry of this term is committed.
    pub(super) fn confirm_reads(&mut self) {
        let (me, commit_index) = (self.config.me, self.commit_index);
        let Role::Leader(leader) = &mut self.role else { return };
        if commit_index < leader.term_start || leader.reads.waiting.is_empty() {
            return;
        }
        let own = leader.reads.wanted;
        let acked = |id| if id == me { own } else { leader.peers.get(&id).map_or(0, |p| p.acked_round) };
        let confirmed = majority_value(self.memberships.latest().voters().map(acked).collect()).unwrap_or(0);
        while leader.reads.waiting.front().is_some_and(|r| r.round <= confirmed) {
            let read = leader.reads.waiting.pop_front().expect("just seen");
            self.reads_done.push(ReadDone { token: read.token, result: Ok(read.index) });
            self.reads_done_count += 1;
        }
    }

    /// The leadership ends: reads that still wait fail. They changed nothing, so this result is definite.
    pub(super) fn fail_reads(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        for read in leader.reads.waiting.drain(..) {
            self.reads_done.push(ReadDone { token: read.token, result: Err(NotLeader { leader: None }) });
            self.reads_done_count += 1;
        }
    }
}
