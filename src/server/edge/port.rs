//! One port: its lanes, each with a tiny_http server, workers and upstream connections, and the responders.

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use super::inside::Inside;
use super::limits::EdgeLimits;
use super::listener::{Edge, Lane, Requests};
use super::message::{Method, RequestHeader};
use super::reply::{Answers, ErrorHeaders, Job, LaneShared};
use super::run_dir::RunDir;
use super::slot::Slots;
use super::slow_writers::SlowWriters;
use super::stats::{self, EdgeCounters, PortCounters};
use super::upstream::{Upstream, UpstreamOptions};
use super::workers::{Handler, Workers};

/// Most upstream connections of a lane: more would share the wake-ups of tiny_http's threads among fewer requests.
const MOST_UPSTREAMS: usize = 4;

/// Workers of the client port. They never wait, so more than there are cores only take the requests from each other: with
/// twice as many, a read cost an eighth more.
const MOST_WORKERS: usize = 4;

/// One class of connections of a port, with its own tiny_http server and workers.
#[derive(Clone, Debug)]
pub struct LaneOptions {
    /// What a connection's first request says in `Dkv-Lane`. The first lane also takes all connections without this
    /// header.
    pub name: &'static str,
    /// Threads that run the handler.
    pub workers: usize,
    /// Connections to tiny_http.
    pub upstreams: usize,
    /// Whether a thread that is about to flush one lets others run first, so that they add their requests. It pays where
    /// many requests come at a time; on a busy machine it costs the single one its turn.
    pub yields: bool,
    /// Requests that may be inside at a time.
    pub max_inside: usize,
    /// Most requests that [`super::Reply::start_waiting`] lets wait; less than `max_inside`.
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
    /// Threads that write the answers of requests that waited.
    pub responders: usize,
    /// Their name; numbered from 1 when there are more than one.
    pub responder_name: &'static str,
    /// What the edge lets in.
    pub limits: EdgeLimits,
    /// The request headers that the handler reads: it gets no others.
    pub headers: Vec<RequestHeader>,
    /// Whether a request with this method and path may take its connection over ([`super::Reply::take_over`]).
    pub takes_over: fn(Method, &str) -> bool,
    /// Headers of every answer that was not made by a handler.
    pub error_headers: ErrorHeaders,
}

impl PortOptions {
    /// The client port: a worker for each core, 2 to 4 of them, 2 responders, `max_inside` requests at a time, three quarters of which may be waiting.
    pub fn client(run_dir: Arc<RunDir>, max_inside: usize) -> PortOptions {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (upstreams, workers) = (cores.min(MOST_UPSTREAMS), cores.clamp(2, MOST_WORKERS));
        let waiting_limit = max_inside * 3 / 4;
        PortOptions {
            name: "client",
            run_dir,
            lanes: vec![LaneOptions {
                name: "client",
                workers,
                upstreams,
                yields: true,
                max_inside,
                waiting_limit,
            }],
            responders: 2,
            responder_name: "responder",
            limits: EdgeLimits::default(),
            headers: Vec::new(),
            takes_over: |_, _| false,
            error_headers: ErrorHeaders::default(),
        }
    }

    /// The peer port of a cluster of `members`: a lane `core` only for votes and appends, and a lane for everything
    /// else.
    pub fn peer(run_dir: Arc<RunDir>, members: usize) -> PortOptions {
        let lane = |name, max_inside| {
            let waiting_limit = max_inside * 3 / 4;
            LaneOptions { name, workers: 2, upstreams: 1, yields: false, max_inside, waiting_limit }
        };
        PortOptions {
            name: "peer",
            run_dir,
            lanes: vec![lane("bulk", 48), lane("core", (2 * members).max(16))],
            responders: 1,
            responder_name: "peer-responder",
            limits: EdgeLimits { max_body_bytes: 8 << 20, ..EdgeLimits::default() },
            headers: Vec::new(),
            takes_over: |_, _| false,
            error_headers: ErrorHeaders::default(),
        }
    }
}

/// A port that is being served.
pub struct HttpServer {
    name: &'static str,
    edge: Option<Edge>,
    workers: Vec<Workers>,
    /// Outlives the servers: each connects to its own socket to end.
    _run_dir: Arc<RunDir>,
    upstreams: Vec<Arc<Upstream>>,
    counters: Arc<EdgeCounters>,
    answers: Arc<Answers>,
    /// For each lane, its requests.
    inside: Vec<Arc<Inside>>,
    /// For each lane, the number of its waiting requests.
    waiting: Vec<Arc<AtomicUsize>>,
    jobs: channel::Sender<Job>,
    responders: Vec<JoinHandle<()>>,
    monitors: Vec<JoinHandle<()>>,
    /// Disconnected once every worker, responder and monitor has ended.
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
        if options.lanes.is_empty() || options.lanes.iter().any(|lane| lane.upstreams == 0) {
            let text = "a port needs a lane, and a lane an upstream connection";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let most_inside: usize = options.lanes.iter().map(|lane| lane.max_inside).sum();
        // Each request that is inside has one job, and each responder is told to stop.
        let (jobs, inbox) = channel::bounded(most_inside + options.responders);
        let (alive_guard, alive) = channel::bounded(0);
        let counters = Arc::<EdgeCounters>::default();
        let slow_writers = SlowWriters::new(
            format!("writer-{}", options.name),
            options.limits.max_slow_writers,
            Arc::clone(&counters.answers_dropped),
        );
        let answers = Answers {
            slots: Arc::<Slots>::default(),
            limits: options.limits.clone(),
            error_headers: options.error_headers.clone(),
            panics: Arc::<AtomicU64>::default(),
            stopping: AtomicBool::new(false),
            slow_writers: Arc::new(slow_writers),
        };
        let mut server = HttpServer {
            name: options.name,
            edge: None,
            workers: Vec::new(),
            _run_dir: Arc::clone(&options.run_dir),
            upstreams: Vec::new(),
            counters,
            answers: Arc::new(answers),
            inside: Vec::new(),
            waiting: Vec::new(),
            jobs,
            responders: Vec::new(),
            monitors: Vec::new(),
            alive,
        };
        // A failure drops the server, which ends what was started; `alive_guard` must be gone by then.
        server.start_threads(listener, options, &handler, &inbox, alive_guard)?;
        Ok(server)
    }

    fn start_threads(
        &mut self,
        listener: TcpListener,
        options: PortOptions,
        handler: &Arc<dyn Handler>,
        inbox: &channel::Receiver<Job>,
        alive: channel::Sender<()>,
    ) -> io::Result<()> {
        for number in 1..=options.responders {
            let name = match options.responders {
                1 => options.responder_name.to_string(),
                _ => format!("{}-{number}", options.responder_name),
            };
            let (inbox, alive) = (inbox.clone(), alive.clone());
            self.responders.push(thread::Builder::new().name(name).spawn(move || {
                while let Ok(Job::Answer(owed, make)) = inbox.recv() {
                    owed.answer(make);
                }
                drop(alive);
            })?);
        }
        let mut lanes = Vec::new();
        for lane in &options.lanes {
            lanes.push(self.start_lane(lane, &options, handler, &alive)?);
        }
        let (answers, counters) = (Arc::clone(&self.answers), Arc::clone(&self.counters));
        let requests = Requests { wanted: options.headers, takes_over: options.takes_over };
        self.edge = Some(Edge::start(self.name, listener, answers, counters, lanes, requests)?);
        Ok(())
    }

    /// Starts the tiny_http server of one lane, its workers, and the connections to it.
    fn start_lane(
        &mut self,
        lane: &LaneOptions,
        options: &PortOptions,
        handler: &Arc<dyn Handler>,
        alive: &channel::Sender<()>,
    ) -> io::Result<Lane> {
        let full_name = match options.lanes.len() {
            1 => options.name.to_string(),
            _ => format!("{}-{}", options.name, lane.name),
        };
        let socket = options.run_dir.path().join(format!("{full_name}.sock"));
        let shared = Arc::new(LaneShared {
            waiting: Arc::default(),
            waiting_limit: lane.waiting_limit,
            jobs: self.jobs.clone(),
            answers: Arc::clone(&self.answers),
        });
        self.waiting.push(Arc::clone(&shared.waiting));
        let mut workers = Workers::listen(&socket)?;
        let started = workers.start(&full_name, lane.workers, &shared, handler, alive);
        self.workers.push(workers);
        started?;
        let inside = Arc::new(Inside::new(lane.max_inside));
        self.inside.push(Arc::clone(&inside));
        let opening = Arc::<Mutex<()>>::default();
        let mut upstreams = Vec::new();
        for number in 1..=lane.upstreams {
            let answers = Arc::clone(&self.answers);
            let upstream = UpstreamOptions {
                socket: socket.clone(),
                most_inside: lane.max_inside,
                yields: lane.yields,
                inside: Arc::clone(&inside),
                slots: Arc::clone(&self.answers.slots),
                opening: Arc::clone(&opening),
                broken: Arc::clone(&self.counters.upstreams_broken),
                refuse: Box::new(move |ticket| answers.refuse(ticket)),
            };
            let name = format!("up-{full_name}-{number}");
            let (upstream, monitor) = Upstream::start(name, upstream, alive.clone())?;
            self.monitors.push(monitor);
            self.upstreams.push(Arc::clone(&upstream));
            upstreams.push(upstream);
        }
        Ok(Lane { name: lane.name, inside, upstreams })
    }

    /// How many requests are waiting at the moment, over all lanes.
    pub fn waiting(&self) -> usize {
        stats::waiting(&self.waiting)
    }

    /// How many requests are inside at the moment, over all lanes.
    pub fn inside(&self) -> usize {
        stats::inside(&self.inside)
    }

    /// Its counters, which outlive it.
    pub fn counters(&self) -> PortCounters {
        let panics = Arc::clone(&self.answers.panics);
        let (waiting, inside) = (self.waiting.clone(), self.inside.clone());
        PortCounters::new(self.name, Arc::clone(&self.counters), waiting, inside, panics)
    }

    /// How many client connections are open.
    pub fn connections(&self) -> usize {
        self.edge.as_ref().map_or(0, Edge::connections)
    }

    /// How many panics edge, workers and responders have survived. A value above 0 shows a bug.
    pub fn panics(&self) -> u64 {
        self.answers.panics.load(Ordering::Relaxed)
    }

    /// Breaks the connections to tiny_http, as an error would.
    #[cfg(test)]
    pub(super) fn break_upstreams(&self) {
        self.upstreams.iter().for_each(|upstream| upstream.break_off());
    }

    /// Ends the connections to tiny_http: nothing can be handed on any more.
    #[cfg(test)]
    pub(super) fn stop_upstreams(&self) {
        self.upstreams.iter().for_each(|upstream| upstream.stop());
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
        self.upstreams.iter().for_each(|upstream| upstream.stop());
        let deadline = Instant::now() + JOIN_DEADLINE;
        let mut threads: Vec<_> = self.workers.iter_mut().flat_map(Workers::stop).collect();
        for _ in &self.responders {
            let _ = self.jobs.send_deadline(Job::Stop, deadline);
        }
        // Nothing is ever sent: it disconnects when the last thread ends.
        let mut ended = self.alive.recv_deadline(deadline) == Err(channel::RecvTimeoutError::Disconnected);
        ended &= self.answers.slow_writers.stop(deadline);
        threads.extend(self.responders.drain(..).chain(self.monitors.drain(..)));
        if ended {
            threads.into_iter().for_each(|thread| drop(thread.join()));
        } else {
            log::warn!("a worker, responder or writer did not end in time and is left behind");
            drop(threads);
        }
        self.workers.clear();
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
