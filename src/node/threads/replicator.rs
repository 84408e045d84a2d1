//! The replicators: one thread per peer, one RPC at a time. Entries that are appended during one RPC go into the next
//! RPC, so batching needs no tuning.

use std::sync::Arc;
use std::time::Instant;

use log::Level;

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
    let mut contact = Contact::default();
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
        if let Some((level, text)) = contact.news(result.as_ref().err().cloned(), node.is_stopping()) {
            log::log!(level, "{node_id} at {}{text}", to.raft_addr);
        }
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

/// What this node's log already says about a peer.
#[derive(Default)]
struct Contact {
    has_answered: bool,
    trouble: Option<PeerError>,
}

impl Contact {
    /// The line for the log after an RPC, without the name and the address of the peer. A trouble is logged once, again
    /// when its kind changes, and its end is logged. A node that is stopping warns of nothing: its peers may be stopping
    /// too, and it sends them nothing more.
    fn news(&mut self, error: Option<PeerError>, is_stopping: bool) -> Option<(Level, String)> {
        let is_news = is_news(self.trouble.as_ref(), error.as_ref());
        let line = match &error {
            // The bootstrap sender logs the outcome.
            Some(e @ (PeerError::Uninitialized { .. } | PeerError::Stopping)) => {
                (Level::Info, format!(": {e}"))
            }
            // The end of the process logs it as an error.
            Some(PeerError::Removed) => {
                (Level::Info, " answers that this node was removed from the cluster".to_owned())
            }
            Some(e @ PeerError::Refused(_)) => (Level::Warn, format!(": {e}")),
            Some(e) => (Level::Warn, format!(" does not answer: {e}")),
            None if self.has_answered => (Level::Info, " answers again".to_owned()),
            None => (Level::Info, " answers".to_owned()),
        };
        self.has_answered |= error.is_none();
        self.trouble = error;
        let level = if is_stopping { Level::Info } else { line.0 };
        is_news.then_some((level, line.1))
    }
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

    fn uninitialized() -> PeerError {
        PeerError::Uninitialized { node_id: "node2".to_owned(), member_id: MemberId(2) }
    }

    /// A cluster that started for the first time said "answers again" of every node.
    #[test]
    fn news_says_again_only_of_a_peer_that_answered_before() {
        let mut contact = Contact::default();
        assert_eq!(contact.news(None, false), None, "what goes well is no news");
        let mut contact = Contact::default();
        assert!(contact.news(Some(uninitialized()), false).is_some());
        assert_eq!(contact.news(None, false), Some((Level::Info, " answers".to_owned())));
        assert!(contact.news(Some(PeerError::Stopping), false).is_some());
        assert_eq!(contact.news(None, false), Some((Level::Info, " answers again".to_owned())));
    }

    /// "does not answer: this member was removed" named the wrong one, and called an answer silence.
    #[test]
    fn news_calls_no_answer_silence() {
        for answer in
            [PeerError::Removed, PeerError::Stopping, uninitialized(), PeerError::Refused("x".to_owned())]
        {
            let (_, text) = Contact::default().news(Some(answer), false).expect("news");
            assert!(!text.contains("does not answer"), "{text}");
        }
        let (level, text) = Contact::default().news(Some(PeerError::Removed), false).expect("news");
        assert_eq!(
            (level, text.as_str()),
            (Level::Info, " answers that this node was removed from the cluster")
        );
        let (level, text) =
            Contact::default().news(Some(PeerError::NotSent("x".to_owned())), false).expect("news");
        assert_eq!((level, text.as_str()), (Level::Warn, " does not answer: not sent: x"));
    }

    /// Ctrl-C of a whole cluster, after which its nodes warned of each other.
    #[test]
    fn news_of_a_node_that_is_stopping_warns_of_nothing() {
        let errors =
            [PeerError::NotSent, PeerError::Unknown, PeerError::Refused].map(|kind| kind("x".to_owned()));
        for error in errors {
            let level = |is_stopping| {
                Contact::default().news(Some(error.clone()), is_stopping).map(|(level, _)| level)
            };
            assert_eq!((level(false), level(true)), (Some(Level::Warn), Some(Level::Info)), "{error}");
        }
    }
}
