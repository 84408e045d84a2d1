//! Connections that a handler takes over: it switches to another protocol, or waits and answers on the connection's thread.
//!
//! A handler answers with a [`Takeover`] instead of a response. It travels in the slot, and the connection's own edge thread
//! runs it, for as long as it likes: one thread for each such connection, and neither tiny_http nor a responder is held.
//! The edge is told which requests may end like this ([`super::PortOptions::takes_over`]): for them the edge thread does
//! not read ahead.

use std::fmt;
use std::io::{self, Read, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::limits::EdgeLimits;
use super::message::{Method, Response};
use super::outbox::{Outbox, Sent};
use super::render::{render, render_stream_head};

/// Whether the port stops.
pub(super) type IsStopping = Box<dyn Fn() -> bool + Send>;

/// What a handler does with a connection.
pub struct Takeover(Run);

enum Run {
    /// After this head both sides send what they like.
    Switch(Vec<u8>, Box<dyn FnOnce(Connection) + Send>),
    /// One answer, in HTTP. Whether the connection may go on.
    Answer(Box<dyn FnOnce(&mut Answering) -> bool + Send>),
}

/// What the edge thread gives a takeover.
pub(super) struct Place {
    pub stream: Arc<TcpStream>,
    pub outbox: Arc<Outbox>,
    pub limits: EdgeLimits,
    pub is_stopping: IsStopping,
    /// The client wants no other answer after this one.
    pub close: bool,
}

impl Takeover {
    /// Switches to `protocol` (RFC 9110 §15.2.2), a token of our own, then runs `run` on the connection's thread. The
    /// connection ends when `run` returns. A port that stops ends the reading side, and does not wait for `run` longer than
    /// for any request.
    pub fn switch(protocol: &'static str, run: impl FnOnce(Connection) + Send + 'static) -> Takeover {
        let head =
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n");
        Takeover(Run::Switch(head.into_bytes(), Box::new(run)))
    }

    /// Answers the request on the connection's thread, which may wait as long as it likes. `run` says whether it has sent
    /// a whole answer, after which the connection may go on.
    pub fn answer(run: impl FnOnce(&mut Answering) -> bool + Send + 'static) -> Takeover {
        Takeover(Run::Answer(Box::new(run)))
    }

    /// Runs it to its end. `take_input` takes what was read and belongs to no request. Whether the connection goes on.
    pub(super) fn run(self, place: Place, take_input: impl FnOnce() -> Vec<u8>) -> bool {
        match self.0 {
            Run::Switch(head, run) => {
                let Place { stream, outbox, is_stopping, .. } = place;
                let connection =
                    Connection { stream, already: take_input(), sender: Sender(outbox), is_stopping };
                if connection.sender.send(&head) {
                    run(connection);
                }
                false
            }
            Run::Answer(run) => {
                let mut answering = Answering { place, is_chunked: false };
                run(&mut answering) && !answering.closes()
            }
        }
    }
}

/// An answer that is given on the connection's thread: one response, or a stream of parts.
pub struct Answering {
    place: Place,
    is_chunked: bool,
}

impl Answering {
    /// Sends a whole response. Whether the client took it.
    pub fn respond(&mut self, response: &Response) -> bool {
        let mut bytes = Vec::new();
        render(response, Method::Get, self.closes(), &mut bytes);
        self.send(&bytes)
    }

    /// Begins a stream with the head of `response`, whose body is its first part. Whether the client took it.
    pub fn begin(&mut self, response: &Response) -> bool {
        // Without chunks the stream ends with the connection: HTTP/1.0 knows no chunks.
        self.is_chunked = !self.place.close;
        let mut bytes = Vec::new();
        render_stream_head(response, self.is_chunked, &mut bytes);
        self.send(&bytes) && (response.body.is_empty() || self.part(&response.body))
    }

    /// Sends a part of the stream, which is not empty. Whether the client took it.
    pub fn part(&mut self, part: &[u8]) -> bool {
        if !self.is_chunked {
            return self.send(part);
        }
        let mut bytes = Vec::with_capacity(part.len() + 20);
        // Writing to memory does not fail.
        let _ = write!(bytes, "{:x}\r\n", part.len());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
        self.send(&bytes)
    }

    /// Ends the stream in order.
    pub fn end(&mut self) {
        if self.is_chunked {
            self.send(b"0\r\n\r\n");
        }
    }

    /// Whether the client has ended its side.
    pub fn is_gone(&self) -> bool {
        is_gone(&self.place.stream)
    }

    /// Whether the connection ends with this answer.
    fn closes(&self) -> bool {
        self.place.close || (self.place.is_stopping)()
    }

    /// Waits for the client as long as for any answer.
    fn send(&self, bytes: &[u8]) -> bool {
        let Place { outbox, limits, .. } = &self.place;
        let is_sent = match outbox.push(bytes) {
            Sent::Whole => true,
            Sent::Broken => false,
            Sent::Part => outbox.drain(Instant::now() + limits.write_deadline(bytes.len())).is_ok(),
        };
        if !is_sent {
            outbox.break_off();
        }
        is_sent
    }
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answering").field("close", &self.place.close).finish_non_exhaustive()
    }
}

/// Whether the client has ended its side. One that waits for a takeover has nothing else to send.
pub(super) fn is_gone(stream: &TcpStream) -> bool {
    let peeked = recv(stream, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    !matches!(peeked, Ok((_, 1..)) | Err(Errno::AGAIN | Errno::INTR))
}

impl fmt::Debug for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Takeover")
    }
}

/// A connection that was taken over, for the thread that reads from it.
pub struct Connection {
    stream: Arc<TcpStream>,
    already: Vec<u8>,
    sender: Sender,
    is_stopping: IsStopping,
}

impl Connection {
    /// What the client sent after its request and the edge has read already: it comes before everything that can still
    /// be read.
    pub fn take_already_read(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.already)
    }

    /// The way back, for any thread.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// How long a read waits.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(timeout))
    }

    /// Whether the end of the input is due to this process: its port stops.
    pub fn is_stopping(&self) -> bool {
        (self.is_stopping)()
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&mut &*self.stream).read(buffer)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("already", &self.already.len()).finish_non_exhaustive()
    }
}

/// Writes to a connection that was taken over, from any thread. Never waits.
#[derive(Clone, Debug)]
pub struct Sender(Arc<Outbox>);

impl Sender {
    /// To a connection that no slot has.
    #[cfg(test)]
    pub(crate) fn to(stream: Arc<TcpStream>) -> Sender {
        Sender(Arc::new(Outbox::new(stream)))
    }

    /// Sends the bytes after everything that was sent before. Whether they are on their way: a client that takes them too
    /// slowly loses its connection.
    pub fn send(&self, bytes: &[u8]) -> bool {
        let is_whole = self.0.push(bytes) == Sent::Whole;
        if !is_whole {
            self.break_off();
        }
        is_whole
    }

    /// Ends the connection at once, in both directions.
    pub fn break_off(&self) {
        self.0.break_off();
    }
}
