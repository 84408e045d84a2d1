//! `/v1/leases`: leases are granted, renewed, shown and revoked.
//!
//! A grant and a revocation are writes like others. A renewal goes to the node's renewals, which share entries of the
//! log.

use super::api::{Call, ClientApi, park, written};
use super::cursor::Cursor;
use super::lease_names::{bad_ttl, new_id, not_found};
use super::params::{self, Query, invalid};
use super::scans::{Look, Scan};
use super::states::{self, States};
use super::writes;
use crate::api::{
    self, DEFAULT_LEASES_LIMIT, ErrorBody, ErrorCode, KeyName, LeaseInfo, LeaseReply, LeaseRequest,
    LeaseShown, LeasesReply, MAX_LEASES_LIMIT,
};
use crate::node::{Consistency, Node, WriteResult};
use crate::raft::ClusterTime;
use crate::server::edge::{Reply, Request, Response};
use crate::store::{Applied, Command, Kv, LeaseState, ReadError};
use crate::vocabulary::{LeaseId, Op, Outcome, is_ttl};

const PARAMETERS: [&str; 4] = ["consistency", "min_revision", "limit", "cursor"];
const WITH_KEYS: [&str; 5] = ["consistency", "min_revision", "limit", "cursor", "keys"];

fn named(call: &Call) -> Result<LeaseId, ErrorBody> {
    let text = call.parameter();
    text.parse().map_err(|e| invalid(format!("{text:?} is no lease: {e}")))
}

/// A request without a body and parameters.
fn bare(request: &Request) -> Result<(), ErrorBody> {
    Query::parse(request.query.as_deref(), &[])?;
    if request.body.is_empty() { Ok(()) } else { Err(invalid("this request has no body")) }
}

fn parse_grant(request: &Request) -> Result<Command, ErrorBody> {
    Query::parse(request.query.as_deref(), &[])?;
    let idempotency_key = params::idempotency_key(request)?;
    let LeaseRequest { ttl_s, id } = params::json_body(request, "a lease, like {\"ttl_s\":15}")?;
    if !is_ttl(ttl_s) {
        return Err(invalid(bad_ttl(ttl_s)));
    }
    let op = Op::LeaseGrant { lease: id.unwrap_or_else(new_id), ttl_s, is_chosen: id.is_some() };
    Ok(writes::command(op, None, idempotency_key))
}

fn parse_revoke(call: &Call) -> Result<Command, ErrorBody> {
    let lease = named(call)?;
    bare(&call.request)?;
    Ok(writes::command(Op::LeaseRevoke { lease }, None, params::idempotency_key(&call.request)?))
}

/// What the renewals answer, in the words of one lease.
fn renewed(lease: LeaseId, result: WriteResult) -> Response {
    match result {
        Ok(Applied { index, outcome: Outcome::LeasesRenewed { ttls_s }, .. }) => {
            let response = match ttls_s[..] {
                [ttl_s] if ttl_s > 0 => Response::json(200, &LeaseReply { lease, ttl_s }),
                _ => Response::error(&not_found(lease)),
            };
            response.with_header(api::INDEX_HEADER, index.to_string())
        }
        other => written(other),
    }
}

impl ClientApi {
    pub(super) fn grant_lease(&self, call: Call, reply: Reply) {
        self.propose(parse_grant(&call.request), &call, reply);
    }

    pub(super) fn revoke_lease(&self, call: Call, reply: Reply) {
        self.propose(parse_revoke(&call), &call, reply);
    }

    pub(super) fn renew_lease(&self, call: Call, mut reply: Reply) {
        let ready = named(&call).and_then(|lease| {
            bare(&call.request)?;
            let node = self.node()?;
            park(&call, &mut reply)?;
            Ok((lease, node))
        });
        let (lease, node) = match ready {
            Ok(ready) => ready,
            Err(error) => return self.send_error(reply, error, &call),
        };
        let (deadline, shared) = (self.deadline(), self.shared.clone());
        let done = move |result: WriteResult| reply.send(move || shared.decorate(renewed(lease, result)));
        node.renew_leases(vec![lease], deadline, Box::new(done));
    }

    pub(super) fn get_lease(&self, call: Call, reply: Reply) {
        let parsed = named(&call).and_then(|lease| Listing::parse(Some(lease), &call.request));
        self.show_leases(parsed, call, reply);
    }

    pub(super) fn list_leases(&self, call: Call, reply: Reply) {
        let parsed = Listing::parse(None, &call.request);
        self.show_leases(parsed, call, reply);
    }

    fn show_leases(&self, parsed: Result<Listing, ErrorBody>, call: Call, reply: Reply) {
        match parsed {
            Err(error) => self.send_error(reply, error, &call),
            Ok(listing) => {
                let (states, scans) = (listing.states, self.scans.clone());
                let look = Look::Other(Box::new(move |node: &Node| listing.serve(node)));
                self.when_fresh(states, &call, reply, move |node, deadline, reply| {
                    scans.ask(Scan { look, node }, deadline, reply);
                });
            }
        }
    }
}

/// What is to be shown.
struct Listing {
    /// One lease; None: all.
    of: Option<LeaseId>,
    states: States,
    with_keys: bool,
    limit: usize,
    /// The last name, or key, of the page before.
    after: Option<Vec<u8>>,
    /// What the cursor is bound to.
    scope: Vec<u8>,
}

impl Listing {
    fn parse(of: Option<LeaseId>, request: &Request) -> Result<Listing, ErrorBody> {
        let known: &[&str] = if of.is_some() { &WITH_KEYS } else { &PARAMETERS };
        let query = Query::parse(request.query.as_deref(), known)?;
        let with_keys = of.is_some() && query.flag("keys")?;
        let limit = query.number("limit")?.unwrap_or(u64::from(DEFAULT_LEASES_LIMIT));
        if !(1..=u64::from(MAX_LEASES_LIMIT)).contains(&limit) {
            return Err(invalid(format!("limit={limit}: a page has 1 to {MAX_LEASES_LIMIT} rows")));
        }
        if of.is_some() && !with_keys && (query.get("limit").is_some() || query.get("cursor").is_some()) {
            return Err(invalid("limit and cursor are for the keys: say keys=true"));
        }
        let scope = [&b"leases "[..], of.map(|of| of.to_string()).unwrap_or_default().as_bytes()].concat();
        let cursor = query.get("cursor").map(|text| Cursor::decode(text, &scope)).transpose()?;
        let after = cursor.map(|cursor| cursor.next);
        let states = States::parse(&query, None)?;
        Ok(Listing { of, states, with_keys, limit: limit as usize, after, scope })
    }

    fn serve(&self, node: &Node) -> Response {
        let is_stale = self.states.consistency(node) == Consistency::Stale;
        let now = if is_stale { node.with_kv(Kv::cluster_time) } else { node.cluster_time() };
        let as_of_ms = is_stale.then_some(now / 1_000);
        let (applied, response) = node.with_kv(|kv| {
            let response = self.states.pick(kv).map(|revision| match self.of {
                Some(lease) => self.one(kv, lease, revision, now, as_of_ms),
                None => Ok(Response::json(200, &self.all(kv, revision, now, as_of_ms))),
            });
            (kv.applied().index, response)
        });
        let response = match response {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => Response::error(&error),
            Err(e @ (ReadError::Compacted { .. } | ReadError::Future { .. })) => {
                Response::error(&states::unreadable(e))
            }
        };
        response.with_header(api::INDEX_HEADER, applied.to_string())
    }

    fn all(&self, kv: &Kv, revision: u64, now: ClusterTime, as_of_ms: Option<u64>) -> LeasesReply {
        let after = self.after.as_deref().and_then(|name| str::from_utf8(name).ok()?.parse().ok());
        let mut leases: Vec<LeaseInfo> =
            kv.leases_after(after).take(self.limit + 1).map(|lease| shown(lease, now)).collect();
        let cursor = (leases.len() > self.limit).then(|| {
            leases.truncate(self.limit);
            leases.last().map(|last| self.cursor(revision, last.lease.to_string().into_bytes()))
        });
        LeasesReply { revision, leases, as_of_ms, cursor: cursor.flatten() }
    }

    fn one(
        &self,
        kv: &Kv,
        lease: LeaseId,
        revision: u64,
        now: ClusterTime,
        as_of_ms: Option<u64>,
    ) -> Result<Response, ErrorBody> {
        let Some(state) = kv.lease(lease) else {
            let text = not_found(lease).error.message;
            return Err(ErrorBody::new(ErrorCode::NotFound, text));
        };
        let mut cursor = None;
        let keys = self.with_keys.then(|| {
            let keys = kv.lease_keys(lease, self.after.as_deref()).take(self.limit + 1);
            let mut keys: Vec<KeyName> = keys.map(|key| KeyName(key.to_vec())).collect();
            if keys.len() > self.limit {
                keys.truncate(self.limit);
                cursor = keys.last().map(|last| self.cursor(revision, last.0.clone()));
            }
            keys
        });
        let lease = shown(state, now);
        Ok(Response::json(200, &LeaseShown { revision, lease, keys, as_of_ms, cursor }))
    }

    fn cursor(&self, revision: u64, next: Vec<u8>) -> String {
        Cursor { revision, next }.encode(&self.scope)
    }
}

fn shown(state: LeaseState, now: ClusterTime) -> LeaseInfo {
    let LeaseState { lease, ttl_s, deadline, is_own, keys } = state;
    LeaseInfo {
        lease,
        ttl_s,
        remaining_ms: deadline.saturating_sub(now).div_ceil(1_000),
        own: is_own,
        key_count: keys,
    }
}
