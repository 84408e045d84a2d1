//! The configuration files that are shipped, and every kind of bad one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dkv::config::{Config, Joiner, MAX_FILE_BYTES, Peer};
use dkv::store::identity::DataDirLock;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name)
}

/// A good file of three nodes, to be spoilt.
const GOOD: &str = "\
node_id: a
data_dir: data/a
peers:
  - { node_id: a, raft_addr: 127.0.0.1:18081, http_addr: 127.0.0.1:8081 }
  - { node_id: b, raft_addr: 127.0.0.1:18082, http_addr: 127.0.0.1:8082 }
  - { node_id: c, raft_addr: \"[::1]:18083\", http_addr: host-c.example:8083 }
";

/// The error of `text`, which must be one line that names the file.
fn refused(text: &str) -> String {
    let error = match Config::parse(text, "x.yaml") {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(error) => error.to_string(),
    };
    assert!(error.starts_with("x.yaml: ") && !error.contains('\n'), "{error:?}");
    error
}

#[test]
fn sample_equals_the_defaults() {
    assert_eq!(Config::load(&shipped("sample.yaml")).unwrap(), Config::default());
    Config::default().validate("the defaults").unwrap();
}

#[test]
fn sample_shows_and_explains_every_key() {
    let text = std::fs::read_to_string(shipped("sample.yaml")).unwrap();
    let shown: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    let all = serde_yaml::to_value(Config::default()).unwrap();
    fn keys(value: &serde_yaml::Value) -> Vec<String> {
        let Some(map) = value.as_mapping() else { return Vec::new() };
        let below = |(k, v): (&serde_yaml::Value, &serde_yaml::Value)| {
            let name = k.as_str().unwrap().to_owned();
            let nested: Vec<String> = keys(v).iter().map(|k| format!("{name}.{k}")).collect();
            [vec![name], nested].concat()
        };
        map.iter().flat_map(below).collect()
    }
    assert_eq!(keys(&shown), keys(&all), "the sample must hold every key, in the order of the struct");

    // Each key stands right below a comment, or below another key that does.
    let mut explained = false;
    for line in text.lines() {
        let line = line.trim_start();
        match line.chars().next() {
            None => explained = false,
            Some('#') => explained = true,
            Some(_) => assert!(explained, "no comment above {line:?}"),
        }
    }
}

#[test]
fn shipped_nodes_differ_only_in_their_name_and_directory() {
    let first = Config::load(&shipped("node1.yaml")).unwrap();
    assert_eq!(first.peers.len(), 5);
    for n in 1..=5_u16 {
        let config = Config::load(&shipped(&format!("node{n}.yaml"))).unwrap();
        assert_eq!(config.node_id, format!("node{n}"));
        assert_eq!(config.data_dir, Path::new(&format!("data/node{n}")));
        assert_eq!(config.listen_http(), format!("127.0.0.1:{}", 8080 + n));
        assert_eq!(config.listen_raft(), format!("127.0.0.1:{}", 18080 + n));
        let same = Config { node_id: first.node_id.clone(), data_dir: first.data_dir.clone(), ..config };
        assert_eq!(same, first);
    }
}

#[test]
fn parse_takes_a_short_file_with_the_defaults() {
    let config = Config::parse(GOOD, "x.yaml").unwrap();
    assert_eq!(config.me().http_addr, "127.0.0.1:8081");
    assert_eq!((config.heartbeat_ms, config.append_hold_ms(), config.election_timeout_ms), (50, 50, 300));
    assert_eq!(config.limits, Config::default().limits);
    let config =
        Config::parse(&format!("{GOOD}limits: {{ max_key_bytes: 9 }}\nlisten_http: 0.0.0.0:80\n"), "x.yaml");
    let config = config.unwrap();
    assert_eq!((config.limits.max_key_bytes, config.limits.max_parked), (9, 384));
    assert_eq!((config.listen_http(), config.listen_raft()), ("0.0.0.0:80", "127.0.0.1:18081"));
}

/// A line added to the good file, and what the error must say.
#[rustfmt::skip]
const BAD_LINES: &[(&str, &str)] = &[
        ("heartbeat_ms: 101", "heartbeat_ms: 101: at most a third of election_timeout_ms (300); 100 or less"),
        ("heartbeat_ms: 0", "heartbeat_ms: 0: at least 1"),
        ("append_hold_ms: 150", "append_hold_ms: 150: at most a third"),
        (
            "election_timeout_ms: 18446744073709551615",
            "election_timeout_ms: 18446744073709551615: at most 60000",
        ),
        ("heartbeat_ms: -1", "heartbeat_ms: invalid type: integer `-1`"),
        ("heartbeat_ms: 99999999999999999999", "heartbeat_ms: invalid"),
        ("heartbeat_ms: soon", "heartbeat_ms: invalid type: string \"soon\""),
        ("disk_stall_ms: 30001", "disk_stall_ms: 30001: at most 30000"),
        ("disk_stall_ms: 200", "disk_stall_ms: 200: at least 300"),
        ("start_timeout_s: 86401", "start_timeout_s: 86401: at most 86400"),
        ("start_timeout_s: -1", "start_timeout_s: invalid type: integer `-1`"),
        ("request_timeout_ms: 1", "request_timeout_ms: 1: at least 100"),
        ("segment_bytes: 65537", "segment_bytes: 65537: a multiple of 4096; 69632 for example"),
        ("segment_bytes: 4096", "segment_bytes: 4096: at least 65536"),
        ("idempotency_window_s: 1", "idempotency_window_s: 1: at least 60"),
        ("limits: { max_key_bytes: 1000000 }", "limits.max_key_bytes: 1000000: at most 8192"),
        ("limits: { max_request_bytes: 1000 }", "limits.max_request_bytes: 1000: a request carries a value"),
        ("limits: { max_parked: 500 }", "limits.max_parked: 500: at most 384"),
        ("limits: { max_keys: 1 }", "limits: unknown field `max_keys`"),
        ("listen_http: 127.0.0.1", "listen_http: \"127.0.0.1\": write host:port"),
        (
            "listen_http: 127.0.0.1:18081",
            "listen_http: 127.0.0.1:18081: clients and members need a port each",
        ),
        ("log: { level: loud }", "log.level: unknown variant `loud`"),
        ("heart_beat_ms: 50", "unknown field `heart_beat_ms`"),
        ("node_id: b", "duplicate"),
        ("just text", "x.yaml: "),
        ("append_hold_ms: 0", "append_hold_ms: 0: at least 1"),
        ("election_timeout_ms: 14", "election_timeout_ms: 14: at least 15"),
        ("request_timeout_ms: 600001", "request_timeout_ms: 600001: at most 600000"),
        ("segment_bytes: 2147483648", "segment_bytes: 2147483648: at most 1073741824"),
        ("retention_revisions: 0", "retention_revisions: 0: at least 1"),
        ("retention_bytes: 0", "retention_bytes: 0: at least 1"),
        ("idempotency_window_s: 604801", "idempotency_window_s: 604801: at most 604800"),
        ("idempotency_rows: 0", "idempotency_rows: 0: at least 1"),
        ("idempotency_bytes: 1099511627777", "idempotency_bytes: 1099511627777: at most 1099511627776"),
        ("limits: { max_txn_ops: 0 }", "limits.max_txn_ops: 0: at least 1"),
        ("limits: { max_txn_ops: 1025 }", "limits.max_txn_ops: 1025: at most 1024"),
        ("limits: { max_key_bytes: 0 }", "limits.max_key_bytes: 0: at least 1"),
        ("limits: { max_value_bytes: 3145729 }", "limits.max_value_bytes: 3145729: at most 3145728"),
        ("limits: { max_connections: 0 }", "limits.max_connections: 0: at least 1"),
        ("limits: { max_requests_inside: 63 }", "limits.max_requests_inside: 63: at least 64"),
        ("limits: { upstream_connections: 63 }", "limits.max_requests_inside: 63: at least 64"),
        ("limits: { max_slow_writers: 0 }", "limits.max_slow_writers: 0: at least 1"),
        ("limits: { max_watches: 0 }", "limits.max_watches: 0: at least 1"),
        ("limits: { max_parked: 0 }", "limits.max_parked: 0: at least 1"),
        ("limits: { idle_timeout_ms: 999 }", "limits.idle_timeout_ms: 999: at least 1000"),
        ("limits: { transfer_timeout_ms: 99 }", "limits.transfer_timeout_ms: 99: at least 100"),
        ("limits: 5", "limits: invalid type: integer `5`"),
        ("limits: { max_key_bytes: 1.5 }", "limits.max_key_bytes: invalid type"),
        ("log: { level: 3 }", "log.level: "),
        ("log: { path: x }", "log: unknown field `path`"),
        ("debug: { check_invariants: maybe }", "debug.check_invariants: invalid type: string \"maybe\""),
        ("listen_raft: localhost", "listen_raft: \"localhost\": write host:port"),
        ("listen_raft: \"[::1]\"", "listen_raft: \"[::1]\": write host:port"),
        ("listen_http: 127.0.0.1:99999", "listen_http: \"127.0.0.1:99999\": write host:port"),
        ("heartbeat_ms: 50\nheartbeat_ms: 60", "duplicate"),
        ("heartbeat_ms: [50", "x.yaml: "),
];

/// Text to replace in the good file, its replacement, and what the error must say.
#[rustfmt::skip]
const BAD_MEMBERS: &[(&str, &str, &str)] = &[
        ("node_id: a\ndata", "node_id: z\ndata", "node_id: z: not among peers (a, b, c)"),
        ("node_id: a\ndata", "data", "node_id: missing: name this node"),
        ("data_dir: data/a\n", "", "data_dir: missing"),
        ("{ node_id: b,", "{ node_id: a,", "peers[1].node_id: a: peers[0] has the same name"),
        ("{ node_id: b,", "{ node_id: \"b\\r\\nX: y\",", "peers[1].node_id: \"b\\r\\nX: y\": a name is"),
        (
            "127.0.0.1:18082",
            "127.0.0.1:8081",
            "peers[1].raft_addr: 127.0.0.1:8081: peers[0].http_addr has the same",
        ),
        ("127.0.0.1:18082", "127.0.0.1:0", "peers[1].raft_addr: \"127.0.0.1:0\": write host:port"),
        ("127.0.0.1:18082", "127.0.0.1:65536", "write host:port"),
        ("127.0.0.1:18082", "127.0.0.:1", "write host:port"),
        ("127.0.0.1:18082", "300.0.0.1:1", "write host:port"),
        ("127.0.0.1:18082", "http://b:1", "write host:port"),
        ("127.0.0.1:18082", "127.0.0.1:+80", "write host:port"),
        ("127.0.0.1:18082", "\":80\"", "write host:port"),
        ("127.0.0.1:18082", "0.0.0.0:18082", "others cannot reach it"),
        ("\"[::1]:18083\"", "\"::1:18083\"", "write host:port"),
        ("raft_addr: 127.0.0.1:18082, ", "", "missing field `raft_addr`"),
];

/// Every bad file of both tables, with what the error must say.
fn bad_files() -> Vec<(String, &'static str)> {
    let lines = BAD_LINES.iter().map(|&(line, says)| (format!("{GOOD}{line}\n"), says));
    let members = BAD_MEMBERS.iter().map(|&(old, new, says)| {
        assert!(GOOD.contains(old), "{old}");
        (GOOD.replace(old, new), says)
    });
    lines.chain(members).collect()
}

#[test]
fn parse_refuses_bad_files_and_says_field_value_and_fix() {
    for (text, says) in bad_files() {
        let error = refused(&text);
        assert!(error.contains(says), "{says}: {error}");
    }
    assert!(
        refused("node_id: a\ndata_dir: d\npeers: []\n").contains("peers: none: list every initial member")
    );
    let many: String = (0..16)
        .map(|i| format!("  - {{ node_id: n{i}, raft_addr: h:{}, http_addr: h:{} }}\n", 1000 + i, 2000 + i))
        .collect();
    assert!(refused(&format!("node_id: n1\ndata_dir: d\npeers:\n{many}")).contains("peers: 16: at most 15"));
}

#[test]
fn parse_refuses_what_is_not_a_configuration() {
    refused("");
    refused("- a\n- b\n");
    refused("a: &x [*x]\n");
    refused("---\na: 1\n---\nb: 2\n");
    // A bomb of aliases must end as an error, not as memory.
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for i in 1..30 {
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","));
    }
    refused(&bomb);
    refused(&format!("peers: {}{}\n", "[".repeat(20_000), "]".repeat(20_000)));
}

#[test]
fn load_says_why_a_file_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let says = |path: &Path| Config::load(path).unwrap_err().to_string();
    assert!(says(&dir.path().join("none.yaml")).contains("none.yaml: cannot be read: No such file"));
    assert!(says(dir.path()).contains("is a directory"));
    let big = dir.path().join("big.yaml");
    std::fs::write(&big, vec![b'#'; MAX_FILE_BYTES as usize + 1]).unwrap();
    assert!(says(&big).contains("is longer than 65536 bytes"));
    std::fs::write(&big, [0xff, 0xff]).unwrap();
    assert!(says(&big).contains("is not UTF-8"));
    std::fs::write(&big, [0xff, 0xfe]).unwrap();
    assert!(says(&big).contains("is UTF-16 text"));
}

/// Runs the real server in `dir` with the configuration `text` until it ends; returns its exit code and what it said.
fn run_server(dir: &Path, text: &[u8]) -> (Option<i32>, String) {
    std::fs::write(dir.join("x.yaml"), text).unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_dkv-server"))
        .args(["--config", "x.yaml"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            server.kill().unwrap();
            panic!("it does not end: {}", String::from_utf8_lossy(text));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = server.wait_with_output().unwrap();
    assert!(output.stdout.is_empty(), "{output:?}");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// The server refuses `text` with exit code 2 and one line, and leaves nothing behind.
fn server_refuses(text: &[u8], says: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (code, said) = run_server(dir.path(), text);
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{says}: {said}");
    assert!(said.starts_with("dkv-server: x.yaml: ") && said.contains(says), "{says}: {said}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left, ["x.yaml"], "{says}");
}

#[test]
fn server_refuses_every_bad_file_with_exit_code_2_and_touches_nothing() {
    let bad = bad_files();
    assert!(bad.len() >= 40, "{}", bad.len());
    for (text, says) in bad {
        server_refuses(text.as_bytes(), says.trim_start_matches("x.yaml: "));
    }
    server_refuses(b"", "node_id: missing");
    server_refuses(b"\xff\xff", "is not UTF-8");
    server_refuses(b"\xff\xfe", "is UTF-16 text (little-endian)");
    server_refuses(&vec![b'#'; MAX_FILE_BYTES as usize + 1], "is longer than 65536 bytes");
    // YAML that ends early, is something else, or tries to be very large.
    server_refuses(b"{\"node_id\": \"a\"", "");
    server_refuses(b"- a\n- b\n", "");
    server_refuses(format!("peers: {}", "[".repeat(20_000)).as_bytes(), "");
}

/// A one-node configuration on an address of its own.
fn one_node(ip: &str, extra: &str) -> String {
    format!(
        "node_id: a\ndata_dir: data\n\
         peers: [{{ node_id: a, raft_addr: \"{ip}:18081\", http_addr: \"{ip}:8081\" }}]\n{extra}"
    )
}

#[test]
fn server_refuses_what_this_machine_does_not_allow() {
    let ip = format!("127.99.{}.{}", std::process::id() >> 8 & 255, std::process::id() & 255);
    let no_folder =
        "log.file: no/such/folder/log: cannot be written: there is no directory no/such/folder; make it";
    server_refuses(one_node(&ip, "log: { file: no/such/folder/log }\n").as_bytes(), no_folder);

    // A data directory that is a file, and one that another process holds.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("data"), "mine").unwrap();
    let (code, said) = run_server(dir.path(), one_node(&ip, "").as_bytes());
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.starts_with("dkv-server: x.yaml: data_dir data: cannot "), "{said}");
    assert_eq!(std::fs::read(dir.path().join("data")).unwrap(), b"mine");
}

/// What is not there *yet* is no mistake in the configuration: the node waited for nothing and ended with 2, which no
/// supervisor starts again.
#[test]
fn a_busy_port_an_absent_address_and_an_unknown_name_are_not_a_refused_configuration() {
    let ip = format!("127.98.{}.{}", std::process::id() >> 8 & 255, std::process::id() & 255);
    let taken = std::net::TcpListener::bind((ip.as_str(), 8082)).unwrap();
    let taken = taken.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let gives_up = |extra: &str, says: &str| {
        let text = one_node(&ip, &format!("{extra}\nstart_timeout_s: 0\n"));
        let (code, said) = run_server(dir.path(), text.as_bytes());
        assert_eq!((code, said.lines().count()), (Some(1), 1), "{says}: {said}");
        assert!(
            said.contains(says) && said.contains("gave up after 0 s (start_timeout_s)"),
            "{says}: {said}"
        );
        assert!(!dir.path().join("data").exists(), "{says}: nothing is touched");
    };
    gives_up(&format!("listen_http: {taken}"), &format!("listen_http: {taken}: Address already in use"));
    gives_up(&format!("listen_raft: {taken}"), &format!("listen_raft: {taken}: Address already in use"));
    gives_up("listen_http: 192.0.2.1:8081", "listen_http: 192.0.2.1:8081: ");
    gives_up("listen_http: no-such-name.invalid:8081", "listen_http: no-such-name.invalid:8081: the ");

    let lock = DataDirLock::take(&dir.path().join("data")).unwrap();
    let (code, said) = run_server(dir.path(), one_node(&ip, "start_timeout_s: 0\n").as_bytes());
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    let by = format!("data_dir data: already in use by process {}", std::process::id());
    assert!(said.contains(&by), "{said}");
    drop(lock);
}

/// Only addresses of one kind were compared as they are written.
#[test]
fn an_address_that_is_another_members_other_port_is_refused_however_it_is_written() {
    for (field, other, value) in [
        ("peers[1].raft_addr", "peers[0].http_addr", "127.0.0.1:8081"),
        ("peers[1].raft_addr", "peers[0].http_addr", "127.0.0.1:08081"),
        ("peers[1].raft_addr", "peers[0].http_addr", "LocalHost:8081"),
        ("peers[1].raft_addr", "peers[0].http_addr", "[::ffff:127.0.0.1]:8081"),
    ] {
        let said = refused(&GOOD.replace("raft_addr: 127.0.0.1:18082", &format!("raft_addr: \"{value}\"")));
        let says =
            format!("x.yaml: {field}: {value}: {other} has the same address; every port needs its own");
        assert_eq!(said, says);
    }
    let said = refused(&GOOD.replace("host-c.example:8083", "\"[0:0::1]:18083\""));
    assert!(said.contains("peers[2].http_addr: [0:0::1]:18083: peers[2].raft_addr has the same"), "{said}");
    let said = refused(&GOOD.replace("host-c.example:8083", "127.0.0.1:18081"));
    assert!(said.contains("peers[2].http_addr: 127.0.0.1:18081: peers[0].raft_addr has the same"), "{said}");
    let said = refused(&format!("{GOOD}listen_http: localhost:18081\n"));
    assert!(said.contains("listen_http: localhost:18081: clients and members need a port each"), "{said}");

    // A node that joins: what --join names is another member's http_addr.
    let dir = tempfile::tempdir().unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_dkv-server"));
    server.args(["--join", "127.0.0.1:1", "--node-id", "n6", "--data-dir", "data"]);
    server.args(["--raft-addr", "localhost:1", "--http-addr", "127.0.0.1:2"]);
    let output = server.current_dir(dir.path()).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(
        said.contains("--raft-addr: localhost:1: it is the http_addr of the member that --join"),
        "{said}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn load_to_join_takes_the_command_line_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.yaml");
    let joiner = Joiner {
        node_id: Some("d".into()),
        raft_addr: Some("10.0.0.4:1".into()),
        http_addr: Some("10.0.0.4:2".into()),
        data_dir: Some("data/d".into()),
    };
    let config = Config::load_to_join(None, &joiner).unwrap();
    let own = Peer { node_id: "d".into(), raft_addr: "10.0.0.4:1".into(), http_addr: "10.0.0.4:2".into() };
    assert_eq!((config.peers, config.heartbeat_ms), (vec![own], Config::default().heartbeat_ms));
    // Of a file's peers only the own entry counts, and less than what is said on the command line.
    std::fs::write(&file, format!("{GOOD}heartbeat_ms: 20\n")).unwrap();
    let only_http = Joiner { http_addr: Some("10.0.0.1:2".into()), ..Joiner::default() };
    let config = Config::load_to_join(Some(&file), &only_http).unwrap();
    let own =
        Peer { node_id: "a".into(), raft_addr: "127.0.0.1:18081".into(), http_addr: "10.0.0.1:2".into() };
    assert_eq!((config.peers, config.heartbeat_ms), (vec![own], 20));
    for (joiner, says) in [
        (Joiner { node_id: None, ..joiner.clone() }, "--node-id: missing"),
        (Joiner { raft_addr: None, ..joiner.clone() }, "--raft-addr: missing"),
        (Joiner { http_addr: None, ..joiner.clone() }, "--http-addr: missing"),
        (Joiner { data_dir: None, ..joiner.clone() }, "--data-dir: missing"),
        (Joiner { node_id: Some("d d".into()), ..joiner.clone() }, "a name is"),
        (Joiner { raft_addr: Some("0.0.0.0:1".into()), ..joiner.clone() }, "others cannot reach it"),
    ] {
        let error = Config::load_to_join(None, &joiner).unwrap_err().to_string();
        assert!(error.starts_with("the command line: ") && error.contains(says), "{error}");
    }
}

#[test]
fn check_config_touches_nothing_and_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        std::fs::write(dir.path().join("x.yaml"), text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dkv-server"));
        command.args(["--config", "x.yaml", "--check-config"]).current_dir(dir.path()).output().unwrap()
    };
    assert_eq!(check(GOOD).status.code(), Some(0));
    assert_eq!(check(&format!("{GOOD}heartbeat_ms: 0\n")).status.code(), Some(2));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
