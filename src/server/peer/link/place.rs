//! The place of a caller's link: opens it when it is needed, falls back to HTTP when it cannot be used, and lets another
//! thread cancel the call under way.

use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{CallFailed, Caller};

/// After a failure to open a link, the calls of this time go by HTTP.
const RETRY: Duration = Duration::from_secs(1);

/// The same, when the other side does not know links, or when links were opened and carried no answer: something between
/// the two does not let them through.
const RETRY_UNKNOWN: Duration = Duration::from_secs(30);

/// So many calls in a row without an answer in time: the link may be half-open, and is replaced.
const MAX_TIMEOUTS: u32 = 2;

/// So many links in a row that were opened and carried no answer: one alone may have met a peer that was slow.
const MAX_MUTE_LINKS: u32 = 2;

/// Why a link could not be opened.
pub(crate) enum NotOpened {
    /// For now.
    ForNow,
    /// The other side answers that it knows no such route.
    Unknown,
}

/// What became of a call.
pub(crate) enum Outcome {
    /// The status and the body of its answer.
    Answer(u16, Vec<u8>),
    /// Surely not executed: make the call by HTTP.
    NotSent,
    /// No answer, and it may have been executed.
    Unknown(String),
}

/// One kind of link to one peer.
#[derive(Default)]
pub(crate) struct LinkPlace {
    /// Locked during a call: one call at a time.
    state: Mutex<State>,
    /// For other threads, which must not wait for the call under way.
    handle: Mutex<Option<TcpStream>>,
}

#[derive(Default)]
struct State {
    caller: Option<Caller>,
    retry_at: Option<Instant>,
    /// Whether the next answer over HTTP ends the wait: the peer was down and is back. Only once until a link is open
    /// again, because a peer may answer calls and open no link.
    ends_early: bool,
    has_ended_early: bool,
    timeouts: u32,
    has_answered: bool,
    /// Links in a row that carried no answer.
    mute_links: u32,
}

impl LinkPlace {
    /// Makes a call over the link, within `timeout`. `open` makes the connection.
    pub(crate) fn call(
        &self,
        route: u16,
        body: &[u8],
        timeout: Duration,
        open: impl FnOnce() -> Result<TcpStream, NotOpened>,
    ) -> Outcome {
        let began = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.caller.is_none() {
            self.open(&mut state, open);
        }
        let Some(caller) = &mut state.caller else { return Outcome::NotSent };
        let remaining = timeout.saturating_sub(began.elapsed());
        if remaining.is_zero() {
            return Outcome::NotSent;
        }
        match caller.call(route, body, remaining) {
            Ok((status, body)) => {
                state.timeouts = 0;
                state.mute_links = 0;
                state.has_answered = true;
                Outcome::Answer(status, body)
            }
            Err(CallFailed::NotSent(_)) => {
                self.close(&mut state);
                Outcome::NotSent
            }
            Err(CallFailed::Unknown(why)) => {
                self.close(&mut state);
                Outcome::Unknown(why)
            }
            Err(CallFailed::TimedOut) => {
                state.timeouts += 1;
                if !state.has_answered {
                    state.mute_links += 1;
                    let may_be_slow = state.mute_links < MAX_MUTE_LINKS;
                    let pause = if may_be_slow { RETRY } else { RETRY_UNKNOWN };
                    state.retry_at = Some(Instant::now() + pause);
                    state.ends_early = may_be_slow;
                    self.close(&mut state);
                } else if state.timeouts >= MAX_TIMEOUTS {
                    self.close(&mut state);
                }
                Outcome::Unknown("no answer in time".to_owned())
            }
        }
    }

    /// The peer has answered a call over HTTP.
    pub(crate) fn peer_answers(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut state.ends_early) {
            state.retry_at = None;
            state.has_ended_early = true;
        }
    }

    /// Ends the call under way, which becomes unknown. A later call opens another link.
    pub(crate) fn cancel(&self) {
        if let Some(handle) = &*self.handle() {
            let _ = handle.shutdown(Shutdown::Both);
        }
    }

    /// This process stops in order.
    pub(crate) fn say_goodbye(&self) {
        if let Some(handle) = &*self.handle() {
            Caller::say_goodbye(handle);
        }
    }

    fn open(&self, state: &mut State, open: impl FnOnce() -> Result<TcpStream, NotOpened>) {
        if state.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let opened = open().and_then(|socket| {
            let caller = Caller::new(socket).map_err(|_| NotOpened::ForNow)?;
            let handle = caller.handle().map_err(|_| NotOpened::ForNow)?;
            Ok((caller, handle))
        });
        match opened {
            Ok((caller, handle)) => {
                *self.handle() = Some(handle);
                let mute_links = state.mute_links;
                *state = State { caller: Some(caller), mute_links, ..State::default() };
            }
            Err(why) => {
                let is_for_now = matches!(why, NotOpened::ForNow);
                let pause = if is_for_now { RETRY } else { RETRY_UNKNOWN };
                state.retry_at = Some(Instant::now() + pause);
                state.ends_early = is_for_now && !state.has_ended_early;
            }
        }
    }

    fn close(&self, state: &mut State) {
        state.caller = None;
        *self.handle() = None;
    }

    fn handle(&self) -> std::sync::MutexGuard<'_, Option<TcpStream>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
