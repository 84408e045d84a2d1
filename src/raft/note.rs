//! What the core decided and why. The core does not log: it makes notes, and the node logs them after unlocking.

use std::fmt;

use super::protocol::Protocol;
use super::types::{Index, MemberId, Membership, Position, Term};

/// At most this many notes wait to be fetched; if there are more, the oldest are dropped and counted.
pub(super) const MAX_NOTES: usize = 256;

/// How important a note is to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteLevel {
    /// Happens all the time in a healthy cluster.
    Debug,
    /// Rare: elections, leaders, refusals.
    Info,
    /// Something is wrong with a disk or a peer.
    Warn,
}

/// One decision with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The member that decided.
    pub me: MemberId,
    /// Its term.
    pub term: Term,
    /// Its role, as a word.
    pub role: &'static str,
    /// The decision.
    pub what: Decision,
}

/// Why a vote was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteRefusal {
    /// A leader was heard within the minimum election timeout.
    LeaderIsAlive,
    /// The candidate's term is older than ours.
    OldTerm,
    /// Our vote in this term was given to another candidate.
    VotedFor(MemberId),
    /// Our log is more up to date.
    LogBehind(Position),
}

/// Why a leader stopped leading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepDownReason {
    /// Another member has a higher term.
    HigherTerm(Term),
    /// No majority answered within the minimum election timeout.
    NoQuorum,
    /// The own disk does not answer.
    DiskStalled,
    /// A committed membership no longer has this member as a voter (thesis §4.2.2).
    Removed,
}

/// The decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No leader for a whole election timeout: a pre-vote is started.
    PreCampaign,
    /// Start an election.
    Campaign,
    /// Our vote went to this candidate, whose log ends there.
    Voted(MemberId, Position),
    /// A candidate got no vote, or no pre-vote.
    RefusedVote(MemberId, VoteRefusal),
    /// Elected: the number of votes and the number of voters.
    Elected(usize, usize),
    /// Another member leads this term.
    Follows(MemberId),
    /// The process of the leader has ended.
    LostLeader(MemberId),
    /// A higher term was seen.
    AdoptedTerm(MemberId, Term),
    /// A term so far ahead that no honest member can have reached it.
    RefusedTerm(MemberId, Term),
    /// Stopped leading.
    SteppedDown(StepDownReason),
    /// Entries from this index on conflicted with the leader's and were cut.
    Truncated(Index, MemberId),
    /// The entry before a leader's append does not match our log.
    RefusedAppend(MemberId, Position),
    /// A peer's log does not match; the next append begins at that index.
    Backtracked(MemberId, Index),
    /// A peer rejected an entry that it had acknowledged as durable.
    PeerLostEntries(MemberId, Index, Index),
    /// Committed through this position.
    Committed(Position),
    /// The oldest queued write has waited too long.
    DiskStalled,
    /// The disk answers again.
    DiskRecovered,
    /// The queue for the disk is full: a leader's entries were not taken.
    AppendNotTaken(usize),
    /// The membership of the entry at this index is in force.
    MembershipInForce(Index),
    /// A learner has caught up and becomes a voter.
    Promoted(MemberId),
    /// Every member speaks this version: it is appended.
    ProposedVersion(Protocol),
    /// This version is in force.
    VersionInForce(Protocol),
    /// The own state through this position is in a durable snapshot.
    SnapshotSaved(Position),
    /// A peer needs entries that are compacted: it gets the snapshot that ends here.
    SnapshotOffered(MemberId, Position),
    /// The entries from this index on, which this peer needs, cannot be read from the own disk.
    EntriesNotRead(MemberId, Index),
    /// A snapshot of the leader replaced log and state.
    SnapshotInstalled(Position),
    /// The leadership is transferred to this member.
    TransferStarted(MemberId),
    /// The leadership transfer to this member did not succeed in time.
    TransferFailed(MemberId),
    /// The leader asked for a campaign.
    TransferReceived(MemberId),
    /// This many notes were dropped before this note.
    NotesDropped(u64),
}

impl Note {
    /// How important the note is to an operator.
    pub fn level(&self) -> NoteLevel {
        match self.what {
            // While a snapshot is sent, an append is refused with every heartbeat.
            Decision::Committed(_)
            | Decision::RefusedVote(..)
            | Decision::RefusedAppend(..)
            | Decision::Backtracked(..) => NoteLevel::Debug,
            Decision::RefusedTerm(..)
            | Decision::PeerLostEntries(..)
            | Decision::DiskStalled
            | Decision::AppendNotTaken(_)
            | Decision::TransferFailed(_)
            | Decision::NotesDropped(_) => NoteLevel::Warn,
            _ => NoteLevel::Info,
        }
    }
}

impl Note {
    /// The note as a text, with member names instead of identities.
    pub fn with_names<'a>(&'a self, membership: &'a Membership) -> impl fmt::Display + 'a {
        Named { note: self, membership }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, name: Names<'_>) -> fmt::Result {
        write!(f, "{}@{} {}: ", who(name, self.me), self.term, self.role)?;
        self.what.write(f, name)
    }
}

struct Named<'a> {
    note: &'a Note,
    membership: &'a Membership,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.note.write(f, &|id| self.membership.get(id).map(|m| m.node_id.clone()))
    }
}

/// The name of a member, when one is known.
type Names<'a> = &'a dyn Fn(MemberId) -> Option<String>;

fn who(name: Names<'_>, id: MemberId) -> String {
    name(id).unwrap_or_else(|| id.to_string())
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &|_| None)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &|_| None)
    }
}

impl VoteRefusal {
    fn write(&self, f: &mut fmt::Formatter<'_>, name: Names<'_>) -> fmt::Result {
        match self {
            VoteRefusal::LeaderIsAlive => f.write_str("the leader was heard just now"),
            VoteRefusal::OldTerm => f.write_str("its term is old"),
            VoteRefusal::VotedFor(other) => write!(f, "the vote of this term is {}'s", who(name, *other)),
            VoteRefusal::LogBehind(ours) => write!(f, "its log is behind ours, which ends at {ours}"),
        }
    }
}

impl fmt::Display for StepDownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepDownReason::HigherTerm(term) => write!(f, "term {term} was seen"),
            StepDownReason::NoQuorum => f.write_str("no majority answered for a whole election timeout"),
            StepDownReason::DiskStalled => f.write_str("the own disk does not answer"),
            StepDownReason::Removed => f.write_str("it is no voter any more"),
        }
    }
}

impl Decision {
    fn write(&self, f: &mut fmt::Formatter<'_>, name: Names<'_>) -> fmt::Result {
        let who = |id: &MemberId| who(name, *id);
        match self {
            Decision::PreCampaign => f.write_str("no leader heard: asks whether an election could be won"),
            Decision::Campaign => f.write_str("campaigns: a majority would vote for it"),
            Decision::Voted(candidate, last) => {
                write!(f, "voted for {}: its log ends at {last}", who(candidate))
            }
            Decision::RefusedVote(candidate, why) => {
                write!(f, "no vote for {}: ", who(candidate))?;
                why.write(f, name)
            }
            Decision::Elected(votes, voters) => write!(f, "elected with {votes} of {voters} votes"),
            Decision::Follows(leader) => write!(f, "follows {}", who(leader)),
            Decision::LostLeader(leader) => write!(f, "{} has ended: campaigns soon", who(leader)),
            Decision::AdoptedTerm(from, term) => write!(f, "adopts term {term} seen at {}", who(from)),
            Decision::RefusedTerm(from, term) => {
                write!(f, "refuses term {term} of {}: no honest member is so far ahead", who(from))
            }
            Decision::SteppedDown(why) => write!(f, "steps down: {why}"),
            Decision::Truncated(from, leader) => {
                write!(f, "cut its log from {from} on: conflicts with leader {}", who(leader))
            }
            Decision::RefusedAppend(leader, prev) => {
                write!(f, "append of {} refused: {prev} is not in the log", who(leader))
            }
            Decision::Backtracked(peer, next) => {
                write!(f, "log of {} differs: tries again from {next}", who(peer))
            }
            Decision::PeerLostEntries(peer, prev, acknowledged) => write!(
                f,
                "{} rejects entry {prev} although it acknowledged {acknowledged} as durable: it lost data and gets \
                 nothing more; replace that member",
                who(peer)
            ),
            Decision::Committed(position) => write!(f, "committed {position}"),
            Decision::DiskStalled => {
                f.write_str("the disk does not answer: neither leads nor campaigns until it does")
            }
            Decision::DiskRecovered => f.write_str("the disk answers again"),
            Decision::AppendNotTaken(bytes) => {
                write!(f, "takes no entries: {bytes} bytes already wait for the disk")
            }
            Decision::MembershipInForce(index) => {
                write!(f, "the membership of entry {index} is in force")
            }
            Decision::Promoted(peer) => write!(f, "{} has caught up and becomes a voter", who(peer)),
            Decision::ProposedVersion(version) => {
                write!(f, "raises the version to {version}: every member speaks it")
            }
            Decision::VersionInForce(version) => {
                write!(
                    f,
                    "version {version} is in force: a program that speaks less cannot take part any more"
                )
            }
            Decision::SnapshotSaved(last) => write!(f, "saved a snapshot through {last}"),
            Decision::SnapshotOffered(peer, last) => {
                write!(
                    f,
                    "{} needs entries that are compacted: it gets the snapshot through {last}",
                    who(peer)
                )
            }
            Decision::EntriesNotRead(peer, from) => {
                write!(
                    f,
                    "{} needs entries from {from} on, which cannot be read from the own log: it gets a snapshot",
                    who(peer)
                )
            }
            Decision::SnapshotInstalled(last) => {
                write!(f, "installed the leader's snapshot through {last}")
            }
            Decision::TransferStarted(peer) => write!(f, "transfers its leadership to {}", who(peer)),
            Decision::TransferFailed(peer) => {
                write!(f, "{} did not take the leadership over in time: leads on", who(peer))
            }
            Decision::TransferReceived(leader) => {
                write!(f, "campaigns: {} transfers its leadership", who(leader))
            }
            Decision::NotesDropped(count) => write!(f, "{count} notes were dropped"),
        }
    }
}
