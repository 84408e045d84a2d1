//! Reading requests whole, while an earlier one may be owed its answer: its deadline is kept here, too.

use std::io::{self, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{Client, End, Why};
use crate::api::ErrorCode;
use crate::server::edge::head::{self, Head, MAX_HEAD_BYTES, Refusal};

/// Buffers above this are given back after a request, so that idle connections stay small.
const KEPT_BUFFER_BYTES: usize = 64 * 1024;
const READ_STEP_BYTES: usize = 8 * 1024;
const BODY_STEP_BYTES: usize = 256 * 1024;

/// The reading side of a connection.
pub(super) struct Reader<'a> {
    stream: &'a TcpStream,
    /// The read timeout the socket has at the moment.
    timeout: Option<Duration>,
    /// Bytes read and not used yet: the start of a request.
    input: Vec<u8>,
    /// The clean head of the request that was read.
    pub head: Vec<u8>,
    /// Its body.
    pub body: Vec<u8>,
}

/// The buffer a read goes to.
#[derive(Clone, Copy)]
enum Source {
    Input,
    Body,
}

/// How long a read may take.
#[derive(Clone, Copy)]
enum Limit {
    /// Nothing of a request is there yet: as long as the client may be silent.
    Idle,
    /// Until then.
    At(Instant),
}

impl<'a> Reader<'a> {
    pub(super) fn new(stream: &'a TcpStream) -> Reader<'a> {
        Reader { stream, timeout: None, input: Vec::new(), head: Vec::new(), body: Vec::new() }
    }

    pub(super) fn stream(&self) -> &'a TcpStream {
        self.stream
    }

    /// What was read and belongs to no request yet.
    pub(super) fn take_input(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    /// Gives large buffers back.
    pub(super) fn shrink(&mut self) {
        for buffer in [&mut self.input, &mut self.head, &mut self.body] {
            if buffer.capacity() > KEPT_BUFFER_BYTES {
                buffer.shrink_to(KEPT_BUFFER_BYTES);
            }
        }
    }

    fn read_within(&mut self, source: Source, from: usize, timeout: Duration) -> io::Result<usize> {
        if self.timeout != Some(timeout) {
            self.stream.set_read_timeout(Some(timeout))?;
            self.timeout = Some(timeout);
        }
        let buffer = match source {
            Source::Input => &mut self.input[from..],
            Source::Body => &mut self.body[from..],
        };
        loop {
            match (&mut &*self.stream).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl Client<'_> {
    /// Reads one request: its clean head and its body are in the reader then, and what follows it stays there, too.
    pub(super) fn read_request(&mut self) -> Result<Head, End> {
        let head_bytes = self.read_head()?;
        let ticket = self.slot.next_ticket();
        let reader = &mut self.reader;
        let head = head::check(
            &reader.input[..head_bytes],
            self.shared.answers.limits.max_body_bytes,
            &self.shared.requests.wanted,
            self.shared.requests.takes_over,
            ticket,
            &mut reader.head,
        )?;
        let here = head.body_bytes.min(reader.input.len() - head_bytes);
        reader.body.clear();
        reader.body.extend_from_slice(&reader.input[head_bytes..head_bytes + here]);
        reader.input.drain(..head_bytes + here);
        if here < head.body_bytes {
            if head.expects_continue && here == 0 {
                self.say_continue()?;
            }
            self.read_body(head.body_bytes)?;
        }
        Ok(head)
    }

    /// Asks for the body, after the answer to the request before.
    fn say_continue(&mut self) -> Result<(), End> {
        if !self.await_answer() {
            return Err(End::Quiet);
        }
        self.write_bytes(b"HTTP/1.1 100 Continue\r\n\r\n");
        Ok(())
    }

    /// Reads until the input starts with a whole head; returns its length. Waits long for the first byte of a request, and
    /// not long for the rest.
    fn read_head(&mut self) -> Result<usize, End> {
        const STALLED: Refusal = Refusal::with_status(408, "the request's head did not arrive in time");
        let mut looked_at = 0;
        let mut deadline = None;
        let mut may_skip = true;
        loop {
            if may_skip && self.reader.input.starts_with(head::EMPTY_LINE) {
                // Nothing of a request has begun with it.
                self.reader.input.drain(..head::EMPTY_LINE.len());
                (may_skip, looked_at, deadline) = (false, 0, None);
            }
            if let Some(end) = head::find_end(&self.reader.input, looked_at)? {
                return Ok(end);
            }
            looked_at = self.reader.input.len();
            let started = !self.reader.input.is_empty();
            if started && deadline.is_none() {
                deadline = Some(Instant::now() + self.limits().head_timeout);
            }
            let step = READ_STEP_BYTES.min(MAX_HEAD_BYTES + READ_STEP_BYTES - looked_at);
            self.reader.input.resize(looked_at + step, 0);
            let read = self.read(Source::Input, looked_at, deadline.map_or(Limit::Idle, Limit::At));
            self.reader.input.truncate(looked_at + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) if started => return Err(self.cut_off()),
                Ok(0) => return Err(End::Quiet),
                Ok(_) => {}
                Err(error) if is_timeout(&error) && started => return Err(STALLED.into()),
                Err(error) if is_timeout(&error) => return Err(End::Quiet),
                Err(_) => return Err(End::Gone),
            }
        }
    }

    /// Reads what is missing of a body of `body_bytes`.
    fn read_body(&mut self, body_bytes: usize) -> Result<(), End> {
        const STALLED: Refusal = Refusal::with_status(408, "the request's body did not arrive in time");
        let deadline = Instant::now() + self.limits().body_deadline(body_bytes);
        loop {
            let filled = self.reader.body.len();
            if filled == body_bytes {
                return Ok(());
            }
            self.reader.body.resize(body_bytes.min(filled + BODY_STEP_BYTES), 0);
            let read = self.read(Source::Body, filled, Limit::At(deadline));
            self.reader.body.truncate(filled + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(self.cut_off()),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => return Err(STALLED.into()),
                Err(_) => return Err(End::Gone),
            }
        }
    }

    /// The input ended inside a request: the client closed its side, or the shutdown did.
    fn cut_off(&self) -> End {
        End::Refused(if self.shared.is_stopping() {
            Refusal { status: 503, code: ErrorCode::Unavailable, message: "this node is shutting down" }
        } else {
            Refusal::invalid("the request ended early")
        })
    }

    /// One read within the limit. Meanwhile the request that is owed an answer is given up when its time is over.
    fn read(&mut self, source: Source, from: usize, limit: Limit) -> io::Result<usize> {
        let mut timeout = match limit {
            // The same for every request of a connection, so that a busy one costs no look at the clock and no change of
            // the timeout. Whose deadline has passed is looked at when it is over.
            Limit::Idle => self.limits().idle_timeout.min(self.limits().answer_timeout),
            Limit::At(_) => self.patience(limit).ok_or(io::ErrorKind::WouldBlock)?,
        };
        loop {
            match self.reader.read_within(source, from, timeout) {
                Err(error) if is_timeout(&error) => {}
                result => return result,
            }
            timeout = self.patience(limit).ok_or(io::ErrorKind::WouldBlock)?;
        }
    }

    /// The time until the nearest deadline. `None`: the limit is over.
    fn patience(&mut self, limit: Limit) -> Option<Duration> {
        let now = Instant::now();
        if self.owed.as_ref().is_some_and(|owed| self.slot.is_over(owed.number)) {
            self.forget_owed();
        }
        if self.owed.as_ref().is_some_and(|owed| owed.deadline <= now) {
            self.give_up(Why::Overdue);
        }
        let left = |deadline: Instant| deadline.saturating_duration_since(now);
        let owed = self.owed.as_ref().map(|owed| left(owed.deadline));
        let limit = match limit {
            // The silence begins with the answer, and nobody tells this thread when that is: it looks again.
            Limit::Idle if owed.is_some() => Some(self.limits().idle_timeout),
            Limit::Idle => Some(left(self.quiet_since + self.limits().idle_timeout)),
            Limit::At(deadline) => Some(left(deadline)),
        };
        if limit.is_some_and(|left| left.is_zero()) {
            return None;
        }
        // A timeout of 0 would be none at all.
        owed.into_iter().chain(limit).min().map(|left| left.max(Duration::from_millis(1)))
    }
}

pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
