//! Upstream connections against a server in tiny_http's place, which does what a test says.

use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;

use super::*;
use crate::server::edge::message::Method;
use crate::server::edge::slot::{Asked, Slot};

const PATIENCE: Duration = Duration::from_secs(30);

/// What the server does with a head that it has read.
enum Does {
    /// Tells the test of it.
    Passes,
    /// Answers it, as tiny_http does with a head that it cannot read, and closes.
    Fails,
    /// Closes without a word.
    Closes,
}

/// A server in tiny_http's place. It answers pings.
struct Fake {
    socket: PathBuf,
    /// The tickets that it passed on, with the number of their connection.
    passed: channel::Receiver<(usize, Ticket)>,
    _dir: tempfile::TempDir,
}

fn read_head(stream: &mut UnixStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

impl Fake {
    fn start(does: impl Fn(Ticket) -> Does + Send + Sync + 'static) -> Fake {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("fake.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let (passes, passed) = channel::unbounded();
        let does = Arc::new(does);
        thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let (passes, does, mut stream) = (passes.clone(), Arc::clone(&does), stream);
                thread::spawn(move || {
                    while let Some(head) = read_head(&mut stream) {
                        if head.starts_with("OPTIONS * ") {
                            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("the ping is read");
                            continue;
                        }
                        let ticket = head.lines().find_map(|line| line.strip_prefix("Dkv-Ticket: "));
                        let ticket: Ticket = ticket.expect("a ticket").parse().expect("a good one");
                        match does(ticket) {
                            Does::Passes => drop(passes.send((number, ticket))),
                            Does::Fails => {
                                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
                                return;
                            }
                            Does::Closes => return,
                        }
                    }
                });
            }
        });
        Fake { socket, passed, _dir: dir }
    }

    fn next(&self) -> (usize, Ticket) {
        self.passed.recv_timeout(PATIENCE).expect("a request arrives")
    }
}

/// An upstream connection to a fake, with client connections whose edge thread is that of the test.
struct Bench {
    fake: Fake,
    upstream: Arc<Upstream>,
    slots: Arc<Slots>,
    inside: Arc<Inside>,
    broken: Arc<AtomicU64>,
    refused: channel::Receiver<Ticket>,
    clients: Vec<TcpStream>,
}

impl Bench {
    fn start(does: impl Fn(Ticket) -> Does + Send + Sync + 'static) -> Bench {
        let fake = Fake::start(does);
        let (slots, broken) = (Arc::<Slots>::default(), Arc::<AtomicU64>::default());
        let (refuses, refused) = channel::unbounded();
        let of_refused = Arc::clone(&slots);
        let inside = Arc::new(Inside::new(100));
        let options = UpstreamOptions {
            socket: fake.socket.clone(),
            // More than a test submits: not all of them take places.
            most_inside: 1_000_000,
            inside: Arc::clone(&inside),
            yields: true,
            slots: Arc::clone(&slots),
            opening: Arc::default(),
            broken: Arc::clone(&broken),
            refuse: Box::new(move |ticket| {
                assert!(of_refused.take(ticket).is_some(), "a worker has what is refused");
                refuses.send(ticket).expect("the test listens");
            }),
        };
        let (alive, _) = channel::bounded(0);
        let (upstream, _) =
            Upstream::start("up-test".to_owned(), options, alive).expect("an upstream connection");
        Bench { fake, upstream, slots, inside, broken, refused, clients: Vec::new() }
    }

    fn slot(&mut self, connection: u64) -> Arc<Slot> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        self.clients
            .push(TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection"));
        let (stream, _) = listener.accept().expect("a connection");
        self.slots.open(connection, Arc::new(stream))
    }

    fn head(ticket: Ticket, padding: usize) -> Vec<u8> {
        format!("GET /{} HTTP/1.1\r\nDkv-Ticket: {ticket}\r\n\r\n", "x".repeat(padding)).into_bytes()
    }

    /// Submits a request of a new connection with this number.
    fn submit(&mut self, connection: u64) -> Ticket {
        let slot = self.slot(connection);
        let ticket = slot.next_ticket();
        let permit = self.inside.enter(PATIENCE).expect("a place");
        let head = Bench::head(ticket, 0);
        slot.submit(&head, Asked { method: Method::Get, body: Vec::new(), close: false, permit });
        self.upstream.submit(ticket, &head, PATIENCE).expect("room");
        ticket
    }

    fn wait_until_broken(&self, times: u64) {
        let end = Instant::now() + PATIENCE;
        while self.broken.load(Ordering::Relaxed) < times {
            assert!(Instant::now() < end, "the monitor sees nothing");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_head_that_tiny_http_fails_on_costs_one_client() {
    for fails in [true, false] {
        let bad = move |_: Ticket| if fails { Does::Fails } else { Does::Closes };
        let mut bench =
            Bench::start(move |ticket| if ticket.connection == 13 { bad(ticket) } else { Does::Passes });
        // Taken before it breaks: it is neither refused nor submitted twice.
        let first = bench.submit(1);
        assert_eq!(bench.fake.next(), (0, first));
        assert!(bench.slots.take(first).is_some());
        let poisoned = bench.submit(13);
        let later: Vec<Ticket> = (20..30).map(|connection| bench.submit(connection)).collect();
        assert_eq!(bench.refused.recv_timeout(PATIENCE), Ok(poisoned), "fails: {fails}");
        for ticket in &later {
            assert_eq!(bench.fake.next(), (1, *ticket), "in their order, by the next connection");
        }
        let again = bench.submit(40);
        assert_eq!(bench.fake.next(), (1, again));
        assert!(bench.refused.is_empty() && bench.fake.passed.is_empty());
        assert_eq!(bench.broken.load(Ordering::Relaxed), 1);
        bench.upstream.stop();
    }
}

#[test]
fn a_connection_that_breaks_while_nothing_is_under_way_blames_nobody() {
    let mut bench = Bench::start(|_| Does::Passes);
    let first = bench.submit(1);
    assert_eq!(bench.fake.next(), (0, first));
    assert!(bench.slots.take(first).is_some());
    for times in 1..4 {
        bench.upstream.break_off();
        bench.wait_until_broken(times);
        // Perhaps the next connection is not there yet: what tiny_http was not sent is never blamed.
        let ticket = bench.submit(10 + times);
        assert_eq!(bench.fake.next(), (times as usize, ticket));
        assert!(bench.slots.take(ticket).is_some());
    }
    assert!(bench.refused.is_empty());
    bench.upstream.stop();
}

/// Two workers had requests from tiny_http's queue and were slow to take them while the connection was replaced: the first
/// one was blamed, although tiny_http had read it well.
#[test]
fn a_request_that_a_worker_is_about_to_take_is_not_blamed() {
    let mut bench = Bench::start(|_| Does::Passes);
    let tickets = [bench.submit(1), bench.submit(2)];
    assert_eq!([bench.fake.next(), bench.fake.next()], tickets.map(|ticket| (0, ticket)));
    bench.upstream.break_off();
    bench.wait_until_broken(1);
    thread::sleep(BLAME_PATIENCE / 10);
    assert!(tickets.iter().all(|ticket| bench.slots.take(*ticket).is_some()));
    let again = bench.submit(40);
    assert_eq!(bench.fake.next(), (1, again), "and nothing is submitted twice");
    assert!(bench.refused.is_empty());
    bench.upstream.stop();
}

/// A request that was given up is not submitted once more, and is not blamed.
#[test]
fn what_was_given_up_is_left_out_when_a_connection_is_replaced() {
    let mut bench = Bench::start(|ticket| if ticket.connection == 13 { Does::Closes } else { Does::Passes });
    // Passed on, but no worker comes for them.
    let tickets = [bench.submit(1), bench.submit(2)];
    assert_eq!([bench.fake.next(), bench.fake.next()], tickets.map(|ticket| (0, ticket)));
    for ticket in tickets {
        let slot = bench.slots.get(ticket.connection).expect("open");
        assert!(slot.give_up(ticket.number).is_some());
    }
    let poisoned = bench.submit(13);
    assert_eq!(bench.refused.recv_timeout(PATIENCE), Ok(poisoned));
    let again = bench.submit(40);
    assert_eq!(bench.fake.next(), (1, again));
    bench.upstream.stop();
}

/// tiny_http never stops reading. Were it to, the buffer is bounded, and what finds no room never leaves the edge.
#[test]
fn a_connection_that_takes_nothing_is_replaced_and_its_buffer_is_bounded() {
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().expect("a lock");
    let of_fake = Arc::clone(&gate);
    let mut bench = Bench::start(move |_| {
        drop(of_fake.lock());
        Does::Passes
    });
    let first = bench.submit(1);
    let found_no_room = AtomicU64::new(0);
    // One thread is held up as it flushes and one that wants to; the third adds to the buffer until it is full. Nobody
    // waits for these requests.
    let push = |from: u64| {
        for connection in from.. {
            let ticket = Ticket { connection, number: 1 };
            let head = Bench::head(ticket, 30_000);
            if bench.upstream.submit(ticket, &head, Duration::ZERO).is_err() {
                found_no_room.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if bench.broken.load(Ordering::Relaxed) > 0 {
                return;
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| push(1_000));
        scope.spawn(|| push(2_000));
        scope.spawn(|| push(3_000));
    });
    assert!(found_no_room.load(Ordering::Relaxed) >= 1);
    bench.wait_until_broken(1);
    drop(held);
    // The first one was sent and not taken: it is the one that is blamed. The next connection serves on.
    assert_eq!(bench.refused.recv_timeout(PATIENCE), Ok(first));
    let again = bench.submit(40);
    while bench.fake.next().1 != again {}
    bench.upstream.stop();
}
