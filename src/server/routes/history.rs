//! `GET /v1/history/{key}`: the kept versions of one key, newest first, a page at a time. The rows are copied under the
//! store's lock and become JSON outside of it.
//!
//! Pages of one history may come from different states: it changes at its newest end, and loses its oldest versions to
//! the floor. So a cursor is the revision before which the next page begins, and no page shows a version twice.

use super::api::{Call, ClientApi};
use super::cursor::Cursor;
use super::params::{self, Query, invalid};
use super::scans::{Look, Scan};
use super::states::{self, States};
use crate::api::{
    self, DEFAULT_HISTORY_LIMIT, ErrorBody, HistoryItem, HistoryReply, MAX_HISTORY_LIMIT, MAX_LIST_BYTES,
};
use crate::node::Node;
use crate::server::edge::{Reply, Request, Response};
use crate::store::{Kv, PastVersion, ReadError};

const PARAMETERS: [&str; 4] = ["consistency", "min_revision", "limit", "cursor"];

impl ClientApi {
    pub(super) fn get_history(&self, call: Call, reply: Reply) {
        match History::parse(call.parameter(), &call.request, self.shared.limits().max_key_bytes) {
            Err(error) => self.send_error(reply, error, &call),
            Ok(history) => {
                let (states, scans) = (history.states, self.scans.clone());
                let look = Look::Other(Box::new(move |node| history.serve(node)));
                self.when_fresh(states, &call, reply, move |node, deadline, reply| {
                    scans.ask(Scan { look, node }, deadline, reply);
                });
            }
        }
    }
}

/// A request, taken apart.
#[derive(Debug)]
pub(super) struct History {
    key: Vec<u8>,
    states: States,
    limit: usize,
    /// Only versions made before this revision.
    before: u64,
    /// What the cursor is bound to.
    scope: Vec<u8>,
}

impl History {
    fn parse(raw_key: &str, request: &Request, max_key_bytes: usize) -> Result<History, ErrorBody> {
        let key = params::decode_key(raw_key, max_key_bytes)?;
        let query = Query::parse(request.query.as_deref(), &PARAMETERS)?;
        states::refuse_conditions(request)?;
        let limit = query.number("limit")?.unwrap_or(u64::from(DEFAULT_HISTORY_LIMIT));
        if !(1..=u64::from(MAX_HISTORY_LIMIT)).contains(&limit) {
            return Err(invalid(format!("limit={limit}: a page has 1 to {MAX_HISTORY_LIMIT} versions")));
        }
        let scope = [b"history ", &key[..]].concat();
        let cursor = query.get("cursor").map(|text| Cursor::decode(text, &scope)).transpose()?;
        let before = cursor.map_or(u64::MAX, |cursor| cursor.revision);
        Ok(History { states: States::parse(&query, None)?, limit: limit as usize, before, scope, key })
    }

    /// The answer from a node that is fresh enough.
    pub(super) fn serve(&self, node: &Node) -> Response {
        let (applied, page) = node.with_kv(|kv| (kv.applied().index, self.look(kv)));
        let response = match page {
            Ok(page) => {
                let revision = page.revision.to_string();
                Response::json(200, &page).with_header(api::REVISION_HEADER, revision)
            }
            Err(error) => Response::error(&states::unreadable(error)),
        };
        response.with_header(api::INDEX_HEADER, applied.to_string())
    }

    /// Copies one page.
    fn look(&self, kv: &Kv) -> Result<HistoryReply, ReadError> {
        let revision = self.states.pick(kv)?;
        let (mut versions, mut bytes, mut is_cut) = (Vec::new(), 0, false);
        for past in kv.history(&self.key, self.before) {
            let more = past.value.map_or(0, <[u8]>::len);
            is_cut = versions.len() == self.limit || (!versions.is_empty() && bytes + more > MAX_LIST_BYTES);
            if is_cut {
                break;
            }
            bytes += more;
            versions.push(item(past));
        }
        let last = versions.last().filter(|_| is_cut);
        let cursor = last.map(|last: &HistoryItem| {
            Cursor { revision: last.revision(), next: Vec::new() }.encode(&self.scope)
        });
        Ok(HistoryReply { revision, floor: kv.floor(), versions, cursor })
    }
}

fn item(past: PastVersion<'_>) -> HistoryItem {
    let PastVersion { mod_revision: revision, create_revision, version, lease, value } = past;
    match value {
        Some(value) => HistoryItem::Put { revision, create_revision, version, lease, value: value.to_vec() },
        None => HistoryItem::Delete { revision },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Entry, Payload, Position, Settings};
    use crate::store::Command;
    use crate::vocabulary::Op;

    fn write(kv: &mut Kv, op: Op) {
        let command = Command { op, condition: None, idempotency: None, wall_ms: 0, actor: String::new() };
        let position = Position::new(kv.applied().index + 1, 1);
        kv.apply(&Entry::new(position, 0, &Payload::Command(command.encode())));
    }

    fn history(key: &[u8], limit: usize, before: u64) -> History {
        let query = Query::parse(None, &PARAMETERS).unwrap();
        let states = States::parse(&query, None).unwrap();
        History { key: key.to_vec(), states, limit, before, scope: [b"history ", key].concat() }
    }

    #[test]
    fn pages_of_large_values_end_at_their_bytes_and_go_on_without_a_gap() {
        let mut kv = Kv::new(Settings { retention_bytes: 1 << 30, ..Settings::default() });
        for n in 0..7u8 {
            write(&mut kv, Op::put(b"k".to_vec(), vec![n; 1 << 20]));
        }
        let (mut seen, mut before, mut pages) = (Vec::new(), u64::MAX, 0);
        loop {
            let page = history(b"k", 100, before).look(&kv).unwrap();
            assert!(!page.versions.is_empty() && page.versions.len() <= 4);
            seen.extend(page.versions.iter().map(HistoryItem::revision));
            pages += 1;
            let Some(cursor) = page.cursor else { break };
            before = Cursor::decode(&cursor, b"history k").unwrap().revision;
            // Newer versions do not disturb the pages that follow.
            write(&mut kv, Op::put(b"k".to_vec(), b"new".to_vec()));
        }
        assert_eq!((seen, pages), ((2..=8).rev().collect(), 2));
    }
}
