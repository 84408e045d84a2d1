//! A data directory on a tmpfs of its own, which can be made full and empty again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Of the tmpfs.
const SIZE_BYTES: u64 = 192 << 20;

const BALLAST: &str = "ballast";

/// A mounted tmpfs; unmounted when it is dropped.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one on `path`.
    pub fn mount(path: &Path) -> io::Result<SmallDisk> {
        fs::create_dir_all(path)?;
        let mut mount = Command::new("mount");
        let status =
            mount.args(["-t", "tmpfs", "-o", &format!("size={SIZE_BYTES}"), "tmpfs"]).arg(path).status()?;
        if !status.success() {
            return Err(io::Error::other(format!("mount: {status}")));
        }
        Ok(SmallDisk { path: path.to_owned() })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = statvfs(&self.path)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Leaves no block free.
    pub fn fill(&self) -> io::Result<()> {
        let ballast = File::create(self.path.join(BALLAST))?;
        let mut size = 0;
        // The node takes some at the same time: until nothing is left.
        loop {
            let free = self.free_bytes()?;
            if free == 0 {
                return Ok(());
            }
            match fallocate(&ballast, FallocateFlags::empty(), size, free) {
                Ok(()) => size += free,
                Err(rustix::io::Errno::NOSPC | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives the blocks back.
    pub fn empty(&self) -> io::Result<()> {
        match fs::remove_file(self.path.join(BALLAST)) {
            // The whole directory was emptied meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
