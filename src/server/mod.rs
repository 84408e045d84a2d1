//! The two HTTP ports and the outbound HTTP, in three rooms: the [`edge`] has the sockets, `routes` the client port,
//! [`peer`] the port of the members. [`Server`] puts them together.

mod convert;
pub mod edge;
mod error;
pub mod peer;
mod restore;
mod routes;
mod shared;
mod start;
mod start_wait;

pub use crate::raft::PROTOCOL;
pub use error::ServerError;
pub use start::{Joining, Server};
pub use start_wait::StartWait;
