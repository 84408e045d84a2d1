//! What is the same for all operations.
//!
//! ```text
//! size  field         (integers little-endian)
//!    1  version       1
//!    1  operation     the tag of the operation
//!    1  condition     0 none, 1 mod revision, 2 exists, 3 absent, 4 version
//!    1  idempotent    0 no, 1 yes
//!    8  wall_ms
//!    8  number        only with condition 1 (the mod revision) and 4 (the version)
//!   16  request_hash  only when idempotent
//! 1, n  idempotency   only when idempotent: length, then UTF-8
//! 2, n  actor         length, then UTF-8
//!    n  the bytes of the operation
//! ```

use super::{Command, CommandError, Condition, Idempotency, OpKind, Reader};

pub(super) const VERSION: u8 = 1;

/// An envelope that was read.
pub(super) struct Envelope {
    pub kind: OpKind,
    pub condition: Option<Condition>,
    pub idempotency: Option<Idempotency>,
    pub wall_ms: u64,
    pub actor: String,
}

/// No less than [`encode`] appends, and at most eight bytes more.
pub(super) fn encoded_len(command: &Command) -> usize {
    let idempotency_len = command.idempotency.as_ref().map_or(0, |i| 17 + i.key.len());
    22 + idempotency_len + command.actor.len()
}

pub(super) fn encode(command: &Command, out: &mut Vec<u8>) {
    let Command { op, condition, idempotency, wall_ms, actor } = command;
    let condition_tag = condition.map_or(Condition::NO_TAG, Condition::tag);
    out.extend_from_slice(&[VERSION, op.kind().tag(), condition_tag, u8::from(idempotency.is_some())]);
    out.extend_from_slice(&wall_ms.to_le_bytes());
    if let Some(number) = condition.and_then(Condition::number) {
        out.extend_from_slice(&number.to_le_bytes());
    }
    if let Some(Idempotency { key, request_hash }) = idempotency {
        out.extend_from_slice(&request_hash.to_le_bytes());
        out.push(u8::try_from(key.len()).expect("an idempotency key has at most 255 bytes"));
        out.extend_from_slice(key.as_bytes());
    }
    let actor_len = u16::try_from(actor.len()).expect("an actor has at most 65,535 bytes");
    out.extend_from_slice(&actor_len.to_le_bytes());
    out.extend_from_slice(actor.as_bytes());
}

/// Version and operation are looked at first: what follows may be different in those that this build does not know.
pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Envelope, CommandError> {
    let version = reader.byte("version")?;
    if version != VERSION {
        return Err(CommandError::Version(version));
    }
    let tag = reader.byte("operation")?;
    let kind = OpKind::from_tag(tag).ok_or(CommandError::Operation(tag))?;
    let condition_tag = reader.byte("condition")?;
    let idempotent = reader.byte("idempotent")?;
    let wall_ms = reader.u64("wall_ms")?;
    let condition = match Condition::from_tag(condition_tag, 0) {
        None if condition_tag == Condition::NO_TAG => None,
        None => return Err(CommandError::Unknown { field: "condition", value: condition_tag }),
        Some(_) if !kind.takes_condition() => return Err(CommandError::Condition(kind.name())),
        Some(condition) if condition.number().is_none() => Some(condition),
        Some(_) => Condition::from_tag(condition_tag, reader.u64("number")?),
    };
    let idempotency = match idempotent {
        0 => None,
        1 => {
            let request_hash = u128::from_le_bytes(reader.array("request_hash")?);
            let len = reader.byte("idempotency")?;
            Some(Idempotency { key: reader.text("idempotency", usize::from(len))?, request_hash })
        }
        value => return Err(CommandError::Unknown { field: "idempotent", value }),
    };
    let actor_len = u16::from_le_bytes(reader.array("actor")?);
    let actor = reader.text("actor", usize::from(actor_len))?;
    Ok(Envelope { kind, condition, idempotency, wall_ms, actor })
}
