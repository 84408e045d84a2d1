//! The edge: the only code that reads from client sockets. Each connection has a thread that reads and checks one request
//! after the other and hands the clean ones to tiny_http over an upstream connection. It knows no routes.
//!
//! tiny_http must not face a network: it allocates what a header declares, loses threads to another HTTP version,
//! has no limit and no timeout, and leaves some of many new connections unserved. Every such case ends here.

mod connection;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::head::TakesOver;
use super::inside::Inside;
use super::message::{Method, RequestHeader, Response};
use super::render::render;
use super::reply::Answers;
use super::stats::EdgeCounters;
use super::upstream::Upstream;
use crate::api::{ErrorBody, ErrorCode};
use connection::Client;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;
/// Maximum number of connections above the cap that get a 503 answer; further ones are dropped without an answer.
const MAX_TURNED_AWAY: usize = 32;
/// Pause after an accept error that does not go away by itself (no descriptors, no memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Stack of a connection's thread; it parses a head and copies bytes.
const STACK_BYTES: usize = 256 * 1024;
/// How long broken connections get at a shutdown to send their last answer and end.
const FORCED_END: Duration = Duration::from_millis(500);

/// One class of connections, with its own upstream connections.
pub(super) struct Lane {
    /// What a connection's first request says in `Dkv-Lane` to be in this lane.
    pub name: &'static str,
    /// The places of its requests.
    pub inside: Arc<Inside>,
    /// The connections to its tiny_http server, at least one.
    pub upstreams: Vec<Arc<Upstream>>,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("name", &self.name).field("inside", &self.inside.count()).finish()
    }
}

/// What the edge must know of a port's requests.
#[derive(Debug)]
pub(super) struct Requests {
    /// The headers that handlers read: no others go on.
    pub wanted: Vec<RequestHeader>,
    /// Which requests may take their connection over.
    pub takes_over: TakesOver,
}

/// A listening port and its connections.
#[derive(Debug)]
pub(super) struct Edge {
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    name: &'static str,
    answers: Arc<Answers>,
    counters: Arc<EdgeCounters>,
    /// Never empty; the first one takes every connection that names no lane.
    lanes: Vec<Lane>,
    requests: Requests,
    /// The grace of a stop is over: what is not answered is given up.
    forced: AtomicBool,
    registry: Mutex<Registry>,
    /// Signalled when a connection ended, and at the stop.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Registry {
    /// Connections being served.
    open: BTreeMap<u64, Arc<TcpStream>>,
    /// Connections above the cap that are getting a 503 answer.
    turned_away: BTreeMap<u64, Arc<TcpStream>>,
    last_id: u64,
}

/// Binds a listener that survives a burst of new connections, and a quick restart of the process.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Edge {
    /// Starts accepting on `listener`. `lanes` is not empty.
    /// Threads are named `edge-<name>` and `edge-<name>-<n>`.
    pub(super) fn start(
        name: &'static str,
        listener: TcpListener,
        answers: Arc<Answers>,
        counters: Arc<EdgeCounters>,
        lanes: Vec<Lane>,
        requests: Requests,
    ) -> io::Result<Edge> {
        // Accepted sockets inherit both on Linux. (A read timeout here would make accept itself time out.)
        let socket = socket2::SockRef::from(&listener);
        socket.set_tcp_nodelay(true)?;
        socket.set_write_timeout(Some(answers.limits.write_timeout))?;
        let shared = Arc::new(Shared {
            name,
            answers,
            counters,
            lanes,
            requests,
            forced: AtomicBool::new(false),
            registry: Mutex::default(),
            changed: Condvar::new(),
        });
        let listener = Arc::new(listener);
        let acceptor = {
            let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
            thread::Builder::new().name(format!("edge-{name}")).spawn(move || shared.accept_all(&listener))?
        };
        Ok(Edge { shared, listener, acceptor: Some(acceptor) })
    }

    /// How many connections are being served.
    pub(super) fn connections(&self) -> usize {
        self.shared.registry().open.len()
    }

    /// Stops accepting and ends every idle connection; requests in flight are answered within `grace`. What is left
    /// then is given up: a request that no worker has taken is not done, and a write that one has is unknown.
    pub(super) fn stop(&mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.shared.answers.stopping.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        // On Linux this wakes the accept call, and every later one fails.
        let _ = socket2::SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.shared.shutdown_all(Shutdown::Read);
        if !self.shared.wait_until_empty(deadline) {
            self.shared.forced.store(true, Ordering::SeqCst);
            self.shared.lanes.iter().for_each(|lane| lane.inside.stop());
            self.shared.answers.slots.wake_all();
            if !self.shared.wait_until_empty(Instant::now() + FORCED_END) {
                self.shared.shutdown_all(Shutdown::Both);
                self.shared.wait_until_empty(Instant::now() + FORCED_END);
            }
        }
    }
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn is_stopping(&self) -> bool {
        self.answers.stopping.load(Ordering::SeqCst)
    }

    fn lane(&self, wanted: Option<&str>) -> &Lane {
        let named = self.lanes.iter().find(|lane| Some(lane.name) == wanted);
        named.unwrap_or(&self.lanes[0])
    }

    /// The acceptor thread. Only the stop ends it, no error does.
    fn accept_all(self: &Arc<Self>, listener: &TcpListener) {
        let mut failed = false;
        while !self.is_stopping() {
            match listener.accept() {
                Ok((stream, _)) => {
                    failed = false;
                    self.admit(stream);
                }
                Err(_) if self.is_stopping() => return,
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    if !failed {
                        log::warn!("edge-{}: cannot accept a connection, trying on: {error}", self.name);
                    }
                    failed = true;
                    self.pause();
                }
            }
        }
    }

    fn pause(&self) {
        let registry = self.registry();
        if !self.is_stopping() {
            drop(self.changed.wait_timeout(registry, ACCEPT_PAUSE));
        }
    }

    /// Gives the connection its own thread, or refuses it.
    fn admit(self: &Arc<Self>, stream: TcpStream) {
        let stream = Arc::new(stream);
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let (id, welcome) = {
            let mut registry = self.registry();
            registry.last_id += 1;
            let id = registry.last_id;
            let welcome = registry.open.len() < self.answers.limits.max_connections;
            let counter = if welcome { &self.counters.open } else { &self.counters.turned_away };
            counter.fetch_add(1, Ordering::Relaxed);
            if welcome {
                registry.open.insert(id, Arc::clone(&stream));
            } else if registry.turned_away.len() < MAX_TURNED_AWAY {
                registry.turned_away.insert(id, Arc::clone(&stream));
            } else {
                return;
            }
            (id, welcome)
        };
        // Dropped with the closure when no thread can be started: the connection closes.
        let registered = Registered { shared: Arc::clone(self), id };
        let thread = thread::Builder::new().name(format!("edge-{}-{id}", self.name)).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || {
            let shared = &registered.shared;
            let served = catch_unwind(AssertUnwindSafe(|| {
                if welcome { Client::new(shared, id, &stream).serve() } else { shared.turn_away(&stream) }
            }));
            if served.is_err() {
                shared.answers.panics.fetch_add(1, Ordering::Relaxed);
            }
            drop(stream);
        });
        if let Err(error) = spawned {
            log::warn!("edge-{}: no thread for a connection: {error}", self.name);
        }
    }

    fn turn_away(&self, mut stream: &TcpStream) {
        let body = ErrorBody::new(ErrorCode::Overloaded, "too many connections are open, try again");
        let mut answer = Vec::new();
        render(&self.answers.with_headers(Response::error(&body)), Method::Other, true, &mut answer);
        if stream.write_all(&answer).is_ok() {
            connection::linger(stream);
        }
    }

    fn shutdown_all(&self, how: Shutdown) {
        let registry = self.registry();
        for stream in registry.open.values().chain(registry.turned_away.values()) {
            let _ = stream.shutdown(how);
        }
    }

    /// Whether all connections ended before the deadline.
    fn wait_until_empty(&self, deadline: Instant) -> bool {
        let mut registry = self.registry();
        while !(registry.open.is_empty() && registry.turned_away.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(registry, left);
            registry = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        true
    }
}

/// A connection's place among the open ones, given back on drop.
struct Registered {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut registry = self.shared.registry();
        if registry.open.remove(&self.id).is_some() {
            self.shared.counters.open.fetch_sub(1, Ordering::Relaxed);
        }
        registry.turned_away.remove(&self.id);
        drop(registry);
        self.shared.changed.notify_all();
    }
}

/// Accept errors that concern the one connection only: the next accept may succeed at once.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
