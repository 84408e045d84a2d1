//! Bad requests about leases.

use super::{Case, INVALID, LIMITS, NO_METHOD, Server, case, check_error, request, state, targets};

const GRANT: &str = "/v1/leases";

#[test]
fn requests_about_leases_that_nobody_can_mean_change_nothing() {
    let bodies = [
        ("no body", ""),
        ("no JSON", "ttl_s=5"),
        ("a list", "[5]"),
        ("a number", "5"),
        ("null", "null"),
        ("no time to live", "{}"),
        ("a time to live of 0", r#"{"ttl_s":0}"#),
        ("a time to live below 0", r#"{"ttl_s":-1}"#),
        ("a time to live with a fraction", r#"{"ttl_s":1.5}"#),
        ("a time to live in a string", r#"{"ttl_s":"5"}"#),
        ("a time to live beyond all", r#"{"ttl_s":9000000001}"#),
        ("a time to live beyond 64 bits", r#"{"ttl_s":18446744073709551616}"#),
        ("an unknown field", r#"{"ttl_s":5,"ttl":5}"#),
        ("the name 0", r#"{"ttl_s":5,"id":"0"}"#),
        ("a name with a sign", r#"{"ttl_s":5,"id":"-1"}"#),
        ("a name with a prefix", r#"{"ttl_s":5,"id":"0x1"}"#),
        ("a name that is too long", r#"{"ttl_s":5,"id":"00000000000000001"}"#),
        ("a name beyond 63 bits", r#"{"ttl_s":5,"id":"8000000000000000"}"#),
        ("a name that is a number", r#"{"ttl_s":5,"id":1}"#),
        ("a field twice", r#"{"ttl_s":5,"ttl_s":6}"#),
        ("more than one object", r#"{"ttl_s":5}{"ttl_s":5}"#),
    ];
    let server = Server::start_with(LIMITS);
    let address = server.cluster.http_addr(0);
    let mut cases: Vec<Case> = bodies
        .iter()
        .map(|(name, body)| {
            case(
                format!("{name}: {body}"),
                request("POST", GRANT, &[], body.as_bytes()),
                INVALID.0,
                INVALID.1,
            )
        })
        .collect();
    cases.extend(targets(&[
        ("parameter of a grant", "POST", "/v1/leases?ttl_s=5", INVALID),
        ("wrong method", "PUT", "/v1/leases", NO_METHOD),
        ("wrong method", "DELETE", "/v1/leases", NO_METHOD),
        ("wrong method", "POST", "/v1/leases/1", NO_METHOD),
        ("wrong method", "PUT", "/v1/leases/1", NO_METHOD),
        ("wrong method", "GET", "/v1/leases/1/renew", NO_METHOD),
        ("wrong method", "DELETE", "/v1/leases/1/renew", NO_METHOD),
        ("no name", "GET", "/v1/leases/", INVALID),
        ("no name", "POST", "/v1/leases//renew", INVALID),
        ("no name", "DELETE", "/v1/leases/x", INVALID),
        ("a name that is encoded", "GET", "/v1/leases/%31", INVALID),
        ("two names", "GET", "/v1/leases/1/2", INVALID),
        ("the name 0", "POST", "/v1/leases/0/renew", INVALID),
        ("a name beyond 63 bits", "POST", "/v1/leases/ffffffffffffffff/renew", INVALID),
        ("parameter of a renewal", "POST", "/v1/leases/1/renew?ttl_s=5", INVALID),
        ("parameter of a revocation", "DELETE", "/v1/leases/1?force=true", INVALID),
        ("limit 0", "GET", "/v1/leases?limit=0", INVALID),
        ("limit beyond", "GET", "/v1/leases?limit=1001", INVALID),
        ("no cursor", "GET", "/v1/leases?cursor=x", INVALID),
        ("keys of all leases", "GET", "/v1/leases?keys=true", INVALID),
        ("a revision", "GET", "/v1/leases?revision=1", INVALID),
        ("bad consistency", "GET", "/v1/leases?consistency=eventual", INVALID),
        ("bad flag", "GET", "/v1/leases/1?keys=yes", INVALID),
        ("limit without keys", "GET", "/v1/leases/1?limit=5", INVALID),
        ("cursor without keys", "GET", "/v1/leases/1?cursor=x", INVALID),
        ("lease and ttl_s", "PUT", "/v1/kv/kept?lease=1&ttl_s=5", INVALID),
        ("the lease 0", "PUT", "/v1/kv/kept?lease=0", INVALID),
        ("no lease", "PUT", "/v1/kv/kept?lease=", INVALID),
        ("no lease", "PUT", "/v1/kv/kept?lease=one", INVALID),
        ("ttl_s 0", "PUT", "/v1/kv/kept?ttl_s=0", INVALID),
        ("ttl_s beyond", "PUT", "/v1/kv/kept?ttl_s=9000000001", INVALID),
        ("ttl_s below 0", "PUT", "/v1/kv/kept?ttl_s=-5", INVALID),
        ("ttl_s twice", "PUT", "/v1/kv/kept?ttl_s=5&ttl_s=6", INVALID),
        ("keep_lease", "PUT", "/v1/kv/kept?keep_lease=true", INVALID),
        ("lease of a read", "GET", "/v1/kv/kept?lease=1", INVALID),
        ("lease of a deletion", "DELETE", "/v1/kv/kept?lease=1", INVALID),
        ("lease of a counter", "POST", "/v1/kv/kept?add=1&lease=1", INVALID),
    ]));
    for (name, method, target) in [
        ("body of a renewal", "POST", "/v1/leases/1/renew"),
        ("body of a revocation", "DELETE", "/v1/leases/1"),
    ] {
        cases.push(case(name, request(method, target, &[], b"x"), INVALID.0, INVALID.1));
    }
    let key: &[(&str, &[u8])] = &[("Idempotency-Key", b"a b")];
    cases.push(case(
        "bad idempotency key",
        request("POST", GRANT, key, br#"{"ttl_s":5}"#),
        INVALID.0,
        INVALID.1,
    ));
    server.refuses(&address, &cases);
    assert!(cases.len() > 55, "{} rows", cases.len());
    // What only the state can tell. Nothing of it happens.
    let before = state(&server.cluster)["revision"].clone();
    for (name, method, target, code) in [
        ("renewal of nothing", "POST", "/v1/leases/7/renew", "lease_not_found"),
        ("revocation of nothing", "DELETE", "/v1/leases/7", "lease_not_found"),
        ("put under nothing", "PUT", "/v1/kv/kept?lease=7", "lease_not_found"),
        ("a lease that is not there", "GET", "/v1/leases/7", "not_found"),
    ] {
        let answer = server.cluster.request(0, method, target, &[], b"").expect("an answer");
        check_error(name, &answer, code);
        assert_eq!(answer.status, 404, "{name}");
        assert_eq!(state(&server.cluster)["revision"], before, "{name} changed something");
    }
}
