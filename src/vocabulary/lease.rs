//! Leases: what they are called, and what a put says about the lease of its key.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Shortest time to live, in seconds.
pub const MIN_TTL_S: u64 = 1;

/// Longest time to live, in seconds: that of etcd.
pub const MAX_TTL_S: u64 = 9_000_000_000;

/// Most leases that one renewal or one expiry names. A command with more has no byte form.
pub const MAX_LEASES_PER_COMMAND: usize = 10_000;

/// The name of a lease: a number from 1 to 2^63 - 1, as etcd's clients can hold it. Its text is 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(NonZeroU64);

/// Why a text or a number is no name of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lease is 1 to 16 hexadecimal digits: a number from 1 to 7fffffffffffffff")]
pub struct NoLeaseId;

impl LeaseId {
    /// The first one.
    pub const MIN: LeaseId = LeaseId(NonZeroU64::MIN);

    /// The lease with this number.
    pub fn new(number: u64) -> Option<LeaseId> {
        NonZeroU64::new(number).filter(|number| number.get() <= i64::MAX as u64).map(LeaseId)
    }

    /// Its number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for LeaseId {
    type Err = NoLeaseId;

    /// Takes 1 to 16 hexadecimal digits, with or without leading zeros.
    fn from_str(text: &str) -> Result<LeaseId, NoLeaseId> {
        let is_hex = (1..=16).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = if is_hex { u64::from_str_radix(text, 16).ok() } else { None };
        number.and_then(LeaseId::new).ok_or(NoLeaseId)
    }
}

impl Serialize for LeaseId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LeaseId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LeaseId, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// What a put says about the lease of its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PutLease {
    /// The key has none from now on.
    #[default]
    None,
    /// It is attached to this lease, which must exist.
    Attach(LeaseId),
    /// It gets a lease that begins with this write and ends with the last key that leaves it.
    Own {
        /// How the lease is called. The one that proposes the write chooses it, so it is no part of what was asked for.
        lease: LeaseId,
        /// Its time to live, in seconds.
        ttl_s: u64,
    },
    /// It keeps the one that it has; it must exist.
    Keep,
}

/// Whether a lease may have this time to live.
pub fn is_ttl(ttl_s: u64) -> bool {
    (MIN_TTL_S..=MAX_TTL_S).contains(&ttl_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_read_from_its_text_and_from_shorter_ones() {
        let lease = LeaseId::new(0x2a).unwrap();
        assert_eq!(lease.to_string(), "000000000000002a");
        for text in ["000000000000002a", "2a", "2A", "02a"] {
            assert_eq!(text.parse(), Ok(lease), "{text}");
        }
        let greatest = LeaseId::new(i64::MAX as u64).unwrap();
        assert_eq!(greatest.to_string().parse(), Ok(greatest));
        for text in [
            "",
            "0",
            "0000000000000000",
            "8000000000000000",
            "00000000000000001",
            "+1",
            "-1",
            "g",
            "0x1",
            " 1",
        ] {
            assert_eq!(text.parse::<LeaseId>(), Err(NoLeaseId), "{text}");
        }
        assert_eq!((LeaseId::new(0), LeaseId::new(1 << 63)), (None, None));
        assert_eq!(serde_json::from_str::<LeaseId>(&serde_json::to_string(&lease).unwrap()).unwrap(), lease);
    }
}
