//! The table of nodes.

use std::thread;
use std::time::Duration;

use dkv::api::{ClusterReply, MemberInfo, StatusReply};
use dkv::client::Client;
use serde::Serialize;

use crate::output::{Failure, Printer};

/// Longest wait for one node: a stopped one must not hold up the table.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// The whole of `-o json`.
#[derive(Serialize)]
struct Report<'a> {
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

/// Asks some node for the members and every member for its status, all at once.
pub fn show(client: &Client, timeout: Duration, printer: &Printer) -> Result<(), Failure> {
    let cluster = client.cluster()?;
    let answers: Vec<Result<StatusReply, String>> = thread::scope(|scope| {
        let ask = |member: &MemberInfo| {
            let addr = member.http_addr.clone();
            scope.spawn(move || client.status(&addr, timeout.min(NODE_TIMEOUT)))
        };
        let asked: Vec<_> = cluster.members.iter().map(ask).collect();
        asked.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a fault of dkv-cli".to_owned()))).collect()
    });
    if printer.is_json() {
        let nodes = cluster
            .members
            .iter()
            .zip(&answers)
            .map(|(member, answer)| node_report(member, answer))
            .collect();
        return printer.json(&Report { cluster: &cluster, nodes });
    }
    printer.text(&table(&cluster, &answers))
}

fn node_report<'a>(member: &'a MemberInfo, answer: &'a Result<StatusReply, String>) -> NodeReport<'a> {
    NodeReport {
        node_id: &member.node_id,
        http_addr: &member.http_addr,
        status: answer.as_ref().ok(),
        error: answer.as_ref().err().map(String::as_str),
    }
}

/// One line per member; the lag is how many entries its map is behind the greatest known commit index.
fn table(cluster: &ClusterReply, answers: &[Result<StatusReply, String>]) -> String {
    let commit = answers.iter().flatten().map(|s| s.commit).max().unwrap_or(0);
    let head = ["NODE", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG", "REACHABLE", "ADDRESS"];
    let mut rows = vec![head.map(str::to_owned)];
    for (member, answer) in cluster.members.iter().zip(answers) {
        let (node, addr) = (member.node_id.clone(), member.http_addr.clone());
        let none = || "-".to_owned();
        rows.push(match answer {
            Ok(s) => {
                let lag = commit.saturating_sub(s.applied).to_string();
                let role = s.role.to_string();
                [
                    node,
                    role,
                    s.term.to_string(),
                    s.commit.to_string(),
                    s.applied.to_string(),
                    lag,
                    "yes".into(),
                    addr,
                ]
            }
            Err(_) => [node, none(), none(), none(), none(), none(), "no".into(), addr],
        });
    }
    let mut text = String::new();
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, w)| format!("{cell:w$}", w = *w)).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    if !answers.iter().flatten().any(|s| s.role == dkv::api::RoleName::Leader) {
        text.push_str("no leader among the reachable nodes: writes and linearizable reads wait for one\n");
    }
    for (member, answer) in cluster.members.iter().zip(answers) {
        if let Err(reason) = answer {
            text.push_str(&format!("{} does not answer: {reason}\n", member.node_id));
        }
    }
    text
}
