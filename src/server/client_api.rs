//! The client API, version 1: takes a request apart, asks the node, renders what it decided. Nothing here waits: a request
//! that needs consensus is parked with its [`Reply`], and a responder writes the answer.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::admin::AdminPort;
use super::backups::{self, BackupPort};
use super::http::{Handler, Method, Reply, Request, Response};
use super::legacy;
use super::lists::List;
use super::log_level;
use super::members;
use super::metrics;
use super::params::{self, Query, invalid};
use super::reads::{KeyRead, Read};
use super::shared::Shared;
use crate::api::{
    self, ClusterReply, DeleteReply, ErrorBody, ErrorCode, ErrorOutcome, LeaderRef, MemberInfo, MembersReply,
    PutReply,
};
use crate::node::{Consistency, Failure, FailureKind, Origin, WriteResult};
use crate::raft::Index;
use crate::store::{Applied, Command, Idempotency, Op, Outcome, request_hash};

const LIST: &str = "/v1/kv";
const KV_PREFIX: &str = "/v1/kv/";

/// Serves the client port.
pub struct ClientApi {
    shared: Arc<Shared>,
    admin: AdminPort,
    backups: BackupPort,
}

impl ClientApi {
    /// Serves what `shared` holds: before founding only the probes and the cluster's configuration.
    /// What operators ask goes to `admin`, what concerns snapshots to `backups`.
    pub fn new(shared: Arc<Shared>, admin: AdminPort, backups: BackupPort) -> ClientApi {
        ClientApi { shared, admin, backups }
    }

    fn key_route(&self, raw_key: &str, request: &Request, reply: Reply) {
        match request.method {
            Method::Get | Method::Head => {
                let read = KeyRead::parse(raw_key, request, self.shared.limits().max_key_bytes);
                self.read(read.map(Read::Key), request, reply);
            }
            Method::Put | Method::Delete => self.write(raw_key, request, reply),
            #[cfg(feature = "next-protocol")]
            Method::Post => self.write(raw_key, request, reply),
            #[cfg_attr(feature = "next-protocol", expect(unreachable_patterns))]
            Method::Post | Method::Other => {
                self.send_error(reply, method_not_allowed("GET, HEAD, PUT, DELETE"), request);
            }
        }
    }

    fn list_route(&self, request: &Request, reply: Reply) {
        match request.method {
            Method::Get | Method::Head => {
                let list = List::parse(request, self.shared.limits().max_key_bytes);
                self.read(list.map(|list| Read::List(Box::new(list))), request, reply);
            }
            _ => self.send_error(reply, method_not_allowed("GET, HEAD"), request),
        }
    }

    fn read(&self, parsed: Result<Read, ErrorBody>, request: &Request, mut reply: Reply) {
        let ready = parsed.and_then(|read| {
            let node = self.shared.node().ok_or_else(|| self.shared.unborn_error())?;
            let consistency = read.consistency(node);
            if consistency == Consistency::Linearizable {
                park(&mut reply)?;
            }
            Ok((read, node, consistency))
        });
        let (read, node, consistency) = match ready {
            Ok(ready) => ready,
            Err(error) => return self.send_error(reply, error, request),
        };
        let deadline = Instant::now() + self.shared.request_timeout();
        let (shared, answerer) = (self.shared.clone(), node.clone());
        let done = move |result: Result<Index, Failure>| {
            reply.send(move || {
                shared.decorate(match (result, read) {
                    (Err(e), _) => Response::error(&failed(&e).with_outcome(ErrorOutcome::NotDone)),
                    (Ok(_), Read::Key(read)) => answerer.with_kv(|kv| read.serve(kv)),
                    (Ok(_), Read::List(list)) => list.serve(&answerer, deadline),
                })
            });
        };
        node.read(consistency, deadline, Box::new(done));
    }

    fn write(&self, raw_key: &str, request: &Request, mut reply: Reply) {
        let ready = self.parse_write(raw_key, request).and_then(|command| {
            let node = self.shared.node().ok_or_else(|| self.shared.unborn_error())?;
            park(&mut reply)?;
            Ok((command, node))
        });
        let (command, node) = match ready {
            Ok(ready) => ready,
            Err(error) => return self.send_error(reply, error, request),
        };
        let deadline = Instant::now() + self.shared.request_timeout();
        let shared = self.shared.clone();
        let done = move |result: WriteResult| reply.send(move || shared.decorate(written(result)));
        node.write(command, deadline, Origin::Client, Box::new(done));
    }

    fn parse_write(&self, raw_key: &str, request: &Request) -> Result<Command, ErrorBody> {
        let limits = self.shared.limits();
        let key = params::decode_key(raw_key, limits.max_key_bytes)?;
        Query::parse(request.query.as_deref(), &[])?;
        let condition = params::condition(request)?;
        let idempotency_key = params::idempotency_key(request)?;
        let op = if request.method == Method::Put {
            if request.body.len() > limits.max_value_bytes {
                let (len, most) = (request.body.len(), limits.max_value_bytes);
                let text = format!("the value has {len} bytes, the limit is {most} (limits.max_value_bytes)");
                return Err(ErrorBody::new(ErrorCode::TooLarge, text));
            }
            Op::Put { key, value: request.body.clone() }
        } else {
            if !request.body.is_empty() {
                return Err(invalid("a DELETE has no body"));
            }
            #[cfg(feature = "next-protocol")]
            let op = if request.method == Method::Post { Op::Touch { key } } else { Op::Delete { key } };
            #[cfg(not(feature = "next-protocol"))]
            let op = Op::Delete { key };
            op
        };
        let idempotency = idempotency_key
            .map(|key| Idempotency { key: key.to_owned(), request_hash: request_hash(&op, condition) });
        Ok(Command { op, condition, idempotency, wall_ms: wall_ms(), actor: String::new() })
    }

    fn cluster(&self) -> Response {
        let node = self.shared.node();
        let reply = ClusterReply {
            cluster_id: node.map(|node| node.cluster_id().to_string()),
            term: node.map_or(0, |node| node.term()),
            leader: self.shared.leader(),
            members: self.shared.members(),
        };
        Response::json(200, &reply)
    }

    fn ready(&self) -> Response {
        match self.shared.not_ready() {
            None => Response::new(200, "text/plain; charset=utf-8", b"ready\n".to_vec()),
            Some(why) => Response::error(&ErrorBody::new(ErrorCode::Unavailable, why)),
        }
    }

    /// A route with one representation, for GET and HEAD, without parameters.
    fn page(
        &self,
        request: &Request,
        reply: Reply,
        make: impl FnOnce(&ClientApi) -> Response + Send + 'static,
    ) {
        let checked = match request.method {
            Method::Get | Method::Head => Query::parse(request.query.as_deref(), &[]).map_err(Error::from),
            _ => Err(method_not_allowed("GET, HEAD")),
        };
        if let Err(error) = checked {
            return self.send_error(reply, error, request);
        }
        let api = ClientApi {
            shared: self.shared.clone(),
            admin: self.admin.clone(),
            backups: self.backups.clone(),
        };
        reply.send(move || api.shared.decorate(make(&api)));
    }

    fn log_level(&self, request: &Request, reply: Reply) {
        let set = match request.method {
            Method::Put => log_level::set(request).map_err(Error::from),
            _ => Err(method_not_allowed("PUT")),
        };
        let shared = self.shared.clone();
        match set {
            Ok(response) => reply.send(move || shared.decorate(response)),
            Err(error) => self.send_error(reply, error, request),
        }
    }

    /// The routes that change the cluster itself: answered by the admin thread.
    fn administer(&self, route: members::Route, request: &Request, mut reply: Reply) {
        let asked = route.parse(request).map_err(Error::from).and_then(|asked| {
            self.shared.node().ok_or_else(|| self.shared.unborn_error())?;
            park(&mut reply)?;
            Ok(asked)
        });
        match asked {
            Ok(asked) => self.admin.ask(asked, Instant::now() + self.shared.request_timeout(), reply),
            Err(error) => self.send_error(reply, error, request),
        }
    }

    /// The routes about snapshots: answered by the thread that may touch files.
    fn snapshots(&self, route: backups::Route, request: &Request, mut reply: Reply) {
        let asked = route.parse(request).map_err(Error::from).and_then(|asked| {
            let node = self.shared.node().ok_or_else(|| self.shared.unborn_error())?;
            park(&mut reply)?;
            Ok((asked, node))
        });
        match asked {
            Ok((asked, node)) => {
                self.backups.ask(node, asked, Instant::now() + self.shared.request_timeout(), reply);
            }
            Err(error) => self.send_error(reply, error, request),
        }
    }

    fn send_error(&self, reply: Reply, error: impl Into<Error>, request: &Request) {
        let Error { body, allow } = error.into();
        let body = if request.method.is_read() { body.with_outcome(ErrorOutcome::NotDone) } else { *body };
        let shared = self.shared.clone();
        reply.send(move || {
            let mut response = Response::error(&body);
            if let Some(methods) = allow {
                response = response.with_header("Allow", methods);
            }
            shared.decorate(response)
        });
    }
}

impl Handler for ClientApi {
    fn handle(&self, request: Request, reply: Reply) {
        if let Some(raw_key) = request.path.strip_prefix(KV_PREFIX) {
            return self.key_route(raw_key, &request, reply);
        }
        if let Some(route) = legacy::Route::at(&request.path) {
            return route.handle(&self.shared, &request, reply);
        }
        if let Some(route) = members::Route::at(&request) {
            return match route {
                Ok(route) => self.administer(route, &request, reply),
                Err(allow) => self.send_error(reply, method_not_allowed(allow), &request),
            };
        }
        if let Some(route) = backups::Route::at(&request) {
            return match route {
                Ok(route) => self.snapshots(route, &request, reply),
                Err(allow) => self.send_error(reply, method_not_allowed(allow), &request),
            };
        }
        match request.path.as_str() {
            members::MEMBERS => self.page(&request, reply, |api| {
                Response::json(200, &MembersReply { members: api.shared.members() })
            }),
            "/metrics" => self.page(&request, reply, |api| metrics::page(&api.shared)),
            LIST => self.list_route(&request, reply),
            "/v1/cluster" => self.page(&request, reply, |api| api.cluster()),
            "/v1/status" => self.page(&request, reply, |api| Response::json(200, &api.shared.status())),
            "/healthz" => {
                self.page(&request, reply, |_| {
                    Response::new(200, "text/plain; charset=utf-8", b"ok\n".to_vec())
                });
            }
            "/readyz" => self.page(&request, reply, |api| api.ready()),
            "/v1/log-level" => self.log_level(&request, reply),
            _ => {
                let text =
                    "no such route; keys are at /v1/kv/{key}, lists at /v1/kv, the cluster at /v1/cluster";
                self.send_error(reply, ErrorBody::new(ErrorCode::UnknownRoute, text), &request);
            }
        }
    }
}

/// Takes one of the places for requests that wait for consensus.
fn park(reply: &mut Reply) -> Result<(), ErrorBody> {
    if reply.park() {
        return Ok(());
    }
    let text = "too many requests wait for consensus already: try again";
    Err(ErrorBody::new(ErrorCode::Overloaded, text))
}

/// An error and, for a method that the route does not have, those that it has.
struct Error {
    body: Box<ErrorBody>,
    allow: Option<&'static str>,
}

impl From<ErrorBody> for Error {
    fn from(body: ErrorBody) -> Error {
        Error { body: Box::new(body), allow: None }
    }
}

fn method_not_allowed(methods: &'static str) -> Error {
    let text = format!("this route has the methods {methods}");
    Error { body: Box::new(ErrorBody::new(ErrorCode::MethodNotAllowed, text)), allow: Some(methods) }
}

/// For display beside the write; the state machine never reads it.
pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The answer to a write.
fn written(result: WriteResult) -> Response {
    let Applied { index, outcome, replayed } = match result {
        Ok(applied) => applied,
        Err(failure) => return Response::error(&failed(&failure)),
    };
    let mut response = match outcome {
        Outcome::Put { revision, create_revision, version } => {
            Response::json(200, &PutReply { revision, create_revision, version })
        }
        Outcome::Deleted { revision, deleted } => Response::json(200, &DeleteReply { revision, deleted }),
        Outcome::PreconditionFailed { .. } | Outcome::IdempotencyMismatch | Outcome::Overloaded => {
            Response::error(&refused(&outcome).expect("these are the refusals"))
        }
    };
    response = response.with_header(api::INDEX_HEADER, index.to_string());
    if replayed {
        response = response.with_header(api::REPLAYED_HEADER, "true");
    }
    response
}

/// What a write is told that the state machine refused.
pub(super) fn refused(outcome: &Outcome) -> Option<ErrorBody> {
    match *outcome {
        Outcome::Put { .. } | Outcome::Deleted { .. } => None,
        Outcome::PreconditionFailed { revision, mod_revision } => {
            let text = match mod_revision {
                0 => "the condition does not hold: the key is absent".to_owned(),
                at => format!("the condition does not hold: the key was last written at revision {at}"),
            };
            let body = ErrorBody::new(ErrorCode::PreconditionFailed, text);
            Some(body.with_mod_revision(mod_revision).with_revision(revision))
        }
        Outcome::IdempotencyMismatch => Some(ErrorBody::new(
            ErrorCode::IdempotencyMismatch,
            "this idempotency key was used for another request: use a new one for each write",
        )),
        Outcome::Overloaded => Some(ErrorBody::new(
            ErrorCode::Overloaded,
            "the table of idempotency keys is full: rows leave it with age, or write without a key",
        )),
    }
}

pub(super) fn failed(failure: &Failure) -> ErrorBody {
    let code = match failure.kind {
        FailureKind::Unavailable => ErrorCode::Unavailable,
        FailureKind::Overloaded => ErrorCode::Overloaded,
        FailureKind::TooLarge => ErrorCode::TooLarge,
        FailureKind::Unsupported => ErrorCode::Unsupported,
        FailureKind::Timeout => ErrorCode::Timeout,
        FailureKind::OutcomeUnknown => ErrorCode::OutcomeUnknown,
    };
    ErrorBody::new(code, failure.message.clone())
}

impl From<&crate::raft::Member> for MemberInfo {
    fn from(member: &crate::raft::Member) -> MemberInfo {
        MemberInfo {
            node_id: member.node_id.clone(),
            member_id: Some(member.member_id.to_string()),
            raft_addr: member.raft_addr.clone(),
            http_addr: member.http_addr.clone(),
            voter: member.voter,
            promote: member.promote && !member.voter,
        }
    }
}

impl From<&crate::raft::Member> for LeaderRef {
    fn from(member: &crate::raft::Member) -> LeaderRef {
        LeaderRef { node_id: member.node_id.clone(), http_addr: member.http_addr.clone() }
    }
}
