//! The two HTTP ports and the outbound HTTP.
//!
//! A request passes four stages, each with threads of its own: the [`gate`] reads and checks it, the pool
//! ([`upstream`]) carries it to tiny_http, a worker ([`http`]) parses and parks it, a responder writes the answer.

pub mod admin;
pub mod backups;
pub mod client_api;
pub mod cursor;
pub mod fdlimit;
pub mod gate;
pub mod http;
pub mod legacy;
mod lists;
pub mod log_level;
mod members;
pub mod metrics;
pub mod params;
pub mod peer_api;
pub mod peer_client;
pub mod peer_codec;
mod process;
mod reads;
mod restore;
pub mod shared;
pub mod start;
pub mod upstream;

pub use crate::raft::PROTOCOL;
pub use start::{Server, ServerError};
