//! The RPCs of Figure 2 and their replies. On the wire a field that a program does not know is ignored: a newer member
//! may say more. What matters is only sent when the version in force has it. Entries travel beside the JSON as frames, so [`AppendEntriesRequest`] has
//! no serde form of its own.

use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::types::{Index, MemberId, Position, Term, Time};
use super::version::Protocol;

/// Asks for a vote (paper §5.2), or, with `pre_vote`, whether one would be given (thesis §9.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestVoteRequest {
    /// The candidate's term; for a pre-vote the term it would campaign in, which is its own plus one.
    pub term: Term,
    /// Who asks.
    pub candidate: MemberId,
    /// The last entry of its log.
    pub last: Position,
    /// A question only: changes no state and resets no timer at the receiver.
    pub pre_vote: bool,
    /// The leader transferred its leadership (thesis §3.10): the vote is considered although a leader was heard just
    /// now.
    pub transfer: bool,
}

/// The answer to [`RequestVoteRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestVoteReply {
    /// The receiver's term, for the candidate to update itself. A granted pre-vote repeats the request's term.
    pub term: Term,
    /// Whether the vote is (or would be) given.
    pub granted: bool,
    /// What the receiver speaks.
    pub protocol: Protocol,
}

/// Carries entries, or none: a heartbeat (paper §5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntriesRequest {
    /// The leader's term.
    pub term: Term,
    /// Who leads.
    pub leader: MemberId,
    /// The entry right before `entries`.
    pub prev: Position,
    /// The leader's commit index.
    pub commit: Index,
    /// Consecutive entries from `prev.index + 1` on.
    pub entries: Vec<Entry>,
}

impl AppendEntriesRequest {
    /// Index of the last entry this RPC covers: that of `prev` when it carries none.
    pub fn last_index(&self) -> Index {
        self.prev.index + self.entries.len() as u64
    }

    /// What no leader ever sends: entries that do not follow `prev` one by one, or terms that fall or exceed the
    /// leader's. The peer port refuses such a request before the core sees it.
    pub fn validate(&self) -> Result<(), String> {
        let mut last = self.prev;
        if last.term > self.term {
            return Err(format!(
                "the entry before the first, {last}, has a higher term than its leader's {}",
                self.term
            ));
        }
        for entry in &self.entries {
            if last.index.checked_add(1) != Some(entry.index()) {
                return Err(format!("entry {} does not follow {last}", entry.position()));
            }
            if entry.term() < last.term || entry.term() > self.term {
                return Err(format!(
                    "entry {} after {last} in term {}: terms only rise",
                    entry.position(),
                    self.term
                ));
            }
            last = entry.position();
        }
        Ok(())
    }
}

/// The answer to [`AppendEntriesRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendEntriesReply {
    /// The receiver's term.
    pub term: Term,
    /// What it made of the request.
    pub outcome: AppendOutcome,
    /// What the receiver speaks.
    pub protocol: Protocol,
}

/// What a receiver made of an AppendEntries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppendOutcome {
    /// The previous entry matched.
    Accepted {
        /// The last index of this RPC that the receiver's memory holds as the leader does.
        received: Index,
        /// The same for the receiver's disk: what the leader may count.
        match_index: Index,
    },
    /// The previous entry did not match (paper §5.3: back-tracking by whole terms).
    Conflict {
        /// Where the leader should look next: the first index of `conflict_term`, or one past the end of a log that
        /// is too short.
        conflict_index: Index,
        /// Term of the entry found at the previous index; none when the log ends before it.
        conflict_term: Option<Term>,
    },
    /// Nothing but the term: the sender's is old, or the receiver's changed while the answer waited for the disk.
    TermOnly,
}

/// One piece of a snapshot file (paper Figure 13). The bytes are read and written outside of the core, which decides
/// whether they are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallSnapshotRequest {
    /// The leader's term.
    pub term: Term,
    /// Who leads.
    pub leader: MemberId,
    /// Which snapshot: the last entry it covers.
    pub last: Position,
    /// Bytes of the whole file.
    pub size: u64,
    /// CRC-32C of the whole file.
    pub crc: u32,
    /// Where in the file the piece belongs.
    pub offset: u64,
    /// The piece. The last one ends at `size`.
    pub data: Vec<u8>,
}

/// The answer to [`InstallSnapshotRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallSnapshotReply {
    /// The receiver's term.
    pub term: Term,
    /// What it made of the piece.
    pub outcome: InstallOutcome,
    /// What the receiver speaks.
    pub protocol: Protocol,
}

/// What a receiver made of a piece of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstallOutcome {
    /// It is written: send what begins here next. An earlier offset than sent asks to go back there.
    Wants(u64),
    /// Nothing more is needed: through this index the receiver holds what is committed, on its disk.
    Holds(Index),
    /// Nothing but the term: the sender's is old.
    TermOnly,
}

/// Tells a member to campaign at once (thesis §3.10): the leader transfers its leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutNowRequest {
    /// The leader's term.
    pub term: Term,
    /// Who leads.
    pub leader: MemberId,
}

/// The answer to [`TimeoutNowRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutNowReply {
    /// The receiver's term when the request had arrived; the campaign itself raises it.
    pub term: Term,
    /// Whether it campaigns.
    pub campaigns: bool,
}

/// An RPC that the core wants sent to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RpcRequest {
    /// A vote or a pre-vote.
    RequestVote(RequestVoteRequest),
    /// Entries or a heartbeat.
    AppendEntries(AppendEntriesRequest),
    /// The leadership, transferred.
    TimeoutNow(TimeoutNowRequest),
}

/// The answer to an [`RpcRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RpcReply {
    /// To a vote or a pre-vote.
    RequestVote(RequestVoteReply),
    /// To entries or a heartbeat.
    AppendEntries(AppendEntriesReply),
    /// To a leadership transfer.
    TimeoutNow(TimeoutNowReply),
}

/// The RPC brought no answer: refused, timed out, broken off or not understood. Nothing follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RpcFailed;

/// Stays here while its RPC is under way and comes back with the result, so that an answer is only ever taken for what
/// was asked. Nothing of it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a ticket that never comes back blocks the slot to its peer"]
pub struct Ticket {
    pub(super) id: u64,
    pub(super) peer: MemberId,
    pub(super) term: Term,
    pub(super) sent_at: Time,
    pub(super) asked: Asked,
}

impl Ticket {
    /// Whom the RPC goes to.
    pub fn peer(&self) -> MemberId {
        self.peer
    }

    /// When it was sent.
    pub fn sent_at(&self) -> Time {
        self.sent_at
    }

    /// The term it was sent in.
    pub fn term(&self) -> Term {
        self.term
    }
}

/// What a ticket's RPC asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A vote or pre-vote for this ballot.
    Vote { ballot: u64, pre_vote: bool },
    /// To append what lies between `prev` and `last`, in this read round, to a peer that had acknowledged `matched`.
    Append { prev: Index, last: Index, round: u64, matched: Index },
    /// To campaign at once.
    TimeoutNow,
    /// To take the snapshot that ends here.
    Snapshot { last: Position },
}

/// What a replicator does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PollRpc {
    /// Send this; bring the ticket back with the result.
    Send(RpcRequest, Ticket),
    /// Nothing to do before this time, unless something changes.
    WaitUntil(Time),
    /// This peer is no longer a member, and never will be again.
    Stop,
}

/// What the sender of snapshots to a peer does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PollSnapshot {
    /// Send the snapshot that ends here, piece by piece; bring the ticket back with the last answer.
    Transfer(Position, Ticket),
    /// Nothing to do before this time, unless something changes.
    WaitUntil(Time),
    /// This peer is no longer a member, and never will be again.
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::entry::Payload;

    #[test]
    fn validate_refuses_gaps_and_terms_that_fall_or_exceed_the_leaders() {
        let entry = |index, term| Entry::new(Position::new(index, term), 0, &Payload::Noop);
        let request =
            |prev, entries| AppendEntriesRequest { term: 3, leader: MemberId(1), prev, commit: 0, entries };
        let good = request(Position::new(4, 2), vec![entry(5, 2), entry(6, 3)]);
        assert_eq!((good.validate(), good.last_index()), (Ok(()), 6));
        for bad in [
            request(Position::new(4, 4), vec![]),
            request(Position::new(4, 2), vec![entry(6, 3)]),
            request(Position::new(4, 2), vec![entry(5, 1)]),
            request(Position::new(4, 2), vec![entry(5, 4)]),
            request(Position::new(u64::MAX, 2), vec![entry(0, 2)]),
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }
}
