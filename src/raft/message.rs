//! The RPCs of Figure 2 and their replies. Entries travel beside the JSON as frames, so [`AppendEntriesRequest`] has
//! no serde form of its own.

use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::types::{Index, MemberId, Position, Term};

/// Asks for a vote (paper §5.2), or, with `pre_vote`, whether one would be given (thesis §9.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestVoteRequest {
    /// The candidate's term; for a pre-vote the term it would campaign in, which is its own plus one.
    pub term: Term,
    /// Who asks.
    pub candidate: MemberId,
    /// The last entry of its log.
    pub last: Position,
    /// A question only: changes no state and resets no timer at the receiver.
    pub pre_vote: bool,
    /// The leader handed over (thesis §3.10): the vote is considered although a leader was heard just now.
    pub transfer: bool,
}

/// The answer to [`RequestVoteRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestVoteReply {
    /// The receiver's term, for the candidate to update itself. A granted pre-vote repeats the request's term.
    pub term: Term,
    /// Whether the vote is (or would be) given.
    pub granted: bool,
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
}

/// The answer to [`AppendEntriesRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppendEntriesReply {
    /// The receiver's term.
    pub term: Term,
    /// What it made of the request.
    pub outcome: AppendOutcome,
}

/// What a receiver made of an AppendEntries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
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
