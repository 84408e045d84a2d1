//! Commands and their outcomes: what the log carries for the state machine, and what the state machine decided.
//!
//! The byte form of a command is ours alone. It is the payload of a command entry, so it lies in every member's log
//! and must stay readable for ever: a change of meaning takes a new version byte.
//!
//! ```text
//! size  field         (integers little-endian)
//!    1  version       1
//!    1  op            1 put, 2 delete
//!    1  condition     0 none, 1 mod revision, 2 exists, 3 absent
//!    1  idempotent    0 no, 1 yes
//!    8  wall_ms
//!    8  mod_revision  only with condition 1
//!   16  request_hash  only when idempotent
//! 1, n  idempotency   only when idempotent: length, then UTF-8
//! 2, n  actor         length, then UTF-8
//! 4, n  key           length, then bytes
//! 4, n  value         only for put: length, then bytes
//! ```
//!
//! Every command has exactly one byte form, and nothing may follow it.

#[cfg(test)]
mod tests;

use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::raft::{FIRST_PROTOCOL, Index, Protocol};

const VERSION: u8 = 1;

const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;
#[cfg(feature = "next-protocol")]
const OP_TOUCH: u8 = 3;

const CONDITION_NONE: u8 = 0;
const CONDITION_MOD_REVISION: u8 = 1;
const CONDITION_EXISTS: u8 = 2;
const CONDITION_ABSENT: u8 = 3;

/// A write, as the leader proposes it and every member applies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What to change.
    pub op: Op,
    /// What must hold of the key for the change to be made.
    pub condition: Option<Condition>,
    /// Makes repetitions of the write harmless.
    pub idempotency: Option<Idempotency>,
    /// The proposer's wall clock in milliseconds since 1970. For people only: applying never looks at it.
    pub wall_ms: u64,
    /// Who asked, at most 65,535 bytes. For people only: applying never looks at it.
    pub actor: String,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Give `key` the value `value`.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its new value; an empty one is a value.
        value: Vec<u8>,
    },
    /// Remove `key`. Removing an absent key changes nothing.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// Writes the value of `key` once more. The operation of the next protocol, for the tests of upgrades.
    #[cfg(feature = "next-protocol")]
    Touch {
        /// The key.
        key: Vec<u8>,
    },
}

impl Op {
    /// The key it changes.
    pub fn key(&self) -> &[u8] {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
            #[cfg(feature = "next-protocol")]
            Op::Touch { key } => key,
        }
    }
}

/// What must hold of a key before a write changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It exists and was last changed at this revision (`If-Match: "n"`). No key has revision 0, so 0 never holds.
    ModRevision(u64),
    /// It exists (`If-Match: *`).
    Exists,
    /// It does not exist (`If-None-Match: *`).
    Absent,
}

impl Condition {
    /// Whether it holds for a key last changed at `mod_revision`; 0 = absent.
    pub fn holds(self, mod_revision: u64) -> bool {
        match self {
            Condition::ModRevision(wanted) => mod_revision != 0 && mod_revision == wanted,
            Condition::Exists => mod_revision != 0,
            Condition::Absent => mod_revision == 0,
        }
    }
}

/// The client's name for one write, with what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's key, at most 255 bytes (the API admits 64).
    pub key: String,
    /// [`request_hash`] of the write: the same key with another request is an error of the client.
    pub request_hash: u128,
}

/// What the state machine decided about a command. The same on every member, now and when it is replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The key has the value.
    Put {
        /// The store's revision, made by this command.
        revision: u64,
        /// The revision at which the key came to exist; equal to `revision` when this command created it.
        create_revision: u64,
        /// How many times the key was put since, this one included.
        version: u64,
    },
    /// The key is absent.
    Deleted {
        /// The store's revision: made by this command, or the one it found when there was nothing to delete.
        revision: u64,
        /// How many keys were removed: 0 or 1.
        deleted: u64,
    },
    /// The condition did not hold; nothing changed.
    PreconditionFailed {
        /// The store's revision.
        revision: u64,
        /// The revision at which the key was last changed; 0 = absent.
        mod_revision: u64,
    },
    /// The idempotency key belongs to another request; nothing changed.
    IdempotencyMismatch,
    /// The idempotency table is full; nothing changed, and nothing was remembered.
    Overloaded,
}

/// The outcome of the command at one place of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Index of the entry that was applied.
    pub index: Index,
    /// What was decided.
    pub outcome: Outcome,
    /// Whether an earlier command with the same idempotency key decided it.
    pub replayed: bool,
}

/// Why bytes are not a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A version this build does not know.
    #[error("the command has version {0}, and this program reads version {VERSION} alone")]
    Version(u8),
    /// The bytes end inside a field.
    #[error("the command is cut short in its {0}")]
    Short(&'static str),
    /// A byte that names nothing.
    #[error("the command has {value} as its {field}, which means nothing")]
    Unknown {
        /// The field.
        field: &'static str,
        /// The byte found there.
        value: u8,
    },
    /// A text field that is not UTF-8.
    #[error("the command's {0} is not UTF-8")]
    Text(&'static str),
    /// Bytes behind the last field.
    #[error("{0} bytes follow the command")]
    Trailing(usize),
}

impl CommandError {
    /// Whether a newer program may have written it. Anything else is no command of any version.
    pub fn is_newer(&self) -> bool {
        matches!(self, CommandError::Version(_) | CommandError::Unknown { field: "op" | "condition", .. })
    }
}

/// The version that must be in force for a command to be proposed: that of its operation. Takes the byte form, of which
/// it looks at the operation alone.
pub fn needed_protocol(command: &[u8]) -> Protocol {
    match command.get(1) {
        #[cfg(feature = "next-protocol")]
        Some(&OP_TOUCH) => 2,
        _ => FIRST_PROTOCOL,
    }
}

impl Command {
    /// The byte form. Panics when the idempotency key or the actor exceeds its length: the limits of the API are far
    /// below both.
    pub fn encode(&self) -> Vec<u8> {
        let (op, key, value) = match &self.op {
            Op::Put { key, value } => (OP_PUT, key, Some(value)),
            Op::Delete { key } => (OP_DELETE, key, None),
            #[cfg(feature = "next-protocol")]
            Op::Touch { key } => (OP_TOUCH, key, None),
        };
        let idempotency_len = self.idempotency.as_ref().map_or(0, |i| 17 + i.key.len());
        let len = 30 + idempotency_len + self.actor.len() + key.len() + value.map_or(0, Vec::len);
        let mut out = Vec::with_capacity(len);
        let condition = self.condition.map_or(CONDITION_NONE, condition_byte);
        out.extend_from_slice(&[VERSION, op, condition, u8::from(self.idempotency.is_some())]);
        out.extend_from_slice(&self.wall_ms.to_le_bytes());
        if let Some(Condition::ModRevision(revision)) = self.condition {
            out.extend_from_slice(&revision.to_le_bytes());
        }
        if let Some(Idempotency { key, request_hash }) = &self.idempotency {
            out.extend_from_slice(&request_hash.to_le_bytes());
            out.push(u8::try_from(key.len()).expect("an idempotency key has at most 255 bytes"));
            out.extend_from_slice(key.as_bytes());
        }
        let actor_len = u16::try_from(self.actor.len()).expect("an actor has at most 65,535 bytes");
        out.extend_from_slice(&actor_len.to_le_bytes());
        out.extend_from_slice(self.actor.as_bytes());
        for field in std::iter::once(key).chain(value) {
            let len = u32::try_from(field.len()).expect("a key or value has less than 4 GiB");
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(field);
        }
        out
    }

    /// Reads a byte form. Every length is compared with the bytes there are before anything is allocated for it.
    pub fn decode(bytes: &[u8]) -> Result<Command, CommandError> {
        let mut reader = Reader { rest: bytes };
        let version = reader.byte("version")?;
        if version != VERSION {
            return Err(CommandError::Version(version));
        }
        let op = reader.byte("op")?;
        let condition = reader.byte("condition")?;
        let idempotent = reader.byte("idempotent")?;
        let wall_ms = reader.u64("wall_ms")?;
        let condition = match condition {
            CONDITION_NONE => None,
            CONDITION_MOD_REVISION => Some(Condition::ModRevision(reader.u64("mod_revision")?)),
            CONDITION_EXISTS => Some(Condition::Exists),
            CONDITION_ABSENT => Some(Condition::Absent),
            value => return Err(CommandError::Unknown { field: "condition", value }),
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
        let key = reader.sized("key")?;
        let op = match op {
            OP_PUT => Op::Put { key, value: reader.sized("value")? },
            OP_DELETE => Op::Delete { key },
            #[cfg(feature = "next-protocol")]
            OP_TOUCH => Op::Touch { key },
            value => return Err(CommandError::Unknown { field: "op", value }),
        };
        match reader.rest.len() {
            0 => Ok(Command { op, condition, idempotency, wall_ms, actor }),
            trailing => Err(CommandError::Trailing(trailing)),
        }
    }
}

fn condition_byte(condition: Condition) -> u8 {
    match condition {
        Condition::ModRevision(_) => CONDITION_MOD_REVISION,
        Condition::Exists => CONDITION_EXISTS,
        Condition::Absent => CONDITION_ABSENT,
    }
}

/// What is left to decode.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], CommandError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(CommandError::Short(field))?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], CommandError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(CommandError::Short(field))?;
        self.rest = rest;
        Ok(*head)
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, CommandError> {
        self.array(field).map(u8::from_le_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, CommandError> {
        self.array(field).map(u64::from_le_bytes)
    }

    fn text(&mut self, field: &'static str, len: usize) -> Result<String, CommandError> {
        let text = str::from_utf8(self.take(field, len)?).map_err(|_| CommandError::Text(field))?;
        Ok(text.to_owned())
    }

    fn sized(&mut self, field: &'static str) -> Result<Vec<u8>, CommandError> {
        let len = u32::from_le_bytes(self.array(field)?);
        let len = usize::try_from(len).map_err(|_| CommandError::Short(field))?;
        self.take(field, len).map(<[u8]>::to_vec)
    }
}

/// The hash of what a write asks for, kept beside its idempotency key. It lies in logs and is compared across members
/// and versions, so it never changes: SipHash-1-3 with 128 bits and the keys 1 and 0, over the op and condition bytes
/// of the codec, the wanted revision (0 without one), and key and value, each behind its length in eight bytes (the
/// value of a delete is empty).
pub fn request_hash(op: &Op, condition: Option<Condition>) -> u128 {
    let (op_byte, value): (_, &[u8]) = match op {
        Op::Put { value, .. } => (OP_PUT, value),
        Op::Delete { .. } => (OP_DELETE, &[]),
        #[cfg(feature = "next-protocol")]
        Op::Touch { .. } => (OP_TOUCH, &[]),
    };
    let revision = match condition {
        Some(Condition::ModRevision(revision)) => revision,
        _ => 0,
    };
    let mut hash = Fingerprint::new(Domain::Request);
    hash.bytes(&[op_byte, condition.map_or(CONDITION_NONE, condition_byte)]);
    hash.number(revision).sized(op.key()).sized(value).finish()
}

/// What a fingerprint is taken of; keeps equal bytes with different meanings apart.
#[derive(Clone, Copy)]
pub(super) enum Domain {
    Request = 1,
    Version = 2,
    IdempotencyRow = 3,
    Header = 4,
    Members = 5,
}

/// A 128-bit hash that is the same in every build, on every machine and for ever: it is compared between members.
/// SipHash-1-3 keyed with the domain and zero. Only byte strings go in, never a Rust `Hash`, whose bytes may change.
/// The keys are public, so it finds accidents, not forgeries.
pub(super) struct Fingerprint(SipHasher13);

impl Fingerprint {
    pub(super) fn new(domain: Domain) -> Fingerprint {
        Fingerprint(SipHasher13::new_with_keys(domain as u64, 0))
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Fingerprint {
        self.0.write(bytes);
        self
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Fingerprint {
        self.bytes(&number.to_le_bytes())
    }

    pub(super) fn sized(&mut self, bytes: &[u8]) -> &mut Fingerprint {
        self.number(bytes.len() as u64).bytes(bytes)
    }

    pub(super) fn finish(&self) -> u128 {
        // The library's own conversion depends on the machine's byte order.
        let hash = self.0.finish128();
        u128::from(hash.h1) | u128::from(hash.h2) << 64
    }
}
