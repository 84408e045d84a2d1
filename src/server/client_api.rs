//! The client API, version 1: takes a request apart, asks the node, renders what it decided. Nothing here waits: a request
//! that needs consensus is parked with its [`Reply`], and a responder writes the answer.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::http::{Handler, Method, Reply, Request, Response};
use super::legacy;
use super::log_level;
use super::metrics;
use super::params::{self, Query};
use super::shared::Shared;
use crate::api::{
    self, ClusterReply, DeleteReply, ErrorBody, ErrorCode, ErrorOutcome, LeaderRef, MemberInfo, PutReply,
    Record,
};
use crate::node::{Consistency, Failure, FailureKind, Node, Origin, WriteResult};
use crate::raft::Index;
use crate::store::{Applied, Command, Idempotency, Op, Outcome, request_hash};

const KV_PREFIX: &str = "/v1/kv/";

/// Serves the client port.
pub struct ClientApi {
    shared: Arc<Shared>,
}

impl ClientApi {
    /// Serves what `shared` holds: before founding only the probes and the cluster's configuration.
    pub fn new(shared: Arc<Shared>) -> ClientApi {
        ClientApi { shared }
    }

    fn key_route(&self, raw_key: &str, request: &Request, mut reply: Reply) {
        let parsed = match request.method {
            Method::Get | Method::Head => self.parse_read(raw_key, request).map(Asked::Read),
            Method::Put | Method::Delete => self.parse_write(raw_key, request).map(Asked::Write),
            Method::Post | Method::Other => Err(method_not_allowed("GET, HEAD, PUT, DELETE")),
        };
        let asked = match parsed {
            Ok(asked) => asked,
            Err(error) => return self.send_error(reply, error, request),
        };
        let Some(node) = self.shared.node() else {
            return self.send_error(reply, self.shared.unborn_error(), request);
        };
        if !matches!(asked, Asked::Read(Read { consistency: Consistency::Stale, .. })) && !reply.park() {
            let text = "too many requests wait for consensus already: try again";
            return self.send_error(reply, ErrorBody::new(ErrorCode::Overloaded, text), request);
        }
        let deadline = Instant::now() + self.shared.request_timeout();
        let (shared, answerer) = (self.shared.clone(), node.clone());
        match asked {
            Asked::Write(command) => {
                let done = move |result: WriteResult| reply.send(move || shared.decorate(written(result)));
                node.write(command, deadline, Origin::Client, Box::new(done));
            }
            Asked::Read(Read { key, consistency, wants_json }) => {
                let done = move |result: Result<Index, Failure>| {
                    reply.send(move || shared.decorate(read(&answerer, &key, wants_json, result)));
                };
                node.read(consistency, deadline, Box::new(done));
            }
        }
    }

    fn parse_read(&self, raw_key: &str, request: &Request) -> Result<Read, Error> {
        let key = params::decode_key(raw_key, self.shared.limits().max_key_bytes)?;
        let query = Query::parse(request.query.as_deref(), &["consistency"])?;
        let consistency = match query.get("consistency") {
            None | Some("linearizable") => Consistency::Linearizable,
            Some("stale") => Consistency::Stale,
            Some(other) => {
                return Err(invalid(format!(
                    "consistency={other:?}: it is linearizable (the default) or stale"
                )));
            }
        };
        if request.header("if-match").is_some() {
            return Err(invalid(
                "If-Match is a condition of writes; a read gives the current tag in its ETag",
            ));
        }
        let wants_json = request.header("accept").is_some_and(|accept| accept.contains("application/json"));
        Ok(Read { key, consistency, wants_json })
    }

    fn parse_write(&self, raw_key: &str, request: &Request) -> Result<Command, Error> {
        let limits = self.shared.limits();
        let key = params::decode_key(raw_key, limits.max_key_bytes)?;
        Query::parse(request.query.as_deref(), &[])?;
        let condition = params::condition(request)?;
        let idempotency_key = params::idempotency_key(request)?;
        let op = if request.method == Method::Put {
            if request.body.len() > limits.max_value_bytes {
                let (len, most) = (request.body.len(), limits.max_value_bytes);
                let text = format!("the value has {len} bytes, the limit is {most} (limits.max_value_bytes)");
                return Err(ErrorBody::new(ErrorCode::TooLarge, text).into());
            }
            Op::Put { key, value: request.body.clone() }
        } else {
            if !request.body.is_empty() {
                return Err(invalid("a DELETE has no body"));
            }
            Op::Delete { key }
        };
        let idempotency = idempotency_key
            .map(|key| Idempotency { key: key.to_owned(), request_hash: request_hash(&op, condition) });
        Ok(Command { op, condition, idempotency, wall_ms: wall_ms(), actor: String::new() })
    }

    fn cluster(&self) -> Response {
        let leader = self.shared.leader();
        let reply = match self.shared.node() {
            Some(node) => ClusterReply {
                cluster_id: Some(node.cluster_id().to_string()),
                term: node.term(),
                leader,
                members: (node.membership().members.iter())
                    .map(|m| MemberInfo {
                        node_id: m.node_id.clone(),
                        member_id: Some(m.member_id.to_string()),
                        raft_addr: m.raft_addr.clone(),
                        http_addr: m.http_addr.clone(),
                        voter: m.voter,
                    })
                    .collect(),
            },
            None => ClusterReply {
                cluster_id: None,
                term: 0,
                leader,
                members: (self.shared.config().peers.iter())
                    .map(|p| MemberInfo {
                        node_id: p.node_id.clone(),
                        member_id: None,
                        raft_addr: p.raft_addr.clone(),
                        http_addr: p.http_addr.clone(),
                        voter: true,
                    })
                    .collect(),
            },
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
        let api = ClientApi { shared: self.shared.clone() };
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
        match request.path.as_str() {
            "/metrics" => self.page(&request, reply, |api| metrics::page(&api.shared)),
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
                let text = "no such route; keys are at /v1/kv/{key}, the cluster at /v1/cluster";
                self.send_error(reply, ErrorBody::new(ErrorCode::UnknownRoute, text), &request);
            }
        }
    }
}

enum Asked {
    Read(Read),
    Write(Command),
}

struct Read {
    key: Vec<u8>,
    consistency: Consistency,
    wants_json: bool,
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

fn invalid(message: impl Into<String>) -> Error {
    ErrorBody::new(ErrorCode::InvalidRequest, message).into()
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

/// The answer to a read that may be served now.
fn read(node: &Node, key: &[u8], wants_json: bool, result: Result<Index, Failure>) -> Response {
    if let Err(failure) = result {
        return Response::error(&failed(&failure).with_outcome(ErrorOutcome::NotDone));
    }
    node.with_kv(|kv| {
        let at = |response: Response| {
            response
                .with_header(api::INDEX_HEADER, kv.applied().index.to_string())
                .with_header(api::REVISION_HEADER, kv.revision().to_string())
        };
        // The latest revision can be neither compacted nor in the future.
        let Ok(Some(record)) = kv.get(key, None) else {
            return at(Response::error(&ErrorBody::new(ErrorCode::NotFound, "no such key")));
        };
        let response = if wants_json {
            let (key, value) = (record.key.to_vec(), record.value.to_vec());
            let (create_revision, mod_revision, version) =
                (record.create_revision, record.mod_revision, record.version);
            Response::json(200, &Record { key, value, create_revision, mod_revision, version })
        } else {
            Response::new(200, "application/octet-stream", record.value.to_vec())
        };
        at(response)
            .with_header("ETag", format!("\"{}\"", record.mod_revision))
            .with_header(api::CREATE_REVISION_HEADER, record.create_revision.to_string())
            .with_header(api::VERSION_HEADER, record.version.to_string())
    })
}

pub(super) fn failed(failure: &Failure) -> ErrorBody {
    let code = match failure.kind {
        FailureKind::Unavailable => ErrorCode::Unavailable,
        FailureKind::Overloaded => ErrorCode::Overloaded,
        FailureKind::TooLarge => ErrorCode::TooLarge,
        FailureKind::Timeout => ErrorCode::Timeout,
        FailureKind::OutcomeUnknown => ErrorCode::OutcomeUnknown,
    };
    ErrorBody::new(code, failure.message.clone())
}

impl From<&crate::raft::Member> for LeaderRef {
    fn from(member: &crate::raft::Member) -> LeaderRef {
        LeaderRef { node_id: member.node_id.clone(), http_addr: member.http_addr.clone() }
    }
}
