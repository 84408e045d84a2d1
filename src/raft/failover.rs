//! Failover that waits for no timer: the process of the leader has ended, and this member was told.
//!
//! Nothing of Raft's safety rests on this. The word only says *when* a member asks for pre-votes, and that it no longer
//! takes the leader's silence for life (thesis §4.2.3). A false word costs a refused pre-vote, because the other members
//! hear the leader. No read rests on it: a leader confirms its reads by the answers of a majority.

use std::time::Duration;

use super::note::Decision;
use super::raft::Raft;
use super::role::Role;
use super::types::{MemberId, Time};

/// The first campaign begins this much later, in microseconds, so that not all members begin at the same moment.
const FIRST_US: std::ops::RangeInclusive<u64> = 2_000..=10_000;

/// A campaign that ends without a winner is repeated this much later, in microseconds.
const REPEAT_US: std::ops::RangeInclusive<u64> = 10_000..=40_000;

/// After so many repetitions the election timeout decides again.
const MAX_REPEATS: u8 = 5;

/// The leader of this term is known to have ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct LostLeader {
    campaigns_left: u8,
}

impl Raft {
    /// The process of `leader` has ended: its connections were closed by its system, and nobody listens at its address.
    /// When this member follows that leader, it does not wait for the election timeout.
    pub fn handle_leader_lost(&mut self, leader: MemberId, now: Time) {
        self.steps += 1;
        if !matches!(self.role, Role::Follower { leader: Some(followed) } if followed == leader)
            || self.lost_leader.is_some()
        {
            return;
        }
        self.note(Decision::LostLeader(leader));
        self.lost_leader = Some(LostLeader { campaigns_left: 1 + MAX_REPEATS });
        self.election_deadline = self.election_deadline.min(now + self.draw(FIRST_US));
    }

    /// The leader was heard, or another member is given the time to win: the election timeout decides again.
    pub(super) fn forget_lost_leader(&mut self) {
        self.lost_leader = None;
    }

    /// Uses up one campaign, when the leader is lost.
    pub(super) fn count_campaign(&mut self) {
        if let Some(lost) = &mut self.lost_leader {
            lost.campaigns_left = lost.campaigns_left.saturating_sub(1);
            if lost.campaigns_left == 0 {
                self.lost_leader = None;
            }
        }
    }

    /// When this campaign has failed and the next one begins.
    pub(super) fn arm_campaign_timer(&mut self, now: Time) {
        match self.lost_leader {
            Some(_) => self.election_deadline = now + self.draw(REPEAT_US),
            None => self.arm_election_timer(now),
        }
    }

    fn draw(&mut self, us: std::ops::RangeInclusive<u64>) -> Duration {
        Duration::from_micros(self.random(us))
    }
}
