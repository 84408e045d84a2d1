//! The one cluster that a client keeps to.
//!
//! Addresses change hands: at that of a member that is gone a node of another cluster may answer. So every answer is looked
//! at for the cluster that it names. One of another cluster is passed over, teaches nothing, and is never taken for an
//! outcome. A write goes to no node that has not named the client's cluster before, and it says for which cluster it is
//! meant, so that a node that has taken over the address since then refuses it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::exchange::{Answer, Broken};
use super::round::{Origin, Round};
use super::{Client, ClientError, get, json};
use crate::api::{CLUSTER_HEADER, ErrorBody, LEADER_HEADER, is_cluster_id};

/// Any node answers it at once, with the reason when it does not serve.
const PROBE: &str = "/readyz";

type Say = dyn Fn(&str) + Send + Sync;

/// Takes what the client has to say beside its results.
#[derive(Clone, Default)]
pub(super) struct Notices(Option<Arc<Say>>);

impl Notices {
    fn say(&self, text: &str) {
        if let Some(say) = &self.0 {
            say(text);
        }
    }
}

impl Answer {
    /// The cluster that it names.
    pub(super) fn cluster(&self) -> Option<&str> {
        self.header(CLUSTER_HEADER).filter(|id| is_cluster_id(id))
    }
}

impl Client {
    /// A client that keeps to this cluster, also when its endpoints belong to another one. Without this it keeps to the cluster of
    /// the first endpoint, in the given order, that answers and names one.
    ///
    /// # Errors
    /// That is no cluster id.
    pub fn keep_to(self, cluster_id: &str) -> Result<Client, ClientError> {
        if !is_cluster_id(cluster_id) {
            let text = format!("{cluster_id:?} is no cluster id: write its 16 hexadecimal digits");
            return Err(ClientError::Invalid(text));
        }
        let known = self.known().clone().keeping_to(cluster_id.to_owned());
        Ok(Client { known: known.into(), ..self })
    }

    /// A client that says through `say` what its results do not: that it passes a node over, and why. `say` may be called
    /// from several threads.
    pub fn with_notices(self, say: impl Fn(&str) + Send + Sync + 'static) -> Client {
        Client { notices: Notices(Some(Arc::new(say))), ..self }
    }

    /// The cluster that the client keeps to: 16 hexadecimal digits. None until a given endpoint has named one.
    pub fn cluster_id(&self) -> Option<String> {
        self.known().cluster().map(str::to_owned)
    }

    /// Asks all given endpoints at once, each for at most `patience`, which cluster they belong to, and says so when they
    /// do not all belong to one. Decides nothing.
    pub fn compare_endpoints(&self, patience: Duration) {
        let given = self.known().given().to_vec();
        if given.len() < 2 {
            return;
        }
        let ask = |addr: &String| {
            let answer = self.exchanger.exchange(addr, &get(PROBE), None, patience).ok()?;
            Some((addr.clone(), answer.cluster()?.to_owned()))
        };
        let found: Vec<(String, String)> = thread::scope(|scope| {
            let asked: Vec<_> = given.iter().map(|addr| scope.spawn(move || ask(addr))).collect();
            asked.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
        });
        let Some((_, first)) = found.first() else { return };
        let mut known = self.known();
        let kept = known.cluster().unwrap_or(first).to_owned();
        let heard = found.iter().find(|(_, cluster)| *cluster == kept).map(|(addr, _)| addr.clone());
        let ours = heard.or_else(|| known.given().iter().find(|addr| known.is_ours(addr)).cloned());
        let others: Vec<_> = found.iter().filter(|(_, cluster)| *cluster != kept).collect();
        others.iter().for_each(|(addr, cluster)| drop(known.compare(addr, Some(cluster))));
        drop(known);
        for (addr, cluster) in others {
            self.say_foreign(ours.as_deref(), &kept, addr, cluster);
        }
    }

    /// Why an answer is passed over: it comes from another cluster. Says so, the first time.
    pub(super) fn pass_over(&self, addr: &str, answer: &Answer) -> Option<String> {
        let mut known = self.known();
        let origin = known.place(addr, answer.cluster());
        let kept = known.cluster().unwrap_or_default().to_owned();
        // An endpoint that was given, and one of the client's cluster that was given too.
        let given = known.given();
        let is_given = given.iter().any(|given| given == addr);
        let ours = given.iter().find(|given| is_given && known.is_ours(given)).cloned();
        drop(known);
        let Origin::Foreign { cluster, is_news } = origin else { return None };
        if is_news {
            self.say_foreign(ours.as_deref(), &kept, addr, &cluster);
        }
        Some(foreign(addr, &cluster, &kept))
    }

    /// Says that the node at `addr` belongs to another cluster; `ours` when it was given beside an endpoint of the client's.
    fn say_foreign(&self, ours: Option<&str>, kept: &str, addr: &str, cluster: &str) {
        match ours {
            Some(ours) => self.notices.say(&several_clusters(ours, kept, addr, cluster)),
            None => self.notices.say(&format!("{}: it is passed over", foreign(addr, cluster, kept))),
        }
    }

    /// Makes sure that a write goes to no other cluster: the node at `addr` must have named the client's. The error says why
    /// it is passed over.
    pub(super) fn check_before_write(
        &self,
        addr: &str,
        patience: Duration,
        round: &mut Round,
    ) -> Result<(), Unfit> {
        if self.known().is_ours(addr) {
            return Ok(());
        }
        let answer = match self.exchanger.exchange(addr, &get(PROBE), None, patience) {
            Ok(answer) => answer,
            Err(Broken::Malformed(text) | Broken::NotSent(text) | Broken::Unknown(text)) => {
                self.known().failed(addr);
                return Err(Unfit::Silent(text));
            }
        };
        if let Some(text) = self.pass_over(addr, &answer) {
            return Err(Unfit::Foreign(text));
        }
        if self.known().is_ours(addr) {
            round.answered(&self.known, addr, answer.header(LEADER_HEADER));
            return Ok(());
        }
        let why = match json::<ErrorBody>(&answer) {
            Some(body) => body.error.message,
            None => "it is no node of a cluster, or not of this version".to_owned(),
        };
        let text = format!("{addr} names no cluster: {why}");
        self.notices.say(&format!("{text}; nothing is written through it"));
        Err(Unfit::Foreign(text))
    }
}

/// Why a node is not given a write.
pub(super) enum Unfit {
    /// It did not answer.
    Silent(String),
    /// It answered, and is none of the client's cluster.
    Foreign(String),
}

/// What is said of a node that belongs to another cluster.
pub(super) fn foreign(addr: &str, cluster: &str, kept: &str) -> String {
    format!("{addr} belongs to cluster {cluster}, not to {kept}")
}

fn several_clusters(ours: &str, kept: &str, addr: &str, other: &str) -> String {
    format!(
        "the endpoints belong to several clusters: {ours} to {kept}, {addr} to {other}; only cluster {kept} is asked \
         (--cluster chooses)"
    )
}
