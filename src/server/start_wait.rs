//! Things that may not be available *yet* when a node starts: a port or a data directory that its predecessor still
//! holds, a name that does not resolve or an address that the interface does not have before the network is up. These
//! are not mistakes in the configuration: the start waits for `start_timeout_s` and logs for what it waits.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use super::{ServerError, edge};
use crate::config::Config;
use crate::store::identity::{DataDirLock, IdentityError};

/// The pause between two attempts.
const TRY_EVERY: Duration = Duration::from_millis(250);

/// How often the reason for waiting is logged, while it stays the same.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// One attempt waits at most this long for the address of a name.
const MAX_LOOKUP: Duration = Duration::from_secs(1);

/// Waits for this long, or less when the node is told to stop: then it returns true.
pub(super) type Pause<'a> = Box<dyn FnMut(Duration) -> bool + 'a>;

/// How long a start waits in total for things that are not available yet.
pub struct StartWait<'a> {
    timeout: Duration,
    deadline: Instant,
    pause: Pause<'a>,
    /// The clock, and the log: in tests both are their own.
    now: Box<dyn Fn() -> Instant + 'a>,
    say: Box<dyn FnMut(&str) + 'a>,
    said: Option<(String, Instant)>,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The problem may end without action: what, where, and what to do if it does not end.
    NotYet(String),
    /// The problem does not end without action.
    Final(ServerError),
}

impl<'a> StartWait<'a> {
    /// From now on for `timeout`.
    pub fn new(timeout: Duration, pause: impl FnMut(Duration) -> bool + 'a) -> StartWait<'a> {
        let say = Box::new(|text: &str| log::warn!("{text}"));
        let (pause, now) = (Box::new(pause), Box::new(Instant::now));
        StartWait { timeout, deadline: Instant::now() + timeout, pause, now, say, said: None }
    }

    /// Tries until an attempt succeeds.
    ///
    /// # Errors
    /// A problem that does not end, or not in time: then with exit code 1, so that a supervisor starts the node
    /// again. With exit code 0 when the node is told to stop meanwhile.
    pub(super) fn until<T>(
        &mut self,
        mut attempt: impl FnMut() -> Result<T, Trouble>,
    ) -> Result<T, ServerError> {
        loop {
            let trouble = match attempt() {
                Ok(value) => return Ok(value),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::NotYet(trouble)) => trouble,
            };
            let seconds = self.timeout.as_secs();
            let now = (self.now)();
            let left = self.deadline.saturating_duration_since(now);
            if left.is_zero() {
                let text = format!("{trouble}; gave up after {seconds} s (start_timeout_s)");
                return Err(ServerError::new(1, text));
            }
            if self.said.as_ref().is_none_or(|(text, at)| *text != trouble || now >= *at + SAY_EVERY) {
                (self.say)(&format!(
                    "cannot start yet: {trouble}; trying for {seconds} s in all (start_timeout_s)"
                ));
                self.said = Some((trouble, now));
            }
            if (self.pause)(TRY_EVERY.min(left)) {
                return Err(ServerError::new(0, "told to stop before it started"));
            }
        }
    }

    /// The client port and the peer port: both or none, so that no client connects to a node that cannot serve.
    pub(super) fn ports(&mut self, config: &Config) -> Result<[TcpListener; 2], ServerError> {
        let mut addresses = [
            Address::new("listen_http", config.listen_http()),
            Address::new("listen_raft", config.listen_raft()),
        ];
        self.until(|| {
            let [client, peer] = &mut addresses;
            Ok([client.bind()?, peer.bind()?])
        })
    }

    /// The lock of the data directory.
    pub(super) fn lock(&mut self, config: &Config) -> Result<DataDirLock, ServerError> {
        self.until(|| {
            DataDirLock::take(&config.data_dir).map_err(|error| match error {
                IdentityError::Locked { .. } => Trouble::NotYet(error.to_string()),
                error => Trouble::Final(error.into()),
            })
        })
    }
}

/// Where to listen, as a key of the configuration says.
struct Address<'a> {
    field: &'static str,
    text: &'a str,
    /// A running lookup, begun by this attempt or by an earlier one that could not wait for it: the system does not
    /// limit its time.
    lookup: Option<Receiver<io::Result<Vec<SocketAddr>>>>,
}

impl<'a> Address<'a> {
    fn new(field: &'static str, text: &'a str) -> Address<'a> {
        Address { field, text, lookup: None }
    }

    fn bind(&mut self) -> Result<TcpListener, Trouble> {
        let address = self.resolve()?;
        let (field, text) = (self.field, self.text);
        edge::bind(address).map_err(|e| {
            let say = |fix: &str| format!("{field}: {text}: {e}; {fix}");
            match e.kind() {
                ErrorKind::AddrInUse => {
                    Trouble::NotYet(say("another process listens there: stop it, or choose another port"))
                }
                ErrorKind::AddrNotAvailable => {
                    Trouble::NotYet(say("this machine does not have the address: name one that it has"))
                }
                _ => Trouble::Final(ServerError::new(
                    2,
                    say("name an address of this machine and a port that this user may use"),
                )),
            }
        })
    }

    fn resolve(&mut self) -> Result<SocketAddr, Trouble> {
        if let Ok(address) = self.text.parse() {
            return Ok(address);
        }
        let not_yet = |field: &str, text: &str, why: &str| {
            Trouble::NotYet(format!("{field}: {text}: {why}; name an address of this machine"))
        };
        let lookup = match self.lookup.take() {
            Some(lookup) => lookup,
            None => begin_lookup(self.text).map_err(|e| {
                Trouble::Final(ServerError::new(1, format!("cannot look {} up: {e}", self.text)))
            })?,
        };
        match lookup.recv_timeout(MAX_LOOKUP) {
            Ok(Ok(found)) => (found.first().copied())
                .ok_or_else(|| not_yet(self.field, self.text, "the name has no address")),
            Ok(Err(e)) => Err(not_yet(self.field, self.text, &format!("the name does not resolve: {e}"))),
            Err(_) => {
                self.lookup = Some(lookup);
                Err(not_yet(self.field, self.text, "the lookup of the name takes long"))
            }
        }
    }
}

fn begin_lookup(text: &str) -> io::Result<Receiver<io::Result<Vec<SocketAddr>>>> {
    let (sender, lookup) = bounded(1);
    let text = text.to_owned();
    std::thread::Builder::new().name("lookup".to_owned()).spawn(move || {
        // The receiver may have stopped waiting.
        let _ = sender.try_send(text.to_socket_addrs().map(Iterator::collect));
    })?;
    Ok(lookup)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn never(_: Duration) -> bool {
        false
    }

    /// A predecessor that was still ending made its successor end with 2, which no supervisor starts again.
    #[test]
    fn until_waits_for_what_is_not_there_yet_and_gives_up_with_1() {
        let mut attempts = 0;
        let mut wait = StartWait::new(Duration::from_secs(60), never);
        let value = wait.until(|| {
            attempts += 1;
            if attempts < 3 { Err(Trouble::NotYet("not yet".to_owned())) } else { Ok(attempts) }
        });
        assert_eq!(value.unwrap(), 3);
        let mut wait = StartWait::new(Duration::ZERO, never);
        let error = wait.until(|| Err::<(), _>(Trouble::NotYet("busy".to_owned()))).unwrap_err();
        assert_eq!(error.exit_code, 1);
        assert_eq!(error.text, "busy; gave up after 0 s (start_timeout_s)");
    }

    /// What is logged in a start that waits in vain for `timeout`, each line with its second, and how the start ends.
    /// The trouble at each second is what `trouble` says.
    fn in_vain(
        timeout: Duration,
        trouble: impl Fn(u64) -> &'static str,
    ) -> (Vec<(u64, String)>, ServerError, Duration) {
        let (start, passed) = (Instant::now(), Cell::new(Duration::ZERO));
        let lines = RefCell::new(Vec::new());
        let mut wait = StartWait {
            timeout,
            deadline: start + timeout,
            pause: Box::new(|time| {
                passed.set(passed.get() + time);
                false
            }),
            now: Box::new(|| start + passed.get()),
            say: Box::new(|text| lines.borrow_mut().push((passed.get().as_secs(), text.to_owned()))),
            said: None,
        };
        let attempt = || Err::<(), _>(Trouble::NotYet(trouble(passed.get().as_secs()).to_owned()));
        let error = wait.until(attempt).unwrap_err();
        drop(wait);
        (lines.into_inner(), error, passed.get())
    }

    #[test]
    fn until_says_the_reason_at_once_and_every_5_s_until_the_timeout() {
        let (lines, error, passed) = in_vain(Duration::from_secs(30), |_| "busy");
        let text = "cannot start yet: busy; trying for 30 s in all (start_timeout_s)";
        assert_eq!(lines, [0, 5, 10, 15, 20, 25].map(|second| (second, text.to_owned())));
        assert_eq!((error.exit_code, passed), (1, Duration::from_secs(30)));
        assert_eq!(error.text, "busy; gave up after 30 s (start_timeout_s)");
    }

    #[test]
    fn until_says_another_reason_at_once() {
        let (lines, _, _) =
            in_vain(Duration::from_secs(13), |second| if second < 7 { "busy" } else { "no name" });
        let said: Vec<(u64, bool)> = lines.iter().map(|(at, text)| (*at, text.contains("no name"))).collect();
        assert_eq!(said, [(0, false), (5, false), (7, true), (12, true)]);
    }

    #[test]
    fn a_start_waits_30_s_where_the_configuration_says_nothing() {
        assert_eq!(Config::default().start_timeout_s, 30);
    }

    #[test]
    fn until_does_not_wait_for_what_does_not_pass_nor_when_it_is_told_to_stop() {
        let mut wait = StartWait::new(Duration::from_secs(60), |_| panic!("waited"));
        let refused = || Err::<(), _>(Trouble::Final(ServerError::new(2, "refused")));
        assert_eq!(wait.until(refused).unwrap_err().exit_code, 2);
        let mut wait = StartWait::new(Duration::from_secs(60), |_| true);
        let error = wait.until(|| Err::<(), _>(Trouble::NotYet("busy".to_owned()))).unwrap_err();
        assert_eq!(error.exit_code, 0);
    }

    #[test]
    fn bind_tells_what_may_pass_from_what_does_not() {
        let not_yet = |text: &str, says: &str| match Address::new("listen_http", text).bind() {
            Err(Trouble::NotYet(said)) => {
                assert!(said.starts_with(&format!("listen_http: {text}: ")) && said.contains(says), "{said}");
            }
            other => panic!("{text}: {other:?}"),
        };
        not_yet("192.0.2.1:8081", "does not have the address");
        not_yet("no-such-name.invalid:8081", "");
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        not_yet(&held.local_addr().unwrap().to_string(), "another process listens there");
    }
}
