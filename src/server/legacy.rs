//! The routes `/get`, `/set` and `/delete`: flat, plain text, for clients that know nothing else. Such a client takes only
//! 200 as success, follows the `leader_addr` of a 503, and goes to another node when it cannot connect. Every node serves
//! these routes, with the guarantees of version 1: a follower forwards, so a 503 means that nothing serves at the moment.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::client_api::{Done, command, decided, failed};
use super::http::{Method, Reply, Request, Response};
use super::params;
use super::shared::Shared;
use crate::api::{self, DeleteReply, ErrorBody, ErrorCode, ErrorOutcome, LeaderRef};
use crate::node::{Consistency, Failure, Node, Origin, WriteResult};
use crate::raft::Index;
use crate::store::{Applied, Command};
use crate::vocabulary::Op;

const PLAIN: &str = "text/plain; charset=utf-8";

/// One of the three routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `GET /get?key=K`: 200 with the bare value, 404 when the key is absent.
    Get,
    /// `POST /set` with `{"key":"K","value":"V"}`: 200 with a sentence.
    Set,
    /// `DELETE /delete?key=K`: 200 with a sentence, also when the key is absent.
    Delete,
}

impl Route {
    /// The route at a path.
    pub fn at(path: &str) -> Option<Route> {
        match path {
            "/get" => Some(Route::Get),
            "/set" => Some(Route::Set),
            "/delete" => Some(Route::Delete),
            _ => None,
        }
    }

    fn method(self) -> (Method, &'static str) {
        match self {
            Route::Get => (Method::Get, "GET"),
            Route::Set => (Method::Post, "POST"),
            Route::Delete => (Method::Delete, "DELETE"),
        }
    }

    /// Answers a request, now or when it is decided.
    pub fn handle(self, shared: &Arc<Shared>, request: &Request, mut reply: Reply) {
        let (method, name) = self.method();
        if request.method != method {
            let text = format!("this route has the method {name} only");
            let response = error(&ErrorBody::new(ErrorCode::MethodNotAllowed, text), None);
            let shared = shared.clone();
            return reply.send(move || shared.decorate(response.with_header("Allow", name)));
        }
        let asked = match self.parse(shared, request) {
            Ok(asked) => asked,
            Err(body) => return send_error(shared, reply, body),
        };
        let Some(node) = shared.node().cloned() else {
            return send_error(shared, reply, shared.unborn_error());
        };
        if !reply.park() {
            let text = "too many requests wait for consensus already: try again";
            return send_error(shared, reply, ErrorBody::new(ErrorCode::Overloaded, text));
        }
        let deadline = Instant::now() + shared.request_timeout();
        let shared = shared.clone();
        match asked {
            Asked::Read(key) => {
                let reader = node.clone();
                let done = move |result| {
                    reply.send(move || {
                        let response = value(&reader, &key, result);
                        shared.decorate(response.unwrap_or_else(|body| error(&body, shared.leader())))
                    });
                };
                node.read(Consistency::Linearizable, deadline, Box::new(done));
            }
            Asked::Write(command) => {
                let done = move |result| {
                    reply.send(move || {
                        let response = written(result);
                        shared.decorate(response.unwrap_or_else(|body| error(&body, shared.leader())))
                    });
                };
                node.write(command, deadline, Origin::Client, Box::new(done));
            }
        }
    }

    fn parse(self, shared: &Shared, request: &Request) -> Result<Asked, ErrorBody> {
        let limits = shared.limits();
        let op = match self {
            Route::Get => return Ok(Asked::Read(checked_key(query_key(request)?, limits.max_key_bytes)?)),
            Route::Delete => Op::Delete { key: checked_key(query_key(request)?, limits.max_key_bytes)? },
            Route::Set => {
                let set: SetBody = serde_json::from_slice(&request.body).map_err(|e| {
                    invalid(format!("the body is not {{\"key\":\"...\",\"value\":\"...\"}}: {e}"))
                })?;
                let key = checked_key(set.key.into_bytes(), limits.max_key_bytes)?;
                let (len, most) = (set.value.len(), limits.max_value_bytes);
                if len > most {
                    let text =
                        format!("the value has {len} bytes, the limit is {most} (limits.max_value_bytes)");
                    return Err(ErrorBody::new(ErrorCode::TooLarge, text));
                }
                Op::Put { key, value: set.value.into_bytes() }
            }
        };
        if params::condition(request)?.is_some() {
            return Err(invalid("this route has no conditions: /v1/kv/{key} has"));
        }
        Ok(Asked::Write(command(op, None, params::idempotency_key(request)?)))
    }
}

enum Asked {
    Read(Vec<u8>),
    Write(Command),
}

/// The body of `/set`. Further fields are ignored.
#[derive(Deserialize)]
struct SetBody {
    key: String,
    value: String,
}

/// What a request is told that this node could not decide: strings only, so that the simplest reader can take it.
#[derive(Serialize)]
struct NotServed<'a> {
    error: &'a str,
    /// The leader's client address, empty when none is known.
    leader_addr: &'a str,
}

fn invalid(text: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::InvalidRequest, text)
}

/// The first `key` of the query, form-decoded: any bytes. All other parameters are ignored.
fn query_key(request: &Request) -> Result<Vec<u8>, ErrorBody> {
    let pairs = request.query.as_deref().unwrap_or("").split('&');
    let mut values = pairs.filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (params::percent_decode(name, true)? == b"key").then_some(value)
    });
    let raw = values.next().ok_or_else(|| invalid("the parameter key is missing: add ?key=K"))?;
    params::percent_decode(raw, true).ok_or_else(|| {
        invalid("the key has a broken percent escape: write %25 for a percent sign, %XX for any other byte")
    })
}

fn checked_key(key: Vec<u8>, max_bytes: usize) -> Result<Vec<u8>, ErrorBody> {
    if key.is_empty() {
        return Err(invalid("the key is empty"));
    }
    if key.len() > max_bytes {
        let text =
            format!("the key has {} bytes, the limit is {max_bytes} (limits.max_key_bytes)", key.len());
        return Err(ErrorBody::new(ErrorCode::TooLarge, text));
    }
    Ok(key)
}

fn send_error(shared: &Arc<Shared>, reply: Reply, body: ErrorBody) {
    let shared = shared.clone();
    reply.send(move || shared.decorate(error(&body, shared.leader())));
}

/// A sentence for what the client did wrong; the flat object for what the cluster could not do.
fn error(body: &ErrorBody, leader: Option<LeaderRef>) -> Response {
    let (code, text) = (body.error.code, body.error.message.as_str());
    if code.status() < 500 {
        return Response::new(code.status(), PLAIN, format!("{text}\n").into_bytes());
    }
    let leader_addr = leader.as_ref().map_or("", |leader| &leader.http_addr);
    let response = Response::json(code.status(), &NotServed { error: text, leader_addr });
    match code {
        ErrorCode::Overloaded => response.with_header("Retry-After", "1"),
        _ => response,
    }
}

/// The answer to `/get`, once it may be served.
fn value(node: &Node, key: &[u8], result: Result<Index, Failure>) -> Result<Response, ErrorBody> {
    result.map_err(|failure| failed(&failure).with_outcome(ErrorOutcome::NotDone))?;
    node.with_kv(|kv| {
        // The latest revision can be neither compacted nor in the future.
        let Ok(Some(record)) = kv.get(key, None) else {
            return Err(ErrorBody::new(ErrorCode::NotFound, "no such key"));
        };
        let content_type =
            if std::str::from_utf8(record.value).is_ok() { PLAIN } else { "application/octet-stream" };
        let index = kv.applied().index.to_string();
        Ok(Response::new(200, content_type, record.value.to_vec()).with_header(api::INDEX_HEADER, index))
    })
}

/// The answer to `/set` and `/delete`.
fn written(result: WriteResult) -> Result<Response, ErrorBody> {
    let Applied { index, outcome, replayed } = result.map_err(|failure| failed(&failure))?;
    let sentence = match decided(&outcome)? {
        Done::Put(_) => "The key was set.\n",
        Done::Deleted(DeleteReply { deleted: 0, .. }) => "The key was not there.\n",
        Done::Deleted(_) => "The key was deleted.\n",
    };
    let response =
        Response::new(200, PLAIN, sentence.into()).with_header(api::INDEX_HEADER, index.to_string());
    Ok(if replayed { response.with_header(api::REPLAYED_HEADER, "true") } else { response })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn with_query(query: Option<&str>) -> Request {
        let query = query.map(str::to_owned);
        let (path, headers) = ("/get".to_owned(), Vec::new());
        Request { method: Method::Get, path, query, headers, body: Vec::new(), from_loopback: true }
    }

    #[test]
    fn query_key_takes_the_first_one_and_ignores_the_rest() {
        let table: [(Option<&str>, Option<&[u8]>); 11] = [
            (Some("key=a"), Some(b"a")),
            (Some("x=1&key=a&key=b&y"), Some(b"a")),
            (Some("k%65y=a+b%2Bc"), Some(b"a b+c")),
            (Some("%zz=1&key=a"), Some(b"a")),
            (Some("key=%ff%00"), Some(b"\xff\0")),
            (Some("key=a=b"), Some(b"a=b")),
            (Some("key"), Some(b"")),
            (Some("key=%"), None),
            (Some("Key=a"), None),
            (Some(""), None),
            (None, None),
        ];
        for (query, key) in table {
            assert_eq!(query_key(&with_query(query)).ok().as_deref(), key, "{query:?}");
        }
    }

    #[test]
    fn error_is_a_flat_object_of_strings_when_nothing_serves() {
        let leader = LeaderRef { node_id: "n2".into(), http_addr: "127.0.0.1:8082".into() };
        let body = ErrorBody::new(ErrorCode::Unavailable, "no \"leader\"");
        for (leader, addr) in [(Some(leader), "127.0.0.1:8082"), (None, "")] {
            let response = error(&body, leader);
            let flat: BTreeMap<String, String> = serde_json::from_slice(&response.body).unwrap();
            assert_eq!((response.status, response.content_type), (503, "application/json"));
            assert_eq!(flat["leader_addr"], addr);
            assert_eq!(flat["error"], "no \"leader\"");
            assert_eq!(flat.len(), 2);
        }
    }

    #[test]
    fn error_is_a_sentence_when_the_client_erred() {
        for code in ErrorCode::ALL.into_iter().filter(|code| code.status() < 500) {
            let response = error(&ErrorBody::new(code, "why"), None);
            assert_eq!((response.status, response.content_type), (code.status(), PLAIN), "{code}");
            assert_eq!(response.body, b"why\n");
        }
        let busy = error(&ErrorBody::new(ErrorCode::Overloaded, "busy"), None);
        assert_eq!(busy.headers, [("Retry-After", "1".to_owned())]);
    }
}
