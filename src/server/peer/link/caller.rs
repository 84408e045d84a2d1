//! The caller's side of a link: one call at a time, made by the thread that needs the answer.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::frame::{self, Frame, FrameError, FrameReader, Kind};

/// By how much a wait for an answer may be too long.
const SLACK: Duration = Duration::from_millis(10);

/// Why a call has no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CallFailed {
    /// The other side never had the whole call: surely not executed. The link is of no further use.
    NotSent(String),
    /// The link ended after the call was written: unknown. The link is of no further use.
    Unknown(String),
    /// No answer in time: unknown. The link can be used for other calls.
    TimedOut,
}

/// The socket of a link, with what was read from it.
pub(crate) struct Caller {
    reader: FrameReader<TcpStream>,
    writer: TcpStream,
    last_number: u64,
    read_timeout: Duration,
    write_timeout: Duration,
}

impl Caller {
    /// Takes over a connection whose other side has answered 101.
    ///
    /// # Errors
    /// The system cannot clone the socket.
    pub(crate) fn new(socket: TcpStream) -> io::Result<Caller> {
        let writer = socket.try_clone()?;
        Ok(Caller {
            reader: FrameReader::new(socket, Vec::new()),
            writer,
            last_number: 0,
            read_timeout: Duration::ZERO,
            write_timeout: Duration::ZERO,
        })
    }

    /// Another handle of the socket, with which another thread can shut it down.
    ///
    /// # Errors
    /// The system cannot clone the socket.
    pub(crate) fn handle(&self) -> io::Result<TcpStream> {
        self.writer.try_clone()
    }

    /// Makes one call, and waits for its answer: the status and the body.
    pub(crate) fn call(
        &mut self,
        route: u16,
        body: &[u8],
        timeout: Duration,
    ) -> Result<(u16, Vec<u8>), CallFailed> {
        let deadline = Instant::now() + timeout;
        self.check_open()?;
        self.last_number += 1;
        self.write(&frame::encode(Kind::Call, route, self.last_number, body), timeout)?;
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Err(CallFailed::TimedOut);
            }
            self.set_read_timeout(remaining, timeout)?;
            match self.reader.read() {
                // What is left of calls that have timed out.
                Ok(Frame { kind: Kind::Answer, number, .. }) if number < self.last_number => {}
                Ok(Frame { kind: Kind::Answer, number, code, body }) if number == self.last_number => {
                    return Ok((code, body));
                }
                Ok(Frame { kind, number, .. }) => {
                    self.shut_down();
                    return Err(CallFailed::Unknown(format!(
                        "{kind:?} {number} is not expected on the link"
                    )));
                }
                Err(FrameError::TimedOut) => return Err(CallFailed::TimedOut),
                Err(error) => {
                    self.shut_down();
                    return Err(CallFailed::Unknown(error.to_string()));
                }
            }
        }
    }

    /// Tells the other side that this process stops in order, if that can be written without waiting. Then the end of
    /// the link is no sign of a crash.
    pub(crate) fn say_goodbye(handle: &TcpStream) {
        let bytes = frame::encode(Kind::Goodbye, 0, 0, &[]);
        // A link that is full or broken ends without a goodbye: the other side then asks whether anybody listens.
        let _ = send(handle, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        let _ = handle.shutdown(Shutdown::Write);
    }

    /// Finds a link that ended while nothing was called: the other process has ended or was started again.
    fn check_open(&mut self) -> Result<(), CallFailed> {
        match recv(&self.writer, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            // Nothing is there, or the answer to a call that has timed out.
            Err(Errno::AGAIN) | Ok((_, 1..)) => Ok(()),
            Ok((_, 0)) => Err(CallFailed::NotSent("the other side has closed the link".to_owned())),
            Err(e) => Err(CallFailed::NotSent(format!("the link is broken: {e}"))),
        }
    }

    fn write(&mut self, bytes: &[u8], timeout: Duration) -> Result<(), CallFailed> {
        let set =
            if timeout == self.write_timeout { Ok(()) } else { self.writer.set_write_timeout(Some(timeout)) };
        self.write_timeout = timeout;
        let written = set.and_then(|()| self.writer.write_all(bytes));
        written.map_err(|e| {
            // Half a frame may be on its way: nothing else can follow it.
            self.shut_down();
            CallFailed::NotSent(format!("the call could not be written: {e}"))
        })
    }

    /// Most calls on a link have the same timeout, so that the system is asked once.
    fn set_read_timeout(&mut self, remaining: Duration, timeout: Duration) -> Result<(), CallFailed> {
        // The time that writing took is little; a wait that is longer by this does no harm.
        let wanted = if remaining + SLACK >= timeout { timeout } else { remaining };
        if wanted != self.read_timeout {
            let set = self.writer.set_read_timeout(Some(wanted));
            set.map_err(|e| CallFailed::Unknown(format!("the system refuses a timeout: {e}")))?;
            self.read_timeout = wanted;
        }
        Ok(())
    }

    fn shut_down(&self) {
        // It may be shut down already.
        let _ = self.writer.shutdown(Shutdown::Both);
    }
}
