//! Failover that waits for no timer: the process of the leader has ended, and this member was told.
//!
//! Nothing of Raft's safety rests on this. The word only says *when* a member asks for pre-votes, and that it no longer
//! takes the leader's silence for life (thesis §4.2.3). A false word costs a refused pre-vote, because the other members
//! hear the leader. No read rests on it: a leader confirms its reads by the answers of a majority.

use std::time::Duration;

use super::note::Decision;
use super::raft::Raft;
use super::role::Role;
use super::types::{MemberId, Term, Time};

/// The first campaign begins this much later, in microseconds, so that not all members begin at the same moment.
const FIRST_US: std::ops::RangeInclusive<u64> = 2_000..=10_000;

/// A campaign that ends without a winner is repeated this much later, in microseconds.
const REPEAT_US: std::ops::RangeInclusive<u64> = 10_000..=40_000;

/// After so many repetitions the election timeout decides again.
const MAX_REPEATS: u8 = 5;

/// A candidate waits for so many times its own sync, because the disks of the voters are not equally fast.
const SYNCS_WAITED: u32 = 2;

/// The leader of this term is known to have ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct LostLeader {
    campaigns_left: u8,
    /// When this member would have campaigned without being told.
    otherwise: Time,
}

impl Raft {
    /// The process that led `term` as `leader` has ended: its connections were closed by its system, and nobody listens
    /// at its address. When this member follows it, it does not wait for the election timeout.
    ///
    /// The term makes a late word harmless: when the same member was elected again, it leads another term.
    pub fn handle_leader_lost(&mut self, leader: MemberId, term: Term, now: Time) {
        self.steps += 1;
        if term != self.term()
            || !matches!(self.role, Role::Follower { leader: Some(followed) } if followed == leader)
            || self.lost_leader.is_some()
        {
            return;
        }
        self.note(Decision::LostLeader(leader));
        let otherwise = self.election_deadline;
        self.lost_leader = Some(LostLeader { campaigns_left: 1 + MAX_REPEATS, otherwise });
        self.election_deadline = otherwise.min(now + self.draw(FIRST_US));
    }

    /// The leader was heard, or another member is given the time to win: the election timeout decides again.
    pub(super) fn forget_lost_leader(&mut self) {
        self.lost_leader = None;
    }

    /// A campaign begins: sets when the next one begins unless somebody wins. After the repetitions the election timeout
    /// decides again, and the word has not made this member later than it would have been without it.
    pub(super) fn arm_campaign_timer(&mut self, now: Time) {
        let Some(lost) = &mut self.lost_leader else { return self.arm_election_timer(now) };
        lost.campaigns_left = lost.campaigns_left.saturating_sub(1);
        if lost.campaigns_left > 0 {
            self.election_deadline = now + self.draw(REPEAT_US);
            return;
        }
        let otherwise = lost.otherwise;
        self.lost_leader = None;
        self.arm_election_timer(now);
        if otherwise > now {
            self.election_deadline = self.election_deadline.min(otherwise);
        }
    }

    /// The candidate's own vote took `took` to become durable, and the other members are asked only now: their disks may
    /// need as long, and no other campaign begins before they can have answered.
    pub(super) fn arm_candidate_timer(&mut self, took: Duration, now: Time) {
        self.arm_election_timer(now);
        if self.lost_leader.is_some() {
            let repeat = now + self.draw(REPEAT_US) + SYNCS_WAITED * took;
            self.election_deadline = self.election_deadline.min(repeat);
        }
    }

    fn draw(&mut self, us: std::ops::RangeInclusive<u64>) -> Duration {
        Duration::from_micros(self.random(us))
    }
}
