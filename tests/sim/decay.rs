//! Disks that fail, fill up and rot.
//!
//! Rot stays within an atlas, so that what it destroys can be told from what dkv destroys: it strikes a minority of the
//! disks at most, each as a whole, so a majority keeps a good copy of every committed entry. And it strikes only what the
//! log's own marks prove to have been synced: there the one legal answer is a refusal that names the place (promise P7).
//! In the last, unsealed batch rot may be taken for a torn write; the crash sweep looks at that.

use std::collections::BTreeSet;
use std::sync::Arc;

use dkv::raft::majority;
use dkv::store::simdisk::{Fault, Loss, SimDisk};
use dkv::store::wal::{Wal, WalError, WalIds, WalOptions};

use crate::disk::MachineDisk;
use crate::world::NodeIndex;

const BLOCK_BYTES: u64 = 4_096;

/// Which disks may rot.
pub struct Atlas {
    most: usize,
    struck: BTreeSet<NodeIndex>,
}

impl Atlas {
    /// Of a cluster of whole disks.
    pub fn new(voters: usize) -> Atlas {
        Atlas { most: voters - majority(voters), struck: BTreeSet::new() }
    }

    /// Whether a majority keeps good copies when this disk rots; if so it counts as struck.
    pub fn admits(&mut self, node: NodeIndex) -> bool {
        let admits = self.struck.contains(&node) || self.struck.len() < self.most;
        if admits {
            self.struck.insert(node);
        }
        admits
    }
}

impl MachineDisk {
    /// One of the next operations fails with EIO.
    pub fn fail_soon(&mut self) {
        self.disk.plan(self.disk.ops() + self.rng.u64(1..=4), Fault::Eio);
    }

    /// There is room for so many bytes more.
    pub fn fill_up(&mut self, room: u64) {
        self.disk.set_capacity(Some(self.disk.used() + room));
    }

    /// There is room again.
    pub fn free_space(&mut self) {
        self.disk.set_capacity(None);
    }

    /// Nothing fails any more, and there is room.
    pub fn mend(&mut self) {
        self.disk.forget_plans();
        self.free_space();
        self.may_fail = false;
    }

    /// Syncs do nothing any more.
    pub fn lie(&mut self) {
        self.disk.lie_about_syncs();
    }

    /// Flips a bit of what is proven to be synced; whether there is any.
    pub fn decay(&mut self) -> bool {
        if self.rot.is_none() {
            self.rot = flip(&self.disk, self.ids, self.options, &mut self.rng);
        }
        self.rot.is_some()
    }

    /// Flips a bit in a copy of the disk, whose log must then be refused. Whether there was a bit to flip.
    pub fn autopsy(&mut self) -> bool {
        let copy = self.disk.fork().restart(Loss::Nothing);
        let Some(rot) = flip(&copy, self.ids, self.options, &mut self.rng) else { return false };
        match Wal::open(Arc::new(copy), self.ids, self.options) {
            Err(WalError::Corrupt { .. }) => true,
            Err(e) => panic!("P7: {rot}, and the log says: {e}"),
            Ok(_) => panic!("P7: {rot}, and the log was opened all the same"),
        }
    }
}

fn flip(disk: &SimDisk, ids: WalIds, options: WalOptions, rng: &mut fastrand::Rng) -> Option<String> {
    let durable = disk.fork().restart(Loss::Everything);
    durable.set_capacity(None);
    let (_, recovered) = Wal::open(Arc::new(durable), ids, options).ok()?;
    let mark = recovered.synced_mark;
    let sealed: Vec<(String, u64)> = disk
        .names()
        .into_iter()
        .filter_map(|name| {
            let sequence = u64::from_str_radix(name.strip_suffix(".wal")?.split_once('-')?.0, 16).ok()?;
            let bytes = match sequence.cmp(&mark.sequence) {
                std::cmp::Ordering::Less => disk.contents(&name)?.len() as u64,
                std::cmp::Ordering::Equal => mark.block * BLOCK_BYTES,
                std::cmp::Ordering::Greater => 0,
            };
            (bytes > 0).then_some((name, bytes))
        })
        .collect();
    let (name, bytes) = sealed.get(rng.usize(0..sealed.len().max(1)))?;
    let (offset, bit) = (rng.u64(0..*bytes), rng.u8(0..8));
    disk.flip(name, offset, 1 << bit);
    Some(format!("bit {bit} of byte {offset} of {name} flipped"))
}
