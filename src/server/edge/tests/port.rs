//! The port, the handler and the clients of the tests next to it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::server::edge::{
    Handler, HttpServer, PortOptions, PortStats, Reply, Request, Response, RunDir, bind,
};

pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Counts how often each path was handled. `/hold` keeps the worker until the test says so, `/wait` keeps the reply.
struct Counting {
    ran: Mutex<BTreeMap<String, usize>>,
    held: Sender<()>,
    go: Receiver<()>,
    waiting: Sender<Reply>,
}

pub(super) fn text(status: u16, body: impl Into<Vec<u8>>) -> Response {
    Response::new(status, "text/plain", body.into())
}

impl Handler for Counting {
    fn handle(&self, request: Request, mut reply: Reply) {
        *self.ran.lock().expect("no panic").entry(request.path.clone()).or_default() += 1;
        match request.path.as_str() {
            "/hold" => {
                self.held.send(()).expect("the test listens");
                self.go.recv_timeout(PATIENCE).expect("the test lets it go");
                reply.send(|| text(200, "held"));
            }
            path if path.starts_with("/wait") => {
                assert!(reply.start_waiting());
                self.waiting.send(reply).expect("the test listens");
            }
            "/big" => reply.send(|| text(200, vec![b'x'; 8 << 20])),
            "/big-waits" => {
                assert!(reply.start_waiting());
                reply.send(|| text(200, vec![b'x'; 8 << 20]));
            }
            _ => reply.send(move || text(200, request.body)),
        }
    }
}

pub(super) struct Port {
    pub(super) server: Option<HttpServer>,
    handler: Arc<Counting>,
    address: SocketAddr,
    held: Receiver<()>,
    go: Sender<()>,
    pub(super) waiting: Receiver<Reply>,
    _dir: tempfile::TempDir,
}

impl Port {
    /// With one worker.
    pub(super) fn start(change: impl FnOnce(&mut PortOptions)) -> Port {
        let dir = tempfile::tempdir().expect("a directory");
        let run_dir = Arc::new(RunDir::prepare(&dir.path().join("run")).expect("a directory"));
        let mut options = PortOptions::client(run_dir, 64);
        options.lanes[0].workers = 1;
        change(&mut options);
        let listener = bind("127.83.0.1:0".parse().expect("an address")).expect("a port");
        let address = listener.local_addr().expect("its address");
        let ((held_at, held), (go, may_go), (waits, waiting)) = (unbounded(), unbounded(), unbounded());
        let handler = Arc::new(Counting { ran: Mutex::default(), held: held_at, go: may_go, waiting: waits });
        let server = HttpServer::start(listener, options, Arc::clone(&handler) as _).expect("a port");
        Port { server: Some(server), handler, address, held, go, waiting, _dir: dir }
    }

    pub(super) fn server(&self) -> &HttpServer {
        self.server.as_ref().expect("it runs")
    }

    pub(super) fn stats(&self) -> PortStats {
        self.server().counters().stats()
    }

    pub(super) fn ran(&self, path: &str) -> usize {
        self.handler.ran.lock().expect("no panic").get(path).copied().unwrap_or(0)
    }

    /// Waits until the handler has answered this many requests, and no other is inside.
    pub(super) fn wait_until_ran(&self, path: &str, times: usize) {
        self.wait_for("the handler has answered", |stats| stats.inside == 0 && self.ran(path) == times);
    }

    pub(super) fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Client { stream, input: Vec::new() }
    }

    /// Keeps the only worker busy; the client gets its answer when the test lets it go.
    pub(super) fn hold(&self) -> Client {
        let mut client = self.client();
        client.put("/hold", "");
        self.held.recv_timeout(PATIENCE).expect("the worker holds");
        client
    }

    pub(super) fn let_go(&self) {
        self.go.send(()).expect("the worker waits");
    }

    pub(super) fn next_reply(&self) -> Reply {
        self.waiting.recv_timeout(PATIENCE).expect("a request waits")
    }

    pub(super) fn wait_for(&self, what: &str, mut condition: impl FnMut(&PortStats) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !condition(&self.stats()) {
            assert!(Instant::now() < end, "waited too long: {what}: {:?}", self.stats());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

pub(super) struct Client {
    pub(super) stream: TcpStream,
    pub(super) input: Vec<u8>,
}

impl Client {
    pub(super) fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("sent");
    }

    /// Whether the server still took it.
    pub(super) fn try_send(&mut self, text: &str) -> bool {
        self.stream.write_all(text.as_bytes()).is_ok()
    }

    pub(super) fn put(&mut self, path: &str, body: &str) {
        self.send(&format!("PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    }

    pub(super) fn get(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
    }

    /// Head and body of the next answer; `None` when the connection ends instead.
    pub(super) fn answer(&mut self) -> Option<(String, String)> {
        let head_end = loop {
            match self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.fill()?,
            }
        };
        let head = String::from_utf8(self.input.drain(..head_end).collect()).expect("text");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length = length.map_or(0, |length| length.parse().expect("a number"));
        while self.input.len() < length {
            self.fill()?;
        }
        Some((head, String::from_utf8(self.input.drain(..length).collect()).expect("text")))
    }

    pub(super) fn fill(&mut self) -> Option<()> {
        let mut bytes = vec![0; 65_536];
        match self.stream.read(&mut bytes) {
            Ok(0) => None,
            Ok(read) => {
                self.input.extend_from_slice(&bytes[..read]);
                Some(())
            }
            Err(error) => {
                assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "neither an answer nor an end");
                None
            }
        }
    }

    pub(super) fn body(&mut self) -> String {
        let (head, body) = self.answer().expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}{body}");
        body
    }

    /// Status, code and outcome of an error.
    pub(super) fn error(&mut self) -> (u16, String, String) {
        let (head, body) = self.answer().expect("an answer");
        let json: serde_json::Value = serde_json::from_str(&body).expect("an error in JSON");
        let field = |name: &str| json["error"][name].as_str().expect("a string").to_owned();
        (head[9..12].parse().expect("a status"), field("code"), field("outcome"))
    }

    pub(super) fn is_closed(&mut self) -> bool {
        self.answer().is_none()
    }

    pub(super) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("an option");
    }
}

pub(super) fn error(status: u16, code: &str, outcome: &str) -> (u16, String, String) {
    (status, code.to_owned(), outcome.to_owned())
}
