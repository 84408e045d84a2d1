//! The client port: what its requests ask, and what they are answered.

mod api;
mod cursor;
mod errors;
mod legacy;
mod lists;
mod log_level;
mod members;
mod metrics;
pub(super) mod operator;
mod params;
mod process;
mod reads;
pub(super) mod snapshots;

pub(super) use api::ClientApi;
