//! HEAD: what GET says, without the body. The flat routes have no HEAD.

#[allow(dead_code)]
mod support {
    pub mod cluster;
}

use support::cluster::{Answer, Cluster, Connection};

/// The headers of an answer that do not change from one moment to the next.
fn steady(answer: &Answer) -> Vec<(String, String)> {
    answer.headers.iter().filter(|(name, _)| name != "Date").cloned().collect()
}

/// Target, headers, status.
type Row = (&'static str, &'static [(&'static str, &'static str)], u16);

const JSON: &[(&str, &str)] = &[("Accept", "application/json")];

#[test]
fn head_is_get_without_its_body() {
    let cluster = Cluster::start_calm(3);
    let leader = cluster.wait_for_leader();
    let follower = (leader + 1) % 3;
    assert_eq!(cluster.put(leader, "k", "some value").unwrap().status, 200);
    assert_eq!(cluster.put(leader, "empty", "").unwrap().status, 200);
    cluster.wait_for_equal_state();
    let table: [Row; 17] = [
        ("/v1/kv/k", &[], 200),
        ("/v1/kv/k", JSON, 200),
        ("/v1/kv/k?consistency=stale", &[], 200),
        ("/v1/kv/k?revision=2", &[], 200),
        ("/v1/kv/empty", &[], 200),
        ("/v1/kv/absent", &[], 404),
        ("/v1/kv/k?revision=99", &[], 400),
        ("/v1/kv/", &[], 400),
        ("/v1/kv/k", &[("If-Match", "\"1\"")], 400),
        ("/v1/kv", &[], 200),
        ("/v1/kv?limit=1&keys_only=true", &[], 200),
        ("/v1/kv?count_only=true", &[], 200),
        ("/v1/kv?limit=0", &[], 400),
        ("/v1/cluster", &[], 200),
        ("/healthz", &[], 200),
        ("/readyz", &[], 200),
        ("/no/such/route", &[], 404),
    ];
    for n in [leader, follower] {
        // One connection for all: a body after a head would be taken for the next answer.
        let mut connection = Connection::open(&cluster.http_addr(n)).unwrap();
        for (path, headers, status) in table {
            let head = connection.head(path, headers).unwrap();
            let get = connection.request("GET", path, headers, b"").unwrap();
            assert_eq!((head.status, get.status), (status, status), "{path}: {}", get.text());
            assert_eq!(steady(&head), steady(&get), "{path}");
            assert_eq!(head.header("Content-Length"), Some(&get.body.len().to_string()[..]), "{path}");
        }
        // Pages whose length changes from one moment to the next.
        for path in ["/v1/status", "/metrics"] {
            let head = connection.head(path, &[]).unwrap();
            let length: usize = head.header("Content-Length").unwrap().parse().unwrap();
            assert!(head.status == 200 && length > 100, "{path}: {length}");
        }
        for path in ["/get?key=k", "/set", "/delete?key=k", "/v1/log-level"] {
            assert_eq!(connection.head(path, &[]).unwrap().status, 405, "{path}");
        }
        let last = connection.request("GET", "/v1/kv/k", &[], b"").unwrap();
        assert_eq!((last.status, last.text()), (200, "some value".to_owned()));
    }
}
