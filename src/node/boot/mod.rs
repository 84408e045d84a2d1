//! What runs before a node does, or instead of it: opening its data directory, bootstrap or joining a cluster, a backup
//! to begin with, and what the program does with a directory that no node uses.

pub mod bootstrap;
pub(super) mod bootstrap_rpc;
pub(super) mod data_dir;
pub(super) mod error;
pub mod fsck;
pub(super) mod open;
pub mod recover;
pub mod restore;
