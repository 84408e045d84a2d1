//! The versions of a key through real nodes: the route, the library and the command line.

#[path = "support/cluster.rs"]
#[allow(dead_code)]
mod cluster;

use std::process::Command;
use std::time::Duration;

use cluster::{Cluster, Setup};
use dkv::api::{HistoryItem, HistoryReply};
use dkv::client::{Client, HistoryOptions};
use serde_json::Value;

fn history(cluster: &Cluster, n: usize, target: &str) -> HistoryReply {
    let answer = cluster.request(n, "GET", &format!("/v1/history/{target}"), &[], b"").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_str(&answer.text()).expect("a page")
}

/// The revision of each version and its value; `-` for a deletion.
fn short(versions: &[HistoryItem]) -> Vec<(u64, String)> {
    let text = |item: &HistoryItem| match item {
        HistoryItem::Put { value, .. } => String::from_utf8_lossy(value).into_owned(),
        HistoryItem::Delete { .. } => "-".to_owned(),
    };
    versions.iter().map(|item| (item.revision(), text(item))).collect()
}

fn revision_of(answer: &cluster::Answer) -> u64 {
    answer.json()["revision"].as_u64().expect("a revision")
}

/// Writes, overwrites and deletes `k`; returns the versions that must come, newest first.
fn write_some(cluster: &Cluster, rounds: usize) -> Vec<(u64, String)> {
    let mut versions = Vec::new();
    for round in 0..rounds {
        for value in [format!("a{round}"), format!("b{round}")] {
            let answer = cluster.put(round % cluster.running().len(), "k", &value).expect("a write");
            versions.push((revision_of(&answer), value));
            cluster.put(0, "other", &round.to_string()).expect("a write");
        }
        let answer = cluster.request(0, "DELETE", "/v1/kv/k", &[], b"").expect("a write");
        versions.push((revision_of(&answer), "-".to_owned()));
    }
    versions.reverse();
    versions
}

#[test]
fn every_node_has_the_same_history_in_pages_of_any_size() {
    let mut cluster = Cluster::start(3);
    let versions = write_some(&cluster, 4);
    for n in 0..3 {
        let whole = history(&cluster, n, "k");
        assert_eq!((short(&whole.versions), whole.floor, &whole.cursor), (versions.clone(), 1, &None));
        let (mut paged, mut target) = (Vec::new(), "k?limit=5".to_owned());
        loop {
            // A page comes from any node, and newer versions do not disturb those that follow.
            let page = history(&cluster, (n + paged.len()) % 3, &target);
            paged.extend(page.versions);
            let Some(cursor) = page.cursor else { break };
            target = format!("k?limit=5&cursor={cursor}");
        }
        assert_eq!(short(&paged), versions);
    }
    assert_eq!(history(&cluster, 0, "nothing").versions, []);
    // A node that was killed has it again, from its snapshot and its log.
    cluster.request(1, "POST", "/v1/snapshots", &[], b"").expect("an answer");
    cluster.kill(1);
    cluster.spawn(1);
    cluster.wait_for_ready();
    assert_eq!(short(&history(&cluster, 1, "k").versions), versions);
}

#[test]
fn what_the_floor_has_passed_is_forgotten_and_the_reply_says_so() {
    let setup = Setup { extra: "retention_revisions: 3\n".to_owned(), ..Setup::default() };
    let cluster = Cluster::start_with(1, &setup);
    cluster.wait_for_leader();
    for value in ["1", "2", "3", "4", "5", "6"] {
        cluster.put(0, "k", value).expect("a write");
    }
    let page = history(&cluster, 0, "k");
    let at = |back: u64| page.revision - back;
    assert_eq!(page.floor, at(3));
    let expected = [(at(0), "6"), (at(1), "5"), (at(2), "4"), (at(3), "3")];
    assert_eq!(short(&page.versions), expected.map(|(revision, value)| (revision, value.to_owned())));
    cluster.request(0, "DELETE", "/v1/kv/k", &[], b"").expect("a write");
    for value in ["1", "2", "3", "4"] {
        cluster.put(0, "other", value).expect("a write");
    }
    assert_eq!(history(&cluster, 0, "k").versions, [], "deleted before the floor: no trace is left");
}

#[test]
fn a_compaction_by_hand_forgets_the_same_on_every_node() {
    let cluster = Cluster::start(3);
    let versions = write_some(&cluster, 3);
    let at = versions[4].0;
    let compact = |n: usize, revision: u64, key: &str| {
        let body = format!("{{\"revision\":{revision}}}");
        let headers = [("Idempotency-Key", key)];
        cluster.request(n, "POST", "/v1/compact", &headers, body.as_bytes()).expect("an answer")
    };
    let first = compact(1, at, "one");
    assert_eq!((first.status, first.json()), (200, serde_json::json!({ "floor": at })));
    let again = compact(2, at, "one");
    assert_eq!((again.header("Dkv-Replayed"), again.json()), (Some("true"), first.json()));
    assert_eq!(compact(0, 2, "two").json(), first.json(), "what is forgotten stays so");
    let future = compact(0, 99_999, "three");
    assert_eq!((future.status, &future.json()["error"]["code"]), (400, &"future_revision".into()));
    for n in 0..3 {
        let page = history(&cluster, n, "k");
        assert_eq!((short(&page.versions), page.floor), (versions[..=4].to_vec(), at));
        let old = cluster.request(n, "GET", &format!("/v1/kv/k?revision={}", at - 1), &[], b"").unwrap();
        assert_eq!((old.status, &old.json()["error"]["revision"]), (410, &at.into()));
        let watch = format!("/v1/watch?prefix=&from={at}");
        assert_eq!(cluster.request(n, "GET", &watch, &[], b"").unwrap().status, 410);
    }
    cluster.wait_for_equal_state();
    let (_, floor) = cluster.cli(&["compact", &(at + 1).to_string()]);
    assert_eq!(floor, format!("{}\n", at + 1));
    assert_eq!(cluster.cli(&["compact", "99999"]).0, Some(2));
    assert_eq!(cluster.cli(&["compact", "0"]).0, Some(2));
}

#[test]
fn the_library_and_the_command_line_show_the_history() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let versions = write_some(&cluster, 2);
    let client = Client::new(&[&cluster.http_addr(0)], Duration::from_secs(30)).expect("a client");
    let first =
        client.history(b"k", &HistoryOptions { limit: Some(4), ..HistoryOptions::default() }).unwrap();
    let rest =
        client.history(b"k", &HistoryOptions { cursor: first.cursor.clone(), ..HistoryOptions::default() });
    let all = [first.versions, rest.unwrap().versions].concat();
    assert_eq!(short(&all), versions);

    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_dkv-cli"))
            .args(["--endpoints", &cluster.http_addr(0)])
            .args(arguments)
            .output()
            .expect("dkv-cli runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let line = |(revision, value): &(u64, String)| match &value[..] {
        "-" => format!("{revision}\tdelete\n"),
        value => format!("{revision}\tput\t{}\t{value}\n", if value.starts_with('a') { 1 } else { 2 }),
    };
    let text: String = versions.iter().map(line).collect();
    assert_eq!(run(&["history", "k"]), (Some(0), text));
    assert_eq!(run(&["history", "k", "--limit", "1"]), (Some(0), line(&versions[0])));
    assert_eq!(run(&["history", "nothing"]), (Some(0), String::new()));
    assert_eq!(run(&["history", "k", "--limit", "0"]).0, Some(2));
    let (_, document) = run(&["history", "k", "-o", "json"]);
    let document: Value = serde_json::from_str(&document).expect("JSON");
    assert_eq!(document["versions"].as_array().expect("a list").len(), versions.len());
    assert_eq!(document["versions"][0]["type"], "delete");
}
