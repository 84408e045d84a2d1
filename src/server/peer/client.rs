//! Calls to peers over HTTP: [`PeerTransport`] for a member, [`BootstrapTransport`] for the bootstrap. The only file
//! of the server that uses ureq.
//!
//! Each peer has four agents, each with connections of its own: `core` for votes and appends, `bulk` for everything
//! without haste, and `forwards` and `asks` for forwarded writes and read indexes, which can be cancelled. A call is
//! bounded as a whole by its timeout. Whether a failed call was surely not executed is decided by the connector: what
//! fails before there is a connection was never sent, everything later is unknown.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    ConnectionDetails, Connector, Either, NextTimeout, TcpConnector, Transport,
};
use ureq::{Agent, http};

use super::codec::{self, Envelope, LinkKind, MAX_PEER_BODY_BYTES, NoReply};
use super::link::{self, LinkPlace, NotOpened, Outcome};
use crate::api::ErrorBody;
use crate::node::{
    BootstrapRecord, BootstrapReply, BootstrapRequest, BootstrapTransport, LeaderCall, PeerError, PeerReply,
    PeerRequest, PeerTransport, Priority, Target, Uninitialized,
};
use crate::raft::{ClusterId, MemberId};

/// A connection that was idle for longer is not used again. This is below the time after which the edge closes an
/// idle connection: otherwise a request could arrive during the close, and its outcome would be unknown.
const MAX_IDLE_AGE: Duration = Duration::from_secs(10);

/// A connection takes at most this long, and at most half of a call's time.
const MAX_CONNECT: Duration = Duration::from_secs(1);

/// A call waits at most this long for the addresses of a host name, and for no longer than its own time.
const MAX_LOOKUP: Duration = Duration::from_secs(1);

/// A bootstrap call takes at most this long: the node that is sent the genesis entry answers after several syncs.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(3);

/// Addresses of a host name that are tried.
const MAX_ADDRESSES: usize = 2;

/// Heads of answers are small: status, type, length.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// What a connection's first request says to the edge of the peer port.
const LANE_HEADER: &str = "Dkv-Lane";

/// Calls the other members on behalf of one.
pub struct HttpPeers {
    cluster_id: ClusterId,
    own: MemberId,
    agents: Mutex<BTreeMap<MemberId, Arc<PeerAgents>>>,
}

/// The connections to one peer.
struct PeerAgents {
    raft_addr: String,
    core: Agent,
    bulk: Agent,
    /// Replaced when their calls are cancelled, because an agent that was shut down cannot be used again. One for
    /// each kind of call, so that cancelling a call of one kind does not affect a call of the other kind.
    forwards: Mutex<Agent>,
    asks: Mutex<Agent>,
    core_link: LinkPlace,
    forwards_link: LinkPlace,
    asks_link: LinkPlace,
}

impl PeerAgents {
    fn new(raft_addr: &str) -> PeerAgents {
        PeerAgents {
            raft_addr: raft_addr.to_owned(),
            core: new_agent(raft_addr),
            bulk: new_agent(raft_addr),
            forwards: Mutex::new(new_agent(raft_addr)),
            asks: Mutex::new(new_agent(raft_addr)),
            core_link: LinkPlace::default(),
            forwards_link: LinkPlace::default(),
            asks_link: LinkPlace::default(),
        }
    }

    fn agent(&self, priority: Priority, request: &PeerRequest) -> Agent {
        match (request, priority) {
            (PeerRequest::Forward(_), _) => locked(&self.forwards).clone(),
            (PeerRequest::ReadIndex { .. }, _) => locked(&self.asks).clone(),
            (_, Priority::Core) => self.core.clone(),
            (_, Priority::Bulk) => self.bulk.clone(),
        }
    }
}

impl PeerAgents {
    /// Makes the call over its link. `None`: surely not executed, to be made by HTTP; so is a call that does no harm when
    /// it is executed twice, after its link has failed.
    fn call_link(
        &self,
        envelope: Envelope,
        route: &'static str,
        body: &[u8],
        timeout: Duration,
    ) -> Option<Result<Answer, PeerError>> {
        let (kind, number) = (LinkKind::of(route)?, link::route_number(route)?);
        let place = self.place(kind);
        let open = || self.open_link(envelope, kind, timeout / 2);
        match place.call(number, body, timeout, open) {
            Outcome::Answer(status, body) => Some(match http::StatusCode::from_u16(status) {
                Ok(status) => interpret(&self.raft_addr, status, body),
                Err(_) => Err(PeerError::Unknown(format!("{}: status {status} is none", self.raft_addr))),
            }),
            Outcome::NotSent => None,
            Outcome::Unknown(why) => Some(Err(PeerError::Unknown(format!("{}: {why}", self.raft_addr)))),
        }
    }

    fn place(&self, kind: LinkKind) -> &LinkPlace {
        match kind {
            LinkKind::Core => &self.core_link,
            LinkKind::Forwards => &self.forwards_link,
            LinkKind::ReadIndexes => &self.asks_link,
        }
    }

    fn open_link(
        &self,
        envelope: Envelope,
        kind: LinkKind,
        timeout: Duration,
    ) -> Result<TcpStream, NotOpened> {
        let kept = link::Kept::default();
        let connector = link::KeepingConnector(kept.clone());
        let agent = Agent::with_parts(config(), connector, FixedResolver::new(&self.raft_addr));
        let request = agent
            .post(format!("http://{}{}", self.raft_addr, codec::LINK))
            .config()
            .timeout_global(Some(timeout))
            .timeout_connect(Some(MAX_CONNECT.min(timeout / 2)))
            .build();
        let request = request.header("Connection", "Upgrade").header("Upgrade", link::PROTOCOL);
        let request = if kind == LinkKind::Core { request.header(LANE_HEADER, "core") } else { request };
        // Why not is said by the HTTP call that follows.
        let answer = request.send(codec::encode_link(envelope, kind)).map_err(|_| NotOpened::ForNow)?;
        match answer.status().as_u16() {
            101 => kept.take().ok_or(NotOpened::ForNow),
            // It takes this for an ordinary call, or knows no such route.
            200..=299 | 404 => Err(NotOpened::Unknown),
            _ => Err(NotOpened::ForNow),
        }
    }
}

impl HttpPeers {
    /// For the member that `bootstrap_record` describes.
    pub fn new(bootstrap_record: &BootstrapRecord) -> HttpPeers {
        let (cluster_id, own) = (bootstrap_record.cluster_id(), bootstrap_record.member_id());
        HttpPeers { cluster_id, own, agents: Mutex::default() }
    }

    fn agents(&self, to: &Target) -> Arc<PeerAgents> {
        let mut agents = locked(&self.agents);
        match agents.get(&to.member_id) {
            Some(known) if known.raft_addr == to.raft_addr => known.clone(),
            _ => {
                let new = Arc::new(PeerAgents::new(&to.raft_addr));
                agents.insert(to.member_id, new.clone());
                new
            }
        }
    }
}

impl PeerTransport for HttpPeers {
    fn call(
        &self,
        to: &Target,
        priority: Priority,
        request: PeerRequest,
        timeout: Duration,
    ) -> Result<PeerReply, PeerError> {
        let envelope = Envelope { cluster_id: self.cluster_id, from: self.own, to: to.member_id };
        let began = Instant::now();
        let agents = self.agents(to);
        let route = codec::route(&request);
        let writes = if let PeerRequest::Forward(writes) = &request { writes.len() } else { 0 };
        let body = codec::encode_request(envelope, &request);
        let answer = match agents.call_link(envelope, route, &body, timeout) {
            Some(answer) => answer?,
            None => {
                let agent = agents.agent(priority, &request);
                let left = timeout.saturating_sub(began.elapsed());
                let answer = post(&agent, &to.raft_addr, route, priority, &body, left)?;
                if let (Answer::Reply(_), Some(kind)) = (&answer, LinkKind::of(route)) {
                    agents.place(kind).peer_answers();
                }
                answer
            }
        };
        match answer {
            Answer::Reply(body) => codec::decode_reply(route, writes, &body)
                .map_err(|e| PeerError::Unknown(format!("the answer of {} is malformed: {e}", to.raft_addr))),
            Answer::Uninitialized(uninitialized) => Err(PeerError::Uninitialized {
                node_id: uninitialized.node_id,
                member_id: uninitialized.member_id,
            }),
            Answer::Removed => Err(PeerError::Removed),
            Answer::Stopping => Err(PeerError::Stopping),
        }
    }

    fn say_goodbye(&self) {
        for agents in locked(&self.agents).values() {
            let links = [&agents.core_link, &agents.forwards_link, &agents.asks_link];
            links.into_iter().for_each(LinkPlace::say_goodbye);
        }
    }

    fn cancel(&self, to: MemberId, call: LeaderCall) {
        let Some(agents) = locked(&self.agents).get(&to).cloned() else { return };
        let (agent, link) = match call {
            LeaderCall::Forward => (&agents.forwards, &agents.forwards_link),
            LeaderCall::ReadIndex => (&agents.asks, &agents.asks_link),
        };
        link.cancel();
        let old = std::mem::replace(&mut *locked(agent), new_agent(&agents.raft_addr));
        old.shutdown();
    }
}

/// Calls `/raft/bootstrap` of any address.
#[derive(Default)]
pub struct HttpBootstrap {
    agents: Mutex<BTreeMap<String, Agent>>,
}

impl BootstrapTransport for HttpBootstrap {
    fn bootstrap(&self, raft_addr: &str, request: &BootstrapRequest) -> Result<BootstrapReply, PeerError> {
        let agent =
            locked(&self.agents).entry(raft_addr.to_owned()).or_insert_with(|| new_agent(raft_addr)).clone();
        let body = codec::encode_bootstrap(request);
        match post(&agent, raft_addr, codec::BOOTSTRAP, Priority::Bulk, &body, BOOTSTRAP_TIMEOUT)? {
            Answer::Reply(body) => codec::decode_bootstrap_reply(&body)
                .map_err(|e| PeerError::Unknown(format!("the answer of {raft_addr} is malformed: {e}"))),
            Answer::Uninitialized(uninitialized) => Ok(BootstrapReply::Uninitialized(uninitialized)),
            Answer::Removed => Err(PeerError::Removed),
            Answer::Stopping => Err(PeerError::Stopping),
        }
    }
}

enum Answer {
    Reply(Vec<u8>),
    Uninitialized(Uninitialized),
    Removed,
    Stopping,
}

/// One POST, from the connection to the last byte of the answer within `timeout`.
fn post(
    agent: &Agent,
    raft_addr: &str,
    route: &str,
    priority: Priority,
    body: &[u8],
    timeout: Duration,
) -> Result<Answer, PeerError> {
    if timeout.is_zero() {
        return Err(PeerError::NotSent("no time is left for the call".into()));
    }
    let mut request = agent
        .post(format!("http://{raft_addr}{route}"))
        .config()
        .timeout_global(Some(timeout))
        .timeout_connect(Some(MAX_CONNECT.min(timeout / 2)))
        .build();
    if priority == Priority::Core {
        request = request.header(LANE_HEADER, "core");
    }
    let mut response = request.send(body).map_err(|e| failed(raft_addr, e))?;
    let status = response.status();
    // The answer is read to its end, because otherwise the connection could not be used again.
    let body = response
        .body_mut()
        .with_config()
        .limit(MAX_PEER_BODY_BYTES as u64)
        .read_to_vec()
        .map_err(|e| PeerError::Unknown(format!("{raft_addr}: the answer broke off: {e}")))?;
    interpret(raft_addr, status, body)
}

/// What an answer says, by its status.
fn interpret(raft_addr: &str, status: http::StatusCode, body: Vec<u8>) -> Result<Answer, PeerError> {
    if status == http::StatusCode::OK {
        return Ok(Answer::Reply(body));
    }
    match (status.as_u16(), codec::decode_no_reply(&body)) {
        (409, Ok(NoReply::Uninitialized(uninitialized))) => Ok(Answer::Uninitialized(uninitialized)),
        (410, Ok(NoReply::Removed)) => Ok(Answer::Removed),
        (503, Ok(NoReply::Stopping)) => Ok(Answer::Stopping),
        (400..=499 | 503, Ok(NoReply::Refused(text))) => {
            Err(PeerError::Refused(format!("{raft_addr}: {text}")))
        }
        // When the edge refuses a request, no handler has seen it.
        (400..=499 | 503, _) => Err(PeerError::Refused(format!("{raft_addr}: {}", reason(status, &body)))),
        _ => Err(PeerError::Unknown(format!("{raft_addr}: {}", reason(status, &body)))),
    }
}

/// The status, and what the edge says about it.
fn reason(status: http::StatusCode, body: &[u8]) -> String {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(said) => format!("{status}: {}", said.error.message),
        Err(_) => status.to_string(),
    }
}

fn failed(raft_addr: &str, error: ureq::Error) -> PeerError {
    match error {
        ureq::Error::Other(e) if e.is::<NoConnection>() => PeerError::NotSent(format!("{raft_addr}: {e}")),
        ureq::Error::HostNotFound => PeerError::NotSent(format!("{raft_addr}: no such host")),
        // The agent was shut down before it connected. The same error kind from the system would have an error code.
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::NotConnected && e.raw_os_error().is_none() => {
            PeerError::NotSent(format!("{raft_addr}: the call was cancelled"))
        }
        e => PeerError::Unknown(format!("{raft_addr}: {e}")),
    }
}

fn config() -> ureq::config::Config {
    Agent::config_builder()
        // The default would be the proxy of the environment.
        .proxy(None)
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent("")
        .accept("")
        .accept_encoding("")
        .max_idle_age(MAX_IDLE_AGE)
        .max_idle_connections(4)
        .max_idle_connections_per_host(4)
        .max_response_header_size(MAX_HEAD_BYTES)
        .build()
}

fn new_agent(raft_addr: &str) -> Agent {
    let resolver = FixedResolver::new(raft_addr);
    let connector = ConnectOrSayNotSent { tcp: TcpConnector::default(), resolver: resolver.clone() };
    Agent::with_parts(config(), connector, resolver)
}

/// Marks every failure to connect, so that it is distinguished from a failure on a connection: the same error kinds
/// occur in both cases.
#[derive(Debug)]
struct ConnectOrSayNotSent {
    tcp: TcpConnector,
    resolver: FixedResolver,
}

impl Connector for ConnectOrSayNotSent {
    type Out = Either<(), Box<dyn Transport>>;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Self::Out>, ureq::Error> {
        let no_connection = |why: &str| {
            self.resolver.forget();
            not_sent(why)
        };
        match Connector::<()>::connect(&self.tcp, details, None) {
            Ok(Some(transport)) => Ok(Some(Either::B(Box::new(transport)))),
            Ok(None) => Err(no_connection("no connection")),
            Err(error) => Err(no_connection(&error.to_string())),
        }
    }
}

/// There was no connection to send on.
#[derive(Debug)]
struct NoConnection(String);

fn not_sent(why: &str) -> ureq::Error {
    ureq::Error::Other(Box::new(NoConnection(why.to_owned())))
}

impl fmt::Display for NoConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoConnection {}

/// What a lookup of the system brings.
type Addresses = io::Result<Vec<SocketAddr>>;

/// The addresses of one peer. An IP address is never looked up. A host name is looked up when there is no connection,
/// and again after one failed; not for every request, as a resolver usually is. The system bounds no lookup, so a thread
/// of its own makes it, at most one at a time, and a call waits for it no longer than for anything else.
#[derive(Clone, Debug)]
struct FixedResolver {
    raft_addr: String,
    state: Arc<Mutex<Resolved>>,
    look_up: fn(&str) -> Addresses,
}

#[derive(Debug, Default)]
struct Resolved {
    /// Empty: to be looked up.
    known: Vec<SocketAddr>,
    /// A lookup under way, begun by this call or by an earlier one that could not wait for it.
    under_way: Option<Receiver<Addresses>>,
}

impl FixedResolver {
    fn new(raft_addr: &str) -> FixedResolver {
        let look_up = |raft_addr: &str| Ok(raft_addr.to_socket_addrs()?.take(MAX_ADDRESSES).collect());
        FixedResolver { raft_addr: raft_addr.to_owned(), state: Arc::default(), look_up }
    }

    fn forget(&self) {
        locked(&self.state).known.clear();
    }

    /// The addresses, after at most `patience`.
    fn addresses(&self, patience: Duration) -> Result<Vec<SocketAddr>, ureq::Error> {
        let mut state = locked(&self.state);
        if state.known.is_empty() {
            if let Ok(address) = self.raft_addr.parse() {
                state.known.push(address);
                return Ok(state.known.clone());
            }
            let lookup = match state.under_way.take() {
                Some(lookup) => lookup,
                None => self.begin().map_err(|e| not_sent(&format!("cannot look the host name up: {e}")))?,
            };
            // Only calls to the same peer wait for this lock, and they need the same answer.
            match lookup.recv_timeout(patience) {
                Ok(found) => state.known = found.map_err(|_| ureq::Error::HostNotFound)?,
                Err(_) => {
                    state.under_way = Some(lookup);
                    return Err(not_sent("the lookup of the host name takes too long"));
                }
            }
        }
        Ok(state.known.clone())
    }

    fn begin(&self) -> io::Result<Receiver<Addresses>> {
        let (sender, lookup) = bounded(1);
        let (raft_addr, look_up) = (self.raft_addr.clone(), self.look_up);
        thread::Builder::new().name("lookup".to_owned()).spawn(move || {
            // The receiver may have stopped waiting.
            let _ = sender.try_send(look_up(&raft_addr));
        })?;
        Ok(lookup)
    }
}

impl Resolver for FixedResolver {
    fn resolve(
        &self,
        _: &http::Uri,
        _: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut resolved = self.empty();
        self.addresses(MAX_LOOKUP.min(*timeout.after))?
            .into_iter()
            .for_each(|address| resolved.push(address));
        if resolved.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(resolved) }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic under these locks cannot leave a partial change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lookup that begins each time with the word of the test, and counts.
    static LOOKUPS: Mutex<usize> = Mutex::new(0);
    static MAY_END: Mutex<()> = Mutex::new(());

    fn slow(_: &str) -> Addresses {
        *locked(&LOOKUPS) += 1;
        drop(locked(&MAY_END));
        Ok(vec![([127, 0, 0, 9], 7).into()])
    }

    /// A name server that does not answer once held up a replicator for as long as the system asks it.
    #[test]
    fn a_lookup_that_hangs_holds_up_no_call_and_is_not_begun_twice() {
        let resolver = FixedResolver { look_up: slow, ..FixedResolver::new("some-host:7") };
        let hangs = locked(&MAY_END);
        for _ in 0..3 {
            let error = failed("some-host:7", resolver.addresses(Duration::from_millis(20)).unwrap_err());
            assert!(matches!(&error, PeerError::NotSent(text) if text.contains("too long")), "{error}");
        }
        drop(hangs);
        let found: Vec<SocketAddr> = vec![([127, 0, 0, 9], 7).into()];
        assert_eq!(resolver.addresses(Duration::from_secs(30)).unwrap(), found);
        assert_eq!(resolver.addresses(Duration::ZERO).unwrap(), found, "it is known now");
        assert_eq!(*locked(&LOOKUPS), 1);
        resolver.forget();
        assert_eq!(resolver.addresses(Duration::from_secs(30)).unwrap(), found);
        assert_eq!(*locked(&LOOKUPS), 2);
    }

    #[test]
    fn an_ip_address_is_never_looked_up() {
        let never = |_: &str| -> Addresses { panic!("looked up") };
        let resolver = FixedResolver { look_up: never, ..FixedResolver::new("127.0.0.9:7") };
        assert_eq!(resolver.addresses(Duration::ZERO).unwrap(), [([127, 0, 0, 9], 7).into()]);
    }
}
