//! What stands between each two members. Every member advertises the address of a front of its own; the front tells by
//! the sender's member id in the first line of a request which link it travels, and does to it what the link's fault
//! says. So there is one fault per ordered pair of members, and nothing that needs privileges.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::namespaces::Namespaces;
use super::report::Report;
use super::support::message::read_message;

/// How long a message that is delivered late may be under way, and one that is lost keep its sender waiting.
const LONGEST_HOLD: Duration = Duration::from_secs(20);

/// No request of a member takes longer.
const IDLE: Duration = Duration::from_secs(60);

/// What happens to whatever travels from one member to another.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fault {
    /// Nothing gets through.
    pub cut: Option<Cut>,
    /// Milliseconds on the way: up to so many.
    pub delay_ms: u64,
    /// Of a hundred messages so many are lost.
    pub lose_percent: u8,
    /// Of a hundred requests so many are done twice, where that must be harmless.
    pub double_percent: u8,
}

/// How a link is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Messages vanish.
    Lose,
    /// Messages wait and are delivered when the link is whole again, long after their sender gave up.
    Late,
    /// Connections are reset.
    Reset,
}

/// The faults of all links, and who is who.
pub struct Links {
    faults: Mutex<Vec<Vec<Fault>>>,
    names: Mutex<BTreeMap<String, usize>>,
    rng: Mutex<Rng>,
    namespaces: Option<Namespaces>,
    report: Arc<Report>,
}

impl Links {
    /// Whole links between `size` members.
    pub fn new(size: usize, seed: u64, namespaces: Option<Namespaces>, report: Arc<Report>) -> Links {
        let faults = Mutex::new(vec![vec![Fault::default(); size]; size]);
        Links { faults, names: Mutex::default(), rng: Mutex::new(Rng::with_seed(seed)), namespaces, report }
    }

    /// The network namespace of a member, where it has one: then the kernel cuts, and no proxy.
    pub fn namespace(&self, n: usize) -> Option<String> {
        Some(self.namespaces.as_ref()?.namespace(n))
    }

    /// The member with this id is number `n`. Requests of unknown senders pass.
    pub fn learn(&self, member_id: &str, n: usize) {
        self.names.lock().expect("nothing panics under the lock").insert(member_id.to_owned(), n);
    }

    /// Sets the fault of what travels from one member to another.
    pub fn set(&self, from: usize, to: usize, fault: Fault) {
        let mut faults = self.faults.lock().expect("nothing panics under the lock");
        self.change(&mut faults, from, to, fault);
    }

    /// Makes every link whole.
    pub fn heal(&self) {
        let mut faults = self.faults.lock().expect("nothing panics under the lock");
        let size = faults.len();
        for (from, to) in (0..size).flat_map(|from| (0..size).map(move |to| (from, to))) {
            self.change(&mut faults, from, to, Fault::default());
        }
    }

    fn change(&self, faults: &mut [Vec<Fault>], from: usize, to: usize, fault: Fault) {
        let before = std::mem::replace(&mut faults[from][to], fault);
        if let Some(namespaces) = &self.namespaces
            && before.cut.is_some() != fault.cut.is_some()
        {
            namespaces.cut(from, to, fault.cut.is_some()).expect("routes can be changed");
        }
    }

    fn fault(&self, from: usize, to: usize) -> Fault {
        self.faults.lock().expect("nothing panics under the lock")[from][to]
    }

    fn sender(&self, body: &[u8]) -> Option<usize> {
        let head = String::from_utf8_lossy(&body[..body.len().min(300)]);
        let (_, rest) = head.split_once("\"from\":\"")?;
        let member_id = rest.split('"').next()?;
        self.names.lock().expect("nothing panics under the lock").get(member_id).copied()
    }

    fn chance(&self, percent: u8) -> bool {
        percent > 0 && self.rng.lock().expect("nothing panics under the lock").u8(0..100) < percent
    }

    fn delay(&self, most_ms: u64) -> Duration {
        let mut rng = self.rng.lock().expect("nothing panics under the lock");
        Duration::from_millis(if most_ms == 0 { 0 } else { rng.u64(0..=most_ms) })
    }

    /// Lets a message travel: true when it arrives. When it does not, the sender has been kept waiting, or is to be
    /// reset.
    fn travel(&self, from: usize, to: usize) -> bool {
        let fault = self.fault(from, to);
        self.report.messages.fetch_add(1, Ordering::Relaxed);
        if fault != Fault::default() {
            self.report.messages_hindered.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(self.delay(fault.delay_ms));
        match fault.cut {
            None if self.chance(fault.lose_percent) => {
                self.hold(|| false);
                false
            }
            None => true,
            Some(Cut::Reset) => false,
            Some(Cut::Lose) => {
                self.hold(|| false);
                false
            }
            Some(Cut::Late) => self.hold(|| self.fault(from, to).cut.is_none()),
        }
    }

    /// Waits for `until`; false when it does not happen.
    fn hold(&self, until: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + LONGEST_HOLD;
        while Instant::now() < deadline {
            if until() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

/// The front of one member: listens until it is dropped.
pub struct Front {
    stop: Arc<AtomicBool>,
    addr: String,
}

impl Front {
    /// Listens on `listen` for member `n`, which listens on `target`.
    pub fn start(listen: &str, target: &str, n: usize, links: &Arc<Links>) -> io::Result<Front> {
        let listener = TcpListener::bind(listen)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, links) = (stop.clone(), links.clone());
        let target: SocketAddr = target.parse().expect("an address");
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), links, stopped) = (client, links.clone(), stopped.clone()) else { continue };
                let relay = Relay { to: n, target, links, stopped };
                std::thread::spawn(move || drop(relay.run(client)));
            }
        });
        Ok(Front { stop, addr: listen.to_owned() })
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.addr);
    }
}

/// One connection.
struct Relay {
    to: usize,
    target: SocketAddr,
    links: Arc<Links>,
    stopped: Arc<AtomicBool>,
}

impl Relay {
    fn run(&self, client: TcpStream) -> io::Result<()> {
        let upstream = TcpStream::connect_timeout(&self.target, Duration::from_secs(2))?;
        for stream in [&client, &upstream] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(IDLE))?;
            stream.set_write_timeout(Some(IDLE))?;
        }
        let (mut client, mut upstream) = (BufReader::new(client), BufReader::new(upstream));
        while !self.stopped.load(Ordering::Relaxed) {
            let (head, body) = read_message(&mut client)?;
            let from = self.links.sender(&body);
            if from.is_some_and(|from| !self.links.travel(from, self.to)) {
                break;
            }
            let request = [head, body].concat();
            upstream.get_mut().write_all(&request)?;
            if from.is_some_and(|from| self.is_doubled(&request, from)) {
                self.double(&request);
            }
            let (head, body) = read_message(&mut upstream)?;
            if from.is_some_and(|from| !self.links.travel(self.to, from)) {
                break;
            }
            client.get_mut().write_all(&[head, body].concat())?;
        }
        Ok(())
    }

    /// A forwarded write is never doubled: it has no identity of its own, and TCP does not double it either.
    fn is_doubled(&self, request: &[u8], from: usize) -> bool {
        let is_harmless = |route: &&str| request.starts_with(format!("POST {route} ").as_bytes());
        let routes = ["/raft/append_entries", "/raft/request_vote", "/raft/read_index"];
        routes.iter().any(is_harmless) && self.links.chance(self.links.fault(from, self.to).double_percent)
    }

    /// The same request once more, on a connection of its own, its answer thrown away.
    fn double(&self, request: &[u8]) {
        let (target, request) = (self.target, request.to_owned());
        std::thread::spawn(move || -> io::Result<()> {
            let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(&request)?;
            read_message(&mut BufReader::new(stream)).map(drop)
        });
    }
}
