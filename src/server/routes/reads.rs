//! `GET /v1/kv/{key}`: one key, as its bytes or as JSON. The record is copied under the store's lock and becomes an answer
//! outside of it.

use super::accept::{self, Offer};
use super::params::{self, Query};
use super::states::{self, PARAMETERS, States};
use crate::api::{self, ErrorBody, ErrorCode, Record};
use crate::node::Node;
use crate::raft::Index;
use crate::server::edge::{Request, Response};
use crate::store::{Kv, ReadError};

/// The forms of a key's answer: the bare value, which is the default, and the record.
const FORMS: [Offer; 2] = [
    Offer { kind: "application", subtype: "octet-stream", parameter: None },
    Offer { kind: "application", subtype: "json", parameter: None },
];
const JSON: usize = 1;

/// A read of one key.
pub(super) struct KeyRead {
    key: Vec<u8>,
    states: States,
    wants_json: bool,
}

impl KeyRead {
    /// Takes the request apart.
    pub(super) fn parse(
        raw_key: &str,
        request: &Request,
        max_key_bytes: usize,
    ) -> Result<KeyRead, ErrorBody> {
        let key = params::decode_key(raw_key, max_key_bytes)?;
        let states = States::parse(&Query::parse(request.query.as_deref(), &PARAMETERS)?, None)?;
        states::refuse_conditions(request)?;
        let wants_json = accept::choose(request, &FORMS) == JSON;
        Ok(KeyRead { key, states, wants_json })
    }

    /// Which states it may see.
    pub(super) fn states(&self) -> States {
        self.states
    }

    /// The answer from a node that is fresh enough.
    pub(super) fn serve(&self, node: &Node) -> Response {
        let seen = node.with_kv(|kv| self.look(kv));
        seen.render(self.wants_json)
    }

    /// Copies what is asked for.
    fn look(&self, kv: &Kv) -> Seen {
        let found = self.states.pick(kv).and_then(|revision| {
            let record = kv.get(&self.key, Some(revision))?;
            let owned = record.map(|record| Record {
                key: record.key.to_vec(),
                value: record.value.to_vec(),
                create_revision: record.create_revision,
                mod_revision: record.mod_revision,
                version: record.version,
                lease: record.lease,
            });
            Ok((revision, owned))
        });
        Seen { applied: kv.applied().index, found }
    }
}

/// What one look at the store gave.
struct Seen {
    /// The index that the state had.
    applied: Index,
    /// The revision that was read, and the record if the key was there.
    found: Result<(u64, Option<Record>), ReadError>,
}

impl Seen {
    fn render(self, wants_json: bool) -> Response {
        let at_index = |response: Response| response.with_header(api::INDEX_HEADER, self.applied.to_string());
        let (revision, record) = match self.found {
            Ok((revision, Some(record))) => (revision, record),
            Ok((revision, None)) => {
                let response = Response::error(&ErrorBody::new(ErrorCode::NotFound, "no such key"));
                return at_index(response).with_header(api::REVISION_HEADER, revision.to_string());
            }
            Err(e) => return at_index(Response::error(&states::unreadable(e))),
        };
        let headers = [
            (api::REVISION_HEADER, revision.to_string()),
            ("ETag", format!("\"{}\"", record.mod_revision)),
            (api::CREATE_REVISION_HEADER, record.create_revision.to_string()),
            (api::VERSION_HEADER, record.version.to_string()),
        ];
        let lease = record.lease.map(|lease| (api::LEASE_HEADER, lease.to_string()));
        let response = match wants_json {
            true => Response::json(200, &record),
            false => Response::new(200, "application/octet-stream", record.value),
        };
        let mut response = at_index(response);
        response.headers.extend(headers.into_iter().chain(lease));
        response
    }
}
