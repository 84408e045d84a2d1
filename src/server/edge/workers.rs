//! The only file that uses tiny_http: one server per lane, and the workers that take its requests and call the handler.
//! Handlers take and return plain values, without tiny_http types.
//!
//! tiny_http accepts, parses and queues every request. It never answers one: the worker drops the writer unused, so that
//! the upstream connection is free for the next, and the answer goes from wherever it is made to the client's socket.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel as channel;

use super::head::TICKET_HEADER;
use super::message::{Request, RequestHeader};
use super::reply::{LaneShared, Reply};
use super::slot::Ticket;
use super::upstream::PING_TARGET;

const PONG: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// What a port serves.
pub trait Handler: Send + Sync + 'static {
    /// Answers `request`, now or later, through `reply`. Runs on a worker and never blocks. A panic answers 500.
    fn handle(&self, request: Request, reply: Reply);
}

/// The tiny_http server of one lane and its workers.
pub(super) struct Workers {
    server: Arc<tiny_http::Server>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Listens on the Unix socket.
    ///
    /// # Errors
    /// It cannot.
    pub(super) fn listen(socket: &Path) -> io::Result<Workers> {
        let server = tiny_http::Server::http_unix(socket).map_err(|error| {
            io::Error::other(format!("cannot listen on the Unix socket {}: {error}", socket.display()))
        })?;
        Ok(Workers { server: Arc::new(server), stopping: Arc::default(), threads: Vec::new() })
    }

    /// Starts `count` workers, named `name-<n>`, each of which drops its `alive` when it ends.
    ///
    /// # Errors
    /// There is no thread.
    pub(super) fn start(
        &mut self,
        name: &str,
        count: usize,
        lane: &Arc<LaneShared>,
        handler: &Arc<dyn Handler>,
        alive: &channel::Sender<()>,
    ) -> io::Result<()> {
        for number in 1..=count {
            let worker = Worker {
                server: Arc::clone(&self.server),
                lane: Arc::clone(lane),
                handler: Arc::clone(handler),
                stopping: Arc::clone(&self.stopping),
            };
            let alive = alive.clone();
            self.threads.push(thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                worker.run();
                drop((worker, alive));
            })?);
        }
        Ok(())
    }

    /// Makes the workers end; returns their threads.
    pub(super) fn stop(&mut self) -> Vec<JoinHandle<()>> {
        self.stopping.store(true, Ordering::SeqCst);
        self.threads.iter().for_each(|_| self.server.unblock());
        std::mem::take(&mut self.threads)
    }
}

/// One worker thread.
struct Worker {
    server: Arc<tiny_http::Server>,
    lane: Arc<LaneShared>,
    handler: Arc<dyn Handler>,
    stopping: Arc<AtomicBool>,
}

impl Worker {
    fn run(&self) {
        while !self.stopping.load(Ordering::SeqCst) {
            match self.server.recv() {
                Ok(request) if request.url() == PING_TARGET => {
                    let mut writer = request.into_writer();
                    // Without the answer the one who asked tries another connection.
                    let _ = writer.write_all(PONG).and_then(|()| writer.flush());
                }
                Ok(request) => {
                    if catch_unwind(AssertUnwindSafe(|| self.serve(request))).is_err() {
                        self.lane.answers.panics.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Err(_) if self.stopping.load(Ordering::SeqCst) => {}
                // It accepts no further connection; those that there are live on.
                Err(error) => log::error!("tiny_http stopped accepting: {error}"),
            }
        }
    }

    fn serve(&self, request: tiny_http::Request) {
        let (path, query) = match request.url().split_once('?') {
            Some((path, query)) => (path.to_string(), Some(query.to_string())),
            None => (request.url().to_string(), None),
        };
        let (mut ticket, mut headers) = (None, Vec::new());
        for header in request.headers() {
            let (name, value) = (header.field.as_str().as_str(), header.value.as_str());
            if name == TICKET_HEADER {
                ticket = value.parse::<Ticket>().ok();
            } else if let Some(header) = RequestHeader::from_name(name) {
                headers.push((header, value.to_string()));
            }
        }
        // Unused: nothing is answered here, not even an error.
        drop(request.into_writer());
        let Some(ticket) = ticket else {
            return log::error!("a request without a ticket: nobody can be answered");
        };
        // Given up before its turn came, or submitted twice because an upstream connection broke.
        let Some((slot, mut asked)) = self.lane.answers.slots.take(ticket) else { return };
        let body = std::mem::take(&mut asked.body);
        let (method, from_loopback) = (asked.method, slot.from_loopback);
        let plain = Request { method, path, query, headers, body, from_loopback };
        self.handler.handle(plain, Reply::new(slot, ticket.number, asked, Arc::clone(&self.lane)));
    }
}
