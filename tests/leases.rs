//! Leases on real nodes: keys that go, renewals that share entries of the log, leaders that die, and the library's lease
//! that renews itself.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[path = "support/cluster.rs"]
#[allow(dead_code)]
mod cluster;
#[path = "../examples/lease.rs"]
#[allow(dead_code)]
mod example;

use cluster::{Answer, Cluster, wait_for};
use dkv::api::ErrorCode;
use dkv::client::{Client, ClientError, KeyLease, Lease, LeasePage, WriteOptions};

fn grant(cluster: &Cluster, n: usize, ttl_s: u64) -> String {
    let body = format!("{{\"ttl_s\":{ttl_s}}}");
    let answer = wait_for("a lease", || {
        let answer = cluster.request(n, "POST", "/v1/leases", &[], body.as_bytes()).ok()?;
        (answer.status == 200).then_some(answer)
    });
    answer.json()["lease"].as_str().expect("a name").to_owned()
}

fn renew(cluster: &Cluster, n: usize, lease: &str) -> Option<Answer> {
    cluster.request(n, "POST", &format!("/v1/leases/{lease}/renew"), &[], b"").ok()
}

fn put(cluster: &Cluster, n: usize, key: &str, lease: &str) -> Answer {
    cluster.request(n, "PUT", &format!("/v1/kv/{key}?lease={lease}"), &[], b"v").expect("an answer")
}

fn client(cluster: &Cluster, n: usize) -> Arc<Client> {
    Arc::new(Client::new(&[cluster.http_addr(n)], Duration::from_secs(10)).unwrap())
}

#[test]
fn a_lease_that_nobody_renews_takes_its_keys_on_every_node() {
    let cluster = Cluster::start(3);
    let began = Instant::now();
    let lease = grant(&cluster, 0, 2);
    for (n, key) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(put(&cluster, n, key, &lease).status, 200);
    }
    let list = |n| cluster.request(n, "GET", "/v1/kv", &[], b"").unwrap().json();
    assert_eq!(list(1)["count"], 3);
    wait_for("the keys to go", || (list(2)["count"] == 0).then_some(()));
    assert!(began.elapsed() >= Duration::from_secs(2), "they went after {:?}", began.elapsed());
    let history = |key| cluster.request(0, "GET", &format!("/v1/history/{key}"), &[], b"").unwrap().json();
    let gone: Vec<_> = ["a", "b", "c"].map(|key| history(key)["versions"][0]["revision"].clone()).into();
    assert!(gone[0] == gone[1] && gone[1] == gone[2], "all at one revision: {gone:?}");
    let answer = renew(&cluster, 1, &lease).unwrap();
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (404, Some("lease_not_found")));
    assert_eq!(put(&cluster, 0, "d", &lease).status, 404);
    cluster.wait_for_equal_state();
}

/// The time that passed under leaders that died is not forgotten, and a lease that is renewed outlives them all.
#[test]
fn leases_outlive_leaders_and_end_in_time_all_the_same() {
    let mut cluster = Cluster::start(3);
    let (kept, left) = (grant(&cluster, 0, 3), grant(&cluster, 1, 5));
    assert_eq!((put(&cluster, 0, "kept", &kept).status, put(&cluster, 0, "left", &left).status), (200, 200));
    let began = Instant::now();
    for _ in 0..2 {
        let leader = cluster.wait_for_leader();
        cluster.kill(leader);
        let other = (leader + 1) % 3;
        for _ in 0..3 {
            wait_for("a renewal", || renew(&cluster, other, &kept).filter(|answer| answer.status == 200));
            std::thread::sleep(Duration::from_millis(500));
        }
        cluster.spawn(leader);
    }
    let leader = cluster.wait_for_leader();
    wait_for("the lease that nobody renews to end", || {
        renew(&cluster, leader, &kept)?;
        (cluster.get(leader, "left").ok()?.status == 404).then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(5 + 2 * 2 + 6), "it lived for {:?}", began.elapsed());
    assert_eq!(cluster.get(leader, "kept").unwrap().status, 200);
}

/// Hundreds of leases cost the log a few entries.
#[test]
fn renewals_that_come_together_share_entries_of_the_log() {
    let cluster = Cluster::start(3);
    let leases: Vec<String> = (0..40).map(|n| grant(&cluster, n % 3, 600)).collect();
    let applied = || cluster.status(0).unwrap()["applied"].as_u64().unwrap();
    cluster.wait_for_equal_state();
    let (before, began) = (applied(), Instant::now());
    std::thread::scope(|scope| {
        for (n, lease) in leases.iter().enumerate() {
            let cluster = &cluster;
            scope.spawn(move || {
                for round in 0..10 {
                    let answer = renew(cluster, (n + round) % 3, lease).expect("an answer");
                    assert_eq!((answer.status, answer.json()["ttl_s"].as_u64()), (200, Some(600)));
                }
            });
        }
    });
    let took = began.elapsed();
    cluster.wait_for_equal_state();
    let entries = applied() - before;
    // At most one each 20 ms, and now and then one for the time; 400 renewals without sharing.
    let most = took.as_millis() as u64 / 20 + 20;
    assert!(entries <= most.min(200), "{entries} entries in {took:?}");
}

#[test]
fn a_key_with_a_lease_of_its_own_goes_unless_it_is_put_again() {
    let cluster = Cluster::start(1);
    let own = |key: &str, ttl_s: u64| {
        let target = format!("/v1/kv/{key}?ttl_s={ttl_s}");
        assert_eq!(cluster.request(0, "PUT", &target, &[], b"v").unwrap().status, 200);
    };
    own("short", 1);
    own("again", 1);
    let leases = || cluster.request(0, "GET", "/v1/leases", &[], b"").unwrap().json()["leases"].clone();
    assert_eq!(leases().as_array().unwrap().len(), 2);
    own("again", 600);
    cluster.put(0, "again too", "v").unwrap();
    wait_for("the key to go", || (cluster.get(0, "short").unwrap().status == 404).then_some(()));
    assert_eq!(cluster.get(0, "again").unwrap().status, 200);
    let left = leases();
    assert_eq!(
        (left.as_array().unwrap().len(), &left[0]["ttl_s"], &left[0]["own"]),
        (1, &600.into(), &true.into())
    );
}

#[test]
fn pages_of_leases_and_of_keys_go_on_where_the_page_before_ended() {
    let cluster = Cluster::start(1);
    let client = client(&cluster, 0);
    let options = WriteOptions::default();
    for id in 1..=7u64 {
        client.grant_lease(600, dkv::vocabulary::LeaseId::new(id), &options).unwrap();
    }
    let (mut page, mut names) = (LeasePage { limit: Some(3), ..LeasePage::default() }, Vec::new());
    loop {
        let reply = client.leases(&page).unwrap();
        names.extend(reply.leases.iter().map(|lease| lease.lease.get()));
        page.cursor = reply.cursor;
        if page.cursor.is_none() {
            break;
        }
    }
    assert_eq!(names, [1, 2, 3, 4, 5, 6, 7]);
    let lease = dkv::vocabulary::LeaseId::new(7).unwrap();
    for key in ["c", "a", "b"] {
        client.put_leased(key.as_bytes(), b"v", KeyLease::Attach(lease), &options).unwrap();
    }
    let (mut page, mut keys) = (LeasePage { limit: Some(2), ..LeasePage::default() }, Vec::new());
    loop {
        let shown = client.lease(lease, Some(&page)).unwrap().expect("it is there");
        assert_eq!(shown.lease.key_count, 3);
        keys.extend(shown.keys.unwrap().into_iter().map(|key| key.0));
        page.cursor = shown.cursor;
        if page.cursor.is_none() {
            break;
        }
    }
    assert_eq!(keys, [b"a", b"b", b"c"]);
    // The cursor of the keys is none of another listing.
    let foreign = client.leases(&LeasePage { limit: Some(3), ..LeasePage::default() }).unwrap().cursor;
    let page = LeasePage { cursor: foreign, ..LeasePage::default() };
    assert!(matches!(client.lease(lease, Some(&page)), Err(ClientError::Refused(_))));
    let revoked = client.revoke_lease(lease, &options).unwrap().reply;
    assert_eq!((revoked.deleted, client.lease(lease, None).unwrap()), (3, None));
}

#[test]
fn a_lease_of_the_library_renews_itself_until_it_is_dropped() {
    let cluster = Cluster::start(3);
    let client = client(&cluster, 0);
    let lease = Lease::begin(client.clone(), 1).unwrap();
    let id = lease.id();
    client.put_leased(b"k", b"v", KeyLease::Attach(id), &WriteOptions::default()).unwrap();
    assert!(!lease.wait_lost(Duration::from_secs(3)), "it is renewed");
    assert!(lease.remaining() <= lease.ttl() && cluster.get(1, "k").unwrap().status == 200);
    drop(lease);
    wait_for("the key to go", || (cluster.get(2, "k").ok()?.status == 404).then_some(()));
    let revoked = Lease::begin(client.clone(), 600).unwrap();
    let id = revoked.id();
    revoked.revoke().unwrap();
    match client.renew_lease(id) {
        Err(ClientError::Refused(detail)) => assert_eq!(detail.code, ErrorCode::LeaseNotFound),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lease_of_the_library_says_that_it_is_lost() {
    let mut cluster = Cluster::start(1);
    let client = client(&cluster, 0);
    // Somebody else ends it.
    let ended = Lease::begin(client.clone(), 3).unwrap();
    client.revoke_lease(ended.id(), &WriteOptions::default()).unwrap();
    assert!(ended.wait_lost(Duration::from_secs(10)) && ended.is_lost());
    // Nobody can be reached: it counts from when the last renewal was sent.
    let unreachable = Lease::begin(client, 2).unwrap();
    cluster.kill(0);
    let began = Instant::now();
    assert!(unreachable.wait_lost(Duration::from_secs(10)));
    assert!(began.elapsed() <= Duration::from_millis(2_500), "{:?}", began.elapsed());
}

#[test]
fn the_example_stays_registered_while_it_lives() {
    let cluster = Cluster::start(3);
    let lease = example::register(&cluster.http_addr(1), "service/a", "10.0.0.7:80").unwrap();
    let answer = cluster.get(2, "service/a").unwrap();
    assert_eq!(
        (answer.text().as_str(), answer.header("Dkv-Lease")),
        ("10.0.0.7:80", Some(&*lease.id().to_string()))
    );
    lease.revoke().unwrap();
    assert_eq!(cluster.get(2, "service/a").unwrap().status, 404);
}

#[test]
fn dkv_cli_grants_shows_renews_and_revokes() {
    let cluster = Cluster::start(1);
    let (code, id) = cluster.cli(&["lease", "grant", "600"]);
    let id = id.trim().to_owned();
    assert_eq!((code, id.len()), (Some(0), 16));
    assert_eq!(cluster.cli(&["lease", "grant", "600", "--id", &id]).0, Some(1), "it is there already");
    assert_eq!(cluster.cli(&["set", "a", "1", "--lease", &id]), (Some(0), "OK\n".to_owned()));
    assert_eq!(cluster.cli(&["set", "b", "1", "--ttl", "600"]).0, Some(0));
    let (_, shown) = cluster.cli(&["lease", "show", &id]);
    assert!(
        shown.starts_with(&format!("{id}\t600 s\t5")) && shown.ends_with(" s left\t1 key\n\ta\n"),
        "{shown:?}"
    );
    let (_, list) = cluster.cli(&["lease", "list"]);
    assert!(list.lines().count() == 2 && list.contains("\town\n"), "{list}");
    let (_, json) = cluster.cli(&["lease", "list", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["leases"].as_array().unwrap().len(), 2);
    assert_eq!(cluster.cli(&["lease", "renew", &id]), (Some(0), format!("{id} lives for 600 s\n")));
    assert_eq!(cluster.cli(&["lease", "revoke", &id]), (Some(0), format!("{id} is revoked, 1 key gone\n")));
    for command in ["renew", "revoke", "show", "keep"] {
        assert_eq!(cluster.cli(&["lease", command, &id]).0, Some(1), "{command}");
    }
    for bad in [
        &["lease", "grant", "0"][..],
        &["lease", "renew", "xyz"],
        &["set", "a", "1", "--lease", "1", "--ttl", "2"],
    ] {
        assert_eq!(cluster.cli(bad).0, Some(2), "{bad:?}");
    }
    assert_eq!(cluster.cli(&["set", "a", "1", "--lease", &id]).0, Some(1));
}

/// A lease outlives a cluster that cannot be reached for a while, and so does the command that keeps it.
#[test]
fn dkv_cli_keeps_a_lease_past_a_node_that_is_gone_for_a_while() {
    let mut cluster = Cluster::start(1);
    let id = grant(&cluster, 0, 6);
    let mut keeper = Command::new(env!("CARGO_BIN_EXE_dkv-cli"))
        .env("DKV_ENDPOINTS", cluster.http_addr(0))
        .args(["--timeout", "0.2", "lease", "keep", &id])
        .stderr(Stdio::piped())
        .spawn()
        .expect("dkv-cli starts");
    let left = |cluster: &Cluster| {
        let answer = cluster.request(0, "GET", &format!("/v1/leases/{id}"), &[], b"").ok()?;
        answer.json()["remaining_ms"].as_u64()
    };
    wait_for("its time to pass", || left(&cluster).filter(|&ms| ms < 4_500).map(drop));
    wait_for("a renewal", || left(&cluster).filter(|&ms| ms > 5_000).map(drop));
    cluster.kill(0);
    let mut said = BufReader::new(keeper.stderr.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("it says that it is not renewed");
    assert!(line.starts_with("not renewed, trying again: "), "{line}");
    cluster.spawn(0);
    cluster.wait_for_leader();
    std::thread::sleep(Duration::from_secs(7));
    assert!(left(&cluster).is_some(), "its time has passed, and it was kept");
    let revoked = cluster.request(0, "DELETE", &format!("/v1/leases/{id}"), &[], b"").unwrap();
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("text");
    assert_eq!(keeper.wait().expect("it ends").code(), Some(1), "{rest}");
}
