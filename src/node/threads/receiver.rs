//! The receiver: writes the pieces of a leader's snapshot, loads the snapshot when it is complete, and asks the core
//! to install it. The peer port passes the pieces on and never waits.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::{guard, snapshotter};
use crate::node::core::Held;
use crate::node::request::Completion;
use crate::node::{Node, lock};
use crate::raft::{InstallSnapshotReply, InstallSnapshotRequest, check_version};
use crate::store::Kv;
use crate::store::snapshot::{self, SnapshotError, SnapshotHeader, TransferKey};

/// Maximum number of waiting pieces; more are dropped, and the leader sends them again.
const MAILBOX: usize = 4;

enum Message {
    Piece(InstallSnapshotRequest, Completion<InstallSnapshotReply>),
    Stop,
}

/// The peer port's end.
pub(in crate::node) struct Mailbox(Sender<Message>);

/// The receiver's end.
pub(in crate::node) struct Inbox(Receiver<Message>);

/// Both ends.
pub(in crate::node) fn mailbox() -> (Mailbox, Inbox) {
    let (sender, receiver) = bounded(MAILBOX);
    (Mailbox(sender), Inbox(receiver))
}

impl Mailbox {
    pub(in crate::node) fn send(
        &self,
        piece: InstallSnapshotRequest,
        done: Completion<InstallSnapshotReply>,
    ) {
        match self.0.try_send(Message::Piece(piece, done)) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Ends the receiver. If the mailbox is full, the receiver learns of the stop from the core.
    pub(in crate::node) fn stop(&self) {
        let _ = self.0.try_send(Message::Stop);
    }
}

/// The thread.
pub(in crate::node) fn run(node: &Arc<Node>, inbox: Inbox) {
    let mut receiver = snapshot::Receiver::new(node.disk.clone());
    while let Ok(Message::Piece(piece, done)) = inbox.0.recv() {
        if node.look(|state, _| state.is_stopping) {
            return;
        }
        // Pieces that waited while the snapshot was loaded belong to a snapshot that is already installed.
        let is_old = node.look(|state, _| state.holds_snapshot(piece.last));
        if is_old {
            node.answer_install_snapshot(piece, done);
            continue;
        }
        let last = piece.last;
        match Taken::step(&mut receiver, &piece) {
            Ok(Taken::Wants(offset)) => node.step(|state, _| {
                let waiting = state.raft.handle_piece_written(offset);
                state.hold(Held::Install(waiting, done));
            }),
            Ok(Taken::Whole(header, kv)) => {
                if let Err(mismatch) = check_version(header.meta.version, node.options.protocol) {
                    guard::end_for_another_program(&format!(
                        "the leader's snapshot through {last} cannot be used: {mismatch}"
                    ));
                }
                log::info!("received the leader's snapshot through {last}: {} keys", header.keys);
                // This must happen before the core asks the applier to install it.
                lock(&node.received).insert(last.index, *kv);
                let is_news = node.step(|state, now| {
                    let (is_news, waiting) = state.handle_snapshot_received(header.meta, piece.size, now);
                    state.hold(Held::Install(waiting, done));
                    is_news
                });
                if !is_news {
                    lock(&node.received).remove(&last.index);
                }
                if let Err(e) = snapshotter::prune(node) {
                    log::warn!("an old snapshot could not be removed: {e}");
                }
            }
            Err(e @ (SnapshotError::Version { .. } | SnapshotError::NewerFormat { .. })) => {
                guard::end_for_another_program(&format!("the leader's snapshot cannot be used: {e}"));
            }
            // No answer: the leader tries again after a while.
            Err(e) => log::warn!("the leader's snapshot through {last} cannot be taken: {e}"),
        }
    }
}

/// The result of taking a piece.
pub enum Taken {
    /// The next piece begins here.
    Wants(u64),
    /// The snapshot is complete, durable under its final name, and loaded.
    Whole(Box<SnapshotHeader>, Box<Kv>),
}

impl Taken {
    /// Writes a piece; the last one makes the snapshot durable and loads it.
    ///
    /// # Errors
    /// A file operation fails, or the received snapshot is damaged. The leader gets no answer and tries again.
    pub fn step(
        receiver: &mut snapshot::Receiver,
        piece: &InstallSnapshotRequest,
    ) -> Result<Taken, SnapshotError> {
        let key = TransferKey { last: piece.last, bytes: piece.size, crc: piece.crc };
        let wanted = receiver.take(&key, piece.offset, &piece.data)?;
        if !receiver.is_complete(&key) {
            return Ok(Taken::Wants(wanted));
        }
        let (header, kv) = receiver.finish()?;
        Ok(Taken::Whole(Box::new(header), Box::new(kv)))
    }
}
