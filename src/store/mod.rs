//! Everything durable, and the state machine: the log on disk, snapshot files, the revisioned map and the idempotency
//! table.

pub mod disk;
pub mod identity;
pub mod simdisk;
pub mod snapshot;
pub mod wal;

mod change;
mod command;
mod dedup;
mod kv;
mod private;
mod record;

#[cfg(test)]
#[allow(unreachable_pub)] // The tests beside the library include it, too.
#[path = "../../tests/support/operations.rs"]
mod operations;

pub use crate::vocabulary::{Condition, KeyRange, Op, Outcome};
pub use command::{Applied, Command, CommandError, Idempotency, kind_of, needed_protocol, request_hash};
pub use kv::{
    FIRST_REVISION, Kept, KeyChange, Kv, LeaseState, MAX_REMOVED, Order, PAGE_BYTES, PastVersion, Rebase,
    SCAN_KEYS, Size, Unreadable, View,
};
pub use record::{ReadError, Record, VERSION_OVERHEAD_BYTES};
