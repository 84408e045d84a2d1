//! One test per rule of Raft that implementations get wrong, and one per invariant that a single member or a small
//! cluster can show. The name of a test begins with the rule; its comment names the section of the Raft paper (P§) or
//! of Ongaro's thesis (§) and, where the rule was broken in the field, that project's issue.

#[path = "raft_paper/election.rs"]
mod election;
#[path = "raft_paper/failover.rs"]
mod failover;
#[path = "raft_paper/harness.rs"]
mod harness;
#[path = "raft_paper/invariants.rs"]
mod invariants;
#[path = "raft_paper/left_on_disk.rs"]
mod left_on_disk;
#[path = "raft_paper/membership.rs"]
mod membership;
#[path = "raft_paper/partition.rs"]
mod partition;
#[path = "raft_paper/read.rs"]
mod read;
#[path = "raft_paper/replication.rs"]
mod replication;
#[path = "raft_paper/script.rs"]
mod script;
#[path = "raft_paper/snapshot.rs"]
mod snapshot;
#[path = "raft_paper/state_machine.rs"]
mod state_machine;
#[path = "raft_paper/transfer.rs"]
mod transfer;
#[path = "raft_paper/upgrade.rs"]
mod upgrade;
