//! Calls to another node that leads: writes that are forwarded in batches, one read-index call for all waiting reads.

use std::time::Duration;

use super::waiters::{RequestId, Stage, Work};
use super::{LEADER_WAIT, Leadership, Outgoing, State};
use crate::node::request::{Failure, FailureKind};
use crate::node::transport::{
    ForwardedWrite, LeaderCall, PeerError, PeerReply, PeerRequest, Priority, Target,
};
use crate::raft::{MemberId, Time};

/// Commands in one forward, in bytes; at least one is sent.
const MAX_FORWARD_BYTES: usize = 1 << 20;

/// Writes in one forward.
const MAX_FORWARD_WRITES: usize = 256;

impl State {
    fn current_leadership(&self) -> Option<Leadership> {
        self.raft.leader().map(|leader| (self.raft.term(), leader))
    }

    /// Where to call a peer, and its name. RPCs go to members only.
    pub(in crate::node) fn target(&self, peer: MemberId) -> (Target, String) {
        let member = self.raft.member(peer).expect("RPCs go to members only");
        (Target { member_id: peer, raft_addr: member.raft_addr.clone() }, member.node_id.clone())
    }

    /// Where to call the leader, when it is another node whose address is known.
    fn leader_target(&self) -> Option<Target> {
        let leader = self.raft.leader().filter(|&leader| leader != self.raft.me())?;
        let member = self.raft.membership().get(leader)?;
        Some(Target { member_id: leader, raft_addr: member.raft_addr.clone() })
    }

    /// The next batch of writes for the leader: the oldest ones that fit.
    pub fn poll_forward(&mut self, now: Time) -> Option<Outgoing> {
        let to = self.leader_target()?;
        let (mut ids, mut writes, mut bytes, mut earliest) = (Vec::new(), Vec::new(), 0, Time::NEVER);
        for (id, request) in self.waiters.queued_writes().take(MAX_FORWARD_WRITES) {
            let Work::Write { command: Some(command), .. } = &request.work else { continue };
            bytes += command.payload().len();
            // The whole batch is decided at its earliest deadline: a request near its deadline must not shorten the
            // time of others.
            let is_much_more_patient = request.deadline.since(now) > 2 * earliest.since(now);
            if !ids.is_empty() && (bytes > MAX_FORWARD_BYTES || is_much_more_patient) {
                break;
            }
            earliest = earliest.min(request.deadline);
            ids.push(id);
            writes.push(ForwardedWrite {
                command: command.clone(),
                remaining_ms: millis(request.deadline.since(now)),
            });
        }
        if ids.is_empty() {
            return None;
        }
        ids.iter().for_each(|&id| self.waiters.set_stage(id, Stage::Sent));
        self.forward_call = self.current_leadership();
        // The leader answers when the earliest deadline passes; the margin lets that answer arrive.
        let timeout = earliest.since(now) + self.heartbeat;
        Some(Outgoing { ids, to, priority: Priority::Bulk, request: PeerRequest::Forward(writes), timeout })
    }

    /// The result of a batch of forwarded writes. Writes that were answered meanwhile (deadline, other leader) stay
    /// answered.
    pub fn handle_forwarded(&mut self, ids: &[RequestId], result: Result<PeerReply, PeerError>, now: Time) {
        self.forward_call = None;
        let ids = ids.iter().copied();
        match result {
            Ok(PeerReply::Forward(results)) if results.len() == ids.len() => {
                for (id, result) in ids.zip(results) {
                    match result {
                        // Surely not done: the next leader may be asked.
                        Err(failure) if failure.kind == FailureKind::Unavailable => {
                            self.retry(id, &failure.message, now);
                        }
                        result if self.waiters.is_sent(id) => self.waiters.finish_write(id, result),
                        _ => {}
                    }
                }
            }
            Err(e) if e.is_surely_not_executed() => {
                let trouble = e.to_string();
                ids.for_each(|id| self.retry(id, &trouble, now));
            }
            other => {
                let why = match other {
                    Ok(_) => "the leader's answer does not fit".to_owned(),
                    Err(e) => e.to_string(),
                };
                for id in ids.filter(|&id| self.waiters.is_sent(id)).collect::<Vec<_>>() {
                    let text =
                        format!("forwarded to the leader, {why}: the write may or may not take effect");
                    self.waiters.fail(id, Failure::unknown(text));
                }
            }
        }
    }

    /// One read-index call for all reads that wait for the leader. They arrived before the call is sent, so its
    /// answer covers what each of them must see.
    pub fn poll_ask(&mut self, now: Time) -> Option<Outgoing> {
        let to = self.leader_target()?;
        let (ids, deadlines): (Vec<_>, Vec<_>) =
            self.waiters.queued_reads().map(|(id, request)| (id, request.deadline)).unzip();
        let most_patient = deadlines.into_iter().max()?.since(now);
        ids.iter().for_each(|&id| self.waiters.set_stage(id, Stage::Sent));
        self.ask_call = self.current_leadership();
        // A leader that cannot answer within two of the longest election timeouts has lost its quorum. Asking again
        // is cheap, and a lost answer does not delay later reads for long.
        let timeout = most_patient.min(4 * self.election_timeout);
        let request = PeerRequest::ReadIndex { remaining_ms: millis(timeout) };
        Some(Outgoing { ids, to, priority: Priority::Bulk, request, timeout })
    }

    /// The result of a call of the read-asker. Reads change nothing: every failure may be retried.
    pub fn handle_asked(&mut self, ids: &[RequestId], result: Result<PeerReply, PeerError>, now: Time) {
        self.ask_call = None;
        let last_applied = self.raft.last_applied();
        let index = match result {
            Ok(PeerReply::ReadIndex(answer)) => answer.map_err(|failure| failure.message),
            Ok(_) => Err("the leader's answer belongs to another question".to_owned()),
            Err(e) => Err(e.to_string()),
        };
        for &id in ids {
            match &index {
                Ok(index) if self.waiters.is_sent(id) => self.waiters.confirm_read(id, *index, last_applied),
                Ok(_) => {}
                Err(trouble) => self.retry(id, trouble, now),
            }
        }
    }

    /// Retries a request whose sending failed: when the leader changes, or after a heartbeat.
    fn retry(&mut self, id: RequestId, trouble: &str, now: Time) {
        if self.waiters.is_sent(id) {
            self.waiters.await_retry(id, now + LEADER_WAIT, now + self.heartbeat, trouble.to_owned());
        }
    }

    pub(super) fn cancel_stale_calls(&mut self, now: Time) {
        let current = self.current_leadership();
        let calls = [(self.forward_call, LeaderCall::Forward), (self.ask_call, LeaderCall::ReadIndex)];
        let stale = calls.into_iter().filter(|&(of, _)| of != current);
        let stale: Vec<_> = stale.filter_map(|(of, call)| Some((of?.1, call))).collect();
        self.cancel_at = if stale.is_empty() { Time::NEVER } else { now + self.heartbeat };
        self.cancels.extend(stale);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
