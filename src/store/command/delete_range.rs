//! Every key of a range is removed, at one revision. A range without keys changes nothing and makes no revision.
//!
//! ```text
//! 4, n  start   length, then bytes; empty: from the very first
//!    1  ends    0 no, 1 yes
//! 4, n  end     only when it ends: length, then bytes
//! ```
//!
//! Removed versions become history, and one change must leave room there for the versions of other changes. So a
//! range with too many keys is refused as a whole, and the client removes it in parts. This decision depends only on
//! the log and the settings in it, so every member decides the same.

use std::ops::ControlFlow;

use super::{Change, CommandError, Fingerprint, KeyRange, Op, Outcome, Reader, put_sized};

/// Maximum number of keys that one command removes. Part of the state machine's definition: it must be the same on
/// all members.
const MAX_KEYS: usize = 100_000;

pub(super) fn encoded_len(range: &KeyRange) -> usize {
    5 + range.start().len() + range.end().map_or(0, |end| 4 + end.len())
}

pub(super) fn encode(range: &KeyRange, out: &mut Vec<u8>) {
    put_sized(range.start(), out);
    out.push(u8::from(range.end().is_some()));
    if let Some(end) = range.end() {
        put_sized(end, out);
    }
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Op, CommandError> {
    decode_range(reader).map(|range| Op::DeleteRange { range })
}

pub(super) fn decode_range(reader: &mut Reader<'_>) -> Result<KeyRange, CommandError> {
    let start = reader.sized("start")?;
    let end = match reader.byte("ends")? {
        0 => None,
        1 => Some(reader.sized("end")?),
        value => return Err(CommandError::Unknown { field: "ends", value }),
    };
    Ok(KeyRange::between(start, end))
}

/// Two requests that mean one range are one request, however they are written.
pub(super) fn hash(range: &KeyRange, hash: &mut Fingerprint) {
    hash.sized(range.start());
    hash.number(u64::from(range.end().is_some())).sized(range.end().unwrap_or_default());
}

pub(super) fn execute(range: &KeyRange, change: &mut Change<'_>) -> Outcome {
    let max_bytes = change.settings().retention_bytes / 2;
    let (mut keys, mut bytes) = (Vec::new(), 0);
    change.walk_at(range, false, change.base_revision(), &mut |key, found| {
        let Some(found) = found else { return ControlFlow::Continue(()) };
        keys.push(key.to_vec());
        bytes += found.retained_bytes();
        // A part of one key always fits, or there would be ranges that no parts can remove.
        let fits = keys.len() <= MAX_KEYS && (keys.len() == 1 || bytes <= max_bytes);
        if fits { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    if keys.len() > MAX_KEYS || keys.len() > 1 && bytes > max_bytes {
        return Outcome::RangeTooLarge { max_keys: MAX_KEYS as u64, max_bytes };
    }
    let deleted = keys.len() as u64;
    keys.into_iter().for_each(|key| change.delete(key));
    let revision = if deleted == 0 { change.base_revision() } else { change.revision() };
    Outcome::Deleted { revision, deleted }
}
