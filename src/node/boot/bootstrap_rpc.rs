//! The messages between nodes at a bootstrap, and the initialized member's part: it answers `/raft/bootstrap` and
//! sends the genesis entry to members that missed it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::node::{OnUninitialized, PeerError, Target, UninitializedPeer};
use crate::raft::{
    ClusterId, Entry, EntryKind, Genesis, Member, MemberId, Membership, PROTOCOL, Position, Protocol,
    RestoredState,
};

/// How often a node logs that it waits, or that it has trouble with a peer.
pub(in crate::node) const SAY_EVERY: Duration = Duration::from_secs(5);

/// An initial member as its configuration file lists it.
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

/// All initial members, sorted by name: two lists are the same when every field of every member is.
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

    /// The peer that bootstraps: the first name. `None` for an empty list.
    pub fn bootstrap_node(&self) -> Option<&Peer> {
        self.0.first()
    }

    /// What is different in the list `stored`, name by name; empty for two equal lists.
    pub fn differences(&self, stored: &PeerList) -> String {
        let configured = self.0.iter().filter_map(|peer| match stored.by_name(&peer.node_id) {
            None => Some(format!("{} is no member", peer.node_id)),
            Some(is) if is != peer => {
                Some(format!("{is} is a member, not raft={} http={}", peer.raft_addr, peer.http_addr))
            }
            Some(_) => None,
        });
        let missing = stored.0.iter().filter(|peer| self.by_name(&peer.node_id).is_none());
        let missing = missing.map(|peer| format!("{peer} is a member too"));
        configured.chain(missing).collect::<Vec<_>>().join("; ")
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

/// What an uninitialized node says about itself, in answer to any RPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uninitialized {
    /// Its name.
    pub node_id: String,
    /// Its identity, created with its data directory.
    pub member_id: MemberId,
    /// The initial members according to its configuration file.
    pub peers: PeerList,
    /// The backup that it was started with.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "RestoredState::from_wire")]
    pub restored: Option<RestoredState>,
    /// The protocol version of its program.
    pub protocol: Protocol,
}

/// The two RPCs that carry no cluster id and no target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootstrapRequest {
    /// "Who are you?", with what the asking node says about itself.
    Ask(Uninitialized),
    /// "This is your first entry."
    Store(StoreGenesis),
}

/// Sends the genesis entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreGenesis {
    /// The member that it is meant for.
    pub target: MemberId,
    /// Entry `1@1`.
    pub entry: Entry,
    /// The sender's latest membership: a node that joins is not in the genesis entry.
    pub members: Membership,
}

/// The answer to a [`BootstrapRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootstrapReply {
    /// To an ask: no log here.
    Uninitialized(Uninitialized),
    /// To an ask: a member of a cluster.
    Initialized {
        /// Its name.
        node_id: String,
        /// Its identity.
        member_id: MemberId,
        /// Its cluster.
        cluster_id: ClusterId,
        /// Its latest membership.
        #[serde(deserialize_with = "Membership::from_wire")]
        members: Membership,
        /// The members that bootstrapped that cluster.
        initial_members: PeerList,
        /// The protocol version of its program.
        protocol: Protocol,
    },
    /// To a store: the entry is on disk here, now or from an earlier time.
    Stored,
    /// To a store: why not.
    Refused(String),
}

/// Reaches the `/raft/bootstrap` route of a peer. `server/peer/client.rs` implements it over HTTP, tests in memory.
pub trait BootstrapTransport {
    /// One call, bounded in time by the implementation (about a second for a peer that does not answer).
    fn bootstrap(&self, raft_addr: &str, request: &BootstrapRequest) -> Result<BootstrapReply, PeerError>;
}

/// What an initialized member knows about the bootstrap. The member uses it to answer `/raft/bootstrap` and to send
/// the entry to members that missed it.
#[derive(Clone)]
pub struct BootstrapRecord {
    own: MemberId,
    entry: Entry,
    genesis: Arc<Genesis>,
}

/// What to do about a peer that answered `uninitialized`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UninitializedStep {
    /// The peer missed the bootstrap: send it this and go on.
    Store(StoreGenesis),
    /// The peer lost its identity. Send it this, so that it also reports the loss and ends, and log the repair.
    Replaced {
        /// Addressed to the lost identity.
        store: StoreGenesis,
        /// What happened and what to do.
        repair: String,
    },
}

impl BootstrapRecord {
    /// The record for the member `own` of the cluster that `entry` bootstrapped. Panics when `entry` is not a genesis
    /// entry: recovery checked it.
    pub fn new(own: MemberId, entry: Entry) -> BootstrapRecord {
        let genesis = Arc::new(check_genesis(&entry).expect("recovery checked the first entry"));
        BootstrapRecord { own, entry, genesis }
    }

    /// The cluster.
    pub fn cluster_id(&self) -> ClusterId {
        self.genesis.cluster_id
    }

    /// This member.
    pub fn member_id(&self) -> MemberId {
        self.own
    }

    /// The peer addressed as `to`, a member of the latest membership `latest`, answered `uninitialized` with this name
    /// and identity.
    pub fn handle_uninitialized(
        &self,
        to: &Target,
        node_id: &str,
        member_id: MemberId,
        latest: &Membership,
    ) -> UninitializedStep {
        let store = StoreGenesis { target: to.member_id, entry: self.entry.clone(), members: latest.clone() };
        if member_id == to.member_id {
            return UninitializedStep::Store(store);
        }
        let name = latest.get(to.member_id).map_or("NAME", |m| m.node_id.as_str());
        let repair = format!(
            "the node at {} is member {} of this cluster no more: it calls itself {:?}, member {}, and has no log; \
             bring its old data_dir back, or replace the member: dkv-cli member replace {name} {name}",
            to.raft_addr, to.member_id, node_id, member_id
        );
        UninitializedStep::Replaced { store, repair }
    }

    /// Answers `/raft/bootstrap` at an initialized member; `latest` is its latest membership.
    pub fn handle_bootstrap(&self, request: &BootstrapRequest, latest: &Membership) -> BootstrapReply {
        let store = match request {
            BootstrapRequest::Store(store) => store,
            BootstrapRequest::Ask(_) => {
                return BootstrapReply::Initialized {
                    node_id: latest.get(self.own).map(|m| m.node_id.clone()).unwrap_or_default(),
                    member_id: self.own,
                    cluster_id: self.genesis.cluster_id,
                    members: latest.clone(),
                    initial_members: (&self.genesis.members).into(),
                    protocol: PROTOCOL,
                };
            }
        };
        if store.target != self.own {
            return BootstrapReply::Refused(format!(
                "meant for member {}, this is {}",
                store.target, self.own
            ));
        }
        if store.entry != self.entry {
            return BootstrapReply::Refused(format!(
                "member {} belongs to cluster {}",
                self.own,
                self.cluster_id()
            ));
        }
        BootstrapReply::Stored
    }
}

/// Sends the genesis entry to every peer that answers `uninitialized`. Logs what an operator must know: the same
/// trouble with the same peer at most once in 5 s.
pub struct BootstrapSender {
    bootstrap_record: BootstrapRecord,
    transport: Box<dyn BootstrapTransport + Send + Sync>,
    said: Mutex<BTreeMap<MemberId, Instant>>,
}

impl BootstrapSender {
    /// For the member that `bootstrap_record` describes.
    pub fn new(
        bootstrap_record: BootstrapRecord,
        transport: Box<dyn BootstrapTransport + Send + Sync>,
    ) -> BootstrapSender {
        BootstrapSender { bootstrap_record, transport, said: Mutex::default() }
    }

    /// Converts this into the callback that [`Node::start`](crate::node::Node::start) takes.
    pub fn on_uninitialized(self) -> OnUninitialized {
        Box::new(move |peer| self.handle_uninitialized(&peer))
    }

    /// An RPC was answered `uninitialized`. Makes one call to that peer.
    pub fn handle_uninitialized(&self, peer: &UninitializedPeer) {
        let UninitializedPeer { to, node_id, member_id, latest } = peer;
        match self.bootstrap_record.handle_uninitialized(to, node_id, *member_id, latest) {
            UninitializedStep::Store(store) => {
                let name = format!("{node_id} at {} (member {member_id})", to.raft_addr);
                let trouble = match self.transport.bootstrap(&to.raft_addr, &BootstrapRequest::Store(store)) {
                    Ok(BootstrapReply::Stored) => {
                        log::info!(
                            "{name} was uninitialized: sent it the genesis entry of cluster {}",
                            self.bootstrap_record.cluster_id()
                        );
                        return;
                    }
                    Ok(BootstrapReply::Refused(text)) => text,
                    Ok(other) => format!("it answers {other:?}"),
                    Err(error) => error.to_string(),
                };
                if self.is_due(to.member_id) {
                    log::warn!("{name} is uninitialized and cannot be sent the genesis entry: {trouble}");
                }
            }
            UninitializedStep::Replaced { store, repair } => {
                if self.is_due(to.member_id) {
                    log::warn!("{repair}");
                    // The peer learns why it gets no heartbeats, and ends. Its answer changes nothing here.
                    let _ = self.transport.bootstrap(&to.raft_addr, &BootstrapRequest::Store(store));
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

/// The genesis record of entry `1@1`; for any other entry, the text says why it is refused.
pub(in crate::node) fn check_genesis(entry: &Entry) -> Result<Genesis, String> {
    if entry.kind() != EntryKind::Genesis || entry.position() != Position::new(1, 1) {
        return Err(format!("{entry:?} is not the genesis entry 1@1"));
    }
    entry.genesis().ok_or_else(|| format!("{entry:?} carries no genesis record"))
}
