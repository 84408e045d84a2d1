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
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::link;
use super::namespaces::Namespaces;
use super::report::Report;
use super::support::message::read_message;

/// How long a message that is delivered late may be under way, and one that is lost keep its sender waiting.
const LONGEST_HOLD: Duration = Duration::from_secs(20);

/// How often a front looks whether it is to listen.
const GATE_LOOK: Duration = Duration::from_millis(10);

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

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Arrives,
    /// It alone is lost.
    Vanishes,
    /// It is lost, and so is all that follows it on its connection.
    HalfOpen,
    /// Its connection breaks.
    Reset,
}

/// The faults of all links, and who is who.
pub struct Links {
    faults: Mutex<Vec<Vec<Fault>>>,
    names: Mutex<BTreeMap<String, usize>>,
    gates: Mutex<BTreeMap<usize, Arc<Gate>>>,
    rng: Mutex<Rng>,
    namespaces: Option<Namespaces>,
    report: Arc<Report>,
}

impl Links {
    /// Whole links between `size` members.
    pub fn new(size: usize, seed: u64, namespaces: Option<Namespaces>, report: Arc<Report>) -> Links {
        let faults = Mutex::new(vec![vec![Fault::default(); size]; size]);
        let rng = Mutex::new(Rng::with_seed(seed));
        Links { faults, names: Mutex::default(), gates: Mutex::default(), rng, namespaces, report }
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

    /// The counters of the run.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Whether a call from one member to another is to be made twice.
    pub fn is_doubled(&self, from: usize, to: usize) -> bool {
        self.chance(self.fault(from, to).double_percent)
    }

    /// Waits until nothing is cut on this way, at most as long as anything waits.
    pub fn await_whole(&self, from: usize, to: usize, or: impl Fn() -> bool) {
        self.hold(|| self.fault(from, to).cut.is_none() || or());
    }

    /// A connection of this member has ended: when its process has, its front must listen no longer.
    pub fn look(&self, n: usize) {
        let gate = self.gates.lock().expect("nothing panics under the lock").get(&n).cloned();
        if let Some(gate) = gate
            && gate.is_member_gone()
        {
            gate.shut();
        }
    }

    /// Lets a message of HTTP travel: true when it arrives. When it does not, the sender has been kept waiting, or is to
    /// be reset.
    fn travel(&self, from: usize, to: usize) -> bool {
        let fate = self.fate(from, to);
        if let Fate::Vanishes | Fate::HalfOpen = fate {
            self.hold(|| false);
        }
        fate == Fate::Arrives
    }

    /// Lets a message travel as long as it takes; what becomes of it then.
    pub fn fate(&self, from: usize, to: usize) -> Fate {
        let fault = self.fault(from, to);
        self.report.messages.fetch_add(1, Ordering::Relaxed);
        if fault != Fault::default() {
            self.report.messages_hindered.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(self.delay(fault.delay_ms));
        match fault.cut {
            None if self.chance(fault.lose_percent) => Fate::Vanishes,
            None => Fate::Arrives,
            Some(Cut::Lose) => Fate::HalfOpen,
            Some(Cut::Late) if self.hold(|| self.fault(from, to).cut.is_none()) => Fate::Arrives,
            Some(Cut::Late | Cut::Reset) => Fate::Reset,
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
}

impl Front {
    /// Listens on `listen` for member `n`, which listens on `target`, whenever the member does.
    pub fn start(listen: &str, target: &str, n: usize, links: &Arc<Links>) -> io::Result<Front> {
        let address = |text: &str| -> SocketAddr { text.parse().expect("an address") };
        let (listen, target) = (address(listen), address(target));
        let gate =
            Arc::new(Gate { target, is_open: AtomicBool::new(true), is_to_shut: AtomicBool::new(false) });
        links.gates.lock().expect("nothing panics under the lock").insert(n, gate.clone());
        let mut listener = TcpListener::bind(listen)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, links) = (stop.clone(), links.clone());
        std::thread::spawn(move || {
            loop {
                let relay = |client| {
                    let relay = Relay { to: n, target, links: links.clone(), stopped: stopped.clone() };
                    std::thread::spawn(move || relay.run(client));
                };
                gate.take_connections(&listener, &stopped, relay);
                drop(listener);
                gate.is_open.store(false, Ordering::SeqCst);
                listener = loop {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    std::thread::sleep(GATE_LOOK);
                    if !gate.is_member_gone()
                        && let Ok(listener) = TcpListener::bind(listen)
                    {
                        break listener;
                    }
                };
                gate.is_to_shut.store(false, Ordering::SeqCst);
                gate.is_open.store(true, Ordering::SeqCst);
            }
        });
        Ok(Front { stop })
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Whether a front listens. The address of a dead member refuses connections, as it does without the rig.
struct Gate {
    target: SocketAddr,
    is_open: AtomicBool,
    is_to_shut: AtomicBool,
}

impl Gate {
    /// Whether the member's own address refuses connections. A process that stands still refuses none.
    fn is_member_gone(&self) -> bool {
        let connection = TcpStream::connect_timeout(&self.target, Duration::from_millis(200));
        connection.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Returns when the front listens no longer.
    fn shut(&self) {
        self.is_to_shut.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + 10 * GATE_LOOK;
        while self.is_open.load(Ordering::SeqCst) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Until it is to be shut, or the front is dropped.
    fn take_connections(&self, listener: &TcpListener, stopped: &AtomicBool, relay: impl Fn(TcpStream)) {
        listener.set_nonblocking(true).expect("a socket takes this mode");
        let patience = Timespec::try_from(GATE_LOOK).expect("a short time");
        while !stopped.load(Ordering::Relaxed) && !self.is_to_shut.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok((client, _)) if client.set_nonblocking(false).is_ok() => relay(client),
                Ok(_) => {}
                Err(_) => {
                    // The error of one connection, or none has come.
                    let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&patience));
                }
            }
        }
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
        let mut sender = None;
        let end = self.pass_messages(client, &mut sender);
        // Whoever of the two has died takes its address along.
        sender.into_iter().chain([self.to]).for_each(|n| self.links.look(n));
        end
    }

    fn pass_messages(&self, client: TcpStream, sender: &mut Option<usize>) -> io::Result<()> {
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
            *sender = from.or(*sender);
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
            let is_link = head.starts_with(b"HTTP/1.1 101 ");
            client.get_mut().write_all(&[head, body].concat())?;
            if is_link {
                let from = from.ok_or(io::ErrorKind::InvalidData)?;
                return link::carry((from, client), (self.to, upstream), &self.links, &self.stopped);
            }
        }
        Ok(())
    }

    /// A forwarded write is never doubled: it has no identity of its own, and TCP does not double it either.
    fn is_doubled(&self, request: &[u8], from: usize) -> bool {
        let is_harmless = |route: &&str| request.starts_with(format!("POST {route} ").as_bytes());
        let routes = ["/raft/append_entries", "/raft/request_vote", "/raft/read_index"];
        routes.iter().any(is_harmless) && self.links.is_doubled(from, self.to)
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
