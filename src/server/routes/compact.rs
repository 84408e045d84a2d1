//! `POST /v1/compact`: forget the history before a revision.

use super::api::{Call, ClientApi};
use super::params::{self, Query, invalid};
use super::writes;
use crate::api::{CompactRequest, ErrorBody};
use crate::server::edge::{Reply, Request};
use crate::store::Command;
use crate::vocabulary::Op;

impl ClientApi {
    pub(super) fn compact(&self, call: Call, reply: Reply) {
        self.propose(parse(&call.request), &call, reply);
    }
}

fn parse(request: &Request) -> Result<Command, ErrorBody> {
    Query::parse(request.query.as_deref(), &[])?;
    let idempotency_key = params::idempotency_key(request)?;
    let CompactRequest { revision } = params::json_body(request, "a revision, like {\"revision\":17}")?;
    if revision == 0 {
        return Err(invalid("revision 0: there is no such state, the first one is 1, the empty store"));
    }
    Ok(writes::command(Op::Compact { revision }, None, idempotency_key))
}
