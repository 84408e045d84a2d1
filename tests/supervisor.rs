//! `dkv-server cluster` as a process, with small scripts in the place of nodes: what it passes on, says and ends.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const PATIENCE: Duration = Duration::from_secs(30);

/// Says its process number and lives until its standard input ends.
const GOOD: &str = "echo pid $$\nexec cat > /dev/null\n";

struct Supervised {
    dir: tempfile::TempDir,
    child: Child,
    lines: Receiver<String>,
}

fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("node");
    std::fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Three configurations on the loopback address 127.0.73.`net`.
fn configs(dir: &Path, net: u8) -> Vec<PathBuf> {
    let peers: String = (1..=3)
        .map(|n| {
            let ip = format!("127.0.73.{net}");
            format!("  - {{ node_id: n{n}, raft_addr: {ip}:1808{n}, http_addr: {ip}:808{n} }}\n")
        })
        .collect();
    let write = |n: u8| {
        let path = dir.join(format!("n{n}.yaml"));
        std::fs::write(&path, format!("node_id: n{n}\ndata_dir: data/n{n}\npeers:\n{peers}")).unwrap();
        path
    };
    (1..=3).map(write).collect()
}

fn start(net: u8, text: &str) -> Supervised {
    let dir = tempfile::tempdir().unwrap();
    let program = script(dir.path(), text);
    let files = configs(dir.path(), net);
    let mut child = Command::new(env!("CARGO_BIN_EXE_dkv-server"))
        .arg("cluster")
        .args(&files)
        .arg("--program")
        .arg(program)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = channel();
    let err_sender = sender.clone();
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    thread::spawn(move || BufReader::new(out).lines().for_each(|l| drop(sender.send(l.unwrap()))));
    thread::spawn(move || BufReader::new(err).lines().for_each(|l| drop(err_sender.send(l.unwrap()))));
    Supervised { dir, child, lines }
}

impl Supervised {
    fn line(&self, wanted: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line =
                self.lines.recv_timeout(left).unwrap_or_else(|e| panic!("no line with {wanted:?}: {e}"));
            if line.contains(wanted) {
                return line;
            }
        }
    }

    /// The children's process numbers, by name.
    fn pids(&self) -> Vec<(String, Pid)> {
        let mut pids: Vec<(String, Pid)> = (0..3)
            .map(|_| {
                let line = self.line("pid ");
                let (name, pid) = line.split_once(" | pid ").expect("the prefix");
                (name.to_owned(), Pid::from_raw(pid.parse().unwrap()).unwrap())
            })
            .collect();
        pids.sort_by(|a, b| a.0.cmp(&b.0));
        pids
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        wait_until(deadline, "the supervisor has ended", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Only where a test failed: its children end with their standard input.
        if self.child.try_wait().is_ok_and(|s| s.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn wait_until(deadline: Instant, what: &str, mut holds: impl FnMut() -> bool) {
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn wait_gone(pids: &[(String, Pid)]) {
    for (name, pid) in pids {
        wait_until(Instant::now() + PATIENCE, &format!("{name} is gone"), || {
            test_kill_process(*pid).is_err()
        });
    }
}

#[test]
fn cluster_passes_lines_and_a_signal_on_and_leaves_nothing_running() {
    let mut cluster = start(1, GOOD);
    let pids = cluster.pids();
    assert_eq!(pids.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["n1", "n2", "n3"]);
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().code(), Some(0));
    wait_gone(&pids);
    assert_eq!(cluster.lines.iter().last().as_deref(), Some("dkv: all nodes have stopped"));
}

/// The documents ended nodes by a pattern, which also ended those of another cluster on the machine.
#[test]
fn cluster_says_the_process_of_each_node() {
    let mut cluster = start(11, GOOD);
    let (mut said, mut pids) = (None, Vec::new());
    while said.is_none() || pids.len() < 3 {
        let line = cluster.line("");
        match line.split_once(" | pid ") {
            Some((name, pid)) => pids.push(format!("{name} is process {pid}")),
            None => said = said.or(line.strip_prefix("dkv: ").map(str::to_owned)),
        }
    }
    pids.sort();
    assert_eq!(said.as_deref(), Some(pids.join(", ").as_str()));
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().code(), Some(0));
}

#[test]
fn cluster_children_end_when_it_is_killed() {
    let mut cluster = start(2, GOOD);
    let pids = cluster.pids();
    cluster.signal(Signal::KILL);
    assert_eq!(cluster.end().signal(), Some(9));
    wait_gone(&pids);
}

#[test]
fn cluster_says_the_death_of_one_node_and_goes_on() {
    let mut cluster = start(3, GOOD);
    let pids = cluster.pids();
    kill_process(pids[1].1, Signal::KILL).unwrap();
    let line = cluster.line("ended");
    assert!(line.starts_with("dkv: n2 ended (signal 9); the others go on"), "{line}");
    assert!(line.contains(&format!("--config {}", cluster.dir.path().join("n2.yaml").display())), "{line}");
    assert!(test_kill_process(pids[0].1).is_ok() && test_kill_process(pids[2].1).is_ok());
    cluster.signal(Signal::INT);
    assert_eq!(cluster.end().code(), Some(0));
    wait_gone(&pids);
}

/// Said how to start a removed member again, which can only end so again.
#[test]
fn cluster_does_not_advise_to_start_again_what_was_refused() {
    let mut cluster = start(10, "case $2 in *n2.yaml) exit 4;; esac\necho pid $$\nexec cat > /dev/null\n");
    let line = cluster.line("ended");
    assert!(
        line.starts_with("dkv: n2 ended (exit code 4); the others go on. Its last line says why"),
        "{line}"
    );
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().code(), Some(0));
}

#[test]
fn cluster_kills_at_the_end_of_its_patience_what_ignores_signals() {
    let mut cluster = start(4, "trap '' TERM INT\necho pid $$\nwhile read line; do :; done\n");
    let pids = cluster.pids();
    cluster.signal(Signal::TERM);
    cluster.line("dkv-server: killed, as no end came in time: n1, n2, n3");
    assert_eq!(cluster.end().code(), Some(0));
    wait_gone(&pids);
}

/// A terminal that was stopped, or a pager that did not read on, once held up the end of a node, and with it every signal.
#[test]
fn cluster_that_nobody_reads_reaps_and_passes_signals_on() {
    let dir = tempfile::tempdir().unwrap();
    let flood = "echo $$ > $2.pid\n(yes 'a line of a node' | head -n 200000) &\nexec cat > /dev/null\n";
    let program = script(dir.path(), flood);
    let files = configs(dir.path(), 9);
    let mut child = Command::new(env!("CARGO_BIN_EXE_dkv-server"))
        .arg("cluster")
        .args(&files)
        .arg("--program")
        .arg(program)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let unread = child.stdout.take().unwrap();
    wait_until(Instant::now() + PATIENCE, "the pipe is full", || {
        rustix::io::ioctl_fionread(&unread).unwrap() > 60_000
    });
    let pid = |file: &PathBuf| {
        let text = std::fs::read_to_string(format!("{}.pid", file.display())).unwrap_or_default();
        Pid::from_raw(text.trim().parse().ok()?)
    };
    let mut pids = Vec::new();
    for file in &files {
        wait_until(Instant::now() + PATIENCE, "a node says its number", || pid(file).is_some());
        pids.push((file.display().to_string(), pid(file).unwrap()));
    }
    kill_process(pids[0].1, Signal::KILL).unwrap();
    wait_gone(&pids[..1]);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let deadline = Instant::now() + PATIENCE;
    wait_until(deadline, "the supervisor has ended", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    wait_gone(&pids);
    drop(unread);
}

#[test]
fn cluster_ends_with_code_2_when_a_node_refuses_its_configuration() {
    let text = format!("case $2 in *n3.yaml) echo 'n3 is refused' >&2; exit 2;; esac\n{GOOD}");
    let mut cluster = start(5, &text);
    assert_eq!(cluster.line("refused"), "n3 | n3 is refused");
    assert_eq!(cluster.end().code(), Some(2));
}

#[test]
fn cluster_says_a_busy_port_in_one_line_and_starts_nothing() {
    let busy = TcpListener::bind("127.0.73.6:8082").unwrap();
    let mut cluster = start(6, GOOD);
    assert_eq!(cluster.end().code(), Some(2));
    let lines: Vec<String> = cluster.lines.iter().collect();
    let expected = "n2.yaml: listen_http: 127.0.73.6:8082: the port is busy; stop what listens there, or change the address";
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].ends_with(expected), "{lines:?}");
    drop(busy);
}

#[test]
fn cluster_refuses_bad_files_and_the_same_node_twice() {
    let dir = tempfile::tempdir().unwrap();
    let files = configs(dir.path(), 7);
    let run = |files: &[&Path]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_dkv-server")).arg("cluster").args(files).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run(&[&files[0], &files[0]]);
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("node_id: n1: the same as in"), "{said}");
    let (code, said) = run(&[&files[0], &dir.path().join("none.yaml")]);
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("none.yaml: cannot be read"), "{said}");
}

#[test]
fn check_config_says_what_is_wrong_and_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = &configs(dir.path(), 8)[0];
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dkv-server"));
        let output =
            command.current_dir(&dir).arg("--config").arg(file).arg("--check-config").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(check(), (Some(0), String::new()));
    let text = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, format!("{text}heartbeat_ms: 200\n")).unwrap();
    let (code, said) = check();
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("heartbeat_ms: 200: at most a third"), "{said}");
    assert!(!dir.path().join("data").exists());
}
