//! The threads for reads that may look at many keys: lists, counts, histories, and transactions that only read.

use std::sync::Arc;
use std::time::Instant;

use super::jobs::{Jobs, PoolOptions, Worker};
use super::lists::List;
use crate::api::{ErrorBody, ErrorCode};
use crate::node::Node;
use crate::server::edge::Response;
use crate::server::shared::Shared;

/// Threads that go through the store for lists and counts.
const SCAN_THREADS: usize = 2;

/// Lists and counts that may wait for them.
const SCAN_QUEUE: usize = 64;

/// A read of many keys whose state is fresh enough, to be served from this node.
pub(super) struct Scan {
    pub look: Look,
    pub node: Arc<Node>,
}

/// What is read.
pub(super) enum Look {
    /// A list or a count.
    List(Box<List>),
    /// Anything else that may look at many keys.
    Other(Box<dyn FnOnce(&Node) -> Response + Send>),
}

/// Starts the threads that serve lists and counts. A responder must not: it has the answers of all other requests to write.
///
/// # Errors
/// A thread could not be started.
pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<Jobs<Scan>> {
    let options = PoolOptions {
        name: "scan",
        threads: SCAN_THREADS,
        queue: SCAN_QUEUE,
        full: "too many lists, counts and transactions that only read wait already: try again",
    };
    Jobs::start(shared, &options, || Scanner)
}

struct Scanner;

impl Worker<Scan> for Scanner {
    fn answer(&mut self, scan: Scan, deadline: Instant) -> Result<Response, ErrorBody> {
        serve(scan, deadline)
    }
}

/// Serves the next listing. A listing whose deadline has passed is not begun: its client has gone, or soon will.
pub(super) fn serve(Scan { look, node }: Scan, deadline: Instant) -> Result<Response, ErrorBody> {
    if Instant::now() >= deadline {
        let text = "too many lists and counts were before this one: try again";
        return Err(ErrorBody::new(ErrorCode::Timeout, text));
    }
    Ok(match look {
        Look::List(list) => list.serve(&node, deadline),
        Look::Other(read) => read(&node),
    })
}
