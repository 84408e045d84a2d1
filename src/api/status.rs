//! One node: what it is at the moment, and what it logs.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::LeaderRef;

/// What a node is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleName {
    /// It has no log yet: the cluster is being initialized.
    Uninitialized,
    /// It follows a leader, or waits for one.
    Follower,
    /// It asks whether an election could succeed.
    PreCandidate,
    /// It stands for election.
    Candidate,
    /// It leads.
    Leader,
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RoleName::Uninitialized => "uninitialized",
            RoleName::Follower => "follower",
            RoleName::PreCandidate => "pre_candidate",
            RoleName::Candidate => "candidate",
            RoleName::Leader => "leader",
        })
    }
}

/// Answer of `GET /v1/status`: the answering node as it sees itself. All indexes are log indexes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// Its name.
    pub node_id: String,
    /// Its Raft identity, 16 hexadecimal digits.
    pub member_id: String,
    /// 16 hexadecimal digits; null until the cluster is initialized.
    pub cluster_id: Option<String>,
    /// What it is at the moment.
    pub role: RoleName,
    /// Its term.
    pub term: u64,
    /// The leader it knows of.
    pub leader: Option<LeaderRef>,
    /// Greatest index it knows to be committed.
    pub commit: u64,
    /// Last index fed to its map.
    pub applied: u64,
    /// Last index that is durable on its own disk.
    pub persisted: u64,
    /// Last index of its log.
    pub last: u64,
    /// Revision of its map.
    pub revision: u64,
    /// Oldest revision it can still read.
    pub floor: u64,
    /// Hash of the logical state at `applied`, hexadecimal: equal on every node with equal `applied`.
    pub state_hash: String,
    /// How long the process runs, in milliseconds.
    pub uptime_ms: u64,
    /// Version of the program.
    pub version: String,
    /// The protocol that the program speaks; 0 for a program from before it said so.
    #[serde(default)]
    pub protocol: u16,
    /// The version in force in its state: what members write to each other and to their disks. Null before the cluster
    /// is initialized.
    #[serde(default)]
    pub protocol_in_force: Option<u16>,
    /// The other members as a leader sees them; on other roles `match_index`, `lag` and `reachable` are null.
    pub peers: Vec<PeerStatus>,
}

/// One other member, as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub node_id: String,
    /// Its Raft identity, 16 hexadecimal digits.
    pub member_id: String,
    /// Whether it votes; otherwise it is a learner.
    #[serde(default)]
    pub voter: bool,
    /// How the leader brings it up to date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<PeerMode>,
    /// Greatest index known to be durable there; null when it has not answered this leader.
    pub match_index: Option<u64>,
    /// How many entries it is behind the end of the leader's log; null when it has not answered this leader.
    pub lag: Option<u64>,
    /// Whether it answered within the last election timeout; null while it has had no time to answer this leader.
    pub reachable: Option<bool>,
    /// The protocol that its program speaks; null until it has answered this leader.
    #[serde(default)]
    pub protocol: Option<u16>,
    /// It rejected what it had acknowledged as durable: it lost data and gets nothing more. Replace that member.
    #[serde(default)]
    pub has_lost_entries: bool,
}

/// How a leader brings a peer up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerMode {
    /// It looks for the last entry that both have, one at a time.
    Probe,
    /// It sends what is appended.
    Replicate,
    /// It sends a snapshot, since the entries are not kept any more.
    Snapshot,
    /// It sends nothing: that peer lost what it had acknowledged.
    Lost,
}

/// Answer of `PUT /v1/log-level`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevelReply {
    /// The level from now on: `off`, `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}
