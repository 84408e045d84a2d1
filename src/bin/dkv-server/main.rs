//! The server's command line.

#![forbid(unsafe_code)]

mod cli;
mod cluster;
mod join;
mod recover;
mod run;
mod signals;
mod terminal;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use dkv::config::{Config, Joiner};
use join::Join;
use run::End;
use signals::Caught;

use cli::{Cli, Command, JoinArgs};

/// Exit code of a refused configuration.
pub const CONFIG_ERROR: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match &cli.command {
        Some(Command::Cluster { files, program }) => return cluster::run(program.as_deref(), files),
        Some(Command::Recover { config, force_new_cluster, yes }) => {
            return run_to_end(|| recover::run(config, *force_new_cluster, *yes));
        }
        Some(Command::Verify { data_dir }) => return run_to_end(|| verify(data_dir)),
        None => {}
    }
    let caught = match Caught::for_node() {
        Ok(caught) => caught,
        Err(error) => return fail(&format_args!("cannot take signals: {error}")),
    };
    let config = match (&cli.join.join, &cli.config) {
        (Some(_), file) => Config::load_to_join(file.as_deref(), &joiner(&cli.join)),
        (None, Some(file)) => Config::load(file),
        (None, None) => Ok(Config::default()),
    };
    let join = cli.join.join.as_ref().map(|through| Join::new(through, !cli.join.learner)).transpose();
    let (config, join) = match (config, join) {
        (Err(error), _) => return refuse(&error),
        (_, Err(error)) => return refuse(&format_args!("--join: {error}")),
        (Ok(_), Ok(_)) if cli.check_config => return ExitCode::SUCCESS,
        (Ok(config), Ok(join)) => (config, join),
    };
    // What is found to be wrong only now is said like what the file itself shows to be wrong.
    let source = if cli.join.join.is_some() { "the command line" } else { "the defaults" };
    let file = cli.config.as_ref().map_or_else(|| source.to_owned(), |file| file.display().to_string());
    if let Err(error) = dkv::logging::start(&config.log) {
        return refuse(&format_args!("{file}: {error}"));
    }
    let code = match run::run(caught, config, join, cli.restore.as_deref(), cli.exit_with_stdin) {
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

/// What the command line says in the place of the file; everything else is the file's, or the default.
fn joiner(join: &JoinArgs) -> Joiner {
    Joiner {
        node_id: join.node_id.clone(),
        raft_addr: join.raft_addr.clone(),
        http_addr: join.http_addr.clone(),
        data_dir: join.data_dir.clone(),
    }
}

/// A command that ends by itself.
fn run_to_end(command: impl FnOnce() -> ExitCode) -> ExitCode {
    match signals::watch_command() {
        Ok(()) => command(),
        Err(error) => fail(&format_args!("cannot take signals: {error}")),
    }
}

fn verify(data_dir: &Path) -> ExitCode {
    match dkv::node::verify::verify(data_dir) {
        Ok(report) => {
            // The exit code says it too: a closed pipe changes nothing.
            let _ = write!(std::io::stdout().lock(), "{report}");
            ExitCode::from(report.exit_code())
        }
        Err(error) => refuse(&error),
    }
}

/// Before there is a log.
fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("dkv-server: {error}");
    ExitCode::FAILURE
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
