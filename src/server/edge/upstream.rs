//! A connection to tiny_http over a Unix socket, shared by many client connections. Heads go in, nothing comes back.
//!
//! A request is appended to a buffer. The thread that finds the buffer empty flushes it: one write, and one wake-up of
//! tiny_http's thread. In a lane for many clients this thread yields once before, so that others who can run add theirs.
//!
//! tiny_http answers here only what it cannot read, and closes then. A monitor sits on the reading side: whatever arrives,
//! or the end, means that the connection is broken. It opens another one and submits once more what no worker has taken.
//! The first such request that tiny_http was sent may be what broke it: this one is refused, so one bad head costs one
//! client, and not the same connection again and again. All of that is safe, because a request runs only once its slot
//! says *taken*, and a refusal takes it first.
//!
//! tiny_http hands a new connection to a thread that may still be serving another one, and then it is never served. That
//! cannot happen to a connection that was opened while no other was being opened and that has answered a ping. So
//! connections are opened one at a time and pinged.
//!
//! Locks: `flushing` is taken before `state`; nothing else is locked under either of them.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use super::inside::Inside;
use super::slot::{Slots, Ticket};

#[cfg(test)]
mod tests;

/// The target of the ping. No client can ask for it: the edge lets only targets through that start with `/`.
pub(super) const PING_TARGET: &str = "*";
const PING: &[u8] = b"OPTIONS * HTTP/1.1\r\n\r\n";
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// tiny_http's thread reads and queues without waiting for anybody: it is stuck when it takes nothing for so long.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two attempts to replace a broken connection.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long a request that may be what broke the connection has to be taken by a worker, and how often that is looked at.
const BLAME_PATIENCE: Duration = Duration::from_millis(500);
const BLAME_LOOK: Duration = Duration::from_millis(1);
/// Heads that wait to be flushed; a request that finds more waits for room.
const MAX_BUFFER_BYTES: usize = 1 << 20;
/// Buffers above this are given back after a flush.
const KEPT_BUFFER_BYTES: usize = 64 * 1024;

/// What the connections of one lane have in common.
pub(super) struct UpstreamOptions {
    /// The socket of the lane's tiny_http server.
    pub socket: PathBuf,
    /// Requests that may be inside the lane: so many are remembered, to be submitted once more.
    pub most_inside: usize,
    /// The requests of the lane.
    pub inside: Arc<Inside>,
    /// Whether to let others run before a flush, when there are other requests.
    pub yields: bool,
    /// The client connections.
    pub slots: Arc<Slots>,
    /// Held while a connection is being opened.
    pub opening: Arc<Mutex<()>>,
    /// Connections that broke.
    pub broken: Arc<AtomicU64>,
    /// Answers a request that was refused.
    pub refuse: Box<dyn Fn(Ticket) + Send + Sync>,
}

/// One connection to tiny_http and what replaces it when it breaks.
pub(super) struct Upstream {
    name: String,
    options: UpstreamOptions,
    state: Mutex<State>,
    /// Signalled when there is room in the buffer, and at the stop.
    changed: Condvar,
    /// Held by the thread that flushes; a buffer to swap.
    flushing: Mutex<Vec<u8>>,
}

#[derive(Default)]
struct State {
    /// `None` while the connection is being replaced.
    stream: Option<Arc<UnixStream>>,
    /// Heads to be flushed. Empty while there is no connection.
    buffer: Vec<u8>,
    /// The last requests, in the order of the buffer: all that may not be taken yet.
    recent: VecDeque<Ticket>,
    /// How many requests left `recent` at its front.
    forgotten: u64,
    /// How many of `recent`, counted from its end, were not given to tiny_http yet.
    unflushed: usize,
    stopped: bool,
}

/// The buffer stayed full for too long, or the port stops: the request was not submitted.
#[derive(Debug)]
pub(super) struct NoRoom;

impl Upstream {
    /// Opens a connection and starts its monitor, a thread called `name`, which drops `alive` when it ends.
    ///
    /// # Errors
    /// tiny_http does not answer, or there is no thread.
    pub(super) fn start(
        name: String,
        options: UpstreamOptions,
        alive: channel::Sender<()>,
    ) -> io::Result<(Arc<Upstream>, JoinHandle<()>)> {
        let upstream = Arc::new(Upstream {
            name,
            options,
            state: Mutex::default(),
            changed: Condvar::new(),
            flushing: Mutex::default(),
        });
        let stream = upstream.open()?;
        upstream.lock().stream = Some(Arc::clone(&stream));
        let monitor = {
            let upstream = Arc::clone(&upstream);
            thread::Builder::new().name(upstream.name.clone()).spawn(move || {
                upstream.monitor(stream);
                drop((upstream, alive));
            })?
        };
        Ok((upstream, monitor))
    }

    /// Submits a request: its slot says so already. Waits up to `patience` for room.
    ///
    /// # Errors
    /// There was none: the request never leaves the edge.
    pub(super) fn submit(&self, ticket: Ticket, head: &[u8], patience: Duration) -> Result<(), NoRoom> {
        let mut state = self.lock();
        if state.buffer.len() > MAX_BUFFER_BYTES {
            state = self.wait_for_room(state, Instant::now() + patience)?;
        }
        if state.stopped {
            return Err(NoRoom);
        }
        state.recent.push_back(ticket);
        // One that so many others have followed was taken out of tiny_http's queue before them.
        while state.recent.len() > self.options.most_inside.max(state.unflushed + 1) {
            state.recent.pop_front();
            state.forgotten += 1;
        }
        if state.stream.is_none() {
            // The monitor submits it with the next connection.
            return Ok(());
        }
        state.unflushed += 1;
        let finds_it_empty = state.buffer.is_empty();
        state.buffer.extend_from_slice(head);
        drop(state);
        if finds_it_empty {
            if self.options.yields && self.options.inside.count() > 1 {
                thread::yield_now();
            }
            self.flush();
        }
        Ok(())
    }

    /// Ends the monitor and the connection.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        if let Some(stream) = &state.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Breaks the connection as an error would.
    #[cfg(test)]
    pub(super) fn break_off(&self) {
        if let Some(stream) = &self.lock().stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn wait_for_room<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        deadline: Instant,
    ) -> Result<MutexGuard<'a, State>, NoRoom> {
        while state.buffer.len() > MAX_BUFFER_BYTES && !state.stopped {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NoRoom);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(state)
    }

    /// Gives tiny_http everything that is in the buffer. A failure breaks the connection, which the monitor sees.
    fn flush(&self) {
        let mut bytes = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = {
            let mut state = self.lock();
            let had_no_room = state.buffer.len() > MAX_BUFFER_BYTES;
            std::mem::swap(&mut state.buffer, &mut *bytes);
            state.unflushed = 0;
            if had_no_room {
                self.changed.notify_all();
            }
            state.stream.clone()
        };
        if let Some(stream) = stream
            && (&*stream).write_all(&bytes).is_err()
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
        bytes.clear();
        bytes.shrink_to(KEPT_BUFFER_BYTES);
    }

    /// The monitor: replaces the connection whenever it breaks.
    fn monitor(&self, mut stream: Arc<UnixStream>) {
        loop {
            let what = wait_until_broken(&stream);
            let _ = stream.shutdown(Shutdown::Both);
            let sent = {
                let mut state = self.lock();
                if state.stopped {
                    return;
                }
                state.stream = None;
                state.buffer.clear();
                state.forgotten + (state.recent.len() - std::mem::take(&mut state.unflushed)) as u64
            };
            self.options.broken.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_all();
            log::warn!("{}: a connection to tiny_http {what}: it is replaced", self.name);
            let Some(next) = self.replace() else { return };
            stream = next;
            self.submit_once_more(sent, &stream);
        }
    }

    /// Opens another connection, trying on until the stop.
    fn replace(&self) -> Option<Arc<UnixStream>> {
        let mut failed = false;
        loop {
            match self.open() {
                Ok(stream) => return Some(stream),
                Err(error) if !failed => {
                    log::warn!("{}: cannot connect to tiny_http, trying on: {error}", self.name);
                    failed = true;
                }
                Err(_) => {}
            }
            let state = self.lock();
            if !state.stopped {
                drop(self.changed.wait_timeout(state, RETRY_PAUSE));
            }
            if self.lock().stopped {
                return None;
            }
        }
    }

    /// Submits what no worker has taken by the new connection. Of those before `sent` the first one is refused: the ping has
    /// passed through tiny_http's queue after everything that the old connection had put there.
    ///
    /// The new connection is used by others only when everything older is in its buffer: otherwise the order in which
    /// tiny_http gets the requests would not be that of `recent`, and the next one to be blamed would be innocent.
    fn submit_once_more(&self, sent: u64, stream: &Arc<UnixStream>) {
        let (mut heads, mut is_blamed, mut seen) = (Vec::new(), false, 0);
        loop {
            let (first, tickets): (u64, Vec<Ticket>) = {
                let mut state = self.lock();
                let first = state.forgotten.max(seen);
                let skipped = (first - state.forgotten) as usize;
                if state.recent.len() == skipped {
                    state.buffer.append(&mut heads);
                    state.unflushed = state.recent.len();
                    if state.stopped {
                        let _ = stream.shutdown(Shutdown::Both);
                    } else {
                        state.stream = Some(Arc::clone(stream));
                    }
                    break;
                }
                (first, state.recent.iter().skip(skipped).copied().collect())
            };
            seen = first + tickets.len() as u64;
            for (at, ticket) in (first..).zip(tickets) {
                is_blamed |= self.copy_or_blame(ticket, at < sent && !is_blamed, &mut heads);
            }
        }
        self.flush();
    }

    /// Appends the request's head to `heads` when no worker has the request; refuses it instead when it `may_be_blamed`.
    /// Whether it did.
    fn copy_or_blame(&self, ticket: Ticket, may_be_blamed: bool, heads: &mut Vec<u8>) -> bool {
        let Some(slot) = self.options.slots.get(ticket.connection) else { return false };
        let before = heads.len();
        if !slot.copy_head(ticket.number, heads) || !may_be_blamed {
            return false;
        }
        heads.truncate(before);
        // A worker may have it from tiny_http's queue already, and be about to take it.
        let deadline = Instant::now() + BLAME_PATIENCE;
        while Instant::now() < deadline {
            thread::sleep(BLAME_LOOK);
            if !slot.copy_head(ticket.number, heads) {
                return false;
            }
            heads.truncate(before);
        }
        log::warn!("{}: request {ticket} may be what tiny_http failed on: it is refused", self.name);
        (self.options.refuse)(ticket);
        true
    }

    /// Opens a connection and pings it.
    fn open(&self) -> io::Result<Arc<UnixStream>> {
        let _one_at_a_time = self.options.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = UnixStream::connect(&self.options.socket)?;
        stream.set_read_timeout(Some(PING_TIMEOUT))?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        ping(&stream).map_err(|error| io::Error::other(format!("no answer to the ping: {error}")))?;
        stream.set_read_timeout(None)?;
        Ok(Arc::new(stream))
    }

    /// The state stays consistent between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request and its answer, which has no body.
fn ping(mut stream: &UnixStream) -> io::Result<()> {
    stream.write_all(PING)?;
    let (mut answer, mut piece) = (Vec::new(), [0; 512]);
    while !answer.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            // A signal during the start: its own handler decides what follows.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if answer.len() > piece.len() {
            return Err(io::Error::other("the answer is too long"));
        }
    }
    if answer.starts_with(b"HTTP/1.1 204 ") {
        Ok(())
    } else {
        Err(io::Error::other("the answer is another one"))
    }
}

/// Sits on the reading side until anything happens there, and says what.
fn wait_until_broken(mut stream: &UnixStream) -> String {
    let mut answer = [0; 64];
    loop {
        return match stream.read(&mut answer) {
            Ok(0) => "has closed".to_owned(),
            Ok(read) => {
                let line = String::from_utf8_lossy(&answer[..read]);
                format!("was answered ({})", line.lines().next().unwrap_or_default())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => format!("has failed ({error})"),
        };
    }
}
