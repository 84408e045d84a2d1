//! The cluster of these tests: whole nodes in one process, a network of direct calls that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use dkv::node::{
    AdminResult, Administration, BackupResult, Completion, Consistency, Failure, FailureKind, LeaderCall,
    Listeners, Node, NodeOptions, Origin, PeerError, PeerReply, PeerRequest, PeerTransport, Priority, Stored,
    Target, WriteResult,
};
use dkv::raft::{
    ClusterId, Entry, Genesis, HardState, Index, Member, MemberId, Membership, PROTOCOL, Payload, Position,
    RoleKind, Settings, WriteOp,
};
use dkv::store::disk::{Disk, RealDisk};
use dkv::store::wal::{Wal, WalIds, WalOptions};
use dkv::store::{Command, Idempotency, Op};

pub const PATIENCE: Duration = Duration::from_secs(30);
pub const CLUSTER: ClusterId = ClusterId(77);

// ---- the network -----------------------------------------------------------------------------------------------------

/// What becomes of a call from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refused at once: surely not executed.
    Refused,
    /// The request is lost; the caller waits for its timeout.
    Lost,
    /// The request arrives, its answer is lost.
    Mute,
    /// Snapshots are refused, and everything else passes.
    Snapshots,
}

#[derive(Default)]
pub struct Network {
    pub nodes: BTreeMap<MemberId, Arc<Node>>,
    pub faults: BTreeMap<(MemberId, MemberId), Fault>,
    /// Calls that `cancel` ends: who calls whom, what for, and how to tell it.
    pub cancellable: Vec<(MemberId, MemberId, LeaderCall, Sender<()>)>,
    pub cancelled: usize,
    pub forwards: usize,
    /// Forwards and read indexes only are subject to this fault.
    pub bulk_fault: Option<Fault>,
    /// Nodes that were told that they are removed.
    pub removed: BTreeSet<MemberId>,
}

pub type SharedNetwork = Arc<Mutex<Network>>;

pub struct Wire {
    pub from: MemberId,
    pub network: SharedNetwork,
}

pub fn reply_into<T: Send + 'static>(
    sender: &Sender<PeerReply>,
    wrap: impl FnOnce(T) -> PeerReply + Send + 'static,
) -> Completion<T> {
    let sender = sender.clone();
    Box::new(move |value| drop(sender.send(wrap(value))))
}

impl PeerTransport for Wire {
    fn call(
        &self,
        to: &Target,
        priority: Priority,
        request: PeerRequest,
        timeout: Duration,
    ) -> Result<PeerReply, PeerError> {
        let (cancel, is_cancelled) = bounded(1);
        let (peer, fault) = {
            let mut network = self.network.lock().unwrap();
            let call = match request {
                PeerRequest::Forward(_) => Some(LeaderCall::Forward),
                PeerRequest::ReadIndex { .. } => Some(LeaderCall::ReadIndex),
                _ => None,
            };
            network.forwards += usize::from(call == Some(LeaderCall::Forward));
            if let Some(call) = call {
                network.cancellable.push((self.from, to.member_id, call, cancel));
            }
            let bulk = network.bulk_fault.filter(|_| priority == Priority::Bulk);
            let fault = bulk.or(network.faults.get(&(self.from, to.member_id)).copied());
            (network.nodes.get(&to.member_id).cloned(), fault)
        };
        let (sender, answer) = bounded(1);
        let silence = bounded::<PeerReply>(0);
        let is_refused = match fault {
            Some(Fault::Refused) => true,
            Some(Fault::Snapshots) => matches!(request, PeerRequest::InstallSnapshot(_)),
            _ => false,
        };
        let fault = fault.filter(|&fault| fault != Fault::Snapshots);
        let Some(peer) = peer.filter(|_| !is_refused) else {
            return Err(PeerError::NotSent("connection refused".to_owned()));
        };
        if fault != Some(Fault::Lost) {
            let deadline = Instant::now() + timeout;
            match request {
                PeerRequest::RequestVote(r) => {
                    peer.answer_vote(r, reply_into(&sender, PeerReply::RequestVote))
                }
                PeerRequest::AppendEntries(r) => {
                    r.validate().unwrap();
                    peer.answer_append(r, reply_into(&sender, PeerReply::AppendEntries));
                }
                PeerRequest::ReadIndex { .. } => {
                    peer.answer_read_index(deadline, reply_into(&sender, PeerReply::ReadIndex));
                }
                PeerRequest::Forward(writes) => {
                    peer.answer_forward(writes, reply_into(&sender, PeerReply::Forward))
                }
                PeerRequest::InstallSnapshot(r) => {
                    peer.answer_install_snapshot(r, reply_into(&sender, PeerReply::InstallSnapshot));
                }
                PeerRequest::TimeoutNow(r) => {
                    peer.answer_timeout_now(r, reply_into(&sender, PeerReply::TimeoutNow));
                }
                PeerRequest::Administer { what, .. } => {
                    peer.administer(what, deadline, reply_into(&sender, PeerReply::Administer));
                }
            }
        }
        drop(sender);
        let answer = if fault.is_some() { &silence.1 } else { &answer };
        select! {
            recv(answer) -> reply => reply.map_err(|_| PeerError::Unknown("connection closed".to_owned())),
            recv(is_cancelled) -> _ => Err(PeerError::Unknown("cancelled".to_owned())),
            default(timeout) => Err(PeerError::Unknown("timed out".to_owned())),
        }
    }

    fn cancel(&self, to: MemberId, call: LeaderCall) {
        let mut network = self.network.lock().unwrap();
        network.cancelled += 1;
        network.cancellable.retain(|(from, peer, kind, cancel)| {
            let is_meant = (*from, *peer, *kind) == (self.from, to, call);
            if is_meant {
                let _ = cancel.try_send(());
            }
            !is_meant
        });
    }
}

// ---- the cluster -----------------------------------------------------------------------------------------------------

pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub members: Membership,
    pub settings: Settings,
    pub election_timeout: Duration,
    pub snapshot_log_entries: u64,
    pub network: SharedNetwork,
}

pub fn ids(count: u64) -> impl Iterator<Item = MemberId> {
    (1..=count).map(MemberId)
}

/// A voter.
pub fn member(id: MemberId) -> Member {
    Member {
        node_id: format!("n{}", id.0),
        member_id: id,
        raft_addr: format!("n{}:raft", id.0),
        http_addr: format!("n{}:http", id.0),
        voter: true,
        promote: false,
    }
}

impl Cluster {
    /// With a leader, and patient with a busy machine: no test means to see an election that it did not cause.
    pub fn start(count: u64) -> Cluster {
        Cluster::start_with(count, Settings::default(), Duration::from_millis(700)).with_leader()
    }

    pub fn with_leader(self) -> Cluster {
        self.leader();
        self
    }

    pub fn start_with(count: u64, settings: Settings, election_timeout: Duration) -> Cluster {
        Cluster::new(count, settings, election_timeout).started()
    }

    /// Nothing runs yet.
    pub fn new(count: u64, settings: Settings, election_timeout: Duration) -> Cluster {
        Cluster {
            dir: tempfile::tempdir().unwrap(),
            members: Membership { members: ids(count).map(member).collect() },
            settings,
            election_timeout,
            snapshot_log_entries: u64::MAX,
            network: SharedNetwork::default(),
        }
    }

    /// Every initial member is initialized and runs.
    pub fn started(self) -> Cluster {
        for id in self.all_ids() {
            self.create_log(id);
            self.start_node(id);
        }
        self
    }

    pub fn log_dir(&self, id: MemberId) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    pub fn disk(&self, id: MemberId) -> Arc<dyn Disk> {
        Arc::new(RealDisk::open(&self.log_dir(id)).unwrap())
    }

    pub fn genesis_entry(&self) -> Entry {
        let genesis = Genesis {
            protocol: 1,
            cluster_id: CLUSTER,
            settings: self.settings.clone(),
            members: self.members.clone(),
            restored: None,
        };
        Entry::new(Position::new(1, 1), 0, &Payload::Genesis(genesis))
    }

    pub fn create_log(&self, id: MemberId) {
        let entry = self.genesis_entry();
        let mut wal = Wal::create(self.disk(id), wal_ids(id), wal_options()).unwrap();
        let initialization =
            [WriteOp::HardState(HardState { term: 1, voted_for: None }), WriteOp::Entries(vec![entry])];
        wal.write(&initialization).unwrap();
        wal.seal().unwrap();
    }

    pub fn start_node(&self, id: MemberId) {
        assert_eq!(self.start_node_with_warnings(id), [""; 0]);
    }

    pub fn start_node_with_warnings(&self, id: MemberId) -> Vec<String> {
        let (stored, warnings) = Stored::load(self.disk(id), wal_ids(id), wal_options()).unwrap();
        let options = NodeOptions {
            protocol: PROTOCOL,
            hold_version: false,
            cluster_id: CLUSTER,
            node_id: format!("n{}", id.0),
            member_id: id,
            heartbeat: Duration::from_millis(50),
            election_timeout: self.election_timeout,
            append_hold: Duration::from_millis(50),
            disk_stall: Duration::from_secs(10),
            seed: id.0,
            snapshot_log_bytes: 1 << 20,
            snapshot_log_entries: self.snapshot_log_entries,
            check_invariants: true,
        };
        let wire = Arc::new(Wire { from: id, network: self.network.clone() });
        let network = self.network.clone();
        let on_removed = Box::new(move || {
            network.lock().unwrap().removed.insert(id);
        });
        let listeners = Listeners {
            on_uninitialized: Box::new(|_| {}),
            on_removed,
            on_members_changed: Box::new(|_| {}),
        };
        let node = Node::start(options, stored, wire, listeners).unwrap();
        self.network.lock().unwrap().nodes.insert(id, node);
        warnings
    }

    pub fn stop_node(&self, id: MemberId) {
        let node = self.network.lock().unwrap().nodes.remove(&id).expect("the node runs");
        assert!(node.stop(PATIENCE), "the threads of {id} do not end");
    }

    pub fn node(&self, id: MemberId) -> Arc<Node> {
        self.network.lock().unwrap().nodes[&id].clone()
    }

    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.network.lock().unwrap().nodes.values().cloned().collect()
    }

    pub fn all_ids(&self) -> BTreeSet<MemberId> {
        self.members.voters().collect()
    }

    /// What becomes of calls between `one` and everybody else, in both directions.
    pub fn isolate(&self, one: MemberId, fault: Fault) {
        let mut network = self.network.lock().unwrap();
        for other in self.members.voters().filter(|&other| other != one) {
            network.faults.insert((one, other), fault);
            network.faults.insert((other, one), fault);
        }
    }

    pub fn heal(&self) {
        let mut network = self.network.lock().unwrap();
        network.faults.clear();
        network.bulk_fault = None;
    }

    /// The leader that a majority follows.
    pub fn leader(&self) -> MemberId {
        self.leader_among(&self.all_ids())
    }

    pub fn leader_among(&self, some: &BTreeSet<MemberId>) -> MemberId {
        wait_for("a leader", || {
            let running = self.network.lock().unwrap().nodes.clone();
            let running: Vec<_> = running.into_iter().filter(|(id, _)| some.contains(id)).collect();
            let leads = |id: &MemberId| self.node(*id).status().role == RoleKind::Leader;
            let leader = running.iter().map(|(id, _)| *id).find(leads)?;
            let follows = |node: &Node| node.leader().map(|m| m.member_id) == Some(leader);
            running.iter().all(|(_, node)| follows(node)).then_some(leader)
        })
    }

    pub fn follower(&self) -> MemberId {
        let leader = self.leader();
        self.members.voters().find(|&id| id != leader).unwrap()
    }

    /// Every node has applied the same and has the same state.
    pub fn wait_until_equal(&self) {
        wait_for("equal states", || {
            let states: BTreeSet<(Index, u128)> =
                self.nodes().iter().map(|n| n.status()).map(|s| (s.store_index, s.state_hash)).collect();
            (states.len() == 1).then_some(())
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let nodes = std::mem::take(&mut self.network.lock().unwrap().nodes);
        nodes.values().for_each(|node| assert!(node.stop(PATIENCE), "threads of a node do not end"));
    }
}

pub fn wal_ids(id: MemberId) -> WalIds {
    WalIds { cluster_id: CLUSTER, member_id: id }
}

pub fn wal_options() -> WalOptions {
    WalOptions::new(64 << 10)
}

/// Asks until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        // Leaves the processor to the nodes between two looks.
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

pub fn put(key: &str, value: &str) -> Command {
    let op = Op::put(key.into(), value.into());
    Command { op, condition: None, idempotency: None, wall_ms: 0, actor: String::new() }
}

pub fn keyed(command: Command, key: &str) -> Command {
    Command { idempotency: Some(Idempotency { key: key.to_owned(), request_hash: 1 }), ..command }
}

pub fn start_write(node: &Arc<Node>, command: Command, within: Duration) -> Receiver<WriteResult> {
    let (sender, answer) = bounded(1);
    node.write(command, Instant::now() + within, Origin::Client, Box::new(move |r| sender.send(r).unwrap()));
    answer
}

pub fn write(node: &Arc<Node>, command: Command) -> WriteResult {
    start_write(node, command, PATIENCE).recv_timeout(PATIENCE).expect("every write is answered")
}

pub fn start_read(
    node: &Arc<Node>,
    consistency: Consistency,
    within: Duration,
) -> Receiver<Result<Index, Failure>> {
    let (sender, answer) = bounded(1);
    node.read(consistency, Instant::now() + within, Box::new(move |r| sender.send(r).unwrap()));
    answer
}

pub fn value_at(node: &Node, key: &str) -> Option<String> {
    node.with_kv(|kv| {
        let record = kv.get(key.as_bytes(), None).unwrap()?;
        Some(String::from_utf8(record.value.to_vec()).unwrap())
    })
}

/// A linearizable read.
pub fn read(node: &Arc<Node>, key: &str) -> Option<String> {
    start_read(node, Consistency::Linearizable, PATIENCE).recv_timeout(PATIENCE).unwrap().unwrap();
    value_at(node, key)
}

pub fn kind<T: std::fmt::Debug>(result: Result<T, Failure>) -> FailureKind {
    result.expect_err("a failure").kind
}

pub fn answer<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(PATIENCE).expect("every request is answered, by its deadline at the latest")
}

pub fn administer(node: &Arc<Node>, what: Administration) -> AdminResult {
    let (sender, answer) = bounded(1);
    node.administer(what, Instant::now() + PATIENCE, Box::new(move |r| sender.send(r).unwrap()));
    answer.recv_timeout(PATIENCE).expect("every operator is answered")
}

pub fn backup(node: &Arc<Node>) -> BackupResult {
    let (sender, answer) = bounded(1);
    node.backup(Instant::now() + PATIENCE, Box::new(move |r| sender.send(r).unwrap()));
    answer.recv_timeout(PATIENCE).expect("every backup is answered")
}
