//! What the core's rules ask of the state machine that applies its entries.

use dkv::raft::*;
use dkv::store::{Applied, Command, Condition, Idempotency, Kv, Op, Outcome, request_hash};

use super::harness::entry;

fn put(value: &str, condition: Option<Condition>, key: Option<&str>) -> Command {
    let op = Op::put(b"k".to_vec(), value.as_bytes().to_vec());
    let hash = request_hash(&op, condition);
    let idempotency = key.map(|key| Idempotency { key: key.to_string(), request_hash: hash });
    Command { op, condition, idempotency, wall_ms: 0, actor: String::new() }
}

/// The genesis entry `1@1` and these commands after it, each at its cluster time.
fn history(commands: &[(ClusterTime, Command)]) -> Vec<Entry> {
    let commands = commands.iter().zip(2..).map(|((cluster_time, command), index)| {
        Entry::new(Position::new(index, 2), *cluster_time, &Payload::Command(command.encode()))
    });
    std::iter::once(entry(1, 1, 3)).chain(commands).collect()
}

fn apply(entries: &[Entry]) -> (Kv, Vec<Applied>) {
    let mut kv = Kv::new(Settings::default());
    let applied = entries.iter().filter_map(|entry| kv.apply(entry)).collect();
    (kv, applied)
}

/// etcd 3.5's post-mortem: state and applied index are one, so that an entry can neither be applied twice nor be left out.
#[test]
fn rule_25_state_and_applied_index_are_one() {
    let entries = history(&[(1, put("a", None, None)), (2, put("b", None, None))]);
    let (mut kv, _) = apply(&entries);
    assert_eq!((kv.applied(), kv.revision()), (Position::new(3, 2), 3));
    let no_op = Entry::new(Position::new(4, 3), 3, &Payload::Noop);
    assert_eq!((kv.apply(&no_op), kv.applied(), kv.revision()), (None, Position::new(4, 3), 3));
    let again = std::panic::AssertUnwindSafe(|| kv.apply(&entries[2]));
    assert!(std::panic::catch_unwind(again).is_err(), "applied twice");
}

/// §6.3: the outcome of a keyed command is remembered in the state machine whether it succeeded or failed, and is forgotten
/// by cluster time in the log alone.
#[test]
fn rule_45_keyed_outcomes_are_remembered_failures_included_and_forgotten_by_replicated_age() {
    let window = Settings::default().idempotency_window_s * 1_000_000;
    let fails = put("x", Some(Condition::Exists), Some("failed"));
    let works = put("a", None, Some("worked"));
    let entries = history(&[
        (1, fails.clone()),
        (2, works.clone()),
        (3, fails.clone()),
        (4, works.clone()),
        (window + 1_000, fails),
        (window + 1_001, works),
    ]);
    let (kv, applied) = apply(&entries);
    let replayed: Vec<bool> = applied.iter().map(|a| a.replayed).collect();
    assert_eq!(replayed, [false, false, true, true, false, false]);
    assert!(matches!(applied[0].outcome, Outcome::PreconditionFailed { .. }));
    assert_eq!(applied[2].outcome, applied[0].outcome, "the failure, although the key exists now");
    assert_eq!(applied[3].outcome, applied[1].outcome);
    assert!(matches!(applied[4].outcome, Outcome::Put { revision: 3, .. }), "forgotten, decided anew");
    assert_eq!(kv.revision(), 4);
}

/// §6.3, copycat#40: the state depends on the entries alone: not on the member, on wall clocks, or on how entries were
/// batched. A cluster time that runs backwards does not turn cluster time back.
#[test]
fn rule_46_equal_entries_make_equal_states() {
    let commands: Vec<(ClusterTime, Command)> = [50, 900, 20, 901]
        .into_iter()
        .map(|cluster_time| (cluster_time, put("v", None, Some(&cluster_time.to_string()))))
        .collect();
    let (one, outcomes) = apply(&history(&commands));
    let elsewhere: Vec<(ClusterTime, Command)> = commands
        .into_iter()
        .map(|(cluster_time, command)| {
            (cluster_time, Command { wall_ms: 77, actor: "somebody".to_string(), ..command })
        })
        .collect();
    let (two, same_outcomes) = apply(&history(&elsewhere));
    assert_eq!((one.state_hash(), outcomes), (two.state_hash(), same_outcomes));
    assert_eq!(one.cluster_time(), 901);
    let (shorter, _) = apply(&history(&elsewhere[..3]));
    assert_eq!(shorter.cluster_time(), 900, "max(previous, cluster time)");
    assert_ne!(shorter.state_hash(), one.state_hash());
}
