//! What a waiting write is told, and when.

use std::sync::mpsc;

use super::*;
use crate::store::Outcome;

/// A write that waits for its entry at 5@2, and what it is answered.
fn proposed() -> (Waiters, mpsc::Receiver<WriteResult>) {
    let (sender, answer) = mpsc::channel();
    let done = Box::new(move |result| sender.send(result).expect("the test waits"));
    let mut waiters = Waiters::new();
    let id = waiters.add(Work::Write { command: None, done }, Origin::Client, Time::NEVER);
    waiters.set_stage(id, Stage::Proposed(Position::new(5, 2)));
    (waiters, answer)
}

fn applied() -> Option<Applied> {
    let outcome = Outcome::Put { revision: 1, create_revision: 1, version: 1 };
    Some(Applied { index: 5, outcome, replayed: false })
}

#[test]
fn a_write_whose_entry_a_snapshot_took_the_place_of_is_unknown() {
    let (mut waiters, answers) = proposed();
    waiters.fail_covered(4, "nobody knows");
    waiters.take_finished().into_iter().for_each(Finished::answer);
    assert!(answers.try_recv().is_err(), "the snapshot ends before it");
    waiters.fail_covered(5, "nobody knows");
    waiters.take_finished().into_iter().for_each(Finished::answer);
    let failure = answers.try_recv().expect("answered").expect_err("unknown");
    assert!(!failure.kind.is_not_done(), "{failure:?}");
}

#[test]
fn a_write_is_done_once_its_entry_is_applied() {
    let (mut waiters, answer) = proposed();
    waiters.handle_applied_entry(Position::new(4, 2), applied());
    assert!(waiters.take_finished().is_empty());
    waiters.handle_applied_entry(Position::new(5, 2), applied());
    waiters.take_finished().into_iter().for_each(Finished::answer);
    assert_eq!(answer.try_recv().unwrap().unwrap().index, 5);
    assert_eq!(waiters.len(), 0);
}

#[test]
fn a_write_whose_place_another_leaders_entry_took_is_not_done() {
    for other in [applied(), None] {
        let (mut waiters, answer) = proposed();
        waiters.handle_applied_entry(Position::new(5, 3), other);
        waiters.take_finished().into_iter().for_each(Finished::answer);
        let failure = answer.try_recv().unwrap().unwrap_err();
        assert!(failure.kind.is_not_done(), "{failure:?}");
    }
}
