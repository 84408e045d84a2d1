//! Malformed requests for the versions of a key.

use super::{INVALID, NO_METHOD, NO_ROUTE, Server, TOO_LARGE, case, request};

#[test]
fn client_port_refuses_bad_requests_for_a_history() {
    let foreign = "AQEAAAAAAAAAAAAAAA";
    let mut cases = Vec::new();
    for (name, method, target, (status, code)) in [
        ("no key", "GET", "/v1/history/".to_owned(), INVALID),
        ("key too long", "GET", format!("/v1/history/{}", "k".repeat(101)), TOO_LARGE),
        ("bad escape in the key", "GET", "/v1/history/%zz".to_owned(), INVALID),
        ("limit 0", "GET", "/v1/history/k?limit=0".to_owned(), INVALID),
        ("limit too large", "GET", "/v1/history/k?limit=1001".to_owned(), INVALID),
        ("limit negative", "GET", "/v1/history/k?limit=-1".to_owned(), INVALID),
        ("limit no number", "GET", "/v1/history/k?limit=ten".to_owned(), INVALID),
        ("limit twice", "GET", "/v1/history/k?limit=1&limit=2".to_owned(), INVALID),
        ("unknown parameter", "GET", "/v1/history/k?order=asc".to_owned(), INVALID),
        ("a revision", "GET", "/v1/history/k?revision=3".to_owned(), INVALID),
        ("bad consistency", "GET", "/v1/history/k?consistency=eventual".to_owned(), INVALID),
        ("empty cursor", "GET", "/v1/history/k?cursor=".to_owned(), INVALID),
        ("no cursor at all", "GET", "/v1/history/k?cursor=17".to_owned(), INVALID),
        ("foreign cursor", "GET", format!("/v1/history/k?cursor={foreign}"), INVALID),
        (
            "future min_revision",
            "GET",
            "/v1/history/k?min_revision=99999".to_owned(),
            (400, "future_revision"),
        ),
        ("wrong method", "PUT", "/v1/history/k".to_owned(), NO_METHOD),
        ("wrong method", "POST", "/v1/history/k".to_owned(), NO_METHOD),
        ("wrong method", "DELETE", "/v1/history/k".to_owned(), NO_METHOD),
        ("no such route", "GET", "/v1/history".to_owned(), NO_ROUTE),
    ] {
        cases.push(case(
            format!("history, {name}: {method}"),
            request(method, target, &[], b""),
            status,
            code,
        ));
    }
    for (name, body) in [
        ("no body", ""),
        ("no JSON", "3"),
        ("a list", "[3]"),
        ("no revision", "{}"),
        ("revision 0", r#"{"revision":0}"#),
        ("revision below 0", r#"{"revision":-1}"#),
        ("a revision in a string", r#"{"revision":"3"}"#),
        ("a revision beyond 64 bits", r#"{"revision":18446744073709551616}"#),
        ("an unknown field", r#"{"revision":3,"physical":true}"#),
    ] {
        let request = request("POST", "/v1/compact", &[], body.as_bytes());
        cases.push(case(format!("compact, {name}: {body}"), request, INVALID.0, INVALID.1));
    }
    for (name, method, target, (status, code)) in [
        ("a parameter", "POST", "/v1/compact?revision=3", INVALID),
        ("wrong method", "GET", "/v1/compact", NO_METHOD),
        ("wrong method", "DELETE", "/v1/compact", NO_METHOD),
    ] {
        let request = request(method, target, &[], br#"{"revision":3}"#);
        cases.push(case(format!("compact, {name}: {method}"), request, status, code));
    }
    let with = |header, value: &'static [u8]| request("GET", "/v1/history/k", &[(header, value)], b"");
    cases.push(case("history, a condition", with("If-Match", b"\"3\""), INVALID.0, INVALID.1));
    cases.push(case("history, a condition", with("If-Version", b"3"), INVALID.0, INVALID.1));
    cases.push(case(
        "history, an oversized body",
        request("GET", "/v1/history/k", &[], &[b'x'; 4000]),
        TOO_LARGE.0,
        TOO_LARGE.1,
    ));
    let server = Server::start();
    server.refuses(&server.cluster.http_addr(0), &cases);
    // A cursor of one key is none of another.
    for value in ["1", "2"] {
        server.cluster.put(0, "elsewhere", value).expect("a write");
    }
    let page = server.cluster.request(0, "GET", "/v1/history/elsewhere?limit=1", &[], b"").expect("a page");
    let cursor = page.json()["cursor"].as_str().expect("there is an older version").to_owned();
    let target = format!("/v1/history/kept?cursor={cursor}");
    let answer = server.cluster.request(0, "GET", &target, &[], b"").expect("an answer");
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &"invalid_request".into()));
}
