//! What runs before a node, or instead of it: opening the data directory, bootstrapping or joining a cluster,
//! beginning with a backup, and work on a directory that no node uses.

pub mod bootstrap;
pub(super) mod bootstrap_rpc;
pub(super) mod data_dir;
pub(super) mod error;
pub mod fsck;
pub(super) mod open;
pub mod recover;
pub mod restore;
