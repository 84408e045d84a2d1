//! What `dkv-server` does about signals, in all its forms, and when the window it runs in is closed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

#[allow(dead_code)]
mod support {
    pub mod cluster;
}

use support::cluster::{Cluster, Setup, hear_signals, wait_for};

/// A cluster of one that is prepared to log to a file.
fn with_log_file() -> (Cluster, PathBuf) {
    let cluster = Cluster::prepare(1, &Setup::default());
    let file = cluster.dir.join("own.log");
    let extra = format!("log: {{ file: {} }}\n", file.display());
    cluster.write_config(0, &Setup { extra, ..Setup::default() });
    (cluster, file)
}

fn wait_for_text(file: &PathBuf, text: &str) {
    wait_for(&format!("{text:?} in {}", file.display()), || {
        fs::read_to_string(file).ok()?.contains(text).then_some(())
    });
}

/// The log was rotated as every program's is: the node ended, and nothing said why.
#[test]
fn sighup_opens_the_log_file_again_and_does_not_kill_the_node() {
    let (mut cluster, file) = with_log_file();
    cluster.spawn(0);
    cluster.wait_for_leader();
    let moved = file.with_extension("1");
    fs::rename(&file, &moved).unwrap();
    let before = fs::read_to_string(&moved).unwrap();
    assert!(before.contains("serves clients on"), "{before}");
    cluster.signal(0, "HUP");
    wait_for_text(&file, "was opened again");
    let moved_is = fs::read_to_string(&moved).unwrap();
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200);
    assert_eq!(cluster.stop(0).code(), Some(0));
    wait_for_text(&file, "SIGTERM: stopping");
    assert_eq!(fs::read_to_string(&moved).unwrap(), moved_is, "everything later is in the new file");
    assert_eq!(cluster.log(0), "", "nothing on standard error");
}

#[test]
fn a_log_file_that_cannot_be_opened_again_goes_on_where_it_is() {
    let (mut cluster, file) = with_log_file();
    cluster.spawn(0);
    cluster.wait_for_leader();
    let moved = file.with_extension("1");
    fs::rename(&file, &moved).unwrap();
    fs::create_dir(&file).unwrap();
    cluster.signal(0, "HUP");
    wait_for_text(&moved, "cannot be opened again");
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200);
    fs::remove_dir(&file).unwrap();
    cluster.signal(0, "HUP");
    wait_for_text(&file, "was opened again");
    assert_eq!(cluster.stop(0).code(), Some(0));
}

/// Each of them has a default action that ends the process without a word.
#[test]
fn a_signal_that_means_nothing_is_said_and_the_node_goes_on() {
    let mut cluster = Cluster::prepare(1, &Setup::default());
    cluster.spawn(0);
    cluster.wait_for_leader();
    for signal in ["USR1", "USR2"] {
        cluster.signal(0, signal);
        wait_for_text(&cluster.log_path(0), &format!("SIG{signal} is ignored: SIGTERM stops"));
    }
    // Its log goes to a file of the test's through standard error: there is nothing to open again.
    cluster.signal(0, "HUP");
    wait_for_text(&cluster.log_path(0), "there is no log file to open again");
    cluster.signal(0, "XFSZ");
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200);
    assert_eq!(cluster.stop(0).code(), Some(0));
}

/// The limit's signal ended the node at its first write, without a word.
#[test]
fn a_limit_on_the_size_of_files_is_said_and_does_not_kill_the_node_with_a_signal() {
    let cluster = Cluster::prepare(1, &Setup::default());
    // In blocks of 512 or 1024 bytes: less than a segment of the log.
    let limited = format!(
        "ulimit -f 64; exec {} --config {}",
        env!("CARGO_BIN_EXE_dkv-server"),
        cluster.config_path(0).display()
    );
    let output = Command::new("sh").args(["-c", &limited]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.status.signal()), (Some(1), None), "{said}");
    assert!(said.contains("File too large"), "{said}");
}

/// A window: the process in it, and the end by which it is closed.
struct Window {
    master: Option<OwnedFd>,
    child: Child,
}

impl Window {
    /// Runs `script` of the shell in a window of its own.
    fn open(script: &str) -> Window {
        hear_signals();
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let name = OsStr::from_bytes(name.as_bytes());
        let terminal = File::options().read(true).write(true).open(name).unwrap();
        // A session of its own, whose terminal this is: only such a one is told that the window was closed.
        let child = Command::new("setsid")
            .args(["--ctty", "sh", "-c", script])
            .stdin(terminal.try_clone().unwrap())
            .stdout(terminal.try_clone().unwrap())
            .stderr(terminal)
            .spawn()
            .unwrap();
        Window { master: Some(master), child }
    }

    fn close(&mut self) {
        self.master = None;
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        wait_for("the process in the window to end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // Only where a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn server(cluster: &Cluster) -> String {
    format!("{} --config {}", env!("CARGO_BIN_EXE_dkv-server"), cluster.config_path(0).display())
}

#[test]
fn a_closed_window_stops_the_node_in_it_in_order() {
    let (cluster, file) = with_log_file();
    let mut window = Window::open(&format!("exec {}", server(&cluster)));
    wait_for_text(&file, "serves clients on");
    wait_for("it is ready", || {
        cluster.request(0, "GET", "/readyz", &[], b"").is_ok_and(|a| a.status == 200).then_some(())
    });
    window.close();
    assert_eq!(window.end().code(), Some(0));
    let log = fs::read_to_string(&file).unwrap();
    assert!(log.contains("SIGHUP: stopping") && log.contains(") stopped\n"), "{log}");
    assert!(!log.contains("second signal: ends"), "{log}");
}

#[test]
fn a_node_that_was_started_to_outlive_its_window_does() {
    let (cluster, file) = with_log_file();
    // What nohup does.
    let mut window = Window::open(&format!("trap '' HUP; exec {}", server(&cluster)));
    wait_for_text(&file, "serves clients on");
    window.close();
    window.signal(Signal::HUP);
    wait_for_text(&file, "was opened again");
    wait_for("it serves", || {
        cluster.request(0, "GET", "/readyz", &[], b"").is_ok_and(|a| a.status == 200).then_some(())
    });
    window.signal(Signal::TERM);
    assert_eq!(window.end().code(), Some(0));
}

#[test]
fn a_closed_window_stops_a_whole_cluster_and_a_signal_without_meaning_does_not() {
    let (cluster, file) = with_log_file();
    let program = env!("CARGO_BIN_EXE_dkv-server");
    let config = cluster.config_path(0);
    let mut window = Window::open(&format!("exec {program} cluster {}", config.display()));
    let screen = File::from(window.master.as_ref().unwrap().try_clone().unwrap());
    wait_for_text(&file, "serves clients on");
    window.signal(Signal::USR1);
    let mut lines = BufReader::new(screen).lines();
    let said = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("SIGUSR1 is ignored")));
    assert!(said.is_some());
    drop(lines);
    window.close();
    assert_eq!(window.end().code(), Some(0));
    wait_for_text(&file, "SIGTERM: stopping");
    wait_for_text(&file, ") stopped\n");
}

/// A cluster that outlives its window passes the signal on: its nodes have log files.
#[test]
fn a_cluster_that_outlives_its_window_has_its_nodes_open_their_log_files_again() {
    let (cluster, file) = with_log_file();
    let program = env!("CARGO_BIN_EXE_dkv-server");
    let script = format!("trap '' HUP; exec {program} cluster {}", cluster.config_path(0).display());
    let mut window = Window::open(&script);
    wait_for_text(&file, "serves clients on");
    fs::rename(&file, file.with_extension("1")).unwrap();
    window.signal(Signal::HUP);
    wait_for_text(&file, "was opened again");
    window.signal(Signal::TERM);
    assert_eq!(window.end().code(), Some(0));
}

#[test]
fn recover_says_a_signal_without_meaning_and_ends_on_the_others() {
    // There is nothing to recover in a cluster of one.
    let mut cluster = Cluster::start(2);
    (0..2).for_each(|n| assert_eq!(cluster.stop(n).code(), Some(0)));
    let config = cluster.config_path(0);
    let script = format!(
        "exec {} recover --config {} --force-new-cluster",
        env!("CARGO_BIN_EXE_dkv-server"),
        config.display()
    );
    for (signal, end) in [(None, (Some(2), None)), (Some(Signal::HUP), (None, Some(1)))] {
        let mut window = Window::open(&script);
        let mut screen = File::from(window.master.as_ref().unwrap().try_clone().unwrap());
        let mut said = read_until(&mut screen, "Type yes: ");
        window.signal(Signal::USR1);
        said.push_str(&read_until(&mut screen, "SIGUSR1 is ignored"));
        match signal {
            Some(signal) => window.signal(signal),
            None => screen.write_all(b"no\n").unwrap(),
        }
        let status = window.end();
        assert_eq!((status.code(), status.signal()), end, "{said}");
    }
}

/// What appears on a screen, up to `text`.
fn read_until(screen: &mut File, text: &str) -> String {
    use std::io::Read;
    let mut said = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&said).contains(text) {
        screen.read_exact(&mut byte).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&said)));
        said.push(byte[0]);
    }
    String::from_utf8(said).unwrap()
}
