//! A leader whose process has ended: the others were told, and do not wait for the election timeout.

use super::harness::*;
use dkv::raft::*;

/// Members 2 to `n` are told that 1 has ended.
fn tell_all(cluster: &mut Cluster, n: u64) {
    (2..=n).for_each(|me| tell(cluster, me));
}

fn tell(cluster: &mut Cluster, me: u64) {
    cluster.step(me, |raft, now| raft.handle_leader_lost(id(1), raft.term(), now));
}

#[test]
fn a_leader_that_has_ended_is_succeeded_long_before_the_election_timeout() {
    let mut cluster = Cluster::new(5);
    cluster.elect(1);
    cluster.run_for(HEARTBEAT_MS);
    cluster.crash(1);
    tell_all(&mut cluster, 5);
    cluster.run_for(60);
    let leader = cluster.leader().expect("a new leader after 60 ms");
    assert_ne!(leader, 1);
    cluster.run_for(5_000);
    assert_eq!(cluster.leader(), Some(leader), "and nobody disturbs it");
}

/// §4.2.3 keeps a member from voting while it hears a leader. A member that knows that the leader has ended does not
/// hear it, or the vote would be refused after a pre-vote that was won.
#[test]
fn a_vote_and_a_pre_vote_are_given_at_once_after_the_leader_has_ended() {
    for pre_vote in [true, false] {
        let mut raft = member(2, 3, 4, None, &[1, 4]);
        let last = Position::new(2, 4);
        let now = Time::from_millis(50);
        let _ = raft.handle_append_entries(append_request(4, 1, last, vec![], 0), now);
        let ask = |raft: &mut Raft| {
            let request = RequestVoteRequest { pre_vote, ..vote_request(5, 3, last) };
            let waiting = raft.handle_request_vote(request, now);
            sync(raft, now);
            ready(raft, waiting, now).granted
        };
        assert!(!ask(&mut raft), "it hears the leader");
        raft.handle_leader_lost(id(3), 4, now);
        assert!(!ask(&mut raft), "another member has ended");
        raft.handle_leader_lost(id(1), 4, now);
        assert!(ask(&mut raft));
    }
}

/// A word that was wrong, or that came too late: the leader has been heard since.
#[test]
fn a_leader_that_is_heard_again_is_not_lost() {
    let mut raft = member(2, 3, 4, None, &[1, 4]);
    let last = Position::new(2, 4);
    let now = Time::from_millis(50);
    let append = || append_request(4, 1, last, vec![], 0);
    let _ = raft.handle_append_entries(append(), now);
    raft.handle_leader_lost(id(1), 4, now);
    assert!(raft.poll_timeout() <= now + ms(10), "it campaigns soon");
    let _ = raft.handle_append_entries(append(), now + ms(1));
    assert!(raft.poll_timeout() > now + ms(T_MS), "it waits for a whole election timeout again");
    let waiting = raft.handle_request_vote(vote_request(5, 3, last), now + ms(2));
    assert!(!ready(&raft, waiting, now + ms(2)).granted);
}

/// One member alone is told that the leader has ended, again and again; the leader lives. The others refuse the pre-vote.
#[test]
fn a_false_alarm_deposes_nobody() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    for _ in 0..20 {
        tell(&mut cluster, 2);
        cluster.run_for(37);
        cluster.propose(1, "x");
    }
    cluster.run_for(200);
    assert_eq!((cluster.leader(), cluster.raft(1).term()), (Some(1), 2));
    assert_eq!(cluster.raft(2).term(), 2);
}

/// Without a majority there is no winner: after a few campaigns the election timeout decides again.
#[test]
fn the_campaigns_of_a_lost_leader_end_after_six() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.crash(1);
    cluster.crash(3);
    tell(&mut cluster, 2);
    let mut waits = Vec::new();
    for _ in 0..8 {
        let due = cluster.raft(2).poll_timeout();
        waits.push(due.since(cluster.now));
        cluster.now = due;
        cluster.timeout(2);
    }
    assert!((ms(2)..=ms(10)).contains(&waits[0]), "{waits:?}");
    assert!(waits[1..6].iter().all(|wait| (ms(10)..=ms(40)).contains(wait)), "{waits:?}");
    assert!(waits[6..].iter().all(|&wait| wait > ms(T_MS)), "{waits:?}");
}

/// A member that has given its vote lets its candidate win.
#[test]
fn a_member_that_has_voted_does_not_compete_with_its_candidate() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.crash(1);
    tell_all(&mut cluster, 3);
    let last = cluster.raft(2).last();
    let now = cluster.now;
    let waiting = cluster.step(2, |raft, now| raft.handle_request_vote(vote_request(3, 3, last), now));
    assert!(ready(cluster.raft(2), waiting, now).granted);
    assert!(cluster.raft(2).poll_timeout() > now + ms(T_MS));
}

#[test]
fn only_a_follower_of_the_leader_that_has_ended_acts_on_it() {
    let mut cluster = Cluster::new(3);
    let before = cluster.raft(2).poll_timeout();
    tell(&mut cluster, 2);
    assert_eq!(cluster.raft(2).poll_timeout(), before, "it follows nobody");
    cluster.elect(1);
    tell(&mut cluster, 1);
    assert!(cluster.raft(1).is_leader());
}

/// The word was under way while the leader was started again and elected again: it leads another term, and its process
/// lives. Such a word once cost its follower the leader until the next heartbeat.
#[test]
fn a_word_about_an_earlier_term_of_the_same_leader_is_too_late() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let term = cluster.raft(2).term();
    cluster.crash(1);
    cluster.restart(1);
    cluster.elect(1);
    let before = cluster.raft(2).poll_timeout();
    cluster.step(2, |raft, now| raft.handle_leader_lost(id(1), term, now));
    assert_eq!((cluster.raft(2).leader(), cluster.raft(2).poll_timeout()), (Some(id(1)), before));
}

/// One member alone is told, and nobody votes for it while the others hear the leader. Its own election timeout began
/// again after the last campaign in vain, so that being told made it slower than not being told.
#[test]
fn being_told_makes_no_election_later() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let untold = cluster.raft(2).poll_timeout();
    cluster.crash(1);
    cluster.crash(3);
    tell(&mut cluster, 2);
    for _ in 0..6 {
        cluster.now = cluster.raft(2).poll_timeout();
        assert!(cluster.now < untold, "the campaigns take less than an election timeout");
        cluster.timeout(2);
    }
    assert!(cluster.raft(2).poll_timeout() <= untold);
}

/// The candidate campaigned again while the voters still wrote its votes down, so on a slow disk the campaigns of a lost
/// leader were used up in vain.
#[test]
fn a_candidate_of_a_lost_leader_waits_for_slow_disks() {
    let mut raft = member(2, 3, 4, None, &[1, 4]);
    let mut now = Time::from_millis(50);
    let _ = raft.handle_append_entries(append_request(4, 1, Position::new(2, 4), vec![], 0), now);
    raft.handle_leader_lost(id(1), 4, now);
    now = raft.poll_timeout();
    raft.handle_timeout(now);
    let PollRpc::Send(_, ticket) = raft.poll_rpc(id(3), now) else { panic!("a pre-vote") };
    let granted = RequestVoteReply { term: 5, granted: true, protocol: 1 };
    raft.handle_rpc_result(ticket, Ok(RpcReply::RequestVote(granted)), now);
    assert_eq!(raft.term(), 5, "a candidate");
    now = now + ms(45);
    sync(&mut raft, now);
    assert!(raft.poll_timeout() > now + ms(90), "twice as long as its own sync");
    assert!(raft.poll_timeout() <= now + ms(90 + 40));
}

/// The answer to a pre-vote took longer than the time between two campaigns. It was dropped each time, because it belonged to
/// the campaign before, until the election timeout decided again.
#[test]
fn an_answer_to_the_pre_vote_before_counts_in_the_next_campaign_of_a_lost_leader() {
    let mut raft = member(2, 3, 4, None, &[1, 4]);
    let _ = raft
        .handle_append_entries(append_request(4, 1, Position::new(2, 4), vec![], 0), Time::from_millis(50));
    raft.handle_leader_lost(id(1), 4, Time::from_millis(50));
    let timeout = |raft: &mut Raft| {
        let now = raft.poll_timeout();
        raft.handle_timeout(now);
        now
    };
    let ask = |raft: &mut Raft, now| match raft.poll_rpc(id(3), now) {
        PollRpc::Send(_, ticket) => ticket,
        other => panic!("no pre-vote: {other:?}"),
    };
    let answer = |granted| Ok(RpcReply::RequestVote(RequestVoteReply { term: 4, granted, protocol: 1 }));
    let now = timeout(&mut raft);
    let refused = ask(&mut raft, now);
    raft.handle_rpc_result(refused, answer(false), now);
    let now = timeout(&mut raft);
    let slow = ask(&mut raft, now);
    let now = timeout(&mut raft);
    let granted = RequestVoteReply { term: 5, granted: true, protocol: 1 };
    raft.handle_rpc_result(slow, Ok(RpcReply::RequestVote(granted)), now);
    assert_eq!(raft.term(), 5, "a candidate");
}
