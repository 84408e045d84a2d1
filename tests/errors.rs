//! The table of errors: every code is documented with its statuses and its outcome, and every one can be met on a real
//! cluster, as its row says. The one exception is `internal`, which takes a defect: `tests/edge.rs` has one.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use dkv::api::ErrorCode;
use socket2::{Domain, Socket, Type};

#[allow(dead_code)]
mod support {
    pub mod cluster;
}

use support::cluster::{Answer, Cluster, Connection, Setup, wait_for};

fn document(name: &str) -> String {
    fs::read_to_string(format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Code, statuses and outcome of each row of the table in the API's document.
fn documented() -> Vec<(String, Vec<u16>, String)> {
    let page = document("api.md");
    let (_, section) = page.split_once("\n## Errors\n").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("there is another section after it");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let statuses = cells[1].split(", ").map(|status| status.parse().unwrap()).collect();
        (cells[0].trim_matches('`').to_owned(), statuses, cells[2].to_owned())
    })
    .collect()
}

#[test]
fn the_documented_table_has_every_code_with_its_statuses_and_its_outcome() {
    let operations = document("operations.md");
    let rows = documented();
    let codes: Vec<&str> = rows.iter().map(|(code, ..)| &code[..]).collect();
    assert_eq!(codes, ErrorCode::ALL.map(ErrorCode::as_str));
    for ((code, statuses, outcome), known) in rows.iter().zip(ErrorCode::ALL) {
        assert_eq!(statuses, known.statuses(), "{code}");
        let usual = serde_json::to_value(known.outcome()).unwrap();
        assert_eq!(outcome.split(',').next(), usual.as_str(), "{code}");
        assert!(operations.contains(&format!("`{code}`")), "operations.md says nothing about {code}");
    }
}

/// The codes that were met, each held to its row.
struct Met {
    rows: Vec<(String, Vec<u16>, String)>,
    codes: BTreeSet<String>,
}

impl Met {
    fn check(&mut self, answer: &Answer, code: &str) {
        let error = &answer.json()["error"];
        assert_eq!(error["code"], code, "{}", answer.text());
        let (_, statuses, outcome) = self.rows.iter().find(|(known, ..)| known == code).expect("documented");
        assert!(statuses.contains(&answer.status), "{code}: {}", answer.status);
        assert_eq!(error["outcome"].as_str(), outcome.split(',').next(), "{code}");
        assert!(answer.header("Dkv-Node").is_some(), "{code}");
        assert!(answer.header("Dkv-Cluster").is_some_and(dkv::api::is_cluster_id), "{code}");
        assert_eq!(answer.header("Retry-After").is_some(), code == "overloaded", "{code}");
        self.codes.insert(code.to_owned());
    }
}

/// An address of this machine that is not its loopback, where it has one. (Nothing is sent.)
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("203.0.113.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// A connection to the node's own port by a client that is not on the loopback.
fn connect_from(address: IpAddr, to: &str) -> std::io::Result<Connection> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(address, 0).into())?;
    socket.connect_timeout(&to.parse::<SocketAddr>().unwrap().into(), Duration::from_secs(5))?;
    Connection::over(socket.into())
}

#[test]
fn every_code_of_the_table_can_be_met() {
    let mut met = Met { rows: documented(), codes: BTreeSet::new() };
    // A leader that loses its majority stays in office for an election timeout, longer than a request may take.
    let extra = "election_timeout_ms: 4000\ndisk_stall_ms: 5000\nrequest_timeout_ms: 1000\nretention_revisions: 1\nidempotency_rows: 1\n";
    let cluster = Cluster::start_with(3, &Setup { extra: extra.to_owned(), ..Setup::default() });
    let leader = cluster.wait_for_leader();
    wait_for("two writes", || {
        (cluster.put(leader, "k", "v").ok()?.status == 200).then_some(())?;
        let keyed = [("Idempotency-Key", "first")];
        let answer = cluster.request(leader, "PUT", "/v1/kv/k", &keyed, b"v").ok()?;
        (answer.status == 200).then_some(())
    });
    let ask = |method: &str, path: &str, headers: &[(&str, &str)]| {
        cluster.request(leader, method, path, headers, b"").unwrap()
    };
    met.check(&ask("GET", "/v1/kv?limit=0", &[]), "invalid_request");
    met.check(&ask("GET", "/v1/kv/k?revision=999999", &[]), "future_revision");
    met.check(&ask("GET", "/nowhere", &[]), "unknown_route");
    met.check(&ask("GET", "/v1/kv/absent", &[]), "not_found");
    met.check(&ask("POST", "/v1/kv", &[]), "method_not_allowed");
    met.check(&ask("GET", "/v1/kv/k?revision=1", &[]), "compacted");
    met.check(&ask("PUT", "/v1/kv/k", &[("If-None-Match", "*")]), "precondition_failed");
    met.check(&ask("GET", &format!("/v1/kv/{}", "k".repeat(4_097)), &[]), "too_large");
    met.check(&ask("PUT", "/v1/kv/other", &[("Idempotency-Key", "first")]), "idempotency_mismatch");
    met.check(&ask("PUT", "/v1/kv/k", &[("Idempotency-Key", "second")]), "overloaded");
    let keep = br#"{"then":[{"put":{"key":"absent","keep_value":true}}]}"#;
    let refused = cluster.request(leader, "POST", "/v1/txn", &[], keep).unwrap();
    met.check(&refused, "key_not_found");
    met.check(&ask("PUT", "/v1/kv/k?lease=aa", &[]), "lease_not_found");
    met.check(&ask("GET", "/v1/watch?key=k", &[("Accept", "text/html")]), "not_acceptable");
    let twin = br#"{"node_id":"node1","member_id":"00000000000000ab","raft_addr":"127.0.0.1:1","http_addr":"127.0.0.1:2"}"#;
    let refused = cluster.request(leader, "POST", "/v1/cluster/members", &[], twin).unwrap();
    met.check(&refused, "conflict");
    let alien = br#"{"node_id":"node9","member_id":"00000000000000ab","protocol":9,"raft_addr":"127.0.0.1:1","http_addr":"127.0.0.1:2"}"#;
    let refused = cluster.request(leader, "POST", "/v1/cluster/members", &[], alien).unwrap();
    met.check(&refused, "unsupported");
    match outer_address() {
        Some(address) => {
            let mut client = connect_from(address, &cluster.http_addr(leader)).unwrap();
            met.check(&client.request("PUT", "/v1/log-level", &[], b"debug").unwrap(), "forbidden");
        }
        // Then no client can come from elsewhere, and the unit test of the route has to do.
        None => drop(met.codes.insert("forbidden".to_owned())),
    }

    // The followers stand still: the leader does not know it yet, and no majority answers it.
    let followers: Vec<usize> = (0..3).filter(|&n| n != leader).collect();
    followers.iter().for_each(|&n| cluster.signal(n, "STOP"));
    met.check(&ask("GET", "/v1/kv/k", &[]), "timeout");
    met.check(&ask("PUT", "/v1/kv/k", &[]), "outcome_unknown");
    // In the end it notices.
    let refused = wait_for("the leader to step down", || {
        let answer = ask("PUT", "/v1/kv/k", &[]);
        (answer.status == 503).then_some(answer)
    });
    met.check(&refused, "unavailable");
    followers.iter().for_each(|&n| cluster.signal(n, "CONT"));

    met.codes.insert("internal".to_owned());
    let all: BTreeSet<String> = ErrorCode::ALL.iter().map(ErrorCode::to_string).collect();
    assert_eq!(met.codes, all);
}
