//! `dkv-server verify DATA_DIR`: the verdict on a data directory, without a start and without a change.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[allow(dead_code)]
mod support {
    pub mod cluster;
}

use support::cluster::{Cluster, Setup, wait_for};

fn verify(dir: &Path) -> Output {
    let before = contents(dir);
    let output = Command::new(env!("CARGO_BIN_EXE_dkv-server")).arg("verify").arg(dir).output().unwrap();
    assert_eq!(contents(dir), before, "verify changed something");
    output
}

/// Every file below a directory.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap()) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files.extend(contents(&entry.path()));
        } else if kind.is_file() {
            files.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
    files
}

/// The exit code and what was said.
fn verdict(dir: &Path) -> (Option<i32>, String) {
    let output = verify(dir);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// A one-node store with five writes, stopped in order, and the index it had applied.
fn stopped_store() -> (Cluster, u64) {
    let mut cluster = Cluster::start(1);
    for n in 0..5 {
        assert_eq!(cluster.put(0, &format!("k{n}"), "value").unwrap().status, 200);
    }
    let applied = cluster.status(0).unwrap()["applied"].as_u64().unwrap();
    assert_eq!(cluster.stop(0).code(), Some(0));
    (cluster, applied)
}

/// The first segment, and its used blocks.
fn log(cluster: &Cluster) -> (PathBuf, usize) {
    let files = fs::read_dir(cluster.data_dir(0)).unwrap().map(|entry| entry.unwrap().path());
    let file = files.filter(|path| path.extension().is_some_and(|e| e == "wal")).min().unwrap();
    let used =
        fs::read(&file).unwrap().chunks(4096).rposition(|block| block.iter().any(|&b| b != 0)).unwrap();
    (file, used + 1)
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 4;
    fs::write(file, bytes).unwrap();
}

fn has_line(text: &str, start: &str) -> bool {
    text.lines().any(|line| line.starts_with(start))
}

#[test]
fn a_stopped_node_is_clean_with_its_last_index_and_its_synced_mark() {
    let (cluster, applied) = stopped_store();
    let (_, blocks) = log(&cluster);
    let (code, text) = verdict(&cluster.data_dir(0));
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text.lines().next().unwrap(), format!("{}: clean", cluster.data_dir(0).display()));
    assert!(has_line(&text, &format!("last index: {applied}@")), "{applied}: {text}");
    // The last batch is the seal: it vouches for everything before it.
    assert!(has_line(&text, &format!("synced mark: byte {} of segment 1", (blocks - 1) * 4096)), "{text}");
    assert!(has_line(&text, "node: node1, member "), "{text}");
}

#[test]
fn an_unfinished_last_write_is_a_torn_tail_and_the_next_start_agrees() {
    let (mut cluster, _) = stopped_store();
    let (file, blocks) = log(&cluster);
    flip(&file, (blocks - 1) * 4096 + 10);
    let (code, text) = verdict(&cluster.data_dir(0));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.lines().next().unwrap().ends_with(": torn tail"), "{text}");
    let place = format!("first bad byte: {} of {}", (blocks - 1) * 4096, file.display());
    assert!(has_line(&text, &place), "{place}: {text}");
    assert!(text.contains("cuts off 4096 bytes"), "{text}");
    cluster.spawn(0);
    cluster.wait_for_leader();
    assert!(cluster.log(0).contains("cut off 4096 bytes"), "{}", cluster.log(0));
}

#[test]
fn damage_to_what_was_synced_is_rot_and_the_next_start_agrees() {
    let (mut cluster, applied) = stopped_store();
    let (file, blocks) = log(&cluster);
    flip(&file, (blocks - 2) * 4096 + 200);
    let (code, text) = verdict(&cluster.data_dir(0));
    assert_eq!(code, Some(3), "{text}");
    assert!(text.lines().next().unwrap().ends_with(": rot"), "{text}");
    let place = format!("first bad byte: {} of {}", (blocks - 2) * 4096, file.display());
    assert!(has_line(&text, &place) && has_line(&text, "repair: "), "{place}: {text}");
    let last = text.lines().find_map(|l| l.strip_prefix("last index: ")).expect("what stands before it");
    assert!(last.ends_with(", before the damage"), "{text}");
    assert!(last.split('@').next().unwrap().parse::<u64>().unwrap() <= applied, "{text}");
    cluster.spawn(0);
    assert_eq!(cluster.wait_exit(0).code(), Some(3));
    assert!(cluster.log(0).contains(&format!("at byte {}", (blocks - 2) * 4096)), "{}", cluster.log(0));
}

#[test]
fn a_log_that_is_gone_and_a_damaged_identity_are_rot() {
    let (cluster, _) = stopped_store();
    let identity = cluster.data_dir(0).join("identity");
    let whole = fs::read(&identity).unwrap();
    flip(&identity, 20);
    let (code, text) = verdict(&cluster.data_dir(0));
    assert!(code == Some(3) && text.contains("identity is corrupt"), "{code:?} {text}");
    fs::remove_file(&identity).unwrap();
    let (code, text) = verdict(&cluster.data_dir(0));
    assert!(code == Some(3) && text.contains("no identity file"), "{code:?} {text}");
    fs::write(&identity, whole).unwrap();
    fs::remove_file(log(&cluster).0).unwrap();
    let (code, text) = verdict(&cluster.data_dir(0));
    assert!(code == Some(3) && text.contains("log is gone"), "{code:?} {text}");
}

#[test]
fn another_members_log_is_refused() {
    let (cluster, _) = stopped_store();
    let (other, _) = stopped_store();
    fs::copy(other.data_dir(0).join("identity"), cluster.data_dir(0).join("identity")).unwrap();
    let (code, text) = verdict(&cluster.data_dir(0));
    assert!(code == Some(4) && text.contains("belongs to member"), "{code:?} {text}");
}

#[test]
fn a_directory_in_use_is_refused_with_the_process() {
    let cluster = Cluster::start(1);
    let output =
        Command::new(env!("CARGO_BIN_EXE_dkv-server")).arg("verify").arg(cluster.data_dir(0)).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.lines().count() == 1 && said.contains(&format!("in use by process {}", cluster.pid(0))),
        "{said}"
    );
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200, "the node goes on");
}

#[test]
fn what_is_no_data_directory_is_a_bad_argument_and_nothing_is_made() {
    let temp = tempfile::tempdir().unwrap();
    let missing = temp.path().join("missing");
    let (code, text) = verdict(&missing);
    assert!(code == Some(2) && text.contains("missing"), "{code:?} {text}");
    assert!(!missing.exists());
    let (code, text) = verdict(temp.path());
    assert!(code == Some(2) && text.contains("neither an identity nor a log"), "{code:?} {text}");
    let none = Command::new(env!("CARGO_BIN_EXE_dkv-server")).arg("verify").output().unwrap();
    assert_eq!(none.status.code(), Some(2));
}

#[test]
fn a_node_that_is_not_born_yet_is_clean() {
    let mut cluster = Cluster::prepare(3, &Setup::default());
    cluster.spawn(0);
    wait_for("its identity", || cluster.data_dir(0).join("identity").exists().then_some(()));
    cluster.kill(0);
    let (code, text) = verdict(&cluster.data_dir(0));
    assert!(
        code == Some(0) && text.contains(": clean") && text.contains("cluster none yet"),
        "{code:?} {text}"
    );
}
