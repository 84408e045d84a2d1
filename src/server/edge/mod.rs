//! The edge: everything between a socket and a handler. It knows no routes.
//!
//! A request passes four stages, each with threads of its own: the [`listener`] reads and checks it, the pool
//! ([`upstream`]) carries it to tiny_http, a worker ([`port`]) calls the handler, a responder writes the answer.

pub mod fdlimit;
mod head;
mod listener;
mod message;
mod port;
mod stats;
mod upstream;

pub use listener::{EdgeLimits, ErrorHeaders, Header, bind};
pub use message::{Method, Request, Response};
pub use port::{Handler, HttpServer, LaneOptions, PortOptions, Reply};
pub use stats::{PortCounters, PortStats};
pub use upstream::RunDir;
