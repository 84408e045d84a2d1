//! Leadership transfer: thesis §3.10.

use dkv::raft::*;

use crate::harness::*;

fn led(n: u64) -> Cluster {
    let mut cluster = Cluster::new(n);
    cluster.elect(1);
    cluster.run_for(100);
    cluster
}

fn transfer(cluster: &mut Cluster, from: u64, to: Option<u64>) -> Result<u64, TransferError> {
    cluster.step(from, |raft, now| raft.transfer_leadership(to.map(MemberId), now)).map(|id| id.0)
}

/// §3.10: the target campaigns at once, and wins although everybody has just heard the old leader.
#[test]
fn rule_49_the_target_is_elected_at_once() {
    let mut cluster = led(3);
    let before = cluster.now;
    assert_eq!(transfer(&mut cluster, 1, Some(3)), Ok(3));
    cluster.run_until_quiet();
    assert!(cluster.raft(3).is_leader());
    assert!(!cluster.raft(1).is_leader());
    assert_eq!(cluster.now, before, "no timeout passed");
}

/// §3.10: nothing is proposed while it is under way.
#[test]
fn rule_49_a_leader_that_transfers_takes_no_proposals() {
    let mut cluster = led(3);
    cluster.isolate(3);
    cluster.propose(1, "before");
    transfer(&mut cluster, 1, Some(3)).unwrap();
    let payload = Payload::Command(b"during".to_vec());
    assert_eq!(cluster.step(1, |raft, now| raft.propose(&payload, now)), Err(ProposeError::Transferring));
    let change = MembershipChange::Add(learner(4), Some(1));
    assert_eq!(cluster.change(1, &change), Err(ChangeError::Transferring));
}

/// §3.10: the target is told only when its disk holds the whole log and all of it is committed.
#[test]
fn rule_49_the_target_is_told_when_it_has_everything() {
    let mut cluster = led(3);
    cluster.hold_disk(3);
    cluster.propose(1, "4");
    transfer(&mut cluster, 1, Some(3)).unwrap();
    // Long enough for it to answer without its disk.
    cluster.run_for(3 * HEARTBEAT_MS);
    assert_eq!(cluster.raft(1).commit_index(), 3, "on two of three disks");
    assert!(!cluster.has_traced(&["1 -> 3: TimeoutNow"]), "its disk is behind");
    cluster.sync(3);
    cluster.run_until_quiet();
    assert!(cluster.has_traced(&["1 -> 3: TimeoutNow"]));
    cluster.release_disk(3);
    cluster.run_until_quiet();
    assert!(cluster.raft(3).is_leader());
}

/// §3.10: a leadership transfer that does not come about is given up after an election timeout, and the leader goes on.
#[test]
fn rule_49_a_transfer_in_vain_ends_after_an_election_timeout() {
    for catches_up in [true, false] {
        let mut cluster = led(3);
        cluster.isolate(3);
        if !catches_up {
            cluster.propose(1, "3");
        }
        transfer(&mut cluster, 1, Some(3)).unwrap();
        cluster.run_for(T_MS - 1);
        assert_ne!(cluster.raft(1).is_transferring(), catches_up, "no answer to the word ends it at once");
        cluster.run_for(2);
        assert!(cluster.raft(1).is_leader());
        assert!(!cluster.raft(1).is_transferring());
        cluster.propose(1, "after");
    }
}

/// Without a name the voter whose log has come furthest gets it; a learner never, and nobody who does not answer.
#[test]
fn rule_49_the_most_advanced_voter_is_chosen() {
    let mut cluster = led(3);
    cluster.isolate(2);
    cluster.propose(1, "4");
    cluster.run_for(100);
    assert_eq!(transfer(&mut cluster, 1, None), Ok(3));
    assert_eq!(transfer(&mut cluster, 1, None), Ok(3), "the one under way");
    assert_eq!(transfer(&mut cluster, 1, Some(2)), Err(TransferError::UnderWay));
    let mut cluster = led(3);
    assert_eq!(transfer(&mut cluster, 1, Some(1)), Ok(1), "to itself: nothing to do");
    assert_eq!(transfer(&mut cluster, 1, Some(9)), Err(TransferError::NotVoter));
    assert!(matches!(transfer(&mut cluster, 2, None), Err(TransferError::NotLeader { .. })));
    cluster.isolate(1);
    cluster.wait(T_MS + 1);
    assert_eq!(transfer(&mut cluster, 1, None), Err(TransferError::NobodyAnswers));
}

/// A new leader counted everybody as alive, and handed over to the dead.
#[test]
fn no_news_is_not_good_news_for_a_transfer() {
    let mut cluster = led(3);
    cluster.isolate(3);
    cluster.run_for(2 * T_MS);
    // The votes are in, and no append of the new leader is answered yet.
    transfer(&mut cluster, 1, Some(2)).unwrap();
    cluster.run_until_quiet();
    cluster.run_for(2 * T_MS);
    cluster.elect_with(1, &[2], &[]);
    let until = cluster.now + ms(T_MS);
    assert_eq!(transfer(&mut cluster, 1, None), Err(TransferError::NotHeardYet { until }));
    assert_eq!(transfer(&mut cluster, 1, Some(2)), Err(TransferError::NotHeardYet { until }));
    cluster.run_until_quiet();
    assert_eq!(transfer(&mut cluster, 1, Some(3)), Err(TransferError::NotHeardYet { until }));
    cluster.run_for(T_MS);
    assert_eq!(transfer(&mut cluster, 1, Some(3)), Err(TransferError::NobodyAnswers));
    assert_eq!(transfer(&mut cluster, 1, None), Ok(2));
}

/// A word of an earlier term, or of who does not lead here, makes nobody campaign.
#[test]
fn rule_49_a_stale_timeout_now_is_refused() {
    let mut cluster = led(3);
    let term = cluster.raft(1).term();
    for (term, leader) in [(term - 1, 1), (term, 3)] {
        let request = TimeoutNowRequest { term, leader: MemberId(leader) };
        let waiting = cluster.step(2, |raft, now| raft.handle_timeout_now(request, now));
        let reply = ready(cluster.raft(2), waiting, cluster.now);
        assert!(!reply.campaigns, "term {term} of {leader}");
        assert_eq!(cluster.raft(2).role_kind(), RoleKind::Follower);
    }
}
