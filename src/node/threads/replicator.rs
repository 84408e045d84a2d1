//! The replicators: one thread per peer, one RPC at a time. Entries that are appended during one RPC go into the next
//! RPC, so batching needs no tuning.

use std::sync::Arc;
use std::time::Instant;

use crate::node::core::wakeups::PeerWakeups;
use crate::node::transport::{PeerError, PeerReply, PeerRequest, Priority, Target};
use crate::node::{Next, Node, UninitializedPeer};
use crate::raft::{MemberId, PollRpc, RpcFailed, RpcReply, RpcRequest, Ticket};

struct Rpc {
    request: RpcRequest,
    ticket: Ticket,
    to: Target,
    node_id: String,
}

/// The thread for `peer`.
pub(in crate::node) fn run(node: &Arc<Node>, peer: MemberId, wakeups: &PeerWakeups) {
    let counters = node.counters.add_peer(peer);
    let mut trouble = None;
    loop {
        let rpc = node.wait(&wakeups.replicator, |state, now| {
            if state.is_stopping {
                return Next::Do(None);
            }
            match state.raft.poll_rpc(peer, now) {
                PollRpc::Send(request, ticket) => {
                    let (to, node_id) = state.target(peer);
                    Next::Do(Some(Rpc { request, ticket, to, node_id }))
                }
                PollRpc::WaitUntil(at, awaits) => Next::SleepUntil(at, awaits),
                PollRpc::Stop => Next::Do(None),
            }
        });
        let Some(Rpc { request, ticket, to, node_id }) = rpc else { break };
        let began = Instant::now();
        if let RpcRequest::AppendEntries(append) = &request
            && !append.entries.is_empty()
        {
            node.counters.append_batch.observe_size(append.entries.len());
        }
        let result = call(node, &to, request);
        counters.count_rpc(began.elapsed(), result.is_ok());
        let outcome = result.as_ref().copied().map_err(|_| RpcFailed);
        node.step(|state, now| state.raft.handle_rpc_result(ticket, outcome, now));
        report(&node_id, &to, &mut trouble, result.as_ref().err().cloned());
        match result {
            Err(PeerError::Uninitialized { node_id, member_id }) => {
                let latest = node.membership();
                (node.listeners.on_uninitialized)(UninitializedPeer { to, node_id, member_id, latest });
            }
            Err(PeerError::Removed) => (node.listeners.on_removed)(),
            _ => {}
        }
    }
    node.counters.remove_peer(peer);
}

/// One RPC, bounded as a whole by the minimum election timeout: a later answer would be useless.
fn call(node: &Node, to: &Target, request: RpcRequest) -> Result<RpcReply, PeerError> {
    let request = match request {
        RpcRequest::RequestVote(request) => PeerRequest::RequestVote(request),
        RpcRequest::AppendEntries(request) => PeerRequest::AppendEntries(request),
        RpcRequest::TimeoutNow(request) => PeerRequest::TimeoutNow(request),
    };
    // The core drops an answer that does not match the request.
    match node.transport.call(to, Priority::Core, request, node.options.election_timeout)? {
        PeerReply::RequestVote(reply) => Ok(RpcReply::RequestVote(reply)),
        PeerReply::AppendEntries(reply) => Ok(RpcReply::AppendEntries(reply)),
        PeerReply::TimeoutNow(reply) => Ok(RpcReply::TimeoutNow(reply)),
        _ => Err(PeerError::Unknown("the answer belongs to another question".to_owned())),
    }
}

/// Logs once why a peer cannot be reached, again when the reason changes, and once when the peer can be reached
/// again.
fn report(node_id: &str, to: &Target, trouble: &mut Option<PeerError>, error: Option<PeerError>) {
    if !is_news(trouble.as_ref(), error.as_ref()) {
        return;
    }
    match &error {
        // The bootstrap sender logs the outcome.
        Some(e @ PeerError::Uninitialized { .. }) => log::info!("{node_id} at {}: {e}", to.raft_addr),
        Some(e @ PeerError::Stopping) => log::info!("{node_id} at {}: {e}", to.raft_addr),
        Some(e) => log::warn!("{node_id} at {} does not answer: {e}", to.raft_addr),
        None => log::info!("{node_id} at {} answers again", to.raft_addr),
    }
    *trouble = error;
}

/// Whether there is something to log. A peer that said that it is stopping is expected to be unreachable afterwards.
fn is_news(before: Option<&PeerError>, now: Option<&PeerError>) -> bool {
    match (before, now) {
        (Some(PeerError::Stopping), Some(PeerError::NotSent(_) | PeerError::Unknown(_))) => false,
        _ => before.map(std::mem::discriminant) != now.map(std::mem::discriminant),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_news_once_for_each_reason_and_not_for_the_silence_that_was_announced() {
        let refused = || PeerError::Refused("wrong cluster".to_owned());
        let (silent, broken) =
            (PeerError::NotSent("connection refused".to_owned()), PeerError::Unknown("reset".to_owned()));
        for (before, now, expected) in [
            (None, None, false),
            (None, Some(&silent), true),
            (Some(&silent), Some(&silent), false),
            (Some(&silent), Some(&broken), true),
            (Some(&silent), None, true),
            (None, Some(&PeerError::Stopping), true),
            (Some(&PeerError::Stopping), Some(&PeerError::Stopping), false),
            (Some(&PeerError::Stopping), Some(&silent), false),
            (Some(&PeerError::Stopping), Some(&broken), false),
            (Some(&PeerError::Stopping), Some(&refused()), true),
            (Some(&PeerError::Stopping), Some(&PeerError::Removed), true),
            (Some(&PeerError::Stopping), None, true),
        ] {
            assert_eq!(is_news(before, now), expected, "{before:?} {now:?}");
        }
    }
}
