//! Real processes that come and go: clusters grow and shrink under load, members are replaced, leaders leave, and nothing
//! acknowledged is lost, doubled or invented; who does not belong is refused with what to do.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

#[path = "support/clients.rs"]
mod clients;
#[path = "support/cluster.rs"]
#[allow(dead_code)]
mod cluster;
#[path = "support/load.rs"]
mod load;
#[path = "members/no_news.rs"]
mod no_news;

use clients::Clients;
use cluster::{Answer, Cluster, wait_for};
use dkv::check;
use load::Load;
use serde_json::Value;

/// `dkv-cli` against all nodes of the cluster, with the patience of the tests.
fn cli_command(cluster: &Cluster, args: &[&str]) -> Command {
    let endpoints: Vec<String> = (0..cluster.size()).map(|n| cluster.http_addr(n)).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dkv-cli"));
    command.args(["--timeout", "30"]).args(args).env("DKV_ENDPOINTS", endpoints.join(","));
    command
}

fn cli(cluster: &Cluster, args: &[&str]) -> Output {
    cli_command(cluster, args).output().expect("dkv-cli runs")
}

/// Runs `dkv-cli` and expects that it succeeds; what it prints.
fn cli_ok(cluster: &Cluster, args: &[&str]) -> String {
    let output = cli(cluster, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// A command that waits, in the background.
struct Waiting {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Waiting {
    fn start(cluster: &Cluster, args: &[&str]) -> Waiting {
        let mut child = cli_command(cluster, args).stderr(Stdio::piped()).spawn().expect("dkv-cli runs");
        let said = Arc::new(Mutex::new(String::new()));
        let (mut pipe, heard) = (child.stderr.take().expect("a pipe"), said.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut bytes) {
                heard.lock().expect("not poisoned").push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        Waiting { child, said }
    }

    fn wait_until_it_says(&self, words: &str) {
        wait_for(&format!("{words:?} from dkv-cli"), || {
            self.said.lock().expect("not poisoned").contains(words).then_some(())
        });
    }

    fn finish(mut self) {
        let status = wait_for("dkv-cli to end", || self.child.try_wait().expect("its status"));
        assert!(status.success(), "{}", self.said.lock().expect("not poisoned"));
    }
}

/// The members as node `n` knows them.
fn members(cluster: &Cluster, n: usize) -> Vec<Value> {
    let answer = cluster.request(n, "GET", "/v1/cluster/members", &[], b"").expect("an answer");
    answer.json()["members"].as_array().expect("members").clone()
}

fn voters(cluster: &Cluster, n: usize) -> BTreeSet<String> {
    let voters = members(cluster, n).into_iter().filter(|m| m["voter"] == true);
    voters.map(|m| m["node_id"].as_str().expect("a name").to_owned()).collect()
}

fn names(cluster: &Cluster, nodes: &[usize]) -> BTreeSet<String> {
    nodes.iter().map(|&n| cluster.name(n)).collect()
}

/// Waits until every running node knows these voters and no others.
fn wait_for_voters(cluster: &Cluster, nodes: &[usize]) {
    let wanted = names(cluster, nodes);
    wait_for(&format!("voters {wanted:?} on every node"), || {
        let agrees = |&n: &usize| {
            let known = cluster.request(n, "GET", "/v1/cluster/members", &[], b"").ok();
            known.is_some() && voters(cluster, n) == wanted
        };
        cluster.running().iter().all(agrees).then_some(())
    });
}

fn post(cluster: &Cluster, n: usize, path: &str, body: &str) -> Answer {
    cluster.request(n, "POST", path, &[], body.as_bytes()).expect("an answer")
}

fn assert_error(answer: &Answer, status: u16, code: &str, words: &[&str]) {
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].as_str()),
        (status, Some(code)),
        "{}",
        answer.text()
    );
    words.iter().for_each(|word| assert!(answer.text().contains(word), "{word:?}: {}", answer.text()));
}

#[test]
fn three_nodes_grow_to_five_and_shrink_to_three_under_load() {
    let mut cluster = Cluster::start_with_room(3, 5);
    let load = Load::start(&cluster, 4);
    load.wait_for(100);
    cluster.spawn_to_join(3, 0, &[]);
    cluster.spawn_to_join(4, 1, &[]);
    wait_for_voters(&cluster, &[0, 1, 2, 3, 4]);
    load.wait_for(100);
    // The first leader goes, and another one of the initial members.
    let leader = cluster.wait_for_leader();
    let other = (leader + 1) % 3;
    for gone in [leader, other] {
        let transferred = format!("{} transfers its leadership", cluster.name(gone));
        let leads = gone == cluster.wait_for_leader();
        cli_ok(&cluster, &["member", "remove", &cluster.name(gone)]);
        assert_eq!(cluster.wait_exit(gone).code(), Some(4), "{}", cluster.log(gone));
        assert!(cluster.log(gone).contains("was removed from cluster"), "{}", cluster.log(gone));
        if leads {
            assert!((0..5).any(|n| cluster.log(n).contains(&transferred)), "{transferred}");
        }
        load.wait_for(50);
    }
    let rest: Vec<usize> = (0..5).filter(|n| ![leader, other].contains(n)).collect();
    wait_for_voters(&cluster, &rest);
    // A member that joined needs nothing but its own command line again.
    assert_eq!(cluster.stop(3).code(), Some(0));
    cluster.spawn_to_join(3, 4, &[]);
    load.wait_for(100);
    load::check(&cluster, &load.finish());
    cluster.wait_for_equal_state();
    assert!(!cluster.log(3).contains("differ from the stored membership"), "{}", cluster.log(3));
}

#[test]
fn a_dead_node_is_replaced_by_a_new_one_and_stays_out() {
    let mut cluster = Cluster::start_with_room(3, 4);
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200);
    let dead = (cluster.wait_for_leader() + 1) % 3;
    cluster.kill(dead);
    let (old, raft, http) = (cluster.name(dead), cluster.raft_addr(3), cluster.http_addr(3));
    let arguments = ["member", "replace", &old, "node4", "--raft-addr", &raft, "--http-addr", &http];
    let replace = Waiting::start(&cluster, &arguments);
    replace.wait_until_it_says("no new node answers");
    cluster.spawn_to_join(3, cluster.wait_for_leader(), &[]);
    replace.finish();
    let rest: Vec<usize> = (0..4).filter(|&n| n != dead).collect();
    wait_for_voters(&cluster, &rest);
    assert_eq!(cluster.get(3, "k").unwrap().text(), "v");
    // Run again it finds everything done.
    cli_ok(&cluster, &arguments);

    // The dead one comes back with its data: it is told, and disturbs nobody.
    let term = cluster.status(3).unwrap()["term"].clone();
    cluster.spawn(dead);
    assert_eq!(cluster.wait_exit(dead).code(), Some(4), "{}", cluster.log(dead));
    assert!(cluster.log(dead).contains("was removed from cluster"), "{}", cluster.log(dead));
    assert_eq!(cluster.put(3, "k", "w").unwrap().status, 200);
    assert_eq!(cluster.status(3).unwrap()["term"], term, "an election came of it");
}

#[test]
fn a_wiped_node_is_refused_with_the_repair_and_initialized_again_by_it() {
    let mut cluster = Cluster::start(3);
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200);
    // The bootstrap node as well as another one, each with its ordinary configuration file.
    for wiped in [1, 0] {
        let name = cluster.name(wiped);
        cluster.kill(wiped);
        cluster.wait_for_leader();
        fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
        cluster.spawn(wiped);
        assert_eq!(cluster.wait_exit(wiped).code(), Some(4), "{}", cluster.log(wiped));
        let repair = format!("dkv-cli member replace {name} {name}");
        assert!(cluster.log(wiped).contains(&repair), "{}", cluster.log(wiped));
        let replace = Waiting::start(&cluster, &["member", "replace", &name, &name]);
        replace.wait_until_it_says("no new node answers");
        // The same directory: the identity that was drawn in it is the new member's.
        cluster.spawn(wiped);
        replace.finish();
        wait_for_voters(&cluster, &[0, 1, 2]);
        assert_eq!(cluster.get(wiped, "k").unwrap().text(), "v");
        let healthy = cli_ok(&cluster, &["member", "replace", &name, &name]);
        assert!(healthy.contains("nothing to replace"), "{healthy}");
    }
    cluster.wait_for_equal_state();
    assert_eq!(cluster.stop(1).code(), Some(0));
    cluster.spawn(1);
    wait_for_voters(&cluster, &[0, 1, 2]);
}

#[test]
fn a_member_is_added_while_a_minority_stands_still() {
    let mut cluster = Cluster::start_with_room(5, 6);
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200);
    let leader = cluster.wait_for_leader();
    let silent = [(leader + 1) % 5, (leader + 2) % 5];
    silent.iter().for_each(|&n| cluster.signal(n, "STOP"));
    cluster.spawn_to_join(5, leader, &[]);
    wait_for("the new voter", || (voters(&cluster, leader).len() == 6).then_some(()));
    assert_eq!(cluster.put(leader, "k", "w").unwrap().status, 200);
    silent.iter().for_each(|&n| cluster.signal(n, "CONT"));
    wait_for_voters(&cluster, &[0, 1, 2, 3, 4, 5]);
    cluster.wait_for_leader();
    assert_eq!(cluster.get(5, "k").unwrap().text(), "w");
    cluster.wait_for_equal_state();
}

#[test]
fn what_the_cluster_cannot_do_is_refused_with_the_reason() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let (silent, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let taken = format!(
        r#"{{"node_id":"{}","member_id":"00000000000000ff","raft_addr":"10.0.0.1:1","http_addr":"10.0.0.1:2"}}"#,
        cluster.name(other)
    );
    assert_error(
        &post(&cluster, other, "/v1/cluster/members", &taken),
        409,
        "conflict",
        &["belongs to member"],
    );
    let nobody = format!(r#"{{"node_id":"n9","raft_addr":"{0}:9","http_addr":"{0}:8"}}"#, cluster.ip);
    let answer = post(&cluster, other, "/v1/cluster/members", &nobody);
    assert_error(&answer, 409, "conflict", &["dkv-server --join", "--node-id n9"]);
    assert_eq!(answer.json()["error"]["temporary"], true);
    let another = format!(
        r#"{{"node_id":"n9","raft_addr":"{}","http_addr":"{}:8"}}"#,
        cluster.raft_addr(silent),
        cluster.ip
    );
    let answer = post(&cluster, other, "/v1/cluster/members", &another);
    assert_error(&answer, 409, "conflict", &["calls itself", &cluster.name(silent)]);
    let answer = post(&cluster, other, "/v1/cluster/members/n9/promote", "");
    assert_error(&answer, 404, "not_found", &["node1, node2, node3"]);
    let output = cli(&cluster, &["member", "remove", "n9"]);
    assert_eq!(output.status.code(), Some(1));

    cluster.kill(silent);
    let path = format!("/v1/cluster/members/{}", cluster.name(other));
    wait_for("the silence to be noticed", || {
        let lag = cluster.status(leader)?["peers"].as_array()?.clone();
        lag.iter().any(|p| p["reachable"] == false).then_some(())
    });
    let answer = cluster.request(other, "DELETE", &path, &[], b"").unwrap();
    assert_error(&answer, 409, "conflict", &["of the 2 voters there would be, only 1 answer"]);
    assert_eq!(answer.json()["error"]["temporary"], true);
    assert_eq!(members(&cluster, leader).len(), 3);
    // Without a majority nothing is decided, and it is said so in time.
    cluster.kill(other);
    let answer = cluster.request(leader, "DELETE", &path, &[], b"").unwrap();
    assert_eq!((answer.status, answer.outcome().as_str()), (503, "not_done"), "{}", answer.text());
}

#[test]
fn a_leadership_is_transferred_on_demand() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let next = (leader + 1) % 3;
    let said = cli_ok(&cluster, &["transfer", &cluster.name(next)]);
    assert_eq!(said, format!("{} leads\n", cluster.name(next)));
    assert_eq!(cluster.wait_for_leader(), next);
    // Asked of any node, and without a name to whoever is furthest.
    let answer = post(&cluster, leader, "/v1/cluster/leader", "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_ne!(answer.json()["leader"]["node_id"], cluster.name(next));
    let output = cli(&cluster, &["transfer", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_learner_stays_one_until_it_is_promoted_and_hears_of_its_removal() {
    let mut cluster = Cluster::start_with_room(3, 4);
    cluster.spawn_to_join(3, 2, &["--learner"]);
    wait_for("the learner", || {
        let found = members(&cluster, 0).into_iter().find(|m| m["node_id"] == "node4")?;
        assert_eq!((&found["voter"], &found["promote"]), (&false.into(), &Value::Null));
        Some(())
    });
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200);
    wait_for("its data", || cluster.get(3, "k").ok().filter(|a| a.text() == "v"));
    let leader = cluster.wait_for_leader();
    let peers = cluster.status(leader).unwrap()["peers"].clone();
    let learner = peers.as_array().unwrap().iter().find(|p| p["node_id"] == "node4").unwrap();
    assert_eq!((&learner["voter"], &learner["mode"]), (&false.into(), &"replicate".into()), "{learner}");
    assert_error(
        &post(&cluster, 0, "/v1/cluster/leader", r#"{"node_id":"node4"}"#),
        409,
        "conflict",
        &["only a voter can lead"],
    );
    // It never campaigns, so nobody tells it by himself that it is removed.
    let listed = cli_ok(&cluster, &["member", "list"]);
    assert!(listed.lines().any(|l| l.starts_with("node4") && l.contains("learner")), "{listed}");
    cli_ok(&cluster, &["member", "remove", "node4"]);
    assert_eq!(cluster.wait_exit(3).code(), Some(4), "{}", cluster.log(3));
    cluster.spawn_to_join(3, 2, &["--learner"]);
    assert_eq!(cluster.wait_exit(3).code(), Some(4), "{}", cluster.log(3));

    // Its name may come back, its identity not.
    let gone = format!(
        r#"{{"node_id":"n9","member_id":"{}","raft_addr":"10.0.0.1:1","http_addr":"10.0.0.1:2"}}"#,
        learner["member_id"].as_str().unwrap()
    );
    let answer = post(&cluster, 0, "/v1/cluster/members", &gone);
    assert_error(&answer, 409, "conflict", &["was removed from this cluster and never returns"]);
    fs::remove_dir_all(cluster.data_dir(3)).unwrap();
    cluster.spawn_to_join(3, 2, &["--learner"]);
    wait_for("the learner again", || (members(&cluster, 0).len() == 4).then_some(()));
    cli_ok(&cluster, &["member", "promote", "node4"]);
    wait_for_voters(&cluster, &[0, 1, 2, 3]);
}

/// Its own command line, which says `--learner`, had let it in as one that does not vote, and a vote was lost.
#[test]
fn a_voter_that_is_replaced_by_a_learner_leaves_its_vote_to_it() {
    let mut cluster = Cluster::start_with_room(3, 4);
    cluster.spawn_to_join(3, 2, &["--learner"]);
    wait_for("the learner", || (members(&cluster, 0).len() == 4).then_some(()));
    assert_eq!(voters(&cluster, 0), names(&cluster, &[0, 1, 2]));
    cli_ok(&cluster, &["member", "replace", "node2", "node4"]);
    assert_eq!(cluster.wait_exit(1).code(), Some(4), "{}", cluster.log(1));
    wait_for_voters(&cluster, &[0, 2, 3]);
}

#[test]
fn who_joins_under_a_name_that_is_taken_ends_with_4_and_the_repair() {
    let mut cluster = Cluster::start_with_room(1, 2);
    let mut stranger = cluster_command(&cluster, &["--node-id", "node1"]);
    let output = stranger.output().expect("dkv-server runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(
        said.contains("the name belongs to member node1") && said.contains("member replace node1 node1"),
        "{said}"
    );
    let output = cluster_command(&cluster, &[]).output().expect("dkv-server runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("--node-id"), "{said}");
    // A store of one grows as well.
    cluster.spawn_to_join(1, 0, &[]);
    wait_for_voters(&cluster, &[0, 1]);
}

/// `dkv-server --join`, at the addresses of node 2.
fn cluster_command(cluster: &Cluster, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dkv-server"));
    command.args(["--join", &cluster.http_addr(0), "--raft-addr", &cluster.raft_addr(1)]);
    command.args(["--http-addr", &cluster.http_addr(1), "--data-dir"]).arg(cluster.dir.join("stranger"));
    command.args(more);
    command
}

#[test]
fn a_rolling_restart_of_all_five_fails_no_operation_of_a_client() {
    let mut cluster = Cluster::start(5);
    let clients = Clients::start(&cluster, 4);
    clients.wait_for(50);
    let first = cluster.wait_for_leader();
    let mut leaders_stopped = 0;
    for n in (0..5).map(|i| (first + i) % 5) {
        let leads = cluster.status(n).is_some_and(|s| s["role"] == "leader");
        leaders_stopped += usize::from(leads);
        assert_eq!(cluster.stop(n).code(), Some(0), "{}", cluster.log(n));
        // Without it clients would see nothing either: they are patient enough for an election.
        assert!(!leads || cluster.log(n).contains("transfers its leadership to"), "{}", cluster.log(n));
        clients.wait_for(10);
        cluster.spawn(n);
        wait_for("the node to be ready again", || {
            cluster.request(n, "GET", "/readyz", &[], b"").ok().filter(|a| a.status == 200)
        });
        assert!(!cluster.log(n).contains("nobody took the leadership over"), "{}", cluster.log(n));
    }
    assert!(leaders_stopped > 0, "no leader was stopped: nothing was tried");
    clients.wait_for(50);
    let history = clients.finish();
    println!("{} operations, {leaders_stopped} leaders stopped", history.len());
    check::check_revisions(&history).unwrap_or_else(|fault| panic!("{fault}"));
    check::check_linearizable(&history, &check::Limits::default()).unwrap_or_else(|fault| panic!("{fault}"));
    cluster.wait_for_equal_state();
}

/// Ctrl-C of a whole cluster, after which its nodes warned of each other.
#[test]
fn nodes_that_are_stopped_together_warn_of_nothing() {
    let mut cluster = Cluster::start(3);
    (0..3).for_each(|n| cluster.signal(n, "INT"));
    for n in 0..3 {
        assert_eq!(cluster.wait_exit(n).code(), Some(0), "{}", cluster.log(n));
        let log = cluster.log(n);
        let (_, afterwards) = log.split_once("SIGINT: stopping").expect("the signal is logged");
        assert!(!afterwards.contains("[WARN]"), "{}: {afterwards}", cluster.name(n));
    }
}

/// A slip in an address once had the other port of a member asked who it is, and the answer named the wrong thing.
#[test]
fn a_new_member_at_another_members_other_port_is_refused_with_the_field_and_the_member() {
    let cluster = Cluster::start(1);
    let (http, raft) = (cluster.http_addr(0), cluster.raft_addr(0));
    for (field, raft_addr, http_addr, says) in [
        ("raft_addr", http.as_str(), "10.9.9.9:2", "it is the http_addr of member node1"),
        ("http_addr", "10.9.9.9:1", raft.as_str(), "it is the raft_addr of member node1"),
    ] {
        let body = serde_json::json!({ "node_id": "n9", "raft_addr": raft_addr, "http_addr": http_addr });
        let answer =
            cluster.request(0, "POST", "/v1/cluster/members", &[], body.to_string().as_bytes()).unwrap();
        assert_eq!(answer.status, 400, "{}", answer.text());
        let said = answer.text();
        assert!(said.contains("invalid_request") && said.contains(&format!("{field}: ")), "{said}");
        assert!(said.contains(says), "{said}");
    }
}
