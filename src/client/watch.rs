//! Watches: changes as they come, from any node, without a gap and without one told twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::exchange::Answer;
use super::round::Round;
use super::{Client, ClientError, Kind, get, json, with_query};
use crate::api::{ChangeKind, WatchChange, WatchReply};

/// How long a node is asked to wait for a change. One that has hung is given up after this and [`ANSWER_MARGIN`].
const WAIT: Duration = Duration::from_secs(5);

/// How much later than that an answer may come.
const ANSWER_MARGIN: Duration = Duration::from_secs(2);

/// How often a node is asked in the last second of a wait.
const LAST_PAUSE: Duration = Duration::from_millis(50);

/// Which keys are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchKeys {
    /// This one.
    Key(Vec<u8>),
    /// Those that begin so; an empty prefix is every key.
    Prefix(Vec<u8>),
    /// Those from the first bound on and before the second one; an empty bound is no limit.
    Between(Vec<u8>, Vec<u8>),
}

/// What of their changes is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// The first revision whose changes are shown; None: what changes from now on.
    pub from: Option<u64>,
    /// Whether a change shows the record before.
    pub prev: bool,
    /// Only changes of this kind.
    pub filter: Option<ChangeKind>,
}

/// The changes of one revision, all those that are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The revision.
    pub revision: u64,
    /// In the order of their keys.
    pub changes: Vec<WatchChange>,
}

/// The changes of some keys. Each change is shown once, in the order of the revisions. When a node fails, the watch goes on
/// at another node.
///
/// As an iterator it waits for each event as long as it takes. It shows an error when for the client's timeout no node
/// answered; the next event after that is again the one that follows the last event shown.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use std::time::Duration;
/// # use dkv::client::{Client, ClientError, Watch, WatchKeys, WatchOptions};
/// # fn main() -> Result<(), ClientError> {
/// let client = Arc::new(Client::new(&["127.0.0.1:8081"], Duration::from_secs(5))?);
/// for event in Watch::open(client, WatchKeys::Prefix(b"service/".to_vec()), WatchOptions::default())? {
///     for change in event?.changes {
///         println!("{} {:?}", String::from_utf8_lossy(&change.key), change.put);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Watch {
    client: Arc<Client>,
    parameters: Vec<(&'static str, String)>,
    /// Where the next request goes on.
    next: u64,
    /// Told, and not shown yet.
    events: VecDeque<WatchEvent>,
}

impl Watch {
    /// Begins to watch. Everything that changes after this call is shown.
    ///
    /// # Errors
    /// As for any read.
    pub fn open(client: Arc<Client>, keys: WatchKeys, options: WatchOptions) -> Result<Watch, ClientError> {
        let named = |name, bytes: &[u8]| (name, percent_encode(bytes, NON_ALPHANUMERIC).to_string());
        let mut parameters = match &keys {
            WatchKeys::Key(key) => vec![named("key", key)],
            WatchKeys::Prefix(prefix) => vec![named("prefix", prefix)],
            WatchKeys::Between(start, end) => vec![named("start", start), named("end", end)],
        };
        if options.prev {
            parameters.push(("prev", "true".to_owned()));
        }
        let filter = options.filter.map(|kind| match kind {
            ChangeKind::Put => "put",
            ChangeKind::Delete => "delete",
        });
        parameters.extend(filter.map(|kind| ("filter", kind.to_owned())));
        let mut watch = Watch { client, parameters, next: 0, events: VecDeque::new() };
        match options.from {
            Some(from) => watch.next = from,
            None => watch.poll(None, Duration::ZERO)?,
        }
        Ok(watch)
    }

    /// The next event, if one comes within `patience`.
    ///
    /// # Errors
    /// No node answered, or the cluster refuses: [`ErrorCode::Compacted`](crate::api::ErrorCode::Compacted) when
    /// changes that were not shown are not known any more.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<WatchEvent>, ClientError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.poll(Some(self.next), left.min(WAIT))?;
            if !self.events.is_empty() {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // A node waits for whole seconds.
            std::thread::sleep(left.min(LAST_PAUSE));
        }
    }

    /// Every change before this revision was shown: a watch from it goes on where this one is.
    pub fn position(&self) -> u64 {
        self.events.front().map_or(self.next, |event| event.revision)
    }

    fn poll(&mut self, from: Option<u64>, wait: Duration) -> Result<(), ClientError> {
        let mut parameters = self.parameters.clone();
        parameters.extend(from.map(|from| ("from", from.to_string())));
        // In whole seconds, none too long.
        parameters.push(("wait_s", wait.as_secs().to_string()));
        parameters.extend(self.client.cluster_id().map(|cluster| ("cluster", cluster)));
        let request = get(&with_query("/v1/watch".to_owned(), &parameters));
        let patience = wait + ANSWER_MARGIN;
        let round = Round::with_attempts_of(patience);
        let read = |answer: &Answer| json::<WatchReply>(answer).filter(|reply| reply.next.is_some());
        let deadline = Instant::now() + patience + self.client.timeout;
        let reply = self.client.call_in(round, deadline, &request, Kind::Read, read)?;
        self.next = self.next.max(reply.next.unwrap_or_default());
        for change in reply.changes {
            match self.events.back_mut().filter(|event| event.revision == change.revision) {
                Some(event) => event.changes.push(change),
                None => {
                    self.events.push_back(WatchEvent { revision: change.revision, changes: vec![change] })
                }
            }
        }
        Ok(())
    }
}

impl Iterator for Watch {
    type Item = Result<WatchEvent, ClientError>;

    fn next(&mut self) -> Option<Result<WatchEvent, ClientError>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            if let Err(error) = self.poll(Some(self.next), WAIT) {
                return Some(Err(error));
            }
        }
    }
}
