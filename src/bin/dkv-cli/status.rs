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
    printer.bytes(table(&cluster, &answers, printer).as_bytes())
}

fn node_report<'a>(member: &'a MemberInfo, answer: &'a Result<StatusReply, String>) -> NodeReport<'a> {
    NodeReport {
        node_id: &member.node_id,
        http_addr: &member.http_addr,
        status: answer.as_ref().ok(),
        error: answer.as_ref().err().map(String::as_str),
    }
}

const HEAD: [&str; 8] = ["NODE", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG", "REACHABLE", "ADDRESS"];

/// One line per member; the lag is how many entries its map is behind the greatest known commit index.
fn table(cluster: &ClusterReply, answers: &[Result<StatusReply, String>], printer: &Printer) -> String {
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

fn look(answer: &Result<StatusReply, String>) -> Look {
    match answer {
        Ok(status) if status.role == RoleName::Leader => Look::Good,
        Ok(_) => Look::Plain,
        Err(_) => Look::Bad,
    }
}

fn cells(member: &MemberInfo, answer: &Result<StatusReply, String>, commit: u64) -> [String; HEAD.len()] {
    let (node, addr) = (member.node_id.clone(), member.http_addr.clone());
    let none = || "-".to_owned();
    match answer {
        Ok(s) => [
            node,
            s.role.to_string(),
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

/// What it means that nobody who answers leads, and what to do.
fn without_leader(cluster: &ClusterReply, answers: &[Result<StatusReply, String>]) -> String {
    let voters = cluster.members.iter().zip(answers).filter(|(member, _)| member.voter);
    let (all, up) = voters.fold((0, 0), |(all, up), (_, answer)| (all + 1, up + usize::from(answer.is_ok())));
    let majority = all / 2 + 1;
    let advice = match up >= majority {
        true => "they should elect one within seconds".to_owned(),
        false => format!("{up} of {all} nodes answer and {majority} are needed: start the others"),
    };
    format!("no leader among these nodes, so writes and reads wait ({advice}); `get --stale` works\n")
}
