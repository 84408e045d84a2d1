//! Counters, versions and shaped lists on real nodes: the example, the commands, and what is remembered under an idempotency
//! key.

use std::time::Duration;

#[path = "support/cluster.rs"]
#[allow(dead_code)]
mod cluster;
#[path = "../examples/counter.rs"]
#[allow(dead_code)]
mod counter;

use cluster::Cluster;
use dkv::client::{Client, ClientError, Condition, WriteOptions};

#[test]
fn the_example_counts_every_addition_once() {
    let cluster = Cluster::start(3);
    assert_eq!(counter::count(&cluster.http_addr(0), "visits").unwrap(), "visits: 0 + 100 = 100");
    assert_eq!(counter::count(&cluster.http_addr(2), "visits").unwrap(), "visits: 100 + 100 = 200");
}

/// A repetition is told the sum of its own addition, not the present one; the same key with another amount is refused.
#[test]
fn an_addition_that_is_repeated_gets_its_own_sum_again() {
    let cluster = Cluster::start(3);
    let add = |node, query: &str, key: &str| {
        let target = format!("/v1/kv/n?{query}");
        cluster.request(node, "POST", &target, &[("Idempotency-Key", key)], b"").unwrap()
    };
    let first = add(0, "add=5", "one");
    assert_eq!((first.status, first.json()["value"].as_i64()), (200, Some(5)));
    assert_eq!(add(1, "add=7", "two").json()["value"], 12);
    let again = add(2, "add=5", "one");
    assert_eq!((again.header("Dkv-Replayed"), again.json()), (Some("true"), first.json()));
    assert_eq!(add(0, "add=6", "one").status, 422);
    assert_eq!(cluster.get(1, "n").unwrap().text(), "12");
    // What was refused is remembered, too.
    assert_eq!(cluster.put(0, "n", "many").unwrap().status, 200);
    assert_eq!(add(0, "add=1", "three").status, 409);
    assert_eq!(cluster.put(0, "n", "1").unwrap().status, 200);
    let refused = add(1, "add=1", "three");
    assert_eq!((refused.status, refused.header("Dkv-Replayed")), (409, Some("true")));
    assert_eq!(cluster.get(1, "n").unwrap().text(), "1");
}

/// `curl -X POST` without `-d` sends no Content-Length: such a request has no body, and the next one follows it.
#[test]
fn an_addition_needs_no_length() {
    let cluster = Cluster::start(1);
    let mut connection = cluster::Connection::open(&cluster.http_addr(0)).unwrap();
    let request = b"POST /v1/kv/n?add=1 HTTP/1.1\r\nHost: h\r\n\r\n";
    connection.send(&[&request[..], request].concat()).unwrap();
    for value in 1..=2 {
        let answer = connection.read_answer().unwrap();
        assert_eq!((answer.status, answer.json()["value"].as_i64()), (200, Some(value)), "{}", answer.text());
    }
    let body = connection.request("POST", "/v1/kv/n?add=1", &[], b"x").unwrap();
    assert_eq!(body.status, 400, "a body is refused as before");
}

#[test]
fn the_client_counts_under_conditions() {
    let cluster = Cluster::start(1);
    let client = Client::new(&[cluster.http_addr(0)], Duration::from_secs(10)).unwrap();
    let add = |condition| client.add(b"n", -3, &WriteOptions { condition, ..WriteOptions::default() });
    assert_eq!(add(Some(Condition::Absent)).unwrap().reply.value, -3);
    assert_eq!(add(Some(Condition::Version(1))).unwrap().reply.value, -6);
    match add(Some(Condition::Version(1))) {
        Err(ClientError::Refused(detail)) => assert_eq!(detail.version, Some(2)),
        other => panic!("the version was another: {other:?}"),
    }
    let put = |condition| client.put(b"n", b"v", &WriteOptions { condition, ..WriteOptions::default() });
    assert!(put(Some(Condition::Version(0))).is_err());
    assert_eq!(put(Some(Condition::Version(2))).unwrap().reply.version, 3);
    match add(None) {
        Err(ClientError::Refused(detail)) => {
            assert_eq!((detail.code.as_str(), detail.version), ("conflict", Some(3)))
        }
        other => panic!("no counter: {other:?}"),
    }
    let delete = |version| {
        let condition = Some(Condition::Version(version));
        client.delete(b"n", &WriteOptions { condition, ..WriteOptions::default() })
    };
    assert!(delete(2).is_err());
    assert_eq!(delete(3).unwrap().reply.deleted, 1);
}

#[test]
fn add_prints_the_sum_and_says_why_not() {
    let cluster = Cluster::start(1);
    let one = |args: &[&str]| cluster.cli(args);
    assert_eq!(one(&["add", "n"]), (Some(0), "1\n".to_owned()));
    assert_eq!(one(&["add", "n", "-42"]), (Some(0), "-41\n".to_owned()));
    assert_eq!(one(&["get", "n"]), (Some(0), "-41".to_owned()));
    assert_eq!(
        one(&["add", "n", "1", "-o", "json"]),
        (Some(0), "{\"revision\":4,\"version\":3,\"value\":-40}\n".to_owned())
    );
    let (code, text) = one(&["add", "n", "1", "--if-version", "2"]);
    assert!(code == Some(1) && text.contains("last written at revision 4 (version 3)"), "{text}");
    assert_eq!(one(&["set", "n", "many", "--if-version", "3"]).0, Some(0));
    let (code, text) = one(&["add", "n"]);
    assert!(code == Some(1) && text.contains("no counter"), "{text}");
    assert_eq!(one(&["delete", "n", "--if-version", "9"]).0, Some(1));
    assert_eq!(one(&["delete", "n", "--if-version", "4"]).0, Some(0));
    for bad in [&["add", "n", "x"][..], &["add", "n", "9223372036854775808"], &["add"], &["add", "", "1"]] {
        assert_eq!(one(bad).0, Some(2), "{bad:?}");
    }
}

#[test]
fn ls_shows_folders_and_sorts() {
    let cluster = Cluster::start(1);
    let run = |args: &[&str]| cluster.cli(args);
    for key in ["a", "app/1", "app/db/host", "app/db/port", "b"] {
        assert_eq!(run(&["set", key, "v"]).0, Some(0));
    }
    let listed = |args: &[&str]| {
        let (code, text) = run(&[&["ls", "--keys-only"], args].concat());
        assert_eq!(code, Some(0), "{args:?}: {text}");
        text.lines().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(listed(&["--separator", "/"]), "a app/ b");
    assert_eq!(listed(&["--separator", "/", "--order", "desc"]), "b app/ a");
    assert_eq!(listed(&["app/", "--separator", "/"]), "app/1 app/db/");
    assert_eq!(listed(&["--separator", "/", "--limit", "2"]), "a app/");
    assert_eq!(listed(&["--sort", "mod_revision", "--order", "desc", "--limit", "2"]), "b app/db/port");
    assert_eq!(listed(&["--min-mod-revision", "3", "--max-create-revision", "4"]), "app/1 app/db/host");
    let (_, json) = run(&["ls", "app/", "--separator", "/", "--keys-only", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["count"], &json["folders"][0]["folder"]), (&2.into(), &"app/db/".into()));
    assert_eq!(json["kvs"].as_array().unwrap().len(), 1);
    // As it was, and from any node's own state.
    assert_eq!(listed(&["--separator", "/", "--revision", "2"]), "a");
    assert_eq!(listed(&["--sort", "version", "--revision", "3", "--stale"]), "a app/1");
    assert_eq!(run(&["ls", "--min-mod-revision", "3", "--max-mod-revision", "2"]).0, Some(2));
}
