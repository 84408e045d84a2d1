//! The slot of a connection: its word, what a handler is given for the request under way, and its outbox.
//!
//! Invariants, with those of [`super::word`]:
//! 1. What a handler is given changes hands under one lock, together with the word: a worker that was slow to come never
//!    gets the body of a later request.
//! 2. A [`Writing`] ends with `finish`, whatever happens to the thread that holds it: an edge thread never waits for an
//!    answerer that is gone.
//! 3. After an answer that says `Connection: close` nothing more is submitted.

use std::collections::HashMap;
use std::fmt;
use std::net::TcpStream;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::inside::Permit;
use super::message::Method;
use super::outbox::Outbox;
use super::takeover::Takeover;
use super::word::{SharedWord, State, Word};

/// Buffers above this are given back after a request, so that idle connections stay small.
const KEPT_BUFFER_BYTES: usize = 64 * 1024;

/// The moment from which times are counted.
static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);

/// One request of one connection. Neither number is ever used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    /// The connection.
    pub connection: u64,
    /// The request, counted from 1.
    pub number: u64,
}

/// As the header of the request has it: `12.345`.
impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.connection, self.number)
    }
}

impl FromStr for Ticket {
    type Err = ();

    fn from_str(text: &str) -> Result<Ticket, ()> {
        let (connection, number) = text.split_once('.').ok_or(())?;
        Ok(Ticket { connection: connection.parse().map_err(drop)?, number: number.parse().map_err(drop)? })
    }
}

/// What a handler is given besides the head that tiny_http has read.
#[derive(Debug)]
pub(super) struct Asked {
    /// The method.
    pub method: Method,
    /// The whole body.
    pub body: Vec<u8>,
    /// The connection ends after the answer.
    pub close: bool,
    /// The request's place among those that are inside.
    pub permit: Permit,
}

/// What was under way when the edge thread gave a request up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// No worker had it: surely not done.
    NotTaken,
    /// A handler has run, runs or will run.
    Taken,
}

#[derive(Debug, Default)]
struct Pending {
    /// The clean head, for another upstream connection when the first one breaks.
    head: Vec<u8>,
    /// Taken by the worker.
    asked: Option<Asked>,
    /// Left by the handler for the edge thread.
    takeover: Option<Takeover>,
}

/// One connection, as those see it who answer its requests.
#[derive(Debug)]
pub(super) struct Slot {
    connection: u64,
    word: SharedWord,
    pending: Mutex<Pending>,
    /// The way to the client.
    pub outbox: Arc<Outbox>,
    /// Whether the client is on this machine.
    pub from_loopback: bool,
    edge_thread: Thread,
    said_close: AtomicBool,
    /// When the last answer was written, in ms after `BASE`.
    done_ms: AtomicU64,
}

impl Slot {
    fn new(connection: u64, stream: Arc<TcpStream>) -> Slot {
        // No address (the client is gone already) is not this machine.
        let from_loopback = stream.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback());
        Slot {
            connection,
            word: SharedWord::new(),
            pending: Mutex::default(),
            outbox: Arc::new(Outbox::new(stream)),
            from_loopback,
            edge_thread: thread::current(),
            said_close: AtomicBool::new(false),
            done_ms: AtomicU64::new(now_ms()),
        }
    }

    // ---- the edge thread ---------------------------------------------------------------------------------------------

    /// The ticket of the next request.
    pub(super) fn next_ticket(&self) -> Ticket {
        Ticket { connection: self.connection, number: self.word.get().number() + 1 }
    }

    /// Makes the next request ready to be taken; call it when the one before is over.
    pub(super) fn submit(&self, head: &[u8], asked: Asked) {
        let mut pending = self.pending();
        pending.head.clear();
        pending.head.extend_from_slice(head);
        pending.asked = Some(asked);
        let submitted = self.word.change(Word::submit);
        assert!(submitted.is_some(), "one request of a connection at a time");
    }

    /// Whether nobody owes the request an answer any more.
    pub(super) fn is_over(&self, number: u64) -> bool {
        self.word.get().is_over(number)
    }

    /// Sleeps until the request is over, for `patience` at most; it may return early. Whether it is over.
    pub(super) fn wait(&self, number: u64, patience: Duration) -> bool {
        if self.word.change(|word| word.wait(number)).is_some() {
            thread::park_timeout(patience);
        }
        self.is_over(number)
    }

    /// Takes the answer over from the handler. `None`: it is being written, or was.
    pub(super) fn give_up(&self, number: u64) -> Option<GivenUp> {
        let mut pending = self.pending();
        let before = self.word.change(|word| word.give_up(number))?;
        match before.state() {
            State::Submitted => {
                pending.asked = None;
                Some(GivenUp::NotTaken)
            }
            _ => Some(GivenUp::Taken),
        }
    }

    /// What the handler of the request left, when it takes the connection over.
    pub(super) fn begin_takeover(&self, number: u64) -> Option<Takeover> {
        let mut pending = self.pending();
        let word = self.word.get();
        (word.number() == number && word.state() == State::TakenOver).then(|| pending.takeover.take())?
    }

    /// Whether the handler has taken the connection over.
    pub(super) fn is_taken_over(&self, number: u64) -> bool {
        let word = self.word.get();
        word.number() == number && word.state() == State::TakenOver
    }

    /// The takeover has ended.
    pub(super) fn finish_takeover(&self, number: u64) {
        self.word.change(|word| word.finish_takeover(number));
    }

    /// Whether an answer has said that the connection ends.
    pub(super) fn said_close(&self) -> bool {
        self.said_close.load(Ordering::Acquire)
    }

    /// An answer that says so is about to be written.
    pub(super) fn say_close(&self) {
        self.said_close.store(true, Ordering::Release);
    }

    /// When the last answer was written.
    pub(super) fn done_at(&self) -> Instant {
        *BASE + Duration::from_millis(self.done_ms.load(Ordering::Acquire))
    }

    // ---- the others --------------------------------------------------------------------------------------------------

    /// A worker is about to call the handler. `None`: the request is given up, or another worker has it.
    fn take(&self, number: u64) -> Option<Asked> {
        let mut pending = self.pending();
        self.word.change(|word| word.take(number))?;
        if pending.head.capacity() > KEPT_BUFFER_BYTES {
            pending.head = Vec::new();
        }
        pending.asked.take()
    }

    /// Appends the request's head to `bytes`, when no worker has the request yet. Whether it did.
    pub(super) fn copy_head(&self, number: u64, bytes: &mut Vec<u8>) -> bool {
        let pending = self.pending();
        let word = self.word.get();
        let is_submitted = word.number() == number && word.state() == State::Submitted;
        if is_submitted {
            bytes.extend_from_slice(&pending.head);
        }
        is_submitted
    }

    /// Whether an answer to the request would still be sent.
    pub(super) fn is_taken(&self, number: u64) -> bool {
        let word = self.word.get();
        word.number() == number && word.state() == State::Taken
    }

    /// Takes the socket to write the answer. `None`: the edge thread has given the request up.
    pub(super) fn begin(self: &Arc<Self>, number: u64) -> Option<Writing> {
        self.word.change(|word| word.begin(number))?;
        Some(Writing { slot: Arc::clone(self), number })
    }

    /// Leaves what takes the connection over for the edge thread, unless that thread has given the request up.
    pub(super) fn take_over(&self, number: u64, takeover: Takeover) {
        let mut pending = self.pending();
        let Some(before) = self.word.change(|word| word.take_over(number)) else { return };
        pending.takeover = Some(takeover);
        if before.waits() {
            self.wake();
        }
    }

    /// Wakes the edge thread, whether it waits or not.
    pub(super) fn wake(&self) {
        self.edge_thread.unpark();
    }

    fn finish(&self, number: u64) {
        self.done_ms.store(now_ms(), Ordering::Release);
        if let Some(before) = self.word.change(|word| word.finish(number))
            && before.waits()
        {
            self.wake();
        }
    }

    /// Every change is whole before the lock is given back, so a panic elsewhere does not spoil it.
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_ms() -> u64 {
    u64::try_from(BASE.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// An answer that is being written. The request is over when it is dropped.
#[derive(Debug)]
pub(super) struct Writing {
    slot: Arc<Slot>,
    number: u64,
}

impl Writing {
    /// Whose answer it is.
    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.slot.finish(self.number);
    }
}

/// The slots of all connections of a port.
#[derive(Debug, Default)]
pub(super) struct Slots(RwLock<HashMap<u64, Arc<Slot>>>);

impl Slots {
    /// The slot of a new connection. The thread that calls is its edge thread.
    pub(super) fn open(&self, connection: u64, stream: Arc<TcpStream>) -> Arc<Slot> {
        let slot = Arc::new(Slot::new(connection, stream));
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(connection, Arc::clone(&slot));
        slot
    }

    /// The connection has ended: no request of it is taken any more.
    pub(super) fn close(&self, connection: u64) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&connection);
    }

    /// The connection's slot, while it is open.
    pub(super) fn get(&self, connection: u64) -> Option<Arc<Slot>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&connection).cloned()
    }

    /// A worker is about to call the handler of the request. `None`: it was given up, or another worker has it.
    pub(super) fn take(&self, ticket: Ticket) -> Option<(Arc<Slot>, Asked)> {
        let slot = self.get(ticket.connection)?;
        let asked = slot.take(ticket.number)?;
        Some((slot, asked))
    }

    /// Wakes the edge threads of all connections.
    pub(super) fn wake_all(&self) {
        let slots: Vec<_> = self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        slots.iter().for_each(|slot| slot.wake());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::edge::inside::Inside;
    use std::net::TcpListener;

    fn slots_with_one() -> (Slots, Arc<Slot>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
        let (stream, _) = listener.accept().expect("a connection");
        let slots = Slots::default();
        let slot = slots.open(7, Arc::new(stream));
        (slots, slot, client)
    }

    fn asked(inside: &Arc<Inside>, body: &[u8]) -> Asked {
        let permit = inside.enter(Duration::ZERO).expect("a place");
        Asked { method: Method::Put, body: body.to_vec(), close: false, permit }
    }

    /// The head names the first request and the slot holds the second one's body.
    #[test]
    fn a_worker_that_was_slow_to_come_never_gets_the_body_of_a_later_request() {
        let (slots, slot, _client) = slots_with_one();
        let inside = Arc::new(Inside::new(2));
        let first = slot.next_ticket();
        slot.submit(b"first", asked(&inside, b"1"));
        assert_eq!(slot.give_up(first.number), Some(GivenUp::NotTaken));
        assert_eq!(inside.count(), 0, "its place is free");
        let second = slot.next_ticket();
        slot.submit(b"second", asked(&inside, b"2"));
        assert!(slots.take(first).is_none());
        assert!(!slot.copy_head(first.number, &mut Vec::new()));
        let (_, taken) = slots.take(second).expect("it was submitted");
        assert_eq!(taken.body, b"2");
        assert!(slots.take(second).is_none(), "once");
        assert_eq!((slot.give_up(second.number), inside.count()), (Some(GivenUp::Taken), 1));
        assert!(slot.begin(second.number).is_none());
    }

    /// The edge thread of a request that may be taken over looks at its client once a second: only without that does it show
    /// that a takeover wakes it.
    #[test]
    fn a_takeover_ends_the_wait() {
        let (slots, slot, _client) = slots_with_one();
        let ticket = slot.next_ticket();
        slot.submit(b"head", asked(&Arc::new(Inside::new(1)), b""));
        let (taken, _asked) = slots.take(ticket).expect("it was submitted");
        let handler = thread::spawn(move || {
            while !taken.word.get().waits() {
                thread::yield_now();
            }
            taken.take_over(ticket.number, Takeover::switch("test/1", |_| {}));
        });
        let end = Instant::now() + Duration::from_secs(30);
        while !slot.is_taken_over(ticket.number) && Instant::now() < end {
            slot.wait(ticket.number, end.saturating_duration_since(Instant::now()));
        }
        assert!(Instant::now() < end, "the edge thread was not woken");
        assert!(handler.join().is_ok() && slot.begin_takeover(ticket.number).is_some());
    }

    #[test]
    fn an_answerer_that_is_gone_ends_the_wait() {
        let (slots, slot, _client) = slots_with_one();
        let inside = Arc::new(Inside::new(1));
        let ticket = slot.next_ticket();
        slot.submit(b"head", asked(&inside, b""));
        let (taken, _asked) = slots.take(ticket).expect("it was submitted");
        let answerer = thread::spawn(move || {
            let _writing = taken.begin(ticket.number).expect("it was taken");
            panic!("the answerer panics, as the test asked");
        });
        let end = Instant::now() + Duration::from_secs(30);
        while !slot.wait(ticket.number, end.saturating_duration_since(Instant::now())) {}
        assert!(Instant::now() < end, "the edge thread was not woken");
        assert!(answerer.join().is_err());
        slots.close(7);
        assert!(slots.take(slot.next_ticket()).is_none());
    }
}
