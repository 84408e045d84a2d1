//! `dkv-cli snapshot`: backups.

use std::path::PathBuf;

use clap::{Subcommand, ValueHint};

use super::help::{SAVE_HELP, SNAPSHOT_STATUS_HELP};

/// What can be done with backups.
#[derive(Subcommand)]
pub enum Snapshot {
    /// Save a backup of the whole store, while it is used.
    #[command(after_long_help = SAVE_HELP)]
    Save {
        /// The file to write; `-` is standard output.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Replace it if it is a file that exists.
        #[arg(long)]
        force: bool,
    },
    /// Verify a backup and say what is in it. Needs no cluster.
    #[command(after_long_help = SNAPSHOT_STATUS_HELP)]
    Status {
        /// The backup; `-` is standard input.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
}
