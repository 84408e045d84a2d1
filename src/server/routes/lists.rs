//! `GET /v1/kv`: a page of the keys in a range, all of one revision.
//!
//! The store's lock is held for one [`Kv::scan`] at a time. Rows are copied under it and become JSON outside of it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use super::cursor::Cursor;
use super::jobs::{Jobs, PoolOptions, Worker};
use super::params::{Query, invalid};
use super::states::{self, States};
use crate::api::{
    self, DEFAULT_LIST_LIMIT, ErrorBody, ErrorCode, ListedRecord, MAX_LIST_BYTES, MAX_LIST_LIMIT,
};
use crate::node::Node;
use crate::raft::Index;
use crate::server::edge::{Request, Response};
use crate::server::shared::Shared;
use crate::store::{KeyRange, Kv, Order, ReadError, Record};

const PARAMETERS: [&str; 8] =
    ["consistency", "revision", "min_revision", "limit", "order", "keys_only", "count_only", "cursor"];

/// The bounds of a range: their values are any bytes.
pub(super) const BYTE_PARAMETERS: [&str; 3] = ["prefix", "start", "end"];

/// The JSON around the rows of a page, without its cursor: numbers have at most 20 digits.
const ENVELOPE_BYTES: usize = 128;

/// Threads that go through the store for lists and counts.
const SCAN_THREADS: usize = 2;

/// Lists and counts that may wait for them.
const SCAN_QUEUE: usize = 64;

/// A listing whose state is fresh enough, to be served from this node.
pub(super) struct Scan {
    pub list: Box<List>,
    pub node: Arc<Node>,
}

/// Starts the threads that serve lists and counts. A responder must not: it has the answers of all other requests to write.
///
/// # Errors
/// A thread could not be started.
pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<Jobs<Scan>> {
    let options = PoolOptions {
        name: "scan",
        threads: SCAN_THREADS,
        queue: SCAN_QUEUE,
        full: "too many lists and counts wait already: try again",
    };
    Jobs::start(shared, &options, || Scanner)
}

struct Scanner;

impl Worker<Scan> for Scanner {
    fn answer(&mut self, scan: Scan, deadline: Instant) -> Result<Response, ErrorBody> {
        serve(scan, deadline)
    }
}

/// Serves the next listing. A listing whose deadline has passed is not begun: its client has gone, or soon will.
pub(super) fn serve(Scan { list, node }: Scan, deadline: Instant) -> Result<Response, ErrorBody> {
    if Instant::now() >= deadline {
        let text = "too many lists and counts were before this one: try again";
        return Err(ErrorBody::new(ErrorCode::Timeout, text));
    }
    Ok(list.serve(&node, deadline))
}

/// What a request says of the range it means, in the order of [`BYTE_PARAMETERS`]; empty = no limit.
///
/// # Errors
/// `invalid_request` when the start lies after the end.
pub(super) fn bounds(query: &Query) -> Result<[&[u8]; 3], ErrorBody> {
    let bounds = BYTE_PARAMETERS.map(|name| query.bytes(name).unwrap_or_default());
    let [_, start, end] = bounds;
    if !end.is_empty() && start > end {
        return Err(invalid("start lies after end: start is the smaller key in either order"));
    }
    Ok(bounds)
}

/// A listing, taken apart.
#[derive(Debug)]
pub(super) struct List {
    states: States,
    range: KeyRange,
    order: Order,
    /// The first key of this page; None on the first page.
    from: Option<Vec<u8>>,
    limit: usize,
    keys_only: bool,
    count_only: bool,
    /// What the cursor is bound to.
    scope: Vec<u8>,
    /// Most bytes of the rows as JSON.
    max_bytes: usize,
}

impl List {
    /// Takes the request apart. No key is longer than `max_key_bytes`.
    pub(super) fn parse(request: &Request, max_key_bytes: usize) -> Result<List, ErrorBody> {
        let query = Query::parse_with_bytes(request.query.as_deref(), &PARAMETERS, &BYTE_PARAMETERS)?;
        states::refuse_if_match(request)?;
        let [prefix, start, end] = bounds(&query)?;
        let order = match query.get("order") {
            None | Some("asc") => Order::Ascending,
            Some("desc") => Order::Descending,
            Some(other) => return Err(invalid(format!("order={other:?}: it is asc (the default) or desc"))),
        };
        let limit = query.number("limit")?.unwrap_or(u64::from(DEFAULT_LIST_LIMIT));
        let limit = (u32::try_from(limit).ok().filter(|limit| (1..=MAX_LIST_LIMIT).contains(limit)))
            .ok_or_else(|| invalid(format!("limit={limit}: a page has 1 to {MAX_LIST_LIMIT} rows")))?;
        let (keys_only, count_only) = (query.flag("keys_only")?, query.flag("count_only")?);
        let about_rows = ["limit", "order", "cursor"].into_iter().find(|name| query.get(name).is_some());
        if count_only && let Some(name) = about_rows.or(keys_only.then_some("keys_only")) {
            return Err(invalid(format!(
                "count_only counts the whole range and shows no rows: {name} has no meaning"
            )));
        }
        let scope = scope(order, [prefix, start, end]);
        let cursor = query.get("cursor").map(|text| Cursor::decode(text, &scope)).transpose()?;
        Ok(List {
            states: States::parse(&query, cursor.as_ref().map(|cursor| cursor.revision))?,
            range: KeyRange::new(prefix, start, end),
            order,
            from: cursor.map(|cursor| cursor.next),
            limit: limit as usize,
            keys_only,
            count_only,
            scope,
            max_bytes: MAX_LIST_BYTES.saturating_sub(ENVELOPE_BYTES + Cursor::max_len(max_key_bytes)),
        })
    }

    /// Which states it may see.
    pub(super) fn states(&self) -> States {
        self.states
    }

    /// The answer from a node that is fresh enough. A count, and a page in a range with many deleted keys, may take
    /// several looks at the store, no longer than to `deadline`.
    pub(super) fn serve(&self, node: &Node, deadline: Instant) -> Response {
        self.collect(|page| node.with_kv(|kv| page.fill(kv, self)), deadline)
    }

    /// Takes as many looks as are needed, and as there is time for; at least one.
    fn collect(
        &self,
        mut look: impl FnMut(&mut Page) -> Result<Filled, ReadError>,
        deadline: Instant,
    ) -> Response {
        let mut page = Page::default();
        loop {
            match look(&mut page) {
                Ok(Filled::Whole) => return page.render(self),
                // The client did not ask for this revision by number, so a later revision is fine too.
                Err(ReadError::Compacted { .. }) if self.states.revision.is_none() => page = Page::default(),
                Err(e) => {
                    let response = Response::error(&states::unreadable(e));
                    return response.with_header(api::INDEX_HEADER, page.applied.to_string());
                }
                Ok(Filled::Part) => {}
            }
            if Instant::now() >= deadline {
                let text = "the range has too many keys to go through in time: ask for a smaller one";
                return Response::error(&ErrorBody::new(ErrorCode::Timeout, text));
            }
        }
    }
}

/// Two listings with the same scope have the same rows at the same revision, in the same order.
fn scope(order: Order, bounds: [&[u8]; 3]) -> Vec<u8> {
    let mut scope = vec![match order {
        Order::Ascending => 0,
        Order::Descending => 1,
    }];
    for bound in bounds {
        scope.extend_from_slice(&(bound.len() as u64).to_le_bytes());
        scope.extend_from_slice(bound);
    }
    scope
}

enum Filled {
    /// The page is full, or the range is at its end.
    Whole,
    /// There is more to look at.
    Part,
}

/// The rows of a page while they are collected.
#[derive(Default)]
struct Page {
    /// None before the first look.
    revision: Option<u64>,
    applied: Index,
    rows: Vec<ListedRecord>,
    /// Keys and values of the rows; their JSON is longer.
    bytes: usize,
    counted: u64,
    /// Where the next look, or the next page, begins.
    next: Option<Vec<u8>>,
}

impl Page {
    /// One look at the store.
    fn fill(&mut self, kv: &Kv, list: &List) -> Result<Filled, ReadError> {
        let revision = match self.revision {
            Some(revision) => revision,
            None => {
                // Later looks see this same state: the page names the index that it had.
                self.applied = kv.applied().index;
                list.states.pick(kv)?
            }
        };
        self.revision = Some(revision);
        let mut is_full = false;
        let from = self.next.take().or_else(|| list.from.clone());
        let next = kv.scan(revision, &list.range, list.order, from.as_deref(), |record| {
            if list.count_only {
                self.counted += 1;
                return ControlFlow::Continue(());
            }
            let row = listed(&record, list.keys_only);
            let bytes = row.key.len() + row.value.as_ref().map_or(0, Vec::len);
            is_full = self.rows.len() == list.limit
                || (!self.rows.is_empty() && self.bytes + bytes > list.max_bytes);
            if is_full {
                return ControlFlow::Break(());
            }
            self.bytes += bytes;
            self.rows.push(row);
            ControlFlow::Continue(())
        })?;
        self.next = next.map(<[u8]>::to_vec);
        Ok(if is_full || self.next.is_none() { Filled::Whole } else { Filled::Part })
    }

    /// The JSON of an [`api::ListReply`], each row written once. A page that grew too large with its escapes ends
    /// earlier.
    fn render(self, list: &List) -> Response {
        let Page { revision, applied, rows, counted, mut next, .. } = self;
        let revision = revision.expect("a page that was filled has one");
        let (mut kvs, mut shown) = (Vec::new(), 0);
        for row in rows {
            let end = kvs.len();
            if shown > 0 {
                kvs.push(b',');
            }
            serde_json::to_writer(&mut kvs, &row).expect("a row is plain data");
            if shown > 0 && kvs.len() > list.max_bytes {
                kvs.truncate(end);
                next = Some(row.key);
                break;
            }
            shown += 1;
        }
        let count = if list.count_only { counted } else { shown };
        let mut body = format!(r#"{{"revision":{revision},"count":{count},"kvs":["#).into_bytes();
        body.append(&mut kvs);
        body.push(b']');
        if let Some(next) = next {
            let cursor = Cursor { revision, next }.encode(&list.scope);
            body.extend_from_slice(format!(r#","cursor":"{cursor}""#).as_bytes());
        }
        body.push(b'}');
        Response::new(200, "application/json", body)
            .with_header(api::INDEX_HEADER, applied.to_string())
            .with_header(api::REVISION_HEADER, revision.to_string())
    }
}

fn listed(record: &Record<'_>, keys_only: bool) -> ListedRecord {
    let Record { key, value, create_revision, mod_revision, version } = *record;
    let value = (!keys_only).then(|| value.to_vec());
    ListedRecord { key: key.to_vec(), value, create_revision, mod_revision, version }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::raft::{Entry, Payload, Position, Settings};
    use crate::server::edge::Method;
    use crate::store::{Command, Op, SCAN_KEYS};

    /// A store of `keys` keys that all have this value.
    fn store(keys: usize, value: &[u8]) -> Kv {
        let mut kv = Kv::new(Settings::default());
        for key in 0..keys {
            apply(&mut kv, Op::Put { key: format!("{key:06}").into_bytes(), value: value.to_vec() });
        }
        kv
    }

    fn apply(kv: &mut Kv, op: Op) {
        let command = Command { op, condition: None, idempotency: None, wall_ms: 0, actor: String::new() };
        let position = Position::new(kv.applied().index + 1, 1);
        kv.apply(&Entry::new(position, 0, &Payload::Command(command.encode())));
    }

    fn list(query: &str) -> List {
        let request = Request {
            method: Method::Get,
            path: "/v1/kv".to_owned(),
            query: Some(query.to_owned()),
            headers: Vec::new(),
            body: Vec::new(),
            from_loopback: true,
        };
        List::parse(&request, 4_096).unwrap()
    }

    fn serve(kv: &Kv, query: &str, patience: Duration) -> (Response, usize) {
        let (list, mut looks) = (list(query), 0);
        let look = |page: &mut Page| {
            looks += 1;
            page.fill(kv, &list)
        };
        (list.collect(look, Instant::now() + patience), looks)
    }

    #[test]
    fn a_count_goes_on_until_its_deadline_and_no_longer() {
        let kv = store(2 * SCAN_KEYS + 1, b"");
        let (response, looks) = serve(&kv, "count_only=true", Duration::from_secs(60));
        let reply: api::ListReply = serde_json::from_slice(&response.body).unwrap();
        assert_eq!((response.status, reply.count, looks), (200, 2 * SCAN_KEYS as u64 + 1, 3));

        let (response, looks) = serve(&kv, "count_only=true", Duration::ZERO);
        let error: ErrorBody = serde_json::from_slice(&response.body).unwrap();
        assert_eq!((response.status, error.error.code, looks), (504, ErrorCode::Timeout, 1));
        assert_eq!(error.error.outcome, api::ErrorOutcome::NotDone);
        // What fits into one look is answered however late it is.
        let (response, _) = serve(&kv, "count_only=true&prefix=00", Duration::ZERO);
        assert_eq!(response.status, 200);
    }

    /// Every page of a listing, each followed by its cursor; how many rows each had.
    fn pages(kv: &Kv, query: &str) -> Vec<usize> {
        let (mut pages, mut keys, mut cursor) = (Vec::new(), Vec::new(), String::new());
        loop {
            let (response, _) = serve(kv, &format!("{query}{cursor}"), Duration::from_secs(60));
            assert_eq!(response.status, 200);
            let reply: api::ListReply = serde_json::from_slice(&response.body).unwrap();
            assert_eq!(reply.count, reply.kvs.len() as u64);
            assert!(response.body.len() <= MAX_LIST_BYTES || reply.count == 1, "{}", response.body.len());
            keys.extend(reply.kvs.iter().map(|row| row.key.clone()));
            pages.push(reply.kvs.len());
            match reply.cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let all = usize::try_from(kv.size().keys).unwrap();
        assert!(keys.len() == all && keys.is_sorted_by(|a, b| a < b), "each key once, in order");
        pages
    }

    #[test]
    fn a_page_ends_at_4_mib_and_has_at_least_one_row() {
        assert_eq!(pages(&store(7, &[b'v'; 1 << 20]), ""), [3, 3, 1]);
        // Escaped, a single row is larger than a page.
        assert_eq!(pages(&store(3, &[0; 1 << 20]), ""), [1, 1, 1]);
        // In base64 it grows by a third.
        assert_eq!(pages(&store(4, &[0xff; 1 << 20]), ""), [2, 2]);
        // As bytes they fit into a page, as JSON they do not.
        let escaped = pages(&store(900, &[1; 4 << 10]), "");
        assert!(escaped.len() > 1 && escaped[0] > 100, "{escaped:?}");
        assert_eq!(pages(&store(900, &[1; 4 << 10]), "keys_only=true"), [900]);
    }

    #[test]
    fn a_page_of_several_looks_names_the_index_of_the_state_it_shows() {
        let retention =
            Settings { retention_revisions: 1 << 20, retention_bytes: 1 << 30, ..Settings::default() };
        let mut kv = Kv::new(retention);
        let key = |n: usize| format!("{n:05}").into_bytes();
        (0..=SCAN_KEYS).for_each(|n| apply(&mut kv, Op::Put { key: key(n), value: Vec::new() }));
        (0..SCAN_KEYS).for_each(|n| apply(&mut kv, Op::Delete { key: key(n) }));
        let list = list("");
        let mut page = Page::default();
        assert!(matches!(page.fill(&kv, &list), Ok(Filled::Part)));
        let seen = kv.applied().index;
        apply(&mut kv, Op::Put { key: b"later".to_vec(), value: Vec::new() });
        assert!(matches!(page.fill(&kv, &list), Ok(Filled::Whole)));
        assert_eq!(
            (page.rows.len(), page.applied),
            (1, seen),
            "the later key is not shown, nor its index named"
        );
    }
}
