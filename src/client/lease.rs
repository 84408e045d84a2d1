//! Leases: granted, renewed, revoked, shown; and [`Lease`], which is renewed by a thread of its own.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::exchange::Request;
use super::{
    Client, ClientError, Kind, ReadOptions, WriteOptions, Written, get, json, key_target, with_query,
};
use crate::api::{ErrorCode, LeaseReply, LeaseRequest, LeaseShown, LeasesReply, PutReply, RevokeReply};
use crate::vocabulary::LeaseId;

const LEASES: &str = "/v1/leases";

/// A renewal that has not been answered is tried again so soon.
const RETRY: Duration = Duration::from_millis(250);

/// The lease of a key that is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyLease {
    /// This one.
    Attach(LeaseId),
    /// One of its own, with this time to live in seconds.
    Own(u64),
}

impl KeyLease {
    pub(super) fn parameter(self) -> (&'static str, String) {
        match self {
            KeyLease::Attach(lease) => ("lease", lease.to_string()),
            KeyLease::Own(ttl_s) => ("ttl_s", ttl_s.to_string()),
        }
    }
}

/// A part of the leases, or of the keys of one. By default the first ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeasePage {
    /// Most rows, 1 to 1,000; None = the server's default of 100.
    pub limit: Option<u32>,
    /// The previous page's cursor.
    pub cursor: Option<String>,
    /// Answer at once from what the asked node has; otherwise linearizable.
    pub stale: bool,
}

impl LeasePage {
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = ReadOptions { stale: self.stale, ..ReadOptions::default() }.parameters();
        parameters.extend(self.limit.map(|limit| ("limit", limit.to_string())));
        let cursor = self.cursor.as_ref();
        parameters.extend(
            cursor.map(|cursor| ("cursor", percent_encode(cursor.as_bytes(), NON_ALPHANUMERIC).to_string())),
        );
        parameters
    }
}

impl Client {
    /// Begins a lease that lives for `ttl_s` seconds. Without `id` the cluster chooses its name.
    ///
    /// # Errors
    /// As for any write; [`ErrorCode::Conflict`] when there is a lease with that name.
    pub fn grant_lease(
        &self,
        ttl_s: u64,
        id: Option<LeaseId>,
        options: &WriteOptions,
    ) -> Result<Written<LeaseReply>, ClientError> {
        let body = serde_json::to_vec(&LeaseRequest { ttl_s, id })
            .map_err(|e| ClientError::Invalid(format!("the request has no JSON: {e}")))?;
        self.write("POST", LEASES.to_owned(), Some(&body), options)
    }

    /// Lets a lease live for its whole time to live again. It is not over before that time has passed since this call
    /// began; so a repetition does no harm, and the call is repeated until it is answered.
    ///
    /// # Errors
    /// [`ErrorCode::LeaseNotFound`] when it is over.
    pub fn renew_lease(&self, lease: LeaseId) -> Result<LeaseReply, ClientError> {
        self.renew_lease_until(lease, Instant::now() + self.timeout)
    }

    fn renew_lease_until(&self, lease: LeaseId, deadline: Instant) -> Result<LeaseReply, ClientError> {
        let target = format!("{LEASES}/{lease}/renew");
        let request = Request { method: "POST", target, headers: Vec::new(), body: Some(b"") };
        self.call_until(deadline, &request, Kind::Read, json)
    }

    /// Ends a lease and removes its keys, at one revision.
    ///
    /// # Errors
    /// As for any write; [`ErrorCode::LeaseNotFound`] when there is no such lease.
    pub fn revoke_lease(
        &self,
        lease: LeaseId,
        options: &WriteOptions,
    ) -> Result<Written<RevokeReply>, ClientError> {
        self.write("DELETE", format!("{LEASES}/{lease}"), None, options)
    }

    /// A lease, with a page of its keys if `keys` says which. None when there is no such lease.
    ///
    /// # Errors
    /// As for any read.
    pub fn lease(&self, lease: LeaseId, keys: Option<&LeasePage>) -> Result<Option<LeaseShown>, ClientError> {
        let mut parameters = keys.map(LeasePage::parameters).unwrap_or_default();
        if keys.is_some() {
            parameters.push(("keys", "true".to_owned()));
        }
        let target = with_query(format!("{LEASES}/{lease}"), &parameters);
        self.call(&get(&target), Kind::Read, |answer| match answer.status {
            status if status == ErrorCode::NotFound.status() => Some(None),
            _ => json(answer).map(Some),
        })
    }

    /// A page of the leases, in order of their names.
    ///
    /// # Errors
    /// As for any read.
    pub fn leases(&self, page: &LeasePage) -> Result<LeasesReply, ClientError> {
        self.call(&get(&with_query(LEASES.to_owned(), &page.parameters())), Kind::Read, json)
    }

    /// Stores `value` under `key`, which goes when its lease ends.
    ///
    /// # Errors
    /// As for any write; [`ErrorCode::LeaseNotFound`] when there is no such lease.
    pub fn put_leased(
        &self,
        key: &[u8],
        value: &[u8],
        lease: KeyLease,
        options: &WriteOptions,
    ) -> Result<Written<PutReply>, ClientError> {
        self.write("PUT", with_query(key_target(key)?, &[lease.parameter()]), Some(value), options)
    }
}

/// A lease that lives as long as this value, as far as its cluster can be reached: a thread renews it three times
/// within its time to live. Dropping it ends the renewals and leaves the lease to its time; [`Lease::revoke`] ends it.
///
/// A holder counts from the moment at which a renewal was *sent*: before the time to live has passed since then, nobody
/// sees the lease end. After that the holder must take it for lost.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use std::time::Duration;
/// # use dkv::client::{Client, ClientError, KeyLease, Lease, WriteOptions};
/// # fn main() -> Result<(), ClientError> {
/// let client = Arc::new(Client::new(&["127.0.0.1:8081"], Duration::from_secs(5))?);
/// let lease = Lease::begin(client.clone(), 15)?;
/// client.put_leased(b"service/a", b"10.0.0.7:80", KeyLease::Attach(lease.id()), &WriteOptions::default())?;
/// while !lease.wait_lost(Duration::from_secs(60)) {
///     println!("still registered");
/// }
/// # Ok(())
/// # }
/// ```
pub struct Lease {
    client: Arc<Client>,
    id: LeaseId,
    ttl: Duration,
    state: Arc<State>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    life: Mutex<Life>,
    changed: Condvar,
}

struct Life {
    /// Before this time nobody sees it end.
    safe_until: Instant,
    /// The cluster has said that it is over.
    is_over: bool,
}

impl Lease {
    /// Begins a lease, and keeps it.
    ///
    /// # Errors
    /// As [`Client::grant_lease`].
    pub fn begin(client: Arc<Client>, ttl_s: u64) -> Result<Lease, ClientError> {
        let sent = Instant::now();
        let granted = client.grant_lease(ttl_s, None, &WriteOptions::default())?.reply;
        Ok(Lease::keep_from(client, granted, sent))
    }

    /// Keeps a lease that exists, beginning with a renewal.
    ///
    /// # Errors
    /// As [`Client::renew_lease`].
    pub fn keep(client: Arc<Client>, lease: LeaseId) -> Result<Lease, ClientError> {
        let sent = Instant::now();
        let renewed = client.renew_lease(lease)?;
        Ok(Lease::keep_from(client, renewed, sent))
    }

    fn keep_from(client: Arc<Client>, reply: LeaseReply, sent: Instant) -> Lease {
        let (id, ttl) = (reply.lease, Duration::from_secs(reply.ttl_s));
        let life = Life { safe_until: sent + ttl, is_over: false };
        let state = Arc::new(State { life: Mutex::new(life), changed: Condvar::new() });
        let (stop, stopped) = channel();
        let (renewer, shared) = (client.clone(), state.clone());
        let thread = std::thread::Builder::new().name("lease".to_owned()).spawn(move || {
            let mut wait = ttl / 3;
            while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                let sent = Instant::now();
                let until = shared.safe_until().max(sent + RETRY);
                wait = match renewer.renew_lease_until(id, until) {
                    Ok(_) => {
                        shared.extend(sent + ttl);
                        ttl / 3
                    }
                    Err(ClientError::Refused(detail)) if detail.code == ErrorCode::LeaseNotFound => {
                        return shared.end();
                    }
                    // Nobody was reached: the lease may live, and may still be renewed.
                    Err(_) => RETRY,
                };
            }
        });
        // Without a thread nothing renews it, and its holder sees it lost in time.
        Lease { client, id, ttl, state, stop: Some(stop), thread: thread.ok() }
    }

    /// How it is called.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Its time to live.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How long it surely still lives.
    pub fn remaining(&self) -> Duration {
        let life = self.state.life.lock().unwrap_or_else(PoisonError::into_inner);
        if life.is_over { Duration::ZERO } else { life.safe_until.saturating_duration_since(Instant::now()) }
    }

    /// Whether its holder must take it for lost: the cluster has said so, or no renewal was answered in time.
    pub fn is_lost(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Waits until it is lost, at most for so long. Returns whether it is.
    pub fn wait_lost(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut life = self.state.life.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            if life.is_over || life.safe_until <= now {
                return true;
            }
            if deadline <= now {
                return false;
            }
            let wait = life.safe_until.min(deadline).saturating_duration_since(now);
            life = self.state.changed.wait_timeout(life, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends it now: its keys are removed.
    ///
    /// # Errors
    /// As [`Client::revoke_lease`].
    pub fn revoke(mut self) -> Result<RevokeReply, ClientError> {
        self.stop_renewing();
        self.client.revoke_lease(self.id, &WriteOptions::default()).map(|written| written.reply)
    }

    fn stop_renewing(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has no result, and a panic in it is nothing to its holder.
            let _ = thread.join();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop_renewing();
    }
}

impl State {
    fn safe_until(&self) -> Instant {
        self.life.lock().unwrap_or_else(PoisonError::into_inner).safe_until
    }

    /// A renewal was answered.
    fn extend(&self, safe_until: Instant) {
        self.life.lock().unwrap_or_else(PoisonError::into_inner).safe_until = safe_until;
        self.changed.notify_all();
    }

    fn end(&self) {
        self.life.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
        self.changed.notify_all();
    }
}
