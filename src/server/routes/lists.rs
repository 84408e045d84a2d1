//! `GET /v1/kv`: a page of the keys in a range, all of one revision.
//!
//! The store's lock is held for one [`Kv::scan`] at a time. Rows are copied under it and become JSON outside of it.

use std::ops::ControlFlow;
use std::time::Instant;

use super::cursor::Cursor;
use super::params::{Query, invalid};
use super::shape::{self, Shape};
use super::states::{self, States};
use crate::api::{
    self, DEFAULT_LIST_LIMIT, ErrorBody, ErrorCode, Folder, ListedRecord, MAX_LIST_BYTES, MAX_LIST_LIMIT,
    Sort,
};
use crate::node::Node;
use crate::raft::Index;
use crate::server::edge::{Request, Response};
use crate::store::{KeyRange, Kv, Order, ReadError, Record};

const PARAMETERS: [&str; 8] =
    ["consistency", "revision", "min_revision", "limit", "order", "keys_only", "count_only", "cursor"];

/// Most folders that one look finds: each is a search for the next one, under the store's lock.
const LOOK_FOLDERS: usize = 1_000;

/// The bounds of a range: their values are any bytes.
pub(super) const BYTE_PARAMETERS: [&str; 3] = ["prefix", "start", "end"];

/// The JSON around the rows of a page, without its cursor: numbers have at most 20 digits.
const ENVELOPE_BYTES: usize = 128;

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
    /// Filters, folders, and the order of the rows.
    shape: Shape,
    /// What the cursor is bound to.
    scope: Vec<u8>,
    /// Most bytes of the rows as JSON.
    max_bytes: usize,
}

impl List {
    /// Takes the request apart. No key is longer than `max_key_bytes`.
    pub(super) fn parse(request: &Request, max_key_bytes: usize) -> Result<List, ErrorBody> {
        let known = [&PARAMETERS[..], &shape::PARAMETERS].concat();
        let bytes = [&BYTE_PARAMETERS[..], &[shape::SEPARATOR]].concat();
        let query = Query::parse_with_bytes(request.query.as_deref(), &known, &bytes)?;
        states::refuse_conditions(request)?;
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
        let about_rows = ["limit", "order", "cursor", "sort", shape::SEPARATOR];
        let about_rows = about_rows.into_iter().find(|name| query.bytes(name).is_some());
        if count_only && let Some(name) = about_rows.or(keys_only.then_some("keys_only")) {
            return Err(invalid(format!(
                "count_only counts the whole range and shows no rows: {name} has no meaning"
            )));
        }
        let shape = Shape::parse(&query, prefix)?;
        let mut scope = scope(order, [prefix, start, end]);
        shape.scope(&mut scope);
        let cursor = query.get("cursor").map(|text| Cursor::decode(text, &scope)).transpose()?;
        Ok(List {
            states: States::parse(&query, cursor.as_ref().map(|cursor| cursor.revision))?,
            range: KeyRange::new(prefix, start, end),
            order,
            from: cursor.map(|cursor| cursor.next),
            limit: limit as usize,
            keys_only,
            count_only,
            shape,
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
                Ok(Filled::Whole) => return page.finish(self),
                Ok(Filled::TooLarge) => return too_large(page.applied),
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
    /// The rows that are to be sorted have too many bytes.
    TooLarge,
}

/// The answer where sorted rows do not fit into a page: there is no next one.
fn too_large(applied: Index) -> Response {
    let text = format!(
        "the sorted rows have more than {MAX_LIST_BYTES} bytes, and a sorted list is one page: ask for fewer with limit, for \
         keys_only, or for a smaller range"
    );
    let response = Response::error(&ErrorBody::new(ErrorCode::TooLarge, text));
    response.with_header(api::INDEX_HEADER, applied.to_string())
}

/// The rows of a page while they are collected.
#[derive(Default)]
struct Page {
    /// None before the first look.
    revision: Option<u64>,
    applied: Index,
    rows: Vec<ListedRecord>,
    folders: Vec<Folder>,
    /// A sorted list: rows were left out.
    more: bool,
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
        if list.shape.sort != Sort::Key {
            return self.fill_sorted(kv, list, revision);
        }
        let mut from = self.next.take().or_else(|| list.from.clone());
        let mut is_full = false;
        for _ in 0..LOOK_FOLDERS {
            let mut folder = None;
            let next = kv.scan(revision, &list.range, list.order, from.as_deref(), |record| {
                if !list.shape.takes(&record) {
                    return ControlFlow::Continue(());
                }
                if list.count_only {
                    self.counted += 1;
                    return ControlFlow::Continue(());
                }
                let found = list.shape.folder(record.key);
                if found.is_some() && self.folders.last().map(|folder| &folder.0[..]) == found {
                    // A folder is shown once. In descending order its own name may come after its other keys.
                    return ControlFlow::Continue(());
                }
                let bytes = match found {
                    Some(folder) => folder.len(),
                    None => record.key.len() + if list.keys_only { 0 } else { record.value.len() },
                };
                let entries = self.rows.len() + self.folders.len();
                is_full = entries == list.limit || (entries > 0 && self.bytes + bytes > list.max_bytes);
                if is_full {
                    return ControlFlow::Break(());
                }
                self.bytes += bytes;
                match found {
                    Some(found) => {
                        self.folders.push(Folder(found.to_vec()));
                        folder = Shape::after_folder(found, list.order);
                        // The walk goes on beyond it: its other keys need not be looked at.
                        ControlFlow::Break(())
                    }
                    None => {
                        self.rows.push(listed(&record, list.keys_only));
                        ControlFlow::Continue(())
                    }
                }
            })?;
            from = next.map(<[u8]>::to_vec);
            if is_full || from.is_none() {
                break;
            }
            match folder {
                Some(after) => from = Some(after),
                None => break,
            }
        }
        self.next = from;
        Ok(if is_full || self.next.is_none() { Filled::Whole } else { Filled::Part })
    }

    /// One look of a sorted list: keeps the rows that come first so far.
    fn fill_sorted(&mut self, kv: &Kv, list: &List, revision: u64) -> Result<Filled, ReadError> {
        let needs_value = !list.keys_only || list.shape.sort == Sort::Value;
        let mut is_too_large = false;
        let from = self.next.take();
        let next = kv.scan(revision, &list.range, list.order, from.as_deref(), |record| {
            if !list.shape.takes(&record) {
                return ControlFlow::Continue(());
            }
            let row = listed(&record, !needs_value);
            self.bytes += row_bytes(&row);
            self.rows.push(row);
            if self.rows.len() > 2 * list.limit || self.bytes > 2 * list.max_bytes {
                self.keep_first(list);
                is_too_large = self.is_too_large(list);
            }
            if is_too_large { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        self.next = next.map(<[u8]>::to_vec);
        if is_too_large {
            return Ok(Filled::TooLarge);
        }
        if self.next.is_some() {
            return Ok(Filled::Part);
        }
        self.keep_first(list);
        Ok(if self.is_too_large(list) { Filled::TooLarge } else { Filled::Whole })
    }

    /// A single row is a page of its own, however large.
    fn is_too_large(&self, list: &List) -> bool {
        self.rows.len() > 1 && self.bytes > list.max_bytes
    }

    /// Sorts the rows and keeps no more than the limit.
    fn keep_first(&mut self, list: &List) {
        list.shape.sort_rows(&mut self.rows, list.order);
        self.more |= self.rows.len() > list.limit;
        self.rows.truncate(list.limit);
        self.bytes = self.rows.iter().map(row_bytes).sum();
    }

    /// The answer, once everything is collected.
    fn finish(mut self, list: &List) -> Response {
        if list.shape.sort == Sort::Key {
            return self.render(list);
        }
        if list.keys_only {
            self.rows.iter_mut().for_each(|row| row.value = None);
        }
        let applied = self.applied;
        let is_alone = self.rows.len() == 1;
        let response = self.render(list);
        // Escapes make JSON longer than what it stands for.
        match response.body.len() > MAX_LIST_BYTES && !is_alone {
            true => too_large(applied),
            false => response,
        }
    }

    /// The JSON of an [`api::ListReply`], each row written once. A page that grew too large with its escapes ends
    /// earlier.
    fn render(self, list: &List) -> Response {
        let Page { revision, applied, rows, counted, mut next, mut folders, more, .. } = self;
        let revision = revision.expect("a page that was filled has one");
        let (mut kvs, mut shown) = (Vec::new(), 0);
        for row in rows {
            let end = kvs.len();
            if shown > 0 {
                kvs.push(b',');
            }
            serde_json::to_writer(&mut kvs, &row).expect("a row is plain data");
            if shown > 0 && kvs.len() > list.max_bytes && list.shape.sort == Sort::Key {
                kvs.truncate(end);
                // Folders from here on are for the next page, too.
                folders.retain(|folder| match list.order {
                    Order::Ascending => folder.0 < row.key,
                    Order::Descending => folder.0 > row.key,
                });
                next = Some(row.key);
                break;
            }
            shown += 1;
        }
        let count = if list.count_only { counted } else { shown + folders.len() as u64 };
        let mut body = format!(r#"{{"revision":{revision},"count":{count},"kvs":["#).into_bytes();
        body.append(&mut kvs);
        body.push(b']');
        if !folders.is_empty() {
            body.extend_from_slice(br#","folders":"#);
            serde_json::to_writer(&mut body, &folders).expect("folders are plain data");
        }
        if more {
            body.extend_from_slice(br#","more":true"#);
        }
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

fn row_bytes(row: &ListedRecord) -> usize {
    row.key.len() + row.value.as_ref().map_or(0, Vec::len)
}

fn listed(record: &Record<'_>, keys_only: bool) -> ListedRecord {
    let Record { key, value, create_revision, mod_revision, version, lease } = *record;
    let value = (!keys_only).then(|| value.to_vec());
    ListedRecord { key: key.to_vec(), value, create_revision, mod_revision, version, lease }
}

#[cfg(test)]
mod tests;
