//! The state of Figure 2, the roles and how they change, and what all modules share.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::draft::Draft;
use super::entry::Entry;
use super::failover::LostLeader;
use super::left_on_disk::LeftOnDisk;
use super::log::Log;
use super::membership::Memberships;
use super::message::{Asked, LogRead, Ticket};
use super::note::{Decision, MAX_NOTES, Note, StepDownReason};
use super::progress::PeerSlot;
use super::protocol::Protocol;
use super::read::ReadDone;
use super::reply::Reply;
use super::role::Role;
use super::types::{ClusterTime, HardState, Index, MemberId, Position, SnapshotMeta, Term, Time};
use super::version::Versions;
use super::write::{AfterSync, Hold, WriteBatch, WriteQueue, WriteSeq};

/// No correct member's term is this far ahead: a request with such a term is refused before it can exhaust the
/// counter.
pub const MAX_TERM_JUMP: Term = 1 << 32;

/// A leader accepts uncommitted entries of up to this many times `max_unpersisted_bytes`: the followers' disks may be
/// slower than its own.
const UNCOMMITTED_PER_UNPERSISTED: usize = 4;

/// The configuration of a member. Durations come from the configuration file.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// The identity of this member.
    pub me: MemberId,
    /// The minimum election timeout T. Each timeout is drawn from (T, 2T]: strictly longer than the time for which a
    /// leader that was heard is not disturbed.
    pub election_timeout: Duration,
    /// Interval of a leader's heartbeats.
    pub heartbeat: Duration,
    /// How long a follower holds the answer to an append for its disk.
    pub append_hold: Duration,
    /// A member whose disk has not answered for this long neither leads nor campaigns.
    pub disk_stall: Duration,
    /// Seeds the jitter of the election timeouts.
    pub seed: u64,
    /// Frames in one append, in bytes; at least one entry is sent.
    pub max_append_bytes: usize,
    /// Maximum bytes of entries that wait for the disk; above this, proposals are refused and appends are not taken.
    pub max_unpersisted_bytes: usize,
    /// Entries that are applied and on the own disk leave memory while all entries take more than this many bytes of it.
    pub max_log_memory_bytes: usize,
    /// A snapshot is due when the log on disk has grown by this many bytes since the last one.
    pub snapshot_log_bytes: u64,
    /// A snapshot is due when this many entries were applied since the last one.
    pub snapshot_log_entries: u64,
    /// The protocol version of this member's program.
    pub protocol: Protocol,
    /// When set, this member as leader does not raise the version in force.
    pub hold_version: bool,
}

/// What recovery found on the disk. Everything in it is synced.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Term and vote.
    pub hard_state: HardState,
    /// The newest snapshot: where the log begins.
    pub snapshot: SnapshotMeta,
    /// Approximate size of the snapshot in bytes.
    pub snapshot_bytes: u64,
    /// The first entries after it, as far as they stay on the disk.
    pub left: LeftOnDisk,
    /// The entries after those.
    pub entries: Vec<Entry>,
    /// Approximate bytes of the log on disk after the snapshot.
    pub log_bytes: u64,
}

/// Why a proposal was not taken. It surely never takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This member does not lead.
    #[error("this member does not lead")]
    NotLeader {
        /// The leader, as far as this member knows.
        leader: Option<MemberId>,
    },
    /// Too many bytes wait for the disk here, or for a majority's disks.
    #[error("{waiting_bytes} bytes already wait for the disks")]
    Overloaded {
        /// Bytes that wait.
        waiting_bytes: usize,
    },
    /// This leader transfers its leadership and takes no proposals until that has succeeded or failed (thesis §3.10).
    #[error("this leader transfers its leadership to another member")]
    Transferring,
}

/// What the applier does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Apply {
    /// Apply these committed entries in order, then call `handle_applied` with the last index.
    Entries(Vec<Entry>),
    /// Read these committed entries from the log on the disk and apply them in order, then call `handle_applied` with the
    /// last index that was read; or call `handle_apply_read_failed`.
    Read(LogRead),
    /// Replace the whole state by the state of the installed snapshot, which ends here, then call `handle_applied`
    /// with its index.
    Restore(Position),
}

/// A reply after [`Raft::settle`] looked at it.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled<T> {
    /// It may be sent.
    Ready(T),
    /// It still waits for the disk.
    NotYet(AfterSync<T>),
}

/// One member's Raft. See the modules for its rules: elections, replication, reads, membership.
#[derive(Debug)]
pub struct Raft {
    pub(super) config: RaftConfig,
    pub(super) hard_state: HardState,
    pub(super) log: Log,
    pub(super) writes: WriteQueue,
    pub(super) memberships: Memberships,
    pub(super) versions: Versions,
    /// The newest durable snapshot. The log begins at or before its end.
    pub(super) snapshot: SnapshotMeta,
    /// Approximate size of the snapshot in bytes.
    pub(super) snapshot_bytes: u64,
    /// Bytes by which the log on disk has grown since the newest snapshot was begun.
    pub(super) log_bytes: u64,
    /// The part of `log_bytes` that the snapshot being written covers.
    pub(super) counted_bytes: u64,
    /// The log on disk may be cut through this index, once.
    pub(super) cut: Option<Index>,
    pub(super) commit_index: Index,
    pub(super) last_applied: Index,
    /// The applier has been given the entries through this index.
    pub(super) applying: Index,
    /// The start left the entries through this index on the disk.
    pub(super) left_through: Index,
    pub(super) role: Role,
    /// When a member that does not lead campaigns; `NEVER` while its own vote is not yet on the disk.
    pub(super) election_deadline: Time,
    /// When the leader of this term was last heard.
    pub(super) leader_heard_at: Time,
    /// Set while the leader of this term is known to have ended.
    pub(super) lost_leader: Option<LostLeader>,
    pub(super) slots: BTreeMap<MemberId, PeerSlot>,
    pub(super) last_ballot: u64,
    pub(super) last_ticket: u64,
    pub(super) reads_done: Vec<ReadDone>,
    pub(super) reads_done_count: u64,
    /// How many times entries were read for a peer.
    pub(super) log_reads: u64,
    pub(super) disk_stalled: bool,
    /// How often a peer began to need a snapshot, and how often one got it.
    pub(super) snapshot_wishes: u64,
    pub(super) snapshots_delivered: u64,
    pub(super) steps: u64,
    rng: fastrand::Rng,
    notes: VecDeque<Note>,
    notes_dropped: u64,
}

impl Raft {
    /// A member with the state that recovery found: a follower without a known leader. Nothing after the snapshot
    /// counts as committed until a leader says so.
    pub fn new(config: RaftConfig, restored: Restored, now: Time) -> Raft {
        let Restored { hard_state, snapshot, snapshot_bytes, left, entries, log_bytes } = restored;
        let changes = || left.changes.iter().chain(&entries);
        let memberships = Memberships::new(&snapshot, changes());
        let versions = Versions::new(&snapshot, changes());
        let commit_index = snapshot.last.index;
        let log = Log::restored(snapshot.last, &left, entries);
        let mut raft = Raft {
            writes: WriteQueue::new(hard_state, log.last_index()),
            rng: fastrand::Rng::with_seed(config.seed),
            config,
            hard_state,
            log,
            memberships,
            versions,
            snapshot,
            snapshot_bytes,
            log_bytes,
            counted_bytes: 0,
            cut: None,
            commit_index,
            last_applied: commit_index,
            applying: commit_index,
            left_through: left.through,
            role: Role::Follower { leader: None },
            election_deadline: Time::NEVER,
            leader_heard_at: Time(0),
            lost_leader: None,
            slots: BTreeMap::new(),
            last_ballot: 0,
            last_ticket: 0,
            reads_done: Vec::new(),
            reads_done_count: 0,
            log_reads: 0,
            disk_stalled: false,
            snapshot_wishes: 0,
            snapshots_delivered: 0,
            steps: 0,
            notes: VecDeque::new(),
            notes_dropped: 0,
        };
        raft.arm_election_timer(now);
        if raft.memberships.latest().voters().eq([raft.me()]) {
            // No other member can lead: there is no leader to wait for.
            raft.election_deadline = now;
        }
        raft
    }

    // ---- commands --------------------------------------------------------------------------------------------------

    /// This member has just written the first entry of its cluster, so there is no leader to wait for: it campaigns
    /// as soon as `handle_timeout` is called, not after an election timeout. The election itself is like any other,
    /// pre-vote included.
    pub fn begin_first_term(&mut self, now: Time) {
        self.steps += 1;
        if matches!(self.role, Role::Follower { leader: None }) {
            self.election_deadline = now;
        }
    }

    /// Appends an entry to a leader's log (paper §5.3). It takes effect once it is committed; the caller learns that from
    /// `poll_apply`.
    ///
    /// # Errors
    /// This member does not lead, or too many bytes wait for the disks. Then the proposal surely never takes effect.
    pub fn propose(&mut self, draft: impl Into<Draft>, now: Time) -> Result<Position, ProposeError> {
        let Some(cluster_time) = self.next_cluster_time(now) else {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        };
        if self.is_transferring() {
            return Err(ProposeError::Transferring);
        }
        let waiting_bytes = self.unpersisted_bytes();
        let uncommitted_bytes = self.uncommitted_bytes();
        if waiting_bytes >= self.config.max_unpersisted_bytes
            || uncommitted_bytes >= UNCOMMITTED_PER_UNPERSISTED * self.config.max_unpersisted_bytes
        {
            return Err(ProposeError::Overloaded { waiting_bytes: waiting_bytes.max(uncommitted_bytes) });
        }
        self.steps += 1;
        Ok(self.append_own(cluster_time, draft.into(), now))
    }

    /// Appends one entry of a leader.
    pub(super) fn append_own(&mut self, cluster_time: ClusterTime, draft: Draft, now: Time) -> Position {
        let entry = draft.place(Position::new(self.last().index + 1, self.term()), cluster_time);
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
        self.raise_version(now);
        self.release_entries();
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
        self.last_applied = index;
        // Fewer than were asked for may have been read.
        self.applying = index;
        self.release_entries();
    }

    /// Time has reached `poll_timeout`. A late call counts once: missed calls are not repeated.
    pub fn handle_timeout(&mut self, now: Time) {
        self.steps += 1;
        if !self.disk_stalled && self.is_oldest_write_overdue(now) {
            self.disk_stalled = true;
            self.note(Decision::DiskStalled);
            if self.is_leader() {
                self.step_down(StepDownReason::DiskStalled, now);
            } else {
                // A running campaign ends: its votes could not be stored.
                self.become_follower(self.leader(), now);
            }
        }
        if self.is_leader() {
            if now >= self.quorum_deadline() {
                self.step_down(StepDownReason::NoQuorum, now);
            } else {
                self.end_overdue_transfer(now);
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
                let transfer = leader.transfer.as_ref().map_or(Time::NEVER, |h| h.deadline);
                self.quorum_deadline().min(transfer)
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
        // Only an installed snapshot can be ahead of the applied index.
        if self.last_applied < self.snapshot.last.index {
            self.applying = self.snapshot.last.index;
            return Some(Apply::Restore(self.snapshot.last));
        }
        let (next, max_bytes) = (self.last_applied + 1, self.config.max_append_bytes);
        if next <= self.log.released() {
            let read = self.log_read(next, self.commit_index, max_bytes);
            self.applying = read.through;
            return Some(Apply::Read(read));
        }
        let entries = self.log.slice(next, self.commit_index, max_bytes);
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

    /// Opens a reply once the disk holds what the reply promises.
    pub fn settle<T: Reply>(&self, waiting: AfterSync<T>, now: Time) -> Settled<T> {
        if waiting.after > self.writes.persisted_seq() {
            return Settled::NotYet(waiting);
        }
        match waiting.reply.open(self, &waiting, now) {
            Some(reply) => Settled::Ready(reply),
            None => Settled::NotYet(waiting),
        }
    }

    // ---- shared by the modules -------------------------------------------------------------------------------------

    /// Appends to the log in memory and queues the write; a membership is in force from here on.
    pub(super) fn append(&mut self, entries: Vec<Entry>, now: Time) {
        let had = self.memberships.latest_index();
        for entry in &entries {
            self.memberships.append(entry);
            self.versions.append(entry);
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

    /// Follows `leader`, or no leader yet. The election timer keeps running, unless this member had none: rule 7 of
    /// elections says that only a granted vote, a valid append or an own campaign restarts it.
    pub(super) fn become_follower(&mut self, leader: Option<MemberId>, now: Time) {
        let had_no_timer = self.is_leader() || self.election_deadline == Time::NEVER;
        self.role = Role::Follower { leader };
        if had_no_timer {
            self.arm_election_timer(now);
        }
    }

    /// Stops leading without a new term: the vote of the term does not change. Heartbeats end, waiting reads fail.
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

    pub(super) fn random(&mut self, range: std::ops::RangeInclusive<u64>) -> u64 {
        self.rng.u64(range)
    }

    fn is_oldest_write_overdue(&self, now: Time) -> bool {
        self.writes.oldest_queued_at().is_some_and(|at| now >= at + self.config.disk_stall)
    }

    /// Whether `term` is further ahead than the term of any correct member can be.
    pub(super) fn is_absurd(&self, term: Term) -> bool {
        term > self.term().saturating_add(MAX_TERM_JUMP)
    }

    pub(super) fn ticket(&mut self, peer: MemberId, asked: Asked, now: Time) -> Ticket {
        self.last_ticket += 1;
        self.slots.entry(peer).or_default().in_flight = Some(self.last_ticket);
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

    /// Wraps a reply that promises the current term and vote.
    pub(super) fn after_hard_state<T>(&self, reply: T, hold: Option<Hold>) -> AfterSync<T> {
        AfterSync { after: self.writes.hard_state_seq(), term: self.term(), hold, reply }
    }
}
