//! The version that the members share: when a leader raises it, and who is let in (`src/raft/version.rs`; the scheme of
//! LogCabin's state machine versions). Rule 54 of the house, since the paper has none: what is written follows the version
//! in force, and only answers of this term tell what a member speaks.

use super::harness::*;
use dkv::raft::*;

/// The versions in the log of `me`, from its first entry on.
fn versions(cluster: &Cluster, me: u64) -> Vec<Protocol> {
    cluster.raft(me).log().iter().filter_map(Entry::version).collect()
}

/// Three members of which these run the next program.
fn cluster_with(upgraded: &[u64]) -> Cluster {
    let mut cluster = Cluster::new(3);
    upgraded.iter().for_each(|&me| cluster.replace_program(me, 2, false));
    cluster
}

#[test]
fn rule_53_the_version_is_raised_when_the_last_member_speaks_it() {
    let mut cluster = cluster_with(&[1, 2]);
    cluster.elect(1);
    cluster.run_for(5 * T_MS);
    assert_eq!((versions(&cluster, 1), cluster.raft(1).version()), (vec![1], 1), "n3 speaks protocol 1");
    assert_eq!(cluster.raft(1).held_back_by(2, cluster.now), [HeldBackBy::Speaks("n3".to_owned(), 1)]);
    cluster.replace_program(3, 2, false);
    cluster.run_for(2 * T_MS);
    for me in 1..=3 {
        assert_eq!((versions(&cluster, me), cluster.raft(me).version()), (vec![1, 2], 2), "{me}");
    }
    cluster.run_for(2 * T_MS);
    assert_eq!(versions(&cluster, 1), [1, 2], "once");
}

#[test]
fn rule_53_a_leader_of_the_old_program_raises_nothing() {
    let mut cluster = cluster_with(&[2, 3]);
    cluster.elect(1);
    cluster.run_for(5 * T_MS);
    assert_eq!(versions(&cluster, 1), [1]);
}

#[test]
fn rule_53_a_member_that_is_not_heard_holds_the_version() {
    let mut cluster = cluster_with(&[1, 2, 3]);
    cluster.isolate(3);
    cluster.elect(1);
    cluster.run_for(5 * T_MS);
    assert_eq!(versions(&cluster, 1), [1], "it may come back with another program");
    assert_eq!(cluster.raft(1).held_back_by(2, cluster.now), [HeldBackBy::NotHeard("n3".to_owned())]);
    cluster.heal();
    cluster.run_for(2 * T_MS);
    assert_eq!(cluster.raft(3).version(), 2);
}

/// What was heard once is no news for ever: the silent member may be on its way back with the old program.
#[test]
fn rule_53_what_a_silent_member_spoke_before_counts_for_nothing() {
    let mut cluster = cluster_with(&[1, 3]);
    cluster.elect(1);
    cluster.run_for(T_MS);
    assert_eq!(cluster.raft(1).protocol_of(id(3), cluster.now), Some(2));
    cluster.crash(3);
    cluster.run_for(T_MS + 2 * HEARTBEAT_MS);
    assert_eq!(cluster.raft(1).protocol_of(id(3), cluster.now), None);
    cluster.replace_program(2, 2, false);
    cluster.run_for(3 * T_MS);
    assert_eq!(versions(&cluster, 1), [1], "n3 is not heard");
    cluster.replace_program(3, 1, false);
    cluster.run_for(3 * T_MS);
    assert_eq!(versions(&cluster, 1), [1], "and it did come back so");
}

/// An answer of an earlier term says nothing: the member may have been replaced since.
#[test]
fn rule_53_a_new_leader_knows_nothing_of_what_the_others_speak() {
    let mut cluster = cluster_with(&[1, 2, 3]);
    cluster.isolate(3);
    cluster.elect(1);
    cluster.elect_with(2, &[1], &[]);
    let now = cluster.now;
    assert!(
        [1, 3].iter().all(|&peer| cluster.raft(2).protocol_of(id(peer), now).is_none()),
        "a vote is no news"
    );
    assert_eq!(versions(&cluster, 2), [1]);
}

#[test]
fn rule_53_a_learner_holds_the_version_back_like_any_member() {
    let mut cluster = cluster_with(&[1, 2, 3]);
    cluster.replace_program(1, 2, true);
    cluster.elect(1);
    cluster.run_for(T_MS);
    let learner = Member { promote: false, ..learner(4) };
    cluster.change(1, &MembershipChange::Add(learner, Some(1))).unwrap();
    cluster.join(4, 3);
    cluster.run_for(T_MS);
    cluster.replace_program(1, 2, false);
    cluster.elect_in_turn(1);
    cluster.run_for(5 * T_MS);
    assert_eq!(versions(&cluster, 1), [1]);
    assert_eq!(cluster.raft(1).held_back_by(2, cluster.now), [HeldBackBy::Speaks("n4".to_owned(), 1)]);
    cluster.replace_program(4, 2, false);
    cluster.run_for(2 * T_MS);
    assert_eq!(cluster.raft(4).version(), 2);
}

#[test]
fn rule_53_a_leader_that_is_told_to_hold_the_version_holds_it() {
    let mut cluster = cluster_with(&[2, 3]);
    cluster.replace_program(1, 2, true);
    cluster.elect(1);
    cluster.run_for(5 * T_MS);
    assert_eq!(versions(&cluster, 1), [1]);
    assert_eq!(cluster.raft(1).held_back_by(2, cluster.now), [HeldBackBy::Setting("n1".to_owned())]);
    // One of those that raised nothing yet can go back.
    cluster.replace_program(2, 1, true);
    cluster.run_for(2 * T_MS);
    cluster.replace_program(2, 2, true);
    cluster.replace_program(1, 2, false);
    cluster.elect_in_turn(1);
    cluster.run_for(2 * T_MS);
    assert_eq!(cluster.raft(2).version(), 2);
}

/// A version that was appended and is not committed can be cut off, and then it was never in force.
#[test]
fn rule_53_a_version_that_is_cut_off_is_not_in_force() {
    let mut cluster = cluster_with(&[1]);
    [2, 3].into_iter().for_each(|me| cluster.replace_program(me, 2, true));
    cluster.elect_with(1, &[2], &[2, 3]);
    assert_eq!(
        (versions(&cluster, 1), cluster.raft(1).version()),
        (vec![1, 2], 1),
        "appended, not committed"
    );
    cluster.isolate(1);
    cluster.elect_in_turn(2);
    cluster.heal();
    cluster.run_for(2 * T_MS);
    for me in 1..=3 {
        assert_eq!((versions(&cluster, me), cluster.raft(me).version()), (vec![1], 1), "{me}");
    }
}

#[test]
fn rule_53_a_single_member_raises_its_version_alone() {
    let mut cluster = Cluster::new(1);
    cluster.replace_program(1, 2, false);
    cluster.run_for(3 * T_MS);
    assert_eq!((versions(&cluster, 1), cluster.raft(1).version()), (vec![1, 2], 2));
}

#[test]
fn rule_53_who_does_not_read_the_version_is_not_let_in() {
    let mut cluster = cluster_with(&[1, 2, 3]);
    cluster.elect(1);
    cluster.run_for(2 * T_MS);
    assert_eq!(cluster.raft(1).version(), 2);
    let add = |speaks| MembershipChange::Add(learner(4), speaks);
    for (speaks, says) in
        [(Some(1), "n4 speaks protocol 1"), (None, "n4 has not said"), (Some(4), "protocol 4")]
    {
        let refused = cluster.change(1, &add(speaks)).unwrap_err();
        assert!(matches!(refused, ChangeError::Unsupported { version: 2, .. }), "{refused:?}");
        assert!(refused.to_string().contains(says), "{refused}");
    }
    assert!(cluster.change(1, &add(Some(3))).is_ok(), "it reads the version before its own");
}

#[test]
fn rule_53_a_program_of_unknown_protocol_is_let_in_at_the_first_version_and_holds_it() {
    let mut cluster = cluster_with(&[1, 2]);
    cluster.elect(1);
    cluster.run_for(T_MS);
    assert!(cluster.change(1, &MembershipChange::Add(learner(4), None)).is_ok());
    cluster.replace_program(3, 2, false);
    cluster.run_for(3 * T_MS);
    assert_eq!(versions(&cluster, 1), [1]);
    assert_eq!(cluster.raft(1).held_back_by(2, cluster.now), [HeldBackBy::NotHeard("n4".to_owned())]);
}

#[test]
fn rule_53_a_snapshot_brings_the_version() {
    let mut cluster = cluster_with(&[1, 2, 3]);
    cluster.elect(1);
    cluster.run_for(2 * T_MS);
    assert_eq!(cluster.raft(1).version(), 2);
    cluster.crash(3);
    cluster.propose(1, "a");
    cluster.run_for(T_MS);
    // Twice: the log keeps what only the newest covers.
    cluster.save_snapshot(1);
    cluster.propose(1, "b");
    cluster.run_for(T_MS);
    cluster.save_snapshot(1);
    cluster.restart_with_log_cut_to(3, 1);
    cluster.run_for(3 * T_MS);
    assert_eq!(cluster.raft(3).snapshot().version, 2);
    assert_eq!(cluster.raft(3).version(), 2);
}
