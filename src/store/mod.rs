//! Everything durable, and the state machine: the log on disk, the revisioned map and the idempotency table.

pub mod identity;
