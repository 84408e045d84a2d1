//! What runs before a node does, or instead of it: opening its data directory, founding or joining a cluster, a backup to
//! begin with, and what the program does with a directory that no node uses.

pub(super) mod birth;
pub(super) mod birth_record;
pub(super) mod error;
pub mod founding;
pub(super) mod open;
pub mod recover;
pub mod restore;
pub mod verify;
