//! An entry before it has a place in the log. The frame is made where the payload comes from, without the state's lock;
//! the leader, which holds that lock, only fills in the place.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::entry::{Entry, EntryKind, FRAME_HEADER_BYTES, MAX_PAYLOAD_BYTES, Payload};
use super::protocol::Protocol;
use super::types::{ClusterTime, Membership, Position};

/// The frame of an entry whose index, term and cluster time are still zero. Cheap to clone: the frame is shared.
#[derive(Clone, PartialEq, Eq)]
pub struct Draft {
    kind: EntryKind,
    frame: Arc<[u8]>,
    membership: Option<Arc<Membership>>,
    version: Option<Protocol>,
}

impl Draft {
    /// A draft of an entry with an encoded command.
    pub fn command(command: &[u8]) -> Draft {
        Draft::with_bytes(EntryKind::Command, command)
    }

    fn with_bytes(kind: EntryKind, payload: &[u8]) -> Draft {
        let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
        frame.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        frame.extend_from_slice(payload);
        Draft { kind, frame: frame.into(), membership: None, version: None }
    }

    /// The payload: what the state machine or the core reads.
    pub fn payload(&self) -> &[u8] {
        &self.frame[FRAME_HEADER_BYTES..]
    }

    /// Makes the entry. Without a second holder of the frame nothing is copied. Panics when the payload exceeds
    /// [`MAX_PAYLOAD_BYTES`]: the limits of the API are far below it.
    pub fn place(mut self, position: Position, cluster_time: ClusterTime) -> Entry {
        let len = self.payload().len();
        assert!(len <= MAX_PAYLOAD_BYTES, "a payload of {len} bytes exceeds every limit");
        let frame = Arc::make_mut(&mut self.frame);
        frame[..4].copy_from_slice(&(len as u32).to_le_bytes());
        frame[8] = self.kind as u8;
        frame[9..17].copy_from_slice(&position.index.to_le_bytes());
        frame[17..25].copy_from_slice(&position.term.to_le_bytes());
        frame[25..FRAME_HEADER_BYTES].copy_from_slice(&cluster_time.to_le_bytes());
        let crc = Entry::checksum(frame);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        Entry::from_parts(position, cluster_time, self.kind, self.frame, self.membership, self.version)
    }
}

impl Entry {
    /// Makes the entry and its frame. Panics when the payload exceeds [`MAX_PAYLOAD_BYTES`]: the limits of the API
    /// are far below it.
    pub fn new(position: Position, cluster_time: ClusterTime, payload: &Payload) -> Entry {
        Draft::from(payload).place(position, cluster_time)
    }
}

impl From<&Payload> for Draft {
    fn from(payload: &Payload) -> Draft {
        match payload {
            Payload::Genesis(genesis) => Draft {
                membership: Some(Arc::new(genesis.members.clone())),
                version: Some(genesis.protocol),
                ..Draft::with_bytes(EntryKind::Genesis, &json(genesis))
            },
            Payload::Noop => Draft::with_bytes(EntryKind::Noop, &[]),
            Payload::Command(bytes) => Draft::command(bytes),
            Payload::Membership(membership) => Draft {
                membership: Some(Arc::new(membership.clone())),
                ..Draft::with_bytes(EntryKind::Membership, &json(membership))
            },
            Payload::Version(version) => Draft {
                version: Some(*version),
                ..Draft::with_bytes(EntryKind::Version, &version.to_le_bytes())
            },
        }
    }
}

fn json(data: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(data).expect("plain data serialises")
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({} bytes)", self.kind, self.payload().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn place_gives_a_frame_that_decodes_to_the_draft(
            index: u64,
            term: u64,
            cluster_time: u64,
            len in prop_oneof![0..200_usize, 60_000..70_000_usize],
            byte: u8,
        ) {
            let payload: Vec<u8> = (0..len).map(|at| byte.wrapping_mul(31).wrapping_add(at as u8)).collect();
            let draft = Draft::command(&payload);
            let entry = draft.place(Position::new(index, term), cluster_time);
            let (back, used) = Entry::decode(entry.frame()).expect("a whole frame");
            prop_assert_eq!(used, FRAME_HEADER_BYTES + len);
            prop_assert_eq!(back.payload(), &payload[..]);
            prop_assert_eq!((back.position(), back.cluster_time()), (Position::new(index, term), cluster_time));
            prop_assert_eq!(back, entry);
        }
    }

    #[test]
    fn place_leaves_a_clone_of_the_draft_unchanged() {
        let draft = Draft::command(b"twice");
        let first = draft.clone().place(Position::new(5, 1), 1);
        let second = draft.place(Position::new(9, 2), 2);
        assert_eq!((first.index(), second.index()), (5, 9));
        assert!(Entry::decode(first.frame()).is_ok() && Entry::decode(second.frame()).is_ok());
    }
}
