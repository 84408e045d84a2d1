//! The client API's JSON types, header names and error codes, version 1. Server and client share this file, so that
//! each code exists once, with its status and with what it says about the request.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Response header: the leader's client address, when one is known. On every answer.
pub const LEADER_HEADER: &str = "Dkv-Leader";
/// Response header: the name of the node that answered. On every answer.
pub const NODE_HEADER: &str = "Dkv-Node";
/// Response header: the log index of a write, or the applied index a read was served at.
pub const INDEX_HEADER: &str = "Dkv-Index";
/// Response header, `true`: this is the stored outcome of an earlier request with the same idempotency key.
pub const REPLAYED_HEADER: &str = "Dkv-Replayed";
/// Response header of a read: the revision that the answer shows: the one asked for, else the store's.
pub const REVISION_HEADER: &str = "Dkv-Revision";
/// Response header of a single-key read: the revision that created the key.
pub const CREATE_REVISION_HEADER: &str = "Dkv-Create-Revision";
/// Response header of a single-key read: how often the key was written since it was created.
pub const VERSION_HEADER: &str = "Dkv-Version";
/// Response header of a piece of a snapshot: the length of the whole file.
pub const SNAPSHOT_BYTES_HEADER: &str = "Dkv-Snapshot-Bytes";
/// Response header of a piece of a snapshot: the checksum at the end of the file, 8 hexadecimal digits.
pub const SNAPSHOT_CRC_HEADER: &str = "Dkv-Snapshot-Crc32c";
/// Request header of a write: the name under which its outcome is remembered.
pub const IDEMPOTENCY_KEY_HEADER: &str = "Idempotency-Key";

/// Longest idempotency key, in characters.
pub const MAX_IDEMPOTENCY_KEY: usize = 64;

/// Whether `text` may be an idempotency key: 1 to 64 of `A-Z a-z 0-9 . _ ~ -`.
pub fn is_idempotency_key(text: &str) -> bool {
    (1..=MAX_IDEMPOTENCY_KEY).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-'))
}

/// What an error says about the write it answers. There is no third kind: a write that is done is not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorOutcome {
    /// It did not happen and never will.
    NotDone,
    /// It may have happened, or may still happen: only a retry with the same idempotency key can tell.
    Unknown,
}

/// Why a request was not served. In JSON the name in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is malformed: 400; 408 when its body stalled, 411 without a length, 505 for another HTTP version.
    InvalidRequest,
    /// The revision asked for has not been reached.
    FutureRevision,
    /// This client may not do that.
    Forbidden,
    /// No such route.
    UnknownRoute,
    /// No such key, or no such member.
    NotFound,
    /// The route exists, but not with this method.
    MethodNotAllowed,
    /// The cluster is in no state to do it, or it contradicts what is so: the message says what. `temporary` says whether
    /// the same request may succeed later.
    Conflict,
    /// The revision asked for is below the compaction floor.
    Compacted,
    /// The condition does not hold; the body says the current `mod_revision`.
    PreconditionFailed,
    /// Key, value or body above its limit: 413; 431 for the head.
    TooLarge,
    /// The idempotency key was used before for another request.
    IdempotencyMismatch,
    /// Too much is waiting: come back after `Retry-After` seconds.
    Overloaded,
    /// No leader or no quorum.
    Unavailable,
    /// A read met its deadline.
    Timeout,
    /// A write met its deadline, or its leader stepped down, after it was proposed.
    OutcomeUnknown,
    /// A fault of the server.
    Internal,
}

impl ErrorCode {
    /// Every code, in the order of the table in the API's documentation.
    pub const ALL: [ErrorCode; 16] = [
        ErrorCode::InvalidRequest,
        ErrorCode::FutureRevision,
        ErrorCode::Forbidden,
        ErrorCode::UnknownRoute,
        ErrorCode::NotFound,
        ErrorCode::MethodNotAllowed,
        ErrorCode::Conflict,
        ErrorCode::Compacted,
        ErrorCode::PreconditionFailed,
        ErrorCode::TooLarge,
        ErrorCode::IdempotencyMismatch,
        ErrorCode::Overloaded,
        ErrorCode::Unavailable,
        ErrorCode::Timeout,
        ErrorCode::OutcomeUnknown,
        ErrorCode::Internal,
    ];

    /// The HTTP statuses it is sent with; the first is the usual one.
    pub const fn statuses(self) -> &'static [u16] {
        match self {
            ErrorCode::InvalidRequest => &[400, 408, 411, 505],
            ErrorCode::FutureRevision => &[400],
            ErrorCode::Forbidden => &[403],
            ErrorCode::UnknownRoute | ErrorCode::NotFound => &[404],
            ErrorCode::MethodNotAllowed => &[405],
            ErrorCode::Conflict => &[409],
            ErrorCode::Compacted => &[410],
            ErrorCode::PreconditionFailed => &[412],
            ErrorCode::TooLarge => &[413, 431],
            ErrorCode::IdempotencyMismatch => &[422],
            ErrorCode::Overloaded | ErrorCode::Unavailable => &[503],
            ErrorCode::Timeout | ErrorCode::OutcomeUnknown => &[504],
            ErrorCode::Internal => &[500],
        }
    }

    /// The usual HTTP status.
    pub const fn status(self) -> u16 {
        self.statuses()[0]
    }

    /// What it says about a write unless the server knows better. 503 means not done; 504 on a write means unknown.
    pub const fn outcome(self) -> ErrorOutcome {
        match self {
            ErrorCode::OutcomeUnknown | ErrorCode::Internal => ErrorOutcome::Unknown,
            _ => ErrorOutcome::NotDone,
        }
    }

    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCode::InvalidRequest => "invalid_request",
            ErrorCode::FutureRevision => "future_revision",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::UnknownRoute => "unknown_route",
            ErrorCode::NotFound => "not_found",
            ErrorCode::MethodNotAllowed => "method_not_allowed",
            ErrorCode::Conflict => "conflict",
            ErrorCode::Compacted => "compacted",
            ErrorCode::PreconditionFailed => "precondition_failed",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::IdempotencyMismatch => "idempotency_mismatch",
            ErrorCode::Overloaded => "overloaded",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::Timeout => "timeout",
            ErrorCode::OutcomeUnknown => "outcome_unknown",
            ErrorCode::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body of every error answer: `{"error":{"code","message","outcome"}}`, with a few more fields where they help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What went wrong, for programs (`code`, `outcome`) and for people (`message`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// Why the request was not served.
    pub code: ErrorCode,
    /// One sentence for people, saying what to do where that is possible.
    pub message: String,
    /// Whether the write is surely not done.
    pub outcome: ErrorOutcome,
    /// `precondition_failed`: the key's current modification revision, 0 when the key is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mod_revision: Option<u64>,
    /// `future_revision` and `precondition_failed`: the store's revision; `compacted`: the oldest one still readable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The leader, when one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderRef>,
    /// `conflict`: it passes by itself, or by what the message says, and then the same request may succeed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub temporary: bool,
}

impl ErrorBody {
    /// An error with its code's usual outcome.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ErrorBody {
        let message = message.into();
        let error = ErrorDetail {
            code,
            message,
            outcome: code.outcome(),
            mod_revision: None,
            revision: None,
            leader: None,
            temporary: false,
        };
        ErrorBody { error }
    }

    /// The same error with another outcome: a read that met an internal fault, for instance, is `not_done`.
    pub fn with_outcome(mut self, outcome: ErrorOutcome) -> ErrorBody {
        self.error.outcome = outcome;
        self
    }

    /// The same error with the key's current modification revision, 0 when the key is absent.
    pub fn with_mod_revision(mut self, mod_revision: u64) -> ErrorBody {
        self.error.mod_revision = Some(mod_revision);
        self
    }

    /// The same error with the revision that explains it.
    pub fn with_revision(mut self, revision: u64) -> ErrorBody {
        self.error.revision = Some(revision);
        self
    }

    /// The same error, which passes.
    pub fn as_temporary(mut self) -> ErrorBody {
        self.error.temporary = true;
        self
    }

    /// The same error with the leader.
    pub fn with_leader(mut self, leader: Option<LeaderRef>) -> ErrorBody {
        self.error.leader = leader;
        self
    }
}

/// Answer of `PUT /v1/kv/{key}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutReply {
    /// The store's revision after this write; also the key's modification revision.
    pub revision: u64,
    /// The revision that created the key.
    pub create_revision: u64,
    /// 1 for the write that created the key, then one more for each.
    pub version: u64,
}

/// Answer of `DELETE /v1/kv/{key}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteReply {
    /// The store's revision after the request.
    pub revision: u64,
    /// How many keys it removed: 0 when the key was absent, which changes nothing.
    pub deleted: u64,
}

/// Answer of `PUT /v1/log-level`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevelReply {
    /// The level from now on: `off`, `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

/// Where the leader is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRef {
    /// Its name.
    pub node_id: String,
    /// Its client address, `host:port`.
    pub http_addr: String,
}

/// Answer of `GET /v1/cluster`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReply {
    /// 16 hexadecimal digits; null until the cluster is founded.
    pub cluster_id: Option<String>,
    /// The answering node's term.
    pub term: u64,
    /// The leader it knows of.
    pub leader: Option<LeaderRef>,
    /// The members, sorted by name. Before founding, those of the configuration file.
    pub members: Vec<MemberInfo>,
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its name.
    pub node_id: String,
    /// Its Raft identity, 16 hexadecimal digits; null while it is not known.
    pub member_id: Option<String>,
    /// Where the other members reach it, `host:port`.
    pub raft_addr: String,
    /// Where clients reach it, `host:port`.
    pub http_addr: String,
    /// Whether it votes. A learner holds the same data, but counts for no majority.
    pub voter: bool,
    /// Whether a learner becomes a voter by itself, once it has caught up.
    #[serde(default, skip_serializing_if = "is_false")]
    pub promote: bool,
}

/// Answer of `GET /v1/cluster/members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersReply {
    /// The members as the answering node knows them, sorted by name.
    pub members: Vec<MemberInfo>,
}

/// Body of `POST /v1/cluster/members`: a new member, as a learner at first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    /// Its name: 1 to 64 of `A-Z a-z 0-9 . _ -`, and no other member's.
    pub node_id: String,
    /// Its Raft identity, 16 hexadecimal digits; without it the node at `raft_addr` is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<String>,
    /// Where the other members reach it, `host:port`.
    pub raft_addr: String,
    /// Where clients reach it, `host:port`.
    pub http_addr: String,
    /// Whether it becomes a voter by itself, once it has caught up; otherwise it stays a learner.
    #[serde(default = "yes")]
    pub promote: bool,
}

/// Answer of every change of the members: it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeReply {
    /// Log index of the entry that made the members what was asked for; an earlier one when they were so already.
    pub index: u64,
}

/// Body of `POST /v1/cluster/leader`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOverRequest {
    /// Who is to lead; without it the voter whose log has come furthest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
}

/// Answer of `POST /v1/cluster/leader`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOverReply {
    /// Who leads now.
    pub leader: LeaderRef,
}

/// Most bytes of one piece of a snapshot.
pub const MAX_SNAPSHOT_PIECE: usize = 1 << 20;

/// Answer of `POST /v1/snapshots`: a snapshot that holds everything that was acknowledged before the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReply {
    /// Its name: `GET /v1/snapshots/{name}` brings its bytes.
    pub name: String,
    /// Log index of the last entry in it.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// 16 hexadecimal digits.
    pub cluster_id: String,
    /// The store's revision in it.
    pub revision: u64,
    /// Keys that exist in it.
    pub keys: u64,
    /// Length of the file.
    pub bytes: u64,
    /// The checksum at the end of the file, of everything before: 8 hexadecimal digits.
    pub crc32c: String,
    /// The hash of the state in it, 32 hexadecimal digits.
    pub state_hash: String,
}

/// A snapshot that a node has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its name.
    pub name: String,
    /// Log index of the last entry in it.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Length of the file.
    pub bytes: u64,
}

/// Answer of `GET /v1/snapshots`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotsReply {
    /// Those that the answering node has, the newest first.
    pub snapshots: Vec<SnapshotInfo>,
}

/// A key with its value as a line of an export: the JSON of a [`Record`], whose revisions may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

impl<'de> Deserialize<'de> for KeyValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeyValue, D::Error> {
        let json = KeyValueJson::deserialize(deserializer)?;
        Ok(KeyValue {
            key: bytes_of("key", json.key, json.key_base64).map_err(D::Error::custom)?,
            value: bytes_of("value", json.value, json.value_base64).map_err(D::Error::custom)?,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyValueJson<'a> {
    key: Option<Cow<'a, str>>,
    key_base64: Option<Cow<'a, str>>,
    value: Option<Cow<'a, str>>,
    value_base64: Option<Cow<'a, str>>,
    #[serde(default, rename = "create_revision")]
    _create_revision: u64,
    #[serde(default, rename = "mod_revision")]
    _mod_revision: u64,
    #[serde(default, rename = "version")]
    _version: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

fn yes() -> bool {
    true
}

/// What a node is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleName {
    /// It has no log yet: the cluster is being founded.
    Unborn,
    /// It follows a leader, or waits for one.
    Follower,
    /// It asks whether an election could succeed.
    PreCandidate,
    /// It stands for election.
    Candidate,
    /// It leads.
    Leader,
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RoleName::Unborn => "unborn",
            RoleName::Follower => "follower",
            RoleName::PreCandidate => "pre_candidate",
            RoleName::Candidate => "candidate",
            RoleName::Leader => "leader",
        })
    }
}

/// Answer of `GET /v1/status`: the answering node as it sees itself. All indexes are log indexes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// Its name.
    pub node_id: String,
    /// Its Raft identity, 16 hexadecimal digits.
    pub member_id: String,
    /// 16 hexadecimal digits; null until the cluster is founded.
    pub cluster_id: Option<String>,
    /// What it is at the moment.
    pub role: RoleName,
    /// Its term.
    pub term: u64,
    /// The leader it knows of.
    pub leader: Option<LeaderRef>,
    /// Greatest index it knows to be committed.
    pub commit: u64,
    /// Last index fed to its map.
    pub applied: u64,
    /// Last index that is durable on its own disk.
    pub persisted: u64,
    /// Last index of its log.
    pub last: u64,
    /// Revision of its map.
    pub revision: u64,
    /// Oldest revision it can still read.
    pub floor: u64,
    /// Hash of the logical state at `applied`, hexadecimal: equal on every node with equal `applied`.
    pub state_hash: String,
    /// How long the process runs, in milliseconds.
    pub uptime_ms: u64,
    /// Version of the program.
    pub version: String,
    /// The other members as a leader sees them; on other roles `match_index`, `lag` and `reachable` are null.
    pub peers: Vec<PeerStatus>,
}

/// One other member, as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub node_id: String,
    /// Its Raft identity, 16 hexadecimal digits.
    pub member_id: String,
    /// Whether it votes; otherwise it is a learner.
    #[serde(default)]
    pub voter: bool,
    /// How the leader brings it up to date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<PeerMode>,
    /// Greatest index known to be durable there.
    pub match_index: Option<u64>,
    /// How many entries it is behind the end of the leader's log.
    pub lag: Option<u64>,
    /// Whether it answered within the last election timeout.
    pub reachable: Option<bool>,
    /// It rejected what it had acknowledged as durable: it lost data and gets nothing more. Replace that member.
    #[serde(default)]
    pub has_lost_entries: bool,
}

/// How a leader brings a peer up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerMode {
    /// It looks for the last entry that both have, one at a time.
    Probe,
    /// It sends what is appended.
    Replicate,
    /// It sends a snapshot, since the entries are not kept any more.
    Snapshot,
    /// It sends nothing: that peer lost what it had acknowledged.
    Lost,
}

/// One key with its value. In JSON key and value are text where they are UTF-8, else `key_base64` / `value_base64`;
/// exactly one of each pair is present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision of the last write to it.
    pub mod_revision: u64,
    /// 1 for the write that created the key, then one more for each.
    pub version: u64,
}

/// Most rows of one page of `GET /v1/kv`.
pub const MAX_LIST_LIMIT: u32 = 10_000;
/// Rows of one page of `GET /v1/kv` when the request does not say.
pub const DEFAULT_LIST_LIMIT: u32 = 1_000;
/// Most bytes of one page of `GET /v1/kv`, as JSON; a single larger row is a page of its own.
pub const MAX_LIST_BYTES: usize = 4 << 20;

/// Answer of `GET /v1/kv`: one page of the keys in a range, in byte order of the keys, all at one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListReply {
    /// The revision that the answer shows; every page of a listing has the same.
    pub revision: u64,
    /// With `count_only` how many keys the whole range has at that revision; otherwise how many rows this page has.
    pub count: u64,
    /// The rows; none with `count_only`.
    pub kvs: Vec<ListedRecord>,
    /// Present when there is more: the same request with `cursor=` this brings the next page, from any node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A row of a list: a [`Record`] that has no value when only keys were asked for. The same JSON, without `value` and
/// `value_base64` then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRecord {
    /// The key.
    pub key: Vec<u8>,
    /// The value; None with `keys_only`.
    pub value: Option<Vec<u8>>,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision of the last write to it.
    pub mod_revision: u64,
    /// 1 for the write that created the key, then one more for each.
    pub version: u64,
}

impl Serialize for ListedRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (key, key_base64) = text_or_base64(&self.key);
        let (value, value_base64) = self.value.as_deref().map_or((None, None), text_or_base64);
        let ListedRecord { create_revision, mod_revision, version, .. } = *self;
        RecordJson { key, key_base64, value, value_base64, create_revision, mod_revision, version }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ListedRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ListedRecord, D::Error> {
        let json = RecordJson::deserialize(deserializer)?;
        let value = match (json.value, json.value_base64) {
            (None, None) => None,
            (text, base64) => Some(bytes_of("value", text, base64).map_err(D::Error::custom)?),
        };
        Ok(ListedRecord {
            key: bytes_of("key", json.key, json.key_base64).map_err(D::Error::custom)?,
            value,
            create_revision: json.create_revision,
            mod_revision: json.mod_revision,
            version: json.version,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct RecordJson<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<Cow<'a, str>>,
    create_revision: u64,
    mod_revision: u64,
    version: u64,
}

/// The text form of `bytes`: plain when they are UTF-8, else base64.
fn text_or_base64(bytes: &[u8]) -> (Option<Cow<'_, str>>, Option<Cow<'_, str>>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(Cow::Borrowed(text)), None),
        Err(_) => (None, Some(Cow::Owned(BASE64.encode(bytes)))),
    }
}

fn bytes_of(name: &str, text: Option<Cow<'_, str>>, base64: Option<Cow<'_, str>>) -> Result<Vec<u8>, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_owned().into_bytes()),
        (None, Some(base64)) => {
            BASE64.decode(base64.as_bytes()).map_err(|e| format!("{name}_base64 is not base64: {e}"))
        }
        _ => Err(format!("exactly one of {name} and {name}_base64 is needed")),
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (key, key_base64) = text_or_base64(&self.key);
        let (value, value_base64) = text_or_base64(&self.value);
        let Record { create_revision, mod_revision, version, .. } = *self;
        RecordJson { key, key_base64, value, value_base64, create_revision, mod_revision, version }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Record, D::Error> {
        let json = RecordJson::deserialize(deserializer)?;
        Ok(Record {
            key: bytes_of("key", json.key, json.key_base64).map_err(D::Error::custom)?,
            value: bytes_of("value", json.value, json.value_base64).map_err(D::Error::custom)?,
            create_revision: json.create_revision,
            mod_revision: json.mod_revision,
            version: json.version,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_names_agree_with_their_json() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<ErrorCode>(&format!("\"{code}\"")).unwrap(), code);
        }
    }

    #[test]
    fn code_outcome_of_503_is_not_done_and_of_a_writes_504_unknown() {
        for code in ErrorCode::ALL {
            if code.status() == 503 {
                assert_eq!(code.outcome(), ErrorOutcome::NotDone, "{code}");
            }
            if code.status() < 500 {
                assert_eq!(code.outcome(), ErrorOutcome::NotDone, "{code}");
            }
        }
        assert_eq!(ErrorCode::OutcomeUnknown.status(), 504);
        assert_eq!(ErrorCode::OutcomeUnknown.outcome(), ErrorOutcome::Unknown);
        assert_eq!(ErrorCode::Timeout.status(), 504);
    }

    #[test]
    fn error_body_is_as_short_as_it_can_be() {
        let body = ErrorBody::new(ErrorCode::NotFound, "no such key");
        let text = r#"{"error":{"code":"not_found","message":"no such key","outcome":"not_done"}}"#;
        assert_eq!(serde_json::to_string(&body).unwrap(), text);
        assert_eq!(serde_json::from_str::<ErrorBody>(text).unwrap(), body);
        let body = ErrorBody::new(ErrorCode::PreconditionFailed, "x").with_mod_revision(7);
        assert!(serde_json::to_string(&body).unwrap().ends_with(r#""not_done","mod_revision":7}}"#));
    }

    #[test]
    fn record_uses_base64_only_where_it_must() {
        let record = Record {
            key: b"k/1".to_vec(),
            value: vec![0xff, 0],
            create_revision: 1,
            mod_revision: 2,
            version: 2,
        };
        let text = r#"{"key":"k/1","value_base64":"/wA=","create_revision":1,"mod_revision":2,"version":2}"#;
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
        assert_eq!(serde_json::from_str::<Record>(text).unwrap(), record);
    }

    #[test]
    fn record_refuses_both_forms_and_neither() {
        for fields in
            [r#""key":"a","key_base64":"YQ==","value":"#, r#""value":"#, r#""key_base64":"!","value":"#]
        {
            let text = format!(r#"{{{fields}"v","create_revision":1,"mod_revision":1,"version":1}}"#);
            assert!(serde_json::from_str::<Record>(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn list_reply_omits_what_was_not_asked_for() {
        let row = |value: Option<&[u8]>| ListedRecord {
            key: vec![0xff],
            value: value.map(<[u8]>::to_vec),
            create_revision: 1,
            mod_revision: 2,
            version: 2,
        };
        let mut reply = ListReply { revision: 3, count: 1, kvs: vec![row(None)], cursor: None };
        let text = r#"{"revision":3,"count":1,"kvs":[{"key_base64":"/w==","create_revision":1,"mod_revision":2,"version":2}]}"#;
        assert_eq!(serde_json::to_string(&reply).unwrap(), text);
        assert_eq!(serde_json::from_str::<ListReply>(text).unwrap(), reply);
        reply.kvs = vec![row(Some(b"")), row(Some(b"v")), row(Some(&[0xfe]))];
        reply.cursor = Some("AQ".to_owned());
        let text = serde_json::to_string(&reply).unwrap();
        assert_eq!(serde_json::from_str::<ListReply>(&text).unwrap(), reply);
        let both = text.replace(r#""value":"v""#, r#""value":"v","value_base64":"dg==""#);
        assert!(serde_json::from_str::<ListReply>(&both).is_err(), "{both}");
    }

    #[test]
    fn idempotency_key_alphabet_and_length() {
        assert!(is_idempotency_key("aZ09._~-"));
        assert!(is_idempotency_key(&"x".repeat(64)));
        for bad in ["", &"x".repeat(65), "a b", "a/b", "ä", "a\n"] {
            assert!(!is_idempotency_key(bad), "{bad:?}");
        }
    }
}
