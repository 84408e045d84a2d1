//! The senders: one thread per peer, asleep until that peer needs a snapshot. It goes over connections of its own, piece
//! by piece, so that it holds up neither heartbeats nor other peers.

use std::sync::Arc;
use std::time::Duration;

use super::signals::PeerBells;
use super::transport::{Lane, PeerError, PeerReply, PeerRequest, Target};
use super::{Next, Node};
use crate::raft::{
    InstallOutcome, InstallSnapshotReply, InstallSnapshotRequest, MemberId, PollSnapshot, Position,
    RpcFailed, Ticket,
};
use crate::store::snapshot::{SnapshotName, SnapshotReader, TransferKey};

/// Bytes of one piece.
const PIECE_BYTES: usize = 256 << 10;

/// One piece takes at most so long, the last one excepted.
const PIECE_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer to the last piece comes when the peer has loaded the whole snapshot.
const LAST_PIECE_TIMEOUT: Duration = Duration::from_secs(60);

/// Failures in a row after which a transfer is given up; the next one goes on where this one ended.
const MAX_FAILURES: u32 = 3;

/// The thread for `peer`.
pub(super) fn run(node: &Arc<Node>, peer: MemberId, bells: &PeerBells) {
    loop {
        let task = node.wait(&bells.sender, |core, now| {
            if core.is_stopping {
                return Next::Do(None);
            }
            match core.raft.poll_snapshot(peer, now) {
                PollSnapshot::Transfer(last, ticket) => Next::Do(Some((last, ticket, core.target(peer)))),
                PollSnapshot::WaitUntil(at) => Next::SleepUntil(at),
                PollSnapshot::Stop => Next::Do(None),
            }
        });
        let Some((last, ticket, (to, node_id))) = task else { return };
        let result = transfer(node, &to, last, &ticket);
        match &result {
            Ok(InstallSnapshotReply { outcome: InstallOutcome::Holds(_), .. }) => {
                log::info!("{node_id} holds the snapshot through {last}");
            }
            Ok(_) => {}
            Err(e) => log::warn!("the snapshot through {last} did not reach {node_id}: {e}"),
        }
        node.step(|core, now| core.raft.handle_snapshot_result(ticket, result.map_err(|_| RpcFailed), now));
    }
}

/// Sends the whole file. Returns the last answer: that the peer holds it, or that this member no longer leads.
fn transfer(
    node: &Node,
    to: &Target,
    last: Position,
    ticket: &Ticket,
) -> Result<InstallSnapshotReply, String> {
    let reader = SnapshotReader::open(&node.disk, SnapshotName::new(last)).map_err(|e| e.to_string())?;
    let TransferKey { bytes: size, crc, .. } = reader.key();
    let (mut offset, mut failures) = (0, 0);
    loop {
        if !node.look(|core, _| core.raft.wants_transfer(ticket) && !core.is_stopping) {
            return Err("it is not needed any more".to_owned());
        }
        let data = reader.read_at(offset, PIECE_BYTES).map_err(|e| e.to_string())?;
        let is_last = offset + data.len() as u64 == size;
        let piece = InstallSnapshotRequest {
            term: ticket.term(),
            leader: node.options.member_id,
            last,
            size,
            crc,
            offset,
            data,
        };
        let timeout = if is_last { LAST_PIECE_TIMEOUT } else { PIECE_TIMEOUT };
        let answer = node.transport.call(to, Lane::Bulk, PeerRequest::InstallSnapshot(piece), timeout);
        match answer {
            Ok(PeerReply::InstallSnapshot(reply)) => match reply.outcome {
                InstallOutcome::Wants(wanted) if reply.term == ticket.term() => {
                    if wanted >= size {
                        return Err(format!("it wants to go on at {wanted}, behind the end"));
                    }
                    // Told to go on where it stands is progress only once; a peer that never takes a piece is not.
                    failures = if wanted > offset { 0 } else { failures + 1 };
                    offset = wanted;
                }
                _ => return Ok(reply),
            },
            Ok(_) => return Err("the answer belongs to another question".to_owned()),
            Err(e @ PeerError::Unborn { .. }) => return Err(e.to_string()),
            Err(e) => {
                failures += 1;
                if failures >= MAX_FAILURES {
                    return Err(e.to_string());
                }
            }
        }
        if failures >= MAX_FAILURES {
            return Err("it takes no piece".to_owned());
        }
    }
}
