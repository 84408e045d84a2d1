//! A hash that is the same everywhere.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

/// What a fingerprint is computed from; so equal bytes with different meanings get different fingerprints.
#[derive(Clone, Copy)]
pub(in crate::store) enum Domain {
    Request = 1,
    Version = 2,
    IdempotencyRow = 3,
    Header = 4,
    Members = 5,
    Lease = 6,
}

/// A 128-bit hash that is the same in every build and on every machine, and never changes: members compare it.
/// SipHash-1-3 keyed with the domain and zero. Only byte strings go in, never a Rust `Hash`, whose bytes may change.
/// The keys are public, so it detects accidents, not forgeries.
pub(in crate::store) struct Fingerprint(SipHasher13);

impl Fingerprint {
    pub(in crate::store) fn new(domain: Domain) -> Fingerprint {
        Fingerprint(SipHasher13::new_with_keys(domain as u64, 0))
    }

    pub(in crate::store) fn bytes(&mut self, bytes: &[u8]) -> &mut Fingerprint {
        self.0.write(bytes);
        self
    }

    pub(in crate::store) fn number(&mut self, number: u64) -> &mut Fingerprint {
        self.bytes(&number.to_le_bytes())
    }

    pub(in crate::store) fn sized(&mut self, bytes: &[u8]) -> &mut Fingerprint {
        self.number(bytes.len() as u64).bytes(bytes)
    }

    pub(in crate::store) fn finish(&self) -> u128 {
        // The library's own conversion depends on the machine's byte order.
        let hash = self.0.finish128();
        u128::from(hash.h1) | u128::from(hash.h2) << 64
    }
}
