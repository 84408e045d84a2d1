//! A key is removed. Removing an absent key changes nothing and makes no revision.
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
    Ok(Op::Delete { key: reader.sized("key")? })
}

/// The empty value stands where that of a put stands.
pub(super) fn hash(key: &[u8], hash: &mut Fingerprint) {
    hash.sized(key).sized(&[]);
}

pub(super) fn execute(key: Vec<u8>, condition: Option<Condition>, change: &mut Change<'_>) -> Outcome {
    if let Some(failed) = failed_condition(condition, &key, change) {
        return failed;
    }
    if change.before(&key).is_none() {
        return Outcome::Deleted { revision: change.base_revision(), deleted: 0 };
    }
    change.delete(key);
    Outcome::Deleted { revision: change.revision(), deleted: 1 }
}
