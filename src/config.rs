//! The YAML configuration of one node: every key with its unit, its default and what it changes, and the checks that
//! run before anything is touched.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A configuration file is refused above this size, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 << 10;

/// Most members a configuration may name.
pub const MAX_PEERS: usize = 15;

/// The configuration of one node. In a file `node_id`, `data_dir` and `peers` are required; everything else has the
/// default that `configs/sample.yaml` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default = "Config::blank")]
pub struct Config {
    /// This node's name, one of those in `peers`: 1 to 64 of `A-Z a-z 0-9 . _ -`. The data directory remembers it and
    /// refuses another.
    pub node_id: String,
    /// Where the log, the snapshots and the identity are kept. A relative path is relative to the current directory.
    pub data_dir: PathBuf,
    /// Every founding member, this one included. Counts at founding only: afterwards the membership in the log wins.
    pub peers: Vec<Peer>,
    /// Address to listen on for clients, `host:port`; null = `http_addr` of the own entry.
    pub listen_http: Option<String>,
    /// Address to listen on for the other members, `host:port`; null = `raft_addr` of the own entry.
    pub listen_raft: Option<String>,
    /// Milliseconds between a leader's heartbeats. At most a third of `election_timeout_ms`.
    pub heartbeat_ms: u64,
    /// Milliseconds without a leader before a node stands for election, drawn from once to twice this. Shorter means
    /// faster failover and more needless elections on a busy machine.
    pub election_timeout_ms: u64,
    /// Milliseconds a follower waits for its own disk before it answers an append without vouching for it; null =
    /// `heartbeat_ms`. At most a third of `election_timeout_ms`.
    pub append_hold_ms: Option<u64>,
    /// Milliseconds a disk write may take before a leader steps down and the node stops standing for election.
    pub disk_stall_ms: u64,
    /// Milliseconds a client's request may take before it is answered with a timeout.
    pub request_timeout_ms: u64,
    /// What a client may ask for at most.
    pub limits: Limits,
    /// Bytes of one log segment. A multiple of 4096; greater segments mean fewer files and longer zeroing ahead.
    pub segment_bytes: u64,
    /// Bytes of log on the disk after which the state is saved as a snapshot and the log before it goes. Twice as much log is
    /// kept; smaller values write the whole state more often.
    pub snapshot_log_bytes: u64,
    /// The same in entries.
    pub snapshot_log_entries: u64,
    /// How many revisions stay readable behind the latest one. A setting of the cluster: counts at founding only.
    pub retention_revisions: u64,
    /// Bytes of superseded versions that stay readable; the lower of both limits counts. At founding only.
    pub retention_bytes: u64,
    /// Seconds for which the outcome of a write with an idempotency key is remembered. At founding only.
    pub idempotency_window_s: u64,
    /// How many such outcomes are remembered; above it new keyed writes are refused as overloaded. At founding only.
    pub idempotency_rows: u64,
    /// What is logged, and where.
    pub log: LogConfig,
    /// Switches for finding faults.
    pub debug: DebugConfig,
}

/// One founding member. Both addresses are advertised: the other members and the clients must be able to reach them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its name.
    pub node_id: String,
    /// Where the other members reach it, `host:port`.
    pub raft_addr: String,
    /// Where clients reach it, `host:port`.
    pub http_addr: String,
}

/// What a command line says of a node that joins a cluster; the rest comes from its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joiner {
    /// Its name.
    pub node_id: Option<String>,
    /// Where the members reach it, `host:port`.
    pub raft_addr: Option<String>,
    /// Where clients reach it, `host:port`.
    pub http_addr: Option<String>,
    /// Where it keeps its data.
    pub data_dir: Option<PathBuf>,
}

/// Limits on requests, checked before anything is proposed, and on connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of a key.
    pub max_key_bytes: usize,
    /// Bytes of a value.
    pub max_value_bytes: usize,
    /// Bytes of a request's body.
    pub max_request_bytes: usize,
    /// Client connections open at the same time; above it new ones are closed at once.
    pub max_connections: usize,
    /// Requests that may be inside the server at the same time; halved, down to 64, when descriptors are short.
    pub upstream_connections: usize,
    /// Requests that may wait for consensus at the same time, at most three quarters of `upstream_connections`: the
    /// rest stays free for stale reads and probes.
    pub max_parked: usize,
    /// Milliseconds a connection may be silent between two requests before it is closed.
    pub idle_timeout_ms: u64,
    /// Milliseconds in which a request's head and body must arrive and its answer be taken.
    pub transfer_timeout_ms: u64,
}

/// What is logged, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// The least serious level that is logged.
    pub level: LogLevel,
    /// File the lines are appended to; null = standard error.
    pub file: Option<PathBuf>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What ends the node or loses a request.
    Error,
    /// What an operator should look at.
    Warn,
    /// Elections, members, start and stop.
    Info,
    /// Each decision of the core.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Every level, from the least to the most that is logged.
    pub const ALL: [LogLevel; 6] =
        [LogLevel::Off, LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];

    /// Its name, as in a configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogLevel::Off => "off",
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }

    /// The level of that name.
    pub fn from_name(name: &str) -> Option<LogLevel> {
        LogLevel::ALL.into_iter().find(|level| level.as_str() == name)
    }
}

/// Switches for finding faults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DebugConfig {
    /// Checks the core's invariants after every step and ends the process when one is broken. Costs throughput.
    pub check_invariants: bool,
}

impl Default for Config {
    /// A one-node store: node1 on 127.0.0.1:8081 with its data in `./data/single`.
    fn default() -> Config {
        Config {
            node_id: "node1".to_owned(),
            data_dir: PathBuf::from("data/single"),
            peers: vec![Peer {
                node_id: "node1".to_owned(),
                raft_addr: "127.0.0.1:18081".to_owned(),
                http_addr: "127.0.0.1:8081".to_owned(),
            }],
            listen_http: None,
            listen_raft: None,
            heartbeat_ms: 50,
            election_timeout_ms: 300,
            append_hold_ms: None,
            disk_stall_ms: 2_000,
            request_timeout_ms: 5_000,
            limits: Limits::default(),
            segment_bytes: 16 << 20,
            snapshot_log_bytes: 64 << 20,
            snapshot_log_entries: 1_000_000,
            retention_revisions: 100_000,
            retention_bytes: 32 << 20,
            idempotency_window_s: 600,
            idempotency_rows: 1_000_000,
            log: LogConfig::default(),
            debug: DebugConfig::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_key_bytes: 4 << 10,
            max_value_bytes: 1 << 20,
            max_request_bytes: 1536 << 10,
            max_connections: 4_096,
            upstream_connections: 512,
            max_parked: 384,
            idle_timeout_ms: 60_000,
            transfer_timeout_ms: 10_000,
        }
    }
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { level: LogLevel::Info, file: None }
    }
}

#[expect(clippy::derivable_impls, reason = "every default of the configuration is written down here")]
impl Default for DebugConfig {
    fn default() -> DebugConfig {
        DebugConfig { check_invariants: false }
    }
}

/// Why a configuration is refused: one line that names file, field, value and fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// The key, with its parents: `limits.max_key_bytes`; empty when the file as a whole is meant.
    pub field: String,
    /// What it holds.
    pub value: String,
    /// What is wrong, and what to write instead.
    pub fix: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file)?;
        if !self.field.is_empty() {
            write!(f, "{}: {}: ", self.field, self.value)?;
        }
        f.write_str(&self.fix)
    }
}

impl std::error::Error for ConfigError {}

/// A field that is refused; the file is added by whoever knows it.
struct Refused {
    field: String,
    value: String,
    fix: String,
}

fn refuse<T>(
    field: impl Into<String>,
    value: impl fmt::Display,
    fix: impl Into<String>,
) -> Result<T, Refused> {
    Err(Refused { field: field.into(), value: value.to_string(), fix: fix.into() })
}

impl Config {
    /// What a file starts from: the defaults, without the three keys that a file must have.
    fn blank() -> Config {
        Config { node_id: String::new(), data_dir: PathBuf::new(), peers: Vec::new(), ..Config::default() }
    }

    /// Reads and checks a file. Touches nothing but the file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Config::read(path)?.checked(&path.display().to_string())
    }

    /// The configuration of a node that joins a cluster: of a file, if there is one, with what the command line says in
    /// the place of what the file says. `peers` has the own entry and nobody else.
    pub fn load_to_join(path: Option<&Path>, joiner: &Joiner) -> Result<Config, ConfigError> {
        let (mut config, file) = match path {
            Some(path) => (Config::read(path)?, path.display().to_string()),
            None => (Config::blank(), "the command line".to_owned()),
        };
        let mut own = Peer { node_id: String::new(), raft_addr: String::new(), http_addr: String::new() };
        config.node_id = joiner.node_id.clone().unwrap_or(config.node_id);
        config.data_dir = joiner.data_dir.clone().unwrap_or(config.data_dir);
        if let Some(listed) = config.peers.iter().find(|p| p.node_id == config.node_id) {
            own.clone_from(listed);
        }
        own.node_id.clone_from(&config.node_id);
        own.raft_addr = joiner.raft_addr.clone().unwrap_or(own.raft_addr);
        own.http_addr = joiner.http_addr.clone().unwrap_or(own.http_addr);
        for (option, value) in [
            ("--node-id", &own.node_id),
            ("--raft-addr", &own.raft_addr),
            ("--http-addr", &own.http_addr),
            ("--data-dir", &config.data_dir.display().to_string()),
        ] {
            if value.is_empty() {
                let fix = format!("a node that joins needs it: give {option}, or the file that says it");
                return Err(ConfigError { file, field: option.to_owned(), value: "missing".to_owned(), fix });
            }
        }
        config.peers = vec![own];
        config.checked(&file)
    }

    /// A file as it is.
    fn read(path: &Path) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        let whole =
            |fix: String| ConfigError { file: file.clone(), field: String::new(), value: String::new(), fix };
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|f| f.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|e| whole(format!("cannot be read: {e}")))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(whole(format!(
                "is longer than {MAX_FILE_BYTES} bytes: not a configuration file of dkv"
            )));
        }
        let text = String::from_utf8(bytes).map_err(|e| whole(format!("is not UTF-8 text: {e}")))?;
        Config::parse_unchecked(&text, &file)
    }

    /// Parses and checks the text of a configuration; `file` is what errors call it.
    pub fn parse(text: &str, file: &str) -> Result<Config, ConfigError> {
        Config::parse_unchecked(text, file)?.checked(file)
    }

    fn parse_unchecked(text: &str, file: &str) -> Result<Config, ConfigError> {
        serde_yaml::from_str(text).map_err(|e| ConfigError {
            file: file.to_owned(),
            field: String::new(),
            value: String::new(),
            fix: format!("{}; configs/sample.yaml shows every key", e.to_string().replace('\n', " ")),
        })
    }

    fn checked(self, file: &str) -> Result<Config, ConfigError> {
        self.validate(file)?;
        Ok(self)
    }

    /// Checks everything that can be checked without touching disk or network; `file` is what errors call it.
    pub fn validate(&self, file: &str) -> Result<(), ConfigError> {
        self.check_names()
            .and_then(|()| self.check_addresses())
            .and_then(|()| self.check_timers())
            .and_then(|()| self.check_sizes())
            .and_then(|()| self.limits.check())
            .map_err(|Refused { field, value, fix }| ConfigError { file: file.to_owned(), field, value, fix })
    }

    /// The own entry of `peers`. Panics when there is none, which `validate` refuses.
    pub fn me(&self) -> &Peer {
        self.peers.iter().find(|p| p.node_id == self.node_id).expect("validate() found the own entry")
    }

    /// Where to listen for clients.
    pub fn listen_http(&self) -> &str {
        self.listen_http.as_deref().unwrap_or(&self.me().http_addr)
    }

    /// Where to listen for the other members.
    pub fn listen_raft(&self) -> &str {
        self.listen_raft.as_deref().unwrap_or(&self.me().raft_addr)
    }

    /// How long a follower holds an append for its disk, in milliseconds.
    pub fn append_hold_ms(&self) -> u64 {
        self.append_hold_ms.unwrap_or(self.heartbeat_ms)
    }

    fn check_names(&self) -> Result<(), Refused> {
        if self.node_id.is_empty() {
            return refuse(
                "node_id",
                "missing",
                "name this node as in its entry of peers, for example node1",
            );
        }
        if self.data_dir.as_os_str().is_empty() {
            return refuse(
                "data_dir",
                "missing",
                "name a directory for this node alone, for example data/node1",
            );
        }
        if self.peers.is_empty() {
            return refuse("peers", "none", "list every founding member, this one included");
        }
        if self.peers.len() > MAX_PEERS {
            return refuse(
                "peers",
                self.peers.len(),
                format!("at most {MAX_PEERS} members; 3 or 5 are usual"),
            );
        }
        for (i, peer) in self.peers.iter().enumerate() {
            if !is_node_id(&peer.node_id) {
                let fix = "a name is 1 to 64 of A-Z a-z 0-9 . _ -";
                return refuse(format!("peers[{i}].node_id"), format!("{:?}", peer.node_id), fix);
            }
            if let Some(first) = self.peers[..i].iter().position(|p| p.node_id == peer.node_id) {
                let fix = format!("peers[{first}] has the same name; give each member its own");
                return refuse(format!("peers[{i}].node_id"), &peer.node_id, fix);
            }
        }
        if !self.peers.iter().any(|p| p.node_id == self.node_id) {
            let names: Vec<&str> = self.peers.iter().map(|p| p.node_id.as_str()).collect();
            let fix = format!("not among peers ({}); add its entry or correct the name", names.join(", "));
            return refuse("node_id", &self.node_id, fix);
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), Refused> {
        let mut seen: Vec<(String, &str)> = Vec::new();
        for (i, peer) in self.peers.iter().enumerate() {
            for (name, addr) in [("raft_addr", &peer.raft_addr), ("http_addr", &peer.http_addr)] {
                let field = format!("peers[{i}].{name}");
                check_address(&field, addr)?;
                if is_unspecified(addr) {
                    let fix = "others cannot reach it; advertise an address of this machine and put this one into \
                               listen_http or listen_raft";
                    return refuse(field, addr, fix);
                }
                if let Some((first, _)) = seen.iter().find(|(_, a)| a == addr) {
                    return refuse(
                        field,
                        addr,
                        format!("{first} has the same address; every port needs its own"),
                    );
                }
                seen.push((field, addr));
            }
        }
        for (name, addr) in [("listen_http", &self.listen_http), ("listen_raft", &self.listen_raft)] {
            if let Some(addr) = addr {
                check_address(name, addr)?;
            }
        }
        if self.listen_http() == self.listen_raft() {
            let fix = "clients and members need a port each; change one of listen_http and listen_raft";
            return refuse("listen_http", self.listen_http(), fix);
        }
        Ok(())
    }

    fn check_timers(&self) -> Result<(), Refused> {
        check_range("election_timeout_ms", self.election_timeout_ms, 15, 60_000)?;
        let third = self.election_timeout_ms / 3;
        let advice =
            format!("at most a third of election_timeout_ms ({}); {third} or less", self.election_timeout_ms);
        check_range("heartbeat_ms", self.heartbeat_ms, 1, u64::MAX)?;
        if self.heartbeat_ms > third {
            return refuse("heartbeat_ms", self.heartbeat_ms, advice);
        }
        if let Some(hold) = self.append_hold_ms {
            check_range("append_hold_ms", hold, 1, u64::MAX)?;
            if hold > third {
                return refuse("append_hold_ms", hold, advice);
            }
        }
        // At 30 s the node ends: a stall must be noticed before, and not before an election could even be over.
        check_range("disk_stall_ms", self.disk_stall_ms, self.election_timeout_ms.min(30_000), 30_000)?;
        check_range("request_timeout_ms", self.request_timeout_ms, 100, 600_000)
    }

    fn check_sizes(&self) -> Result<(), Refused> {
        check_range("segment_bytes", self.segment_bytes, 64 << 10, 1 << 30)?;
        check_range("snapshot_log_bytes", self.snapshot_log_bytes, 4 << 10, 1 << 40)?;
        check_range("snapshot_log_entries", self.snapshot_log_entries, 1, 1 << 40)?;
        if !self.segment_bytes.is_multiple_of(4096) {
            let near = self.segment_bytes.next_multiple_of(4096);
            return refuse(
                "segment_bytes",
                self.segment_bytes,
                format!("a multiple of 4096; {near} for example"),
            );
        }
        check_range("retention_revisions", self.retention_revisions, 1, 1_000_000_000)?;
        check_range("retention_bytes", self.retention_bytes, 1, 1 << 40)?;
        check_range("idempotency_window_s", self.idempotency_window_s, 60, 7 * 86_400)?;
        check_range("idempotency_rows", self.idempotency_rows, 1, 100_000_000)
    }
}

impl Limits {
    fn check(&self) -> Result<(), Refused> {
        // A key of 8 KiB escapes to 24 KiB, which a request head of 32 KiB still holds.
        check_range("limits.max_key_bytes", self.max_key_bytes as u64, 1, 8 << 10)?;
        // Key and value travel in one log entry, whose payload is at most 4 MiB.
        check_range("limits.max_value_bytes", self.max_value_bytes as u64, 1, 3 << 20)?;
        check_range("limits.max_request_bytes", self.max_request_bytes as u64, 1, 16 << 20)?;
        if self.max_request_bytes < self.max_value_bytes {
            let fix =
                format!("a request carries a value: at least max_value_bytes ({})", self.max_value_bytes);
            return refuse("limits.max_request_bytes", self.max_request_bytes, fix);
        }
        check_range("limits.max_connections", self.max_connections as u64, 1, 1_000_000)?;
        check_range("limits.upstream_connections", self.upstream_connections as u64, 64, 4_096)?;
        let most = self.upstream_connections as u64 / 4 * 3;
        check_range("limits.max_parked", self.max_parked as u64, 1, most)?;
        check_range("limits.idle_timeout_ms", self.idle_timeout_ms, 1_000, 3_600_000)?;
        check_range("limits.transfer_timeout_ms", self.transfer_timeout_ms, 100, 600_000)
    }
}

fn check_range(field: &str, value: u64, least: u64, most: u64) -> Result<(), Refused> {
    if value < least {
        return refuse(field, value, format!("at least {least}"));
    }
    if value > most {
        return refuse(field, value, format!("at most {most}"));
    }
    Ok(())
}

/// The host and port of `host:port`, with an IPv6 host in brackets.
fn split_address(addr: &str) -> Option<(&str, u16)> {
    let (host, port) = addr.rsplit_once(':')?;
    if port.is_empty() || port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let port: u16 = port.parse().ok().filter(|p| *p != 0)?;
    let ok = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host(host),
    };
    ok.then_some((host, port))
}

/// Whether `host` is an IPv4 address or may be a name. All digits and dots must be an address: `127.0.0.` and
/// `300.0.0.1` are slips, not names.
fn is_host(host: &str) -> bool {
    let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(name) {
        return false;
    }
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return host.parse::<std::net::Ipv4Addr>().is_ok();
    }
    host.split('.').all(|label| !label.is_empty())
}

fn check_address(field: &str, addr: &str) -> Result<(), Refused> {
    match split_address(addr) {
        Some(_) => Ok(()),
        None => refuse(
            field,
            format!("{addr:?}"),
            "write host:port with a port of 1 to 65535, like 127.0.0.1:8081",
        ),
    }
}

/// Whether a node may have this name: 1 to 64 of `A-Z a-z 0-9 . _ -`.
pub fn is_node_id(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(ok)
}

/// Whether others may be told to reach a node at `addr`: `host:port` of a certain host.
pub fn is_advertisable(addr: &str) -> bool {
    split_address(addr).is_some() && !is_unspecified(addr)
}

fn is_unspecified(addr: &str) -> bool {
    addr.parse::<std::net::SocketAddr>().is_ok_and(|a| a.ip().is_unspecified())
}
