//! Every kind of malformed request, against a real process on both its ports: the answer is an error in the documented
//! form, the process lives, and nothing has changed.
//!
//! What only the edge can see (framing, smuggling, slow clients) has its own suite in `tests/edge.rs`.

#[path = "support/cluster.rs"]
#[allow(dead_code)]
mod cluster;
#[path = "bad_requests/history.rs"]
mod history;
#[path = "bad_requests/leases.rs"]
mod leases;
#[path = "bad_requests/lists.rs"]
mod lists;
#[path = "bad_requests/txn.rs"]
mod txn;
#[path = "bad_requests/watches.rs"]
mod watches;

use cluster::{Answer, Cluster, Connection, Setup};
use serde_json::{Value, json};

/// What a request must be answered with.
struct Case {
    name: String,
    bytes: Vec<u8>,
    status: u16,
    /// The error code; [`PEER`] where a handler of the peer port refuses, [`FLAT`] where one of the flat routes does.
    code: &'static str,
}

fn case(name: impl Into<String>, bytes: impl Into<Vec<u8>>, status: u16, code: &'static str) -> Case {
    Case { name: name.into(), bytes: bytes.into(), status, code }
}

/// A request with its length. `target` and `headers` may hold any bytes.
fn request(method: &str, target: impl AsRef<[u8]>, headers: &[(&str, &[u8])], body: &[u8]) -> Vec<u8> {
    let mut bytes = [method.as_bytes(), b" ", target.as_ref(), b" HTTP/1.1\r\nHost: dkv\r\n"].concat();
    for (name, value) in headers {
        bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// In place of an error code: the peer port's own form.
const PEER: &str = "";
/// In place of an error code: a sentence in plain text.
const FLAT: &str = "a sentence";

/// Status and code of a malformed request.
const INVALID: (u16, &str) = (400, "invalid_request");
const TOO_LARGE: (u16, &str) = (413, "too_large");
const NO_METHOD: (u16, &str) = (405, "method_not_allowed");
const NO_ROUTE: (u16, &str) = (404, "unknown_route");

/// A key of the store, written before the first bad request.
const KEPT: &str = "kept";
/// The only other one.
const ALSO_KEPT: &str = "kept too";

/// Limits below the defaults, so that a body can be a value too long, or a request too long.
const LIMITS: &str = "limits: { max_key_bytes: 100, max_value_bytes: 2000, max_request_bytes: 3000, transfer_timeout_ms: 500 }\n";

struct Server {
    cluster: Cluster,
    before: Value,
}

impl Server {
    fn start() -> Server {
        Server::start_with(LIMITS)
    }

    fn start_with(extra: &str) -> Server {
        let mut cluster = Cluster::prepare(1, &Setup { extra: extra.to_owned(), ..Setup::default() });
        cluster.spawn(0);
        cluster.wait_for_leader();
        for key in [KEPT, &ALSO_KEPT.replace(' ', "%20")] {
            assert_eq!(cluster.put(0, key, "value").expect("a write").status, 200);
        }
        let before = state(&cluster);
        Server { cluster, before }
    }

    /// Sends each request on a connection of its own, and looks whether anything has changed after each.
    fn refuses(&self, address: &str, cases: &[Case]) {
        for Case { name, bytes, status, code } in cases {
            let mut client = Connection::open(address).expect("the process accepts");
            // A request refused early may be answered, and its connection closed, while it is still being sent.
            let _ = client.send(bytes);
            let answer = client.read_answer().unwrap_or_else(|e| panic!("{name}: no answer: {e}"));
            assert_eq!(answer.status, *status, "{name}: {}", answer.text());
            check_error(name, &answer, code);
            if address == self.cluster.http_addr(0) {
                // Also on what no route has seen.
                assert_eq!(answer.header("Dkv-Node"), Some("node1"), "{name}");
                assert_eq!(answer.header("Dkv-Leader"), Some(address), "{name}");
                assert_eq!(answer.header("Dkv-Cluster"), self.before["cluster_id"].as_str(), "{name}");
            }
            assert_eq!(state(&self.cluster), self.before, "{name} changed something");
        }
        assert_eq!(self.cluster.running(), [0]);
        let log = self.cluster.log(0);
        assert!(!log.contains("panicked"), "{log}");
        let kept = self.cluster.get(0, KEPT).expect("a read");
        assert_eq!((kept.status, kept.text()), (200, "value".to_owned()));
    }
}

/// What a bad request must leave as it is. (The applied index stands still, too: nothing was even proposed.)
fn state(cluster: &Cluster) -> Value {
    let status = cluster.status(0).expect("the process answers");
    ["role", "term", "last", "commit", "revision", "state_hash", "member_id", "cluster_id"]
        .iter()
        .map(|&field| (field.to_owned(), status[field].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn check_error(name: &str, answer: &Answer, code: &str) {
    if code == FLAT {
        assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"), "{name}");
        assert!(answer.text().ends_with('\n') && answer.text().len() > 8, "{name}: {}", answer.text());
        return;
    }
    let body = answer.json();
    assert_eq!(answer.header("Content-Type"), Some("application/json"), "{name}");
    if code == PEER {
        assert!(body["refused"].as_str().is_some_and(|text| !text.is_empty()), "{name}: {body}");
        return;
    }
    assert_eq!(body["error"]["code"], code, "{name}: {body}");
    assert_eq!(body["error"]["outcome"], "not_done", "{name}: {body}");
    assert!(body["error"]["message"].as_str().is_some_and(|text| text.len() > 8), "{name}: {body}");
    if answer.status == 405 {
        assert!(answer.header("Allow").is_some_and(|methods| !methods.is_empty()), "{name}");
    }
}

/// A table of `(name, method, target, status and code)`, without headers and body.
fn targets(rows: &[(&str, &str, &str, (u16, &'static str))]) -> Vec<Case> {
    let row = |&(name, method, target, (status, code)): &(&str, &str, &str, (u16, &'static str))| {
        case(format!("{name}: {method} {target}"), request(method, target, &[], b""), status, code)
    };
    rows.iter().map(row).collect()
}

#[test]
fn client_port_refuses_bad_targets() {
    let long_key = format!("/v1/kv/{}", "k".repeat(101));
    let long_escaped = format!("/v1/kv/{}", "%41".repeat(101));
    let rows = [
        ("no key", "GET", "/v1/kv/", INVALID),
        ("no key", "PUT", "/v1/kv/", INVALID),
        ("no key", "DELETE", "/v1/kv/", INVALID),
        ("no key but a query", "GET", "/v1/kv/?consistency=stale", INVALID),
        ("broken escape", "GET", "/v1/kv/%", INVALID),
        ("broken escape", "PUT", "/v1/kv/a%2", INVALID),
        ("broken escape", "PUT", "/v1/kv/a%zz", INVALID),
        ("broken escape", "DELETE", "/v1/kv/%%41", INVALID),
        ("broken escape", "GET", "/v1/kv/%+1", INVALID),
        ("broken escape", "GET", "/v1/kv/%u0041", INVALID),
        ("key too long", "GET", &long_key, TOO_LARGE),
        ("key too long", "PUT", &long_key, TOO_LARGE),
        ("key too long", "DELETE", &long_key, TOO_LARGE),
        ("escaped key too long", "PUT", &long_escaped, TOO_LARGE),
        ("unknown parameter", "GET", "/v1/kv/kept?x=1", INVALID),
        ("unknown parameter", "PUT", "/v1/kv/kept?ttl=5", INVALID),
        ("unknown parameter", "DELETE", "/v1/kv/kept?prefix=true", INVALID),
        ("parameter of a read", "PUT", "/v1/kv/kept?consistency=stale", INVALID),
        ("parameter name in capitals", "GET", "/v1/kv/kept?Consistency=stale", INVALID),
        ("repeated parameter", "GET", "/v1/kv/kept?consistency=stale&consistency=stale", INVALID),
        (
            "repeated parameter, once escaped",
            "GET",
            "/v1/kv/kept?consistency=stale&c%6fnsistency=stale",
            INVALID,
        ),
        ("bad consistency", "GET", "/v1/kv/kept?consistency=", INVALID),
        ("bad consistency", "GET", "/v1/kv/kept?consistency=eventual", INVALID),
        ("bad consistency", "GET", "/v1/kv/kept?consistency=STALE", INVALID),
        ("binary parameter", "GET", "/v1/kv/kept?consistency=%ff%00", INVALID),
        ("broken escape in a query", "GET", "/v1/kv/kept?consistency=%", INVALID),
        ("parameter of a page without any", "GET", "/v1/status?verbose=1", INVALID),
        ("parameter of a page without any", "GET", "/v1/cluster?x", INVALID),
        ("parameter of a probe", "GET", "/healthz?x=1", INVALID),
        ("parameter of a probe", "GET", "/readyz?x=1", INVALID),
        ("nothing to add", "POST", "/v1/kv/kept", INVALID),
        ("nothing to add", "POST", "/v1/kv/new?", INVALID),
        ("nothing to add", "POST", "/v1/kv/new?add", INVALID),
        ("nothing to add", "POST", "/v1/kv/new?add=", INVALID),
        ("no number to add", "POST", "/v1/kv/new?add=one", INVALID),
        ("no number to add", "POST", "/v1/kv/new?add=-", INVALID),
        ("no number to add", "POST", "/v1/kv/new?add=1.5", INVALID),
        ("no number to add", "POST", "/v1/kv/new?add=1e3", INVALID),
        ("no number to add", "POST", "/v1/kv/new?add=0x10", INVALID),
        ("no number to add", "POST", "/v1/kv/new?add=%31%00", INVALID),
        ("no number to add", "POST", "/v1/kv/new?add=1,2", INVALID),
        ("no number to add: a space", "POST", "/v1/kv/new?add=%201", INVALID),
        ("no number to add: a plus sign", "POST", "/v1/kv/new?add=%2B1", INVALID),
        ("no number to add: a leading zero", "POST", "/v1/kv/new?add=01", INVALID),
        ("no number to add: minus zero", "POST", "/v1/kv/new?add=-0", INVALID),
        ("too much to add", "POST", "/v1/kv/new?add=9223372036854775808", INVALID),
        ("too much to add", "POST", "/v1/kv/new?add=-9223372036854775808", INVALID),
        ("too much to add", "POST", "/v1/kv/new?add=99999999999999999999999", INVALID),
        ("two amounts", "POST", "/v1/kv/new?add=1&add=1", INVALID),
        ("an amount and more", "POST", "/v1/kv/new?add=1&prev=true", INVALID),
        ("an amount and more", "POST", "/v1/kv/new?add=1&ttl_s=5", INVALID),
        ("an amount in another spelling", "POST", "/v1/kv/new?Add=1", INVALID),
        ("an amount for a put", "PUT", "/v1/kv/new?add=1", INVALID),
        ("an amount for a delete", "DELETE", "/v1/kv/kept?add=1", INVALID),
        ("no key to add to", "POST", "/v1/kv/?add=1", INVALID),
        ("a broken key to add to", "POST", "/v1/kv/%zz?add=1", INVALID),
        ("a range to add to", "POST", "/v1/kv?add=1", NO_METHOD),
        ("wrong method", "PATCH", "/v1/kv/kept", NO_METHOD),
        ("wrong method", "OPTIONS", "/v1/kv/kept", NO_METHOD),
        ("wrong method", "TRACE", "/v1/kv/kept", NO_METHOD),
        ("method in small letters", "put", "/v1/kv/kept", NO_METHOD),
        ("invented method", "BREW", "/v1/kv/kept", NO_METHOD),
        ("wrong method", "PUT", "/v1/status", NO_METHOD),
        ("wrong method", "DELETE", "/v1/cluster", NO_METHOD),
        ("wrong method", "POST", "/healthz", NO_METHOD),
        ("wrong method", "PUT", "/readyz", NO_METHOD),
        ("wrong method", "GET", "/v1/log-level", NO_METHOD),
        ("wrong method", "DELETE", "/v1/log-level", NO_METHOD),
        ("unknown route", "GET", "/", NO_ROUTE),
        ("unknown route", "GET", "/v1", NO_ROUTE),
        ("unknown route", "GET", "/v1/", NO_ROUTE),
        ("unknown route", "PUT", "/v2/kv/kept", NO_ROUTE),
        ("unknown route", "GET", "/v1/status/", NO_ROUTE),
        ("unknown route", "DELETE", "/v1/keys/kept", NO_ROUTE),
        ("unknown route", "GET", "/V1/KV/kept", NO_ROUTE),
        ("unknown route: escapes are not undone", "GET", "/v1%2Fkv/kept", NO_ROUTE),
        ("unknown route: nothing is normalised", "GET", "//v1/kv/kept", NO_ROUTE),
        ("unknown route: nothing is normalised", "GET", "/x/../v1/kv/kept", NO_ROUTE),
        ("a route of the other port", "POST", "/raft/request_vote", NO_ROUTE),
        ("no slash", "GET", "v1/kv/kept", INVALID),
        ("whole address", "GET", "http://dkv/v1/kv/kept", INVALID),
        ("fragment", "GET", "/v1/kv/kept#top", INVALID),
        ("space", "GET", "/v1/kv/kept and more", INVALID),
    ];
    let server = Server::start();
    server.refuses(&server.cluster.http_addr(0), &targets(&rows));
}

#[test]
fn client_port_refuses_bad_headers() {
    let mut cases = Vec::new();
    let mut add = |name: &str, method: &str, headers: &[(&str, &[u8])], (status, code)| {
        let shown: Vec<String> =
            headers.iter().map(|(n, v)| format!("{n}: {:.40}", String::from_utf8_lossy(v))).collect();
        let body: &[u8] = if method == "PUT" { b"new" } else { b"" };
        let bytes = request(method, "/v1/kv/kept", headers, body);
        cases.push(case(format!("{name}: {method} {}", shown.join(", ")), bytes, status, code));
    };
    for tag in [
        &b"1"[..],
        b"W/\"1\"",
        b"\"1",
        b"1\"",
        b"\"\"",
        b"\"x\"",
        b"\"-1\"",
        b"\"+1\"",
        b"\"01\"",
        b"\"0x1\"",
        b"\"1.0\"",
        b"\"18446744073709551616\"",
        b"\"1\", \"2\"",
        b"\"1\" \"2\"",
        b"",
        b"**",
        b"\"*\"",
        b"null",
    ] {
        add("bad tag", "PUT", &[("If-Match", tag)], INVALID);
    }
    add("bad tag", "DELETE", &[("If-Match", b"1")], INVALID);
    add("a number is not absence", "PUT", &[("If-None-Match", b"\"1\"")], INVALID);
    add("bad tag", "DELETE", &[("If-None-Match", b"")], INVALID);
    add("both conditions", "PUT", &[("If-Match", b"*"), ("If-None-Match", b"*")], INVALID);
    add("repeated condition", "PUT", &[("If-Match", b"*"), ("if-match", b"*")], INVALID);
    add("condition of a write", "GET", &[("If-Match", b"\"1\"")], INVALID);
    for version in [
        &b""[..],
        b"\"1\"",
        b"*",
        b"-1",
        b"+1",
        b"01",
        b"1.0",
        b"0x1",
        b"1, 2",
        b"one",
        b"18446744073709551616",
        b"\xff",
    ] {
        add("bad version", "PUT", &[("If-Version", version)], INVALID);
    }
    add("bad version", "DELETE", &[("If-Version", b"\"1\"")], INVALID);
    add("version and tag", "PUT", &[("If-Version", b"1"), ("If-Match", b"*")], INVALID);
    add("version and absence", "DELETE", &[("If-None-Match", b"*"), ("If-Version", b"0")], INVALID);
    add("repeated version", "PUT", &[("If-Version", b"1"), ("if-version", b"1")], INVALID);
    add("version of a write", "GET", &[("If-Version", b"1")], INVALID);
    let long = [b'k'; 65];
    for key in [&b""[..], &long, b"a b", b"a/b", b"a,b", b"\"a\"", b"a%20b", b"a\tb"] {
        add("bad idempotency key", "PUT", &[("Idempotency-Key", key)], INVALID);
    }
    add("bad idempotency key", "DELETE", &[("Idempotency-Key", b"?")], INVALID);
    add("repeated key", "PUT", &[("Idempotency-Key", b"a"), ("Idempotency-Key", b"a")], INVALID);
    for id in [&b""[..], b"aa", b"00000000000000AA", b"00000000000000ag", b"00000000000000aa0"] {
        add("bad cluster id", "PUT", &[("Dkv-Cluster", id)], INVALID);
    }
    let other = b"00000000000000aa";
    add("repeated cluster", "PUT", &[("Dkv-Cluster", other), ("dkv-cluster", other)], INVALID);
    for method in ["GET", "PUT", "DELETE"] {
        add("another cluster", method, &[("Dkv-Cluster", other)], (409, "conflict"));
    }
    for (name, value) in [
        ("If-Version", &b"one"[..]),
        ("If-Match", b"1"),
        ("If-None-Match", b"1"),
        ("Idempotency-Key", b"a b"),
    ] {
        let bytes = request("POST", "/v1/kv/new?add=1", &[(name, value)], b"");
        cases.push(case(format!("an addition with a bad {name}"), bytes, 400, "invalid_request"));
    }
    let with_body = request("POST", "/v1/kv/new?add=1", &[], b"1");
    cases.push(case("an addition with a body", with_body, 400, "invalid_request"));
    let mut add = |name: &str, method: &str, headers: &[(&str, &[u8])], (status, code)| {
        let body: &[u8] = if method == "PUT" { b"new" } else { b"" };
        cases.push(case(name, request(method, "/v1/kv/kept", headers, body), status, code));
    };
    add("binary tag", "PUT", &[("If-Match", b"\"\xff\xfe\"")], INVALID);
    add("binary idempotency key", "PUT", &[("Idempotency-Key", b"\x00\x01")], INVALID);
    add("binary header", "GET", &[("Accept", b"\xc3\x28")], INVALID);
    add("binary header name", "GET", &[("X\x01", b"1")], INVALID);
    add("another expectation", "PUT", &[("Expect", b"a miracle")], INVALID);
    add("chunks and a length", "PUT", &[("Transfer-Encoding", b"chunked")], INVALID);
    add("two lengths", "PUT", &[("Content-Length", b"3")], INVALID);
    add("two hosts", "GET", &[("Host", b"other")], INVALID);
    add("head too long", "GET", &[("X-Long", &[b'x'; 33 << 10])], (431, "too_large"));
    let many: Vec<(String, &[u8])> = (0..70).map(|i| (format!("X-{i}"), &b"1"[..])).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    add("too many headers", "GET", &many, (431, "too_large"));
    let server = Server::start();
    server.refuses(&server.cluster.http_addr(0), &cases);
}

#[test]
fn client_port_refuses_bad_changes_of_the_cluster() {
    const CONFLICT: (u16, &str) = (409, "conflict");
    const NOT_FOUND: (u16, &str) = (404, "not_found");
    let server = Server::start();
    let ip = &server.cluster.ip;
    let good = format!(
        r#"{{"node_id":"n9","raft_addr":"{ip}:9","http_addr":"{ip}:8","member_id":"00000000000000ff"}}"#
    );
    let spoilt = |is: &str, becomes: &str| {
        assert!(good.contains(is), "{is}");
        good.replacen(is, becomes, 1)
    };
    let members = "/v1/cluster/members";
    let mut cases = targets(&[
        ("methods of the members", "PUT", members, NO_METHOD),
        ("methods of the members", "DELETE", members, NO_METHOD),
        ("methods of a member", "GET", "/v1/cluster/members/n9", NO_METHOD),
        ("methods of a promotion", "DELETE", "/v1/cluster/members/n9/promote", NO_METHOD),
        ("methods of the leadership", "GET", "/v1/cluster/leader", NO_METHOD),
        ("no route", "POST", "/v1/cluster/members/n9/demote", NO_METHOD),
        ("no route", "POST", "/v1/cluster/members/n9/promote/x", NO_METHOD),
        ("no name", "DELETE", "/v1/cluster/members/", INVALID),
        ("no name", "POST", "/v1/cluster/members//promote", INVALID),
        ("no name but an escape", "DELETE", "/v1/cluster/members/%6e9", INVALID),
        ("a parameter", "DELETE", "/v1/cluster/members/n9?force=true", INVALID),
        ("a parameter", "POST", "/v1/cluster/leader?node_id=n9", INVALID),
        ("no such member", "DELETE", "/v1/cluster/members/n9", NOT_FOUND),
        ("no such member", "POST", "/v1/cluster/members/n9/promote", NOT_FOUND),
        ("the last member", "DELETE", "/v1/cluster/members/node1", CONFLICT),
        ("nobody to transfer the leadership to", "POST", "/v1/cluster/leader", CONFLICT),
        ("no body", "POST", members, INVALID),
    ]);
    let address = |of: &str| format!("\"{of}\"");
    // Method, path, body; status and code.
    type Row = (&'static str, &'static str, Vec<u8>, (u16, &'static str));
    let rows: Vec<Row> = vec![
        ("not JSON", members, b"node9".to_vec(), INVALID),
        ("binary", members, vec![0xff, 0xfe, 0], INVALID),
        ("deep JSON", members, vec![b'['; 2000], INVALID),
        ("another shape", members, b"[]".to_vec(), INVALID),
        ("a field missing", members, spoilt("\"http_addr\"", "\"http\"").into(), INVALID),
        ("a field unknown", members, spoilt("{", "{\"voter\":true,").into(), INVALID),
        ("a field twice", members, spoilt("{", "{\"node_id\":\"n8\",").into(), INVALID),
        ("a bad name", members, spoilt("n9", "n 9").into(), INVALID),
        ("a long name", members, spoilt("n9", &"n".repeat(65)).into(), INVALID),
        ("no port", members, spoilt(&address(&format!("{ip}:9")), "\"10.0.0.1\"").into(), INVALID),
        ("nowhere", members, spoilt(&address(&format!("{ip}:9")), "\"0.0.0.0:9\"").into(), INVALID),
        ("one port for both", members, spoilt(":8\"", ":9\"").into(), INVALID),
        ("a short identity", members, spoilt("00000000000000ff", "ff").into(), INVALID),
        ("no identity", members, spoilt("00000000000000ff", "000000000000000g").into(), INVALID),
        ("a taken name", members, spoilt("n9", "node1").into(), CONFLICT),
        ("nobody there", members, spoilt(",\"member_id\":\"00000000000000ff\"", "").into(), CONFLICT),
        ("a body", "/v1/cluster/members/n9/promote", b"{}".to_vec(), INVALID),
        ("no name", "/v1/cluster/leader", b"{\"node_id\":\"\"}".to_vec(), INVALID),
        ("a number", "/v1/cluster/leader", b"{\"node_id\":1}".to_vec(), INVALID),
        ("a field unknown", "/v1/cluster/leader", b"{\"to\":\"n9\"}".to_vec(), INVALID),
        // Its first field was taken for the name.
        ("a list", "/v1/cluster/leader", b"[\"n9\"]".to_vec(), INVALID),
        ("no such member", "/v1/cluster/leader", b"{\"node_id\":\"n9\"}".to_vec(), NOT_FOUND),
    ];
    cases.extend(rows.into_iter().map(|(name, target, body, (status, code))| {
        case(format!("{name}: POST {target}"), request("POST", target, &[], &body), status, code)
    }));
    let delete = request("DELETE", "/v1/cluster/members/node1", &[], b"{}");
    cases.push(case("a body: DELETE", delete, 400, "invalid_request"));
    server.refuses(&server.cluster.http_addr(0), &cases);
}

#[test]
fn client_port_refuses_bad_bodies_and_heads() {
    let put = |target: &str, body: &[u8]| request("PUT", target, &[], body);
    let raw = |text: &str| text.as_bytes().to_vec();
    let cases = [
        case("value too long", put("/v1/kv/kept", &[b'v'; 2001]), 413, "too_large"),
        case("binary value too long", put("/v1/kv/kept", &[0xff; 3000]), 413, "too_large"),
        case("request too long", put("/v1/kv/kept", &[b'v'; 3001]), 413, "too_large"),
        case("DELETE with a body", request("DELETE", "/v1/kv/kept", &[], b"x"), 400, "invalid_request"),
        case("no level", put("/v1/log-level", b""), 400, "invalid_request"),
        case("unknown level", put("/v1/log-level", b"loud"), 400, "invalid_request"),
        case("level in capitals", put("/v1/log-level", b"DEBUG"), 400, "invalid_request"),
        case("level in JSON", put("/v1/log-level", b"{\"level\":\"debug\"}"), 400, "invalid_request"),
        case("binary level", put("/v1/log-level", b"\xff\x00\xfe"), 400, "invalid_request"),
        case("long level", put("/v1/log-level", &[b' '; 2500]), 400, "invalid_request"),
        case("level as a parameter", put("/v1/log-level?level=debug", b"info"), 400, "invalid_request"),
        case("no length", raw("PUT /v1/kv/kept HTTP/1.1\r\nHost: h\r\n\r\n"), 411, "invalid_request"),
        case(
            "chunks",
            raw(
                "PUT /v1/kv/kept HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            ),
            411,
            "invalid_request",
        ),
        case(
            "huge length",
            raw("PUT /v1/kv/kept HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\nx"),
            413,
            "too_large",
        ),
        case(
            "negative length",
            raw("PUT /v1/kv/kept HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\nx"),
            400,
            "invalid_request",
        ),
        case(
            "body that never comes",
            raw("PUT /v1/kv/kept HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx"),
            408,
            "invalid_request",
        ),
        case("head that never ends", raw("GET /v1/kv/kept HTTP/1.1\r\nHost: h\r\n"), 408, "invalid_request"),
        case("no host", raw("GET /v1/kv/kept HTTP/1.1\r\n\r\n"), 400, "invalid_request"),
        case("other version", raw("GET /v1/kv/kept HTTP/2.0\r\nHost: h\r\n\r\n"), 505, "invalid_request"),
        case("no version", raw("GET /v1/kv/kept\r\n\r\n"), 400, "invalid_request"),
        case("line feeds alone", raw("GET /v1/kv/kept HTTP/1.1\nHost: h\n\n"), 400, "invalid_request"),
        case("not HTTP", raw("hello\r\n\r\n"), 400, "invalid_request"),
        case("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400, "invalid_request"),
        case("binary target", request("GET", b"/v1/kv/\xff\xfe", &[], b""), 400, "invalid_request"),
        case("binary and zeros", [&[0; 64][..], b"\r\n\r\n"].concat(), 400, "invalid_request"),
    ];
    let server = Server::start();
    server.refuses(&server.cluster.http_addr(0), &cases);
}

#[test]
fn flat_routes_refuse_bad_requests() {
    let set = |body: &[u8]| request("POST", "/set", &[], body);
    let long_key = format!("{{\"key\":\"{}\",\"value\":\"v\"}}", "k".repeat(101));
    let long_value = format!("{{\"key\":\"kept\",\"value\":\"{}\"}}", "v".repeat(2001));
    let mut cases = vec![
        case("key too long", set(long_key.as_bytes()), 413, FLAT),
        case("value too long", set(long_value.as_bytes()), 413, FLAT),
        case("body too long", set(&[b' '; 3001]), 413, "too_large"),
        case("deep", set("[".repeat(2900).as_bytes()), 400, FLAT),
    ];
    let bodies: [&[u8]; 17] = [
        b"",
        b"{",
        b"null",
        b"\"kept\"",
        b"[\"kept\",\"v\"",
        b"{\"key\":\"kept\"}",
        b"{\"value\":\"v\"}",
        b"{\"key\":\"kept\",\"value\":5}",
        b"{\"key\":\"kept\",\"value\":null}",
        b"{\"key\":[\"kept\"],\"value\":\"v\"}",
        b"{\"key\":\"\",\"value\":\"v\"}",
        b"{'key':'kept','value':'v'}",
        b"{\"key\":\"kept\",\"value\":\"v\"} more",
        b"{\"key\":\"kept\",\"key\":\"kept\",\"value\":\"v\"}",
        b"{\"key\":\"kept\",\"value\":\"\xff\"}",
        b"{\"key\":\"kept\",\"value\":\"\\ud800\"}",
        b"key=kept&value=v",
    ];
    cases.extend(bodies.iter().map(|body| case(String::from_utf8_lossy(body), set(body), 400, FLAT)));
    for (method, target, status) in [
        ("GET", "/get", 400),
        ("GET", "/get?", 400),
        ("GET", "/get?key=", 400),
        ("GET", "/get?key=%", 400),
        ("GET", "/get?KEY=kept", 400),
        ("DELETE", "/delete", 400),
        ("DELETE", "/delete?key=%zz", 400),
        ("POST", "/get?key=kept", 405),
        ("GET", "/set", 405),
        ("PUT", "/set", 405),
        ("GET", "/delete?key=kept", 405),
        ("POST", "/delete?key=kept", 405),
    ] {
        cases.push(case(format!("{method} {target}"), request(method, target, &[], b""), status, FLAT));
    }
    let server = Server::start();
    server.refuses(&server.cluster.http_addr(0), &cases);
}

/// The bodies of the peer port, with a right and with wrong envelopes.
fn peer_bodies(server: &Server) -> Vec<Case> {
    let (cluster_id, me) = (&server.before["cluster_id"], &server.before["member_id"]);
    let envelope = json!({ "cluster_id": cluster_id, "from": me, "to": me });
    let body = |envelope: &Value, request: Value, rest: &[u8]| {
        let mut body = json!({ "envelope": envelope, "request": request }).to_string().into_bytes();
        body.push(b'\n');
        body.extend_from_slice(rest);
        body
    };
    let post = |route: &str, body: &[u8]| request("POST", format!("/raft/{route}"), &[], body);
    // That the envelope is right shows in an answer.
    let good = post("read_index", &body(&envelope, json!({ "remaining_ms": 1000 }), b""));
    let mut client = Connection::open(&server.cluster.raft_addr(0)).expect("the process accepts");
    client.send(&good).expect("sent");
    let answer = client.read_answer().expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());

    let mut cases = Vec::new();
    let mut add = |name: &str, route: &str, body: &[u8], status| {
        cases.push(case(format!("{route}: {name}"), post(route, body), status, PEER));
    };
    let vote = |term: Value| {
        let last = json!({ "term": 1, "index": 1 });
        json!({ "term": term, "candidate": me, "last": last, "pre_vote": false, "transfer": false })
    };
    let other = json!("00000000000000ff");
    let wrong_cluster = json!({ "cluster_id": other, "from": me, "to": me });
    let wrong_member = json!({ "cluster_id": cluster_id, "from": me, "to": other });
    for (name, envelope) in [("another cluster", &wrong_cluster), ("another member", &wrong_member)] {
        add(name, "request_vote", &body(envelope, vote(json!(9)), b""), 403);
        add(name, "read_index", &body(envelope, json!({ "remaining_ms": 9 }), b""), 403);
    }
    for route in ["request_vote", "append_entries", "read_index", "forward", "bootstrap"] {
        add("empty", route, b"", 400);
        add("not JSON", route, b"term=9\n", 400);
        add("another shape", route, b"[1,2,3]\n", 400);
        add("cut off", route, b"{\"envelope\":{", 400);
        add("binary", route, &[0xff, 0x00, 0x80, b'\n', 0xff], 400);
        add("deep", route, "[".repeat(100_000).as_bytes(), 400);
    }
    for term in [json!(u64::MAX), json!((1_u64 << 62) + 1), json!(-1), json!(1.5), json!("9"), json!(null)] {
        add(&format!("term {term}"), "request_vote", &body(&envelope, vote(term), b""), 400);
    }
    add("more after it", "request_vote", &body(&envelope, vote(json!(9)), b"more"), 400);
    let append = |entries: u64| {
        let prev = json!({ "term": 1, "index": 1 });
        json!({ "term": 9, "prev": prev, "commit": 1, "entries": entries })
    };
    add("entries that are not there", "append_entries", &body(&envelope, append(3), b""), 400);
    add("entries without end", "append_entries", &body(&envelope, append(u64::MAX), b"x"), 400);
    add("entries that are none", "append_entries", &body(&envelope, append(1), &[0xee; 200]), 400);
    let write = json!([{ "bytes": 10, "crc32c": 1, "remaining_ms": 9 }]);
    add("write with a wrong sum", "forward", &body(&envelope, write.clone(), &[7; 10]), 400);
    add("write cut short", "forward", &body(&envelope, write, &[7; 9]), 400);
    add("invented route", "snapshots", &body(&envelope, json!({}), b""), 404);
    add("no route", "", &body(&envelope, json!({}), b""), 404);
    cases
}

#[test]
fn peer_port_refuses_bad_requests() {
    let server = Server::start();
    let mut cases = peer_bodies(&server);
    let raw = |text: &str| text.as_bytes().to_vec();
    cases.extend([
        case("wrong method", request("GET", "/raft/request_vote", &[], b""), 405, PEER),
        case("wrong method", request("PUT", "/raft/append_entries", &[], b"{}"), 405, PEER),
        case("wrong method", request("BREW", "/raft/bootstrap", &[], b"{}"), 405, PEER),
        case("a route of the other port", request("POST", "/v1/kv/kept", &[], b"x"), 404, PEER),
        case("no body", raw("POST /raft/bootstrap HTTP/1.1\r\nHost: h\r\n\r\n"), 400, PEER),
        case(
            "body too long",
            raw("POST /raft/append_entries HTTP/1.1\r\nHost: h\r\nContent-Length: 8388609\r\n\r\n"),
            413,
            "too_large",
        ),
        case(
            "other version",
            raw("POST /raft/bootstrap HTTP/3.0\r\nHost: h\r\n\r\n"),
            505,
            "invalid_request",
        ),
        case(
            "two lanes",
            request("POST", "/raft/bootstrap", &[("Dkv-Lane", b"core"), ("Dkv-Lane", b"core")], b""),
            400,
            "invalid_request",
        ),
        case("binary target", request("POST", b"/raft/\xff", &[], b""), 400, "invalid_request"),
        case(
            "binary header",
            request("POST", "/raft/bootstrap", &[("X", b"\xff")], b""),
            400,
            "invalid_request",
        ),
        case(
            "head too long",
            request("POST", "/raft/bootstrap", &[("X", &[b'x'; 33 << 10])], b""),
            431,
            "too_large",
        ),
        case("not HTTP", raw("RAFT\r\n\r\n"), 400, "invalid_request"),
    ]);
    server.refuses(&server.cluster.raft_addr(0), &cases);
}
