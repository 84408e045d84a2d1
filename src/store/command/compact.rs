//! Forget the history before a revision.
//!
//! ```text
//! 8  revision
//! ```

use super::{Change, CommandError, Fingerprint, Op, Outcome, Reader};

pub(super) const LEN: usize = 8;

pub(super) fn encode(revision: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&revision.to_le_bytes());
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Op, CommandError> {
    Ok(Op::Compact { revision: u64::from_le_bytes(reader.array("revision")?) })
}

pub(super) fn hash(revision: u64, hash: &mut Fingerprint) {
    hash.number(revision);
}

/// The newest revision keeps the one before it, so that a watch from the newest one on is always possible.
pub(super) fn execute(revision: u64, change: &mut Change<'_>) -> Outcome {
    let newest = change.base_revision();
    if revision > newest {
        return Outcome::FutureRevision { wanted: revision, revision: newest };
    }
    Outcome::FloorRaised { floor: change.raise_floor(revision.min(newest - 1)) }
}
