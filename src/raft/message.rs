//! The RPCs of Figure 2 and their replies. A receiver ignores wire fields that it does not know: a newer member may
//! send more fields. Fields that must be understood are only sent when the version in force has them. Entries are
//! sent as frames next to the JSON, so [`AppendEntriesRequest`] has no serde form of its own.

use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::protocol::Protocol;
use super::types::{Index, MemberId, Position, Term, Time};

/// Asks for a vote (paper §5.2), or, with `pre_vote`, whether a vote would be given (thesis §9.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestVoteRequest {
    /// The candidate's term; for a pre-vote the term it would campaign in, which is its own plus one.
    pub term: Term,
    /// The candidate's identity.
    pub candidate: MemberId,
    /// The last entry of its log.
    pub last: Position,
    /// Only a question: changes no state and resets no timer at the receiver.
    pub pre_vote: bool,
    /// The leader transferred its leadership (thesis §3.10): the vote is considered although a leader was heard just
    /// now.
    pub transfer: bool,
}

/// The answer to [`RequestVoteRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestVoteReply {
    /// The receiver's term, so that the candidate can adopt a higher one. A granted pre-vote repeats the request's
    /// term.
    pub term: Term,
    /// Whether the vote is (or would be) given.
    pub granted: bool,
    /// The receiver's protocol version.
    pub protocol: Protocol,
}

/// Carries entries, or none: a heartbeat (paper §5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntriesRequest {
    /// The leader's term.
    pub term: Term,
    /// The leader's identity.
    pub leader: MemberId,
    /// The entry right before `entries`.
    pub prev: Position,
    /// The leader's commit index.
    pub commit: Index,
    /// Consecutive entries from `prev.index + 1` on.
    pub entries: Vec<Entry>,
}

impl AppendEntriesRequest {
    /// Index of the last entry that this RPC covers: the index of `prev` when it carries no entries.
    pub fn last_index(&self) -> Index {
        self.prev.index + self.entries.len() as u64
    }

    /// Checks for errors that no correct leader makes: entries that do not follow `prev` one by one, terms that
    /// decrease, or terms above the leader's. The peer port refuses such a request before the core sees it.
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
    /// The result of the request.
    pub outcome: AppendOutcome,
    /// The receiver's protocol version.
    pub protocol: Protocol,
}

/// The result of an AppendEntries at the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppendOutcome {
    /// The previous entry matched.
    Accepted {
        /// The last index of this RPC at which the log in the receiver's memory matches the leader's log.
        received: Index,
        /// The same for the receiver's disk: only this index counts for commit.
        match_index: Index,
    },
    /// The previous entry did not match (paper §5.3: back-tracking by whole terms).
    Conflict {
        /// The index that the leader should try next: the first index of `conflict_term`, or one past the end of a
        /// log that is too short.
        conflict_index: Index,
        /// Term of the entry found at the previous index; none when the log ends before it.
        conflict_term: Option<Term>,
    },
    /// Only the term: the sender's term is old, or the receiver's term changed while the answer waited for the disk.
    TermOnly,
}

/// One piece of a snapshot file (paper Figure 13). The bytes are read and written outside of the core; the core
/// decides whether to take the piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallSnapshotRequest {
    /// The leader's term.
    pub term: Term,
    /// The leader's identity.
    pub leader: MemberId,
    /// Which snapshot: the last entry it covers.
    pub last: Position,
    /// Bytes of the whole file.
    pub size: u64,
    /// CRC-32C of the whole file.
    pub crc: u32,
    /// The offset of the piece in the file.
    pub offset: u64,
    /// The piece. The last one ends at `size`.
    pub data: Vec<u8>,
}

/// The answer to [`InstallSnapshotRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallSnapshotReply {
    /// The receiver's term.
    pub term: Term,
    /// The result of the piece.
    pub outcome: InstallOutcome,
    /// The receiver's protocol version.
    pub protocol: Protocol,
}

/// The result of a piece of a snapshot at the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstallOutcome {
    /// The piece was taken: next send the piece that begins at this offset. An offset before the sent piece asks the
    /// leader to go back.
    Wants(u64),
    /// Nothing more is needed: the receiver's disk holds everything committed through this index.
    Holds(Index),
    /// Only the term: the sender's term is old.
    TermOnly,
}

/// Tells a member to campaign immediately (thesis §3.10): the leader transfers its leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutNowRequest {
    /// The leader's term.
    pub term: Term,
    /// The leader's identity.
    pub leader: MemberId,
}

/// The answer to [`TimeoutNowRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutNowReply {
    /// The receiver's term when the request arrived; the campaign itself raises it.
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
    /// A leadership transfer.
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

/// The RPC got no answer: it was refused, timed out, broken off or not understood. Nothing can be concluded from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RpcFailed;

/// The record of one RPC. The caller keeps it during the RPC and returns it with the result, so that an answer is
/// only used for its own request. It is never sent over the wire.
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
    /// The peer that the RPC goes to.
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
    /// To append the entries after `prev` through `last`, in this read round, to a peer that had acknowledged
    /// `matched`.
    Append { prev: Index, last: Index, round: u64, matched: Index },
    /// To campaign immediately.
    TimeoutNow,
    /// To take the snapshot that ends here.
    Snapshot { last: Position },
    /// Nothing of the peer: entries from this one on are read for it.
    Read { from: Position },
}

/// What a replicator does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PollRpc {
    /// Send this; bring the ticket back with the result.
    Send(RpcRequest, Ticket),
    /// Nothing to do before this time, unless something happens that the replicator waits for.
    WaitUntil(Time, Awaits),
    /// This peer is no longer a member, and never will be again.
    Stop,
}

/// What can give a sleeping replicator something to do before its time. A replicator that an event wakes for nothing
/// costs more than the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Awaits {
    /// Only the end of the node: after a failed RPC nothing is sent before the time, whatever happens.
    Nothing,
    /// Every event but new entries, which the peer would not be sent now.
    AllButEntries,
    /// Every event.
    Everything,
}

/// Entries to be read from the log on the disk. All of them have one term: index and term stand for one entry in every
/// log ever, so what is found is right, whatever else the log has had at these indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRead {
    /// The first entry.
    pub from: Position,
    /// Index of the last entry.
    pub through: Index,
    /// At least one entry, then as many as fit into this many bytes of frames.
    pub max_bytes: usize,
}

/// The entries could not be read from the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadFailed;

/// What the thread does next that brings to a peer what memory no longer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PollBulk {
    /// Send the snapshot that ends here, piece by piece; bring the ticket back with the last answer.
    Transfer(Position, Ticket),
    /// Read these entries from the log on the disk; bring the ticket back with them.
    Read(LogRead, Ticket),
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
