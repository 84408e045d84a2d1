//! The peer port and its client over real sockets: who is let in, what a failed call may conclude, and a bootstrap.

#[path = "peer_port/links.rs"]
mod links;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dkv::node::bootstrap::{Bootstrap, bootstrap_port};
use dkv::node::data_dir::{IdentityConfig, Initialized, Opened, open};
use dkv::node::{
    AdminFailure, AdminFailureKind, AdminResult, Administration, BootstrapRecord, BootstrapReply,
    BootstrapRequest, BootstrapSender, BootstrapTransport, Completion, Failure, ForwardedResult,
    ForwardedWrite, LeaderCall, Peer, PeerError, PeerList, PeerReply, PeerRequest, PeerTransport, Priority,
    ReadIndexResult, Target, UninitializedPeer,
};
use dkv::raft::{
    AppendEntriesReply, AppendEntriesRequest, AppendOutcome, ClusterId, Draft, Entry, Genesis,
    InstallOutcome, InstallSnapshotReply, InstallSnapshotRequest, Member as Listed, MemberId, Membership,
    PROTOCOL, Payload, Position, RequestVoteReply, RequestVoteRequest, Settings, Term, TimeoutNowReply,
    TimeoutNowRequest,
};
use dkv::server::edge::{self, HttpServer, PortOptions, RunDir};
use dkv::server::peer::codec::{self, Envelope, NoReply};
use dkv::server::peer::{HttpBootstrap, HttpPeers, Member, PeerAnswer, PeerApi};
use dkv::store::simdisk::SimDisk;
use dkv::store::wal::WalOptions;

const LONG: Duration = Duration::from_secs(20);
const SENDER: MemberId = MemberId(1);
const RECEIVER: MemberId = MemberId(2);
const REMOVED: MemberId = MemberId(9);

/// The term of the leader that [`Echo`] follows.
const FOLLOWED_TERM: Term = 6;

fn genesis_entry(cluster_id: u64) -> Entry {
    let member = |n: u64| Listed {
        node_id: format!("node{n}"),
        member_id: MemberId(n),
        raft_addr: format!("127.0.0.1:{n}"),
        http_addr: format!("127.0.0.2:{n}"),
        voter: true,
        promote: false,
    };
    let members = Membership { members: vec![member(1), member(2)] };
    let genesis = Genesis {
        protocol: 1,
        cluster_id: ClusterId(cluster_id),
        settings: Settings::default(),
        members,
        restored: None,
    };
    Entry::new(Position::new(1, 1), 0, &Payload::Genesis(genesis))
}

fn bootstrap_record(own: MemberId) -> BootstrapRecord {
    BootstrapRecord::new(own, genesis_entry(7))
}

/// Answers votes and appends at once, keeps read indexes for ever, and writes down what reached it.
#[derive(Default)]
struct Echo {
    seen: Mutex<Vec<PeerRequest>>,
    /// Why it would have ended.
    ended: Mutex<Vec<String>>,
    kept: Mutex<Vec<Completion<ReadIndexResult>>>,
    asked: Mutex<Option<Sender<()>>>,
    /// Appends and forwards are kept as well while this is set.
    keeps: AtomicBool,
    kept_appends: Mutex<Vec<Completion<AppendEntriesReply>>>,
    kept_forwards: Mutex<Vec<Completion<Vec<ForwardedResult>>>>,
    /// Where the leader listens, when this member follows one.
    follows: Mutex<Option<String>>,
    /// Those whose processes were said to have ended, with the terms that they led.
    lost: Mutex<Vec<(MemberId, Term)>>,
}

impl Member for Echo {
    fn vote(&self, request: RequestVoteRequest, done: Completion<RequestVoteReply>) {
        let term = request.term;
        self.seen.lock().unwrap().push(PeerRequest::RequestVote(request));
        done(RequestVoteReply { term, granted: true, protocol: 1 });
    }

    fn append(&self, request: AppendEntriesRequest, done: Completion<AppendEntriesReply>) {
        let (term, last) = (request.term, request.last_index());
        self.seen.lock().unwrap().push(PeerRequest::AppendEntries(request));
        if self.keeps.load(Ordering::SeqCst) {
            return self.kept_appends.lock().unwrap().push(done);
        }
        done(AppendEntriesReply {
            protocol: 1,
            term,
            outcome: AppendOutcome::Accepted { received: last, match_index: last },
        });
    }

    fn read_index(&self, _: Instant, done: Completion<ReadIndexResult>) {
        self.kept.lock().unwrap().push(done);
        if let Some(asked) = &*self.asked.lock().unwrap() {
            asked.send(()).unwrap();
        }
    }

    fn forward(&self, writes: Vec<ForwardedWrite>, done: Completion<Vec<ForwardedResult>>) {
        if self.keeps.load(Ordering::SeqCst) {
            return self.kept_forwards.lock().unwrap().push(done);
        }
        done(writes.iter().map(|_| Err(Failure::unavailable("no leader"))).collect());
    }

    fn install_snapshot(&self, request: InstallSnapshotRequest, done: Completion<InstallSnapshotReply>) {
        let (term, end) = (request.term, request.offset + request.data.len() as u64);
        self.seen.lock().unwrap().push(PeerRequest::InstallSnapshot(request));
        done(InstallSnapshotReply { term, outcome: InstallOutcome::Wants(end), protocol: 1 });
    }

    fn timeout_now(&self, request: TimeoutNowRequest, done: Completion<TimeoutNowReply>) {
        self.seen.lock().unwrap().push(PeerRequest::TimeoutNow(request));
        done(TimeoutNowReply { term: request.term, campaigns: true });
    }

    fn administer(&self, _: Administration, _: Instant, done: Completion<AdminResult>) {
        done(Err(AdminFailure::new(AdminFailureKind::NotLeader, "no leader")));
    }

    fn end_for_another_program(&self, why: &str) {
        self.ended.lock().unwrap().push(why.to_owned());
    }

    fn followed_leader(&self, _: MemberId) -> Option<(Term, String)> {
        self.follows.lock().unwrap().clone().map(|raft_addr| (FOLLOWED_TERM, raft_addr))
    }

    fn leader_lost(&self, leader: MemberId, term: Term) {
        self.lost.lock().unwrap().push((leader, term));
    }

    fn is_removed(&self, member: MemberId) -> bool {
        member == REMOVED
    }

    fn membership(&self) -> Arc<Membership> {
        Arc::new(genesis_entry(7).genesis().unwrap().members)
    }
}

/// A peer port at this address until it is dropped.
struct Port {
    api: Arc<PeerApi>,
    addr: SocketAddr,
    server: Option<HttpServer>,
    _dir: tempfile::TempDir,
}

impl Port {
    fn start(ip: &str) -> Port {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::prepare(&dir.path().join("run")).unwrap();
        let listener = edge::bind(format!("{ip}:18081").parse().unwrap()).unwrap();
        let addr = listener.local_addr().unwrap();
        let api = Arc::new(PeerApi::default());
        let mut options = PortOptions::peer(Arc::new(run), 3);
        options.takes_over = PeerApi::takes_over;
        let server = HttpServer::start(listener, options, api.clone()).unwrap();
        Port { api, addr, server: Some(server), _dir: dir }
    }

    fn echo(ip: &str) -> (Port, Arc<Echo>) {
        let port = Port::start(ip);
        let echo = Arc::new(Echo::default());
        port.api.become_initialized(bootstrap_record(RECEIVER), echo.clone());
        (port, echo)
    }

    fn target(&self) -> Target {
        Target { member_id: RECEIVER, raft_addr: self.addr.to_string() }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.server.take().unwrap().shutdown(Duration::from_secs(1));
    }
}

fn target(addr: SocketAddr) -> Target {
    Target { member_id: RECEIVER, raft_addr: addr.to_string() }
}

fn vote(term: u64) -> PeerRequest {
    PeerRequest::RequestVote(RequestVoteRequest {
        term,
        candidate: SENDER,
        last: Position::new(1, 1),
        pre_vote: false,
        transfer: false,
    })
}

fn append(entries: usize, bytes: usize) -> PeerRequest {
    let entry =
        |n: usize| Entry::new(Position::new(2 + n as u64, 2), 0, &Payload::Command(vec![n as u8; bytes]));
    PeerRequest::AppendEntries(AppendEntriesRequest {
        term: 2,
        leader: SENDER,
        prev: Position::new(1, 1),
        commit: 1,
        entries: (0..entries).map(entry).collect(),
    })
}

fn forward() -> PeerRequest {
    PeerRequest::Forward(vec![ForwardedWrite { command: Draft::command(b"x"), remaining_ms: 9_000 }])
}

const READ: PeerRequest = PeerRequest::ReadIndex { remaining_ms: 9_000 };

fn peers() -> HttpPeers {
    HttpPeers::new(&bootstrap_record(SENDER))
}

#[test]
fn call_brings_back_the_answer_of_every_kind() {
    let (port, echo) = Port::echo("127.77.1.1");
    let peers = peers();
    let call = |priority, request| peers.call(&port.target(), priority, request, LONG);
    assert_eq!(
        call(Priority::Core, vote(4)),
        Ok(PeerReply::RequestVote(RequestVoteReply { term: 4, granted: true, protocol: 1 }))
    );
    let outcome = AppendOutcome::Accepted { received: 4, match_index: 4 };
    assert_eq!(
        call(Priority::Core, append(3, 300_000)),
        Ok(PeerReply::AppendEntries(AppendEntriesReply { term: 2, outcome, protocol: 1 }))
    );
    assert_eq!(
        call(Priority::Bulk, forward()),
        Ok(PeerReply::Forward(vec![Err(Failure::unavailable("no leader"))]))
    );
    assert_eq!(*echo.seen.lock().unwrap(), [vote(4), append(3, 300_000)]);
}

#[test]
fn call_to_another_cluster_or_member_is_refused_before_the_core() {
    let (port, echo) = Port::echo("127.77.2.1");
    let refused = |peers: HttpPeers, to: MemberId| {
        let to = Target { member_id: to, raft_addr: port.addr.to_string() };
        match peers.call(&to, Priority::Core, vote(9), LONG) {
            Err(PeerError::Refused(text)) => text,
            other => panic!("{other:?}"),
        }
    };
    let foreign = HttpPeers::new(&BootstrapRecord::new(SENDER, genesis_entry(8)));
    assert!(refused(foreign, RECEIVER).contains("meant for cluster 0000000000000008"));
    assert!(refused(peers(), MemberId(3)).contains("meant for member 0000000000000003"));
    // An unknown sender passes: only the log says who is a member.
    let stranger = HttpPeers::new(&BootstrapRecord::new(MemberId(99), genesis_entry(7)));
    let PeerRequest::RequestVote(request) = vote(3) else { unreachable!() };
    let request = PeerRequest::RequestVote(RequestVoteRequest { candidate: MemberId(99), ..request });
    assert!(stranger.call(&port.target(), Priority::Core, request, LONG).is_ok());
    assert_eq!(echo.seen.lock().unwrap().len(), 1);
}

fn answer(api: &PeerApi, path: &str, body: &[u8]) -> PeerAnswer {
    let (sender, receiver) = channel();
    api.answer(path, body, Box::new(move |answer| sender.send(answer).unwrap()));
    receiver.recv_timeout(LONG).unwrap()
}

fn status(answer: PeerAnswer) -> u16 {
    match answer {
        PeerAnswer::None(status, NoReply::Refused(_)) => status,
        other => panic!("{other:?}"),
    }
}

/// What a leader of this very cluster sends and this program does not know ends the program; the same from elsewhere is
/// refused like anything else.
#[test]
fn answer_ends_the_program_for_an_entry_of_a_later_one_only_when_the_cluster_is_its_own() {
    let api = PeerApi::default();
    let echo = Arc::new(Echo::default());
    api.become_initialized(bootstrap_record(RECEIVER), echo.clone());
    let later = |cluster: u64| {
        let envelope = Envelope { cluster_id: ClusterId(cluster), from: SENDER, to: RECEIVER };
        let mut body = codec::encode_request(envelope, &append(2, 10));
        let frame_at = body.iter().position(|&b| b == b'\n').unwrap() + 1;
        let len = u32::from_le_bytes(body[frame_at..frame_at + 4].try_into().unwrap()) as usize;
        body[frame_at + 8] = 77;
        let frame = &body[frame_at..frame_at + 33 + len];
        let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..]);
        body[frame_at + 4..frame_at + 8].copy_from_slice(&crc.to_le_bytes());
        body
    };
    assert_eq!(status(answer(&api, codec::APPEND_ENTRIES, &later(8))), 403);
    assert!(echo.ended.lock().unwrap().is_empty());
    let (sender, receiver) = channel();
    api.answer(codec::APPEND_ENTRIES, &later(7), Box::new(move |answer| sender.send(answer).unwrap()));
    assert!(receiver.try_recv().is_err(), "no answer: the program ends");
    let ended = echo.ended.lock().unwrap();
    assert!(ended.len() == 1 && ended[0].contains("kind 77"), "{ended:?}");
    assert!(echo.seen.lock().unwrap().is_empty());
}

#[test]
fn answer_refuses_malformed_bodies_and_nothing_reaches_the_core() {
    let api = PeerApi::default();
    let echo = Arc::new(Echo::default());
    api.become_initialized(bootstrap_record(RECEIVER), echo.clone());
    let envelope = Envelope { cluster_id: ClusterId(7), from: SENDER, to: RECEIVER };
    let good = codec::encode_request(envelope, &append(2, 10));
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for body in [&good[..good.len() - 1], &flipped, b"", b"{}\n", b"\xff\xff"] {
        assert_eq!(status(answer(&api, codec::APPEND_ENTRIES, body)), 400);
    }
    assert_eq!(status(answer(&api, codec::BOOTSTRAP, b"{}")), 400);
    assert_eq!(status(answer(&api, "/raft/none", &good)), 404);
    assert!(echo.seen.lock().unwrap().is_empty());
    assert!(matches!(answer(&api, codec::APPEND_ENTRIES, &good), PeerAnswer::Reply(_)));
}

#[test]
fn answer_while_starting_is_a_refusal() {
    let api = PeerApi::default();
    let envelope = Envelope { cluster_id: ClusterId(7), from: SENDER, to: RECEIVER };
    let body = codec::encode_request(envelope, &vote(1));
    assert_eq!(status(answer(&api, codec::REQUEST_VOTE, &body)), 503);
}

/// A server that does with each connection what `serve` does, in a thread of its own.
fn raw(ip: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(format!("{ip}:18081")).unwrap();
    let addr = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    addr
}

/// Reads one request with its body. False at the end of the connection.
fn read_request(stream: &mut TcpStream) -> bool {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        if let Some(end) = text.find("\r\n\r\n") {
            let length = text.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
            if bytes.len() >= end + 4 + length.parse::<usize>().unwrap() {
                return true;
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return false,
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
        }
    }
}

#[test]
fn call_to_a_closed_port_is_not_sent() {
    let to = target("127.77.3.1:18081".parse().unwrap());
    let result = peers().call(&to, Priority::Bulk, forward(), LONG);
    assert!(matches!(result, Err(PeerError::NotSent(_))), "{result:?}");
    let result = peers().call(&to, Priority::Bulk, forward(), Duration::ZERO);
    assert!(matches!(result, Err(PeerError::NotSent(_))), "{result:?}");
}

#[test]
fn call_that_does_not_connect_in_time_is_not_sent() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let addr: SocketAddr = "127.77.4.1:18081".parse().unwrap();
    socket.bind(&addr.into()).unwrap();
    socket.listen(0).unwrap();
    // Nobody accepts: once the queue is full the kernel drops further attempts.
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(300)) {
        queued.push(stream);
    }
    let result = peers().call(&target(addr), Priority::Bulk, forward(), Duration::from_secs(1));
    assert!(matches!(result, Err(PeerError::NotSent(_))), "{result:?}");
}

#[test]
fn call_that_loses_its_connection_is_unknown() {
    let addr = raw("127.77.5.1", |mut stream| assert!(read_request(&mut stream)));
    let result = peers().call(&target(addr), Priority::Bulk, forward(), LONG);
    assert!(matches!(result, Err(PeerError::Unknown(_))), "{result:?}");
}

#[test]
fn call_is_bounded_as_a_whole_although_bytes_keep_coming() {
    let (stop, stopped) = channel::<()>();
    let stopped = Mutex::new(stopped);
    let addr = raw("127.77.6.1", move |mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        // A byte every 20 ms, far longer than the call may take.
        while stopped.lock().unwrap().recv_timeout(Duration::from_millis(20)).is_err() {
            if stream.write_all(b" ").is_err() {
                return;
            }
        }
    });
    let start = Instant::now();
    let result = peers().call(&target(addr), Priority::Core, vote(1), Duration::from_millis(300));
    assert!(matches!(result, Err(PeerError::Unknown(_))), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    drop(stop);
}

#[test]
fn call_refuses_an_answer_of_any_greater_length_without_reading_it() {
    let addr = raw("127.77.7.1", |mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000\r\n\r\n");
        let piece = vec![b' '; 1 << 20];
        while stream.write_all(&piece).is_ok() {}
    });
    let result = peers().call(&target(addr), Priority::Core, vote(1), LONG);
    assert!(matches!(result, Err(PeerError::Unknown(_))), "{result:?}");
}

#[test]
fn call_uses_its_connection_again_and_each_priority_its_own() {
    let connections = Arc::new(Mutex::new(0));
    let counted = connections.clone();
    let addr = raw("127.77.8.1", move |mut stream| {
        *counted.lock().unwrap() += 1;
        while read_request(&mut stream) {
            let body = "{\"term\":4,\"granted\":true,\"protocol\":1}\n";
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let peers = peers();
    for _ in 0..5 {
        peers.call(&target(addr), Priority::Core, vote(4), LONG).unwrap();
    }
    // One more: the first call asked for a link, which this peer does not know.
    assert_eq!(*connections.lock().unwrap(), 2);
    peers.call(&target(addr), Priority::Bulk, vote(4), LONG).unwrap();
    assert_eq!(*connections.lock().unwrap(), 3);
}

#[test]
fn cancel_interrupts_one_kind_of_calls_and_later_ones_pass() {
    let (port, echo) = Port::echo("127.77.9.1");
    let (sender, asked): (_, Receiver<()>) = channel();
    *echo.asked.lock().unwrap() = Some(sender);
    let peers = Arc::new(peers());
    let ask = || {
        let (peers, to) = (peers.clone(), port.target());
        let call = thread::spawn(move || peers.call(&to, Priority::Bulk, READ, LONG));
        asked.recv_timeout(LONG).expect("the question arrives");
        call
    };
    let call = ask();
    peers.cancel(RECEIVER, LeaderCall::Forward);
    echo.kept.lock().unwrap().pop().expect("the question")(Ok(9));
    assert_eq!(
        call.join().unwrap(),
        Ok(PeerReply::ReadIndex(Ok(9))),
        "the forwards' cancel is not the question's"
    );

    let call = ask();
    let start = Instant::now();
    peers.cancel(RECEIVER, LeaderCall::ReadIndex);
    let result = call.join().unwrap();
    assert!(matches!(result, Err(PeerError::Unknown(_))), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(peers.call(&port.target(), Priority::Bulk, forward(), LONG).is_ok());
    assert!(peers.call(&port.target(), Priority::Core, vote(1), LONG).is_ok());
}

/// Answers that a node dropped when it stopped were 500, "the server failed on this request", in the logs of its peers.
#[test]
fn a_node_that_stops_says_so_instead_of_500() {
    let (port, echo) = Port::echo("127.77.19.1");
    echo.keeps.store(true, Ordering::SeqCst);
    let peers = Arc::new(peers());
    let call = |request: PeerRequest| {
        let (peers, to) = (peers.clone(), port.target());
        thread::spawn(move || peers.call(&to, Priority::Bulk, request, LONG))
    };
    let (appended, forwarded) = (call(append(1, 10)), call(forward()));
    let deadline = Instant::now() + LONG;
    while echo.kept_appends.lock().unwrap().is_empty() || echo.kept_forwards.lock().unwrap().is_empty() {
        assert!(Instant::now() < deadline, "they arrive");
        thread::sleep(Duration::from_millis(5));
    }
    port.api.begin_stop();
    echo.kept_appends.lock().unwrap().clear();
    echo.kept_forwards.lock().unwrap().clear();
    assert_eq!(appended.join().unwrap(), Err(PeerError::Stopping));
    // Whoever forwarded a write concludes from the other answer that it was not made: this one may have been.
    let result = forwarded.join().unwrap();
    assert!(matches!(&result, Err(e) if !e.is_surely_not_executed()), "{result:?}");

    // What comes later does not reach the member at all.
    let seen = echo.seen.lock().unwrap().len();
    for request in [vote(1), append(1, 10), READ, forward()] {
        let result = peers.call(&port.target(), Priority::Bulk, request, LONG);
        assert_eq!(result, Err(PeerError::Stopping));
    }
    assert_eq!(echo.seen.lock().unwrap().len(), seen);
    assert!(echo.kept.lock().unwrap().is_empty() && PeerError::Stopping.is_surely_not_executed());
}

/// A status alone said nothing of its reason, which is in the answer.
#[test]
fn an_answer_of_the_edge_is_quoted() {
    let refused = raw("127.77.20.2", |mut stream| {
        assert!(read_request(&mut stream));
        let body =
            r#"{"error":{"code":"unavailable","message":"this node is shutting down","outcome":"not_done"}}"#;
        let head = format!("HTTP/1.1 503 Service Unavailable\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    });
    let result = peers().call(&target(refused), Priority::Bulk, forward(), LONG);
    let Err(PeerError::Refused(text)) = result else { panic!("{result:?}") };
    assert_eq!(text, format!("{refused}: 503 Service Unavailable: this node is shutting down"));
}

/// A node from its empty disk to its initialization, over real sockets.
struct NewNode {
    port: Port,
    initialization: thread::JoinHandle<Initialized>,
}

fn start_uninitialized(n: usize, list: &PeerList) -> NewNode {
    let port = Port::start(&format!("127.77.10.{n}"));
    let settings = Settings::default();
    let config = IdentityConfig {
        node_id: format!("node{n}"),
        peers: list.clone(),
        settings,
        listen_raft: false,
        joins: false,
    };
    let options = WalOptions::new(64 << 10);
    let opened = open(Arc::new(SimDisk::new(n as u64)), options, &config).unwrap();
    let Opened::Uninitialized(bootstrap) = opened else { panic!("initialized from an empty disk") };
    let bootstrap: Bootstrap = *bootstrap;
    let (bootstrap_side, inbox) = bootstrap_port(&bootstrap);
    port.api.become_uninitialized(bootstrap_side);
    let initialization = thread::spawn(move || {
        bootstrap.run(&inbox, &HttpBootstrap::default()).unwrap().expect("not stopped")
    });
    NewNode { port, initialization }
}

#[test]
fn bootstrap_over_the_peer_ports_sends_genesis_to_all_that_answer_uninitialized() {
    let peer = |n| Peer {
        node_id: format!("node{n}"),
        raft_addr: format!("127.77.10.{n}:18081"),
        http_addr: format!("127.77.10.{n}:8081"),
    };
    let list: PeerList = (1..=3).map(peer).collect::<Vec<_>>().into();
    let nodes: Vec<NewNode> = (1..=3).map(|n| start_uninitialized(n, &list)).collect();
    let mut nodes = nodes.into_iter();
    let first = nodes.next().unwrap();
    let initialized = first.initialization.join().unwrap();
    first.port.api.become_initialized(initialized.bootstrap_record(), Arc::new(Echo::default()));
    let peers = HttpPeers::new(&initialized.bootstrap_record());
    let bootstrap_sender =
        BootstrapSender::new(initialized.bootstrap_record(), Box::new(HttpBootstrap::default()));
    for node in nodes {
        let addr = node.port.addr.to_string();
        let listed = initialized.membership().members.iter().find(|m| m.raft_addr == addr).unwrap();
        let to = Target { member_id: listed.member_id, raft_addr: addr.clone() };
        let request = PeerRequest::ReadIndex { remaining_ms: 1 };
        let Err(PeerError::Uninitialized { node_id, member_id }) =
            peers.call(&to, Priority::Bulk, request, LONG)
        else {
            panic!("an uninitialized node answered")
        };
        assert_eq!((node_id.as_str(), member_id), (listed.node_id.as_str(), listed.member_id));
        let latest = initialized.membership().clone();
        bootstrap_sender.handle_uninitialized(&UninitializedPeer {
            to,
            node_id: node_id.clone(),
            member_id,
            latest,
        });
        let sibling = node.initialization.join().unwrap();
        assert_eq!(sibling.ids.cluster_id, initialized.ids.cluster_id);
        assert_eq!(sibling.genesis, initialized.genesis);
        // Its port still says uninitialized until it starts; then a question finds it initialized.
        node.port.api.become_initialized(sibling.bootstrap_record(), Arc::new(Echo::default()));
        let ask = BootstrapRequest::Ask(dkv::node::Uninitialized {
            node_id,
            member_id,
            peers: list.clone(),
            restored: None,
            protocol: PROTOCOL,
        });
        let reply = HttpBootstrap::default().bootstrap(&addr, &ask).unwrap();
        assert!(
            matches!(reply, BootstrapReply::Initialized { cluster_id, .. } if cluster_id == initialized.ids.cluster_id)
        );
    }
}

#[test]
fn run_ends_when_it_is_stopped() {
    let peer = |n| Peer {
        node_id: format!("node{n}"),
        raft_addr: format!("127.77.11.{n}:18081"),
        http_addr: format!("127.77.11.{n}:8081"),
    };
    let peers: PeerList = (1..=2).map(peer).collect::<Vec<_>>().into();
    for n in 1..=2 {
        let settings = Settings::default();
        let config = IdentityConfig {
            node_id: format!("node{n}"),
            peers: peers.clone(),
            settings,
            listen_raft: false,
            joins: false,
        };
        let options = WalOptions::new(64 << 10);
        let Opened::Uninitialized(bootstrap) = open(Arc::new(SimDisk::new(5)), options, &config).unwrap()
        else {
            panic!()
        };
        let (port, inbox) = bootstrap_port(&bootstrap);
        let run = thread::spawn(move || bootstrap.run(&inbox, &HttpBootstrap::default()).unwrap().is_none());
        port.stop();
        assert!(run.join().unwrap());
    }
}
