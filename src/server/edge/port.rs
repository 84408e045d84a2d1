//! The only file that uses tiny_http: one server per lane, its workers, and the responders that write the answers.
//! Handlers take and return plain values, without tiny_http types.
//!
//! A worker takes a request, reads its body and calls the handler, which answers at once or keeps the [`Reply`] and
//! answers later from any thread. Either way a responder builds the answer and writes it, in one write.

use std::fmt;
use std::io::{self, Write};
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use super::head::LOOPBACK_HEADER;
use super::listener::{Edge, EdgeLimits, ErrorHeaders, Lane};
use super::message::{Method, Request, Response};
use super::stats::{self, PortCounters};
use super::upstream::{PING_TARGET, Pool, RunDir};
use crate::api::{ErrorBody, ErrorCode, ErrorOutcome};

/// What a port serves.
pub trait Handler: Send + Sync + 'static {
    /// Answers `request`, now or later, through `reply`. Runs on a worker and never blocks. A panic answers 500.
    fn handle(&self, request: Request, reply: Reply);
}

type MakeResponse = Box<dyn FnOnce() -> Response + Send>;

/// The right to answer one request, once. Dropped without an answer it answers 500.
pub struct Reply {
    /// `None` once answered.
    request: Option<tiny_http::Request>,
    method: Method,
    lane: Arc<LaneShared>,
    waiting: bool,
}

impl Reply {
    /// Answers: a responder thread runs `make` and writes what it returns. Can be called from any thread.
    pub fn send(mut self, make: impl FnOnce() -> Response + Send + 'static) {
        self.queue(Box::new(make));
    }

    /// Counts the request among the waiting ones until it is answered. False when as many are waiting as may be: then
    /// answer `overloaded` at once, so that connections stay free for what never waits.
    pub fn start_waiting(&mut self) -> bool {
        if !self.waiting {
            let below = |waiting| (waiting < self.lane.waiting_limit).then_some(waiting + 1);
            let counted = self.lane.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below);
            self.waiting = counted.is_ok();
        }
        self.waiting
    }

    fn queue(&mut self, make: MakeResponse) {
        if std::mem::take(&mut self.waiting) {
            self.lane.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(request) = self.request.take() {
            // The connections of the lanes bound this channel: it does not fill. After the stop no client waits for
            // an answer.
            let _ = self.lane.answers.send(Job::Answer { request, method: self.method, make });
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.request.is_some() {
            let (method, headers) = (self.method, self.lane.error_headers.clone());
            self.queue(Box::new(move || internal_error(method, &headers)));
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("method", &self.method).field("waiting", &self.waiting).finish()
    }
}

fn internal_error(method: Method, headers: &ErrorHeaders) -> Response {
    let body = ErrorBody::new(ErrorCode::Internal, "the server failed on this request; its log says more");
    let outcome = if method.is_read() { ErrorOutcome::NotDone } else { ErrorOutcome::Unknown };
    let mut response = Response::error(&body.with_outcome(outcome));
    response.headers.extend(headers.now());
    response
}

/// One class of connections of a port, with its own tiny_http server and workers.
#[derive(Clone, Debug)]
pub struct LaneOptions {
    /// What a connection's first request says in `Dkv-Lane`. The first lane also takes all connections without this
    /// header.
    pub name: &'static str,
    /// Threads that run the handler.
    pub workers: usize,
    /// Connections to tiny_http, which is how many requests are served at a time.
    pub connections: usize,
    /// Most requests that [`Reply::start_waiting`] lets wait; less than `connections`.
    pub waiting_limit: usize,
}

/// One port.
#[derive(Clone, Debug)]
pub struct PortOptions {
    /// Its name in thread and socket names: `client` or `peer`.
    pub name: &'static str,
    /// Where its Unix sockets go.
    pub run_dir: Arc<RunDir>,
    /// At least one.
    pub lanes: Vec<LaneOptions>,
    /// Threads that write the answers.
    pub responders: usize,
    /// Their name; numbered from 1 when there are more than one.
    pub responder_name: &'static str,
    /// What the edge lets in.
    pub limits: EdgeLimits,
    /// The request headers that the handler reads, in lower case: it gets no others.
    pub headers: Vec<&'static str>,
    /// Headers of every answer that was not made by a handler.
    pub error_headers: ErrorHeaders,
}

impl PortOptions {
    /// The client port: 4 workers, 2 responders, `connections` upstream, three quarters of which may be waiting.
    pub fn client(run_dir: Arc<RunDir>, connections: usize) -> PortOptions {
        let waiting_limit = connections * 3 / 4;
        PortOptions {
            name: "client",
            run_dir,
            lanes: vec![LaneOptions { name: "client", workers: 4, connections, waiting_limit }],
            responders: 2,
            responder_name: "responder",
            limits: EdgeLimits::default(),
            headers: Vec::new(),
            error_headers: ErrorHeaders::default(),
        }
    }

    /// The peer port of a cluster of `members`: a lane `core` only for votes and appends, and a lane for everything
    /// else.
    pub fn peer(run_dir: Arc<RunDir>, members: usize) -> PortOptions {
        let core = (2 * members).max(16);
        PortOptions {
            name: "peer",
            run_dir,
            lanes: vec![
                LaneOptions { name: "bulk", workers: 2, connections: 48, waiting_limit: 36 },
                LaneOptions { name: "core", workers: 2, connections: core, waiting_limit: core * 3 / 4 },
            ],
            responders: 1,
            responder_name: "peer-responder",
            limits: EdgeLimits { max_body_bytes: 8 << 20, ..EdgeLimits::default() },
            headers: Vec::new(),
            error_headers: ErrorHeaders::default(),
        }
    }
}

/// What the workers, replies and responders of one lane share.
struct LaneShared {
    waiting: Arc<AtomicUsize>,
    waiting_limit: usize,
    answers: channel::Sender<Job>,
    error_headers: ErrorHeaders,
}

enum Job {
    Answer { request: tiny_http::Request, method: Method, make: MakeResponse },
    Stop,
}

/// A port that is being served.
pub struct HttpServer {
    name: &'static str,
    edge: Option<Edge>,
    servers: Vec<Arc<tiny_http::Server>>,
    /// Outlives the servers: each connects to its own socket to end.
    _run_dir: Arc<RunDir>,
    pools: Vec<Arc<Pool>>,
    /// For each lane, the number of its waiting requests.
    waiting: Vec<Arc<AtomicUsize>>,
    answers: channel::Sender<Job>,
    stopping: Arc<AtomicBool>,
    panics: Arc<AtomicU64>,
    workers: Vec<JoinHandle<()>>,
    responders: Vec<JoinHandle<()>>,
    openers: Vec<JoinHandle<()>>,
    /// Disconnected once every worker, responder and opener has ended.
    alive: channel::Receiver<()>,
}

impl HttpServer {
    /// Serves `listener` (see [`super::listener::bind`]) until the shutdown. Returns when every upstream connection has
    /// answered its ping.
    pub fn start(
        listener: TcpListener,
        options: PortOptions,
        handler: Arc<dyn Handler>,
    ) -> io::Result<HttpServer> {
        if options.lanes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a port needs a lane"));
        }
        let connections: usize = options.lanes.iter().map(|lane| lane.connections).sum();
        // Twice the connections: a replaced one may still have its old request waiting.
        let (answers, jobs) = channel::bounded(2 * connections);
        let (alive_guard, alive) = channel::bounded(0);
        let mut server = HttpServer {
            name: options.name,
            edge: None,
            servers: Vec::new(),
            _run_dir: Arc::clone(&options.run_dir),
            pools: Vec::new(),
            waiting: Vec::new(),
            answers,
            stopping: Arc::default(),
            panics: Arc::default(),
            workers: Vec::new(),
            responders: Vec::new(),
            openers: Vec::new(),
            alive,
        };
        // A failure drops the server, which ends what was started; `alive_guard` must be gone by then.
        server.start_threads(listener, options, &handler, jobs, alive_guard)?;
        Ok(server)
    }

    fn start_threads(
        &mut self,
        listener: TcpListener,
        options: PortOptions,
        handler: &Arc<dyn Handler>,
        jobs: channel::Receiver<Job>,
        alive: channel::Sender<()>,
    ) -> io::Result<()> {
        for number in 1..=options.responders {
            let name = match options.responders {
                1 => options.responder_name.to_string(),
                _ => format!("{}-{number}", options.responder_name),
            };
            self.start_responder(name, &options, jobs.clone(), alive.clone())?;
        }
        let mut lanes = Vec::new();
        for lane in &options.lanes {
            let pool = self.start_lane(lane, &options, handler, &alive)?;
            lanes.push(Lane { name: lane.name, pool });
        }
        let panics = Arc::clone(&self.panics);
        let PortOptions { limits, headers, error_headers, .. } = options;
        self.edge = Some(Edge::start(self.name, listener, limits, lanes, headers, error_headers, panics)?);
        Ok(())
    }

    /// How many requests are waiting at the moment, over all lanes.
    pub fn waiting(&self) -> usize {
        stats::waiting(&self.waiting)
    }

    /// Its counters, which outlive it.
    pub fn counters(&self) -> PortCounters {
        let edge = self.edge.as_ref().map(|edge| Arc::clone(edge.counters())).unwrap_or_default();
        PortCounters::new(self.name, edge, self.waiting.clone(), Arc::clone(&self.panics))
    }

    /// How many client connections are open.
    pub fn connections(&self) -> usize {
        self.edge.as_ref().map_or(0, Edge::connections)
    }

    /// How many panics edge, workers and responders have survived. A value above 0 shows a bug.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Stops accepting, lets requests in flight be answered within `grace`, and ends the threads.
    pub fn shutdown(mut self, grace: Duration) {
        self.stop(grace);
    }

    fn stop(&mut self, grace: Duration) {
        const JOIN_DEADLINE: Duration = Duration::from_secs(2);
        if let Some(mut edge) = self.edge.take() {
            edge.stop(grace);
        }
        self.pools.iter().for_each(|pool| pool.stop());
        self.stopping.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + JOIN_DEADLINE;
        for _ in &self.workers {
            self.servers.iter().for_each(|server| server.unblock());
        }
        for _ in &self.responders {
            let _ = self.answers.send_deadline(Job::Stop, deadline);
        }
        // Nothing is ever sent: it disconnects when the last thread ends.
        let ended = self.alive.recv_deadline(deadline) == Err(channel::RecvTimeoutError::Disconnected);
        let threads = self.workers.drain(..).chain(self.responders.drain(..)).chain(self.openers.drain(..));
        if ended {
            threads.for_each(|thread| drop(thread.join()));
        } else {
            log::warn!("a worker or responder did not end in time and is left behind");
            drop(threads);
        }
        self.servers.clear();
    }

    /// Starts the tiny_http server of one lane, its workers, and the pool of connections to it.
    fn start_lane(
        &mut self,
        lane: &LaneOptions,
        options: &PortOptions,
        handler: &Arc<dyn Handler>,
        alive: &channel::Sender<()>,
    ) -> io::Result<Arc<Pool>> {
        let full_name = match options.lanes.len() {
            1 => options.name.to_string(),
            _ => format!("{}-{}", options.name, lane.name),
        };
        let socket = options.run_dir.path().join(format!("{full_name}.sock"));
        let listening = tiny_http::Server::http_unix(&socket);
        let server = Arc::new(listening.map_err(|error| {
            io::Error::other(format!("cannot listen on the Unix socket {}: {error}", socket.display()))
        })?);
        self.servers.push(Arc::clone(&server));
        let shared = Arc::new(LaneShared {
            waiting: Arc::default(),
            waiting_limit: lane.waiting_limit,
            answers: self.answers.clone(),
            error_headers: options.error_headers.clone(),
        });
        self.waiting.push(Arc::clone(&shared.waiting));
        for number in 1..=lane.workers {
            let worker = Worker {
                server: Arc::clone(&server),
                lane: Arc::clone(&shared),
                handler: Arc::clone(handler),
                stopping: Arc::clone(&self.stopping),
                panics: Arc::clone(&self.panics),
            };
            let alive = alive.clone();
            let builder = thread::Builder::new().name(format!("{full_name}-{number}"));
            self.workers.push(builder.spawn(move || {
                worker.run();
                drop((worker, alive));
            })?);
        }
        let pool_name = format!("pool-{full_name}");
        let (pool, opener) =
            Pool::start(pool_name, socket, lane.connections, options.limits.answer_timeout, alive.clone())?;
        self.openers.push(opener);
        self.pools.push(Arc::clone(&pool));
        Ok(pool)
    }

    fn start_responder(
        &mut self,
        name: String,
        options: &PortOptions,
        jobs: channel::Receiver<Job>,
        alive: channel::Sender<()>,
    ) -> io::Result<()> {
        let (panics, headers) = (Arc::clone(&self.panics), options.error_headers.clone());
        let thread = thread::Builder::new().name(name).spawn(move || {
            while let Ok(Job::Answer { request, method, make }) = jobs.recv() {
                let made = catch_unwind(AssertUnwindSafe(|| render(make(), method)));
                let answer = made.unwrap_or_else(|_| {
                    panics.fetch_add(1, Ordering::Relaxed);
                    render(internal_error(method, &headers), method)
                });
                write_answer(request, &answer);
            }
            drop(alive);
        })?;
        self.responders.push(thread);
        Ok(())
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServer").field("edge", &self.edge).field("waiting", &self.waiting()).finish()
    }
}

/// One worker thread of a lane.
struct Worker {
    server: Arc<tiny_http::Server>,
    lane: Arc<LaneShared>,
    handler: Arc<dyn Handler>,
    stopping: Arc<AtomicBool>,
    panics: Arc<AtomicU64>,
}

impl Worker {
    fn run(&self) {
        while !self.stopping.load(Ordering::SeqCst) {
            match self.server.recv() {
                Ok(request) if request.url() == PING_TARGET => {
                    write_answer(
                        request,
                        &render(Response::new(204, "text/plain", Vec::new()), Method::Other),
                    );
                }
                Ok(request) => {
                    if catch_unwind(AssertUnwindSafe(|| self.serve(request))).is_err() {
                        self.panics.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Err(_) if self.stopping.load(Ordering::SeqCst) => {}
                // It accepts no further connection; those of the pool live on.
                Err(error) => log::error!("tiny_http stopped accepting: {error}"),
            }
        }
    }

    fn serve(&self, mut request: tiny_http::Request) {
        let method = Method::from_token(request.method().as_str());
        // The edge sends whole requests with the length they have. If a body is cut short nevertheless, the handler
        // never sees it, and the edge knows that it was not done because it could not write it whole.
        let length = request.body_length().unwrap_or(0);
        let mut body = vec![0; length];
        let read = request.as_reader().read_exact(&mut body);
        let (path, query) = match request.url().split_once('?') {
            Some((path, query)) => (path.to_string(), Some(query.to_string())),
            None => (request.url().to_string(), None),
        };
        let mut headers: Vec<(String, String)> = (request.headers().iter())
            .map(|header| {
                (header.field.as_str().as_str().to_ascii_lowercase(), header.value.as_str().to_string())
            })
            .collect();
        let all = headers.len();
        headers.retain(|(name, _)| name != LOOPBACK_HEADER);
        let from_loopback = headers.len() < all;
        let plain = Request { method, path, query, headers, body, from_loopback };
        let reply = Reply { request: Some(request), method, lane: Arc::clone(&self.lane), waiting: false };
        if read.is_ok() {
            self.handler.handle(plain, reply);
        }
    }
}

/// The whole answer, head and body.
fn render(response: Response, method: Method) -> Vec<u8> {
    let mut headers = Vec::with_capacity(response.headers.len() + 2);
    let ours = [("Server", "dkv"), ("Content-Type", response.content_type)];
    let more = response.headers.iter().map(|(name, value)| (*name, value.as_str()));
    for (name, value) in ours.into_iter().chain(more) {
        // tiny_http does not check for line ends. A value with a line end is a bug in dkv: the caller makes it a 500.
        assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')), "header {name} has a bad value");
        headers.push(tiny_http::Header::from_bytes(name, value).expect("ASCII was just checked"));
    }
    let length = response.body.len();
    let mut answer = Vec::with_capacity(256 + length);
    tiny_http::Response::new(response.status.into(), headers, response.body.as_slice(), Some(length), None)
        .with_chunked_threshold(usize::MAX)
        .raw_print(&mut answer, tiny_http::HTTPVersion(1, 1), &[], method.is_head(), None)
        .expect("writing to memory does not fail");
    answer
}

/// One write. An error means that the edge has given up the connection: the answer cannot be delivered.
fn write_answer(request: tiny_http::Request, answer: &[u8]) {
    let mut writer = request.into_writer();
    let _ = writer.write_all(answer).and_then(|()| writer.flush());
}
