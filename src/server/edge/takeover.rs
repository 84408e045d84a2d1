//! Connections that a handler takes over: after a head of its choice, bytes go both ways as the handler wants.
//!
//! A handler answers with a [`Takeover`] instead of a response. It travels in the slot, and the connection's own edge thread
//! runs it, for as long as it likes: one thread for each such connection, and neither tiny_http nor a responder is held.
//! The edge is told which requests may end like this ([`super::PortOptions::takes_over`]): for them the edge thread does
//! not read ahead.

use std::fmt;
use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use super::outbox::{Outbox, Sent};

type Run = Box<dyn FnOnce(Connection) + Send>;

/// Whether the port stops.
pub(super) type IsStopping = Box<dyn Fn() -> bool + Send>;

/// What a handler does with a connection.
pub struct Takeover {
    head: Vec<u8>,
    run: Run,
}

impl Takeover {
    /// Switches to `protocol` (RFC 9110 §15.2.2), a token of our own, then runs `run` on the connection's thread. The
    /// connection ends when `run` returns. A port that stops ends the reading side, and does not wait for `run` longer than
    /// for any request.
    pub fn switch(protocol: &'static str, run: impl FnOnce(Connection) + Send + 'static) -> Takeover {
        let head =
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n");
        Takeover { head: head.into_bytes(), run: Box::new(run) }
    }

    /// Runs it to its end.
    pub(super) fn run(
        self,
        stream: Arc<TcpStream>,
        already: Vec<u8>,
        outbox: Arc<Outbox>,
        is_stopping: IsStopping,
    ) {
        let connection = Connection { stream, already, sender: Sender(outbox), is_stopping };
        if connection.sender.send(&self.head) {
            (self.run)(connection);
        }
    }
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
