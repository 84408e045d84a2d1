//! The state of Figure 2, the roles and how they change, and what all chapters share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::entry::{Entry, Payload};
use super::log::Log;
use super::membership::Memberships;
use super::message::{Asked, Ticket};
use super::note::{Decision, MAX_NOTES, Note, StepDownReason};
use super::progress::{Lane, Mode, Progress};
use super::read::ReadDone;
use super::reply::Reply;
use super::role::{Role, RoleKind};
use super::types::{
    HardState, Index, Member, MemberId, Membership, Position, SnapshotMeta, Stamp, Term, Time,
};
use super::watermarks::Watermarks;
use super::write::{AfterSync, Hold, WriteBatch, WriteQueue, WriteSeq};

/// No honest member's term is this far ahead: a request that claims so is refused before it can exhaust the counter.
pub const MAX_TERM_JUMP: Term = 1 << 32;

/// How many times `max_unpersisted_bytes` a leader takes beyond what is committed: the followers' disks may be slower
/// than its own.
const UNCOMMITTED_PER_UNPERSISTED: usize = 4;

/// What a member needs to know of itself. Durations come from the configuration file.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// Who this member is.
    pub me: MemberId,
    /// The minimum election timeout T; each one is drawn from (T, 2T], strictly above the time for which a heard leader
    /// protects itself.
    pub election_timeout: Duration,
    /// How often a leader is heard.
    pub heartbeat: Duration,
    /// How long a follower holds the answer to an append for its disk.
    pub append_hold: Duration,
    /// A disk that has not answered for so long neither leads nor campaigns.
    pub disk_stall: Duration,
    /// Seeds the jitter of the election timeouts.
    pub seed: u64,
    /// Frames in one append, in bytes; at least one entry is sent.
    pub max_append_bytes: usize,
    /// Entries on their way to the disk, in bytes: beyond, proposals are refused and appends not taken.
    pub max_unpersisted_bytes: usize,
    /// A snapshot is due when so many bytes of entries were applied since the last one.
    pub snapshot_log_bytes: u64,
    /// A snapshot is due when so many entries were applied since the last one.
    pub snapshot_log_entries: u64,
}

/// What recovery found on the disk, all of it synced.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Term and vote.
    pub hard_state: HardState,
    /// The newest snapshot: where the log begins.
    pub snapshot: SnapshotMeta,
    /// About how many bytes it has.
    pub snapshot_bytes: u64,
    /// The entries behind it.
    pub entries: Vec<Entry>,
}

/// Why a proposal was not taken. It surely never takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This member does not lead.
    #[error("this member does not lead")]
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<MemberId>,
    },
    /// Too many bytes wait for the disk here, or for a majority's disks.
    #[error("{waiting_bytes} bytes already wait for the disks")]
    Overloaded {
        /// Bytes that wait.
        waiting_bytes: usize,
    },
    /// This leader hands over and takes nothing more until that has succeeded or failed (thesis §3.10).
    #[error("this leader hands over to another member")]
    HandingOver,
}

/// What the applier does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Apply {
    /// Apply these committed entries in order, then call `handle_applied` with the last index.
    Entries(Vec<Entry>),
    /// Replace the whole state by that of the installed snapshot which ends here, then call `handle_applied` with its
    /// index.
    Restore(Position),
}

/// A reply after [`Raft::settle`] looked at it.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled<T> {
    /// It may leave.
    Ready(T),
    /// It still waits for the disk.
    NotYet(AfterSync<T>),
}

/// One member's Raft. See the chapters for its rules: elections, replication, reads, membership.
#[derive(Debug)]
pub struct Raft {
    pub(super) config: RaftConfig,
    pub(super) hard_state: HardState,
    pub(super) log: Log,
    pub(super) writes: WriteQueue,
    pub(super) memberships: Memberships,
    /// The newest durable snapshot. The log begins at or before its end.
    pub(super) snapshot: SnapshotMeta,
    /// About how many bytes it has.
    pub(super) snapshot_bytes: u64,
    /// Bytes of entries applied since the newest snapshot.
    pub(super) applied_bytes: u64,
    /// The log on disk may be cut through this index, once.
    pub(super) cut: Option<Index>,
    pub(super) commit_index: Index,
    pub(super) last_applied: Index,
    /// Handed to the applier, through this index.
    pub(super) applying: Index,
    pub(super) role: Role,
    /// When a member that does not lead campaigns; `NEVER` while its own vote is under way to the disk.
    pub(super) election_deadline: Time,
    /// When the leader of this term was last heard.
    pub(super) leader_heard_at: Time,
    pub(super) lanes: BTreeMap<MemberId, Lane>,
    pub(super) last_ballot: u64,
    pub(super) last_ticket: u64,
    pub(super) reads_done: Vec<ReadDone>,
    pub(super) reads_done_count: u64,
    pub(super) disk_stalled: bool,
    pub(super) steps: u64,
    rng: fastrand::Rng,
    notes: VecDeque<Note>,
    notes_dropped: u64,
}

impl Raft {
    /// A member as recovery found it: a follower that knows no leader, with nothing committed until a leader says so.
    pub fn new(config: RaftConfig, restored: Restored, now: Time) -> Raft {
        let Restored { hard_state, snapshot, snapshot_bytes, entries } = restored;
        let memberships = Memberships::new(&snapshot, entries.iter());
        let commit_index = snapshot.last.index;
        let log = Log::new(snapshot.last, entries);
        let mut raft = Raft {
            writes: WriteQueue::new(hard_state, log.last_index()),
            rng: fastrand::Rng::with_seed(config.seed),
            config,
            hard_state,
            log,
            memberships,
            snapshot,
            snapshot_bytes,
            applied_bytes: 0,
            cut: None,
            commit_index,
            last_applied: commit_index,
            applying: commit_index,
            role: Role::Follower { leader: None },
            election_deadline: Time::NEVER,
            leader_heard_at: Time(0),
            lanes: BTreeMap::new(),
            last_ballot: 0,
            last_ticket: 0,
            reads_done: Vec::new(),
            reads_done_count: 0,
            disk_stalled: false,
            steps: 0,
            notes: VecDeque::new(),
            notes_dropped: 0,
        };
        raft.arm_election_timer(now);
        if raft.memberships.latest().voters().eq([raft.me()]) {
            // Nobody else can lead: there is no leader to wait for.
            raft.election_deadline = now;
        }
        raft
    }

    // ---- getters ---------------------------------------------------------------------------------------------------

    /// Who this member is.
    pub fn me(&self) -> MemberId {
        self.config.me
    }

    /// The current role.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// The current role's name.
    pub fn role_kind(&self) -> RoleKind {
        match self.role {
            Role::Follower { .. } => RoleKind::Follower,
            Role::PreCandidate(_) => RoleKind::PreCandidate,
            Role::Candidate(_) => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
        }
    }

    /// Whether this member leads its term.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Who leads this term, as far as this member knows.
    pub fn leader(&self) -> Option<MemberId> {
        match self.role {
            Role::Follower { leader } => leader,
            Role::Leader(_) => Some(self.me()),
            Role::PreCandidate(_) | Role::Candidate(_) => None,
        }
    }

    /// Current term.
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// Term and vote in memory; the disk may still be behind.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Highest index known to be committed.
    pub fn commit_index(&self) -> Index {
        self.commit_index
    }

    /// Highest index the state machine holds.
    pub fn last_applied(&self) -> Index {
        self.last_applied
    }

    /// The last entry of the log.
    pub fn last(&self) -> Position {
        self.log.last()
    }

    /// Highest index that is durable here.
    pub fn persisted_index(&self) -> Index {
        self.writes.persisted_index()
    }

    /// Highest write that is durable here.
    pub fn persisted_seq(&self) -> WriteSeq {
        self.writes.persisted_seq()
    }

    /// Bytes of entries on their way to the disk.
    pub fn unpersisted_bytes(&self) -> usize {
        self.writes.unpersisted_bytes()
    }

    /// Bytes of entries that a leader has not yet committed; 0 for every other role.
    pub fn uncommitted_bytes(&self) -> usize {
        match &self.role {
            Role::Leader(leader) => leader.uncommitted_bytes,
            _ => 0,
        }
    }

    /// The membership in force.
    pub fn membership(&self) -> &Arc<Membership> {
        self.memberships.latest()
    }

    /// A member of the membership in force, or of one that may come back.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.memberships.member(id)
    }

    /// The last membership known to be committed.
    pub fn committed_membership(&self) -> &Arc<Membership> {
        self.memberships.committed()
    }

    /// The newest durable snapshot; one that ends at `0@0` is none.
    pub fn snapshot(&self) -> &SnapshotMeta {
        &self.snapshot
    }

    /// The log in memory.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// A leader's view of its peers; empty for every other role.
    pub fn peers_progress(&self) -> impl Iterator<Item = (MemberId, &Progress)> {
        let peers = match &self.role {
            Role::Leader(leader) => Some(&leader.peers),
            _ => None,
        };
        peers.into_iter().flatten().map(|(&id, progress)| (id, progress))
    }

    /// When this member last heard the leader of its term; a leader hears itself.
    pub fn leader_heard_at(&self, now: Time) -> Option<Time> {
        match self.role {
            Role::Leader(_) => Some(now),
            Role::Follower { leader: Some(_) } => Some(self.leader_heard_at),
            _ => None,
        }
    }

    /// Whether the disk has not answered for longer than it may.
    pub fn is_disk_stalled(&self) -> bool {
        self.disk_stalled
    }

    /// When the oldest write was queued that is not yet durable.
    pub fn oldest_write_queued_at(&self) -> Option<Time> {
        self.writes.oldest_queued_at()
    }

    /// What others wait on.
    pub fn watermarks(&self) -> Watermarks {
        Watermarks {
            term: self.term(),
            voted_for: self.hard_state.voted_for,
            role: self.role_kind(),
            leader: self.leader(),
            ballot: self.last_ballot,
            last: self.last(),
            committed: Position::new(self.commit_index, self.log.term_at(self.commit_index).unwrap_or(0)),
            last_applied: self.last_applied,
            queued_seq: self.writes.last_seq(),
            persisted_seq: self.writes.persisted_seq(),
            persisted_index: self.persisted_index(),
            read_round: match &self.role {
                Role::Leader(leader) => leader.reads.wanted_round(),
                _ => 0,
            },
            reads_done: self.reads_done_count,
            timeout: self.poll_timeout(),
            membership_index: self.memberships.latest_index(),
            snapshot_index: self.snapshot.last.index,
            peers_behind: self.peers_progress().filter(|(_, p)| p.mode == Mode::Snapshot).count(),
            hand_over_is_due: self.hand_over_is_due(),
        }
    }

    /// Cluster time that an entry proposed now would carry; `None` when this member does not lead.
    pub fn next_stamp(&self, now: Time) -> Option<Stamp> {
        let Role::Leader(leader) = &self.role else { return None };
        let since = u64::try_from(now.since(leader.elected_at).as_micros()).unwrap_or(u64::MAX);
        Some(leader.stamp_base.saturating_add(since))
    }

    // ---- commands --------------------------------------------------------------------------------------------------

    /// Appends an entry to a leader's log (paper §5.3). It takes effect once it is committed; the caller learns that from
    /// `poll_apply`.
    ///
    /// # Errors
    /// This member does not lead, or its disk is too far behind. Then the proposal surely never takes effect.
    pub fn propose(&mut self, payload: &Payload, now: Time) -> Result<Position, ProposeError> {
        let Some(stamp) = self.next_stamp(now) else {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        };
        if self.is_handing_over() {
            return Err(ProposeError::HandingOver);
        }
        let waiting_bytes = self.unpersisted_bytes();
        let uncommitted_bytes = self.uncommitted_bytes();
        if waiting_bytes >= self.config.max_unpersisted_bytes
            || uncommitted_bytes >= UNCOMMITTED_PER_UNPERSISTED * self.config.max_unpersisted_bytes
        {
            return Err(ProposeError::Overloaded { waiting_bytes: waiting_bytes.max(uncommitted_bytes) });
        }
        self.steps += 1;
        Ok(self.append_own(stamp, payload, now))
    }

    /// Appends one entry of a leader.
    pub(super) fn append_own(&mut self, stamp: Stamp, payload: &Payload, now: Time) -> Position {
        let entry = Entry::new(Position::new(self.last().index + 1, self.term()), stamp, payload);
        let position = entry.position();
        if let Role::Leader(leader) = &mut self.role {
            leader.uncommitted_bytes += entry.frame().len();
        }
        self.append(vec![entry], now);
        position
    }

    // ---- inbound ---------------------------------------------------------------------------------------------------

    /// The disk holds every write through `seq`.
    pub fn handle_persisted(&mut self, seq: WriteSeq, now: Time) {
        self.steps += 1;
        self.writes.handle_persisted(seq);
        if self.disk_stalled && !self.is_oldest_write_overdue(now) {
            self.disk_stalled = false;
            self.note(Decision::DiskRecovered);
        }
        self.count_own_vote(now);
        self.advance_leader_commit(now);
    }

    /// The state machine holds every entry through `index`.
    pub fn handle_applied(&mut self, index: Index) {
        self.steps += 1;
        assert!(
            self.last_applied <= index && index <= self.applying,
            "applied {index}, but only {}..={} was handed out",
            self.last_applied + 1,
            self.applying
        );
        let entries = (self.last_applied + 1..=index).filter_map(|index| self.log.get(index));
        self.applied_bytes += entries.map(|e| e.frame().len() as u64).sum::<u64>();
        self.last_applied = index;
    }

    /// Time has reached `poll_timeout`. A late call counts once: nothing is made up for.
    pub fn handle_timeout(&mut self, now: Time) {
        self.steps += 1;
        if !self.disk_stalled && self.is_oldest_write_overdue(now) {
            self.disk_stalled = true;
            self.note(Decision::DiskStalled);
            if self.is_leader() {
                self.step_down(StepDownReason::DiskStalled, now);
            } else {
                // A campaign under way ends: its votes could not be kept.
                self.become_follower(self.leader(), now);
            }
        }
        if self.is_leader() {
            if now >= self.quorum_deadline() {
                self.step_down(StepDownReason::NoQuorum, now);
            } else {
                self.end_overdue_hand_over(now);
            }
        } else if now >= self.election_deadline {
            self.handle_election_timeout(now);
        }
    }

    // ---- outbound --------------------------------------------------------------------------------------------------

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Time {
        let role = match &self.role {
            Role::Leader(leader) => {
                let hand_over = leader.hand_over.as_ref().map_or(Time::NEVER, |h| h.deadline);
                self.quorum_deadline().min(hand_over)
            }
            _ => self.election_deadline,
        };
        match self.writes.oldest_queued_at() {
            Some(queued_at) if !self.disk_stalled => role.min(queued_at + self.config.disk_stall),
            _ => role,
        }
    }

    /// All that must be written, in order; empty when nothing is queued.
    pub fn poll_write(&mut self) -> WriteBatch {
        self.writes.take()
    }

    /// Committed entries that the state machine does not have yet; `None` while it is busy with earlier ones.
    pub fn poll_apply(&mut self) -> Option<Apply> {
        if self.applying > self.last_applied || self.commit_index == self.last_applied {
            return None;
        }
        // Only an installed snapshot is ahead of what is applied.
        if self.last_applied < self.snapshot.last.index {
            self.applying = self.snapshot.last.index;
            return Some(Apply::Restore(self.snapshot.last));
        }
        let entries = self.log.slice(self.last_applied + 1, self.commit_index, self.config.max_append_bytes);
        self.applying = entries.last().map_or(self.applying, Entry::index);
        Some(Apply::Entries(entries))
    }

    /// Reads that are decided.
    pub fn poll_reads(&mut self) -> Vec<ReadDone> {
        std::mem::take(&mut self.reads_done)
    }

    /// What was decided since the last call.
    pub fn poll_notes(&mut self) -> Vec<Note> {
        if self.notes_dropped > 0 {
            let dropped = std::mem::take(&mut self.notes_dropped);
            self.note(Decision::NotesDropped(dropped));
        }
        self.notes.drain(..).collect()
    }

    /// Opens a reply once the disk holds what it vouches for.
    pub fn settle<T: Reply>(&self, waiting: AfterSync<T>, now: Time) -> Settled<T> {
        if waiting.after > self.writes.persisted_seq() {
            return Settled::NotYet(waiting);
        }
        match waiting.reply.open(self, &waiting, now) {
            Some(reply) => Settled::Ready(reply),
            None => Settled::NotYet(waiting),
        }
    }

    // ---- shared by the chapters -------------------------------------------------------------------------------------

    /// Appends to the log in memory and queues the write; a membership is in force from here on.
    pub(super) fn append(&mut self, entries: Vec<Entry>, now: Time) {
        let had = self.memberships.latest_index();
        for entry in &entries {
            self.memberships.append(entry);
            self.log.push(entry.clone());
        }
        self.writes.push_entries(entries, now);
        if self.memberships.latest_index() != had {
            self.note(Decision::MembershipInForce(self.memberships.latest_index()));
            self.follow_membership(now);
        }
    }

    /// The rule for all servers (Figure 2): a higher term makes a follower, forgets the vote, and reaches the disk before
    /// anything that depends on it leaves.
    pub(super) fn observe_term(&mut self, from: MemberId, term: Term, now: Time) {
        if term <= self.term() {
            return;
        }
        if self.is_leader() {
            self.step_down(StepDownReason::HigherTerm(term), now);
        }
        self.note(Decision::AdoptedTerm(from, term));
        self.set_hard_state(HardState { term, voted_for: None }, now);
        self.become_follower(None, now);
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState, now: Time) {
        self.hard_state = hard_state;
        self.writes.push_hard_state(hard_state, now);
    }

    /// Follows `leader`, or nobody yet. The election timer goes on, unless this member had none: rule 7 of elections is
    /// that only a granted vote, a valid append or an own campaign starts it anew.
    pub(super) fn become_follower(&mut self, leader: Option<MemberId>, now: Time) {
        let had_no_timer = self.is_leader() || self.election_deadline == Time::NEVER;
        self.role = Role::Follower { leader };
        if had_no_timer {
            self.arm_election_timer(now);
        }
    }

    /// Stops leading without a new term: the vote of the term stays as it is. Heartbeats end, reads that wait fail.
    pub(super) fn step_down(&mut self, why: StepDownReason, now: Time) {
        self.note(Decision::SteppedDown(why));
        self.fail_reads();
        self.become_follower(None, now);
    }

    /// Draws the next election timeout from (T, 2T].
    pub(super) fn arm_election_timer(&mut self, now: Time) {
        let base = u64::try_from(self.config.election_timeout.as_micros()).unwrap_or(u64::MAX / 4);
        self.election_deadline = now + Duration::from_micros(base + self.rng.u64(1..=base.max(1)));
    }

    fn is_oldest_write_overdue(&self, now: Time) -> bool {
        self.writes.oldest_queued_at().is_some_and(|at| now >= at + self.config.disk_stall)
    }

    /// Whether `term` is further ahead than any honest member's.
    pub(super) fn is_absurd(&self, term: Term) -> bool {
        term > self.term().saturating_add(MAX_TERM_JUMP)
    }

    pub(super) fn ticket(&mut self, peer: MemberId, asked: Asked, now: Time) -> Ticket {
        self.last_ticket += 1;
        self.lanes.entry(peer).or_default().in_flight = Some(self.last_ticket);
        Ticket { id: self.last_ticket, peer, term: self.term(), sent_at: now, asked }
    }

    pub(super) fn note(&mut self, what: Decision) {
        if self.notes.len() >= MAX_NOTES {
            self.notes.pop_front();
            self.notes_dropped += 1;
        }
        let role = self.role_kind().as_str();
        self.notes.push_back(Note { me: self.me(), term: self.term(), role, what });
    }

    /// Wraps a reply that vouches for the current term and vote.
    pub(super) fn after_hard_state<T>(&self, reply: T, hold: Option<Hold>) -> AfterSync<T> {
        AfterSync { after: self.writes.hard_state_seq(), term: self.term(), hold, reply }
    }
}
