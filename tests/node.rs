//! Whole nodes in one process: real threads, real logs on disk, a network of direct calls that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use dkv::node::{
    Completion, Consistency, Failure, FailureKind, Lane, Node, NodeOptions, Origin, PeerError, PeerReply,
    PeerRequest, PeerTransport, Target, WriteResult,
};
use dkv::raft::{
    ClusterId, Entry, Found, HardState, Index, Member, MemberId, Membership, Payload, Position, RoleKind,
    Settings, WriteOp,
};
use dkv::store::disk::{Disk, RealDisk};
use dkv::store::wal::{Wal, WalIds, WalOptions};
use dkv::store::{Command, Idempotency, Op, Outcome};

const PATIENCE: Duration = Duration::from_secs(30);
const CLUSTER: ClusterId = ClusterId(77);

// ---- the network -----------------------------------------------------------------------------------------------------

/// What becomes of a call from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Refused at once: surely not executed.
    Refused,
    /// The request is lost; the caller waits for its timeout.
    Lost,
    /// The request arrives, its answer is lost.
    Mute,
}

#[derive(Default)]
struct Network {
    nodes: BTreeMap<MemberId, Arc<Node>>,
    faults: BTreeMap<(MemberId, MemberId), Fault>,
    /// Calls that `cancel` ends: who calls whom, and how to tell it.
    cancellable: Vec<(MemberId, MemberId, Sender<()>)>,
    cancelled: usize,
    forwards: usize,
    /// Forwards and read indexes only are subject to this fault.
    bulk_fault: Option<Fault>,
}

type SharedNetwork = Arc<Mutex<Network>>;

struct Wire {
    from: MemberId,
    network: SharedNetwork,
}

fn reply_into<T: Send + 'static>(
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
        lane: Lane,
        request: PeerRequest,
        timeout: Duration,
    ) -> Result<PeerReply, PeerError> {
        let (cancel, is_cancelled) = bounded(1);
        let (peer, fault) = {
            let mut network = self.network.lock().unwrap();
            if matches!(request, PeerRequest::Forward(_)) {
                network.forwards += 1;
            }
            if lane == Lane::Bulk {
                network.cancellable.push((self.from, to.member_id, cancel));
            }
            let bulk = network.bulk_fault.filter(|_| lane == Lane::Bulk);
            let fault = bulk.or(network.faults.get(&(self.from, to.member_id)).copied());
            (network.nodes.get(&to.member_id).cloned(), fault)
        };
        let (sender, answer) = bounded(1);
        let silence = bounded::<PeerReply>(0);
        let Some(peer) = peer.filter(|_| fault != Some(Fault::Refused)) else {
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

    fn cancel(&self, to: MemberId) {
        let mut network = self.network.lock().unwrap();
        network.cancelled += 1;
        network.cancellable.retain(|(from, peer, cancel)| {
            let is_meant = (*from, *peer) == (self.from, to);
            if is_meant {
                let _ = cancel.try_send(());
            }
            !is_meant
        });
    }
}

// ---- the cluster -----------------------------------------------------------------------------------------------------

struct Cluster {
    dir: tempfile::TempDir,
    members: Membership,
    settings: Settings,
    election_timeout: Duration,
    network: SharedNetwork,
}

fn ids(count: u64) -> impl Iterator<Item = MemberId> {
    (1..=count).map(MemberId)
}

impl Cluster {
    /// With a leader, and patient with a busy machine: no test means to see an election that it did not cause.
    fn start(count: u64) -> Cluster {
        Cluster::start_with(count, Settings::default(), Duration::from_millis(700)).with_leader()
    }

    fn with_leader(self) -> Cluster {
        self.leader();
        self
    }

    fn start_with(count: u64, settings: Settings, election_timeout: Duration) -> Cluster {
        let member = |id: MemberId| Member {
            node_id: format!("n{}", id.0),
            member_id: id,
            raft_addr: format!("n{}:raft", id.0),
            http_addr: format!("n{}:http", id.0),
            voter: true,
        };
        let cluster = Cluster {
            dir: tempfile::tempdir().unwrap(),
            members: Membership { members: ids(count).map(member).collect() },
            settings,
            election_timeout,
            network: SharedNetwork::default(),
        };
        for id in ids(count) {
            cluster.create_log(id);
            cluster.start_node(id);
        }
        cluster
    }

    fn log_dir(&self, id: MemberId) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn disk(&self, id: MemberId) -> Arc<dyn Disk> {
        Arc::new(RealDisk::open(&self.log_dir(id)).unwrap())
    }

    fn create_log(&self, id: MemberId) {
        let found =
            Found { cluster_id: CLUSTER, settings: self.settings.clone(), members: self.members.clone() };
        let entry = Entry::new(Position::new(1, 1), 0, &Payload::Found(found));
        let mut wal = Wal::create(self.disk(id), wal_ids(id), wal_options()).unwrap();
        let birth =
            [WriteOp::HardState(HardState { term: 1, voted_for: None }), WriteOp::Entries(vec![entry])];
        wal.write(&birth).unwrap();
        wal.seal().unwrap();
    }

    fn start_node(&self, id: MemberId) {
        let (wal, recovered) = Wal::open(self.disk(id), wal_ids(id), wal_options()).unwrap();
        let options = NodeOptions {
            cluster_id: CLUSTER,
            node_id: format!("n{}", id.0),
            member_id: id,
            heartbeat: Duration::from_millis(50),
            election_timeout: self.election_timeout,
            append_hold: Duration::from_millis(50),
            disk_stall: Duration::from_secs(10),
            seed: id.0,
            check_invariants: true,
        };
        let wire = Arc::new(Wire { from: id, network: self.network.clone() });
        let node = Node::start(options, wal, recovered, wire, Box::new(|_| {})).unwrap();
        self.network.lock().unwrap().nodes.insert(id, node);
    }

    fn stop_node(&self, id: MemberId) {
        let node = self.network.lock().unwrap().nodes.remove(&id).expect("the node runs");
        assert!(node.stop(PATIENCE), "the threads of {id} do not end");
    }

    fn node(&self, id: MemberId) -> Arc<Node> {
        self.network.lock().unwrap().nodes[&id].clone()
    }

    fn nodes(&self) -> Vec<Arc<Node>> {
        self.network.lock().unwrap().nodes.values().cloned().collect()
    }

    fn all_ids(&self) -> BTreeSet<MemberId> {
        self.members.voters().collect()
    }

    /// What becomes of calls between `one` and everybody else, in both directions.
    fn isolate(&self, one: MemberId, fault: Fault) {
        let mut network = self.network.lock().unwrap();
        for other in self.members.voters().filter(|&other| other != one) {
            network.faults.insert((one, other), fault);
            network.faults.insert((other, one), fault);
        }
    }

    fn heal(&self) {
        let mut network = self.network.lock().unwrap();
        network.faults.clear();
        network.bulk_fault = None;
    }

    /// The leader that a majority follows.
    fn leader(&self) -> MemberId {
        self.leader_among(&self.all_ids())
    }

    fn leader_among(&self, some: &BTreeSet<MemberId>) -> MemberId {
        wait_for("a leader", || {
            let running = self.network.lock().unwrap().nodes.clone();
            let running: Vec<_> = running.into_iter().filter(|(id, _)| some.contains(id)).collect();
            let leads = |id: &MemberId| self.node(*id).status().role == RoleKind::Leader;
            let leader = running.iter().map(|(id, _)| *id).find(leads)?;
            let follows = |node: &Node| node.leader().map(|m| m.member_id) == Some(leader);
            running.iter().all(|(_, node)| follows(node)).then_some(leader)
        })
    }

    fn follower(&self) -> MemberId {
        let leader = self.leader();
        self.members.voters().find(|&id| id != leader).unwrap()
    }

    /// Every node has applied the same and has the same state.
    fn wait_until_equal(&self) {
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

fn wal_ids(id: MemberId) -> WalIds {
    WalIds { cluster_id: CLUSTER, member_id: id }
}

fn wal_options() -> WalOptions {
    WalOptions { segment_bytes: 64 << 10 }
}

/// Asks until there is an answer.
fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
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

fn put(key: &str, value: &str) -> Command {
    let op = Op::Put { key: key.into(), value: value.into() };
    Command { op, condition: None, idempotency: None, wall_ms: 0, actor: String::new() }
}

fn keyed(command: Command, key: &str) -> Command {
    Command { idempotency: Some(Idempotency { key: key.to_owned(), request_hash: 1 }), ..command }
}

fn start_write(node: &Node, command: Command, within: Duration) -> Receiver<WriteResult> {
    let (sender, answer) = bounded(1);
    node.write(command, Instant::now() + within, Origin::Client, Box::new(move |r| sender.send(r).unwrap()));
    answer
}

fn write(node: &Node, command: Command) -> WriteResult {
    start_write(node, command, PATIENCE).recv_timeout(PATIENCE).expect("every write is answered")
}

fn start_read(node: &Node, consistency: Consistency, within: Duration) -> Receiver<Result<Index, Failure>> {
    let (sender, answer) = bounded(1);
    node.read(consistency, Instant::now() + within, Box::new(move |r| sender.send(r).unwrap()));
    answer
}

fn value_at(node: &Node, key: &str) -> Option<String> {
    node.with_kv(|kv| {
        let record = kv.get(key.as_bytes(), None).unwrap()?;
        Some(String::from_utf8(record.value.to_vec()).unwrap())
    })
}

/// A linearizable read.
fn read(node: &Node, key: &str) -> Option<String> {
    start_read(node, Consistency::Linearizable, PATIENCE).recv_timeout(PATIENCE).unwrap().unwrap();
    value_at(node, key)
}

fn kind<T: std::fmt::Debug>(result: Result<T, Failure>) -> FailureKind {
    result.expect_err("a failure").kind
}

fn answer<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(PATIENCE).expect("every request is answered, by its deadline at the latest")
}

// ---- tests -----------------------------------------------------------------------------------------------------------

#[test]
fn a_single_node_serves() {
    let cluster = Cluster::start(1);
    let node = cluster.node(MemberId(1));
    let applied = write(&node, put("a", "1")).unwrap();
    assert_eq!(applied.outcome, Outcome::Put { revision: 1, create_revision: 1, version: 1 });
    assert_eq!(read(&node, "a").as_deref(), Some("1"));
    assert_eq!(node.ready(), Ok(()));
}

#[test]
fn writes_through_every_node_are_read_through_every_node() {
    for size in [3, 5] {
        let cluster = Cluster::start(size);
        for writer in ids(size) {
            let value = writer.to_string();
            assert!(!write(&cluster.node(writer), put("k", &value)).unwrap().replayed);
            for reader in ids(size) {
                assert_eq!(read(&cluster.node(reader), "k"), Some(value.clone()), "{writer} to {reader}");
            }
        }
        cluster.wait_until_equal();
        assert_eq!(cluster.nodes()[0].status().revision, size);
    }
}

#[test]
fn a_request_before_the_first_election_waits_for_its_leader() {
    let cluster = Cluster::start_with(3, Settings::default(), Duration::from_millis(200));
    let answers: Vec<_> = cluster.nodes().iter().map(|n| start_write(n, put("k", "v"), PATIENCE)).collect();
    let done = answers.iter().map(answer).filter(Result::is_ok).count();
    assert!(done > 0, "an election takes less than the time a request waits for a leader");
}

#[test]
fn a_restarted_cluster_has_every_acknowledged_write() {
    let cluster = Cluster::start(3);
    for i in 0..50 {
        write(&cluster.node(MemberId(i % 3 + 1)), put(&format!("k{i}"), "v")).unwrap();
    }
    let term = cluster.node(MemberId(1)).status().term;
    ids(3).for_each(|id| cluster.stop_node(id));
    ids(3).for_each(|id| cluster.start_node(id));
    cluster.leader();
    for i in 0..50 {
        assert_eq!(read(&cluster.node(MemberId(2)), &format!("k{i}")).as_deref(), Some("v"));
    }
    assert!(cluster.node(cluster.leader()).status().term > term, "a restart never reuses a term");
    cluster.wait_until_equal();
}

#[test]
fn a_cut_off_leader_answers_unknown_and_the_majority_goes_on() {
    let cluster = Cluster::start(5);
    let old = cluster.leader();
    write(&cluster.node(old), put("k", "before")).unwrap();
    cluster.isolate(old, Fault::Lost);
    // The step-down answers: by the deadline the test would have failed.
    let lost_write = start_write(&cluster.node(old), put("k", "lost"), 10 * PATIENCE);
    let lost_read = start_read(&cluster.node(old), Consistency::Linearizable, 10 * PATIENCE);
    assert_eq!(kind(answer(&lost_write)), FailureKind::OutcomeUnknown);
    assert_eq!(kind(answer(&lost_read)), FailureKind::Unavailable);
    assert!(cluster.node(old).ready().is_err());
    assert_eq!(value_at(&cluster.node(old), "k").as_deref(), Some("before"), "a stale read still answers");

    let rest: BTreeSet<MemberId> = cluster.all_ids().into_iter().filter(|&id| id != old).collect();
    let new = cluster.leader_among(&rest);
    write(&cluster.node(new), put("k", "after")).unwrap();
    assert_eq!(read(&cluster.node(new), "k").as_deref(), Some("after"));
    assert_eq!(kind(write(&cluster.node(old), put("k", "alone"))), FailureKind::Unavailable);

    cluster.heal();
    assert_eq!(read(&cluster.node(old), "k").as_deref(), Some("after"));
    cluster.wait_until_equal();
}

#[test]
fn a_write_without_a_majority_is_unknown_at_its_deadline() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    cluster.isolate(leader, Fault::Lost);
    // Shorter than check-quorum takes to end the leadership.
    let answers: Vec<_> = (0..3)
        .map(|_| start_write(&cluster.node(leader), put("k", "v"), Duration::from_millis(20)))
        .collect();
    for result in answers.iter().map(answer) {
        assert_eq!(kind(result), FailureKind::OutcomeUnknown);
    }
    let read = start_read(&cluster.node(leader), Consistency::Linearizable, Duration::from_millis(20));
    assert!(matches!(kind(answer(&read)), FailureKind::Timeout | FailureKind::Unavailable));
}

#[test]
fn a_request_whose_deadline_has_passed_is_surely_not_done() {
    let cluster = Cluster::start(1);
    let node = cluster.node(cluster.leader());
    let last = node.status().last_index;
    let (sender, late) = bounded(1);
    node.write(put("k", "v"), Instant::now(), Origin::Client, Box::new(move |r| sender.send(r).unwrap()));
    assert_eq!(kind(answer(&late)), FailureKind::Unavailable);
    assert_eq!(node.status().last_index, last);
}

#[test]
fn a_forward_that_is_refused_is_surely_not_done() {
    let cluster = Cluster::start(3);
    let follower = cluster.follower();
    cluster.network.lock().unwrap().bulk_fault = Some(Fault::Refused);
    let failure = write(&cluster.node(follower), put("k", "v")).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert!(failure.message.contains("connection refused"), "{failure}");
    assert!(cluster.network.lock().unwrap().forwards > 1, "it is tried again before it fails");
    assert_eq!(
        kind(answer(&start_read(&cluster.node(follower), Consistency::Linearizable, PATIENCE))),
        FailureKind::Unavailable
    );
    cluster.heal();
    assert_eq!(read(&cluster.node(follower), "k"), None);
}

#[test]
fn a_forward_without_an_answer_is_unknown() {
    let cluster = Cluster::start(3);
    let follower = cluster.follower();
    cluster.network.lock().unwrap().bulk_fault = Some(Fault::Mute);
    let silent = start_write(&cluster.node(follower), put("k", "v"), Duration::from_millis(200));
    assert_eq!(kind(answer(&silent)), FailureKind::OutcomeUnknown);
    cluster.heal();
    wait_for("the write that was said to be unknown", || read(&cluster.node(follower), "k"));
}

#[test]
fn a_forward_under_way_is_unknown_when_the_leader_changes() {
    let cluster = Cluster::start(3);
    let old = cluster.leader();
    let follower = cluster.follower();
    cluster.isolate(old, Fault::Lost);
    let sent = start_write(&cluster.node(follower), put("k", "sent"), PATIENCE);
    let read_sent = start_read(&cluster.node(follower), Consistency::Linearizable, PATIENCE);
    wait_for("the forward on its way", || (cluster.network.lock().unwrap().forwards > 0).then_some(()));
    // Queued behind the batch under way: not sent, so it goes to the new leader.
    let queued = start_write(&cluster.node(follower), put("k", "queued"), PATIENCE);
    let started = Instant::now();
    assert_eq!(kind(answer(&sent)), FailureKind::OutcomeUnknown);
    assert!(answer(&queued).is_ok());
    assert!(answer(&read_sent).is_ok());
    assert!(started.elapsed() < PATIENCE / 2, "the change of leader answers, not the deadline");
    assert!(cluster.network.lock().unwrap().cancelled > 0);
    assert_eq!(read(&cluster.node(follower), "k").as_deref(), Some("queued"));
}

#[test]
fn a_forwarded_write_is_never_forwarded_again() {
    let cluster = Cluster::start(3);
    let follower = cluster.follower();
    let (sender, refused) = bounded(1);
    let write = dkv::node::ForwardedWrite { command: put("k", "v").encode(), remaining_ms: 5_000 };
    cluster.node(follower).answer_forward(vec![write], Box::new(move |r| sender.send(r).unwrap()));
    let results = answer(&refused);
    assert_eq!(results.len(), 1);
    assert_eq!(kind(results[0].clone()), FailureKind::Unavailable);
    let (sender, refused) = bounded(1);
    let deadline = Instant::now() + PATIENCE;
    cluster.node(follower).answer_read_index(deadline, Box::new(move |r| sender.send(r).unwrap()));
    assert_eq!(kind(answer(&refused)), FailureKind::Unavailable);
}

#[test]
fn a_forwarded_batch_is_answered_item_by_item() {
    let cluster = Cluster::start(1);
    let node = cluster.node(cluster.leader());
    let batch = [put("a", "1").encode(), b"not a command".to_vec(), keyed(put("b", "2"), "key").encode()];
    let batch = batch.map(|command| dkv::node::ForwardedWrite { command, remaining_ms: 30_000 });
    let (sender, answered) = bounded(1);
    node.answer_forward(batch.to_vec(), Box::new(move |r| sender.send(r).unwrap()));
    let results = answer(&answered);
    assert!(results[0].is_ok() && results[1].is_err() && results[2].is_ok(), "{results:?}");
    assert_eq!((value_at(&node, "a").as_deref(), value_at(&node, "b").as_deref()), (Some("1"), Some("2")));
    let (sender, answered) = bounded(1);
    node.answer_forward(Vec::new(), Box::new(move |r| sender.send(r).unwrap()));
    assert_eq!(answer(&answered), Vec::new());
}

#[test]
fn a_repeated_key_through_another_node_takes_effect_once() {
    let cluster = Cluster::start(3);
    cluster.leader();
    let first = write(&cluster.node(MemberId(1)), keyed(put("k", "v"), "once")).unwrap();
    for id in ids(3) {
        let again = write(&cluster.node(id), keyed(put("k", "v"), "once")).unwrap();
        assert!(again.replayed);
        assert_eq!(again.outcome, first.outcome);
    }
    assert_eq!(cluster.node(cluster.leader()).status().revision, 1);
}

#[test]
fn a_full_table_of_keys_refuses_before_the_log_grows() {
    let settings = Settings { idempotency_rows: 2, ..Settings::default() };
    let cluster = Cluster::start_with(3, settings, Duration::from_millis(700)).with_leader();
    let (leader, follower) = (cluster.leader(), cluster.follower());
    for key in ["one", "two"] {
        write(&cluster.node(leader), keyed(put("k", "v"), key)).unwrap();
    }
    let last = cluster.node(leader).status().last_index;
    for id in [leader, follower] {
        assert_eq!(kind(write(&cluster.node(id), keyed(put("k", "v"), "three"))), FailureKind::Overloaded);
    }
    assert_eq!(cluster.node(leader).status().last_index, last);
    assert!(write(&cluster.node(follower), put("k", "v")).is_ok(), "writes without a key still pass");
}

#[test]
fn many_writers_share_syncs() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let before = cluster.node(leader).status().syncs;
    let (sender, answers) = unbounded();
    let count = 3_000;
    // Through all nodes at once; a bounded number under way, as the ports have it.
    let mut under_way = 0;
    for i in 0..count {
        let sender = sender.clone();
        let node = cluster.node(MemberId(i % 3 + 1));
        let done = Box::new(move |result: WriteResult| sender.send(result).unwrap());
        node.write(put(&format!("k{i}"), "v"), Instant::now() + PATIENCE, Origin::Client, done);
        under_way += 1;
        if under_way == 200 {
            answer(&answers).unwrap();
            under_way -= 1;
        }
    }
    for _ in 0..under_way {
        answer(&answers).unwrap();
    }
    let status = cluster.node(leader).status();
    let syncs = status.syncs - before;
    assert!(syncs < count / 4, "{syncs} syncs for {count} writes");
    assert_eq!(status.revision, count);
    cluster.wait_until_equal();
}

#[test]
fn stop_answers_what_waits() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    cluster.isolate(leader, Fault::Lost);
    let node = cluster.node(leader);
    let proposed = start_write(&node, put("k", "v"), PATIENCE);
    let waiting_read = start_read(&node, Consistency::Linearizable, PATIENCE);
    cluster.stop_node(leader);
    assert_eq!(kind(answer(&proposed)), FailureKind::OutcomeUnknown);
    assert_eq!(kind(answer(&waiting_read)), FailureKind::Unavailable);
    assert_eq!(kind(write(&node, put("k", "late"))), FailureKind::Unavailable);
    assert!(node.ready().is_err());
}

#[test]
fn a_lagging_follower_catches_up_and_is_ready_then() {
    let cluster = Cluster::start(3);
    let follower = cluster.follower();
    cluster.stop_node(follower);
    let leader = cluster.leader();
    for i in 0..200 {
        write(&cluster.node(leader), put(&format!("k{i}"), &"v".repeat(1_000))).unwrap();
    }
    cluster.start_node(follower);
    wait_for("readiness", || cluster.node(follower).ready().ok());
    assert!(cluster.node(follower).status().applied_index >= 200);
    cluster.wait_until_equal();
    let status = cluster.node(leader).status();
    wait_for("no lag", || cluster.node(leader).status().peers.iter().all(|p| p.lag == 0).then_some(()));
    assert_eq!(status.peers.len(), 2);
}
