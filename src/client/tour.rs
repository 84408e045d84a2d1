//! Which node is asked next, and for how long.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::api::{ClusterReply, MemberInfo};

/// Most addresses the client remembers.
const MAX_KNOWN: usize = 64;

/// Pause before the second tour; it doubles with each one after, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// A single attempt gets a third of the whole time, so that a node that hangs leaves time for two others, but not
/// less than this unless the whole time is shorter.
const LEAST_ATTEMPT: Duration = Duration::from_secs(1);

/// Longest wait for the list of members.
pub(super) const LEARN_TIMEOUT: Duration = Duration::from_millis(500);

/// The nodes the client knows of.
#[derive(Debug)]
pub(super) struct Known {
    addrs: Vec<String>,
    leader: Option<String>,
    /// No other node is ever asked.
    is_fixed: bool,
}

impl Known {
    /// Takes `host:port` and `http://host:port`; the error says which one is neither.
    pub(super) fn new<S: AsRef<str>>(endpoints: &[S]) -> Result<Known, String> {
        let mut addrs: Vec<String> = Vec::new();
        for given in endpoints {
            let given = given.as_ref().trim();
            let addr = given.strip_prefix("http://").unwrap_or(given);
            let addr = addr.strip_suffix('/').unwrap_or(addr);
            if !is_address(addr) {
                return Err(format!("{given:?} is not an endpoint: write host:port, like 127.0.0.1:8081"));
            }
            if !addrs.iter().any(|known| known == addr) {
                addrs.push(addr.to_owned());
            }
        }
        if addrs.is_empty() {
            return Err("no endpoint given: write at least one host:port, like 127.0.0.1:8081".to_owned());
        }
        Ok(Known { addrs, leader: None, is_fixed: false })
    }

    /// Nothing is learned of other nodes.
    pub(super) fn fixed(self) -> Known {
        Known { is_fixed: true, ..self }
    }

    /// All of them, the leader first.
    pub(super) fn in_order(&self) -> Vec<String> {
        let others = self.addrs.iter().filter(|a| Some(*a) != self.leader.as_ref());
        self.leader.iter().chain(others).cloned().collect()
    }

    /// Adds the members and takes over the leader.
    pub(super) fn learn_cluster(&mut self, cluster: &ClusterReply) {
        self.learn_members(&cluster.members);
        if let Some(leader) = &cluster.leader {
            self.learn_leader(&leader.http_addr);
        }
    }

    /// Adds the members.
    pub(super) fn learn_members(&mut self, members: &[MemberInfo]) {
        for member in members {
            self.learn(&member.http_addr);
        }
    }

    /// A node did not answer: it is not asked first any more.
    pub(super) fn failed(&mut self, addr: &str) {
        if self.leader.as_deref() == Some(addr) {
            self.leader = None;
        }
    }

    fn learn(&mut self, addr: &str) -> bool {
        if self.addrs.iter().any(|known| known == addr) {
            return true;
        }
        let room = is_address(addr) && self.addrs.len() < MAX_KNOWN && !self.is_fixed;
        if room {
            self.addrs.push(addr.to_owned());
        }
        room
    }

    fn learn_leader(&mut self, addr: &str) {
        if self.learn(addr) {
            self.leader = Some(addr.to_owned());
        }
    }
}

/// Whether `addr` may be `host:port`. Strict, as it becomes part of a URI and may come from a server.
fn is_address(addr: &str) -> bool {
    let Some((host, port)) = addr.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_ok = match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            (1..=253).contains(&host.len())
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    host_ok && digits && port.parse::<u16>().is_ok_and(|p| p != 0)
}

/// One attempt: whom to ask, and how long to wait.
pub(super) struct Attempt {
    pub addr: String,
    pub timeout: Duration,
}

/// The order of the attempts of one call: every known node once, the leader first, then again after a pause.
pub(super) struct Tour {
    attempt_timeout: Duration,
    asked: Vec<String>,
    pause: Duration,
    /// A node that answered in this tour, which can name the others.
    guide: Option<String>,
    members_learned: bool,
}

impl Tour {
    pub(super) fn new(timeout: Duration) -> Tour {
        let attempt_timeout = (timeout / 3).max(timeout.min(LEAST_ATTEMPT));
        Tour { attempt_timeout, asked: Vec::new(), pause: FIRST_PAUSE, guide: None, members_learned: false }
    }

    /// The next attempt, after a pause where a tour is over; None when the time is.
    pub(super) fn next(&mut self, known: &Mutex<Known>, deadline: Instant) -> Option<Attempt> {
        let unasked = |asked: &[String]| {
            let order = known.lock().expect("nothing panics under this lock").in_order();
            order.into_iter().find(|addr| !asked.contains(addr))
        };
        let addr = match unasked(&self.asked) {
            Some(addr) => addr,
            None => {
                let left = deadline.saturating_duration_since(Instant::now());
                // Some randomness, so that the clients of a dead leader do not come back in step.
                let pause = self.pause.mul_f64(0.5 + fastrand::f64() / 2.0);
                thread::sleep(pause.min(left));
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                self.asked.clear();
                unasked(&self.asked)?
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        self.asked.push(addr.clone());
        Some(Attempt { addr, timeout: left.min(self.attempt_timeout) })
    }

    /// Takes over what an answer says of the leader. A leader not yet asked in this tour comes next.
    pub(super) fn answered(&mut self, known: &Mutex<Known>, addr: &str, leader: Option<&str>) {
        self.guide = Some(addr.to_owned());
        if let Some(leader) = leader {
            known.lock().expect("nothing panics under this lock").learn_leader(leader);
        }
    }

    /// The node to ask for the members: one that answered, once per call.
    pub(super) fn wants_members(&mut self) -> Option<String> {
        if self.members_learned {
            return None;
        }
        let guide = self.guide.take()?;
        self.members_learned = true;
        Some(guide)
    }
}
