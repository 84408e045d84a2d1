//! The cursor of a listing: where its next page begins and at which revision. Opaque to clients, readable by any node,
//! and good only for the listing it came from.
//!
//! Base64url without padding of: the version (1 byte), the revision (8 bytes, little endian), the next key, and a
//! CRC-32C (4 bytes, little endian) of all that followed by the scope: what the listing asked for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::api::{ErrorBody, ErrorCode};
use crate::store::FIRST_REVISION;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 9;
const CHECKSUM_BYTES: usize = 4;

/// Where a listing goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The revision of all its pages.
    pub revision: u64,
    /// The first key of the next page.
    pub next: Vec<u8>,
}

impl Cursor {
    /// The text a client gets. `scope` tells one listing from another.
    pub(super) fn encode(&self, scope: &[u8]) -> String {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.next.len() + CHECKSUM_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.revision.to_le_bytes());
        bytes.extend_from_slice(&self.next);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes), scope);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads what [`Cursor::encode`] wrote for the same scope.
    ///
    /// # Errors
    /// `invalid_request` for anything else.
    pub(super) fn decode(text: &str, scope: &[u8]) -> Result<Cursor, ErrorBody> {
        Cursor::read(text, scope).ok_or_else(|| {
            let text = "this is no cursor of this listing: give it as the page before gave it, with the same prefix, \
                        start, end, order, separator and filters";
            ErrorBody::new(ErrorCode::InvalidRequest, text)
        })
    }

    fn read(text: &str, scope: &[u8]) -> Option<Cursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (payload, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        if crc32c::crc32c_append(crc32c::crc32c(payload), scope) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let (version, rest) = payload.split_first()?;
        let (revision, next) = rest.split_first_chunk()?;
        let revision = u64::from_le_bytes(*revision);
        (*version == VERSION && revision >= FIRST_REVISION).then(|| Cursor { revision, next: next.to_vec() })
    }

    /// The greatest length of a cursor whose key has `key_bytes`.
    pub(super) fn max_len(key_bytes: usize) -> usize {
        (HEADER_BYTES + key_bytes + CHECKSUM_BYTES).div_ceil(3) * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decode_undoes_encode_for_the_same_scope_only(
            revision: u64,
            next in proptest::collection::vec(any::<u8>(), 0..40),
            scope in proptest::collection::vec(any::<u8>(), 0..20),
            other in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let cursor = Cursor { revision, next };
            let text = cursor.encode(&scope);
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{}", text);
            prop_assert!(text.len() <= Cursor::max_len(cursor.next.len()));
            prop_assert_eq!(Cursor::decode(&text, &scope).unwrap(), cursor);
            prop_assert_eq!(Cursor::decode(&text, &other).is_ok(), scope == other);
        }

        #[test]
        fn decode_refuses_any_changed_character(at in 0usize..23, to in "[A-Za-z0-9_-]") {
            let text = Cursor { revision: 7, next: b"key".to_vec() }.encode(b"scope");
            let mut changed = text.clone();
            changed.replace_range(at % text.len()..at % text.len() + 1, &to);
            prop_assert_eq!(Cursor::decode(&changed, b"scope").is_ok(), changed == text);
        }

        #[test]
        fn decode_never_panics(text in "\\PC*") {
            let _ = Cursor::decode(&text, b"");
        }
    }

    #[test]
    fn decode_refuses_another_version() {
        let mut bytes =
            URL_SAFE_NO_PAD.decode(Cursor { revision: 1, next: b"k".to_vec() }.encode(b"")).unwrap();
        bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        bytes[0] = 2;
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        assert!(Cursor::decode(&URL_SAFE_NO_PAD.encode(bytes), b"").is_err());
    }
}
