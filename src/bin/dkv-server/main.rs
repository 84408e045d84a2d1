//! The server's command line.

#![forbid(unsafe_code)]

mod cluster;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use dkv::config::Config;
use run::End;

/// Exit code of a refused configuration.
pub const CONFIG_ERROR: u8 = 2;

/// A replicated key-value store. Without arguments: a store of one node, node1 on 127.0.0.1:8081, with its data in
/// ./data/single.
#[derive(Parser)]
#[command(
    name = "dkv-server",
    version,
    after_help = "\
Exit codes: 0 stopped; 1 run-time failure; 2 configuration; 3 data corrupt; 4 identity refused or removed."
)]
struct Cli {
    /// The node's configuration; configs/sample.yaml shows every key.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Check the configuration, say what is wrong, and end: nothing is touched.
    #[arg(long)]
    check_config: bool,

    /// Stop when standard input ends: whoever holds its other end may die in any way.
    #[arg(long)]
    exit_with_stdin: bool,

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
    let config = match config {
        Ok(_) if cli.check_config => return ExitCode::SUCCESS,
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    // What is found to be wrong only now is said like what the file itself shows to be wrong.
    let file =
        cli.config.as_ref().map_or_else(|| "the defaults".to_owned(), |file| file.display().to_string());
    if let Err(error) = dkv::logging::start(&config.log) {
        return refuse(&format_args!("{file}: {error}"));
    }
    let code = match run::run(config, cli.exit_with_stdin) {
        Ok(End::Stopped(code)) => code,
        Ok(End::Refused(text)) => refuse(&format_args!("{file}: {text}")),
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::FAILURE
        }
    };
    dkv::logging::flush(Duration::from_secs(1));
    code
}

fn refuse(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("dkv-server: {error}");
    ExitCode::from(CONFIG_ERROR)
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
