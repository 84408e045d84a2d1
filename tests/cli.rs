//! `dkv-cli` as a process, against fake nodes and real ones: what it prints, and its exit codes.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

#[path = "support/cluster.rs"]
#[allow(dead_code)]
mod cluster;
#[path = "cli/one_cluster.rs"]
mod one_cluster;
#[path = "cli/replace.rs"]
mod replace;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/txn.rs"]
mod txn;

use cluster::{Cluster, Connection};

/// A node that gives every request the same answer; returns its address and the bodies it gets.
fn node(answer: Vec<u8>) -> (String, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.72.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let (bodies, seen) = channel();
    // Lives until the test's process ends: it has nothing to stop.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (line, body) = read_request(&stream);
            // The question for the cluster, which goes before a write, is answered and not told.
            if !line.starts_with("GET /readyz ") {
                let _ = bodies.send(body);
            }
            // The client may be gone, as in the test of the closed pipe.
            let _ = stream.write_all(&answer);
        }
    });
    (addr, seen)
}

/// The first line of a request, and its body.
fn read_request(stream: &TcpStream) -> (String, Vec<u8>) {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (first.trim_end().to_owned(), body)
}

/// The cluster of the fake nodes.
const CLUSTER: &str = "00000000000000cc";

fn answer(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} X\r\nConnection: close\r\nDkv-Cluster: {CLUSTER}\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn error(status: u16, code: &str, outcome: &str) -> Vec<u8> {
    let json = format!(
        r#"{{"error":{{"code":"{code}","message":"as told","outcome":"{outcome}","mod_revision":7}}}}"#
    );
    answer(status, "", json.as_bytes())
}

fn command(addr: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dkv-cli"));
    command.env("DKV_ENDPOINTS", addr).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(addr: &str, args: &[&str]) -> Output {
    command(addr, args).output().unwrap()
}

/// For nodes that never serve: the command gives up soon.
fn run_hasty(addr: &str, args: &[&str]) -> Output {
    command(addr, &[&["--timeout", "0.5"], args].concat()).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const PUT_DONE: &[u8] = br#"{"revision":3,"create_revision":2,"version":2}"#;
const GET_HEADERS: &str = "ETag: \"7\"\r\nDkv-Create-Revision: 5\r\nDkv-Version: 2\r\n";

#[test]
fn set_prints_ok_and_sends_any_bytes_of_standard_input() {
    let (addr, seen) = node(answer(200, "", PUT_DONE));
    let output = run(&addr, &["set", "k", "v"]);
    assert_eq!((code(&output), &output.stdout[..]), (0, &b"OK\n"[..]), "{}", said(&output));
    assert_eq!(seen.recv_timeout(Duration::from_secs(30)).unwrap(), b"v");

    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for args in [&["set", "k", "-"][..], &["set", "k"]] {
        let mut child = command(&addr, args).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
        assert_eq!(seen.recv_timeout(Duration::from_secs(30)).unwrap(), bytes);
    }
    let output = run(&addr, &["set", "k", "v", "-o", "json"]);
    assert_eq!(output.stdout, [PUT_DONE, b"\n"].concat());
}

/// `set KEY` under cron, or after a command that failed, stored an empty value.
#[test]
fn set_without_a_value_and_without_input_is_a_usage_error() {
    let (addr, seen) = node(answer(200, "", PUT_DONE));
    let closed = |args: &[&str]| {
        // Standard input closed, not empty: only a shell starts a program so.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" <&-", env!("CARGO_BIN_EXE_dkv-cli")]).args(args);
        command.env("DKV_ENDPOINTS", &addr).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
    };
    for output in [run(&addr, &["set", "a\tb"]), closed(&["set", "a\tb"])] {
        assert_eq!((code(&output), output.stdout.is_empty()), (2, true), "{}", said(&output));
        assert!(
            said(&output).contains("no value") && said(&output).contains("set a\\x09b ''"),
            "{}",
            said(&output)
        );
    }
    assert!(seen.try_recv().is_err(), "something was sent");
    // Whoever says so gets an empty value.
    for output in [run(&addr, &["set", "k", ""]), run(&addr, &["set", "k", "-"]), closed(&["set", "k", "-"])]
    {
        assert_eq!(code(&output), 0, "{}", said(&output));
        assert_eq!(seen.recv_timeout(Duration::from_secs(30)).unwrap(), b"");
    }
}

#[test]
fn get_prints_the_bytes_alone() {
    let (addr, _) = node(answer(200, GET_HEADERS, b"\xff\0x"));
    let output = run(&addr, &["get", "k"]);
    assert_eq!((code(&output), &output.stdout[..]), (0, &b"\xff\0x"[..]), "{}", said(&output));
    let output = run(&addr, &["-o", "json", "get", "k"]);
    let text = r#"{"key":"k","value_base64":"/wB4","create_revision":5,"mod_revision":7,"version":2}"#;
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{text}\n"));
}

#[test]
fn get_ends_quietly_when_the_pipe_is_closed() {
    let (addr, _) = node(answer(200, GET_HEADERS, &vec![b'x'; 1 << 20]));
    let mut child = command(&addr, &["get", "k"]).spawn().unwrap();
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), said(&output)), (0, String::new()));
}

#[test]
fn exit_code_1_says_that_the_key_or_the_condition_is_missing() {
    let (addr, _) = node(error(404, "not_found", "not_done"));
    let output = run(&addr, &["get", "a\nb"]);
    assert_eq!(
        (code(&output), said(&output).as_str()),
        (1, "dkv-cli: no such key: a\\x0ab (`dkv-cli list` shows those that exist)\n")
    );
    let (addr, _) = node(answer(200, "", br#"{"revision":3,"deleted":0}"#));
    let output = run(&addr, &["delete", "k"]);
    assert_eq!((code(&output), &output.stdout[..]), (1, &b""[..]));
    assert!(said(&output).contains("no such key: k"));
    let (addr, _) = node(error(412, "precondition_failed", "not_done"));
    let output = run(&addr, &["set", "k", "v", "--if-revision", "3"]);
    assert_eq!(code(&output), 1);
    assert!(said(&output).contains("last written at revision 7"), "{}", said(&output));
}

#[test]
fn exit_code_2_is_for_bad_usage_and_refused_input() {
    let (addr, seen) = node(error(413, "too_large", "not_done"));
    for args in [
        &["set"][..],
        &["set", "", "v"],
        &["get", "k", "--endpoints", "nonsense"],
        &["set", "k", "v", "--idempotency-key", "a b"],
        &["set", "k", "v", "--if-absent", "--if-revision", "1"],
        &["get", "k", "--revision", "-1"],
        &["get", "k", "--cluster", "cc"],
        &["set", "k"],
        &["get", "k", "--revision", "0"],
        &["export", "--revision", "0"],
    ] {
        let output = run(&addr, args);
        assert_eq!(code(&output), 2, "{args:?}: {}", said(&output));
        assert!(!said(&output).is_empty());
    }
    assert!(seen.try_recv().is_err(), "something was sent");
    let output = run(&addr, &["set", "k", "v"]);
    assert_eq!(code(&output), 2);
    assert!(said(&output).contains("as told"), "{}", said(&output));
}

#[test]
fn exit_code_3_is_surely_not_done() {
    // Bound and closed again: nobody listens there.
    let addr = TcpListener::bind("127.0.72.2:0").unwrap().local_addr().unwrap().to_string();
    for args in [&["set", "k", "v"][..], &["get", "k"], &["status"]] {
        let output = run_hasty(&addr, args);
        assert_eq!(code(&output), 3, "{args:?}: {}", said(&output));
        assert!(said(&output).contains("Check that --endpoints names a node that runs"), "{}", said(&output));
    }
}

#[test]
fn exit_code_4_names_the_key_to_repeat_with() {
    let (addr, _) = node(error(504, "outcome_unknown", "unknown"));
    let output = run_hasty(&addr, &["set", "k", "v", "--idempotency-key", "mine"]);
    assert_eq!(code(&output), 4, "{}", said(&output));
    assert!(
        said(&output).contains("repeat the same command with --idempotency-key mine"),
        "{}",
        said(&output)
    );
    let output = run_hasty(&addr, &["-o", "json", "delete", "k", "--idempotency-key", "mine"]);
    assert_eq!(code(&output), 4);
    let json: serde_json::Value = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!(
        (&json["error"]["outcome"], &json["error"]["idempotency_key"]),
        (&"unknown".into(), &"mine".into())
    );
}

#[test]
fn status_shows_reachable_and_unreachable_nodes() {
    // One answer serves both routes: each reads the fields it knows.
    let gone = TcpListener::bind("127.0.72.3:0").unwrap().local_addr().unwrap().to_string();
    let listener = TcpListener::bind("127.0.72.4:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let members = format!(
        r#""members":[{{"node_id":"n1","member_id":"aa","raft_addr":"h:1","http_addr":"{addr}","voter":true}},
           {{"node_id":"n2","member_id":"bb","raft_addr":"h:2","http_addr":"{gone}","voter":true}}]"#
    );
    let json = format!(
        r#"{{"cluster_id":"{CLUSTER}","term":7,"leader":{{"node_id":"n1","http_addr":"{addr}"}},{members},
           "node_id":"n1","member_id":"aa","role":"leader","commit":120,"applied":118,"persisted":120,"last":120,
           "revision":9,"floor":1,"state_hash":"00","uptime_ms":5,"version":"0","peers":[]}}"#
    );
    let reply = answer(200, "", json.as_bytes());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            read_request(&stream);
            stream.write_all(&reply).unwrap();
        }
    });
    let output = run(&addr, &["status"]);
    assert_eq!(code(&output), 1, "a voter does not answer: {}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NODE", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG", "REACHABLE", "ADDRESS"]);
    assert_eq!(rows[1], ["n1", "leader", "7", "120", "118", "2", "yes", &addr]);
    assert_eq!(rows[2], ["n2", "-", "-", "-", "-", "-", "no", &gone]);
    assert!(text.contains("n2 does not answer: "), "{text}");
    let output = run(&addr, &["status", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &report["health"]), (1, &"degraded".into()));
    assert_eq!(report["nodes"][0]["status"]["commit"], 120);
    assert!(report["nodes"][1]["error"].as_str().unwrap().contains("refused"), "{report}");
}

/// A node that gives its answers one after the other, and tells the first line of each request.
fn script(answers: Vec<Vec<u8>>) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.72.5:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let (lines, seen) = channel();
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = lines.send(read_request(&stream).0);
            let _ = stream.write_all(&answer);
        }
    });
    (addr, seen)
}

fn page(rows: &str, cursor: &str) -> Vec<u8> {
    let count = rows.matches("\"version\"").count();
    answer(200, "", format!(r#"{{"revision":9,"count":{count},"kvs":[{rows}]{cursor}}}"#).as_bytes())
}

const ROW_A: &str = r#"{"key":"a\tb","value":"x\\y\n","create_revision":1,"mod_revision":2,"version":2}"#;
const ROW_B: &str =
    r#"{"key":"grün","value_base64":"/wA=","create_revision":3,"mod_revision":3,"version":1}"#;
const KEY_A: &str = r#"{"key":"a","create_revision":1,"mod_revision":2,"version":2}"#;

#[test]
fn list_follows_cursors_and_escapes_what_a_line_cannot_hold() {
    let two_pages = || vec![page(ROW_A, r#","cursor":"C-1""#), page(ROW_B, "")];
    let (addr, seen) = script(two_pages());
    let output = run(&addr, &["list"]);
    let lines = "a\\x09b\tx\\\\y\\x0a\ngrün\t\\xff\\x00\n";
    assert_eq!((code(&output), String::from_utf8(output.stdout.clone()).unwrap().as_str()), (0, lines));
    assert!(!seen.recv().unwrap().contains("cursor"));
    assert!(seen.recv().unwrap().contains("cursor=C%2D1"));

    let (addr, _) = script(two_pages());
    let output = run(&addr, &["list", "-o", "json"]);
    let document = format!("{{\"revision\":9,\"kvs\":[{ROW_A},{ROW_B}],\"count\":2}}\n");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), document);
}

#[test]
fn list_sends_its_options_and_stops_at_the_limit() {
    let (addr, seen) = script(vec![page(KEY_A, r#","cursor":"C1""#), page(KEY_A, r#","cursor":"C2""#)]);
    let args =
        ["list", "p/\u{e4}", "--keys-only", "--limit", "2", "--revision", "9", "--stale", "--order", "desc"];
    let output = run(&addr, &args);
    assert_eq!((code(&output), &output.stdout[..]), (0, &b"a\na\n"[..]), "{}", said(&output));
    for limit in [2, 1] {
        let line = seen.recv().unwrap();
        let limit = format!("limit={limit}&");
        for part in
            ["consistency=stale", "revision=9", "prefix=p%2F%C3%A4", "order=desc", "keys_only=true", &limit]
        {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    // The cursor stays in the document: there is more than the limit.
    let (addr, _) = script(vec![page(KEY_A, r#","cursor":"C1""#)]);
    let output = run(&addr, &["list", "--limit", "1", "-o", "json", "--keys-only"]);
    let document = format!("{{\"revision\":9,\"kvs\":[{KEY_A}],\"count\":1,\"cursor\":\"C1\"}}\n");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), document);
}

#[test]
fn list_that_breaks_off_says_how_far_it_came() {
    let (addr, _) = script(vec![page(ROW_A, r#","cursor":"C1""#), error(410, "compacted", "not_done")]);
    let output = run(&addr, &["list"]);
    assert_eq!((code(&output), output.stdout.is_empty()), (2, false));
    assert!(said(&output).contains("incomplete, it broke off after 1 key"), "{}", said(&output));
}

#[test]
fn list_ends_quietly_when_the_pipe_is_closed() {
    let row = format!(
        r#"{{"key":"k","value":"{}","create_revision":1,"mod_revision":1,"version":1}}"#,
        "x".repeat(1 << 20)
    );
    // More pages than are wanted: the second request is never made, or its page never shown.
    let (addr, _) = script(vec![page(&row, r#","cursor":"C1""#); 3]);
    let mut child = command(&addr, &["list"]).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), said(&output)), (0, String::new()));
}

#[test]
fn help_is_a_manual_of_80_columns_without_colour_off_a_terminal() {
    let commands =
        ["", "set", "get", "delete", "list", "status", "member", "transfer", "snapshot", "export", "import"];
    for name in commands.into_iter().chain(["verify", "completion"]) {
        let args: Vec<&str> = [name, "--help"].into_iter().filter(|arg| !arg.is_empty()).collect();
        let output = run("127.0.0.1:1", &args);
        assert_eq!(code(&output), 0);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Examples:\n  "), "{name}: {text}");
        assert!(!text.contains('\x1b'), "{name}");
        let long: Vec<&str> = text.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty(), "{name}: {long:?}");
    }
}

#[test]
fn completion_knows_every_command_in_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        // No node is asked: a bad endpoint does not matter.
        let output = run("nonsense", &["completion", shell]);
        assert_eq!(code(&output), 0, "{shell}: {}", said(&output));
        let script = String::from_utf8(output.stdout).unwrap();
        for word in ["set", "get", "delete", "list", "status", "completion", "keys-only", "if-absent"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(code(&run("nonsense", &["completion", "tcsh"])), 2);
}

/// What bash offers for the last of `words`, by the script that dkv-cli prints.
fn bash_offers(words: &[&str]) -> Vec<String> {
    // `compopt` is for a shell that is completing; it chooses whether files are offered too.
    let script = "compopt() { :; }; source <(\"$DKV\" completion bash); entry=$(complete -p dkv-cli); entry=${entry#*-F }\n\
                  COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1))\n\
                  ${entry%% *} \"$1\" \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"\n\
                  printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = Command::new("bash")
        .args(["--norc", "-c", script, "bash"])
        .args(words)
        .env("DKV", env!("CARGO_BIN_EXE_dkv-cli"))
        .output()
        .expect("bash runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
}

/// The hyphen in the program's name once left bash without anything to offer after a command.
#[test]
fn completion_in_bash_goes_on_after_the_command() {
    assert_eq!(bash_offers(&["dkv-cli", "l"]), ["list", "ls", "lease"]);
    assert_eq!(bash_offers(&["dkv-cli", "set", "--if"]), ["--if-revision", "--if-version", "--if-absent"]);
    assert_eq!(bash_offers(&["dkv-cli", "list", "--keys"]), ["--keys-only"]);
    assert_eq!(bash_offers(&["dkv-cli", "list", "--order", ""]), ["asc", "desc"]);
    assert_eq!(bash_offers(&["dkv-cli", "get", "k", "-o", ""]), ["plain", "json"]);
    assert!(bash_offers(&["dkv-cli", "completion", ""]).contains(&"fish".to_owned()));
    assert!(bash_offers(&["dkv-cli", "set", "k", "v", "--idempotency-key", ""]).is_empty(), "no files");
}

#[test]
fn real_cluster_takes_every_command() {
    let cluster = Cluster::start(3);
    // One node suffices; the others are found.
    let addr = cluster.http_addr(1);
    let out = |args: &[&str]| {
        let output = run(&addr, args);
        (code(&output), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(out(&["set", "app/a", "1"]), (0, "OK\n".to_owned()));
    assert_eq!(out(&["set", "app/a", "2", "--if-revision", "2"]), (0, "OK\n".to_owned()));
    assert_eq!(out(&["set", "app/a", "3", "--if-revision", "2"]), (1, String::new()));
    assert_eq!(out(&["set", "app/a", "3", "--if-absent"]), (1, String::new()));
    assert_eq!(out(&["get", "app/a"]), (0, "2".to_owned()));
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let mut child = command(&addr, &["set", "bytes"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert_eq!(code(&child.wait_with_output().unwrap()), 0);
    assert_eq!(run(&addr, &["get", "bytes"]).stdout, bytes);
    let (status, json) = out(&["get", "app/a", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((status, &json["mod_revision"], &json["value"]), (0, &3.into(), &"2".into()));
    assert_eq!(out(&["delete", "bytes"]), (0, "OK\n".to_owned()));
    assert_eq!(out(&["delete", "bytes"]), (1, String::new()));
    for key in ["app/b", "app/c", "apple"] {
        assert_eq!(out(&["set", key, "1"]), (0, "OK\n".to_owned()));
    }
    assert_eq!(out(&["delete", "--prefix", "app/", "--start", "app/b"]), (0, "2 keys deleted\n".to_owned()));
    assert_eq!(out(&["delete", "--prefix", "app/"]), (0, "1 key deleted\n".to_owned()));
    assert_eq!(out(&["delete", "--prefix", "app/"]), (0, "0 keys deleted\n".to_owned()));
    assert_eq!(out(&["delete", "--prefix", ""]).0, 2, "nothing said is not everything");
    let (status, json) = out(&["delete", "--all", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((status, &json["deleted"]), (0, &1.into()));
    assert_eq!(out(&["list"]), (0, String::new()));
    let (status, table) = out(&["status"]);
    assert_eq!((status, table.lines().count()), (0, 4), "{table}");
    assert_eq!(table.matches("leader").count(), 1, "{table}");
}

#[test]
fn real_cluster_lists_across_pages_any_bytes_and_into_a_closed_pipe() {
    let cluster = Cluster::start(3);
    let addr = cluster.http_addr(2);
    let out = |args: &[&str]| {
        let output = run(&addr, args);
        (code(&output), String::from_utf8_lossy(&output.stdout).into_owned(), said(&output))
    };
    assert_eq!(out(&["list"]), (0, String::new(), String::new()), "an empty store has no lines");
    let (_, document, _) = out(&["list", "-o", "json"]);
    assert_eq!(document, "{\"revision\":1,\"kvs\":[],\"count\":0}\n");

    // Unprintable bytes in key and value, written and shown by the client itself.
    let mut child = Command::new(env!("CARGO_BIN_EXE_dkv-cli"))
        .env("DKV_ENDPOINTS", &addr)
        .arg("set")
        .arg(OsStr::from_bytes(b"raw/\xff\n\\"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\x00\x1b[2J\tgr\xc3\xbcn\xfe").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let (status, lines, _) = out(&["list"]);
    assert_eq!((status, &lines[..]), (0, "raw/\\xff\\x0a\\\\\t\\x00\\x1b[2J\\x09gr\u{fc}n\\xfe\n"));
    let (_, document, _) = out(&["list", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(json["kvs"][0]["key_base64"], "cmF3L/8KXA==");
    assert!(json["kvs"][0]["value_base64"].is_string() && json["kvs"][0].get("value").is_none(), "{json}");

    // More keys than a page has rows.
    let mut connection = Connection::open(&addr).unwrap();
    for n in 0..1_203 {
        let path = format!("/v1/kv/app/{n:04}");
        assert_eq!(connection.request("PUT", &path, &[], b"v").unwrap().status, 200);
    }
    let (status, lines, _) = out(&["list", "app/", "--keys-only"]);
    let want: String = (0..1_203).map(|n| format!("app/{n:04}\n")).collect();
    assert!(status == 0 && lines == want, "{status}: {} lines", lines.lines().count());
    let (_, lines, _) = out(&["list", "app/", "--order", "desc", "--limit", "1002"]);
    let want: String = (201..1_203).rev().map(|n| format!("app/{n:04}\tv\n")).collect();
    assert!(lines == want, "{} lines", lines.lines().count());
    let (_, document, _) = out(&["list", "app/", "-o", "json", "--stale", "--revision", "1205"]);
    let json: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!((&json["count"], &json["revision"], json.get("cursor")), (&1_203.into(), &1_205.into(), None));
    assert_eq!(json["kvs"].as_array().unwrap().len(), 1_203);
    assert_eq!(json["kvs"][1_202]["key"], "app/1202");
    let (_, lines, _) = out(&["list", "app/", "--revision", "4"]);
    assert_eq!(lines, "app/0000\tv\napp/0001\tv\n", "what there was then");
    let (status, lines, said_then) = out(&["list", "--revision", "9999"]);
    assert_eq!((status, &lines[..]), (2, ""));
    assert!(said_then.contains("The newest revision is 1205"), "{said_then}");

    // A reader that goes after its first byte: the rest is far more than a pipe holds.
    for n in 0..3 {
        let path = format!("/v1/kv/big/{n}");
        assert_eq!(connection.request("PUT", &path, &[], &vec![b'x'; 1 << 20]).unwrap().status, 200);
    }
    for form in ["plain", "json"] {
        let mut child = command(&addr, &["list", "big/", "-o", form]).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((code(&output), said(&output)), (0, String::new()), "{form}");
    }
}
