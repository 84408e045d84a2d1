//! The node's threads: named; a panic in one of them aborts the process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};
use std::{io, process};

use crossbeam_channel::Sender;

/// Starts a thread of the node. When it panics the process ends: a member without its timer, log writer, replicator,
/// applier or housekeeper promises what nobody keeps, and one without its forwarder or read-asker leaves requests
/// waiting for nothing. `ended` is dropped when the thread ends.
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

/// Ends the process at once because of a defect, saying which: no destructor runs and no file is touched any more.
pub(in crate::node) fn die(why: &str) -> ! {
    say_last(why);
    process::abort();
}

/// Ends the process at once because of the machine under it, its disk for instance: the same, but the operator is told
/// by exit code 1 that the program is as it should be.
pub(in crate::node) fn fail(why: &str) -> ! {
    say_last(why);
    process::exit(1);
}

/// Ends the process at once because another program is needed to go on: exit code 5. The text says which one. What is on
/// the disk is whole, and that program goes on from it.
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

/// Stands beside a lock guard: ends the process when the thread that holds the lock panics. The state behind it is half
/// changed then, and nobody may go on with it.
pub(in crate::node) struct AbortOnPanic {
    what: &'static str,
    /// A thread that unwinds already may still lock, in a destructor: only a panic under this guard counts.
    was_panicking: bool,
}

impl AbortOnPanic {
    /// For the lock named `what`, just taken.
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
