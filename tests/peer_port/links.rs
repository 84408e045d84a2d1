//! Links: calls without HTTP around each of them, and what a hostile other side can do with one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use dkv::server::peer::LinkKind;
use dkv::server::peer::codec::{self, Envelope};
use dkv::server::peer::link_frame::{Frame, FrameReader, HEADER_BYTES, Kind, encode};

use super::*;

/// Numbers of routes.
const VOTE: u16 = 1;
const FORWARD_ROUTE: u16 = 4;
const READ_ROUTE: u16 = 5;

/// A link opened by hand. Reads wait for `LONG` at most.
struct RawLink {
    socket: TcpStream,
    reader: FrameReader<TcpStream>,
}

/// Asks for a link; returns the socket and the head of the answer.
fn ask(addr: SocketAddr, from: MemberId, to: MemberId, kind: LinkKind) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(addr).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let body = codec::encode_link(Envelope { cluster_id: ClusterId(7), from, to }, kind);
    let head = format!(
        "POST /raft/link HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: dkv-link/1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(&[head.as_bytes(), &body].concat()).unwrap();
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") && socket.read(&mut byte).unwrap() == 1 {
        answer.push(byte[0]);
    }
    (socket, String::from_utf8(answer).unwrap())
}

impl RawLink {
    fn open(addr: SocketAddr, kind: LinkKind) -> RawLink {
        let (socket, head) = ask(addr, SENDER, RECEIVER, kind);
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
        assert!(head.contains("\r\nUpgrade: dkv-link/1\r\n"), "{head}");
        let reader = FrameReader::new(socket.try_clone().unwrap(), Vec::new());
        RawLink { socket, reader }
    }

    fn send(&mut self, bytes: &[u8]) {
        // The other side may have ended the link already.
        let _ = self.socket.write_all(bytes);
    }

    fn answer(&mut self) -> Frame {
        self.reader.read().expect("an answer")
    }

    /// Everything that still comes, until the link ends.
    fn rest(mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.reader.read().ok()).collect()
    }
}

fn body_of(request: &PeerRequest) -> Vec<u8> {
    codec::encode_request(Envelope { cluster_id: ClusterId(7), from: SENDER, to: RECEIVER }, request)
}

/// Waits until `seen` says yes.
fn until(what: &str, mut seen: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !seen() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn calls_of_one_kind_share_one_connection() {
    let (port, echo) = Port::echo("127.77.2.1");
    let peers = peers();
    for term in 4..40 {
        let reply = peers.call(&port.target(), Priority::Core, vote(term), LONG).unwrap();
        assert_eq!(reply, PeerReply::RequestVote(RequestVoteReply { term, granted: true, protocol: 1 }));
        assert!(peers.call(&port.target(), Priority::Core, append(2, 300), LONG).is_ok());
        assert!(peers.call(&port.target(), Priority::Bulk, forward(), LONG).is_ok());
    }
    assert_eq!(echo.seen.lock().unwrap().len(), 72);
    assert_eq!(port.server.as_ref().unwrap().connections(), 2);
}

#[test]
fn an_append_of_many_megabytes_goes_over_a_link() {
    let (port, echo) = Port::echo("127.77.2.2");
    let request = append(4, 1 << 20);
    assert!(peers().call(&port.target(), Priority::Core, request.clone(), LONG).is_ok());
    assert_eq!(echo.seen.lock().unwrap().as_slice(), [request]);
}

/// A timeout does not end a link, and what comes too late belongs to nobody.
#[test]
fn an_answer_that_comes_too_late_is_not_taken_for_the_next_one() {
    let (port, echo) = Port::echo("127.77.2.3");
    let peers = peers();
    assert!(peers.call(&port.target(), Priority::Core, vote(3), LONG).is_ok());
    echo.keeps.store(true, Ordering::SeqCst);
    let late = peers.call(&port.target(), Priority::Core, append(1, 10), Duration::from_millis(100));
    assert!(matches!(late, Err(PeerError::Unknown(_))), "{late:?}");
    echo.keeps.store(false, Ordering::SeqCst);
    let outcome = AppendOutcome::Accepted { received: 1, match_index: 1 };
    let done = echo.kept_appends.lock().unwrap().pop().unwrap();
    done(AppendEntriesReply { protocol: 1, term: 1, outcome });
    let reply = peers.call(&port.target(), Priority::Core, vote(9), LONG).unwrap();
    assert_eq!(reply, PeerReply::RequestVote(RequestVoteReply { term: 9, granted: true, protocol: 1 }));
    assert_eq!(port.server.as_ref().unwrap().connections(), 1, "the link of before");
}

#[test]
fn a_cancelled_forward_is_unknown_and_no_other_call_is() {
    let (port, echo) = Port::echo("127.77.2.4");
    let peers = Arc::new(peers());
    assert!(peers.call(&port.target(), Priority::Core, vote(3), LONG).is_ok());
    echo.keeps.store(true, Ordering::SeqCst);
    let (other, to) = (peers.clone(), port.target());
    let call = thread::spawn(move || other.call(&to, Priority::Bulk, forward(), LONG));
    until("the forward arrives", || echo.kept_forwards.lock().unwrap().len() == 1);
    peers.cancel(RECEIVER, LeaderCall::ReadIndex);
    peers.cancel(RECEIVER, LeaderCall::Forward);
    let cancelled = call.join().unwrap();
    assert!(matches!(cancelled, Err(PeerError::Unknown(_))), "{cancelled:?}");
    assert_eq!(echo.kept_forwards.lock().unwrap().len(), 1, "it is not made a second time by HTTP");
    echo.keeps.store(false, Ordering::SeqCst);
    assert!(peers.call(&port.target(), Priority::Core, vote(4), LONG).is_ok());
    assert!(peers.call(&port.target(), Priority::Bulk, forward(), LONG).is_ok(), "over another link");
}

/// The other process was started again: the first call after that is not lost.
#[test]
fn a_call_after_the_other_side_was_started_again_is_made() {
    let (port, _) = Port::echo("127.77.2.5");
    let peers = peers();
    assert!(peers.call(&port.target(), Priority::Bulk, forward(), LONG).is_ok());
    drop(port);
    let (port, _) = Port::echo("127.77.2.5");
    assert!(peers.call(&port.target(), Priority::Bulk, forward(), LONG).is_ok());
}

/// While a peer was down the links to it failed, and then its calls went by HTTP for a second. A leader that was killed in
/// that second had no link to the peer whose end would have told it: the peer took the leader for alive, and kept the
/// others from electing another one.
#[test]
fn a_peer_that_answers_again_has_its_link_at_once() {
    let (port, _) = Port::echo("127.77.2.20");
    let (peers, to) = (peers(), port.target());
    assert!(peers.call(&to, Priority::Core, vote(3), LONG).is_ok());
    drop(port);
    let down = Instant::now();
    // The first call finds that its link has ended, the second one cannot open another.
    for term in [4, 5] {
        assert!(peers.call(&to, Priority::Core, vote(term), Duration::from_millis(300)).is_err());
    }
    let (port, _) = Port::echo("127.77.2.20");
    let connections = || port.server.as_ref().unwrap().connections();
    assert!(peers.call(&to, Priority::Core, vote(6), LONG).is_ok());
    assert!(peers.call(&to, Priority::Core, vote(7), LONG).is_ok());
    // Where the machine took a second for this, nothing is shown.
    if down.elapsed() < Duration::from_millis(900) {
        assert_eq!(connections(), 2, "one for HTTP, and a link");
    }
}

/// A peer that was slow once, at the first call of a link, was called by HTTP for half a minute. A leader that was killed in
/// that time had no link whose end would have told the peer.
#[test]
fn a_peer_that_was_slow_once_has_its_link_soon() {
    let (port, echo) = Port::echo("127.77.2.21");
    let peers = peers();
    echo.keeps.store(true, Ordering::SeqCst);
    let slow = peers.call(&port.target(), Priority::Core, append(1, 10), Duration::from_millis(300));
    assert!(matches!(slow, Err(PeerError::Unknown(_))), "{slow:?}");
    echo.keeps.store(false, Ordering::SeqCst);
    for term in 3..6 {
        assert!(peers.call(&port.target(), Priority::Core, vote(term), LONG).is_ok());
    }
    // The link of the first call has ended: one for HTTP, and a link.
    until("the first link ends", || port.server.as_ref().unwrap().connections() == 2);
}

#[test]
fn a_link_is_refused_to_strangers_as_a_call_is() {
    let (port, _) = Port::echo("127.77.2.6");
    for (from, to, kind, expected) in [
        (SENDER, MemberId(99), LinkKind::Core, "403"),
        (REMOVED, RECEIVER, LinkKind::Forwards, "410"),
        (REMOVED, RECEIVER, LinkKind::Core, "101"),
    ] {
        let (_, head) = ask(port.addr, from, to, kind);
        assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{from} to {to}: {head}");
    }
    let starting = Port::start("127.77.2.7");
    let (_, head) = ask(starting.addr, SENDER, RECEIVER, LinkKind::Core);
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
}

/// A right does not outlive its reason: every frame is checked.
#[test]
fn every_call_on_a_link_is_checked_again() {
    let (port, echo) = Port::echo("127.77.2.8");
    let mut link = RawLink::open(port.addr, LinkKind::Core);
    let foreign = Envelope { cluster_id: ClusterId(8), from: SENDER, to: RECEIVER };
    link.send(&encode(Kind::Call, VOTE, 1, &codec::encode_request(foreign, &vote(4))));
    assert_eq!((link.answer().code, echo.seen.lock().unwrap().len()), (403, 0));
    link.send(&encode(Kind::Call, VOTE, 2, b"not a body"));
    assert_eq!((link.answer().code, echo.seen.lock().unwrap().len()), (400, 0));
    let (from, to) = (REMOVED, RECEIVER);
    let mut request = vote(4);
    if let PeerRequest::RequestVote(vote) = &mut request {
        vote.candidate = REMOVED;
    }
    let body = codec::encode_request(Envelope { cluster_id: ClusterId(7), from, to }, &request);
    link.send(&encode(Kind::Call, VOTE, 3, &body));
    assert_eq!((link.answer().code, echo.seen.lock().unwrap().len()), (410, 0));
    assert!(link.rest().is_empty(), "a removed member has no link");
}

#[test]
fn what_is_no_frame_ends_the_link_and_reaches_nobody() {
    let good = encode(Kind::Call, VOTE, 1, &body_of(&vote(4)));
    let mut flipped = good.clone();
    flipped[HEADER_BYTES + 3] ^= 1;
    let mut huge = encode(Kind::Call, VOTE, 1, b"");
    huge[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let crc = crc32c::crc32c(&huge[..20]);
    huge[20..24].copy_from_slice(&crc.to_le_bytes());
    let cases: [(&str, Vec<u8>); 7] = [
        ("a flipped bit in the body", flipped),
        ("a huge length", huge),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("an answer", encode(Kind::Answer, 200, 1, b"")),
        ("a call of another kind", encode(Kind::Call, FORWARD_ROUTE, 1, &body_of(&forward()))),
        ("no route", encode(Kind::Call, 77, 1, b"")),
        ("a goodbye", encode(Kind::Goodbye, 0, 0, b"")),
    ];
    let (port, echo) = Port::echo("127.77.2.9");
    for (what, bytes) in cases {
        let mut link = RawLink::open(port.addr, LinkKind::Core);
        link.send(&bytes);
        link.send(&good);
        assert!(link.rest().is_empty(), "{what}");
        assert!(echo.seen.lock().unwrap().is_empty(), "{what}");
    }
    let mut link = RawLink::open(port.addr, LinkKind::Core);
    link.send(&good);
    assert_eq!(link.answer().code, 200);
}

/// Half a frame, and the end of the connection: never executed.
#[test]
fn half_a_frame_is_not_executed() {
    let (port, echo) = Port::echo("127.77.2.10");
    let good = encode(Kind::Call, VOTE, 1, &body_of(&vote(4)));
    let mut link = RawLink::open(port.addr, LinkKind::Core);
    link.send(&good[..good.len() - 1]);
    link.socket.shutdown(Shutdown::Write).unwrap();
    assert!(link.rest().is_empty());
    assert!(echo.seen.lock().unwrap().is_empty());
}

#[test]
fn a_flood_of_calls_ends_the_link() {
    let (port, echo) = Port::echo("127.77.2.11");
    let mut link = RawLink::open(port.addr, LinkKind::ReadIndexes);
    for number in 1..=200 {
        link.send(&encode(Kind::Call, READ_ROUTE, number, &body_of(&READ)));
    }
    assert!(link.rest().is_empty());
    until("all that came in time are kept", || echo.kept.lock().unwrap().len() == 64);
}

/// Rights end with the removal, not with the next call.
#[test]
fn a_removal_ends_the_links_of_the_removed_member_and_no_others() {
    let (port, echo) = Port::echo("127.77.2.20");
    let mut forwards = RawLink::open(port.addr, LinkKind::Forwards);
    let reads = RawLink::open(port.addr, LinkKind::ReadIndexes);
    let mut core = RawLink::open(port.addr, LinkKind::Core);
    port.api.end_links_of(&|member| member == REMOVED);
    forwards.send(&encode(Kind::Call, FORWARD_ROUTE, 1, &body_of(&forward())));
    assert_eq!(forwards.answer().code, 200, "another member was removed");
    port.api.end_links_of(&|member| member == SENDER);
    assert!(forwards.rest().is_empty() && reads.rest().is_empty());
    core.send(&encode(Kind::Call, VOTE, 2, &body_of(&vote(4))));
    assert_eq!(core.answer().number, 2, "a leader that removes itself says so");
    assert!(echo.lost.lock().unwrap().is_empty(), "no sign of a lost leader");
}

#[test]
fn a_second_link_of_a_kind_replaces_the_first_one() {
    let (port, echo) = Port::echo("127.77.2.12");
    let first = RawLink::open(port.addr, LinkKind::Core);
    let mut other_kind = RawLink::open(port.addr, LinkKind::Forwards);
    let mut second = RawLink::open(port.addr, LinkKind::Core);
    assert!(first.rest().is_empty(), "the first one has ended");
    second.send(&encode(Kind::Call, VOTE, 1, &body_of(&vote(4))));
    assert_eq!(second.answer().number, 1);
    other_kind.send(&encode(Kind::Call, FORWARD_ROUTE, 1, &body_of(&forward())));
    assert_eq!(other_kind.answer().code, 200);
    assert!(echo.lost.lock().unwrap().is_empty(), "the end of a replaced link is no sign");
}

/// The leader is lost when its link ends without a goodbye and nobody listens at its address; nothing less is a sign.
#[test]
fn the_leader_is_lost_only_when_its_link_ends_unsaid_and_nobody_listens() {
    let (port, echo) = Port::echo("127.77.2.13");
    let listener = TcpListener::bind("127.77.2.14:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let lost = || echo.lost.lock().unwrap().len();
    let end = |kind, last_words: &[u8]| {
        let mut link = RawLink::open(port.addr, kind);
        link.send(&encode(Kind::Call, if kind == LinkKind::Core { VOTE } else { FORWARD_ROUTE }, 1, b""));
        link.answer();
        link.send(last_words);
        drop(link);
        until("the link ends", || port.server.as_ref().unwrap().connections() == 0);
    };

    end(LinkKind::Core, b"");
    assert_eq!(lost(), 0, "no leader is followed");
    *echo.follows.lock().unwrap() = Some(address);
    end(LinkKind::Core, b"");
    assert_eq!(lost(), 0, "somebody listens");
    drop(listener);
    end(LinkKind::Core, &encode(Kind::Goodbye, 0, 0, b""));
    assert_eq!(lost(), 0, "it said goodbye");
    end(LinkKind::Forwards, b"");
    assert_eq!(lost(), 0, "not the leader's link");
    end(LinkKind::Core, b"");
    assert_eq!(*echo.lost.lock().unwrap(), [(SENDER, FOLLOWED_TERM)]);
}

/// A call that is dropped without an answer is answered, as over HTTP.
#[test]
fn a_call_that_the_member_drops_is_answered_500() {
    let (port, echo) = Port::echo("127.77.2.15");
    echo.keeps.store(true, Ordering::SeqCst);
    let mut link = RawLink::open(port.addr, LinkKind::Forwards);
    link.send(&encode(Kind::Call, FORWARD_ROUTE, 5, &body_of(&forward())));
    until("the forward arrives", || echo.kept_forwards.lock().unwrap().len() == 1);
    echo.kept_forwards.lock().unwrap().clear();
    let answer = link.answer();
    assert_eq!((answer.kind, answer.number, answer.code), (Kind::Answer, 5, 500));
}

/// Passes everything on in both directions, until both have ended.
fn relay(client: TcpStream, to: SocketAddr) {
    let server = TcpStream::connect(to).unwrap();
    let (mut from, mut into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let back = thread::spawn(move || std::io::copy(&mut &server, &mut &client));
    let _ = std::io::copy(&mut from, &mut into);
    let _ = into.shutdown(Shutdown::Write);
    let _ = back.join();
}

#[test]
fn a_peer_without_links_is_called_by_http() {
    let (port, echo) = Port::echo("127.77.2.16");
    // Its port does not know that links take their connections over, as an earlier program's does not know the route.
    let plain = TcpListener::bind("127.77.2.17:18081").unwrap();
    let to = plain.local_addr().unwrap();
    let through = port.addr;
    let between_both = thread::spawn(move || {
        // Answers 404 to the first connection, and relays the second one.
        let (mut refused, _) = plain.accept().unwrap();
        let mut request = [0; 4096];
        let _ = refused.read(&mut request).unwrap();
        refused
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        drop(refused);
        let (client, _) = plain.accept().unwrap();
        relay(client, through);
    });
    let peers = peers();
    for term in 4..8 {
        assert!(peers.call(&target(to), Priority::Core, vote(term), LONG).is_ok());
    }
    assert_eq!(echo.seen.lock().unwrap().len(), 4);
    drop((peers, port));
    between_both.join().unwrap();
}

/// Something between two members answers the request for a link and then lets no frame through: a proxy that knows HTTP
/// only. Every call once waited for its timeout.
#[test]
fn a_link_that_carries_no_answers_is_given_up_for_http() {
    let (port, echo) = Port::echo("127.77.2.18");
    let between = TcpListener::bind("127.77.2.19:18081").unwrap();
    let to = between.local_addr().unwrap();
    let through = port.addr;
    let between_both = thread::spawn(move || {
        let swallow = || {
            let (mut swallowed, _) = between.accept().unwrap();
            let mut request = [0; 4096];
            let _ = swallowed.read(&mut request).unwrap();
            let head =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: dkv-link/1\r\n\r\n";
            swallowed.write_all(head.as_bytes()).unwrap();
            swallowed
        };
        let first = swallow();
        // The peer answers by HTTP, so that another link is tried. That one is enough.
        let (client, _) = between.accept().unwrap();
        let http = thread::spawn(move || relay(client, through));
        let second = swallow();
        http.join().unwrap();
        drop((first, second));
    });
    let peers = peers();
    let call = |term, timeout| peers.call(&target(to), Priority::Core, vote(term), timeout);
    let in_vain = |term| {
        let made = call(term, Duration::from_millis(300));
        assert!(matches!(made, Err(PeerError::Unknown(_))), "{made:?}");
    };
    in_vain(4);
    assert!(call(5, LONG).is_ok());
    in_vain(6);
    for term in 7..10 {
        assert!(call(term, LONG).is_ok());
    }
    assert_eq!(echo.seen.lock().unwrap().len(), 4);
    drop((peers, port));
    between_both.join().unwrap();
}
