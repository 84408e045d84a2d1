//! The way out of one connection: whoever has an answer writes it here, without ever waiting.
//!
//! Invariants:
//! 1. Bytes leave in the order of `push`. The slot's word lets one thread at a time push (`super::word`).
//! 2. `push` and `flush` never wait: what the socket does not take at once stays here, and `drain` waits for it.
//! 3. A connection that broke stays broken: nothing more is sent, so a client never sees half an answer followed by another.
//!
//! The socket is written to in this file alone (with the exception of connections that are turned away), and under one
//! lock: a TLS session belongs here, so that nothing that the reading side has to send falls into half an answer.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{SendFlags, send};

/// How much of what was pushed the socket has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// All of it.
    Whole,
    /// Some of it: the rest waits here.
    Part,
    /// The connection is broken.
    Broken,
}

/// The sending side of a connection.
#[derive(Debug)]
pub(super) struct Outbox {
    stream: Arc<TcpStream>,
    rest: Mutex<Rest>,
}

#[derive(Debug, Default)]
struct Rest {
    /// Not taken by the socket yet, from `from` on.
    bytes: Vec<u8>,
    from: usize,
    is_broken: bool,
}

impl Outbox {
    /// Writes to `stream`.
    pub(super) fn new(stream: Arc<TcpStream>) -> Outbox {
        Outbox { stream, rest: Mutex::default() }
    }

    /// Sends `bytes` after everything that waits here. Never waits.
    pub(super) fn push(&self, bytes: &[u8]) -> Sent {
        let mut rest = self.lock();
        if !rest.bytes.is_empty() {
            rest.bytes.extend_from_slice(bytes);
            return self.flush_rest(&mut rest);
        }
        if rest.is_broken {
            return Sent::Broken;
        }
        match self.send(bytes) {
            Ok(sent) if sent == bytes.len() => Sent::Whole,
            Ok(sent) => {
                rest.bytes.extend_from_slice(&bytes[sent..]);
                Sent::Part
            }
            Err(_) => {
                rest.is_broken = true;
                Sent::Broken
            }
        }
    }

    /// Waits until everything is sent.
    ///
    /// # Errors
    /// The connection is broken, or the client did not take it all before the deadline.
    pub(super) fn drain(&self, deadline: Instant) -> io::Result<()> {
        loop {
            match self.flush_rest(&mut self.lock()) {
                Sent::Whole => return Ok(()),
                Sent::Broken => return Err(io::ErrorKind::BrokenPipe.into()),
                Sent::Part => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.wait_writable(left)?;
        }
    }

    /// Breaks the connection off in both directions: a thread that reads from it sees its end.
    pub(super) fn break_off(&self) {
        let mut rest = self.lock();
        *rest = Rest { is_broken: true, ..Rest::default() };
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Whether the connection was broken off, or broke as something was sent.
    pub(super) fn is_broken(&self) -> bool {
        self.lock().is_broken
    }

    /// Ends the reading side: the edge thread reads what has arrived, and then the end.
    pub(super) fn end_reading(&self) {
        let _ = self.stream.shutdown(Shutdown::Read);
    }

    fn flush_rest(&self, rest: &mut Rest) -> Sent {
        if rest.is_broken {
            return Sent::Broken;
        }
        match self.send(&rest.bytes[rest.from..]) {
            Ok(sent) => rest.from += sent,
            Err(_) => {
                *rest = Rest { is_broken: true, ..Rest::default() };
                return Sent::Broken;
            }
        }
        if rest.from < rest.bytes.len() {
            return Sent::Part;
        }
        // Idle connections stay small.
        *rest = Rest::default();
        Sent::Whole
    }

    /// Sends as much as the socket takes at once.
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match retry_on_intr(|| send(&*self.stream, &bytes[sent..], flags)) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(more) => sent += more,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sent)
    }

    fn wait_writable(&self, patience: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut watched = [PollFd::new(&*self.stream, PollFlags::OUT)];
        match poll(&mut watched, Some(&timeout)) {
            // The caller looks at the time, and at the socket.
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The rest stays consistent between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn pair() -> (Outbox, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
        let (stream, _) = listener.accept().expect("a connection");
        (Outbox::new(Arc::new(stream)), client)
    }

    /// Pushes until the socket takes no more; returns how many bytes were pushed.
    fn fill(outbox: &Outbox) -> usize {
        let piece: Vec<u8> = (0..1_000_003).map(|at| (at % 251) as u8).collect();
        (1..).find(|_| outbox.push(&piece) == Sent::Part).expect("a socket has an end") * piece.len()
    }

    #[test]
    fn push_never_waits_and_keeps_the_order() {
        let (outbox, mut client) = pair();
        let pushed = fill(&outbox);
        assert_eq!(outbox.push(b"the last words"), Sent::Part);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            client.read_to_end(&mut all).map(|_| all)
        });
        outbox.drain(Instant::now() + PATIENCE).expect("the client reads");
        drop(outbox);
        let all = reader.join().expect("no panic").expect("no error");
        assert_eq!(all.len(), pushed + b"the last words".len());
        assert!(all.ends_with(b"the last words"));
        assert!(
            all[..pushed]
                .chunks(1_000_003)
                .all(|piece| piece.iter().enumerate().all(|(at, b)| *b == (at % 251) as u8))
        );
    }

    #[test]
    fn drain_keeps_to_its_deadline_and_nothing_follows_half_an_answer() {
        let (outbox, mut client) = pair();
        fill(&outbox);
        // The system moves bytes on to the client's side for a while: far more than both sides hold.
        outbox.push(&vec![b'x'; 64 << 20]);
        let error = outbox.drain(Instant::now() + Duration::from_millis(20)).expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        outbox.break_off();
        assert_eq!(outbox.push(b"never"), Sent::Broken);
        assert!(outbox.drain(Instant::now() + PATIENCE).is_err());
        let mut all = Vec::new();
        let _ = client.read_to_end(&mut all);
        assert!(!all.ends_with(b"never"));
    }
}
