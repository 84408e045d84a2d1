//! Backups of real clusters: taken while they are written to, restored into new clusters, refused when damaged; a cluster
//! that goes on from one directory; keys exported and imported.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

#[allow(dead_code)]
mod support {
    pub mod cluster;
    pub mod load;
}

use dkv::store::snapshot::verify_file;
use support::cluster::{Cluster, Setup, wait_for};
use support::load::Load;

/// `dkv-cli` against these nodes, in the cluster's directory.
fn cli_at(endpoints: &str, dir: &Path, args: &[&str], input: &[u8]) -> Output {
    let stdin = dir.join("stdin");
    fs::write(&stdin, input).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dkv-cli"));
    command.env("DKV_ENDPOINTS", endpoints).args(args).current_dir(dir);
    command.stdin(fs::File::open(&stdin).unwrap()).output().expect("dkv-cli runs")
}

fn endpoints(cluster: &Cluster) -> String {
    cluster.running().iter().map(|&n| cluster.http_addr(n)).collect::<Vec<_>>().join(",")
}

/// The same, which must succeed; its output.
fn cli(cluster: &Cluster, args: &[&str]) -> String {
    let output = cli_at(&endpoints(cluster), &cluster.dir, args, b"");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn put_keyed(cluster: &Cluster, n: usize, key: &str, value: &str, name: &str) -> (u16, bool, String) {
    let path = format!("/v1/kv/{key}");
    let answer = cluster.request(n, "PUT", &path, &[("Idempotency-Key", name)], value.as_bytes()).unwrap();
    (answer.status, answer.header("Dkv-Replayed") == Some("true"), answer.text())
}

fn assert_no_temporary_file(dir: &Path) {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.ends_with(".part")).collect::<Vec<_>>(), [""; 0]);
}

/// Keys with a history, one that is deleted, one that is no text.
fn fill(cluster: &Cluster) {
    for round in 0..5 {
        for key in 0..20 {
            let answer = cluster.put(key % cluster.size(), &format!("k/{key}"), &format!("{round}")).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    assert_eq!(cluster.put(0, "gone", "x").unwrap().status, 200);
    assert_eq!(cluster.request(0, "DELETE", "/v1/kv/gone", &[], b"").unwrap().status, 200);
    assert_eq!(cluster.request(0, "PUT", "/v1/kv/%FF%00", &[], b"\xfe").unwrap().status, 200);
}

/// What reads at every readable revision of a key show.
fn history(cluster: &Cluster, key: &str, to: u64) -> BTreeMap<u64, String> {
    let at = |revision: u64| {
        let path = format!("/v1/kv/{key}?revision={revision}");
        let answer = cluster.request(0, "GET", &path, &[("Accept", "application/json")], b"").unwrap();
        (revision, format!("{} {}", answer.status, answer.text()))
    };
    (0..=to).map(at).collect()
}

/// Starts every node with this backup and waits until they serve.
fn restore(cluster: &mut Cluster, backup: &Path) {
    for n in 0..cluster.size() {
        spawn_restored(cluster, n, backup);
    }
    cluster.wait_for_leader();
    cluster.wait_for_ready();
}

fn spawn_restored(cluster: &mut Cluster, n: usize, backup: &Path) {
    cluster.spawn_with(n, &["--restore", backup.to_str().unwrap()]);
}

fn cluster_id(cluster: &Cluster, n: usize) -> String {
    cluster.status(n).unwrap()["cluster_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_backup_taken_under_load_becomes_a_new_cluster_with_everything_that_was_acknowledged() {
    let setup = Setup { extra: "snapshot_log_entries: 100\n".to_owned(), ..Setup::default() };
    let mut old = Cluster::start_with(3, &setup);
    fill(&old);
    let first = put_keyed(&old, 1, "keyed", "once", "the-old-key");
    assert_eq!((first.0, first.1), (200, false), "{}", first.2);
    let before = old.status(old.leader().unwrap()).unwrap()["revision"].as_u64().unwrap();
    let load = Load::start(&old, 4);
    load.wait_for(200);
    let follower = (old.wait_for_leader() + 1) % 3;
    let file = old.dir.join("dkv.backup");
    let output =
        cli_at(&old.http_addr(follower), &old.dir, &["snapshot", "save", "dkv.backup", "-o", "json"], b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "no bar where nobody looks");
    let saved = json(&String::from_utf8(output.stdout).unwrap());
    load.wait_for(50);
    load.finish();
    let revision = saved["revision"].as_u64().unwrap();
    assert!(revision >= before + 200, "{revision} {before}");
    assert_no_temporary_file(&old.dir);
    // The file is what was said, and is not overwritten by accident.
    let status = json(&cli(&old, &["snapshot", "status", "dkv.backup", "-o", "json"]));
    for name in ["revision", "keys", "bytes", "crc32c", "state_hash", "index", "term", "cluster_id"] {
        assert_eq!(saved[name], status[name], "{name}");
    }
    assert_eq!(status["members"], serde_json::json!(["node1", "node2", "node3"]));
    let again = cli_at(&endpoints(&old), &old.dir, &["snapshot", "save", "dkv.backup"], b"");
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--force"));
    // What the old cluster shows at the revision of the backup is what the new one must show.
    let at = revision.to_string();
    let expected = cli(&old, &["export", "--revision", &at]);
    let keys = ["k/0", "k/19", "gone", "%FF%00", "load/0"];
    let histories: Vec<_> = keys.iter().map(|key| history(&old, key, revision)).collect();
    let old_id = cluster_id(&old, 0);

    // Into the same places: the old cluster's files are put aside.
    (0..3).for_each(|n| old.kill(n));
    for n in 0..3 {
        fs::rename(old.data_dir(n), old.dir.join(format!("old{n}"))).unwrap();
    }
    let mut new = old;
    restore(&mut new, &file);
    assert_ne!(cluster_id(&new, 0), old_id);
    assert_eq!(new.status(0).unwrap()["revision"], revision);
    assert_eq!(cli(&new, &["export"]), expected);
    for (key, expected) in keys.iter().zip(histories) {
        assert_eq!(history(&new, key, revision), expected, "{key}");
    }
    // An old key is answered from memory; the same key for another request is still refused.
    let again = put_keyed(&new, 2, "keyed", "once", "the-old-key");
    assert_eq!(again, (200, true, first.2));
    assert_eq!(put_keyed(&new, 2, "keyed", "twice", "the-old-key").0, 422);
    // It goes on from there.
    let answer = new.put(1, "after", "x").unwrap();
    assert_eq!(answer.json()["revision"], revision + 1, "{}", answer.text());
    new.wait_for_equal_state();

    // A member of the old cluster that comes back at its old place is heard by nobody.
    new.kill(2);
    fs::rename(new.data_dir(2), new.dir.join("new2")).unwrap();
    fs::rename(new.dir.join("old2"), new.data_dir(2)).unwrap();
    new.spawn(2);
    wait_for("the old node asks for votes in vain", || {
        let status = new.status(2)?;
        (status["role"] == "pre_candidate" && new.log(2).contains("cluster")).then_some(())
    });
    let term = new.status(0).unwrap()["term"].as_u64();
    assert_eq!(new.put(0, "after", "y").unwrap().status, 200);
    assert_eq!(cluster_id(&new, 2), old_id);
    assert!(new.status(2).unwrap()["leader"].is_null());
    assert_eq!(new.status(0).unwrap()["term"].as_u64(), term, "the new cluster is not disturbed");

    // The member that was there comes back, with the option that it was first started with.
    new.kill(2);
    fs::rename(new.data_dir(2), new.dir.join("old2")).unwrap();
    fs::rename(new.dir.join("new2"), new.data_dir(2)).unwrap();
    spawn_restored(&mut new, 2, &file);
    new.wait_for_ready();
    new.wait_for_equal_state();
    assert!(new.log(2).contains("done already"), "a note, and nothing else");
}

#[test]
fn restore_refuses_what_it_must_before_anything_is_written() {
    let mut cluster = Cluster::start(1);
    fill(&cluster);
    cli(&cluster, &["snapshot", "save", "dkv.backup"]);
    let good = cluster.dir.join("dkv.backup");
    let bytes = fs::read(&good).unwrap();
    let made = verify_file(&good).unwrap();
    // Another, later one.
    assert_eq!(cluster.put(0, "later", "x").unwrap().status, 200);
    cli(&cluster, &["snapshot", "save", "later.backup"]);
    cluster.stop(0);

    // The directory belongs to a cluster.
    let run = |cluster: &Cluster, backup: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dkv-server"));
        command.arg("--config").arg(cluster.config_path(0)).arg("--restore").arg(backup);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let (code, said) = run(&cluster, &good);
    assert!(code == Some(2) && said.contains("not empty"), "{code:?} {said}");
    fs::remove_dir_all(cluster.data_dir(0)).unwrap();

    // Files that are no backups.
    let json_len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let mut newer = bytes.clone();
    newer[8] = 9;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&newer[..16]), &newer[20..20 + json_len]);
    newer[16..20].copy_from_slice(&crc.to_le_bytes());
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let path = cluster.dir.join("bad.backup");
    for (what, content, says) in [
        ("cut", &bytes[..bytes.len() / 2], "byte"),
        ("cut at the last byte", &bytes[..bytes.len() - 1], "byte"),
        ("empty", b"", "byte"),
        ("flipped", &flipped, "checksum"),
        ("magic", b"not a snapshot, but long enough to look at", "does not begin like a snapshot"),
        ("newer", &newer, "format version 9"),
    ] {
        fs::write(&path, content).unwrap();
        let (code, said) = run(&cluster, &path);
        let expected = if what == "newer" { 5 } else { 3 };
        assert!(
            code == Some(expected) && said.contains("bad.backup") && said.contains(says),
            "{what}: {code:?} {said}"
        );
        assert!(!cluster.data_dir(0).exists(), "{what}: nothing was written");
        let output = cli_at("127.0.0.1:1", &cluster.dir, &["snapshot", "status", "bad.backup"], b"");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(5) && said.contains(says), "{what}: {said}");
    }
    for missing in [cluster.dir.clone(), cluster.dir.join("none.backup")] {
        let (code, said) = run(&cluster, &missing);
        assert!(code == Some(2) && !cluster.data_dir(0).exists(), "{code:?} {said}");
        let shown = missing.to_str().unwrap();
        let output = cli_at("127.0.0.1:1", &cluster.dir, &["snapshot", "status", shown], b"");
        assert_eq!(output.status.code(), Some(2));
    }
    // A directory with something else in it: perhaps the only copy of the backup.
    fs::create_dir(cluster.data_dir(0)).unwrap();
    let inside = cluster.data_dir(0).join("dkv.backup");
    fs::copy(&good, &inside).unwrap();
    let (code, said) = run(&cluster, &inside);
    assert!(code == Some(2) && said.contains("it holds dkv.backup"), "{code:?} {said}");
    assert_eq!(fs::read_dir(cluster.data_dir(0)).unwrap().count(), 1);
    fs::remove_dir_all(cluster.data_dir(0)).unwrap();

    // The good one; then another one is refused, and the node is as it was.
    restore(&mut cluster, &good);
    assert_eq!(cluster.status(0).unwrap()["revision"], made.header.revision);
    cluster.stop(0);
    let (code, said) = run(&cluster, &cluster.dir.join("later.backup"));
    assert!(code == Some(2) && said.contains("another backup"), "{code:?} {said}");
    cluster.spawn(0);
    cluster.wait_for_ready();
    assert_eq!(cluster.status(0).unwrap()["revision"], made.header.revision);
}

#[test]
fn one_directory_that_is_left_becomes_a_cluster_that_grows_again() {
    let setup = Setup { initial_members: Some(3), ..Setup::default() };
    let mut cluster = Cluster::prepare(4, &setup);
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    cluster.wait_for_ready();
    for key in 0..30 {
        assert_eq!(cluster.put(key % 3, &format!("k/{key}"), &format!("{key}")).unwrap().status, 200);
    }
    cluster.wait_for_equal_state();
    let expected = cli(&cluster, &["export"]);
    let old_id = cluster_id(&cluster, 0);
    let recover = |cluster: &Cluster, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dkv-server"));
        command.arg("recover").arg("--config").arg(cluster.config_path(0)).args(args);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let (code, said) = recover(&cluster, &["--force-new-cluster", "--yes"]);
    assert!(code == Some(2) && said.contains("already in use by process"), "{code:?} {said}");
    (0..3).for_each(|n| cluster.kill(n));
    for (args, says) in [(&[][..], "--force-new-cluster"), (&["--force-new-cluster"], "--yes")] {
        let (code, said) = recover(&cluster, args);
        assert!(code == Some(2) && said.contains(says) && said.contains("node2, node3"), "{code:?} {said}");
        assert!(said.contains("30 keys") && said.contains(&old_id), "{said}");
    }
    let (code, said) = recover(&cluster, &["--force-new-cluster", "--yes"]);
    assert!(code == Some(0) && said.contains("before-recovery-"), "{code:?} {said}");
    let (code, said) = recover(&cluster, &["--force-new-cluster", "--yes"]);
    assert!(code == Some(2) && said.contains("only member"), "{code:?} {said}");

    cluster.spawn(0);
    cluster.wait_for_leader();
    assert_ne!(cluster_id(&cluster, 0), old_id);
    assert_eq!(cli(&cluster, &["export"]), expected);
    assert_eq!(cluster.put(0, "after", "x").unwrap().status, 200);
    // The others are of another cluster now.
    cluster.spawn(1);
    wait_for("the old member is refused", || cluster.log(1).contains("this is cluster").then_some(()));
    cluster.kill(1);

    // It grows: the new member knows the genesis entry alone and is sent the state.
    cluster.spawn_to_join(3, 0, &[]);
    wait_for("two voters", || {
        let answer = cluster.request(0, "GET", "/v1/cluster/members", &[], b"").ok()?;
        let members = answer.json()["members"].as_array()?.clone();
        (members.len() == 2 && members.iter().all(|m| m["voter"] == true)).then_some(())
    });
    cluster.wait_for_equal_state();
    assert_eq!(cluster.get(3, "k/7").unwrap().text(), "7");
}

#[test]
fn snapshots_are_made_listed_and_handed_out_in_pieces() {
    let cluster = Cluster::start(1);
    fill(&cluster);
    let made = cluster.request(0, "POST", "/v1/snapshots", &[], b"").unwrap();
    assert_eq!(made.status, 200, "{}", made.text());
    let made = made.json();
    let (name, bytes) = (made["name"].as_str().unwrap().to_owned(), made["bytes"].as_u64().unwrap());
    let list = cluster.request(0, "GET", "/v1/snapshots", &[], b"").unwrap().json();
    assert_eq!(list["snapshots"][0]["name"], name.as_str());
    assert_eq!(list["snapshots"][0]["bytes"], bytes);
    // Nothing has changed: the same one serves.
    let again = cluster.request(0, "POST", "/v1/snapshots", &[], b"").unwrap().json();
    assert_eq!(again, made);
    let piece = |offset: u64, limit: u64| {
        let path = format!("/v1/snapshots/{name}?offset={offset}&limit={limit}");
        cluster.request(0, "GET", &path, &[], b"").unwrap()
    };
    let half = bytes / 2;
    let first = piece(0, half);
    assert_eq!(first.header("Content-Type"), Some("application/octet-stream"));
    assert_eq!(first.header("Dkv-Snapshot-Bytes"), Some(bytes.to_string().as_str()));
    assert_eq!(first.header("Dkv-Snapshot-Crc32c"), made["crc32c"].as_str());
    // The node replaces the file meanwhile: the download goes on.
    for n in 0..3 {
        assert_eq!(cluster.put(0, "more", &n.to_string()).unwrap().status, 200);
        let next = cluster.request(0, "POST", "/v1/snapshots", &[], b"").unwrap();
        assert_eq!(next.status, 200, "{}", next.text());
        if n == 0 {
            assert_eq!(piece(half, 1 << 20).status, 200);
        }
    }
    assert!(!cluster.data_dir(0).join(&name).exists(), "two are kept");
    let gone = piece(half, 1 << 20);
    assert_eq!(
        (gone.status, gone.json()["error"]["code"].as_str()),
        (404, Some("not_found")),
        "{}",
        gone.text()
    );
    assert!(gone.text().contains("POST /v1/snapshots"), "{}", gone.text());

    let newest = cluster.request(0, "POST", "/v1/snapshots", &[], b"").unwrap().json();
    let (name, bytes) = (newest["name"].as_str().unwrap(), newest["bytes"].as_u64().unwrap());
    let path = cluster.dir.join("pieces");
    let mut whole = Vec::new();
    while (whole.len() as u64) < bytes {
        let target = format!("/v1/snapshots/{name}?offset={}&limit=1000", whole.len());
        let answer = cluster.request(0, "GET", &target, &[], b"").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        whole.extend(answer.body);
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(verify_file(&path).unwrap().bytes, bytes);

    let at = |query: &str| format!("/v1/snapshots/{name}{query}");
    for (method, target, body, status) in [
        ("GET", at(&format!("?offset={bytes}")), "", 200),
        ("GET", at(&format!("?offset={}", bytes + 1)), "", 400),
        ("GET", at("?limit=0"), "", 400),
        ("GET", at("?limit=1048577"), "", 400),
        ("GET", at("?offset=-1"), "", 400),
        ("GET", at("?ofset=1"), "", 400),
        ("PUT", at(""), "", 405),
        ("DELETE", "/v1/snapshots".to_owned(), "", 405),
        ("GET", "/v1/snapshots?x=1".to_owned(), "", 400),
        ("POST", "/v1/snapshots".to_owned(), "body", 400),
        ("POST", "/v1/snapshots?min_index=x".to_owned(), "", 400),
        ("GET", "/v1/snapshots/".to_owned(), "", 404),
        ("GET", "/v1/snapshots/..%2Fidentity".to_owned(), "", 404),
        ("GET", "/v1/snapshots/identity".to_owned(), "", 404),
        ("GET", "/v1/snapshots/00000000000000ff-0000000000000001.snapshot".to_owned(), "", 404),
        ("GET", "/v1/snapshotsx".to_owned(), "", 404),
    ] {
        let answer = cluster.request(0, method, &target, &[], body.as_bytes()).unwrap();
        assert_eq!(answer.status, status, "{method} {target}: {}", answer.text());
    }
}

#[test]
fn a_backup_goes_on_at_another_node_and_fails_truthfully_without_any() {
    let mut cluster = Cluster::start_calm(3);
    fill(&cluster);
    let leader = cluster.wait_for_leader();
    let follower = (leader + 1) % 3;
    cluster.kill(follower);
    // The first node that is named is gone.
    let named = format!("{},{}", cluster.http_addr(follower), cluster.http_addr(leader));
    let output = cli_at(&named, &cluster.dir, &["snapshot", "save", "one.backup"], b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("saved revision ") && said.contains("verified"), "{said}");
    // No majority: a backup that misses what was acknowledged is none.
    cluster.kill((leader + 2) % 3);
    let args = ["snapshot", "save", "two.backup", "--timeout", "2"];
    let output = cli_at(&named, &cluster.dir, &args, b"");
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!cluster.dir.join("two.backup").exists());
    assert_no_temporary_file(&cluster.dir);
}

#[test]
fn what_is_exported_can_be_imported_byte_for_byte() {
    let cluster = Cluster::start(1);
    fill(&cluster);
    assert_eq!(cluster.put(0, "other", "tab\tnewline\n\"quote\"").unwrap().status, 200);
    let whole = cli(&cluster, &["export"]);
    assert_eq!(whole.lines().count(), 22);
    assert!(whole.contains("key_base64") && whole.contains("value_base64"));
    assert_eq!(cli(&cluster, &["export", "k/", "--file", "k.jsonl"]).lines().count(), 1);
    let some = fs::read_to_string(cluster.dir.join("k.jsonl")).unwrap();
    assert_eq!(some.lines().count(), 20);
    assert!(some.lines().all(|line| whole.contains(line)));
    let again = cli_at(&endpoints(&cluster), &cluster.dir, &["export", "--file", "k.jsonl"], b"");
    assert_eq!(again.status.code(), Some(2), "not overwritten without --force");
    fs::write(cluster.dir.join("all.jsonl"), &whole).unwrap();

    let other = Cluster::start(1);
    let to = |args: &[&str], input: &str| {
        let output = cli_at(&endpoints(&other), &cluster.dir, args, input.as_bytes());
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let plain = |text: &str| -> Vec<String> {
        let row = |line: &str| {
            let mut row = json(line);
            for name in ["create_revision", "mod_revision", "version"] {
                row.as_object_mut().unwrap().remove(name);
            }
            row.to_string()
        };
        text.lines().map(row).collect()
    };
    let revision = || other.status(0).unwrap()["revision"].as_u64().unwrap();

    // A bad line anywhere: nothing is stored.
    fs::write(cluster.dir.join("bad.jsonl"), format!("{whole}{{\"key\":\"x\"}}\n")).unwrap();
    let (code, said) = to(&["import", "bad.jsonl"], "");
    assert!(
        code == Some(2) && said.contains("line 23") && said.contains("Nothing was stored"),
        "{code:?} {said}"
    );
    assert_eq!(revision(), 1);
    let (code, said) = to(&["import", "all.jsonl", "--prefix", "k/1"], "");
    assert_eq!((code, said.as_str()), (Some(0), "stored 11 keys, skipped 11 with another prefix\n"));
    let (code, said) = to(&["import", "all.jsonl", "--if-absent"], "");
    assert_eq!((code, said.as_str()), (Some(0), "stored 11 keys, left 11 that existed\n"));
    assert_eq!(plain(&cli(&other, &["export"])), plain(&whole));
    // From standard input; a line that comes twice ends as the later one says.
    let (code, said) = to(
        &["import", "-o", "json"],
        "{\"key\":\"k/1\",\"value\":\"a\"}\n{\"key\":\"k/1\",\"value\":\"b\"}\n",
    );
    assert_eq!((code, json(&said)), (Some(0), serde_json::json!({ "stored": 2, "kept": 0, "skipped": 0 })));
    assert_eq!(other.get(0, "k/1").unwrap().text(), "b");
    let (code, said) = to(&["import", "-"], "{\"key\":\"s\",\"value\":\"a\"}\nnonsense\n");
    assert!(code == Some(2) && said.contains("line 2"), "{code:?} {said}");
    // What only the server refuses: where it stopped.
    let long = "x".repeat(5000);
    let (code, said) = to(&["import", "-"], &format!("{{\"key\":\"{long}\",\"value\":\"a\"}}\n"));
    assert!(code == Some(2) && said.contains("line 1") && said.contains("max_key_bytes"), "{code:?} {said}");
    let (code, _) = to(&["import", "none.jsonl"], "");
    assert_eq!(code, Some(2));
}

#[test]
fn files_of_a_newer_version_are_refused_with_their_version() {
    let setup = Setup { extra: "snapshot_log_entries: 10\n".to_owned(), ..Setup::default() };
    let mut cluster = Cluster::start_with(1, &setup);
    fill(&cluster);
    cli(&cluster, &["snapshot", "save", "dkv.backup"]);
    cluster.stop(0);
    let find = |cluster: &Cluster, extension: &str| {
        let files = fs::read_dir(cluster.data_dir(0)).unwrap().map(|e| e.unwrap().path());
        let mut files: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
        files.sort();
        files
    };
    let run = |cluster: &Cluster| {
        let output = cluster.run_to_end(&cluster.config_path(0));
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    // The newest snapshot, as the next version would write it.
    let path = find(&cluster, "snapshot").pop().unwrap();
    let good = fs::read(&path).unwrap();
    let json_len = u32::from_le_bytes(good[12..16].try_into().unwrap()) as usize;
    let mut newer = good.clone();
    newer[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&newer[..16]), &newer[20..20 + json_len]);
    newer[16..20].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &newer).unwrap();
    let (code, said) = run(&cluster);
    assert!(code == Some(5) && said.contains("format version 2"), "{code:?} {said}");
    assert!(said.contains("use the newer version"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), newer, "left as it is");
    fs::write(&path, &good).unwrap();
    // The log.
    let path = find(&cluster, "wal").remove(0);
    let good = fs::read(&path).unwrap();
    let mut newer = good.clone();
    newer[128 + 8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&newer[128..140]), &newer[144..192]);
    newer[140..144].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &newer).unwrap();
    let (code, said) = run(&cluster);
    assert!(code == Some(5) && said.contains("format version 2"), "{code:?} {said}");
    assert_eq!(fs::read(&path).unwrap(), newer, "left as it is");
    fs::write(&path, &good).unwrap();
    cluster.spawn(0);
    cluster.wait_for_ready();
    assert_eq!(cluster.get(0, "k/3").unwrap().text(), "4");
}
