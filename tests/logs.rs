//! What a node logs: the form of its lines, how much, where to, and that a log which nobody reads never stops it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::thread;

#[allow(dead_code)]
mod support {
    pub mod cluster;
}

use support::cluster::{Cluster, PATIENCE, Setup, wait_for};

fn one_node(extra: String) -> Cluster {
    let mut cluster = Cluster::prepare(1, &Setup { extra, ..Setup::default() });
    cluster.spawn(0);
    cluster.wait_for_leader();
    cluster
}

/// Holds a line to its form: `2026-01-31T09:07:05.123456Z [INFO] (thread) text`.
fn check_form(line: &str) {
    let (time, rest) = line.split_at_checked(27).unwrap_or_else(|| panic!("short: {line:?}"));
    let form: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00.000000Z", "{line:?}");
    let level = rest.strip_prefix(" [").and_then(|rest| rest.split_once("] (")).map(|(level, _)| level);
    let levels = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
    assert!(level.is_some_and(|level| levels.contains(&level)), "{line:?}");
    let (_, thread_and_text) = rest.split_once("] (").expect("checked");
    let (thread, text) = thread_and_text.split_once(") ").unwrap_or_else(|| panic!("no thread: {line:?}"));
    assert!(!thread.is_empty() && !text.is_empty(), "{line:?}");
}

/// The width of a time once depended on how many zeros it ended with.
#[test]
fn every_line_has_a_time_of_fixed_width_a_level_and_a_thread() {
    let mut cluster = one_node("log: { level: trace }\n".to_owned());
    for n in 0..50 {
        assert_eq!(cluster.put(0, &format!("k{n}"), "v").unwrap().status, 200);
    }
    assert_eq!(cluster.stop(0).code(), Some(0));
    let log = cluster.log(0);
    assert!(log.lines().count() > 20, "{log}");
    log.lines().for_each(check_form);
    for said in ["[DEBUG]", "SIGTERM: stopping", "stopped"] {
        assert!(log.contains(said), "{said}: {log}");
    }
}

#[test]
fn the_level_of_the_configuration_holds_until_it_is_changed_at_run_time() {
    let cluster = one_node("log: { level: warn }\n".to_owned());
    let set = |level: &str| {
        let answer = cluster.request(0, "PUT", "/v1/log-level", &[], level.as_bytes()).unwrap();
        assert_eq!((answer.status, answer.json()["level"].as_str()), (200, Some(level)));
    };
    let write = |key: &str| assert_eq!(cluster.put(0, key, "v").unwrap().status, 200);
    write("quiet");
    assert!(!cluster.log(0).contains("[INFO]"), "{}", cluster.log(0));
    set("debug");
    write("loud");
    wait_for("a decision of the core", || cluster.log(0).contains("[DEBUG]").then_some(()));
    set("off");
    // Lines that were on their way are there when this many requests later nothing has come for a while.
    let mut before = String::new();
    wait_for("silence", || {
        write("silent");
        let log = cluster.log(0);
        let is_silent = log == before;
        before = log;
        is_silent.then_some(())
    });
    write("silent");
    assert_eq!(cluster.log(0), before);
}

#[test]
fn lines_go_to_the_file_of_the_configuration_and_are_appended_there() {
    let mut cluster = Cluster::prepare(1, &Setup::default());
    let file = cluster.dir.join("own.log");
    let extra = format!("log: {{ file: {} }}\n", file.display());
    cluster.write_config(0, &Setup { extra, ..Setup::default() });
    for starts in 1..=2 {
        cluster.spawn(0);
        cluster.wait_for_leader();
        assert_eq!(cluster.stop(0).code(), Some(0));
        let log = fs::read_to_string(&file).unwrap();
        assert_eq!(log.matches("serves clients on").count(), starts, "{log}");
        log.lines().for_each(check_form);
    }
    assert_eq!(cluster.log(0), "", "nothing on standard error");
}

/// A terminal that is stopped (Ctrl-S), or a pipe whose reader hangs, takes no more lines.
#[test]
fn a_log_that_nobody_reads_never_stops_a_node() {
    let extra = "log: { level: trace }\n".to_owned();
    let cluster = Cluster::prepare(1, &Setup { extra, ..Setup::default() });
    let mut child = cluster.command(0).stderr(Stdio::piped()).spawn().unwrap();
    let unread = child.stderr.take().unwrap();
    let dropped = || -> Option<f64> {
        let answer = cluster.request(0, "GET", "/metrics", &[], b"").ok()?;
        let text = answer.text();
        text.lines().find_map(|line| line.strip_prefix("dkv_log_lines_dropped_total "))?.parse().ok()
    };
    // The pipe is full, then the queue: from there on lines are dropped, and requests are served all the time.
    wait_for("lines to be dropped", || {
        for n in 0..200 {
            let answer = cluster.put(0, &format!("k{n}"), "v").ok()?;
            assert!(matches!(answer.status, 200 | 503), "{}", answer.text());
        }
        dropped().filter(|&lines| lines > 0.0)
    });
    assert_eq!(cluster.put(0, "k", "v").unwrap().status, 200);
    // Read again, it says that lines are missing.
    let (sender, gap) = channel();
    let reader = thread::spawn(move || {
        let is_gap = |line: &std::io::Result<String>| line.as_ref().is_ok_and(|l| l.contains("were dropped"));
        // To its end, so that the node is not in the way of a full pipe again.
        BufReader::new(unread).lines().filter(is_gap).for_each(|line| drop(sender.send(line)));
    });
    assert!(gap.recv_timeout(PATIENCE).is_ok(), "the gap is said");
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
}
