//! Members in the words of the API.

use crate::api::{LeaderRef, MemberInfo};

impl From<&crate::raft::Member> for MemberInfo {
    fn from(member: &crate::raft::Member) -> MemberInfo {
        MemberInfo {
            node_id: member.node_id.clone(),
            member_id: Some(member.member_id.to_string()),
            raft_addr: member.raft_addr.clone(),
            http_addr: member.http_addr.clone(),
            voter: member.voter,
            promote: member.promote && !member.voter,
        }
    }
}

impl From<&crate::raft::Member> for LeaderRef {
    fn from(member: &crate::raft::Member) -> LeaderRef {
        LeaderRef { node_id: member.node_id.clone(), http_addr: member.http_addr.clone() }
    }
}
