//! Reads of old states, and lists.

use super::cluster::Connection;
use super::{INVALID, KEPT, LIMITS, NO_METHOD, Server, case, request, targets};

const FUTURE: (u16, &str) = (400, "future_revision");
const COMPACTED: (u16, &str) = (410, "compacted");

#[test]
fn client_port_refuses_bad_reads_of_old_states() {
    let rows = [
        ("future", "revision=4", FUTURE),
        ("far future", "revision=18446744073709551615", FUTURE),
        ("future", "min_revision=4", FUTURE),
        ("far future", "min_revision=18446744073709551615&consistency=stale", FUTURE),
        ("below the floor", "revision=1", COMPACTED),
        ("there is no state before the empty one", "revision=0", INVALID),
        ("out of range", "revision=18446744073709551616", INVALID),
        ("out of range", "min_revision=18446744073709551616", INVALID),
        ("negative", "revision=-1", INVALID),
        ("signed", "min_revision=%2B1", INVALID),
        ("leading zero", "revision=01", INVALID),
        ("fraction", "revision=1.5", INVALID),
        ("hexadecimal", "min_revision=0x1", INVALID),
        ("no number", "revision=", INVALID),
        ("no number", "revision", INVALID),
        ("no number", "min_revision=newest", INVALID),
        ("binary", "revision=%ff", INVALID),
        ("zero byte", "min_revision=1%00", INVALID),
        ("repeated", "revision=1&revision=1", INVALID),
        ("repeated", "min_revision=1&min_revision=2", INVALID),
        ("both", "revision=1&min_revision=1", INVALID),
    ];
    let mut targets_of_both = Vec::new();
    for (name, query, want) in rows {
        targets_of_both.push((name, format!("/v1/kv/kept?{query}"), want));
        targets_of_both.push((name, format!("/v1/kv?{query}"), want));
    }
    let rows: Vec<_> =
        targets_of_both.iter().map(|(name, target, want)| (*name, "GET", &target[..], *want)).collect();
    let server = Server::start_with(&format!("{LIMITS}retention_revisions: 1\n"));
    server.refuses(&server.cluster.http_addr(0), &targets(&rows));
}

#[test]
fn client_port_refuses_bad_lists() {
    let server = Server::start();
    let page =
        server.cluster.request(0, "GET", "/v1/kv?limit=1&start=k&order=desc", &[], b"").expect("a page");
    let cursor = page.json()["cursor"].as_str().expect("there is a second key").to_owned();
    let with_cursor = |query: &str| format!("/v1/kv?{query}&cursor={cursor}");
    // That the cursor is right shows in the next page.
    let next = server.cluster.request(0, "GET", &with_cursor("limit=1&start=k&order=desc"), &[], b"");
    assert_eq!(next.expect("a page").json()["kvs"][0]["key"], KEPT);
    let cut = &cursor[..cursor.len() - 1];
    let first = if cursor.starts_with('A') { 'B' } else { 'A' };
    let targets_of_lists = [
        ("limit out of range", "/v1/kv?limit=0".to_owned(), INVALID),
        ("limit out of range", "/v1/kv?limit=10001".to_owned(), INVALID),
        ("limit out of range", "/v1/kv?limit=4294967297".to_owned(), INVALID),
        ("limit out of range", "/v1/kv?limit=99999999999999999999".to_owned(), INVALID),
        ("negative limit", "/v1/kv?limit=-1".to_owned(), INVALID),
        ("signed limit", "/v1/kv?limit=%2B5".to_owned(), INVALID),
        ("limit with a leading zero", "/v1/kv?limit=05".to_owned(), INVALID),
        ("limit that is no number", "/v1/kv?limit=all".to_owned(), INVALID),
        ("empty limit", "/v1/kv?limit=".to_owned(), INVALID),
        ("limit with a space", "/v1/kv?limit=5+".to_owned(), INVALID),
        ("binary limit", "/v1/kv?limit=%ff%fe".to_owned(), INVALID),
        ("repeated limit", "/v1/kv?limit=5&limit=5".to_owned(), INVALID),
        ("unknown order", "/v1/kv?order=up".to_owned(), INVALID),
        ("order in capitals", "/v1/kv?order=ASC".to_owned(), INVALID),
        ("empty order", "/v1/kv?order".to_owned(), INVALID),
        ("binary order", "/v1/kv?order=%00".to_owned(), INVALID),
        ("repeated order", "/v1/kv?order=asc&order=desc".to_owned(), INVALID),
        ("no flag", "/v1/kv?keys_only".to_owned(), INVALID),
        ("no flag", "/v1/kv?keys_only=1".to_owned(), INVALID),
        ("no flag", "/v1/kv?count_only=yes".to_owned(), INVALID),
        ("flag in capitals", "/v1/kv?count_only=True".to_owned(), INVALID),
        ("binary flag", "/v1/kv?keys_only=%80".to_owned(), INVALID),
        ("repeated flag", "/v1/kv?keys_only=true&keys_only=true".to_owned(), INVALID),
        ("repeated prefix", "/v1/kv?prefix=a&prefix=a".to_owned(), INVALID),
        ("repeated start, once escaped", "/v1/kv?start=a&st%61rt=a".to_owned(), INVALID),
        ("repeated end", "/v1/kv?end=a&end=".to_owned(), INVALID),
        ("broken escape in prefix", "/v1/kv?prefix=%".to_owned(), INVALID),
        ("broken escape in start", "/v1/kv?start=%4".to_owned(), INVALID),
        ("broken escape in end", "/v1/kv?end=%gg".to_owned(), INVALID),
        ("broken escape in a name", "/v1/kv?pre%=a".to_owned(), INVALID),
        ("binary name", "/v1/kv?%ff=a".to_owned(), INVALID),
        ("start after end", "/v1/kv?start=b&end=a".to_owned(), INVALID),
        ("start after end, binary", "/v1/kv?start=%ff%00&end=%ff".to_owned(), INVALID),
        ("start after end in descending order", "/v1/kv?start=b&end=a&order=desc".to_owned(), INVALID),
        ("unknown parameter", "/v1/kv?keysonly=true".to_owned(), INVALID),
        ("unknown parameter", "/v1/kv?key=kept".to_owned(), INVALID),
        ("parameter in capitals", "/v1/kv?Prefix=a".to_owned(), INVALID),
        ("bad consistency", "/v1/kv?consistency=strong".to_owned(), INVALID),
        ("count of a page", "/v1/kv?count_only=true&limit=5".to_owned(), INVALID),
        ("count in an order", "/v1/kv?count_only=true&order=asc".to_owned(), INVALID),
        ("count of keys alone", "/v1/kv?count_only=true&keys_only=true".to_owned(), INVALID),
        ("count from a cursor", with_cursor("count_only=true&start=k"), INVALID),
        ("empty cursor", "/v1/kv?cursor=".to_owned(), INVALID),
        ("invented cursor", "/v1/kv?cursor=AAAA".to_owned(), INVALID),
        ("a number as cursor", "/v1/kv?cursor=2".to_owned(), INVALID),
        ("binary cursor", "/v1/kv?cursor=%00%ff".to_owned(), INVALID),
        ("cursor that is no base64", "/v1/kv?cursor=!!!!".to_owned(), INVALID),
        ("cursor cut short", format!("/v1/kv?start=k&order=desc&cursor={cut}"), INVALID),
        ("cursor with padding", format!("{}=", with_cursor("start=k&order=desc")), INVALID),
        ("changed cursor", format!("/v1/kv?start=k&order=desc&cursor={first}{}", &cursor[1..]), INVALID),
        ("cursor of another order", with_cursor("start=k"), INVALID),
        ("cursor of another start", with_cursor("start=l&order=desc"), INVALID),
        ("cursor of another prefix", with_cursor("start=k&prefix=k&order=desc"), INVALID),
        ("cursor of another end", with_cursor("start=k&end=z&order=desc"), INVALID),
        ("repeated cursor", format!("{}&cursor={cursor}", with_cursor("start=k&order=desc")), INVALID),
        ("cursor of another revision", with_cursor("start=k&order=desc&revision=1"), INVALID),
        ("cursor older than asked for", with_cursor("start=k&order=desc&min_revision=4"), INVALID),
        ("very long cursor", format!("/v1/kv?cursor={}", "A".repeat(9_000)), INVALID),
    ];
    let rows: Vec<_> =
        targets_of_lists.iter().map(|(name, target, want)| (*name, "GET", &target[..], *want)).collect();
    let mut cases = targets(&rows);
    for method in ["PUT", "POST", "PATCH"] {
        cases.extend(targets(&[("wrong method", method, "/v1/kv", NO_METHOD)]));
    }
    let conditional = request("GET", "/v1/kv", &[("If-Match", b"*")], b"");
    cases.push(case("condition on a list", conditional, 400, "invalid_request"));
    server.refuses(&server.cluster.http_addr(0), &cases);
}

/// Nothing is removed by a request that does not say what, or says more than a range can mean.
#[test]
fn malformed_removals_of_ranges_change_nothing() {
    let server = Server::start();
    let mut cases = targets(&[
        ("no bound", "DELETE", "/v1/kv", INVALID),
        ("an empty query", "DELETE", "/v1/kv?", INVALID),
        ("an empty prefix", "DELETE", "/v1/kv?prefix=", INVALID),
        ("empty bounds", "DELETE", "/v1/kv?prefix=&start=&end=", INVALID),
        ("not all", "DELETE", "/v1/kv?all=false", INVALID),
        ("all, and a prefix", "DELETE", "/v1/kv?all=true&prefix=k", INVALID),
        ("all, and a start", "DELETE", "/v1/kv?all=true&start=k", INVALID),
        ("all, and an end", "DELETE", "/v1/kv?all=true&end=z", INVALID),
        ("all in another spelling", "DELETE", "/v1/kv?all=1", INVALID),
        ("all without a value", "DELETE", "/v1/kv?all", INVALID),
        ("all twice", "DELETE", "/v1/kv?all=true&all=true", INVALID),
        ("start after end", "DELETE", "/v1/kv?start=l&end=k", INVALID),
        ("repeated prefix", "DELETE", "/v1/kv?prefix=k&prefix=k", INVALID),
        ("broken escape", "DELETE", "/v1/kv?prefix=%zz", INVALID),
        ("no flag", "DELETE", "/v1/kv?prefix=k&prev=yes", INVALID),
        ("a separator for a removal", "DELETE", "/v1/kv?prefix=k&separator=/", INVALID),
        ("a filter for a removal", "DELETE", "/v1/kv?prefix=k&min_mod_revision=1", INVALID),
        ("a parameter of lists", "DELETE", "/v1/kv?prefix=k&limit=1", INVALID),
        ("a parameter of reads", "DELETE", "/v1/kv?prefix=k&revision=1", INVALID),
    ]);
    let conditions: [(&str, &[u8]); 6] = [
        ("If-Match", b"*"),
        ("If-Match", b"\"1\""),
        ("If-None-Match", b"*"),
        ("If-None-Match", b"\"1\""),
        ("If-Version", b"0"),
        ("If-Version", b"1"),
    ];
    for (name, value) in conditions {
        let conditional = request("DELETE", "/v1/kv?prefix=k", &[(name, value)], b"");
        cases.push(case(format!("a range with {name}"), conditional, 400, "invalid_request"));
    }
    let body = request("DELETE", "/v1/kv?prefix=k", &[], b"x");
    cases.push(case("a range with a body", body, 400, "invalid_request"));
    let key = request("DELETE", "/v1/kv?prefix=k", &[("Idempotency-Key", b"?")], b"");
    cases.push(case("a range with a bad idempotency key", key, 400, "invalid_request"));
    server.refuses(&server.cluster.http_addr(0), &cases);
}

/// What is too large to be removed at once stays as a whole, and goes in parts.
#[test]
fn a_range_that_is_too_large_changes_nothing() {
    let server = Server::start_with(&format!("{LIMITS}retention_bytes: 200\n"));
    let addr = server.cluster.http_addr(0);
    let mut connection = Connection::open(&addr).unwrap();
    let mut ask = |method: &str, target: &str| connection.request(method, target, &[], b"").unwrap();
    let refused = ask("DELETE", "/v1/kv?all=true");
    assert_eq!((refused.status, refused.outcome().as_str()), (413, "not_done"));
    assert_eq!(ask("GET", "/v1/kv").json()["count"], 2);
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("more than 100 bytes") && message.contains("in parts"), "{message}");
    assert_eq!(ask("PUT", "/v1/kv").header("Allow"), Some("GET, HEAD, DELETE"));
    let parts = ["/v1/kv?end=kept%20", "/v1/kv?start=kept%20"]
        .map(|part| ask("DELETE", part).json()["deleted"].clone());
    assert_eq!(parts, [1, 1]);
    assert_eq!(ask("DELETE", "/v1/kv?all=true").json()["deleted"], 0);
}

#[test]
fn client_port_refuses_bad_shapes_of_lists() {
    let server = Server::start();
    let rows = [
        ("no sort", "GET", "/v1/kv?sort=", INVALID),
        ("no sort", "GET", "/v1/kv?sort=name", INVALID),
        ("sort in capitals", "GET", "/v1/kv?sort=KEY", INVALID),
        ("sort with a dash", "GET", "/v1/kv?sort=mod-revision", INVALID),
        ("two sorts", "GET", "/v1/kv?sort=key&sort=value", INVALID),
        ("binary sort", "GET", "/v1/kv?sort=%ff", INVALID),
        ("sorted pages", "GET", "/v1/kv?sort=version&cursor=AQ", INVALID),
        ("sorted folders", "GET", "/v1/kv?sort=version&separator=/", INVALID),
        ("a sorted count", "GET", "/v1/kv?sort=version&count_only=true", INVALID),
        ("a sorted count", "GET", "/v1/kv?sort=key&count_only=true", INVALID),
        ("too many sorted", "GET", "/v1/kv?sort=version&limit=10001", INVALID),
        ("none sorted", "GET", "/v1/kv?sort=version&limit=0", INVALID),
        ("an empty separator", "GET", "/v1/kv?separator=", INVALID),
        ("an empty separator", "GET", "/v1/kv?separator", INVALID),
        ("two separators", "GET", "/v1/kv?separator=/&separator=.", INVALID),
        ("a broken separator", "GET", "/v1/kv?separator=%2", INVALID),
        ("a count of folders", "GET", "/v1/kv?separator=/&count_only=true", INVALID),
        ("no number", "GET", "/v1/kv?min_mod_revision=", INVALID),
        ("no number", "GET", "/v1/kv?max_mod_revision=x", INVALID),
        ("a negative number", "GET", "/v1/kv?min_create_revision=-1", INVALID),
        ("a number with a plus", "GET", "/v1/kv?max_create_revision=%2B1", INVALID),
        ("a leading zero", "GET", "/v1/kv?min_mod_revision=01", INVALID),
        ("more than 64 bits", "GET", "/v1/kv?max_mod_revision=18446744073709551616", INVALID),
        ("ends the wrong way round", "GET", "/v1/kv?min_mod_revision=3&max_mod_revision=2", INVALID),
        ("ends the wrong way round", "GET", "/v1/kv?min_create_revision=3&max_create_revision=2", INVALID),
        ("a filter twice", "GET", "/v1/kv?min_mod_revision=1&min_mod_revision=1", INVALID),
        ("a filter of one key", "GET", "/v1/kv/kept?min_mod_revision=1", INVALID),
        ("a separator of one key", "GET", "/v1/kv/kept?separator=/", INVALID),
        ("a sort of one key", "GET", "/v1/kv/kept?sort=key", INVALID),
        ("a filter of a put", "PUT", "/v1/kv/kept?min_mod_revision=1", INVALID),
    ];
    server.refuses(&server.cluster.http_addr(0), &targets(&rows));
    // A cursor belongs to its list.
    let ask = |target: &str| server.cluster.request(0, "GET", target, &[], b"").unwrap();
    let page = ask("/v1/kv?limit=1&separator=/").json();
    let cursor = page["cursor"].as_str().expect("there are two keys");
    for (query, status) in
        [("separator=/", 200), ("separator=.", 400), ("", 400), ("separator=/&min_mod_revision=1", 400)]
    {
        assert_eq!(ask(&format!("/v1/kv?limit=1&{query}&cursor={cursor}")).status, status, "{query}");
    }
}
