//! What became of a write.

use serde::{Deserialize, Serialize};

use super::outcome_error::OutcomeError;
use super::{LeaseId, TxnAnswer};

/// What the state machine decided about a command. The same on every member, now and when it is replayed.
///
/// Its JSON travels between members; its bytes are remembered under the idempotency key of the write and lie in
/// snapshots: a tag, then the numbers of its fields in their order, each in eight bytes. A transaction's answer has a
/// form of its own ([`TxnAnswer`]).
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
    /// What was to be removed is absent.
    Deleted {
        /// The store's revision: made by this command, or the one it found when there was nothing to delete.
        revision: u64,
        /// How many keys were removed.
        deleted: u64,
    },
    /// The condition did not hold; nothing changed.
    PreconditionFailed {
        /// The store's revision.
        revision: u64,
        /// The revision at which the key was last changed; 0 = absent.
        mod_revision: u64,
        /// How many times the key was put since it was created; 0 = absent.
        version: u64,
    },
    /// The idempotency key belongs to another request; nothing changed.
    IdempotencyMismatch,
    /// The idempotency table is full; nothing changed, and nothing was remembered.
    Overloaded,
    /// The range has more keys than one write may remove; nothing changed.
    RangeTooLarge {
        /// How many it may be.
        max_keys: u64,
        /// And, when there are several, how many bytes of history they may take.
        max_bytes: u64,
    },
    /// The transaction is done.
    Txn(#[serde(with = "as_base64")] Box<TxnAnswer>),
    /// The transaction is done; what it read is not known any more.
    TxnShort {
        /// The store's revision: made by the transaction, or the one it found when it wrote nothing.
        revision: u64,
        /// Whether all comparisons held.
        succeeded: bool,
        /// How many keys it put.
        puts: u64,
        /// How many keys it removed.
        deleted: u64,
    },
    /// A transaction was to put a key with the value that it has, and there is no such key; nothing changed.
    KeyNotFound {
        /// The store's revision.
        revision: u64,
    },
    /// A transaction was to read a revision below the floor; nothing changed.
    Compacted {
        /// The revision that was to be read.
        wanted: u64,
        /// The oldest one that can be.
        floor: u64,
    },
    /// A transaction was to read a revision that does not exist yet; nothing changed.
    FutureRevision {
        /// The revision that was to be read.
        wanted: u64,
        /// The store's revision.
        revision: u64,
    },
    /// A transaction would read more than one answer holds, or look at more keys than one step may; nothing changed.
    TxnTooLarge {
        /// How many bytes its results may have.
        max_bytes: u64,
        /// How many keys of ranges it may look at.
        max_keys: u64,
    },
    /// The counter has been changed.
    Added {
        /// The store's revision, made by this command.
        revision: u64,
        /// How many times the key was put since it was created, this one included.
        version: u64,
        /// The counter's value from now on.
        value: i64,
    },
    /// What was to be added to is no integer; nothing changed.
    NotAnInteger {
        /// The store's revision.
        revision: u64,
        /// The revision at which the key was last changed.
        mod_revision: u64,
        /// How many times the key was put since it was created.
        version: u64,
    },
    /// The sum would not fit into 64 bits; nothing changed.
    OutOfRange {
        /// The store's revision.
        revision: u64,
        /// The revision at which the key was last changed.
        mod_revision: u64,
        /// How many times the key was put since it was created.
        version: u64,
        /// The counter's value.
        value: i64,
    },
    /// The lease has begun.
    LeaseGranted {
        /// Which one.
        lease: LeaseId,
        /// Its time to live, in seconds.
        ttl_s: u64,
    },
    /// A lease with this name exists; nothing changed.
    LeaseExists {
        /// Which one.
        lease: LeaseId,
    },
    /// There are as many leases as there may be; nothing changed.
    TooManyLeases {
        /// How many that is.
        max_leases: u64,
    },
    /// There is no such lease; nothing changed.
    LeaseNotFound {
        /// Which one.
        lease: LeaseId,
    },
    /// Leases were renewed.
    LeasesRenewed {
        /// The time to live of each, in seconds; 0 = there is no such lease.
        ttls_s: Vec<u64>,
    },
    /// Leases have ended, and their keys are absent.
    LeasesEnded {
        /// The store's revision: made by this command, or the one it found when there were no keys.
        revision: u64,
        /// How many leases have ended.
        leases: u64,
        /// How many keys were removed.
        deleted: u64,
    },
    /// History was forgotten, now or before.
    FloorRaised {
        /// The oldest revision that can be read.
        floor: u64,
    },
}

const PUT: u8 = 1;
const DELETED: u8 = 2;
const PRECONDITION_FAILED: u8 = 3;
const IDEMPOTENCY_MISMATCH: u8 = 4;
const OVERLOADED: u8 = 5;
const RANGE_TOO_LARGE: u8 = 6;
const ADDED: u8 = 13;
const NOT_AN_INTEGER: u8 = 14;
const OUT_OF_RANGE: u8 = 15;
const TXN: u8 = 7;
const TXN_SHORT: u8 = 8;
const KEY_NOT_FOUND: u8 = 9;
const COMPACTED: u8 = 10;
const FUTURE_REVISION: u8 = 11;
const TXN_TOO_LARGE: u8 = 12;
const LEASE_GRANTED: u8 = 24;
const LEASE_EXISTS: u8 = 25;
const TOO_MANY_LEASES: u8 = 26;
const LEASE_NOT_FOUND: u8 = 27;
const LEASES_RENEWED: u8 = 28;
const LEASES_ENDED: u8 = 29;
const FLOOR_RAISED: u8 = 32;

impl Outcome {
    /// Its number where it is remembered.
    fn tag(&self) -> u8 {
        match self {
            Outcome::Put { .. } => PUT,
            Outcome::Deleted { .. } => DELETED,
            Outcome::PreconditionFailed { .. } => PRECONDITION_FAILED,
            Outcome::IdempotencyMismatch => IDEMPOTENCY_MISMATCH,
            Outcome::Overloaded => OVERLOADED,
            Outcome::RangeTooLarge { .. } => RANGE_TOO_LARGE,
            Outcome::Added { .. } => ADDED,
            Outcome::NotAnInteger { .. } => NOT_AN_INTEGER,
            Outcome::OutOfRange { .. } => OUT_OF_RANGE,
            Outcome::Txn(_) => TXN,
            Outcome::TxnShort { .. } => TXN_SHORT,
            Outcome::KeyNotFound { .. } => KEY_NOT_FOUND,
            Outcome::Compacted { .. } => COMPACTED,
            Outcome::FutureRevision { .. } => FUTURE_REVISION,
            Outcome::TxnTooLarge { .. } => TXN_TOO_LARGE,
            Outcome::LeaseGranted { .. } => LEASE_GRANTED,
            Outcome::LeaseExists { .. } => LEASE_EXISTS,
            Outcome::TooManyLeases { .. } => TOO_MANY_LEASES,
            Outcome::LeaseNotFound { .. } => LEASE_NOT_FOUND,
            Outcome::LeasesRenewed { .. } => LEASES_RENEWED,
            Outcome::LeasesEnded { .. } => LEASES_ENDED,
            Outcome::FloorRaised { .. } => FLOOR_RAISED,
        }
    }

    /// The same without what was read, where that may be long: its byte form has a few dozen bytes.
    pub fn shortened(&self) -> Outcome {
        match self {
            Outcome::Txn(answer) => {
                let (puts, deleted) = answer.written();
                let TxnAnswer { revision, succeeded, .. } = **answer;
                Outcome::TxnShort { revision, succeeded, puts, deleted }
            }
            other => other.clone(),
        }
    }

    /// How long its byte form is.
    pub fn encoded_len(&self) -> usize {
        match self {
            Outcome::Txn(answer) => 1 + answer.encoded_len(),
            // At most four numbers, or one for each lease.
            other => other.encode().len(),
        }
    }

    /// Its byte form: each outcome has exactly one.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.tag()];
        let mut put =
            |numbers: &[u64]| numbers.iter().for_each(|n| bytes.extend_from_slice(&n.to_le_bytes()));
        match *self {
            Outcome::Txn(ref answer) => answer.encode(&mut bytes),
            Outcome::TxnShort { revision, succeeded, puts, deleted } => {
                put(&[revision, u64::from(succeeded), puts, deleted]);
            }
            Outcome::KeyNotFound { revision } => put(&[revision]),
            Outcome::Compacted { wanted, floor } => put(&[wanted, floor]),
            Outcome::FutureRevision { wanted, revision } => put(&[wanted, revision]),
            Outcome::TxnTooLarge { max_bytes, max_keys } => put(&[max_bytes, max_keys]),
            Outcome::LeaseGranted { lease, ttl_s } => put(&[lease.get(), ttl_s]),
            Outcome::LeaseExists { lease } | Outcome::LeaseNotFound { lease } => put(&[lease.get()]),
            Outcome::TooManyLeases { max_leases } => put(&[max_leases]),
            Outcome::LeasesRenewed { ref ttls_s } => {
                put(&[ttls_s.len() as u64]);
                put(ttls_s);
            }
            Outcome::LeasesEnded { revision, leases, deleted } => put(&[revision, leases, deleted]),
            Outcome::FloorRaised { floor } => put(&[floor]),
            Outcome::Put { revision, create_revision, version } => {
                put(&[revision, create_revision, version]);
            }
            Outcome::Deleted { revision, deleted } => put(&[revision, deleted]),
            Outcome::PreconditionFailed { revision, mod_revision, version } => {
                put(&[revision, mod_revision, version]);
            }
            Outcome::IdempotencyMismatch | Outcome::Overloaded => {}
            Outcome::RangeTooLarge { max_keys, max_bytes } => put(&[max_keys, max_bytes]),
            Outcome::Added { revision, version, value } => put(&[revision, version, value.cast_unsigned()]),
            Outcome::NotAnInteger { revision, mod_revision, version } => {
                put(&[revision, mod_revision, version]);
            }
            Outcome::OutOfRange { revision, mod_revision, version, value } => {
                put(&[revision, mod_revision, version, value.cast_unsigned()]);
            }
        }
        bytes
    }

    /// Reads a byte form.
    ///
    /// # Errors
    /// The bytes are no outcome, or more than one.
    pub fn decode(bytes: &[u8]) -> Result<Outcome, OutcomeError> {
        let (&tag, fields) = bytes.split_first().ok_or(OutcomeError::Empty)?;
        Ok(match tag {
            PUT => {
                let [revision, create_revision, version] = numbers(tag, fields)?;
                Outcome::Put { revision, create_revision, version }
            }
            DELETED => {
                let [revision, deleted] = numbers(tag, fields)?;
                Outcome::Deleted { revision, deleted }
            }
            PRECONDITION_FAILED => {
                let [revision, mod_revision, version] = numbers(tag, fields)?;
                Outcome::PreconditionFailed { revision, mod_revision, version }
            }
            IDEMPOTENCY_MISMATCH => numbers::<0>(tag, fields).map(|_| Outcome::IdempotencyMismatch)?,
            OVERLOADED => numbers::<0>(tag, fields).map(|_| Outcome::Overloaded)?,
            RANGE_TOO_LARGE => {
                let [max_keys, max_bytes] = numbers(tag, fields)?;
                Outcome::RangeTooLarge { max_keys, max_bytes }
            }
            ADDED => {
                let [revision, version, value] = numbers(tag, fields)?;
                Outcome::Added { revision, version, value: value.cast_signed() }
            }
            NOT_AN_INTEGER => {
                let [revision, mod_revision, version] = numbers(tag, fields)?;
                Outcome::NotAnInteger { revision, mod_revision, version }
            }
            OUT_OF_RANGE => {
                let [revision, mod_revision, version, value] = numbers(tag, fields)?;
                Outcome::OutOfRange { revision, mod_revision, version, value: value.cast_signed() }
            }
            TXN => Outcome::Txn(Box::new(TxnAnswer::decode(tag, fields)?)),
            TXN_SHORT => {
                let [revision, succeeded, puts, deleted] = numbers(tag, fields)?;
                let succeeded = match succeeded {
                    0 => false,
                    1 => true,
                    _ => return Err(OutcomeError::Length { tag, bytes: 1 + fields.len() }),
                };
                Outcome::TxnShort { revision, succeeded, puts, deleted }
            }
            KEY_NOT_FOUND => {
                let [revision] = numbers(tag, fields)?;
                Outcome::KeyNotFound { revision }
            }
            COMPACTED => {
                let [wanted, floor] = numbers(tag, fields)?;
                Outcome::Compacted { wanted, floor }
            }
            FUTURE_REVISION => {
                let [wanted, revision] = numbers(tag, fields)?;
                Outcome::FutureRevision { wanted, revision }
            }
            TXN_TOO_LARGE => {
                let [max_bytes, max_keys] = numbers(tag, fields)?;
                Outcome::TxnTooLarge { max_bytes, max_keys }
            }
            LEASE_GRANTED => {
                let [lease, ttl_s] = numbers(tag, fields)?;
                Outcome::LeaseGranted { lease: lease_of(tag, fields, lease)?, ttl_s }
            }
            LEASE_EXISTS | LEASE_NOT_FOUND => {
                let [lease] = numbers(tag, fields)?;
                let lease = lease_of(tag, fields, lease)?;
                if tag == LEASE_EXISTS {
                    Outcome::LeaseExists { lease }
                } else {
                    Outcome::LeaseNotFound { lease }
                }
            }
            TOO_MANY_LEASES => {
                let [max_leases] = numbers(tag, fields)?;
                Outcome::TooManyLeases { max_leases }
            }
            LEASES_RENEWED => {
                let (count, ttls) = fields.split_first_chunk().ok_or_else(|| wrong_length(tag, fields))?;
                let ttls_s = all_numbers(tag, ttls)?;
                if ttls_s.len() as u64 != u64::from_le_bytes(*count) {
                    return Err(wrong_length(tag, fields));
                }
                Outcome::LeasesRenewed { ttls_s }
            }
            LEASES_ENDED => {
                let [revision, leases, deleted] = numbers(tag, fields)?;
                Outcome::LeasesEnded { revision, leases, deleted }
            }
            FLOOR_RAISED => {
                let [floor] = numbers(tag, fields)?;
                Outcome::FloorRaised { floor }
            }
            unknown => return Err(OutcomeError::Unknown(unknown)),
        })
    }
}

fn lease_of(tag: u8, fields: &[u8], number: u64) -> Result<LeaseId, OutcomeError> {
    LeaseId::new(number).ok_or_else(|| wrong_length(tag, fields))
}

fn wrong_length(tag: u8, fields: &[u8]) -> OutcomeError {
    OutcomeError::Length { tag, bytes: 1 + fields.len() }
}

/// The JSON of an answer that may be long: its byte form in base64.
mod as_base64 {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::{TXN, TxnAnswer};

    // The name and the reference are serde's.
    #[expect(clippy::borrowed_box, reason = "serde passes the field as it is")]
    pub(super) fn serialize<S: Serializer>(
        answer: &Box<TxnAnswer>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(answer.encoded_len());
        answer.encode(&mut bytes);
        STANDARD.encode(bytes).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Box<TxnAnswer>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(de::Error::custom)?;
        TxnAnswer::decode(TXN, &bytes).map(Box::new).map_err(de::Error::custom)
    }
}

/// The fields, which must be exactly as many.
fn numbers<const N: usize>(tag: u8, fields: &[u8]) -> Result<[u64; N], OutcomeError> {
    all_numbers(tag, fields)?.try_into().map_err(|_| wrong_length(tag, fields))
}

fn all_numbers(tag: u8, fields: &[u8]) -> Result<Vec<u64>, OutcomeError> {
    let (words, rest) = fields.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(wrong_length(tag, fields));
    }
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::txn_answer::tests::full;

    fn lease() -> LeaseId {
        LeaseId::new(0x1234).unwrap()
    }

    /// One of each. The match makes the build fail when one is forgotten.
    pub(crate) fn all() -> Vec<Outcome> {
        let next = |outcome: &Outcome| match outcome {
            Outcome::Put { .. } => Some(Outcome::Deleted { revision: 4, deleted: 5 }),
            Outcome::Deleted { .. } => {
                Some(Outcome::PreconditionFailed { revision: 6, mod_revision: 7, version: 8 })
            }
            Outcome::PreconditionFailed { .. } => Some(Outcome::IdempotencyMismatch),
            Outcome::IdempotencyMismatch => Some(Outcome::Overloaded),
            Outcome::Overloaded => Some(Outcome::RangeTooLarge { max_keys: 8, max_bytes: 9 }),
            Outcome::RangeTooLarge { .. } => Some(Outcome::Txn(Box::new(full()))),
            Outcome::Txn(_) => {
                Some(Outcome::TxnShort { revision: 10, succeeded: true, puts: 11, deleted: 12 })
            }
            Outcome::TxnShort { .. } => Some(Outcome::KeyNotFound { revision: 13 }),
            Outcome::KeyNotFound { .. } => Some(Outcome::Compacted { wanted: 14, floor: 15 }),
            Outcome::Compacted { .. } => Some(Outcome::FutureRevision { wanted: 16, revision: 17 }),
            Outcome::FutureRevision { .. } => Some(Outcome::TxnTooLarge { max_bytes: 18, max_keys: 19 }),
            Outcome::TxnTooLarge { .. } => Some(Outcome::Added { revision: 10, version: 11, value: -12 }),
            Outcome::Added { .. } => {
                Some(Outcome::NotAnInteger { revision: 13, mod_revision: 14, version: 15 })
            }
            Outcome::NotAnInteger { .. } => {
                Some(Outcome::OutOfRange { revision: 16, mod_revision: 17, version: 18, value: i64::MIN })
            }
            Outcome::OutOfRange { .. } => Some(Outcome::LeaseGranted { lease: lease(), ttl_s: 20 }),
            Outcome::LeaseGranted { .. } => Some(Outcome::LeaseExists { lease: lease() }),
            Outcome::LeaseExists { .. } => Some(Outcome::TooManyLeases { max_leases: 21 }),
            Outcome::TooManyLeases { .. } => Some(Outcome::LeaseNotFound { lease: lease() }),
            Outcome::LeaseNotFound { .. } => Some(Outcome::LeasesRenewed { ttls_s: vec![22, 0] }),
            Outcome::LeasesRenewed { .. } => {
                Some(Outcome::LeasesEnded { revision: 23, leases: 24, deleted: 25 })
            }
            Outcome::LeasesEnded { .. } => Some(Outcome::FloorRaised { floor: 26 }),
            Outcome::FloorRaised { .. } => None,
        };
        let first = Outcome::Put { revision: 1, create_revision: 2, version: 3 };
        std::iter::successors(Some(first), next).collect()
    }

    #[test]
    fn decode_is_the_inverse_of_encode() {
        for outcome in all() {
            let bytes = outcome.encode();
            assert_eq!(Outcome::decode(&bytes), Ok(outcome.clone()));
            assert_eq!(outcome.encoded_len(), bytes.len(), "{outcome:?}");
            let json = serde_json::to_string(&outcome).unwrap();
            assert_eq!(serde_json::from_str::<Outcome>(&json).unwrap(), outcome, "{json}");
            let longer = [&bytes[..], &[0]].concat();
            assert!(Outcome::decode(&longer).is_err(), "{outcome:?} with a byte more");
            assert!(Outcome::decode(&bytes[..bytes.len() - 1]).is_err(), "{outcome:?} cut short");
        }
        let put = Outcome::Put { revision: 1, create_revision: 2, version: 3 };
        assert_eq!(put.encode()[..10], [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    }

    #[test]
    fn shortened_forgets_what_was_read_and_nothing_else() {
        for outcome in all() {
            let short = outcome.shortened();
            assert!(short.encoded_len() < 40, "{short:?}");
            match outcome {
                Outcome::Txn(_) => {
                    let wanted = Outcome::TxnShort { revision: 7, succeeded: true, puts: 6, deleted: 4 };
                    assert_eq!(short, wanted);
                }
                other => assert_eq!(short, other),
            }
        }
    }

    #[test]
    fn no_two_outcomes_have_one_tag() {
        let tags: std::collections::BTreeSet<u8> = all().iter().map(Outcome::tag).collect();
        assert_eq!((tags.len(), tags.contains(&0)), (all().len(), false));
        assert_eq!(Outcome::decode(&[0]), Err(OutcomeError::Unknown(0)));
        assert_eq!(Outcome::decode(&[99]), Err(OutcomeError::Unknown(99)));
        assert_eq!(Outcome::decode(&[]), Err(OutcomeError::Empty));
    }
}
