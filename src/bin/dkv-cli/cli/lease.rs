//! `dkv-cli lease`: keys that go by themselves.

use clap::Subcommand;
use dkv::vocabulary::{LeaseId, MAX_TTL_S};

/// What can be done with leases.
#[derive(Subcommand)]
pub enum Lease {
    /// Begin a lease; prints its id. Keys that are attached to it go when its time is over.
    Grant {
        /// Its time to live in seconds, counted from its last renewal.
        #[arg(value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=MAX_TTL_S))]
        ttl: u64,
        /// How it is to be called, 1 to 16 hexadecimal digits; otherwise a name is chosen.
        #[arg(long, value_name = "ID")]
        id: Option<LeaseId>,
    },
    /// Let a lease live for its whole time to live again.
    Renew {
        /// The lease.
        id: LeaseId,
    },
    /// Renew a lease until it is lost, or this command is interrupted.
    Keep {
        /// The lease.
        id: LeaseId,
    },
    /// End a lease, and remove its keys.
    Revoke {
        /// The lease.
        id: LeaseId,
    },
    /// Show a lease and its keys.
    Show {
        /// The lease.
        id: LeaseId,
    },
    /// List the leases: id, time to live, what is left of it, number of keys.
    List,
}
