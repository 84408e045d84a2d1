//! The node's threads: named; a panic in one of them aborts the process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};
use std::{io, process};

use crossbeam_channel::Sender;

/// Starts a thread of the node. When it panics the process ends: a member without its timer, log writer, replicator,
/// applier or housekeeper could not keep its promises, and without its forwarder or read-asker its requests would
/// wait without effect. `ended` is dropped when the thread ends.
pub(in crate::node) fn spawn(
    name: String,
    ended: Sender<()>,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.clone()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            die(&format!("thread {name} panicked: this is a defect; the text above says where"));
        }
        drop(ended);
    })
}

/// Ends the process immediately because of a defect, which it logs: no destructor runs and no more files are touched.
pub(in crate::node) fn die(why: &str) -> ! {
    say_last(why);
    process::abort();
}

/// Ends the process immediately because of the machine, for instance its disk: the same, but exit code 1 tells the
/// operator that the program itself is correct.
pub(in crate::node) fn fail(why: &str) -> ! {
    say_last(why);
    process::exit(1);
}

/// Ends the process immediately because another program version is needed to continue: exit code 5. The text says
/// which version. The data on the disk is complete, and that program continues from it.
pub(in crate::node) fn end_for_another_program(why: &str) -> ! {
    say_last(why);
    process::exit(5);
}

fn say_last(why: &str) {
    log::error!("{why}");
    log::logger().flush();
    if log::max_level() == log::LevelFilter::Off {
        eprintln!("dkv-server: {why}");
    }
}

/// Kept next to a lock guard: ends the process when the thread that holds the lock panics. The state under the lock
/// is then half changed, and no thread may continue with it.
pub(in crate::node) struct AbortOnPanic {
    what: &'static str,
    /// A thread that is already unwinding may still lock, in a destructor: only a panic under this guard counts.
    was_panicking: bool,
}

impl AbortOnPanic {
    /// A guard for the lock named `what`, which was just taken.
    pub(in crate::node) fn holding(what: &'static str) -> AbortOnPanic {
        AbortOnPanic { what, was_panicking: thread::panicking() }
    }
}

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() && !self.was_panicking {
            die(&format!("a thread panicked while it held the {}: this is a defect", self.what));
        }
    }
}
