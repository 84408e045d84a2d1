//! The forwarder and the read-asker: they bring the requests of a node that does not lead to the leader. Each thread
//! sends one batch at a time; requests that are queued meanwhile form the next batch. Requests stay with the waiters,
//! so their deadlines are kept during an RPC, and a change of leader decides them immediately.

use std::sync::Arc;

use crate::node::core::wakeups::Wakeup;
use crate::node::core::{Outgoing, State};
use crate::node::{Next, Node, PeerError, PeerReply};
use crate::raft::Time;

/// The thread that forwards writes.
pub(in crate::node) fn run_forwarder(node: &Arc<Node>) {
    run(node, &node.wakeups.forwarder, State::poll_forward, |state, ids, result, now| {
        state.handle_forwarded(ids, result, now);
    });
}

/// The thread that asks for read indexes.
pub(in crate::node) fn run_read_asker(node: &Arc<Node>) {
    run(node, &node.wakeups.read_asker, State::poll_ask, |state, ids, result, now| {
        state.handle_asked(ids, result, now)
    });
}

fn run(
    node: &Arc<Node>,
    wakeup: &Wakeup,
    poll: fn(&mut State, Time) -> Option<Outgoing>,
    handle: fn(&mut State, &[u64], Result<PeerReply, PeerError>, Time),
) {
    loop {
        let outgoing = node.wait(wakeup, |state, now| {
            if state.is_stopping {
                return Next::Do(None);
            }
            poll(state, now).map_or(Next::sleep_until(Time::NEVER), |outgoing| Next::Do(Some(outgoing)))
        });
        let Some(Outgoing { ids, to, priority, request, timeout }) = outgoing else { return };
        let result = node.transport.call(&to, priority, request, timeout);
        node.step(|state, now| handle(state, &ids, result, now));
    }
}
