//! The headers of requests and answers, and what an idempotency key may be.

/// Response header: the leader's client address, when one is known. On every answer.
pub const LEADER_HEADER: &str = "Dkv-Leader";
/// Response header: the name of the node that answered. On every answer.
pub const NODE_HEADER: &str = "Dkv-Node";
/// Response header: the cluster that the answering node belongs to, 16 hexadecimal digits. On every answer; absent while
/// the node belongs to none. In a request of version 1: the cluster that it is meant for; a node of another one refuses it.
pub const CLUSTER_HEADER: &str = "Dkv-Cluster";
/// Response header: the log index of a write, or the applied index a read was served at.
pub const INDEX_HEADER: &str = "Dkv-Index";
/// Response header, `true`: this is the stored outcome of an earlier request with the same idempotency key.
pub const REPLAYED_HEADER: &str = "Dkv-Replayed";
/// Response header of a read: the revision that the answer shows: the one asked for, else the store's.
pub const REVISION_HEADER: &str = "Dkv-Revision";
/// Response header of a single-key read: the revision that created the key.
pub const CREATE_REVISION_HEADER: &str = "Dkv-Create-Revision";
/// Response header of a single-key read: how often the key was written since it was created.
pub const VERSION_HEADER: &str = "Dkv-Version";
/// Response header of a single-key read: the lease that the key is attached to, 16 hexadecimal digits; absent without
/// one.
pub const LEASE_HEADER: &str = "Dkv-Lease";
/// Response header of a piece of a snapshot: the length of the whole file.
pub const SNAPSHOT_BYTES_HEADER: &str = "Dkv-Snapshot-Bytes";
/// Response header of a piece of a snapshot: the checksum at the end of the file, 8 hexadecimal digits.
pub const SNAPSHOT_CRC_HEADER: &str = "Dkv-Snapshot-Crc32c";
/// Request header of a write: the name under which its outcome is remembered.
pub const IDEMPOTENCY_KEY_HEADER: &str = "Idempotency-Key";

/// Longest idempotency key, in characters.
pub const MAX_IDEMPOTENCY_KEY: usize = 64;

/// Whether `text` may be an idempotency key: 1 to 64 of `A-Z a-z 0-9 . _ ~ -`.
pub fn is_idempotency_key(text: &str) -> bool {
    (1..=MAX_IDEMPOTENCY_KEY).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-'))
}

/// Whether `text` is a cluster id as it is printed everywhere: 16 lower-case hexadecimal digits.
pub fn is_cluster_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idempotency_key_alphabet_and_length() {
        assert!(is_idempotency_key("aZ09._~-"));
        assert!(is_idempotency_key(&"x".repeat(64)));
        for bad in ["", &"x".repeat(65), "a b", "a/b", "ä", "a\n"] {
            assert!(!is_idempotency_key(bad), "{bad:?}");
        }
    }

    #[test]
    fn cluster_id_is_what_a_node_prints() {
        assert!(is_cluster_id(&crate::raft::ClusterId(0xabc).to_string()));
        for bad in ["", "abc", "0123456789ABCDEF", "0123456789abcdeg", "0123456789abcdef0"] {
            assert!(!is_cluster_id(bad), "{bad:?}");
        }
    }
}
