//! The private directory of the Unix sockets between an edge and its tiny_http servers.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A Unix socket's path holds 108 bytes with its final zero.
const MAX_SOCKET_PATH_BYTES: usize = 100;

/// The private directory of the Unix sockets.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    temporary: bool,
}

impl RunDir {
    /// Makes `wanted` a directory of mode 0700 without files. When a socket's path in it would be longer than 100
    /// bytes, a fresh private directory under the temporary one is made instead; it is removed on drop.
    ///
    /// # Errors
    /// It cannot be made; or `wanted` is a link, or holds something that is no socket: then it is somebody else's, as
    /// `run` in `/` and in `/var` is, and nothing in it is touched.
    pub fn prepare(wanted: &Path) -> io::Result<RunDir> {
        let absolute = std::path::absolute(wanted)?;
        // Room for the longest socket name.
        if absolute.as_os_str().len() + "/peer-core.sock".len() <= MAX_SOCKET_PATH_BYTES {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&absolute)?;
            let old = sockets_in(&absolute)?;
            fs::set_permissions(&absolute, fs::Permissions::from_mode(0o700))?;
            old.iter().try_for_each(fs::remove_file)?;
            return Ok(RunDir { path: absolute, temporary: false });
        }
        loop {
            let path = std::env::temp_dir().join(format!("dkv-run-{:016x}", fastrand::u64(..)));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(RunDir { path, temporary: true }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The sockets of an earlier run, all that may be there.
fn sockets_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let refused = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    let shown = dir.display();
    if !fs::symlink_metadata(dir)?.is_dir() {
        return refused(format!(
            "{shown} is a link to another directory; give the node a data_dir of its own"
        ));
    }
    let mut sockets = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_socket() {
            let name = entry.file_name();
            return refused(format!(
                "{shown} holds {}, which is not dkv's; give the node a data_dir of its own",
                name.display()
            ));
        }
        sockets.push(entry.path());
    }
    Ok(sockets)
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.temporary {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
