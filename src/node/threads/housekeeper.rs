//! The housekeeper: keeps a zeroed spare segment ready, away from the path of a write.

use crossbeam_channel::Receiver;

use super::guard::fail;
use crate::store::wal::SparePreparer;

/// The thread. Works when the log writer has woken it, and ends when the log writer has: one wakeup in the channel is
/// enough, since every call looks at how much of the segment is used by now.
pub(in crate::node) fn run(wakeups: &Receiver<()>, mut preparer: SparePreparer) {
    while wakeups.recv().is_ok() {
        loop {
            match preparer.step() {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => fail(&format!(
                    "the next segment of the log could not be prepared: {e}. Check the disk, then start the node again"
                )),
            }
        }
    }
}
