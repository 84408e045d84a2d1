//! The server's command line.

#![forbid(unsafe_code)]

mod cluster;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dkv::config::Config;

/// Exit code of a refused configuration.
pub const CONFIG_ERROR: u8 = 2;

/// A replicated key-value store.
#[derive(Parser)]
#[command(
    name = "dkv-server",
    version,
    subcommand_negates_reqs = true,
    after_help = "\
Exit codes: 0 stopped; 1 run-time failure; 2 configuration; 3 data corrupt; 4 identity refused or removed."
)]
struct Cli {
    /// The node's configuration; configs/sample.yaml shows every key.
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,

    /// Check the configuration, say what is wrong, and end: nothing is touched.
    #[arg(long, required = true)]
    check_config: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Start one node per file on this machine, in the foreground; Ctrl-C stops them all.
    Cluster {
        /// The nodes' configurations, configs/node*.yaml for instance.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The program to start for each node, as PROGRAM --config FILE --exit-with-stdin; by default this one.
        #[arg(long)]
        program: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Command::Cluster { files, program }) = &cli.command {
        return cluster::run(program.as_deref(), files);
    }
    let config = match &cli.config {
        Some(file) => Config::load(file),
        None => Ok(Config::default()),
    };
    match config {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dkv-server: {error}");
            ExitCode::from(CONFIG_ERROR)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
