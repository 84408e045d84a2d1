//! Members that come and go, and leadership transfers.

use std::time::{Duration, Instant};

use dkv::node::{
    AdminFailure, AdminFailureKind, AdminResult, Administered, Administration, BootstrapReply,
    BootstrapRequest, BootstrapTransport, FailureKind, OperatorRequest, PeerError,
};
use dkv::raft::{
    Entry, Member, MemberId, Membership, MembershipChange, Mode, Payload, Position, RoleKind, Settings,
};
use dkv::store::Kv;
use dkv::store::snapshot::SnapshotWriter;

use crate::cluster::*;

fn learner(id: u64) -> Member {
    Member { voter: false, promote: true, ..member(MemberId(id)) }
}

/// As a patient operator asks: again until the leader has committed an entry of its term, or a change before is not
/// committed yet.
fn change(cluster: &Cluster, change: MembershipChange) -> AdminResult {
    wait_for("a leader in office", || {
        let leader = cluster.node(cluster.leader());
        let result = administer(&leader, Administration::Change(change.clone()));
        let is_early = result.as_ref().is_err_and(|e| {
            matches!(e.kind, AdminFailureKind::Failed(FailureKind::Unavailable) | AdminFailureKind::UnderWay)
        });
        (!is_early).then_some(result)
    })
}

#[test]
fn a_new_member_is_brought_up_and_becomes_a_voter() {
    let cluster = Cluster::start(3);
    let leader = cluster.node(cluster.leader());
    for i in 0..100 {
        write(&leader, put(&format!("k{i}"), "v")).unwrap();
    }
    cluster.create_log(MemberId(4));
    cluster.start_node(MemberId(4));
    assert!(matches!(
        change(&cluster, MembershipChange::Add(learner(4), Some(1))),
        Ok(Administered::Changed(_))
    ));
    wait_for("promotion", || {
        cluster.nodes().iter().all(|n| n.membership().voters().count() == 4).then_some(())
    });
    cluster.wait_until_equal();
    assert_eq!(read(&cluster.node(MemberId(4)), "k99").as_deref(), Some("v"));
    // Two of the old three may die now.
    let again = change(&cluster, MembershipChange::Add(learner(4), Some(1)));
    assert!(matches!(again, Ok(Administered::Changed(_))), "the same again is done already: {again:?}");
}

/// A leader that had not committed the removal said that there is no such member, and the next leader went on with it.
/// Such a leader confirms reads: a follower that waits for a snapshot answers it and takes no entries.
#[test]
fn a_member_is_not_missing_while_its_removal_is_not_committed() {
    let mut cluster = Cluster::new(3, Settings::default(), Duration::from_millis(700));
    cluster.snapshot_log_entries = 50;
    let cluster = cluster.started().with_leader();
    let leader = cluster.leader();
    let node = cluster.node(leader);
    let (slow, gone) = {
        let mut others = cluster.all_ids().into_iter().filter(|id| *id != leader);
        (others.next().unwrap(), others.next().unwrap())
    };
    cluster.isolate(slow, Fault::Refused);
    for i in 0..400 {
        write(&node, put("k", &i.to_string())).unwrap();
    }
    backup(&node).unwrap();
    cluster.heal();
    cluster.network.lock().unwrap().faults.insert((leader, slow), Fault::Snapshots);
    wait_for("a follower that needs a snapshot", || {
        let peers = node.status().peers;
        let peer = peers.iter().find(|peer| peer.member_id == slow)?;
        (peer.mode == Mode::Snapshot && peer.is_reachable == Some(true)).then_some(())
    });
    let remove = || {
        let request = OperatorRequest::Remove(member(gone).node_id);
        node.execute(&request, &NoCalls, Instant::now() + Duration::from_millis(1_500))
    };
    remove().expect_err("one of two voters takes no entries");
    assert!(node.membership().get(gone).is_none(), "it is in force as soon as it is appended");
    let again = remove().expect_err("it is not committed");
    assert_eq!(again.kind, AdminFailureKind::UnderWay, "{again:?}");
    cluster.heal();
    let is_gone = |failure: AdminFailure| (failure.kind == AdminFailureKind::NotFound).then_some(());
    wait_for("the removal", || remove().map_or_else(is_gone, |_| Some(())));
}

struct NoCalls;

impl BootstrapTransport for NoCalls {
    fn bootstrap(&self, _: &str, _: &BootstrapRequest) -> Result<BootstrapReply, PeerError> {
        unreachable!("nobody joins")
    }
}

#[test]
fn a_removed_member_is_told_and_the_others_go_on() {
    let cluster = Cluster::start(4);
    let leader = cluster.leader();
    let gone = cluster.follower();
    change(&cluster, MembershipChange::Remove(gone)).unwrap();
    wait_for("the others know", || {
        let others = cluster.nodes().into_iter().filter(|n| n.status().member_id != gone);
        others.map(|n| n.membership().members.len()).all(|n| n == 3).then_some(())
    });
    write(&cluster.node(leader), put("k", "v")).unwrap();
    assert_eq!(
        change(&cluster, MembershipChange::Remove(gone)).unwrap_err().kind,
        AdminFailureKind::NotFound
    );
}

/// The threads for a removed peer slept on until the next entry, for hours on a quiet cluster.
#[test]
fn the_threads_for_a_removed_peer_end_on_an_idle_cluster() {
    let cluster = Cluster::start(4);
    let gone = cluster.follower();
    change(&cluster, MembershipChange::Remove(gone)).unwrap();
    wait_for("the replicators to end everywhere", || {
        let mut others = cluster.nodes().into_iter().filter(|n| n.member_id() != gone);
        others.all(|n| n.counters().peers().iter().all(|(id, _)| *id != gone)).then_some(())
    });
}

#[test]
fn a_leader_that_removes_itself_leaves_office() {
    let cluster = Cluster::start(3);
    let old = cluster.leader();
    change(&cluster, MembershipChange::Remove(old)).unwrap();
    let rest = cluster.all_ids().into_iter().filter(|&id| id != old).collect();
    let new = cluster.leader_among(&rest);
    assert_ne!(new, old);
    write(&cluster.node(new), put("k", "v")).unwrap();
    wait_for("it hears of it", || cluster.network.lock().unwrap().removed.contains(&old).then_some(()));
}

/// The membership in its snapshot has it no more. It stayed silent, for nobody it knew told it once more.
#[test]
fn a_member_that_restarts_from_a_snapshot_with_its_removal_is_told() {
    let cluster = Cluster::new(3, Settings::default(), Duration::from_millis(700));
    let (gone, others) = (MemberId(1), ids(3).skip(1).map(member).collect());
    cluster.create_log(gone);
    let mut kv = Kv::new(Settings::default());
    kv.apply(&cluster.genesis_entry());
    let removal = Payload::Membership(Membership { members: others });
    kv.apply(&Entry::new(Position::new(2, 1), 0, &removal));
    let mut writer = SnapshotWriter::create(cluster.disk(gone), kv.pin()).unwrap();
    while writer.fill(&kv) {
        writer.flush().unwrap();
    }
    writer.finish().unwrap();
    cluster.start_node_with_warnings(gone);
    wait_for("it hears of it", || cluster.network.lock().unwrap().removed.contains(&gone).then_some(()));
}

#[test]
fn a_leadership_is_transferred_without_a_failed_write() {
    let cluster = Cluster::start(3);
    for round in 0..6 {
        let old = cluster.leader();
        let node = cluster.node(old);
        let writes: Vec<_> =
            (0..50).map(|i| start_write(&node, put(&format!("{round}-{i}"), "v"), PATIENCE)).collect();
        let to = cluster.follower();
        assert_eq!(
            administer(&node, Administration::Transfer(Some(to))),
            Ok(Administered::TransferredTo(to)),
            "round {round}"
        );
        let later: Vec<_> =
            (50..80).map(|i| start_write(&node, put(&format!("{round}-{i}"), "v"), PATIENCE)).collect();
        for result in writes.iter().chain(&later) {
            answer(result).expect("no write fails");
        }
    }
    cluster.wait_until_equal();
}

#[test]
fn a_node_that_does_not_lead_sends_the_operator_to_the_leader() {
    let cluster = Cluster::start(3);
    let failure = administer(&cluster.node(cluster.follower()), Administration::Transfer(None)).unwrap_err();
    assert_eq!(failure.kind, AdminFailureKind::NotLeader);
}

#[test]
fn a_transfer_to_a_silent_member_is_refused_and_the_leader_leads_on() {
    let cluster = Cluster::start(3);
    let (leader, silent) = (cluster.leader(), cluster.follower());
    cluster.isolate(silent, Fault::Refused);
    let node = cluster.node(leader);
    wait_for("it is known to be silent", || {
        let refused = administer(&node, Administration::Transfer(Some(silent)));
        (refused.unwrap_err().kind == AdminFailureKind::Conflict).then_some(())
    });
    write(&node, put("k", "v")).unwrap();
    assert_eq!(node.status().role, RoleKind::Leader);
    assert!(node.transfer_leadership(Duration::from_secs(5)), "the other one takes it");
    assert_eq!(kind(answer(&start_write(&node, put("k", "w"), Duration::ZERO))), FailureKind::Unavailable);
}

/// A peer that had never answered a leader was said to have answered it just now, and to hold 0 entries.
#[test]
fn no_news_is_not_good_news_in_the_status() {
    let cluster = Cluster::start(3);
    let (old, dead) = (cluster.leader(), cluster.follower());
    let next = cluster.all_ids().into_iter().find(|&id| id != old && id != dead).expect("a third one");
    cluster.isolate(dead, Fault::Refused);
    let led = administer(&cluster.node(old), Administration::Transfer(Some(next)));
    assert_eq!(led, Ok(Administered::TransferredTo(next)));
    let node = cluster.node(next);
    let peer = |id| node.status().peers.into_iter().find(|p| p.member_id == id);
    wait_for("an answer of the one that lives", || peer(old)?.last_contact.map(drop));
    let known = peer(dead).expect("a peer");
    assert_eq!((known.match_index, known.last_contact), (None, None), "{known:?}");
    assert_ne!(known.is_reachable, Some(true), "{known:?}");
    wait_for("it is known to be silent", || (peer(dead)?.is_reachable == Some(false)).then_some(()));
    assert_eq!(peer(dead).expect("a peer").last_contact, None, "it was never heard");
}
