//! Commands: what the log carries for the state machine.
//!
//! The byte form of a command is private to dkv. It is the payload of a command entry, so it is in every member's
//! log.
//! It is an *envelope*, which is the same for all operations (`envelope.rs`), and the bytes of one *operation*. Each
//! operation has one file with its codec, its part of the request hash, and what it does to keys:
//!
//! | operation | tag | file |
//! |---|---|---|
//! | put | 1 | `put.rs` |
//! | delete | 2 | `delete.rs` |
//! | delete range | 3 | `delete_range.rs` |
//! | transaction | 5 | `txn.rs` |
//! | add | 6 | `add.rs` |
//! | lease grant, renew, revoke, expire | 10, 11, 12, 13 | `lease.rs` |
//!
//! The matches below are the list of operations: a new one that has no arm in one of them does not build.
//! `docs/storage-format.md` draws the bytes. Every command has exactly one byte form, and nothing may follow it.

mod add;
mod compact;
mod delete;
mod delete_range;
mod envelope;
mod fingerprint;
mod lease;
mod put;
mod reader;
#[cfg(feature = "next-protocol")]
mod touch;
mod txn;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::change::Change;
use crate::raft::{FIRST_PROTOCOL, Index, Protocol};
use crate::vocabulary::{
    Condition, KeyRange, MAX_LEASES_PER_COMMAND, MAX_TTL_S, MIN_TTL_S, Op, OpKind, Outcome, TxnError,
};
use envelope::{Envelope, VERSION};
use reader::{Reader, put_sized};

pub(super) use fingerprint::{Domain, Fingerprint};

/// A write, as the leader proposes it and every member applies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What to change.
    pub op: Op,
    /// What must hold of the key for the change to be made. Only for an operation that takes one.
    pub condition: Option<Condition>,
    /// Makes repetitions of the write harmless.
    pub idempotency: Option<Idempotency>,
    /// The proposer's wall clock in milliseconds since 1970. For people only: applying never reads it.
    pub wall_ms: u64,
    /// The user that asked, at most 65,535 bytes. For people only: applying never reads it.
    pub actor: String,
}

/// The client's name for one write, with what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's key, at most 255 bytes (the API admits 64).
    pub key: String,
    /// [`request_hash`] of the write: the same key with another request is an error of the client.
    pub request_hash: u128,
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
    /// An operation this build does not know.
    #[error("the command has operation {0}, which this program does not know")]
    Operation(u8),
    /// The bytes end inside a field.
    #[error("the command is cut short in its {0}")]
    Short(&'static str),
    /// A byte without a meaning.
    #[error("the command has {value} as its {field}, which means nothing")]
    Unknown {
        /// The field.
        field: &'static str,
        /// The byte found there.
        value: u8,
    },
    /// A condition for an operation that takes none.
    #[error("the command has a condition, which its operation {0} does not take")]
    Condition(&'static str),
    /// A text field that is not UTF-8.
    #[error("the command's {0} is not UTF-8")]
    Text(&'static str),
    /// A transaction that no state machine can execute.
    #[error("the command holds a bad transaction: {0}")]
    Txn(TxnError),
    /// A number that names no lease.
    #[error("the command names the lease {0}, which no lease is called")]
    Lease(u64),
    /// A time to live that no lease has.
    #[error("the command has a time to live of {0} s; it may be {MIN_TTL_S} to {MAX_TTL_S}")]
    Ttl(u64),
    /// More leases than one command has.
    #[error("the command has {0} leases, at most {MAX_LEASES_PER_COMMAND} fit")]
    TooManyLeases(usize),
    /// Bytes after the last field.
    #[error("{0} bytes follow the command")]
    Trailing(usize),
}

impl CommandError {
    /// Whether a newer program may be able to read the command. Otherwise the bytes are no command of any version.
    pub fn is_newer(&self) -> bool {
        match self {
            CommandError::Version(version) => *version > VERSION,
            CommandError::Operation(_) | CommandError::Unknown { field: "condition", .. } => true,
            CommandError::Unknown { field: "lease", .. } => true,
            CommandError::Unknown { field, .. } if txn::NEWER_FIELDS.contains(field) => true,
            CommandError::Short(_)
            | CommandError::Unknown { .. }
            | CommandError::Condition(_)
            | CommandError::Text(_)
            | CommandError::Txn(_)
            | CommandError::Lease(_)
            | CommandError::Ttl(_)
            | CommandError::TooManyLeases(_)
            | CommandError::Trailing(_) => false,
        }
    }
}

/// Which operation a command asks for. Takes the byte form and reads only the operation in it.
pub fn kind_of(command: &[u8]) -> Option<OpKind> {
    command.get(1).and_then(|tag| OpKind::from_tag(*tag))
}

/// The version that must be in force for a command to be proposed: the version of its operation. Takes the byte form
/// and reads only the operation in it.
pub fn needed_protocol(command: &[u8]) -> Protocol {
    match kind_of(command) {
        #[cfg(feature = "next-protocol")]
        Some(OpKind::Touch) => 2,
        Some(OpKind::Put | OpKind::Delete | OpKind::DeleteRange | OpKind::Txn | OpKind::Add) => {
            FIRST_PROTOCOL
        }
        Some(OpKind::Compact) => FIRST_PROTOCOL,
        Some(OpKind::LeaseGrant | OpKind::LeaseRenew | OpKind::LeaseRevoke | OpKind::LeaseExpire) => {
            FIRST_PROTOCOL
        }
        None => FIRST_PROTOCOL,
    }
}

impl Command {
    /// The byte form. Panics when the idempotency key or the actor exceeds its length (the limits of the API are far
    /// below both), and when the operation takes no condition and there is one.
    pub fn encode(&self) -> Vec<u8> {
        let kind = self.op.kind();
        assert!(self.condition.is_none() || kind.takes_condition(), "{} takes no condition", kind.name());
        let op_len = match &self.op {
            Op::Put { key, value, lease } => put::encoded_len(key, value, *lease),
            Op::Delete { key } => delete::encoded_len(key),
            Op::DeleteRange { range } => delete_range::encoded_len(range),
            Op::Add { key, .. } => add::encoded_len(key),
            Op::Txn { txn } => txn::encoded_len(txn),
            Op::LeaseGrant { .. } => lease::GRANT_LEN,
            Op::LeaseRenew { leases } | Op::LeaseExpire { leases } => lease::many_len(leases),
            Op::LeaseRevoke { .. } => lease::REVOKE_LEN,
            Op::Compact { .. } => compact::LEN,
            #[cfg(feature = "next-protocol")]
            Op::Touch { key } => touch::encoded_len(key),
        };
        let mut out = Vec::with_capacity(envelope::encoded_len(self) + op_len);
        envelope::encode(self, &mut out);
        match &self.op {
            Op::Put { key, value, lease } => put::encode(key, value, *lease, &mut out),
            Op::Delete { key } => delete::encode(key, &mut out),
            Op::DeleteRange { range } => delete_range::encode(range, &mut out),
            Op::Add { key, amount } => add::encode(key, *amount, &mut out),
            Op::Txn { txn } => txn::encode(txn, &mut out),
            Op::LeaseGrant { lease, ttl_s, is_chosen } => {
                lease::encode_grant(*lease, *ttl_s, *is_chosen, &mut out);
            }
            Op::LeaseRenew { leases } | Op::LeaseExpire { leases } => lease::encode_many(leases, &mut out),
            Op::LeaseRevoke { lease } => lease::encode_revoke(*lease, &mut out),
            Op::Compact { revision } => compact::encode(*revision, &mut out),
            #[cfg(feature = "next-protocol")]
            Op::Touch { key } => touch::encode(key, &mut out),
        }
        out
    }

    /// Reads a byte form. Every length is compared with the available bytes before memory is allocated for it.
    ///
    /// # Errors
    /// The bytes are not a command; [`CommandError::is_newer`] tells whether they may be a command of a later
    /// program.
    pub fn decode(bytes: &[u8]) -> Result<Command, CommandError> {
        let mut reader = Reader::new(bytes);
        let Envelope { kind, condition, idempotency, wall_ms, actor } = envelope::decode(&mut reader)?;
        let op = match kind {
            OpKind::Put => put::decode(&mut reader)?,
            OpKind::Delete => delete::decode(&mut reader)?,
            OpKind::DeleteRange => delete_range::decode(&mut reader)?,
            OpKind::Add => add::decode(&mut reader)?,
            OpKind::Txn => txn::decode(&mut reader)?,
            OpKind::LeaseGrant => lease::decode_grant(&mut reader)?,
            OpKind::LeaseRenew => Op::LeaseRenew { leases: lease::decode_many(&mut reader)? },
            OpKind::LeaseRevoke => lease::decode_revoke(&mut reader)?,
            OpKind::Compact => compact::decode(&mut reader)?,
            OpKind::LeaseExpire => Op::LeaseExpire { leases: lease::decode_many(&mut reader)? },
            #[cfg(feature = "next-protocol")]
            OpKind::Touch => touch::decode(&mut reader)?,
        };
        match reader.remaining() {
            0 => Ok(Command { op, condition, idempotency, wall_ms, actor }),
            trailing => Err(CommandError::Trailing(trailing)),
        }
    }
}

/// The hash of what a write asks for, kept beside its idempotency key. It lies in logs and is compared across members:
/// SipHash-1-3 with 128 bits and the keys 1 and 0, over the tags of the operation and the condition, the number that
/// the condition names (0 without one), and what the operation adds.
pub fn request_hash(op: &Op, condition: Option<Condition>) -> u128 {
    let mut hash = Fingerprint::new(Domain::Request);
    hash.bytes(&[op.kind().tag(), condition.map_or(Condition::NO_TAG, Condition::tag)]);
    hash.number(condition.and_then(Condition::number).unwrap_or(0));
    match op {
        Op::Put { key, value, lease } => put::hash(key, value, *lease, &mut hash),
        Op::Delete { key } => delete::hash(key, &mut hash),
        Op::DeleteRange { range } => delete_range::hash(range, &mut hash),
        Op::Add { key, amount } => add::hash(key, *amount, &mut hash),
        Op::Txn { txn } => txn::hash(txn, &mut hash),
        Op::LeaseGrant { lease, ttl_s, is_chosen } => {
            lease::hash_grant(*lease, *ttl_s, *is_chosen, &mut hash)
        }
        Op::LeaseRenew { leases } | Op::LeaseExpire { leases } => lease::hash_many(leases, &mut hash),
        Op::LeaseRevoke { lease } => lease::hash_many(&[*lease], &mut hash),
        Op::Compact { revision } => compact::hash(*revision, &mut hash),
        #[cfg(feature = "next-protocol")]
        Op::Touch { key } => touch::hash(key, &mut hash),
    }
    hash.finish()
}

/// Does to the keys of `change` what `op` asks, if `condition` holds. An outcome that says that nothing was done leaves
/// the change empty.
pub(super) fn execute(op: Op, condition: Option<Condition>, change: &mut Change<'_>) -> Outcome {
    match op {
        Op::Put { key, value, lease } => put::execute(key, value, lease, condition, change),
        Op::Delete { key } => delete::execute(key, condition, change),
        Op::DeleteRange { range } => delete_range::execute(&range, change),
        Op::Add { key, amount } => add::execute(key, amount, condition, change),
        Op::Txn { txn } => txn::execute(txn, change),
        Op::LeaseGrant { lease, ttl_s, .. } => lease::execute_grant(lease, ttl_s, change),
        Op::LeaseRenew { leases } => lease::execute_renew(&leases, change),
        Op::LeaseRevoke { lease } => lease::execute_revoke(lease, change),
        Op::LeaseExpire { leases } => lease::execute_expire(&leases, change),
        Op::Compact { revision } => compact::execute(revision, change),
        #[cfg(feature = "next-protocol")]
        Op::Touch { key } => touch::execute(key, condition, change),
    }
}

/// The outcome for a write whose condition does not hold of `key` as the change finds it.
fn failed_condition(condition: Option<Condition>, key: &[u8], change: &Change<'_>) -> Option<Outcome> {
    let found = change.before(key);
    let (mod_revision, version) = found.map_or((0, 0), |record| (record.mod_revision, record.version));
    let fails = condition.is_some_and(|condition| !condition.holds(mod_revision, version));
    fails.then(|| Outcome::PreconditionFailed { revision: change.base_revision(), mod_revision, version })
}
