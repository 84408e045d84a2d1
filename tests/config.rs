//! The configuration files that are shipped, and every kind of bad one.

use std::path::{Path, PathBuf};

use dkv::config::{Config, MAX_FILE_BYTES};

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

#[test]
fn parse_refuses_a_bad_value_and_says_field_value_and_fix() {
    // An added line, and what the error must say.
    let cases = [
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
    ];
    for (line, says) in cases {
        let error = refused(&format!("{GOOD}{line}\n"));
        assert!(error.contains(says), "{line}: {error}");
    }
}

#[test]
fn parse_refuses_bad_members() {
    // Text to replace in the good file, its replacement, and what the error must say.
    let cases = [
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
    for (old, new, says) in cases {
        assert!(GOOD.contains(old), "{old}");
        let error = refused(&GOOD.replace(old, new));
        assert!(error.contains(says), "{new}: {error}");
    }
    assert!(
        refused("node_id: a\ndata_dir: d\npeers: []\n").contains("peers: none: list every founding member")
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
    assert!(says(dir.path()).contains("cannot be read"));
    let big = dir.path().join("big.yaml");
    std::fs::write(&big, vec![b'#'; MAX_FILE_BYTES as usize + 1]).unwrap();
    assert!(says(&big).contains("is longer than 65536 bytes"));
    std::fs::write(&big, [0xff, 0xfe]).unwrap();
    assert!(says(&big).contains("is not UTF-8"));
}
