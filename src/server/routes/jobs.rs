//! Threads for slow work, which the workers of the client port must not do and the responders must not wait for: work
//! with files, calls to other nodes, reads of a large part of the store.
//!
//! Each pool has a queue of a fixed length. When it is full, a request is immediately refused as overloaded, so that
//! a busy pool does not affect other requests. Requests are served in the order of arrival and all have the same time
//! limit, so earlier requests have earlier deadlines: no request waits here beyond its own deadline.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::api::{ErrorBody, ErrorCode};
use crate::server::edge::{Reply, Response};
use crate::server::shared::Shared;

/// How often a thread without a job looks whether the server stops.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The name and the limits of a pool.
pub(super) struct PoolOptions {
    /// The name of its threads; numbered from 1 when there are more than one.
    pub name: &'static str,
    /// Its threads.
    pub threads: usize,
    /// Requests that may wait for them.
    pub queue: usize,
    /// The answer to a request when the queue is full.
    pub full: &'static str,
}

/// What one thread of a pool does with its jobs.
pub(super) trait Worker<J>: Send + 'static {
    /// The answer to a job, by `deadline`. It may wait and touch files. A panic answers 500.
    fn answer(&mut self, job: J, deadline: Instant) -> Result<Response, ErrorBody>;

    /// Nothing was asked for a second.
    fn rest(&mut self) {}
}

struct Job<J> {
    what: J,
    deadline: Instant,
    reply: Reply,
}

/// The queue for jobs of one kind.
pub(super) struct Jobs<J> {
    shared: Arc<Shared>,
    queue: Sender<Job<J>>,
    full: &'static str,
}

impl<J> Clone for Jobs<J> {
    fn clone(&self) -> Jobs<J> {
        Jobs { shared: self.shared.clone(), queue: self.queue.clone(), full: self.full }
    }
}

impl<J: Send + 'static> Jobs<J> {
    /// Starts the threads, each with its own worker. They end with the process, or soon after the server stops.
    ///
    /// # Errors
    /// A thread could not be started.
    pub(super) fn start<W: Worker<J>>(
        shared: &Arc<Shared>,
        options: &PoolOptions,
        mut worker: impl FnMut() -> W,
    ) -> std::io::Result<Jobs<J>> {
        let (queue, inbox) = bounded(options.queue);
        for number in 1..=options.threads {
            let name = match options.threads {
                1 => options.name.to_owned(),
                _ => format!("{}-{number}", options.name),
            };
            let (shared, inbox, worker) = (shared.clone(), inbox.clone(), worker());
            std::thread::Builder::new().name(name).spawn(move || run(&shared, &inbox, worker))?;
        }
        Ok(Jobs { shared: shared.clone(), queue, full: options.full })
    }

    /// Answers `reply` by `deadline`; immediately when too many jobs wait. This function never waits.
    pub(super) fn ask(&self, what: J, deadline: Instant, reply: Reply) {
        if let Err(refused) = self.queue.try_send(Job { what, deadline, reply }) {
            let shared = self.shared.clone();
            let error = ErrorBody::new(ErrorCode::Overloaded, self.full);
            refused.into_inner().reply.send(move || shared.decorate(Response::error(&error)));
        }
    }
}

fn run<J>(shared: &Arc<Shared>, inbox: &Receiver<Job<J>>, mut worker: impl Worker<J>) {
    while !shared.is_stopping() {
        match inbox.recv_timeout(LOOK_EVERY) {
            Ok(Job { what, deadline, reply }) => {
                // A reply that is dropped in a panic answers 500.
                let job = AssertUnwindSafe(|| {
                    let response =
                        worker.answer(what, deadline).unwrap_or_else(|error| Response::error(&error));
                    let shared = shared.clone();
                    reply.send(move || shared.decorate(response));
                });
                let _ = catch_unwind(job);
            }
            Err(RecvTimeoutError::Timeout) => worker.rest(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
