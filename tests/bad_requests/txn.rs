//! Transactions that no node may take.

use super::{INVALID, KEPT, LIMITS, NO_METHOD, Server, TOO_LARGE, case, request, targets};

const NOT_FOUND: (u16, &str) = (412, "key_not_found");
const FUTURE: (u16, &str) = (400, "future_revision");
const COMPACTED: (u16, &str) = (410, "compacted");

/// A transaction in which the given parts stand where a good one has its own. What comes before them must not happen.
fn then(op: &str) -> String {
    format!(r#"{{"then":[{{"put":{{"key":"new","value":"x"}}}},{op}]}}"#)
}

fn when(condition: &str) -> String {
    format!(
        r#"{{"if":[{condition}],"then":[{{"put":{{"key":"new","value":"x"}}}}],"else":[{{"put":{{"key":"new","value":"x"}}}}]}}"#
    )
}

#[test]
fn client_port_refuses_bad_transactions() {
    let get = r#"{"get":{"key":"a"}}"#;
    let many = |op: &str, count: usize| vec![op; count].join(",");
    let deep = |depth: usize| {
        let inner = r#"{"then":[{"put":{"key":"new","value":"x"}}]}"#.to_owned();
        (1..depth).fold(inner, |txn, _| format!(r#"{{"then":[{{"txn":{txn}}}]}}"#))
    };
    let full = format!(
        r#"{{"txn":{{"if":[{}],"then":[{gets}],"else":[{gets}]}}}}"#,
        many(r#"{"key":"a","exists":true}"#, 20),
        gets = many(get, 20)
    );
    let long = "k".repeat(101);
    // What is wrong, the body, status and code.
    type Row = (&'static str, String, (u16, &'static str));
    let rows: Vec<Row> = vec![
        ("no body", String::new(), INVALID),
        ("not JSON", "put a 1".to_owned(), INVALID),
        ("cut short", r#"{"then":[{"put":{"key":"new","value":"x"}}]"#.to_owned(), INVALID),
        ("something after it", format!("{} x", then(get)), INVALID),
        ("another shape", "[]".to_owned(), INVALID),
        ("another shape", r#"{"then":{"put":{"key":"new","value":"x"}}}"#.to_owned(), INVALID),
        ("another shape", r#"{"then":["put"]}"#.to_owned(), INVALID),
        ("a list for an object", r#"{"then":[[]]}"#.to_owned(), INVALID),
        ("a list for an object", then(r#"{"put":["a",null,"x"]}"#), INVALID),
        ("a list for an object", when(r#"["a"]"#), INVALID),
        ("null for a list", r#"{"then":null}"#.to_owned(), INVALID),
        ("deep JSON", "[".repeat(2_000), INVALID),
        ("unknown field", r#"{"then":[],"when":[]}"#.to_owned(), INVALID),
        ("unknown field", r#"{"compare":[],"success":[]}"#.to_owned(), INVALID),
        ("field twice", r#"{"then":[{"put":{"key":"new","value":"x"}}],"then":[]}"#.to_owned(), INVALID),
        ("unknown operation", then(r#"{"add":{"key":"a","n":1}}"#), INVALID),
        ("no operation", then("{}"), INVALID),
        ("two operations in one", then(r#"{"get":{"key":"a"},"delete":{"key":"b"}}"#), INVALID),
        ("operation twice", then(r#"{"get":{"key":"a"},"get":{"key":"b"}}"#), INVALID),
        ("put without a key", then(r#"{"put":{"value":"x"}}"#), INVALID),
        ("put without a value", then(r#"{"put":{"key":"a"}}"#), INVALID),
        ("put of an empty key", then(r#"{"put":{"key":"","value":"x"}}"#), INVALID),
        ("put with an unknown field", then(r#"{"put":{"key":"a","value":"x","if":1}}"#), INVALID),
        ("value in two forms", then(r#"{"put":{"key":"a","value":"x","value_base64":"eA=="}}"#), INVALID),
        ("key in two forms", then(r#"{"put":{"key":"a","key_base64":"YQ==","value":"x"}}"#), INVALID),
        ("value that is a number", then(r#"{"put":{"key":"a","value":1}}"#), INVALID),
        ("value and keep_value", then(r#"{"put":{"key":"a","value":"x","keep_value":true}}"#), INVALID),
        ("no base64", then(r#"{"put":{"key":"a","value_base64":"%"}}"#), INVALID),
        ("base64 without padding", then(r#"{"put":{"key":"a","value_base64":"eA"}}"#), INVALID),
        ("no base64", then(r#"{"get":{"key_base64":"-_"}}"#), INVALID),
        ("prev that is no flag", then(r#"{"put":{"key":"a","value":"x","prev":1}}"#), INVALID),
        ("lease 0", then(r#"{"put":{"key":"a","value":"x","lease":"0"}}"#), INVALID),
        ("lease as a number", then(r#"{"put":{"key":"a","value":"x","lease":7}}"#), INVALID),
        ("no name of a lease", then(r#"{"put":{"key":"a","value":"x","lease":"mine"}}"#), INVALID),
        ("ttl_s 0", then(r#"{"put":{"key":"a","value":"x","ttl_s":0}}"#), INVALID),
        ("ttl_s beyond", then(r#"{"put":{"key":"a","value":"x","ttl_s":9000000001}}"#), INVALID),
        ("ttl_s in a string", then(r#"{"put":{"key":"a","value":"x","ttl_s":"5"}}"#), INVALID),
        ("lease and ttl_s", then(r#"{"put":{"key":"a","value":"x","lease":"7","ttl_s":5}}"#), INVALID),
        (
            "lease kept and given",
            then(r#"{"put":{"key":"a","value":"x","lease":"7","keep_lease":true}}"#),
            INVALID,
        ),
        ("lease of a delete", then(r#"{"delete":{"key":"a","lease":"7"}}"#), INVALID),
        ("delete without keys", then(r#"{"delete":{}}"#), INVALID),
        ("delete of every key", then(r#"{"delete":{"prefix":""}}"#), INVALID),
        ("delete of every key", then(r#"{"delete":{"start":""}}"#), INVALID),
        ("delete of key and range", then(r#"{"delete":{"key":"a","prefix":"b"}}"#), INVALID),
        ("range backwards", then(r#"{"delete":{"start":"b","end":"a"}}"#), INVALID),
        ("range backwards", then(r#"{"list":{"start":"b","end":"a"}}"#), INVALID),
        ("get without a key", then(r#"{"get":{}}"#), INVALID),
        ("get of a prefix", then(r#"{"get":{"prefix":"a"}}"#), INVALID),
        ("revision 0", then(r#"{"get":{"key":"a","revision":0}}"#), INVALID),
        ("negative revision", then(r#"{"get":{"key":"a","revision":-1}}"#), INVALID),
        ("revision that is text", then(r#"{"get":{"key":"a","revision":"1"}}"#), INVALID),
        ("limit 0", then(r#"{"list":{"prefix":"a","limit":0}}"#), INVALID),
        ("limit out of range", then(r#"{"list":{"prefix":"a","limit":10001}}"#), INVALID),
        ("unknown order", then(r#"{"list":{"prefix":"a","order":"up"}}"#), INVALID),
        ("count with a limit", then(r#"{"list":{"prefix":"a","count_only":true,"limit":5}}"#), INVALID),
        (
            "count of keys only",
            then(r#"{"list":{"prefix":"a","count_only":true,"keys_only":true}}"#),
            INVALID,
        ),
        ("list of a key", then(r#"{"list":{"key":"a"}}"#), INVALID),
        ("key written twice", then(r#"{"put":{"key":"new","value":"y"}}"#), INVALID),
        ("key put and deleted", then(r#"{"delete":{"key":"new"}}"#), INVALID),
        ("key put in a deleted range", then(r#"{"delete":{"prefix":"ne"}}"#), INVALID),
        (
            "key written twice, nested",
            then(r#"{"txn":{"else":[{"put":{"key_base64":"bmV3","value":"y"}}]}}"#),
            INVALID,
        ),
        ("nested too deep", deep(5), INVALID),
        ("condition without keys", when(r#"{"exists":true}"#), INVALID),
        ("condition of nothing", when(r#"{"key":"a"}"#), INVALID),
        ("condition of two things", when(r#"{"key":"a","exists":true,"version":1}"#), INVALID),
        ("condition of key and range", when(r#"{"key":"a","prefix":"b","exists":true}"#), INVALID),
        ("unknown operator", when(r#"{"key":"a","version":{"le":1}}"#), INVALID),
        ("two operators", when(r#"{"key":"a","version":{"lt":1,"gt":3}}"#), INVALID),
        ("no operator", when(r#"{"key":"a","version":{}}"#), INVALID),
        ("exists that is compared", when(r#"{"key":"a","exists":{"ne":true}}"#), INVALID),
        ("exists that is a number", when(r#"{"key":"a","exists":1}"#), INVALID),
        ("negative version", when(r#"{"key":"a","version":-1}"#), INVALID),
        ("version that is text", when(r#"{"key":"a","version":"1"}"#), INVALID),
        ("version with a fraction", when(r#"{"key":"a","version":1.5}"#), INVALID),
        ("version out of range", when(r#"{"key":"a","version":18446744073709551616}"#), INVALID),
        ("value that is a number", when(r#"{"key":"a","value":{"eq":1}}"#), INVALID),
        ("value in two forms", when(r#"{"key":"a","value":"x","value_base64":"eA=="}"#), INVALID),
        ("no base64", when(r#"{"key":"a","value_base64":{"ne":"%"}}"#), INVALID),
        ("lease of a condition", when(r#"{"prefix":"a","lease":"00"}"#), INVALID),
        ("lease of a condition", when(r#"{"prefix":"a","lease":0}"#), INVALID),
        ("lease of a condition", when(r#"{"key":"a","lease":{"lt":"x"}}"#), INVALID),
        ("lease and version of a condition", when(r#"{"key":"a","lease":"0","version":0}"#), INVALID),
        ("range backwards in a condition", when(r#"{"start":"b","end":"a","exists":true}"#), INVALID),
        ("empty key in a condition", when(r#"{"key":"","exists":true}"#), INVALID),
        ("key too long", then(&format!(r#"{{"get":{{"key":"{long}"}}}}"#)), TOO_LARGE),
        ("prefix too long", then(&format!(r#"{{"list":{{"prefix":"{long}"}}}}"#)), TOO_LARGE),
        ("key too long in a condition", when(&format!(r#"{{"key":"{long}","exists":true}}"#)), TOO_LARGE),
        (
            "value too long",
            then(&format!(r#"{{"put":{{"key":"a","value":"{}"}}}}"#, "v".repeat(2_001))),
            TOO_LARGE,
        ),
        (
            "value too long in a condition",
            when(&format!(r#"{{"key":"a","value":"{}"}}"#, "v".repeat(2_001))),
            TOO_LARGE,
        ),
        ("too many operations", then(&many(get, 20)), TOO_LARGE),
        ("too many conditions", when(&many(r#"{"key":"a","exists":true}"#, 21)), TOO_LARGE),
        ("too many operations in all", then(&many(&full, 19)), TOO_LARGE),
        ("body too long", then(&many(get, 5_000)), TOO_LARGE),
        // What only the state can tell. Nothing of it happens.
        ("value of an absent key kept", then(r#"{"put":{"key":"a","keep_value":true}}"#), NOT_FOUND),
        ("future revision", then(r#"{"get":{"key":"kept","revision":4}}"#), FUTURE),
        ("future revision", then(r#"{"list":{"prefix":"k","revision":18446744073709551615}}"#), FUTURE),
        ("compacted revision", then(r#"{"get":{"key":"kept","revision":1}}"#), COMPACTED),
        ("range of too many bytes", then(r#"{"delete":{"prefix":"kept"}}"#), TOO_LARGE),
    ];
    let limits = LIMITS.replace("max_request_bytes: 3000", "max_request_bytes: 30000, max_txn_ops: 20");
    assert_ne!(limits, LIMITS);
    let settings = "retention_revisions: 1\nretention_bytes: 200\n";
    let server = Server::start_with(&format!("{limits}{settings}"));
    let address = server.cluster.http_addr(0);
    // A refusal of the state machine is an entry of the log.
    let (decided, refused): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|(_, body, want)| {
        [NOT_FOUND, FUTURE, COMPACTED].contains(want) || body.contains(r#""prefix":"kept""#)
    });
    let cases: Vec<_> = refused
        .iter()
        .map(|(name, body, (status, code))| {
            let shown: String = body.chars().take(90).collect();
            case(format!("{name}: {shown}"), request("POST", "/v1/txn", &[], body.as_bytes()), *status, code)
        })
        .collect();
    server.refuses(&address, &cases);
    let mut cases = targets(&[
        ("wrong method", "GET", "/v1/txn", NO_METHOD),
        ("wrong method", "HEAD", "/v1/txn", NO_METHOD),
        ("wrong method", "PUT", "/v1/txn", NO_METHOD),
        ("wrong method", "DELETE", "/v1/txn", NO_METHOD),
        ("wrong method", "OPTIONS", "/v1/txn", NO_METHOD),
        ("no route", "POST", "/v1/txn/", (404, "unknown_route")),
        ("unknown parameter", "POST", "/v1/txn?prev=true", INVALID),
        ("parameter of a read", "POST", "/v1/txn?revision=1", INVALID),
        ("bad consistency", "POST", "/v1/txn?consistency=eventual", INVALID),
    ]);
    // Without a body an answer to HEAD could not be told from a broken one.
    cases.retain(|case| !case.name.contains("HEAD"));
    let good = then(get);
    let mut add = |name: &str, target: &str, headers: &[(&str, &[u8])], body: &[u8]| {
        cases.push(case(name, request("POST", target, headers, body), INVALID.0, INVALID.1));
    };
    add("condition in a header", "/v1/txn", &[("If-Match", b"*")], good.as_bytes());
    add("condition in a header", "/v1/txn", &[("If-None-Match", b"*")], good.as_bytes());
    add("bad idempotency key", "/v1/txn", &[("Idempotency-Key", b"a b")], good.as_bytes());
    add("stale write", "/v1/txn?consistency=stale", &[], good.as_bytes());
    add("binary", "/v1/txn", &[], b"\xff\xfe\x00");
    add("UTF-8 with a mark", "/v1/txn", &[], &[b"\xef\xbb\xbf", good.as_bytes()].concat());
    server.refuses(&address, &cases);
    assert!(decided.len() == 5 && refused.len() + cases.len() > 80, "{} rows", refused.len() + cases.len());
    let list = || server.cluster.request(0, "GET", "/v1/kv", &[], b"").expect("a list").json();
    let kept = list();
    for (name, body, (status, code)) in decided {
        let answer = server.cluster.request(0, "POST", "/v1/txn", &[], body.as_bytes()).expect("an answer");
        super::check_error(name, &answer, code);
        assert_eq!(answer.status, status, "{name}");
        // That the entry was applied shows in the hash: it has the time of the state.
        assert_eq!(
            super::state(&server.cluster)["revision"],
            server.before["revision"],
            "{name} changed something"
        );
        assert_eq!(list(), kept, "{name} changed something");
    }
    assert_eq!(server.cluster.get(0, KEPT).expect("a read").text(), "value");
}
