//! The rules of consensus as pure code: no clock, no thread, no lock, no file, no socket. The same inputs give the
//! same outputs, byte for byte.
//!
//! # How to read it
//!
//! [`Raft`] is a plain struct. Its owner (a node with its one mutex; the simulator; a unit test) drives it with four
//! families of methods only:
//!
//! 1. **getters** show what it knows;
//! 2. **commands** ask it for something: [`Raft::propose`], [`Raft::read_index`],
//!    [`Raft::change_membership`], [`Raft::transfer_leadership`];
//! 3. **inbound** `handle_*` tell it what happened: an RPC arrived, an RPC returned a result, the disk or the state
//!    machine has made progress, time has passed;
//! 4. **outbound** `poll_*` ask it what to do: send to this peer, write, apply, answer these reads, wait until a time.
//!
//! `now` is always a parameter, and the jitter of the election timeouts is seeded.
//!
//! # A driver
//!
//! A node does this with threads; here it is one loop for a cluster of one member. After every call of the first
//! three families, call every `poll_*` again; their order does not matter.
//!
//! ```
//! # use std::time::Duration;
//! use dkv::raft::*;
//! # let member = Member { member_id: MemberId(1), node_id: "n1".into(), raft_addr: "a:1".into(), http_addr: "a:2".into(),
//! #     voter: true, promote: false };
//! # let genesis = Genesis { cluster_id: ClusterId(7), settings: Settings::default(), restored: None,
//! #     protocol: 1, members: Membership { members: vec![member] } };
//! # let entries = vec![Entry::new(Position::new(1, 1), 0, &Payload::Genesis(genesis))];
//! # let restored = Restored { hard_state: HardState { term: 1, voted_for: None }, entries, ..Restored::default() };
//! # let ms = Duration::from_millis;
//! # let config = RaftConfig { me: MemberId(1), election_timeout: ms(300), heartbeat: ms(50), append_hold: ms(50),
//! #     disk_stall: ms(2_000), seed: 1, max_append_bytes: 1 << 20, max_unpersisted_bytes: 16 << 20,
//! #     max_log_memory_bytes: 16 << 20, snapshot_log_bytes: u64::MAX, snapshot_log_entries: u64::MAX, protocol: 1, hold_version: false };
//! # let (mut applied, mut proposed) = (Vec::new(), None);
//! let mut now = Time(0);
//! let mut raft = Raft::new(config, restored, now);
//! while applied.len() < 3 {
//!     now = now + Duration::from_millis(10); // a node sleeps until `poll_timeout`, or until it is woken
//!     if now >= raft.poll_timeout() {
//!         raft.handle_timeout(now); // inbound: time; RPCs and their results, the disk and the state machine too
//!     }
//!     if raft.is_leader() && proposed.is_none() {
//!         proposed = Some(raft.propose(&Payload::Command(b"x".to_vec()), now)?); // a command
//!     }
//!     let batch = raft.poll_write();
//!     if let Some(seq) = batch.last_seq() {
//!         // write the batch and sync it; then replies that waited for the disk can be settled
//!         raft.handle_persisted(seq, now);
//!     }
//!     let peers: Vec<_> = raft.membership().members.iter().map(|m| m.member_id).filter(|id| *id != raft.me()).collect();
//!     for peer in peers {
//!         if let PollRpc::Send(_request, ticket) = raft.poll_rpc(peer, now) {
//!             raft.handle_rpc_result(ticket, Err(RpcFailed), now); // send it; every ticket comes back once
//!         }
//!     }
//!     while let Some(Apply::Entries(entries)) = raft.poll_apply() {
//!         applied.extend(entries.iter().map(|entry| entry.position()));
//!         raft.handle_applied(applied.last().map_or(0, |last| last.index));
//!     }
//!     raft.poll_reads(); // answer these
//!     raft.poll_notes(); // log these
//! }
//! assert_eq!(proposed, applied.pop());
//! # Ok::<(), ProposeError>(())
//! ```
//!
//! # The modules
//!
//! | file | module |
//! |---|---|
//! | `types.rs`, `entry.rs`, `message.rs` | the data: positions, entries and their frame, RPCs, tickets |
//! | `log.rs`, `progress.rs`, `membership.rs`, `quorum.rs` | the log in memory, a leader's view of a peer, who votes, majorities |
//! | `raft.rs`, `role.rs` | the state of Figure 2, the roles, the term rule, what all modules share |
//! | `getters.rs` | read access to the state |
//! | `watermarks.rs` | counters that threads wait on, and which thread a change must wake |
//! | `failover.rs` | a leader whose process has ended: a campaign that waits for no timer |
//! | `election.rs` | votes, pre-votes, stickiness, check-quorum (paper §5.2, §5.4.1; thesis §9.6, §4.2.3, §6.2) |
//! | `replication.rs` | AppendEntries on both sides, back-tracking, commit (paper §5.3, §5.4.2) |
//! | `read.rs` | ReadIndex (thesis §6.4) |
//! | `read_log.rs` | which entries leave memory, and how a peer gets them from the disk |
//! | `snapshot.rs` | when the state is saved, what of the log may go, who is sent a snapshot and who takes it (paper §7, Figure 13) |
//! | `change.rs` | changes of the membership, one server at a time; learners and their promotion (thesis §4.1, §4.2) |
//! | `version.rs`, `protocol.rs` | the version that the cluster agrees on, and when it is raised; which versions a program reads |
//! | `transfer.rs` | leadership transfer (thesis §3.10) |
//! | `write.rs` | what must reach the disk, and the replies that wait for it |
//! | `invariants.rs` | what must hold at every moment |
//! | `note.rs` | what was decided and why, for the node to log |
//!
//! # Where to find the rules
//!
//! `docs/raft-rules.md` lists all rules with their sources. The tests of rule N are called `rule_NN_...`; most are in
//! `tests/raft_paper/`, in the file that is named here.
//!
//! | rule of Figure 2 | where | rules, tests |
//! |---|---|---|
//! | persistent state before replies | [`AfterSync`], [`Raft::settle`] | 1-3: `election`, `replication` |
//! | all servers: higher term makes a follower | `Raft::observe_term`, at the top of every `handle_*` | 4, 5: `election` |
//! | all servers: apply through `commit_index` | [`Raft::poll_apply`] | 24: `replication` |
//! | followers: no leader, campaign | `Raft::handle_election_timeout` | 7, 35: `election` |
//! | candidates: term, own vote, timer, RequestVote | `Raft::become_candidate`, `Raft::count_own_vote`, `Raft::poll_vote` | 1, 8: `election` |
//! | leaders: heartbeats, entries from `next_index` | [`Raft::poll_rpc`] | 10, 50: `replication` |
//! | leaders: `next_index`, `match_index` | `Raft::handle_append_reply`, `Raft::backtrack` | 16, 17: `replication` |
//! | leaders: commit by counting the own term | `Raft::advance_leader_commit` | 14: `replication` |
//! | RequestVote 1-2 | [`Raft::handle_request_vote`] | 5, 6, 9: `election` |
//! | AppendEntries 1-5 | [`Raft::handle_append_entries`] | 9-13: `replication` |
//! | Figure 13: InstallSnapshot 1, 5 | [`Raft::handle_install_snapshot`] | 19: `snapshot` |
//! | Figure 13: InstallSnapshot 6-8 | [`Raft::handle_snapshot_received`] | 20, 22: `snapshot` |
//!
//! | rule of the thesis | where | rules, tests |
//! |---|---|---|
//! | §9.6 pre-vote | [`Raft::handle_request_vote`], `Raft::handle_vote_reply` | 33, 36: `election`, `partition` |
//! | §4.2.3 a leader that is heard is not disturbed | `Raft::hears_leader` | 34: `election`, `partition` |
//! | §6.2 check-quorum | `Raft::quorum_deadline` | 32: `partition` |
//! | §6.4 no-op at the start of a term | `Raft::become_leader` | 15: `replication` |
//! | §6.4 ReadIndex, after a commit of the own term | [`Raft::read_index`], `Raft::confirm_reads` | 27-29: `read` |
//! | §4.1 a membership is in force when appended | `Raft::follow_membership`, [`Memberships`] | 37: `membership` |
//! | §4.1 one change at a time, of one voter | [`Raft::change_membership`] | 38, 39: `membership` |
//! | §4.2.1 learners, and their promotion | `Raft::promote_caught_up` | 42: `membership` |
//! | §4.2.2 a removed leader steps down; a member left out campaigns | `Raft::leave_office_when_removed`, `Raft::may_campaign` | 40, 43: `membership` |
//! | §3.10 leadership transfer | [`Raft::transfer_leadership`], [`Raft::handle_timeout_now`] | 49: `transfer` |
//! | §10.2.1 the leader writes and sends at the same time | [`Raft::handle_persisted`] | 2: `replication` |
//!
//! # Time and the disk
//!
//! The core never waits for its disk. Every change of term, vote or log is queued in memory order and becomes durable
//! in that order. A reply that promises something is an [`AfterSync`], which only [`Raft::settle`] opens. A leader
//! writes and sends at the same time and counts itself like any other member: by what its disk holds (thesis
//! §10.2.1).
//!
//! # Differences from the paper
//!
//! - **Pre-vote, stickiness and check-quorum** are always on, as one package: each of them alone can leave a cluster
//!   without a leader permanently. A refused pre-vote carries the receiver's term; a candidate that lags adopts it.
//! - **A slow disk does not use up terms**: a candidate's timer starts when its own vote is durable.
//! - **A slow disk does not block the wire**: a follower answers an append after a short hold with two numbers, what its
//!   memory has received and what its disk holds; only the second counts for commit.
//! - **A disk that does not answer** for a bounded time: a leader steps down, and other members do not campaign.
//! - **A peer that rejects what it acknowledged** as durable has lost data; it is not counted on again.
//! - **One RPC at a time to each peer.** Entries that are appended meanwhile go into the next RPC. A ticket stays here
//!   and comes back with the result, so an answer is never used for another request.
//! - **Two leaders in one term, or a committed entry replaced**, end the process with a text that says what to check.

mod change;
mod draft;
mod election;
mod entry;
mod failover;
mod getters;
mod invariants;
mod left_on_disk;
mod log;
mod membership;
mod message;
mod note;
mod progress;
mod protocol;
mod quorum;
#[allow(clippy::module_inception)]
mod raft;
mod read;
mod read_log;
mod replication;
mod reply;
mod role;
mod snapshot;
mod transfer;
mod types;
mod version;
mod watermarks;
mod write;

#[cfg(test)]
mod tests;

pub use self::raft::{Apply, MAX_TERM_JUMP, ProposeError, Raft, RaftConfig, Restored, Settled};
pub use change::{ChangeError, Changed, MembershipChange};
pub use draft::Draft;
pub use entry::{Entry, EntryKind, FRAME_HEADER_BYTES, FrameError, MAX_PAYLOAD_BYTES, Payload};
pub use invariants::{check, check_step};
pub use left_on_disk::LeftOnDisk;
pub use log::Log;
pub use membership::Memberships;
pub use message::{
    AppendEntriesReply, AppendEntriesRequest, AppendOutcome, Awaits, InstallOutcome, InstallSnapshotReply,
    InstallSnapshotRequest, LogRead, PollBulk, PollRpc, ReadFailed, RequestVoteReply, RequestVoteRequest,
    RpcFailed, RpcReply, RpcRequest, Ticket, TimeoutNowReply, TimeoutNowRequest,
};
pub use note::{Decision, Note, NoteLevel, StepDownReason, VoteRefusal};
pub use progress::{Liveness, Mode, PeerSlot, Progress};
pub use protocol::{FIRST_PROTOCOL, PROTOCOL, Protocol, VersionMismatch, check_version, oldest_readable};
pub use quorum::{majority, majority_value};
pub use read::{NotLeader, ReadDone, ReadToken, Reads};
pub use reply::Reply;
pub use role::{Ballot, Leader, Role, RoleKind};
pub use snapshot::InstallVerdict;
pub use transfer::TransferError;
pub use types::{
    ClusterId, ClusterTime, Genesis, HardState, Index, Member, MemberId, Membership, Position, RestoredState,
    Settings, SnapshotMeta, Term, Time,
};
pub use version::HeldBackBy;
pub use watermarks::Watermarks;
pub use write::{AfterSync, QueuedWrite, WriteBatch, WriteOp, WriteQueue, WriteSeq};
