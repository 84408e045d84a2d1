//! Only an answer is news: what needs a member alive is refused, or waits, until that member has answered the leader there is.
//! Each of these commands once left a cluster of three, one of them dead, without a leader until the dead one returned.

use serde_json::Value;

use super::cluster::{Cluster, Setup, wait_for};
use super::{assert_error, cli, cli_ok, members, post, wait_for_voters};

/// A leader, a follower, and one that is dead and known to be so. Patient with a busy machine: nobody means to see an
/// election that these tests did not cause.
fn beside_a_dead_one() -> (Cluster, usize, usize, usize) {
    let extra = "election_timeout_ms: 1500\n".to_owned();
    let mut cluster = Cluster::start_with(3, &Setup { extra, ..Setup::default() });
    let leader = cluster.wait_for_leader();
    let (follower, dead) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.kill(dead);
    wait_for("the silence to be noticed", || {
        (peer(&cluster, leader, dead)?["reachable"] == false).then_some(())
    });
    (cluster, leader, follower, dead)
}

/// A peer in the status of its leader.
fn peer(cluster: &Cluster, leader: usize, peer: usize) -> Option<Value> {
    let status = cluster.status(leader)?;
    status["peers"].as_array()?.iter().find(|p| p["node_id"] == cluster.name(peer).as_str()).cloned()
}

fn assert_serves_under(cluster: &Cluster, leader: usize) {
    assert_eq!(cluster.wait_for_leader(), leader);
    let answer = cluster.put(leader, "k", "v").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Runs a command that must be refused for now.
fn assert_refused(cluster: &Cluster, args: &[&str], words: &str) {
    let output = cli(cluster, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    assert!(said.contains(words), "{args:?}: {said}");
}

const CANNOT_BE_SPARED: &str = "of the 2 voters there would be, only 1 answer";

#[test]
fn the_removal_of_a_leader_that_cannot_be_spared_is_refused_and_it_leads_on() {
    let (cluster, leader, follower, _) = beside_a_dead_one();
    assert_refused(&cluster, &["member", "remove", &cluster.name(follower)], CANNOT_BE_SPARED);
    let term = cluster.status(leader).unwrap()["term"].clone();
    assert_refused(&cluster, &["member", "remove", &cluster.name(leader)], CANNOT_BE_SPARED);
    // Asked through the other one as well.
    let path = format!("/v1/cluster/members/{}", cluster.name(leader));
    let answer = cluster.request(follower, "DELETE", &path, &[], b"").unwrap();
    assert_error(&answer, 409, "conflict", &[CANNOT_BE_SPARED]);
    assert_eq!(answer.json()["error"]["temporary"], true);
    assert_eq!(cluster.status(leader).unwrap()["term"], term, "an election came of it");
    assert!(!cluster.log(leader).contains("transfers its leadership to"), "{}", cluster.log(leader));
    assert_serves_under(&cluster, leader);
}

#[test]
fn no_news_is_not_good_news_after_a_transfer() {
    let (mut cluster, old, leader, dead) = beside_a_dead_one();
    cli_ok(&cluster, &["transfer", &cluster.name(leader)]);
    // What the new leader says of the dead one: nothing, neither that it holds 0 entries nor that it answered 0 s ago.
    wait_for("a new leader", || {
        let status = cluster.status(leader)?;
        (status["role"] == "leader").then_some(())
    });
    let known = peer(&cluster, leader, dead).expect("a peer");
    assert_eq!((&known["match_index"], &known["lag"]), (&Value::Null, &Value::Null), "{known}");
    assert_ne!(known["reachable"], true, "{known}");
    let contact = |n: usize| {
        let metrics = cluster.request(leader, "GET", "/metrics", &[], b"").unwrap().text();
        let name = format!("dkv_peer_last_contact_seconds{{peer=\"{}\"}}", cluster.name(n));
        metrics.lines().find(|line| line.starts_with(&name)).map(str::to_owned)
    };
    wait_for("an answer of the one that lives", || contact(old));
    assert_eq!(contact(dead), None, "it was never heard");

    assert_refused(&cluster, &["member", "remove", &cluster.name(old)], CANNOT_BE_SPARED);
    assert_refused(&cluster, &["transfer", &cluster.name(dead)], "no other voter answers");
    assert_eq!(members(&cluster, leader).len(), 3);
    assert_serves_under(&cluster, leader);
    assert_eq!(peer(&cluster, leader, dead).expect("a peer")["reachable"], false, "silent for long by now");

    // The dead one returns, and the same command is good; it asks for the leader's removal this time.
    cluster.spawn(dead);
    wait_for("it answers", || (peer(&cluster, leader, dead)?["reachable"] == true).then_some(()));
    cli_ok(&cluster, &["member", "remove", &cluster.name(leader)]);
    assert_eq!(cluster.wait_exit(leader).code(), Some(4), "{}", cluster.log(leader));
    assert!(cluster.log(leader).contains("transfers its leadership to"), "{}", cluster.log(leader));
    wait_for_voters(&cluster, &[old, dead]);
    cluster.wait_for_leader();
    assert_eq!(cluster.put(old, "k", "w").unwrap().status, 200);
}

#[test]
fn no_news_is_not_good_news_after_an_addition() {
    let (mut cluster, leader, follower, dead) = beside_a_dead_one();
    // Nobody has this identity, and nobody listens there.
    let nobody = format!(
        r#"{{"node_id":"n9","member_id":"00000000000000ff","raft_addr":"{0}:9","http_addr":"{0}:8","promote":false}}"#,
        cluster.ip
    );
    let added = post(&cluster, follower, "/v1/cluster/members", &nobody);
    assert_eq!(added.status, 200, "{}", added.text());
    let answer = post(&cluster, follower, "/v1/cluster/members/n9/promote", "");
    assert_error(&answer, 409, "conflict", &["of the 4 voters there would be, only 2 answer"]);
    assert_eq!(answer.json()["error"]["temporary"], true);
    assert_serves_under(&cluster, leader);
    // Nor with everybody else alive.
    cluster.spawn(dead);
    wait_for("it answers", || (peer(&cluster, leader, dead)?["reachable"] == true).then_some(()));
    let answer = post(&cluster, follower, "/v1/cluster/members/n9/promote", "");
    assert_error(&answer, 409, "conflict", &["n9 does not answer"]);
    cli_ok(&cluster, &["member", "remove", "n9"]);
    assert_serves_under(&cluster, leader);
}
