//! Which node is asked next, and for how long.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::api::{ClusterReply, MemberInfo};

/// Most addresses the client remembers.
const MAX_KNOWN: usize = 64;

/// Pause before the second round; it doubles with each one after, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// A single attempt gets a third of the whole time, so that a node that hangs leaves time for two others, but not
/// less than this unless the whole time is shorter.
const LEAST_ATTEMPT: Duration = Duration::from_secs(1);

/// Longest wait for the list of members.
pub(super) const LEARN_TIMEOUT: Duration = Duration::from_millis(500);

/// The nodes the client knows of.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The given ones first, in the order in which they were given; then those that were learnt.
    addrs: Vec<String>,
    given: usize,
    leader: Option<String>,
    /// No other node is ever asked.
    is_fixed: bool,
    /// The cluster that the client keeps to, once it has one.
    cluster: Option<String>,
    /// Which cluster each address named last.
    named: BTreeMap<String, String>,
}

/// Where an answer comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The cluster that the client keeps to.
    Ours,
    /// Another cluster. `is_news`: the address did not say so the last time.
    Foreign { cluster: String, is_news: bool },
    /// The answer names no cluster, or the client has none yet that it could be compared with.
    Nameless,
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
        let given = addrs.len();
        Ok(Known { addrs, given, leader: None, is_fixed: false, cluster: None, named: BTreeMap::new() })
    }

    /// The client keeps to this cluster from the start.
    pub(super) fn keeping_to(self, cluster: String) -> Known {
        Known { cluster: Some(cluster), ..self }
    }

    /// The cluster that the client keeps to.
    pub(super) fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// The endpoints that the client was given.
    pub(super) fn given(&self) -> &[String] {
        &self.addrs[..self.given]
    }

    /// Takes down which cluster an answer names. The first given endpoint that names one decides which cluster the client
    /// keeps to; a learnt address decides nothing.
    pub(super) fn place(&mut self, addr: &str, named: Option<&str>) -> Origin {
        if self.cluster.is_none() && self.given().iter().any(|given| given == addr) {
            self.cluster = named.map(str::to_owned);
        }
        self.compare(addr, named)
    }

    /// The same, and never decides which cluster the client keeps to.
    pub(super) fn compare(&mut self, addr: &str, named: Option<&str>) -> Origin {
        let Some(named) = named else {
            self.named.remove(addr);
            return Origin::Nameless;
        };
        let before = self.named.insert(addr.to_owned(), named.to_owned());
        match &self.cluster {
            None => Origin::Nameless,
            Some(ours) if ours == named => Origin::Ours,
            Some(_) => {
                let is_news = before.is_none_or(|before| before != named);
                Origin::Foreign { cluster: named.to_owned(), is_news }
            }
        }
    }

    /// Whether the node at this address named the client's cluster when it was last heard.
    pub(super) fn is_ours(&self, addr: &str) -> bool {
        self.cluster.is_some() && self.named.get(addr) == self.cluster.as_ref()
    }

    /// Whether the node at this address named another cluster when it was last heard.
    pub(super) fn is_foreign(&self, addr: &str) -> bool {
        self.cluster.is_some()
            && self.named.get(addr).is_some_and(|named| Some(named) != self.cluster.as_ref())
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

    /// A node did not answer: it is not asked first any more, and another one may answer in its place.
    pub(super) fn failed(&mut self, addr: &str) {
        self.named.remove(addr);
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
    /// The end of the call comes before the usual end of an attempt: no answer says little of the node then.
    pub is_cut_short: bool,
}

/// The order of the attempts of one call: every known node once, the leader first, then again after a pause.
pub(super) struct Round {
    attempt_timeout: Duration,
    asked: Vec<String>,
    pause: Duration,
    /// A node that answered in this round, which can name the others.
    guide: Option<String>,
    members_learned: bool,
}

impl Round {
    pub(super) fn new(timeout: Duration) -> Round {
        Round::with_attempts_of((timeout / 3).max(timeout.min(LEAST_ATTEMPT)))
    }

    /// One whose attempts may each take so long.
    pub(super) fn with_attempts_of(attempt_timeout: Duration) -> Round {
        Round { attempt_timeout, asked: Vec::new(), pause: FIRST_PAUSE, guide: None, members_learned: false }
    }

    /// The next attempt, after a pause where a round is over; None when the time is.
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
        let is_cut_short = left < self.attempt_timeout;
        Some(Attempt { addr, timeout: left.min(self.attempt_timeout), is_cut_short })
    }

    /// Takes over what an answer of the client's cluster says of the leader. A leader not yet asked in this round comes
    /// next.
    pub(super) fn answered(&mut self, known: &Mutex<Known>, addr: &str, leader: Option<&str>) {
        self.guide = Some(addr.to_owned());
        if let Some(leader) = leader {
            known.lock().expect("nothing panics under this lock").learn_leader(leader);
        }
    }

    /// A node that answered before does not any more: it names nobody.
    pub(super) fn failed(&mut self, addr: &str) {
        self.guide.take_if(|guide| guide == addr);
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
