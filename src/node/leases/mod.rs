//! What a node does for leases: it shares entries of the log between renewals ([`renewals`]), and as the leader it ends
//! leases whose time is over and keeps the cluster time going ([`keeper`]). One thread does both.

mod keeper;
mod renewals;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::request::{Completion, Origin, WriteResult};
use super::{Clock, Node};
use crate::raft::ClusterTime;
use crate::store::{Command, Kv};
use crate::vocabulary::{LeaseId, Op};
pub use keeper::{LEASE_TICK, Lead, LeaseKeeper};
pub(super) use renewals::Renewals;
use renewals::Task;

/// How long a proposal of the keeper may take: after that it is proposed again.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(2);

impl Node {
    /// Renews leases. Renewals that come within a tenth of a second of each other share an entry of the log. `done` gets
    /// an [`Outcome::LeasesRenewed`](crate::vocabulary::Outcome::LeasesRenewed) with as many numbers as there are
    /// leases.
    pub fn renew_leases(&self, leases: Vec<LeaseId>, deadline: Instant, done: Completion<WriteResult>) {
        self.renewals.add(leases, Origin::Client, deadline, done);
    }

    /// The cluster time as far as this node can tell: exact at the leader. Another node has the time of the last entry
    /// that it has applied, and what has passed since then.
    pub fn cluster_time(&self) -> ClusterTime {
        let leads = self.look(|state, now| state.raft.next_cluster_time(now));
        leads.unwrap_or_else(|| {
            let at = *super::lock(&self.stamped_at);
            let since = u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.with_kv(Kv::cluster_time).saturating_add(since)
        })
    }

    /// Entries were applied, and there are leases: the stamps of the entries are the cluster time of now.
    pub(super) fn note_leases(&self) {
        *super::lock(&self.stamped_at) = Instant::now();
        self.renewals.wake_keeper();
    }
}

/// The thread.
pub(super) fn run(node: &Arc<Node>) {
    let mut keeper = LeaseKeeper::new();
    loop {
        match node.renewals.next() {
            Task::End => return,
            Task::Renew(batch) => {
                let leads = node.look(|state, _| state.raft.is_leader());
                for (leases, deadline, origin, done) in batch.into_commands(leads) {
                    write(node, Op::LeaseRenew { leases }, deadline, origin, done);
                }
            }
            Task::Look => {
                let lead = node.look(|state, now| Lead::of(&state.raft, now));
                let now = Clock::now(&node.clock);
                let (op, has_leases) = node.with_kv(|kv| (keeper.look(lead, kv, now), kv.has_leases()));
                if has_leases {
                    node.renewals.look_after(LEASE_TICK);
                }
                if let Some(op) = op {
                    let deadline = Instant::now() + PROPOSAL_TIMEOUT;
                    // Whatever comes of it shows in the store.
                    write(node, op, deadline, Origin::Forwarded, Box::new(|_| ()));
                }
            }
        }
    }
}

fn write(node: &Arc<Node>, op: Op, deadline: Instant, origin: Origin, done: Completion<WriteResult>) {
    let command = Command { op, condition: None, idempotency: None, wall_ms: 0, actor: String::new() };
    node.write(command, deadline, origin, done);
}
