//! Writes that show what was there before.

#[path = "support/cluster.rs"]
#[allow(dead_code)]
mod cluster;

use cluster::{Answer, Cluster, Setup};
use serde_json::json;

fn ask(
    cluster: &Cluster,
    n: usize,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    cluster.request(n, method, target, headers, body.as_bytes()).expect("an answer")
}

#[test]
fn writes_show_the_record_that_they_replace_or_remove() {
    let cluster = Cluster::start(3);
    let put = |n, value| ask(&cluster, n, "PUT", "/v1/kv/a?prev=true", &[], value);
    let first = put(0, "1");
    let created = first.json()["revision"].clone();
    assert_eq!(
        first.json(),
        json!({"revision": created, "create_revision": created, "version": 1, "prev": null})
    );
    let second = put(1, "2").json();
    let was =
        json!({"key": "a", "value": "1", "create_revision": created, "mod_revision": created, "version": 1});
    assert_eq!((&second["prev"], &second["version"]), (&was, &json!(2)));
    let deleted = ask(&cluster, 2, "DELETE", "/v1/kv/a?prev=true", &[], "");
    assert!(deleted.header("Dkv-Index").is_some());
    let deleted = deleted.json();
    assert_eq!((&deleted["deleted"], &deleted["prev"]["value"]), (&json!(1), &json!("2")));
    let nothing = ask(&cluster, 0, "DELETE", "/v1/kv/a?prev=true", &[], "").json();
    assert_eq!(nothing, json!({"revision": deleted["revision"], "deleted": 0, "prev": null}));
    for key in ["r/1", "r/2", "s"] {
        cluster.put(0, key, key).unwrap();
    }
    let range = ask(&cluster, 1, "DELETE", "/v1/kv?prefix=r/&prev=true", &[], "").json();
    let keys: Vec<_> = range["prev"].as_array().unwrap().iter().map(|record| record["key"].clone()).collect();
    assert_eq!((&range["deleted"], keys), (&json!(2), vec![json!("r/1"), json!("r/2")]));
    let none = ask(&cluster, 1, "DELETE", "/v1/kv?prefix=r/&prev=true", &[], "").json();
    assert_eq!((&none["deleted"], &none["prev"]), (&json!(0), &json!([])));
    assert_eq!(cluster.get(2, "s").unwrap().text(), "s");
    cluster.wait_for_equal_state();
}

/// As without `prev`, to the last field.
#[test]
fn conditions_of_writes_that_show_what_was_there_hold_as_without() {
    let extra = "limits: { max_value_bytes: 2000000, max_request_bytes: 4000000 }\n".to_owned();
    let mut cluster = Cluster::prepare(1, &Setup { extra, ..Setup::default() });
    cluster.spawn(0);
    cluster.wait_for_leader();
    cluster.put(0, "a", "1").unwrap();
    // More than an answer of a transaction may have.
    cluster.put(0, "large", &"v".repeat(1_900_000)).unwrap();
    let at = cluster.get(0, "a").unwrap().header("ETag").unwrap().to_owned();
    for (header, value) in [
        ("If-None-Match", "*"),
        ("If-Match", "\"1\""),
        ("If-Match", "\"99\""),
        ("If-Version", "2"),
        ("If-Version", "0"),
    ] {
        for (method, key) in [("PUT", "a"), ("DELETE", "a"), ("PUT", "large"), ("DELETE", "large")] {
            let [with, without] = ["?prev=true", ""]
                .map(|how| ask(&cluster, 0, method, &format!("/v1/kv/{key}{how}"), &[(header, value)], ""));
            assert_eq!(with.status, 412, "{method} {key} {header}: {value}: {}", with.text());
            assert_eq!(with.json(), without.json(), "{method} {key} {header}: {value}");
        }
    }
    for (method, header, value) in
        [("PUT", "If-Match", "*"), ("DELETE", "If-None-Match", "*"), ("PUT", "If-Version", "1")]
    {
        let answer = ask(&cluster, 0, method, "/v1/kv/none?prev=true", &[(header, value)], "");
        let holds = header == "If-None-Match";
        assert_eq!(answer.status, if holds { 200 } else { 412 }, "{method} {header}: {}", answer.text());
        assert!(holds || answer.json()["error"]["mod_revision"] == 0);
    }
    let put = ask(&cluster, 0, "PUT", "/v1/kv/a?prev=true&ttl_s=600", &[("If-Match", &at)], "2").json();
    assert_eq!(put["prev"]["value"], "1");
    let leased = ask(&cluster, 0, "PUT", "/v1/kv/a?prev=true", &[("If-Version", "2")], "3").json();
    assert!(leased["prev"]["lease"].is_string(), "{leased}");
}

/// The metric tells what clients were told, however their writes are made.
#[test]
fn a_condition_that_does_not_hold_is_counted_as_such_with_prev_and_in_a_transaction() {
    let cluster = Cluster::start(1);
    cluster.put(0, "a", "1").unwrap();
    let counted = |outcome: &str| {
        let name = format!("dkv_writes_total{{outcome=\"{outcome}\"}} ");
        let text = cluster.request(0, "GET", "/metrics", &[], b"").unwrap().text();
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok()).expect("the metric")
    };
    let writes: [(&str, &str, &[_], &str, [u64; 2]); 6] = [
        ("PUT", "/v1/kv/a", &[("If-Match", "\"99\"")], "x", [0, 1]),
        ("PUT", "/v1/kv/a?prev=true", &[("If-Match", "\"99\"")], "x", [0, 1]),
        ("DELETE", "/v1/kv/a?prev=true", &[("If-None-Match", "*")], "", [0, 1]),
        (
            "POST",
            "/v1/txn",
            &[],
            r#"{"if":[{"key":"a","version":9}],"then":[{"put":{"key":"a","value":"x"}}]}"#,
            [0, 1],
        ),
        (
            "POST",
            "/v1/txn",
            &[],
            r#"{"if":[{"key":"a","version":9}],"else":[{"put":{"key":"b","value":"x"}}]}"#,
            [1, 0],
        ),
        ("PUT", "/v1/kv/a?prev=true", &[("If-Version", "1")], "x", [1, 0]),
    ];
    for (method, target, headers, body, more) in writes {
        let before = [counted("done"), counted("precondition_failed")];
        ask(&cluster, 0, method, target, headers, body);
        let after = [counted("done"), counted("precondition_failed")];
        assert_eq!([after[0] - before[0], after[1] - before[1]], more, "{method} {target} {body}");
    }
}

#[test]
fn a_repetition_shows_the_same_record_or_says_that_it_is_truncated() {
    let cluster = Cluster::start(3);
    let put = |n, key: &str, value: &str| {
        ask(&cluster, n, "PUT", &format!("/v1/kv/{key}?prev=true"), &[("Idempotency-Key", key)], value)
    };
    let long = "v".repeat(20_000);
    cluster.put(0, "long", &long).unwrap();
    cluster.put(0, "short", "1").unwrap();
    let first = put(0, "short", "2");
    let again = put(1, "short", "2");
    assert_eq!((again.header("Dkv-Replayed"), again.json()), (Some("true"), first.json()));
    let first = put(2, "long", "2").json();
    assert_eq!(first["prev"]["value"], long.as_str());
    let again = put(0, "long", "2").json();
    assert_eq!(again, json!({"revision": first["revision"], "truncated": true}));
    assert_eq!(put(0, "long", "3").status, 422);
    let delete =
        |n| ask(&cluster, n, "DELETE", "/v1/kv?prefix=l&prev=true", &[("Idempotency-Key", "d")], "").json();
    cluster.put(0, "long", &long).unwrap();
    let first = delete(0);
    assert_eq!(delete(1), json!({"revision": first["revision"], "deleted": 1, "truncated": true}));
}

#[test]
fn what_is_too_much_to_show_is_not_removed() {
    let cluster = Cluster::start(1);
    for n in 0..3 {
        cluster.put(0, &format!("k/{n}"), &"v".repeat(700_000)).unwrap();
    }
    let answer = ask(&cluster, 0, "DELETE", "/v1/kv?prefix=k/&prev=true", &[], "");
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (413, &json!("too_large")),
        "{}",
        answer.text()
    );
    assert_eq!(ask(&cluster, 0, "DELETE", "/v1/kv?prefix=k/", &[], "").json()["deleted"], 3);
    for (method, target) in [
        ("PUT", "/v1/kv/a?prev=yes"),
        ("PUT", "/v1/kv/a?prev"),
        ("PUT", "/v1/kv/a?prev=true&prev=true"),
        ("DELETE", "/v1/kv/a?prev=1"),
        ("DELETE", "/v1/kv?prev=true"),
        ("DELETE", "/v1/kv?prefix=a&prev=TRUE"),
        ("GET", "/v1/kv/a?prev=true"),
        ("POST", "/v1/kv/a?add=1&prev=true"),
    ] {
        assert_eq!(ask(&cluster, 0, method, target, &[], "").status, 400, "{method} {target}");
    }
}

#[test]
fn dkv_cli_prints_what_was_there_before() {
    let cluster = Cluster::start(1);
    let said = |args: &[&str]| cluster.cli(args);
    let ok = |text: &str| (Some(0), text.to_owned());
    assert_eq!(said(&["set", "a", "1", "--prev"]), ok(""));
    assert_eq!(said(&["set", "a", "2", "--prev", "--ttl", "600"]), ok("1"));
    assert_eq!(said(&["delete", "a", "--prev"]), ok("2"));
    assert_eq!(said(&["delete", "a", "--prev"]).0, Some(1));
    said(&["set", "r/1", "x"]);
    said(&["set", "r/2", "y"]);
    assert_eq!(said(&["delete", "--prefix", "r/", "--prev"]), ok("r/1\tx\nr/2\ty\n"));
    let (_, json) = said(&["set", "a", "3", "--prev", "-o", "json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["prev"], json!(null));
}
