//! The rules of consensus, pure: same inputs, same outputs, byte for byte.

mod entry;
mod message;
mod types;
mod write;

pub use entry::{Entry, EntryKind, FRAME_HEADER_BYTES, FrameError, MAX_PAYLOAD_BYTES, Payload};
pub use message::{
    AppendEntriesReply, AppendEntriesRequest, AppendOutcome, RequestVoteReply, RequestVoteRequest,
};
pub use types::{
    ClusterId, Found, HardState, Index, Member, MemberId, Membership, Position, Settings, SnapshotMeta,
    Stamp, Term, Time,
};
pub use write::{AfterSync, QueuedWrite, WriteBatch, WriteOp, WriteSeq};
