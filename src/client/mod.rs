//! A blocking client: finds the leader, tries other nodes, retries a write only under its idempotency key, and says
//! of every request whether it is done, surely not done, or unknown.
//!
//! A call tries every known node in turn, the leader first, in rounds, until there is a final
//! answer or the total timeout is over. Once an attempt of a write ended unknown, the whole call is unknown unless a
//! later attempt under the same key brings the outcome: done, or the condition that did not hold.
//!
//! It keeps to one cluster (`cluster.rs`), whatever answers at the addresses that it was given or has learnt.

mod cluster;
mod exchange;
mod history;
mod lease;
mod list;
mod members;
mod round;
mod snapshots;
mod txn;
mod watch;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::de::DeserializeOwned;

use crate::api::{
    AddReply, CREATE_REVISION_HEADER, ClusterReply, DeleteReply, ErrorBody, ErrorCode, ErrorDetail,
    ErrorOutcome, IDEMPOTENCY_KEY_HEADER, INDEX_HEADER, LEADER_HEADER, LEASE_HEADER, PrevReply, PutReply,
    REPLAYED_HEADER, Record, StatusReply, VERSION_HEADER, is_idempotency_key,
};

use cluster::{Notices, Unfit};
use exchange::{Answer, Broken, Exchanger, Request};
use round::{Attempt, Known, Origin, Round};

pub use crate::api::Sort;
pub use crate::vocabulary::Condition;
pub use history::HistoryOptions;
pub use lease::{KeyLease, Lease, LeasePage};
pub use list::{Filters, ListOptions};
pub use snapshots::{BackupTarget, SnapshotSaveError};
pub use txn::{Condition as TxnCondition, Step, Txn, When};
pub use watch::{Watch, WatchEvent, WatchKeys, WatchOptions};

/// For how long a write is repeated after its first attempt that ended unknown: well below the shortest idempotency
/// window a server can be configured with (60 s), so that a repetition can never be executed as a new write.
const REPEAT_WINDOW: Duration = Duration::from_secs(30);

/// Where ranges of keys are.
const KEYS: &str = "/v1/kv";

/// For so long a node may take to say that it does not serve; it waits for a leader before.
const LONGEST_REFUSAL: Duration = Duration::from_secs(2);

/// Longest key the client sends, in bytes; servers refuse shorter ones already.
const MAX_KEY_BYTES: usize = 8 << 10;

/// What stays as it is in a path: everything that has no meaning in one, and the slash, which belongs to the key.
const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// The same where the slash has a meaning.
const SEGMENT: &AsciiSet = &KEY.add(b'/');

/// How a write is made.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Write only if this holds.
    pub condition: Option<Condition>,
    /// The name under which the outcome is remembered; None = a fresh random one. Giving the key of an earlier call
    /// repeats that call.
    pub idempotency_key: Option<String>,
}

/// Which keys a removal of a range means. By default none: a server refuses a range without any bound.
#[derive(Clone, Debug, Default)]
pub struct RangeOptions {
    /// Only keys that begin so.
    pub prefix: Vec<u8>,
    /// Only keys from this one on, itself included.
    pub start: Vec<u8>,
    /// Only keys before this one; empty = no end.
    pub end: Vec<u8>,
    /// Every key there is; goes with none of the others.
    pub all: bool,
}

/// How a read is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// Answer at once from whatever the asked node has; otherwise linearizable.
    pub stale: bool,
    /// Read the state at this revision.
    pub revision: Option<u64>,
    /// Answer with a state at least as new as this revision.
    pub min_revision: Option<u64>,
}

impl ReadOptions {
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = Vec::new();
        if self.stale {
            parameters.push(("consistency", "stale".to_owned()));
        }
        let revisions = [("revision", self.revision), ("min_revision", self.min_revision)];
        parameters.extend(revisions.into_iter().filter_map(|(name, n)| Some((name, n?.to_string()))));
        parameters
    }
}

/// A write that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written<T> {
    /// The server's answer.
    pub reply: T,
    /// Log index of the write, where the server said it.
    pub index: Option<u64>,
    /// Whether an earlier request under the same key did it and this answer is the remembered one.
    pub replayed: bool,
    /// The key it was sent under.
    pub idempotency_key: String,
}

/// What a read saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen<T> {
    /// The answer.
    pub value: T,
    /// The last log entry applied to the state it comes from, where the server said it.
    pub index: Option<u64>,
}

/// Why a request is not done, or not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Never sent: the input is bad. Not done.
    #[error("{0}")]
    Invalid(String),
    /// A node refused it for good. Not done.
    #[error("refused: {} ({})", .0.message, .0.code)]
    Refused(Box<ErrorDetail>),
    /// No node could serve it in time. Surely not done; the text is the last reason.
    #[error("not done: the request was not served in time; last reason: {0}")]
    Unavailable(String),
    /// It may be done. The same call with the same key finds out.
    #[error("outcome unknown: it may or may not be done; last reason: {reason}")]
    Unknown {
        /// What the last attempt met.
        reason: String,
        /// The key to repeat a write under; a change of the cluster has none: it is repeated as it is.
        idempotency_key: Option<String>,
    },
}

impl ClientError {
    /// Whether the request is surely not done.
    pub fn outcome(&self) -> ErrorOutcome {
        match self {
            ClientError::Unknown { .. } => ErrorOutcome::Unknown,
            _ => ErrorOutcome::NotDone,
        }
    }
}

/// The client. May be shared between threads; each call blocks its caller for at most the timeout.
pub struct Client {
    exchanger: Exchanger,
    known: Mutex<Known>,
    timeout: Duration,
    notices: Notices,
}

/// What one answer, or the lack of one, means for the call.
enum Verdict<T> {
    Done(T),
    /// No other attempt would fare better.
    Refused(Box<ErrorDetail>),
    /// Surely not done by this attempt; another may succeed.
    Later(String),
    /// The same, and the node has said nothing.
    Silent(String),
    /// The request cannot even be written.
    Malformed(String),
    /// This attempt may have done it.
    Unknown(String),
}

/// How a call's answers are judged.
#[derive(Clone, Copy)]
enum Kind<'a> {
    /// Nothing it does can be unknown.
    Read,
    /// A write under this idempotency key.
    Write(&'a str),
    /// A change of the cluster: asked for again, it is done already.
    Change,
}

impl Client {
    /// A client of the cluster that these nodes (`host:port`, or `http://host:port`) belong to; one suffices, the
    /// others are found. `timeout` is for a whole call with all its attempts.
    pub fn new<S: AsRef<str>>(endpoints: &[S], timeout: Duration) -> Result<Client, ClientError> {
        let known = Known::new(endpoints).map_err(ClientError::Invalid)?;
        Ok(Client::with(known, timeout))
    }

    /// A client that asks only this one node, even if another node leads.
    pub fn at_node(endpoint: &str, timeout: Duration) -> Result<Client, ClientError> {
        let known = Known::new(&[endpoint]).map_err(ClientError::Invalid)?.fixed();
        Ok(Client::with(known, timeout))
    }

    fn with(known: Known, timeout: Duration) -> Client {
        let (exchanger, notices) = (Exchanger::new(), Notices::default());
        Client { exchanger, known: Mutex::new(known), timeout, notices }
    }

    /// The nodes it knows of, the leader first where it knows it; without those that named another cluster when they were
    /// last heard.
    pub fn endpoints(&self) -> Vec<String> {
        let known = self.known();
        known.in_order().into_iter().filter(|addr| !known.is_foreign(addr)).collect()
    }

    /// Stores `value` under `key`.
    pub fn put(
        &self,
        key: &[u8],
        value: &[u8],
        options: &WriteOptions,
    ) -> Result<Written<PutReply>, ClientError> {
        self.write("PUT", key_target(key)?, Some(value), options)
    }

    /// Adds `amount`, which may be negative, to the integer that `key` holds; an absent key holds 0. A value that is no
    /// integer, and one that would overflow, is refused with [`ErrorCode::Conflict`].
    pub fn add(
        &self,
        key: &[u8],
        amount: i64,
        options: &WriteOptions,
    ) -> Result<Written<AddReply>, ClientError> {
        let target = with_query(key_target(key)?, &[("add", amount.to_string())]);
        // An empty body, so that its length is said.
        self.write("POST", target, Some(b""), options)
    }

    /// Removes `key`; an absent key is not an error (`deleted` is 0).
    pub fn delete(&self, key: &[u8], options: &WriteOptions) -> Result<Written<DeleteReply>, ClientError> {
        self.write("DELETE", key_target(key)?, None, options)
    }

    /// Removes every key of a range as one step; a range without keys is not an error (`deleted` is 0). `options` may have
    /// no condition.
    pub fn delete_range(
        &self,
        range: &RangeOptions,
        options: &WriteOptions,
    ) -> Result<Written<DeleteReply>, ClientError> {
        self.remove_range(range, options, None)
    }

    /// The same, and shows the records that went.
    pub fn delete_range_prev(
        &self,
        range: &RangeOptions,
        options: &WriteOptions,
    ) -> Result<Written<PrevReply>, ClientError> {
        self.remove_range(range, options, Some(("prev", "true".to_owned())))
    }

    fn remove_range<T: DeserializeOwned>(
        &self,
        range: &RangeOptions,
        options: &WriteOptions,
        prev: Option<(&'static str, String)>,
    ) -> Result<Written<T>, ClientError> {
        if options.condition.is_some() {
            let text = "a range has no condition: it has no single revision to compare".to_owned();
            return Err(ClientError::Invalid(text));
        }
        let mut parameters = range_parameters([&range.prefix, &range.start, &range.end]);
        if range.all {
            parameters.push(("all", "true".to_owned()));
        }
        parameters.extend(prev);
        self.write("DELETE", with_query(KEYS.to_owned(), &parameters), None, options)
    }

    /// Stores `value` under `key`, under a lease if one is given, and shows the record before.
    pub fn put_prev(
        &self,
        key: &[u8],
        value: &[u8],
        lease: Option<KeyLease>,
        options: &WriteOptions,
    ) -> Result<Written<PrevReply>, ClientError> {
        let parameters: Vec<_> =
            lease.map(KeyLease::parameter).into_iter().chain([("prev", "true".to_owned())]).collect();
        self.write("PUT", with_query(key_target(key)?, &parameters), Some(value), options)
    }

    /// Removes `key`, and shows the record before.
    pub fn delete_prev(&self, key: &[u8], options: &WriteOptions) -> Result<Written<PrevReply>, ClientError> {
        self.write("DELETE", with_query(key_target(key)?, &[("prev", "true".to_owned())]), None, options)
    }

    /// The record of `key`; None when there is no such key.
    pub fn get(&self, key: &[u8], options: &ReadOptions) -> Result<Option<Record>, ClientError> {
        Ok(self.see(key, options)?.value)
    }

    /// The same, with the log index that the answer comes from.
    pub fn see(&self, key: &[u8], options: &ReadOptions) -> Result<Seen<Option<Record>>, ClientError> {
        let target = with_query(key_target(key)?, &options.parameters());
        let request = Request { method: "GET", target, headers: Vec::new(), body: None };
        self.call(&request, Kind::Read, |answer| {
            let index = answer.number(INDEX_HEADER);
            if answer.status == ErrorCode::NotFound.status() {
                return Some(Seen { value: None, index });
            }
            let mod_revision = answer.header("ETag")?.strip_prefix('"')?.strip_suffix('"')?.parse().ok()?;
            let record = Record {
                key: key.to_vec(),
                value: answer.body.clone(),
                create_revision: answer.number(CREATE_REVISION_HEADER)?,
                mod_revision,
                version: answer.number(VERSION_HEADER)?,
                lease: answer.header(LEASE_HEADER).and_then(|lease| lease.parse().ok()),
            };
            Some(Seen { value: Some(record), index })
        })
    }

    /// The cluster as some reachable node sees it. The members become known to the client.
    pub fn cluster(&self) -> Result<ClusterReply, ClientError> {
        let read = |answer: &Answer| Some((answer.cluster().is_some(), json::<ClusterReply>(answer)?));
        let (is_named, cluster) = self.call(&get("/v1/cluster"), Kind::Read, read)?;
        if is_named {
            self.known().learn_cluster(&cluster);
        }
        Ok(cluster)
    }

    /// The status of the one node at `addr`, asked once for at most `patience`; the error says why there
    /// is none. A node of another cluster has none.
    pub fn status(&self, addr: &str, patience: Duration) -> Result<StatusReply, String> {
        let answer =
            self.exchanger.exchange(addr, &get("/v1/status"), None, patience).map_err(|e| match e {
                Broken::Malformed(text) | Broken::NotSent(text) | Broken::Unknown(text) => text,
            })?;
        let mut known = self.known();
        if let Origin::Foreign { cluster, .. } = known.compare(addr, answer.cluster()) {
            return Err(cluster::foreign(addr, &cluster, known.cluster().unwrap_or_default()));
        }
        drop(known);
        match judge(&answer, Kind::Read, json) {
            Verdict::Done(status) => Ok(status),
            Verdict::Refused(detail) => Err(detail.message),
            Verdict::Later(text)
            | Verdict::Silent(text)
            | Verdict::Malformed(text)
            | Verdict::Unknown(text) => Err(text),
        }
    }

    fn write<T: DeserializeOwned>(
        &self,
        method: &'static str,
        target: String,
        body: Option<&[u8]>,
        options: &WriteOptions,
    ) -> Result<Written<T>, ClientError> {
        let idempotency_key = match &options.idempotency_key {
            None => random_key(),
            Some(key) if is_idempotency_key(key) => key.clone(),
            Some(key) => {
                let text = format!("{key:?} is not an idempotency key: 1 to 64 of A-Z a-z 0-9 . _ ~ -");
                return Err(ClientError::Invalid(text));
            }
        };
        let mut headers = vec![(IDEMPOTENCY_KEY_HEADER, idempotency_key.clone())];
        headers.extend(options.condition.map(Condition::to_header));
        let request = Request { method, target, headers, body };
        let read = |answer: &Answer| {
            Some(Written {
                reply: json(answer)?,
                index: answer.number(INDEX_HEADER),
                replayed: answer.header(REPLAYED_HEADER) == Some("true"),
                idempotency_key: idempotency_key.clone(),
            })
        };
        self.call(&request, Kind::Write(&idempotency_key), read)
    }

    /// A call that has the whole timeout.
    fn call<T>(
        &self,
        request: &Request<'_>,
        kind: Kind<'_>,
        read: impl Fn(&Answer) -> Option<T>,
    ) -> Result<T, ClientError> {
        self.call_until(Instant::now() + self.timeout, request, kind, read)
    }

    fn call_until<T>(
        &self,
        deadline: Instant,
        request: &Request<'_>,
        kind: Kind<'_>,
        read: impl Fn(&Answer) -> Option<T>,
    ) -> Result<T, ClientError> {
        self.call_in(Round::new(self.timeout), deadline, request, kind, read)
    }

    /// Attempts until there is a final answer or the time is over. `read` takes a 2xx answer apart, and a read's 404 where
    /// it can make something of it; None = it is not one of dkv's.
    fn call_in<T>(
        &self,
        mut round: Round,
        mut deadline: Instant,
        request: &Request<'_>,
        kind: Kind<'_>,
        read: impl Fn(&Answer) -> Option<T>,
    ) -> Result<T, ClientError> {
        // The reason of the first attempt that ended unknown: from then on the call is unknown, too.
        let mut in_doubt: Option<String> = None;
        let mut reason: Option<String> = None;
        // What a node needed to say that it does not serve.
        let mut slowest = Duration::ZERO;
        while let Some(attempt) = round.next(&self.known, deadline) {
            let is_surely_not_done = !matches!(kind, Kind::Read) && in_doubt.is_none() && reason.is_some();
            if is_surely_not_done && attempt.is_cut_short && attempt.timeout < slowest.mul_f64(1.5) {
                // Its answer would come too late, and turn what is surely not done into what nobody knows.
                break;
            }
            let started = Instant::now();
            match self.attempt(&attempt, request, kind, &read, &mut round) {
                Verdict::Done(done) => return Ok(done),
                Verdict::Malformed(text) if in_doubt.is_none() => return Err(ClientError::Invalid(text)),
                Verdict::Refused(detail) if in_doubt.is_none() || covers_doubt(kind, &detail) => {
                    return Err(ClientError::Refused(detail));
                }
                // The attempt in doubt may have been executed all the same: this refusal is not about it.
                Verdict::Refused(detail) => reason = Some(format!("{}: {}", attempt.addr, detail.message)),
                // That a node did not answer in the little time that was left says less than what was said before.
                Verdict::Silent(_) if attempt.is_cut_short && reason.is_some() => {}
                Verdict::Later(text) => {
                    slowest = slowest.max(started.elapsed().min(LONGEST_REFUSAL));
                    reason = Some(text);
                }
                Verdict::Silent(text) | Verdict::Malformed(text) => reason = Some(text),
                Verdict::Unknown(text) => {
                    let text = match reason.take().filter(|_| attempt.is_cut_short && in_doubt.is_none()) {
                        Some(before) => format!("{text}; before: {before}"),
                        None => text,
                    };
                    reason = Some(text.clone());
                    if in_doubt.is_none() {
                        in_doubt = Some(text);
                        deadline = deadline.min(started + REPEAT_WINDOW);
                    }
                }
            }
            if let Some(guide) = round.wants_members() {
                self.learn_members(&guide, deadline);
            }
        }
        let reason = reason.unwrap_or_else(|| "the time was over before a node could be asked".to_owned());
        match (kind, in_doubt) {
            (Kind::Write(_) | Kind::Change, Some(first)) => {
                let reason = if first == reason { first } else { format!("{reason}; before: {first}") };
                let idempotency_key = if let Kind::Write(key) = kind { Some(key.to_owned()) } else { None };
                Err(ClientError::Unknown { reason, idempotency_key })
            }
            _ => Err(ClientError::Unavailable(reason)),
        }
    }

    /// One attempt at one node, which a write reaches only after that node has named the client's cluster.
    fn attempt<T>(
        &self,
        attempt: &Attempt,
        request: &Request<'_>,
        kind: Kind<'_>,
        read: impl Fn(&Answer) -> Option<T>,
        round: &mut Round,
    ) -> Verdict<T> {
        let (addr, started) = (&attempt.addr, Instant::now());
        let is_read = matches!(kind, Kind::Read);
        if !is_read {
            match self.check_before_write(addr, attempt.timeout, round) {
                Ok(()) => {}
                Err(Unfit::Silent(text)) => return Verdict::Silent(text),
                Err(Unfit::Foreign(text)) => return Verdict::Later(text),
            }
        }
        let left = attempt.timeout.saturating_sub(started.elapsed());
        let meant_for = self.cluster_id().filter(|_| !is_read);
        let answer = match self.exchanger.exchange(addr, request, meant_for.as_deref(), left) {
            Ok(answer) => answer,
            Err(broken) => {
                self.known().failed(addr);
                round.failed(addr);
                return match broken {
                    Broken::Malformed(text) => Verdict::Malformed(text),
                    Broken::Unknown(text) if !is_read => Verdict::Unknown(text),
                    Broken::NotSent(text) | Broken::Unknown(text) => Verdict::Silent(text),
                };
            }
        };
        if let Some(text) = self.pass_over(addr, &answer) {
            return Verdict::Later(text);
        }
        let verdict = judge(&answer, kind, read);
        if answer.cluster().is_some() {
            round.answered(&self.known, addr, answer.header(LEADER_HEADER));
        } else if !is_read {
            // The node that was asked before had named its cluster: this is another one, or something in between.
            return match verdict {
                Verdict::Done(_) => {
                    Verdict::Unknown(format!("{addr}: an answer {} that names no cluster", answer.status))
                }
                Verdict::Refused(detail) => Verdict::Later(format!("{addr}: {}", detail.message)),
                other => other,
            };
        }
        verdict
    }

    /// Asks a node that answers, but cannot serve, for the other members.
    fn learn_members(&self, addr: &str, deadline: Instant) {
        let patience = deadline.saturating_duration_since(Instant::now()).min(round::LEARN_TIMEOUT);
        if patience.is_zero() {
            return;
        }
        // Nothing is lost when it fails: the round goes on with the nodes it knows.
        if let Ok(answer) = self.exchanger.exchange(addr, &get("/v1/cluster"), None, patience)
            && answer.status == 200
            && answer.cluster().is_some()
            && self.pass_over(addr, &answer).is_none()
            && let Some(cluster) = json(&answer)
        {
            self.known().learn_cluster(&cluster);
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics under this lock")
    }
}

/// Whether a refusal speaks of the earlier attempts too. A write's does when it comes from the remembered outcome of its
/// key; the others are made before, or without, a look at that. A conflict that names the key's revision comes from a
/// counter, and is such an outcome. After a change of members, a member that is not found was removed.
fn covers_doubt(kind: Kind<'_>, detail: &ErrorDetail) -> bool {
    match kind {
        Kind::Change => detail.code == ErrorCode::NotFound,
        Kind::Read | Kind::Write(_) => match detail.code {
            ErrorCode::PreconditionFailed | ErrorCode::KeyNotFound => true,
            ErrorCode::Conflict => detail.mod_revision.is_some(),
            _ => false,
        },
    }
}

fn judge<T>(answer: &Answer, kind: Kind<'_>, read: impl Fn(&Answer) -> Option<T>) -> Verdict<T> {
    let unclear = |text: String| match kind {
        Kind::Read => Verdict::Later(text),
        Kind::Write(_) | Kind::Change => Verdict::Unknown(text),
    };
    if (200..300).contains(&answer.status) {
        return match read(answer) {
            Some(done) => Verdict::Done(done),
            None => unclear(format!("an answer {} that is not dkv's", answer.status)),
        };
    }
    let Some(ErrorBody { error }) = json(answer) else {
        return unclear(format!("an answer {} that is not dkv's", answer.status));
    };
    if error.outcome == ErrorOutcome::Unknown {
        return unclear(error.message);
    }
    if error.code == ErrorCode::NotFound
        && let Some(absent) = read(answer)
    {
        return Verdict::Done(absent);
    }
    match error.code {
        ErrorCode::Overloaded
        | ErrorCode::Unavailable
        | ErrorCode::Timeout
        | ErrorCode::OutcomeUnknown
        | ErrorCode::Internal => Verdict::Later(error.message),
        _ => Verdict::Refused(Box::new(error)),
    }
}

fn json<T: DeserializeOwned>(answer: &Answer) -> Option<T> {
    serde_json::from_slice(&answer.body).ok()
}

fn get(target: &str) -> Request<'static> {
    Request { method: "GET", target: target.to_owned(), headers: Vec::new(), body: None }
}

fn key_target(key: &[u8]) -> Result<String, ClientError> {
    key_path("/v1/kv/", key)
}

/// The path of a key below `route`.
fn key_path(route: &str, key: &[u8]) -> Result<String, ClientError> {
    if key.is_empty() {
        return Err(ClientError::Invalid("the key is empty; a key has at least one byte".to_owned()));
    }
    if key.len() > MAX_KEY_BYTES {
        let text = format!("the key has {} bytes; no server takes more than {MAX_KEY_BYTES}", key.len());
        return Err(ClientError::Invalid(text));
    }
    Ok(format!("{route}{}", percent_encode(key, KEY)))
}

/// The bounds of a range as parameters: prefix, start, end. An empty one is no limit and left out.
fn range_parameters(bounds: [&[u8]; 3]) -> Vec<(&'static str, String)> {
    let named = ["prefix", "start", "end"].into_iter().zip(bounds).filter(|(_, bound)| !bound.is_empty());
    named.map(|(name, bound)| (name, percent_encode(bound, NON_ALPHANUMERIC).to_string())).collect()
}

/// `parameters` after a path; their values are escaped already.
fn with_query(mut target: String, parameters: &[(&str, String)]) -> String {
    for (i, (name, value)) in parameters.iter().enumerate() {
        let separator = if i == 0 { '?' } else { '&' };
        target.push_str(&format!("{separator}{name}={value}"));
    }
    target
}

/// 128 random bits in hexadecimal.
fn random_key() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    format!("{:032x}", u128::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests;
