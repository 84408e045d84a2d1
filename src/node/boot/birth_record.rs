//! What travels between nodes at a founding, and the born member's side of it: it answers `/raft/found` and hands the
//! found entry over to members that missed it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::node::{OnUnborn, PeerError, Target, UnbornPeer};
use crate::raft::{
    ClusterId, Entry, EntryKind, Found, Member, MemberId, Membership, PROTOCOL, Position, Protocol,
    RestoredState,
};

/// How often a node that waits, or that meets trouble with a peer, says so.
pub(in crate::node) const SAY_EVERY: Duration = Duration::from_secs(5);

/// A founding member as its configuration file lists it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub node_id: String,
    /// Where peers reach it, `host:port`.
    pub raft_addr: String,
    /// Where clients reach it, `host:port`.
    pub http_addr: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} raft={} http={}", self.node_id, self.raft_addr, self.http_addr)
    }
}

/// All founding members, sorted by name: two lists are the same when every field of every member is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Peer>")]
pub struct PeerList(Vec<Peer>);

impl From<Vec<Peer>> for PeerList {
    fn from(mut peers: Vec<Peer>) -> PeerList {
        peers.sort();
        PeerList(peers)
    }
}

impl From<&Membership> for PeerList {
    fn from(membership: &Membership) -> PeerList {
        let peer = |m: &Member| Peer {
            node_id: m.node_id.clone(),
            raft_addr: m.raft_addr.clone(),
            http_addr: m.http_addr.clone(),
        };
        membership.members.iter().map(peer).collect::<Vec<_>>().into()
    }
}

impl PeerList {
    /// The peers, sorted by name.
    pub fn peers(&self) -> &[Peer] {
        &self.0
    }

    /// The peer with this name.
    pub fn by_name(&self, node_id: &str) -> Option<&Peer> {
        self.0.iter().find(|p| p.node_id == node_id)
    }

    /// Who founds: the first name. None for an empty list.
    pub fn founder(&self) -> Option<&Peer> {
        self.0.first()
    }
}

impl fmt::Display for PeerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (n, peer) in self.0.iter().enumerate() {
            write!(f, "{}{peer}", if n == 0 { "" } else { "; " })?;
        }
        f.write_str("]")
    }
}

/// What an unborn node says of itself, to whatever it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unborn {
    /// Its name.
    pub node_id: String,
    /// Its identity, born with its data directory.
    pub member_id: MemberId,
    /// The founding members according to its configuration file.
    pub peers: PeerList,
    /// The backup that it was started with.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "RestoredState::from_wire")]
    pub restored: Option<RestoredState>,
    /// What its program speaks.
    pub protocol: Protocol,
}

/// The two RPCs that carry no cluster id and no target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundRequest {
    /// "Who are you?", with who asks.
    Ask(Unborn),
    /// "This is your first entry."
    Store(StoreFound),
}

/// Hands the found entry over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreFound {
    /// Whom it is meant for.
    pub target: MemberId,
    /// Entry `1@1`.
    pub entry: Entry,
    /// The sender's latest membership: who joins is not in the found entry.
    pub members: Membership,
}

/// The answer to a [`FoundRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundReply {
    /// To an ask: no log here.
    Unborn(Unborn),
    /// To an ask: a member of a cluster.
    Born {
        /// Its name.
        node_id: String,
        /// Its identity.
        member_id: MemberId,
        /// Its cluster.
        cluster_id: ClusterId,
        /// Its latest membership.
        #[serde(deserialize_with = "Membership::from_wire")]
        members: Membership,
        /// Who founded that cluster.
        founders: PeerList,
        /// What its program speaks.
        protocol: Protocol,
    },
    /// To a store: the entry is on disk here, now or since long.
    Stored,
    /// To a store: why not.
    Refused(String),
}

/// Reaches the `/raft/found` route of a peer. `server/peer/client.rs` implements it over HTTP, tests in memory.
pub trait FoundTransport {
    /// One call, bounded in time by the implementation (about a second for a peer that does not answer).
    fn found(&self, raft_addr: &str, request: &FoundRequest) -> Result<FoundReply, PeerError>;
}

/// What a born member knows of the founding: it answers `/raft/found` from it and hands the entry over to members
/// that missed it.
#[derive(Clone)]
pub struct BirthRecord {
    own: MemberId,
    entry: Entry,
    found: Arc<Found>,
}

/// What to do about a peer that answered `unborn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnbornStep {
    /// It missed the founding: send it this and go on.
    Store(StoreFound),
    /// It lost its identity. Send it this, so that it ends and says so too, and log the repair.
    Replaced {
        /// Addressed to the lost identity.
        store: StoreFound,
        /// What happened and what to do.
        repair: String,
    },
}

impl BirthRecord {
    /// For the member `own` of the cluster that `entry` founded. Panics when `entry` is not a found entry: recovery
    /// checked it.
    pub fn new(own: MemberId, entry: Entry) -> BirthRecord {
        let found = Arc::new(check_found(&entry).expect("recovery checked the first entry"));
        BirthRecord { own, entry, found }
    }

    /// The cluster.
    pub fn cluster_id(&self) -> ClusterId {
        self.found.cluster_id
    }

    /// This member.
    pub fn member_id(&self) -> MemberId {
        self.own
    }

    /// The peer addressed as `to`, a member of the latest membership `latest`, answered `unborn` with this name and
    /// identity.
    pub fn handle_unborn(
        &self,
        to: &Target,
        node_id: &str,
        member_id: MemberId,
        latest: &Membership,
    ) -> UnbornStep {
        let store = StoreFound { target: to.member_id, entry: self.entry.clone(), members: latest.clone() };
        if member_id == to.member_id {
            return UnbornStep::Store(store);
        }
        let name = latest.get(to.member_id).map_or("NAME", |m| m.node_id.as_str());
        let repair = format!(
            "the node at {} is member {} of this cluster no more: it calls itself {:?}, member {}, and has no log; \
             bring its old data_dir back, or replace the member: dkv-cli member replace {name} {name}",
            to.raft_addr, to.member_id, node_id, member_id
        );
        UnbornStep::Replaced { store, repair }
    }

    /// Answers `/raft/found` at a born member; `latest` is its latest membership.
    pub fn handle_found(&self, request: &FoundRequest, latest: &Membership) -> FoundReply {
        let store = match request {
            FoundRequest::Store(store) => store,
            FoundRequest::Ask(_) => {
                return FoundReply::Born {
                    node_id: latest.get(self.own).map(|m| m.node_id.clone()).unwrap_or_default(),
                    member_id: self.own,
                    cluster_id: self.found.cluster_id,
                    members: latest.clone(),
                    founders: (&self.found.members).into(),
                    protocol: PROTOCOL,
                };
            }
        };
        if store.target != self.own {
            return FoundReply::Refused(format!("meant for member {}, this is {}", store.target, self.own));
        }
        if store.entry != self.entry {
            return FoundReply::Refused(format!(
                "member {} belongs to cluster {}",
                self.own,
                self.cluster_id()
            ));
        }
        FoundReply::Stored
    }
}

/// Hands over to whichever peer answers `unborn`, and logs what an operator must know: the same trouble with the same
/// peer once in 5 s.
pub struct Deliveries {
    birth_record: BirthRecord,
    transport: Box<dyn FoundTransport + Send + Sync>,
    said: Mutex<BTreeMap<MemberId, Instant>>,
}

impl Deliveries {
    /// For the member that `birth_record` describes.
    pub fn new(birth_record: BirthRecord, transport: Box<dyn FoundTransport + Send + Sync>) -> Deliveries {
        Deliveries { birth_record, transport, said: Mutex::default() }
    }

    /// This as what [`Node::start`](crate::node::Node::start) takes.
    pub fn on_unborn(self) -> OnUnborn {
        Box::new(move |peer| self.handle_unborn(&peer))
    }

    /// An RPC was answered `unborn`. Makes one call to that peer.
    pub fn handle_unborn(&self, peer: &UnbornPeer) {
        let UnbornPeer { to, node_id, member_id, latest } = peer;
        match self.birth_record.handle_unborn(to, node_id, *member_id, latest) {
            UnbornStep::Store(store) => {
                let name = format!("{node_id} at {} (member {member_id})", to.raft_addr);
                let trouble = match self.transport.found(&to.raft_addr, &FoundRequest::Store(store)) {
                    Ok(FoundReply::Stored) => {
                        log::info!(
                            "{name} was unborn: handed cluster {} over",
                            self.birth_record.cluster_id()
                        );
                        return;
                    }
                    Ok(FoundReply::Refused(text)) => text,
                    Ok(other) => format!("it answers {other:?}"),
                    Err(error) => error.to_string(),
                };
                if self.is_due(to.member_id) {
                    log::warn!("{name} is unborn and cannot be handed the cluster: {trouble}");
                }
            }
            UnbornStep::Replaced { store, repair } => {
                if self.is_due(to.member_id) {
                    log::warn!("{repair}");
                    // So that it learns why it is never heard, and ends; whatever it answers changes nothing here.
                    let _ = self.transport.found(&to.raft_addr, &FoundRequest::Store(store));
                }
            }
        }
    }

    fn is_due(&self, peer: MemberId) -> bool {
        let mut said = self.said.lock().expect("nothing panics under this lock");
        let now = Instant::now();
        let is_due = said.get(&peer).is_none_or(|&at| now >= at + SAY_EVERY);
        if is_due {
            said.insert(peer, now);
        }
        is_due
    }
}

/// The found record of entry `1@1`; anything else is refused by its text.
pub(in crate::node) fn check_found(entry: &Entry) -> Result<Found, String> {
    if entry.kind() != EntryKind::Found || entry.position() != Position::new(1, 1) {
        return Err(format!("{entry:?} is not the found entry 1@1"));
    }
    entry.found().ok_or_else(|| format!("{entry:?} carries no found record"))
}
