//! The forwarder and the read-asker: what a node that does not lead needs from the leader. Each carries one batch at a
//! time; what queues meanwhile is the next one. Requests stay with the waiters, so a deadline is kept while an RPC is
//! out, and a change of leader decides them at once.

use std::sync::Arc;

use crate::node::core::signals::Bell;
use crate::node::core::{Core, Outgoing};
use crate::node::{Next, Node, PeerError, PeerReply};
use crate::raft::Time;

/// The thread that forwards writes.
pub(in crate::node) fn run_forwarder(node: &Arc<Node>) {
    run(node, &node.bells.forwarder, Core::poll_forward, |core, ids, result, now| {
        core.handle_forwarded(ids, result, now);
    });
}

/// The thread that asks for read indexes.
pub(in crate::node) fn run_read_asker(node: &Arc<Node>) {
    run(node, &node.bells.read_asker, Core::poll_ask, |core, ids, result, now| {
        core.handle_asked(ids, result, now)
    });
}

fn run(
    node: &Arc<Node>,
    bell: &Bell,
    poll: fn(&mut Core, Time) -> Option<Outgoing>,
    handle: fn(&mut Core, &[u64], Result<PeerReply, PeerError>, Time),
) {
    loop {
        let outgoing = node.wait(bell, |core, now| {
            if core.is_stopping {
                return Next::Do(None);
            }
            poll(core, now).map_or(Next::SleepUntil(Time::NEVER), |outgoing| Next::Do(Some(outgoing)))
        });
        let Some(Outgoing { ids, to, lane, request, timeout }) = outgoing else { return };
        let result = node.transport.call(&to, lane, request, timeout);
        node.step(|core, now| handle(core, &ids, result, now));
    }
}
