//! The table of nodes.

use std::thread;
use std::time::Duration;

use dkv::api::{ClusterReply, MemberInfo, RoleName, StatusReply};
use dkv::client::Client;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{Look, Printer};

/// Longest wait for one node: a stopped one must not hold up the table.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// The whole of `-o json`.
#[derive(Serialize)]
struct Report<'a> {
    health: Health,
    cluster: &'a ClusterReply,
    nodes: Vec<NodeReport<'a>>,
}

#[derive(Serialize)]
struct NodeReport<'a> {
    node_id: &'a str,
    http_addr: &'a str,
    status: Option<&'a StatusReply>,
    error: Option<&'a str>,
}

/// How the cluster is; the exit code says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Health {
    /// There is a leader, and each member answers as the member that it is.
    Ok,
    /// There is a leader, and some member does not answer so.
    Degraded,
    /// No member that answers leads.
    NoLeader,
}

impl Health {
    fn exit_code(self) -> u8 {
        match self {
            Health::Ok => 0,
            Health::Degraded => 1,
            Health::NoLeader => 3,
        }
    }
}

/// What a member's address answers: its status, or why there is none. Another node there is no member.
type Heard = Result<StatusReply, String>;

/// Asks some node for the members and every member for its status, all at once.
pub fn show(client: &Client, timeout: Duration, printer: &Printer) -> Result<(), Failure> {
    let cluster = client.cluster()?;
    let answers: Vec<Heard> = thread::scope(|scope| {
        let ask = |member: &MemberInfo| {
            let addr = member.http_addr.clone();
            scope.spawn(move || client.status(&addr, timeout.min(NODE_TIMEOUT)))
        };
        let asked: Vec<_> = cluster.members.iter().map(ask).collect();
        asked.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a fault of dkv-cli".to_owned()))).collect()
    });
    let heard = |(member, answer): (&MemberInfo, Heard)| {
        answer.and_then(|status| match stranger(&cluster, member, &status) {
            None => Ok(status),
            Some(text) => Err(text),
        })
    };
    let answers: Vec<Heard> = cluster.members.iter().zip(answers).map(heard).collect();
    let health = health(&answers);
    if printer.is_json() {
        let nodes = cluster
            .members
            .iter()
            .zip(&answers)
            .map(|(member, answer)| node_report(member, answer))
            .collect();
        printer.json(&Report { health, cluster: &cluster, nodes })?;
    } else {
        printer.bytes(table(&cluster, &answers, printer).as_bytes())?;
    }
    match health.exit_code() {
        0 => Ok(()),
        code => Err(Failure::Silent(code)),
    }
}

/// Why the node that answers at a member's address is not that member.
fn stranger(cluster: &ClusterReply, member: &MemberInfo, status: &StatusReply) -> Option<String> {
    let addr = &member.http_addr;
    if let (Some(own), Some(other)) = (&cluster.cluster_id, &status.cluster_id)
        && own != other
    {
        return Some(format!("{addr} belongs to cluster {other}, not to {own}"));
    }
    if status.node_id != member.node_id {
        return Some(format!("at {addr} answers node {}", status.node_id));
    }
    if let Some(id) = member.member_id.as_ref().filter(|id| **id != status.member_id) {
        return Some(format!(
            "the node at {addr} is member {}, and {} is member {id}",
            status.member_id, member.node_id
        ));
    }
    None
}

/// A node that has no part in its cluster yet, though it is a member, does not answer as it should.
fn health(answers: &[Heard]) -> Health {
    let is_well = |answer: &Heard| answer.as_ref().is_ok_and(|status| status.role != RoleName::Uninitialized);
    let leads = |status: &StatusReply| status.role == RoleName::Leader;
    match (answers.iter().flatten().any(leads), answers.iter().all(is_well)) {
        (false, _) => Health::NoLeader,
        (true, false) => Health::Degraded,
        (true, true) => Health::Ok,
    }
}

fn node_report<'a>(member: &'a MemberInfo, answer: &'a Heard) -> NodeReport<'a> {
    NodeReport {
        node_id: &member.node_id,
        http_addr: &member.http_addr,
        status: answer.as_ref().ok(),
        error: answer.as_ref().err().map(String::as_str),
    }
}

const HEAD: [&str; 8] = ["NODE", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG", "REACHABLE", "ADDRESS"];

/// One line per member; the lag is how many entries its map is behind the greatest known commit index.
fn table(cluster: &ClusterReply, answers: &[Heard], printer: &Printer) -> String {
    let commit = answers.iter().flatten().map(|s| s.commit).max().unwrap_or(0);
    let mut rows = vec![(Look::Bold, HEAD.map(str::to_owned))];
    for (member, answer) in cluster.members.iter().zip(answers) {
        rows.push((look(answer), cells(member, answer, commit)));
    }
    let width = |column: usize| rows.iter().map(|(_, r)| r[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for (look, row) in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, w)| format!("{cell:w$}", w = *w)).collect();
        text.push_str(&printer.paint(*look, cells.join("  ").trim_end()));
        text.push('\n');
    }
    for (member, answer) in cluster.members.iter().zip(answers) {
        if let Err(reason) = answer {
            text.push_str(&format!("{} does not answer: {reason}\n", member.node_id));
        }
    }
    if !answers.iter().flatten().any(|s| s.role == RoleName::Leader) {
        text.push_str(&without_leader(cluster, answers));
    }
    text
}

fn look(answer: &Heard) -> Look {
    match answer {
        Ok(status) if status.role == RoleName::Leader => Look::Good,
        Ok(_) => Look::Plain,
        Err(_) => Look::Bad,
    }
}

fn cells(member: &MemberInfo, answer: &Heard, commit: u64) -> [String; HEAD.len()] {
    let (node, addr) = (member.node_id.clone(), member.http_addr.clone());
    let none = || "-".to_owned();
    match answer {
        Ok(s) => [
            node,
            // The word of the log and of the documents; the wire has an underscore.
            s.role.to_string().replace('_', "-"),
            s.term.to_string(),
            s.commit.to_string(),
            s.applied.to_string(),
            commit.saturating_sub(s.applied).to_string(),
            "yes".to_owned(),
            addr,
        ],
        Err(_) => [node, none(), none(), none(), none(), none(), "no".to_owned(), addr],
    }
}

/// What it means that no member that answers leads, and what to do.
fn without_leader(cluster: &ClusterReply, answers: &[Heard]) -> String {
    let voters = cluster.members.iter().zip(answers).filter(|(member, _)| member.voter);
    let (all, up) = voters.fold((0, 0), |(all, up), (_, answer)| (all + 1, up + usize::from(answer.is_ok())));
    let majority = all / 2 + 1;
    let advice = match (all, up >= majority) {
        (1, true) => "it should lead within seconds".to_owned(),
        (1, false) => "the only voter does not answer: start it".to_owned(),
        (_, true) => "they should elect one within seconds".to_owned(),
        (_, false) => format!("{up} of {all} voters answer and {majority} are needed: start the others"),
    };
    let whom =
        if cluster.members.len() == 1 { "this node does not lead" } else { "no leader among these nodes" };
    format!("{whom}, so writes and reads wait ({advice}); `get --stale` works\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node_id: &str, voter: bool) -> MemberInfo {
        let (raft_addr, http_addr) = ("h:1".to_owned(), "h:2".to_owned());
        let member_id = Some(format!("{node_id:0>16}"));
        MemberInfo { node_id: node_id.to_owned(), member_id, raft_addr, http_addr, voter, promote: false }
    }

    fn cluster(members: &[MemberInfo]) -> ClusterReply {
        let cluster_id = Some("00000000000000cc".to_owned());
        ClusterReply { cluster_id, term: 1, leader: None, members: members.to_vec() }
    }

    fn status(of: &MemberInfo, role: RoleName) -> StatusReply {
        StatusReply {
            node_id: of.node_id.clone(),
            member_id: of.member_id.clone().unwrap(),
            cluster_id: Some("00000000000000cc".to_owned()),
            role,
            term: 1,
            leader: None,
            commit: 1,
            applied: 1,
            persisted: 1,
            last: 1,
            revision: 1,
            floor: 1,
            state_hash: String::new(),
            uptime_ms: 1,
            version: String::new(),
            protocol: 1,
            protocol_in_force: Some(1),
            peers: Vec::new(),
        }
    }

    #[test]
    fn health_without_a_leader_wins_over_a_silent_member() {
        let (a, b) = (member("a", true), member("b", true));
        let silent = || Err("refused".to_owned());
        let leads = || Ok(status(&a, RoleName::Leader));
        let follows = || Ok(status(&b, RoleName::Follower));
        let uninitialized = || Ok(status(&b, RoleName::Uninitialized));
        for (answers, expected) in [
            (vec![leads(), follows()], Health::Ok),
            (vec![leads(), silent()], Health::Degraded),
            (vec![leads(), uninitialized()], Health::Degraded),
            (vec![follows(), follows()], Health::NoLeader),
            (vec![follows(), silent()], Health::NoLeader),
            (vec![silent(), silent()], Health::NoLeader),
        ] {
            assert_eq!(health(&answers), expected, "{answers:?}");
        }
        assert_eq!([Health::Ok, Health::Degraded, Health::NoLeader].map(Health::exit_code), [0, 1, 3]);
    }

    #[test]
    fn stranger_is_a_node_of_another_cluster_name_or_identity() {
        let a = member("a", true);
        let of = cluster(std::slice::from_ref(&a));
        let own = status(&a, RoleName::Leader);
        assert_eq!(stranger(&of, &a, &own), None);
        let foreign = StatusReply { cluster_id: Some("00000000000000dd".to_owned()), ..own.clone() };
        assert!(stranger(&of, &a, &foreign).unwrap().contains("belongs to cluster 00000000000000dd"));
        let renamed = StatusReply { node_id: "b".to_owned(), ..own.clone() };
        assert!(stranger(&of, &a, &renamed).unwrap().contains("answers node b"));
        let wiped = StatusReply { member_id: "00000000000000ff".to_owned(), cluster_id: None, ..own };
        assert!(stranger(&of, &a, &wiped).unwrap().contains("member 00000000000000ff"));
    }

    #[test]
    fn a_store_of_one_node_is_not_told_to_start_the_others() {
        let a = member("a", true);
        let one = cluster(std::slice::from_ref(&a));
        for (answer, words) in [
            (Err("refused".to_owned()), "the only voter does not answer: start it"),
            (Ok(status(&a, RoleName::Follower)), "it should lead within seconds"),
        ] {
            let text = without_leader(&one, &[answer]);
            assert!(text.contains(words) && text.starts_with("this node does not lead"), "{text}");
            assert!(!["others", "nodes", "they"].iter().any(|word| text.contains(word)), "{text}");
        }
        let three = cluster(&[a, member("b", true), member("c", true)]);
        let text = without_leader(&three, &[Err(String::new()), Err(String::new()), Err(String::new())]);
        assert!(text.contains("0 of 3 voters answer and 2 are needed"), "{text}");
    }
}
