//! Transactions through real nodes: forwarded, repeated, read without an entry of the log; and the example of the library.

#[path = "support/cluster.rs"]
#[allow(dead_code)]
mod cluster;
#[path = "../examples/txn.rs"]
#[allow(dead_code)]
mod example;

use std::time::Duration;

use cluster::{Answer, Cluster, wait_for};
use dkv::client::{Client, Step, Txn, When};
use serde_json::{Value, json};

fn txn(cluster: &Cluster, n: usize, headers: &[(&str, &str)], body: &Value) -> Answer {
    cluster.request(n, "POST", "/v1/txn", headers, body.to_string().as_bytes()).expect("an answer")
}

#[test]
fn a_transaction_through_any_node_is_one_step_on_all() {
    let cluster = Cluster::start(3);
    let put = |n: usize| {
        json!({
            "if": [{"key": "a", "version": n}],
            "then": [{"put": {"key": "a", "value": n.to_string()}}, {"put": {"key": "b", "value": n.to_string()}}],
            "else": [{"get": {"key": "a"}}],
        })
    };
    for n in 0..3 {
        let answer = txn(&cluster, n, &[], &put(n));
        assert_eq!((answer.status, &answer.json()["succeeded"]), (200, &json!(true)), "{}", answer.text());
        let (index, revision) =
            (answer.header("Dkv-Index").unwrap().to_owned(), answer.json()["revision"].clone());
        assert!(index.parse::<u64>().unwrap() > 0);
        for reader in 0..3 {
            let both = json!({"then": [{"get": {"key": "a"}}, {"get": {"key": "b"}}]});
            let read = txn(&cluster, reader, &[], &both).json();
            for at in 0..2 {
                assert_eq!(read["results"][at]["get"]["value"], n.to_string(), "{read}");
                assert_eq!(read["results"][at]["get"]["mod_revision"], revision, "{read}");
            }
        }
    }
    let again = txn(&cluster, 1, &[], &put(1));
    assert_eq!(
        (again.json()["succeeded"].clone(), again.json()["results"][0]["get"]["value"].clone()),
        (json!(false), json!("2"))
    );
    cluster.wait_for_equal_state();
}

/// A repetition gets the remembered answer, whole or truncated, from whichever node.
#[test]
fn a_repeated_transaction_is_answered_and_not_done_again() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    cluster.put(0, "large", &"v".repeat(20_000)).expect("a write");
    let body = |key: &str| json!({"then": [{"put": {"key": "n", "value": key}}, {"delete": {"key": "x"}}, {"get": {"key": key}}]});
    for (key, is_whole) in [("small", true), ("large", false)] {
        let headers = [("Idempotency-Key", key)];
        let first = txn(&cluster, leader, &headers, &body(key));
        assert_eq!((first.status, first.header("Dkv-Replayed")), (200, None));
        assert_eq!(first.json()["results"].as_array().unwrap().len(), 3, "the first answer is whole");
        for n in 0..3 {
            let again = txn(&cluster, n, &headers, &body(key));
            assert_eq!((again.status, again.header("Dkv-Replayed")), (200, Some("true")));
            let revision = first.json()["revision"].clone();
            match is_whole {
                true => assert_eq!(again.json(), first.json()),
                false => {
                    let short = json!({
                        "revision": revision, "succeeded": true, "results": [], "truncated": true, "puts": 1, "deleted": 0
                    });
                    assert_eq!(again.json(), short);
                }
            }
        }
        let other = txn(&cluster, 0, &headers, &body("other"));
        assert_eq!(
            (other.status, other.json()["error"]["code"].clone()),
            (422, json!("idempotency_mismatch"))
        );
    }
    cluster.wait_for_equal_state();
}

#[test]
fn a_transaction_that_can_write_nothing_makes_no_entry_and_may_be_stale() {
    let mut cluster = Cluster::start_calm(3);
    let leader = cluster.wait_for_leader();
    cluster.put(leader, "a", "1").expect("a write");
    cluster.wait_for_equal_state();
    let last = |n: usize| cluster.status(n).expect("it answers")["last"].clone();
    let before = last(leader);
    let read = json!({"if": [{"key": "a", "exists": true}], "then": [{"get": {"key": "a"}}], "else": [{"list": {}}]});
    for n in 0..3 {
        let answer = txn(&cluster, n, &[("Idempotency-Key", "same")], &read);
        assert_eq!((answer.status, answer.json()["results"][0]["get"]["value"].clone()), (200, json!("1")));
        assert_eq!(answer.header("Dkv-Revision"), Some("2"));
        assert!(answer.header("Dkv-Index").is_some() && answer.header("Dkv-Replayed").is_none());
    }
    assert_eq!(last(leader), before, "nothing was proposed");
    let followers: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    cluster.kill(leader);
    cluster.kill(followers[0]);
    let alone = followers[1];
    wait_for("nobody leads", || (cluster.status(alone)?["leader"].is_null()).then_some(()));
    let answer = txn(&cluster, alone, &[], &read);
    assert_eq!((answer.status, answer.outcome()), (503, "not_done".to_owned()), "{}", answer.text());
    let stale = cluster
        .request(alone, "POST", "/v1/txn?consistency=stale", &[], read.to_string().as_bytes())
        .expect("an answer");
    assert_eq!((stale.status, stale.json()["results"][0]["get"]["value"].clone()), (200, json!("1")));
}

#[test]
fn the_example_moves_money_and_loses_none_of_it() {
    let cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let endpoints: Vec<String> = (0..3).map(|n| cluster.http_addr(n)).collect();
    let client = || Client::new(&endpoints, Duration::from_secs(30)).expect("good addresses");
    assert_eq!(example::run(&client()).expect("a transfer"), (70, 30));
    // Many at once, in both directions: each one happens once.
    std::thread::scope(|scope| {
        for n in 0..4 {
            scope.spawn(move || {
                let client = client();
                for _ in 0..5 {
                    let (from, to): (&[u8], &[u8]) = if n % 2 == 0 {
                        (b"account/ann", b"account/bob")
                    } else {
                        (b"account/bob", b"account/ann")
                    };
                    assert!(example::transfer(&client, from, to, 1).expect("a transfer"));
                }
            });
        }
    });
    let (ann, bob) = example::balances(&client(), b"account/ann", b"account/bob").expect("a read");
    assert_eq!((ann, bob), (70, 30));
    // The client says whether a remembered answer came.
    let txn = Txn::new().when(When::key(b"account/ann").exists()).then(Step::put(b"note", b"x"));
    let first = client().txn(&txn, Some("once")).expect("done");
    let again = client().txn(&txn, Some("once")).expect("done");
    assert_eq!((first.replayed, again.replayed, first.reply == again.reply), (false, true, true));
}
