//! What became of a write.

use serde::{Deserialize, Serialize};

/// What the state machine decided about a command. The same on every member, now and when it is replayed.
///
/// Its JSON travels between members; its bytes are remembered under the idempotency key of the write and lie in
/// snapshots: a tag, then the numbers of its fields in their order, each in eight bytes.
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
}

const PUT: u8 = 1;
const DELETED: u8 = 2;
const PRECONDITION_FAILED: u8 = 3;
const IDEMPOTENCY_MISMATCH: u8 = 4;
const OVERLOADED: u8 = 5;
const RANGE_TOO_LARGE: u8 = 6;

/// Why bytes are not an outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutcomeError {
    /// A tag that names nothing.
    #[error("unknown outcome {0}")]
    Unknown(u8),
    /// Fewer or more bytes than its fields take.
    #[error("an outcome with tag {tag} has {bytes} bytes")]
    Length {
        /// The tag.
        tag: u8,
        /// How many bytes there are.
        bytes: usize,
    },
    /// No byte at all.
    #[error("an outcome without a byte")]
    Empty,
}

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
        }
    }

    /// Its byte form: each outcome has exactly one.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.tag()];
        let mut put =
            |numbers: &[u64]| numbers.iter().for_each(|n| bytes.extend_from_slice(&n.to_le_bytes()));
        match *self {
            Outcome::Put { revision, create_revision, version } => {
                put(&[revision, create_revision, version]);
            }
            Outcome::Deleted { revision, deleted } => put(&[revision, deleted]),
            Outcome::PreconditionFailed { revision, mod_revision } => put(&[revision, mod_revision]),
            Outcome::IdempotencyMismatch | Outcome::Overloaded => {}
            Outcome::RangeTooLarge { max_keys, max_bytes } => put(&[max_keys, max_bytes]),
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
                let [revision, mod_revision] = numbers(tag, fields)?;
                Outcome::PreconditionFailed { revision, mod_revision }
            }
            IDEMPOTENCY_MISMATCH => numbers::<0>(tag, fields).map(|_| Outcome::IdempotencyMismatch)?,
            OVERLOADED => numbers::<0>(tag, fields).map(|_| Outcome::Overloaded)?,
            RANGE_TOO_LARGE => {
                let [max_keys, max_bytes] = numbers(tag, fields)?;
                Outcome::RangeTooLarge { max_keys, max_bytes }
            }
            unknown => return Err(OutcomeError::Unknown(unknown)),
        })
    }
}

/// The fields, which must be exactly as many.
fn numbers<const N: usize>(tag: u8, fields: &[u8]) -> Result<[u64; N], OutcomeError> {
    let wrong = OutcomeError::Length { tag, bytes: 1 + fields.len() };
    let (words, rest) = fields.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(wrong);
    }
    let numbers: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    numbers.try_into().map_err(|_| wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each. The match makes the build fail when one is forgotten.
    pub(crate) fn all() -> Vec<Outcome> {
        let next = |outcome: &Outcome| match outcome {
            Outcome::Put { .. } => Some(Outcome::Deleted { revision: 4, deleted: 5 }),
            Outcome::Deleted { .. } => Some(Outcome::PreconditionFailed { revision: 6, mod_revision: 7 }),
            Outcome::PreconditionFailed { .. } => Some(Outcome::IdempotencyMismatch),
            Outcome::IdempotencyMismatch => Some(Outcome::Overloaded),
            Outcome::Overloaded => Some(Outcome::RangeTooLarge { max_keys: 8, max_bytes: 9 }),
            Outcome::RangeTooLarge { .. } => None,
        };
        let first = Outcome::Put { revision: 1, create_revision: 2, version: 3 };
        std::iter::successors(Some(first), next).collect()
    }

    #[test]
    fn decode_is_the_inverse_of_encode() {
        for outcome in all() {
            let bytes = outcome.encode();
            assert_eq!(Outcome::decode(&bytes), Ok(outcome.clone()));
            let longer = [&bytes[..], &[0]].concat();
            assert!(Outcome::decode(&longer).is_err(), "{outcome:?} with a byte more");
            assert!(Outcome::decode(&bytes[..bytes.len() - 1]).is_err(), "{outcome:?} cut short");
        }
        let put = Outcome::Put { revision: 1, create_revision: 2, version: 3 };
        assert_eq!(put.encode()[..10], [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    }

    #[test]
    fn no_two_outcomes_have_one_tag() {
        let mut tags: Vec<u8> = all().iter().map(Outcome::tag).collect();
        tags.dedup();
        assert_eq!(tags, (1..=tags.len() as u8).collect::<Vec<_>>());
        assert_eq!(Outcome::decode(&[0]), Err(OutcomeError::Unknown(0)));
        assert_eq!(Outcome::decode(&[99]), Err(OutcomeError::Unknown(99)));
        assert_eq!(Outcome::decode(&[]), Err(OutcomeError::Empty));
    }
}
