//! What dies in a crash: a process, what its threads have in their hands, and what waits for an answer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use dkv::node::{
    AdminResult, Administration, Completion, LeaseKeeper, PeerRequest, ReadIndexResult, State, Transfer,
    Watches, WriteResult,
};
use dkv::raft::{
    AppendEntriesReply, Apply, Awaits, Index, InstallSnapshotReply, InstallSnapshotRequest, LogRead,
    MemberId, RequestVoteReply, Term, Ticket, Time, TimeoutNowReply, WriteBatch,
};
use dkv::store::Kv;
use dkv::store::snapshot::{Receiver, SnapshotHeader, SnapshotWriter};
use dkv::store::wal::LogReader;
use dkv::vocabulary::LeaseId;

use crate::client::{Asker, Query};
use crate::failover::{Taken, Word};
use crate::leases::Sent;
use crate::net::CallId;
use crate::world::NodeIndex;

/// What dies in a crash.
pub struct Process {
    pub state: State,
    pub kv: Kv,
    /// Where completions leave their results; emptied after every step.
    pub mailbox: Arc<Mutex<Vec<Done>>>,
    /// Requests of peers whose replies wait for the disk.
    pub held: BTreeMap<u64, Held>,
    /// Forwarded writes that are answered together.
    pub batches: BTreeMap<u64, Batch>,
    pub last_tag: u64,
    pub timer_at: u64,
    pub log_writer: Thread<WriteBatch>,
    /// When the log writer seals the log if nothing is written before.
    pub seal_at: u64,
    pub applier: Thread<Apply>,
    /// What the applier reads the log with.
    pub applied_log: LogReader,
    pub keeper: Keeper,
    /// Who watches at this process.
    pub watches: Arc<Watches>,
    pub is_notifier_awake: bool,
    pub snapshotter: Snapshotter,
    /// A snapshot that failed is not tried again before.
    pub no_snapshot_before: u64,
    pub receiver: Receiver,
    /// Which snapshot the receiver took a piece of last.
    pub receiving: Option<Index>,
    /// Pieces that wait for the receiver.
    pub pieces: VecDeque<Piece>,
    pub is_receiver_awake: bool,
    /// A leader's snapshot that is durable here and being loaded: the core does not know of it.
    pub loading: Option<Loading>,
    /// Snapshots that were received and loaded, for the applier.
    pub received: BTreeMap<Index, Kv>,
    pub senders: BTreeMap<NodeIndex, Sender>,
    /// What the senders read the log with.
    pub log_readers: BTreeMap<NodeIndex, LogReader>,
    pub forwarder: Thread<()>,
    pub read_asker: Thread<()>,
    pub replicators: BTreeMap<NodeIndex, Replicator>,
    /// The last append of this process that each member answered in the term of the append.
    pub answered: BTreeMap<MemberId, Answered>,
    /// The word that the core is being told.
    pub hearing: Option<Word>,
    /// The word that the core took last.
    pub taken: Option<Taken>,
}

/// An answer that came, as the network saw it.
pub struct Answered {
    pub term: Term,
    /// When the append was sent, by the clock of its sender.
    pub sent_at: Time,
}

/// The keeper of leases.
#[derive(Default)]
pub struct Keeper {
    pub keeper: LeaseKeeper,
    pub is_awake: bool,
    /// The leases that the state had when it was last looked at.
    pub seen: Vec<LeaseId>,
}

/// A thread that loops: wait to be woken, take work, do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread<T> {
    Asleep,
    Rung,
    Busy(T),
}

/// A replicator has a clock besides its wakeup.
pub enum Replicator {
    /// Wakes at this time of the world, or when rung for something that it awaits.
    Asleep { until: u64, awaits: Awaits },
    /// Waits for the result of its call.
    Calling,
}

/// What the sender to a peer does.
pub enum Sender {
    /// Wakes at this time of the world, or when rung.
    Asleep { until: u64 },
    /// Waits for the answer to a piece.
    Sending(Box<Transfer>),
    /// Reads entries from the log.
    Reading(LogRead, Ticket),
}

/// What the snapshotter does.
pub enum Snapshotter {
    /// Waits to be woken.
    Asleep,
    /// About to look for work.
    Rung,
    /// Writes page after page.
    Writing(SnapshotWriter),
    /// Waits until the own log holds everything through this index.
    Naming(SnapshotWriter, Index),
}

/// A snapshot that is being loaded, and who waits for the answer to its last piece.
pub struct Loading {
    pub header: Box<SnapshotHeader>,
    pub kv: Box<Kv>,
    pub bytes: u64,
    pub done: Completion<InstallSnapshotReply>,
}

/// A piece of a snapshot, and who waits for the answer.
pub struct Piece {
    pub request: InstallSnapshotRequest,
    pub done: Completion<InstallSnapshotReply>,
}

/// A result that a completion has left.
pub enum Done {
    Write(WriteFor, WriteResult),
    Read(ReadFor, ReadIndexResult),
    Vote(u64, RequestVoteReply),
    Append(u64, AppendEntriesReply),
    Install(NodeIndex, Option<CallId>, InstallSnapshotReply),
    TimeoutNow(NodeIndex, Option<CallId>, TimeoutNowReply),
    Administer(AdminFor, AdminResult),
}

/// Who waits for a write.
#[derive(Clone, Copy)]
pub enum WriteFor {
    Client(Asker),
    Holder(Sent),
    /// A place in a batch that a peer forwarded.
    Batch(u64, usize),
}

/// Who waits for what the operator asked.
pub enum AdminFor {
    Operator(Administration),
    Peer(NodeIndex, Option<CallId>),
}

/// Who waits for a read index.
pub enum ReadFor {
    Client(Asker, Query),
    Peer(NodeIndex, Option<CallId>),
}

/// A request of a peer whose reply waits for the disk.
pub struct Held {
    pub to: NodeIndex,
    pub call: Option<CallId>,
    /// The term in which the reply was made.
    pub term: u64,
    pub request: PeerRequest,
}

/// Forwarded writes that are answered together.
pub struct Batch {
    pub to: NodeIndex,
    pub call: Option<CallId>,
    pub results: Vec<Option<WriteResult>>,
}
