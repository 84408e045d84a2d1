//! `dkv-server fsck DATA_DIR`: the verdict on a data directory, without a start and without a change.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[allow(dead_code)]
mod support {
    pub mod cluster;
}

use support::cluster::{Cluster, Setup, wait_for};

fn fsck(dir: &Path) -> Output {
    let before = contents(dir);
    let output = Command::new(env!("CARGO_BIN_EXE_dkv-server")).arg("fsck").arg(dir).output().unwrap();
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
    let output = fsck(dir);
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
    let output = Command::new(env!("CARGO_BIN_EXE_dkv-server")).arg("fsck").arg(cluster.data_dir(0)).output();
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
    let none = Command::new(env!("CARGO_BIN_EXE_dkv-server")).arg("fsck").output().unwrap();
    assert_eq!(none.status.code(), Some(2));
}

#[test]
fn a_node_that_is_not_initialized_yet_is_clean() {
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

/// A one-node store that was stopped in order: a snapshot every 20 entries, and small segments, so that the log is cut.
struct Snapshots {
    cluster: Cluster,
    /// The snapshots there are, the newest first.
    files: Vec<PathBuf>,
}

/// How many keys it holds.
const KEYS: usize = 7;

fn stopped_with_snapshots(writes: usize) -> Snapshots {
    let extra = "snapshot_log_entries: 20\nsegment_bytes: 65536\n".to_owned();
    let mut cluster = Cluster::start_with(1, &Setup { extra, ..Setup::default() });
    for n in 0..writes {
        assert_eq!(cluster.put(0, &format!("k{}", n % KEYS), &format!("v{n}")).unwrap().status, 200);
        // The next one is due as soon as this one is there: their number depends on the writes alone.
        if n % 30 == 29 {
            wait_for("a snapshot", || (snapshots(&cluster).len() >= (n / 30 + 1).min(2)).then_some(()));
        }
    }
    assert_eq!(cluster.stop(0).code(), Some(0));
    let files = snapshots(&cluster);
    Snapshots { cluster, files }
}

fn files(cluster: &Cluster, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(cluster.data_dir(0)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

/// The newest first.
fn snapshots(cluster: &Cluster) -> Vec<PathBuf> {
    let mut files = files(cluster, "snapshot");
    files.reverse();
    files
}

impl Snapshots {
    /// Two snapshots, and a log that begins after the first entry.
    fn two() -> Snapshots {
        let two = stopped_with_snapshots(100);
        assert_eq!(two.files.len(), 2, "{:?}", two.files);
        let first = log(&two.cluster).0;
        assert!(!first.file_name().unwrap().to_str().unwrap().starts_with("0000000000000001-"), "{first:?}");
        two
    }

    fn verdict(&self) -> (Option<i32>, String, String) {
        let (code, text) = verdict(&self.cluster.data_dir(0));
        let first = text.lines().next().unwrap();
        let word = first.strip_prefix(&format!("{}: ", self.cluster.data_dir(0).display())).unwrap_or(first);
        (code, word.to_owned(), text)
    }

    /// A flipped bit in the rows.
    fn damage(&self, file: &Path) {
        flip(file, fs::read(file).unwrap().len() - 100);
    }

    /// Starts it: everything is there, and `file` was set aside with this warning, if it is given.
    fn assert_start_serves(&mut self, writes: usize, aside: Option<(&Path, &str)>) {
        self.cluster.spawn(0);
        self.cluster.wait_for_leader();
        self.cluster.wait_for_ready();
        for n in writes - KEYS..writes {
            assert_eq!(
                self.cluster.get(0, &format!("k{}", n % KEYS)).unwrap().body,
                format!("v{n}").as_bytes()
            );
        }
        let log = self.cluster.log(0);
        let Some((file, warning)) = aside else { return assert!(!log.contains(".damaged"), "{log}") };
        let damaged = PathBuf::from(format!("{}.damaged", file.display()));
        assert!(damaged.exists() && !file.exists(), "set aside");
        let line = log.lines().find(|line| line.contains(damaged.file_name().unwrap().to_str().unwrap()));
        assert!(line.is_some_and(|line| line.contains(warning)), "{warning}: {log}");
    }

    /// Starts it: it ends with exit code 3 and says all of this.
    fn assert_start_refuses(&mut self, said: &[&str]) {
        self.cluster.spawn(0);
        assert_eq!(self.cluster.wait_exit(0).code(), Some(3), "{}", self.cluster.log(0));
        let log = self.cluster.log(0);
        said.iter().for_each(|text| assert!(log.contains(text), "{text}: {log}"));
    }
}

fn name(file: &Path) -> &str {
    file.file_name().unwrap().to_str().unwrap()
}

#[test]
fn two_whole_snapshots_and_the_log_after_them_are_clean() {
    let mut two = Snapshots::two();
    let (code, word, text) = two.verdict();
    assert_eq!((code, &*word), (Some(0), "clean"), "{text}");
    assert!(has_line(&text, &format!("snapshot: {}, through ", name(&two.files[0]))), "{text}");
    assert!(text.contains(&format!(", {KEYS} keys")), "{text}");
    two.assert_start_serves(100, None);
}

#[test]
fn a_damaged_newest_snapshot_that_the_log_covers_is_named_and_the_next_start_does_without_it() {
    let mut two = Snapshots::two();
    let [newest, older] = &two.files.clone()[..] else { unreachable!() };
    two.damage(newest);
    let (code, word, text) = two.verdict();
    assert_eq!((code, &*word), (Some(0), "damaged snapshot"), "{text}");
    assert!(
        has_line(&text, &format!("damaged: {} is no whole snapshot, see byte ", newest.display())),
        "{text}"
    );
    assert!(text.contains(&format!("the next start takes {} and the log after it", name(older))), "{text}");
    assert!(has_line(&text, &format!("snapshot: {}, through ", name(older))), "{text}");
    assert!(has_line(&text, "last index: ") && !text.contains("before the damage"), "{text}");
    two.assert_start_serves(100, Some((newest, "stands in, with the log after it")));
    assert_eq!(two.cluster.stop(0).code(), Some(0));
    assert_eq!(two.verdict().1, "clean", "what was set aside is no matter any more");
}

#[test]
fn a_truncated_newest_snapshot_is_damaged_where_it_ends() {
    for keep in [0, 7, 300] {
        let two = Snapshots::two();
        let mut bytes = fs::read(&two.files[0]).unwrap();
        bytes.truncate(keep);
        fs::write(&two.files[0], bytes).unwrap();
        let (code, word, text) = two.verdict();
        assert_eq!((code, &*word), (Some(0), "damaged snapshot"), "{text}");
        let place = format!("see byte {keep}: it ends in the middle");
        assert!(text.contains(name(&two.files[0])) && text.contains(&place), "{place}: {text}");
    }
}

#[test]
fn a_damaged_older_snapshot_is_named_although_the_next_start_does_not_read_it() {
    let mut two = Snapshots::two();
    let older = two.files[1].clone();
    two.damage(&older);
    let (code, word, text) = two.verdict();
    assert_eq!((code, &*word), (Some(0), "damaged snapshot"), "{text}");
    assert!(
        has_line(&text, &format!("damaged: {} is no whole snapshot, see byte ", older.display())),
        "{text}"
    );
    assert!(text.contains("the next start does not read it"), "{text}");
    assert!(!text.contains("sets aside"), "{text}");
    two.assert_start_serves(100, None);
}

#[test]
fn two_damaged_snapshots_after_a_cut_log_are_rot_and_both_are_named() {
    let mut two = Snapshots::two();
    two.files.iter().for_each(|file| two.damage(file));
    let (code, word, text) = two.verdict();
    assert_eq!((code, &*word), (Some(3), "rot"), "{text}");
    for file in &two.files {
        let line = format!("damaged: {} is no whole snapshot, see byte ", file.display());
        assert!(has_line(&text, &line), "{line}: {text}");
    }
    assert!(has_line(&text, "entries are missing: the log begins after entry "), "{text}");
    assert!(has_line(&text, "repair: "), "{text}");
    let names: Vec<String> = two.files.iter().map(|file| name(file).to_owned()).collect();
    two.assert_start_refuses(&[&names[0], &names[1], "To repair: "]);
}

#[test]
fn a_damaged_snapshot_that_the_log_does_not_reach_is_rot() {
    let mut two = Snapshots::two();
    two.damage(&two.files[0]);
    // The log ends before it: all but its first segment, which the older one needs, is gone.
    let segments = files(&two.cluster, "wal");
    segments[1..].iter().for_each(|segment| fs::remove_file(segment).unwrap());
    let (code, word, text) = two.verdict();
    assert_eq!((code, &*word), (Some(3), "rot"), "{text}");
    assert!(has_line(&text, "entries are missing: the log ends with entry "), "{text}");
    assert!(text.contains("a damaged one went through index ") && has_line(&text, "repair: "), "{text}");
    let newest = name(&two.files[0]).to_owned();
    two.assert_start_refuses(&[&newest, "entries are missing in ", "To repair: "]);
}

#[test]
fn missing_snapshots_after_a_cut_log_are_a_gap_and_the_next_start_refuses_with_exit_code_3() {
    let mut two = Snapshots::two();
    fs::remove_file(&two.files[0]).unwrap();
    let (code, word, text) = two.verdict();
    assert_eq!((code, &*word), (Some(0), "clean"), "the log is kept for both: {text}");
    fs::remove_file(&two.files[1]).unwrap();
    let (code, word, text) = two.verdict();
    assert_eq!((code, &*word), (Some(3), "rot"), "{text}");
    assert!(has_line(&text, "entries are missing: the log begins after entry "), "{text}");
    assert!(text.contains("bring them back") && has_line(&text, "repair: "), "{text}");
    two.assert_start_refuses(&["entries are missing in ", "To repair: "]);
}

#[test]
fn the_only_snapshot_is_damaged_and_the_log_still_begins_with_the_first_entry() {
    let mut one = stopped_with_snapshots(30);
    let [only] = &one.files.clone()[..] else { panic!("one snapshot, not {:?}", one.files) };
    one.damage(only);
    let (code, word, text) = one.verdict();
    assert_eq!((code, &*word), (Some(0), "damaged snapshot"), "{text}");
    assert!(has_line(&text, &format!("damaged: {} is no whole snapshot", only.display())), "{text}");
    assert!(text.contains("the next start takes the whole log"), "{text}");
    one.assert_start_serves(30, Some((only, "the whole log stands in")));
}
