//! Every command keeps to one cluster, whatever answers at the addresses that it was given or has learnt; and what it says
//! when that cluster does not serve.

use std::fs;
use std::process::{Child, Command, Stdio};

use super::cluster::{Cluster, Connection, Setup, wait_for};
use super::{code, command, run, said};

/// A store of one node that has taken an address of another cluster.
struct Stranger {
    addr: String,
    child: Child,
}

impl Stranger {
    /// At the client address of node `n`, which is down.
    fn start(cluster: &Cluster, n: usize) -> Stranger {
        let addr = cluster.http_addr(n);
        let config = cluster.dir.join("stranger.yaml");
        let text = format!(
            "node_id: stranger\ndata_dir: {}\npeers: [{{ node_id: stranger, raft_addr: \"{}:19999\", http_addr: \"{addr}\" }}]\n",
            cluster.dir.join("stranger").display(),
            cluster.ip
        );
        fs::write(&config, text).unwrap();
        let mut server = Command::new(env!("CARGO_BIN_EXE_dkv-server"));
        server.arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let stranger = Stranger { addr, child: server.spawn().unwrap() };
        wait_for("the stranger is ready", || (stranger.get("/readyz")?.status == 200).then_some(()));
        stranger
    }

    fn get(&self, path: &str) -> Option<super::cluster::Answer> {
        Connection::open(&self.addr).ok()?.request("GET", path, &[], b"").ok()
    }

    fn status(&self) -> serde_json::Value {
        self.get("/v1/status").unwrap().json()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// n3 is stopped and a foreign store of one node starts at its address; n2 dies. `get` said "no such key", and `set` said
/// OK: into the foreign store.
#[test]
fn a_learnt_address_leads_into_no_other_cluster() {
    let mut cluster = Cluster::start_calm(3);
    let one = cluster.http_addr(0);
    assert_eq!(code(&run(&one, &["set", "a", "ours"])), 0);
    cluster.wait_for_equal_state();
    let own = cluster.status(0).unwrap()["cluster_id"].as_str().unwrap().to_owned();
    cluster.kill(2);
    let stranger = Stranger::start(&cluster, 2);
    let before = stranger.status();
    let other = before["cluster_id"].as_str().unwrap().to_owned();
    cluster.wait_for_leader();

    // There is a leader, and a foreign node at a member's address.
    let output = run(&one, &["status"]);
    assert_eq!(code(&output), 1, "{}", said(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    let text = format!("node3 does not answer: {} belongs to cluster {other}, not to {own}", stranger.addr);
    assert!(table.contains(&text), "{table}");

    cluster.kill(1);
    let file = cluster.dir.join("lines.jsonl");
    fs::write(&file, "{\"key\":\"a\",\"value\":\"imported\"}\n").unwrap();
    let (file, backup) = (file.to_str().unwrap(), cluster.dir.join("backup"));
    // A leader that lost its majority leaves a read without an answer; one that has stepped down says so.
    wait_for("nobody leads", || (cluster.status(0)?["leader"].is_null()).then_some(()));
    let commands = [
        &["get", "a"][..],
        &["set", "a", "theirs"],
        &["delete", "a"],
        &["list"],
        &["export"],
        &["import", file],
        &["snapshot", "save", backup.to_str().unwrap()],
        &["verify", "--seconds", "1", "--clients", "2"],
        &["status"],
    ];
    // What operators ask a node does one after the other.
    let changes = [
        &["member", "remove", "node2"][..],
        &["member", "add", "n9", "--raft-addr", "127.0.0.1:1", "--http-addr", "127.0.0.1:2"],
        &["transfer"],
    ];
    let start = |args: &[&str]| {
        let args = [&["--timeout", "6"], args].concat();
        command(&one, &args).current_dir(&cluster.dir).spawn().unwrap()
    };
    // The others all at once: each waits until its time is over.
    let running = commands.map(start);
    let outputs = running.into_iter().map(|child| child.wait_with_output().unwrap()).collect::<Vec<_>>();
    let changed = changes.map(|args| start(args).wait_with_output().unwrap());
    for (args, output) in commands.iter().chain(&changes).zip(outputs.into_iter().chain(changed)) {
        let said = format!("{}{}", said(&output), String::from_utf8_lossy(&output.stdout));
        assert_eq!(code(&output), 3, "{args:?}: {said}");
        assert!(said.contains(&format!("{} belongs to cluster {other}", stranger.addr)), "{args:?}: {said}");
    }
    assert!(!backup.exists());
    let after = stranger.status();
    for field in ["revision", "last", "state_hash"] {
        assert_eq!(before[field], after[field], "the foreign store was changed: {field}");
    }

    // Whoever means the other cluster says so.
    let both = format!("{one},{}", stranger.addr);
    let output = run(&both, &["set", "a", "theirs", "--cluster", &other.to_uppercase()]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    assert!(
        said(&output).contains(&format!("{one} belongs to cluster {own}, not to {other}")),
        "{}",
        said(&output)
    );
    let output = command(&both, &["get", "a"]).env("DKV_CLUSTER", &other).output().unwrap();
    assert_eq!((code(&output), &output.stdout[..]), (0, &b"theirs"[..]), "{}", said(&output));
    // Otherwise the first one that answers counts, and both are named.
    let output = run(&both, &["get", "a", "--stale"]);
    assert_eq!((code(&output), &output.stdout[..]), (0, &b"ours"[..]), "{}", said(&output));
    let named = format!("several clusters: {one} to {own}, {} to {other}", stranger.addr);
    assert!(said(&output).contains(&named), "{}", said(&output));

    cluster.spawn(1);
    cluster.wait_for_leader();
    assert_eq!(run(&one, &["get", "a"]).stdout, b"ours");
}

#[test]
fn a_node_says_its_cluster_on_every_answer_and_none_before_it_has_one() {
    let mut cluster = Cluster::prepare(2, &Setup::default());
    cluster.spawn(0);
    let ask = |path: &str| cluster.request(0, "GET", path, &[], b"").ok();
    // What no route sees is the edge's own answer.
    let own_answer = || {
        let mut connection = Connection::open(&cluster.http_addr(0)).ok()?;
        connection.send(b"nonsense\r\n\r\n").ok()?;
        connection.read_answer().ok()
    };
    wait_for("it answers", || ask("/healthz"));
    for path in ["/healthz", "/readyz", "/v1/status", "/v1/kv/k", "/nowhere"] {
        assert_eq!(ask(path).unwrap().header("Dkv-Cluster"), None, "{path}");
    }
    assert_eq!(own_answer().unwrap().header("Dkv-Cluster"), None);
    let addr = cluster.http_addr(0);
    let output = run(&addr, &["set", "k", "v", "--timeout", "1"]);
    assert_eq!(code(&output), 3, "{}", said(&output));
    let text = format!("{addr} names no cluster: the cluster is not initialized yet");
    assert!(said(&output).contains(&text), "{}", said(&output));
    let output = run(&addr, &["status", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &report["health"]), (3, &"no_leader".into()), "{report}");

    cluster.spawn(1);
    cluster.wait_for_leader();
    cluster.wait_for_ready();
    let ask = |path: &str| cluster.request(0, "GET", path, &[], b"").unwrap();
    let id = ask("/v1/status").json()["cluster_id"].as_str().unwrap().to_owned();
    assert!(dkv::api::is_cluster_id(&id), "{id}");
    for path in
        ["/healthz", "/readyz", "/v1/status", "/v1/cluster", "/v1/kv/k", "/v1/kv", "/nowhere", "/metrics"]
    {
        assert_eq!(ask(path).header("Dkv-Cluster"), Some(&id[..]), "{path}");
    }
    let mut connection = Connection::open(&cluster.http_addr(0)).unwrap();
    connection.send(b"nonsense\r\n\r\n").unwrap();
    assert_eq!(connection.read_answer().unwrap().header("Dkv-Cluster"), Some(&id[..]));
}

/// A request that is meant for another cluster does nothing here: the address may have changed hands since the client asked.
#[test]
fn a_request_meant_for_another_cluster_is_refused_and_changes_nothing() {
    let cluster = Cluster::start(1);
    let id = cluster.status(0).unwrap()["cluster_id"].as_str().unwrap().to_owned();
    let put = |meant: &str| cluster.request(0, "PUT", "/v1/kv/k", &[("Dkv-Cluster", meant)], b"v").unwrap();
    for path in ["/v1/kv/k", "/v1/cluster/members", "/v1/snapshots", "/v1/log-level"] {
        let method = if ["/v1/kv/k", "/v1/log-level"].contains(&path) { "PUT" } else { "POST" };
        let answer = cluster.request(0, method, path, &[("Dkv-Cluster", "00000000000000cc")], b"{}").unwrap();
        assert_eq!(
            (answer.status, answer.json()["error"]["code"].as_str()),
            (409, Some("conflict")),
            "{path}"
        );
        assert_eq!(answer.outcome(), "not_done");
        assert!(
            answer.text().contains(&id) && answer.text().contains("00000000000000cc"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(put("cc").status, 400);
    assert_eq!(cluster.status(0).unwrap()["revision"], 1);
    assert_eq!(put(&id).status, 200);
}

/// Nobody answers at the address of the new member: the command ended with "the timeout is too short", and with 3.
#[test]
fn a_change_that_is_refused_until_the_time_is_over_ends_with_the_refusal() {
    let cluster = Cluster::start(1);
    let (nobody, clients) = (format!("{}:1", cluster.ip), format!("{}:2", cluster.ip));
    let add = ["--timeout", "1", "member", "add", "n9", "--raft-addr", &nobody, "--http-addr", &clients];
    let output = run(&cluster.http_addr(0), &add);
    assert_eq!(code(&output), 1, "{}", said(&output));
    let text = format!("n9 is not added: no new node answers at {nobody}");
    assert!(said(&output).contains(&text) && said(&output).contains("(conflict)"), "{}", said(&output));
    let output = run(&cluster.http_addr(0), &[&["-o", "json"], &add[..]].concat());
    let json: serde_json::Value = serde_json::from_str(said(&output).lines().last().unwrap()).unwrap();
    assert_eq!((code(&output), &json["error"]["code"]), (1, &"conflict".into()), "{json}");
    assert_eq!((&json["error"]["temporary"], &json["error"]["outcome"]), (&true.into(), &"not_done".into()));
}

#[test]
fn a_store_of_one_node_is_well_with_that_node_and_ill_without_it() {
    let mut cluster = Cluster::start(1);
    let addr = cluster.http_addr(0);
    let output = run(&addr, &["status", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &report["health"]), (0, &"ok".into()), "{report}");
    // It is said to nobody that there are others.
    assert!(cluster.stop(0).success());
    let log = cluster.log(0);
    for words in ["the others", "nobody took", "every node"] {
        assert!(!log.contains(words), "{words}: {log}");
    }
    let output = run(&addr, &["status", "--timeout", "0.5"]);
    assert_eq!(code(&output), 3);
    for words in ["the nodes run", "names one of them", "no node could"] {
        assert!(!said(&output).contains(words), "{words}: {}", said(&output));
    }
}

/// The node was told to join one cluster; another one answers at the address.
#[test]
fn a_node_that_joins_one_cluster_does_not_ask_another() {
    let mut cluster = Cluster::start_with_room(1, 2);
    cluster.spawn_to_join(1, 0, &["--cluster", "00000000000000cc"]);
    let text = "not to 00000000000000cc";
    wait_for("it says why it waits", || cluster.log(1).contains(text).then_some(()));
    assert_eq!(cluster.status(0).unwrap()["last"], cluster.status(0).unwrap()["commit"]);
    let members = cluster.request(0, "GET", "/v1/cluster/members", &[], b"").unwrap().json();
    assert_eq!(members["members"].as_array().unwrap().len(), 1, "{members}");
    cluster.kill(1);
    let own = cluster.status(0).unwrap()["cluster_id"].as_str().unwrap().to_owned();
    cluster.spawn_to_join(1, 0, &["--cluster", &own]);
    wait_for("it is let in", || cluster.log(1).contains(&format!("let into cluster {own}")).then_some(()));
    wait_for("it is of that cluster", || (cluster.status(1)?["cluster_id"] == own.as_str()).then_some(()));
    let mut bad = Command::new(env!("CARGO_BIN_EXE_dkv-server"));
    bad.args(["--join", &cluster.http_addr(0), "--node-id", "n", "--raft-addr", "h:1", "--http-addr", "h:2"]);
    let output =
        bad.arg("--data-dir").arg(cluster.dir.join("bad")).args(["--cluster", "cc"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("16 hexadecimal digits"), "{}", said(&output));
}
