//! The plain data of consensus: terms, indexes, identities, the membership, time.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::protocol::Protocol;

/// A term, the logical clock of Raft (paper §5.1). 0 = before the first election.
pub type Term = u64;

/// A 1-based position in the log. 0 = before the first entry.
pub type Index = u64;

/// Cluster time in microseconds: the last cluster time in the log at a leader's election plus the monotonic time of
/// that leader since then. The wall clock is never used, so a wrong wall clock cannot affect when something expires.
pub type ClusterTime = u64;

/// This process's monotonic time in microseconds since an arbitrary start. Printable, unlike `Instant`, and always a
/// parameter of the core: the simulator passes its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// Later than every time that occurs: "no deadline".
    pub const NEVER: Time = Time(u64::MAX);

    /// A time `ms` milliseconds after the start.
    pub const fn from_millis(ms: u64) -> Time {
        Time(ms * 1_000)
    }

    /// The time since `earlier`; zero when `earlier` is later than this time.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, rhs: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    fn sub(self, rhs: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Time::NEVER {
            return f.write_str("never");
        }
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// The term of the entry at an index. Printed `5@2`: index 5, term 2. Compared term first, as the paper's up-to-date
/// rule asks (§5.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// Index of the entry.
    pub index: Index,
    /// Term of the entry.
    pub term: Term,
}

impl Position {
    /// Before the first entry: `0@0`.
    pub const ZERO: Position = Position { index: 0, term: 0 };

    /// The entry at `index` with `term`.
    pub const fn new(index: Index, term: Term) -> Position {
        Position { index, term }
    }

    /// Whether a log ending here is at least as up to date as one ending at `other` (paper §5.4.1: the last term
    /// decides first, the last index only between equal terms).
    pub fn is_up_to_date_with(self, other: Position) -> bool {
        (self.term, self.index) >= (other.term, other.index)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:x}", self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<$name, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                if text.len() != 16 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                    return Err(serde::de::Error::custom("an id is 16 lower-case hexadecimal digits"));
                }
                u64::from_str_radix(&text, 16).map($name).map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id!(
    /// The Raft identity of a member: random, created with its data directory, never reused (thesis §3.8). In JSON and
    /// in logs 16 hexadecimal digits.
    MemberId
);

hex_id!(
    /// The identity of a cluster, drawn at bootstrap. RPCs of another cluster are refused before they reach the core.
    ClusterId
);

/// The persistent state of Figure 2 except the log: on disk before any reply that depends on it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HardState {
    /// Latest term this member has seen. Never decreases.
    pub term: Term,
    /// The candidate that it voted for in `term`. Cleared only when `term` rises.
    pub voted_for: Option<MemberId>,
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name in the configuration files.
    pub node_id: String,
    /// Its Raft identity.
    pub member_id: MemberId,
    /// Where the other members reach it, `host:port`.
    pub raft_addr: String,
    /// Where clients reach it, `host:port`.
    pub http_addr: String,
    /// Whether it votes and counts for quorums; a learner does neither (thesis §4.2.1).
    pub voter: bool,
    /// Whether a learner automatically becomes a voter once it has caught up. Has no meaning for a voter.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub promote: bool,
}

/// A member as it is received over the wire. In the log and in files an unknown field is refused, because every field
/// must be understood there; on the wire it is ignored.
#[derive(Deserialize)]
#[serde(remote = "Member")]
struct WireMember {
    node_id: String,
    member_id: MemberId,
    raft_addr: String,
    http_addr: String,
    voter: bool,
    #[serde(default)]
    promote: bool,
}

impl Member {
    /// Reads it from the wire: unknown fields are ignored.
    pub(crate) fn from_wire<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Member, D::Error> {
        WireMember::deserialize(deserializer)
    }
}

impl Membership {
    /// Reads it from the wire: unknown fields are ignored.
    pub(crate) fn from_wire<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Membership, D::Error> {
        #[derive(Deserialize)]
        struct One(#[serde(with = "WireMember")] Member);
        let members = Vec::<One>::deserialize(deserializer)?;
        Ok(Membership { members: members.into_iter().map(|one| one.0).collect() })
    }
}

/// The members, sorted by name. In force as soon as it is appended (thesis §4.1).
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Membership {
    /// Sorted by `node_id`.
    pub members: Vec<Member>,
}

impl Membership {
    /// The member with this identity.
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.iter().find(|m| m.member_id == id)
    }

    /// The member with this name.
    pub fn by_name(&self, node_id: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.node_id == node_id)
    }

    /// Whether `id` is a voter of this membership.
    pub fn is_voter(&self, id: MemberId) -> bool {
        self.get(id).is_some_and(|m| m.voter)
    }

    /// The voters' identities.
    pub fn voters(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.members.iter().filter(|m| m.voter).map(|m| m.member_id)
    }
}

/// Settings of the state machine that every member must share: they live in the log, set once at bootstrap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How many revisions stay readable after the latest one.
    pub retention_revisions: u64,
    /// How many bytes of superseded versions stay readable. The limit that is reached first counts.
    pub retention_bytes: u64,
    /// How long the outcome of a write with an idempotency key is kept, in seconds of cluster time.
    pub idempotency_window_s: u64,
    /// How many idempotency rows are kept; a full table refuses new keyed writes and keeps its old rows.
    pub idempotency_rows: u64,
    /// How many bytes of outcomes the idempotency rows keep together. An outcome that would exceed it is kept in its
    /// short form.
    pub idempotency_bytes: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            retention_revisions: 100_000,
            retention_bytes: 32 << 20,
            idempotency_window_s: 600,
            idempotency_rows: 1_000_000,
            idempotency_bytes: 64 << 20,
        }
    }
}

/// The first entry of every log, `1@1`: the bootstrap of the cluster. Every member stores the same one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// Drawn by the bootstrap node.
    pub cluster_id: ClusterId,
    /// Settings every member shares.
    pub settings: Settings,
    /// The version in force from the beginning: the highest version that all initial members speak, or the version of
    /// the state that the cluster began with.
    pub protocol: Protocol,
    /// The initial members, all voters.
    pub members: Membership,
    /// The state that the cluster began with, if it was not empty. The log then begins after a snapshot of that
    /// state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<RestoredState>,
}

/// A state from another cluster, such as a backup, that a new cluster begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoredState {
    /// The store's revision.
    pub revision: u64,
    /// The hash of the state as it was in that cluster; 32 hexadecimal digits in JSON.
    #[serde(with = "crate::bytes::state_hash")]
    pub state_hash: u128,
}

impl RestoredState {
    /// Reads it from the wire: unknown fields are ignored.
    pub(crate) fn from_wire<'de, D>(deserializer: D) -> Result<Option<RestoredState>, D::Error>
    where
        D: Deserializer<'de>,
    {
        #[derive(Deserialize)]
        struct Wire {
            revision: u64,
            #[serde(with = "crate::bytes::state_hash")]
            state_hash: u128,
        }
        let wire = Option::<Wire>::deserialize(deserializer)?;
        Ok(wire.map(|Wire { revision, state_hash }| RestoredState { revision, state_hash }))
    }
}

impl std::fmt::Display for RestoredState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "revision {} with hash {:032x}", self.revision, self.state_hash)
    }
}

/// Where a snapshot ends: the log after it begins at `last.index + 1` (paper §7). `Position::ZERO` = no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotMeta {
    /// Index and term of the last entry the snapshot covers.
    pub last: Position,
    /// Cluster time of the state at `last`: a leader without a later entry continues from this time.
    pub cluster_time: ClusterTime,
    /// The membership in force at `last`, with the index of the entry that set it.
    pub membership: Arc<Membership>,
    /// Index of the entry that set `membership`.
    pub membership_index: Index,
    /// The version in force at `last`.
    pub version: Protocol,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_up_to_date_compares_term_before_index() {
        assert!(Position::new(1, 3).is_up_to_date_with(Position::new(9, 2)));
        assert!(!Position::new(9, 2).is_up_to_date_with(Position::new(1, 3)));
        assert!(Position::new(4, 2).is_up_to_date_with(Position::new(4, 2)));
        assert!(!Position::new(3, 2).is_up_to_date_with(Position::new(4, 2)));
    }

    #[test]
    fn membership_counts_no_learner() {
        let member = |id, voter| Member {
            node_id: format!("node{id}"),
            member_id: MemberId(id),
            raft_addr: String::new(),
            http_addr: String::new(),
            voter,
            promote: false,
        };
        let membership = Membership { members: vec![member(1, true), member(2, false), member(3, true)] };
        assert_eq!(membership.voters().collect::<Vec<_>>(), [MemberId(1), MemberId(3)]);
        let voters: Vec<bool> = (1..=4).map(|id| membership.is_voter(MemberId(id))).collect();
        assert_eq!(voters, [true, false, true, false]);
    }

    #[test]
    fn ids_are_sixteen_hex_digits_in_json() {
        let text = serde_json::to_string(&MemberId(0xab)).unwrap();
        assert_eq!(text, "\"00000000000000ab\"");
        assert_eq!(serde_json::from_str::<MemberId>(&text).unwrap(), MemberId(0xab));
        for bad in ["\"ab\"", "\"00000000000000AB\"", "\"+0000000000000ab\"", "171"] {
            assert!(serde_json::from_str::<MemberId>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn time_arithmetic_saturates() {
        assert_eq!(Time::NEVER + Duration::from_secs(1), Time::NEVER);
        assert_eq!(Time(5) - Duration::from_secs(1), Time(0));
        assert_eq!(Time(1).since(Time(9)), Duration::ZERO);
    }
}
