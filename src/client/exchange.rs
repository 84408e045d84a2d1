//! One HTTP exchange with one node, over ureq, that never blurs the one difference that matters: whether the request
//! can have reached anybody.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::api::CLUSTER_HEADER;
use ureq::config::Config;
use ureq::http;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport};
use ureq::{Agent, Error};

/// Longest wait for a connection: a host that is down must not use up a command's whole time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections idle for longer are not used again: below every sensible server's idle timeout.
const MAX_IDLE_AGE: Duration = Duration::from_secs(10);

/// Most bytes of an answer's body. Above any value a server can be configured to hold.
const MAX_ANSWER_BYTES: u64 = 32 << 20;

/// A request, without the node it goes to.
pub(super) struct Request<'a> {
    pub method: &'static str,
    /// Path and query, already escaped.
    pub target: String,
    pub headers: Vec<(&'static str, String)>,
    /// None: no body and no length.
    pub body: Option<&'a [u8]>,
}

/// A whole answer.
pub(super) struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value, when it is there and plain text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A header that holds a number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.parse().ok()
    }
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The request cannot even be written; nobody was asked.
    Malformed(String),
    /// No connection came about: surely nobody executed it.
    NotSent(String),
    /// It broke later: somebody may have executed it, or may still do so.
    Unknown(String),
}

/// Marks an error of the phase before a connection stands.
#[derive(Debug)]
struct BeforeSending(String);

impl fmt::Display for BeforeSending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BeforeSending {}

fn before_sending(error: Error) -> Error {
    let text = match error {
        Error::Io(e) => e.to_string(),
        Error::Timeout(_) => "no connection in time".to_owned(),
        Error::HostNotFound => "no such host".to_owned(),
        other => other.to_string(),
    };
    Error::Other(Box::new(BeforeSending(text)))
}

/// ureq's connector with its errors marked. An error of a standing connection can look the same (no route to host,
/// timeout), so the kind alone would not do.
#[derive(Debug, Default)]
struct MarkedConnector(TcpConnector);

impl<In: Transport> Connector<In> for MarkedConnector {
    type Out = <TcpConnector as Connector<In>>::Out;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        self.0.connect(details, chained).map_err(before_sending)
    }
}

/// Takes numeric addresses as they are (ureq's own resolver starts a thread for each) and marks errors.
#[derive(Debug, Default)]
struct MarkedResolver(DefaultResolver);

impl Resolver for MarkedResolver {
    fn resolve(
        &self,
        uri: &http::Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        match uri.authority().and_then(|a| a.as_str().parse::<SocketAddr>().ok()) {
            Some(addr) => {
                let mut found = self.empty();
                found.push(addr);
                Ok(found)
            }
            None => self.0.resolve(uri, config, timeout).map_err(before_sending),
        }
    }
}

/// Makes exchanges; keeps idle connections. Cheap to share between threads.
pub(super) struct Exchanger {
    agent: Agent,
}

impl Exchanger {
    pub(super) fn new() -> Exchanger {
        let config = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_age(MAX_IDLE_AGE)
            .user_agent("")
            .accept("")
            .accept_encoding("")
            .build();
        Exchanger { agent: Agent::with_parts(config, MarkedConnector::default(), MarkedResolver::default()) }
    }

    /// Sends `request`, which may be meant for one cluster alone, to the node at `addr` once and reads the whole answer,
    /// within `timeout` in total.
    pub(super) fn exchange(
        &self,
        addr: &str,
        request: &Request<'_>,
        cluster: Option<&str>,
        timeout: Duration,
    ) -> Result<Answer, Broken> {
        let mut builder =
            http::Request::builder().method(request.method).uri(format!("http://{addr}{}", request.target));
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(cluster) = cluster {
            builder = builder.header(CLUSTER_HEADER, cluster);
        }
        let malformed = |e: http::Error| Broken::Malformed(e.to_string());
        let sent = match request.body {
            Some(body) => self.send(builder.body(body).map_err(malformed)?, timeout),
            None => self.send(builder.body(()).map_err(malformed)?, timeout),
        };
        let mut response = sent.map_err(|e| broken(addr, e))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
        Ok(Answer { status, headers, body: body.map_err(|e| broken(addr, e))? })
    }

    fn send<B: ureq::AsSendBody>(
        &self,
        request: http::Request<B>,
        timeout: Duration,
    ) -> Result<http::Response<ureq::Body>, Error> {
        let request = self
            .agent
            .configure_request(request)
            .timeout_global(Some(timeout))
            .timeout_connect(Some(timeout.min(CONNECT_TIMEOUT)))
            .build();
        self.agent.run(request)
    }
}

/// Sorts an error. Whatever is not surely harmless is unknown.
fn broken(addr: &str, error: Error) -> Broken {
    match error {
        Error::Other(e) if e.is::<BeforeSending>() => Broken::NotSent(format!("{addr}: {e}")),
        Error::Http(e) => Broken::Malformed(e.to_string()),
        Error::BadUri(e) => Broken::Malformed(e),
        Error::Timeout(_) => Broken::Unknown(format!("{addr}: no answer in time")),
        Error::Io(e) => Broken::Unknown(format!("{addr}: {e}")),
        other => Broken::Unknown(format!("{addr}: {other}")),
    }
}
