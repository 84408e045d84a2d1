//! The cluster: its leader, its members, and the requests that change them.

use serde::{Deserialize, Serialize};

/// Where the leader is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRef {
    /// Its name.
    pub node_id: String,
    /// Its client address, `host:port`.
    pub http_addr: String,
}

/// Answer of `GET /v1/cluster`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReply {
    /// 16 hexadecimal digits; null until the cluster is initialized.
    pub cluster_id: Option<String>,
    /// The answering node's term.
    pub term: u64,
    /// The leader it knows of.
    pub leader: Option<LeaderRef>,
    /// The members, sorted by name. Before bootstrap, those of the configuration file.
    pub members: Vec<MemberInfo>,
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its name.
    pub node_id: String,
    /// Its Raft identity, 16 hexadecimal digits; null while it is not known.
    pub member_id: Option<String>,
    /// Where the other members reach it, `host:port`.
    pub raft_addr: String,
    /// Where clients reach it, `host:port`.
    pub http_addr: String,
    /// Whether it votes. A learner holds the same data, but counts for no majority.
    pub voter: bool,
    /// Whether a learner becomes a voter by itself, once it has caught up.
    #[serde(default, skip_serializing_if = "is_false")]
    pub promote: bool,
}

/// Answer of `GET /v1/cluster/members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersReply {
    /// The members as the answering node knows them, sorted by name.
    pub members: Vec<MemberInfo>,
}

/// Body of `POST /v1/cluster/members`: a new member, as a learner at first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    /// Its name: 1 to 64 of `A-Z a-z 0-9 . _ -`, and no other member's.
    pub node_id: String,
    /// Its Raft identity, 16 hexadecimal digits; without it the node at `raft_addr` is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<String>,
    /// What its program speaks; without it the node at `raft_addr` is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u16>,
    /// Where the other members reach it, `host:port`.
    pub raft_addr: String,
    /// Where clients reach it, `host:port`.
    pub http_addr: String,
    /// Whether it becomes a voter by itself, once it has caught up; otherwise it stays a learner.
    #[serde(default = "yes")]
    pub promote: bool,
}

/// Answer of every change of the members: it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeReply {
    /// Log index of the entry that made the members what was asked for; an earlier one when they were so already.
    pub index: u64,
}

/// Body of `POST /v1/cluster/leader`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// The member that is to lead; if it is missing, the voter with the most advanced log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
}

/// Answer of `POST /v1/cluster/leader`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferReply {
    /// The member that leads now.
    pub leader: LeaderRef,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
pub(super) fn is_false(flag: &bool) -> bool {
    !flag
}

fn yes() -> bool {
    true
}
