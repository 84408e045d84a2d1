//! `dkv-cli member`: who belongs to the cluster.

use clap::Subcommand;

use super::help::{MEMBER_ADD_HELP, MEMBER_ADD_USAGE, MEMBER_REPLACE_HELP};

/// What can be done with members.
#[derive(Subcommand)]
pub enum Member {
    /// Show each member: its name, whether it votes, its identity and addresses.
    List,
    /// Add a node that was started to join; waits until it is there.
    ///
    /// It is a learner at first: the leader brings it up to date, and it becomes a voter by itself once it has caught up.
    #[command(after_long_help = MEMBER_ADD_HELP, override_usage = MEMBER_ADD_USAGE)]
    Add {
        /// Its name.
        #[arg(value_name = "NAME")]
        node_id: String,
        /// Where the members reach it.
        #[arg(long, value_name = "HOST:PORT")]
        raft_addr: String,
        /// Where clients reach it.
        #[arg(long, value_name = "HOST:PORT")]
        http_addr: String,
        /// Let it stay a learner: a read replica that counts for no majority.
        #[arg(long)]
        learner: bool,
    },
    /// Remove a member; its process ends by itself, and its data is of no more use.
    Remove {
        /// Its name.
        #[arg(value_name = "NAME")]
        node_id: String,
    },
    /// Make a learner a voter.
    Promote {
        /// Its name.
        #[arg(value_name = "NAME")]
        node_id: String,
    },
    /// Put a new node in the place of one that is lost.
    ///
    /// With two names NEW is added, and OLD removed once NEW votes. With one and the same name, for a node that has lost
    /// its data, it is removed first, and added again with the identity that it has then.
    #[command(after_long_help = MEMBER_REPLACE_HELP)]
    Replace {
        /// The member that is lost.
        old: String,
        /// The node in its place; the same name for a node with an empty data_dir.
        new: String,
        /// Where the members reach NEW; where they reached OLD, if the names are the same.
        #[arg(long, value_name = "HOST:PORT")]
        raft_addr: Option<String>,
        /// Where clients reach NEW.
        #[arg(long, value_name = "HOST:PORT")]
        http_addr: Option<String>,
    },
}
