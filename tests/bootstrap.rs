//! Bootstrap and identity on simulated disks: every place in which an initialization can be cut short, every refusal.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use dkv::node::bootstrap::{Bootstrap, BootstrapError, Received, bootstrap_port};
use dkv::node::data_dir::{DataDirError, IdentityConfig, Initialized, Opened, open};
use dkv::node::{
    BootstrapRecord, BootstrapReply, BootstrapRequest, BootstrapTransport, Peer, PeerError, PeerList,
    StoreGenesis, Target, Uninitialized, UninitializedStep,
};
use dkv::raft::{ClusterId, HardState, Member, MemberId, Membership, PROTOCOL, Settings, WriteOp};
use dkv::store::identity::Identity;
use dkv::store::simdisk::{Fault, Loss, SimDisk};
use dkv::store::wal::{Wal, WalIds, WalOptions};

const OPTIONS: WalOptions = WalOptions::new(64 << 10);

fn peer(n: usize) -> Peer {
    Peer {
        node_id: format!("node{n}"),
        raft_addr: format!("127.0.0.1:1808{n}"),
        http_addr: format!("127.0.0.1:808{n}"),
    }
}

fn peers(count: usize) -> PeerList {
    // Backwards: the order in the file does not matter.
    (1..=count).rev().map(peer).collect::<Vec<_>>().into()
}

fn config(n: usize, peers: PeerList) -> IdentityConfig {
    IdentityConfig {
        node_id: format!("node{n}"),
        peers,
        settings: Settings::default(),
        listen_raft: false,
        joins: false,
    }
}

enum State {
    Down,
    Uninitialized(Box<Bootstrap>),
    Initialized(Box<Initialized>),
    /// Ended by itself: exit code and text.
    Ended(u8, String),
}

struct Node {
    disk: SimDisk,
    config: IdentityConfig,
    state: State,
}

impl Node {
    fn bootstrap(&mut self, request: &BootstrapRequest) -> Result<BootstrapReply, PeerError> {
        match &mut self.state {
            State::Down | State::Ended(..) => Err(PeerError::NotSent("connection refused".into())),
            State::Initialized(initialized) => {
                Ok(initialized.bootstrap_record().handle_bootstrap(request, initialized.membership()))
            }
            State::Uninitialized(bootstrap) => match request {
                BootstrapRequest::Ask(_) => Ok(BootstrapReply::Uninitialized(bootstrap.uninitialized())),
                BootstrapRequest::Store(store) => match bootstrap.handle_store(store.clone()) {
                    Received::Initialized(initialized) => {
                        self.state = State::Initialized(initialized);
                        Ok(BootstrapReply::Stored)
                    }
                    Received::Refused(text) => Ok(BootstrapReply::Refused(text)),
                    Received::End(error) => {
                        self.state = State::Ended(error.exit_code(), error.to_string());
                        Err(PeerError::Unknown("connection lost".into()))
                    }
                },
            },
        }
    }
}

/// Nodes node1, node2 ... that reach each other at once.
struct Cluster {
    nodes: Vec<RefCell<Node>>,
}

impl BootstrapTransport for Cluster {
    fn bootstrap(&self, raft_addr: &str, request: &BootstrapRequest) -> Result<BootstrapReply, PeerError> {
        let at = |n: &&RefCell<Node>| {
            n.try_borrow().is_ok_and(|n| {
                n.config.peers.by_name(&n.config.node_id).is_some_and(|p| p.raft_addr == raft_addr)
            })
        };
        let node = self.nodes.iter().find(at).ok_or(PeerError::NotSent("nobody there".into()))?;
        node.borrow_mut().bootstrap(request)
    }
}

impl Cluster {
    fn new(count: usize, seed: u64) -> Cluster {
        let node = |n| Node {
            disk: SimDisk::new(seed * 100 + n as u64),
            config: config(n, peers(count)),
            state: State::Down,
        };
        Cluster { nodes: (1..=count).map(|n| RefCell::new(node(n))).collect() }
    }

    fn started(count: usize, seed: u64) -> Cluster {
        let cluster = Cluster::new(count, seed);
        (1..=count).for_each(|n| cluster.start(n));
        cluster
    }

    fn node(&self, n: usize) -> std::cell::RefMut<'_, Node> {
        self.nodes[n - 1].borrow_mut()
    }

    fn start(&self, n: usize) {
        let node = &mut *self.node(n);
        node.state = match open(Arc::new(node.disk.clone()), OPTIONS, &node.config) {
            Ok(Opened::Initialized(initialized)) => State::Initialized(initialized),
            Ok(Opened::Uninitialized(bootstrap)) => State::Uninitialized(bootstrap),
            Err(error) => State::Ended(error.exit_code(), error.to_string()),
        };
    }

    fn crash(&self, n: usize, loss: Loss) {
        let node = &mut *self.node(n);
        node.state = State::Down;
        node.disk = node.disk.restart(loss);
    }

    /// One round of the bootstrap node's questions.
    fn ask_round(&self, n: usize) {
        let node = &mut *self.node(n);
        let State::Uninitialized(bootstrap) = &mut node.state else { return };
        let ask = BootstrapRequest::Ask(bootstrap.uninitialized());
        let answers: Vec<_> = bootstrap
            .to_ask()
            .into_iter()
            .map(|peer| {
                let answer = self.bootstrap(&peer.raft_addr, &ask);
                (peer, answer)
            })
            .collect();
        if !bootstrap.is_bootstrap_node() {
            return;
        }
        match bootstrap.handle_answers(answers) {
            Ok(None) => {}
            Ok(Some(initialized)) => node.state = State::Initialized(Box::new(initialized)),
            Err(error) => node.state = State::Ended(error.exit_code(), error.to_string()),
        }
    }

    /// What an initialized `n` does when an RPC to `to` is answered `uninitialized`.
    fn call(&self, n: usize, to: usize) -> Option<UninitializedStep> {
        let (bootstrap_record, latest) = {
            let node = self.node(n);
            let State::Initialized(initialized) = &node.state else { return None };
            (initialized.bootstrap_record(), initialized.membership().clone())
        };
        let member = latest.by_name(&format!("node{to}")).unwrap().clone();
        self.call_member(&bootstrap_record, &latest, &member, to)
    }

    /// What the node of `bootstrap_record`, whose latest membership is `latest`, does when an RPC to `member` is
    /// answered `uninitialized` by node `to`.
    fn call_member(
        &self,
        bootstrap_record: &BootstrapRecord,
        latest: &Membership,
        member: &Member,
        to: usize,
    ) -> Option<UninitializedStep> {
        let target = Target { member_id: member.member_id, raft_addr: member.raft_addr.clone() };
        let uninitialized = match &self.node(to).state {
            State::Uninitialized(bootstrap) => bootstrap.uninitialized(),
            _ => return None,
        };
        let step = bootstrap_record.handle_uninitialized(
            &target,
            &uninitialized.node_id,
            uninitialized.member_id,
            latest,
        );
        let (UninitializedStep::Store(store) | UninitializedStep::Replaced { store, .. }) = &step;
        let _ = self.bootstrap(&target.raft_addr, &BootstrapRequest::Store(store.clone()));
        Some(step)
    }

    /// Rounds until nothing is uninitialized that can be initialized.
    fn run_until_quiet(&self) {
        let count = self.nodes.len();
        for _ in 0..3 {
            (1..=count).for_each(|n| self.ask_round(n));
            for n in 1..=count {
                (1..=count).filter(|&to| to != n).for_each(|to| drop(self.call(n, to)));
            }
        }
    }

    fn cluster_id(&self, n: usize) -> Option<ClusterId> {
        match &self.node(n).state {
            State::Initialized(initialized) => Some(initialized.ids.cluster_id),
            _ => None,
        }
    }

    fn ended(&self, n: usize) -> (u8, String) {
        match &self.node(n).state {
            State::Ended(code, text) => (*code, text.clone()),
            State::Down => panic!("node{n} is down"),
            State::Uninitialized(bootstrap) => panic!("node{n} waits for {}", bootstrap.waiting_for()),
            State::Initialized(_) => panic!("node{n} is initialized"),
        }
    }

    /// All of them are initialized, of one cluster, with the same first entry.
    fn check_one_cluster(&self) -> ClusterId {
        let mut entries = BTreeMap::new();
        for n in 1..=self.nodes.len() {
            let node = self.node(n);
            match &node.state {
                State::Initialized(initialized) => {
                    entries.insert(initialized.genesis.frame().to_vec(), initialized.ids.cluster_id)
                }
                State::Ended(code, text) => panic!("node{n} ended with {code}: {text}"),
                State::Uninitialized(bootstrap) => panic!("node{n} waits for {}", bootstrap.waiting_for()),
                State::Down => panic!("node{n} is down"),
            };
        }
        assert_eq!(entries.len(), 1, "one genesis entry");
        *entries.values().next().unwrap()
    }
}

fn assert_has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
}

#[test]
fn bootstrap_makes_one_cluster_that_survives_a_restart_of_all() {
    let cluster = Cluster::started(5, 1);
    cluster.run_until_quiet();
    let id = cluster.check_one_cluster();
    for n in 1..=5 {
        cluster.crash(n, Loss::Everything);
        cluster.start(n);
        let node = cluster.node(n);
        let State::Initialized(initialized) = &node.state else {
            panic!("node{n} forgot its initialization")
        };
        assert_eq!(initialized.stored.recovered.hard_state, HardState { term: 1, voted_for: None });
        assert_eq!(initialized.stored.recovered.entries, std::slice::from_ref(&initialized.genesis));
        assert!(initialized.warnings.is_empty(), "{:?}", initialized.warnings);
        assert!(initialized.membership().members.iter().all(|m| m.voter));
    }
    assert_eq!(cluster.check_one_cluster(), id);
}

#[test]
fn bootstrap_of_one_node_asks_nobody() {
    let cluster = Cluster::started(1, 2);
    cluster.ask_round(1);
    cluster.check_one_cluster();
}

#[test]
fn bootstrap_node_waits_until_all_answer_in_one_round_and_says_for_whom() {
    let cluster = Cluster::new(3, 3);
    cluster.start(1);
    cluster.start(2);
    cluster.ask_round(1);
    {
        let node = cluster.node(1);
        let State::Uninitialized(bootstrap) = &node.state else { panic!("initialized without node3") };
        assert_has(&bootstrap.waiting_for(), &["node3", "127.0.0.1:18083", "refused"]);
        assert!(!bootstrap.waiting_for().contains("node2"));
    }
    // Node 2 answered once; that is not enough when it is gone in the round in which node 3 answers.
    cluster.crash(2, Loss::Nothing);
    cluster.start(3);
    cluster.ask_round(1);
    assert_eq!(cluster.cluster_id(1), None);
    cluster.start(2);
    cluster.run_until_quiet();
    cluster.check_one_cluster();
}

#[test]
fn waiting_for_names_the_bootstrap_node() {
    let cluster = Cluster::started(3, 4);
    let node = cluster.node(2);
    let State::Uninitialized(bootstrap) = &node.state else { panic!() };
    assert!(!bootstrap.is_bootstrap_node() && bootstrap.to_ask().is_empty());
    assert_has(&bootstrap.waiting_for(), &["bootstrap node", "node1"]);
}

/// The bootstrap node dies in every single operation of its initialization, under every kind of loss.
#[test]
fn bootstrap_node_dies_in_every_operation_and_the_bootstrap_completes() {
    let mut remembered = 0;
    let mut anew = 0;
    for op in 1..200 {
        for (n, loss) in losses().into_iter().enumerate() {
            let cluster = Cluster::started(3, 5);
            let disk = cluster.node(1).disk.clone();
            let before = disk.ops();
            disk.plan(before + op, Fault::Die { bytes: 3000 * (op as usize % 2) });
            cluster.ask_round(1);
            if matches!(cluster.node(1).state, State::Initialized(_)) {
                assert!(disk.ops() < before + op);
                assert!(remembered > 0 && anew > 0, "both sides of the sync were met");
                return;
            }
            cluster.crash(1, loss);
            cluster.start(1);
            match &cluster.node(1).state {
                State::Initialized(_) => remembered += 1,
                State::Uninitialized(_) => anew += 1,
                _ => panic!("operation {op}, loss {n}: {:?}", cluster.ended(1)),
            }
            let id = cluster.cluster_id(1);
            cluster.run_until_quiet();
            let whole = cluster.check_one_cluster();
            assert!(id.is_none_or(|id| id == whole));
            cluster.crash(1, Loss::Everything);
            cluster.start(1);
            assert_eq!(cluster.cluster_id(1), Some(whole), "operation {op}, loss {n}");
        }
    }
    panic!("the initialization never ended");
}

/// A receiver dies in every operation of its initialization: it is sent the same entry again, or has it.
#[test]
fn receiver_dies_in_every_operation_and_the_bootstrap_completes() {
    for op in 1..200 {
        for loss in losses() {
            let cluster = Cluster::started(3, 6);
            cluster.ask_round(1);
            let id = cluster.cluster_id(1).expect("initialized");
            let disk = cluster.node(2).disk.clone();
            let before = disk.ops();
            disk.plan(before + op, Fault::Die { bytes: 3000 * (op as usize % 2) });
            cluster.call(1, 2);
            if matches!(cluster.node(2).state, State::Initialized(_)) {
                assert!(op > 10, "an initialization takes more than {op} operations");
                return;
            }
            cluster.crash(2, loss);
            cluster.start(2);
            cluster.run_until_quiet();
            assert_eq!(cluster.check_one_cluster(), id, "operation {op}");
        }
    }
    panic!("the initialization never ended");
}

/// A node dies in every operation of its very first start: whatever identity it then has, it is one that lasts.
#[test]
fn first_start_dies_in_every_operation_and_the_identity_lasts() {
    for op in 1..50 {
        for loss in losses() {
            let cluster = Cluster::new(1, 7);
            cluster.node(1).disk.plan(op, Fault::Die { bytes: 20 });
            cluster.start(1);
            if matches!(cluster.node(1).state, State::Uninitialized(_)) {
                assert!(op > 3);
                return;
            }
            cluster.crash(1, loss);
            cluster.start(1);
            let told = match &cluster.node(1).state {
                State::Uninitialized(bootstrap) => bootstrap.uninitialized().member_id,
                _ => panic!("operation {op}: {:?}", cluster.ended(1)),
            };
            cluster.crash(1, Loss::Everything);
            cluster.start(1);
            let node = cluster.node(1);
            let State::Uninitialized(bootstrap) = &node.state else { panic!("operation {op}") };
            assert_eq!(bootstrap.uninitialized().member_id, told, "operation {op}: told others and forgot");
        }
    }
    panic!("the start never ended");
}

fn losses() -> Vec<Loss> {
    let mut losses = vec![Loss::Nothing, Loss::Everything, Loss::KeepsEverything];
    losses.extend((0..3).map(|seed| Loss::Random { seed }));
    losses
}

#[test]
fn bootstrap_completes_after_one_or_two_sends_when_the_bootstrap_node_comes_back() {
    for sends in 1..=2 {
        let cluster = Cluster::started(5, 8);
        cluster.ask_round(1);
        let id = cluster.cluster_id(1).unwrap();
        (2..2 + sends).for_each(|to| drop(cluster.call(1, to)));
        cluster.crash(1, Loss::Everything);
        cluster.start(1);
        cluster.run_until_quiet();
        assert_eq!(cluster.check_one_cluster(), id);
    }
}

#[test]
fn bootstrap_completes_without_the_bootstrap_node_after_one_send() {
    let cluster = Cluster::started(5, 9);
    cluster.ask_round(1);
    let id = cluster.cluster_id(1).unwrap();
    cluster.call(1, 4);
    cluster.crash(1, Loss::Everything);
    cluster.run_until_quiet();
    for n in 2..=5 {
        assert_eq!(cluster.cluster_id(n), Some(id), "node{n}");
    }
}

#[test]
fn bootstrap_node_with_another_list_ends_with_4_and_names_peer_and_both_lists() {
    let cluster = Cluster::new(3, 10);
    cluster.node(3).config.peers = peers(4);
    (1..=3).for_each(|n| cluster.start(n));
    cluster.ask_round(1);
    let (code, text) = cluster.ended(1);
    assert_eq!(code, 4);
    assert_has(&text, &["node3", &peers(3).to_string(), &peers(4).to_string()]);
    assert_eq!(cluster.cluster_id(2), None);
}

#[test]
fn bootstrap_node_with_an_initialized_peer_ends_with_4_and_names_peer_and_both_lists() {
    let cluster = Cluster::started(3, 11);
    cluster.run_until_quiet();
    let id = cluster.check_one_cluster();
    // The bootstrap node's disk is lost, and it starts again under its old name.
    cluster.node(1).disk = SimDisk::new(4711);
    cluster.start(1);
    cluster.ask_round(1);
    let (code, text) = cluster.ended(1);
    assert_eq!(code, 4);
    assert_has(&text, &[&id.to_string(), "dkv-cli member replace node1 node1"]);
}

#[test]
fn bootstrap_node_with_a_peer_that_others_bootstrapped_ends_with_4_and_names_peer_and_both_lists() {
    let other = Cluster::started(3, 29);
    other.run_until_quiet();
    let id = other.check_one_cluster();
    let cluster = Cluster::new(4, 30);
    cluster.start(1);
    let ask = BootstrapRequest::Ask(Uninitialized {
        protocol: PROTOCOL,
        node_id: "x".into(),
        member_id: MemberId(1),
        peers: peers(4),
        restored: None,
    });
    let answers = (2..=4)
        .map(|n| {
            let unreached = || Err(PeerError::NotSent("nobody there".into()));
            (peer(n), if n == 2 { other.node(2).bootstrap(&ask) } else { unreached() })
        })
        .collect();
    let State::Uninitialized(bootstrap) = &mut cluster.node(1).state else { panic!() };
    let error = bootstrap.handle_answers(answers).err().expect("refused");
    assert_eq!(error.exit_code(), 4);
    let words = ["node2", &id.to_string(), &peers(3).to_string(), &peers(4).to_string(), "--join"];
    assert_has(&error.to_string(), &words);
}

#[test]
fn bootstrap_node_with_another_node_at_a_peers_address_ends_with_4() {
    let cluster = Cluster::started(3, 12);
    let State::Uninitialized(bootstrap) = &mut cluster.node(1).state else { panic!() };
    let other = |name: &str| Uninitialized {
        node_id: name.into(),
        member_id: MemberId(9),
        peers: peers(3),
        restored: None,
        protocol: PROTOCOL,
    };
    let answers = vec![
        (peer(2), Ok(BootstrapReply::Uninitialized(other("node3")))),
        (peer(3), Ok(BootstrapReply::Uninitialized(other("node3")))),
    ];
    let error = bootstrap.handle_answers(answers).err().expect("refused");
    assert_eq!(error.exit_code(), 4);
    assert_has(&error.to_string(), &["127.0.0.1:18082", "node3", "node2"]);
}

#[test]
fn bootstrap_node_with_two_peers_of_one_identity_ends_with_4() {
    let cluster = Cluster::started(3, 13);
    let State::Uninitialized(bootstrap) = &mut cluster.node(1).state else { panic!() };
    let other = |n| {
        (
            peer(n),
            Ok(BootstrapReply::Uninitialized(Uninitialized {
                protocol: PROTOCOL,
                node_id: peer(n).node_id,
                member_id: MemberId(9),
                peers: peers(3),
                restored: None,
            })),
        )
    };
    let error = bootstrap.handle_answers(vec![other(2), other(3)]).err().expect("refused");
    assert!(matches!(error, BootstrapError::SharedIdentity { .. }));
    assert_has(&error.to_string(), &["node2", "node3", "copy"]);
}

#[test]
fn wiped_node_under_its_old_name_ends_with_4_and_the_others_say_the_repair() {
    let cluster = Cluster::started(3, 14);
    cluster.run_until_quiet();
    cluster.node(2).disk = SimDisk::new(4712);
    cluster.start(2);
    let Some(UninitializedStep::Replaced { repair, .. }) = cluster.call(3, 2) else {
        panic!("transferred to a stranger")
    };
    assert_has(&repair, &["127.0.0.1:18082", "dkv-cli member replace node2 node2"]);
    let (code, text) = cluster.ended(2);
    assert_eq!(code, 4);
    assert_has(&text, &["dkv-cli member replace node2 node2"]);
    // It was never initialized, so every further start says the same.
    cluster.start(2);
    assert!(matches!(cluster.node(2).state, State::Uninitialized(_)));
}

#[test]
fn store_with_another_peers_list_is_refused_and_both_are_named() {
    let cluster = Cluster::started(3, 15);
    cluster.ask_round(1);
    // Node 2 is stopped and its file changed between the question and the genesis entry.
    cluster.crash(2, Loss::Nothing);
    cluster.node(2).config.peers = peers(4);
    cluster.start(2);
    cluster.call(1, 2);
    {
        let node = cluster.node(2);
        let State::Uninitialized(bootstrap) = &node.state else { panic!("took another list") };
        assert_has(&bootstrap.waiting_for(), &["node2", &peers(3).to_string(), &peers(4).to_string()]);
    }
    cluster.crash(2, Loss::Nothing);
    cluster.node(2).config.peers = peers(3);
    cluster.start(2);
    cluster.run_until_quiet();
    cluster.check_one_cluster();
}

#[test]
fn store_of_the_same_entry_again_is_done_and_of_another_refused() {
    let first = Cluster::started(1, 16);
    first.run_until_quiet();
    let other = Cluster::started(1, 17);
    other.run_until_quiet();
    let entry = |cluster: &Cluster| match &cluster.node(1).state {
        State::Initialized(initialized) => (initialized.genesis.clone(), initialized.ids.member_id),
        _ => panic!(),
    };
    let (own, target) = entry(&first);
    let store = |entry, target| {
        let members = Membership::default();
        first.node(1).bootstrap(&BootstrapRequest::Store(StoreGenesis { target, entry, members })).unwrap()
    };
    assert_eq!(store(own.clone(), target), BootstrapReply::Stored);
    let BootstrapReply::Refused(text) = store(entry(&other).0, target) else {
        panic!("took a second initialization")
    };
    assert_has(&text, &["belongs to cluster"]);
    let BootstrapReply::Refused(text) = store(own, MemberId(1)) else { panic!("took another's entry") };
    assert_has(&text, &["meant for member"]);
}

#[test]
fn genesis_entry_for_another_target_is_refused_by_an_uninitialized_node() {
    let cluster = Cluster::started(3, 18);
    cluster.ask_round(1);
    let State::Initialized(initialized) = &cluster.node(1).state else { panic!() };
    let members = (**initialized.membership()).clone();
    let store = StoreGenesis { target: MemberId(1), entry: initialized.genesis.clone(), members };
    let State::Uninitialized(bootstrap) = &mut cluster.node(2).state else { panic!() };
    let Received::Refused(text) = bootstrap.handle_store(store) else { panic!("took another's entry") };
    assert_has(&text, &["meant for member"]);
}

/// An initialized cluster of three and the genesis entry as node 3 does it, with another latest membership: `name`
/// added under the identity of node `to`, in the place of whoever had that name.
fn added(cluster: &Cluster, name: &str, to: usize) -> (BootstrapRecord, Membership, Member) {
    let uninitialized = match &cluster.node(to).state {
        State::Uninitialized(bootstrap) => bootstrap.uninitialized(),
        _ => panic!("node{to} is not uninitialized"),
    };
    let node = cluster.node(3);
    let State::Initialized(initialized) = &node.state else { panic!() };
    let own = peer(to);
    let member = Member {
        node_id: name.to_owned(),
        member_id: uninitialized.member_id,
        raft_addr: own.raft_addr,
        http_addr: own.http_addr,
        voter: false,
        promote: true,
    };
    let mut latest = (**initialized.membership()).clone();
    latest.members.retain(|m| m.node_id != name);
    latest.members.push(member.clone());
    (initialized.bootstrap_record(), latest, member)
}

/// Three initialized nodes and a fourth that is started to join.
fn with_joiner(seed: u64) -> Cluster {
    let cluster = Cluster::new(4, seed);
    (1..=3).for_each(|n| cluster.node(n).config.peers = peers(3));
    let alone = PeerList::from(vec![peer(4)]);
    cluster.node(4).config = IdentityConfig { joins: true, ..config(4, alone) };
    (1..=3).for_each(|n| cluster.start(n));
    cluster.ask_round(1);
    (2..=3).for_each(|n| drop(cluster.call(1, n)));
    cluster.start(4);
    join(&cluster, 4, cluster.cluster_id(1).expect("it is initialized"));
    cluster
}

/// Tells a node that joins which cluster it joins.
fn join(cluster: &Cluster, n: usize, joined: ClusterId) {
    let State::Uninitialized(bootstrap) = &cluster.node(n).state else {
        panic!("node{n} is not uninitialized")
    };
    bootstrap_port(bootstrap).0.join(joined);
}

/// A foreign cluster had only to list the identity of a node that joined another one.
#[test]
fn a_node_that_joins_is_initialized_into_no_other_cluster_than_the_one_it_joins() {
    let cluster = with_joiner(33);
    cluster.start(4);
    let offer = || {
        let (bootstrap_record, latest, member) = added(&cluster, "node4", 4);
        cluster.call_member(&bootstrap_record, &latest, &member, 4);
    };
    let waits_for = || match &cluster.node(4).state {
        State::Uninitialized(bootstrap) => bootstrap.waiting_for(),
        _ => panic!("initialized into a cluster that it was not told"),
    };
    offer();
    assert_has(&waits_for(), &["before it knows which cluster it joins"]);
    join(&cluster, 4, ClusterId(0xf0e));
    offer();
    let ours = cluster.cluster_id(1).expect("it is initialized").to_string();
    assert_has(&waits_for(), &["was offered cluster", &ours, "but it joins cluster 0000000000000f0e"]);
    // The first word counts.
    join(&cluster, 4, cluster.cluster_id(1).expect("it is initialized"));
    offer();
    assert_has(&waits_for(), &["but it joins cluster 0000000000000f0e"]);
}

#[test]
fn who_joins_never_bootstraps_and_is_initialized_once_the_membership_has_it() {
    let cluster = with_joiner(31);
    cluster.ask_round(4);
    let (bootstrap_record, mut latest, member) = added(&cluster, "node4", 4);
    // A membership without it is not its cluster's, whoever initialized that.
    latest.members.pop();
    cluster.call_member(&bootstrap_record, &latest, &member, 4);
    assert_eq!(cluster.cluster_id(4), None, "initialized without having been let in");
    let (bootstrap_record, latest, member) = added(&cluster, "node4", 4);
    cluster.call_member(&bootstrap_record, &latest, &member, 4);
    cluster.check_one_cluster();
    // The same command line again: it just runs, and nothing of its list is worth a warning.
    let config = cluster.node(4).config.clone();
    let Opened::Initialized(initialized) = reopened(&cluster, 4, &config).unwrap() else { panic!() };
    assert_eq!(initialized.warnings, Vec::<String>::new());
}

#[test]
fn who_was_added_under_another_name_or_address_is_not_initialized() {
    let cluster = with_joiner(32);
    let (bootstrap_record, latest, member) = added(&cluster, "node5", 4);
    cluster.call_member(&bootstrap_record, &latest, &member, 4);
    let (bootstrap_record, mut latest, member) = added(&cluster, "node4", 4);
    latest.members.last_mut().unwrap().raft_addr = "10.0.0.4:18081".to_owned();
    cluster.call_member(&bootstrap_record, &latest, &member, 4);
    let node = cluster.node(4);
    let State::Uninitialized(bootstrap) = &node.state else { panic!("initialized as somebody else") };
    assert_has(&bootstrap.waiting_for(), &["10.0.0.4:18081", "127.0.0.1:18084", "listen_raft"]);
}

#[test]
fn a_wiped_node_whose_old_identity_was_removed_is_initialized_as_a_new_member() {
    for wiped in [1, 2] {
        let cluster = Cluster::started(3, 33);
        cluster.run_until_quiet();
        cluster.node(wiped).disk = SimDisk::new(4713);
        cluster.start(wiped);
        let name = format!("node{wiped}");
        let (bootstrap_record, latest, member) = added(&cluster, &name, wiped);
        if wiped == 1 {
            // The bootstrap node finds the others initialized. Its name is gone from their membership: it waits.
            let node = &mut *cluster.node(1);
            let State::Uninitialized(bootstrap) = &mut node.state else { panic!() };
            let without = Membership { members: latest.members[..2].to_vec() };
            let initialized = |n| {
                let (member_id, cluster_id) = (MemberId(n), bootstrap_record.cluster_id());
                let (node_id, initial_members) = (format!("node{n}"), peers(3));
                let members = without.clone();
                Ok(BootstrapReply::Initialized {
                    node_id,
                    member_id,
                    cluster_id,
                    members,
                    initial_members,
                    protocol: PROTOCOL,
                })
            };
            let answers = vec![(peer(2), initialized(2)), (peer(3), initialized(3))];
            assert!(bootstrap.handle_answers(answers).unwrap().is_none());
            assert_has(&bootstrap.waiting_for(), &["dkv-cli member replace node1 node1"]);
        }
        // The genesis entry still has its name under the old identity.
        cluster.call_member(&bootstrap_record, &latest, &member, wiped);
        cluster.check_one_cluster();
    }
}

#[test]
fn a_wiped_bootstrap_node_is_not_refused_for_a_peer_that_does_not_know_its_own_name_yet() {
    let cluster = Cluster::started(3, 34);
    cluster.run_until_quiet();
    cluster.node(1).disk = SimDisk::new(4714);
    cluster.start(1);
    let (bootstrap_record, latest, _) = added(&cluster, "node1", 1);
    let node = &mut *cluster.node(1);
    let State::Uninitialized(bootstrap) = &mut node.state else { panic!() };
    // Node 3 was let in again a moment ago: all it knows is who initialized the cluster, itself under its old identity.
    let initialized = |n: usize, member: u64, members: Membership| {
        let node_id = members.get(MemberId(member)).map(|m| m.node_id.clone()).unwrap_or_default();
        let (cluster_id, initial_members) = (bootstrap_record.cluster_id(), peers(3));
        (
            peer(n),
            Ok(BootstrapReply::Initialized {
                node_id,
                member_id: MemberId(member),
                cluster_id,
                members,
                initial_members,
                protocol: PROTOCOL,
            }),
        )
    };
    let without = Membership { members: latest.members[..2].to_vec() };
    let State::Initialized(other) = &cluster.node(2).state else { panic!() };
    let initial_members = (**other.membership()).clone();
    let second = without.by_name("node2").unwrap().member_id.0;
    let answers = vec![initialized(2, second, without), initialized(3, 4715, initial_members)];
    assert!(bootstrap.handle_answers(answers).unwrap().is_none());
    assert_has(&bootstrap.waiting_for(), &["node3", "dkv-cli member replace node1 node1"]);
}

#[test]
fn a_wiped_bootstrap_node_is_not_refused_for_a_peer_that_joins_meanwhile() {
    let cluster = Cluster::started(3, 35);
    // Node 3 was removed once, and comes back by --join; its command line lists nobody but itself.
    let ask = |n: usize, peers: PeerList| {
        let (node_id, member_id) = (format!("node{n}"), MemberId(n as u64));
        (
            peer(n),
            Ok(BootstrapReply::Uninitialized(Uninitialized {
                node_id,
                member_id,
                peers,
                restored: None,
                protocol: PROTOCOL,
            })),
        )
    };
    let node = &mut *cluster.node(1);
    let State::Uninitialized(bootstrap) = &mut node.state else { panic!() };
    let answers = vec![ask(2, peers(3)), ask(3, vec![peer(3)].into())];
    assert!(bootstrap.handle_answers(answers).unwrap().is_none(), "initialized without node 3");
    assert_has(&bootstrap.waiting_for(), &["node3", "joins"]);
    // With the same list as this node it would be a bootstrap node like the others.
    assert!(bootstrap.handle_answers(vec![ask(2, peers(3)), ask(3, peers(3))]).unwrap().is_some());
}

/// The initial members' answers, with what each one's program speaks.
fn answers_of(speak: &[u16]) -> Vec<(Peer, Result<BootstrapReply, PeerError>)> {
    let uninitialized = |(i, &protocol): (usize, &u16)| {
        let (node_id, member_id) = (format!("node{}", i + 2), MemberId(i as u64 + 2));
        let uninitialized = Uninitialized { node_id, member_id, peers: peers(3), restored: None, protocol };
        (peer(i + 2), Ok(BootstrapReply::Uninitialized(uninitialized)))
    };
    speak.iter().enumerate().map(uninitialized).collect()
}

#[test]
fn the_genesis_entry_carries_the_version_that_all_founders_speak() {
    for (own, others, common) in [(1, [1, 1], 1), (2, [2, 2], 2), (2, [1, 2], 1), (1, [2, 2], 1)] {
        let cluster = Cluster::started(3, 41);
        let node = &mut *cluster.node(1);
        let State::Uninitialized(bootstrap) = &mut node.state else { panic!() };
        bootstrap.set_program(own);
        let initialized = bootstrap.handle_answers(answers_of(&others)).unwrap().expect("initialized");
        assert_eq!(initialized.genesis.version(), Some(common), "{own} {others:?}");
    }
}

#[test]
fn initial_members_that_do_not_read_each_other_wait_and_say_so() {
    let cluster = Cluster::started(3, 42);
    let node = &mut *cluster.node(1);
    let State::Uninitialized(bootstrap) = &mut node.state else { panic!() };
    assert!(bootstrap.handle_answers(answers_of(&[3, 1])).unwrap().is_none());
    assert_has(&bootstrap.waiting_for(), &["node2", "speaks protocol 3", "reads 2 at least"]);
}

#[test]
fn a_joiner_that_does_not_read_the_cluster_ends_with_5() {
    let cluster = Cluster::started(3, 43);
    cluster.run_until_quiet();
    let State::Initialized(initialized) = &cluster.node(2).state else { panic!() };
    let genesis = dkv::raft::Genesis { protocol: 7, ..initialized.genesis.genesis().unwrap() };
    let entry =
        dkv::raft::Entry::new(dkv::raft::Position::new(1, 1), 0, &dkv::raft::Payload::Genesis(genesis));
    let other = Cluster::started(3, 43);
    let node = &mut *other.node(2);
    let State::Uninitialized(bootstrap) = &mut node.state else { panic!() };
    let store = StoreGenesis {
        target: bootstrap.uninitialized().member_id,
        members: (**initialized.membership()).clone(),
        entry,
    };
    let Received::End(error) = bootstrap.handle_store(store) else { panic!("it does not end") };
    assert_eq!(error.exit_code(), 5);
    assert_has(&error.to_string(), &["run a dkv-server that speaks protocol 7"]);
}

fn reopened(cluster: &Cluster, n: usize, config: &IdentityConfig) -> Result<Opened, DataDirError> {
    let disk = cluster.node(n).disk.restart(Loss::Nothing);
    cluster.node(n).disk = disk.clone();
    open(Arc::new(disk), OPTIONS, config)
}

fn refusal(cluster: &Cluster, n: usize, config: &IdentityConfig) -> (u8, String) {
    match reopened(cluster, n, config) {
        Err(error) => (error.exit_code(), error.to_string()),
        Ok(_) => panic!("opened"),
    }
}

#[test]
fn open_under_another_name_ends_with_4() {
    for initialized in [false, true] {
        let cluster = Cluster::started(3, 19);
        if initialized {
            cluster.run_until_quiet();
        }
        let (code, text) = refusal(&cluster, 2, &config(3, peers(3)));
        assert_eq!(code, 4);
        assert_has(&text, &["\"node2\"", "\"node3\"", "data_dir"]);
    }
}

#[test]
fn open_without_the_log_ends_with_3_and_never_is_uninitialized_again() {
    let cluster = Cluster::started(3, 20);
    cluster.run_until_quiet();
    let disk = cluster.node(2).disk.clone();
    for name in disk.names().into_iter().filter(|name| name.ends_with(".wal")) {
        dkv::store::disk::Disk::remove(&disk, &name).unwrap();
    }
    let (code, text) = refusal(&cluster, 2, &config(2, peers(3)));
    assert_eq!(code, 3);
    assert_has(&text, &["log is gone", "replace the member"]);
}

#[test]
fn open_of_a_damaged_identity_ends_with_3_and_names_the_file() {
    let cluster = Cluster::started(3, 21);
    cluster.run_until_quiet();
    cluster.node(2).disk.flip("identity", 20, 1);
    let (code, text) = refusal(&cluster, 2, &config(2, peers(3)));
    assert_eq!(code, 3);
    assert_has(&text, &["identity", "corrupt", "replace the member"]);
}

#[test]
fn open_of_a_log_without_an_identity_file_ends_with_3() {
    let cluster = Cluster::started(3, 22);
    cluster.run_until_quiet();
    let disk = cluster.node(2).disk.clone();
    dkv::store::disk::Disk::remove(&disk, "identity").unwrap();
    let (code, text) = refusal(&cluster, 2, &config(2, peers(3)));
    assert_eq!(code, 3);
    assert_has(&text, &["no identity file", "replace the member"]);
}

#[test]
fn open_of_a_foreign_clusters_log_ends_with_4() {
    let cluster = Cluster::started(3, 23);
    cluster.run_until_quiet();
    let disk = cluster.node(2).disk.clone();
    let own = Identity::load(&disk).unwrap().unwrap();
    own.with_cluster(ClusterId(1)).store(&disk).unwrap();
    let (code, text) = refusal(&cluster, 2, &config(2, peers(3)));
    assert_eq!(code, 4);
    assert_has(&text, &["cluster", &ClusterId(1).to_string()]);
}

#[test]
fn open_of_a_log_without_the_genesis_entry_ends_with_3() {
    let disk = SimDisk::new(24);
    let ids = WalIds { cluster_id: ClusterId(5), member_id: MemberId(6) };
    Identity::new("node1", ids.member_id).with_cluster(ids.cluster_id).store(&disk).unwrap();
    let mut wal = Wal::create(Arc::new(disk.clone()), ids, OPTIONS).unwrap();
    wal.write(&[WriteOp::HardState(HardState { term: 3, voted_for: None })]).unwrap();
    let error = open(Arc::new(disk.restart(Loss::Nothing)), OPTIONS, &config(1, peers(1))).err().unwrap();
    assert_eq!(error.exit_code(), 3);
    assert_has(&error.to_string(), &["genesis entry", "replace the member"]);
}

#[test]
fn open_with_another_own_raft_addr_ends_with_4_unless_listen_raft_is_set() {
    let cluster = Cluster::started(3, 25);
    cluster.run_until_quiet();
    let mut moved: Vec<Peer> = peers(3).peers().to_vec();
    moved[1].raft_addr = "127.0.0.9:18082".into();
    let mut config = config(2, moved.into());
    let (code, text) = refusal(&cluster, 2, &config);
    assert_eq!(code, 4);
    assert_has(&text, &["node2", "127.0.0.9:18082", "127.0.0.1:18082", "listen_raft"]);
    config.listen_raft = true;
    assert!(matches!(reopened(&cluster, 2, &config), Ok(Opened::Initialized(_))));
}

#[test]
fn open_with_other_peers_warns_once_of_what_differs_and_the_stored_one_wins() {
    let cluster = Cluster::started(3, 26);
    cluster.run_until_quiet();
    let Ok(Opened::Initialized(initialized)) = reopened(&cluster, 2, &config(2, peers(4))) else {
        panic!("refused")
    };
    let told = "`peers` in the configuration differ from the stored membership, which wins: node4 is no member; \
                correct `peers`";
    assert_eq!(initialized.warnings, [told]);
    assert_eq!(PeerList::from(&**initialized.membership()), peers(3));
}

#[test]
fn differences_are_told_name_by_name_and_what_is_equal_is_not() {
    assert_eq!(peers(3).differences(&peers(3)), "");
    let mut moved = peers(3).peers().to_vec();
    moved[1].http_addr = "elsewhere:1".to_owned();
    moved.remove(0);
    let (moved, own) = (PeerList::from(moved), peer(2));
    let expected = format!(
        "node2 raft={0} http=elsewhere:1 is a member, not raft={0} http={1}; node4 is no member",
        own.raft_addr, own.http_addr
    );
    let mut configured = peers(4).peers().to_vec();
    configured.remove(0);
    assert_eq!(PeerList::from(configured).differences(&moved), expected);
    assert_eq!(PeerList::from(vec![peer(2)]).differences(&peers(2)), format!("{} is a member too", peer(1)));
}

#[test]
fn bootstrap_record_answers_an_ask_with_its_cluster() {
    let cluster = Cluster::started(3, 27);
    cluster.run_until_quiet();
    let State::Initialized(initialized) = &cluster.node(2).state else { panic!() };
    let bootstrap_record: BootstrapRecord = initialized.bootstrap_record();
    let ask = Uninitialized {
        node_id: "x".into(),
        member_id: MemberId(1),
        peers: peers(3),
        restored: None,
        protocol: PROTOCOL,
    };
    let reply = bootstrap_record.handle_bootstrap(&BootstrapRequest::Ask(ask), initialized.membership());
    let expected = BootstrapReply::Initialized {
        node_id: "node2".into(),
        member_id: initialized.ids.member_id,
        cluster_id: initialized.ids.cluster_id,
        members: (**initialized.membership()).clone(),
        initial_members: peers(3),
        protocol: PROTOCOL,
    };
    assert_eq!(reply, expected);
}
