//! What a put says about the lease of its key, in the words of the API; and what is said of a lease that is not there.

use super::params::{Query, invalid};
use crate::api::{ErrorBody, ErrorCode};
use crate::vocabulary::{LeaseId, MAX_TTL_S, MIN_TTL_S, PutLease, is_ttl};

/// A name for a lease that its client does not name. Names have 63 bits: no two meet by chance.
pub(super) fn new_id() -> LeaseId {
    LeaseId::new(fastrand::u64(1..=i64::MAX as u64)).unwrap_or(LeaseId::MIN)
}

/// What a put says about the lease of its key. The text says what is wrong.
///
/// # Errors
/// Two of them at once, and a time to live that no lease has.
pub(super) fn of_put(lease: Option<LeaseId>, ttl_s: Option<u64>, keep: bool) -> Result<PutLease, String> {
    match (lease, ttl_s, keep) {
        (None, None, false) => Ok(PutLease::None),
        (Some(lease), None, false) => Ok(PutLease::Attach(lease)),
        (None, Some(ttl_s), false) if is_ttl(ttl_s) => Ok(PutLease::Own { lease: new_id(), ttl_s }),
        (None, Some(ttl_s), false) => Err(bad_ttl(ttl_s)),
        (None, None, true) => Ok(PutLease::Keep),
        _ => Err("lease, ttl_s and keep_lease exclude each other: a key has one lease".to_owned()),
    }
}

/// The same, from the query of a put.
///
/// # Errors
/// `invalid_request`, as [`of_put`].
pub(super) fn of_query(query: &Query) -> Result<PutLease, ErrorBody> {
    let named = |text: &str| text.parse().map_err(|e| invalid(format!("lease={text:?}: {e}")));
    let lease = query.get("lease").map(named).transpose()?;
    of_put(lease, query.number("ttl_s")?, false).map_err(invalid)
}

/// Why a time to live is none.
pub(super) fn bad_ttl(ttl_s: u64) -> String {
    format!("ttl_s {ttl_s}: a time to live has {MIN_TTL_S} to {MAX_TTL_S} seconds")
}

/// A write names a lease that is not there.
pub(super) fn not_found(lease: LeaseId) -> ErrorBody {
    let text = format!("there is no lease {lease}: it never was, its time was over, or it was revoked");
    ErrorBody::new(ErrorCode::LeaseNotFound, text)
}
