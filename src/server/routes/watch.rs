//! `GET` and `POST /v1/watch`: what a client wants to watch, and in which form it is told. [`serve`] tells it.

mod serve;

use super::accept::{self, Offer};
use super::api::{Call, ClientApi, park};
use super::errors::failed;
use super::params::{self, Query, invalid};
use crate::api::{
    ChangeKind, DEFAULT_WATCH_LIMIT, DEFAULT_WATCH_WAIT_S, ErrorBody, ErrorCode, ErrorOutcome,
    MAX_WATCH_ID_BYTES, MAX_WATCH_LIMIT, MAX_WATCH_WAIT_S, WatchRequest, WatchSpec, is_cluster_id,
};
use crate::node::{Consistency, Failure, Watch};
use crate::raft::Index;
use crate::server::edge::{Reply, Request, RequestHeader, Response, Takeover};
use crate::store::Kv;
use crate::vocabulary::{KeyRange, Keys};

/// Most watches of one request.
const MAX_WATCHES: usize = 1_000;

const PARAMETERS: [&str; 6] = ["from", "prev", "filter", "wait_s", "limit", "cluster"];
const BYTE_PARAMETERS: [&str; 4] = ["key", "prefix", "start", "end"];

/// In which form changes are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One answer, when there is something to tell or the time is over.
    Poll,
    /// Server-sent events.
    Events,
    /// Newline-delimited JSON.
    Lines,
}

const FORMS: [Form; 3] = [Form::Poll, Form::Events, Form::Lines];

/// The media type of each form.
const OFFERS: [Offer; 3] = [
    Offer { kind: "application", subtype: "json", parameter: None },
    Offer { kind: "text", subtype: "event-stream", parameter: None },
    Offer { kind: "application", subtype: "x-ndjson", parameter: None },
];

/// A request, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// What is watched, with its name, and without a start where that is the present revision.
    watches: Vec<(Option<String>, Keys, Option<u64>, How)>,
    form: Form,
    wait_s: u64,
    limit: usize,
    cluster: Option<String>,
}

/// Which changes one watch shows, and what of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct How {
    filter: Option<ChangeKind>,
    prev: bool,
}

impl ClientApi {
    pub(super) fn watch(&self, call: Call, reply: Reply) {
        let wanted = Wanted::parse(&call.request, self.shared.limits().max_key_bytes);
        self.begin_watch(wanted, call, reply);
    }

    pub(super) fn watch_many(&self, call: Call, reply: Reply) {
        let wanted = Wanted::parse_many(&call.request, self.shared.limits().max_key_bytes);
        self.begin_watch(wanted, call, reply);
    }

    /// Where "now" is asked for, it is a read index: what was acknowledged before the request is not shown, and all that
    /// comes later is. From a given revision on any node tells what it has.
    fn begin_watch(&self, wanted: Result<Wanted, ErrorBody>, call: Call, mut reply: Reply) {
        let ready = wanted.and_then(|wanted| {
            let node = self.node()?;
            let own = node.cluster_id().to_string();
            if let Some(cluster) = wanted.cluster.as_ref().filter(|cluster| **cluster != own) {
                let text = format!(
                    "this node belongs to cluster {own}, and the watch is meant for cluster {cluster}"
                );
                return Err(ErrorBody::new(ErrorCode::Conflict, text));
            }
            let has_start = wanted.watches.iter().all(|(_, _, from, _)| from.is_some());
            let consistency = if has_start { Consistency::Stale } else { Consistency::Linearizable };
            if consistency == Consistency::Linearizable {
                park(&call, &mut reply)?;
            }
            Ok((wanted, node, consistency))
        });
        let (wanted, node, consistency) = match ready {
            Ok(ready) => ready,
            Err(error) => return self.send_error(reply, error, &call),
        };
        let (shared, server) = (self.shared.clone(), node.clone());
        let done = move |result: Result<Index, Failure>| match result {
            Ok(_) => reply.take_over(Takeover::answer(move |answering| {
                serve::serve(&shared, &server, wanted, answering)
            })),
            Err(e) => {
                let error = failed(&e).with_outcome(ErrorOutcome::NotDone);
                reply.send(move || shared.decorate(Response::error(&error)));
            }
        };
        node.read(consistency, self.deadline(), Box::new(done));
    }
}

impl Wanted {
    fn parse(request: &Request, max_key_bytes: usize) -> Result<Wanted, ErrorBody> {
        let query = Query::parse_with_bytes(request.query.as_deref(), &PARAMETERS, &BYTE_PARAMETERS)?;
        let [key, prefix, start, end] = BYTE_PARAMETERS.map(|name| query.bytes(name).map(<[u8]>::to_vec));
        let keys = keys(key, [prefix, start, end], max_key_bytes)?;
        let mut from = query.number("from")?;
        if let Some(id) = last_event_id(request)? {
            from = Some(id);
        }
        let filter = match query.get("filter") {
            None => None,
            Some("put") => Some(ChangeKind::Put),
            Some("delete") => Some(ChangeKind::Delete),
            Some(other) => return Err(invalid(format!("filter={other:?}: it is put or delete"))),
        };
        let how = How { filter, prev: query.flag("prev")? };
        let cluster = query.get("cluster").map(str::to_owned);
        Wanted {
            watches: vec![(None, keys, from, how)],
            form: form(request)?,
            wait_s: query.number("wait_s")?.unwrap_or(DEFAULT_WATCH_WAIT_S),
            limit: usize::try_from(query.number("limit")?.unwrap_or(DEFAULT_WATCH_LIMIT))
                .unwrap_or(usize::MAX),
            cluster,
        }
        .checked()
    }

    fn parse_many(request: &Request, max_key_bytes: usize) -> Result<Wanted, ErrorBody> {
        Query::parse(request.query.as_deref(), &[])?;
        let body: WatchRequest = params::json_body(
            request,
            r#"{"watches": [{"id": ..., "key" or "prefix" or "start": ...}, ...]}"#,
        )?;
        if body.watches.is_empty() || body.watches.len() > MAX_WATCHES {
            let text = format!("{} watches: one request has 1 to {MAX_WATCHES}", body.watches.len());
            return Err(invalid(text));
        }
        let mut watches: Vec<(Option<String>, Keys, Option<u64>, How)> = Vec::new();
        for spec in body.watches {
            let [key, prefix, start, end] =
                [spec.key_bytes(), spec.prefix_bytes(), spec.start_bytes(), spec.end_bytes()]
                    .map(|bytes| bytes.map_err(invalid));
            let keys = keys(key?, [prefix?, start?, end?], max_key_bytes)?;
            let WatchSpec { id, from, prev, filter, .. } = spec;
            if id.is_empty() || id.len() > MAX_WATCH_ID_BYTES {
                return Err(invalid(format!("id {id:?}: a name has 1 to {MAX_WATCH_ID_BYTES} bytes")));
            }
            if watches.iter().any(|(other, ..)| other.as_ref() == Some(&id)) {
                return Err(invalid(format!("id {id:?} is given twice: each watch has its own")));
            }
            watches.push((Some(id), keys, from, How { filter, prev: prev.unwrap_or(false) }));
        }
        Wanted {
            watches,
            form: form(request)?,
            wait_s: body.wait_s.unwrap_or(DEFAULT_WATCH_WAIT_S),
            limit: usize::try_from(body.limit.unwrap_or(DEFAULT_WATCH_LIMIT)).unwrap_or(usize::MAX),
            cluster: body.cluster,
        }
        .checked()
    }

    fn checked(self) -> Result<Wanted, ErrorBody> {
        let Wanted { watches, wait_s, limit, cluster, .. } = &self;
        if watches.iter().any(|(_, _, from, _)| *from == Some(0)) {
            return Err(invalid("from=0: there is no such revision, the first one is 1, the empty store"));
        }
        if *wait_s > MAX_WATCH_WAIT_S {
            return Err(invalid(format!(
                "wait_s={wait_s}: a long poll waits for at most {MAX_WATCH_WAIT_S} s"
            )));
        }
        if *limit == 0 || *limit as u64 > MAX_WATCH_LIMIT {
            return Err(invalid(format!("limit={limit}: an answer has 1 to {MAX_WATCH_LIMIT} changes")));
        }
        if cluster.as_ref().is_some_and(|cluster| !is_cluster_id(cluster)) {
            return Err(invalid("cluster takes a cluster id: 16 lower-case hexadecimal digits"));
        }
        Ok(self)
    }

    /// The watches of a store, beginning where they say or else after its revision; and their names.
    fn into_watches(self, kv: &Kv) -> (Vec<Watch>, Vec<Option<String>>) {
        let watch = |(id, keys, from, how): (_, _, Option<u64>, How)| {
            let from = from.unwrap_or(kv.revision() + 1);
            let (puts, deletes) =
                (how.filter != Some(ChangeKind::Delete), how.filter != Some(ChangeKind::Put));
            (Watch { keys, from, puts, deletes, prev: how.prev }, id)
        };
        self.watches.into_iter().map(watch).unzip()
    }
}

/// The keys that are watched: a key, or a range by its bounds.
fn keys(key: Option<Vec<u8>>, bounds: [Option<Vec<u8>>; 3], max_key_bytes: usize) -> Result<Keys, ErrorBody> {
    let has_bounds = bounds.iter().any(Option::is_some);
    match key {
        Some(_) if has_bounds => Err(invalid("key excludes prefix, start and end: it is one key or a range")),
        Some(key) if key.is_empty() => Err(invalid("the key is empty")),
        Some(key) if key.len() > max_key_bytes => {
            let text = format!("the key has {} bytes, at most {max_key_bytes} are allowed", key.len());
            Err(ErrorBody::new(ErrorCode::TooLarge, text))
        }
        Some(key) => Ok(Keys::One(key)),
        None if !has_bounds => {
            Err(invalid("say what to watch: key, prefix, or start and end; an empty prefix is every key"))
        }
        None => {
            let [prefix, start, end] = bounds.map(Option::unwrap_or_default);
            if !end.is_empty() && start >= end {
                return Err(invalid("start is not before end: no key lies between them"));
            }
            Ok(Keys::Range(KeyRange::new(&prefix, &start, &end)))
        }
    }
}

/// Where an event source goes on by itself.
fn last_event_id(request: &Request) -> Result<Option<u64>, ErrorBody> {
    let mut values = request.header_values(RequestHeader::LastEventId);
    let Some(text) = values.next().map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.parse() {
        Ok(id) if id > 0 && values.next().is_none() => Ok(Some(id)),
        _ => {
            Err(invalid(format!("Last-Event-ID: {text}: it is the id of an event of this route, a revision")))
        }
    }
}

fn form(request: &Request) -> Result<Form, ErrorBody> {
    accept::choose_or_refuse(request, &OFFERS).map(|at| FORMS[at]).ok_or_else(|| {
        let text =
            "a watch is told as application/json (a long poll), text/event-stream or application/x-ndjson";
        ErrorBody::new(ErrorCode::NotAcceptable, text)
    })
}
