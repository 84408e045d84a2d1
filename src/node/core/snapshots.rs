//! Snapshots: when a snapshot is written, when it gets its final name, and how a leader's snapshot is handled.

use super::State;
use super::waiters::{Stage, Work};
use crate::node::request::{BackupResult, Completion, Origin};
use crate::raft::{
    AfterSync, Entry, Index, InstallSnapshotReply, Position, ReadFailed, SnapshotMeta, Ticket, Time,
};

impl State {
    // ---- backups -----------------------------------------------------------------------------------------------------

    /// Waits for a snapshot that holds `index`; an existing snapshot is enough.
    pub fn await_snapshot(&mut self, index: Index, deadline: Time, done: Completion<BackupResult>) {
        let id = self.waiters.add(Work::Backup { done }, Origin::Client, deadline);
        self.waiters.set_stage(id, Stage::AwaitSnapshot(index));
        self.is_snapshot_asked_for = true;
        self.waiters.handle_snapshot(self.raft.snapshot().last);
    }

    // ---- the snapshotter -------------------------------------------------------------------------------------------

    /// Whether the snapshotter has something to do.
    pub(super) fn snapshotter_has_work(&self) -> bool {
        match self.snapshot_waits_for {
            Some(index) => self.may_name_snapshot(index),
            None => self.raft.is_snapshot_due() || self.snapshot_is_wanted(),
        }
    }

    /// Whether a snapshot through `index` may get its final name: this node's log holds every entry through `index`,
    /// and the core knows that they are applied.
    pub fn may_name_snapshot(&self, index: Index) -> bool {
        self.raft.persisted_index() >= index && self.raft.last_applied() >= index
    }

    /// The snapshot that is being written waits for its final name (`Some`), or no longer waits (`None`).
    pub fn set_snapshot_waits_for(&mut self, index: Option<Index>) {
        self.snapshot_waits_for = index;
    }

    /// Whether a snapshot is to be written now.
    pub fn poll_snapshotter(&mut self) -> bool {
        let is_wanted = self.raft.is_snapshot_due() || self.snapshot_is_wanted();
        if is_wanted {
            self.raft.begin_snapshot();
        }
        is_wanted
    }

    /// The snapshot that ends at `last` is damaged on the disk. Unless there is a newer snapshot, the state is
    /// written again.
    pub fn replace_snapshot(&mut self, last: Position) {
        self.unreadable_snapshot = Some(last);
        self.is_snapshot_asked_for = true;
    }

    /// Entries were read for a peer, or cannot be read: then the peer gets a snapshot, if need be of the state as it is
    /// now.
    pub fn handle_log_read(&mut self, ticket: Ticket, result: Result<Vec<Entry>, ReadFailed>, now: Time) {
        if self.raft.handle_log_read(ticket, result, now) {
            self.replace_snapshot(self.raft.snapshot().last);
        }
    }

    /// A snapshot of the state is durable under its name.
    pub fn handle_snapshot_saved(&mut self, meta: SnapshotMeta, bytes: u64) {
        self.unreadable_snapshot = None;
        self.raft.handle_snapshot_saved(meta, bytes);
    }

    fn snapshot_is_wanted(&self) -> bool {
        let newest = self.raft.snapshot().last;
        let is_unreadable = self.unreadable_snapshot == Some(newest);
        is_unreadable || self.backup_is_wanted()
    }

    fn backup_is_wanted(&self) -> bool {
        self.waiters.snapshot_wanted().is_some_and(|index| {
            let is_there = self.raft.snapshot().last.index >= index;
            !is_there && self.raft.last_applied() >= index
        })
    }

    // ---- the receiver ----------------------------------------------------------------------------------------------

    /// Whether this node has already committed everything that a leader's snapshot holds.
    pub fn holds_snapshot(&self, last: Position) -> bool {
        last.index <= self.raft.commit_index()
    }

    /// A leader's snapshot was received and loaded. Returns whether it must replace the state, and the answer.
    pub fn handle_snapshot_received(
        &mut self,
        meta: SnapshotMeta,
        bytes: u64,
        now: Time,
    ) -> (bool, AfterSync<InstallSnapshotReply>) {
        let index = meta.last.index;
        let (is_news, reply) = self.raft.handle_snapshot_received(meta, bytes, now);
        if is_news {
            self.ready_index.get_or_insert(index);
            self.waiters.fail_covered(
                index,
                "a snapshot of the leader took the place of this write's entry: it may or may not have taken effect",
            );
        }
        (is_news, reply)
    }
}
