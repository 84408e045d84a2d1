//! How a link begins: an HTTP request that ureq makes, on a connection that is kept when the answer is 101.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};

use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

/// Bytes for a head of a request or an answer.
const BUFFER_BYTES: usize = 8 << 10;

/// Where the connector leaves the socket of its last connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(Arc<Mutex<Option<TcpStream>>>);

impl Kept {
    /// The socket, once.
    pub(crate) fn take(&self) -> Option<TcpStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, socket: TcpStream) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
    }
}

/// Connects, and keeps a second handle of the socket: ureq gives a 101 to its caller and closes its own handle.
#[derive(Debug)]
pub(crate) struct KeepingConnector(pub Kept);

impl Connector for KeepingConnector {
    type Out = Socket;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Socket>, Error> {
        let timeout = *details.timeout.after;
        let mut last = Error::HostNotFound;
        for address in &details.addrs {
            match TcpStream::connect_timeout(address, timeout) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    self.0.put(stream.try_clone()?);
                    let buffers = LazyBuffers::new(BUFFER_BYTES, BUFFER_BYTES);
                    return Ok(Some(Socket { stream, buffers }));
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }
}

/// A connection as ureq uses it.
pub(crate) struct Socket {
    stream: TcpStream,
    buffers: LazyBuffers,
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.set_write_timeout(Some(*timeout.after))?;
        self.stream.write_all(&self.buffers.output()[..amount]).map_err(|e| timed(e, &timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.set_read_timeout(Some(*timeout.after))?;
        let read = loop {
            match self.stream.read(self.buffers.input_append_buf()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read.map_err(|e| timed(e, &timeout))?,
            }
        };
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        // No second request goes over it.
        false
    }
}

fn timed(error: std::io::Error, timeout: &NextTimeout) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Timeout(timeout.reason),
        _ => error.into(),
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").finish_non_exhaustive()
    }
}
