//! A key gets a value.
//!
//! ```text
//! 4, n  key     length, then bytes
//! 4, n  value   length, then bytes
//!    n  lease   as `lease.rs` says
//! ```

use super::{
    Change, CommandError, Condition, Fingerprint, Op, Outcome, Reader, failed_condition, lease, put_sized,
};
use crate::vocabulary::PutLease;

pub(super) fn encoded_len(key: &[u8], value: &[u8], lease: PutLease) -> usize {
    8 + key.len() + value.len() + lease::put_len(lease)
}

pub(super) fn encode(key: &[u8], value: &[u8], lease: PutLease, out: &mut Vec<u8>) {
    put_sized(key, out);
    put_sized(value, out);
    lease::encode_put(lease, out);
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Op, CommandError> {
    let (key, value) = (reader.sized("key")?, reader.sized("value")?);
    Ok(Op::Put { key, value, lease: lease::decode_put(reader)? })
}

pub(super) fn hash(key: &[u8], value: &[u8], lease: PutLease, hash: &mut Fingerprint) {
    hash.sized(key).sized(value);
    lease::hash_put(lease, hash);
}

pub(super) fn execute(
    key: Vec<u8>,
    value: Vec<u8>,
    lease: PutLease,
    condition: Option<Condition>,
    change: &mut Change<'_>,
) -> Outcome {
    if let Some(failed) = failed_condition(condition, &key, change) {
        return failed;
    }
    let lease = match lease::lease_of_put(lease, &key, change) {
        Ok(lease) => lease,
        Err(refused) => return refused,
    };
    let (create_revision, version) = change.put(key, value, lease);
    Outcome::Put { revision: change.revision(), create_revision, version }
}
