//! Links, disks, crashes and restarts.

use super::*;

impl Cluster {
    pub fn cut_one_way(&mut self, from: u64, to: u64) {
        self.note(format!("cut {from} -> {to}"));
        self.cuts.insert((from, to));
    }

    pub fn cut(&mut self, a: u64, b: u64) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Cuts `me` from everybody.
    pub fn isolate(&mut self, me: u64) {
        let others: Vec<u64> = self.nodes.keys().copied().filter(|&other| other != me).collect();
        others.into_iter().for_each(|other| self.cut(me, other));
    }

    pub fn heal(&mut self) {
        self.note("heal".to_string());
        self.cuts.clear();
    }

    /// From now on the disk of `me` writes only when told to.
    pub fn hold_disk(&mut self, me: u64) {
        self.nodes.get_mut(&me).unwrap().is_disk_held = true;
    }

    /// The held disk writes and syncs what is queued.
    pub fn sync(&mut self, me: u64) {
        let node = self.nodes.get_mut(&me).unwrap();
        let writes = std::mem::take(&mut node.unsynced);
        let Some(last) = writes.last().map(|w| w.seq) else { return };
        writes.iter().for_each(|w| node.durable.write(&w.op));
        self.note(format!("{me} synced through write {last}"));
        self.step(me, |raft, now| raft.handle_persisted(last, now));
    }

    /// The disk of `me` syncs by itself again.
    pub fn release_disk(&mut self, me: u64) {
        self.nodes.get_mut(&me).unwrap().is_disk_held = false;
        self.sync(me);
    }

    /// Power is lost: what was not synced is gone, and so is every reply that waited for it.
    pub fn crash(&mut self, me: u64) {
        self.note(format!("{me} crashes"));
        let node = self.nodes.get_mut(&me).unwrap();
        node.is_up = false;
        node.unsynced.clear();
        node.life += 1;
        for held in std::mem::take(&mut node.held) {
            self.fail(held.from, held.life, held.ticket);
        }
    }

    pub fn restart(&mut self, me: u64) {
        self.note(format!("{me} restarts"));
        let node = self.nodes.get_mut(&me).unwrap();
        let is_disk_held = node.is_disk_held;
        *node = Cluster::node_with(me, node.program, node.durable.clone(), node.life, self.now);
        node.is_disk_held = is_disk_held;
        node.applied = self.snapshots.get(&node.checked).cloned().unwrap_or_default();
        self.check_logs(me);
    }

    /// `me` runs this program from its next start on, which is now.
    pub fn replace_program(&mut self, me: u64, protocol: Protocol, hold_version: bool) {
        if self.nodes[&me].is_up {
            self.crash(me);
        }
        let program = &mut self.nodes.get_mut(&me).unwrap().program;
        *program = Program { protocol, hold_version, ..*program };
        self.restart(me);
    }

    /// The disk comes back without its last entries: a member restored from an old copy.
    pub fn restart_with_log_cut_to(&mut self, me: u64, len: usize) {
        self.nodes.get_mut(&me).unwrap().durable.entries.truncate(len);
        self.restart(me);
    }
}
