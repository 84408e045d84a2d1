//! The edge: everything between a socket and a handler. It knows no routes.
//!
//! A request goes in through three stages, each with threads of its own: the edge thread of its connection (`listener`)
//! reads and checks it, tiny_http parses and queues its head (`upstream`), a worker (`workers`) calls the handler. Its body
//! waits in the connection's `slot`. The answer takes no stage: whoever has it writes it to the client's socket (`reply`,
//! `outbox`). The `word` of the slot says at every moment who may.

pub mod fdlimit;
mod head;
mod inside;
mod limits;
mod listener;
mod message;
mod outbox;
mod port;
mod render;
mod reply;
mod run_dir;
mod slot;
mod slow_writers;
mod stats;
mod takeover;
#[cfg(test)]
mod tests;
mod upstream;
mod word;
mod workers;

pub use head::check_head;
pub use limits::EdgeLimits;
pub use listener::bind;
pub use message::{Method, Request, RequestHeader, Response};
pub use port::{HttpServer, LaneOptions, PortOptions};
pub use reply::{ErrorHeaders, Header, Reply};
pub use run_dir::RunDir;
pub use stats::{PortCounters, PortStats};
pub use takeover::{Answering, Connection, Sender, Takeover};
pub use workers::Handler;
