//! The client port: what its requests ask, and what they are answered. [`table`] lists every operation; [`dispatch`] finds the
//! one of a request, [`api`] carries it out or leaves it to one of the pools of threads ([`jobs`]).

mod accept;
mod api;
mod calls;
mod classic_text;
mod compact;
mod cursor;
mod dispatch;
mod errors;
mod flat;
mod history;
mod jobs;
mod lease_names;
mod leases;
mod lists;
mod log_level;
mod members;
mod metrics;
mod operator;
mod params;
mod prev;
mod process;
mod reads;
mod scans;
mod shape;
mod snapshots;
mod states;
mod table;
#[cfg(test)]
mod tests;
mod txn;
mod txn_answer;
mod watch;
mod writes;

pub(super) use dispatch::start;
pub(super) use table::{headers, takes_over};
