//! The leader's part in the life of leases. It decides nothing: what it proposes is checked again where it is applied,
//! so a proposal that comes late, twice or from a past leadership does no harm.

use std::time::Duration;

use crate::raft::{ClusterTime, Index, Raft, Term, Time};
use crate::store::Kv;
use crate::vocabulary::Op;

/// While there are leases, the keeper looks so often.
pub const LEASE_TICK: Duration = Duration::from_millis(100);

/// A new leader ends no lease for so long, nor does one whose process stood still: clients that could not renew
/// meanwhile get the chance to.
const GRACE: Duration = Duration::from_secs(1);

/// A leader that has appended nothing for so long appends an entry while there are leases. The next leader goes on from
/// the stamp of the last entry: what passed since then would be forgotten.
const QUIET: Duration = Duration::from_secs(1);

/// A proposal of which nothing is seen for so long was lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// Most leases that one entry ends; and no more once they have so many keys: the entry holds up what is applied after it.
const MAX_LEASES: usize = 1_000;
const MAX_KEYS: usize = 10_000;

/// What the keeper must know of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    /// Its term.
    pub term: Term,
    /// The last entry of its log.
    pub last: Index,
    /// The stamp that its next entry gets.
    pub cluster_time: ClusterTime,
}

impl Lead {
    /// None when the member does not lead.
    pub fn of(raft: &Raft, now: Time) -> Option<Lead> {
        let cluster_time = raft.next_cluster_time(now)?;
        Some(Lead { term: raft.term(), last: raft.last().index, cluster_time })
    }
}

/// What the keeper remembers between two looks.
#[derive(Debug)]
pub struct LeaseKeeper {
    /// The term in which it leads.
    term: Option<Term>,
    looked_at: Option<Time>,
    /// Before this time it ends no lease.
    grace_until: Time,
    /// The last entry of the log, and when it was first seen.
    last: (Index, Time),
    /// What it proposed lies at this index or after it, and when it was proposed.
    proposed: Option<(Index, Time)>,
}

impl LeaseKeeper {
    /// A keeper that has seen nothing yet.
    pub fn new() -> LeaseKeeper {
        LeaseKeeper { term: None, looked_at: None, grace_until: Time(0), last: (0, Time(0)), proposed: None }
    }

    /// What is to be proposed now. `lead` is None when the member does not lead.
    pub fn look(&mut self, lead: Option<Lead>, kv: &Kv, now: Time) -> Option<Op> {
        let stood_still = self.looked_at.is_some_and(|at| now.since(at) > LEASE_TICK + GRACE);
        self.looked_at = kv.has_leases().then_some(now);
        let Some(lead) = lead else {
            self.term = None;
            return None;
        };
        if self.term != Some(lead.term) || stood_still {
            self.term = Some(lead.term);
            self.grace_until = now + GRACE;
            self.proposed = None;
        }
        if lead.last != self.last.0 {
            self.last = (lead.last, now);
        }
        if !kv.has_leases() {
            return None;
        }
        if let Some((index, at)) = self.proposed
            && kv.applied().index < index
            && now.since(at) < PATIENCE
        {
            return None;
        }
        self.proposed = None;
        let over = match now >= self.grace_until {
            true => kv.leases_over(lead.cluster_time, MAX_LEASES, MAX_KEYS),
            false => Vec::new(),
        };
        let is_quiet = now.since(self.last.1) >= QUIET;
        if over.is_empty() && !is_quiet {
            return None;
        }
        self.proposed = Some((lead.last + 1, now));
        Some(Op::LeaseExpire { leases: over })
    }
}

impl Default for LeaseKeeper {
    fn default() -> LeaseKeeper {
        LeaseKeeper::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Entry, Payload, Position, Settings};
    use crate::store::Command;
    use crate::vocabulary::LeaseId;

    const SECOND: Duration = Duration::from_secs(1);

    /// A store with one lease of five seconds, granted at cluster time 0.
    fn store() -> Kv {
        let mut kv = Kv::new(Settings::default());
        apply(&mut kv, Op::LeaseGrant { lease: LeaseId::MIN, ttl_s: 5, is_chosen: true });
        kv
    }

    fn apply(kv: &mut Kv, op: Op) {
        let command = Command { op, condition: None, idempotency: None, wall_ms: 0, actor: String::new() };
        let position = Position::new(kv.applied().index + 1, 1);
        kv.apply(&Entry::new(position, 0, &Payload::Command(command.encode())));
    }

    fn lead(term: Term, last: Index, seconds: u64) -> Option<Lead> {
        Some(Lead { term, last, cluster_time: seconds * 1_000_000 })
    }

    fn at(millis: u64) -> Time {
        Time(0) + Duration::from_millis(millis)
    }

    /// Looks every tick from one time on until another one, both in milliseconds; what was proposed, and when.
    fn looks(
        keeper: &mut LeaseKeeper,
        kv: &Kv,
        from: u64,
        to: u64,
        lead: impl Fn(u64) -> Option<Lead>,
    ) -> Vec<(u64, Op)> {
        let ticks = (from..=to).step_by(LEASE_TICK.as_millis() as usize);
        ticks.filter_map(|now| Some((now, keeper.look(lead(now), kv, at(now))?))).collect()
    }

    fn expire(leases: &[LeaseId]) -> Op {
        Op::LeaseExpire { leases: leases.to_vec() }
    }

    #[test]
    fn a_leader_ends_what_is_over_and_says_it_once_until_it_is_applied() {
        let (mut keeper, mut kv) = (LeaseKeeper::new(), store());
        // Other entries come all the time: the log is never quiet.
        let busy = |now| lead(1, now, 6);
        assert_eq!(looks(&mut keeper, &kv, 0, 2_500, busy), [(1_000, expire(&[LeaseId::MIN]))]);
        while kv.applied().index < 1_001 {
            apply(&mut kv, Op::LeaseExpire { leases: Vec::new() });
        }
        assert_eq!(looks(&mut keeper, &kv, 2_600, 2_600, busy), [(2_600, expire(&[LeaseId::MIN]))]);
    }

    #[test]
    fn a_proposal_that_was_lost_is_made_again() {
        let (mut keeper, kv) = (LeaseKeeper::new(), store());
        let proposed = looks(&mut keeper, &kv, 0, 3_500, |now| lead(1, now, 6));
        assert_eq!(proposed.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1_000, 3_000]);
    }

    /// Clients that could not renew while there was no leader get the chance to.
    #[test]
    fn a_new_leader_ends_no_lease_in_its_first_second() {
        let (mut keeper, kv) = (LeaseKeeper::new(), store());
        assert!(looks(&mut keeper, &kv, 0, 900, |now| lead(1, now, 6)).is_empty());
        assert!(looks(&mut keeper, &kv, 1_000, 1_900, |now| lead(2, now, 6)).is_empty(), "a new term");
        assert!(looks(&mut keeper, &kv, 2_000, 2_000, |_| None).is_empty());
        assert!(looks(&mut keeper, &kv, 2_100, 3_000, |now| lead(2, now, 6)).is_empty(), "it leads again");
        assert_eq!(looks(&mut keeper, &kv, 3_100, 3_100, |now| lead(2, now, 6)).len(), 1);
    }

    #[test]
    fn a_leader_whose_process_stood_still_ends_no_lease_for_a_second() {
        let (mut keeper, kv) = (LeaseKeeper::new(), store());
        assert!(looks(&mut keeper, &kv, 0, 900, |now| lead(1, now, 1)).is_empty());
        let after = looks(&mut keeper, &kv, 9_000, 10_000, |now| lead(1, now, 9));
        assert_eq!(after, [(10_000, expire(&[LeaseId::MIN]))]);
    }

    /// Otherwise the next leader would not know that time has passed.
    #[test]
    fn a_quiet_leader_keeps_the_time_going_while_there_are_leases() {
        let (mut keeper, mut kv) = (LeaseKeeper::new(), store());
        let quiet = |_| lead(1, 1, 1);
        assert_eq!(looks(&mut keeper, &kv, 0, 1_500, quiet), [(1_000, expire(&[]))]);
        assert!(
            looks(&mut keeper, &kv, 1_600, 2_900, |now| lead(1, now, 1)).is_empty(),
            "not when it is busy"
        );
        apply(&mut kv, Op::LeaseRevoke { lease: LeaseId::MIN });
        let mut keeper = LeaseKeeper::new();
        assert!(looks(&mut keeper, &kv, 0, 9_000, quiet).is_empty(), "nor without leases");
        assert_eq!(SECOND, QUIET);
    }
}
