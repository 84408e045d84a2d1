//! Real processes: they are killed, their files are damaged, their directories taken away, and nothing acknowledged is
//! lost, doubled or invented.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[allow(dead_code)]
mod support {
    pub mod cluster;
    pub mod load;
    pub mod message;
    pub mod proxy;
}

use support::cluster::{Cluster, Connection, Setup, wait_for};
use support::load::{self, Load};
use support::proxy::Proxy;

/// Nobody can lead a cluster whose first entry was just written, and yet its first leader waited for a timeout.
#[test]
fn a_new_cluster_does_not_wait_for_an_election_timeout() {
    let extra = "election_timeout_ms: 60000\ndisk_stall_ms: 30000\n".to_owned();
    let began = Instant::now();
    let cluster = Cluster::start_with(3, &Setup { extra, ..Setup::default() });
    assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
    assert_eq!(cluster.name(cluster.wait_for_leader()), cluster.name(0), "the node that bootstrapped it");
}

#[test]
fn every_node_takes_writes_and_serves_linearizable_reads() {
    let cluster = Cluster::start(5);
    for n in 0..5 {
        let answer = cluster.put(n, &format!("key-{n}"), &format!("value {n}")).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("Dkv-Node"), Some(cluster.name(n).as_str()));
        assert_eq!(answer.header("Dkv-Cluster"), cluster.status(0).unwrap()["cluster_id"].as_str());
        for reader in 0..5 {
            let answer = cluster.get(reader, &format!("key-{n}")).unwrap();
            assert_eq!(
                (answer.status, answer.text()),
                (200, format!("value {n}")),
                "through {}",
                cluster.name(reader)
            );
        }
    }
    cluster.wait_for_equal_state();
}

#[test]
fn a_killed_leader_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start(5);
    let load = Load::start(&cluster, 8);
    for _ in 0..3 {
        load.wait_for(200);
        let leader = cluster.wait_for_leader();
        cluster.kill(leader);
        load.wait_for(200);
        cluster.spawn(leader);
        cluster.wait_for_leader();
    }
    load.wait_for(100);
    load::check(&cluster, &load.finish());
    cluster.wait_for_equal_state();
}

/// The last answers of a node that was stopped were "500 Internal Server Error" in the logs of its peers.
#[test]
fn a_stopped_node_leaves_its_peers_no_500_but_says_that_it_stops() {
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster, 8);
    // Followers and leaders, each of them under load.
    for n in [0, 1, 2, 0, 1, 2] {
        load.wait_for(100);
        assert_eq!(cluster.stop(n).code(), Some(0));
        cluster.spawn(n);
        cluster.wait_for_leader();
        cluster.wait_for_ready();
    }
    load.wait_for(100);
    load::check(&cluster, &load.finish());
    let logs: Vec<String> = (0..3).map(|n| cluster.log(n)).collect();
    let bad =
        logs.iter().flat_map(|log| log.lines()).filter(|line| line.contains(" 500")).collect::<Vec<_>>();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(logs.iter().any(|log| log.contains("it is stopping")), "{logs:#?}");
}

#[test]
fn two_killed_of_five_lose_nothing() {
    let mut cluster = Cluster::start(5);
    let load = Load::start(&cluster, 8);
    load.wait_for(200);
    let leader = cluster.wait_for_leader();
    let other = (leader + 1) % 5;
    cluster.kill(leader);
    cluster.kill(other);
    load.wait_for(300);
    cluster.spawn(leader);
    cluster.spawn(other);
    load.wait_for(100);
    load::check(&cluster, &load.finish());
    cluster.wait_for_equal_state();
}

#[test]
fn three_killed_of_five_refuse_truthfully_until_one_returns() {
    let mut cluster =
        Cluster::prepare(5, &Setup { extra: "request_timeout_ms: 1500\n".into(), ..Setup::default() });
    (0..5).for_each(|n| cluster.spawn(n));
    let leader = cluster.wait_for_leader();
    assert_eq!(cluster.put(leader, "before", "kept").unwrap().status, 200);
    let killed: Vec<usize> = (0..5).filter(|&n| n != leader).take(3).collect();
    killed.iter().for_each(|&n| cluster.kill(n));

    let mut unknown = Vec::new();
    for (n, key) in
        cluster.running().into_iter().flat_map(|n| (0..3).map(move |i| (n, format!("minority-{n}-{i}"))))
    {
        let read = cluster.get(n, "before").unwrap();
        assert!(matches!(read.status, 503 | 504), "{}", read.text());
        assert_eq!(read.outcome(), "not_done", "a read changes nothing");
        let write = cluster.put(n, &key, "minority").unwrap();
        match (write.status, write.outcome().as_str()) {
            (503, "not_done") => {}
            (504, "unknown") => unknown.push(key),
            other => panic!("{other:?}: {}", write.text()),
        }
        let stale = cluster.request(n, "GET", "/v1/kv/before?consistency=stale", &[], b"").unwrap();
        assert_eq!((stale.status, stale.text()), (200, "kept".into()), "a stale read needs nobody");
    }
    cluster.spawn(killed[0]);
    let leader = cluster.wait_for_leader();
    assert_eq!(cluster.put(leader, "after", "served").unwrap().status, 200);
    assert_eq!(cluster.get(leader, "before").unwrap().text(), "kept");
    // What was refused as not done never takes effect; what is unknown may have.
    for (n, i) in [0, 1, 2, 3, 4].into_iter().flat_map(|n| (0..3).map(move |i| (n, i))) {
        let key = format!("minority-{n}-{i}");
        let status = cluster.get(leader, &key).unwrap().status;
        assert!(status == 404 || unknown.contains(&key), "{key} was refused as not done, but is there");
    }
}

#[test]
fn all_killed_at_once_lose_nothing() {
    let mut cluster = Cluster::start(5);
    let load = Load::start(&cluster, 8);
    for _ in 0..2 {
        load.wait_for(300);
        (0..5).for_each(|n| cluster.kill(n));
        (0..5).for_each(|n| cluster.spawn(n));
        cluster.wait_for_leader();
    }
    load.wait_for(100);
    load::check(&cluster, &load.finish());
    cluster.wait_for_equal_state();
}

#[test]
fn a_sigterm_seals_the_log_and_exits_0() {
    let mut cluster = Cluster::start(1);
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200);
    assert_eq!(cluster.stop(0).code(), Some(0), "{}", cluster.log(0));
    cluster.spawn(0);
    cluster.wait_for_leader();
    assert_eq!(cluster.get(0, "k").unwrap().text(), "v");
}

/// Exit code 1 sends the operator to the disk; SIGABRT, which it used to be, says that the program is at fault.
#[test]
fn a_disk_that_fails_is_not_reported_as_a_defect() {
    let setup = Setup { extra: "segment_bytes: 65536\n".into(), ..Setup::default() };
    let mut cluster = Cluster::prepare(1, &setup);
    // The next segment cannot be made: its names are taken by what are no files.
    for spare in 0..16 {
        fs::create_dir_all(cluster.data_dir(0).join(format!("spare-{spare}.tmp"))).unwrap();
    }
    cluster.spawn(0);
    let mut n = 0;
    let status = wait_for("the node to need its next segment", || {
        n += 1;
        let _ = cluster.put(0, &format!("k{n}"), &"v".repeat(4000));
        cluster.ended(0)
    });
    assert_eq!(status.code(), Some(1), "{status}: {}", cluster.log(0));
    assert!(cluster.log(0).contains("Check the disk"), "{}", cluster.log(0));
}

/// The log files of a node, oldest first.
fn segments(cluster: &Cluster, n: usize) -> Vec<PathBuf> {
    let files = fs::read_dir(cluster.data_dir(n)).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|p| p.extension().is_some_and(|e| e == "wal")).collect();
    files.sort();
    files
}

/// The last block that is not all zero in the last segment that has one, as (file, offset).
fn last_used_block(cluster: &Cluster, n: usize) -> (PathBuf, usize) {
    for path in segments(cluster, n).into_iter().rev() {
        let bytes = fs::read(&path).unwrap();
        if let Some(block) = bytes.chunks(4096).rposition(|b| b.iter().any(|&b| b != 0)) {
            return (path, block * 4096);
        }
    }
    panic!("no block is used");
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// A follower whose last batch is a write, not a seal: killed while writes flow, before the log is idle.
fn kill_under_load(cluster: &mut Cluster) -> usize {
    let load = Load::start(cluster, 4);
    load.wait_for(200);
    let leader = cluster.wait_for_leader();
    let victim = (leader + 1) % cluster.size();
    load.wait_for(20);
    cluster.kill(victim);
    load.finish();
    victim
}

#[test]
fn a_damaged_last_batch_without_a_seal_is_torn_and_starts() {
    let mut cluster = Cluster::start(3);
    let victim = kill_under_load(&mut cluster);
    // A leader that goes on would remember what the victim acknowledged, and rightly set it aside.
    cluster.running().into_iter().for_each(|n| cluster.kill(n));
    let (path, offset) = last_used_block(&cluster, victim);
    flip(&path, offset + 100);
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    cluster.wait_for_equal_state();
    assert!(cluster.log(victim).contains("cut off"), "{}", cluster.log(victim));
}

#[test]
fn a_follower_that_lost_what_it_acknowledged_is_set_aside() {
    let mut cluster = Cluster::start(3);
    let victim = kill_under_load(&mut cluster);
    let leader = cluster.wait_for_leader();
    let (path, offset) = last_used_block(&cluster, victim);
    flip(&path, offset + 100);
    cluster.spawn(victim);
    wait_for("the victim to answer", || cluster.status(victim));
    wait_for("the leader to catch it up or to set it aside", || {
        let set_aside = cluster.log(leader).contains("it lost data");
        let status = cluster.status(leader)?;
        let peer = status["peers"].as_array()?.iter().find(|p| p["node_id"] == cluster.name(victim))?.clone();
        (set_aside || peer["lag"] == 0).then_some(())
    });
    assert_eq!(cluster.put(leader, "after", "v").unwrap().status, 200, "the other two go on");
}

#[test]
fn the_same_damage_with_a_seal_after_it_is_rot_and_refuses() {
    let mut cluster = Cluster::start(3);
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200);
    cluster.wait_for_equal_state();
    let victim = (cluster.wait_for_leader() + 1) % 3;
    // A graceful stop ends with a seal.
    assert_eq!(cluster.stop(victim).code(), Some(0));
    let (path, seal) = last_used_block(&cluster, victim);
    assert!(seal >= 4096);
    flip(&path, seal - 4096 + 100);
    assert_refuses(&mut cluster, victim, &path);
}

#[test]
fn a_flipped_byte_in_the_middle_refuses() {
    let mut cluster = Cluster::start(3);
    let victim = kill_under_load(&mut cluster);
    let (path, last) = last_used_block(&cluster, victim);
    flip(&path, last / 2 / 4096 * 4096 + 60);
    assert_refuses(&mut cluster, victim, &path);
}

/// Exit code 3, with file, offset and repair said; the others go on.
fn assert_refuses(cluster: &mut Cluster, victim: usize, path: &Path) {
    fs::write(cluster.log_path(victim), b"").unwrap();
    cluster.spawn(victim);
    assert_eq!(cluster.wait_exit(victim).code(), Some(3), "{}", cluster.log(victim));
    let log = cluster.log(victim);
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(log.contains(name) && log.contains("at byte") && log.contains("replace the member"), "{log}");
    let leader = cluster.wait_for_leader();
    assert_eq!(cluster.put(leader, "after", "v").unwrap().status, 200);
}

/// Five nodes behind proxies that let the first `allowed` sends of the genesis entry through and drop the rest.
struct Bootstrap {
    cluster: Cluster,
    allowed: Arc<AtomicUsize>,
    seen: Arc<AtomicUsize>,
    _proxies: Vec<Proxy>,
}

fn bootstrap(allowed: usize) -> Bootstrap {
    let plain = Cluster::prepare(5, &Setup::default());
    let advertised: Vec<String> = (0..5).map(|n| format!("{}:{}", plain.ip, 28081 + n)).collect();
    let setup = Setup { advertised_raft: advertised.iter().cloned().map(Some).collect(), ..Setup::default() };
    (0..5).for_each(|n| plain.write_config(n, &setup));
    let (allowed, seen) = (Arc::new(AtomicUsize::new(allowed)), Arc::new(AtomicUsize::new(0)));
    let proxies = (0..5)
        .map(|n| {
            let (allowed, seen) = (allowed.clone(), seen.clone());
            let judge = move |path: &str, body: &[u8]| {
                let is_genesis = path == "/raft/bootstrap" && body.starts_with(b"{\"store\"");
                if !is_genesis {
                    return true;
                }
                let before = allowed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |a| a.checked_sub(1));
                seen.fetch_add(1, Ordering::SeqCst);
                before.is_ok()
            };
            Proxy::start(&advertised[n], &plain.raft_addr(n), Arc::new(judge))
        })
        .collect();
    let mut cluster = plain;
    (0..5).for_each(|n| cluster.spawn(n));
    Bootstrap { cluster, allowed, seen, _proxies: proxies }
}

impl Bootstrap {
    /// Waits until more sends were tried than let through, and kills the bootstrap node.
    fn kill_bootstrap_node_after(&mut self, sends: usize) {
        let seen = self.seen.clone();
        wait_for("the send that is dropped", || (seen.load(Ordering::SeqCst) > sends).then_some(()));
        self.cluster.kill(0);
        let initialized =
            (1..5).filter(|&n| self.cluster.status(n).is_some_and(|s| s["role"] != "uninitialized")).count();
        assert!(initialized <= sends, "{initialized} nodes are initialized after {sends} sends");
    }

    fn complete(&mut self) {
        self.allowed.store(usize::MAX, Ordering::SeqCst);
        let leader = self.cluster.wait_for_leader();
        assert_eq!(self.cluster.put(leader, "initialized", "yes").unwrap().status, 200);
        self.cluster.wait_for_equal_state();
        let ids: Vec<_> =
            self.cluster.running().into_iter().map(|n| self.cluster.status(n).unwrap()).collect();
        assert!(ids.iter().all(|s| s["cluster_id"] == ids[0]["cluster_id"] && s["cluster_id"].is_string()));
    }
}

#[test]
fn bootstrap_completes_after_the_bootstrap_node_died_before_any_send() {
    let mut bootstrap = bootstrap(0);
    bootstrap.kill_bootstrap_node_after(0);
    bootstrap.cluster.spawn(0);
    bootstrap.complete();
}

#[test]
fn bootstrap_completes_after_the_bootstrap_node_died_after_one_send() {
    let mut bootstrap = bootstrap(1);
    bootstrap.kill_bootstrap_node_after(1);
    bootstrap.cluster.spawn(0);
    bootstrap.complete();
}

#[test]
fn bootstrap_completes_without_the_bootstrap_node_after_two_sends() {
    let mut bootstrap = bootstrap(2);
    bootstrap.kill_bootstrap_node_after(2);
    bootstrap.complete();
    assert_eq!(bootstrap.cluster.running(), vec![1, 2, 3, 4], "the bootstrap node is gone for good");
}

#[test]
fn a_second_process_on_the_same_data_directory_is_refused() {
    let mut cluster = Cluster::start(1);
    // Its ports are others: the directory itself must refuse it.
    let config = fs::read_to_string(cluster.config_path(0)).unwrap();
    let ports = format!("listen_http: \"{0}:9081\"\nlisten_raft: \"{0}:19081\"\n", cluster.ip);
    let other = cluster.dir.join("other.yaml");
    fs::write(&other, config + &ports + "start_timeout_s: 0\n").unwrap();
    let output = cluster.run_to_end(&other);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&format!("process {}", cluster.pid(0))), "{said}");
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200, "the first one goes on");
    assert_eq!(cluster.stop(0).code(), Some(0));
}

/// A node that was started again before its predecessor had ended ended with 2, which no supervisor starts again.
#[test]
fn a_node_waits_for_the_port_and_the_directory_of_its_predecessor() {
    let mut cluster = Cluster::prepare(1, &Setup::default());
    cluster.spawn(0);
    cluster.wait_for_leader();
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200);
    let log = cluster.dir.join("successor.log");
    let said = |text: &str| wait_for(text, || fs::read_to_string(&log).ok()?.contains(text).then_some(()));
    let mut successor = cluster.command(0).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    said("cannot start yet: listen_http: ");
    assert_eq!(cluster.get(0, "k").unwrap().status, 200, "the first one goes on");
    let first = cluster.pid(0);
    cluster.kill(0);
    said("serves clients on");
    let status = wait_for("the successor to lead", || {
        cluster.get(0, "k").ok().filter(|answer| answer.status == 200).map(|answer| answer.text())
    });
    assert_eq!(status, "v", "process {} took over from {first}", successor.id());
    successor.kill().unwrap();
    successor.wait().unwrap();
}

#[test]
fn a_node_that_waits_for_its_port_stops_when_it_is_told_to() {
    let cluster = Cluster::start(1);
    let log = cluster.dir.join("successor.log");
    let mut successor = cluster.command(0).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    let said = || fs::read_to_string(&log).unwrap_or_default();
    wait_for("it waits", || said().contains("cannot start yet").then_some(()));
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&successor),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    let status = wait_for("its end", || successor.try_wait().unwrap());
    assert_eq!(status.code(), Some(0), "{}", said());
    assert_eq!(said().lines().count(), 2, "{}", said());
}

#[test]
fn a_wiped_directory_under_its_old_name_is_refused_with_the_repair() {
    let mut cluster = Cluster::start(3);
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200);
    let victim = (cluster.wait_for_leader() + 1) % 3;
    cluster.kill(victim);
    fs::remove_dir_all(cluster.data_dir(victim)).unwrap();
    cluster.spawn(victim);
    assert_eq!(cluster.wait_exit(victim).code(), Some(4), "{}", cluster.log(victim));
    assert!(cluster.log(victim).contains("replace the member"), "{}", cluster.log(victim));
    let leader = cluster.wait_for_leader();
    assert_eq!(cluster.get(leader, "k").unwrap().text(), "v");
}

#[test]
fn a_log_that_vanished_under_a_known_identity_is_refused() {
    let mut cluster = Cluster::start(3);
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200);
    let victim = (cluster.wait_for_leader() + 1) % 3;
    cluster.kill(victim);
    segments(&cluster, victim).iter().for_each(|p| fs::remove_file(p).unwrap());
    cluster.spawn(victim);
    assert_eq!(cluster.wait_exit(victim).code(), Some(3), "{}", cluster.log(victim));
    assert!(cluster.log(victim).contains("log is gone"), "{}", cluster.log(victim));
}

#[test]
fn a_member_of_a_foreign_cluster_with_the_same_addresses_is_refused() {
    let mut cluster = Cluster::start(3);
    assert_eq!(cluster.put(0, "k", "former").unwrap().status, 200);
    let set_aside = |cluster: &Cluster, n: usize| cluster.dir.join(format!("former-{n}"));
    for n in 0..3 {
        assert_eq!(cluster.stop(n).code(), Some(0));
        fs::rename(cluster.data_dir(n), set_aside(&cluster, n)).unwrap();
    }
    // Another cluster is initialized at the same addresses; then a member of the former one comes back.
    (0..3).for_each(|n| cluster.spawn(n));
    let leader = cluster.wait_for_leader();
    assert_eq!(cluster.put(leader, "k", "present").unwrap().status, 200);
    let present_id = cluster.status(leader).unwrap()["cluster_id"].clone();
    let victim = (leader + 1) % 3;
    cluster.kill(victim);
    fs::remove_dir_all(cluster.data_dir(victim)).unwrap();
    fs::rename(set_aside(&cluster, victim), cluster.data_dir(victim)).unwrap();
    fs::write(cluster.log_path(victim), b"").unwrap();
    cluster.spawn(victim);
    wait_for("both sides to refuse each other", || {
        let said = |n: usize| cluster.log(n).contains("meant for cluster");
        (said(victim) && said(leader)).then_some(())
    });
    let stranger = cluster.status(victim).unwrap();
    assert_ne!(stranger["cluster_id"], present_id);
    assert_ne!(stranger["role"], "leader");
    let refused = cluster.put(victim, "k", "from the stranger").unwrap();
    assert_eq!((refused.status, refused.outcome().as_str()), (503, "not_done"), "{}", refused.text());
    assert_eq!(cluster.put(leader, "after", "v").unwrap().status, 200, "the other two go on");
    assert_eq!(cluster.get(leader, "k").unwrap().text(), "present");
}

#[test]
fn a_keyed_write_retried_through_another_node_after_its_leader_died_takes_effect_once() {
    let mut cluster = Cluster::start(5);
    for round in 0..3 {
        let leader = cluster.wait_for_leader();
        let (path, value) = (format!("/v1/kv/retried-{round}"), format!("round {round}"));
        let key = format!("retry-{round}");
        let headers = [("Idempotency-Key", key.as_str())];
        // The request leaves, and the leader dies without our reading the answer: nobody knows what became of it.
        let mut connection = Connection::open(&cluster.http_addr(leader)).unwrap();
        let head = format!("PUT {path} HTTP/1.1\r\nHost: dkv\r\nIdempotency-Key: {key}\r\n");
        connection.send(format!("{head}Content-Length: {}\r\n\r\n{value}", value.len()).as_bytes()).unwrap();
        if round > 0 {
            // Surely done, and told to nobody.
            wait_for("the write in the map", || {
                let stale = format!("{path}?consistency=stale");
                cluster.request(leader, "GET", &stale, &[], b"").ok().filter(|a| a.status == 200).map(drop)
            });
        }
        cluster.kill(leader);
        let other = (leader + 1) % 5;
        let answer = wait_for("the retry to be decided", || {
            let answer = cluster.request(other, "PUT", &path, &headers, value.as_bytes()).ok()?;
            (answer.status == 200).then_some(answer)
        });
        assert_eq!(answer.json()["version"], 1, "{}", answer.text());
        if round > 0 {
            assert_eq!(answer.header("Dkv-Replayed"), Some("true"));
        }
        let again = cluster.request((leader + 2) % 5, "PUT", &path, &headers, value.as_bytes()).unwrap();
        assert_eq!((again.status, again.header("Dkv-Replayed")), (200, Some("true")));
        assert_eq!(again.json(), answer.json(), "a repeated answer is the same answer");
        let other_request = cluster.request(other, "PUT", &path, &headers, b"something else").unwrap();
        assert_eq!(other_request.status, 422);
        cluster.spawn(leader);
    }
}

#[test]
fn conditions_hold_across_nodes() {
    let cluster = Cluster::start_calm(3);
    let put = |n, header: (&str, &str), value: &[u8]| {
        cluster.request(n, "PUT", "/v1/kv/c", &[header], value).unwrap()
    };
    let created = put(0, ("If-None-Match", "*"), b"1");
    assert_eq!(created.status, 200);
    let refused = put(1, ("If-None-Match", "*"), b"2");
    assert_eq!(
        (refused.status, refused.json()["error"]["mod_revision"].as_u64()),
        (412, created.json()["revision"].as_u64())
    );
    let tag = cluster.get(2, "c").unwrap().header("ETag").unwrap().to_owned();
    assert_eq!(put(2, ("If-Match", &tag), b"3").status, 200);
    assert_eq!(put(0, ("If-Match", &tag), b"4").status, 412);
    assert_eq!(cluster.get(1, "c").unwrap().text(), "3");
    let gone = cluster.request(1, "DELETE", "/v1/kv/c", &[("If-Match", "*")], b"").unwrap();
    assert_eq!((gone.status, gone.json()["deleted"].as_u64()), (200, Some(1)));
    assert_eq!(cluster.request(1, "DELETE", "/v1/kv/c", &[("If-Match", "*")], b"").unwrap().status, 412);
    let absent = cluster.request(2, "DELETE", "/v1/kv/c", &[], b"").unwrap();
    assert_eq!((absent.status, absent.json()["deleted"].as_u64()), (200, Some(0)));
}

#[test]
fn a_stopped_leader_is_replaced_and_its_late_answers_are_true() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    assert_eq!(cluster.put(leader, "k", "1").unwrap().status, 200);
    cluster.signal(leader, "STOP");
    // Requests that it will only see when it wakes up, long deposed.
    let mut read = Connection::open(&cluster.http_addr(leader)).unwrap();
    read.send(b"GET /v1/kv/k HTTP/1.1\r\nHost: dkv\r\n\r\n").unwrap();
    let others: Vec<usize> = (0..3).filter(|&n| n != leader).collect();
    wait_for("the other two to write", || {
        cluster.put(others[0], "k", "2").ok().filter(|a| a.status == 200).map(drop)
    });
    cluster.signal(leader, "CONT");
    let answer = read.read_answer().unwrap();
    match answer.status {
        200 => assert_eq!(answer.text(), "2", "a stale read"),
        503 | 504 => assert_eq!(answer.outcome(), "not_done"),
        other => panic!("{other}: {}", answer.text()),
    }
    cluster.wait_for_leader();
    cluster.wait_for_equal_state();
}

/// 256 keep-alive connections opened at once, each a PUT and then a linearizable GET: all answered, on ten fresh starts in
/// a row.
#[test]
fn all_of_256_connections_are_served_on_ten_fresh_starts() {
    let mut cluster = Cluster::start(1);
    for start in 0..10 {
        let address = cluster.http_addr(0);
        let threads: Vec<_> = (0..256)
            .map(|i| {
                let address = address.clone();
                std::thread::Builder::new()
                    .stack_size(256 << 10)
                    .spawn(move || {
                        let mut connection = Connection::open(&address).unwrap();
                        let (path, value) = (format!("/v1/kv/conn-{i}"), format!("{start}-{i}"));
                        let put = connection.request("PUT", &path, &[], value.as_bytes()).unwrap();
                        assert_eq!(put.status, 200, "{}", put.text());
                        let get = connection.request("GET", &path, &[], b"").unwrap();
                        assert_eq!((get.status, get.text()), (200, value));
                    })
                    .unwrap()
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().expect("served"));
        cluster.kill(0);
        cluster.spawn(0);
        cluster.wait_for_leader();
    }
}

/// Threads and descriptors of a process.
fn footprint(pid: u32) -> (usize, usize) {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
    (count("task"), count("fd"))
}

/// What stays behind after a storm, once it no longer changes for a second.
fn quiet_footprint(pid: u32) -> (usize, usize) {
    let (mut last, mut since) = (footprint(pid), Instant::now());
    wait_for("threads and descriptors to be quiet", || {
        let now = footprint(pid);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(1)).then_some(())
    });
    last
}

#[test]
fn hostile_requests_leave_nothing_behind() {
    let setup = Setup {
        extra: "limits: { transfer_timeout_ms: 1000, idle_timeout_ms: 2000 }\n".into(),
        ..Setup::default()
    };
    let mut cluster = Cluster::prepare(1, &setup);
    cluster.spawn(0);
    cluster.wait_for_leader();
    let (address, pid) = (cluster.http_addr(0), cluster.pid(0));
    let storm = |request: &dyn Fn(&mut Connection)| {
        let mut connections: Vec<_> = (0..20).map(|_| Connection::open(&address).unwrap()).collect();
        connections.iter_mut().for_each(request);
        drop(connections);
        quiet_footprint(pid)
    };
    let good = storm(&|c| assert_eq!(c.request("GET", "/healthz", &[], b"").unwrap().status, 200));
    let huge = format!("PUT /v1/kv/k HTTP/1.1\r\nHost: d\r\nContent-Length: {}\r\n\r\nx", 10u64.pow(15));
    let endless = format!("GET /v1/kv/k HTTP/1.1\r\nHost: d\r\nX: {}", "y".repeat(100_000));
    let half = "PUT /v1/kv/k HTTP/1.1\r\nHost: d\r\nContent-Length: 100\r\n\r\nhalf a body";
    let bad: [(&str, &[u8], &[u16]); 4] = [
        ("a declared length of 10^15", huge.as_bytes(), &[413]),
        ("an HTTP/2.0 request line", b"GET / HTTP/2.0\r\nHost: d\r\n\r\n", &[505]),
        ("an endless header", endless.as_bytes(), &[431]),
        ("a body that stops half way", half.as_bytes(), &[408]),
    ];
    for (what, bytes, statuses) in bad {
        let after = storm(&|c| {
            // A refusal may close the connection while we still send: then there is nothing to read.
            let _ = c.send(bytes);
            if let Ok(answer) = c.read_answer() {
                assert!(statuses.contains(&answer.status), "{what}: {}", answer.status);
            }
        });
        assert!(
            after.0 <= good.0 && after.1 <= good.1,
            "{what}: threads, descriptors {after:?}, after good {good:?}"
        );
    }
    let after = storm(&|c| c.reset());
    assert!(after.0 <= good.0 && after.1 <= good.1, "resets: {after:?}, after good {good:?}");
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200, "it still serves");
}
