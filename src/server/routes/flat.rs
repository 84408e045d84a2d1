//! The routes `/get`, `/set` and `/delete`: flat, plain text, for clients that know nothing else. Such a client takes only
//! 200 as success, follows the `leader_addr` of a 503, and goes to another node when it cannot connect. Every node serves
//! these routes, with the guarantees of version 1: a follower forwards, so a 503 means that nothing serves at the moment.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::api::{Call, ClientApi, park};
use super::errors::failed;
use super::params::{self, invalid};
use super::writes::{self, Done, decided};
use crate::api::{self, DeleteReply, ErrorBody, ErrorCode, ErrorOutcome, LeaderRef};
use crate::node::{Consistency, Failure, Node, Origin, WriteResult};
use crate::raft::Index;
use crate::server::edge::{Reply, Request, Response};
use crate::server::shared::Shared;
use crate::store::{Applied, Command};
use crate::vocabulary::Op;

const PLAIN: &str = "text/plain; charset=utf-8";

/// `GET /get?key=K`: 200 with the bare value, 404 when the key is absent.
pub(super) fn get(api: &ClientApi, call: Call, mut reply: Reply) {
    let shared = &api.shared;
    let key = query_key(&call.request)
        .and_then(|key| checked_key(key, shared.limits().max_key_bytes))
        .and_then(|key| Ok((key, ready(shared, &call, &mut reply)?)));
    let (key, node) = match key {
        Ok(ready) => ready,
        Err(body) => return send_error(shared, reply, body),
    };
    let (shared, reader) = (shared.clone(), node.clone());
    let deadline = Instant::now() + shared.request_timeout();
    let done = move |result| {
        reply.send(move || {
            let response = value(&reader, &key, result);
            shared.decorate(response.unwrap_or_else(|body| error(&body, shared.leader())))
        });
    };
    node.read(Consistency::Linearizable, deadline, Box::new(done));
}

/// `POST /set` with `{"key":"K","value":"V"}`: 200 with a sentence.
pub(super) fn set(api: &ClientApi, call: Call, reply: Reply) {
    write(&api.shared, parse_set(&api.shared, &call.request), &call, reply);
}

/// `DELETE /delete?key=K`: 200 with a sentence, also when the key is absent.
pub(super) fn delete(api: &ClientApi, call: Call, reply: Reply) {
    let key = query_key(&call.request).and_then(|key| checked_key(key, api.shared.limits().max_key_bytes));
    write(&api.shared, key.map(|key| Op::Delete { key }), &call, reply);
}

/// The answer to another method than the one of the route.
pub(super) fn method_not_allowed(allow: &str) -> Response {
    let text = format!("this route has the method {allow} only");
    error(&ErrorBody::new(ErrorCode::MethodNotAllowed, text), None)
}

fn ready<'a>(shared: &'a Arc<Shared>, call: &Call, reply: &mut Reply) -> Result<&'a Arc<Node>, ErrorBody> {
    let node = shared.node().ok_or_else(|| shared.uninitialized_error())?;
    park(call, reply)?;
    Ok(node)
}

fn write(shared: &Arc<Shared>, op: Result<Op, ErrorBody>, call: &Call, mut reply: Reply) {
    let ready = op
        .and_then(|op| command(op, &call.request))
        .and_then(|command| Ok((command, ready(shared, call, &mut reply)?)));
    let (command, node) = match ready {
        Ok(ready) => ready,
        Err(body) => return send_error(shared, reply, body),
    };
    let deadline = Instant::now() + shared.request_timeout();
    let shared = shared.clone();
    let done = move |result| {
        reply.send(move || {
            let response = written(result);
            shared.decorate(response.unwrap_or_else(|body| error(&body, shared.leader())))
        });
    };
    node.write(command, deadline, Origin::Client, Box::new(done));
}

fn parse_set(shared: &Shared, request: &Request) -> Result<Op, ErrorBody> {
    let limits = shared.limits();
    let set: SetBody = params::json_body(request, "{\"key\":\"...\",\"value\":\"...\"}")?;
    let key = checked_key(set.key.into_bytes(), limits.max_key_bytes)?;
    let (len, most) = (set.value.len(), limits.max_value_bytes);
    if len > most {
        let text = format!("the value has {len} bytes, the limit is {most} (limits.max_value_bytes)");
        return Err(ErrorBody::new(ErrorCode::TooLarge, text));
    }
    Ok(Op::put(key, set.value.into_bytes()))
}

fn command(op: Op, request: &Request) -> Result<Command, ErrorBody> {
    if params::condition(request)?.is_some() {
        return Err(invalid("this route has no conditions: /v1/kv/{key} has"));
    }
    Ok(writes::command(op, None, params::idempotency_key(request)?))
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
    // The latest revision can be neither compacted nor in the future. Copied under the lock, rendered outside of it.
    let (value, index) = node.with_kv(|kv| {
        let record = kv.get(key, None).ok().flatten();
        (record.map(|record| record.value.to_vec()), kv.applied().index)
    });
    let value = value.ok_or_else(|| ErrorBody::new(ErrorCode::NotFound, "no such key"))?;
    let content_type = if std::str::from_utf8(&value).is_ok() { PLAIN } else { "application/octet-stream" };
    Ok(Response::new(200, content_type, value).with_header(api::INDEX_HEADER, index.to_string()))
}

/// The answer to `/set` and `/delete`.
fn written(result: WriteResult) -> Result<Response, ErrorBody> {
    let Applied { index, outcome, replayed } = result.map_err(|failure| failed(&failure))?;
    let sentence = match decided(&outcome)? {
        Done::Put(_) => "The key was set.\n",
        Done::Deleted(DeleteReply { deleted: 0, .. }) => "The key was not there.\n",
        Done::Deleted(_) => "The key was deleted.\n",
        Done::Added(_) => unreachable!("the flat routes have no counters"),
        Done::Lease(_) | Done::Revoked(_) => unreachable!("no flat route asks for a lease"),
        Done::Compacted(_) => unreachable!("no flat route forgets history"),
        Done::Prev(_) => unreachable!("no flat route shows what was there before"),
        Done::Txn(_) => unreachable!("no flat route asks for a transaction"),
    };
    let response =
        Response::new(200, PLAIN, sentence.into()).with_header(api::INDEX_HEADER, index.to_string());
    Ok(if replayed { response.with_header(api::REPLAYED_HEADER, "true") } else { response })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::edge::Method;
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
