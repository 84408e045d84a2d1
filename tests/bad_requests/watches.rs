//! Bad requests for watches.

use super::{Case, INVALID, NO_METHOD, NO_ROUTE, Server, TOO_LARGE, case, request};

#[test]
fn client_port_refuses_bad_watches() {
    let mut cases: Vec<Case> = Vec::new();
    for (name, method, target, (status, code)) in [
        ("nothing to watch", "GET", "/v1/watch".to_owned(), INVALID),
        ("only a start revision", "GET", "/v1/watch?from=1".to_owned(), INVALID),
        ("empty key", "GET", "/v1/watch?key=".to_owned(), INVALID),
        ("key too long", "GET", format!("/v1/watch?key={}", "k".repeat(101)), TOO_LARGE),
        ("key and prefix", "GET", "/v1/watch?key=a&prefix=b".to_owned(), INVALID),
        ("key and start", "GET", "/v1/watch?key=a&start=b".to_owned(), INVALID),
        ("key twice", "GET", "/v1/watch?key=a&key=b".to_owned(), INVALID),
        ("bad escape", "GET", "/v1/watch?key=%zz".to_owned(), INVALID),
        ("range backwards", "GET", "/v1/watch?start=b&end=a".to_owned(), INVALID),
        ("range of nothing", "GET", "/v1/watch?start=a&end=a".to_owned(), INVALID),
        ("from 0", "GET", "/v1/watch?key=a&from=0".to_owned(), INVALID),
        ("from below 0", "GET", "/v1/watch?key=a&from=-1".to_owned(), INVALID),
        ("from no number", "GET", "/v1/watch?key=a&from=now".to_owned(), INVALID),
        ("from beyond 64 bits", "GET", "/v1/watch?key=a&from=18446744073709551616".to_owned(), INVALID),
        ("wait too long", "GET", "/v1/watch?key=a&wait_s=601".to_owned(), INVALID),
        ("wait below 0", "GET", "/v1/watch?key=a&wait_s=-1".to_owned(), INVALID),
        ("wait with a unit", "GET", "/v1/watch?key=a&wait_s=5s".to_owned(), INVALID),
        ("limit 0", "GET", "/v1/watch?key=a&limit=0".to_owned(), INVALID),
        ("limit too large", "GET", "/v1/watch?key=a&limit=10001".to_owned(), INVALID),
        ("another filter", "GET", "/v1/watch?key=a&filter=all".to_owned(), INVALID),
        ("prev no flag", "GET", "/v1/watch?key=a&prev=1".to_owned(), INVALID),
        ("no cluster id", "GET", "/v1/watch?key=a&cluster=mine".to_owned(), INVALID),
        ("another cluster", "GET", "/v1/watch?key=a&cluster=00000000000000aa".to_owned(), (409, "conflict")),
        ("unknown parameter", "GET", "/v1/watch?key=a&revision=3".to_owned(), INVALID),
        ("a consistency", "GET", "/v1/watch?key=a&consistency=stale".to_owned(), INVALID),
        ("wrong method", "PUT", "/v1/watch?key=a".to_owned(), NO_METHOD),
        ("wrong method", "DELETE", "/v1/watch?key=a".to_owned(), NO_METHOD),
        ("no such route", "GET", "/v1/watch/a".to_owned(), NO_ROUTE),
    ] {
        cases.push(case(format!("watch, {name}: {method}"), request(method, target, &[], b""), status, code));
    }
    for (name, body) in [
        ("no body", String::new()),
        ("no JSON", "watches".to_owned()),
        ("a list", r#"[{"id":"a","key":"a"}]"#.to_owned()),
        ("no watches", "{}".to_owned()),
        ("watches of null", r#"{"watches":null}"#.to_owned()),
        ("no watch", r#"{"watches":[]}"#.to_owned()),
        ("a watch that is a list", r#"{"watches":[["a"]]}"#.to_owned()),
        ("no id", r#"{"watches":[{"key":"a"}]}"#.to_owned()),
        ("an empty id", r#"{"watches":[{"id":"","key":"a"}]}"#.to_owned()),
        ("a long id", format!(r#"{{"watches":[{{"id":"{}","key":"a"}}]}}"#, "i".repeat(65))),
        ("one id twice", r#"{"watches":[{"id":"a","key":"a"},{"id":"a","key":"b"}]}"#.to_owned()),
        ("nothing to watch", r#"{"watches":[{"id":"a"}]}"#.to_owned()),
        ("key and prefix", r#"{"watches":[{"id":"a","key":"a","prefix":"b"}]}"#.to_owned()),
        ("both forms of a key", r#"{"watches":[{"id":"a","key":"a","key_base64":"YQ=="}]}"#.to_owned()),
        ("no base64", r#"{"watches":[{"id":"a","key_base64":"!"}]}"#.to_owned()),
        ("range backwards", r#"{"watches":[{"id":"a","start":"b","end":"a"}]}"#.to_owned()),
        ("from 0", r#"{"watches":[{"id":"a","key":"a","from":0}]}"#.to_owned()),
        ("from in a string", r#"{"watches":[{"id":"a","key":"a","from":"1"}]}"#.to_owned()),
        ("another filter", r#"{"watches":[{"id":"a","key":"a","filter":"all"}]}"#.to_owned()),
        ("an unknown field", r#"{"watches":[{"id":"a","key":"a","wait_s":1}]}"#.to_owned()),
        ("wait too long", r#"{"wait_s":601,"watches":[{"id":"a","key":"a"}]}"#.to_owned()),
        ("limit 0", r#"{"limit":0,"watches":[{"id":"a","key":"a"}]}"#.to_owned()),
        ("no cluster id", r#"{"cluster":"mine","watches":[{"id":"a","key":"a"}]}"#.to_owned()),
    ] {
        let request = request("POST", "/v1/watch", &[], body.as_bytes());
        cases.push(case(format!("watches, {name}: {body}"), request, INVALID.0, INVALID.1));
    }
    let one = br#"{"watches":[{"id":"a","key":"a"}]}"#;
    cases.push(case(
        "watches, a query",
        request("POST", "/v1/watch?wait_s=1", &[], one),
        INVALID.0,
        INVALID.1,
    ));
    let with = |header, value: &'static [u8]| request("GET", "/v1/watch?key=a", &[(header, value)], b"");
    for (name, header, value, (status, code)) in [
        ("an id that is none", "Last-Event-ID", &b"x"[..], INVALID),
        ("the id 0", "Last-Event-ID", b"0", INVALID),
        ("no form of the answer", "Accept", b"text/html", (406, "not_acceptable")),
        ("a form that is refused", "Accept", b"application/json;q=0", (406, "not_acceptable")),
        ("another cluster", "Dkv-Cluster", b"00000000000000aa", (409, "conflict")),
    ] {
        cases.push(case(format!("watch, {name}"), with(header, value), status, code));
    }
    let server = Server::start();
    server.refuses(&server.cluster.http_addr(0), &cases);
}
