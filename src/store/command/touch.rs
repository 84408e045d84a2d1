//! The value of a key is written once more. The operation of the next protocol, for the tests of upgrades: an example of
//! a version that changes commands, hash and snapshots.
//!
//! ```text
//! 4, n  key     length, then bytes
//! ```

use super::{Change, CommandError, Condition, Fingerprint, Op, Outcome, Reader, failed_condition, put_sized};

pub(super) fn encoded_len(key: &[u8]) -> usize {
    4 + key.len()
}

pub(super) fn encode(key: &[u8], out: &mut Vec<u8>) {
    put_sized(key, out);
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Op, CommandError> {
    Ok(Op::Touch { key: reader.sized("key")? })
}

pub(super) fn hash(key: &[u8], hash: &mut Fingerprint) {
    hash.sized(key).sized(&[]);
}

/// An absent key is refused.
pub(super) fn execute(key: Vec<u8>, condition: Option<Condition>, change: &mut Change<'_>) -> Outcome {
    if let Some(failed) = failed_condition(condition, &key, change) {
        return failed;
    }
    let Some((value, lease)) = change.before(&key).map(|found| (found.value.to_vec(), found.lease)) else {
        return Outcome::PreconditionFailed { revision: change.base_revision(), mod_revision: 0, version: 0 };
    };
    let revision = change.revision();
    let (create_revision, version) = change.put(key, value, lease);
    Outcome::Put { revision, create_revision, version }
}
