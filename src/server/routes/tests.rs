//! The client port of a real node, with a handler around it by which a test keeps the threads for lists and counts busy.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::api::ClientApi;
use super::jobs::{Jobs, PoolOptions, Worker};
use super::scans::{self, Scan};
use crate::api::{ErrorBody, ErrorCode, ErrorOutcome};
use crate::config::{Config, Peer};
use crate::server::edge::{self, HttpServer, PortOptions, Response, RunDir};
use crate::server::{Server, StartWait};

const PATIENCE: Duration = Duration::from_secs(60);

/// What the queue of the scans takes in these tests.
const QUEUE: usize = 3;

/// Requests that the port serves at a time.
const UPSTREAM: usize = 16;

/// A scan thread that serves a list only after the test has said so.
struct Held {
    begun: Sender<Instant>,
    go: Receiver<()>,
}

impl Worker<Scan> for Held {
    fn answer(&mut self, scan: Scan, deadline: Instant) -> Result<Response, ErrorBody> {
        self.begun.send(deadline).expect("the test listens");
        self.go.recv_timeout(PATIENCE).expect("the test lets it go");
        scans::serve(scan, deadline)
    }
}

struct Port {
    _port: HttpServer,
    _server: Server,
    address: SocketAddr,
    /// The deadline of each scan that a thread has taken.
    begun: Receiver<Instant>,
    /// One message lets one scan go on.
    go: Sender<()>,
    _dir: tempfile::TempDir,
}

impl Port {
    /// A node of its own, whose scans are held by `threads` threads.
    fn start(threads: usize, request_timeout_ms: u64) -> Port {
        edge::fdlimit::raise().expect("a limit of open files");
        let dir = tempfile::tempdir().expect("a directory");
        // Free at this moment; the addresses of other tests are others.
        let free = || {
            let listener = TcpListener::bind("127.82.0.1:0").expect("a port");
            listener.local_addr().expect("its address").to_string()
        };
        let (raft_addr, http_addr) = (free(), free());
        let config = Config {
            node_id: "n1".to_owned(),
            data_dir: dir.path().join("data"),
            peers: vec![Peer { node_id: "n1".to_owned(), raft_addr, http_addr }],
            request_timeout_ms,
            ..Config::default()
        };
        let mut wait = StartWait::new(PATIENCE, |_| false);
        let server = Server::start(config, false, None, &mut wait).expect("a server");
        let shared = server.shared().clone();
        let until = Instant::now() + PATIENCE;
        while shared.not_ready().is_some() {
            assert!(Instant::now() < until, "the node is not ready: {:?}", shared.not_ready());
            std::thread::sleep(Duration::from_millis(5));
        }
        let ((begun_at, begun), (go, may_go)) = (unbounded(), unbounded());
        let mut api: ClientApi = super::start(&shared).expect("its threads");
        let options = PoolOptions { name: "held", threads, queue: QUEUE, full: "full" };
        let held = || Held { begun: begun_at.clone(), go: may_go.clone() };
        api.scans = Jobs::start(&shared, &options, held).expect("its threads");
        let listener = edge::bind("127.82.0.1:0".parse().expect("an address")).expect("a port");
        let address = listener.local_addr().expect("its address");
        let run_dir = Arc::new(RunDir::prepare(&dir.path().join("run")).expect("a directory"));
        let mut options = PortOptions::client(run_dir, UPSTREAM);
        // As many as the scan threads: were they to hold responders up, nothing would be answered.
        assert_eq!(options.responders, 2);
        options.headers = super::headers();
        let port = HttpServer::start(listener, options, Arc::new(api)).expect("a port");
        Port { _port: port, _server: server, address, begun, go, _dir: dir }
    }

    /// Sends a request; the answer is read later.
    fn send(&self, method: &str, path: &str, body: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}")
            .expect("sent");
        BufReader::new(stream)
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        Answer::read(self.send(method, path, body))
    }

    /// Waits until a thread has taken a scan; its deadline.
    fn next_begun(&self) -> Instant {
        self.begun.recv_timeout(PATIENCE).expect("a thread takes the scan")
    }

    fn let_go(&self, scans: usize) {
        (0..scans).for_each(|_| self.go.send(()).expect("the threads wait"));
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn read(mut from: BufReader<TcpStream>) -> Answer {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(from.read_line(&mut head).expect("an answer") > 0, "closed after {head:?}");
        }
        let field = |name: &str| {
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name))?;
            line.split_once(": ").map(|(_, value)| value.to_owned())
        };
        let length = field("content-length").expect("a length").parse().expect("a number");
        let mut body = vec![0; length];
        from.read_exact(&mut body).expect("a body");
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        Answer { status, head, body }
    }

    fn error(&self) -> (u16, ErrorCode, ErrorOutcome) {
        let body: ErrorBody = serde_json::from_slice(&self.body).expect("an error");
        (self.status, body.error.code, body.error.outcome)
    }
}

/// Two counts over a large store held back the answer of every write: they ran on the two threads that write answers.
#[test]
fn counts_do_not_hold_up_the_answers_of_writes() {
    let port = Port::start(2, 30_000);
    let counts: Vec<_> = (0..2).map(|_| port.send("GET", "/v1/kv?count_only=true", "")).collect();
    for _ in 0..2 {
        port.next_begun();
    }
    for n in 0..20 {
        let key = format!("/v1/kv/k{n}");
        assert_eq!(port.ask("PUT", &key, "v").status, 200, "write {n} while both scan threads are busy");
        assert_eq!(port.ask("GET", &key, "").body, b"v");
        assert_eq!(port.ask("GET", "/healthz", "").status, 200);
    }
    port.let_go(2);
    for count in counts {
        let answer = Answer::read(count);
        assert_eq!(answer.status, 200);
        assert!(String::from_utf8_lossy(&answer.body).contains(r#""count":20"#), "they look when they may");
    }
}

#[test]
fn a_list_that_finds_the_queue_full_is_overloaded_at_once() {
    let port = Port::start(1, 30_000);
    let mut lists = vec![port.send("GET", "/v1/kv?prefix=a", "")];
    port.next_begun();
    lists.extend((0..QUEUE).map(|_| port.send("GET", "/v1/kv?prefix=a", "")));
    // They come into the queue in their own time, all of them before it is full. A refused one takes no place.
    let refused = loop {
        let probe = port.send("GET", "/v1/kv?consistency=stale&limit=1", "");
        probe.get_ref().set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        let mut byte = [0; 1];
        match probe.get_ref().peek(&mut byte) {
            Ok(_) => break Answer::read(probe),
            // It found a place: the queue has one less now.
            Err(_) => lists.push(probe),
        }
        assert!(lists.len() < UPSTREAM, "the queue takes no end");
    };
    assert_eq!(refused.error(), (503, ErrorCode::Overloaded, ErrorOutcome::NotDone));
    assert!(refused.head.contains("\r\nRetry-After: 1\r\n"), "{}", refused.head);
    assert!(refused.head.contains("\r\nDkv-Node: n1\r\n"), "{}", refused.head);
    port.let_go(lists.len());
    let answered = lists.into_iter().map(|list| {
        list.get_ref().set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Answer::read(list).status
    });
    let answered: Vec<u16> = answered.collect();
    let served = answered.iter().filter(|status| **status == 200).count();
    assert_eq!(served, 1 + QUEUE, "every place is served, and no more: {answered:?}");
}

#[test]
fn a_list_whose_time_is_over_in_the_queue_is_not_begun() {
    let port = Port::start(1, 100);
    let lists = [(); 2].map(|()| port.send("GET", "/v1/kv?consistency=stale", ""));
    for _ in 0..lists.len() {
        let deadline = port.next_begun();
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        port.let_go(1);
    }
    for list in lists {
        assert_eq!(Answer::read(list).error(), (504, ErrorCode::Timeout, ErrorOutcome::NotDone));
    }
}
