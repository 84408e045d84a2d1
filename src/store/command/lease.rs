//! The four operations of leases, and what a put says about the lease of its key.
//!
//! ```text
//! grant    8 lease   8 ttl_s   1 chosen by the client: 0 no, 1 yes
//! renew    4, 8 each  leases
//! revoke   8 lease
//! expire   4, 8 each  leases
//! a put's  1: 0 none; 1 attached, then 8 lease; 2 its own, then 8 lease and 8 ttl_s; 3 kept (in a transaction)
//! ```
//!
//! A lease is a number from 1 to 2^63 - 1. Its time to live is counted in cluster time. So whether it is over is
//! decided by the stamp of the entry that ends it, and every member decides the same.

use std::collections::BTreeSet;

use super::{Change, CommandError, Fingerprint, Op, Outcome, Reader};
use crate::vocabulary::{LeaseId, MAX_LEASES_PER_COMMAND, PutLease, is_ttl};

const NONE: u8 = 0;
const ATTACH: u8 = 1;
const OWN: u8 = 2;
const KEEP: u8 = 3;

// ---- grant ---------------------------------------------------------------------------------------------------------------

pub(super) const GRANT_LEN: usize = 17;

pub(super) fn encode_grant(lease: LeaseId, ttl_s: u64, is_chosen: bool, out: &mut Vec<u8>) {
    put_number(lease.get(), out);
    put_number(ttl_s, out);
    out.push(u8::from(is_chosen));
}

pub(super) fn decode_grant(reader: &mut Reader<'_>) -> Result<Op, CommandError> {
    let (lease, ttl_s) = (decode_lease(reader)?, decode_ttl(reader)?);
    match reader.byte("chosen")? {
        chosen @ (0 | 1) => Ok(Op::LeaseGrant { lease, ttl_s, is_chosen: chosen == 1 }),
        value => Err(CommandError::Unknown { field: "chosen", value }),
    }
}

/// A name that the proposer made up is not what the client asked for: a repetition comes with another one.
pub(super) fn hash_grant(lease: LeaseId, ttl_s: u64, is_chosen: bool, hash: &mut Fingerprint) {
    hash.number(if is_chosen { lease.get() } else { 0 }).number(ttl_s);
}

pub(super) fn execute_grant(lease: LeaseId, ttl_s: u64, change: &mut Change<'_>) -> Outcome {
    match begin(lease, ttl_s, false, change) {
        Ok(()) => Outcome::LeaseGranted { lease, ttl_s },
        Err(refused) => refused,
    }
}

/// Begins a lease, if its name is free and there are not too many.
pub(super) fn begin(
    lease: LeaseId,
    ttl_s: u64,
    is_own: bool,
    change: &mut Change<'_>,
) -> Result<(), Outcome> {
    let max_leases = change.max_leases();
    if change.has_lease(lease) {
        return Err(Outcome::LeaseExists { lease });
    }
    if change.lease_count() >= max_leases {
        return Err(Outcome::TooManyLeases { max_leases });
    }
    change.begin_lease(lease, ttl_s, is_own);
    Ok(())
}

// ---- renew, expire -------------------------------------------------------------------------------------------------------

pub(super) fn many_len(leases: &[LeaseId]) -> usize {
    4 + 8 * leases.len()
}

/// Panics when there are more than one command may have.
pub(super) fn encode_many(leases: &[LeaseId], out: &mut Vec<u8>) {
    assert!(leases.len() <= MAX_LEASES_PER_COMMAND, "{} leases in one command", leases.len());
    out.extend_from_slice(&(leases.len() as u32).to_le_bytes());
    leases.iter().for_each(|lease| put_number(lease.get(), out));
}

pub(super) fn decode_many(reader: &mut Reader<'_>) -> Result<Vec<LeaseId>, CommandError> {
    let count = u32::from_le_bytes(reader.array("leases")?) as usize;
    if count > MAX_LEASES_PER_COMMAND {
        return Err(CommandError::TooManyLeases(count));
    }
    (0..count).map(|_| decode_lease(reader)).collect()
}

pub(super) fn hash_many(leases: &[LeaseId], hash: &mut Fingerprint) {
    hash.number(leases.len() as u64);
    for lease in leases {
        hash.number(lease.get());
    }
}

pub(super) fn execute_renew(leases: &[LeaseId], change: &mut Change<'_>) -> Outcome {
    Outcome::LeasesRenewed {
        ttls_s: leases.iter().map(|lease| change.renew_lease(*lease).unwrap_or(0)).collect(),
    }
}

/// A renewal that lies earlier in the log wins, whatever the leader knew when it proposed this.
pub(super) fn execute_expire(leases: &[LeaseId], change: &mut Change<'_>) -> Outcome {
    let (mut ended, mut deleted) = (0, 0);
    for lease in leases.iter().collect::<BTreeSet<_>>() {
        if change.is_lease_over(*lease) {
            deleted += change.end_lease(*lease);
            ended += 1;
        }
    }
    ended_leases(ended, deleted, change)
}

fn ended_leases(leases: u64, deleted: u64, change: &Change<'_>) -> Outcome {
    let revision = if change.has_writes() { change.revision() } else { change.base_revision() };
    Outcome::LeasesEnded { revision, leases, deleted }
}

// ---- revoke --------------------------------------------------------------------------------------------------------------

pub(super) const REVOKE_LEN: usize = 8;

pub(super) fn encode_revoke(lease: LeaseId, out: &mut Vec<u8>) {
    put_number(lease.get(), out);
}

pub(super) fn decode_revoke(reader: &mut Reader<'_>) -> Result<Op, CommandError> {
    decode_lease(reader).map(|lease| Op::LeaseRevoke { lease })
}

pub(super) fn execute_revoke(lease: LeaseId, change: &mut Change<'_>) -> Outcome {
    if !change.has_lease(lease) {
        return Outcome::LeaseNotFound { lease };
    }
    let deleted = change.end_lease(lease);
    ended_leases(1, deleted, change)
}

// ---- the lease of a put --------------------------------------------------------------------------------------------------

pub(super) fn put_len(lease: PutLease) -> usize {
    match lease {
        PutLease::None | PutLease::Keep => 1,
        PutLease::Attach(_) => 9,
        PutLease::Own { .. } => 17,
    }
}

pub(super) fn encode_put(lease: PutLease, out: &mut Vec<u8>) {
    match lease {
        PutLease::None => out.push(NONE),
        PutLease::Attach(lease) => {
            out.push(ATTACH);
            put_number(lease.get(), out);
        }
        PutLease::Own { lease, ttl_s } => {
            out.push(OWN);
            put_number(lease.get(), out);
            put_number(ttl_s, out);
        }
        PutLease::Keep => out.push(KEEP),
    }
}

pub(super) fn decode_put(reader: &mut Reader<'_>) -> Result<PutLease, CommandError> {
    match reader.byte("lease")? {
        NONE => Ok(PutLease::None),
        ATTACH => decode_lease(reader).map(PutLease::Attach),
        OWN => Ok(PutLease::Own { lease: decode_lease(reader)?, ttl_s: decode_ttl(reader)? }),
        KEEP => Ok(PutLease::Keep),
        value => Err(CommandError::Unknown { field: "lease", value }),
    }
}

/// The same without the name that the proposer made up: what was asked for.
pub(super) fn asked_for(lease: PutLease) -> PutLease {
    match lease {
        PutLease::Own { ttl_s, .. } => PutLease::Own { lease: LeaseId::MIN, ttl_s },
        other => other,
    }
}

/// Nothing for a put without a lease.
pub(super) fn hash_put(lease: PutLease, hash: &mut Fingerprint) {
    if lease == PutLease::None {
        return;
    }
    let mut bytes = Vec::with_capacity(put_len(lease));
    encode_put(asked_for(lease), &mut bytes);
    hash.bytes(&bytes);
}

/// The lease that a key has after a put; begins it if it is the key's own.
pub(super) fn lease_of_put(
    put: PutLease,
    key: &[u8],
    change: &mut Change<'_>,
) -> Result<Option<LeaseId>, Outcome> {
    match put {
        PutLease::None => Ok(None),
        PutLease::Attach(lease) if change.has_lease(lease) => Ok(Some(lease)),
        PutLease::Attach(lease) => Err(Outcome::LeaseNotFound { lease }),
        PutLease::Own { lease, ttl_s } => begin(lease, ttl_s, true, change).map(|()| Some(lease)),
        PutLease::Keep => match change.read(key) {
            Some(found) => Ok(found.lease),
            None => Err(Outcome::KeyNotFound { revision: change.base_revision() }),
        },
    }
}

// ---- numbers -------------------------------------------------------------------------------------------------------------

fn put_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn decode_lease(reader: &mut Reader<'_>) -> Result<LeaseId, CommandError> {
    let number = reader.u64("lease")?;
    LeaseId::new(number).ok_or(CommandError::Lease(number))
}

fn decode_ttl(reader: &mut Reader<'_>) -> Result<u64, CommandError> {
    let ttl_s = reader.u64("ttl_s")?;
    if is_ttl(ttl_s) { Ok(ttl_s) } else { Err(CommandError::Ttl(ttl_s)) }
}
