//! Which states a read may see.
//!
//! Four parameters decide what a read sees. `consistency=linearizable`, the default, asks the leader for an index
//! first; `stale` takes the state of this node. `revision=N` and a cursor pin the state: it never changes any more,
//! so a node that has applied it need not ask the leader. `min_revision=N` alone is for a client that wants to see at
//! least what it saw before: the leader is not asked either, unless `consistency=linearizable` is given as well. A
//! node that has not applied N yet makes one linearizable read; if N does not exist then, it is in the future.

use super::params::{Query, invalid};
use crate::api::{ErrorBody, ErrorCode};
use crate::node::{Consistency, Node};
use crate::server::edge::{Request, RequestHeader};
use crate::store::{FIRST_REVISION, Kv, ReadError};

/// What both kinds of reads may be asked with.
pub(super) const PARAMETERS: [&str; 3] = ["consistency", "revision", "min_revision"];

/// Which states a read may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct States {
    /// Exactly this one.
    pub revision: Option<u64>,
    /// Only this one and later ones.
    pub min_revision: u64,
    /// Only those that hold everything acknowledged before the read began.
    is_linearizable: bool,
}

impl States {
    /// Takes them from the query; `cursor` pins them to its revision.
    pub(super) fn parse(query: &Query, cursor: Option<u64>) -> Result<States, ErrorBody> {
        let consistency = match query.get("consistency") {
            None => None,
            Some("linearizable") => Some(Consistency::Linearizable),
            Some("stale") => Some(Consistency::Stale),
            Some(other) => {
                let text = format!("consistency={other:?}: it is linearizable (the default) or stale");
                return Err(invalid(text));
            }
        };
        let (revision, min_revision) = (query.number("revision")?, query.number("min_revision")?);
        if revision == Some(0) {
            return Err(invalid(format!(
                "revision=0: there is no such state, the first one is {FIRST_REVISION}, the empty store"
            )));
        }
        if revision.is_some() && min_revision.is_some() {
            return Err(invalid(
                "revision and min_revision exclude each other: exactly that state, or no older one",
            ));
        }
        if let Some(pinned) = cursor
            && (revision.is_some_and(|revision| revision != pinned) || min_revision > Some(pinned))
        {
            return Err(invalid(format!(
                "the cursor belongs to revision {pinned}: all pages of a listing do"
            )));
        }
        let revision = revision.or(cursor);
        let is_linearizable = match consistency {
            Some(Consistency::Linearizable) => revision.is_none(),
            Some(Consistency::Stale) => false,
            None => revision.is_none() && min_revision.is_none(),
        };
        Ok(States { revision, min_revision: min_revision.unwrap_or(0), is_linearizable })
    }

    /// How the node has to be asked.
    pub(super) fn consistency(&self, node: &Node) -> Consistency {
        let wanted = self.revision.unwrap_or(self.min_revision);
        if self.is_linearizable || (wanted > 0 && node.with_kv(Kv::revision) < wanted) {
            Consistency::Linearizable
        } else {
            Consistency::Stale
        }
    }

    /// The revision to read in the present state.
    ///
    /// # Errors
    /// `min_revision` is not reached.
    pub(super) fn pick(&self, kv: &Kv) -> Result<u64, ReadError> {
        let revision = kv.revision();
        if revision < self.min_revision {
            return Err(ReadError::Future { wanted: self.min_revision, revision });
        }
        Ok(self.revision.unwrap_or(revision))
    }
}

/// Conditions are for writes.
pub(super) fn refuse_conditions(request: &Request) -> Result<(), ErrorBody> {
    if request.header(RequestHeader::IfMatch).is_some() {
        return Err(invalid("If-Match is a condition of writes; a read gives the current tag in its ETag"));
    }
    if request.header(RequestHeader::IfVersion).is_some() {
        return Err(invalid("If-Version is a condition of writes; a read gives the version in Dkv-Version"));
    }
    Ok(())
}

/// The answer when the revision cannot be read.
pub(super) fn unreadable(error: ReadError) -> ErrorBody {
    let (code, revision) = match error {
        ReadError::Compacted { floor, .. } => (ErrorCode::Compacted, floor),
        ReadError::Future { revision, .. } => (ErrorCode::FutureRevision, revision),
    };
    ErrorBody::new(code, error.to_string()).with_revision(revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(query: &str, cursor: Option<u64>) -> Result<States, ErrorBody> {
        States::parse(&Query::parse(Some(query), &PARAMETERS).unwrap(), cursor)
    }

    #[test]
    fn parse_settles_which_states_a_read_may_see() {
        type Row = (&'static str, Option<u64>, Option<u64>, u64, bool);
        let table: [Row; 12] = [
            ("", None, None, 0, true),
            ("consistency=linearizable", None, None, 0, true),
            ("consistency=stale", None, None, 0, false),
            ("revision=5", None, Some(5), 0, false),
            ("revision=1&consistency=linearizable", None, Some(1), 0, false),
            ("min_revision=0", None, None, 0, false),
            ("min_revision=5", None, None, 5, false),
            ("min_revision=5&consistency=stale", None, None, 5, false),
            ("min_revision=5&consistency=linearizable", None, None, 5, true),
            ("", Some(7), Some(7), 0, false),
            ("revision=7&consistency=linearizable", Some(7), Some(7), 0, false),
            ("min_revision=7", Some(7), Some(7), 7, false),
        ];
        for (query, cursor, revision, min_revision, is_linearizable) in table {
            let want = States { revision, min_revision, is_linearizable };
            assert_eq!(states(query, cursor).unwrap(), want, "{query} {cursor:?}");
        }
    }

    #[test]
    fn parse_refuses_what_contradicts_itself() {
        for (query, cursor) in [
            ("revision=5&min_revision=5", None),
            ("revision=5", Some(7)),
            ("min_revision=8", Some(7)),
            ("revision=", None),
            ("revision=0", None),
            ("revision=-1", None),
            ("revision=+1", None),
            ("revision=01", None),
            ("revision=18446744073709551616", None),
            ("min_revision=x", None),
            ("consistency=", None),
        ] {
            assert_eq!(states(query, cursor).unwrap_err().error.code, ErrorCode::InvalidRequest, "{query}");
        }
        assert_eq!(states("revision=18446744073709551615", None).unwrap().revision, Some(u64::MAX));
    }
}
