//! The YAML configuration of one node: every key with its unit, its default and what it changes, and the checks that
//! run before anything is touched.

mod check;

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::files::{Input, foreign_encoding};
use check::Refused;
pub use check::{is_advertisable, is_node_id, is_same_address};
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
    /// Every initial member, this one included. Counts at bootstrap only: afterwards the membership in the log wins.
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
    /// Seconds that a start waits for a port that is busy, an address that is not there, a name that does not resolve or a
    /// data directory that another process holds; then the node ends with 1. 0 = it does not wait.
    pub start_timeout_s: u64,
    /// Keeps the version that the members share where it is while this node leads, although all of them speak a later
    /// one: until it is raised, members can go back to the program before. Set it on every member for an upgrade.
    pub hold_version: bool,
    /// What a client may ask for at most.
    pub limits: Limits,
    /// Bytes of one log segment. A multiple of 4096; larger segments mean fewer files and longer zeroing in advance.
    pub segment_bytes: u64,
    /// Bytes of log on the disk after which the state is saved as a snapshot and the log before it goes. Twice as much log is
    /// kept; smaller values write the whole state more often.
    pub snapshot_log_bytes: u64,
    /// The same in entries.
    pub snapshot_log_entries: u64,
    /// How many revisions stay readable after the latest one. A setting of the cluster: counts at bootstrap only.
    pub retention_revisions: u64,
    /// Bytes of superseded versions that stay readable; the lower of both limits counts. At bootstrap only.
    pub retention_bytes: u64,
    /// Seconds for which the outcome of a write with an idempotency key is remembered. At bootstrap only.
    pub idempotency_window_s: u64,
    /// How many such outcomes are remembered; above it new keyed writes are refused as overloaded. At bootstrap only.
    pub idempotency_rows: u64,
    /// How many bytes such outcomes have together; above it, what a transaction read is not remembered. At bootstrap
    /// only.
    pub idempotency_bytes: u64,
    /// What is logged, and where.
    pub log: LogConfig,
    /// Switches for finding faults.
    pub debug: DebugConfig,
}

/// One initial member. Both addresses are advertised: the other members and the clients must be able to reach them.
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
    /// Comparisons, and operations of each list, of a transaction.
    pub max_txn_ops: usize,
    /// Client connections open at the same time; above it new ones are closed at once.
    pub max_connections: usize,
    /// Requests that may be inside the server at the same time; the rest waits a second and is refused then. Was called
    /// `upstream_connections`, which is still read.
    #[serde(alias = "upstream_connections")]
    pub max_requests_inside: usize,
    /// Requests that may wait for consensus at the same time, at most three quarters of `max_requests_inside`: the
    /// rest stays free for stale reads and probes.
    pub max_parked: usize,
    /// Answers that may be written at the same time to clients that take them slowly; above it they are dropped with
    /// their connections.
    pub max_slow_writers: usize,
    /// Watches of this node at the same time, each of many on one stream counted.
    pub max_watches: usize,
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
            start_timeout_s: 30,
            hold_version: false,
            limits: Limits::default(),
            segment_bytes: 16 << 20,
            snapshot_log_bytes: 64 << 20,
            snapshot_log_entries: 1_000_000,
            retention_revisions: 100_000,
            retention_bytes: 32 << 20,
            idempotency_window_s: 600,
            idempotency_rows: 1_000_000,
            idempotency_bytes: 64 << 20,
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
            max_txn_ops: 128,
            max_connections: 4_096,
            max_requests_inside: 512,
            max_parked: 384,
            max_slow_writers: 64,
            max_watches: 10_000,
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
        match Input::open(path).map_err(|e| whole(e.what))? {
            Input::Stdin => {
                return Err(whole(
                    "standard input is no configuration file: the next start could not read it again, and \
                     --exit-with-stdin watches it; save the configuration in a file and name that"
                        .to_owned(),
                ));
            }
            Input::Pipe(file) | Input::File(file) => file
                .take(MAX_FILE_BYTES + 1)
                .read_to_end(&mut bytes)
                .map_err(|e| whole(format!("cannot be read: {e}")))?,
        };
        if let Some(what) = foreign_encoding(&bytes) {
            return Err(whole(format!("{what}; save it as plain UTF-8 without a mark")));
        }
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
        self.check().map_err(|Refused { field, value, fix }| ConfigError {
            file: file.to_owned(),
            field,
            value,
            fix,
        })
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
}
