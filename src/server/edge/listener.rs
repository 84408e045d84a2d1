//! The edge: the only code that reads from client sockets. It reads and checks one request at a time per connection,
//! hands a clean one to tiny_http over an upstream connection, and relays the answer. It knows no routes.
//!
//! tiny_http must not face a network: it allocates what a header declares, loses threads to another HTTP version,
//! has no limit and no timeout, and leaves some of many new connections unserved. Every such case ends here.

mod connection;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::head::Refusal;
use super::stats::EdgeCounters;
use super::upstream::Pool;
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

/// A header of an answer.
pub type Header = (&'static str, String);

/// The headers that are on every answer the handler did not make, as they are at the moment it is made. None by default.
#[derive(Clone, Default)]
pub struct ErrorHeaders(Option<Arc<dyn Fn() -> Vec<Header> + Send + Sync>>);

impl ErrorHeaders {
    /// What `now` says whenever such an answer is made, on any thread; it must not wait.
    pub fn new(now: impl Fn() -> Vec<Header> + Send + Sync + 'static) -> ErrorHeaders {
        ErrorHeaders(Some(Arc::new(now)))
    }

    /// The headers at this moment.
    pub fn now(&self) -> Vec<Header> {
        self.0.as_ref().map(|now| now()).unwrap_or_default()
    }
}

impl fmt::Debug for ErrorHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErrorHeaders")
    }
}

/// The limits of one port.
#[derive(Clone, Debug)]
pub struct EdgeLimits {
    /// Maximum number of open connections. Further ones get 503 and are closed.
    pub max_connections: usize,
    /// Largest request body, in bytes: 413 beyond.
    pub max_body_bytes: usize,
    /// From a request's first byte to the end of its head: 408 beyond.
    pub head_timeout: Duration,
    /// For a body: this and what its size takes at `min_bytes_per_s`: 408 beyond.
    pub body_timeout: Duration,
    /// Slowest pace at which a client may send a body or take an answer, in bytes per second.
    pub min_bytes_per_s: usize,
    /// Silence between two requests, and before the first: closed beyond.
    pub idle_timeout: Duration,
    /// For an answer: this and what its size takes at `min_bytes_per_s`: closed beyond.
    pub write_timeout: Duration,
    /// Wait for a free upstream connection: 503 `overloaded` beyond.
    pub upstream_wait: Duration,
    /// Wait for tiny_http's answer; longer than any handler's own deadline. Beyond: writes unknown, reads not done.
    pub answer_timeout: Duration,
}

impl Default for EdgeLimits {
    fn default() -> EdgeLimits {
        EdgeLimits {
            max_connections: 4096,
            max_body_bytes: 3 << 19,
            head_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(5),
            min_bytes_per_s: 64 * 1024,
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(5),
            upstream_wait: Duration::from_secs(1),
            answer_timeout: Duration::from_secs(15),
        }
    }
}

impl EdgeLimits {
    fn transfer_time(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.min_bytes_per_s.max(1) as f64)
    }

    fn body_deadline(&self, bytes: usize) -> Duration {
        self.body_timeout + self.transfer_time(bytes)
    }

    fn write_deadline(&self, bytes: usize) -> Duration {
        self.write_timeout + self.transfer_time(bytes)
    }
}

/// One class of connections, with its own pool of upstream connections.
#[derive(Debug)]
pub(super) struct Lane {
    /// What a connection's first request says in `Dkv-Lane` to be in this lane.
    pub name: &'static str,
    /// The connections to its tiny_http server.
    pub pool: Arc<Pool>,
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
    counters: Arc<EdgeCounters>,
    limits: EdgeLimits,
    /// Never empty; the first one takes every connection that names no lane.
    lanes: Vec<Lane>,
    /// The request headers that handlers read, in lower case.
    wanted: Vec<&'static str>,
    error_headers: ErrorHeaders,
    panics: Arc<AtomicU64>,
    stopping: AtomicBool,
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
    /// Starts accepting on `listener`. `lanes` is not empty; of a request's headers only the `wanted` ones go on.
    /// Threads are named `edge-<name>` and `edge-<name>-<n>`.
    pub(super) fn start(
        name: &'static str,
        listener: TcpListener,
        limits: EdgeLimits,
        lanes: Vec<Lane>,
        wanted: Vec<&'static str>,
        error_headers: ErrorHeaders,
        panics: Arc<AtomicU64>,
    ) -> io::Result<Edge> {
        // Accepted sockets inherit both on Linux. (A read timeout here would make accept itself time out.)
        let socket = socket2::SockRef::from(&listener);
        socket.set_tcp_nodelay(true)?;
        socket.set_write_timeout(Some(limits.write_timeout))?;
        let shared = Arc::new(Shared {
            name,
            counters: Arc::default(),
            limits,
            lanes,
            wanted,
            error_headers,
            panics,
            stopping: AtomicBool::new(false),
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

    /// The numbers of accepted and refused connections and requests.
    pub(super) fn counters(&self) -> &Arc<EdgeCounters> {
        &self.shared.counters
    }

    /// Stops accepting and ends every idle connection; requests in flight are answered within `grace`. What is left
    /// then is broken off: writes are told that their outcome is unknown.
    pub(super) fn stop(&mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        // On Linux this wakes the accept call, and every later one fails.
        let _ = socket2::SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.shared.shutdown_all(Shutdown::Read);
        if !self.shared.wait_until_empty(deadline) {
            for lane in &self.shared.lanes {
                lane.pool.stop();
            }
            let deadline = Instant::now() + FORCED_END;
            if !self.shared.wait_until_empty(deadline) {
                self.shared.shutdown_all(Shutdown::Both);
                self.shared.wait_until_empty(Instant::now() + FORCED_END);
            }
        }
        for lane in &self.shared.lanes {
            lane.pool.stop();
        }
    }
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn lane(&self, wanted: Option<&str>) -> &Arc<Pool> {
        let named = self.lanes.iter().find(|lane| Some(lane.name) == wanted);
        &named.unwrap_or(&self.lanes[0]).pool
    }

    /// The acceptor thread. Only the stop ends it, no error does.
    fn accept_all(self: &Arc<Self>, listener: &TcpListener) {
        let mut failed = false;
        while !self.stopping.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok((stream, _)) => {
                    failed = false;
                    self.admit(stream);
                }
                Err(_) if self.stopping.load(Ordering::SeqCst) => return,
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
        if !self.stopping.load(Ordering::SeqCst) {
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
            let welcome = registry.open.len() < self.limits.max_connections;
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
                if welcome { Client::new(shared, &stream).serve() } else { shared.turn_away(&stream) }
            }));
            if served.is_err() {
                shared.panics.fetch_add(1, Ordering::Relaxed);
            }
            drop(stream);
        });
        if let Err(error) = spawned {
            log::warn!("edge-{}: no thread for a connection: {error}", self.name);
        }
    }

    fn turn_away(&self, mut stream: &TcpStream) {
        use std::io::Write;
        let body = ErrorBody::new(ErrorCode::Overloaded, "too many connections are open, try again");
        let answer = error_answer(503, &body, &self.error_headers, true);
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

/// The answer to a refused request; the connection closes after it.
fn refusal_answer(refusal: &Refusal, headers: &ErrorHeaders) -> Vec<u8> {
    error_answer(refusal.status, &ErrorBody::new(refusal.code, refusal.message), headers, true)
}

fn error_answer(status: u16, body: &ErrorBody, headers: &ErrorHeaders, close: bool) -> Vec<u8> {
    let json = serde_json::to_vec(body).expect("an error body is plain data");
    let mut head = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        reason(status),
        json.len()
    );
    for (name, value) in headers.now() {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if body.error.code == ErrorCode::Overloaded {
        head.push_str("Retry-After: 1\r\n");
    }
    if close {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    let mut answer = head.into_bytes();
    answer.extend_from_slice(&json);
    answer
}

/// The reason phrases of the statuses the edge itself answers.
fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}
