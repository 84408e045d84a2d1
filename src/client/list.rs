//! Listing keys: one page, or page after page.

use std::ops::ControlFlow;
use std::time::Instant;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::{Client, ClientError, KEYS, Kind, ReadOptions, Seen, get, json, range_parameters, with_query};
use crate::api::{DEFAULT_LIST_LIMIT, INDEX_HEADER, ListReply, MAX_LIST_LIMIT, Sort};

/// What to list. By default the first page of everything, smallest key first.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Only keys that begin so.
    pub prefix: Vec<u8>,
    /// Only keys from this one on, itself included.
    pub start: Vec<u8>,
    /// Only keys before this one; empty = no end.
    pub end: Vec<u8>,
    /// Most rows of the page, 1 to 10,000; None = the server's default of 1,000.
    pub limit: Option<u32>,
    /// Greatest key first.
    pub descending: bool,
    /// By what the rows are sorted.
    pub sort: Sort,
    /// Keys that have this after the prefix become one folder each; empty = none do.
    pub separator: Vec<u8>,
    /// Only keys with such revisions.
    pub filters: Filters,
    /// Rows without values.
    pub keys_only: bool,
    /// No rows, only how many keys there are. Goes with neither `limit`, `descending`, `keys_only` nor `cursor`.
    pub count_only: bool,
    /// The previous page's cursor; everything else as it was for that page.
    pub cursor: Option<String>,
    /// How it is read.
    pub read: ReadOptions,
}

/// Which revisions the keys of a list may have, both ends included; None = any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Last written at this revision or later.
    pub min_mod_revision: Option<u64>,
    /// Last written at this revision or before.
    pub max_mod_revision: Option<u64>,
    /// Created at this revision or later.
    pub min_create_revision: Option<u64>,
    /// Created at this revision or before.
    pub max_create_revision: Option<u64>,
}

impl Client {
    /// One page of keys. A cursor in the reply, given back in the options, brings the next one, at the same revision
    /// and from any node.
    pub fn list(&self, options: &ListOptions) -> Result<ListReply, ClientError> {
        Ok(self.see_list(options)?.value)
    }

    /// The same, with the log index that the page comes from.
    pub fn see_list(&self, options: &ListOptions) -> Result<Seen<ListReply>, ClientError> {
        self.list_until(Instant::now() + self.timeout, options)
    }

    /// Page after page, all at one revision, until `page` breaks off, `total` rows are there, or there are no more.
    /// The timeout is for all pages together. The last page has a cursor when `total` has left rows out.
    pub fn list_all(
        &self,
        options: &ListOptions,
        total: Option<u64>,
        mut page: impl FnMut(ListReply) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.timeout;
        let mut options = options.clone();
        // Sorted there is one page.
        let is_one_page = options.sort != Sort::Key;
        let most = if is_one_page { MAX_LIST_LIMIT } else { DEFAULT_LIST_LIMIT };
        let page_rows = options.limit.unwrap_or(most);
        let mut left = total.unwrap_or(u64::MAX);
        let mut pages = 0;
        while left > 0 {
            if pages > 0 && Instant::now() >= deadline {
                let text = format!("the time for the whole list was over after page {pages}");
                return Err(ClientError::Unavailable(text));
            }
            options.limit = Some(u32::try_from(left).unwrap_or(u32::MAX).min(page_rows));
            let reply = self.list_until(deadline, &options)?.value;
            pages += 1;
            left = left.saturating_sub((reply.kvs.len() + reply.folders.len()) as u64);
            let cursor = reply.cursor.clone();
            if page(reply).is_break() || cursor.is_none() {
                break;
            }
            options.cursor = cursor;
        }
        Ok(())
    }

    fn list_until(&self, deadline: Instant, options: &ListOptions) -> Result<Seen<ListReply>, ClientError> {
        self.call_until(deadline, &get(&target(options)), Kind::Read, |answer| {
            Some(Seen { value: json(answer)?, index: answer.number(INDEX_HEADER) })
        })
    }
}

/// Path and query of one page.
fn target(options: &ListOptions) -> String {
    let mut parameters = options.read.parameters();
    parameters.extend(range_parameters([&options.prefix, &options.start, &options.end]));
    if let Some(limit) = options.limit {
        parameters.push(("limit", limit.to_string()));
    }
    if options.sort != Sort::Key {
        parameters.push(("sort", options.sort.name().to_owned()));
    }
    if !options.separator.is_empty() {
        parameters.push(("separator", percent_encode(&options.separator, NON_ALPHANUMERIC).to_string()));
    }
    let Filters { min_mod_revision, max_mod_revision, min_create_revision, max_create_revision } =
        options.filters;
    let filters = [
        ("min_mod_revision", min_mod_revision),
        ("max_mod_revision", max_mod_revision),
        ("min_create_revision", min_create_revision),
        ("max_create_revision", max_create_revision),
    ];
    parameters.extend(filters.into_iter().filter_map(|(name, revision)| Some((name, revision?.to_string()))));
    if options.descending {
        parameters.push(("order", "desc".to_owned()));
    }
    let flags = [("keys_only", options.keys_only), ("count_only", options.count_only)];
    let set = flags.into_iter().filter(|&(_, is_set)| is_set);
    parameters.extend(set.map(|(name, _)| (name, "true".to_owned())));
    if let Some(cursor) = &options.cursor {
        parameters.push(("cursor", percent_encode(cursor.as_bytes(), NON_ALPHANUMERIC).to_string()));
    }
    with_query(KEYS.to_owned(), &parameters)
}
