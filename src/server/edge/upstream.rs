//! The pool of keep-alive connections from an edge to its tiny_http server, over a Unix socket.
//!
//! tiny_http hands a new connection to a thread that may still be serving another one, and then it is never served.
//! That cannot happen to a connection that was opened while no other was being opened and that has answered a ping:
//! it has its own thread for as long as it lives. So connections are opened one at a time, pinged, and only then
//! used; a broken one is replaced the same way.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel as channel;

/// The target of the pool's ping. No client can ask for it: the edge lets only targets through that start with `/`.
pub(super) const PING_TARGET: &str = "*";
const PING: &[u8] = b"OPTIONS * HTTP/1.1\r\n\r\n";
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two attempts to replace a broken connection.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// A Unix socket's path holds 108 bytes with its final zero.
const MAX_SOCKET_PATH_BYTES: usize = 100;
/// Most headers of an answer.
const MAX_ANSWER_HEADERS: usize = 32;
const READ_STEP_BYTES: usize = 4096;

/// The private directory of the Unix sockets.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    temporary: bool,
}

impl RunDir {
    /// Makes `wanted` a directory of mode 0700 without files. When a socket's path in it would be longer than 100
    /// bytes, a fresh private directory under the temporary one is made instead; it is removed on drop.
    ///
    /// # Errors
    /// It cannot be made; or `wanted` is a link, or holds something that is no socket: then it is somebody else's, as
    /// `run` in `/` and in `/var` is, and nothing in it is touched.
    pub fn prepare(wanted: &Path) -> io::Result<RunDir> {
        let absolute = std::path::absolute(wanted)?;
        // Room for the longest socket name.
        if absolute.as_os_str().len() + "/peer-core.sock".len() <= MAX_SOCKET_PATH_BYTES {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&absolute)?;
            let old = sockets_in(&absolute)?;
            fs::set_permissions(&absolute, fs::Permissions::from_mode(0o700))?;
            old.iter().try_for_each(fs::remove_file)?;
            return Ok(RunDir { path: absolute, temporary: false });
        }
        loop {
            let path = std::env::temp_dir().join(format!("dkv-run-{:016x}", fastrand::u64(..)));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(RunDir { path, temporary: true }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The sockets of an earlier run, all that may be there.
fn sockets_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let refused = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    let shown = dir.display();
    if !fs::symlink_metadata(dir)?.is_dir() {
        return refused(format!(
            "{shown} is a link to another directory; give the node a data_dir of its own"
        ));
    }
    let mut sockets = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_socket() {
            let name = entry.file_name();
            return refused(format!(
                "{shown} holds {}, which is not dkv's; give the node a data_dir of its own",
                name.display()
            ));
        }
        sockets.push(entry.path());
    }
    Ok(sockets)
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.temporary {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Why an exchange with tiny_http gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// The request was not written whole, so no handler has seen it: surely not done.
    #[error("not sent: {0}")]
    NotSent(io::Error),
    /// The request was written whole and the connection broke: unknown.
    #[error("broke off: {0}")]
    Broken(io::Error),
    /// The request was written whole and no answer came in time: unknown.
    #[error("no answer in time")]
    TimedOut,
}

/// One connection to tiny_http that has answered a ping. One request at a time.
#[derive(Debug)]
struct Connection {
    id: u64,
    stream: Arc<UnixStream>,
}

impl Connection {
    /// Opens a connection and pings it. The caller opens one at a time.
    fn open(id: u64, socket: &Path, answer_timeout: Duration) -> io::Result<Connection> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PING_TIMEOUT))?;
        stream.set_write_timeout(Some(PING_TIMEOUT))?;
        let connection = Connection { id, stream: Arc::new(stream) };
        connection
            .exchange(PING, false, &mut Vec::new())
            .map_err(|error| io::Error::other(format!("no answer to the ping: {error}")))?;
        connection.stream.set_read_timeout(Some(answer_timeout))?;
        connection.stream.set_write_timeout(Some(answer_timeout))?;
        Ok(connection)
    }

    /// Writes the request and reads the whole answer into `answer`, which is emptied first. `bodiless`: the answer's
    /// Content-Length describes a body that is not sent.
    fn exchange(&self, request: &[u8], bodiless: bool, answer: &mut Vec<u8>) -> Result<(), ExchangeError> {
        let mut stream = &*self.stream;
        stream.write_all(request).map_err(ExchangeError::NotSent)?;
        answer.clear();
        let mut total = None;
        loop {
            let filled = answer.len();
            let wanted = match total {
                Some(total) if filled == total => return Ok(()),
                Some(total) if filled > total => return Err(broken("the answer is longer than it said")),
                Some(total) => total - filled,
                None => READ_STEP_BYTES,
            };
            answer.resize(filled + wanted, 0);
            let read = stream.read(&mut answer[filled..]);
            answer.truncate(filled + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(broken("closed before the answer")),
                Ok(_) if total.is_none() => total = answer_length(answer, bodiless).map_err(broken)?,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(ExchangeError::TimedOut);
                }
                Err(error) => return Err(ExchangeError::Broken(error)),
            }
        }
    }
}

fn broken(what: &'static str) -> ExchangeError {
    ExchangeError::Broken(io::Error::other(what))
}

/// Length of the whole answer, once its head is there. Our own responders write it with its length.
fn answer_length(answer: &[u8], bodiless: bool) -> Result<Option<usize>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_ANSWER_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let head_bytes = match parsed.parse(answer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err("the answer's head is malformed"),
    };
    if bodiless || matches!(parsed.code, Some(204 | 304)) {
        return Ok(Some(head_bytes));
    }
    let length = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    length.map(|length| Some(head_bytes + length)).ok_or("the answer has no Content-Length")
}

/// The pooled connections to one tiny_http server.
#[derive(Debug)]
pub(super) struct Pool {
    name: String,
    socket: PathBuf,
    answer_timeout: Duration,
    state: Mutex<State>,
    /// Signalled when a connection is missing, and at the stop.
    missing: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Free connections; the last one used is taken first, its threads are warm.
    idle: Vec<Connection>,
    /// Requests that wait for a connection, first come first served. Not empty only while `idle` is empty.
    waiting: VecDeque<(u64, channel::Sender<Connection>)>,
    /// All connections, taken ones included, so that the stop can break them.
    open: BTreeMap<u64, Arc<UnixStream>>,
    /// How many broken connections the opener has yet to replace.
    missing: usize,
    next_id: u64,
    stopped: bool,
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Gives a free connection to the request that has waited longest, or keeps it.
    fn give(&mut self, mut connection: Connection) {
        while let Some((_, waiter)) = self.waiting.pop_front() {
            match waiter.try_send(connection) {
                Ok(()) => return,
                // Cannot happen: a waiter leaves the queue before it drops its receiver.
                Err(error) => connection = error.into_inner(),
            }
        }
        self.idle.push(connection);
    }
}

impl Pool {
    /// Opens `connections` connections to the tiny_http server on `socket`, one at a time, and starts the thread that
    /// replaces broken ones, which drops `alive` when it ends. `answer_timeout` bounds each answer.
    pub(super) fn start(
        name: String,
        socket: PathBuf,
        connections: usize,
        answer_timeout: Duration,
        alive: channel::Sender<()>,
    ) -> io::Result<(Arc<Pool>, JoinHandle<()>)> {
        let pool = Pool { name, socket, answer_timeout, state: Mutex::default(), missing: Condvar::new() };
        for _ in 0..connections {
            pool.open_one()?;
        }
        let pool = Arc::new(pool);
        let opener = {
            let pool = Arc::clone(&pool);
            thread::Builder::new().name(pool.name.clone()).spawn(move || {
                pool.replace_broken();
                drop(alive);
            })?
        };
        Ok((pool, opener))
    }

    /// Takes a free connection; waits up to `patience` for one, first come first served. `None`: all were busy.
    pub(super) fn take(self: &Arc<Self>, patience: Duration) -> Option<Lease> {
        let lease = |connection| Lease { pool: Arc::clone(self), connection: Some(connection) };
        let (ticket, receiver) = {
            let mut state = self.lock();
            if state.stopped {
                return None;
            }
            if let Some(connection) = state.idle.pop() {
                return Some(lease(connection));
            }
            let (sender, receiver) = channel::bounded(1);
            let ticket = state.next_id();
            state.waiting.push_back((ticket, sender));
            (ticket, receiver)
        };
        if let Ok(connection) = receiver.recv_timeout(patience) {
            return Some(lease(connection));
        }
        self.lock().waiting.retain(|(waiting, _)| *waiting != ticket);
        // Connections are handed over under the lock: one that was given before the ticket left is here now.
        receiver.try_recv().ok().map(lease)
    }

    /// Ends the opener and breaks every connection, also those in use: a request that waits for an answer gets
    /// [`ExchangeError::Broken`].
    pub(super) fn stop(&self) {
        let open = {
            let mut state = self.lock();
            state.stopped = true;
            state.idle.clear();
            state.waiting.clear();
            std::mem::take(&mut state.open)
        };
        self.missing.notify_all();
        for stream in open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn open_one(&self) -> io::Result<()> {
        let id = self.lock().next_id();
        let connection = Connection::open(id, &self.socket, self.answer_timeout)?;
        let mut state = self.lock();
        if !state.stopped {
            state.open.insert(id, Arc::clone(&connection.stream));
            state.give(connection);
        }
        Ok(())
    }

    /// The opener thread: the only one that opens connections after the start, so one at a time.
    fn replace_broken(&self) {
        let mut failed = false;
        loop {
            {
                let mut state = self.lock();
                while state.missing == 0 && !state.stopped {
                    state = self.missing.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
                }
                if failed && !state.stopped {
                    let waited = self.missing.wait_timeout(state, RETRY_PAUSE);
                    state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
                }
                if state.stopped {
                    return;
                }
            }
            match self.open_one() {
                Ok(()) => {
                    self.lock().missing -= 1;
                    failed = false;
                }
                Err(error) => {
                    if !failed {
                        log::warn!(
                            "{}: cannot replace a connection to tiny_http, trying on: {error}",
                            self.name
                        );
                    }
                    failed = true;
                }
            }
        }
    }

    fn put_back(&self, connection: Connection) {
        let mut state = self.lock();
        if !state.stopped {
            state.give(connection);
        }
    }

    fn lose(&self, connection: &Connection) {
        let mut state = self.lock();
        state.open.remove(&connection.id);
        state.missing += 1;
        drop(state);
        self.missing.notify_all();
    }

    /// The state stays consistent between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A connection taken from the pool. One exchange; it goes back if that went well and is replaced if not.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Arc<Pool>,
    connection: Option<Connection>,
}

impl Lease {
    /// Sends one whole request and reads its whole answer into `answer`. `bodiless`: the request was a HEAD.
    pub(super) fn exchange(
        mut self,
        request: &[u8],
        bodiless: bool,
        answer: &mut Vec<u8>,
    ) -> Result<(), ExchangeError> {
        let Some(connection) = &self.connection else {
            return Err(ExchangeError::NotSent(io::Error::other("no connection")));
        };
        connection.exchange(request, bodiless, answer)?;
        if let Some(connection) = self.connection.take() {
            self.pool.put_back(connection);
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.lose(&connection);
        }
    }
}
