//! Log entries and their frame: the leader encodes an entry once, and these bytes go unchanged over the wire and into
//! every member's log.
//!
//! ```text
//! offset  size  field    (integers little-endian)
//!      0     4  len      bytes of the payload
//!      4     4  crc      CRC-32C of len and of everything after this field
//!      8     1  kind     1 genesis, 2 no-op, 3 command, 4 membership, 5 version
//!      9     8  index
//!     17     8  term
//!     25     8  time     cluster time in microseconds
//!     33   len  payload
//! ```

use std::fmt;
use std::sync::Arc;

use crate::bytes::{u32_at, u64_at};

use super::protocol::{PROTOCOL, Protocol};
use super::types::{ClusterTime, Genesis, Index, Membership, Position, Term};

/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 33;

/// Maximum size of a payload: a length is checked against this before memory is allocated for it.
pub const MAX_PAYLOAD_BYTES: usize = 4 << 20;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// The bootstrap of the cluster: only entry `1@1`.
    Genesis = 1,
    /// A leader's first entry of its term (thesis §6.4).
    Noop = 2,
    /// A command for the state machine; opaque to the core.
    Command = 3,
    /// A new membership.
    Membership = 4,
    /// A higher version is in force from here on.
    Version = 5,
}

impl EntryKind {
    fn from_byte(byte: u8) -> Option<EntryKind> {
        Some(match byte {
            1 => EntryKind::Genesis,
            2 => EntryKind::Noop,
            3 => EntryKind::Command,
            4 => EntryKind::Membership,
            5 => EntryKind::Version,
            _ => return None,
        })
    }
}

/// The contents of an entry, before it has a position in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The bootstrap of the cluster.
    Genesis(Genesis),
    /// Nothing.
    Noop,
    /// An encoded command, at most [`MAX_PAYLOAD_BYTES`].
    Command(Vec<u8>),
    /// A new membership.
    Membership(Membership),
    /// The version in force from here on.
    Version(Protocol),
}

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than a frame needs.
    #[error("the frame is cut short: {have} of {need} bytes")]
    Short {
        /// Bytes available.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// A length above [`MAX_PAYLOAD_BYTES`].
    #[error("the frame claims {0} bytes of payload, more than any frame has")]
    TooLong(u32),
    /// The checksum does not match.
    #[error("the frame's checksum does not match")]
    Checksum,
    /// A kind this version does not know.
    #[error(
        "there is an entry of kind {0}, which this program (protocol {PROTOCOL}) does not know: run the dkv-server that wrote it"
    )]
    Kind(u8),
    /// A genesis, membership or version payload that is invalid.
    #[error("the frame's payload does not parse: {0}")]
    Payload(String),
}

/// One entry of the log. Cheap to clone: the frame is shared.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    kind: EntryKind,
    index: Index,
    term: Term,
    cluster_time: ClusterTime,
    frame: Arc<[u8]>,
    membership: Option<Arc<Membership>>,
    version: Option<Protocol>,
}

impl Entry {
    /// An entry whose frame has been made.
    pub(super) fn from_parts(
        position: Position,
        cluster_time: ClusterTime,
        kind: EntryKind,
        frame: Arc<[u8]>,
        membership: Option<Arc<Membership>>,
        version: Option<Protocol>,
    ) -> Entry {
        let Position { index, term } = position;
        Entry { kind, index, term, cluster_time, frame, membership, version }
    }

    /// The checksum of a frame: of its length and of everything after the checksum's own field.
    pub(super) fn checksum(frame: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..])
    }

    /// Reads the frame at the start of `bytes`; returns the entry and the frame's length. Checks the length before
    /// it allocates anything.
    pub fn decode(bytes: &[u8]) -> Result<(Entry, usize), FrameError> {
        if bytes.len() < FRAME_HEADER_BYTES {
            return Err(FrameError::Short { have: bytes.len(), need: FRAME_HEADER_BYTES });
        }
        let len = u32_at(bytes, 0);
        if len as usize > MAX_PAYLOAD_BYTES {
            return Err(FrameError::TooLong(len));
        }
        let need = FRAME_HEADER_BYTES + len as usize;
        if bytes.len() < need {
            return Err(FrameError::Short { have: bytes.len(), need });
        }
        let frame = &bytes[..need];
        if Entry::checksum(frame) != u32_at(frame, 4) {
            return Err(FrameError::Checksum);
        }
        let kind = EntryKind::from_byte(frame[8]).ok_or(FrameError::Kind(frame[8]))?;
        let payload = &frame[FRAME_HEADER_BYTES..];
        let broken = |e: serde_json::Error| FrameError::Payload(e.to_string());
        let (membership, version) = match kind {
            EntryKind::Genesis => {
                let genesis: Genesis = serde_json::from_slice(payload).map_err(broken)?;
                (Some(genesis.members), Some(genesis.protocol))
            }
            EntryKind::Membership => (Some(serde_json::from_slice(payload).map_err(broken)?), None),
            EntryKind::Version => {
                let number = payload.try_into().map(Protocol::from_le_bytes);
                let wrong = |_| FrameError::Payload(format!("{} bytes are no version", payload.len()));
                (None, Some(number.map_err(wrong)?))
            }
            EntryKind::Noop | EntryKind::Command => (None, None),
        };
        let entry = Entry {
            kind,
            index: u64_at(frame, 9),
            term: u64_at(frame, 17),
            cluster_time: u64_at(frame, 25),
            frame: frame.into(),
            membership: membership.map(Arc::new),
            version,
        };
        Ok((entry, need))
    }

    /// What the entry is.
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    /// Its index.
    pub fn index(&self) -> Index {
        self.index
    }

    /// Its term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Its index and term.
    pub fn position(&self) -> Position {
        Position::new(self.index, self.term)
    }

    /// Cluster time at which the leader made it, in microseconds.
    pub fn cluster_time(&self) -> ClusterTime {
        self.cluster_time
    }

    /// The whole frame.
    pub fn frame(&self) -> &Arc<[u8]> {
        &self.frame
    }

    /// The payload: an encoded command, the JSON of a genesis or membership entry, the number of a version entry.
    pub fn payload(&self) -> &[u8] {
        &self.frame[FRAME_HEADER_BYTES..]
    }

    /// The membership this entry puts in force, for genesis and membership entries.
    pub fn membership(&self) -> Option<&Arc<Membership>> {
        self.membership.as_ref()
    }

    /// The version this entry puts in force, for genesis and version entries.
    pub fn version(&self) -> Option<Protocol> {
        self.version
    }

    /// The genesis record, for the genesis entry. The payload was checked when the entry was made or decoded.
    pub fn genesis(&self) -> Option<Genesis> {
        (self.kind == EntryKind::Genesis)
            .then(|| serde_json::from_slice(self.payload()).expect("checked when the entry was decoded"))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} ({} bytes)", self.kind, self.position(), self.payload().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{ClusterId, Settings};
    use proptest::prelude::*;

    fn command(bytes: &[u8]) -> Entry {
        Entry::new(Position::new(7, 3), 99, &Payload::Command(bytes.to_vec()))
    }

    #[test]
    fn decode_found_gives_the_membership_back() {
        let genesis = Genesis {
            protocol: 1,
            cluster_id: ClusterId(5),
            settings: Settings::default(),
            members: Membership::default(),
            restored: None,
        };
        let entry = Entry::new(Position::new(1, 1), 0, &Payload::Genesis(genesis.clone()));
        let (back, used) = Entry::decode(entry.frame()).unwrap();
        assert_eq!((back.clone(), used), (entry.clone(), entry.frame().len()));
        assert_eq!(back.genesis(), Some(genesis));
        assert!(back.membership().is_some());
    }

    #[test]
    fn decode_refuses_a_huge_length_before_it_allocates() {
        let mut bytes = command(b"x").frame().to_vec();
        bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Entry::decode(&bytes), Err(FrameError::TooLong(u32::MAX)));
    }

    #[test]
    fn decode_refuses_an_unknown_kind_with_a_good_checksum() {
        let mut bytes = command(b"x").frame().to_vec();
        bytes[8] = 9;
        let crc = Entry::checksum(&bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Entry::decode(&bytes), Err(FrameError::Kind(9)));
    }

    proptest! {
        #[test]
        fn decode_is_the_inverse_of_new(index: u64, term: u64, cluster_time: u64, payload: Vec<u8>, tail: Vec<u8>) {
            let entry = Entry::new(Position::new(index, term), cluster_time, &Payload::Command(payload.clone()));
            let mut bytes = entry.frame().to_vec();
            bytes.extend_from_slice(&tail);
            let (back, used) = Entry::decode(&bytes).unwrap();
            prop_assert_eq!(used, bytes.len() - tail.len());
            prop_assert_eq!(back.payload(), &payload[..]);
            prop_assert_eq!(back, entry);
        }

        #[test]
        fn decode_refuses_every_flipped_bit(payload: Vec<u8>, at: usize, bit in 0u8..8) {
            let mut bytes = command(&payload).frame().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(Entry::decode(&bytes).is_err());
        }

        #[test]
        fn decode_refuses_every_shorter_frame(payload: Vec<u8>, cut: usize) {
            let bytes = command(&payload).frame().to_vec();
            let cut = cut % bytes.len();
            let is_short = matches!(Entry::decode(&bytes[..cut]), Err(FrameError::Short { .. }));
            prop_assert!(is_short);
        }
    }
}
