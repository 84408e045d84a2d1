//! One running member: the mutex around the core, the named threads that drive it, the requests that wait.

pub mod birth;
pub mod founding;
mod hand_over;
mod request;
mod transport;

pub use hand_over::{
    FoundReply, FoundRequest, FoundTransport, HandOver, Peer, PeerList, StoreFound, Unborn, UnbornStep,
};
pub use request::{Completion, Consistency, Failure, FailureKind, Origin, WriteResult};
pub use transport::{
    ForwardedResult, ForwardedWrite, Lane, PeerError, PeerReply, PeerRequest, PeerTransport, ReadIndexResult,
    Target,
};
