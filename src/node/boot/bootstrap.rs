//! How a cluster is initialized: the protocol between nodes that have no log yet, and how an initialized member sends
//! the genesis entry to one that missed it. Plain structs with step functions; [`run`](Bootstrap::run) is the loop
//! around them.
//!
//! The first name of the sorted `peers` is the bootstrap node. It asks all other nodes in one round. If all of them
//! are uninitialized and have the same list, it draws the cluster id and is initialized with entry `1@1`. It tells no
//! other node before that entry is synced and the identity file names the cluster (`data_dir`). So
//! a bootstrap node that dies earlier may bootstrap again, and a bootstrap node that dies later remembers the
//! cluster. From then on, when a member of the membership answers `uninitialized` to any initialized member, leader
//! or not, the initialized member sends it the same entry
//! ([`BootstrapRecord`](super::bootstrap_rpc::BootstrapRecord)): the bootstrap completes as long as any initialized
//! member lives.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::bootstrap_rpc::{
    BootstrapReply, BootstrapRequest, BootstrapTransport, Peer, PeerList, SAY_EVERY, StoreGenesis,
    Uninitialized, check_genesis,
};
use super::data_dir::{DataDir, IdentityConfig, Initialized};
use super::error::DataDirError;
use super::restore::Backup;
use crate::node::{Completion, PeerError};
use crate::raft::{
    ClusterId, Entry, Genesis, Member, MemberId, Membership, PROTOCOL, Payload, Position, Protocol,
    RestoredState, Settings, VersionMismatch, check_version,
};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

/// How long the bootstrap node pauses before it asks again, when not all nodes have answered.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// The same at first: nodes that are started together are all there within a moment, and a refused connection costs
/// little.
const ASK_EVERY_AT_FIRST: Duration = Duration::from_millis(20);

/// How long after its start the bootstrap node asks so often.
const AT_FIRST: Duration = Duration::from_secs(5);

/// Maximum number of genesis entries that wait for the bootstrap thread; more are refused and will be sent again.
const MAILBOX: usize = 16;

/// A peer and two lists that contradict each other.
#[derive(Debug)]
pub struct Dispute {
    /// The peer as this node's configuration names it.
    pub peer: Peer,
    /// This node's initial members.
    pub ours: PeerList,
    /// The initial members or the membership of the node that answered.
    pub theirs: PeerList,
}

/// Why a node cannot be initialized as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A peer waits with another list of initial members.
    #[error(
        "peer {} has other `peers` than this node: here {}, there {}; make the configuration files equal and start \
         both again", .0.peer, .0.ours, .0.theirs
    )]
    OtherPeers(Box<Dispute>),
    /// A peer was started with another state as the beginning of the cluster.
    #[error(
        "peer {peer} was started with {}, this node with {}: start every initial member with --restore and the same \
         backup, or none", state_text(*.theirs), state_text(*.ours)
    )]
    OtherState {
        /// The peer as this node's configuration names it.
        peer: Box<Peer>,
        /// What this node was started with.
        ours: Option<RestoredState>,
        /// What the peer was started with.
        theirs: Option<RestoredState>,
    },
    /// A peer is a member of that cluster already.
    #[error(
        "peer {} already belongs to cluster {cluster_id} with {}, but this node has no log and was about to bootstrap {}; \
         if this node is to join that cluster, start it with --join {}; if this is to be a new cluster, correct \
         `peers` or empty the data_dir of {}", .dispute.peer, .dispute.theirs, .dispute.ours,
         .dispute.peer.http_addr, .dispute.peer.node_id
    )]
    PeerIsInitialized {
        /// Its cluster.
        cluster_id: ClusterId,
        /// The peer, our list and its membership.
        dispute: Box<Dispute>,
    },
    /// Another node answers at a peer's address.
    #[error(
        "at {} is node {found:?}, expected {:?}; correct `peers` (here {}, there {})",
        .dispute.peer.raft_addr, .dispute.peer.node_id, .dispute.ours, .dispute.theirs
    )]
    OtherNode {
        /// The name of the node that answers.
        found: String,
        /// The peer that was expected there, our list and its list.
        dispute: Box<Dispute>,
    },
    /// Two nodes with one identity: a copied data directory.
    #[error(
        "{first} and {second} have the same member_id {member_id}: one data_dir is a copy of the other; empty one of \
         them and start that node again"
    )]
    SharedIdentity {
        /// One of them.
        first: String,
        /// The other one.
        second: String,
        /// The identity.
        member_id: MemberId,
    },
    /// A cluster knows this node's name under another identity.
    #[error(
        "cluster {cluster_id} knows node {node_id:?} as member {stored}, but this data_dir was initialized as member {own}: \
         the old data is gone; bring the old data_dir back, or replace the member: run `dkv-cli member replace \
         {node_id} {node_id}` and start this node again meanwhile"
    )]
    Replaced {
        /// The cluster.
        cluster_id: ClusterId,
        /// This node's name.
        node_id: String,
        /// The member of that name.
        stored: MemberId,
        /// This node's identity.
        own: MemberId,
    },
    /// The cluster uses a version that this node's program does not read.
    #[error("cluster {cluster_id} lets this node in, but its program cannot follow: {mismatch}")]
    OtherProgram {
        /// The cluster.
        cluster_id: ClusterId,
        /// Which versions.
        mismatch: VersionMismatch,
    },
    /// The initialization did not reach the disk.
    #[error(transparent)]
    Initialization(#[from] DataDirError),
}

impl BootstrapError {
    /// Exit code of a server that ends with this error: 1 run-time failure, 2 configuration, 3 data corrupt,
    /// 4 identity refused, 5 another program is needed.
    pub fn exit_code(&self) -> u8 {
        match self {
            BootstrapError::Initialization(error) => error.exit_code(),
            BootstrapError::OtherProgram { .. } => 5,
            _ => 4,
        }
    }
}

/// The result of a genesis entry at the node that received it.
pub enum Received {
    /// Initialized: the entry is synced and the identity file names the cluster. Answer [`BootstrapReply::Stored`].
    Initialized(Box<Initialized>),
    /// The entry is not for this node, or not the one that it waits for. The node goes on waiting.
    Refused(String),
    /// This node must end: answer [`BootstrapReply::Refused`] with the error's text and end with it.
    End(BootstrapError),
}

/// A node without a log. Holds no thread and no lock: step functions for [`Bootstrap::run`] and the simulator.
pub struct Bootstrap {
    data_dir: DataDir,
    peers: PeerList,
    settings: Settings,
    joins: bool,
    /// The cluster that it joins, when that is known.
    joined: Arc<OnceLock<ClusterId>>,
    listen_raft: bool,
    /// The protocol version of this node's program.
    speaks: Protocol,
    /// The state that the cluster begins with; if there is none, the state is empty.
    backup: Option<Backup>,
    /// The nodes for which this node waits and why, for the log.
    waiting: Vec<String>,
}

impl Bootstrap {
    /// The node with the identity in `data_dir`, and with the initial members and the settings of its configuration
    /// (the settings count only if it bootstraps). Panics unless `peers` lists this node: the configuration was
    /// validated.
    pub fn new(data_dir: DataDir, config: &IdentityConfig) -> Bootstrap {
        let IdentityConfig { peers, settings, joins, listen_raft, .. } = config.clone();
        let own = &data_dir.identity().node_id;
        assert!(peers.by_name(own).is_some(), "the configuration lists its own node");
        let bootstrap_node = peers.bootstrap_node().expect("not empty");
        let waiting = if joins {
            vec!["a member of the cluster that it joins to send the genesis entry".to_owned()]
        } else if bootstrap_node.node_id == *own {
            peers.peers().iter().filter(|p| p.node_id != *own).map(Peer::to_string).collect()
        } else {
            vec![format!(
                "the bootstrap node {bootstrap_node}, or any initialized member, to send the genesis entry"
            )]
        };
        Bootstrap {
            data_dir,
            peers,
            settings,
            joins,
            joined: Arc::default(),
            listen_raft,
            speaks: PROTOCOL,
            backup: None,
            waiting,
        }
    }

    /// Sets the protocol version of the program. Only tests change it from the version of this build.
    pub fn set_program(&mut self, speaks: Protocol) {
        self.speaks = speaks;
    }

    /// The cluster begins with this state. Must be called before any other node knows of this node.
    pub fn restore(&mut self, backup: Backup) {
        self.backup = Some(backup);
    }

    /// What this node answers to every peer RPC.
    pub fn uninitialized(&self) -> Uninitialized {
        let identity = self.data_dir.identity();
        Uninitialized {
            node_id: identity.node_id.clone(),
            member_id: identity.member_id,
            peers: self.peers.clone(),
            restored: self.backup.as_ref().map(Backup::restored),
            protocol: self.speaks,
        }
    }

    /// Whether this node bootstraps the cluster. A node that joins a cluster never does.
    pub fn is_bootstrap_node(&self) -> bool {
        !self.joins
            && self.peers.bootstrap_node().is_some_and(|p| p.node_id == self.data_dir.identity().node_id)
    }

    /// The nodes to ask in the next round: the bootstrap node asks all others, the other nodes ask none.
    pub fn to_ask(&self) -> Vec<Peer> {
        if !self.is_bootstrap_node() {
            return Vec::new();
        }
        let own = &self.data_dir.identity().node_id;
        self.peers.peers().iter().filter(|p| p.node_id != *own).cloned().collect()
    }

    /// The nodes for which this node waits and why, in one line.
    pub fn waiting_for(&self) -> String {
        self.waiting.join("; ")
    }

    /// The bootstrap node's step: the answers of one whole round, one per peer of [`Bootstrap::to_ask`]. Bootstraps
    /// the cluster when all peers are uninitialized with the same list. Answers of an earlier round are ignored,
    /// because a peer may have been wiped after it.
    pub fn handle_answers(
        &mut self,
        answers: Vec<(Peer, Result<BootstrapReply, PeerError>)>,
    ) -> Result<Option<Initialized>, BootstrapError> {
        assert!(self.is_bootstrap_node(), "only the bootstrap node asks");
        let mut members = vec![self.member(&self.uninitialized())];
        let mut protocol = self.speaks;
        self.waiting.clear();
        for (peer, answer) in answers {
            match answer {
                Ok(BootstrapReply::Uninitialized(uninitialized))
                    if self.goes_its_own_way(&peer, &uninitialized) =>
                {
                    self.waiting
                        .push(format!("{peer} (it joins a cluster instead of bootstrapping this one)"));
                }
                Ok(BootstrapReply::Uninitialized(uninitialized)) => {
                    match self.too_far_apart(&peer, uninitialized.protocol) {
                        Some(text) => self.waiting.push(text),
                        None => {
                            protocol = protocol.min(uninitialized.protocol);
                            members.push(self.accept(&peer, uninitialized)?);
                        }
                    }
                }
                Ok(BootstrapReply::Initialized { node_id, cluster_id, members, initial_members, .. }) => {
                    // A node that was added again a moment ago, or was removed, does not appear in the membership
                    // that it has, because that membership is old.
                    let is_nameless = node_id.is_empty();
                    if !is_nameless && node_id != peer.node_id {
                        let dispute = self.dispute(&peer, (&members).into());
                        return Err(BootstrapError::OtherNode { found: node_id, dispute });
                    }
                    if initial_members != self.peers {
                        let dispute = self.dispute(&peer, (&members).into());
                        return Err(BootstrapError::PeerIsInitialized { cluster_id, dispute });
                    }
                    if !is_nameless {
                        self.check_replaced(cluster_id, &members)?;
                    }
                    self.waiting.push(self.to_be_added(&peer.to_string(), &members));
                }
                Ok(other) => self.waiting.push(format!("{peer} (answered out of turn: {other:?})")),
                Err(error) => self.waiting.push(format!("{peer} ({error})")),
            }
        }
        if members.len() < self.peers.peers().len() {
            return Ok(None);
        }
        check_identities(&members)?;
        members.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        let cluster_id = ClusterId(self.data_dir.random_id()?);
        let members = Membership { members };
        let settings = self.backup.as_ref().map_or(&self.settings, Backup::settings).clone();
        let restored = self.backup.as_ref().map(Backup::restored);
        // A restored state keeps its version; the leader raises the version when that is allowed.
        let protocol = self.backup.as_ref().map_or(protocol, Backup::version);
        let genesis = Genesis { cluster_id, settings, protocol, members, restored };
        let entry = Entry::new(Position::new(1, 1), 0, &Payload::Genesis(genesis));
        let initialized = self.data_dir.initialize(entry, self.backup.take())?;
        Ok(Some(Initialized { is_new_cluster: true, ..initialized }))
    }

    /// Why an initial member's program cannot share a cluster with this node's program: it does not read the version
    /// that both speak, or the version of the backup.
    fn too_far_apart(&self, peer: &Peer, speaks: Protocol) -> Option<String> {
        let common = self.backup.as_ref().map_or(self.speaks.min(speaks), Backup::version);
        let of_peer = check_version(common, speaks).err().map(|mismatch| (peer.to_string(), mismatch));
        let own = check_version(common, self.speaks).err().map(|mismatch| ("this node".to_owned(), mismatch));
        let (who, mismatch) = of_peer.or(own)?;
        Some(format!("{peer} (the cluster would not suit {who}: {mismatch})"))
    }

    /// Checks a cluster that this node belongs to or did belong to: its membership must not have another member with
    /// this node's name.
    fn check_replaced(&self, cluster_id: ClusterId, members: &Membership) -> Result<(), BootstrapError> {
        let own = self.data_dir.identity();
        match members.by_name(&own.node_id) {
            Some(named) if named.member_id != own.member_id => Err(BootstrapError::Replaced {
                cluster_id,
                node_id: own.node_id.clone(),
                stored: named.member_id,
                own: own.member_id,
            }),
            _ => Ok(()),
        }
    }

    fn to_be_added(&self, peer: &str, members: &Membership) -> String {
        let own = self.data_dir.identity();
        match members.get(own.member_id) {
            Some(_) => format!("{peer}, or another member, to send the genesis entry"),
            None => format!(
                "an operator to add it again: {peer} belongs to a cluster that this node is no member of any more \
                 (dkv-cli member replace {0} {0})",
                own.node_id
            ),
        }
    }

    /// Whether an uninitialized peer lists only itself: either it joins a cluster and will soon be initialized into
    /// that cluster, or it is about to bootstrap its own cluster; then the next answer says so.
    fn goes_its_own_way(&self, peer: &Peer, uninitialized: &Uninitialized) -> bool {
        let is_itself = |p: &Peer| p.node_id == peer.node_id && p.raft_addr == peer.raft_addr;
        uninitialized.node_id == peer.node_id && uninitialized.peers.peers().iter().all(is_itself)
    }

    /// The member that an uninitialized peer will become.
    fn accept(&self, peer: &Peer, uninitialized: Uninitialized) -> Result<Member, BootstrapError> {
        if uninitialized.node_id != peer.node_id {
            let dispute = self.dispute(peer, uninitialized.peers);
            return Err(BootstrapError::OtherNode { found: uninitialized.node_id, dispute });
        }
        if uninitialized.peers != self.peers {
            return Err(BootstrapError::OtherPeers(self.dispute(peer, uninitialized.peers)));
        }
        let ours = self.backup.as_ref().map(Backup::restored);
        if uninitialized.restored != ours {
            return Err(BootstrapError::OtherState {
                peer: Box::new(peer.clone()),
                ours,
                theirs: uninitialized.restored,
            });
        }
        Ok(self.member(&uninitialized))
    }

    fn dispute(&self, peer: &Peer, theirs: PeerList) -> Box<Dispute> {
        Box::new(Dispute { peer: peer.clone(), ours: self.peers.clone(), theirs })
    }

    fn member(&self, uninitialized: &Uninitialized) -> Member {
        let peer = self.peers.by_name(&uninitialized.node_id).expect("checked to be in the list");
        Member {
            node_id: uninitialized.node_id.clone(),
            member_id: uninitialized.member_id,
            raft_addr: peer.raft_addr.clone(),
            http_addr: peer.http_addr.clone(),
            voter: true,
            promote: false,
        }
    }

    /// The genesis entry has arrived. When it is addressed to this node and bootstraps the cluster that this node
    /// waits for, the node is initialized before this returns.
    pub fn handle_store(&mut self, store: StoreGenesis) -> Received {
        let genesis = match check_genesis(&store.entry) {
            Ok(genesis) => genesis,
            Err(text) => return Received::Refused(text),
        };
        let own = self.uninitialized();
        if let Err(replaced) = self.check_replaced(genesis.cluster_id, &store.members) {
            return Received::End(replaced);
        }
        if store.target != own.member_id {
            return Received::Refused(format!(
                "meant for member {}, this is {}",
                store.target, own.member_id
            ));
        }
        if let Err(text) = self.check_offer(&genesis, &store.members) {
            self.waiting = vec![text.clone()];
            return Received::Refused(text);
        }
        if let Err(mismatch) = check_version(genesis.protocol, self.speaks) {
            return Received::End(BootstrapError::OtherProgram { cluster_id: genesis.cluster_id, mismatch });
        }
        // A node that joins later gets the state from the leader.
        let bootstraps = genesis.members.get(own.member_id).is_some();
        let backup = self.backup.take().filter(|_| bootstraps);
        match self.data_dir.initialize(store.entry, backup) {
            Ok(initialized) => Received::Initialized(Box::new(initialized)),
            Err(error) => Received::End(error.into()),
        }
    }

    /// Checks that a joining node is offered the cluster that it joins, and not another cluster that lists it as a
    /// member.
    fn check_joined(&self, offered: ClusterId) -> Result<(), String> {
        let own = &self.data_dir.identity().node_id;
        match self.joined.get() {
            _ if !self.joins => Ok(()),
            Some(joined) if *joined == offered => Ok(()),
            Some(joined) => Err(format!(
                "node {own} was offered cluster {offered}, but it joins cluster {joined}: remove {own} from the members of \
                 cluster {offered}"
            )),
            None => Err(format!(
                "node {own} was offered cluster {offered} before it knows which cluster it joins: the node that --join \
                 names has not said that yet"
            )),
        }
    }

    /// Checks that a cluster is the one that this node waits for: this node bootstraps it together with the same
    /// other nodes, or the members of the cluster have added this node.
    fn check_offer(&self, genesis: &Genesis, members: &Membership) -> Result<(), String> {
        self.check_joined(genesis.cluster_id)?;
        let own = self.uninitialized();
        let theirs = PeerList::from(&genesis.members);
        let bootstraps = genesis.members.get(own.member_id).is_some();
        if bootstraps && theirs == self.peers {
            if genesis.restored == own.restored {
                return Ok(());
            }
            return Err(format!(
                "node {} was offered cluster {}, which begins with {}, but was started with {}: start it again {}",
                own.node_id,
                genesis.cluster_id,
                state_text(genesis.restored),
                state_text(own.restored),
                if genesis.restored.is_some() {
                    "with --restore and that backup"
                } else {
                    "without --restore"
                }
            ));
        }
        // An initial member must agree with the others on the cluster; a member that is added later only has to be
        // added.
        let Some(added) = members.get(own.member_id).filter(|_| !bootstraps) else {
            return Err(format!(
                "node {} was offered cluster {} with other `peers`: here {}, there {theirs}; make its configuration \
                 file equal and start it again",
                own.node_id, genesis.cluster_id, self.peers
            ));
        };
        let raft_addr = &self.peers.by_name(&own.node_id).expect("lists its own node").raft_addr;
        if added.node_id != own.node_id || (added.raft_addr != *raft_addr && !self.listen_raft) {
            return Err(format!(
                "node {} raft={raft_addr} was added to cluster {} as {} raft={}: remove that member, and add it as it \
                 is configured (or set listen_raft, if that address is forwarded here)",
                own.node_id, genesis.cluster_id, added.node_id, added.raft_addr
            ));
        }
        Ok(())
    }

    /// Runs the protocol on this thread until the node is initialized, must end, or [`BootstrapPort::stop`] is called
    /// (`None`). Logs every 5 s for which nodes it waits.
    pub fn run(
        mut self,
        inbox: &BootstrapInbox,
        transport: &dyn BootstrapTransport,
    ) -> Result<Option<Initialized>, BootstrapError> {
        let began = Instant::now();
        let mut say_at = began + SAY_EVERY.min(Duration::from_secs(1));
        loop {
            if let Some(initialized) = self.ask_all(inbox, transport)? {
                return Ok(Some(initialized));
            }
            if Instant::now() >= say_at {
                log::info!(
                    "{}: not initialized yet, waiting for {}",
                    self.data_dir.identity().node_id,
                    self.waiting_for()
                );
                say_at = Instant::now() + SAY_EVERY;
            }
            let pause = if began.elapsed() < AT_FIRST { ASK_EVERY_AT_FIRST } else { ASK_EVERY };
            let until = if self.is_bootstrap_node() { say_at.min(Instant::now() + pause) } else { say_at };
            match inbox.messages.recv_deadline(until) {
                Ok(Message::Store(store, done)) => match self.handle_store(store) {
                    Received::Initialized(initialized) => {
                        done(BootstrapReply::Stored);
                        return Ok(Some(*initialized));
                    }
                    Received::Refused(text) => {
                        log::warn!("{text}");
                        done(BootstrapReply::Refused(text));
                    }
                    Received::End(error) => {
                        done(BootstrapReply::Refused(error.to_string()));
                        return Err(error);
                    }
                },
                Ok(Message::Stop) => return Ok(None),
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return Ok(None),
            }
            if inbox.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
        }
    }

    fn ask_all(
        &mut self,
        inbox: &BootstrapInbox,
        transport: &dyn BootstrapTransport,
    ) -> Result<Option<Initialized>, BootstrapError> {
        if !self.is_bootstrap_node() {
            return Ok(None);
        }
        let ask = BootstrapRequest::Ask(self.uninitialized());
        let mut answers = Vec::new();
        for peer in self.to_ask() {
            if inbox.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let answer = transport.bootstrap(&peer.raft_addr, &ask);
            answers.push((peer, answer));
        }
        self.handle_answers(answers)
    }
}

fn state_text(restored: Option<RestoredState>) -> String {
    restored.map_or("an empty state".to_owned(), |restored| format!("a backup ({restored})"))
}

fn check_identities(members: &[Member]) -> Result<(), BootstrapError> {
    for (n, first) in members.iter().enumerate() {
        if let Some(second) = members[n + 1..].iter().find(|m| m.member_id == first.member_id) {
            return Err(BootstrapError::SharedIdentity {
                first: first.node_id.clone(),
                second: second.node_id.clone(),
                member_id: first.member_id,
            });
        }
    }
    Ok(())
}

enum Message {
    Store(StoreGenesis, Completion<BootstrapReply>),
    Stop,
}

/// The peer port's side of a bootstrap: what it answers while the node is uninitialized. Never waits, never touches the
/// disk.
#[derive(Clone)]
pub struct BootstrapPort {
    uninitialized: Arc<Uninitialized>,
    joined: Arc<OnceLock<ClusterId>>,
    messages: Sender<Message>,
    stop: Arc<AtomicBool>,
}

/// The bootstrap thread's side of a [`BootstrapPort`].
pub struct BootstrapInbox {
    messages: Receiver<Message>,
    stop: Arc<AtomicBool>,
}

/// Both ends between the peer port and [`Bootstrap::run`].
pub fn bootstrap_port(bootstrap: &Bootstrap) -> (BootstrapPort, BootstrapInbox) {
    let (sender, receiver) = bounded(MAILBOX);
    let stop = Arc::new(AtomicBool::new(false));
    let port = BootstrapPort {
        uninitialized: Arc::new(bootstrap.uninitialized()),
        joined: bootstrap.joined.clone(),
        messages: sender,
        stop: stop.clone(),
    };
    (port, BootstrapInbox { messages: receiver, stop })
}

impl BootstrapPort {
    /// The answer to every peer RPC except `store`.
    pub fn uninitialized(&self) -> &Uninitialized {
        &self.uninitialized
    }

    /// Tells a joining node which cluster it joins: it is not initialized into any other. Only the first call counts.
    pub fn join(&self, cluster_id: ClusterId) {
        let _ = self.joined.set(cluster_id);
    }

    /// Passes a genesis entry to the bootstrap thread. The thread answers when the entry is synced, or why it
    /// refuses.
    pub fn store(&self, store: StoreGenesis, done: Completion<BootstrapReply>) {
        match self.messages.try_send(Message::Store(store, done)) {
            Ok(()) => {}
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                if let Message::Store(_, done) = message {
                    done(BootstrapReply::Refused("busy being initialized; try again".into()));
                }
            }
        }
    }

    /// Ends [`Bootstrap::run`] after the current call.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        // A full mailbox also wakes the thread, which then checks the flag.
        let _ = self.messages.try_send(Message::Stop);
    }
}
