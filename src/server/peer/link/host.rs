//! The called side of links: reads calls from a connection that was taken over, and sends their answers whenever the
//! member has them, from whichever thread. Nothing here waits for an answer, and no answer waits for the socket.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::carried_route;
use super::frame::{self, Frame, FrameError, FrameReader, Kind};
use crate::node::Completion;
use crate::raft::MemberId;
use crate::server::edge::{Connection, Sender};
use crate::server::peer::codec::LinkKind;

/// Calls of one link that may be unanswered at a time. A caller waits for each answer; what it no longer waits for has
/// timed out. More is a flood.
const MAX_UNANSWERED: usize = 64;

/// How often a silent link is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// A connect that takes longer shows nothing.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);

/// The sockets of a process that has ended are all closed after this time.
const CLOSING: Duration = Duration::from_millis(200);

/// Between two connects while a process may be ending.
const PROBE_PAUSE: Duration = Duration::from_millis(1);

/// Answers a call of a route, now or later: with a status and a body.
pub(in crate::server::peer) type Answer<'a> = dyn Fn(&'static str, &[u8], Completion<(u16, Vec<u8>)>) + 'a;

/// How a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The other process ended without a word, or its connection broke.
    Lost,
    /// The other process stops in order, this one does, or another link has replaced this one.
    InOrder,
    /// The other side does not keep to the form.
    Refused(&'static str),
}

/// The links that are open at this member.
#[derive(Debug, Default)]
pub(crate) struct Hosted {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    last_id: u64,
    links: BTreeMap<(MemberId, LinkKind), (u64, Sender)>,
}

impl Hosted {
    /// The number of the link that is admitted now. A later number replaces an earlier one, also when its thread is the
    /// first to run.
    pub(crate) fn admit(&self) -> u64 {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.last_id += 1;
        open.last_id
    }

    /// Serves the link that was admitted as number `id` until it ends. `answer` is given each call.
    pub(crate) fn serve(
        &self,
        mut connection: Connection,
        id: u64,
        (from, kind): (MemberId, LinkKind),
        answer: &Answer<'_>,
    ) -> End {
        let sender = connection.sender();
        if !self.enter((from, kind), id, &sender) {
            sender.break_off();
            return End::InOrder;
        }
        let already = connection.take_already_read();
        let end = match connection.set_read_timeout(LOOK) {
            Ok(()) => {
                let mut reader = FrameReader::new(connection, already);
                let end = read_calls(&mut reader, kind, &sender, answer);
                if reader.socket().is_stopping() { End::InOrder } else { end }
            }
            Err(_) => End::InOrder,
        };
        sender.break_off();
        if self.leave((from, kind), id) { end } else { End::InOrder }
    }

    /// A second link of the same kind from the same sender replaces the first one. Returns whether this one has not been
    /// replaced already.
    fn enter(&self, key: (MemberId, LinkKind), id: u64, sender: &Sender) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.links.get(&key).is_some_and(|(current, _)| *current > id) {
            return false;
        }
        if let Some((_, replaced)) = open.links.insert(key, (id, sender.clone())) {
            replaced.break_off();
        }
        true
    }

    /// Ends the links of these members, but not the one that carries the calls of a leader.
    pub(crate) fn end_links_of(&self, is_removed: &dyn Fn(MemberId) -> bool) {
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let senders: Vec<MemberId> = open().links.keys().map(|(from, _)| *from).collect();
        let removed: Vec<MemberId> = senders.into_iter().filter(|from| is_removed(*from)).collect();
        for ((from, kind), (_, sender)) in &open().links {
            if *kind != LinkKind::Core && removed.contains(from) {
                sender.break_off();
            }
        }
    }

    /// Whether the link was not replaced.
    fn leave(&self, key: (MemberId, LinkKind), id: u64) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = open.links.get(&key).is_some_and(|(current, _)| *current == id);
        if is_current {
            open.links.remove(&key);
        }
        is_current
    }
}

fn read_calls(reader: &mut FrameReader<Connection>, kind: LinkKind, sender: &Sender, answer: &Answer) -> End {
    let unanswered = Arc::new(AtomicUsize::new(0));
    loop {
        match reader.read() {
            Ok(Frame { kind: Kind::Call, code, number, body }) => {
                let Some(route) = carried_route(kind, code) else {
                    return End::Refused("no call of this kind of link");
                };
                if unanswered.fetch_add(1, Ordering::SeqCst) >= MAX_UNANSWERED {
                    return End::Refused("too many calls without waiting for their answers");
                }
                let owed = Owed {
                    sender: sender.clone(),
                    number,
                    unanswered: unanswered.clone(),
                    is_answered: false,
                };
                answer(route, &body, Box::new(move |made| owed.answer(made)));
            }
            Ok(Frame { kind: Kind::Goodbye, .. }) => return End::InOrder,
            Ok(Frame { kind: Kind::Answer, .. }) => return End::Refused("an answer, where calls are made"),
            // Silent between two frames, or a frame is arriving: the reader bounds its time.
            Err(FrameError::TimedOut) => {}
            Err(FrameError::Malformed(why)) => return End::Refused(why),
            Err(FrameError::Closed | FrameError::Broken(_)) => return End::Lost,
        }
    }
}

/// A call that is owed an answer. Dropped without one it answers 500, as over HTTP.
struct Owed {
    sender: Sender,
    number: u64,
    unanswered: Arc<AtomicUsize>,
    is_answered: bool,
}

impl Owed {
    fn answer(mut self, (status, body): (u16, Vec<u8>)) {
        self.is_answered = true;
        self.send(status, &body);
    }

    fn send(&self, status: u16, body: &[u8]) {
        // A link that is full or broken ends, and its caller learns that.
        self.sender.send(&frame::encode(Kind::Answer, status, self.number, body));
        if status == GONE {
            // A removed member has no right to a link any more.
            self.sender.break_off();
        }
    }
}

/// The sender was removed from the cluster.
const GONE: u16 = 410;

impl Drop for Owed {
    fn drop(&mut self) {
        if !self.is_answered {
            self.send(500, b"");
        }
        self.unanswered.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether surely no process listens at `raft_addr`: every address of it refuses a connection. Anything else shows
/// nothing: a machine that vanished does not answer, and a process that was started again does.
pub(crate) fn nobody_listens(raft_addr: &str) -> bool {
    let Ok(addresses) = raft_addr.to_socket_addrs() else { return false };
    let addresses: Vec<SocketAddr> = addresses.collect();
    !addresses.is_empty() && addresses.iter().all(refuses)
}

/// Whether connections to this address are refused. The system closes the sockets of a process that has ended one after
/// the other, and its listener may be the last one. Such a listener still takes a connection, and resets it soon: then
/// another one is tried. A process that lives keeps a connection open on which nothing was said yet.
fn refuses(address: &SocketAddr) -> bool {
    let deadline = Instant::now() + CLOSING;
    while Instant::now() < deadline {
        match TcpStream::connect_timeout(address, PROBE_TIMEOUT) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return true,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(_) => return false,
            Ok(connection) if stays_open(&connection, deadline) => return false,
            Ok(_) => {}
        }
        std::thread::sleep(PROBE_PAUSE);
    }
    false
}

/// Whether the other side leaves the connection open until `deadline`.
fn stays_open(mut connection: &TcpStream, deadline: Instant) -> bool {
    let patience = deadline.saturating_duration_since(Instant::now()).max(PROBE_PAUSE);
    if connection.set_read_timeout(Some(patience)).is_err() {
        return true;
    }
    match connection.read(&mut [0; 1]) {
        Ok(0) => false,
        Ok(_) => true,
        Err(error) => {
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::sync::atomic::AtomicBool;

    use rustix::event::{PollFd, PollFlags, poll};

    /// The listener of a process that had just been killed took the one connection that was tried, because its link was
    /// closed first. So the process was taken for alive, and the failover waited for the election timeout.
    #[test]
    fn a_listener_that_is_being_closed_is_not_taken_for_a_process_that_lives() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let closing = std::thread::spawn(move || {
            // The first connection has come, and nobody has accepted it.
            let mut wait = [PollFd::new(&listener, PollFlags::IN)];
            assert_eq!(poll(&mut wait, None), Ok(1));
            drop(listener);
        });
        assert!(nobody_listens(&address));
        closing.join().unwrap();
    }

    #[test]
    fn a_process_that_listens_and_says_nothing_lives() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!nobody_listens(&listener.local_addr().unwrap().to_string()));
    }

    /// A proxy that closes whatever it cannot pass on shows nothing.
    #[test]
    fn somebody_who_closes_every_connection_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let closes = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                drop(listener.accept());
            }
        });
        assert!(!nobody_listens(&address.to_string()));
        stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(address);
        closes.join().unwrap();
    }

    /// The threads that serve two links of one kind may begin in any order.
    #[test]
    fn a_link_that_was_admitted_earlier_does_not_replace_a_later_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut clients = Vec::new();
        let mut sender = || {
            clients.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            Sender::to(Arc::new(listener.accept().unwrap().0))
        };
        let (first, second, third) = (sender(), sender(), sender());
        let key = (MemberId(1), LinkKind::Core);
        let hosted = Hosted::default();
        let ids = [hosted.admit(), hosted.admit(), hosted.admit()];
        assert!(hosted.enter(key, ids[1], &second));
        assert!(!hosted.enter(key, ids[0], &first), "the second one is the link");
        assert!(second.send(b"a"));
        assert!(hosted.enter(key, ids[2], &third));
        assert!(!hosted.leave(key, ids[1]) && hosted.leave(key, ids[2]));
        let mut got = Vec::new();
        clients[1].read_to_end(&mut got).unwrap();
        assert_eq!(got, b"a", "replaced, and so ended");
    }
}
