//! The senders: one thread per peer, asleep until that peer needs what memory no longer has. Entries are read from the
//! log on the disk and handed to the core, and the replicator sends them. A snapshot is sent piece by piece over separate
//! connections, so that it delays neither heartbeats nor other peers.

use std::sync::Arc;
use std::time::Duration;

use crate::node::core::wakeups::PeerWakeups;
use crate::node::transport::{PeerError, PeerReply, PeerRequest, Priority, Target};
use crate::node::{Next, Node};
use crate::raft::{
    InstallOutcome, InstallSnapshotReply, InstallSnapshotRequest, LogRead, MemberId, PollBulk, Position,
    ReadFailed, RpcFailed, Term, Ticket,
};
use crate::store::disk::Disk;
use crate::store::snapshot::{SnapshotName, SnapshotReader, TransferKey};
use crate::store::wal::LogReader;

/// Bytes of one piece.
const PIECE_BYTES: usize = 256 << 10;

/// One piece takes at most this long, except the last piece.
const PIECE_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer to the last piece comes when the peer has loaded the whole snapshot.
const LAST_PIECE_TIMEOUT: Duration = Duration::from_secs(60);

/// Failures in a row after which a transfer is given up; the next transfer continues where this transfer ended.
const MAX_FAILURES: u32 = 3;

enum Task {
    Transfer(Position, Ticket, (Target, String)),
    Read(LogRead, Ticket),
}

/// The thread for `peer`.
pub(in crate::node) fn run(node: &Arc<Node>, peer: MemberId, wakeups: &PeerWakeups) {
    let mut log = LogReader::new(node.disk.clone());
    loop {
        let task = node.wait(&wakeups.sender, |state, now| {
            if state.is_stopping {
                return Next::Do(None);
            }
            match state.raft.poll_bulk(peer, now) {
                PollBulk::Transfer(last, ticket) => {
                    Next::Do(Some(Task::Transfer(last, ticket, state.target(peer))))
                }
                PollBulk::Read(wanted, ticket) => Next::Do(Some(Task::Read(wanted, ticket))),
                PollBulk::WaitUntil(at) => Next::sleep_until(at),
                PollBulk::Stop => Next::Do(None),
            }
        });
        let (last, ticket, (to, node_id)) = match task {
            Some(Task::Transfer(last, ticket, target)) => (last, ticket, target),
            Some(Task::Read(wanted, ticket)) => {
                let read = log.read(&wanted).map_err(|e| log::warn!("{e}"));
                node.step(|state, now| state.handle_log_read(ticket, read.map_err(|()| ReadFailed), now));
                continue;
            }
            None => return,
        };
        let result = transfer(node, &to, last, &ticket);
        match &result {
            Ok(InstallSnapshotReply { outcome: InstallOutcome::Holds(_), .. }) => {
                log::info!("{node_id} holds the snapshot through {last}");
            }
            Ok(_) => {}
            Err(e) => log::warn!("the snapshot through {last} did not reach {node_id}: {e}"),
        }
        node.step(|state, now| state.raft.handle_snapshot_result(ticket, result.map_err(|_| RpcFailed), now));
    }
}

/// Sends the whole file. Returns the last answer: that the peer holds it, or that this member no longer leads.
fn transfer(
    node: &Arc<Node>,
    to: &Target,
    last: Position,
    ticket: &Ticket,
) -> Result<InstallSnapshotReply, String> {
    let opened = Transfer::open(&node.disk, node.options.member_id, last, ticket, PIECE_BYTES);
    // Waiting until the next snapshot is due would let the peer lag for as long.
    let mut transfer = opened.inspect_err(|_| node.step(|state, _| state.replace_snapshot(last)))?;
    loop {
        if !node.look(|state, _| state.raft.wants_transfer(ticket) && !state.is_stopping) {
            return Err("it is not needed any more".to_owned());
        }
        let (piece, timeout) = transfer.next_piece()?;
        let answer = node.transport.call(to, Priority::Bulk, PeerRequest::InstallSnapshot(piece), timeout);
        if let Some(end) = transfer.handle_answer(answer) {
            return end;
        }
    }
}

/// The transfer of a snapshot to a peer: which piece comes next, and when the transfer is over.
pub struct Transfer {
    reader: SnapshotReader,
    leader: MemberId,
    term: Term,
    last: Position,
    piece_bytes: usize,
    offset: u64,
    failures: u32,
}

impl Transfer {
    /// Opens the snapshot that ends at `last`, to be sent by `leader` for `ticket` in pieces of the given size.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn open(
        disk: &Arc<dyn Disk>,
        leader: MemberId,
        last: Position,
        ticket: &Ticket,
        piece_bytes: usize,
    ) -> Result<Transfer, String> {
        let reader = SnapshotReader::open(disk, SnapshotName::new(last)).map_err(|e| e.to_string())?;
        Ok(Transfer { reader, leader, term: ticket.term(), last, piece_bytes, offset: 0, failures: 0 })
    }

    /// The piece to send next, and how long its answer may take.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next_piece(&self) -> Result<(InstallSnapshotRequest, Duration), String> {
        let TransferKey { bytes: size, crc, .. } = self.reader.key();
        let data = self.reader.read_at(self.offset, self.piece_bytes).map_err(|e| e.to_string())?;
        let is_last = self.offset + data.len() as u64 == size;
        let timeout = if is_last { LAST_PIECE_TIMEOUT } else { PIECE_TIMEOUT };
        let (term, leader, last, offset) = (self.term, self.leader, self.last, self.offset);
        Ok((InstallSnapshotRequest { term, leader, last, size, crc, offset, data }, timeout))
    }

    /// Bytes of every piece except the last one.
    pub fn piece_bytes(&self) -> usize {
        self.piece_bytes
    }

    /// Where the next piece begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Handles the answer to the piece. `Some` when the transfer is over: the last answer, or why there is none.
    pub fn handle_answer(
        &mut self,
        answer: Result<PeerReply, PeerError>,
    ) -> Option<Result<InstallSnapshotReply, String>> {
        match answer {
            Ok(PeerReply::InstallSnapshot(reply)) => match reply.outcome {
                InstallOutcome::Wants(wanted) if reply.term == self.term => {
                    if wanted >= self.reader.key().bytes {
                        return Some(Err(format!("it wants to go on at {wanted}, after the end")));
                    }
                    // A higher offset is progress. A peer that always wants the same offset takes no piece: that
                    // counts as a failure.
                    self.failures = if wanted > self.offset { 0 } else { self.failures + 1 };
                    self.offset = wanted;
                }
                _ => return Some(Ok(reply)),
            },
            Ok(_) => return Some(Err("the answer belongs to another question".to_owned())),
            Err(e @ PeerError::Uninitialized { .. }) => return Some(Err(e.to_string())),
            Err(e) => {
                self.failures += 1;
                if self.failures >= MAX_FAILURES {
                    return Some(Err(e.to_string()));
                }
            }
        }
        (self.failures >= MAX_FAILURES).then(|| Err("it takes no piece".to_owned()))
    }
}
