//! The HTTP edge against good, bad and very bad clients, with a trivial handler behind it.
//!
//! Nothing here measures speed. Every wait has a deadline that only a hang can meet.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use dkv::server::edge::{
    self, ErrorHeaders, Handler, HttpServer, Method, PortOptions, Reply, Request, RequestHeader, Response,
    RunDir, fdlimit,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Some tests count threads and descriptors of this process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A map in memory, and a few routes that misbehave.
struct Memory {
    values: Mutex<HashMap<String, Vec<u8>>>,
    waiting: Mutex<Sender<(Request, Reply)>>,
}

fn text(status: u16, body: impl Into<Vec<u8>>) -> Response {
    Response::new(status, "text/plain", body.into())
}

impl Handler for Memory {
    fn handle(&self, request: Request, mut reply: Reply) {
        match (request.method, request.path.as_str()) {
            (_, "/panic") => panic!("the handler panics, as the test asked"),
            (_, "/panic-late") => reply.send(|| panic!("the answer panics, as the test asked")),
            (_, "/bad-header") => reply.send(|| text(200, "").with_header("X-Bad", "a\r\nX-Injected: 1")),
            (_, "/forget") => drop(reply),
            (_, "/wait") => {
                if reply.start_waiting() {
                    self.waiting.lock().unwrap().send((request, reply)).unwrap();
                } else {
                    reply.send(|| text(503, "waiting enough"));
                }
            }
            (_, "/echo") => reply.send(move || {
                let headers: Vec<String> = request
                    .headers
                    .iter()
                    .map(|(header, value)| format!("{}: {value}\n", header.name()))
                    .collect();
                text(200, format!("{:?} {:?}\n{}", request.method, request.query, headers.concat()))
            }),
            (Method::Get | Method::Head, path) => {
                let value = self.values.lock().unwrap().get(path).cloned();
                reply.send(move || value.map_or(text(404, "absent"), |value| text(200, value)));
            }
            (Method::Put, path) => {
                self.values.lock().unwrap().insert(path.to_string(), request.body);
                reply.send(|| text(200, "stored"));
            }
            _ => reply.send(|| text(405, "no")),
        }
    }
}

struct Port {
    server: Option<HttpServer>,
    address: SocketAddr,
    waiting: Receiver<(Request, Reply)>,
    _dir: tempfile::TempDir,
}

impl Port {
    fn start(max_inside: usize, change: impl FnOnce(&mut PortOptions)) -> Port {
        fdlimit::raise().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let run_dir = Arc::new(RunDir::prepare(&dir.path().join("run")).unwrap());
        let mut options = PortOptions::client(run_dir, max_inside);
        options.error_headers = ErrorHeaders::new(|| vec![("Dkv-Node", "n1".to_string())]);
        options.headers = vec![RequestHeader::IfMatch];
        change(&mut options);
        let listener = edge::bind("127.81.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, waiting) = channel();
        let handler = Memory { values: Mutex::default(), waiting: Mutex::new(sender) };
        let server = HttpServer::start(listener, options, Arc::new(handler)).unwrap();
        Port { server: Some(server), address, waiting, _dir: dir }
    }

    fn server(&self) -> &HttpServer {
        self.server.as_ref().unwrap()
    }

    fn client(&self) -> Client {
        Client::connect(self.address)
    }

    fn shutdown(&mut self) {
        self.server.take().unwrap().shutdown(PATIENCE);
    }
}

struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn closes(&self) -> bool {
        self.head.contains("\r\nConnection: close\r\n")
    }

    /// Code and outcome of an error in the API's form.
    fn error(&self) -> (String, String) {
        let json: serde_json::Value = serde_json::from_slice(&self.body).expect("an error in JSON");
        let field = |name: &str| json["error"][name].as_str().expect("a string").to_string();
        assert!(!field("message").is_empty());
        (field("code"), field("outcome"))
    }

    fn is_error(&self, status: u16, code: &str, outcome: &str) -> bool {
        self.status == status && self.error() == (code.to_string(), outcome.to_string())
    }
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client { stream, input: Vec::new() }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    fn put(&mut self, path: &str, body: &[u8]) -> Answer {
        let mut request =
            format!("PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        request.extend_from_slice(body);
        self.send(request);
        self.answer(false)
    }

    fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        self.answer(false)
    }

    /// One answer; panics when the server closes or is silent instead.
    fn answer(&mut self, bodiless: bool) -> Answer {
        self.try_answer(bodiless).expect("an answer")
    }

    fn try_answer(&mut self, bodiless: bool) -> io::Result<Answer> {
        let head_end = loop {
            if let Some(at) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.fill()?;
        };
        let head = String::from_utf8(self.input.drain(..head_end).collect()).unwrap();
        let status = head[9..12].parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = match length {
            Some(length) if !bodiless => length.parse().unwrap(),
            None if status != 100 => panic!("an answer without length: {head}"),
            _ => 0,
        };
        while self.input.len() < length {
            self.fill()?;
        }
        Ok(Answer { status, head, body: self.input.drain(..length).collect() })
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16384];
        match self.stream.read(&mut bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.input.extend_from_slice(&bytes[..read]);
                Ok(())
            }
        }
    }

    /// Waits for the server to close; whether it did, without sending more.
    fn closed(&mut self) -> bool {
        self.input.is_empty() && self.fill().is_err_and(|error| !is_timeout(&error))
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Threads and descriptors of this process.
fn level() -> (usize, usize) {
    let entries = |directory: &str| std::fs::read_dir(directory).unwrap().count();
    (entries("/proc/self/task"), entries("/proc/self/fd"))
}

#[test]
fn keep_alive_256_connections_at_once_all_served_on_ten_fresh_starts() {
    let _alone = alone();
    const CLIENTS: usize = 256;
    for start in 0..10 {
        let mut port = Port::start(512, |_| {});
        let barrier = Barrier::new(CLIENTS);
        thread::scope(|scope| {
            let serve = |number| {
                let (address, barrier) = (port.address, &barrier);
                let client = move || {
                    barrier.wait();
                    let mut client = Client::connect(address);
                    let (path, value) = (format!("/v1/kv/{number}"), format!("value {start} {number}"));
                    assert_eq!(client.put(&path, value.as_bytes()).status, 200);
                    let answer = client.get(&path);
                    assert_eq!((answer.status, answer.text()), (200, value));
                    client
                };
                thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, client).unwrap()
            };
            let threads: Vec<_> = (0..CLIENTS).map(serve).collect();
            // All stay open until all are served: none gets its turn because another one left.
            let clients: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
            assert!(clients.iter().all(|client| client.is_ok()), "start {start}: some were not served");
        });
        assert_eq!(port.server().panics(), 0);
        port.shutdown();
    }
}

/// Requests that another reader could understand differently, or that are simply wrong: refused and closed.
#[rustfmt::skip]
const MALFORMED: &[(&str, u16)] = &[
    // Body length.
    ("PUT /a HTTP/1.1\r\nHost: h\r\n\r\n", 411),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\ncontent-length: 2\r\n\r\nxx", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\nx", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\nx", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\nx", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0x1\r\n\r\nx", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1 1\r\n\r\nx", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1.0\r\n\r\nx", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: abc\r\n\r\nGET /b HTTP/1.1\r\n\r\n", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\nx", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000000000\r\n\r\nx", 413),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\nx", 413),
    ("GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1572865\r\n\r\nx", 413),
    // Transfer codings.
    ("PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    ("GET /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n", 411),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nX: y\r\n Content-Length: 5\r\n\r\n0\r\n\r\n", 400),
    // Line ends and bytes.
    ("GET /a HTTP/1.1\nHost: h\n\n", 400),
    ("GET /a HTTP/1.1\r\nHost: h\r\nX: a\nContent-Length: 5\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nHost: h\r\nX: a\rContent-Length: 5\r\n\r\n", 400),
    ("\r\n\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("\r\n GET /a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("\rGET /a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nHost: h\r\nX: \u{fc}\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nHost: h\r\nX\u{fc}: a\r\n\r\n", 400),
    // Headers.
    ("GET /a HTTP/1.1\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nHost: u@h\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nHost: h i\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nHost: h\r\n: no name\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nHost : h\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\n Host: h\r\n\r\n", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 200-ok\r\n\r\n", 400),
    ("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue, 200-ok\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nHost: h\r\nDkv-Lane: core\r\nDkv-Lane: bulk\r\n\r\n", 400),
    // Request line.
    ("GET /a\r\nHost: h\r\n\r\n", 400),
    ("GET  /a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET /a  HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET /a HTTP/1.1 \r\nHost: h\r\n\r\n", 400),
    ("GET /a HTTP/1.10\r\nHost: h\r\n\r\n", 400),
    ("GET /a http/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET\t/a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("G(T /a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET /\u{fc} HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET http://h/a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET /a HTTP/2.0\r\nHost: h\r\n\r\n", 505),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("GET /a HTTP/0.9\r\nHost: h\r\n\r\n", 505),
    ("GET /a HTTP/1.2\r\nHost: h\r\n\r\n", 505),
];

#[test]
fn malformed_requests_are_refused_and_the_connection_closed() {
    let _alone = alone();
    let mut port = Port::start(64, |_| {});
    for (request, status) in MALFORMED {
        let mut client = port.client();
        // A second request after each: whoever misjudges the end of the first one answers it, too.
        client.send(format!("{request}GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"));
        let answer = client.answer(false);
        let code = if matches!(status, 413 | 431) { "too_large" } else { "invalid_request" };
        assert!(answer.is_error(*status, code, "not_done"), "{request:?}: {} {}", answer.head, answer.text());
        assert!(answer.closes() && answer.head.contains("\r\nDkv-Node: n1\r\n"), "{}", answer.head);
        assert!(client.closed(), "{request:?}");
    }
    assert_eq!(port.server().panics(), 0);
    port.shutdown();
}

#[test]
fn head_limits_are_32_kib_and_64_headers() {
    let _alone = alone();
    let mut port = Port::start(64, |_| {});
    let with_headers =
        |count: usize| format!("GET /echo HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(count));
    let with_bytes = |bytes: usize| {
        let rest = "GET /echo?x= HTTP/1.1\r\nHost: h\r\n\r\n".len();
        format!("GET /echo?x={} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(bytes - rest))
    };
    for (request, status) in [
        (with_headers(63), 200),
        (with_headers(64), 431),
        (with_bytes(32 * 1024), 200),
        (with_bytes(32 * 1024 + 1), 431),
    ] {
        let mut client = port.client();
        client.send(&request);
        assert_eq!(client.answer(false).status, status, "{} bytes", request.len());
    }
    port.shutdown();
}

#[test]
fn bodies_of_every_size_class_arrive_whole() {
    let _alone = alone();
    let mut port = Port::start(64, |_| {});
    let mut client = port.client();
    // Around tiny_http's buffers (1,024 and 32 KiB), the edge's (8 KiB) and the limit of 1.5 MiB.
    for length in [0, 1, 1023, 1024, 1025, 8192, 32_767, 32_768, 32_769, 300_000, 1_572_864] {
        let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        assert_eq!(client.put("/big", &body).status, 200, "{length}");
        let answer = client.get("/big");
        assert!(answer.body == body, "{length}: got {}", answer.body.len());
    }
    port.shutdown();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let _alone = alone();
    let mut port = Port::start(64, |_| {});
    let mut client = port.client();
    let mut requests = String::new();
    for number in 0..100 {
        let body = "x".repeat(number * 40);
        let length = body.len();
        requests.push_str(&format!(
            "PUT /{number} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        requests.push_str(&format!("GET /{number} HTTP/1.1\r\nHost: h\r\n\r\n"));
    }
    let mut writer = client.stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || writer.write_all(requests.as_bytes()).unwrap());
        for number in 0..100 {
            assert_eq!(client.answer(false).text(), "stored");
            assert_eq!(client.answer(false).body.len(), number * 40);
        }
    });
    port.shutdown();
}

/// A client that ends every body with a line end was refused (RFC 9112 §2.2).
#[test]
fn an_empty_line_before_a_request_line_is_skipped() {
    let _alone = alone();
    let mut port = Port::start(64, |options| options.limits.head_timeout = Duration::from_millis(300));
    let mut client = port.client();
    for value in ["one", "two"] {
        client.send(format!("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n{value}\r\n"));
        assert_eq!(client.answer(false).text(), "stored");
        // The line alone is no request that has begun: it may be silent for longer than a head may take.
        thread::sleep(Duration::from_millis(600));
        assert_eq!(client.get("/a").text(), value);
    }
    // In pieces, and before the first request of a connection.
    let mut client = port.client();
    for byte in b"\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.answer(false).text(), "two");
    // One, not as many as a client likes to send.
    let mut client = port.client();
    for _ in 0..3 {
        client.send("\r\n");
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(client.answer(false).status, 400);
    assert!(client.closed());
    port.shutdown();
}

#[test]
fn head_expect_close_and_old_versions_work_by_the_book() {
    let _alone = alone();
    let mut port = Port::start(64, |_| {});
    let mut client = port.client();
    client.put("/a", b"seven");

    client.send("HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n");
    let head = client.answer(true);
    assert!(head.status == 200 && head.head.contains("\r\nContent-Length: 5\r\n"), "{}", head.head);
    assert_eq!(client.get("/a").text(), "seven");

    client.send("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.answer(false).status, 100);
    client.send("two");
    assert_eq!(client.answer(false).text(), "stored");
    assert_eq!(client.get("/a").text(), "two");

    // Too large is said before the body is asked for.
    client.send("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.answer(false).status, 413);
    assert!(client.closed());

    // A byte at a time is slow, not wrong.
    let mut client = port.client();
    for byte in b"GET /echo?a=b&c HTTP/1.1\r\nHost: h\r\nIf-Match: \"7\"\r\nTE: chunked\r\n\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.answer(false).text(), "Get Some(\"a=b&c\")\nif-match: \"7\"\n");

    client.send("GET /a HTTP/1.1\r\nHost: h\r\nConnection: Close\r\n\r\n");
    let last = client.answer(false);
    assert!(last.closes() && last.text() == "two" && client.closed());

    let mut client = port.client();
    client.send("GET /a HTTP/1.0\r\n\r\n");
    let last = client.answer(false);
    assert!(last.closes() && last.text() == "two" && client.closed());
    port.shutdown();
}

#[test]
fn parked_requests_are_answered_from_another_thread_in_any_order() {
    let _alone = alone();
    let mut port = Port::start(16, |_| {});
    let mut clients: Vec<Client> = (0..12).map(|_| port.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("GET /wait?{number} HTTP/1.1\r\nHost: h\r\n\r\n"));
    }
    let mut waiting: Vec<(Request, Reply)> =
        (0..12).map(|_| port.waiting.recv_timeout(PATIENCE).unwrap()).collect();
    assert_eq!(port.server().waiting(), 12);
    // Three quarters are waiting: one more is refused, what does not wait still passes.
    let mut other = port.client();
    assert_eq!(other.get("/wait").status, 503);
    assert_eq!(other.put("/a", b"x").status, 200);
    waiting.reverse();
    thread::spawn(move || {
        for (request, reply) in waiting {
            reply.send(move || text(200, request.query.unwrap()));
        }
    });
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.answer(false).text(), number.to_string());
    }
    assert_eq!(port.server().waiting(), 0);
    port.shutdown();
}

#[test]
fn requests_inside_at_their_limit_is_overloaded_and_passes() {
    let _alone = alone();
    let mut port = Port::start(2, |options| {
        options.lanes[0].waiting_limit = 2;
        options.limits.entry_wait = Duration::from_millis(50);
    });
    let (mut first, mut second, mut third) = (port.client(), port.client(), port.client());
    first.send("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
    second.send("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
    let waiting: Vec<_> = (0..2).map(|_| port.waiting.recv_timeout(PATIENCE).unwrap()).collect();
    let refused = third.put("/a", b"x");
    assert!(refused.is_error(503, "overloaded", "not_done"), "{}", refused.text());
    assert!(refused.head.contains("\r\nRetry-After: 1\r\n") && !refused.closes(), "{}", refused.head);
    for (_, reply) in waiting {
        reply.send(|| text(200, "late"));
    }
    assert_eq!(first.answer(false).text(), "late");
    assert_eq!(second.answer(false).text(), "late");
    assert_eq!(third.get("/a").status, 404);
    port.shutdown();
}

#[test]
fn those_who_wait_for_a_place_are_served_when_one_comes_back() {
    let _alone = alone();
    let mut port = Port::start(1, |options| {
        options.lanes[0].waiting_limit = 1;
        options.limits.entry_wait = PATIENCE;
    });
    let mut holder = port.client();
    holder.send("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
    let (_, reply) = port.waiting.recv_timeout(PATIENCE).unwrap();
    let mut waiting: Vec<Client> = (0..20).map(|_| port.client()).collect();
    for (number, client) in waiting.iter_mut().enumerate() {
        client.send(format!("PUT /{number} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"));
    }
    reply.send(|| text(200, "done"));
    for client in &mut waiting {
        assert_eq!(client.answer(false).text(), "stored");
    }
    port.shutdown();
}

#[test]
fn no_answer_in_time_is_unknown_for_writes_and_not_done_for_reads() {
    let _alone = alone();
    let mut port = Port::start(2, |options| {
        options.lanes[0].waiting_limit = 100;
        options.limits.answer_timeout = Duration::from_millis(100);
        options.limits.entry_wait = PATIENCE;
    });
    let mut client = port.client();
    let write = client.put("/wait", b"");
    assert!(write.is_error(504, "outcome_unknown", "unknown"), "{}", write.text());
    let read = client.get("/wait");
    assert!(read.is_error(504, "timeout", "not_done"), "{}", read.text());
    // What the handler still holds is inside still; its late answers reach nobody.
    assert_eq!(port.server().inside(), 2);
    for _ in 0..2 {
        port.waiting.recv_timeout(PATIENCE).unwrap().1.send(|| text(200, "too late"));
    }
    port.server.take().unwrap().shutdown(PATIENCE);
}

#[test]
fn a_late_answer_reaches_no_later_request() {
    let _alone = alone();
    let mut port = Port::start(2, |options| {
        options.lanes[0].waiting_limit = 100;
        options.limits.answer_timeout = Duration::from_secs(2);
        options.limits.entry_wait = PATIENCE;
    });
    let mut client = port.client();
    assert_eq!(client.put("/wait", b"").status, 504);
    let (_, late) = port.waiting.recv_timeout(PATIENCE).unwrap();
    assert_eq!(client.put("/a", b"x").text(), "stored");
    late.send(|| text(200, "too late"));
    for _ in 0..5 {
        assert_eq!(client.get("/a").text(), "x");
    }
    port.shutdown();
}

#[test]
fn panics_and_forgotten_replies_answer_500_and_are_counted() {
    let _alone = alone();
    let mut port = Port::start(64, |_| {});
    let mut client = port.client();
    for (route, panics) in [("/panic", 1), ("/panic-late", 2), ("/bad-header", 3), ("/forget", 3)] {
        let write = client.put(route, b"x");
        assert!(write.is_error(500, "internal", "unknown"), "{route}: {}", write.text());
        assert!(!write.head.contains("X-Injected") && write.head.contains("\r\nDkv-Node: n1\r\n"));
        // A panic of the handler is counted just after its answer.
        wait_for("the panic is counted", || port.server().panics() == panics);
    }
    assert!(client.get("/panic").is_error(500, "internal", "not_done"));
    // Every worker and responder is still there.
    for _ in 0..20 {
        assert_eq!(client.put("/panic", b"").status, 500);
        assert_eq!(client.put("/panic-late", b"").status, 500);
    }
    assert_eq!(client.put("/a", b"x").status, 200);
    port.shutdown();
}

#[test]
fn slow_clients_meet_their_deadlines() {
    let _alone = alone();
    let mut port = Port::start(64, |options| {
        options.limits.head_timeout = Duration::from_millis(100);
        options.limits.body_timeout = Duration::from_millis(100);
        options.limits.min_bytes_per_s = 16 << 20;
        options.limits.idle_timeout = Duration::from_millis(300);
        options.limits.write_timeout = Duration::from_millis(300);
    });
    let mut head = port.client();
    head.send("GET /a HTTP/1.1\r\nHost:");
    let mut body = port.client();
    body.send("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf");
    for client in [&mut head, &mut body] {
        let answer = client.answer(false);
        assert!(answer.is_error(408, "invalid_request", "not_done"), "{}", answer.text());
        assert!(client.closed());
    }
    // A drip does not help: the deadline is for the whole head.
    let mut drip = port.client();
    drip.send("GET /");
    wait_for("the dripping client is cut off", || drip.stream.write_all(b"x").is_err());
    // Silence before and between requests ends without a word.
    assert!(port.client().closed());
    let mut silent = port.client();
    silent.put("/a", b"x");
    assert!(silent.closed());
    port.shutdown();
}

#[test]
fn deaf_client_is_given_up() {
    let _alone = alone();
    let mut port = Port::start(64, |options| options.limits.write_timeout = Duration::from_millis(300));
    let mut deaf = port.client();
    assert_eq!(deaf.put("/big", &vec![b'x'; 1_500_000]).status, 200);
    // Far more than the socket buffers hold, and never read.
    deaf.send("GET /big HTTP/1.1\r\nHost: h\r\n\r\n".repeat(50));
    wait_for("the deaf client is given up", || port.server().connections() == 0);
    assert_eq!(port.client().put("/a", b"x").status, 200);
    port.shutdown();
}

#[test]
fn connections_above_the_cap_are_told_so() {
    let _alone = alone();
    let mut port = Port::start(16, |options| options.limits.max_connections = 10);
    let mut clients: Vec<Client> = (0..10).map(|_| port.client()).collect();
    for client in &mut clients {
        assert_eq!(client.put("/a", b"x").status, 200);
    }
    for _ in 0..20 {
        let mut client = port.client();
        client.send("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
        let answer = client.answer(false);
        assert!(answer.is_error(503, "overloaded", "not_done"), "{}", answer.text());
        assert!(answer.closes() && client.closed());
    }
    clients.truncate(5);
    wait_for("the closed ones are gone", || port.server().connections() == 5);
    assert_eq!(port.client().put("/a", b"x").status, 200);
    port.shutdown();
}

/// What the clients of a storm meet.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// They get this status.
    Answered(u16),
    /// They get this status, or lose the connection while they are still sending.
    AnsweredOrCut(u16),
    /// They reset the connection themselves, without waiting.
    Reset,
}

/// 20 clients of one kind at once, until the last of them is gone.
fn storm(port: &Port, name: &str, request: &[u8], fate: Fate) {
    let mut clients: Vec<Client> = (0..20).map(|_| port.client()).collect();
    for client in &mut clients {
        let sent = client.stream.write_all(request);
        assert!(sent.is_ok() || matches!(fate, Fate::AnsweredOrCut(_)), "{name}: {sent:?}");
    }
    for mut client in clients {
        if fate == Fate::Reset {
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
            continue;
        }
        match (client.try_answer(false), fate) {
            (Ok(answer), Fate::Answered(status) | Fate::AnsweredOrCut(status)) => {
                assert_eq!(answer.status, status, "{name}")
            }
            (Err(error), Fate::AnsweredOrCut(_)) if !is_timeout(&error) => {}
            (result, fate) => panic!("{name}: {result:?} instead of {fate:?}"),
        }
    }
    wait_for("all are gone", || port.server().connections() == 0);
}

#[test]
fn hostile_storms_leave_no_thread_and_no_descriptor_behind() {
    let _alone = alone();
    let mut port = Port::start(64, |options| {
        options.limits.head_timeout = Duration::from_millis(300);
        options.limits.body_timeout = Duration::from_millis(300);
    });
    let good: &[u8] = b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx";
    storm(&port, "good", good, Fate::Answered(200));
    // Threads of an earlier test's tiny_http end by themselves after 5 s: wait for a level that holds.
    let (mut steady, mut since) = (level(), Instant::now());
    wait_for("a steady level", || {
        if steady != level() {
            (steady, since) = (level(), Instant::now());
        }
        since.elapsed() > Duration::from_millis(5500)
    });

    let mut endless = b"GET /a HTTP/1.1\r\nHost: h\r\nX: ".to_vec();
    endless.resize(100_000, b'x');
    let long: &[u8] = b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000000000\r\n\r\nx";
    let half: &[u8] = b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf";
    let storms: [(&str, &[u8], Fate); 8] = [
        ("declared length", long, Fate::Answered(413)),
        ("HTTP/2.0", b"GET / HTTP/2.0\r\n\r\n", Fate::Answered(505)),
        ("endless head", &endless, Fate::AnsweredOrCut(431)),
        ("half a body", half, Fate::Answered(408)),
        ("half a head", b"PUT /a HTT", Fate::Answered(408)),
        ("reset at once", b"", Fate::Reset),
        ("reset after a request", good, Fate::Reset),
        ("reset in a body", half, Fate::Reset),
    ];
    for (name, request, fate) in storms {
        storm(&port, name, request, fate);
        storm(&port, "good", good, Fate::Answered(200));
        let is_back = |(threads, descriptors)| threads <= steady.0 && descriptors <= steady.1;
        wait_for(&format!("{name}: threads and descriptors are back"), || is_back(level()));
    }
    assert_eq!(port.server().panics(), 0);
    port.shutdown();
}

#[test]
fn lanes_do_not_share_connections() {
    let _alone = alone();
    let mut port = Port::start(64, |options| {
        options.lanes = PortOptions::peer(Arc::clone(&options.run_dir), 5).lanes;
        options.lanes[0].max_inside = 1;
        options.limits.entry_wait = Duration::from_millis(50);
    });
    let (mut bulk, mut core) = (port.client(), port.client());
    bulk.send("GET /wait HTTP/1.1\r\nHost: h\r\nDkv-Lane: bulk\r\n\r\n");
    let (_, reply) = port.waiting.recv_timeout(PATIENCE).unwrap();
    assert_eq!(port.client().get("/a").status, 503, "no lane named: the first one");
    core.send("PUT /a HTTP/1.1\r\nHost: h\r\nDkv-Lane: core\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(core.answer(false).text(), "stored");
    // The first request decides for the connection.
    assert_eq!(core.get("/a").text(), "x");
    reply.send(|| text(200, "done"));
    assert_eq!(bulk.answer(false).text(), "done");
    port.shutdown();
}

#[test]
fn shutdown_answers_what_is_in_flight_and_ends_the_rest() {
    let _alone = alone();
    let mut port = Port::start(64, |_| {});
    let mut idle = port.client();
    idle.put("/a", b"x");
    let mut half = port.client();
    half.send("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf");
    let mut busy = port.client();
    busy.send("PUT /wait HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
    let (_, reply) = port.waiting.recv_timeout(PATIENCE).unwrap();
    wait_for("all three are being served", || port.server().connections() == 3);

    let address = port.address;
    let server = port.server.take().unwrap();
    let stopper = thread::spawn(move || server.shutdown(PATIENCE));
    assert!(idle.closed());
    let refused = half.answer(false);
    assert!(refused.is_error(503, "unavailable", "not_done"), "{}", refused.text());
    wait_for("new connections are refused", || TcpStream::connect(address).is_err());
    reply.send(|| text(200, "just in time"));
    let answer = busy.answer(false);
    assert!(answer.closes() && answer.text() == "just in time");
    stopper.join().unwrap();
}

#[test]
fn shutdown_without_grace_leaves_a_waiting_write_unknown() {
    let _alone = alone();
    let mut port = Port::start(64, |_| {});
    let mut busy = port.client();
    busy.send("PUT /wait HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
    let (_, reply) = port.waiting.recv_timeout(PATIENCE).unwrap();
    port.server.take().unwrap().shutdown(Duration::ZERO);
    let answer = busy.answer(false);
    assert!(answer.is_error(504, "outcome_unknown", "unknown"), "{}", answer.text());
    reply.send(|| text(200, "to nobody"));
}

/// The data_dir `/var` has a `run` that is not dkv's: it was made private and emptied.
#[test]
fn run_dir_touches_nothing_that_is_not_its_own() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("run"));
    std::fs::create_dir(&real).unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    assert!(RunDir::prepare(&link).unwrap_err().to_string().contains("is a link"));
    std::fs::write(real.join("sshd.pid"), b"1").unwrap();
    drop(std::os::unix::net::UnixListener::bind(real.join("other.sock")).unwrap());
    let error = RunDir::prepare(&real).unwrap_err().to_string();
    assert!(error.contains("holds sshd.pid, which is not dkv's"), "{error}");
    assert_eq!(std::fs::read_dir(&real).unwrap().count(), 2);
    assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn run_dir_is_private_emptied_and_moves_when_its_path_is_long() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    std::fs::create_dir(&path).unwrap();
    drop(std::os::unix::net::UnixListener::bind(path.join("old.sock")).unwrap());
    let run_dir = RunDir::prepare(&path).unwrap();
    assert_eq!(run_dir.path(), path);
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    assert_eq!(mode(&path), 0o700);
    drop(run_dir);
    assert!(path.exists());

    let long = RunDir::prepare(&dir.path().join("x".repeat(100)).join("run")).unwrap();
    let temporary = long.path().to_path_buf();
    assert!(temporary.as_os_str().len() < 80, "{}", temporary.display());
    assert_eq!(mode(&temporary), 0o700);
    drop(long);
    assert!(!temporary.exists());
}
