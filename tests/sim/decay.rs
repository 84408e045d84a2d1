//! Disks that fail, fill up and rot.
//!
//! Rot stays within a fault atlas, so that what it destroys can be told from what dkv destroys: in every membership
//! that may come into force a majority of the disks is whole (`World::may_ruin`), and so keeps a good copy of every
//! committed entry. And it strikes only the newest snapshot, and what the log's own marks prove to have been synced:
//! there the legal answers are a refusal that names the place (promise P7), or the same state from the older snapshot
//! and a log that covers all of it. In the last, unsealed batch rot may be taken for a torn write, and what stands
//! after the end of a reused segment is nobody's; the crash sweep looks at those.

use std::fmt;
use std::sync::Arc;

use dkv::node::Stored;
use dkv::node::data_dir::DataDirError;
use dkv::store::simdisk::{Fault, Loss, SimDisk};
use dkv::store::wal::{WalIds, WalOptions};

use crate::disk::{MachineDisk, Rot, is_corrupt};
use crate::image::snapshot_of;
use crate::whole_log::entries_of;

const BLOCK_BYTES: u64 = 4_096;

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

    /// Flips a bit of what is proven to be synced. Whether there is any, and whether it is a snapshot's.
    pub fn decay(&mut self) -> Option<bool> {
        if self.rot.is_none() {
            let flip = self.draw_flip(&self.disk.clone())?;
            // Bytes that mean nothing are not struck.
            if matches!(self.look_at(&flip), Verdict::Same(_)) && !flip.is_snapshot() {
                return None;
            }
            flip.strike(&self.disk);
            self.rot = Some(Rot { what: flip.to_string(), file: flip.file });
        }
        self.rot.as_ref().map(|rot| rot.file.ends_with(".snapshot"))
    }

    /// Flips a bit in a copy of the disk, which must then be refused, or give the same state. Whether it was refused, or
    /// an older snapshot stood in.
    pub fn autopsy(&mut self) -> bool {
        let Some(flip) = self.draw_flip(&self.disk.clone()) else { return false };
        match self.look_at(&flip) {
            Verdict::Refused => true,
            Verdict::Same(stands_in) => stands_in,
        }
    }

    /// What a process would find after this.
    fn look_at(&self, flip: &Flip) -> Verdict {
        let copy = || {
            let copy = self.disk.fork().restart(Loss::Nothing);
            copy.set_capacity(None);
            copy
        };
        let whole = load(&copy(), self.ids, self.options).expect("a good disk");
        let copy = copy();
        flip.strike(&copy);
        match load(&copy, self.ids, self.options) {
            Err(e) if is_corrupt(&e) => Verdict::Refused,
            Err(e) => panic!("P7: {flip}, and the log says: {e}"),
            Ok(found) => {
                let after = |stored: &Stored| {
                    let last = snapshot_of(&whole).index;
                    let mut entries = entries_of(&stored.recovered, &stored.disk);
                    entries.retain(|entry| entry.index() > last);
                    (stored.recovered.hard_state, entries)
                };
                let stands_in = snapshot_of(&found).index < snapshot_of(&whole).index;
                let reaches = found.recovered.last().index;
                assert!(
                    after(&found) == after(&whole) && (!stands_in || reaches >= snapshot_of(&whole).index),
                    "P7: {flip}, and the disk was opened all the same, with another state"
                );
                Verdict::Same(stands_in)
            }
        }
    }

    fn draw_flip(&mut self, disk: &SimDisk) -> Option<Flip> {
        let durable = disk.fork().restart(Loss::Everything);
        durable.set_capacity(None);
        let mark = load(&durable, self.ids, self.options).ok()?.recovered.synced_mark;
        let newest = disk.names().into_iter().filter(|name| name.ends_with(".snapshot")).max();
        let sealed = disk.names().into_iter().filter_map(|name| {
            let sequence = u64::from_str_radix(name.strip_suffix(".wal")?.split_once('-')?.0, 16).ok()?;
            let bytes = match sequence.cmp(&mark.sequence) {
                std::cmp::Ordering::Less => disk.contents(&name)?.len() as u64,
                std::cmp::Ordering::Equal => mark.block * BLOCK_BYTES,
                std::cmp::Ordering::Greater => 0,
            };
            (bytes > 0).then_some((name, bytes))
        });
        let snapshot = newest.and_then(|name| {
            let bytes = durable.contents(&name)?.len() as u64;
            Some((name, bytes))
        });
        let places: Vec<(String, u64)> = sealed.chain(snapshot).collect();
        let (file, bytes) = places.get(self.rng.usize(0..places.len().max(1)))?.clone();
        Some(Flip { file, offset: self.rng.u64(0..bytes), bit: self.rng.u8(0..8) })
    }
}

/// What became of a disk with a flipped bit.
enum Verdict {
    Refused,
    /// Opened, with the state as it was; whether an older snapshot stood in.
    Same(bool),
}

/// A bit to be flipped.
struct Flip {
    file: String,
    offset: u64,
    bit: u8,
}

impl Flip {
    fn is_snapshot(&self) -> bool {
        self.file.ends_with(".snapshot")
    }

    fn strike(&self, disk: &SimDisk) {
        disk.flip(&self.file, self.offset, 1 << self.bit);
    }
}

impl fmt::Display for Flip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bit {} of byte {} of {} flipped", self.bit, self.offset, self.file)
    }
}

fn load(disk: &SimDisk, ids: WalIds, options: WalOptions) -> Result<Stored, DataDirError> {
    Stored::load(Arc::new(disk.clone()), ids, options).map(|(stored, _)| stored)
}
