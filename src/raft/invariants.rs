//! What must hold at every moment, checked after every step in tests and in the simulator. A violation ends the process:
//! a member that no longer knows what it promised must not answer.

use super::raft::Raft;
use super::role::{Role, RoleKind};
use super::types::Position;
use super::watermarks::Watermarks;

/// The whole log is checked once per this many steps; the cheap checks run in every step.
const WHOLE_LOG_EVERY: u64 = 256;

/// The invariants that one member can check on its own state.
///
/// - I3: terms in the log never fall and never exceed the member's own.
/// - I4: the log begins at or before the end of the snapshot, the snapshot ends at or before the commit index, the
///   commit index is within the log, and no entry after the commit index is applied.
/// - I5: `match_index < next_index <= last_index + 1` for every peer.
/// - I13: a leader has appended at most one membership that is not committed, and only after a committed entry of its
///   own term. (Memberships of earlier terms may be several: they are committed, but this leader does not know it yet.)
pub fn check(raft: &Raft) {
    let last = raft.last();
    assert!(last.term <= raft.term(), "I3: the log ends at {last}, above the own term {}", raft.term());
    let (base_index, snapshot_index) = (raft.log.base().index, raft.snapshot.last.index);
    assert!(
        base_index <= snapshot_index
            && snapshot_index <= raft.commit_index
            && raft.commit_index <= last.index,
        "I4: base {base_index} <= snapshot {snapshot_index} <= commit {} <= last {} does not hold",
        raft.commit_index,
        last.index
    );
    assert!(
        raft.last_applied <= raft.applying && raft.applying <= raft.commit_index,
        "I4: applied {} <= handed out {} <= commit {} does not hold",
        raft.last_applied,
        raft.applying,
        raft.commit_index
    );
    let (released, durable) = (raft.log.released(), raft.persisted_index());
    assert!(
        base_index <= released
            && (released == base_index || released <= raft.last_applied.max(raft.left_through).min(durable)),
        "I4: entries through {released} are not in memory, applied is {}, the start left those through {} on the disk, \
         durable is {durable}",
        raft.last_applied,
        raft.left_through
    );
    assert!(
        raft.persisted_index() <= last.index,
        "I4: {} is said to be durable, but the log ends at {}",
        raft.persisted_index(),
        last.index
    );
    for (peer, progress) in raft.peers_progress() {
        assert!(
            progress.match_index < progress.next_index && progress.next_index <= last.index + 1,
            "I5: peer {peer}: match {} < next {} <= last {} + 1 does not hold",
            progress.match_index,
            progress.next_index,
            last.index
        );
    }
    if let Role::Leader(leader) = &raft.role {
        let own = raft.memberships.uncommitted_since(leader.term_start);
        assert!(own <= 1, "I13: {own} uncommitted memberships of term {}", raft.term());
        assert!(
            own == 0 || raft.commit_index >= leader.term_start,
            "I13: a membership of term {} before anything of that term is committed",
            raft.term()
        );
    }
    if raft.steps.is_multiple_of(WHOLE_LOG_EVERY) {
        check_log(raft);
    }
}

fn check_log(raft: &Raft) {
    let released = raft.log.released();
    let mut before = Position::new(released, raft.log.term_at(released).expect("the log knows every term"));
    for entry in raft.log.iter() {
        let position = entry.position();
        assert!(
            position.index == before.index + 1 && position.term >= before.term,
            "I3: entry {position} stands after {before}"
        );
        before = position;
    }
}

/// The invariants between the states before and after a step.
///
/// - I1: the term never decreases. I2: the vote of a term never changes once given.
/// - I6: a leader raises its commit index only to entries of its own term.
/// - I7: committed entries stay; the commit index and the applied index never decrease.
/// - A leader never becomes a candidate in its own term, and an entry of a leader's log is never cut in its term.
pub fn check_step(before: &Watermarks, raft: &Raft) {
    let after = raft.watermarks();
    assert!(before.term <= after.term, "I1: the term fell from {} to {}", before.term, after.term);
    if before.term == after.term {
        assert!(
            before.voted_for.is_none() || before.voted_for == after.voted_for,
            "I2: the vote of term {} changed from {:?} to {:?}",
            after.term,
            before.voted_for,
            after.voted_for
        );
        let led = before.role == RoleKind::Leader;
        assert!(
            !led || matches!(after.role, RoleKind::Leader | RoleKind::Follower),
            "a leader of term {} became a {}",
            after.term,
            after.role.as_str()
        );
        assert!(
            !(led && after.role == RoleKind::Leader) || before.last.index <= after.last.index,
            "a leader cut its own log from {} to {}",
            before.last,
            after.last
        );
    }
    assert!(
        before.committed.index <= after.committed.index && before.last_applied <= after.last_applied,
        "I7: commit went from {} to {}, applied from {} to {}",
        before.committed,
        after.committed,
        before.last_applied,
        after.last_applied
    );
    assert!(
        raft.log.term_at(before.committed.index).is_none_or(|term| term == before.committed.term),
        "I7: committed entry {} was replaced",
        before.committed
    );
    if after.role == RoleKind::Leader && before.committed != after.committed {
        assert!(
            after.committed.term == after.term,
            "I6: a leader of term {} committed {} by counting",
            after.term,
            after.committed
        );
    }
    assert!(
        before.persisted_seq <= after.persisted_seq && after.persisted_seq <= after.queued_seq,
        "I12: write {} is said to be durable, {} were queued",
        after.persisted_seq,
        after.queued_seq
    );
}
