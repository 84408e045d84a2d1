//! Leases: what begins, renews and ends them, and what becomes of their keys.

use super::*;
use crate::vocabulary::{Keys, LeaseId, Operator, PutLease, Target, Txn, TxnOp};

fn id(number: u64) -> LeaseId {
    LeaseId::new(number).unwrap()
}

fn grant(number: u64, ttl_s: u64) -> Op {
    Op::LeaseGrant { lease: id(number), ttl_s, is_chosen: true }
}

fn renew(numbers: &[u64]) -> Op {
    Op::LeaseRenew { leases: numbers.iter().map(|number| id(*number)).collect() }
}

fn expire(numbers: &[u64]) -> Op {
    Op::LeaseExpire { leases: numbers.iter().map(|number| id(*number)).collect() }
}

fn revoke(number: u64) -> Op {
    Op::LeaseRevoke { lease: id(number) }
}

fn leased(key: &str, lease: PutLease) -> Op {
    Op::Put { key: key.into(), value: b"v".to_vec(), lease }
}

fn at(kv: &mut Kv, seconds: u64, op: Op) -> Outcome {
    run(kv, seconds * SECOND, &command(op, None, None)).0
}

fn ended(revision: u64, leases: u64, deleted: u64) -> Outcome {
    Outcome::LeasesEnded { revision, leases, deleted }
}

fn lease_of(kv: &Kv, key: &str) -> Option<u64> {
    kv.get(key.as_bytes(), None).unwrap().and_then(|record| record.lease).map(LeaseId::get)
}

fn keys_of(kv: &Kv, number: u64) -> Vec<String> {
    kv.lease_keys(id(number), None).map(|key| String::from_utf8(key.to_vec()).unwrap()).collect()
}

#[test]
fn a_lease_that_is_over_takes_all_its_keys_at_one_revision() {
    let mut kv = Kv::new(settings());
    assert_eq!(at(&mut kv, 0, grant(7, 10)), Outcome::LeaseGranted { lease: id(7), ttl_s: 10 });
    assert_eq!(kv.revision(), 1, "a lease alone makes no revision");
    for key in ["a", "b", "c"] {
        at(&mut kv, 1, leased(key, PutLease::Attach(id(7))));
    }
    at(&mut kv, 1, put("d", "stays"));
    assert_eq!((lease_of(&kv, "a"), lease_of(&kv, "d")), (Some(7), None));
    assert_eq!(at(&mut kv, 11, expire(&[7])), ended(6, 1, 3));
    let values = ["a", "b", "c", "d"].map(|key| value(&kv, key, 6).is_some());
    assert_eq!((values, value(&kv, "a", 5).is_some()), ([false, false, false, true], true));
    assert_eq!((kv.lease(id(7)), kv.has_leases()), (None, false));
    assert_eq!(at(&mut kv, 12, renew(&[7])), Outcome::LeasesRenewed { ttls_s: vec![0] });
}

/// The leader proposes an end by what it knew; a renewal may have come before the proposal in the log.
#[test]
fn a_lease_lives_through_its_deadline_and_a_renewal_earlier_in_the_log_wins() {
    let mut kv = Kv::new(settings());
    at(&mut kv, 0, grant(7, 10));
    at(&mut kv, 0, grant(8, 10));
    assert_eq!(at(&mut kv, 10, expire(&[7, 8])), ended(1, 0, 0), "at its deadline it lives");
    at(&mut kv, 10, renew(&[7]));
    assert_eq!(at(&mut kv, 11, expire(&[7, 8, 8, 9])), ended(1, 1, 0));
    assert_eq!((kv.lease(id(7)).map(|lease| lease.deadline), kv.lease(id(8))), (Some(20 * SECOND), None));
    assert_eq!(at(&mut kv, 20, expire(&[7])), ended(1, 0, 0));
    assert_eq!(at(&mut kv, 21, expire(&[7])), ended(1, 1, 0));
}

#[test]
fn a_lease_is_renewed_for_its_whole_time_again_also_when_it_is_over() {
    let mut kv = Kv::new(settings());
    at(&mut kv, 0, grant(1, 5));
    at(&mut kv, 0, grant(2, 3));
    let renewed = at(&mut kv, 9, renew(&[2, 3, 1, 2]));
    assert_eq!(renewed, Outcome::LeasesRenewed { ttls_s: vec![3, 0, 5, 3] });
    let deadlines = [1, 2].map(|number| kv.lease(id(number)).unwrap().deadline / SECOND);
    assert_eq!(deadlines, [14, 12]);
    assert_eq!(kv.next_lease_deadline(), Some(12 * SECOND));
}

#[test]
fn a_name_in_use_and_an_unknown_lease_change_nothing() {
    let mut kv = Kv::new(settings());
    at(&mut kv, 0, grant(7, 10));
    let before = kv.state_hash();
    assert_eq!(at(&mut kv, 0, grant(7, 20)), Outcome::LeaseExists { lease: id(7) });
    assert_eq!(at(&mut kv, 0, revoke(8)), Outcome::LeaseNotFound { lease: id(8) });
    assert_eq!(at(&mut kv, 0, leased("a", PutLease::Attach(id(8)))), Outcome::LeaseNotFound { lease: id(8) });
    let own = PutLease::Own { lease: id(7), ttl_s: 5 };
    assert_eq!(at(&mut kv, 0, leased("a", own)), Outcome::LeaseExists { lease: id(7) });
    assert_eq!(at(&mut kv, 0, leased("a", PutLease::Keep)), Outcome::KeyNotFound { revision: 1 });
    assert_eq!((kv.state_hash(), kv.revision()), (before, 1));
}

#[test]
fn a_put_without_a_lease_detaches_and_one_with_another_moves() {
    let mut kv = Kv::new(settings());
    at(&mut kv, 0, grant(1, 10));
    at(&mut kv, 0, grant(2, 10));
    at(&mut kv, 0, leased("a", PutLease::Attach(id(1))));
    at(&mut kv, 0, leased("b", PutLease::Attach(id(1))));
    assert_eq!(keys_of(&kv, 1), ["a", "b"]);
    at(&mut kv, 0, leased("a", PutLease::Attach(id(2))));
    assert_eq!((keys_of(&kv, 1), keys_of(&kv, 2)), (vec!["b".to_owned()], vec!["a".to_owned()]));
    at(&mut kv, 0, leased("a", PutLease::Keep));
    assert_eq!(lease_of(&kv, "a"), Some(2));
    at(&mut kv, 0, put("b", "alone"));
    at(&mut kv, 0, delete("a"));
    assert!(keys_of(&kv, 1).is_empty() && keys_of(&kv, 2).is_empty());
    assert_eq!(at(&mut kv, 0, revoke(1)), ended(kv.revision(), 1, 0));
    assert_eq!(value(&kv, "b", kv.revision()).as_deref(), Some("alone"));
}

#[test]
fn a_counter_keeps_the_lease_of_its_key() {
    let mut kv = Kv::new(settings());
    at(&mut kv, 0, grant(1, 10));
    at(&mut kv, 0, Op::Put { key: b"n".to_vec(), value: b"1".to_vec(), lease: PutLease::Attach(id(1)) });
    at(&mut kv, 0, Op::Add { key: b"n".to_vec(), amount: 4 });
    assert_eq!((lease_of(&kv, "n"), value(&kv, "n", 3).as_deref()), (Some(1), Some("5")));
    assert_eq!(at(&mut kv, 11, expire(&[1])), ended(4, 1, 1));
}

#[test]
fn a_keys_own_lease_goes_with_the_write_that_takes_the_last_key_from_it() {
    let mut kv = Kv::new(settings());
    let own = |number| PutLease::Own { lease: id(number), ttl_s: 5 };
    at(&mut kv, 0, leased("a", own(1)));
    assert!(kv.lease(id(1)).is_some_and(|lease| lease.is_own && lease.keys == 1));
    at(&mut kv, 1, leased("a", own(2)));
    assert_eq!((kv.lease(id(1)), kv.lease(id(2)).map(|lease| lease.deadline)), (None, Some(6 * SECOND)));
    at(&mut kv, 1, leased("b", PutLease::Attach(id(2))));
    at(&mut kv, 1, delete("a"));
    assert_eq!(keys_of(&kv, 2), ["b"], "it has a key left");
    at(&mut kv, 1, put("b", ""));
    assert!(!kv.has_leases());
    at(&mut kv, 1, leased("c", own(3)));
    assert_eq!(at(&mut kv, 7, expire(&[3])), ended(kv.revision(), 1, 1));
    assert_eq!(value(&kv, "c", kv.revision()), None);
}

/// The keys of a change are written in their order: the last one left the lease before the next one came to it.
#[test]
fn a_key_joins_a_lease_of_its_own_in_the_change_in_which_the_last_one_leaves_it() {
    let own = PutLease::Own { lease: id(1), ttl_s: 5 };
    let put_to = |key: &str, lease| TxnOp::Put { key: key.into(), value: Some(vec![]), lease, prev: false };
    let delete = |key: &str| TxnOp::Delete { keys: Keys::One(key.into()), prev: false };
    for (leaves, joins) in [("a", "b"), ("b", "a")] {
        for leave in [put_to(leaves, PutLease::None), delete(leaves)] {
            let mut kv = Kv::new(settings());
            at(&mut kv, 0, leased(leaves, own));
            let then = vec![leave.clone(), put_to(joins, PutLease::Attach(id(1)))];
            let txn = Txn { then, ..Txn::default() };
            assert!(matches!(at(&mut kv, 0, Op::Txn { txn }), Outcome::Txn(_)), "{leave:?}");
            assert_eq!(keys_of(&kv, 1), [joins], "{leave:?}");
            at(&mut kv, 0, put(joins, ""));
            assert!(!kv.has_leases(), "{leave:?}");
        }
    }
}

#[test]
fn a_transaction_begins_compares_and_keeps_leases_and_undoes_all_of_it() {
    let mut kv = Kv::new(settings());
    at(&mut kv, 0, grant(1, 10));
    at(&mut kv, 0, leased("a", PutLease::Attach(id(1))));
    let txn_put = |key: &str, lease| TxnOp::Put { key: key.into(), value: Some(vec![]), lease, prev: false };
    let holds = |operator, lease: Option<u64>| crate::vocabulary::Compare {
        keys: Keys::One(b"a".to_vec()),
        operator,
        target: Target::Lease(lease.map(id)),
    };
    let mut run = |compares: Vec<crate::vocabulary::Compare>, then: Vec<TxnOp>| {
        at(&mut kv, 1, Op::Txn { txn: Txn { compares, then, otherwise: vec![] } })
    };
    let is_done = |outcome: &Outcome| matches!(outcome, Outcome::Txn(answer) if answer.succeeded);
    assert!(is_done(&run(vec![holds(Operator::Equal, Some(1)), holds(Operator::Greater, None)], vec![])));
    assert!(!is_done(&run(vec![holds(Operator::Equal, None)], vec![])));
    let own = PutLease::Own { lease: id(5), ttl_s: 3 };
    let missing = txn_put("z", PutLease::Attach(id(9)));
    assert_eq!(run(vec![], vec![txn_put("b", own), missing]), Outcome::LeaseNotFound { lease: id(9) });
    assert!(is_done(&run(vec![], vec![txn_put("b", own), txn_put("c", PutLease::Attach(id(5)))])));
    let keep = vec![txn_put("a", PutLease::Keep)];
    assert!(is_done(&run(vec![], keep)));
    assert_eq!((lease_of(&kv, "a"), keys_of(&kv, 5)), (Some(1), vec!["b".to_owned(), "c".to_owned()]));
    assert_eq!(at(&mut kv, 5, expire(&[5])), ended(kv.revision(), 1, 2));
}

#[test]
fn leases_over_gives_the_longest_overdue_first_and_bounds_their_keys() {
    let mut kv = Kv::new(settings());
    for (number, ttl_s) in [(1, 3), (2, 1), (3, 2), (4, 9)] {
        at(&mut kv, 0, grant(number, ttl_s));
    }
    at(&mut kv, 0, leased("a", PutLease::Attach(id(2))));
    at(&mut kv, 0, leased("b", PutLease::Attach(id(2))));
    let over = |seconds, leases, keys| {
        let over = kv.leases_over(seconds * SECOND, leases, keys);
        over.into_iter().map(LeaseId::get).collect::<Vec<_>>()
    };
    assert_eq!((over(1, 9, 9), over(3, 9, 9), over(4, 9, 9)), (vec![], vec![2, 3], vec![2, 3, 1]));
    assert_eq!((over(4, 2, 9), over(4, 9, 2)), (vec![2, 3], vec![2]));
}

/// The name is made up by the node that proposes: a repetition through another node comes with another one.
#[test]
fn a_repeated_grant_gives_the_lease_of_the_first_one() {
    let mut kv = Kv::new(settings());
    let made_up = |number| Op::LeaseGrant { lease: id(number), ttl_s: 5, is_chosen: false };
    let first = run(&mut kv, 0, &command(made_up(1), None, Some("id")));
    assert_eq!(first, (Outcome::LeaseGranted { lease: id(1), ttl_s: 5 }, false));
    assert_eq!(run(&mut kv, 0, &command(made_up(2), None, Some("id"))), (first.0, true));
    let own = |number| leased("a", PutLease::Own { lease: id(number), ttl_s: 5 });
    run(&mut kv, 0, &command(own(3), None, Some("put")));
    assert!(run(&mut kv, 0, &command(own(4), None, Some("put"))).1);
    assert_eq!((kv.lease(id(2)), kv.lease(id(4))), (None, None));
    let chosen = run(&mut kv, 0, &command(grant(1, 5), None, Some("id"))).0;
    assert_eq!(chosen, Outcome::IdempotencyMismatch, "a name that the client gives is a part of the request");
}
