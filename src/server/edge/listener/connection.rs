//! One client connection: read a request whole, hand it upstream, relay the answer; one at a time, in order.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{EdgeLimits, Shared, refusal_answer};
use crate::api::{ErrorBody, ErrorCode};
use crate::server::edge::head::{self, Head, MAX_HEAD_BYTES, Refusal};
use crate::server::edge::upstream::{ExchangeError, Pool};

/// Buffers above this are given back after a request, so that idle connections stay small.
const KEPT_BUFFER_BYTES: usize = 64 * 1024;
const READ_STEP_BYTES: usize = 8 * 1024;
const BODY_STEP_BYTES: usize = 256 * 1024;
/// Longest time and most bytes for which a closed connection is read on, so that the answer is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 8 * 1024 * 1024;

/// Why no (further) request was read.
enum End {
    /// Nothing to say: the client closed, was silent between two requests, or the connection broke.
    Quiet,
    /// To be answered, then closed.
    Refused(Refusal),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> End {
        End::Refused(refusal)
    }
}

/// Serves one connection until it ends. Runs on a thread of its own.
pub(super) struct Client<'a> {
    shared: &'a Shared,
    stream: &'a TcpStream,
    /// Whether the client is on this machine.
    from_loopback: bool,
    /// The read timeout the socket has at the moment.
    read_timeout: Option<Duration>,
    /// Bytes read and not used yet: the start of a request.
    input: Vec<u8>,
    /// The clean request: head and body.
    request: Vec<u8>,
    /// What is relayed.
    answer: Vec<u8>,
    /// The lane, chosen by the first request.
    lane: Option<&'a Arc<Pool>>,
}

impl<'a> Client<'a> {
    pub(super) fn new(shared: &'a Shared, stream: &'a TcpStream) -> Client<'a> {
        Client {
            shared,
            stream,
            // No address (the client is gone already) is not this machine.
            from_loopback: stream.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback()),
            read_timeout: None,
            input: Vec::new(),
            request: Vec::new(),
            answer: Vec::new(),
            lane: None,
        }
    }

    pub(super) fn serve(mut self) {
        loop {
            let head = match self.read_request() {
                Ok(head) => head,
                Err(End::Quiet) => return,
                Err(End::Refused(refusal)) => {
                    self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
                    self.answer = refusal_answer(&refusal, &self.shared.error_headers);
                    let _ = self.write_answer();
                    return linger(self.stream);
                }
            };
            self.forward(&head);
            let close = head.close || self.shared.stopping.load(Ordering::SeqCst);
            if close {
                announce_close(&mut self.answer);
            }
            if self.write_answer().is_err() {
                return;
            }
            if close {
                return linger(self.stream);
            }
            for buffer in [&mut self.input, &mut self.request, &mut self.answer] {
                if buffer.capacity() > KEPT_BUFFER_BYTES {
                    buffer.shrink_to(KEPT_BUFFER_BYTES);
                }
            }
        }
    }

    fn limits(&self) -> &'a EdgeLimits {
        &self.shared.limits
    }

    /// Reads one request: its clean form is in `self.request` then, what follows it stays in `self.input`.
    fn read_request(&mut self) -> Result<Head, End> {
        let head_bytes = self.read_head()?;
        let head = head::check(
            &self.input[..head_bytes],
            self.limits().max_body_bytes,
            &self.shared.wanted,
            self.from_loopback,
            &mut self.request,
        )?;
        let here = head.body_bytes.min(self.input.len() - head_bytes);
        self.request.extend_from_slice(&self.input[head_bytes..head_bytes + here]);
        self.input.drain(..head_bytes + here);
        let missing = head.body_bytes - here;
        if missing > 0 {
            if head.expects_continue && here == 0 {
                let mut stream = self.stream;
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(|_| End::Quiet)?;
            }
            self.read_body(head.body_bytes, missing)?;
        }
        Ok(head)
    }

    /// Reads until `self.input` starts with a whole head; returns its length. Waits long for the first byte of a
    /// request, and not long for the rest.
    fn read_head(&mut self) -> Result<usize, End> {
        const STALLED: Refusal = Refusal::with_status(408, "the request's head did not arrive in time");
        let mut looked_at = 0;
        let mut deadline = None;
        let mut may_skip = true;
        loop {
            if may_skip && self.input.starts_with(head::EMPTY_LINE) {
                // Nothing of a request has begun with it.
                self.input.drain(..head::EMPTY_LINE.len());
                (may_skip, looked_at, deadline) = (false, 0, None);
            }
            if let Some(end) = head::find_end(&self.input, looked_at)? {
                return Ok(end);
            }
            looked_at = self.input.len();
            let started = !self.input.is_empty();
            if started && deadline.is_none() {
                deadline = Some(Instant::now() + self.limits().head_timeout);
            }
            let step = READ_STEP_BYTES.min(MAX_HEAD_BYTES + READ_STEP_BYTES - looked_at);
            self.input.resize(looked_at + step, 0);
            let read = match deadline {
                None => self.read_within(Source::Input, looked_at, self.limits().idle_timeout),
                Some(deadline) => self.read_before(Source::Input, looked_at, deadline),
            };
            self.input.truncate(looked_at + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) if started => return Err(self.cut_off()),
                Ok(0) => return Err(End::Quiet),
                Ok(_) => {}
                Err(error) if is_timeout(&error) && started => return Err(STALLED.into()),
                Err(_) => return Err(End::Quiet),
            }
        }
    }

    /// Reads the `missing` last bytes of a body of `body_bytes` into `self.request`.
    fn read_body(&mut self, body_bytes: usize, missing: usize) -> Result<(), End> {
        const STALLED: Refusal = Refusal::with_status(408, "the request's body did not arrive in time");
        let deadline = Instant::now() + self.limits().body_deadline(body_bytes);
        let total = self.request.len() + missing;
        loop {
            let filled = self.request.len();
            if filled == total {
                return Ok(());
            }
            self.request.resize(total.min(filled + BODY_STEP_BYTES), 0);
            let read = self.read_before(Source::Request, filled, deadline);
            self.request.truncate(filled + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(self.cut_off()),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => return Err(STALLED.into()),
                Err(_) => return Err(End::Quiet),
            }
        }
    }

    /// The input ended inside a request: the client closed its side, or the shutdown did.
    fn cut_off(&self) -> End {
        End::Refused(if self.shared.stopping.load(Ordering::SeqCst) {
            Refusal { status: 503, code: ErrorCode::Unavailable, message: "this node is shutting down" }
        } else {
            Refusal::invalid("the request ended early")
        })
    }

    fn read_before(&mut self, source: Source, from: usize, deadline: Instant) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.read_within(source, from, left)
    }

    fn read_within(&mut self, source: Source, from: usize, timeout: Duration) -> io::Result<usize> {
        if self.read_timeout != Some(timeout) {
            self.stream.set_read_timeout(Some(timeout))?;
            self.read_timeout = Some(timeout);
        }
        let buffer = match source {
            Source::Input => &mut self.input[from..],
            Source::Request => &mut self.request[from..],
        };
        loop {
            match (&mut &*self.stream).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Puts the answer to the request into `self.answer`: tiny_http's, or the edge's own when there is none.
    fn forward(&mut self, head: &Head) {
        let pool = *self.lane.get_or_insert_with(|| self.shared.lane(head.lane.as_deref()));
        let (code, message) = match pool.take(self.limits().upstream_wait) {
            None if self.shared.stopping.load(Ordering::SeqCst) => {
                (ErrorCode::Unavailable, "this node is shutting down")
            }
            None => (ErrorCode::Overloaded, "too many requests are being served, try again"),
            Some(lease) => match lease.exchange(&self.request, head.method.is_head(), &mut self.answer) {
                Ok(()) => return,
                Err(ExchangeError::NotSent(error)) => {
                    log::warn!("a request could not be handed to tiny_http: {error}");
                    (
                        ErrorCode::Unavailable,
                        "the request could not be handed on inside the server, try again",
                    )
                }
                Err(error) if head.method.is_read() => {
                    log::warn!("a read got no answer from tiny_http: {error}");
                    match error {
                        ExchangeError::TimedOut => (ErrorCode::Timeout, "the read was not answered in time"),
                        _ => (ErrorCode::Unavailable, "the read broke off inside the server, try again"),
                    }
                }
                Err(error) => {
                    log::warn!("a write got no answer from tiny_http: {error}");
                    (ErrorCode::OutcomeUnknown, "the request was accepted and then not answered in time")
                }
            },
        };
        let body = ErrorBody::new(code, message);
        self.answer = super::error_answer(code.status(), &body, &self.shared.error_headers, false);
        if head.method.is_head() {
            cut_body(&mut self.answer);
        }
    }

    /// Writes the answer whole before its deadline, in one write when the client reads.
    fn write_answer(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + self.limits().write_deadline(self.answer.len());
        let mut rest = self.answer.as_slice();
        let mut stream = self.stream;
        while !rest.is_empty() {
            // Each write is bounded by the socket's own timeout; a slow reader is bounded by the deadline.
            match stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if !rest.is_empty() && Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}

/// The buffer a read goes to.
#[derive(Clone, Copy)]
enum Source {
    Input,
    Request,
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn head_end(answer: &[u8]) -> usize {
    answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(answer.len(), |at| at + 4)
}

/// Adds `Connection: close` to an answer.
fn announce_close(answer: &mut Vec<u8>) {
    let at = head_end(answer) - 2;
    answer.splice(at..at, *b"Connection: close\r\n");
}

/// The answer to a HEAD: the same head, no body.
fn cut_body(answer: &mut Vec<u8>) {
    answer.truncate(head_end(answer));
}

/// Closes a connection whose client may still be sending: a close with unread input would reset it, and the client
/// could lose the answer.
pub(super) fn linger(mut stream: &TcpStream) {
    let deadline = Instant::now() + LINGER;
    let mut scratch = [0; READ_STEP_BYTES];
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
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
