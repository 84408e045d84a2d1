//! The right to answer one request, and how an answer gets from it to the client.
//!
//! An answer is made and written by one thread in one write that never waits. A request that waits for the node is answered
//! by a responder, so that the threads of the node make no answers. Any other request is answered by the thread that
//! sends the answer: a worker, or a thread of one of the handler's pools.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel as channel;

use super::inside::Permit;
use super::limits::EdgeLimits;
use super::message::{Method, Response};
use super::outbox::Sent;
use super::render::render;
use super::slot::{Asked, Slot, Slots, Ticket, Writing};
use super::slow_writers::SlowWriters;
use super::takeover::Takeover;
use crate::api::{ErrorBody, ErrorCode, ErrorOutcome};

/// Buffers above this are given back after an answer.
const KEPT_BUFFER_BYTES: usize = 64 * 1024;

/// A header of an answer.
pub type Header = (&'static str, String);

/// The headers that are on every answer the handler did not make, as they are at the moment it is made. None by default.
#[derive(Clone, Default)]
pub struct ErrorHeaders(Option<Arc<dyn Fn() -> Vec<Header> + Send + Sync>>);

impl ErrorHeaders {
    /// What `now` says whenever such an answer is made, on any thread; it must not wait.
    pub fn new(now: impl Fn() -> Vec<Header> + Send + Sync + 'static) -> ErrorHeaders {
        ErrorHeaders(Some(Arc::new(now)))
    }

    /// The headers at this moment.
    pub fn now(&self) -> Vec<Header> {
        self.0.as_ref().map(|now| now()).unwrap_or_default()
    }
}

impl fmt::Debug for ErrorHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErrorHeaders")
    }
}

/// What everybody of a port needs who answers.
#[derive(Debug)]
pub(super) struct Answers {
    /// The open connections.
    pub slots: Arc<Slots>,
    /// The port's limits.
    pub limits: EdgeLimits,
    /// Headers of answers that no handler made.
    pub error_headers: ErrorHeaders,
    /// Panics survived.
    pub panics: Arc<AtomicU64>,
    /// The port stops: every answer is the last one of its connection.
    pub stopping: AtomicBool,
    /// For what does not leave in one write.
    pub slow_writers: Arc<SlowWriters>,
}

impl Answers {
    /// Writes an answer that was made for the request, when nobody else has answered it. Never waits.
    fn write(&self, slot: &Arc<Slot>, number: u64, method: Method, close: bool, response: Response) {
        BUFFER.with_borrow_mut(|bytes| {
            let close = close || self.stopping.load(Ordering::SeqCst);
            let made = catch_unwind(AssertUnwindSafe(|| render(&response, method, close, bytes)));
            if made.is_err() {
                self.panics.fetch_add(1, Ordering::Relaxed);
                render(&self.internal_error(method), method, close, bytes);
            }
            if let Some(writing) = slot.begin(number) {
                self.send(writing, close, bytes);
            }
            bytes.clear();
            bytes.shrink_to(KEPT_BUFFER_BYTES);
        });
    }

    fn send(&self, writing: Writing, close: bool, bytes: &[u8]) {
        if close {
            writing.slot().say_close();
        }
        match writing.slot().outbox.push(bytes) {
            Sent::Whole => {}
            Sent::Part => {
                let deadline = Instant::now() + self.limits.write_deadline(bytes.len());
                self.slow_writers.write(writing, deadline);
            }
            Sent::Broken => writing.slot().outbox.break_off(),
        }
    }

    /// Answers a request that no handler is given: tiny_http may have failed on it. Its connection ends.
    pub(super) fn refuse(&self, ticket: Ticket) {
        let Some((slot, asked)) = self.slots.take(ticket) else { return };
        let body =
            ErrorBody::new(ErrorCode::Unavailable, "the request could not be handed on inside the server");
        let response = self.with_headers(Response::error(&body));
        self.write(&slot, ticket.number, asked.method, true, response);
        drop(asked);
        // Its edge thread reads the next request already.
        slot.outbox.end_reading();
    }

    fn internal_error(&self, method: Method) -> Response {
        let body =
            ErrorBody::new(ErrorCode::Internal, "the server failed on this request; its log says more");
        let outcome = if method.is_read() { ErrorOutcome::NotDone } else { ErrorOutcome::Unknown };
        self.with_headers(Response::error(&body.with_outcome(outcome)))
    }

    /// The same answer with the headers that every answer has.
    pub(super) fn with_headers(&self, mut response: Response) -> Response {
        response.headers.extend(self.error_headers.now());
        response
    }
}

thread_local! {
    /// Where the answers of this thread are made.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

type MakeResponse = Box<dyn FnOnce() -> Response + Send>;

/// What the replies of one lane share.
#[derive(Debug)]
pub(super) struct LaneShared {
    /// Requests that wait for the node.
    pub waiting: Arc<AtomicUsize>,
    /// Most of them.
    pub waiting_limit: usize,
    /// To the responders. As long as all the port's lanes are, and each request inside has one job: it does not fill.
    pub jobs: channel::Sender<Job>,
    /// How answers leave.
    pub answers: Arc<Answers>,
}

/// For a responder.
pub(super) enum Job {
    /// An answer to make and to write.
    Answer(Owed, MakeResponse),
    /// The thread ends.
    Stop,
}

/// A request that a handler has been given and that is not answered yet.
pub(super) struct Owed {
    slot: Arc<Slot>,
    number: u64,
    method: Method,
    close: bool,
    answers: Arc<Answers>,
    /// The request is inside until this is gone.
    _permit: Permit,
}

impl Owed {
    /// Makes the answer and writes it. When the edge thread has answered instead, nothing is made.
    pub(super) fn answer(self, make: MakeResponse) {
        let Owed { slot, number, method, close, answers, _permit } = self;
        if !slot.is_taken(number) {
            return;
        }
        let response = catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|_| {
            answers.panics.fetch_add(1, Ordering::Relaxed);
            answers.internal_error(method)
        });
        answers.write(&slot, number, method, close, response);
    }
}

/// The right to answer one request, once. Dropped without an answer it answers 500.
pub struct Reply {
    /// `None` once answered.
    owed: Option<Owed>,
    lane: Arc<LaneShared>,
    waiting: bool,
}

impl Reply {
    pub(super) fn new(slot: Arc<Slot>, number: u64, asked: Asked, lane: Arc<LaneShared>) -> Reply {
        let (answers, method) = (Arc::clone(&lane.answers), asked.method);
        let owed = Owed { slot, number, method, close: asked.close, answers, _permit: asked.permit };
        Reply { owed: Some(owed), lane, waiting: false }
    }

    /// Answers with what `make` returns, from any thread; it never waits for the client. For a request that waits a
    /// responder calls `make`, otherwise this thread does.
    pub fn send(mut self, make: impl FnOnce() -> Response + Send + 'static) {
        self.answer(Box::new(make));
    }

    /// Takes the connection over instead of answering. The port must have been told that this request may
    /// ([`super::PortOptions::takes_over`]): otherwise the edge thread reads what the other side sends as requests.
    pub fn take_over(mut self, takeover: Takeover) {
        if std::mem::take(&mut self.waiting) {
            self.lane.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(owed) = self.owed.take() {
            owed.slot.take_over(owed.number, takeover);
        }
    }

    /// Counts the request among the waiting ones until it is answered. False when as many are waiting as may be: then
    /// answer `overloaded` at once, so that places stay free for what never waits.
    pub fn start_waiting(&mut self) -> bool {
        if !self.waiting {
            let below = |waiting| (waiting < self.lane.waiting_limit).then_some(waiting + 1);
            let counted = self.lane.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below);
            self.waiting = counted.is_ok();
        }
        self.waiting
    }

    fn answer(&mut self, make: MakeResponse) {
        let has_waited = std::mem::take(&mut self.waiting);
        if has_waited {
            self.lane.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        let Some(owed) = self.owed.take() else { return };
        if !has_waited {
            return owed.answer(make);
        }
        // It does not fill. If it did, the client's connection would break off, and no thread would wait.
        if let Err(refused) = self.lane.jobs.try_send(Job::Answer(owed, make))
            && let Job::Answer(owed, _) = refused.into_inner()
        {
            owed.slot.outbox.break_off();
            drop(owed.slot.begin(owed.number));
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(owed) = &self.owed {
            let (answers, method) = (Arc::clone(&owed.answers), owed.method);
            self.answer(Box::new(move || answers.internal_error(method)));
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}
