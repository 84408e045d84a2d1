//! The versions of one key. A version is one piece of memory:
//!
//! ```text
//! tag       length of the key, times four; plus 2 when the fingerprint stands here, plus 1 when there is a value
//! key
//! revision  mod_revision
//! age       mod_revision - create_revision
//! version   times two; plus 1 when a lease follows
//! lease     if there is one
//! hash      16 bytes, little-endian, if the tag says so
//! value     to the end
//! ```
//!
//! Numbers have seven bits to a byte, low bits first, and a set high bit when more follow. So 16 bytes of key and 64 of
//! value take 86 bytes. Only this process reads them.

use std::collections::VecDeque;

use crate::store::command::{Domain, Fingerprint};
use crate::store::record::Record;
use crate::vocabulary::LeaseId;

/// From this size of key and value on, a version stores its fingerprint: hashing a large value again when the version is
/// dropped costs more than sixteen bytes of memory, and hashing a small one costs less.
const STORED_FINGERPRINT_BYTES: usize = 512;

const HAS_VALUE: u64 = 1;
const HAS_FINGERPRINT: u64 = 2;

/// One version of a key. Deleting makes a version without a value.
#[derive(Debug)]
pub(super) struct Version(Box<[u8]>);

/// The numbers of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Numbers {
    pub mod_revision: u64,
    pub create_revision: u64,
    pub version: u64,
    /// The lease that the key is attached to.
    pub lease: Option<LeaseId>,
}

impl Version {
    pub(super) fn new(key: &[u8], numbers: Numbers, value: Option<&[u8]>) -> Version {
        let Numbers { mod_revision, create_revision, version, lease } = numbers;
        let value_bytes = value.unwrap_or_default();
        let is_large = key.len() + value_bytes.len() >= STORED_FINGERPRINT_BYTES;
        let flags = HAS_VALUE * u64::from(value.is_some()) + HAS_FINGERPRINT * u64::from(is_large);
        let tag = key.len() as u64 * 4 + flags;
        // A snapshot is checked as a whole: until then its numbers may be anything.
        let age = mod_revision.wrapping_sub(create_revision);
        // No key is put 2^63 times; a snapshot that says so is refused before.
        let version_and_lease = version.wrapping_mul(2) + u64::from(lease.is_some());
        let numbers_len = [tag, mod_revision, age, version_and_lease].map(number_len).iter().sum::<usize>()
            + lease.map_or(0, |lease| number_len(lease.get()));
        let fingerprint_len = if is_large { 16 } else { 0 };
        // The exact size: then the memory is not moved to become a boxed slice.
        let mut bytes = Vec::with_capacity(numbers_len + key.len() + fingerprint_len + value_bytes.len());
        put_number(&mut bytes, tag);
        bytes.extend_from_slice(key);
        put_number(&mut bytes, mod_revision);
        put_number(&mut bytes, age);
        put_number(&mut bytes, version_and_lease);
        if let Some(lease) = lease {
            put_number(&mut bytes, lease.get());
        }
        if is_large {
            bytes.extend_from_slice(&hash(key, numbers, value).to_le_bytes());
        }
        bytes.extend_from_slice(value_bytes);
        Version(bytes.into_boxed_slice())
    }

    /// The flags, the key and what follows it.
    fn split(&self) -> (u64, &[u8], &[u8]) {
        let (tag, rest) = take_number(&self.0);
        let (key, rest) = rest.split_at((tag / 4) as usize);
        (tag % 4, key, rest)
    }

    /// The numbers and what follows them: the fingerprint if it is stored, and the value.
    fn numbers_of(rest: &[u8]) -> (Numbers, &[u8]) {
        let (mod_revision, rest) = take_number(rest);
        let (age, rest) = take_number(rest);
        let (version_and_lease, mut rest) = take_number(rest);
        let mut lease = None;
        if version_and_lease % 2 == 1 {
            let (number, after) = take_number(rest);
            (lease, rest) = (LeaseId::new(number), after);
        }
        let (create_revision, version) = (mod_revision.wrapping_sub(age), version_and_lease / 2);
        (Numbers { mod_revision, create_revision, version, lease }, rest)
    }

    pub(super) fn key(&self) -> &[u8] {
        self.split().1
    }

    pub(super) fn mod_revision(&self) -> u64 {
        take_number(self.split().2).0
    }

    pub(super) fn numbers(&self) -> Numbers {
        Version::numbers_of(self.split().2).0
    }

    pub(super) fn has_value(&self) -> bool {
        take_number(&self.0).0 & HAS_VALUE != 0
    }

    /// The lease that the key is attached to.
    pub(super) fn lease(&self) -> Option<LeaseId> {
        self.numbers().lease
    }

    /// The value; `None` = deleted.
    pub(super) fn value(&self) -> Option<&[u8]> {
        self.record().map(|record| record.value)
    }

    /// The bytes of key and value; `None` = deleted.
    pub(super) fn payload_bytes(&self) -> Option<u64> {
        self.record().map(|record| (record.key.len() + record.value.len()) as u64)
    }

    /// The key with its value; `None` = deleted.
    pub(super) fn record(&self) -> Option<Record<'_>> {
        let (flags, key, rest) = self.split();
        let (Numbers { mod_revision, create_revision, version, lease }, rest) = Version::numbers_of(rest);
        let value = if flags & HAS_FINGERPRINT != 0 { &rest[16..] } else { rest };
        (flags & HAS_VALUE != 0).then_some(Record {
            key,
            value,
            create_revision,
            mod_revision,
            version,
            lease,
        })
    }

    /// The part of the state hash that this version is.
    pub(super) fn fingerprint(&self) -> u128 {
        let (flags, key, rest) = self.split();
        let (numbers, rest) = Version::numbers_of(rest);
        if flags & HAS_FINGERPRINT != 0 {
            return u128::from_le_bytes(rest[..16].try_into().expect("sixteen bytes"));
        }
        hash(key, numbers, (flags & HAS_VALUE != 0).then_some(rest))
    }
}

/// The fingerprint of a version, computed.
pub(super) fn hash(key: &[u8], numbers: Numbers, value: Option<&[u8]>) -> u128 {
    let Numbers { mod_revision, create_revision, version, lease } = numbers;
    let mut hash = Fingerprint::new(Domain::Version);
    // The numbers are hashed as one block: hashing them one by one costs as much as all the rest.
    let mut block = [0; 32];
    for (number, into) in
        [mod_revision, create_revision, version, key.len() as u64].iter().zip(block.chunks_mut(8))
    {
        into.copy_from_slice(&number.to_le_bytes());
    }
    hash.bytes(&block).bytes(key);
    match (value, lease) {
        (None, _) => hash.bytes(&[0]),
        (Some(value), None) => hash.bytes(&[1]).sized(value),
        (Some(value), Some(lease)) => hash.bytes(&[2]).number(lease.get()).sized(value),
    };
    hash.finish()
}

fn number_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

pub(super) fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// The number at the start of `bytes`, and the bytes after it.
pub(super) fn take_number(bytes: &[u8]) -> (u64, &[u8]) {
    let (mut number, mut shift) = (0, 0);
    for (at, byte) in bytes.iter().enumerate() {
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return (number, &bytes[at + 1..]);
        }
        shift += 7;
    }
    unreachable!("numbers are made by put_number")
}

/// The versions of one key.
#[derive(Debug)]
pub(super) struct Versions {
    pub latest: Version,
    /// Superseded versions that the floor has not passed, oldest first. Most keys have none: `None` takes eight bytes.
    #[expect(
        clippy::box_collection,
        reason = "most keys have no history: it costs them 8 bytes instead of 32"
    )]
    older: Option<Box<VecDeque<Version>>>,
}

impl Versions {
    pub(super) fn new(first: Version) -> Versions {
        Versions { latest: first, older: None }
    }

    /// The key that they are versions of.
    pub(super) fn key(&self) -> &[u8] {
        self.latest.key()
    }

    /// The superseded versions, oldest first.
    #[cfg(test)]
    pub(super) fn older(&self) -> impl DoubleEndedIterator<Item = &Version> + ExactSizeIterator {
        let older = self.older.as_deref();
        older.map_or_else(Default::default, VecDeque::iter)
    }

    /// The versions after a revision, oldest first.
    pub(super) fn after(&self, revision: u64) -> impl Iterator<Item = &Version> {
        let older = self.older.as_deref();
        let older = older.map_or_else(Default::default, |older| {
            older.range(older.partition_point(|v| v.mod_revision() <= revision)..)
        });
        older.chain(Some(&self.latest).filter(|v| v.mod_revision() > revision))
    }

    /// Those after a revision, oldest first, each with the one before it.
    pub(super) fn changes_after(&self, revision: u64) -> impl Iterator<Item = (&Version, Option<&Version>)> {
        let before = [self.at(revision)].into_iter().chain(self.after(revision).map(Some));
        self.after(revision).zip(before)
    }

    /// The versions before a revision, newest first.
    pub(super) fn before(&self, revision: u64) -> impl Iterator<Item = &Version> {
        let older = self.older.as_deref();
        let older = older.map_or_else(Default::default, |older| {
            older.range(..older.partition_point(|v| v.mod_revision() < revision))
        });
        Some(&self.latest).filter(|v| v.mod_revision() < revision).into_iter().chain(older.rev())
    }

    /// The version that was the latest at `revision`.
    pub(super) fn at(&self, revision: u64) -> Option<&Version> {
        if self.latest.mod_revision() <= revision {
            return Some(&self.latest);
        }
        let older = self.older.as_deref()?;
        let newer = older.partition_point(|v| v.mod_revision() <= revision);
        older.get(newer.checked_sub(1)?)
    }

    /// Makes `new` the latest version. Returns the version that it supersedes.
    pub(super) fn supersede(&mut self, new: Version) -> &Version {
        let old = std::mem::replace(&mut self.latest, new);
        let older = self.older.get_or_insert_default();
        older.push_back(old);
        older.back().expect("pushed just now")
    }

    /// Removes the versions that no read at `floor` or above can see, oldest first, and passes them to `dropped`. A
    /// deletion without an earlier version is not needed.
    pub(super) fn trim(&mut self, floor: u64, mut dropped: impl FnMut(Version)) {
        let Some(older) = &mut self.older else { return };
        while let Some(oldest) = older.front() {
            let next = older.get(1).unwrap_or(&self.latest);
            if next.mod_revision() > floor && (oldest.has_value() || oldest.mod_revision() > floor) {
                break;
            }
            dropped(older.pop_front().expect("looked at just now"));
        }
        if older.is_empty() {
            self.older = None;
        }
    }

    /// Whether the key is deleted and no read at `floor` or above can see that it existed.
    pub(super) fn is_forgotten(&self, floor: u64) -> bool {
        self.older.is_none() && !self.latest.has_value() && self.latest.mod_revision() <= floor
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_version_of_a_small_record_adds_six_bytes_to_it() {
        let numbers =
            Numbers { mod_revision: 2_000_000, create_revision: 2_000_000, version: 1, lease: None };
        assert_eq!(Version::new(&[b'k'; 16], numbers, Some(&[b'v'; 64])).0.len(), 86);
        assert_eq!(size_of::<Versions>(), 24);
    }

    /// Lengths around the one from which the fingerprint is stored.
    fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
        let bytes = prop_oneof![0..4usize, STORED_FINGERPRINT_BYTES - 40..STORED_FINGERPRINT_BYTES + 4];
        prop::option::of(bytes.prop_flat_map(|len| prop::collection::vec(any::<u8>(), len)))
    }

    proptest! {
        #[test]
        fn a_version_gives_back_what_it_was_made_of(
            key in prop::collection::vec(any::<u8>(), 1..40),
            mod_revision in prop_oneof![0..300u64, any::<u64>()],
            create_revision in prop_oneof![0..300u64, any::<u64>()],
            version in prop_oneof![0..300u64, 0..u64::MAX / 2],
            lease in prop_oneof![0..3u64, any::<u64>()],
            value in value(),
        ) {
            let lease = LeaseId::new(lease);
            let numbers = Numbers { mod_revision, create_revision, version, lease };
            let made = Version::new(&key, numbers, value.as_deref());
            prop_assert_eq!((made.key(), made.value()), (&key[..], value.as_deref()));
            prop_assert_eq!((made.numbers(), made.mod_revision()), (numbers, mod_revision));
            prop_assert_eq!(made.lease(), lease);
            prop_assert_eq!(made.has_value(), value.is_some());
            prop_assert_eq!(made.payload_bytes(), value.as_ref().map(|value| (key.len() + value.len()) as u64));
            prop_assert_eq!(made.fingerprint(), hash(&key, numbers, value.as_deref()));
            prop_assert_eq!(made.0.len(), Vec::from(made.0.clone()).capacity());
        }
    }
}
