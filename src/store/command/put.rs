//! A key gets a value.
//!
//! ```text
//! 4, n  key     length, then bytes
//! 4, n  value   length, then bytes
//! ```

use super::{Change, CommandError, Condition, Fingerprint, Op, Outcome, Reader, failed_condition, put_sized};

pub(super) fn encoded_len(key: &[u8], value: &[u8]) -> usize {
    8 + key.len() + value.len()
}

pub(super) fn encode(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    put_sized(key, out);
    put_sized(value, out);
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Op, CommandError> {
    Ok(Op::Put { key: reader.sized("key")?, value: reader.sized("value")? })
}

pub(super) fn hash(key: &[u8], value: &[u8], hash: &mut Fingerprint) {
    hash.sized(key).sized(value);
}

pub(super) fn execute(
    key: Vec<u8>,
    value: Vec<u8>,
    condition: Option<Condition>,
    change: &mut Change<'_>,
) -> Outcome {
    if let Some(failed) = failed_condition(condition, &key, change) {
        return failed;
    }
    let (create_revision, version) = change.put(key, value);
    Outcome::Put { revision: change.revision(), create_revision, version }
}
