//! The routes `/get`, `/set` and `/delete`, used as a client uses them that knows nothing else: through every node, across
//! the loss of the leader, and with everything that such a client can get wrong.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[allow(dead_code)]
mod support {
    pub mod cluster;
}

use support::cluster::{Answer, Cluster, Connection, PATIENCE, Setup, wait_for};

/// A client of the flat routes: only 200 is success; a 503 names the leader to go to; a node that cannot be reached is
/// passed over for the next one.
struct FlatClient {
    nodes: Vec<String>,
    current: Cell<usize>,
}

impl FlatClient {
    /// Knows every node, and begins with `first`.
    fn new(cluster: &Cluster, first: usize) -> FlatClient {
        let nodes = (0..cluster.size()).map(|n| cluster.http_addr(n)).collect();
        FlatClient { nodes, current: Cell::new(first) }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<Answer, String> {
        let mut addr = self.nodes[self.current.get()].clone();
        let mut trouble = String::new();
        for _ in 0..2 * self.nodes.len() {
            let headers = [("Content-Type", "application/json")];
            let answer =
                Connection::open(&addr).and_then(|mut c| c.request(method, path, &headers, body.as_bytes()));
            match answer {
                Err(e) => {
                    trouble = format!("{addr}: {e}");
                    self.current.set((self.current.get() + 1) % self.nodes.len());
                    addr = self.nodes[self.current.get()].clone();
                }
                Ok(answer) if answer.status == 503 => {
                    let flat = flat(&answer);
                    trouble = format!("{addr}: {flat:?}");
                    match flat["leader_addr"].as_str() {
                        "" => {}
                        leader => addr = leader.to_owned(),
                    }
                }
                Ok(answer) => return Ok(answer),
            }
        }
        Err(trouble)
    }

    fn success(&self, method: &str, path: &str, body: &str) -> Result<String, String> {
        let answer = self.ask(method, path, body)?;
        if answer.status == 200 { Ok(answer.text()) } else { Err(answer.text()) }
    }

    fn set(&self, key: &str, value: &str) -> Result<String, String> {
        self.success("POST", "/set", &set_body(key, value))
    }

    fn get(&self, key: &str) -> Result<String, String> {
        self.success("GET", &format!("/get?key={key}"), "")
    }

    fn delete(&self, key: &str) -> Result<String, String> {
        self.success("DELETE", &format!("/delete?key={key}"), "")
    }
}

fn five_steps(client: &FlatClient) {
    client.set("mykey", "hello-distributed-world").expect("set mykey \"hello-distributed-world\"");
    assert_eq!(client.get("mykey").expect("get mykey"), "hello-distributed-world");
    client.delete("mykey").expect("delete mykey");
    let gone = client.ask("GET", "/get?key=mykey", "").expect("get mykey");
    assert_eq!((gone.status, gone.header("Content-Type")), (404, Some("text/plain; charset=utf-8")));
    client.delete("mykey").expect("delete mykey again");
}

#[test]
fn the_steps_of_the_first_use_work_through_every_node() {
    let cluster = Cluster::start(5);
    for n in 0..5 {
        five_steps(&FlatClient::new(&cluster, n));
    }
    cluster.wait_for_equal_state();
}

#[test]
fn a_flat_client_survives_the_loss_of_the_leader_through_every_node() {
    let mut cluster = Cluster::start(5);
    for first in 0..5 {
        let client = FlatClient::new(&cluster, first);
        let key = format!("key-{first}");
        client.set(&key, "before").expect("a leader serves");
        let leader = cluster.wait_for_leader();
        cluster.kill(leader);
        // A write on its way may be unknown; setting the same value again is harmless.
        wait_for("a set across the failover", || client.set(&key, "after").ok());
        assert_eq!(client.get(&key).expect("the new leader serves"), "after");
        for n in cluster.running() {
            assert_eq!(FlatClient::new(&cluster, n).get(&key).as_deref(), Ok("after"), "through node {n}");
        }
        client.delete(&key).expect("the new leader serves");
        assert!(client.get(&key).is_err());
        cluster.spawn(leader);
        cluster.wait_for_leader();
    }
}

/// The body of a set.
fn set_body(key: &str, value: &str) -> String {
    serde_json::json!({ "key": key, "value": value }).to_string()
}

/// The flat object of a 503.
fn flat(answer: &Answer) -> BTreeMap<String, String> {
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    let flat: BTreeMap<String, String> = serde_json::from_slice(&answer.body).expect("an object of strings");
    assert_eq!(flat.keys().collect::<Vec<_>>(), ["error", "leader_addr"]);
    flat
}

#[test]
fn a_503_says_in_strings_that_nothing_serves() {
    let mut cluster = Cluster::prepare(3, &Setup::default());
    cluster.spawn(0);
    let alone = wait_for("the port", || cluster.request(0, "GET", "/get?key=k", &[], b"").ok());
    assert_eq!(flat(&alone)["leader_addr"], "", "nobody leads before the cluster is initialized");
    (1..3).for_each(|n| cluster.spawn(n));
    let leader = cluster.wait_for_leader();
    let survivor = (leader + 1) % 3;
    (0..3).filter(|&n| n != survivor).for_each(|n| cluster.kill(n));
    // Until it has noticed, it still counts on the leader that is gone. A write that is on its way there when the
    // leadership ends has an unknown outcome, a 504; a read has not.
    let deadline = Instant::now() + PATIENCE;
    while !flat(&cluster.request(survivor, "GET", "/get?key=k", &[], b"").unwrap())["leader_addr"].is_empty()
    {
        assert!(Instant::now() < deadline, "it never notices that nobody leads");
    }
    let began = Instant::now();
    let body = set_body("k", "v");
    for (method, path, body) in
        [("POST", "/set", body.as_str()), ("GET", "/get?key=k", ""), ("DELETE", "/delete?key=k", "")]
    {
        let answer = cluster.request(survivor, method, path, &[], body.as_bytes()).unwrap();
        assert_eq!(flat(&answer)["leader_addr"], "");
    }
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "a 503 comes when no leader is found, not at some timeout"
    );
    // What was refused never takes effect.
    cluster.spawn(leader);
    cluster.wait_for_leader();
    assert_eq!(cluster.request(survivor, "GET", "/get?key=k", &[], b"").unwrap().status, 404);
}

#[test]
fn both_forms_of_the_routes_see_the_same_keys_and_bytes() {
    let cluster = Cluster::start(1);
    let ask = |method: &str, path: &str, body: &[u8]| cluster.request(0, method, path, &[], body).unwrap();
    assert_eq!(ask("PUT", "/v1/kv/a%20b", b"\xff\0\x01").status, 200);
    for path in ["/get?key=a+b", "/get?key=a%20b", "/get?other=1&key=a+b&key=no&consistency=nonsense"] {
        let answer = ask("GET", path, b"");
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"\xff\0\x01"[..]), "{path}");
        assert_eq!(answer.header("Content-Type"), Some("application/octet-stream"));
        assert_eq!(answer.header("Dkv-Node"), Some("node1"));
        assert!(answer.header("Dkv-Cluster").is_some());
    }
    let set = br#"{"value":"line\nbreak \u0000 \u4f60","more":[1],"key":"\u4f60/?&="}"#;
    assert_eq!(ask("POST", "/set", set).status, 200);
    assert_eq!(ask("GET", "/v1/kv/%E4%BD%A0/%3F&=", b"").body, "line\nbreak \0 你".as_bytes());
    let answer = ask("GET", "/get?key=%E4%BD%A0/?%26%3D", b"");
    assert_eq!(answer.body, "line\nbreak \0 你".as_bytes());
    assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
    // An empty value is a value.
    assert_eq!(ask("POST", "/set", br#"{"key":"empty","value":""}"#).status, 200);
    let empty = ask("GET", "/get?key=empty", b"");
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    assert_eq!(ask("DELETE", "/delete?key=a+b", b"ignored").text(), "The key was deleted.\n");
    assert_eq!(ask("DELETE", "/delete?key=a+b", b"").text(), "The key was not there.\n");
    assert_eq!(ask("GET", "/v1/kv/a%20b", b"").status, 404);
}

#[test]
fn an_idempotency_key_holds_on_these_routes_too() {
    let cluster = Cluster::start(1);
    let set = |value: &str| {
        let headers = [("Idempotency-Key", "once")];
        cluster.request(0, "POST", "/set", &headers, set_body("k", value).as_bytes()).unwrap()
    };
    assert_eq!(set("1").header("Dkv-Replayed"), None);
    assert_eq!(cluster.put(0, "k", "2").unwrap().status, 200);
    let again = set("1");
    assert_eq!((again.status, again.header("Dkv-Replayed")), (200, Some("true")));
    assert_eq!(cluster.get(0, "k").unwrap().text(), "2");
    assert_eq!(set("3").status, 422);
}

#[test]
fn bad_input_gets_a_sentence_and_changes_nothing() {
    let cluster = Cluster::start(1);
    assert_eq!(cluster.put(0, "k", "kept").unwrap().status, 200);
    let revision = cluster.status(0).unwrap()["revision"].clone();
    let long_key = "k".repeat(4097);
    let (get_long, delete_long) = (format!("/get?key={long_key}"), format!("/delete?key={long_key}"));
    let set_long = format!(r#"{{"key":"{long_key}","value":"v"}}"#);
    let set_large = format!(r#"{{"key":"k","value":"{}"}}"#, "v".repeat((1 << 20) + 1));
    let nested = format!(r#"{{"key":"k","value":{}{}}}"#, "[".repeat(9_999), "]".repeat(9_999));
    let table: Vec<(&str, &str, &[u8], u16)> = vec![
        ("GET", "/get", b"", 400),
        ("GET", "/get?", b"", 400),
        ("GET", "/get?key", b"", 400),
        ("GET", "/get?key=", b"", 400),
        ("GET", "/get?KEY=k", b"", 400),
        ("GET", "/get?key=%", b"", 400),
        ("GET", "/get?key=%zz", b"", 400),
        ("GET", "/get?other=k", b"", 400),
        ("GET", &get_long, b"", 413),
        ("POST", "/get?key=k", b"", 405),
        ("PUT", "/get?key=k", b"", 405),
        ("DELETE", "/get?key=k", b"", 405),
        ("PATCH", "/get?key=k", b"", 405),
        ("DELETE", "/delete", b"", 400),
        ("DELETE", "/delete?key=", b"", 400),
        ("DELETE", "/delete?key=%1", b"", 400),
        ("DELETE", &delete_long, b"", 413),
        ("GET", "/delete?key=k", b"", 405),
        ("POST", "/delete?key=k", b"", 405),
        ("POST", "/set", b"", 400),
        ("POST", "/set", b"{", 400),
        ("POST", "/set", b"null", 400),
        ("POST", "/set", b"[]", 400),
        ("POST", "/set", b"\"k\"", 400),
        ("POST", "/set", b"{}", 400),
        ("POST", "/set", br#"{"key":"k"}"#, 400),
        ("POST", "/set", br#"{"value":"v"}"#, 400),
        ("POST", "/set", br#"{"key":"","value":"v"}"#, 400),
        ("POST", "/set", br#"{"key":1,"value":"v"}"#, 400),
        ("POST", "/set", br#"{"key":"k","value":1}"#, 400),
        ("POST", "/set", br#"{"key":"k","value":null}"#, 400),
        ("POST", "/set", br#"{"key":"k","value":"v"} x"#, 400),
        ("POST", "/set", br#"{"key":"k","key":"k","value":"v"}"#, 400),
        ("POST", "/set", br#"{"key":"k","value":"\ud800"}"#, 400),
        ("POST", "/set", b"{\"key\":\"k\",\"value\":\"\xff\"}", 400),
        ("POST", "/set", b"{\"key\":\"k\",\"value\":\"\0\"}", 400),
        ("POST", "/set", b"key=k&value=v", 400),
        ("POST", "/set", nested.as_bytes(), 400),
        ("POST", "/set", set_long.as_bytes(), 413),
        ("POST", "/set", set_large.as_bytes(), 413),
        ("PUT", "/set", br#"{"key":"k","value":"v"}"#, 405),
        ("GET", "/set?key=k", b"", 405),
    ];
    for (method, path, body, status) in table {
        let shown = format!("{method} {path:.40} {:.60}", String::from_utf8_lossy(body));
        let answer = cluster.request(0, method, path, &[], body).unwrap();
        assert_eq!(answer.status, status, "{shown}: {}", answer.text());
        assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"), "{shown}");
        let text = answer.text();
        assert!(text.len() < 300 && text.lines().count() == 1 && text.ends_with('\n'), "{shown}: {text:?}");
        assert_eq!(answer.header("Allow").is_some(), status == 405, "{shown}");
    }
    let set = br#"{"key":"k","value":"v"}"#;
    for (name, value) in
        [("Idempotency-Key", "a b"), ("If-Match", "\"1\""), ("If-None-Match", "*"), ("If-Version", "1")]
    {
        let answer = cluster.request(0, "POST", "/set", &[(name, value)], set).unwrap();
        assert_eq!(answer.status, 400, "{name}: {value}: {}", answer.text());
    }
    for path in ["/get/", "/get/k", "/sets", "/Delete?key=k"] {
        assert_eq!(cluster.request(0, "GET", path, &[], b"").unwrap().status, 404, "{path}");
    }
    assert_eq!(cluster.status(0).unwrap()["revision"], revision, "nothing changed");
    assert_eq!(cluster.get(0, "k").unwrap().text(), "kept");
}
