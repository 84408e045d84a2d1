//! One client connection: its edge thread reads requests whole and submits them, one at a time and in order.
//!
//! While a request is owed its answer, the thread reads the next one already. It submits that one when the first is over:
//! answered by whoever has the answer, or given up by this thread when the time is over. So this thread wakes once for each
//! request of a client that sends one at a time.

mod reader;

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Lane, Shared};
use crate::api::{ErrorBody, ErrorCode, ErrorOutcome};
use crate::server::edge::head::{Head, Refusal};
use crate::server::edge::limits::EdgeLimits;
use crate::server::edge::message::{Method, Response};
use crate::server::edge::outbox::Sent;
use crate::server::edge::render::render;
use crate::server::edge::slot::{Asked, GivenUp, Slot};
use crate::server::edge::takeover::{Place, is_gone};
use reader::Reader;

/// Longest time and most bytes for which a closed connection is read on, so that the answer is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 8 * 1024 * 1024;

/// How often a thread that waits for a takeover looks whether the client is gone.
const CLIENT_LOOK: Duration = Duration::from_secs(1);

/// Why no (further) request was read.
enum End {
    /// Nothing to say: the client closed its side or was silent between two requests, or an answer has said the end.
    Quiet,
    /// The connection is broken: nobody is there to be answered.
    Gone,
    /// To be answered, then closed.
    Refused(Refusal),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> End {
        End::Refused(refusal)
    }
}

/// The request that is owed an answer, or was when this thread looked last.
struct Owed {
    number: u64,
    deadline: Instant,
    method: Method,
    close: bool,
}

/// Why a request is given up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It was not answered in time.
    Overdue,
    /// The port stops, and the grace is over.
    Stopping,
    /// It could not be handed on: no worker can have it.
    NoRoom,
}

/// Serves one connection until it ends. Runs on a thread of its own.
pub(super) struct Client<'a> {
    shared: &'a Shared,
    id: u64,
    slot: Arc<Slot>,
    stream: &'a Arc<TcpStream>,
    reader: Reader<'a>,
    /// The lane, chosen by the first request.
    lane: Option<&'a Lane>,
    owed: Option<Owed>,
    /// Since when no request is owed an answer.
    quiet_since: Instant,
    /// The answers that this thread makes.
    answer: Vec<u8>,
}

impl<'a> Client<'a> {
    pub(super) fn new(shared: &'a Shared, id: u64, stream: &'a Arc<TcpStream>) -> Client<'a> {
        Client {
            shared,
            id,
            slot: shared.answers.slots.open(id, Arc::clone(stream)),
            stream,
            reader: Reader::new(stream),
            lane: None,
            owed: None,
            quiet_since: Instant::now(),
            answer: Vec::new(),
        }
    }

    pub(super) fn serve(mut self) {
        loop {
            let head = match self.read_request() {
                Ok(head) => head,
                Err(End::Gone) => return,
                Err(end) => return self.end(end),
            };
            if !self.await_answer() {
                return self.end(End::Quiet);
            }
            let (close, takes_over) = (head.close, head.takes_over);
            self.submit(head);
            if takes_over && self.hand_over_when_asked() {
                return;
            }
            if close {
                self.await_answer();
                return self.end(End::Quiet);
            }
            self.reader.shrink();
        }
    }

    fn limits(&self) -> &'a EdgeLimits {
        &self.shared.answers.limits
    }

    /// Writes what is left to say, after the answer that is owed, and closes.
    fn end(&mut self, end: End) {
        if self.await_answer()
            && let End::Refused(refusal) = end
        {
            self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            let body = ErrorBody::new(refusal.code, refusal.message);
            let response = Response { status: refusal.status, ..Response::error(&body) };
            self.write(response, Method::Other, true);
        }
        if self.slot.said_close() {
            linger(self.reader.stream());
        }
    }

    /// Waits for the answer without reading ahead, and looks once a second whether the client is gone. When the handler takes
    /// the connection over, runs that to its end. Whether the connection is over.
    fn hand_over_when_asked(&mut self) -> bool {
        while let Some(Owed { number, deadline, close, .. }) = self.owed {
            if let Some(takeover) = self.slot.begin_takeover(number) {
                self.owed = None;
                let answers = Arc::clone(&self.shared.answers);
                let place = Place {
                    stream: Arc::clone(self.stream),
                    outbox: Arc::clone(&self.slot.outbox),
                    limits: self.limits().clone(),
                    is_stopping: Box::new(move || answers.stopping.load(Ordering::SeqCst)),
                    close,
                };
                let goes_on = takeover.run(place, || self.reader.take_input());
                self.slot.finish_takeover(number);
                self.quiet_since = Instant::now();
                return !goes_on;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.shared.forced.load(Ordering::SeqCst) {
                return !self.await_answer();
            }
            if self.slot.wait(number, left.min(CLIENT_LOOK)) {
                self.forget_owed();
            } else if is_gone(self.stream) {
                return true;
            }
        }
        false
    }

    /// Waits until no request is owed an answer any more; gives it up when its time is over. Whether the connection goes
    /// on: not after an answer that has said the end, or that was not taken.
    fn await_answer(&mut self) -> bool {
        while let Some(owed) = &self.owed {
            let left = owed.deadline.saturating_duration_since(Instant::now());
            if self.slot.wait(owed.number, left) {
                self.forget_owed();
            } else if self.slot.is_taken_over(owed.number) {
                // Only for a request that the port does not know to do this: a bug, which costs its connection.
                return false;
            } else if self.shared.forced.load(Ordering::SeqCst) {
                self.give_up(Why::Stopping);
            } else if Instant::now() >= owed.deadline {
                self.give_up(Why::Overdue);
            }
        }
        !self.slot.said_close() && !self.slot.outbox.is_broken()
    }

    fn forget_owed(&mut self) {
        self.owed = None;
        self.quiet_since = self.slot.done_at();
    }

    /// Answers the request that is owed an answer, unless the answer is being written. What the answer says is certain:
    /// see the table of outcomes in `docs/architecture.md`.
    fn give_up(&mut self, why: Why) {
        let Some(owed) = self.owed.take() else { return };
        let (code, outcome, message) = match (self.slot.give_up(owed.number), why, owed.method.is_read()) {
            (None, ..) => {
                // The answer is on its way, and has a deadline of its own: that of a slow writer.
                let patience = self.limits().write_timeout;
                self.owed = Some(Owed { deadline: Instant::now() + patience, ..owed });
                return;
            }
            (Some(GivenUp::NotTaken), Why::Stopping, _) => {
                (ErrorCode::Unavailable, ErrorOutcome::NotDone, "this node is shutting down")
            }
            (Some(GivenUp::NotTaken), Why::Overdue, _) => {
                let text = "too much is being served: the request was not begun in time, try again";
                (ErrorCode::Overloaded, ErrorOutcome::NotDone, text)
            }
            (Some(GivenUp::NotTaken), Why::NoRoom, _) => {
                let text = "too many requests wait to be handed on, try again";
                (ErrorCode::Overloaded, ErrorOutcome::NotDone, text)
            }
            (Some(GivenUp::Taken), Why::Stopping, true) => {
                (ErrorCode::Unavailable, ErrorOutcome::NotDone, "this node is shutting down")
            }
            (Some(GivenUp::Taken), Why::Overdue | Why::NoRoom, true) => {
                (ErrorCode::Timeout, ErrorOutcome::NotDone, "the read was not answered in time")
            }
            (Some(GivenUp::Taken), _, false) => {
                let text = "the request was accepted and then not answered in time";
                (ErrorCode::OutcomeUnknown, ErrorOutcome::Unknown, text)
            }
        };
        log::warn!("a request was given up ({code}): {message}");
        let body = ErrorBody::new(code, message).with_outcome(outcome);
        self.write(Response::error(&body), owed.method, owed.close);
    }

    /// Submits the request that was read. One that finds no place is answered here.
    fn submit(&mut self, head: Head) {
        let lane = *self.lane.get_or_insert_with(|| self.shared.lane(head.lane.as_deref()));
        let Some(permit) = lane.inside.enter(self.limits().entry_wait) else {
            let (code, message) = match self.shared.is_stopping() {
                true => (ErrorCode::Unavailable, "this node is shutting down"),
                false => (ErrorCode::Overloaded, "too many requests are being served, try again"),
            };
            return self.write(Response::error(&ErrorBody::new(code, message)), head.method, head.close);
        };
        let ticket = self.slot.next_ticket();
        let body = std::mem::take(&mut self.reader.body);
        self.slot.submit(&self.reader.head, Asked { method: head.method, body, close: head.close, permit });
        let deadline = Instant::now() + self.limits().answer_timeout;
        self.owed = Some(Owed { number: ticket.number, deadline, method: head.method, close: head.close });
        let upstream = &lane.upstreams[self.id as usize % lane.upstreams.len()];
        if upstream.submit(ticket, &self.reader.head, self.limits().entry_wait).is_err() {
            self.give_up(Why::NoRoom);
        }
    }

    /// Writes an answer of this thread's own; it may wait for the client as long as any answer may.
    fn write(&mut self, response: Response, method: Method, close: bool) {
        let close = close || self.shared.is_stopping();
        render(&self.shared.answers.with_headers(response), method, close, &mut self.answer);
        if close {
            self.slot.say_close();
        }
        let answer = std::mem::take(&mut self.answer);
        self.write_bytes(&answer);
        self.answer = answer;
        self.quiet_since = Instant::now();
    }

    /// Writes before the deadline of its size. A connection that does not take it is broken off.
    fn write_bytes(&mut self, bytes: &[u8]) {
        let outbox = &self.slot.outbox;
        let written = match outbox.push(bytes) {
            Sent::Whole => return,
            Sent::Broken => Err(ErrorKind::BrokenPipe.into()),
            Sent::Part => outbox.drain(Instant::now() + self.limits().write_deadline(bytes.len())),
        };
        if let Err(error) = written {
            if error.kind() == ErrorKind::TimedOut {
                self.shared.counters.answers_dropped.fetch_add(1, Ordering::Relaxed);
            }
            outbox.break_off();
        }
    }
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        // The client is gone: what no worker has taken is not done, and nobody asks for the answer to the rest.
        if let Some(owed) = &self.owed {
            let _ = self.slot.give_up(owed.number);
        }
        self.shared.answers.slots.close(self.id);
        // A handler that still runs holds the slot, and with it the socket: the client sees the end at once.
        self.slot.outbox.break_off();
    }
}

/// Closes a connection whose client may still be sending: a close with unread input would reset it, and the client
/// could lose the answer.
pub(super) fn linger(mut stream: &TcpStream) {
    use std::io::Read;
    let deadline = Instant::now() + LINGER;
    let mut scratch = [0; 8 * 1024];
    let mut dropped = 0;
    if stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    while dropped < LINGER_BYTES {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match stream.read(&mut scratch) {
            Ok(0) => return,
            Ok(read) => dropped += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
