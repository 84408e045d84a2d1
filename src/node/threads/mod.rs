//! The threads that drive the core: each thread waits for its wakeup, takes one step, and does the resulting work
//! outside of the lock. [`guard`] starts them; a panic in one of them ends the process.

pub(super) mod applier;
pub(super) mod forwarder;
pub(super) mod guard;
pub(super) mod housekeeper;
pub(super) mod log_writer;
mod peers;
pub(super) mod receiver;
mod replicator;
mod sender;
pub(super) mod snapshotter;
pub(super) mod timer;

pub use applier::Applier;
pub use log_writer::LogWriter;
pub use receiver::Taken;
pub use sender::Transfer;
